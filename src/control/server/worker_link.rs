//! Connections with workers: tokio around [`Peer`], and the master's end of each.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::limits::Permit;
use crate::control::{Peer, PeerAction, PeerEvent, Told, UNREAD_LIMIT, WorkerInfo, WorkerOrder};

/// Events of worker connections. Those of one connection come in order: its request to join; if that is
/// accepted, what the worker does; then the end.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    /// A process claims to be a worker.
    JoinRequested(JoinRequest),
    /// An event of a worker that has joined.
    Peer {
        /// The token that it was accepted with.
        token: u64,
        /// The event.
        event: PeerEvent,
    },
    /// The connection of a worker that had joined has ended, by whatever end.
    Disconnected {
        /// The token that it was accepted with.
        token: u64,
    },
}

/// A connection whose peer claims to be a worker. Dropped, it is refused.
#[derive(Debug)]
pub(crate) struct JoinRequest {
    /// What the process says of itself. Its pid is that of the process that connected.
    pub info: WorkerInfo,
    socket: Arc<UnixStream>,
    told: SharedTold,
    decision: oneshot::Sender<JoinDecision>,
}

/// What the worker has said last, which the task of its connection writes and the master reads.
type SharedTold = Arc<Mutex<Told>>;

#[derive(Debug)]
enum JoinDecision {
    Accepted { token: u64, orders: mpsc::UnboundedReceiver<(WorkerOrder, String)> },
    Refused(String),
}

impl JoinRequest {
    /// Lets the worker join. `token` names the connection in its events.
    pub(crate) fn accept(self, token: u64) -> WorkerLink {
        let (sender, orders) = mpsc::unbounded_channel();
        // If it has gone meanwhile, its end comes all the same as that of a worker that had joined:
        // see `Driver::decided`.
        let _ = self.decision.send(JoinDecision::Accepted { token, orders });
        WorkerLink { token, orders: sender, socket: self.socket, told: self.told }
    }

    /// Tells the process why it does not join, and ends the connection.
    pub(crate) fn refuse(self, reason: impl Into<String>) {
        // It has gone.
        let _ = self.decision.send(JoinDecision::Refused(reason.into()));
    }
}

/// The socket, of which the kernel says who is at its other end.
impl AsFd for JoinRequest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The master's end of a connection with a worker that has joined. Dropped, the connection ends.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    token: u64,
    orders: mpsc::UnboundedSender<(WorkerOrder, String)>,
    socket: Arc<UnixStream>,
    told: SharedTold,
}

impl WorkerLink {
    /// The token that the connection was accepted with.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// What the worker has said last of its load and its application.
    pub(crate) fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends an order to the worker; `reason` is for its log. An order without an answer becomes an event.
    pub(crate) fn order(&self, order: WorkerOrder, reason: impl Into<String>) {
        // The connection has ended, which is an event as well.
        let _ = self.orders.send((order, reason.into()));
    }

    /// Whether the worker has closed its end, or it was closed for it when it ended; known at once,
    /// and before [`WorkerEvent::Disconnected`] tells.
    pub(crate) fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut polled, Some(&now)) {
            Ok(_) => polled[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP),
            // Not known: counts as connected.
            Err(_) => false,
        }
    }
}

/// Serves one connection until it ends, or the receiver of events is gone. `line` is the first one,
/// which has been read; `permit` is given back when the worker has joined.
pub(super) async fn serve(
    stream: UnixStream,
    peer: Peer,
    line: &str,
    begin: Instant,
    events: mpsc::Sender<WorkerEvent>,
    permit: Permit,
) {
    let socket = Arc::new(stream);
    let mut driver = Driver {
        socket,
        peer,
        begin,
        events: events.clone(),
        unread: VecDeque::new(),
        decision: None,
        orders: None,
        token: None,
        permit: Some(permit),
        told: SharedTold::default(),
    };
    // A loop that has ended wants no worker.
    tokio::select! {
        () = events.closed() => return,
        ended = driver.run(line) => match ended {
            Ok(()) => tracing::debug!("worker connection ended"),
            Err(error) => tracing::debug!(%error, "worker connection broke"),
        }
    }
    driver.left().await;
}

struct Driver {
    socket: Arc<UnixStream>,
    peer: Peer,
    begin: Instant,
    events: mpsc::Sender<WorkerEvent>,
    /// Bytes that wait until the peer reads.
    unread: VecDeque<u8>,
    decision: Option<oneshot::Receiver<JoinDecision>>,
    orders: Option<mpsc::UnboundedReceiver<(WorkerOrder, String)>>,
    token: Option<u64>,
    permit: Option<Permit>,
    told: SharedTold,
}

/// The connection ends with its task, also where the master still has its end of it.
impl Drop for Driver {
    fn drop(&mut self) {
        if let Err(error) = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both) {
            // The peer has closed it before.
            tracing::debug!(%error, "worker connection not shut down");
        }
    }
}

