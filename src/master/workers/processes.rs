//! The processes of the workers, by worker.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::counted::{Counted, CountedWorkers};
use super::ended::EndedWorkers;
use super::further_sockets::FurtherSockets;
use super::observation::{Listening, Look, Observations, by_port, not_listening};
use super::output::{Flow, Origin, Printer, ReadBudget, SharedRecent};
use super::spawner::Started;
use super::transports::transports;
use super::values::ToldValues;
use crate::control::Responder;
use crate::master::waiting::receive;
use crate::plan::{Generation, Listeners, Port, Seat};
use crate::process::{
    self, Child, Delivery, Exits, ListenTable, OutputItem, OutputReader, ProcessError,
    SignalNumber, Transport, own_nice,
};
use crate::protocol::{EndSignals, Exit, KillMode, LogsRequest, ReadinessFault, Signal, WorkerId};

/// A worker's process, from its start until its exit was noticed.
struct Running {
    seat: Seat,
    generation: Generation,
    child: Child,
    output: OutputReader,
    flow: Flow,
    ports: Arc<[Port]>,
    /// What its ports are for.
    listeners: Arc<Listeners>,
    told: ToldValues,
    listening: Listening,
    further: FurtherSockets,
    /// How often the kernel did not say how it has ended, although it has.
    untold_exits: usize,
}

/// A worker whose first process has ended.
pub(super) struct Ended {
    pub(super) seat: Seat,
    pub(super) generation: Generation,
    pub(super) child: Child,
    /// Its worker ports.
    pub(super) ports: Vec<u16>,
    /// What `IPCLUSTER_WORKER` says, if that is known.
    pub(super) number: Option<u64>,
}

/// The processes of all workers.
pub(crate) struct Processes {
    running: BTreeMap<WorkerId, Running>,
    /// Those, by the sessions that their first processes have made.
    sessions: BTreeMap<u32, WorkerId>,
    sockets: process::Sockets,
    nice: i32,
    printer: Option<Printer>,
    recent: SharedRecent,
    exits: Exits,
    /// Workers of which another look at their end is due.
    again_sender: mpsc::UnboundedSender<WorkerId>,
    again: mpsc::UnboundedReceiver<WorkerId>,
    /// Workers that have ended, and whose exit was not taken in yet.
    ended: EndedWorkers,
}

/// When it is looked again how a worker has ended that a tracer may hold, such as strace or a debugger: the
/// kernel tells its parent only when the tracer has seen the end, or lets it go. After the last look its
/// exit status counts as unknown: its clients must not wait.
const TRACED_LOOKS: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
];

/// How often the exit of a worker is polled whose pidfd cannot be waited for.
const EXIT_INTERVAL: Duration = Duration::from_millis(100);

impl Processes {
    /// `nice` is what workers have more than this process.
    pub(crate) fn new(
        printer: Option<Printer>,
        recent: SharedRecent,
        nice: i32,
    ) -> Result<Self, ProcessError> {
        let (again_sender, again) = mpsc::unbounded_channel();
        Ok(Self {
            running: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sockets: process::Sockets::open()?,
            nice,
            printer,
            recent,
            exits: Exits::new()?,
            again_sender,
            again,
            ended: EndedWorkers::default(),
        })
    }

    /// Takes a worker in.
    pub(crate) fn insert(&mut self, worker: WorkerId, seat: Seat, started: Started) {
        let Started { child, generation, output, ports, listeners, told, .. } = started;
        if let Err(error) = self.exits.add(child.pidfd(), worker.0) {
            tracing::error!(%worker, %error, "cannot wait for the exit of a worker: polling instead");
            let (pidfd, again) = (child.pidfd().clone(), self.again_sender.clone());
            tokio::spawn(async move {
                while !matches!(pidfd.has_exited(), Ok(true)) {
                    sleep(EXIT_INTERVAL).await;
                }
                // The loop has ended.
                let _ = again.send(worker);
            });
        }
        let (flow, listening) = (Flow::default(), Listening::new(seat));
        let running = Running {
            seat,
            generation,
            child,
            output,
            flow,
            ports,
            listeners,
            told,
            listening,
            further: FurtherSockets::default(),
            untold_exits: 0,
        };
        self.sessions.insert(running.child.pid(), worker);
        self.running.insert(worker, running);
    }

    /// Waits until a worker has ended, which [`Self::take_ended`] tells of.
    pub(crate) async fn exit(&mut self) {
        tokio::select! {
            worker = receive(&mut self.again) => self.ended.extend([worker]),
            ended = self.exits.wait() => match ended {
                Ok(ended) => self.ended.extend(ended.into_iter().map(WorkerId)),
                Err(error) => {
                    tracing::error!(%error, "cannot wait for the exits of workers: polling instead");
                    sleep(EXIT_INTERVAL).await;
                }
            }
        }
    }

