//! Bad input: a typed error that names the value at fault, nothing changed, no panic.

use std::net::IpAddr;

use proptest::prelude::*;

use super::super::{
    Assignment, ClusterName, Engine, Generation, Listener, Listeners, Occupant, Partition, Plan,
    PlanError, Port, PortRange, Seat, Weights,
};
use super::{full_plan, listeners, occupant, ports, vacant_plan};

#[test]
fn numbers_of_workers() {
    for workers in [0, 1025, usize::MAX / 64] {
        assert_eq!(Weights::equal(workers), Err(PlanError::WorkerCount { workers }));
    }
    for workers in [1, 3, 4, 7, 8, 9, 1023, 1024] {
        assert_eq!(vacant_plan(workers).seats().len(), workers);
    }
    assert_eq!(Weights::new(&[]), Err(PlanError::WorkerCount { workers: 0 }));
    assert_eq!(Weights::new(&[1.0; 1025]), Err(PlanError::WorkerCount { workers: 1025 }));
}

#[test]
fn numbers_of_slots() {
    for slots in [0, 65_537, u32::MAX] {
        assert_eq!(Partition::hash(slots), Err(PlanError::SlotCount { slots }));
    }
    assert_eq!(
        Assignment::new(&Partition::hash(7).unwrap(), &Weights::equal(8).unwrap(), None),
        Err(PlanError::FewerSlotsThanWorkers { slots: 7, workers: 8 })
    );
}

#[test]
fn a_mask_of_no_power_of_two() {
    for workers in [0, 3, 5, 6, 7, 9, 1023, 1025, 2048, u32::MAX] {
        assert_eq!(Partition::mask(workers), Err(PlanError::MaskNotPowerOfTwo { workers }));
    }
    let partition = Partition::mask(4).unwrap();
    let weights = Weights::equal(4).unwrap();
    let name = "web".parse().unwrap();
    let plan = Plan::new(name, listeners(&["0.0.0.0:80"]), partition, &weights, None).unwrap();
    assert_eq!(
        plan.rescaled(&Weights::equal(5).unwrap()),
        Err(PlanError::MaskNotPowerOfTwo { workers: 5 })
    );
    assert_eq!(plan.rescaled(&Weights::equal(8).unwrap()).unwrap().partition().slots(), 8);
}

#[test]
fn weights() {
    for weight in [-1.0, -f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Weights::new(&[1.0, weight]), Err(PlanError::Weight { seat: 1, weight }));
    }
    let error = Weights::new(&[f64::NAN]).unwrap_err();
    assert!(matches!(error, PlanError::Weight { seat: 0, weight } if weight.is_nan()));
    assert_eq!(Weights::new(&[0.0, -0.0]), Err(PlanError::WeightsAllZero));
}

#[test]
fn port_0() {
    assert_eq!(Port::new(0), None);
    let error = "0.0.0.0:0".parse::<Listener>().unwrap_err();
    assert!(error.to_string().contains("port 0"), "{error}");
}

#[test]
fn ports_with_two_purposes() {
    let refused = |seat: u16, occupant: Occupant| {
        let mut plan = full_plan(3);
        let error = plan.occupy(Seat(seat), occupant).unwrap_err();
        assert_eq!(plan, full_plan(3), "changed in spite of {error}");
        error
    };
    let port = |number| Port::new(number).unwrap();
    assert_eq!(
        refused(1, occupant(1, &[80])),
        PlanError::PortIsPublic { seat: Seat(1), port: port(80) }
    );
    assert_eq!(
        refused(1, occupant(1, &[20000])),
        PlanError::PortTaken { port: port(20000), seat: Seat(1), other: Seat(0) }
    );
    for (given, numbers) in [(0, &[][..]), (2, &[20001, 20002])] {
        assert_eq!(
            refused(1, occupant(1, numbers)),
            PlanError::PortCount { seat: Seat(1), given, needed: 1 }
        );
    }
    assert_eq!(
        refused(3, occupant(1, &[20009])),
        PlanError::UnknownSeat { seat: Seat(3), seats: 3 }
    );
    assert_eq!(
        full_plan(3).vacate(Seat(u16::MAX)),
        Err(PlanError::UnknownSeat { seat: Seat(u16::MAX), seats: 3 })
    );
    assert_eq!(
        full_plan(3).vacate(Seat(3)),
        Err(PlanError::UnknownSeat { seat: Seat(3), seats: 3 })
    );
}

