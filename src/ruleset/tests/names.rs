//! The names and comments that the kernel keeps for us: each is read back as what it was, and nothing else
//! is taken for one of ours.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{
    ChainName, Comment, CounterName, Digest, Elements, Family, SetName, TableName, lower,
};
use super::any_plan;
use crate::plan::{ClusterName, Generation, Port, Protocol, Seat};

fn any_set_name() -> impl Strategy<Value = SetName> {
    let family = prop::sample::select(vec![Family::V4, Family::V6]);
    let protocol = prop::sample::select(Protocol::ALL.to_vec());
    (0..8, family, protocol, any::<u16>(), any::<u32>()).prop_map(
        |(kind, family, protocol, seat, digest)| match kind {
            0 => SetName::Listeners(family),
            1 => SetName::Wildcards(family),
            2 => SetName::Established,
            3 => SetName::Guarded(protocol),
            4 => SetName::Slots(Digest(digest)),
            5 => SetName::MaskedSlots(family, Digest(digest)),
            6 => SetName::Survivors(Digest(digest)),
            _ => SetName::Ports(Seat(seat), protocol, Digest(digest)),
        },
    )
}

fn any_comment() -> impl Strategy<Value = Comment> {
    let generation = any::<u64>().prop_map(|number| Comment::Generation(Generation(number)));
    let seats = any::<(u16, u32)>().prop_map(|(seats, slots)| Comment::Seats { seats, slots });
    let ports = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(one, other)| {
        let text = format!("{}-{}", one.min(other), one.max(other));
        Comment::WorkerPorts(text.parse().unwrap())
    });
    prop_oneof![generation, seats, ports]
}

proptest! {
    #[test]
    fn all_names_of_a_table_are_read_back(plan in any_plan()) {
        let ruleset = lower(&plan);
        for set in ruleset.sets() {
            prop_assert_eq!(SetName::parse(&set.name.to_string()), Some(set.name));
            let of_contents = Digest::of(&set.elements);
            prop_assert!(set.name.digest().is_none_or(|digest| digest == of_contents));
        }
        for chain in ruleset.chains() {
            prop_assert_eq!(ChainName::parse(&chain.name.to_string()), Some(chain.name));
        }
        for counter in ruleset.counters() {
            prop_assert_eq!(CounterName::parse(&counter.to_string()), Some(*counter));
        }
        let cluster = TableName::cluster(ruleset.table().as_str());
        prop_assert_eq!(cluster.as_ref(), Some(plan.name()));
    }

    #[test]
    fn a_name_of_a_set_is_read_back_and_no_other_text_is_it(name in any_set_name(), tail in "[0a_ ]") {
        let text = name.to_string();
        prop_assert_eq!(SetName::parse(&text), Some(name));
        prop_assert_ne!(SetName::parse(&format!("{text}{tail}")), Some(name));
        prop_assert_eq!(SetName::parse(&text.to_uppercase()), None);
    }

    #[test]
    fn a_digest_is_written_in_one_way(digest: u32) {
        let text = format!("slots_{digest:08x}");
        prop_assert_eq!(SetName::parse(&text), Some(SetName::Slots(Digest(digest))));
        prop_assert_eq!(SetName::parse(&format!("slots_0{digest:08x}")), None);
        prop_assert_eq!(SetName::parse(&format!("slots_+{digest:08x}")), None);
        let upper = format!("slots_{digest:08X}");
        prop_assert_eq!(SetName::parse(&upper).is_some(), upper == text);
    }

    #[test]
    fn a_seat_is_written_in_one_way(seat: u16) {
        let text = format!("seat_{seat}");
        prop_assert_eq!(ChainName::parse(&text), Some(ChainName::Seat(Seat(seat))));
        prop_assert_eq!(CounterName::parse(&text), Some(CounterName(Seat(seat))));
        for odd in [format!("seat_0{seat}"), format!("seat_+{seat}"), format!("seat_{seat} ")] {
            prop_assert_eq!(ChainName::parse(&odd), None);
            prop_assert_eq!(CounterName::parse(&odd), None);
        }
    }

    #[test]
    fn a_comment_is_read_back_and_no_other_text_is_it(comment in any_comment()) {
        let text = comment.to_string();
        prop_assert_eq!(Comment::parse(&text), Some(comment));
        for odd in [format!("{text} "), format!(" {text}"), text.replacen(' ', " 0", 1)] {
            prop_assert_eq!(Comment::parse(&odd), None, "{}", odd);
        }
    }

    #[test]
    fn a_table_of_ours_is_known_by_a_schema_written_in_one_way(schema: u32) {
        let comment = format!("ipcluster schema {schema}");
        prop_assert_eq!(TableName::schema(&comment), Some(schema));
        prop_assert!(!TableName::is_of_fleet(&comment));
        let fleet = format!("ipcluster fleet schema {schema}");
        prop_assert!(TableName::is_of_fleet(&fleet));
        for odd in [fleet, format!("ipcluster schema 0{schema}"), format!("{comment} "), format!("ipcluster schema +{schema}")] {
            prop_assert_eq!(TableName::schema(&odd), None, "{}", odd);
        }
    }
}

