//! The face of the room: what is in force, and one transaction to change it.

mod commit;
mod flush_protection;
mod flush_table;
mod nf_tables;
mod ownership;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use crate::netlink::{Errno, NetlinkError, NlFamily, Socket};
use crate::nft::error::{NftError, is_older_schema};
use crate::nft::wire::batch::Batch;
use crate::nft::wire::batch::OwnershipChange;
use crate::nft::wire::dump::{self, TableState};
use crate::nft::wire::replies::Outcome;
use crate::nft::wire::table::TableOwner;
use crate::nft::wire::table::{OWNER, PERSIST};
use crate::plan::{ClusterName, Ownership, Plan, Seat};
use crate::ruleset::{CounterValue, Stale, TableName};
pub(super) use nf_tables::NfTables;
pub use ownership::Protection;
use ownership::trial;

/// The rules of one cluster in the kernel.
///
/// Calls do not wait for anything but the kernel's own work on the request.
///
/// By default the table belongs to its socket as soon as it has changed it ([`Ownership::Auto`]), and
/// for as long as any copy of the descriptor is open: of [`as_fd`](AsFd::as_fd), or of a process
/// that it was sent to, which goes on with [`from_descriptor`](Self::from_descriptor).
///
/// ```no_run
/// use ipcluster::nft::Firewall;
/// use ipcluster::plan::{ClusterName, Generation, Listeners, Occupant, Partition};
/// use ipcluster::plan::{Plan, Port, Seat, Weights};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let name: ClusterName = "web".parse()?;
/// let listeners = Listeners::new(vec!["0.0.0.0:80".parse()?])?;
/// let mut plan =
///     Plan::new(name.clone(), listeners, Partition::hash(1024)?, &Weights::equal(1)?, None)?;
/// let worker = Occupant::new(Generation::FIRST, [Port::try_from(20_000)?]);
/// plan.occupy(Seat(0), worker)?;
///
/// let mut firewall = Firewall::open(&name)?;
/// // What is in force: nothing, or what an earlier process has left.
/// firewall.read()?;
/// firewall.apply(&plan)?;
/// # Ok(())
/// # }
/// ```
pub struct Firewall {
    nf_tables: Box<dyn NfTables>,
    table: TableName,
    /// What the kernel holds, as far as we know.
    in_force: Option<Plan>,
    /// What it holds beside that, left by earlier plans.
    stale: Stale,
    /// From when on its times count.
    begin: Instant,
    /// What the counters of its seats had counted when they were last read.
    counter_values: BTreeMap<Seat, CounterValue>,
    ownership: Ownership,
    /// What comes of `ownership` on this kernel, once that is known.
    protection: Option<Protection>,
    /// Whether the table belongs to our socket, so that nobody else can have changed it.
    owns: bool,
    /// Whether the table that keeps connections alive is there.
    keeps: bool,
}

/// A transaction that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// How many operations it had; 0 if there was nothing to change.
    pub operations: usize,
    /// The length of the datagram, in bytes; 0 if nothing was sent. Without an operation it made us
    /// the owner of the table, and changed nothing else.
    pub bytes: usize,
}

impl Firewall {
    /// Opens a netlink socket for the table of a cluster. Reads and changes nothing.
    ///
    /// # Errors
    /// [`NftError::Netlink`] if there can be no socket.
    pub fn open(cluster: &ClusterName) -> Result<Self, NftError> {
        let table = TableName::of(cluster);
        let socket = Socket::open(NlFamily::Netfilter)
            .map_err(|source| netlink_error(&table, "open a socket for it", source))?;
        Ok(Self::on(Box::new(socket), table))
    }

