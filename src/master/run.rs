//! The loop: events in, actions out.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::future;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

use super::counting::count_all;
use super::error::MasterError;
use super::handle::{Handle, Order};
use super::output::Printer;
use super::processes::{
    BURIAL_INTERVAL, DRAIN_INTERVAL, OUTPUT_INTERVAL, Processes, READINESS_INTERVAL,
};
use super::report;
use super::spawner::{self, Outcome, Spawner, Template};
use super::takeover::{Beginning, begin};
use crate::config::Config;
use crate::control::{
    self, Answer, Command, ControlDir, Failure, Limits, Lock, Reloaded, Responder, Scaled, Server,
    Stopped,
};
use crate::nft::Firewall;
use crate::plan::{Plan, Port, Route, Seat};
use crate::process::{ListenTable, PortPool, ProcessError, Sockets};
use crate::supervisor::{
    self, Action, Backoff, Done, Event, Moment, Notice, Refusal, RequestId, Settings, Start,
    Supervisor, WorkerFailure, WorkerId, WorkerState,
};

/// Requests that wait for the loop before further ones wait for their turn.
const REQUEST_QUEUE: usize = 64;

/// Notices that a slow subscriber may be behind before it misses some.
const NOTICE_QUEUE: usize = 1024;

/// Makes a [`Master`].
#[derive(Debug, Clone)]
pub struct Builder {
    config: Config,
    control: Option<ControlDir>,
    environment: Vec<(OsString, OsString)>,
    print_output: bool,
}

impl Builder {
    /// Lets operators command the master over a socket in this directory, and lets no second master
    /// of this name start there.
    #[must_use]
    pub fn control(self, directory: ControlDir) -> Self {
        Self { control: Some(directory), ..self }
    }

    /// The variables of which workers get those that the configuration chooses; by default those of
    /// this process.
    #[must_use]
    pub fn environment(self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { environment: variables.into_iter().collect(), ..self }
    }

    /// Prints what workers print on standard output, each line with the seat before it.
    #[must_use]
    pub fn print_output(self) -> Self {
        Self { print_output: true, ..self }
    }

    /// Takes the lock, reads what is in force and listens on the control socket. Starts no worker
    /// and changes no rule yet: that is [`Master::run`].
    ///
    /// # Errors
    /// [`MasterError`]: without the privilege, or beside another master, at once.
    pub fn start(self) -> Result<Master, MasterError> {
        let Self { config, control, environment, print_output } = self;
        let lock = control.as_ref().map(|directory| directory.lock(&config.name)).transpose()?;
        let mut firewall = Firewall::open(&config.name)?;
        firewall.probe()?;
        let in_force = firewall.read(Some(&config.listeners))?;
        let first = config.worker_ports.first().number();
        let last = config.worker_ports.last().number();
        let listening = ListenTable::read(&mut Sockets::open()?, first..=last)?.ports();
        let beginning = begin(&config, in_force.clone(), &listening)?;
        repair(&mut firewall, in_force.as_ref(), &beginning)?;
        if beginning.start == Start::Takeover {
            announce_takeover(&beginning.plan);
        }
        let supervisor = Supervisor::new(settings(&config), beginning.plan, beginning.start)?;

        let public = config.listeners.public_ports();
        let reserved = public.iter().map(|port| port.number()).collect();
        let pool = PortPool::new(first..=last, reserved)?;
        let (outcomes, started) = mpsc::unbounded_channel();
        let template = template(&config, lock.as_ref(), environment);
        let spawner = Spawner::new(template, pool, outcomes)
            .map_err(|source| MasterError::Thread { source })?;
        let printer = print_output.then(Printer::new).transpose();
        let printer = printer.map_err(|source| MasterError::Thread { source })?;
        let (orders, inbox) = mpsc::channel(REQUEST_QUEUE);
        let (exits_sender, exits) = mpsc::unbounded_channel();
        let (counts_sender, counts) = mpsc::unbounded_channel();
        Ok(Master {
            server: lock.map(|lock| Server::bind(lock, Limits::default())).transpose()?,
            world: World {
                firewall,
                processes: Processes::new(printer)?,
                spawner,
                exits_sender,
                counts_sender,
                pending: BTreeMap::new(),
                notices: broadcast::channel(NOTICE_QUEUE).0,
                last_swap: Duration::ZERO,
                workers_wanted: usize::from(config.workers),
                begin: Instant::now(),
            },
            config,
            supervisor,
            orders,
            inbox,
            started,
            exits,
            counts,
            is_counting: false,
            next_request: 0,
            finished: false,
        })
    }
}

