//! Masters that are killed at any moment, or hand over, and those that go on with what they leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::process::{Pid, Process};
use super::topic::{TOPICS, Topic};
use super::world::World;
use crate::plan::{Occupant, Plan, Seat};
use crate::protocol::{WorkerId, WorkerState};
use crate::supervisor::{
    AdoptedCluster, AdoptedStage, History, Input, SeatBackoffSnapshot, Snapshot, Supervisor,
    WorkerSnapshot,
};

pub(super) const TOPIC: Topic = Topic { begin, ..Topic::NONE };

/// How often, and how long after each other, a master is asked to hand over that cannot just then.
const TRIES: u32 = 50;
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What the world remembers of masters that are gone.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The first event of a master that has adopted is being told.
    pub(super) is_adopting: bool,
    /// The master in office was told all by the one before.
    pub(super) was_told: bool,
}

/// What a master has handed over.
struct Handed {
    snapshot: Snapshot,
    /// The one that has: it tells what would have become of it.
    by: Supervisor,
}

fn begin(world: &mut World) {
    for _ in 0..world.random.below(3) {
        if world.goes_wrong(50) {
            let at = world.some_time();
            world.schedule(at, crash);
        }
        if world.goes_wrong(50) {
            let at = world.some_time();
            world.schedule(at, |world| ask_for_all(world, TRIES));
        }
    }
}

/// SIGKILL of the master. Its workers and the rules stay; of a transaction under way the kernel has
/// taken all or nothing.
fn crash(world: &mut World) {
    if world.finished || world.supervisor.take().is_none() {
        return;
    }
    world.note(|now| format!("{:>9.3?}  the master is killed", now.0));
    if let Some(plan) = world.kernel.outstanding.take()
        && world.random.percent(50)
    {
        world.put_in_force(plan);
    }
    world.processes.retain(|_, process| !process.ports.is_empty());
    let delay = world.random.millis(100..5_000);
    world.schedule(delay, |world| start_next_master(world, None));
}

/// `run --replace`. While it takes over nobody decides anything.
fn ask_for_all(world: &mut World, tries: u32) {
    let Some(supervisor) = world.supervisor.as_ref().filter(|_| !world.finished) else { return };
    if supervisor.may_hand_over().is_err() {
        if tries > 0 {
            world.schedule(ASK_AGAIN, move |world| ask_for_all(world, tries - 1));
        }
        return;
    }
    let Some(by) = world.supervisor.take() else { return };
    world.note(|now| format!("{:>9.3?}  the master hands over", now.0));
    let snapshot = by.snapshot();
    let mut delay = world.random.millis(0..20);
    if world.goes_wrong(20) {
        delay = world.random.millis(20..1_500);
    }
    world.schedule(delay, |world| start_next_master(world, Some(Handed { snapshot, by })));
}

/// Another `run`: what is in force, less the workers that are gone, is what it begins with.
fn start_next_master(world: &mut World, handed: Option<Handed>) {
    world.reign += 1;
    world.processes.retain(|_, process| !process.dead);
    let before = world.plan.clone();
    let (plan, in_force) = beginning(world);
    world.note(|now| format!("{:>9.3?}  the next master begins, plan in force: {in_force}", now.0));
    let told = handed.as_ref().map_or(&[][..], |handed| &handed.snapshot.workers);
    let workers = adopt_all(world, &plan, &before, told);
    world.put_in_force(plan.clone());
    // What it changes it makes anew.
    world.kernel.is_damaged &= plan == before;
    let is_whole = plan == before && plan.survivors().count() == plan.seats().len();
    let snapshot = handed.as_ref().map(|handed| handed.snapshot.clone()).unwrap_or_default();
    let snapshot = Snapshot { workers: workers.clone(), ..snapshot };
    let cluster = AdoptedCluster { plan, in_force, snapshot };
    let supervisor = Supervisor::adopt(world.settings.clone(), cluster);
    world.supervisor = Some(supervisor.expect("a plan that an earlier master has made"));
    world.crash.was_told = handed.is_some();
    TOPICS.iter().for_each(|topic| (topic.taken_over)(world));
    world.crash.is_adopting = true;
    world.deliver(Input::Start);
    world.crash.is_adopting = false;
    if is_whole {
        assert!(world.kernel.outstanding.is_none(), "an adoption changes the rules");
        assert_eq!(world.plan, before, "an adoption changes the plan");
    }
    for adopted in &workers {
        let state = world.state_of(Pid(adopted.pid));
        assert!(state.is_some(), "an adoption forgets {adopted:?}");
        let is_in_force = adopted.stage == AdoptedStage::InForce;
        assert!(!is_in_force || state == Some(WorkerState::Live), "an adoption ends {adopted:?}");
    }
    if let Some(handed) = handed {
        check_handed(world, handed, &workers, in_force);
    }
}

