//! Going on from what an earlier master has left: its workers, and the plan that names them.
//!
//! Nothing follows from adoption by itself. If all workers that the plan in force names are alive,
//! the same roster is in force before and after, and there is nothing to commit, to start or to end.
//! Seats whose workers have died meanwhile are vacant, and filled like any other. Workers that were
//! retired go on draining.

use std::time::Duration;

use super::initial_plan::InitialPlan;
use crate::plan::{Generation, PlanError, Seat, Weights};
use crate::protocol::{
    Event, ReplaceReason, Rollout, Snapshot, StageSnapshot, Timestamp, WorkerSnapshot, WorkerState,
};
use crate::supervisor::health::Health;
use crate::supervisor::rollout::{Roster, Target};
use crate::supervisor::state::Phase;
use crate::supervisor::workers::{Ending, Retirement, SeatBackoff, Stage};
use crate::supervisor::{RequestId, Settings, Start, Supervisor, Worker};

/// So long from its beginning on a master waits for a worker that was starting under the one before,
/// though its time may be over: what the worker has said meanwhile, that it is ready or asks for more
/// time, was not heard.
const FIRST_LOOK: Duration = Duration::from_secs(5);

impl Supervisor {
    /// A supervisor before its first input that goes on with the workers of an earlier master, no two of
    /// the same name, and with what is known of the past.
    ///
    /// The number and the weights of the seats are those in force, whatever the settings say:
    /// [`Input::Configure`](crate::supervisor::Input::Configure) brings in those.
    ///
    /// # Errors
    /// Those of [`Plan::rescaled`](crate::plan::Plan::rescaled), if the slots cannot be shared out by the
    /// weights of `settings`.
    pub fn adopt(
        settings: Settings,
        initial_plan: InitialPlan,
        snapshot: Snapshot,
    ) -> Result<Self, PlanError> {
        let InitialPlan { plan, in_force } = initial_plan;
        let Snapshot { workers, backoffs, history } = snapshot;
        let mut supervisor = Self::new(settings, plan, Start::FromKernel)?;
        for adopted in workers {
            supervisor.adopt_worker(adopted);
        }
        supervisor.resume_replacements();
        if in_force {
            let told = history.target.clone();
            supervisor.may_be_on_probation = told.is_none();
            let plan = supervisor.plan();
            let told = told.and_then(|it| Target::from_snapshot(plan, it.generation, it.weights));
            supervisor.target = match told {
                Some(target) => target,
                None => supervisor.target_found()?,
            };
            supervisor.phase = Phase::Serving;
            supervisor.resume_further_sockets();
            supervisor.kernel.in_force.roster = Some(supervisor.roster_of(&supervisor.target));
            // Who knows what was done to it while nobody looked.
            supervisor.kernel.repair.suspect();
            // Those of its workers that it had retired already.
            supervisor.end_old_workers();
        } else {
            // The new workers are of the generation of the plan, in which none has served yet.
            supervisor.target.generation = supervisor.generation();
            supervisor.kernel.has_rules = false;
            supervisor.kernel.in_force.roster = supervisor.previous_roster()?;
            if supervisor.kernel.in_force.roster.is_none() {
                supervisor.phase = Phase::Starting(Start::Fresh);
            }
        }
        for backoff in backoffs {
            let seat = backoff.seat;
            if let Some(generation) = supervisor.target.generation_in(seat) {
                supervisor.backoffs.insert((seat, generation), SeatBackoff::restored(backoff));
            }
        }
        supervisor.restore(history, in_force);
        Ok(supervisor)
    }

    /// What the plan in force stands for, where no earlier master has told. The number of workers may have been
    /// changed while it ran.
    fn target_found(&self) -> Result<Target, PlanError> {
        let (plan, settings) = (self.plan(), &self.settings);
        let found = Target::found_in(plan, &settings.weights)?;
        if found.canary.is_none()
            && let Ok(scaled) = settings.weights_of(plan.seats().len())
            && plan.rescaled(&scaled)?.assignment() == plan.assignment()
        {
            return Ok(Target::all(found.generation, scaled));
        }
        Ok(found)
    }

    /// Whether the seats in force, or to come into force, are those of the settings.
    pub fn is_as_configured(&self) -> bool {
        self.target.weights == self.settings.weights
    }

