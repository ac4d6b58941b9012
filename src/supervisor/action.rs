//! What the supervisor wants done, and what it answers to requests.

use std::fmt;
use std::time::Duration;

use super::{Event, Refusal, RequestId, WorkerFailure, WorkerId};
use crate::plan::{Generation, Plan, Seat};

/// Something that the master is to do, in the order given. None waits for the one before.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a process. Answered by [`Input::Spawned`](super::Input::Spawned) or
    /// [`Input::SpawnFailed`](super::Input::SpawnFailed).
    Spawn {
        /// The worker that the process will be.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// Give the listening sockets that one worker has left to another, whose [`Self::Spawn`] follows:
    /// its process gets these and no new ones.
    TransferListeners {
        /// The worker that has ended.
        from: WorkerId,
        /// The worker to be spawned.
        to: WorkerId,
    },
    /// Close the listening sockets that a worker has left; its worker ports are free then.
    CloseListeners {
        /// The worker, which has ended.
        worker: WorkerId,
    },
    /// Put a plan into force. At most one is outstanding; answered by
    /// [`Input::Committed`](super::Input::Committed) or
    /// [`Input::CommitFailed`](super::Input::CommitFailed).
    Commit(Plan),
    /// Look whether the kernel holds the plan in force, nothing less and nothing more. Answered by
    /// [`Input::Verified`](super::Input::Verified).
    Verify,
    /// Make the table anew, whole, from the plan in force. Answered by
    /// [`Input::Restored`](super::Input::Restored) or
    /// [`Input::RestoreFailed`](super::Input::RestoreFailed). While a [`Self::Verify`] or this is
    /// outstanding there is no [`Self::Commit`], and the other way round.
    Restore(Plan),
    /// Tell a worker that has [joined](super::Input::LinkOpened) that no new connections will come, and
    /// that it is to finish those that it has.
    OrderRetire {
        /// The worker.
        worker: WorkerId,
    },
    /// Tell a worker that has [joined](super::Input::LinkOpened) to end. Answered by
    /// [`Input::OrderUnanswered`](super::Input::OrderUnanswered) if it does not answer or will not; else by its exit.
    OrderStop {
        /// The worker.
        worker: WorkerId,
    },
    /// Send SIGTERM to the worker's process group.
    Terminate {
        /// The worker.
        worker: WorkerId,
    },
    /// Send SIGKILL to the worker's process group.
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// Give all processes of the worker's group this nice value, 1 to 19, since it has retired: those
    /// that serve new clients come first. Not answered; if it fails, nothing is lost.
    Renice {
        /// The worker.
        worker: WorkerId,
        /// The nice value.
        nice: i32,
    },
    /// Give all processes of the worker's group the nice value back that workers are started with: it
    /// had retired, and serves again. Not answered; if it fails, the worker serves all the same.
    RestoreNice {
        /// The worker.
        worker: WorkerId,
    },
    /// Measure the proportional memory of the master and of these workers: a decision depends on it.
    /// At most one is outstanding; answered by
    /// [`Input::ProportionalMeasured`](super::Input::ProportionalMeasured).
    MeasureProportional {
        /// The workers: all that run.
        workers: Vec<WorkerId>,
    },
    /// Delete the rules: no worker is left. Deleting what was never there is no error.
    Remove,
    /// The one answer to a request.
    Reply {
        /// The request.
        request: RequestId,
        /// What came of it.
        outcome: Result<Done, Refusal>,
    },
    /// How a request that is under way gets on.
    Progress {
        /// The request.
        request: RequestId,
        /// The step that was made.
        step: Progress,
    },
    /// Something for the log and the metrics.
    Emit(Event),
    /// The end of the master; the last action of all.
    Finish,
}

/// What a request has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// New connections go to workers of this generation.
    Reloaded {
        /// The generation in force.
        generation: Generation,
    },
    /// A part of the clients gets workers of this generation, the others those that they had.
    Canary {
        /// The generation on trial.
        generation: Generation,
        /// How many workers it has.
        workers: usize,
        /// How many slots go to it.
        slots: usize,
        /// How many slots there are.
        of: usize,
    },
    /// New connections go to workers of this generation again.
    RolledBack {
        /// The generation in force.
        generation: Generation,
    },
    /// The cluster has so many workers.
    Scaled {
        /// The number of seats in force.
        workers: u16,
        /// How many slots have another seat than before.
        moved: usize,
        /// How many slots there are.
        slots: usize,
    },
    /// The worker gets no new connections any more, its successor does.
    Retired {
        /// The seat.
        seat: Seat,
        /// The process id of the worker.
        pid: Option<u32>,
        /// That of its successor; none if the seat has none just now, or is gone.
        successor: Option<u32>,
    },
    /// The workers that were retired are gone.
    Cleared {
        /// How many there were.
        ended: usize,
    },
    /// New connections go to workers of this generation, and those before it are gone.
    Restarted {
        /// The generation that the reload put in force.
        generation: Generation,
        /// How many were retired, and are gone.
        ended: usize,
    },
    /// No worker is left, and no rule.
    Stopped,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reloaded { generation } => write!(f, "generation {generation} is in force"),
            Self::Canary { generation, slots, of, .. } => {
                write!(f, "generation {generation} is on trial on {slots} of {of} slots")
            }
            Self::RolledBack { generation } => {
                write!(f, "generation {generation} is in force again")
            }
            Self::Scaled { workers, moved, slots } => {
                write!(f, "{workers} workers; {moved} of {slots} slots moved")
            }
            Self::Retired { seat, .. } => write!(f, "the worker of seat {seat} is retired"),
            Self::Cleared { ended } => write!(f, "{ended} retired workers have ended"),
            Self::Restarted { generation, ended } => {
                write!(f, "generation {generation} is in force, {ended} retired workers have ended")
            }
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// A step on the way to the end of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
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
            Self::WorkerReady { seat, ready, needed } => {
                write!(f, "seat {seat} is ready ({ready} of {needed})")
            }
            Self::CommitFailed { reason, failures } => {
                write!(f, "the kernel did not take the plan (try {failures}): {reason}")
            }
            Self::SuccessorReady { seat } => write!(f, "seat {seat}: the successor is ready"),
            Self::SuccessorFailed { failure, delay } => {
                write!(
                    f,
                    "the successor failed; the old one serves on, and another is started in \
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
