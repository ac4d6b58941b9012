//! Many workers: "Done when" of the process manager.

use std::time::{Duration, Instant};

use ipcluster::lab::Pace;
use netns_tests::{Case, Cluster, Lab, greeter, wait_until};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

pub(crate) fn cases() -> Vec<Case> {
    let many = Case::new("many_workers_run_reload_drain_and_change_their_master", many);
    let ends = Case::new("deaths_come_first_while_many_retired_workers_end", deaths_come_first);
    let on_request = |case: Case| case.limit(Duration::from_secs(300)).serial().on_request();
    vec![on_request(many), on_request(ends)]
}

/// All that a reload has retired ends at once, without a connection. Meanwhile workers that serve die: their
/// clients are steered away as soon as ever, the status is told, and nobody is killed who ends by himself.
fn deaths_come_first(lab: &Lab) {
    let cluster = Cluster::new(lab, WORKERS).argument("--log-level").argument("debug");
    let mut cluster = cluster.start(WORKERS.into());
    cluster.reload();
    for _ in 0..8 {
        let live = cluster.status();
        let victim = live.live().last().and_then(|worker| worker.pid).expect("somebody serves");
        kill(victim);
        let began = Instant::now();
        wait_until("steered away", Duration::from_secs(20), || {
            cluster.status().pids().values().all(|pid| *pid != victim)
        });
        println!("steered away and told in {:?}", began.elapsed());
    }
    cluster.wait_until_settled(WORKERS.into());
    let said = cluster.master().output();
    let retired = said.matches("retired").count();
    assert!(retired >= usize::from(WORKERS), "{retired}");
    assert!(!said.contains("did not exit in time"), "{said}");
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    signal::kill(pid, Signal::SIGKILL).expect("it runs");
}

const WORKERS: u16 = 256;

fn many(lab: &Lab) {
    let cluster = Cluster::new(lab, WORKERS).argument("--spawn-stagger").argument("0");
    let mut cluster = cluster.start(WORKERS.into());
    let load = Lab::load(80, 4000).pace(Pace::Rate(500.0)).start(lab.client()).unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", Duration::from_secs(60), || load.counters().answered >= goal);
    };
    answers(2000);
    for generation in 2..=4 {
        cluster.reload();
        let status = cluster.wait_until_settled(WORKERS.into());
        assert_eq!(status.generation, generation);
        assert_eq!(load.counters().failed, 0, "{}", load.report());
    }
    let before = cluster.status();
    let mut old = cluster.replace_master(&[greeter().into()]);
    assert!(old.wait(Duration::from_secs(60)).success(), "{}", old.output());
    assert_eq!(cluster.wait_until_settled(WORKERS.into()).pids(), before.pids());
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    assert_eq!(cluster.wait_until_settled(WORKERS.into()).pids(), before.pids());
    answers(1000);
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.changed_seat().is_empty(), "{:?}", report.changed_seat());
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(Duration::from_secs(60)).success());
}
