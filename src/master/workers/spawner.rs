//! The thread that starts workers: looking for free ports and `fork` take time, which the loop does
//! not have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

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
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    /// Variables that do not depend on the worker.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// The user and group that workers run as.
    pub(crate) account: Option<Account>,
    /// The soft limit of open files of workers.
    pub(crate) descriptor_limit: Option<u64>,
    /// Workers get the variables and the argument of the older system, too.
    pub(crate) speaks_protocol: bool,
    /// Each worker gets a worker port for each.
    pub(crate) public_ports: Vec<Port>,
    /// The transports that workers listen by on their ports.
    pub(crate) transports: Vec<Transport>,
    /// Files for what it prints; none for memory.
    pub(crate) logs: Option<Logs>,
    /// The sockets that are opened for it, if it does not open its own.
    pub(crate) openings: Option<Arc<ListenerTemplate>>,
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
    /// The listening sockets that the worker was started with.
    pub(crate) sockets: Option<Arc<ListenerSet>>,
}

/// The worker that was started on request, or why it could not be.
pub(crate) struct SpawnOutcome {
    pub(crate) worker: WorkerId,
    pub(crate) result: Result<Started, ProcessError>,
}

enum Message {
    Start(SpawnRequest),
    /// A worker of an earlier master has these ports.
    Hold(WorkerId, Arc<[Port]>),
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
            released: BTreeSet::new(),
            remembered: None,
        };
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for message in inbox {
                match message {
                    Message::Release(worker) => work.release(worker),
                    Message::Hold(worker, ports) => drop(work.held.insert(worker, ports)),
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

    pub(crate) fn hold(&self, worker: WorkerId, ports: Arc<[Port]>) {
        self.send(Message::Hold(worker, ports));
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
    /// The ports of every worker that was started and not released.
    held: BTreeMap<WorkerId, Arc<[Port]>>,
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

    fn start(&mut self, order: SpawnRequest) -> Result<Started, ProcessError> {
        let sockets = match (&order.inherited, &self.template.openings) {
            (Some(inherited), _) => Some(Arc::clone(inherited)),
            (None, Some(openings)) => {
                let openings = Arc::clone(openings);
                Some(Arc::new(self.open(&openings)?))
            }
            (None, None) => None,
        };
        let ports = match &sockets {
            Some(sockets) => Arc::clone(sockets.ports()),
            None => self.allocate(&BTreeSet::new())?.into_iter().filter_map(Port::new).collect(),
        };
        let Template { name, fingerprint, .. } = &self.template;
        let (name, fingerprint) = (name.clone(), *fingerprint);
        let label =
            WorkerLabel { name, generation: order.generation, seat: order.seat, fingerprint };
        let output = match &self.template.logs {
            Some(logs) => Output::append_to(&logs.file(order.seat, order.generation))?,
            None => Output::create(label.to_string())?,
        };
        let spawn = Spawn {
            program: self.template.program.clone(),
            args: self.arguments(&order),
            env: self.environment(&order, &ports),
            directory: None,
            account: self.template.account.clone(),
            descriptor_limit: self.template.descriptor_limit,
        };
        let passed = sockets.as_ref().map(|sockets| sockets.to_pass()).unwrap_or_default();
        let child = spawn.start_with(&passed, &output)?;
        self.held.insert(order.worker, Arc::clone(&ports));
        let (generation, output) = (order.generation, output.into_reader());
        Ok(Started { child, generation, output, ports, sockets })
    }

    /// Opens sockets on worker ports that nobody has: one on which nothing listens can be somebody's
    /// all the same, such as that of an outgoing connection.
    fn open(&mut self, openings: &ListenerTemplate) -> Result<ListenerSet, ProcessError> {
        let mut busy = BTreeSet::new();
        loop {
            match openings.open(self.allocate(&busy)?) {
                Err(ProcessError::Listen { port, errno: Errno::EADDRINUSE, .. }) => {
                    busy.insert(port);
                }
                result => return result,
            }
        }
    }

    /// A worker port for each public port, none of them `busy`.
    fn allocate(&mut self, busy: &BTreeSet<u16>) -> Result<Vec<u16>, ProcessError> {
        let count = self.template.public_ports.len();
        self.refresh_remembered(CONNTRACK_AGE);
        let taken = &self.taken_ports()? | busy;
        match self.pool.allocate(count, &taken) {
            Err(ProcessError::PortsExhausted { .. }) => {
                // The ports that are needed may be kept by an old answer of conntrack alone.
                self.refresh_remembered(Duration::ZERO);
                let taken = &self.taken_ports()? | busy;
                self.pool.allocate(count, &taken)
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
        let transports = &self.template.transports;
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

    fn arguments(&self, order: &SpawnRequest) -> Vec<OsString> {
        let mut arguments = self.template.arguments.clone();
        if self.template.speaks_protocol {
            arguments.push(format!("{}:{}", order.seat, order.workers).into());
        }
        arguments
    }

    fn environment(&self, order: &SpawnRequest, ports: &[Port]) -> BTreeMap<OsString, OsString> {
        let mut environment = self.template.environment.clone();
        let mut set = |name: String, value: String| {
            environment.insert(name.into(), value.into());
        };
        if let Some(first) = ports.first() {
            set("PORT".to_owned(), first.to_string());
        }
        for (public, worker) in self.template.public_ports.iter().zip(ports) {
            set(format!("IPCLUSTER_PORT_{public}"), worker.to_string());
        }
        set("IPCLUSTER_SEAT".to_owned(), order.seat.to_string());
        set("IPCLUSTER_WORKERS".to_owned(), order.workers.to_string());
        set("IPCLUSTER_GENERATION".to_owned(), order.generation.to_string());
        set("IPCLUSTER_CONFIG".to_owned(), self.template.fingerprint.to_string());
        if self.template.speaks_protocol {
            set("__ZWORKER__".to_owned(), "TRUE".to_owned());
            set("__ZWORKER__BAND__".to_owned(), order.seat.to_string());
            set("__ZWORKER__NUM_WORKERS__".to_owned(), order.workers.to_string());
        }
        environment
    }
}
