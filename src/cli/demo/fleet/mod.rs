//! `ipcluster demo --fleet`: several hosts behind one address, under load, while one joins, all reload, the router
//! loses a path, one drains and one dies. What it prints is measured, and judged: see [`judge`].

mod judge;
mod stage;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::lab::{self, Answered, Failure, Held, Network};
use crate::plan::Engine;
use crate::plan::fleet::{Fleet, MemberState};
use crate::protocol::Align;

use super::super::Failed;
use super::measure::{self, Window};
use super::stage::{Hands, LOOK};
use super::table::Table;
use super::{report_until, rounds, verdict};
use judge::{HEAD, Seen};
use stage::{FleetStage, NAMES, PUBLIC_PORT, WORKERS};

const CLIENTS: u16 = 1000;
/// Connections a second: a small part of what one core can do.
const RATE: f64 = 1000.0;
/// Clients with a connection that stays open from the start to the end.
const HELD: u16 = 120;

/// After so long the router's own health check has found that a host is dead, as with BFD.
const ROUTER_NOTICES: Duration = Duration::from_millis(300);
/// After so long the list has it: what is the end of a lease in etcd is written by an orchestrator here.
const LIST_NOTICES: Duration = Duration::from_secs(1);

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// Shows everything.
pub(in crate::cli) fn run(engine: Engine) -> Result<(), Failed> {
    let began = Instant::now();
    lab::enter_user_namespace()?;
    let stage = FleetStage::build(engine)?;
    let columns = [
        (16, Align::Left),
        (12, Align::Right),
        (6, Align::Right),
        (12, Align::Right),
        (7, Align::Right),
        (15, Align::Right),
        (12, Align::Right),
    ];
    let title = format!(
        "engine {engine}: hosts {} with {WORKERS} workers each behind 192.0.2.1:{PUBLIC_PORT}, a router with a path over \
         each;\n{CLIENTS} clients, {RATE} new connections/s, {HELD} connections that stay open and {HELD} more once c has joined; the list of members is a file",
        NAMES.join(", "),
    );
    let table = Table::with_columns(&title, columns, &HEAD)?;
    let hands = stage.start_load(CLIENTS, RATE)?;
    let held = stage.hold(HELD)?;
    let clients: Vec<IpAddr> = Network::clients_v4(CLIENTS).collect();
    let at = hands.began();
    let mut show = Show { stage, clients: &clients, table: &table, hands, held, at };
    show.serve()?;
    show.join()?;
    show.reload()?;
    show.lose_path()?;
    show.drain()?;
    let on_dead = show.die()?;
    let Show { stage, hands, held, .. } = show;
    let report = hands.stop();
    drop(held);
    let (took, left, workers) = stage.stop()?;
    let stopped =
        format!("after {:.0} ms: {left} of {workers} workers left", took.as_secs_f64() * 1e3);
    let mut cells = [const { String::new() }; 7];
    cells[0] = "stop".to_owned();
    table.cells(&cells, &[stopped])?;
    verdict(if left == 0 { vec![] } else { vec![format!("{left} workers were left running")] })?;
    table.end(&format!(
        "all as promised: {} connections from {CLIENTS} addresses in {:.1} s; lost: {on_dead}, all on {}, which died",
        report.answered() + report.failed() + 2 * u64::from(HELD),
        began.elapsed().as_secs_f64(),
        NAMES[C],
    ))
}

/// The events. Each follows the one before without a gap, so that no connection is left out.
struct Show<'a> {
    stage: FleetStage,
    clients: &'a [IpAddr],
    table: &'a Table<7>,
    hands: Hands,
    /// The connections that stay open, each with its host.
    held: Vec<(Held, Option<usize>)>,
    /// Until when connections were looked at.
    at: Instant,
}

/// The change that clients are looked at for.
struct Change {
    event: &'static str,
    /// The list before it.
    before: Fleet,
    /// From when on all hosts had it in force.
    since: Instant,
    dead: Option<usize>,
}

