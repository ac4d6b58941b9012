//! What a worker may do: whom it runs as, and what it can get.

use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// A user and groups that no file and no process of the host has.
const USER: &str = "54321";
const GROUP: &str = "54322";

/// Whether this process can start others as another user. Where tests run as somebody else, or in a
/// container that maps one user, what follows cannot be tried.
fn other_users() -> Option<Account> {
    let account = Account::look_up(Some(USER), Some(GROUP)).unwrap().unwrap();
    match account.check() {
        Ok(()) => Some(account),
        Err(error) => {
            eprintln!("not tried: {error}");
            None
        }
    }
}

/// `/proc/PID/status` as the worker itself reads it.
fn status(spawn: &Spawn) -> HashMap<String, String> {
    let lines = Worker::start(spawn).unwrap().all_lines();
    let pair = |line: &String| {
        let (name, value) = line.split_once(':')?;
        // Tabs are escaped in lines.
        let value = value.replace("\\t", " ");
        Some((name.to_owned(), value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")))
    };
    lines.iter().filter_map(pair).collect()
}

fn print_status() -> Spawn {
    // A program of its own: what exec gives it is what counts.
    shell("exec /bin/cat /proc/self/status")
}

#[test]
fn a_worker_has_no_capability_and_no_way_to_one() {
    let none = "0".repeat(16);
    let mut spawns = vec![print_status()];
    spawns.extend(other_users().map(|account| Spawn { account: Some(account), ..print_status() }));
    for spawn in spawns {
        let status = status(&spawn);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status[set], none, "{set}: {status:?}");
        }
        assert_eq!(status["NoNewPrivs"], "1");
        // Emptied by whom may: CAP_SETPCAP, number 8.
        let ours = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let ours = ours.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        if u64::from_str_radix(ours, 16).unwrap() >> 8 & 1 == 1 {
            assert_eq!(status["CapBnd"], none, "{status:?}");
        }
    }
}

#[test]
fn a_worker_of_root_cannot_use_what_root_may() {
    if effective_uid() != 0 {
        return;
    }
    // Root looks past file permissions by CAP_DAC_OVERRIDE alone.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("closed");
    std::fs::write(&file, "secret").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "secret", "root with privilege can");
    let worker = Worker::start(&shell(&format!("cat {}", file.display()))).unwrap();
    assert_ne!(worker.await_exit(), Exit::Code(0));
    assert!(worker.all_lines()[0].contains("Permission denied"));
}

#[test]
fn a_worker_runs_as_its_account() {
    let Some(account) = other_users() else { return };
    let spawn = Spawn { account: Some(account), ..print_status() };
    let status = status(&spawn);
    assert_eq!(status["Uid"], [USER; 4].join(" "));
    assert_eq!(status["Gid"], [GROUP; 4].join(" "));
    assert_eq!(status["Groups"], GROUP);
}

#[test]
fn a_directory_that_the_account_may_not_enter_is_named() {
    let Some(account) = other_users() else { return };
    let directory = tempfile::tempdir().unwrap();
    let closed = Permissions::from_mode(0o700);
    std::fs::set_permissions(directory.path(), closed).unwrap();
    let path = directory.path().to_owned();
    let spawn = Spawn { account: Some(account), directory: Some(path), ..print_status() };
    let error = Worker::start(&spawn).map(drop).unwrap_err();
    assert!(matches!(error, ProcessError::Directory { errno: Errno::EACCES, .. }), "{error}");
}

#[test]
fn the_limit_of_open_files_is_as_given() {
    let print = || shell("ulimit -Sn; ulimit -Hn");
    let hard = Worker::start(&print()).unwrap().all_lines().remove(1);
    let spawn = Spawn { descriptor_limit: Some(77), ..print() };
    assert_eq!(Worker::start(&spawn).unwrap().all_lines(), ["77".to_owned(), hard.clone()]);
    let spawn = Spawn { descriptor_limit: Some(u64::MAX), ..print() };
    assert_eq!(Worker::start(&spawn).unwrap().all_lines(), [hard.clone(), hard]);
}

/// A worker that listens on a port of 127.0.0.1, which it prints.
fn listening(account: Option<Account>) -> Spawn {
    let test = "the_sockets_of_a_worker_of_another_user_are_seen_without_ptrace";
    let mut spawn = this_program(test, "listen");
    spawn.args[1] = format!("process::tests::privilege::{test}").into();
    Spawn { account, ..spawn }
}

#[test]
fn the_sockets_of_a_worker_of_another_user_are_seen_without_ptrace() {
    if role().is_some() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        println!("port {}", listener.local_addr().unwrap().port());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let Some(account) = other_users() else { return };
    // The program has to be one that the user may run.
    let copy = tempfile::tempdir().unwrap();
    let open = || Permissions::from_mode(0o755);
    std::fs::set_permissions(copy.path(), open()).unwrap();
    let program = copy.path().join("worker");
    // By another process: a child that a test beside this one forks would hold the file open for
    // writing, and nobody could run it.
    let mut copying = std::process::Command::new("cp");
    copying.arg(std::env::current_exe().unwrap()).arg(&program);
    assert!(copying.status().unwrap().success());
    std::fs::set_permissions(&program, open()).unwrap();
    let spawn = Spawn { program: program.into(), ..listening(Some(account)) };
    let mut worker = Worker::start(&spawn).unwrap();
    let port: u16 = wait_for("the port", || {
        let lines = worker.await_lines(1);
        lines.iter().find_map(|line| line.split("port ").nth(1)?.parse().ok())
    });
    let pid = worker.child().pid();
    let reader = OutputReader::reopen(pid, "x");
    assert!(reader.unwrap().is_some(), "with all capabilities");

    // In a thread of its own with those capabilities that a master keeps.
    let look = move || {
        let mut sockets = Sockets::open().unwrap();
        let mut table = ListenTable::read(&mut sockets, &[Transport::Tcp], port..=port).unwrap();
        let found = table.listening_ports(pid, Transport::Tcp, &[port]);
        let reopened = OutputReader::reopen(pid, "x").map(|reader| reader.is_some());
        let ids = (effective_uid(), Capabilities::effective().unwrap());
        (found, reopened, ids)
    };
    let as_master = |kept: Capabilities| {
        let thread = std::thread::spawn(move || {
            let held = capabilities::tests::keep_only_here(kept);
            (look(), held)
        });
        thread.join().unwrap()
    };
    let ((found, reopened, ids), held) =
        as_master(Capabilities::NET_ADMIN.with(Capabilities::OTHER_USERS));
    assert_eq!(found.unwrap().keys().copied().collect::<Vec<_>>(), [port]);
    assert!(reopened.unwrap());
    assert_eq!(ids, (effective_uid(), held), "the thread is what it was");
    // Without those the kernel refuses: so that is what they are for.
    let ((found, reopened, _), _) = as_master(Capabilities::NET_ADMIN);
    assert_eq!(found.unwrap_err().errno(), Some(Errno::EACCES));
    assert_eq!(reopened.unwrap_err().errno(), Some(Errno::EACCES));
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid().to_string(), USER);
}
