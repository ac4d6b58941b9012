//! What the first packet of a connection costs: a SYN from another client each time, through a veth
//! pair and the rules, dropped right behind them. The layout of this crate with few and many slots,
//! workers and listeners, beside the best rules that somebody could write by hand for the same plan,
//! in one run and in turn, so that the ratios hold when the machine's speed drifts. Then, with the
//! drop taken away, each rule set is shown to send every client where the plan says.
//!
//! `cargo bench --bench packet`; with `-- TEXT` only the cases whose name contains it. Runs in a
//! network namespace of its own. Without root the large maps are left out, since the kernel then
//! takes no batch of that length. Needs the program nft.

mod frames;
mod lane;
mod rules;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipcluster::lab::{self, Entered, Network};
use ipcluster::plan::{
    Generation, Listener, Listeners, Occupant, Partition, Plan, Port, PortRange, Protocol, Seat,
    Weights,
};

use frames::Frame;
use lane::Lane;
use rules::Rules;

/// How long all cases together are measured for.
const BUDGET: Duration = Duration::from_secs(60);

/// Packets in one measurement: few enough that it mostly ends before another process gets the
/// processor. It begins with what other cases left in the caches, as on a host that has other work.
const BATCH: usize = 256;

/// How often a batch is sent again because another process came in between.
const PATIENCE: usize = 8;

/// Packets by which the rules are verified: some for each of 1,024 workers.
const VERIFIED: usize = 16_384;

/// The most slots whose map goes into one batch without root (`net.core.wmem_max`).
const SLOTS_WITHOUT_ROOT: u32 = 4096;