    /// The workers that have ended and whose exit is to be taken in now, those that clients are sent to (`is_live`)
    /// first. Asks the kernel: whatever else waits for its turn, they wait for nothing but what is being done
    /// just now.
    pub(crate) fn take_ended(&mut self, is_live: impl Fn(WorkerId) -> bool) -> Vec<WorkerId> {
        match self.exits.take() {
            Ok(ended) => self.ended.extend(ended.into_iter().map(WorkerId)),
            Err(error) => tracing::error!(%error, "cannot look at the exits of workers"),
        }
        while let Ok(worker) = self.again.try_recv() {
            self.ended.extend([worker]);
        }
        self.ended.take(is_live)
    }

    /// The process of a worker and the file that it prints to, to be handed over.
    pub(crate) fn descriptors(&self, worker: WorkerId) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        let running = self.running.get(&worker)?;
        Some((running.child.as_fd(), running.output.as_fd()))
    }

    /// How a worker has ended and what it printed last; `None` if it runs, or is none of ours.
    pub(super) fn take_exit(&mut self, worker: WorkerId) -> Option<(Exit, Vec<String>, Ended)> {
        let exit = match self.running.get(&worker)?.child.exit() {
            Ok(None) if self.awaits_tracer(worker) => return None,
            Ok(None) => Exit::Unknown,
            Ok(Some(process::Exit::Code(code))) => Exit::Code(code),
            Ok(Some(process::Exit::Signal(signal))) => Exit::Signal(signal),
            Ok(Some(process::Exit::Unknown)) => Exit::Unknown,
            Err(error) => {
                tracing::error!(%worker, %error, "cannot read the exit status of a worker");
                Exit::Code(255)
            }
        };
        let running = self.running.remove(&worker)?;
        self.sessions.remove(&running.child.pid());
        let origin = running.origin();
        let Running { seat, generation, child, mut output, flow, ports, told, .. } = running;
        let seen = |printed: &[OutputItem]| self.recent.add(origin, printed);
        match &mut self.printer {
            Some(printer) => printer.pass_on_rest(origin, &flow, &mut output, seen),
            None => seen(&output.finish().unwrap_or_default()),
        }
        let last_lines = output.last_lines().map(str::to_owned).collect();
        let ports = ports.iter().map(|port| port.number()).collect();
        Some((exit, last_lines, Ended { seat, generation, child, ports, number: told.number }))
    }

    /// Whether to look again how a worker has ended of which the kernel does not say it; another message
    /// comes then.
    fn awaits_tracer(&mut self, worker: WorkerId) -> bool {
        let Some(running) = self.running.get_mut(&worker) else { return true };
        if !matches!(running.child.pidfd().has_exited(), Ok(true)) {
            return true;
        }
        let Some(pause) = TRACED_LOOKS.get(running.untold_exits).copied() else {
            let (seat, pid) = (running.seat, running.child.pid());
            tracing::warn!(
                %seat, pid,
                "a worker has ended while another process traces it (strace, a debugger), and its exit \
                 status is not known: it is replaced"
            );
            return false;
        };
        running.untold_exits += 1;
        let again = self.again_sender.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            // The loop has ended.
            let _ = again.send(worker);
        });
        true
    }

    /// Sends a worker its retire signal, if it has one.
    pub(crate) fn tell_retired(&self, worker: WorkerId, signals: EndSignals) {
        if let Some(signal) = signals.retire {
            tracing::info!(%worker, %signal, "sends a retired worker its retire signal");
            self.signal(worker, signal, signals.kill_mode == KillMode::Group);
        }
    }

    /// Sends a worker its stop signal.
    pub(crate) fn terminate(&self, worker: WorkerId, signals: EndSignals) {
        self.signal(worker, signals.stop, signals.kill_mode == KillMode::Group);
    }

    /// Sends a worker SIGKILL.
    pub(crate) fn kill(&self, worker: WorkerId, signals: EndSignals) {
        self.signal(worker, Signal::KILL, signals.kill_mode != KillMode::Process);
    }

    /// Signals the process group of a worker, or its main process alone.
    fn signal(&self, worker: WorkerId, signal: Signal, whole_group: bool) {
        let Some(running) = self.running.get(&worker) else { return };
        let child = &running.child;
        send(worker, signal, |number| match whole_group {
            true => child.signal_group(number),
            false => child.signal(number),
        });
    }

    /// Raises the nice value of the process group of a worker above that which it was started with.
    pub(crate) fn renice(&self, worker: WorkerId, more: i32) {
        let Some(running) = self.running.get(&worker) else { return };
        let raised = own_nice()
            .and_then(|own| running.child.renice_group((own + self.nice + more).clamp(-20, 19)));
        if let Err(error) = raised {
            tracing::warn!(%worker, more, %error, "cannot raise the nice value of a retired worker");
        }
    }

    /// Gives the process group of a worker the nice value that it was started with.
    pub(crate) fn restore_nice(&self, worker: WorkerId) {
        let Some(running) = self.running.get(&worker) else { return };
        let restored = own_nice()
            .and_then(|nice| running.child.renice_group((nice + self.nice).clamp(-20, 19)));
        if let Err(error) = restored {
            tracing::warn!(
                %worker, %error,
                "cannot restore the nice value of a worker that serves again after its retirement: \
                 reload to replace it, or start the master with a higher limit of the nice value \
                 (LimitNICE, `ulimit -e`)"
            );
        }
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

    /// Passes on what workers have printed. Returns whether any has.
    pub(crate) fn pass_on_output(&mut self) -> bool {
        let mut look = ReadBudget::new(self.running.len());
        let mut has_read = false;
        for running in self.running.values_mut() {
            has_read |= running.pass_on(&mut look, self.printer.as_mut(), &self.recent);
        }
        has_read
    }

    /// Whether lines are kept that workers in this seat have printed.
    pub(crate) fn has_printed_in(&self, seat: Seat) -> bool {
        self.recent.has(seat)
    }

    /// Sends the last lines of workers to who asks for them.
    pub(crate) fn show_logs(&mut self, request: LogsRequest, responder: Responder) {
        self.pass_on_output();
        self.recent.show(request, responder);
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
        running.pass_on(&mut ReadBudget::new(1), self.printer.as_mut(), &self.recent);
        if let Err(error) = running.output.read_last_lines() {
            tracing::warn!(%worker, %error, "cannot read the last output of a worker");
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
    ) -> Result<Option<Port>, ProcessError> {
        let Some(running) = self.running.get(&worker) else { return Ok(ports.first().copied()) };
        let numbers = || ports.iter().map(|port| port.number());
        let (Some(first), Some(last)) = (numbers().min(), numbers().max()) else { return Ok(None) };
        let mut table =
            ListenTable::read(&mut self.sockets, &transports(&running.listeners), first..=last)?;
        not_listening(running.child.pid(), ports, &mut table, &running.listeners)
    }

    /// What the kernel says of workers: whether they listen on all their ports, where clients of all
    /// their listeners reach them, and what waits there; and whether they are stopped, if that is asked.
    /// `is_held` is whether the master holds the sockets of a worker too, `probed` the public port whose
    /// worker port is probed.
    pub(crate) fn observe(
        &mut self,
        workers: &[WorkerId],
        is_held: impl Fn(WorkerId) -> bool,
        probed: impl Fn(&Listeners) -> Option<Port>,
        whether_stopped: bool,
    ) -> Result<Observations, ProcessError> {
        let ports = workers.iter().filter_map(|worker| self.running.get(worker));
        let ports: BTreeSet<u16> =
            ports.flat_map(|running| running.ports.iter()).map(|port| port.number()).collect();
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else {
            return Ok(Observations::default());
        };
        let spoken = workers.iter().filter_map(|worker| self.running.get(worker));
        // Ports are closed to other hosts by tcp, whatever the listeners are.
        let mut spoken_by_any = vec![Transport::Tcp];
        for transport in spoken.flat_map(|running| transports(&running.listeners)) {
            if !spoken_by_any.contains(&transport) {
                spoken_by_any.push(transport);
            }
        }
        let mut table = ListenTable::read(&mut self.sockets, &spoken_by_any, *first..=*last)?;
        let by_port = by_port(&table);
        let by_transport = (spoken_by_any.len() > 1).then(|| table.inodes_by_port());
        let mut all = Observations::default();
        for worker in workers {
            let Some(running) = self.running.get_mut(worker) else { continue };
            if running.ports.is_empty() {
                // The worker has not reported its ports yet.
                continue;
            }
            let (pid, ports) = (running.child.pid(), &running.ports);
            let listeners = &*running.listeners;
            if let Some(by_port) = &by_transport {
                let found = running.further.look(pid, ports, listeners, &mut table, by_port);
                all.further.extend(found.map(|found| (*worker, found)));
            }
            let probed = probed(listeners);
            let table = &mut table;
            let is_starting = !whether_stopped;
            let looked = Look { table, by_port: &by_port, listeners, probed, is_starting };
            let seen = running.listening.observe(pid, ports, is_held(*worker), looked);
            let seen = seen.and_then(|mut seen| {
                seen.stopped = whether_stopped && process::is_stopped(running.child.pidfd())?;
                Ok(seen)
            });
            match seen {
                Ok(seen) => drop(all.seen.insert(*worker, seen)),
                // The others have nothing to do with it.
                Err(error) => {
                    running.listening.warn_of_error(&error);
                    let error = error.to_string();
                    all.unseen.insert(*worker, ReadinessFault::Unseen { error });
                }
            }
        }
        Ok(all)
    }

    /// What `IPCLUSTER_WORKER` of a worker that runs says, if that is known.
    pub(super) fn number_of(&self, worker: WorkerId) -> Option<u64> {
        self.running.get(&worker)?.told.number
    }

    /// The sessions of all workers that run.
    pub(super) fn sessions(&self) -> BTreeSet<u32> {
        self.sessions.keys().copied().collect()
    }

    /// The worker whose first process has made this session.
    pub(crate) fn worker_of(&self, session: u32) -> Option<WorkerId> {
        self.sessions.get(&session).copied()
    }

    /// What each worker that runs was told of itself, by the pid of its first process.
    pub(crate) fn told(&self) -> BTreeMap<u32, &ToldValues> {
        self.running.values().map(|running| (running.child.pid(), &running.told)).collect()
    }

    /// The pid of the first process of a worker that runs, which is kept until [`Self::take_exit`].
    pub(crate) fn pid_of(&self, worker: WorkerId) -> Option<u32> {
        self.running.get(&worker).map(|running| running.child.pid())
    }

    /// The worker port for each public port of every worker that has reported them, by the pid of its first
    /// process.
    pub(crate) fn ports_by_pid(&self) -> BTreeMap<u32, BTreeMap<Port, Port>> {
        let of = |running: &Running| {
            let public = running.listeners.public_ports().iter().copied();
            (running.child.pid(), public.zip(running.ports.iter().copied()).collect())
        };
        self.running.values().filter(|running| !running.ports.is_empty()).map(of).collect()
    }

    /// What the ports of a worker that runs are for.
    pub(crate) fn listeners_of(&self, worker: WorkerId) -> Option<&Arc<Listeners>> {
        self.running.get(&worker).map(|running| &running.listeners)
    }

    /// The worker ports of a worker that runs.
    pub(crate) fn ports_of(&self, worker: WorkerId) -> Option<Arc<[Port]>> {
        Some(Arc::clone(&self.running.get(&worker)?.ports))
    }

    /// The workers among `workers` that run, to have their connections counted; each comes with the time
    /// for which no new connection has been sent to it.
    pub(crate) fn counted(
        &self,
        workers: impl IntoIterator<Item = (WorkerId, Option<Duration>)>,
    ) -> CountedWorkers {
        let of = |(worker, left_for)| {
            // Of one that has not told its ports nothing can be counted: that is not the same as nothing there.
            let running = self.running.get(&worker).filter(|it| !it.ports.is_empty())?;
            let (ports, session) = (Arc::clone(&running.ports), Some(running.child.pid()));
            Some((worker, Counted { ports, session, left_for }))
        };
        workers.into_iter().filter_map(of).collect()
    }
}

impl Running {
    /// Returns whether it has printed something, or what it has printed is on its way.
    fn pass_on(
        &mut self,
        look: &mut ReadBudget,
        printer: Option<&mut Printer>,
        recent: &SharedRecent,
    ) -> bool {
        let origin = self.origin();
        let seen = |printed: &[OutputItem]| recent.add(origin, printed);
        look.pass_on(printer, origin, &self.flow, &mut self.output, seen) || self.flow.is_busy()
    }

    fn origin(&self) -> Origin {
        Origin { seat: self.seat, generation: self.generation, pid: self.child.pid() }
    }
}

/// Sends a signal to processes of a worker, in the way of `to`; what comes of it is logged.
pub(super) fn send(
    worker: WorkerId,
    signal: Signal,
    to: impl FnOnce(SignalNumber) -> Result<Delivery, ProcessError>,
) {
    let Some(number) = SignalNumber::of(&signal.to_string()) else {
        return tracing::error!(%worker, %signal, "cannot signal a worker: no such signal here");
    };
    if let Err(error) = to(number) {
        tracing::error!(%worker, %signal, %error, "cannot signal a worker");
    }
}
