//! The listening sockets that the master opens for its workers, where the cluster wants it, and that
//! it keeps when they end.
//!
//! A worker has one for each public port and protocol, on its own worker port. It is started with
//! them (`LISTEN_FDS`), and the master has each as well: so nobody else can take the port, and the
//! connections in the queue outlive the worker. Which worker gets them after it, and when they are
//! closed, the supervisor decides (`supervisor/workers/orphaned_listeners.rs`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::listen_fds::FIRST_PASSED;
use crate::master::workers::counted::{Counted, CountedWorkers};
use crate::master::workers::transports::{families_of, transport};
use crate::plan::{Engine, Listeners, Port, Protocol};
use crate::process::{self, Endpoint, HeldSocket, PassedSocket, ProcessError, Transport};
use crate::protocol::WorkerId;

/// The sockets that are opened for every worker, and their names in `LISTEN_FDNAMES`: `80/tcp`, as in
/// `--listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerTemplate {
    openings: Vec<Opening>,
    backlog: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Opening {
    name: String,
    /// Which of a worker's ports it is on.
    place: usize,
    endpoint: Endpoint,
}

impl ListenerTemplate {
    /// In the order of the public ports, of each tcp before udp.
    pub(crate) fn of(listeners: &Listeners, engine: Engine, backlog: u32) -> Self {
        let transparent = engine == Engine::Tproxy;
        let mut openings = vec![];
        for (place, public) in listeners.public_ports().iter().enumerate() {
            for protocol in Protocol::ALL {
                let (ipv4, ipv6) = families_of(listeners, protocol, *public);
                if ipv4 || ipv6 {
                    let transport = transport(protocol);
                    let endpoint = Endpoint { transport, ipv4, ipv6, transparent };
                    openings.push(Opening {
                        name: format!("{public}/{protocol}"),
                        place,
                        endpoint,
                    });
                }
            }
        }
        Self { openings, backlog }
    }

    /// Warns where the kernel lets fewer connections wait than were asked for.
    pub(crate) fn check_backlog(&self) -> Result<(), ProcessError> {
        let limit = process::somaxconn()?;
        if self.backlog > limit {
            let wanted = self.backlog;
            tracing::warn!(
                wanted,
                limit,
                "`backlog` exceeds net.core.somaxconn, which limits the accept queues: raise it"
            );
        }
        Ok(())
    }

    /// Opens the sockets of one worker. If one cannot be opened, none is.
    pub(crate) fn open(&self, ports: Vec<u16>) -> Result<ListenerSet, ProcessError> {
        let open = |it: &Opening| {
            let port = ports.get(it.place).copied().unwrap_or_default();
            Ok((it.name.clone(), HeldSocket::open(port, it.endpoint, self.backlog)?))
        };
        let sockets = self.openings.iter().map(open).collect::<Result<_, ProcessError>>()?;
        Ok(ListenerSet { sockets, ports: ports.into_iter().filter_map(Port::new).collect() })
    }
}

/// A listening tcp socket that a worker was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PassedListener {
    /// Its number among the descriptors of the worker, unless that has changed it.
    pub(crate) descriptor: u16,
    /// Its name in `LISTEN_FDNAMES`.
    pub(crate) name: String,
    /// Its worker port.
    pub(crate) port: u16,
    /// Its public port.
    pub(crate) public: u16,
    /// The inode of its file.
    pub(crate) inode: u32,
    /// Where this host reaches it.
    pub(crate) address: SocketAddr,
}

/// The sockets of one worker.
#[derive(Debug)]
pub(crate) struct ListenerSet {
    sockets: Vec<(String, HeldSocket)>,
    ports: Arc<[Port]>,
}

impl ListenerSet {
    /// The listening sockets of a worker of an earlier master, out of all that are known to be its own;
    /// `None` if one is missing.
    pub(crate) fn recover(
        listeners: &Listeners,
        ports: &Arc<[Port]>,
        mut known: Vec<HeldSocket>,
    ) -> Option<Self> {
        let recover = |opening: Opening| {
            let port = ports.get(opening.place)?.number();
            let transport = opening.endpoint.transport;
            let is_it = |it: &HeldSocket| (it.port(), it.transport()) == (port, transport);
            let index = known.iter().position(is_it)?;
            Some((opening.name, known.swap_remove(index)))
        };
        // Backlog and engine were decided when the sockets were opened, and do not matter here.
        let openings = ListenerTemplate::of(listeners, Engine::default(), 0).openings;
        let sockets = openings.into_iter().map(recover).collect::<Option<_>>()?;
        Some(Self { sockets, ports: Arc::clone(ports) })
    }

