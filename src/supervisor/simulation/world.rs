//! The world around a supervisor: a clock, an agenda, processes and the table in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::process::{Pid, Process};
use super::random::Random;
use super::sabotage::Sabotage;
use super::topic::{TOPICS, Topic};
use super::{
    canary, configuration, crash, end_signals, guard, held, kernel, links, operators, policy,
    probation, release, time,
};
use crate::plan::{Engine, Generation, Listeners, Occupant, Partition, Plan, Port, Seat, Weights};
use crate::protocol::{Backoff, Timestamp, WorkerId, WorkerState};
use crate::supervisor::{Action, Input, Settings, Start, Supervisor, Worker};

/// Everything outside a supervisor, and what was seen of it so far.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Timestamp,
    pub(super) settings: Settings,
    /// The master in office; `None` between a crash and the next master.
    pub(super) supervisor: Option<Supervisor>,
    /// How many masters there were before this one.
    pub(super) reign: u32,
    /// How likely things go wrong, 0 to 100.
    pub(super) trouble: u64,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    scheduled: u64,
    pub(super) processes: BTreeMap<Pid, Process>,
    next_pid: u32,
    pub(super) next_port: u16,
    /// What is in force.
    pub(super) plan: Plan,
    /// Workers that have ended and left processes, as the master in office knows.
    pub(super) unreaped: BTreeSet<WorkerId>,
    /// Each fifth history has retired workers end whose connections are silent.
    looks_for_silence: bool,
    pub(super) removed: bool,
    pub(super) finished: bool,
    /// Events that were told to a supervisor.
    pub(super) inputs: u64,
    pub(super) kernel: kernel::State,
    pub(super) guard: guard::State,
    pub(super) operators: operators::State,
    pub(super) policy: policy::State,
    pub(super) time: time::State,
    pub(super) crash: crash::State,
    pub(super) canary: canary::State,
    pub(super) probation: probation::State,
    pub(super) held: held::State,
    pub(super) links: links::State,
    pub(super) release: release::State,
    pub(super) configuration: configuration::State,
    pub(super) sabotage: Option<Sabotage>,
    /// Every event and action, if somebody wants to read them.
    pub(super) journal: Option<Vec<String>>,
}

/// How long after a worker's retirement those clients count: `retirement.rs` tells why.
const COME_BACK: Duration = Duration::from_secs(60);

