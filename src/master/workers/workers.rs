use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::admission::{Admission, Admitted, JoinRefused};
use super::connections::{Connections, Counts};
use super::counted::CountedWorkers;
use super::handshakes::Handshakes;
use super::hooks::{Hook, HookEnded, HookFailure, HookKind, Hooks, Preparation};
use super::links::{LinkEvent, LinkNews, WorkerLinks};
use super::listeners::{HeldListeners, PassedListener};
use super::memory::{Measured, MemoryMonitor, MemorySample};
use super::observation::Observations;
use super::output::{Printer, SharedRecent};
use super::processes::Processes;
use super::remains::{Exited, Look, Remains, RemainsNews};
use super::spawner::{Prepared, SpawnOutcome, Spawner, SpawnerOutcome, Started};
use super::state_files::StateFiles;
use super::teller::Teller;
use super::template::{SpawnRequest, Template};
use super::transports::{probed_port, transports};
use crate::config::Config;
use crate::control::{JoinRequest, Responder, WorkerEvent, WorkerOrder};
use crate::master::clock::{Clock, QuietTimer};
use crate::master::error::MasterError;
use crate::master::waiting::{QUIET_INTERVAL, next_multiple, rest_until};
use crate::plan::{ClusterName, Generation, Listeners, Port, Protocol, Seat};
use crate::process::{Children, OwnConnections, ProcessError, adopts_orphans};
use crate::protocol::{
    EndSignals, Exit, GenerationCounts, HttpProbe, LogsRequest, Readiness, ReleaseFailure, Stats,
    Status, Timestamp, WorkerData, WorkerId, WorkerState, WorkerStats,
};
use crate::supervisor::{Input, RequestId, Supervisor, Worker};

/// Whose a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionOwner {
    /// That of the worker of this seat.
    Worker(Seat),
    Hook,
}

/// How often what workers print is passed on while they print; twice as long after each look that found
/// nothing, up to [`QUIET_INTERVAL`]. The kernel tells nobody of a write to a file in memory (since Linux 6.14,
/// `alloc_file_pseudo`, fs/file_table.c), and a pipe would block or kill the worker: see `process::Output`.
const OUTPUT_INTERVAL: Duration = Duration::from_millis(50);

/// How long the end of the master waits for who reads what workers printed.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// How often orphans that have ended are waited for, at most.
const ORPHANS_INTERVAL: Duration = Duration::from_millis(100);

/// All workers: their processes, sockets, connections, memory and output.
pub(crate) struct Workers {
    /// What workers of the next generation are started with.
    template: Arc<Template>,
    /// What is probed, if anything is.
    probe: Option<HttpProbe>,
    /// Workers choose their ports, and report them.
    choose_ports: bool,
    /// From when a worker has exited until what is left of its process group is killed.
    die: Duration,
    /// The name of the cluster, which its workers have in their environment.
    name: ClusterName,
    processes: Processes,
    teller: Teller,
    /// Workers that have ended, until nothing is left of them.
    remains: Remains,
    /// Workers of which it is not known yet whether they have ended or gone into the background.
    deferred: BTreeMap<WorkerId, ExitedWorker>,
    /// Tells that a child of this process has ended, where orphans become its children.
    child_ended: Option<Signal>,
    orphans_not_before: Option<Instant>,
    spawner: Spawner,
    hooks: Hooks,
    /// The last request for a new generation: answers to an earlier one come too late.
    preparation: Preparation,
    held: HeldListeners,
    connections: Connections,
    links: WorkerLinks,
    memory: MemoryMonitor,
    /// The request that puts the configured shares in force, and their digest.
    awaited_shares: Option<(RequestId, u64)>,
    output_at: Timestamp,
    output_pause: Duration,
    output_timer: QuietTimer,
}

/// Something that happened in the life of a worker.
pub(crate) enum Life {
    /// First processes have ended: [`Workers::take_ended`] tells of which.
    Ended,
    /// It was started, or could not be.
    Spawned(SpawnOutcome),
    /// What a new generation is started from was found, or is missing.
    Prepared(Prepared),
    /// A hook that runs after a reload is to be started.
    AfterReload(Box<Hook>),
    /// A hook has ended.
    HookEnded(HookEnded),
    /// Connections of retired and ended workers were counted.
    Counted(Counts),
    /// A worker is to get its retire signal.
    Told(WorkerId, EndSignals),
    /// It was looked what workers have left that have ended.
    Looked(Vec<WorkerId>, Look),
}

