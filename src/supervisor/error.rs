//! Why a request is not carried out, and why a worker did not get ready.

use std::fmt;
use std::time::Duration;

use super::{Exit, NotReady, ReplaceReason, Unhealthy, WorkerId, WorkerState};
use crate::plan::{Generation, PlanError, Seat};

/// Why a request was refused, or given up. What was in force stays in force; only for
/// [`Self::Stopping`] is that not certain, since the swap may have been on its way.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No worker has been ready since the start.
    #[error("the cluster is still starting: no worker of this master is in force yet")]
    Starting,
    /// The cluster is being stopped.
    #[error("the cluster is being stopped")]
    Stopping,
    /// Another reload or scale has not ended.
    #[error("a {0} is under way; try again when it has ended")]
    Busy(Rollout),
    /// A canary is in force: it is to be promoted or rolled back first.
    #[error(
        "generation {generation} is on trial: `ipcluster promote` or `ipcluster rollback` ends that"
    )]
    Canary {
        /// Its generation.
        generation: Generation,
    },
    /// No canary is in force.
    #[error("no generation is on trial: `ipcluster reload --share` begins that")]
    NoCanary,
    /// No reload of this master is the last thing that was done to the cluster.
    #[error(
        "there is nothing to go back to: nothing was reloaded since the start, a scale or a rollback"
    )]
    NothingBefore,
    /// Of the generation to go back to some workers have ended.
    #[error("generation {generation} cannot serve again: its workers of {} have ended", seats_text(.seats))]
    Gone {
        /// The generation.
        generation: Generation,
        /// The seats of the workers that have ended.
        seats: Vec<Seat>,
    },
    /// There can be no such plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The generation in force has the highest number that there is.
    #[error("generation {0} is the last that can be numbered")]
    LastGeneration(Generation),
    /// The seats that would stay have no worker that serves, while others do.
    #[error("no worker would be left to serve: those of the seats that stay are not ready")]
    NobodyLeft,
    /// The cluster has no such seat.
    #[error("there is no seat {seat}: the cluster has seats 0 to {}", seats.saturating_sub(1))]
    NoSuchSeat {
        /// The seat.
        seat: Seat,
        /// How many there are.
        seats: usize,
    },
    /// No live worker holds the seat: there is nothing to retire.
    #[error("seat {seat} has no live worker")]
    Vacant {
        /// The seat.
        seat: Seat,
    },
    /// No worker has this process.
    #[error("no worker of this cluster has pid {pid}")]
    NoSuchWorker {
        /// The number.
        pid: u32,
    },
    /// The worker gets no new connections anyway.
    #[error("the worker, of seat {seat}, is {state}: only a live one can be retired")]
    NotLive {
        /// Its seat.
        seat: Seat,
        /// Where it is in its life.
        state: WorkerState,
    },
    /// The worker is being replaced already.
    #[error("the worker of seat {seat} is being replaced already: {cause}")]
    Leaving {
        /// Its seat.
        seat: Seat,
        /// Why.
        cause: ReplaceReason,
    },
    /// The worker that was to be replaced died first. Its seat gets another one in any case.
    #[error("the worker of seat {seat} died before its successor was ready")]
    Died {
        /// Its seat.
        seat: Seat,
    },
    /// A new worker failed before it was put into force. The others were ended.
    #[error("{0}")]
    Worker(WorkerFailure),
    /// The kernel did not take the plan, repeatedly. The new workers were ended.
    #[error("the kernel did not take the new plan, {failures} times: {reason}")]
    Commit {
        /// The last error, for display.
        reason: String,
        /// How often it failed.
        failures: u32,
    },
}

/// Some of the seats by number, and how many in all.
fn seats_text(seats: &[Seat]) -> String {
    const SHOWN: usize = 8;
    let numbers: Vec<String> = seats.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = match seats.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let noun = if seats.len() == 1 { "seat" } else { "seats" };
    format!("{noun} {}{more}", numbers.join(", "))
}

/// What brings in new workers and then changes the plan at one stroke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rollout {
    /// A new generation.
    Reload,
    /// A new generation for a part of the clients.
    Canary,
    /// That generation for all of them.
    Promote,
    /// Workers of the generation before.
    Rollback,
    /// Another number of workers.
    Scale,
}

impl fmt::Display for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reload => "reload",
            Self::Canary => "reload of a share",
            Self::Promote => "promotion",
            Self::Rollback => "rollback",
            Self::Scale => "scale",
        })
    }
}

/// A worker that failed before it was in force, or, where that is said, afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerFailure {
    /// The worker.
    pub worker: WorkerId,
    /// Its seat.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// What happened.
    pub cause: FailureCause,
    /// What it printed last, oldest line first; empty if nothing is known. The supervisor knows it
    /// of a worker that has exited.
    pub last_lines: Vec<String>,
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
pub enum FailureCause {
    /// Its process could not be started.
    Spawn {
        /// The error, for display.
        reason: String,
    },
    /// Its process ended before it was in force.
    Exit(Exit),
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
        /// What it was.
        lack: NotReady,
    },
    /// It was ready, and fell silent before it was in force.
    Unhealthy(Unhealthy),
    /// It said that it stops before it was in force.
    Stopping,
    /// Its ports cannot stand in the plan.
    Unfit(PlanError),
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { reason } => write!(f, "could not be started: {reason}"),
            Self::Exit(exit) => write!(f, "{exit} before it was in force"),
            Self::NotReady { limit } => {
                write!(f, "did not listen on all its ports within {limit:?}")
            }
            Self::Died { exit, lived } => write!(f, "{exit}, {lived:.1?} after it was ready"),
            Self::Incomplete { limit, lack } => write!(f, "{lack} within {limit:?}"),
            Self::Unhealthy(cause) => write!(f, "did not answer any more: {cause}"),
            Self::Stopping => f.write_str("said that it stops before it was in force"),
            Self::Unfit(error) => write!(f, "cannot be put into force: {error}"),
        }
    }
}
