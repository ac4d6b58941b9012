//! Connections are counted by seat, whatever becomes of the workers, the rules and the master.

use std::collections::BTreeMap;
use std::time::Duration;

use ipcluster::lab::{Flow, Network, Pace};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine, greeter, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        case("every_connection_is_counted_once_across_all_changes", counted).with_both_engines(),
        case("counters_go_on_when_the_table_is_made_anew", made_anew).with_both_engines(),
    ]
}

/// Connections by seat, as the clients saw them.
type BySeat = BTreeMap<u16, u64>;

fn connect(lab: &Lab, connections: u64, by_seat: &mut BySeat) {
    let load = Lab::load(80, 500).pace(Pace::Concurrency(16)).connections(connections);
    let report = load.start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (connections, 0), "{report}");
    for answer in report.answers() {
        *by_seat.entry(answer.by.seat).or_default() += 1;
    }
    for client in Network::clients_v4(50) {
        let flow = Flow::open(lab.client(), client, Network::server_v4(53)).unwrap();
        // The packets after the first are none of a new connection; where nothing is tracked, nobody
        // can tell.
        for _ in 0..3 {
            flow.ask().unwrap();
        }
        let counted = match engine() {
            Engine::Redirect => 1,
            Engine::Tproxy => 4,
        };
        *by_seat.entry(flow.ask().unwrap().seat).or_default() += counted;
    }
}

fn totals(cluster: &Cluster<'_>) -> BySeat {
    let status = cluster.status();
    let totals = status
        .live()
        .into_iter()
        .map(|worker| (worker.seat, worker.connections_total.expect("the rules can be read")));
    totals.collect()
}

/// The same as nft reads them.
fn by_nft(lab: &Lab) -> BySeat {
    let text = lab.witness().nft(&["--json", "list", "counters"], "");
    let listing: serde_json::Value = serde_json::from_str(&text).unwrap();
    let objects = listing["nftables"].as_array().unwrap().iter();
    let counters = objects.filter_map(|object| object.get("counter"));
    let seat = |name: &str| name.strip_prefix("seat_").unwrap().parse().unwrap();
    counters
        .map(|it| (seat(it["name"].as_str().unwrap()), it["packets"].as_u64().unwrap()))
        .collect()
}

fn start(lab: &Lab) -> Cluster<'_> {
    let cluster = Cluster::new(lab, 3).environment("GREETER_UDP", "yes");
    cluster.argument("--listen").argument("10.9.0.1:53/udp").start(3)
}

fn counted(lab: &Lab) {
    let mut cluster = start(lab);
    let mut made = BySeat::from([(0, 0), (1, 0), (2, 0)]);
    assert_eq!(totals(&cluster), made, "nothing has been counted yet");
    connect(lab, 2000, &mut made);
    assert_eq!(totals(&cluster), made);
    assert_eq!(totals(&cluster), made, "reading does not reset");
    assert_eq!(by_nft(lab), made);
    cluster.reload();
    assert_eq!(totals(&cluster), made, "after a reload");
    connect(lab, 1000, &mut made);
    assert_eq!(totals(&cluster), made, "of both generations");
    cluster.succeed("scale", &["5"]);
    made.extend([(3, 0), (4, 0)]);
    assert_eq!(totals(&cluster), made, "new seats begin with none");
    connect(lab, 1000, &mut made);
    assert_eq!(totals(&cluster), made);
    cluster.succeed("scale", &["4"]);
    made.remove(&4);
    cluster.wait_for_live(4);
    assert_eq!(totals(&cluster), made, "a seat that is gone is counted no longer");
    wait_until("the seat to be gone from the kernel", Duration::from_secs(5), || {
        by_nft(lab) == made
    });
    cluster.succeed("scale", &["5"]);
    made.insert(4, 0);
    assert_eq!(totals(&cluster), made, "and begins anew");
    connect(lab, 1000, &mut made);
    cluster.terminate_master();
    connect(lab, 1000, &mut made);
    cluster.start_master(&[greeter().into()]);
    cluster.wait_until_settled(5);
    assert_eq!(totals(&cluster), made, "by a new master");
}

/// Other listeners make another table, in one transaction.
fn made_anew(lab: &Lab) {
    let mut cluster = start(lab);
    let mut made = BySeat::new();
    connect(lab, 1000, &mut made);
    cluster.terminate_master();
    let mut cluster = cluster.argument("--listen").argument("10.9.0.1:81");
    cluster.start_master(&[greeter().into()]);
    cluster.wait_for("the table of the new listeners", |status| {
        status.generation == 2 && status.live().len() == 3
    });
    assert_eq!(totals(&cluster), made);
    connect(lab, 500, &mut made);
    assert_eq!(totals(&cluster), made);
}
