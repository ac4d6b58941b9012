//! Many workers: "Done when" of the process manager.

use std::time::Duration;

use ipcluster::lab::Pace;
use netns_tests::{Case, Cluster, Lab, greeter, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = Case::new("many_workers_run_reload_drain_and_change_their_master", many);
    vec![case.limit(Duration::from_secs(300)).serial().on_request()]
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
