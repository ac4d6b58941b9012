//! What `status` and `explain` answer. The schema is part of the interface: see [`SCHEMA`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    ConfigurationStatus, Finding, FleetStatus, Probation, ReplaceReasonKind, Restarts, Retirements,
    SeatConnections, SwapTimes, WorkerState,
};
use crate::plan::{
    ClusterName, Engine, Generation, HashInput, Listener, Partition, Port, Seat, Slot,
};

/// The version of the JSON of [`Status`] and [`Explanation`]. Fields may be added within a version;
/// one that goes, or changes its meaning, makes the next.
pub const SCHEMA: u32 = 1;

/// A cluster as its master sees it, and as `ipcluster status --json` prints it:
///
/// ```json
/// {
///   "schema": 1, "name": "web", "pid": 4100, "generation": 3,
///   "listeners": ["0.0.0.0:80/tcp"], "engine": "redirect", "partition": "hash", "slots": 1024,
///   "repairs": 1, "last_writer": {"pid": 977, "name": "nft"},
///   "foreign_chains": [
///     {"family": "ip", "table": "nat", "chain": "PREROUTING", "hook": "prerouting",
///      "priority": -150, "rule_chain": "PREROUTING", "handle": 7,
///      "listener": "0.0.0.0:80/tcp", "certain": true}
///   ],
///   "findings": [
///     {"severity": "warning", "kind": "filter_drops", "listener": "0.0.0.0:80/tcp",
///      "rule": {"family": "inet", "table": "filter", "chain": "input", "hook": "input",
///               "priority": 0, "rule_chain": "input", "handle": null},
///      "what": "table inet filter, chain input (filter input, priority 0): policy drop drops ...",
///      "cure": "`nft insert rule inet filter input ...`"}
///   ],
///   "orphans": [],
///   "conntrack": {"entries": 1804, "limit": 262144}, "serving": 2, "trial": null,
///   "probation": {"generation": 3, "before": 2, "seconds_left": 7.5, "failures": 0, "standby": 2},
///   "returns": 0,
///   "swaps": {"count": 2, "seconds": 0.000412, "buckets": [0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]},
///   "restarts": {"died": 1, "ended": 0, "exited": 0, "not_ready": 0, "spawn": 0, "unfit": 0},
///   "retirements": {"requested": 0, "silent": 0, "asked": 0, "memory": 1, "lag": 0, "connections": 0, "age": 0},
///   "given_up": [],
///   "configuration": {"in_force": true, "reason": null}, "unmanaged": null,
///   "workers": [
///     {"seat": 0, "slots": 512, "pid": 4242, "adopted": false, "state": "live",
///      "leaving": null, "generation": 3,
///      "health": "ok", "text": null, "ports": {"80": 20004}, "private_ports": [], "number": 1, "uptime": 73.5, "connections": 12, "queued": 0, "half_open": 0,
///      "connections_total": 48151, "memory": 73400320, "processor": 12.25}
///   ]
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the cluster.
    pub name: ClusterName,
    /// The process id of the master.
    pub pid: u32,
    /// The generation in force; while another is on trial, the one that all other clients get.
    pub generation: Generation,
    /// The public addresses, in the order of the configuration.
    pub listeners: Vec<Listener>,
    /// How connections are handed to workers.
    #[serde(default)]
    pub engine: Engine,
    /// How client addresses fall into slots.
    pub partition: PartitionKind,
    /// The number of slots of the cluster.
    pub slots: u32,
    /// How often this master has made the rules anew because somebody else had changed them.
    #[serde(default)]
    pub repairs: u64,
    /// The process that made the last of these repairs necessary; none if there was none, or it is not
    /// known.
    #[serde(default)]
    pub last_writer: Option<RuleWriter>,
    /// Rules of others that map connections to our listeners before ours do, at most
    /// [`ForeignChain::MOST`].
    #[serde(default)]
    pub foreign_chains: Vec<ForeignChain>,
    /// What stands in the way on this host, the worst first: at most [`Finding::MOST`].
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Processes that say that they are workers of this cluster, were there before this master, and
    /// could not be proven to be: at most [`Orphan::MOST`]. They are left alone.
    #[serde(default)]
    pub orphans: Vec<Orphan>,
    /// How full the kernel's connection tracking table is; none if that is not known.
    #[serde(default)]
    pub conntrack: Option<ConntrackFill>,
    /// Seats whose worker the rules lead new connections to, also workers of an earlier master; 0
    /// while no new connection is served.
    #[serde(default)]
    pub serving: u32,
    /// The generation on trial; none while there is none.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// The probation under way; none while there is none.
    #[serde(default)]
    pub probation: Option<Probation>,
    /// How often this master has put the workers before a rollout in force again, since those that it
    /// had brought in failed on probation.
    #[serde(default)]
    pub returns: u64,
    /// How long the transactions of this master took.
    #[serde(default)]
    pub swaps: SwapTimes,
    /// How many connections the rules have led to each seat for each of its last 8 generations. Not in JSON, which
    /// is to stay short: [`WorkerStatus::connections_total`] is all of a seat.
    #[serde(skip)]
    pub connections: Vec<SeatConnections>,
    /// How often this master has replaced a worker that was lost.
    #[serde(default)]
    pub restarts: Restarts,
    /// How often this master has replaced a live worker.
    #[serde(default)]
    pub retirements: Retirements,
    /// The seats that get no worker for now, since they lost too many of late.
    #[serde(default)]
    pub given_up: Vec<u16>,
    /// Seats without a worker that serves or gets ready, at most [`WaitingSeat::MOST`].
    #[serde(default)]
    pub waiting: Vec<WaitingSeat>,
    /// Whether what the configuration says is in force.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    /// What is to be known where no master runs, and [`Self::pid`] is 0; none: one runs.
    #[serde(default)]
    pub unmanaged: Option<Unmanaged>,
    /// The fleet that this host is a member of; none if it serves alone.
    #[serde(default)]
    pub fleet: Option<FleetStatus>,
    /// All workers by seat, also those of older generations that have not ended yet.
    pub workers: Vec<WorkerStatus>,
}

