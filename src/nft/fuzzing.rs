//! Everything that reads what the kernel sends, over bytes that it did not send: for the fuzzer and
//! the tests of bad input.

use netlink_packet_netfilter::nftables::{NfTablesMessage, RuleAttribute};

use super::watch;
use super::wire::batch::{Batch, INET_HEADER};
use super::wire::counter::Object;
use super::wire::expression::Expression;
use super::wire::replies::Replies;
use super::wire::{dump, element, rule, userdata};
use crate::netlink::{ERROR, Messages};
use crate::plan::{Protocol, Seat};
use crate::ruleset::{Digest, Family, Operation, SetName, TableName, Transaction};

/// Reads a datagram in every way in which one of the kernel's is read. Returns how many of its
/// messages are tables, chains, rules, sets or generations in their form.
#[doc(hidden)]
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
    let attributes = body.get(INET_HEADER.len()..).unwrap_or_default();
    let _ = Object::parse(attributes).as_ref().and_then(Object::counter);
    if let Some(elements) = element::parse(attributes) {
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
    match dump::parse(kind, body) {
        Ok(NfTablesMessage::NewRule(message)) => {
            for attribute in &message.attributes {
                match attribute {
                    RuleAttribute::Expressions(list) => {
                        let known: Vec<_> = list.iter().filter_map(Expression::parse).collect();
                        let _ = rule::parse(&known, None);
                    }
                    RuleAttribute::UserData(data) => drop(userdata::parse_comment(data)),
                    _ => {}
                }
            }
            true
        }
        parsed => parsed.is_ok(),
    }
}