impl Show<'_> {
    fn serve(&mut self) -> Result<(), Failed> {
        let (before, since) = (self.stage.fleet().clone(), self.at);
        let owned = [A, B].map(|nth| self.stage.slots_of(nth));
        let [a, b] = owned;
        let slots = before.owners().slots();
        let line = format!("a owns {} of {slots} slots, b {}", a?, b?);
        self.show(Change { event: "a and b serve", before, since, dead: None }, vec![line])?;
        Ok(())
    }

    fn join(&mut self) -> Result<(), Failed> {
        let before = self.stage.fleet().clone();
        self.stage.list(&[
            (A, MemberState::Serving),
            (B, MemberState::Serving),
            (C, MemberState::Joining),
        ])?;
        self.stage.start()?;
        self.stage.route_over(&[A, B, C])?;
        let since = self.stage.list(&ALL)?;
        let moved = self.stage.fleet().owners().moved_from(before.owners());
        let line = format!(
            "{moved} slots moved, all to c, once its workers were ready; the connections of their clients stay where \
             they were"
        );
        self.show(Change { event: "c joins", before, since, dead: None }, vec![line])?;
        // Of these some are on c.
        self.held.extend(self.stage.hold(HELD)?);
        Ok(())
    }

    fn reload(&mut self) -> Result<(), Failed> {
        let before = self.stage.fleet().clone();
        let since = self.stage.reload_all()?;
        let line = "new workers on all hosts; no slot moves".to_owned();
        self.show(Change { event: "all reload", before, since, dead: None }, vec![line])?;
        Ok(())
    }

    fn lose_path(&mut self) -> Result<(), Failed> {
        let before = self.stage.fleet().clone();
        self.stage.route_over(&[A, C])?;
        let since = Instant::now();
        let line = "what came by b comes by a and c, which pass it on to its host".to_owned();
        self.show(Change { event: "no path over b", before, since, dead: None }, vec![line])?;
        self.stage.route_over(&[A, B, C])
    }

    fn drain(&mut self) -> Result<(), Failed> {
        let before = self.stage.fleet().clone();
        let since = self.stage.list(&[
            (A, MemberState::Serving),
            (B, MemberState::Draining),
            (C, MemberState::Serving),
        ])?;
        let kept = self.held.iter().filter(|(_, host)| *host == Some(B)).count();
        let line = format!("b owns nothing; its {kept} open connections go on there");
        self.show(Change { event: "b drains", before, since, dead: None }, vec![line])?;
        let before = self.stage.fleet().clone();
        let since = self.stage.list(&ALL)?;
        let line = format!("it owns {} slots again", self.stage.slots_of(B)?);
        self.show(Change { event: "b is back", before, since, dead: None }, vec![line])?;
        Ok(())
    }

    /// Returns how many connections were lost.
    fn die(&mut self) -> Result<usize, Failed> {
        const EVENT: &str = "c dies";
        let before = self.stage.fleet().clone();
        let died = self.stage.kill(C)?;
        self.wait_until(EVENT, died + ROUTER_NOTICES)?;
        self.stage.route_over(&[A, B])?;
        self.wait_until(EVENT, died + LIST_NOTICES)?;
        let since = self.stage.list(&[(A, MemberState::Serving), (B, MemberState::Serving)])?;
        let line = format!(
            "its link is cut; the router knows after {ROUTER_NOTICES:?}, the list after {LIST_NOTICES:?} (in etcd: its \
             lease ends); its clients get to a and b then"
        );
        self.show(Change { event: EVENT, before, since, dead: Some(C) }, vec![line])
    }

    fn wait_until(&self, event: &str, at: Instant) -> Result<(), Failed> {
        while Instant::now() < at {
            self.table.progress(event, self.hands.counters())?;
            std::thread::sleep(LOOK.min(at.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Waits until all clients were answered, and prints what they saw. Returns how many connections were lost on
    /// the dead host.
    fn show(&mut self, change: Change, lines: Vec<String>) -> Result<usize, Failed> {
        let Change { event, before, since, dead } = change;
        let (_, until) = rounds(self.table, self.clients, &self.hands, event, since, 1)?;
        self.stage.learn_workers()?;
        let (open, on_dead, open_lost) = self.echo(dead);
        let report = report_until(&self.hands, until);
        let window = Window::of(&report, self.at, until);
        let after = self.stage.fleet();
        let [was, is] =
            [&before, after].map(|fleet| move |client: IpAddr| FleetStage::owner(fleet, client));
        // Only these may fail: connections to the dead host, begun before its slots were the others'.
        let excused = |failure: &Failure| {
            dead.is_some() && was(failure.source.ip()) == dead && measure::began(failure) < since
        };
        let host = |answer: &Answered| self.stage.host_of(answer.by.pid);
        let clients = |is_it: &dyn Fn(&Answered) -> bool| {
            let answers = window.answers().iter().filter(|answer| is_it(answer));
            answers.map(|answer| answer.client).collect::<BTreeSet<_>>().len()
        };
        let has_moved = |answer: &Answered| host(answer) != was(answer.client);
        let [_, p99] = window.latencies();
        let lost_on_dead = on_dead + window.count_failures(excused);
        let seen = Seen {
            event,
            connections: window.connections(),
            on_dead: dead.map(|nth| (NAMES[nth].to_owned(), lost_on_dead)),
            losses: window.losses(excused),
            open,
            open_lost,
            clients: self.clients.len(),
            silent: window.silent(self.clients, since),
            moved: clients(&has_moved),
            moved_needlessly: clients(&|it| has_moved(it) && was(it.client) == is(it.client)),
            misplaced: clients(&|it| {
                measure::began_answer(it) >= since && host(it) != is(it.client)
            }),
            p99_millis: p99.as_secs_f64() * 1e3,
            lines,
        };
        self.at = until;
        self.table.cells(&seen.cells(), &seen.lines())?;
        verdict(seen.faults())?;
        Ok(lost_on_dead)
    }

    /// Uses each connection that is open, and drops those that are lost. Returns how many are left, how many were on
    /// the dead host, and how many others were lost.
    fn echo(&mut self, dead: Option<usize>) -> (usize, usize, usize) {
        let (mut on_dead, mut lost, mut gives_up) = (0, 0, false);
        self.held.retain_mut(|(held, host)| {
            let is_on_dead = dead.is_some() && *host == dead;
            // Nothing answers any more: the next one would wait as long.
            let echoed = if is_on_dead && gives_up {
                false
            } else {
                let began = Instant::now();
                let echoed = held.echo("still there").is_ok();
                gives_up |= is_on_dead && began.elapsed() >= Held::TIME_OUT;
                echoed
            };
            match (echoed, is_on_dead) {
                (true, _) => {}
                (false, true) => on_dead += 1,
                (false, false) => lost += 1,
            }
            echoed
        });
        (self.held.len(), on_dead, lost)
    }
}

const ALL: [(usize, MemberState); 3] =
    [(A, MemberState::Serving), (B, MemberState::Serving), (C, MemberState::Serving)];
