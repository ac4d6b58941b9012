//! One behaviour at a time, each told step by step.

mod adoption;
mod canary;
mod clearing;
mod connection_limit;
mod death;
mod end_signals;
mod give_up;
mod health;
mod links;
mod memory;
mod orphaned_listeners;
mod probation;
mod release;
mod reload;
mod repair;
mod retire;
mod rollback;
mod scale;
mod start;
mod starting;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::plan::{Generation, Listeners, Occupant, Partition, Plan, Port, Seat, Weights};
use crate::protocol::{
    Cleared, Command, Event, Exit, OnTrial, Outcome, Progress, Refusal, Reloaded, Restarted,
    RetireTarget, Retired, RolledBack, Scaled, Signal, Stopped, Timestamp, WorkerFailure, WorkerId,
    WorkerState,
};

/// A supervisor whose spawns succeed at once; everything else is up to the test.
struct Bench {
    supervisor: Supervisor,
    now: Timestamp,
    /// The outstanding commit.
    commit: Option<Plan>,
    spawned: Vec<(WorkerId, Seat, Generation)>,
    terminated: Vec<WorkerId>,
    killed: Vec<WorkerId>,
    transferred: Vec<(WorkerId, WorkerId)>,
    closed: Vec<WorkerId>,
    told_to_retire: Vec<u64>,
    /// Who was told by a signal, and by which.
    retire_signals: Vec<(u64, Option<Signal>)>,
    /// Who was told that it serves again.
    told_to_serve: Vec<u64>,
    told_to_die: Vec<u64>,
    replies: Vec<Result<Outcome, Refusal>>,
    removed: bool,
    finished: bool,
    start_failure: Option<WorkerFailure>,
    /// Looks at the table; each is answered at once.
    looks: u32,
    /// What a look shows.
    finding: Verification,
    /// The outstanding repair.
    restore: Option<Plan>,
    events: Vec<Event>,
    reniced: Vec<(u64, i32)>,
    /// Whose proportional memory was asked for, each time.
    measures: Vec<Vec<WorkerId>>,
    steps: Vec<Progress>,
    /// The counters of the seats were asked for.
    is_counting: bool,
    /// The generations whose release was to be prepared.
    prepared: Vec<u64>,
    /// Those whose hook after a reload was to run.
    followed: Vec<u64>,
    /// How often the preparation was to end.
    cancelled: u32,
    next_port: u16,
}

impl Bench {
    fn new(settings: Settings, in_force: Plan, start: Start) -> Self {
        Self {
            supervisor: Supervisor::new(settings, in_force, start).expect("a plan"),
            now: Timestamp::ZERO,
            commit: None,
            spawned: Vec::new(),
            terminated: Vec::new(),
            killed: Vec::new(),
            transferred: Vec::new(),
            closed: Vec::new(),
            told_to_retire: Vec::new(),
            retire_signals: Vec::new(),
            told_to_serve: Vec::new(),
            told_to_die: Vec::new(),
            replies: Vec::new(),
            removed: false,
            finished: false,
            start_failure: None,
            looks: 0,
            finding: Verification::Same,
            restore: None,
            events: Vec::new(),
            reniced: Vec::new(),
            measures: Vec::new(),
            steps: Vec::new(),
            is_counting: false,
            prepared: Vec::new(),
            followed: Vec::new(),
            cancelled: 0,
            next_port: 20_000,
        }
    }

    /// So many workers, started and live, each with a port and in the seat of its number, less 1.
    fn live(workers: u16) -> Self {
        Self::live_with(settings(workers), workers)
    }

    /// The same with other settings.
    fn live_with(settings: Settings, workers: u16) -> Self {
        let mut bench = Self::new(settings, vacant(workers), Start::Fresh);
        bench.input(Input::Start);
        for worker in 1..=u64::from(workers) {
            bench.ready(worker);
        }
        bench.commit_all();
        bench
    }

    /// The same on the slots of another partition.
    fn live_on(partition: Partition, workers: u16) -> Self {
        let plan = vacant(workers);
        let (name, listeners) = (plan.name().clone(), plan.listeners().clone());
        let plan = Plan::new(name, listeners, partition, &equal(workers), None).expect("a plan");
        let mut bench = Self::new(settings(workers), plan, Start::Fresh);
        bench.input(Input::Start);
        (1..=u64::from(workers)).for_each(|worker| bench.ready(worker));
        bench.commit_all();
        bench
    }

