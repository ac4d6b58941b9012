//! The checks by which the [detector](crate::supervisor::HealthDetector) knows what it knows: looks at sockets and
//! processes, probes, and what workers write to `NOTIFY_SOCKET`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(feature = "http")]
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
#[cfg(feature = "http")]
use tokio::time::timeout;

use super::faults::ReadinessFaults;
#[cfg(feature = "http")]
use super::probe::ProbeRequest;
use super::starting::{StartingChecker, StartingReport, StartingWorker, Wanted};
use crate::config::Config;
use crate::master::background::BackgroundThread;
use crate::master::clock::{Clock, QuietTimer};
use crate::master::error::MasterError;
use crate::master::waiting::{Periodic, QUIET_INTERVAL, next_multiple, receive, rest_until};
use crate::master::workers::{Observations, Workers, local_ports_of, worker_port_of};
use crate::plan::{Plan, Port, Protocol};
use crate::process::{
    self, AcceptQueue, NotifyMessage, NotifySocket, OwnConnections, ProcessError, Received,
};
use crate::protocol::{
    PortFaultKind, ProbeFault, Readiness, ReadinessFault, Status, Timestamp, WorkerId, WorkerState,
};
use crate::supervisor::{
    HealthDetector, Input, NotifyEffect, NotifyField, Observation, PortConnections, ProbeResult,
    Supervisor, WatchLimits, Worker,
};

/// How often it is looked whether workers that are starting listen: that often at first, and the less often the
/// longer all of them have been starting, up to the longest interval. A worker is found ready no later than by the
/// shortest interval or by this part of its start.
const READINESS_INTERVAL: Duration = Duration::from_millis(10);
const READINESS_SHARE: u32 = 50;
const LONGEST_READINESS_INTERVAL: Duration = Duration::from_millis(640);

/// The least time between two checks of workers that are ready: what has no event of its own is known so much
/// later at most than it could be.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The most probes that are under way, and the most that begin at once. A worker whose turn does not
/// come does not count as silent for that.
const MOST_PROBES: usize = 128;
const PROBES_AT_ONCE: usize = 32;

/// How long a worker is only looked at before a connection is made to see whether it accepts; at most a
/// quarter of `timeouts.ready`.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// How long a worker has not been ready when it is logged what it lacks; at most half of `timeouts.ready`.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// How long a probe of a worker that is starting goes on until it is told that there is no answer.
#[cfg(feature = "http")]
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// How many times as long as a look at connections takes there is none.
const QUEUE_CHECK_PAUSE: u32 = 4;

/// How many times as long as a look at workers that are starting takes of a processor there is none.
const STARTING_CHECK_PAUSE: u32 = 4;

/// How the time for messages is bounded: one part in so many, and not again before this rest.
const MESSAGES_SHARE: u32 = 5;
const MESSAGES_REST: Duration = Duration::from_millis(1);

/// Checks the health of all workers.
pub(crate) struct HealthMonitor {
    detector: HealthDetector,
    readiness: Readiness,
    notify: Option<NotifySocket>,
    /// `None` before the loop runs, or without a socket.
    readable: Option<AsyncFd<OwnedFd>>,
    /// No message is read earlier.
    rest_until: Option<Instant>,
    /// Looks at the connections in accept queues: there may be very many.
    queue_checker: BackgroundThread,
    /// The connections that checks make.
    own: Arc<OwnConnections>,
    /// Looks at workers that are starting: there may be very many descriptors and threads.
    ready_checker: BackgroundThread,
    starting: Arc<Mutex<StartingChecker>>,
    /// `timeouts.ready`.
    ready_timeout: Duration,
    is_checking_starting: bool,
    check_starting_at: Timestamp,
    /// What was seen of workers that are starting.
    faults: ReadinessFaults,
    sender: mpsc::UnboundedSender<CheckResult>,
    results: mpsc::UnboundedReceiver<CheckResult>,
    readiness_check: Periodic,
    /// Workers that are ready are checked no earlier.
    check_not_before: Timestamp,
    check_timer: QuietTimer,
    /// What probes ask.
    #[cfg(feature = "http")]
    probe_request: Option<ProbeRequest>,
    /// Workers that are being probed.
    probes: BTreeSet<WorkerId>,
    /// The kernel is looked at no earlier.
    look_at: Timestamp,
    is_checking_queues: bool,
    check_queues_at: Timestamp,
    /// It was logged that an unknown process writes to the socket.
    has_warned: bool,
    /// The last look has failed, and that was logged.
    has_failed: bool,
}

