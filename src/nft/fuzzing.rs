//! Everything that reads what the kernel sends, over bytes that it did not send: for the fuzzer and
//! the tests of bad input.

use super::watch;
use super::wire::batch::Batch;
use super::wire::chain::Chain;
use super::wire::counter::Object;
use super::wire::element;
use super::wire::generation::Generation;
use super::wire::message::{
    self, NEW_CHAIN, NEW_GENERATION, NEW_RULE, NEW_SET, NEW_TABLE, SUBSYSTEM,
};
use super::wire::replies::Replies;
use super::wire::rule::Rule;
use super::wire::set;
use super::wire::table::Table;
use crate::netlink::{Attributes, ERROR, Messages};
use crate::plan::{Protocol, Seat};
use crate::ruleset::{Digest, Family, Operation, SetName, TableName, Transaction};

/// Reads a datagram in every way in which one of the kernel's is read. Returns how many of its
/// messages are tables, chains, rules, sets or generations in their form.
pub fn read_bytes(datagram: &[u8]) -> usize {
    let transaction = Transaction {
        table: TableName::any(),
        operations: vec![Operation::AddTable, Operation::DeleteTable],
    };
    let batch = Batch::encode(&transaction, None);
    let mut replies = Replies::to(&batch, &transaction);
    // The outcome does not matter, nor whether there is one.
    let _ = replies.read(datagram);
    let _ = replies.outcome();
    watch::read_bytes(datagram);
    let messages = Messages::new(datagram).flatten().filter(|message| message.kind != ERROR);
    messages.filter(|message| is_read(message.kind, message.body)).count()
}

fn is_read(kind: u16, body: &[u8]) -> bool {
    let Some((_, attributes)) = message::split(body) else { return false };
    read_parts(Attributes::new(attributes));
    let [subsystem, message] = kind.to_be_bytes();
    let Some(whole) = Attributes::whole(attributes).filter(|_| subsystem == SUBSYSTEM) else {
        return false;
    };
    match message {
        NEW_TABLE => Table::parse(whole).is_some(),
        NEW_CHAIN => Chain::parse(whole).is_some(),
        NEW_RULE => Rule::parse(whole).is_some(),
        NEW_SET => set::parse_name(whole).is_some(),
        NEW_GENERATION => Generation::parse(whole).is_some(),
        _ => false,
    }
}

/// Reads attributes as those of every kind of object.
fn read_parts(attributes: Attributes<'_>) {
    let _ = Object::parse(attributes).as_ref().and_then(Object::counter);
    let _ = Table::parse(attributes);
    let _ = Chain::parse(attributes);
    let _ = Rule::parse(attributes);
    let Some(elements) = element::parse(attributes) else { return };
    for set in [
        SetName::Listeners(Family::V4),
        SetName::Listeners(Family::V6),
        SetName::Wildcards(Family::V4),
        SetName::Slots(Digest(0)),
        SetName::MaskedSlots(Family::V4, Digest(0)),
        SetName::MaskedSlots(Family::V6, Digest(0)),
        SetName::Ports(Seat(0), Protocol::Tcp, Digest(0)),
    ] {
        let _ = element::collect(set, &elements);
    }
}
