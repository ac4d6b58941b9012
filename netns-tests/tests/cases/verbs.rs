//! The verbs of the program, on a cluster that runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ipcluster::lab::FailureKind::{AnswerTimedOut, Garbled, Reset, Truncated};
use ipcluster::lab::{Held, Network, Pace, Report};
use netns_tests::{Case, Cluster, Lab, Need, greeter, ipcluster, is_alive, wait_until};
use serde_json::Value;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("status_says_what_runs", status).with_both_engines(),
        Case::new("explain_names_the_worker_that_answers", explain).with_both_engines(),
        Case::new("scaling_moves_the_clients_that_it_says_and_no_other", scale).with_both_engines(),
        Case::new("a_stop_drains_and_leaves_nothing", stop).needs(Need::Nft).with_both_engines(),
        Case::new("a_stop_at_once_does_not_wait_for_connections", stop_now)
            .needs(Need::Nft)
            .with_both_engines_on_request(),
        Case::new("a_second_master_is_refused_at_once", second_master),
        Case::new("of_two_masters_that_start_together_one_wins", two_masters),
        Case::new("flush_removes_the_rules_of_a_dead_master_alone", flush).needs(Need::Nft),
        Case::new("the_control_socket_is_for_its_owner_alone", control_socket),
        Case::new("members_of_the_control_group_may_use_it_and_nobody_else", control_group)
            .needs(Need::OtherUsers),
        Case::new("wait_returns_when_the_cluster_is_as_it_is_wanted", wait),
        Case::new("a_seat_that_waits_has_a_row", waiting_seat),
    ]
}

