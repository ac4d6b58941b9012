//! Workers as they are spoken of: their state, how they end, and what is wrong with them.

use std::fmt;
use std::time::Duration;

use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::event::as_text;
use super::{ReadinessFault, measured};

use crate::plan::{Generation, PlanError, Port, Seat};

/// Names a worker; no two in the life of one cluster have the same, as long as its masters hand over to
/// each other.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WorkerId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where in its life a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkerState {
    /// It is not in force yet: being spawned, getting ready, or waiting for others of its reload; or it
    /// was retired, and a rollback has it serve again if its ports still listen.
    Starting,
    /// It gets the new connections of its seat.
    Live,
    /// It gets no new connections and finishes those that it has.
    Retired,
    /// It was asked or signalled to end, and has not yet.
    Dying,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Retired => "retired",
            Self::Dying => "dying",
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exit {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was adopted from an earlier master, and the kernel did not say.
    Unknown,
}

/// The fields `exit` and `signal`, of which one is null, or both are.
impl Serialize for Exit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (status, signal) = match *self {
            Self::Code(status) => (Some(status), None),
            Self::Signal(signal) => (None, Some(signal)),
            Self::Unknown => (None, None),
        };
        let mut fields = serializer.serialize_struct("Exit", 2)?;
        fields.serialize_field("exit", &status)?;
        fields.serialize_field("signal", &signal)?;
        fields.end()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown => f.write_str("ended, exit status unknown"),
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(signal) => match signal_name(signal) {
                Some(name) => write!(f, "was ended by {name}"),
                None => write!(f, "was ended by signal {signal}"),
            },
        }
    }
}

/// The names of signals whose numbers are the same on every architecture (signal(7)).
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// By what a worker counts as silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Unhealthy {
    /// All its processes are stopped by a signal (SIGSTOP, SIGTSTP): none can do anything.
    Stopped,
    /// No process of its own listens on all its worker ports any more.
    NotListening,
    /// A process of another session listens on one of its worker ports too, by `SO_REUSEPORT`, and gets some
    /// of its clients.
    SharedPort {
        /// The worker port.
        port: Port,
        /// The user of the other socket.
        uid: u32,
    },
    /// Connections wait to be accepted, and none was for so long.
    Queue {
        /// The limit that is over.
        limit: Duration,
    },
    /// It did not say `WATCHDOG=1` for so long.
    Watchdog {
        /// The limit that is over.
        limit: Duration,
    },
    /// It said `WATCHDOG=trigger`.
    Trigger,
    /// No answer with a status of 2xx came for so long.
    Probe {
        /// The limit that is over.
        limit: Duration,
    },
    /// It has joined over the control socket, and has said nothing there for so long, also when asked;
    /// or its connection has ended so long ago.
    Ping {
        /// The limit that is over.
        limit: Duration,
    },
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it is stopped by a signal"),
            Self::NotListening => f.write_str("it does not listen on all its ports any more"),
            Self::SharedPort { port, uid } => write!(
                f,
                "a process of another session listens on its port {port} too (user {uid}, SO_REUSEPORT)"
            ),
            Self::Queue { limit } => {
                write!(f, "connections wait, and it has accepted none for {limit:?}")
            }
            Self::Watchdog { limit } => write!(f, "no WATCHDOG=1 for {limit:?}"),
            Self::Trigger => f.write_str("it said WATCHDOG=trigger"),
            Self::Probe { limit } => write!(f, "no answer with status 2xx for {limit:?}"),
            Self::Ping { limit } => write!(f, "no word on the control socket for {limit:?}"),
        }
    }
}

/// Why a worker that is starting is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum NotReady {
    /// It does not listen on all its ports.
    #[default]
    NotListening,
    /// It says that it is ready, and does not listen on all its ports.
    ReadyButNotListening,
    /// It listens, and does not say that it is ready.
    NotNotified,
    /// It listens, and does not answer the probe with a status of 2xx.
    ProbeFailed,
    /// The master has opened its sockets, and no process of it was seen to accept from them.
    NotAccepting,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotListening => "did not listen on all its ports",
            Self::ReadyButNotListening => {
                "said that it was ready, but did not listen on all its ports"
            }
            Self::NotNotified => "listened, but did not say READY=1",
            Self::ProbeFailed => "listened, but did not answer the probe with 2xx",
            Self::NotAccepting => "did not accept connections",
        })
    }
}

