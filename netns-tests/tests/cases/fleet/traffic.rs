//! What clients do and see while a fleet changes: short, long and keep-alive connections at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Identity, Load, Namespace, Network, Pace, RunningLoad};
use netns_tests::wait_until;

use super::masters::{Hosts, PATIENCE};
use super::public;

/// How many clients of each kind there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Client addresses. Each has a long connection, and short ones in turn.
    pub(super) addresses: u16,
    /// Connections that ask again and again.
    pub(super) keep_alive: u16,
    /// How long the clients of keep-alive connections think between two requests.
    pub(super) thinking: Duration,
    /// Short connections a second.
    pub(super) rate: f64,
}

/// Requests on one keep-alive connection, behind which its client closes it and opens another one.
const REQUESTS: u32 = 20;

/// Threads that ask on keep-alive connections.
const ASKING: u16 = 4;

/// Where workers are, by the network namespace of their process.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<BTreeMap<PathBuf, &'static str>>);

impl Places {
    fn of(fleet: &Hosts<'_>) -> Self {
        let inode = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let hosts = fleet.hosts.iter().map(|host| (inode(host.holder.pid()), host.name));
        Self(Arc::new(hosts.collect()))
    }

    /// The host of a worker that is alive.
    pub(super) fn host_of(&self, worker: Identity) -> Option<&'static str> {
        let inode = std::fs::read_link(format!("/proc/{}/ns/net", worker.pid)).ok()?;
        self.0.get(&inode).copied()
    }
}

/// A connection that a client has lost, or could not open.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) client: IpAddr,
    /// Where it was; none if it was never open.
    pub(super) host: Option<&'static str>,
    /// When it was asked last, or was to be opened.
    pub(super) began: Instant,
    pub(super) reason: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, host, reason, .. } = self;
        write!(f, "{client} at {}: {reason}", host.unwrap_or("no host"))
    }
}

/// A connection and where it ends.
#[derive(Debug)]
struct Open {
    held: Held,
    client: IpAddr,
    host: &'static str,
    requests: u32,
}

impl Open {
    fn new(clients: &Namespace, places: &Places, client: IpAddr) -> Result<Self, Loss> {
        let began = Instant::now();
        let lost = |reason: String| Loss { client, host: None, began, reason };
        let held =
            Held::open(clients, client, public()).map_err(|error| lost(error.to_string()))?;
        let host = places.host_of(held.by()).ok_or_else(|| lost("by nobody".to_owned()))?;
        Ok(Self { held, client, host, requests: 0 })
    }

    fn ask(&mut self) -> Result<(), Loss> {
        let began = Instant::now();
        self.requests += 1;
        self.held.echo("still there").map(drop).map_err(|error| {
            let (client, host) = (self.client, Some(self.host));
            Loss { client, host, began, reason: error.to_string() }
        })
    }
}

/// What the threads of keep-alive connections share.
#[derive(Debug, Default)]
struct Shared {
    stops: AtomicBool,
    exchanges: AtomicU64,
    /// Full rounds of each thread.
    rounds: [AtomicU64; ASKING as usize],
    losses: Mutex<Vec<Loss>>,
    /// A host that has died: what was there is not asked again.
    dead: Mutex<Option<&'static str>>,
}

/// All clients.
pub(super) struct Traffic<'a> {
    fleet_clients: &'a Namespace,
    size: Size,
    pub(super) places: Places,
    short: RunningLoad,
    long: Vec<Open>,
    shared: Arc<Shared>,
    asking: Vec<JoinHandle<()>>,
}

impl<'a> Traffic<'a> {
    /// Begins; every client has been served once when this returns.
    pub(super) fn start(fleet: &Hosts<'a>, size: Size) -> Self {
        let (clients, places) = (fleet.lab.client(), Places::of(fleet));
        let long = Network::clients_v4(size.addresses);
        let long = long.map(|client| Open::new(clients, &places, client).unwrap()).collect();
        let short = Load::to([public()]).from(Network::clients_v4(size.addresses));
        let short = short.pace(Pace::Rate(size.rate)).time_out(PATIENCE).start(clients).unwrap();
        let shared = Arc::new(Shared::default());
        let asking = (0..ASKING).map(|nth| {
            let (shared, places) = (Arc::clone(&shared), places.clone());
            let addresses = Network::clients_v4(size.keep_alive);
            let own: Vec<IpAddr> = addresses.skip(nth.into()).step_by(ASKING.into()).collect();
            let asking = move || keep_alive(&own, size.thinking, nth.into(), &places, &shared);
            clients.spawn("asking", asking).unwrap()
        });
        let asking = asking.collect();
        let traffic = Self { fleet_clients: clients, size, places, short, long, shared, asking };
        traffic.go_on();
        traffic
    }

    /// Waits until every keep-alive connection has been asked since, and short ones were answered.
    pub(super) fn go_on(&self) {
        let counts = || self.shared.rounds.each_ref().map(|it| it.load(Ordering::SeqCst));
        let (rounds, short) = (counts(), self.short.counters().answered);
        wait_until("the connections to go on", 3 * PATIENCE, || {
            let is_behind = |(now, before): (u64, u64)| now >= before + 2;
            counts().into_iter().zip(rounds).all(is_behind)
                && self.short.counters().answered >= short + 50
        });
    }

