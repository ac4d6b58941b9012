//! What the fake holds, and how it works on a batch: `nfnetlink_rcv_batch` and what it calls
//! (net/netfilter/nfnetlink.c, net/netfilter/nf_tables_api.c, Linux 6.18).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;

use super::{Disturbance, Injection};
use crate::netlink::{self, Attributes, Errno, Message, Messages, NetlinkError};
use crate::nft::error::{Fault, NotUnderstood};
use crate::nft::wire::batch::Batch;
use crate::nft::wire::dump::TableState;
use crate::nft::wire::message::{
    self, BATCH_BEGIN, BATCH_END, DELETE_TABLE, EXCLUSIVE, NEW_TABLE, NFNL_BATCH_GENID, TABLE,
};
use crate::nft::wire::replies::Outcome;
use crate::nft::wire::table::TableOwner;
use crate::nft::wire::table::{NFTA_TABLE_FLAGS, NFTA_TABLE_USERDATA};
use crate::nft::wire::table::{OWNER, PERSIST};
use crate::nft::wire::userdata;
use crate::plan::{ClusterName, Seat};
use crate::ruleset::{CounterValue, FakeTable, Operation, TableError, TableName, Transaction};

/// The port of those who are no firewall: they own nothing.
const STRANGER: u32 = 0;

/// All tables of a network namespace, and its sockets.
pub(super) struct Namespace {
    pub(super) generation_id: u32,
    pub(super) injections: VecDeque<Injection>,
    tables: BTreeMap<String, OwnedTable>,
    /// By port, the end that tells when a socket is closed.
    sockets: BTreeMap<u32, UnixStream>,
    next_port: u32,
    /// The flags of tables that the kernel knows.
    known_flags: u32,
}

/// A table.
#[derive(Debug, Clone)]
struct OwnedTable {
    flags: u32,
    /// The port of the socket that it belongs to.
    owner: Option<u32>,
    /// What its comment says; `None` if that is not ours.
    schema: Option<u32>,
    /// Whether it has something in it that none of ours has.
    is_spoiled: bool,
    contents: FakeTable,
}

/// A batch as it is worked on: a copy of the tables, to take their place or to be forgotten.
struct Attempt {
    tables: BTreeMap<String, OwnedTable>,
    sender: u32,
    known_flags: u32,
    /// The tables that have got another owner in it.
    taken: BTreeSet<String>,
    /// How many of its messages had anything to do.
    changes: usize,
    /// Whether each rule and each map is looked at as it comes (`NFT_VALIDATE_DO`).
    validates: bool,
}

impl Namespace {
    pub(super) fn new(known_flags: u32) -> Self {
        Self {
            generation_id: 1,
            injections: VecDeque::new(),
            tables: BTreeMap::new(),
            sockets: BTreeMap::new(),
            next_port: 1,
            known_flags,
        }
    }

    pub(super) fn connect(&mut self, end: UnixStream) -> u32 {
        let port = self.next_port;
        self.next_port += 1;
        self.sockets.insert(port, end);
        port
    }

    pub(super) fn transact(
        &mut self,
        sender: u32,
        batch: &Batch,
        transaction: &Transaction,
    ) -> Result<Outcome, NetlinkError> {
        self.release();
        let messages: Vec<_> = Messages::new(batch.datagram()).collect::<Result<_, _>>()?;
        let injection = match ends(&messages) {
            true => self.injections.pop_front(),
            false => None,
        };
        match injection {
            None => {}
            // What is said to him does not matter here.
            Some(Injection::Disturb(disturbance)) => drop(self.disturb(&disturbance)),
            Some(Injection::Refuse(errno)) => return Ok(refused(errno)),
            Some(Injection::FailToSend(errno)) => {
                let operation = netlink::SocketOperation::Send;
                return Err(NetlinkError::Socket { operation, source: errno.into() });
            }
            Some(Injection::LoseReplies) => {
                self.carry_out(sender, &messages, batch, transaction);
                return Ok(Outcome::Unknown);
            }
        }
        Ok(self.carry_out(sender, &messages, batch, transaction))
    }

