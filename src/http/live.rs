//! The status and what happens, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::cache::StatusCache;
use super::source::{EventSource, StatusSource};
use super::sse;

/// From one status to the next, while nothing happens.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// How much of the status a client gets in one [`INTERVAL`]: of a large cluster it comes the more rarely.
const BYTES_PER_INTERVAL: usize = 64 * 1024;

/// A client that is told what happens.
pub(super) struct LiveStream {
    /// Where its frames go: one at a time, so that what it does not take is not kept for it.
    pub(super) frames: mpsc::Sender<Bytes>,
    /// Its place among those who are told.
    pub(super) place: OwnedSemaphorePermit,
}

impl LiveStream {
    /// Tells the client of each event at once, and of the status after each, and every second. Ends with
    /// the master, or when the client has taken nothing for as long as the limit says.
    pub(super) async fn serve<S: StatusSource>(self, cache: &StatusCache<S>) {
        let Self { frames, place } = self;
        let limits = cache.limits;
        let send = |frame: Bytes| {
            let frames = &frames;
            async move { matches!(timeout(limits.stall, frames.send(frame)).await, Ok(Ok(()))) }
        };
        let mut events = cache.source.events();
        let mut due = Instant::now();
        if !send(Bytes::from_static(b"retry: 1000\n\n")).await {
            return;
        }
        loop {
            tokio::select! {
                happened = events.next() => {
                    let Some(records) = happened else { break };
                    for record in &records {
                        if !send(sse::frame("happened", record)).await {
                            return;
                        }
                    }
                    // What happens is mostly not alone; and an answer that the cache still has may be
                    // from before it.
                    due = due.min(Instant::now() + limits.age + limits.age / 2);
                }
                () = sleep_until(due) => {
                    let Ok(frame) = cache.frame().await else { break };
                    due = cache.next_tick(interval(frame.len()));
                    if !send(frame).await {
                        return;
                    }
                }
            }
        }
        drop(place);
    }
}

/// How often a status of this many bytes is told.
fn interval(bytes: usize) -> Duration {
    let parts = u32::try_from(bytes.div_ceil(BYTES_PER_INTERVAL)).unwrap_or(u32::MAX);
    INTERVAL.saturating_mul(parts.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_status_is_told_more_rarely() {
        for (bytes, seconds) in [(0, 1), (64 << 10, 1), ((64 << 10) + 1, 2), (400 << 10, 7)] {
            assert_eq!(interval(bytes), Duration::from_secs(seconds), "{bytes}");
        }
    }
}
