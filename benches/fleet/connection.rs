//! A connection and what it carries: to a host by its own cluster alone, with the rules of a fleet before that, and
//! by another host that passes its packets on.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::{Ask, Load, Namespace, Network, Pace, greeter};
use ipcluster::nft::Firewall;
use ipcluster::plan::fleet::MemberState;
use ipcluster::plan::{
    Engine, Generation, Listeners, Occupant, Partition, Plan, Port, Seat, Weights,
};

use super::busy::{Use, Watch};
use super::{SERVICE, fleet, ip, load, mac, quartile, rules};

/// The argument by which this program is a worker.
pub(super) const WORKER: &str = "worker-of-the-bench";

const WORKERS: u16 = 4;
const FIRST_PORT: u16 = 20_000;

/// Where the receiver of uploads listens: the fleet passes it on as it passes the service on.
const BULK_PORT: u16 = 81;

/// Connections a second where their cost is measured.
const RATE: f64 = 2000.0;

/// How long each thing is measured for at one time, and how long all is.
const WINDOW: Duration = Duration::from_millis(60);
const BUDGET: Duration = Duration::from_secs(40);

const PATIENCE: Duration = Duration::from_secs(10);

/// How clients come to their host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The host has no rules of a fleet.
    Direct,
    /// It has, and the router gives the packets to the owner.
    Local,
    /// The router gives them to another host.
    Hop,
}

impl Way {
    const ALL: [Self; 3] = [Self::Direct, Self::Local, Self::Hop];

    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "the host's own cluster, no fleet",
            Self::Local => "a fleet, the owner itself",
            Self::Hop => "a fleet, one hop",
        }
    }
}

/// A router, which is where the clients are, and two hosts.
struct Place {
    network: Network,
    _hosts: [Namespace; 2],
    _firewall: Firewall,
    _workers: Vec<Worker>,
    received: Arc<AtomicU64>,
}

impl Place {
    fn build(way: Way, engine: Engine) -> Self {
        let network = Network::new().expect("a network");
        let hosts = [Namespace::new(), Namespace::new()].map(|host| host.expect("a namespace"));
        let router = network.client();
        let prepare = || {
            ip("link add fleet type bridge");
            ip("address add 10.7.0.254/16 dev fleet");
            ip("link set fleet up");
        };
        router.run_in(prepare).expect("the router");
        for (nth, host) in (1..=2).zip(&hosts) {
            join(router, host, nth);
        }
        let to = if way == Way::Hop { 1 } else { 2 };
        router
            .run_in(|| ip(&format!("route add {SERVICE}/32 via 10.7.0.{to}")))
            .expect("the router");
        if way != Way::Direct {
            // The first one drains, so the second one owns all.
            let fleet = fleet(1024, 2, MemberState::Draining);
            for (nth, host) in (1..=2).zip(&hosts) {
                let text = rules(&fleet, &format!("m{nth}"), "eth0", engine);
                let both =
                    text.replace("tcp dport 80", &format!("tcp dport {{ 80, {BULK_PORT} }}"));
                host.run_in(|| load(&both)).expect("the host");
            }
        }
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let begin = || {
            let workers = (0..WORKERS).map(|seat| Worker::start(engine, seat)).collect();
            let plan = plan(engine);
            let mut firewall = Firewall::open(plan.name()).expect("a netlink socket");
            firewall.apply(&plan).expect("the plan in force");
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, BULK_PORT)).expect("a socket");
            (workers, firewall, listener)
        };
        let (workers, firewall, listener) = hosts[1].run_in(begin).expect("the host");
        thread::spawn(move || receive_all(&listener, &counter));
        Self { network, _hosts: hosts, _firewall: firewall, _workers: workers, received }
    }

    fn clients(&self) -> &Namespace {
        self.network.client()
    }

    /// Short connections at a rate: how many there were, and what they took.
    fn short(&self, watch: &Watch, window: Duration) -> (f64, Use) {
        let service = SocketAddr::new(SERVICE.parse().expect("an address"), 80);
        let load = Load::to([service]).from(Network::clients_v4(2000)).ask(Ask::Nothing);
        let load = load.pace(Pace::Rate(RATE)).time_out(PATIENCE);
        let load = load.start(self.clients()).expect("a load");
        let answered = || load.counters().answered;
        wait_for(|| answered() > 0);
        thread::sleep(window / 4);
        let (first, span) = (answered(), watch.begin());
        thread::sleep(window);
        let (count, cores) = (answered() - first, span.end());
        let report = load.stop();
        assert_eq!(report.failed(), 0, "{report}");
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        (count as f64, cores)
    }

    /// An upload: its bytes, and what they took.
    fn bulk(&self, watch: &Watch, window: Duration) -> (f64, Use) {
        let to = SocketAddr::new(SERVICE.parse().expect("an address"), BULK_PORT);
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, before) = (Arc::clone(&is_over), self.received());
        let send = move || {
            let Ok(mut stream) = TcpStream::connect(to) else { return };
            let chunk = vec![0u8; 256 * 1024];
            while !over.load(Ordering::Relaxed) && stream.write_all(&chunk).is_ok() {}
        };
        let sending = self.clients().spawn("upload", send).expect("a thread");
        wait_for(|| self.received() > before);
        // Windows and buffers grow.
        thread::sleep(window / 2);
        let (first, span) = (self.received(), watch.begin());
        thread::sleep(window);
        let (bytes, cores) = (self.received() - first, span.end());
        is_over.store(true, Ordering::Relaxed);
        sending.join().expect("the upload");
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        (bytes as f64, cores)
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "nothing comes");
        thread::yield_now();
    }
}

