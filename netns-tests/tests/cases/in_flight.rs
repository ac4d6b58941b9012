//! Packets that are on their way through the rules while a transaction replaces these: none is
//! lost. Each case has a control, in which the same transaction removes what it replaces at once.

#[allow(dead_code, reason = "this file uses some of these")]
use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::internals::ruleset::{Stale, Transition};
use ipcluster::lab::{FailureKind, Pace};
use ipcluster::nft::Firewall;
use ipcluster::plan::{Generation, Occupant, Partition, Plan, Port, Seat, Weights};
use netns_tests::plans::firewall;
use netns_tests::{Case, Lab, Process, greeter, plans, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).limit(Duration::from_secs(300)).busy();
    vec![
        case("reloads_of_several_ports", |lab| nothing_is_lost(lab, reloaded)),
        case("scaling", |lab| nothing_is_lost(lab, scaled)).on_request().with_both_engines(),
        case("seats_that_come_and_go", |lab| nothing_is_lost(lab, vacated))
            .on_request()
            .with_both_engines(),
    ]
}

/// From one plan to the next; the number says which step it is.
type Step = fn(&Plan, u16) -> Plan;

/// How many worker ports there are for each public port.
const PORTS: u16 = 64;
/// The first worker port for public port 80, for 443 and for 444.
const FIRST: [u16; 3] = [20_000, 21_000, 22_000];
const SEATS: u16 = 4;

/// So many public ports that each seat has a map of them.
const LISTENERS: &[&str] =
    &["10.9.0.1:80", "10.9.0.1:443", "10.9.0.1:444", "[fd09::1]:80", "[fd09::1]:443"];

/// How long one run of transactions is, and how many there are at most until the control has lost
/// something.
const RUN: Duration = Duration::from_secs(5);
const RUNS: usize = 20;

/// How often transactions come to rest for as long as stale maps stay.
const PAUSE_EVERY: Duration = Duration::from_secs(2);

fn nothing_is_lost(lab: &Lab, step: Step) {
    let _worker = worker(lab);
    let mut control = Outcome::default();
    let mut runs = 0;
    while control.refused < 2 && runs < RUNS {
        control.add(&race(lab, step, Way::AllAtOnce));
        runs += 1;
    }
    println!("removed at once: {control}");
    assert!(control.refused > 0, "the control loses nothing: {control}");

    let mut ours = Outcome::default();
    for _ in 0..runs.max(2) {
        ours.add(&race(lab, step, Way::Ours));
    }
    println!("removed later: {ours}");
    assert!(ours.transactions > 1000 && ours.answered > 10_000, "{ours}");
    assert!(ours.removals > 0, "nothing was removed under load: {ours}");
    assert_eq!((ours.refused, ours.other), (0, 0), "{ours}");
}

/// One process that listens on every worker port.
fn worker(lab: &Lab) -> Process {
    let ports = || FIRST.into_iter().flat_map(|first| first..first + PORTS);
    let mut command = Command::new(greeter());
    command.env("GREETER_SPEAK", "first").env("PORT", FIRST[0].to_string());
    for port in ports() {
        command.env(format!("IPCLUSTER_PORT_{port}"), port.to_string());
    }
    let worker = lab.start("greeter", command);
    wait_until("the worker to listen", Duration::from_secs(10), || {
        ports().all(|port| lab.is_listened_to(port))
    });
    worker
}

/// How what a transaction replaces is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    /// In the same transaction.
    AllAtOnce,
}

#[derive(Debug, Default)]
struct Outcome {
    transactions: u64,
    /// Transactions that removed something.
    removals: u64,
    answered: u64,
    refused: u64,
    /// Connections that failed otherwise.
    other: u64,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.removals += other.removals;
        self.answered += other.answered;
        self.refused += other.refused;
        self.other += other.other;
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { transactions, removals, answered, refused, other } = self;
        write!(f, "{transactions} transactions, {removals} of which removed something; ")?;
        write!(f, "{answered} connections answered, {refused} refused, {other} lost otherwise")
    }
}

