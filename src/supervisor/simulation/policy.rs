//! Workers that grow, lag, hang and ask for their retirement; memory that runs short; operators who
//! retire and clear; and seats that lose too many.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::checks::{gave_up_closing, names};
use super::process::{Pid, Process};
use super::random::Random;
use super::topic::Topic;
use super::world::World;
use crate::plan::{Generation, Plan, Seat};
use crate::protocol::{
    Command, EndReason, Event, Exit, GiveUp, KillOrder, Marks, Memory, ReplaceReason, Retire,
    RetireTarget, Timestamp, WorkerId, WorkerState,
};
use crate::supervisor::{Action, Input, MemoryUsage, Settings, Worker};

pub(super) const TOPIC: Topic =
    Topic { begin, born, taken_over, check_action, act, check_state, ..Topic::NONE };

/// A worker that was ready for so long is replaced at once, and its seat begins anew.
const STEADY: Duration = Duration::from_secs(10);

/// The master has as much itself.
const MASTER: u64 = 50;

/// The settings of one history.
pub(super) fn settings(random: &mut Random) -> Settings {
    let seconds = Duration::from_secs;
    let marks = Marks { low: 300 + random.below(400), high: 800 + random.below(300) };
    Settings {
        give_up: random.choose(&[
            None,
            Some(GiveUp { failures: 1, window: seconds(10) }),
            Some(GiveUp { failures: 2, window: seconds(20) }),
            Some(GiveUp { failures: 5, window: seconds(60) }),
        ]),
        ping: seconds(random.choose(&[2, 10])),
        retire: Retire {
            rss: random.choose(&[None, Some(250)]),
            lag: random.choose(&[None, Some(Duration::from_millis(150))]),
            max_age: random.choose(&[None, None, Some(seconds(25))]),
            connections: random.choose(&[None, None, Some(60)]),
            jitter: random.choose(&[0, 20]),
            rate: random.choose(&[1, 2, 4]),
            window: random.choose(&[seconds(0), seconds(5), seconds(20)]),
            renice: 1,
        },
        memory: Memory {
            marks: Some(marks).filter(|_| random.percent(60)),
            order: random.choose(&[KillOrder::Connections, KillOrder::Age, KillOrder::Memory]),
        },
        kill_old: random.percent(20),
        ..Settings::default()
    }
}

/// What a process costs and how it is, and what of that was told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burden {
    resident: u64,
    /// The part of it that it shares, in percent.
    shared: u64,
    grows: bool,
}

impl Burden {
    pub(super) fn new(random: &mut Random) -> Self {
        let resident = 60 + random.below(60);
        Self { resident, shared: random.below(60), grows: false }
    }

    fn proportional(&self) -> u64 {
        self.resident - self.resident * self.shared / 100
    }
}

/// What the world remembers to judge by. It ends with the master, but for what is told to the next.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last resident memory that was told of each worker.
    resident: BTreeMap<WorkerId, u64>,
    /// The last proportional memory that was told.
    shared: MemoryUsage,
    /// Those who were to be replaced, and are not retired yet as far as was told.
    pub(super) leaving: BTreeSet<WorkerId>,
    /// Those of them whose successor was refused in the end, and that were not retired: they stay.
    pub(super) staying: BTreeSet<WorkerId>,
    /// When those of them that are retired were.
    retirements: Vec<Timestamp>,
    /// When the last worker was ended that could have gone on.
    last_end: Option<Timestamp>,
    /// Those that may be signalled although they have not drained.
    pub(super) excused: BTreeSet<WorkerId>,
    /// Those that may be killed without a warning.
    pub(super) killable: BTreeSet<WorkerId>,
    /// Places whose worker was lost, and not replaced yet.
    lost: BTreeMap<(Seat, Generation), Timestamp>,
    /// When lost workers of a seat were replaced.
    respawns: BTreeMap<Seat, Vec<Timestamp>>,
    /// What the counters of the seats say, and when they were read last.
    connections: BTreeMap<Seat, u64>,
    counted_at: Timestamp,
    /// The master has asked for them, and has not got them.
    is_counting: bool,
    /// Those that only empty the queue of a worker that is gone.
    pub(super) drainers: BTreeSet<WorkerId>,
}

