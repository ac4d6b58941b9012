//! Messages of sessions that are no worker's yet: a worker may write before the master has learned that
//! it has started it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::Timestamp;
use crate::supervisor::health::NotifyField;

/// For how long a message is kept, and how many messages are.
const KEPT_FOR: Duration = Duration::from_secs(1);
pub(super) const MOST_KEPT: usize = 64;

/// The messages that no worker has claimed, oldest first.
#[derive(Debug, Default)]
pub(super) struct UnclaimedMessages(VecDeque<UnclaimedMessage>);

#[derive(Debug)]
struct UnclaimedMessage {
    at: Timestamp,
    session: u32,
    fields: Vec<NotifyField>,
}

impl UnclaimedMessages {
    pub(super) fn keep(&mut self, session: u32, fields: Vec<NotifyField>, now: Timestamp) {
        self.drop_expired(now);
        if self.0.len() < MOST_KEPT {
            self.0.push_back(UnclaimedMessage { at: now, session, fields });
        }
    }

    /// Takes the messages of a session out.
    pub(super) fn claim(&mut self, session: u32, now: Timestamp) -> Vec<NotifyField> {
        self.drop_expired(now);
        let (claimed, others): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|it| it.session == session);
        self.0 = others;
        claimed.into_iter().flat_map(|it| it.fields).collect()
    }

    /// When the oldest message is to be dropped, if there is one.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.0.front().map(|oldest| oldest.at.after(KEPT_FOR))
    }

    /// Returns whether any message was dropped.
    pub(super) fn drop_expired(&mut self, now: Timestamp) -> bool {
        let before = self.0.len();
        self.0.retain(|it| now.since(it.at) < KEPT_FOR);
        self.0.len() < before
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