fn main() {
    // `cargo test --benches` and `cargo bench --no-run` come here without `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let filters: Vec<_> = arguments.iter().filter(|text| !text.starts_with("--")).collect();
    let entered = match lab::enter_user_namespace() {
        Ok(entered) => entered,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let mut cases = cases();
    cases.retain(|case| {
        filters.is_empty() || filters.iter().any(|text| case.name.contains(text.as_str()))
    });
    if !is_bench || entered == Entered::UserNamespace {
        println!("left out: maps of more than {SLOTS_WITHOUT_ROOT} slots");
        cases.retain(|case| case.plan.partition().slots() <= SLOTS_WITHOUT_ROOT);
    }
    if !rules::is_nft_installed() {
        println!("left out: all cases, since the program nft is not installed");
        return;
    }
    let mut frames = Frames::default();
    let tracks: Vec<Track> = cases.into_iter().map(|case| Track::new(case, &mut frames)).collect();
    let rounds = measure(&tracks, if is_bench { BUDGET } else { Duration::ZERO });
    for track in &tracks {
        let frames = &track.frames[..if is_bench { VERIFIED } else { BATCH }];
        let ports = track.lane.verify(&track.case.name, frames);
        assert!(!is_bench || ports == track.lane.ports(), "{}: {ports} ports", track.case.name);
    }
    print_table(&tracks, &rounds);
}

/// A rule set, and the plan that it carries out.
struct Case {
    name: String,
    rules: Rules,
    plan: Plan,
    /// The case by hand that it is compared with, too.
    by_hand: Option<String>,
}

/// The case that all others are compared with.
const REFERENCE: &str = "2 slots, 2 workers";

fn cases() -> Vec<Case> {
    const USUAL: &str = "1,024 slots, 8 workers";
    let one = ["10.9.0.1:80".to_owned()];
    let addresses: Vec<_> = (1..=64).map(|number| format!("10.9.1.{number}:80")).collect();
    let ports: Vec<_> = (80..144).map(|port| format!("10.9.0.1:{port}")).collect();
    let both = ["10.9.0.1:80/tcp".to_owned(), "10.9.0.1:80/udp".to_owned()];
    let without = |name: &str, rules| Case {
        name: name.to_owned(),
        rules,
        plan: plan(&one, 1, 1),
        by_hand: None,
    };
    let mut cases = vec![
        without("no rules", Rules::None),
        without("an empty nat chain", Rules::EmptyChain),
        without("the same, and connection tracking", Rules::Tracking),
        without("a constant redirect", Rules::ByHand),
    ];
    let mut add = |name: &str, plan: Plan| {
        let by_hand = format!("{name}, by hand");
        let twin =
            Case { name: by_hand.clone(), rules: Rules::ByHand, plan: plan.clone(), by_hand: None };
        cases.push(Case {
            name: name.to_owned(),
            rules: Rules::Ours,
            plan,
            by_hand: Some(by_hand),
        });
        cases.push(twin);
    };
    add(REFERENCE, plan(&one, 2, 2));
    add("64 slots, 8 workers", plan(&one, 64, 8));
    add(USUAL, plan(&one, 1024, 8));
    add("8,192 slots, 8 workers", plan(&one, 8192, 8));
    add("65,536 slots, 8 workers", plan(&one, 65_536, 8));
    add("1,024 slots, 7 workers", plan(&one, 1024, 7));
    add("65,536 slots, 7 workers", plan(&one, 65_536, 7));
    add("1,024 slots, 32 workers, scaled from 3", scaled_up(&one, 1024, 3, 32));
    add("8,192 slots, 32 workers, scaled from 3", scaled_up(&one, 8192, 3, 32));
    add("65,536 slots, 32 workers, scaled from 3", scaled_up(&one, 65_536, 3, 32));
    add("1,024 slots, 1,024 workers", plan(&one, 1024, 1024));
    add("65,536 slots, 1,024 workers", plan(&one, 65_536, 1024));
    add(&format!("{USUAL}, 64 addresses"), plan(&addresses, 1024, 8));
    add(&format!("{USUAL}, 64 ports"), plan(&ports, 1024, 8));
    add(&format!("{USUAL}, wildcard"), plan(&["0.0.0.0:80".to_owned()], 1024, 8));
    add(&format!("{USUAL}, IPv6"), plan(&["[fd09::1]:80".to_owned()], 1024, 8));
    add(&format!("{USUAL}, tcp and udp"), plan(&both, 1024, 8));
    let mut guarded = plan(&one, 1024, 8);
    let range = [20_000, 29_999].map(|port| Port::new(port).expect("a port"));
    let range = PortRange::new(range[0], range[1]).expect("a range");
    guarded.set_guard(Some(range)).expect("no public port in it");
    let mut usual_rules = guarded.clone();
    add(&format!("{USUAL}, guarded"), guarded);
    usual_rules.set_local_clients(true);
    add(&format!("{USUAL}, guarded, local clients"), usual_rules);
    cases
}

/// A plan with a worker in every seat.
fn plan(listeners: &[String], slots: u32, workers: u16) -> Plan {
    let listeners = listeners.iter().map(|text| text.parse().expect("a listener")).collect();
    let mut plan = Plan::new(
        "bench".parse().expect("a name"),
        Listeners::new(listeners).expect("listeners"),
        Partition::hash(slots).expect("a number of slots"),
        &Weights::equal(usize::from(workers)).expect("a number of workers"),
        None,
    )
    .expect("a plan");
    let public = u16::try_from(plan.listeners().public_ports().len()).expect("at most 64");
    let occupant = |seat: u16| {
        let first = 20_000 + seat * public;
        let ports: Vec<_> =
            (first..first + public).map(|port| Port::new(port).expect("a port")).collect();
        (Seat(seat), Occupant::new(Generation::FIRST, ports))
    };
    plan.occupy_all((0..workers).map(occupant)).expect("ports of nobody else");
    plan
}

/// A plan whose workers came one after the other: so the slots of a seat are scattered.
fn scaled_up(listeners: &[String], slots: u32, first: u16, last: u16) -> Plan {
    let mut scattered = plan(listeners, slots, first);
    for workers in first..=last {
        let weights = Weights::equal(usize::from(workers)).expect("a number of workers");
        scattered = scattered.rescaled(&weights).expect("enough slots");
    }
    let full = plan(listeners, slots, last);
    let occupants = full.seats().filter_map(|(seat, occupant)| Some((seat, occupant?.clone())));
    scattered.occupy_all(occupants).expect("ports of nobody else");
    scattered
}

/// A case with all that it needs to be measured.
struct Track {
    case: Case,
    lane: Lane,
    frames: Rc<[Frame]>,
}

impl Track {
    fn new(case: Case, all: &mut Frames) -> Self {
        let frames = all.of(&case.plan);
        Self { lane: Lane::new(case.rules, &case.plan), case, frames }
    }

    /// Nanoseconds for each packet of a batch that nobody interrupted, if there is one.
    fn measure(&self, round: usize) -> f64 {
        let batches = self.frames.len() / BATCH;
        let start = round % batches * BATCH;
        let mut attempts = 0;
        loop {
            let (elapsed, is_undisturbed) = self.lane.send(&self.frames[start..start + BATCH]);
            attempts += 1;
            if is_undisturbed || attempts == PATIENCE {
                return elapsed.as_secs_f64() * 1e9 / BATCH as f64;
            }
        }
    }
}

/// The packets to the listeners of each plan, by the addresses that they go to: built once, so that
/// they are as near to the processor for one case as for the next.
#[derive(Default)]
struct Frames(BTreeMap<Vec<SocketAddr>, Rc<[Frame]>>);

impl Frames {
    fn of(&mut self, plan: &Plan) -> Rc<[Frame]> {
        // A wildcard's packets go to the one address that is local.
        let target = |listener: &Listener| match listener.is_wildcard() {
            true => Network::server_v4(listener.port().number()),
            false => SocketAddr::new(listener.address(), listener.port().number()),
        };
        let tcp = plan.listeners().iter().filter(|listener| listener.protocol() == Protocol::Tcp);
        let targets: Vec<SocketAddr> = tcp.map(target).collect();
        let build = || match targets[0].is_ipv6() {
            true => frames::build(Network::clients_v6(u16::MAX), &targets).into(),
            false => frames::build(Network::clients_v4(u16::MAX), &targets).into(),
        };
        self.0.entry(targets.clone()).or_insert_with(build).clone()
    }
}

/// Measures all cases once in each round, in another order each time. Returns the nanoseconds for
/// each packet by case, then by round.
fn measure(tracks: &[Track], budget: Duration) -> Vec<Vec<f64>> {
    let mut times = vec![vec![]; tracks.len()];
    let mut order: Vec<usize> = (0..tracks.len()).collect();
    let mut random = 1;
    let begin = Instant::now();
    let mut round = 0;
    while round < 3 || begin.elapsed() < budget {
        shuffle(&mut order, &mut random);
        for &index in &order {
            times[index].push(tracks[index].measure(round));
        }
        round += 1;
    }
    times
}

/// Fisher and Yates's, with numbers of Knuth's MMIX generator: the same in every run.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (*random >> 33) % (last as u64 + 1);
        order.swap(last, usize::try_from(place).expect("below the length"));
    }
}

