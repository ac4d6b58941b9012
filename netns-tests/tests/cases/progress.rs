//! What a verb shows that takes a while: on a terminal how far it is, elsewhere one line for each step; what
//! happens when it is waited for no longer.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Process, wait_until};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_reload_counts_the_workers_that_are_ready", ready),
        Case::new("a_stop_shows_on_a_terminal_what_drains", drains),
        Case::new("a_verb_that_is_interrupted_says_what_goes_on", interrupted),
        Case::new("a_verb_waits_for_no_longer_than_it_was_told", timeout),
        Case::new("a_verb_does_not_wait_if_it_was_told_so", no_wait),
        Case::new("a_status_is_watched_in_its_place_on_a_terminal", watched),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);

/// What is printed to a terminal, or to a pipe.
struct Screen {
    output: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Screen {
    /// A terminal, and what a program prints to.
    fn terminal() -> (Self, OwnedFd) {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        (Self::read(pty.master), pty.slave)
    }

    fn pipe() -> (Self, OwnedFd) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Self::read(reader.into()), writer.into())
    }

    fn read(from: OwnedFd) -> Self {
        let output = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let (mut file, text) = (File::from(from), std::sync::Arc::clone(&output));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose last user has gone is an error (EIO).
            while let Ok(length @ 1..) = file.read(&mut buffer) {
                let part = String::from_utf8_lossy(&buffer[..length]);
                text.lock().expect("nobody panics with it").push_str(&part);
            }
        });
        Self { output }
    }

    fn text(&self) -> String {
        self.output.lock().expect("nobody panics with it").clone()
    }

    fn wait_for(&self, text: &str) {
        let mut seen = String::new();
        let all = std::iter::repeat_with(|| self.text());
        let begin = std::time::Instant::now();
        for now in all {
            seen = now;
            if seen.contains(text) {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "no {text:?} in {seen:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        unreachable!("{seen}");
    }
}

/// A cluster of two, of whose next workers the one in seat 1 waits for a file.
fn with_slow_second(lab: &Lab) -> (Cluster<'_>, std::path::PathBuf) {
    let cluster = Cluster::new(lab, 2).start_adjustable(2);
    let go = lab.directory().join("go");
    cluster.set_greeters(&format!(
        "[ $IPCLUSTER_SEAT = 0 ] || while [ ! -e {} ]; do sleep 0.02; done",
        go.display()
    ));
    (cluster, go)
}

fn held(lab: &Lab) -> Held {
    let client = Network::clients_v4(1).next().unwrap();
    Held::open(lab.client(), client, Network::server_v4(80)).unwrap()
}

fn end_of(mut process: Process) -> Option<i32> {
    process.wait(LIMIT).code()
}

fn ready(lab: &Lab) {
    for is_terminal in [true, false] {
        let (mut cluster, go) = with_slow_second(lab);
        let (screen, output) = if is_terminal { Screen::terminal() } else { Screen::pipe() };
        let reload = cluster.begin_printing_to("reload", &[], output);
        screen.wait_for("seat 0 is ready (1 of 2)");
        std::fs::write(&go, "").unwrap();
        assert_eq!(end_of(reload), Some(0), "{}", screen.text());
        screen.wait_for("seat 1 is ready (2 of 2)");
        screen.wait_for("generation 2 is in force: 2 workers");
        assert!(is_terminal || !screen.text().contains(['\x1b', '\r']), "{:?}", screen.text());
        std::fs::remove_file(&go).unwrap();
        cluster.succeed("stop", &["--now"]);
        assert!(cluster.master().wait(LIMIT).success());
    }
}

fn drains(lab: &Lab) {
    for is_terminal in [true, false] {
        let mut cluster = Cluster::new(lab, 2).start(2);
        let held = held(lab);
        let (screen, output) = if is_terminal { Screen::terminal() } else { Screen::pipe() };
        let stop = cluster.begin_printing_to("stop", &[], output);
        screen.wait_for("1 worker is left to drain");
        if is_terminal {
            // In its place, and since when.
            screen.wait_for("\r\x1b[Kdraining: 1 connection with 1 worker of generation 1, since ");
        }
        drop(held);
        assert_eq!(end_of(stop), Some(0), "{}", screen.text());
        screen.wait_for("stopped: 2 workers ended, rules removed");
        let text = screen.text();
        assert!(
            is_terminal || !text.contains("draining:") && !text.contains(['\x1b', '\r']),
            "{text:?}"
        );
        assert!(!text.contains("1 workers") && !text.contains("1 connections"), "{text:?}");
        assert!(cluster.master().wait(LIMIT).success());
    }
}

fn interrupted(lab: &Lab) {
    let (mut cluster, go) = with_slow_second(lab);
    let (screen, output) = Screen::pipe();
    let reload = cluster.begin_printing_to("reload", &[], output);
    screen.wait_for("(1 of 2)");
    reload.signal(Signal::SIGINT);
    assert_eq!(end_of(reload), Some(130), "{}", screen.text());
    screen.wait_for(
        "error: interrupted: the reload goes on\nhint: `ipcluster status` shows how far it is",
    );
    std::fs::write(&go, "").unwrap();
    cluster.wait_for("the new generation", |status| status.generation == 2 && status.is_settled(2));

    let held = held(lab);
    let (screen, output) = Screen::pipe();
    let stop = cluster.begin_printing_to("stop", &[], output);
    screen.wait_for("left to drain");
    stop.signal(Signal::SIGINT);
    assert_eq!(end_of(stop), Some(130), "{}", screen.text());
    screen.wait_for("error: interrupted: the stop goes on");
    assert!(cluster.master().is_running());
    drop(held);
    assert!(cluster.master().wait(LIMIT).success());
}

fn timeout(lab: &Lab) {
    let (mut cluster, go) = with_slow_second(lab);
    let error = cluster.fail("reload", &["--timeout", "300ms"]);
    assert!(error.contains("it took longer than 300ms: the reload goes on"), "{error}");
    std::fs::write(&go, "").unwrap();
    cluster.wait_for("the new generation", |status| status.generation == 2 && status.is_settled(2));
    std::fs::remove_file(&go).unwrap();
    // A worker more, which waits for the file as well.
    let error = cluster.fail("scale", &["3", "--timeout", "300ms"]);
    assert!(
        error.contains("it took longer than 300ms: the change of the number of workers goes on"),
        "{error}"
    );
    std::fs::write(&go, "").unwrap();
    cluster.wait_until_settled(3);
    let held = held(lab);
    let error = cluster.fail("stop", &["--timeout", "300ms"]);
    assert!(error.contains("it took longer than 300ms: the stop goes on"), "{error}");
    drop(held);
    assert!(cluster.master().wait(LIMIT).success());
}

fn no_wait(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let held = held(lab);
    assert_eq!(
        cluster.succeed("stop", &["--no-wait"]),
        "stopping: workers finish their connections\n"
    );
    assert!(cluster.master().is_running());
    drop(held);
    assert!(cluster.master().wait(LIMIT).success());
}

fn watched(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).start(2);
    for is_terminal in [true, false] {
        let (screen, output) = if is_terminal { Screen::terminal() } else { Screen::pipe() };
        let watch = cluster.begin_printing_to("status", &["--watch"], output);
        let frames = || screen.text().matches("cluster    t").count();
        wait_until("two of them", LIMIT, || frames() > 1);
        let text = screen.text();
        let places = text.matches("\x1b[H").count();
        match is_terminal {
            true => assert!(places > 1, "{text:?}"),
            false => assert!(!text.contains('\x1b'), "{text:?}"),
        }
        watch.signal(Signal::SIGINT);
        end_of(watch);
    }
}
