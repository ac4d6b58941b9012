//! How many messages of one worker count.

use std::time::Duration;

use crate::protocol::Timestamp;

/// The most messages within [`WINDOW`]; further ones are dropped.
const MESSAGES: u32 = 200;
const WINDOW: Duration = Duration::from_secs(1);

/// Counts the messages of one worker.
#[derive(Debug, Default)]
pub(super) struct FloodLimit {
    window_began: Timestamp,
    count: u32,
    is_reported: bool,
}

impl FloodLimit {
    /// Counts a message; returns whether there were too many.
    pub(super) fn is_exceeded(&mut self, now: Timestamp) -> bool {
        if now.since(self.window_began) >= WINDOW {
            *self = Self { window_began: now, ..Self::default() };
        }
        self.count = self.count.saturating_add(1);
        self.count > MESSAGES
    }

    /// Whether this is the first report in the window; counts it.
    pub(super) fn is_first_report(&mut self) -> bool {
        !std::mem::replace(&mut self.is_reported, true)
    }
}
