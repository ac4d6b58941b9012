//! The loop: it waits for all subjects, and passes what has happened to the supervisor and what that
//! wants done to those who do it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::actions::Actors;
use super::adoption::{PendingReconfigure, Renewal};
use super::clock::Clock;
use super::configuration::{
    ConfigAndTemplate, Configuration, ProposedConfiguration, Purpose, ReadConfiguration, Verdict,
    settings,
};
use super::error::MasterError;
use super::fleet::{FleetNews, FleetThread};
use super::handover::give::{Handover, HandoverSource};
use super::health::{self, CheckResult, HealthMonitor};
use super::operators::handle::{Handle, Order};
use super::operators::{self, Operators, StatusCounts, WorkerConnections, report};
use super::rules::{self, Rules, source_loads};
use super::startup::adoption_hint::AdoptionHint;
use super::startup::orphans::Orphans;
use super::startup::signals::Signals;
use super::workers::{
    self, Askers, ExitedWorker, Life, LinkEvent, LinkNews, RemainsNews, SpawnOutcome, Started,
    Workers, count_sockets,
};
use crate::config::{Config, EndedBy};
use crate::control::{self, Responder, StartNoteFile};
use crate::plan::{Route, Seat};
use crate::process::{self, ProcessError};
use crate::protocol::{
    ClientAddress, Command, CommandRequest, Event, LogsRequest, Orphan, OrphansEnded, Outcome,
    Progress, Refusal, Request, WorkerFailure, WorkerId, WorkerState, changes_text,
};
use crate::supervisor::{Action, Configured, Input, RequestId, Supervisor, Worker};

/// For how long a status waits for a look at the memory of workers.
const MEMORY_PATIENCE: Duration = Duration::from_secs(1);

/// An event that takes longer than this is logged for those who look for what holds up the loop.
const SLOW: Duration = Duration::from_millis(10);

/// The process manager of one cluster, with its rules. See [`crate::master`].
pub struct Master {
    configuration: Configuration,
    askers: Askers,
    clock: Clock,
    supervisor: Supervisor,
    rules: Rules,
    workers: Workers,
    health: HealthMonitor,
    operators: Operators,
    /// `None`: the host serves alone.
    fleet: Option<FleetThread>,
    /// Processes that look like workers of an earlier master, and could not be proven to be.
    orphans: Orphans,
    /// What an earlier master left to go on with, until this one runs.
    adopted: Adopted,
    /// `None` without a control directory: nobody can ask for a handover.
    handover: Option<Handover>,
    /// Whether signals of the process are for this master.
    obeys_signals: bool,
    /// A signal has begun the stop of the cluster.
    is_told_to_end: bool,
    is_finished: bool,
    /// Why the first worker could not be run.
    start_failure: Option<WorkerFailure>,
    /// The note of how it was started, which goes when the cluster is stopped.
    start_note: Option<StartNoteFile>,
}

/// What an earlier master has left for this one to go on with.
#[derive(Default)]
pub(super) struct Adopted {
    /// The workers of the earlier master.
    pub(super) workers: Vec<(WorkerId, Seat, Started)>,
    /// What is to be changed of what was adopted.
    pub(super) reconfigure: Option<PendingReconfigure>,
    /// The digest of the shares that are configured.
    pub(super) shares: u64,
    /// What an operator should know of the workers that go on.
    pub(super) hint: Option<AdoptionHint>,
    /// The stop that is all that this master is for, if it is.
    pub(super) stop: Option<control::ReceivedRequest>,
}

/// The subjects of a master, each of which knows of itself alone.
pub(super) struct Subjects {
    pub(super) rules: Rules,
    pub(super) workers: Workers,
    pub(super) health: HealthMonitor,
    pub(super) operators: Operators,
    pub(super) fleet: Option<FleetThread>,
    pub(super) orphans: Orphans,
    pub(super) handover: Option<Handover>,
    pub(super) configuration: Configuration,
    pub(super) askers: Askers,
}

/// How a master came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It was told to leave: workers and rules stay.
    Left,
    /// It was told to stop: no worker and no rule is left.
    Stopped,
    /// Another process has taken over all of it.
    Replaced,
}

/// What the loop has waited for, of which subject.
enum Happened {
    /// First processes of workers have ended.
    Exited(Vec<WorkerId>),
    Life(Life),
    Checked(CheckResult),
    Deadline,
    Messages,
    Request(control::ReceivedRequest),
    Link(LinkEvent),
    Wanted(operators::Wanted),
    Health(health::Task),
    Workers(workers::Task),
    ServiceTick,
    Orphans,
    Configuration(Box<ReadConfiguration>),
    Fleet(FleetNews),
    Rules(rules::Task),
    Commits,
}