/// What happens at a moment of the agenda.
type Happening = Box<dyn FnOnce(&mut World)>;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mask = random.percent(20);
        let workers = if mask { random.choose(&[1, 2, 4, 8]) } else { 1 + random.below(6) };
        let stagger = random.choose(&[Duration::ZERO, Duration::from_millis(100)]);
        let settings = Settings {
            weights: Weights::equal(usize::try_from(workers).expect("small")).expect("in range"),
            ready: Duration::from_secs(5),
            drain: random.choose(&[None, Some(Duration::from_secs(3))]),
            settle: Duration::from_secs(2),
            ping: Duration::from_secs(3),
            rollback: random.choose(&[Duration::ZERO, Duration::from_secs(2)]),
            probation: probation::length(seed),
            max_failures: probation::max_failures(seed),
            die: Duration::from_secs(2),
            signals: end_signals::settings(seed),
            steady: Duration::from_secs(10),
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(30) },
            stagger,
            end_stagger: stagger,
            parallel: if seed % 8 < 2 {
                1 + usize::from(seed.is_multiple_of(8))
            } else {
                usize::MAX
            },
            // Parity has the engine: see below.
            prepares_releases: seed % 4 < 2,
            holds_listeners: random.percent(50) || wanted_engine() == Some(Engine::Tproxy),
            ..policy::settings(&mut random)
        };
        let start = random.choose(&[Start::Fresh, Start::Fresh, Start::FromKernel]);
        let mut plan = initial_plan(&mut random, mask, start, &settings.weights);
        plan.set_engine(engine(seed, &settings)).expect("no udp");
        let range = "1000-65535".parse().expect("a range");
        plan.set_guard((!seed.is_multiple_of(3)).then_some(range)).expect("no public port");
        let mut world = Self {
            now: Timestamp::ZERO,
            supervisor: Supervisor::new(settings.clone(), plan.clone(), start).ok(),
            reign: 0,
            settings,
            trouble: random.choose(&[0, 10, 40, 100]),
            random,
            agenda: BTreeMap::new(),
            scheduled: 0,
            processes: BTreeMap::new(),
            next_pid: 100,
            next_port: 20_000,
            configuration: configuration::State::new(seed, &plan),
            plan,
            unreaped: BTreeSet::new(),
            looks_for_silence: seed.is_multiple_of(5),
            removed: false,
            finished: false,
            inputs: 0,
            kernel: kernel::State::default(),
            guard: guard::State::default(),
            operators: operators::State::default(),
            policy: policy::State::default(),
            time: time::State::default(),
            crash: crash::State::default(),
            canary: canary::State::default(),
            probation: probation::State::default(),
            held: held::State::default(),
            links: links::State::default(),
            release: release::State::default(),
            sabotage: None,
            journal: None,
        };
        if start == Start::FromKernel {
            world.people();
        }
        world
    }

    /// Fills the seats with workers of a master before the first one.
    fn people(&mut self) {
        self.plan.set_generation(Generation(7));
        let seats: Vec<Seat> = self.plan.seats().map(|(seat, _)| seat).collect();
        for seat in seats {
            let generation = self.plan.generation();
            let pid = self.add_process(None, seat);
            let ports = Port::new(10_000 + seat.0).into_iter().collect();
            let process = self.processes.get_mut(&pid).expect("just added");
            (process.ports, process.listens, process.was_named) = (ports, true, true);
            let occupant = Occupant { generation, ports: process.ports.clone() };
            self.plan.occupy(seat, occupant).expect("free ports");
        }
        let (settings, plan) = (self.settings.clone(), self.plan.clone());
        self.supervisor = Supervisor::new(settings, plan, Start::FromKernel).ok();
    }

    pub(super) fn start(&mut self) {
        assert!(self.supervisor.is_some(), "a plan");
        TOPICS.iter().for_each(|topic| (topic.begin)(self));
        self.deliver(Input::Start);
    }

    /// Lets time pass until `span` is over, not counting jumps of the clock, or `inputs` have been told.
    pub(super) fn run(&mut self, span: Duration, inputs: u64) {
        let (begin, jumped) = (self.now, self.time.jumped);
        let last = self.inputs.saturating_add(inputs);
        while !self.finished && self.inputs < last {
            let end = begin.after(span + self.time.jumped - jumped);
            let next = self.agenda.keys().next().map(|(at, _)| *at);
            let tick = self.supervisor.as_ref().and_then(Supervisor::deadline);
            let Some(at) = [next, tick].into_iter().flatten().min().filter(|at| *at <= end) else {
                self.now = self.now.max(end);
                return;
            };
            // The clock may have jumped over moments of the agenda: they come late then.
            self.now = self.now.max(at);
            if tick == Some(at) {
                let actions = self.deliver(Input::Tick);
                assert!(actions > 0, "a tick at the deadline was of no use");
            } else {
                let (_, happening) = self.agenda.pop_first().expect("there is a next one");
                happening(self);
            }
        }
    }

    /// Puts something on the agenda.
    pub(super) fn schedule(
        &mut self,
        delay: Duration,
        happening: impl FnOnce(&mut Self) + 'static,
    ) {
        self.scheduled += 1;
        let at = self.now.after(delay);
        self.agenda.insert((at, self.scheduled), Box::new(happening));
    }

    /// Puts something on the agenda that a master does or hears: nothing comes of it if that master
    /// is gone by then.
    pub(super) fn schedule_for_master(
        &mut self,
        delay: Duration,
        happening: impl FnOnce(&mut Self) + 'static,
    ) {
        let reign = self.reign;
        self.schedule(delay, move |world| {
            if world.reign == reign && world.supervisor.is_some() {
                happening(world);
            }
        });
    }

    /// A moment from now to the end of the time in which things go wrong.
    pub(super) fn some_time(&mut self) -> Duration {
        let limit = u64::try_from(super::TROUBLED.as_millis()).expect("short");
        self.random.millis(0..limit)
    }

    /// Whether something goes wrong that does so `chance` times of a hundred where there is most
    /// trouble.
    pub(super) fn goes_wrong(&mut self, chance: u64) -> bool {
        let trouble = self.trouble;
        self.random.percent(trouble) && self.random.percent(chance)
    }

    /// Tells the supervisor and does what it wants. Returns how many actions that were.
    pub(super) fn deliver(&mut self, input: Input) -> usize {
        let Some(mut supervisor) = self.supervisor.take() else { return 0 };
        self.inputs += 1;
        self.note(|now| format!("{:>9.3?}  {input:?}", now.0));
        let mut actions = supervisor.step(input, self.now);
        if let Some(mut sabotage) = self.sabotage.take() {
            sabotage.spoil(self, &mut supervisor, &mut actions);
            self.sabotage = Some(sabotage);
        }
        self.supervisor = Some(supervisor);
        let count = actions.len();
        for action in actions {
            self.note(|_| format!("               -> {}", brief(&action)));
            let topics: &[Topic] = match guard::is_of_guard_alone(self, &action) {
                // Nobody's clients go elsewhere, so that what must hold of such a commit does not count.
                true => &[guard::TOPIC, kernel::TOPIC],
                false => TOPICS,
            };
            topics.iter().for_each(|topic| (topic.check_action)(self, &action));
            TOPICS.iter().for_each(|topic| (topic.act)(self, &action));
        }
        TOPICS.iter().for_each(|topic| (topic.check_state)(self));
        self.schedule_polls();
        TOPICS.iter().for_each(|topic| (topic.follow)(self));
        count
    }

    /// Tells the supervisor something of a process, if it knows it.
    pub(super) fn tell_of(&mut self, pid: Pid, input: impl FnOnce(WorkerId) -> Input) {
        if let Some(worker) = self.processes.get(&pid).and_then(|process| process.worker) {
            self.deliver(input(worker));
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce(Timestamp) -> String) {
        if let Some(journal) = &mut self.journal {
            journal.push(line(self.now));
        }
    }

    /// The workers that the master in office knows.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.supervisor.iter().flat_map(Supervisor::workers)
    }

    pub(super) fn state_of(&self, pid: Pid) -> Option<WorkerState> {
        let id = self.processes.get(&pid)?.worker?;
        self.workers().find(|worker| worker.id == id).map(Worker::state)
    }

    /// The processes that the master in office manages.
    pub(super) fn managed(&self) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(|process| process.worker.is_some())
    }

    pub(super) fn pid_of(&self, worker: WorkerId) -> Option<Pid> {
        self.processes.iter().find(|(_, it)| it.worker == Some(worker)).map(|(pid, _)| *pid)
    }

    pub(super) fn process_of(&self, worker: WorkerId) -> Option<&Process> {
        self.processes.values().find(|process| process.worker == Some(worker))
    }

    /// The process with these ports; `None` if its end has been seen.
    pub(super) fn pid_with(&self, occupant: &Occupant) -> Option<Pid> {
        let has = |process: &Process| process.ports == occupant.ports;
        self.processes.iter().find(|(_, process)| has(process)).map(|(pid, _)| *pid)
    }

    /// Whether it is a worker of an earlier master.
    pub(super) fn is_foreign(&self, occupant: &Occupant) -> bool {
        let holder = self.pid_with(occupant).map(|pid| &self.processes[&pid]);
        holder.is_some_and(|process| process.worker.is_none())
    }

    pub(super) fn occupants(&self) -> impl Iterator<Item = &Occupant> {
        self.plan.seats().filter_map(|(_, occupant)| occupant)
    }

    pub(super) fn add_process(&mut self, worker: Option<WorkerId>, seat: Seat) -> Pid {
        let pid = Pid(self.next_pid);
        self.next_pid += 1;
        let mut process = Process::new(worker, seat, &mut self.random);
        process.is_looked_at_for_silence = self.looks_for_silence;
        self.processes.insert(pid, process);
        pid
    }

    /// Another plan is in force.
    pub(super) fn put_in_force(&mut self, plan: Plan) {
        self.plan = plan;
        self.note_named();
    }

    /// Takes note of whom the plan in force names.
    pub(super) fn note_named(&mut self) {
        let named: Vec<Pid> = match self.plan.is_admitting() {
            true => self.occupants().filter_map(|o| self.pid_with(o)).collect(),
            false => Vec::new(),
        };
        for (pid, process) in &mut self.processes {
            if named.contains(pid) && process.takes_clients() {
                process.was_named = true;
                process.left_at = None;
                process.quiet_reports = 0;
                (process.was_quiet, process.knows_retired) = (false, false);
            } else if process.was_named && !process.may_be_aside(self.now) {
                process.left_at.get_or_insert(self.now);
            }
        }
    }

    fn schedule_polls(&mut self) {
        self.schedule_polls_of_left();
        let retired: Vec<Pid> = self
            .workers()
            .filter(|worker| worker.state() == WorkerState::Retired)
            .filter_map(|worker| self.pid_of(worker.id))
            .collect();
        for pid in retired {
            let delay = self.random.millis(50..300);
            if let Some(process) = self.processes.get_mut(&pid).filter(|process| !process.polled) {
                process.polled = true;
                self.schedule(delay, move |world| world.poll(pid));
            }
        }
    }

    fn poll(&mut self, pid: Pid) {
        if self.goes_wrong(25) {
            let delay = self.random.millis(50..3_000);
            self.schedule(delay, move |world| world.poll(pid));
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.polled = false;
        let now = self.now;
        process.is_late = process.left_at.is_some_and(|at| now.since(at) >= COME_BACK);
        if process.is_alive() {
            let sockets = process.work(&mut self.random, self.plan.engine());
            self.tell_of(pid, |worker| Input::Connections { worker, sockets });
        }
    }
}

