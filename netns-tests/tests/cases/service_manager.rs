//! A master as a service of systemd: what it tells its service manager, over a socket of the test's.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use netns_tests::{Case, Cluster, Lab, Need, greeter};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Pids);
    vec![
        case("a_service_manager_hears_of_start_reload_and_stop", by_path),
        case("a_service_manager_at_an_abstract_address_hears_of_a_master_that_leaves", by_name),
        case("each_hangup_begins_a_reload_that_ends_with_the_last_of_them", hangups),
        case("a_service_manager_that_is_not_there_holds_nothing_up", nobody),
    ]
}

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { socket, heard: Vec::new() }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
    }

    /// Waits for a message with this line, and returns what has come up to it, without what only
    /// says that the master lives.
    fn wait_for(&mut self, line: &str) -> Vec<String> {
        let began = Instant::now();
        loop {
            self.listen();
            let is_it = |message: &String| message.lines().any(|it| it == line);
            if let Some(index) = self.heard.iter().position(is_it) {
                let up_to = self.heard.drain(..=index);
                return up_to.filter(|message| message != "WATCHDOG=1").collect();
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{line}: {:?}", self.heard);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn value<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The clock that sd_notify(3) names for `MONOTONIC_USEC`, and not that of /proc/uptime, which counts the time of a
/// suspended machine too.
fn monotonic_usec() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    now.as_micros().try_into().unwrap()
}

/// When a reload has begun, by what a message says of it.
fn reloading_at(message: &str) -> u64 {
    assert_eq!(value(message, "RELOADING"), Some("1"), "{message}");
    value(message, "MONOTONIC_USEC").unwrap().parse().unwrap()
}

fn by_path(lab: &Lab) {
    let path = lab.directory().join("manager.sock");
    let mut manager = Manager::new(UnixDatagram::bind(&path).unwrap());
    let mut cluster = Cluster::new(lab, 2)
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", "200000");
    // Not ready before a worker serves.
    let script = format!("sleep 0.5; exec {}", greeter().display());
    let began = Instant::now();
    cluster.start_master(&["sh".into(), "-c".into(), script.into()]);
    let first = manager.wait_for("READY=1");
    assert!(began.elapsed() >= Duration::from_millis(500), "{first:?}");
    assert!(value(&first[0], "STATUS").unwrap().starts_with("0 of 2 workers serve"), "{first:?}");
    let ready = first.last().unwrap();
    // Both workers start at once, and may be seen to be ready at once.
    let all = "2 of 2 workers serve, generation 1";
    if value(ready, "STATUS") != Some(all) {
        assert_eq!(value(ready, "STATUS").unwrap(), "1 of 2 workers serve, generation 1");
        manager.wait_for(&format!("STATUS={all}"));
    }
    assert!(cluster.status().live().len() == 2, "what it was told is so");

    // The worker has a manager of its own, if any.
    for pid in cluster.status().pids().values() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(!environment.contains("manager.sock"), "{environment}");
        assert!(!environment.contains("WATCHDOG_USEC=200000"), "{environment}");
    }

    // By signal, as Type=notify-reload has it, and by the command.
    for generation in 2..=3 {
        let before = monotonic_usec();
        match generation {
            2 => cluster.master().signal(Signal::SIGHUP),
            _ => cluster.reload(),
        }
        let heard = manager.wait_for("READY=1");
        let at = reloading_at(&heard[0]);
        assert!(before <= at && at <= monotonic_usec(), "{before} {at}");
        let status = value(heard.last().unwrap(), "STATUS").unwrap();
        assert_eq!(status, format!("2 of 2 workers serve, generation {generation}"));
    }

    // The loop lives: at least once within the limit, over and over.
    manager.heard.clear();
    for _ in 0..10 {
        let began = Instant::now();
        manager.wait_for("WATCHDOG=1");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    cluster.succeed("stop", &["--now"]);
    let last = manager.wait_for("STOPPING=1");
    assert_eq!(last.len(), 1, "{last:?}");
    cluster.master().wait(Duration::from_secs(5));
    manager.listen();
    assert!(manager.heard.iter().all(|message| message == "WATCHDOG=1"), "{:?}", manager.heard);
}

/// As systemd does it under `Type=notify-reload`: it takes a reload for begun with a time that is not before its
/// signal, and for ended with `READY=1`, whatever has come of it.
fn hangups(lab: &Lab) {
    let (path, file) = (lab.directory().join("manager.sock"), lab.directory().join("t.toml"));
    let write = |lines: &str| {
        let listen = "listen = [\"10.9.0.1:80\", \"[fd09::1]:80\"]\nrollout.probation = \"0\"";
        fs::write(&file, format!("{listen}\n{lines}\n")).unwrap();
    };
    let mut manager = Manager::new(UnixDatagram::bind(&path).unwrap());
    write("workers = 2");
    let script = format!("sleep 0.5; exec {}", greeter().display());
    let mut cluster = Cluster::from_file(lab, &file)
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .start_with(&["sh".into(), "-c".into(), script.into()], 2);
    manager.wait_for("READY=1");
    let pids = cluster.status().pids();

    write("wrokers = 2");
    let before = monotonic_usec();
    cluster.master().signal(Signal::SIGHUP);
    let heard = manager.wait_for("READY=1");
    let reloading = heard.iter().find(|message| value(message, "RELOADING").is_some()).unwrap();
    assert!(reloading_at(reloading) >= before, "{heard:?}");
    let status = value(heard.last().unwrap(), "STATUS").unwrap();
    let failed = "2 of 2 workers serve, generation 1; the reload failed: ";
    assert!(status.starts_with(failed) && status.contains("wrokers"), "{heard:?}");
    assert_eq!(cluster.status().pids(), pids, "nothing has happened");

    // Workers need half a second to start, and the second signal comes before.
    write("workers = 2\nenv = [\"FOO=two\"]");
    for _ in 0..2 {
        let before = monotonic_usec();
        cluster.master().signal(Signal::SIGHUP);
        let heard = manager.wait_for("RELOADING=1");
        assert!(heard.iter().all(|message| value(message, "READY").is_none()), "{heard:?}");
        assert!(reloading_at(heard.last().unwrap()) >= before, "{heard:?}");
    }
    let heard = manager.wait_for("READY=1");
    let status = cluster.wait_until_settled(2);
    let said = format!("2 of 2 workers serve, generation {}", status.generation);
    assert_eq!(value(heard.last().unwrap(), "STATUS"), Some(&*said), "{heard:?}");
    assert!(status.generation > 1);
    for pid in status.pids().values() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(String::from_utf8_lossy(&environment).contains("FOO=two"));
    }
    cluster.succeed("stop", &["--now"]);
}

fn by_name(lab: &Lab) {
    // Abstract names belong to network namespaces.
    let address = SocketAddr::from_abstract_name("ipcluster test manager").unwrap();
    let socket = lab.server().run_in(|| UnixDatagram::bind_addr(&address)).unwrap().unwrap();
    let mut manager = Manager::new(socket);
    let mut cluster =
        Cluster::new(lab, 2).environment("NOTIFY_SOCKET", "@ipcluster test manager").start(2);
    manager.wait_for("READY=1");
    manager.listen();
    assert!(!manager.heard.contains(&"WATCHDOG=1".to_owned()), "nobody asked for it");
    cluster.terminate_master();
    manager.wait_for("STOPPING=1");
    // The next one is ready at once: the workers of the one before serve.
    cluster.start_master(&["sleep".into(), "600".into()]);
    let ready = manager.wait_for("READY=1").pop().unwrap();
    assert!(value(&ready, "STATUS").unwrap().starts_with("2 of 2 workers serve"), "{ready}");
}

fn nobody(lab: &Lab) {
    let path = lab.directory().join("nobody.sock");
    let cluster = Cluster::new(lab, 2).environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut cluster = cluster.start(2);
    cluster.reload();
    let complaints = cluster.log().matches("sd_notify failed").count();
    assert_eq!(complaints, 1, "{}", cluster.log());
    // One that comes late hears of it.
    let mut manager = Manager::new(UnixDatagram::bind(&path).unwrap());
    manager.wait_for("READY=1");
    cluster.terminate_master();
    manager.wait_for("STOPPING=1");
}
