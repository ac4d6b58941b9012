//! What an operator wants to read in the log and to count.

use std::fmt;
use std::time::Duration;

use super::{Exit, WorkerFailure, WorkerId, WorkerState, Writer};
use crate::plan::{Generation, Seat};

/// Something worth a line in the log. Its `Display` is that line, without the time.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// A worker listens on all its ports.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// From its spawn until now.
        took: Duration,
    },
    /// A worker that an earlier master has started is this one's from now on.
    Adopted {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// Its process.
        pid: u32,
        /// Where in its life it is.
        state: WorkerState,
    },
    /// A process that seems to be a worker of ours, and cannot be proven to be one: it is left alone.
    Orphan {
        /// The process.
        pid: u32,
        /// What is known of it, and what not, for display.
        reason: String,
    },
    /// A worker failed before it was in force.
    Failed(WorkerFailure),
    /// A live worker died. Its clients go to the others.
    Died {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How it ended.
        exit: Exit,
        /// How long it had been ready.
        lived: Duration,
        /// What it printed last, oldest line first.
        last_lines: Vec<String>,
    },
    /// The seat gets another worker, after this delay.
    Respawn {
        /// The seat.
        seat: Seat,
        /// The delay; zero: at once.
        delay: Duration,
    },
    /// A worker gets no new connections any more.
    Retired {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// A worker is asked to end.
    Ending {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// Why.
        why: Why,
    },
    /// A worker did not end when asked to, and is killed.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// A worker that was retired or asked to end is gone.
    Ended {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How it ended.
        exit: Exit,
    },
    /// Another plan is in force.
    InForce {
        /// Its generation.
        generation: Generation,
        /// Seats with a worker.
        occupied: usize,
        /// Seats in all.
        seats: usize,
    },
    /// A part of the clients gets a new generation, on trial.
    OnTrial {
        /// Its generation.
        generation: Generation,
        /// How many workers it has.
        workers: usize,
        /// How many slots go to it.
        slots: usize,
        /// How many slots there are.
        of: usize,
    },
    /// Somebody else had changed our rules; they are as they should be again.
    Repaired {
        /// How they differed, for display.
        what: String,
        /// Who it was, if that is known.
        writer: Option<Writer>,
        /// How often this master has repaired them.
        total: u64,
        /// For how long the next repair is held back, since there were so many; zero: not at all.
        held_back: Duration,
    },
    /// Our rules could not be looked at, or not be repaired.
    RepairFailed {
        /// The error, for display.
        reason: String,
        /// Until the next try.
        retry_in: Duration,
    },
    /// After repairs that had to be held back, nobody has changed our rules for a while.
    LeftAlone {
        /// For how long.
        quiet: Duration,
    },
    /// A rule of somebody else maps connections to a listener of ours before ours do.
    ForeignNatFound {
        /// The rule, for display.
        rule: String,
    },
    /// Such a rule is gone, or does so no more.
    ForeignNatGone {
        /// The rule, for display.
        rule: String,
    },
    /// The kernel did not take a plan.
    CommitFailed {
        /// The error, for display.
        reason: String,
        /// Until the next try.
        retry_in: Duration,
    },
}

/// Why a worker is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// It did not get ready in time.
    NotReady,
    /// Its place is not wanted any more: the reload or scale that it was for failed, the seat
    /// is gone, its ports are unfit, or the cluster stops.
    Unwanted,
    /// It was retired, and its last connection has ended.
    Drained,
    /// It was retired, and its time to drain is over.
    DrainLimit,
    /// The cluster stops without waiting for connections.
    StopNow,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "it did not get ready in time",
            Self::Unwanted => "it is not wanted any more",
            Self::Drained => "its last connection has ended",
            Self::DrainLimit => "its time to drain is over",
            Self::StopNow => "the cluster stops at once",
        })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { seat, generation, took, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} ready after {took:.1?}")
            }
            Self::Adopted { seat, generation, pid, state, .. } => {
                write!(f, "seat {seat}: {state} worker of generation {generation} adopted")?;
                write!(f, " (pid {pid})")
            }
            Self::Orphan { pid, reason } => write!(f, "process {pid} is left alone: {reason}"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Died { seat, generation, exit, lived, last_lines, .. } => {
                write!(f, "seat {seat}: live worker of generation {generation} {exit}")?;
                write!(f, ", {lived:.1?} after it was ready")?;
                last_lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Respawn { seat, delay } if delay.is_zero() => {
                write!(f, "seat {seat}: a new worker is started")
            }
            Self::Respawn { seat, delay } => {
                write!(f, "seat {seat}: a new worker is started in {delay:?}")
            }
            Self::Retired { seat, generation, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} retired")
            }
            Self::Ending { seat, generation, why, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} asked to end: {why}")
            }
            Self::Killed { seat, generation, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} did not end: killed")
            }
            Self::Ended { seat, generation, exit, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} {exit}")
            }
            Self::InForce { generation, occupied, seats } => {
                write!(f, "generation {generation} in force, {occupied} of {seats} seats occupied")
            }
            Self::OnTrial { generation, workers, slots, of } => write!(
                f,
                "generation {generation} on trial, {workers} workers on {slots} of {of} slots"
            ),
            Self::ForeignNatFound { rule } => {
                write!(f, "decides before our rules: {rule}")
            }
            Self::ForeignNatGone { rule } => {
                write!(f, "no longer decides before our rules: {rule}")
            }
            Self::Repaired { what, writer, total, held_back } => {
                f.write_str("our rules were changed by ")?;
                match writer {
                    Some(writer) => write!(f, "{writer}")?,
                    None => f.write_str("somebody else")?,
                }
                write!(f, " and made anew ({what}; repair {total} of this master)")?;
                if held_back.is_zero() {
                    return Ok(());
                }
                write!(
                    f,
                    ": it happens again and again, so the next repair is not before {held_back:?} \
                     from now, and clients may be refused until then: stop whatever changes them"
                )
            }
            Self::RepairFailed { reason, retry_in } => {
                write!(f, "cannot see to our rules: {reason}; again in {retry_in:?}")
            }
            Self::LeftAlone { quiet } => {
                write!(
                    f,
                    "nobody has changed our rules for {quiet:?}: repairs are made at once again"
                )
            }
            Self::CommitFailed { reason, retry_in } => {
                write!(f, "the kernel did not take the plan: {reason}; again in {retry_in:?}")
            }
        }
    }
}
