//! Requests while no plan of this master is in force, and programs that cannot be run.

use super::*;
use crate::protocol::Rollout;

fn starting(workers: u16) -> Bench {
    let mut bench = Bench::new(settings(workers), vacant(workers), Start::Fresh);
    bench.input(Input::Start);
    bench
}

fn cannot_run(bench: &mut Bench, worker: u64) {
    let reason = "cannot run program /no/such: ENOENT".to_owned();
    bench.input(Input::SpawnFailed { worker: WorkerId(worker), reason, is_permanent: true });
}

/// All workers that are started end before they are ready, for so long.
fn fail_all(bench: &mut Bench, span: Duration) {
    let end = bench.now.after(span);
    loop {
        for (worker, ..) in bench.take_spawned() {
            bench.spawn(worker);
            bench.dies(worker, Exit::Code(1));
        }
        let Some(at) = bench.supervisor.deadline().filter(|at| *at <= end) else { break };
        bench.now = at;
        bench.input(Input::Tick);
    }
    bench.now = end;
}

#[test]
fn a_first_worker_that_cannot_be_run_ends_the_master() {
    let mut bench = starting(4);
    cannot_run(&mut bench, 1);
    assert!(bench.removed && bench.finished);
    let failure = bench.start_failure.expect("the failure").to_string();
    assert!(failure.contains("cannot run program /no/such: ENOENT"), "{failure}");
    assert_eq!(bench.supervisor.deadline(), None);
}

#[test]
fn a_program_that_is_missing_later_is_tried_again() {
    let mut bench = starting(2);
    bench.spawn(1);
    cannot_run(&mut bench, 2);
    assert!(!bench.finished, "a worker runs");
    bench.ready(1);
    bench.commit_all();
    bench.take_spawned();
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(3, 1, 1)]);
    cannot_run(&mut bench, 3);
    assert!(!bench.finished, "a worker serves");
}

#[test]
fn a_process_that_cannot_be_made_just_now_ends_no_master() {
    let mut bench = starting(1);
    let reason = "fork: EAGAIN".to_owned();
    bench.input(Input::SpawnFailed { worker: WorkerId(1), reason, is_permanent: false });
    assert!(!bench.finished);
}

#[test]
fn a_reload_of_a_start_that_fails_tries_the_mended_program_at_once() {
    let mut bench = starting(2);
    fail_all(&mut bench, 100 * SECOND);
    bench.request(RELOAD);
    let [(first, 0, 2), (second, 1, 2)] = bench.take_spawned()[..] else { panic!("both seats") };
    bench.ready(first);
    bench.commit_all();
    assert_eq!(bench.in_force(), [first, 0], "one that serves is better than none");
    assert_eq!(bench.last_reply(), &Ok(reload_outcome(2, 2)));
    bench.ready(second);
    bench.commit_all();
    assert_eq!(bench.in_force(), [first, second]);
    bench.request(Command::Rollback);
    assert_eq!(bench.last_reply(), &Err(Refusal::NothingBefore), "generation 1 never served");
}

#[test]
fn a_reload_does_not_wait_for_workers_that_hang() {
    let mut bench = starting(1);
    bench.spawn(1);
    bench.request(RELOAD);
    let [.., (next, 0, 2)] = bench.take_spawned()[..] else { panic!("a new generation") };
    bench.ready(next);
    bench.commit_all();
    assert_eq!(bench.in_force(), [next]);
    assert_eq!(bench.take_terminated(), [1], "nobody wants it any more");
}

#[test]
fn a_reload_whose_program_still_fails_says_so_and_the_start_goes_on() {
    let mut bench = starting(1);
    fail_all(&mut bench, 10 * SECOND);
    bench.request(RELOAD);
    let [(next, 0, 2)] = bench.take_spawned()[..] else { panic!("a new generation") };
    bench.spawn(next);
    bench.dies(next, Exit::Code(7));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))), "{:?}", bench.replies);
    bench.pass(30 * SECOND);
    assert!(!bench.take_spawned().is_empty(), "generation 1 is tried on");
}

