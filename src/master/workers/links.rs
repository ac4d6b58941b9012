//! The connections of workers to the control socket: what workers tell there, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::early_joins::EarlyJoins;
use crate::control::{JoinRequest, PeerEvent, WorkerEvent, WorkerLink, WorkerOrder};
use crate::master::clock::Clock;
use crate::master::log_limit::LogLimiter;
use crate::master::waiting::receive_bounded;
use crate::plan::Port;
use crate::process::PidFd;
use crate::protocol::{Timestamp, WorkerData, WorkerId};
use crate::supervisor::Input;

/// How many messages of workers wait for the loop before their connections wait.
const QUEUE: usize = 256;

/// The least time between two log lines about processes that were refused.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// The connections of workers.
pub(super) struct WorkerLinks {
    sender: mpsc::Sender<WorkerEvent>,
    events: mpsc::Receiver<WorkerEvent>,
    connected: BTreeMap<WorkerId, Connected>,
    /// Workers whose connection has ended, and when.
    disconnected: BTreeMap<WorkerId, Timestamp>,
    /// The disconnected workers that were reported not to answer.
    silent: BTreeSet<WorkerId>,
    /// How long a worker may be without a connection; `None`: for ever.
    ping: Option<Duration>,
    last_token: u64,
    refusals: LogLimiter,
    early: EarlyJoins<JoinRequest>,
    /// Why workers have asked for their retirement, until that is told.
    retire_reasons: BTreeMap<WorkerId, (String, Option<WorkerData>)>,
}

struct Connected {
    link: WorkerLink,
    /// The process that has connected.
    process: PidFd,
}

impl Connected {
    /// Whether nobody is at the other end: it was closed, or who had opened it has ended and left it
    /// to another.
    fn is_gone(&self) -> bool {
        self.link.is_gone() || self.process.has_exited().unwrap_or(false)
    }
}

/// Something that happened to the connections of workers.
pub(crate) enum LinkEvent {
    Link(WorkerEvent),
    /// A worker has been without a connection for too long.
    Missed,
}

/// News of a worker, and who is to know it.
pub(crate) enum LinkNews {
    /// To the supervisor.
    Input(Input),
    /// To the health monitor: whether it answers.
    Answers { worker: WorkerId, answers: bool },
}

