//! Back-off after failures: when something is tried again, and when a seat is given up for a while.
//!
//! | how a seat lost its worker | its next worker | counts |
//! |---|---|---|
//! | a live worker ended with status 0 | at once, but no sooner than [`Backoff::min`] after the start of the one that ended | no |
//! | it had been ready for [`Settings::steady`](crate::supervisor::Settings::steady) | at once | no; earlier failures are forgotten |
//! | any other | after a delay that doubles with each failure in a row | yes |
//!
//! A seat whose failures are too many in too short a time is given up for a while, but only as long as
//! another worker can serve its clients. While nobody can, every seat is tried again after its delay alone.

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
/// window than the limit. A request of an operator ends it, since that may well be the cure. It does not
/// hold while no worker of the cluster can serve: then whatever may bring one back is worth a try.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct SeatBackoff {
    retry: Retry,
    /// When the last workers were lost, oldest first; no more than [`GiveUp::failures`].
    losses: VecDeque<Timestamp>,
    /// Until when the seat is given up; `None`: it is not.
    given_up_until: Option<Timestamp>,
}

/// How a seat has lost its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum SeatLoss {
    /// The worker was live and ended with status 0, as a server does that serves a limited number of
    /// requests: it has not failed.
    Ended {
        /// When it was started.
        started: Timestamp,
    },
    /// It failed after it had run for long enough: no crash loop.
    SteadyFailure,
    /// It failed soon after its start, or before it was ready.
    Failure,
}

