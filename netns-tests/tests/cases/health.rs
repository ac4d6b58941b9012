//! Workers that say that they are ready, those that are asked, and those that do not answer any more.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ipcluster::lab::{Load, Network, Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Need, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Python);
    vec![
        case("a_worker_that_is_to_say_so_is_ready_when_it_does", late),
        case("one_that_says_ready_and_does_not_listen_gets_nobody", early),
        case("what_a_child_of_a_worker_says_counts_and_a_strangers_word_does_not", senders),
        case("what_only_a_service_manager_grants_is_refused", greedy),
        case("one_that_stops_by_itself_is_replaced_and_nobody_is_lost", stops),
        case("one_that_does_not_feed_its_watchdog_gets_nobody_until_it_does", watchdog),
        case("one_that_is_asked_is_ready_and_well_while_it_answers_200", asked),
        case("one_that_accepts_nobody_gets_nobody_until_it_does", hangs),
        case("one_that_does_not_listen_any_more_gets_nobody_until_it_does", deaf),
        case("where_nobody_answers_all_keep_their_clients", all_silent),
        case("a_new_worker_that_is_stopped_fails_its_reload", stopped_in_a_reload),
    ]
}

/// A cluster of `worker.py`, and the files by which it is told what to do.
struct Workers<'a> {
    lab: &'a Lab,
    cluster: Cluster<'a>,
}

impl<'a> Workers<'a> {
    /// Starts so many, and does not wait for them.
    fn start(lab: &'a Lab, workers: u16, mode: &str, arguments: &[&str]) -> Self {
        let mut cluster = Cluster::new(lab, workers).argument("--spawn-stagger").argument("0");
        for argument in arguments {
            cluster = cluster.argument(*argument);
        }
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/worker.py");
        let command: [OsString; 4] =
            ["python3".into(), script.into(), mode.into(), lab.directory().into()];
        cluster.start_master(&command);
        Self { lab, cluster }
    }

    /// Starts so many, and waits until all are live.
    fn live(lab: &'a Lab, workers: u16, mode: &str, arguments: &[&str]) -> Self {
        let mut started = Self::start(lab, workers, mode, arguments);
        started.cluster.wait_until_settled(workers.into());
        started
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.directory().join(name)
    }

    fn tell(&self, what: &str) {
        fs::write(self.file(what), "").unwrap();
    }

    fn untell(&self, what: &str) {
        fs::remove_file(self.file(what)).unwrap();
    }

    /// Waits until the workers have this health, by seat, and no others are there.
    fn wait_for_health(&mut self, expected: &[&str]) {
        self.cluster.wait_for(&format!("the health {expected:?}"), |status| {
            status.is_settled(expected.len()) && status.health() == expected
        });
    }

    /// A load of 200 clients, one of a hundred a second.
    fn load(&self) -> RunningLoad {
        Load::to([Network::server_v4(80)])
            .from(Network::clients_v4(200))
            .pace(Pace::Rate(100.0))
            .time_out(Duration::from_secs(1))
            .start(self.lab.client())
            .unwrap()
    }

    /// The seats that answer 200 clients, all of which are answered.
    fn answering(&self) -> Vec<u16> {
        let load = Load::to([Network::server_v4(80)]).from(Network::clients_v4(200));
        let report = load.connections(200).start(self.lab.client()).unwrap().wait();
        assert_eq!(report.failed(), 0, "{report}\nthe master:\n{}", self.cluster.log());
        let mut seats: Vec<u16> = report.workers().keys().map(|by| by.seat).collect();
        seats.sort_unstable();
        seats.dedup();
        seats
    }

    fn count_in_log(&self, text: &str) -> usize {
        self.cluster.log().matches(text).count()
    }
}

fn answers(load: &RunningLoad, more: u64) {
    let goal = load.counters().answered + more;
    wait_until("answers", Duration::from_secs(30), || load.counters().answered >= goal);
}