#[test]
fn the_same_port_twice_in_one_worker() {
    let public = listeners(&["0.0.0.0:80", "0.0.0.0:443"]);
    let partition = Partition::hash(8).unwrap();
    let name = "web".parse().unwrap();
    let mut plan = Plan::new(name, public, partition, &Weights::equal(1).unwrap(), None).unwrap();
    assert_eq!(
        plan.occupy(Seat(0), occupant(1, &[20000, 20000])),
        Err(PlanError::PortTaken {
            port: Port::new(20000).unwrap(),
            seat: Seat(0),
            other: Seat(0)
        })
    );
}

/// The guard would drop what clients send before it is redirected.
#[test]
fn a_public_port_that_is_guarded() {
    let range: PortRange = "80-90".parse().unwrap();
    let refused = PlanError::PublicPortGuarded { port: Port::new(80).unwrap(), range };
    let mut plan = full_plan(2);
    assert_eq!(plan.set_guard(Some(range)), Err(refused.clone()));
    assert!(refused.to_string().contains("80 is among the worker ports 80-90"), "{refused}");
    assert_eq!(plan, full_plan(2));
    plan.set_guard("81-90".parse().ok()).unwrap();
    assert_eq!(plan.guard(), "81-90".parse().ok());
}

/// Where a rule puts the public port back into datagrams, a worker port tells its place.
#[test]
fn a_worker_port_that_tells_another_place() {
    let public = listeners(&["0.0.0.0:80", "0.0.0.0:53/udp", "0.0.0.0:443"]);
    let partition = Partition::hash(8).unwrap();
    let weights = Weights::equal(1).unwrap();
    let mut plan = Plan::new("web".parse().unwrap(), public, partition, &weights, None).unwrap();
    plan.occupy(Seat(0), occupant(1, &[20_000, 20_001, 20_003])).unwrap();
    let refused = PlanError::PortPlace {
        seat: Seat(0),
        port: Port::new(20_003).unwrap(),
        place: 2,
        stride: 4,
    };
    let before = plan.clone();
    assert_eq!(plan.set_engine(Engine::Tproxy), Err(refused.clone()));
    assert_eq!(plan, before);
    assert!(refused.to_string().contains("leaves 2 when divided by 4"), "{refused}");
    plan.occupy(Seat(0), occupant(2, &[20_004, 20_005, 20_006])).unwrap();
    plan.set_engine(Engine::Tproxy).unwrap();
    assert_eq!(plan.occupy(Seat(0), occupant(3, &[20_000, 20_001, 20_003])), Err(refused));
    // By tcp alone any port will do.
    let tcp = listeners(&["0.0.0.0:80", "0.0.0.0:443"]);
    assert_eq!(Engine::Tproxy.port_stride(&tcp), None);
    assert_eq!(Engine::Redirect.port_stride(plan.listeners()), None);
}

/// The workers of the old generation still listen while they drain.
#[test]
fn overlap_between_generations() {
    for (seat, number, other) in [(1, 20001, 1), (1, 20002, 2)] {
        let mut plan = full_plan(3);
        assert_eq!(
            plan.occupy_all([
                (Seat(0), occupant(2, &[21000])),
                (Seat(seat), occupant(2, &[number])),
                (Seat(2), occupant(2, &[21002])),
            ]),
            Err(PlanError::PortTaken {
                port: Port::new(number).unwrap(),
                seat: Seat(seat),
                other: Seat(other)
            })
        );
        assert_eq!(plan, full_plan(3));
    }
    let mut plan = full_plan(2);
    plan.occupy(Seat(0), occupant(1, &[20000])).unwrap();
    assert_eq!(plan, full_plan(2), "the same worker again is no overlap");
    plan.occupy_all([(Seat(0), occupant(1, &[20001])), (Seat(1), occupant(1, &[20000]))]).unwrap();
    plan.vacate(Seat(0)).unwrap();
    plan.occupy(Seat(0), occupant(2, &[20001])).unwrap();
}

