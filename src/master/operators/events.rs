//! What subscribers of the control socket are told of what happens.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};

use crate::control::Responder;
use crate::plan::{ClusterName, Generation};
use crate::protocol::{Event, EventRecord, Outcome, Refusal};

/// How many may listen at a time: each takes one of the connections of the control socket, of which
/// some have to be left for commands.
const SUBSCRIBERS: usize = 16;

/// The subscribers of the control socket.
#[derive(Debug)]
pub(crate) struct Subscribers {
    free: Arc<Semaphore>,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(SUBSCRIBERS)) }
    }
}

impl Subscribers {
    /// Tells a peer of everything that goes to `events` from now on, until the sender is dropped.
    /// Done by a task of its own, which alone waits while the peer is slow: what it has not taken
    /// when the queue of events is full it misses, and is told how much that was.
    pub(crate) fn add(
        &self,
        name: &ClusterName,
        generation: Generation,
        events: &Sender<Event>,
        responder: Responder,
    ) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            return responder.finish(Err(Refusal::TooManySubscribers { limit: SUBSCRIBERS }));
        };
        let (name, pid) = (name.clone(), std::process::id());
        let first = Event::Subscribed { name, pid, generation };
        let events = events.subscribe();
        tokio::spawn(async move {
            pass_on(first, events, responder).await;
            drop(permit);
        });
    }
}

async fn pass_on(first: Event, mut events: Receiver<Event>, responder: Responder) {
    let mut event = first;
    loop {
        for record in records(&event) {
            if !responder.event(record).await {
                return;
            }
        }
        event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(count)) => Event::Missed { count },
            Err(RecvError::Closed) => return responder.finish(Ok(Outcome::EventsOver)),
        };
    }
}

/// What is told of an event, as of now.
pub(super) fn records(event: &Event) -> Vec<EventRecord> {
    let time = unix_time();
    EventRecord::of(event).into_iter().map(|record| EventRecord { time, ..record }).collect()
}

/// Seconds since 1970, of a clock that may jump: for display alone.
fn unix_time() -> f64 {
    // A clock that stands before 1970 shows as that.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // As far as anybody reads.
    since.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests;
