//! Making a master: what it needs before its loop can run.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::adoption::Renewal;
use super::background::BackgroundThread;
use super::clock::Clock;
use super::configuration::{
    ConfigAndTemplate, ConfigSource, Configuration, ConfigurationReader, settings,
};
use super::error::MasterError;
use super::fleet::FleetThread;
use super::handover::give::Handover;
use super::handover::observer::StepObserver;
use super::handover::receive::RunningMaster;
use super::health::HealthMonitor;
use super::host::{TakenPort, owners_of_ports};
use super::operators::Operators;
use super::rules::{ForeignScanner, Rules};
use super::run::{Adopted, Ended, Master, Subjects};
use super::startup::adoption_hint::AdoptionHint;
use super::startup::claim::Claim;
use super::startup::dedicate::{Dedicated, dedicate_process};
use super::startup::find_workers::users;
use super::startup::in_the_way::{accepted, refuse_what_is_in_the_way};
use super::startup::orphans::Orphans;
use super::startup::state::{AdoptedWorker, LeftFiles, StartupState};
use super::startup::template::TemplateSource;
use super::startup::worker_ports::port_pool;
use super::startup::worker_sockets::{PreparedSockets, WorkerSockets};
use super::workers::{
    Askers, Destination, Journal, Layout, LogFiles, Printer, ProcessNotes, Recent, SharedRecent,
    Spawner, StateFiles, Stdout, Template, Workers, last_lines_of_files,
};
use crate::config::{Config, ConfigError, WorkerOutput};
use crate::control::{
    ControlDir, ControlLimits, ControlServer, Lock, ReceivedRequest, StartNote, StartNoteFile,
};
use crate::nft::Firewall;
use crate::plan::{ClusterName, Plan};
use crate::process::{
    Account, OwnConnections, Restrictions, ServiceManager, effective_uid, group_number, is_journal,
    is_same_file, with_group,
};
use crate::supervisor::{InitialPlan, Settings, Supervisor};

/// Makes a [`Master`].
///
/// A program of which the master is the whole purpose needs no more than [`Self::run_as_service`]. One that
/// talks to its master meanwhile calls [`Self::dedicate_process`], [`Self::start`] and [`Master::run`]. In a
/// program that does other things as well, [`Self::start`] alone changes nothing about the process.
#[derive(Debug)]
pub struct Builder {
    config: Config,
    control: Option<ControlDir>,
    environment: Vec<(OsString, OsString)>,
    print_output: bool,
    descriptor_limit: Option<u64>,
    /// What this process could not do before it was dedicated to the master.
    began: Option<Restrictions>,
    service_manager: Option<ServiceManager>,
    obeys_signals: bool,
    replace: bool,
    reload: bool,
    reload_from: Option<ConfigSource>,
    observer: StepObserver,
    /// It is to stop a cluster that an earlier master has left, and to do nothing else.
    stops: Option<OnlyStops>,
    /// Who has public ports, as a process sees it that has its capabilities still.
    taken_ports: Vec<TakenPort>,
}

impl Master {
    /// A master for this configuration.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }
}

impl Builder {
    fn new(config: Config) -> Self {
        let environment = std::env::vars_os().collect();
        let observer = StepObserver::default();
        Self {
            config,
            control: None,
            environment,
            print_output: false,
            descriptor_limit: None,
            began: None,
            service_manager: None,
            obeys_signals: false,
            replace: false,
            reload: false,
            reload_from: None,
            observer,
            stops: None,
            taken_ports: Vec::new(),
        }
    }

    /// Lets operators command the master over a socket in this directory, and lets no second master
    /// of this name start there.
    #[must_use]
    pub fn control(self, directory: ControlDir) -> Self {
        Self { control: Some(directory), ..self }
    }

    /// Gives workers variables of these, those that the configuration chooses, in place of variables of
    /// this process.
    #[must_use]
    pub fn environment(self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { environment: variables.into_iter().collect(), ..self }
    }

    /// Gives workers this soft limit of open files, for a program that has raised its own.
    #[must_use]
    pub fn worker_descriptor_limit(self, limit: u64) -> Self {
        Self { descriptor_limit: Some(limit), ..self }
    }

