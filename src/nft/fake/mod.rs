//! The nf_tables of a network namespace, in memory: for tests of all that stands above netlink.

mod namespace;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::NftError;
use super::firewall::NfTables;
use super::firewall::Protection;
use super::firewall::{Firewall, netlink_error};
use super::wire::batch::Batch;
use super::wire::dump::TableState;
use super::wire::replies::Outcome;
use super::wire::table::{OWNER, PERSIST};
use crate::netlink::{Errno, NetlinkError, SocketOperation};
use crate::nft::wire::table::TableOwner;
use crate::plan::{ClusterName, Seat};
use crate::ruleset::{CounterValue, Ruleset, TableName, Transaction};

use namespace::Namespace;

/// A kernel that is none: [`Firewall`]s on it do all that they do on a real one, without a privilege
/// and without a system call but for the descriptors that stand for their sockets.
///
/// It carries out transactions whole or not at all, and refuses what the kernel refuses, with its
/// errnos. Tables have owners, which are orphaned when the last copy of their owner's descriptor is
/// closed. Clones are the same network namespace. `netns-tests/tests/cases/conformance.rs` compares it with
/// the real one, over random histories.
///
/// No packet passes it: what counters count has to be [told](Self::count).
///
/// ```
/// use ipcluster::internals::nft::{Fake, Injection};
/// # use ipcluster::plan::{Listeners, Partition, Plan, Weights};
/// # let listeners = Listeners::new(vec!["10.9.0.1:80".parse()?])?;
/// # let partition = Partition::hash(64)?;
/// # let plan = Plan::new("web".parse()?, listeners, partition, &Weights::equal(4)?, None)?;
/// let fake = Fake::new();
/// let mut firewall = fake.open(plan.name())?;
/// // The outcome of the next transaction is not told, and is read back.
/// fake.inject(Injection::LoseReplies);
/// firewall.apply(&plan)?;
/// firewall.verify()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Fake {
    namespace: Arc<Mutex<Namespace>>,
}

/// A fault of the next transaction. Those without members count as well, dry runs do not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Injection {
    /// Somebody else changes something just before it: after all that was read for it.
    Disturb(Disturbance),
    /// It is carried out, or refused, and all replies are lost (`ENOBUFS`).
    LoseReplies,
    /// The kernel refuses it as a whole, such as with `ENOMEM`.
    Refuse(Errno),
    /// It cannot be sent, such as with `EMSGSIZE`.
    FailToSend(Errno),
}

/// What somebody else does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// Makes a table anew that is no cluster's, `other`.
    Elsewhere,
    /// `nft flush ruleset`: removes every table without an owner.
    FlushRuleset,
    /// Operations on the table of a cluster.
    Change(Transaction),
    /// Adds an object to the table of a cluster that none of ours has.
    Spoil(ClusterName),
    /// Puts a table of his own in the place of a cluster's.
    Usurp(ClusterName),
    /// Puts an empty table of another schema in the place of a cluster's.
    Schema(ClusterName, u32),
}

impl Fake {
    /// An empty network namespace of a kernel that knows all that ipcluster makes use of.
    pub fn new() -> Self {
        Self::protecting(Protection::Owned)
    }

    /// An empty network namespace of a kernel that can protect a table no better than this.
    pub fn protecting(best: Protection) -> Self {
        let flags = match best {
            Protection::Owned => OWNER | PERSIST,
            Protection::Kept => OWNER,
            Protection::None => 0,
        };
        Self { namespace: Arc::new(Mutex::new(Namespace::new(flags))) }
    }

    /// A firewall for the table of a cluster: see [`Firewall::open`].
    ///
    /// # Errors
    /// [`NftError::Netlink`] if there can be no descriptor for it.
    pub fn open(&self, cluster: &ClusterName) -> Result<Firewall, NftError> {
        let table = TableName::of(cluster);
        let opened = UnixStream::pair().and_then(|(socket, end)| {
            end.set_nonblocking(true)?;
            Ok((OwnedFd::from(socket), end))
        });
        let (descriptor, end) = opened.map_err(|source| {
            let source = NetlinkError::Socket { operation: SocketOperation::Open, source };
            netlink_error(&table, "open a socket for it", source)
        })?;
        let port = self.namespace().connect(end);
        let socket = Socket { namespace: Arc::clone(&self.namespace), port, descriptor };
        Ok(Firewall::on(Box::new(socket), table))
    }

