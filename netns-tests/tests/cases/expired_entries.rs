//! Connections that are silent for longer than connection tracking remembers them, and those whose entries
//! somebody has deleted.

use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Conntrack);
    vec![
        case("idle_connections_outlive_the_time_of_their_entries", kept),
        case("control_without_a_master_their_entries_expire", control),
        case("a_retired_worker_whose_entries_are_deleted_ends", deleted),
        Case::new("where_nothing_is_translated_nothing_is_lost_by_a_deletion", untranslated)
            .needs(Need::Conntrack)
            .with(ipcluster::plan::Engine::Tproxy),
    ]
}

const TIMEOUT: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";

/// What some hosts set to minutes.
fn set_timeout(lab: &Lab) {
    lab.server().set_sysctl(TIMEOUT, "6").unwrap();
}

fn hold(lab: &Lab) -> Vec<Held> {
    let v4 = Network::clients_v4(4).map(|client| (client, Network::server_v4(80)));
    let v6 = Network::clients_v6(4).map(|client| (client, Network::server_v6(80)));
    v4.chain(v6).map(|(from, to)| Held::open(lab.client(), from, to).unwrap()).collect()
}

/// How many entries there are of established connections.
fn entries(lab: &Lab) -> usize {
    let of_family = |family| lab.witness().conntrack(&["-f", family, "-p", "tcp"]);
    let is_held = |line: &&str| line.contains("ESTABLISHED") && line.contains("dport=80 ");
    ["ipv4", "ipv6"].map(of_family).iter().flat_map(|it| it.lines()).filter(is_held).count()
}

fn lost(held: &mut [Held]) -> usize {
    held.iter_mut().filter_map(|connection| connection.echo("still there?").err()).count()
}

/// Of workers that serve, and of retired ones.
fn kept(lab: &Lab) {
    set_timeout(lab);
    let mut cluster = Cluster::new(lab, 2).start(2);
    let mut held = hold(lab);
    cluster.reload();
    let mut later = hold(lab);
    assert_eq!(entries(lab), 16);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        assert_eq!(entries(lab), 16, "{:?}: {}", began.elapsed(), cluster.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!((lost(&mut held), lost(&mut later)), (0, 0));
    // Those that nobody has are not kept.
    drop((held, later));
    cluster.wait_until_settled(2);
}

fn control(lab: &Lab) {
    set_timeout(lab);
    let mut cluster = Cluster::new(lab, 2).start(2);
    let mut held = hold(lab);
    cluster.reload();
    cluster.kill_master();
    wait_until("the entries to expire", Duration::from_secs(20), || entries(lab) == 0);
    assert_eq!(lost(&mut held), held.len(), "their clients are led to other workers");
}

/// `conntrack -F`: nothing leads anything to it any more.
fn deleted(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let held = hold(lab);
    cluster.reload();
    let is_retired = |status: &netns_tests::Status| {
        status.workers.iter().filter(|worker| worker.state == "retired").count() == 2
    };
    cluster.wait_for("both to be kept by their connections", is_retired);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert!(is_retired(&cluster.status()), "{}", cluster.log());
    }
    lab.witness().succeed("conntrack", &["-F"], "");
    // Looks are farther apart where each takes long, as on a busy machine; three of them have to agree.
    wait_until("both to end", Duration::from_secs(60), || cluster.status().is_settled(2));
    cluster.wait_until_settled(2);
    let said = "connection tracking has no entry of its connections any more";
    wait_until("the log", Duration::from_secs(20), || cluster.log().contains(said));
    drop(held);
}

fn untranslated(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let mut held = hold(lab);
    cluster.reload();
    lab.witness().succeed("conntrack", &["-F"], "");
    assert_eq!(lost(&mut held), 0);
    drop(held);
    cluster.wait_until_settled(2);
}
