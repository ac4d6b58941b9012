//! Back-off after failures: when something is tried again, and when a seat is given up for a while.

use std::collections::VecDeque;
use std::time::Duration;

use crate::plan::Seat;
use crate::protocol::{Backoff, GiveUp, SeatBackoffSnapshot, Timestamp};

/// When something that keeps failing may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::supervisor) struct Retry {
    /// Failures in a row.
    pub(in crate::supervisor) failures: u32,
    /// No try before this.
    pub(in crate::supervisor) not_before: Timestamp,
}

impl Retry {
    /// Counts one more failure; returns the delay until the next try.
    pub(in crate::supervisor) fn failed(&mut self, backoff: &Backoff, now: Timestamp) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = backoff.delay(self.failures);
        self.not_before = now.after(delay);
        delay
    }
}

/// When a seat may have its next worker, after those that it has lost.
///
/// A seat that lost too many workers is given up for the length of the window that they were counted in.
/// Not for ever: what made them fail may have passed since (a full disk, a database that was away), and
/// nobody may be there to see it. The pause keeps the promise that there are never more spawns in any
/// window than the limit. A request of an operator ends it, since that may well be the cure.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct SeatBackoff {
    retry: Retry,
    /// When the last workers were lost, oldest first; no more than [`GiveUp::failures`].
    losses: VecDeque<Timestamp>,
    /// Until when the seat is given up; `None`: it is not.
    given_up_until: Option<Timestamp>,
}

/// When the next worker of a seat is spawned after a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum NextSpawn {
    /// After this delay.
    After(Duration),
    /// The seat is given up for this long.
    GiveUpFor(Duration),
}

impl SeatBackoff {
    /// What another master knew of it.
    pub(in crate::supervisor) fn restored(from: SeatBackoffSnapshot) -> Self {
        let SeatBackoffSnapshot { failures, not_before, losses, given_up_until, .. } = from;
        Self { retry: Retry { failures, not_before }, losses: losses.into(), given_up_until }
    }

    /// What the next master has to know of that of this seat.
    pub(in crate::supervisor) fn snapshot(&self, seat: Seat) -> SeatBackoffSnapshot {
        let Self { retry: Retry { failures, not_before }, losses, given_up_until } = self;
        SeatBackoffSnapshot {
            seat,
            failures: *failures,
            not_before: *not_before,
            losses: losses.iter().copied().collect(),
            given_up_until: *given_up_until,
        }
    }

    /// Counts the loss of a worker of the seat. A worker that had run steadily is replaced without delay,
    /// but counted: a seat whose workers live for a few seconds each is in a crash loop, too.
    pub(in crate::supervisor) fn lost(
        &mut self,
        was_steady: bool,
        backoff: &Backoff,
        give_up: Option<GiveUp>,
        now: Timestamp,
    ) -> NextSpawn {
        let delay = if was_steady {
            self.retry = Retry { failures: 0, not_before: now };
            Duration::ZERO
        } else {
            self.retry.failed(backoff, now)
        };
        self.given_up_until = None;
        let Some(give_up) = give_up else { return NextSpawn::After(delay) };
        let most = usize::try_from(give_up.failures.max(1)).unwrap_or(usize::MAX);
        self.losses.push_back(now);
        while self.losses.len() > most {
            self.losses.pop_front();
        }
        let first = self.losses.front().filter(|_| self.losses.len() == most);
        if first.is_some_and(|first| now.since(*first) < give_up.window) {
            let rest = give_up.window.max(delay);
            self.given_up_until = Some(now.after(rest));
            return NextSpawn::GiveUpFor(rest);
        }
        NextSpawn::After(delay)
    }

    /// No worker is spawned before this.
    pub(in crate::supervisor) fn not_before(&self) -> Timestamp {
        self.retry.not_before.max(self.given_up_until.unwrap_or_default())
    }

    /// Whether the seat is given up.
    pub(in crate::supervisor) fn is_given_up(&self, now: Timestamp) -> bool {
        self.given_up_until.is_some_and(|until| now < until)
    }

    /// Ends the pause and forgets the losses: an operator wants the seat tried again.
    pub(in crate::supervisor) fn reset(&mut self) {
        if self.given_up_until.take().is_some() {
            self.retry = Retry::default();
        }
        self.losses.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVE_UP: Option<GiveUp> = Some(GiveUp { failures: 3, window: Duration::from_secs(60) });
    const BACKOFF: Backoff = Backoff { min: SECOND, max: Duration::from_secs(30) };

    fn at(second: u64) -> Timestamp {
        Timestamp(Duration::from_secs(second))
    }

    /// What follows upon losses at these seconds.
    fn follows(respawn: &mut SeatBackoff, was_steady: bool, seconds: &[u64]) -> Vec<NextSpawn> {
        let lose = |second: &u64| respawn.lost(was_steady, &BACKOFF, GIVE_UP, at(*second));
        seconds.iter().map(lose).collect()
    }

    #[test]
    fn the_third_loss_within_a_minute_is_followed_by_a_rest_of_a_minute() {
        let mut respawn = SeatBackoff::default();
        let next = follows(&mut respawn, false, &[0, 30, 59]);
        assert_eq!(
            next,
            [
                NextSpawn::After(SECOND),
                NextSpawn::After(2 * SECOND),
                NextSpawn::GiveUpFor(60 * SECOND)
            ]
        );
        assert!(respawn.is_given_up(at(118)) && !respawn.is_given_up(at(119)));
        assert_eq!(respawn.not_before(), at(119));
        assert_eq!(follows(&mut respawn, false, &[119]), [NextSpawn::After(8 * SECOND)], "one try");
        assert!(!respawn.is_given_up(at(119)));
    }

    #[test]
    fn losses_that_lie_apart_are_followed_by_delays_alone() {
        let next = follows(&mut SeatBackoff::default(), false, &[0, 30, 60, 90]);
        assert!(next.iter().all(|next| matches!(next, NextSpawn::After(_))), "{next:?}");
    }

    #[test]
    fn steady_workers_count_without_delay() {
        let next = follows(&mut SeatBackoff::default(), true, &[0, 20, 40]);
        assert_eq!(
            next,
            [
                NextSpawn::After(Duration::ZERO),
                NextSpawn::After(Duration::ZERO),
                NextSpawn::GiveUpFor(60 * SECOND)
            ]
        );
    }

    #[test]
    fn a_request_ends_the_rest_and_the_count() {
        let mut respawn = SeatBackoff::default();
        follows(&mut respawn, false, &[0, 1, 2]);
        respawn.reset();
        assert_eq!((respawn.is_given_up(at(2)), respawn.not_before()), (false, Timestamp::ZERO));
        assert_eq!(
            follows(&mut respawn, false, &[3, 4]).last(),
            Some(&NextSpawn::After(2 * SECOND))
        );
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_retry_counts_from_the_failure() {
        let backoff = Backoff { min: SECOND, max: 30 * SECOND };
        let mut retry = Retry::default();
        assert_eq!(retry.failed(&backoff, Timestamp(5 * SECOND)), SECOND);
        assert_eq!(retry.failed(&backoff, Timestamp(7 * SECOND)), 2 * SECOND);
        assert_eq!(retry.not_before, Timestamp(9 * SECOND));
    }
}