    fn input(&mut self, input: Input) {
        let looks = self.looks;
        self.step(input);
        if self.looks > looks {
            self.input(Input::Verified(self.finding.clone()));
        }
    }

    fn step(&mut self, input: Input) {
        for action in self.supervisor.step(input, self.now) {
            match action {
                Action::Spawn { worker, seat, generation } => {
                    self.spawned.push((worker, seat, generation));
                }
                Action::PrepareRelease { generation } => self.prepared.push(generation.0),
                Action::RunAfterReload { generation } => self.followed.push(generation.0),
                Action::CancelPreparation => self.cancelled += 1,
                Action::Commit(plan) => assert!(self.commit.replace(plan).is_none()),
                Action::OrderRetire { worker } => self.told_to_retire.push(worker.0),
                Action::TellRetired { worker, signals } => {
                    self.retire_signals.push((worker.0, signals.retire));
                }
                Action::TellServing { worker } => self.told_to_serve.push(worker.0),
                Action::OrderStop { worker } => self.told_to_die.push(worker.0),
                Action::Terminate { worker, .. } => self.terminated.push(worker),
                Action::Kill { worker, .. } => self.killed.push(worker),
                Action::TransferListeners { from, to } => self.transferred.push((from, to)),
                Action::CloseListeners { worker } => self.closed.push(worker),
                Action::Reply { outcome, .. } => self.replies.push(outcome),
                Action::Remove => self.removed = true,
                Action::FailStart(failure) => self.start_failure = Some(failure),
                Action::Finish => self.finished = true,
                Action::Verify => self.looks += 1,
                Action::CountConnections => self.is_counting = true,
                Action::Restore(plan) => assert!(self.restore.replace(plan).is_none()),
                Action::Emit(event) => self.events.push(event),
                Action::Renice { worker, nice } => self.reniced.push((worker.0, nice)),
                Action::RestoreNice { worker } => self.reniced.push((worker.0, 0)),
                Action::MeasureProportional { workers } => self.measures.push(workers),
                Action::Progress { step, .. } => self.steps.push(step),
            }
        }
    }

    /// Answers the spawn of a worker, which gets the next port.
    fn spawn(&mut self, worker: u64) {
        self.next_port += 1;
        self.spawn_with(worker, self.next_port);
    }

    fn spawn_with(&mut self, worker: u64, port: u16) {
        let ports: Arc<[Port]> = Port::new(port).into_iter().collect();
        self.input(Input::Spawned { worker: WorkerId(worker), pid: 100, ports });
    }

    fn ready(&mut self, worker: u64) {
        self.spawn(worker);
        self.input(Input::Ready { worker: WorkerId(worker) });
    }

    fn dies(&mut self, worker: u64, exit: Exit) {
        let last_lines = vec!["out of cheese".to_owned()];
        self.input(Input::Exited { worker: WorkerId(worker), exit, last_lines });
        self.input(Input::Reaped { worker: WorkerId(worker), left: 0 });
    }

    fn commit_done(&mut self) -> Plan {
        let plan = self.commit.take().expect("a commit is outstanding");
        self.input(Input::Committed { took: MILLISECOND });
        plan
    }

    fn commit_fails(&mut self) {
        self.commit.take().expect("a commit is outstanding");
        self.input(Input::CommitFailed { reason: "ENOMEM".to_owned() });
    }

    fn commit_all(&mut self) {
        while self.commit.is_some() {
            self.commit_done();
        }
    }

    fn request(&mut self, command: Command) {
        self.input(Input::Request(RequestId(0), command));
    }

    /// Sockets of a worker, as often as given.
    fn counts(&mut self, worker: u64, reports: &[Sockets]) {
        for &sockets in reports {
            self.input(Input::Connections { worker: WorkerId(worker), sockets });
        }
    }

