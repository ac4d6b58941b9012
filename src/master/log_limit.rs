//! What would be logged many times a second, as when no descriptors are left.

use std::time::{Duration, Instant};

/// How long the same is not said again.
const PAUSE: Duration = Duration::from_secs(10);

/// Says something once in a while.
#[derive(Debug, Default)]
pub(super) struct LogLimiter {
    not_before: Option<Instant>,
}

impl LogLimiter {
    /// Whether to say it now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        self.not_before = now.checked_add(PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_rests() {
        let (mut log_limiter, start) = (LogLimiter::default(), Instant::now());
        assert!(log_limiter.is_due(start));
        assert!(!log_limiter.is_due(start + PAUSE - Duration::from_millis(1)));
        assert!(log_limiter.is_due(start + PAUSE));
        assert!(!log_limiter.is_due(start + PAUSE));
    }
}
