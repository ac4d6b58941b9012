//! Counting the connections of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::nft::{Conntrack, ConntrackError};
use crate::plan::Port;
use crate::process::{self, ProcessError};
use crate::supervisor::{Sockets, WorkerId};

/// Workers whose connections are to be counted, with their worker ports.
pub(super) type PortsByWorker = BTreeMap<WorkerId, Arc<[Port]>>;

/// Counts the sockets on the ports of workers: about a millisecond.
pub(super) fn count_sockets(
    sockets: &mut process::Sockets,
    workers: &PortsByWorker,
) -> Result<BTreeMap<WorkerId, Sockets>, ProcessError> {
    let ports: BTreeSet<u16> = numbers(workers.values()).collect();
    let (Some(first), Some(last)) = (ports.first(), ports.last()) else {
        return Ok(BTreeMap::new());
    };
    let mut queued: BTreeMap<u16, u32> = BTreeMap::new();
    for socket in sockets.listeners(*first..=*last)? {
        *queued.entry(socket.port).or_default() += socket.queued;
    }
    let connections = sockets.connection_counts(&ports)?;
    let count = |ports: &Arc<[Port]>| {
        numbers([ports]).fold(Sockets::default(), |sum, number| {
            let of_port = connections.get(&number).copied().unwrap_or_default();
            Sockets {
                queued: sum.queued + queued.get(&number).copied().unwrap_or(0),
                half_open: sum.half_open + of_port.half_open,
                established: sum.established + of_port.established,
                ..Sockets::default()
            }
        })
    };
    Ok(workers.iter().map(|(worker, ports)| (*worker, count(ports))).collect())
}

/// What is to be counted, and let go.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Retired workers.
    pub(super) retired: PortsByWorker,
    /// Those of them that are settled: they have let all clients go.
    pub(super) settled: BTreeSet<WorkerId>,
    /// Ports of workers whose process has ended, with nobody behind them.
    pub(super) gone: Vec<Arc<[Port]>>,
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
    let mut sockets = count_sockets(&mut process::Sockets::open()?, &wanted.retired)?;
    let is_idle = |sockets: &Sockets| sockets.all_accepted() && sockets.established == 0;
    let retired = || wanted.retired.iter();
    let looked_at = |worker: &WorkerId| {
        !wanted.settled.contains(worker) || sockets.get(worker).is_some_and(is_idle)
    };
    let unsure = retired().filter(|(worker, _)| looked_at(worker)).map(|(_, ports)| ports);
    let ports: BTreeSet<u16> = numbers(unsure.chain(&wanted.gone)).collect();
    if ports.is_empty() {
        return Ok(sockets);
    }
    let entries = Conntrack::open()?.release(&ports)?;
    let of = |ports| numbers([ports]).filter_map(|number| entries.get(&number));
    for (worker, ports) in retired() {
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
