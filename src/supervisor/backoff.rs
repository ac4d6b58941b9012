//! Growing delays after repeated failures.

use std::time::Duration;

use super::Moment;

/// Delays that double with each failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub min: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Backoff {
    /// The delay after so many failures in a row; zero after none.
    pub fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 2_u32.saturating_pow(doublings);
                self.min.saturating_mul(factor).min(self.max)
            }
        }
    }
}

/// When something that keeps failing may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Retry {
    /// Failures in a row.
    pub(super) failures: u32,
    /// No try before this.
    pub(super) not_before: Moment,
}

impl Retry {
    /// Counts one more failure; returns the delay until the next try.
    pub(super) fn failed(&mut self, backoff: &Backoff, now: Moment) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = backoff.delay(self.failures);
        self.not_before = now.after(delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_longest() {
        let backoff = Backoff { min: SECOND, max: 30 * SECOND };
        let delays: Vec<u64> = (0..8).map(|n| backoff.delay(n).as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.delay(u32::MAX), 30 * SECOND);
    }

    #[test]
    fn a_longest_delay_below_the_first_one_wins() {
        let backoff = Backoff { min: 2 * SECOND, max: SECOND };
        assert_eq!(backoff.delay(1), SECOND);
    }

    #[test]
    fn a_retry_counts_from_the_failure() {
        let backoff = Backoff { min: SECOND, max: 30 * SECOND };
        let mut retry = Retry::default();
        assert_eq!(retry.failed(&backoff, Moment(5 * SECOND)), SECOND);
        assert_eq!(retry.failed(&backoff, Moment(7 * SECOND)), 2 * SECOND);
        assert_eq!(retry.not_before, Moment(9 * SECOND));
    }
}