/// If workers of an earlier master have died since, their clients go to the others at once; and if
/// it died while it stopped the cluster, its listeners open again.
fn repair(
    firewall: &mut Firewall,
    in_force: Option<&Plan>,
    beginning: &Beginning,
) -> Result<(), MasterError> {
    if beginning.start == Start::Takeover && in_force.is_some_and(|plan| *plan != beginning.plan) {
        firewall.apply(&beginning.plan)?;
        tracing::warn!(
            "repaired what an earlier master left: only workers that listen are in force"
        );
    }
    Ok(())
}

/// Says what becomes of the workers of an earlier master, which this one does not manage.
fn announce_takeover(plan: &Plan) {
    let occupants = plan.seats().filter_map(|(_, occupant)| occupant);
    let ports: Vec<String> =
        occupants.flat_map(|occupant| occupant.ports.iter()).map(Port::to_string).collect();
    tracing::warn!(
        generation = %plan.generation(),
        ports = ports.join(","),
        "workers of an earlier master serve until the new ones are ready; then they finish their \
         connections, and run on until somebody ends them"
    );
}

fn settings(config: &Config) -> Settings {
    Settings {
        weights: config.weights.clone(),
        ready: config.timeouts.ready,
        drain: config.timeouts.drain,
        die: config.timeouts.die,
        stagger: config.spawn.stagger,
        backoff: Backoff { min: config.spawn.backoff.first, max: config.spawn.backoff.most },
        ..Settings::default()
    }
}

fn template(
    config: &Config,
    lock: Option<&Lock>,
    environment: Vec<(OsString, OsString)>,
) -> Template {
    let mut environment = config.env.resolve(environment);
    environment.insert("IPCLUSTER_NAME".into(), config.name.as_str().into());
    if let Some(lock) = lock {
        environment.insert("IPCLUSTER_SOCKET".into(), lock.socket().into());
    }
    Template {
        program: config.command.program.clone().into(),
        arguments: config.command.arguments.iter().map(OsString::from).collect(),
        environment,
        public_ports: config.listeners.public_ports().to_vec(),
    }
}

/// The process manager of one cluster, with its rules. See [`crate::master`].
pub struct Master {
    config: Config,
    supervisor: Supervisor,
    world: World,
    server: Option<Server>,
    orders: mpsc::Sender<Order>,
    inbox: mpsc::Receiver<Order>,
    started: mpsc::UnboundedReceiver<Outcome>,
    exits: mpsc::UnboundedReceiver<WorkerId>,
    counts: mpsc::UnboundedReceiver<Counts>,
    is_counting: bool,
    next_request: u64,
    finished: bool,
}

/// How a master came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It was told to leave: workers and rules stay.
    Left,
    /// It was told to stop: no worker and no rule is left.
    Stopped,
}

impl Master {
    /// A master for this configuration.
    pub fn builder(config: Config) -> Builder {
        let environment = std::env::vars_os().collect();
        Builder { config, control: None, environment, print_output: false }
    }

    /// A way to talk to it while it runs.
    pub fn handle(&self) -> Handle {
        Handle { orders: self.orders.clone() }
    }

