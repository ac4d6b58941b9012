//! The end of workers: retired when no plan names them any more, ordered to stop, then signalled.

use super::retirement::Retirement;
use super::worker::{Ending, Stage, Worker};
use crate::protocol::{EndReason, Event, Timestamp, WorkerId};
use crate::supervisor::{Action, Supervisor};

impl Supervisor {
    /// Retires the live workers that no plan names any more or is about to name, and ends the workers
    /// that no plan will ever name. A worker that the plan in force names, or the plan on its way to the
    /// kernel, is left alone.
    pub(in crate::supervisor) fn release_workers(&mut self, now: Timestamp) {
        // A worker that is healthy again may have to wait for a commit before a plan names it.
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

    /// Whether clients come to a worker that is ready by listening sockets that it reuses, since the plan
    /// in force steers to them.
    pub(in crate::supervisor) fn serves_on_reused_listeners(&self, worker: &Worker) -> bool {
        let ports = worker.ports.as_ref().filter(|_| worker.reuses_listeners);
        let is_closed = || self.is_stopping() && self.is_closed();
        matches!(worker.stage, Stage::Ready { .. })
            && ports.is_some_and(|ports| self.kernel.steers_to(ports))
            && !is_closed()
    }

    /// Whether a worker that was never in force may have connections all the same: by listening sockets
    /// that it reuses, or under an earlier master.
    fn may_have_had_clients(&self, worker: &Worker) -> bool {
        let serves = matches!(worker.stage, Stage::Ready { .. }) && !worker.is_excluded;
        worker.adopted || (worker.reuses_listeners && serves)
    }

    fn wants(&self, worker: &Worker) -> bool {
        if worker.is_drainer {
            return !self.stops_at_once();
        }
        let in_rollout = || self.rollout.as_ref().is_some_and(|r| r.to.includes(worker));
        let is_usable = !worker.is_excluded && !worker.health.is_stopping();
        let has_place =
            || self.target.includes(worker) || in_rollout() || self.is_returning_to(worker);
        is_usable && !self.is_stopping() && has_place()
    }

    pub(in crate::supervisor) fn retire(&mut self, id: WorkerId, now: Timestamp) {
        self.end_recovery(id, now);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.stage = Stage::Retired(Retirement::of_told(now, worker.told_before));
        let (seat, generation) = (worker.seat, worker.generation);
        self.emit(Event::Retired { worker: id, seat, generation });
        self.record_retirement(id, now);
    }

    /// Retires a worker that no plan of this master has named. If it was not seen to listen it is not to
    /// serve again either: of two workers in a place a rollback goes back to the one that did.
    fn retire_unserved(&mut self, id: WorkerId, now: Timestamp) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.is_excluded |= matches!(worker.stage, Stage::Starting);
        }
        self.retire(id, now);
    }

    /// Ends a worker. If it may not have been spawned yet, its end begins when it has.
    pub(in crate::supervisor) fn end(&mut self, id: WorkerId, why: EndReason, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let (seat, generation) = (worker.seat, worker.generation);
        worker.stage = Stage::Dying { since: now, ending: Ending::Unspawned };
        self.emit(Event::Ending { worker: id, seat, generation, why });
        self.terminate_if_spawned(id, now);
    }

    /// Orders a worker that is to end to stop, if its link is open; else it gets its stop signal.
    pub(super) fn terminate_if_spawned(&mut self, id: WorkerId, now: Timestamp) {
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

    pub(super) fn terminate(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Dying { ending, since } = &mut worker.stage {
            if let Ending::Ordered { .. } = ending {
                // Its time to end counts from the signal.
                *since = now;
            }
            *ending = Ending::Terminated { kill_at: now.after(self.settings.die) };
            let signals = worker.signals;
            self.actions.push(Action::Terminate { worker: id, signals });
        }
    }

    pub(super) fn kill(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Dying { ending, .. } = &mut worker.stage {
            *ending = Ending::Killed;
            let Worker { seat, generation, signals, .. } = *worker;
            self.emit(Event::Killed { worker: id, seat, generation });
            self.actions.push(Action::Kill { worker: id, signals });
        }
    }
}
