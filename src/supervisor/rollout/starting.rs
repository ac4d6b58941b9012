//! Requests before a plan of this master is in force.
//!
//! A cluster may start for long: its program may be broken, or what it needs may be away. Whoever mends it
//! must not have to wait for a back-off, nor be told that the cluster is still starting. So before the first
//! plan is in force:
//!
//! | request | what is done |
//! |---|---|
//! | `reload` | a new generation is started at once, beside the workers that are getting ready; a reload under way is superseded, unless its plan is on its way to the kernel |
//! | `scale` | holds at once as long as no worker can serve, since no client has a seat yet; else as later |
//! | `retire` | the seat is tried at once; there is no live worker to retire, which is the answer |
//! | `rollback`, `promote` | there is nothing to go back to, and nothing on trial |

use super::target::Target;
use crate::protocol::{Outcome, Refusal, Scaled};
use crate::supervisor::state::{Phase, count};
use crate::supervisor::{RequestId, Start, Supervisor, Worker};

impl Supervisor {
    /// Whether no plan of this master is in force.
    pub(in crate::supervisor) fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting(_))
    }

    /// Whether nothing of the cluster exists yet: no plan in force, and no process was ever started.
    pub(in crate::supervisor) fn is_first_start(&self) -> bool {
        matches!(self.phase, Phase::Starting(Start::Fresh)) && !self.has_started_worker
    }

    /// As [`Self::check_idle`], for requests that can be carried out before the first plan is in force.
    pub(in crate::supervisor) fn check_idle_or_starting(&self) -> Result<(), Refusal> {
        match self.check_idle() {
            Err(Refusal::Starting) => match &self.rollout {
                Some(rollout) if self.rollout_is_submitted() => Err(Refusal::Busy(rollout.kind())),
                _ => Ok(()),
            },
            checked => checked,
        }
    }

    /// Refuses the request of a rollout that another request supersedes while the cluster starts. Its
    /// generation is not used again: workers of it are still there.
    pub(super) fn supersede_rollout(&mut self) {
        if let Some(rollout) = self.rollout.as_ref().filter(|_| self.is_starting()) {
            self.last_generation = self.last_generation.max(rollout.to.newest());
            self.give_up_rollout(Refusal::Superseded);
        }
    }

    /// Whether the number of workers can be changed without a rollout: no worker can serve, and no plan is
    /// on its way to the kernel.
    pub(super) fn can_scale_at_once(&self) -> bool {
        let serves = self.workers.values().any(Worker::is_eligible);
        self.is_starting() && !serves && !self.kernel.is_committing()
    }

    /// Changes the number of workers before the first plan is in force: no slot moves.
    pub(super) fn scale_before_start(&mut self, request: RequestId, to: Target) {
        let workers = to.workers();
        let slots = match self.plan().rescaled(&to.weights) {
            Ok(plan) => count(plan.assignment().slots()),
            Err(error) => return self.reply(request, Err(error.into())),
        };
        self.supersede_rollout();
        self.target = to;
        self.backoffs.values_mut().for_each(crate::supervisor::workers::SeatBackoff::reset);
        self.reply(request, Ok(Outcome::Scaled(Scaled { workers, moved_slots: 0, slots })));
    }
}
