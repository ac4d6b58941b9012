//! From the objects that the kernel holds back to the plan that they were lowered from.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::repeat_n;
use std::net::IpAddr;

use super::lower::lower;
use super::object::{
    Chain, ChainName, Comment, Elements, Rule, Ruleset, Scope, Set, SetName, TableName,
};
use super::stale::surplus;
use crate::plan::{
    Assignment, Destination, Engine, Generation, Listener, Listeners, Occupant, Partition, Plan,
    PlanError, Port, PortLookup, Protocol, Seat,
};

/// Why a table is none that this version lowers a plan to. It was made by another version, or
/// somebody has changed it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RaiseError {
    /// Something is missing, or more than once there.
    #[error("{what} is missing or not as this version writes it")]
    Shape {
        /// What it is.
        what: &'static str,
    },
    /// What there is makes up no plan.
    #[error("what it holds is no plan: {0}")]
    Plan(#[from] PlanError),
    /// There is more in it, or it contradicts itself.
    #[error("it holds more than one plan, or something that belongs to none")]
    Surplus,
}

/// The plan of a table. The kernel does not keep the order of the listeners: if they are the same
/// as `expected`, then that is their order.
///
/// # Errors
/// [`RaiseError`] unless lowering the plan gives exactly this ruleset again, apart from what an
/// earlier plan has left in it ([`Stale`](super::Stale)).
pub(crate) fn raise(ruleset: &Ruleset, expected: Option<&Listeners>) -> Result<Plan, RaiseError> {
    let name = TableName::cluster(ruleset.table.as_str()).ok_or(shape("the table's name"))?;
    let (engine, entry) = entry_of(ruleset)?;
    let rules = match entry {
        [] => rules_of(ruleset, ChainName::Closed).ok_or(no_dispatch(engine))?,
        rules => rules,
    };
    let is_passing = |rule: &Rule| matches!(rule, Rule::PassLocal | Rule::Established { .. });
    let (passing, dispatch) =
        rules.split_at(rules.iter().position(|rule| !is_passing(rule)).unwrap_or(rules.len()));
    if dispatch.is_empty() {
        return Err(no_dispatch(engine));
    }
    let listeners = listeners_of(ruleset, dispatch, expected)?;
    let partition = partition_of(dispatch)?;
    let assignment = assignment_of(ruleset, dispatch, &partition)?;
    let seats = occupants_of(ruleset, dispatch, &listeners)?;
    let generation = generation_of(ruleset, &seats);
    let mut plan = Plan::from_parts(name, generation, listeners, partition, assignment, seats)?;
    plan.set_engine(engine)?;
    plan.set_admitting(!entry.is_empty());
    plan.set_local_clients(match engine {
        Engine::Redirect => rules_of(ruleset, ChainName::Output).is_some(),
        Engine::Tproxy => !passing.contains(&Rule::PassLocal),
    });
    set_guard(&mut plan, ruleset)?;
    let tracked = as_tracked(&plan, ruleset);
    let found = tracked.as_ref().unwrap_or(ruleset);
    for (destination, lookup) in TRANSLATIONS {
        plan.set_destination(destination);
        plan.set_port_lookup(lookup);
        if surplus(&lower(&plan), found).is_some() {
            return Ok(plan);
        }
    }
    Err(RaiseError::Surplus)
}

/// How releases have translated connections, this one first.
pub(super) const TRANSLATIONS: [(Destination, PortLookup); 3] = [
    (Destination::Dialled, PortLookup::ByRule),
    (Destination::Dialled, PortLookup::ByMap),
    (Destination::OfInterface, PortLookup::ByMap),
];