/// The result of a check outside the loop.
pub(crate) enum CheckResult {
    Probed {
        worker: WorkerId,
        result: ProbeResult,
        fault: Option<ProbeFault>,
    },
    /// A probe goes on, and it has had no answer for [`PROBE_PATIENCE`].
    Unanswered {
        worker: WorkerId,
        fault: ProbeFault,
    },
    /// Workers that are starting were looked at, which took so much of a processor.
    Starting {
        took: Duration,
        reports: Vec<StartingReport>,
    },
    Queues {
        began: Timestamp,
        found: Result<BTreeMap<u16, AcceptQueue>, ProcessError>,
    },
}

/// Work that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Look whether workers that are starting listen.
    LookForReady,
    /// Check those that are ready.
    Check,
}

/// A message of a worker, and what it makes known.
pub(crate) struct Heard {
    pub(crate) inputs: VecDeque<Input>,
    /// Its descriptors are closed when it has been acted on, not before: who waits for that
    /// (`BARRIER=1`) knows it then.
    pub(crate) message: NotifyMessage,
}

impl HealthMonitor {
    /// The most messages that are read before others have their turn.
    pub(crate) const MESSAGES_AT_ONCE: usize = 64;

    pub(crate) fn new(config: &Config, own: Arc<OwnConnections>) -> Result<Self, MasterError> {
        let (sender, results) = mpsc::unbounded_channel();
        let limits =
            WatchLimits { ping: config.ping_timeout(), watchdog: config.watchdog_timeout() };
        let detector = HealthDetector::new(config.ready().clone(), limits);
        Ok(Self {
            #[cfg(feature = "http")]
            probe_request: match config.ready() {
                Readiness::Http(probe) => {
                    Some(ProbeRequest::new(probe, config.listeners(), detector.probe_timeout()))
                }
                _ => None,
            },
            detector,
            readiness: config.ready().clone(),
            notify: None,
            readable: None,
            rest_until: None,
            queue_checker: BackgroundThread::new("queue-checker")?,
            starting: Arc::new(Mutex::new(StartingChecker::new(Arc::clone(&own)))),
            own,
            ready_checker: BackgroundThread::new("ready-checker")?,
            ready_timeout: config.ready_timeout(),
            is_checking_starting: false,
            check_starting_at: Timestamp::ZERO,
            faults: ReadinessFaults::default(),
            sender,
            results,
            readiness_check: Periodic::every(READINESS_INTERVAL),
            check_not_before: Timestamp::ZERO,
            check_timer: QuietTimer::default(),
            probes: BTreeSet::new(),
            look_at: Timestamp::ZERO,
            is_checking_queues: false,
            check_queues_at: Timestamp::ZERO,
            has_warned: false,
            has_failed: false,
        })
    }

    /// Another configuration holds from now on.
    pub(crate) fn configure(&mut self, config: &Config) {
        self.ready_timeout = config.ready_timeout();
        #[cfg(feature = "http")]
        if let Readiness::Http(probe) = config.ready() {
            let patience = self.detector.probe_timeout();
            self.probe_request = Some(ProbeRequest::new(probe, config.listeners(), patience));
        }
    }

    /// Reads what workers write to this socket.
    ///
    /// # Errors
    /// Workers are to say that they are ready, and have no socket for it.
    pub(crate) fn with_socket(self, notify: Option<NotifySocket>) -> Result<Self, MasterError> {
        if self.readiness == Readiness::Notify && notify.is_none() {
            return Err(MasterError::NoNotifySocket);
        }
        Ok(Self { notify, ..self })
    }

