//! What must hold, whatever happens: of workers, of the plan, and of the two together.

use std::net::IpAddr;

use super::policy;
use super::process::Process;
use super::topic::Topic;
use super::world::World;
use crate::plan::Plan;
use crate::protocol::{WorkerId, WorkerState};
use crate::supervisor::{Action, Supervisor, Worker};

/// After so many failed commits a stop ends workers that are still in force.
const CLOSE_TRIES: u32 = 3;

pub(super) const TOPIC: Topic = Topic { check_action, act, check_state, check_rest, ..Topic::NONE };

fn act(world: &mut World, action: &Action) {
    match action {
        Action::Remove => world.removed = true,
        Action::Finish => world.finished = true,
        _ => {}
    }
}

fn check_action(world: &World, action: &Action) {
    assert!(!world.finished, "{action:?} after the end");
    let is_stopping = world.operators.stop.is_some();
    match action {
        Action::Spawn { worker, .. } => {
            assert!(world.pid_of(*worker).is_none(), "{worker} is used twice");
            assert!(!is_stopping || world.serves_who_waits(*worker), "a spawn while stopping");
        }
        Action::Commit(plan) => check_commit(world, plan),
        Action::OrderStop { worker } => check_end(world, *worker),
        // Of one that was told to end it was checked then.
        Action::Terminate { worker, .. } if world.process_of(*worker).is_some_and(|it| it.told) => {
            let is_first = world.process_of(*worker).is_some_and(|it| !it.signalled);
            assert!(is_first, "{worker} terminated twice");
        }
        Action::Terminate { worker, .. } => check_end(world, *worker),
        Action::Kill { worker, .. } => {
            let process = world.process_of(*worker);
            let is_warned = process.is_none_or(|it| it.signalled || it.told);
            let may_go = world.policy.killable.contains(worker);
            assert!(is_warned || may_go, "{worker} killed without warning");
        }
        Action::Remove => {
            assert_eq!(world.managed().count(), 0, "the rules removed before the workers");
        }
        Action::Finish => assert!(world.removed, "the end before the removal of the rules"),
        _ => {}
    }
}

fn check_commit(world: &World, plan: &Plan) {
    if !plan.is_admitting() {
        assert!(world.operators.stop.is_some(), "closed without a stop");
        return;
    }
    for (seat, occupant) in plan.seats() {
        let Some(occupant) = occupant else { continue };
        let pid = world.pid_with(occupant).expect("a worker that has not been seen to die");
        let process = &world.processes[&pid];
        let is_finishing = process.finishes_since.is_some();
        assert!(!is_finishing || process.stops, "a worker that got its retire signal gets clients");
        let is_fine = process.ready && !process.signalled && !process.told;
        assert!(is_fine, "seat {seat} goes to {process:?}");
        // Whose successor died before anybody was told of it goes on.
        let policy::State { leaving, staying, .. } = &world.policy;
        let is_leaving =
            process.worker.is_some_and(|id| leaving.contains(&id) || staying.contains(&id));
        // A worker that reuses listeners, and got ready while they were just taken out of force, comes in now.
        let is_new = process.reuses_listeners && world.state_of(pid) == Some(WorkerState::Starting);
        let was_told = process.is_anew && process.is_open && process.knows_retired;
        assert!(
            !was_told || process.ready_again,
            "a worker that knows that it is retired gets new connections"
        );
        // One that was left out because it did not answer, and that was not retired, comes back.
        let is_back =
            process.answered_at.is_some() && world.state_of(pid) == Some(WorkerState::Live);
        let may_serve = process.left_at.is_none() || process.ready_again;
        let may_serve = may_serve || world.is_kept_by_this_master(pid);
        let may_serve = may_serve || is_leaving || is_new || is_back;
        assert!(may_serve, "a retired worker gets new connections again");
    }
    if plan.survivors().count() == 0 {
        let takes_clients = |pid| world.processes[&pid].takes_clients();
        let serves = world.occupants().any(|it| world.pid_with(it).is_some_and(takes_clients));
        assert!(!serves, "the last workers that serve taken out of force");
    }
    if world.occupants().any(|occupant| world.is_foreign(occupant)) {
        assert_eq!(plan.survivors().count(), plan.seats().len(), "taken over too early");
    }
}

/// The safe order: only after no new connections come, all were accepted, and have ended.
fn check_end(world: &World, worker: WorkerId) {
    let Some(process) = world.process_of(worker) else { return };
    assert!(!process.signalled, "{worker} terminated twice");
    if gave_up_closing(world) {
        return;
    }
    assert!(!names(&world.plan, process), "{worker} terminated while in force");
    if let Some(next) = &world.kernel.outstanding {
        assert!(!names(next, process), "{worker} terminated while coming into force");
    }
    if world.policy.excused.contains(&worker) {
        return;
    }
    let at_once = world.operators.stop.as_ref().is_some_and(|stop| stop.at_once);
    if let Some(left_at) = process.left_at.filter(|_| process.was_named && !at_once) {
        let began = process.finishes_since.unwrap_or(left_at);
        let over = |drain| world.now >= began.after(drain);
        let is_limit = world
            .settings
            .drain
            .is_some_and(|drain| over(drain * (100 - world.settings.retire.jitter) / 100));
        assert!(process.is_drained() || is_limit, "{worker} not drained: {process:?}");
    }
}