/// A cluster without a master. Its workers serve on; nobody replaces one that dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unmanaged {
    /// Whether its rules are in force. If not, nobody reaches its workers by the public ports.
    pub rules: bool,
    /// What starts a master that takes them over, as a command of a shell; none if that is not known.
    pub start: Option<String>,
}

/// A seat that has no worker now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitingSeat {
    /// The seat.
    pub seat: Seat,
    /// Seconds until its next worker is started, at the latest; 0: it is its turn as soon as those before it
    /// have started. None if that is not known.
    pub next_try: Option<f64>,
    /// What became of its last worker, for display, at most [`Self::REASON_LEN`] characters; none if it has
    /// had none.
    #[serde(default)]
    pub reason: Option<String>,
    /// How often this master has replaced a worker of the seat that was lost.
    #[serde(default)]
    pub restarts: u64,
}

impl WaitingSeat {
    /// The most of them in a [`Status`], which is to fit into a line.
    pub const MOST: usize = 64;

    /// The most characters of a reason.
    pub const REASON_LEN: usize = 120;
}

/// A generation that some of the clients get, until it is promoted or rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Trial {
    /// Its number.
    pub generation: Generation,
    /// The first of its seats; all from there on are its.
    pub first_seat: Seat,
    /// How many seats it has.
    pub seats: u32,
    /// How many of the slots it has.
    pub slots: u32,
}

/// A process that changed the rules of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleWriter {
    /// Its number in the initial pid namespace.
    pub pid: u32,
    /// Its name, printable.
    pub name: String,
}

