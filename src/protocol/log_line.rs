//! Lines that workers have printed.

use serde::{Deserialize, Serialize};

use crate::plan::{Generation, Seat};

/// A line that a worker has printed, to its standard output or error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    /// When the master read it, at most a few hundred milliseconds after it was printed, in seconds since
    /// 1970; none for one that was read from a file of an earlier master.
    #[serde(default)]
    pub(crate) time: Option<f64>,
    /// The seat of the worker.
    pub(crate) seat: Seat,
    /// Its generation.
    pub(crate) generation: Generation,
    /// Its first process; none for one that was read from a file.
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    /// The line without its end; of control characters only those that set colours.
    pub(crate) line: String,
}

/// What is asked of `logs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogsRequest {
    /// The seat whose lines are wanted; none: those of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seat: Option<Seat>,
    /// How many of its last lines, of each seat.
    pub(crate) lines: u32,
    /// Whether to go on with what is printed from now on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) follow: bool,
}

/// The end of what was asked of `logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogsShown {
    /// Where older lines are found: a command or files, for display; none if nowhere.
    #[serde(default)]
    pub older: Option<String>,
}
