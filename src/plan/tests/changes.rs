//! What is said to change from plan to plan.

use proptest::prelude::*;

use super::super::{Assignment, Partition, Plan, PlanChanges, PlanError, Port, Seat, Weights};
use super::{any_plan, full_plan, listeners};

const NOTHING: PlanChanges = PlanChanges {
    generation: false,
    listeners: false,
    engine: false,
    partition: false,
    assignment: false,
    seat_count: false,
    admitting: false,
    guard: false,
    local_clients: false,
    destination: false,
    port_lookup: false,
};

fn is_unchanged(from: &Plan, to: &Plan) -> bool {
    from.changes(to).unwrap() == NOTHING && from.changed_seats(to).next().is_none()
}

proptest! {
    #[test]
    fn between_equal_plans_nothing_changes(plan in any_plan()) {
        let copy = rebuilt(&plan);
        prop_assert_eq!(&copy, &plan);
        prop_assert!(is_unchanged(&plan, &plan));
        prop_assert!(is_unchanged(&plan, &copy));
    }

    #[test]
    fn what_changes_leads_from_one_plan_to_the_other(a in any_plan(), b in any_plan()) {
        prop_assert_eq!(is_unchanged(&a, &b), a == b);
        prop_assert_eq!(carried_out(&a, &b), b);
    }

    #[test]
    fn a_loss_changes_the_seat_of_that_worker_alone(
        (plan, seat) in any_plan().prop_flat_map(|plan| {
            let seats = u16::try_from(plan.seats().len()).unwrap();
            (Just(plan), 0..seats)
        })
    ) {
        let mut without = plan.clone();
        let lost = without.vacate(Seat(seat)).unwrap();
        prop_assert_eq!(plan.changes(&without).unwrap(), NOTHING);
        let changed: Vec<Seat> = plan.changed_seats(&without).collect();
        prop_assert_eq!(changed, lost.map(|_| Seat(seat)).into_iter().collect::<Vec<_>>());
        prop_assert_eq!(&carried_out(&plan, &without), &without);
        prop_assert_eq!(without.assignment(), plan.assignment());
    }

    #[test]
    fn scaling_there_and_elsewhere_is_a_change(
        (from, to) in (1..=64u16, 1..=64usize)
    ) {
        let plan = full_plan(from);
        let scaled = plan.rescaled(&Weights::equal(to).unwrap()).unwrap();
        prop_assert_eq!(&carried_out(&plan, &scaled), &scaled);
        prop_assert_eq!(plan.changed_seats(&scaled).next(), None);
        for (seat, held) in scaled.seats() {
            prop_assert_eq!(held, plan.occupant(seat));
        }
    }
}

/// The plan with those parts of `target` that are said to change.
fn carried_out(from: &Plan, target: &Plan) -> Plan {
    let changes = from.changes(target).unwrap();
    let pick = |changes: bool| if changes { target } else { from };
    let count = pick(changes.seat_count).seats().len();
    let mut seats: Vec<_> = from.seats().map(|(_, held)| held.cloned()).collect();
    seats.resize(count, None);
    for seat in from.changed_seats(target) {
        seats[seat.index()] = target.occupant(seat).cloned();
    }
    let mut plan = Plan::from_parts(
        from.name().clone(),
        pick(changes.generation).generation(),
        pick(changes.listeners).listeners().clone(),
        *pick(changes.partition).partition(),
        pick(changes.assignment).assignment().clone(),
        seats,
    )
    .unwrap();
    plan.set_admitting(pick(changes.admitting).is_admitting());
    plan.set_engine(pick(changes.engine).engine()).unwrap();
    plan.set_local_clients(pick(changes.local_clients).has_local_clients());
    plan.set_guard(pick(changes.guard).guard()).unwrap();
    plan
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
fn changes_to_a_plan_of_another_cluster_are_refused() {
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
    assert_eq!(ours.changes(&theirs), Err(refused));
}

#[test]
fn parts_that_do_not_fit_together_name_what_does_not() {
    let made = |public: &[&str], slots: u32, assignment: &Assignment, seats: usize| {
        let plan = full_plan(2);
        let mut held: Vec<_> = plan.seats().map(|(_, held)| held.cloned()).collect();
        held.resize(seats, None);
        let partition = Partition::hash(slots).unwrap();
        let (name, generation) = (plan.name().clone(), plan.generation());
        Plan::from_parts(name, generation, listeners(public), partition, assignment.clone(), held)
            .unwrap_err()
    };
    let of_two = full_plan(2).assignment().clone();
    let port_80 = ["0.0.0.0:80"];
    assert_eq!(
        made(&port_80, 1024, &of_two, 1),
        PlanError::UnknownSeat { seat: Seat(1), seats: 1 }
    );
    assert_eq!(made(&port_80, 1024, &of_two, 1025), PlanError::WorkerCount { workers: 1025 });
    assert_eq!(
        made(&port_80, 7, &of_two, 2),
        PlanError::AssignmentSize { assigned: 1024, slots: 7 }
    );
    assert_eq!(
        made(&["0.0.0.0:80", "0.0.0.0:81"], 1024, &of_two, 2),
        PlanError::PortCount { seat: Seat(0), given: 1, needed: 2 }
    );
    assert_eq!(
        made(&["0.0.0.0:20001"], 1024, &of_two, 2),
        PlanError::PortIsPublic { seat: Seat(1), port: Port::new(20001).unwrap() }
    );
}
