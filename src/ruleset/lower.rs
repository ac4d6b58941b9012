//! From a plan to the objects that the kernel should hold.

use std::net::IpAddr;

use super::object::{
    Chain, ChainName, CounterName, Elements, Family, Note, Rule, Ruleset, Set, SetName, TableName,
};
use crate::plan::{Listener, Occupant, Partition, Plan, Protocol, Seat};

/// All objects of a plan.
pub fn lower(plan: &Plan) -> Ruleset {
    let mut sets = listener_sets(plan);
    let slots = slot_maps(plan);
    let balance = balance_rules(plan, slots.iter().map(|map| map.name));
    sets.extend(slots);
    let survivors = survivors_map(plan);
    let survivors_name = survivors.as_ref().map(|map| map.name);
    sets.extend(survivors);
    let ports: Vec<Set> = plan.seats().flat_map(|(seat, _)| port_maps(plan, seat)).collect();
    let mut port_names = ports.iter().map(|map| map.name);
    let mut chains: Vec<Chain> = plan
        .seats()
        .map(|(seat, _)| Chain {
            name: ChainName::Seat(seat),
            rules: seat_rules(plan, seat, survivors_name, &mut port_names),
        })
        .collect();
    sets.extend(ports);
    chains.push(Chain { name: ChainName::Balance, rules: balance });
    chains.push(Chain { name: ChainName::Prerouting, rules: dispatch_rules(plan) });
    if plan.has_local_clients() {
        chains.push(Chain { name: ChainName::Output, rules: dispatch_rules(plan) });
    }
    if plan.guard().is_some() {
        chains.push(Chain { name: ChainName::Guard, rules: guard_rules(plan) });
    }
    let counters = plan.seats().map(|(seat, _)| CounterName(seat)).collect();
    Ruleset { table: TableName::of(plan.name()), counters, sets, chains }
}

/// The families in which the plan has listeners.
pub(super) fn families(plan: &Plan) -> impl Iterator<Item = Family> {
    Family::ALL
        .into_iter()
        .filter(|family| plan.listeners().iter().any(|l| family_of(l) == *family))
}

