//! Counting the connections of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::nft::{Conntrack, ConntrackError};
use crate::plan::{Engine, Plan, Port, Protocol};
use crate::process::{self, Connection, ProcessError, SocketOwners, State};
use crate::supervisor::{Sockets, WorkerId};

/// Whose sockets are to be counted.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) ports: Arc<[Port]>,
    /// The number of its session; `None` for what a worker has left whose processes are gone.
    pub(super) session: Option<u32>,
    /// For how long no new connection has been sent there; `None` while some are.
    pub(super) left_for: Option<Duration>,
}

/// Workers whose connections are to be counted.
pub(super) type CountedWorkers = BTreeMap<WorkerId, Counted>;

/// Counts the sockets of workers: about a millisecond, and with [`Engine::Tproxy`] one more for each
/// thousand descriptors that they have.
pub(super) fn count_sockets(
    sockets: &mut process::Sockets,
    workers: &CountedWorkers,
    plan: &Plan,
) -> Result<BTreeMap<WorkerId, Sockets>, ProcessError> {
    let ports: BTreeSet<u16> = numbers(workers.values().map(|worker| &worker.ports)).collect();
    let (Some(first), Some(last)) = (ports.first(), ports.last()) else {
        return Ok(BTreeMap::new());
    };
    let mut queued: BTreeMap<u16, u32> = BTreeMap::new();
    for socket in sockets.listeners(*first..=*last)? {
        *queued.entry(socket.port).or_default() += socket.queued;
    }
    let mut counts = match plan.engine() {
        Engine::Redirect => count_by_port(&sockets.connection_counts(&ports)?, workers),
        Engine::Tproxy => {
            let public = plan.listeners().services(Protocol::Tcp).iter().map(|it| it.port.number());
            count_by_owner(&sockets.connections(&public.collect())?, workers, plan)?
        }
    };
    for (worker, count) in &mut counts {
        let ports = workers.get(worker).map(|worker| &worker.ports);
        count.queued = numbers(ports).filter_map(|number| queued.get(&number)).sum();
        if plan.engine() == Engine::Tproxy {
            count.established += count.queued;
        }
    }
    Ok(counts)
}

/// Connections have the worker port that they were redirected to.
fn count_by_port(
    connections: &BTreeMap<u16, process::Connections>,
    workers: &CountedWorkers,
) -> BTreeMap<WorkerId, Sockets> {
    let count = |worker: &Counted| {
        numbers([&worker.ports]).filter_map(|number| connections.get(&number)).fold(
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

/// Connections have the public port. Who has accepted one has its socket open. Of a handshake nobody
/// can say at whose socket it began: it counts for the worker to which its client is sent now, and for
/// every worker to which nobody is sent any more, unless it is too young for that.
fn count_by_owner(
    connections: &[Connection],
    workers: &CountedWorkers,
    plan: &Plan,
) -> Result<BTreeMap<WorkerId, Sockets>, ProcessError> {
    let owners = SocketOwners::read()?;
    let mut counts = BTreeMap::new();
    for (worker, counted) in workers {
        let inodes = counted.session.map(|session| owners.inodes_of(session)).transpose()?;
        let inodes = inodes.unwrap_or_default();
        let count: &mut Sockets = counts.entry(*worker).or_default();
        for connection in connections {
            match connection.state {
                State::Accepted { inode } if inodes.contains(&inode) => count.established += 1,
                State::HalfOpen { retransmits } => {
                    let may_be = match counted.left_for {
                        Some(left_for) => State::oldest_handshake(retransmits) >= left_for,
                        None => is_sent_to(plan, connection, &counted.ports),
                    };
                    count.half_open += u32::from(may_be);
                }
                State::Queued | State::Accepted { .. } => {}
            }
        }
    }
    Ok(counts)
}

fn is_sent_to(plan: &Plan, connection: &Connection, ports: &Arc<[Port]>) -> bool {
    plan.worker_for(connection.client).is_some_and(|route| route.occupant.ports == *ports)
}

/// The worker port to which a connection with this local port belongs, if that is of `plan`.
pub(super) fn worker_port_of(plan: &Plan, local: u16, client: IpAddr) -> Option<u16> {
    match plan.engine() {
        Engine::Redirect => Some(local),
        Engine::Tproxy => {
            let public = plan.listeners().public_ports();
            let place = public.iter().position(|port| port.number() == local)?;
            let route = plan.worker_for(client)?;
            Some(route.occupant.ports.get(place)?.number())
        }
    }
}

/// The local ports of the connections that belong to these worker ports.
pub(super) fn local_ports_of(plan: &Plan, worker_ports: BTreeSet<u16>) -> BTreeSet<u16> {
    match plan.engine() {
        Engine::Redirect => worker_ports,
        Engine::Tproxy => plan.listeners().public_ports().iter().map(|it| it.number()).collect(),
    }
}

/// What is to be counted, and let go.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Retired workers.
    pub(super) retired: CountedWorkers,
    /// Those of them that are settled: they have let all clients go.
    pub(super) settled: BTreeSet<WorkerId>,
    /// Ports of workers whose process has ended, with nobody behind them.
    pub(super) gone: Vec<Arc<[Port]>>,
    /// What is in force.
    pub(super) plan: Plan,
}

/// Why it is not known how many connections there are.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountError {
    #[error(transparent)]
    Sockets(#[from] ProcessError),
    #[error("cannot see what conntrack remembers: {0}")]
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
pub(super) fn count_all(wanted: &Wanted) -> Result<BTreeMap<WorkerId, Sockets>, CountError> {
    let mut sockets = count_sockets(&mut process::Sockets::open()?, &wanted.retired, &wanted.plan)?;
    if wanted.plan.engine() == Engine::Tproxy {
        // Nothing is translated, so conntrack leads nobody anywhere.
        return Ok(sockets);
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

fn numbers<'a>(ports: impl IntoIterator<Item = &'a Arc<[Port]>>) -> impl Iterator<Item = u16> {
    ports.into_iter().flat_map(|ports| ports.iter()).map(|port| port.number())
}
