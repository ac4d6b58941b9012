//! Workers that fall silent and answer again, and those that say something of themselves.

use std::time::Duration;

use super::process::{Pid, Process};
use super::topic::Topic;
use super::world::World;
use crate::plan::Plan;
use crate::protocol::{Event, Exit, NotReady, ReplaceReason, Timestamp, Unhealthy, WorkerState};
use crate::supervisor::workers::Stage;
use crate::supervisor::{Action, Input, Worker};

pub(super) const TOPIC: Topic =
    Topic { born, taken_over, check_action, follow, check_state, ..Topic::NONE };

/// The longest time from the answer of a worker to its return.
const LONGEST_RETURN: Duration = Duration::from_secs(60);

fn born(world: &mut World, pid: Pid) {
    if world.goes_wrong(20) {
        let (when, span) = (world.random.millis(0..3_000), world.random.millis(0..5_000));
        world.schedule_for_master(when, move |world| {
            world.tell_of(pid, |worker| Input::ExtendTimeout { worker, span });
        });
    }
    if world.goes_wrong(20) {
        let when = world.random.millis(0..3_000);
        world.schedule_for_master(when, move |world| {
            world.tell_of(pid, |worker| Input::NotReady {
                worker,
                lack: NotReady::ReadyButNotListening,
            });
        });
    }
    if world.goes_wrong(50) {
        let when = world.random.millis(0..30_000);
        world.schedule(when, move |world| hang(world, pid));
    }
    if world.goes_wrong(10) {
        let when = world.random.millis(0..30_000);
        world.schedule(when, move |world| say_that_it_stops(world, pid));
    }
}

/// A worker falls silent, for a moment or for long.
fn hang(world: &mut World, pid: Pid) {
    if let Some(process) = world.processes.get_mut(&pid) {
        process.hangs = true;
    }
    detect(world, pid);
    let longest = if world.goes_wrong(50) { 2_000 } else { 25_000 };
    let delay = world.random.millis(0..longest);
    world.schedule(delay, move |world| recover(world, pid));
}

/// The master looks at those alone that are ready.
fn detect(world: &mut World, pid: Pid) {
    let is_watched = |it: &&mut Process| it.ready && it.is_alive() && it.worker.is_some();
    if world.supervisor.is_some()
        && let Some(process) = world.processes.get_mut(&pid).filter(is_watched)
        && process.hangs
    {
        process.silent = true;
        world.tell_of(pid, |worker| Input::Unhealthy { worker, cause: Unhealthy::Stopped });
    }
}

/// It answers again, and perhaps not for long.
fn recover(world: &mut World, pid: Pid) {
    let now = world.now;
    if let Some(process) = world.processes.get_mut(&pid) {
        process.hangs = false;
    }
    let is_silent = |it: &&mut Process| it.silent && it.is_alive();
    if let Some(process) = world.processes.get_mut(&pid).filter(is_silent) {
        (process.silent, process.answered_at) = (false, Some(now));
        world.tell_of(pid, |worker| Input::Healthy { worker });
    }
    if world.goes_wrong(60) {
        let pause = world.random.millis(0..8_000);
        world.schedule(pause, move |world| hang(world, pid));
    }
}

fn say_that_it_stops(world: &mut World, pid: Pid) {
    let counts = world.operators.stop.is_none() && world.supervisor.is_some();
    let Some(process) = world.processes.get_mut(&pid).filter(|process| process.is_alive()) else {
        return;
    };
    process.stops |= counts && process.worker.is_some();
    world.tell_of(pid, |worker| Input::Stopping { worker });
    let delay = world.random.millis(0..5_000);
    world.schedule(delay, move |world| world.die(pid, Exit::Code(0)));
}

/// The next master does not know what the one before was told, and sees soon who does not answer.
fn taken_over(world: &mut World) {
    for process in world.processes.values_mut() {
        (process.silent, process.answered_at, process.stops) = (false, None, false);
    }
    let hang = world.processes.iter().filter(|(_, process)| process.hangs);
    for pid in hang.map(|(pid, _)| *pid).collect::<Vec<_>>() {
        let delay = world.random.millis(0..3_000);
        world.schedule_for_master(delay, move |world| detect(world, pid));
    }
}

