use super::*;
use crate::protocol::{Exit, Refusal, Rollout, WorkerId, WorkerState};

/// Two live workers, 1 and 2, and a reload whose workers are 3 and 4.
fn reloading() -> Bench {
    let mut bench = Bench::live(2);
    bench.take_spawned();
    bench.request(RELOAD);
    assert_eq!(bench.take_spawned(), [(3, 0, 2), (4, 1, 2)]);
    bench
}

#[test]
fn all_new_workers_ready_then_one_swap_then_the_old_ones_retire() {
    let mut bench = reloading();
    bench.ready(3);
    assert_eq!(bench.commit, None);
    bench.ready(4);
    assert_eq!(bench.state(1), Some(WorkerState::Live), "still in force");
    assert_eq!(bench.replies, []);
    let swap = bench.commit_done();
    assert_eq!(swap.generation(), Generation(2));
    assert_eq!(bench.in_force(), [3, 4]);
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    assert_eq!(bench.take_terminated(), NOBODY);
    assert_eq!(bench.take_spawned(), []);
}

#[test]
fn a_retired_worker_ends_after_its_last_connection() {
    let mut bench = reloading();
    bench.ready(3);
    bench.ready(4);
    bench.counts(1, &[IDLE, IDLE, IDLE]);
    bench.commit_done();
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), NOBODY, "reports from before the swap do not count");
    bench.counts(1, &[SERVING]);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), [1]);
    bench.dies(1, Exit::Signal(15));
    assert_eq!(bench.state(1), None);
    assert_eq!(bench.in_force(), [3, 4]);
    assert_eq!((bench.take_spawned(), &bench.commit), (vec![], &None));
}

#[test]
fn a_drain_limit_ends_retired_workers() {
    let limited = Settings { drain: Some(60 * SECOND), ..settings(1) };
    let mut bench = Bench::new(limited, vacant(1), Start::Fresh);
    bench.input(Input::Start);
    bench.ready(1);
    bench.commit_done();
    bench.request(RELOAD);
    bench.ready(2);
    bench.commit_done();
    bench.counts(1, &[SERVING, SERVING]);
    bench.pass(60 * SECOND - MILLISECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [1]);
    bench.pass(5 * SECOND);
    assert_eq!(bench.killed, [WorkerId(1)]);
}

#[test]
fn a_new_worker_that_fails_ends_the_reload_with_the_reason() {
    type Fault = fn(&mut Bench);
    let faults: [(Fault, &str); 5] = [
        (
            |bench| bench.dies(4, Exit::Code(1)),
            "seat 1: the worker of generation 2 exited with status 1 before it was in force; \
             its last lines:\n    out of cheese",
        ),
        (
            |bench| bench.dies(4, Exit::Signal(11)),
            "seat 1: the worker of generation 2 was ended by SIGSEGV before it was in force; \
             its last lines:\n    out of cheese",
        ),
        (
            |bench| {
                let reason = "fork: EAGAIN".to_owned();
                bench.input(Input::SpawnFailed {
                    worker: WorkerId(4),
                    reason,
                    is_permanent: false,
                });
            },
            "seat 1: the worker of generation 2 could not be started: fork: EAGAIN",
        ),
        (
            |bench| bench.pass(30 * SECOND),
            "seat 1: the worker of generation 2 did not listen on all its ports within 30s",
        ),
        (
            |bench| {
                bench.spawn_with(4, 80);
                bench.input(Input::Ready { worker: WorkerId(4) });
            },
            "seat 1: the worker of generation 2 cannot be put into force: \
             seat 1: worker port 80 is a public port of this cluster",
        ),
    ];
    for (fault, reason) in faults {
        let mut bench = reloading();
        bench.ready(3);
        fault(&mut bench);
        let refusal = bench.last_reply().as_ref().expect_err("failed");
        assert_eq!(refusal.to_string(), reason);
        assert!(bench.take_terminated().contains(&3), "{reason}");
        assert_eq!((bench.in_force(), &bench.commit), (vec![1, 2], &None), "{reason}");
        assert_eq!(bench.supervisor.generation(), Generation::FIRST);
        bench.pass(100 * SECOND);
        assert_eq!(bench.take_spawned(), [], "{reason}");
        bench.request(RELOAD);
        assert_eq!(bench.take_spawned(), [(5, 0, 2), (6, 1, 2)], "{reason}");
    }
}

