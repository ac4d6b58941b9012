//! The processes of the workers, by worker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::master::log_limit::LogLimiter;
use crate::master::waiting::receive;
use crate::master::workers::counting::{Counted, CountedWorkers};
use crate::master::workers::output::{Flow, Origin, Printer, ReadBudget};
use crate::master::workers::spawner::Started;
use crate::plan::{Generation, Listener, Listeners, Port, Protocol, Seat};
use crate::process::{
    self, Child, Delivery, ListenSocket, ListenTable, OutputReader, ProcessError, Reachability,
    Transport, own_nice,
};
use crate::protocol::{Exit, Timestamp, WorkerId};
use crate::supervisor::Observation;

/// A worker's process, from its start until its exit was noticed.
pub(crate) struct Running {
    pub(crate) seat: Seat,
    generation: Generation,
    child: Child,
    output: OutputReader,
    flow: Flow,
    ports: Arc<[Port]>,
    /// It was said why it is not ready although it may listen.
    warned: bool,
    /// The inodes of the sockets on its tcp ports when they were last seen to be its own.
    own: Option<BTreeSet<u32>>,
}

/// The tcp sockets that listen, by port.
type SocketsByPort = BTreeMap<u16, Vec<ListenSocket>>;

/// What the kernel shows of workers, of those that could be looked at.
pub(crate) type Observations = BTreeMap<WorkerId, Observation>;

/// A worker whose first process has ended, while others of its group may live on.
struct Exited {
    child: Child,
    /// When they are killed.
    kill_at: Timestamp,
}

/// All processes of ours.
pub(crate) struct Processes {
    running: BTreeMap<WorkerId, Running>,
    exited: BTreeMap<WorkerId, Exited>,
    sockets: process::Sockets,
    printer: Option<Printer>,
    unseen: LogLimiter,
    exits_sender: mpsc::UnboundedSender<WorkerId>,
    exits: mpsc::UnboundedReceiver<WorkerId>,
}

/// How often it is looked whether a worker has ended whose pidfd cannot be waited for.
const EXIT_INTERVAL: Duration = Duration::from_millis(100);

impl Processes {
    pub(crate) fn new(printer: Option<Printer>) -> Result<Self, ProcessError> {
        let (exits_sender, exits) = mpsc::unbounded_channel();
        Ok(Self {
            running: BTreeMap::new(),
            exited: BTreeMap::new(),
            sockets: process::Sockets::open()?,
            printer,
            unseen: LogLimiter::default(),
            exits_sender,
            exits,
        })
    }

    /// Takes a worker in, and waits for its exit in a task of its own.
    pub(crate) fn insert(&mut self, worker: WorkerId, seat: Seat, started: Started) {
        let Started { child, generation, output, ports, .. } = started;
        let (pidfd, exited) = (child.pidfd().clone(), child.exited());
        let exits = self.exits_sender.clone();
        tokio::spawn(async move {
            if let Err(error) = exited.await {
                tracing::error!(%worker, %error, "cannot wait for the exit of a worker: polled");
                while !matches!(pidfd.has_exited(), Ok(true)) {
                    sleep(EXIT_INTERVAL).await;
                }
            }
            // The loop has ended.
            let _ = exits.send(worker);
        });
        let flow = Flow::default();
        let running =
            Running { seat, generation, child, output, flow, ports, warned: false, own: None };
        self.running.insert(worker, running);
    }

    /// Waits for the exit of a worker, which [`Self::take_exit`] tells of.
    pub(crate) async fn exit(&mut self) -> WorkerId {
        receive(&mut self.exits).await
    }

