//! Masters that are killed at any moment, or hand over, and those that go on with what they leave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::process::{Pid, Process};
use super::topic::{TOPICS, Topic};
use super::world::World;
use crate::plan::{Partition, Plan, Weights};
use crate::protocol::{
    GenerationWeights, History, SeatBackoffSnapshot, Snapshot, StageSnapshot, WorkerId,
    WorkerSnapshot, WorkerState,
};
use crate::supervisor::{
    Evidence, InitialPlan, Input, ServingWorker, Supervisor, Verdict, judge, stage_of_handed_over,
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
    let is_configured_anew = world.goes_wrong(60);
    if is_configured_anew {
        change_weights(world);
    }
    world.processes.retain(|_, process| !process.dead);
    let before = world.plan.clone();
    let initial_plan = initial_plan(world);
    let InitialPlan { plan, in_force } = initial_plan.clone();
    world.note(|now| format!("{:>9.3?}  the next master begins, plan in force: {in_force}", now.0));
    let told = handed.as_ref().map_or(&[][..], |handed| &handed.snapshot.workers);
    let workers = adopt_all(world, &plan, &before, told);
    world.put_in_force(plan.clone());
    // What it changes it makes anew.
    world.kernel.is_damaged &= plan == before;
    let is_whole = plan == before && plan.survivors().count() == plan.seats().len();
    let snapshot = handed.as_ref().map(|handed| handed.snapshot.clone()).unwrap_or_default();
    let snapshot = Snapshot { workers: workers.clone(), ..snapshot };
    let supervisor = Supervisor::adopt(world.settings.clone(), initial_plan, snapshot);
    world.supervisor = Some(supervisor.expect("a plan that an earlier master has made"));
    world.crash.was_told = handed.is_some();
    TOPICS.iter().for_each(|topic| (topic.taken_over)(world));
    world.crash.is_adopting = true;
    world.deliver(Input::Start);
    world.crash.is_adopting = false;
    if is_whole {
        // The ports of workers that have gone meanwhile are not guarded any more.
        let mut outstanding = world.kernel.outstanding.iter();
        let is_of_guard = outstanding.all(|plan| plan.differs_in_guard_alone(&world.plan));
        assert!(is_of_guard, "an adoption changes the rules");
        assert_eq!(world.plan, before, "an adoption changes the plan");
    }
    for adopted in &workers {
        let state = world.state_of(Pid(adopted.pid));
        assert!(state.is_some(), "an adoption forgets {adopted:?}");
        let is_in_force = adopted.stage == StageSnapshot::Live;
        assert!(!is_in_force || state == Some(WorkerState::Live), "an adoption ends {adopted:?}");
    }
    if let Some(handed) = handed {
        check_handed(world, handed, &workers, in_force);
    }
    if in_force && is_configured_anew {
        let renew = world.random.percent(30);
        let reshares = !renew || world.random.percent(50);
        world.configure(renew, reshares);
    }
}

/// The next master is configured with other weights, or by chance with the same.
fn change_weights(world: &mut World) {
    let seats = match world.plan.partition() {
        Partition::Mask { .. } => world.random.choose(&[1, 2, 4]),
        _ => world.random.choose(&[1, 2, 3, 4, 5]),
    };
    let mut weights = vec![1.0; seats];
    if !matches!(world.plan.partition(), Partition::Mask { .. }) && world.random.percent(30) {
        weights[0] = 2.0;
    }
    world.settings.weights = Weights::new(&weights).expect("some");
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
    // Where the plan shows what was there before already, there is nothing to go back to.
    let is_back = |weights: &GenerationWeights| {
        let target = &next.target;
        (weights.generation, &weights.weights) == (target.generation, &target.weights)
    };
    let probation = history.probation.clone();
    let probation = probation.filter(|it| next.canary().is_some() || !is_back(&it.before));
    let probation = probation.filter(|it| it.until > world.now);
    let is_kept =
        goes_on_with.history == History { last_generation, home, probation, ..history.clone() };
    assert!(!in_force || is_kept, "a handover loses {history:?}: {:?}", goes_on_with.history);
    by.step(Input::Tick, world.now);
    for told in told {
        let Some(adopted) = workers.iter().find(|it| it.worker == told.worker) else { continue };
        // One that was left out because it does not answer is retired; and where nobody serves, all
        // that are started are of a new generation.
        let is_aside = told.stage == StageSnapshot::Live && adopted.stage != StageSnapshot::Live;
        let is_old = !in_force && adopted.stage == StageSnapshot::Starting;
        let state = |of: &Supervisor| {
            of.workers().find(|it| it.id == told.worker).map(|worker| worker.state())
        };
        let (was, is) = (state(&by), state(next));
        let is_cleared =
            world.settings.kill_old && matches!(adopted.stage, StageSnapshot::Retired { .. });
        let may_differ = is_aside || is_old || is_cleared || was == Some(WorkerState::Dying);
        assert!(was == is || may_differ, "handed over as {was:?}, and now {is:?}: {adopted:?}");
    }
}

