use std::time::Duration;

use proptest::prelude::*;

use super::super::raise::TRANSLATIONS;
use super::super::{
    Chain, ChainName, CounterName, Digest, Elements, Family, RaiseError, Rule, Ruleset, Scope, Set,
    SetName, Stale, TcpPorts, Translated, lower, raise,
};
use super::{any_plan, full};
use crate::plan::{
    Generation, Listeners, Occupant, Partition, Plan, Port, PortRange, Protocol, Seat, Weights,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_lowered_plan_is_raised_again(plan in any_plan()) {
        let mut plan = plan;
        if plan.survivors().count() == plan.seats().len() {
            // With no seat vacant its workers alone tell the generation.
            let generations = plan.seats().filter_map(|(_, held)| Some(held?.generation));
            let generation = generations.max().unwrap();
            plan.set_generation(generation);
        }
        let ruleset = lower(&plan);
        for (destination, lookup) in TRANSLATIONS {
            let mut alike = plan.clone();
            alike.set_destination(destination);
            alike.set_port_lookup(lookup);
            if lower(&alike) == ruleset {
                // Nothing in it tells the two from each other.
                plan = alike;
                break;
            }
        }
        prop_assert_eq!(raise(&ruleset, Some(plan.listeners())), Ok(plan.clone()));
        // Without them the listeners come in an order of their own, and it is the same ruleset.
        let raised = raise(&ruleset, None).unwrap();
        prop_assert_eq!(lower(&raised), ruleset);
    }

    #[test]
    fn a_change_of_one_object_is_another_plan_or_none(
        plan in any_plan(),
        place in any::<prop::sample::Index>(),
    ) {
        let ruleset = lower(&plan);
        let changes = changes(&ruleset);
        let (what, changed) = place.get(&changes);
        prop_assert_ne!(changed, &ruleset, "{}", what);
        match raise(changed, Some(plan.listeners())) {
            Err(_) => {}
            // Something that another plan has left may be gone or be another.
            Ok(other) => {
                let stale = Stale::beside(&lower(&other), changed, Duration::ZERO);
                prop_assert!(stale.is_some(), "{}", what);
            }
        }
    }
}

/// A plan whose table has every kind of map: of slots, of survivors, of the ports of a seat.
fn with_every_map() -> Plan {
    let listeners = ["10.9.0.1:80", "10.9.0.1:81", "10.9.0.1:82"];
    let mut plan = full(&listeners, Partition::hash(64).unwrap(), 4);
    plan.vacate(Seat(2)).unwrap();
    plan
}

/// Somebody who knows the layout keeps what a map holds and gives it, and the rules that use it, another
/// name: the next plan would take it for a map with other contents.
#[test]
fn a_map_in_use_whose_name_is_not_the_digest_of_what_it_holds_is_not_ours() {
    let plan = with_every_map();
    let ruleset = lower(&plan);
    let maps: Vec<SetName> =
        ruleset.sets.iter().map(|set| set.name).filter(|name| name.digest().is_some()).collect();
    assert_eq!(maps.len(), 5, "slots, survivors, ports of three seats: {maps:?}");
    for name in maps {
        let renamed = with_other_digest(name);
        let mut tampered = ruleset.clone();
        for set in tampered.sets.iter_mut().filter(|set| set.name == name) {
            set.name = renamed;
        }
        for rule in tampered.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            if let Rule::Hash { map, .. }
            | Rule::TranslateByMap { map, .. }
            | Rule::RedirectByMap { map, .. } = rule
                && *map == name
            {
                *map = renamed;
            }
        }
        tampered.sets.sort_by_key(|set| set.name);
        assert_ne!(tampered, ruleset);
        assert_eq!(raise(&tampered, None), Err(RaiseError::Surplus), "{name}");
        assert_eq!(Stale::beside(&ruleset, &tampered, Duration::ZERO), None, "{name}");
    }
}

