//! Requests before a plan of this master is in force.
//!
//! A cluster may start for long: its program may be broken, or what it needs may be away. Whoever mends it
//! must not have to wait for a back-off, nor be told that the cluster is still starting. So before the first
//! plan is in force:
//!
//! | request | what is done |
//! |---|---|
//! | `reload` | a new generation is started at once, beside the workers that are getting ready; a reload under way is superseded |
//! | `scale` | holds at once, since no client has a seat yet |
//! | `retire` | the seat is tried at once; there is no live worker to retire, which is the answer |
//! | `rollback`, `promote` | there is nothing to go back to, and nothing on trial |

use super::target::Target;
use crate::protocol::{Outcome, Refusal, Scaled};
use crate::supervisor::state::{Phase, count};
use crate::supervisor::{RequestId, Start, Supervisor};

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
            Err(Refusal::Starting) => Ok(()),
            checked => checked,
        }
    }

    /// Refuses the request of a rollout that another request supersedes while the cluster starts.
    pub(super) fn supersede_rollout(&mut self) {
        if self.is_starting() {
            self.give_up_rollout(Refusal::Superseded);
        }
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