impl fmt::Display for RuleWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// A rule of somebody else that decides before those of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ForeignChain {
    /// The family of its table: `ip`, `ip6` or `inet`.
    pub family: String,
    /// Its table. Names are printable, and cut after [`Self::NAME_LEN`] characters.
    pub table: String,
    /// The base chain that leads to it.
    pub chain: String,
    /// The hook of the base chain: `prerouting` or `output`.
    pub hook: String,
    /// The priority of the base chain; ours have -100, and lower ones come first.
    pub priority: i32,
    /// The chain that it stands in.
    pub rule_chain: String,
    /// Its handle, as `nft -a list` shows it; of iptables-legacy its number in its chain.
    pub handle: u64,
    /// It is a rule of iptables-legacy, or with `ip6` of ip6tables-legacy, which nft does not show.
    #[serde(default)]
    pub legacy: bool,
    /// The listener whose connections it maps, or may map.
    pub listener: Listener,
    /// Whether it maps all of them; else some, or possibly some.
    pub certain: bool,
}

impl ForeignChain {
    /// The most of them in a [`Status`], which is to fit into a line.
    pub const MOST: usize = 16;

    /// The most characters of a name.
    pub const NAME_LEN: usize = 64;
}

/// A process that may be a worker that an earlier master has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Orphan {
    /// Its process id.
    pub pid: u32,
    /// The seat that it says it has.
    pub seat: Seat,
    /// The generation that it says it is of.
    pub generation: Generation,
    /// Why it is not proven to be a worker, for display.
    pub reason: String,
}

impl Orphan {
    /// The most of them in a [`Status`], which is to fit into a line.
    pub const MOST: usize = 64;
}

/// A worker of a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// The seat that it holds, is to hold, or held.
    pub seat: Seat,
    /// The slots that belong to its seat while it is live; 0 for any other worker.
    pub slots: u32,
    /// Its process id; none while it waits to be spawned (the back-off after a crash).
    pub pid: Option<u32>,
    /// Whether an earlier master has started it.
    #[serde(default)]
    pub adopted: bool,
    /// Where in its life it stands.
    pub state: WorkerState,
    /// Why it is to retire, as soon as its successor is ready; none: it is not. One that has retired
    /// keeps it.
    #[serde(default)]
    pub leaving: Option<ReplaceReasonKind>,
    /// Seconds since it was retired; none if it was not, or is told to end already.
    #[serde(default)]
    pub retired: Option<f64>,
    /// Whether it is retired, and kept able to serve while the workers that replaced it are on probation.
    #[serde(default)]
    pub standby: bool,
    /// The generation that it was started for.
    pub generation: Generation,
    /// Whether it answers.
    #[serde(default)]
    pub health: WorkerHealth,
    /// The status text that the worker has sent (`STATUS=` of sd_notify), printable, at most 200 characters; none if
    /// it has said nothing.
    #[serde(default)]
    pub text: Option<String>,
    /// Its worker port for each public port.
    pub ports: BTreeMap<Port, Port>,
    /// Its further ports (`private_ports`), in their order; empty for a worker of an earlier master that has
    /// overwritten its environment.
    #[serde(default)]
    pub private_ports: Vec<Port>,
    /// The number that no other worker has while it lives (`IPCLUSTER_WORKER`); none for a worker of an
    /// earlier master that has overwritten its environment.
    #[serde(default)]
    pub number: Option<u64>,
    /// Seconds since its process was started, finite; 0 while it has none.
    pub uptime: f64,
    /// Established connections to its worker ports, of both families, those that wait to be
    /// accepted among them; none if that could not be counted.
    pub connections: Option<u32>,
    /// Connections that wait in its accept queues; none if that could not be counted.
    #[serde(default)]
    pub queued: Option<u32>,
    /// Handshakes to its worker ports under way; none if that could not be counted.
    #[serde(default)]
    pub half_open: Option<u32>,
    /// How many connections the rules have led to its seat while it is live: since the cluster was
    /// first put in force, whichever worker held the seat, or since it was scaled to have the seat;
    /// a seat that is scaled away and back within about a second goes on counting. None for any other
    /// worker, and if it could not be read.
    #[serde(default)]
    pub connections_total: Option<u64>,
    /// Its resident memory in bytes, with all processes that it has started, when it was last looked
    /// at: a second ago at most. A page that several of them share counts in each. None if that is
    /// not known.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Seconds of processor time, finite: in user and in kernel mode, of all its processes that live, and
    /// of those that they have waited for. None if that is not known.
    #[serde(default)]
    pub processor: Option<f64>,
    /// How often this master has replaced a worker of its seat that was lost; 0 for one that is not live
    /// and does not get ready.
    #[serde(default)]
    pub restarts: u64,
    /// What became of the worker that the seat has lost last, or why it was replaced, for display, at most
    /// [`WaitingSeat::REASON_LEN`] characters; none if it has lost none while this master runs, or for one
    /// that is not live and does not get ready.
    #[serde(default)]
    pub last_loss: Option<String>,
}

