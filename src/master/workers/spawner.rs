//! The thread that starts workers: looking for free ports and `fork` take time, which the loop does
//! not have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::config_copies::{ConfigCopies, ConfigCopyError};
use super::numbers::WorkerNumbers;
use super::values::{ToldValues, WorkerValues};
use crate::config::{Config, PlaceholderText};
use crate::master::error::MasterError;
use crate::master::waiting::receive;
use crate::master::workers::fingerprint::{ConfigFingerprint, WorkerLabel};
use crate::master::workers::listeners::{ListenerSet, ListenerTemplate};
use crate::master::workers::output::Logs;
use crate::netlink::Errno;
use crate::nft::Conntrack;
use crate::plan::{ClusterName, Generation, Port, Seat};
use crate::process::{
    Account, Child, ListenTable, Output, OutputReader, PortPool, ProcessError, Sockets, Spawn,
    Transport,
};
use crate::protocol::WorkerId;

/// What all workers are started with.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) name: ClusterName,
    /// The digest by which the next master compares configurations.
    pub(crate) fingerprint: ConfigFingerprint,
    pub(crate) program: PlaceholderText,
    pub(crate) arguments: Vec<PlaceholderText>,
    /// Variables that do not depend on the worker.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// Variables of the configuration, whose values may depend on it.
    pub(crate) texts: Vec<(String, PlaceholderText)>,
    /// The configuration file that is made for it.
    pub(crate) config: Option<ConfigTemplate>,
    /// The user and group that workers run as.
    pub(crate) account: Option<Account>,
    /// The soft limit of open files of workers.
    pub(crate) descriptor_limit: Option<u64>,
    /// Workers get the variables and the argument of the older system, too.
    pub(crate) speaks_protocol: bool,
    /// Each worker gets a worker port for each.
    pub(crate) public_ports: Vec<Port>,
    /// How many ports it gets beside those.
    pub(crate) private_ports: usize,
    /// The transports that workers listen by on their ports.
    pub(crate) transports: Vec<Transport>,
    /// Files for what it prints; none for memory.
    pub(crate) logs: Option<Logs>,
    /// The sockets that are opened for it, if it does not open its own.
    pub(crate) openings: Option<Arc<ListenerTemplate>>,
}

/// What configuration files of workers are made of.
#[derive(Debug, Clone)]
pub(crate) struct ConfigTemplate {
    pub(crate) copies: ConfigCopies,
    /// The settings, which say what placeholders can stand for.
    pub(crate) config: Arc<Config>,
}

/// A worker to be started.
#[derive(Debug, Clone)]
pub(crate) struct SpawnRequest {
    pub(crate) worker: WorkerId,
    pub(crate) seat: Seat,
    pub(crate) generation: Generation,
    /// `IPCLUSTER_WORKERS`: how many workers the cluster is to have.
    pub(crate) workers: usize,
    /// The sockets that an earlier worker has left for it.
    pub(crate) inherited: Option<Arc<ListenerSet>>,
}

/// A worker that was started.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) generation: Generation,
    pub(crate) output: OutputReader,
    pub(crate) ports: Arc<[Port]>,
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
}

impl SpawnError {
    /// Whether the program cannot be run until somebody has mended something.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Process(error) => error.is_permanent(),
            Self::ConfigCopy(_) => false,
        }
    }
}

/// The worker that was started on request, or why it could not be.
pub(crate) struct SpawnOutcome {
    pub(crate) worker: WorkerId,
    pub(crate) result: Result<Started, SpawnError>,
}

enum Message {
    Start(SpawnRequest),
    /// A worker of an earlier master has these ports, and was told this.
    Hold(WorkerId, Arc<[Port]>, ToldValues),
    /// All workers of an earlier master are held.
    Held,
    /// The worker's processes are gone.
    Ended(WorkerId),
    /// No worker is left, and none will be started.
    Stopped,
    /// The worker's processes are gone, and its ports are free as far as it is concerned.
    Release(WorkerId),
}

/// The loop's end of the thread, which ends when this is dropped.
pub(crate) struct Spawner {
    messages: mpsc::Sender<Message>,
    outcomes: UnboundedReceiver<SpawnOutcome>,
}

