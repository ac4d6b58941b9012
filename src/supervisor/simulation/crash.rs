//! Masters that are killed at any moment, and those that adopt what they leave.

use super::process::Pid;
use super::topic::{TOPICS, Topic};
use super::world::World;
use crate::plan::{Occupant, Plan, Seat};
use crate::supervisor::{Adopted, Event, Inheritance, Part, Supervisor, WorkerId};

pub(super) const TOPIC: Topic = Topic { begin, ..Topic::NONE };

/// What the world remembers of masters that were killed.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) crashes: u32,
}

fn begin(world: &mut World) {
    for _ in 0..world.random.below(3) {
        if world.goes_wrong(50) {
            let at = world.some_time();
            world.schedule(at, crash);
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
    world.crash.crashes += 1;
    if let Some(plan) = world.kernel.outstanding.take()
        && world.random.percent(50)
    {
        world.put_in_force(plan);
    }
    world.processes.retain(|_, process| !process.ports.is_empty());
    for process in world.processes.values_mut() {
        process.worker = None;
        process.polled = false;
    }
    let delay = world.random.millis(100..5_000);
    world.schedule(delay, take_over);
}

/// Another `run`: what is in force, less the workers that are gone, is what it begins with.
fn take_over(world: &mut World) {
    if world.supervisor.is_some() || world.finished {
        return;
    }
    world.reign += 1;
    let gone: Vec<Pid> =
        world.processes.iter().filter(|(_, process)| process.dead).map(|(pid, _)| *pid).collect();
    world.processes.retain(|pid, _| !gone.contains(pid));
    let before = world.plan.clone();
    let (plan, holds) = beginning(world);
    world.note(|now| format!("{:>9.3?}  the next master begins, plan in force: {holds}", now.0));
    let workers = adopt_all(world, &plan);
    world.put_in_force(plan.clone());
    let is_whole = plan == before && plan.survivors().count() == plan.seats().len();
    let inheritance = Inheritance { plan, holds, workers, respawns: Vec::new() };
    let supervisor = Supervisor::adopt(world.settings.clone(), inheritance);
    world.supervisor = Some(supervisor.expect("a plan that an earlier master has made"));
    TOPICS.iter().for_each(|topic| (topic.taken_over)(world));
    world.deliver(Event::Start);
    if is_whole {
        assert!(world.kernel.outstanding.is_none(), "an adoption changes the rules");
        assert_eq!(world.plan, before, "an adoption changes the plan");
    }
    let named = world.occupants().filter_map(|occupant| world.pid_with(occupant));
    for pid in named {
        assert!(!world.processes[&pid].signalled, "an adoption ends a worker in force");
    }
}

/// The workers that are there, as `master::adoption` judges them.
fn adopt_all(world: &mut World, plan: &Plan) -> Vec<Adopted> {
    let mut workers = Vec::new();
    let now = world.now;
    for (pid, process) in &mut world.processes {
        let worker = WorkerId(workers.len() as u64 + 1);
        let occupant = plan.seats().find(|(seat, _)| *seat == process.seat).and_then(|(_, it)| it);
        let is_named = occupant.is_some_and(|occupant| occupant.ports == process.ports);
        let part = match is_named {
            true => Part::InForce,
            false => Part::Retired { since: now },
        };
        process.worker = Some(worker);
        (process.ready, process.signalled) = (is_named, false);
        (process.quiet_reports, process.ready_again) = (0, false);
        if !is_named {
            process.left_at.get_or_insert(now);
        }
        // A process that may not be traced gives none away.
        process.keeps_own_sockets = !world.settings.holds_sockets || world.random.percent(20);
        workers.push(Adopted {
            worker,
            seat: process.seat,
            generation: process.generation,
            ports: process.ports.clone(),
            pid: pid.0,
            started: now,
            part,
            holds_sockets: !process.keeps_own_sockets,
        });
    }
    workers
}

/// As `master::takeover` has it.
fn beginning(world: &World) -> (Plan, bool) {
    let mut plan = world.plan.clone();
    let serves = |occupant: &Occupant| {
        world.pid_with(occupant).is_some_and(|pid| world.processes[&pid].listens)
    };
    let is_gone = |seat: &Seat| plan.occupant(*seat).is_some_and(|it| !serves(it));
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