    /// Time passes, with a tick at each deadline.
    fn pass(&mut self, span: Duration) {
        let end = self.now.after(span);
        while let Some(at) = self.supervisor.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.input(Input::Tick);
        }
        self.now = end;
    }

    /// The workers spawned since the last call, with their seats and generations.
    fn take_spawned(&mut self) -> Vec<(u64, u16, u64)> {
        self.spawned.drain(..).map(|(id, seat, generation)| (id.0, seat.0, generation.0)).collect()
    }

    fn take_terminated(&mut self) -> Vec<u64> {
        self.terminated.drain(..).map(|id| id.0).collect()
    }

    fn state(&self, worker: u64) -> Option<WorkerState> {
        let found = self.supervisor.workers().find(|w| w.id == WorkerId(worker));
        found.map(Worker::state)
    }

    /// The workers in force, by seat; 0 for a vacant one.
    fn in_force(&self) -> Vec<u64> {
        self.holders(self.supervisor.plan())
    }

    fn holders(&self, plan: &Plan) -> Vec<u64> {
        let holder = |occupant: &Occupant| {
            let mut workers = self.supervisor.workers();
            workers.find(|w| w.ports.as_ref() == Some(&occupant.ports)).map_or(u64::MAX, |w| w.id.0)
        };
        plan.seats().map(|(_, occupant)| occupant.map_or(0, holder)).collect()
    }

    fn last_reply(&self) -> &Result<Outcome, Refusal> {
        self.replies.last().expect("a reply")
    }
}

const NOBODY: [u64; 0] = [];
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const IDLE: Sockets = Sockets::NONE;
const SERVING: Sockets = Sockets { established: 1, ..IDLE };

/// A reload of all clients.
const RELOAD: Command = Command::Reload { share: None };

/// The outcome of a reload, whose transaction took the time of [`Bench::commit_done`].
fn reload_outcome(generation: u64, workers: u16) -> Outcome {
    let generation = Generation(generation);
    Outcome::Reloaded(Reloaded { generation, workers, swap_seconds: SWAP_SECONDS })
}

fn rollback_outcome(generation: u64, workers: u16) -> Outcome {
    let generation = Generation(generation);
    Outcome::RolledBack(RolledBack { generation, workers, swap_seconds: SWAP_SECONDS })
}

fn scale_outcome(workers: u16, moved_slots: u32, slots: u32) -> Outcome {
    Outcome::Scaled(Scaled { workers, moved_slots, slots })
}

fn clear_outcome(workers: u32) -> Outcome {
    Outcome::Cleared(Cleared { workers })
}

fn stop_outcome(workers: u32) -> Outcome {
    Outcome::Stopped(Stopped { workers, left: 0 })
}

const SWAP_SECONDS: f64 = 0.001;

fn settings(workers: u16) -> Settings {
    let (end_stagger, give_up) = (Duration::ZERO, None);
    // Probation and the preparation of releases are topics of files of their own.
    let (probation, prepares_releases) = (Duration::ZERO, false);
    let weights = equal(workers);
    Settings { weights, end_stagger, give_up, probation, prepares_releases, ..Settings::default() }
}

fn equal(workers: u16) -> Weights {
    Weights::equal(usize::from(workers)).expect("in range")
}

fn vacant(workers: u16) -> Plan {
    let listeners = Listeners::new(vec!["0.0.0.0:80".parse().expect("a listener")]);
    let partition = Partition::hash(64).expect("in range");
    let name = "web".parse().expect("a name");
    Plan::new(name, listeners.expect("one"), partition, &equal(workers), None).expect("a plan")
}

#[test]
fn events_of_strangers_and_answers_to_nothing_are_passed_over() {
    let mut bench = Bench::live(2);
    let worker = WorkerId(99);
    for input in [
        Input::Ready { worker },
        Input::Exited { worker, exit: Exit::Code(0), last_lines: vec![] },
        Input::Reaped { worker, left: 0 },
        Input::WentIntoBackground { worker, advice: String::new() },
        Input::SpawnFailed { worker, reason: String::new(), is_permanent: false },
        Input::Connections { worker, sockets: IDLE },
        Input::PortsReported { worker, ports: Arc::new([]) },
        Input::LinkOpened { worker, knows_retired: false },
        Input::LinkClosed { worker },
        Input::OrderUnanswered { worker },
        Input::Committed { took: MILLISECOND },
        Input::CommitFailed { reason: String::new() },
        Input::Verified(Verification::Differs { what: String::new() }),
        Input::Restored,
        Input::RestoreFailed { reason: String::new() },
    ] {
        assert_eq!(bench.supervisor.step(input.clone(), bench.now), [], "{input:?}");
    }
}
