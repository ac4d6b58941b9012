//! What simulations have in common: many histories, each repeated by the seed that is printed. Pure, but for
//! variables of the environment that say which.

use std::any::Any;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The one history that is to be told, if one is (`IPCLUSTER_SIM_SEED`).
pub(crate) fn told_seed() -> Option<u64> {
    number_from_environment("IPCLUSTER_SIM_SEED")
}

/// Runs `histories`, or as many as `IPCLUSTER_SIM_HISTORIES` says, from `IPCLUSTER_SIM_FROM` on, on all
/// processors.
///
/// # Panics
/// If one fails, with the seeds and the words of the first twenty.
pub(crate) fn check_histories(histories: u64, failure_of: impl Fn(u64) -> Option<String> + Sync) {
    let histories = number_from_environment("IPCLUSTER_SIM_HISTORIES").unwrap_or(histories);
    let first = number_from_environment("IPCLUSTER_SIM_FROM").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let failure_of = &failure_of;
    let failed: Vec<(u64, String)> = std::thread::scope(|scope| {
        let share_of = |thread: usize| {
            let seeds = (first..first + histories).skip(thread).step_by(threads);
            scope.spawn(|| seeds.filter_map(|seed| Some((seed, failure_of(seed)?))).collect())
        };
        let shares: Vec<_> = (0..threads).map(share_of).collect();
        let failed: Vec<Vec<_>> = shares.into_iter().map(|it| it.join().expect("caught")).collect();
        failed.concat()
    });
    let told: Vec<String> = failed
        .iter()
        .take(20)
        .map(|(seed, words)| format!("IPCLUSTER_SIM_SEED={seed}: {words}"))
        .collect();
    assert!(failed.is_empty(), "{} of {histories} histories:\n{}", failed.len(), told.join("\n"));
}

/// The words of the panic that a history ends with, if it does.
pub(crate) fn panic_of(history: impl FnOnce()) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(history));
    outcome.err().map(|panic| words_of(&*panic).to_owned())
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    owned().or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}