    /// Brings in what this master wants in place of what it has adopted: with `reshares` the weights that
    /// are configured, and with `renew` a new generation of workers.
    pub(in crate::supervisor) fn configure(
        &mut self,
        request: RequestId,
        renew: bool,
        reshares: bool,
    ) {
        let weights = match reshares {
            true => self.settings.weights.clone(),
            false => self.target.weights.clone(),
        };
        let checked = || {
            self.check_idle()?;
            self.check_no_canary()?;
            self.plan().rescaled(&weights)?;
            if renew { self.next_generation() } else { Ok(self.target.generation) }
        };
        let kind = if renew { Rollout::Reload } else { Rollout::Scale };
        match checked() {
            Ok(generation) => {
                self.configuring = Some(request);
                self.begin_rollout(kind, request, Target::all(generation, weights));
            }
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    fn adopt_worker(&mut self, snapshot: WorkerSnapshot) {
        let WorkerSnapshot { worker: id, seat, generation, ports, pid, started, stage, .. } =
            snapshot;
        let WorkerSnapshot { is_superseded, extended, holds_listeners, signals, told, .. } =
            snapshot;
        let mut worker = Worker::new(id, seat, generation, started);
        worker.is_excluded = is_superseded;
        worker.health = Health::with_extension(extended);
        worker.ports = Some(ports).filter(|ports| !ports.is_empty()).map(Into::into);
        worker.pid = Some(pid);
        worker.adopted = true;
        worker.signals = signals.unwrap_or(self.settings.signals);
        worker.holds_listeners = holds_listeners;
        worker.reports.led = snapshot.led;
        let is_finishing = told.is_some() && worker.signals.retire.is_some();
        worker.told_before = told.filter(|_| is_finishing);
        worker.stage = match stage {
            // It got its retire signal, and closes its sockets: it does not get ready any more.
            StageSnapshot::Starting if is_finishing => {
                Stage::Retired(Retirement::resumed_from(told.unwrap_or(started), told))
            }
            // When it got ready is not known; it took no time by all that depends on it.
            StageSnapshot::Live => Stage::Live { ready: started, since: started },
            StageSnapshot::Starting => Stage::Starting,
            StageSnapshot::Retired { since } => {
                Stage::Retired(Retirement::resumed_from(since, told))
            }
            StageSnapshot::Dying { terminate_at: Some(terminate_at), .. } => {
                let since = terminate_at.before(self.settings.die);
                Stage::Dying { since, ending: Ending::Ordered { terminate_at } }
            }
            StageSnapshot::Dying { terminate_at: None, kill_at } => {
                let since = kill_at.before(self.settings.die);
                Stage::Dying { since, ending: Ending::Terminated { kill_at } }
            }
        };
        let state = worker.state();
        let event = Event::Adopted { worker: id, seat, generation, pid, state };
        self.actions.push(crate::supervisor::Action::Emit(event));
        self.last_worker = self.last_worker.max(id);
        self.has_started_worker = true;
        // What was rolled back is not begun again under the same number.
        self.last_generation = self.last_generation.max(generation);
        self.workers.insert(id, worker);
    }

    /// A worker in force beside which another for its place was handed over is being replaced: whoever
    /// wanted that, for whatever cause, still does.
    fn resume_replacements(&mut self) {
        let is_starting = |worker: &&Worker| matches!(worker.stage, Stage::Starting);
        let starting = self.workers.values().filter(is_starting);
        let places: Vec<(Seat, Generation)> =
            starting.map(|worker| (worker.seat, worker.generation)).collect();
        let is_replaced =
            |it: &&mut Worker| it.is_live() && places.contains(&(it.seat, it.generation));
        for worker in self.workers.values_mut().filter(is_replaced) {
            worker.leaving = Some(ReplaceReason::OperatorRequest);
        }
    }

    /// The master begins.
    pub(in crate::supervisor) fn start(&mut self, now: Timestamp) {
        // A worker in force that got its retire signal serves until its successor is ready, if it does.
        let finishing = |worker: &&Worker| worker.is_live() && worker.told_before.is_some();
        let finishing: Vec<_> = self.workers.values().filter(finishing).map(|it| it.id).collect();
        finishing.into_iter().for_each(|id| self.worker_stopping(id, now));
        let is_starting =
            |worker: &&mut Worker| worker.adopted && matches!(worker.stage, Stage::Starting);
        for worker in self.workers.values_mut().filter(is_starting) {
            worker.health.grant_until(now.after(FIRST_LOOK));
        }
        if std::mem::take(&mut self.may_be_on_probation) {
            self.resume_probation(now);
        }
    }

    /// The adopted workers that serve other listeners than those to come.
    fn previous_roster(&self) -> Result<Option<Roster>, PlanError> {
        let live = || self.workers.values().filter(|it| it.state() == WorkerState::Live);
        let Some(last) = live().map(|worker| worker.seat.index()).max() else { return Ok(None) };
        let generation = live().map(|worker| worker.generation).max();
        let mut holders = vec![None; last + 1];
        for worker in live() {
            holders[worker.seat.index()] = Some(worker.id);
        }
        let generation = generation.unwrap_or(Generation::FIRST);
        let target = Target::all(generation, Weights::equal(holders.len())?);
        Ok(Some(Roster { target, holders }))
    }
}
