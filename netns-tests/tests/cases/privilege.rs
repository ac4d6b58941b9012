//! Without `CAP_NET_ADMIN` nothing is begun, and the message says what is missing. With it, a master
//! keeps no more than it needs, and its workers have nothing.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use netns_tests::{
    Case, Cluster, Lab, Need, Status, greeter, ipcluster, is_alive, signal, wait_until,
};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("run_without_the_capability", run_without_it).needs(Need::Nft).needs(Need::Pids),
        Case::new("other_verbs_without_the_capability", other_verbs).needs(Need::Nft),
        Case::new("a_master_keeps_one_capability_and_its_workers_none", least)
            .needs(Need::Pids)
            .with_both_engines(),
        Case::new("workers_run_as_a_user_by_name", as_nobody)
            .needs(Need::OtherUsers)
            .needs(Need::Pids)
            .with_both_engines(),
        Case::new("workers_run_as_a_user_by_number", by_number)
            .needs(Need::OtherUsers)
            .needs(Need::Pids),
        Case::new("a_user_that_workers_cannot_run_as_is_named", impossible_users),
    ]
}

/// `ipcluster` with these arguments, in the server's namespace and without the capability.
fn without_capability(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
    command.arg(ipcluster()).args(arguments);
    command.env("XDG_RUNTIME_DIR", lab.directory());
    lab.server().run_in(|| command.output()).unwrap().expect("setpriv (util-linux)")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run_without_it(lab: &Lab) {
    let marker = lab.directory().join("a-worker-was-started");
    let script = format!("touch {}; exec {}", marker.display(), greeter().display());
    let arguments =
        ["run", "--name", "t", "--listen", "10.9.0.1:80", "--workers", "2", "--", "sh", "-c"];
    let began = Instant::now();
    let output = without_capability(lab, &[&arguments[..], &[&script]].concat());
    let took = began.elapsed();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(took < Duration::from_secs(1), "{took:?}");
    let errors = text(&output.stderr);
    assert!(errors.contains("CAP_NET_ADMIN"), "{errors}");
    assert!(!marker.exists(), "no worker was started");
    assert_eq!(lab.witness().ruleset(), "", "there is no table");

    // With it, the same command line starts its workers: so that was what it lacked.
    let mut command = Command::new(ipcluster());
    command.args(arguments).arg(&script);
    let mut master = lab.start("master", command);
    wait_until("a table", Duration::from_secs(10), || {
        assert!(master.is_running(), "{}", master.output());
        marker.exists() && lab.witness().ruleset().contains("table inet ipcluster_t")
    });
}

fn other_verbs(lab: &Lab) {
    for arguments in [&["flush", "t"][..], &["explain", "t", "10.8.0.1"], &["check"]] {
        let began = Instant::now();
        let output = without_capability(lab, arguments);
        let said = text(&output.stderr) + &text(&output.stdout);
        assert!(!output.status.success(), "{arguments:?}: {said}");
        assert!(said.contains("CAP_NET_ADMIN"), "{arguments:?}: {said}");
        assert!(began.elapsed() < Duration::from_secs(1), "{arguments:?}");
    }
    assert_eq!(lab.witness().ruleset(), "");
}

/// Bits of capabilities (include/uapi/linux/capability.h).
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const NET_ADMIN: u64 = 1 << 12;

/// The lines of a `/proc/PID/status`, by name.
fn lines_of(path: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")))
    };
    text.lines().filter_map(pair).collect()
}

/// Asserts what a thread holds, and that it can get nothing more.
fn assert_holds(path: &str, held: u64) {
    let status = lines_of(path);
    for (set, expected) in
        [("CapEff", held), ("CapPrm", held), ("CapInh", 0), ("CapAmb", 0), ("CapBnd", 0)]
    {
        assert_eq!(status[set], format!("{expected:016x}"), "{path}: {set}: {status:?}");
    }
    assert_eq!(status["NoNewPrivs"], "1", "{path}");
}

/// Each thread has capabilities of its own.
fn assert_all_threads_hold(pid: u32, held: u64) {
    let threads: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).unwrap().collect();
    assert!(threads.len() > 1, "the spawner is a thread");
    for thread in threads {
        assert_holds(thread.unwrap().path().join("status").to_str().unwrap(), held);
    }
}

fn assert_workers(status: &Status, uid: u32, gid: u32, groups: &str) {
    assert!(!status.pids().is_empty());
    for pid in status.pids().values() {
        let path = format!("/proc/{pid}/status");
        assert_holds(&path, 0);
        let lines = lines_of(&path);
        assert_eq!(lines["Uid"], [uid; 4].map(|it| it.to_string()).join(" "));
        assert_eq!(lines["Gid"], [gid; 4].map(|it| it.to_string()).join(" "));
        assert_eq!(lines["Groups"], groups);
    }
}

