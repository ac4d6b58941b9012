//! `ipcluster top` on a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, ipcluster, signal, wait_until};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{Termios, tcgetattr};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_worker_is_retired_by_a_key_and_a_yes", retires),
        Case::new("the_terminal_is_as_before_after_every_end", restores),
        Case::new("without_a_terminal_it_says_what_to_use", refused),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);

/// `top` on a terminal of its own.
struct Top {
    child: Child,
    /// The end of whoever sits at the terminal.
    keys: File,
    /// Held, to see the modes of the terminal.
    terminal: OwnedFd,
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Top {
    fn start(lab: &Lab) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // The session gets the terminal, so that it is the one of the process, as in a shell.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(ipcluster()).args(["top", "t"]);
        command.env("XDG_RUNTIME_DIR", lab.directory()).env("TERM", "xterm-256color");
        command.stdin(end()).stdout(end()).stderr(end());
        let child = lab.server().run_in(|| command.spawn()).unwrap().unwrap();
        let keys = File::from(pty.master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, all) = (keys.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                all.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keys, terminal: pty.slave, before, shown }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, text: &str) {
        wait_until(&format!("{text:?} on the screen"), LIMIT, || self.text().contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the end of top", LIMIT, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Sees that the terminal has its own screen, its cursor and its modes again.
    fn assert_restored(&self) {
        let shown = || self.text();
        wait_until("its own screen", LIMIT, || shown().contains("\u{1b}[?1049l"));
        assert!(shown().contains("\u{1b}[?25h"), "the cursor: {:?}", shown());
        let now = tcgetattr(&self.terminal).unwrap();
        assert_eq!(now.local_flags, self.before.local_flags);
        assert_eq!(now.input_flags, self.before.input_flags);
        assert_eq!(now.output_flags, self.before.output_flags);
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn retires(lab: &Lab) {
    let cluster = Cluster::new(lab, 3).start(3);
    let before = cluster.status().pids();
    let mut top = Top::start(lab);
    for pid in before.values() {
        top.wait_for(&pid.to_string());
    }
    assert_ne!(
        tcgetattr(&top.terminal).unwrap().local_flags,
        top.before.local_flags,
        "the control"
    );
    top.press("jt");
    top.wait_for("Retire the worker in seat 1");
    assert_eq!(cluster.status().pids(), before, "it asks first");
    top.press("n");
    // What is blank already is not written again, such as what stands between these words and the next.
    top.wait_for("nothing");
    assert_eq!(cluster.status().pids(), before);
    top.press("ty");
    wait_until("another worker in seat 1", LIMIT, || {
        cluster.status().pids().get(&1).is_some_and(|pid| *pid != before[&1])
    });
    top.wait_for("has the place of");
    top.press("q");
    assert!(top.ended().success());
    top.assert_restored();
    assert_eq!(cluster.status().live().len(), 3, "the cluster goes on");
}

fn restores(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    for end in ["\u{3}", "SIGTERM", "SIGINT"] {
        let mut top = Top::start(lab);
        top.wait_for("live");
        match end {
            "SIGTERM" => signal(top.child.id(), Signal::SIGTERM),
            "SIGINT" => signal(top.child.id(), Signal::SIGINT),
            keys => top.press(keys),
        }
        assert!(top.ended().success(), "{end:?}");
        top.assert_restored();
    }
    // A master that is gone is no end: it may come back.
    let mut top = Top::start(lab);
    top.wait_for("live");
    cluster.kill_master();
    top.wait_for("no master of cluster");
    // As the kernel does when nobody sits at the terminal any more.
    signal(top.child.id(), Signal::SIGHUP);
    assert!(top.ended().success());
    top.assert_restored();
}

fn refused(lab: &Lab) {
    let cluster = Cluster::new(lab, 1).start(1);
    let said = cluster.fail("top", &[]);
    assert!(said.contains("top needs a terminal"), "{said}");
    assert!(said.contains("`ipcluster status` prints the same once"), "{said}");
}
