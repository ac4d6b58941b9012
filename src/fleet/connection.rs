//! Whether the store is reached, and when to try again.

use std::time::Duration;

use crate::plan::fleet::MemberName;
use crate::protocol::Timestamp;

use super::SourceState;

/// The first pause before the store is tried again. It doubles with each try that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. Far shorter than a lease: who reaches the store again has time to keep its own.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether the store is reached.
#[derive(Debug)]
pub(super) enum Connection {
    /// It is not.
    Away(Away),
    /// All was read, and changes are told as they happen.
    Current,
}

#[derive(Debug)]
pub(super) struct Away {
    /// `None`: since the start.
    since: Option<Timestamp>,
    /// Why, if it is known.
    reason: Option<String>,
    tries: u32,
    retry_at: Timestamp,
}

impl Connection {
    /// Never reached yet, and to be tried at once.
    pub(super) fn begin() -> Self {
        Self::Away(Away { since: None, reason: None, tries: 0, retry_at: Timestamp::ZERO })
    }

    pub(super) fn is_current(&self) -> bool {
        matches!(self, Self::Current)
    }

    /// It has failed: it is tried again after a pause that grows.
    pub(super) fn lose(&mut self, reason: String, name: &MemberName, now: Timestamp) {
        let (since, tries) = match self {
            Self::Current => (Some(now), 0),
            Self::Away(away) => (away.since, away.tries),
        };
        let retry_at = now.after(pause(tries, name));
        *self = Self::Away(Away { since, reason: Some(reason), tries: tries + 1, retry_at });
    }

    /// All is to be read again, almost at once: what has ended the watch may be there for a while.
    pub(super) fn reread(&mut self, reason: String, now: Timestamp) {
        let (since, retry_at) = (Some(now), now.after(FIRST_PAUSE));
        *self = Self::Away(Away { since, reason: Some(reason), tries: 0, retry_at });
    }

    /// When to try again.
    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Self::Away(away) => Some(away.retry_at),
            Self::Current => None,
        }
    }

    pub(super) fn state(&self) -> SourceState {
        match self {
            Self::Current => SourceState::Current,
            Self::Away(Away { since: None, reason, .. }) => {
                SourceState::Starting { reason: reason.clone() }
            }
            Self::Away(Away { since: Some(since), reason, .. }) => {
                SourceState::Away { since: *since, reason: reason.clone().unwrap_or_default() }
            }
        }
    }
}

/// Longer by up to a quarter, by the name, so that hosts that have lost the store at once come back one by one.
fn pause(tries: u32, name: &MemberName) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << tries.min(10)).min(LONGEST_PAUSE);
    let step = |sum: u32, byte: u8| sum.wrapping_mul(31).wrapping_add(u32::from(byte));
    let part = name.as_str().bytes().fold(7, step) % 64;
    pause + pause * part / 256
}
