//! What becomes of clients while connection tracking has no entry for them: the table is full of connections that
//! have ended, or somebody deletes all of it under load.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine, wait_until};

use super::host_settings::have_it_look;
use super::in_the_way::{check, kinds, metrics, seen_by_masters};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Conntrack).with_both_engines();
    vec![
        case("a_table_full_of_ended_connections_drops_first_packets", full).busy().on_request(),
        case("entries_are_deleted_under_load", flushed).busy(),
        case("connections_without_an_entry_are_named_while_the_cluster_runs", named),
        case("entries_in_a_zone_of_somebody_are_not_taken_for_deleted", zoned).needs(Need::Nft),
    ]
}

fn connect(lab: &Lab, limit: Duration) -> std::io::Result<TcpStream> {
    let to = Network::server_v4(80);
    lab.client().run_in(|| TcpStream::connect_timeout(&to, limit)).unwrap()
}

/// As many entries in TIME_WAIT as may be. Established connections go on; for new ones there is no room with
/// `redirect`, and that is told; with `tproxy` there is nothing to make room for.
fn full(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).argument("--http-listen").argument("127.0.0.1:9180");
    let mut cluster = cluster.start(2);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", Duration::from_secs(20), || {
        events.output().contains("subscribed")
    });
    let mut held =
        Held::open(lab.client(), Network::clients_v4(1).next().unwrap(), Network::server_v4(80))
            .unwrap();
    let limit = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
    let limit: u32 = limit.trim().parse().unwrap();
    let mut entries = String::new();
    for number in 0..=limit {
        let (client, port) = (number >> 15, 1024 + (number & 0x7fff));
        let client = format!("10.66.{}.{}", client >> 8, client & 0xff);
        writeln!(
            entries,
            "-A -p tcp --src {client} --dst 10.77.0.1 --sport {port} --dport 80 --state TIME_WAIT \
             --status ASSURED,SEEN_REPLY --timeout 120 --reply-src 10.77.0.1 --reply-dst {client} \
             --reply-port-src 80 --reply-port-dst {port}"
        )
        .unwrap();
    }
    let file = lab.directory().join("entries");
    std::fs::write(&file, entries).unwrap();
    lab.witness().run("conntrack", &["-R", file.to_str().unwrap()], "");
    held.echo("there").unwrap();
    match engine() {
        Engine::Redirect => {
            // More are asked for than the kernel finds room for by taking entries that nobody has answered.
            let met = (0..8).map(|_| connect(lab, Duration::from_millis(300)));
            let dropped =
                met.filter(|met| matches!(met, Err(error) if error.kind() == ErrorKind::TimedOut));
            assert!(dropped.count() > 0, "{}", lab.witness().succeed("conntrack", &["-C"], ""));
            let said = || cluster.succeed("status", &["--json"]).contains("conntrack_full");
            wait_until("it to be told", Duration::from_secs(20), said);
            let has = |text: &str| {
                let output = events.output();
                output.lines().any(|it| it.contains(text) && it.contains("conntrack_full"))
            };
            wait_until("the event", Duration::from_secs(20), || has("finding_appeared"));
            assert!(cluster.log().contains("connection tracking is nearly full"));
            let status = cluster.succeed("status", &[]);
            assert!(status.contains("nf_conntrack_tcp_timeout_time_wait"), "{status}");
            let found = check(lab, &[]);
            assert_eq!(kinds(&found), ["conntrack_full"], "{found:?}");
            let metrics = metrics(lab);
            let sample = r#"ipcluster_findings{kind="conntrack_full",severity="warning"} 1"#;
            assert!(metrics.contains(sample), "{metrics}");
            lab.witness().succeed("conntrack", &["-D", "-d", "10.77.0.1"], "");
            wait_until("it to be over", Duration::from_secs(20), || has("finding_gone"));
        }
        Engine::Tproxy => {}
    }
    connect(lab, Duration::from_secs(10)).unwrap();
    held.echo("still there").unwrap();
    cluster.wait_until_settled(2);
}

/// How often the master has looked up entries of so many connections, of which so many had none.
fn looks(cluster: &Cluster<'_>, (looked, missing): (u32, u32)) -> usize {
    let sample = format!("looked: {looked}, missing: {missing}");
    let log = cluster.log();
    log.lines().filter(|it| it.contains("were looked up") && it.contains(&sample)).count()
}

