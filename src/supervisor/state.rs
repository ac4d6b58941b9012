//! The supervisor: what it remembers, and the order in which it decides.

use std::collections::BTreeMap;

use super::aim::{Aim, Draft, Lineup};
use super::backoff::Retry;
use super::kernel::Kernel;
use super::rollout::RolloutState;
use super::stop::Stop;
use super::worker::{Ending, Stage};
use super::{
    Action, Event, Exit, FailureCause, Moment, Notice, Progress, Refusal, Request, RequestId,
    Retirement, Settings, Sockets, Start, Why, Worker, WorkerFailure, WorkerId,
};
use crate::plan::{Generation, Plan, PlanError, Seat};

/// The process manager of one cluster. See [`crate::supervisor`].
#[derive(Debug, Clone)]
pub struct Supervisor {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    /// The workers that the cluster wants, as long as no rollout has ended.
    pub(super) aim: Aim,
    /// The reload or scale under way.
    pub(super) rollout: Option<RolloutState>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) last_worker: WorkerId,
    /// Failures by seat, and when each may have its next worker.
    pub(super) respawns: BTreeMap<Seat, Retry>,
    /// No spawn before this, so that they stay apart by [`Settings::stagger`].
    pub(super) next_spawn: Moment,
    pub(super) kernel: Kernel,
    /// What this step wants done.
    pub(super) actions: Vec<Action>,
}

/// Where a master is in its life.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// No plan of this master is in force.
    Starting(Start),
    /// One is.
    Serving,
    /// Everything is to end.
    Stopping(Stop),
    /// Everything has ended.
    Finished,
}

impl Supervisor {
    /// A supervisor before its first event. `in_force` is what the kernel holds
    /// ([`Start::Takeover`]), or the empty plan that the first worker will go into
    /// ([`Start::Fresh`]).
    ///
    /// # Errors
    /// Those of [`Plan::rescaled`], if the slots of `in_force` cannot be shared out by the
    /// weights of `settings`.
    pub fn new(settings: Settings, in_force: Plan, start: Start) -> Result<Self, PlanError> {
        in_force.rescaled(&settings.weights)?;
        let generation = match start {
            Start::Fresh => in_force.generation(),
            Start::Takeover => in_force.generation().next(),
        };
        Ok(Self {
            aim: Aim { generation, weights: settings.weights.clone() },
            settings,
            phase: Phase::Starting(start),
            rollout: None,
            workers: BTreeMap::new(),
            last_worker: WorkerId(0),
            respawns: BTreeMap::new(),
            next_spawn: Moment::START,
            kernel: Kernel::new(in_force, start),
            actions: Vec::new(),
        })
    }

    /// Takes an event in and returns what is to be done now. `now` is never before that of an
    /// earlier call.
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        self.take_in(event, now);
        self.reconcile(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] is wanted, if nothing else happens before; `None`: not at all.
    pub fn deadline(&self) -> Option<Moment> {
        let workers = self.workers.values().filter_map(|worker| self.worker_deadline(worker));
        workers.chain(self.commit_deadline()).chain(self.spawn_deadline()).min()
    }

    /// The plan in force, as far as is known: the last that was committed.
    pub fn plan(&self) -> &Plan {
        &self.kernel.in_force.plan
    }

    /// The generation in force.
    pub fn generation(&self) -> Generation {
        self.plan().generation()
    }