    /// Notifies this service manager (sd_notify(3)): `READY=1` when the first worker serves, by rules that
    /// are in force, or an earlier master's workers do; `RELOADING=1` and again `READY=1` around each
    /// reload, `STOPPING=1`, `STATUS=`, and `WATCHDOG=1` twice within each of its limits, from the loop.
    #[must_use]
    pub fn service_manager(self, manager: ServiceManager) -> Self {
        Self { service_manager: Some(manager), ..self }
    }

    /// Has each reload read the configuration again, by this function, which is called in a thread of its
    /// own. What has changed is put in force with the new generation; where it cannot be, or the function
    /// fails, the reload is refused, and nothing has happened. Without this, a reload starts a new
    /// generation with the configuration that the master has.
    ///
    /// ```
    /// use ipcluster::config::{Config, WorkerCommand};
    /// use ipcluster::master::Master;
    ///
    /// let read = |workers| {
    ///     Config::builder()
    ///         .listen(vec!["0.0.0.0:80".parse().expect("a listener")])
    ///         .command(WorkerCommand::new("server"))
    ///         .workers(workers)
    ///         .build()
    /// };
    /// let builder = Master::builder(read(2)?).reload_from(move || read(3));
    /// # drop(builder);
    /// # Ok::<_, ipcluster::config::ConfigError>(())
    /// ```
    #[must_use]
    pub fn reload_from(
        self,
        read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self { reload_from: Some(ConfigSource::new(read)), ..self }
    }

    /// Prints what workers print on standard output, each line with the seat before it, unless the
    /// configuration sends it elsewhere (`output.to`).
    #[must_use]
    pub fn print_output(self) -> Self {
        Self { print_output: true, ..self }
    }

    /// Has [`Master::run`] obey the signals of the process: SIGTERM and SIGINT end the master alone, or stop
    /// the cluster, as the setting `on_exit` says ([`OnExit`](crate::config::OnExit)), where the second of
    /// them does not wait for connections; SIGHUP is a reload, unless the terminal of the process has ended;
    /// SIGUSR1 is clear-retired. None of these signals ends the process any
    /// more by itself, also when the master has ended.
    #[must_use]
    pub fn obey_signals(self) -> Self {
        Self { obeys_signals: true, ..self }
    }

    /// Makes this process the service of which the master is the whole purpose, as `ipcluster run` is. It is
    /// one call for all of this, each of which can be had separately:
    ///
    /// | what | separately | acts on |
    /// |---|---|---|
    /// | gives up all capabilities but those that the master needs, for good, also for what is executed (`no_new_privs`, an empty bounding set) | [`keep_only_capabilities`] with [`needed_capabilities`] | the calling thread, and threads and processes that it starts from then on |
    /// | raises the soft limit of open files to the hard one; workers get the soft limit that was | [`raise_descriptor_limit`] with [`Self::worker_descriptor_limit`] | the process |
    /// | lets retired workers that serve again after a rollback have their nice value back, where the process may raise that limit (`CAP_SYS_RESOURCE`) | [`allow_nice_back`] | the process |
    /// | becomes the parent of processes below it whose parent ends, and waits for them: so daemons that a worker starts are found, and ended with it. Children that the program starts itself have to stay in its session, else they are taken for such | [`adopt_orphans`] | the process |
    /// | notifies the service manager that `NOTIFY_SOCKET` names | [`ServiceManager::from_environment`] with [`Self::service_manager`] | the master |
    /// | obeys signals | [`Self::obey_signals`] | the process |
    ///
    /// Call it early in `main`, before there is a second thread: the kernel keeps capabilities for each
    /// thread (capset(2) changes those of the calling thread alone), and a thread that is there already
    /// would keep all of its own. So the call comes before a multi-threaded runtime is made; within a
    /// runtime of one thread it is early enough.
    ///
    /// ```no_run
    /// use ipcluster::config::{Config, WorkerCommand};
    /// use ipcluster::master::{ControlDir, Ended, Master};
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let config = Config::builder()
    ///         .listen(vec!["0.0.0.0:80".parse()?])
    ///         .command(WorkerCommand::new("/usr/local/bin/server"))
    ///         .build()?;
    ///     let builder = Master::builder(config).control(ControlDir::locate()?);
    ///     let builder = builder.dedicate_process()?;
    ///     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    ///     let ended = runtime.block_on(async {
    ///         let master = builder.start()?;
    ///         let handle = master.handle(); // to reload, scale, ask for the status ...
    ///         # drop(handle);
    ///         master.run().await
    ///     })?;
    ///     if ended == Ended::Left {
    ///         println!("the workers serve on");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`MasterError::Process`] with [`ProcessError::ManyThreads`] if there is a second thread, or if the
    /// kernel refuses. Limits may have been raised then.
    ///
    /// [`keep_only_capabilities`]: crate::process::keep_only_capabilities
    /// [`needed_capabilities`]: crate::master::needed_capabilities
    /// [`raise_descriptor_limit`]: crate::process::raise_descriptor_limit
    /// [`allow_nice_back`]: crate::process::allow_nice_back
    /// [`adopt_orphans`]: crate::process::adopt_orphans
    /// [`ProcessError::ManyThreads`]: crate::process::ProcessError::ManyThreads
    pub fn dedicate_process(self) -> Result<Self, MasterError> {
        // Afterwards processes of others cannot be inspected any more.
        let taken_ports = owners_of_ports(self.config.listeners());
        let dedicated = dedicate_process(&self.config)?;
        let Dedicated { descriptor_limit, began, service_manager } = dedicated;
        Ok(Self {
            taken_ports,
            descriptor_limit: Some(descriptor_limit),
            began: Some(began),
            service_manager,
            obeys_signals: true,
            ..self
        })
    }