/// Somebody deletes all entries while connections are silent. That of a client that sends is made anew. With `tproxy`
/// nothing follows from it, and nothing is said.
fn named(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).environment("IPCLUSTER_LOG", "debug");
    let cluster = cluster.argument("--http-listen").argument("127.0.0.1:9180").start(2);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", Duration::from_secs(20), || {
        events.output().contains("subscribed")
    });
    let clients = Network::clients_v4(3).map(|client| (client, Network::server_v4(80)));
    let clients = clients.chain(Network::clients_v6(3).map(|it| (it, Network::server_v6(80))));
    let mut held: Vec<Held> =
        clients.map(|(from, to)| Held::open(lab.client(), from, to).unwrap()).collect();
    let is_used = engine() == Engine::Redirect;
    let wait_for_look = |sample: (u32, u32)| {
        let sample = if is_used { sample } else { (0, 0) };
        let before = looks(&cluster, sample);
        have_it_look(lab);
        wait_until("a look", Duration::from_secs(20), || looks(&cluster, sample) > before);
    };
    wait_for_look((6, 0));
    assert_eq!(kinds(&seen_by_masters(lab)), [""; 0]);
    lab.witness().succeed("conntrack", &["-F"], "");
    wait_for_look((6, 6));
    let has = |text: &str| {
        events.output().lines().any(|it| it.contains(text) && it.contains("lost_entries"))
    };
    let status = || cluster.succeed("status", &[]);
    let said =
        "6 of 6 established connections that were looked up have no entry in connection tracking";
    if is_used {
        wait_until("the event", Duration::from_secs(20), || has("finding_appeared"));
        wait_until("the log", Duration::from_secs(20), || cluster.log().contains(said));
        assert!(status().contains(said), "{}", status());
        let metrics = metrics(lab);
        let sample = r#"ipcluster_findings{kind="lost_entries",severity="warning"} 1"#;
        assert!(metrics.contains(sample), "{metrics}");
        let found = seen_by_masters(lab);
        assert_eq!(kinds(&found), ["lost_entries"], "{found:?}");
        assert!(found[0].contains("conntrack -F") && found[0].contains("tproxy"), "{found:?}");
    }
    for connection in &mut held {
        connection.echo("the client speaks first").unwrap();
    }
    wait_for_look((6, 0));
    if is_used {
        wait_until("it to be over", Duration::from_secs(20), || has("finding_gone"));
    }
    assert!(!status().contains(said), "{}", status());
    assert_eq!(kinds(&seen_by_masters(lab)), [""; 0]);
}

/// In another zone than the default one an entry is not found by its addresses alone.
fn zoned(lab: &Lab) {
    lab.witness().load(
        "table inet zones {
            chain in { type filter hook prerouting priority raw; iif != lo ct zone set 7; }
            chain out { type filter hook output priority raw; oif != lo ct zone set 7; }
            chain stateful { type filter hook input priority 0; iif != lo tcp dport 80-30000 tcp flags & (syn | ack) == ack ct state new,invalid drop; }
        }",
    );
    let cluster = Cluster::new(lab, 2).environment("IPCLUSTER_LOG", "debug").start(2);
    let mut held =
        Held::open(lab.client(), Network::clients_v4(1).next().unwrap(), Network::server_v4(80))
            .unwrap();
    have_it_look(lab);
    wait_until("a look", Duration::from_secs(20), || cluster.log().contains("has_zones: true"));
    held.echo("it is tracked").unwrap();
    assert!(!cluster.succeed("status", &["--json"]).contains("lost_entries"));
    assert_eq!(kinds(&seen_by_masters(lab)), [""; 0]);
}

/// Entries are deleted twenty times while clients come and go. With `redirect` those get no answer who wait for it
/// just then, since it goes out with the worker's port; the next connection is served. With `tproxy` all are.
fn flushed(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let load = Lab::load(80, 200).start(lab.client()).unwrap();
    for _ in 0..20 {
        lab.witness().succeed("conntrack", &["-F"], "");
    }
    let report = load.stop();
    let (answered, failed) = (report.answered(), report.failed());
    assert!(answered > 0, "{report}");
    match engine() {
        Engine::Redirect => assert!(failed < answered, "{report}"),
        Engine::Tproxy => assert_eq!(failed, 0, "{report}"),
    }
    let report = Lab::load(80, 200).connections(400).start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (400, 0), "{report}");
    cluster.wait_until_settled(2);
}
