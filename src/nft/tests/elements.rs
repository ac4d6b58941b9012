use proptest::prelude::*;

use super::{captured, parsed, port};
use crate::netlink::Attributes;
use crate::nft::wire::element::{self, Element, SetReference, Value, collect, emit};
use crate::plan::{MAX_SEATS, Partition, Protocol, Seat};
use crate::ruleset::{Digest, Elements, Family, SetName};

fn target() -> SetReference<'static> {
    SetReference { table: "ipcluster_web", set: SetName::Slots(DIGEST).into(), id: Some(3) }
}

const DIGEST: Digest = Digest(0x9c1e_07aa);

const ALL_NAMES: [SetName; 10] = [
    SetName::Listeners(Family::V4),
    SetName::Listeners(Family::V6),
    SetName::Wildcards(Family::V4),
    SetName::Wildcards(Family::V6),
    SetName::Slots(DIGEST),
    SetName::MaskedSlots(Family::V4, DIGEST),
    SetName::MaskedSlots(Family::V6, DIGEST),
    SetName::Survivors(DIGEST),
    SetName::Ports(Seat(0), Protocol::Tcp, DIGEST),
    SetName::Ports(Seat(1023), Protocol::Udp, DIGEST),
];

/// The bodies of the messages that add these elements.
fn bodies(write: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(&mut Vec<u8>))) -> Vec<Vec<u8>> {
    let (mut buffer, mut starts) = (vec![], vec![]);
    write(&mut buffer, &mut |buffer| starts.push(buffer.len()));
    starts.push(buffer.len());
    starts.windows(2).map(|ends| buffer[ends[0]..ends[1]].to_vec()).collect()
}

fn bodies_of(elements: &Elements) -> Vec<Vec<u8>> {
    bodies(|buffer, message| emit(buffer, target(), elements, message))
}

fn read(bodies: &[Vec<u8>]) -> Vec<Element> {
    bodies
        .iter()
        .flat_map(|body| element::parse(Attributes::new(body)).expect("elements of ours"))
        .collect()
}

fn any_elements() -> impl Strategy<Value = (SetName, Elements)> {
    let seats = || prop::collection::vec((0..1024u16).prop_map(Seat), 1..3000);
    let protocol = || prop::sample::select(Protocol::ALL.to_vec());
    let service = || (protocol(), (1..=u16::MAX).prop_map(port));
    let services = || prop::collection::btree_set(service(), 1..50);
    let [v4, v6] = Family::ALL;
    prop_oneof![
        seats().prop_map(|seats| (SetName::Slots(DIGEST), Elements::Seats(seats))),
        seats().prop_map(|seats| (SetName::Survivors(DIGEST), Elements::Seats(seats))),
        seats().prop_map(move |of| (SetName::MaskedSlots(v4, DIGEST), Elements::MaskedSeats4(of))),
        seats().prop_map(move |of| (SetName::MaskedSlots(v6, DIGEST), Elements::MaskedSeats6(of))),
        prop::collection::btree_map(1..=u16::MAX, 1..=u16::MAX, 1..20).prop_map(|of| {
            let of = of.into_iter().map(|(from, to)| (port(from), port(to)));
            (SetName::Ports(Seat(3), Protocol::Udp, DIGEST), Elements::Ports(of.collect()))
        }),
        prop::collection::btree_set((1..=u16::MAX).prop_map(port), 1..50).prop_map(|of| {
            let of = of.into_iter().collect();
            (SetName::Guarded(Protocol::Tcp), Elements::WorkerPorts(of))
        }),
        services().prop_map(move |of| {
            (SetName::Wildcards(v4), Elements::Services(of.into_iter().collect()))
        }),
        services().prop_map(move |of| {
            (SetName::Wildcards(v6), Elements::Services(of.into_iter().collect()))
        }),
        prop::collection::btree_set((any::<u32>(), service()), 1..50).prop_map(move |of| {
            let of = of.into_iter().map(|(bits, (proto, port))| (bits.into(), proto, port));
            (SetName::Listeners(v4), Elements::Listeners4(of.collect()))
        }),
        prop::collection::btree_set((any::<u128>(), service()), 1..50).prop_map(move |of| {
            let of = of.into_iter().map(|(bits, (proto, port))| (bits.into(), proto, port));
            (SetName::Listeners(v6), Elements::Listeners6(of.collect()))
        }),
    ]
}

fn any_element() -> impl Strategy<Value = Element> {
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..5).prop_map(Value::Bytes),
        "seat_[0-9]{1,6}|closed|.{0,5}".prop_map(Value::Goto),
    ];
    (prop::collection::vec(any::<u8>(), 0..30), prop::option::of(value))
        .prop_map(|(key, value)| Element { key, value })
}