/// Transactions, one right after the other, while clients connect.
fn race(lab: &Lab, step: Step, way: Way) -> Outcome {
    let mut plan = placed(plans::vacant(LISTENERS, hash(), SEATS.into()), 0);
    let mut firewall = firewall(lab.server(), &plan);
    firewall.apply(&plan).unwrap();
    let mut outcome = Outcome::default();
    let load = Lab::lean_load(80, 1000).pace(Pace::Concurrency(16)).start(lab.client()).unwrap();
    let begin = Instant::now();
    let mut pause_at = begin + PAUSE_EVERY;
    for number in 1.. {
        let next = step(&plan, number);
        if way == Way::Ours && pause_at <= Instant::now() {
            // As it is most of the time: then all that is stale goes in the next transaction.
            let pause = Stale::GRACE + Duration::from_millis(50);
            std::thread::sleep(pause);
            pause_at += PAUSE_EVERY + pause;
        }
        let removes = match way {
            Way::Ours => change(&mut firewall, &next),
            Way::AllAtOnce => change_at_once(&mut firewall, &plan, &next),
        };
        outcome.removals += u64::from(removes);
        outcome.transactions += 1;
        plan = next;
        if begin.elapsed() > RUN {
            break;
        }
    }
    let report = load.stop();
    firewall.remove().unwrap();
    outcome.answered = report.answered();
    let failures = report.failures_by_kind();
    outcome.refused = failures.get(&FailureKind::Refused).copied().unwrap_or_default();
    outcome.other = report.failed() - outcome.refused;
    outcome
}

/// Returns whether something was removed.
fn change(firewall: &mut Firewall, to: &Plan) -> bool {
    let before = firewall.stale().maps().count();
    firewall.apply(to).unwrap();
    firewall.stale().maps().count() < before
}

fn change_at_once(firewall: &mut Firewall, from: &Plan, to: &Plan) -> bool {
    let now = Duration::ZERO;
    let Transition { mut transaction, stale } =
        Transition::between(from, &Stale::default(), to, now).unwrap();
    let table = transaction.table.clone();
    let removal = Transition::tidy(table, &stale, now + Stale::GRACE).transaction;
    transaction.operations.extend(removal.operations);
    firewall.carry_out_as_it_is(&transaction).unwrap();
    !stale.is_empty()
}

fn hash() -> Partition {
    Partition::hash(Partition::DEFAULT_SLOTS).unwrap()
}

/// Every seat with worker ports that it has with this number alone: a map repeats itself after
/// `PORTS` times `PORTS` numbers.
fn placed(mut plan: Plan, number: u16) -> Plan {
    let seats = u16::try_from(plan.seats().len()).unwrap();
    let occupants = (0..seats).map(|seat| {
        let turns = [number, number + number / PORTS, number];
        let ports = FIRST
            .into_iter()
            .zip(turns)
            .map(|(first, turn)| Port::new(first + (turn + seat) % PORTS).unwrap());
        (Seat(seat), Occupant::new(Generation(1), ports.collect::<Vec<_>>()))
    });
    plan.occupy_all(occupants).unwrap();
    plan
}

/// All workers are replaced.
fn reloaded(plan: &Plan, number: u16) -> Plan {
    placed(plan.clone(), number % (PORTS * PORTS))
}

/// Up and down: each time another number of seats, from which another map of slots follows.
fn scaled(plan: &Plan, number: u16) -> Plan {
    let seats = if number.is_multiple_of(2) { SEATS } else { SEATS + 1 + number / 2 % 40 };
    placed(plan.rescaled(&Weights::equal(seats.into()).unwrap()).unwrap(), 0)
}

/// One worker dies and others come back, so that the survivors are never the same for long.
fn vacated(plan: &Plan, number: u16) -> Plan {
    let mut next = placed(plan.clone(), 0);
    let dead = number % ((1 << SEATS) - 1);
    for seat in (0..SEATS).filter(|seat| dead & (1 << seat) != 0) {
        next.vacate(Seat(seat)).unwrap();
    }
    next
}