/// Whether a worker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkerHealth {
    /// It does, or nobody has asked.
    #[default]
    Ok,
    /// It does not, and gets no clients while others do.
    Silent,
}

/// How full the kernel's connection tracking table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConntrackFill {
    /// Tracked connections in the network namespace of the master, of all programs.
    pub entries: u32,
    /// The most that there may be (`net.netfilter.nf_conntrack_max`); 0 for any number.
    pub limit: u32,
}

impl ConntrackFill {
    /// How much of it is in use, in percent of the limit; 0 without a limit.
    pub fn percent(self) -> u64 {
        (u64::from(self.entries) * 100).checked_div(u64::from(self.limit)).unwrap_or(0)
    }

    /// Whether more than 80 % of it are in use. At the limit the kernel drops new connections.
    pub fn is_nearly_full(self) -> bool {
        u64::from(self.entries) * 100 > u64::from(self.limit) * 80 && self.limit > 0
    }
}

/// How client addresses fall into slots, without the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PartitionKind {
    /// [`Partition::Hash`].
    Hash,
    /// [`Partition::Mask`].
    Mask,
    /// [`Partition::Hash`] of [`HashInput::Connection`].
    Connection,
    /// [`Partition::Random`].
    Random,
}

impl From<&Partition> for PartitionKind {
    fn from(partition: &Partition) -> Self {
        match partition {
            Partition::Hash { input: HashInput::Connection, .. } => Self::Connection,
            Partition::Hash { .. } => Self::Hash,
            Partition::Mask { .. } => Self::Mask,
            Partition::Random { .. } => Self::Random,
        }
    }
}

impl fmt::Display for PartitionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hash => "hash",
            Self::Mask => "mask",
            Self::Connection => "connection",
            Self::Random => "random",
        })
    }
}

/// Where new connections of one client address go, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The client's address.
    pub address: IpAddr,
    /// The port that the connection in question comes from; none: all connections of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The slot that it falls into.
    pub slot: Slot,
    /// The seat that the slot is assigned to.
    pub home: Seat,
    /// The seat whose worker gets its new connections: the home seat, or another while that one is
    /// vacant.
    pub seat: Seat,
    /// The process id of that worker; none where no master runs that knows it.
    pub pid: Option<u32>,
    /// The generation of that worker.
    pub generation: Generation,
    /// The worker port that each public port leads to.
    pub ports: BTreeMap<Port, Port>,
    /// The public ports that have a TCP listener.
    #[serde(default)]
    pub tcp_ports: BTreeSet<Port>,
    /// The public ports that have a UDP listener.
    #[serde(default)]
    pub udp_ports: BTreeSet<Port>,
    /// The steps from the address to the worker, in words, one sentence each.
    pub why: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_partition_has_the_name_of_its_setting() {
        let hash = |input| Partition::Hash { slots: 64, seed: 1, input };
        for (partition, name) in [
            (hash(HashInput::Address), "hash"),
            (hash(HashInput::Connection), "connection"),
            (Partition::Mask { slots: 64 }, "mask"),
            (Partition::Random { slots: 64 }, "random"),
        ] {
            let kind = PartitionKind::from(&partition);
            assert_eq!(format!("{kind:<11}|"), format!("{name:<11}|"));
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
    }
}
