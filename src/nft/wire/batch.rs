//! A transaction as the one datagram that carries it.

use super::element::{self, SetReference};
use super::message::{
    APPEND, BATCH_BEGIN, BATCH_END, CREATE, DELETE_CHAIN, DELETE_OBJECT, DELETE_RULE, DELETE_SET,
    DELETE_SET_ELEMENT, DELETE_TABLE, EXCLUSIVE, INET_HEADER, NEW_CHAIN, NEW_OBJECT, NEW_RULE,
    NEW_SET, NEW_SET_ELEMENT, NEW_TABLE, NFNL_BATCH_GENID, SUBSYSTEM, UNSPECIFIED, header, kind,
};
use super::table::OWNED;
use super::{chain, counter, rule, set, table};
use crate::netlink::{ACK, REQUEST, close_message, put_header};
use crate::plan::Port;
use crate::ruleset::{Operation, Set, SetName, TableName, Transaction};

/// A transaction, encoded: `BATCH_BEGIN`, its members, `BATCH_END`. The end alone asks for an
/// acknowledgement; errors come without asking.
#[derive(Debug, Clone)]
pub struct Batch {
    datagram: Vec<u8>,
    first_sequence: u32,
    places: Vec<Place>,
    next_set_id: u32,
    /// The flags of a table that it makes.
    table_flags: u32,
}

/// What a batch does to the ownership of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum OwnershipChange {
    /// Nothing: a table that it makes has no owner.
    None,
    /// The sender owns a table that it makes.
    OwnIfCreated,
    /// It begins with making the sender the owner of the table that is there, which must be an orphan
    /// or the sender's already. The sender owns a table that it makes, too.
    Adopt,
}

/// Where a message is in the datagram, and what for.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Where it begins.
    start: usize,
    /// The operation that it is part of.
    operation: Option<usize>,
}

/// A message that is part of no plan.
#[derive(Debug, Clone)]
pub(in crate::nft) struct Member {
    /// `NFT_MSG_*`.
    pub(in crate::nft) message: u8,
    /// `NLM_F_*`, without `NLM_F_REQUEST`.
    pub(in crate::nft) flags: u16,
    /// The attributes.
    pub(in crate::nft) body: Vec<u8>,
}

impl Batch {
    /// Encodes a transaction. With a `generation_id` the kernel carries it out only if nothing in
    /// the network namespace has changed since that was read, and else gives `ERESTART`.
    pub fn encode(transaction: &Transaction, generation_id: Option<u32>) -> Self {
        Self::encode_as(transaction, generation_id, OwnershipChange::None)
    }

    /// As [`Self::encode`], with a change of the table's ownership.
    pub(in crate::nft) fn encode_as(
        transaction: &Transaction,
        generation_id: Option<u32>,
        ownership: OwnershipChange,
    ) -> Self {
        let mut batch = Self::with_room_for(transaction.operations.len());
        batch.put_begin(generation_id);
        if ownership != OwnershipChange::None {
            batch.table_flags = OWNED;
        }
        if ownership == OwnershipChange::Adopt {
            batch.put(None, NEW_TABLE, 0, |body| {
                table::put_flags(body, transaction.table.as_str(), OWNED);
            });
        }
        for (index, operation) in transaction.operations.iter().enumerate() {
            batch.put_operation(&transaction.table, index, operation);
        }
        batch.put_end();
        batch
    }

    /// Encodes messages that are part of no plan.
    pub(in crate::nft) fn of(members: &[Member]) -> Self {
        let mut batch = Self::with_room_for(members.len());
        batch.put_begin(None);
        for member in members {
            batch.put_member(member, 0);
        }
        batch.put_end();
        batch
    }

