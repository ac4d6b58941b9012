use super::*;
use crate::protocol::{Exit, WorkerId, WorkerState};

#[test]
fn the_first_ready_worker_goes_into_force_and_the_others_follow() {
    let mut bench = Bench::new(settings(3), vacant(3), Start::Fresh);
    bench.input(Input::Start);
    assert_eq!(bench.take_spawned(), [(1, 0, 1), (2, 1, 1), (3, 2, 1)]);
    for worker in 1..=3 {
        bench.spawn(worker);
    }
    assert_eq!(bench.commit, None);
    bench.input(Input::Ready { worker: WorkerId(2) });
    bench.input(Input::Ready { worker: WorkerId(1) });
    bench.input(Input::Ready { worker: WorkerId(3) });
    assert_eq!(bench.state(2), Some(WorkerState::Starting), "not in force yet");
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 2, 0]);
    assert_eq!(bench.state(2), Some(WorkerState::Live));
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2, 3], "one commit for both");
    assert_eq!((&bench.commit, bench.supervisor.deadline()), (&None, None));
}

#[test]
fn spawns_stay_apart() {
    let apart = Settings { stagger: 100 * MILLISECOND, ..settings(3) };
    let mut bench = Bench::new(apart, vacant(3), Start::Fresh);
    bench.input(Input::Start);
    assert_eq!(bench.take_spawned(), [(1, 0, 1)]);
    bench.pass(99 * MILLISECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_spawned(), [(2, 1, 1)]);
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(3, 2, 1)]);
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_ended_killed_and_replaced() {
    let mut bench = Bench::new(settings(1), vacant(1), Start::Fresh);
    bench.input(Input::Start);
    bench.spawn(1);
    bench.pass(30 * SECOND - MILLISECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [1]);
    bench.input(Input::Ready { worker: WorkerId(1) });
    assert_eq!(bench.commit, None, "too late");
    bench.take_spawned();
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(2, 0, 1)]);
    bench.pass(4 * SECOND);
    assert_eq!(bench.killed, [WorkerId(1)]);
    bench.dies(1, Exit::Signal(9));
    assert_eq!(bench.state(1), None);
}

#[test]
fn failed_spawns_are_repeated_with_growing_delays() {
    let mut bench = Bench::new(settings(1), vacant(1), Start::Fresh);
    bench.input(Input::Start);
    for (worker, delay) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)] {
        assert_eq!(bench.take_spawned(), [(worker, 0, 1)]);
        bench.input(Input::SpawnFailed {
            worker: WorkerId(worker),
            reason: "EAGAIN".into(),
            is_permanent: false,
        });
        bench.pass(delay * SECOND - MILLISECOND);
        assert_eq!(bench.take_spawned(), []);
        bench.pass(MILLISECOND);
    }
}

#[test]
fn a_worker_with_ports_that_cannot_stand_in_the_plan_is_a_failed_start() {
    for port in [80, 20_001] {
        let mut bench = Bench::new(settings(2), vacant(2), Start::Fresh);
        bench.input(Input::Start);
        bench.take_spawned();
        bench.ready(1);
        bench.commit_done();
        bench.spawn_with(2, port);
        bench.input(Input::Ready { worker: WorkerId(2) });
        assert_eq!(bench.take_terminated(), [2], "port {port}");
        assert_eq!((bench.in_force(), &bench.commit), (vec![1, 0], &None));
        bench.pass(SECOND);
        assert_eq!(bench.take_spawned(), [(3, 1, 1)]);
    }
}

fn left_by_an_earlier_master(workers: u16) -> Plan {
    let mut plan = vacant(workers);
    plan.set_generation(Generation(4));
    for seat in (0..workers).map(Seat) {
        let ports = Port::new(30_000 + seat.0).into_iter().collect();
        plan.occupy(seat, Occupant { generation: Generation(4), ports }).expect("free ports");
    }
    plan
}

#[test]
fn a_takeover_keeps_the_old_plan_until_all_are_ready() {
    let old = left_by_an_earlier_master(2);
    let mut bench = Bench::new(settings(3), old.clone(), Start::FromKernel);
    bench.input(Input::Start);
    assert_eq!(bench.take_spawned(), [(1, 0, 5), (2, 1, 5), (3, 2, 5)]);
    bench.ready(1);
    bench.ready(2);
    bench.dies(3, Exit::Code(1));
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(4, 2, 5)], "tried again");
    assert_eq!((&bench.commit, bench.supervisor.plan()), (&None, &old));
    bench.ready(4);
    let swap = bench.commit_done();
    assert_eq!((swap.generation(), bench.in_force()), (Generation(5), vec![1, 2, 4]));
    assert_eq!(swap.assignment().moved_to(old.assignment()), 21, "a third of 64 slots");
    assert_eq!((&bench.commit, bench.supervisor.deadline()), (&None, None));
}

#[test]
fn a_takeover_whose_swap_fails_goes_on_trying() {
    let mut bench = Bench::new(settings(1), left_by_an_earlier_master(1), Start::FromKernel);
    bench.input(Input::Start);
    bench.ready(1);
    for _ in 0..10 {
        bench.commit_fails();
        bench.pass(5 * SECOND);
    }
    bench.commit_done();
    assert_eq!(bench.in_force(), [1]);
}

#[test]
fn weights_that_the_slots_cannot_serve_are_refused_before_anything_starts() {
    let error = Supervisor::new(settings(65), vacant(2), Start::Fresh).err();
    let fewer = crate::plan::PlanError::FewerSlotsThanWorkers { slots: 64, workers: 65 };
    assert_eq!(error, Some(fewer));
}

#[test]
fn no_more_start_at_a_time_than_is_allowed() {
    let two = Settings { parallel: 2, ..settings(5) };
    let mut bench = Bench::new(two, vacant(5), Start::Fresh);
    bench.input(Input::Start);
    assert_eq!(bench.take_spawned(), [(1, 0, 1), (2, 1, 1)]);
    bench.pass(10 * MILLISECOND);
    bench.ready(2);
    bench.commit_all();
    assert_eq!(bench.take_spawned(), [(3, 2, 1)], "the next one at once");
    bench.dies(3, Exit::Code(1));
    assert_eq!(bench.take_spawned(), [(4, 3, 1)]);
    // Worker 1 hangs: it keeps nobody else waiting for longer than a second.
    bench.pass(SECOND - 11 * MILLISECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_spawned(), [(5, 4, 1)]);
}