#[test]
fn a_map_beside_those_in_use_is_ours_only_if_its_name_is_the_digest_of_what_it_holds() {
    let ruleset = lower(&with_every_map());
    let left = Set::map(SetName::Slots, Elements::Seats(vec![Seat(3), Seat(1)]));
    let beside = |map: &Set| {
        let mut found = ruleset.clone();
        found.sets.push(map.clone());
        found.sets.sort_by_key(|set| set.name);
        found
    };
    let stale = Stale::beside(&ruleset, &beside(&left), Duration::ZERO).unwrap();
    assert!(stale.maps().eq([left.name]), "what an earlier plan has left");
    assert!(raise(&beside(&left), None).is_ok());
    for tampered in [
        Set { name: with_other_digest(left.name), ..left.clone() },
        Set { elements: Elements::Seats(vec![Seat(1), Seat(3)]), ..left.clone() },
        // Such as carry no digest are never stale.
        Set { name: SetName::Guarded(Protocol::Tcp), elements: Elements::WorkerPorts(vec![]) },
    ] {
        let found = beside(&tampered);
        assert_eq!(raise(&found, None), Err(RaiseError::Surplus), "{tampered:?}");
        assert_eq!(Stale::beside(&ruleset, &found, Duration::ZERO), None, "{tampered:?}");
    }
}

fn with_other_digest(name: SetName) -> SetName {
    let other = |Digest(digest): Digest| Digest(digest ^ 1);
    match name {
        SetName::Slots(digest) => SetName::Slots(other(digest)),
        SetName::MaskedSlots(family, digest) => SetName::MaskedSlots(family, other(digest)),
        SetName::Survivors(digest) => SetName::Survivors(other(digest)),
        SetName::Ports(seat, protocol, digest) => SetName::Ports(seat, protocol, other(digest)),
        _ => panic!("{name} has no digest"),
    }
}

#[test]
fn objects_or_rules_in_another_order_are_not_ours() {
    let ruleset = lower(&with_every_map());
    let refused = |what: &str, edit: &dyn Fn(&mut Ruleset)| {
        let mut found = ruleset.clone();
        edit(&mut found);
        assert_ne!(found, ruleset, "{what}");
        assert_eq!(Stale::beside(&ruleset, &found, Duration::ZERO), None, "{what}");
        assert!(raise(&found, None).is_err(), "{what}");
    };
    for place in 1..ruleset.sets.len() {
        refused("sets", &|found| found.sets.swap(place - 1, place));
    }
    for place in 1..ruleset.chains.len() {
        refused("chains", &|found| found.chains.swap(place - 1, place));
    }
    for place in 1..ruleset.counters.len() {
        refused("counters", &|found| found.counters.swap(place - 1, place));
    }
    for (index, chain) in ruleset.chains.iter().enumerate() {
        for place in 1..chain.rules.len() {
            let name = chain.name;
            refused(&format!("rules of {name}"), &|found| {
                found.chains[index].rules.swap(place - 1, place);
            });
        }
    }
    // Twice in a row is no order of an ordered list either.
    let left = Set::map(SetName::Slots, Elements::Seats(vec![Seat(3), Seat(1)]));
    refused("a stale map twice", &|found| {
        found.sets.extend([left.clone(), left.clone()]);
        found.sets.sort_by_key(|set| set.name);
    });
    refused("stale seats in another order", &|found| {
        for seat in [9, 8].map(Seat) {
            found.counters.push(CounterName(seat));
            found.chains.insert(4, Chain { name: ChainName::Seat(seat), rules: vec![] });
        }
        found.chains.sort_by_key(|chain| chain.name);
    });
}

#[test]
fn a_plan_with_workers_of_a_later_generation_than_its_own_is_raised() {
    // As after the rollback of a canary whose workers still have seats.
    let listeners = Listeners::new(vec!["0.0.0.0:80".parse().unwrap()]).unwrap();
    let (name, partition) = ("web".parse().unwrap(), Partition::hash(64).unwrap());
    let mut plan =
        Plan::new(name, listeners, partition, &Weights::equal(2).unwrap(), None).unwrap();
    let port = Port::new(20000).unwrap();
    plan.occupy(Seat(1), Occupant::new(Generation(3), [port])).unwrap();
    plan.set_generation(Generation(2));
    let ruleset = lower(&plan);
    assert_eq!(raise(&ruleset, None), Ok(plan));
}

