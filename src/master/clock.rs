//! The clock of a master: the time that the supervisor counts in, and waiting for moments of it.

use std::future;
use std::io;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::waiting;
use crate::process::Timer;
use crate::protocol::Timestamp;

/// The clock of the machine that never goes back (`CLOCK_MONOTONIC`, clock_gettime(2)). All masters of a
/// machine have the same one, so that the timestamps of one mean the same to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock;

impl Clock {
    pub(super) fn now(self) -> Timestamp {
        let now = clock_gettime(ClockId::Monotonic);
        // Neither is negative: the clock begins with the boot.
        let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
        Timestamp(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
    }

    /// Waits for a moment; for ever, if there is none.
    pub(super) async fn sleep_until(self, deadline: Option<Timestamp>) {
        // An `Instant` is of the same clock, but does not tell its time.
        let at = deadline.and_then(|at| Instant::now().checked_add(at.since(self.now())));
        waiting::sleep_until(at).await;
    }
}

/// Waits for times that come again and again while nothing else happens.
///
/// Where the kernel has no [timer](Timer) left for it, it waits with those of tokio.
#[derive(Debug, Default)]
pub(super) struct QuietTimer {
    /// Made when it is first waited for: it belongs to a runtime.
    timer: Option<io::Result<Timer>>,
}

impl QuietTimer {
    /// Waits for a moment; for ever, if there is none.
    pub(super) async fn wait_until(&mut self, at: Option<Timestamp>) {
        let Some(at) = at else { return future::pending().await };
        let timer = self.timer.get_or_insert_with(Timer::new);
        if let Ok(timer) = timer
            && timer.wait_until(at.0).await.is_ok()
        {
            return;
        }
        Clock.sleep_until(Some(at)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moment_is_over_when_it_was_waited_for() {
        let began = Clock.now();
        let at = began.after(Duration::from_millis(20));
        Clock.sleep_until(Some(at)).await;
        assert!(Clock.now() >= at, "{:?} is before {at:?}", Clock.now());
        Clock.sleep_until(Some(began)).await;
    }
}
