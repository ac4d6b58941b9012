//! The connections that this process makes to worker ports itself: probes, and trials whether a worker
//! accepts. Where they wait in an accept queue, nobody waits.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

use super::ProcessError;
use super::sockets::{PeerConnection, Sockets};

/// The most connections that are remembered. A worker that accepts nobody is given more than its queue
/// holds at no time, so the oldest ones are gone from every queue.
const MOST: usize = 4096;

/// A connection, as the side that is connected to has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct OwnConnection {
    /// The worker port.
    pub(crate) port: u16,
    /// Our address.
    pub(crate) peer: SocketAddr,
}

/// The connections of this process to worker ports of this host that may wait in an accept queue.
#[derive(Debug, Default)]
pub(crate) struct OwnConnections {
    /// Each with its number in the order in which they were begun.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    begun: u64,
    connections: HashMap<OwnConnection, u64>,
}

impl OwnConnections {
    /// A nonblocking socket for a connection to `address`, which must be one of this host. The connection
    /// is known before it is begun.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub(crate) fn socket(&self, address: SocketAddr) -> io::Result<(OwnedFd, OwnConnection)> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        // The kernel would choose a port after the other side has seen it, and to a secondary address it
        // would come from the primary one.
        bind(&socket, &SocketAddr::new(address.ip(), 0))?;
        let peer = SocketAddr::try_from(getsockname(&socket)?)?;
        let connection = OwnConnection { port: address.port(), peer };
        self.known().insert(connection);
        Ok((socket, connection))
    }

    /// Forgets a connection that was accepted, or refused.
    pub(crate) fn forget(&self, connection: OwnConnection) {
        self.known().connections.remove(&connection);
    }

    /// How many connections of ours wait in the accept queue of each of these worker ports; ports without
    /// are left out. Nothing is asked of the kernel unless there may be some.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn queued(
        &self,
        sockets: &mut Sockets,
        ports: &BTreeSet<u16>,
    ) -> Result<HashMap<u16, u32>, ProcessError> {
        let mut queued = HashMap::new();
        for connection in self.find(sockets, ports)? {
            if !connection.accepted {
                *queued.entry(connection.port).or_default() += 1;
            }
        }
        Ok(queued)
    }

    /// Those of our connections to these ports that the other side has.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn find(
        &self,
        sockets: &mut Sockets,
        ports: &BTreeSet<u16>,
    ) -> Result<Vec<PeerConnection>, ProcessError> {
        let is_to = |connection: &&OwnConnection| ports.contains(&connection.port);
        let wanted: HashSet<OwnConnection> =
            self.known().connections.keys().filter(is_to).copied().collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let of = wanted.iter().map(|connection| connection.port).collect();
        let found = sockets.peers(&of)?;
        let key = |it: &PeerConnection| OwnConnection { port: it.port, peer: it.peer };
        Ok(found.into_iter().filter(|it| wanted.contains(&key(it))).collect())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What is kept is whole after each step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, connection: OwnConnection) {
        self.begun += 1;
        self.connections.insert(connection, self.begun);
        if self.connections.len() > MOST {
            let keep_from = self.begun.saturating_sub(MOST as u64 / 2);
            self.connections.retain(|_, number| *number > keep_from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::connect;

    use super::*;

    #[test]
    fn own_connections_in_a_queue_are_told_from_others() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let (own, mut sockets) = (OwnConnections::default(), Sockets::open().unwrap());
            let ports = BTreeSet::from([address.port()]);
            assert!(own.queued(&mut sockets, &ports).unwrap().is_empty());
            let other = TcpStream::connect(address).unwrap();
            let (socket, connection) = own.socket(address).unwrap();
            // On loopback it is there when this returns.
            let _ = connect(&socket, &address);
            let peer = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
            assert_eq!(connection, OwnConnection { port: address.port(), peer });
            let mut queued = || own.queued(&mut sockets, &ports).unwrap().remove(&address.port());
            assert_eq!(queued(), Some(1));
            // Closed by us, it waits on.
            drop(socket);
            assert_eq!(queued(), Some(1));
            drop(listener.accept().unwrap());
            assert_eq!(queued(), Some(1), "that was the other one");
            let accepted = listener.accept().unwrap();
            assert_eq!(queued(), None);
            drop((accepted, other));
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut known = Known::default();
        let connection = |port: u16| OwnConnection { port, peer: ([127, 0, 0, 1], port).into() };
        for port in 0..=u16::try_from(MOST).unwrap() {
            known.insert(connection(port));
        }
        assert_eq!(known.connections.len(), MOST / 2);
        assert!(!known.connections.contains_key(&connection(0)));
        assert!(known.connections.contains_key(&connection(u16::try_from(MOST).unwrap())));
    }
}
