//! What the kernel does without rules: no balancer, one listening socket for all workers, and one for each.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ipcluster::lab::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::launcher::{Place, RESTART_OF_SYSTEMD, Workers, listen_in};
use super::stage::{Balancer, Fault, PORT, Stage};

/// The port of the first worker.
pub(crate) const FIRST_WORKER_PORT: u16 = 20_000;

/// Each client knows the port of its worker.
pub(crate) struct Straight {
    stage: Stage,
    _workers: Workers,
}

impl Straight {
    pub(crate) fn start(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        let place = Place::Ports(FIRST_WORKER_PORT);
        let server = stage.network.server();
        let workers = Workers::start(server, &place, stage.workers, RESTART_OF_SYSTEMD)?;
        Ok(Box::new(Self { stage, _workers: workers }))
    }
}

impl Balancer for Straight {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn targets(&self) -> Vec<SocketAddr> {
        (0..self.stage.workers).map(|seat| Network::server_v4(FIRST_WORKER_PORT + seat)).collect()
    }

    fn processes(&self) -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn begin_reload(&mut self) -> Result<(), Fault> {
        Err(Fault::not_offered("nobody tells clients of other workers"))
    }

    fn begin_replacement(&mut self, _: u32) -> Result<(), Fault> {
        self.begin_reload()
    }
}

/// Workers that share a port: by one listening socket, or each by its own with `SO_REUSEPORT`.
pub(crate) struct OnePort {
    stage: Stage,
    /// The socket of all; else each has its own.
    socket: Option<OwnedFd>,
    workers: Vec<Workers>,
}

impl OnePort {
    pub(crate) fn shared(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        let socket = listen_in(stage.network.server(), PORT)?;
        Self::start(stage, Some(socket))
    }

    pub(crate) fn reuse_port(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        Self::start(stage, None)
    }

    fn start(stage: Stage, socket: Option<OwnedFd>) -> Result<Box<dyn Balancer>, Fault> {
        let mut balancer = Self { stage, socket, workers: Vec::new() };
        balancer.begin_reload()?;
        Ok(Box::new(balancer))
    }
}

impl Balancer for OnePort {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> BTreeSet<u32> {
        self.workers.iter().map(Workers::launcher).collect()
    }

    /// Both accept until the earlier ones are told to end, so that is done at once.
    fn begin_reload(&mut self) -> Result<(), Fault> {
        let place = match &self.socket {
            Some(socket) => Place::Shared(socket.try_clone()?),
            None => Place::ReusePort(PORT),
        };
        let server = self.stage.network.server();
        // Whoever starts workers this way starts one again at once, as einhorn does.
        let workers = Workers::start(server, &place, self.stage.workers, Duration::ZERO)?;
        for earlier in self.workers.drain(..) {
            earlier.retire()?;
        }
        self.workers.push(workers);
        Ok(())
    }

    /// The worker ends, and its launcher starts another one.
    fn begin_replacement(&mut self, worker: u32) -> Result<(), Fault> {
        Ok(kill(Pid::from_raw(i32::try_from(worker).expect("a process number")), Signal::SIGTERM)?)
    }
}
