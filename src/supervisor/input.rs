//! What the master tells the supervisor: its input.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Configured, Verification};
use crate::plan::{Generation, Port, Protocol, Seat};
use crate::protocol::{
    Command, Exit, NotReady, ReadinessFault, ReleaseFailure, RuleWriter, Unhealthy, WorkerId,
};

/// Something that has happened. Inputs about workers that the supervisor no longer knows are
/// ignored.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The master runs: the first input of all.
    Start,
    /// The [`deadline`](super::Supervisor::deadline) has come.
    Tick,
    /// The hook before a new generation runs; [`Self::ReleasePrepared`] follows.
    HookRuns {
        /// The generation.
        generation: Generation,
    },
    /// What the workers of a new generation are started from was found, and the hook before them has succeeded;
    /// or why none can be started.
    ReleasePrepared {
        /// The generation.
        generation: Generation,
        /// `None`: they can be.
        failure: Option<ReleaseFailure>,
    },
    /// An [`Action::Spawn`](super::Action::Spawn) succeeded: the process runs.
    Spawned {
        /// The worker.
        worker: WorkerId,
        /// Its process id, for display alone.
        pid: u32,
        /// The worker ports it was given, in the order of
        /// [`Listeners::public_ports`](crate::plan::Listeners::public_ports). Empty for a worker that
        /// picks its ports itself: [`Self::PortsReported`] follows.
        ports: Arc<[Port]>,
    },
    /// The worker that is being started has these ports beside its worker ports: no plan leads there, and
    /// other hosts are kept away as from those.
    PrivatePorts {
        /// The worker.
        worker: WorkerId,
        /// Its private ports.
        ports: Arc<[Port]>,
    },
    /// A worker was seen to have sockets on its worker ports by protocols that no listener of these ports has: all
    /// such that it has now.
    FurtherSockets {
        /// The worker.
        worker: WorkerId,
        /// The protocols and ports.
        ports: Arc<[(Protocol, Port)]>,
    },
    /// A worker that picks its ports itself has reported them, and sockets of its own listen there. It
    /// keeps them for as long as it runs.
    PortsReported {
        /// The worker.
        worker: WorkerId,
        /// Its worker ports, in the order of
        /// [`Listeners::public_ports`](crate::plan::Listeners::public_ports).
        ports: Arc<[Port]>,
    },
    /// A worker has linked to the control socket, and can be given orders.
    LinkOpened {
        /// The worker.
        worker: WorkerId,
        /// It knows already that it is retired: it was ordered so over an earlier link.
        knows_retired: bool,
    },
    /// The link of a worker has closed. The worker may link again.
    LinkClosed {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker did not answer an [`Action::OrderStop`](super::Action::OrderStop), or refuses it.
    OrderUnanswered {
        /// The worker.
        worker: WorkerId,
    },
    /// An [`Action::Spawn`](super::Action::Spawn) failed: there is no process.
    SpawnFailed {
        /// The worker.
        worker: WorkerId,
        /// The error, for display.
        reason: String,
        /// The program does not exist or may not be run, so that no try succeeds until somebody has
        /// mended that.
        is_permanent: bool,
    },
    /// The worker is ready: its own processes listen on all its worker ports, and what else readiness asks
    /// for holds. The master looks again and again, for each worker in state
    /// [`Starting`](crate::protocol::WorkerState::Starting).
    Ready {
        /// The worker.
        worker: WorkerId,
    },
    /// What a worker that is starting lacks to be ready has changed.
    NotReady {
        /// The worker.
        worker: WorkerId,
        /// What it lacks now.
        lack: NotReady,
    },
    /// What was seen of a worker that is starting and not ready: for whoever is told that it failed.
    ReadinessFault {
        /// The worker.
        worker: WorkerId,
        /// What was seen.
        fault: ReadinessFault,
    },
    /// A worker that was ready is unhealthy.
    Unhealthy {
        /// The worker.
        worker: WorkerId,
        /// By what it is unhealthy.
        cause: Unhealthy,
    },
    /// A worker that was [`Self::Unhealthy`] answers again.
    Healthy {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker says that it stops, by itself or because it was asked to (`STOPPING=1`).
    Stopping {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker asks for more time to start or to end (`EXTEND_TIMEOUT_USEC`).
    ExtendTimeout {
        /// The worker.
        worker: WorkerId,
        /// How much, from now on.
        span: Duration,
    },
    /// The worker's first process is gone and has been reaped.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
        /// What it printed last, oldest line first.
        last_lines: Vec<String>,
    },
    /// No process is left of a worker whose first process has ended: [`Self::Exited`] came before.
    Reaped {
        /// The worker.
        worker: WorkerId,
        /// So many are left all the same: SIGKILL does not end them, or they are not proven to be of it.
        left: u32,
    },
    /// The first process of a worker has ended, and has left others that do its work: it went into the
    /// background, as daemons do. [`Self::Exited`] follows.
    WentIntoBackground {
        /// The worker.
        worker: WorkerId,
        /// What is left of it and how it is kept in the foreground, for display.
        advice: String,
    },
    /// The sockets of a retired worker were counted. The master does so again and again, for each
    /// worker in state [`Retired`](crate::protocol::WorkerState::Retired), and for the sockets of
    /// [`orphaned_listeners`](super::Supervisor::orphaned_listeners).
    Connections {
        /// The worker.
        worker: WorkerId,
        /// What there was.
        sockets: Sockets,
    },
    /// One look at the resident memory of the master and of every worker that runs.
    ResidentMeasured(MemoryUsage),
    /// The proportional set sizes that an
    /// [`Action::MeasureProportional`](super::Action::MeasureProportional) asked for.
    ProportionalMeasured(MemoryUsage),
    /// What the counters of the seats say that an
    /// [`Action::CountConnections`](super::Action::CountConnections) asked for: how many connections the
    /// rules have led to each; `None`: they could not be read.
    ConnectionsCounted(Option<BTreeMap<Seat, u64>>),
    /// The worker has measured how late its event loop runs, or has found that it is on time.
    Lagging {
        /// The worker.
        worker: WorkerId,
        /// How late, smoothed by the worker. It holds until the next of these inputs.
        lag: Duration,
    },
    /// The worker itself asks for its retirement.
    RetireRequested {
        /// The worker.
        worker: WorkerId,
    },
    /// The outstanding [`Action::Commit`](super::Action::Commit) is in force.
    Committed {
        /// How long the transaction took.
        took: Duration,
    },
    /// The outstanding [`Action::Commit`](super::Action::Commit) changed nothing.
    CommitFailed {
        /// The error, for display.
        reason: String,
    },
    /// Somebody else has changed something in our table.
    TableChanged {
        /// The process that changed it; `None` if the kernel does not tell.
        writer: Option<RuleWriter>,
    },
    /// Notifications of rule changes were lost: one may have been about our table.
    NotificationsLost,
    /// The result of the outstanding [`Action::Verify`](super::Action::Verify).
    Verified(Verification),
    /// The outstanding [`Action::Restore`](super::Action::Restore) is carried out.
    Restored,
    /// The outstanding [`Action::Restore`](super::Action::Restore) changed nothing.
    RestoreFailed {
        /// The error, for display.
        reason: String,
    },
    /// An operator asks for a change. Answered by exactly one [`Action::Reply`](super::Action::Reply).
    Request(RequestId, Command),
    /// Something of what was adopted is to be changed, most often since the configuration is another than
    /// that of the earlier master. Answered as [`Self::Request`] is.
    Configure {
        /// The request that is answered.
        request: RequestId,
        /// Whether a new generation of workers is started in place of those that were adopted.
        renew: bool,
        /// Whether the number and the weights of workers become those that are configured; else they stay
        /// what was adopted with the rules.
        reshares: bool,
    },
    /// An operator asks for a new generation, and the configuration is another than before. Answered as
    /// [`Self::Request`] is; if it is refused, [`Self::Configured`] follows with what was configured before.
    Reconfigure {
        /// The request that is answered.
        request: RequestId,
        /// A reload or a restart.
        command: Command,
        /// What is configured now.
        configured: Box<Configured>,
        /// Whether the number or the weights of workers are configured otherwise than before.
        reshares: bool,
    },
    /// This is configured from now on, and nothing else is to be done.
    Configured(Box<Configured>),
}

/// Names a request in its answer. The master chooses the numbers, none twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Memory at one moment, in bytes.
///
/// Either all resident set sizes, which count a page that is shared once for each process that has
/// it, or all proportional ones, which share such a page out among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryUsage {
    /// The memory of the master.
    pub master: u64,
    /// The memory of each worker, summed up over its processes. A worker that could not be measured is
    /// left out: its memory is not known, which is not the same as 0.
    pub workers: BTreeMap<WorkerId, u64>,
}

