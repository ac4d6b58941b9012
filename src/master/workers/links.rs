//! Workers that have connected: who they are, what they tell, what they are told.
//!
//! A worker is a process that the kernel says is one: it has connected, and its session is that of a
//! process which this master has started ([`Master::worker_of`], the one place where that is
//! decided). What it says of itself has to agree: its pid (`control::Peer` compares it), its seat,
//! and its ports, on which sockets of its own processes must listen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{
    self, JoinRequest, MessageError, PeerEvent, WorkerEvent, WorkerLink, WorkerOrder,
};
use crate::master::run::Master;
use crate::plan::{Port, Seat};
use crate::process::{PidFd, ProcessError, peer_process, session_of};
use crate::supervisor::{Input, Timestamp, WorkerId, WorkerState};

/// The connections of workers, and who has none any more.
#[derive(Default)]
pub(crate) struct WorkerLinks {
    joined: BTreeMap<WorkerId, Joined>,
    /// Workers whose connection has ended, and when.
    disconnected: BTreeMap<WorkerId, Timestamp>,
    /// Those of them that were told to be silent.
    silent: BTreeSet<WorkerId>,
    last_token: u64,
    refusals: Refusals,
    /// It was said that a worker has ports that the guard does not cover.
    said_unguarded: bool,
}

struct Joined {
    link: WorkerLink,
    /// The process that has connected.
    process: PidFd,
}

impl Joined {
    /// Whether nobody is at the other end: it was closed, or who had opened it has ended and left it
    /// to another.
    fn is_gone(&self) -> bool {
        self.link.is_gone() || self.process.has_exited().unwrap_or(false)
    }
}

/// What is known of a worker that may join.
struct Admitted {
    worker: WorkerId,
    process: PidFd,
    /// Its ports, if they were not known before.
    ports: Option<Arc<[Port]>>,
}

