//! Workers of the older system join our master as they are, and what says that it is one gets nothing.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Load, Network, Pace};
use netns_tests::{Case, Cluster, Lab, Need, member, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let older = |name, body| Case::new(name, body).needs(Need::Node);
    vec![
        older("they_join_serve_and_are_told_to_retire_and_to_die", reload),
        older("they_ask_for_their_retirement_and_are_missed_when_they_hang", asks_and_hangs),
        older("they_reconnect_to_the_next_master_which_adopts_them", restart),
        older("they_are_handed_over_and_join_the_next_master", replaced),
        older("one_that_does_not_answer_an_order_gets_a_signal", deaf),
        Case::new("one_that_asks_for_more_time_to_die_gets_it", extends).needs(Need::Python),
        older("every_worker_serves_all_public_ports", ports),
        older("one_that_is_too_busy_is_replaced", busy),
        older("sigusr2_ends_a_worker_and_another_takes_its_seat", dies),
        older("what_a_worker_says_of_its_memory_counts_for_nothing", memory),
        older("what_a_worker_says_of_itself_has_to_be_so", liars),
        older("one_worker_has_one_seat", twice),
        Case::new("who_is_no_worker_gets_nothing", strangers),
        Case::new("a_worker_in_rust_joins_and_is_told", sdk).with_both_engines(),
        Case::new("a_worker_of_another_user_joins_and_is_told", sdk_of_another_user)
            .needs(Need::OtherUsers),
        Case::new("a_socket_that_is_not_ours_is_refused_and_stays", sockets),
    ]
}

const SECONDS: Duration = Duration::from_secs(10);

/// Where workers of the older system look for their master.
fn socket(lab: &Lab) -> PathBuf {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    lab.directory().join(format!("{}.zsocket", host.trim()))
}

pub(crate) fn command() -> [std::ffi::OsString; 2] {
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/older.js");
    ["node".into(), worker.into()]
}

pub(crate) fn older(lab: &Lab, workers: u16) -> Cluster<'_> {
    older_on(lab, &[80], workers)
}

fn older_on<'a>(lab: &'a Lab, public: &[u16], workers: u16) -> Cluster<'a> {
    Cluster::on(lab, public.iter().map(|port| Network::server_v4(*port)), workers)
        .environment("TMPDIR", lab.directory().to_str().unwrap())
        .argument("--ready=protocol")
        .argument("--env=OLDER_*")
        .argument("--socket")
        .argument(socket(lab))
}

fn wait_for_log(cluster: &Cluster<'_>, text: &str) {
    let begin = Instant::now();
    while !cluster.log().contains(text) {
        assert!(begin.elapsed() < SECONDS, "no {text:?} in\n{}", cluster.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn reload(lab: &Lab) {
    let mut cluster = older(lab, 2).start_with(&command(), 2);
    let before = cluster.status();
    for worker in before.live() {
        let port = worker.ports["80"];
        assert!(!(20_000..30_000).contains(&port), "it picks its port itself: {port}");
        let to = Network::server_v4(port);
        let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
        let met = lab.client().run_in(connect).unwrap();
        assert!(met.is_err_and(|error| error.kind() == ErrorKind::TimedOut), "closed to others");
    }
    let client = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    let load = Load::to([Network::server_v4(80)])
        .from(Network::clients_v4(200))
        .pace(Pace::Rate(200.0))
        .start(lab.client())
        .unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", 2 * SECONDS, || load.counters().answered >= goal);
    };
    answers(200);
    cluster.reload();
    answers(200);
    let seat = held.by().seat;
    wait_for_log(&cluster, &format!("seat {seat} | order retire\n"));
    held.echo("served on by a retired worker").unwrap();
    assert!(!cluster.log().contains(&format!("seat {seat} | order die\n")), "{}", cluster.log());
    drop(held);
    cluster.wait_until_settled(2);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.changed_worker().len(), 200);
    let log = cluster.log();
    for seat in 0..2 {
        let told = |order: &str| log.matches(&format!("seat {seat} | order {order}\n")).count();
        assert_eq!((told("retire"), told("die")), (1, 1), "seat {seat}\n{log}");
        assert_eq!(log.matches(&format!("seat {seat} | joined\n")).count(), 2);
    }
    assert!(!log.contains("SIGTERM"), "an order was enough:\n{log}");
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(SECONDS).success());
    assert!(!socket(lab).exists(), "the socket goes with its master");
}