    /// Goes on with a copy of the descriptor of another firewall: see
    /// [`Firewall::from_descriptor`]. `port` is the [port](Firewall::port) of that one.
    ///
    /// # Errors
    /// The errors of [`Firewall::read_ruleset`].
    pub fn from_descriptor(
        &self,
        cluster: &ClusterName,
        descriptor: OwnedFd,
        port: u32,
    ) -> Result<Firewall, NftError> {
        let socket = Socket { namespace: Arc::clone(&self.namespace), port, descriptor };
        Firewall::taken_over(Box::new(socket), TableName::of(cluster))
    }

    /// Has the transaction after those that have faults already meet with this one.
    pub fn inject(&self, injection: Injection) {
        self.namespace().injections.push_back(injection);
    }

    /// How many faults nothing has met with yet.
    pub fn injections_left(&self) -> usize {
        self.namespace().injections.len()
    }

    /// Has somebody else do something now.
    ///
    /// # Errors
    /// What the kernel says to him: `EPERM` if the table has an owner.
    pub fn disturb(&self, disturbance: &Disturbance) -> Result<(), Errno> {
        self.namespace().disturb(disturbance)
    }

    /// Has the counter of a seat count a connection whose first packet has this many bytes.
    pub fn count(&self, cluster: &ClusterName, seat: Seat, bytes: u64) {
        self.namespace().count(TableName::of(cluster).as_str(), seat, bytes);
    }

    /// What is in the table of a cluster; `None` if it has none, or somebody else's.
    pub fn ruleset(&self, cluster: &ClusterName) -> Option<Ruleset> {
        match self.namespace().read(&TableName::of(cluster)) {
            TableState::Ours { contents: Ok(ruleset), .. } => Some(ruleset),
            _ => None,
        }
    }

    /// The names of all tables.
    pub fn tables(&self) -> Vec<String> {
        self.namespace().tables()
    }

    /// The number of the last transaction that has changed something.
    pub fn generation_id(&self) -> u32 {
        self.namespace().generation_id
    }

    /// The clusters that have a table: see [`Firewall::clusters`].
    pub fn clusters(&self) -> Vec<ClusterName> {
        self.namespace().clusters()
    }

    fn namespace(&self) -> MutexGuard<'_, Namespace> {
        lock(&self.namespace)
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").field("tables", &self.tables()).finish_non_exhaustive()
    }
}

/// What is in it is whole at any time: a transaction works on a copy.
fn lock(namespace: &Mutex<Namespace>) -> MutexGuard<'_, Namespace> {
    namespace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket. It is closed when the last copy of its descriptor is, which the namespace sees at the
/// other end.
struct Socket {
    namespace: Arc<Mutex<Namespace>>,
    port: u32,
    descriptor: OwnedFd,
}

impl NfTables for Socket {
    fn transact(
        &mut self,
        batch: &mut Batch,
        transaction: &Transaction,
    ) -> Result<Outcome, NetlinkError> {
        lock(&self.namespace).transact(self.port, batch, transaction)
    }

    fn read(&mut self, table: &TableName) -> Result<TableState, NetlinkError> {
        Ok(lock(&self.namespace).read(table))
    }

    fn table_owner(&mut self, table: &str) -> Result<Option<TableOwner>, NetlinkError> {
        Ok(lock(&self.namespace).table_owner(table))
    }

    fn generation_id(&mut self) -> Result<u32, NetlinkError> {
        Ok(lock(&self.namespace).generation_id)
    }

    fn counter_values(
        &mut self,
        table: &TableName,
    ) -> Result<BTreeMap<Seat, CounterValue>, NetlinkError> {
        Ok(lock(&self.namespace).counter_values(table.as_str()))
    }

    fn port(&self) -> Result<u32, NetlinkError> {
        Ok(self.port)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
