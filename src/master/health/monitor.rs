//! The watch over workers: what the loop does for [`Health`] to know what it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::master::error::MasterError;
use crate::master::health::detector::{Health, Probed, Said};
use crate::master::run::{Master, rest_until};
use crate::master::workers::counting::{local_ports_of, worker_port_of};
use crate::process::{self, AcceptQueue, NotifyMessage, NotifySocket, ProcessError, Received};
use crate::protocol::{Readiness, Status};
use crate::supervisor::{Timestamp, WorkerId, WorkerState};

/// How often the watch is kept: what has no event of its own is known so much later at most.
pub(crate) const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// The most probes that are under way, and the most that begin at once. A worker whose turn does not
/// come does not count as silent for that.
const MOST_PROBES: usize = 128;
const PROBES_AT_ONCE: usize = 32;

/// How many times as long as a look at connections takes there is none.
const WITNESS_PAUSE: u32 = 4;

/// The most messages that are read at once, and how the time for them is bounded: one part in so many,
/// and not again before this rest.
const MESSAGES: usize = 64;
const MESSAGES_SHARE: u32 = 5;
const MESSAGES_REST: Duration = Duration::from_millis(1);

/// What the watch needs.
pub(crate) struct HealthMonitor {
    detector: Health,
    notify: Option<NotifySocket>,
    sender: mpsc::UnboundedSender<Report>,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    /// Workers that are being asked.
    probes: BTreeSet<WorkerId>,
    /// The kernel is looked at no earlier.
    look_at: Timestamp,
    /// A look at connections is under way.
    is_witnessing: bool,
    witness_at: Timestamp,
    /// It was said that somebody unknown writes to the socket.
    has_warned: bool,
    /// The last look went wrong, and that was said.
    has_failed: bool,
    /// No message is read earlier.
    hear_at: Option<Instant>,
}

/// What comes of work beside the loop.
pub(crate) enum Report {
    Probed { worker: WorkerId, probed: Probed },
    Witnessed { began: Timestamp, found: Result<BTreeMap<u16, AcceptQueue>, ProcessError> },
}

impl HealthMonitor {
    /// `notify` is where workers can speak.
    pub(crate) fn new(config: &Config, notify: Option<NotifySocket>) -> Result<Self, MasterError> {
        if config.ready == Readiness::Notify && notify.is_none() {
            return Err(MasterError::NoNotifySocket);
        }
        let (sender, reports) = mpsc::unbounded_channel();
        Ok(Self {
            detector: Health::new(config.ready.clone(), &config.timeouts),
            notify,
            sender,
            reports,
            probes: BTreeSet::new(),
            look_at: Timestamp::START,
            is_witnessing: false,
            witness_at: Timestamp::START,
            has_warned: false,
            has_failed: false,
            hear_at: None,
        })
    }

    /// Has the loop wait for messages of workers.
    pub(crate) fn listen(&self) -> Result<Option<AsyncFd<OwnedFd>>, MasterError> {
        let readable = self.notify.as_ref().map(NotifySocket::readable).transpose();
        readable.map_err(|source| MasterError::Notify { source })
    }

    pub(crate) fn hear_at(&self) -> Option<Instant> {
        self.hear_at
    }

    /// Says what a status shows of workers, by their pids.
    pub(crate) fn add_texts(&self, status: &mut Status, pids: &BTreeMap<u32, WorkerId>) {
        for shown in &mut status.workers {
            let worker = shown.pid.and_then(|pid| pids.get(&pid));
            shown.text = worker.and_then(|worker| self.detector.text(*worker)).map(str::to_owned);
        }
    }

    /// The socket that workers write to, to be handed over.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    /// Takes the socket away: no worker is left to write to it.
    pub(crate) fn end(self) {
        if let Some(Err(error)) = self.notify.map(NotifySocket::remove) {
            tracing::warn!(%error, "cannot remove the socket that workers wrote to");
        }
    }
}

/// Waits until there are messages of workers to be read; for ever, if there is no socket for them.
pub(crate) async fn heard<'a>(
    socket: Option<&'a AsyncFd<OwnedFd>>,
    not_before: Option<Instant>,
) -> std::io::Result<tokio::io::unix::AsyncFdReadyGuard<'a, OwnedFd>> {
    match socket {
        Some(socket) => {
            rest_until(not_before).await;
            socket.readable().await
        }
        None => std::future::pending().await,
    }
}

