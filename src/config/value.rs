//! How the value of a setting is written in a file or a flag, and read from there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::origin::{Given, Origin};
use super::range::Range;
use super::table::DefaultValue;
use super::{
    ConfigError, Environment, FileModeMask, LogFormat, LogLevel, MemorySize, OnExit, PartitionKind,
    ResourceLimit, Server, ServerPreset, WorkerCommand, WorkerOutput, text,
};
use crate::plan::{ClusterName, Engine, Listener, Listeners, Ownership, PlanError, PortRange};
use crate::protocol::{Backoff, GiveUp, KillMode, KillOrder, MaxFailures, Readiness, Signal};

/// The form of a value in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Integer,
    Number,
    Truth,
    Texts,
    Numbers,
}

/// A value in its form, before its text is read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    Text(String),
    Integer(i64),
    Number(f64),
    Truth(bool),
    Texts(Vec<String>),
    Numbers(Vec<f64>),
}

impl Form {
    /// What a file has to have in this form, for errors.
    const fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Truth => "true or false",
            Self::Texts => "a list of texts in quotes",
            Self::Numbers => "a list of numbers",
        }
    }

    /// The value of this text in this form: of a list the words of it. `None` if it has none.
    pub(crate) fn raw(self, text: &str) -> Option<Raw> {
        let words = || text.split_ascii_whitespace();
        match self {
            Self::Text => Some(Raw::Text(text.to_owned())),
            Self::Integer => text.parse().ok().map(Raw::Integer),
            Self::Number => text.parse().ok().map(Raw::Number),
            Self::Truth => text.parse().ok().map(Raw::Truth),
            Self::Texts => Some(Raw::Texts(words().map(str::to_owned).collect())),
            Self::Numbers => {
                words().map(|word| word.parse().ok()).collect::<Option<_>>().map(Raw::Numbers)
            }
        }
    }

    /// The text as it stands in a file, given what [`Self::raw`] reads.
    pub(crate) fn toml(self, text: &str) -> String {
        let words = || text.split_ascii_whitespace();
        match self {
            Self::Text => format!("{text:?}"),
            Self::Integer | Self::Number | Self::Truth => text.to_owned(),
            Self::Texts => format!("{:?}", words().collect::<Vec<_>>()),
            Self::Numbers => format!("[{}]", words().collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Raw {
    /// The value as a file has it.
    pub(super) fn toml(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
            Self::Texts(texts) => format!("{texts:?}"),
            Self::Numbers(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                format!("[{}]", numbers.join(", "))
            }
        }
    }
}

/// The type of a setting's value.
pub(super) trait Value: Sized {
    /// Its form in TOML.
    const FORM: Form;

    /// What a file has to have there, for errors.
    const EXPECTED: &'static str = Self::FORM.expected();

    /// Reads what was written.
    fn read(raw: Raw) -> Result<Self, Fault>;

    /// The value that is meant, of several that mean the same.
    fn normalized(self) -> Self {
        self
    }

    /// What is wrong with a value that was not read from a text.
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    kind: FaultKind,
    /// The item of a list that is at fault.
    item: Option<usize>,
}

#[derive(Debug, Clone)]
enum FaultKind {
    Reason(String),
    /// This value is not among those that the setting allows.
    OutOfRange(String),
    Plan(PlanError),
    /// It is as if it had not been given.
    Missing,
}

impl Fault {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        FaultKind::Reason(reason.into()).into()
    }

    pub(super) fn out_of_range(value: impl Into<String>) -> Self {
        FaultKind::OutOfRange(value.into()).into()
    }

    pub(super) fn at(self, item: usize) -> Self {
        Self { item: Some(item), ..self }
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, item: None }
    }
}

impl From<PlanError> for Fault {
    fn from(error: PlanError) -> Self {
        FaultKind::Plan(error).into()
    }
}

