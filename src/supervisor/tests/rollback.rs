use super::*;
use crate::protocol::{Exit, Refusal, WorkerId, WorkerState};

/// Two workers of generation 2, 3 and 4, in force; 1 and 2 are retired and have connections.
fn reloaded(keep: Duration) -> Bench {
    let settings = Settings { rollback: keep, ..settings(2) };
    let mut bench = Bench::new(settings, vacant(2), Start::Fresh);
    bench.input(Input::Start);
    bench.ready(1);
    bench.ready(2);
    bench.commit_all();
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_done();
    bench.counts(1, &[SERVING, SERVING]);
    bench.counts(2, &[SERVING, SERVING]);
    bench.take_spawned();
    bench
}

fn listens(bench: &mut Bench, worker: u64) {
    bench.input(Input::Ready { worker: WorkerId(worker) });
}

fn awaited(bench: &Bench) -> Vec<u64> {
    let awaited = bench.supervisor.workers().filter(|worker| worker.awaits_ready());
    awaited.map(|worker| worker.id.0).collect()
}

#[test]
fn retired_workers_that_still_listen_serve_again_without_a_start() {
    let mut bench = reloaded(Duration::ZERO);
    bench.request(Command::Rollback);
    assert_eq!(awaited(&bench), [1, 2]);
    listens(&mut bench, 1);
    assert_eq!(bench.commit, None, "the other was not seen to listen");
    bench.counts(2, &[IDLE, IDLE]);
    assert_eq!(bench.take_terminated(), NOBODY, "it is wanted again");
    listens(&mut bench, 2);
    bench.commit_done();
    assert_eq!(bench.last_reply(), &Ok(rollback_outcome(1, 2)));
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(bench.take_spawned(), []);
    // Retired, back at the value that they had, and those of generation 2 retired in turn.
    assert_eq!(bench.reniced, [(1, 1), (2, 1), (1, 0), (2, 0), (3, 1), (4, 1)]);
    for (worker, state) in [
        (1, WorkerState::Live),
        (2, WorkerState::Live),
        (3, WorkerState::Retired),
        (4, WorkerState::Retired),
    ] {
        assert_eq!(bench.state(worker), Some(state), "{worker}");
    }
    bench.request(Command::Rollback);
    assert_eq!(bench.last_reply(), &Err(Refusal::NothingBefore));
    bench.request(RELOAD);
    assert_eq!(bench.take_spawned(), [(5, 0, 3), (6, 1, 3)]);
}

#[test]
fn one_that_does_not_listen_any_more_leaves_all_as_it_is() {
    let mut bench = reloaded(Duration::ZERO);
    bench.request(Command::Rollback);
    listens(&mut bench, 1);
    bench.pass(2 * SECOND);
    let refusal = bench.last_reply().as_ref().expect_err("failed").to_string();
    let expected = "seat 1: the worker of generation 1 did not listen on all its ports within 2s";
    assert_eq!(refusal, expected);
    assert_eq!((bench.in_force(), &bench.commit), (vec![3, 4], &None));
    assert_eq!(awaited(&bench), NOBODY);
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    assert_eq!(bench.take_terminated(), NOBODY, "they finish their connections");
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), NOBODY, "nobody has counted while it was to serve again");
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn one_that_dies_meanwhile_leaves_all_as_it_is() {
    let mut bench = reloaded(Duration::ZERO);
    bench.request(Command::Rollback);
    listens(&mut bench, 1);
    bench.dies(2, Exit::Code(0));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
    assert_eq!((bench.in_force(), &bench.commit), (vec![3, 4], &None));
    assert_eq!((bench.take_spawned(), bench.state(1)), (vec![], Some(WorkerState::Retired)));
}

#[test]
fn a_seat_whose_worker_has_ended_is_named() {
    let mut bench = reloaded(Duration::ZERO);
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), [1]);
    bench.request(Command::Rollback);
    let refusal = bench.last_reply().as_ref().expect_err("refused").to_string();
    let expected = "generation 1 cannot serve again: its workers of seat 0 have ended";
    assert_eq!(refusal, expected);
}

#[test]
fn workers_of_the_generation_before_are_kept_for_a_while() {
    let mut bench = reloaded(60 * SECOND);
    bench.pass(59 * SECOND);
    bench.counts(1, &[IDLE]);
    bench.counts(2, &[IDLE]);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(SECOND);
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), [1]);
    bench.request(RELOAD);
    bench.ready(5);
    bench.ready(6);
    bench.commit_done();
    bench.counts(2, &[IDLE]);
    assert_eq!(bench.take_terminated(), [2], "not of the generation before any more");
}

#[test]
fn a_stop_does_not_wait_for_those_that_are_kept() {
    let mut bench = reloaded(60 * SECOND);
    bench.counts(1, &[IDLE]);
    bench.request(Command::Stop { now: false });
    bench.commit_done();
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn a_stop_in_the_middle_of_a_rollback_drains_all() {
    for at_once in [false, true] {
        let mut bench = reloaded(Duration::ZERO);
        bench.request(Command::Rollback);
        listens(&mut bench, 1);
        listens(&mut bench, 2);
        bench.request(Command::Stop { now: at_once });
        bench.commit_done();
        bench.commit_done();
        assert!(!bench.supervisor.plan().is_admitting());
        if at_once {
            assert_eq!(bench.take_terminated(), [1, 2, 3, 4]);
        } else {
            assert_eq!(bench.state(1), Some(WorkerState::Retired));
            assert_eq!(bench.take_terminated(), NOBODY);
        }
    }
}

#[test]
fn there_is_nothing_to_go_back_to_without_a_reload() {
    let mut bench = Bench::live(2);
    bench.request(Command::Rollback);
    assert_eq!(bench.last_reply(), &Err(Refusal::NothingBefore));
    let mut bench = reloaded(Duration::ZERO);
    bench.request(Command::Scale { workers: 1 });
    bench.commit_done();
    bench.request(Command::Rollback);
    assert_eq!(bench.last_reply(), &Err(Refusal::NothingBefore));
}

#[test]
fn a_promotion_can_be_rolled_back_to_the_generation_before_the_trial() {
    let mut bench = Bench::live(1);
    bench.request(Command::Reload { share: Some("50%".parse().expect("a share")) });
    bench.ready(2);
    bench.commit_done();
    bench.request(Command::Promote);
    bench.ready(3);
    bench.commit_done();
    assert_eq!(bench.in_force(), [3]);
    bench.request(Command::Rollback);
    listens(&mut bench, 1);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1]);
    assert_eq!(bench.state(2), Some(WorkerState::Retired));
}
