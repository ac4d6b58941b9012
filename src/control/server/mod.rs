//! The master's end of the control socket.

mod acceptor;
mod cleanup;
mod limits;
mod operator;
mod presence;
mod request;
mod worker_link;
mod workers_socket;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use acceptor::{Acceptor, GateState, accept};
use cleanup::SocketFile;
use limits::ConnectionLimits;
use presence::ServedFiles;

use super::directory::io_error;
use super::{ControlError, Lock, PeerLimits};

pub(crate) use acceptor::AcceptGate;
pub(crate) use presence::{ControlDescriptors, SharedDescriptors};
#[cfg(test)]
pub(crate) use request::ReplyReceiver;
pub(crate) use request::{ReceivedRequest, Responder};
pub(crate) use worker_link::{JoinRequest, WorkerEvent, WorkerLink};
pub(crate) use workers_socket::WorkersSocket;

/// Limits on the peers of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ControlLimits {
    /// Connections of one user at a time, those of workers that have joined not counted; further
    /// ones wait until one of them has ended.
    pub connections: usize,
    /// How many of one user may wait for that; further ones are answered with an error at once.
    pub waiting: usize,
    /// Time for a request, once others wait: whoever says nothing gives up its place to them.
    pub hurry: Duration,
    /// Connections of one process at a time, counted in the same way; further ones are answered with an error
    /// at once.
    pub connections_of_process: usize,
    /// Time for each complete line from a peer, and for the peer to take each reply.
    pub io_timeout: Duration,
    /// Limits on workers that have joined.
    pub worker: PeerLimits,
}

impl Default for ControlLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            waiting: 512,
            hurry: Duration::from_millis(500),
            connections_of_process: 16,
            io_timeout: Duration::from_secs(5),
            worker: PeerLimits::default(),
        }
    }
}

/// A control socket that listens: peers can connect, and are served by [`Self::serve`].
#[derive(Debug)]
pub(crate) struct ControlServer {
    listener: std::os::unix::net::UnixListener,
    lock: Lock,
    limits: ControlLimits,
    socket_file: SocketFile,
    workers: Option<WorkersSocket>,
    events: Option<mpsc::Sender<WorkerEvent>>,
    gate: AcceptGate,
    group: Option<u32>,
    shared: SharedDescriptors,
}

impl ControlServer {
    /// Listens on the socket of the cluster whose lock this is.
    ///
    /// # Errors
    /// [`ControlError::NotOurs`] if something else than a socket of ours is in its place, which
    /// then stays; [`ControlError::Io`].
    pub(crate) fn bind(lock: Lock, limits: ControlLimits) -> Result<Self, ControlError> {
        let listener = lock.bind()?;
        Self::on(listener, lock, limits)
    }

    /// Goes on with a control socket that an earlier master listened on, and has handed over with the
    /// lock. Peers that have connected meanwhile wait in it.
    ///
    /// # Errors
    /// [`ControlError::NotOurs`] if it is no Unix socket with that path; [`ControlError::Io`].
    pub(crate) fn handed_over(
        lock: Lock,
        descriptor: OwnedFd,
        limits: ControlLimits,
    ) -> Result<Self, ControlError> {
        let path = lock.socket();
        let listener = std::os::unix::net::UnixListener::from(descriptor);
        let address = listener.local_addr().map_err(io_error("examine", path))?;
        if address.as_pathname() != Some(path) {
            let reason = "is not the socket that was handed over";
            return Err(ControlError::NotOurs { path: path.to_owned(), reason });
        }
        listener.set_nonblocking(true).map_err(io_error("prepare", path))?;
        // Peers are told who has called listen(2) last: that is this process from now on.
        rustix::net::listen(&listener, BACKLOG)
            .map_err(|errno| io_error("listen on", path)(errno.into()))?;
        lock.write_pid()?;
        Self::on(listener, lock, limits)
    }

    fn on(
        listener: std::os::unix::net::UnixListener,
        lock: Lock,
        limits: ControlLimits,
    ) -> Result<Self, ControlError> {
        let socket_file = SocketFile::of(lock.socket())?;
        let gate = AcceptGate::open();
        Ok(Self {
            listener,
            lock,
            limits,
            socket_file,
            gate,
            workers: None,
            events: None,
            group: None,
            shared: SharedDescriptors::default(),
        })
    }

