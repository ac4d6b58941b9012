//! A cluster whose master is gone: it can be looked at and ended, and each verb says what to do.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, greeter, is_alive, signal, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("what_a_killed_master_leaves_is_shown_and_ended", shown_and_ended)
            .needs(Need::Nft)
            .with_both_engines_on_request(),
        Case::new("every_verb_says_what_is_there_and_what_to_do", verbs),
        Case::new("a_stop_without_a_master_waits_for_connections", drains)
            .needs(Need::Nft)
            .with_both_engines_on_request(),
        Case::new("workers_without_rules_and_what_they_left_are_ended", without_rules)
            .needs(Need::Nft),
        Case::new("workers_that_tell_nothing_of_themselves_are_known_all_the_same", silent)
            .needs(Need::Nft)
            .needs(Need::Python),
        Case::new("stop_ends_workers_of_another_user", other_user)
            .needs(Need::OtherUsers)
            .needs(Need::Nft),
        Case::new("after_a_stop_the_next_run_is_not_refused", stop_and_run),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// The files of the cluster in its runtime directories, but for its lock.
fn files(lab: &Lab) -> Vec<PathBuf> {
    let bases = [Path::new("/run"), lab.directory()];
    let directories = bases
        .iter()
        .flat_map(|base| ["ipcluster", "ipcluster-workers"].map(|directory| base.join(directory)));
    let entries = directories.filter_map(|it| fs::read_dir(it).ok()).flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_none_or(|it| it != "lock")).collect()
}

fn nothing_is_left(lab: &Lab, workers: &[u32]) {
    assert!(!workers.iter().any(|pid| is_alive(*pid)), "of {workers:?}");
    assert_eq!(lab.witness().ruleset(), "");
    assert_eq!(files(lab), Vec::<PathBuf>::new());
}

fn shown_and_ended(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 3).start(3);
    let before = cluster.status();
    let workers: Vec<u32> = before.pids().into_values().collect();
    let held = Held::open(lab.client(), client(), Network::server_v4(80)).unwrap();
    cluster.kill_master();
    let shown = cluster.verb("status", &[]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(shown.status.code(), Some(3), "{text}");
    assert!(
        text.contains("\nmaster     none runs: nobody replaces a worker that dies\n"),
        "{text}"
    );
    assert!(text.contains("\nto start   ipcluster run --name t --listen "), "{text}");
    assert!(text.contains("\nto stop    ipcluster stop t\n"), "{text}");
    for pid in &workers {
        assert!(text.contains(&format!(" {pid} ")), "{pid}: {text}");
    }
    let json: Value = serde_json::from_slice(&cluster.verb("status", &["--json"]).stdout).unwrap();
    assert_eq!(json["pid"], 0);
    assert_eq!(json["unmanaged"]["rules"], true, "{json}");
    assert_eq!(json["generation"], 1, "{json}");
    assert_eq!(json["serving"], 3, "{json}");
    let status: netns_tests::Status = serde_json::from_value(json).unwrap();
    assert_eq!(status.pids(), before.pids());
    let ports = |status: &netns_tests::Status| {
        status.live().iter().map(|worker| worker.ports.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ports(&status), ports(&before));
    let connections: u32 = status.live().iter().filter_map(|worker| worker.connections).sum();
    assert_eq!(connections, 1, "{status:#?}");
    let counted: u64 = status.live().iter().filter_map(|worker| worker.connections_total).sum();
    assert_eq!(counted, 1, "{status:#?}");
    // The worker that has the connection, by the rules alone.
    let explained = cluster.succeed("explain", &[&client().to_string()]);
    assert!(explained.contains(&format!("pid {},", held.by().pid)), "{explained}");
    drop(held);
    assert_eq!(
        cluster.succeed("stop", &[]),
        "stopped: 3 workers ended, rules removed\n",
        "a worker that died is none of them"
    );
    nothing_is_left(lab, &workers);
    assert!(cluster.fail("stop", &[]).contains("no master of cluster t runs"));
    assert_eq!(cluster.verb("status", &[]).status.code(), Some(1));
}

fn client() -> std::net::IpAddr {
    Network::clients_v4(1).next().unwrap()
}

fn verbs(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    cluster.terminate_master();
    for (verb, arguments) in [
        ("reload", &[][..]),
        ("rollback", &[]),
        ("promote", &[]),
        ("retire", &["0"]),
        ("clear-retired", &[]),
        ("scale", &["3"]),
        ("wait", &["ready", "--timeout", "100ms"]),
        ("logs", &[]),
        ("events", &[]),
        ("top", &[]),
        ("config", &[]),
    ] {
        let said = cluster.fail(verb, arguments);
        let (reason, hint) = said.split_once('\n').unwrap();
        let expected =
            "error: no master of cluster t runs; 2 workers of generation 1 serve by its rules";
        assert_eq!(reason, expected, "{verb}");
        assert!(hint.starts_with("hint: `ipcluster run --name t --listen "), "{verb}: {hint}");
        assert!(hint.contains("`ipcluster stop t` ends them"), "{verb}: {hint}");
    }
    // One has died since, and nobody replaces it.
    signal(workers[0], Signal::SIGKILL);
    wait_until("its end", PATIENCE, || !is_alive(workers[0]));
    let said = cluster.fail("reload", &[]);
    assert!(said.contains("; 1 worker of generation 1 serves by its rules\n"), "{said}");
    // The command that is said takes over.
    cluster.start_master(&[greeter().into()]);
    let status = cluster.wait_until_settled(2);
    assert!(status.pids().values().any(|pid| *pid == workers[1]), "{status:#?}");
}

fn drains(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 3).start(3);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    let mut held = Held::open(lab.client(), client(), Network::server_v4(80)).unwrap();
    let holder = held.by().pid;
    cluster.kill_master();
    assert!(cluster.fail("stop", &["--no-wait"]).contains("leave out --no-wait"));
    let said = cluster.fail("stop", &["--timeout", "300ms"]);
    assert!(said.contains("no master goes on with it"), "{said}");
    held.echo("still served").unwrap();
    let mut stop = cluster.begin("stop", &[]);
    wait_until("the others to end", PATIENCE, || {
        workers.iter().filter(|pid| is_alive(**pid)).eq([&holder])
    });
    assert!(stop.is_running(), "{}", stop.output());
    held.echo("still served").unwrap();
    assert!(Held::open(lab.client(), client(), Network::server_v4(80)).is_err());
    // It can be looked at meanwhile, and another one can hurry it.
    cluster.wait_for("the worker that is left", |status| {
        status.live().is_empty() && status.workers.len() == 1
    });
    drop(held);
    assert!(stop.wait(PATIENCE).success(), "{}", stop.output());
    nothing_is_left(lab, &workers);
    // At once.
    let mut cluster = Cluster::new(lab, 2).argument("--die-timeout").argument("300ms").start(2);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    let held = Held::open(lab.client(), client(), Network::server_v4(80)).unwrap();
    cluster.kill_master();
    cluster.succeed("stop", &["--now"]);
    nothing_is_left(lab, &workers);
    drop(held);
}

