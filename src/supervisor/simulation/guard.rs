//! The guard: other hosts reach no port that a worker holds, and what nobody of ours holds is open.

use std::collections::BTreeSet;

use super::topic::Topic;
use super::world::World;
use crate::plan::{Port, Protocol};
use crate::supervisor::Action;

pub(super) const TOPIC: Topic = Topic { taken_over, check_action, act, check_state, ..Topic::NONE };

/// What the world remembers of the guard.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The plan in force is one of the master in office.
    is_ours: bool,
}

/// Whether an action is a commit by which only the guarded ports change.
pub(super) fn is_of_guard_alone(world: &World, action: &Action) -> bool {
    matches!(action, Action::Commit(plan) if plan.differs_in_guard_alone(&world.plan))
}

fn taken_over(world: &mut World) {
    world.guard = State::default();
}

fn check_action(world: &World, action: &Action) {
    if let Action::Commit(plan) = action {
        assert_eq!(plan.guard(), world.plan.guard(), "another guard than is configured");
    }
}

fn act(world: &mut World, action: &Action) {
    if let Action::Commit(_) = action {
        world.guard.is_ours = true;
    }
}

fn check_state(world: &World) {
    let Some(supervisor) = &world.supervisor else { return };
    let kernel = &world.kernel;
    let is_idle = kernel.outstanding.is_none() && !kernel.is_looking && kernel.failures == 0;
    let is_stopping = world.operators.stop.is_some() || supervisor.is_stopping();
    if !is_idle || is_stopping || !world.guard.is_ours || world.plan.guard().is_none() {
        return;
    }
    let guarded: BTreeSet<(Protocol, Port)> = Protocol::ALL
        .into_iter()
        .flat_map(|it| world.plan.guarded_ports(it).into_iter().map(move |port| (it, port)))
        .collect();
    let is_guarded = |(protocol, _): &(Protocol, Port)| world.plan.guards_protocol(*protocol);
    let runs = |id| supervisor.workers().any(|it| it.id == id && it.ports.is_some());
    let managed = world.processes.values().filter(|process| process.worker.is_some_and(runs));
    for process in managed.filter(|process| process.is_alive() && !process.keeps_ports) {
        let mut ports = world.plan.listeners().protocols_of(&process.ports);
        let open = ports.find(|port| is_guarded(port) && !guarded.contains(port));
        assert_eq!(open, None, "a port of {process:?} is open to other hosts");
    }
    let of_seats = world.plan.seats().filter_map(|(_, occupant)| occupant);
    let of_seats = of_seats.flat_map(|it| world.plan.listeners().protocols_of(&it.ports));
    let held = supervisor.held_ports().filter(is_guarded).chain(of_seats).collect();
    assert_eq!(guarded, held, "what is closed is not what workers hold");
}
