use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::{ControlFlow, RangeInclusive};

use super::credentials::effective_uid;
use super::descriptors::each_socket;
use super::error::{ProcessError, ProcessOperation};
use super::impersonation::with_ids_of;
use super::pidfd::failed;
use super::sockets::{ListenSocket, Sockets};
use super::stat;
use crate::netlink::Errno;

/// What a socket that clients reach speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// A TCP socket, which listens.
    Tcp,
    /// A UDP socket, which is bound and not connected.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The sockets of one moment that clients reach, and whose they are.
///
/// Made for being asked about many workers: the sockets are listed once, the descriptors of a
/// worker's leader are read only if something listens on one of its ports, and the processes of
/// the host are listed, once for all workers, only if the leader is not the one that does.
#[derive(Debug)]
pub(crate) struct ListenTable {
    sockets: Vec<(Transport, ListenSocket)>,
    /// The pids of each session; `None` as long as nobody needed them.
    sessions: Option<HashMap<u32, Vec<u32>>>,
}

impl ListenTable {
    /// Lists the sockets of these transports on these ports.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn read(
        sockets: &mut Sockets,
        transports: &[Transport],
        ports: RangeInclusive<u16>,
    ) -> Result<Self, ProcessError> {
        let mut found = vec![];
        for transport in transports {
            let of_transport = match transport {
                Transport::Tcp => sockets.listeners(ports.clone())?,
                Transport::Udp => sockets.receivers(ports.clone())?,
            };
            found.extend(of_transport.into_iter().map(|socket| (*transport, socket)));
        }
        Ok(Self { sockets: found, sessions: None })
    }

    /// The sockets of this transport on this port, whosever they are.
    pub(crate) fn sockets_on(
        &self,
        transport: Transport,
        port: u16,
    ) -> impl Iterator<Item = &ListenSocket> {
        let is_it = move |(of, socket): &&(Transport, ListenSocket)| {
            *of == transport && socket.port == port
        };
        self.sockets.iter().filter(is_it).map(|(_, socket)| socket)
    }

    /// The inodes of all of them, by transport and port.
    pub(crate) fn inodes_by_port(&self) -> BTreeMap<(Transport, u16), Vec<u32>> {
        let mut by_port: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for (transport, socket) in &self.sockets {
            by_port.entry((*transport, socket.port)).or_default().push(socket.inode);
        }
        by_port
    }

    /// The TCP sockets that listen.
    pub(crate) fn tcp_sockets(&self) -> impl Iterator<Item = &ListenSocket> {
        self.sockets.iter().filter(|(of, _)| *of == Transport::Tcp).map(|(_, socket)| socket)
    }

    /// The ports that something listens on, by whatever transport.
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        self.sockets.iter().map(|(_, socket)| socket.port).collect()
    }

    /// The inodes of those of them that are on these ports.
    pub(crate) fn inodes_on(&self, ports: &[u16]) -> HashSet<u32> {
        let on_ports = self.sockets.iter().filter(|(_, socket)| ports.contains(&socket.port));
        on_ports.map(|(_, socket)| socket.inode).collect()
    }

    /// The users of those of them that are on these ports.
    pub(super) fn users_on(&self, ports: &[u16]) -> BTreeSet<u32> {
        let on_ports = self.sockets.iter().filter(|(_, socket)| ports.contains(&socket.port));
        on_ports.map(|(_, socket)| socket.uid).collect()
    }

    /// The subset of `ports` on which a process of this worker listens by this transport, and the sockets
    /// by which it does.
    /// `leader` is the pid of the worker's first process, which is the number of its session: all
    /// processes in that session belong to the worker. It must not have been waited for.
    ///
    /// A socket counts if one of those processes has it open, and its user is that process's, or
    /// ours: one that we made and passed on.
    ///
    /// # Errors
    /// A process of the worker may not be inspected (`EACCES`: it runs as another user, and this
    /// process lacks `CAP_SETUID` and `CAP_SETGID` to look at it as that one; it has capabilities
    /// that we lack; or it cannot be dumped, which is root's to inspect), unless all was found
    /// without it.
    pub(crate) fn listening_ports(
        &mut self,
        leader: u32,
        transport: Transport,
        ports: &[u16],
    ) -> Result<BTreeMap<u16, Vec<ListenSocket>>, ProcessError> {
        let of_transport = self.sockets.iter().filter(|(of, _)| *of == transport);
        let mut search = Search::new(of_transport.map(|(_, socket)| socket), ports);
        if !search.is_over() {
            search.take_those_of(leader)?;
        }
        if !search.is_over() {
            for pid in self.session(leader)?.iter().filter(|pid| **pid != leader) {
                search.take_those_of(*pid)?;
                if search.is_over() {
                    break;
                }
            }
        }
        search.finish()
    }

    fn session(&mut self, leader: u32) -> Result<&[u32], ProcessError> {
        let sessions = match self.sessions.take() {
            Some(sessions) => sessions,
            None => processes_by_session()?,
        };
        Ok(self.sessions.insert(sessions).get(&leader).map_or(&[], Vec::as_slice))
    }
}

