use std::collections::{BTreeMap, BTreeSet};

use crate::netlink::Messages;
use crate::nft::wire::batch::{Batch, Member};
use crate::plan::{Generation, Listeners, Occupant, Partition, Plan, Seat, Weights};
use crate::ruleset::{Operation, Rule, Transaction};

/// Kinds: `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;
/// `NLM_F_REQUEST`, `NLM_F_ACK`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// `NLM_F_EXCL`, `NLM_F_CREATE`.
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

fn plan(seats: u16, slots: u32) -> Plan {
    let all = ["10.9.0.1:80", "[fd09::1]:443", "0.0.0.0:81", "0.0.0.0:82", "0.0.0.0:83"];
    let listeners = Listeners::new(all.map(super::parsed).to_vec()).unwrap();
    let weights = Weights::equal(seats.into()).unwrap();
    let partition = Partition::hash(slots).unwrap();
    let mut plan = Plan::new(super::parsed("web"), listeners, partition, &weights, None).unwrap();
    let occupants = (0..seats).map(|seat| {
        let ports = (0..5).map(|index| super::port(20000 + 5 * seat + index)).collect();
        (Seat(seat), Occupant { generation: Generation(1), ports })
    });
    plan.occupy_all(occupants).unwrap();
    plan
}

/// The kernel reads the datagram a message at a time: each has to begin where the one before it
/// ended, and its number has to lead back to its operation.
#[test]
fn every_message_leads_back_to_its_operation() {
    for (seats, slots) in [(1, 2), (4, 1024), (128, 65_536)] {
        let transaction = Transaction::create(&plan(seats, slots));
        let mut batch = Batch::encode(&transaction, None);
        for first in [1, u32::MAX - 3] {
            batch.number_from(first);
            let messages: Vec<_> =
                Messages::new(batch.datagram()).map(|message| message.unwrap()).collect();
            assert_eq!(messages.len(), batch.messages());
            let mut operations = vec![];
            for (place, message) in messages.iter().enumerate() {
                assert_eq!(batch.message_at(message.sequence), Some(place));
                operations.extend(batch.operation_of(place));
                let is_end = place == batch.end();
                let kind = if place == 0 { Some(BEGIN) } else { is_end.then_some(END) };
                assert_eq!(kind.is_none(), batch.operation_of(place).is_some());
                assert_eq!(kind.unwrap_or(message.kind), message.kind);
                assert_eq!(message.flags & ACK != 0, is_end, "the end alone is acknowledged");
                assert_eq!(message.flags & REQUEST, REQUEST);
            }
            assert!(operations.is_sorted(), "in the order of the operations");
            operations.dedup();
            let all: Vec<usize> = (0..transaction.operations.len()).collect();
            assert_eq!(operations, all, "none is left out");
            assert_eq!(batch.message_at(first.wrapping_sub(1)), None);
            let behind = u32::try_from(messages.len()).unwrap();
            assert_eq!(batch.message_at(first.wrapping_add(behind)), None);
        }
    }
}

/// The number of a set in its transaction is how the kernel finds it for its elements.
#[test]
fn every_seat_with_a_map_has_one_of_its_own() {
    let transaction = Transaction::create(&plan(4, 64));
    let batch = Batch::encode(&transaction, None);
    let of = |index: usize| {
        (0..batch.messages()).filter(|place| batch.operation_of(*place) == Some(index)).count()
    };
    let mut made = BTreeSet::new();
    let mut users = BTreeMap::new();
    let mut count = 0;
    for (index, operation) in transaction.operations.iter().enumerate() {
        match operation {
            Operation::AddSet(set) => {
                assert_eq!(of(index), 2, "the set, its elements");
                made.insert(set.name);
            }
            Operation::AddRule(chain, Rule::TranslateByMap { map, .. }) => {
                assert_eq!(of(index), 1, "the rule");
                assert!(made.contains(map), "made before");
                let user = users.entry(*map).or_insert(*chain);
                assert_eq!(user, chain, "for it alone");
                count += 1;
            }
            _ => {}
        }
    }
    assert_eq!((users.len(), count), (4, 8), "a rule for each family");
}

#[test]
fn the_begin_names_the_generation_id_that_it_depends_on() {
    let transaction = Transaction::remove(Transaction::create(&plan(1, 2)).table);
    let without = Batch::encode(&transaction, None);
    let with = Batch::encode(&transaction, Some(0x0102_0304));
    let begin = |batch: &Batch| {
        let message = Messages::new(batch.datagram()).next().unwrap().unwrap();
        message.body.to_vec()
    };
    // struct nfgenmsg: AF_UNSPEC, version 0, NFNL_SUBSYS_NFTABLES in network order.
    assert_eq!(begin(&without), [0, 0, 0, 10]);
    let [low, high] = 8u16.to_ne_bytes();
    let [kind_low, kind_high] = 1u16.to_ne_bytes();
    assert_eq!(
        begin(&with),
        [0, 0, 0, 10, low, high, kind_low, kind_high, 1, 2, 3, 4],
        "NFNL_BATCH_GENID"
    );
}

/// Without `NLM_F_EXCL` the kernel takes a chain of that name that is there with the rules that it has, and
/// adds to what a set of that name holds: what somebody has put there first would be ours.
#[test]
fn what_is_made_must_not_be_there_yet() {
    let transaction = Transaction::create(&plan(4, 64));
    let batch = Batch::encode(&transaction, None);
    let mut made = 0;
    for (place, message) in Messages::new(batch.datagram()).enumerate() {
        let (message, Some(operation)) = (message.unwrap(), batch.operation_of(place)) else {
            continue;
        };
        let operation = &transaction.operations[operation];
        let is_made = match operation {
            Operation::AddTable | Operation::AddCounter(..) | Operation::AddChain(_) => true,
            // The elements come in messages of their own.
            Operation::AddSet(_) => message.kind == (10 << 8 | 9),
            _ => false,
        };
        let flags = CREATE | EXCLUSIVE;
        assert_eq!(message.flags & flags == flags, is_made, "{operation:?}");
        made += usize::from(is_made);
    }
    let is_object = |it: &&Operation| {
        matches!(
            it,
            Operation::AddTable
                | Operation::AddCounter(..)
                | Operation::AddChain(_)
                | Operation::AddSet(_)
        )
    };
    assert_eq!(made, transaction.operations.iter().filter(is_object).count());
}

/// It has no end, whose acknowledgement would tell that all is well.
#[test]
fn a_dry_run_has_no_end_and_its_one_member_asks_for_an_acknowledgement() {
    let member = Member { message: 0, flags: CREATE, body: vec![] };
    let mut batch = Batch::dry_run(&member);
    batch.number_from(7);
    let messages: Vec<_> = Messages::new(batch.datagram()).map(|it| it.unwrap()).collect();
    let [begin, member] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((begin.kind, begin.flags), (BEGIN, REQUEST));
    // `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE`
    assert_eq!((member.kind, member.flags), (10 << 8, REQUEST | CREATE | ACK));
    assert_eq!(batch.message_at(member.sequence), Some(batch.end()), "it stands for the end");
}