impl MemoryUsage {
    /// The memory of the master and all workers.
    pub fn total(&self) -> u64 {
        self.workers.values().fold(self.master, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// The sockets on the worker ports of one worker, counted at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sockets {
    /// Connections in its accept queues: complete, but not accepted yet.
    pub queued: u32,
    /// Handshakes under way (`TCP_SYN_RECV`).
    pub half_open: u32,
    /// Accepted connections that have not ended.
    pub established: u32,
    /// Connections of which the worker has no socket, but which conntrack holds for established.
    /// They are not counted while there are others. Most are of clients whose handshake the kernel
    /// answered by SYN cookie and whose last packet of it a full accept queue then dropped: they send
    /// again, and are served, as long as the worker listens.
    pub remembered: u32,
    /// Connections of the worker, ended or not, and UDP flows, by which conntrack would have sent
    /// here what the client begins next when it was looked at; they have been released since. Looked
    /// for until the worker [is settled](super::Worker::is_settled).
    pub bound: u32,
    /// Accepted connections that have not been silent for so long that the worker may end although it
    /// has them; `None` if that was not looked at.
    pub active: Option<u32>,
    /// Accepted connections that conntrack has no entry of any more, so that nothing of theirs comes to the
    /// worker, since the rules lead their clients elsewhere; `None` if that was not looked at.
    pub stranded: Option<u32>,
}

#[cfg(test)]
impl Sockets {
    /// No connection, and nothing looked at.
    pub(crate) const NONE: Self = Self {
        queued: 0,
        half_open: 0,
        established: 0,
        remembered: 0,
        bound: 0,
        active: None,
        stranded: None,
    };
}

impl Sockets {
    /// Whether every connection that was ever sent to the worker has been accepted by it.
    pub fn all_accepted(&self) -> bool {
        self.queued == 0 && self.half_open == 0
    }
}

/// What the master found in the kernel when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// Nothing: all seats are vacant.
    Fresh,
    /// The plan of an earlier master. Its occupants are workers that this supervisor does not
    /// manage; they serve until all new workers are ready. Workers that it can manage are
    /// [adopted](super::Supervisor::adopt).
    FromKernel,
}