    /// Runs the master as the service of which it is the whole purpose, until it ends:
    /// [`Self::dedicate_process`], a runtime of one thread, [`Self::start`] and [`Master::run`].
    ///
    /// ```no_run
    /// use ipcluster::config::{Config, WorkerCommand};
    /// use ipcluster::master::{ControlDir, Master};
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let config = Config::builder()
    ///         .listen(vec!["0.0.0.0:80".parse()?])
    ///         .command(WorkerCommand::new("/usr/local/bin/server"))
    ///         .build()?;
    ///     let builder = Master::builder(config).control(ControlDir::locate()?);
    ///     let ended = builder.run_as_service()?;
    ///     println!("{ended:?}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`Self::dedicate_process`], [`Self::start`] and [`Master::run`];
    /// [`MasterError::Runtime`].
    ///
    /// # Panics
    /// Within a tokio runtime.
    pub fn run_as_service(self) -> Result<Ended, MasterError> {
        self.run_as_service_with(|| Ok(()))
    }

    /// As [`Self::run_as_service`]; calls `dedicated` when the process may have more than one thread.
    pub(crate) fn run_as_service_with(
        self,
        dedicated: impl FnOnce() -> Result<(), MasterError>,
    ) -> Result<Ended, MasterError> {
        let builder = self.dedicate_process()?;
        dedicated()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| MasterError::Runtime { source })?;
        runtime.block_on(async { builder.start()?.run().await })
    }

    /// Takes over from a master of this name in the same control directory, if one runs: its rules, its
    /// workers, its sockets. At every moment one of the two is the master, also if either is killed.
    /// Without this, [`Self::start`] fails where another master runs.
    #[must_use]
    pub fn replace(self) -> Self {
        Self { replace: true, ..self }
    }

    /// Starts a new generation of workers in place of those of an earlier master, of whom it goes on with
    /// all otherwise whose command and configuration are the same: with other code under the same name that is
    /// what a deployment wants. If that fails, the workers of the earlier master serve on, and this is their
    /// master; it says so in its log, and when it leaves.
    #[must_use]
    pub fn reload(self) -> Self {
        Self { reload: true, ..self }
    }

    /// Has the master carry out this request to stop the cluster as the first and only thing: it starts no
    /// worker, and opens no listener again. Workers may run as any of these users.
    pub(super) fn only_stopping(self, request: ReceivedRequest, users: BTreeSet<u32>) -> Self {
        Self { stops: Some(OnlyStops { request, users }), ..self }
    }

    /// For tests: `observer` is told each step of a handover as it is reached, on either side.
    #[doc(hidden)]
    #[must_use]
    pub fn observe(self, observer: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { observer: StepObserver::new(observer), ..self }
    }

    /// Makes this process the master of the cluster: claims the lock and the rules, finds the workers of an
    /// earlier master, and listens on the control socket, and for HTTP. Starts no worker yet, and changes no
    /// rule but where workers of an earlier master have ended: the rest is for [`Master::run`].
    ///
    /// # Errors
    /// [`MasterError`]: without the privilege, or beside another master, at once. Then nothing was changed.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO, if the configuration has `http.listen`.
    pub fn start(mut self) -> Result<Master, MasterError> {
        for hint in self.config.hints() {
            tracing::warn!("{hint}");
        }
        let account = look_up_account(&self.config)?;
        let mut running = self.connect()?;
        let mut claim = Claim::acquire(&self.config, self.control.as_ref(), running.as_mut())?;
        let (config, in_force) = (&self.config, claim.in_force.as_ref());
        refuse_what_is_in_the_way(config, in_force, &self.taken_ports)?;
        let workers = self.prepare_workers(&claim, account, running.as_mut())?;
        let state = self.find(&claim, &workers.template, running.as_mut())?;
        let templates = workers.templates;
        let parts = self.build(workers.template, templates, state)?;
        // Up to here nothing was changed that the running master, or a worker, could notice. From here on
        // this process is the master.
        let handed_over = || running.as_ref().and_then(RunningMaster::service_manager);
        self.service_manager = self.service_manager.or_else(handed_over);
        claim.confirm(running)?;
        log_server_preset(&self.config);
        self.open(claim, workers.sockets, parts)
    }

    /// Has the master that runs offer all that it has, if this one is to replace it.
    fn connect(&self) -> Result<Option<RunningMaster>, MasterError> {
        match &self.control {
            Some(directory) if self.replace => {
                RunningMaster::connect(directory, self.config.name(), &self.observer)
            }
            _ => Ok(None),
        }
    }

    /// Makes what workers are started with: binds the sockets that they are told of, and opens the files
    /// that they print to.
    fn prepare_workers(
        &self,
        claim: &Claim,
        account: Option<Account>,
        running: Option<&mut RunningMaster>,
    ) -> Result<PreparedWorkers, MasterError> {
        let config = &self.config;
        let sockets = match self.control.as_ref().zip(claim.lock.as_ref()) {
            Some((control, lock)) => {
                let account = account.as_ref();
                PreparedSockets::prepare(config, control, lock.socket(), account, running)?
            }
            None => PreparedSockets::default(),
        };
        let templates = TemplateSource {
            control: self.control.clone(),
            environment: self.environment.clone(),
            paths: sockets.paths(),
            descriptor_limit: self.descriptor_limit,
        };
        let template = templates.make(config, account)?;
        Ok(PreparedWorkers { template, templates, sockets })
    }

    /// Finds what an earlier master has left beside its rules.
    fn find(
        &self,
        claim: &Claim,
        template: &Template,
        running: Option<&mut RunningMaster>,
    ) -> Result<StartupState, MasterError> {
        let in_force = claim.in_force.as_ref();
        let users = match &self.stops {
            Some(stops) => stops.users.clone(),
            None => users(template.account.as_ref()),
        };
        let now = Clock.now();
        let received = running.map(|it| it.take_state(now)).transpose()?.unwrap_or_default();
        let noted = template.notes.as_ref().map(ProcessNotes::read).unwrap_or_default();
        let left = LeftFiles { states: template.states.as_ref(), noted };
        let fingerprint = template.fingerprint;
        StartupState::find(&self.config, in_force, fingerprint, users, left, received, now)
    }

    /// Makes what a master consists of, as far as it can be made before this process is the master: what of it
    /// may fail, such as threads, fails while a running master can still go on.
    fn build(
        &self,
        template: Template,
        templates: TemplateSource,
        state: StartupState,
    ) -> Result<Parts, MasterError> {
        let config = &self.config;
        let configured = template.states.as_ref().and_then(StateFiles::configured);
        let wanted = match (config.kill_old(), self.reload) {
            (true, _) => Some(Renewal::KillOld),
            (false, true) => Some(Renewal::Requested),
            (false, false) => None,
        };
        let found_reconfigure = match &self.stops {
            Some(_) => None,
            None => state.pending_reconfigure(template.fingerprint, configured, wanted),
        };
        let hint = AdoptionHint::of(&template, &state, found_reconfigure, Clock.now());
        let snapshot = state.snapshot();
        let StartupState { initial_plan, workers, orphans, .. } = state;
        let settings = Settings { seed: random_seed(), ..settings(config) };
        let mut supervisor = Supervisor::adopt(settings, initial_plan.clone(), snapshot)?;
        // Whatever the workers were started with: shares that are in force already are no change.
        let pending_reconfigure = found_reconfigure
            .filter(|wanted| wanted.renew.is_some() || !supervisor.is_as_configured());
        let (states, shares) = (template.states.clone(), template.fingerprint.shares);
        let fleet_notes = states.clone();
        let template = Arc::new(template);
        let spawner = Spawner::new(Arc::clone(&template), port_pool(config)?)?;
        let read = self.reload_from.clone();
        let reader = read.map(|read| ConfigurationReader::new(read, templates)).transpose()?;
        let (config_in_force, in_force) = (Arc::new(config.clone()), Arc::clone(&template));
        let in_force = ConfigAndTemplate { config: config_in_force, template: in_force };
        let mut adopted = Adopted {
            workers: Vec::new(),
            reconfigure: pending_reconfigure,
            shares,
            hint,
            stop: None,
        };
        for AdoptedWorker { snapshot, started, .. } in workers {
            let (ports, told) = (Arc::clone(&started.ports), started.told.clone());
            supervisor.hold_private_ports(snapshot.worker, told.private_ports.as_slice().into());
            spawner.hold(snapshot.worker, started.generation, ports, told);
            adopted.workers.push((snapshot.worker, snapshot.seat, started));
        }
        spawner.all_held();
        let reshares = pending_reconfigure.is_some_and(|wanted| wanted.reshares);
        let workers_wanted = match supervisor.is_as_configured() || reshares {
            true => usize::from(config.workers()),
            false => supervisor.plan().seats().len(),
        };
        let own = Arc::new(OwnConnections::default());
        Ok(Parts {
            initial_plan,
            supervisor,
            adopted,
            foreign: ForeignScanner::new(
                accepted(config),
                config.worker_ports(),
                self.taken_ports.clone(),
            )?,
            configuration: Configuration::new(in_force, reader),
            workers: Workers::new(
                config,
                template,
                states.clone(),
                spawner,
                printer(config, self.print_output)?,
                recent_output(config),
                Arc::clone(&own),
            )?,
            states,
            health: HealthMonitor::new(config, own)?,
            operators: Operators::new(workers_wanted, usize::from(config.workers()))?
                .beside_output(prints_beside_log(config, self.print_output)),
            fleet: FleetThread::of(config, fleet_notes)?,
            orphans,
            handover: BackgroundThread::new("handover")?,
        })
    }

    /// Begins to listen where workers and operators find the master, and puts the rules right.
    fn open(
        self,
        claim: Claim,
        sockets: PreparedSockets,
        parts: Parts,
    ) -> Result<Master, MasterError> {
        let Self { config, observer, service_manager, obeys_signals, stops, began, .. } = self;
        let mut adopted = parts.adopted;
        let Claim { lock, control_socket, http_copy, mut firewall, commits, in_force, .. } = claim;
        let WorkerSockets { workers: workers_socket, notify } = sockets.open()?;
        let health = parts.health.with_socket(notify)?;
        if stops.is_none() {
            repair(&mut firewall, in_force.as_ref(), &parts.initial_plan)?;
        }
        let start_note = match (&stops, &self.control) {
            (None, Some(directory)) => leave_start_note(directory, config.name()),
            _ => None,
        };
        adopted.stop = stops.map(|stops| stops.request);
        let noted = parts.states.as_ref().and_then(StateFiles::connections);
        let in_kernel = match parts.initial_plan.in_force {
            true => Some(parts.initial_plan.plan.clone()),
            false => in_force,
        };
        let server = lock.map(|lock| serve(lock, control_socket, limits(&config))).transpose()?;
        let server = server.map(|server| for_group(server, config.control_group())).transpose()?;
        let links = parts.workers.link_sender();
        let server = server.map(|server| server.with_workers(links, workers_socket));
        let handover = match &server {
            Some(server) => {
                let (sockets, gate) = (server.descriptors()?, server.gate());
                let observer = observer.clone();
                Some(Handover::new(sockets, http_copy, gate, parts.handover, observer))
            }
            None => None,
        };
        observer.reach("next: serves");
        let askers = Askers::new(began)?;
        let operators = parts.operators.with_control(server).with_service_manager(service_manager);
        #[cfg(feature = "http")]
        let operators = operators.with_http(claim.http);
        let mut rules = Rules::new(firewall, commits, parts.foreign, in_kernel.as_ref(), noted)?;
        if let Some(counts) = rules.take_news_of_counts() {
            parts.workers.note_connections(counts);
        }
        let subjects = Subjects {
            rules,
            workers: parts.workers,
            health,
            operators,
            fleet: parts.fleet,
            orphans: parts.orphans,
            handover,
            configuration: parts.configuration,
            askers,
        };
        let master = Master::new(parts.supervisor, subjects, adopted).with_start_note(start_note);
        Ok(if obeys_signals { master.obeying_signals() } else { master })
    }
}