fn check_state(world: &World) {
    let Some(supervisor) = &world.supervisor else { return };
    if let Some(deadline) = supervisor.deadline() {
        assert!(deadline > world.now, "the deadline {deadline:?} is over already");
    }
    if world.finished {
        return;
    }
    check_no_new_connections_to_retired(world);
    check_one_worker_a_place(world);
    if world.kernel.outstanding.is_none() && !world.kernel.is_looking {
        assert_eq!(*supervisor.plan(), world.plan, "a wrong idea of the plan in force");
        if world.kernel.failures == 0 && world.operators.stop.is_none() {
            check_targets(world);
        }
    }
}

/// Whenever no commit is on its way, and none has failed: every worker in force runs, as far
/// as can be known, and if any worker can serve then every client reaches one.
fn check_targets(world: &World) {
    let is_ending = |p: &Process| p.signalled || p.told;
    let can_serve = |p: &Process| p.ready && !is_ending(p) && !p.is_excluded && p.left_at.is_none();
    for occupant in world.occupants() {
        if world.is_foreign(occupant) {
            continue;
        }
        let pid = world.pid_with(occupant).filter(|pid| world.processes[pid].takes_clients());
        let Some(pid) = pid else {
            let nobody_serves = !world.managed().any(can_serve);
            let clients_wait = nobody_serves && world.clients_wait_at(&occupant.ports);
            assert!(clients_wait, "a worker in force that was seen to die");
            continue;
        };
        assert_eq!(world.state_of(pid), Some(WorkerState::Live), "in force, but not live");
        assert!(world.processes[&pid].ready, "in force, but not ready");
    }
    if world.managed().any(can_serve) {
        for last in 0..16 {
            let client = IpAddr::from([10, 8, 1, last]);
            let route = world.plan.worker_for(client);
            assert!(route.is_some(), "{client} reaches nobody, but there are workers");
        }
    }
}

fn check_no_new_connections_to_retired(world: &World) {
    if gave_up_closing(world) {
        return;
    }
    for worker in world.workers() {
        if let WorkerState::Retired | WorkerState::Dying = worker.state()
            && let Some(process) = world.process_of(worker.id)
        {
            assert!(!names(&world.plan, process), "{} gets connections", worker.id);
        }
    }
}

fn check_one_worker_a_place(world: &World) {
    let has_place = |worker: &&Worker| {
        matches!(worker.state(), WorkerState::Starting | WorkerState::Live)
            && world.process_of(worker.id).is_some_and(|it| !it.is_excluded && !it.stops)
            && !worker.is_drainer
    };
    // One that leaves has a successor beside it.
    let has_place = |worker: &&Worker| has_place(worker) && worker.leaving.is_none();
    let mut places: Vec<_> = Vec::new();
    for worker in world.workers().filter(has_place) {
        let place = (worker.seat, worker.generation);
        assert!(!places.contains(&place), "two workers for {place:?}");
        places.push(place);
    }
}

fn check_rest(world: &World) {
    let deadline = world.supervisor.as_ref().and_then(Supervisor::deadline);
    assert_eq!(deadline, None, "still something to do");
    assert!(!world.kernel.is_damaged, "damage that was not repaired");
    assert_eq!(world.managed().count(), world.plan.seats().len(), "processes and seats differ");
    for (seat, occupant) in world.plan.seats() {
        let pid = occupant.and_then(|occupant| world.pid_with(occupant));
        let process = pid.map(|pid| &world.processes[&pid]);
        let process = process.filter(|process| process.worker.is_some());
        let process = process.unwrap_or_else(|| panic!("seat {seat} has no worker of ours"));
        assert_eq!(process.seat, seat);
    }
    let is_live = |worker: &Worker| worker.state() == WorkerState::Live;
    assert!(world.workers().all(is_live), "a worker that is not live is left");
}

impl World {
    /// Holds when nothing has gone wrong for long.
    pub(super) fn check_rest(&self) {
        super::topic::TOPICS.iter().for_each(|topic| (topic.check_rest)(self));
    }

    /// Holds some time after a stop.
    pub(super) fn check_end_of_all(&self) {
        assert!(self.finished, "the stop has not ended");
        assert!(self.removed && self.managed().count() == 0);
        assert_eq!(self.workers().count(), 0);
        assert_eq!(self.supervisor.as_ref().and_then(Supervisor::deadline), None);
    }
}

pub(super) fn gave_up_closing(world: &World) -> bool {
    world.operators.stop.as_ref().is_some_and(|stop| stop.commit_failures >= CLOSE_TRIES)
}

/// Whether the plan sends new connections to the process.
pub(super) fn names(plan: &Plan, process: &Process) -> bool {
    let mut occupants = plan.seats().filter_map(|(_, occupant)| occupant);
    let is_named = occupants.any(|occupant| occupant.ports == process.ports);
    plan.is_admitting() && is_named && process.takes_clients()
}
