//! Connections come from any of thousands of addresses, over both families.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipcluster::lab::{Load, Network, Pace};
use netns_tests::{Case, Lab};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_thousand_addresses_reach_a_greeter", a_thousand_addresses),
        Case::new("the_server_sees_the_address_of_the_client", the_server_sees_the_client),
        Case::new("other_addresses_are_not_ours", other_addresses),
    ]
}

fn a_thousand_addresses(lab: &Lab) {
    let greeter = lab.greeter(8080, 3);
    let report = Lab::load(8080, 1000)
        .pace(Pace::Concurrency(32))
        .connections(2000)
        .start(lab.client())
        .unwrap()
        .wait();
    assert_eq!((report.answered(), report.failed()), (2000, 0), "{report}");
    let clients: BTreeSet<IpAddr> = report.answers().map(|answered| answered.client).collect();
    assert_eq!(clients, BTreeSet::from_iter(Lab::clients(1000)));
    let workers: Vec<_> = report.workers().into_keys().collect();
    assert_eq!(workers.len(), 1);
    assert_eq!((workers[0].pid, workers[0].seat), (greeter.pid(), 3));
}

fn the_server_sees_the_client(lab: &Lab) {
    for (client, target) in [
        (Network::clients_v4(300).last().unwrap(), Network::server_v4(8080)),
        (Network::clients_v6(300).last().unwrap(), Network::server_v6(8080)),
    ] {
        let listener =
            lab.server().run_in(|| std::net::TcpListener::bind(target)).unwrap().unwrap();
        let load = Load::to([target]).from([client]).connections(1).start(lab.client()).unwrap();
        let (connection, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), client);
        drop(connection);
        assert_eq!(load.wait().failed(), 1, "it was never answered");
    }
}

fn other_addresses(lab: &Lab) {
    let _greeter = lab.greeter(8080, 0);
    let report = Load::to([Network::server_v4(8080)])
        .from(["10.7.0.1".parse().unwrap()])
        .connections(1)
        .start(lab.client())
        .unwrap()
        .wait();
    let [failure] = report.failures() else { panic!("{report}") };
    let local = ipcluster::lab::FailureKind::Local(nix::libc::EADDRNOTAVAIL);
    assert_eq!(failure.kind, local);
}
