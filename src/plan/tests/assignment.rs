//! Even, total, disjoint; the least movement.

use proptest::prelude::*;

use super::super::{Assignment, MAX_SEATS, Partition, PlanError, Seat, Slot, Weights};
use super::any_weights;

fn equal(seats: usize) -> Weights {
    Weights::equal(seats).unwrap()
}

fn hash(slots: u32) -> Partition {
    Partition::hash(slots).unwrap()
}

/// A number of slots, and of seats that they are enough for.
fn any_sizes() -> impl Strategy<Value = (u32, usize)> {
    (0..=16u32).prop_flat_map(|power| {
        let around = 1u32 << power;
        (around.saturating_sub(2).max(1)..=(around + 2).min(Partition::MAX_SLOTS))
            .prop_flat_map(|slots| (Just(slots), 1..=(slots as usize).min(1024)))
    })
}

fn any_weighted() -> impl Strategy<Value = (u32, Vec<f64>)> {
    any_sizes().prop_flat_map(|(slots, seats)| (Just(slots), any_weights(seats)))
}

/// A table that any earlier master, or another program, may have left: seats that exist no more,
/// uneven shares.
fn any_table(slots: u32) -> impl Strategy<Value = Assignment> {
    let seat = prop_oneof![4 => 0..1024u16, 1 => any::<u16>(), 4 => 0..8u16].prop_map(Seat);
    prop::collection::vec(seat, slots as usize).prop_map(Assignment::from_table)
}

/// Every slot has a seat (total) and, being a table, only one (disjoint); each seat has its
/// weighted share of them, give or take less than one.
fn check_even(assignment: &Assignment, slots: u32, weights: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(assignment.slots(), slots as usize);
    let counts = assignment.slots_by_seat(weights.len());
    prop_assert_eq!(counts.iter().sum::<u32>(), slots, "a slot without a seat");
    // Scaled first: the sum of weights near f64::MAX is infinite.
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let total: f64 = weights.iter().map(|weight| weight / largest).sum();
    for (seat, (count, weight)) in counts.iter().zip(weights).enumerate() {
        let share = f64::from(slots) * (weight / largest) / total;
        let off = f64::from(*count) - share;
        prop_assert!(off.abs() < 1.0 + 1e-6, "seat {seat}: {count} slots for a share of {share}");
    }
    Ok(())
}

/// The fewest slots that can move, found another way: what each seat has above its share rounded
/// up must go, what each lacks to its share rounded down must come, and what belonged to seats that
/// are gone must go anyway.
fn least_moves(previous: &Assignment, slots: u32, weights: &[u32]) -> u32 {
    let total: u32 = weights.iter().sum();
    let held = previous.slots_by_seat(weights.len());
    let gone = slots - held.iter().sum::<u32>();
    let (mut must_go, mut must_come) = (0, 0);
    for (held, weight) in held.iter().zip(weights) {
        must_go += held.saturating_sub((slots * weight).div_ceil(total));
        must_come += (slots * weight / total).saturating_sub(*held);
    }
    (must_go + gone).max(must_come)
}

