//! Events for the program that runs the master.

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, WeakSender};

use crate::protocol::Event;

/// What happens to a cluster, from [`Handle::subscribe`](super::handle::Handle::subscribe) on: workers
/// that get ready, die and retire, plans that come into force, repairs; and, while anybody is
/// subscribed, the memory of all workers every second ([`Event::Stats`]).
///
/// ```no_run
/// use ipcluster::master::{Event, Handle};
///
/// async fn count_deaths(handle: &Handle) -> u64 {
///     let mut events = handle.subscribe();
///     let mut deaths = 0;
///     while let Some(event) = events.next().await {
///         match event {
///             Event::Died { .. } => deaths += 1,
///             Event::Missed { count } => eprintln!("{count} events were missed"),
///             _ => {}
///         }
///     }
///     deaths
/// }
/// ```
#[derive(Debug)]
pub struct Subscription {
    /// `None`: the master has ended.
    events: Option<Receiver<Event>>,
}

impl Subscription {
    pub(super) fn to(events: &WeakSender<Event>) -> Self {
        Self { events: events.upgrade().map(|sender| sender.subscribe()) }
    }

    /// Waits for the next event; `None` when the master has ended. A subscriber that is more than 1,024
    /// events behind misses the oldest: [`Event::Missed`] tells how many.
    ///
    /// Nothing is lost if the future is dropped before it is done.
    pub async fn next(&mut self) -> Option<Event> {
        match self.events.as_mut()?.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(RecvError::Closed) => {
                self.events = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test]
    async fn it_ends_with_the_master_and_tells_what_was_missed() {
        let (sender, _) = broadcast::channel(2);
        let mut events = Subscription::to(&sender.downgrade());
        for workers in 1..=3 {
            sender.send(Event::NoneHealthy { workers }).unwrap();
        }
        assert_eq!(events.next().await, Some(Event::Missed { count: 1 }));
        assert_eq!(events.next().await, Some(Event::NoneHealthy { workers: 2 }));
        let weak = sender.downgrade();
        drop(sender);
        assert_eq!(events.next().await, Some(Event::NoneHealthy { workers: 3 }));
        assert_eq!(events.next().await, None);
        assert_eq!(events.next().await, None);
        assert_eq!(Subscription::to(&weak).next().await, None);
    }
}