    /// Gets ready to [wait](Self::wait) in the runtime of the caller.
    pub(crate) fn register(&mut self) -> Result<(), MasterError> {
        let readable = self.notify.as_ref().map(NotifySocket::readable).transpose();
        self.readable = readable.map_err(|source| MasterError::Notify { source })?;
        Ok(())
    }

    /// Three things to wait for: the result of a check, messages to be read by
    /// [`Self::next_message`], and work that is due while workers are starting or running. `youngest` is for how
    /// long the worker has been starting that was started last, if any is.
    pub(crate) fn wait(
        &mut self,
        youngest: Option<Duration>,
        are_running: bool,
    ) -> (
        impl Future<Output = CheckResult>,
        impl Future<Output = io::Result<()>>,
        impl Future<Output = Task>,
    ) {
        let check_at = self.check_at().filter(|_| are_running);
        self.readiness_check.set_period(readiness_interval(youngest.unwrap_or_default()));
        let are_starting = youngest.is_some();
        let Self { readable, rest_until, results, readiness_check, check_timer, .. } = self;
        let task = async move {
            tokio::select! {
                biased;
                () = readiness_check.tick(), if are_starting => Task::LookForReady,
                () = check_timer.wait_until(check_at) => Task::Check,
            }
        };
        (receive(results), ready(readable.as_ref(), *rest_until), task)
    }

    /// When workers that are ready are to be checked, if nothing else happens before.
    fn check_at(&self) -> Option<Timestamp> {
        let look = self.detector.look_interval().is_some() && self.detector.has_watched();
        let queues = self.detector.suspect_at().filter(|_| !self.is_checking_queues);
        let probe = self.detector.next_probe().filter(|_| self.probes.len() < MOST_PROBES);
        let due = [
            look.then_some(self.look_at),
            queues.map(|at| at.max(self.check_queues_at)),
            probe,
            self.detector.deadline(),
        ];
        due.into_iter().flatten().min().map(|at| at.max(self.check_not_before))
    }

    /// Takes in a worker that runs. Returns what came of the messages that it has sent already.
    pub(crate) fn started(
        &mut self,
        worker: WorkerId,
        pid: u32,
        has_passed_sockets: bool,
        now: Timestamp,
    ) -> VecDeque<Input> {
        let effect = self.detector.started(worker, pid, now);
        if has_passed_sockets {
            self.detector.must_accept(worker);
        }
        log_refused(worker, effect)
    }

    /// The connections that checks make.
    pub(crate) fn own_connections(&self) -> Arc<OwnConnections> {
        Arc::clone(&self.own)
    }

    /// Takes in where in its life a worker is that an earlier master has started. One that is in force
    /// is ready, whatever it said to that one.
    pub(crate) fn adopted(&mut self, worker: WorkerId, state: WorkerState, now: Timestamp) {
        match state {
            WorkerState::Live => self.detector.adopted(worker, now),
            WorkerState::Retired | WorkerState::Dying => self.detector.retired(worker),
            _ => {}
        }
    }

    /// Forgets a worker whose process has ended.
    pub(crate) fn ended(&mut self, worker: WorkerId) {
        self.detector.ended(worker);
        self.faults.forget(worker);
    }

    /// Does what is due.
    pub(crate) fn perform(
        &mut self,
        task: Task,
        workers: &mut Workers,
        supervisor: &Supervisor,
        clock: Clock,
    ) -> VecDeque<Input> {
        match task {
            Task::LookForReady => self.look_for_ready(workers, supervisor, clock),
            Task::Check => self.check(workers, supervisor, clock),
        }
    }

    /// Looks which of the workers that are starting listen.
    fn look_for_ready(
        &mut self,
        workers: &mut Workers,
        supervisor: &Supervisor,
        clock: Clock,
    ) -> VecDeque<Input> {
        let starting = supervisor.workers().filter(|worker| worker.awaits_ready());
        let starting: Vec<WorkerId> = starting.map(|worker| worker.id).collect();
        // A rollback wants one back that had left only just now.
        let is_back = |worker: &WorkerId| starting.contains(worker);
        for worker in self.detector.watched().into_iter().filter(is_back) {
            self.detector.retired(worker);
        }
        match workers.observe(&starting, false) {
            Ok(observations) => {
                self.take_observations(observations, &starting, workers, supervisor, clock.now())
            }
            Err(error) => {
                tracing::warn!(%error, "cannot check which workers listen");
                VecDeque::new()
            }
        }
    }