/// Why the driver of a connection wakes up.
enum Wakeup {
    Readable,
    Writable,
    Due,
    Decided(Option<JoinDecision>),
    Order(Option<(WorkerOrder, String)>),
}

impl Driver {
    async fn run(&mut self, line: &str) -> io::Result<()> {
        let actions = self.peer.receive_line(line, self.now());
        let mut is_over = self.carry_out(actions).await?;
        while !is_over {
            let actions = match self.wait().await? {
                Wakeup::Readable => {
                    let mut bytes = [0; 4096];
                    match self.socket.try_read(&mut bytes) {
                        Ok(0) => return Ok(()),
                        Ok(count) => self.peer.receive(&bytes[..count], self.now()),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error),
                    }
                }
                Wakeup::Writable => {
                    self.flush()?;
                    continue;
                }
                Wakeup::Due => self.peer.tick(self.now()),
                Wakeup::Decided(decision) => self.decided(decision),
                Wakeup::Order(Some((order, reason))) => self.peer.order(order, &reason, self.now()),
                // The master has let go of it.
                Wakeup::Order(None) => return Ok(()),
            };
            if let Some(told) = self.peer.take_told() {
                *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
            }
            is_over = self.carry_out(actions).await?;
        }
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<Wakeup> {
        let deadline = self.peer.deadline().and_then(|at| self.begin.checked_add(at));
        let due = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // What the peer has sent comes before the judgement that it has sent nothing: this process
        // may have been stopped, and not the peer.
        Ok(tokio::select! {
            biased;
            readable = self.socket.readable(), if self.peer.wants_more() => {
                readable?;
                Wakeup::Readable
            }
            writable = self.socket.writable(), if !self.unread.is_empty() => {
                writable?;
                Wakeup::Writable
            }
            decision = received(&mut self.decision) => Wakeup::Decided(decision),
            order = next(&mut self.orders) => Wakeup::Order(order),
            () = due => Wakeup::Due,
        })
    }

    fn decided(&mut self, decision: Option<JoinDecision>) -> Vec<PeerAction> {
        self.decision = None;
        let refusal = match decision {
            Some(JoinDecision::Accepted { token, orders }) => {
                (self.token, self.orders) = (Some(token), Some(orders));
                self.permit = None;
                None
            }
            Some(JoinDecision::Refused(reason)) => Some(reason),
            None => Some("the master is ending".to_owned()),
        };
        self.peer.decide(refusal, self.now())
    }

    /// Returns whether the connection is over.
    async fn carry_out(&mut self, actions: Vec<PeerAction>) -> io::Result<bool> {
        for action in actions {
            match action {
                PeerAction::Send(line) => {
                    self.unread.extend(line.as_bytes());
                    self.unread.push_back(b'\n');
                }
                PeerAction::Decide(info) => {
                    let (decision, decided) = oneshot::channel();
                    self.decision = Some(decided);
                    let (socket, told) = (Arc::clone(&self.socket), Arc::clone(&self.told));
                    *told.lock().unwrap_or_else(PoisonError::into_inner) =
                        Told { lag: info.lag, app: info.app.clone() };
                    let request = JoinRequest { info, socket, told, decision };
                    self.tell(WorkerEvent::JoinRequested(request)).await;
                }
                PeerAction::Report(event) => {
                    if let Some(token) = self.token {
                        self.tell(WorkerEvent::Peer { token, event }).await;
                    }
                }
                PeerAction::Close(why) => {
                    self.flush()?;
                    tracing::debug!(%why, "worker connection closed by the master");
                    return Ok(true);
                }
            }
        }
        self.flush()?;
        if self.unread.len() > UNREAD_LIMIT {
            self.peer.give_up();
            tracing::debug!("worker connection closed by the master: the peer does not read");
            return Ok(true);
        }
        Ok(false)
    }

    /// Sends what the peer has room for.
    fn flush(&mut self) -> io::Result<()> {
        while !self.unread.is_empty() {
            match self.socket.try_write(self.unread.as_slices().0) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn tell(&self, event: WorkerEvent) {
        // Nobody hears: `attend` ends.
        let _ = self.events.send(event).await;
    }

    /// Tells the end of a worker that had joined, also if it went before it could know.
    async fn left(mut self) {
        if let Some(mut decision) = self.decision.take()
            && let Some(JoinDecision::Accepted { token, .. }) = {
                decision.close();
                decision.try_recv().ok()
            }
        {
            self.token = Some(token);
        }
        if let Some(token) = self.token {
            self.tell(WorkerEvent::Disconnected { token }).await;
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }
}

async fn received(decision: &mut Option<oneshot::Receiver<JoinDecision>>) -> Option<JoinDecision> {
    match decision {
        Some(decision) => decision.await.ok(),
        None => std::future::pending().await,
    }
}

async fn next(
    orders: &mut Option<mpsc::UnboundedReceiver<(WorkerOrder, String)>>,
) -> Option<(WorkerOrder, String)> {
    match orders {
        Some(orders) => orders.recv().await,
        None => std::future::pending().await,
    }
}
