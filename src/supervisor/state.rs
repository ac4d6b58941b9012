//! The supervisor: what it remembers, and the order in which it decides.

use std::collections::{BTreeMap, BTreeSet};

use super::rollout::{Configurations, Probation, RolloutState, Roster, Target};
use super::rules::Kernel;
use super::stop::Stop;
use super::workers::{
    Clearing, ConnectionCounts, MemoryPressure, OrphanedListeners, RateLimiter, RetireRequest,
    SeatBackoff,
};
use super::{Action, Input, RequestId, Settings, Start, Worker};
use crate::plan::{Assignment, Generation, Plan, PlanError, Seat};
use crate::protocol::{
    Command, Event, Outcome, Progress, Refusal, Stats, Timestamp, WorkerId, WorkerStats,
};

/// The process manager of one cluster. See `crate::supervisor`.
#[derive(Debug, Clone)]
pub struct Supervisor {
    pub(super) settings: Settings,
    /// What was configured for each generation.
    pub(super) configurations: Configurations,
    pub(super) phase: Phase,
    /// The workers that the cluster wants, as long as no rollout has ended.
    pub(super) target: Target,
    /// The target before the last reload or promotion: a rollback goes back to it.
    pub(super) before: Option<Target>,
    /// The assignment before some slots were lent to the canary.
    pub(super) home: Option<Assignment>,
    /// The highest number of a generation that was ever in force, as far as this master knows.
    pub(super) last_generation: Generation,
    /// The rollout under way: reload, scale, canary, promotion or rollback.
    pub(super) rollout: Option<RolloutState>,
    /// The probation of what the last rollout has put in force.
    pub(super) probation: Option<Probation>,
    /// A probation may have been under way when an earlier master crashed.
    pub(super) may_be_on_probation: bool,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    /// Workers whose first process has ended, while others of their processes may be left.
    pub(super) unreaped: BTreeSet<WorkerId>,
    /// How many processes of workers could not be ended.
    pub(super) left_behind: u32,
    /// Listening sockets without a worker, by the worker that has left them.
    pub(super) orphaned_listeners: BTreeMap<WorkerId, OrphanedListeners>,
    pub(super) last_worker: WorkerId,
    /// A process of a worker was started by this master, or is adopted.
    pub(super) has_started_worker: bool,
    /// When each seat may have its next worker of a generation, after failures.
    pub(super) backoffs: BTreeMap<(Seat, Generation), SeatBackoff>,
    /// No spawn before this: spawns are [`Settings::stagger`] apart.
    pub(super) next_spawn: Timestamp,
    /// No retired worker that could go on is ended before this: such ends are as far apart.
    pub(super) next_end: Timestamp,
    /// The replacements of late.
    pub(super) rate_limiter: RateLimiter,
    /// It was reported that the rate limit holds replacements back.
    pub(super) is_held_back: bool,
    /// Requests to replace one worker each.
    pub(super) retire_requests: Vec<RetireRequest>,
    /// The restarts under way: reloads after which the retired workers are ended.
    pub(super) restarting: BTreeSet<RequestId>,
    /// The request that puts the configured weights in force in place of those of an earlier master.
    pub(super) configuring: Option<RequestId>,
    pub(super) clearings: Vec<Clearing>,
    pub(super) memory_pressure: MemoryPressure,
    pub(super) connection_counts: ConnectionCounts,
    pub(super) kernel: Kernel,
    /// The actions of this step.
    pub(super) actions: Vec<Action>,
}

/// The phase of the cluster.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// No plan of this master is in force.
    Starting(Start),
    /// A plan of this master is in force.
    Serving,
    /// The cluster is being stopped.
    Stopping(Stop),
    /// No worker and no rule is left.
    Finished,
}

impl Supervisor {
    /// A supervisor before its first input. `in_force` is what the kernel holds
    /// ([`Start::FromKernel`]), or the empty plan that the first worker will go into
    /// ([`Start::Fresh`]).
    ///
    /// # Errors
    /// Those of [`Plan::rescaled`], if the slots of `in_force` cannot be shared out by the
    /// weights of `settings`.
    pub fn new(settings: Settings, in_force: Plan, start: Start) -> Result<Self, PlanError> {
        in_force.rescaled(&settings.weights)?;
        let generation = match start {
            Start::Fresh => in_force.generation(),
            Start::FromKernel => in_force.generation().next(),
        };
        Ok(Self {
            target: Target::all(generation, settings.weights.clone()),
            before: None,
            home: None,
            last_generation: in_force.generation(),
            configurations: Configurations::new(&in_force, settings.signals),
            settings,
            phase: Phase::Starting(start),
            rollout: None,
            probation: None,
            may_be_on_probation: false,
            workers: BTreeMap::new(),
            unreaped: BTreeSet::new(),
            left_behind: 0,
            orphaned_listeners: BTreeMap::new(),
            last_worker: WorkerId(0),
            has_started_worker: false,
            backoffs: BTreeMap::new(),
            next_spawn: Timestamp::ZERO,
            next_end: Timestamp::ZERO,
            rate_limiter: RateLimiter::default(),
            is_held_back: false,
            retire_requests: Vec::new(),
            restarting: BTreeSet::new(),
            configuring: None,
            clearings: Vec::new(),
            memory_pressure: MemoryPressure::default(),
            connection_counts: ConnectionCounts::default(),
            kernel: Kernel::new(in_force, start),
            actions: Vec::new(),
        })
    }