    /// Takes in what was seen of workers that are starting, and has those looked at that lack something.
    fn take_observations(
        &mut self,
        observations: Observations,
        starting: &[WorkerId],
        workers: &Workers,
        supervisor: &Supervisor,
        now: Timestamp,
    ) -> VecDeque<Input> {
        let Observations { seen, unseen, further } = observations;
        let (mut inputs, mut wanted) = (further_sockets(further), BTreeMap::new());
        for (worker, seen) in seen {
            let Observation { listens, address, fault, .. } = seen;
            if listens && workers.has_children(worker) {
                self.detector.must_be_accepting(worker);
            }
            inputs.extend(self.detector.observed_starting(worker, listens, address, now));
            match fault {
                Some(fault) if fault.kind == PortFaultKind::Missing => {
                    wanted.insert(worker, Wanted::Listens(fault, workers.tcp_ports(worker)));
                }
                Some(fault) => {
                    let fault = ReadinessFault::Port(fault);
                    inputs.extend(self.note_fault(worker, fault, supervisor, now));
                }
                None => {}
            }
        }
        for (worker, fault) in unseen {
            inputs.extend(self.note_fault(worker, fault, supervisor, now));
        }
        for worker in self.detector.awaiting_acceptance(starting) {
            wanted.entry(worker).or_insert_with(|| {
                let passed = workers.passed_sockets(worker);
                match passed.is_empty() {
                    true => Wanted::AcceptsOnOwn(workers.tcp_ports(worker)),
                    false => Wanted::Accepts(passed),
                }
            });
        }
        self.check_starting(wanted, workers, supervisor, now);
        self.begin_probes(now);
        inputs
    }

    /// Begins a look at workers that are starting and lack something, if it is time for one.
    fn check_starting(
        &mut self,
        wanted: BTreeMap<WorkerId, Wanted>,
        workers: &Workers,
        supervisor: &Supervisor,
        now: Timestamp,
    ) {
        if self.is_checking_starting || now < self.check_starting_at || wanted.is_empty() {
            return;
        }
        let patience = START_PATIENCE.min(self.ready_timeout / 4);
        let mut wanted = wanted;
        let starting = |known: &Worker| {
            let (worker, age) = (known.id, now.since(known.started));
            let wanted = wanted.remove(&worker)?;
            // Where it listens is asked only of those that take long for that.
            let is_due = !matches!(wanted, Wanted::Listens(..)) || age >= patience;
            let pid = workers.pid_of(worker).filter(|_| is_due)?;
            Some(StartingWorker { worker, pid, age, patience, wanted })
        };
        let wanted: Vec<StartingWorker> = supervisor.workers().filter_map(starting).collect();
        if wanted.is_empty() {
            return;
        }
        self.is_checking_starting = true;
        let (checker, sender) = (Arc::clone(&self.starting), self.sender.clone());
        self.ready_checker.run(move || {
            // This thread alone uses it, and keeps nothing that a panic could have left half done.
            let mut checker = checker.lock().unwrap_or_else(PoisonError::into_inner);
            let began = processor_time();
            let reports = checker.check(wanted);
            let took = processor_time().saturating_sub(began);
            // The loop has ended.
            let _ = sender.send(CheckResult::Starting { took, reports });
        });
    }

    /// Takes in what was seen of workers that are starting.
    fn take_reports(
        &mut self,
        reports: Vec<StartingReport>,
        supervisor: &Supervisor,
        now: Timestamp,
    ) -> VecDeque<Input> {
        let mut inputs = VecDeque::new();
        for StartingReport { worker, accepts, fault } in reports {
            if accepts {
                inputs.extend(self.detector.accepts(worker, now));
            }
            let fault = fault.and_then(|fault| self.note_fault(worker, fault, supervisor, now));
            inputs.extend(fault);
        }
        inputs
    }