fn family_of(listener: &Listener) -> Family {
    match listener.address() {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// The sets of listeners and of wildcard listeners, those of them that have elements.
fn listener_sets(plan: &Plan) -> Vec<Set> {
    let (mut v4, mut v6) = (vec![], vec![]);
    let (mut any4, mut any6) = (vec![], vec![]);
    for listener in plan.listeners().iter() {
        let service = (listener.protocol(), listener.port());
        match (listener.address(), listener.is_wildcard()) {
            (IpAddr::V4(_), true) => any4.push(service),
            (IpAddr::V6(_), true) => any6.push(service),
            (IpAddr::V4(address), false) => v4.push((address, service.0, service.1)),
            (IpAddr::V6(address), false) => v6.push((address, service.0, service.1)),
        }
    }
    v4.sort();
    v6.sort();
    any4.sort();
    any6.sort();
    let sets = [
        (SetName::Listeners(Family::V4), Elements::Listeners4(v4)),
        (SetName::Listeners(Family::V6), Elements::Listeners6(v6)),
        (SetName::Wildcards(Family::V4), Elements::Services(any4)),
        (SetName::Wildcards(Family::V6), Elements::Services(any6)),
    ];
    let filled = sets.into_iter().filter(|(_, elements)| !elements.is_empty());
    filled.map(|(name, elements)| Set { name, elements }).collect()
}

/// The maps from slots to seats.
pub(super) fn slot_maps(plan: &Plan) -> Vec<Set> {
    let table = || plan.assignment().table().to_vec();
    match plan.partition() {
        Partition::Hash { .. } => vec![Set::map(SetName::Slots, Elements::Seats(table()))],
        Partition::Mask { .. } => families(plan)
            .map(|family| {
                let elements = match family {
                    Family::V4 => Elements::MaskedSeats4(table()),
                    Family::V6 => Elements::MaskedSeats6(table()),
                };
                Set::map(|digest| SetName::MaskedSlots(family, digest), elements)
            })
            .collect(),
    }
}

/// The map over which the clients of vacant seats spread: none while no seat is vacant, or all.
pub(super) fn survivors_map(plan: &Plan) -> Option<Set> {
    Some(Set::map(SetName::Survivors, Elements::Seats(survivors(plan)?)))
}

/// The maps from public to worker ports of a seat with a worker: one for each protocol that has
/// several public ports.
pub(super) fn port_maps(plan: &Plan, seat: Seat) -> impl Iterator<Item = Set> {
    Protocol::ALL.into_iter().filter_map(move |protocol| port_map(plan, seat, protocol))
}

fn port_map(plan: &Plan, seat: Seat, protocol: Protocol) -> Option<Set> {
    let occupant = plan.occupant(seat)?;
    let services = plan.listeners().services(protocol);
    if services.len() < 2 {
        return None;
    }
    let ports = services.iter().map(|it| (it.port, occupant.ports[it.place])).collect();
    Some(Set::map(|digest| SetName::Ports(seat, protocol, digest), Elements::Ports(ports)))
}

/// The seats over which the clients of vacant seats spread: none while no seat is vacant, or all.
pub(super) fn survivors(plan: &Plan) -> Option<Vec<Seat>> {
    let survivors: Vec<Seat> = plan.survivors().collect();
    let some_vacant = survivors.len() < plan.seats().len();
    (some_vacant && !survivors.is_empty()).then_some(survivors)
}

/// The rules that pick the connections to our listeners; none while the plan admits none.
pub(super) fn dispatch_rules(plan: &Plan) -> Vec<Rule> {
    if !plan.is_admitting() {
        return vec![];
    }
    let has = |family, wildcard| {
        plan.listeners().iter().any(|l| family_of(l) == family && l.is_wildcard() == wildcard)
    };
    let named = Family::ALL.into_iter().filter(|family| has(*family, false));
    let wildcard = Family::ALL.into_iter().filter(|family| has(*family, true));
    named
        .map(|family| Rule::Dispatch { family })
        .chain(wildcard.map(|family| Rule::DispatchWildcard { family }))
        .collect()
}

/// The rules that drop what other hosts send to worker ports.
pub(super) fn guard_rules(plan: &Plan) -> Vec<Rule> {
    let Some(ports) = plan.guard() else { return vec![] };
    Protocol::ALL.into_iter().map(|protocol| Rule::Guard { protocol, ports }).collect()
}

/// The rules that send a connection to the chain of its seat.
///
/// `maps` are the names of its [`slot_maps`].
pub(super) fn balance_rules(plan: &Plan, maps: impl Iterator<Item = SetName>) -> Vec<Rule> {
    let note = Note::Seats(u16::try_from(plan.seats().len()).expect("at most MAX_SEATS"));
    match *plan.partition() {
        Partition::Hash { slots: modulus, seed } => {
            let rule = |map| {
                let of_family = move |family| Rule::Hash { family, modulus, seed, map, note };
                families(plan).map(of_family)
            };
            // One for both families.
            maps.flat_map(rule).collect()
        }
        Partition::Mask { slots } => {
            let of_family = families(plan).zip(maps);
            of_family.map(|(family, map)| Rule::Mask { family, slots, map }).collect()
        }
    }
}

/// The rules of a seat: to its worker, or to the survivors, or nowhere.
///
/// `survivors` is the name of the plan's [`survivors_map`], and what comes next of `ports` are those
/// of its [`port_maps`], if the seat has any.
pub(super) fn seat_rules(
    plan: &Plan,
    seat: Seat,
    survivors: Option<SetName>,
    ports: &mut impl Iterator<Item = SetName>,
) -> Vec<Rule> {
    match plan.occupant(seat) {
        Some(occupant) => redirect_rules(plan, seat, occupant, ports),
        None => vacant_rules(plan, survivors),
    }
}

/// The rules of a seat with a worker: one for each protocol, plain where that has a single public
/// port, else with a map, so that the cost of a connection does not grow with the listeners.
///
/// One rule for both protocols would need, beside its map, an anonymous set of them: nft takes a
/// redirect to ports only behind a match of the transport protocols that it can see in the rule.
fn redirect_rules(
    plan: &Plan,
    seat: Seat,
    occupant: &Occupant,
    ports: &mut impl Iterator<Item = SetName>,
) -> Vec<Rule> {
    let counter = CounterName(seat);
    let generation = occupant.generation;
    let rule = |protocol| match plan.listeners().services(protocol) {
        [] => None,
        [only] => {
            let (public, worker) = (only.port, occupant.ports[only.place]);
            Some(Rule::Redirect { protocol, counter, public, worker, generation })
        }
        _ => {
            let map = ports.next()?;
            Some(Rule::RedirectByMap { protocol, counter, map, generation })
        }
    };
    Protocol::ALL.into_iter().filter_map(rule).collect()
}

/// The rules of a vacant seat.
///
fn vacant_rules(plan: &Plan, survivors: Option<SetName>) -> Vec<Rule> {
    let generation = plan.generation();
    let Some(map) = survivors else { return vec![Rule::Drop { generation }] };
    let modulus = u32::try_from(plan.survivors().count()).expect("at most MAX_SEATS");
    let seed = plan.partition().spread_seed();
    let note = Note::Generation(generation);
    families(plan).map(|family| Rule::Hash { family, modulus, seed, map, note }).collect()
}
