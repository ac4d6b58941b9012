//! The status for all who ask within a short time, and the clock of those who see it change.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::limits::HttpLimits;
use super::source::StatusSource;
use super::sse;
use crate::protocol::{Refusal, Status};

/// The last status that the source gave.
pub(super) struct StatusCache<S> {
    pub(super) source: S,
    pub(super) limits: HttpLimits,
    /// When the server began: ticks of all clients are counted from then, so that one status is enough for
    /// all.
    began: Instant,
    /// The last one, and when it was asked for. Locked while the next one is asked for.
    last: Mutex<Option<(Instant, Arc<Cached>)>>,
}

/// A status, and its form for those who are told of it as it changes.
pub(super) struct Cached {
    pub(super) status: Status,
    frame: OnceLock<Bytes>,
}

impl<S: StatusSource> StatusCache<S> {
    /// Has no status yet.
    pub(super) fn new(source: S, limits: HttpLimits) -> Self {
        Self { source, limits, began: Instant::now(), last: Mutex::new(None) }
    }

    /// The status as it is told to those who see it change.
    pub(super) async fn frame(&self) -> Result<Bytes, Refusal> {
        let cached = self.now().await?;
        Ok(cached.frame.get_or_init(|| sse::frame("status", &cached.status)).clone())
    }

    /// The next of the moments that are so far apart, the same for all clients.
    pub(super) fn next_tick(&self, interval: Duration) -> Instant {
        let nanos = interval.as_nanos().max(1);
        let left = nanos - self.began.elapsed().as_nanos() % nanos;
        Instant::now() + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
    }

    /// A status that is not older than the limit says.
    pub(super) async fn now(&self) -> Result<Arc<Cached>, Refusal> {
        let mut last = self.last.lock().await;
        if let Some((asked, cached)) = &*last
            && asked.elapsed() < self.limits.age
        {
            return Ok(Arc::clone(cached));
        }
        let asked = Instant::now();
        let status = self.source.status().await?;
        let cached = Arc::new(Cached { status, frame: OnceLock::new() });
        *last = Some((asked, Arc::clone(&cached)));
        Ok(cached)
    }
}