/// Why a process may not join.
#[derive(Debug, thiserror::Error)]
enum JoinRefused {
    #[error("process {0} is no process of a worker of this master")]
    Stranger(u32),
    #[error("band: {given}, but this worker holds seat {seat}")]
    Seat { given: Seat, seat: Seat },
    #[error("this worker is connected already")]
    Second,
    #[error("this worker is to end, and its ports were never known")]
    TooLate,
    #[error(transparent)]
    Portmap(#[from] MessageError),
    #[error("portmap: the ports of this worker are {0}, and stay so")]
    OtherPorts(String),
    #[error("portmap: {port} belongs to the worker of seat {seat}")]
    Taken { port: Port, seat: Seat },
    #[error(
        "portmap: {0} belonged to a worker that has ended, and connections may still lead there"
    )]
    Draining(Port),
    #[error("portmap: no socket of this worker listens on {0}")]
    NotListening(Port),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl Master {
    /// Takes in what comes from workers.
    pub(crate) fn take_link_event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::JoinRequested(arrival) => match self.admit(&arrival) {
                Ok(admitted) => self.join(admitted, arrival),
                Err(refusal) => {
                    self.world.peers.refusals.note(&refusal);
                    arrival.refuse(refusal.to_string());
                }
            },
            WorkerEvent::Peer { token, event: news } => {
                if let Some(worker) = self.world.peers.worker_with(token) {
                    self.hear_news(worker, news);
                }
            }
            WorkerEvent::Disconnected { token } => {
                if let Some(worker) = self.world.peers.worker_with(token) {
                    self.world.peers.joined.remove(&worker);
                    self.world.peers.disconnected.insert(worker, self.world.now());
                    self.dispatch(Input::LinkClosed { worker });
                }
            }
        }
    }

    /// When a worker that has disconnected counts as silent.
    pub(crate) fn disconnect_deadline(&self) -> Option<Timestamp> {
        let WorkerLinks { disconnected, silent, .. } = &self.world.peers;
        let limit = self.config.timeouts.ping?;
        let waits = disconnected.iter().filter(|(worker, _)| !silent.contains(worker));
        waits.map(|(_, at)| at.after(limit)).min()
    }

    /// A worker reconnects at once; one that does not, though its process lives, is silent.
    pub(crate) fn report_disconnected(&mut self) {
        let Some(limit) = self.config.timeouts.ping else { return };
        let now = self.world.now();
        let WorkerLinks { disconnected, silent, .. } = &mut self.world.peers;
        let over =
            disconnected.iter().filter(|(_, at)| at.after(limit) <= now).map(|(worker, _)| *worker);
        let over: Vec<WorkerId> = over.filter(|worker| silent.insert(*worker)).collect();
        for worker in over {
            self.heard_on_link(worker, false);
        }
    }

    /// The worker of this master that a process belongs to.
    fn worker_of(&self, process: &PidFd) -> Result<Option<WorkerId>, ProcessError> {
        let session = session_of(process)?;
        Ok(session.and_then(|leader| self.world.processes.worker_of(leader)))
    }

    fn admit(&mut self, arrival: &JoinRequest) -> Result<Admitted, JoinRefused> {
        let process = peer_process(arrival)?;
        let worker = self.worker_of(&process)?.ok_or(JoinRefused::Stranger(process.pid()))?;
        let known = self.supervisor.workers().find(|known| known.id == worker);
        let known = known.ok_or(JoinRefused::Stranger(process.pid()))?;
        let (seat, state) = (known.seat, known.state());
        if arrival.info.seat != seat {
            return Err(JoinRefused::Seat { given: arrival.info.seat, seat });
        }
        // Workers reconnect at once, which may be before the end of their last connection was heard of.
        if self.world.peers.joined.get(&worker).is_some_and(|joined| !joined.is_gone()) {
            return Err(JoinRefused::Second);
        }
        let public = self.config.listeners.public_ports();
        let ports = control::worker_ports(public, &arrival.info.ports)?;
        let held = self.world.processes.ports_of(worker);
        match held.filter(|held| !held.is_empty()) {
            Some(held) if *held == *ports => Ok(Admitted { worker, process, ports: None }),
            Some(held) => Err(JoinRefused::OtherPorts(list(&held))),
            None if state != WorkerState::Starting => Err(JoinRefused::TooLate),
            None => {
                self.check_ports(worker, &ports)?;
                Ok(Admitted { worker, process, ports: Some(ports.into()) })
            }
        }
    }

    /// Whether these ports are those of a worker, and of no other.
    fn check_ports(&mut self, worker: WorkerId, ports: &[Port]) -> Result<(), JoinRefused> {
        let others = self.supervisor.workers().filter(|other| other.id != worker);
        let others = others.filter_map(|other| Some((other.seat, other.ports.as_ref()?)));
        // Workers of an earlier master among them.
        let in_force = self.supervisor.plan().seats();
        let in_force = in_force.filter_map(|(seat, occupant)| Some((seat, &occupant?.ports)));
        for (seat, taken) in others.chain(in_force) {
            if let Some(port) = ports.iter().find(|port| taken.contains(port)) {
                return Err(JoinRefused::Taken { port: *port, seat });
            }
        }
        if let Some(port) = ports.iter().find(|port| self.draining.holds(**port)) {
            return Err(JoinRefused::Draining(*port));
        }
        match self.world.processes.not_listening(worker, ports, &self.config.listeners)? {
            Some(port) => Err(JoinRefused::NotListening(port)),
            None => Ok(()),
        }
    }

    fn join(&mut self, admitted: Admitted, arrival: JoinRequest) {
        let Admitted { worker, process, ports } = admitted;
        if let Some(ports) = ports {
            self.warn_of_unguarded(&ports);
            self.world.processes.set_ports(worker, Arc::clone(&ports));
            self.dispatch(Input::PortsReported { worker, ports });
        }
        let knows_retired = arrival.info.is_retired;
        let peers = &mut self.world.peers;
        peers.last_token += 1;
        let link = arrival.accept(peers.last_token);
        peers.joined.insert(worker, Joined { link, process });
        peers.disconnected.remove(&worker);
        let was_silent = peers.silent.remove(&worker);
        self.dispatch(Input::LinkOpened { worker, knows_retired });
        if was_silent {
            self.heard_on_link(worker, true);
        }
    }

    /// Says once that other hosts can reach workers around the balancer.
    fn warn_of_unguarded(&mut self, ports: &[Port]) {
        let range = self.config.worker_ports;
        let outside = ports.iter().find(|port| !range.contains(**port));
        if let Some(port) = outside.filter(|_| !self.world.peers.said_unguarded) {
            self.world.peers.said_unguarded = true;
            tracing::warn!(
                "a worker listens on port {port}, outside of worker_ports {range}: other hosts can \
                 reach it there, around the balancer; have it listen on the port in PORT, or close \
                 its ports by a firewall"
            );
        }
    }

    fn hear_news(&mut self, worker: WorkerId, news: PeerEvent) {
        match news {
            PeerEvent::Silent => self.heard_on_link(worker, false),
            PeerEvent::Answered => self.heard_on_link(worker, true),
            PeerEvent::Lagging(lag) => self.dispatch(Input::Lagging { worker, lag }),
            PeerEvent::RetireAsked(reason) => {
                tracing::info!(%worker, ?reason, "a worker asks for its retirement");
                self.dispatch(Input::RetireRequested { worker });
            }
            PeerEvent::Unanswered(order) => {
                tracing::warn!(%worker, order = order.name(), "a worker did not answer an order");
                if order == WorkerOrder::Die {
                    self.dispatch(Input::OrderUnanswered { worker });
                }
            }
        }
    }
}

impl WorkerLinks {
    /// Tells a worker; returns whether it is connected.
    pub(crate) fn order(&self, worker: WorkerId, order: WorkerOrder, reason: &str) -> bool {
        let joined = self.joined.get(&worker);
        if let Some(joined) = joined {
            joined.link.order(order, reason);
        }
        joined.is_some()
    }

    /// Forgets a worker whose process has ended.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.joined.remove(&worker);
        self.disconnected.remove(&worker);
        self.silent.remove(&worker);
    }

    fn worker_with(&self, token: u64) -> Option<WorkerId> {
        let mut joined = self.joined.iter();
        joined.find(|(_, joined)| joined.link.token() == token).map(|(worker, _)| *worker)
    }
}

/// The refusals that are not in the log yet: whoever makes many does not fill it.
#[derive(Default)]
struct Refusals {
    said: Option<Instant>,
    unsaid: u64,
}

/// The least time between two lines about refusals.
const SAY_INTERVAL: Duration = Duration::from_secs(1);

impl Refusals {
    fn note(&mut self, refusal: &JoinRefused) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_INTERVAL) {
            self.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        self.said = Some(Instant::now());
        tracing::warn!(reason = %refusal, before = unsaid, "a worker's connection was refused");
    }
}

fn list(ports: &[Port]) -> String {
    ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", ")
}
