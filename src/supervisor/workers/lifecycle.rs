//! What becomes of each worker: timed out, retired, ended, killed.

use super::retirement::Retirement;
use super::worker::{Ending, Stage, Worker};
use crate::protocol::{EndReason, Event, FailureCause, NotReady, Timestamp, WorkerId};
use crate::supervisor::{Action, Supervisor};

impl Supervisor {
    pub(in crate::supervisor) fn act_on_deadlines(&mut self, now: Timestamp) {
        let is_due = |worker: &&Worker| self.worker_deadline(worker).is_some_and(|at| at <= now);
        let due: Vec<WorkerId> = self.workers.values().filter(is_due).map(|w| w.id).collect();
        for id in due {
            match &self.workers[&id].stage {
                Stage::Starting => self.time_out(id, now),
                Stage::Retired(_) => self.end(id, EndReason::DrainLimit, now),
                Stage::Reactivating(_) => self.reactivation_timed_out(id, now),
                Stage::Dying { ending: Ending::Ordered { .. }, .. } => self.terminate(id, now),
                Stage::Dying { .. } => self.kill(id),
                Stage::Ready { .. } | Stage::Live { .. } => {}
            }
        }
    }

    pub(in crate::supervisor) fn time_out(&mut self, id: WorkerId, now: Timestamp) {
        let worker = self.workers[&id].clone();
        self.end(id, EndReason::NotReady, now);
        let limit = worker.health.extend(worker.started.after(self.settings.ready));
        let limit = limit.since(worker.started);
        let cause = match worker.health.lack() {
            NotReady::NotListening => FailureCause::NotReady { limit },
            lack => FailureCause::Incomplete { limit, lack },
        };
        if worker.is_drainer {
            return self.drainer_failed(&worker, cause, Vec::new());
        }
        self.failed(&worker, cause, Vec::new(), now);
    }

    pub(in crate::supervisor) fn worker_deadline(&self, worker: &Worker) -> Option<Timestamp> {
        match &worker.stage {
            Stage::Starting => {
                Some(worker.health.extend(worker.started.after(self.settings.ready)))
            }
            Stage::Ready { .. } | Stage::Live { .. } => None,
            Stage::Retired(retirement) => retirement.deadline(&self.settings),
            Stage::Reactivating(reactivation) => reactivation.deadline(),
            Stage::Dying { ending: Ending::Ordered { terminate_at }, .. } => Some(*terminate_at),
            Stage::Dying { ending: Ending::Terminated { kill_at }, .. } => Some(*kill_at),
            Stage::Dying { .. } => None,
        }
    }

    /// Retires the live workers that no plan names any more nor is about to, and ends those that never will be
    /// named. A worker that the plan in force names, or that one on its way to the kernel does, is
    /// left alone.
    pub(in crate::supervisor) fn release_workers(&mut self, now: Timestamp) {
        // One that has just come back may have to wait for the kernel.
        let next = self.desired_roster();
        let is_next = |worker: &Worker| next.as_ref().is_some_and(|next| next.names(worker));
        let unnamed: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| !self.kernel.names(worker) && !self.serves_on_reused_listeners(worker))
            .map(|worker| worker.id)
            .collect();
        for id in unnamed {
            let worker = &self.workers[&id];
            match worker.stage {
                Stage::Live { .. } if is_next(worker) => {}
                Stage::Live { .. } if self.wants(worker) && self.keeps_seat_unhealthy(worker) => {}
                Stage::Live { .. } => self.retire(id, now),
                Stage::Reactivating(_) if !self.wants(worker) => self.retire_again(id, now),
                Stage::Starting | Stage::Ready { .. } if !self.wants(worker) => {
                    let drains = self.may_have_had_clients(worker) && !self.stops_at_once();
                    match drains {
                        true => self.retire_unserved(id, now),
                        false => self.end(id, EndReason::Unwanted, now),
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether the plan in force leads to sockets that a worker which is ready has inherited, and lets
    /// clients in.
    pub(in crate::supervisor) fn serves_on_reused_listeners(&self, worker: &Worker) -> bool {
        let ports = worker.ports.as_ref().filter(|_| worker.reuses_listeners);
        let is_closed = || self.is_stopping() && self.is_closed();
        matches!(worker.stage, Stage::Ready { .. })
            && ports.is_some_and(|ports| self.kernel.steers_to(ports))
            && !is_closed()
    }

    /// Whether a worker that was never in force may have connections all the same: by the sockets that
    /// it has inherited, or under an earlier master.
    fn may_have_had_clients(&self, worker: &Worker) -> bool {
        let serves = matches!(worker.stage, Stage::Ready { .. }) && !worker.is_excluded;
        worker.adopted || (worker.reuses_listeners && serves)
    }

    fn wants(&self, worker: &Worker) -> bool {
        if worker.is_drainer {
            return !self.stops_at_once();
        }
        let in_rollout = || self.rollout.as_ref().is_some_and(|r| r.to.includes(worker));
        let is_fit = !worker.is_excluded && !worker.health.is_stopping();
        is_fit && !self.is_stopping() && (self.target.includes(worker) || in_rollout())
    }

    pub(in crate::supervisor) fn retire(&mut self, id: WorkerId, now: Timestamp) {
        self.end_recovery(id, now);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.stage = Stage::Retired(Retirement::new(now));
        self.actions.push(Action::Emit(worker.retired_event()));
        self.record_retirement(id, now);
    }

    /// Retires a worker that no plan of this master has named. One that was not seen to listen is not to
    /// serve again either: of two in a place a rollback goes back to the one that did.
    fn retire_unserved(&mut self, id: WorkerId, now: Timestamp) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.is_excluded |= matches!(worker.stage, Stage::Starting);
        }
        self.retire(id, now);
    }

    /// Asks a worker to end. One that may not have been spawned yet is asked when it has.
    pub(in crate::supervisor) fn end(&mut self, id: WorkerId, why: EndReason, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let (seat, generation) = (worker.seat, worker.generation);
        worker.stage = Stage::Dying { since: now, ending: Ending::Unspawned };
        let event = Event::Ending { worker: id, seat, generation, why };
        self.actions.push(Action::Emit(event));
        self.terminate_if_spawned(id, now);
    }

    /// Tells it to end, where it can be told, or has a signal say so.
    pub(in crate::supervisor) fn terminate_if_spawned(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Dying { ending: ending @ Ending::Unspawned, .. } = &mut worker.stage
            && worker.pid.is_some()
        {
            if worker.link.is_open() && !self.settings.die.is_zero() {
                *ending = Ending::Ordered { terminate_at: now.after(self.settings.die) };
                self.actions.push(Action::OrderStop { worker: id });
            } else {
                self.terminate(id, now);
            }
        }
    }

    pub(in crate::supervisor) fn terminate(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Dying { ending, .. } = &mut worker.stage {
            *ending = Ending::Terminated { kill_at: now.after(self.settings.die) };
            self.actions.push(Action::Terminate { worker: id });
        }
    }

    pub(in crate::supervisor) fn kill(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Dying { ending, .. } = &mut worker.stage {
            *ending = Ending::Killed;
            self.actions.push(Action::Emit(worker.killed_event()));
            self.actions.push(Action::Kill { worker: id });
        }
    }
}