    /// Takes in what has happened, and returns what is to be done now. `now` is never before that of an
    /// earlier call.
    pub fn step(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        self.step_all([input], now)
    }

    /// Takes in all that is known to have happened, and returns what is to be done now. To compare what is with
    /// what should be takes a time that grows with the number of workers: it is done once for all of it.
    pub fn step_all(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        now: Timestamp,
    ) -> Vec<Action> {
        for input in inputs {
            self.apply(input, now);
        }
        self.reconcile(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Tick`] is wanted, if nothing else happens before; `None`: not at all.
    pub fn deadline(&self) -> Option<Timestamp> {
        let workers = self.workers.values().flat_map(|worker| {
            [self.worker_deadline(worker), self.health_deadline(worker)].into_iter().flatten()
        });
        let kernel = self.commit_deadline().into_iter().chain(self.repair_deadline());
        let policy = [
            self.replacement_deadline(),
            self.unhealthy_deadline(),
            self.clear_deadline(),
            self.memory_deadline(),
            self.connection_count_deadline(),
        ];
        workers
            .chain(kernel)
            .chain(self.spawn_deadline())
            .chain(policy.into_iter().flatten())
            .chain(self.probation_deadline())
            .chain(self.orphaned_listeners_deadline())
            .min()
    }

    /// The plan in force, as far as is known: the last that was committed.
    pub fn plan(&self) -> &Plan {
        &self.kernel.in_force.plan
    }

    /// The generation in force; while a canary is in force, the generation of all other clients.
    pub fn generation(&self) -> Generation {
        let target = self.kernel.in_force.target();
        target.map_or(self.plan().generation(), |target| target.generation)
    }

    /// All workers, by age.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// The worker with this number, until it has ended.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// Whether a setting limits the memory of workers, so that it has to be looked at without being asked for.
    pub fn limits_memory(&self) -> bool {
        self.settings.retire.rss.is_some() || self.settings.memory.marks.is_some()
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Finished)
    }

    fn apply(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Start => self.start(now),
            Input::Tick => {}
            Input::HookRuns { generation } => self.hook_runs(generation),
            Input::ReleasePrepared { generation, failure } => {
                self.release_prepared(generation, failure);
            }
            Input::Spawned { worker, pid, ports } => self.spawned(worker, pid, ports, now),
            Input::PrivatePorts { worker, ports } => self.hold_private_ports(worker, ports),
            Input::FurtherSockets { worker, ports } => self.hold_further_sockets(worker, ports),
            Input::PortsReported { worker, ports } => self.ports_reported(worker, ports),
            Input::LinkOpened { worker, knows_retired } => self.link_opened(worker, knows_retired),
            Input::LinkClosed { worker } => self.link_closed(worker),
            Input::OrderUnanswered { worker } => self.order_unanswered(worker, now),
            Input::SpawnFailed { worker, reason, is_permanent } => {
                self.spawn_failed(worker, reason, is_permanent, now);
            }
            Input::Ready { worker } => self.ready(worker, now),
            Input::ReadinessFault { worker, fault } => self.readiness_fault(worker, fault),
            Input::NotReady { worker, lack } => self.not_ready(worker, lack, now),
            Input::Unhealthy { worker, cause } => self.became_unhealthy(worker, cause, now),
            Input::Healthy { worker } => self.became_healthy(worker, now),
            Input::Stopping { worker } => self.worker_stopping(worker, now),
            Input::ExtendTimeout { worker, span } => self.extend_timeout(worker, span, now),
            Input::Exited { worker, exit, last_lines } => {
                self.exited(worker, exit, last_lines, now);
            }
            Input::Reaped { worker, left } => {
                if self.unreaped.remove(&worker) {
                    self.left_behind = self.left_behind.saturating_add(left);
                }
            }
            Input::WentIntoBackground { worker, advice } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.background = Some(advice);
                }
            }
            Input::Connections { worker, sockets } => self.sockets_counted(worker, sockets, now),
            Input::ResidentMeasured(usage) => self.resident_measured(&usage, now),
            Input::ProportionalMeasured(usage) => self.proportional_measured(usage, now),
            Input::ConnectionsCounted(totals) => self.connections_counted(totals, now),
            Input::Lagging { worker, lag } => self.report_lag(worker, lag),
            Input::RetireRequested { worker } => self.retire_requested(worker),
            Input::Committed { took } => {
                if let Some(before) = self.kernel.committed() {
                    self.came_into_force(&before, took, now);
                }
            }
            Input::CommitFailed { reason } => {
                if self.kernel.is_committing() {
                    self.commit_failed(reason, now);
                }
            }
            Input::TableChanged { writer } => self.table_changed(writer),
            Input::NotificationsLost => self.table_changed(None),
            Input::Verified(verification) => self.verified(verification, now),
            Input::Restored => self.restored(now),
            Input::RestoreFailed { reason } => self.restore_failed(reason, now),
            Input::Request(id, command) => self.request(id, command, now),
            Input::Configure { request, renew, reshares } => {
                self.configure(request, renew, reshares);
            }
            Input::Reconfigure { request, command, configured, reshares } => {
                self.reconfigure(request, command, *configured, reshares);
            }
            Input::Configured(configured) => self.configured(*configured),
        }
    }

    /// Compares what is with what should be, and acts on each difference. Every rule looks at the
    /// state alone, not at the inputs that led to it.
    fn reconcile(&mut self, now: Timestamp) {
        self.act_on_deadlines(now);
        self.act_on_health(now);
        self.advance_probation(now);
        self.advance_rollout(now);
        self.commit_changes(now);
        // A commit that needs nothing of the kernel, or a worker that no plan can name, may have decided it.
        while self.advance_probation(now) {
            self.commit_changes(now);
        }
        self.advance_stop(now);
        self.release_workers(now);
        self.answer_retirements();
        self.end_unhealthy(now);
        self.count_connections(now);
        self.start_replacements(now);
        self.advance_clearings(now);
        self.relieve_memory_pressure(now);
        self.order_retirements(now);
        self.verify_rules(now);
        self.spawn_missing(now);
        self.manage_orphaned_listeners(now);
        // What is guarded goes with the sockets that were closed just now.
        self.commit_guarded_ports(now);
        self.finish_stop();
    }

    fn request(&mut self, id: RequestId, command: Command, now: Timestamp) {
        match command {
            Command::Stop { now: at_once } => self.stop(id, at_once),
            Command::Reload { share: None } => self.reload(id),
            Command::Reload { share: Some(share) } => self.begin_canary(id, share),
            Command::Promote => self.promote(id),
            Command::Rollback => self.roll_back(id, now),
            Command::Restart => self.restart(id),
            Command::Retire(target) => self.request_retirement(id, target),
            Command::ClearRetired => self.clear_retired(id),
            Command::Scale { workers } => self.scale(id, workers),
            Command::ScaleBy { by } => match self.workers_after(by) {
                Ok(workers) => self.scale(id, workers),
                Err(refusal) => self.reply(id, Err(refusal)),
            },
        }
    }

    /// The workers as they are now, with what is known of their memory. `master` is that of the
    /// master, in bytes.
    pub fn stats(&self, master: u64, now: Timestamp) -> Stats {
        let of = |worker: &Worker| WorkerStats {
            worker: worker.id,
            seat: worker.seat,
            generation: worker.generation,
            pid: worker.pid,
            state: worker.state(),
            memory: worker.rss,
            uptime: now.since(worker.started),
            lag: None,
            app: None,
        };
        let mut workers: Vec<WorkerStats> = self.workers().map(of).collect();
        workers.sort_by_key(|worker| (worker.seat, worker.worker));
        Stats { master, workers: workers.into() }
    }

    /// Reports an event, for the log, the metrics and subscribers.
    pub(super) fn emit(&mut self, event: Event) {
        self.note_for_probation(&event);
        self.actions.push(Action::Emit(event));
    }

    /// Answers a request.
    pub(super) fn reply(&mut self, request: RequestId, outcome: Result<Outcome, Refusal>) {
        self.actions.push(Action::Reply { request, outcome });
    }

    /// Reports a step on the way to the answer of a request.
    pub(super) fn progress(&mut self, request: RequestId, step: Progress) {
        self.actions.push(Action::Progress { request, step });
    }

    pub(super) fn roster_of(&self, target: &Target) -> Roster {
        Roster::of(target, self.workers.values())
    }
}

/// A count as requests are answered with it: far below the limit of the type.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
