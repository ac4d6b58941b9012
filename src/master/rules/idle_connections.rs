//! Connections that are silent for longer than connection tracking remembers them.
//!
//! A connection that was translated lives as long as its entry, and the kernel forgets an entry on which no
//! packet came for `nf_conntrack_tcp_timeout_established` (5 days; hosts with many connections set minutes).
//! Of what the server then sends the client is sent the worker's port, and ends the connection; what the
//! client sends is led as a new connection is, after a reload to another worker. So the entries of
//! connections that a worker still has are kept: before half of their time is over they get the whole of it
//! again, as by a packet. Those of connections that nobody has expire as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::master::background::BackgroundThread;
use crate::master::error::{MasterError, causes};
use crate::nft::Conntrack;
use crate::plan::{Engine, Plan};
use crate::process::Sockets;

/// How long the kernel remembers an established connection, in seconds.
const TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";

/// The longest time to the next look at [`TIMEOUT`], which may be set to less, and the shortest.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(1);

/// The entries of connections that workers have.
pub(super) struct IdleConnections {
    thread: BackgroundThread,
    due: Option<Instant>,
    /// When entries were looked at last.
    looked: Option<Instant>,
    is_under_way: Arc<AtomicBool>,
}

impl IdleConnections {
    pub(super) fn new() -> Result<Self, MasterError> {
        Ok(Self {
            thread: BackgroundThread::new("idle-conns")?,
            // Of an earlier master's rules as well, which may stay as they are.
            due: Some(Instant::now() + SHORTEST),
            looked: None,
            is_under_way: Arc::default(),
        })
    }

    /// A plan has come into force.
    pub(super) fn committed(&mut self, plan: &Plan) {
        self.due = match plan.engine() {
            Engine::Redirect => self.due.or_else(|| Some(Instant::now() + SHORTEST)),
            // A connection belongs to its socket alone.
            Engine::Tproxy => None,
        };
    }

    /// When [`Self::look`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Keeps the entries of connections to workers, if a quarter of their time has gone by since the last
    /// time.
    pub(super) fn look(&mut self, plan: &Plan, now: Instant) {
        if plan.engine() == Engine::Tproxy {
            self.due = None;
            return;
        }
        let Some(timeout) = timeout() else {
            // Connections are tracked from the first rule on.
            self.due = Some(now + LONGEST);
            return;
        };
        let interval = (timeout / 4).max(SHORTEST);
        self.due = Some(now + interval.min(LONGEST));
        let is_time = self.looked.is_none_or(|looked| now.duration_since(looked) >= interval);
        if !is_time || self.is_under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        self.looked = Some(now);
        let occupants = plan.seats().filter_map(|(_, occupant)| occupant);
        let seated = occupants.flat_map(|occupant| occupant.ports.iter().copied());
        let ports: BTreeSet<u16> =
            seated.chain(plan.all_guarded_ports()).map(|port| port.number()).collect();
        let is_under_way = Arc::clone(&self.is_under_way);
        self.thread.run(move || {
            keep(&ports, timeout);
            is_under_way.store(false, Ordering::Release);
        });
    }
}

fn keep(ports: &BTreeSet<u16>, timeout: Duration) {
    let peers = Sockets::open().and_then(|mut sockets| sockets.peers(ports));
    let peers = match peers {
        Ok(peers) => peers,
        Err(error) => {
            tracing::warn!(error = causes(&error), "cannot list the connections of workers");
            return;
        }
    };
    let mut clients: BTreeMap<u16, BTreeSet<SocketAddr>> = BTreeMap::new();
    for peer in peers {
        clients.entry(peer.port).or_default().insert(peer.peer);
    }
    if clients.is_empty() {
        return;
    }
    match Conntrack::open().and_then(|mut it| it.keep(&clients, timeout)) {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "conntrack entries of idle connections were kept"),
        Err(error) => tracing::warn!(
            error = causes(&error),
            "cannot keep the conntrack entries of idle connections: those that are silent for longer than \
             nf_conntrack_tcp_timeout_established may be reset"
        ),
    }
}

fn timeout() -> Option<Duration> {
    let text = fs::read_to_string(TIMEOUT).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