fn begin(world: &mut World) {
    let looks = world.settings.memory.marks.is_some() || world.settings.retire.rss.is_some();
    if looks {
        world.schedule(Duration::from_secs(1), look);
    }
    for _ in 0..world.random.below(6) {
        let at = world.some_time();
        let seat = Seat(u16::try_from(world.random.below(8)).expect("small"));
        let pid = 100 + u32::try_from(world.random.below(30)).expect("small");
        let command = world.random.choose(&[
            Command::Retire(RetireTarget::Seat(seat)),
            Command::Retire(RetireTarget::Seat(seat)),
            Command::Retire(RetireTarget::Pid(pid)),
            Command::ClearRetired,
            Command::Restart,
        ]);
        world.schedule(at, move |world| world.ask(command));
    }
}

fn born(world: &mut World, pid: Pid) {
    let grows = world.goes_wrong(30);
    if let Some(process) = world.processes.get_mut(&pid) {
        process.burden.grows = grows;
    }
    if world.goes_wrong(15) {
        let at = world.some_time();
        for _ in 0..=world.random.below(2) {
            world.schedule_for_master(at, move |world| {
                world.tell_of(pid, |worker| Input::RetireRequested { worker });
            });
        }
    }
    if world.goes_wrong(30) {
        let at = world.some_time();
        let lag = world.random.millis(0..300);
        world.schedule_for_master(at, move |world| {
            world.tell_of(pid, |worker| Input::Lagging { worker, lag });
        });
    }
}

/// Who has a successor leaves, also where nobody knows why any more. What was told still counts.
fn taken_over(world: &mut World) {
    let State { retirements, lost, respawns, .. } = std::mem::take(&mut world.policy);
    if world.crash.was_told {
        world.policy = State { retirements, lost, respawns, ..State::default() };
    }
    let starting = |worker: &&Worker| worker.state() == WorkerState::Starting;
    let places: Vec<_> =
        world.workers().filter(starting).map(|it| (it.seat, it.generation)).collect();
    let live = world.workers().filter(|worker| worker.state() == WorkerState::Live);
    let leave = live.filter(|worker| places.contains(&(worker.seat, worker.generation)));
    world.policy.leaving = leave.map(|worker| worker.id).collect();
}

/// The master looks at resident memory.
fn look(world: &mut World) {
    let pause = if world.trouble > 0 { 1 } else { 10 };
    world.schedule(Duration::from_secs(pause), look);
    let pids: Vec<Pid> = world.processes.keys().copied().collect();
    for pid in pids {
        let growth = world.random.below(80);
        let is_growing = world.trouble > 0;
        if let Some(process) = world.processes.get_mut(&pid)
            && process.burden.grows
            && is_growing
        {
            process.burden.resident += growth;
        }
    }
    let footprint = footprint(world, |burden| burden.resident);
    world.policy.resident.extend(footprint.workers.clone());
    world.deliver(Input::ResidentMeasured(footprint));
}

fn look_closely(world: &mut World) {
    let shared = footprint(world, Burden::proportional);
    world.policy.shared = shared.clone();
    for (id, resident) in &world.policy.resident {
        if world.process_of(*id).is_some() {
            world.policy.shared.workers.entry(*id).or_insert(*resident);
        }
    }
    world.deliver(Input::ProportionalMeasured(shared));
}