/// The generation of the plan: that in the rules of its vacant seats, which are of no worker; without such a
/// seat the latest of its workers.
fn generation_of(ruleset: &Ruleset, seats: &[Option<Occupant>]) -> Generation {
    let vacant = ruleset.chains.iter().filter(|chain| match chain.name {
        ChainName::Seat(seat) => seats.get(seat.index()) == Some(&None),
        _ => false,
    });
    let of_vacant = vacant.flat_map(|chain| &chain.rules).find_map(Rule::generation);
    let of_workers = seats.iter().flatten().map(|occupant| occupant.generation).max();
    of_vacant.or(of_workers).unwrap_or(Generation::FIRST)
}

/// The ruleset with the rules of vacant seats that use connection tracking, where it has such as earlier
/// releases wrote, which did not. The next plan that is put in force replaces them.
fn as_tracked(plan: &Plan, ruleset: &Ruleset) -> Option<Ruleset> {
    let is_untracked = |rule: &Rule| matches!(rule, Rule::Drop { .. });
    let mut rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    if plan.engine() != Engine::Redirect || !rules.any(is_untracked) {
        return None;
    }
    let mut ruleset = ruleset.clone();
    for rule in ruleset.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        if let Rule::Drop { generation } = *rule {
            *rule = Rule::DropTracked { generation };
        }
    }
    Some(ruleset)
}

/// The engine, by the base chain that it has, and the rules of that.
fn entry_of(ruleset: &Ruleset) -> Result<(Engine, &[Rule]), RaiseError> {
    let of = |engine, chain| rules_of(ruleset, chain).map(|rules| (engine, rules));
    of(Engine::Redirect, ChainName::Prerouting)
        .or_else(|| of(Engine::Tproxy, ChainName::Intercept))
        .ok_or(shape("chain prerouting or intercept"))
}

const fn shape(what: &'static str) -> RaiseError {
    RaiseError::Shape { what }
}

fn rules_of(ruleset: &Ruleset, name: ChainName) -> Option<&[Rule]> {
    let chain = ruleset.chains.iter().find(|chain| chain.name == name)?;
    Some(&chain.rules)
}

fn listeners_of(
    ruleset: &Ruleset,
    dispatch: &[Rule],
    expected: Option<&Listeners>,
) -> Result<Listeners, RaiseError> {
    let single = dispatch.iter().filter_map(|rule| match rule {
        Rule::Hash { scope: Scope::Listener(listener), .. }
        | Rule::Random { scope: Scope::Listener(listener), .. }
        | Rule::Mask { scope: Scope::Listener(listener), .. } => Some(*listener),
        _ => None,
    });
    let mut all: Vec<Listener> = single.collect();
    let mut add = |protocol, address: IpAddr, port| {
        Listener::new(protocol, address, port).map(|it| all.push(it))
    };
    for Set { name, elements } in &ruleset.sets {
        match elements {
            Elements::Listeners4(of) => {
                of.iter()
                    .try_for_each(|(to, protocol, port)| add(*protocol, (*to).into(), *port))?;
            }
            Elements::Listeners6(of) => {
                of.iter()
                    .try_for_each(|(to, protocol, port)| add(*protocol, (*to).into(), *port))?;
            }
            // Their listeners are in other sets, or in rules.
            Elements::Services(_) if *name == SetName::Established => {}
            Elements::Services(of) => {
                let any: IpAddr = match name {
                    SetName::Wildcards(super::Family::V6) => std::net::Ipv6Addr::UNSPECIFIED.into(),
                    _ => std::net::Ipv4Addr::UNSPECIFIED.into(),
                };
                of.iter().try_for_each(|(protocol, port)| add(*protocol, any, *port))?;
            }
            Elements::Seats(_)
            | Elements::MaskedSeats4(_)
            | Elements::MaskedSeats6(_)
            | Elements::Ports(_)
            | Elements::WorkerPorts(_) => {}
        }
    }
    let set_of = |listeners: &mut dyn Iterator<Item = Listener>| listeners.collect::<BTreeSet<_>>();
    let read = set_of(&mut all.iter().copied());
    match expected {
        Some(expected) if set_of(&mut expected.iter().copied()) == read => Ok(expected.clone()),
        _ => Ok(in_place(Listeners::new(all)?, &places_of(ruleset))?),
    }
}

