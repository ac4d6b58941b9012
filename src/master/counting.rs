//! Counting the connections of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::nft::Conntrack;
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
                remembered: 0,
            }
        })
    };
    Ok(workers.iter().map(|(worker, ports)| (*worker, count(ports))).collect())
}

/// The same, and for workers that seem to have no connection those that conntrack alone knows of:
/// the client will send its SYN or its data again, and conntrack will send it to the old port. Reading
/// conntrack takes the kernel tens of milliseconds, a second where it is full: not for the loop.
pub(super) fn count_all(
    workers: &PortsByWorker,
) -> Result<BTreeMap<WorkerId, Sockets>, ProcessError> {
    let mut counts = count_sockets(&mut process::Sockets::open()?, workers)?;
    let is_idle = |sockets: &Sockets| sockets.all_accepted() && sockets.established == 0;
    let idle: Vec<WorkerId> =
        counts.iter().filter(|(_, sockets)| is_idle(sockets)).map(|(worker, _)| *worker).collect();
    let ports: BTreeSet<u16> = numbers(idle.iter().filter_map(|it| workers.get(it))).collect();
    if ports.is_empty() {
        return Ok(counts);
    }
    match Conntrack::open().and_then(|mut conntrack| conntrack.entries(&ports)) {
        Ok(entries) => {
            for worker in idle {
                let (Some(sockets), Some(ports)) = (counts.get_mut(&worker), workers.get(&worker))
                else {
                    continue;
                };
                for of_port in numbers([ports]).filter_map(|number| entries.get(&number)) {
                    sockets.half_open += of_port.half_open;
                    sockets.remembered += of_port.established;
                }
            }
        }
        Err(error) => tracing::warn!(%error, "cannot see what conntrack remembers"),
    }
    Ok(counts)
}

fn numbers<'a>(ports: impl IntoIterator<Item = &'a Arc<[Port]>>) -> impl Iterator<Item = u16> {
    ports.into_iter().flat_map(|ports| ports.iter()).map(|port| port.number())
}
