//! `ipcluster demo`: a cluster in a network of its own, under load, through everything that can
//! happen to it. What it prints is measured, and judged: see [`judge`].

mod fleet;
mod judge;
mod measure;
mod stage;
mod table;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::lab::{self, Failure, LabError, Network, Report, greeter};
use crate::plan::{Engine, Generation, Plan, Seat};
use crate::process::PidFd;
use crate::protocol::Event;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::Failed;
pub(super) use fleet::run as run_fleet;
use judge::{Killed, Reloads, Scaled, Steady};
use measure::Window;
use stage::{Hands, Stage};
use table::Table;

const WORKERS: u16 = 4;
const RELOADS: usize = 10;
const CLIENTS_V4: u16 = 3500;
const CLIENTS_V6: u16 = 1500;

/// Connections a second: a quarter of what one core can do, so that a busy machine keeps up.
const RATE: f64 = 2500.0;

/// Connections from one reload to the next.
const BETWEEN_RELOADS: u64 = 300;

/// The seat whose worker is killed.
const VICTIM: Seat = Seat(1);

/// Shows everything.
pub(super) fn run(engine: Engine) -> Result<(), Failed> {
    let began = Instant::now();
    lab::enter_user_namespace()?;
    let clients: Vec<IpAddr> =
        Network::clients_v4(CLIENTS_V4).chain(Network::clients_v6(CLIENTS_V6)).collect();
    let stage = Stage::build(WORKERS, engine)?;
    let table = Table::begin(&format!(
        "engine {engine}: {WORKERS} workers behind {} and {}; {} clients ({CLIENTS_V4} IPv4, {CLIENTS_V6} IPv6 of a \
         /64 each), {RATE} new connections/s",
        Network::server_v4(stage::PUBLIC_PORT),
        Network::server_v6(stage::PUBLIC_PORT),
        clients.len(),
    ))?;
    let hands = stage.start_load(&clients, RATE)?;
    let show = Show { stage: &stage, clients: &clients, table: &table };
    let (plan, at) = show.steady_state(&hands)?;
    let at = show.reloads(&hands, &plan, at)?;
    let at = show.kill(&hands, &plan, at)?;
    let (report, processes) = show.scale(hands, &plan, at)?;
    let stopped = stage.stop(&processes)?;
    table.row("stop", None, &stopped.lines())?;
    verdict(stopped.faults())?;
    let lost = match report.failed() {
        0 => "none was lost".to_owned(),
        lost => format!("{lost} lost, in flight on the worker that was killed"),
    };
    table.end(&format!(
        "all as promised: {} connections from {} addresses in {:.1} s; {lost}",
        report.answered() + report.failed(),
        clients.len(),
        began.elapsed().as_secs_f64(),
    ))
}

/// The worker that the demo puts behind the balancer. It does not outlive the demo, however that
/// ends.
pub(super) fn worker() -> Result<(), Failed> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| Failed::new(format!("cannot ask to be ended with the demo: {error}")))?;
    match greeter::main() {
        code if code == std::process::ExitCode::SUCCESS => Ok(()),
        _ => Err(Failed::new("the demo's worker failed")),
    }
}

/// The phases. Each follows the one before without a gap, so that no connection is left out.
struct Show<'a> {
    stage: &'a Stage,
    clients: &'a [IpAddr],
    table: &'a Table,
}