impl Spawner {
    /// Makes the thread.
    pub(crate) fn new(template: Template, pool: PortPool) -> Result<Self, MasterError> {
        let (messages, inbox) = mpsc::channel();
        let (sender, outcomes) = unbounded_channel();
        let mut work = Work {
            template,
            pool,
            held: BTreeMap::new(),
            numbers: WorkerNumbers::default(),
            known_numbers: true,
            released: BTreeSet::new(),
            remembered: None,
        };
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for message in inbox {
                match message {
                    Message::Release(worker) => work.release(worker),
                    Message::Hold(worker, ports, told) => work.hold(worker, &ports, told),
                    Message::Held => work.remove_old_configs(),
                    Message::Ended(worker) => work.ended(worker),
                    Message::Stopped => {
                        if let Some(config) = &work.template.config {
                            config.copies.remove_all();
                        }
                    }
                    Message::Start(order) => {
                        let worker = order.worker;
                        let outcome = SpawnOutcome { worker, result: work.start(order) };
                        if sender.send(outcome).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        thread.map_err(|source| MasterError::Thread { source })?;
        Ok(Self { messages, outcomes })
    }

    /// Waits for what came of the next request, in the order of the requests.
    pub(crate) async fn outcome(&mut self) -> SpawnOutcome {
        receive(&mut self.outcomes).await
    }

    pub(crate) fn start(&self, order: SpawnRequest) {
        self.send(Message::Start(order));
    }

    pub(crate) fn hold(&self, worker: WorkerId, ports: Arc<[Port]>, told: ToldValues) {
        self.send(Message::Hold(worker, ports, told));
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
    template: Template,
    pool: PortPool,
    /// The ports of every worker that was started and not released, private ones too.
    held: BTreeMap<WorkerId, Vec<Port>>,
    numbers: WorkerNumbers,
    /// Whether the number of every worker of an earlier master is known.
    known_numbers: bool,
    /// The ports that were released since conntrack was read.
    released: BTreeSet<u16>,
    /// The ports that conntrack pointed at when it was read, and when that was.
    remembered: Option<(Instant, BTreeSet<u16>)>,
}

/// How long what conntrack said is not asked for again. A port that it points at now was pointed at
/// then, or has had a worker of ours since; so an old answer can only keep a port too long.
const CONNTRACK_AGE: Duration = Duration::from_secs(10);

impl Work {
    fn release(&mut self, worker: WorkerId) {
        let ports = self.held.remove(&worker);
        self.released.extend(ports.iter().flat_map(|ports| ports.iter()).map(|it| it.number()));
    }

    fn hold(&mut self, worker: WorkerId, ports: &[Port], told: ToldValues) {
        // The lowest number is above all that a master gives that has not had to begin there.
        let beyond = u64::try_from(since_boot().as_micros()).unwrap_or(u64::MAX).max(1 << 32);
        self.numbers.hold(worker, told.number, beyond);
        self.known_numbers &= told.number.is_some();
        self.held.insert(worker, ports.iter().chain(&told.private_ports).copied().collect());
    }

    /// Removes configuration files whose workers ended while no master ran.
    fn remove_old_configs(&self) {
        if let Some(config) = self.template.config.as_ref().filter(|_| self.known_numbers) {
            config.copies.retain(&self.numbers.all());
        }
    }

    fn ended(&mut self, worker: WorkerId) {
        let number = self.numbers.release(worker);
        if let Some((config, number)) = self.template.config.as_ref().zip(number) {
            config.copies.remove(number);
        }
    }

    fn start(&mut self, order: SpawnRequest) -> Result<Started, SpawnError> {
        let worker = order.worker;
        let number = self.numbers.give(worker);
        let started = self.start_numbered(order, number);
        if started.is_err() {
            self.ended(worker);
        }
        started
    }

    fn start_numbered(&mut self, order: SpawnRequest, number: u64) -> Result<Started, SpawnError> {
        let sockets = match (&order.inherited, &self.template.openings) {
            (Some(inherited), _) => Some(Arc::clone(inherited)),
            (None, Some(openings)) => {
                let openings = Arc::clone(openings);
                Some(Arc::new(self.open(&openings)?))
            }
            (None, None) => None,
        };
        let ports: Arc<[Port]> = match &sockets {
            Some(sockets) => Arc::clone(sockets.ports()),
            None => {
                let count = self.template.public_ports.len();
                let ports = self.allocate(&BTreeSet::new(), |pool, it| pool.allocate(count, it))?;
                ports.into_iter().filter_map(Port::new).collect()
            }
        };
        let private_ports = self.allocate_private(&ports)?;
        let Template { name, fingerprint, .. } = &self.template;
        let (name, fingerprint) = (name.clone(), *fingerprint);
        let label =
            WorkerLabel { name, generation: order.generation, seat: order.seat, fingerprint };
        let output = match &self.template.logs {
            Some(logs) => logs.open_for(order.seat, order.generation, &label)?,
            None => Output::create(label.to_string())?,
        };
        let (request, private_ports) = (&order, private_ports.as_slice());
        let config = self.template.config.as_ref().map(|config| config.copies.path(number));
        let values = WorkerValues { request, ports: &ports, private_ports, number, config };
        self.write_config(&values)?;
        let template = &self.template;
        let spawn = Spawn {
            program: values.expand(&template.program, template).into(),
            args: values.arguments(template),
            env: values.environment(template),
            directory: None,
            account: template.account.clone(),
            descriptor_limit: template.descriptor_limit,
        };
        let passed = sockets.as_ref().map(|sockets| sockets.to_pass()).unwrap_or_default();
        let child = spawn.start_with(&passed, &output)?;
        let told = ToldValues { number: Some(number), private_ports: private_ports.to_vec() };
        self.held.insert(order.worker, ports.iter().chain(private_ports).copied().collect());
        let (generation, output) = (order.generation, output.into_reader());
        Ok(Started { child, generation, output, ports, told, sockets })
    }

    /// Makes the configuration file of a worker, if it has one.
    fn write_config(&self, values: &WorkerValues<'_>) -> Result<(), SpawnError> {
        let Some(ConfigTemplate { copies, config }) = &self.template.config else { return Ok(()) };
        let text = copies.read_template()?;
        let text = PlaceholderText::parse(&text, config.placeholder_names())
            .map_err(|error| copies.placeholder_error(error.line_in(&text), error.to_string()))?;
        copies.write(values.number, &values.expand(&text, &self.template))?;
        Ok(())
    }

    /// Opens sockets on worker ports that nobody has: one on which nothing listens can be somebody's
    /// all the same, such as that of an outgoing connection.
    fn open(&mut self, openings: &ListenerTemplate) -> Result<ListenerSet, ProcessError> {
        let mut busy = BTreeSet::new();
        loop {
            let count = self.template.public_ports.len();
            let ports = self.allocate(&busy, |pool, taken| pool.allocate(count, taken))?;
            match openings.open(ports) {
                Err(ProcessError::Listen { port, errno: Errno::EADDRINUSE, .. }) => {
                    busy.insert(port);
                }
                result => return result,
            }
        }
    }

    /// Ports for a worker that are for no public port, none of them among `ports`, which it has.
    fn allocate_private(&mut self, ports: &[Port]) -> Result<Vec<Port>, ProcessError> {
        let count = self.template.private_ports;
        if count == 0 {
            return Ok(Vec::new());
        }
        let busy = ports.iter().map(|port| port.number()).collect();
        let ports = self.allocate(&busy, |pool, taken| pool.allocate_any(count, taken))?;
        Ok(ports.into_iter().filter_map(Port::new).collect())
    }

    /// Ports of the pool, none of them `busy`.
    fn allocate(
        &mut self,
        busy: &BTreeSet<u16>,
        take: impl Fn(&mut PortPool, &BTreeSet<u16>) -> Result<Vec<u16>, ProcessError>,
    ) -> Result<Vec<u16>, ProcessError> {
        self.refresh_remembered(CONNTRACK_AGE);
        let taken = &self.taken_ports()? | busy;
        match take(&mut self.pool, &taken) {
            Err(ProcessError::PortsExhausted { .. }) => {
                // The ports that are needed may be kept by an old answer of conntrack alone.
                self.refresh_remembered(Duration::ZERO);
                let taken = &self.taken_ports()? | busy;
                take(&mut self.pool, &taken)
            }
            result => result,
        }
    }

    /// Ports that a worker of ours has, that anything listens on, or that some connection of an
    /// earlier worker may still come to: conntrack remembers where it sent a client, and would send
    /// its next packets to whoever has the port then.
    fn taken_ports(&self) -> Result<BTreeSet<u16>, ProcessError> {
        let range = self.pool.range();
        let mut taken: BTreeSet<u16> =
            self.held.values().flat_map(|ports| ports.iter()).map(|port| port.number()).collect();
        // Whatever a program speaks on a private port.
        let transports = match self.template.private_ports {
            0 => self.template.transports.as_slice(),
            _ => &[Transport::Tcp, Transport::Udp],
        };
        taken.extend(ListenTable::read(&mut Sockets::open()?, transports, range)?.ports());
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

/// How long ago the machine was started.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
}
