//! Whole rulesets as text, as `nft -f` reads them. The cases in namespaces load such texts into the kernel;
//! here every word of them is held, for each kind of rule.

use super::super::lower;
use super::{full, vacant};
use crate::plan::{Destination, Engine, Partition, Plan, PortLookup, Seat};

fn assert_text(plan: &Plan, expected: &str) {
    assert_eq!(lower(plan).to_string(), expected);
}

/// Two seats of four have a worker, so that there are survivors.
fn half(mut plan: Plan) -> Plan {
    for seat in [0, 3].map(Seat) {
        plan.vacate(seat).unwrap();
    }
    plan
}

#[test]
fn a_hash_by_address() {
    let plan = full(&["10.9.0.1:80", "[fd09::1]:443"], Partition::hash(8).unwrap(), 2);
    assert_text(&plan, include_str!("text/hash.nft"));
}

#[test]
fn a_hash_by_connection_of_wildcards_with_survivors() {
    let plan = full(&["0.0.0.0:80", "[::]:80"], Partition::connection(8).unwrap(), 4);
    assert_text(&half(plan), include_str!("text/connection.nft"));
}

#[test]
fn a_mask_of_one_address() {
    let plan = full(&["10.9.0.1:80", "[fd09::1]:80"], Partition::mask(4).unwrap(), 4);
    assert_text(&plan, include_str!("text/mask.nft"));
}

#[test]
fn a_drawn_slot_with_a_guard_and_local_clients() {
    let mut plan = full(&["0.0.0.0:53/udp", "[::]:80"], Partition::random(4).unwrap(), 2);
    plan.set_guard_for_all("20000-20999".parse().unwrap()).unwrap();
    plan.set_local_clients(true);
    assert_text(&plan, include_str!("text/random.nft"));
}

#[test]
fn sets_of_listeners_and_maps_of_ports() {
    let listeners = [
        "0.0.0.0:80",
        "0.0.0.0:81",
        "0.0.0.0:82",
        "10.9.0.1:83",
        "10.9.0.2:83",
        "10.9.0.3:83",
        "[::]:84/udp",
        "[::]:85",
        "[::]:86",
        "[fd09::1]:87",
        "[fd09::2]:87",
        "[fd09::3]:87",
    ];
    let mut plan = full(&listeners, Partition::hash(4).unwrap(), 2);
    assert_text(&plan, include_str!("text/sets.nft"));
    plan.set_destination(Destination::OfInterface);
    plan.set_port_lookup(PortLookup::ByMap);
    assert_text(&plan, include_str!("text/redirect.nft"));
}

#[test]
fn without_translation() {
    let mut plan = full(&["10.9.0.1:80", "[fd09::1]:53/udp"], Partition::hash(4).unwrap(), 2);
    plan.set_engine(Engine::Tproxy).unwrap();
    assert_text(&plan, include_str!("text/tproxy.nft"));
}

#[test]
fn nobody_serves() {
    let mut plan = vacant(&["10.9.0.1:80"], Partition::hash(4).unwrap(), 2);
    assert_text(&plan, include_str!("text/vacant.nft"));
    plan.set_admitting(false);
    assert_text(&plan, include_str!("text/closed.nft"));
}