proptest! {
    #[test]
    fn every_slot_has_one_seat_and_every_seat_its_share((slots, weights) in any_weighted()) {
        let shares = Weights::new(&weights).unwrap();
        let assignment = Assignment::new(&hash(slots), &shares, None);
        if (slots as usize) < weights.len() {
            prop_assert!(assignment.is_err());
        } else {
            check_even(&assignment.unwrap(), slots, &weights)?;
        }
    }

    #[test]
    fn planning_again_from_any_table_is_even_and_moves_the_least(
        (slots, weights, previous) in (1..600u32).prop_flat_map(|slots| {
            let seats = 1..=(slots as usize);
            let weight = prop_oneof![3 => Just(1), 1 => 0..10u32];
            (Just(slots), prop::collection::vec(weight, seats), any_table(slots))
        })
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let floats: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        let shares = Weights::new(&floats).unwrap();
        let next = Assignment::new(&hash(slots), &shares, Some(&previous)).unwrap();
        check_even(&next, slots, &floats)?;
        let least = least_moves(&previous, slots, &weights) as usize;
        prop_assert_eq!(next.moved_to(&previous), least);
    }

    #[test]
    fn planning_the_same_again_moves_nothing((slots, weights) in any_weighted()) {
        let shares = Weights::new(&weights).unwrap();
        let once = Assignment::new(&hash(slots), &shares, None).unwrap();
        let twice = Assignment::new(&hash(slots), &shares, Some(&once)).unwrap();
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(&once, &Assignment::new(&hash(slots), &shares, None).unwrap());
    }

    #[test]
    fn one_more_seat_takes_its_share_and_nothing_else_moves(
        (slots, seats) in any_sizes().prop_filter("room for one more", |(slots, seats)| {
            *seats < (*slots as usize).min(1024)
        })
    ) {
        let before = Assignment::new(&hash(slots), &equal(seats), None).unwrap();
        let after = Assignment::new(&hash(slots), &equal(seats + 1), Some(&before)).unwrap();
        let newcomer = Seat(u16::try_from(seats).unwrap());
        let to_newcomer = after.table().iter().filter(|seat| **seat == newcomer).count();
        prop_assert_eq!(after.moved_to(&before), to_newcomer, "a slot moved between two old seats");
        prop_assert_eq!(to_newcomer, slots as usize / (seats + 1));
    }

    #[test]
    fn one_seat_less_gives_its_slots_away_and_nothing_else_moves(
        (slots, seats) in any_sizes().prop_filter("one to lose", |(_, seats)| *seats > 1)
    ) {
        let before = Assignment::new(&hash(slots), &equal(seats), None).unwrap();
        let after = Assignment::new(&hash(slots), &equal(seats - 1), Some(&before)).unwrap();
        let last = Seat(u16::try_from(seats - 1).unwrap());
        for (from, to) in before.table().iter().zip(after.table()) {
            prop_assert!(from == to || *from == last, "a slot moved from {from} to {to}");
        }
    }

    /// The number of seats stays and one has no share any more, whichever it is.
    #[test]
    fn a_seat_that_loses_its_weight_gives_its_slots_away_and_nothing_else_moves(
        (slots, seats, lost) in any_sizes()
            .prop_filter("one to lose", |(_, seats)| *seats > 1)
            .prop_flat_map(|(slots, seats)| (Just(slots), Just(seats), 0..seats))
    ) {
        let before = Assignment::new(&hash(slots), &equal(seats), None).unwrap();
        let mut weights = vec![1.0; seats];
        weights[lost] = 0.0;
        let shares = Weights::new(&weights).unwrap();
        let after = Assignment::new(&hash(slots), &shares, Some(&before)).unwrap();
        for (from, to) in before.table().iter().zip(after.table()) {
            prop_assert!(from == to || from.index() == lost, "a slot moved from {from} to {to}");
        }
        prop_assert_eq!(after.slots_by_seat(seats)[lost], 0);
    }

    #[test]
    fn a_walk_of_scalings_stays_even(
        (slots, walk) in (1024..5000u32, prop::collection::vec(1..=64usize, 1..12))
    ) {
        let mut assignment = None;
        for seats in walk {
            let next = Assignment::new(&hash(slots), &equal(seats), assignment.as_ref()).unwrap();
            check_even(&next, slots, &vec![1.0; seats])?;
            assignment = Some(next);
        }
    }

    #[test]
    fn an_assignment_of_other_slots_is_of_no_use(
        (slots, seats) in any_sizes(), other in any_sizes()
    ) {
        prop_assume!(slots != other.0);
        let other = Assignment::new(&hash(other.0), &equal(other.1), None).unwrap();
        prop_assert_eq!(
            Assignment::new(&hash(slots), &equal(seats), Some(&other)),
            Assignment::new(&hash(slots), &equal(seats), None)
        );
    }
}

#[test]
fn a_mask_gives_each_seat_its_own_slot_whatever_was_before() {
    for power in 0..=10 {
        let partition = Partition::mask(1 << power).unwrap();
        let previous = Assignment::from_table(vec![Seat(0); 1 << power]);
        let weights = Weights::new(&vec![2.5; 1 << power]).unwrap();
        let assignment = Assignment::new(&partition, &weights, Some(&previous)).unwrap();
        for slot in 0..partition.slots() {
            assert_eq!(u32::from(assignment.seat_of(Slot(slot)).0), slot);
        }
    }
}

#[test]
fn a_mask_has_one_slot_a_seat_and_no_weights() {
    let four = Partition::mask(4).unwrap();
    assert_eq!(
        Assignment::new(&four, &equal(3), None),
        Err(PlanError::MaskSeats { slots: 4, workers: 3 })
    );
    assert_eq!(
        Assignment::new(&four, &Weights::new(&[1.0, 1.0, 1.0, 2.0]).unwrap(), None),
        Err(PlanError::MaskWeights)
    );
}

#[test]
fn any_number_of_seats_from_1_to_1024_is_even() {
    let partition = hash(1024);
    for seats in [1, 2, 3, 4, 5, 7, 8, 9, 511, 512, 513, 1023, 1024] {
        let counts = Assignment::new(&partition, &equal(seats), None).unwrap().slots_by_seat(seats);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{seats} seats: {least} to {most} slots");
    }
}

#[test]
fn equal_weights_are_equal_however_they_are_given() {
    assert_eq!(Weights::new(&[0.3; 7]).unwrap(), equal(7));
}

#[test]
fn weights_of_any_magnitude_give_shares() {
    let shares = |weights: &[f64]| {
        let weights = Weights::new(weights).unwrap();
        Assignment::new(&hash(8), &weights, None).unwrap().slots_by_seat(weights.seats())
    };
    assert_eq!(shares(&[f64::MAX, f64::MAX]), [4, 4]);
    assert_eq!(shares(&[f64::from_bits(1), f64::from_bits(1)]), [4, 4]);
    assert_eq!(shares(&[f64::MAX, f64::MIN_POSITIVE]), [8, 0]);
    assert_eq!(shares(&[3.0, 1.0, 0.0, -0.0]), [6, 2, 0, 0]);
}