/// What a master is for that only stops a cluster.
#[derive(Debug)]
struct OnlyStops {
    /// The request for it.
    request: ReceivedRequest,
    /// The users as whom workers may run.
    users: BTreeSet<u32>,
}

/// What workers are started with.
struct PreparedWorkers {
    template: Template,
    templates: TemplateSource,
    sockets: PreparedSockets,
}

/// What a master consists of, as far as it can be made before the process is the master.
struct Parts {
    initial_plan: InitialPlan,
    supervisor: Supervisor,
    adopted: Adopted,
    configuration: Configuration,
    foreign: ForeignScanner,
    workers: Workers,
    states: Option<StateFiles>,
    health: HealthMonitor,
    operators: Operators,
    fleet: Option<FleetThread>,
    orphans: Orphans,
    handover: BackgroundThread,
}

/// Looks up whom workers run as, if that is configured, and checks that they can be started so.
/// Says which preset is in force, and what it does.
fn log_server_preset(config: &Config) {
    let Some(server) = config.server_in_force() else { return };
    tracing::info!("{server}; `server = \"none\"` turns it off");
    if let Some(obstacle) = server.obstacle() {
        tracing::warn!("{obstacle}: its workers do not get ready");
    }
}

fn look_up_account(config: &Config) -> Result<Option<Account>, MasterError> {
    let account = Account::look_up(config.user(), config.group())?;
    match &account {
        Some(account) => account.check()?,
        None if effective_uid() == 0 => tracing::warn!(
            "workers run as root, without capabilities, but with access to all files of root: set \
             `user` to run them as another user (`user = \"root\"` if that is intended)"
        ),
        None => {}
    }
    Ok(account)
}

