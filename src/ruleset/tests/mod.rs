//! Properties of lowering, raising and of the transactions between plans.

mod kernel;
mod lowering;
mod names;
mod raising;
mod text;
mod transitions;

use proptest::prelude::*;

use super::raise::TRANSLATIONS;
use crate::plan::{
    Destination, Engine, Generation, Listeners, Occupant, Partition, Plan, Port, PortLookup,
    PortRange, Seat, Weights,
};

const MIXES: [&[&str]; 9] = [
    &["10.9.0.1:80"],
    &["[fd09::1]:443", "10.9.0.1:443", "10.9.0.1:80"],
    &["0.0.0.0:80", "[::]:80"],
    &["[::]:80", "10.9.0.2:81", "10.9.0.1:81"],
    // So many ports that each seat has one rule with a map.
    &["10.9.0.1:85", "10.9.0.1:84", "10.9.0.1:83", "10.9.0.1:82", "[fd09::1]:81"],
    &["0.0.0.0:53/udp"],
    // A port in both protocols, and one in each alone.
    &["0.0.0.0:443/udp", "0.0.0.0:443", "[::]:80", "[fd09::1]:53/udp"],
    &["10.9.0.1:443", "10.9.0.1:443/udp"],
    // So many of each kind that they are sets.
    &[
        "0.0.0.0:80",
        "0.0.0.0:81",
        "0.0.0.0:80/udp",
        "[::]:80",
        "[::]:81",
        "[::]:82",
        "10.9.0.1:83",
        "10.9.0.2:83",
        "10.9.0.3:83",
        "[fd09::1]:84",
        "[fd09::2]:84",
        "[fd09::3]:84",
    ],
];

fn vacant(listeners: &[&str], partition: Partition, seats: u16) -> Plan {
    let listeners = listeners.iter().map(|text| text.parse().unwrap()).collect();
    let listeners = Listeners::new(listeners).unwrap();
    let weights = Weights::equal(seats.into()).unwrap();
    Plan::new("web".parse().unwrap(), listeners, partition, &weights, None).unwrap()
}

/// Seats with a worker of generation 1 each.
fn full(listeners: &[&str], partition: Partition, seats: u16) -> Plan {
    let mut plan = vacant(listeners, partition, seats);
    for seat in 0..seats {
        occupy(&mut plan, Seat(seat), 20000 + 16 * seat, Generation(1));
    }
    plan
}

fn occupy(plan: &mut Plan, seat: Seat, first: u16, generation: Generation) {
    let count = u16::try_from(plan.listeners().public_ports().len()).unwrap();
    let ports = (first..first + count).map(|port| Port::new(port).unwrap()).collect();
    plan.occupy(seat, Occupant { generation, ports }).unwrap();
}

/// Something that happens to a cluster. Numbers of seats are taken modulo their count.
#[derive(Debug, Clone, Copy)]
enum Event {
    Occupy(u16),
    Vacate(u16),
    Fill,
    Clear,
    Reload,
    Rescale(u16),
    Admit(bool),
    Guard(Option<u16>),
    GuardRange,
    GuardForAll,
    /// So many workers without a seat.
    Unseated(u8),
    LocalClients(bool),
    Translation(Destination, PortLookup),
    Engine(Engine),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u16>().prop_map(Event::Occupy),
        4 => any::<u16>().prop_map(Event::Vacate),
        2 => Just(Event::Fill),
        1 => Just(Event::Clear),
        2 => Just(Event::Reload),
        2 => (0..5u16).prop_map(Event::Rescale),
        1 => any::<bool>().prop_map(Event::Admit),
        2 => prop::option::of(20_000..30_000u16).prop_map(Event::Guard),
        1 => Just(Event::GuardRange),
        1 => Just(Event::GuardForAll),
        2 => (0..3u8).prop_map(Event::Unseated),
        1 => any::<bool>().prop_map(Event::LocalClients),
        1 => any_translation().prop_map(|(to, by)| Event::Translation(to, by)),
        1 => any_engine().prop_map(Event::Engine),
    ]
}

/// A cluster and all that happens to it; each worker has ports that none had before.
struct History {
    plan: Plan,
    next_port: u16,
}

