//! One worker: its identity, and its stage from spawn to exit.

use std::sync::Arc;
use std::time::Duration;

use super::links::LinkState;
use super::replacement::Reports;
use super::retirement::Retirement;
use crate::plan::{Generation, Occupant, Port, Protocol, Seat};
use crate::protocol::{
    EndSignals, Event, FailureCause, ReplaceReason, Timestamp, WorkerFailure, WorkerId, WorkerState,
};
use crate::supervisor::health::Health;
use crate::supervisor::rollout::Reactivation;

/// A worker from the decision to spawn it until its process is gone.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Names it among all workers of this master.
    pub id: WorkerId,
    /// The seat that it is for.
    pub seat: Seat,
    /// The generation that it was started for.
    pub generation: Generation,
    /// Its worker ports, in the order of
    /// [`Listeners::public_ports`](crate::plan::Listeners::public_ports); `None` until its
    /// process runs, or until it has reported them if it picks them itself.
    pub ports: Option<Arc<[Port]>>,
    /// The ports that it has beside those, which no plan names.
    pub(in crate::supervisor) private_ports: Arc<[Port]>,
    /// The sockets that it has on its worker ports by protocols that no listener of these ports has.
    pub(in crate::supervisor) further_sockets: Arc<[(Protocol, Port)]>,
    /// Its process id, for display alone; `None` until its process runs.
    pub pid: Option<u32>,
    /// When its spawn was decided; for an adopted worker, when its process began.
    pub started: Timestamp,
    /// Why this live worker is replaced, and retires as soon as its successor is ready; `None`: it is not
    /// replaced. A worker that is retired or dying keeps the reason.
    pub leaving: Option<ReplaceReason>,
    /// Its resident memory in bytes when it was last measured; `None` if it never was.
    pub rss: Option<u64>,
    /// What was reported of it, and bears on its replacement.
    pub(in crate::supervisor) reports: Reports,
    /// An earlier master has started it.
    pub adopted: bool,
    /// How it is told that it is retired, and to end.
    pub signals: EndSignals,
    pub(in crate::supervisor) stage: Stage,
    /// No further plan names it: its ports cannot stand in a plan, or an earlier master has retired it.
    pub(in crate::supervisor) is_excluded: bool,
    pub(in crate::supervisor) health: Health,
    /// The master holds its listening sockets too.
    pub(in crate::supervisor) holds_listeners: bool,
    /// Its listening sockets come from an earlier worker, which plans have named.
    pub(in crate::supervisor) reuses_listeners: bool,
    /// It was started to accept the connections that wait in orphaned listeners; no plan names it. See
    /// `orphaned_listeners.rs`.
    pub(in crate::supervisor) is_drainer: bool,
    /// How many drainers in a row its listening sockets have had, itself included.
    pub(in crate::supervisor) drainers: u32,
    /// Its link over the control socket.
    pub(in crate::supervisor) link: LinkState,
    /// When an earlier master has sent it its retire signal, although it is in force: that master was
    /// stopping the cluster.
    pub(in crate::supervisor) told_before: Option<Timestamp>,
    /// It went into the background: what is left of it, and what to do about it.
    pub(in crate::supervisor) background: Option<String>,
}

/// The stage of a worker: finer than [`WorkerState`], with what is known in each.
#[derive(Debug, Clone)]
pub(in crate::supervisor) enum Stage {
    /// It does not listen on all its ports yet.
    Starting,
    /// It listens, and no plan that names it was ever in force.
    Ready { ready: Timestamp },
    /// A plan that names it is, or just was, in force.
    Live { ready: Timestamp, since: Timestamp },
    /// No plan in force names it any more.
    Retired(Retirement),
    /// It was retired, and a rollback has it serve again.
    Reactivating(Reactivation),
    /// It is to end.
    Dying { since: Timestamp, ending: Ending },
}

/// How far the end of a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum Ending {
    /// Whether it was spawned at all is not known yet.
    Unspawned,
    /// It was ordered to stop over its link; the stop signal follows.
    Ordered { terminate_at: Timestamp },
    /// The stop signal was sent; SIGKILL follows.
    Terminated { kill_at: Timestamp },
    /// SIGKILL was sent.
    Killed,
}