impl Happened {
    /// What it is, for the log.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Life(life) => life.kind(),
            Self::Checked(_) => "checked",
            Self::Deadline => "deadline",
            Self::Messages => "messages",
            Self::Request(_) => "request",
            Self::Link(_) => "link",
            Self::Wanted(_) => "wanted",
            Self::Health(_) => "health",
            Self::Workers(task) => task.kind(),
            Self::ServiceTick => "service tick",
            Self::Orphans => "orphans",
            Self::Fleet(_) => "fleet",
            Self::Configuration(_) => "configuration",
            Self::Rules(_) => "rules",
            Self::Commits => "commits",
        }
    }
}

/// Why the loop ends while the cluster goes on.
enum Leaving {
    Leave,
    HandedOver { pid: u32 },
}

impl Master {
    pub(super) fn new(supervisor: Supervisor, subjects: Subjects, adopted: Adopted) -> Self {
        let Subjects { rules, workers, health, operators, fleet, orphans, .. } = subjects;
        let Subjects { handover, configuration, askers, .. } = subjects;
        Self {
            askers,
            configuration,
            clock: Clock,
            supervisor,
            rules,
            workers,
            health,
            operators,
            fleet,
            orphans,
            adopted,
            handover,
            obeys_signals: false,
            is_told_to_end: false,
            is_finished: false,
            start_failure: None,
            start_note: None,
        }
    }

    /// Has it remove this note when the cluster is stopped.
    pub(super) fn with_start_note(self, start_note: Option<StartNoteFile>) -> Self {
        Self { start_note, ..self }
    }

    /// Has it obey the signals of the process while it runs.
    pub(super) fn obeying_signals(self) -> Self {
        Self { obeys_signals: true, ..self }
    }

    /// A way to talk to it while it runs.
    pub fn handle(&self) -> Handle {
        self.operators.handle()
    }