    /// The sockets themselves.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|(_, socket)| socket.as_fd())
    }

    /// The worker ports, one for each public port.
    pub(crate) fn ports(&self) -> &Arc<[Port]> {
        &self.ports
    }

    /// The tcp sockets as the worker has them when it starts; `public` are the public ports in their order.
    pub(crate) fn passed(&self, public: &[Port]) -> Vec<PassedListener> {
        let passed = |(descriptor, (name, socket)): (u16, &(String, HeldSocket))| {
            let place = self.ports.iter().position(|port| port.number() == socket.port())?;
            Some(PassedListener {
                descriptor,
                name: name.clone(),
                port: socket.port(),
                public: public.get(place)?.number(),
                inode: socket.inode()?,
                address: socket.local_address()?,
            })
        };
        let tcp = (FIRST_PASSED..).zip(&self.sockets);
        tcp.filter(|(_, (_, socket))| socket.transport() == Transport::Tcp)
            .filter_map(passed)
            .collect()
    }

    /// The sockets with their names, as a worker is started with them.
    pub(crate) fn to_pass(&self) -> Vec<PassedSocket<'_>> {
        let sockets = self.sockets.iter();
        sockets.map(|(name, socket)| PassedSocket { name, socket: socket.as_fd() }).collect()
    }
}

/// All listening sockets that the master holds, by the worker that has them, or had them last.
#[derive(Debug, Default)]
pub(crate) struct HeldListeners {
    by_worker: BTreeMap<WorkerId, Arc<ListenerSet>>,
}

impl HeldListeners {
    pub(crate) fn insert(&mut self, worker: WorkerId, sockets: Arc<ListenerSet>) {
        self.by_worker.insert(worker, sockets);
    }

    /// Gives what one worker has left to another.
    pub(crate) fn transfer(&mut self, from: WorkerId, to: WorkerId) {
        match self.by_worker.remove(&from) {
            Some(sockets) => self.insert(to, sockets),
            None => {
                tracing::error!(%from, %to, "no listening sockets are kept for the worker that is to inherit them")
            }
        }
    }

    /// Closes what a worker has left.
    pub(crate) fn close(&mut self, worker: WorkerId) {
        self.by_worker.remove(&worker);
    }

    pub(crate) fn of(&self, worker: WorkerId) -> Option<Arc<ListenerSet>> {
        self.by_worker.get(&worker).cloned()
    }

    /// The sockets of a worker.
    pub(crate) fn descriptors(&self, worker: WorkerId) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.by_worker.get(&worker).into_iter().flat_map(|sockets| sockets.descriptors())
    }

    pub(crate) fn has(&self, worker: WorkerId) -> bool {
        self.by_worker.contains_key(&worker)
    }

    /// What those of `workers` have left whose processes are gone, to be counted; with each, for how
    /// long nobody has been sent there.
    pub(crate) fn counted(
        &self,
        workers: impl IntoIterator<Item = (WorkerId, Duration)>,
    ) -> CountedWorkers {
        let of = |(worker, left_for)| {
            let ports = Arc::clone(self.by_worker.get(&worker)?.ports());
            Some((worker, Counted { ports, session: None, left_for: Some(left_for) }))
        };
        workers.into_iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use crate::netlink::Errno;

    use super::*;

    fn listeners(all: &[&str]) -> Listeners {
        Listeners::new(all.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn there_is_one_socket_for_each_public_port_and_protocol_for_the_families_of_its_listeners() {
        let listeners = listeners(&[
            "0.0.0.0:443",
            "[fd00::1]:443/udp",
            "10.0.0.1:80",
            "[::]:80",
            "10.0.0.2:80",
        ]);
        let openings = ListenerTemplate::of(&listeners, Engine::Redirect, 7).openings;
        let described: Vec<_> = openings
            .iter()
            .map(|it| (it.name.as_str(), it.place, it.endpoint.ipv4, it.endpoint.ipv6))
            .collect();
        let expected =
            [("443/tcp", 0, true, false), ("443/udp", 0, false, true), ("80/tcp", 1, true, true)];
        assert_eq!(described, expected);
        assert_eq!(openings[1].endpoint.transport, Transport::Udp);
    }

    #[test]
    fn a_port_that_somebody_has_is_named() {
        let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let openings = ListenerTemplate::of(&listeners(&["0.0.0.0:80"]), Engine::Redirect, 16);
        let error = openings.open(vec![port]).unwrap_err();
        let is_it = |of| of == port;
        assert!(
            matches!(error, ProcessError::Listen { port, errno: Errno::EADDRINUSE, .. } if is_it(port)),
            "{error}"
        );
    }

    #[test]
    fn sockets_go_from_worker_to_worker_until_they_are_closed() {
        let free = || TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
        let openings = ListenerTemplate::of(&listeners(&["0.0.0.0:80"]), Engine::Redirect, 16);
        // Another test can take the port meanwhile.
        let sockets = (0..100).find_map(|_| openings.open(vec![free()]).ok()).unwrap();
        let port = sockets.ports()[0];
        let (first, second) = (WorkerId(1), WorkerId(2));
        let mut held = HeldListeners::default();
        held.insert(first, Arc::new(sockets));
        held.transfer(first, second);
        assert!(!held.has(first) && held.has(second));
        assert_eq!(held.of(second).unwrap().to_pass()[0].name, "80/tcp");
        let counted = held.counted([first, second].map(|worker| (worker, Duration::ZERO)));
        assert_eq!(counted.keys().collect::<Vec<_>>(), [&second]);
        assert_eq!(*counted[&second].ports, [port]);
        TcpListener::bind(("0.0.0.0", port.number())).unwrap_err();
        held.close(second);
        assert!(held.of(second).is_none());
        TcpListener::bind(("0.0.0.0", port.number())).unwrap();
    }
}
