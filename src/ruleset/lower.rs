//! From a plan to the objects that the kernel should hold.

use std::net::IpAddr;

use super::object::{
    Chain, ChainName, Comment, CounterName, Elements, Family, Rule, Ruleset, Scope, Set, SetName,
    TableName, TcpPorts,
};
use super::translation::{has_port_map, translation_rules};
use crate::plan::{
    Destination, Engine, Listener, Occupant, Partition, Plan, PortRange, Protocol, Seat,
};

/// All objects of a plan.
pub fn lower(plan: &Plan) -> Ruleset {
    let mut sets = listener_sets(plan);
    sets.extend(guard_sets(plan));
    let slots = slot_maps(plan);
    let slot_names: Vec<SetName> = slots.iter().map(|map| map.name).collect();
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
    chains.extend(
        BESIDE_SEATS
            .into_iter()
            .filter(|name| has_chain(plan, *name))
            .map(|name| Chain { name, rules: rules_beside_seats(plan, name, &slot_names) }),
    );
    let counters = plan.seats().map(|(seat, _)| CounterName(seat)).collect();
    Ruleset { table: TableName::of(plan.name()), counters, sets, chains }
}

/// The chains that are none of a seat, in order.
pub(super) const BESIDE_SEATS: [ChainName; 6] = [
    ChainName::Closed,
    ChainName::Prerouting,
    ChainName::Output,
    ChainName::Guard,
    ChainName::Intercept,
    ChainName::Replies,
];

/// Whether a plan has this chain.
pub(super) fn has_chain(plan: &Plan, chain: ChainName) -> bool {
    let engine = plan.engine();
    match chain {
        ChainName::Seat(seat) => seat.index() < plan.seats().len(),
        ChainName::Closed => !plan.is_admitting(),
        ChainName::Prerouting => engine == Engine::Redirect,
        ChainName::Output => engine == Engine::Redirect && plan.has_local_clients(),
        ChainName::Guard => plan.guard().is_some(),
        ChainName::Intercept => engine == Engine::Tproxy,
        ChainName::Replies => engine.port_stride(plan.listeners()).is_some(),
    }
}

/// The families in which the plan has listeners.
pub(super) fn families(plan: &Plan) -> impl Iterator<Item = Family> {
    Family::ALL
        .into_iter()
        .filter(|family| plan.listeners().iter().any(|l| Family::of(l) == *family))
}

/// The sets of listeners and of wildcard listeners. Few have rules without.
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
    let sets = sets.into_iter().chain(established_set(plan));
    let needed = sets.filter(|(_, elements)| elements.len() > MOST_RULES);
    needed.map(|(name, elements)| Set { name, elements }).collect()
}

fn established_set(plan: &Plan) -> Option<(SetName, Elements)> {
    let services = plan.listeners().services(Protocol::Tcp);
    let mut ports: Vec<_> = services.iter().map(|it| (Protocol::Tcp, it.port)).collect();
    ports.sort_unstable();
    let is_needed = plan.engine() == Engine::Tproxy;
    is_needed.then_some((SetName::Established, Elements::Services(ports)))
}

