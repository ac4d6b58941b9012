//! What can go wrong, by topic: each in a file of its own.

use super::process::Pid;
use super::world::World;
use crate::supervisor::Action;

/// One kind of trouble and what must hold in spite of it. `simulation/mod.rs` tells how to add one.
pub(super) struct Topic {
    /// Before the first event: draws what will happen in this history, and puts it on the agenda.
    pub(super) begin: fn(&mut World),
    /// A process has just been started: draws how it will fare.
    pub(super) born: fn(&mut World, Pid),
    /// A master has just begun, not the first one: it hears again of what goes on.
    pub(super) taken_over: fn(&mut World),
    /// The supervisor wants an action: asserts that it may. Called before [`Self::act`].
    pub(super) check_action: fn(&World, &Action),
    /// Carries out those actions that are this topic's; passes over all others.
    pub(super) act: fn(&mut World, &Action),
    /// After every event: puts on the agenda what the state of the supervisor calls for.
    pub(super) follow: fn(&mut World),
    /// Asserts what holds after every event.
    pub(super) check_state: fn(&World),
    /// Asserts what holds when nothing has gone wrong for long.
    pub(super) check_rest: fn(&World),
}

impl Topic {
    /// Nothing happens. For `..Topic::NONE`.
    pub(super) const NONE: Self = Self {
        begin: |_| {},
        born: |_, _| {},
        taken_over: |_| {},
        check_action: |_, _| {},
        act: |_, _| {},
        follow: |_| {},
        check_state: |_| {},
        check_rest: |_| {},
    };
}

/// All topics, in the order in which they are asked.
pub(super) const TOPICS: &[Topic] = &[
    super::probation::TOPIC,
    super::checks::TOPIC,
    super::lives::TOPIC,
    super::kernel::TOPIC,
    super::guard::TOPIC,
    super::operators::TOPIC,
    super::policy::TOPIC,
    super::time::TOPIC,
    super::crash::TOPIC,
    super::canary::TOPIC,
    super::health::TOPIC,
    super::held::TOPIC,
    super::links::TOPIC,
    super::end_signals::TOPIC,
    super::release::TOPIC,
    super::configuration::TOPIC,
];