/// The next master goes on as this one would have.
fn check_handed(world: &World, handed: Handed, workers: &[WorkerSnapshot], in_force: bool) {
    let Handed { snapshot: Snapshot { workers: told, backoffs, history }, mut by } = handed;
    let Some(next) = &world.supervisor else { return };
    let goes_on_with = next.snapshot();
    // Where nobody serves there are as many seats as are configured.
    let is_there = |respawn: &&SeatBackoffSnapshot| respawn.seat.index() < world.plan.seats().len();
    let expected: Vec<SeatBackoffSnapshot> = backoffs.iter().filter(is_there).cloned().collect();
    assert_eq!(goes_on_with.backoffs, expected, "a handover loses back-offs");
    // The number of a generation that failed counts with the next one, if a worker of it is left.
    let last_generation = goes_on_with.history.last_generation;
    assert!(last_generation >= history.last_generation, "a handover loses {history:?}");
    // Where the plan does not show the canary any more, since its workers have ended, there is none.
    let home = history.home.clone().filter(|_| next.canary().is_some());
    let is_kept = goes_on_with.history == History { last_generation, home, ..history.clone() };
    assert!(!in_force || is_kept, "a handover loses {history:?}: {:?}", goes_on_with.history);
    by.step(Input::Tick, world.now);
    for told in told {
        let Some(adopted) = workers.iter().find(|it| it.worker == told.worker) else { continue };
        // One that was left out because it does not answer is retired; and where nobody serves, all
        // that are started are of a new generation.
        let is_aside =
            told.stage == AdoptedStage::InForce && adopted.stage != AdoptedStage::InForce;
        let is_old = !in_force && adopted.stage == AdoptedStage::Starting;
        let state = |of: &Supervisor| {
            of.workers().find(|it| it.id == told.worker).map(|worker| worker.state())
        };
        let (was, is) = (state(&by), state(next));
        let is_cleared =
            world.settings.kill_old && matches!(adopted.stage, AdoptedStage::Retired { .. });
        let may_differ = is_aside || is_old || is_cleared || was == Some(WorkerState::Dying);
        assert!(was == is || may_differ, "handed over as {was:?}, and now {is:?}: {adopted:?}");
    }
}

/// The workers that are there, as `master::startup::find_workers` judges them and `master::startup::state` takes them
/// over: first those that were handed over.
fn adopt_all(
    world: &mut World,
    plan: &Plan,
    before: &Plan,
    told: &[WorkerSnapshot],
) -> Vec<WorkerSnapshot> {
    let told: BTreeMap<Pid, &WorkerSnapshot> = told.iter().map(|it| (Pid(it.pid), it)).collect();
    let mut pids: Vec<Pid> = world.processes.keys().copied().collect();
    pids.sort_by_key(|pid| !told.contains_key(pid));
    let mut last = told.values().map(|it| it.worker.0).max().unwrap_or_default();
    let mut given = BTreeSet::new();
    let mut workers = Vec::new();
    for pid in pids {
        let told = told.get(&pid).copied();
        let process = &world.processes[&pid];
        let seen = match judge(world, process, plan, before, &mut given) {
            Some(seen) => seen,
            None if told.is_some() => AdoptedStage::Starting,
            None => {
                forget(world, pid);
                continue;
            }
        };
        let stage = told.map_or(seen, |told| told_part(world, seen, told));
        let worker = told.map_or_else(
            || {
                last += 1;
                WorkerId(last)
            },
            |told| told.worker,
        );
        workers.push(adopt(world, pid, worker, stage, told));
    }
    workers
}