/// A worker that was left out because of its health drains from its retirement on, not before.
fn follow(world: &mut World) {
    let is_retired = |pid: &Pid| world.state_of(*pid) == Some(WorkerState::Retired);
    let retired: Vec<Pid> = world.processes.keys().copied().filter(is_retired).collect();
    for pid in retired {
        if let Some(process) = world.processes.get_mut(&pid).filter(|it| it.was_named) {
            process.left_at.get_or_insert(world.now);
        }
    }
}

fn check_action(world: &World, action: &Action) {
    match action {
        Action::Commit(plan) => check_commit(world, plan),
        Action::Emit(Event::Leaving { worker, cause: ReplaceReason::Unhealthy, .. }) => {
            let answers = world.process_of(*worker).is_some_and(|process| !process.silent);
            assert!(!answers, "{worker} is replaced for its silence, and answers");
        }
        _ => {}
    }
}

fn check_commit(world: &World, plan: &Plan) {
    if !plan.is_admitting() {
        return;
    }
    let occupants = plan.seats().filter_map(|(_, occupant)| occupant);
    let named = occupants.filter_map(|occupant| world.processes.get(&world.pid_with(occupant)?));
    let is_unwell = |it: &&Process| it.worker.is_some() && (it.silent || it.stops);
    if let Some(unwell) = named.into_iter().find(is_unwell) {
        let well = well_in(world, plan).next();
        assert_eq!(well, None, "a silent worker gets clients while another answers: {unwell:?}");
    }
}

/// Whenever no commit is on its way, and none has failed.
fn check_state(world: &World) {
    let is_busy = world.kernel.outstanding.is_some() || world.kernel.is_looking;
    if world.finished || is_busy || world.kernel.failures > 0 || world.operators.stop.is_some() {
        return;
    }
    let named: Vec<Pid> = world.occupants().filter_map(|it| world.pid_with(it)).collect();
    if let Some(pid) = well_in(world, &world.plan).find(|pid| !named.contains(pid)) {
        panic!("a worker that answers has not come back: {:?}", world.processes[&pid]);
    }
}

/// The workers that are sure to answer, of those that have a place in the plan. Not during a trial,
/// of which a plan does not tell who has which place.
fn well_in(world: &World, plan: &Plan) -> impl Iterator<Item = Pid> {
    let (generation, seats) = (plan.generation(), plan.seats().len());
    let is_trial = world.canary.is_trial();
    let is_looked_for = |worker: &Worker| {
        let is_seen = world.process_of(worker.id).is_some_and(|process| process.ready_again);
        matches!(worker.stage, Stage::Reactivating(_)) && !is_seen
    };
    let workers = world.workers().filter(move |worker| {
        let is_its_state = matches!(worker.state(), WorkerState::Starting | WorkerState::Live);
        let has_place = worker.generation == generation && worker.seat.index() < seats;
        is_its_state && has_place && !is_trial && !is_looked_for(worker)
    });
    let pids = workers.filter_map(|worker| world.pid_of(worker.id));
    pids.filter(|pid| world.processes[pid].is_well(world.now))
}

impl Process {
    /// Whether it is sure to stand in a plan that has a place for it: it answers, and has long enough
    /// to come back however often it fell silent.
    fn is_well(&self, now: Timestamp) -> bool {
        let is_ill = self.silent || self.stops || self.signalled || self.is_excluded;
        self.ready && !is_ill && !self.was_ill(now)
    }

    fn was_ill(&self, now: Timestamp) -> bool {
        self.answered_at.is_some_and(|at| now.since(at) <= LONGEST_RETURN)
    }

    /// Whether a plan may have left it out because it does not answer or stops: it is retired later, if
    /// ever, and until then it serves again if nobody else is left.
    pub(super) fn may_be_aside(&self, now: Timestamp) -> bool {
        self.worker.is_some() && (self.silent || self.stops || self.was_ill(now))
    }
}
