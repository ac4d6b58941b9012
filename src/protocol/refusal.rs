//! Why requests are not carried out.

use std::fmt;
use std::net::IpAddr;

use super::{
    ErrorReply, Outcome, ProbationFailure, ReplaceReason, WorkerFailure, WorkerState, counted,
};
use crate::plan::{Generation, PlanError, Seat};

/// Why a request was refused, or given up. What was in force stays in force; only for
/// [`Self::Stopping`] is that not certain, since the swap may have been on its way.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No worker has been ready since the start.
    #[error("the cluster is still starting: no worker of this master is in force yet")]
    Starting,
    /// A later request took the place of this one, before any worker was in force.
    #[error("another reload or scale was asked for before a worker of this one was ready")]
    Superseded,
    /// The cluster is being stopped.
    #[error("the cluster is being stopped")]
    Stopping,
    /// Another reload or scale has not ended.
    #[error("a {0} is under way; try again when it has ended")]
    Busy(Rollout),
    /// What a rollout has put in force is on probation.
    #[error(
        "generation {generation} is on probation after a {rollout}: try again when that is over"
    )]
    OnProbation {
        /// The generation on probation.
        generation: Generation,
        /// The rollout that it came by.
        rollout: Rollout,
    },
    /// What the request had put in force failed on probation.
    #[error("{0}")]
    Probation(ProbationFailure),
    /// What the request had put in force was replaced before its probation was over.
    #[error("generation {generation} was replaced by a {by} before its probation was over")]
    Replaced {
        /// The generation that was on probation.
        generation: Generation,
        /// What has replaced it.
        by: Rollout,
    },
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
        "no earlier generation to roll back to: no reload since the start, a scale or a rollback"
    )]
    NothingBefore,
    /// Some workers of the generation to go back to have ended.
    #[error("generation {generation} cannot serve again: its workers of {} have ended", seats_text(.seats))]
    Gone {
        /// The generation.
        generation: Generation,
        /// The seats of the workers that have ended.
        seats: Vec<Seat>,
    },
    /// Some workers of the generation to go back to got their retire signal, and end.
    #[error(
        "generation {generation} cannot serve again: its workers of {} got the retire signal",
        seats_text(.seats)
    )]
    Finishing {
        /// The generation.
        generation: Generation,
        /// The seats of these workers.
        seats: Vec<Seat>,
    },
    /// There can be no such plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The generation in force has the highest number that there is.
    #[error("generation numbers are exhausted: {0} is the last")]
    LastGeneration(Generation),
    /// So many more or fewer make no number of workers that a cluster can have.
    #[error(
        "scale by {by:+}: the cluster is to have {}, and would have {}: expected 1 to 1024",
        counted(*workers, "worker"),
        i32::from(*workers).saturating_add(*by)
    )]
    ScaleBy {
        /// So many more; fewer, if it is negative.
        by: i32,
        /// How many there are to be before.
        workers: u16,
    },
    /// The seats that would stay have no worker that serves, while others do.
    #[error("no serving worker would be left: those of the remaining seats are not ready")]
    NobodyLeft,
    /// The cluster has no such seat.
    #[error("there is no seat {seat}: the cluster has {}", all_seats(*seats))]
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
    /// No worker of a new generation could be started: something that they are started from is missing, or the
    /// hook before them has failed.
    #[error("generation {generation} could not be started: {}", .failure.reason)]
    Release {
        /// The generation.
        generation: Generation,
        /// Why.
        failure: ReleaseFailure,
    },
    /// The kernel did not take the plan, repeatedly. The new workers were ended.
    #[error("the kernel rejected the new plan {}: {reason}", counted(*.failures, "time"))]
    Commit {
        /// The last error, for display.
        reason: String,
        /// How often it failed.
        failures: u32,
    },
    /// The configuration does not allow the number of workers.
    #[error("{reason}")]
    Configuration {
        /// Why, for display.
        reason: String,
    },
    /// Who asks is a process of a worker.
    #[error(
        "process {pid} ({program}), which asks, comes from {}: workers may not command the cluster",
        worker_text(*.seat)
    )]
    OfWorker {
        /// Its number.
        pid: u32,
        /// The name of its program, at most 15 bytes.
        program: String,
        /// The seat of its worker; `None` if it has left everything that tells whose it is.
        seat: Option<Seat>,
    },
    /// Nobody can tell which process asks.
    #[error("cannot tell which process asks: {reason}")]
    UnknownAsker {
        /// Why, for display.
        reason: String,
    },
    /// No seat has a worker, so that the client reaches none.
    #[error("{address}: no seat has a worker, so its connections are dropped")]
    Unserved {
        /// The client.
        address: IpAddr,
    },
    /// With the partition `connection` the address alone does not tell the worker.
    #[error(
        "{address}: each of its connections goes to a worker of its own, by a hash of address and port \
         (partition = connection)"
    )]
    ByConnection {
        /// The client.
        address: IpAddr,
    },
    /// With the partition `random` nothing tells the worker.
    #[error(
        "{address}: each of its connections goes to a worker that the kernel draws, nobody can tell which \
         (partition = random)"
    )]
    AtRandom {
        /// The client.
        address: IpAddr,
    },
    /// As many programs as may be are subscribed to events.
    #[error("too many event subscribers: the limit is {limit}")]
    TooManySubscribers {
        /// How many may be.
        limit: usize,
    },
    /// A handover is asked for by a master over the control socket, and by nobody else.
    #[error("takeover is only possible over the control socket")]
    NoHandover,
    /// The host is a member of no fleet.
    #[error("this cluster is in no fleet: its configuration has no fleet.name")]
    NotInAFleet,
    /// No list of the members has been read yet.
    #[error("the members of the fleet are not known yet: `ipcluster fleet status` says why")]
    FleetUnknown,
    /// The cluster was stopped before the request was carried out.
    #[error("the cluster is stopped")]
    Stopped,
    /// Another master has taken over before the request was carried out.
    #[error("another master has taken over meanwhile")]
    HandedOver,
    /// The master has ended; its workers and rules may serve on.
    #[error("the master has ended")]
    Ended,
    /// The master gave an outcome of another request: a fault of this library.
    #[error("unexpected reply of the master: {0:?}")]
    Mismatch(Box<Outcome>),
}

