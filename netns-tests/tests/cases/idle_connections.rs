//! Retired workers whose clients keep connections open: `retire.idle`, and what is said of them.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ipcluster::lab::Network;
use netns_tests::{Case, Cluster, Lab, Need, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_retired_worker_with_idle_connections_ends", idle)
            .needs(Need::Python)
            .with_both_engines(),
        Case::new("without_the_setting_it_stays_as_long_as_its_clients_do", control)
            .needs(Need::Python)
            .with_both_engines_on_request(),
        Case::new("an_answer_that_takes_longer_than_the_limit_is_waited_for", slow)
            .needs(Need::Python)
            .with_both_engines(),
        Case::new("a_connection_in_use_keeps_its_worker", busy)
            .needs(Need::Python)
            .with_both_engines_on_request(),
    ]
}

const IDLE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// Two workers, whose slow answers take four times the limit.
fn cluster<'a>(lab: &'a Lab, arguments: &[&str]) -> Cluster<'a> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/slow.py");
    let worker: [OsString; 3] = ["python3".into(), program.into(), "4".into()];
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 2);
    let cluster = arguments.iter().fold(cluster, |cluster, argument| cluster.argument(*argument));
    cluster.start_with(&worker, 2)
}

fn connect(lab: &Lab) -> TcpStream {
    let connect = || TcpStream::connect(Network::server_v4(80));
    let stream = lab.client().run_in(connect).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes()).unwrap();
}

/// The generation that answers; none if the connection was closed.
fn answer(stream: &mut TcpStream) -> Option<u64> {
    let mut bytes = [0; 1024];
    let length = stream.read(&mut bytes).unwrap_or_default();
    let text = std::str::from_utf8(&bytes[..length]).unwrap();
    text.trim_end().rsplit_once(' ')?.1.parse().ok()
}

fn get(stream: &mut TcpStream, path: &str) -> Option<u64> {
    ask(stream, path);
    answer(stream)
}

fn retired(cluster: &Cluster<'_>) -> usize {
    cluster.status().workers.iter().filter(|worker| worker.state == "retired").count()
}

fn idle(lab: &Lab) {
    let mut cluster = cluster(lab, &["--retire-idle", "1s"]);
    let mut kept: Vec<TcpStream> = (0..4).map(|_| connect(lab)).collect();
    // One on which nothing was ever asked is idle as well.
    kept[1..].iter_mut().for_each(|stream| assert_eq!(get(stream, "/"), Some(1)));
    let said = cluster.succeed("reload", &[]);
    assert!(said.contains("4 connections stay with 1 worker of generation 1 until"), "{said}");
    let status = cluster.succeed("status", &[]);
    assert!(status.contains("retired 0s"), "{status}");
    let began = Instant::now();
    cluster.wait_until_settled(2);
    assert!(began.elapsed() < 10 * IDLE, "{:?}", began.elapsed());
    let why = "its connections are idle";
    assert!(cluster.log().contains(why), "{}", cluster.log());
    cluster.succeed("stop", &[]);
}

fn control(lab: &Lab) {
    let mut cluster = cluster(lab, &[]);
    let mut kept = connect(lab);
    assert_eq!(get(&mut kept, "/"), Some(1));
    cluster.reload();
    cluster.wait_for("the end of the other worker", |status| status.workers.len() == 3);
    let began = Instant::now();
    wait_until("three times the limit", PATIENCE, || began.elapsed() > 3 * IDLE);
    assert_eq!(retired(&cluster), 1);
    assert_eq!(get(&mut kept, "/"), Some(1));
    cluster.succeed("stop", &["--now"]);
}

fn slow(lab: &Lab) {
    let mut cluster = cluster(lab, &["--retire-idle", "1s"]);
    let mut kept = connect(lab);
    ask(&mut kept, "/slow");
    // SIGTERM would cut the answer.
    cluster.reload();
    assert_eq!(answer(&mut kept), Some(1), "{}", cluster.log());
    cluster.wait_until_settled(2);
    cluster.succeed("stop", &[]);
}

fn busy(lab: &Lab) {
    let mut cluster = cluster(lab, &["--retire-idle", "1s"]);
    let mut kept = connect(lab);
    assert_eq!(get(&mut kept, "/"), Some(1));
    cluster.reload();
    let began = Instant::now();
    while began.elapsed() < 3 * IDLE {
        assert_eq!(get(&mut kept, "/"), Some(1), "{}", cluster.log());
        std::thread::sleep(IDLE / 5);
    }
    cluster.wait_until_settled(2);
    cluster.succeed("stop", &[]);
}
