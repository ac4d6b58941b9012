//! Processes of workers do not command the cluster, though they run as the user who may; operators do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, Need, greeter, ipcluster, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_worker_may_look_and_not_command", worker_asks),
        Case::new("whatever_a_worker_starts_may_not_command", children_ask).needs(Need::Python),
        Case::new("a_daemon_of_a_worker_that_another_master_began_may_not_command", daemon_asks)
            .needs(Need::Python),
        Case::new("workers_command_where_that_is_configured", configured),
        Case::new("a_hook_may_command", hook_asks),
    ]
}

/// Workers of which the first runs `script`, with the program as `$IPC`, when there is a file `go`; all serve. What
/// is printed stands in `out`, and `done` is there afterwards.
fn worker(lab: &Lab, script: &str) -> Vec<OsString> {
    let directory = lab.directory().to_owned();
    let text = format!(
        "mkdir '{0}/asks' && (while ! [ -e '{0}/go' ]; do read -t 0.05 <> <(:) || :; done\n{script}\n\
         touch '{0}/done') >'{0}/out' 2>&1 &\nexec '{1}'",
        directory.display(),
        greeter().display()
    );
    ["bash", "-c", &text].map(OsString::from).into()
}

fn start<'a>(lab: &'a Lab, script: &str, settings: &[&str]) -> Cluster<'a> {
    configured_with(lab, settings).start_with(&worker(lab, script), 1)
}

/// A cluster of one worker, which knows where the program and the master are.
fn configured_with<'a>(lab: &'a Lab, settings: &[&str]) -> Cluster<'a> {
    let cluster = settings.iter().fold(Cluster::new(lab, 1), |cluster, it| cluster.argument(*it));
    let directory = lab.directory().display().to_string();
    let (program, program_name) = (ipcluster().display().to_string(), "IPC");
    [(program_name, &*program), ("XDG_RUNTIME_DIR", &*directory)]
        .into_iter()
        .fold(cluster, |cluster, (name, value)| {
            cluster.environment(name, value).argument("--env").argument(name)
        })
}

/// Lets the worker do what it is to do, and returns what that printed.
fn done(lab: &Lab) -> String {
    let file = |name: &str| lab.directory().join(name);
    std::fs::write(file("go"), "").unwrap();
    wait_until("the worker has asked", Duration::from_secs(20), || file("done").exists());
    std::fs::read_to_string(file("out")).unwrap()
}

fn worker_asks(lab: &Lab) {
    let script = "for verb in 'scale 3' reload 'retire 0' 'stop --now' clear-retired; do\n\
                  set -- $verb; verb=$1; shift\n$IPC $verb t \"$@\"; echo code $?\ndone\n\
                  $IPC status t >/dev/null && echo seen";
    let mut cluster = start(lab, script, &[]);
    let pid = cluster.status().pids()[&0];
    let printed = done(lab);
    assert_eq!(printed.matches("code 1").count(), 5, "{printed}");
    assert!(printed.ends_with("seen\n"), "{printed}");
    let refusals = printed.matches(", which asks, comes from the worker of seat 0: ");
    assert_eq!(refusals.count(), 5, "{printed}");
    assert!(printed.contains("worker_commands = true"), "{printed}");
    assert!(cluster.log().contains("refused: process "), "{}", cluster.log());
    assert_eq!((cluster.status().generation, cluster.status().pids()[&0]), (1, pid));
    // An operator, from a shell in the same cgroup.
    cluster.reload();
    cluster.wait_until_settled(1);
    cluster.succeed("scale", &["2"]);
    cluster.wait_until_settled(2);
}

/// A script of Python as a child of the worker does this: a session of its own, and, as a daemon, a parent that
/// has ended. It runs the program with an environment of its own.
const ASK: &str = r#"
import os, socket, subprocess, sys, time
if os.fork():
    os.wait() if "daemon" not in sys.argv else os._exit(0)
    sys.exit()
os.setsid()
if "daemon" in sys.argv:
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)
    while os.path.exists(f"/proc/{sys.argv[3]}") and "later" in sys.argv:
        time.sleep(0.02)
