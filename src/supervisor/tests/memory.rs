//! The memory marks of the cluster, and who ends because of them.

use super::*;
use crate::protocol::{
    Event, Exit, KillOrder, Marks, Memory, MemoryOf, ReplaceReason, Unhealthy, WorkerId,
    WorkerState,
};

/// Low 1000, high 2000; the master has 100.
fn bench(order: KillOrder, stagger: Duration) -> Bench {
    let marks = Some(Marks { low: 1000, high: 2000 });
    let settings = Settings {
        memory: Memory { marks, order },
        stagger,
        end_stagger: stagger,
        die: 30 * SECOND,
        ..settings(3)
    };
    let mut bench = Bench::new(settings, vacant(3), Start::Fresh);
    bench.input(Input::Start);
    for worker in 1..=3 {
        bench.pass(stagger);
        bench.ready(worker);
        bench.commit_all();
    }
    bench
}

/// Workers 1 to 3 are retired, 4 to 6 live.
fn reloaded(order: KillOrder) -> Bench {
    let mut bench = bench(order, Duration::ZERO);
    bench.request(RELOAD);
    for worker in 4..=6 {
        bench.ready(worker);
    }
    bench.commit_done();
    bench.events.clear();
    bench
}

fn footprint(workers: &[(u64, u64)]) -> MemoryUsage {
    let workers = workers.iter().map(|(id, bytes)| (WorkerId(*id), *bytes)).collect();
    MemoryUsage { master: 100, workers }
}

/// All have as much resident memory as proportional.
fn measured(bench: &mut Bench, workers: &[(u64, u64)]) {
    let asked = bench.measures.len();
    bench.input(Input::ResidentMeasured(footprint(workers)));
    if bench.measures.len() > asked {
        bench.input(Input::ProportionalMeasured(footprint(workers)));
    }
}

/// Retired workers that have so many connections each.
fn serve(bench: &mut Bench, connections: &[(u64, u32)]) {
    for &(worker, established) in connections {
        bench.counts(worker, &[Sockets { established, ..IDLE }; 2]);
    }
}

fn killed(bench: &Bench) -> Vec<u64> {
    bench.killed.iter().map(|id| id.0).collect()
}

#[test]
fn above_the_low_mark_retired_workers_end_until_the_rest_is_below() {
    let mut bench = reloaded(KillOrder::Connections);
    serve(&mut bench, &[(1, 9), (2, 2), (3, 5)]);
    measured(&mut bench, &[(1, 300), (2, 200), (3, 200), (4, 200), (5, 100), (6, 100)]);
    assert_eq!(bench.take_terminated(), [2], "1200, less 200, is not above 1000");
    assert_eq!(killed(&bench), NOBODY);
}

#[test]
fn the_order_of_connections_is_that_then_memory_then_age() {
    let mut bench = reloaded(KillOrder::Connections);
    serve(&mut bench, &[(1, 1), (2, 1), (3, 1)]);
    measured(&mut bench, &[(1, 200), (2, 300), (3, 200), (4, 950)]);
    assert_eq!(bench.take_terminated(), [2, 1, 3]);
}

#[test]
fn the_order_of_memory_is_that_then_connections() {
    let mut bench = reloaded(KillOrder::Memory);
    serve(&mut bench, &[(1, 1), (2, 3), (3, 2)]);
    measured(&mut bench, &[(1, 200), (2, 300), (3, 300), (4, 950)]);
    assert_eq!(bench.take_terminated(), [3, 2, 1]);
}

#[test]
fn the_order_of_age_is_the_longest_running_first() {
    let mut bench = bench(KillOrder::Age, MILLISECOND);
    bench.request(RELOAD);
    bench.pass(10 * MILLISECOND);
    for worker in [6, 5, 4] {
        bench.ready(worker);
    }
    bench.commit_done();
    serve(&mut bench, &[(3, 1), (2, 2), (1, 3)]);
    measured(&mut bench, &[(1, 200), (2, 300), (3, 400), (4, 950)]);
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), [1, 2, 3]);
}

#[test]
fn those_that_do_not_answer_go_first_and_those_whose_connections_nobody_knows_last() {
    let mut bench = reloaded(KillOrder::Connections);
    bench.supervisor.settings.settle = Duration::ZERO;
    serve(&mut bench, &[(1, 1), (2, 9)]);
    bench.input(Input::Unhealthy { worker: WorkerId(2), cause: Unhealthy::Stopped });
    measured(&mut bench, &[(1, 200), (2, 200), (3, 200), (4, 950)]);
    assert_eq!(bench.take_terminated(), [2, 1, 3]);
}

