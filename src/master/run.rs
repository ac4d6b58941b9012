//! The loop: events in, actions out.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::actions::{Counts, World};
use super::builder::{Builder, REQUEST_QUEUE};
use super::error::MasterError;
use super::handover::give::{Handover, Possessions};
use super::health::monitor::{HEALTH_INTERVAL, HealthMonitor, heard};
use super::operators::handle::{Handle, Order};
use super::operators::report;
use super::operators::statuses::SocketCounts;
use super::rules::conntrack_usage::ConntrackMonitor;
use super::startup::signals::Signals;
use super::startup::state::PendingReconfigure;
use super::workers::counting::{CountedWorkers, count_all, count_sockets};
use super::workers::draining::Draining;
use super::workers::memory::{MEMORY_INTERVAL, MemorySample};
use super::workers::processes::{
    CONNTRACK_INTERVAL, DRAIN_INTERVAL, OUTPUT_INTERVAL, OUTPUT_PATIENCE, READINESS_INTERVAL,
    REAP_INTERVAL,
};
use super::workers::spawner::{SpawnOutcome, Started};
use crate::config::Config;
use crate::control::{self, ControlServer, Responder, WorkerEvent};
use crate::plan::{Route, Seat};
use crate::process;
use crate::protocol::{
    Command, Failure, Orphan, OrphansEnded, Outcome, Readiness, Request, RetireTarget, Status,
};
use crate::supervisor::{self, Action, Event, Input, Supervisor, WorkerId, WorkerState};

/// The process manager of one cluster, with its rules. See [`crate::master`].
pub struct Master {
    pub(super) config: Config,
    pub(super) supervisor: Supervisor,
    pub(super) world: World,
    pub(super) server: Option<ControlServer>,
    #[cfg(feature = "http")]
    pub(super) http: Option<crate::http::HttpServer>,
    /// Hands over to the next master; without a control socket none can ask for it.
    pub(super) handover: Option<Handover>,
    /// The workers of an earlier master, to be watched as soon as this runs.
    pub(super) adopted_workers: Vec<(WorkerId, Seat, Started)>,
    /// What is to be changed of what was adopted.
    pub(super) pending_reconfigure: Option<PendingReconfigure>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) inbox: mpsc::Receiver<Order>,
    pub(super) started: mpsc::UnboundedReceiver<SpawnOutcome>,
    pub(super) exits: mpsc::UnboundedReceiver<WorkerId>,
    pub(super) counts: mpsc::UnboundedReceiver<Counts>,
    pub(super) status_counts: mpsc::UnboundedReceiver<SocketCounts>,
    pub(super) worker_events: mpsc::Receiver<WorkerEvent>,
    pub(super) draining: Draining,
    pub(super) conntrack_usage: ConntrackMonitor,
    pub(super) health: HealthMonitor,
    /// Whether signals of the process are for this master.
    pub(super) obeys_signals: bool,
    pub(super) finished: bool,
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

impl Master {
    /// A master for this configuration.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// A way to talk to it while it runs.
    pub fn handle(&self) -> Handle {
        Handle { orders: self.orders.clone() }
    }

