//! Timers and channels that the loop waits for. All of them are cancel-safe: `select!` drops all branches
//! but one, and nothing is lost by that.

use std::future;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{self, Interval, MissedTickBehavior};

use crate::protocol::Timestamp;

/// From one look to the next at what has not changed of late and of which the kernel does not tell: what
/// workers print, and how many connections wait for them. All such looks are at
/// [whole multiples](next_multiple) of it, or of a multiple of it, so that they wake the process once together.
pub(super) const QUIET_INTERVAL: Duration = Duration::from_millis(600);

/// The next moment that is a whole multiple of `interval` after the boot of the machine.
pub(super) fn next_multiple(now: Timestamp, interval: Duration) -> Timestamp {
    let past = now.0.as_nanos().checked_rem(interval.as_nanos()).unwrap_or(0);
    let past = Duration::from_nanos(u64::try_from(past).unwrap_or(0));
    now.before(past).after(interval)
}

/// Work that is done again and again. The first time is at once, and a time that was missed is not
/// made up for.
#[derive(Debug)]
pub(super) struct Periodic {
    period: Duration,
    /// Made when it is first waited for: a timer belongs to a runtime.
    interval: Option<Interval>,
    /// It was not done yet.
    is_first: bool,
}

impl Periodic {
    pub(super) const fn every(period: Duration) -> Self {
        Self { period, interval: None, is_first: true }
    }

    /// From now on it is done this often. The next time is one such period from now if the period is another than
    /// before, and as it was otherwise.
    pub(super) fn set_period(&mut self, period: Duration) {
        if std::mem::replace(&mut self.period, period) != period {
            self.is_first = self.is_first && self.interval.is_none();
            self.interval = None;
        }
    }

    /// Waits until it is time.
    pub(super) async fn tick(&mut self) {
        let interval = self.interval.get_or_insert_with(|| {
            let first = match std::mem::replace(&mut self.is_first, false) {
                true => Duration::ZERO,
                false => self.period,
            };
            let mut interval = time::interval_at(time::Instant::now() + first, self.period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        interval.tick().await;
    }
}

/// Waits for a moment; for ever, if there is none.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at.into()).await,
        None => future::pending().await,
    }
}

/// Waits for a moment, unless it is over or there is none.
pub(super) async fn rest_until(at: Option<Instant>) {
    if let Some(at) = at.filter(|at| *at > Instant::now()) {
        time::sleep_until(at.into()).await;
    }
}

/// Waits for what comes next; for ever, if nothing ever will.
pub(super) async fn receive<T>(channel: &mut mpsc::UnboundedReceiver<T>) -> T {
    match channel.recv().await {
        Some(received) => received,
        None => future::pending().await,
    }
}

/// As [`receive`], of a channel that holds a limited number.
pub(super) async fn receive_bounded<T>(channel: &mut mpsc::Receiver<T>) -> T {
    match channel.recv().await {
        Some(received) => received,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_of_one_interval_fall_together_and_none_is_late() {
        let at = |milliseconds| Timestamp(Duration::from_millis(milliseconds));
        for (now, next) in [(0, 600), (1, 600), (599, 600), (600, 1200), (601, 1200)] {
            assert_eq!(next_multiple(at(now), QUIET_INTERVAL), at(next), "{now}");
        }
        let longer = next_multiple(at(601), 8 * QUIET_INTERVAL);
        assert_eq!(next_multiple(longer.before(Duration::from_millis(1)), QUIET_INTERVAL), longer);
    }
    #[tokio::test(start_paused = true)]
    async fn another_period_holds_from_now_on() {
        let began = time::Instant::now();
        let mut often = Periodic::every(Duration::from_millis(10));
        often.tick().await;
        often.tick().await;
        assert_eq!(began.elapsed().as_millis(), 10);
        often.set_period(Duration::from_millis(40));
        often.tick().await;
        often.set_period(Duration::from_millis(40));
        assert_eq!(began.elapsed().as_millis(), 50);
        often.tick().await;
        often.set_period(Duration::from_millis(10));
        often.tick().await;
        assert_eq!(began.elapsed().as_millis(), 100);
    }
}