    /// Takes note of what a worker lacks that is starting. Returns what the supervisor is to know, if that
    /// is new.
    fn note_fault(
        &mut self,
        worker: WorkerId,
        fault: ReadinessFault,
        supervisor: &Supervisor,
        now: Timestamp,
    ) -> Option<Input> {
        let is_starting = |known: &&Worker| known.id == worker && known.awaits_ready();
        let known = supervisor.workers().find(is_starting)?;
        let is_due = now.since(known.started) >= LOG_PATIENCE.min(self.ready_timeout / 2);
        let is_new = self.faults.note(worker, known.seat, &fault, is_due);
        is_new.then_some(Input::ReadinessFault { worker, fault })
    }

    /// Checks workers that are ready: looks at the kernel, probes, and tells what has changed.
    fn check(
        &mut self,
        workers: &mut Workers,
        supervisor: &Supervisor,
        clock: Clock,
    ) -> VecDeque<Input> {
        self.check_not_before = clock.now().after(CHECK_INTERVAL);
        // Those on standby are watched like live ones: they are to serve again at any moment.
        let is_leaving = |worker: &&Worker| {
            let leaves = matches!(worker.state(), WorkerState::Retired | WorkerState::Dying);
            leaves && !supervisor.is_standby(worker)
        };
        for worker in supervisor.workers().filter(is_leaving) {
            self.detector.retired(worker.id);
        }
        if self.detector.drop_unclaimed(clock.now()) {
            self.warn_of_unknown_sender();
        }
        let mut inputs = self.look_at_kernel(workers, clock.now());
        // Later than the look, so that a queue that it has seen for the first time counts.
        self.check_queues(supervisor.plan(), clock.now());
        self.begin_probes(clock.now());
        inputs.extend(self.detector.changes(clock.now()));
        inputs
    }

