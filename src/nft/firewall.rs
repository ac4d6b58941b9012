//! The face of the room: what is in force, and one transaction to change it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::batch::Batch;
use super::dump::{self, Found, Tenure};
use super::error::{Fault, NftError, NotUnderstood, is_older_schema};
use super::keeper;
use super::kernel::Kernel;
use super::ownership::{OWNER, Ownership, PERSIST, Protection, Tenancy, trial};
use super::replies::Outcome;
use crate::netlink::{Error, NlFamily, Socket};
use crate::plan::{ClusterName, Engine, Listeners, Plan, Seat};
use crate::ruleset::{Ruleset, Stale, TableName, Tally, Transaction, Transition, lower, raise};

/// The rules of one cluster in the kernel.
///
/// Calls do not wait for anything but the kernel's own work on the request.
///
/// By default the table belongs to its socket as soon as it has changed it ([`Ownership::Auto`]), and
/// for as long as any copy of the descriptor is open: of [`as_fd`](AsFd::as_fd), or of a process
/// that it was sent to, which goes on with [`from_descriptor`](Self::from_descriptor).
pub struct Firewall {
    kernel: Box<dyn Kernel>,
    table: TableName,
    /// What the kernel holds, as far as we know.
    in_force: Option<Plan>,
    /// What it holds beside that, left by earlier plans.
    stale: Stale,
    /// From when on its times count.
    begin: Instant,
    /// What the counters of its seats had counted when they were last read.
    tallies: BTreeMap<Seat, Tally>,
    ownership: Ownership,
    /// What comes of `ownership` on this kernel, once that is known.
    protection: Option<Protection>,
    /// Whether the table belongs to our socket, so that nobody else can have changed it.
    owns: bool,
    /// Whether the table that keeps connections alive is there.
    keeps: bool,
}

/// How often something is tried that depends on what was read just before.
const ATTEMPTS: u32 = 5;

