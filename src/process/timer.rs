use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// A timer of the kernel's (timerfd_create(2)), for what is waited for all the time.
///
/// It wakes the process once, at the time that it is set for. The timers of tokio take two or three wake-ups for
/// a time that is further away than 64 ms (its wheel has slots of 1, 64, 4096 ms and so on, from each of which a
/// timer moves to the finer one when that is reached), and a write to a descriptor of its own whenever one is set.
#[derive(Debug)]
pub(crate) struct Timer {
    descriptor: AsyncFd<OwnedFd>,
    /// What it is set for, until it was seen to be over.
    at: Option<Duration>,
}

impl Timer {
    /// A timer of the runtime that this is called in.
    ///
    /// # Errors
    /// No descriptor or no memory is left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { descriptor: sys::watch_readable(descriptor)?, at: None })
    }

    /// Waits until `CLOCK_MONOTONIC` is at `at`. Nothing is lost when this is dropped, and waited for again.
    ///
    /// # Errors
    /// The runtime ends.
    pub(crate) async fn wait_until(&mut self, at: Duration) -> io::Result<()> {
        if self.at != Some(at) {
            self.set(at)?;
        }
        loop {
            let mut ready = self.descriptor.readable().await?;
            // Read, so that it is not ready for an earlier time that it was set for.
            let is_over = rustix::io::read(ready.get_inner(), &mut [0; 8]).is_ok();
            ready.clear_ready();
            if is_over {
                self.at = None;
                return Ok(());
            }
        }
    }

    fn set(&mut self, at: Duration) -> io::Result<()> {
        // Zero would stop it.
        let at_least = at.max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(at_least).map_err(|_| io::ErrorKind::InvalidInput)?;
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        self.at = Some(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};
    use tokio::time::timeout;

    use super::*;

    fn now() -> Duration {
        Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap()
    }

    #[tokio::test]
    async fn it_is_over_at_its_time_and_not_before_and_can_be_set_anew() {
        let mut timer = Timer::new().unwrap();
        for _ in 0..3 {
            let at = now() + Duration::from_millis(20);
            timer.wait_until(at).await.unwrap();
            assert!(now() >= at);
        }
        timer.wait_until(now()).await.unwrap();
        timer.wait_until(Duration::ZERO).await.unwrap();

        let later = now() + Duration::from_secs(3600);
        let dropped = timeout(Duration::from_millis(20), timer.wait_until(later)).await;
        assert!(dropped.is_err(), "an hour is not over");
        let at = now() + Duration::from_millis(20);
        timer.wait_until(at).await.unwrap();
        assert!(now() >= at, "the earlier one of two counts");

        // One that was over, but not seen to be.
        let at = now() + Duration::from_millis(5);
        let dropped = timeout(Duration::ZERO, timer.wait_until(at)).await;
        assert!(dropped.is_err());
        std::thread::sleep(Duration::from_millis(10));
        tokio::task::yield_now().await;
        let dropped = timeout(Duration::from_millis(50), timer.wait_until(later)).await;
        assert!(dropped.is_err(), "it is set for later");
    }
}
