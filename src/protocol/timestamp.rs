//! Points in time.

use std::time::Duration;

/// A point in time: how long after the boot of the machine, on a clock that never goes back
/// (`CLOCK_MONOTONIC`, clock_gettime(2)). Jumps of the wall clock do not touch it, and all processes of a
/// machine read the same one, so that the next master counts on from the timestamps of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub Duration);

impl Timestamp {
    /// The boot of the machine. No timestamp is before it, so that it also stands for "at any time".
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The moment that comes `span` later; the end of time at most.
    #[must_use]
    pub const fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// The moment that was `span` earlier; the boot of the machine at the earliest.
    #[must_use]
    pub const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// How long after `earlier` this moment is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
