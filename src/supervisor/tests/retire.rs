//! Live workers that are replaced: rows of IPCLUSTER.md on retirement.

use super::*;
use crate::protocol::{
    Event, Exit, Progress, Refusal, ReplaceReason, Retire, Rollout, Unhealthy, WorkerId,
    WorkerState,
};

/// So many live workers, with these settings.
fn live_with(settings: Settings) -> Bench {
    let workers = u16::try_from(settings.weights.seats()).expect("few");
    let mut bench = Bench::new(settings, vacant(workers), Start::Fresh);
    bench.input(Input::Start);
    for worker in 1..=u64::from(workers) {
        bench.ready(worker);
    }
    bench.commit_all();
    bench.take_spawned();
    bench.events.clear();
    bench
}

fn with(workers: u16, retire: Retire) -> Bench {
    live_with(Settings { retire, ..settings(workers) })
}

fn asks(bench: &mut Bench, worker: u64) {
    bench.input(Input::RetireRequested { worker: WorkerId(worker) });
}

fn retire(bench: &mut Bench, seat: u16) {
    bench.request(Command::Retire(RetireTarget::Seat(Seat(seat))));
}

fn cause(bench: &Bench, worker: u64) -> Option<ReplaceReason> {
    bench.supervisor.workers().find(|it| it.id == WorkerId(worker)).and_then(|it| it.leaving)
}

fn measured(bench: &mut Bench, workers: &[(u64, u64)]) {
    let workers = workers.iter().map(|(id, rss)| (WorkerId(*id), *rss)).collect();
    bench.input(Input::ResidentMeasured(MemoryUsage { master: 1, workers }));
}

#[test]
fn a_live_worker_is_replaced_first_and_then_retired_and_reniced() {
    let mut bench = live_with(settings(2));
    asks(&mut bench, 1);
    assert_eq!(bench.take_spawned(), [(3, 0, 1)], "at once, in its seat and generation");
    assert_eq!((bench.in_force(), &bench.commit), (vec![1, 2], &None), "it serves on");
    bench.ready(3);
    assert_eq!(bench.state(1), Some(WorkerState::Live), "until the kernel has taken the plan");
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 2]);
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    assert_eq!(bench.reniced, [(1, 1)]);
    assert_eq!(bench.take_terminated(), NOBODY, "it keeps its connections");
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn with_renice_0_the_nice_value_stays() {
    let mut bench = with(1, Retire { renice: 0, ..Retire::default() });
    asks(&mut bench, 1);
    bench.ready(2);
    bench.commit_done();
    assert_eq!(bench.reniced, []);
}

#[test]
fn a_worker_that_asks_twice_leaves_once() {
    let mut bench = live_with(settings(1));
    asks(&mut bench, 1);
    asks(&mut bench, 1);
    bench.input(Input::Lagging { worker: WorkerId(1), lag: SECOND });
    assert_eq!(bench.take_spawned(), [(2, 0, 1)]);
    assert_eq!(bench.events.len(), 1);
    assert_eq!(cause(&bench, 1), Some(ReplaceReason::WorkerRequest));
    bench.ready(2);
    bench.commit_done();
    bench.pass(600 * SECOND);
    assert_eq!(bench.take_spawned(), []);
}

#[test]
fn a_worker_above_its_memory_is_replaced_and_one_below_or_of_unknown_size_is_not() {
    let mut bench = with(3, Retire { rss: Some(100), ..Retire::default() });
    measured(&mut bench, &[(1, 100), (2, 101)]);
    assert_eq!(bench.take_spawned(), [(4, 1, 1)]);
    assert_eq!(cause(&bench, 2), Some(ReplaceReason::Memory { rss: 101 }));
    assert_eq!((cause(&bench, 1), cause(&bench, 3)), (None, None));
}

#[test]
fn a_worker_that_lags_too_much_is_replaced() {
    let mut bench = live_with(settings(2));
    bench.input(Input::Lagging { worker: WorkerId(1), lag: 149 * MILLISECOND });
    assert_eq!(bench.take_spawned(), []);
    bench.input(Input::Lagging { worker: WorkerId(1), lag: 150 * MILLISECOND });
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
    assert_eq!(cause(&bench, 1), Some(ReplaceReason::Lag { lag: 150 * MILLISECOND }));
}

