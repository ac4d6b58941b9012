//! Workers that connect to the control socket: ports that they pick, what they say, what they are
//! told.

use std::sync::Arc;
use std::time::Duration;

use super::checks::gave_up_closing;
use super::process::Pid;
use super::topic::Topic;
use super::world::World;
use crate::plan::Port;
use crate::protocol::{Exit, WorkerId};
use crate::supervisor::{Action, Input};

pub(super) const TOPIC: Topic = Topic { begin, born, taken_over, check_action, act, ..Topic::NONE };

/// What the world remembers of how workers speak.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Workers pick their ports themselves.
    pub(super) picks_ports: bool,
}

fn begin(world: &mut World) {
    // Who picks its ports opens its sockets itself.
    world.links.picks_ports = world.random.percent(30) && !world.settings.holds_listeners;
}

type Happening = fn(&mut World, Pid);

/// When it will tell its ports, join, say something, and part, if ever.
fn born(world: &mut World, pid: Pid) {
    if world.links.picks_ports {
        world.processes.get_mut(&pid).expect("it was just started").keeps_ports = true;
        let delay = world.random.millis(0..800);
        world.schedule_for_master(delay, move |world| report_ports(world, pid));
    }
    let happenings: [(u64, Happening); 4] = [(60, join), (30, say), (20, part), (20, join)];
    for (chance, happening) in happenings {
        if world.random.percent(chance) {
            let delay = world.random.millis(0..20_000);
            world.schedule_for_master(delay, move |world| happening(world, pid));
        }
    }
}

/// Connections are with one master; workers come to the next one, sooner or later.
fn taken_over(world: &mut World) {
    let joined = world.processes.iter_mut().filter(|(_, process)| process.is_open);
    let parted = joined.map(|(pid, process)| {
        process.is_open = false;
        *pid
    });
    for pid in parted.collect::<Vec<_>>() {
        let delay = world.random.millis(0..5_000);
        world.schedule_for_master(delay, move |world| join(world, pid));
    }
}

/// The ports that the master knows of when it has started a worker.
pub(super) fn ports_at_spawn(world: &World, pid: Pid) -> Arc<[Port]> {
    let process = &world.processes[&pid];
    if process.keeps_ports { Arc::new([]) } else { process.ports.clone() }
}

pub(super) fn report_ports(world: &mut World, pid: Pid) {
    let Some(process) = world.processes.get_mut(&pid).filter(|process| process.is_alive()) else {
        return;
    };
    if std::mem::take(&mut process.keeps_ports) {
        let ports = process.ports.clone();
        world.tell_of(pid, |worker| Input::PortsReported { worker, ports });
    }
}

fn join(world: &mut World, pid: Pid) {
    let Some(process) = world.processes.get_mut(&pid).filter(|process| process.is_alive()) else {
        return;
    };
    if process.worker.is_some() {
        process.is_open = true;
        let knows_retired = process.knows_retired;
        world.tell_of(pid, |worker| Input::LinkOpened { worker, knows_retired });
    }
}

fn part(world: &mut World, pid: Pid) {
    if let Some(process) = world.processes.get_mut(&pid).filter(|process| process.is_open) {
        process.is_open = false;
        world.tell_of(pid, |worker| Input::LinkClosed { worker });
    }
}

fn say(world: &mut World, pid: Pid) {
    let (lag, what) = (world.random.millis(0..400), world.random.below(3));
    world.tell_of(pid, |worker| match what {
        0 => Input::Lagging { worker, lag },
        1 => Input::OrderUnanswered { worker },
        _ => Input::RetireRequested { worker },
    });
}

fn check_action(world: &World, action: &Action) {
    match action {
        Action::OrderRetire { worker } => check_told_to_retire(world, *worker),
        Action::OrderStop { worker } => {
            let process = world.process_of(*worker);
            assert!(process.is_none_or(|it| it.is_open && !it.told), "{worker} told to end");
        }
        _ => {}
    }
}

/// A worker that is told that it is retired may stop to listen: nobody may be on the way to it.
fn check_told_to_retire(world: &World, worker: WorkerId) {
    let Some(process) = world.process_of(worker) else { return };
    assert!(process.is_open && !process.knows_retired, "{worker} told to retire");
    let is_out = process.left_at.is_some() || gave_up_closing(world);
    assert!(is_out, "{worker} told to retire while in force");
    // After a minute the entries of conntrack do not count any more.
    let is_late = process.left_at.is_some_and(|at| world.now >= at.after(Duration::from_secs(60)));
    assert!(process.was_quiet || is_late, "{worker} told to retire while clients wait");
}

fn act(world: &mut World, action: &Action) {
    match *action {
        Action::OrderRetire { worker } => {
            if let Some(pid) = world.pid_of(worker)
                && let Some(process) = world.processes.get_mut(&pid)
            {
                process.knows_retired = true;
            }
        }
        Action::OrderStop { worker } => {
            if let Some(pid) = world.pid_of(worker) {
                told_to_die(world, pid);
            }
        }
        _ => {}
    }
}

/// It ends, or does not answer, or answers and does nothing.
fn told_to_die(world: &mut World, pid: Pid) {
    let Some(process) = world.processes.get_mut(&pid) else { return };
    process.told = true;
    let (is_stubborn, delay) = (process.stubborn, world.random.millis(0..1_500));
    if is_stubborn {
        world.schedule_for_master(delay, move |world| {
            world.tell_of(pid, |worker| Input::OrderUnanswered { worker });
        });
    } else if !world.goes_wrong(30) {
        world.schedule(delay, move |world| world.die(pid, Exit::Code(0)));
    }
}
