//! The world around a supervisor: a clock, processes, a kernel, operators; and its faults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::process::Process;
use super::random::Random;
use crate::plan::{Generation, Listeners, Occupant, Partition, Plan, Port, Seat, Weights};
use crate::supervisor::{
    Action, Backoff, Event, Exit, Finding, Lack, Moment, Request, RequestId, Settings, Silence,
    Start, Supervisor, WorkerId, WorkerState, Writer,
};

/// Everything outside a supervisor, and what was seen of it so far.
pub(super) struct World {
    seed: u64,
    pub(super) random: Random,
    pub(super) now: Moment,
    pub(super) settings: Settings,
    pub(super) supervisor: Supervisor,
    /// How likely things go wrong, 0 to 100.
    pub(super) trouble: u64,
    agenda: BTreeMap<(Moment, u64), Happening>,
    scheduled: u64,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    next_port: u16,
    /// What is in force.
    pub(super) plan: Plan,
    pub(super) outstanding: Option<Plan>,
    /// Somebody else has changed the table, and it has not been made anew since.
    pub(super) is_damaged: bool,
    /// A look at the table, or its repair, is outstanding.
    pub(super) is_looking: bool,
    /// Failed commits since the last that succeeded, and when the last of them was known.
    pub(super) commit_failures: u32,
    pub(super) commit_failed_at: Moment,
    pub(super) requests: BTreeMap<RequestId, Asked>,
    pub(super) stop: Option<StopSeen>,
    pub(super) removed: bool,
    pub(super) finished: bool,
    pub(super) steps: u64,
    /// Every event and action, if somebody wants to read them.
    pub(super) journal: Option<Vec<String>>,
}

/// A request and its answer.
pub(super) struct Asked {
    pub(super) request: Request,
    /// The generation in force when it was made.
    pub(super) generation: Generation,
    pub(super) answered: bool,
}

/// A stop that was asked for.
#[derive(Default)]
pub(super) struct StopSeen {
    pub(super) at_once: bool,
    /// Commits that failed since.
    pub(super) commit_failures: u32,
}

