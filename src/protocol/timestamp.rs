//! Points in time, as the master tells them.

use std::time::Duration;

/// A point in time: how long ago the master started, on a clock that never goes back
/// (`CLOCK_MONOTONIC`). Wall clock jumps do not touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub Duration);

impl Timestamp {
    /// The start of the master; where it has adopted workers, that of the oldest of them.
    pub const START: Self = Self(Duration::ZERO);

    /// The moment that comes `span` later; the end of time at most.
    #[must_use]
    pub const fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// How long after `earlier` this moment is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
