//! The configuration file: TOML, read by hand so that every error has a key and a line.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Given, Origin, Settings};

impl Settings {
    /// Reads the text of a configuration file; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`],
    /// [`ConfigError::WrongType`], each with the line. Whether the values make sense is found out
    /// by [`Settings::check`].
    pub fn from_toml(text: &str, path: &str) -> Result<Self, ConfigError> {
        let file = File { text, path: path.into() };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            origin: file.origin(error.span().unwrap_or_default()),
            reason: error.message().lines().collect::<Vec<_>>().join(", "),
        })?;
        let mut settings = Self::default();
        for (key, value) in table.get_ref() {
            file.read_key(&mut settings, key, value)?;
        }
        Ok(settings)
    }
}

const KEYS: [&str; 19] = [
    "name",
    "listen",
    "workers",
    "command",
    "partition",
    "slots",
    "weights",
    "worker_ports",
    "socket_activation",
    "backlog",
    "engine",
    "local_clients",
    "ready",
    "ownership",
    "user",
    "group",
    "on_exit",
    "env",
    "socket",
];
const TIMEOUTS: [&str; 6] = ["ready", "drain", "rollback", "die", "ping", "watchdog"];
const SPAWN: [&str; 3] = ["stagger", "backoff", "give_up"];
const RETIRE: [&str; 6] = ["rss", "rate", "window", "renice", "max_age", "lag"];
const MEMORY: [&str; 4] = ["total", "low", "high", "order"];
const OUTPUT: [&str; 1] = ["to"];
const HTTP: [&str; 1] = ["listen"];

struct File<'a> {
    text: &'a str,
    path: Arc<str>,
}

type Key<'i> = Spanned<toml::de::DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