    /// All workers, by age.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Finished)
    }

    fn take_in(&mut self, event: Event, now: Moment) {
        match event {
            Event::Start | Event::Tick => {}
            Event::Spawned { worker, pid, ports } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.pid = Some(pid);
                    worker.ports = Some(ports);
                    self.carry_out_early_end(now);
                }
            }
            Event::SpawnFailed { worker, reason } => self.spawn_failed(worker, reason, now),
            Event::Ready { worker } => self.ready(worker, now),
            Event::Exited { worker, exit, last_lines } => {
                self.exited(worker, exit, last_lines, now);
            }
            Event::Connections { worker, sockets } => self.counted(worker, sockets, now),
            Event::Committed => {
                if let Some(before) = self.kernel.committed() {
                    self.came_into_force(&before, now);
                }
            }
            Event::CommitFailed { reason } => {
                if self.kernel.is_busy() {
                    self.commit_failed(reason, now);
                }
            }
            Event::Request(id, request) => self.request(id, request),
        }
    }

    /// Compares what is with what should be, and acts on each difference. Every rule looks at the
    /// state alone, not at what led to it.
    fn reconcile(&mut self, now: Moment) {
        self.act_on_deadlines(now);
        self.advance_rollout();
        self.commit_changes(now);
        self.advance_stop(now);
        self.release_workers(now);
        self.spawn_missing(now);
        self.finish_stop();
    }

    fn request(&mut self, id: RequestId, request: Request) {
        match request {
            Request::Stop { now } => self.stop(id, now),
            Request::Reload => self.reload(id),
            Request::Scale { workers } => self.scale(id, workers),
        }
    }

    fn ready(&mut self, id: WorkerId, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !matches!(worker.stage, Stage::Starting) || worker.ports.is_none() {
            return;
        }
        worker.stage = Stage::Ready { ready: now };
        self.actions.push(Action::Notice(worker.ready_notice(now)));
        self.report_rollout_progress(id);
    }

    fn counted(&mut self, id: WorkerId, sockets: Sockets, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Retired(retirement) = &mut worker.stage
            && retirement.report(sockets)
        {
            self.end(id, Why::Drained, now);
        }
    }

    fn spawn_failed(&mut self, id: WorkerId, reason: String, now: Moment) {
        if let Some(worker) = self.workers.remove(&id)
            && worker.is_promising()
        {
            self.failed(&worker, FailureCause::Spawn { reason }, Vec::new(), now);
        }
    }

    fn exited(&mut self, id: WorkerId, exit: Exit, last_lines: Vec<String>, now: Moment) {
        let Some(worker) = self.workers.remove(&id) else { return };
        if !worker.is_promising() || self.is_stopping() {
            let (seat, generation) = (worker.seat, worker.generation);
            self.actions.push(Action::Notice(Notice::Ended { worker: id, seat, generation, exit }));
            self.report_stop_progress();
        } else if let Stage::Live { .. } = worker.stage {
            self.died(&worker, exit, last_lines, now);
        } else {
            self.failed(&worker, FailureCause::Exit(exit), last_lines, now);
        }
    }

    /// A live worker is gone. That its seat becomes vacant follows from that alone.
    fn died(&mut self, worker: &Worker, exit: Exit, last_lines: Vec<String>, now: Moment) {
        let (seat, generation) = (worker.seat, worker.generation);
        let lived = worker.ready_for(now);
        let died = Notice::Died { worker: worker.id, seat, generation, exit, lived, last_lines };
        self.actions.push(Action::Notice(died));
        self.schedule_respawn(worker, now);
    }

    /// A worker that was never in force fails.
    fn failed(
        &mut self,
        worker: &Worker,
        cause: FailureCause,
        last_lines: Vec<String>,
        now: Moment,
    ) {
        let (seat, generation) = (worker.seat, worker.generation);
        let failure = WorkerFailure { seat, generation, cause, last_lines };
        let notice = Notice::Failed { worker: worker.id, failure: failure.clone() };
        self.actions.push(Action::Notice(notice));
        if !self.fail_rollout_of(worker, failure) {
            self.schedule_respawn(worker, now);
        }
    }

    fn act_on_deadlines(&mut self, now: Moment) {
        let is_due = |worker: &&Worker| self.worker_deadline(worker).is_some_and(|at| at <= now);
        let due: Vec<WorkerId> = self.workers.values().filter(is_due).map(|w| w.id).collect();
        for id in due {
            match &self.workers[&id].stage {
                Stage::Starting => self.time_out(id, now),
                Stage::Retired(_) => self.end(id, Why::DrainLimit, now),
                Stage::Dying { .. } => self.kill(id),
                Stage::Ready { .. } | Stage::Live { .. } => {}
            }
        }
    }

    fn time_out(&mut self, id: WorkerId, now: Moment) {
        let worker = self.workers[&id].clone();
        self.end(id, Why::NotReady, now);
        let cause = FailureCause::NotReady { limit: self.settings.ready };
        self.failed(&worker, cause, Vec::new(), now);
    }

    fn worker_deadline(&self, worker: &Worker) -> Option<Moment> {
        match &worker.stage {
            Stage::Starting => Some(worker.started.after(self.settings.ready)),
            Stage::Ready { .. } | Stage::Live { .. } => None,
            Stage::Retired(retirement) => retirement.deadline(&self.settings),
            Stage::Dying { ending: Ending::Asked { kill_at }, .. } => Some(*kill_at),
            Stage::Dying { .. } => None,
        }
    }

    /// Submits the plan that should be in force, if another one is.
    fn commit_changes(&mut self, now: Moment) {
        while !self.kernel.is_busy() && self.kernel.not_before() <= now {
            match self.desired() {
                Ok(None) => return,
                Ok(Some(draft)) if draft.plan == self.kernel.in_force.plan => {
                    let before = self.kernel.replace(draft);
                    self.came_into_force(&before, now);
                }
                Ok(Some(draft)) => {
                    let plan = self.kernel.submit(draft);
                    self.actions.push(Action::Commit(plan));
                }
                Err(unplannable) => self.leave_out(unplannable, now),
            }
        }
    }

    fn commit_deadline(&self) -> Option<Moment> {
        (!self.kernel.is_busy() && self.is_outdated()).then(|| self.kernel.not_before())
    }

    fn came_into_force(&mut self, before: &Draft, now: Moment) {
        let Self { kernel, workers, .. } = self;
        for worker in workers.values_mut().filter(|worker| kernel.in_force.names(worker)) {
            if let Stage::Ready { ready } = worker.stage {
                worker.stage = Stage::Live { ready, since: now };
            }
        }
        if let Phase::Starting(_) = self.phase {
            self.phase = Phase::Serving;
        }
        let (occupied, seats) = match &kernel.in_force.lineup {
            Some(lineup) => (lineup.occupied(), lineup.holders.len()),
            None => (kernel.in_force.plan.survivors().count(), kernel.in_force.plan.seats().len()),
        };
        let generation = self.generation();
        self.actions.push(Action::Notice(Notice::InForce { generation, occupied, seats }));
        self.end_rollout_in_force(before);
    }

    pub(super) fn commit_failed(&mut self, reason: String, now: Moment) {
        let was_rollout = self.rollout_is_submitted();
        let (failures, retry_in) = self.kernel.failed(now);
        let notice = Notice::CommitFailed { reason: reason.clone(), retry_in };
        self.actions.push(Action::Notice(notice));
        if was_rollout {
            self.rollout_commit_failed(&reason);
        }
        self.stop_commit_failed(&reason, failures);
    }

    /// Retires the live workers that no plan names any more, and ends those that never will be
    /// named. A worker that the plan in force names, or that one on its way to the kernel does, is
    /// left alone.
    fn release_workers(&mut self, now: Moment) {
        let unnamed: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| !self.kernel.names(worker))
            .map(|worker| worker.id)
            .collect();
        for id in unnamed {
            let worker = &self.workers[&id];
            match worker.stage {
                Stage::Live { .. } => self.retire(id, now),
                Stage::Starting | Stage::Ready { .. } if !self.wants(worker) => {
                    self.end(id, Why::Unwanted, now);
                }
                _ => {}
            }
        }
    }

    fn wants(&self, worker: &Worker) -> bool {
        let in_rollout = || self.rollout.as_ref().is_some_and(|r| r.to.includes(worker));
        !worker.unfit && !self.is_stopping() && (self.aim.includes(worker) || in_rollout())
    }

    pub(super) fn retire(&mut self, id: WorkerId, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.stage = Stage::Retired(Retirement::new(now));
        self.actions.push(Action::Notice(worker.retired_notice()));
    }

    /// Asks a worker to end. One that may not have been spawned yet is asked when it has.
    pub(super) fn end(&mut self, id: WorkerId, why: Why, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let (seat, generation) = (worker.seat, worker.generation);
        worker.stage = Stage::Dying { since: now, ending: Ending::Unspawned };
        let notice = Notice::Ending { worker: id, seat, generation, why };
        self.actions.push(Action::Notice(notice));
        self.carry_out_early_end(now);
    }

    fn carry_out_early_end(&mut self, now: Moment) {
        let kill_at = now.after(self.settings.die);
        for worker in self.workers.values_mut().filter(|worker| worker.pid.is_some()) {
            if let Stage::Dying { ending: ending @ Ending::Unspawned, .. } = &mut worker.stage {
                *ending = Ending::Asked { kill_at };
                self.actions.push(Action::Terminate { worker: worker.id });
            }
        }
    }

    fn kill(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Dying { ending, .. } = &mut worker.stage {
            *ending = Ending::Killed;
            self.actions.push(Action::Notice(worker.killed_notice()));
            self.actions.push(Action::Kill { worker: id });
        }
    }

    pub(super) fn reply(&mut self, request: RequestId, outcome: Result<super::Done, Refusal>) {
        self.actions.push(Action::Reply { request, outcome });
    }

    pub(super) fn progress(&mut self, request: RequestId, step: Progress) {
        self.actions.push(Action::Progress { request, step });
    }

    pub(super) fn lineup_of(&self, aim: &Aim) -> Lineup {
        Lineup::of(aim, self.workers.values())
    }

    pub(super) fn leave_out(&mut self, unplannable: super::desired::Unplannable, now: Moment) {
        use super::desired::Unplannable;
        match unplannable {
            Unplannable::Worker { id, error } => {
                let Some(worker) = self.workers.get_mut(&id) else { return };
                worker.unfit = true;
                let worker = worker.clone();
                self.failed(&worker, FailureCause::Unfit(error), Vec::new(), now);
            }
            Unplannable::Plan(error) => self.commit_failed(error.to_string(), now),
        }
    }
}
