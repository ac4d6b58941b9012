//! A clock that jumps: the master was stopped, or the machine it runs on was. The clock is one that
//! never goes back; jumps of the wall clock do not reach the supervisor at all.

use std::time::Duration;

use super::topic::Topic;
use super::world::World;

pub(super) const TOPIC: Topic = Topic { begin, ..Topic::NONE };

/// How far the clock has jumped so far.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) jumped: Duration,
}

fn begin(world: &mut World) {
    for _ in 0..world.random.below(3) {
        if world.goes_wrong(60) {
            let at = world.some_time();
            world.schedule(at, jump);
        }
    }
}

/// All that was to happen in between happens at once after it, in its order, and the supervisor hears
/// of it when its deadlines are long over.
fn jump(world: &mut World) {
    let span = match world.random.below(3) {
        0 => world.random.millis(50..2_000),
        1 => world.random.millis(2_000..60_000),
        _ => world.random.millis(60_000..10 * 3_600_000),
    };
    world.now = world.now.after(span);
    world.time.jumped += span;
    world.note(|now| format!("{:>9.3?}  the clock has jumped by {span:?}", now.0));
}