    /// A batch with an error is worked on to its end, and undone.
    fn carry_out(
        &mut self,
        sender: u32,
        messages: &[Message<'_>],
        batch: &Batch,
        transaction: &Transaction,
    ) -> Outcome {
        if generation_id_of(messages).is_some_and(|id| id != 0 && id != self.generation_id) {
            return refused(Errno::ERESTART);
        }
        let mut attempt = self.attempt(sender, false);
        let mut faults = attempt.work(messages, batch, transaction);
        if faults.is_empty() && ends(messages) && attempt.has_loop() {
            // `nf_tables_commit` finds it at the end, and has all of it done again, to find where.
            attempt = self.attempt(sender, true);
            faults = attempt.work(messages, batch, transaction);
        }
        if !faults.is_empty() {
            return Outcome::Refused(faults);
        }
        if ends(messages) {
            self.tables = attempt.tables;
            // A transaction that changes nothing makes no new generation (`nf_tables_commit` with an empty list).
            self.generation_id += u32::from(attempt.changes > 0);
        }
        Outcome::Committed
    }

    fn attempt(&self, sender: u32, validates: bool) -> Attempt {
        let (tables, known_flags) = (self.tables.clone(), self.known_flags);
        let taken = BTreeSet::new();
        Attempt { tables, sender, known_flags, taken, changes: 0, validates }
    }

    /// Lets go of the tables of sockets that are closed (`nft_rcv_nl_event`). Their deletion is no
    /// transaction.
    fn release(&mut self) {
        self.sockets.retain(|_, end| is_open(end));
        let Self { tables, sockets, .. } = self;
        tables.retain(|_, table| match table.owner {
            Some(port) if !sockets.contains_key(&port) => {
                table.owner = None;
                table.flags &= !OWNER;
                table.flags & PERSIST != 0
            }
            _ => true,
        });
    }

    pub(super) fn disturb(&mut self, disturbance: &Disturbance) -> Result<(), Errno> {
        self.release();
        match disturbance {
            Disturbance::Elsewhere => {
                self.tables.insert("other".to_owned(), OwnedTable::new(0, STRANGER));
            }
            Disturbance::FlushRuleset => {
                let before = self.tables.len();
                self.tables.retain(|_, table| table.owner.is_some());
                if self.tables.len() == before {
                    return Ok(());
                }
            }
            Disturbance::Change(transaction) => {
                let batch = Batch::encode(transaction, None);
                let messages: Vec<_> = Messages::new(batch.datagram()).flatten().collect();
                return match self.carry_out(STRANGER, &messages, &batch, transaction) {
                    Outcome::Refused(faults) => Err(faults[0].errno),
                    Outcome::Committed | Outcome::Unknown => Ok(()),
                };
            }
            Disturbance::Spoil(cluster) => {
                let table = self.tables.get_mut(TableName::of(cluster).as_str());
                let table = table.ok_or(Errno::ENOENT)?;
                table.allows(STRANGER)?;
                table.is_spoiled = true;
            }
            Disturbance::Usurp(cluster) => self.displace(cluster, None)?,
            Disturbance::Schema(cluster, schema) => self.displace(cluster, Some(*schema))?,
        }
        self.generation_id += 1;
        Ok(())
    }

    /// Puts an empty table in the place of a cluster's.
    fn displace(&mut self, cluster: &ClusterName, schema: Option<u32>) -> Result<(), Errno> {
        let name = TableName::of(cluster).as_str().to_owned();
        if let Some(table) = self.tables.get(&name) {
            table.allows(STRANGER)?;
        }
        self.tables.insert(name, OwnedTable { schema, ..OwnedTable::new(0, STRANGER) });
        Ok(())
    }

    pub(super) fn count(&mut self, table: &str, seat: Seat, bytes: u64) {
        if let Some(table) = self.tables.get_mut(table) {
            table.contents.count(seat, bytes);
        }
    }

    pub(super) fn read(&mut self, table: &TableName) -> TableState {
        self.release();
        let Some(held) = self.tables.get(table.as_str()) else { return TableState::Absent };
        let owner = held.table_owner();
        match held.schema {
            None => TableState::Foreign,
            Some(TableName::SCHEMA) if held.is_spoiled => {
                let object = "chain mine".to_owned();
                TableState::Ours { contents: Err(NotUnderstood::Object { object }), owner }
            }
            Some(TableName::SCHEMA) => {
                TableState::Ours { contents: Ok(held.contents.ruleset(table)), owner }
            }
            Some(found) => TableState::OtherSchema { found, owner },
        }
    }

    pub(super) fn table_owner(&mut self, table: &str) -> Option<TableOwner> {
        self.release();
        self.tables.get(table).map(OwnedTable::table_owner)
    }

    pub(super) fn counter_values(&self, table: &str) -> BTreeMap<Seat, CounterValue> {
        self.tables.get(table).map(|held| held.contents.counter_values()).unwrap_or_default()
    }

    pub(super) fn tables(&mut self) -> Vec<String> {
        self.release();
        self.tables.keys().cloned().collect()
    }

    pub(super) fn clusters(&mut self) -> Vec<ClusterName> {
        self.release();
        let ours = self.tables.iter().filter(|(_, table)| table.schema.is_some());
        ours.filter_map(|(name, _)| TableName::cluster(name)).collect()
    }
}

/// Whether any copy of the descriptor at the other end is open.
fn is_open(mut end: &UnixStream) -> bool {
    match end.read(&mut [0]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Whether it is to be carried out: without its end it is a dry run.
fn ends(messages: &[Message<'_>]) -> bool {
    messages.last().is_some_and(|message| message.kind == BATCH_END)
}

fn generation_id_of(messages: &[Message<'_>]) -> Option<u32> {
    attributes(messages.first()?).u32(NFNL_BATCH_GENID)
}

/// The attributes of a message.
fn attributes<'a>(message: &Message<'a>) -> Attributes<'a> {
    Attributes::new(message::split(message.body).map_or(&[], |(_, attributes)| attributes))
}

/// A batch as a whole is refused: the fault is that of its begin.
fn refused(errno: Errno) -> Outcome {
    Outcome::Refused(vec![Fault { operation: None, errno, offset: None, text: None }])
}

impl Attempt {
    fn work(
        &mut self,
        messages: &[Message<'_>],
        batch: &Batch,
        transaction: &Transaction,
    ) -> Vec<Fault> {
        let mut done = BTreeSet::new();
        let mut faults = vec![];
        for (place, message) in messages.iter().enumerate() {
            let index = batch.operation_of(place);
            // The elements of a set are part of the operation that makes it.
            if index.is_some_and(|index| !done.insert(index)) {
                continue;
            }
            let operation = index.and_then(|index| transaction.operations.get(index));
            if let Err(errno) = self.step(message, operation) {
                let operation = operation.cloned();
                faults.push(Fault { operation, errno, offset: None, text: None });
            }
        }
        faults
    }

    fn step(&mut self, message: &Message<'_>, operation: Option<&Operation>) -> Result<(), Errno> {
        if matches!(message.kind, BATCH_BEGIN | BATCH_END) {
            return Ok(());
        }
        let attributes = attributes(message);
        let name = attributes.text(TABLE).ok_or(Errno::EINVAL)?;
        let there = self.tables.get_mut(name);
        if let Some(held) = &there {
            held.allows(self.sender)?;
        }
        let [_, kind] = message.kind.to_be_bytes();
        match (kind, there) {
            (NEW_TABLE, held) => {
                let flags = attributes.u32(NFTA_TABLE_FLAGS).unwrap_or_default();
                if flags & !self.known_flags != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                match held {
                    Some(_) if message.flags & EXCLUSIVE != 0 => return Err(Errno::EEXIST),
                    Some(held) => {
                        if held.update(flags, self.sender)? {
                            self.changes += 1;
                            self.taken.insert(name.to_owned());
                        }
                    }
                    None => {
                        let comment = attributes.get(NFTA_TABLE_USERDATA);
                        let schema =
                            comment.and_then(userdata::parse_comment).and_then(TableName::schema);
                        let held = OwnedTable { schema, ..OwnedTable::new(flags, self.sender) };
                        self.tables.insert(name.to_owned(), held);
                        self.changes += 1;
                    }
                }
            }
            (_, None) => return Err(Errno::ENOENT),
            (DELETE_TABLE, Some(_)) => {
                self.tables.remove(name);
                self.taken.remove(name);
                self.changes += 1;
            }
            (_, Some(held)) => {
                // Chains and rules of the table that keeps connections are not looked at.
                let Some(operation) = operation else { return Ok(()) };
                let is_base = matches!(operation, Operation::AddChain(it) if it.base().is_some());
                if is_base && self.taken.contains(name) {
                    // `__NFT_TABLE_F_UPDATE` in `nf_tables_addchain`.
                    return Err(Errno::EINVAL);
                }
                let is_idle = matches!(operation, Operation::FlushChain(chain)
                    if held.contents.is_empty_chain(*chain));
                held.contents.step(operation).map_err(errno_of)?;
                self.changes += usize::from(!is_idle);
                let is_checked = matches!(operation, Operation::AddRule(..))
                    || matches!(operation, Operation::AddSet(set) if !set.elements.is_empty());
                if self.validates && is_checked && held.contents.has_loop() {
                    return Err(errno_of(TableError::Loop));
                }
            }
        }
        Ok(())
    }

    fn has_loop(&self) -> bool {
        self.tables.values().any(|held| held.contents.has_loop())
    }
}

fn errno_of(refusal: TableError) -> Errno {
    match refusal {
        TableError::Exists => Errno::EEXIST,
        TableError::Missing => Errno::ENOENT,
        TableError::Busy => Errno::EBUSY,
        TableError::Loop => Errno::EMLINK,
    }
}

impl OwnedTable {
    fn new(flags: u32, sender: u32) -> Self {
        let owner = (flags & OWNER != 0).then_some(sender);
        Self { flags, owner, schema: None, is_spoiled: false, contents: FakeTable::default() }
    }

    /// Whether this socket may change it.
    fn allows(&self, sender: u32) -> Result<(), Errno> {
        match self.owner {
            Some(owner) if owner != sender => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    /// `nf_tables_updtable`. Returns whether there was anything to do.
    fn update(&mut self, flags: u32, sender: u32) -> Result<bool, Errno> {
        if flags == self.flags {
            return Ok(false);
        }
        let is_orphan = self.flags & (OWNER | PERSIST) == PERSIST;
        let loses_owner = self.owner.is_some() && flags & OWNER == 0;
        let cannot_have_one = flags & OWNER != 0 && !is_orphan;
        if loses_owner || cannot_have_one || (flags ^ self.flags) & PERSIST != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.flags = flags;
        self.owner = (flags & OWNER != 0).then_some(sender);
        Ok(true)
    }

    fn table_owner(&self) -> TableOwner {
        match self.owner {
            Some(port) => TableOwner::Socket(port),
            None if self.flags & PERSIST != 0 => TableOwner::Orphaned,
            None => TableOwner::None,
        }
    }
}
