//! How requests get on.

use std::fmt;
use std::time::Duration;

use super::WorkerFailure;
use crate::plan::{Generation, Seat};

/// A step on the way to the end of a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// The hook before a new generation runs: none of its workers is started yet.
    HookRuns {
        /// The generation.
        generation: Generation,
    },
    /// One more of the new workers is ready.
    WorkerReady {
        /// Its seat.
        seat: Seat,
        /// How many new workers are ready now.
        ready: usize,
        /// How many have to be.
        needed: usize,
    },
    /// The kernel did not take the new plan; it is tried again.
    CommitFailed {
        /// The error, for display.
        reason: String,
        /// How often it has failed.
        failures: u32,
    },
    /// The successor of a worker that leaves is ready.
    SuccessorReady {
        /// Its seat.
        seat: Seat,
    },
    /// The successor of a worker that leaves failed; the old one serves on.
    SuccessorFailed {
        /// How.
        failure: WorkerFailure,
        /// The delay before the next one.
        delay: Duration,
    },
    /// The reload that begins a restart is done.
    Swapped {
        /// The generation in force.
        generation: Generation,
    },
    /// Retired workers are ended.
    Clearing {
        /// How many of them are left.
        left: usize,
        /// How many there were.
        of: usize,
    },
    /// New connections are refused; workers finish those that they have.
    Draining {
        /// How many workers are left.
        workers: usize,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HookRuns { generation } => {
                write!(f, "before_reload of generation {generation} runs")
            }
            Self::WorkerReady { seat, ready, needed } => {
                write!(f, "seat {seat} is ready ({ready} of {needed})")
            }
            Self::CommitFailed { reason, failures } => {
                write!(f, "the kernel rejected the plan (try {failures}): {reason}")
            }
            Self::SuccessorReady { seat } => write!(f, "seat {seat}: the successor is ready"),
            Self::SuccessorFailed { failure, delay } => {
                write!(
                    f,
                    "the successor failed; the old worker keeps serving, and another is started in \
                     {delay:?}: {failure}"
                )
            }
            Self::Swapped { generation } => {
                write!(f, "generation {generation} is in force; now the retired workers are ended")
            }
            Self::Clearing { left, of } => write!(f, "{left} of {of} retired workers are left"),
            Self::Draining { workers } => write!(f, "{workers} workers are left to drain"),
        }
    }
}
