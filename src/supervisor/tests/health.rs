use super::*;
use crate::protocol::{
    Event, Exit, FailureCause, NotReady, Refusal, Unhealthy, WorkerFailure, WorkerId, WorkerState,
};

impl Bench {
    fn silent(&mut self, worker: u64) {
        self.input(Input::Unhealthy { worker: WorkerId(worker), cause: Unhealthy::Stopped });
    }

    fn answers(&mut self, worker: u64) {
        self.input(Input::Healthy { worker: WorkerId(worker) });
    }

    fn stops(&mut self, worker: u64) {
        self.input(Input::Stopping { worker: WorkerId(worker) });
    }
}

#[test]
fn a_silent_worker_is_left_out_keeps_its_seat_and_comes_back() {
    let mut bench = Bench::live(3);
    bench.take_spawned();
    bench.pass(10 * SECOND);
    bench.silent(2);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 0, 3]);
    assert_eq!(bench.state(2), Some(WorkerState::Live), "not retired");
    assert_eq!(bench.take_spawned(), [], "not replaced");
    bench.answers(2);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2, 3]);
    assert_eq!(bench.take_terminated(), NOBODY);
}

#[test]
fn where_nobody_answers_all_stay() {
    let mut bench = Bench::live(3);
    for worker in [1, 3] {
        bench.silent(worker);
        bench.commit_all();
    }
    assert_eq!(bench.in_force(), [0, 2, 0]);
    bench.silent(2);
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2, 3]);
    assert!(bench.events.contains(&Event::NoneHealthy { workers: 3 }));
    bench.answers(3);
    bench.commit_all();
    assert_eq!(bench.in_force(), [0, 0, 3]);
}

#[test]
fn one_that_answers_and_dies_leaves_the_silent_ones_to_serve() {
    let mut bench = Bench::live(2);
    bench.silent(1);
    bench.commit_all();
    bench.dies(2, Exit::Signal(9));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 0]);
}

#[test]
fn one_that_falls_silent_again_and_again_comes_back_ever_later() {
    let mut bench = Bench::live(2);
    for delay in [0, 1, 2, 4, 8, 16, 32, 60, 60] {
        bench.silent(1);
        bench.commit_all();
        assert_eq!(bench.in_force(), [0, 2]);
        bench.answers(1);
        if delay > 0 {
            bench.pass(delay * SECOND - MILLISECOND);
            assert_eq!(bench.commit, None, "before {delay} s");
            bench.pass(MILLISECOND);
        }
        bench.commit_done();
        assert_eq!(bench.in_force(), [1, 2], "after {delay} s");
        bench.pass(59 * SECOND);
    }
    bench.pass(SECOND);
    bench.silent(1);
    bench.commit_all();
    bench.answers(1);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2], "at once: it had answered for a minute");
}

#[test]
fn one_that_falls_silent_while_it_comes_back_waits_for_its_next_answer() {
    let mut bench = Bench::live(2);
    bench.silent(1);
    bench.answers(1);
    bench.silent(1);
    bench.commit_all();
    bench.answers(1);
    bench.pass(500 * MILLISECOND);
    bench.silent(1);
    bench.pass(60 * SECOND);
    assert_eq!((bench.in_force(), &bench.commit), (vec![0, 2], &None));
    let outages = bench.events.iter().filter(|n| matches!(n, Event::Unhealthy { .. }));
    assert_eq!(outages.count(), 2, "told once each time that it leaves");
}

#[test]
fn a_silent_worker_that_dies_is_replaced_as_any_other() {
    let mut bench = Bench::live(2);
    bench.take_spawned();
    bench.pass(10 * SECOND);
    bench.silent(1);
    bench.commit_all();
    bench.dies(1, Exit::Signal(9));
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
}

#[test]
fn a_silent_worker_does_not_keep_a_reload_from_replacing_it() {
    let mut bench = Bench::live(2);
    bench.silent(1);
    bench.commit_all();
    bench.request(RELOAD);
    for worker in [3, 4] {
        bench.ready(worker);
    }
    bench.commit_all();
    assert_eq!(bench.in_force(), [3, 4]);
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    bench.answers(1);
    assert_eq!(bench.commit, None);
}

