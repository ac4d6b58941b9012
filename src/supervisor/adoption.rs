//! Going on from what an earlier master has left: its workers, and the plan that names them.
//!
//! Nothing follows from adoption by itself. If all workers that the plan in force names are alive,
//! the same lineup is in force before and after, and there is nothing to commit, to start or to end.
//! Seats whose workers have died meanwhile are vacant, and filled like any other. Workers that were
//! retired go on draining.

use std::sync::Arc;
use std::time::Duration;

use super::aim::{Aim, Lineup};
use super::backoff::{self, Retry};
use super::state::Phase;
use super::worker::{Ending, Stage};
use super::{
    Cause, Moment, Notice, Refusal, RequestId, Retirement, Rollout, Settings, Start, Supervisor,
    Worker, WorkerId, WorkerState,
};
use crate::plan::{Generation, Plan, PlanError, Port, Seat, Weights};

/// So long from its beginning on a master waits for a worker that was starting under the one before,
/// though its time may be over: what the worker has said meanwhile, that it is ready or asks for more
/// time, was not heard or is not known any more.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What an earlier master has left.
#[derive(Debug, Clone, PartialEq)]
pub struct Inheritance {
    /// The plan in force. Or, if the listeners are to be others, the empty plan that workers are
    /// to go into.
    pub plan: Plan,
    /// Whether the kernel holds `plan`. If not, it holds one with other listeners or another
    /// partition, which the workers [in force](Part::InForce) serve until all that are started for
    /// `plan` are ready; without any of those the first that is ready goes into force.
    pub holds: bool,
    /// The workers, no two of the same name.
    pub workers: Vec<Adopted>,
    /// The back-offs, as far as they are known.
    pub respawns: Vec<Respawn>,
}

/// The back-off of a seat whose workers failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Respawn {
    /// The seat.
    pub seat: Seat,
    /// Failures in a row.
    pub failures: u32,
    /// No next worker before this.
    pub not_before: Moment,
}

/// A worker that an earlier master has started, and that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
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
    pub started: Moment,
    /// Where in its life it is.
    pub part: Part,
    /// The master has its listening sockets as well.
    pub holds_sockets: bool,
}

/// Where in its life an adopted worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The rules in force name it.
    InForce,
    /// It is not ready yet, and is for a vacant seat of the generation in force.
    Starting,
    /// No rule names it.
    Retired {
        /// Since when, as far as is known.
        since: Moment,
    },
    /// It was asked to end.
    Dying {
        /// When it is to be killed.
        kill_at: Moment,
    },
}

impl Supervisor {
    /// A supervisor before its first event that goes on with the workers of an earlier master.
    ///
    /// The number and the weights of the seats are those in force, whatever the settings say:
    /// [`Request::Configure`](super::Request::Configure) brings in those.
    ///
    /// # Errors
    /// Those of [`Plan::rescaled`], if the slots cannot be shared out by the weights of `settings`.
    pub fn adopt(settings: Settings, inheritance: Inheritance) -> Result<Self, PlanError> {
        let Inheritance { plan, holds, workers, respawns } = inheritance;
        let mut supervisor = Self::new(settings, plan, Start::Takeover)?;
        for adopted in workers {
            supervisor.take_over(adopted);
        }
        supervisor.go_on_replacing();
        if holds {
            supervisor.aim = Aim::found_in(supervisor.plan(), &supervisor.settings.weights)?;
            supervisor.phase = Phase::Serving;
            supervisor.kernel.in_force.lineup = Some(supervisor.lineup_of(&supervisor.aim));
            // Who knows what was done to it while nobody looked.
            supervisor.kernel.repair.suspect();
            // Those of its workers that it had retired already.
            supervisor.took_over();
        } else {
            // The new workers are of the generation of the plan, in which none has served yet.
            supervisor.aim.generation = supervisor.generation();
            supervisor.kernel.has_rules = false;
            supervisor.kernel.in_force.lineup = supervisor.lineup_before()?;
            if supervisor.kernel.in_force.lineup.is_none() {
                supervisor.phase = Phase::Starting(Start::Fresh);
            }
        }
        for Respawn { seat, failures, not_before } in respawns {
            let retry = Retry { failures, not_before };
            if let Some(generation) = supervisor.aim.generation_in(seat) {
                let respawn = backoff::Respawn::inherited(retry);
                supervisor.respawns.insert((seat, generation), respawn);
            }
        }
        Ok(supervisor)
    }