/// The master reads the counters of the seats. Now and then it cannot, or they were made anew.
fn count_connections(world: &mut World) {
    assert!(!world.policy.is_counting, "connections are counted twice at once");
    world.policy.is_counting = true;
    let span = world.now.since(world.policy.counted_at).as_secs();
    world.policy.counted_at = world.now;
    for seat in (0..8).map(Seat) {
        // None comes in calm, or every worker would be replaced for ever.
        let more = if world.trouble > 0 { world.random.below(4) * span } else { 0 };
        *world.policy.connections.entry(seat).or_default() += more;
    }
    if world.goes_wrong(5) {
        world.policy.connections.clear();
    }
    let totals = world.policy.connections.clone();
    let totals = Some(totals).filter(|_| !world.goes_wrong(10));
    let delay = world.random.millis(0..20);
    world.schedule_for_master(delay, move |world| {
        world.policy.is_counting = false;
        world.deliver(Input::ConnectionsCounted(totals));
    });
}

/// What a look shows: some that run cannot be looked at.
fn footprint(world: &mut World, of: impl Fn(&Burden) -> u64) -> MemoryUsage {
    let mut footprint = MemoryUsage { master: MASTER, ..MemoryUsage::default() };
    let pids: Vec<Pid> = world.processes.keys().copied().collect();
    for pid in pids {
        let fails = world.goes_wrong(10);
        let process = &world.processes[&pid];
        let runs = process.is_alive() && !process.ports.is_empty();
        if let Some(worker) = process.worker.filter(|_| runs && !fails) {
            footprint.workers.insert(worker, of(&process.burden));
        }
    }
    footprint
}

fn act(world: &mut World, action: &Action) {
    let now = world.now;
    match action {
        Action::MeasureProportional { .. } => {
            let mut delay = world.random.millis(1..50);
            if world.goes_wrong(10) {
                delay = world.random.millis(50..15_000);
            }
            world.schedule_for_master(delay, look_closely);
        }
        Action::CountConnections => count_connections(world),
        Action::Spawn { worker, .. } if world.is_drainer(*worker) => {
            world.policy.drainers.insert(*worker);
        }
        Action::Spawn { seat, generation, .. } => {
            let lost_at = world.policy.lost.remove(&(*seat, *generation));
            if lost_at.is_some_and(|at| at > world.operators.last_change.unwrap_or_default()) {
                world.policy.respawns.entry(*seat).or_default().push(now);
            }
        }
        Action::Emit(event) => {
            // Those for whom a successor was refused in the end do not leave any more.
            let stays =
                |id: &WorkerId| world.workers().any(|it| it.id == *id && it.leaving.is_none());
            let stay: Vec<WorkerId> = world.policy.leaving.iter().copied().filter(stays).collect();
            world.policy.leaving.retain(|id| !stay.contains(id));
            world.policy.staying.extend(stay);
            remember(&mut world.policy, event, now);
        }
        _ => {}
    }
}

fn remember(state: &mut State, event: &Event, now: Timestamp) {
    match event {
        Event::Leaving { worker, .. } => {
            state.leaving.insert(*worker);
        }
        Event::Retired { worker, .. } => {
            let was_leaving = state.leaving.remove(worker);
            state.staying.remove(worker);
            if was_leaving {
                state.retirements.push(now);
            }
        }
        Event::Died { worker, seat, generation, exit, lived, .. } => {
            let was_leaving = state.leaving.remove(worker);
            match exit {
                _ if was_leaving => {}
                // It has ended, and has not failed.
                Exit::Code(0) => {}
                // What was before is forgotten.
                _ if *lived >= STEADY => drop(state.respawns.remove(seat)),
                _ => drop(state.lost.insert((*seat, *generation), now)),
            }
        }
        Event::Failed(failure) if !state.drainers.contains(&failure.worker) => {
            state.lost.insert((failure.seat, failure.generation), now);
        }
        Event::Ending { worker, why, .. } => match why {
            EndReason::LowMemory | EndReason::Cleared => {
                state.excused.insert(*worker);
                state.last_end = Some(now);
            }
            EndReason::UnhealthyRetired => {
                state.excused.insert(*worker);
            }
            EndReason::HighMemory => {
                state.killable.insert(*worker);
            }
            _ => {}
        },
        _ => {}
    }
}

