//! Texts in which a worker's own values stand: `--port={port}`. Pure.
//!
//! No shell runs a command, so that `$PORT` in an argument stays `$PORT`. Instead a name in braces
//! stands for a value of the worker that is started. Braces are common in arguments (JSON, awk, Go
//! templates, shells), so that these alone are replaced:
//!
//! | text | becomes |
//! |---|---|
//! | `{port}`, and each other name of [`Names::ALL`], without spaces | the value |
//! | `{{port}}`, each of them in two pairs of braces | `{port}` |
//! | `${port}`, whatever stands after a `$` | itself: it is for a shell |
//! | every other brace | itself |

use std::fmt;

use crate::plan::{Listeners, Protocol};

/// A value of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placeholder {
    /// Its worker port for the public port in this place of [`Listeners::public_ports`].
    Port(usize),
    /// Its private port in this place.
    PrivatePort(usize),
    /// Its seat.
    Seat,
    /// A number that no other worker has while it lives.
    Worker,
    /// Its generation.
    Generation,
    /// The name of the cluster.
    Name,
    /// The directory of its generation, without links.
    Directory,
    /// The path of its own copy of `config_template`.
    Config,
}

impl Placeholder {
    /// Whether workers of one generation have different values.
    pub(crate) fn differs_by_worker(self) -> bool {
        !matches!(self, Self::Generation | Self::Name | Self::Directory)
    }
}

/// A text with placeholders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PlaceholderText {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value(Placeholder),
}

impl PlaceholderText {
    /// Finds the placeholders of a text.
    ///
    /// # Errors
    /// [`PlaceholderError`] for one that stands for nothing with these settings.
    pub(crate) fn parse(text: &str, names: Names<'_>) -> Result<Self, PlaceholderError> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find('{') {
            literal.push_str(&rest[..at]);
            rest = &rest[at..];
            if literal.ends_with('$') {
                let after = rest.trim_start_matches('{');
                literal.push_str(&rest[..rest.len() - after.len()]);
                rest = after;
            } else if let Some((name, after)) = escaped(rest).filter(|(name, _)| names.knows(name))
            {
                literal.extend(["{", name, "}"]);
                rest = after;
            } else if let Some((name, after)) = in_braces(rest)
                && let Some(value) = names.find(name)?
            {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Value(value));
                rest = after;
            } else {
                literal.push('{');
                rest = &rest[1..];
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }

    /// The text with these values.
    pub(crate) fn expand(&self, value: impl Fn(Placeholder) -> String) -> String {
        let text = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Value(placeholder) => value(*placeholder),
        };
        self.parts.iter().map(text).collect()
    }
}

impl PlaceholderText {
    /// The values that differ between workers of one generation.
    pub(crate) fn of_workers(&self) -> impl Iterator<Item = Placeholder> {
        self.placeholders().filter(|it| it.differs_by_worker())
    }

    /// Its placeholders, in their order.
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = Placeholder> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Value(placeholder) => Some(*placeholder),
        })
    }

    /// A path, parted before the first name in it that differs between workers of one generation: what all of
    /// them have in common, and the rest, which is relative to that.
    pub(crate) fn split_path(&self) -> (Self, Self) {
        let differs = |part: &Part| matches!(part, Part::Value(it) if it.differs_by_worker());
        let Some(first) = self.parts.iter().position(differs) else {
            return (self.clone(), Self::default());
        };
        let (mut common, mut rest) = (self.parts[..first].to_vec(), self.parts[first..].to_vec());
        // Back to the last slash before it.
        while let Some(part) = common.pop() {
            match part {
                Part::Literal(text) => match text.rsplit_once('/') {
                    Some((directory, name)) => {
                        common.push(Part::Literal(format!("{directory}/")));
                        rest.insert(0, Part::Literal(name.to_owned()));
                        break;
                    }
                    None => rest.insert(0, Part::Literal(text)),
                },
                value @ Part::Value(_) => rest.insert(0, value),
            }
        }
        (Self { parts: common }, Self { parts: rest })
    }
}

/// What placeholders can stand for with some settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) listeners: &'a Listeners,
    /// How many private ports each worker has.
    pub(crate) private_ports: u16,
    /// Whether there is a `config_template`.
    pub(crate) has_config: bool,
}