fn print_table(tracks: &[Track], times: &[Vec<f64>]) {
    println!("{} rounds of {BATCH} packets; medians", times.first().map_or(0, Vec::len));
    println!(
        "{:<46} {:>8} {:>15} {:>12} {:>10}",
        "case", "ns", "quartiles", "to 2 slots", "to hand"
    );
    let place = |name: &str| tracks.iter().position(|track| track.case.name == name);
    let ratio = |index: usize, name: &str| {
        let Some(other) = place(name).filter(|other| *other != index) else { return "-".into() };
        let ratios = times[index].iter().zip(&times[other]).map(|(its, others)| its / others);
        format!("{:.3}x", quartile(ratios.collect(), 2))
    };
    for (index, track) in tracks.iter().enumerate() {
        let name = &track.case.name;
        let [low, median, high] =
            [1, 2, 3].map(|quarters| quartile(times[index].clone(), quarters));
        println!(
            "{name:<46} {median:>8.0} {:>15} {:>12} {:>10}",
            format!("{low:.0} - {high:.0}"),
            ratio(index, REFERENCE),
            ratio(index, track.case.by_hand.as_deref().unwrap_or_default())
        );
    }
}

/// The value below which so many quarters of all lie; 2 gives the median.
fn quartile(mut values: Vec<f64>, quarters: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * quarters / 4]
}