/// When the next worker of a seat is spawned after a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum NextSpawn {
    /// After this delay.
    After(Duration),
    /// The seat is given up.
    GiveUp {
        /// For this long, while another worker can serve.
        rest: Duration,
        /// The delay while none can.
        delay: Duration,
    },
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

    /// Takes in the loss of a worker of the seat.
    pub(in crate::supervisor) fn lost(
        &mut self,
        loss: SeatLoss,
        backoff: &Backoff,
        give_up: Option<GiveUp>,
        now: Timestamp,
    ) -> NextSpawn {
        let delay = match loss {
            SeatLoss::Ended { started } => {
                // A program that ends as soon as it listens must not keep a processor busy.
                self.retry.not_before = started.after(backoff.min).max(now);
                return NextSpawn::After(self.retry.not_before.since(now));
            }
            SeatLoss::SteadyFailure => {
                *self = Self::default();
                return NextSpawn::After(Duration::ZERO);
            }
            SeatLoss::Failure => self.retry.failed(backoff, now),
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
            return NextSpawn::GiveUp { rest, delay };
        }
        NextSpawn::After(delay)
    }

    /// No worker is spawned before this; `may_rest` is whether another worker can serve.
    pub(in crate::supervisor) fn not_before(&self, may_rest: bool) -> Timestamp {
        let rest = self.given_up_until.filter(|_| may_rest);
        self.retry.not_before.max(rest.unwrap_or_default())
    }

    /// Whether the seat is given up, as long as another worker can serve.
    pub(in crate::supervisor) fn is_given_up(&self, now: Timestamp) -> bool {
        self.given_up_until.is_some_and(|until| now < until)
    }

    /// Whether the seat was given up, and has not been tried again since.
    pub(in crate::supervisor) fn rests(&self) -> bool {
        self.given_up_until.is_some()
    }

    /// Ends every delay and forgets the losses: an operator wants the seat tried again.
    pub(in crate::supervisor) fn reset(&mut self) {
        *self = Self::default();
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
    fn follows(respawn: &mut SeatBackoff, loss: SeatLoss, seconds: &[u64]) -> Vec<NextSpawn> {
        let lose = |second: &u64| respawn.lost(loss, &BACKOFF, GIVE_UP, at(*second));
        seconds.iter().map(lose).collect()
    }

    #[test]
    fn the_third_loss_within_a_minute_is_followed_by_a_rest_of_a_minute() {
        let mut respawn = SeatBackoff::default();
        let next = follows(&mut respawn, SeatLoss::Failure, &[0, 30, 59]);
        assert_eq!(
            next,
            [
                NextSpawn::After(SECOND),
                NextSpawn::After(2 * SECOND),
                NextSpawn::GiveUp { rest: 60 * SECOND, delay: 4 * SECOND }
            ]
        );
        assert!(respawn.is_given_up(at(118)) && !respawn.is_given_up(at(119)));
        assert_eq!(respawn.not_before(true), at(119));
        assert_eq!(
            respawn.not_before(false),
            at(63),
            "while nobody serves the back-off alone counts"
        );
        assert_eq!(
            follows(&mut respawn, SeatLoss::Failure, &[119]),
            [NextSpawn::After(8 * SECOND)],
            "one try"
        );
        assert!(!respawn.is_given_up(at(119)));
    }

    #[test]
    fn a_rest_is_never_shorter_than_the_back_off() {
        let give_up = Some(GiveUp { failures: 3, window: 3 * SECOND });
        let mut respawn = SeatBackoff::default();
        let mut lose = |second| respawn.lost(SeatLoss::Failure, &BACKOFF, give_up, at(second));
        assert_eq!(lose(0), NextSpawn::After(SECOND));
        assert_eq!(lose(1), NextSpawn::After(2 * SECOND));
        assert_eq!(lose(2), NextSpawn::GiveUp { rest: 4 * SECOND, delay: 4 * SECOND });
        assert_eq!(respawn.not_before(true), at(6), "not at 5, when the window is over");
        assert!(respawn.is_given_up(at(5)) && !respawn.is_given_up(at(6)));
    }

    #[test]
    fn losses_that_lie_apart_are_followed_by_delays_alone() {
        let next = follows(&mut SeatBackoff::default(), SeatLoss::Failure, &[0, 30, 60, 90]);
        assert!(next.iter().all(|next| matches!(next, NextSpawn::After(_))), "{next:?}");
    }

    #[test]
    fn a_worker_that_ran_steadily_is_replaced_at_once_and_earlier_failures_are_forgotten() {
        let mut respawn = SeatBackoff::default();
        follows(&mut respawn, SeatLoss::Failure, &[0, 1]);
        let next = follows(&mut respawn, SeatLoss::SteadyFailure, &[11, 21, 31, 41]);
        assert_eq!(next, [NextSpawn::After(Duration::ZERO); 4]);
        assert_eq!(
            follows(&mut respawn, SeatLoss::Failure, &[42]),
            [NextSpawn::After(SECOND)],
            "the first failure of a new row"
        );
    }

    #[test]
    fn an_end_with_status_0_neither_counts_nor_forgets() {
        let mut respawn = SeatBackoff::default();
        follows(&mut respawn, SeatLoss::Failure, &[0]);
        for second in 2..9 {
            let ended = SeatLoss::Ended { started: at(second - 1) };
            let next = follows(&mut respawn, ended, &[second]);
            assert_eq!(next, [NextSpawn::After(Duration::ZERO)]);
        }
        assert_eq!(
            follows(&mut respawn, SeatLoss::Failure, &[9]),
            [NextSpawn::After(2 * SECOND)],
            "the second failure in a row"
        );
    }

    #[test]
    fn a_program_that_ends_as_soon_as_it_listens_is_started_once_a_second() {
        let ended = SeatLoss::Ended { started: at(5) };
        assert_eq!(
            follows(&mut SeatBackoff::default(), ended, &[5, 6, 7]),
            [SECOND, Duration::ZERO, Duration::ZERO].map(NextSpawn::After)
        );
    }

    #[test]
    fn a_request_ends_the_rest_and_the_count() {
        let mut respawn = SeatBackoff::default();
        follows(&mut respawn, SeatLoss::Failure, &[0, 1, 2]);
        respawn.reset();
        let not_before = respawn.not_before(true);
        assert_eq!((respawn.is_given_up(at(2)), not_before), (false, Timestamp::ZERO));
        assert_eq!(
            follows(&mut respawn, SeatLoss::Failure, &[3, 4]).last(),
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
