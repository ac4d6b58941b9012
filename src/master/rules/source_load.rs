//! Whether one address has most of the connections of a seat: a proxy on this host, a load balancer or NAT in
//! front of it makes all its clients one, and all of them reach one worker, while the others have nothing to do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::waiting::{QUIET_INTERVAL, next_multiple, receive};
use crate::plan::{Engine, HashInput, Plan, Port, Protocol, Seat};
use crate::process::{Connection, ConnectionState, ProcessError, Sockets};
use crate::protocol::{Event, Finding, FindingKind, FindingSeverity, Timestamp};

/// How often connections are counted by their source, beside the counts for those who ask for the status.
const INTERVAL: Duration = QUIET_INTERVAL.saturating_mul(48);

/// A seat with fewer connections than this is left alone: a browser alone opens six to each host, and who tries
/// the cluster out by hand uses one address.
const LEAST: u32 = 64;

/// A source that was found is no more named when it has less than this many percent, or the seat less than
/// half of [`LEAST`]: at the limit it would come and go.
const RELIEVED: u32 = 40;

/// The most that are named. Behind more proxies than this clients are spread well enough.
const MOST: usize = 8;

/// A source that has many of the connections of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceLoad {
    seat: Seat,
    /// An IPv4 address, or the first of a /64: what the plan takes for one client.
    source: IpAddr,
    connections: u32,
    /// All connections of the seat.
    of: u32,
}

/// The source that has the most connections of each seat that has some of note. Only those that a process
/// has are counted: what waits in the queue of a worker that accepts nobody can be the master's own probes.
/// Empty where nobody can be spread better, since there is one seat or connections are spread by themselves.
/// Pure.
pub(crate) fn source_loads(plan: &Plan, connections: &[Connection]) -> Vec<SourceLoad> {
    if !is_of_interest(plan) {
        return Vec::new();
    }
    let seat_of = SeatOf::new(plan);
    let mut by_seat: BTreeMap<Seat, HashMap<IpAddr, u32>> = BTreeMap::new();
    for connection in connections {
        if !matches!(connection.state, ConnectionState::Accepted { .. }) {
            continue;
        }
        let Some(seat) = seat_of.find(connection) else { continue };
        *by_seat.entry(seat).or_default().entry(source(connection.peer.ip())).or_default() += 1;
    }
    let load = |(seat, sources): (Seat, HashMap<IpAddr, u32>)| {
        let of = sources.values().fold(0u32, |sum, count| sum.saturating_add(*count));
        let most = sources.into_iter().max_by_key(|(source, count)| (*count, *source));
        most.map(|(source, connections)| SourceLoad { seat, source, connections, of })
    };
    let mut loads: Vec<SourceLoad> = by_seat.into_iter().filter_map(load).collect();
    loads.retain(SourceLoad::is_of_note);
    loads.sort_by_key(|load| (std::cmp::Reverse(load.connections), load.seat));
    loads
}

/// Reads the connections of the workers in the seats of a plan. Walks all connections of the host.
fn look(plan: &Plan) -> Result<Vec<SourceLoad>, ProcessError> {
    Ok(source_loads(plan, &Sockets::open()?.connections(&client_ports(plan))?))
}

/// The local ports of the connections of clients to the workers in the seats of a plan.
pub(super) fn client_ports(plan: &Plan) -> BTreeSet<u16> {
    match plan.engine() {
        Engine::Redirect => {
            let occupants = plan.seats().filter_map(|(_, occupant)| occupant);
            occupants.flat_map(|it| it.ports.iter().map(|port| port.number())).collect()
        }
        Engine::Tproxy => plan.listeners().public_ports().iter().map(|it| it.number()).collect(),
    }
}

fn is_of_interest(plan: &Plan) -> bool {
    plan.partition().input() == Some(HashInput::Address) && plan.survivors().nth(1).is_some()
}

