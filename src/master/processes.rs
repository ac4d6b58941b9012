//! The processes of the workers, by worker.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::counting::{PortsByWorker, count_sockets};
use super::output::Printer;
use super::spawner::Started;
use crate::plan::{Listener, Listeners, Port, Protocol, Seat};
use crate::process::{
    self, Child, Delivery, ListenTable, OutputReader, ProcessError, Reach, Transport,
};
use crate::supervisor::{Exit, Moment, Sockets, WorkerId};

/// A worker's process, from its start until its exit was noticed.
pub(super) struct Running {
    pub(super) seat: Seat,
    child: Child,
    output: OutputReader,
    ports: Arc<[Port]>,
    /// It was said that it listens on a loopback address alone.
    warned: bool,
}

/// A worker whose first process has ended, while others of its group may live on.
struct Remains {
    child: Child,
    /// When they are killed.
    kill_at: Moment,
}

/// All processes of ours.
pub(super) struct Processes {
    running: BTreeMap<WorkerId, Running>,
    remains: BTreeMap<WorkerId, Remains>,
    sockets: process::Sockets,
    printer: Option<Printer>,
}

impl Processes {
    pub(super) fn new(printer: Option<Printer>) -> Result<Self, ProcessError> {
        Ok(Self {
            running: BTreeMap::new(),
            remains: BTreeMap::new(),
            sockets: process::Sockets::open()?,
            printer,
        })
    }

    /// Takes a worker in. Returns what waits for its exit.
    pub(super) fn insert(
        &mut self,
        worker: WorkerId,
        seat: Seat,
        started: Started,
    ) -> impl Future<Output = Result<(), ProcessError>> + Send + use<> {
        let Started { child, output, ports } = started;
        let exited = child.exited();
        self.running.insert(worker, Running { seat, child, output, ports, warned: false });
        exited
    }

    /// The process of a worker and the file that it prints to, to be handed over.
    pub(super) fn descriptors(&self, worker: WorkerId) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        let running = self.running.get(&worker)?;
        Some((running.child.as_fd(), running.output.as_fd()))
    }

    /// How a worker has ended and what it printed last; `None` if it runs, or is none of ours.
    pub(super) fn take_exit(
        &mut self,
        worker: WorkerId,
        kill_at: Moment,
    ) -> Option<(Exit, Vec<String>)> {
        let exit = match self.running.get(&worker)?.child.exit() {
            Ok(Some(process::Exit::Code(code))) => Exit::Code(code),
            Ok(Some(process::Exit::Signal(signal))) => Exit::Signal(signal),
            Ok(Some(process::Exit::Unknown)) => Exit::Unknown,
            Ok(None) => return None,
            Err(error) => {
                tracing::error!(%worker, %error, "cannot tell how a worker ended");
                Exit::Code(255)
            }
        };
        let Running { seat, child, mut output, .. } = self.running.remove(&worker)?;
        match &mut self.printer {
            Some(printer) => printer.pass_on_rest(seat, &mut output),
            None => drop(output.finish()),
        }
        let last_lines = output.last_lines().map(str::to_owned).collect();
        self.remains.insert(worker, Remains { child, kill_at });
        Some((exit, last_lines))
    }

    /// Signals the process group of a worker.
    pub(super) fn signal(&self, worker: WorkerId, signal: Signal) {
        let Some(running) = self.running.get(&worker) else { return };
        report_delivery(worker, signal, running.child.signal_group(signal));
    }

    /// Looks after the process groups of which the first process has ended: asks the others to end,
    /// kills them when their time is over, and reaps. Returns the workers of which nothing is left.
    pub(super) fn bury(&mut self, now: Moment) -> Vec<WorkerId> {
        let mut gone = vec![];
        for (worker, Remains { child, kill_at }) in std::mem::take(&mut self.remains) {
            let others = child.others().unwrap_or_else(|error| {
                tracing::warn!(%worker, %error, "cannot look for the other processes of a worker");
                1
            });
            if others == 0 {
                match child.reap() {
                    Ok(_) => {}
                    Err(unreaped) => {
                        tracing::error!(%worker, error = ?unreaped.error, "cannot reap a worker");
                    }
                }
                gone.push(worker);
                continue;
            }
            let signal = if now >= kill_at { Signal::SIGKILL } else { Signal::SIGTERM };
            report_delivery(worker, signal, child.signal_group(signal));
            self.remains.insert(worker, Remains { child, kill_at });
        }
        gone
    }

    /// Whether there is anything for [`Self::bury`].
    pub(super) fn has_remains(&self) -> bool {
        !self.remains.is_empty()
    }

    /// Whether any worker runs.
    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Passes on what workers have printed.
    pub(super) fn pass_on_output(&mut self) {
        for running in self.running.values_mut() {
            running.pass_on(self.printer.as_mut());
        }
    }

    /// What a worker that runs has printed last, the oldest line first.
    pub(super) fn last_lines(&mut self, worker: WorkerId) -> Option<Vec<String>> {
        let running = self.running.get_mut(&worker)?;
        running.pass_on(self.printer.as_mut());
        Some(running.output.last_lines().map(str::to_owned).collect())
    }

    /// Those of `candidates` that listen on all their ports, where clients of all `listeners` reach
    /// them.
    pub(super) fn ready(
        &mut self,
        candidates: &[WorkerId],
        listeners: &Listeners,
    ) -> Result<Vec<WorkerId>, ProcessError> {
        let ports = candidates.iter().filter_map(|worker| self.running.get(worker));
        let ports: BTreeSet<u16> =
            ports.flat_map(|running| running.ports.iter()).map(|port| port.number()).collect();
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return Ok(vec![]) };
        let transports = transports(listeners);
        let mut table = ListenTable::read(&mut self.sockets, &transports, *first..=*last)?;
        let mut ready = vec![];
        for worker in candidates {
            let Some(running) = self.running.get_mut(worker) else { continue };
            if running.is_reached(&mut table, listeners)? {
                ready.push(*worker);
            }
        }
        Ok(ready)
    }

    /// The worker ports of those of `workers` that run.
    pub(super) fn ports_of(&self, workers: &[WorkerId]) -> PortsByWorker {
        let of = |worker: &WorkerId| Some((*worker, Arc::clone(&self.running.get(worker)?.ports)));
        workers.iter().filter_map(of).collect()
    }

    /// Counts the sockets on the ports of workers.
    pub(super) fn count(
        &mut self,
        workers: &[WorkerId],
    ) -> Result<BTreeMap<WorkerId, Sockets>, ProcessError> {
        let ports = self.ports_of(workers);
        count_sockets(&mut self.sockets, &ports)
    }
}

