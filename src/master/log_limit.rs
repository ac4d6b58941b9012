//! Log lines that could come many times a second, as when no descriptors are left.

use std::time::{Duration, Instant};

/// Lets a line into the log at most once in a while, and counts those that it keeps out.
#[derive(Debug)]
pub(super) struct LogLimiter {
    pause: Duration,
    not_before: Option<Instant>,
    suppressed: u64,
}

impl LogLimiter {
    /// At most one line in each `pause`.
    pub(super) const fn every(pause: Duration) -> Self {
        Self { pause, not_before: None, suppressed: 0 }
    }

    /// Whether to write the line now: if so, how many were kept out since the last one.
    pub(super) fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.not_before.is_some_and(|at| now < at) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.not_before = now.checked_add(self.pause);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// One line in ten seconds: what goes on failing until somebody has mended it.
impl Default for LogLimiter {
    fn default() -> Self {
        Self::every(Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_in_a_pause_and_says_how_many_were_not() {
        let pause = Duration::from_secs(1);
        let (mut limiter, start) = (LogLimiter::every(pause), Instant::now());
        assert_eq!(limiter.allow(start), Some(0));
        assert_eq!(limiter.allow(start + pause - Duration::from_millis(1)), None);
        assert_eq!(limiter.allow(start + pause), Some(1));
        assert_eq!(limiter.allow(start + pause), None);
    }
}
