//! What changes from plan to plan, and carrying it out.

use proptest::prelude::*;

use super::super::{Difference, Plan, PlanError, Seat, Weights};
use super::{any_plan, full_plan, listeners, occupant};

proptest! {
    #[test]
    fn between_equal_plans_nothing_changes(plan in any_plan()) {
        let copy = rebuilt(&plan);
        prop_assert_eq!(&copy, &plan);
        prop_assert!(plan.difference(&plan).unwrap().is_empty());
        prop_assert!(plan.difference(&copy).unwrap().is_empty());
    }

    #[test]
    fn a_difference_leads_from_one_plan_to_the_other(a in any_plan(), b in any_plan()) {
        let difference = a.difference(&b).unwrap();
        prop_assert_eq!(difference.is_empty(), a == b);
        let mut carried = a.clone();
        carried.apply(&difference).unwrap();
        prop_assert_eq!(carried, b);
    }

    /// One that was made between other plans either fits or is refused and changes nothing; what
    /// comes out is a plan that could have been read from the kernel.
    #[test]
    fn a_foreign_difference_fits_or_is_refused(a in any_plan(), b in any_plan(), c in any_plan()) {
        let difference = b.difference(&c).unwrap();
        let mut carried = a.clone();
        match carried.apply(&difference) {
            Ok(()) => prop_assert_eq!(rebuilt(&carried), carried),
            Err(_) => prop_assert_eq!(carried, a),
        }
    }

    #[test]
    fn a_loss_is_the_difference_to_the_plan_without_that_worker(
        (plan, seat) in any_plan().prop_flat_map(|plan| {
            let seats = u16::try_from(plan.seats().len()).unwrap();
            (Just(plan), 0..seats)
        })
    ) {
        let mut without = plan.clone();
        without.vacate(Seat(seat)).unwrap();
        let loss = plan.vacating(Seat(seat)).unwrap();
        prop_assert_eq!(&loss, &plan.difference(&without).unwrap());
        prop_assert!(loss.concerns_seats_alone());
        let mut carried = plan.clone();
        carried.apply(&loss).unwrap();
        prop_assert_eq!(&carried, &without);
        prop_assert_eq!(carried.assignment(), plan.assignment());
    }

    #[test]
    fn scaling_there_and_elsewhere_is_a_difference(
        (from, to) in (1..=64u16, 1..=64usize)
    ) {
        let plan = full_plan(from);
        let scaled = plan.rescaled(&Weights::equal(to).unwrap()).unwrap();
        let mut carried = plan.clone();
        carried.apply(&plan.difference(&scaled).unwrap()).unwrap();
        prop_assert_eq!(&carried, &scaled);
        for (seat, held) in scaled.seats() {
            prop_assert_eq!(held, plan.occupant(seat));
        }
    }
}

/// The same plan made anew from what a read-back would find.
fn rebuilt(plan: &Plan) -> Plan {
    let mut copy = Plan::from_parts(
        plan.name().clone(),
        plan.generation(),
        plan.listeners().clone(),
        *plan.partition(),
        plan.assignment().clone(),
        plan.seats().map(|(_, held)| held.cloned()).collect(),
    )
    .unwrap();
    copy.set_admitting(plan.is_admitting());
    copy.set_engine(plan.engine()).unwrap();
    copy.set_local_clients(plan.has_local_clients());
    copy.set_guard(plan.guard()).unwrap();
    copy
}

#[test]
fn a_difference_of_another_cluster_is_refused() {
    let ours = full_plan(2);
    let theirs = Plan::new(
        "other".parse().unwrap(),
        listeners(&["0.0.0.0:80"]),
        *ours.partition(),
        &Weights::equal(2).unwrap(),
        None,
    )
    .unwrap();
    let refused =
        PlanError::OtherCluster { ours: ours.name().clone(), theirs: theirs.name().clone() };
    assert_eq!(ours.difference(&theirs), Err(refused.clone()));
    let foreign = theirs.difference(&theirs).unwrap();
    assert_eq!(ours.clone().apply(&foreign), Err(refused));
}

#[test]
fn a_difference_that_does_not_fit_names_what_does_not() {
    let apply = |change: &dyn Fn(&mut Difference)| {
        let mut plan = full_plan(2);
        let mut difference = plan.difference(&plan).unwrap();
        change(&mut difference);
        let outcome = plan.apply(&difference).unwrap_err();
        assert_eq!(plan, full_plan(2));
        outcome
    };
    let unknown = PlanError::UnknownSeat { seat: Seat(2), seats: 2 };
    assert_eq!(apply(&|it| drop(it.seats.insert(Seat(2), None))), unknown);
    assert_eq!(apply(&|it| drop(it.seats.insert(Seat(2), Some(occupant(1, &[1]))))), unknown);
    assert_eq!(
        apply(&|it| it.seat_count = Some(1)),
        PlanError::UnknownSeat { seat: Seat(1), seats: 1 }
    );
    assert_eq!(
        apply(&|it| it.seat_count = Some(usize::MAX)),
        PlanError::WorkerCount { workers: usize::MAX }
    );
    assert_eq!(
        apply(&|it| it.partition = Some(super::Partition::hash(7).unwrap())),
        PlanError::AssignmentSize { assigned: 1024, slots: 7 }
    );
    assert_eq!(
        apply(&|it| it.listeners = Some(listeners(&["0.0.0.0:80", "0.0.0.0:81"]).into())),
        PlanError::PortCount { seat: Seat(0), given: 1, needed: 2 }
    );
    assert_eq!(
        apply(&|it| it.listeners = Some(listeners(&["0.0.0.0:20001"]).into())),
        PlanError::PortIsPublic { seat: Seat(1), port: super::Port::new(20001).unwrap() }
    );
}