impl Master {
    /// Takes in a worker that runs.
    pub(crate) fn begin_watch(&mut self, worker: WorkerId, pid: u32) {
        let said = self.health.detector.started(worker, pid, self.world.now());
        self.act_on_words(worker, said);
    }

    /// Takes in a worker that an earlier master has started. One that is in force is ready, whatever it
    /// said to that one.
    pub(crate) fn adopt_watch(&mut self, worker: WorkerId, pid: u32) {
        self.begin_watch(worker, pid);
        let state = self.supervisor.workers().find(|it| it.id == worker).map(|it| it.state());
        match state {
            Some(WorkerState::Live) => self.health.detector.adopted(worker, self.world.now()),
            Some(WorkerState::Retired | WorkerState::Dying) => self.health.detector.leaves(worker),
            _ => {}
        }
    }

    pub(crate) fn end_watch(&mut self, worker: WorkerId) {
        self.health.detector.ended(worker);
    }

    /// Looks which of the workers that are starting listen.
    pub(crate) fn look_for_ready(&mut self) {
        let starting = self.ids(|state| state == WorkerState::Starting);
        let watched: BTreeSet<WorkerId> = self.health.detector.watched().into_iter().collect();
        let starting: Vec<WorkerId> =
            starting.into_iter().filter(|worker| !watched.contains(worker)).collect();
        match self.world.processes.look(&starting, &self.config.listeners, false) {
            Ok(seen) => {
                let now = self.world.now();
                let health = &mut self.health.detector;
                let judge = |(worker, seen): (WorkerId, crate::master::health::detector::Seen)| {
                    health.starting(worker, seen.listens, seen.address, now)
                };
                let events = seen.into_iter().filter_map(judge).collect();
                self.dispatch_all(events);
                self.begin_probes();
            }
            Err(error) => tracing::warn!(%error, "cannot see which workers listen"),
        }
    }

    /// Sees after workers that are ready: looks at the kernel, asks, and tells the supervisor.
    pub(crate) fn check_health(&mut self) {
        for worker in self.ids(|state| matches!(state, WorkerState::Retired | WorkerState::Dying)) {
            self.health.detector.leaves(worker);
        }
        if self.health.detector.drop_unclaimed(self.world.now()) {
            self.warn_of_stranger();
        }
        self.look_at_kernel();
        self.begin_witness();
        self.begin_probes();
        self.tell_news();
    }

    fn tell_news(&mut self) {
        let events = self.health.detector.news(self.world.now());
        self.dispatch_all(events.into());
    }

    fn look_at_kernel(&mut self) {
        let now = self.world.now();
        let Some(interval) = self.health.detector.look_interval() else { return };
        if now < self.health.look_at {
            return;
        }
        self.health.look_at = now.after(interval);
        let watched = self.health.detector.watched();
        match self.world.processes.look(&watched, &self.config.listeners, true) {
            Ok(seen) => {
                self.health.has_failed = false;
                self.health.detector.looked(seen, now);
            }
            Err(error) => {
                // Nobody is silent because we cannot see.
                if !std::mem::replace(&mut self.health.has_failed, true) {
                    tracing::warn!(%error, "cannot see which workers answer");
                }
            }
        }
    }

    /// Looks at the connections of queues that do not get shorter, beside the loop: there may be very
    /// many.
    fn begin_witness(&mut self) {
        let began = self.world.now();
        if self.health.is_witnessing || began < self.health.witness_at {
            return;
        }
        let ports = self.health.detector.doubtful_ports(began);
        let plan = self.supervisor.plan().clone();
        if ports.is_empty() {
            return;
        }
        self.health.is_witnessing = true;
        let sender = self.health.sender.clone();
        tokio::task::spawn_blocking(move || {
            let local = local_ports_of(&plan, ports);
            let found = process::Sockets::open().and_then(|mut sockets| {
                sockets.accept_queues(&local, |port, client| worker_port_of(&plan, port, client))
            });
            // The loop has ended.
            let _ = sender.send(Report::Witnessed { began, found });
        });
    }

