//! What a connection costs that comes to one of eight workers by an engine of this crate, and what it
//! costs without any balancer, when each client connects to the port of its worker by itself: the
//! same eight processes, the same clients, the same worker for each of them. In one run and in turn,
//! so that the ratios hold when the machine's speed drifts.
//!
//! Processor time is that of all cores, clients included, whoever it is charged to: what threads of
//! the lowest priority do not get (see `busy.rs`), less what is in use while nothing is measured.
//! Short connections are as lean as they can be, so that the kernel's part shows: the worker sends a
//! line of some bytes to everyone and closes, then the client does; that leaves a TIME_WAIT at the
//! worker's side. A client that answers by a reset leaves none, and saves packets.
//!
//! `cargo bench --bench engines -- --parts` measures short connections alone, beside connection tracking alone
//! and beside rules without the guard and without local clients.
//!
//! `cargo bench --bench engines`. Runs in network namespaces of its own, without root; but only root
//! can turn receive steering on. Needs the program chrt (of util-linux). On a machine with other work
//! `chrt -f 50 cargo bench --bench engines`, built before, keeps that away for some 200 ms at a time.

mod bulk;
mod busy;
mod short;
mod stage;
mod steering;
mod table;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::{self, Close};

use bulk::{Bulk, Direction};
use busy::{Use, Watch};
use short::Short;
use stage::Way;
use table::{Figure, Samples, quartile};

/// How long all rounds together may take.
const BUDGET: Duration = Duration::from_secs(100);

/// How long each thing is measured for at one time: not longer than the speed of a virtual machine
/// mostly stays the same.
const WINDOW: Duration = Duration::from_millis(40);

/// How often each thing is measured in a round.
const PASSES: usize = 6;

/// Connections a second where their cost is measured: a fraction of what two cores can do.
const RATE: f64 = 5000.0;

/// What other work gets before a pass. If this process runs in real time, the kernel would
/// have it wait for what it has kept away, 50 ms in each second (`dl_server`, Linux 6.12), and count
/// that as used: other work that has had as much before is not owed any.
const RESPITE: Duration = Duration::from_millis(60);

