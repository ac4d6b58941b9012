//! Measures one balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::{FailureKind, Held, Load, Network, Pace, Report, RunningLoad};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::figure::{Figure, Outcome, Quantile, SIZES};
use super::kernel::{self, Used};
use super::stage::{self, Balancer, Fault, Later, wait_for};

/// How many client addresses there are.
const CLIENTS: u16 = 1000;
/// Connections at a time, where as many are made as there can be.
const CONCURRENCY: usize = 64;
/// Connections a second, where the machine has time to spare.
const GENTLE: f64 = 1000.0;
/// Connections a second while processor time is counted.
const COUNTED: f64 = 2000.0;
/// After which a connection counts as lost.
const TIME_OUT: Duration = Duration::from_secs(1);
/// How long anything is waited for that a balancer was told to do, or does by itself.
const LIMIT: Duration = Duration::from_secs(30);
/// Later requests on each connection, and connections.
const LATER: (usize, u16) = (3000, 4);
/// Connections that carry bytes.
const STREAMS: u16 = 16;
/// How many bytes a line of them has.
const LINE: usize = 4096;
/// How many lines of each are under way: a greeter drops who sends more than fits on the way back.
const LINES_UNDER_WAY: usize = 4;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How long each load lasts.
    pub(crate) load: Duration,
    /// How often a load is repeated.
    pub(crate) rounds: usize,
    /// Reloads at a low load, and under all the load that there can be.
    pub(crate) reloads: (usize, usize),
    /// How long a balancer is watched at rest.
    pub(crate) rest: Duration,
    /// How long workers have served when one of them is killed: some balancers are slow to replace one that
    /// is young.
    pub(crate) age: Duration,
    /// With how many of [`SIZES`] it is.
    pub(crate) sizes: usize,
}

impl Effort {
    /// For a table.
    pub(crate) const WHOLE: Self = Self {
        load: Duration::from_secs(3),
        rounds: 3,
        reloads: (5, 20),
        rest: Duration::from_secs(10),
        age: Duration::from_secs(11),
        sizes: SIZES.len(),
    };

    /// To see that it works.
    pub(crate) const QUICK: Self = Self {
        load: Duration::from_millis(300),
        rounds: 1,
        reloads: (1, 2),
        rest: Duration::from_millis(300),
        age: Duration::ZERO,
        sizes: 1,
    };
}

/// The figures so far. Each is printed when it is there.
#[derive(Debug, Default)]
pub(crate) struct Figures(pub(crate) Vec<(Figure, Outcome)>);

impl Figures {
    fn add(&mut self, figure: Figure, result: Result<f64, Fault>) {
        let outcome = Outcome::from(result);
        println!("{figure:?}: {outcome:?}");
        self.0.push((figure, outcome));
    }

    /// The same fault for each.
    fn add_faults(&mut self, figures: &[Figure], fault: &Fault) {
        figures.iter().for_each(|figure| self.add(*figure, Err(fault.clone())));
    }
}

/// Measures all that needs traffic, with the smallest number of workers.
pub(crate) fn at_work(balancer: &mut dyn Balancer, effort: Effort, figures: &mut Figures) {
    steady(balancer, effort, figures);
    later(balancer, figures);
    figures.add(Figure::Throughput, throughput(balancer, effort.load));
    figures.add(Figure::Address, shows_address(balancer));
    reloads(balancer, effort, figures);
    figures.add(Figure::Replace, replace(balancer));
    killed(balancer, effort.age, figures);
    figures.add(Figure::StoppedLost, stopped(balancer));
}

/// Measures what it costs with nothing to do, and so many workers.
pub(crate) fn at_rest(balancer: &dyn Balancer, size: u16, effort: Effort, figures: &mut Figures) {
    let processes = balancer.processes();
    let all = [Figure::Memory(size), Figure::Idle(size), Figure::WakeUps(size)];
    if processes.is_empty() {
        figures.add_faults(&all, &Fault::not_offered("no process"));
        return;
    }
    // What was begun at the start is done with.
    thread::sleep(effort.rest / 2);
    let before = Used::of(&processes);
    let began = Instant::now();
    thread::sleep(effort.rest);
    let (after, seconds) = (Used::of(&processes), began.elapsed().as_secs_f64());
    let per_second = |more: u64| more as f64 / seconds;
    let memory = kernel::memory(&processes) as f64 / 1024.0;
    let idle = per_second(after.nanoseconds.saturating_sub(before.nanoseconds)) / 1e6;
    let wake_ups = per_second(after.wake_ups.saturating_sub(before.wake_ups));
    for (figure, value) in all.into_iter().zip([memory, idle, wake_ups]) {
        figures.add(figure, Ok(value));
    }
}

