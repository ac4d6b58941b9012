//! Several clusters on one host: one beside the other, but none in the way of another.

use std::process::Command;
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, Need, Process, greeter, ipcluster, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        case("a_cluster_that_overlaps_another_is_refused", refused),
        case("clusters_on_other_addresses_and_ports_live_side_by_side", side_by_side),
    ]
}

/// Starts a second cluster, `u`.
fn start(lab: &Lab, listener: &str) -> Process {
    let mut command = Command::new(ipcluster());
    command.args(["run", "--name", "u", "--listen", listener, "--workers", "1", "--"]);
    command.arg(greeter());
    lab.start("u", command)
}

fn refused(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let list = || lab.witness().nft(&["-s", "list", "ruleset"], "");
    // What led to the first worker while it was alone goes a moment later.
    wait_until("the rules to be tidied", Duration::from_secs(10), || !list().contains("survivors"));
    let before = list();
    for (listener, theirs) in [
        ("10.9.0.1:80", "10.9.0.1:80/tcp"),
        ("0.0.0.0:80", "10.9.0.1:80/tcp"),
        ("[::]:80", "[fd09::1]:80/tcp"),
    ] {
        let mut second = start(lab, listener);
        assert_eq!(second.wait(Duration::from_secs(5)).code(), Some(1), "{}", second.output());
        let said = second.output();
        assert!(said.contains(&format!("{listener}/tcp overlaps {theirs} of cluster t")), "{said}");
        assert!(said.contains("`ipcluster stop t`"), "{said}");
        assert_eq!(list(), before);
    }
    // Also where its master is gone: its rules and workers serve on.
    cluster.kill_master();
    let mut second = start(lab, "0.0.0.0:80");
    assert_eq!(second.wait(Duration::from_secs(5)).code(), Some(1), "{}", second.output());
    assert!(second.output().contains("`ipcluster flush t`"), "{}", second.output());
}

fn side_by_side(lab: &Lab) {
    let mut cluster = Cluster::on(lab, ["10.9.0.1:80".parse().unwrap()], 2).start(2);
    let mut second = start(lab, "[::]:80");
    wait_until("the second cluster", Duration::from_secs(10), || {
        assert!(second.is_running(), "{}", second.output());
        second.output().contains("in force, 1 of 1 seats occupied")
    });
    assert_eq!(cluster.wait_until_settled(2).repairs, 0);
    let report = Lab::load(80, 50).connections(500).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.workers().len(), 3, "{report}");
}