fn status(lab: &Lab) {
    let cluster = Cluster::new(lab, 4).start(4);
    let text = cluster.succeed("status", &["--json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["schema"], 1);
    assert_eq!(status["name"], "t");
    assert_eq!(status["generation"], 1);
    assert_eq!(status["partition"], "hash");
    assert_eq!(status["slots"], 1024);
    assert_eq!(
        status["listeners"].as_array().unwrap().iter().collect::<Vec<_>>(),
        ["10.9.0.1:80/tcp", "[fd09::1]:80/tcp"],
    );
    let master = u32::try_from(status["pid"].as_u64().unwrap()).unwrap();
    assert!(is_alive(master));
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 4);
    let mut ports = Vec::new();
    for (seat, worker) in workers.iter().enumerate() {
        assert_eq!(worker["seat"], seat, "{worker}");
        assert_eq!(worker["slots"], 256, "{worker}");
        assert_eq!(worker["state"], "live", "{worker}");
        assert_eq!(worker["generation"], 1, "{worker}");
        assert_eq!(worker["connections"], 0, "{worker}");
        let uptime = worker["uptime"].as_f64().unwrap();
        assert!(uptime > 0.0 && uptime < 60.0, "{worker}");
        assert!(is_alive(u32::try_from(worker["pid"].as_u64().unwrap()).unwrap()), "{worker}");
        let port = u16::try_from(worker["ports"]["80"].as_u64().unwrap()).unwrap();
        assert!((20_000..30_000).contains(&port), "{worker}");
        assert!(lab.is_listened_to(port), "{worker}");
        ports.push(port);
    }
    ports.dedup();
    assert_eq!(ports.len(), 4, "each has a port of its own: {ports:?}");
    // The same for people, and without the name of the only cluster.
    let table = cluster.succeed("status", &[]);
    assert_eq!(table.lines().filter(|line| line.contains(" live ")).count(), 4, "{table}");
}

fn explain(lab: &Lab) {
    let cluster = Cluster::new(lab, 3).start(3);
    let report = every_client_once(lab, 400);
    let answered = report.last_by_client();
    assert_eq!(answered.len(), 400);
    // A process a client: some of each family stand for all. That the plan predicts every client is
    // tested elsewhere.
    for (client, by) in answered.iter().step_by(25) {
        let text = cluster.succeed("explain", &[&client.to_string()]);
        let expected = [
            format!("seat        {}", by.seat),
            format!("worker      pid {}, generation {}", by.pid, by.generation),
        ];
        for line in expected {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }
}

/// One connection of each of so many clients, which must all be answered.
fn every_client_once(lab: &Lab, clients: u16) -> Report {
    let load = Lab::load(80, clients).pace(Pace::Concurrency(16)).connections(clients.into());
    let report = load.start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (clients.into(), 0), "{report}");
    report
}

fn seats(lab: &Lab) -> BTreeMap<IpAddr, u16> {
    let report = every_client_once(lab, 4000);
    report.last_by_client().into_iter().map(|(client, by)| (client, by.seat)).collect()
}

fn scale(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let mut before = seats(lab);
    let pids = cluster.status().pids();
    // Up by one, up by more, down: with the slots that the newcomers get, or the leavers leave.
    for (workers, least) in [(5_u16, 204_u32), (8, 384), (4, 512)] {
        let old = before.values().max().unwrap() + 1;
        let load = Lab::load(80, 1000).pace(Pace::Rate(500.0)).start(lab.client()).unwrap();
        let answer = cluster.succeed("scale", &[&workers.to_string()]);
        cluster.wait_until_settled(workers.into());
        let report = load.stop();
        assert_eq!(report.failed(), 0, "scaling to {workers}: {report}");
        let moved_slots: u32 = answer.split(' ').nth(2).unwrap().parse().unwrap();
        assert!(answer.starts_with(&format!("{workers} workers: ")), "{answer}");
        assert!(
            (least..=least + least / 20).contains(&moved_slots),
            "{answer}: {least} is the least"
        );
        let after = seats(lab);
        let moved: Vec<_> =
            after.iter().filter(|(client, seat)| before[*client] != **seat).collect();
        // What no seat had to give up or take stayed.
        for (client, seat) in &moved {
            let (from, to) = (before[*client], **seat);
            assert!(
                to >= old || from >= workers,
                "{client} went from seat {from} to seat {to}, which both stay"
            );
        }
        // The share of clients that moved is that of the slots: 4,000 draws of which 5 standard
        // deviations are below 4 %.
        let share = moved.len() as f64 / after.len() as f64;
        let expected = f64::from(moved_slots) / 1024.0;
        println!(
            "{old} to {workers} workers: {share:.3} of the clients moved, {expected:.3} of the slots"
        );
        assert!((share - expected).abs() < 0.04, "{share} of the clients, {expected} of the slots");
        before = after;
    }
    assert_eq!(cluster.status().pids(), pids, "the first four workers are the same as ever");
    assert_eq!(cluster.status().generation, 1);
    assert!(cluster.succeed("scale", &["4"]).contains("0 of 1024 slots moved"));
    let said = cluster.fail("scale", &["-5"]);
    assert!(
        said.contains("scale by -5: the cluster is to have 4 workers, and would have -1: "),
        "{said}"
    );
    for arguments in [&["9"][..], &["9", "-f"]] {
        let said = cluster.fail("logs", arguments);
        assert!(
            said.starts_with("error: there is no seat 9: the cluster has seats 0 to 3\n"),
            "{said}"
        );
    }
}

fn stop(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 3).start(3);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    let mut held = Held::open(lab.client(), client(), Network::server_v4(80)).unwrap();
    let load = Lab::load(80, 100).pace(Pace::Rate(500.0)).start(lab.client()).unwrap();
    wait_until("answers", Duration::from_secs(5), || load.counters().answered > 100);
    let mut stop = cluster.begin("stop", &[]);
    wait_until("new connections to be refused", Duration::from_secs(5), || {
        load.counters().failed > 0
    });
    let report = load.stop();
    // They were refused at the door, and none that was let in was lost.
    let let_in = |kind| report.failures_by_kind().get(&kind).copied().unwrap_or(0);
    assert_eq!([Reset, Truncated, AnswerTimedOut, Garbled].map(let_in), [0; 4], "{report}");
    // The worker that holds the last connection is waited for; the others end.
    let holder = held.by().pid;
    cluster.wait_for("the others to end", |status| {
        status.workers.len() == 1 && status.workers[0].pid == Some(holder)
    });
    assert!(stop.is_running() && cluster.master().is_running());
    held.echo("still served").unwrap();
    drop(held);
    assert!(stop.wait(Duration::from_secs(5)).success(), "{}", stop.output());
    assert!(stop.output().contains("stopped: 3 workers ended, rules removed"), "{}", stop.output());
    assert!(cluster.master().wait(Duration::from_secs(5)).success(), "{}", cluster.log());
    nothing_is_left(lab, &workers);
    assert!(cluster.fail("status", &[]).starts_with("error: "));
}

