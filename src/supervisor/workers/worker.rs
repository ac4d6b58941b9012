//! One worker: who it is, and where in its life.

use std::sync::Arc;
use std::time::Duration;

use super::links::LinkState;
use super::replacement::Reports;
use super::retirement::Retirement;
use crate::plan::{Generation, Occupant, Port, Seat};
use crate::protocol::{Event, ReplaceReason, Timestamp, WorkerId, WorkerState};
use crate::supervisor::health::Health;
use crate::supervisor::rollout::Reactivation;

/// A worker from the decision to spawn it until its process is gone.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// The seat that it is for.
    pub seat: Seat,
    /// The generation that it was started for.
    pub generation: Generation,
    /// Its worker ports, in the order of
    /// [`Listeners::public_ports`](crate::plan::Listeners::public_ports); `None` until its
    /// process runs, and if it picks them itself until it has told them.
    pub ports: Option<Arc<[Port]>>,
    /// Its process id, for display alone; `None` until its process runs.
    pub pid: Option<u32>,
    /// When its spawn was decided; of an adopted one, when its process began.
    pub started: Timestamp,
    /// Why it is to retire as soon as its successor is ready; `None`: it is not. Of a live worker;
    /// one that is retired or dying keeps it.
    pub leaving: Option<ReplaceReason>,
    /// Its resident memory in bytes when it was last measured; `None` if it never was.
    pub rss: Option<u64>,
    pub(in crate::supervisor) reports: Reports,
    /// An earlier master has started it.
    pub adopted: bool,
    pub(in crate::supervisor) stage: Stage,
    /// Its ports cannot stand in the plan, or an earlier master has retired it: it is never to be named
    /// again.
    pub(in crate::supervisor) is_excluded: bool,
    pub(in crate::supervisor) health: Health,
    /// The master has listening sockets for it: those that it was spawned with, or is to be.
    pub(in crate::supervisor) holds_listeners: bool,
    /// These are of an earlier worker, whom plans have named.
    pub(in crate::supervisor) reuses_listeners: bool,
    /// It is there for connections that wait in sockets which another worker has left; no plan is to
    /// name it. See `orphaned_listeners.rs`.
    pub(in crate::supervisor) is_drainer: bool,
    /// How many drainers in a row its sockets have had, itself included.
    pub(in crate::supervisor) drainers: u32,
    /// Whether it can be told things, and what it was told.
    pub(in crate::supervisor) link: LinkState,
}

/// [`WorkerState`] with what is known in each.
#[derive(Debug, Clone)]
pub(in crate::supervisor) enum Stage {
    /// Its ports do not listen yet.
    Starting,
    /// Its ports listen, and no plan that names it was ever in force.
    Ready { ready: Timestamp },
    /// A plan that names it is, or just was, in force.
    Live { ready: Timestamp, since: Timestamp },
    /// No plan in force names it any more.
    Retired(Retirement),
    /// It was retired, and is to serve again.
    Reactivating(Reactivation),
    /// It is to end.
    Dying { since: Timestamp, ending: Ending },
}

/// How far the end of a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum Ending {
    /// Whether it was spawned at all is not known yet.
    Unspawned,
    /// It was told to end; SIGTERM follows.
    Ordered { terminate_at: Timestamp },
    /// SIGTERM was sent; SIGKILL follows.
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
            pid: None,
            started: now,
            leaving: None,
            rss: None,
            reports: Reports::default(),
            adopted: false,
            stage: Stage::Starting,
            is_excluded: false,
            health: Health::default(),
            holds_listeners: false,
            reuses_listeners: false,
            is_drainer: false,
            drainers: 0,
            link: LinkState::default(),
        }
    }

    /// Where it is in its life.
    pub fn state(&self) -> WorkerState {
        match self.stage {
            Stage::Starting | Stage::Ready { .. } | Stage::Reactivating(_) => WorkerState::Starting,
            Stage::Live { .. } => WorkerState::Live,
            Stage::Retired(_) => WorkerState::Retired,
            Stage::Dying { .. } => WorkerState::Dying,
        }
    }

    /// When it came into its present state.
    pub fn since(&self) -> Timestamp {
        match &self.stage {
            Stage::Starting | Stage::Ready { .. } => self.started,
            Stage::Live { since, .. } | Stage::Dying { since, .. } => *since,
            Stage::Retired(retirement) => retirement.since(),
            Stage::Reactivating(reactivation) => reactivation.retirement.since(),
        }
    }

    /// Whether it is retired, and everything that was ever sent to it has come: its accept queue is
    /// empty, no handshake is half open, and conntrack leads nobody else here. It may have
    /// connections still.
    pub fn is_settled(&self) -> bool {
        matches!(&self.stage, Stage::Retired(retirement) if retirement.is_settled())
    }

    /// Whether [`Input::Ready`](crate::supervisor::Input::Ready) of it is waited for.
    pub fn awaits_ready(&self) -> bool {
        match &self.stage {
            Stage::Starting => true,
            Stage::Reactivating(reactivation) => reactivation.ready.is_none(),
            _ => false,
        }
    }

    /// Whether it gets new connections, or just did.
    pub(in crate::supervisor) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live { .. })
    }

    /// Whether the plan may name it, and should: it answers.
    pub(in crate::supervisor) fn can_serve(&self) -> bool {
        self.is_eligible() && self.health.is_well()
    }

    /// Whether the plan may name it where nobody answers.
    pub(in crate::supervisor) fn is_eligible(&self) -> bool {
        let listens = match &self.stage {
            Stage::Ready { .. } | Stage::Live { .. } => true,
            Stage::Reactivating(reactivation) => reactivation.ready.is_some(),
            _ => false,
        };
        listens && !self.is_excluded
    }

    /// Whether it serves, or may come to serve (again).
    pub(in crate::supervisor) fn may_serve(&self) -> bool {
        let is_wanted = !self.is_drainer && !self.health.is_stopping();
        is_wanted && (self.awaits_ready() || self.is_eligible())
    }

    /// How long it has been ready; zero if it is not.
    pub(in crate::supervisor) fn ready_for(&self, now: Timestamp) -> Duration {
        match self.stage {
            Stage::Ready { ready } | Stage::Live { ready, .. } => now.since(ready),
            _ => Duration::ZERO,
        }
    }

    /// How the plan names it; `None` until its ports are known.
    pub(in crate::supervisor) fn occupant(&self) -> Option<Occupant> {
        Some(Occupant { generation: self.generation, ports: Arc::clone(self.ports.as_ref()?) })
    }

    pub(in crate::supervisor) fn ready_event(&self, now: Timestamp) -> Event {
        let (worker, seat, generation) = (self.id, self.seat, self.generation);
        Event::Ready { worker, seat, generation, took: now.since(self.started) }
    }

    pub(in crate::supervisor) fn retired_event(&self) -> Event {
        Event::Retired { worker: self.id, seat: self.seat, generation: self.generation }
    }

    pub(in crate::supervisor) fn killed_event(&self) -> Event {
        Event::Killed { worker: self.id, seat: self.seat, generation: self.generation }
    }
}
