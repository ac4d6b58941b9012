//! Clients on the same host.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ipcluster::lab::{Flow, Held, Identity, Network};
use ipcluster::nft::Firewall;
use netns_tests::{Case, Cluster, Lab, greeter};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("connections_of_this_host_are_balanced", balanced).with_both_engines(),
        Case::new("control_without_the_setting_they_are_refused", control).with_both_engines(),
        Case::new("it_is_turned_on_and_off_by_a_new_master", turned_on_and_off).with_both_engines(),
        Case::new("addresses_that_no_listener_names_are_left_alone", elsewhere).with_both_engines(),
    ]
}

fn cluster(lab: &Lab) -> Cluster<'_> {
    let mut cluster = Cluster::on(lab, Lab::targets(80), 4).environment("GREETER_UDP", "yes");
    for listener in ["10.9.0.1:53/udp", "[fd09::1]:53/udp"] {
        cluster = cluster.argument("--listen").argument(listener);
    }
    cluster
}

/// The server's address of one family, with a port.
type Target = fn(u16) -> SocketAddr;

/// Addresses of the server itself: those of 127.0.0.0/8 are there without being configured.
fn sources() -> Vec<(IpAddr, Target)> {
    let loopback = (1..=200u8).map(|last| IpAddr::from([127, 0, 0, last]));
    let v4 = loopback.chain([Network::server_v4(0).ip()]);
    let v4 = v4.map(|from| (from, Network::server_v4 as Target));
    let v6: Target = Network::server_v6;
    v4.chain([(Network::server_v6(0).ip(), v6), ("::1".parse().unwrap(), v6)]).collect()
}

fn by_tcp(lab: &Lab, from: IpAddr, to: SocketAddr) -> Identity {
    Held::open(lab.server(), from, to).unwrap().by()
}

fn by_udp(lab: &Lab, from: IpAddr, to: SocketAddr) -> Identity {
    let flow = Flow::open(lab.server(), from, to).unwrap();
    flow.ask().unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
}

fn balanced(lab: &Lab) {
    let cluster = cluster(lab).argument("--local-clients").start(4);
    let name = "t".parse().unwrap();
    let plan = lab.server().run_in(|| Firewall::open(&name).unwrap().read()).unwrap();
    let plan = plan.unwrap().expect("a cluster");
    let mut seats = BTreeSet::new();
    for (from, to) in sources() {
        let by = by_tcp(lab, from, to(80));
        let seat = plan.worker_for(from).unwrap().seat.0;
        assert_eq!(by.seat, seat, "{from} by tcp");
        assert_eq!(by_tcp(lab, from, to(80)), by, "{from} is sticky");
        assert_eq!(by_udp(lab, from, to(53)), by, "{from} by udp");
        seats.insert(seat);
    }
    assert_eq!(seats.len(), 4, "every worker has clients");
    // Others are balanced as before.
    let report = Lab::load(80, 400).connections(400).start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (400, 0), "{report}");
    // And established ones outlive a reload.
    let mut held =
        Held::open(lab.server(), Network::server_v4(0).ip(), Network::server_v4(80)).unwrap();
    cluster.reload();
    held.echo("after the reload").unwrap();
    let (from, to) = (held.source().unwrap().ip(), Network::server_v4(80));
    let now = by_tcp(lab, from, to);
    assert_eq!((now.seat, now.generation), (held.by().seat, 2));
}

fn is_refused(lab: &Lab) -> bool {
    refuses(lab, Network::server_v4(80))
}

fn refuses(lab: &Lab, to: SocketAddr) -> bool {
    let result = lab.server().run_in(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)));
    match result.unwrap() {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            true
        }
    }
}

fn control(lab: &Lab) {
    let _cluster = cluster(lab).start(4);
    assert!(is_refused(lab));
}

/// Nobody else's connections notice.
fn turned_on_and_off(lab: &Lab) {
    let mut now = cluster(lab).start(4);
    let load = Lab::load(80, 1000).start(lab.client()).unwrap();
    for (on, refused) in [("true", false), ("false", true), ("true", false)] {
        now.terminate_master();
        now = cluster(lab).argument(format!("--local-clients={on}"));
        now.start_master(&[greeter().into()]);
        now.wait_for_live(4);
        assert_eq!(is_refused(lab), refused, "--local-clients={on}");
    }
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

fn elsewhere(lab: &Lab) {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
    for (listener, takes_all) in
        [(Network::server_v4(80), false), ("0.0.0.0:80".parse().unwrap(), true)]
    {
        let mut cluster = Cluster::on(lab, [listener], 2).argument("--local-clients").start(2);
        assert!(!is_refused(lab));
        assert_eq!(refuses(lab, loopback), !takes_all, "{listener}");
        cluster.succeed("stop", &["--now"]);
        assert!(cluster.master().wait(Duration::from_secs(5)).success(), "{}", cluster.log());
    }
}
