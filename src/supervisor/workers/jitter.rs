//! Jitter: limits that are a little lower for each worker, so that workers that were started together, on
//! one host or on many, are not replaced together.
//!
//! The fraction of a worker follows from a seed, which the master draws once, and from the name of the
//! worker: the same inputs give the same limits.

use std::time::Duration;

use crate::protocol::WorkerId;

/// Which part of the jitter a worker gets: 0 to [`Jitter::WHOLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Jitter {
    /// The most by which a limit is lowered, in percent.
    percent: u32,
    fraction: u32,
}

impl Jitter {
    const WHOLE: u32 = u16::MAX as u32;

    /// The jitter of a worker; `percent` is at most 100.
    pub(super) fn of(worker: WorkerId, percent: u32, seed: u64) -> Self {
        let mixed = mix(seed ^ mix(worker.0));
        let fraction = u32::try_from(mixed >> 48).unwrap_or(Self::WHOLE);
        Self { percent: percent.min(100), fraction }
    }

    /// The limit of the worker: at most `limit`, and above 0 where that is.
    pub(super) fn count(self, limit: u64) -> u64 {
        self.lowered(u128::from(limit)).try_into().unwrap_or(limit).max(limit.min(1))
    }

    /// The limit of the worker: at most `limit`.
    pub(super) fn time(self, limit: Duration) -> Duration {
        let nanoseconds = self.lowered(limit.as_nanos());
        u64::try_from(nanoseconds).map_or(limit, Duration::from_nanos)
    }

    fn lowered(self, limit: u128) -> u128 {
        let part = u128::from(self.percent) * u128::from(self.fraction);
        let whole = u128::from(Self::WHOLE) * 100;
        // Nothing overflows: a limit has 64 bits, or a few more as a time.
        limit - limit * part / whole
    }
}

/// Each bit of the result depends on each bit of the number (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_lie_below_the_given_one_by_the_jitter_at_most_and_all_over_that() {
        let limits: Vec<u64> =
            (0..1000).map(|id| Jitter::of(WorkerId(id), 10, 7).count(10_000)).collect();
        assert!(limits.iter().all(|limit| (9_000..=10_000).contains(limit)));
        for tenth in 0..10 {
            let (low, high) = (9_000 + tenth * 100, 9_100 + tenth * 100);
            let count = limits.iter().filter(|limit| (low..high).contains(*limit)).count();
            assert!((50..=160).contains(&count), "{count} from {low} to {high}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_limits_and_another_seed_others() {
        let limits = |seed| -> Vec<Duration> {
            let of = |id| Jitter::of(WorkerId(id), 10, seed).time(Duration::from_secs(3600));
            (0..8).map(of).collect()
        };
        assert_eq!(limits(1), limits(1));
        assert_ne!(limits(1), limits(2));
        assert!(limits(1).iter().all(|it| *it >= Duration::from_secs(3240)), "{:?}", limits(1));
    }

    #[test]
    fn without_jitter_the_limit_is_as_given_and_never_0() {
        let none = Jitter::of(WorkerId(3), 0, 9);
        assert_eq!((none.count(17), none.time(Duration::MAX)), (17, Duration::MAX));
        let all = Jitter { percent: 100, fraction: Jitter::WHOLE };
        assert_eq!((all.count(17), all.count(0), all.count(u64::MAX)), (1, 0, 1));
    }
}