    fn look_at_kernel(&mut self, workers: &mut Workers, now: Timestamp) -> VecDeque<Input> {
        let mut inputs = VecDeque::new();
        if now < self.look_at || self.detector.look_interval().is_none() {
            return inputs;
        }
        match workers.observe(&self.detector.watched(), true) {
            Ok(Observations { seen, further, .. }) => {
                inputs = further_sockets(further);
                self.has_failed = false;
                self.detector.observed(seen, now);
            }
            Err(error) => {
                // Nobody is silent because we cannot see.
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::warn!(%error, "cannot check which workers respond");
                }
            }
        }
        // What was seen decides.
        if let Some(interval) = self.detector.look_interval() {
            self.look_at = match interval {
                QUIET_INTERVAL => next_multiple(now, QUIET_INTERVAL),
                interval => now.after(interval),
            };
        }
        inputs
    }

    /// Looks at the connections of queues that do not get shorter.
    fn check_queues(&mut self, plan: &Plan, now: Timestamp) {
        if self.is_checking_queues || now < self.check_queues_at {
            return;
        }
        let ports = self.detector.suspect_ports(now);
        if ports.is_empty() {
            return;
        }
        self.is_checking_queues = true;
        let (plan, sender) = (plan.clone(), self.sender.clone());
        self.queue_checker.run(move || {
            let local = local_ports_of(&plan, ports);
            let found = process::Sockets::open().and_then(|mut sockets| {
                sockets.accept_queues(&local, |port, peer| worker_port_of(&plan, port, peer))
            });
            // The loop has ended.
            let _ = sender.send(CheckResult::Queues { began: now, found });
        });
    }

    fn begin_probes(&mut self, now: Timestamp) {
        let room = MOST_PROBES.saturating_sub(self.probes.len()).min(PROBES_AT_ONCE);
        for (worker, address) in self.detector.due_probes(now).into_iter().take(room) {
            self.detector.probe_started(worker, now);
            self.probes.insert(worker);
            self.begin_probe(worker, address);
        }
    }

    #[cfg(feature = "http")]
    fn begin_probe(&self, worker: WorkerId, address: SocketAddr) {
        let Some(request) = self.probe_request.clone() else { return };
        let (sender, own) = (self.sender.clone(), Arc::clone(&self.own));
        tokio::spawn(async move {
            let mut probe = pin!(super::probe::probe(address, &request, &own));
            // The limit of a worker that is starting can be over before that of its probe.
            let (result, fault) = match timeout(PROBE_PATIENCE, &mut probe).await {
                Ok(ended) => ended,
                Err(_) => {
                    let fault = request.unanswered(address, PROBE_PATIENCE);
                    // The loop has ended, here and below.
                    let _ = sender.send(CheckResult::Unanswered { worker, fault });
                    probe.await
                }
            };
            let _ = sender.send(CheckResult::Probed { worker, result, fault });
        });
    }

    /// The configuration asks for no probe without the feature.
    #[cfg(not(feature = "http"))]
    fn begin_probe(&self, worker: WorkerId, _address: SocketAddr) {
        // The loop has ended.
        let (result, fault) = (ProbeResult::NotMade, None);
        let _ = self.sender.send(CheckResult::Probed { worker, result, fault });
    }

    /// Takes in the result of a check.
    pub(crate) fn take_result(
        &mut self,
        result: CheckResult,
        supervisor: &Supervisor,
        now: Timestamp,
    ) -> VecDeque<Input> {
        match result {
            CheckResult::Probed { worker, result, fault } => {
                self.probes.remove(&worker);
                let mut inputs: VecDeque<Input> =
                    self.detector.probe_ended(worker, result, now).into();
                let fault = fault.map(ReadinessFault::Probe);
                let fault = fault.and_then(|fault| self.note_fault(worker, fault, supervisor, now));
                inputs.extend(fault);
                inputs
            }
            CheckResult::Unanswered { worker, fault } => {
                let fault = ReadinessFault::Probe(fault);
                self.note_fault(worker, fault, supervisor, now).into_iter().collect()
            }
            CheckResult::Starting { took, reports } => {
                self.is_checking_starting = false;
                self.check_starting_at = now.after(took.saturating_mul(STARTING_CHECK_PAUSE));
                self.take_reports(reports, supervisor, now)
            }
            CheckResult::Queues { began, found } => {
                self.is_checking_queues = false;
                self.check_queues_at =
                    now.after(now.since(began).saturating_mul(QUEUE_CHECK_PAUSE));
                match found {
                    Ok(found) => self.detector.confirm_stuck(port_connections(found), began),
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the accept queues of workers")
                    }
                }
                self.detector.changes(now).into()
            }
        }
    }

    /// Reads a message of a worker, if there is one.
    pub(crate) fn next_message(&mut self, workers: &Workers, now: Timestamp) -> Option<Heard> {
        let message = self.receive()?;
        let fields = NotifyField::parse_all(&message.text);
        let session = message.sender.session;
        let inputs = match session.map(|session| (session, workers.worker_of(session))) {
            Some((_, Some(worker))) => {
                let effect = self.detector.notified(worker, fields, now);
                log_refused(worker, effect)
            }
            Some((session, None)) => {
                let pid = message.sender.pid;
                tracing::debug!(
                    pid,
                    session,
                    "NOTIFY_SOCKET message of a process that is not known as a worker yet"
                );
                self.detector.notified_by_stranger(session, fields, now);
                VecDeque::new()
            }
            None => {
                match workers.worker_of(message.sender.pid) {
                    // Not a child of ours, so that somebody else has waited for it.
                    Some(worker) => {
                        tracing::debug!(%worker, "last NOTIFY_SOCKET message of an adopted worker that has exited")
                    }
                    None => self.warn_of_unknown_sender(),
                }
                VecDeque::new()
            }
        };
        Some(Heard { inputs, message })
    }

    fn receive(&self) -> Option<NotifyMessage> {
        let (notify, readable) = (self.notify.as_ref()?, self.readable.as_ref()?);
        // "Would block" makes the next wait one for the kernel.
        let received = readable.try_io(Interest::READABLE, |_| match notify.receive() {
            Ok(Received::Nothing) => Err(io::ErrorKind::WouldBlock.into()),
            received => Ok(received),
        });
        match received {
            Ok(Ok(Received::Message(message))) => Some(message),
            Ok(Ok(Received::Nothing)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot receive from NOTIFY_SOCKET");
                None
            }
        }
    }

    /// Reading messages and what followed has taken from `began` until now: a rest is due.
    pub(crate) fn rest(&mut self, began: Instant) {
        self.rest_until = began.checked_add(began.elapsed() * MESSAGES_SHARE + MESSAGES_REST);
    }

    /// Takes in whether a worker that is connected to the control socket answers there.
    pub(crate) fn answers_on_link(
        &mut self,
        worker: WorkerId,
        answers: bool,
        now: Timestamp,
    ) -> Option<Input> {
        self.detector.pinged(worker, answers, now)
    }

    fn warn_of_unknown_sender(&mut self) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "NOTIFY_SOCKET messages of a process that belongs to no worker, or that has exited: \
                 ignored, and not logged again"
            );
        }
    }

    /// Adds to a status what workers say that they do; `pids` are those of workers that run.
    pub(crate) fn add_texts(&self, status: &mut Status, pids: &BTreeMap<u32, WorkerId>) {
        for shown in &mut status.workers {
            let worker = shown.pid.and_then(|pid| pids.get(&pid));
            shown.text =
                worker.and_then(|worker| self.detector.status_text(*worker)).map(str::to_owned);
        }
    }

    /// The socket that workers write to, to be handed over.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    /// Takes the socket away: no worker is left to write to it.
    pub(crate) fn remove_socket(&mut self) {
        self.readable = None;
        if let Some(Err(error)) = self.notify.take().map(NotifySocket::remove) {
            tracing::warn!(%error, "cannot remove the NOTIFY_SOCKET of the workers");
        }
    }
}

