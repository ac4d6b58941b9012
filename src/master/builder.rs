//! Making a master: what it needs before its loop can run.

use std::collections::BTreeMap;
use std::ffi::OsString;
#[cfg(feature = "http")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc};

use super::actions::World;
use super::background::BackgroundThread;
use super::error::MasterError;
use super::handover::give::HandoverDescriptors;
use super::handover::receive::{RunningMaster, Steps};
use super::handover::snapshot::ReceivedSnapshot;
use super::health::monitor::HealthMonitor;
use super::log_limit::LogLimiter;
use super::operators::events::Subscribers;
use super::operators::metrics::Metrics;
use super::operators::service_manager::ServiceNotifier;
use super::operators::statuses::Statuses;
use super::rules::conntrack_usage::ConntrackUsage;
use super::rules::watching::Watching;
use super::run::Master;
use super::startup::claim;
use super::startup::initial_plan::InitialPlan;
use super::startup::state::{AdoptedWorker, StartupState};
use super::startup::worker_sockets::{PreparedSockets, WorkerSockets};
use super::workers::draining::Draining;
use super::workers::fingerprint::ConfigFingerprint;
use super::workers::links::WorkerLinks;
use super::workers::listeners::{HeldListeners, ListenerTemplate};
use super::workers::memory::MemoryMonitor;
use super::workers::output::journal::Journal;
use super::workers::output::logs::Logs;
use super::workers::output::{Destination, Printer};
use super::workers::processes::{Processes, transports};
use super::workers::spawner::{Spawner, Template};
use crate::config::{Config, WorkerOutput};
use crate::control::{ControlDir, DescriptorKind, Handover, Limits, Lock, Server};
use crate::nft::{Firewall, NftError};
use crate::plan::{ClusterName, Listeners, Plan, PortRange};
use crate::process::{Account, PortPool, ServiceManager, effective_uid};
use crate::protocol::Readiness;
use crate::supervisor::{Bequest, Inheritance, Settings, Supervisor};

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
    replace: bool,
    steps: Steps,
}