/// Why no worker of a new generation can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReleaseFailure {
    /// What is missing or has failed, for display.
    pub reason: String,
    /// What the hook printed last, the oldest line first; empty without one.
    pub last_lines: Vec<String>,
}

impl ReleaseFailure {
    /// Of nothing that prints.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), last_lines: Vec::new() }
    }
}

impl Refusal {
    /// What to do about it, in one line; `None` where the message says it all.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Worker(failure) if failure.last_lines.is_empty() => {
                "the old workers keep serving; it printed nothing"
            }
            Self::Worker(failure) => {
                let last_lines: Vec<&str> = failure.last_lines.iter().map(|it| it.trim()).collect();
                let last_lines = last_lines.join(" | ");
                return Some(format!("the old workers keep serving; it printed: {last_lines}"));
            }
            Self::Release { failure, .. } if failure.last_lines.is_empty() => {
                "the old workers keep serving"
            }
            Self::Release { failure, .. } => {
                let last_lines: Vec<&str> = failure.last_lines.iter().map(|it| it.trim()).collect();
                let last_lines = last_lines.join(" | ");
                return Some(format!("the old workers keep serving; it printed: {last_lines}"));
            }
            Self::Probation(failure) => return Some(failure.hint()),
            Self::OnProbation { .. } => {
                "`ipcluster status` tells when; `ipcluster rollback` goes back now, and a reload \
                 replaces it"
            }
            Self::Replaced { .. } => "`ipcluster status` shows what serves",
            Self::Commit { .. } => "the old workers keep serving; the log of the master says more",
            Self::Gone { .. } | Self::Finishing { .. } => {
                "reload with the old program in place; [timeouts] rollback keeps such workers for a time"
            }
            Self::NoSuchSeat { .. }
            | Self::Vacant { .. }
            | Self::NoSuchWorker { .. }
            | Self::NotLive { .. } => {
                "`ipcluster status` lists the workers with their seats and pids"
            }
            Self::ScaleBy { .. } => {
                "`ipcluster scale N` sets the number itself; `ipcluster stop` ends all workers"
            }
            Self::Leaving { .. } => "`ipcluster status` tells when it is retired",
            Self::Died { .. } => "its seat gets another worker in any case",
            Self::Starting => {
                "`ipcluster status` tells what it waits for; `ipcluster reload` reads the file again and starts new \
                 workers at once, without --share"
            }
            Self::Unserved { .. } => "they succeed once a worker is ready",
            Self::ByConnection { .. } => {
                "`ipcluster explain ADDRESS:PORT` names the worker of one of them"
            }
            Self::AtRandom { .. } => {
                "`ipcluster status` tells how many connections each worker has"
            }
            Self::TooManySubscribers { .. } => "end one of them",
            Self::OfWorker { .. } => {
                "ask from a shell outside of the workers; `worker_commands = true` lets workers do so"
            }
            Self::UnknownAsker { .. } => "ask again, from a process that waits for the answer",
            Self::HandedOver => "ask that one: `ipcluster status` shows what has come of it",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// The reason in a line, and what to do next.
impl From<&Refusal> for ErrorReply {
    fn from(refusal: &Refusal) -> Self {
        let text = match refusal {
            // Its lines are in the hint.
            Refusal::Worker(failure) => failure.without_lines().to_string(),
            _ => refusal.to_string(),
        };
        let message = text.lines().next().unwrap_or_default().to_owned();
        Self { message, hint: refusal.hint() }
    }
}

/// Whose a process is.
fn worker_text(seat: Option<Seat>) -> String {
    match seat {
        Some(seat) => format!("the worker of seat {seat}"),
        None => "a worker".to_owned(),
    }
}

/// The seats of a cluster that has so many.
fn all_seats(seats: usize) -> String {
    match seats {
        0 => "none".to_owned(),
        1 => "seat 0 alone".to_owned(),
        _ => format!("seats 0 to {}", seats - 1),
    }
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

/// An operation that brings in new workers and then changes the plan in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
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

#[cfg(test)]
mod tests;