/// What was given for a setting, if anything was: a value, or what is wrong with its text.
///
/// In a box, since a builder has one for each setting and each of its methods moves it: without, a chain of
/// them would need more stack in a build without optimisation than a thread of a program has.
pub(super) type Entry<T> = Option<Box<Given<Result<T, Fault>>>>;

/// The value of a setting: what was given, or its default.
pub(super) fn resolve<T: Value>(
    entry: Entry<T>,
    key: &'static str,
    default: &DefaultValue,
    range: &impl Range<T>,
) -> Result<Given<T>, ConfigError> {
    let Given { value, origin, items, text, .. } = match (entry, default) {
        (Some(given), _) => *given,
        (None, DefaultValue::Is(text) | DefaultValue::Means(text, _)) => {
            let raw = T::FORM.raw(text).ok_or_else(|| Fault::new(T::EXPECTED));
            let given = Given::new(key, raw.and_then(T::read), Origin::Default);
            given.written(T::FORM.toml(text))
        }
        (None, DefaultValue::Required(how)) => return Err(ConfigError::Missing { key, how }),
    };
    let place = Given { key, value: (), origin, items, text: None };
    let checked = value.map(T::normalized).and_then(|value| {
        value.check()?;
        range.check(&value)?;
        Ok(value)
    });
    let Fault { kind, item } = match checked {
        Ok(value) => {
            let Given { origin, items, .. } = place;
            return Ok(Given { key, value, origin, items, text });
        }
        Err(fault) => fault,
    };
    let place = match item {
        Some(item) => place.item(item),
        None => place,
    };
    Err(match (kind, default) {
        (FaultKind::Reason(reason), _) => place.refused(reason),
        (FaultKind::OutOfRange(value), _) => {
            place.refused(format!("{value}: expected {}", range.expected()))
        }
        (FaultKind::Plan(error), _) => place.unplannable(error),
        (FaultKind::Missing, DefaultValue::Required(how)) => ConfigError::Missing { key, how },
        (FaultKind::Missing, _) => place.refused("is empty"),
    })
}

/// A value whose form is [`Form::Text`].
pub(super) trait Text: Sized {
    const EXPECTED: &'static str = Form::Text.expected();

    fn from_text(text: String) -> Result<Self, Fault>;

    fn normalized(self) -> Self {
        self
    }

    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
}

impl<T: Text> Value for T {
    const FORM: Form = Form::Text;
    const EXPECTED: &'static str = <T as Text>::EXPECTED;

    fn read(raw: Raw) -> Result<Self, Fault> {
        match raw {
            Raw::Text(text) => T::from_text(text),
            _ => Err(Fault::new(<T as Value>::EXPECTED)),
        }
    }

    fn normalized(self) -> Self {
        Text::normalized(self)
    }

    fn check(&self) -> Result<(), Fault> {
        Text::check(self)
    }
}

/// A text that turns a setting off is `None`.
impl<T: Optional> Text for Option<T> {
    const EXPECTED: &'static str = <T as Text>::EXPECTED;

    fn from_text(text: String) -> Result<Self, Fault> {
        if text == T::OFF { Ok(None) } else { T::from_text(text).map(Some) }
    }

    fn normalized(self) -> Self {
        self.filter(|value| !value.is_off())
    }

    fn check(&self) -> Result<(), Fault> {
        self.as_ref().map_or(Ok(()), Text::check)
    }
}

/// A setting that can be off.
pub(super) trait Optional: Text {
    /// The text of that.
    const OFF: &'static str;

    /// Whether this value turns it off too.
    fn is_off(&self) -> bool {
        false
    }
}

/// A value that has one of a few names.
trait Choice: Copy + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

impl<T: Choice> Text for T {
    fn from_text(text: String) -> Result<Self, Fault> {
        if let Some((_, value)) = T::NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let names: Vec<&str> = T::NAMES.iter().map(|(name, _)| *name).collect();
        let names = match names.as_slice() {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            names => names.concat(),
        };
        Err(Fault::new(format!("{}: expected {names}", quote(&text))))
    }
}