impl Life {
    /// What it is, for the log.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Spawned(_) => "spawned",
            Self::Prepared(_) => "prepared",
            Self::AfterReload(_) => "after reload",
            Self::HookEnded(_) => "hook ended",
            Self::Counted(_) => "counted",
            Self::Told(..) => "told",
            Self::Looked(..) => "looked",
        }
    }
}

impl Task {
    /// What it is, for the log.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::CountConnections => "count connections",
            Self::LookForRemains => "look for remains",
            Self::ReapOrphans => "reap orphans",
            Self::SampleMemory => "sample memory",
            Self::TakeMemory(_) => "take memory",
            Self::PassOnOutput => "pass on output",
        }
    }
}

/// Work that is due.
pub(crate) enum Task {
    CountConnections,
    LookForRemains,
    ReapOrphans,
    SampleMemory,
    TakeMemory(Box<MemorySample>),
    PassOnOutput,
}

/// A worker that was started.
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    /// Empty, if it will report them.
    pub(crate) ports: Arc<[Port]>,
}

/// A worker whose first process has ended.
pub(crate) struct ExitedWorker {
    pub(crate) exit: Exit,
    /// What it printed last, the oldest line first.
    pub(crate) last_lines: Vec<String>,
    /// It may have gone into the background: what it has left will show that.
    pub(crate) may_be_daemon: bool,
    ports: Arc<[Port]>,
}

/// Waits until a child of this process has ended, but not before.
async fn next_orphan(ended: &mut Option<Signal>, not_before: Option<Instant>) {
    rest_until(not_before).await;
    match ended {
        Some(ended) => drop(ended.recv().await),
        None => std::future::pending().await,
    }
}

/// The moment in which a worker was last retired, of those that are.
fn newest_retired(supervisor: &Supervisor, now: Timestamp) -> Option<Instant> {
    let is_retired = |worker: &&Worker| worker.state() == WorkerState::Retired;
    let since = supervisor.workers().filter(is_retired).map(Worker::since).max()?;
    // An `Instant` is of the same clock, but does not tell its time.
    Instant::now().checked_sub(now.since(since))
}

/// Whether a worker is being started, and it is not known yet as which process.
fn awaits_start(supervisor: &Supervisor) -> bool {
    supervisor.workers().any(|worker| worker.pid.is_none())
}

impl Workers {
    pub(crate) fn new(
        config: &Config,
        template: Arc<Template>,
        states: Option<StateFiles>,
        spawner: Spawner,
        printer: Option<Printer>,
        recent: SharedRecent,
        own: Arc<OwnConnections>,
    ) -> Result<Self, MasterError> {
        Ok(Self {
            template,
            probe: match config.ready() {
                Readiness::Http(probe) => Some(probe.clone()),
                _ => None,
            },
            choose_ports: *config.ready() == Readiness::Protocol,
            die: config.die_timeout(),
            name: config.name().clone(),
            processes: Processes::new(printer, recent, config.nice())?,
            teller: Teller::new(states)?,
            remains: Remains::new(transports(config.listeners()))?,
            deferred: BTreeMap::new(),
            child_ended: None,
            orphans_not_before: None,
            spawner,
            hooks: Hooks::new()?,
            preparation: Preparation::default(),
            held: HeldListeners::default(),
            connections: Connections::new(config.retire_idle(), own)?,
            links: WorkerLinks::new(config.ping_timeout()),
            memory: MemoryMonitor::new()?,
            awaited_shares: None,
            output_at: Timestamp::ZERO,
            output_pause: OUTPUT_INTERVAL,
            output_timer: QuietTimer::default(),
        })
    }