    /// Encodes messages about objects of tables of any family, each with the number of the operation that it is
    /// part of. With a `generation_id` as [`Self::encode`].
    pub(in crate::nft) fn of_families(
        members: &[(usize, u8, Member)],
        generation_id: Option<u32>,
    ) -> Self {
        let mut batch = Self::with_room_for(members.len());
        batch.put_begin(generation_id);
        for (operation, family, member) in members {
            batch.begin(kind(member.message), member.flags, Some(*operation));
            batch.datagram.extend(header(*family, 0));
            batch.datagram.extend_from_slice(&member.body);
            batch.close();
        }
        batch.put_end();
        batch
    }

    /// Asks whether the kernel would do this: without its end a batch is checked, answered and
    /// undone, and nobody hears of it (`nfnetlink_rcv_batch`, net/netfilter/nfnetlink.c). The
    /// acknowledgement of the message stands for that of the end.
    pub(in crate::nft) fn dry_run(member: &Member) -> Self {
        let mut batch = Self::with_room_for(1);
        batch.put_begin(None);
        batch.put_member(member, ACK);
        batch
    }

    fn with_room_for(operations: usize) -> Self {
        Self {
            datagram: Vec::with_capacity(64 + 600 * operations),
            first_sequence: 0,
            // Most have one message; maps, at most every third, two.
            places: Vec::with_capacity(4 + 2 * operations),
            next_set_id: 1,
            table_flags: 0,
        }
    }

    /// The bytes to be sent, for benches and tests.
    pub fn datagram(&self) -> &[u8] {
        &self.datagram
    }

    /// The number of messages in it.
    pub(in crate::nft) fn messages(&self) -> usize {
        self.places.len()
    }

