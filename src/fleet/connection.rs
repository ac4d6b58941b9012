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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::ZERO.after(Duration::from_secs(60));

    fn name() -> MemberName {
        "a".parse().unwrap()
    }

    fn pause_until_retry(connection: &Connection, now: Timestamp) -> Duration {
        connection.retry_at().unwrap().since(now)
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_no_more_than_a_quarter_longer() {
        let mut connection = Connection::begin();
        assert_eq!(connection.retry_at(), Some(Timestamp::ZERO));
        assert_eq!(connection.state(), SourceState::Starting { reason: None });
        for milliseconds in [100, 200, 400, 800, 1000, 1000] {
            connection.lose("refused".to_owned(), &name(), NOW);
            let (least, pause) =
                (Duration::from_millis(milliseconds), pause_until_retry(&connection, NOW));
            assert!(least <= pause && pause < least + least / 4, "{pause:?} for {least:?}");
        }
        let reason = Some("refused".to_owned());
        assert_eq!(connection.state(), SourceState::Starting { reason });
    }

    #[test]
    fn what_was_read_once_is_away_since_it_was_lost() {
        let mut connection = Connection::Current;
        assert_eq!((connection.is_current(), connection.retry_at()), (true, None));
        connection.lose("refused".to_owned(), &name(), NOW);
        let later = NOW.after(Duration::from_secs(9));
        connection.lose("timed out".to_owned(), &name(), later);
        let away = SourceState::Away { since: NOW, reason: "timed out".to_owned() };
        assert_eq!((connection.is_current(), connection.state()), (false, away));
    }

    #[test]
    fn what_is_to_be_read_again_is_tried_after_the_first_pause_whatever_failed_before() {
        let mut connection = Connection::Current;
        for _ in 0..5 {
            connection.lose("refused".to_owned(), &name(), Timestamp::ZERO);
        }
        connection.reread("compacted".to_owned(), NOW);
        assert_eq!(pause_until_retry(&connection, NOW), FIRST_PAUSE);
        let away = SourceState::Away { since: NOW, reason: "compacted".to_owned() };
        assert_eq!(connection.state(), away);
        connection.lose("refused".to_owned(), &name(), NOW);
        assert!(pause_until_retry(&connection, NOW) < FIRST_PAUSE * 2, "the pauses begin anew");
    }
}
