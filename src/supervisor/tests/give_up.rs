//! Seats that lose too many workers.

use super::*;
use crate::protocol::{Event, Exit, FailureCause, GiveUp, Refusal, WorkerId, WorkerState};

const GIVE_UP: GiveUp = GiveUp { failures: 5, window: Duration::from_secs(60) };

fn live(workers: u16) -> Bench {
    let settings = Settings { give_up: Some(GIVE_UP), ..settings(workers) };
    let mut bench = Bench::new(settings, vacant(workers), Start::Fresh);
    bench.input(Input::Start);
    for worker in 1..=u64::from(workers) {
        bench.ready(worker);
    }
    bench.commit_all();
    bench.take_spawned();
    bench
}

/// The worker of seat 0, and each after it, dies as soon as it is live; returns when each was
/// spawned.
fn crash_loop(bench: &mut Bench, first: u64, span: Duration) -> Vec<u64> {
    let end = bench.now.after(span);
    bench.dies(first, Exit::Code(1));
    bench.commit_all();
    let mut spawned = Vec::new();
    loop {
        for (worker, seat, _) in bench.take_spawned() {
            assert_eq!(seat, 0);
            spawned.push(bench.now.0.as_secs());
            bench.ready(worker);
            bench.commit_all();
            bench.dies(worker, Exit::Code(1));
            bench.commit_all();
        }
        let Some(at) = bench.supervisor.deadline().filter(|at| *at <= end) else { break };
        bench.now = at;
        bench.input(Input::Tick);
    }
    bench.now = end;
    spawned
}

fn given_up(bench: &Bench) -> Vec<u16> {
    bench.supervisor.given_up(bench.now).map(|seat| seat.0).collect()
}

#[test]
fn a_crash_loop_costs_five_spawns_in_a_minute_and_the_seat_is_tried_again_later() {
    let mut bench = live(2);
    let spawned = crash_loop(&mut bench, 1, 300 * SECOND);
    assert_eq!(spawned, [1, 3, 7, 15, 75, 105, 135, 165, 195, 225, 255, 285]);
    for window in spawned.windows(6) {
        assert!(window[5] - window[0] >= 60, "{window:?}");
    }
    assert_eq!(bench.in_force(), [0, 2], "the others serve on");
}

#[test]
fn a_seat_that_is_given_up_is_told_of_with_its_last_failure() {
    let mut bench = live(2);
    crash_loop(&mut bench, 1, 20 * SECOND);
    let told = bench.events.iter().filter_map(|event| match event {
        Event::GivenUp { failure, rest } => Some((failure.clone(), *rest)),
        _ => None,
    });
    let [(failure, rest)] = &told.collect::<Vec<_>>()[..] else { panic!("told once") };
    assert_eq!((failure.seat, *rest), (Seat(0), 60 * SECOND));
    assert_eq!(failure.last_lines, ["out of cheese"]);
    assert_eq!(given_up(&bench), [0]);
    bench.pass(60 * SECOND);
    assert_eq!(given_up(&bench), [0_u16; 0]);
}

#[test]
fn a_reload_a_scale_and_a_retirement_end_the_rest() {
    for request in [Command::Scale { workers: 3 }, Command::Scale { workers: 1 }, RELOAD] {
        let mut bench = live(2);
        crash_loop(&mut bench, 1, 20 * SECOND);
        bench.request(request);
        bench.commit_all();
        assert_eq!(given_up(&bench), [0_u16; 0], "{request:?}");
        let refused = matches!(bench.replies.last(), Some(Err(Refusal::NobodyLeft)));
        let spawned = bench.take_spawned();
        assert!(refused || spawned.iter().any(|(_, seat, _)| *seat == 0), "{request:?}");
    }
}

#[test]
fn a_retirement_whose_successors_fail_ends_with_the_last_failure_and_the_old_one_stays() {
    let mut bench = live(2);
    bench.pass(20 * SECOND);
    bench.request(Command::Retire(RetireTarget::Seat(Seat(0))));
    for delay in [1, 2, 4, 8, 0] {
        let [(worker, 0, 1)] = bench.take_spawned()[..] else { panic!("a successor") };
        bench.spawn(worker);
        bench.dies(worker, Exit::Code(3));
        bench.pass(delay * SECOND);
    }
    let Err(Refusal::Worker(failure)) = bench.last_reply() else { panic!("{:?}", bench.replies) };
    assert_eq!(failure.cause, FailureCause::Exit(Exit::Code(3)));
    assert_eq!((bench.in_force(), bench.state(1)), (vec![1, 2], Some(WorkerState::Live)));
    bench.pass(600 * SECOND);
    assert_eq!(bench.take_spawned(), [], "nobody asks for a successor any more");
    bench.request(Command::Retire(RetireTarget::Seat(Seat(0))));
    assert_eq!(bench.take_spawned(), [(8, 0, 1)], "but one may");
}

