//! What one master leaves to the next that asks for it, but for the plan, which the kernel holds.
//!
//! After a crash the next master knows what the rules and `/proc` say, and nothing of this: a back-off
//! begins anew, a rollback has nothing to go back to. After a handover all goes on as it would have:
//! whoever operates the cluster cannot tell that there is another master. What ends with the old one
//! is what somebody waits for at its control socket, a retirement or a clearing: it is carried out as
//! far as it has come.

use crate::plan::{Assignment, Generation, Seat};
use crate::protocol::{
    GenerationWeights, History, Refusal, Snapshot, StageSnapshot, WorkerSnapshot,
};
use crate::supervisor::rollout::Target;
use crate::supervisor::workers::{Ending, Stage};
use crate::supervisor::{Supervisor, Worker};

impl Supervisor {
    /// What the next master needs to go on as this one would; given that nothing is
    /// [under way](Self::may_hand_over).
    pub fn snapshot(&self) -> Snapshot {
        let backoff = |(seat, generation): (Seat, Generation)| {
            Some(self.backoffs.get(&(seat, generation))?.snapshot(seat))
        };
        let weights = |target: &Target| GenerationWeights {
            generation: target.generation,
            weights: target.weights.clone(),
        };
        let leads_back = |target: &&Target| self.has_listeners_in_force(target.generation);
        Snapshot {
            workers: self.workers.values().filter_map(|it| self.worker_snapshot(it)).collect(),
            backoffs: self.target.places().filter_map(backoff).collect(),
            history: History {
                target: Some(weights(&self.target)),
                before: self.before.as_ref().filter(leads_back).map(weights),
                home: self.home.clone(),
                retirements: self.rate_limiter.recorded().collect(),
                last_generation: Some(self.last_generation),
                probation: self.probation_snapshot(),
            },
        }
    }

    /// Whether a generation has the listeners in force. To one that has others only the master leads back that began
    /// it: the next one does not know for which of its public ports the workers have ports.
    pub(in crate::supervisor) fn has_listeners_in_force(&self, generation: Generation) -> bool {
        let known = self.configurations.known_listeners_of(generation);
        known.is_none_or(|listeners| listeners == self.plan().listeners())
    }

    fn worker_snapshot(&self, worker: &Worker) -> Option<WorkerSnapshot> {
        let stage = match &worker.stage {
            Stage::Starting | Stage::Ready { .. } => StageSnapshot::Starting,
            Stage::Live { .. } => StageSnapshot::Live,
            Stage::Retired(retirement) => StageSnapshot::Retired { since: retirement.since() },
            Stage::Reactivating(reactivation) => {
                StageSnapshot::Retired { since: reactivation.retirement.since() }
            }
            Stage::Dying { ending: Ending::Ordered { terminate_at }, .. } => StageSnapshot::Dying {
                terminate_at: Some(*terminate_at),
                kill_at: terminate_at.after(self.settings.die),
            },
            Stage::Dying { ending: Ending::Terminated { kill_at }, .. } => {
                StageSnapshot::Dying { terminate_at: None, kill_at: *kill_at }
            }
            Stage::Dying { since, .. } => {
                StageSnapshot::Dying { terminate_at: None, kill_at: *since }
            }
        };
        let is_retired = matches!(stage, StageSnapshot::Retired { .. });
        let is_closing = is_retired && worker.health.is_stopping();
        Some(WorkerSnapshot {
            worker: worker.id,
            seat: worker.seat,
            generation: worker.generation,
            ports: worker.ports.as_deref()?.to_vec(),
            pid: worker.pid?,
            started: worker.started,
            stage,
            is_superseded: worker.is_excluded
                || worker.is_drainer
                || is_closing
                || worker.is_finishing(),
            extended: worker.health.extended(),
            holds_listeners: worker.holds_listeners,
            signals: Some(worker.signals),
            led: worker.reports.led,
            told: match &worker.stage {
                Stage::Retired(retirement) => retirement.told(),
                _ => None,
            },
        })
    }

    /// Whether another master may take over now.
    ///
    /// # Errors
    /// [`Refusal::Stopping`]; [`Refusal::Busy`] with a reload or a scale; [`Refusal::Starting`] before
    /// a plan of this master is in force, while a process is just being started, which takes
    /// milliseconds, or has not told the ports that it picks; while another plan should be in force
    /// than is, and while listening sockets wait for a worker that is to reuse them.
    pub fn may_hand_over(&self) -> Result<(), Refusal> {
        self.check_idle()?;
        // A worker that was found retired may never tell its ports, and is nobody's to wait for.
        let is_unknown = |worker: &Worker| {
            worker.pid.is_none() || (worker.ports.is_none() && !worker.is_found_retired())
        };
        let is_spawning = self.workers.values().any(is_unknown);
        let is_reusing = |worker: &Worker| {
            worker.reuses_listeners && matches!(worker.stage, Stage::Starting | Stage::Ready { .. })
        };
        let is_reactivating = |it: &Worker| matches!(it.stage, Stage::Reactivating(_));
        let awaits_workers = self.workers.values().any(is_reactivating)
            || !self.orphaned_listeners.is_empty()
            || self.workers.values().any(is_reusing);
        let is_wrong = self.kernel.is_busy() || self.is_outdated();
        if is_spawning || awaits_workers || is_wrong {
            return Err(Refusal::Starting);
        }
        Ok(())
    }

    /// Takes in what an earlier master remembers; `in_force` as in
    /// [`InitialPlan`](super::InitialPlan): there is no way back to workers of other listeners.
    pub(in crate::supervisor) fn restore(&mut self, history: History, in_force: bool) {
        let History { before, home, retirements, last_generation, probation, .. } = history;
        let before = before.filter(|_| in_force);
        self.before = before.map(|it| Target::all(it.generation, it.weights));
        // Without the canary in force nothing is to be given back; nor does a table of other slots or
        // seats fit.
        let (slots, seats) = (self.plan().assignment().slots(), self.target.weights.seats());
        let is_of_use = |home: &Assignment| {
            let fits =
                home.slots() == slots && home.table().iter().all(|seat| seat.index() < seats);
            self.target.canary.is_some() && fits
        };
        self.home = home.filter(is_of_use);
        let limit = self.limit();
        retirements.into_iter().for_each(|at| self.rate_limiter.record(limit, at));
        if let Some(probation) =
            probation.filter(|_| in_force && !self.settings.probation.is_zero())
        {
            self.restore_probation(probation);
        }
        let last = last_generation.unwrap_or(self.last_generation);
        self.last_generation = self.last_generation.max(last);
    }
}