impl Names<'_> {
    /// The names; `port` and `private_port` also with a colon and a number.
    pub(crate) const ALL: [&'static str; 8] =
        ["port", "private_port", "seat", "worker", "generation", "name", "directory", "config"];

    /// Whether this is a placeholder with any settings.
    fn knows(&self, name: &str) -> bool {
        !matches!(self.find(name), Ok(None)) || name == "config"
    }

    /// What it stands for; none for a text that is no placeholder.
    fn find(&self, name: &str) -> Result<Option<Placeholder>, PlaceholderError> {
        Ok(Some(match name.split_once(':').unwrap_or((name, "")) {
            ("port", _) if name == "port" => Placeholder::Port(0),
            ("port", which) if is_public_port(which) => self.port(name, which)?,
            ("private_port", _) if name == "private_port" => self.private_port(name, "1")?,
            ("private_port", which) if is_number(which) => self.private_port(name, which)?,
            ("seat", _) if name == "seat" => Placeholder::Seat,
            ("worker", _) if name == "worker" => Placeholder::Worker,
            ("generation", _) if name == "generation" => Placeholder::Generation,
            ("name", _) if name == "name" => Placeholder::Name,
            ("directory", _) if name == "directory" => Placeholder::Directory,
            ("config", _) if name == "config" && self.has_config => Placeholder::Config,
            _ => return Ok(None),
        }))
    }

    fn port(&self, name: &str, which: &str) -> Result<Placeholder, PlaceholderError> {
        let (number, protocol) = which.split_once('/').unwrap_or((which, ""));
        let is_named = |it: &Protocol| protocol.is_empty() || it.as_str() == protocol;
        let mut services = Protocol::ALL
            .iter()
            .filter(|it| is_named(it))
            .flat_map(|it| self.listeners.services(*it));
        let found = services.find(|service| service.port.to_string() == number);
        found.map(|service| Placeholder::Port(service.place)).ok_or_else(|| {
            let ports = self.listeners.public_ports().iter().map(ToString::to_string);
            let ports = ports.collect::<Vec<_>>().join(", ");
            PlaceholderError::new(
                name,
                format!(
                    "no listener has {}: the public ports are {ports}",
                    which.replace('/', " by ")
                ),
            )
        })
    }

    fn private_port(&self, name: &str, which: &str) -> Result<Placeholder, PlaceholderError> {
        let place = which.parse::<u16>().ok().filter(|it| (1..=self.private_ports).contains(it));
        let place = place.ok_or_else(|| {
            let reason = match self.private_ports {
                0 => "workers have no private port: set private_ports = 1 or more".to_owned(),
                count => format!("workers have {count} private ports, counted from 1"),
            };
            PlaceholderError::new(name, reason)
        })?;
        Ok(Placeholder::PrivatePort(usize::from(place - 1)))
    }
}

/// A placeholder that stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlaceholderError {
    name: String,
    reason: String,
}

impl PlaceholderError {
    /// The line of the text in which it stands first, counted from 1.
    pub(crate) fn line_in(&self, text: &str) -> usize {
        let at = text.find(&format!("{{{}}}", self.name)).unwrap_or_default();
        1 + text[..at].matches('\n').count()
    }

    fn new(name: &str, reason: String) -> Self {
        Self { name: name.to_owned(), reason }
    }
}

impl fmt::Display for PlaceholderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, reason } = self;
        write!(f, "{{{name}}}: {reason}; {{{{{name}}}}} is the text itself")
    }
}

/// The names in braces that look like a misspelt placeholder, each with the placeholder that may be meant.
/// `{PORT}`, `{prot}`; not `{}`, `{"a":1}`, `${PORT}`, nor a word that resembles none.
pub(crate) fn misspelt<'a>(text: &'a str, names: Names<'_>) -> Vec<(&'a str, &'static str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('{') {
        let before = text[..at].chars().next_back();
        let Some((word, _)) = in_braces(&text[at..]) else { continue };
        let is_word =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '/' | ' ');
        if before == Some('$') || word.is_empty() || !word.chars().all(is_word) || names.knows(word)
        {
            continue;
        }
        let bare = word.trim().split(':').next().unwrap_or_default();
        let bare = bare.to_ascii_lowercase().replace(['-', ' '], "_");
        let near = Names::ALL.into_iter().find(|name| is_near(&bare, name));
        found.extend(near.map(|name| (word, name)));
    }
    if text.contains("{config}") && !names.has_config {
        found.push(("config", "config"));
    }
    found
}

