//! From a plan to its acknowledgement by the kernel, against the raw floor: the same bytes, encoded
//! beforehand, sent and acknowledged over a bare socket. Both in one run and in turn, so that the
//! ratio holds when the machine's speed drifts. Runs in a network namespace of its own, without root.
//!
//! `cargo bench --bench swap`; with `-- --peers` also against `nft -f` of the whole set and against
//! what the older system does, where these programs are installed: one `iptables` call for each new
//! rule that goes in, then one for each old rule that comes out.

use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipcluster::internals::nft::Batch;
use ipcluster::internals::ruleset::{Stale, Transition};
use ipcluster::lab;
use ipcluster::nft::Firewall;
use ipcluster::plan::{
    Generation, Listeners, Occupant, Ownership, Partition, Plan, Port, PortRange, Seat, Slot,
    Weights,
};
use ipcluster::ruleset::lower;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};

/// How long each row is measured for.
const BUDGET: Duration = Duration::from_millis(1500);

fn main() {
    // `cargo test --benches` and `cargo bench --no-run` come here without `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let budget = if is_bench { BUDGET } else { Duration::ZERO };
    if let Err(error) = lab::enter_user_namespace() {
        println!("skipped: {error}");
        return;
    }
    println!("{:<44} {:>9} {:>9} {:>7}", "change", "floor us", "ours us", "ratio");
    for (workers, slots) in [(4, 1024), (8, 8), (8, 1024), (64, 1024), (256, 1024)] {
        for change in changes(workers, slots) {
            print_row(&measure(&change, budget));
        }
    }
    print_row(&measure(&reload_with_everything_on(), budget));
    if arguments.iter().any(|argument| argument == "--peers") {
        compare_with_programs(budget);
    }
}

/// A change of what is in force, and back.
struct Change {
    name: String,
    from: Plan,
    to: Plan,
}

fn changes(workers: u16, slots: u32) -> Vec<Change> {
    let name = |what: &str| format!("{what}, {workers} workers, {slots} slots");
    let whole = whole(workers, slots);
    let mut reloaded = whole.clone();
    reloaded.set_generation(Generation(2));
    occupy(&mut reloaded, 0..workers, 30_000, Generation(2));
    let mut replaced = whole.clone();
    occupy(&mut replaced, 0..1, 30_000, Generation(1));
    let mut lost = whole.clone();
    lost.vacate(Seat(0)).expect("a seat of the plan");
    let mut changes = vec![
        Change { name: name("reload"), from: whole.clone(), to: reloaded },
        Change { name: name("replace one"), from: whole.clone(), to: replaced },
        Change { name: name("lose one"), from: whole.clone(), to: lost },
    ];
    if slots > u32::from(workers) {
        let weights = Weights::equal(usize::from(workers) + 1).expect("at most 1024");
        let mut scaled = whole.rescaled(&weights).expect("more slots than workers");
        occupy(&mut scaled, workers..workers + 1, 20_000, Generation(1));
        changes.push(Change { name: name("scale up by one"), from: whole, to: scaled });
    }
    changes
}

/// Four listeners: IPv4 and IPv6, tcp and udp; with the guard and clients of this host.
fn reload_with_everything_on() -> Change {
    let listeners = ["10.9.0.1:80", "[fd09::1]:80", "10.9.0.1:443/udp", "[fd09::1]:443/udp"];
    let mut from = whole_on(&listeners, 8, 1024);
    from.set_guard(Some(PortRange::default())).expect("no public port");
    from.set_local_clients(true);
    let mut to = from.clone();
    to.set_generation(Generation(2));
    occupy(&mut to, 0..8, 30_000, Generation(2));
    let name = "reload, 8 workers, 1024 slots, everything on".to_owned();
    Change { name, from, to }
}

/// A plan of two public ports with a worker in every seat.
fn whole(workers: u16, slots: u32) -> Plan {
    whole_on(&["10.9.0.1:80", "10.9.0.1:443"], workers, slots)
}

