use super::*;
use crate::plan::PlanError;

/// Seats, slots, and how many seats and slots are lent.
fn any_loan() -> impl Strategy<Value = (Vec<f64>, u32, usize, usize)> {
    (1..=40usize, 1..=20usize).prop_flat_map(|(seats, extra)| {
        let least = u32::try_from(seats + extra + 1).unwrap();
        (any_weights(seats), least..=300u32, Just(extra)).prop_flat_map(
            |(weights, slots, extra)| {
                (Just(weights), Just(slots), Just(extra), extra..slots as usize)
            },
        )
    })
}

proptest! {
    #[test]
    fn every_seat_lends_its_part_and_no_other_slot_moves(
        (weights, slots, extra, lent) in any_loan(),
    ) {
        let partition = Partition::hash(slots).unwrap();
        let name = "web".parse().unwrap();
        let seats = weights.len();
        let weights = Weights::new(&weights).unwrap();
        let public = listeners(&["0.0.0.0:80"]);
        let home = Plan::new(name, public, partition, &weights, None).unwrap();
        let plan = home.lending(extra, lent).unwrap();
        prop_assert_eq!(plan.seats().len(), seats + extra);
        let both = home.assignment().table().iter().zip(plan.assignment().table());
        for (before, after) in both {
            prop_assert!(before == after || after.index() >= seats);
        }
        let (before, after) = (
            home.assignment().slots_by_seat(seats),
            plan.assignment().slots_by_seat(seats + extra),
        );
        let new: Vec<usize> = after[seats..].iter().map(|count| *count as usize).collect();
        prop_assert_eq!(new.iter().sum::<usize>(), lent);
        prop_assert!(new.iter().max().unwrap() - new.iter().min().unwrap() <= 1, "{:?}", new);
        for seat in 0..seats {
            let gave = u64::from(before[seat] - after[seat]);
            let exact = u64::from(before[seat]) * lent as u64;
            let slots = u64::from(slots);
            prop_assert!((exact / slots..=exact.div_ceil(slots)).contains(&gave), "seat {}", seat);
        }
        prop_assert_eq!(plan.returned(home.assignment(), home.seats().len()).unwrap(), home);
    }

    #[test]
    fn what_was_lent_by_a_plan_made_anew_goes_back_even_if_nobody_remembers(
        seats in 1..=64usize,
        extra in 1..=16usize,
        lent in 16..900usize,
    ) {
        let home = vacant_plan(seats);
        let weights = Weights::equal(seats).unwrap();
        let plan = home.lending(extra, lent).unwrap();
        prop_assert_eq!(plan.rescaled(&weights).unwrap(), home);
    }
}

#[test]
fn a_loan_that_cannot_be_is_refused() {
    let mask = Partition::mask(4).unwrap();
    let (name, public) = ("web".parse().unwrap(), listeners(&["0.0.0.0:80"]));
    let mask = Plan::new(name, public, mask, &Weights::equal(4).unwrap(), None).unwrap();
    assert_eq!(mask.lending(1, 1), Err(PlanError::MaskShare));
    let plan = vacant_plan(1000);
    assert_eq!(plan.lending(0, 10), Err(PlanError::WorkerCount { workers: 0 }));
    assert_eq!(plan.lending(25, 100), Err(PlanError::WorkerCount { workers: 1025 }));
    assert!(plan.lending(24, 24).is_ok());
    for (extra, lent) in [(24, 23), (1, 1024), (1, 0)] {
        let workers = 1000 + extra;
        let refused = PlanError::FewerSlotsThanWorkers { slots: 1024, workers };
        assert_eq!(plan.lending(extra, lent), Err(refused));
    }
}
