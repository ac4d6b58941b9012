//! Looks at workers that are starting and not ready: whether they accept from the sockets that they were
//! started with, and what keeps them from being ready. In a thread, since it reads all that `/proc` shows of
//! their processes.
//!
//! A worker whose processes are not seen to accept ([`AcceptLooker`] tells how that is seen) is given a
//! connection for each socket, once it has had time to start: when that was taken from the queue, it
//! accepts. It is one connection for each socket and start, on which nothing is sent, and it is closed when
//! it was taken. Nobody who is seen to accept gets any.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::master::log_limit::LogLimiter;
use crate::master::workers::{PassedListener, address_here};
use crate::process::{
    AcceptLooker, AcceptState, Children, ListenSocket, OwnConnection, OwnConnections, ProcessError,
    Sockets,
};
use crate::protocol::{
    AcceptFault, NoAcceptor, PortFault, ReadinessFault, UnservedSocket, WorkerId,
};

/// How old a worker is that gets a connection, if its processes may not be looked at.
const PATIENCE_UNSEEN: Duration = Duration::from_millis(200);

/// How old a worker is for whom connections are looked for that it has accepted: all connections of the host
/// are read for that.
const QUIET: Duration = Duration::from_millis(200);

/// How often a worker is looked at that has had time to start.
const PAUSE: Duration = Duration::from_millis(250);

/// A worker that is starting and not ready.
#[derive(Debug, Clone)]
pub(super) struct StartingWorker {
    pub(super) worker: WorkerId,
    /// Its first process.
    pub(super) pid: u32,
    /// For how long it has run.
    pub(super) age: Duration,
    /// How long it is only looked at.
    pub(super) patience: Duration,
    /// Why it is looked at.
    pub(super) wanted: Wanted,
}

#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// Whether it accepts from these sockets.
    Accepts(Vec<PassedListener>),
    /// Whether it accepts from its own sockets on these worker ports, each with its public port.
    AcceptsOnOwn(Vec<(u16, u16)>),
    /// Where it listens, since this is wrong, but for these worker ports, each with its public port: there it is right.
    Listens(PortFault, Vec<(u16, u16)>),
}

/// What was seen of such a worker.
#[derive(Debug)]
pub(crate) struct StartingReport {
    pub(super) worker: WorkerId,
    /// It accepts from all sockets that were asked for.
    pub(super) accepts: bool,
    /// What it lacks; `None` if nothing, or as long as it is too early to say.
    pub(super) fault: Option<ReadinessFault>,
}

/// The looks at workers that are starting.
#[derive(Debug, Default)]
pub(super) struct StartingChecker {
    own: Arc<OwnConnections>,
    /// `None` until it is needed.
    sockets: Option<Sockets>,
    /// When each worker was looked at last that has had time to start.
    looked: BTreeMap<WorkerId, Instant>,
    /// The connections that were made, by the worker and the worker port.
    trials: BTreeMap<(WorkerId, u16), Trial>,
    /// How many children each worker had waited for when it was first looked at.
    children_ended: BTreeMap<WorkerId, u64>,
    failures: LogLimiter,
}

/// A connection that was made to see whether it is taken.
#[derive(Debug)]
struct Trial {
    connection: OwnConnection,
    socket: OwnedFd,
}

