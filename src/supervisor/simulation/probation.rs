//! Probation: those who are kept until it is over, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::process::{Pid, Process};
use super::random::Random;
use super::topic::Topic;
use super::world::World;
use crate::plan::{Generation, Seat};
use crate::protocol::{Event, Exit, MaxFailures, WorkerId, WorkerState};
use crate::supervisor::{Action, Worker};

pub(super) const TOPIC: Topic = Topic { taken_over, check_action, act, check_state, ..Topic::NONE };

/// How long probations are in a history. Drawn apart from the rest, so that histories stay what they were.
pub(super) fn length(seed: u64) -> Duration {
    let seconds = Random::new(seed ^ 0x5eed).choose(&[0, 0, 1, 4, 10, 10]);
    Duration::from_secs(seconds)
}

pub(super) fn max_failures(seed: u64) -> MaxFailures {
    let limits = [MaxFailures::Auto, MaxFailures::Total(0), MaxFailures::Total(3)];
    Random::new(seed ^ 0xface).choose(&limits)
}

/// What the world remembers of probations, by what it is told of them.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Probations that failed, and from which there was a way back.
    pub(super) returns: u64,
    on: Option<On>,
    /// The processes that the master in office has retired itself.
    retired_here: BTreeSet<Pid>,
}

/// The probation under way.
#[derive(Debug, Clone)]
struct On {
    generation: Generation,
    before: Generation,
    /// How many seats that one has.
    seats: usize,
    /// The workers of the generation before that the swap has retired.
    kept: BTreeSet<Pid>,
    /// How many workers of the generation on probation each seat has lost.
    losses: BTreeMap<Seat, u32>,
    failures: u32,
}

/// The next master goes on with what it was told of; else it has to say that it begins one anew.
fn taken_over(world: &mut World) {
    let was_told = world.crash.was_told;
    let goes_on = world.supervisor.as_ref().is_some_and(|it| it.probation(world.now).is_some());
    world.probation.retired_here.clear();
    world.probation.on.take_if(|_| !was_told || !goes_on);
}

fn act(world: &mut World, action: &Action) {
    let Action::Emit(event) = action else { return };
    match event {
        Event::ProbationBegan { generation, before, .. } => {
            let kept = match world.probation.on.take() {
                _ if world.crash.is_adopting => retired_of(world, *before),
                // What has never passed one is nothing to go back to.
                Some(on) if on.before == *before => on.kept,
                _ => BTreeSet::new(),
            };
            let (losses, failures) = (BTreeMap::new(), 0);
            let probation = world.supervisor.as_ref().and_then(|it| it.probation.as_ref());
            let seats = probation.map_or(0, |it| it.seats_before());
            let (generation, before) = (*generation, *before);
            let on = On { generation, before, seats, kept, losses, failures };
            world.probation.on = Some(on);
        }
        Event::Retired { worker, seat, generation } if !world.policy.drainers.contains(worker) => {
            let Some(pid) = world.pid_of(*worker) else { return };
            world.probation.retired_here.insert(pid);
            // One that was never seen to listen is not to serve again either.
            if let Some(on) = &mut world.probation.on
                && world.processes[&pid].ready
                && on.before == *generation
                && on.before != on.generation
                && seat.index() < on.seats
                && !world.canary.is_trial()
            {
                on.kept.insert(pid);
            }
        }
        Event::Died { exit: Exit::Code(0), lived, .. } if *lived >= world.settings.backoff.min => {}
        Event::Died { seat, generation, .. } => lost(world, *seat, *generation),
        Event::Stopping { seat, generation, .. } => lost(world, *seat, *generation),
        Event::Unhealthy { worker, seat, generation, .. } => {
            let is_retired = |it: &Worker| it.id == *worker && it.state() == WorkerState::Retired;
            if world.workers().any(is_retired) || seat.index() >= world.plan.seats().len() {
                return;
            }
            if let Some(on) = world.probation.on.as_mut().filter(|on| on.generation == *generation)
            {
                on.failures += 1;
            }
        }
        Event::InForce { .. } => {
            // A rollback has replaced it.
            let now = world.now;
            let is_over = world.supervisor.as_ref().is_some_and(|it| it.probation(now).is_none());
            world.probation.on.take_if(|_| is_over);
        }
        Event::Failed(failure) if !world.policy.drainers.contains(&failure.worker) => {
            lost(world, failure.seat, failure.generation);
        }
        Event::ProbationFailed { back_to: Some(_), .. } => {
            world.probation.returns += 1;
            recall(world);
            // What the seats have lost since is not held against those who serve again.
            world.operators.last_change = Some(world.now);
        }
        Event::ProbationPassed { .. }
        | Event::ProbationFailed { back_to: None, .. }
        | Event::Returned { .. } => world.probation.on = None,
        _ => {}
    }
}