impl Builder {
    pub(super) fn new(config: Config) -> Self {
        let environment = std::env::vars_os().collect();
        let steps = Steps::default();
        Self {
            config,
            control: None,
            environment,
            print_output: false,
            descriptor_limit: None,
            service_manager: None,
            replace: false,
            steps,
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

    /// Takes over from a master of this name in the same control directory, if one runs: its rules, its
    /// workers, its sockets. At every moment one of the two is the master, also if either is killed.
    /// Without it, [`Self::start`] fails where one runs.
    #[must_use]
    pub fn replace(self) -> Self {
        Self { replace: true, ..self }
    }

    /// For tests: `observer` is told each step of a takeover, in either part, as it is reached.
    #[doc(hidden)]
    #[must_use]
    pub fn observe(self, observer: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { steps: Steps(Some(Arc::new(observer))), ..self }
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
        let Self { descriptor_limit, service_manager, replace, steps, .. } = self;
        let account = Account::look_up(config.user.as_deref(), config.group.as_deref())?;
        match &account {
            Some(account) => account.check()?,
            None if effective_uid() == 0 => tracing::warn!(
                "workers run as root: without its capabilities, but they own what root owns; `user` \
                 has them run as somebody else (`user = \"root\"` if it is meant so)"
            ),
            None => {}
        }
        let mut running_master = match &control {
            Some(directory) if replace => RunningMaster::connect(directory, &config.name, &steps)?,
            _ => None,
        };
        let (lock, socket) = claim::lock(&config, control.as_ref(), running_master.as_mut())?;
        #[cfg(feature = "http")]
        let http = listen_http(&config, running_master.as_mut())?;
        let handed =
            running_master.as_mut().map(|it| it.take_needed(DescriptorKind::Rules)).transpose()?;
        let mut firewall = claim::open(&config, handed)?;
        // Before anything is read: what others change from then on is heard of.
        let watching = Watching::open()?;
        refuse_overlap(&config)?;
        let in_force = claim::in_force(&mut firewall, &config.listeners)?;
        if running_master.is_none() {
            claim::adopt(&mut firewall)?;
        }
        let logs = match &config.output {
            WorkerOutput::Directory(directory) => Some(Logs::open(directory, &config.name)?),
            WorkerOutput::Stdout | WorkerOutput::Journal => None,
        };
        let prepared_sockets = control.as_ref().zip(lock.as_ref());
        let prepared_sockets = prepared_sockets.map(|(control, lock)| {
            let account = account.as_ref();
            PreparedSockets::prepare(
                &config,
                control,
                lock.socket(),
                account,
                running_master.as_mut(),
            )
        });
        let prepared_sockets = prepared_sockets.transpose()?.unwrap_or_default();
        let template = template(&config, &prepared_sockets, environment, account);
        let mut template = Template { logs, ..template };
        template.descriptor_limit = descriptor_limit;
        if let Some(openings) = &template.openings {
            openings.check_backlog()?;
        }
        let handed = running_master.as_mut().map(ReceivedSnapshot::from_master).unwrap_or_default();
        let account = template.account.as_ref();
        let startup_state =
            StartupState::find(&config, in_force.as_ref(), template.fingerprint, account, handed)?;
        let pending_reconfigure = startup_state.pending_reconfigure(template.fingerprint);
        let StartupState { initial_plan, workers, orphans, respawns, past, oldest } = startup_state;
        let begin = Instant::now().checked_sub(oldest).unwrap_or_else(Instant::now);
        let InitialPlan { plan, in_force: holds } = initial_plan.clone();
        let adopted = workers.iter().map(|worker| worker.adopted.clone()).collect();
        let bequest = Bequest { workers: adopted, respawns, past };
        let inheritance = Inheritance { plan, holds, bequest };
        let supervisor = Supervisor::adopt(settings(&config), inheritance)?;

        let public = config.listeners.public_ports();
        let reserved = public.iter().map(|port| port.number()).collect();
        let (first, last) = (config.worker_ports.first(), config.worker_ports.last());
        let pool = PortPool::new(first.number()..=last.number(), reserved)?
            .with_stride(config.engine.port_stride(&config.listeners));
        let (outcomes, started) = mpsc::unbounded_channel();
        let spawner = Spawner::new(template, pool, outcomes)
            .map_err(|source| MasterError::Thread { source })?;
        let printer = printer(&config, print_output)?;
        let (orders, inbox) = mpsc::channel(REQUEST_QUEUE);
        let (exits_sender, exits) = mpsc::unbounded_channel();
        let (counts_sender, counts) = mpsc::unbounded_channel();
        let (status_counts_sender, status_counts) = mpsc::unbounded_channel();
        let mut adopted_workers = Vec::new();
        for AdoptedWorker { adopted, started, .. } in workers {
            spawner.hold(adopted.worker, Arc::clone(&started.ports));
            adopted_workers.push((adopted.worker, adopted.seat, started));
        }
        let workers_wanted = match supervisor.is_as_configured() || pending_reconfigure.is_some() {
            true => usize::from(config.workers),
            false => supervisor.plan().seats().len(),
        };
        let processes = Processes::new(printer)?;
        // Up to here nothing was changed. From here on this process is the master.
        let service_manager =
            service_manager.or_else(|| manager_of(&running_master.as_ref()?.handover));
        if let Some(running_master) = running_master {
            running_master.commit()?;
            claim::adopt(&mut firewall)?;
        }
        let WorkerSockets { workers: workers_socket, notify } = prepared_sockets.open()?;
        let health = HealthMonitor::new(&config, notify)?;
        repair(&mut firewall, in_force.as_ref(), &initial_plan)?;
        let (worker_sender, worker_events) = mpsc::channel(WORKER_QUEUE);
        let server = lock.map(|lock| serve(lock, socket, limits(&config))).transpose()?;
        let server = server.map(|server| server.with_workers(worker_sender, workers_socket));
        #[cfg(feature = "http")]
        let http_socket = http.as_ref().map(|http| http.as_fd().try_clone_to_owned()).transpose();
        #[cfg(feature = "http")]
        let http_socket = http_socket.map_err(|source| MasterError::Descriptor { source })?;
        #[cfg(not(feature = "http"))]
        let http_socket = None;
        let handover_descriptors = server.as_ref().map(|server| {
            let (sockets, http, steps) = (server.descriptors()?, http_socket, steps.clone());
            Ok::<_, MasterError>(HandoverDescriptors { sockets, http, steps })
        });
        let handover_descriptors = handover_descriptors.transpose()?;
        steps.reach("next: serves");
        Ok(Master {
            gate: server.as_ref().map(Server::gate),
            handover_descriptors,
            server,
            #[cfg(feature = "http")]
            http,
            world: World {
                firewall,
                watching,
                counting: beside("counter")?,
                looking: beside("looker")?,
                service: ServiceNotifier::new(service_manager),
                uncounted: LogLimiter::default(),
                processes,
                peers: WorkerLinks::default(),
                spawner,
                held: HeldListeners::default(),
                exits_sender,
                counts_sender,
                statuses: Statuses::new(beside("status")?, status_counts_sender),
                pending: BTreeMap::new(),
                next_request: 0,
                notices: broadcast::channel(NOTICE_QUEUE).0,
                subscribers: Subscribers::default(),
                memory: MemoryMonitor::new(),
                last_swap: Duration::ZERO,
                metrics: Metrics::default(),
                workers_wanted,
                workers_configured: usize::from(config.workers),
                orphans,
                begin,
                next_tidy: Instant::now(),
            },
            config,
            supervisor,
            adopted_workers,
            pending_reconfigure,
            orders,
            inbox,
            started,
            exits,
            counts,
            status_counts,
            worker_events,
            draining: Draining::default(),
            conntrack_usage: ConntrackUsage::default(),
            health,
            finished: false,
        })
    }
}

/// The service manager of the earlier master, which this one goes on to tell: it watches the service on
/// whichever process that is.
fn manager_of(handover: &Handover) -> Option<ServiceManager> {
    match ServiceManager::at(handover.manager.as_ref()?.into()) {
        Ok(manager) => Some(manager.with_watchdog(handover.watchdog.map(Duration::from_micros))),
        Err(error) => {
            tracing::warn!(%error, "the service manager is told nothing");
            None
        }
    }
}

fn beside(name: &'static str) -> Result<BackgroundThread, MasterError> {
    BackgroundThread::new(name).map_err(|source| MasterError::Thread { source })
}

/// Listens on the control socket, on that of the earlier master where it was handed over.
fn serve(lock: Lock, socket: Option<OwnedFd>, limits: Limits) -> Result<Server, MasterError> {
    Ok(match socket {
        Some(socket) => Server::handed_over(lock, socket, limits)?,
        None => Server::bind(lock, limits)?,
    })
}

#[cfg(feature = "http")]
fn listen_http(
    config: &Config,
    running_master: Option<&mut RunningMaster>,
) -> Result<Option<crate::http::Server>, MasterError> {
    use crate::http::{Limits, Server};
    let Some(address) = config.http.listen else { return Ok(None) };
    let handed = running_master.and_then(|it| it.take(DescriptorKind::Http, ""));
    let handed = handed.map(|socket| Server::handed_over(socket, address, Limits::default()));
    Ok(Some(match handed.transpose()?.flatten() {
        Some(server) => server,
        None => Server::bind(address, Limits::default())?,
    }))
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

/// If workers of an earlier master have died since, their clients go to the others at once; if it
/// died while it stopped the cluster, its listeners open again; and if somebody has removed the rules,
/// they come back.
fn repair(
    firewall: &mut Firewall,
    in_force: Option<&Plan>,
    initial_plan: &InitialPlan,
) -> Result<(), MasterError> {
    if initial_plan.in_force && in_force != Some(&initial_plan.plan) {
        firewall.apply(&initial_plan.plan)?;
        tracing::warn!(
            "changed what an earlier master left: only workers that listen are in force, with the \
             settings of now"
        );
    }
    Ok(())
}

/// What peers may take, and what of that which workers say is worth telling the supervisor.
fn limits(config: &Config) -> Limits {
    let mut limits = Limits::default();
    limits.worker.ping = config.timeouts.ping;
    // Without a limit nobody is replaced for it, whatever is told.
    limits.worker.lag = config.retire.lag.unwrap_or(limits.worker.lag);
    limits
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
        backoff: config.spawn.backoff,
        give_up: config.spawn.give_up,
        retire: config.retire.clone(),
        memory: config.memory.clone(),
        kill_old: config.kill_old,
        holds_sockets: config.socket_activation,
        ..Settings::default()
    }
}

fn template(
    config: &Config,
    prepared_sockets: &PreparedSockets,
    mut environment: Vec<(OsString, OsString)>,
    account: Option<Account>,
) -> Template {
    if let Some(account) = account.as_ref().filter(|_| config.user.is_some()) {
        // Those of this process say who it runs as.
        environment.retain(|(name, _)| Account::VARIABLES.iter().all(|it| name != it));
        environment.extend(account.variables());
    }
    let mut environment = config.env.resolve(environment);
    // Not known where it was removed: then it is the same for every master that is started there.
    let directory = std::env::current_dir().unwrap_or_default();
    let fingerprint = ConfigFingerprint::of(config, &directory, &environment);
    environment.insert("IPCLUSTER_NAME".into(), config.name.as_str().into());
    if let Some(socket) = &prepared_sockets.socket {
        environment.insert("IPCLUSTER_SOCKET".into(), socket.into());
    }
    if let Some(path) = &prepared_sockets.notify_path {
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
        name: config.name.clone(),
        fingerprint,
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
            .then(|| ListenerTemplate::of(&config.listeners, config.engine, config.backlog).into()),
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

#[cfg(test)]
mod tests;
