//! A seat is not left without a worker: ends that are no crashes, starts that fail, masters with other
//! numbers of workers.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Load, Network, Pace, Report};
use netns_tests::{Case, Cluster, Lab, Need, greeter, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_command_that_cannot_be_run_ends_run_at_once", cannot_run).with_both_engines(),
        Case::new("a_command_that_goes_away_later_ends_no_master", goes_away),
        Case::new("a_failing_start_can_be_mended_and_reload_tries_at_once", mended_by_reload),
        Case::new("a_start_that_hangs_can_be_mended_and_reload_does_not_wait", hangs_at_start),
        Case::new("workers_that_end_after_so_many_requests_are_replaced_at_once", limited_requests)
            .needs(Need::Python)
            .busy(),
        Case::new("a_limit_of_connections_replaces_workers_before_they_end", connection_limit)
            .needs(Need::Python)
            .busy(),
        Case::new("a_worker_that_dies_while_it_is_traced_is_replaced", traced)
            .needs(Need::Python)
            .with_both_engines(),
        Case::new("workers_whose_log_cannot_be_written_are_started_all_the_same", log_is_gone),
        Case::new("the_death_of_the_last_worker_cuts_no_connection_of_retired_ones", last_of_all),
        Case::new("a_server_whose_child_processes_die_at_once_is_not_live", prefork)
            .needs(Need::Python)
            .busy(),
        Case::new("while_no_worker_serves_no_seat_is_given_up", never_given_up),
        Case::new("masters_with_other_numbers_of_workers_change_them_and_go_on", other_numbers),
    ]
}

fn cannot_run(lab: &Lab) {
    let file = |name: &str, text: &str, mode: u32| {
        let path = lab.directory().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.into_os_string()
    };
    let commands: [(OsString, &str); 6] = [
        ("/no/such/server".into(), "ENOENT"),
        ("no-such-server".into(), "ENOENT"),
        (file("not-executable", "#!/bin/sh\n", 0o644), "EACCES"),
        (file("no-interpreter", "#!/no/such/shell\n", 0o755), "ENOENT"),
        (file("no-program", "exec \"$@\"\n", 0o755), "ENOEXEC"),
        (lab.directory().as_os_str().to_owned(), "EACCES"),
    ];
    for (command, errno) in commands {
        let mut cluster = Cluster::new(lab, 4);
        let began = Instant::now();
        cluster.start_master(&[command.clone(), "--flag".into()]);
        let status = cluster.master().wait(Duration::from_secs(5));
        let output = cluster.log();
        assert_eq!(status.code(), Some(1), "{output}");
        println!("{} after {:?}", status, began.elapsed());
        let command = command.to_str().unwrap();
        let lines: Vec<&str> = output.lines().filter(|line| line.contains(command)).collect();
        let [line] = lines[..] else { panic!("{command} is named once:\n{output}") };
        assert!(line.starts_with("error: cannot run program") && line.contains(errno), "{line}");
        assert!(output.contains("hint: what `command`"), "{output}");
    }
}

fn goes_away(lab: &Lab) {
    let program = lab.directory().join("server");
    std::fs::copy(greeter(), &program).unwrap();
    let mut cluster = Cluster::new(lab, 2).start_with(&[program.clone().into()], 2);
    std::fs::remove_file(&program).unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("cannot run program") && error.contains("ENOENT"), "{error}");
    std::fs::copy(greeter(), &program).unwrap();
    cluster.reload();
    cluster.wait_until_settled(2);
}

/// Greeters whose first commands are in a file, without waiting for them.
fn start_adjustable(cluster: &mut Cluster<'_>, lab: &Lab, first: &str) {
    cluster.set_greeters(first);
    let script = "set -a; . \"$0\"; exec \"$1\"";
    let settings = lab.directory().join("greeters.sh");
    cluster.start_master(&[
        "sh".into(),
        "-c".into(),
        script.into(),
        settings.into(),
        greeter().into(),
    ]);
}