#[derive(Debug)]
enum Happening {
    SpawnDone(WorkerId),
    Listens(WorkerId),
    Dies(WorkerId, Exit),
    Hangs(WorkerId),
    Recovers(WorkerId),
    SaysItStops(WorkerId),
    Asks(WorkerId),
    Lacks(WorkerId, Lack),
    DeathIsSeen(WorkerId, Exit),
    CommitDone { fails: bool },
    CommitAnswer { failed: bool },
    Damage,
    DamageIsSeen { lost: bool },
    LookDone,
    RestoreDone { fails: bool },
    Poll(WorkerId),
    Ask(Request),
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mask = random.percent(20);
        let workers = if mask { random.choose(&[1, 2, 4, 8]) } else { 1 + random.below(6) };
        let settings = Settings {
            weights: Weights::equal(usize::try_from(workers).expect("small")).expect("in range"),
            ready: Duration::from_secs(5),
            drain: random.choose(&[None, Some(Duration::from_secs(3))]),
            settle: Duration::from_secs(2),
            ping: Duration::from_secs(3),
            die: Duration::from_secs(2),
            steady: Duration::from_secs(10),
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(30) },
            stagger: random.choose(&[Duration::ZERO, Duration::from_millis(100)]),
        };
        let start = random.choose(&[Start::Fresh, Start::Fresh, Start::Takeover]);
        let plan = initial_plan(&mut random, mask, start, &settings.weights);
        Self {
            seed,
            now: Moment::START,
            supervisor: Supervisor::new(settings.clone(), plan.clone(), start).expect("a plan"),
            settings,
            trouble: random.choose(&[0, 10, 40, 100]),
            random,
            agenda: BTreeMap::new(),
            scheduled: 0,
            processes: BTreeMap::new(),
            next_port: 20_000,
            plan,
            outstanding: None,
            is_damaged: false,
            is_looking: false,
            commit_failures: 0,
            commit_failed_at: Moment::START,
            requests: BTreeMap::new(),
            stop: None,
            removed: false,
            finished: false,
            steps: 0,
            journal: None,
        }
    }

    pub(super) fn start(&mut self) {
        self.deliver(Event::Start);
    }

    /// Puts requests on the agenda of the next `span`.
    pub(super) fn plan_requests(&mut self, count: u64, span: Duration) {
        let limit = u64::try_from(span.as_millis()).expect("short");
        for _ in 0..count {
            let delay = self.random.millis(0..limit);
            self.plan_request(delay);
        }
    }

    /// Has others damage the table `count` times in the next `span`.
    pub(super) fn plan_damage(&mut self, count: u64, span: Duration) {
        let limit = u64::try_from(span.as_millis()).expect("short");
        for _ in 0..count {
            let delay = self.random.millis(0..limit);
            self.schedule(delay, Happening::Damage);
        }
    }

    fn plan_request(&mut self, delay: Duration) {
        let request = match self.random.below(20) {
            0..9 => Request::Reload,
            9..18 => {
                Request::Scale { workers: u16::try_from(self.random.below(9)).expect("small") }
            }
            _ => Request::Stop { now: self.random.percent(50) },
        };
        self.schedule(delay, Happening::Ask(request));
    }

    pub(super) fn ask(&mut self, request: Request) {
        self.happen(Happening::Ask(request));
    }

    /// Lets `span` pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        while !self.finished {
            let next = self.agenda.keys().next().map(|(at, _)| *at);
            let tick = self.supervisor.deadline();
            let Some(at) = [next, tick].into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            self.now = at;
            if tick == Some(at) {
                let actions = self.deliver(Event::Tick);
                assert!(actions > 0, "a tick at the deadline was of no use");
            } else {
                let (_, happening) = self.agenda.pop_first().expect("there is a next one");
                self.happen(happening);
            }
        }
        self.now = self.now.max(end);
    }

    pub(super) fn is_alive(&self, id: WorkerId) -> bool {
        self.processes.get(&id).is_some_and(|process| !process.dead)
    }

    /// The worker with these ports; `None` if it is one of an earlier master, or forgotten.
    pub(super) fn worker_with(&self, occupant: &Occupant) -> Option<WorkerId> {
        let has = |process: &Process| process.ports == occupant.ports;
        self.processes.iter().find(|(_, process)| has(process)).map(|(id, _)| *id)
    }

    pub(super) fn state_of(&self, id: WorkerId) -> Option<WorkerState> {
        self.supervisor.workers().find(|worker| worker.id == id).map(|worker| worker.state())
    }

    fn schedule(&mut self, delay: Duration, happening: Happening) {
        self.scheduled += 1;
        self.agenda.insert((self.now.after(delay), self.scheduled), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::SpawnDone(id) => self.spawn_done(id),
            Happening::Listens(id) => self.listens(id),
            Happening::Dies(id, exit) => self.dies(id, exit),
            Happening::Hangs(id) => self.hangs(id),
            Happening::Recovers(id) => self.recovers(id),
            Happening::SaysItStops(id) => self.says_it_stops(id),
            Happening::Asks(worker) => {
                let span = self.random.millis(0..5_000);
                self.deliver(Event::AskedForTime { worker, span });
            }
            Happening::Lacks(worker, lack) => {
                self.deliver(Event::Lacks { worker, lack });
            }
            Happening::DeathIsSeen(worker, exit) => {
                self.processes.remove(&worker);
                let last_lines = vec!["bye".to_owned()];
                self.deliver(Event::Exited { worker, exit, last_lines });
            }
            Happening::CommitDone { fails } => self.commit_done(fails),
            Happening::Damage => self.damage(),
            Happening::DamageIsSeen { lost: true } => {
                self.deliver(Event::NotificationsLost);
            }
            Happening::DamageIsSeen { lost: false } => {
                let writer = Some(Writer { pid: 99, name: "nft".to_owned() });
                self.deliver(Event::TableTouched { writer });
            }
            Happening::LookDone => self.look_done(),
            Happening::RestoreDone { fails } => self.restore_done(fails),
            Happening::CommitAnswer { failed } => self.commit_answer(failed),
            Happening::Poll(id) => self.poll(id),
            Happening::Ask(request) => self.make_request(request),
        }
    }

    fn goes_wrong(&mut self, chance: u64) -> bool {
        let trouble = self.trouble;
        self.random.percent(trouble) && self.random.percent(chance)
    }

    fn spawn_done(&mut self, worker: WorkerId) {
        if self.goes_wrong(10) {
            self.processes.remove(&worker);
            self.deliver(Event::SpawnFailed { worker, reason: "fork: EAGAIN".to_owned() });
            return;
        }
        let (port, unfit) = if self.goes_wrong(4) { (80, true) } else { (self.next_port, false) };
        self.next_port += 1;
        let stubborn = self.goes_wrong(20);
        let ports = Port::new(port).into_iter().collect();
        let process = self.processes.get_mut(&worker).expect("it was asked for");
        (process.ports, process.unfit, process.stubborn) = (ports, unfit, stubborn);
        let ports = process.ports.clone();
        let pid = u32::try_from(worker.0).expect("small");
        self.plan_life(worker);
        self.deliver(Event::Spawned { worker, pid, ports });
    }

    /// When the process will listen and when it will die, if ever.
    fn plan_life(&mut self, worker: WorkerId) {
        let mut boot = self.random.millis(5..800);
        if self.goes_wrong(20) {
            boot = self.random.millis(800..8_000);
        }
        if !self.goes_wrong(10) {
            self.schedule(boot, Happening::Listens(worker));
        }
        if self.goes_wrong(10) {
            let early = self.random.millis(0..1_000);
            self.schedule(early, Happening::Dies(worker, Exit::Code(1)));
        } else if self.goes_wrong(60) {
            let late = self.random.millis(0..60_000);
            self.schedule(late, Happening::Dies(worker, Exit::Signal(11)));
        }
        for happening in [Happening::Asks(worker), Happening::Lacks(worker, Lack::Proof)] {
            if self.goes_wrong(20) {
                let when = self.random.millis(0..3_000);
                self.schedule(when, happening);
            }
        }
        if self.goes_wrong(50) {
            let when = self.random.millis(0..30_000);
            self.schedule(when, Happening::Hangs(worker));
        }
        if self.goes_wrong(10) {
            let when = self.random.millis(0..30_000);
            self.schedule(when, Happening::SaysItStops(worker));
        }
    }

    /// A worker falls silent, for a moment or for long, perhaps again and again.
    fn hangs(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        // The master looks at those alone that are ready; what it has seen may come late.
        if process.ready && !process.dead {
            process.silent = true;
            self.deliver(Event::Silent { worker, cause: Silence::Stopped });
        }
        let end = if self.goes_wrong(50) { 2_000 } else { 25_000 };
        let delay = self.random.millis(0..end);
        self.schedule(delay, Happening::Recovers(worker));
    }

    fn recovers(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if process.silent && !process.dead {
            process.silent = false;
            process.answered_at = Some(now);
            self.deliver(Event::Answered { worker });
        }
        if self.goes_wrong(60) {
            let pause = self.random.millis(0..8_000);
            self.schedule(pause, Happening::Hangs(worker));
        }
    }

    fn says_it_stops(&mut self, worker: WorkerId) {
        if self.is_alive(worker) {
            if self.stop.is_none() {
                self.processes.get_mut(&worker).expect("it is alive").stops = true;
            }
            self.deliver(Event::Stops { worker });
            let delay = self.random.millis(0..5_000);
            self.schedule(delay, Happening::Dies(worker, Exit::Code(0)));
        }
    }

    fn listens(&mut self, worker: WorkerId) {
        if self.is_alive(worker) {
            self.processes.get_mut(&worker).expect("it is alive").ready = true;
            self.deliver(Event::Ready { worker });
        }
    }

    fn dies(&mut self, worker: WorkerId, exit: Exit) {
        if let Some(process) = self.processes.get_mut(&worker).filter(|process| !process.dead) {
            process.dead = true;
            let delay = self.random.millis(0..20);
            self.schedule(delay, Happening::DeathIsSeen(worker, exit));
        }
    }

    fn commit_done(&mut self, fails: bool) {
        if !fails {
            self.plan = self.outstanding.clone().expect("a commit is outstanding");
            self.note_named_workers();
        }
        let delay = self.random.millis(0..10);
        self.schedule(delay, Happening::CommitAnswer { failed: fails });
    }

    /// Somebody deletes something in our table, whatever else is under way.
    fn damage(&mut self) {
        if !self.removed {
            self.is_damaged = true;
            let delay = self.random.millis(0..20);
            let lost = self.random.percent(20);
            self.schedule(delay, Happening::DamageIsSeen { lost });
        }
    }

    fn look_done(&mut self) {
        self.is_looking = false;
        let fails = self.goes_wrong(10);
        let finding = match self.is_damaged {
            _ if fails => Finding::Unreadable { reason: "interrupted".to_owned() },
            true => Finding::Differs { what: "chain seat_0".to_owned() },
            false => Finding::Same,
        };
        self.deliver(Event::Verified(finding));
    }

    fn restore_done(&mut self, fails: bool) {
        self.is_looking = false;
        if fails {
            self.deliver(Event::RestoreFailed { reason: "ENOMEM".to_owned() });
        } else {
            self.is_damaged = false;
            self.deliver(Event::Restored);
        }
    }

    fn note_named_workers(&mut self) {
        let named: Vec<WorkerId> = match self.plan.is_admitting() {
            true => self.occupants().filter_map(|o| self.worker_with(o)).collect(),
            false => Vec::new(),
        };
        for (id, process) in &mut self.processes {
            if named.contains(id) {
                process.was_named = true;
                process.left_at = None;
            }
        }
    }

    /// Since when a worker drains. One that was left out of the plan because it is silent does not.
    fn note_retired_workers(&mut self) {
        for worker in self.supervisor.workers() {
            if worker.state() == WorkerState::Retired
                && let Some(process) = self.processes.get_mut(&worker.id)
            {
                process.left_at.get_or_insert(self.now);
            }
        }
    }

    pub(super) fn occupants(&self) -> impl Iterator<Item = &Occupant> {
        self.plan.seats().filter_map(|(_, occupant)| occupant)
    }

    fn commit_answer(&mut self, failed: bool) {
        self.outstanding = None;
        if failed {
            self.commit_failures += 1;
            self.commit_failed_at = self.now;
            if let Some(stop) = &mut self.stop {
                stop.commit_failures += 1;
            }
            self.deliver(Event::CommitFailed { reason: "ENOMEM".to_owned() });
        } else {
            self.commit_failures = 0;
            self.deliver(Event::Committed);
        }
    }

    fn poll(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        process.polled = false;
        if !process.dead {
            let sockets = process.work(&mut self.random);
            self.deliver(Event::Connections { worker, sockets });
        }
    }

    fn make_request(&mut self, request: Request) {
        let id = RequestId(self.requests.len() as u64);
        let generation = self.plan.generation();
        self.requests.insert(id, Asked { request, generation, answered: false });
        if let Request::Stop { now } = request {
            self.stop.get_or_insert_default().at_once |= now;
        }
        self.deliver(Event::Request(id, request));
    }

    /// Tells the supervisor and does what it wants. Returns how many actions that were.
    fn deliver(&mut self, event: Event) -> usize {
        self.steps += 1;
        self.note(|now| format!("{:>9.3?}  {event:?}", now.0));
        let actions = self.supervisor.step(event, self.now);
        let count = actions.len();
        self.note_retired_workers();
        for action in actions {
            self.note(|_| format!("               -> {}", brief(&action)));
            self.check_action(&action);
            self.act(action);
        }
        self.check_state();
        self.schedule_polls();
        count
    }

    fn note(&mut self, line: impl FnOnce(Moment) -> String) {
        if let Some(journal) = &mut self.journal {
            journal.push(line(self.now));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, seat, .. } => {
                self.processes.insert(worker, Process::new(seat, &mut self.random));
                let delay = self.random.millis(0..30);
                self.schedule(delay, Happening::SpawnDone(worker));
            }
            Action::Commit(plan) => {
                self.outstanding = Some(plan);
                let fails = self.goes_wrong(30);
                let delay = self.random.millis(0..30);
                self.schedule(delay, Happening::CommitDone { fails });
                if self.goes_wrong(5) {
                    self.plan_request(delay);
                }
            }
            Action::Verify => {
                self.is_looking = true;
                let delay = self.random.millis(0..10);
                self.schedule(delay, Happening::LookDone);
            }
            Action::Restore(_) => {
                self.is_looking = true;
                let fails = self.goes_wrong(30);
                let delay = self.random.millis(0..10);
                self.schedule(delay, Happening::RestoreDone { fails });
            }
            Action::Terminate { worker } => self.signal(worker, Exit::Signal(15)),
            Action::Kill { worker } => self.signal(worker, Exit::Signal(9)),
            Action::Reply { request, .. } => {
                self.requests.get_mut(&request).expect("a known request").answered = true;
            }
            Action::Remove => self.removed = true,
            Action::Finish => self.finished = true,
            Action::Progress { .. } | Action::Notice(_) => {}
        }
    }

    fn signal(&mut self, worker: WorkerId, exit: Exit) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        process.signalled = true;
        if exit == Exit::Signal(9) || !process.stubborn {
            let delay = self.random.millis(0..1_500);
            self.schedule(delay, Happening::Dies(worker, exit));
        }
    }

    fn schedule_polls(&mut self) {
        let retired: Vec<WorkerId> = self
            .supervisor
            .workers()
            .filter(|worker| worker.state() == WorkerState::Retired)
            .map(|worker| worker.id)
            .collect();
        for id in retired {
            let delay = self.random.millis(50..300);
            if let Some(process) = self.processes.get_mut(&id).filter(|process| !process.polled) {
                process.polled = true;
                self.schedule(delay, Happening::Poll(id));
            }
        }
    }
}