    /// What happens from now on: workers that get ready, die, retire; plans that come into force.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.world.notices.subscribe()
    }

    /// Runs until it is told to leave or to stop.
    ///
    /// # Errors
    /// [`MasterError::Control`] if nobody can connect to the control socket. What goes wrong later
    /// is logged, answered or tried again: a master does not end by itself.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub async fn run(mut self) -> Result<Ended, MasterError> {
        let (requests, mut control) = mpsc::channel(REQUEST_QUEUE);
        // Held for as long as this runs: dropped, it would take the socket away.
        let server = self.server.take().map(|server| tokio::spawn(server.serve(requests.clone())));
        let mut readiness = every(READINESS_INTERVAL);
        let mut drain = every(DRAIN_INTERVAL);
        let mut output = every(OUTPUT_INTERVAL);
        let mut burial = every(BURIAL_INTERVAL);
        self.dispatch(Event::Start);
        while !self.finished {
            let deadline = self.supervisor.deadline();
            tokio::select! {
                biased;
                Some(worker) = self.exits.recv() => self.exited(worker),
                Some(outcome) = self.started.recv() => self.spawned(outcome),
                Some(counts) = self.counts.recv() => self.counted(counts),
                () = self.world.until(deadline) => self.dispatch(Event::Tick),
                Some(request) = control.recv() => self.asked(request),
                Some(order) = self.inbox.recv() => match order {
                    Order::Request(request) => self.asked(request),
                    Order::Leave => return self.leave(server).await,
                },
                _ = readiness.tick(), if self.is_any(WorkerState::Starting) => self.look_for_ready(),
                _ = drain.tick(), if self.is_any(WorkerState::Retired) => self.count_connections(),
                _ = burial.tick(), if self.world.processes.has_remains() => self.bury(),
                _ = output.tick(), if self.world.processes.is_running() => {
                    self.world.processes.pass_on_output();
                }
            }
        }
        self.bury_all().await;
        drop(control);
        close(server, requests).await;
        Ok(Ended::Stopped)
    }

    async fn leave(mut self, server: Option<ServerTask>) -> Result<Ended, MasterError> {
        self.world.processes.pass_on_output();
        if let Some(server) = server {
            // Peers that wait for an answer see the connection end.
            server.abort();
            let _ = server.await;
        }
        Ok(Ended::Left)
    }

    fn is_any(&self, state: WorkerState) -> bool {
        self.supervisor.workers().any(|worker| worker.state() == state)
    }

    fn ids(&self, wanted: impl Fn(WorkerState) -> bool) -> Vec<WorkerId> {
        let workers = self.supervisor.workers().filter(|worker| wanted(worker.state()));
        workers.map(|worker| worker.id).collect()
    }

    /// Takes an event in and does what follows, and what follows from that.
    fn dispatch(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.supervisor.step(event, self.world.now()) {
                self.finished |= action == Action::Finish;
                events.extend(self.world.act(action));
            }
        }
    }

    fn exited(&mut self, worker: WorkerId) {
        let kill_at = self.world.now().after(self.config.timeouts.die);
        // Clients are steered away first; who else of its group is left is looked for later.
        if let Some((exit, last_lines)) = self.world.processes.take_exit(worker, kill_at) {
            self.dispatch(Event::Exited { worker, exit, last_lines });
        }
    }

    fn spawned(&mut self, outcome: Outcome) {
        let Outcome { worker, result } = outcome;
        let seat = self.supervisor.workers().find(|known| known.id == worker).map(|it| it.seat);
        match (result, seat) {
            (Err(error), _) => {
                self.dispatch(Event::SpawnFailed { worker, reason: error.to_string() });
            }
            (Ok(started), Some(seat)) => {
                let (pid, ports) = (started.child.pid(), started.ports.clone());
                self.world.watch(worker, seat, started);
                self.dispatch(Event::Spawned { worker, pid, ports });
            }
            (Ok(_), None) => tracing::error!(%worker, "a worker was started that nobody knows"),
        }
    }

    fn look_for_ready(&mut self) {
        let starting = self.ids(|state| state == WorkerState::Starting);
        match self.world.processes.ready(&starting, &self.config.listeners) {
            Ok(ready) => {
                for worker in ready {
                    self.dispatch(Event::Ready { worker });
                }
            }
            Err(error) => tracing::warn!(%error, "cannot see which workers listen"),
        }
    }

    /// Begins a count of the connections of retired workers, unless one is under way.
    fn count_connections(&mut self) {
        if std::mem::replace(&mut self.is_counting, true) {
            return;
        }
        let retired = self.ids(|state| state == WorkerState::Retired);
        let ports = self.world.processes.ports_of(&retired);
        let counts = self.world.counts_sender.clone();
        tokio::task::spawn_blocking(move || {
            // The loop has ended.
            let _ = counts.send(count_all(&ports));
        });
    }

    fn counted(&mut self, counts: Counts) {
        self.is_counting = false;
        match counts {
            Ok(counts) => {
                for (worker, sockets) in counts {
                    self.dispatch(Event::Connections { worker, sockets });
                }
            }
            Err(error) => tracing::warn!(%error, "cannot count connections of retired workers"),
        }
    }

    fn bury(&mut self) {
        for worker in self.world.processes.bury(self.world.now()) {
            self.world.spawner.release(worker);
        }
    }

    /// Waits for the rest of the process groups, which are killed when their time is over.
    async fn bury_all(&mut self) {
        let mut look = every(BURIAL_INTERVAL);
        while self.world.processes.has_remains() {
            look.tick().await;
            self.bury();
        }
    }

    fn asked(&mut self, request: control::Request) {
        let control::Request { command, responder } = request;
        match command {
            Command::Status => responder.finish(Ok(Answer::Status(self.status()))),
            Command::Explain { address } => responder.finish(self.explain(address)),
            Command::Reload => self.request(supervisor::Request::Reload, responder),
            Command::Scale { workers } => match self.config.scaled(workers) {
                // Before that, so that new workers are told the number that there will be.
                Ok(_) => self.request(supervisor::Request::Scale { workers }, responder),
                Err(error) => responder.finish(Err(Failure::new(error.to_string()))),
            },
            Command::Stop { now } => self.request(supervisor::Request::Stop { now }, responder),
        }
    }

    fn request(&mut self, request: supervisor::Request, responder: Responder) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let workers = self.supervisor.workers().count();
        self.world.pending.insert(id, Pending { responder, workers });
        self.dispatch(Event::Request(id, request));
    }

    fn explain(&self, address: IpAddr) -> Result<Answer, Failure> {
        let pid_of = |route: &Route<'_>| {
            let ports = Some(&route.occupant.ports);
            self.supervisor.workers().find(|worker| worker.ports.as_ref() == ports)?.pid
        };
        report::explain(self.supervisor.plan(), address, pid_of).map(Answer::Explained)
    }

    fn status(&mut self) -> control::Status {
        let all = self.ids(|_| true);
        let counts = self.world.processes.count(&all).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot count connections");
            BTreeMap::new()
        });
        report::status(&self.supervisor, &counts, self.world.now())
    }
}