impl Choice for PartitionKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("hash", Self::Hash),
        ("mask", Self::Mask),
        ("connection", Self::Connection),
        ("random", Self::Random),
    ];
}

impl Choice for Ownership {
    const NAMES: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("owned", Self::Owned), ("shared", Self::Shared)];
}

impl Choice for OnExit {
    const NAMES: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("leave", Self::Leave), ("drain", Self::Drain)];
}

impl Choice for LogLevel {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Optional for LogLevel {
    const OFF: &'static str = "";
}

impl Choice for LogFormat {
    const NAMES: &'static [(&'static str, Self)] =
        &[("text", Self::Text), ("json", Self::Json), ("journal", Self::Journal)];
}

impl Optional for LogFormat {
    const OFF: &'static str = "";
}

impl Choice for KillOrder {
    const NAMES: &'static [(&'static str, Self)] =
        &[("connections", Self::Connections), ("age", Self::Age), ("memory", Self::Memory)];
}

impl Choice for KillMode {
    const NAMES: &'static [(&'static str, Self)] =
        &[("group", Self::Group), ("mixed", Self::Mixed), ("process", Self::Process)];
}

impl Text for Signal {
    fn from_text(text: String) -> Result<Self, Fault> {
        text.parse().map_err(|expected| Fault::new(format!("{}: {expected}", quote(&text))))
    }
}

impl Optional for Signal {
    const OFF: &'static str = "";
}

impl Text for ClusterName {
    fn from_text(text: String) -> Result<Self, Fault> {
        Ok(text.parse::<Self>()?)
    }
}

impl Text for PortRange {
    fn from_text(text: String) -> Result<Self, Fault> {
        text.parse().map_err(|reason| Fault::new(format!("{}: {reason}", quote(&text))))
    }
}

impl Text for Engine {
    fn from_text(text: String) -> Result<Self, Fault> {
        text.parse().map_err(|expected| Fault::new(format!("{}: {expected}", quote(&text))))
    }
}

impl Text for Server {
    fn from_text(text: String) -> Result<Self, Fault> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            name => ServerPreset::named(name).map(Self::Preset).ok_or_else(|| {
                let names: Vec<_> = ServerPreset::all().iter().map(ServerPreset::name).collect();
                Fault::new(format!(
                    "{}: expected auto, none or one of {}",
                    quote(name),
                    names.join(", ")
                ))
            }),
        }
    }
}

impl Text for Readiness {
    fn from_text(text: String) -> Result<Self, Fault> {
        match text.as_str() {
            "tcp" => return Ok(Self::Tcp),
            "notify" => return Ok(Self::Notify),
            "protocol" => return Ok(Self::Protocol),
            probe if probe.starts_with("http:") || probe.starts_with("https:") => {}
            _ => {
                let expected = "expected tcp, notify, http:/PATH, https:/PATH or protocol";
                return Err(Fault::new(format!("{}: {expected}", quote(&text))));
            }
        }
        text.parse().map(Self::Http).map_err(|_| {
            let expected = "expected http: and a path that begins with / and has no spaces, such as \
                            http:/healthz, or http://HOST/healthz to ask for another Host";
            Fault::new(format!("{}: {expected}", quote(&text)))
        })
    }
}

impl Text for WorkerOutput {
    fn from_text(text: String) -> Result<Self, Fault> {
        text::output(&text).map_err(Fault::new)
    }

    fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Directory(path) => {
                text::output(&format!("file:{}", path.display())).map(drop).map_err(Fault::new)
            }
            Self::Stdout | Self::Journal => Ok(()),
        }
    }
}

impl Text for Duration {
    const EXPECTED: &'static str = "a time in quotes, such as \"30s\" or \"0\"";

    fn from_text(text: String) -> Result<Self, Fault> {
        text::duration(&text).map_err(Fault::new)
    }