/// Leaves a note of how this master was started.
fn leave_start_note(directory: &ControlDir, name: &ClusterName) -> Option<StartNoteFile> {
    let left = StartNote::of_this_process().leave(directory, name);
    let failed =
        |error: &std::io::Error| tracing::warn!(%error, "cannot note how the master was started");
    left.inspect_err(failed).ok()
}

/// Listens on the control socket: on `socket`, if a running master has handed it over.
fn serve(
    lock: Lock,
    socket: Option<OwnedFd>,
    limits: ControlLimits,
) -> Result<ControlServer, MasterError> {
    Ok(match socket {
        Some(socket) => ControlServer::handed_over(lock, socket, limits)?,
        None => ControlServer::bind(lock, limits)?,
    })
}

/// Opens the control socket to a group.
fn for_group(server: ControlServer, group: Option<&str>) -> Result<ControlServer, MasterError> {
    let group = group.map(|group| group_number("control_group", group)).transpose()?;
    match group {
        Some(group) => Ok(with_own_or_other_group(group, || server.for_group(Some(group)))??),
        None => Ok(server.for_group(None)?),
    }
}

/// Does what takes a group, as one that this process is a member of, or else with that as its own.
fn with_own_or_other_group<T>(group: u32, work: impl FnOnce() -> T) -> Result<T, MasterError> {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let is_member = |group: u32| groups.iter().any(|it| it.as_raw() == group);
    match is_member(group) || nix::unistd::getegid().as_raw() == group {
        true => Ok(work()),
        false => Ok(with_group(group, work)?),
    }
}

