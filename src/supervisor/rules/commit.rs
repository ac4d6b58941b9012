//! One commit at a time: what is submitted, and what its outcome means.

use std::time::Duration;

use super::desired::Unplannable;
use crate::protocol::{Event, FailureCause, Timestamp};
use crate::supervisor::rollout::PlanWithWorkers;
use crate::supervisor::state::Phase;
use crate::supervisor::workers::Stage;
use crate::supervisor::{Action, Start, Supervisor};

impl Supervisor {
    /// Submits the plan that should be in force, if another one is.
    pub(in crate::supervisor) fn commit_changes(&mut self, now: Timestamp) {
        while !self.kernel.is_busy() && self.kernel.not_before() <= now {
            match self.desired() {
                Ok(None) => return,
                Ok(Some(candidate)) if candidate.plan == self.kernel.in_force.plan => {
                    let before = self.kernel.replace(candidate);
                    self.came_into_force(&before, Duration::ZERO, now);
                }
                Ok(Some(candidate)) => {
                    let plan = self.kernel.submit(candidate);
                    self.actions.push(Action::Commit(plan));
                }
                Err(unplannable) => self.leave_out(unplannable, now),
            }
        }
    }

    pub(in crate::supervisor) fn commit_deadline(&self) -> Option<Timestamp> {
        (!self.kernel.is_busy() && self.is_outdated()).then(|| self.kernel.not_before())
    }

    pub(in crate::supervisor) fn came_into_force(
        &mut self,
        before: &PlanWithWorkers,
        took: Duration,
        now: Timestamp,
    ) {
        if self.kernel.in_force.differs_in_guard_alone(before) {
            return;
        }
        let renices = self.settings.retire.renice != 0;
        let Self { kernel, workers, actions, .. } = self;
        for worker in workers.values_mut().filter(|worker| kernel.in_force.names(worker)) {
            let ready = match &worker.stage {
                Stage::Ready { ready } => Some(*ready),
                Stage::Reactivating(reactivation) => reactivation.ready,
                _ => None,
            };
            if let Some(ready) = ready {
                if renices && matches!(worker.stage, Stage::Reactivating(_)) {
                    actions.push(Action::RestoreNice { worker: worker.id });
                }
                if let Stage::Reactivating(reactivation) = &worker.stage
                    && reactivation.retirement.told().is_some()
                {
                    actions.push(Action::TellServing { worker: worker.id });
                }
                worker.stage = Stage::Live { ready, since: now };
                worker.link.serves_again();
            }
        }
        let end_old_workers = matches!(self.phase, Phase::Starting(Start::FromKernel));
        if let Phase::Starting(_) = self.phase {
            self.phase = Phase::Serving;
        }
        let (occupied, seats) = match &kernel.in_force.roster {
            Some(roster) => (roster.occupied(), roster.holders.len()),
            None => (kernel.in_force.plan.survivors().count(), kernel.in_force.plan.seats().len()),
        };
        let generation = self.generation();
        self.emit(Event::InForce { generation, occupied, seats, took });
        if end_old_workers {
            self.end_old_workers();
        }
        self.end_rollout_in_force(before, took, now);
        self.end_return_in_force();
    }

    pub(in crate::supervisor) fn commit_failed(&mut self, reason: String, now: Timestamp) {
        let was_rollout = self.rollout_is_submitted();
        let retry_in = self.kernel.failed(now);
        self.emit(Event::CommitFailed { reason: reason.clone(), retry_in });
        if was_rollout {
            self.rollout_commit_failed(&reason);
        }
        self.stop_commit_failed(reason);
    }

    /// Leaves out the worker that cannot be named in a plan; or counts a plan that cannot be made as a failed
    /// commit.
    fn leave_out(&mut self, unplannable: Unplannable, now: Timestamp) {
        match unplannable {
            Unplannable::Worker { id, error } => {
                let Some(worker) = self.workers.get_mut(&id) else { return };
                worker.is_excluded = true;
                let worker = worker.clone();
                self.failed(&worker, FailureCause::Unfit(error), Vec::new(), now);
            }
            Unplannable::Plan(error) => {
                let reason = error.to_string();
                self.commit_failed(reason.clone(), now);
                self.rollout_commit_failed(&reason);
            }
        }
    }
}