fn check_action(world: &World, action: &Action) {
    match action {
        Action::Commit(plan) => check_replacement(world, plan),
        // One that only empties a queue is no successor, and has a limit of its own (`held.rs`).
        Action::Spawn { worker, seat, generation } if !world.is_drainer(*worker) => {
            check_respawn(world, *seat, *generation);
        }
        Action::Renice { worker, nice } => {
            assert_eq!(*nice, world.settings.retire.renice);
            let is_out = world.process_of(*worker).is_none_or(|process| is_out(world, process));
            let process = world.process_of(*worker);
            assert!(
                is_out || gave_up_closing(world),
                "{worker} reniced while in force: {process:?}"
            );
        }
        Action::Emit(Event::Leaving { cause, .. }) => check_budget(world, *cause),
        Action::Emit(Event::Ending { worker, why, .. }) => check_ending(world, *worker, *why),
        _ => {}
    }
}

/// Whether it gets no new connections. One that was left out because it did not answer has not left
/// before it is retired.
fn is_out(world: &World, process: &Process) -> bool {
    let plans = || world.kernel.outstanding.iter().chain([&world.plan]);
    let is_named = || plans().any(|plan| names(plan, process));
    process.left_at.is_some() || process.may_be_aside(world.now) || !is_named()
}

/// Replacement first: who is taken out of force while it runs has a successor there.
fn check_replacement(world: &World, plan: &Plan) {
    // The way back from a probation leads to those of the generation before that are left.
    if !plan.is_admitting() || plan.generation() < world.plan.generation() {
        return;
    }
    for (seat, occupant) in world.plan.seats() {
        // A worker that reuses listeners has the ports of the worker that is gone.
        let pid = occupant.and_then(|it| world.pid_with(it));
        let live = pid.filter(|pid| world.state_of(*pid) == Some(WorkerState::Live));
        let process = live.map(|pid| &world.processes[&pid]);
        let serves = |process: &&Process| {
            let may_be_aside = process.may_be_aside(world.now);
            process.worker.is_some() && !process.signalled && !may_be_aside
        };
        if process.filter(serves).is_some() && seat.index() < plan.seats().len() {
            assert!(plan.occupant(seat).is_some(), "seat {seat} vacated although its worker lives");
        }
    }
}

/// At most so many replacements at a time.
fn check_budget(world: &World, cause: ReplaceReason) {
    let Retire { rate, window, .. } = world.settings.retire;
    if cause == ReplaceReason::OperatorRequest || window.is_zero() {
        return;
    }
    let state = &world.policy;
    let leaves = |worker: &&Worker| worker.leaving.is_some() && worker.state() == WorkerState::Live;
    let is_recent = |at: &&Timestamp| world.now.since(**at) < window;
    let recent = state.retirements.iter().filter(is_recent).count();
    let under_way = world.workers().filter(leaves).count();
    let limit = usize::try_from(rate).expect("small");
    assert!(
        recent + under_way <= limit,
        "{recent} + {under_way} retirements, beyond the rate limit"
    );
}

/// A seat that loses its workers gets no more than so many in their place, as long as another worker
/// serves.
fn check_respawn(world: &World, seat: Seat, generation: Generation) {
    let serves = |worker: &Worker| worker.state() == WorkerState::Live && worker.can_serve();
    if !world.workers().any(serves) {
        return;
    }
    let asked = world.operators.last_change.unwrap_or_default();
    let lost_at = world.policy.lost.get(&(seat, generation));
    let (Some(give_up), Some(_)) = (world.settings.give_up, lost_at.filter(|at| **at > asked))
    else {
        return;
    };
    let counts = |at: &&Timestamp| world.now.since(**at) < give_up.window && **at > asked;
    let respawns = world.policy.respawns.get(&seat).into_iter().flatten().filter(counts).count();
    let limit = usize::try_from(give_up.failures).expect("small");
    assert!(respawns < limit, "seat {seat}: {respawns} lost workers replaced, and one more");
}

