//! Masters that are killed at any moment, and those that take over from them.

use super::process::Pid;
use super::topic::{TOPICS, Topic};
use super::world::World;
use crate::plan::{Plan, Seat};
use crate::supervisor::{Event, Start, Supervisor};

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
    let (plan, start) = beginning(world);
    world.note(|now| format!("{:>9.3?}  the next master begins: {start:?}", now.0));
    world.put_in_force(plan.clone());
    let supervisor = Supervisor::new(world.settings.clone(), plan, start);
    world.supervisor = Some(supervisor.expect("a plan that an earlier master has made"));
    TOPICS.iter().for_each(|topic| (topic.taken_over)(world));
    world.deliver(Event::Start);
}

/// As `master::takeover` has it.
fn beginning(world: &World) -> (Plan, Start) {
    let mut plan = world.plan.clone();
    let is_gone = |seat: &Seat| plan.occupant(*seat).is_some_and(|o| world.pid_with(o).is_none());
    let gone: Vec<Seat> = plan.seats().map(|(seat, _)| seat).filter(is_gone).collect();
    for seat in gone {
        plan.vacate(seat).expect("a seat of it");
    }
    plan.set_admitting(true);
    if plan.survivors().next().is_some() {
        return (plan, Start::Takeover);
    }
    let mut plan = plan.rescaled(&world.settings.weights).expect("as many slots as before");
    plan.set_generation(plan.generation().next());
    (plan, Start::Fresh)
}