    /// Three things to wait for: what happens in the life of workers, what comes over their
    /// connections, and work that is due. `shows_memory` is whether somebody is told of the memory of
    /// workers all the time.
    pub(crate) fn wait(
        &mut self,
        supervisor: &Supervisor,
        shows_memory: bool,
        clock: Clock,
    ) -> (impl Future<Output = Life>, impl Future<Output = LinkEvent>, impl Future<Output = Task>)
    {
        let is_draining = self.is_draining(supervisor);
        let newest = newest_retired(supervisor, clock.now());
        let (is_running, has_unreaped) = (self.is_running(), self.remains.has_unreaped());
        let is_sampling = is_running && (supervisor.limits_memory() || shows_memory);
        let output_at = is_running.then_some(self.output_at);
        let Self { processes, spawner, hooks, connections, links, memory, remains, .. } = self;
        let output_timer = &mut self.output_timer;
        let child_ended = next_orphan(&mut self.child_ended, self.orphans_not_before);
        let (looked, look) = remains.wait();
        let told = self.teller.next();
        let (counted, count) = connections.wait(newest);
        let (sample, sampled) = memory.wait();
        let life = async move {
            tokio::select! {
                biased;
                () = processes.exit() => Life::Ended,
                outcome = spawner.outcome() => match outcome {
                    SpawnerOutcome::Spawned(outcome) => Life::Spawned(outcome),
                    SpawnerOutcome::Prepared(prepared) => Life::Prepared(prepared),
                    SpawnerOutcome::AfterReload(hook) => Life::AfterReload(hook),
                },
                ended = hooks.ended() => Life::HookEnded(ended),
                counts = counted => Life::Counted(counts),
                (workers, look) = looked => Life::Looked(workers, look),
                (worker, signals) = told => Life::Told(worker, signals),
            }
        };
        let task = async move {
            tokio::select! {
                biased;
                () = count, if is_draining => Task::CountConnections,
                () = look, if has_unreaped => Task::LookForRemains,
                () = child_ended => Task::ReapOrphans,
                () = sample, if is_sampling => Task::SampleMemory,
                sample = sampled => Task::TakeMemory(Box::new(sample)),
                () = output_timer.wait_until(output_at) => Task::PassOnOutput,
            }
        };
        (life, links.next(clock), task)
    }

    /// Does what is due. Returns what the supervisor is to know of it.
    pub(crate) fn perform(
        &mut self,
        task: Task,
        supervisor: &Supervisor,
        now: Timestamp,
    ) -> Option<Input> {
        match task {
            Task::CountConnections => self.count_connections(supervisor, now),
            Task::LookForRemains => self.look_for_remains(),
            Task::ReapOrphans => {
                self.orphans_not_before = Instant::now().checked_add(ORPHANS_INTERVAL);
                self.spawner.reap_orphans();
            }
            Task::SampleMemory => self.memory.look(self.processes.pids(), now),
            Task::TakeMemory(sample) => return self.take_memory(*sample),
            Task::PassOnOutput => {
                self.output_pause = match self.processes.pass_on_output() {
                    true => OUTPUT_INTERVAL,
                    false => QUIET_INTERVAL.min(self.output_pause * 2),
                };
                self.output_at = match self.output_pause {
                    QUIET_INTERVAL => next_multiple(now, QUIET_INTERVAL),
                    pause => now.after(pause),
                };
            }
        }
        None
    }

    /// Begins a look at the memory of all workers, if none was of late. Who wants to see what it shows waits
    /// until what is returned is closed, and has [`Self::measured`] called then.
    pub(crate) fn refresh_memory(
        &mut self,
        now: Timestamp,
    ) -> Option<std::sync::mpsc::Receiver<Infallible>> {
        let processes = &self.processes;
        self.memory.refresh(|| processes.pids(), now)
    }

    /// Takes in a look at the memory of workers that has ended. Returns what the supervisor is to know.
    pub(crate) fn measured(&mut self) -> Option<Input> {
        let sample = self.memory.ended()?;
        self.take_memory(sample)
    }

    fn take_memory(&mut self, sample: MemorySample) -> Option<Input> {
        let processes = &self.processes;
        let measured = self.memory.take_in(sample, |worker| processes.runs(worker))?;
        Some(match measured {
            Measured::Resident(footprint) => Input::ResidentMeasured(footprint),
            Measured::Proportional(footprint) => Input::ProportionalMeasured(footprint),
        })
    }

    /// Whether any worker runs.
    pub(crate) fn is_running(&self) -> bool {
        self.processes.is_running()
    }

