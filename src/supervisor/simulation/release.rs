//! Releases: what a new generation is started from is found, or missing; and hooks before it, which take their
//! time, and fail.

use std::collections::BTreeSet;

use super::topic::Topic;
use super::world::World;
use crate::plan::Generation;
use crate::protocol::ReleaseFailure;
use crate::supervisor::{Action, Input};

pub(super) const TOPIC: Topic = Topic { taken_over, check_action, act, ..Topic::NONE };

/// The generations of which no worker may be started: nobody has said that they can be.
#[derive(Debug, Default)]
pub(super) struct State {
    unprepared: BTreeSet<Generation>,
}

fn taken_over(world: &mut World) {
    world.release = State::default();
}

fn check_action(world: &World, action: &Action) {
    if let Action::Spawn { worker, generation, .. } = action
        && !world.is_drainer(*worker)
    {
        let is_unprepared = world.release.unprepared.contains(generation);
        assert!(!is_unprepared, "a worker of a generation that is not prepared");
    }
}

fn act(world: &mut World, action: &Action) {
    let Action::PrepareRelease { generation } = *action else { return };
    assert!(world.settings.prepares_releases);
    world.release.unprepared.insert(generation);
    let fails = world.goes_wrong(20);
    let delay = world.random.millis(0..3_000);
    world.schedule_for_master(delay, move |world| {
        if !fails {
            world.release.unprepared.remove(&generation);
        }
        let failure = fails.then(|| ReleaseFailure::new("no such file"));
        world.deliver(Input::ReleasePrepared { generation, failure });
    });
}
