//! How requests get on.

use std::fmt;
use std::time::Duration;

use super::{Outcome, WorkerFailure};
use crate::plan::{Generation, Seat};

/// A step on the way to the end of a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// The configuration file was read again, and these settings have other values.
    Reconfigured {
        /// The changes, for display.
        changes: String,
    },
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
    /// The new workers are in force, and on probation: the workers before them are kept until that is
    /// over.
    OnProbation {
        /// The generation on probation.
        generation: Generation,
        /// The generation that is kept.
        before: Generation,
        /// How long the probation takes.
        probation: Duration,
        /// What the request comes to if the probation is passed.
        outcome: Box<Outcome>,
    },
    /// A worker on probation was lost or became unhealthy.
    FailedOnProbation {
        /// How.
        failure: WorkerFailure,
    },
    /// The probation has failed: the workers before it are put in force again.
    GoingBack {
        /// Their generation.
        generation: Generation,
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
            Self::Reconfigured { changes } => write!(f, "the configuration changes: {changes}"),
            Self::HookRuns { generation } => {
                write!(f, "before_reload of generation {generation} runs")
            }
            Self::WorkerReady { seat, ready, needed } => {
                write!(f, "seat {seat} is ready ({ready} of {needed})")
            }
            Self::CommitFailed { reason, failures } => {
                write!(f, "the kernel rejected the plan (try {failures}): {reason}")
            }
            Self::OnProbation { generation, before, probation, .. } if generation == before => {
                write!(f, "the new workers are in force, on probation for {probation:?}")
            }
            Self::OnProbation { generation, before, probation, .. } => write!(
                f,
                "generation {generation} is in force, on probation for {probation:?}; generation \
                 {before} is kept until then"
            ),
            Self::FailedOnProbation { failure } => f.write_str(&failure.in_one_line()),
            Self::GoingBack { generation } => {
                write!(f, "the probation has failed: going back to generation {generation}")
            }
            Self::SuccessorReady { seat } => write!(f, "seat {seat}: the successor is ready"),
            Self::SuccessorFailed { failure, delay } => {
                write!(
                    f,
                    "the successor failed; the old worker keeps serving, and another is started in \
                     {delay:?}: {}",
                    failure.in_one_line()
                )
            }
            Self::Swapped { generation } => {
                write!(f, "generation {generation} is in force; now the retired workers are ended")
            }
            Self::Clearing { left, of } => {
                let (are, s) =
                    (if *left == 1 { "is" } else { "are" }, if *of == 1 { "" } else { "s" });
                write!(f, "{left} of {of} retired worker{s} {are} left")
            }
            Self::Draining { workers: 1 } => f.write_str("1 worker is left to drain"),
            Self::Draining { workers } => write!(f, "{workers} workers are left to drain"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Exit, FailureCause, WorkerId};

    #[test]
    fn a_step_is_one_line_whatever_a_worker_printed() {
        let failure = |last_lines: &[&str]| WorkerFailure {
            worker: WorkerId(7),
            seat: Seat(0),
            generation: Generation(2),
            cause: FailureCause::Exit(Exit::Code(3)),
            last_lines: last_lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let delay = Duration::from_secs(1);
        let failed = |lines: &[&str]| {
            Progress::SuccessorFailed { failure: failure(lines), delay }.to_string()
        };
        let begin = "the successor failed; the old worker keeps serving, and another is started in 1s: seat 0: the \
                     worker of generation 2 exited with status 3 before it was in force";
        assert_eq!(failed(&[]), begin);
        assert_eq!(failed(&["a", "  b"]), format!("{begin}; it printed: a | b"));
    }

    #[test]
    fn each_step_is_told_with_its_numbers() {
        let (seat, generation, before) = (Seat(1), Generation(3), Generation(2));
        let probation = Duration::from_secs(30);
        let outcome = || Box::new(Outcome::EventsOver);
        let failure = WorkerFailure {
            worker: WorkerId(7),
            seat,
            generation,
            cause: FailureCause::Exit(Exit::Signal(9)),
            last_lines: vec!["a".to_owned()],
        };
        let reason = "EBUSY".to_owned();
        for (step, text) in [
            (
                Progress::Reconfigured { changes: "workers: 2 -> 3".to_owned() },
                "the configuration changes: workers: 2 -> 3",
            ),
            (Progress::HookRuns { generation }, "before_reload of generation 3 runs"),
            (Progress::WorkerReady { seat, ready: 2, needed: 4 }, "seat 1 is ready (2 of 4)"),
            (
                Progress::CommitFailed { reason, failures: 2 },
                "the kernel rejected the plan (try 2): EBUSY",
            ),
            (
                Progress::OnProbation { generation, before, probation, outcome: outcome() },
                "generation 3 is in force, on probation for 30s; generation 2 is kept until then",
            ),
            (
                Progress::OnProbation {
                    generation,
                    before: generation,
                    probation,
                    outcome: outcome(),
                },
                "the new workers are in force, on probation for 30s",
            ),
            (
                Progress::FailedOnProbation { failure },
                "seat 1: the worker of generation 3 was ended by SIGKILL before it was in force; it printed: a",
            ),
            (
                Progress::GoingBack { generation: before },
                "the probation has failed: going back to generation 2",
            ),
            (Progress::SuccessorReady { seat }, "seat 1: the successor is ready"),
            (
                Progress::Swapped { generation },
                "generation 3 is in force; now the retired workers are ended",
            ),
            (Progress::Clearing { left: 1, of: 1 }, "1 of 1 retired worker is left"),
            (Progress::Clearing { left: 1, of: 3 }, "1 of 3 retired workers is left"),
            (Progress::Clearing { left: 2, of: 3 }, "2 of 3 retired workers are left"),
            (Progress::Draining { workers: 1 }, "1 worker is left to drain"),
            (Progress::Draining { workers: 2 }, "2 workers are left to drain"),
        ] {
            assert_eq!(step.to_string(), text);
        }
    }
}
