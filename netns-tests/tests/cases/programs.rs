//! Programs that know nothing of us are workers as they are, and get nothing of ours.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use ipcluster::lab::{Load, Network, Pace};
use netns_tests::{Case, Cluster, Lab, Need, greeter, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_python_server_is_a_worker", python).needs(Need::Python),
        Case::new("a_node_server_is_a_worker", node).needs(Need::Node),
        Case::new("a_tree_of_processes_is_a_worker", tree),
        Case::new("what_is_left_of_a_worker_whose_leader_dies_goes_too", leaderless),
        Case::new("output_comes_line_by_line_with_the_seat", output),
        Case::new("output_without_a_prefix_is_what_workers_print", output_without_prefix),
        Case::new("a_worker_inherits_no_descriptor", descriptors),
        Case::new("a_worker_gets_the_variables_that_are_promised", variables),
    ]
}

fn python(lab: &Lab) {
    let server = "
import http.server, os, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f\"{os.getpid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\\n\".encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(('0.0.0.0', int(os.environ['PORT'])), Handler).serve_forever()
";
    serves(lab, "server.py", server, "python3");
}

fn node(lab: &Lab) {
    let server = "
const { IPCLUSTER_SEAT: seat, IPCLUSTER_GENERATION: generation, PORT } = process.env;
require('http').createServer((request, response) => {
    const body = `${process.pid} ${seat} ${generation}\\n`;
    response.writeHead(200, { 'Content-Length': body.length, 'Connection': 'close' });
    response.end(body);
}).listen(PORT, '0.0.0.0');
";
    serves(lab, "server.js", server, "node");
}

/// `ipcluster run --listen 10.9.0.1:80 --workers 4 -- PROGRAM FILE`, with a reload under load.
fn serves(lab: &Lab, name: &str, text: &str, program: &str) {
    let file = lab.directory().join(name);
    std::fs::write(&file, text).unwrap();
    let mut cluster = Cluster::on(lab, [Network::server_v4(80)], 4);
    cluster.start_master(&[program.into(), file.into()]);
    cluster.wait_for_live(4);
    let load = Load::to([Network::server_v4(80)])
        .from(Network::clients_v4(200))
        .pace(Pace::Rate(200.0))
        .start(lab.client())
        .unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", Duration::from_secs(30), || load.counters().answered >= goal);
    };
    answers(200);
    cluster.reload();
    answers(200);
    cluster.wait_until_settled(4);
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.changed_seat().is_empty());
    assert_eq!(report.changed_worker().len(), 200);
    let seats: BTreeSet<u16> = report.workers().keys().map(|by| by.seat).collect();
    assert_eq!(seats, (0..4).collect());
    cluster.succeed("stop", &[]);
}

/// A shell that waits for the server and prints something, as many start scripts do.
fn shell(script: &str) -> Vec<OsString> {
    vec!["sh".into(), "-c".into(), script.into(), greeter().into()]
}

fn tree(lab: &Lab) {
    // The shell ends by SIGTERM, which reaches the greeter too, since it goes to the group.
    let command = shell("\"$0\" & sleep 1000 & wait");
    let mut cluster = Cluster::new(lab, 2).start_with(&command, 2);
    let pids = cluster.status().pids();
    let report = Lab::load(80, 100).connections(100).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    let answered: BTreeSet<u32> = report.workers().keys().map(|by| by.pid).collect();
    let members: BTreeSet<u32> = pids.values().flat_map(|pid| group(*pid)).collect();
    assert_eq!(members.len(), 6, "a shell, a greeter and a sleep each");
    assert!(answered.is_subset(&members));
    assert!(!pids.values().any(|pid| answered.contains(pid)), "the leader is the shell");
    cluster.reload();
    cluster.wait_until_settled(2);
    wait_until("the old trees to end", Duration::from_secs(10), || {
        !members.iter().any(|pid| is_alive(*pid))
    });
    let members: BTreeSet<u32> =
        cluster.status().pids().values().flat_map(|pid| group(*pid)).collect();
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(Duration::from_secs(10)).success(), "{}", cluster.log());
    assert!(!members.iter().any(|pid| is_alive(*pid)), "nothing is left of {members:?}");
}

fn leaderless(lab: &Lab) {
    let command = shell("\"$0\" & sleep 1000 & wait");
    let cluster = Cluster::new(lab, 2).argument("--spawn-backoff").argument("10ms..10ms");
    let mut cluster = cluster.start_with(&command, 2);
    let leader = cluster.status().pids()[&0];
    let members = group(leader);
    assert_eq!(members.len(), 3);
    signal(leader, Signal::SIGKILL);
    wait_until("the rest of its group to end", Duration::from_secs(10), || {
        !members.iter().any(|pid| is_alive(*pid))
    });
    cluster.wait_for("a replacement", |status| status.is_settled(2) && status.pids()[&0] != leader);
    let report = Lab::load(80, 100).connections(100).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
}

