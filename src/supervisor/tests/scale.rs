use super::*;
use crate::plan::PlanError;
use crate::protocol::{Exit, Refusal, WorkerState};

#[test]
fn scaling_up_waits_for_all_new_workers_and_moves_the_fewest_slots() {
    let mut bench = Bench::live(2);
    bench.take_spawned();
    bench.request(Command::Scale { workers: 4 });
    assert_eq!(bench.take_spawned(), [(3, 2, 1), (4, 3, 1)]);
    bench.ready(3);
    assert_eq!(bench.commit, None);
    bench.ready(4);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2, 3, 4]);
    assert_eq!(bench.supervisor.generation(), Generation::FIRST);
    assert_eq!(bench.replies, [Ok(scale_outcome(4, 32, 64))]);
}

#[test]
fn a_new_worker_that_fails_leaves_the_number_as_it_was() {
    let mut bench = Bench::live(2);
    bench.request(Command::Scale { workers: 4 });
    bench.take_spawned();
    bench.ready(3);
    bench.dies(4, Exit::Code(1));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
    assert_eq!(bench.take_terminated(), [3]);
    bench.pass(60 * SECOND);
    assert_eq!((bench.in_force(), &bench.commit), (vec![1, 2], &None));
    assert_eq!(bench.take_spawned(), []);
}

#[test]
fn scaling_down_is_one_commit_and_retires_the_upper_seats() {
    let mut bench = Bench::live(4);
    bench.request(Command::Scale { workers: 3 });
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2, 3]);
    assert_eq!(bench.replies, [Ok(scale_outcome(3, 16, 64))]);
    assert_eq!(bench.state(4), Some(WorkerState::Retired));
    bench.counts(4, &[IDLE, IDLE]);
    assert_eq!(bench.take_terminated(), [4]);
}

#[test]
fn scaling_down_ends_the_replacement_of_a_dead_worker_in_an_upper_seat() {
    let mut bench = Bench::live(2);
    bench.pass(20 * SECOND);
    bench.dies(2, Exit::Code(1));
    bench.commit_done();
    bench.spawn(3);
    bench.request(Command::Scale { workers: 1 });
    bench.commit_done();
    assert_eq!(bench.take_terminated(), [3]);
}

#[test]
fn scaling_down_does_not_retire_the_only_workers_that_serve() {
    let mut bench = Bench::live(3);
    bench.dies(1, Exit::Code(1));
    bench.commit_done();
    bench.request(Command::Scale { workers: 1 });
    assert_eq!(bench.replies, [Err(Refusal::NobodyLeft)]);
    assert_eq!((bench.in_force(), &bench.commit), (vec![0, 2, 3], &None));
}

#[test]
fn a_worker_that_dies_while_the_cluster_grows_is_replaced_afterwards() {
    let mut bench = Bench::live(2);
    bench.request(Command::Scale { workers: 3 });
    bench.take_spawned();
    bench.dies(1, Exit::Code(1));
    bench.commit_done();
    bench.ready(3);
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 2, 3]);
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(4, 0, 1)]);
}

#[test]
fn the_number_there_is_is_done_at_once() {
    let mut bench = Bench::live(2);
    bench.request(Command::Scale { workers: 2 });
    assert_eq!(bench.replies, [Ok(scale_outcome(2, 0, 64))]);
    assert_eq!(bench.commit, None);
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let too_many = |workers| Refusal::Plan(PlanError::WorkerCount { workers });
    let fewer = PlanError::FewerSlotsThanWorkers { slots: 64, workers: 65 };
    for (workers, refusal) in [(0, too_many(0)), (1025, too_many(1025)), (65, Refusal::Plan(fewer))]
    {
        let mut bench = Bench::live(2);
        bench.request(Command::Scale { workers });
        assert_eq!(bench.replies, [Err(refusal)]);
        assert_eq!(bench.in_force(), [1, 2]);
    }
}