/// Who is one client to a plan: see [`Partition`](crate::plan::Partition).
fn source(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

/// The seat of a connection.
enum SeatOf<'a> {
    /// By the worker port that it was translated to.
    Port(HashMap<u16, Seat>),
    /// By its client, where all have the public port.
    Client(&'a Plan, BTreeSet<u16>),
}

impl<'a> SeatOf<'a> {
    fn new(plan: &'a Plan) -> Self {
        match plan.engine() {
            Engine::Redirect => {
                let occupied = plan.seats().filter_map(|(seat, it)| Some((seat, it?)));
                let ports = occupied.flat_map(|(seat, occupant)| {
                    occupant.ports.iter().map(move |port: &Port| (port.number(), seat))
                });
                Self::Port(ports.collect())
            }
            Engine::Tproxy => {
                let services = plan.listeners().services(Protocol::Tcp).iter();
                Self::Client(plan, services.map(|it| it.port.number()).collect())
            }
        }
    }

    fn find(&self, connection: &Connection) -> Option<Seat> {
        match self {
            Self::Port(seats) => seats.get(&connection.port).copied(),
            Self::Client(plan, public) => {
                let is_public = public.contains(&connection.port);
                is_public.then(|| plan.worker_for(connection.peer.ip())).flatten().map(|it| it.seat)
            }
        }
    }
}

impl SourceLoad {
    fn is_of_note(&self) -> bool {
        self.of >= LEAST / 2 && self.has_percent(RELIEVED)
    }

    fn is_too_much(&self) -> bool {
        self.of >= LEAST && self.connections > self.of / 2
    }

    fn has_percent(&self, percent: u32) -> bool {
        u64::from(self.connections) * 100 >= u64::from(self.of) * u64::from(percent)
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.seat, self.source) == (other.seat, other.source)
    }

    fn finding(&self) -> Finding {
        let Self { seat, source, connections, of } = self;
        let source = match source {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("{v6}/64"),
        };
        let what = format!(
            "{source} has {connections} of the {of} connections of seat {seat}: all connections of an address go \
             to one worker, also those of a proxy or NAT, which makes many clients one"
        );
        let cure = "set partition = \"connection\", which spreads the connections of an address (no client \
                    keeps its worker then), or have the proxy connect from several addresses";
        Finding::new(FindingSeverity::Warning, FindingKind::OneAddress, what, cure)
    }
}

/// Tells when a source has most of the connections of a seat, and when that is over.
pub(super) struct SourceLoadMonitor {
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<Vec<SourceLoad>>,
    finished: mpsc::UnboundedReceiver<Vec<SourceLoad>>,
    due: Timestamp,
    found: Vec<SourceLoad>,
}

impl SourceLoadMonitor {
    pub(super) fn new() -> Result<Self, MasterError> {
        let (sender, finished) = mpsc::unbounded_channel();
        let (thread, due) = (BackgroundThread::new("source-loads")?, Timestamp::ZERO);
        Ok(Self { thread, sender, finished, due, found: Vec::new() })
    }

    /// When the next look is to [begin](Self::begin).
    pub(super) fn due(&self) -> Timestamp {
        self.due
    }

    /// Waits for what a look has shown.
    pub(super) async fn finished(&mut self) -> Vec<SourceLoad> {
        receive(&mut self.finished).await
    }

    /// Has the connections of the workers in this plan counted.
    pub(super) fn begin(&mut self, plan: &Plan, now: Timestamp) {
        self.due = next_multiple(now, INTERVAL);
        if !is_of_interest(plan) {
            // The loop has ended.
            let _ = self.sender.send(Vec::new());
            return;
        }
        let (plan, sender) = (plan.clone(), self.sender.clone());
        self.thread.run(move || match look(&plan) {
            Ok(loads) => {
                let _ = sender.send(loads);
            }
            Err(error) => tracing::debug!(%error, "cannot count connections by their source"),
        });
    }

    /// Takes in what a look has shown.
    pub(super) fn take_in(&mut self, loads: Vec<SourceLoad>) -> Vec<Event> {
        let before = std::mem::take(&mut self.found);
        let was_found = |load: &SourceLoad| before.iter().any(|one| one.is_same(load));
        let (mut found, others): (Vec<_>, Vec<_>) = loads.into_iter().partition(was_found);
        found.extend(others.into_iter().filter(SourceLoad::is_too_much));
        found.truncate(MOST);
        let is_gone = |one: &&SourceLoad| !found.iter().any(|load| load.is_same(one));
        let gone = before.iter().filter(is_gone).map(|one| Event::FindingGone(one.finding()));
        let new = found.iter().filter(|load| !was_found(load));
        let events = new.map(|load| Event::FindingAppeared(load.finding())).chain(gone).collect();
        self.found = found;
        events
    }

    /// What was found, for a status.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.found.iter().map(SourceLoad::finding)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::plan::{Generation, Listeners, Occupant, Partition, Weights};

    /// Two seats: their workers have the ports 20000 and 20001.
    fn plan(partition: Partition, engine: Engine) -> Plan {
        let listeners = ["0.0.0.0:80", "[::]:80"].map(|text| text.parse().unwrap());
        let listeners = Listeners::new(listeners.to_vec()).unwrap();
        let weights = Weights::equal(2).unwrap();
        let mut plan =
            Plan::new("web".parse().unwrap(), listeners, partition, &weights, None).unwrap();
        for seat in 0..2 {
            let ports = [Port::new(20_000 + seat).unwrap()];
            plan.occupy(Seat(seat), Occupant::new(Generation(1), ports)).unwrap();
        }
        plan.set_engine(engine).unwrap();
        plan
    }

    fn hash() -> Partition {
        Partition::hash(64).unwrap()
    }

