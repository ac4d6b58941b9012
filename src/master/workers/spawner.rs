//! The thread that starts workers: looking for free ports and `fork` take time, which the loop does
//! not have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::config_copies::ConfigCopyError;
use super::hooks::{Hook, HookKind, Preparation};
use super::numbers::WorkerNumbers;
use super::release::{HookWords, Release, ReleaseError, RunningRelease};
use super::template::{ConfigTemplate, HookTemplates, SpawnRequest, StartDirectory, Template};
use super::values::{ToldValues, WorkerValues};
use crate::master::error::MasterError;
use crate::master::log_limit::LogLimiter;
use crate::master::waiting::receive;
use crate::master::workers::fingerprint::WorkerLabel;
use crate::master::workers::listeners::{ListenerSet, ListenerTemplate};
use crate::master::workers::port_claims::PortClaims;
use crate::netlink::Errno;
use crate::nft::Conntrack;
use crate::plan::{Generation, Listeners, Port};
use crate::process::{
    Child, ListenTable, Output, OutputReader, PortPool, ProcessError, ProcessIdentity, Sockets,
    Spawn, Transport, reap_orphans,
};
use crate::protocol::WorkerId;

/// A worker that was started.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) generation: Generation,
    pub(crate) output: OutputReader,
    pub(crate) ports: Arc<[Port]>,
    /// What its ports are for.
    pub(crate) listeners: Arc<Listeners>,
    /// What it was told of itself beside that.
    pub(crate) told: ToldValues,
    /// The listening sockets that the worker was started with.
    pub(crate) sockets: Option<Arc<ListenerSet>>,
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    ConfigCopy(#[from] ConfigCopyError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// A new generation whose workers can be started when its hook has succeeded, or why they cannot.
pub(crate) struct Prepared {
    /// Which request is answered.
    pub(crate) preparation: Preparation,
    pub(crate) generation: Generation,
    pub(crate) result: Result<Option<Box<Hook>>, SpawnError>,
}

/// What came of a request.
pub(crate) enum SpawnerOutcome {
    Spawned(SpawnOutcome),
    Prepared(Prepared),
    /// The hook that runs after a reload, if there is one and it can be started.
    AfterReload(Box<Hook>),
}

impl SpawnError {
    /// Whether the program cannot be run until somebody has mended something.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Process(error) => error.is_permanent(),
            Self::ConfigCopy(_) => false,
            Self::Release(_) => true,
        }
    }
}

/// The worker that was started on request, or why it could not be.
pub(crate) struct SpawnOutcome {
    pub(crate) worker: WorkerId,
    pub(crate) result: Result<Box<Started>, SpawnError>,
}

enum Message {
    Start(SpawnRequest),
    /// A generation begins, whose workers are started with this.
    Prepare(Preparation, Generation, Arc<Template>),
    /// A generation is in force.
    AfterReload(Generation),
    /// A worker of an earlier master, of this generation, has these ports, and was told this.
    Hold(WorkerId, Generation, Arc<[Port]>, ToldValues),
    /// All workers of an earlier master are held.
    Held,
    /// The worker's processes are gone.
    Ended(WorkerId),
    /// No worker is left, and none will be started.
    Stopped,
    /// The worker's processes are gone, and its ports are free as far as it is concerned.
    Release(WorkerId),
    /// Children of this process have ended that it may not have started.
    ReapOrphans,
}

/// The loop's end of the thread, which ends when this is dropped.
pub(crate) struct Spawner {
    messages: mpsc::Sender<Message>,
    outcomes: UnboundedReceiver<SpawnerOutcome>,
}