#[test]
fn a_configuration_with_the_shares_in_force_changes_nothing_and_is_answered() {
    let mut bench = Bench::live(3);
    for _ in 0..2 {
        bench.input(Input::Configure { request: RequestId(7), renew: false, reshares: true });
        assert_eq!(bench.last_reply(), &Ok(scale_outcome(3, 0, 64)));
        assert_eq!((&bench.commit, bench.supervisor.deadline()), (&None, None));
    }
    bench.request(Command::Scale { workers: 2 });
    assert!(bench.commit.is_some(), "nothing is under way");
}

fn weighted(weights: &[f64]) -> Bench {
    let weights = Weights::new(weights).expect("weights");
    // What `weights` of the configuration call 1.
    let shares = Settings { weights: weights.clone(), further_share: 0.5, ..settings(1) };
    let seats = weights.seats();
    let mut plan = vacant(u16::try_from(seats).expect("few"));
    plan = plan.rescaled(&weights).expect("enough slots");
    let mut bench = Bench::new(shares, plan, Start::Fresh);
    bench.input(Input::Start);
    for id in 1..=seats as u64 {
        bench.ready(id);
        bench.commit_all();
    }
    bench.take_spawned();
    bench
}

fn slots_by_seat(bench: &Bench) -> Vec<u32> {
    let plan = bench.supervisor.plan();
    plan.assignment().slots_by_seat(plan.seats().len())
}

#[test]
fn those_who_stay_keep_their_weights_and_the_configured_ones_come_back() {
    let mut bench = weighted(&[1.0, 2.0, 1.0]);
    assert_eq!(slots_by_seat(&bench), [16, 32, 16]);
    bench.request(Command::Scale { workers: 2 });
    bench.commit_done();
    assert_eq!(slots_by_seat(&bench), [21, 43]);
    bench.request(Command::Scale { workers: 4 });
    bench.ready(4);
    bench.ready(5);
    bench.commit_done();
    let by_seat = slots_by_seat(&bench);
    assert_eq!(by_seat.iter().sum::<u32>(), 64);
    // 1 to 2 to 1 to 1: the fourth is beyond those that are configured.
    assert!((25..=26).contains(&by_seat[1]) && by_seat[0] <= 13 && by_seat[3] >= 12, "{by_seat:?}");
}

#[test]
fn where_other_weights_are_in_force_a_further_worker_gets_the_mean() {
    let mut bench = weighted(&[1.0, 3.0]);
    bench.supervisor.settings.weights = equal(2);
    bench.request(Command::Scale { workers: 3 });
    bench.ready(3);
    bench.commit_done();
    let by_seat = slots_by_seat(&bench);
    assert_eq!((by_seat[2], by_seat[0] + by_seat[1]), (21, 43), "{by_seat:?}");
    assert!(by_seat[1] >= 32, "{by_seat:?}");
}

#[test]
fn a_difference_counts_from_what_there_is_to_be() {
    let mut bench = Bench::live(3);
    bench.request(Command::ScaleBy { by: -1 });
    bench.commit_done();
    assert_eq!(bench.replies, [Ok(scale_outcome(2, 21, 64))]);
    assert_eq!(bench.supervisor.workers_after(1), Ok(3));
    let refusal = |by| Err(Refusal::ScaleBy { by, workers: 2 });
    for by in [-2, -9, 1023, i32::MAX, i32::MIN] {
        assert_eq!(bench.supervisor.workers_after(by), refusal(by));
    }
    bench.request(Command::ScaleBy { by: -5 });
    assert_eq!(bench.last_reply(), &Err(Refusal::ScaleBy { by: -5, workers: 2 }));
    let said = Refusal::ScaleBy { by: -5, workers: 1 }.to_string();
    assert_eq!(
        said,
        "scale by -5: the cluster is to have 1 worker, and would have -4: expected 1 to 1024"
    );
}

#[test]
fn with_a_mask_the_slots_that_move_are_of_the_larger_number() {
    let partition = Partition::mask(4).expect("a power of two");
    let mut bench = Bench::live_on(partition, 4);
    bench.request(Command::Scale { workers: 2 });
    bench.commit_done();
    assert_eq!(bench.replies, [Ok(scale_outcome(2, 2, 4))], "half of the clients move");
}