    fn connections(port: u16, from: &str, count: u32) -> impl Iterator<Item = Connection> {
        let state = ConnectionState::Accepted { inode: 7 };
        let peer = SocketAddr::new(from.parse().unwrap(), 40_000);
        let one = Connection { port, peer, state };
        std::iter::repeat_n(one, count as usize)
    }

    fn load(seat: u16, source: &str, connections: u32, of: u32) -> SourceLoad {
        SourceLoad { seat: Seat(seat), source: source.parse().unwrap(), connections, of }
    }

    #[test]
    fn the_heaviest_source_of_each_seat_is_found_by_its_port_or_by_its_address() {
        let all: Vec<Connection> = connections(20_000, "10.9.0.1", 90)
            .chain(connections(20_000, "10.8.0.1", 10))
            .chain(connections(20_001, "fd09::1", 40))
            .chain(connections(20_001, "fd09::2", 40))
            .chain(connections(7, "10.9.0.1", 500))
            .collect();
        let found = source_loads(&plan(hash(), Engine::Redirect), &all);
        assert_eq!(found, [load(0, "10.9.0.1", 90, 100), load(1, "fd09::", 80, 80)]);
        let all: Vec<Connection> =
            connections(80, "10.9.0.1", 70).chain(connections(20_000, "127.0.0.1", 500)).collect();
        let plan = plan(hash(), Engine::Tproxy);
        let seat = plan.worker_for("10.9.0.1".parse().unwrap()).unwrap().seat.0;
        assert_eq!(source_loads(&plan, &all), [load(seat, "10.9.0.1", 70, 70)]);
    }

    #[test]
    fn nothing_is_said_where_nothing_could_be_better() {
        let all: Vec<Connection> = connections(20_000, "10.9.0.1", 500).collect();
        let by_connection = Partition::connection(64).unwrap();
        assert_eq!(source_loads(&plan(by_connection, Engine::Redirect), &all), []);
        let mut one_seat = plan(hash(), Engine::Redirect);
        one_seat.vacate(Seat(1)).unwrap();
        assert_eq!(source_loads(&one_seat, &all), []);
        // Nobody has accepted these: probes of the master, perhaps.
        let state = ConnectionState::Queued;
        let queued: Vec<Connection> = all.iter().map(|it| Connection { state, ..*it }).collect();
        assert_eq!(source_loads(&plan(hash(), Engine::Redirect), &queued), []);
    }

    #[test]
    fn few_connections_and_small_shares_are_not_of_note() {
        for (connections, of, is_too_much, is_of_note) in [
            (63, 63, false, true),
            (64, 64, true, true),
            (32, 64, false, true),
            (33, 64, true, true),
            (31, 31, false, false),
            (500, 1000, false, true),
            (501, 1000, true, true),
            (399, 1000, false, false),
        ] {
            let load = load(0, "10.9.0.1", connections, of);
            assert_eq!(load.is_too_much(), is_too_much, "{load:?}");
            assert_eq!(load.is_of_note(), is_of_note, "{load:?}");
        }
    }

    #[test]
    fn it_is_told_once_and_once_more_when_it_is_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut monitor = runtime.block_on(async { SourceLoadMonitor::new().unwrap() });
        let mut told = |loads: &[SourceLoad]| {
            let events = monitor.take_in(loads.to_vec());
            let appeared = |it: &Event| matches!(it, Event::FindingAppeared(_));
            let kinds: Vec<bool> = events.iter().map(appeared).collect();
            (kinds, monitor.findings().count())
        };
        let (one, other) = (load(0, "10.9.0.1", 90, 100), load(1, "10.8.0.1", 80, 100));
        assert_eq!(told(&[load(0, "10.9.0.1", 45, 100)]), (vec![], 0));
        assert_eq!(told(&[one]), (vec![true], 1));
        assert_eq!(told(&[load(0, "10.9.0.1", 45, 100)]), (vec![], 1), "it is still near");
        assert_eq!(told(&[one, other]), (vec![true], 2));
        assert_eq!(told(&[other]), (vec![false], 1));
        let many: Vec<_> = (0..20).map(|seat| load(seat, "10.7.0.1", 90, 100)).collect();
        assert_eq!(told(&many).1, MOST);
        let (said, left) = told(&[]);
        assert_eq!((said.len(), left), (MOST, 0));
    }

    #[test]
    fn it_names_the_address_the_seat_and_the_cure() {
        let said = load(3, "10.9.0.1", 90, 100).finding().to_string();
        for part in
            ["10.9.0.1 has 90 of the 100 connections of seat 3", "partition = \"connection\""]
        {
            assert!(said.contains(part), "{said}");
        }
        assert!(load(0, "fd09::", 1, 1).finding().what.starts_with("fd09::/64 has 1 of the 1"));
    }
}
