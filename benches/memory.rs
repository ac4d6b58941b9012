//! What it costs to watch the memory of 256 workers once a second, as a share of one core, against
//! doing the same by hand: every file opened anew, and all of `/proc` read for each worker that may
//! have started others. Both in one run and in turn, by the processor time of this thread, so that
//! the ratio holds when the machine is busy.
//!
//! `cargo bench --bench memory`. Needs no privilege; starts up to 1,024 processes that sleep.

use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipcluster::internals::process::MemoryWatch;
use nix::sys::signal::{Signal, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

const WORKERS: u32 = 256;

/// From one look to the next, and from one pass over `/proc` to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const PASS_INTERVAL: Duration = Duration::from_secs(5);

fn main() {
    // `cargo test --benches` and `cargo bench --no-run` come here without `--bench`.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (workers, budget) = match is_bench {
        true => (WORKERS, Duration::from_secs(2)),
        false => (2, Duration::ZERO),
    };
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>10} {:>7}",
        "once a second", "look us", "pass ms", "of a core", "by hand", "ratio"
    );
    for (name, script) in [
        ("workers of one process", "exec sleep 1000"),
        ("workers of four processes", "sleep 1000 & sleep 1000 & sleep 1000 & wait"),
    ] {
        let row = measure(&Workers::start(workers, script), budget);
        println!(
            "{:<34} {:>9.0} {:>9.2} {:>8.2} % {:>8.2} % {:>6.0}x",
            format!("{workers} {name}"),
            row.look.as_secs_f64() * 1e6,
            row.pass.as_secs_f64() * 1e3,
            row.ours() * 100.0,
            row.by_hand() * 100.0,
            row.by_hand() / row.ours()
        );
    }
}

/// Processes that sleep, each in a group of its own.
struct Workers(Vec<Child>);

impl Workers {
    fn start(count: u32, script: &str) -> Self {
        let start = |_| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
            command.process_group(0).spawn().expect("a process")
        };
        Self((0..count).map(start).collect())
    }

    fn pids(&self) -> Vec<(u32, u32)> {
        self.0.iter().map(|child| (child.id(), child.id())).collect()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let group = Pid::from_raw(child.id().cast_signed());
            killpg(group, Signal::SIGKILL).expect("the group of a child that was not waited for");
            child.wait().expect("a child");
        }
    }
}

/// Processor time.
struct Row {
    look: Duration,
    pass: Duration,
    look_by_hand: Duration,
    /// For one worker.
    pass_by_hand: Duration,
    workers: u32,
}

impl Row {
    /// Of one core.
    fn ours(&self) -> f64 {
        self.look.div_duration_f64(LOOK_INTERVAL) + self.pass.div_duration_f64(PASS_INTERVAL)
    }

    fn by_hand(&self) -> f64 {
        let pass = self.pass_by_hand * self.workers;
        self.look_by_hand.div_duration_f64(LOOK_INTERVAL) + pass.div_duration_f64(PASS_INTERVAL)
    }
}

fn measure(workers: &Workers, budget: Duration) -> Row {
    let pids = workers.pids();
    let mut watch = MemoryWatch::new();
    watch.look(&pids);
    watch.proportional(&[]);
    let (mut looks, mut passes, mut looks_by_hand, mut passes_by_hand) =
        (vec![], vec![], vec![], vec![]);
    let begin = Instant::now();
    while begin.elapsed() < budget || looks.len() < 3 {
        looks.push(timed(|| {
            for (_, size) in black_box(watch.look(&pids)) {
                assert!(size.expect("readable").expect("alive").0 > 0);
            }
        }));
        // A pass, since the proportional size of nobody is asked for.
        passes.push(timed(|| drop(watch.proportional(&[]))));
        let members = members_by_hand(&pids);
        looks_by_hand.push(timed(|| look_by_hand(&members)));
        passes_by_hand.push(timed(|| drop(black_box(members_by_hand(&pids[..1])))));
    }
    Row {
        look: median(looks),
        pass: median(passes),
        look_by_hand: median(looks_by_hand),
        pass_by_hand: median(passes_by_hand),
        workers: u32::try_from(pids.len()).expect("few"),
    }
}

fn look_by_hand(members: &BTreeSet<u32>) {
    for pid in members {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).expect("a process");
        let pages = text.split_whitespace().nth(1).expect("a field");
        black_box(pages.parse::<u64>().expect("a number"));
    }
}

/// These processes and those of their groups.
fn members_by_hand(workers: &[(u32, u32)]) -> BTreeSet<u32> {
    let groups: BTreeSet<u32> = workers.iter().map(|(_, pid)| *pid).collect();
    let mut members = groups.clone();
    for entry in fs::read_dir("/proc").expect("/proc") {
        let name = entry.expect("an entry").file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let group = fields.split_whitespace().nth(2).and_then(|group| group.parse().ok());
        if group.is_some_and(|group: u32| groups.contains(&group)) {
            members.insert(pid);
        }
    }
    members
}

fn timed(work: impl FnOnce()) -> Duration {
    let before = processor_time();
    work();
    processor_time().saturating_sub(before)
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of every kernel").into()
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}