#[test]
fn a_second_reload_supersedes_the_first() {
    let mut bench = starting(1);
    bench.spawn(1);
    bench.request(RELOAD);
    bench.request(RELOAD);
    assert_eq!(bench.last_reply(), &Err(Refusal::Superseded));
    let (next, ..) = bench.take_spawned().pop().expect("a new generation");
    bench.ready(next);
    bench.commit_all();
    assert!(matches!(bench.last_reply(), Ok(Outcome::Reloaded(_))));
}

#[test]
fn a_reload_whose_plan_is_on_its_way_is_not_superseded() {
    let mut bench = starting(1);
    bench.spawn(1);
    bench.request(RELOAD);
    let (next, ..) = bench.take_spawned().pop().expect("a new generation");
    bench.ready(next);
    assert!(bench.commit.is_some());
    bench.request(RELOAD);
    assert_eq!(bench.last_reply(), &Err(Refusal::Busy(Rollout::Reload)));
    bench.commit_all();
    assert_eq!(bench.replies.last(), Some(&Ok(reload_outcome(2, 1))));
}

#[test]
fn a_superseded_generation_has_its_number_for_good() {
    let mut bench = starting(1);
    bench.spawn(1);
    bench.request(RELOAD);
    let hung = bench.take_spawned();
    assert_eq!(hung.last().map(|it| it.2), Some(2));
    bench.spawn(hung.last().expect("one").0);
    bench.request(RELOAD);
    let next = bench.take_spawned();
    assert_eq!(next.last().map(|it| it.2), Some(3), "not the worker that hangs");
}

#[test]
fn a_scale_while_a_worker_comes_into_force_takes_it_out_for_nobody() {
    let mut bench = starting(3);
    bench.ready(2);
    assert!(bench.commit.is_some(), "seat 1 comes into force");
    bench.request(Command::Scale { workers: 1 });
    bench.commit_all();
    assert!(bench.in_force().contains(&2), "{:?}", bench.in_force());
}

#[test]
fn a_reload_before_an_earlier_master_is_relieved_waits_for_all_seats() {
    let mut old = vacant(2);
    old.set_generation(Generation(4));
    let mut bench = Bench::new(settings(2), old, Start::FromKernel);
    bench.input(Input::Start);
    fail_all(&mut bench, 10 * SECOND);
    bench.request(RELOAD);
    let [(first, 0, 6), (second, 1, 6)] = bench.take_spawned()[..] else { panic!("both seats") };
    bench.ready(first);
    assert_eq!(bench.commit, None);
    bench.ready(second);
    bench.commit_all();
    assert_eq!(bench.in_force(), [first, second]);
    assert!(matches!(bench.last_reply(), Ok(Outcome::Reloaded(_))));
}

#[test]
fn a_scale_holds_at_once_and_the_start_goes_on_with_it() {
    for workers in [1, 4] {
        let mut bench = starting(2);
        fail_all(&mut bench, 100 * SECOND);
        bench.request(Command::Scale { workers });
        assert_eq!(bench.last_reply(), &Ok(scale_outcome(workers, 0, 64)));
        let spawned = bench.take_spawned();
        assert_eq!(spawned.len(), usize::from(workers), "each seat is tried at once");
        spawned.iter().for_each(|(worker, ..)| bench.ready(*worker));
        bench.commit_all();
        assert_eq!(bench.in_force(), spawned.iter().map(|it| it.0).collect::<Vec<_>>());
    }
}

#[test]
fn a_retirement_of_a_vacant_seat_has_it_tried_at_once() {
    let mut bench = starting(2);
    fail_all(&mut bench, 100 * SECOND);
    bench.request(Command::Retire(RetireTarget::Seat(Seat(1))));
    assert_eq!(bench.last_reply(), &Err(Refusal::Vacant { seat: Seat(1) }));
    let [(_, 1, 1)] = bench.take_spawned()[..] else { panic!("seat 1 is tried") };
}

#[test]
fn nothing_answers_that_the_cluster_is_still_starting_where_that_says_nothing() {
    let mut bench = starting(1);
    bench.spawn(1);
    bench.request(Command::Rollback);
    assert_eq!(bench.last_reply(), &Err(Refusal::NothingBefore));
    bench.request(Command::Promote);
    assert_eq!(bench.last_reply(), &Err(Refusal::NoCanary));
    bench.request(Command::Retire(RetireTarget::Seat(Seat(7))));
    assert!(matches!(bench.last_reply(), Err(Refusal::NoSuchSeat { .. })));
}
