//! Random histories in a simulated world.
//!
//! A [`World`] holds a supervisor, a clock that jumps from one happening to the next, processes
//! that boot slowly, never, or die, and a kernel that takes plans late or not at all. Operators
//! reload, scale and stop, and strangers damage the table, at any moment. `checks` says what must
//! hold after every step.
//!
//! The same seed makes the same history:
//!
//! ```text
//! IPCLUSTER_SIM_HISTORIES=100000 cargo test --release --lib supervisor::simulation
//! IPCLUSTER_SIM_SEED=4711 cargo test --lib supervisor::simulation -- --nocapture
//! ```

mod checks;
mod process;
mod random;
mod world;

use std::num::NonZero;
use std::time::Duration;

use super::Request;
use world::World;

/// Histories of one run, unless the environment says otherwise.
const HISTORIES: u64 = 1_500;

#[test]
fn every_history_keeps_the_invariants() {
    if let Some(seed) = number_from_environment("IPCLUSTER_SIM_SEED") {
        let mut world = World::new(seed);
        world.journal = Some(Vec::new());
        live_through(&mut world);
        println!("{}", world.journal.iter().flatten().cloned().collect::<Vec<_>>().join("\n"));
        return;
    }
    let histories = number_from_environment("IPCLUSTER_SIM_HISTORIES").unwrap_or(HISTORIES);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for first in 0..threads as u64 {
            let seeds = (first..histories).step_by(threads);
            scope.spawn(|| seeds.for_each(|seed| live_through(&mut World::new(seed))));
        }
    });
}

/// Trouble, then calm, then the end.
fn live_through(world: &mut World) {
    let troubled = Duration::from_secs(60);
    world.start();
    world.plan_requests(6, troubled);
    let damages = world.random.below(8);
    world.plan_damage(damages, troubled);
    world.run(troubled);
    world.trouble = 0;
    world.run(Duration::from_secs(300));
    if world.stop.is_none() {
        world.check_rest();
        let now = world.random.percent(30);
        world.ask(Request::Stop { now });
        world.run(Duration::from_secs(60));
    }
    world.check_end_of_all();
    assert!(world.steps < 20_000, "{} steps: a busy loop", world.steps);
}

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}