fn asks_and_hangs(lab: &Lab) {
    let cluster = older(lab, 2).argument("--ping-timeout=3s").start_with(&command(), 2);
    let pids = cluster.status().pids();
    let events = cluster.begin("events", &[]);
    let told = |name: &str| -> Option<serde_json::Value> {
        let output = events.output();
        let lines = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut all = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        all.find(|event| event["event"] == name)
    };
    wait_until("a look at the workers", 2 * SECONDS, || told("stats").is_some());
    let stats = told("stats").expect("just seen");
    for worker in stats["workers"].as_array().unwrap() {
        assert_eq!(
            (&worker["app"]["name"], &worker["lag"]),
            (&"older".into(), &0.0.into()),
            "{stats}"
        );
        assert!(worker["uptime"].as_f64().is_some_and(|uptime| uptime > 0.0), "{stats}");
    }
    signal(pids[&0], Signal::SIGUSR1);
    wait_for_log(&cluster, "seat 0 | answer ok\n");
    wait_for_log(&cluster, "a worker requests its retirement");
    wait_until("its reason", 2 * SECONDS, || told("retire").is_some());
    let retire = told("retire").expect("just seen");
    assert_eq!(
        (&retire["cause"], &retire["reason"]),
        (&"asked".into(), &"SIGUSR1".into()),
        "{retire}"
    );
    assert_eq!(retire["details"]["pid"], pids[&0], "{retire}");
    wait_for_log(&cluster, "is replaced: requested by the worker: \"SIGUSR1\" ({");
    signal(pids[&1], Signal::SIGHUP);
    let begin = Instant::now();
    wait_for_log(&cluster, "seat 1: worker of generation 1 is unhealthy (no word on the control");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(6), "seen after {took:?}");
    signal(pids[&1], Signal::SIGHUP);
    wait_for_log(&cluster, "seat 1: worker of generation 1 is healthy again, after ");
    wait_for_log(&cluster, "seat 1 | order info\n");
}

fn restart(lab: &Lab) {
    let mut cluster = older(lab, 2).start_with(&command(), 2);
    let load = Load::to([Network::server_v4(80)])
        .from(Network::clients_v4(100))
        .pace(Pace::Rate(200.0))
        .start(lab.client())
        .unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", 2 * SECONDS, || load.counters().answered >= goal);
    };
    answers(100);
    let before = cluster.status();
    cluster.kill_master();
    assert!(socket(lab).symlink_metadata().unwrap().file_type().is_socket());
    answers(100);
    cluster.start_master(&command());
    let after = cluster.wait_until_settled(2);
    assert_eq!((after.generation, after.pids()), (before.generation, before.pids()));
    answers(100);
    // That they have joined it: they are told things.
    cluster.reload();
    for seat in 0..2 {
        wait_for_log(&cluster, &format!("seat {seat} | order retire\n"));
    }
    answers(100);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

fn replaced(lab: &Lab) {
    let mut cluster = older(lab, 2).start_with(&command(), 2);
    let before = cluster.status();
    let mut old = cluster.replace_master(&command());
    assert!(old.wait(SECONDS).success(), "{}", old.output());
    assert!(socket(lab).symlink_metadata().unwrap().file_type().is_socket());
    let after = cluster.wait_until_settled(2);
    assert_eq!((after.generation, after.pids()), (before.generation, before.pids()));
    // Where somebody has removed it, the next one makes it anew.
    std::fs::remove_file(socket(lab)).unwrap();
    let mut old = cluster.replace_master(&command());
    assert!(old.wait(SECONDS).success(), "{}", old.output());
    let after = cluster.wait_until_settled(2);
    assert_eq!((after.generation, after.pids()), (before.generation, before.pids()));
    cluster.reload();
    for seat in 0..2 {
        wait_for_log(&cluster, &format!("seat {seat} | order retire\n"));
    }
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(SECONDS).success());
    assert!(!socket(lab).exists(), "it goes with the last master");
}