fn whole_on(listeners: &[&str], workers: u16, slots: u32) -> Plan {
    let listeners = listeners.iter().map(|text| text.parse().expect("a listener")).collect();
    let mut plan = Plan::new(
        "bench".parse().expect("a name"),
        Listeners::new(listeners).expect("some listeners"),
        Partition::hash(slots).expect("a number of slots"),
        &Weights::equal(usize::from(workers)).expect("a number of workers"),
        None,
    )
    .expect("a plan");
    occupy(&mut plan, 0..workers, 20_000, Generation(1));
    plan
}

fn occupy(plan: &mut Plan, seats: std::ops::Range<u16>, first: u16, generation: Generation) {
    let occupant = |seat: u16| {
        let ports = [first + 2 * seat, first + 2 * seat + 1].map(|p| Port::new(p).expect("a port"));
        (Seat(seat), Occupant::new(generation, ports))
    };
    plan.occupy_all(seats.map(occupant)).expect("ports of nobody else");
}

struct Row {
    name: String,
    floor: Duration,
    ours: Duration,
}

fn print_row(row: &Row) {
    let (floor, ours) = (row.floor.as_secs_f64() * 1e6, row.ours.as_secs_f64() * 1e6);
    println!("{:<44} {floor:>9.1} {ours:>9.1} {:>6.2}x", row.name, ours / floor);
}

/// The medians of the change by us and by the floor, taken in turn from the same state.
fn measure(change: &Change, budget: Duration) -> Row {
    // The bare socket is to change the table, too.
    let mut firewall = Firewall::open(change.from.name())
        .expect("a netlink socket")
        .with_ownership(Ownership::Shared);
    firewall.apply(&change.from).expect("the first plan");
    let mut raw = Raw::open();
    let there = Transition::between(&change.from, &Stale::default(), &change.to, Duration::ZERO);
    let there = Batch::encode(&there.expect("the same cluster").transaction, None);
    let (mut ours, mut floor) = (vec![], vec![]);
    let begin = Instant::now();
    while begin.elapsed() < budget || ours.len() < 3 {
        let start = Instant::now();
        firewall.apply(&change.to).expect("the plan");
        ours.push(start.elapsed());
        go_back(&mut firewall, change);

        let start = Instant::now();
        raw.send(there.datagram());
        floor.push(start.elapsed());
        go_back(&mut firewall, change);
    }
    firewall.remove().expect("removal");
    Row { name: change.name.clone(), floor: median(floor), ours: median(ours) }
}

/// Puts the first plan in force again, from whatever is, and nothing else: the same work before
/// each measurement. (To apply it would be to find stale what the next change makes.)
fn go_back(firewall: &mut Firewall, change: &Change) {
    firewall.restore(&change.from).expect("the plan before");
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

/// Longer than any batch of this bench, in bytes.
const LONGEST_BATCH: usize = 4 << 20;

/// A bare netlink socket.
struct Raw {
    socket: OwnedFd,
    reply: Vec<u8>,
}

impl Raw {
    fn open() -> Self {
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkNetFilter);
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        let socket = socket.expect("a netlink socket");
        // A batch is one datagram, and that of 256 workers is longer than a socket sends unless told.
        // Without root the kernel doubles the most that is allowed, which is enough.
        if setsockopt(&socket, sockopt::SndBufForce, &LONGEST_BATCH).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &LONGEST_BATCH).expect("a send buffer");
        }
        Self { socket, reply: vec![0; 65_536] }
    }

    /// Sends a batch and reads the acknowledgement of its end.
    fn send(&mut self, datagram: &[u8]) {
        let socket = self.socket.as_raw_fd();
        send(socket, datagram, MsgFlags::empty()).expect("sent");
        let length = recv(socket, &mut self.reply, MsgFlags::empty()).expect("a reply");
        assert_eq!(self.reply[4..6], 2u16.to_ne_bytes(), "NLMSG_ERROR, of {length} bytes");
        assert_eq!(self.reply[16..20], [0; 4], "an acknowledgement");
    }
}

