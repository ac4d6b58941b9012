//! The configuration file: TOML, of which every value has its line.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::SETTINGS;
use super::other_programs::setting_called;
use super::table::Setting;
use super::value::{Form, Raw};
use super::{Config, ConfigBuilder, ConfigError, Origin, read_text};

impl Config {
    /// The configuration that a text in TOML describes; `docs/settings.md` has the keys, and
    /// `packaging/ipcluster.toml` is an example.
    ///
    /// # Errors
    /// Those of [`ConfigBuilder::from_toml`] and [`ConfigBuilder::build`].
    ///
    /// ```
    /// use ipcluster::config::Config;
    ///
    /// let config = Config::from_toml(r#"
    ///     listen = ["0.0.0.0:80"]
    ///     command = ["node", "server.js"]
    ///     [timeouts]
    ///     drain = "10min"
    /// "#)?;
    /// assert_eq!(config.drain_timeout(), Some(std::time::Duration::from_secs(600)));
    ///
    /// let error = Config::from_toml("wrokers = 4").unwrap_err();
    /// assert!(error.to_string().starts_with("line 1: unknown key `wrokers`: expected one of"));
    /// assert_eq!(error.hint().as_deref(), Some("did you mean `workers`?"));
    /// # Ok::<_, ipcluster::config::ConfigError>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        ConfigBuilder::from_toml(text)?.build()
    }

    /// The configuration that a file in TOML describes.
    ///
    /// # Errors
    /// Those of [`ConfigBuilder::from_file`] and [`ConfigBuilder::build`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        ConfigBuilder::from_file(path)?.build()
    }
}

impl ConfigBuilder {
    /// Takes the settings of a text in TOML.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`], [`ConfigError::WrongType`], each with the
    /// line. Whether the values make sense is found out by [`Self::build`].
    ///
    /// ```
    /// use ipcluster::config::{ConfigBuilder, WorkerCommand};
    ///
    /// let builder = ConfigBuilder::from_toml("listen = ['0.0.0.0:80']\nworkers = 2")?;
    /// let config = builder.command(WorkerCommand::new("server")).workers(8).build()?;
    /// assert_eq!(config.workers(), 8);
    /// # Ok::<_, ipcluster::config::ConfigError>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Document { text, path: None }.read()
    }

    /// Takes the settings of a file in TOML, of at most 1 MiB.
    ///
    /// # Errors
    /// [`ConfigError::Read`]; those of [`Self::from_toml`], with the path.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let name = path.to_string_lossy();
        let text = read_text(path, MOST_MIB).map_err(|error| ConfigError::Read {
            path: name.clone().into_owned(),
            source: Arc::new(error),
        })?;
        Document { text: &text, path: Some(name.into()) }.read()
    }
}

/// The longest configuration, in MiB: far more than any is.
const MOST_MIB: u64 = 1;

struct Document<'a> {
    text: &'a str,
    path: Option<Arc<str>>,
}

type Key<'i> = Spanned<DeString<'i>>;
type Item<'i> = Spanned<DeValue<'i>>;

