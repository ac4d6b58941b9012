use super::*;
use crate::plan::{PlanError, Share, Slot};
use crate::protocol::{Event, Exit, Refusal, WorkerState};
use crate::supervisor::rollout::Target;

fn share(text: &str) -> Command {
    Command::Reload { share: Some(text.parse::<Share>().expect("a share")) }
}

/// Two live workers, 1 and 2, on 64 slots; generation 2 is being started for some of them.
fn beginning(workers: u16, part: &str) -> Bench {
    let mut bench = Bench::live(workers);
    bench.take_spawned();
    bench.request(share(part));
    bench
}

/// The same with the canary, worker 3 in seat 2, in force.
fn trying() -> Bench {
    let mut bench = beginning(2, "10%");
    assert_eq!(bench.take_spawned(), [(3, 2, 2)]);
    bench.ready(3);
    bench.commit_done();
    bench
}

fn seats_of_slots(bench: &Bench) -> Vec<u16> {
    let plan = bench.supervisor.plan();
    (0..64).map(|slot| plan.assignment().seat_of(Slot(slot)).0).collect()
}

#[test]
fn a_canary_gets_its_share_and_nobody_else_moves() {
    let before = seats_of_slots(&Bench::live(2));
    let bench = trying();
    let done = Outcome::OnTrial(OnTrial {
        generation: Generation(2),
        workers: 1,
        trial_slots: 6,
        slots: 64,
        swap_seconds: SWAP_SECONDS,
    });
    assert_eq!(bench.replies, [Ok(done)]);
    let event = Event::CanaryInForce { generation: Generation(2), workers: 1, slots: 6, of: 64 };
    assert!(bench.events.contains(&event));
    assert_eq!(bench.in_force(), [1, 2, 3]);
    let after = seats_of_slots(&bench);
    assert_eq!(after.iter().filter(|seat| **seat == 2).count(), 6);
    for (before, after) in before.iter().zip(&after) {
        assert!(after == before || *after == 2);
    }
    assert_eq!(bench.supervisor.generation(), Generation(1));
    assert_eq!(bench.supervisor.plan().generation(), Generation(2));
    let trial = bench.supervisor.canary().expect("one is in force");
    assert_eq!((trial.generation, trial.first_seat.0), (Generation(2), 2));
    assert_eq!((trial.seats, trial.slots), (1, 6));
    for old in [1, 2] {
        assert_eq!(bench.state(old), Some(WorkerState::Live));
    }
}

#[test]
fn a_rollback_gives_every_slot_back_to_the_seat_that_lent_it() {
    let mut bench = Bench::live(2);
    for workers in [5, 3] {
        bench.request(Command::Scale { workers });
        for worker in bench.take_spawned() {
            if bench.state(worker.0) == Some(WorkerState::Starting) && worker.0 > 2 {
                bench.ready(worker.0);
            }
        }
        bench.commit_all();
    }
    let before = seats_of_slots(&bench);
    bench.request(share("30%"));
    assert_eq!(bench.take_spawned(), [(6, 3, 2)]);
    bench.ready(6);
    bench.commit_done();
    assert_ne!(seats_of_slots(&bench), before);
    bench.request(Command::Rollback);
    bench.commit_done();
    assert_eq!(bench.last_reply(), &Ok(rollback_outcome(1, 3)));
    assert_eq!(seats_of_slots(&bench), before);
    assert_eq!(bench.in_force(), [1, 2, 3]);
    assert_eq!(bench.state(6), Some(WorkerState::Retired));
    assert_eq!(bench.supervisor.plan().generation(), Generation(1));
    bench.request(RELOAD);
    assert_eq!(
        bench.take_spawned()[0],
        (7, 0, 3),
        "the number of what was given up is not used again"
    );
}

#[test]
fn a_promotion_starts_the_rest_and_then_swaps_once() {
    let before = seats_of_slots(&Bench::live(2));
    let mut bench = trying();
    bench.request(Command::Promote);
    assert_eq!(bench.take_spawned(), [(4, 0, 2), (5, 1, 2)]);
    bench.ready(4);
    assert_eq!(bench.commit, None);
    bench.ready(5);
    bench.commit_done();
    assert_eq!(bench.last_reply(), &Ok(reload_outcome(2, 2)));
    assert_eq!(bench.in_force(), [4, 5]);
    assert_eq!(seats_of_slots(&bench), before);
    for retired in [1, 2, 3] {
        assert_eq!(bench.state(retired), Some(WorkerState::Retired));
    }
    assert_eq!(bench.supervisor.canary(), None);
}

#[test]
fn a_promotion_that_fails_leaves_the_canary() {
    let mut bench = trying();
    bench.request(Command::Promote);
    bench.take_spawned();
    bench.ready(4);
    bench.dies(5, Exit::Code(1));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
    assert_eq!(bench.take_terminated(), [4]);
    assert_eq!((bench.in_force(), &bench.commit), (vec![1, 2, 3], &None));
    assert!(bench.supervisor.canary().is_some());
}

#[test]
fn a_canary_that_does_not_start_changes_nothing() {
    let mut bench = beginning(4, "50%");
    assert_eq!(bench.take_spawned(), [(5, 4, 2), (6, 5, 2)]);
    bench.ready(5);
    bench.dies(6, Exit::Code(1));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
    assert_eq!(bench.take_terminated(), [5]);
    assert_eq!((bench.in_force(), &bench.commit), (vec![1, 2, 3, 4], &None));
    assert_eq!(bench.supervisor.canary(), None);
    bench.request(Command::Promote);
    assert_eq!(bench.last_reply(), &Err(Refusal::NoCanary));
}

