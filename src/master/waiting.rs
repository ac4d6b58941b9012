//! Timers and channels that the loop waits for. All of them are cancel-safe: `select!` drops all branches
//! but one, and nothing is lost by that.

use std::future;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{self, Interval, MissedTickBehavior};

/// Work that is done again and again. The first time is at once, and a time that was missed is not
/// made up for.
#[derive(Debug)]
pub(super) struct Periodic {
    period: Duration,
    /// Made when it is first waited for: a timer belongs to a runtime.
    interval: Option<Interval>,
}

impl Periodic {
    pub(super) const fn every(period: Duration) -> Self {
        Self { period, interval: None }
    }

    /// Waits until it is time.
    pub(super) async fn tick(&mut self) {
        let interval = self.interval.get_or_insert_with(|| {
            let mut interval = time::interval(self.period);
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
