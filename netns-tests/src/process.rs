//! Processes of a test, and waiting.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Looks every millisecond whether `condition` holds.
///
/// # Panics
/// After `limit`, with `what` was waited for.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < limit, "waited {limit:?} for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal to a process of a case, such as a worker: the numbers are those of its own pid
/// namespace.
///
/// # Panics
/// Where there is no such process.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("a process number");
    assert!(pid > 1, "process {pid} is none of the case's");
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|errno| panic!("{signal} to {pid}: {errno}"));
}

/// Whether the process is there and has not ended: a zombie has.
pub fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !['Z', 'X'].contains(&state))
}

/// Whether the process is stopped, as by SIGSTOP: a signal that was sent may have to wait for its
/// process to come to a processor.
pub fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// The state of a process, as `/proc/PID/stat` has it.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // It stands behind the name, which is in parentheses and may hold others.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// How long the first thread of a process has been ready to run while others had the processors: what
/// a busy machine adds to whatever the process does. `None` where that is not known, or it was
/// reaped.
pub fn waited_for_processor(pid: u32) -> Option<Duration> {
    // Time on a processor and time waiting for one, in nanoseconds
    // (Documentation/scheduler/sched-stats.rst).
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    stat.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// A process that a test started. It is killed when this value goes.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `namespace`; what it prints goes to the file `log`.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn start(namespace: &Namespace, command: Command, log: &Path) -> Self {
        let file = fs::File::create(log).expect("the log can be made");
        Self::start_printing_to(namespace, command, log, file.into())
    }

    /// Starts `command` in `namespace`; what it prints goes to `output`, and what somebody makes of that
    /// may stand in the file `log`.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn start_printing_to(
        namespace: &Namespace,
        mut command: Command,
        log: &Path,
        output: OwnedFd,
    ) -> Self {
        let copy = output.try_clone().expect("a descriptor can be copied");
        command.stdin(Stdio::null()).stdout(copy).stderr(output);
        let child = namespace.run_in(|| command.spawn()).expect("the namespace can be entered");
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// Where it has been waited for already.
    pub fn signal(&self, signal: Signal) {
        super::signal(self.child.id(), signal);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After `limit`, with what it printed.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(began.elapsed() < limit, "still runs after {limit:?}:\n{}", self.output());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("({}: {error})", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; the wait only fails where it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