    /// What the next master needs to go on as this one would, but for the plan, which it reads itself;
    /// given that nothing is [under way](Self::may_hand_over). What operators wait for beside that, a
    /// retirement or a clearing, ends with this master, and so do the count of retirements and the
    /// generation that a rollback would go back to.
    pub fn bequeath(&self) -> (Vec<Adopted>, Vec<Respawn>) {
        let adopted = |worker: &Worker| {
            let part = match &worker.stage {
                Stage::Starting | Stage::Ready { .. } => Part::Starting,
                Stage::Live { .. } => Part::InForce,
                Stage::Retired(retirement) => Part::Retired { since: retirement.since() },
                Stage::Recalled(recall) => Part::Retired { since: recall.retirement.since() },
                Stage::Dying { ending: Ending::Asked { kill_at }, .. } => {
                    Part::Dying { kill_at: *kill_at }
                }
                // Not sooner than if all went on here; that a signal comes first is not handed over.
                Stage::Dying { ending: Ending::Told { terminate_at }, .. } => {
                    Part::Dying { kill_at: terminate_at.after(self.settings.die) }
                }
                Stage::Dying { since, .. } => Part::Dying { kill_at: *since },
            };
            Some(Adopted {
                worker: worker.id,
                seat: worker.seat,
                generation: worker.generation,
                ports: Arc::clone(worker.ports.as_ref()?),
                pid: worker.pid?,
                started: worker.started,
                part,
                holds_sockets: worker.holds_sockets,
            })
        };
        let respawn = |place: (Seat, Generation)| {
            let Retry { failures, not_before } = self.respawns.get(&place)?.bequeathed();
            Some(Respawn { seat: place.0, failures, not_before })
        };
        let workers = self.workers.values().filter_map(adopted).collect();
        (workers, self.aim.places().filter_map(respawn).collect())
    }

    /// Whether another master may take over now.
    ///
    /// # Errors
    /// [`Refusal::Stopping`]; [`Refusal::Busy`] with a reload or a scale; [`Refusal::Starting`] before
    /// a plan of this master is in force, while a process is just being started, which takes
    /// milliseconds, or has not told the ports that it picks; while another plan should be in force
    /// than is, while that does not show which seats are those of a canary, and while listening sockets
    /// wait for a worker that is to inherit them.
    pub fn may_hand_over(&self) -> Result<(), Refusal> {
        self.check_idle()?;
        let is_unknown = |worker: &Worker| worker.pid.is_none() || worker.ports.is_none();
        let is_spawning = self.workers.values().any(is_unknown);
        let is_inheriting = |worker: &Worker| {
            worker.is_heir && matches!(worker.stage, Stage::Starting | Stage::Ready { .. })
        };
        let awaits_heirs = !self.estates.is_empty() || self.workers.values().any(is_inheriting);
        let is_wrong = self.kernel.is_busy() || self.is_outdated() || !self.shows_canary();
        if is_spawning || awaits_heirs || is_wrong {
            return Err(Refusal::Starting);
        }
        Ok(())
    }

    /// Whether the plan in force shows which seats are those of the canary, if there is one: the next
    /// master has nothing else to tell it by ([`Aim::found_in`]).
    fn shows_canary(&self) -> bool {
        let last = self.aim.weights.seats() - 1;
        let is_occupied = || self.plan().seats().nth(last).is_some_and(|(_, it)| it.is_some());
        self.aim.canary.is_none() || is_occupied()
    }

