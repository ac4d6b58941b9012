//! A network in which the workers of a plan are reached in one of three ways.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use ipcluster::internals::nft::Conntrack;
use ipcluster::lab::Network;
use ipcluster::nft::Firewall;
use ipcluster::plan::{
    Engine, Generation, Listeners, Occupant, Partition, Plan, Port, PortRange, Seat, Weights,
};

/// How many workers there are.
pub(crate) const WORKERS: u16 = 8;

const SLOTS: u32 = 1024;
const PUBLIC_PORT: u16 = 80;
const FIRST_WORKER_PORT: u16 = 20_000;

/// How connections come to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// No rules at all: each client knows the port of its worker, which is the one that the plan
    /// names.
    Straight,
    /// The same, beside a rule of somebody else that has the kernel track connections.
    Tracked,
    /// By the rules of an engine, to the public port.
    By(Engine, Extras),
}

/// What rules there are beside those that lead connections to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extras {
    /// Nobody reaches a worker port from outside.
    pub(crate) guard: bool,
    /// Clients of the same host are served.
    pub(crate) local_clients: bool,
}

impl Extras {
    /// Only what leads connections.
    const NONE: Self = Self { guard: false, local_clients: false };

    /// What a master sets by default.
    const DEFAULT: Self = Self { guard: true, local_clients: true };
}

impl Way {
    /// The first is what the others are compared with.
    pub(crate) const ALL: [Self; 3] = [
        Self::Straight,
        Self::By(Engine::Redirect, Extras::DEFAULT),
        Self::By(Engine::Tproxy, Extras::DEFAULT),
    ];

    /// What each part of the rules costs.
    pub(crate) const PARTS: [Self; 9] = [
        Self::Straight,
        Self::Tracked,
        Self::By(Engine::Redirect, Extras::NONE),
        Self::By(Engine::Redirect, Extras { local_clients: true, ..Extras::NONE }),
        Self::By(Engine::Redirect, Extras { guard: true, ..Extras::NONE }),
        Self::By(Engine::Redirect, Extras::DEFAULT),
        Self::By(Engine::Tproxy, Extras::NONE),
        Self::By(Engine::Tproxy, Extras { guard: true, ..Extras::NONE }),
        Self::By(Engine::Tproxy, Extras::DEFAULT),
    ];

    /// Whether the sockets of workers need `IP_TRANSPARENT`.
    pub(crate) fn is_transparent(self) -> bool {
        matches!(self, Self::By(Engine::Tproxy, _))
    }

    /// Its name in a table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Straight => "no balancer".to_owned(),
            Self::Tracked => "no balancer, tracked".to_owned(),
            Self::By(engine, Extras { guard, local_clients }) => {
                let guard = if guard { ", guard" } else { "" };
                let local_clients = if local_clients { ", local clients" } else { "" };
                format!("{engine}{guard}{local_clients}")
            }
        }
    }
}

/// A network of its own, and the rules in it, for as long as this value lives.
pub(crate) struct Stage {
    pub(crate) way: Way,
    pub(crate) network: Network,
    /// The table is its own: it goes with the socket and the namespace.
    _firewall: Option<Firewall>,
}

impl Stage {
    /// Makes the network, has `start` start the workers, and puts the rules in force.
    pub(crate) fn build<T>(way: Way, start: impl FnOnce(&Network) -> T) -> (Self, T) {
        let network = Network::new().expect("a network");
        let workers = start(&network);
        let put_in_force = |engine, extras| {
            let plan = plan(engine, extras);
            let mut firewall = Firewall::open(plan.name()).expect("a netlink socket");
            firewall.apply(&plan).expect("the plan in force");
            firewall
        };
        let firewall = match way {
            Way::Straight => None,
            Way::Tracked => {
                network.server().run_in(track).expect("the server's namespace");
                None
            }
            Way::By(engine, extras) => {
                Some(network.server().run_in(|| put_in_force(engine, extras)))
            }
        };
        let firewall = firewall.transpose().expect("the server's namespace");
        (Self { way, network, _firewall: firewall }, workers)
    }

    /// Where clients connect to: for the straight way a port of each seat, in order.
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        match self.way {
            Way::Straight | Way::Tracked => {
                (0..WORKERS).map(|seat| Network::server_v4(port_of(seat))).collect()
            }
            Way::By(..) => vec![Network::server_v4(PUBLIC_PORT)],
        }
    }

    /// How many connections the kernel tracks in the server's namespace.
    pub(crate) fn tracked(&self) -> u32 {
        let count = || Conntrack::open().and_then(|mut table| table.usage());
        let usage = self.network.server().run_in(count).expect("the server's namespace");
        usage.expect("the number of entries").map_or(0, |usage| usage.entries)
    }
}

/// The port of the worker in a seat.
pub(crate) fn port_of(seat: u16) -> u16 {
    FIRST_WORKER_PORT + seat
}

/// The seats of the clients that [`clients`] gives, by the plan.
pub(crate) fn seats(clients: &[IpAddr]) -> BTreeMap<IpAddr, u16> {
    let plan = plan(Engine::default(), Extras::DEFAULT);
    clients.iter().map(|client| (*client, seat_of(&plan, *client))).collect()
}

/// So many clients of each seat, in turn: the first of seat 0, the first of seat 1 and so on. Hence
/// whoever goes through both them and the [targets](Stage::targets) of the straight way in turn
/// sends each client to the worker that the plan names.
pub(crate) fn clients(of_each: usize) -> Vec<IpAddr> {
    let plan = plan(Engine::default(), Extras::DEFAULT);
    let mut by_seat = vec![vec![]; usize::from(WORKERS)];
    for client in Network::clients_v4(u16::MAX) {
        by_seat[usize::from(seat_of(&plan, client))].push(client);
    }
    (0..of_each).flat_map(|place| by_seat.iter().map(move |clients| clients[place])).collect()
}

fn seat_of(plan: &Plan, client: IpAddr) -> u16 {
    plan.worker_for(client).expect("every seat is held").seat.0
}

/// Has connections tracked in the namespace of this thread, as a firewall does.
fn track() {
    let mut nft = Command::new("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("the program nft");
    let rules = "table inet tracking {
        chain prerouting { type filter hook prerouting priority 0; ct state invalid; }
}
";
    let mut input = nft.stdin.take().expect("its input");
    input.write_all(rules.as_bytes()).expect("a program that reads");
    drop(input);
    assert!(nft.wait().expect("a child").success(), "nft refused {rules}");
}

/// A plan with a worker in every seat.
fn plan(engine: Engine, Extras { guard, local_clients }: Extras) -> Plan {
    let listener = Network::server_v4(PUBLIC_PORT).to_string().parse().expect("a listener");
    let mut plan = Plan::new(
        "bench".parse().expect("a name"),
        Listeners::new(vec![listener]).expect("a listener"),
        Partition::hash(SLOTS).expect("a number of slots"),
        &Weights::equal(WORKERS.into()).expect("a number of workers"),
        None,
    )
    .expect("a plan");
    plan.set_engine(engine).expect("no worker yet");
    plan.set_guard(guard.then(PortRange::default)).expect("no public port in it");
    plan.set_local_clients(local_clients);
    let occupant = |seat: u16| {
        let port = Port::new(port_of(seat)).expect("a port");
        (Seat(seat), Occupant::new(Generation::FIRST, [port]))
    };
    plan.occupy_all((0..WORKERS).map(occupant)).expect("ports of nobody else");
    plan
}
