//! What a run leaves behind that ended without its say, the next one puts right.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use ipcluster::lab::{FailureKind, Pace};
use netns_tests::{Case, Cluster, Lab, Need, greeter, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("the_next_run_replaces_the_rules_of_a_dead_one", the_next_run)
            .needs(Need::Nft)
            .needs(Need::Pids),
    ]
}

fn the_next_run(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let workers = cluster.status().live().iter().map(|worker| worker.pid.unwrap()).collect();
    let old = rules(lab);
    cluster.kill_master();
    kill(workers);
    wait_until("the workers' ports to be closed", Duration::from_secs(5), || {
        worker_ports(&old).iter().all(|port| !lab.is_listened_to(*port))
    });
    assert_eq!(rules(lab), old, "the rules stay");

    // The control: as long as the rules of the dead run are there, every connection is lost.
    let load = |connections| {
        let load = Lab::load(80, 40).pace(Pace::Concurrency(8)).connections(connections);
        load.start(lab.client()).unwrap().wait()
    };
    assert_eq!(load(40).failures_by_kind(), [(FailureKind::Refused, 40)].into());

    let command: [OsString; 1] = [greeter().into()];
    cluster.start_master(&command);
    let status = cluster.wait_for_live(4);
    // A transaction removes nothing that the rules before it led to: that goes a moment later.
    wait_until("what the dead run left to be gone", Duration::from_secs(5), || {
        !rules(lab).contains("survivors_")
    });
    let new = rules(lab);
    let ports = worker_ports(&new);
    assert_eq!(ports.len(), 4, "{new}");
    assert!(ports.iter().all(|port| lab.is_listened_to(*port)), "{new}");
    assert_ne!(new, old);
    let generations = new.matches("comment \"generation ").count();
    let current = new.matches(&format!("comment \"generation {}\"", status.generation)).count();
    assert_eq!((generations, current), (8, 8), "one generation only, a rule a family:\n{new}");
    let report = load(400);
    assert_eq!((report.answered(), report.failed()), (400, 0), "{report}");
}

/// The rules, without the lines that tell whose they are.
fn rules(lab: &Lab) -> String {
    let listing = lab.witness().nft(&["--stateless", "list", "table", "inet", "ipcluster_t"], "");
    let lines = listing.lines().skip(1).filter(|line| !line.starts_with("\tflags "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The ports that the rules lead to.
fn worker_ports(rules: &str) -> BTreeSet<u16> {
    let to = |line: &str| {
        let (_, to) = line.split_once(" dnat ip")?;
        let (port, _) = to.split_once(" daddr:")?.1.split_once(' ')?;
        port.parse().ok()
    };
    rules.lines().filter_map(to).collect()
}

fn kill(pids: Vec<u32>) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    for pid in pids {
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }
}
