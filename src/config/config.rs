//! The checked configuration of one cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::check::{check_worker_ports, partition_error_key};
use super::{ConfigError, Environment, Origin};
use crate::plan::{
    Assignment, ClusterName, Engine, Listeners, Partition, PlanError, PortRange, Weights,
};
use crate::protocol::{Backoff, GiveUp, Memory, Readiness, Retire};

/// The configuration of one cluster, free of contradictions. Made by
/// [`Settings::check`](super::Settings::check); the keys are described in [`crate::config`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The name of the cluster.
    pub name: ClusterName,
    /// The public addresses.
    pub listeners: Listeners,
    /// The number of workers, 1 to 1024.
    pub workers: u16,
    /// What each worker runs.
    pub command: WorkerCommand,
    /// How client addresses fall into slots.
    pub partition: Partition,
    /// The shares of the workers.
    pub weights: Weights,
    /// The ports that workers get, and that other hosts cannot reach: none of them public, and enough
    /// for
    /// [`PortRange::GENERATIONS`] generations.
    pub worker_ports: PortRange,
    /// Whether the master opens the listening sockets of workers and keeps them, so that they outlive
    /// a worker. Workers take them by `LISTEN_FDS` (sd_listen_fds(3)). Nobody can tell from outside
    /// when such a worker accepts: with [`Readiness::Tcp`] it counts as ready as soon as its program
    /// runs and has them, and clients wait in the queue until it is.
    pub socket_activation: bool,
    /// How many connections wait in the queue of each such socket at most, 1 to 65535; the kernel
    /// lets no more than `net.core.somaxconn` wait.
    pub backlog: u32,
    /// How connections are handed to workers. [`Engine::Tproxy`] goes with `socket_activation` alone.
    pub engine: Engine,
    /// Whether connections that start on this host are balanced as well.
    pub local_clients: bool,
    /// How it is known that a worker is ready.
    pub ready: Readiness,
    /// Whether other programs can change the rules.
    pub ownership: Ownership,
    /// Whom workers run as, by name or number; none is the user of the master.
    pub user: Option<String>,
    /// Their primary group, by name or number; none is that of `user`.
    pub group: Option<String>,
    /// What becomes of the workers when a signal ends the master.
    pub on_exit: OnExit,
    /// The environment of the workers.
    pub env: Environment,
    /// How long the steps of a worker's life may take.
    pub timeouts: Timeouts,
    /// The pace at which workers are started.
    pub spawn: Spawn,
    /// Where what workers print goes.
    pub output: WorkerOutput,
    /// Where workers find a control socket of their own, in place of the operators'; none is
    /// wherever they may.
    pub socket: Option<PathBuf>,
    /// The HTTP server.
    pub http: Http,
    /// When live workers are replaced.
    pub retire: Retire,
    /// How much memory the cluster may have.
    pub memory: Memory,
    /// Whether the workers of an earlier master are ended, without waiting for their connections,
    /// when the first ones of this master are in force.
    pub kill_old: bool,
    /// The shares as given; empty if none were.
    pub(super) shares: Vec<f64>,
}

impl Config {
    /// The name of a cluster that is given none.
    pub const DEFAULT_NAME: &'static str = "main";

    /// How many connections wait in a queue of the master's, where nothing else was asked for.
    pub const DEFAULT_BACKLOG: u32 = 4096;

    /// The same cluster with another number of workers: new ones have the share 1.
    ///
    /// # Errors
    /// [`ConfigError::Plan`] if the number is out of range or does not fit the partition;
    /// [`ConfigError::Value`] if the worker ports do not suffice.
    pub fn scaled(&self, workers: u16) -> Result<Self, ConfigError> {
        const ORIGIN: Origin = Origin::Command { command: "scale" };
        let fault = |source: PlanError| ConfigError::Plan {
            origin: ORIGIN,
            key: partition_error_key(&source),
            source,
        };
        let mut shares = self.shares.clone();
        if !shares.is_empty() {
            shares.resize(usize::from(workers), 1.0);
        }
        let weights = match shares.as_slice() {
            [] => Weights::equal(usize::from(workers)),
            shares => Weights::new(shares),
        };
        let weights = weights.map_err(fault)?;
        let partition = match self.partition {
            Partition::Mask { .. } => Partition::mask(u32::from(workers)).map_err(fault)?,
            hash @ Partition::Hash { .. } => hash,
        };
        Assignment::new(&partition, &weights, None).map_err(fault)?;
        let stride = self.engine.port_stride(&self.listeners);
        check_worker_ports(self.worker_ports, &ORIGIN, workers, &self.listeners, stride)?;
        Ok(Self { workers, partition, weights, shares, ..self.clone() })
    }
}

/// What a worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program: a path, or a name that is looked for in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Whether other programs that may change rules can change ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// Not if the kernel can prevent it, else they can.
    #[default]
    Auto,
    /// They cannot while a master runs, nor does `nft flush ruleset` touch them then. Needs Linux
    /// 6.9.
    Owned,
    /// They can. `nft flush ruleset` removes the rules; established connections live on (since
    /// Linux 5.12).
    Shared,
}

/// What becomes of the workers when a signal (SIGTERM, SIGINT) ends the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExit {
    /// They and the rules serve on, and the next master adopts them.
    #[default]
    Leave,
    /// They finish their connections and end, and the rules go: as for `ipcluster stop`.
    Drain,
}

/// How long the steps of a worker's life may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From spawn to ready, above 0.
    pub ready: Duration,
    /// For the connections of a retired worker to end; none is no limit.
    pub drain: Option<Duration>,
    /// For how long after a reload the workers of the generation before are kept although their
    /// connections have ended, so that a rollback finds them; 0 is not at all.
    pub rollback: Duration,
    /// From SIGTERM to SIGKILL; 0 is at once.
    pub die: Duration,
    /// After how much silence a worker gets no clients while others answer, at least 1 s; none is
    /// that silent workers are not looked for.
    pub ping: Option<Duration>,
    /// How often a worker has to say `WATCHDOG=1`, at least 100 ms; none is never.
    pub watchdog: Option<Duration>,
}

/// The pace at which workers are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spawn {
    /// The pause between two spawns; 0 is none.
    pub stagger: Duration,
    /// The wait before a worker that died is replaced.
    pub backoff: Backoff,
    /// When no more workers are started for a seat; none: never.
    pub give_up: Option<GiveUp>,
}

/// Where the standard output and error of workers go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WorkerOutput {
    /// To the standard output of the master, each line with the seat before it. Until it is read
    /// there it waits in memory, which belongs to the worker; of one that is more than 16 MiB ahead
    /// the older lines are skipped, and it is said how much that was.
    #[default]
    Stdout,
    /// To the journal of systemd, each line as an entry with the fields `MESSAGE`, `PRIORITY` (6, or
    /// what a prefix such as `<3>` says: sd-daemon(3)), `SYSLOG_IDENTIFIER` (the program),
    /// `SYSLOG_PID`, `IPCLUSTER_NAME`, `IPCLUSTER_SEAT` and `IPCLUSTER_GENERATION`. It waits as for
    /// [`Self::Stdout`], also while the journal is away.
    Journal,
    /// To files in this directory, which exists: `NAME.seat-K.generation-G.log`, written by the
    /// worker itself, at the end. Old ones are removed by nobody: that is for logrotate
    /// (`copytruncate`) and the like.
    Directory(PathBuf),
}

/// The HTTP server: metrics, a health check and a status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Http {
    /// Where it listens, on a port that is neither public nor a worker's; none is nowhere.
    pub listen: Option<SocketAddr>,
}