#[test]
fn workers_that_die_during_a_trial_are_replaced_in_their_seat_and_generation() {
    let mut bench = trying();
    bench.pass(20 * SECOND);
    bench.dies(3, Exit::Code(1));
    assert_eq!(bench.take_spawned(), [(4, 2, 2)]);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2, 0]);
    bench.dies(1, Exit::Code(1));
    assert_eq!(bench.take_spawned(), [(5, 0, 1)]);
    bench.commit_done();
    for worker in [4, 5] {
        bench.ready(worker);
        bench.commit_done();
    }
    assert_eq!(bench.in_force(), [5, 2, 4]);
}

#[test]
fn a_rollback_does_not_take_the_only_workers_that_serve() {
    let mut bench = trying();
    bench.dies(1, Exit::Code(1));
    bench.commit_done();
    bench.dies(2, Exit::Code(1));
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 0, 3]);
    bench.request(Command::Rollback);
    assert_eq!(bench.last_reply(), &Err(Refusal::NobodyLeft));
    assert_eq!(bench.in_force(), [0, 0, 3]);
}

#[test]
fn what_would_change_the_cluster_waits_for_the_end_of_the_trial() {
    let mut bench = trying();
    let generation = Generation(2);
    for request in [RELOAD, share("1%"), Command::Scale { workers: 3 }] {
        bench.request(request);
        assert_eq!(bench.last_reply(), &Err(Refusal::Canary { generation }), "{request:?}");
    }
    assert_eq!((bench.take_spawned(), &bench.commit), (vec![], &None));
}

#[test]
fn a_share_that_cannot_be_is_refused() {
    let mut bench = Bench::live(64);
    bench.take_spawned();
    bench.request(share("10%"));
    let refused = PlanError::FewerSlotsThanWorkers { slots: 64, workers: 70 };
    assert_eq!(bench.last_reply(), &Err(Refusal::Plan(refused)));
    let masked = {
        let listeners = Listeners::new(vec!["0.0.0.0:80".parse().expect("a listener")]);
        let (name, partition) = ("web".parse().expect("a name"), Partition::mask(2));
        let partition = partition.expect("a power of two");
        Plan::new(name, listeners.expect("one"), partition, &equal(2), None).expect("a plan")
    };
    let mut bench = Bench::new(settings(2), masked, Start::Fresh);
    bench.input(Input::Start);
    bench.ready(1);
    bench.ready(2);
    bench.commit_all();
    bench.request(share("50%"));
    assert_eq!(bench.last_reply(), &Err(Refusal::Plan(PlanError::MaskShare)));
}

#[test]
fn a_stop_ends_a_canary_with_all_others() {
    let mut bench = trying();
    bench.request(Command::Stop { now: true });
    bench.commit_done();
    assert_eq!(bench.take_terminated(), [1, 2, 3]);
}

/// The target of the cluster, as the next master finds it in the plan.
fn found(bench: &Bench, wanted: u16) -> Target {
    Target::found_in(bench.supervisor.plan(), &equal(wanted)).expect("a plan that was in force")
}

#[test]
fn a_plan_tells_of_its_canary() {
    let mut bench = trying();
    assert_eq!(found(&bench, 2), bench.supervisor.target);
    for other in [1, 3, 64] {
        let target = found(&bench, other);
        assert_eq!(
            (target.generation, target.canary),
            (Generation(1), bench.supervisor.target.canary)
        );
        assert_eq!(target.weights.seats(), 2);
    }
    bench.dies(2, Exit::Code(1));
    bench.commit_done();
    assert_eq!(found(&bench, 2), bench.supervisor.target, "a vacant seat beside the canary");
    bench.dies(3, Exit::Code(1));
    bench.commit_done();
    assert_eq!(found(&bench, 2), bench.supervisor.target, "a vacant canary");
    bench.request(Command::Rollback);
    bench.commit_done();
    assert_eq!(found(&bench, 2), bench.supervisor.target);
    assert_eq!(found(&bench, 2).canary, None);
}

#[test]
fn a_plan_without_a_canary_tells_its_shares() {
    let bench = Bench::live(3);
    assert_eq!(found(&bench, 3), bench.supervisor.target);
    let target = found(&bench, 5);
    assert_eq!((target.generation, target.canary), (Generation(1), None));
    let again = bench.supervisor.plan().rescaled(&target.weights).expect("as many slots");
    assert_eq!(again.assignment(), bench.supervisor.plan().assignment());
}

#[test]
fn a_canary_found_under_another_configuration_takes_its_own_slots_back_alone() {
    let bench = trying();
    let wanted = Weights::new(&[3.0, 1.0]).expect("weights");
    let plan = bench.supervisor.plan();
    let found = Target::found_in(plan, &wanted).expect("a plan that was in force");
    assert_eq!(found.canary, bench.supervisor.target.canary);
    let back = plan.rescaled(&found.weights).expect("as many slots");
    let (now, then) = (plan.assignment().table(), back.assignment().table());
    let moved: Vec<_> = now.iter().zip(then).filter(|(now, then)| now != then).collect();
    assert!(moved.iter().all(|(now, _)| **now == Seat(2)), "{moved:?}");
    assert_eq!(moved.len(), 6);
}
