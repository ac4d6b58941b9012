//! Counting the connections of workers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::counted::{Counted, CountedWorkers};
use super::handshakes::{Handshake, Handshakes};
use crate::netlink::Errno;
use crate::nft::{Conntrack, ConntrackError};
use crate::plan::{Engine, Plan, Port, Protocol};
use crate::process::{
    self, Connection, ConnectionState, OwnConnections, PeerConnection, ProcessError, Silence,
    SocketOwners,
};
use crate::protocol::WorkerId;
use crate::supervisor::Sockets;

/// Counts the sockets of workers, without connections of the master that wait to be accepted: about a
/// millisecond, and with [`Engine::Tproxy`] one more for each
/// thousand descriptors that they have.
pub(crate) fn count_sockets(
    sockets: &mut process::Sockets,
    workers: &CountedWorkers,
    plan: &Plan,
    own: &OwnConnections,
    handshakes: &mut Handshakes,
) -> Result<CountedSockets, ProcessError> {
    let ports: BTreeSet<u16> = numbers(workers.values().map(|worker| &worker.ports)).collect();
    let (Some(first), Some(last)) = (ports.first(), ports.last()) else {
        return Ok(CountedSockets::default());
    };
    let mut queued: BTreeMap<u16, u32> = BTreeMap::new();
    for socket in sockets.listeners(*first..=*last)? {
        *queued.entry(socket.port).or_default() += socket.queued;
    }
    let public = || plan.listeners().services(Protocol::Tcp).iter().map(|it| it.port.number());
    let connections = match plan.engine() {
        Engine::Redirect => sockets.connections(&ports)?,
        Engine::Tproxy => sockets.connections(&public().collect())?,
    };
    let mut counts = match plan.engine() {
        Engine::Redirect => count_by_port(&connections, workers),
        Engine::Tproxy => count_by_owner(&connections, workers, plan, handshakes)?,
    };
    // Nobody waits there: a worker that ends meanwhile need not be replaced for them.
    let own = own.queued(sockets, &ports)?;
    for (worker, count) in &mut counts {
        let ports = workers.get(worker).map(|worker| &worker.ports);
        let sum = |of: &dyn Fn(&u16) -> Option<u32>| {
            numbers(ports).filter_map(|number| of(&number)).fold(0u32, u32::saturating_add)
        };
        let of_ours = sum(&|number| own.get(number).copied());
        count.queued = sum(&|number| queued.get(number).copied()).saturating_sub(of_ours);
        if plan.engine() == Engine::Redirect {
            count.established = count.established.saturating_sub(of_ours);
        }
        if plan.engine() == Engine::Tproxy {
            count.established += count.queued;
        }
    }
    Ok(CountedSockets { by_worker: counts, connections })
}

/// The sockets of workers, and the connections that were looked at.
#[derive(Debug, Default)]
pub(crate) struct CountedSockets {
    pub(crate) by_worker: BTreeMap<WorkerId, Sockets>,
    pub(crate) connections: Vec<Connection>,
}

/// Connections have the worker port that they were redirected to.
fn count_by_port(
    connections: &[Connection],
    workers: &CountedWorkers,
) -> BTreeMap<WorkerId, Sockets> {
    let mut by_port: HashMap<u16, Sockets> = HashMap::new();
    for connection in connections {
        let of_port = by_port.entry(connection.port).or_default();
        match connection.state {
            ConnectionState::HalfOpen { .. } => of_port.half_open += 1,
            ConnectionState::Queued | ConnectionState::Accepted { .. } => of_port.established += 1,
        }
    }
    let count = |worker: &Counted| {
        numbers([&worker.ports]).filter_map(|number| by_port.get(&number)).fold(
            Sockets::default(),
            |sum, of_port| Sockets {
                half_open: sum.half_open + of_port.half_open,
                established: sum.established + of_port.established,
                ..sum
            },
        )
    };
    workers.iter().map(|(worker, counted)| (*worker, count(counted))).collect()
}