/// How often it is looked at workers of which the youngest has been starting for so long. Of powers of two, so that it
/// does not change all the time.
fn readiness_interval(youngest: Duration) -> Duration {
    let longest = (youngest / READINESS_SHARE).min(LONGEST_READINESS_INTERVAL);
    let mut interval = READINESS_INTERVAL;
    while interval * 2 <= longest {
        interval *= 2;
    }
    interval
}

/// The time that this thread has had of a processor: on a busy machine a look takes longer than it costs.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    seconds.ok().zip(nanoseconds.ok()).map_or(Duration::ZERO, |(s, n)| Duration::new(s, n))
}

/// Waits until there are messages of workers to be read; for ever, if there is no socket for them.
async fn ready(socket: Option<&AsyncFd<OwnedFd>>, not_before: Option<Instant>) -> io::Result<()> {
    match socket {
        Some(socket) => {
            rest_until(not_before).await;
            socket.readable().await?.retain_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

/// Logs what a worker may not say, and returns what the supervisor is to know.
fn log_refused(worker: WorkerId, effect: NotifyEffect) -> VecDeque<Input> {
    for what in effect.refused {
        tracing::warn!(%worker, "a worker asks for {what}: not granted, and not logged again");
    }
    if effect.is_flood {
        tracing::warn!(
            %worker,
            "a worker sends too many notifications: the rest of this second is dropped"
        );
    }
    effect.inputs.into()
}

fn port_connections(found: BTreeMap<u16, AcceptQueue>) -> BTreeMap<u16, PortConnections> {
    let connections =
        |AcceptQueue { queued, accepted }: AcceptQueue| PortConnections { queued, accepted };
    found.into_iter().map(|(port, queue)| (port, connections(queue))).collect()
}

/// What the guard is to close beside what listeners are for.
fn further_sockets(found: BTreeMap<WorkerId, Arc<[(Protocol, Port)]>>) -> VecDeque<Input> {
    found.into_iter().map(|(worker, ports)| Input::FurtherSockets { worker, ports }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_found_ready_within_a_fiftieth_of_its_start() {
        let interval =
            |milliseconds| readiness_interval(Duration::from_millis(milliseconds)).as_millis();
        assert_eq!([0, 10, 500, 999].map(interval), [10; 4]);
        assert_eq!([1_000, 1_999, 2_000, 10_000].map(interval), [20, 20, 40, 160]);
        assert_eq!([32_000, 3_600_000].map(interval), [640; 2]);
        for age in (0..100_000).step_by(7) {
            assert!(interval(age) <= u128::max(10, u128::from(age) / 50), "{age}");
        }
    }
}
