//! Any desired state, one after the other, each planned with the one before as the previous:
//! nothing panics, and what was promised of plans holds.

use std::net::IpAddr;
use std::time::Duration;

use arbitrary::Arbitrary;
use ipcluster::internals::ruleset::{Stale, Transition};
use ipcluster::plan::{
    Assignment, ClusterName, Engine, Generation, Listener, Listeners, Occupant, Partition, Plan,
    PlanError, Port, PortRange, Protocol, Seat, Weights,
};

#[derive(Arbitrary, Debug)]
pub(crate) struct Desired {
    name: String,
    listeners: Vec<ListenerInput>,
    partition: PartitionInput,
    weights: WeightsInput,
    generation: u8,
    admitting: bool,
    local_clients: bool,
    tproxy: bool,
    guard: Option<(u16, u16)>,
    occupants: Vec<(u16, OccupantInput)>,
    vacated: Vec<u16>,
}

#[derive(Arbitrary, Debug)]
enum ListenerInput {
    Text(String),
    Parts(bool, IpAddr, u16),
    Usual(u8),
}

#[derive(Arbitrary, Debug)]
enum PartitionInput {
    Mask(u32),
    MaskOfPower(u8),
    Hash(u16, u32),
}

#[derive(Arbitrary, Debug)]
enum WeightsInput {
    Equal(u16),
    Few(u8),
    Each(Vec<f64>),
}

#[derive(Arbitrary, Debug)]
struct OccupantInput {
    generation: u8,
    ports: Vec<u16>,
    fitting: bool,
}

type Input = (Vec<Desired>, Vec<u16>, Vec<IpAddr>);

pub(crate) fn run(data: &[u8]) {
    let Some((states, table, clients)) = crate::arbitrary::<Input>(data) else { return };
    let table = Assignment::from_table(table.into_iter().map(Seat).collect());
    let mut previous: Option<Plan> = None;
    for desired in states.iter().take(4) {
        let before = previous.as_ref().map_or(&table, Plan::assignment);
        let Ok(plan) = plan(desired, before) else { continue };
        check(&plan, &clients);
        if let Some(previous) = &previous {
            check_change(previous, &plan);
            if let Ok(scaled) = previous.rescaled(&weights(&desired.weights).expect("planned")) {
                check(&scaled, &clients);
                check_change(previous, &scaled);
            }
        }
        previous = Some(plan);
    }
}

pub(crate) fn plan(desired: &Desired, previous: &Assignment) -> Result<Plan, PlanError> {
    let name: ClusterName = desired.name.parse().or_else(|_| "web".parse())?;
    let listeners: Vec<Listener> =
        desired.listeners.iter().filter_map(|input| listener(input).ok()).collect();
    let listeners = Listeners::new(listeners)?;
    let partition = match desired.partition {
        PartitionInput::Mask(slots) => Partition::mask(slots)?,
        PartitionInput::MaskOfPower(power) => Partition::mask(1 << (power % 11))?,
        PartitionInput::Hash(slots, seed) => Partition::hash_seeded(slots.into(), seed)?,
    };
    let weights = weights(&desired.weights)?;
    let mut plan = Plan::new(name.clone(), listeners.clone(), partition, &weights, Some(previous))?;
    check_least_movement(previous, plan.assignment(), weights.seats());
    let again = Plan::new(name, listeners, partition, &weights, Some(plan.assignment()))?;
    assert_eq!(plan, again, "planning the same again changed it");
    for (seat, input) in &desired.occupants {
        let seat = Seat(seat % u16::try_from(plan.seats().len()).expect("at most 1024"));
        let untouched = plan.clone();
        if plan.occupy(seat, occupant(&plan, seat, input)).is_err() {
            assert_eq!(plan, untouched, "an error left something behind");
        }
    }
    for seat in &desired.vacated {
        let before = plan.clone();
        if let Ok(lost) = plan.vacate(Seat(*seat)) {
            let changed: Vec<Seat> = before.changed_seats(&plan).collect();
            assert_eq!(changed, lost.map(|_| Seat(*seat)).into_iter().collect::<Vec<_>>());
        }
    }
    plan.set_generation(Generation(desired.generation.into()));
    plan.set_admitting(desired.admitting);
    plan.set_local_clients(desired.local_clients);
    // Its ports can be such as the engine does not take.
    let _ = plan.set_engine(if desired.tproxy { Engine::Tproxy } else { Engine::Redirect });
    let guard = desired.guard.and_then(|(first, last)| range(first, last));
    let untouched = plan.clone();
    if plan.set_guard(guard).is_err() {
        assert_eq!(plan, untouched, "an error left something behind");
        let guarded = |port: &Port| guard.is_some_and(|range| range.contains(*port));
        assert!(plan.listeners().public_ports().iter().any(guarded), "refused without a reason");
    }
    Ok(plan)
}

