//! Signals by their names, and which of them the end of a worker takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal, by its name: the number that belongs to it differs between architectures and C libraries.
///
/// ```
/// use ipcluster::config::Signal;
///
/// assert_eq!("QUIT".parse::<Signal>()?.to_string(), "SIGQUIT");
/// assert_eq!("SIGRTMIN+3".parse::<Signal>()?.to_string(), "SIGRTMIN+3");
/// assert!("quit".parse::<Signal>().is_err());
/// # Ok::<_, ipcluster::config::SignalError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Signal(Name);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    /// Without `SIG`.
    Standard(&'static str),
    /// So many above the first real-time signal.
    AboveFirst(u8),
    /// So many below the last one.
    BelowLast(u8),
}

impl Signal {
    /// `SIGTERM`.
    pub const TERM: Self = Self(Name::Standard("TERM"));
    /// `SIGKILL`.
    pub const KILL: Self = Self(Name::Standard("KILL"));
    /// `SIGSTOP`.
    pub const STOP: Self = Self(Name::Standard("STOP"));

    /// Those of signal(7) that every architecture has.
    const STANDARD: [&'static str; 30] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];

    /// How many real-time signals there are beyond the first: the C libraries keep two or three of the
    /// kernel's 33 to themselves (signal(7)); this is what the one that keeps most leaves.
    const REAL_TIME: u8 = 29;
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Name::Standard(name) => write!(f, "SIG{name}"),
            Name::AboveFirst(0) => f.write_str("SIGRTMIN"),
            Name::AboveFirst(above) => write!(f, "SIGRTMIN+{above}"),
            Name::BelowLast(0) => f.write_str("SIGRTMAX"),
            Name::BelowLast(below) => write!(f, "SIGRTMAX-{below}"),
        }
    }
}

/// A text that names no [`Signal`]; says which do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalError;

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Signal::STANDARD.join(", ");
        write!(f, "expected the name of a signal, with or without SIG: {names}, ")?;
        let last = Signal::REAL_TIME;
        write!(f, "RTMIN to RTMIN+{last}, RTMAX-{last} to RTMAX")
    }
}

impl std::error::Error for SignalError {}

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        // Old names of signals that have another one.
        let name = match name {
            "IOT" => "ABRT",
            "CLD" => "CHLD",
            "POLL" => "IO",
            name => name,
        };
        if let Some(name) = Self::STANDARD.iter().find(|known| **known == name) {
            return Ok(Self(Name::Standard(name)));
        }
        let beyond = |rest: &str, sign: char| match rest {
            "" => Some(0),
            rest => {
                let digits = rest.strip_prefix(sign)?;
                let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
                digits.parse().ok().filter(|it| is_number && *it <= Self::REAL_TIME)
            }
        };
        let above = || beyond(name.strip_prefix("RTMIN")?, '+').map(Name::AboveFirst);
        let below = || beyond(name.strip_prefix("RTMAX")?, '-').map(Name::BelowLast);
        above().or_else(below).map(Self).ok_or(SignalError)
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.to_string()
    }
}

impl TryFrom<String> for Signal {
    type Error = SignalError;

    fn try_from(text: String) -> Result<Self, SignalError> {
        text.parse()
    }
}

/// Which processes of a worker the signals of its end go to. Whatever it is, nothing of a worker outlives
/// it: what is left when its main process, the one that was started, has ended is ended too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillMode {
    /// Each signal goes to the process group of the main process. What is left when that has ended
    /// gets the stop signal, and SIGKILL when its time to end is over.
    #[default]
    Group,
    /// The retire signal and the stop signal go to the main process alone; SIGKILL to all processes of
    /// the worker, and at once to what is left when the main process has ended.
    Mixed,
    /// Each signal goes to the main process alone, SIGKILL too. What is left when that has ended gets
    /// the stop signal, and SIGKILL when its time to end is over.
    Process,
}

/// How a worker is told that it is retired, and how it is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSignals {
    /// What tells it to end. Default `SIGTERM`.
    pub stop: Signal,
    /// What tells it that no further connection will come, and that it is to finish those that it
    /// has; `None`, the default: nothing.
    #[serde(default)]
    pub retire: Option<Signal>,
    /// To which of its processes they go. Default: to its process group.
    #[serde(default)]
    pub kill_mode: KillMode,
}

impl Default for EndSignals {
    fn default() -> Self {
        Self { stop: Signal::TERM, retire: None, kill_mode: KillMode::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_systemd_takes() {
        for (text, name) in [
            ("TERM", "SIGTERM"),
            ("SIGQUIT", "SIGQUIT"),
            ("WINCH", "SIGWINCH"),
            ("IOT", "SIGABRT"),
            ("SIGPOLL", "SIGIO"),
            ("RTMIN", "SIGRTMIN"),
            ("RTMIN+0", "SIGRTMIN"),
            ("RTMIN+3", "SIGRTMIN+3"),
            ("SIGRTMIN+29", "SIGRTMIN+29"),
            ("RTMAX-1", "SIGRTMAX-1"),
            ("SIGRTMAX", "SIGRTMAX"),
        ] {
            let signal: Signal = text.parse().unwrap();
            assert_eq!(signal.to_string(), name, "{text}");
            assert_eq!(name.parse(), Ok(signal), "{text}");
        }
        assert_eq!("TERM".parse(), Ok(Signal::TERM));
        assert_eq!("KILL".parse(), Ok(Signal::KILL));
    }

    #[test]
    fn what_names_no_signal_is_refused() {
        for text in [
            "",
            "SIG",
            "term",
            "SIGSIGTERM",
            "15",
            "NOPE",
            "RTMIN+30",
            "RTMIN-1",
            "RTMIN+",
            "RTMIN++1",
            "RTMAX+1",
            "RTMAX-300",
            "TERM ",
            "RTMIN+-1",
        ] {
            assert_eq!(text.parse::<Signal>(), Err(SignalError), "{text:?}");
        }
        let said = SignalError.to_string();
        assert!(said.starts_with("expected the name of a signal, with or without SIG: HUP, INT"));
        assert!(said.ends_with("SYS, RTMIN to RTMIN+29, RTMAX-29 to RTMAX"), "{said}");
    }

    #[test]
    fn what_a_master_hands_over_is_the_same_for_the_next() {
        let signals = EndSignals {
            stop: "QUIT".parse().unwrap(),
            retire: "RTMIN+3".parse().ok(),
            kill_mode: KillMode::Mixed,
        };
        let text = serde_json::to_string(&signals).unwrap();
        assert_eq!(text, r#"{"stop":"SIGQUIT","retire":"SIGRTMIN+3","kill_mode":"mixed"}"#);
        assert_eq!(serde_json::from_str::<EndSignals>(&text).unwrap(), signals);
        let least: EndSignals = serde_json::from_str(r#"{"stop":"SIGTERM"}"#).unwrap();
        assert_eq!(least, EndSignals::default());
        assert!(serde_json::from_str::<EndSignals>(r#"{"stop":"SIGNOPE"}"#).is_err());
    }
}