/// The sockets of workers, as far as they could be counted.
type Counts = Result<BTreeMap<WorkerId, supervisor::Sockets>, ProcessError>;

type ServerTask = tokio::task::JoinHandle<Result<(), control::ControlError>>;

/// Lets the server pass on the last answers, and ends it.
async fn close(server: Option<ServerTask>, requests: mpsc::Sender<control::Request>) {
    drop(requests);
    let Some(server) = server else { return };
    match server.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the control socket failed"),
        Err(error) => tracing::error!(%error, "the control socket's task failed"),
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// An answer that is owed.
struct Pending {
    responder: Responder,
    /// How many workers there were when it was asked for.
    workers: usize,
}

/// What the loop acts on: everything but decisions.
struct World {
    firewall: Firewall,
    processes: Processes,
    spawner: Spawner,
    exits_sender: mpsc::UnboundedSender<WorkerId>,
    counts_sender: mpsc::UnboundedSender<Counts>,
    pending: BTreeMap<RequestId, Pending>,
    notices: broadcast::Sender<Notice>,
    /// How long the last transaction took.
    last_swap: Duration,
    workers_wanted: usize,
    begin: Instant,
}

impl World {
    fn now(&self) -> Moment {
        Moment(self.begin.elapsed())
    }

    /// Waits for a moment; for ever, if there is none.
    fn until(&self, deadline: Option<Moment>) -> impl Future<Output = ()> + use<> {
        let at = deadline.map(|Moment(since)| tokio::time::Instant::from_std(self.begin + since));
        async move {
            match at {
                Some(at) => sleep_until(at).await,
                None => future::pending().await,
            }
        }
    }

    /// Sees to it that the loop hears of a worker's exit.
    fn watch(&mut self, worker: WorkerId, seat: Seat, started: spawner::Started) {
        let exited = self.processes.insert(worker, seat, started);
        let exits = self.exits_sender.clone();
        tokio::spawn(async move {
            if let Err(error) = exited.await {
                tracing::error!(%worker, %error, "cannot wait for the end of a worker");
            }
            // The loop has ended.
            let _ = exits.send(worker);
        });
    }

    /// Carries out an action. Returns the event that answers it at once, if one does.
    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn { worker, seat, generation } => {
                let workers = self.workers_wanted;
                self.spawner.start(spawner::Order { worker, seat, generation, workers });
            }
            Action::Commit(plan) => return Some(self.commit(&plan)),
            Action::Terminate { worker } => self.processes.signal(worker, Signal::SIGTERM),
            Action::Kill { worker } => self.processes.signal(worker, Signal::SIGKILL),
            Action::Remove => self.remove(),
            Action::Reply { request, mut outcome } => {
                if let Err(Refusal::Worker(failure)) = &mut outcome {
                    self.add_last_lines(failure);
                }
                self.reply(request, outcome);
            }
            Action::Progress { request, step } => {
                if let Some(pending) = self.pending.get(&request) {
                    pending.responder.progress(step.to_string());
                }
            }
            Action::Notice(mut notice) => {
                if let Notice::Failed(failure) = &mut notice {
                    self.add_last_lines(failure);
                }
                self.announce(notice);
            }
            Action::Finish => {}
        }
        None
    }

    /// Puts a plan in force and looks whether the kernel holds it then.
    fn commit(&mut self, plan: &Plan) -> Event {
        let begin = Instant::now();
        let result = self.firewall.apply(plan);
        self.last_swap = begin.elapsed();
        match result.and_then(|_| self.firewall.verify()) {
            Ok(()) => {
                tracing::debug!(generation = %plan.generation(), took = ?self.last_swap, "committed");
                Event::Committed
            }
            Err(error) => {
                // What the next try changes is then counted from what is there.
                if let Err(error) = self.firewall.read(Some(plan.listeners())) {
                    tracing::warn!(%error, "cannot read what is in force");
                }
                Event::CommitFailed { reason: error.to_string() }
            }
        }
    }

    fn remove(&mut self) {
        if let Err(error) = self.firewall.remove() {
            tracing::error!(%error, "cannot remove the rules: `ipcluster flush` does");
        }
    }

    /// Says what a worker has printed that failed although it runs: the supervisor is told it of
    /// those alone that have exited.
    fn add_last_lines(&mut self, failure: &mut WorkerFailure) {
        if let Some(last_lines) = self.processes.last_lines(failure.worker) {
            failure.last_lines = last_lines;
        }
    }

    fn reply(&mut self, request: RequestId, outcome: Result<Done, Refusal>) {
        let Some(Pending { responder, workers }) = self.pending.remove(&request) else {
            tracing::error!(?request, "an answer to nobody's request");
            return;
        };
        let seats = self.workers_wanted;
        responder.finish(match outcome {
            Ok(Done::Reloaded { generation }) => Ok(Answer::Reloaded(Reloaded {
                generation,
                workers: saturating(seats),
                swap_seconds: self.last_swap.as_secs_f64(),
            })),
            Ok(Done::Scaled { workers, moved, slots }) => {
                self.workers_wanted = usize::from(workers);
                Ok(Answer::Scaled(Scaled {
                    workers,
                    moved_slots: saturating(moved),
                    slots: saturating(slots),
                }))
            }
            Ok(Done::Stopped) => Ok(Answer::Stopped(Stopped { workers: saturating(workers) })),
            Err(refusal) => Err(report::failure(&refusal)),
        });
    }

    fn announce(&mut self, notice: Notice) {
        match &notice {
            Notice::Failed(_) | Notice::Died { .. } | Notice::Killed { .. } => {
                tracing::warn!("{notice}");
            }
            Notice::CommitFailed { .. } => tracing::error!("{notice}"),
            _ => tracing::info!("{notice}"),
        }
        // Nobody listens.
        let _ = self.notices.send(notice);
    }
}

/// A count that is far below the limit of its type.
fn saturating<T: TryFrom<usize> + Bounded>(count: usize) -> T {
    T::try_from(count).unwrap_or(T::MAX)
}

trait Bounded {
    const MAX: Self;
}

impl Bounded for u16 {
    const MAX: Self = Self::MAX;
}

impl Bounded for u32 {
    const MAX: Self = Self::MAX;
}