fn deaf(lab: &Lab) {
    let mut cluster = older(lab, 1).environment("OLDER_DEAF", "die").start_with(&command(), 1);
    let begin = Instant::now();
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(SECONDS).success());
    let log = cluster.log();
    assert!(log.contains("seat 0 | order die\n") && log.contains("seat 0 | SIGTERM\n"), "{log}");
    assert!(log.contains("did not answer an order"), "{log}");
    assert!(begin.elapsed() < Duration::from_secs(4), "not before the time to die was over");
}

/// It ends three seconds after the order; its time to end is one second.
fn extends(lab: &Lab) {
    // On a busy machine it may get no processor to answer, or to ask, in time: then it is tried again.
    let by_itself = (0..4).any(|_| end_with_extension(lab, "20000000") == "ended by itself");
    assert!(by_itself, "each time it was sent SIGTERM");
    assert_eq!(end_with_extension(lab, "1"), "SIGTERM");
}

/// How a worker ends that asks for so many microseconds more when it is told to die.
fn end_with_extension(lab: &Lab, microseconds: &str) -> &'static str {
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/extending.py");
    let command = ["python3".into(), worker.into()];
    let cluster = older(lab, 1).argument("--env=EXTENDING").argument("--die-timeout=1s");
    let mut cluster = cluster.environment("EXTENDING", microseconds).start_with(&command, 1);
    cluster.succeed("retire", &["0"]);
    let mut end = None;
    wait_until("its end", 3 * SECONDS, || {
        let log = cluster.log();
        let says = |text: &&str| log.contains(&format!("seat 0 | {text}\n"));
        end = ["ended by itself", "SIGTERM"].into_iter().find(says);
        end.is_some()
    });
    cluster.succeed("stop", &["--now"]);
    assert!(cluster.master().wait(3 * SECONDS).success());
    end.expect("just seen")
}

fn ports(lab: &Lab) {
    const PUBLIC: [u16; 2] = [80, 443];
    let cluster = older_on(lab, &PUBLIC, 2).environment("OLDER_PUBLIC", "80,443");
    let mut cluster = cluster.start_with(&command(), 2);
    for worker in cluster.status().live() {
        let ports: Vec<&str> = worker.ports.keys().map(String::as_str).collect();
        assert_eq!(ports, ["443", "80"]);
        assert_ne!(worker.ports["80"], worker.ports["443"]);
    }
    let load = Load::to(PUBLIC.map(Network::server_v4))
        .from(Network::clients_v4(100))
        .pace(Pace::Rate(400.0))
        .start(lab.client())
        .unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", 2 * SECONDS, || load.counters().answered >= goal);
    };
    answers(400);
    cluster.reload();
    cluster.wait_until_settled(2);
    answers(400);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.workers().len(), 4, "two of each generation: {report}");
    assert!(report.changed_seat().is_empty(), "a client has one worker, whatever the port");
}