proptest! {
    #[test]
    fn elements_read_back_in_whatever_order_they_come(
        (name, elements) in any_elements(),
        turn in any::<prop::sample::Index>(),
    ) {
        let mut listed = read(&bodies_of(&elements));
        let places = listed.len();
        listed.rotate_left(turn.index(places));
        listed.reverse();
        prop_assert_eq!(collect(name, &listed), Some(elements));
    }

    #[test]
    fn a_map_with_a_key_missing_or_twice_is_none_of_ours(
        seats in prop::collection::vec((0..9u16).prop_map(Seat), 2..50),
        place in any::<prop::sample::Index>(),
    ) {
        let mut listed = read(&bodies_of(&Elements::Seats(seats)));
        let places = listed.len() - 1;
        let place = place.index(places);
        listed[place].key = listed[places].key.clone();
        prop_assert_eq!(collect(SetName::Slots(DIGEST), &listed), None, "one key twice");
        listed.remove(place);
        prop_assert_eq!(collect(SetName::Slots(DIGEST), &listed), None, "a gap");
    }

    #[test]
    fn bytes_that_nobody_meant_do_not_panic(
        body in prop::collection::vec(any::<u8>(), 0..300),
        elements in prop::collection::vec(any_element(), 0..20),
    ) {
        let mut elements = elements;
        elements.extend(element::parse(Attributes::new(&body)).unwrap_or_default());
        for name in ALL_NAMES {
            let _ = collect(name, &elements);
        }
    }

    #[test]
    fn a_body_that_is_cut_or_changed_does_not_panic(
        (name, elements) in any_elements(),
        end in any::<prop::sample::Index>(),
        flipped in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut body = bodies_of(&elements).swap_remove(0);
        *flipped.get_mut(&mut body) = byte;
        for body in [&body[..], &body[..end.index(body.len())]] {
            if let Some(read) = element::parse(Attributes::new(body)) {
                let _ = collect(name, &read);
            }
        }
    }
}

#[test]
fn the_most_slots_take_several_messages_and_read_back() {
    const MOST: usize = Partition::MAX_SLOTS as usize;
    let seats: Vec<Seat> = (0..MAX_SEATS).map(Seat).cycle().take(MOST).collect();
    for (name, elements) in [
        (SetName::Slots(DIGEST), Elements::Seats(seats.clone())),
        (SetName::MaskedSlots(Family::V4, DIGEST), Elements::MaskedSeats4(seats.clone())),
        (SetName::MaskedSlots(Family::V6, DIGEST), Elements::MaskedSeats6(seats)),
    ] {
        let bodies = bodies_of(&elements);
        assert!(bodies.len() > 40, "{name}: {} messages", bodies.len());
        for body in &bodies {
            // Table, set, its number and the list, of which none may be longer than 65,535 bytes:
            // whatever followed one that was cut would not be read as these.
            let kinds: Vec<u16> = Attributes::new(body).into_iter().map(|(kind, _)| kind).collect();
            assert_eq!(kinds, [1, 2, 4, 3], "{name}");
            assert!(body.len() < 65_536 + 64, "{name}");
        }
        assert_eq!(collect(name, &read(&bodies)), Some(elements), "{name}");
    }
}

/// nft itself writes these bytes for these elements.
#[test]
#[cfg(target_endian = "little")]
fn elements_are_those_of_nft() {
    let captured = captured("elements");
    let service = (Protocol::Tcp, port(80));
    let seats = vec![Seat(0), Seat(1)];
    let mut compared = 0;
    for (name, bytes) in captured {
        let elements = match SetName::parse(name) {
            Some(SetName::Listeners(Family::V4)) => {
                Elements::Listeners4(vec![(parsed("10.9.0.1"), service.0, service.1)])
            }
            Some(SetName::Listeners(Family::V6)) => {
                Elements::Listeners6(vec![(parsed("fd09::1"), service.0, service.1)])
            }
            Some(SetName::MaskedSlots(Family::V4, _)) => Elements::MaskedSeats4(seats.clone()),
            Some(SetName::MaskedSlots(Family::V6, _)) => Elements::MaskedSeats6(seats.clone()),
            Some(SetName::Ports(_, Protocol::Tcp, _)) => {
                Elements::Ports([(80, 20000), (443, 20001)].map(|(a, b)| (port(a), port(b))).into())
            }
            Some(SetName::Ports(_, Protocol::Udp, _)) => {
                Elements::Ports(vec![(port(80), port(20000))])
            }
            Some(SetName::Guarded(_)) => Elements::WorkerPorts(vec![port(20000), port(20001)]),
            other => panic!("{other:?} was not captured"),
        };
        assert_eq!(list_of(&bodies_of(&elements)[0]), sorted(&bytes), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 7);
}

/// Elements, each as its attributes in the order of their numbers.
type Sorted = Vec<Vec<(u16, Vec<u8>)>>;

fn list_of(body: &[u8]) -> Sorted {
    let (_, list) =
        Attributes::new(body).into_iter().find(|(kind, _)| *kind == 3).expect("the list");
    sorted(list)
}

fn sorted(list: &[u8]) -> Sorted {
    let elements = Attributes::new(list).into_iter().map(|(_, element)| {
        let attributes = Attributes::new(element).into_iter();
        let mut attributes: Vec<_> =
            attributes.map(|(kind, value)| (kind, value.to_vec())).collect();
        attributes.sort();
        attributes
    });
    elements.collect()
}
