//! Who asks for the status, and the counting of connections that it takes.
//!
//! To count them the kernel's list of all is read, and with [`Engine::Tproxy`](crate::plan::Engine) the
//! descriptors of all workers: that takes the longer the more there are, and in the loop a worker's death
//! would wait for it (`netns-tests/tests/cases/hostile_peers.rs`). One count serves all who have asked before it
//! began, so that nobody can have it done more than once at a time, however many ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::Responder;
use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::rules::SourceLoad;
use crate::master::waiting::receive;
use crate::process::{ProcessError, ProcessorWatch};
use crate::protocol::WorkerId;
use crate::supervisor::Sockets;

/// The connections that were counted.
pub(crate) type ConnectionCounts = Result<WorkerConnections, ProcessError>;

/// The connections of workers.
#[derive(Debug, Default)]
pub(crate) struct WorkerConnections {
    pub(crate) by_worker: BTreeMap<WorkerId, Sockets>,
    /// The sources that have many of those of a seat.
    pub(crate) source_loads: Vec<SourceLoad>,
}

/// What was looked up for those who want the status.
pub(crate) struct StatusCounts {
    pub(crate) connections: ConnectionCounts,
    /// The processor time of workers, by the pid of their first process.
    pub(crate) processor: BTreeMap<u32, Duration>,
}

/// The requests for the status.
pub(super) struct StatusRequests {
    counter: BackgroundThread,
    /// Locked by the thread alone, whose jobs come one after the other.
    processor: Arc<Mutex<ProcessorWatch>>,
    sender: mpsc::UnboundedSender<StatusCounts>,
    counts: mpsc::UnboundedReceiver<StatusCounts>,
    /// Requests that the count under way is for; empty while none is.
    served: Vec<Responder>,
    /// Requests that have come since that count began.
    waiting: Vec<Responder>,
    /// Whether the master itself wants to know, and whether a count is under way.
    is_wanted: bool,
    is_counting: bool,
}

impl StatusRequests {
    pub(super) fn new() -> Result<Self, MasterError> {
        let (sender, counts) = mpsc::unbounded_channel();
        let counter = BackgroundThread::new("status-counter")?;
        let processor = Arc::default();
        let (served, waiting) = (Vec::new(), Vec::new());
        let (is_wanted, is_counting) = (false, false);
        Ok(Self { counter, processor, sender, counts, served, waiting, is_wanted, is_counting })
    }

    /// Waits for what was counted.
    pub(super) async fn counted(&mut self) -> StatusCounts {
        receive(&mut self.counts).await
    }

    /// Somebody asks.
    pub(super) fn add(&mut self, responder: Responder) {
        self.waiting.push(responder);
    }

    /// The master itself wants a count.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Whether it is time to [count](Self::count).
    pub(super) fn is_due(&self) -> bool {
        !self.is_counting && (self.is_wanted || !self.waiting.is_empty())
    }

    /// Has `job` count for all who wait, and looks up the processor time of the workers with these first
    /// processes.
    pub(super) fn count(
        &mut self,
        leaders: Vec<u32>,
        job: impl FnOnce() -> ConnectionCounts + Send + 'static,
    ) {
        self.served.append(&mut self.waiting);
        (self.is_wanted, self.is_counting) = (false, true);
        let (sender, processor) = (self.sender.clone(), Arc::clone(&self.processor));
        self.counter.run(move || {
            let connections = job();
            // What a panic may have left is no more than an incomplete list.
            let processor = processor.lock().unwrap_or_else(PoisonError::into_inner).look(&leaders);
            // The loop has ended.
            let _ = sender.send(StatusCounts { connections, processor });
        });
    }

    /// Takes out the requests that the finished count was for.
    pub(super) fn take_served(&mut self) -> Vec<Responder> {
        self.is_counting = false;
        std::mem::take(&mut self.served)
    }

    /// All who have asked, and will have no answer of us.
    pub(super) fn take_all(&mut self) -> Vec<Responder> {
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
        let mut statuses = StatusRequests::new().unwrap();
        assert!(!statuses.is_due());
        statuses.add(responder());
        statuses.add(responder());
        assert!(statuses.is_due());
        let own = std::process::id();
        statuses.count(vec![own], || {
            let by_worker = BTreeMap::from([(WorkerId(1), Sockets::default())]);
            Ok(WorkerConnections { by_worker, ..Default::default() })
        });
        statuses.add(responder());
        assert!(!statuses.is_due(), "one at a time");
        assert_eq!(statuses.counted().await.connections.unwrap().by_worker.len(), 1);
        assert_eq!(statuses.take_served().len(), 2);
        assert!(statuses.is_due(), "for the third");
        statuses.count(Vec::new(), || Ok(WorkerConnections::default()));
        statuses.add(responder());
        assert_eq!(statuses.take_all().len(), 2);
        assert!(!statuses.is_due());
    }
}