fn listener(input: &ListenerInput) -> Result<Listener, PlanError> {
    match input {
        ListenerInput::Text(text) => {
            let listener: Listener = text.parse()?;
            assert_eq!(listener.to_string().parse(), Ok(listener), "printed and parsed again");
            Ok(listener)
        }
        ListenerInput::Parts(is_udp, address, port) => {
            let protocol = if *is_udp { Protocol::Udp } else { Protocol::Tcp };
            Listener::new(protocol, *address, Port::new(*port).unwrap_or(port_80()))
        }
        ListenerInput::Usual(last) => Listener::tcp([10, 9, 0, *last].into(), port_80()),
    }
}

fn range(first: u16, last: u16) -> Option<PortRange> {
    PortRange::new(Port::new(first)?, Port::new(last)?)
}

fn port_80() -> Port {
    Port::new(80).expect("not 0")
}

fn weights(input: &WeightsInput) -> Result<Weights, PlanError> {
    match input {
        WeightsInput::Equal(seats) => Weights::equal((*seats).into()),
        WeightsInput::Few(seats) => Weights::equal(usize::from(seats % 32) + 1),
        WeightsInput::Each(weights) => Weights::new(weights),
    }
}

/// Any occupant, or one that fits unless a port is taken or public.
fn occupant(plan: &Plan, seat: Seat, input: &OccupantInput) -> Occupant {
    let needed = u16::try_from(plan.listeners().public_ports().len()).expect("at most 1024");
    let first = 20_000u16.wrapping_add(seat.0.wrapping_mul(needed));
    let ports: Vec<_> = if input.fitting {
        (0..needed).filter_map(|k| Port::new(first.wrapping_add(k))).collect()
    } else {
        input.ports.iter().filter_map(|number| Port::new(*number)).collect()
    };
    Occupant::new(Generation(input.generation.into()), ports)
}

fn check(plan: &Plan, clients: &[IpAddr]) {
    let slots = plan.partition().slots();
    assert_eq!(plan.assignment().slots(), slots as usize);
    let by_seat = plan.assignment().slots_by_seat(plan.seats().len());
    assert_eq!(by_seat.iter().sum::<u32>(), slots, "a slot without a seat");
    if let Partition::Mask { .. } = plan.partition() {
        assert!(by_seat.iter().all(|count| *count == 1), "a mask with uneven seats");
    }
    for client in clients {
        match plan.worker_for(*client) {
            Some(route) => {
                assert!(route.slot.0 < slots);
                assert_eq!(route.home, plan.assignment().seat_of(route.slot));
                assert_eq!(plan.occupant(route.seat), Some(route.occupant));
                assert!(route.seat == route.home || plan.occupant(route.home).is_none());
            }
            None => assert_eq!(plan.survivors().count(), 0),
        }
    }
    let mut ports: Vec<Port> = plan.listeners().public_ports().to_vec();
    ports.extend(plan.seats().filter_map(|(_, held)| held).flat_map(|held| held.ports.iter()));
    let count = ports.len();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), count, "a port with two purposes");
    assert_eq!(plan.changed_seats(plan).next(), None);
}

fn check_change(from: &Plan, to: &Plan) {
    let now = Duration::ZERO;
    match Transition::between(from, &Stale::default(), to, now) {
        Ok(transition) => {
            let is_same = transition.transaction.is_empty();
            assert!(is_same || from != to, "a transaction between equal plans");
            let mut changed = from.changed_seats(to).peekable();
            for (seat, held) in to.seats() {
                let differs = changed.next_if_eq(&seat).is_some();
                assert_eq!(differs, from.occupant(seat) != held, "seat {seat}");
            }
        }
        Err(error) => assert!(matches!(error, PlanError::OtherCluster { .. }), "{error}"),
    }
}

/// No slot moves from a seat that stays to another unless the first had too many: a seat that gains
/// a slot loses none.
fn check_least_movement(previous: &Assignment, next: &Assignment, seats: usize) {
    if previous.slots() != next.slots() || previous.slots() == seats {
        return; // of no use, or (possibly) a mask, which takes no previous assignment
    }
    let mut gained = vec![false; seats];
    let mut lost = vec![false; seats];
    for (from, to) in previous.table().iter().zip(next.table()).filter(|(from, to)| from != to) {
        gained[to.index()] = true;
        if let Some(lost) = lost.get_mut(from.index()) {
            *lost = true;
        }
    }
    for seat in 0..seats {
        assert!(!(gained[seat] && lost[seat]), "seat {seat} both gained and lost slots");
    }
}
