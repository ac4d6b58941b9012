use super::super::{Chain, ChainName, Elements, Rule, Ruleset, Scope, SetName, lower};
use super::full;
use crate::plan::{Partition, Plan, Weights};

fn hash(slots: u32) -> Partition {
    Partition::hash(slots).unwrap()
}

/// How many ranges the map of slots has; `None` for one that has every slot.
fn ranges(plan: &Plan) -> Option<usize> {
    let sets = lower(plan).sets;
    let slots = sets.iter().find_map(|set| match (set.name, &set.elements) {
        (SetName::SlotRanges(_), Elements::SeatRanges(ranges)) => Some(Some(ranges.len())),
        (SetName::Slots(_), Elements::Seats(seats)) => {
            assert_eq!(seats, plan.assignment().table());
            Some(None)
        }
        _ => None,
    });
    slots.expect("a map of slots")
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
fn slots_are_looked_up_as_ranges_where_these_are_few() {
    let one = &["10.9.0.1:80"];
    for (slots, seats, expected) in [
        (1024, 1, Some(1)),
        (1024, 5, Some(5)),
        (1024, 64, Some(64)),
        (65_536, 64, Some(64)),
        // Too many, and too few slots for so many.
        (65_536, 65, None),
        (1023, 64, None),
        (64, 8, None),
        (2, 2, None),
    ] {
        let plan = full(one, hash(slots), seats);
        assert_eq!(ranges(&plan), expected, "{seats} seats on {slots} slots");
    }
}

#[test]
fn scaling_breaks_ranges_until_they_are_too_many() {
    let scaled = |plan: &Plan, seats| plan.rescaled(&Weights::equal(seats).unwrap()).unwrap();
    let four = full(&["10.9.0.1:80"], hash(1024), 4);
    let five = scaled(&four, 5);
    assert_eq!(ranges(&five), Some(8), "each of the four gave its last slots to the fifth");
    let mut plan = four;
    let ranges: Vec<_> = (5..40)
        .map(|seats| {
            plan = scaled(&plan, seats);
            ranges(&plan)
        })
        .collect();
    assert!(ranges.is_sorted_by_key(|ranges| ranges.unwrap_or(usize::MAX)), "{ranges:?}");
    assert_eq!(ranges.last(), Some(&None), "{ranges:?}");
}

#[test]
fn a_single_listener_of_its_kind_needs_no_set() {
    let listeners = &["10.9.0.1:80", "10.9.0.1:81", "[fd09::1]:80", "0.0.0.0:53/udp"];
    let plan = full(listeners, hash(1024), 4);
    let ruleset = lower(&plan);
    let [several, v6, wildcard] = scopes(rules(&ruleset, ChainName::Prerouting).unwrap())[..]
    else {
        panic!("a rule for each kind")
    };
    assert_eq!(several.to_string(), "ip daddr . meta l4proto . th dport @listeners4 ");
    assert_eq!(v6.to_string(), "ip6 daddr fd09::1 tcp dport 80 ");
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
