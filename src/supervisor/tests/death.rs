use super::*;
use crate::protocol::{Event, Exit, GiveUp};

#[test]
fn the_seat_of_a_dead_worker_is_vacant_until_its_replacement_is_ready() {
    let mut bench = Bench::live(3);
    bench.take_spawned();
    bench.pass(10 * SECOND);
    bench.dies(2, Exit::Signal(9));
    assert_eq!(bench.take_spawned(), [(4, 1, 1)], "at once: it had run steadily");
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 0, 3]);
    bench.ready(4);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 4, 3]);
}

#[test]
fn quick_deaths_in_a_row_are_replaced_ever_later_until_one_runs_steadily() {
    let mut bench = Bench::live(2);
    bench.take_spawned();
    let mut worker = 1;
    for (lived, delay) in [(9, 1), (9, 2), (0, 4), (10, 0), (9, 1)] {
        bench.pass(lived * SECOND);
        bench.dies(worker, Exit::Code(1));
        bench.commit_all();
        if delay > 0 {
            bench.pass(delay * SECOND - MILLISECOND);
            assert_eq!(bench.take_spawned(), [], "after {lived} s");
            bench.pass(MILLISECOND);
        }
        worker = worker.max(2) + 1;
        assert_eq!(bench.take_spawned(), [(worker, 0, 1)], "after {lived} s");
        bench.ready(worker);
        bench.commit_all();
    }
}

#[test]
fn when_all_are_dead_all_seats_are_vacant_until_one_is_ready() {
    let mut bench = Bench::live(2);
    bench.dies(1, Exit::Code(1));
    bench.dies(2, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [0, 0]);
    bench.pass(SECOND);
    bench.ready(4);
    bench.commit_all();
    assert_eq!(bench.in_force(), [0, 4]);
}

#[test]
fn a_death_while_a_commit_names_the_dead_is_the_next_commit() {
    let mut bench = Bench::live(3);
    bench.dies(1, Exit::Code(1));
    assert!(bench.commit.is_some());
    bench.dies(2, Exit::Code(1));
    bench.commit_done();
    let next = bench.commit_done();
    assert_eq!(bench.holders(&next), [0, 0, 3]);
}

#[test]
fn a_failed_commit_is_repeated_with_growing_delays() {
    let mut bench = Bench::live(2);
    bench.dies(1, Exit::Code(1));
    for delay in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
        bench.commit_fails();
        bench.pass(delay * MILLISECOND - MILLISECOND);
        assert_eq!(bench.commit, None, "before {delay} ms");
        bench.pass(MILLISECOND);
        assert!(bench.commit.is_some(), "after {delay} ms");
    }
    bench.commit_done();
    bench.dies(2, Exit::Code(1));
    bench.commit_fails();
    bench.pass(100 * MILLISECOND);
    assert!(bench.commit.is_some(), "the delays begin anew after a success");
}

#[test]
fn a_live_worker_that_ends_with_status_0_is_replaced_at_once_however_often() {
    let give_up = Some(GiveUp { failures: 3, window: 60 * SECOND });
    let mut bench = Bench::live_with(Settings { give_up, ..settings(1) }, 1);
    bench.take_spawned();
    for worker in 1..=20 {
        bench.pass(2 * SECOND);
        bench.dies(worker, Exit::Code(0));
        assert_eq!(bench.take_spawned(), [(worker + 1, 0, 1)], "at once");
        bench.ready(worker + 1);
        bench.commit_all();
    }
    assert!(!bench.events.iter().any(|event| matches!(event, Event::GivenUp { .. })));
}

#[test]
fn a_program_that_ends_with_status_0_as_soon_as_it_is_live_is_started_once_a_second() {
    let mut bench = Bench::live(1);
    bench.take_spawned();
    for worker in 1..=5 {
        bench.dies(worker, Exit::Code(0));
        bench.commit_all();
        bench.pass(SECOND - MILLISECOND);
        assert_eq!(bench.take_spawned(), []);
        bench.pass(MILLISECOND);
        assert_eq!(bench.take_spawned(), [(worker + 1, 0, 1)]);
        bench.ready(worker + 1);
        bench.commit_all();
    }
}

#[test]
fn workers_of_different_seats_that_have_served_are_each_replaced_at_once() {
    let mut bench = Bench::live(4);
    bench.take_spawned();
    bench.pass(10 * SECOND);
    for (worker, next) in [(1, 5), (2, 6), (3, 7)] {
        bench.dies(worker, Exit::Signal(9));
        let seat = u16::try_from(worker - 1).expect("small");
        assert_eq!(bench.take_spawned(), [(next, seat, 1)], "at once");
        bench.ready(next);
        bench.commit_all();
        bench.pass(7 * SECOND);
    }
}

#[test]
fn how_a_worker_ends_that_was_asked_to_is_no_failure() {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    (3..=4).for_each(|worker| bench.ready(worker));
    bench.commit_all();
    // Worker 1 has drained and is asked to end, worker 2 has connections and crashes.
    bench.counts(1, &[IDLE, IDLE]);
    bench.counts(2, &[SERVING]);
    assert_eq!(bench.take_terminated(), [1]);
    bench.dies(1, Exit::Code(30));
    bench.dies(2, Exit::Signal(11));
    let told = bench.events.iter().filter(|event| matches!(event, Event::Ended { .. }));
    let told: Vec<String> = told.map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "seat 0: worker of generation 1 ended as asked (exited with status 30)",
            "seat 1: worker of generation 1 was ended by SIGSEGV before it was asked to end: \
             connections that it had are cut",
        ]
    );
}