fn mended_by_reload(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2);
    start_adjustable(&mut cluster, lab, "exit 3");
    wait_until("the back-off to grow", Duration::from_secs(20), || {
        cluster.log().contains("started in 4s")
    });
    assert!(cluster.fail("retire", &["0"]).contains("seat 0 has no live worker"));
    assert!(cluster.fail("rollback", &[]).contains("no earlier generation"));
    assert!(cluster.succeed("scale", &["3"]).contains('3'));
    cluster.set_greeters("");
    let began = Instant::now();
    cluster.reload();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "the reload took {took:?}");
    let status = cluster.wait_until_settled(3);
    assert_eq!(status.generation, 2);
}

fn hangs_at_start(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2);
    start_adjustable(&mut cluster, lab, "sleep 1000");
    cluster.wait_for("two that start", |status| status.workers.len() == 2);
    cluster.set_greeters("");
    let began = Instant::now();
    cluster.reload();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "the reload took {took:?}");
    cluster.wait_until_settled(2);
}

/// A server that stops to listen after so many requests, finishes them, and ends with status 0, as
/// `uvicorn --limit-max-requests` and gunicorn's `max_requests` do.
const LIMITED: &str = "
import http.server, os, sys, threading
LIMIT = int(sys.argv[1])
served = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global served
        body = f\"{os.getpid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\\n\".encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        served += 1
        if served == LIMIT:
            threading.Thread(target=server.shutdown).start()
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128
server = Server(('0.0.0.0', int(os.environ['PORT'])), Handler)
server.serve_forever(0.05)
server.server_close()
";

/// The command of a server that ends after so many requests.
fn limited(lab: &Lab, requests: &str) -> [OsString; 3] {
    let file = lab.directory().join("limited.py");
    std::fs::write(&file, LIMITED).unwrap();
    ["python3".into(), file.into(), requests.into()]
}

/// A load of which each of four seats gets about 20 requests a second: 50 in 2.5 s.
fn a_thousand_answers(lab: &Lab) -> Report {
    let load = Load::to([Network::server_v4(80)])
        .from(Network::clients_v4(200))
        .pace(Pace::Rate(80.0))
        .start(lab.client())
        .unwrap();
    wait_until("a thousand answers", Duration::from_secs(60), || load.counters().answered >= 1000);
    let report = load.stop();
    println!("{report}");
    report
}

fn limited_requests(lab: &Lab) {
    let mut cluster = Cluster::on(lab, [Network::server_v4(80)], 4);
    cluster.start_master(&limited(lab, "50"));
    cluster.wait_for_live(4);
    let report = a_thousand_answers(lab);
    let log = cluster.log();
    let ended = log.matches("ended by itself (status 0)").count();
    assert!(ended >= 12, "{ended} workers have ended:\n{log}");
    assert!(!log.contains("given up"), "{log}");
    assert!(!log.contains("a new worker is started in 2s"), "{log}");
    // What fails came while a worker had closed its listening socket, and had not ended yet.
    let lost = usize::try_from(report.failed()).expect("few");
    assert!(lost <= 6 * ended, "{ended} ends: {report}");
    cluster.wait_for_live(4);
}

/// The same program, replaced after 50 connections of the 200 after which it would end.
fn connection_limit(lab: &Lab) {
    let mut cluster = Cluster::on(lab, [Network::server_v4(80)], 4)
        .argument("--retire-connections")
        .argument("50")
        .argument("--retire-window")
        .argument("0");
    cluster.start_master(&limited(lab, "200"));
    cluster.wait_for_live(4);
    let report = a_thousand_answers(lab);
    let log = cluster.log();
    let replaced = log.matches("is replaced: it has had").count();
    assert!(replaced >= 8, "{replaced} replaced:\n{log}");
    assert!(!log.contains("ended by itself"), "{log}");
    assert_eq!(report.failed(), 0, "{report}");
    let status: serde_json::Value =
        serde_json::from_str(&cluster.succeed("status", &["--json"])).unwrap();
    let counted = status["retirements"]["connections"].as_u64();
    assert!(counted >= u64::try_from(replaced).ok(), "{counted:?} of {replaced}");
}