/// The same reload by programs: 8 workers, 8 slots, 2 ports.
fn compare_with_programs(budget: Duration) {
    let change = &changes(8, 8)[0];
    println!(
        "\n{:<44} {:>9} {:>9} {:>7}",
        "reload of 8 workers by a program", "its us", "ours us", "ratio"
    );
    let table = lower(&change.to).to_string();
    let replace = format!("table inet ipcluster_bench\ndelete table inet ipcluster_bench\n{table}");
    compare("nft -f of the whole set", change, budget, || run("nft", &["-f", "-"], &replace));
    for program in ["iptables-nft", "iptables-legacy"] {
        let (mut old, mut new) = (iptables_rules(&change.from), iptables_rules(&change.to));
        let name = format!("{program}, {} x -I then {} x -D", new.len(), old.len());
        let is_in_force = iptables(program, "-I", &old);
        compare(&name, change, budget, || {
            let is_done = iptables(program, "-I", &new) && iptables(program, "-D", &old);
            std::mem::swap(&mut old, &mut new);
            is_in_force && is_done
        });
        iptables(program, "-D", &old);
    }
}

/// The medians of the work of a program and of the change by us, taken in turn as in [`measure`].
fn compare(name: &str, change: &Change, budget: Duration, mut work: impl FnMut() -> bool) {
    // nft is to change the table, too.
    let mut firewall = Firewall::open(change.from.name())
        .expect("a netlink socket")
        .with_ownership(Ownership::Shared);
    firewall.apply(&change.from).expect("the first plan");
    let (mut its, mut ours) = (vec![], vec![]);
    let begin = Instant::now();
    while begin.elapsed() < budget || ours.len() < 3 {
        // Else the program would wait for what the kernel still frees of our transactions, which
        // takes a grace period of RCU.
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        if !work() {
            println!("{name:<44} skipped: not installed, or not usable here");
            break;
        }
        its.push(start.elapsed());
        // It takes so little time, and the median of few is no figure.
        for _ in 0..OURS_TO_ONE {
            go_back(&mut firewall, change);
            let start = Instant::now();
            firewall.apply(&change.to).expect("the plan");
            ours.push(start.elapsed());
        }
    }
    firewall.remove().expect("removal");
    if !its.is_empty() {
        let (its, ours) = (median(its).as_secs_f64() * 1e6, median(ours).as_secs_f64() * 1e6);
        println!("{name:<44} {its:>9.1} {ours:>9.1} {:>6.0}x", its / ours);
    }
}

/// How often the change is made by us for each time that a program makes it.
const OURS_TO_ONE: u32 = 10;

/// Several grace periods of RCU.
const PAUSE: Duration = Duration::from_millis(50);

/// The older system's rules for a plan of 8 slots: one for each slot and port.
fn iptables_rules(plan: &Plan) -> Vec<String> {
    let of_slot = |slot| {
        let occupant = plan.occupant(plan.assignment().seat_of(Slot(slot)));
        let workers = &occupant.expect("every seat is held").ports;
        let ports = plan.listeners().public_ports().iter().zip(workers.iter());
        ports.map(move |(public, worker)| {
            format!(
                "PREROUTING -p tcp -s 0.0.0.{slot}/0.0.0.7 -d 10.9.0.1 --dport {public} \
                 -j REDIRECT --to-ports {worker}"
            )
        })
    };
    (0..8).flat_map(of_slot).collect()
}

/// One call for each rule, as the older system did it, less its sudo. `-D` finds a rule by the same
/// words. (There it looked for the old rules in what `iptables -L` prints, which it can no longer
/// read, and deleted none.)
fn iptables(program: &str, verb: &str, rules: &[String]) -> bool {
    rules.iter().all(|rule| {
        let arguments: Vec<&str> = ["-t", "nat", verb].into_iter().chain(rule.split(' ')).collect();
        run(program, &arguments, "")
    })
}

fn run(program: &str, arguments: &[&str], input: &str) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let fed = child.stdin.take().is_none_or(|mut stdin| stdin.write_all(input.as_bytes()).is_ok());
    child.wait().is_ok_and(|status| status.success() && fed)
}
