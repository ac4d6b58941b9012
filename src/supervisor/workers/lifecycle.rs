//! What happens to a worker's process: spawned, ready, counted, timed out, exited.

use std::sync::Arc;

use super::worker::{Ending, Stage, Worker};
use crate::plan::Port;
use crate::protocol::{EndReason, Event, Exit, FailureCause, Timestamp, WorkerId};
use crate::supervisor::{Sockets, Supervisor};

impl Supervisor {
    pub(in crate::supervisor) fn spawned(
        &mut self,
        id: WorkerId,
        pid: u32,
        ports: Arc<[Port]>,
        now: Timestamp,
    ) {
        self.has_started_worker = true;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.pid = Some(pid);
        worker.signals = self.configurations.signals_of(worker.generation);
        worker.ports = Some(ports).filter(|ports| !ports.is_empty());
        worker.holds_listeners = self.settings.holds_listeners;
        self.terminate_if_spawned(id, now);
    }

    pub(in crate::supervisor) fn ready(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.ports.is_none() {
            return;
        }
        match &mut worker.stage {
            Stage::Starting if worker.is_drainer => {
                let event = worker.ready_event(now);
                self.emit(event);
                return self.retire(id, now);
            }
            Stage::Starting => {
                worker.stage = Stage::Ready { ready: now };
                worker.health.forget_extension();
                worker.health.forget_not_ready();
                let event = worker.ready_event(now);
                self.emit(event);
            }
            Stage::Reactivating(reactivation) if reactivation.ready.is_none() => {
                reactivation.ready = Some(now);
            }
            _ => return,
        }
        self.report_rollout_progress(id);
        self.report_successor(id);
    }

    /// The sockets of a worker, or of one that has left its listening sockets, were counted.
    pub(in crate::supervisor) fn sockets_counted(
        &mut self,
        id: WorkerId,
        sockets: Sockets,
        now: Timestamp,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return self.orphaned_listeners_counted(id, sockets, now);
        };
        let Sockets { queued, half_open, established, .. } = sockets;
        worker.reports.connections =
            Some(queued.saturating_add(half_open).saturating_add(established));
        if let Stage::Retired(retirement) = &mut worker.stage {
            let is_drained = retirement.report(sockets, now);
            let why = match (is_drained, retirement.is_stranded()) {
                (true, _) => EndReason::Drained,
                (false, true) => EndReason::Stranded,
                (false, false) => EndReason::Idle,
            };
            let may_end = is_drained || retirement.is_stranded() || retirement.is_silent();
            // A worker that is drained is ordered to retire too, before it is ordered to stop.
            self.order_retirements(now);
            if may_end && !self.is_kept(id, now) && !self.reacts_to_signal(id, now) {
                self.end(id, why, now);
            }
        }
    }

    /// Whether a retired worker got its retire signal just now, and may be about to end by itself.
    fn reacts_to_signal(&self, id: WorkerId, now: Timestamp) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            let may_react = matches!(&worker.stage, Stage::Retired(it) if it.may_react(now));
            may_react && worker.signals.retire.is_some()
        })
    }

    pub(in crate::supervisor) fn spawn_failed(
        &mut self,
        id: WorkerId,
        reason: String,
        is_permanent: bool,
        now: Timestamp,
    ) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.orphan_listeners(&worker, now);
        if is_permanent && self.is_first_start() {
            return self.abandon_start(worker.failure(FailureCause::Spawn { reason }, Vec::new()));
        }
        if worker.is_drainer {
            self.drainer_failed(&worker, FailureCause::Spawn { reason });
        } else if worker.may_serve() {
            self.failed(&worker, FailureCause::Spawn { reason }, Vec::new(), now);
        }
    }

    pub(in crate::supervisor) fn exited(
        &mut self,
        id: WorkerId,
        exit: Exit,
        last_lines: Vec<String>,
        now: Timestamp,
    ) {
        let Some(mut worker) = self.workers.remove(&id) else { return };
        self.unreaped.insert(id);
        self.orphan_listeners(&worker, now);
        if !worker.may_serve() || self.is_stopping() {
            let (seat, generation) = (worker.seat, worker.generation);
            let asked = match &worker.stage {
                Stage::Dying { .. } => true,
                // A retire signal may well have it end by itself.
                Stage::Retired(retirement) => retirement.told().is_some(),
                _ => false,
            };
            self.emit(Event::Ended { worker: id, seat, generation, exit, asked });
            self.report_stop_drains();
        } else if worker.is_live() {
            self.died(&worker, exit, last_lines, now);
        } else {
            let cause = match worker.background.take() {
                Some(advice) => FailureCause::Background { exit, advice },
                None => FailureCause::Exit(exit),
            };
            self.failed(&worker, cause, last_lines, now);
        }
    }

    /// A live worker has died. That its seat is vacant follows from its absence alone.
    fn died(&mut self, worker: &Worker, exit: Exit, last_lines: Vec<String>, now: Timestamp) {
        let (seat, generation) = (worker.seat, worker.generation);
        let lived = worker.ready_for(now);
        let failure = worker.failure(FailureCause::Died { exit, lived }, last_lines.clone());
        self.emit(Event::Died { worker: worker.id, seat, generation, exit, lived, last_lines });
        self.schedule_respawn(worker, failure, now);
    }

    /// A worker that was never in force has failed.
    pub(in crate::supervisor) fn failed(
        &mut self,
        worker: &Worker,
        cause: FailureCause,
        last_lines: Vec<String>,
        now: Timestamp,
    ) {
        let failure = worker.failure(cause, last_lines);
        self.emit(Event::Failed(failure.clone()));
        if !self.fail_rollout_of(worker, failure.clone()) {
            self.schedule_respawn(worker, failure, now);
        }
    }

    pub(in crate::supervisor) fn worker_deadline(&self, worker: &Worker) -> Option<Timestamp> {
        match &worker.stage {
            Stage::Starting => {
                Some(worker.health.extend(worker.started.after(self.settings.ready)))
            }
            Stage::Ready { .. } | Stage::Live { .. } => None,
            Stage::Retired(_) if self.is_standby(worker) => None,
            Stage::Retired(retirement) => {
                // Not all of a generation at once: whom they served would all connect again at once.
                let drain = self.settings.drain.map(|drain| self.jitter_of(worker).time(drain));
                retirement.deadline(worker.signals.retire.is_some(), drain, &self.settings)
            }
            Stage::Reactivating(reactivation) => reactivation.deadline(),
            Stage::Dying { ending: Ending::Ordered { terminate_at }, .. } => Some(*terminate_at),
            Stage::Dying { ending: Ending::Terminated { kill_at }, .. } => Some(*kill_at),
            Stage::Dying { .. } => None,
        }
    }

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

    /// A worker has not become ready in time.
    fn time_out(&mut self, id: WorkerId, now: Timestamp) {
        let worker = self.workers[&id].clone();
        self.end(id, EndReason::NotReady, now);
        let limit = worker.health.extend(worker.started.after(self.settings.ready));
        let limit = limit.since(worker.started);
        let cause = worker.health.not_ready_cause(limit);
        match worker.is_drainer {
            true => self.drainer_failed(&worker, cause),
            false => self.failed(&worker, cause, Vec::new(), now),
        }
    }
}
