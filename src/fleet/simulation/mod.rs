//! Random histories of a few hosts and the store that they share.
//!
//! What goes wrong: hosts are cut off from the store, for a moment or longer than a lease; requests arrive and
//! their answers do not; the store is away, slow, compacts its log, loses all its data, or a lease is ended by
//! hand, or the fleet deleted; watches are late, or tell nothing any more without an end; programs crash and come
//! again, at once or after their lease; workers come and go; hosts drain, leave, and join again.
//!
//! What must hold (`checks.rs`):
//!
//! * Hosts that have put a revision in force have the same fleet, and no host goes back.
//! * A host that reaches the store is behind it for no longer than its watch is late.
//! * Every slot of every fleet has an owner that serves. Who is ready and reaches the store owns its share; who is
//!   gone owns nothing, as long as another host serves.
//! * Whoever has not left stays in the fleet, so that its connections are passed to it, for as long as it may.
//! * Where only the store has trouble, no host ever loses a slot.
//! * Who drains and has no connections leaves, and is in the fleet no more.
//! * Nothing is asked without a pause.
//!
//! ```text
//! cargo test --lib fleet::simulation                                                  the fast set
//! IPCLUSTER_SIM_HISTORIES=100000 cargo test --release --lib fleet::simulation           the long one
//! IPCLUSTER_SIM_SEED=4711 cargo test --lib fleet::simulation -- --nocapture             one, told in full
//! ```

mod checks;
mod random;
mod store;
mod world;

use crate::simulation::{check_histories, panic_of, told_seed};
use world::{Sabotage, World};

/// Histories of one run, unless the environment says otherwise.
const HISTORIES: u64 = 400;

/// Within so many histories a fault is found.
const FOUND_WITHIN: u64 = 400;

/// What is broken on purpose, and a part of the sentence by which the histories tell.
const FAULTS: &[(Sabotage, &str)] = &[
    (Sabotage::MissesTheFirstChange, "is behind the store"),
    (Sabotage::PutsInForceWhatItWrites, "differ"),
    (Sabotage::WritesOverWhatItHasNotSeen, "an older list"),
    (Sabotage::KeepsNoLeaseAlive, "lost"),
    (Sabotage::TakesWhatIsMissingForLost, "lost"),
    (Sabotage::ForgetsTheLost, "was taken out"),
    (Sabotage::NeverLeaves, "has not left"),
    (Sabotage::NeverAudits, "is behind the store"),
    (Sabotage::DoesNotHearOfALostLease, "is not in the fleet"),
];

#[test]
fn every_history_keeps_the_invariants() {
    if let Some(seed) = told_seed() {
        let mut world = World::new(seed, None);
        world.tells = true;
        world.live();
        return;
    }
    check_histories(HISTORIES, |seed| failure_of(seed, None));
}

#[test]
fn every_fault_is_found() {
    for &(fault, words) in FAULTS {
        let finds =
            |seed: &u64| failure_of(*seed, Some(fault)).is_some_and(|it| it.contains(words));
        let seed = (0..FOUND_WITHIN).find(finds);
        println!("{fault:?}: {seed:?}");
        assert!(seed.is_some(), "{fault:?}: no history says {words:?}");
    }
}

/// What a history breaks, if it breaks anything.
fn failure_of(seed: u64, sabotage: Option<Sabotage>) -> Option<String> {
    panic_of(|| World::new(seed, sabotage).live())
}