    /// Another configuration holds from now on: its workers, those of generations that begin now, are
    /// started with this template.
    pub(crate) fn configure(&mut self, config: &Config, template: Arc<Template>) {
        self.remains.add_transports(&transports(config.listeners()));
        self.connections.set_idle(config.retire_idle());
        self.die = config.die_timeout();
        self.template = template;
    }

    // The life of a worker.

    /// Has a worker started; `workers` is how many the cluster is to have. [`Life::Spawned`] tells what
    /// came of it.
    pub(crate) fn spawn(
        &self,
        worker: WorkerId,
        seat: Seat,
        generation: Generation,
        workers: usize,
    ) {
        let inherited = self.held.of(worker);
        self.spawner.start(SpawnRequest { worker, seat, generation, workers, inherited });
    }

    /// Finds what the workers of a new generation are started from, and runs the hook that comes before them.
    /// [`Self::take_prepared`] and [`Self::take_hook`] tell what came of it.
    pub(crate) fn prepare(&mut self, generation: Generation) {
        self.preparation.0 += 1;
        self.spawner.prepare(self.preparation, generation, Arc::clone(&self.template));
    }

    /// Runs the hook that follows a reload, if there is one.
    pub(crate) fn after_reload(&self, generation: Generation) {
        self.spawner.after_reload(generation);
    }

    /// Ends the hook that runs before a new generation: nothing is to come of it any more.
    pub(crate) fn cancel_preparation(&mut self) {
        self.preparation.0 += 1;
        self.hooks.cancel();
    }

    /// Ends the hooks that run, and waits until they have.
    pub(crate) async fn stop_hooks(&mut self) {
        self.hooks.stop().await;
    }

    /// Takes in what was found for a new generation. Returns what the supervisor is to know of it, unless
    /// a hook is to run first.
    pub(crate) fn take_prepared(&mut self, prepared: Prepared) -> Option<Input> {
        let Prepared { preparation, generation, result } = prepared;
        if preparation != self.preparation {
            return None;
        }
        let failure = match result {
            Ok(Some(hook)) => {
                self.hooks.start(hook);
                return Some(Input::HookRuns { generation });
            }
            Ok(None) => None,
            Err(error) => Some(ReleaseFailure::new(error.to_string())),
        };
        Some(Input::ReleasePrepared { generation, failure })
    }

    /// Starts a hook that follows a reload.
    pub(crate) fn start_hook(&mut self, hook: Box<Hook>) {
        self.hooks.start(hook);
    }

    /// Takes in the end of a hook. Returns what the supervisor is to know of it.
    pub(crate) fn take_hook(&mut self, ended: HookEnded) -> Option<Input> {
        self.hooks.take_end();
        ended.log();
        let HookEnded { kind, generation, result } = ended;
        let failure = result
            .err()
            .map(|HookFailure { reason, last_lines }| ReleaseFailure { reason, last_lines });
        (kind == HookKind::BeforeReload(self.preparation))
            .then_some(Input::ReleasePrepared { generation, failure })
    }

    /// Takes in a worker that was started.
    pub(crate) fn started(
        &mut self,
        worker: WorkerId,
        seat: Seat,
        mut started: Started,
    ) -> Spawned {
        if self.choose_ports {
            // It may take those that it was offered, or others: it will tell.
            started.ports = Arc::new([]);
        }
        let (pid, ports) = (started.child.pid(), Arc::clone(&started.ports));
        self.watch(worker, seat, started);
        Spawned { pid, ports }
    }

    /// Takes in a worker of an earlier master. Returns its pid.
    pub(crate) fn adopt(&mut self, worker: WorkerId, seat: Seat, started: Started) -> u32 {
        let pid = started.child.pid();
        self.watch(worker, seat, started);
        pid
    }

    fn watch(&mut self, worker: WorkerId, seat: Seat, started: Started) {
        if let Some(sockets) = &started.sockets {
            self.held.insert(worker, Arc::clone(sockets));
        }
        self.processes.insert(worker, seat, started);
        // A worker that starts prints, most likely.
        self.output_pause = OUTPUT_INTERVAL;
        self.output_at = Timestamp::ZERO;
    }