impl Running {
    fn pass_on(&mut self, printer: Option<&mut Printer>) {
        match printer {
            Some(printer) => printer.pass_on(self.seat, &mut self.output),
            None => drop(self.output.poll(usize::MAX)),
        }
    }

    fn is_reached(
        &mut self,
        table: &mut ListenTable,
        listeners: &Listeners,
    ) -> Result<bool, ProcessError> {
        for protocol in Protocol::ALL {
            let services = listeners.services(protocol).iter();
            let services: Vec<(Port, u16)> = services
                .filter_map(|it| Some((it.port, self.ports.get(it.place)?.number())))
                .collect();
            let numbers: Vec<u16> = services.iter().map(|(_, number)| *number).collect();
            let transport = transport(protocol);
            let reach = table.listening_ports(self.child.pid(), transport, &numbers)?;
            for (public, number) in services {
                let reached: Reach = reach.get(&number).copied().unwrap_or_default();
                let (ipv4, ipv6) = families_of(listeners, protocol, public);
                if (ipv4 && !reached.ipv4) || (ipv6 && !reached.ipv6) {
                    self.warn_of(number, reach.get(&number).copied(), ipv6);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Says once why a worker that listens is not ready all the same.
    fn warn_of(&mut self, port: u16, reach: Option<Reach>, needs_ipv6: bool) {
        let Some(reach) = reach.filter(|_| !self.warned) else { return };
        let seat = self.seat;
        let any = if needs_ipv6 { "[::]" } else { "0.0.0.0" };
        if reach.loopback_only() {
            tracing::warn!(%seat, port, "the worker listens on loopback only: it must listen on {any}");
        } else {
            tracing::warn!(%seat, port, "the worker does not listen for all families: it must listen on {any}");
        }
        self.warned = true;
    }
}

/// What workers of these listeners have to speak.
pub(super) fn transports(listeners: &Listeners) -> Vec<Transport> {
    let spoken = Protocol::ALL.into_iter().filter(|it| !listeners.services(*it).is_empty());
    spoken.map(transport).collect()
}

pub(super) const fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}

/// The families of the listeners on a public port: IPv4, IPv6.
fn families_of(listeners: &Listeners, protocol: Protocol, public: Port) -> (bool, bool) {
    let is_on = move |it: &&Listener| it.port() == public && it.protocol() == protocol;
    let on_port = || listeners.iter().filter(is_on);
    (on_port().any(|l| l.address().is_ipv4()), on_port().any(|l| l.address().is_ipv6()))
}

fn report_delivery(worker: WorkerId, signal: Signal, result: Result<Delivery, ProcessError>) {
    match result {
        Ok(_) => {}
        Err(error) => tracing::error!(%worker, %signal, %error, "cannot signal a worker"),
    }
}

/// How often the loop looks after what has no event of its own.
pub(super) const READINESS_INTERVAL: Duration = Duration::from_millis(10);
pub(super) const DRAIN_INTERVAL: Duration = Duration::from_millis(100);
pub(super) const OUTPUT_INTERVAL: Duration = Duration::from_millis(50);
pub(super) const FULLNESS_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const BURIAL_INTERVAL: Duration = Duration::from_millis(100);
