//! Short connections: connect, one line from the worker, close.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::{Ask, Close, Load, Namespace, Network, Pace, RunningLoad, greeter};

use super::busy::{self, Use, Watch};
use super::stage::{self, Stage, WORKERS, Way};

/// The argument by which this program is a worker.
const WORKER: &str = "worker-of-the-bench";

/// How many clients each seat has.
const CLIENTS_OF_SEAT: usize = 250;

/// How many connections of each load are open at one time, where there is no rate.
const OPEN: usize = 32;

/// How long a worker may take to listen, and a connection to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stage with eight processes that say their line to everyone who connects, and close.
pub(crate) struct Short {
    stage: Stage,
    clients: Vec<IpAddr>,
    seats: BTreeMap<IpAddr, u16>,
    _workers: Vec<Worker>,
}

/// What happened while it was measured.
pub(crate) struct Measured {
    /// The connections that were answered.
    pub(crate) connections: f64,
    pub(crate) cores: Use,
    /// The entries of connection tracking that each connection of the load left.
    pub(crate) tracked: f64,
}

impl Short {
    pub(crate) fn build(way: Way) -> Self {
        let start = |network: &Network| {
            let work = || (0..WORKERS).map(|seat| Worker::start(way, seat)).collect();
            network.server().run_in(work).expect("the server's namespace")
        };
        let (stage, workers) = Stage::build(way, start);
        let clients = stage::clients(CLIENTS_OF_SEAT);
        let seats = stage::seats(&clients);
        Self { stage, clients, seats, _workers: workers }
    }

    /// Where the workers are.
    pub(crate) fn server(&self) -> &Namespace {
        self.stage.network.server()
    }

    /// Has connections begin at this rate.
    pub(crate) fn at_rate(
        &self,
        rate: f64,
        close: Close,
        watch: &Watch,
        time: Duration,
    ) -> Measured {
        self.measure(1, Pace::Rate(rate), close, watch, time)
    }

    /// Has as many connections as can be. There is a load for each core, since one thread may not be
    /// able to bring all workers to their limit, nor more of them than workers.
    pub(crate) fn at_full_speed(&self, close: Close, watch: &Watch, time: Duration) -> Measured {
        let loads = busy::cores().len().min(WORKERS.into());
        self.measure(loads, Pace::Concurrency(OPEN), close, watch, time)
    }

    fn measure(
        &self,
        loads: usize,
        pace: Pace,
        close: Close,
        watch: &Watch,
        time: Duration,
    ) -> Measured {
        let before = self.stage.tracked();
        let loads: Vec<_> = (0..loads).map(|_| self.start_load(pace, close)).collect();
        let answered = || loads.iter().map(|load| load.counters().answered).sum::<u64>();
        let begun = Instant::now();
        while answered() == 0 {
            assert!(begun.elapsed() < PATIENCE, "{:?}: no connection is answered", self.stage.way);
            thread::yield_now();
        }
        // The first connections meet cold caches.
        thread::sleep(time / 4);
        let (first, span) = (answered(), watch.begin());
        thread::sleep(time);
        let (connections, cores) = (answered() - first, span.end());
        let total: u64 = loads.into_iter().map(|load| self.check(load)).sum();
        let tracked = self.stage.tracked().saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        Measured {
            connections: connections as f64,
            cores,
            tracked: f64::from(tracked) / total as f64,
        }
    }

    fn start_load(&self, pace: Pace, close: Close) -> RunningLoad {
        Load::to(self.stage.targets())
            .from(self.clients.iter().copied())
            .pace(pace)
            .ask(Ask::Nothing)
            .close(close)
            .time_out(PATIENCE)
            .start(self.stage.network.client())
            .expect("a load")
    }

    /// Ends a load, and looks that the worker that the plan names answered each connection of it.
    /// Returns how many it had.
    fn check(&self, load: RunningLoad) -> u64 {
        let report = load.stop();
        assert_eq!(report.failed(), 0, "{:?}: {report}", self.stage.way);
        for answered in report.answers() {
            let (client, seat) = (answered.client, self.seats[&answered.client]);
            assert_eq!(answered.by.seat, seat, "{:?}: the seat of {client}", self.stage.way);
        }
        report.answered()
    }
}

/// The process of a worker. It ends with this value.
struct Worker(Child);

impl Worker {
    /// Starts it in the namespace of this thread, and waits until it listens.
    fn start(way: Way, seat: u16) -> Self {
        let port = stage::port_of(seat);
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.arg(WORKER).stdin(Stdio::null());
        command.env("PORT", port.to_string()).env("IPCLUSTER_SEAT", seat.to_string());
        command.env("GREETER_SPEAK", "first");
        command.env("GREETER_TRANSPARENT", if way.is_transparent() { "yes" } else { "no" });
        let worker = Self(command.spawn().expect("this program as a worker"));
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            assert!(begun.elapsed() < PATIENCE, "the worker of seat {seat}: {error}");
            thread::sleep(Duration::from_millis(1));
        }
        worker
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both can fail only for a process that somebody else has waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a worker, if that is what this process was started as.
pub(crate) fn run_worker() -> Option<ExitCode> {
    (std::env::args().nth(1)? == WORKER).then(greeter::main)
}