    /// How a worker has ended; `None` if it runs, or is none of ours. What it has left is looked for from
    /// now on; one that was `starting` may have gone into the background.
    pub(crate) fn take_exit(
        &mut self,
        worker: WorkerId,
        signals: EndSignals,
        was_starting: bool,
        now: Timestamp,
    ) -> Option<ExitedWorker> {
        let ports = self.processes.ports_of(worker)?;
        let (exit, last_lines, ended) = self.processes.take_exit(worker)?;
        let mut trace = ended.child.trace();
        trace.ports = ended.ports;
        if let Some(number) = ended.number {
            let variables = [
                ("IPCLUSTER_NAME", self.name.to_string()),
                ("IPCLUSTER_WORKER", number.to_string()),
            ];
            trace.variables =
                variables.map(|(name, value)| format!("{name}={value}").into_bytes()).into();
        }
        let may_be_daemon = was_starting && exit == Exit::Code(0);
        let exited = Exited {
            seat: ended.seat,
            generation: ended.generation,
            child: ended.child,
            trace,
            signals,
            kill_at: now.after(self.die),
            may_be_daemon,
        };
        self.remains.insert(worker, exited);
        self.links.forget(worker);
        Some(ExitedWorker { exit, last_lines, ports, may_be_daemon })
    }

    /// Keeps the end of a worker back until it is known whether it has gone into the background.
    pub(crate) fn defer(&mut self, worker: WorkerId, ended: ExitedWorker) {
        self.deferred.insert(worker, ended);
        self.look_for_remains();
    }

    /// The end of a worker that was kept back.
    pub(crate) fn take_deferred(&mut self, worker: WorkerId) -> Option<ExitedWorker> {
        self.deferred.remove(&worker)
    }

    /// The workers whose first process has ended, and whose exit is to be [taken in](Self::take_exit) now: those
    /// first that clients are sent to.
    pub(crate) fn take_ended(&mut self, supervisor: &Supervisor) -> Vec<WorkerId> {
        let is_live = |worker| {
            supervisor.worker(worker).is_some_and(|worker| worker.state() == WorkerState::Live)
        };
        self.processes.take_ended(is_live)
    }

    /// Takes care of the clients of workers that have ended, when no rule names them any more.
    pub(crate) fn drain_ended(
        &mut self,
        ended: Vec<(WorkerId, ExitedWorker)>,
        supervisor: &Supervisor,
        now: Timestamp,
    ) {
        self.look_for_remains();
        for (worker, ended) in ended {
            self.connections.ended(worker, ended.ports);
        }
        self.count_connections(supervisor, now);
    }

    fn look_for_remains(&mut self) {
        let Self { remains, processes, .. } = self;
        remains.begin(|| processes.sessions());
    }

    /// Takes in what workers have left; with `ends_all` also what is of no worker that is known.
    pub(crate) fn take_look(
        &mut self,
        workers: Vec<WorkerId>,
        look: Look,
        ends_all: bool,
        now: Timestamp,
    ) -> Vec<RemainsNews> {
        let news = self.remains.take(workers, look, ends_all, now);
        for it in &news {
            if let RemainsNews::Reaped { worker, .. } = it {
                self.connections.reaped(*worker);
                self.spawner.ended(*worker);
            }
        }
        self.release_ports();
        self.look_for_remains();
        news
    }

    /// Waits for the rest of the processes, which are killed when their time is over.
    pub(crate) async fn reap_all(&mut self, clock: Clock) {
        while self.has_exited() {
            self.look_for_remains();
            let (looked, due) = self.remains.wait();
            let look = tokio::select! {
                biased;
                look = looked => Some(look),
                () = due => None,
            };
            if let Some((workers, look)) = look {
                drop(self.take_look(workers, look, true, clock.now()));
            }
        }
    }

    /// No worker is left: what was made for them goes.
    pub(crate) async fn stop(&mut self) {
        self.spawner.stop().await;
    }

    /// Whether processes of workers may be left whose first process has ended.
    pub(crate) fn has_exited(&self) -> bool {
        !self.remains.is_empty()
    }

    /// Begins to wait for orphans that become children of this process, if they do.
    ///
    /// # Errors
    /// [`MasterError::Signals`].
    pub(crate) fn register(&mut self) -> Result<(), MasterError> {
        if adopts_orphans() {
            let ended = signal(SignalKind::child());
            self.child_ended = Some(ended.map_err(|source| MasterError::Signals { source })?);
        }
        Ok(())
    }