before = os.getppid()
environment = {"XDG_RUNTIME_DIR": sys.argv[2]}
with open(sys.argv[2] + "/asked", "w") as out:
    while True:
        ended = subprocess.run([sys.argv[1], "scale", "t", "3"], env=environment, capture_output=True, text=True)
        if "cannot connect" not in ended.stderr and "no master" not in ended.stderr:
            break
        time.sleep(0.02)
    out.write(f"{ended.returncode} {ended.stderr}")
    with socket.socket(socket.AF_UNIX) as master:
        master.connect("/run/ipcluster/t.sock")
        master.sendall(b'{"command":"takeover","format":1}\n')
        out.write("takeover: " + master.recv(4096).decode(errors="replace") + "\n")
os.rename(sys.argv[2] + "/asked", sys.argv[2] + "/answer")
"#;

fn asking(lab: &Lab, words: &str) -> (String, PathBuf) {
    let script = lab.directory().join("ask.py");
    std::fs::write(&script, ASK).unwrap();
    let directory = lab.directory().display();
    let text = format!("python3 '{}' $IPC '{directory}' {words} &", script.display());
    (text, lab.directory().join("answer"))
}

fn answer(file: &Path) -> String {
    wait_until("the answer", Duration::from_secs(20), || file.exists());
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::remove_file(file).unwrap();
    text
}

fn children_ask(lab: &Lab) {
    let (child, file) = asking(lab, "0 child");
    let (daemon, _) = asking(lab, "0 daemon");
    let then = format!("while ! [ -e '{}/next' ]; do sleep 0.05; done", lab.directory().display());
    let cluster = start(lab, &format!("{child}\n{then}\n{daemon}"), &[]);
    std::fs::write(lab.directory().join("go"), "").unwrap();
    let of_child = answer(&file);
    assert!(of_child.starts_with("1 "), "{of_child}");
    assert!(of_child.contains("comes from the worker of seat 0"), "{of_child}");
    std::fs::write(lab.directory().join("next"), "").unwrap();
    let of_daemon = answer(&file);
    assert!(of_daemon.starts_with("1 "), "{of_daemon}");
    assert!(of_daemon.contains("comes from a worker: workers may not"), "{of_daemon}");
    assert_eq!(cluster.status().workers.len(), 1);
}

fn daemon_asks(lab: &Lab) {
    // It asks when the master that it came to has ended: it is nobody's child and in no session of a worker.
    let pid_file = lab.directory().join("master");
    let (daemon, file) = asking(lab, &format!("$(cat '{}') daemon later", pid_file.display()));
    let mut cluster = start(lab, &daemon, &[]);
    std::fs::write(&pid_file, cluster.master().pid().to_string()).unwrap();
    done(lab);
    cluster.kill_master();
    // As configured before: the next master keeps the worker, and ends nothing of what that has left.
    let mut cluster = configured_with(lab, &[]);
    cluster.start_master(&worker(lab, &daemon));
    let refused = answer(&file);
    assert!(refused.starts_with("1 "), "{refused}");
    assert!(refused.contains("comes from a worker: workers may not"), "{refused}");
    cluster.wait_for("a worker", |status| status.live().len() == 1);
}

fn configured(lab: &Lab) {
    let cluster = start(lab, "$IPC scale t 2; echo code $?", &["--worker-commands"]);
    let printed = done(lab);
    assert!(printed.ends_with("code 0\n"), "{printed}");
    assert_eq!(cluster.status().live().len(), 2);
}

fn hook_asks(lab: &Lab) {
    let out = lab.directory().join("hook");
    let hook = format!(
        "export XDG_RUNTIME_DIR='{}'\n'{}' clear-retired t >'{out}.new' 2>&1\necho code $? >>'{out}.new'\n\
         mv '{out}.new' '{out}'",
        lab.directory().display(),
        ipcluster().display(),
        out = out.display(),
    );
    let words = ["sh", "-c", &hook];
    let cluster = words.iter().fold(Cluster::new(lab, 1), |cluster, word| {
        cluster.argument(format!("--after-reload={word}"))
    });
    let cluster = cluster.start(1);
    cluster.reload();
    wait_until("the hook has asked", Duration::from_secs(20), || out.exists());
    let printed = std::fs::read_to_string(&out).unwrap();
    assert!(printed.ends_with("code 0\n"), "{printed}");
}