/// The sockets on a worker's ports that are not known to be the worker's yet, and what is known.
struct Search {
    candidates: HashMap<u32, ListenSocket>,
    found: BTreeMap<u16, Vec<ListenSocket>>,
    refused: Option<ProcessError>,
    /// The user that this process is.
    ours: u32,
}

impl Search {
    fn new<'a>(sockets: impl Iterator<Item = &'a ListenSocket>, ports: &[u16]) -> Self {
        let candidates = sockets
            .filter(|socket| ports.contains(&socket.port))
            .map(|socket| (socket.inode, socket.clone()))
            .collect();
        Self { candidates, found: BTreeMap::new(), refused: None, ours: effective_uid() }
    }

    fn is_over(&self) -> bool {
        self.candidates.is_empty()
    }

    fn take_those_of(&mut self, pid: u32) -> Result<(), ProcessError> {
        let taken = with_ids_of(pid, || {
            let users = [effective_uid(), self.ours];
            visit_sockets(pid, |inode| {
                self.take(inode, users);
                if self.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        match taken {
            // What it holds may be found in another process of the worker.
            Err(error) if error.errno() == Some(Errno::EACCES) => {
                self.refused = Some(error);
                Ok(())
            }
            other => other,
        }
    }

    /// Takes note of a socket that a process of the worker has open, if it is that of one of these users.
    fn take(&mut self, inode: u32, users: [u32; 2]) {
        if self.candidates.get(&inode).is_some_and(|it| users.contains(&it.uid))
            && let Some(socket) = self.candidates.remove(&inode)
        {
            self.found.entry(socket.port).or_default().push(socket);
        }
    }

    fn finish(self) -> Result<BTreeMap<u16, Vec<ListenSocket>>, ProcessError> {
        match self.refused {
            Some(error) if !self.candidates.is_empty() => Err(error),
            _ => Ok(self.found),
        }
    }
}

/// Which sockets the processes of workers have open. Made for being asked about many workers: the
/// processes of the host are listed once.
#[derive(Debug)]
pub(crate) struct SocketOwners {
    sessions: HashMap<u32, Vec<u32>>,
}

impl SocketOwners {
    /// Lists the processes of the host.
    ///
    /// # Errors
    /// [`ProcessError::Host`].
    pub(crate) fn read() -> Result<Self, ProcessError> {
        Ok(Self { sessions: processes_by_session()? })
    }

    /// The inodes of the sockets of a worker, whose first process is `leader`, as in
    /// [`ListenTable::listening_ports`].
    ///
    /// # Errors
    /// The errors of [`ListenTable::listening_ports`], for any of its processes.
    pub(crate) fn inodes_of(&self, leader: u32) -> Result<HashSet<u32>, ProcessError> {
        let mut all = HashSet::new();
        for pid in self.sessions.get(&leader).into_iter().flatten() {
            all.extend(socket_inodes(*pid)?.1);
        }
        Ok(all)
    }
}

pub(super) fn processes_by_session() -> Result<HashMap<u32, Vec<u32>>, ProcessError> {
    let mut sessions: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in stat::processes()?.iter().filter(|process| !process.ended) {
        sessions.entry(process.session).or_default().push(process.pid);
    }
    Ok(sessions)
}

/// The effective user of a process, and the inodes of the sockets that it has open; none for a
/// process that has ended.
pub(super) fn socket_inodes(pid: u32) -> Result<(u32, Vec<u32>), ProcessError> {
    with_ids_of(pid, || Ok((effective_uid(), read_socket_inodes(pid)?)))
}

fn read_socket_inodes(pid: u32) -> Result<Vec<u32>, ProcessError> {
    let mut inodes = Vec::new();
    visit_sockets(pid, |inode| {
        inodes.push(inode);
        ControlFlow::Continue(())
    })?;
    Ok(inodes)
}

/// Calls `visit` for each socket that a process has open; for none if it has ended.
fn visit_sockets(
    pid: u32,
    mut visit: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<(), ProcessError> {
    match each_socket(pid, |_, inode| visit(inode)) {
        Ok(()) | Err(Errno::ENOENT | Errno::ESRCH) => Ok(()),
        Err(errno) => Err(failed(pid, ProcessOperation::ListDescriptors, errno)),
    }
}