#[test]
fn one_seat_for_two_workers() {
    let mut plan = vacant_plan(2);
    assert_eq!(
        plan.occupy_all([(Seat(1), occupant(1, &[20000])), (Seat(1), occupant(1, &[20001]))]),
        Err(PlanError::SeatGivenTwice { seat: Seat(1) })
    );
    assert_eq!(plan, vacant_plan(2));
}

#[test]
fn parts_that_do_not_fit() {
    let from_parts = |table: Vec<Seat>, slots, seats: Vec<Option<Occupant>>| {
        Plan::from_parts(
            "web".parse().unwrap(),
            Generation::FIRST,
            listeners(&["0.0.0.0:80"]),
            Partition::hash(slots).unwrap(),
            Assignment::from_table(table),
            seats,
        )
    };
    assert_eq!(from_parts(vec![], 4, vec![]), Err(PlanError::WorkerCount { workers: 0 }));
    assert_eq!(
        from_parts(vec![Seat(0); 4], 4, vec![None; 1025]),
        Err(PlanError::WorkerCount { workers: 1025 })
    );
    for assigned in [0, 3, 5] {
        assert_eq!(
            from_parts(vec![Seat(0); assigned], 4, vec![None]),
            Err(PlanError::AssignmentSize { assigned, slots: 4 })
        );
    }
    for seat in [Seat(2), Seat(u16::MAX)] {
        assert_eq!(
            from_parts(vec![Seat(0), seat], 2, vec![None; 2]),
            Err(PlanError::UnknownSeat { seat, seats: 2 })
        );
    }
    let same = Some(occupant(1, &[20000]));
    assert_eq!(
        from_parts(vec![Seat(0); 4], 4, vec![same.clone(), same]),
        Err(PlanError::PortTaken { port: ports(&[20000])[0], seat: Seat(1), other: Seat(0) })
    );
    // Uneven, as a foreign hand may have left it: still what the kernel holds.
    from_parts(vec![Seat(1); 4], 4, vec![None; 2]).unwrap();
}

#[test]
fn addresses_of_listeners() {
    for refused in [
        "224.0.0.1:80",
        "239.1.2.3:80",
        "[ff02::1]:80",
        "255.255.255.255:80",
        "[::ffff:10.0.0.1]:80",
        "[::ffff:0.0.0.0]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        let error = refused.parse::<Listener>().unwrap_err();
        let address = refused.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
        let address: IpAddr = address.parse().unwrap();
        assert!(
            matches!(error, PlanError::ListenerAddress { address: at_fault, .. } if at_fault == address),
            "{refused}: {error}"
        );
    }
    for wildcard in ["0.0.0.0:80", "[::]:80"] {
        assert!(wildcard.parse::<Listener>().unwrap().is_wildcard());
    }
    for (unicast, is_loopback) in [
        ("10.9.0.1:65535/tcp", false),
        ("[2001:db8::1]:1/udp", false),
        ("[fe80::1]:80/tcp", false),
        ("127.0.0.1:80/tcp", true),
        ("127.255.0.3:80/udp", true),
        ("[::1]:80/tcp", true),
    ] {
        let listener: Listener = unicast.parse().unwrap();
        assert!(!listener.is_wildcard());
        assert_eq!(listener.is_loopback(), is_loopback);
        assert_eq!(listener.to_string(), unicast, "parsed and printed again");
    }
}

#[test]
fn listeners_that_overlap() {
    for (one, other, overlap) in [
        ("10.9.0.1:80", "10.9.0.1:80", true),
        ("10.9.0.1:80", "10.9.0.2:80", false),
        ("10.9.0.1:80", "10.9.0.1:81", false),
        ("10.9.0.1:80", "0.0.0.0:80", true),
        ("0.0.0.0:80", "0.0.0.0:80", true),
        ("0.0.0.0:80", "0.0.0.0:443", false),
        ("0.0.0.0:80", "[::]:80", false),
        ("[::]:80", "10.9.0.1:80", false),
        ("[::]:80", "[fd09::1]:80", true),
        ("[fd09::1]:80", "[fd09::2]:80", false),
    ] {
        let [a, b]: [Listener; 2] = [one.parse().unwrap(), other.parse().unwrap()];
        assert_eq!((a.overlaps(&b), b.overlaps(&a)), (overlap, overlap), "{one} and {other}");
    }
    let ours = listeners(&["10.9.0.1:80", "[::]:443"]);
    let theirs = listeners(&["0.0.0.0:443", "[fd09::1]:443"]);
    let text = |(a, b): (Listener, Listener)| (a.to_string(), b.to_string());
    let expected = ("[::]:443/tcp".to_owned(), "[fd09::1]:443/tcp".to_owned());
    assert_eq!(ours.overlap(&theirs).map(text), Some(expected));
    assert_eq!(ours.overlap(&listeners(&["0.0.0.0:443"])), None);
}

