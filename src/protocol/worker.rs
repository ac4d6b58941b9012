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
