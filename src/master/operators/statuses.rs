//! Who asks for the status, and the counting of connections that it takes.
//!
//! To count them the kernel's list of all is read, and with [`Engine::Tproxy`](crate::plan::Engine) the
//! descriptors of all workers: that takes the longer the more there are, and in the loop a worker's death
//! would wait for it (`netns-tests/tests/cases/hostile_peers.rs`). One count serves all who have asked before it
//! began, so that nobody can have it done more than once at a time, however many ask.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::control::Responder;
use crate::master::background::BackgroundThread;
use crate::process::ProcessError;
use crate::supervisor::{Sockets, WorkerId};

/// What was counted.
pub(crate) type SocketCounts = Result<BTreeMap<WorkerId, Sockets>, ProcessError>;

pub(crate) struct Statuses {
    counter: BackgroundThread,
    counts: mpsc::UnboundedSender<SocketCounts>,
    /// Those for whom it counts; none: it does not.
    served: Vec<Responder>,
    /// Those who have asked since that began.
    waiting: Vec<Responder>,
}

impl Statuses {
    /// Counts by `counter`, and sends what was counted to `counts`.
    pub(crate) fn new(
        counter: BackgroundThread,
        counts: mpsc::UnboundedSender<SocketCounts>,
    ) -> Self {
        Self { counter, counts, served: Vec::new(), waiting: Vec::new() }
    }

    /// Somebody asks.
    pub(crate) fn add(&mut self, responder: Responder) {
        self.waiting.push(responder);
    }

    /// Whether it is time to [count](Self::count).
    pub(crate) fn is_due(&self) -> bool {
        self.served.is_empty() && !self.waiting.is_empty()
    }

    /// Has `job` count for all who wait.
    pub(crate) fn count(&mut self, job: impl FnOnce() -> SocketCounts + Send + 'static) {
        self.served.append(&mut self.waiting);
        let counts = self.counts.clone();
        self.counter.run(move || {
            // The loop has ended.
            let _ = counts.send(job());
        });
    }

    /// What it counted has come: those whom it is for.
    pub(crate) fn take_served(&mut self) -> Vec<Responder> {
        std::mem::take(&mut self.served)
    }

    /// All who have asked, and will have no answer of us.
    pub(crate) fn take_all(&mut self) -> Vec<Responder> {
        let Self { served, waiting, .. } = self;
        served.drain(..).chain(waiting.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ReceivedRequest;
    use crate::protocol::Request;

    fn responder() -> Responder {
        ReceivedRequest::new(Request::Status).0.responder
    }

    #[tokio::test]
    async fn one_count_serves_all_who_asked_before_it_began() {
        let (sender, mut counts) = mpsc::unbounded_channel();
        let mut statuses = Statuses::new(BackgroundThread::new("test").unwrap(), sender);
        assert!(!statuses.is_due());
        statuses.add(responder());
        statuses.add(responder());
        assert!(statuses.is_due());
        statuses.count(|| Ok(BTreeMap::from([(WorkerId(1), Sockets::default())])));
        statuses.add(responder());
        assert!(!statuses.is_due(), "one at a time");
        assert_eq!(counts.recv().await.unwrap().unwrap().len(), 1);
        assert_eq!(statuses.take_served().len(), 2);
        assert!(statuses.is_due(), "for the third");
        statuses.count(|| Ok(BTreeMap::new()));
        statuses.add(responder());
        assert_eq!(statuses.take_all().len(), 2);
        assert!(!statuses.is_due());
    }
}
