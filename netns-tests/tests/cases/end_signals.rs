//! How workers are told that they are retired, and to end: `stop_signal`, `retire_signal`, `kill_mode`.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, is_alive, wait_until};
use nix::libc;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("each_signal_comes_in_its_time_to_the_main_process_alone", mixed)
            .needs(Need::Python)
            .with_both_engines(),
        Case::new("by_default_sigterm_goes_to_the_whole_group", group).needs(Need::Python),
        Case::new("what_the_main_process_leaves_is_told_to_end_and_then_killed", process)
            .needs(Need::Python),
        Case::new("a_worker_that_got_its_retire_signal_is_not_recalled", not_recalled)
            .needs(Need::Python),
        Case::new("signals_that_there_are_not_are_refused", refused),
        Case::new("a_master_that_follows_one_that_was_killed_tells_nobody_twice", killed_master)
            .needs(Need::Python),
        Case::new("a_shell_a_python_and_a_node_program_read_that_they_are_retired", state_file)
            .needs(Need::Python)
            .needs(Need::Node)
            .with_both_engines_on_request(),
        Case::new("a_worker_of_another_user_can_read_its_state_file_and_not_write_it", other_user)
            .needs(Need::Python)
            .needs(Need::OtherUsers),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Two workers of `signals.py`, with these arguments of `run`.
fn cluster<'a>(lab: &'a Lab, arguments: &[&str], child: &str) -> Cluster<'a> {
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 2);
    let cluster = arguments.iter().fold(cluster, |cluster, argument| cluster.argument(*argument));
    cluster.start_with(&worker(lab, child), 2)
}

fn worker(lab: &Lab, child: &str) -> Vec<OsString> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/signals.py");
    vec!["python3".into(), program.into(), lab.directory().into(), child.into()]
}

/// The numbers of the signals that a process of generation 1 has got.
fn got(lab: &Lab, seat: u16, who: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(lab.directory().join(format!("1.{seat}.{who}")));
    text.unwrap_or_default().lines().map(|line| line.parse().unwrap()).collect()
}

fn wait_for(lab: &Lab, seat: u16, who: &str, signals: &[i32]) {
    wait_until(&format!("{signals:?} of the {who} process in seat {seat}"), PATIENCE, || {
        got(lab, seat, who) == signals
    });
}

fn hold(lab: &Lab) -> Held {
    let from = Network::clients_v4(1).next().unwrap();
    Held::open(lab.client(), from, Network::server_v4(80)).unwrap()
}

/// All processes of generation 1, of the group or not.
fn processes() -> Vec<u32> {
    let is_of_ours = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|it| it == b"IPCLUSTER_GENERATION=1") && is_alive(*pid)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_of_ours).collect()
}

fn mixed(lab: &Lab) {
    let real_time = libc::SIGRTMIN() + 3;
    let arguments = ["--stop-signal", "QUIT", "--retire-signal", "RTMIN+3", "--kill-mode", "mixed"];
    let mut cluster = cluster(lab, &arguments, "stay");
    let mut held = hold(lab);
    let (its, other) = (held.by().seat, 1 - held.by().seat);
    cluster.reload();
    wait_for(lab, its, "main", &[real_time]);
    wait_for(lab, other, "main", &[real_time, libc::SIGQUIT]);
    held.echo("served after its retire signal").unwrap();
    assert_eq!(got(lab, its, "main"), [real_time], "sent once, and no stop signal");
    drop(held);
    wait_for(lab, its, "main", &[real_time, libc::SIGQUIT]);
    cluster.wait_until_settled(2);
    wait_until("the end of all its processes", PATIENCE, || processes().is_empty());
    for seat in [0, 1] {
        let by_child = got(lab, seat, "child");
        assert!(by_child.is_empty(), "{by_child:?}: SIGKILL alone, which nobody can write down");
    }
    cluster.succeed("stop", &[]);
}

fn group(lab: &Lab) {
    let mut cluster = cluster(lab, &["--die-timeout", "500ms"], "stay");
    cluster.reload();
    for (seat, who) in [(0, "main"), (1, "main"), (0, "child"), (1, "child")] {
        wait_until("SIGTERM", PATIENCE, || got(lab, seat, who).first() == Some(&libc::SIGTERM));
    }
    cluster.wait_until_settled(2);
    wait_until("the end of all its processes", PATIENCE, || processes().is_empty());
    cluster.succeed("stop", &[]);
}

fn process(lab: &Lab) {
    let arguments = ["--kill-mode", "process", "--die-timeout", "2s", "--stop-signal", "SIGQUIT"];
    let mut cluster = cluster(lab, &arguments, "stay");
    cluster.reload();
    for seat in [0, 1] {
        wait_for(lab, seat, "main", &[libc::SIGQUIT]);
        wait_for(lab, seat, "child", &[libc::SIGQUIT]);
    }
    cluster.wait_until_settled(2);
    wait_until("the end of all its processes", PATIENCE, || processes().is_empty());
    cluster.succeed("stop", &[]);
}

fn not_recalled(lab: &Lab) {
    let mut cluster = cluster(lab, &["--retire-signal", "WINCH"], "stay");
    let held = hold(lab);
    let seat = held.by().seat;
    cluster.reload();
    wait_for(lab, seat, "main", &[libc::SIGWINCH]);
    let refusal = cluster.fail("rollback", &[]);
    assert!(refusal.contains("generation 1 cannot serve again"), "{refusal}");
    assert_eq!(cluster.status().generation, 2);
    // Nor does a master that adopts it tell it again.
    let mut old = cluster.replace_master(&worker(lab, "stay"));
    old.wait(PATIENCE);
    cluster.wait_for("two live workers of generation 2", |status| {
        status.live().len() == 2 && status.generation == 2
    });
    drop(held);
    wait_for(lab, seat, "main", &[libc::SIGWINCH, libc::SIGTERM]);
    cluster.wait_until_settled(2);
    cluster.succeed("stop", &[]);
}