/// A worker that failed before it was in force, or, where that is said, afterwards.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerFailure {
    /// The worker.
    pub worker: WorkerId,
    /// Its seat.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// How it failed.
    #[serde(rename = "reason", serialize_with = "as_text")]
    pub cause: FailureCause,
    /// What it printed last, oldest line first; empty if nothing is known. The supervisor knows it
    /// of a worker that has exited.
    pub last_lines: Vec<String>,
}

impl WorkerFailure {
    /// This failure without what the worker printed, which makes its text one line.
    #[must_use]
    pub(crate) fn without_lines(&self) -> Self {
        Self { last_lines: Vec::new(), cause: self.cause.clone(), ..*self }
    }

    /// In one line, with what it printed last.
    pub(super) fn in_one_line(&self) -> String {
        let lines: Vec<&str> = self.last_lines.iter().map(|line| line.trim()).collect();
        match lines.is_empty() {
            true => self.to_string(),
            false => format!("{}; it printed: {}", self.without_lines(), lines.join(" | ")),
        }
    }
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seat {}: the worker of generation {} ", self.seat, self.generation)?;
        self.cause.fmt(f)?;
        if !self.last_lines.is_empty() {
            f.write_str("; its last lines:")?;
        }
        self.last_lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// How a worker failed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum FailureCause {
    /// Its process could not be started.
    Spawn {
        /// The error, for display.
        reason: String,
    },
    /// Its process ended before it was in force.
    Exit(Exit),
    /// Its process ended before it was in force, and has left others: it went into the background.
    Background {
        /// How it ended.
        exit: Exit,
        /// What is left, and how it is kept in the foreground, for display.
        advice: String,
    },
    /// It did not listen on all its ports in time.
    NotReady {
        /// The time that it had.
        limit: Duration,
    },
    /// It was live, and its process ended.
    Died {
        /// How.
        exit: Exit,
        /// How long it had been ready.
        lived: Duration,
    },
    /// Something else than [`Self::NotReady`] was missing until its time was over.
    Incomplete {
        /// The time that it had.
        limit: Duration,
        /// What was missing.
        lack: NotReady,
    },
    /// It was not ready when its time was over, and it was seen why.
    Readiness {
        /// The time that it had.
        limit: Duration,
        /// What was missing.
        lack: NotReady,
        /// What was seen.
        fault: Box<ReadinessFault>,
    },
    /// It was ready, and fell silent before it was in force.
    Unhealthy(Unhealthy),
    /// It said that it stops before it was in force.
    Stopping,
    /// Its ports cannot stand in the plan.
    Unfit(PlanError),
}

