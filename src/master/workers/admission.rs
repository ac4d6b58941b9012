//! Whether a process that has connected is a worker of this master.
//!
//! A worker is a process that the kernel says is one: it has connected, and its session is that of a
//! process which this master has started. What it says of itself has to agree: its pid
//! (`control::Peer` compares it), its seat, and its ports, on which sockets of its own processes must
//! listen.

use std::sync::Arc;

use super::connections::Connections;
use super::processes::Processes;
use crate::control::{self, JoinRequest, MessageError};
use crate::plan::{Port, Seat};
use crate::process::{PidFd, ProcessError, peer_process, session_of};
use crate::protocol::{WorkerId, WorkerState};
use crate::supervisor::Supervisor;

/// What the master knows that decides who may join.
pub(super) struct Admission<'a> {
    pub(super) supervisor: &'a Supervisor,
    pub(super) processes: &'a mut Processes,
    pub(super) connections: &'a Connections,
    /// Whether a worker has a connection already.
    pub(super) is_connected: &'a dyn Fn(WorkerId) -> bool,
}

/// A worker that may join.
pub(super) struct Admitted {
    pub(super) worker: WorkerId,
    /// The process that has connected.
    pub(super) process: PidFd,
    /// Its ports, if they were not known before.
    pub(super) ports: Option<Arc<[Port]>>,
}

/// Why a process may not join.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinRefused {
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

impl Admission<'_> {
    /// The worker that has connected.
    pub(super) fn admit(self, request: &JoinRequest) -> Result<Admitted, JoinRefused> {
        let process = peer_process(request)?;
        let stranger = || JoinRefused::Stranger(process.pid());
        let worker = self.worker_of(&process)?.ok_or_else(stranger)?;
        let known = self.supervisor.workers().find(|known| known.id == worker);
        let known = known.ok_or_else(stranger)?;
        let seat = known.seat;
        let may_tell = known.state() == WorkerState::Starting || known.is_found_retired();
        if request.info.seat != seat {
            return Err(JoinRefused::Seat { given: request.info.seat, seat });
        }
        // Workers reconnect at once, which may be before the end of their last connection was heard of.
        if (self.is_connected)(worker) {
            return Err(JoinRefused::Second);
        }
        let listeners = self.processes.listeners_of(worker).cloned().ok_or_else(stranger)?;
        let ports = control::worker_ports(listeners.public_ports(), &request.info.ports)?;
        let held = self.processes.ports_of(worker);
        match held.filter(|held| !held.is_empty()) {
            Some(held) if *held == *ports => Ok(Admitted { worker, process, ports: None }),
            Some(held) => Err(JoinRefused::OtherPorts(list(&held))),
            None if !may_tell => Err(JoinRefused::TooLate),
            None => {
                self.check_ports(worker, &ports)?;
                Ok(Admitted { worker, process, ports: Some(ports.into()) })
            }
        }
    }

    /// The worker of this master that a process belongs to: the one place where that is decided.
    fn worker_of(&self, process: &PidFd) -> Result<Option<WorkerId>, ProcessError> {
        let session = session_of(process)?;
        Ok(session.and_then(|leader| self.processes.worker_of(leader)))
    }

    /// Whether these ports are those of a worker, and of no other.
    fn check_ports(self, worker: WorkerId, ports: &[Port]) -> Result<(), JoinRefused> {
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
        if let Some(port) = ports.iter().find(|port| self.connections.hold(**port)) {
            return Err(JoinRefused::Draining(*port));
        }
        match self.processes.not_listening(worker, ports)? {
            Some(port) => Err(JoinRefused::NotListening(port)),
            None => Ok(()),
        }
    }
}

fn list(ports: &[Port]) -> String {
    ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", ")
}
