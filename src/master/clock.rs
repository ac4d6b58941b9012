//! The clock of a master: the time that the supervisor counts in, and waiting for moments of it.

use std::time::Instant;

use super::waiting;
use crate::protocol::Timestamp;

/// A clock that began to run when the oldest thing that counts happened, such as the start of an
/// adopted worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    begin: Instant,
}

impl Clock {
    pub(super) fn starting_at(begin: Instant) -> Self {
        Self { begin }
    }

    pub(super) fn now(self) -> Timestamp {
        Timestamp(self.begin.elapsed())
    }

    /// Waits for a moment; for ever, if there is none.
    pub(super) async fn sleep_until(self, deadline: Option<Timestamp>) {
        let at = deadline.and_then(|Timestamp(since)| self.begin.checked_add(since));
        waiting::sleep_until(at).await;
    }
}