/// The ruleset with one thing changed, in each place where that can be.
fn changes(ruleset: &Ruleset) -> Vec<(String, Ruleset)> {
    let mut all = vec![];
    let mut change = |what: String, edit: &mut dyn FnMut(&mut Ruleset)| {
        let mut changed = ruleset.clone();
        edit(&mut changed);
        all.push((what, changed));
    };
    for (index, chain) in ruleset.chains.iter().enumerate() {
        let name = chain.name;
        change(format!("no chain {name}"), &mut |all| drop(all.chains.remove(index)));
        change(format!("chain {name} twice"), &mut |all| {
            let copy = all.chains[index].clone();
            all.chains.push(copy);
        });
        change(format!("a rule too many in {name}"), &mut |all| {
            let rule = Rule::DropTracked { generation: Generation(1) };
            all.chains[index].rules.push(rule);
        });
        for place in 0..chain.rules.len() {
            change(format!("rule {place} of {name} gone"), &mut |all| {
                all.chains[index].rules.remove(place);
            });
            change(format!("rule {place} of {name} another"), &mut |all| {
                another(&mut all.chains[index].rules[place]);
            });
        }
    }
    for (index, chain) in ruleset.chains.iter().enumerate() {
        for (place, rule) in chain.rules.iter().enumerate() {
            let (Rule::Hash { scope, .. } | Rule::Random { scope, .. } | Rule::Mask { scope, .. }) =
                *rule
            else {
                continue;
            };
            for other in other_scopes(scope) {
                change(format!("rule {place} of {} for {other}", chain.name), &mut |all| {
                    let (Rule::Hash { scope, .. }
                    | Rule::Random { scope, .. }
                    | Rule::Mask { scope, .. }) = &mut all.chains[index].rules[place]
                    else {
                        panic!("the same rule")
                    };
                    *scope = other;
                });
            }
        }
    }
    for (index, name) in ruleset.counters.iter().enumerate() {
        change(format!("no counter {name}"), &mut |all| {
            all.counters.remove(index);
        });
        change(format!("another counter than {name}"), &mut |all| {
            all.counters[index].0.0 += 1;
        });
    }
    for (index, chain) in ruleset.chains.iter().enumerate() {
        for place in 0..chain.rules.len() {
            let (Rule::Translate { connections: Translated { protocol, .. }, .. }
            | Rule::TranslateByMap { connections: Translated { protocol, .. }, .. }
            | Rule::Redirect { protocol, .. }
            | Rule::RedirectByMap { protocol, .. }
            | Rule::Tproxy { protocol, .. }
            | Rule::Count { protocol, .. }
            | Rule::Guard { protocol, .. }
            | Rule::GuardRange { protocol, .. }) = chain.rules[place]
            else {
                continue;
            };
            let other = match protocol {
                Protocol::Tcp => Protocol::Udp,
                Protocol::Udp => Protocol::Tcp,
            };
            change(format!("rule {place} of {} of {other}", chain.name), &mut |all| {
                let (Rule::Translate { connections: Translated { protocol, .. }, .. }
                | Rule::TranslateByMap { connections: Translated { protocol, .. }, .. }
                | Rule::Redirect { protocol, .. }
                | Rule::RedirectByMap { protocol, .. }
                | Rule::Tproxy { protocol, .. }
                | Rule::Count { protocol, .. }
                | Rule::Guard { protocol, .. }
                | Rule::GuardRange { protocol, .. }) = &mut all.chains[index].rules[place]
                else {
                    panic!("the same rule")
                };
                *protocol = other;
            });
        }
    }
    for (index, set) in ruleset.sets.iter().enumerate() {
        let name = set.name;
        change(format!("no set {name}"), &mut |all| drop(all.sets.remove(index)));
        change(format!("one fewer in set {name}"), &mut |all| {
            pop(&mut all.sets[index].elements);
        });
        change(format!("another in set {name}"), &mut |all| match &mut all.sets[index].elements {
            Elements::Seats(of) | Elements::MaskedSeats4(of) | Elements::MaskedSeats6(of) => {
                of[0] = Seat(of[0].0 + 1);
            }
            Elements::Listeners4(of) => of[0].2 = Port::new(9).unwrap(),
            Elements::Listeners6(of) => of[0].2 = Port::new(9).unwrap(),
            Elements::Services(of) => of[0].1 = Port::new(9).unwrap(),
            Elements::Ports(of) => of[0].1 = Port::new(9).unwrap(),
            Elements::WorkerPorts(of) => of.insert(0, Port::new(9).unwrap()),
        });
    }
    all
}

