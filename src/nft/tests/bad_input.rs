//! Bytes that the kernel does not send, in place of its answers.

use proptest::prelude::*;

use crate::netlink::{Attributes, Messages};
use crate::nft::fuzzing::read_bytes;
use crate::nft::wire::batch::Batch;
use crate::plan::{Listeners, Partition, Plan, Weights};
use crate::ruleset::Transaction;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_*`.
const NEW_TABLE: u16 = 0x0a00;
const NEW_CHAIN: u16 = 0x0a03;
const NEW_RULE: u16 = 0x0a06;
const NEW_SET: u16 = 0x0a09;
const NEW_SET_ELEMENT: u16 = 0x0a0c;
const NEW_OBJECT: u16 = 0x0a12;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// The messages that make the table of a plan: what the kernel lists has the same attributes.
fn messages() -> Vec<u8> {
    let all = ["10.9.0.1:80", "[fd09::1]:443", "0.0.0.0:81", "0.0.0.0:82/udp"];
    let listeners = Listeners::new(all.map(super::parsed).to_vec()).unwrap();
    let partition = Partition::hash(8).unwrap();
    let weights = Weights::equal(2).unwrap();
    let mut plan = Plan::new(super::parsed("web"), listeners, partition, &weights, None).unwrap();
    plan.set_guard(Some(super::parsed("20000-29999"))).unwrap();
    Batch::encode(&Transaction::create(&plan), None).datagram().to_vec()
}

fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    let length = u32::try_from(20 + attributes.len()).unwrap();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend([1, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Objects without a form of their own in a dump, such as elements, are not counted.
#[test]
fn whole_messages_are_read() {
    let datagram = messages();
    let kinds = Messages::new(&datagram).map(|message| message.unwrap().kind);
    let expected = kinds.filter(|kind| [NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET].contains(kind));
    assert_eq!(read_bytes(&datagram), expected.count());
}

#[test]
fn every_cut_of_a_datagram_is_survived() {
    let datagram = messages();
    for end in 0..datagram.len() {
        read_bytes(&datagram[..end]);
    }
}

#[test]
fn every_attribute_of_a_wrong_length_is_survived() {
    let datagram = messages();
    for start in (0..datagram.len() - 4).step_by(4) {
        for length in [0u16, 1, 3, 4, 5, 0x7fff, u16::MAX] {
            let mut changed = datagram.clone();
            changed[start..start + 2].copy_from_slice(&length.to_ne_bytes());
            read_bytes(&changed);
        }
    }
}

#[test]
fn attributes_a_thousand_deep_are_survived() {
    for kind in [NEW_RULE, NEW_SET, NEW_SET_ELEMENT, NEW_OBJECT] {
        for nest in 1..20 {
            let mut value = attribute(1, b"cmp\0");
            for _ in 0..1000 {
                value = attribute(nest | NESTED, &value);
            }
            read_bytes(&message(kind, &value));
            // And where a list of expressions or elements would be.
            for list in [3, 4, 17, 18] {
                read_bytes(&message(kind, &attribute(list | NESTED, &value)));
            }
        }
    }
}

/// What a kernel to come adds is passed over.
#[test]
fn attributes_of_newer_kernels_change_nothing() {
    let datagram = messages();
    let mut longer = vec![];
    for message in Messages::new(&datagram) {
        let message = message.unwrap();
        let newer = attribute(0x3f0, b"not known yet");
        let body = [message.body, &newer].concat();
        let length = u32::try_from(16 + body.len()).unwrap();
        longer.extend(length.to_ne_bytes());
        longer.extend(message.kind.to_ne_bytes());
        longer.extend([0; 10]);
        longer.extend(&body);
        assert!(Attributes::new(&body[4..]).into_iter().any(|(kind, _)| kind == 0x3f0));
    }
    assert_eq!(read_bytes(&longer), read_bytes(&datagram));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn bytes_changed_anywhere_are_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut datagram = messages();
        for (place, byte) in changes {
            let place = place.index(datagram.len());
            datagram[place] = byte;
        }
        read_bytes(&datagram);
    }
}