fn stop_now(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 3).start(3);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    let mut held = Held::open(lab.client(), client(), Network::server_v4(80)).unwrap();
    let began = Instant::now();
    cluster.succeed("stop", &["--now"]);
    assert!(cluster.master().wait(Duration::from_secs(5)).success(), "{}", cluster.log());
    // The greeter serves a held connection for as long as it lasts: it was killed after 5 s.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(held.echo("gone").is_err());
    nothing_is_left(lab, &workers);
}

fn nothing_is_left(lab: &Lab, workers: &[u32]) {
    assert!(!workers.iter().any(|pid| is_alive(*pid)), "of {workers:?}");
    assert_eq!(lab.witness().ruleset(), "");
}

fn client() -> IpAddr {
    Network::clients_v4(1).next().unwrap()
}

fn second_master(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let before = cluster.status();
    let mut second = Cluster::new(lab, 2);
    let began = Instant::now();
    second.start_master(&[greeter().into()]);
    let code = second.master().wait(Duration::from_secs(1)).code();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(code, Some(1), "{}", second.log());
    let first = cluster.master().pid();
    assert!(second.log().contains(&first.to_string()), "names the other:\n{}", second.log());
    assert_eq!(cluster.status(), before);
    every_client_once(lab, 100);
}

/// F10.
fn two_masters(lab: &Lab) {
    for _ in 0..10 {
        let mut masters = [Cluster::new(lab, 2), Cluster::new(lab, 2)];
        let began = Instant::now();
        for master in &mut masters {
            master.start_master(&[greeter().into()]);
        }
        let running = |masters: &mut [Cluster<'_>; 2]| {
            masters.iter_mut().filter_map(|it| it.master().is_running().then_some(())).count()
        };
        wait_until("one to give up", Duration::from_secs(1), || running(&mut masters) == 1);
        assert!(began.elapsed() < Duration::from_secs(1));
        let [mut first, mut second] = masters;
        let (winner, loser) = match first.master().is_running() {
            true => (&mut first, &mut second),
            false => (&mut second, &mut first),
        };
        assert_eq!(loser.master().wait(Duration::ZERO).code(), Some(1), "{}", loser.log());
        winner.wait_for_live(2);
        winner.succeed("stop", &["--now"]);
        winner.master().wait(Duration::from_secs(5));
    }
}

fn flush(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let text = cluster.fail("flush", &[]);
    assert!(text.contains("ipcluster stop"), "says what to do instead: {text}");
    every_client_once(lab, 20);
    cluster.kill_master();
    every_client_once(lab, 20);
    assert!(cluster.succeed("explain", &["10.8.0.1"]).contains("no master runs"));
    cluster.succeed("flush", &[]);
    assert_eq!(lab.witness().ruleset(), "");
    let load = Lab::load(80, 20).connections(20).start(lab.client()).unwrap();
    assert_eq!(load.wait().failed(), 20, "nobody sends clients to workers any more");
    cluster.fail("flush", &[]);
}

