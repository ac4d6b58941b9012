//! The face of the room: what is in force, and one transaction to change it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nix::errno::Errno;

use super::batch::Batch;
use super::dump::{self, Found};
use super::error::{Fault, NftError};
use super::replies::{Outcome, Replies};
use crate::netlink::{Error, NlFamily, Socket};
use crate::plan::{ClusterName, Listeners, Plan, Seat};
use crate::ruleset::{Ruleset, TableName, Tally, Transaction, lower, raise};

/// The rules of one cluster in the kernel.
///
/// Calls do not wait for anything but the kernel's own work on the request.
pub struct Firewall {
    socket: Socket,
    table: TableName,
    /// What the kernel holds, as far as we know.
    in_force: Option<Plan>,
    /// What the counters of its seats had counted when they were last read.
    tallies: BTreeMap<Seat, Tally>,
}

/// How often something is tried that depends on what was read just before.
const ATTEMPTS: u32 = 5;

/// A transaction that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// How many operations it had; 0 if there was nothing to change, and nothing was sent.
    pub operations: usize,
    /// The length of the datagram, in bytes.
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
        Ok(Self { socket, table, in_force: None, tallies: BTreeMap::new() })
    }

    /// Reads what is in force: what an earlier master left, or nothing. If the listeners are those
    /// `expected`, they come in that order.
    ///
    /// # Errors
    /// [`NftError::Privilege`]; [`NftError::ForeignTable`]; [`NftError::NotUnderstood`];
    /// [`NftError::Netlink`].
    pub fn read(&mut self, expected: Option<&Listeners>) -> Result<Option<Plan>, NftError> {
        // If it cannot be read or understood, nothing is known of it: the next plan is then put in
        // force whole.
        self.in_force = None;
        let Some(ruleset) = self.read_ruleset()? else { return Ok(None) };
        let plan =
            raise(&ruleset, expected).map_err(|reason| self.not_understood(reason.into()))?;
        self.in_force = Some(plan.clone());
        Ok(Some(plan))
    }

    /// Reads the objects that are in force.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn read_ruleset(&mut self) -> Result<Option<Ruleset>, NftError> {
        let found = dump::read(&mut self.socket, &self.table)
            .map_err(|source| netlink_error(&self.table, "read it", source))?;
        match found {
            Found::Nothing => Ok(None),
            Found::Ours(ruleset) => Ok(Some(ruleset)),
            Found::Foreign => Err(NftError::ForeignTable { table: self.table.clone() }),
            Found::Unknown(reason) => Err(self.not_understood(reason)),
        }
    }

    /// What the counter of each seat has counted since the cluster was first put in force: across
    /// generations, masters and repairs, as long as the seat was not scaled away. Empty where there
    /// is no table. A few tens of microseconds, which nothing else waits for.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub fn tallies(&mut self) -> Result<BTreeMap<Seat, Tally>, NftError> {
        let tallies = dump::tallies(&mut self.socket, &self.table)
            .map_err(|source| netlink_error(&self.table, "read its counters", source))?;
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
        let port = self.socket.port();
        port.map_err(|source| netlink_error(&self.table, "name the socket for it", source))
    }

    /// Puts a plan in force, in one transaction that changes only what differs.
    ///
    /// If the kernel no longer holds what we put there, the table is made anew, whole, from the
    /// plan.
    ///
    /// # Errors
    /// [`NftError::Privilege`]; [`NftError::Refused`] with the objects at fault;
    /// [`NftError::ForeignTable`]; [`NftError::Netlink`]. In every case what was in force still is.
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, NftError> {
        let transaction = match &self.in_force {
            Some(in_force) => Transaction::between(in_force, plan)?,
            None => Transaction::create(plan),
        };
        match self.carry_out(&transaction, plan, None) {
            Err(NftError::Refused { .. }) if !self.holds_what_we_think() => self.restore(plan),
            result => result,
        }
    }

    /// Compares what the kernel holds with what [`Self::apply`] put there last.
    ///
    /// # Errors
    /// [`NftError::Differs`] with the first object that does, and those of [`Self::read`].
    pub fn verify(&mut self) -> Result<(), NftError> {
        let expected = self.in_force.as_ref().map(lower);
        let found = self.read_ruleset()?;
        if found == expected {
            return Ok(());
        }
        let table = self.table.clone();
        Err(NftError::Differs {
            table,
            object: first_difference(expected.as_ref(), found.as_ref()),
        })
    }

    /// Removes the table, whatever is in it, if it carries our mark. Returns whether there was one.
    /// Established connections through it are reset with their next packet.
    ///
    /// # Errors
    /// Those of [`Self::apply`].
    pub fn remove(&mut self) -> Result<bool, NftError> {
        let transaction = Transaction::remove(self.table.clone());
        let removed = self.unless_overtaken(|firewall, generation_id| {
            match firewall.read_ruleset() {
                Ok(None) => return Ok(Some(false)),
                Ok(Some(_)) | Err(NftError::NotUnderstood { .. }) => {}
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
        })?;
        self.in_force = None;
        Ok(removed)
    }

    /// The clusters that have a table in this network namespace.
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
    /// members.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub fn probe(&mut self) -> Result<(), NftError> {
        let nothing = Transaction { table: self.table.clone(), operations: vec![] };
        match self.send(&mut Batch::encode(&nothing, None), &nothing)? {
            Outcome::Committed | Outcome::Unknown => Ok(()),
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
        self.in_force = None;
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
        self.unless_overtaken(|firewall, generation_id| {
            let transaction = match firewall.read_ruleset() {
                Ok(None) => Transaction::create(plan),
                Ok(Some(_)) | Err(NftError::NotUnderstood { .. }) => Transaction::replace(plan),
                Err(error) => return Err(error),
            };
            match firewall.carry_out(&transaction, plan, Some(generation_id)) {
                Err(NftError::Refused { faults, .. }) if is_overtaken(&faults) => Ok(None),
                result => result.map(Some),
            }
        })
    }

    /// Does what follows from reading the table, at the generation of the kernel's rules at which it
    /// was read; again, if somebody else's transaction came between (`None`).
    fn unless_overtaken<T>(
        &mut self,
        mut work: impl FnMut(&mut Self, u32) -> Result<Option<T>, NftError>,
    ) -> Result<T, NftError> {
        for _ in 0..ATTEMPTS {
            let generation_id = dump::generation_id(&mut self.socket)
                .map_err(|source| netlink_error(&self.table, "read it", source))?;
            if let Some(result) = work(self, generation_id)? {
                return Ok(result);
            }
        }
        Err(NftError::Overtaken { table: self.table.clone(), attempts: ATTEMPTS })
    }

    /// A transaction that makes the table anew, with counters that go on from what they are.
    fn seeded<'t>(&mut self, transaction: &'t Transaction) -> Cow<'t, Transaction> {
        if !transaction.makes_table() {
            return Cow::Borrowed(transaction);
        }
        // Without them the rules are worth no less.
        if let Err(error) = self.tallies() {
            tracing::warn!(%error, "counters of connections may go back to earlier values");
        }
        let mut transaction = transaction.clone();
        transaction.seed(&self.tallies);
        Cow::Owned(transaction)
    }

    fn holds_what_we_think(&mut self) -> bool {
        let expected = self.in_force.as_ref().map(lower);
        self.read_ruleset().is_ok_and(|found| found == expected)
    }

    /// Carries out a transaction that ends in `plan`; with a generation id only if nothing in the
    /// network namespace has changed since.
    fn carry_out(
        &mut self,
        transaction: &Transaction,
        plan: &Plan,
        generation_id: Option<u32>,
    ) -> Result<Applied, NftError> {
        if transaction.is_empty() {
            self.in_force = Some(plan.clone());
            return Ok(Applied { operations: 0, bytes: 0 });
        }
        let transaction = &*self.seeded(transaction);
        let mut batch = Batch::encode(transaction, generation_id);
        let applied =
            Applied { operations: transaction.operations.len(), bytes: batch.datagram().len() };
        match self.send(&mut batch, transaction)? {
            Outcome::Committed => {}
            Outcome::Refused(faults) => return Err(self.refused(faults)),
            Outcome::Unknown if self.read_ruleset()?.as_ref() == Some(&lower(plan)) => {}
            Outcome::Unknown => {
                return Err(netlink_error(&self.table, "change it", Error::RepliesLost));
            }
        }
        self.tallies.retain(|seat, _| seat.index() < plan.seats().len());
        self.in_force = Some(plan.clone());
        Ok(applied)
    }

    /// Sends a batch and reads the replies. The kernel has worked on it when `send` returns, so all
    /// replies that there will be are there.
    fn send(&mut self, batch: &mut Batch, transaction: &Transaction) -> Result<Outcome, NftError> {
        let failed = |table: &TableName, source| netlink_error(table, "change it", source);
        let count = u32::try_from(batch.messages()).unwrap_or(u32::MAX);
        batch.number_from(self.socket.take_sequences(count));
        self.socket
            .reserve_send(batch.datagram().len())
            .and_then(|()| self.socket.reserve_receive(batch.messages()))
            .and_then(|()| self.socket.send(batch.datagram()))
            .map_err(|source| failed(&self.table, source))?;
        match collect(&mut self.socket, batch, transaction) {
            Err(Error::RepliesLost) => {
                self.socket.discard_replies();
                Ok(Outcome::Unknown)
            }
            result => result.map_err(|source| failed(&self.table, source)),
        }
    }

    fn refused(&self, faults: Vec<Fault>) -> NftError {
        if faults.iter().any(|fault| fault.errno == Errno::EPERM) {
            return NftError::Privilege;
        }
        NftError::Refused { table: self.table.clone(), faults }
    }

    fn not_understood(&self, reason: super::error::NotUnderstood) -> NftError {
        NftError::NotUnderstood { table: self.table.clone(), reason }
    }
}

/// Whether a transaction was refused because another one came before it.
fn is_overtaken(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| fault.errno == Errno::ERESTART)
}

/// Reads all replies to a batch.
fn collect(
    socket: &mut Socket,
    batch: &Batch,
    transaction: &Transaction,
) -> Result<Outcome, Error> {
    let mut replies = Replies::to(batch, transaction);
    while let Some(datagram) = socket.receive()? {
        replies.read(datagram)?;
    }
    Ok(replies.outcome())
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