impl Drop for World {
    /// Tells how to see a failed history again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.journal.iter().flatten().cloned().collect::<Vec<_>>().join("\n"));
            println!("this was history {}: see it with IPCLUSTER_SIM_SEED={0}", self.seed);
        }
    }
}

fn initial_plan(random: &mut Random, mask: bool, start: Start, weights: &Weights) -> Plan {
    let listeners = Listeners::new(vec!["0.0.0.0:80".parse().expect("a listener")]);
    let before = match start {
        Start::Fresh => weights.seats(),
        Start::Takeover if mask => random.choose(&[1, 2, 4]),
        Start::Takeover => random.choose(&[1, 2, 3, 4, 5]),
    };
    let partition = match mask {
        true => Partition::mask(u32::try_from(before).expect("small")),
        false => Partition::hash(random.choose(&[8, 16, 37])),
    };
    let mut plan = Plan::new(
        "sim".parse().expect("a name"),
        listeners.expect("listeners"),
        partition.expect("a partition"),
        &Weights::equal(before).expect("in range"),
        None,
    )
    .expect("a plan");
    if start == Start::Takeover {
        plan.set_generation(Generation(7));
        for seat in (0..u16::try_from(before).expect("small")).map(Seat) {
            let ports = Port::new(10_000 + seat.0).into_iter().collect();
            plan.occupy(seat, Occupant { generation: Generation(7), ports }).expect("free ports");
        }
    }
    plan
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
        Action::Notice(notice) => format!("\"{notice}\""),
        other => format!("{other:?}"),
    }
}