    /// What happens from now on: workers that get ready, die, retire; plans that come into force; and,
    /// while anybody is subscribed, the memory of all workers every second ([`Event::Stats`]). Who is
    /// more than 1,024 events behind misses the oldest, and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.world.events.subscribe()
    }

    /// Runs until it is told to leave or to stop.
    ///
    /// # Errors
    /// [`MasterError::Control`] if nobody can connect to the control socket; [`MasterError::Signals`] if it
    /// is to [obey signals](Builder::obey_signals), and cannot take them. What goes wrong later
    /// is logged, answered or tried again: a master does not end by itself.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub async fn run(mut self) -> Result<Ended, MasterError> {
        let (requests, mut control) = mpsc::channel(REQUEST_QUEUE);
        // Held for as long as this runs: dropped, it would take the socket away.
        let server = self.server.take().map(|server| tokio::spawn(server.serve(requests.clone())));
        // Ends with this function, and with it every connection.
        #[cfg(feature = "http")]
        let mut pages = tokio::task::JoinSet::new();
        #[cfg(feature = "http")]
        if let Some(server) = self.http.take() {
            pages.spawn(server.serve(self.handle()));
        }
        // Obeyed until this function ends.
        let mut signals = tokio::task::JoinSet::new();
        if self.obeys_signals {
            let taken = Signals::take().map_err(|source| MasterError::Signals { source })?;
            signals.spawn(taken.obey(self.handle(), self.config.on_exit));
        }
        let mut readiness = every(READINESS_INTERVAL);
        let mut health = every(HEALTH_INTERVAL);
        let words = self.health.listen()?;
        let mut drain = every(DRAIN_INTERVAL);
        let mut output = every(OUTPUT_INTERVAL);
        let mut reap = every(REAP_INTERVAL);
        let mut service = every(self.world.service.interval());
        let changes = self.world.watching.watch.readable();
        let changes = changes.map_err(|source| MasterError::Watch { source })?;
        let mut hear_at = None;
        let (looked, mut looks) = mpsc::unbounded_channel();
        let mut conntrack_usage = every(CONNTRACK_INTERVAL);
        let mut memory = every(MEMORY_INTERVAL);
        let mut sizes = self.world.memory.open();
        self.begin();
        while !self.finished {
            let deadline = self.supervisor.deadline();
            let parted = self.disconnect_deadline();
            let rested = rest_until(hear_at);
            let listened = heard(words.as_ref(), self.health.hear_at());
            tokio::select! {
                biased;
                Some(worker) = self.exits.recv() => self.exited(worker),
                Some(outcome) = self.started.recv() => self.spawned(outcome),
                Some(counts) = self.counts.recv() => self.take_counts(counts),
                Some(report) = self.health.reports.recv() => self.take_report(report),
                () = self.world.until(deadline) => self.dispatch(Input::Tick),
                ready = listened => {
                    let mut ready = ready.map_err(|source| MasterError::Notify { source })?;
                    if self.hear_workers() {
                        ready.clear_ready();
                    }
                }
                Some(request) = control.recv() => match request.request {
                    Request::Handover { .. } => {
                        if self.hand_over(request).await {
                            return self.leave_to_next(server, control).await;
                        }
                    }
                    _ => self.asked(request),
                },
                Some(event) = self.worker_events.recv() => self.take_link_event(event),
                Some(counts) = self.status_counts.recv() => self.take_status_counts(counts),
                () = self.world.until(parted) => self.report_disconnected(),
                Some(order) = self.inbox.recv() => match order {
                    Order::Request(request) => self.asked(request),
                    Order::Leave => return self.leave(server).await,
                },
                _ = readiness.tick(), if self.is_any(WorkerState::Starting) => self.look_for_ready(),
                _ = health.tick(), if self.world.processes.is_running() => self.check_health(),
                _ = drain.tick(), if self.drains() => self.count_connections(),
                _ = reap.tick(), if self.world.processes.has_exited() => self.reap(),
                _ = service.tick(), if self.world.service.has_manager() => {
                    self.world.service.tick();
                }
                _ = conntrack_usage.tick() => self.conntrack_usage.look(),
                _ = memory.tick(), if self.world.processes.is_running() => self.world.look_at_memory(),
                Some(look) = sizes.recv() => self.looked_at_memory(look),
                _ = output.tick(), if self.world.processes.is_running() => {
                    self.world.processes.pass_on_output();
                }
                () = self.world.until_tidy() => self.world.tidy(),
                () = self.world.until(self.world.orphans.deadline()) => {
                    self.world.orphans.see_to(self.world.now());
                }
                () = self.world.until(self.world.foreign_look_at()) => {
                    self.world.look_for_foreign(self.supervisor.plan(), looked.clone());
                }
                Some(look) = looks.recv() => self.world.looked_for_foreign(look),
                // Last, and with rests: a storm of other people's commits keeps nothing else waiting,
                // and takes a part of a processor only.
                ready = async {
                    rested.await;
                    changes.ready(Interest::READABLE | Interest::ERROR).await
                } => {
                    let mut ready = ready.map_err(|source| MasterError::Watch { source })?;
                    let began = Instant::now();
                    if self.hear_of_changes() {
                        ready.clear_ready();
                    }
                    hear_at = began.checked_add(began.elapsed() * HEARING_SHARE + HEARING_REST);
                }
            }
        }
        for responder in self.world.take_responders() {
            responder.finish(Err(Failure::new("the cluster is stopped")));
        }
        self.reap_all().await;
        self.world.processes.finish_output(OUTPUT_PATIENCE);
        // Those who listen are told that nothing follows.
        self.world.events = broadcast::channel(1).0;
        self.health.end();
        drop(control);
        self.worker_events.close();
        close(server, requests).await;
        Ok(Ended::Stopped)
    }

    /// Goes on with what there is.
    fn begin(&mut self) {
        for (worker, seat, started) in std::mem::take(&mut self.adopted_workers) {
            let pid = started.child.pid();
            self.world.watch(worker, seat, started);
            self.adopt_watch(worker, pid);
        }
        for Orphan { pid, reason, .. } in self.world.orphans.told() {
            self.world.announce(Event::Orphan { pid, reason });
        }
        self.dispatch(Input::Start);
        if let Some(PendingReconfigure { renew }) = self.pending_reconfigure.take() {
            tracing::info!(
                "the configuration is another than that of the earlier master: {}",
                if renew { "new workers are started" } else { "the number of workers changes" }
            );
            let (request, replies) = control::ReceivedRequest::new(Command::Reload { share: None });
            self.request(supervisor::Request::Configure { renew }, request.responder);
            tokio::spawn(async move {
                match replies.outcome().await {
                    Some(Ok(_)) => tracing::info!("the configuration is in force"),
                    Some(Err(failure)) => tracing::error!(
                        "the configuration is not in force, and the earlier workers serve on: {}; \
                         start the master again when that is mended",
                        failure.message
                    ),
                    None => {}
                }
            });
        }
    }

    /// Hands over to the process that asks, if that can be now; returns whether that is the master.
    async fn hand_over(&mut self, request: control::ReceivedRequest) -> bool {
        let Some(handover) = &self.handover else {
            let failure = Failure::new("takeover is asked for over the control socket alone");
            request.responder.finish(Err(failure));
            return false;
        };
        let possessions = Possessions {
            supervisor: &self.supervisor,
            rules: self.world.firewall.as_fd(),
            notify: self.health.socket(),
            processes: &self.world.processes,
            listeners: &self.world.held,
            service: &self.world.service,
        };
        let next = handover.give(request, &possessions, self.world.now()).await;
        if let Some(pid) = next {
            self.world.service.hand_over(pid);
        }
        next.is_some()
    }

    /// Another process is the master now: nothing is touched any more. Who waits for an answer is told.
    async fn leave_to_next(
        mut self,
        server: Option<ServerTask>,
        mut control: mpsc::Receiver<control::ReceivedRequest>,
    ) -> Result<Ended, MasterError> {
        if let Some(handover) = &self.handover {
            handover.close_server();
        }
        let unheard = std::iter::from_fn(|| control.try_recv().ok());
        let unheard: Vec<Responder> = unheard.map(|request| request.responder).collect();
        for responder in self.world.take_responders().chain(unheard) {
            responder.finish(Err(Failure::new("another master has taken over meanwhile")
                .hint("ask that one: `ipcluster status` shows what has come of it")));
        }
        drop((self, control));
        if let Some(server) = server {
            let _ = server.await;
        }
        Ok(Ended::Replaced)
    }

    async fn leave(mut self, server: Option<ServerTask>) -> Result<Ended, MasterError> {
        self.world.service.leaving();
        self.world.processes.pass_on_output();
        self.world.processes.finish_output(OUTPUT_PATIENCE);
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

    pub(super) fn ids(&self, wanted: impl Fn(WorkerState) -> bool) -> Vec<WorkerId> {
        let workers = self.supervisor.workers().filter(|worker| wanted(worker.state()));
        workers.map(|worker| worker.id).collect()
    }

    /// Takes in what others have changed; returns whether that was all.
    fn hear_of_changes(&mut self) -> bool {
        let (events, is_drained) = self.world.read_changes().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot hear who changes rules");
            (VecDeque::from([Input::NotificationsLost]), true)
        });
        events.into_iter().for_each(|event| self.dispatch(event));
        is_drained
    }

    /// Takes an event in and does what follows, and what follows from that.
    pub(super) fn dispatch(&mut self, event: Input) {
        self.dispatch_all([event].into());
    }

    /// The same for several that were known at once: what follows from them is one change of the rules,
    /// or few.
    pub(super) fn dispatch_all(&mut self, mut events: VecDeque<Input>) {
        while let Some(event) = events.pop_front() {
            for action in self.supervisor.step(event, self.world.now()) {
                self.finished |= action == Action::Finish;
                events.extend(self.world.act(action));
            }
        }
        self.world.service.observe(&self.supervisor);
    }

    fn exited(&mut self, worker: WorkerId) {
        let kill_at = self.world.now().after(self.config.timeouts.die);
        let ports = self.world.processes.ports_of(worker);
        // Clients are steered away first; who else of its group is left is looked for later.
        if let Some((exit, last_lines)) = self.world.processes.take_exit(worker, kill_at) {
            self.world.peers.forget(worker);
            self.dispatch(Input::Exited { worker, exit, last_lines });
            self.end_watch(worker);
            if let Some(ports) = ports {
                self.draining.insert(worker, ports);
                self.count_connections();
            }
        }
    }

    fn spawned(&mut self, outcome: SpawnOutcome) {
        let SpawnOutcome { worker, result } = outcome;
        let seat = self.supervisor.workers().find(|known| known.id == worker).map(|it| it.seat);
        match (result, seat) {
            (Err(error), _) => {
                self.dispatch(Input::SpawnFailed { worker, reason: error.to_string() });
            }
            (Ok(mut started), Some(seat)) => {
                if self.config.ready == Readiness::Protocol {
                    // It may take those that it was offered, or others: it will tell.
                    started.ports = Arc::new([]);
                }
                let (pid, ports) = (started.child.pid(), started.ports.clone());
                self.world.watch(worker, seat, started);
                self.dispatch(Input::Spawned { worker, pid, ports });
                self.begin_watch(worker, pid);
            }
            (Ok(_), None) => tracing::error!(%worker, "a worker was started that nobody knows"),
        }
    }

    /// Whether there is anything to be counted or let go.
    fn drains(&self) -> bool {
        self.is_any(WorkerState::Retired)
            || self.draining.has_gone()
            || self.supervisor.orphaned_listeners().next().is_some()
    }

    /// Begins a count of what workers that are retired or gone have left, if it is time for one.
    fn count_connections(&mut self) {
        let mut retired = self.counted(|state| state == WorkerState::Retired);
        let now = self.world.now();
        let orphaned =
            self.supervisor.orphaned_listeners().map(|(worker, since)| (worker, now.since(since)));
        retired.extend(self.world.held.counted(orphaned));
        let settled = self.supervisor.workers().filter(|worker| worker.is_settled());
        let settled = settled.map(|worker| worker.id).collect();
        let plan = self.supervisor.plan();
        let began = self.draining.begin(retired, settled, plan, Instant::now());
        let Some(wanted) = began else { return };
        let counts = self.world.counts_sender.clone();
        self.world.counting.run(move || {
            // The loop has ended.
            let _ = counts.send(count_all(&wanted));
        });
    }

    /// The workers in these states that run, to be counted.
    fn counted(&self, is: impl Fn(WorkerState) -> bool) -> CountedWorkers {
        let now = self.world.now();
        let workers = self.supervisor.workers().filter(|worker| is(worker.state()));
        let left_for = |worker: &supervisor::Worker| {
            (worker.state() == WorkerState::Retired).then(|| now.since(worker.since()))
        };
        self.world.processes.counted(workers.map(|worker| (worker.id, left_for(worker))))
    }

    fn take_counts(&mut self, counts: Counts) {
        self.draining.end(Instant::now());
        self.release_ports();
        if self.draining.has_gone() {
            self.count_connections();
        }
        match counts {
            Ok(counts) => {
                for (worker, sockets) in counts {
                    self.dispatch(Input::Connections { worker, sockets });
                }
            }
            Err(error) if self.world.uncounted.is_due(Instant::now()) => {
                tracing::warn!(%error, "cannot count connections of retired workers");
            }
            Err(_) => {}
        }
    }

    fn looked_at_memory(&mut self, look: MemorySample) {
        let Some(event) = self.world.looked_at_memory(look) else { return };
        let master = match &event {
            Input::ResidentMeasured(footprint) => Some(footprint.master),
            _ => None,
        };
        self.dispatch(event);
        if let Some(master) = master.filter(|_| self.world.events.receiver_count() > 0) {
            self.world.announce(Event::Stats(self.supervisor.stats(master)));
        }
    }

    fn reap(&mut self) {
        for worker in self.world.processes.reap(self.world.now()) {
            self.draining.reaped(worker);
        }
        self.release_ports();
    }

    fn release_ports(&mut self) {
        for worker in self.draining.take_free() {
            // Ports whose sockets are held are free when those are closed.
            if !self.world.held.has(worker) {
                self.world.spawner.release(worker);
            }
        }
    }

    /// Waits for the rest of the process groups, which are killed when their time is over.
    async fn reap_all(&mut self) {
        let mut look = every(REAP_INTERVAL);
        while self.world.processes.has_exited() {
            look.tick().await;
            self.reap();
        }
    }

    fn asked(&mut self, request: control::ReceivedRequest) {
        let control::ReceivedRequest { request, responder, .. } = request;
        match request {
            Request::Status => {
                self.world.statuses.add(responder);
                self.count_for_status();
            }
            Request::Explain { address } => responder.finish(self.explain(address)),
            Request::Command(command) => self.command(command, responder),
            Request::Events => {
                let (name, generation) = (&self.config.name, self.supervisor.generation());
                let World { subscribers, events, .. } = &self.world;
                subscribers.add(name, generation, events, responder);
            }
            Request::EndOrphans => {
                let kill_at = self.world.now().after(self.config.timeouts.die);
                let processes = self.world.orphans.end(kill_at);
                let processes = u32::try_from(processes).unwrap_or(u32::MAX);
                responder.finish(Ok(Outcome::OrphansEnded(OrphansEnded { processes })));
            }
            Request::Handover { .. } => {
                let failure = Failure::new("takeover is asked for over the control socket alone");
                responder.finish(Err(failure));
            }
        }
    }

    fn command(&mut self, command: Command, responder: Responder) {
        let request = match command {
            Command::Reload { share: None } => supervisor::Request::Reload,
            Command::Reload { share: Some(share) } => supervisor::Request::Canary { share },
            Command::Promote => supervisor::Request::Promote,
            Command::Rollback => supervisor::Request::Rollback,
            Command::Restart => supervisor::Request::Restart,
            Command::Retire(RetireTarget::Seat(seat)) => {
                supervisor::Request::Retire { target: supervisor::RetireTarget::Seat(seat) }
            }
            Command::Retire(RetireTarget::Pid(pid)) => {
                supervisor::Request::Retire { target: supervisor::RetireTarget::Pid(pid) }
            }
            Command::ClearRetired => supervisor::Request::ClearRetired,
            Command::Scale { workers } => match self.config.scaled(workers) {
                Ok(_) => supervisor::Request::Scale { workers },
                Err(error) => return responder.finish(Err(Failure::new(error.to_string()))),
            },
            Command::Stop { now } => supervisor::Request::Stop { now },
        };
        self.request(request, responder);
    }

    fn request(&mut self, request: supervisor::Request, responder: Responder) {
        let workers = self.supervisor.workers().count();
        let id = self.world.owe_answer(request, responder, workers);
        if request == supervisor::Request::Reload {
            self.world.service.reload_began(id);
        }
        self.dispatch(Input::Request(id, request));
    }

    fn explain(&self, address: IpAddr) -> Result<Outcome, Failure> {
        let pid_of = |route: &Route<'_>| {
            let ports = Some(&route.occupant.ports);
            self.supervisor.workers().find(|worker| worker.ports.as_ref() == ports)?.pid
        };
        report::explain(self.supervisor.plan(), address, pid_of).map(Outcome::Explained)
    }

    /// Begins a count for those who want the status, if it is time for one.
    fn count_for_status(&mut self) {
        if self.world.statuses.is_due() {
            let (all, plan) = (self.counted(|_| true), self.supervisor.plan().clone());
            self.world
                .statuses
                .count(move || count_sockets(&mut process::Sockets::open()?, &all, &plan));
        }
    }

    fn take_status_counts(&mut self, counts: SocketCounts) {
        let served = self.world.statuses.take_served();
        let counts = counts.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot count connections");
            BTreeMap::new()
        });
        let status = self.status(&counts);
        for responder in served {
            responder.finish(Ok(Outcome::Status(Box::new(status.clone()))));
        }
        self.count_for_status();
    }

    /// With these connections of workers.
    fn status(&mut self, counts: &BTreeMap<WorkerId, supervisor::Sockets>) -> Status {
        let counter_values = self.world.firewall.counter_values().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read how many connections each seat has had");
            BTreeMap::new()
        });
        let orphans = self.world.orphans.told();
        let foreign = self.world.watching.foreign_chains();
        let usage = ConntrackMonitor::read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot see how full connection tracking is");
            None
        });
        let metrics = &self.world.metrics;
        let mut status = report::status(
            &self.supervisor,
            counts,
            &counter_values,
            usage,
            metrics,
            foreign,
            self.world.now(),
        );
        status.orphans = orphans;
        let by_pid = |worker: &supervisor::Worker| Some((worker.pid?, worker.id));
        let pids = self.supervisor.workers().filter_map(by_pid).collect();
        self.health.add_texts(&mut status, &pids);
        status
    }
}

/// Changes that others make are read for one part in so many of the time, and not again before this
/// rest: a hundredth of the time in which our rules are to be repaired.
const HEARING_SHARE: u32 = 5;
const HEARING_REST: Duration = Duration::from_millis(2);

/// Waits for a time, unless it is over or there is none.
pub(super) async fn rest_until(at: Option<Instant>) {
    if let Some(at) = at.filter(|at| *at > Instant::now()) {
        tokio::time::sleep_until(at.into()).await;
    }
}

type ServerTask = tokio::task::JoinHandle<Result<(), control::ControlError>>;

/// Lets the server pass on the last answers, and ends it.
async fn close(server: Option<ServerTask>, requests: mpsc::Sender<control::ReceivedRequest>) {
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