fn load(balancer: &dyn Balancer, pace: Pace) -> Load {
    let clients = Network::clients_v4(CLIENTS);
    Load::to(balancer.targets()).from(clients).pace(pace).time_out(TIME_OUT)
}

fn start(balancer: &dyn Balancer, pace: Pace) -> Result<RunningLoad, Fault> {
    Ok(load(balancer, pace).start(balancer.stage().network.client())?)
}

/// Runs a load for a while. None of its connections may fail.
fn steadily(balancer: &dyn Balancer, pace: Pace, time: Duration) -> Result<Report, Fault> {
    let load = load(balancer, pace).for_at_most(time);
    let report = load.start(balancer.stage().network.client())?.wait();
    match report.failed() {
        0 => Ok(report),
        _ => Err(Fault::Failed(report.to_string())),
    }
}

fn steady(balancer: &dyn Balancer, effort: Effort, figures: &mut Figures) {
    let rounds = (0..effort.rounds)
        .map(|_| steadily(balancer, Pace::Concurrency(CONCURRENCY), effort.load))
        .collect::<Result<Vec<Report>, Fault>>();
    let rate = rounds.as_ref().map(|rounds| median(rounds.iter().map(Report::rate).collect()));
    figures.add(Figure::Rate, rate.map_err(Clone::clone));
    // With one target that all clients know, it is the balancer that chooses.
    let sticky = match (balancer.targets().len(), rounds) {
        (1, rounds) => rounds.and_then(|rounds| {
            rounds.iter().map(sticky).collect::<Result<Vec<f64>, Fault>>().map(median)
        }),
        _ => Err(Fault::not_offered("each client knows its worker")),
    };
    figures.add(Figure::Sticky, sticky);
    figures.add(Figure::ProcessorTime, processor_time(balancer, effort));
    let report = steadily(balancer, Pace::Rate(GENTLE), effort.load);
    for quantile in Quantile::ALL {
        let latency = report
            .as_ref()
            .map(|report| micros(report.latency(quantile.per_mille() as f64 / 1000.0)));
        figures.add(Figure::First(quantile), latency.map_err(Clone::clone));
    }
}

/// Of the clients that came more than once, the percentage that one worker alone has answered.
fn sticky(report: &Report) -> Result<f64, Fault> {
    let mut seen = BTreeMap::new();
    for answer in report.answers() {
        *seen.entry(answer.client).or_insert(0) += 1;
    }
    match seen.values().filter(|count| **count > 1).count() {
        0 => Err(Fault::Failed("no client came twice".to_owned())),
        returned => Ok(100.0 - 100.0 * report.changed_worker().len() as f64 / returned as f64),
    }
}

/// What the whole machine works for a connection, with both sides of it.
fn processor_time(balancer: &dyn Balancer, effort: Effort) -> Result<f64, Fault> {
    let rounds = (0..effort.rounds).map(|_| {
        let before = busy_time()?;
        let report = steadily(balancer, Pace::Rate(COUNTED), effort.load)?;
        let busy = busy_time()?.saturating_sub(before);
        Ok(micros(busy) / report.answered() as f64)
    });
    rounds.collect::<Result<Vec<f64>, Fault>>().map(median)
}

/// The time that all processors have worked so far, in whatever (proc_stat(5): all but idle and iowait).
fn busy_time() -> Result<Duration, Fault> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks = line.split_ascii_whitespace().skip(1).take(8).map(|word| word.parse::<u64>());
    let ticks = ticks.collect::<Result<Vec<u64>, _>>();
    let ticks = ticks.map_err(|error| Fault::Failed(format!("/proc/stat: {error}")))?;
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|place| ticks.get(*place)).sum();
    let second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64(busy as f64 / second as f64))
}

fn later(balancer: &dyn Balancer, figures: &mut Figures) {
    let all = Quantile::ALL.map(Figure::Later);
    match later_requests(balancer) {
        Ok(mut times) => {
            times.sort_unstable();
            for quantile in Quantile::ALL {
                let place = times.len() * quantile.per_mille() / 1000;
                let time = times[place.min(times.len() - 1)];
                figures.add(Figure::Later(quantile), Ok(micros(time)));
            }
        }
        Err(fault) => figures.add_faults(&all, &fault),
    }
}

