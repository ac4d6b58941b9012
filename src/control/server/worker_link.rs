//! Connections with workers: tokio around [`Peer`], and the master's end of each.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::limits::Place;
use crate::control::legacy::UNREAD_LIMIT;
use crate::control::{Peer, PeerEffect, PeerNews, WorkerFacts, WorkerOrder};

/// What comes from workers. Of one connection it comes in order: an arrival, if that is accepted any
/// news, then the end.
#[derive(Debug)]
pub enum WorkerEvent {
    /// Somebody says that it is a worker.
    Arrived(Arrival),
    /// What a worker does that has joined.
    News {
        /// The token that it was accepted with.
        token: u64,
        /// What.
        news: PeerNews,
    },
    /// The connection of a worker that had joined has ended, by whatever end.
    Left {
        /// The token that it was accepted with.
        token: u64,
    },
}

/// A connection that somebody says is a worker's. Dropped, it is refused.
#[derive(Debug)]
pub struct Arrival {
    /// What it says of itself. Its pid is that of the process that connected.
    pub facts: WorkerFacts,
    socket: Arc<UnixStream>,
    verdict: oneshot::Sender<Verdict>,
}

#[derive(Debug)]
enum Verdict {
    Accepted { token: u64, orders: mpsc::UnboundedReceiver<(WorkerOrder, String)> },
    Refused(String),
}

impl Arrival {
    /// Lets it join. `token` names it in what comes of it.
    pub fn accept(self, token: u64) -> WorkerLink {
        let (sender, orders) = mpsc::unbounded_channel();
        // If it has gone meanwhile, its end comes all the same as that of a worker that had joined:
        // see `Driver::decided`.
        let _ = self.verdict.send(Verdict::Accepted { token, orders });
        WorkerLink { token, orders: sender, socket: self.socket }
    }

    /// Tells it why it does not join, and ends the connection.
    pub fn refuse(self, reason: impl Into<String>) {
        // It has gone.
        let _ = self.verdict.send(Verdict::Refused(reason.into()));
    }
}

/// The socket, of which the kernel says who is at its other end.
impl AsFd for Arrival {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The master's end of a connection with a worker that has joined. Dropped, the connection ends.
#[derive(Debug)]
pub struct WorkerLink {
    token: u64,
    orders: mpsc::UnboundedSender<(WorkerOrder, String)>,
    socket: Arc<UnixStream>,
}

impl WorkerLink {
    /// What names it.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Has the worker do something; `reason` is for its log. What comes of it is news.
    pub fn order(&self, order: WorkerOrder, reason: impl Into<String>) {
        // The connection has ended, which is news as well.
        let _ = self.orders.send((order, reason.into()));
    }

    /// Whether the worker has closed its end, or it was closed for it when it ended; known at once,
    /// and before [`WorkerEvent::Left`] tells.
    pub fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut polled, Some(&now)) {
            Ok(_) => polled[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP),
            // Not to be told: as good as there.
            Err(_) => false,
        }
    }
}

/// Serves one connection until it ends, or nobody hears of it any more. `line` is the first one,
/// which has been read; `place` is given back when the worker has joined.
pub(super) async fn attend(
    stream: UnixStream,
    peer: Peer,
    line: &str,
    begin: Instant,
    events: mpsc::Sender<WorkerEvent>,
    place: Place,
) {
    let socket = Arc::new(stream);
    let mut driver = Driver {
        socket,
        peer,
        begin,
        events: events.clone(),
        unread: VecDeque::new(),
        verdict: None,
        orders: None,
        token: None,
        place: Some(place),
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
    /// What is to be sent, and could not be yet.
    unread: VecDeque<u8>,
    verdict: Option<oneshot::Receiver<Verdict>>,
    orders: Option<mpsc::UnboundedReceiver<(WorkerOrder, String)>>,
    token: Option<u64>,
    place: Option<Place>,
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

/// What happened to a connection.
enum Happening {
    Readable,
    Writable,
    Due,
    Decided(Option<Verdict>),
    Order(Option<(WorkerOrder, String)>),
}

impl Driver {
    async fn run(&mut self, line: &str) -> io::Result<()> {
        let effects = self.peer.receive_line(line, self.now());
        let mut is_over = self.carry_out(effects).await?;
        while !is_over {
            let effects = match self.wait().await? {
                Happening::Readable => {
                    let mut bytes = [0; 4096];
                    match self.socket.try_read(&mut bytes) {
                        Ok(0) => return Ok(()),
                        Ok(count) => self.peer.receive(&bytes[..count], self.now()),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error),
                    }
                }
                Happening::Writable => {
                    self.flush()?;
                    continue;
                }
                Happening::Due => self.peer.tick(self.now()),
                Happening::Decided(verdict) => self.decided(verdict),
                Happening::Order(Some((order, reason))) => {
                    self.peer.order(order, &reason, self.now())
                }
                // The master has let go of it.
                Happening::Order(None) => return Ok(()),
            };
            is_over = self.carry_out(effects).await?;
        }
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<Happening> {
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
                Happening::Readable
            }
            writable = self.socket.writable(), if !self.unread.is_empty() => {
                writable?;
                Happening::Writable
            }
            verdict = received(&mut self.verdict) => Happening::Decided(verdict),
            order = next(&mut self.orders) => Happening::Order(order),
            () = due => Happening::Due,
        })
    }

    fn decided(&mut self, verdict: Option<Verdict>) -> Vec<PeerEffect> {
        self.verdict = None;
        let refusal = match verdict {
            Some(Verdict::Accepted { token, orders }) => {
                (self.token, self.orders) = (Some(token), Some(orders));
                self.place = None;
                None
            }
            Some(Verdict::Refused(reason)) => Some(reason),
            None => Some("the master is ending".to_owned()),
        };
        self.peer.decide(refusal, self.now())
    }

    /// Returns whether the connection is over.
    async fn carry_out(&mut self, effects: Vec<PeerEffect>) -> io::Result<bool> {
        for effect in effects {
            match effect {
                PeerEffect::Send(line) => {
                    self.unread.extend(line.as_bytes());
                    self.unread.push_back(b'\n');
                }
                PeerEffect::Decide(facts) => {
                    let (verdict, decided) = oneshot::channel();
                    self.verdict = Some(decided);
                    let socket = Arc::clone(&self.socket);
                    self.tell(WorkerEvent::Arrived(Arrival { facts, socket, verdict })).await;
                }
                PeerEffect::Tell(news) => {
                    if let Some(token) = self.token {
                        self.tell(WorkerEvent::News { token, news }).await;
                    }
                }
                PeerEffect::End(why) => {
                    self.flush()?;
                    tracing::debug!(%why, "worker connection ended by us");
                    return Ok(true);
                }
            }
        }
        self.flush()?;
        if self.unread.len() > UNREAD_LIMIT {
            self.peer.give_up();
            tracing::debug!("worker connection ended by us: the peer does not read");
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
        if let Some(mut verdict) = self.verdict.take()
            && let Some(Verdict::Accepted { token, .. }) = {
                verdict.close();
                verdict.try_recv().ok()
            }
        {
            self.token = Some(token);
        }
        if let Some(token) = self.token {
            self.tell(WorkerEvent::Left { token }).await;
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }
}

async fn received(verdict: &mut Option<oneshot::Receiver<Verdict>>) -> Option<Verdict> {
    match verdict {
        Some(verdict) => verdict.await.ok(),
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
