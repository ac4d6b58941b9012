//! The table in the kernel: commits that fail, once or for long, and strangers who damage it.

use std::time::Duration;

use super::topic::Topic;
use super::world::World;
use crate::plan::Plan;
use crate::protocol::{RuleWriter, Timestamp};
use crate::supervisor::{Action, Input, Verification};

pub(super) const TOPIC: Topic = Topic { begin, taken_over, check_action, act, ..Topic::NONE };

/// What the world remembers of the table.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) outstanding: Option<Plan>,
    /// Somebody else has changed the table, and it has not been made anew since.
    pub(super) is_damaged: bool,
    /// A look at the table, or its repair, is outstanding.
    pub(super) is_looking: bool,
    /// Failed commits since the last that succeeded, and when the last of them was known.
    pub(super) failures: u32,
    pub(super) failed_at: Timestamp,
    /// Until then it takes nothing.
    refuses_until: Timestamp,
}

fn begin(world: &mut World) {
    for _ in 0..world.random.below(8) {
        let at = world.some_time();
        world.schedule(at, damage);
    }
    if world.goes_wrong(40) {
        let at = world.some_time();
        let span = world.random.millis(500..20_000);
        world.schedule(at, move |world| world.kernel.refuses_until = world.now.after(span));
    }
}

/// Whoever takes over looks at the table first of all.
fn taken_over(world: &mut World) {
    let State { refuses_until, is_damaged, .. } = world.kernel;
    world.kernel = State { refuses_until, is_damaged, ..State::default() };
}

fn check_action(world: &World, action: &Action) {
    match action {
        Action::Commit(plan) => {
            check_alone(world);
            assert_ne!(*plan, world.plan, "a commit that changes nothing");
            if world.kernel.failures > 0 {
                let pause = world.now.since(world.kernel.failed_at);
                assert!(pause >= Duration::from_millis(100), "tried again after {pause:?}");
            }
        }
        Action::Verify => check_alone(world),
        Action::Restore(plan) => {
            check_alone(world);
            assert!(world.kernel.is_damaged, "a repair of what nobody has changed");
            assert_eq!(*plan, world.plan, "another plan than that in force restored");
        }
        _ => {}
    }
}

/// One thing at a time is done to the table.
fn check_alone(world: &World) {
    assert!(world.kernel.outstanding.is_none(), "a commit is outstanding");
    assert!(!world.kernel.is_looking, "a look or a repair is outstanding");
}

fn act(world: &mut World, action: &Action) {
    match action {
        Action::Commit(plan) => {
            world.kernel.outstanding = Some(plan.clone());
            let fails = is_refused(world);
            let delay = world.random.millis(0..30);
            world.schedule_for_master(delay, move |world| commit_done(world, fails));
            if world.goes_wrong(5) {
                world.ask_something_in(delay);
            }
        }
        Action::Verify => {
            world.kernel.is_looking = true;
            let delay = world.random.millis(0..10);
            world.schedule_for_master(delay, look_done);
        }
        Action::Restore(_) => {
            world.kernel.is_looking = true;
            let fails = is_refused(world);
            let delay = world.random.millis(0..10);
            world.schedule_for_master(delay, move |world| restore_done(world, fails));
        }
        _ => {}
    }
}

fn is_refused(world: &mut World) -> bool {
    world.goes_wrong(30) || (world.trouble > 0 && world.now < world.kernel.refuses_until)
}

fn commit_done(world: &mut World, fails: bool) {
    if !fails {
        let plan = world.kernel.outstanding.clone().expect("a commit is outstanding");
        world.put_in_force(plan);
    }
    let delay = world.random.millis(0..10);
    world.schedule_for_master(delay, move |world| commit_answer(world, fails));
}

fn commit_answer(world: &mut World, failed: bool) {
    world.kernel.outstanding = None;
    if failed {
        world.kernel.failures += 1;
        world.kernel.failed_at = world.now;
        if let Some(stop) = &mut world.operators.stop {
            stop.commit_failures += 1;
        }
        world.deliver(Input::CommitFailed { reason: "ENOMEM".to_owned() });
    } else {
        world.kernel.failures = 0;
        world.deliver(Input::Committed { took: Duration::ZERO });
    }
}

/// Somebody deletes something in our table, whatever else is under way.
fn damage(world: &mut World) {
    if world.removed {
        return;
    }
    world.kernel.is_damaged = true;
    let delay = world.random.millis(0..20);
    let is_lost = world.random.percent(20);
    world.schedule_for_master(delay, move |world| {
        let writer = Some(RuleWriter { pid: 99, name: "nft".to_owned() });
        world.deliver(match is_lost {
            true => Input::NotificationsLost,
            false => Input::TableChanged { writer },
        });
    });
}

fn look_done(world: &mut World) {
    world.kernel.is_looking = false;
    let fails = world.goes_wrong(10);
    let finding = match world.kernel.is_damaged {
        _ if fails => Verification::Unreadable { reason: "interrupted".to_owned() },
        true => Verification::Differs { what: "chain seat_0".to_owned() },
        false => Verification::Same,
    };
    world.deliver(Input::Verified(finding));
}

fn restore_done(world: &mut World, fails: bool) {
    world.kernel.is_looking = false;
    if fails {
        world.deliver(Input::RestoreFailed { reason: "ENOMEM".to_owned() });
    } else {
        world.kernel.is_damaged = false;
        world.deliver(Input::Restored);
    }
}
