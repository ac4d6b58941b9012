use std::net::IpAddr;

use super::super::{Chain, ChainName, Elements, Rule, Ruleset, Scope, SetName, lower};
use super::full;
use crate::plan::{Partition, Plan, Slot, Weights};

fn hash(slots: u32) -> Partition {
    Partition::hash(slots).unwrap()
}

/// How the map of slots tells the seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// So many keys.
    Each(usize),
    /// So many ranges of them.
    Ranges(usize),
}

fn keys(plan: &Plan) -> Keys {
    let sets = lower(plan).sets;
    let keys = sets.iter().find_map(|set| match (set.name, &set.elements) {
        (SetName::SlotRanges(_), Elements::SeatRanges(ranges)) => Some(Keys::Ranges(ranges.len())),
        (SetName::Slots(_), Elements::Seats(seats)) => Some(Keys::Each(seats.len())),
        _ => None,
    });
    keys.expect("a map of slots")
}

fn rules(ruleset: &Ruleset, name: ChainName) -> Option<&[Rule]> {
    let chain = ruleset.chains.iter().find(|chain| chain.name == name);
    chain.map(|Chain { rules, .. }| rules.as_slice())
}

fn scopes(rules: &[Rule]) -> Vec<Scope> {
    let scope = |rule: &Rule| match rule {
        Rule::Hash { scope, .. } | Rule::Mask { scope, .. } => *scope,
        other => panic!("{other} sends nothing to a seat"),
    };
    rules.iter().map(scope).collect()
}

#[test]
fn slots_are_looked_up_in_the_smallest_map_or_in_few_ranges() {
    let one = &["10.9.0.1:80"];
    for (slots, seats, expected) in [
        (1024, 1, Keys::Each(1)),
        (1024, 8, Keys::Each(8)),
        (65_536, 8, Keys::Each(8)),
        (65_536, 1024, Keys::Each(1024)),
        (1000, 25, Keys::Each(25)),
        (1024, 5, Keys::Ranges(5)),
        (65_536, 7, Keys::Ranges(7)),
        (1024, 63, Keys::Ranges(63)),
        // Too many, and too few slots for so many.
        (65_536, 65, Keys::Each(65_536)),
        (1007, 63, Keys::Each(1007)),
        (1023, 4, Keys::Ranges(4)),
        (63, 4, Keys::Each(63)),
    ] {
        let plan = full(one, hash(slots), seats);
        assert_eq!(keys(&plan), expected, "{seats} seats on {slots} slots");
    }
}

#[test]
fn scaling_breaks_ranges_until_they_are_too_many() {
    let scaled = |plan: &Plan, seats| plan.rescaled(&Weights::equal(seats).unwrap()).unwrap();
    let four = full(&["10.9.0.1:80"], hash(1024), 4);
    let five = scaled(&four, 5);
    assert_eq!(keys(&five), Keys::Ranges(8), "each of the four gave its last slots to the fifth");
    assert_eq!(keys(&scaled(&five, 4)), Keys::Each(4), "and takes them back");
    let (mut plan, mut before) = (five, 8);
    let all = (6..).find_map(|seats| {
        plan = scaled(&plan, seats);
        match keys(&plan) {
            Keys::Each(all) => Some(all),
            Keys::Ranges(ranges) => {
                assert!((before..=64).contains(&ranges), "{ranges} ranges of {seats} seats");
                before = ranges;
                None
            }
        }
    });
    assert_eq!(all, Some(1024));
}

/// The kernel's hash by the number of keys, and that by the number of slots.
#[test]
fn a_key_stands_for_the_slots_that_it_is_made_of() {
    let clients =
        (0..10_000u32).map(|number| IpAddr::from(number.wrapping_mul(0x9e37_79b9).to_be_bytes()));
    let clients: Vec<IpAddr> = clients.collect();
    for (slots, keys) in [(1024, 8), (1000, 25), (65_536, 1024), (65_535, 5), (7, 1)] {
        for client in &clients {
            let Slot(slot) = hash(slots).slot_of(*client);
            let Slot(key) = hash(keys).slot_of(*client);
            assert_eq!(slot / (slots / keys), key, "{client}: {keys} keys for {slots} slots");
        }
    }
}

#[test]
fn few_listeners_of_a_kind_need_no_set() {
    let listeners = &[
        "10.9.0.1:80",
        "10.9.0.1:81",
        "10.9.0.1:82",
        "[fd09::1]:443/udp",
        "[fd09::1]:443",
        "0.0.0.0:53/udp",
    ];
    let plan = full(listeners, hash(1024), 4);
    let ruleset = lower(&plan);
    let [several, one, other, wildcard] =
        scopes(rules(&ruleset, ChainName::Prerouting).unwrap())[..]
    else {
        panic!("a rule for many of a kind, or one for each")
    };
    assert_eq!(several.to_string(), "ip daddr . meta l4proto . th dport @listeners4 ");
    assert_eq!(one.to_string(), "ip6 daddr fd09::1 tcp dport 443 ");
    assert_eq!(other.to_string(), "ip6 daddr fd09::1 udp dport 443 ");
    assert_eq!(wildcard.to_string(), "udp dport 53 fib daddr type local ");
    let sets = ruleset.sets.iter().filter(|set| set.name.digest().is_none());
    assert_eq!(sets.map(|set| set.name.to_string()).collect::<Vec<_>>(), ["listeners4"]);
}

/// So the map of slots that was in force last is told from those of earlier plans.
#[test]
fn a_closed_cluster_keeps_its_rules_aside() {
    for partition in [hash(1024), Partition::mask(4).unwrap()] {
        let mut plan = full(&["10.9.0.1:80", "[::]:80"], partition, 4);
        plan.set_local_clients(true);
        let open = lower(&plan);
        assert_eq!(rules(&open, ChainName::Closed), None);
        plan.set_admitting(false);
        let closed = lower(&plan);
        assert_eq!(rules(&closed, ChainName::Closed), rules(&open, ChainName::Prerouting));
        for base in [ChainName::Prerouting, ChainName::Output] {
            assert_eq!(rules(&closed, base), Some(&[][..]), "{base}");
        }
        assert_eq!(closed.sets, open.sets);
    }
}
