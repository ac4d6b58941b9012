//! Nothing of a worker outlives it: processes that leave its group, its session and their parent.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use ipcluster::lab::Network;
use netns_tests::{Case, Cluster, Lab, Need, greeter, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_child_in_a_group_of_its_own_ends_with_its_worker", other_group),
        Case::new("stop_now_does_not_say_stopped_over_what_listens", stop_now),
        Case::new("a_daemon_that_a_worker_starts_ends_with_it", daemon).needs(Need::Python),
        Case::new("gunicorn_that_goes_into_the_background_is_ended_and_told_how_to_stay", gunicorn)
            .needs(Need::Gunicorn),
        Case::new("nginx_that_goes_into_the_background_is_ended_and_told_how_to_stay", nginx),
        Case::new("orphans_of_workers_are_waited_for", zombies).needs(Need::Python),
        Case::new("a_process_that_nothing_tells_of_is_known_by_the_port_of_its_worker", nameless)
            .needs(Need::Python),
        Case::new(
            "a_cluster_of_the_same_name_in_another_network_namespace_is_left_alone",
            other_namespace,
        ),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A shell that starts the greeter in a process group of its own, passes signals on and waits.
fn with_job_control() -> Vec<OsString> {
    let script =
        "set -m; \"$0\" & p=$!; trap \"kill -TERM $p\" TERM; while kill -0 $p; do wait $p; done";
    vec!["bash".into(), "-c".into(), script.into(), greeter().into()]
}

/// The processes with this in their command line.
fn processes(part: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        // The master has all of the command in its own.
        line.contains(part) && !line.contains("--listen") && is_alive(*pid)
    };
    pids.filter(|pid| *pid != std::process::id()).filter(has).collect()
}

fn greeters() -> Vec<u32> {
    let name = greeter().file_name().unwrap().to_str().unwrap().to_owned();
    processes(&name)
}

fn none_is_left(pids: &[u32]) {
    let left: Vec<&u32> = pids.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn other_group(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_with(&with_job_control(), 2);
    let before = greeters();
    assert_eq!(before.len(), 4, "a shell and a greeter each");
    // The shells die, and pass nothing on.
    for pid in cluster.status().pids().into_values() {
        signal(pid, Signal::SIGKILL);
    }
    wait_until("the end of what they left", PATIENCE, || !before.iter().any(|pid| is_alive(*pid)));
    cluster.wait_for_live(2);
    let log = cluster.log();
    assert!(log.contains("processes outside of its group that an ended worker left"), "{log}");
    let second = greeters();
    cluster.succeed("stop", &[]);
    none_is_left(&second);
}

fn stop_now(lab: &Lab) {
    // Deaf shells around deaf greeters: SIGKILL of the group reaches the shells alone.
    let script = "set -m; trap '' TERM; \"$0\" & while :; do wait; sleep 0.1; done";
    let command: [OsString; 4] = ["bash".into(), "-c".into(), script.into(), greeter().into()];
    let cluster = Cluster::new(lab, 2);
    let mut cluster = cluster.argument("--die-timeout").argument("300ms").start_with(&command, 2);
    let all = greeters();
    assert_eq!(all.len(), 4);
    let said = cluster.succeed("stop", &["--now"]);
    none_is_left(&all);
    assert!(said.starts_with("stopped: 2 workers ended"), "{said}");
    assert!(cluster.master().wait(PATIENCE).success(), "{}", cluster.log());
}

/// A Python program as a worker's file.
fn python(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let file = lab.directory().join(name);
    std::fs::write(&file, text).unwrap();
    file
}

/// Serves, and starts a helper that leaves its session and its parent. Arguments: whether it clears its
/// environment.
const WITH_HELPER: &str = "
import os, signal, socket, sys
if os.environ.get('LISTEN_PID') == str(os.getpid()):
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(('0.0.0.0', int(os.environ['PORT'])))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if sys.argv[1] == 'cleared':
            os.execve('/bin/sleep', ['helper-of-a-worker', '1000'], {})
        listener.close()
        os.execv('/bin/sleep', ['helper-of-a-worker', '1000'])
    os._exit(0)
os.wait()
while True:
    listener.accept()[0].close()
";

fn daemon(lab: &Lab) {
    let file = python(lab, "helper.py", WITH_HELPER);
    let command: [OsString; 3] = ["python3".into(), file.into(), "kept".into()];
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 2);
    let mut cluster = cluster.argument("--die-timeout").argument("300ms").start_with(&command, 2);
    wait_until("the helpers", PATIENCE, || processes("helper-of-a-worker").len() == 2);
    let helpers = processes("helper-of-a-worker");
    signal(cluster.status().pids()[&0], Signal::SIGKILL);
    let alive = || helpers.iter().filter(|pid| is_alive(**pid)).count();
    wait_until("the end of one helper", PATIENCE, || alive() == 1);
    cluster.wait_for_live(2);
    assert_eq!(alive(), 1, "that of the other worker goes on");
    wait_until("the helper of the next worker", PATIENCE, || {
        processes("helper-of-a-worker").len() == 2
    });
    cluster.succeed("stop", &[]);
    assert_eq!(processes("helper-of-a-worker"), [0; 0]);
}