fn check_ending(world: &World, id: WorkerId, why: EndReason) {
    let Some(process) = world.process_of(id) else { return };
    match why {
        EndReason::LowMemory | EndReason::Cleared | EndReason::HighMemory => {
            let is_spared = why != EndReason::HighMemory;
            assert!(!(is_spared && world.is_standby(id)), "{id} ended on standby: {why}");
            assert!(is_out(world, process), "{id} is live, and ended: {why}");
        }
        _ => return,
    }
    let settle = world.settings.settle;
    let waited = process.left_at.map_or(Duration::ZERO, |left_at| world.now.since(left_at));
    let is_settled = process.was_quiet || waited >= settle;
    if let EndReason::LowMemory | EndReason::Cleared = why {
        assert!(is_settled, "{id} ended while clients wait for it");
    }
    if let EndReason::LowMemory | EndReason::HighMemory = why {
        check_memory(world, why);
        check_order(world, process, id);
    }
    if !world.settings.kill_old
        && let Some(last_end) = world.policy.last_end
    {
        let pause = world.now.since(last_end);
        assert!(pause >= world.settings.end_stagger, "{id} ended {pause:?} after another");
    }
}

/// There is too much memory, without those that are on their way out.
fn check_memory(world: &World, why: EndReason) {
    let Some(marks) = world.settings.memory.marks else { panic!("{why} without marks") };
    let is_left = |id: &WorkerId| world.process_of(*id).is_some_and(|process| !process.signalled);
    let of = &world.policy.shared.workers;
    let left = of.iter().filter(|(id, _)| is_left(id)).map(|(_, bytes)| *bytes);
    let left = MASTER + left.sum::<u64>();
    match why {
        EndReason::LowMemory => assert!(left > marks.low, "{left}: enough memory for the low mark"),
        _ => assert!(MASTER + of.values().sum::<u64>() > marks.high, "enough for the high mark"),
    }
}

/// Nobody who is left would have had to go before.
fn check_order(world: &World, process: &Process, id: WorkerId) {
    let may_end = |worker: &&Worker| {
        let waited = world.now.since(worker.since());
        worker.is_settled() || waited >= world.settings.settle
    };
    let retired = world.workers().filter(|worker| worker.state() == WorkerState::Retired);
    let started = world.workers().find(|worker| worker.id == id).map(|worker| worker.started);
    let rank = rank(world, process, id, started.unwrap_or_default());
    for other in retired.filter(may_end) {
        if world.is_standby(other.id) {
            continue;
        }
        let process_of_it = world.process_of(other.id);
        // Of a stop that could not close the plan there are retired ones in force.
        let Some(its_process) = process_of_it.filter(|it| !names(&world.plan, it)) else {
            continue;
        };
        let its_rank = self::rank(world, its_process, other.id, other.started);
        assert!(rank <= its_rank, "{id} ended before {}, out of order", other.id);
    }
}

fn rank(
    world: &World,
    process: &Process,
    id: WorkerId,
    started: Timestamp,
) -> (bool, [u64; 2], Timestamp, WorkerId) {
    let Process { sockets, was_counted, .. } = process;
    let connections = u64::from(sockets.queued + sockets.half_open + sockets.established);
    let connections = if *was_counted { connections } else { u64::MAX };
    let small = u64::MAX - world.policy.shared.workers.get(&id).copied().unwrap_or(0);
    let by_order = match world.settings.memory.order {
        KillOrder::Connections => [connections, small],
        KillOrder::Age => [0, 0],
        KillOrder::Memory => [small, connections],
    };
    (!process.silent, by_order, started, id)
}

fn check_state(world: &World) {
    // A worker that is not live leaves nothing, and none asks twice.
    for worker in world.workers().filter(|worker| worker.leaving.is_some()) {
        assert_ne!(worker.state(), WorkerState::Starting, "{} leaves before it came", worker.id);
    }
}

impl World {
    /// Nothing goes wrong any more, and nobody grows old.
    pub(super) fn calm_down(&mut self) {
        self.trouble = 0;
        (self.settings.retire.max_age, self.settings.retire.connections) = (None, None);
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.settings.retire.max_age = None;
            supervisor.settings.retire.connections = None;
        }
    }
}