/// A transaction that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// [`NftError::Netlink`] with [`Error::NotThatSocket`] if it is anything but a netfilter netlink
    /// socket of this network namespace; [`NftError::Privilege`].
    pub fn from_descriptor(cluster: &ClusterName, descriptor: OwnedFd) -> Result<Self, NftError> {
        let table = TableName::of(cluster);
        let socket = Socket::from_descriptor(NlFamily::Netfilter, descriptor)
            .map_err(|source| netlink_error(&table, "take over the socket of its owner", source))?;
        Self::taken_over(Box::new(socket), table)
    }

    /// Goes on with a socket that may be the owner of the table.
    pub(super) fn taken_over(kernel: Box<dyn Kernel>, table: TableName) -> Result<Self, NftError> {
        let mut firewall = Self::on(kernel, table);
        firewall.look()?;
        Ok(firewall)
    }

    pub(super) fn on(kernel: Box<dyn Kernel>, table: TableName) -> Self {
        let (ownership, protection) = (Ownership::default(), None);
        Self {
            kernel,
            table,
            in_force: None,
            stale: Stale::default(),
            begin: Instant::now(),
            tallies: BTreeMap::new(),
            ownership,
            protection,
            owns: false,
            keeps: false,
        }
    }

    /// The same with another kind of ownership.
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
                match errno.filter(|errno| matches!(errno, Errno::EOPNOTSUPP | Errno::EINVAL)) {
                    Some(errno) => Ok(Err(errno)),
                    None => Err(self.refused(faults)),
                }
            }
            Outcome::Unknown => {
                let intent = "find out how it can be protected";
                Err(netlink_error(&self.table, intent, Error::RepliesLost))
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
        let tenure = match self.look()? {
            Found::Ours { tenure, .. } => tenure,
            Found::OtherSchema { found, tenure } if is_older_schema(found) => tenure,
            Found::OtherSchema { found, .. } => return Err(self.other_schema(found)),
            Found::Foreign => return Err(self.foreign()),
            Found::Nothing => return Ok(false),
        };
        match tenure {
            Tenure::OwnedBy(owner) if !self.owns => Err(self.owned_by_other(owner)),
            Tenure::Orphaned if protection == Protection::Owned => {
                let nothing = self.nothing();
                let mut batch = Batch::encode_as(&nothing, None, Tenancy::Take);
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

    /// Reads what is in force: what an earlier master left, or nothing. If the listeners are those
    /// `expected`, they come in that order. Whose the table is makes no difference.
    ///
    /// # Errors
    /// [`NftError::Privilege`]; [`NftError::ForeignTable`]; [`NftError::Schema`];
    /// [`NftError::NotUnderstood`]; [`NftError::Netlink`].
    pub fn read(&mut self, expected: Option<&Listeners>) -> Result<Option<Plan>, NftError> {
        // If it cannot be read or understood, nothing is known of it: the next plan is then put in
        // force whole.
        (self.in_force, self.stale) = (None, Stale::default());
        let Some(ruleset) = self.read_ruleset()? else { return Ok(None) };
        let plan =
            raise(&ruleset, expected).map_err(|reason| self.not_understood(reason.into()))?;
        self.stale = stale_beside(&plan, &ruleset, self.begin.elapsed());
        self.in_force = Some(plan.clone());
        Ok(Some(plan))
    }

    /// Reads the objects that are in force, and what earlier plans have left of theirs.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn read_ruleset(&mut self) -> Result<Option<Ruleset>, NftError> {
        match self.look()? {
            Found::Nothing => Ok(None),
            Found::Ours { contents: Ok(ruleset), .. } => Ok(Some(ruleset)),
            Found::Ours { contents: Err(reason), .. } => Err(self.not_understood(reason)),
            Found::OtherSchema { found, .. } => Err(self.other_schema(found)),
            Found::Foreign => Err(self.foreign()),
        }
    }

    /// What the counter of each seat has counted since the cluster was first put in force: across
    /// generations, masters and repairs, as long as the seat was not scaled away. Empty where there
    /// is no table. A few tens of microseconds, which nothing else waits for.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub fn tallies(&mut self) -> Result<BTreeMap<Seat, Tally>, NftError> {
        let mut tallies = self
            .kernel
            .tallies(&self.table)
            .map_err(|source| netlink_error(&self.table, "read its counters", source))?;
        tallies.retain(|seat, _| self.stale.seats().all(|stale| stale != *seat));
        self.tallies.extend(&tallies);
        Ok(tallies)
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
        let port = self.kernel.port();
        port.map_err(|source| netlink_error(&self.table, "name the socket for it", source))
    }

    /// Whose the table is, for tests; `None` if there is none.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    #[doc(hidden)]
    pub fn tenure(&mut self) -> Result<Option<Tenure>, NftError> {
        let tenure = self.kernel.tenure(self.table.as_str());
        tenure.map_err(|source| netlink_error(&self.table, "read it", source))
    }

    /// The number of the last transaction in the network namespace, for tests.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    #[doc(hidden)]
    pub fn generation_id(&mut self) -> Result<u32, NftError> {
        let id = self.kernel.generation_id();
        id.map_err(|source| netlink_error(&self.table, "read it", source))
    }

    /// Reads the table, and learns whether it is ours.
    fn look(&mut self) -> Result<Found, NftError> {
        let failed = |source| netlink_error(&self.table, "read it", source);
        let found = self.kernel.read(&self.table).map_err(failed)?;
        let port_id = self.kernel.port().map_err(failed)?;
        self.owns = match &found {
            Found::Ours { tenure, .. } | Found::OtherSchema { tenure, .. } => {
                *tenure == Tenure::OwnedBy(port_id)
            }
            Found::Nothing | Found::Foreign => false,
        };
        Ok(found)
    }

    /// Puts a plan in force, in one transaction that changes only what differs.
    ///
    /// If the kernel no longer holds what we put there, the table is made anew, whole, from the
    /// plan. If it is to be ours and is not yet, it is taken in the same transaction.
    ///
    /// # Errors
    /// [`NftError::Privilege`]; [`NftError::Refused`] with the objects at fault;
    /// [`NftError::ForeignTable`]; [`NftError::OwnedByOther`]; [`NftError::Schema`] of a newer one;
    /// [`NftError::NoOwnership`]; [`NftError::Netlink`]. In every case what was in force still is.
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, NftError> {
        match self.protection()? {
            Protection::Owned if !self.owns => return self.take(plan),
            Protection::Kept => self.keep_connections_of(plan)?,
            Protection::Owned | Protection::None => {}
        }
        let transition = match &self.in_force {
            Some(in_force) => {
                Transition::between(in_force, &self.stale, plan, self.begin.elapsed())?
            }
            None => Transaction::create(plan).into(),
        };
        match self.carry_out(transition, plan, None, Tenancy::Make) {
            Err(NftError::Refused { .. }) if !self.holds_what_we_think() => self.restore(plan),
            result => result,
        }
    }

    /// Removes what earlier plans have left in the table, as far as at `now` no packet can be on its
    /// way through the rules that led to it ([`Stale::GRACE`]). Without effect while nothing is in
    /// force that we know of, or the table is to be ours and is not yet. [`Self::apply`] does the
    /// same by the way.
    ///
    /// # Errors
    /// Those of [`Self::apply`]. What is in force is as it was.
    pub fn tidy(&mut self, now: Instant) -> Result<Applied, NftError> {
        let nothing = Applied { operations: 0, bytes: 0 };
        let may = self.owns || self.protection()? != Protection::Owned;
        let Some(plan) = self.in_force.clone().filter(|_| may) else { return Ok(nothing) };
        let tidy = |firewall: &mut Self| {
            let table = firewall.table.clone();
            let transition =
                Transition::tidy(table, &firewall.stale, now.duration_since(firewall.begin));
            firewall.carry_out(transition, &plan, None, Tenancy::Make)
        };
        match tidy(self) {
            // Somebody has been here before us.
            Err(NftError::Refused { .. }) if self.holds_what_we_think() => tidy(self),
            result => result,
        }
    }

    /// When there is something for [`Self::tidy`] to do; `None` while nothing is left of earlier
    /// plans.
    pub fn tidy_at(&self) -> Option<Instant> {
        Some(self.begin + self.stale.due_at()?)
    }

    /// What earlier plans have left in the table, as far as we know.
    pub fn stale(&self) -> &Stale {
        &self.stale
    }

    /// Compares what the kernel holds, and whose it is, with what [`Self::apply`] put there last. What
    /// earlier plans have left there makes no difference.
    ///
    /// # Errors
    /// [`NftError::Differs`] with the first object that does, and those of [`Self::read`].
    pub fn verify(&mut self) -> Result<(), NftError> {
        let owned = self.owns;
        let found = self.read_ruleset()?;
        let object = match self.find_stale(found.as_ref()) {
            false => first_difference(self.in_force.as_ref().map(lower).as_ref(), found.as_ref()),
            true if owned && !self.owns => "its owner".to_owned(),
            true => return Ok(()),
        };
        Err(NftError::Differs { table: self.table.clone(), object })
    }

    /// Whether what was read is what is in force, and what earlier plans have left: which is known
    /// from then on.
    fn find_stale(&mut self, found: Option<&Ruleset>) -> bool {
        let stale = match (&self.in_force, found) {
            (None, None) => Stale::default(),
            (Some(plan), Some(found)) => {
                match Stale::beside(&lower(plan), found, self.begin.elapsed()) {
                    Some(stale) => stale.aged_as(&self.stale),
                    None => return false,
                }
            }
            _ => return false,
        };
        self.stale = stale;
        true
    }

    /// Removes the table, whatever is in it, if it carries our mark. Returns whether there was one.
    /// Established connections through it are reset with their next packet.
    ///
    /// # Errors
    /// Those of [`Self::apply`].
    pub fn remove(&mut self) -> Result<bool, NftError> {
        let removed = self.remove_table()?;
        (self.in_force, self.stale, self.owns) = (None, Stale::default(), false);
        self.keep_no_longer()?;
        Ok(removed)
    }

    fn remove_table(&mut self) -> Result<bool, NftError> {
        let transaction = Transaction::remove(self.table.clone());
        self.unless_overtaken(|firewall, generation_id| {
            match firewall.read_ruleset() {
                Ok(None) => return Ok(Some(false)),
                Ok(Some(_)) => {}
                Err(error) if error.can_be_replaced() => {}
                Err(error) => return Err(error),
            }
            let mut batch = Batch::encode(&transaction, Some(generation_id));
            match firewall.send(&mut batch, &transaction)? {
                Outcome::Committed => Ok(Some(true)),
                Outcome::Refused(faults) if is_overtaken(&faults) => Ok(None),
                Outcome::Refused(faults) => Err(firewall.refused(faults)),
                Outcome::Unknown if firewall.read_ruleset()?.is_none() => Ok(Some(true)),
                Outcome::Unknown => {
                    Err(netlink_error(&firewall.table, "remove it", Error::RepliesLost))
                }
            }
        })
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

    /// Carries out a transaction as it is, for tests of what the kernel says to it. What is in force
    /// counts as unknown then.
    ///
    /// # Errors
    /// Those of [`Self::apply`].
    #[doc(hidden)]
    pub fn carry_out_as_it_is(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        (self.in_force, self.stale) = (None, Stale::default());
        match self.send(&mut Batch::encode(transaction, None), transaction)? {
            Outcome::Committed => Ok(()),
            Outcome::Refused(faults) => Err(self.refused(faults)),
            Outcome::Unknown => Err(netlink_error(&self.table, "change it", Error::RepliesLost)),
        }
    }

    /// Puts a plan in force whatever the table holds, if it is ours: all of it in one transaction, in
    /// which what was there goes. Established connections live on. So do the counters of seats, which
    /// begin with the values last read: what they count between that and the commit, some hundred
    /// microseconds, is lost, and if the table is gone all since they were read before.
    ///
    /// # Errors
    /// Those of [`Self::apply`], and [`NftError::Overtaken`].
    pub fn restore(&mut self, plan: &Plan) -> Result<Applied, NftError> {
        if self.protection()? == Protection::Kept {
            self.keep_connections_of(plan)?;
        }
        self.unless_overtaken(|firewall, generation_id| {
            let transaction = match firewall.read_ruleset() {
                Ok(None) => Transaction::create(plan),
                Ok(Some(_)) => Transaction::replace(plan),
                Err(error) if error.can_be_replaced() => Transaction::replace(plan),
                Err(error) => return Err(error),
            };
            firewall.carry_out_at(generation_id, transaction.into(), plan, Tenancy::Make)
        })
    }

    /// Puts a plan in force in a table that is not ours yet, and makes it ours: an orphan is taken
    /// and changed in one transaction. One that was made without an owner cannot get one later that
    /// it would outlive, so that it is replaced; established connections live on, since a nat base
    /// chain stands throughout.
    fn take(&mut self, plan: &Plan) -> Result<Applied, NftError> {
        self.unless_overtaken(|firewall, generation_id| {
            let (transition, tenancy) = match firewall.look()? {
                Found::Nothing => (Transaction::create(plan).into(), Tenancy::Make),
                Found::Foreign => return Err(firewall.foreign()),
                Found::OtherSchema { found, .. } if !is_older_schema(found) => {
                    return Err(firewall.other_schema(found));
                }
                Found::Ours { tenure: Tenure::OwnedBy(owner), .. }
                | Found::OtherSchema { tenure: Tenure::OwnedBy(owner), .. }
                    if !firewall.owns =>
                {
                    return Err(firewall.owned_by_other(owner));
                }
                Found::Ours { tenure, contents: Ok(ruleset) } if tenure != Tenure::Shared => {
                    // What a plan is made of in the order of its own listeners can be compared.
                    match raise(&ruleset, Some(plan.listeners())) {
                        Ok(there) => {
                            let now = firewall.begin.elapsed();
                            let stale = stale_beside(&there, &ruleset, now);
                            let stale = stale.aged_as(&firewall.stale);
                            let transition = Transition::between(&there, &stale, plan, now)?;
                            let adds_base = transition.transaction.adds_base_chain();
                            if tenure == Tenure::Orphaned && adds_base {
                                // The kernel adds none to a table that changes its owner in the
                                // same transaction (`nf_tables_addchain`: EINVAL).
                                firewall.adopt()?;
                                return Ok(None);
                            }
                            (transition, Tenancy::Take)
                        }
                        Err(_) => (Transaction::replace(plan).into(), Tenancy::Make),
                    }
                }
                Found::Ours { .. } | Found::OtherSchema { .. } => {
                    (Transaction::replace(plan).into(), Tenancy::Make)
                }
            };
            firewall.carry_out_at(generation_id, transition, plan, tenancy)
        })
    }

    /// Keeps connections alive that would not outlive our table: where nothing is translated they
    /// belong to their sockets, and nothing is to be tracked.
    fn keep_connections_of(&mut self, plan: &Plan) -> Result<(), NftError> {
        match plan.engine() {
            Engine::Redirect => self.keep_connections(),
            Engine::Tproxy => Ok(()),
        }
    }

    /// Makes the table that keeps established connections alive while ours is gone, unless it is
    /// there.
    fn keep_connections(&mut self) -> Result<(), NftError> {
        if self.keeps {
            return Ok(());
        }
        let failed =
            |table: &TableName, source| netlink_error(table, "keep its connections", source);
        let keeper = keeper::name(&self.table);
        let tenure = self.kernel.tenure(&keeper);
        let tenure = tenure.map_err(|source| failed(&self.table, source))?;
        let port_id = self.kernel.port().map_err(|source| failed(&self.table, source))?;
        match tenure {
            Some(Tenure::OwnedBy(owner)) if owner == port_id => {}
            Some(Tenure::OwnedBy(owner)) => return Err(self.owned_by_other(owner)),
            other => {
                let mut batch = Batch::of(&keeper::make(&self.table, other.is_some()));
                match self.send(&mut batch, &self.nothing())? {
                    Outcome::Committed => {}
                    Outcome::Refused(faults) => return Err(self.refused(faults)),
                    Outcome::Unknown => return Err(failed(&self.table, Error::RepliesLost)),
                }
            }
        }
        self.keeps = true;
        Ok(())
    }

    /// Removes the table that keeps established connections alive, if it is ours.
    fn keep_no_longer(&mut self) -> Result<(), NftError> {
        if !std::mem::take(&mut self.keeps) {
            return Ok(());
        }
        match self.send(&mut Batch::of(&keeper::remove(&self.table)), &self.nothing())? {
            Outcome::Committed => Ok(()),
            Outcome::Refused(faults) => Err(self.refused(faults)),
            Outcome::Unknown => {
                Err(netlink_error(&self.table, "let go of its connections", Error::RepliesLost))
            }
        }
    }

    /// A transaction on our table that does nothing.
    fn nothing(&self) -> Transaction {
        Transaction { table: self.table.clone(), operations: vec![] }
    }

    /// Does what follows from reading the table, at the generation of the kernel's rules at which it
    /// was read; again, if somebody else's transaction came between (`None`).
    fn unless_overtaken<T>(
        &mut self,
        mut work: impl FnMut(&mut Self, u32) -> Result<Option<T>, NftError>,
    ) -> Result<T, NftError> {
        for _ in 0..ATTEMPTS {
            let generation_id = self.generation_id()?;
            if let Some(result) = work(self, generation_id)? {
                return Ok(result);
            }
        }
        Err(NftError::Overtaken { table: self.table.clone(), attempts: ATTEMPTS })
    }

    /// Lets the counters of a transaction that makes the table anew go on from what they are.
    fn seed(&mut self, transaction: &mut Transaction) {
        if !transaction.makes_table() {
            return;
        }
        // Without them the rules are worth no less.
        if let Err(error) = self.tallies() {
            tracing::warn!(%error, "counters of connections may go back to earlier values");
        }
        transaction.seed(&self.tallies);
    }

    fn holds_what_we_think(&mut self) -> bool {
        self.read_ruleset().is_ok_and(|found| self.find_stale(found.as_ref()))
    }

    /// Whether the table holds a plan, beside it what is stale, and nothing else.
    fn holds(&mut self, plan: &Plan, stale: &Stale) -> Result<bool, NftError> {
        let Some(found) = self.read_ruleset()? else { return Ok(false) };
        let beside = Stale::beside(&lower(plan), &found, self.begin.elapsed());
        Ok(beside.is_some_and(|found| found.aged_as(stale) == *stale))
    }

    /// Carries out a transaction that ends in `plan` if nothing in the network namespace has changed
    /// since this generation id; else does nothing (`None`).
    fn carry_out_at(
        &mut self,
        generation_id: u32,
        transition: Transition,
        plan: &Plan,
        tenancy: Tenancy,
    ) -> Result<Option<Applied>, NftError> {
        match self.carry_out(transition, plan, Some(generation_id), tenancy) {
            Err(NftError::Refused { faults, .. }) if is_overtaken(&faults) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Carries out a transaction that ends in `plan`; with a generation id only if nothing in the
    /// network namespace has changed since. A table that it makes is ours if it is to be.
    fn carry_out(
        &mut self,
        transition: Transition,
        plan: &Plan,
        generation_id: Option<u32>,
        tenancy: Tenancy,
    ) -> Result<Applied, NftError> {
        let Transition { mut transaction, stale } = transition;
        if transaction.is_empty() && tenancy != Tenancy::Take {
            (self.in_force, self.stale) = (Some(plan.clone()), stale);
            return Ok(Applied { operations: 0, bytes: 0 });
        }
        self.seed(&mut transaction);
        let owned = self.protection == Some(Protection::Owned);
        let tenancy = if owned { tenancy } else { Tenancy::None };
        let mut batch = Batch::encode_as(&transaction, generation_id, tenancy);
        let applied =
            Applied { operations: transaction.operations.len(), bytes: batch.datagram().len() };
        match self.send(&mut batch, &transaction)? {
            Outcome::Committed => self.owns = owned,
            Outcome::Refused(faults) => return Err(self.refused(faults)),
            Outcome::Unknown if self.holds(plan, &stale)? && self.owns == owned => {}
            Outcome::Unknown => {
                return Err(netlink_error(&self.table, "change it", Error::RepliesLost));
            }
        }
        while let Some(last) = self.tallies.last_entry()
            && last.key().index() >= plan.seats().len()
        {
            last.remove();
        }
        (self.in_force, self.stale) = (Some(plan.clone()), stale);
        Ok(applied)
    }

    /// Has a batch carried out.
    fn send(&mut self, batch: &mut Batch, transaction: &Transaction) -> Result<Outcome, NftError> {
        let outcome = self.kernel.transact(batch, transaction);
        outcome.map_err(|source| netlink_error(&self.table, "change it", source))
    }

    /// What it means that the kernel has refused something. `EPERM` is said both to those without
    /// the capability and to those who are not the owner: whose the table is tells which.
    fn refused(&mut self, faults: Vec<Fault>) -> NftError {
        if !faults.iter().any(|fault| fault.errno == Errno::EPERM) {
            return NftError::Refused { table: self.table.clone(), faults };
        }
        match self.kernel.tenure(self.table.as_str()) {
            Ok(Some(Tenure::OwnedBy(owner))) if self.kernel.port().ok() != Some(owner) => {
                self.owned_by_other(owner)
            }
            // Without the capability the kernel answers no question about tables either.
            Err(error) if error.errno() == Some(Errno::EPERM) => NftError::Privilege,
            // The owner has gone meanwhile, or a batch as a whole was refused.
            _ if faults.iter().any(|fault| fault.operation.is_none()) => NftError::Privilege,
            _ => NftError::Refused { table: self.table.clone(), faults },
        }
    }

    fn not_understood(&self, reason: NotUnderstood) -> NftError {
        NftError::NotUnderstood { table: self.table.clone(), reason }
    }

    fn foreign(&self) -> NftError {
        NftError::ForeignTable { table: self.table.clone() }
    }

    fn other_schema(&self, found: u32) -> NftError {
        NftError::Schema { table: self.table.clone(), found, ours: TableName::SCHEMA }
    }

    fn owned_by_other(&self, owner: u32) -> NftError {
        NftError::OwnedByOther { table: self.table.clone(), owner }
    }
}

/// The netlink socket, to be sent to another process: see [`Firewall::from_descriptor`].
impl AsFd for Firewall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}

/// What a ruleset holds beside the plan that it was raised to.
fn stale_beside(plan: &Plan, ruleset: &Ruleset, now: Duration) -> Stale {
    Stale::beside(&lower(plan), ruleset, now).unwrap_or_default()
}

/// Whether a transaction was refused because another one came before it.
fn is_overtaken(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| fault.errno == Errno::ERESTART)
}

pub(super) fn netlink_error(table: &TableName, intent: &'static str, source: Error) -> NftError {
    match source.errno() {
        Some(Errno::EPERM | Errno::EACCES) => NftError::Privilege,
        _ => NftError::Netlink { table: table.clone(), intent, source },
    }
}

/// Names the first object that only one of two rulesets has, or that differs.
fn first_difference(expected: Option<&Ruleset>, found: Option<&Ruleset>) -> String {
    let (Some(expected), Some(found)) = (expected, found) else { return "the table".to_owned() };
    let chains = expected.chains.iter().chain(&found.chains);
    let chain = chains
        .into_iter()
        .find(|chain| !(expected.chains.contains(chain) && found.chains.contains(chain)));
    let counters = expected.counters.iter().chain(&found.counters);
    let counter = counters
        .into_iter()
        .find(|it| !(expected.counters.contains(it) && found.counters.contains(it)));
    let sets = expected.sets.iter().chain(&found.sets);
    let set =
        sets.into_iter().find(|set| !(expected.sets.contains(set) && found.sets.contains(set)));
    match (chain, set, counter) {
        (Some(chain), ..) => format!("chain {}", chain.name),
        (None, Some(set), _) => format!("set {}", set.name),
        (None, None, Some(counter)) => format!("counter {counter}"),
        (None, None, None) => "the order of its objects".to_owned(),
    }
}