/// Traces a process, and never looks at what becomes of it: `PTRACE_SEIZE`.
const TRACER: &str = "
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) != 0:
    sys.exit('ptrace: ' + str(ctypes.get_errno()))
print('attached', flush=True)
time.sleep(1000)
";

fn traced(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let pid = cluster.status().pids()[&0];
    let mut command = Command::new("python3");
    command.args(["-c", TRACER, &pid.to_string()]);
    let tracer = lab.start("tracer", command);
    wait_until("the tracer", Duration::from_secs(10), || tracer.output().contains("attached"));
    signal(pid, Signal::SIGKILL);
    cluster.wait_for("a successor", |status| {
        status.is_settled(2) && status.pids().get(&0).is_some_and(|it| *it != pid)
    });
    assert!(cluster.log().contains("exit status is not known"), "{}", cluster.log());
    let report = Lab::load(80, 100).connections(200).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    // One more, and a stop that does not wait for the tracer.
    cluster.succeed("stop", &["--now"]);
    let status = cluster.master().wait(Duration::from_secs(10));
    assert!(status.success(), "{}", cluster.log());
}

fn log_is_gone(lab: &Lab) {
    let logs = lab.directory().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let output = format!("file:{}", logs.display());
    let cluster = Cluster::new(lab, 2)
        .argument("--output")
        .argument(output)
        .argument("--spawn-backoff")
        .argument("10ms..10ms");
    cluster.set_greeters("echo started");
    let command = cluster.adjustable_command();
    let mut cluster = cluster.start_with(&command, 2);
    let kill_first = |cluster: &mut Cluster<'_>| {
        let pid = cluster.status().pids()[&0];
        signal(pid, Signal::SIGKILL);
        cluster.wait_for("a successor", |status| {
            status.is_settled(2) && status.pids().get(&0).is_some_and(|it| *it != pid)
        });
    };
    std::fs::remove_dir_all(&logs).unwrap();
    kill_first(&mut cluster);
    wait_until("the error", Duration::from_secs(20), || {
        let log = cluster.log();
        let line = log.lines().find(|line| line.contains("the output of workers waits in memory"));
        line.is_some_and(|line| line.contains("ERROR") && line.contains("ENOENT"))
    });
    std::fs::create_dir(&logs).unwrap();
    let file = logs.join("t.seat-0.generation-1.log");
    wait_until("the log of before", Duration::from_secs(20), || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("started"))
    });
}

/// A server whose first process listens, and whose child processes accept; or end as soon as they are
/// started, as those of php-fpm do that cannot change their user.
const PREFORK: &str = "
import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('0.0.0.0', int(os.environ['PORT'])))
listener.listen(128)
def serve():
    body = f\"{os.getppid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\\n\"
    while True:
        connection, _ = listener.accept()
        connection.settimeout(5)
        try:
            connection.recv(1000)
            head = f'HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n'
            connection.sendall((head + body).encode())
        except OSError:
            pass
        connection.close()
children = 0
while True:
    while children < 2:
        if os.fork() == 0:
            if sys.argv[1] == 'serve':
                serve()
            os._exit(70)
        children += 1
    os.wait()
    children -= 1
";