fn without_rules(lab: &Lab) {
    // Each worker starts something in a session of its own.
    let script = "setsid sleep 1000 & exec \"$0\"";
    let worker = ["sh".into(), "-c".into(), script.into(), greeter().into()];
    let mut cluster = Cluster::new(lab, 2).argument("--die-timeout").argument("1s");
    cluster.start_master(&worker);
    cluster.wait_for_live(2);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    cluster.kill_master();
    cluster.succeed("flush", &[]);
    let shown = cluster.verb("status", &[]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(shown.status.code(), Some(3), "{text}");
    assert!(text.contains("\nrules      none: clients do not reach the workers\n"), "{text}");
    let said = cluster.fail("reload", &[]);
    assert!(said.contains("processes of it are there, and no rules"), "{said}");
    assert_eq!(cluster.succeed("stop", &[]), "stopped: 4 processes ended\n");
    nothing_is_left(lab, &workers);
    assert!(cluster.fail("stop", &[]).contains("no master of cluster t runs"));
}

/// Overwrites its environment and its arguments, as setproctitle(3) does, closes what it prints to, and serves.
const OVERWRITTEN: &str = "
import ctypes, os, socket
port = int(os.environ['PORT'])
numbers = [int(it) for it in open('/proc/self/stat').read().rsplit(')', 1)[1].split()[1:]]
for begin, end in [(numbers[44], numbers[45]), (numbers[46], numbers[47])]:
    ctypes.memset(begin, 0, end - begin)
null = os.open('/dev/null', os.O_RDWR)
os.dup2(null, 1)
os.dup2(null, 2)
listener = socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    listener.accept()[0].close()
";

fn silent(lab: &Lab) {
    let file = lab.directory().join("overwritten.py");
    fs::write(&file, OVERWRITTEN).unwrap();
    let script = "exec env -i PORT=\"$PORT\" \"$0\" >/dev/null 2>&1";
    let commands: [Vec<OsString>; 2] = [
        vec!["python3".into(), file.into()],
        vec!["sh".into(), "-c".into(), script.into(), greeter().into()],
    ];
    for command in commands {
        // With rules, without them, and by the next master.
        for end in ["stop", "flush", "run"] {
            let mut cluster = Cluster::new(lab, 2).start_with(&command, 2);
            let before = cluster.status().pids();
            let workers: Vec<u32> = before.values().copied().collect();
            for pid in &workers {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
                let environment = String::from_utf8_lossy(&environment).into_owned();
                assert!(!environment.contains("IPCLUSTER"), "{environment}");
            }
            cluster.kill_master();
            match end {
                "stop" => {
                    let shown = cluster.verb("status", &["--json"]);
                    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
                    assert_eq!(shown["workers"].as_array().unwrap().len(), 2, "{shown}");
                    let said = cluster.succeed("stop", &[]);
                    assert_eq!(said, "stopped: 2 workers ended, rules removed\n");
                }
                "flush" => {
                    cluster.succeed("flush", &[]);
                    assert_eq!(cluster.succeed("stop", &[]), "stopped: 2 processes ended\n");
                }
                _ => {
                    cluster.start_master(&command);
                    assert_eq!(cluster.wait_until_settled(2).pids(), before);
                    cluster.succeed("stop", &[]);
                    assert!(cluster.master().wait(PATIENCE).success(), "{}", cluster.log());
                }
            }
            nothing_is_left(lab, &workers);
        }
    }
}

fn other_user(lab: &Lab) {
    let program = lab.for_everyone(&greeter());
    let mut cluster = Cluster::new(lab, 2).argument("--user").argument("nobody");
    cluster.start_master(&[program.into()]);
    cluster.wait_for_live(2);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    cluster.kill_master();
    let json: Value = serde_json::from_slice(&cluster.verb("status", &["--json"]).stdout).unwrap();
    assert_eq!(json["workers"].as_array().unwrap().len(), 2, "{json}");
    assert_eq!(cluster.succeed("stop", &[]), "stopped: 2 workers ended, rules removed\n");
    nothing_is_left(lab, &workers);
}

fn stop_and_run(lab: &Lab) {
    for _ in 0..20 {
        let mut cluster = Cluster::new(lab, 1).start(1);
        cluster.succeed("stop", &[]);
        // Refused, the next master would end, and its start fail.
        assert!(!is_alive(cluster.master().pid()), "stop returned before the master had ended");
    }
}