/// The living processes of a process group.
fn group(leader: u32) -> BTreeSet<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_member = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // State, parent, group.
        let group = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2));
        group == Some(&leader.to_string()) && is_alive(*pid)
    };
    pids.filter(is_member).collect()
}

fn output(lab: &Lab) {
    let script =
        "printf 'two\\nlines\\n'; echo to stderr >&2; printf 'no end'; sleep 0.2; echo ' yet';
        printf 'bell \\a\\n'; exec \"$0\"";
    let cluster = Cluster::new(lab, 2).start_with(&shell(script), 2);
    wait_until("what they print", Duration::from_secs(5), || {
        let log = cluster.log();
        (0..2).all(|seat| {
            ["two", "lines", "to stderr", "no end yet"]
                .iter()
                .all(|line| log.contains(&format!("seat {seat} | {line}\n")))
        })
    });
    assert!(!cluster.log().contains('\u{7}'), "control characters are escaped");
}

fn output_without_prefix(lab: &Lab) {
    let script = "echo '{\"seat\":'$IPCLUSTER_SEAT'}'; exec \"$0\"";
    let cluster = Cluster::new(lab, 2).argument("--output-prefix=false");
    let cluster = cluster.start_with(&shell(script), 2);
    wait_until("lines of JSON", Duration::from_secs(5), || {
        let log = cluster.log();
        (0..2).all(|seat| log.lines().any(|line| line == format!("{{\"seat\":{seat}}}")))
    });
    assert!(!cluster.log().contains("seat 0 |"), "{}", cluster.log());
}

fn descriptors(lab: &Lab) {
    // Each says what it was given, before it opens anything itself. The pattern makes the shell
    // read the directory, and so lists a descriptor that is closed by the time of the test.
    let script = "for fd in /proc/$$/fd/*; do
            if [ -L $fd ]; then echo \"fd ${fd##*/} $(readlink $fd)\"; fi
        done
        exec \"$0\"";
    let mut cluster = Cluster::new(lab, 2).start_with(&shell(script), 2);
    // Also workers that are started later, when the master has all open that it ever has: pidfds
    // and output of others, a control connection.
    cluster.reload();
    cluster.wait_until_settled(2);
    let master = format!("/proc/{}/fd", cluster.master().pid());
    let of_master = std::fs::read_dir(master).unwrap().count();
    assert!(of_master > 10, "there is something to inherit: {of_master}");
    let log = cluster.log();
    let listed: Vec<&str> =
        log.lines().filter_map(|line| Some(line.split_once("| fd ")?.1)).collect();
    assert_eq!(listed.len(), 4 * 3, "0, 1 and 2 of each of four workers: {listed:?}");
    for line in listed {
        let (number, target) = line.split_once(' ').unwrap();
        let is_expected = match number {
            "0" => target == "/dev/null",
            "1" | "2" => target.starts_with("/memfd:ipcluster:"),
            _ => false,
        };
        assert!(is_expected, "a worker was given descriptor {line}");
    }
}

fn variables(lab: &Lab) {
    let cluster = Cluster::new(lab, 2)
        .environment("SECRET", "hidden")
        .environment("GREETER_X", "passed")
        .argument("--env")
        .argument("SET=as told");
    let cluster = cluster.start_with(&shell("env; exec \"$0\""), 2);
    let status = cluster.status();
    wait_until("what they print", Duration::from_secs(5), || {
        cluster.log().matches("| IPCLUSTER_SEAT=").count() == 2
    });
    let log = cluster.log();
    for worker in status.live() {
        let port = worker.ports["80"];
        for expected in [
            format!("PORT={port}"),
            format!("IPCLUSTER_PORT_80={port}"),
            format!("IPCLUSTER_SEAT={}", worker.seat),
            "IPCLUSTER_WORKERS=2".to_owned(),
            "IPCLUSTER_GENERATION=1".to_owned(),
            "IPCLUSTER_NAME=t".to_owned(),
            "GREETER_X=passed".to_owned(),
            "SET=as told".to_owned(),
        ] {
            let line = format!("seat {} | {expected}\n", worker.seat);
            assert!(log.contains(&line), "{line:?} is not in\n{log}");
        }
    }
    assert!(!log.contains("hidden"), "{log}");
    let socket = log.lines().find_map(|line| Some(line.split_once("| IPCLUSTER_SOCKET=")?.1));
    let socket = std::fs::symlink_metadata(socket.unwrap()).unwrap();
    assert!(socket.file_type().is_socket());
}
