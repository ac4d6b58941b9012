//! What the loop acts on, and how: everything but decisions.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, sleep_until};

use super::background::BackgroundThread;
use super::log_limit::LogLimiter;
use super::operators::events::Subscribers;
use super::operators::metrics::Metrics;
use super::operators::report;
use super::operators::service_manager::ServiceNotifier;
use super::operators::statuses::Statuses;
use super::rules::watching::Watching;
use super::startup::orphans::Orphans;
use super::workers::counting::CountError;
use super::workers::links::WorkerLinks;
use super::workers::listeners::HeldListeners;
use super::workers::memory::{Measured, MemoryMonitor, MemorySample};
use super::workers::processes::{Processes, REAP_INTERVAL};
use super::workers::spawner::{self, Spawner};
use crate::control::{Responder, WorkerOrder};
use crate::nft::{Firewall, NftError};
use crate::plan::{Plan, Seat};
use crate::protocol::{
    Cleared, OnTrial, Outcome, Reloaded, Restarted, Retired, RolledBack, Scaled, Stopped,
};
use crate::supervisor::{
    self, Action, Done, Event, Input, Refusal, Request, RequestId, Timestamp, Verification,
    WorkerFailure, WorkerId,
};

/// The sockets of retired workers, if they could be counted.
pub(super) type Counts = Result<BTreeMap<WorkerId, supervisor::Sockets>, CountError>;

/// An answer that is owed.
pub(super) struct Pending {
    responder: Responder,
    /// How many workers there were when it was asked for.
    workers: usize,
    /// How many there were to be.
    wanted: usize,
}

/// What the loop acts on: everything but decisions.
pub(super) struct World {
    pub(super) firewall: Firewall,
    pub(super) watching: Watching,
    /// Counts connections.
    pub(super) counting: BackgroundThread,
    /// Looks for rules of others.
    pub(super) looking: BackgroundThread,
    pub(super) service: ServiceNotifier,
    pub(super) uncounted: LogLimiter,
    pub(super) processes: Processes,
    pub(super) peers: WorkerLinks,
    pub(super) spawner: Spawner,
    pub(super) held: HeldListeners,
    pub(super) exits_sender: mpsc::UnboundedSender<WorkerId>,
    pub(super) counts_sender: mpsc::UnboundedSender<Counts>,
    pub(super) statuses: Statuses,
    pub(super) pending: BTreeMap<RequestId, Pending>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) subscribers: Subscribers,
    pub(super) memory: MemoryMonitor,
    /// How long the last transaction took.
    pub(super) last_swap: Duration,
    /// What it counts over its life.
    pub(super) metrics: Metrics,
    /// How many workers the cluster is to have, as they are told.
    pub(super) workers_wanted: usize,
    /// How many are configured.
    pub(super) workers_configured: usize,
    /// What looked like workers of an earlier master when this one began, and could not be proven to
    /// be.
    pub(super) orphans: Orphans,
    pub(super) next_request: u64,
    pub(super) begin: Instant,
    /// Not before this does the table get tidied again.
    pub(super) next_tidy: Instant,
}

/// The least time from tidying the table to the next time, and from when that has failed.
const TIDY_INTERVAL: Duration = Duration::from_millis(200);
const TIDY_PATIENCE: Duration = Duration::from_secs(10);

impl World {
    pub(super) fn now(&self) -> Timestamp {
        Timestamp(self.begin.elapsed())
    }

    /// Waits for a moment; for ever, if there is none.
    pub(super) fn until(&self, deadline: Option<Timestamp>) -> impl Future<Output = ()> + use<> {
        let at = deadline.and_then(|Timestamp(since)| self.begin.checked_add(since));
        async move {
            match at {
                Some(at) => sleep_until(at.into()).await,
                None => future::pending().await,
            }
        }
    }

    /// Waits until the table is to be tidied; for ever, if there is nothing to tidy.
    pub(super) fn until_tidy(&self) -> impl Future<Output = ()> + use<> {
        let at = self.firewall.tidy_at().map(|at| at.max(self.next_tidy));
        async move {
            match at {
                Some(at) => sleep_until(at.into()).await,
                None => future::pending().await,
            }
        }
    }

    /// Removes what earlier plans have left in the table.
    pub(super) fn tidy(&mut self) {
        let pause = match self.firewall.tidy(Instant::now()) {
            Ok(_) => TIDY_INTERVAL,
            // Nothing leads to it, so that nothing depends on it: the next transaction tries too.
            Err(error) => {
                tracing::warn!(error = causes(&error), "cannot remove what earlier plans left");
                TIDY_PATIENCE
            }
        };
        self.next_tidy = Instant::now() + pause;
    }