    /// Gives the messages sequence numbers in a row from this one.
    pub(in crate::nft) fn number_from(&mut self, first: u32) {
        self.first_sequence = first;
        for (index, &Place { start, .. }) in (0u32..).zip(&self.places) {
            let sequence = first.wrapping_add(index);
            self.datagram[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    /// The place of the message with this sequence number.
    pub(in crate::nft) fn message_at(&self, sequence: u32) -> Option<usize> {
        let index = sequence.wrapping_sub(self.first_sequence) as usize;
        (index < self.messages()).then_some(index)
    }

    /// How long the message at a place is, in bytes with its header.
    pub(in crate::nft) fn message_length(&self, message: usize) -> usize {
        let starts = |index: usize| self.places.get(index).map(|place| place.start);
        let end = starts(message + 1).unwrap_or(self.datagram.len());
        starts(message).map_or(0, |start| end.saturating_sub(start))
    }

    /// The operation that a message is part of; `None` for the begin and the end.
    pub(in crate::nft) fn operation_of(&self, message: usize) -> Option<usize> {
        self.places.get(message)?.operation
    }

    /// The place of the last message: the one that asks for an acknowledgement.
    pub(in crate::nft) fn end(&self) -> usize {
        self.messages() - 1
    }

    fn put_begin(&mut self, generation_id: Option<u32>) {
        self.begin(BATCH_BEGIN, 0, None);
        self.datagram.extend(header(UNSPECIFIED, SUBSYSTEM));
        if let Some(id) = generation_id {
            self.datagram.extend(8u16.to_ne_bytes());
            self.datagram.extend(NFNL_BATCH_GENID.to_ne_bytes());
            self.datagram.extend(id.to_be_bytes());
        }
        self.close();
    }

    fn put_end(&mut self) {
        self.begin(BATCH_END, ACK, None);
        self.datagram.extend(header(UNSPECIFIED, SUBSYSTEM));
        self.close();
    }

    fn put_member(&mut self, member: &Member, flags: u16) {
        self.put(None, member.message, member.flags | flags, |body| {
            body.extend_from_slice(&member.body);
        });
    }

    fn put_operation(&mut self, table: &TableName, index: usize, operation: &Operation) {
        /// Fails where there is one of that name already.
        const MAKE: u16 = CREATE | EXCLUSIVE;
        let index = Some(index);
        match operation {
            Operation::AddTable => {
                let flags = self.table_flags;
                self.put(index, NEW_TABLE, MAKE, |body| table::put_new(body, table, flags));
            }
            Operation::DeleteTable => {
                self.put(index, DELETE_TABLE, 0, |body| table::put_delete(body, table.as_str()));
            }
            Operation::AddCounter(name, value) => {
                self.put(index, NEW_OBJECT, MAKE, |body| {
                    counter::put_new(body, table, *name, *value);
                });
            }
            Operation::DeleteCounter(name) => {
                self.put(index, DELETE_OBJECT, 0, |body| counter::put_delete(body, table, *name));
            }
            Operation::AddChain(name) => {
                self.put(index, NEW_CHAIN, MAKE, |body| chain::put_new(body, table, *name));
            }
            Operation::FlushChain(name) => {
                self.put(index, DELETE_RULE, 0, |body| rule::put_delete_all(body, table, *name));
            }
            Operation::DeleteChain(name) => {
                self.put(index, DELETE_CHAIN, 0, |body| chain::put_delete(body, table, *name));
            }
            Operation::AddSet(set) => self.put_set(table, index, set),
            Operation::DeleteSet(name) => {
                self.put(index, DELETE_SET, 0, |body| set::put_delete(body, table, *name));
            }
            Operation::AddPorts(name, ports) => {
                self.put_ports(table, index, *name, ports, (NEW_SET_ELEMENT, CREATE));
            }
            Operation::DeletePorts(name, ports) => {
                self.put_ports(table, index, *name, ports, (DELETE_SET_ELEMENT, 0));
            }
            Operation::AddRule(chain, rule) => {
                self.put(index, NEW_RULE, CREATE | APPEND, |body| {
                    rule::put_new(body, table, *chain, rule);
                });
            }
        }
    }

    fn put_set(&mut self, table: &TableName, index: Option<usize>, set: &Set) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        // Without NLM_F_EXCL the kernel would add to what a set of that name holds.
        self.put(index, NEW_SET, CREATE | EXCLUSIVE, |body| set::put_new(body, table, set, id));
        let reference = SetReference { table: table.as_str(), set: set.name.into(), id: Some(id) };
        self.put_elements(index, (NEW_SET_ELEMENT, CREATE), |datagram, begin| {
            element::emit(datagram, reference, &set.elements, begin);
        });
    }

    /// Puts elements of a set that an earlier transaction has made.
    fn put_ports(
        &mut self,
        table: &TableName,
        index: Option<usize>,
        set: SetName,
        ports: &[Port],
        message: (u8, u16),
    ) {
        let reference = SetReference { table: table.as_str(), set: set.into(), id: None };
        self.put_elements(index, message, |datagram, begin| {
            element::emit_ports(datagram, reference, ports, begin);
        });
    }

    /// Puts a message with the attributes that `write` writes.
    fn put(
        &mut self,
        operation: Option<usize>,
        message: u8,
        flags: u16,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.begin(kind(message), flags, operation);
        self.datagram.extend(INET_HEADER);
        write(&mut self.datagram);
        self.close();
    }

    /// Lets `write` put elements into as many messages as they need.
    fn put_elements(
        &mut self,
        operation: Option<usize>,
        (message, flags): (u8, u16),
        write: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(&mut Vec<u8>)),
    ) {
        let Self { datagram, places, .. } = self;
        let mut open: Option<usize> = None;
        let mut begin = |datagram: &mut Vec<u8>| {
            if let Some(start) = open.replace(datagram.len()) {
                close_message(datagram, start);
            }
            places.push(Place { start: datagram.len(), operation });
            put_header(datagram, kind(message), REQUEST | flags, 0);
            datagram.extend(INET_HEADER);
        };
        write(datagram, &mut begin);
        if let Some(start) = open {
            close_message(datagram, start);
        }
    }

    fn begin(&mut self, kind: u16, flags: u16, operation: Option<usize>) {
        self.places.push(Place { start: self.datagram.len(), operation });
        put_header(&mut self.datagram, kind, REQUEST | flags, 0);
    }

    fn close(&mut self) {
        let start = self.places.last().map_or(0, |place| place.start);
        close_message(&mut self.datagram, start);
    }
}