#[test]
fn ends_stay_apart_by_the_stagger() {
    let mut bench = reloaded(KillOrder::Connections);
    serve(&mut bench, &[(1, 1), (2, 2), (3, 3)]);
    bench.supervisor.settings.end_stagger = 100 * MILLISECOND;
    measured(&mut bench, &[(1, 200), (2, 200), (3, 200), (4, 950)]);
    assert_eq!(bench.take_terminated(), [1]);
    bench.pass(99 * MILLISECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [2]);
    bench.dies(1, Exit::Code(0));
    measured(&mut bench, &[(2, 200), (3, 200), (4, 500)]);
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), NOBODY, "without those on their way out there is enough");
}

#[test]
fn above_the_high_mark_they_are_killed_first_those_that_were_asked_already() {
    let mut bench = reloaded(KillOrder::Connections);
    serve(&mut bench, &[(1, 1), (2, 2), (3, 3)]);
    measured(&mut bench, &[(1, 100), (2, 100), (3, 500), (4, 300)]);
    assert_eq!(bench.take_terminated(), [1]);
    measured(&mut bench, &[(1, 200), (2, 400), (3, 800), (4, 1000)]);
    assert_eq!(killed(&bench), [1, 2], "2500, less 200, less 400");
    assert_eq!(bench.take_terminated(), [3], "and the rest is above the low mark");
    assert_eq!(bench.state(4), Some(WorkerState::Live));
}

#[test]
fn above_the_high_mark_live_workers_are_left_alone_and_it_is_told_once_a_crossing() {
    let mut bench = bench(KillOrder::Connections, Duration::ZERO);
    let short = |bench: &Bench| {
        let is_short = |event: &&Event| matches!(event, Event::MemoryShort { .. });
        bench.events.iter().filter(is_short).count()
    };
    for used in [1950, 1990, 1910, 1950] {
        measured(&mut bench, &[(1, used)]);
    }
    assert_eq!(short(&bench), 1, "it moved about the mark");
    measured(&mut bench, &[(1, 850)]);
    measured(&mut bench, &[(1, 1950)]);
    assert_eq!(short(&bench), 2, "it was below the low mark in between");
    assert_eq!((bench.take_terminated(), killed(&bench)), (vec![], vec![]));
    assert_eq!(bench.in_force(), [1, 2, 3]);
}

#[test]
fn crossings_are_told_with_who_goes_and_what_that_frees() {
    let mut bench = reloaded(KillOrder::Memory);
    serve(&mut bench, &[(1, 1), (2, 1), (3, 1)]);
    let seat_1 =
        MemoryOf { worker: WorkerId(2), seat: Seat(1), generation: Generation(1), bytes: 300 };
    measured(&mut bench, &[(1, 50), (2, 300), (3, 200), (4, 500)]);
    let low = Event::LowWatermark { used: 1150, low: 1000, ending: vec![seat_1] };
    assert!(bench.events.contains(&low), "{:?}", bench.events);
    measured(&mut bench, &[(1, 50), (2, 300), (3, 200), (4, 1700)]);
    let high = Event::HighWatermark {
        used: 2350,
        high: 2000,
        ending: vec![
            seat_1,
            MemoryOf { worker: WorkerId(3), seat: Seat(2), generation: Generation(1), bytes: 200 },
        ],
    };
    assert!(bench.events.contains(&high), "{:?}", bench.events);
    measured(&mut bench, &[(4, 860)]);
    assert!(!bench.events.iter().any(|it| matches!(it, Event::MemoryRecovered { .. })));
    measured(&mut bench, &[(4, 850)]);
    assert_eq!(bench.events.last(), Some(&Event::MemoryRecovered { used: 950, low: 1000 }));
}

#[test]
fn nothing_is_decided_by_resident_memory() {
    let mut bench = reloaded(KillOrder::Connections);
    serve(&mut bench, &[(1, 1), (2, 2), (3, 3)]);
    let resident = [(1, 700), (2, 700), (3, 700), (4, 700)];
    bench.input(Input::ResidentMeasured(footprint(&resident)));
    assert_eq!(bench.measures.len(), 1);
    assert_eq!(bench.measures[0].len(), 6, "all that run");
    bench.input(Input::ProportionalMeasured(footprint(&[(1, 200), (2, 200), (3, 200), (4, 200)])));
    assert_eq!((bench.take_terminated(), killed(&bench)), (vec![], vec![]), "900 in truth");
}