    /// Why a worker has asked for its retirement, and what it tells about that, if it has since this was asked
    /// last.
    pub(crate) fn take_retire_reason(
        &mut self,
        worker: WorkerId,
    ) -> (Option<String>, Option<WorkerData>) {
        self.links.take_retire_reason(worker)
    }

    /// Adds what workers say of themselves.
    pub(crate) fn add_to_stats(&self, stats: &mut Stats) {
        let told = |worker: &WorkerStats| match self.links.told(worker.worker) {
            Some((lag, app)) => WorkerStats { lag: Some(lag), app, ..worker.clone() },
            None => worker.clone(),
        };
        stats.workers = stats.workers.iter().map(told).collect();
    }

    /// Adds to a status what workers were told of themselves.
    pub(crate) fn add_told(&self, status: &mut Status) {
        let told = self.processes.told();
        for shown in &mut status.workers {
            let Some(told) = shown.pid.and_then(|pid| told.get(&pid)) else { continue };
            shown.number = told.number;
            shown.private_ports = told.private_ports.clone();
        }
        // What its ports are for is what was configured when its generation began.
        let ports = self.processes.ports_by_pid();
        for shown in &mut status.workers {
            if let Some(ports) = shown.pid.and_then(|pid| ports.get(&pid)) {
                shown.ports.clone_from(ports);
            }
        }
    }

    /// The pids of the first processes of all workers that run.
    pub(crate) fn leaders(&self) -> Vec<u32> {
        self.processes.pids().into_iter().map(|(_, pid)| pid).collect()
    }

    // Connections of clients.

    /// Whether there is anything to be counted or let go.
    fn is_draining(&self, supervisor: &Supervisor) -> bool {
        supervisor.workers().any(|worker| worker.state() == WorkerState::Retired)
            || self.connections.has_gone()
            || supervisor.orphaned_listeners().next().is_some()
    }

    /// Begins a count of the connections of workers that are retired or ended, if it is time for one.
    fn count_connections(&mut self, supervisor: &Supervisor, now: Timestamp) {
        if !self.connections.may_count(newest_retired(supervisor, now)) {
            return;
        }
        let mut retired = self.counted(supervisor, |state| state == WorkerState::Retired, now);
        let orphaned =
            supervisor.orphaned_listeners().map(|(worker, since)| (worker, now.since(since)));
        retired.extend(self.held.counted(orphaned));
        self.connections.count(retired, supervisor);
    }

    /// The workers in these states that run, to be counted.
    pub(crate) fn counted(
        &self,
        supervisor: &Supervisor,
        is: impl Fn(WorkerState) -> bool,
        now: Timestamp,
    ) -> CountedWorkers {
        let workers = supervisor.workers().filter(|worker| is(worker.state()));
        let left_for = |worker: &Worker| {
            (worker.state() == WorkerState::Retired).then(|| now.since(worker.since()))
        };
        self.processes.counted(workers.map(|worker| (worker.id, left_for(worker))))
    }

    /// What is known of handshakes under way, for a count of another kind.
    pub(crate) fn handshakes(&self) -> Handshakes {
        self.connections.handshakes()
    }

    /// Takes in what was counted.
    pub(crate) fn take_counts(
        &mut self,
        counts: Counts,
        supervisor: &Supervisor,
        now: Timestamp,
    ) -> VecDeque<Input> {
        self.connections.end(&counts);
        self.release_ports();
        if self.connections.has_gone() {
            self.count_connections(supervisor, now);
        }
        self.connections.inputs(counts)
    }

    fn release_ports(&mut self) {
        for worker in self.connections.take_free() {
            // Ports whose sockets are held are free when those are closed.
            if !self.held.has(worker) {
                self.spawner.release(worker);
            }
        }
    }

    // Listening sockets that are held here.

    /// Gives the listening sockets that one worker has left to another.
    pub(crate) fn transfer_listeners(&mut self, from: WorkerId, to: WorkerId) {
        self.held.transfer(from, to);
    }

    /// Closes the listening sockets that a worker has left.
    pub(crate) fn close_listeners(&mut self, worker: WorkerId) {
        self.held.close(worker);
        self.spawner.release(worker);
    }

    // The control link of a worker.

    /// Where a control server sends what comes from workers.
    pub(crate) fn link_sender(&self) -> mpsc::Sender<WorkerEvent> {
        self.links.sender()
    }

