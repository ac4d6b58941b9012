//! A load: what it should be, and the handle of one that runs.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::engine::{Engine, Shared};
use super::{LabError, Namespace, Report};

/// Many short connections from many client addresses.
///
/// Each binds to the next client address, connects to the next target of its family, asks (see
/// [`Ask`]), reads the answer of a worker (see [`Identity`](super::Identity)) and closes. Clients
/// take turns, so each connects equally often.
#[derive(Debug, Clone)]
pub struct Load {
    pub(super) targets: Vec<SocketAddr>,
    pub(super) clients: Vec<IpAddr>,
    pub(super) pace: Pace,
    pub(super) ask: Ask,
    pub(super) close: Close,
    pub(super) time_out: Duration,
    pub(super) connections: Option<u64>,
    pub(super) duration: Option<Duration>,
    pub(super) max_open: usize,
}

/// When the connections of a load begin.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Pace {
    /// So many a second, however fast the answers come (open loop): what is late is made up for,
    /// so that a pause of the server is seen by as many connections as it would be by users.
    Rate(f64),
    /// So many at a time: one begins when another ends (closed loop).
    Concurrency(usize),
}

/// How a client gets its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask {
    /// It sends `GET / HTTP/1.1`: any server that answers with an identity will do.
    Http,
    /// It sends nothing: the worker speaks first and closes, as a [`greeter`](super::greeter) with
    /// `GREETER_SPEAK=first` does. Both sides have less to do for such a connection, so a small
    /// machine reaches a higher rate; a lost one is seen as with HTTP.
    Nothing,
}

/// How a client ends a connection that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Close {
    /// By `close`, which sends a FIN.
    Normal,
    /// By `close` with `SO_LINGER` 0, which sends a reset, unless the server closed before it. The
    /// kernel keeps no TIME_WAIT for it, so source ports are used again soon.
    Reset,
}

impl Load {
    /// A load on these public addresses. A client connects to those of its own family, in turn.
    ///
    /// Until told otherwise: no clients, 1,000 connections a second without end, HTTP, time-out
    /// 2 s, normal close, at most 10,000 connections open.
    pub fn to(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            clients: Vec::new(),
            pace: Pace::Rate(1000.0),
            ask: Ask::Http,
            close: Close::Normal,
            time_out: Duration::from_secs(2),
            connections: None,
            duration: None,
            max_open: 10_000,
        }
    }

    /// Adds client addresses.
    pub fn from(mut self, clients: impl IntoIterator<Item = IpAddr>) -> Self {
        self.clients.extend(clients);
        self
    }

    /// Sets when connections begin.
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Sets how clients ask.
    pub fn ask(mut self, ask: Ask) -> Self {
        self.ask = ask;
        self
    }

    /// Sets how connections end.
    pub fn close(mut self, close: Close) -> Self {
        self.close = close;
        self
    }

    /// Sets how long one connection may take from `connect` to the end of its answer.
    pub fn time_out(mut self, time_out: Duration) -> Self {
        self.time_out = time_out;
        self
    }

    /// Ends the load after so many connections.
    pub fn connections(mut self, connections: u64) -> Self {
        self.connections = Some(connections);
        self
    }

    /// Begins no connection after this time.
    pub fn for_at_most(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// Sets the most connections open at one time; at the limit a load by rate falls behind.
    pub fn max_open(mut self, max_open: usize) -> Self {
        self.max_open = max_open;
        self
    }

    /// Starts the load on a thread of its own in `namespace`.
    ///
    /// Raises the soft limit of open files of this process to the hard one, since every
    /// connection takes a descriptor.
    ///
    /// # Errors
    /// [`LabError::NoClients`], [`LabError::NoTarget`], [`LabError::Pace`] for a load that makes no
    /// sense; [`LabError::Engine`], [`LabError::Namespace`], [`LabError::Thread`].
    pub fn start(self, namespace: &Namespace) -> Result<RunningLoad, LabError> {
        self.check()?;
        raise_file_limit()?;
        let shared = Arc::new(Shared::new(&self));
        let engine = Engine::new(self, Arc::clone(&shared))?;
        let thread = namespace.spawn("load", move || engine.run())?;
        Ok(RunningLoad { shared, thread: Some(thread) })
    }

    fn check(&self) -> Result<(), LabError> {
        if self.clients.is_empty() {
            return Err(LabError::NoClients);
        }
        let has_target = |client: &IpAddr| {
            self.targets.iter().any(|target| target.is_ipv4() == client.is_ipv4())
        };
        if let Some(&client) = self.clients.iter().find(|client| !has_target(client)) {
            return Err(LabError::NoTarget { client });
        }
        match self.pace {
            Pace::Rate(pace) if !(pace.is_finite() && pace > 0.0) => Err(LabError::Pace { pace }),
            Pace::Concurrency(0) => Err(LabError::Pace { pace: 0.0 }),
            _ => Ok(()),
        }
    }
}

fn raise_file_limit() -> Result<(), LabError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .map_err(|errno| LabError::Engine {
            operation: "raise RLIMIT_NOFILE",
            source: errno.into(),
        })
}

/// How far a running load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Connections begun.
    pub started: u64,
    /// Connections answered.
    pub answered: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Answers by another process than the one that answered the client's previous connection.
    pub changed_worker: u64,
}

/// A load that runs. Dropping it stops it.
#[derive(Debug)]
pub struct RunningLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl RunningLoad {
    /// The counters at this moment; cheap.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// When the load began.
    pub fn began(&self) -> Instant {
        self.shared.began
    }

    /// Whether it has come to its end: no connection is open, none will begin.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What has happened so far. Copies every answer: for the end of a phase, not for a display.
    pub fn report(&self) -> Report {
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !self.is_finished() {
            report.elapsed = self.shared.began.elapsed();
        }
        report
    }

    /// Waits for the end that [`Load::connections`] or [`Load::for_at_most`] set, and for the
    /// connections open then.
    pub fn wait(mut self) -> Report {
        self.join();
        self.report()
    }

    /// Begins no more connections, and waits for those that are open: at most the time-out.
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    fn join(&mut self) {
        if let Some(Err(panicked)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panicked);
        }
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}