#[test]
fn proportional_memory_is_measured_again_when_it_may_matter() {
    let mut bench = reloaded(KillOrder::Connections);
    bench.input(Input::ResidentMeasured(footprint(&[(1, 900)])));
    assert_eq!(bench.measures.len(), 0, "1000 is not above the mark");
    bench.input(Input::ResidentMeasured(footprint(&[(1, 1400)])));
    bench.input(Input::ResidentMeasured(footprint(&[(1, 1400)])));
    assert_eq!(bench.measures.len(), 1, "once at a time");
    bench.input(Input::ProportionalMeasured(footprint(&[(1, 800)])));
    bench.input(Input::ResidentMeasured(footprint(&[(1, 1499)])));
    assert_eq!(bench.measures.len(), 1, "99 more, and 100 were free");
    bench.input(Input::ResidentMeasured(footprint(&[(1, 1500)])));
    assert_eq!(bench.measures.len(), 2);
    bench.input(Input::ProportionalMeasured(footprint(&[(1, 800)])));
    bench.pass(9 * SECOND);
    bench.input(Input::ResidentMeasured(footprint(&[(1, 1500)])));
    assert_eq!(bench.measures.len(), 2);
    bench.pass(SECOND);
    bench.input(Input::ResidentMeasured(footprint(&[(1, 1500)])));
    assert_eq!(bench.measures.len(), 3, "what was shared may not be any more");
    bench.pass(10 * SECOND);
    bench.input(Input::ResidentMeasured(footprint(&[(1, 1500)])));
    assert_eq!(bench.measures.len(), 4, "the answer was lost");
}

#[test]
fn who_could_not_be_measured_counts_with_the_resident_memory() {
    let mut bench = reloaded(KillOrder::Connections);
    serve(&mut bench, &[(1, 1), (2, 2), (3, 3)]);
    bench.input(Input::ResidentMeasured(footprint(&[(1, 500), (4, 500)])));
    bench.input(Input::ProportionalMeasured(footprint(&[(4, 450)])));
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn nobody_is_asked_to_end_for_whom_clients_wait() {
    let mut bench = reloaded(KillOrder::Connections);
    let waiting = Sockets { queued: 1, ..IDLE };
    bench.counts(1, &[waiting, waiting]);
    serve(&mut bench, &[(2, 2)]);
    bench.counts(3, &[waiting]);
    measured(&mut bench, &[(1, 500), (2, 100), (4, 450)]);
    assert_eq!(bench.take_terminated(), [2]);
    bench.pass(5 * SECOND - MILLISECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [1], "a worker that hangs never empties its queue");
}

#[test]
fn without_marks_memory_ends_nobody() {
    let mut bench = reloaded(KillOrder::Connections);
    bench.supervisor.settings.memory.marks = None;
    measured(&mut bench, &[(1, u64::MAX), (2, u64::MAX)]);
    assert_eq!((bench.measures.len(), bench.take_terminated()), (0, vec![]));
}

#[test]
fn the_lines_for_the_log_name_who_goes_and_what_that_frees() {
    let of = |seat: u16, bytes: u64| {
        let worker = WorkerId(u64::from(seat));
        MemoryOf { worker, seat: Seat(seat), generation: Generation(2), bytes: bytes << 20 }
    };
    let (used, low) = (450 << 20, 400 << 20);
    let ending = vec![of(1, 30), of(2, 28)];
    let line = "memory: 450.0 MiB, above the low mark of 400.0 MiB: 2 to be asked to end, which frees \
                58.0 MiB: seat 1 generation 2 (30.0 MiB) seat 2 generation 2 (28.0 MiB)";
    assert_eq!(Event::LowWatermark { used, low, ending }.to_string(), line);
    let none = Event::HighWatermark { used, high: low, ending: vec![] }.to_string();
    assert!(none.ends_with("no retired worker is left to be killed"), "{none}");
    let all = Event::LowWatermark { used, low, ending: vec![of(1, 1); 1000] }.to_string();
    assert!(all.len() < 500 && all.ends_with("and more"), "{all}");
    let cause = ReplaceReason::Memory { rss: (448 << 20) + (1 << 19) };
    assert_eq!(cause.to_string(), "its memory usage is 448.5 MiB");
}

#[test]
fn one_that_was_told_to_end_over_its_link_is_killed_before_those_that_were_not() {
    let mut bench = reloaded(KillOrder::Connections);
    bench.input(Input::LinkOpened { worker: WorkerId(1), knows_retired: true });
    serve(&mut bench, &[(2, 1), (3, 1)]);
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.told_to_die, [1]);
    measured(&mut bench, &[(1, 900), (2, 600), (3, 600), (4, 100), (5, 100), (6, 100)]);
    assert_eq!(killed(&bench), [1], "what is left is below the mark");
}