    /// Sees to it that the loop hears of a worker's exit.
    pub(super) fn watch(&mut self, worker: WorkerId, seat: Seat, started: spawner::Started) {
        let pidfd = started.child.pidfd().clone();
        if let Some(sockets) = &started.sockets {
            self.held.insert(worker, Arc::clone(sockets));
        }
        let exited = self.processes.insert(worker, seat, started);
        let exits = self.exits_sender.clone();
        tokio::spawn(async move {
            if let Err(error) = exited.await {
                tracing::error!(%worker, %error, "cannot wait for the end of a worker: looked for");
                while !matches!(pidfd.has_exited(), Ok(true)) {
                    sleep(REAP_INTERVAL).await;
                }
            }
            // The loop has ended.
            let _ = exits.send(worker);
        });
    }

    /// Keeps what a request is to be answered by.
    pub(super) fn owe_answer(
        &mut self,
        request: Request,
        responder: Responder,
        workers: usize,
    ) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.pending.insert(id, Pending { responder, workers, wanted: self.workers_wanted });
        match request {
            Request::Scale { workers } => self.workers_wanted = usize::from(workers),
            Request::Configure { .. } => self.workers_wanted = self.workers_configured,
            _ => {}
        }
        id
    }

    /// Those who wait for an answer, who will have none of us.
    pub(super) fn take_responders(&mut self) -> impl Iterator<Item = Responder> + use<> {
        let pending = std::mem::take(&mut self.pending).into_values();
        pending.map(|pending| pending.responder).chain(self.statuses.take_all())
    }

    /// Carries out an action. Returns the events that answer it at once, if any do.
    pub(super) fn act(&mut self, action: Action) -> VecDeque<Input> {
        match action {
            Action::Spawn { worker, seat, generation } => {
                // A canary has seats beyond those: no worker is told a seat that there cannot be.
                let workers = self.workers_wanted.max(seat.index() + 1);
                let inherited = self.held.of(worker);
                let order = spawner::SpawnRequest { worker, seat, generation, workers, inherited };
                self.spawner.start(order);
            }
            Action::TransferListeners { from, to } => self.held.transfer(from, to),
            Action::CloseListeners { worker } => {
                self.held.close(worker);
                self.spawner.release(worker);
            }
            Action::Commit(plan) => return [self.commit(&plan)].into(),
            Action::Verify => return self.verify(),
            Action::Restore(plan) => return [self.restore(&plan)].into(),
            Action::OrderRetire { worker } => {
                self.peers.order(worker, WorkerOrder::Retire, "another worker has its place");
            }
            Action::OrderStop { worker } => {
                if !self.peers.order(worker, WorkerOrder::Die, "it has drained, or has to end") {
                    return [Input::OrderUnanswered { worker }].into();
                }
            }
            Action::Terminate { worker } => self.processes.signal(worker, Signal::SIGTERM),
            Action::Kill { worker } => self.processes.signal(worker, Signal::SIGKILL),
            Action::Renice { worker, nice } => self.processes.renice(worker, nice),
            Action::RestoreNice { worker } => self.processes.restore_nice(worker),
            Action::MeasureProportional { workers } => self.memory.ask(workers),
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
            Action::Emit(mut event) => {
                if let Event::Failed(failure) = &mut event {
                    self.add_last_lines(failure);
                }
                self.announce(event);
            }
            Action::Finish => {}
        }
        VecDeque::new()
    }

    /// Puts a plan in force. Once the kernel has acknowledged it, it is.
    fn commit(&mut self, plan: &Plan) -> Input {
        let begin = Instant::now();
        let result = self.firewall.apply(plan);
        self.last_swap = begin.elapsed();
        if let Err(error) = result {
            // What the next try changes is then counted from what is there.
            if let Err(error) = self.firewall.read(Some(plan.listeners())) {
                tracing::warn!(%error, "cannot read what is in force");
            }
            return Input::CommitFailed { reason: error.to_string() };
        }
        self.metrics.swaps.observe(self.last_swap);
        tracing::debug!(generation = %plan.generation(), took = ?self.last_swap, "committed");
        Input::Committed { took: self.last_swap }
    }

    /// Looks at the table. What was told of other people's commits comes first: it names who made the
    /// difference that the look may show.
    fn verify(&mut self) -> VecDeque<Input> {
        let mut events = match self.read_changes() {
            Ok((events, _)) => events,
            Err(error) => {
                tracing::warn!(%error, "cannot hear who changes rules");
                VecDeque::new()
            }
        };
        events.push_back(Input::Verified(match self.firewall.verify() {
            Ok(()) => Verification::Same,
            Err(NftError::Differs { object, .. }) => {
                Verification::Differs { what: format!("{object} differs") }
            }
            Err(NftError::NotUnderstood { reason, .. }) => {
                Verification::Differs { what: reason.to_string() }
            }
            Err(error) => Verification::Unreadable { reason: causes(&error) },
        }));
        events
    }

    /// Begins a look at the memory of all workers that run.
    pub(super) fn look_at_memory(&mut self) {
        self.memory.look(self.processes.pids());
    }

    /// What a look at the memory of workers has shown.
    pub(super) fn looked_at_memory(&mut self, look: MemorySample) -> Option<Input> {
        let processes = &self.processes;
        Some(match self.memory.take_in(look, |worker| processes.runs(worker))? {
            Measured::Resident(footprint) => Input::ResidentMeasured(footprint),
            Measured::Proportional(footprint) => Input::ProportionalMeasured(footprint),
        })
    }

    fn restore(&mut self, plan: &Plan) -> Input {
        match self.firewall.restore(plan) {
            Ok(_) => Input::Restored,
            Err(error) => Input::RestoreFailed { reason: causes(&error) },
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
        let Some(Pending { responder, workers, wanted }) = self.pending.remove(&request) else {
            tracing::error!(?request, "an answer to nobody's request");
            return;
        };
        if outcome.is_err() {
            self.workers_wanted = wanted;
        }
        let failure = outcome.as_ref().err().map(ToString::to_string);
        self.service.answered(request, failure.as_deref());
        let seats = self.workers_wanted;
        responder.finish(match outcome {
            Ok(Done::Reloaded { generation }) => Ok(Outcome::Reloaded(Reloaded {
                generation,
                workers: saturating(seats),
                swap_seconds: self.last_swap.as_secs_f64(),
            })),
            Ok(Done::Canary { generation, workers, slots, of }) => Ok(Outcome::OnTrial(OnTrial {
                generation,
                workers: saturating(workers),
                trial_slots: saturating(slots),
                slots: saturating(of),
                swap_seconds: self.last_swap.as_secs_f64(),
            })),
            Ok(Done::RolledBack { generation }) => Ok(Outcome::RolledBack(RolledBack {
                generation,
                workers: saturating(seats),
                swap_seconds: self.last_swap.as_secs_f64(),
            })),
            Ok(Done::Scaled { workers, moved, slots }) => {
                let (moved_slots, slots) = (saturating(moved), saturating(slots));
                Ok(Outcome::Scaled(Scaled { workers, moved_slots, slots }))
            }
            Ok(Done::Retired { seat, pid, successor }) => {
                Ok(Outcome::Retired(Retired { seat, pid, successor }))
            }
            Ok(Done::Cleared { ended }) => {
                Ok(Outcome::Cleared(Cleared { workers: saturating(ended) }))
            }
            Ok(Done::Restarted { generation, ended }) => Ok(Outcome::Restarted(Restarted {
                generation,
                workers: saturating(seats),
                ended: saturating(ended),
            })),
            Ok(Done::Stopped) => Ok(Outcome::Stopped(Stopped { workers: saturating(workers) })),
            Err(refusal) => Err(report::failure(&refusal)),
        });
    }

    pub(super) fn announce(&mut self, event: Event) {
        self.metrics.note(&event);
        match &event {
            Event::Failed(_)
            | Event::Died { .. }
            | Event::Killed { .. }
            | Event::RetirementsHeldBack { .. }
            | Event::LowWatermark { .. }
            | Event::HighWatermark { .. }
            | Event::Unproven { .. }
            | Event::Unhealthy { .. }
            | Event::Stopping { .. }
            | Event::DrainerStarted { .. }
            | Event::Orphan { .. }
            | Event::ForeignNatFound { .. } => {
                tracing::warn!("{event}");
            }
            Event::Repaired { held_back, .. } if held_back.is_zero() => {
                tracing::warn!("{event}");
            }
            Event::QueueLost { .. }
            | Event::CommitFailed { .. }
            | Event::Repaired { .. }
            | Event::RepairFailed { .. }
            | Event::GivenUp { .. }
            | Event::MemoryShort { .. }
            | Event::NoneHealthy { .. } => tracing::error!("{event}"),
            Event::Stats(_) => tracing::trace!("{event}"),
            _ => tracing::info!("{event}"),
        }
        // Nobody listens.
        let _ = self.events.send(event);
    }
}

/// An error with what it came of, in one line.
pub(super) fn causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
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
