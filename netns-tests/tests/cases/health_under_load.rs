//! How soon clients are steered away from a worker that does not answer (F14), and back.

use std::time::{Duration, Instant};

use ipcluster::lab::{Failure, Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("clients_of_a_stopped_worker_are_steered_away_and_come_back", stopped)
            .serial()
            .with_both_engines_on_request(),
        Case::new("control_where_nobody_looks_a_stopped_worker_keeps_its_clients", control)
            .serial()
            .with_both_engines_on_request(),
        Case::new("watching_many_workers_costs_little", cost).serial().on_request(),
    ]
}

const PING: Duration = Duration::from_secs(2);

/// What F14 grants beyond the limit.
const GRACE: Duration = Duration::from_secs(1);

fn start(lab: &Lab) -> RunningLoad {
    let load = Lab::load(80, 400).pace(Pace::Rate(400.0)).time_out(Duration::from_millis(500));
    load.start(lab.client()).unwrap()
}

fn answers(load: &RunningLoad, more: u64) {
    let goal = load.counters().answered + more;
    wait_until("answers", Duration::from_secs(60), || load.counters().answered >= goal);
}

fn began(failure: &Failure) -> Instant {
    failure.at - failure.after
}

/// F14.
fn stopped(lab: &Lab) {
    // That it is stopped is seen long before. After as much again it would be replaced.
    let mut cluster = Cluster::new(lab, 4).argument("--ping-timeout").argument("20s").start(4);
    let load = start(lab);
    answers(&load, 400);
    let before = cluster.status().pids();
    let at = Instant::now();
    signal(before[&2], Signal::SIGSTOP);
    cluster.wait_for("its silence", |status| status.health() == ["ok", "ok", "silent", "ok"]);
    // All that had begun before is over.
    answers(&load, 800);
    let failed = load.counters().failed;
    answers(&load, 800);
    assert_eq!(load.counters().failed, failed, "{}", load.report());

    let report = load.report();
    let last = report.failures().iter().map(began).max().expect("some had to wait for it");
    let steered = last.saturating_duration_since(at);
    println!("{failed} failed; steered away within {steered:.1?}");
    assert!(steered <= PING + GRACE, "clients still reached a stopped worker after {steered:?}");
    assert!(report.changed_seat().len() > 50, "its clients are served by others: {report}");

    let back = Instant::now();
    signal(before[&2], Signal::SIGCONT);
    cluster.wait_for("its answer", |status| status.health() == ["ok"; 4]);
    println!("back within {:.1?}", back.elapsed());
    assert!(back.elapsed() <= PING + GRACE);
    answers(&load, 100);
    let settled = Instant::now();
    answers(&load, 800);
    let report = load.stop();
    let after = report.between(settled, report.began() + report.elapsed());
    assert!(after.workers().keys().any(|by| by.seat == 2), "it serves again: {after}");
    assert!(after.changed_seat().is_empty(), "everybody is where they were: {after}");
    assert_eq!(report.failed(), failed, "nobody was lost on the way back: {report}");
    assert_eq!(cluster.status().pids(), before, "nobody was replaced");
}

fn control(lab: &Lab) {
    let cluster = Cluster::new(lab, 4).argument("--ping-timeout").argument("0").start(4);
    let load = start(lab);
    answers(&load, 400);
    signal(cluster.status().pids()[&2], Signal::SIGSTOP);
    let at = Instant::now();
    while at.elapsed() < PING + GRACE {
        answers(&load, 100);
    }
    let failed = load.counters().failed;
    answers(&load, 400);
    assert!(load.counters().failed > failed + 50, "nobody is steered away: {}", load.report());
    assert_eq!(cluster.status().health(), ["ok"; 4]);
}

/// The processor time of the master with 256 workers that do nothing, with and without the watch.
fn cost(lab: &Lab) {
    const SPAN: Duration = Duration::from_secs(20);
    let share = |ping: &str, name: &str| {
        let cluster = Cluster::new(lab, 256).argument("--ping-timeout").argument(ping);
        let mut cluster = cluster.argument("--spawn-stagger").argument("0").start(256);
        let pid = cluster.master().pid();
        let before = processor_time(pid);
        std::thread::sleep(SPAN);
        let share = (processor_time(pid) - before).as_secs_f64() / SPAN.as_secs_f64() * 100.0;
        println!("{name}: {share:.2} % of a processor");
        cluster.succeed("stop", &["--now"]);
        share
    };
    let without = share("0", "without the watch");
    let with = share("10s", "with it");
    assert!(with - without < 1.0, "watching 256 workers takes {:.2} %", with - without);
}

/// What all threads of a process have used, in user and kernel mode.
fn processor_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(of_task).sum())
}