fn other_scopes(scope: Scope) -> Vec<Scope> {
    let of_family = [Scope::All, Scope::Listeners, Scope::Wildcards];
    let mut others: Vec<Scope> =
        Family::ALL.into_iter().flat_map(|family| of_family.map(|of| of(family))).collect();
    others.extend(
        ["10.9.0.1:80", "0.0.0.0:80", "[::]:80/udp"].map(|it| Scope::Listener(it.parse().unwrap())),
    );
    others.retain(|other| *other != scope);
    others
}

fn another(rule: &mut Rule) {
    let next = match rule.clone() {
        Rule::Hash { scope, modulus, seed, input, map, comment } => {
            Rule::Hash { scope, modulus, seed: seed ^ 1, input, map, comment }
        }
        Rule::Random { scope, modulus, map, comment } => {
            Rule::Random { scope, modulus: modulus + 1, map, comment }
        }
        Rule::Mask { scope, slots, map } => Rule::Mask { scope, slots: 2 * slots, map },
        Rule::Translate { connections, counter, public, worker, generation } => {
            let connections = Translated { local: !connections.local, ..connections };
            Rule::Translate { connections, counter, public, worker, generation }
        }
        Rule::TranslateByMap { connections, counter, map, generation } => {
            let family = match connections.family {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            };
            let connections = Translated { family, ..connections };
            Rule::TranslateByMap { connections, counter, map, generation }
        }
        Rule::Redirect { protocol, counter, public, generation, .. } => {
            let worker = Port::new(9).unwrap();
            Rule::Redirect { protocol, counter, public, worker, generation }
        }
        Rule::RedirectByMap { protocol, counter, map, generation } => {
            let generation = Generation(generation.0 + 1);
            Rule::RedirectByMap { protocol, counter, map, generation }
        }
        Rule::Guard { protocol, set, range } => {
            let last = Port::new(range.last().number() + 1).unwrap();
            Rule::Guard { protocol, set, range: PortRange::new(range.first(), last).unwrap() }
        }
        Rule::GuardRange { protocol, ports } => {
            let last = Port::new(ports.last().number() + 1).unwrap();
            Rule::GuardRange { protocol, ports: PortRange::new(ports.first(), last).unwrap() }
        }
        Rule::Drop { generation } => Rule::Drop { generation: Generation(generation.0 + 1) },
        Rule::DropTracked { generation } => {
            Rule::DropTracked { generation: Generation(generation.0 + 1) }
        }
        Rule::Count { protocol, counter } => {
            Rule::Count { protocol, counter: CounterName(Seat(counter.0.0 + 1)) }
        }
        Rule::Tproxy { protocol, public, generation, .. } => {
            let worker = Port::new(9).unwrap();
            Rule::Tproxy { protocol, public, worker, generation }
        }
        Rule::PassLocal | Rule::PassRemote => Rule::Drop { generation: Generation(1) },
        Rule::Established { ports: TcpPorts::One(port) } => {
            let port = Port::new(port.number() + 1).unwrap();
            Rule::Established { ports: TcpPorts::One(port) }
        }
        Rule::Established { ports: TcpPorts::Set } => {
            Rule::Established { ports: TcpPorts::One(Port::new(9).unwrap()) }
        }
        Rule::Reply { ports, stride, place, public, address } => {
            Rule::Reply { ports, stride, place: place ^ 1, public, address }
        }
    };
    *rule = next;
}

fn pop(elements: &mut Elements) {
    match elements {
        Elements::Listeners4(of) => of.truncate(of.len() - 1),
        Elements::Listeners6(of) => of.truncate(of.len() - 1),
        Elements::Services(of) => of.truncate(of.len() - 1),
        Elements::Ports(of) => of.truncate(of.len() - 1),
        // With none there is nobody to be kept from.
        Elements::WorkerPorts(of) if of.is_empty() => of.push(Port::new(9).unwrap()),
        Elements::WorkerPorts(of) => of.truncate(of.len() - 1),
        Elements::Seats(of) | Elements::MaskedSeats4(of) | Elements::MaskedSeats6(of) => {
            of.truncate(of.len() - 1);
        }
    }
}