/// Whether one edit makes one of the other; of a long word two.
fn is_near(word: &str, name: &str) -> bool {
    let allowed = if name.len() > 6 { 2 } else { 1 };
    edits(word.as_bytes(), name.as_bytes()) <= allowed
}

/// How many letters have to be added, removed, changed or swapped with the next.
fn edits(from: &[u8], to: &[u8]) -> usize {
    let mut table = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            table[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let change = usize::from(from[i - 1] != to[j - 1]);
                    let mut least = table[i - 1][j - 1] + change;
                    least = least.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                    if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                        least = least.min(table[i - 2][j - 2] + 1);
                    }
                    least
                }
            };
        }
    }
    table[from.len()][to.len()]
}

/// More than the longest name in braces has, so that reading a long text takes no longer for its braces.
const LONGEST: usize = 40;

/// What stands in the braces that a text begins with, and what follows.
fn in_braces(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('{')?;
    let end = text.bytes().take(LONGEST).position(|byte| byte == b'}')?;
    Some((&text[..end], &text[end + 1..]))
}

/// What stands in the two pairs of braces that a text begins with, and what follows.
fn escaped(text: &str) -> Option<(&str, &str)> {
    let (name, after) = in_braces(text.strip_prefix('{')?)?;
    Some((name, after.strip_prefix('}')?))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number, or one with a protocol.
fn is_public_port(text: &str) -> bool {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    is_number(number) && Protocol::ALL.iter().any(|it| it.as_str() == protocol)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listeners() -> Listeners {
        let texts = ["0.0.0.0:80", "0.0.0.0:443", "0.0.0.0:443/udp"];
        Listeners::new(texts.iter().map(|it| it.parse().unwrap()).collect()).unwrap()
    }

    fn names(listeners: &Listeners) -> Names<'_> {
        Names { listeners, private_ports: 2, has_config: true }
    }

    fn value(placeholder: Placeholder) -> String {
        match placeholder {
            Placeholder::Port(place) => format!("{}", 20000 + place),
            Placeholder::PrivatePort(place) => format!("{}", 21000 + place),
            Placeholder::Seat => "3".to_owned(),
            Placeholder::Worker => "7".to_owned(),
            Placeholder::Generation => "2".to_owned(),
            Placeholder::Name => "web".to_owned(),
            Placeholder::Directory => "/srv/1".to_owned(),
            Placeholder::Config => "/run/x.conf".to_owned(),
        }
    }

    fn expanded(text: &str) -> String {
        PlaceholderText::parse(text, names(&listeners())).unwrap().expand(value)
    }

    #[test]
    fn each_placeholder_is_replaced_wherever_it_stands() {
        for (text, expected) in [
            ("{port}", "20000"),
            ("-b0.0.0.0:{port}", "-b0.0.0.0:20000"),
            ("{port:80},{port:443}", "20000,20001"),
            ("{port:443/tcp} {port:443/udp}", "20001 20001"),
            ("{private_port}{private_port:2}", "2100021001"),
            ("{name}-{generation}.{seat}#{worker}", "web-2.3#7"),
            ("--config={config}", "--config=/run/x.conf"),
            ("{directory}/server.js", "/srv/1/server.js"),
            ("listen {port};}", "listen 20000;}"),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
    }

    #[test]
    fn other_braces_stay_and_double_ones_protect_a_name() {
        for text in [
            r#"{"a":1}"#,
            r#"{"port":{"a":{}}}"#,
            "${PORT} ${port} ${{port}} $${seat}",
            "awk {print}",
            "{{.Names}} {{ port }}",
            "{} {{}} { }",
            "{port",
            "port}",
            "{ port }",
            "{port:}",
            "{port:x}",
            "{port:80/sctp}",
            "{seat:1}",
            "{PORT}",
            "f() { echo; }",
        ] {
            assert_eq!(expanded(text), text);
        }
        for (text, expected) in [
            ("{{port}}", "{port}"),
            ("{{port:443}} {port}", "{port:443} 20000"),
            ("{{{port}}}", "{{port}}"),
            ("{{config}}", "{config}"),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
    }

    #[test]
    fn a_placeholder_that_stands_for_nothing_is_refused_with_what_there_is() {
        let listeners = listeners();
        let none = Names { private_ports: 0, has_config: false, ..names(&listeners) };
        let fault = |text: &str, names: Names<'_>| {
            PlaceholderText::parse(text, names).unwrap_err().to_string()
        };
        assert_eq!(
            fault("{port:8443}", none),
            "{port:8443}: no listener has 8443: the public ports are 80, 443; {{port:8443}} is the text \
             itself"
        );
        assert!(fault("{port:80/udp}", none).contains("no listener has 80 by udp"));
        assert!(fault("{private_port}", none).contains("set private_ports = 1 or more"));
        assert!(fault("{private_port:3}", names(&listeners)).contains("have 2 private ports"));
        assert!(fault("{private_port:0}", names(&listeners)).contains("counted from 1"));
        let text = PlaceholderText::parse("{config}", none).unwrap();
        assert_eq!(text.expand(value), "{config}");
    }

    #[test]
    fn names_that_are_nearly_placeholders_are_found() {
        let listeners = listeners();
        let found = |text| misspelt(text, names(&listeners));
        assert_eq!(found("{prot} {PORT}"), [("prot", "port"), ("PORT", "port")]);
        assert_eq!(
            found("{ports} {private-port}"),
            [("ports", "port"), ("private-port", "private_port")]
        );
        assert_eq!(found("{ port }"), [(" port ", "port")]);
        assert_eq!(found("{Port:443}"), [("Port:443", "port")]);
        assert_eq!(found("{privateport} {genration}").len(), 2);
        for text in
            ["{port}", "${PORT}", "{}", r#"{"port":1}"#, "{print}", "{0}", "{user}", "{port"]
        {
            assert_eq!(found(text), [], "{text}");
        }
        let none = Names { has_config: false, ..names(&listeners) };
        assert_eq!(misspelt("-c {config}", none), [("config", "config")]);
    }

    #[test]
    fn a_path_is_parted_where_workers_differ() {
        let listeners = listeners();
        for (text, common, rest) in [
            ("/srv/{name}/current", "/srv/web/current", ""),
            ("/srv/current/{seat}/x", "/srv/current/", "3/x"),
            ("/srv/{name}/g{generation}-{seat}", "/srv/web/", "g2-3"),
            ("/{worker}", "/", "7"),
        ] {
            let parts = PlaceholderText::parse(text, names(&listeners)).unwrap().split_path();
            assert_eq!(
                (parts.0.expand(value), parts.1.expand(value)),
                (common.into(), rest.into())
            );
        }
    }

    /// Texts that are made of what matters.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{".to_owned()),
            Just("}".to_owned()),
            Just("$".to_owned()),
            Just("{port}".to_owned()),
            Just("seat".to_owned()),
            Just("name".to_owned()),
            Just(":443".to_owned()),
            "[a-z:\"ä ]{0,3}",
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// Where a placeholder of these stands.
    fn first(text: &str) -> Option<(usize, &'static str)> {
        let all =
            ["{port}", "{port:443}", "{seat}", "{worker}", "{generation}", "{name}", "{config}"];
        let all = all.into_iter().chain(["{private_port}", "{port:80}", "{directory}"]);
        all.filter_map(|name| Some((text.find(name)?, name))).min()
    }

    proptest! {
        #[test]
        fn a_text_without_placeholders_is_unchanged(text in text()) {
            if first(&text).is_none() {
                prop_assert_eq!(expanded(&text), text);
            }
        }

        #[test]
        fn a_text_in_which_each_placeholder_is_escaped_is_unchanged(text in text()) {
            let (mut escaped, mut rest) = (String::new(), text.as_str());
            while let Some((at, name)) = first(rest) {
                let is_for_a_shell = rest[..at].trim_end_matches('{').ends_with('$');
                escaped.push_str(&rest[..at]);
                match is_for_a_shell {
                    true => escaped.push_str(name),
                    false => escaped.extend(["{", name, "}"]),
                }
                rest = &rest[at + name.len()..];
            }
            escaped.push_str(rest);
            prop_assert_eq!(expanded(&escaped), text);
        }

        #[test]
        fn any_text_can_be_read(text in ".{0,40}") {
            let listeners = listeners();
            let _ = PlaceholderText::parse(&text, names(&listeners));
            let _ = misspelt(&text, names(&listeners));
        }
    }
}