impl History {
    fn happens(&mut self, event: Event) {
        let seats = u16::try_from(self.plan.seats().len()).unwrap();
        let generation = self.plan.generation();
        match event {
            Event::Occupy(seat) => self.occupy(Seat(seat % seats), generation),
            Event::Vacate(seat) => drop(self.plan.vacate(Seat(seat % seats)).unwrap()),
            Event::Fill => {
                for seat in (0..seats).map(Seat) {
                    if self.plan.occupant(seat).is_none() {
                        self.occupy(seat, generation);
                    }
                }
            }
            Event::Clear => {
                for seat in (0..seats).map(Seat) {
                    self.plan.vacate(seat).unwrap();
                }
            }
            Event::Reload => {
                let next = Generation(generation.0 + 1);
                for seat in (0..seats).map(Seat) {
                    self.occupy(seat, next);
                }
                self.plan.set_generation(next);
            }
            Event::Rescale(power) => {
                let count = match self.plan.partition() {
                    Partition::Mask { .. } => 1 << power,
                    _ => 3 * usize::from(power) + 1,
                };
                self.plan = self.plan.rescaled(&Weights::equal(count).unwrap()).unwrap();
            }
            Event::Admit(open) => self.plan.set_admitting(open),
            Event::Guard(last) => {
                let first = Port::new(20_000).unwrap();
                let range = last.and_then(|last| PortRange::new(first, Port::new(last)?));
                self.plan.set_guard(range).unwrap();
            }
            Event::GuardRange => {
                self.plan.set_guard_of_range("20000-29999".parse().unwrap()).unwrap();
            }
            Event::GuardForAll => {
                self.plan.set_guard_for_all("20000-29999".parse().unwrap()).unwrap();
            }
            Event::Unseated(count) => {
                let first = self.next_port;
                self.next_port += 8 * u16::from(count);
                let ports: Vec<Port> = (first..self.next_port).filter_map(Port::new).collect();
                self.plan.guard_unseated(self.plan.clone().listeners().protocols_of(&ports));
            }
            Event::LocalClients(balanced) => self.plan.set_local_clients(balanced),
            Event::Translation(destination, lookup) => {
                self.plan.set_destination(destination);
                self.plan.set_port_lookup(lookup);
            }
            Event::Engine(engine) => self.plan.set_engine(engine).unwrap(),
        }
    }

    fn occupy(&mut self, seat: Seat, generation: Generation) {
        occupy(&mut self.plan, seat, self.next_port, generation);
        // A multiple of every stride that a mix has.
        self.next_port += 8;
    }
}

fn any_start() -> impl Strategy<Value = Plan> {
    let partition = prop_oneof![
        (0..5u32).prop_map(|power| (Partition::mask(1 << power).unwrap(), 1 << power)),
        (40..400u32, 1..16u16).prop_map(|(slots, seats)| (Partition::hash(slots).unwrap(), seats)),
        (40..400u32, 1..16u16)
            .prop_map(|(slots, seats)| (Partition::connection(slots).unwrap(), seats)),
        (40..400u32, 1..16u16)
            .prop_map(|(slots, seats)| (Partition::random(slots).unwrap(), seats)),
    ];
    (prop::sample::select(MIXES.to_vec()), partition, any_engine()).prop_map(
        |(listeners, (partition, seats), engine)| {
            let mut plan = vacant(listeners, partition, seats);
            plan.set_engine(engine).unwrap();
            plan
        },
    )
}

fn any_engine() -> impl Strategy<Value = Engine> {
    prop::sample::select(Engine::ALL.to_vec())
}

fn any_translation() -> impl Strategy<Value = (Destination, PortLookup)> {
    prop::sample::select(TRANSLATIONS.to_vec())
}

/// Two plans of one cluster: the second is what became of the first, or has nothing to do with it.
fn any_pair() -> impl Strategy<Value = (Plan, Plan)> {
    let events = || prop::collection::vec(any_event(), 0..8);
    (any_start(), events(), events(), prop::option::weighted(0.1, any_start())).prop_map(
        |(start, before, after, other)| {
            let mut history = History { plan: start, next_port: 20000 };
            before.into_iter().for_each(|event| history.happens(event));
            let from = history.plan.clone();
            history.plan = other.unwrap_or(history.plan);
            after.into_iter().for_each(|event| history.happens(event));
            (from, history.plan)
        },
    )
}

fn any_plan() -> impl Strategy<Value = Plan> {
    any_pair().prop_map(|(plan, _)| plan)
}

/// What becomes of a cluster, plan after plan.
fn any_history() -> impl Strategy<Value = Vec<Plan>> {
    let steps = prop::collection::vec(prop::collection::vec(any_event(), 0..3), 1..12);
    (any_start(), steps).prop_map(|(start, steps)| {
        let mut history = History { plan: start, next_port: 20000 };
        let mut plans = vec![history.plan.clone()];
        for events in steps {
            events.into_iter().for_each(|event| history.happens(event));
            plans.push(history.plan.clone());
        }
        plans
    })
}