#[test]
fn a_worker_with_a_cause_of_its_own_goes_on_leaving_when_the_rest_is_over() {
    let mut bench = live(2);
    bench.input(Input::RetireRequested { worker: WorkerId(1) });
    for delay in [1, 2, 4, 8, 60] {
        let [(worker, 0, 1)] = bench.take_spawned()[..] else { panic!("a successor") };
        bench.input(Input::SpawnFailed {
            worker: WorkerId(worker),
            reason: "EAGAIN".into(),
            is_permanent: false,
        });
        bench.pass(delay * SECOND - MILLISECOND);
        assert_eq!(bench.take_spawned(), [], "before {delay} s");
        bench.pass(MILLISECOND);
    }
    assert_eq!(bench.take_spawned(), [(8, 0, 1)]);
    assert_eq!(bench.in_force(), [1, 2]);
}

#[test]
fn a_new_worker_that_fails_in_the_swap_is_tried_again_when_the_rest_is_over_not_when_the_swap_is() {
    let give_up = Some(GiveUp { failures: 1, window: 10 * SECOND });
    let mut bench = Bench::live_with(Settings { give_up, ..settings(2) }, 2);
    bench.request(RELOAD);
    bench.spawn(4);
    bench.dies(1, Exit::Signal(9));
    bench.dies(2, Exit::Signal(9));
    bench.commit_all();
    bench.ready(3);
    bench.commit_fails();
    bench.dies(4, Exit::Code(1));
    bench.take_spawned();
    bench.pass(SECOND);
    bench.commit_done();
    assert!(matches!(bench.last_reply(), Ok(Outcome::Reloaded(_))));
    bench.pass(8 * SECOND);
    assert_eq!((bench.take_spawned(), given_up(&bench)), (vec![], vec![1]));
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(5, 1, 2)]);
}

/// Each worker of both seats fails as soon as it runs; returns when workers of seat 0 were spawned.
fn crash_all(bench: &mut Bench, span: Duration) -> Vec<u64> {
    let end = bench.now.after(span);
    let mut spawned = Vec::new();
    loop {
        for (worker, seat, _) in bench.take_spawned() {
            if seat == 0 {
                spawned.push(bench.now.0.as_secs());
            }
            bench.spawn(worker);
            bench.dies(worker, Exit::Code(1));
            bench.commit_all();
        }
        let Some(at) = bench.supervisor.deadline().filter(|at| *at <= end) else { break };
        bench.now = at;
        bench.input(Input::Tick);
    }
    bench.now = end;
    spawned
}

#[test]
fn while_nobody_serves_no_seat_is_given_up_and_each_is_tried_after_its_back_off() {
    let mut bench = live(2);
    bench.dies(1, Exit::Code(1));
    bench.dies(2, Exit::Code(1));
    bench.commit_all();
    assert_eq!(crash_all(&mut bench, 200 * SECOND), [1, 3, 7, 15, 31, 61, 91, 121, 151, 181]);
    assert_eq!(given_up(&bench), [0_u16; 0]);
    assert!(!bench.events.iter().any(|event| matches!(event, Event::GivenUp { .. })));
    // What made them fail has passed.
    bench.pass(30 * SECOND);
    let [(first, ..), (second, ..)] = bench.take_spawned()[..] else { panic!("two spawns") };
    bench.ready(first);
    bench.ready(second);
    bench.commit_all();
    assert_eq!(bench.in_force(), [first, second]);
}

#[test]
fn the_death_of_the_last_worker_that_serves_ends_the_rest_of_the_others() {
    let mut bench = live(2);
    crash_loop(&mut bench, 1, 20 * SECOND);
    assert_eq!((given_up(&bench), bench.take_spawned()), (vec![0], vec![]));
    bench.dies(2, Exit::Signal(9));
    bench.commit_all();
    assert_eq!(given_up(&bench), [0_u16; 0]);
    let spawned = bench.take_spawned();
    assert!(spawned.iter().any(|(_, seat, _)| *seat == 1), "{spawned:?}");
    bench.pass(16 * SECOND);
    assert!(bench.take_spawned().iter().any(|(_, seat, _)| *seat == 0), "its back-off is over");
}
