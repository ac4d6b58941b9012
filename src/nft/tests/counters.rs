use proptest::prelude::*;

use super::{captured, parsed};
use crate::netlink::Attributes;
use crate::nft::wire::counter::{Object, put_delete, put_new};
use crate::plan::Seat;
use crate::ruleset::{CounterName, CounterValue, TableName};

fn table() -> TableName {
    TableName::of(&parsed("web"))
}

fn written(name: CounterName, value: CounterValue) -> Vec<u8> {
    let mut wire = vec![];
    put_new(&mut wire, &table(), name, value);
    wire
}

fn any_counter() -> impl Strategy<Value = (CounterName, CounterValue)> {
    (any::<u16>(), any::<u64>(), any::<u64>()).prop_map(|(seat, connections, bytes)| {
        (CounterName(Seat(seat)), CounterValue { connections, bytes })
    })
}

proptest! {
    #[test]
    fn a_counter_reads_back((name, value) in any_counter()) {
        let object = Object::parse(Attributes::new(&written(name, value))).unwrap();
        prop_assert_eq!(&object.table[..], "ipcluster_web");
        prop_assert_eq!(object.counter(), Some((name, value)));
    }

    #[test]
    fn every_cut_of_a_counter_is_none((name, value) in any_counter()) {
        let wire = written(name, value);
        for end in 0..wire.len() {
            prop_assert_eq!(Object::parse(Attributes::new(&wire[..end])), None);
        }
    }

    #[test]
    fn an_object_that_is_changed_does_not_panic(
        (name, value) in any_counter(),
        flipped in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut wire = written(name, value);
        *flipped.get_mut(&mut wire) = byte;
        let _ = Object::parse(Attributes::new(&wire)).as_ref().and_then(Object::counter);
    }
}

#[test]
fn objects_of_another_kind_or_name_are_no_counters_of_ours() {
    let name = CounterName(Seat(7));
    let mut wire = written(name, CounterValue::default());
    // NFT_OBJECT_QUOTA, in NFTA_OBJ_TYPE, behind the names of the table and of the counter.
    let kind = wire.windows(8).position(|it| it[2..] == [3, 0, 0, 0, 0, 1]).unwrap();
    wire[kind + 7] = 2;
    let object = Object::parse(Attributes::new(&wire)).unwrap();
    assert_eq!((object.value, object.counter()), (None, None));
    let foreign =
        Object { name: "hits".to_owned(), value: Some(CounterValue::default()), ..object };
    assert_eq!(foreign.counter(), None);
    for name in ["seat_", "seat_07", "seat_65536", "seat_-1", "closed"] {
        assert_eq!(CounterName::parse(name), None, "{name}");
    }
}

/// nft itself writes these attributes.
#[test]
fn counters_are_those_of_nft() {
    let captured = captured("counter");
    assert_eq!(captured.len(), 2);
    for (seat, (name, bytes)) in (0..).zip(captured) {
        let counted = if seat == 0 { (3, 180) } else { (0, 0) };
        let value = CounterValue { connections: counted.0, bytes: counted.1 };
        let counter = CounterName(Seat(seat));
        assert_eq!(counter.to_string(), name);
        assert_eq!(
            Object::parse(Attributes::new(&bytes)).unwrap().counter(),
            Some((counter, value))
        );
        let mut wire = vec![];
        put_new(&mut wire, &TableName::of(&parsed("w")), counter, value);
        let mut ours: Vec<_> = Attributes::new(&wire).into_iter().collect();
        let mut theirs: Vec<_> = Attributes::new(&bytes).into_iter().collect();
        // Theirs is a table that is not one of ours.
        assert_eq!(
            (ours.remove(0), theirs.remove(0)),
            ((1, &b"ipcluster_w\0"[..]), (1, &b"w\0"[..]))
        );
        assert_eq!(ours, theirs, "{name}");
    }
    let mut wire = vec![];
    put_delete(&mut wire, &table(), CounterName(Seat(1)));
    let kinds: Vec<u16> = Attributes::new(&wire).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [1, 2, 3], "table, name and type");
}
