//! Workers that are replaced after so many connections.

use std::collections::BTreeMap;

use super::*;
use crate::protocol::{ReplaceReason, ReplaceReasonKind, Retire, Rollout};

fn limited(workers: u16, connections: u64) -> Bench {
    let retire = Retire { connections: Some(connections), ..Retire::default() };
    let mut bench = Bench::live_with(Settings { retire, ..settings(workers) }, workers);
    bench.take_spawned();
    bench
}

/// Answers the outstanding look: the counters of the seats, from seat 0 on.
fn counted(bench: &mut Bench, totals: &[u64]) {
    assert!(std::mem::take(&mut bench.is_counting), "nobody has asked");
    let totals: BTreeMap<Seat, u64> = (0..).map(Seat).zip(totals.iter().copied()).collect();
    bench.input(Input::ConnectionsCounted(Some(totals)));
}

/// Time passes until the next look; returns how much.
fn until_asked(bench: &mut Bench) -> Duration {
    let began = bench.now;
    while !bench.is_counting {
        bench.now = bench.supervisor.deadline().expect("a look");
        bench.input(Input::Tick);
    }
    bench.now.since(began)
}

fn reason(bench: &Bench, worker: u64) -> Option<ReplaceReason> {
    bench.supervisor.workers().find(|it| it.id == WorkerId(worker)).and_then(|it| it.leaving)
}

#[test]
fn a_worker_is_replaced_after_its_connections_successor_first() {
    let mut bench = limited(2, 1000);
    // What the seats had before their workers does not count.
    counted(&mut bench, &[70_000, 500]);
    until_asked(&mut bench);
    counted(&mut bench, &[70_999, 600]);
    assert_eq!(bench.take_spawned(), []);
    until_asked(&mut bench);
    counted(&mut bench, &[71_000, 700]);
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
    assert_eq!(reason(&bench, 1), Some(ReplaceReason::Connections { connections: 1000 }));
    assert_eq!(reason(&bench, 2), None);
    assert_eq!(bench.in_force(), [1, 2], "until the successor is ready");
    bench.ready(3);
    bench.commit_done();
    assert_eq!((bench.in_force(), bench.state(1)), (vec![3, 2], Some(WorkerState::Retired)));
    // The successor begins at 0.
    counted(&mut bench, &[71_100, 800]);
    until_asked(&mut bench);
    counted(&mut bench, &[71_200, 900]);
    assert_eq!((reason(&bench, 3), reason(&bench, 2)), (None, None));
}

#[test]
fn looks_are_the_more_frequent_the_nearer_the_limit_and_none_without_one() {
    let mut bench = limited(1, 10_000);
    assert!(bench.is_counting, "a look at the beginning");
    counted(&mut bench, &[0]);
    // 1,000 connections a second.
    let began = bench.now;
    let mut waits = Vec::new();
    while reason(&bench, 1).is_none() {
        waits.push(until_asked(&mut bench).as_millis());
        let total = u64::try_from(bench.now.since(began).as_millis()).expect("short");
        counted(&mut bench, &[total]);
        assert!(total <= 10_100, "seen within 100 ms");
    }
    // It doubles, then half of the way is left out each time.
    assert_eq!(waits[..7], [100, 200, 400, 800, 1600, 3200, 1850], "{waits:?}");
    assert!(waits.len() <= 16 && waits.iter().all(|wait| *wait >= 100), "{waits:?}");
    let mut bench = limited(1, 10_000);
    counted(&mut bench, &[0]);
    let quiet: Vec<u128> = (0..8)
        .map(|_| {
            let wait = until_asked(&mut bench).as_millis();
            counted(&mut bench, &[0]);
            wait
        })
        .collect();
    assert_eq!(quiet, [100, 200, 400, 800, 1600, 3200, 5000, 5000], "nobody comes");
    let bench = Bench::live(1);
    assert_eq!((bench.is_counting, bench.supervisor.deadline()), (false, None));
}

#[test]
fn a_counter_that_was_made_anew_or_cannot_be_read_loses_no_worker() {
    let mut bench = limited(1, 100);
    counted(&mut bench, &[1_000]);
    until_asked(&mut bench);
    counted(&mut bench, &[1_060]);
    until_asked(&mut bench);
    counted(&mut bench, &[30]);
    assert_eq!(reason(&bench, 1), None, "90 of 100");
    until_asked(&mut bench);
    bench.is_counting = false;
    bench.input(Input::ConnectionsCounted(None));
    assert_eq!(reason(&bench, 1), None);
    until_asked(&mut bench);
    counted(&mut bench, &[40]);
    assert_eq!(reason(&bench, 1), Some(ReplaceReason::Connections { connections: 100 }));
}

#[test]
fn the_rate_limit_holds_and_jitter_spreads() {
    let (rate, window) = (1, 100 * SECOND);
    let retire = Retire { connections: Some(1000), jitter: 50, rate, window, ..Retire::default() };
    let mut bench = Bench::live_with(Settings { retire, seed: 3, ..settings(4) }, 4);
    bench.take_spawned();
    counted(&mut bench, &[0; 4]);
    let mut total = 0;
    let mut first: BTreeMap<u64, u64> = BTreeMap::new();
    while first.is_empty() {
        until_asked(&mut bench);
        total += 10;
        counted(&mut bench, &[total; 4]);
        first.extend((1..=4).filter(|it| reason(&bench, *it).is_some()).map(|it| (it, total)));
    }
    assert_eq!(first.len(), 1, "they do not all reach their limits at once: {first:?}");
    assert!(first.values().all(|total| (500..=1000).contains(total)), "{first:?}");
    // All are above their limit, and one is replaced in a window.
    until_asked(&mut bench);
    counted(&mut bench, &[2000; 4]);
    assert_eq!(bench.take_spawned().len(), 1);
    let held_back = Event::RetirementsHeldBack { workers: 3, rate, window };
    assert!(bench.events.contains(&held_back), "{:?}", bench.events);
}

#[test]
fn during_a_reload_nobody_is_replaced_for_its_connections() {
    let mut bench = limited(1, 100);
    counted(&mut bench, &[0]);
    bench.request(RELOAD);
    bench.take_spawned();
    until_asked(&mut bench);
    counted(&mut bench, &[500]);
    assert_eq!((reason(&bench, 1), bench.take_spawned()), (None, vec![]));
    bench.request(RELOAD);
    assert_eq!(bench.last_reply(), &Err(Refusal::Busy(Rollout::Reload)));
}

#[test]
fn the_age_has_jitter_too() {
    let retire = Retire {
        max_age: Some(1000 * SECOND),
        jitter: 10,
        window: Duration::ZERO,
        ..Retire::default()
    };
    let mut bench = Bench::live_with(Settings { retire, seed: 11, ..settings(8) }, 8);
    bench.take_spawned();
    let mut ages = Vec::new();
    while ages.len() < 8 {
        bench.now = bench.supervisor.deadline().expect("somebody grows old");
        bench.input(Input::Tick);
        for (worker, ..) in bench.take_spawned() {
            ages.push(bench.now.0.as_secs());
            bench.ready(worker);
            bench.commit_all();
        }
    }
    assert!(ages.iter().all(|age| (900..=1000).contains(age)), "{ages:?}");
    ages.dedup();
    assert!(ages.len() >= 6, "{ages:?}");
    assert_eq!(ReplaceReason::Age.kind(), ReplaceReasonKind::Age);
}