fn refused(lab: &Lab) {
    for (flag, value, said) in [
        ("--stop-signal", "STOP", "SIGSTOP: expected the name of a signal but STOP"),
        ("--stop-signal", "QIUT", "expected the name of a signal, with or without SIG: HUP"),
        ("--retire-signal", "KILL", "programs can handle: not KILL or STOP"),
        ("--kill-mode", "cgroup", "expected group, mixed or process"),
    ] {
        let mut cluster = Cluster::new(lab, 1).argument(flag).argument(value);
        cluster.start_master(&["true".into()]);
        let status = cluster.master().wait(PATIENCE);
        assert_eq!(status.code(), Some(2), "{}", cluster.log());
        assert!(cluster.log().contains(said), "{flag} {value}: {}", cluster.log());
    }
}

fn killed_master(lab: &Lab) {
    let mut cluster = cluster(lab, &["--retire-signal", "WINCH"], "stay");
    let held = hold(lab);
    let seat = held.by().seat;
    cluster.reload();
    wait_for(lab, seat, "main", &[libc::SIGWINCH]);
    cluster.kill_master();
    cluster.start_master(&worker(lab, "stay"));
    cluster.wait_for("two live workers of generation 2", |status| {
        status.live().len() == 2 && status.generation == 2
    });
    let refusal = cluster.fail("rollback", &[]);
    assert!(refusal.contains("cannot roll back") || refusal.contains("no earlier"), "{refusal}");
    drop(held);
    wait_for(lab, seat, "main", &[libc::SIGWINCH, libc::SIGTERM]);
    cluster.wait_until_settled(2);
    cluster.succeed("stop", &[]);
}

/// A program that serves, and says on its output when it reads that it is retired: in three languages, each
/// in the way that is usual there.
fn state_file(lab: &Lab) {
    let python = "
import os, socket, threading, time
if os.environ.get('LISTEN_PID') == str(os.getpid()):
    listener = socket.socket(fileno=3)
else:
    listener = socket.create_server(('0.0.0.0', int(os.environ['PORT'])))
def watch():
    with open(os.environ['IPCLUSTER_STATE_FILE']) as state:
        while 'RETIRING=1' not in state.readline():
            time.sleep(0.02)
    print('python reads that it is retired', flush=True)
threading.Thread(target=watch, daemon=True).start()
while True:
    listener.accept()[0].close()
";
    let node = "
const fs = require('fs'), net = require('net'), file = process.env.IPCLUSTER_STATE_FILE;
const server = net.createServer(socket => socket.end());
server.listen(process.env.LISTEN_FDS ? { fd: 3 } : { port: process.env.PORT, host: '0.0.0.0' });
const watcher = fs.watch(file, () => {
    if (!fs.readFileSync(file, 'utf8').trimEnd().endsWith('RETIRING=1')) return;
    console.log('node reads that it is retired');
    watcher.close();
});
";
    let directory = lab.directory();
    std::fs::write(directory.join("state.py"), python).unwrap();
    std::fs::write(directory.join("state.js"), node).unwrap();
    let shell = format!(
        "if [ $IPCLUSTER_SEAT = 0 ]; then exec python3 {0}/state.py; fi\n\
         if [ $IPCLUSTER_SEAT = 1 ]; then exec node {0}/state.js; fi\n\
         tail -f \"$IPCLUSTER_STATE_FILE\" | {{ grep -qm1 RETIRING=1; echo the shell reads that it is \
         retired; }} &\n\
         exec python3 -c \"$(sed 's/^threading.*//' {0}/state.py)\"",
        directory.display()
    );
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 3);
    let cluster = cluster.argument("--retire-signal").argument("CONT");
    let mut cluster = cluster.start_with(&["sh".into(), "-c".into(), shell.into()], 3);
    let all = ["python reads", "node reads", "the shell reads"];
    assert!(!all.iter().any(|who| cluster.log().contains(who)), "{}", cluster.log());
    cluster.reload();
    wait_until("all three to read it", PATIENCE, || {
        all.iter().all(|who| cluster.log().contains(&format!("{who} that it is retired")))
    });
    cluster.wait_until_settled(3);
    cluster.succeed("stop", &[]);
}

fn other_user(lab: &Lab) {
    let text = "
import os, socket
state = os.environ['IPCLUSTER_STATE_FILE']
print('state file', repr(open(state).read()), os.access(state, os.W_OK), os.getuid(), flush=True)
listener = socket.create_server(('0.0.0.0', int(os.environ['PORT'])))
while True:
    listener.accept()[0].close()
";
    let command: [OsString; 3] = ["python3".into(), "-c".into(), text.into()];
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 1);
    let mut cluster = cluster.argument("--user").argument("nobody").start_with(&command, 1);
    wait_until("what it reads", PATIENCE, || cluster.log().contains("state file '' False 65534"));
    let path = Path::new("/run/ipcluster-workers/t.states/1");
    assert!(path.exists());
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(PATIENCE).success(), "{}", cluster.log());
    assert!(!path.exists(), "nothing is left of it");
}