/// Connections have the public port. Who has accepted one has its socket open.
fn count_by_owner(
    connections: &[Connection],
    workers: &CountedWorkers,
    plan: &Plan,
    handshakes: &mut Handshakes,
) -> Result<BTreeMap<WorkerId, Sockets>, ProcessError> {
    let Owners { of, unseen } = Owners::read(workers)?;
    let mut counts = attribute(connections, &of, workers);
    let under_way = connections.iter().filter_map(|it| match it.state {
        ConnectionState::HalfOpen { retransmits, cookie } => {
            Some(Handshake { peer: it.peer, retransmits, cookie })
        }
        _ => None,
    });
    let under_way: Vec<Handshake> = under_way.collect();
    for (worker, count) in handshakes.count(&under_way, workers, plan) {
        if let Some(counts) = counts.get_mut(&worker) {
            counts.half_open = count;
        }
    }
    attribute_unseen(connections, &of, &unseen, &mut counts);
    Ok(counts)
}

/// Which worker has which sockets.
#[derive(Debug, Default)]
struct Owners {
    /// The worker that has each socket open, by the socket's inode.
    of: HashMap<u32, WorkerId>,
    /// Workers whose processes may not be looked at.
    unseen: Vec<WorkerId>,
}

impl Owners {
    fn read(workers: &CountedWorkers) -> Result<Self, ProcessError> {
        let (processes, mut owners) = (SocketOwners::read()?, Self::default());
        for (worker, counted) in workers {
            let Some(session) = counted.session else { continue };
            match processes.inodes_of(session) {
                Ok(inodes) => owners.of.extend(inodes.into_iter().map(|inode| (inode, *worker))),
                // The others have nothing to do with it.
                Err(error) if error.errno() == Some(Errno::EACCES) => {
                    tracing::debug!(%worker, %error, "cannot read whose connections are whose");
                    owners.unseen.push(*worker);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(owners)
    }
}

/// Counts the connections that no process has which may be looked at for each worker that may not: it is
/// not taken for one that has none. Pure.
fn attribute_unseen(
    connections: &[Connection],
    owner_of: &HashMap<u32, WorkerId>,
    unseen: &[WorkerId],
    counts: &mut BTreeMap<WorkerId, Sockets>,
) {
    let is_unowned = |it: &&Connection| matches!(it.state, ConnectionState::Accepted { inode } if !owner_of.contains_key(&inode));
    let unowned = connections.iter().filter(is_unowned).count();
    for worker in unseen {
        if let Some(count) = counts.get_mut(worker) {
            count.established += u32::try_from(unowned).unwrap_or(u32::MAX);
        }
    }
}

/// Whose connections these are that a process has. Pure.
fn attribute(
    connections: &[Connection],
    owner_of: &HashMap<u32, WorkerId>,
    workers: &CountedWorkers,
) -> BTreeMap<WorkerId, Sockets> {
    let none = |worker: &WorkerId| (*worker, Sockets::default());
    let mut counts: BTreeMap<WorkerId, Sockets> = workers.keys().map(none).collect();
    for Connection { state, .. } in connections {
        // Those in a queue are counted by that of their listening socket.
        let ConnectionState::Accepted { inode } = state else { continue };
        let owner = owner_of.get(inode).and_then(|worker| counts.get_mut(worker));
        if let Some(count) = owner {
            count.established += 1;
        }
    }
    counts
}

/// The worker port to which a connection with this local port belongs, if that is of `plan`.
pub(crate) fn worker_port_of(plan: &Plan, local: u16, peer: SocketAddr) -> Option<u16> {
    match plan.engine() {
        Engine::Redirect => Some(local),
        Engine::Tproxy => {
            let public = plan.listeners().public_ports();
            let place = public.iter().position(|port| port.number() == local)?;
            let route = plan.worker_for_connection(peer)?;
            Some(route.occupant.ports.get(place)?.number())
        }
    }
}

/// The local ports of the connections that belong to these worker ports.
pub(crate) fn local_ports_of(plan: &Plan, worker_ports: BTreeSet<u16>) -> BTreeSet<u16> {
    match plan.engine() {
        Engine::Redirect => worker_ports,
        Engine::Tproxy => plan.listeners().public_ports().iter().map(|it| it.number()).collect(),
    }
}

/// The connections to be counted, and the ports whose clients are to be let go.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Retired workers.
    pub(crate) retired: CountedWorkers,
    /// The retired workers that are settled: no handshake leads to them any more.
    pub(crate) settled: BTreeSet<WorkerId>,
    /// Ports of workers whose process has ended, with nobody behind them.
    pub(crate) gone: Vec<Arc<[Port]>>,
    /// The plan in force.
    pub(crate) plan: Plan,
    /// It is looked which connections have been silent for so long.
    pub(crate) idle: Option<Duration>,
    /// It is looked which connections conntrack has no entry of any more.
    pub(crate) entries: bool,
    /// The connections that the master has made itself.
    pub(crate) own: Arc<OwnConnections>,
    /// What is known of handshakes since the count before.
    pub(crate) handshakes: Arc<Mutex<Handshakes>>,
}

/// Why it is not known how many connections there are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountError {
    #[error(transparent)]
    Sockets(#[from] ProcessError),
    #[error("cannot list conntrack entries: {0}")]
    Conntrack(#[from] ConntrackError),
}

/// Counts the sockets of retired workers, and what conntrack alone knows of:
/// * of those that are gone or not settled, the entries that lead new handshakes to them, which are
///   released;
/// * of those that seem to have no connection, the connections of which a client will send its SYN or
///   its data again.
///
/// Reading conntrack takes the kernel tens of milliseconds, a second where it is full: not for the
/// loop. A worker that is settled and has connections costs nothing of it.
///
/// # Errors
/// [`CountError`]: nothing is known then. Taking the unseen for nobody would close a listener on
/// clients whose handshake is under way.
pub(crate) fn count_all(wanted: &Wanted) -> Result<BTreeMap<WorkerId, Sockets>, CountError> {
    let Wanted { retired, plan, own, .. } = wanted;
    let mut known = snapshot(&wanted.handshakes);
    let mut sockets =
        count_sockets(&mut process::Sockets::open()?, retired, plan, own, &mut known)?.by_worker;
    *wanted.handshakes.lock().unwrap_or_else(PoisonError::into_inner) = known;
    if let Some(limit) = wanted.idle {
        count_active(wanted, limit, &mut sockets)?;
    }
    if wanted.plan.engine() == Engine::Tproxy {
        // Nothing is translated, so conntrack leads nobody anywhere.
        return Ok(sockets);
    }
    if wanted.entries {
        count_stranded(wanted, &mut sockets)?;
    }
    let is_idle = |sockets: &Sockets| sockets.all_accepted() && sockets.established == 0;
    let retired = || wanted.retired.iter();
    let looked_at = |worker: &WorkerId| {
        !wanted.settled.contains(worker) || sockets.get(worker).is_some_and(is_idle)
    };
    let unsure = retired().filter(|(worker, _)| looked_at(worker)).map(|(_, worker)| &worker.ports);
    let ports: BTreeSet<u16> = numbers(unsure.chain(&wanted.gone)).collect();
    if ports.is_empty() {
        return Ok(sockets);
    }
    let entries = Conntrack::open()?.release(&ports)?;
    let of = |ports| numbers([ports]).filter_map(|number| entries.get(&number));
    for (worker, Counted { ports, .. }) in retired() {
        let Some(sockets) = sockets.get_mut(worker) else { continue };
        let is_idle = is_idle(sockets);
        for entries in of(ports) {
            sockets.bound += entries.bound;
            if is_idle {
                sockets.half_open += entries.half_open;
                sockets.remembered += entries.established;
            }
        }
    }
    Ok(sockets)
}

/// What is known of handshakes, to look at them once more. It is no longer locked than to be copied, since the
/// loop waits for it as well.
pub(crate) fn snapshot(handshakes: &Mutex<Handshakes>) -> Handshakes {
    handshakes.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Counts, of workers that are settled and have connections, those connections that have not been silent
/// for so long.
fn count_active(
    wanted: &Wanted,
    limit: Duration,
    counts: &mut BTreeMap<WorkerId, Sockets>,
) -> Result<(), ProcessError> {
    let has_connections = |it: &Sockets| it.all_accepted() && it.established > 0;
    let is_asked = |worker: &WorkerId| {
        wanted.settled.contains(worker) && counts.get(worker).is_some_and(has_connections)
    };
    let asked: CountedWorkers = wanted
        .retired
        .iter()
        .filter(|(worker, _)| is_asked(worker))
        .map(|(worker, counted)| (*worker, counted.clone()))
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    let ports = local_ports_of(&wanted.plan, numbers(asked.values().map(|it| &it.ports)).collect());
    let silences = process::Sockets::open()?.silences(&ports)?;
    let owners = match wanted.plan.engine() {
        Engine::Redirect => Owners::default(),
        Engine::Tproxy => Owners::read(&asked)?,
    };
    // Nobody knows how long those have been silent that cannot be told apart.
    for (worker, counted) in asked.iter().filter(|(it, _)| !owners.unseen.contains(it)) {
        let is_its = |it: &&Silence| match wanted.plan.engine() {
            Engine::Redirect => numbers([&counted.ports]).any(|port| port == it.port),
            Engine::Tproxy => owners.of.get(&it.inode) == Some(worker),
        };
        let active = silences.iter().filter(is_its).filter(|it| !it.is_idle(limit)).count();
        if let Some(count) = counts.get_mut(worker) {
            count.active = Some(u32::try_from(active).unwrap_or(u32::MAX));
        }
    }
    Ok(())
}

/// Counts, of workers that are settled and have connections, those connections that conntrack has no entry of:
/// it has expired, or somebody has deleted it. What the client sends goes to the worker that the rules name,
/// which knows of no such connection, and what this worker sends goes out with its worker port.
fn count_stranded(
    wanted: &Wanted,
    counts: &mut BTreeMap<WorkerId, Sockets>,
) -> Result<(), CountError> {
    let asked: Vec<(&WorkerId, &Counted)> = wanted
        .retired
        .iter()
        .filter(|(worker, _)| wanted.settled.contains(worker))
        .filter(|(worker, _)| counts.get(worker).is_some_and(|it| it.established > 0))
        .collect();
    let ports: BTreeSet<u16> = numbers(asked.iter().map(|(_, it)| &it.ports)).collect();
    if ports.is_empty() {
        return Ok(());
    }
    // First the entries: a connection that has a socket afterwards had one then.
    let tracked = Conntrack::open()?.clients(&ports)?;
    let connections = process::Sockets::open()?.peers(&ports)?;
    for (worker, counted) in asked {
        let of_worker = |it: &&PeerConnection| {
            it.accepted && numbers([&counted.ports]).any(|port| port == it.port)
        };
        let is_stranded = |it: &&PeerConnection| {
            // What begins on this host need not be tracked to arrive.
            let is_local = it.peer.ip().is_loopback();
            let is_tracked = tracked.get(&it.port).is_some_and(|all| all.contains(&it.peer));
            !is_local && !is_tracked
        };
        let stranded = connections.iter().filter(of_worker).filter(is_stranded).count();
        if let Some(count) = counts.get_mut(worker) {
            count.stranded = Some(u32::try_from(stranded).unwrap_or(u32::MAX));
        }
    }
    Ok(())
}

fn numbers<'a>(ports: impl IntoIterator<Item = &'a Arc<[Port]>>) -> impl Iterator<Item = u16> {
    ports.into_iter().flat_map(|ports| ports.iter()).map(|port| port.number())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::plan::{Generation, Listeners, Occupant, Partition, Seat, Weights};

    const SECOND: Duration = Duration::from_secs(1);

    pub(in super::super) fn ports(number: u16) -> Arc<[Port]> {
        Port::new(number).into_iter().collect()
    }

    /// Two seats, in each a worker of generation 2.
    pub(in super::super) fn plan() -> Plan {
        let listeners = Listeners::new(vec!["0.0.0.0:80".parse().unwrap()]).unwrap();
        let (partition, weights) = (Partition::hash(64).unwrap(), Weights::equal(2).unwrap());
        let name = "web".parse().unwrap();
        let mut plan = Plan::new(name, listeners, partition, &weights, None).unwrap();
        for seat in 0..2 {
            let occupant = Occupant { generation: Generation(2), ports: ports(20_010 + seat) };
            plan.occupy(Seat(seat), occupant).unwrap();
        }
        plan.set_engine(Engine::Tproxy).unwrap();
        plan
    }

    fn worker(number: u64, port: u16, left_for: Option<Duration>) -> (WorkerId, Counted) {
        (WorkerId(number), Counted { ports: ports(port), session: Some(1), left_for })
    }

    fn from(client: &str, state: ConnectionState) -> Connection {
        Connection { port: 80, peer: SocketAddr::new(client.parse().unwrap(), 40_000), state }
    }

    #[test]
    fn who_has_accepted_a_connection_has_it_whoever_would_get_it_now() {
        let workers: CountedWorkers =
            [worker(1, 20_000, Some(SECOND)), worker(2, 20_010, None)].into();
        let owner_of = HashMap::from([(7, WorkerId(1)), (8, WorkerId(2)), (9, WorkerId(3))]);
        let accepted = |inode| from("10.8.0.1", ConnectionState::Accepted { inode });
        let all = [accepted(7), accepted(8), accepted(8), accepted(9), accepted(10)];
        let counts = attribute(&all, &owner_of, &workers);
        let established: Vec<u32> = counts.values().map(|count| count.established).collect();
        assert_eq!(established, [1, 2]);
        let queued = [from("10.8.0.1", ConnectionState::Queued)];
        let counts = attribute(&queued, &owner_of, &workers);
        assert!(counts.values().all(|count| *count == Sockets::default()));
    }

    #[test]
    fn what_nobody_is_seen_to_have_is_that_of_those_who_cannot_be_looked_at() {
        let workers: CountedWorkers =
            [worker(1, 20_000, Some(SECOND)), worker(2, 20_010, None)].into();
        let owner_of = HashMap::from([(7, WorkerId(1))]);
        let accepted = |inode| from("10.8.0.1", ConnectionState::Accepted { inode });
        let all = [accepted(7), accepted(8), from("10.8.0.1", ConnectionState::Queued)];
        let mut counts = attribute(&all, &owner_of, &workers);
        attribute_unseen(&all, &owner_of, &[WorkerId(2)], &mut counts);
        let established: Vec<u32> = counts.values().map(|count| count.established).collect();
        assert_eq!(established, [1, 1]);
    }

    #[test]
    fn connections_belong_to_the_worker_port_that_they_were_sent_to() {
        let mut plan = plan();
        let peer: SocketAddr = "10.8.0.1:40000".parse().unwrap();
        let port = plan.worker_for(peer.ip()).unwrap().occupant.ports[0].number();
        assert_eq!(worker_port_of(&plan, 80, peer), Some(port));
        assert_eq!(worker_port_of(&plan, 81, peer), None);
        assert_eq!(local_ports_of(&plan, [port].into()), [80].into());
        plan.set_engine(Engine::Redirect).unwrap();
        assert_eq!(worker_port_of(&plan, port, peer), Some(port));
        assert_eq!(local_ports_of(&plan, [port].into()), [port].into());
    }
}
