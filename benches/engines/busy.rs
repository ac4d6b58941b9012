//! How much of the processors is in use, to the nanosecond, whoever it is charged to.
//!
//! `/proc/stat` counts in units of 10 ms, and charges soft interrupts, in which most of the work on
//! a connection happens, to whatever they interrupt. So here a thread on each core, of a lower
//! priority than all others, reads the clock again and again. The time between two readings that
//! follow each other at once is its own; the rest was somebody else's: processes, the kernel's
//! threads, interrupts, or another guest's where the machine is a virtual one.

use std::hint;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

/// The longest time between two readings of the clock that nothing came between. A reading takes
/// less than 200 ns, the shortest interrupt more than a microsecond.
const AT_ONCE: Duration = Duration::from_nanos(500);

/// Watches the cores that this process may run on while there is a [`Span`]. They are never idle
/// meanwhile, so work on them does not wait for a core to wake up, either.
pub(crate) struct Watch {
    orders: Arc<Orders>,
    watchers: Vec<Watcher>,
}

/// What the threads on the cores are to do.
#[derive(Default)]
struct Orders {
    count: AtomicBool,
    end: AtomicBool,
}

struct Watcher {
    /// The time that nobody else wanted, in nanoseconds.
    unused: Arc<AtomicU64>,
    /// `None` once it was joined.
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts a thread on each core.
    ///
    /// # Errors
    /// Why it cannot get a lower priority than this thread has.
    pub(crate) fn start() -> Result<Self, String> {
        let mut watch = Self { orders: Arc::default(), watchers: vec![] };
        for core in cores() {
            let unused = Arc::new(AtomicU64::new(0));
            let (counter, orders) = (Arc::clone(&unused), Arc::clone(&watch.orders));
            let (report, outcome) = mpsc::channel();
            let work = move || {
                let prepared = pin_to(core).and_then(|()| step_back());
                let is_good = prepared.is_ok();
                // The other side waits for it.
                let _ = report.send(prepared);
                if is_good {
                    count_unused(&counter, &orders);
                }
            };
            let thread = thread::Builder::new().name(format!("core {core}")).spawn(work);
            let thread = thread.map_err(|error| error.to_string())?;
            watch.watchers.push(Watcher { unused, thread: Some(thread) });
            outcome.recv().map_err(|_| "the thread of a core panicked".to_owned())??;
        }
        Ok(watch)
    }

    /// Starts to measure.
    pub(crate) fn begin(&self) -> Span<'_> {
        let span = Span { watch: self, unused: self.unused(), began: Instant::now() };
        self.give(|orders| &orders.count, true);
        span
    }

    fn give(&self, order: impl Fn(&Orders) -> &AtomicBool, value: bool) {
        order(&self.orders).store(value, Ordering::Relaxed);
        let threads = self.watchers.iter().filter_map(|it| it.thread.as_ref());
        threads.for_each(|thread| thread.thread().unpark());
    }

    /// Of all cores.
    fn unused(&self) -> Duration {
        let all = self.watchers.iter().map(|it| it.unused.load(Ordering::Relaxed));
        Duration::from_nanos(all.sum())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.give(|orders| &orders.end, true);
        for watcher in &mut self.watchers {
            // One that panicked has said why.
            let _ = watcher.thread.take().map(JoinHandle::join);
        }
    }
}

/// A measurement that has begun.
pub(crate) struct Span<'a> {
    watch: &'a Watch,
    unused: Duration,
    began: Instant,
}

/// What happened in a [`Span`].
#[derive(Clone, Copy)]
pub(crate) struct Use {
    /// How long it was.
    pub(crate) elapsed: Duration,
    /// How long the cores were in use, taken together.
    pub(crate) busy: Duration,
}

impl Span<'_> {
    /// Ends it.
    pub(crate) fn end(self) -> Use {
        let elapsed = self.began.elapsed();
        let unused = self.watch.unused() - self.unused;
        self.watch.give(|orders| &orders.count, false);
        let cores = u32::try_from(self.watch.watchers.len()).expect("fewer cores than 2^32");
        Use { elapsed, busy: (elapsed * cores).saturating_sub(unused) }
    }
}

impl Use {
    /// The seconds of processor time, less those of other work: so many in each second.
    pub(crate) fn seconds_beyond(self, other: f64) -> f64 {
        self.busy.as_secs_f64() - other * self.elapsed.as_secs_f64()
    }
}

/// The numbers of the cores that this thread may run on.
pub(crate) fn cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect()
}

fn pin_to(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| format!("cannot bind a thread to core {core}: {errno}"))
}

/// Gives this thread the lowest priority: of all, or, where this process runs in real time, of those
/// that do. Then it also keeps other work away for as long as it is measured.
fn step_back() -> Result<(), String> {
    let stat = procfs::process::Process::myself().and_then(|it| it.stat());
    let policy = stat.map_err(|error| error.to_string())?.policy.map(i64::from);
    let is_real_time =
        [libc::SCHED_FIFO, libc::SCHED_RR].iter().any(|it| policy == Some((*it).into()));
    let lowest = if is_real_time { ["--fifo", "1"] } else { ["--idle", "0"] };
    let mut chrt = Command::new("chrt");
    chrt.args([lowest[0], "--pid", lowest[1], &gettid().to_string()]).stderr(Stdio::null());
    match chrt.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("the program chrt may not lower the priority of a thread".to_owned()),
        Err(error) => Err(format!("cannot run the program chrt (of util-linux): {error}")),
    }
}

fn count_unused(unused: &AtomicU64, orders: &Orders) {
    let mut total = 0;
    while !orders.end.load(Ordering::Relaxed) {
        let mut last = Instant::now();
        while orders.count.load(Ordering::Relaxed) {
            let now = Instant::now();
            let since = now - last;
            if since <= AT_ONCE {
                total += u64::try_from(since.as_nanos()).expect("at most 500");
                unused.store(total, Ordering::Relaxed);
            }
            last = now;
            // Leaves the core to the other one where two share it (hyperthreads).
            hint::spin_loop();
        }
        thread::park();
    }
}