/// The kernel takes the namespaces of a round apart in the background, in several grace periods of
/// RCU: not while the next round is measured.
const PAUSE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    if let Some(code) = short::run_worker() {
        return code;
    }
    // `cargo test --benches` and `cargo bench --no-run` come here without `--bench`.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    if let Err(error) = lab::enter_user_namespace() {
        println!("skipped: {error}");
        return ExitCode::SUCCESS;
    }
    let watch = match Watch::start() {
        Ok(watch) => watch,
        Err(reason) => {
            println!("skipped: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let has_parts = std::env::args().any(|argument| argument == "--parts");
    let mut bench = Bench {
        watch,
        ways: if has_parts { &Way::PARTS } else { &Way::ALL },
        tasks: if has_parts { &TASKS[..2] } else { &TASKS },
        has_parts,
        window: if is_bench { WINDOW } else { WINDOW / 4 },
        passes: if is_bench { PASSES } else { 1 },
        respite: if is_bench { RESPITE } else { Duration::ZERO },
        steered: vec![false],
        samples: Samples::default(),
        other: vec![],
    };
    match may_steer() {
        Ok(()) => bench.steered.push(true),
        Err(error) => println!("left out: receive steering, which cannot be set here: {error}"),
    }
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || is_bench && begun.elapsed() < BUDGET {
        bench.run_round(rounds);
        thread::sleep(if is_bench { PAUSE } else { Duration::ZERO });
        rounds += 1;
    }
    if is_bench {
        bench.print(rounds);
    }
    ExitCode::SUCCESS
}

fn may_steer() -> std::io::Result<()> {
    let network = lab::Network::new().expect("a network");
    steering::steer(network.server(), true)
}

struct Bench {
    watch: Watch,
    ways: &'static [Way],
    tasks: &'static [Task],
    /// What is measured is what the parts of the rules cost.
    has_parts: bool,
    window: Duration,
    passes: usize,
    respite: Duration,
    /// Without receive steering, and with it, as far as it can be set.
    steered: Vec<bool>,
    samples: Samples,
    /// The seconds of processor time that other work took in a second, by round.
    other: Vec<f64>,
}

/// A way, and where short and long connections come by it.
type Place = (Way, Short, Option<Bulk>);

/// What is measured at one time.
#[derive(Debug, Clone, Copy)]
enum Task {
    Connections,
    Resets,
    Rate,
    Carry(Direction),
}

const TASKS: [Task; 5] = [
    Task::Connections,
    Task::Resets,
    Task::Rate,
    Task::Carry(Direction::Up),
    Task::Carry(Direction::Down),
];

impl Bench {
    /// Builds a place for each way, another one first each time, and measures everything there.
    fn run_round(&mut self, round: usize) {
        let mut ways = self.ways.to_vec();
        ways.rotate_left(round % self.ways.len());
        let bulk = |way| (!self.has_parts).then(|| Bulk::build(way));
        let places = ways.into_iter().map(|way| (way, Short::build(way), bulk(way)));
        let places: Vec<Place> = places.collect();
        thread::sleep(self.respite);
        let span = self.watch.begin();
        thread::sleep(self.window);
        let nothing = span.end();
        self.other.push(nothing.seconds_beyond(0.0) / nothing.elapsed.as_secs_f64());
        for is_steered in self.steered.clone() {
            let servers = places.iter().flat_map(|(_, short, bulk)| {
                std::iter::once(short.server()).chain(bulk.as_ref().map(Bulk::server))
            });
            for server in servers {
                if self.steered.len() > 1 {
                    steering::steer(server, is_steered).expect("what could be set before");
                }
            }
            for pass in 0..self.passes {
                for task in self.tasks {
                    self.run_pass(is_steered, *task, &places, pass);
                }
            }
        }
    }

    /// Does a task for each way, another one first each time.
    fn run_pass(&mut self, is_steered: bool, task: Task, places: &[Place], pass: usize) {
        thread::sleep(self.respite);
        let (before, after) = places.split_at(pass % places.len());
        for (way, short, bulk) in after.iter().chain(before) {
            for (figure, value) in self.measure(task, short, bulk.as_ref()) {
                self.samples.add(is_steered, figure, *way, value);
            }
        }
    }

    fn measure(&self, task: Task, short: &Short, bulk: Option<&Bulk>) -> Vec<(Figure, f64)> {
        let (watch, time) = (&self.watch, self.window);
        match task {
            Task::Connections => {
                let measured = short.at_rate(RATE, Close::Normal, watch, time);
                let cost = self.seconds(measured.cores) * 1e6 / measured.connections;
                vec![(Figure::Connection, cost), (Figure::Tracked, measured.tracked)]
            }
            Task::Resets => {
                let measured = short.at_rate(RATE, Close::Reset, watch, time);
                let cost = self.seconds(measured.cores) * 1e6 / measured.connections;
                vec![(Figure::ResetConnection, cost)]
            }
            Task::Rate => {
                let measured = short.at_full_speed(Close::Normal, watch, time);
                let elapsed = measured.cores.elapsed.as_secs_f64();
                vec![(Figure::Rate, measured.connections / elapsed)]
            }
            Task::Carry(direction) => {
                let Some(bulk) = bulk else { return vec![] };
                let (bytes, cores) = bulk.carry(direction, watch, time);
                let (speed, cost) = match direction {
                    Direction::Up => (Figure::Up, Figure::GibibyteUp),
                    Direction::Down => (Figure::Down, Figure::GibibyteDown),
                };
                let gibibytes = bytes / f64::from(1 << 30);
                vec![
                    (speed, bytes / 1e9 / cores.elapsed.as_secs_f64()),
                    (cost, self.seconds(cores) / gibibytes),
                ]
            }
        }
    }

    /// The seconds of processor time that the work took which was measured in this round.
    fn seconds(&self, cores: Use) -> f64 {
        cores.seconds_beyond(self.other.last().copied().unwrap_or(0.0))
    }

    fn print(&self, rounds: usize) {
        let cores = busy::cores().len();
        println!(
            "{} passes, {cores} cores; medians, and those of the ratios in each pass with \
             their quartiles",
            rounds * self.passes
        );
        println!(
            "while nothing was measured, {:.3} of the {cores} cores were in use",
            quartile(self.other.clone(), 2)
        );
        for is_steered in &self.steered {
            match self.has_parts {
                true => self.samples.print_parts(*is_steered, self.ways),
                false => self.samples.print(*is_steered),
            }
        }
    }
}