    /// Whether the seats in force, or to come into force, are those of the settings.
    pub fn is_as_configured(&self) -> bool {
        self.aim.weights == self.settings.weights
    }

    /// Brings in what this master was configured with in place of what it has adopted: the weights,
    /// and with `renew` a new generation of workers.
    pub(super) fn configure(&mut self, request: RequestId, renew: bool) {
        let weights = self.settings.weights.clone();
        let checked = || {
            self.check_idle()?;
            self.check_no_canary()?;
            self.plan().rescaled(&weights)?;
            if renew { self.next_generation() } else { Ok(self.aim.generation) }
        };
        let kind = if renew { Rollout::Reload } else { Rollout::Scale };
        match checked() {
            Ok(generation) => {
                self.configuring = Some(request);
                self.begin_rollout(kind, request, Aim::all(generation, weights));
            }
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    fn take_over(&mut self, adopted: Adopted) {
        let Adopted { worker: id, seat, generation, ports, pid, started, part, holds_sockets } =
            adopted;
        let mut worker = Worker::new(id, seat, generation, started);
        worker.ports = Some(ports).filter(|ports| !ports.is_empty());
        worker.pid = Some(pid);
        worker.adopted = true;
        worker.holds_sockets = holds_sockets;
        worker.stage = match part {
            // When it got ready is not known; it took no time by all that depends on it.
            Part::InForce => Stage::Live { ready: started, since: started },
            Part::Starting => Stage::Starting,
            Part::Retired { since } => Stage::Retired(Retirement::new(since)),
            Part::Dying { kill_at } => {
                Stage::Dying { since: started, ending: Ending::Asked { kill_at } }
            }
        };
        let state = worker.state();
        let notice = Notice::Adopted { worker: id, seat, generation, pid, state };
        self.actions.push(super::Action::Notice(notice));
        self.last_worker = self.last_worker.max(id);
        // What was rolled back is not begun again under the same number.
        self.last_generation = self.last_generation.max(generation);
        self.workers.insert(id, worker);
    }

    /// A worker in force beside which another for its place was handed over is being replaced: whoever
    /// wanted that, for whatever cause, still does.
    fn go_on_replacing(&mut self) {
        let is_starting = |worker: &&Worker| matches!(worker.stage, Stage::Starting);
        let starting = self.workers.values().filter(is_starting);
        let places: Vec<(Seat, Generation)> =
            starting.map(|worker| (worker.seat, worker.generation)).collect();
        let is_replaced =
            |it: &&mut Worker| it.is_live() && places.contains(&(it.seat, it.generation));
        for worker in self.workers.values_mut().filter(is_replaced) {
            worker.leaving = Some(Cause::Requested);
        }
    }

    /// The master begins.
    pub(super) fn begin_with_adopted(&mut self, now: Moment) {
        let is_starting =
            |worker: &&mut Worker| worker.adopted && matches!(worker.stage, Stage::Starting);
        for worker in self.workers.values_mut().filter(is_starting) {
            worker.health.wait_until(now.after(FIRST_LOOK));
        }
    }

    /// The adopted workers that serve other listeners than those to come.
    fn lineup_before(&self) -> Result<Option<Lineup>, PlanError> {
        let live = || self.workers.values().filter(|it| it.state() == WorkerState::Live);
        let Some(last) = live().map(|worker| worker.seat.index()).max() else { return Ok(None) };
        let generation = live().map(|worker| worker.generation).max();
        let mut holders = vec![None; last + 1];
        for worker in live() {
            holders[worker.seat.index()] = Some(worker.id);
        }
        let generation = generation.unwrap_or(Generation::FIRST);
        let aim = Aim::all(generation, Weights::equal(holders.len())?);
        Ok(Some(Lineup { aim, holders }))
    }
}