fn busy(lab: &Lab) {
    // The limit is that of the configuration; one that finds itself too busy is beyond any.
    for (fields, limit) in [(r#"{"lag":60}"#, "50ms"), (r#"{"lag":60,"toobusy":true}"#, "10s")] {
        let cluster = older(lab, 1).environment("OLDER_FIELDS", fields);
        let mut cluster = cluster.argument("--retire-lag").argument(limit);
        cluster.start_master(&command());
        wait_for_log(&cluster, "seat 0: worker of generation 1 is replaced: its event loop lag is");
        wait_for_log(&cluster, "seat 0 | order retire\n");
        cluster.succeed("stop", &["--now"]);
        assert!(cluster.master().wait(SECONDS).success());
    }
}

fn dies(lab: &Lab) {
    let mut cluster = older(lab, 2).start_with(&command(), 2);
    let before = cluster.status().pids();
    signal(before[&1], Signal::SIGUSR2);
    let after = cluster.wait_for("another worker in its seat", |status| {
        status.is_settled(2) && status.pids()[&1] != before[&1]
    });
    assert_eq!((after.generation, after.pids()[&0]), (1, before[&0]));
    assert!(cluster.log().contains("ended by itself (status 0)"), "{}", cluster.log());
}

fn memory(lab: &Lab) {
    const MIB: u64 = 1 << 20;
    // A petabyte; a young worker of the older system says 1 byte, which is as wrong.
    let cluster = older(lab, 1).environment("OLDER_FIELDS", r#"{"mem":{"rss":1000000000000000}}"#);
    let cluster = cluster.argument("--retire-rss").argument("1GiB");
    let mut cluster = cluster.argument("--memory-total").argument("1GiB").start_with(&command(), 1);
    let before = cluster.status().pids();
    let events = cluster.begin("events", &[]);
    let looks = || events.output().matches("\"event\":\"stats\"").count();
    wait_until("two looks at the memory", SECONDS, || looks() >= 2);
    let status = cluster.wait_until_settled(1);
    let measured = status.live()[0].memory.expect("it was looked at");
    assert!((10 * MIB..500 * MIB).contains(&measured), "{measured}");
    assert_eq!(status.pids(), before, "nobody was replaced");
    assert!(!events.output().contains("watermark"), "{}", events.output());
}

fn liars(lab: &Lab) {
    // Somebody else's port.
    let other = lab.greeter(2222, 0);
    for (fields, refusal) in [
        (r#"{"portmap":{"80":2222}}"#, "no socket of this worker listens on 2222"),
        // F18.
        (r#"{"portmap":{"80":2223}}"#, "no socket of this worker listens on 2223"),
        (r#"{"portmap":{"80":80}}"#, "80 is a public port of this cluster"),
        (r#"{"portmap":{"81":2222}}"#, "81 is no public port of this cluster"),
        (r#"{"band":1}"#, "band: 1, but this worker holds seat 0"),
        (r#"{"pid":1}"#, "pid: 1 is not the process that says so"),
        (r#"{"pid":"1"}"#, "pid: expected a process id"),
        (r#"{"mem":{"rss":-5}}"#, "mem: expected an object"),
        (r#"{"__type":"ping"}"#, "ping: not before info"),
    ] {
        let mut cluster =
            older(lab, 1).environment("OLDER_FIELDS", fields).argument("--ready-timeout=30s");
        cluster.start_master(&command());
        wait_for_log(&cluster, refusal);
        let status = cluster.status();
        assert!(status.live().is_empty(), "{fields}: {status:#?}");
        cluster.succeed("stop", &["--now"]);
        assert!(cluster.master().wait(SECONDS).success());
    }
    drop(other);
}

fn twice(lab: &Lab) {
    let cluster = older(lab, 1).environment("OLDER_TWICE", "yes").start_with(&command(), 1);
    wait_for_log(&cluster, "seat 0 | second: error this worker is connected already\n");
    let log = cluster.log();
    assert!(!log.contains("parted"), "the first connection is left alone:\n{log}");
}

/// A connection by hand.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SECONDS)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// What comes until the end of the connection.
    fn rest(mut self) -> String {
        let mut all = Vec::new();
        // A connection that is closed with something unread is reset.
        while !matches!(self.0.read_until(b'\n', &mut all), Ok(0) | Err(_)) {}
        String::from_utf8_lossy(&all).into_owned()
    }
}

fn strangers(lab: &Lab) {
    let path = socket(lab);
    let cluster = Cluster::new(lab, 2).argument("--socket").argument(&path).start(2);
    let control = PathBuf::from("/run/ipcluster/t.sock");
    let port = cluster.status().live()[0].ports["80"];
    let info = format!(
        "{{\"__type\":\"info\",\"__messageID\":3,\"pid\":{},\"mem\":{{\"rss\":1}},\
         \"portmap\":{{\"80\":{port}}},\"band\":0}}\n",
        std::process::id()
    );
    for path in [&path, &control] {
        // The very ports and seat of a worker, from a process that is none.
        let mut stranger = Raw::connect(path);
        stranger.send(info.as_bytes());
        let answer = stranger.rest();
        assert!(answer.contains("\"__messageID\":3") && answer.contains("\"error\""), "{answer}");
        assert!(answer.contains("is no process of a worker of this master"), "{answer}");
    }
    for line in ["null", "[]", "1", "\"x\"", "{\"v\":1,\"command\":\"stop\"}", "{\"__type\":1}"] {
        let mut stranger = Raw::connect(&path);
        stranger.send(format!("{line}\n").as_bytes());
        assert!(stranger.rest().contains("error"), "{line}");
    }
    let mut endless = Raw::connect(&path);
    endless.send(&[b'x'; 65_537]);
    assert!(endless.rest().contains("line of more than 65536 bytes"));
    let mut slow = Raw::connect(&path);
    slow.send(b"{");
    let begin = Instant::now();
    assert!(slow.rest().contains("no complete line within 5 s"));
    assert!(begin.elapsed() < Duration::from_secs(7));
    assert_eq!(cluster.status().live().len(), 2);
    assert_eq!(cluster.status().generation, 1);
}

fn sdk(lab: &Lab) {
    join_and_be_told(Cluster::new(lab, 2).start_with(&[member().into()], 2));
}

/// Who may not enter the directory of the control socket.
fn sdk_of_another_user(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).argument("--user=54321").argument("--group=54322");
    let worker = lab.for_everyone(&member());
    let cluster = cluster.start_with(&[worker.into()], 2);
    for pid in cluster.status().pids().values() {
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let of = |name: &str| {
            let line = environment.split('\0').find_map(|it| it.strip_prefix(name));
            PathBuf::from(line.and_then(|it| it.strip_prefix('=')).expect("it is set"))
        };
        for path in [of("NOTIFY_SOCKET"), of("IPCLUSTER_SOCKET")] {
            assert!(path.starts_with("/run/ipcluster-workers"), "{}", path.display());
            let found = path.symlink_metadata().unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (0, 54_322, 0o660));
        }
    }
    join_and_be_told(cluster);
}

fn join_and_be_told(mut cluster: Cluster<'_>) {
    cluster.reload();
    cluster.wait_until_settled(2);
    for seat in 0..2 {
        // What workers print is passed on by a thread of its own.
        let retired = format!("seat {seat} | retired: 0 connections left\n");
        wait_until(&format!("{retired:?} in the log"), SECONDS, || {
            cluster.log().contains(&retired)
        });
        let ended =
            format!("seat {seat}: worker of generation 1 ended as asked (exited with status 0)");
        assert!(cluster.log().contains(&ended), "no {ended:?} in\n{}", cluster.log());
    }
}

fn sockets(lab: &Lab) {
    let (path, precious) = (socket(lab), lab.directory().join("precious"));
    let refused = |reason: &str| {
        let mut cluster = Cluster::new(lab, 1).argument("--socket").argument(&path);
        cluster.start_master(&[netns_tests::greeter().into()]);
        let status = cluster.master().wait(SECONDS);
        assert_eq!(status.code(), Some(1), "{}", cluster.log());
        assert!(cluster.log().contains(reason), "{reason}:\n{}", cluster.log());
    };
    std::fs::write(&path, "data").unwrap();
    refused("expected a socket or nothing");
    std::fs::rename(&path, &precious).unwrap();
    std::os::unix::fs::symlink(&precious, &path).unwrap();
    refused("expected a socket or nothing");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "data");
    assert!(path.symlink_metadata().unwrap().is_symlink());
    std::fs::remove_file(&path).unwrap();
    let served = std::os::unix::net::UnixListener::bind(&path).unwrap();
    refused("another process listens on it");
    drop(served);
    let cluster = Cluster::new(lab, 1).argument("--socket").argument(&path).start(1);
    assert_eq!(cluster.status().live().len(), 1);
}