#[test]
fn the_names_of_the_chains_are_those_that_are_read_back() {
    let names = ["prerouting", "output", "guard", "closed", "intercept", "replies", "seat_7"];
    let chains = names.map(|name| ChainName::parse(name).expect(name));
    assert_eq!(chains.map(|chain| chain.to_string()), names);
    assert_eq!(chains.iter().collect::<BTreeSet<_>>().len(), names.len());
    // A counter stands for a seat alone.
    let counters = names.map(CounterName::parse);
    assert_eq!(counters.iter().flatten().collect::<Vec<_>>(), [&CounterName(Seat(7))]);
}

#[test]
fn the_comment_of_our_tables_has_their_schema() {
    assert_eq!(TableName::schema(TableName::COMMENT), Some(TableName::SCHEMA));
    assert_eq!(TableName::schema("something else"), None);
}

#[test]
fn a_table_is_named_after_its_cluster() {
    let cluster: ClusterName = "web".parse().unwrap();
    let table = TableName::of(&cluster);
    assert_eq!(table.to_string(), table.as_str());
    assert_eq!(TableName::cluster(table.as_str()), Some(cluster));
    // It stands for all tables, and is the name of none.
    assert_eq!(TableName::cluster(TableName::any().as_str()), None);
}

/// A change of any one element, or of their order, is another digest: a map that changed in place would be
/// taken for the one before it.
#[test]
fn a_digest_tells_contents_apart() {
    let port = |number| Port::new(number).unwrap();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let v4 = |last| std::net::Ipv4Addr::new(10, 9, 0, last);
    let v6 = |first, last| std::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last);
    let contents = [
        Elements::Listeners4([(v4(1), tcp, port(80))].into()),
        Elements::Listeners4([(v4(2), tcp, port(80))].into()),
        Elements::Listeners4([(v4(1), udp, port(80))].into()),
        Elements::Listeners4([(v4(1), tcp, port(81))].into()),
        Elements::Listeners6([(v6(0xfd09, 1), tcp, port(80))].into()),
        Elements::Listeners6([(v6(0xfd09, 2), tcp, port(80))].into()),
        Elements::Listeners6([(v6(0xfd08, 1), tcp, port(80))].into()),
        Elements::Listeners6([(v6(0xfd09, 1), tcp, port(81))].into()),
        Elements::Services([(tcp, port(80))].into()),
        Elements::Services([(udp, port(80))].into()),
        Elements::Services([(tcp, port(81))].into()),
        Elements::Seats(vec![Seat(0), Seat(1)]),
        Elements::Seats(vec![Seat(1), Seat(0)]),
        Elements::Seats(vec![Seat(0), Seat(1), Seat(0)]),
        Elements::Ports([(port(80), port(20_000))].into()),
        Elements::Ports([(port(80), port(20_001))].into()),
        Elements::Ports([(port(81), port(20_000))].into()),
        Elements::WorkerPorts([port(20_000)].into()),
        Elements::WorkerPorts([port(20_001)].into()),
    ];
    let digests: BTreeSet<Digest> = contents.iter().map(Digest::of).collect();
    assert_eq!(digests.len(), contents.len());
}