    /// Goes on with the netlink socket of another `Firewall` of this cluster, most often one of
    /// another process, and with it as the owner of the table: at no moment is it nobody's. That one
    /// should change nothing any more. What is in force is to be [read](Self::read).
    ///
    /// # Errors
    /// [`NftError::Netlink`] with [`NetlinkError::NotThatSocket`] if it is anything but a netfilter netlink
    /// socket of this network namespace; [`NftError::Privilege`].
    pub fn from_descriptor(cluster: &ClusterName, descriptor: OwnedFd) -> Result<Self, NftError> {
        let table = TableName::of(cluster);
        let socket = Socket::from_descriptor(NlFamily::Netfilter, descriptor)
            .map_err(|source| netlink_error(&table, "take over the socket of its owner", source))?;
        Self::taken_over(Box::new(socket), table)
    }

    /// Goes on with a socket that may be the owner of the table.
    pub(super) fn taken_over(
        nf_tables: Box<dyn NfTables>,
        table: TableName,
    ) -> Result<Self, NftError> {
        let mut firewall = Self::on(nf_tables, table);
        firewall.look()?;
        Ok(firewall)
    }

    pub(super) fn on(nf_tables: Box<dyn NfTables>, table: TableName) -> Self {
        let (ownership, protection) = (Ownership::default(), None);
        Self {
            nf_tables,
            table,
            in_force: None,
            stale: Stale::default(),
            begin: Instant::now(),
            counter_values: BTreeMap::new(),
            ownership,
            protection,
            owns: false,
            keeps: false,
        }
    }

    /// This firewall with another kind of ownership of its table.
    #[must_use]
    pub fn with_ownership(self, ownership: Ownership) -> Self {
        Self { ownership, protection: None, ..self }
    }

    /// How the table is, or will be, protected from other programs. The kernel is asked by having
    /// it check a table with these flags that is never made; its version says little of what a
    /// distribution has built.
    ///
    /// # Errors
    /// [`NftError::NoOwnership`] if it is to be [owned](Ownership::Owned) and cannot;
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub fn protection(&mut self) -> Result<Protection, NftError> {
        if let Some(known) = self.protection {
            return Ok(known);
        }
        let owned = match self.ownership {
            Ownership::Shared => None,
            Ownership::Auto | Ownership::Owned => Some(self.try_table_flags(OWNER | PERSIST)?),
        };
        let protection = match (owned, self.ownership) {
            (Some(Ok(())), _) => Protection::Owned,
            (Some(Err(errno)), Ownership::Owned) => return Err(NftError::NoOwnership { errno }),
            _ if self.try_table_flags(OWNER)?.is_ok() => Protection::Kept,
            _ => Protection::None,
        };
        self.protection = Some(protection);
        Ok(protection)
    }

    /// Whether the kernel makes tables with these flags (`NFT_TABLE_F_*`), or what it says to them:
    /// `EOPNOTSUPP`, before Linux 5.12 `EINVAL`. None is made.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    #[doc(hidden)]
    pub fn try_table_flags(&mut self, flags: u32) -> Result<Result<(), Errno>, NftError> {
        match self.send(&mut Batch::dry_run(&trial(flags)), &self.nothing())? {
            Outcome::Committed => Ok(Ok(())),
            Outcome::Refused(faults) => {
                let errno = faults.first().map(|fault| fault.errno);
                match errno.filter(|errno| matches!(*errno, Errno::EOPNOTSUPP | Errno::EINVAL)) {
                    Some(errno) => Ok(Err(errno)),
                    None => Err(self.refused(faults)),
                }
            }
            Outcome::Unknown => {
                let intent = "find out how it can be protected";
                Err(netlink_error(&self.table, intent, NetlinkError::RepliesLost))
            }
        }
    }

