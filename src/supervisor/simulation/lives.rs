//! Processes: spawns that fail, slow starts, deaths, and those that will not die.

use std::time::Duration;

use super::process::Pid;
use super::topic::Topic;
use super::world::World;
use crate::plan::Port;
use crate::protocol::Exit;
use crate::supervisor::{Action, Input};

pub(super) const TOPIC: Topic = Topic { born, act, check_action, taken_over, ..Topic::NONE };

/// The next master does not know of what workers have left.
fn taken_over(world: &mut World) {
    world.unreaped.clear();
}

fn check_action(world: &World, action: &Action) {
    if *action == Action::Finish {
        assert!(world.unreaped.is_empty(), "stopped while processes of workers are left");
    }
}

fn act(world: &mut World, action: &Action) {
    match *action {
        Action::Spawn { worker, seat, generation } => {
            let pid = world.add_process(Some(worker), seat);
            world.processes.get_mut(&pid).expect("just added").generation = generation;
            let mut delay = world.random.millis(0..30);
            if world.goes_wrong(5) {
                delay = world.random.millis(30..10_000);
            }
            world.schedule_for_master(delay, move |world| spawned(world, pid));
        }
        Action::Terminate { worker, .. } => signal(world, world.pid_of(worker), Exit::Signal(15)),
        Action::Kill { worker, .. } => signal(world, world.pid_of(worker), Exit::Signal(9)),
        _ => {}
    }
}

fn spawned(world: &mut World, pid: Pid) {
    if world.goes_wrong(10) {
        let process = world.processes.remove(&pid).expect("it was asked for");
        if let Some(worker) = process.worker {
            world.give_back_listeners(worker);
            world.deliver(Input::SpawnFailed {
                worker,
                reason: "fork: EAGAIN".to_owned(),
                is_permanent: false,
            });
        }
        return;
    }
    let stubborn = world.goes_wrong(20);
    if !world.take_listeners(pid) {
        let count = world.ports_of(world.processes[&pid].generation);
        let is_excluded = world.goes_wrong(4);
        let mut ports: Vec<u16> = (world.next_port..world.next_port + count).collect();
        if is_excluded {
            ports[0] = 80;
        }
        world.next_port += count;
        let process = world.processes.get_mut(&pid).expect("it was asked for");
        (process.ports, process.is_excluded) =
            (ports.into_iter().filter_map(Port::new).collect(), is_excluded);
    }
    let now = world.now;
    let process = world.processes.get_mut(&pid).expect("it was asked for");
    (process.stubborn, process.started) = (stubborn, now);
    super::topic::TOPICS.iter().for_each(|topic| (topic.born)(world, pid));
    let ports = super::links::ports_at_spawn(world, pid);
    world.tell_of(pid, |worker| Input::Spawned { worker, pid: pid.0, ports });
}

/// When the process will listen and when it will die, if ever.
fn born(world: &mut World, pid: Pid) {
    let mut boot = world.random.millis(5..800);
    if world.goes_wrong(20) {
        boot = world.random.millis(800..8_000);
    }
    if !world.goes_wrong(10) {
        world.schedule(boot, move |world| listens(world, pid));
    }
    if world.goes_wrong(10) {
        let early = world.random.millis(0..1_000);
        world.schedule(early, move |world| world.die(pid, Exit::Code(1)));
    } else if world.goes_wrong(60) {
        let late = world.some_time();
        let exit = world.random.choose(&[Exit::Signal(11), Exit::Signal(11), Exit::Code(0)]);
        world.schedule(late, move |world| world.die(pid, exit));
    }
}

fn listens(world: &mut World, pid: Pid) {
    if let Some(process) = world.processes.get_mut(&pid).filter(|process| process.is_alive()) {
        process.listens = true;
        look_at(world, pid);
    }
}

/// The master sees that it listens at its next look, or at the one after: a look may fail.
pub(super) fn look_at(world: &mut World, pid: Pid) {
    let mut delay = world.random.millis(0..10);
    while world.goes_wrong(20) {
        delay += world.random.millis(10..1_000);
    }
    world.schedule_for_master(delay, move |world| {
        // Where it listens it has to say before.
        super::links::report_ports(world, pid);
        if let Some(process) = world.processes.get_mut(&pid).filter(|process| process.is_alive()) {
            process.ready = true;
            world.successor_is_ready(pid);
            world.tell_of(pid, |worker| Input::Ready { worker });
        }
    });
}

fn signal(world: &mut World, pid: Option<Pid>, exit: Exit) {
    let Some((pid, process)) = pid.and_then(|pid| Some((pid, world.processes.get_mut(&pid)?)))
    else {
        return;
    };
    process.signalled = true;
    if exit == Exit::Signal(9) || !process.stubborn {
        let delay = world.random.millis(0..1_500);
        world.schedule(delay, move |world| world.die(pid, exit));
    }
}

impl World {
    /// A process ends, and the master sees it soon.
    pub(super) fn die(&mut self, pid: Pid, exit: Exit) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| process.is_alive())
        else {
            return;
        };
        process.dead = true;
        let mut delay = self.random.millis(0..20);
        if self.goes_wrong(5) {
            delay = self.random.millis(20..2_000);
        }
        self.schedule_for_master(delay, move |world| {
            let Some(worker) = world.processes.get(&pid).and_then(|process| process.worker) else {
                return;
            };
            if let Some(process) = world.processes.remove(&pid) {
                world.keep_sockets(worker, &process);
            }
            let last_lines = vec!["bye".to_owned()];
            world.unreaped.insert(worker);
            world.deliver(Input::Exited { worker, exit, last_lines });
            // What it has left ends some time later.
            let later = Duration::from_millis(u64::from(pid.0 % 7) * 50);
            world.schedule_for_master(later, move |world| {
                world.unreaped.remove(&worker);
                world.deliver(Input::Reaped { worker, left: 0 });
            });
        });
    }
}
