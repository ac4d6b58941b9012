//! How many live workers may be replaced at a time: at most so many in a sliding window.
//!
//! A replacement that was begun counts until its worker has retired, and from then on for the length
//! of the window. So there are never more retirements in any window than the rate says, however long
//! successors take to get ready.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;

/// The retirements of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    /// When the last ones were, oldest first; no more than [`Limit::rate`].
    spent: VecDeque<Moment>,
}

/// At most [`Self::rate`] in any [`Self::window`]; a window of zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) rate: u32,
    pub(super) window: Duration,
}

impl Budget {
    /// A worker has retired.
    pub(super) fn spend(&mut self, limit: Limit, now: Moment) {
        self.spent.push_back(now);
        while self.spent.len() > limit.places() {
            self.spent.pop_front();
        }
    }

    /// The retirements that count, oldest first.
    pub(super) fn spent(&self) -> impl Iterator<Item = Moment> {
        self.spent.iter().copied()
    }

    /// From when on one more replacement may be begun while so many are under way; `None`: not
    /// before one of these has come to its end.
    pub(super) fn free_at(&self, limit: Limit, under_way: usize) -> Option<Moment> {
        if limit.window.is_zero() {
            return Some(Moment::START);
        }
        let places = limit.places().checked_sub(under_way).filter(|places| *places > 0)?;
        // The retirement whose place the next one would take.
        match self.spent.len().checked_sub(places) {
            None => Some(Moment::START),
            Some(oldest) => Some(self.spent[oldest].after(limit.window)),
        }
    }
}

impl Limit {
    fn places(self) -> usize {
        usize::try_from(self.rate).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { rate: 3, window: Duration::from_secs(100) };

    fn at(second: u64) -> Moment {
        Moment(Duration::from_secs(second))
    }

    #[test]
    fn the_window_slides() {
        let mut budget = Budget::default();
        for second in [10, 20, 50] {
            assert_eq!(budget.free_at(LIMIT, 0), Some(Moment::START));
            budget.spend(LIMIT, at(second));
        }
        assert_eq!(budget.free_at(LIMIT, 0), Some(at(110)));
        budget.spend(LIMIT, at(110));
        assert_eq!(budget.free_at(LIMIT, 0), Some(at(120)));
    }

    #[test]
    fn those_under_way_hold_their_places() {
        let mut budget = Budget::default();
        assert_eq!(budget.free_at(LIMIT, 2), Some(Moment::START));
        assert_eq!(budget.free_at(LIMIT, 3), None);
        assert_eq!(budget.free_at(LIMIT, 4), None);
        budget.spend(LIMIT, at(10));
        budget.spend(LIMIT, at(20));
        assert_eq!(budget.free_at(LIMIT, 1), Some(at(110)));
        assert_eq!(budget.free_at(LIMIT, 2), Some(at(120)));
    }

    #[test]
    fn requests_of_operators_may_exceed_it_and_count() {
        let mut budget = Budget::default();
        for second in [10, 11, 12, 13, 14] {
            budget.spend(LIMIT, at(second));
        }
        assert_eq!(budget.free_at(LIMIT, 0), Some(at(112)));
    }

    #[test]
    fn without_a_window_there_is_no_limit() {
        let limit = Limit { window: Duration::ZERO, ..LIMIT };
        let mut budget = Budget::default();
        (0..9).for_each(|second| budget.spend(limit, at(second)));
        assert_eq!(budget.free_at(limit, 9), Some(Moment::START));
    }
}
