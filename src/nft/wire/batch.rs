//! A transaction as the one datagram that carries it.

use netlink_packet_core::Emitable;
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableFlags};

use super::element::{self, SetReference};
use super::message::OWNED;
use super::{counter, message};
use crate::netlink::{ACK, REQUEST, close_message, put_header};
use crate::ruleset::{Operation, Transaction};

/// `NFNL_SUBSYS_NFTABLES`: the upper byte of a message's kind, and what `BATCH_BEGIN` names.
const SUBSYSTEM: u16 = 10;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `NFNL_BATCH_GENID` (include/uapi/linux/netfilter/nfnetlink.h).
const NFNL_BATCH_GENID: u16 = 1;

/// `NFT_MSG_NEWRULE`, `NFT_MSG_DELRULE`, `NFT_MSG_NEWSET`, `NFT_MSG_DELSET`, `NFT_MSG_NEWSETELEM`,
/// `NFT_MSG_NEWOBJ`, `NFT_MSG_DELOBJ`.
pub(in crate::nft) const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_SET_ELEMENT: u16 = 12;
const NEW_OBJECT: u16 = 18;
const DELETE_OBJECT: u16 = 20;

/// `NLM_F_EXCL`, `NLM_F_CREATE`, `NLM_F_APPEND`.
const EXCLUSIVE: u16 = 0x200;
pub(in crate::nft) const CREATE: u16 = 0x400;
pub(in crate::nft) const APPEND: u16 = 0x800;

/// `AF_UNSPEC`, `NFPROTO_INET`.
const UNSPECIFIED: u8 = 0;
const INET: u8 = 1;

/// `NFNL_SUBSYS_NFTABLES << 8 | kind`.
pub(in crate::nft) const fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

/// `struct nfgenmsg`.
pub(in crate::nft) const fn netfilter_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// The header of requests about objects of an `inet` table.
pub(in crate::nft) const INET_HEADER: [u8; 4] = netfilter_header(INET, 0);

/// A transaction, encoded: `BATCH_BEGIN`, its members, `BATCH_END`. The end alone asks for an
/// acknowledgement; errors come without asking.
#[derive(Debug, Clone)]
pub struct Batch {
    datagram: Vec<u8>,
    first_sequence: u32,
    places: Vec<Place>,
    next_set_id: u32,
    /// The flags of a table that it makes.
    table_flags: TableFlags,
}