fn prefork(lab: &Lab) {
    let (file, mode) = (lab.directory().join("prefork.py"), lab.directory().join("mode"));
    std::fs::write(&file, PREFORK).unwrap();
    std::fs::write(&mode, "serve").unwrap();
    let mut cluster =
        Cluster::on(lab, [Network::server_v4(80)], 2).argument("--ready-timeout").argument("4s");
    let script = "exec python3 \"$0\" \"$(cat \"$1\")\"";
    let began = Instant::now();
    cluster.start_master(&[
        "sh".into(),
        "-c".into(),
        script.into(),
        file.into(),
        mode.clone().into(),
    ]);
    cluster.wait_for_live(2);
    println!("live after {:?}", began.elapsed());
    let load = Load::to([Network::server_v4(80)])
        .from(Network::clients_v4(50))
        .pace(Pace::Rate(50.0))
        .start(lab.client())
        .unwrap();
    std::fs::write(&mode, "end").unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("none of its processes accepts connections"), "{error}");
    assert!(error.contains("its child processes end again"), "{error}");
    std::fs::write(&mode, "serve").unwrap();
    cluster.reload();
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(cluster.status().generation > 1);
}

/// Nothing but our table uses connection tracking here. While no worker is left its rules drop what comes;
/// that must not end the tracking of what retired workers still have.
fn last_of_all(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_adjustable(2);
    let mut held: Vec<Held> = Network::clients_v4(40)
        .map(|from| Held::open(lab.client(), from, Network::server_v4(80)).unwrap())
        .collect();
    cluster.reload();
    cluster.set_greeters("exit 1");
    for pid in cluster.status().pids().into_values() {
        signal(pid, Signal::SIGKILL);
    }
    cluster.wait_for("no live worker", |status| status.live().is_empty());
    let refused = Lab::load(80, 20).connections(20).start(lab.client()).unwrap().wait();
    assert_eq!(refused.answered(), 0, "nobody serves: {refused}");
    for connection in &mut held {
        connection.echo("still there").unwrap();
    }
    cluster.set_greeters("");
    cluster.reload();
    cluster.wait_for("two live workers", |status| status.live().len() == 2);
    for connection in &mut held {
        connection.echo("and still").unwrap();
    }
}

fn never_given_up(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2)
        .argument("--spawn-backoff")
        .argument("50ms..200ms")
        .argument("--spawn-give-up")
        .argument("2 in 60s");
    start_adjustable(&mut cluster, lab, "exit 3");
    // A seat that was given up after two failures would rest for a minute.
    wait_until("more failures than give a seat up", Duration::from_secs(20), || {
        cluster.log().matches("exited with status 3").count() >= 10
    });
    assert!(!cluster.log().contains("given up"), "{}", cluster.log());
    cluster.set_greeters("");
    let began = Instant::now();
    cluster.wait_for("a live worker", |status| !status.live().is_empty());
    assert!(began.elapsed() < Duration::from_secs(3), "nobody has to act");
}

fn other_numbers(lab: &Lab) {
    for numbers in [[4, 3, 3], [3, 4, 4], [2, 2, 2]] {
        let mut last = None;
        for workers in numbers {
            let mut cluster = Cluster::new(lab, workers).start(usize::from(workers));
            cluster.wait_until_settled(workers.into());
            // Nothing is under way for ever.
            cluster.reload();
            let status = cluster.wait_until_settled(workers.into());
            cluster.terminate_master();
            last = Some((cluster, status));
        }
        let (cluster, _) = last.expect("three masters");
        stop(lab, cluster);
    }
    // An operator scales, and the number is then that of the configuration.
    let mut cluster = Cluster::new(lab, 2).start(2);
    cluster.succeed("scale", &["4"]);
    cluster.wait_until_settled(4);
    cluster.terminate_master();
    let mut cluster = Cluster::new(lab, 4).start(4);
    cluster.wait_until_settled(4);
    cluster.succeed("scale", &["3"]);
    cluster.wait_until_settled(3);
}

/// Ends a cluster whose master has left.
fn stop(lab: &Lab, mut cluster: Cluster<'_>) {
    cluster.start_master(&[greeter().into()]);
    cluster.wait_for("a master", |status| !status.workers.is_empty());
    cluster.succeed("stop", &["--now"]);
    cluster.master().wait(Duration::from_secs(10));
    assert!(Path::new(lab.directory()).exists());
}