fn late(lab: &Lab) {
    let mut workers = Workers::start(lab, 2, "late,status", &["--ready", "notify"]);
    let status = workers.cluster.wait_for("both to have spoken", |status| {
        status.workers.len() == 2 && status.workers.iter().all(|worker| worker.text.is_some())
    });
    assert_eq!(status.live().len(), 0, "they listen, and have not said that they are ready");
    assert_eq!(status.workers[1].text.as_deref(), Some("seat 1 is \u{fffd}[31mup"));
    workers.tell("go");
    workers.cluster.wait_until_settled(2);
    assert_eq!(workers.answering(), [0, 1]);
    // The next master listens at the same place.
    workers.untell("go");
    let socket = fs::read(format!("/proc/{}/environ", status.workers[0].pid.unwrap())).unwrap();
    let socket = String::from_utf8_lossy(&socket).into_owned();
    let socket = socket.split('\0').find_map(|it| it.strip_prefix("NOTIFY_SOCKET=")).unwrap();
    assert!(fs::symlink_metadata(socket).is_ok(), "{socket}");
    workers.cluster.succeed("stop", &["--now"]);
    wait_until("the socket to go with the cluster", Duration::from_secs(5), || {
        fs::symlink_metadata(socket).is_err()
    });
}

/// F18.
fn early(lab: &Lab) {
    let arguments = ["--ready", "notify", "--ready-timeout", "4s", "--die-timeout", "0"];
    let workers = Workers::start(lab, 1, "early", &arguments);
    wait_until("the report", Duration::from_secs(20), || {
        workers.count_in_log("reports that it is ready, but does not listen") == 1
    });
    let status = workers.cluster.status();
    assert_eq!(status.live().len(), 0, "{status:?}");
    wait_until("its end", Duration::from_secs(20), || {
        workers.count_in_log("said that it was ready, but did not listen on all its ports") == 1
    });
    assert_eq!(workers.count_in_log("reports that it is ready, but"), 1, "reported once");
}

fn senders(lab: &Lab) {
    let workers = Workers::live(lab, 2, "barrier", &["--ready", "notify"]);
    assert_eq!(workers.answering(), [0, 1]);
    workers.cluster.succeed("stop", &["--now"]);
    drop(workers);
    let arguments = ["--ready", "notify", "--ready-timeout", "4s"];
    let workers = Workers::start(lab, 1, "stranger", &arguments);
    for text in [
        "NOTIFY_SOCKET messages of a process that belongs to no worker",
        "listened, but did not say READY=1 within 4s",
    ] {
        wait_until(text, Duration::from_secs(20), || workers.count_in_log(text) > 0);
    }
    assert_eq!(workers.cluster.status().live().len(), 0);
}

fn greedy(lab: &Lab) {
    let workers = Workers::live(lab, 1, "greedy,ready", &["--ready", "notify"]);
    for what in ["MAINPID", "FDSTORE"] {
        assert_eq!(workers.count_in_log(&format!("asks for {what}: not granted")), 1, "{what}");
    }
}

fn stops(lab: &Lab) {
    let mut workers = Workers::live(lab, 2, "ready", &["--ready", "notify"]);
    let before = workers.cluster.status().pids();
    let load = workers.load();
    answers(&load, 50);
    workers.tell("stop-0");
    let new =
        |status: &netns_tests::Status| status.is_settled(2) && status.pids()[&0] != before[&0];
    let after = workers.cluster.wait_for("its successor", new);
    assert_eq!(after.pids()[&1], before[&1]);
    answers(&load, 50);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}\nthe master:\n{}", workers.cluster.log());
    assert_eq!(workers.count_in_log("reports that it is stopping"), 1);
    assert_eq!(workers.count_in_log("live worker of generation 1 exited"), 0, "it did not die");
}

fn watchdog(lab: &Lab) {
    let arguments = ["--watchdog-timeout", "800ms"];
    let mut workers = Workers::live(lab, 2, "watchdog", &arguments);
    workers.tell("mute-1");
    workers.wait_for_health(&["ok", "silent"]);
    assert_eq!(workers.answering(), [0]);
    workers.untell("mute-1");
    workers.wait_for_health(&["ok", "ok"]);
    assert_eq!(workers.answering(), [0, 1]);
    assert!(workers.count_in_log("no WATCHDOG=1 for 800ms") > 0);
}

fn asked(lab: &Lab) {
    fs::write(lab.directory().join("ill-0"), "").unwrap();
    let arguments = ["--ready", "http:/healthz", "--ping-timeout", "1s"];
    let mut workers = Workers::start(lab, 2, "", &arguments);
    let status = workers.cluster.wait_for("one of two", |status| status.live().len() == 1);
    assert_eq!(status.live()[0].seat, 1, "{status:?}");
    workers.untell("ill-0");
    workers.cluster.wait_until_settled(2);
    for (what, cause) in [("ill-1", "status 2xx"), ("hang-1", "status 2xx")] {
        workers.tell(what);
        workers.wait_for_health(&["ok", "silent"]);
        assert_eq!(workers.answering(), [0], "{what}");
        workers.untell(what);
        workers.wait_for_health(&["ok", "ok"]);
        assert!(workers.count_in_log(cause) > 0);
    }
    assert_eq!(workers.answering(), [0, 1]);
}

