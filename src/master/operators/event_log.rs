//! Events of the cluster: written to the log, sent to subscribers, counted in the metrics.

use tokio::sync::broadcast;

use super::events::Subscribers;
use super::metrics::Metrics;
use crate::control::Responder;
use crate::master::clock::Clock;
use crate::plan::{ClusterName, Generation};
use crate::protocol::{Event, Exit, FindingSeverity};

/// Events that a slow subscriber may be behind before it misses some.
const QUEUE: usize = 1024;

/// Tells of what happens.
pub(super) struct EventLog {
    sender: broadcast::Sender<Event>,
    subscribers: Subscribers,
    metrics: Metrics,
    /// What workers print comes to the same place as the log: there it is read once.
    is_beside_output: bool,
    /// The generation of which every seat has been seen to have a worker.
    all_ready: Option<Generation>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        let sender = broadcast::channel(QUEUE).0;
        let (subscribers, metrics) = (Subscribers::default(), Metrics::default());
        Self { sender, subscribers, metrics, is_beside_output: false, all_ready: None }
    }

    /// Says whether what workers print comes to the same place as the log.
    pub(super) fn beside_output(self, is_beside_output: bool) -> Self {
        Self { is_beside_output, ..self }
    }

    /// Where events come from, until [`Self::end`].
    pub(super) fn sender(&self) -> broadcast::WeakSender<Event> {
        self.sender.downgrade()
    }

    /// Whether anybody is subscribed.
    pub(super) fn has_subscribers(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells a peer of the control socket what happens from now on.
    pub(super) fn add(&self, name: &ClusterName, generation: Generation, responder: Responder) {
        self.subscribers.add(name, generation, &self.sender, responder);
    }

    /// Tells all that something happened.
    pub(super) fn announce(&mut self, event: Event) {
        self.metrics.note(&event, Clock.now());
        match event.without_lines().filter(|_| self.is_beside_output) {
            Some(shorter) => log(&shorter),
            None => log(&event),
        }
        let all_ready = self.note_all_ready(&event);
        // Nobody listens.
        let _ = self.sender.send(event);
        if let Some(event) = all_ready {
            self.announce(event);
        }
    }

    /// What follows from this event if with it, for the first time, every seat has a worker.
    fn note_all_ready(&mut self, event: &Event) -> Option<Event> {
        let Event::InForce { generation, occupied, seats, .. } = *event else { return None };
        let is_news = occupied == seats && self.all_ready != Some(generation);
        is_news.then(|| {
            self.all_ready = Some(generation);
            Event::AllReady { generation, seats }
        })
    }

    /// Tells those who listen that nothing follows.
    pub(super) fn end(&mut self) {
        self.sender = broadcast::channel(1).0;
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// Writes an event to the log. An event that an operator should look at is a warning; one that costs
/// clients something, or needs an operator, is an error.
fn log(event: &Event) {
    match event {
        Event::FindingAppeared(finding) if finding.severity != FindingSeverity::Notice => {
            tracing::warn!("{event}");
        }
        // It has ended by itself, and its seat gets another at once.
        Event::Died { exit: Exit::Code(0), .. } => tracing::info!("{event}"),
        Event::Ended { asked: false, exit: Exit::Code(1..) | Exit::Signal(_), .. } => {
            tracing::warn!("{event}");
        }
        Event::Failed(_)
        | Event::Died { .. }
        | Event::Killed { .. }
        | Event::RetirementsHeldBack { .. }
        | Event::LowWatermark { .. }
        | Event::HighWatermark { .. }
        | Event::Unproven { .. }
        | Event::Unhealthy { .. }
        | Event::Stopping { .. }
        | Event::DrainerStarted { .. }
        | Event::Orphan { .. }
        | Event::FleetTrouble { .. }
        | Event::Returned { .. }
        | Event::ForeignNatFound { .. } => {
            tracing::warn!("{event}");
        }
        Event::Repaired { held_back, .. } if held_back.is_zero() => {
            tracing::warn!("{event}");
        }
        Event::QueueLost { .. }
        | Event::CommitFailed { .. }
        | Event::Repaired { .. }
        | Event::RepairFailed { .. }
        | Event::GivenUp { .. }
        | Event::ProbationFailed { .. }
        | Event::MemoryShort { .. }
        | Event::NoneHealthy { .. } => tracing::error!("{event}"),
        Event::Stats(_) => tracing::trace!("{event}"),
        Event::AllReady { .. } => tracing::debug!("{event}"),
        _ => tracing::info!("{event}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn that_all_seats_have_workers_is_told_once_for_each_generation() {
        let mut log = EventLog::new();
        let mut events = log.sender().upgrade().expect("the log has it").subscribe();
        for (generation, occupied) in [(1, 3), (1, 4), (1, 3), (1, 4), (2, 4), (2, 4)] {
            let (generation, took) = (Generation(generation), Duration::ZERO);
            log.announce(Event::InForce { generation, occupied, seats: 4, took });
        }
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let Event::AllReady { generation, seats } = event {
                told.push((generation, seats));
            }
        }
        assert_eq!(told, [(Generation(1), 4), (Generation(2), 4)]);
    }
}
