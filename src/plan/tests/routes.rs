//! Which worker a client reaches.

use std::net::IpAddr;

use proptest::prelude::*;

use super::super::{Partition, Plan, Seat, Weights};
use super::{any_client, any_plan, full_plan, listeners, occupant, vacant_plan};

fn clients() -> impl Iterator<Item = IpAddr> {
    (0..20_000u32)
        .map(|low| IpAddr::from([10, 8, (low >> 8).to_le_bytes()[0], low.to_le_bytes()[0]]))
}

fn seat_of(plan: &Plan, client: IpAddr) -> Seat {
    plan.worker_for(client).unwrap().seat
}

proptest! {
    #[test]
    fn every_client_reaches_one_worker_while_there_is_any(plan in any_plan(), client in any_client()) {
        let survivors: Vec<Seat> = plan.survivors().collect();
        let Some(route) = plan.worker_for(client) else {
            prop_assert!(survivors.is_empty());
            return Ok(());
        };
        prop_assert_eq!(route.slot, plan.partition().slot_of(client));
        prop_assert_eq!(route.home, plan.assignment().seat_of(route.slot));
        prop_assert_eq!(Some(route.occupant), plan.occupant(route.seat));
        prop_assert!(survivors.contains(&route.seat));
        prop_assert!(route.seat == route.home || plan.occupant(route.home).is_none());
    }

    /// The order in which workers are given is of no consequence, nor whether one by one or all at
    /// once.
    #[test]
    fn the_order_of_workers_does_not_matter(
        (target, order) in any_plan().prop_flat_map(|plan| {
            let held: Vec<_> =
                plan.seats().filter_map(|(seat, held)| Some((seat, held?.clone()))).collect();
            (Just(plan), Just(held).prop_shuffle())
        })
    ) {
        let mut vacated = target.clone();
        for seat in target.survivors() {
            vacated.vacate(seat).unwrap();
        }
        let mut at_once = vacated.clone();
        at_once.occupy_all(order.clone()).unwrap();
        prop_assert_eq!(&at_once, &target);
        for (seat, held) in order {
            vacated.occupy(seat, held).unwrap();
        }
        prop_assert_eq!(&vacated, &target);
    }
}

#[test]
fn a_loss_moves_only_the_clients_of_the_lost_worker_and_spreads_them() {
    let whole = full_plan(8);
    for lost in (0..8).map(Seat) {
        let mut plan = whole.clone();
        plan.vacate(lost).unwrap();
        let mut received = [0u32; 8];
        for client in clients() {
            let (before, after) = (seat_of(&whole, client), seat_of(&plan, client));
            if before == lost {
                received[after.index()] += 1;
            } else {
                assert_eq!(before, after, "{client}");
            }
        }
        // About 2,500 clients over 7 survivors: 357 each, standard deviation 17.5.
        assert_eq!(received[lost.index()], 0);
        let fair = received.iter().filter(|count| (250..470).contains(*count)).count();
        assert_eq!(fair, 7, "{received:?}");
    }
}

#[test]
fn clients_come_back_when_their_seat_is_taken_again() {
    let whole = full_plan(4);
    let mut plan = whole.clone();
    plan.vacate(Seat(2)).unwrap();
    plan.occupy(Seat(2), occupant(1, &[25000])).unwrap();
    assert!(clients().all(|client| seat_of(&plan, client) == seat_of(&whole, client)));
}

#[test]
fn a_new_generation_moves_nobody_to_another_seat() {
    let old = full_plan(4);
    let mut new = old.clone();
    new.occupy_all((0..4).map(|k| (Seat(k), occupant(2, &[21000 + k])))).unwrap();
    for client in clients() {
        let (before, after) = (old.worker_for(client).unwrap(), new.worker_for(client).unwrap());
        assert_eq!(before.seat, after.seat);
        assert_eq!(after.occupant.generation, super::Generation(2));
    }
}

#[test]
fn nobody_is_reached_where_nobody_is() {
    let mut plan = vacant_plan(3);
    assert_eq!(plan.worker_for("10.8.1.7".parse().unwrap()), None);
    plan.occupy(Seat(1), occupant(1, &[20000])).unwrap();
    assert!(clients().all(|client| seat_of(&plan, client) == Seat(1)));
}

#[test]
fn a_scale_up_moves_clients_to_the_new_seat_alone() {
    let before = full_plan(4);
    let mut after = before.rescaled(&Weights::equal(5).unwrap()).unwrap();
    after.occupy(Seat(4), occupant(1, &[20004])).unwrap();
    let mut moved = 0;
    for client in clients() {
        if seat_of(&before, client) != seat_of(&after, client) {
            assert_eq!(seat_of(&after, client), Seat(4));
            moved += 1;
        }
    }
    assert!((3_600..4_400).contains(&moved), "{moved} of 20,000 clients; the least is a fifth");
}

#[test]
fn several_ports_go_to_the_same_worker() {
    let public = listeners(&["0.0.0.0:80", "[::]:80", "0.0.0.0:443"]);
    assert_eq!(public.public_ports(), &*super::ports(&[80, 443]));
    let (partition, one) = (Partition::hash(1024).unwrap(), Weights::equal(1).unwrap());
    let mut plan = Plan::new("web".parse().unwrap(), public, partition, &one, None).unwrap();
    plan.occupy(Seat(0), occupant(1, &[20000, 20001])).unwrap();
    let route = plan.worker_for("10.8.1.7".parse().unwrap()).unwrap();
    assert_eq!(route.occupant.ports, super::ports(&[20000, 20001]));
}
