//! A master that gets no process (F19) and no descriptor (F20) any more lives on, and recovers.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, Process, greeter, ipcluster, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("without_processes_a_master_tries_again", no_processes)
            .needs(Need::OtherUsers)
            .needs(Need::Pids),
        Case::new("without_descriptors_a_master_serves_on", no_descriptors).needs(Need::Pids),
    ]
}

const PATIENCE: Duration = Duration::from_secs(10);

/// A user of whom there is no other process: the limit counts all of a user's.
const USER: u32 = 54_321;

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children"));
    let texts = threads.filter_map(|thread| read(thread.ok()?).ok());
    let numbers = |text: String| text.split(' ').filter_map(|it| it.parse().ok()).collect();
    texts.flat_map::<Vec<u32>, _>(numbers).filter(|pid| netns_tests::is_alive(*pid)).collect()
}

/// Runs a program as that user, with `CAP_NET_ADMIN`.
fn as_user(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let id = USER.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    command.args(["--inh-caps=+net_admin", "--ambient-caps=+net_admin", program]);
    command
}

/// Sets a soft limit of a process.
fn limit(mut command: Command, pid: u32, limit: &str) {
    command.args(["--pid", &pid.to_string(), limit]);
    let output = command.output().expect("prlimit and setpriv (util-linux)");
    assert!(output.status.success(), "{output:?}");
}

fn count(master: &Process, text: &str) -> usize {
    master.output().matches(text).count()
}

fn no_processes(lab: &Lab) {
    let directory = lab.directory().join("other");
    fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    chown(&directory, Some(USER), Some(USER)).unwrap();
    let mut command = as_user(lab.for_everyone(&ipcluster()).to_str().unwrap());
    command.arg("run").arg("--runtime-dir").arg(directory.join("run"));
    command.args(["--listen", "10.9.0.1:80", "--workers", "2", "--spawn-stagger", "0"]);
    command.args(["--spawn-backoff", "20ms..100ms", "--"]).arg(lab.for_everyone(&greeter()));
    let mut master = lab.start("master", command);
    let pid = master.pid();
    wait_until("two workers", PATIENCE, || {
        assert!(master.is_running(), "{}", master.output());
        count(&master, "2 of 2 seats occupied") == 1
    });
    let workers = children(pid);
    assert_eq!(workers.len(), 2);

    limit(as_user("prlimit"), pid, "--nproc=1:");
    let failures = "cannot make a process";
    assert_eq!(count(&master, failures), 0);
    signal(workers[0], Signal::SIGKILL);
    wait_until("three tries", PATIENCE, || {
        assert!(master.is_running(), "{}", master.output());
        count(&master, failures) >= 3
    });
    // What it does beside its loop goes on, and clients of the dead one reach the other.
    assert_eq!(children(pid), workers[1..]);
    let load = Lab::load(80, 50).connections(100).start(lab.client()).unwrap();
    drop(load.stop());
    let mut held =
        Held::open(lab.client(), Network::clients_v4(1).next().unwrap(), Network::server_v4(80));
    held.as_mut().unwrap().echo("from the one that is left").unwrap();

    limit(as_user("prlimit"), pid, "--nproc=4096:");
    wait_until("the second worker again", PATIENCE, || {
        assert!(master.is_running(), "{}", master.output());
        count(&master, "2 of 2 seats occupied") >= 2
    });
    assert_eq!(children(pid).len(), 2);
    master.signal(Signal::SIGTERM);
    assert!(master.wait(PATIENCE).success(), "{}", master.output());
}

/// The lowest descriptor that a process does not have: with a limit of so many it gets none.
fn first_free(pid: u32) -> u64 {
    let taken = |number: &u64| fs::symlink_metadata(format!("/proc/{pid}/fd/{number}")).is_ok();
    (0..).find(|number| !taken(number)).unwrap()
}

/// How many seats are occupied, as the log has it last: the status is not to be had.
fn in_force(cluster: &Cluster<'_>) -> String {
    let log = cluster.log();
    let said = |line: &str| {
        let (_, after) = line.split_once("in force, ")?;
        Some(after.split_once(" seats occupied")?.0.to_owned())
    };
    log.lines().rev().find_map(said).unwrap_or_default()
}

fn no_descriptors(lab: &Lab) {
    let cluster = Cluster::new(lab, 3).argument("--spawn-backoff").argument("20ms..100ms");
    // Here no seat rests after many failures: it is tried until there are descriptors again.
    let mut cluster = cluster.argument("--spawn-give-up").argument("0").start(3);
    let before = cluster.status();
    let (pid, workers) = (cluster.master().pid(), before.pids());
    limit(Command::new("prlimit"), pid, &format!("--nofile={}:", first_free(pid)));

    // Steering clients away takes no descriptor.
    signal(workers[&0], Signal::SIGKILL);
    wait_until("two workers to serve", PATIENCE, || in_force(&cluster) == "2 of 3");
    let load = Lab::load(80, 200).connections(400).start(lab.client()).unwrap().wait();
    assert_eq!(load.failed(), 0, "{load}");
    // A reload and further tries to start workers fail, and nothing else.
    cluster.master().signal(Signal::SIGHUP);
    wait_until("the reload to fail", PATIENCE, || cluster.log().contains("reload failed"));
    wait_until("tries to start a worker", PATIENCE, || {
        cluster.log().matches("could not be started").count() >= 3
    });
    signal(workers[&1], Signal::SIGKILL);
    wait_until("one worker to serve", PATIENCE, || in_force(&cluster) == "1 of 3");
    assert!(cluster.master().is_running());
    let load = Lab::load(80, 200).connections(400).start(lab.client()).unwrap().wait();
    assert_eq!(load.failed(), 0, "{load}");
    assert!(cluster.log().contains("EMFILE"), "that is what was missing:\n{}", cluster.log());

    limit(Command::new("prlimit"), pid, "--nofile=1024:");
    let after = cluster.wait_until_settled(3);
    assert_eq!(after.generation, before.generation);
    assert_eq!(after.pids()[&2], workers[&2], "it was never touched");
    cluster.reload();
    cluster.wait_until_settled(3);
    assert_eq!(cluster.master().pid(), pid);
    assert!(cluster.log().len() < 64 * 1024, "it does not flood the log:\n{}", cluster.log());
}
