//! Retire signals, and workers that end by themselves after one.

use super::checks::gave_up_closing;
use super::topic::Topic;
use super::world::World;
use crate::protocol::{EndSignals, Exit, WorkerId, WorkerState};
use crate::supervisor::Action;

pub(super) const TOPIC: Topic = Topic { check_action, act, taken_over, ..Topic::NONE };

/// Two of three histories have a retire signal.
pub(super) fn settings(seed: u64) -> EndSignals {
    let retire = if seed.is_multiple_of(3) { None } else { "QUIT".parse().ok() };
    EndSignals { retire, ..EndSignals::default() }
}

fn check_action(world: &World, action: &Action) {
    if let Action::TellRetired { worker, signals } = action
        && signals.retire.is_some()
    {
        check_signal(world, *worker);
    }
}

/// One that got the signal from a master that was stopping the cluster, and is in force again, is as good
/// as one that says that it stops.
fn taken_over(world: &mut World) {
    let live = world.workers().filter(|worker| worker.state() == WorkerState::Live);
    let live: Vec<WorkerId> = live.map(|worker| worker.id).collect();
    for process in world.processes.values_mut() {
        let is_live = process.worker.is_some_and(|worker| live.contains(&worker));
        process.stops |= is_live && process.finishes_since.is_some();
    }
}

/// Most programs take no further connection after it: nobody may be on the way to the worker.
fn check_signal(world: &World, worker: WorkerId) {
    let Some(process) = world.process_of(worker) else { return };
    assert_eq!(process.finishes_since, None, "{worker} gets its retire signal twice");
    let is_out = process.left_at.is_some() || gave_up_closing(world);
    assert!(is_out, "{worker} gets its retire signal while in force");
    assert!(process.was_quiet || process.is_late, "{worker}: a retire signal while clients wait");
    assert!(!process.signalled, "{worker} gets its retire signal after the stop signal");
}

/// It finishes what it has and ends; or it passes over the signal.
fn act(world: &mut World, action: &Action) {
    if let Action::TellRetired { worker, signals } = action
        && signals.retire.is_some()
        && let Some(pid) = world.pid_of(*worker)
    {
        let (ends, delay) = (world.random.percent(40), world.random.millis(0..4_000));
        let now = world.now;
        if let Some(process) = world.processes.get_mut(&pid) {
            process.finishes_since = Some(now);
        }
        if ends {
            world.schedule(delay, move |world| world.die(pid, Exit::Code(0)));
        }
    }
}