fn hangs(lab: &Lab) {
    let mut workers = Workers::live(lab, 2, "", &["--ping-timeout", "1s"]);
    let before = workers.cluster.status().pids();
    let load = workers.load();
    answers(&load, 50);
    workers.tell("hang-0");
    workers.wait_for_health(&["silent", "ok"]);
    assert_eq!(workers.answering(), [1]);
    let failed = load.counters().failed;
    workers.untell("hang-0");
    workers.wait_for_health(&["ok", "ok"]);
    assert_eq!(workers.cluster.status().pids(), before, "neither was replaced");
    let report = load.stop();
    assert!(failed > 0 && report.failed() < 300, "{report}");
    assert_eq!(workers.answering(), [0, 1]);
    let log = workers.cluster.log();
    assert!(log.contains("connections wait, and it has accepted none for 1s"), "{log}");
}

fn deaf(lab: &Lab) {
    let mut workers = Workers::live(lab, 2, "", &["--ping-timeout", "5s"]);
    workers.tell("deaf-1");
    workers.wait_for_health(&["ok", "silent"]);
    assert_eq!(workers.answering(), [0]);
    workers.untell("deaf-1");
    workers.wait_for_health(&["ok", "ok"]);
    assert_eq!(workers.answering(), [0, 1]);
}

fn all_silent(lab: &Lab) {
    let mut workers = Workers::live(lab, 2, "", &["--ping-timeout", "1s"]);
    let pids = workers.cluster.status().pids();
    for pid in pids.values() {
        signal(*pid, Signal::SIGSTOP);
    }
    workers.wait_for_health(&["silent", "silent"]);
    wait_until("the word", Duration::from_secs(5), || {
        workers.count_in_log("none of 2 workers is healthy: all keep their clients") == 1
    });
    // Both are in force: what comes now waits for them in their queues.
    let load = Load::to([Network::server_v4(80)]).from(Network::clients_v4(50));
    let load = load.time_out(Duration::from_secs(20)).connections(50);
    let load = load.start(lab.client()).unwrap();
    wait_until("all to have connected", Duration::from_secs(5), || load.counters().started >= 50);
    for pid in pids.values() {
        signal(*pid, Signal::SIGCONT);
    }
    let report = load.wait();
    assert_eq!(report.failed(), 0, "{report}");
    workers.wait_for_health(&["ok", "ok"]);
    assert!(pids.values().all(|pid| is_alive(*pid)));
}

fn stopped_in_a_reload(lab: &Lab) {
    let arguments = ["--ready", "notify", "--ping-timeout", "1s", "--ready-timeout", "4s"];
    let mut workers = Workers::start(lab, 2, "late", &arguments);
    workers.tell("go");
    let before = workers.cluster.wait_until_settled(2).pids();
    workers.untell("go");
    let mut reload = workers.cluster.begin("reload", &[]);
    let starting = workers.cluster.wait_for("the new ones", |status| {
        let new = status.workers.iter().filter(|worker| worker.state == "starting");
        new.filter(|worker| worker.pid.is_some()).count() == 2
    });
    // One gets ready, and is stopped while the other is waited for: the first to speak is it.
    let pid_of = |seat| {
        let new =
            |worker: &&netns_tests::WorkerStatus| worker.seat == seat && worker.state == "starting";
        starting.workers.iter().find(new).unwrap().pid.unwrap()
    };
    signal(pid_of(1), Signal::SIGSTOP);
    workers.tell("go");
    wait_until("the first to be ready", Duration::from_secs(10), || {
        workers.count_in_log("seat 0: worker of generation 2 ready") == 1
    });
    signal(pid_of(0), Signal::SIGSTOP);
    wait_until("its silence", Duration::from_secs(5), || {
        workers.count_in_log("seat 0: worker of generation 2 is unhealthy") == 1
    });
    signal(pid_of(1), Signal::SIGCONT);
    let status = reload.wait(Duration::from_secs(20));
    let output = reload.output();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("seat 0: the worker of generation 2 did not answer any more"),
        "{output}"
    );
    // Its process group is killed although it is stopped.
    wait_until("its end", Duration::from_secs(10), || !is_alive(pid_of(0)));
    let after = workers.cluster.wait_until_settled(2);
    assert_eq!((after.pids(), after.generation), (before, 1));
}