/// Puts the initial plan in force where the kernel holds another one. Clients of workers that have died
/// without a master go to the others at once; where the earlier master died while it stopped the cluster,
/// the listeners open again; and where somebody has removed the rules, they come back.
fn repair(
    firewall: &mut Firewall,
    in_force: Option<&Plan>,
    initial_plan: &InitialPlan,
) -> Result<(), MasterError> {
    if initial_plan.in_force && in_force != Some(&initial_plan.plan) {
        firewall.apply(&initial_plan.plan)?;
        tracing::warn!(
            "changed the rules of the earlier master: only workers that listen are in force, with the \
             current settings"
        );
    }
    Ok(())
}

/// What peers of the control socket may take, and which reports of workers the supervisor gets.
fn limits(config: &Config) -> ControlLimits {
    let mut limits = ControlLimits::default();
    limits.worker.ping = config.ping_timeout();
    // Without a limit nobody is replaced for it, whatever is told.
    limits.worker.lag = config.retire().lag.unwrap_or(limits.worker.lag);
    limits
}

/// A number that no other master has.
fn random_seed() -> u64 {
    // Each value has keys of its own, which come from the kernel's random numbers.
    RandomState::new().build_hasher().finish()
}

/// Whether what workers print comes to where the log goes, which is stderr with `ipcluster run`.
fn prints_beside_log(config: &Config, print_output: bool) -> bool {
    match config.output() {
        WorkerOutput::Stdout => print_output && is_same_file(std::io::stdout(), std::io::stderr()),
        WorkerOutput::Journal => is_journal(std::io::stderr()),
        WorkerOutput::Directory(_) => false,
    }
}