    fn begin_probes(&mut self) {
        let now = self.world.now();
        let room = MOST_PROBES.saturating_sub(self.health.probes.len()).min(PROBES_AT_ONCE);
        for (worker, address) in self.health.detector.due_probes(now).into_iter().take(room) {
            self.health.detector.probing(worker, now);
            self.health.probes.insert(worker);
            self.begin_probe(worker, address);
        }
    }

    #[cfg(feature = "http")]
    fn begin_probe(&self, worker: WorkerId, address: SocketAddr) {
        let Readiness::Http(path) = &self.config.ready else { return };
        let (path, patience) = (path.clone(), self.health.detector.probe_patience());
        let sender = self.health.sender.clone();
        tokio::spawn(async move {
            let probed =
                crate::master::health::probe::probe(address, path.as_str(), patience).await;
            // The loop has ended.
            let _ = sender.send(Report::Probed { worker, probed });
        });
    }

    /// The configuration asks for no probe without the feature.
    #[cfg(not(feature = "http"))]
    fn begin_probe(&self, worker: WorkerId, _address: SocketAddr) {
        // The loop has ended.
        let _ = self.health.sender.send(Report::Probed { worker, probed: Probed::Unknown });
    }

    pub(crate) fn take_report(&mut self, report: Report) {
        let now = self.world.now();
        match report {
            Report::Probed { worker, probed } => {
                self.health.probes.remove(&worker);
                let events = self.health.detector.probed(worker, probed, now);
                self.dispatch_all(events.into());
            }
            Report::Witnessed { began, found } => {
                self.health.is_witnessing = false;
                self.health.witness_at = now.after(now.since(began).saturating_mul(WITNESS_PAUSE));
                match found {
                    Ok(found) => self.health.detector.witnessed(found, began),
                    Err(error) => tracing::warn!(%error, "cannot see which connections wait"),
                }
                self.tell_news();
            }
        }
    }

    /// Reads what workers have said, or a part of it; returns whether that was all.
    pub(crate) fn hear_workers(&mut self) -> bool {
        let began = Instant::now();
        let is_drained = self.read_messages();
        self.health.hear_at = began.checked_add(began.elapsed() * MESSAGES_SHARE + MESSAGES_REST);
        is_drained
    }

    fn read_messages(&mut self) -> bool {
        for _ in 0..MESSAGES {
            let Some(socket) = &self.health.notify else { return true };
            match socket.receive() {
                Ok(Received::Message(message)) => self.take_message(message),
                Ok(Received::Nothing) => return true,
                Err(error) => {
                    tracing::warn!(%error, "cannot read what a worker says");
                    return false;
                }
            }
        }
        false
    }

    /// Its descriptors are closed when it has been acted on, not before.
    fn take_message(&mut self, mut message: NotifyMessage) {
        let words = std::mem::take(&mut message.fields);
        let session = message.sender.session;
        match session.map(|session| (session, self.world.processes.worker_of(session))) {
            Some((_, Some(worker))) => {
                let said = self.health.detector.said(worker, words, self.world.now());
                self.act_on_words(worker, said);
            }
            Some((session, None)) => {
                let pid = message.sender.pid;
                tracing::debug!(pid, session, "a word on NOTIFY_SOCKET of no worker known yet");
                self.health.detector.unclaimed(session, words, self.world.now());
            }
            None => self.warn_of_stranger(),
        }
    }

    /// Whether a worker that has joined over the control socket answers there.
    pub(crate) fn heard_on_link(&mut self, worker: WorkerId, answers: bool) {
        let event = self.health.detector.pinged(worker, answers, self.world.now());
        self.dispatch_all(event.into_iter().collect());
    }

    fn warn_of_stranger(&mut self) {
        if !std::mem::replace(&mut self.health.has_warned, true) {
            tracing::warn!(
                "a process that is no worker's writes to NOTIFY_SOCKET, or had ended when it was \
                 read: it is passed over, and so are further ones without a word"
            );
        }
    }

    fn act_on_words(&mut self, worker: WorkerId, said: Said) {
        for what in said.refused {
            tracing::warn!(%worker, "a worker asks for {what}: not granted, and not said again");
        }
        if said.is_flood {
            tracing::warn!(%worker, "a worker says too much: the rest of this second is dropped");
        }
        self.dispatch_all(said.events.into());
    }
}