fn later_requests(balancer: &dyn Balancer) -> Result<Vec<Duration>, Fault> {
    let (count, connections) = LATER;
    let mut times = Vec::with_capacity(count * usize::from(connections));
    for (client, target) in
        Network::clients_v4(connections).zip(balancer.targets().into_iter().cycle())
    {
        let namespace = balancer.stage().network.client();
        match balancer.later() {
            Later::Echo => {
                let mut held = Held::open(namespace, client, target)?;
                for _ in 0..count {
                    times.push(held.echo("a line of some bytes")?);
                }
            }
            Later::Http => {
                let mut connection = Http::open(balancer, client)?;
                for _ in 0..count {
                    times.push(connection.ask()?);
                }
            }
            Later::Never(reason) => return Err(Fault::not_offered(reason)),
        }
    }
    Ok(times)
}

/// A connection on which requests are made one after the other.
struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    fn open(balancer: &dyn Balancer, client: IpAddr) -> Result<Self, Fault> {
        let target = balancer.targets()[0];
        let stream = connect(balancer, client, target)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and reads the answer whole: its length is in its head.
    fn ask(&mut self) -> Result<Duration, Fault> {
        let began = Instant::now();
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        let mut length = None;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(Fault::Failed(
                    "the server ended a connection that was kept".to_owned(),
                ));
            }
            let line = line.trim_ascii_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim_ascii().parse::<usize>().ok();
            }
            if line.is_empty() {
                break;
            }
        }
        let length =
            length.ok_or_else(|| Fault::Failed("an answer without a length".to_owned()))?;
        self.stream.read_exact(&mut vec![0; length])?;
        Ok(began.elapsed())
    }
}

fn connect(balancer: &dyn Balancer, from: IpAddr, to: SocketAddr) -> Result<TcpStream, Fault> {
    Ok(balancer.stage().network.client().run_in(|| stage::connect(from, to))??)
}

/// Some clients send lines, and another one for each that has come back.
fn throughput(balancer: &dyn Balancer, time: Duration) -> Result<f64, Fault> {
    if balancer.later() != Later::Echo {
        return Err(Fault::not_offered("its worker echoes nothing"));
    }
    let until = Instant::now() + time;
    let mut threads = Vec::new();
    for (client, target) in Network::clients_v4(STREAMS).zip(balancer.targets().into_iter().cycle())
    {
        let stream = connect(balancer, client, target)?;
        threads.push(thread::spawn(move || carry(stream, until)));
    }
    let mut bytes = 0;
    for thread in threads {
        bytes += thread.join().map_err(|_| Fault::Failed("a client panicked".to_owned()))??;
    }
    Ok(bytes as f64 / time.as_secs_f64() / 1e9)
}

/// How many bytes have come back until then.
fn carry(mut stream: TcpStream, until: Instant) -> io::Result<u64> {
    let mut line = [b'x'; LINE];
    line[LINE - 1] = b'\n';
    let mut back = [0; LINE];
    stream.write_all(b"GET /hold HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    // Who it is comes first, in one piece.
    if stream.read(&mut back)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for _ in 0..LINES_UNDER_WAY {
        stream.write_all(&line)?;
    }
    let mut bytes = 0;
    while Instant::now() < until {
        stream.read_exact(&mut back)?;
        bytes += LINE as u64;
        stream.write_all(&line)?;
    }
    Ok(bytes)
}

/// Whether the worker's own socket has the client's address as its other side.
fn shows_address(balancer: &dyn Balancer) -> Result<f64, Fault> {
    let client = Network::clients_v4(77).last().expect("77 of them");
    let workers = workers_of(&steadily(balancer, Pace::Rate(GENTLE), Duration::from_millis(300))?);
    let sees = match balancer.later() {
        Later::Echo => {
            let _held =
                Held::open(balancer.stage().network.client(), client, balancer.targets()[0])?;
            kernel::sees_address(&workers, client)?
        }
        Later::Http => {
            let mut connection = Http::open(balancer, client)?;
            connection.ask()?;
            kernel::sees_address(&workers, client)?
        }
        Later::Never(reason) => return Err(Fault::not_offered(reason)),
    };
    Ok(if sees { 1.0 } else { 0.0 })
}

fn reloads(balancer: &mut dyn Balancer, effort: Effort, figures: &mut Figures) {
    let (few, many) = effort.reloads;
    let idle = reload_some(balancer, Pace::Rate(GENTLE), few);
    let idle = idle.map(|(times, _)| median(times.into_iter().map(millis).collect()));
    figures.add(Figure::ReloadIdle, idle);
    match reload_some(balancer, Pace::Concurrency(CONCURRENCY), many) {
        Ok((times, report)) => {
            figures.add(Figure::ReloadLoaded, Ok(median(times.into_iter().map(millis).collect())));
            figures.add(Figure::ReloadLost, Ok(lost(&report) as f64));
            figures.add(Figure::ReloadConnections, Ok((report.answered() + lost(&report)) as f64));
        }
        Err(fault) => {
            let all = [Figure::ReloadLoaded, Figure::ReloadLost, Figure::ReloadConnections];
            figures.add_faults(&all, &fault);
        }
    }
}

/// Reloads so many times under a load: how long each took, and what became of the connections.
fn reload_some(
    balancer: &mut dyn Balancer,
    pace: Pace,
    count: usize,
) -> Result<(Vec<Duration>, Report), Fault> {
    let running = start(balancer, pace)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        thread::sleep(Duration::from_millis(300));
        let earlier = workers_of(&running.report());
        let began = Instant::now();
        balancer.begin_reload()?;
        let mut last = began;
        wait_for("a generation that serves alone", LIMIT, || {
            // Copying a report is work that the balancer would have the processor for.
            thread::sleep(Duration::from_millis(50));
            let since = running.report().between(began, Instant::now());
            last = since
                .answers()
                .filter(|it| earlier.contains(&it.by.pid))
                .map(|it| it.at)
                .last()
                .unwrap_or(began);
            let alone = since.answers().filter(|it| it.at > last).count();
            Ok(alone >= 100 && last.elapsed() > Duration::from_millis(100))
        })?;
        times.push(last - began);
        balancer.end_reload()?;
    }
    thread::sleep(Duration::from_millis(300));
    Ok((times, running.stop()))
}

