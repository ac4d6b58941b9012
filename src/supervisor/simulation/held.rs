//! Listening sockets that outlive their processes, where the master holds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::checks::{gave_up_closing, names};
use super::process::{Pid, Process};
use super::topic::Topic;
use super::world::World;
use crate::plan::{Port, Seat};
use crate::protocol::{Event, Timestamp, WorkerId};
use crate::supervisor::{Action, Input, Sockets, Supervisor};

pub(super) const TOPIC: Topic =
    Topic { taken_over, check_action, act, check_state, check_rest, ..Topic::NONE };

/// After so many drainers who waits may be reset.
const MAX_DRAINERS: u32 = 3;

/// What the master in office holds without a process.
#[derive(Debug, Default)]
pub(super) struct State {
    /// By the worker that has left it.
    left: BTreeMap<WorkerId, Held>,
    /// By the worker that is to get it.
    promised: BTreeMap<WorkerId, Held>,
}

/// The sockets of a process that has ended.
#[derive(Debug, Clone)]
struct Held {
    seat: Seat,
    ports: Arc<[Port]>,
    is_excluded: bool,
    /// Since when.
    since: Timestamp,
    half_open: u32,
    /// Connections that wait to be accepted.
    queued: u32,
    /// A poll of them is on the agenda.
    polled: bool,
    /// Successive reports of nobody.
    quiet_reports: u32,
    /// Finishers in a row that have had them.
    drainers: u32,
}

/// A master that is killed leaves none but to its workers.
fn taken_over(world: &mut World) {
    world.held = State::default();
}

fn check_action(world: &World, action: &Action) {
    match action {
        Action::TransferListeners { from, to } => {
            assert!(world.held.left.contains_key(from), "sockets that nobody has left");
            assert!(world.pid_of(*to).is_none(), "{to} has sockets of its own");
        }
        Action::CloseListeners { worker } => check_close(world, *worker),
        _ => {}
    }
}

/// Nobody is reset who could be served.
fn check_close(world: &World, worker: WorkerId) {
    let held = world.held.left.get(&worker).expect("sockets that somebody has left");
    if gave_up_closing(world) {
        return;
    }
    let mut occupants = world.occupants();
    let is_named = occupants.any(|occupant| occupant.ports == held.ports);
    assert!(!(is_named && world.plan.is_admitting()), "closed while connections come");
    let is_over =
        world.operators.stop.as_ref().is_some_and(|stop| {
            stop.at_once || world.now >= held.since.after(world.settings.settle)
        });
    let is_empty = held.queued == 0 && held.half_open == 0 && held.quiet_reports >= 2;
    let is_allowed = is_empty || is_over || held.drainers >= MAX_DRAINERS;
    assert!(is_allowed, "closed on those who wait: {held:?}");
}

fn act(world: &mut World, action: &Action) {
    match *action {
        Action::TransferListeners { from, to } => {
            if let Some(held) = world.held.left.remove(&from) {
                world.held.promised.insert(to, held);
            }
        }
        Action::CloseListeners { worker } => drop(world.held.left.remove(&worker)),
        Action::Emit(Event::Retired { worker, .. }) => successor_is_retired(world, worker),
        _ => {}
    }
}

/// One that clients may have come to by its sockets alone, or under an earlier master, is retired
/// although no plan of this one has named it. Not if a plan leads there: then it is no retirement, whatever is said.
fn successor_is_retired(world: &mut World, worker: WorkerId) {
    let is_named = |process: &Process| {
        let next = world.kernel.outstanding.iter();
        next.chain([&world.plan]).any(|plan| names(plan, process))
    };
    let is_it = |it: &Process| (it.reuses_listeners || it.is_anew) && !is_named(it);
    let is_reusing = world.process_of(worker).is_some_and(is_it);
    if is_reusing
        && let Some(process) = world.pid_of(worker).and_then(|pid| world.processes.get_mut(&pid))
    {
        process.was_named = true;
        process.left_at.get_or_insert(world.now);
    }
}

fn check_state(world: &World) {
    let counted = world.supervisor.iter().flat_map(Supervisor::orphaned_listeners);
    let are_left = counted.into_iter().all(|(worker, _)| world.held.left.contains_key(&worker));
    assert!(are_left, "sockets are to be counted that nobody has left");
}

fn check_rest(world: &World) {
    let State { left, promised } = &world.held;
    assert!(left.is_empty() && promised.is_empty(), "sockets without a worker are left");
}

