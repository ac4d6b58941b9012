use std::time::Duration;

use proptest::prelude::*;

use super::super::{
    CounterName, Elements, Family, Rule, Ruleset, Scope, Stale, TcpPorts, Translated, lower, raise,
};
use super::any_plan;
use crate::plan::{Destination, Generation, Port, PortRange, Protocol, Seat};

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
        let mut dialled = plan.clone();
        dialled.set_destination(Destination::Dialled);
        if lower(&dialled) == ruleset {
            // Nothing in it tells.
            plan = dialled;
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
            let (Rule::Hash { scope, .. } | Rule::Mask { scope, .. }) = *rule else { continue };
            for other in other_scopes(scope) {
                change(format!("rule {place} of {} for {other}", chain.name), &mut |all| {
                    let (Rule::Hash { scope, .. } | Rule::Mask { scope, .. }) =
                        &mut all.chains[index].rules[place]
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
        Rule::Guard { protocol, range } => {
            let last = Port::new(range.last().number() + 1).unwrap();
            Rule::Guard { protocol, range: PortRange::new(range.first(), last).unwrap() }
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