impl File<'_> {
    fn read_key(
        &self,
        settings: &mut Settings,
        key: &Key<'_>,
        value: &Value<'_>,
    ) -> Result<(), ConfigError> {
        match key.get_ref().as_ref() {
            "name" => settings.name = Some(self.text("name", value)?),
            "listen" => settings.listen = Some(self.texts("listen", value)?),
            "workers" => settings.workers = Some(self.integer("workers", value)?),
            "command" => settings.command = Some(self.command(value)?),
            "partition" => settings.partition = Some(self.text("partition", value)?),
            "slots" => settings.slots = Some(self.integer("slots", value)?),
            "weights" => settings.weights = Some(self.weights(value)?),
            "worker_ports" => settings.worker_ports = Some(self.text("worker_ports", value)?),
            "socket_activation" => {
                settings.socket_activation = Some(self.truth("socket_activation", value)?);
            }
            "backlog" => settings.backlog = Some(self.integer("backlog", value)?),
            "engine" => settings.engine = Some(self.text("engine", value)?),
            "local_clients" => settings.local_clients = Some(self.truth("local_clients", value)?),
            "ready" => settings.ready = Some(self.text("ready", value)?),
            "ownership" => settings.ownership = Some(self.text("ownership", value)?),
            "user" => settings.user = Some(self.text("user", value)?),
            "group" => settings.group = Some(self.text("group", value)?),
            "socket" => settings.socket = Some(self.text("socket", value)?),
            "on_exit" => settings.on_exit = Some(self.text("on_exit", value)?),
            "env" => settings.env = Some(self.texts("env", value)?),
            "timeouts" => {
                for (key, value) in self.table("timeouts", value)? {
                    self.read_timeout(settings, key, value)?;
                }
            }
            "spawn" => {
                for (key, value) in self.table("spawn", value)? {
                    self.read_spawn(settings, key, value)?;
                }
            }
            "retire" => {
                for (key, value) in self.table("retire", value)? {
                    self.read_retire(settings, key, value)?;
                }
            }
            "memory" => {
                for (key, value) in self.table("memory", value)? {
                    self.read_memory(settings, key, value)?;
                }
            }
            "output" => {
                for (key, value) in self.table("output", value)? {
                    match key.get_ref().as_ref() {
                        "to" => settings.output_to = Some(self.text("output.to", value)?),
                        _ => return Err(self.unknown("output.", key, &OUTPUT, "")),
                    }
                }
            }
            "http" => {
                for (key, value) in self.table("http", value)? {
                    match key.get_ref().as_ref() {
                        "listen" => settings.http_listen = Some(self.text("http.listen", value)?),
                        _ => return Err(self.unknown("http.", key, &HTTP, "")),
                    }
                }
            }
            _ => {
                let tables = ", the tables timeouts, spawn, retire, memory, output and http";
                return Err(self.unknown("", key, &KEYS, tables));
            }
        }
        Ok(())
    }

    fn read_timeout(
        &self,
        settings: &mut Settings,
        key: &Key<'_>,
        value: &Value<'_>,
    ) -> Result<(), ConfigError> {
        match key.get_ref().as_ref() {
            "ready" => settings.ready_timeout = Some(self.time("timeouts.ready", value)?),
            "drain" => settings.drain_timeout = Some(self.time("timeouts.drain", value)?),
            "rollback" => {
                settings.rollback_timeout = Some(self.time("timeouts.rollback", value)?);
            }
            "die" => settings.die_timeout = Some(self.time("timeouts.die", value)?),
            "ping" => settings.ping_timeout = Some(self.time("timeouts.ping", value)?),
            "watchdog" => settings.watchdog_timeout = Some(self.time("timeouts.watchdog", value)?),
            _ => return Err(self.unknown("timeouts.", key, &TIMEOUTS, "")),
        }
        Ok(())
    }

    fn read_spawn(
        &self,
        settings: &mut Settings,
        key: &Key<'_>,
        value: &Value<'_>,
    ) -> Result<(), ConfigError> {
        match key.get_ref().as_ref() {
            "stagger" => settings.spawn_stagger = Some(self.time("spawn.stagger", value)?),
            "backoff" => {
                let expected = "a range of times in quotes, such as \"1s..30s\"";
                let text = value.get_ref().as_str().map(str::to_owned);
                settings.spawn_backoff =
                    Some(self.given("spawn.backoff", expected, text, value)?);
            }
            "give_up" => settings.spawn_give_up = Some(self.text("spawn.give_up", value)?),
            _ => return Err(self.unknown("spawn.", key, &SPAWN, "")),
        }
        Ok(())
    }

    fn read_retire(
        &self,
        settings: &mut Settings,
        key: &Key<'_>,
        value: &Value<'_>,
    ) -> Result<(), ConfigError> {
        match key.get_ref().as_ref() {
            "rss" => settings.retire_rss = Some(self.size("retire.rss", value)?),
            "rate" => settings.retire_rate = Some(self.integer("retire.rate", value)?),
            "window" => settings.retire_window = Some(self.time("retire.window", value)?),
            "renice" => settings.retire_renice = Some(self.integer("retire.renice", value)?),
            "max_age" => settings.retire_max_age = Some(self.time("retire.max_age", value)?),
            "lag" => settings.retire_lag = Some(self.time("retire.lag", value)?),
            _ => return Err(self.unknown("retire.", key, &RETIRE, "")),
        }
        Ok(())
    }

    fn read_memory(
        &self,
        settings: &mut Settings,
        key: &Key<'_>,
        value: &Value<'_>,
    ) -> Result<(), ConfigError> {
        match key.get_ref().as_ref() {
            "total" => settings.memory_total = Some(self.size("memory.total", value)?),
            "low" => settings.memory_low = Some(self.number("memory.low", value)?),
            "high" => settings.memory_high = Some(self.number("memory.high", value)?),
            "order" => settings.memory_order = Some(self.text("memory.order", value)?),
            _ => return Err(self.unknown("memory.", key, &MEMORY, "")),
        }
        Ok(())
    }

    fn size(&self, key: &'static str, value: &Value<'_>) -> Result<Given<String>, ConfigError> {
        let text = value.get_ref().as_str().map(str::to_owned);
        self.given(key, "an amount of memory in quotes, such as \"448MiB\" or \"0\"", text, value)
    }

    fn number(&self, key: &'static str, value: &Value<'_>) -> Result<Given<f64>, ConfigError> {
        let number = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        self.given(key, "a number", number, value)
    }

    fn text(&self, key: &'static str, value: &Value<'_>) -> Result<Given<String>, ConfigError> {
        self.given(key, "a text in quotes", value.get_ref().as_str().map(str::to_owned), value)
    }

    fn time(&self, key: &'static str, value: &Value<'_>) -> Result<Given<String>, ConfigError> {
        let text = value.get_ref().as_str().map(str::to_owned);
        self.given(key, "a time in quotes, such as \"30s\" or \"0\"", text, value)
    }

    fn integer(&self, key: &'static str, value: &Value<'_>) -> Result<Given<i64>, ConfigError> {
        let number = value.get_ref().as_integer();
        // One that does not fit is out of range for every key.
        let number = number.map(|number| {
            let too_large = if number.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
            i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(too_large)
        });
        self.given(key, "a whole number", number, value)
    }

    fn texts(
        &self,
        key: &'static str,
        value: &Value<'_>,
    ) -> Result<Vec<Given<String>>, ConfigError> {
        const EXPECTED: &str = "a list of texts in quotes";
        let list = value.get_ref().as_array();
        let list = list.ok_or_else(|| self.wrong_type(key, EXPECTED, value))?;
        let text = |item: &Value<'_>| {
            self.given(key, EXPECTED, item.get_ref().as_str().map(str::to_owned), item)
        };
        list.iter().map(text).collect()
    }

    fn command(&self, value: &Value<'_>) -> Result<Given<Vec<String>>, ConfigError> {
        let parts = self.texts("command", value)?;
        let value_origin = self.origin(value.span());
        Ok(Given {
            value: parts.into_iter().map(|part| part.value).collect(),
            origin: value_origin,
        })
    }

    fn truth(&self, key: &'static str, value: &Value<'_>) -> Result<Given<bool>, ConfigError> {
        self.given(key, "true or false", value.get_ref().as_bool(), value)
    }

    fn weights(&self, value: &Value<'_>) -> Result<Given<Vec<f64>>, ConfigError> {
        const EXPECTED: &str = "a list of numbers";
        let list = value.get_ref().as_array();
        let list = list.ok_or_else(|| self.wrong_type("weights", EXPECTED, value))?;
        let weight = |item: &Value<'_>| {
            let number = match item.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
                DeValue::Float(number) => number.as_str().parse().ok(),
                _ => None,
            };
            number.ok_or_else(|| self.wrong_type("weights", EXPECTED, item))
        };
        let weights = list.iter().map(weight).collect::<Result<Vec<f64>, _>>()?;
        Ok(Given { value: weights, origin: self.origin(value.span()) })
    }

    fn table<'v, 'i>(
        &self,
        key: &'static str,
        value: &'v Value<'i>,
    ) -> Result<&'v DeTable<'i>, ConfigError> {
        let table = value.get_ref().as_table();
        table.ok_or_else(|| self.wrong_type(key, "a table", value))
    }

    fn given<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        found: Option<T>,
        value: &Value<'_>,
    ) -> Result<Given<T>, ConfigError> {
        match found {
            Some(found) => Ok(Given { value: found, origin: self.origin(value.span()) }),
            None => Err(self.wrong_type(key, expected, value)),
        }
    }

    fn wrong_type(
        &self,
        key: &'static str,
        expected: &'static str,
        value: &Value<'_>,
    ) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a truth value",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        ConfigError::WrongType { origin: self.origin(value.span()), key, expected, found }
    }

    fn unknown(&self, table: &str, key: &Key<'_>, allowed: &[&str], more: &str) -> ConfigError {
        ConfigError::UnknownKey {
            origin: self.origin(key.span()),
            key: format!("{table}{}", escaped(key.get_ref())),
            allowed: format!("{}{more}", allowed.join(", ")),
        }
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Origin::File { path: Arc::clone(&self.path), line }
    }
}