impl World {
    /// The master keeps the sockets of a process that has ended.
    pub(super) fn keep_sockets(&mut self, worker: WorkerId, process: &Process) {
        if !self.settings.holds_listeners || process.ports.is_empty() || process.keeps_own_sockets {
            return;
        }
        let held = Held {
            seat: process.seat,
            ports: process.ports.clone(),
            is_excluded: process.is_excluded,
            since: self.now,
            half_open: process.sockets.half_open,
            queued: process.sockets.queued,
            polled: false,
            quiet_reports: 0,
            drainers: process.drainers,
        };
        self.held.left.insert(worker, held);
    }

    /// Gives a process the listeners that were transferred to its worker. Returns whether there were any.
    pub(super) fn take_listeners(&mut self, pid: Pid) -> bool {
        let worker = self.processes.get(&pid).and_then(|process| process.worker);
        let Some(held) = worker.and_then(|id| self.held.promised.remove(&id)) else { return false };
        let drainers = self.drainers_after(worker, held.drainers);
        let process = self.processes.get_mut(&pid).expect("it was asked for");
        assert_eq!(process.seat, held.seat, "sockets of another seat");
        (process.ports, process.is_excluded, process.reuses_listeners) =
            (held.ports, held.is_excluded, true);
        process.sockets.queued += held.queued;
        process.sockets.half_open += held.half_open;
        process.drainers = drainers;
        true
    }

    /// Listeners transferred to a worker that could not be started stay orphaned.
    pub(super) fn give_back_listeners(&mut self, worker: WorkerId) {
        if let Some(mut held) = self.held.promised.remove(&worker) {
            held.drainers = self.drainers_after(Some(worker), held.drainers);
            (held.since, held.quiet_reports, held.polled) = (self.now, 0, false);
            self.held.left.insert(worker, held);
        }
    }

    /// A process is ready: a drainer is retired from then on, and another worker may be in force by
    /// the listeners that it reuses.
    pub(super) fn successor_is_ready(&mut self, pid: Pid) {
        let worker = self.processes.get(&pid).and_then(|process| process.worker);
        let is_drainer = worker.is_some_and(|worker| self.is_drainer(worker));
        let Some(process) = self.processes.get_mut(&pid).filter(|process| process.reuses_listeners)
        else {
            return;
        };
        // What it takes on after it was asked to end is its own affair.
        process.ready &= !process.signalled && !process.told;
        if !is_drainer {
            self.note_named();
        }
    }

    /// Whether the sockets on these ports are there, for a worker that has not begun or is not ready.
    pub(super) fn clients_wait_at(&self, ports: &Arc<[Port]>) -> bool {
        let mut held = self.held.left.values().chain(self.held.promised.values());
        let mut reusing = self.processes.values().filter(|process| process.reuses_listeners);
        held.any(|it| it.ports == *ports) || reusing.any(|it| it.ports == *ports)
    }

    pub(super) fn is_drainer(&self, worker: WorkerId) -> bool {
        self.workers().any(|known| known.id == worker && known.is_drainer)
    }

    /// Whether a worker is started although all is to end, for those who wait.
    pub(super) fn serves_who_waits(&self, worker: WorkerId) -> bool {
        let at_once = self.operators.stop.as_ref().is_some_and(|stop| stop.at_once);
        self.held.promised.contains_key(&worker) && !at_once
    }

    pub(super) fn schedule_polls_of_left(&mut self) {
        let orphaned_listeners: Vec<WorkerId> = self
            .supervisor
            .iter()
            .flat_map(Supervisor::orphaned_listeners)
            .map(|(id, _)| id)
            .collect();
        for worker in orphaned_listeners {
            let delay = self.random.millis(50..300);
            if let Some(held) = self.held.left.get_mut(&worker).filter(|held| !held.polled) {
                held.polled = true;
                self.schedule_for_master(delay, move |world| world.poll_left(worker));
            }
        }
    }

    /// Nobody accepts; handshakes are completed all the same.
    fn poll_left(&mut self, worker: WorkerId) {
        let Some(held) = self.held.left.get_mut(&worker) else { return };
        held.polled = false;
        if held.half_open > 0 {
            held.half_open -= 1;
            held.queued += u32::from(self.random.percent(50));
        }
        let is_quiet = held.queued == 0 && held.half_open == 0;
        held.quiet_reports = if is_quiet { held.quiet_reports + 1 } else { 0 };
        let Held { queued, half_open, .. } = *held;
        let sockets = Sockets { queued, half_open, established: queued, ..Sockets::default() };
        self.deliver(Input::Connections { worker, sockets });
    }

    fn drainers_after(&self, worker: Option<WorkerId>, before: u32) -> u32 {
        let is_drainer = worker.is_some_and(|worker| self.is_drainer(worker));
        if is_drainer { before + 1 } else { 0 }
    }
}