fn control_group(lab: &Lab) {
    const GROUP: &str = "54321";
    let program = lab.for_everyone(&ipcluster());
    let mut cluster = Cluster::new(lab, 1).argument("--control-group").argument(GROUP).start(1);
    let ask = |verb: &[&str], first: &str, further: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "54320", "--regid", first]).args(further);
        command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
        command.arg(&program).args(["--runtime-dir", "/run/ipcluster"]).args(verb);
        lab.server().run_in(|| command.output()).unwrap().expect("setpriv (util-linux)")
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (first, further) in
        [("54322", &["--groups", "54323,54321"][..]), (GROUP, &["--clear-groups"])]
    {
        // By name, and as the only one.
        for verb in [&["status", "t"][..], &["status"], &["reload", "t"]] {
            let output = ask(verb, first, further);
            let stderr = text(&output.stderr);
            assert!(output.status.success(), "{verb:?} {first} {further:?}: {stderr}");
        }
    }
    let refused = |output: Output| {
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("you may not use this control socket"), "{stderr}");
        assert!(stderr.contains("control_group"), "{stderr}");
    };
    let stranger = |verb: &[&str]| ask(verb, "54322", &["--groups", "54323"]);
    refused(stranger(&["status", "t"]));
    refused(stranger(&["status"]));
    // Without the setting it is for its owner again.
    cluster.kill_master();
    let mut cluster = Cluster::new(lab, 1);
    cluster.start_master(&[greeter().into()]);
    cluster.wait_for_live(1);
    refused(ask(&["status", "t"], GROUP, &["--clear-groups"]));
}

fn wait(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).start(2);
    assert_eq!(cluster.succeed("wait", &["ready"]), "generation 1 is in force: 2 workers ready\n");
    assert_eq!(cluster.succeed("wait", &["drained"]), "no worker of before is left\n");
    let output = super::in_the_way::run(lab, &["wait", "other", "ready", "--timeout", "100ms"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("error: no master of cluster other runs: none listens on /"),
        "{said}"
    );
    assert!(
        said.contains(
            "/other.sock within 100ms\nhint: `ipcluster run --name other ...` starts one"
        ),
        "{said}"
    );
    // A connection stays with a worker of before.
    let held = Held::open(lab.client(), client(), Network::server_v4(80)).unwrap();
    cluster.reload();
    let said = cluster.fail("wait", &["drained", "--timeout", "500ms"]);
    // Whether the other one has ended by then, or not.
    assert!(said.contains("1 connection with ") && said.contains(" of generation 1"), "{said}");
    drop(held);
    cluster.succeed("wait", &["drained", "--timeout", "20s"]);
}

fn waiting_seat(lab: &Lab) {
    // The second worker ends as soon as it runs.
    let script = "[ $IPCLUSTER_SEAT = 0 ] && exec \"$0\"; echo no; exit 7";
    let worker = ["sh".into(), "-c".into(), script.into(), greeter().into()];
    let mut cluster = Cluster::new(lab, 2).argument("--spawn-backoff").argument("1h..1h");
    cluster.start_master(&worker);
    cluster.wait_for_live(1);
    wait_until("the seat to wait", Duration::from_secs(20), || {
        let status = cluster.succeed("status", &[]);
        let mut rows = status.lines().skip_while(|row| !row.contains(" waiting "));
        let (Some(row), Some(note)) = (rows.next(), rows.next()) else { return false };
        assert!(row.starts_with("   1  waiting"), "{status}");
        assert!(note.contains("; the last one exited with status 7"), "{status}");
        assert!(status.lines().all(|line| line.chars().count() <= 120), "{status}");
        note.contains("next try in ")
    });
}

fn control_socket(lab: &Lab) {
    let _cluster = Cluster::new(lab, 1).start(1);
    let run = Path::new("/run/ipcluster");
    let directory = match run.exists() {
        true => run.to_owned(),
        false => lab.directory().join("ipcluster"),
    };
    let of = |path: &Path| std::fs::symlink_metadata(path).unwrap();
    assert_eq!(of(&directory).permissions().mode() & 0o7777, 0o700);
    let socket = of(&directory.join("t.sock"));
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o7777, 0o600);
}
