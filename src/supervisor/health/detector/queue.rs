//! Whether an accept queue moves.
//!
//! While nobody accepts, a queue only grows: a connection that its client gives up keeps its place. So a
//! queue that gets shorter moves. A queue that does not get shorter may be refilled as fast as it is
//! emptied. Only its connections tell that: the queue is first in, first out, so a connection that was
//! there at the beginning and still waits proves that it is stuck.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::protocol::Timestamp;

/// The connections of a worker port, each by its socket cookie, which no other socket has in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PortConnections {
    /// The connections that wait to be accepted.
    pub queued: BTreeSet<u64>,
    /// The connections that were accepted, and that neither side has closed.
    pub accepted: BTreeSet<u64>,
}

/// The accept queue of one port.
#[derive(Debug, Default)]
pub(super) struct QueueState {
    length: u32,
    /// Since when it has been neither empty nor seen to move.
    since: Option<Timestamp>,
    /// The connections that there were when it began not to move.
    at_first: Option<PortConnections>,
    is_stuck: bool,
}

impl QueueState {
    /// Nobody was accepted from it for `timeouts.ping`.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// Takes in its length.
    pub(super) fn observe(&mut self, length: u32, now: Timestamp) {
        let has_moved = length < self.length;
        self.length = length;
        if length == 0 {
            *self = Self::default();
        } else if has_moved {
            *self = Self { length, since: Some(now), ..Self::default() };
        } else {
            self.since.get_or_insert(now);
        }
    }

    /// Whether connections wait, as far as was seen.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// When its connections have to be looked at; it may be over. `None` while nothing waits.
    pub(super) fn suspect_at(&self, ping: Duration) -> Option<Timestamp> {
        let since = self.since?;
        Some(if self.at_first.is_some() { since.after(ping) } else { since })
    }

    /// Whether its connections have to be looked at. The first time is one look after it was seen to
    /// wait, so that a queue that is just being emptied costs nothing; the second time is when `ping` is
    /// over; and while it is stuck, each look.
    pub(super) fn is_suspect(&self, ping: Duration, now: Timestamp) -> bool {
        match (self.since, &self.at_first) {
            (Some(since), None) => since < now,
            (Some(since), Some(_)) => now.since(since) >= ping,
            (None, _) => false,
        }
    }

    /// Takes in its connections, as they were at `at`: the queue moves if a new connection was accepted,
    /// or if none is left of those that waited at first.
    pub(super) fn confirm_stuck(&mut self, now: PortConnections, ping: Duration, at: Timestamp) {
        let Some(since) = self.since else { return };
        let Some(at_first) = &self.at_first else {
            self.at_first = Some(now);
            return;
        };
        let has_accepted = now.accepted.difference(&at_first.accepted).next().is_some();
        let is_one_left = at_first.queued.intersection(&now.queued).next().is_some();
        if has_accepted || !is_one_left {
            *self =
                Self { length: self.length, since: Some(at), at_first: Some(now), is_stuck: false };
        } else {
            self.is_stuck = at.since(since) >= ping;
        }
    }
}