impl Drop for World {
    /// Tells what led to a failure.
    fn drop(&mut self) {
        if let Some(journal) = self.journal.as_ref().filter(|_| std::thread::panicking()) {
            println!("{}", journal.join("\n"));
        }
    }
}

/// What `IPCLUSTER_SIM_ENGINE` says, if it is set.
fn wanted_engine() -> Option<Engine> {
    let wanted = std::env::var("IPCLUSTER_SIM_ENGINE").ok();
    wanted.map(|engine| engine.parse().expect("the name of an engine"))
}

/// That, or each in turn: the one that needs the sockets of the master only where it holds them.
fn engine(seed: u64, settings: &Settings) -> Engine {
    let in_turn = if seed.is_multiple_of(2) { Engine::Redirect } else { Engine::Tproxy };
    if settings.holds_listeners { wanted_engine().unwrap_or(in_turn) } else { Engine::Redirect }
}

fn initial_plan(random: &mut Random, mask: bool, start: Start, weights: &Weights) -> Plan {
    let listeners = Listeners::new(vec!["0.0.0.0:80".parse().expect("a listener")]);
    let before = match start {
        Start::Fresh => weights.seats(),
        Start::FromKernel if mask => random.choose(&[1, 2, 4]),
        Start::FromKernel => random.choose(&[1, 2, 3, 4, 5]),
    };
    let partition = match mask {
        true => Partition::mask(u32::try_from(before).expect("small")),
        false => Partition::hash(random.choose(&[8, 16, 37])),
    };
    Plan::new(
        "sim".parse().expect("a name"),
        listeners.expect("listeners"),
        partition.expect("a partition"),
        &Weights::equal(before).expect("in range"),
        None,
    )
    .expect("a plan")
}

fn brief(action: &Action) -> String {
    match action {
        Action::Commit(plan) => {
            let seats: Vec<String> = plan
                .seats()
                .map(|(_, o)| o.map_or("-".to_owned(), |o| o.ports[0].to_string()))
                .collect();
            let open = if plan.is_admitting() { "" } else { " closed" };
            format!("Commit generation {}{open} {}", plan.generation(), seats.join(" "))
        }
        Action::Emit(event) => format!("\"{event}\""),
        other => format!("{other:?}"),
    }
}
