//! What is known of one worker, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::Observation;
use super::flood_limit::FloodLimit;
use super::probe::Probe;
use super::queue::QueueState;
use crate::plan::Port;
use crate::protocol::{NotReady, PortFaultKind, Readiness, Timestamp, Unhealthy, WorkerId};
use crate::supervisor::Input;
use crate::supervisor::health::NotifyField;

/// How many looks in a row must show that a worker is stopped, or does not listen: a dump of sockets
/// is no snapshot, and a worker may reopen its socket.
const LOOKS: u32 = 2;

/// A worker that the detector watches.
#[derive(Debug)]
pub(super) struct WatchedWorker {
    pub(super) stage: WatchStage,
    /// Whether it listened on all its ports while it was starting.
    pub(super) listens: bool,
    /// Whether its processes accept from the sockets that it was started with.
    acceptance: Acceptance,
    /// It has sent `READY=1`.
    sent_ready: bool,
    /// What the supervisor was told that it lacks.
    not_ready: NotReady,
    /// Where it is probed.
    pub(super) address: Option<SocketAddr>,
    /// How many looks in a row have shown that it is stopped.
    stopped: u32,
    /// How many looks in a row have shown that it does not listen.
    not_listening: u32,
    /// A port of its that another process listens on as well, and the user of that one's socket.
    shared_port: Option<(Port, u32)>,
    pub(super) queues: BTreeMap<u16, QueueState>,
    watchdog: Watchdog,
    pub(super) probe: Probe,
    /// It has linked to the control socket, and does not answer there.
    pub(super) no_ping: bool,
    /// Why it is unhealthy, as far as the supervisor was told.
    reported: Option<Unhealthy>,
    pub(super) status_text: Option<String>,
    /// The requests of it that were refused, and reported so.
    refused: BTreeSet<&'static str>,
    pub(super) flood_limit: FloodLimit,
}

/// Whether a worker accepts from the sockets that it was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acceptance {
    /// It opens its own: that it listens is enough.
    OwnSockets,
    /// It was not seen to accept.
    Unseen,
    /// It was.
    Seen,
}

/// Whether a worker is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchStage {
    /// It is not ready yet.
    Starting,
    /// The supervisor was told that it is ready: its health is watched.
    Ready,
    /// It gets no clients any more.
    Retired,
}

#[derive(Debug)]
struct Watchdog {
    /// `None`: the worker need not send anything.
    limit: Option<Duration>,
    /// When the last `WATCHDOG=1` came.
    fed: Timestamp,
    /// `WATCHDOG=trigger` came since.
    triggered: bool,
}

impl WatchedWorker {
    pub(super) fn new(watchdog: Option<Duration>, now: Timestamp) -> Self {
        Self {
            stage: WatchStage::Starting,
            listens: false,
            acceptance: Acceptance::OwnSockets,
            sent_ready: false,
            not_ready: NotReady::NotListening,
            address: None,
            stopped: 0,
            not_listening: 0,
            shared_port: None,
            queues: BTreeMap::new(),
            watchdog: Watchdog { limit: watchdog, fed: now, triggered: false },
            probe: Probe::default(),
            no_ping: false,
            reported: None,
            status_text: None,
            refused: BTreeSet::new(),
            flood_limit: FloodLimit::default(),
        }
    }

    /// An earlier master has seen that it is ready.
    pub(super) fn adopt(&mut self, now: Timestamp) {
        (self.stage, self.sent_ready) = (WatchStage::Ready, true);
        self.watchdog.fed = now;
    }

    /// It was started with sockets of the master's: it listens from the start, which shows nothing.
    pub(super) fn must_accept(&mut self) {
        self.acceptance = Acceptance::Unseen;
    }

    /// It listens on sockets of its own and starts child processes, which may be those that accept: that the
    /// first process listens shows nothing of them.
    pub(super) fn must_be_accepting(&mut self) {
        if self.acceptance == Acceptance::OwnSockets {
            self.acceptance = Acceptance::Unseen;
        }
    }