    /// Runs until it is told to leave or to stop.
    ///
    /// # Errors
    /// [`MasterError::FirstWorker`] if nothing of the cluster exists yet, and its command cannot be run;
    /// [`MasterError::Signals`] if it is to [obey signals](super::Builder::obey_signals), and cannot take them;
    /// [`MasterError::NotReloaded`] if it leaves, and the reload has failed that it
    /// [was started with](super::Builder::reload), and none has succeeded since;
    /// [`MasterError::Watch`] and [`MasterError::Notify`] if the runtime cannot wait for the kernel. What
    /// goes wrong later is logged, answered or tried again: a master does not end by itself.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub async fn run(mut self) -> Result<Ended, MasterError> {
        self.operators.serve();
        // Obeyed until this function ends.
        let mut signals = tokio::task::JoinSet::new();
        if self.obeys_signals {
            let taken = Signals::take().map_err(|source| MasterError::Signals { source })?;
            signals.spawn(taken.obey(self.handle()));
        }
        self.health.register()?;
        self.rules.register()?;
        self.workers.register()?;
        self.begin();
        while !self.is_finished {
            let happened = self.next().await?;
            let (kind, began) = (happened.kind(), Instant::now());
            let leaving = self.handle_happened(happened).await;
            let took = began.elapsed();
            if took >= SLOW {
                tracing::debug!(kind, ?took, "an event held up the loop");
            }
            match leaving {
                Some(Leaving::Leave) => {
                    let failed_reload = self.operators.take_failed_reload();
                    let ended = self.leave().await;
                    return match failed_reload {
                        Some(refusal) => Err(MasterError::NotReloaded { refusal }),
                        None => Ok(ended),
                    };
                }
                Some(Leaving::HandedOver { pid }) => return Ok(self.leave_to_next(pid).await),
                None => {}
            }
            // However many events wait, between two of them those have their turn who speak with peers, and the
            // kernel is asked what is new.
            tokio::task::yield_now().await;
        }
        match self.start_failure.take() {
            Some(failure) => {
                self.stop().await;
                Err(MasterError::FirstWorker { failure })
            }
            None => Ok(self.stop().await),
        }
    }

    /// Goes on with what there is.
    fn begin(&mut self) {
        let Adopted { workers, reconfigure, shares, hint, stop } =
            std::mem::take(&mut self.adopted);
        for (worker, seat, started) in workers {
            let pid = self.workers.adopt(worker, seat, started);
            self.begin_health_checks(worker, pid);
            let state = self.supervisor.worker(worker).map(Worker::state);
            if let Some(state) = state {
                self.health.adopted(worker, state, self.clock.now());
            }
        }
        for Orphan { pid, reason, .. } in self.orphans.list() {
            self.operators.announce(Event::Orphan { pid, reason });
        }
        if let Some(stop) = stop {
            return self.asked(stop);
        }
        self.dispatch(Input::Start);
        if let Some(hint) = hint {
            hint.log(self.configuration.config().name());
        }
        match reconfigure {
            Some(reconfigure) => self.reconfigure(reconfigure, shares),
            None => self.workers.note_configured(shares),
        }
    }

    /// Puts the configuration in force where it is another than that of the earlier master.
    fn reconfigure(&mut self, wanted: PendingReconfigure, shares: u64) {
        let PendingReconfigure { renew, reshares } = wanted;
        tracing::info!(
            "{}",
            match renew {
                Some(Renewal::Configuration) => {
                    "the configuration differs from that of the earlier master: new workers are started"
                }
                Some(Renewal::Requested) => {
                    "new workers are started in place of those of the earlier master, as --reload says"
                }
                Some(Renewal::KillOld) => {
                    "new workers are started in place of those of the earlier master, which then end at once \
                 (kill_old)"
                }
                None => {
                    "the configuration differs from that of the earlier master: the number of workers changes"
                }
            }
        );
        let request = self.operators.begin_reconfigure(wanted);
        self.workers.await_configured(request, shares);
        if wanted.is_by_configuration() || renew == Some(Renewal::Requested) {
            self.configuration.starts(request, reshares);
        }
        self.dispatch(Input::Configure { request, renew: renew.is_some(), reshares });
    }

    /// Waits for what happens next. Branches are tried in their order:
    ///
    /// 1. what costs clients something while it waits: exits first;
    /// 2. what others say, from those who can say least at a time to those who can say most;
    /// 3. periodic work;
    /// 4. other people's commits, which take a part of a processor only, and keep nothing else waiting.
    ///
    /// Nothing is lost when a branch is dropped: they wait, and take from channels; what they tell of is
    /// read by [`Self::handle_happened`].
    async fn next(&mut self) -> Result<Happened, MasterError> {
        let Self { clock, supervisor, rules, workers, health, operators, fleet, orphans, .. } =
            self;
        let configuration = &mut self.configuration;
        let ended = workers.take_ended(supervisor);
        if !ended.is_empty() {
            return Ok(Happened::Exited(ended));
        }
        let now = clock.now();
        let youngest = supervisor.workers().filter_map(|worker| worker.starting_for(now)).min();
        let (checked, messages, health_task) = health.wait(youngest, workers.is_running());
        let shows_memory = operators.has_subscribers();
        let (life, link, workers_task) = workers.wait(supervisor, shows_memory, *clock);
        let (request, wanted, service_tick) = operators.wait();
        let (rules_task, commits) = rules.wait(*clock);
        Ok(tokio::select! {
            biased;
            life = life => Happened::Life(life),
            result = checked => Happened::Checked(result),
            () = clock.sleep_until(supervisor.deadline()) => Happened::Deadline,
            ready = messages => {
                ready.map_err(|source| MasterError::Notify { source })?;
                Happened::Messages
            }
            request = request => Happened::Request(request),
            event = link => Happened::Link(event),
            wanted = wanted => Happened::Wanted(wanted),
            read = configuration.next() => Happened::Configuration(Box::new(read)),
            task = health_task => Happened::Health(task),
            task = workers_task => Happened::Workers(task),
            () = service_tick => Happened::ServiceTick,
            () = clock.sleep_until(orphans.deadline()) => Happened::Orphans,
            news = FleetThread::next(fleet) => Happened::Fleet(news),
            task = rules_task => Happened::Rules(task),
            ready = commits => {
                ready.map_err(|source| MasterError::Watch { source })?;
                Happened::Commits
            }
        })
    }

    /// Passes on what has happened.
    async fn handle_happened(&mut self, happened: Happened) -> Option<Leaving> {
        match happened {
            Happened::Life(Life::Ended) => {
                let ended = self.workers.take_ended(&self.supervisor);
                self.exited(ended);
            }
            Happened::Exited(workers) => self.exited(workers),
            Happened::Life(Life::Spawned(outcome)) => self.spawned(outcome),
            Happened::Life(Life::Prepared(prepared)) => {
                let input = self.workers.take_prepared(prepared);
                self.dispatch_all(input.into_iter().collect());
            }
            Happened::Life(Life::AfterReload(hook)) => self.workers.start_hook(hook),
            Happened::Life(Life::HookEnded(ended)) => {
                let input = self.workers.take_hook(ended);
                self.dispatch_all(input.into_iter().collect());
            }
            Happened::Life(Life::Counted(counts)) => {
                let now = self.clock.now();
                let inputs = self.workers.take_counts(counts, &self.supervisor, now);
                self.dispatch_all(inputs);
            }
            Happened::Life(Life::Told(worker, signals)) => {
                self.workers.send_retire_signal(worker, signals);
            }
            Happened::Life(Life::Looked(workers, look)) => self.take_look(workers, look),
            Happened::Checked(result) => {
                let inputs = self.health.take_result(result, &self.supervisor, self.clock.now());
                self.dispatch_all(inputs);
            }
            Happened::Deadline => self.dispatch(Input::Tick),
            Happened::Messages => self.read_messages(),
            Happened::Request(request) => match request.request {
                Request::Handover { .. } => return self.hand_over(request).await,
                _ => self.asked(request),
            },
            Happened::Link(event) => {
                let now = self.clock.now();
                let news = self.workers.take_link_event(event, &self.supervisor, now);
                news.into_iter().for_each(|news| self.take_link_news(news));
            }
            Happened::Wanted(operators::Wanted::Status(counts)) => self.answer_status(counts),
            Happened::Wanted(operators::Wanted::Order(Order::Request(request))) => {
                self.asked(request);
            }
            #[cfg(feature = "http")]
            Happened::Wanted(operators::Wanted::Order(Order::SlotTable(answer))) => {
                // Nobody waits for it any more.
                let _ = answer.send(crate::protocol::SlotTable::of(self.supervisor.plan()));
            }
            Happened::Wanted(operators::Wanted::Order(Order::Leave)) => {
                return Some(Leaving::Leave);
            }
            Happened::Wanted(operators::Wanted::Order(Order::End(by))) => {
                if !self.configuration.config().on_exit().drains(by) {
                    return Some(Leaving::Leave);
                }
                self.drain_by_signal(by);
            }
            Happened::Health(task) => {
                let Self { health, workers, supervisor, clock, .. } = self;
                let inputs = health.perform(task, workers, supervisor, *clock);
                self.dispatch_all(inputs);
            }
            Happened::Workers(task) => {
                let input = self.workers.perform(task, &self.supervisor, self.clock.now());
                input.into_iter().for_each(|input| self.take_measure(input));
            }
            Happened::Configuration(read) => self.take_configuration(*read),
            Happened::Fleet(FleetNews::Event(event)) => self.operators.announce(event),
            Happened::Fleet(FleetNews::SlotsGiven(stops)) => {
                let input = |id| Input::Request(id, Command::Stop { now: false });
                self.dispatch_all(stops.into_iter().map(input).collect());
            }
            Happened::Fleet(FleetNews::CountDue) => {
                self.operators.want_count();
                self.count_for_status();
            }
            Happened::ServiceTick => self.operators.notify_service(),
            Happened::Orphans => self.orphans.kill_overdue(self.clock.now()),
            Happened::Rules(task) => {
                let (plan, now) = (self.supervisor.plan(), self.clock.now());
                for event in self.rules.perform(task, plan, now) {
                    self.operators.announce(event);
                }
            }
            Happened::Commits => {
                let began = Instant::now();
                let inputs = self.rules.take_commits();
                self.dispatch_each(inputs);
                self.rules.rest(began);
            }
        }
        None
    }

    /// Takes an input in and does what follows, and what follows from that.
    fn dispatch(&mut self, input: Input) {
        self.dispatch_all([input].into());
    }

    /// Takes in each input, and does what follows from it before the next.
    fn dispatch_each(&mut self, inputs: VecDeque<Input>) {
        inputs.into_iter().for_each(|input| self.dispatch(input));
    }

    /// Takes in several inputs that were known at once: what follows from them is one change of the
    /// rules, or few.
    fn dispatch_all(&mut self, mut inputs: VecDeque<Input>) {
        let Self { supervisor, clock, workers, rules, operators, is_finished, .. } = self;
        let start_failure = &mut self.start_failure;
        let configuration = &mut self.configuration;
        let mut actors = Actors { workers, rules, operators, configuration };
        while !inputs.is_empty() {
            for action in supervisor.step_all(std::mem::take(&mut inputs), clock.now()) {
                *is_finished |= action == Action::Finish;
                if let Action::FailStart(failure) = &action {
                    *start_failure = Some(failure.clone());
                }
                inputs.extend(actors.perform(action));
            }
        }
        self.operators.observe(&self.supervisor);
        if let Some(fleet) = &self.fleet {
            fleet.observe(&self.supervisor, self.rules.serving());
        }
        while let Some(before) = self.configuration.take_revert() {
            self.configure(&before);
            let configured = Box::new(configured(&before.config));
            self.dispatch(Input::Configured(configured));
        }
    }

    fn exited(&mut self, workers: Vec<WorkerId>) {
        // What they have said before their ends is read while they are known.
        self.read_messages();
        let mut all = Vec::new();
        for worker in workers {
            let known = self.supervisor.worker(worker);
            let signals = known
                .map_or_else(|| self.configuration.config().end_signals(), |known| known.signals);
            let is_starting = known.is_some_and(|known| known.state() == WorkerState::Starting);
            let now = self.clock.now();
            match self.workers.take_exit(worker, signals, is_starting, now) {
                None => {}
                Some(ended) if ended.may_be_daemon => self.workers.defer(worker, ended),
                Some(ended) => all.push((worker, ended)),
            }
        }
        self.ended(all);
    }

    fn ended(&mut self, mut all: Vec<(WorkerId, ExitedWorker)>) {
        if all.is_empty() {
            return;
        }
        // Clients are steered away first.
        let exited = |(worker, ended): &mut (WorkerId, ExitedWorker)| {
            let last_lines = std::mem::take(&mut ended.last_lines);
            Input::Exited { worker: *worker, exit: ended.exit, last_lines }
        };
        let inputs = all.iter_mut().map(exited).collect();
        self.dispatch_all(inputs);
        all.iter().for_each(|(worker, _)| self.health.ended(*worker));
        self.workers.drain_ended(all, &self.supervisor, self.clock.now());
    }

    /// Takes in what workers have left that have ended.
    fn take_look(&mut self, workers: Vec<WorkerId>, look: workers::Look) {
        let ends_all = self.supervisor.is_stopping() && !self.workers.is_running();
        let (mut background, mut all, mut reaped) = (VecDeque::new(), Vec::new(), VecDeque::new());
        for news in self.workers.take_look(workers, look, ends_all, self.clock.now()) {
            match news {
                RemainsNews::FirstLook { worker, background: advice } => {
                    let Some(ended) = self.workers.take_deferred(worker) else { continue };
                    let input = |advice| Input::WentIntoBackground { worker, advice };
                    background.extend(advice.map(input));
                    all.push((worker, ended));
                }
                RemainsNews::Reaped { worker, left } => {
                    reaped.push_back(Input::Reaped { worker, left });
                }
                RemainsNews::Orphan { process, seat, generation, reason } => {
                    let pid = process.pid();
                    self.orphans.add_process(process, seat, generation, reason.clone());
                    self.operators.announce(Event::Orphan { pid, reason });
                }
            }
        }
        // That it has ended comes before that nothing is left of it.
        self.dispatch_all(background);
        self.ended(all);
        self.dispatch_all(reaped);
    }

    fn spawned(&mut self, outcome: SpawnOutcome) {
        let SpawnOutcome { worker, result } = outcome;
        let seat = self.supervisor.worker(worker).map(|known| known.seat);
        match (result, seat) {
            (Err(error), _) => {
                let (reason, is_permanent) = (error.to_string(), error.is_permanent());
                self.dispatch(Input::SpawnFailed { worker, reason, is_permanent });
            }
            (Ok(started), Some(seat)) => {
                let private_ports = Arc::from(started.told.private_ports.as_slice());
                let private_ports = Input::PrivatePorts { worker, ports: private_ports };
                let workers::Spawned { pid, ports } = self.workers.started(worker, seat, *started);
                self.dispatch_all([private_ports, Input::Spawned { worker, pid, ports }].into());
                self.begin_health_checks(worker, pid);
            }
            (Ok(_), None) => {
                tracing::error!(%worker, "a process was started for an unknown worker")
            }
        }
        self.workers.start_is_known();
    }

    fn begin_health_checks(&mut self, worker: WorkerId, pid: u32) {
        let has_passed_sockets = !self.workers.passed_sockets(worker).is_empty();
        let inputs = self.health.started(worker, pid, has_passed_sockets, self.clock.now());
        self.dispatch_all(inputs);
    }

    /// Reads what workers write to `NOTIFY_SOCKET`, or a part of it.
    fn read_messages(&mut self) {
        let began = Instant::now();
        let (mut inputs, mut messages) = (VecDeque::new(), Vec::new());
        for _ in 0..HealthMonitor::MESSAGES_AT_ONCE {
            let Some(heard) = self.health.next_message(&self.workers, self.clock.now()) else {
                break;
            };
            inputs.extend(heard.inputs);
            messages.push(heard.message);
        }
        self.dispatch_all(inputs);
        // Who waits for the end of a barrier knows then that what came before it was taken in.
        drop(messages);
        self.health.rest(began);
    }

    fn take_link_news(&mut self, news: LinkNews) {
        match news {
            LinkNews::Input(input) => self.dispatch(input),
            LinkNews::Answers { worker, answers } => {
                let input = self.health.answers_on_link(worker, answers, self.clock.now());
                self.dispatch_all(input.into_iter().collect());
            }
        }
    }

    /// Takes in how much memory workers take.
    fn take_measure(&mut self, input: Input) {
        let master = match &input {
            Input::ResidentMeasured(footprint) => Some(footprint.master),
            _ => None,
        };
        self.dispatch(input);
        if let Some(master) = master.filter(|_| self.operators.has_subscribers()) {
            let mut stats = self.supervisor.stats(master, self.clock.now());
            self.workers.add_to_stats(&mut stats);
            self.operators.announce(Event::Stats(stats));
        }
    }

    fn asked(&mut self, request: control::ReceivedRequest) {
        let control::ReceivedRequest { request, responder, asker, .. } = request;
        if let Err(refusal) = self.may_change(asker) {
            return responder.finish(Err(refusal));
        }
        match request {
            Request::Status => {
                self.operators.ask_status(responder);
                self.count_for_status();
            }
            Request::Explain { address, port } => {
                responder.finish(self.explain(ClientAddress { address, port }));
            }
            Request::Command(request) => self.command(request, responder),
            Request::Events => {
                let (name, generation) =
                    (self.configuration.config().name(), self.supervisor.generation());
                self.operators.add_subscriber(name, generation, responder);
            }
            Request::Logs(request) => match self.check_logs(request) {
                Ok(()) => self.workers.show_logs(request, responder),
                Err(refusal) => responder.finish(Err(refusal)),
            },
            Request::FleetExplain { address } => responder.finish(match &self.fleet {
                None => Err(Refusal::NotInAFleet),
                Some(fleet) => {
                    let route = fleet.explain(address).map(Outcome::FleetExplained);
                    route.ok_or(Refusal::FleetUnknown)
                }
            }),
            Request::FleetDrain => responder.finish(match &mut self.fleet {
                None => Err(Refusal::NotInAFleet),
                Some(fleet) => {
                    fleet.drain();
                    fleet.observe(&self.supervisor, self.rules.serving());
                    Ok(Outcome::FleetDraining(fleet.status()))
                }
            }),
            Request::FleetJoin => responder.finish(match &mut self.fleet {
                None => Err(Refusal::NotInAFleet),
                Some(fleet) => {
                    fleet.join();
                    fleet.observe(&self.supervisor, self.rules.serving());
                    Ok(Outcome::FleetJoining(fleet.status()))
                }
            }),
            Request::EndOrphans => {
                let kill_at = self.clock.now().after(self.configuration.config().die_timeout());
                let processes = self.orphans.terminate(kill_at);
                let processes = u32::try_from(processes).unwrap_or(u32::MAX);
                responder.finish(Ok(Outcome::OrphansEnded(OrphansEnded { processes })));
            }
            Request::Configuration => {
                let unread = self.configuration.read(Purpose::Report(responder));
                if let Err(Purpose::Report(responder)) = unread {
                    let report =
                        Box::new(self.configuration.report(None, self.operators.workers_wanted()));
                    responder.finish(Ok(Outcome::Configuration(report)));
                }
            }
            Request::Handover { .. } => {
                responder.finish(Err(Refusal::NoHandover));
            }
        }
    }

    /// Whether there is, or was, a seat whose lines are asked for: one of the cluster, one of a worker that is
    /// starting or ends, or one that a worker has printed something in.
    fn check_logs(&self, request: LogsRequest) -> Result<(), Refusal> {
        let Some(seat) = request.seat else { return Ok(()) };
        let seats = self.supervisor.plan().seats().len();
        let has_worker = || self.supervisor.workers().any(|worker| worker.seat == seat);
        if seat.index() < seats || has_worker() || self.workers.has_printed_in(seat) {
            return Ok(());
        }
        Err(Refusal::NoSuchSeat { seat, seats })
    }

    /// Whether who asks for a change may have it.
    fn may_change(
        &self,
        asker: Option<Result<process::PidFd, ProcessError>>,
    ) -> Result<(), Refusal> {
        match asker {
            Some(asker) if !self.configuration.config().worker_commands() => {
                let Self { askers, workers, supervisor, .. } = self;
                askers.judge(asker, |session| workers.session_owner(session, supervisor))
            }
            _ => Ok(()),
        }
    }

    fn command(&mut self, request: CommandRequest, responder: Responder) {
        // Relative to what the cluster is to have when the request is taken up.
        let command = match request.command {
            Command::ScaleBy { by } => match self.supervisor.workers_after(by) {
                Ok(workers) => Command::Scale { workers },
                Err(refusal) => return responder.finish(Err(refusal)),
            },
            command => command,
        };
        let request = CommandRequest { command, ..request };
        if let Command::Scale { workers } = command
            && let Err(error) = self.configuration.config().scaled(workers)
        {
            let reason = error.to_string();
            return responder.finish(Err(Refusal::Configuration { reason }));
        }
        let id = self.operators.begin_request(request, responder);
        if command == (Command::Stop { now: false })
            && let Some(fleet) = &mut self.fleet
            && fleet.gives_slots_away(id)
        {
            // Until then this host serves: the others send it new clients as long as it owns slots.
            return fleet.observe(&self.supervisor, self.rules.serving());
        }
        let reloads = matches!(command, Command::Reload { .. } | Command::Restart);
        if !reloads || self.configuration.read(Purpose::Reload(id, command)).is_err() {
            self.dispatch(Input::Request(id, command));
        }
    }

    /// Stops the cluster because of a signal: the second one does not wait for connections.
    fn drain_by_signal(&mut self, by: EndedBy) {
        let now = std::mem::replace(&mut self.is_told_to_end, true);
        match (now, by) {
            (true, _) => tracing::info!("ends the workers at once"),
            (false, EndedBy::Keyboard) => tracing::info!(
                "lets the workers finish their connections, and ends all; Ctrl-C again: at once"
            ),
            (false, EndedBy::ContainerEnd) => tracing::info!(
                "process 1 of a container: lets the workers finish their connections, and ends all; what \
                 stops the container kills it when its time is over (10 s by default)"
            ),
            (false, EndedBy::Signal) => {
                tracing::info!("lets the workers finish their connections, and ends all");
            }
        }
        let handle = self.handle();
        tokio::spawn(async move {
            if let Err(failure) = handle.stop(now).await {
                tracing::error!("stop failed: {failure}");
            }
        });
    }

    /// Takes in the configuration as it was read again: reloads with it, or says why not.
    fn take_configuration(&mut self, read: ReadConfiguration) {
        let verdict = self.configuration.judge(&read);
        match (read.purpose, verdict) {
            (purpose, Verdict::Again) => {
                // There is something to read: it was read just now.
                let _ = self.configuration.read(purpose);
            }
            (Purpose::Report(responder), verdict) => {
                let report = Box::new(
                    self.configuration.report(Some(&verdict), self.operators.workers_wanted()),
                );
                responder.finish(Ok(Outcome::Configuration(report)));
            }
            (Purpose::Reload(id, _), Verdict::Refused(reason)) => {
                tracing::error!("not reloaded: {reason}");
                self.configuration.refused(&reason);
                self.operators.reply(id, Err(Refusal::Configuration { reason }));
                self.operators.observe(&self.supervisor);
            }
            (Purpose::Reload(id, command), Verdict::Same) => {
                self.dispatch(Input::Request(id, command));
            }
            (Purpose::Reload(id, command), Verdict::Changed(proposed)) => {
                self.reconfigure_by(id, command, *proposed);
            }
        }
    }

    /// Begins a reload with another configuration.
    fn reconfigure_by(
        &mut self,
        request: RequestId,
        command: Command,
        proposed: ProposedConfiguration,
    ) {
        let ProposedConfiguration { next, changes, reshares } = proposed;
        if !changes.is_empty() {
            let changes = changes_text(&changes);
            tracing::info!("the configuration changes: {changes}");
            self.operators.progress(request, &Progress::Reconfigured { changes });
        }
        if reshares {
            self.operators.want_workers(request, usize::from(next.config.workers()));
            self.workers.await_configured(request, next.template.fingerprint.shares);
        }
        self.configure(&next);
        let configured = Box::new(configured(&next.config));
        self.configuration.begin(request, next);
        self.dispatch(Input::Reconfigure { request, command, configured, reshares });
    }

    /// Another configuration holds from now on, for everybody but the supervisor.
    fn configure(&mut self, next: &ConfigAndTemplate) {
        self.workers.configure(&next.config, Arc::clone(&next.template));
        self.health.configure(&next.config);
    }

    fn explain(&self, client: ClientAddress) -> Result<Outcome, Refusal> {
        let pid_of = |route: &Route<'_>| {
            let ports = Some(&route.occupant.ports);
            self.supervisor.workers().find(|worker| worker.ports.as_ref() == ports)?.pid
        };
        report::explain(self.supervisor.plan(), client, pid_of).map(Outcome::Explained)
    }

    /// Begins a count for those who want the status, if it is time for one.
    fn count_for_status(&mut self) {
        if self.operators.is_count_due() {
            let all = self.workers.counted(&self.supervisor, |_| true, self.clock.now());
            let (plan, own) = (self.supervisor.plan().clone(), self.health.own_connections());
            let memory = self.workers.refresh_memory(self.clock.now());
            let mut handshakes = self.workers.handshakes();
            self.operators.count(self.workers.leaders(), move || {
                // The status is to show what the workers take now; but it does not wait for that for long.
                let _ = memory.map(|memory| memory.recv_timeout(MEMORY_PATIENCE));
                let mut sockets = process::Sockets::open()?;
                let counted = count_sockets(&mut sockets, &all, &plan, &own, &mut handshakes)?;
                let source_loads = source_loads(&plan, &counted.connections);
                Ok(WorkerConnections { by_worker: counted.by_worker, source_loads })
            });
        }
    }

    fn answer_status(&mut self, counts: StatusCounts) {
        if let Some(measured) = self.workers.measured() {
            self.take_measure(measured);
        }
        let StatusCounts { connections, processor } = counts;
        let counts = match connections {
            Ok(WorkerConnections { by_worker, source_loads }) => {
                for event in self.rules.take_source_loads(source_loads) {
                    self.operators.announce(event);
                }
                by_worker
            }
            Err(error) => {
                tracing::warn!(%error, "cannot count connections");
                BTreeMap::new()
            }
        };
        let (orphans, now) = (self.orphans.list(), self.clock.now());
        let Self { supervisor, rules, health, operators, workers, configuration, .. } = self;
        let mut status = operators.status(&counts, supervisor, rules, orphans, now);
        let by_pid = |worker: &Worker| Some((worker.pid?, worker.id));
        health.add_texts(&mut status, &supervisor.workers().filter_map(by_pid).collect());
        workers.add_told(&mut status);
        report::add_processor(&mut status, &processor);
        status.configuration = configuration.status().clone();
        if let Some(fleet) = &mut self.fleet {
            let connections = status.workers.iter().filter_map(|worker| worker.connections);
            fleet.counted(connections.map(u64::from).sum());
            status.fleet = Some(fleet.status());
        }
        operators.answer_status(&status);
        self.count_for_status();
    }

    /// Hands over to the process that asks, if that can be now.
    async fn hand_over(&mut self, mut request: control::ReceivedRequest) -> Option<Leaving> {
        let permitted = self.may_change(request.asker.take());
        let Some(handover) = &self.handover else {
            request.responder.finish(Err(Refusal::NoHandover));
            return None;
        };
        let source = HandoverSource {
            supervisor: &self.supervisor,
            rules: self.rules.descriptor(),
            notify: self.health.descriptor(),
            workers: &self.workers,
            service: self.operators.service(),
        };
        let pid = handover.give(request, permitted, &source, self.clock.now()).await?;
        Some(Leaving::HandedOver { pid })
    }

    /// Another process is the master now: nothing is touched any more.
    async fn leave_to_next(mut self, pid: u32) -> Ended {
        if let Some(handover) = &self.handover {
            handover.close_server();
        }
        let server = self.operators.hand_over(pid);
        drop(self);
        if let Some(server) = server {
            let _ = server.await;
        }
        Ended::Replaced
    }

    /// The workers and the rules stay.
    async fn leave(mut self) -> Ended {
        self.operators.announce_leaving();
        if let Some(fleet) = &self.fleet {
            fleet.say_what_remains();
        }
        self.workers.stop_hooks().await;
        self.workers.finish_output();
        self.operators.abort().await;
        Ended::Left
    }

    /// No worker and no rule is left.
    async fn stop(mut self) -> Ended {
        self.operators.refuse_all();
        if let Some(fleet) = self.fleet.take() {
            fleet.stop().await;
        }
        self.workers.stop_hooks().await;
        self.workers.reap_all(self.clock).await;
        self.workers.stop().await;
        self.workers.finish_output();
        self.operators.end_events();
        self.health.remove_socket();
        self.workers.close_links();
        if let Some(note) = self.start_note.take() {
            note.remove();
        }
        self.operators.close().await;
        Ended::Stopped
    }
}

/// A configuration as the supervisor knows it.
fn configured(config: &Config) -> Configured {
    Configured { settings: settings(config), listeners: Arc::new(config.listeners().clone()) }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Master")
            .field("name", self.configuration.config().name())
            .field("generation", &self.supervisor.generation())
            .finish_non_exhaustive()
    }
}
