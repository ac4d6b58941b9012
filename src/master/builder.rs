//! Making a master: what it needs before its loop can run.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};

use super::actions::World;
use super::beside::Beside;
use super::complaint::Complaint;
use super::draining::Draining;
use super::error::MasterError;
use super::events::Subscribers;
use super::figures::Figures;
use super::fullness::Fullness;
use super::hold;
use super::journal::Journal;
use super::listening::{Held, Openings};
use super::logs::Logs;
use super::meeting::MeetingPoint;
use super::memory::Monitor;
use super::output::{Destination, Printer};
use super::peers::Peers;
use super::processes::{Processes, transport, transports};
use super::run::Master;
use super::service::Service;
use super::spawner::{Spawner, Template};
use super::takeover::{Beginning, begin};
use super::vigil::Vigil;
use super::watching::Watching;
use crate::config::{self, Config, Readiness, WorkerOutput};
use crate::control::{ControlDir, Limits, Server};
use crate::nft::{Firewall, NftError};
use crate::plan::{ClusterName, Listeners, Plan, Port, PortRange, Protocol};
use crate::process::{Account, ListenTable, PortPool, ServiceManager, Sockets, effective_uid};
use crate::supervisor::{
    Backoff, GiveUp, KillOrder, Marks, Memory, Retire, Settings, Start, Supervisor,
};

/// Requests that wait for the loop before further ones wait for their turn.
pub(super) const REQUEST_QUEUE: usize = 64;

/// What comes from workers and waits for the loop, before their connections wait.
const WORKER_QUEUE: usize = 256;

/// Notices that a slow subscriber may be behind before it misses some.
const NOTICE_QUEUE: usize = 1024;

/// Makes a [`Master`].
#[derive(Debug)]
pub struct Builder {
    config: Config,
    control: Option<ControlDir>,
    environment: Vec<(OsString, OsString)>,
    print_output: bool,
    descriptor_limit: Option<u64>,
    service_manager: Option<ServiceManager>,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        let environment = std::env::vars_os().collect();
        Self {
            config,
            control: None,
            environment,
            print_output: false,
            descriptor_limit: None,
            service_manager: None,
        }
    }

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

    /// Gives workers this soft limit of open files, for a program that has raised its own by
    /// [`raise_descriptor_limit`](crate::process::raise_descriptor_limit).
    #[must_use]
    pub fn worker_descriptor_limit(self, limit: u64) -> Self {
        Self { descriptor_limit: Some(limit), ..self }
    }

    /// Tells a service manager how the master gets on: `READY=1` when the first worker serves, by
    /// rules that are in force, or an earlier master's do; `RELOADING=1` and again `READY=1` around
    /// each reload, `STOPPING=1`, `STATUS=`, and `WATCHDOG=1` twice within each of its limits, from
    /// the loop.
    #[must_use]
    pub fn service_manager(self, manager: ServiceManager) -> Self {
        Self { service_manager: Some(manager), ..self }
    }

    /// Prints what workers print on standard output, each line with the seat before it, unless the
    /// configuration sends it elsewhere (`output.to`).
    #[must_use]
    pub fn print_output(self) -> Self {
        Self { print_output: true, ..self }
    }

    /// Takes the lock, reads what is in force and listens on the control socket, and for HTTP. Starts no worker
    /// and changes no rule yet: that is [`Master::run`].
    ///
    /// # Errors
    /// [`MasterError`]: without the privilege, or beside another master, at once.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO, if the configuration has `http.listen`.
    pub fn start(self) -> Result<Master, MasterError> {
        let Self { config, control, environment, print_output, .. } = self;
        let Self { descriptor_limit, service_manager, .. } = self;
        let account = Account::look_up(config.user.as_deref(), config.group.as_deref())?;
        match &account {
            Some(account) => account.check()?,
            None if effective_uid() == 0 => tracing::warn!(
                "workers run as root: without its capabilities, but they own what root owns; `user` \
                 has them run as somebody else (`user = \"root\"` if it is meant so)"
            ),
            None => {}
        }
        let lock = control.as_ref().map(|directory| directory.lock(&config.name)).transpose()?;
        #[cfg(feature = "http")]
        let http = config
            .http
            .listen
            .map(|address| crate::http::Server::bind(address, crate::http::Limits::default()));
        #[cfg(feature = "http")]
        let http = http.transpose()?;
        let mut firewall = hold::open(&config)?;
        // Before anything is read: what others change from then on is heard of.
        let watching = Watching::open()?;
        refuse_overlap(&config)?;
        let in_force = hold::in_force(&mut firewall, &config.listeners)?;
        hold::adopt(&mut firewall)?;
        let first = config.worker_ports.first().number();
        let last = config.worker_ports.last().number();
        let spoken = transports(&config.listeners);
        let looked_at = range_of(in_force.as_ref(), first..=last);
        let table = ListenTable::read(&mut Sockets::open()?, &spoken, looked_at)?;
        let listening = served(in_force.as_ref(), &table);
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
        let logs = match &config.output {
            WorkerOutput::Directory(directory) => Some(Logs::open(directory, &config.name)?),
            WorkerOutput::Stdout | WorkerOutput::Journal => None,
        };
        let meeting = control.as_ref().zip(lock.as_ref());
        let meeting = meeting.map(|(control, lock)| {
            MeetingPoint::open(&config, control, lock.socket(), account.as_ref())
        });
        let MeetingPoint { socket, workers_socket, notify } =
            meeting.transpose()?.unwrap_or_default();
        let notify_path = notify.as_ref().map(|it| it.path().to_owned());
        let template =
            template(&config, socket.as_deref(), notify_path.as_deref(), environment, account);
        let mut template = Template { logs, ..template };
        let vigil = Vigil::new(&config, notify)?;
        template.descriptor_limit = descriptor_limit;
        if let Some(openings) = &template.openings {
            openings.check_backlog()?;
        }
        let spawner = Spawner::new(template, pool, outcomes)
            .map_err(|source| MasterError::Thread { source })?;
        let printer = printer(&config, print_output)?;
        let (orders, inbox) = mpsc::channel(REQUEST_QUEUE);
        let (exits_sender, exits) = mpsc::unbounded_channel();
        let (counts_sender, counts) = mpsc::unbounded_channel();
        let (worker_sender, worker_events) = mpsc::channel(WORKER_QUEUE);
        let mut limits = Limits::default();
        limits.worker.ping = config.timeouts.ping;
        let server = lock.map(|lock| Server::bind(lock, limits)).transpose()?;
        Ok(Master {
            server: server.map(|server| server.with_workers(worker_sender, workers_socket)),
            #[cfg(feature = "http")]
            http,
            world: World {
                firewall,
                watching,
                counting: beside("counter")?,
                looking: beside("looker")?,
                service: Service::new(service_manager),
                uncounted: Complaint::default(),
                processes: Processes::new(printer)?,
                peers: Peers::default(),
                spawner,
                held: Held::default(),
                exits_sender,
                counts_sender,
                pending: BTreeMap::new(),
                next_request: 0,
                notices: broadcast::channel(NOTICE_QUEUE).0,
                subscribers: Subscribers::default(),
                memory: Monitor::new(),
                last_swap: Duration::ZERO,
                figures: Figures::default(),
                workers_wanted: usize::from(config.workers),
                begin: Instant::now(),
                next_tidy: Instant::now(),
            },
            config,
            supervisor,
            orders,
            inbox,
            started,
            exits,
            counts,
            worker_events,
            draining: Draining::default(),
            fullness: Fullness::default(),
            vigil,
            finished: false,
        })
    }
}