    /// Whether it is ready as soon as it is seen to accept.
    pub(super) fn awaits_acceptance(&self, readiness: &Readiness) -> bool {
        let lacks_else = match readiness {
            Readiness::Http(_) => true,
            Readiness::Notify => !self.sent_ready,
            _ => false,
        };
        let is_unseen = self.acceptance == Acceptance::Unseen;
        self.stage == WatchStage::Starting && is_unseen && !lacks_else
    }

    /// Takes in that it accepts from all sockets that it was started with.
    pub(super) fn accepts(&mut self) {
        if self.acceptance == Acceptance::Unseen {
            self.acceptance = Acceptance::Seen;
        }
    }

    /// It was retired, and has to be seen to be ready again.
    pub(super) fn restart(&mut self) {
        self.stage = WatchStage::Starting;
        if self.acceptance == Acceptance::Seen {
            self.acceptance = Acceptance::Unseen;
        }
        (self.stopped, self.not_listening, self.shared_port) = (0, 0, None);
        self.queues.clear();
        self.probe.reset();
    }

    pub(super) fn observe(&mut self, observation: Observation, now: Timestamp) {
        let count = |is: bool, before: u32| if is { before.saturating_add(1) } else { 0 };
        self.stopped = count(observation.stopped, self.stopped);
        self.not_listening = count(!observation.listens, self.not_listening);
        self.shared_port = observation.fault.as_ref().and_then(|fault| match fault.kind {
            PortFaultKind::Shared { uid } => Some((fault.port, uid)),
            _ => None,
        });
        self.address = observation.address.or(self.address);
        self.queues.retain(|port, _| observation.queues.contains_key(port));
        for (port, length) in observation.queues {
            self.queues.entry(port).or_default().observe(length, now);
        }
    }

    /// Keeps what it says of itself.
    pub(super) fn keep(&mut self, field: NotifyField, now: Timestamp) {
        match field {
            NotifyField::Ready => self.sent_ready = true,
            NotifyField::Alive => self.watchdog.feed(now),
            NotifyField::WatchdogTrigger => self.watchdog.triggered = true,
            NotifyField::WatchdogInterval(limit) => {
                self.watchdog.limit = (!limit.is_zero()).then_some(limit);
                self.watchdog.feed(now);
            }
            NotifyField::Status(text) => self.status_text = (!text.is_empty()).then_some(text),
            NotifyField::Errno(errno) => self.status_text = Some(format!("errno {errno}")),
            NotifyField::Stopping | NotifyField::ExtendTimeout(_) | NotifyField::Refused(_) => {}
        }
    }