    /// Asks on all long connections, and waits for the others.
    #[track_caller]
    pub(super) fn check(&mut self) {
        let lost: Vec<Loss> = self.long.iter_mut().filter_map(|it| it.ask().err()).collect();
        assert!(lost.is_empty(), "{} long ones are lost, such as {}", lost.len(), lost[0]);
        self.go_on();
        let lost = self.shared.losses.lock().unwrap();
        assert!(lost.is_empty(), "{} keep-alive ones are lost, such as {}", lost.len(), lost[0]);
        assert_eq!(self.short.counters().failed, 0, "{}", self.short.report());
    }

    /// The long ones that are lost, by client, and those that are there.
    ///
    /// # Panics
    /// Where so many do not answer that to wait for all of them would take minutes.
    pub(super) fn ask_long(&mut self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let began = Instant::now();
        let ask = |it: &mut Open| {
            let is_lost = it.ask().is_err();
            assert!(!is_lost || began.elapsed() < 6 * PATIENCE, "{} and more are lost", it.client);
            (it.client, is_lost)
        };
        let (lost, kept): (Vec<_>, Vec<_>) = self.long.iter_mut().map(ask).partition(|it| it.1);
        let clients = |all: Vec<(IpAddr, bool)>| all.into_iter().map(|it| it.0).collect();
        (clients(lost), clients(kept))
    }

    /// Which host serves each client now.
    pub(super) fn census(&self) -> BTreeMap<IpAddr, &'static str> {
        let count = self.size.addresses;
        let load = Load::to([public()]).from(Network::clients_v4(count)).time_out(PATIENCE);
        let load = load.pace(Pace::Concurrency(32)).connections(count.into());
        let report = load.start(self.fleet_clients).unwrap().wait();
        assert_eq!((report.failed(), report.answered()), (0, count.into()), "{report}");
        let hosts = report.last_by_client().into_iter();
        hosts.map(|(client, by)| (client, self.places.host_of(by).unwrap())).collect()
    }

    /// Opens a second long connection of every client: younger ones, at other owners.
    pub(super) fn open_long(&mut self) {
        let clients = Network::clients_v4(self.size.addresses);
        let open = |client| Open::new(self.fleet_clients, &self.places, client).unwrap();
        let opened: Vec<Open> = clients.map(open).collect();
        self.long.extend(opened);
    }

    /// A host is about to die: what it has is lost, and is asked no more. Returns how many long ones that are.
    pub(super) fn give_up(&mut self, host: &'static str) -> usize {
        *self.shared.dead.lock().unwrap() = Some(host);
        let before = self.long.len();
        self.long.retain(|it| it.host != host);
        before - self.long.len()
    }

    /// The host is there again, or is no more.
    pub(super) fn forget_dead(&self) {
        *self.shared.dead.lock().unwrap() = None;
    }

    /// Ends all, and returns what was lost, the short ones among them, and how many exchanges there were.
    pub(super) fn stop(self) -> (Vec<Loss>, u64) {
        self.shared.stops.store(true, Ordering::SeqCst);
        for thread in self.asking {
            thread.join().unwrap();
        }
        let report = self.short.stop();
        let short = report.failures().iter().map(|failure| Loss {
            client: failure.source.ip(),
            host: None,
            began: failure.at.checked_sub(failure.after).unwrap(),
            reason: failure.to_string(),
        });
        let mut losses = self.shared.losses.lock().unwrap().clone();
        losses.extend(short);
        (losses, report.answered() + self.shared.exchanges.load(Ordering::SeqCst))
    }
}

/// Asks on a connection of each client in turn, until told to end.
fn keep_alive(
    clients: &[IpAddr],
    thinking: Duration,
    nth: usize,
    places: &Places,
    shared: &Shared,
) {
    let namespace = Namespace::current().unwrap();
    let mut connections: Vec<Option<Open>> = clients.iter().map(|_| None).collect();
    while !shared.stops.load(Ordering::SeqCst) {
        let began = Instant::now();
        for (client, connection) in clients.iter().zip(&mut connections) {
            let dead = *shared.dead.lock().unwrap();
            let is_old = |it: &mut Open| it.requests >= REQUESTS || dead == Some(it.host);
            // Dropped before the next one is opened.
            drop(connection.take_if(is_old));
            let outcome = match connection {
                Some(open) => open.ask(),
                // Until others have its slots nobody serves the clients of a host that has died.
                None if dead.is_some() => continue,
                None => Open::new(&namespace, places, *client).map(|it| *connection = Some(it)),
            };
            match outcome {
                Ok(()) => drop(shared.exchanges.fetch_add(1, Ordering::SeqCst)),
                Err(loss) => {
                    *connection = None;
                    shared.losses.lock().unwrap().push(loss);
                }
            }
        }
        shared.rounds[nth].fetch_add(1, Ordering::SeqCst);
        thread::sleep(thinking.saturating_sub(began.elapsed()));
    }
}
