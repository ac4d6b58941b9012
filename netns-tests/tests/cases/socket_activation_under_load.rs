//! Twenty workers killed at 10,000 connections a second, with listening sockets that the master holds
//! (F13b).

use std::time::Duration;

use ipcluster::lab::{FailureKind, Pace, Report, RunningLoad};
use netns_tests::{Case, Cluster, Lab, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let case =
        |name, body| Case::new(name, body).limit(Duration::from_secs(300)).serial().on_request();
    vec![
        case("twenty_kills_at_ten_thousand_a_second_refuse_nobody", held).with_both_engines(),
        case("control_without_held_sockets_they_refuse_some", control),
    ]
}

const SEATS: u16 = 4;
const KILLS: u16 = 20;
const RATE: f64 = 10_000.0;

fn held(lab: &Lab) {
    let report = kill_twenty(lab, Cluster::new(lab, SEATS).argument("--socket-activation"));
    // These workers answer each connection before they accept the next one: of what was accepted,
    // one at a time can have no answer.
    assert!(report.failed() <= KILLS.into(), "{report}");
    let kinds = report.failures_by_kind();
    let has_ended =
        |kind: &FailureKind| matches!(kind, FailureKind::Reset | FailureKind::Truncated);
    assert!(kinds.keys().all(has_ended), "only accepted connections end: {kinds:?}");
    assert!(report.rate() >= 0.95 * RATE, "no more than {:.0}/s here", report.rate());
}

fn control(lab: &Lab) {
    let report = kill_twenty(lab, Cluster::new(lab, SEATS));
    let refused = report.failures_by_kind().get(&FailureKind::Refused).copied().unwrap_or(0);
    assert!(
        refused > 0 && report.failed() > KILLS.into(),
        "the load finds what it looks for: {report}"
    );
}

fn kill_twenty(lab: &Lab, cluster: Cluster<'_>) -> Report {
    // When a seat is given up is another test's.
    let cluster = cluster.argument("--spawn-give-up").argument("0").speaking_first();
    let cluster = cluster.argument("--spawn-backoff").argument("10ms..10ms");
    let mut cluster = cluster.start(SEATS.into());
    let load = Lab::lean_load(80, 4000).pace(Pace::Rate(RATE)).start(lab.client()).unwrap();
    wait_for_answers(&load, 5_000);
    for seat in (0..SEATS).cycle().take(KILLS.into()) {
        let pid = cluster.status().pids()[&seat];
        signal(pid, Signal::SIGKILL);
        wait_for_answers(&load, 500);
        cluster.wait_for("a successor", |it| it.pids().get(&seat).is_some_and(|now| *now != pid));
        wait_for_answers(&load, 500);
    }
    wait_for_answers(&load, 5_000);
    let report = load.stop();
    println!("{report}");
    report
}

fn wait_for_answers(load: &RunningLoad, more: u64) {
    let goal = load.counters().answered + more;
    wait_until("answers", Duration::from_secs(60), || load.counters().answered >= goal);
}