fn beside(name: &'static str) -> Result<Beside, MasterError> {
    Beside::new(name).map_err(|source| MasterError::Thread { source })
}

/// Refuses listeners for whose connections another cluster has rules. Of two masters that start at
/// the same moment each may miss the other.
fn refuse_overlap(config: &Config) -> Result<(), MasterError> {
    for cluster in Firewall::clusters()?.into_iter().filter(|name| *name != config.name) {
        let theirs = match Firewall::open(&cluster)?.read(None) {
            Ok(Some(plan)) => plan,
            Ok(None) => continue,
            Err(
                error @ (NftError::NotUnderstood { .. }
                | NftError::ForeignTable { .. }
                | NftError::Schema { .. }),
            ) => {
                tracing::warn!(%error, "cannot tell whether listeners of {cluster} overlap ours");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let Some((ours, theirs)) = config.listeners.overlap(theirs.listeners()) {
            return Err(MasterError::Overlap { ours, cluster, theirs });
        }
        refuse_guarded(&config.listeners, &config.name, theirs.guard(), &cluster)?;
        refuse_guarded(theirs.listeners(), &cluster, Some(config.worker_ports), &config.name)?;
    }
    Ok(())
}

/// Refuses a public port that the guard of another cluster would drop the packets for.
fn refuse_guarded(
    listeners: &Listeners,
    public_of: &ClusterName,
    guard: Option<PortRange>,
    guarded_by: &ClusterName,
) -> Result<(), MasterError> {
    let Some(range) = guard else { return Ok(()) };
    match listeners.public_ports().iter().find(|port| range.contains(**port)) {
        Some(port) => Err(MasterError::Guarded {
            port: *port,
            public_of: public_of.clone(),
            range,
            guarded_by: guarded_by.clone(),
        }),
        None => Ok(()),
    }
}

/// The ports on which something listens; of the worker ports of a plan those on which something does
/// by every protocol of the listeners that lead there.
fn served(in_force: Option<&Plan>, table: &ListenTable) -> BTreeSet<u16> {
    let mut served = table.ports();
    let Some(plan) = in_force else { return served };
    for protocol in Protocol::ALL {
        let listened_on = table.ports_of(transport(protocol));
        for occupant in plan.seats().filter_map(|(_, occupant)| occupant) {
            for service in plan.listeners().services(protocol) {
                let port = occupant.ports[service.place].number();
                if !listened_on.contains(&port) {
                    served.remove(&port);
                }
            }
        }
    }
    served
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
            "changed what an earlier master left: only workers that listen are in force, with the \
             settings of now"
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
        rollback: config.timeouts.rollback,
        die: config.timeouts.die,
        ping: config.timeouts.ping.unwrap_or(Settings::default().ping),
        stagger: config.spawn.stagger,
        backoff: Backoff { min: config.spawn.backoff.first, max: config.spawn.backoff.most },
        give_up: config.spawn.give_up.map(|it| GiveUp { failures: it.failures, window: it.window }),
        retire: Retire {
            rss: config.retire.rss,
            lag: config.retire.lag,
            max_age: config.retire.max_age,
            rate: config.retire.rate,
            window: config.retire.window,
            renice: config.retire.renice,
        },
        memory: Memory {
            marks: config.memory.marks.map(|it| Marks { low: it.low, high: it.high }),
            order: match config.memory.order {
                config::KillOrder::Connections => KillOrder::Connections,
                config::KillOrder::Age => KillOrder::Age,
                config::KillOrder::Memory => KillOrder::Memory,
            },
        },
        kill_old: config.kill_old,
        holds_sockets: config.socket_activation,
        ..Settings::default()
    }
}

/// The range of `ports`, and of those that the workers in force have: a worker that picks its own may
/// have any.
fn range_of(in_force: Option<&Plan>, ports: RangeInclusive<u16>) -> RangeInclusive<u16> {
    let occupants = in_force.into_iter().flat_map(Plan::seats).filter_map(|(_, occupant)| occupant);
    let numbers = occupants.flat_map(|occupant| occupant.ports.iter()).map(|port| port.number());
    numbers.fold(ports, |range, number| *range.start().min(&number)..=*range.end().max(&number))
}

fn template(
    config: &Config,
    socket: Option<&Path>,
    notify: Option<&Path>,
    mut environment: Vec<(OsString, OsString)>,
    account: Option<Account>,
) -> Template {
    if let Some(account) = account.as_ref().filter(|_| config.user.is_some()) {
        // Those of this process say who it runs as.
        environment.retain(|(name, _)| Account::VARIABLES.iter().all(|it| name != it));
        environment.extend(account.variables());
    }
    let mut environment = config.env.resolve(environment);
    environment.insert("IPCLUSTER_NAME".into(), config.name.as_str().into());
    if let Some(socket) = socket {
        environment.insert("IPCLUSTER_SOCKET".into(), socket.into());
    }
    if let Some(path) = notify {
        // sd_notify(3) takes absolute paths alone.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        environment.insert("NOTIFY_SOCKET".into(), path.into());
        // Without WATCHDOG_PID it is for whichever process of the worker asks (sd_watchdog_enabled(3)).
        if let Some(watchdog) = config.timeouts.watchdog {
            let microseconds = watchdog.as_micros().to_string();
            environment.insert("WATCHDOG_USEC".into(), microseconds.into());
        }
    }
    Template {
        program: config.command.program.clone().into(),
        arguments: config.command.arguments.iter().map(OsString::from).collect(),
        environment,
        account,
        descriptor_limit: None,
        speaks_protocol: config.ready == Readiness::Protocol,
        public_ports: config.listeners.public_ports().to_vec(),
        transports: transports(&config.listeners),
        logs: None,
        openings: config
            .socket_activation
            .then(|| Openings::of(&config.listeners, config.backlog).into()),
    }
}

/// What passes on the output of workers, if anything does.
fn printer(config: &Config, print_output: bool) -> Result<Option<Printer>, MasterError> {
    let destination = match &config.output {
        WorkerOutput::Stdout => print_output.then_some(Destination::Stdout),
        WorkerOutput::Journal => {
            let program = Path::new(&config.command.program).file_name();
            let identifier = program.map_or_else(Default::default, |name| name.to_string_lossy());
            let journal = Journal::open(&identifier, config.name.as_str());
            Some(Destination::Journal(journal.map_err(|source| MasterError::Journal { source })?))
        }
        WorkerOutput::Directory(_) => None,
    };
    let printer = destination.map(Printer::new).transpose();
    printer.map_err(|source| MasterError::Thread { source })
}