    /// Refuses a request; returns it if that is to be reported, which is once.
    pub(super) fn refuse(&mut self, what: &'static str) -> Option<&'static str> {
        self.refused.insert(what).then_some(what)
    }

    /// Whether the last look was the first to show that it is stopped or does not listen: one more decides.
    pub(super) fn is_in_doubt(&self) -> bool {
        let is_begun = |looks: u32| (1..LOOKS).contains(&looks);
        is_begun(self.stopped) || is_begun(self.not_listening)
    }

    /// Whether connections wait for it, or it was told that it is unhealthy: what changes is to be seen soon.
    pub(super) fn is_waited_for(&self) -> bool {
        self.reported.is_some() || self.queues.values().any(QueueState::is_waiting)
    }

    /// When it becomes unhealthy, if nothing is heard of it before; only what needs no look counts.
    pub(super) fn silent_at(&self, probe_timeout: Option<Duration>) -> Option<Timestamp> {
        if self.stage != WatchStage::Ready || self.reported.is_some() {
            return None;
        }
        let probe = self.probe.failing_since.zip(probe_timeout);
        let probe = probe.map(|(since, timeout)| since.after(timeout));
        let watchdog = self.watchdog.unhealthy_at();
        probe.into_iter().chain(watchdog).min()
    }

    /// When it is probed next, unless a probe is under way; it may be over.
    pub(super) fn next_probe(&self, is_watched: bool) -> Option<Timestamp> {
        let is_wanted = self.stage == WatchStage::Ready && is_watched && self.address.is_some();
        is_wanted.then(|| self.probe.next()).flatten()
    }

    pub(super) fn is_probe_due(&self, is_watched: bool, now: Timestamp) -> bool {
        let is_wanted = match self.stage {
            WatchStage::Starting => self.listens,
            WatchStage::Ready => is_watched,
            WatchStage::Retired => false,
        };
        is_wanted && self.probe.is_due(now)
    }

    /// Whether it is ready now, or lacks something else than before.
    pub(super) fn evaluate_readiness(
        &mut self,
        worker: WorkerId,
        readiness: &Readiness,
        now: Timestamp,
    ) -> Option<Input> {
        if self.stage != WatchStage::Starting {
            return None;
        }
        let Some(not_ready) = self.not_ready(readiness) else {
            self.stage = WatchStage::Ready;
            self.watchdog.fed = now;
            return Some(Input::Ready { worker });
        };
        let has_changed = std::mem::replace(&mut self.not_ready, not_ready) != not_ready;
        has_changed.then_some(Input::NotReady { worker, lack: not_ready })
    }

    fn not_ready(&self, readiness: &Readiness) -> Option<NotReady> {
        match readiness {
            _ if !self.listens && self.sent_ready => Some(NotReady::ReadyButNotListening),
            _ if !self.listens => Some(NotReady::NotListening),
            Readiness::Notify if !self.sent_ready => Some(NotReady::NotNotified),
            // Whoever answers a probe has accepted it.
            Readiness::Http(_) if !self.probe.has_passed => Some(NotReady::ProbeFailed),
            Readiness::Http(_) => None,
            _ if self.acceptance == Acceptance::Unseen => Some(NotReady::NotAccepting),
            _ => None,
        }
    }

    /// Whether it became unhealthy, or healthy again, since the supervisor was told.
    pub(super) fn evaluate_health(
        &mut self,
        worker: WorkerId,
        ping: Option<Duration>,
        probe_timeout: Duration,
        now: Timestamp,
    ) -> Option<Input> {
        if self.stage != WatchStage::Ready {
            return None;
        }
        let unhealthy = self.unhealthy(ping, probe_timeout, now);
        match (self.reported, unhealthy) {
            (None, Some(cause)) => {
                self.reported = Some(cause);
                Some(Input::Unhealthy { worker, cause })
            }
            (Some(_), None) => {
                self.reported = None;
                Some(Input::Healthy { worker })
            }
            _ => None,
        }
    }

    /// Why it is unhealthy: the surest sign first.
    fn unhealthy(
        &self,
        ping: Option<Duration>,
        probe_timeout: Duration,
        now: Timestamp,
    ) -> Option<Unhealthy> {
        let by_looks = ping.and_then(|limit| self.unhealthy_by_looks(limit, probe_timeout, now));
        by_looks.or_else(|| self.watchdog.unhealthy(now))
    }

    fn unhealthy_by_looks(
        &self,
        limit: Duration,
        probe_timeout: Duration,
        now: Timestamp,
    ) -> Option<Unhealthy> {
        let has_failed_for = |since: Timestamp| now.since(since) >= probe_timeout;
        if self.stopped >= LOOKS {
            Some(Unhealthy::Stopped)
        } else if self.not_listening >= LOOKS {
            Some(match self.shared_port {
                Some((port, uid)) => Unhealthy::SharedPort { port, uid },
                None => Unhealthy::NotListening,
            })
        } else if self.queues.values().any(QueueState::is_stuck) {
            Some(Unhealthy::Queue { limit })
        } else if self.probe.failing_since.is_some_and(has_failed_for) {
            Some(Unhealthy::Probe { limit })
        } else if self.no_ping {
            Some(Unhealthy::Ping { limit })
        } else {
            None
        }
    }
}

impl Watchdog {
    fn feed(&mut self, now: Timestamp) {
        (self.fed, self.triggered) = (now, false);
    }

    /// The first moment at which [`Self::unhealthy`] says that nothing came in time.
    fn unhealthy_at(&self) -> Option<Timestamp> {
        self.limit.map(|limit| self.fed.after(limit).after(Duration::from_nanos(1)))
    }

    fn unhealthy(&self, now: Timestamp) -> Option<Unhealthy> {
        match self.limit {
            _ if self.triggered => Some(Unhealthy::Trigger),
            Some(limit) if now.since(self.fed) > limit => Some(Unhealthy::Watchdog { limit }),
            _ => None,
        }
    }
}
