//! Workers that set `TCP_DEFER_ACCEPT` on their sockets: the handshake of a client that has connected and not
//! sent yet is not over for the kernel, and lasts until it sends.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ipcluster::internals::process::{Connection, ConnectionState, Sockets};
use ipcluster::lab::Network;
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("who_has_connected_and_not_sent_yet_is_served_after_a_reload", deferred)
            .needs(Need::Python)
            .with_both_engines(),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// For how long the client says nothing: longer than a handshake can last without the kernel repeating its
/// answer.
const SILENCE: Duration = Duration::from_secs(3);

fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"who?\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("an answer and no reset");
    answer
}

fn connect(lab: &Lab) -> TcpStream {
    let connect = || TcpStream::connect(Network::server_v4(80));
    let stream = lab.client().run_in(connect).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn half_open(lab: &Lab, ports: &BTreeSet<u16>) -> usize {
    let read = || Sockets::open().unwrap().connections(ports).unwrap();
    let is_half_open = |it: &&Connection| matches!(it.state, ConnectionState::HalfOpen { .. });
    lab.server().run_in(read).unwrap().iter().filter(is_half_open).count()
}

fn deferred(lab: &Lab) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/deferring.py");
    let worker: [OsString; 2] = ["python3".into(), program.into()];
    let mut cluster = Cluster::on(lab, [Network::server_v4(80)], 2).start_with(&worker, 2);
    let ports: BTreeSet<u16> = match engine() {
        Engine::Tproxy => [80].into(),
        Engine::Redirect => {
            cluster.status().workers.iter().map(|worker| worker.ports["80"]).collect()
        }
    };
    let mut client = connect(lab);
    wait_until("its handshake, which lasts", PATIENCE, || half_open(lab, &ports) == 1);
    cluster.reload();
    // It holds up nobody else.
    assert_eq!(ask(&mut connect(lab)).trim(), "2");
    let began = Instant::now();
    while began.elapsed() < SILENCE {
        let status = cluster.status();
        let retired = status.workers.iter().filter(|worker| worker.state == "retired");
        assert_ne!(retired.count(), 0, "{}", cluster.log());
        std::thread::sleep(SILENCE / 20);
    }
    assert_eq!(half_open(lab, &ports), 1, "it is not over");
    assert_eq!(ask(&mut client).trim(), "1", "{}", cluster.log());
    assert_eq!(ask(&mut client).trim(), "1");
    drop(client);
    cluster.wait_until_settled(2);
    cluster.succeed("stop", &[]);
}