/// The places of public ports, as far as rules tell: where answers have their public port put back,
/// worker ports tell the place of each ([`Engine::port_stride`]).
fn places_of(ruleset: &Ruleset) -> BTreeMap<Port, usize> {
    let replies = rules_of(ruleset, ChainName::Replies).unwrap_or_default();
    let stride = replies.iter().find_map(|rule| match rule {
        Rule::Reply { stride, .. } => Some(*stride),
        _ => None,
    });
    let Some(stride) = stride.filter(|stride| *stride > 0) else { return BTreeMap::new() };
    let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    let place = |rule: &Rule| match rule {
        Rule::Reply { public, place, .. } => Some((*public, usize::from(*place))),
        Rule::Tproxy { public, worker, .. } => {
            Some((*public, usize::from(worker.number() % stride)))
        }
        _ => None,
    };
    rules.filter_map(place).collect()
}

/// The listeners in such an order that each public port has its place.
fn in_place(listeners: Listeners, places: &BTreeMap<Port, usize>) -> Result<Listeners, PlanError> {
    let mut unplaced: Vec<Port> = listeners.public_ports().to_vec();
    unplaced.retain(|port| !places.contains_key(port));
    let mut unplaced = unplaced.into_iter();
    let placed: BTreeMap<usize, Port> =
        places.iter().map(|(port, place)| (*place, *port)).collect();
    let order = (0..listeners.public_ports().len())
        .filter_map(|place| placed.get(&place).copied().or_else(|| unplaced.next()));
    let order: BTreeMap<Port, usize> = order.zip(0..).collect();
    let mut all: Vec<Listener> = listeners.iter().copied().collect();
    all.sort_by_key(|listener| order.get(&listener.port()).copied());
    Listeners::new(all)
}

/// Without the rules that send connections to the chains of seats nothing is known of the plan.
const NO_DISPATCH: RaiseError = shape("a rule that sends connections to seats");

const fn no_dispatch(engine: Engine) -> RaiseError {
    shape(match engine {
        Engine::Redirect => "a rule of chain prerouting",
        Engine::Tproxy => "a rule of chain intercept",
    })
}

const NO_MAP: RaiseError = shape("the map of slots");

fn partition_of(dispatch: &[Rule]) -> Result<Partition, RaiseError> {
    match dispatch {
        [Rule::Hash { seed, input, comment: Comment::Seats { slots, .. }, .. }, ..] => {
            Ok(Partition::hash_seeded(*slots, *seed)?.of_input(*input))
        }
        [Rule::Random { comment: Comment::Seats { slots, .. }, .. }, ..] => {
            Ok(Partition::random(*slots)?)
        }
        [Rule::Mask { slots, .. }, ..] => Ok(Partition::mask(*slots)?),
        _ => Err(NO_DISPATCH),
    }
}

/// By the map that the rules use: others may be left from earlier plans.
fn assignment_of(
    ruleset: &Ruleset,
    dispatch: &[Rule],
    partition: &Partition,
) -> Result<Assignment, RaiseError> {
    let map = match dispatch {
        [Rule::Hash { map, .. } | Rule::Random { map, .. } | Rule::Mask { map, .. }, ..] => *map,
        _ => return Err(NO_DISPATCH),
    };
    let keys = match elements_of(ruleset, map) {
        Some(
            Elements::Seats(seats) | Elements::MaskedSeats4(seats) | Elements::MaskedSeats6(seats),
        ) => seats.clone(),
        _ => return Err(NO_MAP),
    };
    let slots = partition.slots() as usize;
    if keys.is_empty() || !slots.is_multiple_of(keys.len()) {
        return Err(NO_MAP);
    }
    let in_key = slots / keys.len();
    Ok(Assignment::from_table(keys.into_iter().flat_map(|seat| repeat_n(seat, in_key)).collect()))
}