#[test]
fn a_live_worker_that_stays_silent_is_replaced_and_a_retired_one_is_ended() {
    let mut bench = live_with(settings(2));
    bench.input(Input::Unhealthy { worker: WorkerId(1), cause: Unhealthy::Stopped });
    bench.input(Input::Unhealthy { worker: WorkerId(2), cause: Unhealthy::Stopped });
    bench.pass(9 * SECOND);
    bench.input(Input::Healthy { worker: WorkerId(2) });
    bench.pass(SECOND - MILLISECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
    bench.ready(3);
    bench.commit_done();
    assert_eq!(bench.take_terminated(), [1], "it has been silent for long enough already");
}

#[test]
fn a_retired_worker_that_falls_silent_has_as_long() {
    let mut bench = live_with(settings(1));
    asks(&mut bench, 1);
    bench.ready(2);
    bench.commit_done();
    bench.input(Input::Unhealthy { worker: WorkerId(1), cause: Unhealthy::Stopped });
    bench.pass(10 * SECOND - MILLISECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn old_workers_are_replaced_one_after_the_other() {
    let max_age = Some(100 * SECOND);
    let mut bench = with(3, Retire { max_age, ..Retire::default() });
    bench.pass(100 * SECOND - MILLISECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(MILLISECOND);
    for (old, seat) in [(1, 0), (2, 1), (3, 2)] {
        let new = old + 3;
        assert_eq!(bench.take_spawned(), [(new, seat, 1)]);
        assert_eq!(cause(&bench, old), Some(ReplaceReason::Age));
        bench.ready(new);
        bench.commit_done();
    }
    assert_eq!(bench.take_spawned(), []);
    assert_eq!(bench.in_force(), [4, 5, 6]);
}

#[test]
fn no_more_than_the_rate_are_replaced_within_the_window() {
    let (rate, window) = (2, 100 * SECOND);
    let mut bench = with(4, Retire { rate, window, ..Retire::default() });
    for worker in 1..=4 {
        asks(&mut bench, worker);
    }
    assert_eq!(bench.take_spawned(), [(5, 0, 1), (6, 1, 1)]);
    let held_back = Event::RetirementsHeldBack { workers: 1, rate, window };
    assert_eq!(bench.events.iter().filter(|it| **it == held_back).count(), 1, "told once");
    bench.ready(5);
    bench.commit_done();
    bench.pass(10 * SECOND);
    bench.ready(6);
    bench.commit_done();
    bench.pass(90 * SECOND - MILLISECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_spawned(), [(7, 2, 1)], "100 s after the first retirement");
    bench.pass(10 * SECOND);
    assert_eq!(bench.take_spawned(), [(8, 3, 1)], "and after the second");
}

#[test]
fn what_operators_ask_for_is_not_held_back_but_counts() {
    let (rate, window) = (1, 100 * SECOND);
    let mut bench = with(3, Retire { rate, window, ..Retire::default() });
    retire(&mut bench, 0);
    retire(&mut bench, 1);
    assert_eq!(bench.take_spawned(), [(4, 0, 1), (5, 1, 1)]);
    asks(&mut bench, 3);
    assert_eq!(bench.take_spawned(), []);
    bench.ready(4);
    bench.ready(5);
    bench.commit_all();
    bench.pass(100 * SECOND);
    assert_eq!(bench.take_spawned(), [(6, 2, 1)]);
}

#[test]
fn the_worst_off_come_first() {
    let (rate, window) = (1, 100 * SECOND);
    let mut bench = with(4, Retire { rate, window, rss: Some(100), ..Retire::default() });
    asks(&mut bench, 1);
    bench.input(Input::Lagging { worker: WorkerId(2), lag: SECOND });
    measured(&mut bench, &[(3, 200)]);
    bench.input(Input::Unhealthy { worker: WorkerId(4), cause: Unhealthy::Stopped });
    bench.commit_all();
    bench.take_spawned();
    let mut order = Vec::new();
    for next in 5..8 {
        bench.ready(next);
        bench.commit_done();
        bench.pass(100 * SECOND);
        order.extend(bench.take_spawned().into_iter().map(|(_, seat, _)| seat));
    }
    assert_eq!(order, [3, 2, 1], "silent, memory, lag");
}

#[test]
fn a_successor_that_fails_is_tried_again_and_the_old_one_serves_on() {
    let mut bench = live_with(settings(2));
    retire(&mut bench, 0);
    bench.spawn(3);
    bench.dies(3, Exit::Code(1));
    assert_eq!((bench.in_force(), &bench.commit), (vec![1, 2], &None));
    assert!(matches!(bench.steps.last(), Some(Progress::SuccessorFailed { .. })));
    bench.take_spawned();
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(4, 0, 1)]);
    bench.ready(4);
    assert_eq!(bench.steps.last(), Some(&Progress::SuccessorReady { seat: Seat(0) }));
    bench.commit_done();
    let done = Outcome::Retired(Retired { seat: Seat(0), pid: Some(100), successor: Some(100) });
    assert_eq!(bench.replies, [Ok(done)]);
    assert_eq!(bench.in_force(), [4, 2]);
}

#[test]
fn a_successor_that_waits_for_the_kernel_does_not_cost_the_seat() {
    let mut bench = live_with(settings(2));
    asks(&mut bench, 1);
    bench.ready(3);
    bench.commit_fails();
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(bench.state(1), Some(WorkerState::Live));
    bench.pass(SECOND);
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 2]);
    assert_eq!(bench.take_terminated(), NOBODY);
}

