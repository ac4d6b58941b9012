//! No signal reaches a process that has the number of a worker that is gone (F12).

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, Need, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_stranger_with_the_number_of_a_worker_is_left_alone", reused).needs(Need::Pids),
    ]
}

/// The number after which the kernel looks for a free one (CONFIG_CHECKPOINT_RESTORE).
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// A process that has nothing to do with the cluster, the leader of a group of its own.
struct Stranger(Child);

impl Stranger {
    /// Starts one that gets `pid`, if that is free and nobody else starts a process just now.
    fn near(pid: u32) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").process_group(0);
        fs::write(LAST_PID, (pid - 1).to_string()).expect("the pid namespace is ours");
        Self(command.spawn().expect("sleep (coreutils)"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn state(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1[..1].to_owned()
}

fn reused(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let victim = cluster.status().pids()[&0];
    // As long as the master has not taken note of its end, the number belongs to the worker.
    cluster.master().signal(Signal::SIGSTOP);
    signal(victim, Signal::SIGKILL);
    wait_until("the worker to end", Duration::from_secs(5), || !is_alive(victim));
    for _ in 0..20 {
        assert_ne!(Stranger::near(victim).pid(), victim, "a zombie keeps its number");
    }
    cluster.master().signal(Signal::SIGCONT);
    wait_until("the worker to be reaped", Duration::from_secs(5), || {
        !Path::new(&format!("/proc/{victim}")).exists()
    });
    let mut stranger = Stranger::near(victim);
    wait_until("a stranger with its number", Duration::from_secs(10), || {
        if stranger.pid() != victim {
            stranger = Stranger::near(victim);
        }
        stranger.pid() == victim
    });
    // All that signals workers, those of that seat too.
    cluster.wait_until_settled(2);
    cluster.reload();
    cluster.wait_until_settled(2);
    cluster.succeed("scale", &["1"]);
    cluster.wait_until_settled(1);
    cluster.succeed("stop", &["--now"]);
    cluster.master().wait(Duration::from_secs(5));
    assert!(stranger.is_running());
    assert_eq!(state(victim), "S", "neither ended nor stopped");
    // What would have reached it: so the test sees a signal.
    signal(victim, Signal::SIGTERM);
    wait_until("the stranger to end", Duration::from_secs(5), || !stranger.is_running());
}