/// The variables of a process.
fn environment(pid: u32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let pairs = text.split_terminator('\0').filter_map(|entry| entry.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn least(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).environment("USER", "somebody").start(2);
    let ours = lines_of("/proc/self/status");
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    for _ in 0..2 {
        assert_all_threads_hold(cluster.master().pid(), NET_ADMIN);
        assert_workers(&cluster.status(), uid, gid, &ours["Groups"]);
        cluster.reload();
    }
    // What the master's starter said of itself is passed on as ever.
    for pid in cluster.status().pids().values() {
        assert_eq!(environment(*pid).get("USER").map(String::as_str), Some("somebody"));
    }
}

fn as_nobody(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).argument("--user").argument("nobody");
    let cluster = cluster.environment("HOME", "/root").argument("--env").argument("SHELL=/bin/own");
    let cluster = run_as_other(lab, cluster, 65_534, 65_534, "65534");
    for pid in cluster.status().pids().values() {
        let variables = environment(*pid);
        let of = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!((of("USER"), of("LOGNAME")), (Some("nobody"), Some("nobody")));
        assert_eq!(of("HOME"), Some("/nonexistent"));
        assert_eq!(of("SHELL"), Some("/bin/own"), "what `env` sets is set");
    }
}

fn by_number(lab: &Lab) {
    let user = ["--user", "54321", "--group", "54322"];
    let cluster = user.iter().fold(Cluster::new(lab, 2), |cluster, word| cluster.argument(*word));
    let cluster = cluster.environment("HOME", "/root").environment("USER", "root");
    let mut cluster = run_as_other(lab, cluster, 54_321, 54_322, "54322");
    for pid in cluster.status().pids().values() {
        let variables = environment(*pid);
        for name in ["HOME", "USER", "LOGNAME", "SHELL"] {
            assert_eq!(variables.get(name), None, "nothing is known of that user");
        }
    }
    // Signals reach the workers.
    let workers = cluster.status().pids();
    cluster.succeed("stop", &["--now"]);
    cluster.master().wait(Duration::from_secs(5));
    assert!(workers.values().all(|pid| !is_alive(*pid)));
}

/// Starts it with workers that every user may run, and lets all happen to them that can.
fn run_as_other<'a>(
    lab: &'a Lab,
    cluster: Cluster<'a>,
    uid: u32,
    gid: u32,
    groups: &str,
) -> Cluster<'a> {
    let worker = lab.for_everyone(&greeter());
    let mut cluster = cluster.start_with(&[worker.clone().into()], 2);
    let held = NET_ADMIN | SETUID | SETGID | KILL;
    assert_all_threads_hold(cluster.master().pid(), held);
    assert_workers(&cluster.status(), uid, gid, groups);

    cluster.reload();
    cluster.wait_until_settled(2);
    let before = cluster.status();
    let pids: Vec<u32> = before.pids().into_values().collect();
    signal(pids[0], Signal::SIGKILL);
    let after = cluster.wait_for("a successor", |status| {
        status.is_settled(2) && !status.pids().values().any(|pid| *pid == pids[0])
    });
    assert_workers(&after, uid, gid, groups);
    assert_all_threads_hold(cluster.master().pid(), held);
    // The next master may look at them, and adopts them.
    cluster.kill_master();
    cluster.start_master(&[worker.into()]);
    assert_eq!(cluster.wait_until_settled(2).pids(), after.pids());
    assert_all_threads_hold(cluster.master().pid(), held);
    let load = Lab::load(80, 100).connections(200).start(lab.client()).unwrap().wait();
    assert_eq!(load.failed(), 0, "{load}");
    cluster
}

fn impossible_users(lab: &Lab) {
    let run = ["run", "--listen", "10.9.0.1:80", "--", "true"];
    let refused = |program: &str, wrapper: &[&str], more: &[&str], expected: &[&str]| {
        let mut command = Command::new(program);
        command.args(wrapper).arg(ipcluster()).arg("run").args(more).args(&run[1..]);
        command.env("XDG_RUNTIME_DIR", lab.directory());
        let output = lab.server().run_in(|| command.output()).unwrap();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{more:?}: {errors}");
        for part in expected {
            assert!(errors.contains(part), "{more:?}: expected {part} in: {errors}");
        }
    };
    refused("env", &[], &["--user", "no-such-user"], &["`user`", "no-such-user", "getent"]);
    refused("env", &[], &["--group", "no-such-group"], &["`group`", "no-such-group"]);
    refused("env", &[], &["--user", "3999999999"], &["`user`", "`group`"]);
    // As the only user of a user namespace.
    let alone = ["--user", "--map-root-user", "--net"];
    refused("unshare", &alone, &["--user", "65534"], &["`user`", "user namespace"]);
    refused("unshare", &alone, &["--group", "65534"], &["`group`", "user namespace"]);
    // Without a capability that it takes.
    let less = ["--bounding-set", "-setuid", "--inh-caps", "-setuid"];
    if fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") {
        refused("setpriv", &less, &["--user", "65534"], &["`user`", "CAP_SETUID"]);
    }
    wait_until("nothing to be left", Duration::from_secs(5), || {
        !lab.directory().join("ipcluster/main.sock").exists()
    });
}