#[test]
fn when_the_old_one_dies_first_its_successor_takes_the_seat() {
    let mut bench = live_with(settings(2));
    retire(&mut bench, 0);
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
    bench.dies(1, Exit::Signal(11));
    assert_eq!(bench.replies, [Err(Refusal::Died { seat: Seat(0) })]);
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 2]);
    bench.pass(20 * SECOND);
    assert_eq!(bench.take_spawned(), [], "it is on its way");
    bench.ready(3);
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 2]);
}

#[test]
fn a_reload_retires_those_who_leave_and_nobody_begins_to() {
    let mut bench = live_with(settings(2));
    asks(&mut bench, 1);
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
    bench.request(RELOAD);
    assert_eq!(bench.take_spawned(), [(4, 0, 2), (5, 1, 2)]);
    asks(&mut bench, 2);
    assert_eq!(bench.take_spawned(), [], "its successor is that of the new generation");
    bench.ready(4);
    bench.ready(5);
    bench.commit_done();
    assert_eq!(bench.in_force(), [4, 5]);
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    bench.spawn(3);
    assert_eq!(bench.take_terminated(), [3], "nobody wants the successor any more");
    bench.pass(600 * SECOND);
    assert_eq!(bench.take_spawned(), []);
}

#[test]
fn after_a_reload_that_failed_those_who_asked_meanwhile_leave() {
    let mut bench = live_with(settings(2));
    bench.request(RELOAD);
    bench.take_spawned();
    asks(&mut bench, 2);
    bench.dies(3, Exit::Code(1));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
    assert_eq!(bench.take_spawned(), [(5, 1, 1)]);
}

#[test]
fn scaling_down_retires_a_worker_that_leaves_without_a_successor() {
    let mut bench = live_with(settings(2));
    retire(&mut bench, 1);
    assert_eq!(bench.take_spawned(), [(3, 1, 1)]);
    bench.request(Command::Scale { workers: 1 });
    bench.commit_done();
    let done = Outcome::Retired(Retired { seat: Seat(1), pid: Some(100), successor: None });
    assert!(bench.replies.contains(&Ok(done)), "{:?}", bench.replies);
    assert_eq!(bench.in_force(), [1]);
    bench.spawn(3);
    assert_eq!(bench.take_terminated(), [3]);
}

#[test]
fn a_pid_names_a_live_worker_as_well_as_its_seat() {
    let mut bench = live_with(settings(2));
    bench.request(Command::Retire(RetireTarget::Pid(100)));
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
}