impl Document<'_> {
    fn read(&self) -> Result<ConfigBuilder, ConfigError> {
        let document = DeTable::parse(self.text).map_err(|error| ConfigError::Syntax {
            origin: self.origin(error.span().unwrap_or_default()),
            reason: error.message().lines().collect::<Vec<_>>().join(", "),
        })?;
        let mut builder = ConfigBuilder::default();
        for (key, item) in document.get_ref() {
            match tables().find(|table| *table == key.get_ref().as_ref()) {
                Some(table) => {
                    for (key, item) in self.table(table, item)? {
                        self.read_setting(&mut builder, Some(table), key, item)?;
                    }
                }
                None => self.read_setting(&mut builder, None, key, item)?,
            }
        }
        Ok(builder)
    }

    fn read_setting(
        &self,
        builder: &mut ConfigBuilder,
        table: Option<&'static str>,
        key: &Key<'_>,
        item: &Item<'_>,
    ) -> Result<(), ConfigError> {
        let name = key.get_ref().as_ref();
        let setting = in_table(table).find(|setting| setting.name() == name);
        let setting = setting.ok_or_else(|| self.unknown(table, key))?;
        let raw = raw(setting.form, item.get_ref());
        let raw = raw.map_err(|at_fault| {
            self.wrong_type(setting.key, setting.expected, at_fault.unwrap_or(item))
        })?;
        let items = match item.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| self.origin(item.span())).collect(),
            _ => Vec::new(),
        };
        builder.read(setting.key, raw, self.origin(item.span()), items);
        Ok(())
    }

    fn table<'v, 'i>(
        &self,
        key: &'static str,
        item: &'v Item<'i>,
    ) -> Result<&'v DeTable<'i>, ConfigError> {
        let table = item.get_ref().as_table();
        table.ok_or_else(|| self.wrong_type(key, "a table", item))
    }

    fn wrong_type(
        &self,
        key: &'static str,
        expected: &'static str,
        item: &Item<'_>,
    ) -> ConfigError {
        let found = match item.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a truth value",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        ConfigError::WrongType { origin: self.origin(item.span()), key, expected, found }
    }

    fn unknown(&self, table: Option<&'static str>, key: &Key<'_>) -> ConfigError {
        let name = escaped(key.get_ref());
        let mut allowed = in_table(table).map(Setting::name).collect::<Vec<_>>().join(", ");
        if table.is_none() {
            let names: Vec<&str> = tables().collect();
            if let [first @ .., last] = names.as_slice() {
                allowed += &format!(", the tables {} and {last}", first.join(", "));
            }
        }
        let key_of = |name: &str| table.map_or(name.to_owned(), |table| format!("{table}.{name}"));
        ConfigError::UnknownKey {
            origin: self.origin(key.span()),
            near: meant(table, &name, &key_of(&name)),
            key: key_of(&name),
            allowed,
        }
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Origin::File { path: self.path.clone(), line }
    }
}

/// The settings that may stand in a table of the file, or outside of all.
fn in_table(table: Option<&'static str>) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |it| !it.flag_only && it.table() == table)
}

/// The tables of the file, in order.
fn tables() -> impl Iterator<Item = &'static str> {
    let mut last = None;
    SETTINGS.iter().filter_map(Setting::table).filter(move |table| {
        let is_new = last != Some(*table);
        last = Some(*table);
        is_new
    })
}

/// The value in the form that the setting wants; else the item of a list that has another form, or
/// `None` for the value itself.
fn raw<'v, 'i>(form: Form, value: &'v DeValue<'i>) -> Result<Raw, Option<&'v Item<'i>>> {
    match form {
        Form::Text => text(value).map(Raw::Text).ok_or(None),
        Form::Integer => integer(value).map(Raw::Integer).ok_or(None),
        Form::Number => number(value).map(Raw::Number).ok_or(None),
        Form::Truth => value.as_bool().map(Raw::Truth).ok_or(None),
        Form::Texts => list(value, text).map(Raw::Texts),
        Form::Numbers => list(value, number).map(Raw::Numbers),
    }
}

fn list<'v, 'i, T>(
    value: &'v DeValue<'i>,
    one: fn(&DeValue<'_>) -> Option<T>,
) -> Result<Vec<T>, Option<&'v Item<'i>>> {
    let items = value.as_array().ok_or(None)?;
    items.iter().map(|item| one(item.get_ref()).ok_or(Some(item))).collect()
}

fn text(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    // One that does not fit is out of range for every key.
    let too_large = if number.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
    Some(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(too_large))
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => None,
    }
}

