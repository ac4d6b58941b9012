//! What the fuzzer runs: for each target a function that takes any bytes and panics only if something is
//! wrong. `cargo +nightly fuzz run NAME` (in `fuzz/`) runs one with coverage; the test of this package
//! replays the corpora, and runs each target on changed pieces of them, on any compiler.

mod fleet;
mod peer;
mod plan;
mod replies;
mod ruleset;
mod texts;

use arbitrary::{Arbitrary, Unstructured};

/// Takes any bytes, and panics only if something is wrong.
pub type Target = fn(&[u8]);

/// The targets by their names, which are those of their corpora in `fuzz/corpora` and of the binaries in
/// `fuzz/fuzz_targets`.
pub const TARGETS: &[(&str, Target)] = &[
    ("configuration", texts::configuration),
    ("control", texts::control),
    ("fleet", fleet::run),
    ("notify", texts::notify),
    ("offer", texts::offer),
    ("output", texts::output),
    ("peer", peer::run),
    ("plan", plan::run),
    ("proc", texts::proc_files),
    ("replies", replies::run),
    ("ruleset", ruleset::run),
    ("store", texts::store),
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or the target found a fault.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, run) = target.unwrap_or_else(|| panic!("no target is named {name}"));
    run(data);
}

/// The input that these bytes stand for; `None` if there are too few.
fn arbitrary<'a, T: Arbitrary<'a>>(data: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(data)).ok()
}
