//! A token bucket: how many lines a peer may send now. Pure.

use std::time::Duration;

/// Lines that a peer may send at once. A worker sends two a second.
pub const LINES_AT_ONCE: u32 = 64;

/// The time after which a peer that has sent them may send one more.
pub const LINE_INTERVAL: Duration = Duration::from_millis(25);

/// Holds a token for each line that a peer may send now: at most [`LINES_AT_ONCE`], and one more
/// every [`LINE_INTERVAL`].
///
/// Times are counted from any fixed point, on a clock that does not go back.
#[derive(Debug)]
pub(super) struct TokenBucket {
    tokens: u32,
    /// The time from which on the next token is earned.
    since: Duration,
}

impl TokenBucket {
    pub(super) fn full(now: Duration) -> Self {
        Self { tokens: LINES_AT_ONCE, since: now }
    }

    /// The number of lines that may be read now.
    #[cfg(test)]
    pub(super) fn tokens(&self) -> u32 {
        self.tokens
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Takes the token of one line, if there is one.
    pub(super) fn take(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }

    /// Adds the tokens that were earned up to `now`.
    pub(super) fn refill(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.since).as_millis() / LINE_INTERVAL.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(earned).min(LINES_AT_ONCE);
        self.since = match self.tokens {
            LINES_AT_ONCE => now,
            _ => self.since + LINE_INTERVAL * earned,
        };
    }

    /// When an empty bucket has its next token.
    pub(super) fn next_at(&self) -> Duration {
        self.since + LINE_INTERVAL
    }
}