impl Spawner {
    /// Makes the thread.
    pub(crate) fn new(template: Arc<Template>, pool: PortPool) -> Result<Self, MasterError> {
        let (messages, inbox) = mpsc::channel();
        let (sender, outcomes) = unbounded_channel();
        let mut work = Work {
            adopted: template,
            templates: BTreeMap::new(),
            pool,
            held: BTreeMap::new(),
            releases: BTreeMap::new(),
            running: BTreeMap::new(),
            numbers: WorkerNumbers::default(),
            known_numbers: true,
            unreaped: LogLimiter::default(),
            unnoted: LogLimiter::default(),
            released: BTreeSet::new(),
            remembered: None,
            claims: PortClaims::default(),
            postponed: VecDeque::new(),
            noted: 0,
        };
        let run = move || {
            while let Some(message) = work.next_message(&inbox) {
                let may_be_free = matches!(message, None | Some(Message::Release(_)));
                let is_heard = message.is_none_or(|message| work.handle(message, &sender));
                if !is_heard || (may_be_free && !work.start_postponed(&sender)) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(run);
        thread.map_err(|source| MasterError::Thread { source })?;
        Ok(Self { messages, outcomes })
    }

    /// Waits for what came of the next request, in the order of the requests.
    pub(crate) async fn outcome(&mut self) -> SpawnerOutcome {
        receive(&mut self.outcomes).await
    }

    pub(crate) fn start(&self, order: SpawnRequest) {
        self.send(Message::Start(order));
    }

    /// Finds what the workers of a new generation are started from. There is exactly one answer.
    /// Its workers are started with this template from now on.
    pub(crate) fn prepare(
        &self,
        preparation: Preparation,
        generation: Generation,
        template: Arc<Template>,
    ) {
        self.send(Message::Prepare(preparation, generation, template));
    }

    /// Has the hook run that follows a reload.
    pub(crate) fn after_reload(&self, generation: Generation) {
        self.send(Message::AfterReload(generation));
    }

    pub(crate) fn hold(
        &self,
        worker: WorkerId,
        generation: Generation,
        ports: Arc<[Port]>,
        told: ToldValues,
    ) {
        self.send(Message::Hold(worker, generation, ports, told));
    }

    /// Every worker of an earlier master is [held](Self::hold).
    pub(crate) fn all_held(&self) {
        self.send(Message::Held);
    }

    /// Nothing is left of a worker's processes.
    pub(crate) fn ended(&self, worker: WorkerId) {
        self.send(Message::Ended(worker));
    }

    /// Waits until the thread has taken in all that it was told; no worker is left.
    pub(crate) async fn stop(&mut self) {
        self.send(Message::Stopped);
        // Dropping the end that it listens on ends the thread, and with it the other one.
        self.messages = mpsc::channel().0;
        while self.outcomes.recv().await.is_some() {}
    }

    /// Waits for children of this process that have ended and that it has not started.
    pub(crate) fn reap_orphans(&self) {
        self.send(Message::ReapOrphans);
    }

    pub(crate) fn release(&self, worker: WorkerId) {
        self.send(Message::Release(worker));
    }

    fn send(&self, message: Message) {
        if self.messages.send(message).is_err() {
            // The thread ends only by a panic, which it has reported.
            tracing::error!("the thread that starts workers has exited: no worker can be started");
        }
    }
}

struct Work {
    /// What workers are started with whose generation began before this master, or with it.
    adopted: Arc<Template>,
    /// What workers of a generation are started with.
    templates: BTreeMap<Generation, Arc<Template>>,
    pool: PortPool,
    /// Every worker that was started and not released.
    held: BTreeMap<WorkerId, Held>,
    /// What the workers of a generation are started from.
    releases: BTreeMap<Generation, Release>,
    /// What is known of that for generations of an earlier master.
    running: BTreeMap<Generation, RunningRelease>,
    numbers: WorkerNumbers,
    /// Whether the number of every worker of an earlier master is known.
    known_numbers: bool,
    unreaped: LogLimiter,
    unnoted: LogLimiter,
    /// The ports that were released since conntrack was read.
    released: BTreeSet<u16>,
    /// The ports that conntrack pointed at when it was read, and when that was.
    remembered: Option<(Instant, BTreeSet<u16>)>,
    /// The claims of ports on which nothing was seen to listen yet.
    claims: PortClaims,
    /// The workers that are started as soon as ports are free.
    postponed: VecDeque<Postponed>,
    /// How many workers were noted since the list of them was tidied up.
    noted: usize,
}

/// A worker whose start waits for ports of workers that have ended.
struct Postponed {
    request: SpawnRequest,
    /// When it is not waited for any longer.
    until: Instant,
}

/// The transports by which something on a worker port is in the way: by whatever a program speaks, on a private
/// port.
fn transports(template: &Template) -> &[Transport] {
    match template.private_ports {
        0 => template.transports.as_slice(),
        _ => &[Transport::Tcp, Transport::Udp],
    }
}

/// A worker that was started and not released.
struct Held {
    generation: Generation,
    /// Its ports, private ones too.
    ports: Vec<Port>,
    /// Nothing is left of its processes.
    has_ended: bool,
}

/// So many of the last generations are remembered, also when they have no workers: one that is given up may
/// be begun again.
const REMEMBERED: u64 = 4;

/// After how many workers the list of them is tidied up.
const TIDY_AFTER: usize = 256;

/// How long a start waits for ports of workers that end. They are released when conntrack has twice been seen to
/// lead nobody there, which takes some tenths of a second.
const PORTS_WAIT: Duration = Duration::from_secs(5);

/// How long what conntrack said is not asked for again. A port that it points at now was pointed at
/// then, or has had a worker of ours since; so an old answer can only keep a port too long.
const CONNTRACK_AGE: Duration = Duration::from_secs(10);

impl Work {
    /// Waits for the next message, or until a start is to be tried for the last time, which is `Some(None)`.
    /// `None`: there will be no more.
    fn next_message(&self, inbox: &mpsc::Receiver<Message>) -> Option<Option<Message>> {
        let Some(until) = self.postponed.iter().map(|it| it.until).min() else {
            return inbox.recv().ok().map(Some);
        };
        match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(message) => Some(Some(message)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Does what is asked. Returns whether anybody still waits for outcomes.
    fn handle(&mut self, message: Message, outcomes: &UnboundedSender<SpawnerOutcome>) -> bool {
        match message {
            Message::Release(worker) => self.release(worker),
            Message::ReapOrphans => self.reap_orphans(),
            Message::Hold(worker, generation, ports, told) => {
                self.hold(worker, generation, &ports, told);
            }
            Message::Held => {
                self.remove_old_configs();
                self.compare_release();
            }
            Message::Prepare(preparation, generation, template) => {
                self.templates.insert(generation, template);
                let result = self.prepare(preparation, generation);
                let prepared = Prepared { preparation, generation, result };
                return outcomes.send(SpawnerOutcome::Prepared(prepared)).is_ok();
            }
            Message::AfterReload(generation) => match self.after_reload(generation) {
                Ok(Some(hook)) => return outcomes.send(SpawnerOutcome::AfterReload(hook)).is_ok(),
                Ok(None) => {}
                Err(error) => tracing::warn!("generation {generation}: after_reload: {error}"),
            },
            Message::Ended(worker) => self.ended(worker),
            Message::Stopped => self.remove_files(),
            Message::Start(request) => {
                let postponed = Postponed { request, until: Instant::now() + PORTS_WAIT };
                if !self.postponed.is_empty() {
                    self.postponed.push_back(postponed);
                } else if let Some(outcome) = self.start_or_postpone(postponed) {
                    return outcomes.send(outcome).is_ok();
                }
            }
        }
        true
    }

    /// Tries the starts that wait for ports, until one has to wait again: the others would have to as well.
    /// Returns whether anybody still waits for outcomes.
    fn start_postponed(&mut self, outcomes: &UnboundedSender<SpawnerOutcome>) -> bool {
        while let Some(postponed) = self.postponed.pop_front() {
            let Some(outcome) = self.start_or_postpone(postponed) else { break };
            if outcomes.send(outcome).is_err() {
                return false;
            }
        }
        true
    }

    /// Starts a worker, unless its ports are still those of workers that end: it waits for them then, since a range
    /// of ports that suffices for the workers that run must suffice for a reload after a reload.
    fn start_or_postpone(&mut self, postponed: Postponed) -> Option<SpawnerOutcome> {
        let worker = postponed.request.worker;
        let result = self.start(postponed.request.clone());
        if let Err(SpawnError::Process(error @ ProcessError::PortsExhausted { .. })) = &result
            && self.awaits_release(postponed.request.generation)
            && Instant::now() < postponed.until
        {
            tracing::debug!(%error, "a start waits for ports of earlier workers");
            self.postponed.push_front(postponed);
            return None;
        }
        let result = result.map(Box::new);
        Some(SpawnerOutcome::Spawned(SpawnOutcome { worker, result }))
    }

    /// Whether ports may soon be free for a worker of this generation: those of a worker that has ended, or of one
    /// that is older than the generation before, and ends with its connections.
    fn awaits_release(&self, generation: Generation) -> bool {
        let is_old = |held: &Held| held.generation.0.saturating_add(1) < generation.0;
        self.held.values().any(|held| held.has_ended || is_old(held))
    }

    /// Removes what was made for workers, of which none is left.
    fn remove_files(&self) {
        if let Some(config) = self.config_template() {
            config.copies.remove_all();
        }
        if let Some(states) = &self.adopted.states {
            states.remove_all();
        }
        if let Some(notes) = &self.adopted.notes {
            notes.remove();
        }
    }

    /// What workers of a generation are started with.
    fn template(&self, generation: Generation) -> Arc<Template> {
        Arc::clone(self.templates.get(&generation).unwrap_or(&self.adopted))
    }

    /// A template that has configuration files made: all of them go into one directory.
    fn config_template(&self) -> Option<&ConfigTemplate> {
        let all = self.templates.values().chain([&self.adopted]);
        all.filter_map(|template| template.config.as_ref()).next()
    }

    fn release(&mut self, worker: WorkerId) {
        let held = self.held.remove(&worker);
        self.released.extend(held.iter().flat_map(|held| &held.ports).map(|it| it.number()));
    }

    fn hold(&mut self, worker: WorkerId, generation: Generation, ports: &[Port], told: ToldValues) {
        // The lowest number is above all that a master gives that has not had to begin there.
        let beyond = u64::try_from(since_boot().as_micros()).unwrap_or(u64::MAX).max(1 << 32);
        self.numbers.hold(worker, told.number, beyond);
        self.known_numbers &= told.number.is_some();
        let ports = ports.iter().chain(&told.private_ports).copied().collect();
        self.held.insert(worker, Held { generation, ports, has_ended: false });
        self.running.entry(generation).or_insert(told.release);
    }

    /// Says that another release is there than the one that workers of an earlier master run.
    fn compare_release(&self) {
        let Some((generation, running)) = self.running.last_key_value() else { return };
        let Ok(found) = Release::find(&self.adopted, *generation) else { return };
        let Some((before, now)) = running.directory.as_deref().zip(found.directory()) else {
            return;
        };
        if before != now {
            tracing::info!(
                "generation {generation} runs in {}, and what is configured leads to {} now: `ipcluster \
                 reload` starts that",
                before.display(),
                now.display()
            );
        }
    }

    /// Finds what the workers of a new generation are started from, and the hook that runs before them.
    fn prepare(
        &mut self,
        preparation: Preparation,
        generation: Generation,
    ) -> Result<Option<Box<Hook>>, SpawnError> {
        self.releases.remove(&generation);
        self.running.remove(&generation);
        let held: BTreeSet<Generation> = self.held.values().map(|held| held.generation).collect();
        let is_recent = |it: Generation| it.0.saturating_add(REMEMBERED) > generation.0;
        self.releases.retain(|it, _| is_recent(*it) || held.contains(it));
        self.templates.retain(|it, _| is_recent(*it) || held.contains(it));
        let template = self.template(generation);
        let release = Release::find(&template, generation)?;
        let words = release.hook(&template, &template.hooks.before_reload)?;
        let kind = HookKind::BeforeReload(preparation);
        let hook = words.map(|words| hook(&template, kind, &release, words));
        self.releases.insert(generation, release);
        Ok(hook)
    }

    fn after_reload(&mut self, generation: Generation) -> Result<Option<Box<Hook>>, SpawnError> {
        let template = self.template(generation);
        if template.hooks.after_reload.is_empty() {
            return Ok(None);
        }
        let release = self.take_release(generation)?;
        let words = release.hook(&template, &template.hooks.after_reload);
        let of = |words| hook(&template, HookKind::AfterReload, &release, words);
        let hook = words.map(|words| words.map(of));
        self.releases.insert(generation, release);
        Ok(hook?)
    }

    /// Takes out what workers of a generation are started from, which is found now if it was not before: for
    /// the first generation, and those of an earlier master.
    fn take_release(&mut self, generation: Generation) -> Result<Release, ReleaseError> {
        match (self.releases.remove(&generation), self.running.get(&generation)) {
            (Some(release), _) => Ok(release),
            (None, Some(running)) => {
                Release::of_running(&self.template(generation), generation, running)
            }
            (None, None) => Release::find(&self.template(generation), generation),
        }
    }

    /// Removes configuration files whose workers ended while no master ran.
    fn remove_old_configs(&self) {
        if let Some(config) = self.config_template().filter(|_| self.known_numbers) {
            config.copies.retain(&self.numbers.all());
        }
        if let Some(states) = self.adopted.states.as_ref().filter(|_| self.known_numbers) {
            states.retain(&self.numbers.all());
        }
    }

    fn reap_orphans(&mut self) {
        if let Err(error) = reap_orphans()
            && let Some(suppressed) = self.unreaped.allow(Instant::now())
        {
            tracing::warn!(%error, suppressed, "cannot wait for orphans that have ended");
        }
    }

    fn ended(&mut self, worker: WorkerId) {
        if let Some(held) = self.held.get_mut(&worker) {
            held.has_ended = true;
        }
        let number = self.numbers.release(worker);
        if let Some((config, number)) = self.config_template().zip(number) {
            config.copies.remove(number);
        }
        if let Some((states, number)) = self.adopted.states.as_ref().zip(number) {
            states.remove(number);
        }
    }

    fn start(&mut self, order: SpawnRequest) -> Result<Started, SpawnError> {
        let (worker, generation) = (order.worker, order.generation);
        let release = self.take_release(generation)?;
        let number = self.numbers.give(worker);
        let template = self.template(generation);
        let started = self.start_numbered(order, number, &release, &template);
        if started.is_err() {
            self.ended(worker);
        }
        self.releases.insert(generation, release);
        started
    }

    fn start_numbered(
        &mut self,
        order: SpawnRequest,
        number: u64,
        release: &Release,
        template: &Template,
    ) -> Result<Started, SpawnError> {
        let program = release.program(template)?;
        let sockets = match (&order.inherited, &template.openings) {
            (Some(inherited), _) => Some(Arc::clone(inherited)),
            (None, Some(openings)) => {
                let openings = Arc::clone(openings);
                Some(Arc::new(self.open(&openings, template)?))
            }
            (None, None) => None,
        };
        let ports: Arc<[Port]> = match &sockets {
            Some(sockets) => Arc::clone(sockets.ports()),
            None => {
                let count = template.listeners.public_ports().len();
                let allocate = |pool: &mut PortPool, it: &BTreeSet<u16>| pool.allocate(count, it);
                let ports = self.allocate(&BTreeSet::new(), template, allocate)?;
                ports.into_iter().filter_map(Port::new).collect()
            }
        };
        let private_ports = self.allocate_private(&ports, template)?;
        let Template { name, fingerprint, .. } = template;
        let (name, fingerprint) = (name.clone(), *fingerprint);
        let label =
            WorkerLabel { name, generation: order.generation, seat: order.seat, fingerprint };
        let output = Output::create(label.to_string())?;
        let (request, private_ports) = (&order, private_ports.as_slice());
        let config = template.config.as_ref().map(|config| config.copies.path(number));
        let state = self.make_state_file(number);
        let values = WorkerValues {
            request,
            template,
            release,
            ports: &ports,
            private_ports,
            number,
            config,
            state,
        };
        if let (Some(template), Some(text)) = (&template.config, release.config()) {
            template.copies.write(number, &values.expand(text))?;
        }
        let (file, name) = match program {
            Some((file, name)) => (Some(file), name),
            None => (None, values.expand(&template.program).into()),
        };
        let spawn = Spawn {
            program: name,
            file,
            args: values.arguments(),
            env: values.environment(),
            directory: values.directory(),
            ..common(template)
        };
        let passed = sockets.as_ref().map(|sockets| sockets.to_pass()).unwrap_or_default();
        let child = spawn.start_with(&passed, &output)?;
        self.note(&child, &label);
        let told = ToldValues {
            number: Some(number),
            private_ports: private_ports.to_vec(),
            release: RunningRelease::default(),
        };
        let (generation, output) = (order.generation, output.into_reader());
        let ports_held = ports.iter().chain(private_ports).copied().collect();
        let held = Held { generation, ports: ports_held, has_ended: false };
        self.held.insert(order.worker, held);
        let listeners = Arc::clone(&template.listeners);
        Ok(Started { child, generation, output, ports, listeners, told, sockets })
    }

    /// Notes that this process is a worker. It is one whether that can be noted or not.
    fn note(&mut self, child: &Child, label: &WorkerLabel) {
        let Some(notes) = &self.adopted.notes else { return };
        let added = ProcessIdentity::of(child)
            .map_err(io::Error::other)
            .and_then(|process| process.map_or(Ok(()), |process| notes.add(&process, label)));
        self.noted += 1;
        let tidied = match self.noted >= TIDY_AFTER {
            true => notes.tidy().inspect(|()| self.noted = 0),
            false => Ok(()),
        };
        if let Err(error) = added.and(tidied)
            && let Some(suppressed) = self.unnoted.allow(Instant::now())
        {
            let path = notes.path().display();
            tracing::warn!(%path, %error, suppressed, "cannot note which processes are workers");
        }
    }

    /// Makes the file in which a worker reads whether it is retired. A worker is more than that file.
    fn make_state_file(&self, number: u64) -> Option<PathBuf> {
        let states = self.adopted.states.as_ref()?;
        let made = states.create(number).inspect_err(|error| {
            let path = states.path(number);
            let path = path.display();
            tracing::error!(%path, %error, "cannot make the state file of a worker");
        });
        made.ok()
    }

    /// Opens sockets on worker ports that nobody has: one on which nothing listens can be somebody's
    /// all the same, such as that of an outgoing connection.
    fn open(
        &mut self,
        openings: &ListenerTemplate,
        template: &Template,
    ) -> Result<ListenerSet, ProcessError> {
        let mut busy = BTreeSet::new();
        loop {
            let count = template.listeners.public_ports().len();
            let ports =
                self.allocate(&busy, template, |pool, taken| pool.allocate(count, taken))?;
            match openings.open(ports) {
                Err(ProcessError::Listen { port, errno: Errno::EADDRINUSE, .. }) => {
                    busy.insert(port);
                }
                result => return result,
            }
        }
    }

    /// Ports for a worker that are for no public port, none of them among `ports`, which it has.
    fn allocate_private(
        &mut self,
        ports: &[Port],
        template: &Template,
    ) -> Result<Vec<Port>, ProcessError> {
        let count = template.private_ports;
        if count == 0 {
            return Ok(Vec::new());
        }
        let busy = ports.iter().map(|port| port.number()).collect();
        let allocate = |pool: &mut PortPool, taken: &BTreeSet<u16>| pool.allocate_any(count, taken);
        let ports = self.allocate(&busy, template, allocate)?;
        Ok(ports.into_iter().filter_map(Port::new).collect())
    }

    /// Ports of the pool, none of them `busy`, that nobody else has ([`PortClaims`]).
    fn allocate(
        &mut self,
        busy: &BTreeSet<u16>,
        template: &Template,
        take: impl Fn(&mut PortPool, &BTreeSet<u16>) -> Result<Vec<u16>, ProcessError>,
    ) -> Result<Vec<u16>, ProcessError> {
        let mut busy = busy.clone();
        self.claims.retain(|port| {
            busy.contains(&port)
                || self.held.values().flat_map(|held| &held.ports).any(|it| it.number() == port)
        });
        loop {
            let ports = self.allocate_free(&busy, template, &take)?;
            let taken = self.claims.take(&ports, transports(template), self.pool.range());
            if taken.is_empty() {
                return Ok(ports);
            }
            busy.extend(taken);
        }
    }

    fn allocate_free(
        &mut self,
        busy: &BTreeSet<u16>,
        template: &Template,
        take: impl Fn(&mut PortPool, &BTreeSet<u16>) -> Result<Vec<u16>, ProcessError>,
    ) -> Result<Vec<u16>, ProcessError> {
        self.refresh_remembered(CONNTRACK_AGE);
        let taken = &self.taken_ports(template)? | busy;
        match take(&mut self.pool, &taken) {
            Err(ProcessError::PortsExhausted { .. }) => {
                // The ports that are needed may be kept by an old answer of conntrack alone.
                self.refresh_remembered(Duration::ZERO);
                let taken = &self.taken_ports(template)? | busy;
                take(&mut self.pool, &taken)
            }
            result => result,
        }
    }

    /// Ports that a worker of ours has, that anything listens on, or that some connection of an
    /// earlier worker may still come to: conntrack remembers where it sent a client, and would send
    /// its next packets to whoever has the port then.
    fn taken_ports(&mut self, template: &Template) -> Result<BTreeSet<u16>, ProcessError> {
        let range = self.pool.range();
        let mut taken: BTreeSet<u16> =
            self.held.values().flat_map(|held| &held.ports).map(|port| port.number()).collect();
        let spoken = transports(template);
        let listening = ListenTable::read(&mut Sockets::open()?, spoken, range)?.ports();
        // From here on its own socket keeps the port for a worker.
        self.claims.retain(|port| !listening.contains(&port));
        taken.extend(listening);
        taken.extend(&self.released);
        taken.extend(self.remembered.iter().flat_map(|(_, ports)| ports));
        Ok(taken)
    }

    /// Reads conntrack, unless what is known is younger than `age`: the kernel walks all of its
    /// table, which takes tens of milliseconds, and a reload starts many workers.
    fn refresh_remembered(&mut self, age: Duration) {
        if self.remembered.as_ref().is_some_and(|(read, _)| read.elapsed() < age) {
            return;
        }
        let range = self.pool.range();
        match Conntrack::open().and_then(|mut conntrack| conntrack.ports_in_use(range)) {
            Ok(ports) => {
                self.remembered = Some((Instant::now(), ports));
                self.released.clear();
            }
            Err(error) => tracing::warn!(%error, "cannot read which ports conntrack entries use"),
        }
    }
}

fn hook(
    template: &Template,
    kind: HookKind,
    release: &Release,
    (file, program, args): HookWords,
) -> Box<Hook> {
    let mut env = release.environment(template);
    // It is no worker: nobody waits for its word.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        env.remove(std::ffi::OsStr::new(name));
    }
    env.insert("IPCLUSTER_HOOK".into(), kind.to_string().into());
    let directory = release.directory().map(ToOwned::to_owned);
    let spawn = Spawn { file: Some(file), program, args, env, directory, ..common(template) };
    let HookTemplates { limit, die, .. } = template.hooks;
    Box::new(Hook { kind, generation: release.generation(), spawn, limit, die })
}

/// What is the same for all that is started.
fn common(template: &Template) -> Spawn {
    Spawn {
        enters_as_starter: matches!(template.directory, StartDirectory::OfMaster(_)),
        account: template.account.clone(),
        descriptor_limit: template.descriptor_limit,
        limits: template.limits.clone(),
        umask: template.umask,
        nice: template.nice,
        ..Spawn::default()
    }
}

/// How long ago the machine was started.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
}