fn elements_of(ruleset: &Ruleset, name: SetName) -> Option<&Elements> {
    ruleset.sets.iter().find(|set| set.name == name).map(|set| &set.elements)
}

fn occupants_of(
    ruleset: &Ruleset,
    dispatch: &[Rule],
    listeners: &Listeners,
) -> Result<Vec<Option<Occupant>>, RaiseError> {
    let count = match dispatch {
        [
            Rule::Hash { comment: Comment::Seats { seats, .. }, .. }
            | Rule::Random { comment: Comment::Seats { seats, .. }, .. },
            ..,
        ] => usize::from(*seats),
        [Rule::Mask { slots, .. }, ..] => *slots as usize,
        _ => return Err(NO_DISPATCH),
    };
    let maps: BTreeMap<SetName, &Elements> =
        ruleset.sets.iter().map(|set| (set.name, &set.elements)).collect();
    let mut seats = vec![];
    for Chain { name, rules } in &ruleset.chains {
        let ChainName::Seat(Seat(number)) = *name else { continue };
        if seats.len() == count {
            break;
        }
        if usize::from(number) != seats.len() {
            return Err(shape("the chain of a seat"));
        }
        seats.push(occupant_of(rules, &maps, listeners)?);
    }
    if seats.len() == count { Ok(seats) } else { Err(shape("the chain of a seat")) }
}

/// The worker that the rules of a seat lead to; `None` for a vacant seat.
fn occupant_of(
    rules: &[Rule],
    maps: &BTreeMap<SetName, &Elements>,
    listeners: &Listeners,
) -> Result<Option<Occupant>, RaiseError> {
    let mut by_public: BTreeMap<Port, Port> = BTreeMap::new();
    let mut of_worker = None;
    for rule in rules {
        match rule {
            Rule::Translate { public, worker, generation, .. }
            | Rule::Redirect { public, worker, generation, .. }
            | Rule::Tproxy { public, worker, generation, .. } => {
                by_public.insert(*public, *worker);
                of_worker = Some(*generation);
            }
            Rule::TranslateByMap { map, generation, .. }
            | Rule::RedirectByMap { map, generation, .. } => {
                let Some(Elements::Ports(ports)) = maps.get(map) else {
                    return Err(shape("the map of a seat"));
                };
                by_public.extend(ports.iter().copied());
                of_worker = Some(*generation);
            }
            _ => {}
        }
    }
    let Some(generation) = of_worker else { return Ok(None) };
    let in_order = listeners.public_ports().iter().map(|public| by_public.get(public).copied());
    let ports = in_order.collect::<Option<_>>().ok_or(shape("a worker port of a seat"))?;
    Ok(Some(Occupant { generation, ports }))
}

fn set_guard(plan: &mut Plan, ruleset: &Ruleset) -> Result<(), RaiseError> {
    match rules_of(ruleset, ChainName::Guard) {
        None => {}
        Some([Rule::GuardRange { ports, .. }, ..]) => plan.set_guard_of_range(*ports)?,
        Some(rules @ [Rule::Guard { range, .. }, ..]) => {
            // As earlier releases had it.
            let is_shared = |rule: &Rule| {
                let (udp, of_tcp) = (Protocol::Udp, SetName::Guarded(Protocol::Tcp));
                matches!(rule, Rule::Guard { protocol, set, .. } if (*protocol, *set) == (udp, of_tcp))
            };
            match rules.iter().any(is_shared) {
                true => plan.set_guard_for_all(*range)?,
                false => plan.set_guard(Some(*range))?,
            }
            let held = |set: &Set| match (set.name, &set.elements) {
                (SetName::Guarded(of), Elements::WorkerPorts(ports)) => {
                    ports.iter().map(|port| (of, *port)).collect()
                }
                _ => vec![],
            };
            plan.guard_unseated(ruleset.sets.iter().flat_map(held));
        }
        Some(_) => return Err(shape("chain guard")),
    }
    Ok(())
}