/// Where in its life it is, by what can be seen of it; `None`: it is left alone.
fn judge(
    world: &World,
    process: &Process,
    plan: &Plan,
    before: &Plan,
    given: &mut BTreeSet<Seat>,
) -> Option<AdoptedStage> {
    let Process { seat, generation, ports, .. } = process;
    let occupant_of = |plan: &Plan| {
        let mut seats = plan.seats();
        seats.find(|it| it.0 == *seat).and_then(|(_, occupant)| occupant.cloned())
    };
    let itself = Some(Occupant { generation: *generation, ports: ports.clone() });
    let is_planned = occupant_of(plan) == itself;
    let is_of_now = plan.generation() == *generation
        && seat.index() < plan.seats().len()
        && occupant_of(plan).is_none();
    let was_planned = occupant_of(before) == itself;
    let is_young = world.now.since(process.started) < world.settings.ready;
    if is_planned && process.listens && given.insert(*seat) {
        Some(AdoptedStage::InForce)
    } else if is_of_now && !was_planned && is_young && given.insert(*seat) {
        Some(AdoptedStage::Starting)
    } else if world.links.picks_ports && !process.listens {
        // Where it will listen nobody knows.
        None
    } else {
        Some(AdoptedStage::Retired { since: world.now })
    }
}

/// What was told counts, but for who is in force.
fn told_part(world: &World, seen: AdoptedStage, told: &WorkerSnapshot) -> AdoptedStage {
    match (seen, told.stage) {
        (AdoptedStage::InForce, _) => AdoptedStage::InForce,
        (_, AdoptedStage::InForce) => AdoptedStage::Retired { since: world.now },
        (_, stage) => stage,
    }
}

/// It is nobody's worker from now on.
fn forget(world: &mut World, pid: Pid) {
    let process = world.processes.get_mut(&pid).expect("it is there");
    process.worker = None;
}

fn adopt(
    world: &mut World,
    pid: Pid,
    worker: WorkerId,
    stage: AdoptedStage,
    told: Option<&WorkerSnapshot>,
) -> WorkerSnapshot {
    let now = world.now;
    // A process that may not be traced gives no socket away.
    let keeps_sockets = match told {
        Some(told) => !told.holds_listeners,
        None => !world.settings.holds_listeners || world.random.percent(20),
    };
    let process = world.processes.get_mut(&pid).expect("it is there");
    process.worker = Some(worker);
    process.ready = stage == AdoptedStage::InForce;
    // What it was asked by one that is gone is not known, unless it is told.
    process.signalled = matches!(stage, AdoptedStage::Dying { terminate_at: None, .. });
    process.told = matches!(stage, AdoptedStage::Dying { terminate_at: Some(_), .. });
    (process.quiet_reports, process.was_counted) = (0, false);
    (process.ready_again, process.looked_at, process.polled) = (false, false, false);
    process.keeps_own_sockets = keeps_sockets;
    if let AdoptedStage::Retired { .. } | AdoptedStage::Dying { .. } = stage {
        process.left_at.get_or_insert(now);
    }
    let mut ports = process.ports.clone();
    process.is_anew = stage == AdoptedStage::Starting;
    if process.is_anew {
        // What it was before nobody can know.
        (process.left_at, process.was_named) = (None, false);
    }
    if stage == AdoptedStage::Starting {
        if world.links.picks_ports {
            // It tells where it listens when it joins again.
            process.keeps_ports = true;
            ports = [].into();
        }
        if process.listens {
            super::lives::look_at(world, pid);
        }
    }
    let process = &world.processes[&pid];
    WorkerSnapshot {
        worker,
        seat: process.seat,
        generation: process.generation,
        ports,
        pid: pid.0,
        started: process.started,
        stage,
        is_superseded: told.is_some_and(|told| told.is_superseded),
        extended: told.and_then(|told| told.extended),
        holds_listeners: !keeps_sockets,
    }
}

/// As `master::startup::initial_plan` has it.
fn beginning(world: &World) -> (Plan, bool) {
    let mut plan = world.plan.clone();
    let serves = |seat: &Seat, occupant: &Occupant| {
        let process = world.pid_with(occupant).map(|pid| &world.processes[&pid]);
        process.is_some_and(|it| it.listens && it.seat == *seat)
    };
    let is_gone = |seat: &Seat| plan.occupant(*seat).is_some_and(|it| !serves(seat, it));
    let gone: Vec<Seat> = plan.seats().map(|(seat, _)| seat).filter(is_gone).collect();
    for seat in gone {
        plan.vacate(seat).expect("a seat of it");
    }
    plan.set_admitting(true);
    if plan.survivors().next().is_some() {
        return (plan, true);
    }
    let mut plan = plan.rescaled(&world.settings.weights).expect("as many slots as before");
    plan.set_generation(plan.generation().next());
    (plan, false)
}
