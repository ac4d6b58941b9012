//! The rate limit of replacements: at most so many live workers retire in a sliding window.
//!
//! A replacement that was begun counts until its worker has retired, and from then on for the length
//! of the window. So there are never more retirements in any window than the rate says, however long
//! successors take to get ready.

use crate::protocol::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// Counts the retirements of late.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct RateLimiter {
    /// When the last ones were, oldest first; no more than [`RateLimit::rate`].
    recorded: VecDeque<Timestamp>,
}

/// At most [`Self::rate`] in any [`Self::window`]; a window of zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) struct RateLimit {
    pub(in crate::supervisor) rate: u32,
    pub(in crate::supervisor) window: Duration,
}

impl RateLimiter {
    /// Counts the retirement of a replaced worker.
    pub(in crate::supervisor) fn record(&mut self, limit: RateLimit, now: Timestamp) {
        self.recorded.push_back(now);
        while self.recorded.len() > limit.places() {
            self.recorded.pop_front();
        }
    }

    /// The retirements that count, oldest first.
    pub(in crate::supervisor) fn recorded(&self) -> impl Iterator<Item = Timestamp> {
        self.recorded.iter().copied()
    }

    /// From when on one more replacement may begin while so many are under way; `None`: not before one of
    /// these is done.
    pub(super) fn allowed_at(&self, limit: RateLimit, under_way: usize) -> Option<Timestamp> {
        if limit.window.is_zero() {
            return Some(Timestamp::ZERO);
        }
        let places = limit.places().checked_sub(under_way).filter(|places| *places > 0)?;
        // The retirement whose place the next one would take.
        match self.recorded.len().checked_sub(places) {
            None => Some(Timestamp::ZERO),
            Some(oldest) => Some(self.recorded[oldest].after(limit.window)),
        }
    }
}

impl RateLimit {
    fn places(self) -> usize {
        usize::try_from(self.rate).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { rate: 3, window: Duration::from_secs(100) };

    fn at(second: u64) -> Timestamp {
        Timestamp(Duration::from_secs(second))
    }

    #[test]
    fn the_window_slides() {
        let mut rate_limiter = RateLimiter::default();
        for second in [10, 20, 50] {
            assert_eq!(rate_limiter.allowed_at(LIMIT, 0), Some(Timestamp::ZERO));
            rate_limiter.record(LIMIT, at(second));
        }
        assert_eq!(rate_limiter.allowed_at(LIMIT, 0), Some(at(110)));
        rate_limiter.record(LIMIT, at(110));
        assert_eq!(rate_limiter.allowed_at(LIMIT, 0), Some(at(120)));
    }

    #[test]
    fn those_under_way_hold_their_places() {
        let mut rate_limiter = RateLimiter::default();
        assert_eq!(rate_limiter.allowed_at(LIMIT, 2), Some(Timestamp::ZERO));
        assert_eq!(rate_limiter.allowed_at(LIMIT, 3), None);
        assert_eq!(rate_limiter.allowed_at(LIMIT, 4), None);
        rate_limiter.record(LIMIT, at(10));
        rate_limiter.record(LIMIT, at(20));
        assert_eq!(rate_limiter.allowed_at(LIMIT, 1), Some(at(110)));
        assert_eq!(rate_limiter.allowed_at(LIMIT, 2), Some(at(120)));
    }

    #[test]
    fn requests_of_operators_may_exceed_it_and_count() {
        let mut rate_limiter = RateLimiter::default();
        for second in [10, 11, 12, 13, 14] {
            rate_limiter.record(LIMIT, at(second));
        }
        assert_eq!(rate_limiter.allowed_at(LIMIT, 0), Some(at(112)));
    }

    #[test]
    fn without_a_window_there_is_no_limit() {
        let limit = RateLimit { window: Duration::ZERO, ..LIMIT };
        let mut rate_limiter = RateLimiter::default();
        (0..9).for_each(|second| rate_limiter.record(limit, at(second)));
        assert_eq!(rate_limiter.allowed_at(limit, 9), Some(Timestamp::ZERO));
    }
}
