//! Retired workers that are ended at somebody's wish.

use super::*;
use crate::protocol::{Exit, Progress, Refusal, Rollout, WorkerId};

const STAGGER: Duration = Duration::from_millis(100);

/// Workers 1 and 2 are retired and have a connection each, 3 and 4 live.
fn reloaded() -> Bench {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_done();
    bench.replies.clear();
    bench.take_spawned();
    bench.supervisor.settings.end_stagger = STAGGER;
    for worker in [1, 2] {
        bench.counts(worker, &[SERVING, SERVING]);
    }
    bench
}

#[test]
fn all_retired_workers_end_one_after_the_other() {
    let mut bench = reloaded();
    bench.request(Command::ClearRetired);
    assert_eq!(bench.take_terminated(), [1]);
    bench.pass(STAGGER - MILLISECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [2]);
    bench.dies(1, Exit::Code(0));
    assert_eq!(bench.steps.last(), Some(&Progress::Clearing { left: 1, of: 2 }));
    assert_eq!(bench.replies, []);
    bench.dies(2, Exit::Code(0));
    assert_eq!(bench.replies, [Ok(clear_outcome(2))]);
    assert_eq!(bench.in_force(), [3, 4]);
}

#[test]
fn where_nobody_is_retired_it_is_done_at_once() {
    let mut bench = Bench::live(2);
    bench.request(Command::ClearRetired);
    assert_eq!(bench.replies, [Ok(clear_outcome(0))]);
}

#[test]
fn those_that_retire_later_are_not_meant() {
    let mut bench = reloaded();
    bench.request(Command::ClearRetired);
    bench.request(Command::Scale { workers: 1 });
    bench.commit_done();
    bench.counts(4, &[SERVING, SERVING]);
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), [1, 2]);
}

#[test]
fn nobody_is_ended_for_whom_clients_wait_unless_it_hangs() {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_done();
    bench.counts(2, &[SERVING]);
    bench.request(Command::ClearRetired);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.counts(2, &[SERVING]);
    assert_eq!(bench.take_terminated(), [2]);
    bench.pass(5 * SECOND);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn a_restart_is_a_reload_and_then_the_end_of_the_retired_workers() {
    let mut bench = Bench::live(2);
    bench.take_spawned();
    bench.supervisor.settings.end_stagger = STAGGER;
    bench.request(Command::Restart);
    bench.pass(STAGGER);
    assert_eq!(bench.take_spawned(), [(3, 0, 2), (4, 1, 2)]);
    bench.ready(3);
    bench.ready(4);
    bench.commit_done();
    assert_eq!(bench.replies, [], "the old ones are there still");
    for worker in [1, 2] {
        bench.counts(worker, &[SERVING, SERVING]);
    }
    bench.pass(STAGGER);
    assert_eq!(bench.take_terminated(), [1, 2]);
    bench.dies(1, Exit::Code(0));
    bench.dies(2, Exit::Code(0));
    assert_eq!(
        bench.replies,
        [Ok(Outcome::Restarted(Restarted { generation: Generation(2), workers: 2, ended: 2 }))]
    );
}

#[test]
fn a_restart_whose_reload_fails_ends_nobody() {
    let mut bench = Bench::live(2);
    bench.request(Command::Restart);
    bench.spawn(3);
    bench.dies(3, Exit::Code(1));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
    bench.pass(60 * SECOND);
    assert_eq!(bench.take_terminated(), NOBODY, "the other new one was never spawned");
    assert_eq!(bench.in_force(), [1, 2]);
}

#[test]
fn a_second_restart_is_refused_and_the_first_goes_on() {
    let mut bench = Bench::live(1);
    bench.input(Input::Request(RequestId(1), Command::Restart));
    bench.input(Input::Request(RequestId(2), Command::Restart));
    assert_eq!(bench.replies, [Err(Refusal::Busy(Rollout::Reload))]);
    bench.ready(2);
    bench.commit_done();
    bench.counts(1, &[SERVING, SERVING]);
    bench.dies(1, Exit::Code(0));
    let done = Outcome::Restarted(Restarted { generation: Generation(2), workers: 1, ended: 1 });
    assert_eq!(bench.last_reply(), &Ok(done));
}

#[test]
fn a_stop_ends_the_wait() {
    let mut bench = reloaded();
    bench.request(Command::ClearRetired);
    bench.request(Command::Stop { now: false });
    assert_eq!(bench.replies, [Err(Refusal::Stopping)]);
}

#[test]
fn with_kill_old_the_workers_of_an_earlier_master_end_at_once_when_the_new_ones_are_in_force() {
    let mut bench = reloaded();
    bench.supervisor.settings.kill_old = true;
    bench.supervisor.end_old_workers();
    bench.input(Input::Tick);
    assert_eq!(bench.take_terminated(), [1, 2], "not one after the other");
    assert_eq!(bench.in_force(), [3, 4]);
}

#[test]
fn with_kill_old_nobody_ends_before_all_seats_are_occupied() {
    let mut bench = reloaded();
    bench.dies(4, Exit::Code(1));
    bench.commit_done();
    bench.supervisor.settings.kill_old = true;
    bench.supervisor.end_old_workers();
    bench.input(Input::Tick);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(SECOND);
    bench.ready(5);
    bench.commit_done();
    assert_eq!(bench.take_terminated(), [1, 2]);
}

#[test]
fn a_worker_that_a_rollback_puts_into_force_again_is_not_waited_for() {
    let mut bench = Bench::live(1);
    bench.request(RELOAD);
    bench.ready(2);
    bench.commit_done();
    bench.input(Input::RetireRequested { worker: WorkerId(1) });
    bench.request(Command::ClearRetired);
    bench.request(Command::Rollback);
    bench.input(Input::Ready { worker: WorkerId(1) });
    bench.commit_done();
    assert_eq!(bench.in_force(), [1]);
    assert!(bench.replies.contains(&Ok(clear_outcome(1))), "{:?}", bench.replies);
    assert_eq!(bench.take_spawned().last(), Some(&(2, 0, 2)), "it stays, whatever it asked for");
}