/// The workers that have answered.
fn workers_of(report: &Report) -> BTreeSet<u32> {
    report.workers().into_keys().map(|worker| worker.pid).collect()
}

/// Without those that the client's own side failed.
fn lost(report: &Report) -> u64 {
    let is_lost = |kind: FailureKind| !matches!(kind, FailureKind::Local(_));
    report.failures().iter().filter(|failure| is_lost(failure.kind)).count() as u64
}

/// Runs a gentle load, and says which of its workers is to suffer.
fn with_victim(balancer: &dyn Balancer) -> Result<(RunningLoad, BTreeSet<u32>, u32), Fault> {
    let running = start(balancer, Pace::Rate(GENTLE))?;
    let goal = 1500;
    wait_for("answers", LIMIT, || Ok(running.counters().answered >= goal))?;
    let workers = workers_of(&running.report());
    let victim = *workers.first().ok_or_else(|| Fault::Failed("nobody answers".to_owned()))?;
    Ok((running, workers, victim))
}

/// Waits for the first answer of a worker that nobody knew.
fn wait_for_another(
    running: &RunningLoad,
    known: &BTreeSet<u32>,
    began: Instant,
) -> Result<Duration, Fault> {
    let mut first = None;
    wait_for("another worker", LIMIT, || {
        thread::sleep(Duration::from_millis(20));
        let since = running.report().between(began, Instant::now());
        first = since.answers().find(|it| !known.contains(&it.by.pid)).map(|it| it.at);
        Ok(first.is_some())
    })?;
    Ok(first.map_or(LIMIT, |at| at - began))
}

fn replace(balancer: &mut dyn Balancer) -> Result<f64, Fault> {
    let (running, workers, victim) = with_victim(balancer)?;
    let began = Instant::now();
    balancer.begin_replacement(victim)?;
    let time = wait_for_another(&running, &workers, began)?;
    balancer.end_reload()?;
    Ok(millis(time))
}

fn killed(balancer: &dyn Balancer, age: Duration, figures: &mut Figures) {
    let tried = || -> Result<_, Fault> {
        thread::sleep(age);
        let (running, workers, victim) = with_victim(balancer)?;
        let began = Instant::now();
        signal(victim, Signal::SIGKILL)?;
        let time = wait_for_another(&running, &workers, began).map(millis);
        thread::sleep(TIME_OUT);
        let report = running.stop().between(began, Instant::now());
        Ok((time, lost(&report) as f64))
    };
    match tried() {
        Ok((time, lost)) => {
            figures.add(Figure::KilledReplaced, time);
            figures.add(Figure::KilledLost, Ok(lost));
        }
        Err(fault) => figures.add_faults(&[Figure::KilledReplaced, Figure::KilledLost], &fault),
    }
}

fn stopped(balancer: &dyn Balancer) -> Result<f64, Fault> {
    let (running, _, victim) = with_victim(balancer)?;
    let began = Instant::now();
    signal(victim, Signal::SIGSTOP)?;
    thread::sleep(Duration::from_secs(3));
    let outcome = running.stop().between(began, Instant::now());
    // It may have been ended for that.
    let _ = signal(victim, Signal::SIGCONT);
    Ok(lost(&outcome) as f64)
}

fn signal(pid: u32, signal: Signal) -> Result<(), Fault> {
    Ok(kill(Pid::from_raw(i32::try_from(pid).expect("a process number")), signal)?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
