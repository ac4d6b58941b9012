//! What follows when workers become unhealthy, healthy again, or say that they stop.
//!
//! The [detector](super::HealthDetector) tells when a worker that is ready becomes unhealthy
//! ([`Unhealthy`] lists by what) and when it answers again; what follows is decided here. An unhealthy
//! worker keeps its seat and its process, but the roster leaves it out as long as any other worker of its
//! target is healthy, so that its clients are steered to others. If none is, all stay: a worker that may
//! answer late is better than none, and a fault of the detector must not close a cluster.
//!
//! A worker is in the roster again as soon as it answers. If it has its next outage within a minute of
//! that, it returns ever later (`record.rs`), so that a flapping worker moves its clients no more than
//! about twelve times in ten minutes.
//!
//! A worker that says that it stops (`STOPPING=1`) is left out in the same way, for good, and its seat
//! gets another worker at once.

use std::time::Duration;

use super::record::LONGEST_EXTENSION;
use crate::protocol::{
    EndReason, Event, FailureCause, NotReady, ReadinessFault, Timestamp, Unhealthy, WorkerId,
};
use crate::supervisor::rollout::Target;
use crate::supervisor::state::Phase;
use crate::supervisor::workers::{Ending, Stage};
use crate::supervisor::{Supervisor, Worker};

/// What clients can expect of the workers of a target, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::supervisor) enum Availability {
    /// No worker can serve them.
    None,
    /// All workers that could serve them are unhealthy.
    Unhealthy,
    /// At least one healthy worker serves them.
    Serving,
}

impl Supervisor {
    /// When the health of a worker asks for a decision.
    pub(in crate::supervisor) fn health_deadline(&self, worker: &Worker) -> Option<Timestamp> {
        // An unhealthy worker is not given up while clients may reach it: it is on its way into force.
        let is_new = matches!(worker.stage, Stage::Ready { .. } | Stage::Reactivating(_));
        let is_given_up = is_new && !worker.health.is_recovering();
        let deadline = worker.health_deadline(&self.settings);
        let may_get_clients = self.kernel.names(worker) || self.serves_on_reused_listeners(worker);
        deadline.filter(|_| !(is_given_up && may_get_clients))
    }

    pub(in crate::supervisor) fn act_on_health(&mut self, now: Timestamp) {
        let is_due =
            |worker: &&Worker| self.health_deadline(worker).is_some_and(|deadline| deadline <= now);
        let due: Vec<WorkerId> = self.workers.values().filter(is_due).map(|w| w.id).collect();
        for id in due {
            let worker = &self.workers[&id];
            match (&worker.stage, worker.health.outage_cause()) {
                (Stage::Starting, _) => self.report_unproven(id),
                (_, Some(_)) if worker.health.is_recovering() => self.recover(id, now),
                (Stage::Ready { .. } | Stage::Reactivating(_), Some(cause)) => {
                    self.give_up_unhealthy(id, cause, now);
                }
                _ => {}
            }
        }
    }

    pub(in crate::supervisor) fn became_unhealthy(
        &mut self,
        id: WorkerId,
        cause: Unhealthy,
        now: Timestamp,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if matches!(worker.stage, Stage::Starting | Stage::Dying { .. }) {
            return;
        }
        if worker.health.begin_outage(cause, now) {
            let (seat, generation) = (worker.seat, worker.generation);
            self.emit(Event::Unhealthy { worker: id, seat, generation, cause });
            self.report_if_none_healthy(id);
        }
    }

    pub(in crate::supervisor) fn became_healthy(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(ends_at) = worker.health.schedule_recovery(now) else { return };
        if ends_at <= now || !worker.is_eligible() {
            self.recover(id, now);
        }
    }

    /// Ends the outage of a worker that answers again, and is not to serve any more.
    pub(in crate::supervisor) fn end_recovery(&mut self, id: WorkerId, now: Timestamp) {
        if self.workers.get(&id).is_some_and(|worker| worker.health.is_recovering()) {
            self.recover(id, now);
        }
    }

    fn recover(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(silent) = worker.health.end_outage(now) else { return };
        let (seat, generation) = (worker.seat, worker.generation);
        self.emit(Event::Healthy { worker: id, seat, generation, silent });
    }

    /// Gives up a worker that was ready, and became unhealthy before it was ever in force.
    fn give_up_unhealthy(&mut self, id: WorkerId, cause: Unhealthy, now: Timestamp) {
        let worker = self.workers[&id].clone();
        match worker.stage {
            Stage::Reactivating(_) => self.retire_again(id, now),
            _ => self.end(id, EndReason::Unhealthy, now),
        }
        self.failed(&worker, FailureCause::Unhealthy(cause), Vec::new(), now);
    }