    /// Takes in what comes of the connections of workers.
    pub(crate) fn take_link_event(
        &mut self,
        event: LinkEvent,
        supervisor: &Supervisor,
        now: Timestamp,
    ) -> Vec<LinkNews> {
        match event {
            LinkEvent::Link(WorkerEvent::JoinRequested(request)) => {
                self.take_join_request(request, supervisor)
            }
            LinkEvent::Link(WorkerEvent::Peer { token, event }) => self.links.heard(token, event),
            LinkEvent::Link(WorkerEvent::Disconnected { token }) => self.links.left(token, now),
            LinkEvent::Missed => self.links.take_missed(now),
        }
    }

    fn take_join_request(
        &mut self,
        request: JoinRequest,
        supervisor: &Supervisor,
    ) -> Vec<LinkNews> {
        let Self { processes, connections, links, .. } = self;
        let is_connected = &|worker| links.is_connected(worker);
        let admission = Admission { supervisor, processes, connections, is_connected };
        match admission.admit(&request) {
            Ok(Admitted { worker, process, ports }) => {
                if let Some(ports) = &ports {
                    self.processes.set_ports(worker, Arc::clone(ports));
                }
                self.links.join(worker, process, ports, request)
            }
            Err(refusal @ JoinRefused::Stranger(_)) if awaits_start(supervisor) => {
                self.links.keep(&refusal, request);
                Vec::new()
            }
            Err(refusal) => {
                self.links.refuse(&refusal, request);
                Vec::new()
            }
        }
    }

    /// A start has succeeded or failed, and the supervisor knows it.
    pub(crate) fn start_is_known(&mut self) {
        self.links.start_is_known();
    }

    /// Tells a worker that others have its place, if it is connected.
    pub(crate) fn tell_retire(&self, worker: WorkerId) {
        self.links.order(worker, WorkerOrder::Retire, "another worker has its place");
    }

    /// Tells a worker to end; returns whether it is connected.
    pub(crate) fn tell_die(&self, worker: WorkerId) -> bool {
        self.links.order(worker, WorkerOrder::Die, "it has drained, or has to end")
    }

    /// Takes in nothing more from workers.
    pub(crate) fn close_links(&mut self) {
        self.links.close();
    }

    // Processes.

    /// Tells a worker that it is retired; [`Life::Told`] comes when its retire signal is due.
    pub(crate) fn tell_retired(&self, worker: WorkerId, signals: EndSignals) {
        self.teller.tell_retired(worker, signals, self.processes.number_of(worker));
    }

    /// Tells a worker that it serves again.
    pub(crate) fn tell_serving(&self, worker: WorkerId) {
        self.teller.tell_serving(worker, self.processes.number_of(worker));
    }

    /// Notes that these shares are configured, and in force, for the next master.
    pub(crate) fn note_configured(&self, shares: u64) {
        self.teller.note_configured(shares);
    }

    /// Notes how many connections were counted for each generation, for the next master.
    pub(crate) fn note_connections(&self, counts: GenerationCounts) {
        self.teller.note_connections(counts);
    }

    /// Has these shares noted when this request has succeeded.
    pub(crate) fn await_configured(&mut self, request: RequestId, shares: u64) {
        self.awaited_shares = Some((request, shares));
    }

    /// Takes in that a request has succeeded.
    pub(crate) fn request_succeeded(&mut self, request: RequestId) {
        if let Some((_, shares)) = self.awaited_shares.take_if(|(awaited, _)| *awaited == request) {
            self.note_configured(shares);
        }
    }

    /// Sends a worker its retire signal, if it has one.
    pub(crate) fn send_retire_signal(&self, worker: WorkerId, signals: EndSignals) {
        self.processes.tell_retired(worker, signals);
    }

    /// Sends a worker its stop signal.
    pub(crate) fn terminate(&self, worker: WorkerId, signals: EndSignals) {
        self.processes.terminate(worker, signals);
    }

    /// Sends a worker SIGKILL.
    pub(crate) fn kill(&self, worker: WorkerId, signals: EndSignals) {
        self.processes.kill(worker, signals);
    }

    /// Gives the process group of a worker a nice value.
    pub(crate) fn renice(&self, worker: WorkerId, nice: i32) {
        self.processes.renice(worker, nice);
    }