impl Show<'_> {
    /// Two rounds of all clients. Returns the plan, as the kernel holds it, and when it was over.
    fn steady_state(&self, hands: &Hands) -> Result<(Plan, Instant), Failed> {
        const NAME: &str = "steady state";
        let plan = self.stage.plan_in_force()?;
        let from = hands.began();
        let (report, until) = rounds(self.table, self.clients, hands, NAME, from, 2)?;
        let window = Window::of(&report, from, until);
        let [least_share, most_share] = window.shares(WORKERS);
        let steady = Steady {
            clients: self.clients.len(),
            silent: window.silent(self.clients, from),
            changed_worker: report.between(from, until).changed_worker().len(),
            mispredicted: window.mispredicted(&plan),
            least_share,
            most_share,
            fair_share: 1.0 / f64::from(WORKERS),
            losses: window.losses(|_| false),
        };
        self.table.row(NAME, Some((&window, steady.changed_worker)), &steady.lines())?;
        verdict(steady.faults())?;
        Ok((plan, until))
    }

    /// Reload upon reload, each once the one before has served some connections.
    fn reloads(&self, hands: &Hands, plan: &Plan, from: Instant) -> Result<Instant, Failed> {
        let name = format!("{RELOADS} reloads");
        let mut swaps = Vec::new();
        let mut in_force: Vec<(Instant, Generation)> = Vec::new();
        for _ in 0..RELOADS {
            let reloaded = self.stage.ask(self.stage.master.reload())?;
            in_force.push((Instant::now(), reloaded.generation));
            swaps.push(Duration::from_secs_f64(reloaded.swap_seconds));
            let mark = hands.counters().started + BETWEEN_RELOADS;
            wait(self.table, hands, &name, |counters| counters.answered + counters.failed >= mark)?;
        }
        let last = in_force.last().map_or(from, |(at, _)| *at);
        let (report, until) = rounds(self.table, self.clients, hands, &name, last, 1)?;
        let window = Window::of(&report, from, until);
        let reloads = Reloads {
            wanted: RELOADS,
            swaps,
            silent: window.silent(self.clients, last),
            changed_seat: window.off_seat(plan),
            stale: window.stale(&in_force),
            idle_generations: window.idle(&in_force),
            losses: window.losses(|_| false),
        };
        self.table.row(&name, Some((&window, reloads.changed_seat)), &reloads.lines())?;
        verdict(reloads.faults())?;
        Ok(until)
    }

    /// A worker is killed without warning, and replaced.
    fn kill(&self, hands: &Hands, plan: &Plan, from: Instant) -> Result<Instant, Failed> {
        const NAME: &str = "worker killed";
        let workers = self.stage.live_workers()?;
        let pid = workers.get(&VICTIM).copied();
        let pid = pid.ok_or_else(|| Failed::new(format!("seat {VICTIM} has no live worker")))?;
        let victim = PidFd::open(pid).map_err(|error| Failed::new(error.to_string()))?;
        self.stage.forget_events();
        let killed = Instant::now();
        victim.signal(Signal::SIGKILL).map_err(|error| Failed::new(error.to_string()))?;
        let tick = || self.table.progress(NAME, hands.counters());
        let steered = self.stage.wait_for(
            "the clients of the dead worker to be sent to the others",
            |event| matches!(event, Event::InForce { occupied, seats, .. } if occupied < seats),
            tick,
        )?;
        let replaced = self.stage.wait_for(
            "the dead worker to be replaced",
            |event| matches!(event, Event::InForce { occupied, seats, .. } if occupied == seats),
            tick,
        )?;
        let (report, until) = rounds(self.table, self.clients, hands, NAME, replaced, 1)?;
        let window = Window::of(&report, from, until);
        let of_victim = |client| measure::seat_of(plan, client) == Some(VICTIM);
        // Only these may fail: connections to the dead worker, begun before the rules had changed.
        let in_flight =
            |failure: &Failure| of_victim(failure.source.ip()) && measure::began(failure) < steered;
        let judged = Killed {
            seat: VICTIM,
            clients_of_seat: self.clients.iter().filter(|client| of_victim(**client)).count(),
            silent: window.silent(self.clients, replaced),
            first_steered_after: window
                .first_steered(plan, VICTIM, killed)
                .map(|first| first - killed),
            steered_after: steered - killed,
            replaced_after: replaced - killed,
            exposed: window.exposed(killed, steered, of_victim),
            lost: window.count_failures(in_flight),
            losses: window.losses(in_flight),
            served_by_others: window.served_by_others(plan, VICTIM, steered, replaced),
            bystanders_changed: window.bystanders_changed(plan, VICTIM, killed, &workers),
            not_back: window.not_back(plan, VICTIM, replaced, pid),
        };
        let moved = window.off_seat(plan);
        self.table.row(NAME, Some((&window, moved)), &judged.lines())?;
        verdict(judged.faults())?;
        Ok(until)
    }

    /// Scales to one worker more; then the load ends. Returns all that happened, and the workers at the end.
    fn scale(
        &self,
        hands: Hands,
        before: &Plan,
        from: Instant,
    ) -> Result<(Report, Vec<PidFd>), Failed> {
        let name = format!("scale {WORKERS} -> {}", WORKERS + 1);
        let answer = self.stage.ask(self.stage.master.scale(WORKERS + 1))?;
        let scaled = Instant::now();
        let after = self.stage.plan_in_force()?;
        let processes = self.stage.processes()?;
        rounds(self.table, self.clients, &hands, &name, scaled, 1)?;
        let report = hands.stop();
        let window = Window::of(&report, from, report.began() + report.elapsed());
        let judged = Scaled {
            from: WORKERS,
            to: answer.workers,
            wanted: WORKERS + 1,
            clients: self.clients.len(),
            moved: window.off_seat(before),
            moved_between_old: window.moved_between_old(before, WORKERS),
            misplaced: window.misplaced(&after, scaled),
            moved_slots: answer.moved_slots,
            slots: answer.slots,
            silent: window.silent(self.clients, scaled),
            losses: window.losses(|_| false),
        };
        self.table.row(&name, Some((&window, judged.moved)), &judged.lines())?;
        verdict(judged.faults())?;
        Ok((report, processes))
    }
}

