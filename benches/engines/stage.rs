//! A network in which the workers of a plan are reached in one of three ways.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

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
    /// By the rules of an engine, to the public port.
    By(Engine),
}

impl Way {
    /// The first is what the others are compared with.
    pub(crate) const ALL: [Self; 3] =
        [Self::Straight, Self::By(Engine::Redirect), Self::By(Engine::Tproxy)];

    /// Whether the sockets of workers need `IP_TRANSPARENT`.
    pub(crate) fn is_transparent(self) -> bool {
        self == Self::By(Engine::Tproxy)
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
        let put_in_force = |engine| {
            let plan = plan(engine);
            let mut firewall = Firewall::open(plan.name()).expect("a netlink socket");
            firewall.apply(&plan).expect("the plan in force");
            firewall
        };
        let firewall = match way {
            Way::Straight => None,
            Way::By(engine) => Some(network.server().run_in(|| put_in_force(engine))),
        };
        let firewall = firewall.transpose().expect("the server's namespace");
        (Self { way, network, _firewall: firewall }, workers)
    }

    /// Where clients connect to: for the straight way a port of each seat, in order.
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        match self.way {
            Way::Straight => (0..WORKERS).map(|seat| Network::server_v4(port_of(seat))).collect(),
            Way::By(_) => vec![Network::server_v4(PUBLIC_PORT)],
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
    let plan = plan(Engine::default());
    clients.iter().map(|client| (*client, seat_of(&plan, *client))).collect()
}

/// So many clients of each seat, in turn: the first of seat 0, the first of seat 1 and so on. Hence
/// whoever goes through both them and the [targets](Stage::targets) of the straight way in turn
/// sends each client to the worker that the plan names.
pub(crate) fn clients(of_each: usize) -> Vec<IpAddr> {
    let plan = plan(Engine::default());
    let mut by_seat = vec![vec![]; usize::from(WORKERS)];
    for client in Network::clients_v4(u16::MAX) {
        by_seat[usize::from(seat_of(&plan, client))].push(client);
    }
    (0..of_each).flat_map(|place| by_seat.iter().map(move |clients| clients[place])).collect()
}

fn seat_of(plan: &Plan, client: IpAddr) -> u16 {
    plan.worker_for(client).expect("every seat is held").seat.0
}

/// A plan with a worker in every seat, and the guard that a master sets by default.
fn plan(engine: Engine) -> Plan {
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
    plan.set_guard(Some(PortRange::default())).expect("no public port in it");
    let occupant = |seat: u16| {
        let port = Port::new(port_of(seat)).expect("a port");
        (Seat(seat), Occupant::new(Generation::FIRST, [port]))
    };
    plan.occupy_all((0..WORKERS).map(occupant)).expect("ports of nobody else");
    plan
}