/// What a batch does to the ownership of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum OwnershipChange {
    /// Nothing; a table that it makes is nobody's.
    None,
    /// A table that it makes is ours.
    OwnIfCreated,
    /// The same, and it begins with taking the one that is there, an orphan or ours.
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
    pub(in crate::nft) message: u16,
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

    /// The same, with what it makes of the ownership of the table.
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
            let take = message::take_table(&transaction.table, OWNED);
            batch.put(None, 0, &take);
        }
        for (index, operation) in transaction.operations.iter().enumerate() {
            batch.put_operation(transaction, index, operation);
        }
        batch.put_end();
        batch
    }

    /// Encodes messages that are part of no plan.
    pub(in crate::nft) fn of(members: &[Member]) -> Self {
        let mut batch = Self::with_room_for(members.len());
        batch.put_begin(None);
        for member in members {
            batch.put_with(None, member.message, member.flags, |datagram| {
                datagram.extend_from_slice(&member.body);
            });
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
        batch.put_with(None, member.message, member.flags | ACK, |datagram| {
            datagram.extend_from_slice(&member.body);
        });
        batch
    }

    fn with_room_for(operations: usize) -> Self {
        Self {
            datagram: Vec::with_capacity(64 + 600 * operations),
            first_sequence: 0,
            // Most have one message; maps, at most every third, two.
            places: Vec::with_capacity(4 + 2 * operations),
            next_set_id: 1,
            table_flags: TableFlags::empty(),
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
        self.datagram.extend(netfilter_header(UNSPECIFIED, SUBSYSTEM));
        if let Some(id) = generation_id {
            self.datagram.extend(8u16.to_ne_bytes());
            self.datagram.extend(NFNL_BATCH_GENID.to_ne_bytes());
            self.datagram.extend(id.to_be_bytes());
        }
        self.close();
    }

    fn put_end(&mut self) {
        self.begin(BATCH_END, ACK, None);
        self.datagram.extend(netfilter_header(UNSPECIFIED, SUBSYSTEM));
        self.close();
    }

    fn put_operation(&mut self, transaction: &Transaction, index: usize, operation: &Operation) {
        let table = &transaction.table;
        match operation {
            Operation::AddTable => {
                let add = message::add_table(table, self.table_flags);
                self.put(Some(index), CREATE | EXCLUSIVE, &add);
            }
            Operation::DeleteTable => self.put(Some(index), 0, &message::delete_table(table)),
            Operation::AddCounter(counter, value) => {
                self.put_with(Some(index), NEW_OBJECT, CREATE | EXCLUSIVE, |datagram| {
                    counter::put_new(datagram, table, *counter, *value);
                });
            }
            Operation::DeleteCounter(counter) => {
                self.put_with(Some(index), DELETE_OBJECT, 0, |datagram| {
                    counter::put_delete(datagram, table, *counter);
                });
            }
            Operation::AddChain(chain) => {
                self.put(Some(index), CREATE | EXCLUSIVE, &message::add_chain(table, *chain));
            }
            Operation::FlushChain(chain) => {
                self.put_with(Some(index), DELETE_RULE, 0, |datagram| {
                    message::put_flush_chain(datagram, table, *chain);
                })
            }
            Operation::DeleteChain(chain) => {
                self.put(Some(index), 0, &message::delete_chain(table, *chain));
            }
            Operation::AddSet(set) => {
                let id = self.take_set_id();
                // Else the kernel would add to what a set of that name holds.
                self.put_with(Some(index), NEW_SET, CREATE | EXCLUSIVE, |datagram| {
                    message::put_set(datagram, table, set, id);
                });
                let target = SetReference { table: table.as_str(), set: set.name, id };
                self.put_elements(index, |datagram, begin| {
                    element::emit(datagram, target, &set.elements, begin);
                });
            }
            Operation::DeleteSet(set) => self.put_with(Some(index), DELETE_SET, 0, |datagram| {
                message::put_delete_set(datagram, table, *set);
            }),
            Operation::AddRule(chain, rule) => {
                self.put_with(Some(index), NEW_RULE, CREATE | APPEND, |datagram| {
                    message::put_rule(datagram, table, *chain, rule);
                });
            }
        }
    }

    fn take_set_id(&mut self) -> u32 {
        let id = self.next_set_id;
        self.next_set_id += 1;
        id
    }

    fn put(&mut self, operation: Option<usize>, flags: u16, message: &NfTablesMessage) {
        self.begin(kind(u8::from(message.message_type()).into()), flags, operation);
        self.datagram.extend(INET_HEADER);
        let start = self.datagram.len();
        self.datagram.resize(start + message.buffer_len(), 0);
        message.emit(&mut self.datagram[start..]);
        self.close();
    }

    /// Puts a message whose body `write` writes.
    fn put_with(
        &mut self,
        operation: Option<usize>,
        message: u16,
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
        operation: usize,
        write: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(&mut Vec<u8>)),
    ) {
        let Self { datagram, places, .. } = self;
        let mut open: Option<usize> = None;
        let mut begin = |datagram: &mut Vec<u8>| {
            if let Some(start) = open.replace(datagram.len()) {
                close_message(datagram, start);
            }
            places.push(Place { start: datagram.len(), operation: Some(operation) });
            put_header(datagram, kind(NEW_SET_ELEMENT), REQUEST | CREATE, 0);
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
