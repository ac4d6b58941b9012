//! Properties of planning, and its bad input. What the helpers make is valid; `unwrap` is for that.

mod assignment;
mod bad_input;
mod changes;
mod guard;
mod hash;
mod ids;
mod lending;
mod routes;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{
    Engine, Generation, Listeners, Occupant, Partition, Plan, Port, PortRange, Seat, Weights,
};

fn listeners(texts: &[&str]) -> Listeners {
    Listeners::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
}

fn ports(numbers: &[u16]) -> std::sync::Arc<[Port]> {
    numbers.iter().map(|number| Port::new(*number).unwrap()).collect()
}

fn occupant(generation: u64, numbers: &[u16]) -> Occupant {
    Occupant { generation: Generation(generation), ports: ports(numbers) }
}

/// A plan on 1,024 hashed slots for one public port, all seats vacant.
fn vacant_plan(seats: usize) -> Plan {
    let partition = Partition::hash(1024).unwrap();
    let weights = Weights::equal(seats).unwrap();
    Plan::new("web".parse().unwrap(), listeners(&["0.0.0.0:80"]), partition, &weights, None)
        .unwrap()
}

/// The same with the worker of seat k on port 20000 + k.
fn full_plan(seats: u16) -> Plan {
    let mut plan = vacant_plan(usize::from(seats));
    plan.occupy_all((0..seats).map(|k| (Seat(k), occupant(1, &[20000 + k])))).unwrap();
    plan
}

fn any_client() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn any_partition() -> impl Strategy<Value = Partition> {
    prop_oneof![
        (0..=10u32).prop_map(|power| Partition::mask(1 << power).unwrap()),
        (1..=Partition::MAX_SLOTS, any::<u32>())
            .prop_map(|(slots, seed)| Partition::hash_seeded(slots, seed).unwrap()),
    ]
}

/// Any plan of the cluster "web": one or two public ports, any seats vacant, any generations.
fn any_plan() -> impl Strategy<Value = Plan> {
    let partition = prop_oneof![
        (0..=5u32).prop_map(|power| Partition::mask(1 << power).unwrap()),
        (40..=200u32).prop_map(|slots| Partition::hash(slots).unwrap()),
    ];
    let public = prop::sample::select(vec![
        &["0.0.0.0:80"][..],
        &["[::]:80", "10.9.0.1:443"][..],
        &["10.9.0.1:80", "10.9.0.2:80"][..],
        &["0.0.0.0:53/udp", "0.0.0.0:80", "[::]:80/udp"][..],
    ]);
    let guard = prop::option::of((20_000..30_000u16, 20_000..30_000u16));
    let guard = guard.prop_map(|ends| {
        let (one, other) = ends?;
        PortRange::new(Port::new(one.min(other))?, Port::new(one.max(other))?)
    });
    let engine = prop::sample::select(Engine::ALL.to_vec());
    let flags = (any::<bool>(), any::<bool>(), guard, engine);
    (partition, public, 1..=40usize, flags, 1..5u64).prop_flat_map(
        |(partition, public, seats, (admitting, local_clients, guard, engine), generation)| {
            let seats = match partition {
                Partition::Mask { slots } => slots as usize,
                Partition::Hash { .. } | Partition::Random { .. } => seats,
            };
            let public = listeners(public);
            let needed = public.public_ports().len();
            let weights = match partition {
                Partition::Mask { .. } => Just(vec![1.0; seats]).boxed(),
                Partition::Hash { .. } | Partition::Random { .. } => any_weights(seats).boxed(),
            };
            let taken = prop::collection::btree_set(20000..30000u16, seats * needed);
            let held = prop::collection::vec(prop::option::of(1..5u64), seats);
            (weights, taken, held).prop_map(move |(weights, taken, held)| {
                let weights = Weights::new(&weights).unwrap();
                let name = "web".parse().unwrap();
                let mut plan = Plan::new(name, public.clone(), partition, &weights, None).unwrap();
                plan.occupy_all(occupants(&held, &taken, needed)).unwrap();
                plan.set_admitting(admitting);
                plan.set_local_clients(local_clients);
                plan.set_guard(guard).unwrap();
                // Its ports can be such as it does not take.
                let _ = plan.set_engine(engine);
                plan.set_generation(Generation(generation));
                plan
            })
        },
    )
}

fn occupants(held: &[Option<u64>], taken: &BTreeSet<u16>, needed: usize) -> Vec<(Seat, Occupant)> {
    let taken: Vec<u16> = taken.iter().copied().collect();
    let each = (0..).map(Seat).zip(held).zip(taken.chunks(needed));
    each.filter_map(|((seat, generation), chunk)| Some((seat, occupant((*generation)?, chunk))))
        .collect()
}

/// Weights that spread over many orders of magnitude, with zeros, but not all zero.
fn any_weights(seats: usize) -> impl Strategy<Value = Vec<f64>> {
    let weight = prop_oneof![
        4 => Just(1.0),
        2 => (1..10u32).prop_map(f64::from),
        1 => Just(0.0),
        1 => (-300..300i32).prop_map(|power| 10f64.powi(power)),
    ];
    (prop::collection::vec(weight, seats), 0..seats).prop_map(|(mut weights, heaviest)| {
        if weights.iter().all(|weight| *weight == 0.0) {
            weights[heaviest] = 1.0;
        }
        weights
    })
}