    /// Becomes the owner of the table that is there, if it can have one, and changes nothing else.
    /// Returns whether it is ours now. A table that is not, since it was made without an owner or by
    /// another schema, becomes ours when it is [replaced](Self::restore).
    ///
    /// # Errors
    /// [`NftError::OwnedByOther`]; [`NftError::ForeignTable`]; [`NftError::Schema`] of a newer one;
    /// [`NftError::NoOwnership`]; [`NftError::Privilege`]; [`NftError::Netlink`].
    pub fn adopt(&mut self) -> Result<bool, NftError> {
        let protection = self.protection()?;
        let owner = match self.look()? {
            TableState::Ours { owner, .. } => owner,
            TableState::OtherSchema { found, owner } if is_older_schema(found) => owner,
            TableState::OtherSchema { found, .. } => return Err(self.other_schema(found)),
            TableState::Foreign => return Err(self.foreign()),
            TableState::Absent => return Ok(false),
        };
        match owner {
            TableOwner::Socket(owner) if !self.owns => Err(self.owned_by_other(owner)),
            TableOwner::Orphaned if protection == Protection::Owned => {
                let nothing = self.nothing();
                let mut batch = Batch::encode_as(&nothing, None, OwnershipChange::Adopt);
                match self.send(&mut batch, &nothing)? {
                    Outcome::Committed => self.owns = true,
                    Outcome::Refused(faults) => return Err(self.refused(faults)),
                    Outcome::Unknown => drop(self.look()?),
                }
                Ok(self.owns)
            }
            _ => Ok(self.owns),
        }
    }

    /// The table of the cluster.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// The netlink port of the socket that this value changes rules by: how its own commits are
    /// told from those of others (see [`Commit::port`](super::Commit::port)).
    ///
    /// # Errors
    /// [`NftError::Netlink`].
    pub fn port(&self) -> Result<u32, NftError> {
        let port = self.nf_tables.port();
        port.map_err(|source| netlink_error(&self.table, "name the socket for it", source))
    }

    /// Whose the table is, for tests; `None` if there is none.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    #[cfg(any(test, feature = "internals"))]
    pub fn table_owner(&mut self) -> Result<Option<TableOwner>, NftError> {
        let owner = self.nf_tables.table_owner(self.table.as_str());
        owner.map_err(|source| netlink_error(&self.table, "read it", source))
    }

    /// The number of the last transaction in the network namespace, for tests.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    #[doc(hidden)]
    pub fn generation_id(&mut self) -> Result<u32, NftError> {
        let id = self.nf_tables.generation_id();
        id.map_err(|source| netlink_error(&self.table, "read it", source))
    }

    /// What earlier plans have left in the table, as far as we know, for tests.
    #[cfg(any(test, feature = "internals"))]
    pub fn stale(&self) -> &Stale {
        &self.stale
    }

    /// The clusters that have a table in this network namespace, of whatever schema and owner.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub fn clusters() -> Result<Vec<ClusterName>, NftError> {
        let any = TableName::any();
        let failed = |source| netlink_error(&any, "list the tables", source);
        let mut socket = Socket::open(NlFamily::Netfilter).map_err(failed)?;
        let tables = dump::our_tables(&mut socket).map_err(failed)?;
        Ok(tables.iter().filter_map(|table| TableName::cluster(table)).collect())
    }

    /// Whether this process may change rules at all, asked of the kernel by a transaction without
    /// members; and whether the table can be protected as it is to be.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::NoOwnership`], [`NftError::Netlink`].
    pub fn probe(&mut self) -> Result<(), NftError> {
        let nothing = self.nothing();
        match self.send(&mut Batch::encode(&nothing, None), &nothing)? {
            Outcome::Committed | Outcome::Unknown => self.protection().map(drop),
            Outcome::Refused(faults) => Err(self.refused(faults)),
        }
    }
}

impl fmt::Debug for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Firewall")
            .field("table", &self.table)
            .field("in_force", &self.in_force)
            .field("ownership", &self.ownership)
            .field("protection", &self.protection)
            .field("owns", &self.owns)
            .finish_non_exhaustive()
    }
}

/// The netlink socket, to be sent to another process: see [`Firewall::from_descriptor`].
impl AsFd for Firewall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.nf_tables.as_fd()
    }
}

pub(super) fn netlink_error(
    table: &TableName,
    intent: &'static str,
    source: NetlinkError,
) -> NftError {
    match source.errno() {
        Some(Errno::EPERM | Errno::EACCES) => NftError::Privilege,
        _ => NftError::Netlink { table: table.clone(), intent, source },
    }
}
