//! Counting the connections that retired and ended workers still have, in a thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::counting::{CountError, CountedWorkers, count_all};
use super::draining::Draining;
use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::log_limit::LogLimiter;
use crate::master::waiting::{Periodic, receive};
use crate::plan::Port;
use crate::process::OwnConnections;
use crate::protocol::WorkerId;
use crate::supervisor::{Input, Sockets, Supervisor};

/// How often connections are counted.
const INTERVAL: Duration = Duration::from_millis(100);

/// The sockets of workers, if they could be counted.
pub(crate) type Counts = Result<BTreeMap<WorkerId, Sockets>, CountError>;

/// Counts connections, and knows which ports they keep from being given out again.
pub(super) struct Connections {
    draining: Draining,
    /// The connections that the master makes itself: nobody waits on them.
    own: Arc<OwnConnections>,
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<Counts>,
    counts: mpsc::UnboundedReceiver<Counts>,
    due: Periodic,
    failures: LogLimiter,
    idle: IdleLooks,
}

/// When it is looked for how long the connections of retired workers have been silent.
#[derive(Debug)]
struct IdleLooks {
    /// `retire.idle`.
    limit: Option<Duration>,
    not_before: Option<Instant>,
}

impl IdleLooks {
    /// The limit, if it is time for a look: four times within it.
    fn begin(&mut self, now: Instant) -> Option<Duration> {
        let limit = self.limit.filter(|_| self.not_before.is_none_or(|at| at <= now))?;
        self.not_before = now.checked_add(limit / 4);
        Some(limit)
    }
}

impl Connections {
    /// `idle` is `retire.idle`; `own` are the connections that the master makes itself.
    pub(super) fn new(
        idle: Option<Duration>,
        own: Arc<OwnConnections>,
    ) -> Result<Self, MasterError> {
        let (sender, counts) = mpsc::unbounded_channel();
        Ok(Self {
            draining: Draining::default(),
            own,
            thread: BackgroundThread::new("drain-counter")?,
            sender,
            counts,
            due: Periodic::every(INTERVAL),
            failures: LogLimiter::default(),
            idle: IdleLooks { limit: idle, not_before: None },
        })
    }

    /// Two things to wait for: the end of a count, and the time for the next one.
    pub(super) fn wait(&mut self) -> (impl Future<Output = Counts>, impl Future<Output = ()>) {
        (receive(&mut self.counts), self.due.tick())
    }

    /// Begins a count, if it is time for one. `retired` are workers that are retired or have left
    /// listening sockets.
    pub(super) fn count(&mut self, retired: CountedWorkers, supervisor: &Supervisor) {
        let settled = supervisor.workers().filter(|worker| worker.is_settled());
        let settled = settled.map(|worker| worker.id).collect();
        let (now, own) = (Instant::now(), Arc::clone(&self.own));
        let began = self.draining.begin(retired, settled, supervisor.plan(), own, now);
        let Some(mut wanted) = began else { return };
        wanted.idle = if wanted.settled.is_empty() { None } else { self.idle.begin(now) };
        let sender = self.sender.clone();
        self.thread.run(move || {
            // The loop has ended.
            let _ = sender.send(count_all(&wanted));
        });
    }

    /// Ends a count.
    pub(super) fn end(&mut self) {
        self.draining.end(Instant::now());
    }

    /// What the supervisor is to know of a count.
    pub(super) fn inputs(&mut self, counts: Counts) -> VecDeque<Input> {
        match counts {
            Ok(counts) => {
                let input = |(worker, sockets)| Input::Connections { worker, sockets };
                counts.into_iter().map(input).collect()
            }
            Err(error) => {
                if let Some(suppressed) = self.failures.allow(Instant::now()) {
                    tracing::warn!(%error, suppressed, "cannot count connections of retired workers");
                }
                VecDeque::new()
            }
        }
    }

    /// Takes in a worker whose first process has ended.
    pub(super) fn ended(&mut self, worker: WorkerId, ports: Arc<[Port]>) {
        self.draining.insert(worker, ports);
    }

    /// Takes note that no process of a worker is left.
    pub(super) fn reaped(&mut self, worker: WorkerId) {
        self.draining.reaped(worker);
    }

    /// Takes out the workers whose ports no connection keeps any more.
    pub(super) fn take_free(&mut self) -> Vec<WorkerId> {
        self.draining.take_free()
    }

    /// Whether a worker that has ended waits to be counted.
    pub(super) fn has_gone(&self) -> bool {
        self.draining.has_gone()
    }

    /// Whether the port was one of a worker that has ended, and may not be another's yet.
    pub(super) fn hold(&self, port: Port) -> bool {
        self.draining.holds(port)
    }
}