#[test]
fn a_new_worker_that_falls_silent_does_not_count_as_ready() {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.silent(3);
    bench.ready(4);
    assert_eq!(bench.commit, None);
    bench.answers(3);
    bench.commit_all();
    assert_eq!(bench.in_force(), [3, 4]);
}

#[test]
fn a_new_worker_that_stays_silent_fails_its_reload() {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.silent(3);
    bench.ready(4);
    bench.pass(30 * SECOND - MILLISECOND);
    assert_eq!(bench.replies, []);
    bench.pass(MILLISECOND);
    assert!(matches!(
        bench.last_reply(),
        Err(Refusal::Worker(WorkerFailure {
            cause: FailureCause::Unhealthy(Unhealthy::Stopped),
            ..
        }))
    ));
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(bench.take_terminated(), [3, 4]);
}

#[test]
fn a_scale_that_would_leave_silent_workers_alone_is_refused() {
    let mut bench = Bench::live(2);
    bench.silent(1);
    bench.commit_all();
    bench.request(Command::Scale { workers: 1 });
    assert_eq!(*bench.last_reply(), Err(Refusal::NobodyLeft));
    assert_eq!(bench.in_force(), [0, 2]);
}

#[test]
fn silent_workers_do_not_take_over_from_those_of_an_earlier_master() {
    let mut in_force = vacant(1);
    let ports: Arc<[Port]> = Port::new(10_000).into_iter().collect();
    in_force.occupy(Seat(0), Occupant { generation: Generation(1), ports }).expect("a free seat");
    let mut bench = Bench::new(settings(1), in_force, Start::FromKernel);
    bench.input(Input::Start);
    bench.spawn(1);
    bench.supervisor.workers.get_mut(&WorkerId(1)).expect("spawned").stage =
        workers::Stage::Ready { ready: Timestamp::ZERO };
    // As if it had fallen silent between two steps.
    bench.silent(1);
    assert_eq!(bench.commit, None);
    bench.answers(1);
    assert!(bench.commit.is_some());
}

#[test]
fn one_that_says_that_it_stops_is_steered_away_from_replaced_and_retired() {
    let mut bench = Bench::live(2);
    bench.take_spawned();
    bench.pass(10 * SECOND);
    bench.stops(1);
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 2]);
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    bench.ready(3);
    bench.commit_all();
    bench.dies(1, Exit::Code(0));
    assert_eq!(bench.in_force(), [3, 2]);
    assert!(!bench.events.iter().any(|event| matches!(event, Event::Died { .. })));
}

#[test]
fn the_only_worker_that_stops_serves_until_its_successor_is_ready() {
    let mut bench = Bench::live(1);
    bench.take_spawned();
    bench.pass(10 * SECOND);
    bench.stops(1);
    assert_eq!((bench.take_spawned(), &bench.commit), (vec![(2, 0, 1)], &None));
    bench.ready(2);
    bench.commit_all();
    assert_eq!(bench.in_force(), [2]);
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
}

#[test]
fn workers_that_stop_as_soon_as_they_are_ready_are_replaced_ever_later() {
    let mut bench = Bench::live(1);
    bench.take_spawned();
    for (worker, delay) in [(1, 1), (2, 2), (3, 4)] {
        bench.stops(worker);
        bench.pass(delay * SECOND - MILLISECOND);
        assert_eq!(bench.take_spawned(), []);
        bench.pass(MILLISECOND);
        assert_eq!(bench.take_spawned(), [(worker + 1, 0, 1)]);
        bench.ready(worker + 1);
        bench.commit_all();
    }
}

#[test]
fn a_new_worker_that_stops_fails_its_reload() {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.stops(3);
    let failed = |reply: &Result<Outcome, Refusal>| matches!(reply, Err(Refusal::Worker(failure)) if failure.cause == FailureCause::Stopping);
    assert!(failed(bench.last_reply()));
    bench.request(RELOAD);
    bench.spawn(5);
    bench.stops(5);
    assert!(failed(bench.last_reply()));
}

