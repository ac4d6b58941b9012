use super::*;
use crate::protocol::{Exit, Refusal, WorkerId, WorkerState};

#[test]
fn a_stop_closes_drains_and_removes_in_this_order() {
    let mut bench = Bench::live(2);
    bench.request(Command::Stop { now: false });
    let closed = bench.commit.clone().expect("a commit");
    assert!(!closed.is_admitting());
    assert_eq!(bench.holders(&closed), [1, 2]);
    assert_eq!(bench.state(1), Some(WorkerState::Live));
    bench.commit_done();
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    bench.counts(1, &[SERVING, SERVING]);
    bench.counts(2, &[IDLE, IDLE]);
    assert_eq!(bench.take_terminated(), [2]);
    bench.dies(2, Exit::Code(0));
    assert_eq!((bench.removed, &bench.commit), (false, &None));
    bench.counts(1, &[IDLE]);
    bench.dies(1, Exit::Code(0));
    assert!(bench.removed && bench.finished);
    assert_eq!(bench.replies, [Ok(stop_outcome(2))]);
    assert_eq!(bench.supervisor.deadline(), None);
}

#[test]
fn a_stop_at_once_waits_for_the_closed_plan_alone() {
    let mut bench = Bench::live(2);
    bench.request(Command::Stop { now: true });
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.commit_done();
    assert_eq!(bench.take_terminated(), [1, 2]);
    bench.pass(5 * SECOND);
    assert_eq!(bench.killed, [WorkerId(1), WorkerId(2)]);
}

#[test]
fn a_second_stop_hurries_the_first_and_both_are_answered() {
    let mut bench = Bench::live(1);
    bench.request(Command::Stop { now: false });
    bench.commit_done();
    bench.request(Command::Stop { now: true });
    assert_eq!(bench.take_terminated(), [1]);
    bench.dies(1, Exit::Signal(15));
    assert_eq!(bench.replies, [Ok(stop_outcome(1)), Ok(stop_outcome(1))]);
}

#[test]
fn a_stop_before_anything_is_in_force_needs_no_commit() {
    let mut bench = Bench::new(settings(2), vacant(2), Start::Fresh);
    bench.input(Input::Start);
    bench.spawn(1);
    bench.request(Command::Stop { now: false });
    assert_eq!(bench.take_terminated(), [1]);
    bench.spawn(2);
    assert_eq!(bench.take_terminated(), [2], "as soon as it is known to run");
    bench.dies(1, Exit::Signal(15));
    assert!(!bench.finished);
    bench.dies(2, Exit::Signal(15));
    assert!(bench.removed && bench.finished);
    assert_eq!(bench.commit, None);
}

#[test]
fn a_stop_ends_a_reload() {
    let mut bench = Bench::live(1);
    bench.request(RELOAD);
    bench.spawn(2);
    bench.request(Command::Stop { now: false });
    assert_eq!(bench.replies, [Err(Refusal::Stopping)]);
    assert_eq!(bench.take_terminated(), [2]);
    bench.request(RELOAD);
    assert_eq!(bench.last_reply(), &Err(Refusal::Stopping));
}

#[test]
fn a_stop_while_the_swap_is_on_its_way_drains_both_generations() {
    let mut bench = Bench::live(1);
    bench.request(RELOAD);
    bench.ready(2);
    bench.request(Command::Stop { now: false });
    assert_eq!(bench.take_terminated(), NOBODY, "2 may be in force any moment");
    bench.commit_done();
    bench.commit_done();
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    assert_eq!(bench.state(2), Some(WorkerState::Retired));
}

#[test]
fn a_kernel_that_refuses_the_closed_plan_does_not_keep_the_workers() {
    let mut bench = Bench::live(1);
    bench.request(Command::Stop { now: true });
    for _ in 0..2 {
        bench.commit_fails();
        assert_eq!(bench.take_terminated(), NOBODY);
        bench.pass(SECOND);
    }
    bench.commit_fails();
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn a_stop_waits_for_what_workers_have_left() {
    let mut bench = Bench::live(1);
    bench.request(Command::Stop { now: true });
    bench.commit_done();
    bench.input(Input::Exited { worker: WorkerId(1), exit: Exit::Code(0), last_lines: vec![] });
    assert_eq!((bench.finished, bench.replies.len()), (false, 0));
    bench.input(Input::Reaped { worker: WorkerId(1), left: 0 });
    assert!(bench.removed && bench.finished);
    assert_eq!(bench.replies, [Ok(stop_outcome(1))]);
}

#[test]
fn a_worker_that_goes_into_the_background_fails_with_what_to_do() {
    let mut bench = Bench::live(1);
    bench.request(RELOAD);
    bench.spawn(2);
    let advice = "it has left nginx (7)".to_owned();
    bench.input(Input::WentIntoBackground { worker: WorkerId(2), advice: advice.clone() });
    bench.dies(2, Exit::Code(0));
    let Err(Refusal::Worker(failure)) = bench.last_reply() else { panic!("{:?}", bench.replies) };
    let exit = Exit::Code(0);
    assert_eq!(failure.cause, crate::protocol::FailureCause::Background { exit, advice });
    assert!(
        failure.to_string().contains("went into the background (exited with status 0): it has")
    );
}
