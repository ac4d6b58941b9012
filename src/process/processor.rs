//! How much processor time workers have taken.
//!
//! Read when somebody asks, and never by itself. A worker may be a tree of processes, as for its memory
//! (`src/process/memory`): those of its session or group, and their descendants. Who they are is found in
//! one pass over `/proc`, about 10 us for each process of the host, every 5 s at most and never for more
//! than 2 % of the time; between passes the files of the processes that are known are read, as long each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::memory::owners;
use super::stat::{self, Stat, ticks_per_second};

/// From one pass over `/proc` to the next, at least.
const PASS_INTERVAL: Duration = Duration::from_secs(5);

/// A pass takes one part in so many of the time at most.
const PASS_SHARE: u32 = 50;

/// Reads how much processor time the processes of workers have taken.
#[derive(Debug, Default)]
pub(crate) struct ProcessorWatch {
    /// The processes of each worker but the first, by the pid of the first.
    others: BTreeMap<u32, Vec<Process>>,
    next_pass: Option<Instant>,
}

/// A process, told apart from a later one with the same pid by its start.
#[derive(Debug, Clone, Copy)]
struct Process {
    pid: u32,
    start_ticks: u64,
}

impl ProcessorWatch {
    /// The processor time of these workers, each named by the pid of its first process, which has to be
    /// the leader of its session: in user and in kernel mode, of all processes that live, and of those
    /// that they have waited for. It shrinks when a process ends for which nobody of the worker waits.
    /// Who is gone, or cannot be read, has none.
    pub(crate) fn look(&mut self, leaders: &[u32]) -> BTreeMap<u32, Duration> {
        let begin = Instant::now();
        if self.next_pass.is_none_or(|due| begin >= due) {
            self.pass(leaders);
            let pause = begin.elapsed().saturating_mul(PASS_SHARE).max(PASS_INTERVAL);
            self.next_pass = Some(begin + pause);
        }
        let per_second = ticks_per_second();
        let times = leaders.iter().filter_map(|leader| {
            let first = read(*leader).filter(|stat| stat.session == *leader)?;
            let others = self.others.get(leader).into_iter().flatten();
            let others = others.filter_map(|process| {
                read(process.pid).filter(|stat| stat.start_ticks == process.start_ticks)
            });
            let ticks = others
                .fold(first.processor_ticks, |sum, it| sum.saturating_add(it.processor_ticks));
            Some((*leader, duration(ticks, per_second)))
        });
        times.collect()
    }

    fn pass(&mut self, leaders: &[u32]) {
        let processes = match stat::processes() {
            Ok(processes) => processes,
            Err(error) => {
                tracing::debug!(%error, "cannot list the processes of workers");
                return;
            }
        };
        self.others.clear();
        let leaders = leaders.iter().map(|leader| (*leader, *leader)).collect();
        for (leader, stat) in owners(processes, &leaders) {
            let process = Process { pid: stat.pid, start_ticks: stat.start_ticks };
            self.others.entry(leader).or_default().push(process);
        }
    }
}

/// The process with this pid; `None` if it is gone, or cannot be read.
fn read(pid: u32) -> Option<Stat> {
    let read = Stat::read(pid).inspect_err(|error| tracing::debug!(%error, "no processor time"));
    read.ok()?.filter(|stat| !stat.ended)
}

fn duration(ticks: u64, per_second: u64) -> Duration {
    let rest = ticks % per_second * 1000 / per_second;
    Duration::from_secs(ticks / per_second) + Duration::from_millis(rest)
}

#[cfg(test)]
mod tests {
    use super::super::{Child, Output, Spawn};
    use super::*;

    fn shell(script: &str) -> Child {
        let spawn = Spawn {
            program: "sh".into(),
            args: ["-c", script].map(Into::into).into(),
            env: BTreeMap::new(),
            ..Spawn::default()
        };
        spawn.start(&Output::create("processor").unwrap()).unwrap()
    }

    fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !happened() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_time_of_a_worker_is_that_of_all_its_processes() {
        let idle = shell("sleep 1000");
        let busy = shell("(while :; do :; done) & wait");
        let leaders = [idle.pid(), busy.pid()];
        wait_for("the busy process is started", || busy.others().unwrap() > 0);
        let mut watch = ProcessorWatch::default();
        wait_for("the busy process takes time", || {
            watch.look(&leaders)[&busy.pid()] > Duration::from_millis(100)
        });
        assert!(watch.look(&leaders)[&idle.pid()] < Duration::from_millis(100));
        for child in [idle, busy] {
            child.signal_group(nix::sys::signal::Signal::SIGKILL).unwrap();
            let pid = nix::unistd::Pid::from_raw(child.pid().cast_signed());
            let _ = nix::sys::wait::waitpid(pid, None);
            assert_eq!(watch.look(&[child.pid()]), BTreeMap::new(), "it is gone");
        }
    }

    #[test]
    fn who_leads_no_session_is_no_worker() {
        let parent = shell("sleep 1000 & wait");
        wait_for("the child is started", || parent.others().unwrap() > 0);
        let processes = stat::processes().unwrap();
        let child = processes.iter().find(|stat| stat.parent == parent.pid()).unwrap().pid;
        assert_eq!(ProcessorWatch::default().look(&[child]), BTreeMap::new());
        parent.signal_group(nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[test]
    fn ticks_are_times() {
        for (ticks, per_second, millis) in
            [(0, 100, 0), (1, 100, 10), (250, 100, 2500), (1025, 1024, 1000)]
        {
            assert_eq!(duration(ticks, per_second), Duration::from_millis(millis));
        }
    }
}
