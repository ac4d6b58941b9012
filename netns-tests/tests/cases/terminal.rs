//! How a master ends: by Ctrl-C in its terminal, with its terminal, and as process 1 of a container.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, Process, ipcluster, is_alive, signal, wait_until};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::unistd::ttyname;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("ctrl_c_in_a_terminal_ends_all_and_a_second_one_at_once", ctrl_c),
        Case::new("the_end_of_a_terminal_is_no_reload_and_ends_nothing", hangup),
        Case::new("as_process_1_of_a_container_the_end_drains_and_orphans_are_reaped", container)
            .needs(Need::Pids),
    ]
}

/// Starts a cluster of two greeters in a terminal of its own; returns what types into that.
fn in_terminal(lab: &Lab) -> (Cluster<'_>, Process, fs::File) {
    let pty = openpty(None, None).unwrap();
    // Whoever has this end open keeps the terminal alive.
    fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    let cluster = Cluster::new(lab, 2);
    let name = ttyname(&pty.slave).unwrap();
    let mut command = Command::new("sh");
    let script = format!("exec setsid --ctty \"$@\" < {}", name.display());
    command.args(["-c", &script, "sh"]).arg(ipcluster()).args(["run", "--name", "t"]);
    command.args(cluster.flags()).arg("--").arg(netns_tests::greeter());
    let master = lab.start("master", command);
    wait_until("two live workers", Duration::from_secs(20), || {
        cluster.try_status().is_some_and(|status| status.is_settled(2))
    });
    (cluster, master, fs::File::from(pty.master))
}

fn ctrl_c(lab: &Lab) {
    let (cluster, mut master, mut keyboard) = in_terminal(lab);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    // One connection that stays, so that the end has something to wait for.
    let target = Lab::targets(80)[0];
    let held = lab.client().run_in(|| std::net::TcpStream::connect(target)).unwrap().unwrap();
    (&held).write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    keyboard.write_all(b"\x03").unwrap();
    wait_until("the drain", Duration::from_secs(20), || {
        master.output().contains("Ctrl-C again: at once")
    });
    wait_until("the worker without a connection to end", Duration::from_secs(20), || {
        workers.iter().filter(|pid| is_alive(**pid)).count() == 1
    });
    keyboard.write_all(b"\x03").unwrap();
    let status = master.wait(Duration::from_secs(20));
    assert!(status.success(), "{status}\n{}", master.output());
    assert!(workers.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(lab.witness().ruleset(), "");
    drop(held);
}

fn hangup(lab: &Lab) {
    let (cluster, mut master, keyboard) = in_terminal(lab);
    let before = cluster.status();
    drop(keyboard);
    wait_until("the end of the terminal to be seen", Duration::from_secs(20), || {
        master.output().contains("the terminal has ended, and the master goes on")
    });
    assert_eq!(cluster.status().pids(), before.pids());
    // A signal that somebody sends is one of a service manager, now as before.
    signal(master.pid(), Signal::SIGTERM);
    assert!(master.wait(Duration::from_secs(20)).success());
    assert!(before.pids().values().all(|pid| is_alive(*pid)));
    before.pids().values().for_each(|pid| signal(*pid, Signal::SIGKILL));
}

/// The child processes of a process, with their states.
fn children(parent: u32) -> Vec<(u32, String)> {
    let stat = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
        let state = rest.next()?.to_owned();
        (rest.next()?.parse() == Ok(parent)).then_some((pid, state))
    };
    let names = fs::read_dir("/proc").unwrap().flatten();
    names.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn container(lab: &Lab) {
    let words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut cluster = Cluster::new(lab, 2).wrapped(&words).start(2);
    let outside = cluster.master().pid();
    let first = children(outside)[0].0;
    // Orphans of somebody who looks in, as by `docker exec`: all of them come to process 1.
    let script = "for i in 1 2 3 4 5 6 7 8; do (true &); done";
    let target = first.to_string();
    let enter = ["nsenter", "--pid", "--mount", "--target", &target, "sh", "-c", script];
    let mut command = Command::new(enter[0]);
    assert!(command.args(&enter[1..]).status().unwrap().success());
    wait_until("no zombie to be left", Duration::from_secs(20), || {
        children(first).iter().all(|(_, state)| state != "Z")
    });
    assert!(cluster.status().is_settled(2));
    let workers: Vec<u32> = children(first).iter().map(|(pid, _)| *pid).collect();
    let client = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    signal(first, Signal::SIGTERM);
    wait_until("new connections to be refused", Duration::from_secs(20), || {
        Held::open(lab.client(), client, Network::server_v4(80)).is_err()
    });
    held.echo("who is there is served to the end").unwrap();
    drop(held);
    let mut master = std::mem::replace(cluster.master(), lab.start("true", Command::new("true")));
    let status = master.wait(Duration::from_secs(20));
    assert!(status.success(), "{status}\n{}", master.output());
    assert!(master.output().contains("cluster t is stopped"), "{}", master.output());
    assert!(workers.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(lab.witness().ruleset(), "");
}