    fn check(&self) -> Result<(), Fault> {
        text::check_duration(*self).map_err(Fault::new)
    }
}

impl Optional for Duration {
    const OFF: &'static str = "0";

    fn is_off(&self) -> bool {
        self.is_zero()
    }
}

impl Text for MemorySize {
    const EXPECTED: &'static str = "an amount of memory in quotes, such as \"448MiB\" or \"0\"";

    fn from_text(text: String) -> Result<Self, Fault> {
        text.parse().map_err(|error: super::MemorySizeError| Fault::new(error.to_string()))
    }
}

impl Optional for MemorySize {
    const OFF: &'static str = "0";

    fn is_off(&self) -> bool {
        self.bytes() == 0
    }
}

impl Text for Backoff {
    const EXPECTED: &'static str = "a range of times in quotes, such as \"1s..30s\"";

    fn from_text(text: String) -> Result<Self, Fault> {
        text::backoff(&text).map_err(Fault::new)
    }

    fn check(&self) -> Result<(), Fault> {
        text::check_backoff(self).map_err(Fault::new)
    }
}

impl Text for GiveUp {
    fn from_text(text: String) -> Result<Self, Fault> {
        text::give_up(&text).map_err(Fault::new)
    }

    fn check(&self) -> Result<(), Fault> {
        text::check_give_up(self).map_err(Fault::new)
    }
}

impl Optional for GiveUp {
    const OFF: &'static str = "0";
}

impl Text for MaxFailures {
    const EXPECTED: &'static str = "a number in quotes, such as \"2\", or \"auto\"";

    fn from_text(text: String) -> Result<Self, Fault> {
        text::max_failures(&text).map_err(Fault::new)
    }

    fn check(&self) -> Result<(), Fault> {
        text::check_max_failures(*self).map_err(Fault::new)
    }
}

impl Text for String {
    fn from_text(text: String) -> Result<Self, Fault> {
        Ok(text)
    }
}

impl Optional for String {
    const OFF: &'static str = "";
}

impl Text for PathBuf {
    fn from_text(text: String) -> Result<Self, Fault> {
        Ok(text.into())
    }
}

impl Optional for PathBuf {
    const OFF: &'static str = "";
}

impl Text for FileModeMask {
    fn from_text(text: String) -> Result<Self, Fault> {
        let expected = "expected a mask in octal, 0 to 0777, such as 0027";
        Self::read(&text).ok_or_else(|| Fault::new(format!("{}: {expected}", quote(&text))))
    }
}

impl Optional for FileModeMask {
    const OFF: &'static str = "";
}

impl Text for ResourceLimit {
    const EXPECTED: &'static str = "a limit in quotes, such as \"65536\" or \"1024:65536\"";

    fn from_text(text: String) -> Result<Self, Fault> {
        text.parse().map_err(|error: super::ResourceLimitError| Fault::new(error.to_string()))
    }

    fn check(&self) -> Result<(), Fault> {
        match self.is_sound() {
            true => Ok(()),
            false => Err(Fault::new(format!("{self}: expected SOFT:HARD with SOFT up to HARD"))),
        }
    }
}

impl Optional for ResourceLimit {
    const OFF: &'static str = "";
}

impl Text for SocketAddr {
    fn from_text(text: String) -> Result<Self, Fault> {
        let expected = "expected ADDR:PORT, such as 127.0.0.1:9180";
        text.parse().map_err(|_| Fault::new(format!("{}: {expected}", quote(&text))))
    }
}

impl Optional for SocketAddr {
    const OFF: &'static str = "";
}

/// Whole numbers: a file and a flag take any that `i64` holds, so that the error names the range.
macro_rules! integers {
    ($($type:ty),+) => {$(
        impl Value for $type {
            const FORM: Form = Form::Integer;

            fn read(raw: Raw) -> Result<Self, Fault> {
                match raw {
                    Raw::Integer(number) => {
                        number.try_into().map_err(|_| Fault::out_of_range(number.to_string()))
                    }
                    _ => Err(Fault::new(Self::EXPECTED)),
                }
            }
        }
    )+};
}