/// A program as a worker that goes into the background: it does not get ready, and what to do is said.
fn background(lab: &Lab, command: &[OsString], part: &str, advice: &str) {
    let mut cluster =
        Cluster::on(lab, [Network::server_v4(80)], 1).argument("--die-timeout").argument("500ms");
    cluster.start_master(command);
    let began = std::time::Instant::now();
    while !cluster.log().contains(advice) {
        assert!(began.elapsed() < PATIENCE, "waited for {advice:?}:\n{}", cluster.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(cluster.log().contains("went into the background"), "{}", cluster.log());
    // It is tried again and again; each time nothing is left.
    let began = std::time::Instant::now();
    while !processes(part).is_empty() {
        assert!(began.elapsed() < PATIENCE, "{:?} go on:\n{}", processes(part), cluster.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.succeed("stop", &["--now"]);
    assert_eq!(processes(part), [0; 0], "{}", cluster.log());
}

fn gunicorn(lab: &Lab) {
    let app =
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'ok']\n";
    python(lab, "left_app.py", app);
    let command: Vec<OsString> = vec![
        "gunicorn".into(),
        "--daemon".into(),
        "--chdir".into(),
        lab.directory().into(),
        "left_app:app".into(),
    ];
    background(lab, &command, "left_app:app", "gunicorn without --daemon");
}

fn nginx(lab: &Lab) {
    let found = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
    let Some(nginx) = found.into_iter().find(|path| std::path::Path::new(path).is_file()) else {
        return println!("no nginx on this machine: nothing was tried");
    };
    let directory = lab.directory().display().to_string();
    let script = format!(
        "cat > {directory}/nginx.$IPCLUSTER_WORKER.conf <<EOF\n\
         pid {directory}/nginx.$IPCLUSTER_WORKER.pid;\n\
         error_log {directory}/nginx.log;\n\
         user root;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;\n\
         fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;\n\
         server {{ listen $PORT; }} }}\n\
         EOF\n\
         exec {nginx} -p {directory} -c {directory}/nginx.$IPCLUSTER_WORKER.conf"
    );
    let command: [OsString; 3] = ["sh".into(), "-c".into(), script.into()];
    background(lab, &command, "nginx: master", "nginx -g 'daemon off;'");
}

fn zombies(lab: &Lab) {
    // Each of its children leaves one that ends a moment later.
    let text = "
import os, socket
if os.environ.get('LISTEN_PID') == str(os.getpid()):
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(('0.0.0.0', int(os.environ['PORT'])))
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            os.execv('/bin/sleep', ['orphan-of-a-worker', '0.2'])
        os._exit(0)
    os.wait()
while True:
    listener.accept()[0].close()
";
    let command: [OsString; 2] = ["python3".into(), python(lab, "zombies.py", text).into()];
    let mut cluster = Cluster::on(lab, [Network::server_v4(80)], 1).start_with(&command, 1);
    let master = cluster.status().pid;
    let children_that_ended = || {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let stats = entries.filter_map(|it| std::fs::read_to_string(it.path().join("stat")).ok());
        let is_zombie = |stat: &String| stat.contains(&format!(") Z {master} "));
        stats.filter(is_zombie).count()
    };
    wait_until("the end of the orphans", PATIENCE, || {
        processes("orphan-of-a-worker").is_empty() && children_that_ended() == 0
    });
    cluster.wait_for_live(1);
    cluster.succeed("stop", &[]);
}

fn nameless(lab: &Lab) {
    let text = "
import os, socket, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    listener = socket.create_server(('0.0.0.0', int(os.environ['PORT'])))
    os.set_inheritable(listener.fileno(), True)
    os.execve('/bin/sleep', ['stranger', '1000'], {})
os.wait()
time.sleep(0.5)
os._exit(3)
";
    // Nothing tells whose it is but that it became a child of the master and has the port.
    let command: [OsString; 2] = ["python3".into(), python(lab, "stranger.py", text).into()];
    let mut cluster = Cluster::on(lab, [Network::server_v4(80)], 1);
    cluster.start_master(&command);
    wait_until("a process without a sign", PATIENCE, || !processes("stranger\0").is_empty());
    wait_until("its end", PATIENCE, || {
        cluster.log().contains("that an ended worker left are ended: stranger")
            || cluster.log().contains("that an ended worker left are ended: sleep")
    });
    cluster.succeed("stop", &["--now"]);
    assert_eq!(processes("stranger\0"), [0; 0], "{}", cluster.log());
}

/// What another master calls its first worker looks the same as ours. As a control the same process in the
/// namespace of our workers is ended.
fn other_namespace(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let victim = cluster.status().pids()[&0];
    let environment = std::fs::read(format!("/proc/{victim}/environ")).unwrap();
    let variables: Vec<(OsString, OsString)> = environment
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            Some((text(&entry[..at]), text(&entry[at + 1..])))
        })
        .collect();
    // Neither is in a session of the master, nor a child of it. Like workers they have no capabilities: those
    // of a process that has more than the master may not be read by it.
    let start = || {
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set=-all", "--inh-caps=-all", "setsid", "sleep", "600"])
            .env_clear()
            .envs(variables.clone());
        command.spawn().unwrap()
    };
    let mut there = lab.client().run_in(start).unwrap();
    let mut here = lab.server().run_in(start).unwrap();
    // A process has its number before it is `sleep`.
    let has_started = |child: &Child| {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id()));
        name.is_ok_and(|name| name.trim_end() == "sleep")
    };
    wait_until("both sleepers", PATIENCE, || has_started(&there) && has_started(&here));
    signal(victim, Signal::SIGKILL);
    wait_until("the end of what is here", PATIENCE, || here.try_wait().unwrap().is_some());
    cluster.wait_for_live(2);
    // The remains of the other worker are looked for, too.
    signal(cluster.status().pids()[&1], Signal::SIGKILL);
    cluster.wait_for_live(2);
    cluster.succeed("stop", &[]);
    assert!(there.try_wait().unwrap().is_none(), "{}", cluster.log());
    there.kill().unwrap();
    there.wait().unwrap();
}