#[test]
fn an_old_worker_that_dies_is_replaced_only_after_the_reload_failed() {
    let mut bench = reloading();
    bench.ready(3);
    bench.dies(1, Exit::Code(1));
    let plan = bench.commit_done();
    assert_eq!(bench.holders(&plan), [0, 2]);
    bench.pass(20 * SECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.dies(4, Exit::Code(1));
    assert_eq!(bench.take_spawned(), [(5, 0, 1)]);
}

#[test]
fn when_the_last_old_worker_dies_the_ready_new_ones_take_over() {
    let mut bench = reloading();
    bench.dies(1, Exit::Code(1));
    bench.commit_done();
    bench.ready(3);
    assert_eq!(bench.commit, None);
    bench.dies(2, Exit::Code(1));
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 0]);
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
    bench.dies(4, Exit::Code(1));
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(5, 1, 2)], "an ordinary failed start by now");
}

#[test]
fn three_failed_swaps_end_the_reload() {
    let mut bench = reloading();
    bench.ready(3);
    bench.ready(4);
    for _ in 0..2 {
        bench.commit_fails();
        assert_eq!(bench.replies, []);
        bench.pass(SECOND);
    }
    bench.commit_fails();
    let refusal = Refusal::Commit { reason: "ENOMEM".to_owned(), failures: 3 };
    assert_eq!(bench.replies, [Err(refusal)]);
    assert_eq!(bench.take_terminated(), [3, 4]);
    bench.pass(60 * SECOND);
    assert_eq!((bench.in_force(), &bench.commit), (vec![1, 2], &None));
}

#[test]
fn failed_swaps_go_on_when_no_old_worker_is_left() {
    let mut bench = reloading();
    bench.ready(3);
    bench.ready(4);
    bench.dies(1, Exit::Code(1));
    bench.dies(2, Exit::Code(1));
    for _ in 0..5 {
        bench.commit_fails();
        bench.pass(10 * SECOND);
    }
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 4]);
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
}

#[test]
fn a_new_worker_that_dies_during_the_swap_fails_the_reload_only_if_the_swap_fails() {
    for swap_succeeds in [true, false] {
        let mut bench = reloading();
        bench.ready(3);
        bench.ready(4);
        bench.dies(4, Exit::Code(1));
        assert_eq!(bench.replies, []);
        assert_eq!(bench.take_terminated(), NOBODY, "3 may be in force any moment");
        if swap_succeeds {
            bench.commit_done();
            assert!(bench.last_reply().is_ok());
            bench.commit_done();
            assert_eq!(bench.in_force(), [3, 0]);
        } else {
            bench.commit_fails();
            assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
            assert_eq!((bench.in_force(), bench.take_terminated()), (vec![1, 2], vec![3]));
        }
    }
}

#[test]
fn a_second_reload_is_refused_while_one_is_under_way() {
    let mut bench = reloading();
    bench.request(RELOAD);
    assert_eq!(bench.last_reply(), &Err(Refusal::Busy(Rollout::Reload)));
    bench.request(Command::Scale { workers: 4 });
    let refusal = bench.last_reply().as_ref().expect_err("refused");
    assert_eq!(refusal.to_string(), "a reload is under way; try again when it has ended");
    assert_eq!(bench.take_spawned(), []);
}

#[test]
fn a_reload_helps_a_cluster_whose_workers_all_crash() {
    let mut bench = Bench::live(1);
    for worker in 1..=5 {
        bench.dies(worker, Exit::Code(1));
        bench.commit_all();
        bench.pass(40 * SECOND);
    }
    bench.dies(6, Exit::Code(1));
    bench.take_spawned();
    bench.request(RELOAD);
    assert_eq!(bench.take_spawned(), [(7, 0, 2)], "the back-off of the old does not hold");
    bench.ready(7);
    bench.commit_done();
    assert_eq!(bench.in_force(), [7]);
    assert!(bench.last_reply().is_ok());
}

#[test]
fn the_last_generation_cannot_be_reloaded() {
    let mut plan = vacant(1);
    plan.set_generation(Generation(u64::MAX));
    let mut bench = Bench::new(settings(1), plan, Start::Fresh);
    bench.input(Input::Start);
    bench.ready(1);
    bench.commit_done();
    bench.request(RELOAD);
    assert_eq!(bench.last_reply(), &Err(Refusal::LastGeneration(Generation(u64::MAX))));
}

#[test]
fn a_new_worker_that_dies_between_two_tries_does_not_take_the_others_along() {
    let mut bench = reloading();
    bench.ready(3);
    bench.ready(4);
    bench.dies(1, Exit::Code(1));
    bench.dies(2, Exit::Code(1));
    bench.commit_fails();
    bench.dies(4, Exit::Code(1));
    assert_eq!(bench.replies, [], "there is nobody to fall back to");
    bench.pass(SECOND);
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 0]);
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
}