integers!(u16, u32, i32);

impl Value for f64 {
    const FORM: Form = Form::Number;

    fn read(raw: Raw) -> Result<Self, Fault> {
        match raw {
            Raw::Number(number) => Ok(number),
            _ => Err(Fault::new(Self::EXPECTED)),
        }
    }
}

impl Value for bool {
    const FORM: Form = Form::Truth;

    fn read(raw: Raw) -> Result<Self, Fault> {
        match raw {
            Raw::Truth(truth) => Ok(truth),
            _ => Err(Fault::new(Self::EXPECTED)),
        }
    }
}

impl Value for Vec<f64> {
    const FORM: Form = Form::Numbers;

    fn read(raw: Raw) -> Result<Self, Fault> {
        match raw {
            Raw::Numbers(numbers) => Ok(numbers),
            _ => Err(Fault::new(Self::EXPECTED)),
        }
    }
}

impl Value for Vec<Listener> {
    const FORM: Form = Form::Texts;

    fn read(raw: Raw) -> Result<Self, Fault> {
        let listener = |(item, text): (usize, String)| {
            text.parse().map_err(|error: PlanError| Fault::from(error).at(item))
        };
        texts(raw)?.into_iter().enumerate().map(listener).collect()
    }

    fn check(&self) -> Result<(), Fault> {
        let Err(error) = Listeners::new(self.clone()) else { return Ok(()) };
        match &error {
            PlanError::NoListeners => Err(FaultKind::Missing.into()),
            // Of a listener that is given twice the second one is at fault.
            PlanError::DuplicateListener { listener } => {
                let second = self.iter().rposition(|it| it == listener).unwrap_or(0);
                Err(Fault::from(error).at(second))
            }
            _ => Err(error.into()),
        }
    }
}

impl Value for Environment {
    const FORM: Form = Form::Texts;

    fn read(raw: Raw) -> Result<Self, Fault> {
        let entries = texts(raw)?.into_iter().enumerate();
        entries.into_iter().try_fold(Self::default(), |environment, (item, entry)| {
            environment.with(&entry).map_err(|error| Fault::new(error.to_string()).at(item))
        })
    }
}

impl Value for Vec<PathBuf> {
    const FORM: Form = Form::Texts;

    fn read(raw: Raw) -> Result<Self, Fault> {
        Ok(texts(raw)?.into_iter().map(PathBuf::from).collect())
    }

    fn check(&self) -> Result<(), Fault> {
        for (item, path) in self.iter().enumerate() {
            let text = path.to_string_lossy();
            if text.contains('\0') || text.trim_start_matches('-').is_empty() {
                let reason = format!("{}: expected the path of a file", quote(&text));
                return Err(Fault::new(reason).at(item));
            }
        }
        Ok(())
    }
}

/// None for no words.
impl Value for Option<WorkerCommand> {
    const FORM: Form = Form::Texts;

    fn read(raw: Raw) -> Result<Self, Fault> {
        let words = texts(raw)?;
        (!words.is_empty()).then(|| WorkerCommand::read(Raw::Texts(words))).transpose()
    }

    fn check(&self) -> Result<(), Fault> {
        self.as_ref().map_or(Ok(()), Value::check)
    }
}

/// The longest argument that execve(2) takes, its NUL included: `MAX_ARG_STRLEN`, 32 pages.
const MAX_ARGUMENT: usize = 32 * 4096;

impl Value for WorkerCommand {
    const FORM: Form = Form::Texts;

    fn read(raw: Raw) -> Result<Self, Fault> {
        let mut words = texts(raw)?.into_iter();
        let program = words.next().ok_or(FaultKind::Missing)?;
        Ok(Self { program, arguments: words.collect() })
    }