/// A key of the user's, escaped and cut to what a message can show.
fn escaped(key: &str) -> String {
    key.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(text: &str) -> String {
        let settings = Settings::from_toml(text, "web.toml");
        settings.and_then(|settings| settings.check(4)).unwrap_err().to_string()
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
            max_age = "24h"
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
        let config = Settings::from_toml(text, "web.toml").unwrap().check(9).unwrap();
        let flags = Settings {
            name: flag("web".to_owned()),
            listen: Some(["0.0.0.0:80", "[::]:443"].map(|l| given(l.to_owned())).into()),
            workers: flag(2),
            command: flag(vec!["node".to_owned(), "server.js".to_owned()]),
            partition: flag("hash".to_owned()),
            slots: flag(2048),
            weights: flag(vec![1.0, 2.5]),
            worker_ports: flag("30000-30999".to_owned()),
            socket_activation: flag(true),
            backlog: flag(1024),
            engine: flag("tproxy".to_owned()),
            local_clients: flag(true),
            ready: flag("tcp".to_owned()),
            ownership: flag("shared".to_owned()),
            user: flag("www-data".to_owned()),
            group: flag("33".to_owned()),
            on_exit: flag("drain".to_owned()),
            env: Some(["NODE_*", "A=b"].map(|entry| given(entry.to_owned())).into()),
            ready_timeout: flag("10s".to_owned()),
            drain_timeout: flag("1h".to_owned()),
            rollback_timeout: flag("10min".to_owned()),
            die_timeout: flag("0".to_owned()),
            ping_timeout: flag("2s".to_owned()),
            watchdog_timeout: flag("500ms".to_owned()),
            socket: flag("/tmp/host.zsocket".to_owned()),
            spawn_stagger: flag("0".to_owned()),
            spawn_backoff: flag("10ms..2min".to_owned()),
            spawn_give_up: flag("3 in 1min".to_owned()),
            retire_rss: flag("448MiB".to_owned()),
            retire_rate: flag(5),
            retire_window: flag("1min".to_owned()),
            retire_renice: flag(19),
            retire_max_age: flag("24h".to_owned()),
            retire_lag: flag("0".to_owned()),
            memory_total: flag("512MiB".to_owned()),
            memory_low: flag(0.5),
            memory_high: flag(1.0),
            memory_order: flag("memory".to_owned()),
            kill_old: None,
            output_to: flag("file:/var/log/web".to_owned()),
            http_listen: flag("127.0.0.1:9180".to_owned()),
        };
        assert_eq!(config, flags.check(9).unwrap());
    }

    fn given<T>(value: T) -> Given<T> {
        Given::by_flag("--flag", value)
    }

    fn flag<T>(value: T) -> Option<Given<T>> {
        Some(given(value))
    }

    #[test]
    fn errors_name_the_key_the_line_and_what_is_allowed() {
        let cases = [
            (
                "\nwrokers = 4",
                "web.toml, line 2: unknown key `wrokers`: expected one of name, listen, workers, command, partition, slots, weights, worker_ports, socket_activation, backlog, engine, local_clients, ready, ownership, user, group, on_exit, env, socket, the tables timeouts, spawn, retire, memory, output and http",
            ),
            (
                "[timeouts]\n\"a\\nb\" = 1",
                "web.toml, line 2: unknown key `timeouts.a\\nb`: expected one of ready, drain, rollback, die, ping, watchdog",
            ),
            (
                "spawn.pause = 1",
                "web.toml, line 1: unknown key `spawn.pause`: expected one of stagger, backoff, give_up",
            ),
            ("output.file = 1", "web.toml, line 1: unknown key `output.file`: expected one of to"),
            ("http.port = 1", "web.toml, line 1: unknown key `http.port`: expected one of listen"),
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
                "web.toml, line 2: unknown key `retire.rsss`: expected one of rss, rate, window, renice, max_age, lag",
            ),
            (
                "[memory]\nlow = \"0.8\"",
                "web.toml, line 2: `memory.low`: expected a number, found a text",
            ),
            (
                "memory.max = 1",
                "web.toml, line 1: unknown key `memory.max`: expected one of total, low, high, order",
            ),
            (
                "[spawn]\ngive_up = 5",
                "web.toml, line 2: `spawn.give_up`: expected a text in quotes, found a whole number",
            ),
        ];
        for (text, expected) in cases {
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
            let _ = Settings::from_toml(&text, "web.toml").and_then(|settings| settings.check(4));
        }

        #[test]
        fn any_value_of_a_key_gives_a_configuration_or_an_error(
            key in prop::sample::select(KEYS.to_vec()),
            value in r#"(-?[0-9]{1,25}|1e999|-?nan|true|\[\]|\{\}|\[-?[0-9.]{1,5}\]|"[ -!#-\[\]-~]{0,20}"|\["[ -!#-\[\]-~]{0,20}"\])"#,
        ) {
            let text = format!("{key} = {value}");
            let _ = Settings::from_toml(&text, "web.toml").and_then(|settings| settings.check(4));
        }
    }
}
