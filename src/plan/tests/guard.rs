//! Which ports a guard closes, and for which protocol.

use super::*;
use crate::plan::Protocol;

const RANGE: &str = "20000-29999";

/// Two seats; the places of public ports are those of 80, 53 and 443.
fn mixed() -> Plan {
    let texts = ["0.0.0.0:80", "[::]:80", "10.9.0.1:53/udp", "0.0.0.0:443", "0.0.0.0:443/udp"];
    let partition = Partition::hash(64).unwrap();
    let weights = Weights::equal(2).unwrap();
    let name = "web".parse().unwrap();
    let mut plan = Plan::new(name, listeners(&texts), partition, &weights, None).unwrap();
    plan.occupy(Seat(0), occupant(1, &[20000, 20001, 20002])).unwrap();
    plan.occupy(Seat(1), occupant(1, &[20010, 20011, 20012])).unwrap();
    plan.set_guard(RANGE.parse().ok()).unwrap();
    plan
}

fn closed(plan: &Plan) -> [Vec<u16>; 2] {
    Protocol::ALL.map(|it| plan.guarded_ports(it).into_iter().map(Port::number).collect())
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

#[test]
fn a_port_is_closed_for_the_protocols_of_its_listeners() {
    let tcp = vec![20000, 20002, 20010, 20012];
    let udp = vec![20001, 20002, 20011, 20012];
    assert_eq!(closed(&mixed()), [tcp, udp]);
    let mut all = full_plan(2);
    all.set_guard(RANGE.parse().ok()).unwrap();
    assert_eq!(closed(&all), [vec![20000, 20001], vec![]]);
}

#[test]
fn ports_of_workers_without_a_seat_are_closed_as_is_said_of_them() {
    let mut plan = mixed();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    // One that has a seat has udp open beside its listener.
    let further = [(udp, port(20000)), (tcp, port(20000))];
    plan.guard_unseated(further.into_iter().chain([(tcp, port(20020)), (udp, port(20021))]));
    let expected =
        [vec![20000, 20002, 20010, 20012, 20020], vec![20000, 20001, 20002, 20011, 20012, 20021]];
    assert_eq!(closed(&plan), expected);
    plan.guard_unseated([(tcp, port(20020)), (udp, port(20021))]);
    assert!(!closed(&plan)[1].contains(&20000), "it has closed it");
    plan.occupy(Seat(0), occupant(2, &[20020, 20021, 20022])).unwrap();
    let expected = [vec![20010, 20012, 20020, 20022], vec![20011, 20012, 20021, 20022]];
    assert_eq!(closed(&plan), expected, "its place among the unseated is gone");
}

/// A private port may be for either protocol; udp is guarded where a listener is udp.
#[test]
fn a_port_for_every_protocol_is_closed_for_those_that_are_guarded() {
    let for_all = |number| Protocol::ALL.map(|protocol| (protocol, port(number)));
    let mut plan = mixed();
    plan.guard_unseated(for_all(20500));
    assert!(closed(&plan).iter().all(|ports| ports.contains(&20500)));
    let mut plan = full_plan(1);
    plan.set_guard(RANGE.parse().ok()).unwrap();
    let mut with_private = plan.clone();
    with_private.guard_unseated(for_all(20500));
    assert_eq!(closed(&with_private), [vec![20000, 20500], vec![]]);
    plan.guard_unseated([(Protocol::Tcp, port(20500))]);
    assert_eq!(plan, with_private);
}

#[test]
fn the_guard_of_earlier_versions_closes_each_port_for_every_protocol() {
    let mut before = mixed();
    before.set_guard_for_all(RANGE.parse().unwrap()).unwrap();
    before.guard_unseated([(Protocol::Tcp, port(20020))]);
    let all = vec![20000, 20001, 20002, 20010, 20011, 20012, 20020];
    assert_eq!(closed(&before), [all.clone(), all]);
    // All of it stays closed until it is known what each port is for.
    let mut now = mixed();
    now.guard_unseated_of(&before);
    assert_eq!(closed(&now), closed(&before));
    now.guard_unseated([(Protocol::Tcp, port(20020))]);
    assert_eq!(closed(&now)[0], [20000, 20002, 20010, 20012, 20020]);
    let difference = |it| before.guard_difference(&now, &[], it);
    let ports = |numbers: &[u16]| numbers.iter().map(|it| port(*it)).collect::<Vec<_>>();
    assert_eq!(difference(Protocol::Tcp), (ports(&[20001, 20011]), vec![]));
    assert_eq!(difference(Protocol::Udp), (ports(&[20000, 20010, 20020]), vec![]));
    // Where no listener is udp it is the same.
    let mut alike = full_plan(1);
    alike.set_guard_for_all(RANGE.parse().unwrap()).unwrap();
    let mut plan = full_plan(1);
    plan.set_guard(RANGE.parse().ok()).unwrap();
    assert_eq!(alike, plan);
}

#[test]
fn a_worker_with_another_number_of_ports_may_serve_every_protocol() {
    let listeners = listeners(&["0.0.0.0:80", "0.0.0.0:53/udp"]);
    let of = |numbers: &[u16]| listeners.protocols_of(&ports(numbers)).collect::<Vec<_>>();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    assert_eq!(of(&[20000, 20001]), [(tcp, port(20000)), (udp, port(20001))]);
    assert_eq!(of(&[20000]), [(tcp, port(20000)), (udp, port(20000))]);
    assert_eq!(of(&[]), []);
}