    /// Lets members of a group command as well, or nobody but its user and root. For a group the effective
    /// one of this thread has to be it, unless the process is a member.
    ///
    /// # Errors
    /// [`ControlError::Io`]: the socket or its directory cannot be made one of that group.
    pub(crate) fn for_group(self, group: Option<u32>) -> Result<Self, ControlError> {
        self.lock.share(group)?;
        Ok(Self { group, ..self })
    }

    /// Lets workers join, here and on a socket of their own. Without this they are refused.
    #[must_use]
    pub(crate) fn with_workers(
        self,
        events: mpsc::Sender<WorkerEvent>,
        socket: Option<WorkersSocket>,
    ) -> Self {
        Self { events: Some(events), workers: socket, ..self }
    }

    /// Opens and closes the server for new peers.
    pub(crate) fn gate(&self) -> AcceptGate {
        self.gate.clone()
    }

    /// Copies of its descriptors, to be handed over.
    ///
    /// # Errors
    /// [`ControlError::Io`]: no descriptor is left.
    pub(crate) fn descriptors(&self) -> Result<SharedDescriptors, ControlError> {
        let workers = self.workers.as_ref().map(|socket| socket.listener.as_fd());
        self.shared.set(ControlDescriptors::copied(&self.lock, self.listener.as_fd(), workers)?);
        Ok(self.shared.clone())
    }

    /// Accepts peers and hands their commands to `requests`, until its receiver is closed or gone;
    /// then lets those peers that wait for an answer have it. Removes the socket and releases the
    /// lock when it returns or is dropped.
    ///
    /// # Errors
    /// [`ControlError::Io`] if the socket cannot be registered with the runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub(crate) async fn serve(
        self,
        requests: mpsc::Sender<ReceivedRequest>,
    ) -> Result<(), ControlError> {
        let Self { listener, lock, limits, socket_file, gate, workers, events, group, shared } =
            self;
        let mut gate = gate.subscribe();
        let listener = UnixListener::from_std(listener);
        let mut listener = listener.map_err(io_error("listen on", lock.socket()))?;
        let worker_user = workers.as_ref().and_then(|socket| socket.user);
        let (mut workers, workers_file) = match workers {
            Some(WorkersSocket { listener, file, .. }) => {
                let listener = UnixListener::from_std(listener);
                (Some(listener.map_err(io_error("listen on", &file.path))?), Some(file))
            }
            None => (None, None),
        };
        let mut files =
            ServedFiles::new(lock, socket_file, workers_file, worker_user, group, shared);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let connections = ConnectionLimits::default();
        let acceptor = Acceptor { limits, connections, worker_user, group, requests, events };
        let mut peers = JoinSet::new();
        loop {
            let is_open = match *gate.borrow_and_update() {
                GateState::Open => true,
                GateState::Closed => false,
                GateState::HandedOver => break,
            };
            tokio::select! {
                () = acceptor.requests.closed() => break,
                Ok(()) = gate.changed() => {}
                Some(_) = peers.join_next() => {}
                _ = look.tick(), if is_open => files.look(&mut listener, &mut workers),
                (accepted, is_control) = accept(&listener, workers.as_ref()), if is_open => match accepted {
                    Ok(stream) => {
                        if let Some(connection) = acceptor.admit(stream, is_control) {
                            peers.spawn(connection);
                        }
                        // However many wait to be accepted: the others have their turn after each.
                        tokio::task::yield_now().await;
                    }
                    Err(error) => {
                        // Most likely out of descriptors, in which case the same error would come
                        // again at once.
                        tracing::warn!(%error, "cannot accept on the control socket");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        let is_handed_over = *gate.borrow() == GateState::HandedOver;
        let time_limit = if is_handed_over { HANDED_OVER_TIMEOUT } else { limits.io_timeout };
        // Before anything is waited for: the next master may have begun.
        let _cleanup = match is_handed_over {
            true => {
                files.keep();
                None
            }
            false => Some(files),
        };
        // Bounded: the master may keep a responder for ever.
        let last_answers = async { while peers.join_next().await.is_some() {} };
        if timeout(time_limit, last_answers).await.is_err() {
            tracing::debug!("control connections closed without an answer");
        }
        Ok(())
    }
}

/// How often is looked whether the sockets and the lock are in place: three calls of stat(2).
const LOOK: Duration = Duration::from_secs(5);

/// Peers that wait to be accepted, as the standard library has it; at most `net.core.somaxconn`.
const BACKLOG: i32 = 128;

/// How long a master that was replaced waits for its peers to take their last answers.
const HANDED_OVER_TIMEOUT: Duration = Duration::from_millis(500);

/// How long nobody is accepted after an error of accept(2).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