/// The maps from slots to seats.
pub(super) fn slot_maps(plan: &Plan) -> Vec<Set> {
    let table = || plan.assignment().table().to_vec();
    match plan.partition() {
        Partition::Hash { .. } | Partition::Random { .. } => {
            let table = plan.assignment().table();
            let keys: Vec<Seat> = table.iter().step_by(slots_in_key(table)).copied().collect();
            vec![Set::map(SetName::Slots, Elements::Seats(keys))]
        }
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

/// How many slots, that follow each other, one key of the map can stand for: as many as all runs of
/// slots with one seat are made of.
///
/// The kernel takes the upper half of the product of hash and modulus (`reciprocal_scale`). So a
/// modulus that is a `k`th of another gives for each client the `k`th of what that gives, rounded
/// down: the slots of a new assignment to 8 equal seats, however many, are the 8 keys of a hash
/// that each connection finds in the processor's caches. A commit is short as well: the kernel looks
/// at every element of a map that leads to chains, at each one.
///
/// Ranges of keys (`flags interval`) would be few for many more assignments. But their set type shows
/// new elements only some time after the rules that look for them are in force (`nft_rbtree_commit`,
/// net/netfilter/nft_set_rbtree.c, of Linux 6.18.44): connections that come just then are refused.
pub(super) fn slots_in_key<T: PartialEq>(table: &[T]) -> usize {
    let runs = table.chunk_by(|one, other| one == other).map(<[T]>::len);
    runs.reduce(greatest_common_divisor).unwrap_or(1)
}

fn greatest_common_divisor(one: usize, other: usize) -> usize {
    match other {
        0 => one,
        _ => greatest_common_divisor(other, one % other),
    }
}

/// The map over which the clients of vacant seats spread: none while no seat is vacant, or all.
pub(super) fn survivors_map(plan: &Plan) -> Option<Set> {
    Some(Set::map(SetName::Survivors, Elements::Seats(survivors(plan)?)))
}

/// The maps from public to worker ports of a seat with a worker: one for each protocol that has many public
/// ports.
pub(super) fn port_maps(plan: &Plan, seat: Seat) -> impl Iterator<Item = Set> {
    Protocol::ALL.into_iter().filter_map(move |protocol| port_map(plan, seat, protocol))
}

fn port_map(plan: &Plan, seat: Seat, protocol: Protocol) -> Option<Set> {
    if !has_port_map(plan, protocol) {
        return None;
    }
    let occupant = plan.occupant(seat)?;
    let services = plan.listeners().services(protocol);
    let ports = services.iter().map(|it| (it.port, occupant.ports[it.place])).collect();
    Some(Set::map(|digest| SetName::Ports(seat, protocol, digest), Elements::Ports(ports)))
}

/// The seats over which the clients of vacant seats spread: none while no seat is vacant, or all.
pub(super) fn survivors(plan: &Plan) -> Option<Vec<Seat>> {
    let survivors: Vec<Seat> = plan.survivors().collect();
    let some_vacant = survivors.len() < plan.seats().len();
    (some_vacant && !survivors.is_empty()).then_some(survivors)
}

/// The rules of a chain that is none of a seat. `slots` are the names of the plan's [`slot_maps`].
pub(super) fn rules_beside_seats(plan: &Plan, chain: ChainName, slots: &[SetName]) -> Vec<Rule> {
    match chain {
        ChainName::Prerouting | ChainName::Intercept if plan.is_admitting() => {
            entry_rules(plan, slots)
        }
        ChainName::Output if plan.is_admitting() => {
            // Earlier releases had none.
            let passing = plan.destination() == Destination::Dialled;
            let mut rules = vec![];
            rules.extend(passing.then_some(Rule::PassRemote));
            rules.extend(entry_rules(plan, slots));
            rules
        }
        ChainName::Closed => entry_rules(plan, slots),
        ChainName::Guard => guard_rules(plan),
        ChainName::Replies => reply_rules(plan),
        ChainName::Prerouting | ChainName::Output | ChainName::Intercept | ChainName::Seat(_) => {
            vec![]
        }
    }
}

/// The rules of a base chain where packets of clients enter.
fn entry_rules(plan: &Plan, slots: &[SetName]) -> Vec<Rule> {
    let mut rules = match plan.engine() {
        Engine::Redirect => vec![],
        Engine::Tproxy => passing_rules(plan),
    };
    rules.extend(dispatch_rules(plan, slots));
    rules
}

/// The rules that let pass what comes by a chain of [`Engine::Tproxy`] and is no new connection: it
/// sees every packet, where one of translation sees the first of a connection alone.
fn passing_rules(plan: &Plan) -> Vec<Rule> {
    let pass_local = (!plan.has_local_clients()).then_some(Rule::PassLocal);
    let services = plan.listeners().services(Protocol::Tcp);
    let ports: Vec<TcpPorts> = match services.len() > MOST_RULES {
        true => vec![TcpPorts::Set],
        false => services.iter().map(|service| TcpPorts::One(service.port)).collect(),
    };
    let established = ports.into_iter().map(|ports| Rule::Established { ports });
    pass_local.into_iter().chain(established).collect()
}

/// The rules that pick the connections to our listeners and send each to the chain of its seat.
fn dispatch_rules(plan: &Plan, slots: &[SetName]) -> Vec<Rule> {
    let is_for = |map: &SetName, scope: Scope| match map {
        SetName::MaskedSlots(family, _) => *family == scope.family(),
        // One rule serves both families.
        _ => true,
    };
    let table = plan.assignment().table();
    let keys = u32::try_from(table.len() / slots_in_key(table)).expect("at most MAX_SLOTS");
    let seats = u16::try_from(plan.seats().len()).expect("at most MAX_SEATS");
    let rule = |scope: Scope| {
        let map = *slots.iter().find(|map| is_for(map, scope))?;
        Some(match *plan.partition() {
            Partition::Hash { slots, seed, input } => {
                let comment = Comment::Seats { seats, slots };
                Rule::Hash { scope, modulus: keys, seed, input, map, comment }
            }
            Partition::Random { slots } => {
                let comment = Comment::Seats { seats, slots };
                Rule::Random { scope, modulus: keys, map, comment }
            }
            Partition::Mask { slots } => Rule::Mask { scope, slots, map },
        })
    };
    scopes(plan).into_iter().filter_map(rule).collect()
}

/// The most listeners of one kind, or public ports of a protocol, that have a rule each: two rules without a
/// set cost a packet less than a lookup.
pub(super) const MOST_RULES: usize = 2;

/// The connections to our listeners, each part as a rule of its own takes it.
fn scopes(plan: &Plan) -> Vec<Scope> {
    let scopes = |(family, wildcard)| {
        let listeners = plan.listeners().iter();
        let of_kind = listeners.filter(|l| (Family::of(l), l.is_wildcard()) == (family, wildcard));
        let mut of_kind: Vec<Listener> = of_kind.copied().collect();
        of_kind.sort_unstable_by_key(|it| (it.address(), it.protocol(), it.port()));
        match (of_kind.len() > MOST_RULES, wildcard) {
            (false, _) => of_kind.into_iter().map(Scope::Listener).collect(),
            (true, false) => vec![Scope::Listeners(family)],
            (true, true) => vec![Scope::Wildcards(family)],
        }
    };
    // Of the rules for wildcards that for IPv6 sees at once whether a packet is for it, the other
    // one only behind its other conditions (see nft's room).
    let (v4, v6) = (Family::V4, Family::V6);
    [(v4, false), (v6, false), (v6, true), (v4, true)].into_iter().flat_map(scopes).collect()
}

/// The sets of the worker ports that other hosts cannot reach. One for each protocol, of ports alone, costs
/// a packet less than one of protocols and ports: a lookup of 16 bits in a bitmap.
fn guard_sets(plan: &Plan) -> impl Iterator<Item = Set> {
    Protocol::ALL.into_iter().filter_map(|protocol| guard_set(plan, protocol))
}

/// The set of one protocol.
pub(super) fn guard_set(plan: &Plan, protocol: Protocol) -> Option<Set> {
    has_guard_set(plan, protocol).then(|| Set {
        name: SetName::Guarded(protocol),
        elements: Elements::WorkerPorts(plan.guarded_ports(protocol)),
    })
}

/// Whether the plan has that set.
pub(super) fn has_guard_set(plan: &Plan, protocol: Protocol) -> bool {
    let is_shared = plan.guards_for_all() && protocol != Protocol::Tcp;
    plan.guard().is_some() && !plan.guards_range() && plan.guards_protocol(protocol) && !is_shared
}

/// The rules that drop what other hosts send to worker ports.
fn guard_rules(plan: &Plan) -> Vec<Rule> {
    let Some(range) = plan.guard() else { return vec![] };
    if plan.guards_range() {
        let rule = |protocol| Rule::GuardRange { protocol, ports: range };
        return Protocol::ALL.into_iter().map(rule).collect();
    }
    let protocols = Protocol::ALL.into_iter().filter(|protocol| plan.guards_protocol(*protocol));
    let rules = protocols.map(|protocol| {
        let of = if plan.guards_for_all() { Protocol::Tcp } else { protocol };
        Rule::Guard { protocol, set: SetName::Guarded(of), range }
    });
    rules.collect()
}

/// The rules that make the answers of workers come from where their clients have written to.
fn reply_rules(plan: &Plan) -> Vec<Rule> {
    let Some(stride) = plan.engine().port_stride(plan.listeners()) else { return vec![] };
    let ports = plan.guard().unwrap_or(PortRange::ALL);
    let mut rules = vec![];
    for service in plan.listeners().services(Protocol::Udp) {
        let place = u16::try_from(service.place).expect("at most 1024 listeners");
        let public = service.port;
        let rule = |address| Rule::Reply { ports, stride, place, public, address };
        let is_of = |l: &&Listener| (l.protocol(), l.port()) == (Protocol::Udp, public);
        let listeners = || plan.listeners().iter().filter(is_of);
        let alone: Vec<IpAddr> = Family::ALL
            .into_iter()
            .filter_map(|family| {
                let mut of_family = listeners().filter(|l| Family::of(l) == family);
                let only = of_family.next().filter(|only| !only.is_wildcard())?;
                of_family.next().is_none().then(|| only.address())
            })
            .collect();
        rules.extend(alone.iter().map(|address| rule(Some(*address))));
        let is_other = |l: &Listener| !alone.contains(&l.address());
        if listeners().any(is_other) {
            rules.push(rule(None));
        }
    }
    rules
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
        Some(occupant) => match plan.engine() {
            Engine::Redirect => translation_rules(plan, seat, occupant, ports),
            Engine::Tproxy => tproxy_rules(plan, seat, occupant),
        },
        None => vacant_rules(plan, survivors),
    }
}

/// The rules of a seat whose worker has the sockets that its connections are given to.
fn tproxy_rules(plan: &Plan, seat: Seat, occupant: &Occupant) -> Vec<Rule> {
    let counter = CounterName(seat);
    let generation = occupant.generation;
    let mut rules = vec![];
    for protocol in Protocol::ALL {
        let services = plan.listeners().services(protocol);
        if !services.is_empty() {
            rules.push(Rule::Count { protocol, counter });
        }
        rules.extend(services.iter().map(|service| {
            let (public, worker) = (service.port, occupant.ports[service.place]);
            Rule::Tproxy { protocol, public, worker, generation }
        }));
    }
    rules
}

/// The rules of a vacant seat.
fn vacant_rules(plan: &Plan, survivors: Option<SetName>) -> Vec<Rule> {
    let generation = plan.generation();
    let Some(map) = survivors else {
        return vec![match plan.engine() {
            Engine::Redirect => Rule::DropTracked { generation },
            Engine::Tproxy => Rule::Drop { generation },
        }];
    };
    let modulus = u32::try_from(plan.survivors().count()).expect("at most MAX_SEATS");
    let seed = plan.partition().spread_seed();
    let comment = Comment::Generation(generation);
    let input = plan.partition().input();
    let rule = |family| {
        let scope = Scope::All(family);
        match input {
            Some(input) => Rule::Hash { scope, modulus, seed, input, map, comment },
            None => Rule::Random { scope, modulus, map, comment },
        }
    };
    families(plan).map(rule).collect()
}