/// Joins a host to the router's bridge.
fn join(router: &Namespace, host: &Namespace, nth: u8) {
    // `ip` knows a namespace by a process in it.
    let sleep = || Command::new("sleep").arg("60").spawn();
    let mut holder = host.run_in(sleep).expect("the host").expect("the program sleep");
    let make = || {
        let (pid, mac) = (holder.id(), mac(nth));
        ip(&format!("link add host{nth} type veth peer name eth0 address {mac} netns {pid}"));
        ip(&format!("link set host{nth} master fleet up"));
    };
    router.run_in(make).expect("the router");
    let prepare = || {
        ip(&format!("address add {SERVICE}/32 dev lo"));
        ip(&format!("address add 10.7.0.{nth}/16 dev eth0"));
        ip("link set eth0 up");
        ip("route add 10.8.0.0/16 via 10.7.0.254");
        let other = 3 - nth;
        let mac = mac(other);
        ip(&format!("neigh add 10.7.0.{other} lladdr {mac} dev eth0 nud permanent"));
    };
    host.run_in(prepare).expect("the host");
    // It has been of use.
    let _ = holder.kill();
    let _ = holder.wait();
}

fn receive_all(listener: &TcpListener, received: &AtomicU64) {
    let mut chunk = vec![0; 256 * 1024];
    while let Ok((mut stream, _)) = listener.accept() {
        while let Ok(length @ 1..) = stream.read(&mut chunk) {
            received.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}

/// A plan with a worker in every seat.
fn plan(engine: Engine) -> Plan {
    let listener = format!("{SERVICE}:80").parse().expect("a listener");
    let mut plan = Plan::new(
        "bench".parse().expect("a name"),
        Listeners::new(vec![listener]).expect("a listener"),
        Partition::hash(1024).expect("a number of slots"),
        &Weights::equal(WORKERS.into()).expect("a number of workers"),
        None,
    )
    .expect("a plan");
    plan.set_engine(engine).expect("no worker yet");
    let occupant = |seat: u16| {
        let port = Port::new(FIRST_PORT + seat).expect("a port");
        (Seat(seat), Occupant::new(Generation::FIRST, [port]))
    };
    plan.occupy_all((0..WORKERS).map(occupant)).expect("ports of nobody else");
    plan
}

/// The process of a worker. It ends with this value.
struct Worker(Child);

impl Worker {
    fn start(engine: Engine, seat: u16) -> Self {
        let port = FIRST_PORT + seat;
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.arg(WORKER).stdin(Stdio::null());
        command.env("PORT", port.to_string()).env("IPCLUSTER_SEAT", seat.to_string());
        command.env("GREETER_SPEAK", "first");
        let transparent = if engine == Engine::Tproxy { "yes" } else { "no" };
        command.env("GREETER_TRANSPARENT", transparent);
        let worker = Self(command.spawn().expect("this program as a worker"));
        wait_for(|| TcpStream::connect((IpAddr::from(Ipv4Addr::LOCALHOST), port)).is_ok());
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
pub(super) fn run_worker() -> Option<ExitCode> {
    (std::env::args().nth(1)? == WORKER).then(greeter::main)
}

/// Measures all ways in turn, and prints the table.
pub(super) fn measure(watch: &Watch, is_bench: bool) {
    println!(
        "\n| clients come by | engine | CPU per connection, us | to no fleet | GB/s up | CPU per GiB, s | to no fleet |"
    );
    println!("|---|---|---|---|---|---|---|");
    for engine in [Engine::Redirect, Engine::Tproxy] {
        let places: Vec<Place> = Way::ALL.iter().map(|way| Place::build(*way, engine)).collect();
        let window = if is_bench { WINDOW } else { WINDOW / 4 };
        let (mut connections, mut speeds, mut gibibytes) =
            ([(); 3].map(|()| vec![]), [(); 3].map(|()| vec![]), [(); 3].map(|()| vec![]));
        let begun = Instant::now();
        let mut round = 0;
        while round == 0 || is_bench && begun.elapsed() < BUDGET / 2 {
            let span = watch.begin();
            thread::sleep(window);
            let nothing = span.end();
            let other = nothing.seconds_beyond(0.0) / nothing.elapsed.as_secs_f64();
            for place in 0..places.len() {
                let place = (place + round) % places.len();
                let (count, cores) = places[place].short(watch, window);
                connections[place].push(cores.seconds_beyond(other) * 1e6 / count);
                let (bytes, cores) = places[place].bulk(watch, window);
                speeds[place].push(bytes / 1e9 / cores.elapsed.as_secs_f64());
                gibibytes[place].push(cores.seconds_beyond(other) / (bytes / f64::from(1 << 30)));
            }
            round += 1;
        }
        for (place, way) in Way::ALL.into_iter().enumerate() {
            let ratio = |values: &[Vec<f64>; 3]| {
                let pairs = values[place].iter().zip(&values[0]);
                quartile(pairs.map(|(its, direct)| its / direct).collect(), 2)
            };
            let median = |values: &[Vec<f64>; 3]| quartile(values[place].clone(), 2);
            println!(
                "| {} | {engine} | {:.1} | {:.2} | {:.2} | {:.3} | {:.2} |",
                way.name(),
                median(&connections),
                ratio(&connections),
                median(&speeds),
                median(&gibibytes),
                ratio(&gibibytes)
            );
        }
    }
}