impl WorkerLinks {
    pub(super) fn new(ping: Option<Duration>) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        Self {
            sender,
            events,
            connected: BTreeMap::new(),
            disconnected: BTreeMap::new(),
            silent: BTreeSet::new(),
            ping,
            last_token: 0,
            refusals: LogLimiter::every(REFUSAL_INTERVAL),
            early: EarlyJoins::new(),
            retire_reasons: BTreeMap::new(),
        }
    }

    /// Where a server sends what comes from workers.
    pub(super) fn sender(&self) -> mpsc::Sender<WorkerEvent> {
        self.sender.clone()
    }

    /// Takes in nothing more.
    pub(super) fn close(&mut self) {
        self.events.close();
        self.early.clear();
    }

    /// Waits for what comes next.
    pub(super) async fn next(&mut self, clock: Clock) -> LinkEvent {
        if let Some(request) = self.early.next() {
            return LinkEvent::Link(WorkerEvent::JoinRequested(request));
        }
        let deadline = self.deadline();
        tokio::select! {
            biased;
            event = receive_bounded(&mut self.events) => LinkEvent::Link(event),
            () = clock.sleep_until(deadline) => LinkEvent::Missed,
        }
    }

    /// When a worker that has no connection counts as silent.
    fn deadline(&self) -> Option<Timestamp> {
        let limit = self.ping?;
        let waits = self.disconnected.iter().filter(|(worker, _)| !self.silent.contains(worker));
        waits.map(|(_, at)| at.after(limit)).min()
    }

    /// A worker reconnects at once; one that does not, though its process lives, is silent.
    pub(super) fn take_missed(&mut self, now: Timestamp) -> Vec<LinkNews> {
        let Some(limit) = self.ping else { return Vec::new() };
        let Self { disconnected, silent, .. } = self;
        let over = disconnected.iter().filter(|(_, at)| at.after(limit) <= now);
        over.map(|(worker, _)| *worker)
            .filter(|worker| silent.insert(*worker))
            .map(|worker| LinkNews::Answers { worker, answers: false })
            .collect()
    }

    /// Lets a worker join, of which `process` has connected. `ports` are its ports, if they were not known
    /// before.
    pub(super) fn join(
        &mut self,
        worker: WorkerId,
        process: PidFd,
        ports: Option<Arc<[Port]>>,
        request: JoinRequest,
    ) -> Vec<LinkNews> {
        let mut news = Vec::new();
        if let Some(ports) = ports {
            news.push(LinkNews::Input(Input::PortsReported { worker, ports }));
        }
        let knows_retired = request.info.is_retired;
        self.last_token += 1;
        let link = request.accept(self.last_token);
        self.connected.insert(worker, Connected { link, process });
        self.disconnected.remove(&worker);
        news.push(LinkNews::Input(Input::LinkOpened { worker, knows_retired }));
        if self.silent.remove(&worker) {
            news.push(LinkNews::Answers { worker, answers: true });
        }
        news
    }

    /// Keeps the request of a process that may be of a worker whose start is not known yet; refuses it, if too
    /// many wait.
    pub(super) fn keep(&mut self, refusal: &dyn Error, request: JoinRequest) {
        if let Err(request) = self.early.keep(request) {
            self.refuse(refusal, request);
        }
    }

    /// A start has succeeded or failed.
    pub(super) fn start_is_known(&mut self) {
        self.early.start_is_known();
    }

    /// Tells a process that it may not join, and why.
    pub(super) fn refuse(&mut self, refusal: &dyn Error, request: JoinRequest) {
        if let Some(suppressed) = self.refusals.allow(Instant::now()) {
            tracing::warn!(reason = %refusal, suppressed, "a worker's connection was refused");
        }
        request.refuse(refusal.to_string());
    }

    /// Takes in that a connection has ended.
    pub(super) fn left(&mut self, token: u64, now: Timestamp) -> Vec<LinkNews> {
        let Some(worker) = self.worker_with(token) else { return Vec::new() };
        self.connected.remove(&worker);
        self.disconnected.insert(worker, now);
        vec![LinkNews::Input(Input::LinkClosed { worker })]
    }

    /// Takes in what a worker tells.
    pub(super) fn heard(&mut self, token: u64, news: PeerEvent) -> Vec<LinkNews> {
        let Some(worker) = self.worker_with(token) else { return Vec::new() };
        vec![match news {
            PeerEvent::Silent => LinkNews::Answers { worker, answers: false },
            PeerEvent::Answered => LinkNews::Answers { worker, answers: true },
            PeerEvent::Lagging(lag) => LinkNews::Input(Input::Lagging { worker, lag }),
            PeerEvent::RetireAsked { reason, details } => {
                tracing::info!(%worker, ?reason, "a worker requests its retirement");
                self.retire_reasons.insert(worker, (reason, details));
                LinkNews::Input(Input::RetireRequested { worker })
            }
            PeerEvent::Unanswered(order) => {
                tracing::warn!(%worker, order = order.name(), "a worker did not answer an order");
                if order != WorkerOrder::Die {
                    return Vec::new();
                }
                LinkNews::Input(Input::OrderUnanswered { worker })
            }
        }]
    }

    /// Tells a worker; returns whether it is connected.
    pub(super) fn order(&self, worker: WorkerId, order: WorkerOrder, reason: &str) -> bool {
        let connected = self.connected.get(&worker);
        if let Some(connected) = connected {
            connected.link.order(order, reason);
        }
        connected.is_some()
    }

    /// Whether a worker has a connection with somebody at its other end.
    pub(super) fn is_connected(&self, worker: WorkerId) -> bool {
        self.connected.get(&worker).is_some_and(|connected| !connected.is_gone())
    }

    /// Why a worker has asked for its retirement, and what it told about that.
    pub(super) fn take_retire_reason(
        &mut self,
        worker: WorkerId,
    ) -> (Option<String>, Option<WorkerData>) {
        match self.retire_reasons.remove(&worker) {
            Some((reason, details)) => (Some(reason).filter(|text| !text.is_empty()), details),
            None => (None, None),
        }
    }

    /// What a connected worker has said last of its load and its application.
    pub(super) fn told(&self, worker: WorkerId) -> Option<(Duration, Option<WorkerData>)> {
        let told = self.connected.get(&worker)?.link.told();
        Some((told.lag, told.app))
    }

    /// Forgets a worker whose process has ended.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.retire_reasons.remove(&worker);
        self.connected.remove(&worker);
        self.disconnected.remove(&worker);
        self.silent.remove(&worker);
    }

    fn worker_with(&self, token: u64) -> Option<WorkerId> {
        let mut connected = self.connected.iter();
        connected.find(|(_, connected)| connected.link.token() == token).map(|(worker, _)| *worker)
    }
}
