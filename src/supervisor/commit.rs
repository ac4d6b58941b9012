//! One commit at a time: what is submitted, and what its outcome means.

use std::time::Duration;

use super::aim::Draft;
use super::desired::Unplannable;
use super::state::Phase;
use super::worker::Stage;
use super::{Action, FailureCause, Moment, Notice, Start, Supervisor};

impl Supervisor {
    /// Submits the plan that should be in force, if another one is.
    pub(super) fn commit_changes(&mut self, now: Moment) {
        while !self.kernel.is_busy() && self.kernel.not_before() <= now {
            match self.desired() {
                Ok(None) => return,
                Ok(Some(draft)) if draft.plan == self.kernel.in_force.plan => {
                    let before = self.kernel.replace(draft);
                    self.came_into_force(&before, Duration::ZERO, now);
                }
                Ok(Some(draft)) => {
                    let plan = self.kernel.submit(draft);
                    self.actions.push(Action::Commit(plan));
                }
                Err(unplannable) => self.leave_out(unplannable, now),
            }
        }
    }

    pub(super) fn commit_deadline(&self) -> Option<Moment> {
        (!self.kernel.is_busy() && self.is_outdated()).then(|| self.kernel.not_before())
    }

    pub(super) fn came_into_force(&mut self, before: &Draft, took: Duration, now: Moment) {
        let renices = self.settings.retire.renice != 0;
        let Self { kernel, workers, actions, .. } = self;
        for worker in workers.values_mut().filter(|worker| kernel.in_force.names(worker)) {
            let ready = match &worker.stage {
                Stage::Ready { ready } => Some(*ready),
                Stage::Recalled(recall) => recall.ready,
                _ => None,
            };
            if let Some(ready) = ready {
                if renices && matches!(worker.stage, Stage::Recalled(_)) {
                    actions.push(Action::RestoreNice { worker: worker.id });
                }
                worker.stage = Stage::Live { ready, since: now };
                worker.speech.serves_again();
            }
        }
        let took_over = matches!(self.phase, Phase::Starting(Start::Takeover));
        if let Phase::Starting(_) = self.phase {
            self.phase = Phase::Serving;
        }
        let (occupied, seats) = match &kernel.in_force.lineup {
            Some(lineup) => (lineup.occupied(), lineup.holders.len()),
            None => (kernel.in_force.plan.survivors().count(), kernel.in_force.plan.seats().len()),
        };
        let generation = self.generation();
        self.actions.push(Action::Notice(Notice::InForce { generation, occupied, seats, took }));
        if took_over {
            self.took_over();
        }
        self.end_rollout_in_force(before);
    }

    pub(super) fn commit_failed(&mut self, reason: String, now: Moment) {
        let was_rollout = self.rollout_is_submitted();
        let retry_in = self.kernel.failed(now);
        let notice = Notice::CommitFailed { reason: reason.clone(), retry_in };
        self.actions.push(Action::Notice(notice));
        if was_rollout {
            self.rollout_commit_failed(&reason);
        }
        self.stop_commit_failed(reason);
    }

    /// Goes on without what cannot be planned.
    fn leave_out(&mut self, unplannable: Unplannable, now: Moment) {
        match unplannable {
            Unplannable::Worker { id, error } => {
                let Some(worker) = self.workers.get_mut(&id) else { return };
                worker.unfit = true;
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