    fn check(&self) -> Result<(), Fault> {
        let mut words = std::iter::once(&self.program).chain(&self.arguments);
        if words.clone().any(|word| word.contains('\0')) {
            return Err(Fault::new("an argument contains a NUL, which no program can get"));
        }
        if words.any(|word| word.len() >= MAX_ARGUMENT) {
            return Err(Fault::new(
                "an argument is longer than 131071 bytes, the most that the kernel passes on",
            ));
        }
        match self.program.as_str() {
            "" => Err(Fault::new("the program is empty")),
            _ => Ok(()),
        }
    }
}

pub(super) fn texts(raw: Raw) -> Result<Vec<String>, Fault> {
    match raw {
        Raw::Texts(texts) => Ok(texts),
        _ => Err(Fault::new(Form::Texts.expected())),
    }
}

/// A value of the user's, escaped and cut to what a message can show.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::HttpScheme;

    fn readiness(text: &str) -> Result<Readiness, String> {
        let read = Readiness::from_text(text.to_owned());
        read.map_err(|fault| match fault.kind {
            FaultKind::Reason(reason) => reason,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn each_way_to_be_ready_has_its_text() {
        assert_eq!(readiness("tcp"), Ok(Readiness::Tcp));
        assert_eq!(readiness("notify"), Ok(Readiness::Notify));
        assert_eq!(readiness("protocol"), Ok(Readiness::Protocol));
        for text in ["", "TCP", "udp", "http", "notify ", "ftp:/x"] {
            let error = readiness(text).unwrap_err();
            let expected = "expected tcp, notify, http:/PATH, https:/PATH or protocol";
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_path_is_one_that_can_be_asked_for() {
        for path in ["/", "/healthz", "/a/b?c=d&e=%20"] {
            let Ok(Readiness::Http(read)) = readiness(&format!("http:{path}")) else {
                panic!("{path} is a path");
            };
            assert_eq!(read.path().as_str(), path);
            assert_eq!((read.host(), read.scheme()), (None, HttpScheme::Http));
        }
        let long = format!("/{}", "x".repeat(1024));
        for path in [
            "",
            "x",
            "//a b",
            "//",
            "///x",
            "//host",
            "//a b/",
            "//a@b/",
            "/\r\nHost:x",
            "/ü",
            "/#",
            "/\u{7f}",
            &long,
        ] {
            let error = readiness(&format!("http:{path}")).unwrap_err();
            assert!(error.contains("expected http: and a path"), "{error}");
        }
    }

    #[test]
    fn a_probe_names_its_host_and_port() {
        let read = |text: &str| match readiness(text) {
            Ok(Readiness::Http(read)) => read,
            other => panic!("{text}: {other:?}"),
        };
        for (text, host, port) in [
            ("http://www.example/healthz?x=1", Some("www.example"), None),
            ("https://www.example:8443/", Some("www.example:8443"), Some(8443)),
            ("http://[fd09::1]/", Some("[fd09::1]"), None),
            ("http://[fd09::1]:81/", Some("[fd09::1]:81"), Some(81)),
            ("https:/", None, None),
        ] {
            let read = read(text);
            assert_eq!((read.host(), read.port()), (host, port), "{text}");
            assert_eq!(read.to_string(), text);
            assert_eq!(text.starts_with("https:"), read.scheme() == HttpScheme::Https);
        }
        // A path alone is one of HTTP.
        assert_eq!("/x".parse(), Ok(read("http:/x")));
    }

    #[test]
    fn a_text_in_toml_is_what_was_written() {
        for (form, text, toml) in [
            (Form::Text, "a\"b", r#""a\"b""#),
            (Form::Integer, "1", "1"),
            (Form::Texts, "a b", r#"["a", "b"]"#),
            (Form::Texts, "", "[]"),
            (Form::Numbers, "1 2.5", "[1, 2.5]"),
        ] {
            assert_eq!(form.toml(text), toml);
        }
    }
}