/// The workers that are there, as `master::startup` takes them over: first those that were handed over.
fn adopt_all(
    world: &mut World,
    plan: &Plan,
    before: &Plan,
    told: &[WorkerSnapshot],
) -> Vec<WorkerSnapshot> {
    let told: BTreeMap<Pid, &WorkerSnapshot> = told.iter().map(|it| (Pid(it.pid), it)).collect();
    let mut pids: Vec<Pid> = world.processes.keys().copied().collect();
    pids.sort_by_key(|pid| !told.contains_key(pid));
    let all = pids.iter().map(|pid| (&world.processes[pid], told.contains_key(pid)));
    let evidence: Vec<Evidence> =
        all.map(|(process, is_told)| evidence(world, process, is_told)).collect();
    let evidence: Vec<&Evidence> = evidence.iter().collect();
    let verdicts = judge(&evidence, plan, Some(before), world.settings.ready, world.now);
    let mut last = told.values().map(|it| it.worker.0).max().unwrap_or_default();
    let mut workers = Vec::new();
    for (pid, verdict) in pids.into_iter().zip(verdicts) {
        match (verdict, told.get(&pid).copied()) {
            (Verdict::Adopt(seen), Some(told)) => {
                let stage = stage_of_handed_over(seen, told.stage, world.now);
                workers.push(adopt(world, pid, told.worker, stage, Some(told)));
            }
            (Verdict::Adopt(seen), None) => {
                last += 1;
                workers.push(adopt(world, pid, WorkerId(last), seen, None));
            }
            (Verdict::Orphan(_), _) => forget(world, pid),
        }
    }
    workers
}

/// What can be seen of a process, or was told of it.
fn evidence(world: &World, process: &Process, is_told: bool) -> Evidence {
    // Where it will listen nobody knows.
    let hides_ports = world.links.picks_ports && !process.listens && !is_told;
    Evidence {
        seat: process.seat,
        generation: process.generation,
        ports: if hides_ports { Arc::new([]) } else { Arc::clone(&process.ports) },
        serves: process.listens,
        has_sockets: process.listens,
        is_first_process: true,
        tells_ports: false,
        is_current: true,
        started: process.started,
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
    stage: StageSnapshot,
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
    process.ready = stage == StageSnapshot::Live;
    // What it was asked by one that is gone is not known, unless it is told.
    process.signalled = matches!(stage, StageSnapshot::Dying { terminate_at: None, .. });
    process.told = matches!(stage, StageSnapshot::Dying { terminate_at: Some(_), .. });
    (process.quiet_reports, process.was_counted) = (0, false);
    (process.ready_again, process.looked_at, process.polled) = (false, false, false);
    process.keeps_own_sockets = keeps_sockets;
    if let StageSnapshot::Retired { .. } | StageSnapshot::Dying { .. } = stage {
        process.left_at.get_or_insert(now);
    }
    let mut ports = process.ports.to_vec();
    process.is_anew = stage == StageSnapshot::Starting;
    if process.is_anew {
        // What it was before nobody can know.
        (process.left_at, process.was_named) = (None, false);
    }
    if stage == StageSnapshot::Starting {
        if world.links.picks_ports {
            // It tells where it listens when it joins again.
            process.keeps_ports = true;
            ports = vec![];
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
        signals: told.and_then(|told| told.signals),
        led: told.map_or(0, |told| told.led),
        // What it was told stands in a file of its own.
        told: told.and_then(|told| told.told).or(process.finishes_since),
        holds_listeners: !keeps_sockets,
    }
}

/// What the next master begins with, which has the same configuration.
fn initial_plan(world: &World) -> InitialPlan {
    let serving: Vec<ServingWorker> = world
        .processes
        .values()
        // One that got its retire signal takes no further connection, though a master that died while it
        // stopped the cluster has left it in the plan.
        .filter(|process| process.listens && process.finishes_since.is_none())
        .map(|process| ServingWorker {
            seat: process.seat,
            generation: process.generation,
            ports: Arc::clone(&process.ports),
        })
        .collect();
    let weights = &world.settings.weights;
    let in_force = world.plan.clone();
    InitialPlan::new(configured_plan(world), weights, Some(in_force), &serving)
        .expect("as many slots as before")
}

/// The plan of the configuration, with vacant seats.
fn configured_plan(world: &World) -> Plan {
    let (plan, weights) = (&world.plan, &world.settings.weights);
    let partition = match plan.partition() {
        Partition::Mask { .. } => {
            Partition::mask(u32::try_from(weights.seats()).expect("small")).expect("a power of two")
        }
        hash => *hash,
    };
    let (name, listeners) = (plan.name().clone(), plan.listeners().clone());
    let mut configured = Plan::new(name, listeners, partition, weights, None).expect("a plan");
    configured.set_engine(plan.engine()).expect("no udp");
    configured.set_guard(plan.guard()).expect("no public port");
    configured
}