/// Those who are kept serve again without another look; so do those who were not even retired yet.
fn recall(world: &mut World) {
    let Some(on) = world.probation.on.clone() else { return };
    let pids: Vec<Pid> = world.processes.keys().copied().collect();
    for pid in pids {
        let is_live = world.state_of(pid) == Some(WorkerState::Live);
        let is_known = world.is_kept_by_this_master(pid) || is_live;
        if let Some(process) = world.processes.get_mut(&pid)
            && is_known
            && process.generation == on.before
        {
            process.ready_again = true;
        }
    }
}

/// The retired workers of a generation that have a seat in force.
fn retired_of(world: &World, generation: Generation) -> BTreeSet<Pid> {
    let seats = world.plan.seats().len();
    let is_retired = |worker: &&Worker| {
        let has_seat = worker.generation == generation && worker.seat.index() < seats;
        has_seat && worker.state() == WorkerState::Retired && !worker.is_finishing()
    };
    world.workers().filter(is_retired).filter_map(|worker| world.pid_of(worker.id)).collect()
}

fn lost(world: &mut World, seat: Seat, generation: Generation) {
    if let Some(on) = world.probation.on.as_mut().filter(|on| on.generation == generation) {
        *on.losses.entry(seat).or_default() += 1;
        on.failures += 1;
    }
}

fn check_action(world: &World, action: &Action) {
    match action {
        Action::OrderRetire { worker } | Action::TellRetired { worker, .. } => {
            assert!(!world.is_standby(*worker), "{worker} told to retire on standby");
        }
        Action::OrderStop { worker } | Action::Terminate { worker, .. } => {
            let may_go = world.policy.killable.contains(worker);
            assert!(may_go || !world.is_standby(*worker), "{worker} ended on standby");
        }
        _ => {}
    }
}

/// Whenever no commit is on its way, and none has failed.
fn check_state(world: &World) {
    let Some(on) = &world.probation.on else { return };
    let is_busy = world.kernel.outstanding.is_some() || world.kernel.is_looking;
    let is_troubled = world.kernel.failures > 0 || world.operators.stop.is_some();
    if world.finished || is_busy || is_troubled || world.plan.generation() != on.generation {
        return;
    }
    let could_serve = |pid: &Pid| {
        let process = world.processes.get(pid);
        process.is_some_and(|it| world.is_kept_by_this_master(*pid) && is_well(it))
    };
    if on.before == on.generation || !on.kept.iter().any(could_serve) {
        return;
    }
    let is_exceeded = match world.settings.max_failures {
        MaxFailures::Auto => on.losses.values().any(|losses| *losses > 1),
        MaxFailures::Total(most) => on.failures > most,
    };
    assert!(
        !is_exceeded,
        "failed beyond the limit, and those who could serve again do not: {on:?}"
    );
    let named: Vec<Pid> = world.occupants().filter_map(|it| world.pid_with(it)).collect();
    let serves = named.iter().any(|pid| is_well(&world.processes[pid]));
    assert!(serves, "nobody serves, and those who could serve again do not: {on:?}");
}

fn is_well(process: &Process) -> bool {
    process.ready && process.worker.is_some() && !(process.silent || process.stops)
}

impl World {
    /// Whether a worker is kept able to serve until a probation is over.
    pub(super) fn is_standby(&self, worker: WorkerId) -> bool {
        let Some(on) = self.probation.on.as_ref().filter(|_| self.operators.stop.is_none()) else {
            return false;
        };
        let process = self.process_of(worker);
        let is_usable = process.is_some_and(|it| !it.stops && !it.is_excluded);
        is_usable && self.pid_of(worker).is_some_and(|pid| on.kept.contains(&pid))
    }

    /// Whether such a worker was retired by the master in office, so that it is known to listen.
    pub(super) fn is_kept_by_this_master(&self, pid: Pid) -> bool {
        let on = self.probation.on.as_ref();
        on.is_some_and(|on| on.kept.contains(&pid)) && self.probation.retired_here.contains(&pid)
    }
}