impl FailureCause {
    /// The error of a process that could not be started, if it was that.
    pub(crate) fn spawn_error(&self) -> Option<&str> {
        match self {
            Self::Spawn { reason } => Some(reason),
            _ => None,
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { reason } => write!(f, "could not be started: {reason}"),
            Self::Exit(exit) => write!(f, "{exit} before it was in force"),
            Self::Background { exit, advice } => {
                write!(f, "went into the background ({exit}): {advice}")
            }
            Self::NotReady { limit } => {
                write!(f, "did not listen on all its ports within {limit:?}")
            }
            Self::Died { exit, lived } => {
                write!(f, "{exit}, {} after it was ready", measured(*lived))
            }
            Self::Incomplete { limit, lack } => write!(f, "{lack} within {limit:?}"),
            Self::Readiness { limit, lack, fault } => {
                write!(f, "{lack} within {limit:?}: the worker {fault}")
            }
            Self::Unhealthy(cause) => write!(f, "did not answer any more: {cause}"),
            Self::Stopping => f.write_str("said that it stops before it was in force"),
            Self::Unfit(error) => write!(f, "cannot be put into force: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_told_by_status_or_the_name_of_its_signal() {
        let names = [
            (1, "SIGHUP"),
            (2, "SIGINT"),
            (3, "SIGQUIT"),
            (4, "SIGILL"),
            (6, "SIGABRT"),
            (8, "SIGFPE"),
            (9, "SIGKILL"),
            (11, "SIGSEGV"),
            (13, "SIGPIPE"),
            (14, "SIGALRM"),
            (15, "SIGTERM"),
            (7, "signal 7"),
            (64, "signal 64"),
        ];
        for (signal, name) in names {
            assert_eq!(Exit::Signal(signal).to_string(), format!("was ended by {name}"));
        }
        assert_eq!(Exit::Code(3).to_string(), "exited with status 3");
        assert_eq!(Exit::Unknown.to_string(), "ended, exit status unknown");
    }

    #[test]
    fn of_status_and_signal_one_is_null_or_both_are() {
        for (exit, json) in [
            (Exit::Code(0), r#"{"exit":0,"signal":null}"#),
            (Exit::Signal(9), r#"{"exit":null,"signal":9}"#),
            (Exit::Unknown, r#"{"exit":null,"signal":null}"#),
        ] {
            assert_eq!(serde_json::to_string(&exit).unwrap(), json);
        }
    }

    #[test]
    fn states_and_ids_can_stand_in_columns() {
        for (state, text) in [
            (WorkerState::Starting, "starting"),
            (WorkerState::Live, "live"),
            (WorkerState::Retired, "retired"),
            (WorkerState::Dying, "dying"),
        ] {
            assert_eq!(format!("{state:<9}|"), format!("{text:<9}|"));
            assert_eq!(serde_json::to_value(state).unwrap(), text);
        }
        assert_eq!(format!("{:>4}", WorkerId(7)), "   7");
    }

    #[test]
    fn a_silent_worker_is_told_with_the_limit_that_is_over() {
        let limit = Duration::from_millis(1500);
        for (cause, text) in [
            (Unhealthy::Stopped, "it is stopped by a signal"),
            (Unhealthy::NotListening, "it does not listen on all its ports any more"),
            (
                Unhealthy::SharedPort { port: Port::new(20_000).unwrap(), uid: 33 },
                "a process of another session listens on its port 20000 too (user 33, SO_REUSEPORT)",
            ),
            (Unhealthy::Queue { limit }, "connections wait, and it has accepted none for 1.5s"),
            (Unhealthy::Watchdog { limit }, "no WATCHDOG=1 for 1.5s"),
            (Unhealthy::Trigger, "it said WATCHDOG=trigger"),
            (Unhealthy::Probe { limit }, "no answer with status 2xx for 1.5s"),
            (Unhealthy::Ping { limit }, "no word on the control socket for 1.5s"),
        ] {
            assert_eq!(cause.to_string(), text);
            let text = format!("did not answer any more: {text}");
            assert_eq!(FailureCause::Unhealthy(cause).to_string(), text);
        }
    }

    #[test]
    fn a_worker_that_is_not_ready_is_told_with_what_it_lacks() {
        let limit = Duration::from_secs(2);
        for (lack, text) in [
            (NotReady::NotListening, "did not listen on all its ports"),
            (
                NotReady::ReadyButNotListening,
                "said that it was ready, but did not listen on all its ports",
            ),
            (NotReady::NotNotified, "listened, but did not say READY=1"),
            (NotReady::ProbeFailed, "listened, but did not answer the probe with 2xx"),
            (NotReady::NotAccepting, "did not accept connections"),
        ] {
            let fault = Box::new(ReadinessFault::Unseen { error: "denied".to_owned() });
            let seen = FailureCause::Readiness { limit, lack, fault }.to_string();
            let begin = format!("{text} within 2s: the worker cannot be looked at (denied)");
            assert!(seen.starts_with(&begin), "{seen}");
            let bare = FailureCause::Incomplete { limit, lack }.to_string();
            assert_eq!(bare, format!("{text} within 2s"));
        }
    }

    #[test]
    fn a_cause_of_failure_is_told_in_words() {
        let exit = Exit::Code(0);
        let spawn = FailureCause::Spawn { reason: "ENOENT".to_owned() };
        assert_eq!(spawn.spawn_error(), Some("ENOENT"));
        assert_eq!(FailureCause::Stopping.spawn_error(), None);
        for (cause, text) in [
            (spawn, "could not be started: ENOENT"),
            (FailureCause::Exit(exit), "exited with status 0 before it was in force"),
            (
                FailureCause::Background { exit, advice: "use --foreground".to_owned() },
                "went into the background (exited with status 0): use --foreground",
            ),
            (
                FailureCause::NotReady { limit: Duration::from_secs(2) },
                "did not listen on all its ports within 2s",
            ),
            (
                FailureCause::Died { exit: Exit::Unknown, lived: Duration::from_secs(2) },
                "ended, exit status unknown, 2.0 s after it was ready",
            ),
            (FailureCause::Stopping, "said that it stops before it was in force"),
            (
                FailureCause::Unfit(PlanError::WeightsAllZero),
                "cannot be put into force: all weights are 0: expected at least one above it",
            ),
        ] {
            assert_eq!(cause.to_string(), text);
        }
    }
}