#[test]
fn what_cannot_be_retired_is_refused_with_the_reason() {
    let mut bench = live_with(settings(2));
    retire(&mut bench, 2);
    assert_eq!(bench.replies.pop(), Some(Err(Refusal::NoSuchSeat { seat: Seat(2), seats: 2 })));
    bench.request(Command::Retire(RetireTarget::Pid(7)));
    assert_eq!(bench.replies.pop(), Some(Err(Refusal::NoSuchWorker { pid: 7 })));
    retire(&mut bench, 0);
    retire(&mut bench, 0);
    let leaving = Refusal::Leaving { seat: Seat(0), cause: ReplaceReason::OperatorRequest };
    assert_eq!(bench.replies.pop(), Some(Err(leaving)));
    bench.dies(2, Exit::Code(1));
    retire(&mut bench, 1);
    assert_eq!(bench.replies.pop(), Some(Err(Refusal::Vacant { seat: Seat(1) })));
    bench.commit_done();
    bench.ready(3);
    bench.commit_done();
    assert!(bench.replies.pop().expect("a reply").is_ok());
    bench.request(Command::Retire(RetireTarget::Pid(100)));
    let retired = Refusal::NotLive { seat: Seat(0), state: WorkerState::Retired };
    assert_eq!(bench.replies.pop(), Some(Err(retired)));
    bench.request(RELOAD);
    retire(&mut bench, 0);
    assert_eq!(bench.replies.pop(), Some(Err(Refusal::Busy(Rollout::Reload))));
    bench.request(Command::Stop { now: false });
    retire(&mut bench, 0);
    assert_eq!(bench.replies.pop(), Some(Err(Refusal::Stopping)));
}

#[test]
fn a_stop_ends_the_wait_for_a_successor() {
    let mut bench = live_with(settings(2));
    retire(&mut bench, 0);
    bench.request(Command::Stop { now: false });
    assert_eq!(bench.replies, [Err(Refusal::Stopping)]);
}

#[test]
fn successors_are_started_as_far_apart_as_all_workers() {
    let mut bench = live_with(settings(3));
    bench.supervisor.settings.stagger = 100 * MILLISECOND;
    for seat in 0..3 {
        retire(&mut bench, seat);
    }
    bench.pass(50 * MILLISECOND);
    assert_eq!(bench.take_spawned(), [(4, 0, 1)]);
    bench.pass(50 * MILLISECOND);
    assert_eq!(bench.take_spawned(), [(5, 1, 1)]);
    bench.pass(100 * MILLISECOND);
    assert_eq!(bench.take_spawned(), [(6, 2, 1)]);
}

#[test]
fn when_a_successor_dies_on_its_way_into_force_the_old_one_takes_the_seat_back() {
    let mut bench = live_with(settings(2));
    asks(&mut bench, 1);
    bench.ready(3);
    bench.dies(3, Exit::Code(1));
    bench.commit_done();
    assert_eq!(bench.state(1), Some(WorkerState::Live), "it was not told to retire");
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2]);
    bench.take_spawned();
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(4, 0, 1)]);
}

#[test]
fn the_limits_of_a_generation_lie_apart() {
    let drain = Some(100 * SECOND);
    let mut limited = Settings { drain, seed: 7, settle: Duration::ZERO, ..settings(4) };
    limited.retire.jitter = 10;
    let mut bench = Bench::live_with(limited, 4);
    bench.request(RELOAD);
    (5..=8).for_each(|worker| bench.ready(worker));
    bench.commit_done();
    let busy = Sockets { established: 1, ..IDLE };
    (1..=4).for_each(|worker| bench.counts(worker, &[busy, busy]));
    let mut ends = Vec::new();
    for millisecond in 0..=100_000_u32 {
        let ended = bench.take_terminated();
        ends.extend(ended.iter().map(|_| millisecond));
        bench.pass(MILLISECOND);
    }
    assert_eq!(ends.len(), 4, "{ends:?}");
    assert!(ends.iter().all(|end| (90_000..=100_001).contains(end)), "{ends:?}");
    assert!(ends.windows(2).all(|two| two[0] < two[1]), "{ends:?}");
}