#[test]
fn texts_of_listeners() {
    for (text, hint) in [
        ("", "ADDR:PORT"),
        ("80", "ADDR:PORT"),
        (":80", "ADDR:PORT"),
        ("10.0.0.1", "ADDR:PORT"),
        ("10.0.0.1:", "ADDR:PORT"),
        ("10.0.0.1:-1", "ADDR:PORT"),
        ("10.0.0.1:65536", "ADDR:PORT"),
        ("10.0.0.1:80 ", "ADDR:PORT"),
        ("10.0.0.1:80\n", "ADDR:PORT"),
        ("10.0.0.1:80\0", "ADDR:PORT"),
        ("010.0.0.1:80", "ADDR:PORT"),
        ("::1:80", "ADDR:PORT"),
        ("localhost:80", "ADDR:PORT"),
        ("[fe80::1%2]:80", "zone"),
        ("[fe80::1%eth0]:80", "zone"),
        ("10.0.0.1:80/sctp", "tcp or udp"),
        ("10.0.0.1:80/", "protocol"),
        ("10.0.0.1:80/TCP", "protocol"),
        ("10.0.0.1:80/tcp/tcp", "protocol"),
    ] {
        let error = text.parse::<Listener>().unwrap_err();
        assert!(error.to_string().contains(hint), "{text:?}: {error}");
        assert!(matches!(error, PlanError::ListenerText { text: given, .. } if given == text));
    }
}

#[test]
fn numbers_of_listeners() {
    assert_eq!(Listeners::new(vec![]), Err(PlanError::NoListeners));
    let one: Listener = "10.0.0.1:80".parse().unwrap();
    let other: Listener = "10.0.0.2:80".parse().unwrap();
    assert_eq!(
        Listeners::new(vec![one, other, one]),
        Err(PlanError::DuplicateListener { listener: one })
    );
    let many = |count: u32| -> Vec<Listener> {
        let address = |low| IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + low));
        (0..count).map(|k| Listener::tcp(address(k), Port::new(80).unwrap()).unwrap()).collect()
    };
    assert_eq!(Listeners::new(many(1024)).unwrap().iter().len(), 1024);
    assert_eq!(Listeners::new(many(1025)), Err(PlanError::TooManyListeners { count: 1025 }));
}

#[test]
fn names() {
    let long = "a".repeat(64);
    for good in ["a", "0", "web-1_B", &long] {
        assert_eq!(good.parse::<ClusterName>().unwrap().as_str(), good);
    }
    let longer = "a".repeat(65);
    let longest = "é".repeat(128);
    for bad in
        ["", "-a", "_a", " a", "a b", "a\n", "\n", "a\0", "\0", "a/b", "..", "é", &longer, &longest]
    {
        let cut: String = bad.chars().take(64).collect();
        let error = bad.parse::<ClusterName>().unwrap_err();
        assert_eq!(error, PlanError::Name { name: cut });
        assert!(!error.to_string().contains(['\n', '\0']), "{error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in any::<String>()) {
        let _ = text.parse::<ClusterName>();
        let _ = text.parse::<Listener>();
    }

    #[test]
    fn a_name_that_is_taken_is_safe_in_paths_and_rules(text in "[ -~]{0,70}") {
        if let Ok(name) = text.parse::<ClusterName>() {
            prop_assert!(name.as_str().len() <= ClusterName::MAX_LEN);
            prop_assert!(!name.as_str().contains(['/', '.', '"', ' ']));
        }
    }
}