/// Waits until every client has been answered by connections begun after `since`, in so many
/// rounds of all of them. Who is still silent after a time is for the phase to judge.
fn rounds<const N: usize>(
    table: &Table<N>,
    clients: &[IpAddr],
    hands: &Hands,
    name: &str,
    since: Instant,
    rounds: u64,
) -> Result<(Report, Instant), Failed> {
    let round = clients.len() as u64;
    let give_up = Instant::now() + stage::PATIENCE;
    let begun = if since == hands.began() { 0 } else { hands.counters().started };
    let mut mark = begun + rounds * round;
    loop {
        wait(table, hands, name, |counters| counters.answered + counters.failed >= mark)?;
        let until = Instant::now();
        let report = report_until(hands, until);
        let silent = Window::of(&report, since, until).silent(clients, since);
        if silent == 0 || until > give_up {
            return Ok((report, until));
        }
        // A few connections take longer than those begun after them.
        mark += round / 20;
    }
}

fn wait<const N: usize>(
    table: &Table<N>,
    hands: &Hands,
    name: &str,
    enough: impl Fn(lab::Counters) -> bool,
) -> Result<(), Failed> {
    let give_up = Instant::now() + stage::PATIENCE;
    while !enough(hands.counters()) {
        if Instant::now() > give_up {
            return Err(Failed::new(format!("{name}: the load does not get on"))
                .hint("is this machine very busy? 2 CPUs at half load suffice"));
        }
        table.progress(name, hands.counters())?;
        std::thread::sleep(stage::LOOK);
    }
    Ok(())
}

/// A report in which no connection is missing that ended before `until`: the load hands them over in
/// the order of their ends, some at a time.
fn report_until(hands: &Hands, until: Instant) -> Report {
    let give_up = until + stage::PATIENCE;
    loop {
        let report = hands.report();
        let last = report.answers().last().map(|answer| answer.at);
        if last.is_some_and(|last| last >= until) || Instant::now() > give_up {
            return report;
        }
        std::thread::sleep(stage::LOOK);
    }
}

/// What a phase showed was wrong: the demo ends.
fn verdict(faults: Vec<String>) -> Result<(), Failed> {
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Failed::new(format!("not as promised: {}", faults.join("; ")))),
    }
}

impl From<LabError> for Failed {
    fn from(error: LabError) -> Self {
        match &error {
            LabError::UserNamespaceForbidden { advice, .. } => {
                let text = error.to_string();
                Self::new(text.lines().next().unwrap_or_default()).hint(*advice)
            }
            _ => Self::new(error.to_string()),
        }
    }
}