/// 0.1 is not a tenth: what has a slot too many for a share of exactly one must not keep it.
#[test]
fn decimal_weights_give_whole_shares() {
    let partition = hash(20);
    let mut crowded = vec![Seat(0); 19];
    crowded.push(Seat(1));
    let crowded = Assignment::from_table(crowded);
    for weights in [[1.0, 1.0, 5.0, 3.0], [0.1, 0.1, 0.5, 0.3], [1e-9, 1e-9, 5e-9, 3e-9]] {
        let weights = Weights::new(&weights).unwrap();
        for previous in [None, Some(&crowded)] {
            let assignment = Assignment::new(&partition, &weights, previous).unwrap();
            assert_eq!(assignment.slots_by_seat(4), [2, 2, 10, 6]);
        }
    }
}

/// 1,023 weights that are next to nothing take next to nothing from the one that counts.
#[test]
fn many_tiny_weights_do_not_add_up_to_slots() {
    let mut weights = vec![1e-12; 1024];
    weights[5] = 1.0;
    let weights = Weights::new(&weights).unwrap();
    let assignment = Assignment::new(&hash(65_536), &weights, None).unwrap();
    assert!(assignment.slots_by_seat(1024)[5] >= 65_535);
}

fn by_seat(numbers: &[u16]) -> Vec<Seat> {
    numbers.iter().copied().map(Seat).collect()
}

/// `fill_gaps`: the slots of nobody go to the seats below their quota, in the order of the seats.
#[test]
fn slots_that_seats_give_up_go_to_those_below_their_share_in_the_order_of_the_seats() {
    let previous = Assignment::from_table(by_seat(&[9, 0, 9, 1, 9, 2, 9, 9]));
    let next = Assignment::new(&hash(8), &equal(4), Some(&previous)).unwrap();
    assert_eq!(next.table(), by_seat(&[0, 0, 1, 1, 2, 2, 3, 3]));
}

/// `release_surplus`: from each seat the slots above its quota, the last ones first.
#[test]
fn a_seat_above_its_share_gives_up_its_last_slots() {
    let previous = Assignment::from_table(by_seat(&[0, 0, 0, 0, 1, 1, 0, 0]));
    let next = Assignment::new(&hash(8), &equal(2), Some(&previous)).unwrap();
    assert_eq!(next.table(), by_seat(&[0, 0, 0, 0, 1, 1, 1, 1]));
    let previous = Assignment::from_table(by_seat(&[0, 1, 0, 1, 0, 1]));
    let next = Assignment::new(&hash(6), &equal(3), Some(&previous)).unwrap();
    assert_eq!(next.table(), by_seat(&[0, 1, 0, 1, 2, 2]));
}

/// `quotas`: the slots that rounding leaves go to who has more than his share already, then to who lost
/// most to the rounding, then to the first.
#[test]
fn a_slot_too_many_stays_where_it_is_then_goes_to_the_largest_remainder_then_to_the_first_seat() {
    let shares = |previous: Option<&Assignment>, weights: &[f64]| {
        let weights = Weights::new(weights).unwrap();
        let assignment = Assignment::new(&hash(8), &weights, previous).unwrap();
        assignment.slots_by_seat(weights.seats())
    };
    assert_eq!(shares(None, &[1.0, 1.0, 1.0]), [3, 3, 2], "the first seats");
    let previous = Assignment::from_table(by_seat(&[0, 0, 1, 1, 1, 2, 2, 2]));
    assert_eq!(shares(Some(&previous), &[1.0, 1.0, 1.0]), [2, 3, 3], "who has it");
    // 8 slots by 10, 10 and 11 of 31: 2.58, 2.58 and 2.84.
    assert_eq!(shares(None, &[10.0, 10.0, 11.0]), [3, 2, 3], "the largest remainder");
    // By 4, 3 and 5 of 12: 2.67, 2 and 3.33. What comes out even gets none.
    assert_eq!(shares(None, &[4.0, 3.0, 5.0]), [3, 2, 3]);
}

/// Seats that were there keep their weights to each other. More seats than there can be are refused, and not
/// fewer of them made.
#[test]
fn seats_that_join_get_the_mean_weight() {
    let weights = Weights::new(&[1.0, 3.0, 8.0]).unwrap();
    assert_eq!(weights.resized(5), Weights::new(&[1.0, 3.0, 8.0, 4.0, 4.0]));
    assert_eq!(weights.resized(3).as_ref(), Ok(&weights));
    assert_eq!(weights.resized(2), Weights::new(&[1.0, 3.0]));
    assert_eq!(weights.resized(0), Err(PlanError::WorkerCount { workers: 0 }));
    let most = usize::from(MAX_SEATS);
    assert_eq!(weights.resized(most).unwrap().seats(), most);
    assert!(matches!(weights.resized(most + 1), Err(PlanError::WorkerCount { .. })));
}

proptest! {
    #[test]
    fn the_same_weights_are_made_of_their_shares(weights in (1..40usize).prop_flat_map(any_weights)) {
        let weights = Weights::new(&weights).unwrap();
        prop_assert_eq!(weights.shares().len(), weights.seats());
        prop_assert_eq!(Weights::new(&weights.shares()), Ok(weights));
    }
}
