//! Going on from what an earlier master has left: its workers, and the plan that names them.
//!
//! Nothing follows from adoption by itself. If all workers that the plan in force names are alive,
//! the same roster is in force before and after, and there is nothing to commit, to start or to end.
//! Seats whose workers have died meanwhile are vacant, and filled like any other. Workers that were
//! retired go on draining.

use std::sync::Arc;
use std::time::Duration;

use super::snapshot::Snapshot;
use crate::plan::{Generation, Plan, PlanError, Port, Seat, Weights};
use crate::protocol::{Event, ReplaceReason, Rollout, Timestamp, WorkerId, WorkerState};
use crate::supervisor::health::Health;
use crate::supervisor::rollout::{Roster, Target};
use crate::supervisor::state::Phase;
use crate::supervisor::workers::{Ending, Retirement, SeatBackoff, Stage};
use crate::supervisor::{RequestId, Settings, Start, Supervisor, Worker};

/// So long from its beginning on a master waits for a worker that was starting under the one before,
/// though its time may be over: what the worker has said meanwhile, that it is ready or asks for more
/// time, was not heard.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What an earlier master has left.
#[derive(Debug, Clone, PartialEq)]
pub struct AdoptedCluster {
    /// The plan in force. Or, if the listeners are to be others, the empty plan that workers are
    /// to go into.
    pub plan: Plan,
    /// Whether the kernel holds `plan`. If not, it holds one with other listeners or another
    /// partition, which the workers [in force](AdoptedStage::InForce) serve until all that are started for
    /// `plan` are ready; without any of those the first that is ready goes into force.
    pub in_force: bool,
    /// The workers, no two of the same name, and what is known of the past.
    pub snapshot: Snapshot,
}

/// A worker that an earlier master has started, and that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSnapshot {
    /// What it is called from now on.
    pub worker: WorkerId,
    /// Its seat.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// Its worker ports; empty for one that picks them itself and has yet to tell them.
    pub ports: Arc<[Port]>,
    /// Its process.
    pub pid: u32,
    /// When it was started.
    pub started: Timestamp,
    /// Where in its life it is.
    pub stage: AdoptedStage,
    /// It is not to serve again once it is retired.
    pub is_superseded: bool,
    /// What it has to get ready is not over before this: it has asked for the time.
    pub extended: Option<Timestamp>,
    /// The master has its listening sockets as well.
    pub holds_listeners: bool,
}

/// Where in its life an adopted worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptedStage {
    /// The rules in force name it.
    InForce,
    /// It is not ready yet, and is for a vacant seat of the generation in force.
    Starting,
    /// No rule names it.
    Retired {
        /// Since when, as far as is known.
        since: Timestamp,
    },
    /// It was asked to end.
    Dying {
        /// When it is to get SIGTERM; `None`: it has.
        terminate_at: Option<Timestamp>,
        /// When it is to be killed, if that is all that is left to be done.
        kill_at: Timestamp,
    },
}

impl AdoptedStage {
    pub(in crate::supervisor) fn is_retired(self) -> bool {
        matches!(self, Self::Retired { .. })
    }
}

impl Supervisor {
    /// A supervisor before its first event that goes on with the workers of an earlier master.
    ///
    /// The number and the weights of the seats are those in force, whatever the settings say:
    /// [`Input::Configure`](crate::supervisor::Input::Configure) brings in those.
    ///
    /// # Errors
    /// Those of [`Plan::rescaled`], if the slots cannot be shared out by the weights of `settings`.
    pub fn adopt(settings: Settings, cluster: AdoptedCluster) -> Result<Self, PlanError> {
        let AdoptedCluster { plan, in_force, snapshot } = cluster;
        let Snapshot { workers, backoffs, history } = snapshot;
        let mut supervisor = Self::new(settings, plan, Start::FromKernel)?;
        for adopted in workers {
            supervisor.adopt_worker(adopted);
        }
        supervisor.resume_replacements();
        if in_force {
            let plan = supervisor.plan();
            let told = history.target.clone();
            let told = told
                .and_then(|(generation, weights)| Target::from_snapshot(plan, generation, weights));
            supervisor.target = match told {
                Some(target) => target,
                None => Target::found_in(plan, &supervisor.settings.weights)?,
            };
            supervisor.phase = Phase::Serving;
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
        for respawn in backoffs {
            let seat = respawn.seat;
            if let Some(generation) = supervisor.target.generation_in(seat) {
                let respawn = SeatBackoff::restored(respawn);
                supervisor.backoffs.insert((seat, generation), respawn);
            }
        }
        supervisor.restore(history, in_force);
        Ok(supervisor)
    }

    /// Whether the seats in force, or to come into force, are those of the settings.
    pub fn is_as_configured(&self) -> bool {
        self.target.weights == self.settings.weights
    }

    /// Brings in what this master was configured with in place of what it has adopted: the weights,
    /// and with `renew` a new generation of workers.
    pub(in crate::supervisor) fn configure(&mut self, request: RequestId, renew: bool) {
        let weights = self.settings.weights.clone();
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

    fn adopt_worker(&mut self, adopted: WorkerSnapshot) {
        let WorkerSnapshot { worker: id, seat, generation, ports, pid, started, stage, .. } =
            adopted;
        let WorkerSnapshot { is_superseded, extended, holds_listeners, .. } = adopted;
        let mut worker = Worker::new(id, seat, generation, started);
        worker.is_excluded = is_superseded;
        worker.health = Health::with_extension(extended);
        worker.ports = Some(ports).filter(|ports| !ports.is_empty());
        worker.pid = Some(pid);
        worker.adopted = true;
        worker.holds_listeners = holds_listeners;
        worker.stage = match stage {
            // When it got ready is not known; it took no time by all that depends on it.
            AdoptedStage::InForce => Stage::Live { ready: started, since: started },
            AdoptedStage::Starting => Stage::Starting,
            AdoptedStage::Retired { since } => Stage::Retired(Retirement::new(since)),
            AdoptedStage::Dying { terminate_at: Some(terminate_at), .. } => {
                Stage::Dying { since: started, ending: Ending::Ordered { terminate_at } }
            }
            AdoptedStage::Dying { terminate_at: None, kill_at } => {
                Stage::Dying { since: started, ending: Ending::Terminated { kill_at } }
            }
        };
        let state = worker.state();
        let event = Event::Adopted { worker: id, seat, generation, pid, state };
        self.actions.push(crate::supervisor::Action::Emit(event));
        self.last_worker = self.last_worker.max(id);
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
        let is_starting =
            |worker: &&mut Worker| worker.adopted && matches!(worker.stage, Stage::Starting);
        for worker in self.workers.values_mut().filter(is_starting) {
            worker.health.grant_until(now.after(FIRST_LOOK));
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
