//! The way from the older system to this one, step by step as `docs/moving.md` has it, with its commands.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, Process, ipcluster, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("each_step_of_the_way_from_the_older_system", steps)
            .needs(Need::Node)
            .needs(Need::Nft)
            .needs(Need::Pids),
    ]
}

const PAGE: &str = include_str!("../../../docs/moving.md");

/// The shell commands of a step of the page.
fn commands(step: u8) -> String {
    let from = PAGE.split(&format!("\n{step}. ")).nth(1).expect("the step is on the page");
    let block = from.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let commands = block.expect("a block of commands");
    // The program of the machine of the test, whatever its alternatives are.
    commands.replace("iptables ", "iptables-nft ")
}

/// Has a shell run these on the server.
fn shell(lab: &Lab, script: &str) -> Output {
    let run = || Command::new("sh").args(["-ec", script]).output().expect("there is a shell");
    let output = lab.server().run_in(run).unwrap();
    assert!(output.status.success(), "{script}\n{output:?}");
    output
}

/// The older system without its master: two workers, and the rules that lead to them.
struct Older {
    workers: Vec<Process>,
    socket: PathBuf,
}

impl Older {
    fn start(lab: &Lab) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/older.js");
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let socket = lab.directory().join(format!("{}.zsocket", host.trim()));
        // What a master leaves that has ended.
        drop(UnixListener::bind(&socket).unwrap());
        let mut workers = Vec::new();
        for band in 0..2 {
            let mut command = Command::new("node");
            command.arg(&program).arg(format!("{band}:2")).env("TMPDIR", lab.directory());
            command.env("__ZWORKER__", "TRUE").env("__ZWORKER__BAND__", band.to_string());
            command.env("__ZWORKER__NUM_WORKERS__", "2").env_remove("IPCLUSTER_NAME");
            let worker = lab.start(&format!("older-{band}"), command);
            let port = listening_port(lab, worker.pid());
            let rule = format!(
                "-t nat -I PREROUTING -p tcp -s 0.0.0.{band}/0.0.0.1 -d {} --dport 80 -j REDIRECT --to-ports \
                 {port}",
                Network::server_v4(80).ip()
            );
            let words: Vec<&str> = rule.split(' ').collect();
            lab.witness().succeed("iptables-nft", &words, "");
            workers.push(worker);
        }
        Self { workers, socket }
    }

    fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(Process::pid).collect()
    }
}

/// The port on which this process listens, as soon as it does.
fn listening_port(lab: &Lab, pid: u32) -> u16 {
    let mut port = None;
    wait_until("a worker that listens", Duration::from_secs(20), || {
        let seen = shell(lab, "ss -Hltnp");
        let text = String::from_utf8(seen.stdout).unwrap();
        let line = text.lines().find(|line| line.contains(&format!("pid={pid},")));
        let address = line.and_then(|line| line.split_ascii_whitespace().nth(3));
        port = address.and_then(|address| address.rsplit(':').next()?.parse().ok());
        port.is_some()
    });
    port.expect("just seen")
}

fn connect(lab: &Lab, client: usize) -> Held {
    let client = Network::clients_v4(8).nth(client).unwrap();
    Held::open(lab.client(), client, Network::server_v4(80)).unwrap()
}

fn steps(lab: &Lab) {
    let mut older = Older::start(lab);
    let old = older.pids();
    let mut held = connect(lab, 0);
    assert!(old.contains(&held.by().pid), "{:?} {old:?}", held.by());

    let file = lab.directory().join("web.toml");
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/older.js");
    let listen = Network::server_v4(80);
    fs::write(&file, format!(
        "name = \"t\"\nlisten = [\"{listen}\"]\nworkers = 2\ncommand = [\"node\", {worker:?}]\npartition = \
         \"mask\"\nready = \"protocol\"\nsocket = {:?}\nenv = [\"OLDER_*\", \"TMPDIR={}\"]\n",
        older.socket,
        lab.directory().display()
    ))
    .unwrap();
    let verb = |words: &str| {
        shell(lab, &format!("{} {words} -c {} 2>&1 || true", ipcluster().display(), file.display()))
    };
    // 1.
    let plan = String::from_utf8(verb("plan").stdout).unwrap();
    assert!(plan.contains("chain"), "{plan}");
    // 2.
    let check = String::from_utf8(verb("check").stdout).unwrap();
    assert!(check.contains("rules and servers of others: none in the way"), "{check}");
    // 3. The old master has ended already, and has left its socket. SIGUSR2 does nothing now; from the next
    // step on it would cut connections in the moments in which a worker is connected, and not yet refused.
    old.iter().for_each(|pid| signal(*pid, Signal::SIGUSR2));
    for worker in &older.workers {
        wait_until("the note of the signal", Duration::from_secs(5), || {
            worker.output().contains("SIGUSR2 without a master")
        });
    }
    // 4.
    let mut cluster = Cluster::from_file(lab, &file);
    cluster.start_master(&["node".into(), worker.clone().into()]);
    let status = cluster.wait_until_settled(2);
    // Of two chains of one priority the kernel asks the one first that was made last.
    assert!(status.foreign_chains.is_empty(), "{status:?}");
    let ours: Vec<u32> = status.pids().into_values().collect();
    for client in 1..4 {
        let by = connect(lab, client).by();
        assert!(ours.contains(&by.pid), "{by:?} {old:?} {ours:?}");
    }
    held.echo("it stays where it is").unwrap();
    assert!(old.iter().all(|pid| is_alive(*pid)));
    // 5.
    shell(lab, &commands(5));
    for client in 0..4 {
        assert!(ours.contains(&connect(lab, client).by().pid), "client {client}");
    }
    held.echo("it stays where it is").unwrap();
    // 6.
    let holder = held.by().pid;
    shell(lab, &commands(6));
    for worker in &mut older.workers {
        match worker.pid() == holder {
            true => assert!(worker.is_running(), "{}", worker.output()),
            false => drop(worker.wait(Duration::from_secs(20))),
        }
    }
    held.echo("it stays where it is").unwrap();
    drop(held);
    wait_until("the end of the last one", Duration::from_secs(20), || {
        shell(lab, &commands(6));
        older.workers.iter_mut().all(|worker| !worker.is_running())
    });
    assert_eq!(cluster.status().pids().into_values().collect::<Vec<_>>(), ours);
    cluster.succeed("stop", &["--now"]);
}
