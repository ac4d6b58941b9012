//! Clients that use several addresses for one connection (MPTCP, as phones and programs in Go do).

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::Network;
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, Process, Witness, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Python).needs(Need::Multipath);
    vec![
        case("a_second_address_of_another_seat_is_refused_and_the_connection_goes_on", refused),
        case("a_second_address_of_the_same_seat_joins", joined),
        case("with_held_sockets_the_client_falls_back_to_tcp", fallback).with(Engine::Tproxy),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/multipath.py")
}

fn cluster(lab: &Lab) -> Cluster<'_> {
    let worker: [OsString; 2] = ["python3".into(), program().into()];
    Cluster::on(lab, [Network::server_v4(80)], 2).start_with(&worker, 2)
}

/// A counter of MPTCP in the server's namespace.
fn counter(lab: &Lab, name: &str) -> u64 {
    let read = || fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let text = lab.server().run_in(read).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("MPTcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place =
        names.split_whitespace().position(|it| it == name).unwrap_or_else(|| panic!("{name}"));
    values.split_whitespace().nth(place).unwrap().parse().unwrap()
}

fn seat(cluster: &Cluster<'_>, address: IpAddr) -> String {
    let text = cluster.succeed("explain", &[&address.to_string()]);
    let line =
        text.lines().find(|line| line.starts_with("seat ")).unwrap_or_else(|| panic!("{text}"));
    line.to_owned()
}

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 8, 0, 1));

/// Another address of the client, whose seat is that of the first, or is not.
fn second(cluster: &Cluster<'_>, is_same: bool) -> IpAddr {
    let its = seat(cluster, FIRST);
    let mut others = Network::clients_v4(60).skip(1);
    others.find(|address| (seat(cluster, *address) == its) == is_same).unwrap()
}

/// A client of both addresses, which asks on and on.
fn start(lab: &Lab, second: IpAddr) -> Process {
    let client = Witness::new(lab.client());
    client.succeed("ip", &["mptcp", "limits", "set", "subflow", "2"], "");
    client.succeed("ip", &["mptcp", "endpoint", "add", &second.to_string(), "subflow"], "");
    let mut command = Command::new("python3");
    command.arg(program()).args(["client", &FIRST.to_string()]);
    Process::start(lab.client(), command, &lab.directory().join("client.log"))
}

/// Waits for more answers, all by one worker.
fn answers(client: &mut Process, more: usize) {
    let count = |client: &Process| client.output().matches("answer").count();
    let goal = count(client) + more;
    wait_until("answers", PATIENCE, || {
        assert!(client.is_running(), "{}", client.output());
        count(client) >= goal
    });
    let output = client.output();
    // The last line may be cut.
    let mut by: Vec<&str> = output.lines().rev().skip(1).collect();
    by.dedup();
    assert_eq!(by.len(), 1, "{output}");
}

fn refused(lab: &Lab) {
    let cluster = cluster(lab);
    let mut client = start(lab, second(&cluster, false));
    answers(&mut client, 5);
    wait_until("the second address to be refused", PATIENCE, || {
        counter(lab, "MismatchPortSynRx") > 0
    });
    assert_eq!(counter(lab, "MPJoinAckRx"), 0);
    answers(&mut client, 10);
    cluster.reload();
    answers(&mut client, 10);
}

fn joined(lab: &Lab) {
    let cluster = cluster(lab);
    let mut client = start(lab, second(&cluster, true));
    answers(&mut client, 5);
    wait_until("the second address to join", PATIENCE, || counter(lab, "MPJoinAckRx") > 0);
    assert_eq!(counter(lab, "MismatchPortSynRx"), 0);
    answers(&mut client, 10);
    cluster.reload();
    answers(&mut client, 10);
}

fn fallback(lab: &Lab) {
    let cluster = cluster(lab);
    let mut client = start(lab, second(&cluster, false));
    answers(&mut client, 10);
    cluster.reload();
    answers(&mut client, 10);
    assert_eq!(counter(lab, "MPJoinSynRx"), 0, "it is plain TCP");
}