/// The thread that passes on the output of workers, if it is passed on.
fn printer(config: &Config, print_output: bool) -> Result<Option<Printer>, MasterError> {
    let destination = match config.output() {
        WorkerOutput::Stdout => {
            let layout = Layout {
                prefix: config.output_prefix(),
                timestamps: config.output_timestamps(),
                priority_first: is_journal(std::io::stdout()),
                ..Layout::default()
            };
            print_output.then(|| Destination::Stdout(Stdout::new(layout)))
        }
        WorkerOutput::Journal => {
            let program = Path::new(config.command().program()).file_name();
            let identifier = program.map_or_else(Default::default, |name| name.to_string_lossy());
            let journal = Journal::open(&identifier, config.name().as_str());
            Some(Destination::Journal(journal.map_err(|source| MasterError::Journal { source })?))
        }
        WorkerOutput::Directory(directory) => {
            let (keep, timestamps) = (config.output_keep(), config.output_timestamps());
            let files = LogFiles::open(directory, config.name(), keep, timestamps);
            Some(Destination::Files(files.map_err(|source| MasterError::Output { source })?))
        }
    };
    destination.map(Printer::new).transpose()
}

/// The last lines of workers, as far as earlier masters have left them.
fn recent_output(config: &Config) -> SharedRecent {
    let name = config.name();
    let (recent, older) = match config.output() {
        WorkerOutput::Stdout => (Recent::default(), None),
        WorkerOutput::Journal => {
            (Recent::default(), Some(format!("journalctl IPCLUSTER_NAME={name}")))
        }
        WorkerOutput::Directory(directory) => {
            let mut recent = Recent::default();
            for (seat, generation, lines) in last_lines_of_files(directory, name) {
                lines.into_iter().for_each(|line| recent.push_old(seat, generation, line));
            }
            let files = directory.join(format!("{name}.seat-*.log")).display().to_string();
            (recent, Some(files))
        }
    };
    SharedRecent::new(recent, older)
}

#[cfg(test)]
mod tests;
