//! The probation of what a rollout has put in force: how it stands, and how it failed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Rollout, WorkerFailure, counted, measured};
use crate::plan::Generation;

/// A probation under way, as [`Status`](super::Status) shows it: the workers of a rollout are in force and
/// watched, and those before it are kept able to serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Probation {
    /// The generation on probation.
    pub generation: Generation,
    /// The generation that serves again if the probation fails: the same number after a scale.
    pub before: Generation,
    /// Seconds until the probation is over, finite; 0 while it waits for a lost worker to be replaced.
    pub seconds_left: f64,
    /// How many of its workers were lost or became unhealthy so far.
    pub failures: u32,
    /// How many workers of the generation before are kept.
    pub standby: u32,
}

/// How a probation failed, and what serves since.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ProbationFailure {
    /// The rollout that was on probation.
    pub rollout: Rollout,
    /// Its generation.
    pub generation: Generation,
    /// From its swap to its failure.
    pub after: Duration,
    /// The workers that were lost or became unhealthy, the first one first; at most
    /// [`Self::MOST`], each with its last lines. Empty if only the count of failures is known.
    pub failures: Vec<WorkerFailure>,
    /// How many there were.
    pub count: u32,
    /// The generation that serves again; `None`: none of its workers could, and the one that was on
    /// probation stays in force.
    pub serving: Option<Generation>,
    /// How many workers the generation that serves again is to have.
    pub workers: u16,
}

impl ProbationFailure {
    /// The most workers that are named.
    pub const MOST: usize = 8;

    /// What was on probation, as the subject of a sentence.
    fn subject(&self) -> String {
        match self.rollout {
            Rollout::Scale => format!("the scale of generation {}", self.generation),
            _ => format!("generation {}", self.generation),
        }
    }

    /// What serves now, and what the lost workers printed last: one line.
    pub(super) fn hint(&self) -> String {
        let serving = match (self.serving, self.rollout) {
            (Some(_), Rollout::Scale) => {
                format!("the cluster has {} again", counted(self.workers, "worker"))
            }
            (Some(generation), _) => format!("generation {generation} serves again"),
            (None, _) => format!(
                "generation {} stays in force: no worker of the generation before could serve",
                self.generation
            ),
        };
        let mut printed = self.failures.iter().map(|failure| &failure.last_lines);
        match printed.find(|lines| !lines.is_empty()) {
            Some(lines) => {
                let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
                format!("{serving}; the failed worker printed: {}", lines.join(" | "))
            }
            None if self.count == 1 => format!("{serving}; the failed worker printed nothing"),
            None => format!("{serving}; the failed workers printed nothing"),
        }
    }
}

impl fmt::Display for ProbationFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = measured(self.after);
        write!(f, "{} failed on probation, {after} after its swap: ", self.subject())?;
        match self.failures.first() {
            Some(first) => first.without_lines().fmt(f)?,
            None => f.write_str("none of its workers is healthy")?,
        }
        match self.count.saturating_sub(1) {
            0 => Ok(()),
            1 => f.write_str(" (and 1 more failure)"),
            more => write!(f, " (and {more} more failures)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Seat;
    use crate::protocol::{ErrorReply, Exit, FailureCause, Refusal, WorkerId};

    fn failure() -> ProbationFailure {
        let lost = |seat: u16| WorkerFailure {
            worker: WorkerId(7),
            seat: Seat(seat),
            generation: Generation(2),
            cause: FailureCause::Died { exit: Exit::Code(3), lived: Duration::from_millis(400) },
            last_lines: vec!["  x = (".to_owned(), "SyntaxError".to_owned()],
        };
        ProbationFailure {
            rollout: Rollout::Reload,
            generation: Generation(2),
            after: Duration::from_millis(500),
            failures: vec![lost(1), lost(0)],
            count: 2,
            serving: Some(Generation(1)),
            workers: 2,
        }
    }

    fn told(failure: ProbationFailure) -> (String, String) {
        let reply = ErrorReply::from(&Refusal::Probation(failure));
        (reply.message, reply.hint.unwrap())
    }

    #[test]
    fn it_is_said_what_failed_what_it_printed_and_what_serves() {
        let (message, hint) = told(failure());
        assert_eq!(
            message,
            "generation 2 failed on probation, 500.0 ms after its swap: seat 1: the worker of \
             generation 2 exited with status 3, 400.0 ms after it was ready (and 1 more failure)"
        );
        assert_eq!(
            hint,
            "generation 1 serves again; the failed worker printed: x = ( | SyntaxError"
        );
    }

    #[test]
    fn a_scale_goes_back_to_a_number_and_what_cannot_be_gone_back_from_is_said() {
        let scale = ProbationFailure {
            rollout: Rollout::Scale,
            failures: Vec::new(),
            count: 0,
            ..failure()
        };
        let (message, hint) = told(scale.clone());
        assert_eq!(
            message,
            "the scale of generation 2 failed on probation, 500.0 ms after its swap: none of its \
             workers is healthy"
        );
        assert_eq!(hint, "the cluster has 2 workers again; the failed workers printed nothing");
        let (_, hint) = told(ProbationFailure { count: 1, workers: 1, ..scale.clone() });
        assert_eq!(hint, "the cluster has 1 worker again; the failed worker printed nothing");
        let (_, hint) = told(ProbationFailure { serving: None, ..scale });
        assert!(hint.starts_with("generation 2 stays in force: no worker of"), "{hint}");
    }
}