#[test]
fn a_worker_that_asks_for_time_gets_it_up_to_an_hour() {
    let mut bench = Bench::live(1);
    bench.request(RELOAD);
    bench.spawn(2);
    let worker = WorkerId(2);
    let ask = |bench: &mut Bench, seconds: u32| {
        bench.input(Input::ExtendTimeout { worker, span: seconds * SECOND });
    };
    ask(&mut bench, 1);
    bench.pass(29 * SECOND);
    assert_eq!(bench.replies, [], "less than what it has changes nothing");
    ask(&mut bench, 10);
    bench.pass(10 * SECOND - MILLISECOND);
    assert_eq!(bench.replies, []);
    ask(&mut bench, 90_000);
    bench.pass(3600 * SECOND - 9 * SECOND);
    assert_eq!(bench.replies, []);
    bench.pass(SECOND);
    let limit = 3630 * SECOND;
    assert!(matches!(
        bench.last_reply(),
        Err(Refusal::Worker(WorkerFailure { cause: FailureCause::NotReady { limit: l }, .. }))
            if *l == limit
    ));
    // It was asked to end just now, and asks for more time for that.
    ask(&mut bench, 20);
    bench.pass(20 * SECOND - MILLISECOND);
    assert_eq!(bench.killed, []);
    bench.pass(2 * MILLISECOND);
    assert_eq!(bench.killed, [worker]);
}

#[test]
fn one_that_claims_to_be_ready_and_does_not_listen_is_reported_once() {
    let mut bench = Bench::live(1);
    bench.request(RELOAD);
    bench.spawn(2);
    let lacks =
        |bench: &mut Bench, lack| bench.input(Input::NotReady { worker: WorkerId(2), lack });
    lacks(&mut bench, NotReady::ReadyButNotListening);
    bench.pass(SECOND - MILLISECOND);
    let reported = |bench: &Bench| {
        bench.events.iter().filter(|event| matches!(event, Event::Unproven { .. })).count()
    };
    assert_eq!(reported(&bench), 0);
    bench.pass(MILLISECOND);
    assert_eq!(reported(&bench), 1);
    lacks(&mut bench, NotReady::NotListening);
    lacks(&mut bench, NotReady::ReadyButNotListening);
    bench.pass(30 * SECOND);
    assert_eq!(reported(&bench), 1);
    assert!(
        bench.last_reply().as_ref().unwrap_err().to_string().contains("said that it was ready")
    );
}

#[test]
fn a_new_worker_that_falls_silent_between_two_tries_of_the_swap_is_waited_for() {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_fails();
    bench.silent(3);
    bench.pass(SECOND);
    assert_eq!(
        (&bench.commit, bench.in_force()),
        (&None, vec![1, 2]),
        "no seat is given up for it"
    );
    bench.answers(3);
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 4]);
    // Where the old ones do not serve any more it is not.
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_fails();
    bench.silent(3);
    bench.dies(1, Exit::Signal(9));
    bench.dies(2, Exit::Signal(9));
    bench.pass(SECOND);
    bench.commit_all();
    assert_eq!(bench.in_force(), [0, 4]);
}

#[test]
fn one_that_answers_again_while_the_kernel_is_busy_waits_for_it_and_is_not_retired() {
    let mut bench = Bench::live(2);
    bench.silent(1);
    bench.commit_done();
    // Another plan is on its way when it answers.
    bench.request(Command::Scale { workers: 3 });
    bench.ready(3);
    assert!(bench.commit.is_some());
    bench.answers(1);
    assert_eq!(bench.state(1), Some(WorkerState::Live));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2, 3]);
}

#[test]
fn a_retired_worker_that_answered_before_answers() {
    let mut bench = Bench::live(2);
    bench.silent(1);
    bench.commit_done();
    bench.answers(1);
    bench.commit_done();
    bench.silent(1);
    bench.commit_done();
    bench.answers(1);
    let answers = |bench: &Bench| {
        bench.supervisor.workers().find(|it| it.id == WorkerId(1)).map(Worker::is_healthy)
    };
    assert_eq!(answers(&bench), Some(false), "the second time it waits for a second");
    bench.request(RELOAD);
    for worker in [3, 4] {
        bench.ready(worker);
    }
    bench.commit_done();
    assert_eq!((bench.state(1), answers(&bench)), (Some(WorkerState::Retired), Some(true)));
}