    /// The process of a worker and the file that it prints to, to be handed over.
    pub(crate) fn descriptors(&self, worker: WorkerId) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        let running = self.running.get(&worker)?;
        Some((running.child.as_fd(), running.output.as_fd()))
    }

    /// How a worker has ended and what it printed last; `None` if it runs, or is none of ours.
    pub(crate) fn take_exit(
        &mut self,
        worker: WorkerId,
        kill_at: Timestamp,
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
        let running = self.running.remove(&worker)?;
        let origin = running.origin();
        let Running { child, mut output, flow, .. } = running;
        match &mut self.printer {
            Some(printer) => printer.pass_on_rest(origin, &flow, &mut output),
            None => drop(output.finish()),
        }
        let last_lines = output.last_lines().map(str::to_owned).collect();
        self.exited.insert(worker, Exited { child, kill_at });
        Some((exit, last_lines))
    }

    /// Signals the process group of a worker.
    pub(crate) fn signal(&self, worker: WorkerId, signal: Signal) {
        let Some(running) = self.running.get(&worker) else { return };
        report_delivery(worker, signal, running.child.signal_group(signal));
    }

    /// Gives the process group of a worker a nice value.
    pub(crate) fn renice(&self, worker: WorkerId, nice: i32) {
        let Some(running) = self.running.get(&worker) else { return };
        if let Err(error) = running.child.renice_group(nice) {
            tracing::warn!(%worker, nice, %error, "cannot let a retired worker give way to others");
        }
    }

    /// Gives the process group of a worker the nice value that it was started with: our own.
    pub(crate) fn restore_nice(&self, worker: WorkerId) {
        let Some(running) = self.running.get(&worker) else { return };
        let restored = own_nice().and_then(|nice| running.child.renice_group(nice));
        if let Err(error) = restored {
            tracing::warn!(
                %worker, %error,
                "a worker that was retired serves again, and still gives way to others: reload to \
                 have new ones in its place, or start the master with a higher limit of the nice value \
                 (LimitNICE, `ulimit -e`)"
            );
        }
    }

    /// Looks after the process groups of which the first process has ended: asks the others to end,
    /// kills them when their time is over, and reaps. Returns the workers of which nothing is left.
    pub(crate) fn reap(&mut self, now: Timestamp) -> Vec<WorkerId> {
        let mut gone = vec![];
        for (worker, Exited { child, kill_at }) in std::mem::take(&mut self.exited) {
            let others = child.others().unwrap_or_else(|error| {
                if let Some(suppressed) = self.unseen.allow(Instant::now()) {
                    tracing::warn!(
                        %worker, %error, suppressed,
                        "cannot look for the other processes of a worker"
                    );
                }
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
            self.exited.insert(worker, Exited { child, kill_at });
        }
        gone
    }

    /// Whether there is anything for [`Self::reap`].
    pub(crate) fn has_exited(&self) -> bool {
        !self.exited.is_empty()
    }

    /// All workers that run, each with the pid of its first process, which is kept until
    /// [`Self::take_exit`].
    pub(crate) fn pids(&self) -> Vec<(WorkerId, u32)> {
        self.running.iter().map(|(worker, running)| (*worker, running.child.pid())).collect()
    }

    /// Whether this worker runs.
    pub(crate) fn runs(&self, worker: WorkerId) -> bool {
        self.running.contains_key(&worker)
    }

    /// Whether any worker runs.
    pub(crate) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Passes on what workers have printed.
    pub(crate) fn pass_on_output(&mut self) {
        let mut look = ReadBudget::new(self.running.len());
        for running in self.running.values_mut() {
            running.pass_on(&mut look, self.printer.as_mut());
        }
    }

    /// Waits until what was passed on has been written, but no longer than this.
    pub(crate) fn finish_output(&mut self, patience: Duration) {
        if let Some(printer) = self.printer.take() {
            printer.finish(patience);
        }
    }

    /// What a worker that runs has printed last, the oldest line first.
    pub(crate) fn last_lines(&mut self, worker: WorkerId) -> Option<Vec<String>> {
        let running = self.running.get_mut(&worker)?;
        running.pass_on(&mut ReadBudget::new(1), self.printer.as_mut());
        if let Err(error) = running.output.read_last_lines() {
            tracing::warn!(%worker, %error, "cannot read what a worker printed last");
        }
        Some(running.output.last_lines().map(str::to_owned).collect())
    }

    /// Gives a worker the ports that it has told.
    pub(crate) fn set_ports(&mut self, worker: WorkerId, ports: Arc<[Port]>) {
        if let Some(running) = self.running.get_mut(&worker) {
            running.ports = ports;
        }
    }

    /// The first of these ports, in the order of the public ports, on which no socket of the worker
    /// listens by every protocol that it is for.
    pub(crate) fn not_listening(
        &mut self,
        worker: WorkerId,
        ports: &[Port],
        listeners: &Listeners,
    ) -> Result<Option<Port>, ProcessError> {
        let Some(running) = self.running.get(&worker) else { return Ok(ports.first().copied()) };
        let numbers = || ports.iter().map(|port| port.number());
        let (Some(first), Some(last)) = (numbers().min(), numbers().max()) else { return Ok(None) };
        let mut table = ListenTable::read(&mut self.sockets, &transports(listeners), first..=last)?;
        for protocol in Protocol::ALL {
            let services = listeners.services(protocol).iter();
            let wanted: Vec<Port> = services.map(|service| ports[service.place]).collect();
            let numbers: Vec<u16> = wanted.iter().map(|port| port.number()).collect();
            let found =
                table.listening_ports(running.child.pid(), transport(protocol), &numbers)?;
            if let Some(port) = wanted.iter().find(|port| !found.contains_key(&port.number())) {
                return Ok(Some(*port));
            }
        }
        Ok(None)
    }

    /// What the kernel says of workers: whether they listen on all their ports, where clients of all
    /// `listeners` reach them, and what waits there; and whether they are stopped, if that is asked.
    pub(crate) fn observe(
        &mut self,
        workers: &[WorkerId],
        listeners: &Listeners,
        whether_stopped: bool,
    ) -> Result<Observations, ProcessError> {
        let ports = workers.iter().filter_map(|worker| self.running.get(worker));
        let ports: BTreeSet<u16> =
            ports.flat_map(|running| running.ports.iter()).map(|port| port.number()).collect();
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else {
            return Ok(BTreeMap::new());
        };
        let transports = transports(listeners);
        let mut table = ListenTable::read(&mut self.sockets, &transports, *first..=*last)?;
        let by_port = by_port(&table);
        let mut all = BTreeMap::new();
        for worker in workers {
            let Some(running) = self.running.get_mut(worker) else { continue };
            if running.ports.is_empty() {
                // It has not told them yet.
                continue;
            }
            let seen = running.observe(&mut table, &by_port, listeners).and_then(|mut seen| {
                seen.stopped = whether_stopped && process::is_stopped(running.child.pidfd())?;
                Ok(seen)
            });
            match seen {
                Ok(seen) => drop(all.insert(*worker, seen)),
                // The others have nothing to do with it.
                Err(error) => running.complain(&error),
            }
        }
        Ok(all)
    }

    /// The worker whose first process has made this session.
    pub(crate) fn worker_of(&self, session: u32) -> Option<WorkerId> {
        let mut running = self.running.iter();
        running.find(|(_, running)| running.child.pid() == session).map(|(worker, _)| *worker)
    }

    /// The worker ports of a worker that runs.
    pub(crate) fn ports_of(&self, worker: WorkerId) -> Option<Arc<[Port]>> {
        Some(Arc::clone(&self.running.get(&worker)?.ports))
    }

    /// Those of `workers` that run, to be counted; with each, for how long nobody has been sent to it.
    pub(crate) fn counted(
        &self,
        workers: impl IntoIterator<Item = (WorkerId, Option<Duration>)>,
    ) -> CountedWorkers {
        let of = |(worker, left_for)| {
            let running = self.running.get(&worker)?;
            let (ports, session) = (Arc::clone(&running.ports), Some(running.child.pid()));
            Some((worker, Counted { ports, session, left_for }))
        };
        workers.into_iter().filter_map(of).collect()
    }
}

impl Running {
    fn pass_on(&mut self, look: &mut ReadBudget, printer: Option<&mut Printer>) {
        look.pass_on(printer, self.origin(), &self.flow, &mut self.output);
    }

    fn origin(&self) -> Origin {
        Origin { seat: self.seat, generation: self.generation, pid: self.child.pid() }
    }

    /// The sockets on its ports are asked for their owner when they are others than before: an owner
    /// is found by reading all descriptors of its processes.
    fn observe(
        &mut self,
        table: &mut ListenTable,
        by_port: &SocketsByPort,
        listeners: &Listeners,
    ) -> Result<Observation, ProcessError> {
        let services = listeners.services(Protocol::Tcp).iter();
        let ports: Vec<u16> =
            services.filter_map(|it| Some(self.ports.get(it.place)?.number())).collect();
        let sockets_on = |port: &u16| by_port.get(port).map_or(&[][..], Vec::as_slice);
        let inodes: BTreeSet<u32> =
            ports.iter().flat_map(sockets_on).map(|socket| socket.inode).collect();
        if self.own.as_ref() != Some(&inodes) {
            self.own = self.is_reached(table, listeners)?.then_some(inodes);
        }
        let queued = |port: &u16| sockets_on(port).iter().map(|socket| socket.queued).sum();
        Ok(Observation {
            stopped: false,
            listens: self.own.is_some(),
            queues: ports.iter().map(|port| (*port, queued(port))).collect(),
            address: ports.first().and_then(|port| local_address(sockets_on(port))),
        })
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
                let reached: Reachability = reach.get(&number).copied().unwrap_or_default();
                let (ipv4, ipv6) = families_of(listeners, protocol, public);
                if (ipv4 && !reached.ipv4) || (ipv6 && !reached.ipv6) {
                    self.warn_of(number, reach.get(&number).copied(), ipv6);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Says once that it cannot be seen where the worker listens.
    fn complain(&mut self, error: &ProcessError) {
        if !std::mem::replace(&mut self.warned, true) {
            let seat = self.seat;
            tracing::warn!(%seat, %error, "cannot see where the worker listens: it is not ready");
        }
    }

    /// Says once why a worker that listens is not ready all the same.
    fn warn_of(&mut self, port: u16, reach: Option<Reachability>, needs_ipv6: bool) {
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

fn by_port(table: &ListenTable) -> SocketsByPort {
    let mut by_port = SocketsByPort::new();
    for socket in table.tcp_sockets() {
        by_port.entry(socket.port).or_default().push(socket.clone());
    }
    by_port
}

/// Where this host itself reaches one of these sockets: the guard lets in what comes over loopback.
fn local_address(sockets: &[ListenSocket]) -> Option<SocketAddr> {
    let local = |socket: &ListenSocket| {
        let address = match socket.address {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() && socket.ipv6_only => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            address => address,
        };
        SocketAddr::new(address, socket.port)
    };
    sockets.iter().map(local).min()
}

/// What workers of these listeners have to speak.
pub(crate) fn transports(listeners: &Listeners) -> Vec<Transport> {
    let spoken = Protocol::ALL.into_iter().filter(|it| !listeners.services(*it).is_empty());
    spoken.map(transport).collect()
}

pub(crate) const fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}

/// The families of the listeners on a public port: IPv4, IPv6.
pub(crate) fn families_of(listeners: &Listeners, protocol: Protocol, public: Port) -> (bool, bool) {
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