impl Worker {
    pub(in crate::supervisor) fn new(
        id: WorkerId,
        seat: Seat,
        generation: Generation,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            seat,
            generation,
            ports: None,
            private_ports: Arc::default(),
            further_sockets: Arc::default(),
            pid: None,
            started: now,
            leaving: None,
            rss: None,
            reports: Reports::default(),
            adopted: false,
            signals: EndSignals::default(),
            stage: Stage::Starting,
            is_excluded: false,
            health: Health::default(),
            holds_listeners: false,
            reuses_listeners: false,
            is_drainer: false,
            drainers: 0,
            link: LinkState::default(),
            told_before: None,
            background: None,
        }
    }

    /// Its state, as operators are told of it.
    pub fn state(&self) -> WorkerState {
        match self.stage {
            Stage::Starting | Stage::Ready { .. } | Stage::Reactivating(_) => WorkerState::Starting,
            Stage::Live { .. } => WorkerState::Live,
            Stage::Retired(_) => WorkerState::Retired,
            Stage::Dying { .. } => WorkerState::Dying,
        }
    }

    /// When its present state began.
    pub fn since(&self) -> Timestamp {
        match &self.stage {
            Stage::Starting | Stage::Ready { .. } => self.started,
            Stage::Live { since, .. } | Stage::Dying { since, .. } => *since,
            Stage::Retired(retirement) => retirement.since(),
            Stage::Reactivating(reactivation) => reactivation.retirement.since(),
        }
    }

    /// For how long it has been starting, if it is. Nothing for one that is to serve again: it listens already.
    pub fn starting_for(&self, now: Timestamp) -> Option<Duration> {
        match &self.stage {
            Stage::Starting => Some(now.since(self.started)),
            Stage::Ready { ready } => Some(now.since(*ready)),
            Stage::Reactivating(_) => Some(Duration::ZERO),
            Stage::Live { .. } | Stage::Retired(_) | Stage::Dying { .. } => None,
        }
    }

    /// Whether it is retired, and no further connection will come: its accept queue is empty, no
    /// handshake is half open, and conntrack steers no further client here. It may still have
    /// connections.
    pub fn is_settled(&self) -> bool {
        matches!(&self.stage, Stage::Retired(retirement) if retirement.is_settled())
    }

    /// Whether it is retired and got its retire signal. Programs end in their own time after that,
    /// most of them with no further connection: it cannot serve again.
    pub(in crate::supervisor) fn is_finishing(&self) -> bool {
        let is_told = matches!(&self.stage, Stage::Retired(it) if it.told().is_some());
        is_told && self.signals.retire.is_some()
    }

    /// Whether the supervisor waits for its [`Input::Ready`](crate::supervisor::Input::Ready).
    pub fn awaits_ready(&self) -> bool {
        match &self.stage {
            Stage::Starting => true,
            Stage::Reactivating(reactivation) => reactivation.ready.is_none(),
            _ => false,
        }
    }

    /// Whether the worker was adopted when it did not serve any more. If it picks its ports itself they are unknown
    /// until it tells them, which it may never do.
    pub(crate) fn is_found_retired(&self) -> bool {
        self.adopted && matches!(self.stage, Stage::Retired(_) | Stage::Dying { .. })
    }

    /// Whether it gets new connections, or did until just now.
    pub(in crate::supervisor) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live { .. })
    }

    /// Whether a plan may name it, and it is healthy.
    pub(in crate::supervisor) fn can_serve(&self) -> bool {
        self.is_eligible() && self.health.is_good()
    }

    /// Whether a plan may name it, healthy or not.
    pub(in crate::supervisor) fn is_eligible(&self) -> bool {
        let listens = match &self.stage {
            Stage::Ready { .. } | Stage::Live { .. } => true,
            Stage::Reactivating(reactivation) => reactivation.ready.is_some(),
            _ => false,
        };
        listens && !self.is_excluded
    }

    /// Whether it serves, or may yet serve (again).
    pub(in crate::supervisor) fn may_serve(&self) -> bool {
        let is_wanted = !self.is_drainer && !self.health.is_stopping();
        is_wanted && (self.awaits_ready() || self.is_eligible())
    }

    /// How long it has been ready; zero if it is not.
    pub(super) fn ready_for(&self, now: Timestamp) -> Duration {
        match self.stage {
            Stage::Ready { ready } | Stage::Live { ready, .. } => now.since(ready),
            _ => Duration::ZERO,
        }
    }

    /// How the plan names it; `None` until its ports are known.
    pub(in crate::supervisor) fn occupant(&self) -> Option<Occupant> {
        Some(Occupant { generation: self.generation, ports: Arc::clone(self.ports.as_ref()?) })
    }

    /// The failure of this worker.
    pub(in crate::supervisor) fn failure(
        &self,
        cause: FailureCause,
        last_lines: Vec<String>,
    ) -> WorkerFailure {
        let Self { id, seat, generation, .. } = *self;
        WorkerFailure { worker: id, seat, generation, cause, last_lines }
    }

    pub(super) fn ready_event(&self, now: Timestamp) -> Event {
        let (worker, seat, generation) = (self.id, self.seat, self.generation);
        Event::Ready { worker, seat, generation, took: now.since(self.started) }
    }
}