impl StartingChecker {
    pub(super) fn new(own: Arc<OwnConnections>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Looks at these workers; those that were looked at before and are not among them any more are
    /// forgotten.
    pub(super) fn check(&mut self, workers: Vec<StartingWorker>) -> Vec<StartingReport> {
        let listed: BTreeSet<WorkerId> = workers.iter().map(|it| it.worker).collect();
        self.looked.retain(|worker, _| listed.contains(worker));
        self.trials.retain(|(worker, _), _| listed.contains(worker));
        self.children_ended.retain(|worker, _| listed.contains(worker));
        let mut looker = AcceptLooker::default();
        let mut reports = Vec::new();
        for starting in workers {
            let worker = starting.worker;
            if starting.age >= starting.patience {
                let last = self.looked.get(&worker);
                if last.is_some_and(|last| last.elapsed() < PAUSE) {
                    continue;
                }
                self.looked.insert(worker, Instant::now());
            }
            let checked = match &starting.wanted {
                Wanted::Accepts(passed) => self.check_acceptance(&starting, passed, &mut looker),
                Wanted::AcceptsOnOwn(ports) => {
                    self.check_own_sockets(&starting, ports, &mut looker)
                }
                Wanted::Listens(fault, right) => {
                    self.locate(starting.pid, fault, right, &mut looker)
                }
            };
            match checked {
                Ok((accepts, fault)) => {
                    reports.push(StartingReport { worker, accepts, fault });
                }
                Err(error) => {
                    if let Some(suppressed) = self.failures.allow(Instant::now()) {
                        tracing::warn!(%worker, %error, suppressed, "cannot look at a starting worker");
                    }
                }
            }
        }
        reports
    }

    /// Whether a worker accepts from the sockets that it was started with, and if not, why.
    fn check_acceptance(
        &mut self,
        starting: &StartingWorker,
        passed: &[PassedListener],
        looker: &mut AcceptLooker,
    ) -> Result<(bool, Option<ReadinessFault>), ProcessError> {
        let StartingWorker { worker, pid, age, patience, .. } = *starting;
        let inodes: Vec<u32> = passed.iter().map(|socket| socket.inode).collect();
        let mut look = looker.look(pid, &inodes, &HashMap::new())?;
        if !look.is_complete() && age >= QUIET {
            let accepted = self.accepted(passed, &look.sockets)?;
            for index in accepted {
                look.states[index] = AcceptState::Accepting;
            }
        }
        let patience = if look.refused.is_some() { PATIENCE_UNSEEN } else { patience };
        let mut is_tried = false;
        if !look.is_complete() && age >= patience {
            is_tried = true;
            for (socket, state) in passed.iter().zip(&mut look.states) {
                // Nobody can take what comes to a socket that nobody has, if all could be looked at.
                let may_accept = *state == AcceptState::Open || look.refused.is_some();
                if *state != AcceptState::Accepting && may_accept && self.takes(worker, socket)? {
                    *state = AcceptState::Accepting;
                }
            }
        }
        if look.is_complete() {
            if let Some(error) = look.refused {
                tracing::warn!(
                    %worker, %error,
                    "the processes of a worker cannot be looked at: a connection that it has taken shows that \
                     it accepts"
                );
            }
            return Ok((true, None));
        }
        if !is_tried {
            return Ok((false, None));
        }
        let unserved = passed.iter().zip(&look.states);
        let unserved = unserved.filter(|(_, state)| **state != AcceptState::Accepting);
        let sockets: Vec<UnservedSocket> = unserved
            .map(|(socket, state)| UnservedSocket {
                descriptor: socket.descriptor,
                name: socket.name.clone(),
                is_closed: *state == AcceptState::Closed && look.refused.is_none(),
            })
            .collect();
        let fault = AcceptFault {
            is_tried: sockets.iter().any(|socket| !socket.is_closed),
            sockets,
            elsewhere: self.elsewhere(&look.sockets, &inodes)?,
            wrapper: look.wrapper,
            unseen: look.refused.map(|error| error.to_string()),
        };
        Ok((false, Some(ReadinessFault::Accept(fault))))
    }

    /// Whether a worker accepts from sockets of its own, and if not, why.
    fn check_own_sockets(
        &mut self,
        starting: &StartingWorker,
        ports: &[(u16, u16)],
        looker: &mut AcceptLooker,
    ) -> Result<(bool, Option<ReadinessFault>), ProcessError> {
        let StartingWorker { worker, pid, .. } = *starting;
        if ports.is_empty() {
            // Nobody accepts from udp sockets.
            return Ok((true, None));
        }
        let ended = Children::read(pid)?.unwrap_or_default().ended;
        let ended_before = *self.children_ended.entry(worker).or_insert(ended);
        let sockets = self.sockets_on(ports)?;
        let inodes: Vec<u32> = sockets.iter().map(|socket| socket.inode).collect();
        let look = looker.look(pid, &inodes, &HashMap::new())?;
        // Sockets of others on its ports are none of its business, where it can be seen whose they are.
        let is_its = |state: &AcceptState| *state != AcceptState::Closed || look.refused.is_some();
        let of_it = sockets.into_iter().zip(&look.states);
        let own: Vec<PassedListener> =
            of_it.filter(|(_, state)| is_its(state)).map(|(socket, _)| socket).collect();
        if own.is_empty() {
            return Ok((false, None));
        }
        let (accepts, fault) = self.check_acceptance(starting, &own, looker)?;
        let fault = fault.map(|fault| match fault {
            ReadinessFault::Accept(AcceptFault { sockets, unseen, .. }) => {
                let named = |it: &UnservedSocket| it.name.parse().ok();
                let mut ports: Vec<u16> = sockets.iter().filter_map(named).collect();
                ports.dedup();
                let children_end = ended > ended_before;
                ReadinessFault::NoAcceptor(NoAcceptor { ports, children_end, unseen })
            }
            other => other,
        });
        Ok((accepts, fault))
    }

    /// The listening sockets on these worker ports, each named by its port.
    fn sockets_on(&mut self, ports: &[(u16, u16)]) -> Result<Vec<PassedListener>, ProcessError> {
        let numbers = || ports.iter().map(|(port, _)| *port);
        let (Some(first), Some(last)) = (numbers().min(), numbers().max()) else {
            return Ok(Vec::new());
        };
        let listening = open(&mut self.sockets)?.listeners(first..=last)?;
        let socket_of = |socket: &ListenSocket| {
            let (port, public) = *ports.iter().find(|(port, _)| *port == socket.port)?;
            Some(PassedListener {
                descriptor: 0,
                name: port.to_string(),
                port,
                public,
                inode: socket.inode,
                address: address_here(socket),
            })
        };
        Ok(listening.iter().filter_map(socket_of).collect())
    }

    /// Where a worker listens that does not listen where it has to, but for ports that are right for other listeners.
    fn locate(
        &mut self,
        pid: u32,
        fault: &PortFault,
        right: &[(u16, u16)],
        looker: &mut AcceptLooker,
    ) -> Result<(bool, Option<ReadinessFault>), ProcessError> {
        let look = looker.look(pid, &[], &HashMap::new())?;
        let elsewhere = self.elsewhere(&look.sockets, &[])?;
        let is_right = |address: &SocketAddr| right.iter().any(|(port, _)| *port == address.port());
        let elsewhere = elsewhere.into_iter().filter(|it| !is_right(it));
        let fault = PortFault { elsewhere: elsewhere.collect(), ..fault.clone() };
        Ok((false, Some(ReadinessFault::Port(fault))))
    }

    /// The indices of the sockets from which one of these connections came.
    fn accepted(
        &mut self,
        passed: &[PassedListener],
        sockets: &HashSet<u32>,
    ) -> Result<Vec<usize>, ProcessError> {
        // The port that was connected to, or, by `redirect` and from this host, the worker port.
        let ports = passed.iter().flat_map(|socket| [socket.port, socket.public]).collect();
        let connections = open(&mut self.sockets)?.peers(&ports)?;
        let held = connections.iter().filter(|it| it.accepted && sockets.contains(&it.inode));
        let ports: BTreeSet<u16> = held.map(|connection| connection.port).collect();
        let is_accepted = |socket: &PassedListener| {
            ports.contains(&socket.port) || ports.contains(&socket.public)
        };
        let accepted = passed.iter().enumerate().filter(|(_, socket)| is_accepted(socket));
        Ok(accepted.map(|(index, _)| index).collect())
    }

    /// Whether a connection that was made to this socket was taken; the first time it is made.
    fn takes(&mut self, worker: WorkerId, socket: &PassedListener) -> Result<bool, ProcessError> {
        let key = (worker, socket.port);
        let Some(trial) = self.trials.get(&key) else {
            match Trial::begin(&self.own, socket.address) {
                Ok(trial) => drop(self.trials.insert(key, trial)),
                Err(error) => {
                    if let Some(suppressed) = self.failures.allow(Instant::now()) {
                        tracing::warn!(
                            address = %socket.address, %error, suppressed,
                            "cannot connect to a worker to see whether it accepts"
                        );
                    }
                }
            }
            return Ok(false);
        };
        let connection = trial.connection;
        let is_taken = match trial.is_answered() {
            Ok(true) => true,
            Ok(false) => {
                let found = self.own.find(open(&mut self.sockets)?, &[socket.port].into())?;
                found.iter().any(|it| it.peer == connection.peer && it.accepted)
            }
            // It was reset. The next look makes another one.
            Err(_) => {
                self.own.forget(connection);
                self.trials.remove(&key);
                false
            }
        };
        if is_taken {
            self.own.forget(connection);
            self.trials.remove(&key);
        }
        Ok(is_taken)
    }

    /// The addresses on which these sockets listen, but for those in `except`.
    fn elsewhere(
        &mut self,
        sockets: &HashSet<u32>,
        except: &[u32],
    ) -> Result<Vec<SocketAddr>, ProcessError> {
        let listening = open(&mut self.sockets)?.listeners(1..=u16::MAX)?;
        let is_it = |inode: &u32| sockets.contains(inode) && !except.contains(inode);
        let found = listening.iter().filter(|socket| is_it(&socket.inode));
        let addresses: BTreeSet<SocketAddr> =
            found.map(|socket| SocketAddr::new(socket.address, socket.port)).collect();
        Ok(addresses.into_iter().collect())
    }
}

fn open(sockets: &mut Option<Sockets>) -> Result<&mut Sockets, ProcessError> {
    let opened = match sockets.take() {
        Some(opened) => opened,
        None => Sockets::open()?,
    };
    Ok(sockets.insert(opened))
}

impl Trial {
    fn begin(own: &OwnConnections, address: SocketAddr) -> io::Result<Self> {
        let (socket, connection) = own.socket(address)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Self { connection, socket }),
            Err(errno) => {
                own.forget(connection);
                Err(errno.into())
            }
        }
    }

    /// Whether the other side has sent something or closed the connection, which only a process does
    /// that has accepted it.
    fn is_answered(&self) -> io::Result<bool> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.socket, &mut [0], flags) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOTCONN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::plan::{Port, Protocol};
    use crate::protocol::PortFaultKind;

    #[test]
    fn a_port_that_is_right_for_another_listener_is_not_where_it_listens_instead() {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (right, wrong) = (listen(), listen());
        let port_of = |socket: &TcpListener| socket.local_addr().unwrap().port();
        let fault = PortFault {
            public: Port::new(443).unwrap(),
            protocol: Protocol::Tcp,
            port: Port::new(20_001).unwrap(),
            public_ports: 2,
            kind: PortFaultKind::Missing,
            elsewhere: Vec::new(),
        };
        let ports = [(port_of(&right), 80), (20_001, 443)];
        let mut checker = StartingChecker::new(Arc::default());
        let mut looker = AcceptLooker::default();
        let located = checker.locate(std::process::id(), &fault, &ports, &mut looker).unwrap();
        let Some(ReadinessFault::Port(PortFault { elsewhere, .. })) = located.1 else { panic!() };
        // Other tests of this process listen as well.
        assert!(elsewhere.contains(&wrong.local_addr().unwrap()), "{elsewhere:?}");
        assert!(!elsewhere.contains(&right.local_addr().unwrap()), "{elsewhere:?}");
    }
}