    /// Gives the process group of a worker the nice value that it was started with.
    pub(crate) fn restore_nice(&self, worker: WorkerId) {
        self.processes.restore_nice(worker);
    }

    /// Has the proportional sizes of these workers measured. There is exactly one answer.
    pub(crate) fn measure_shared(&mut self, workers: Vec<WorkerId>) {
        self.memory.ask(workers);
    }

    /// What a worker that runs has printed last, the oldest line first.
    pub(crate) fn last_lines(&mut self, worker: WorkerId) -> Option<Vec<String>> {
        self.processes.last_lines(worker)
    }

    /// What the kernel shows of workers: whether they listen on all their ports, where clients of all
    /// listeners reach them, and what waits there; and whether they are stopped, if that is asked.
    pub(crate) fn observe(
        &mut self,
        workers: &[WorkerId],
        whether_stopped: bool,
    ) -> Result<Observations, ProcessError> {
        let is_held = |worker| self.held.has(worker);
        let probe = self.probe.as_ref();
        let probed = |listeners: &Listeners| probe.and_then(|probe| probed_port(probe, listeners));
        self.processes.observe(workers, is_held, probed, whether_stopped)
    }

    /// The tcp sockets that a worker was started with.
    pub(crate) fn passed_sockets(&self, worker: WorkerId) -> Vec<PassedListener> {
        let Some(listeners) = self.processes.listeners_of(worker) else { return Vec::new() };
        let public = listeners.public_ports();
        self.held.of(worker).map(|sockets| sockets.passed(public)).unwrap_or_default()
    }

    /// Whether the first process of a worker has child processes, or has had some; `false` where that cannot
    /// be read.
    pub(crate) fn has_children(&self, worker: WorkerId) -> bool {
        let children = self.pid_of(worker).map(Children::read).and_then(Result::ok).flatten();
        children.is_some_and(Children::were_any)
    }

    /// The worker ports of a worker that are for tcp, each with its public port.
    pub(crate) fn tcp_ports(&self, worker: WorkerId) -> Vec<(u16, u16)> {
        let Some(ports) = self.processes.ports_of(worker) else { return Vec::new() };
        let Some(listeners) = self.processes.listeners_of(worker) else { return Vec::new() };
        let services = listeners.services(Protocol::Tcp).iter();
        services.filter_map(|it| Some((ports.get(it.place)?.number(), it.port.number()))).collect()
    }

    /// The pid of a worker's first process.
    pub(crate) fn pid_of(&self, worker: WorkerId) -> Option<u32> {
        self.processes.pid_of(worker)
    }

    /// The worker whose first process has made this session.
    pub(crate) fn worker_of(&self, session: u32) -> Option<WorkerId> {
        self.processes.worker_of(session)
    }

    /// Whose a session is: a worker's, or that of a hook.
    pub(crate) fn session_owner(
        &self,
        session: u32,
        supervisor: &Supervisor,
    ) -> Option<SessionOwner> {
        if let Some(worker) = self.worker_of(session) {
            return supervisor.worker(worker).map(|known| SessionOwner::Worker(known.seat));
        }
        self.hooks.has_session(session).then_some(SessionOwner::Hook)
    }

    /// The process of a worker and the file that it prints to, to be handed over.
    pub(crate) fn descriptors(&self, worker: WorkerId) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        self.processes.descriptors(worker)
    }

    /// The listening sockets of a worker that are held here, to be handed over.
    pub(crate) fn listener_descriptors(
        &self,
        worker: WorkerId,
    ) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.held.descriptors(worker)
    }

    /// Whether lines are kept that workers in this seat have printed.
    pub(crate) fn has_printed_in(&self, seat: Seat) -> bool {
        self.processes.has_printed_in(seat)
    }

    /// Sends the last lines of workers to who asks for them.
    pub(crate) fn show_logs(&mut self, request: LogsRequest, responder: Responder) {
        self.processes.show_logs(request, responder);
    }

    /// Passes on what workers have printed, and waits until it is written, though not for long: who
    /// reads it may not.
    pub(crate) fn finish_output(&mut self) {
        self.processes.pass_on_output();
        self.processes.finish_output(OUTPUT_PATIENCE);
    }
}
