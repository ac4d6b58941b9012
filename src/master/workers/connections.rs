//! Counting the connections that retired and ended workers still have, in a thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::counted::CountedWorkers;
use super::counting::{CountError, count_all};
use super::draining::{Draining, Due, rest_after};
use super::handshakes::Handshakes;
use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::log_limit::LogLimiter;
use crate::master::waiting::{receive, rest_until};
use crate::plan::Port;
use crate::process::OwnConnections;
use crate::protocol::WorkerId;
use crate::supervisor::{Input, Sockets, Supervisor};

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
    /// What the count under way has to do with: workers, and which of them are settled.
    under_way: (CountedWorkers, BTreeSet<WorkerId>),
    failures: LogLimiter,
    idle: IdleLooks,
    entries: EntryLooks,
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

/// When it is looked whether conntrack has entries of the connections of retired workers. It takes the
/// kernel up to a second where the table is full: at most a fiftieth of the time goes into it.
#[derive(Debug, Default)]
struct EntryLooks {
    began: Option<Instant>,
    not_before: Option<Instant>,
}

impl EntryLooks {
    const INTERVAL: Duration = Duration::from_secs(1);
    const PAUSE: u32 = 49;

    /// Whether it is time for a look.
    fn begin(&mut self, now: Instant) -> bool {
        let is_time = self.not_before.is_none_or(|at| at <= now);
        self.began = is_time.then_some(now);
        is_time
    }

    fn end(&mut self, now: Instant) {
        let Some(began) = self.began.take() else { return };
        let pause = now.duration_since(began).saturating_mul(Self::PAUSE).max(Self::INTERVAL);
        self.not_before = now.checked_add(pause);
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
            under_way: Default::default(),
            failures: LogLimiter::default(),
            idle: IdleLooks { limit: idle, not_before: None },
            entries: EntryLooks::default(),
        })
    }

    /// `retire.idle` from now on.
    pub(super) fn set_idle(&mut self, idle: Option<Duration>) {
        self.idle.limit = idle;
    }

    /// Two things to wait for: the end of a count, and the time for the next one. `newest` is the moment in which a
    /// worker was last retired.
    pub(super) fn wait(
        &mut self,
        newest: Option<Instant>,
    ) -> (impl Future<Output = Counts>, impl Future<Output = ()>) {
        let due = self.draining.due(newest);
        let is_time = async move {
            match due {
                Due::At(at) => rest_until(at).await,
                Due::Never => future::pending().await,
            }
        };
        (receive(&mut self.counts), is_time)
    }

    /// Whether it is time for a [count](Self::count).
    pub(super) fn may_count(&self, newest: Option<Instant>) -> bool {
        match self.draining.due(newest) {
            Due::At(at) => at.is_none_or(|at| at <= Instant::now()),
            Due::Never => false,
        }
    }

    /// Begins a count, for which it [is time](Self::may_count). `retired` are workers that are retired or have
    /// left listening sockets.
    pub(super) fn count(&mut self, retired: CountedWorkers, supervisor: &Supervisor) {
        let settled = supervisor.workers().filter(|worker| worker.is_settled());
        let settled: BTreeSet<WorkerId> = settled.map(|worker| worker.id).collect();
        self.under_way = (retired.clone(), settled.clone());
        let (now, own) = (Instant::now(), Arc::clone(&self.own));
        let mut wanted = self.draining.begin(retired, settled, supervisor.plan(), own, now);
        if !wanted.settled.is_empty() {
            wanted.idle = self.idle.begin(now);
            wanted.entries = self.entries.begin(now);
        }
        let sender = self.sender.clone();
        self.thread.run(move || {
            // The loop has ended.
            let _ = sender.send(count_all(&wanted));
        });
    }

    /// What is known of handshakes under way, for a count of another kind.
    pub(super) fn handshakes(&self) -> Handshakes {
        self.draining.handshakes()
    }

    /// Ends a count.
    pub(super) fn end(&mut self, counts: &Counts) {
        let now = Instant::now();
        let (retired, settled) = std::mem::take(&mut self.under_way);
        let none = BTreeMap::new();
        // After one that failed nothing is known.
        let counts = counts.as_ref().unwrap_or(&none);
        self.draining.end(rest_after(counts, &retired, &settled, self.idle.limit), now);
        self.entries.end(now);
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