/// A key of the user's, escaped and cut to what a message can show.
fn escaped(key: &str) -> String {
    key.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The key that was most likely meant by this one: of no table, as other programs call it, or spelled alike. What is
/// spelled alike in the same table comes before what others call so in none.
fn meant(table: Option<&'static str>, name: &str, key: &str) -> Option<&'static str> {
    let called = |key: &str| setting_called(key).map(|setting| setting.key);
    let is_beside = |near: &&str| table.is_some_and(|table| near.starts_with(&format!("{table}.")));
    near_of(table, name)
        .or_else(|| called(key))
        .or_else(|| nearest(key).filter(is_beside))
        .or_else(|| called(name))
        .or_else(|| nearest(key))
}

/// The key of no table that stands below the name of one, as all keys at the end of a file do.
fn near_of(table: Option<&'static str>, name: &str) -> Option<&'static str> {
    let is_it = |it: &&Setting| table.is_some() && it.name() == name;
    in_table(None).find(is_it).map(|it| it.key)
}

/// The key that was probably meant by this one: the nearest of all that are near enough, also one of
/// another table (`retire.max_age` by `max_age`).
fn nearest(key: &str) -> Option<&'static str> {
    let near = |known: &'static str| {
        let name = known.rsplit('.').next().unwrap_or(known);
        let distance = if name == key { 1 } else { distance(key, known) };
        (distance <= 1 + known.len() / 5).then_some((distance, known))
    };
    let keys = SETTINGS.iter().filter(|it| !it.flag_only).map(|it| it.key);
    keys.chain(tables()).filter_map(near).min().map(|(_, known)| known)
}

/// How many letters have to be added, removed, replaced or swapped with the next one to make one word
/// of the other (the restricted Damerau-Levenshtein distance).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (i, letter) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, wanted) in other.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(letter != wanted);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            let is_swap = i > 0 && j > 0 && *letter == other[j - 1] && one[i - 1] == *wanted;
            if is_swap {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(text: &str) -> String {
        let builder = Document { text, path: Some("web.toml".into()) }.read();
        builder.and_then(|builder| builder.build_for(4)).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            name = "web"
            listen = ["0.0.0.0:80", "[::]:443/tcp"]
            workers = 0x2
            command = ["node", "server.js"]
            partition = "hash"
            slots = 2_048
            weights = [1, 2.5]
            worker_ports = "30000-30999"
            socket_activation = true
            backlog = 1024
            engine = "tproxy"
            local_clients = true
            ready = "tcp"
            ownership = "shared"
            user = "www-data"
            group = "33"
            stop_signal = "SIGQUIT"
            retire_signal = "RTMIN+3"
            kill_mode = "mixed"
            on_exit = "drain"
            env = ["NODE_*", "A=b"]
            socket = "/tmp/host.zsocket"
            [timeouts]
            ready = "10s"
            drain = "1h"
            rollback = "10min"
            die = "0"
            ping = "2s"
            watchdog = "500ms"
            [spawn]
            stagger = "0"
            backoff = "10ms..2min"
            give_up = "3 in 1min"
            [retire]
            rss = "448MiB"
            rate = 5
            window = "1min"
            renice = 19
            idle = "5s"
            max_age = "24h"
            connections = 100000
            jitter = 25
            lag = "0"
            [memory]
            total = "512MiB"
            low = 0.5
            high = 1
            order = "memory"
            [output]
            to = "file:/var/log/web"
            [http]
            listen = "127.0.0.1:9180"
        "#;
        let config = ConfigBuilder::from_toml(text).unwrap().build_for(9).unwrap();
        let flags = Config::builder().flags(&[
            ("name", "web"),
            ("listen", "0.0.0.0:80 [::]:443"),
            ("workers", "2"),
            ("command", "node server.js"),
            ("partition", "hash"),
            ("slots", "2048"),
            ("weights", "1 2.5"),
            ("worker_ports", "30000-30999"),
            ("socket_activation", "true"),
            ("backlog", "1024"),
            ("engine", "tproxy"),
            ("local_clients", "true"),
            ("ready", "tcp"),
            ("ownership", "shared"),
            ("user", "www-data"),
            ("group", "33"),
            ("stop_signal", "QUIT"),
            ("retire_signal", "SIGRTMIN+3"),
            ("kill_mode", "mixed"),
            ("on_exit", "drain"),
            ("env", "NODE_* A=b"),
            ("timeouts.ready", "10s"),
            ("timeouts.drain", "1h"),
            ("timeouts.rollback", "10min"),
            ("timeouts.die", "0"),
            ("timeouts.ping", "2s"),
            ("timeouts.watchdog", "500ms"),
            ("socket", "/tmp/host.zsocket"),
            ("spawn.stagger", "0"),
            ("spawn.backoff", "10ms..2min"),
            ("spawn.give_up", "3 in 1min"),
            ("retire.rss", "448MiB"),
            ("retire.rate", "5"),
            ("retire.window", "1min"),
            ("retire.renice", "19"),
            ("retire.idle", "5s"),
            ("retire.max_age", "24h"),
            ("retire.connections", "100000"),
            ("retire.jitter", "25"),
            ("retire.lag", "0"),
            ("memory.total", "512MiB"),
            ("memory.low", "0.5"),
            ("memory.high", "1.0"),
            ("memory.order", "memory"),
            ("output.to", "file:/var/log/web"),
            ("http.listen", "127.0.0.1:9180"),
        ]);
        assert_eq!(config, flags.build_for(9).unwrap());
    }

    #[test]
    fn errors_name_the_key_the_line_and_what_is_allowed() {
        let cases = [
            (
                "\nwrokers = 4",
                "web.toml, line 2: unknown key `wrokers`: expected one of {}, the tables rollout, timeouts, spawn, retire, memory, limits, hooks, output, log, http and fleet",
            ),
            (
                "[timeouts]\n\"a\\nb\" = 1",
                "web.toml, line 2: unknown key `timeouts.a\\nb`: expected one of {timeouts}",
            ),
            (
                "spawn.pause = 1",
                "web.toml, line 1: unknown key `spawn.pause`: expected one of {spawn}",
            ),
            (
                "output.file = 1",
                "web.toml, line 1: unknown key `output.file`: expected one of {output}",
            ),
            ("http.port = 1", "web.toml, line 1: unknown key `http.port`: expected one of {http}"),
            (
                "http = { listen = 9180 }",
                "web.toml, line 1: `http.listen`: expected a text in quotes, found a whole number",
            ),
            (
                "workers = \"4\"",
                "web.toml, line 1: `workers`: expected a whole number, found a text",
            ),
            (
                "workers = 1.0",
                "web.toml, line 1: `workers`: expected a whole number, found a number with a fraction",
            ),
            (
                "listen = \"0.0.0.0:80\"",
                "web.toml, line 1: `listen`: expected a list of texts in quotes, found a text",
            ),
            (
                "listen = [\n\"0.0.0.0:80\",\n80]",
                "web.toml, line 3: `listen`: expected a list of texts in quotes, found a whole number",
            ),
            (
                "weights = [1,\n true]",
                "web.toml, line 2: `weights`: expected a list of numbers, found a truth value",
            ),
            (
                "local_clients = 1",
                "web.toml, line 1: `local_clients`: expected true or false, found a whole number",
            ),
            (
                "timeouts = 4",
                "web.toml, line 1: `timeouts`: expected a table, found a whole number",
            ),
            (
                "timeouts.drain = 0",
                "web.toml, line 1: `timeouts.drain`: expected a time in quotes, such as \"30s\" or \"0\", found a whole number",
            ),
            (
                "# x\nengine = true",
                "web.toml, line 2: `engine`: expected a text in quotes, found a truth value",
            ),
            (
                "[retire]\nrss = 448",
                "web.toml, line 2: `retire.rss`: expected an amount of memory in quotes, such as \"448MiB\" or \"0\", found a whole number",
            ),
            (
                "[retire]\nrsss = \"0\"",
                "web.toml, line 2: unknown key `retire.rsss`: expected one of {retire}",
            ),
            (
                "[memory]\nlow = \"0.8\"",
                "web.toml, line 2: `memory.low`: expected a number, found a text",
            ),
            (
                "memory.max = 1",
                "web.toml, line 1: unknown key `memory.max`: expected one of {memory}",
            ),
            (
                "[spawn]\ngive_up = 5",
                "web.toml, line 2: `spawn.give_up`: expected a text in quotes, found a whole number",
            ),
        ];
        // Where the keys of a table are listed, `{table}` stands for them.
        let names = |table: &str| {
            let keys = SETTINGS.iter().filter(|it| !it.flag_only).map(|it| it.key);
            let name = |key: &'static str| match table {
                "" => Some(key).filter(|key| !key.contains('.')),
                table => key.strip_prefix(table)?.strip_prefix('.'),
            };
            keys.filter_map(name).collect::<Vec<_>>().join(", ")
        };
        for (text, expected) in cases {
            let tables = ["", "timeouts", "spawn", "retire", "memory", "output", "http"];
            let expected = tables.iter().fold(expected.to_owned(), |expected, table| {
                expected.replace(&format!("{{{table}}}"), &names(table))
            });
            assert_eq!(fault(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_toml_has_its_line() {
        // The rest of the line is the parser's.
        for text in ["\nworkers = 1", "\nworkers = ", "\nname = \"x", "\n[spawn", "\n\u{1}"] {
            let text = format!("workers = 2{text}");
            assert!(fault(&text).starts_with("web.toml, line 2: "), "{text}: {}", fault(&text));
            assert!(!fault(&text).contains('\n'));
        }
    }

    #[test]
    fn values_that_are_refused_later_have_their_line_too() {
        let least = "listen = [\"0.0.0.0:80\"]\ncommand = [\"x\"]\n";
        for (line, expected) in [
            ("workers = -1", "web.toml, line 3: `workers`: -1: expected 1 to 1024"),
            (
                "slots = 99999999999999999999",
                "web.toml, line 3: `slots`: 9223372036854775807: expected 1 to 65536",
            ),
            (
                "weights = [1, 1, 1, nan]",
                "web.toml, line 3: `weights`: weight NaN of seat 3: expected a finite number, 0 or more",
            ),
            (
                "weights = [1, 1, 1, 1e999]",
                "web.toml, line 3: `weights`: weight inf of seat 3: expected a finite number, 0 or more",
            ),
            (
                "weights = [1, 1, 1, -1]",
                "web.toml, line 3: `weights`: weight -1 of seat 3: expected a finite number, 0 or more",
            ),
            (
                "[memory]\nlow = 0.9\nhigh = 0.8",
                "web.toml, line 4: `memory.low`: memory.low is 0.9 and memory.high is 0.8: expected memory.low up to memory.high",
            ),
            ("retire.rate = 0", "web.toml, line 3: `retire.rate`: 0: expected 1 to 1024"),
            (
                "user = \"a\\nb\"",
                "web.toml, line 3: `user`: \"a\\nb\": expected the name or number of a user",
            ),
            (
                "group = \"a:b\"",
                "web.toml, line 3: `group`: \"a:b\": expected the name or number of a group",
            ),
            ("env = [\n\"A\",\n\"A=1\"]", "web.toml, line 5: `env`: \"A\" is given twice"),
        ] {
            assert_eq!(fault(&format!("{least}{line}")), expected, "{line}");
        }
        let twice = "listen = [\n\"0.0.0.0:80\",\n\"0.0.0.0:81\",\n\"0.0.0.0:80/tcp\"]\n";
        assert_eq!(
            fault(twice),
            "web.toml, line 4: `listen`: listener 0.0.0.0:80/tcp is given twice"
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_a_configuration_or_an_error(text in "(?s).{0,200}") {
            let _ = ConfigBuilder::from_toml(&text).and_then(|builder| builder.build_for(4));
        }

        #[test]
        fn any_value_of_a_key_gives_a_configuration_or_an_error(
            key in prop::sample::select(SETTINGS.iter().map(|it| it.key).collect::<Vec<_>>()),
            value in r#"(-?[0-9]{1,25}|1e999|-?nan|true|\[\]|\{\}|\[-?[0-9.]{1,5}\]|"[ -!#-\[\]-~]{0,20}"|\["[ -!#-\[\]-~]{0,20}"\])"#,
        ) {
            let text = format!("{key} = {value}");
            let _ = ConfigBuilder::from_toml(&text).and_then(|builder| builder.build_for(4));
        }
    }

    #[test]
    fn the_key_that_was_probably_meant_is_named() {
        for (key, near) in [
            ("wrokers", Some("workers")),
            ("listens", Some("listen")),
            ("timeouts.readdy", Some("timeouts.ready")),
            ("timeout", Some("timeouts")),
            ("max_age", Some("retire.max_age")),
            ("worker_port", Some("worker_ports")),
            ("xyzzy", None),
            ("", None),
        ] {
            assert_eq!(nearest(key), near, "{key}");
        }
    }

    #[test]
    fn a_key_of_no_table_below_one_is_told_where_it_belongs() {
        let hint = |text: &str| Config::from_toml(text).unwrap_err().hint().unwrap();
        let text = "listen = [\"0.0.0.0:80\"]\n[timeouts]\nready = \"9s\"\n";
        assert_eq!(
            hint(&format!("{text}workers = 4")),
            "`workers` belongs to no table: put it above the first table, since all keys below [timeouts] are of \
             that one"
        );
        assert_eq!(hint(&format!("{text}readdy = 4")), "did you mean `timeouts.ready`?");
        assert_eq!(hint("wrokers = 4"), "did you mean `workers`?");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Config::from_file("/nonexistent/web.toml").unwrap_err();
        let expected = "cannot read /nonexistent/web.toml: No such file or directory (os error 2)";
        assert_eq!(error.to_string(), expected);
        let error = Config::from_file("/dev/zero").unwrap_err().to_string();
        assert!(error.contains("longer than 1 MiB"), "{error}");
    }
}