    /// A worker says that it stops, without having been asked to.
    pub(in crate::supervisor) fn worker_stopping(&mut self, id: WorkerId, now: Timestamp) {
        if self.is_stopping() {
            return;
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !worker.health.set_stopping() {
            return;
        }
        let worker = worker.clone();
        match worker.stage {
            // A ready worker may be on its way into force: it is ended once it is not.
            Stage::Ready { .. } | Stage::Reactivating(_) => {
                self.failed(&worker, FailureCause::Stopping, Vec::new(), now);
            }
            Stage::Starting => {
                self.end(id, EndReason::Stopping, now);
                self.failed(&worker, FailureCause::Stopping, Vec::new(), now);
            }
            Stage::Live { .. } => {
                let (seat, generation) = (worker.seat, worker.generation);
                self.emit(Event::Stopping { worker: id, seat, generation });
                let failure = worker.failure(FailureCause::Stopping, Vec::new());
                self.schedule_respawn(&worker, failure, now);
                self.report_if_none_healthy(id);
            }
            Stage::Retired(_) | Stage::Dying { .. } => {}
        }
    }

    /// A worker asks for more time for what it is doing now: to start, or to end.
    pub(in crate::supervisor) fn extend_timeout(
        &mut self,
        id: WorkerId,
        span: Duration,
        now: Timestamp,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let until = now.after(span);
        match &mut worker.stage {
            Stage::Starting => worker.health.set_extended(until),
            // It was told over its link: its stop signal waits.
            Stage::Dying { since, ending: Ending::Ordered { terminate_at } } => {
                let first = since.after(self.settings.die);
                *terminate_at = first.max(until.min(first.after(LONGEST_EXTENSION)));
            }
            Stage::Dying { since, ending: Ending::Terminated { kill_at } } => {
                let first = since.after(self.settings.die);
                *kill_at = first.max(until.min(first.after(LONGEST_EXTENSION)));
            }
            _ => {}
        }
    }

    /// What a starting worker lacks to be ready has changed.
    pub(in crate::supervisor) fn not_ready(
        &mut self,
        id: WorkerId,
        not_ready: NotReady,
        now: Timestamp,
    ) {
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.awaits_ready()) {
            worker.health.set_not_ready(not_ready, now);
        }
    }

    /// What was seen of a starting worker that is not ready.
    pub(in crate::supervisor) fn readiness_fault(&mut self, id: WorkerId, fault: ReadinessFault) {
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.awaits_ready()) {
            worker.health.set_readiness_fault(fault);
        }
    }

    fn report_unproven(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.health.set_reported_unproven();
        let (seat, generation) = (worker.seat, worker.generation);
        self.emit(Event::Unproven { worker: id, seat, generation });
    }

    /// Reports that no worker is healthy, if `last` was the last one.
    fn report_if_none_healthy(&mut self, last: WorkerId) {
        let target = self.target_in_effect();
        let is_of_target = self.workers.get(&last).is_some_and(|worker| target.includes(worker));
        let is_serving = matches!(self.phase, Phase::Serving);
        if is_serving && is_of_target && self.availability(target) < Availability::Serving {
            let is_eligible = |worker: &&Worker| worker.is_eligible() && target.includes(worker);
            let workers = self.workers.values().filter(is_eligible).count();
            self.emit(Event::NoneHealthy { workers });
        }
    }

    /// What clients can expect of the workers of a target.
    pub(in crate::supervisor) fn availability(&self, target: &Target) -> Availability {
        let of_worker = |worker: &Worker| match worker.can_serve() {
            true => Availability::Serving,
            false if worker.is_eligible() => Availability::Unhealthy,
            false => Availability::None,
        };
        let workers = self.workers.values().filter(|worker| target.includes(worker));
        workers.map(of_worker).max().unwrap_or(Availability::None)
    }

    /// Whether a worker that no plan names keeps its seat: it is unhealthy, and nobody else has the seat.
    pub(in crate::supervisor) fn keeps_seat_unhealthy(&self, worker: &Worker) -> bool {
        !worker.is_healthy() && !worker.health.is_stopping() && !self.kernel.seat_is_taken(worker)
    }

    /// Ends the retired workers that have been unhealthy for too long.
    pub(in crate::supervisor) fn end_unhealthy(&mut self, now: Timestamp) {
        let is_due = |worker: &&Worker| self.unhealthy_limit(worker).is_some_and(|at| at <= now);
        let due: Vec<WorkerId> = self.workers.values().filter(is_due).map(|it| it.id).collect();
        for id in due {
            self.end(id, EndReason::UnhealthyRetired, now);
        }
    }

    /// When [`Self::end_unhealthy`] has something to do.
    pub(in crate::supervisor) fn unhealthy_deadline(&self) -> Option<Timestamp> {
        self.workers.values().filter_map(|worker| self.unhealthy_limit(worker)).min()
    }

    /// Until when a retired worker may be unhealthy.
    fn unhealthy_limit(&self, worker: &Worker) -> Option<Timestamp> {
        let is_retired = matches!(worker.stage, Stage::Retired(_)) && !self.is_standby(worker);
        is_retired.then_some(worker.unhealthy_since()?.after(self.settings.ping))
    }
}
