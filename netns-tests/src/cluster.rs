//! A cluster under test: the program `ipcluster` in the server's namespace.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::plan::Engine;
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::{Lab, Process, control, engine, greeter, ipcluster};

/// A running `ipcluster run`, and the other verbs for it.
///
/// When this value goes the master is killed; the workers end with the test's pid namespace.
#[derive(Debug)]
pub struct Cluster<'a> {
    lab: &'a Lab,
    name: String,
    /// How long new workers are on probation; `None`: as long as by default.
    probation: Option<String>,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    wrapper: Vec<OsString>,
    master: Option<Process>,
}

/// How long a status is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long nobody looks between two looks at a status. Much shorter, and they are a load of their own.
const BETWEEN_LOOKS: Duration = Duration::from_millis(4);

/// What `ipcluster status --json` says, as far as tests look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The cluster's name.
    pub name: String,
    /// The master's process.
    pub pid: u32,
    /// The generation in force.
    pub generation: u64,
    /// How often the rules were made anew.
    pub repairs: u64,
    /// Who made the last repair necessary.
    pub last_writer: Option<RuleWriter>,
    /// Rules of others that decide before ours.
    pub foreign_chains: Vec<ForeignChain>,
    /// Live and other workers.
    pub workers: Vec<WorkerStatus>,
}

/// A process that changed rules, in a [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuleWriter {
    /// Its number in the initial pid namespace.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// A rule of somebody else, in a [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ForeignChain {
    /// The family of its table.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its base chain.
    pub chain: String,
    /// The priority of that.
    pub priority: i32,
    /// Its handle.
    pub handle: u64,
    /// The listener whose connections it maps.
    pub listener: String,
    /// Whether it maps all of them.
    pub certain: bool,
}

/// A worker in a [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// Its seat.
    pub seat: u16,
    /// How many slots its seat has.
    pub slots: u32,
    /// Its process, where it has one.
    pub pid: Option<u32>,
    /// `starting`, `live`, `retired` or `dying`.
    pub state: String,
    /// Whether it is kept able to serve until a probation is over.
    pub standby: bool,
    /// Its generation.
    pub generation: u64,
    /// `ok` or `silent`.
    pub health: String,
    /// What it says that it does.
    pub text: Option<String>,
    /// Its worker port for each public port.
    pub ports: BTreeMap<String, u16>,
    /// Its further ports.
    pub private_ports: Vec<u16>,
    /// The number that no other worker has, if that is known.
    pub number: Option<u64>,
    /// How many connections it has, if that is known.
    pub connections: Option<u32>,
    /// How many wait to be accepted, if that is known.
    pub queued: Option<u32>,
    /// How many its seat has had, if it is live.
    pub connections_total: Option<u64>,
    /// Its resident memory in bytes, if that is known.
    pub memory: Option<u64>,
}

impl Status {
    /// The live workers, by seat.
    pub fn live(&self) -> Vec<&WorkerStatus> {
        let mut live: Vec<_> =
            self.workers.iter().filter(|worker| worker.state == "live").collect();
        live.sort_by_key(|worker| worker.seat);
        live
    }

    /// The health of the live worker in each seat.
    pub fn health(&self) -> Vec<&str> {
        self.live().iter().map(|worker| worker.health.as_str()).collect()
    }

    /// The process of the live worker in each seat.
    pub fn pids(&self) -> BTreeMap<u16, u32> {
        self.live().iter().filter_map(|worker| Some((worker.seat, worker.pid?))).collect()
    }

    /// Whether all its workers are live, and there are so many.
    pub fn is_settled(&self, workers: usize) -> bool {
        self.workers.len() == workers && self.live().len() == workers
    }
}

impl<'a> Cluster<'a> {
    /// A cluster of greeters on the server's addresses, port 80, that is still to be started:
    /// `run --name t --listen 10.9.0.1:80 --listen [fd09::1]:80 --workers N -- greeter`, with the
    /// [`engine`] of the case.
    pub fn new(lab: &'a Lab, workers: u16) -> Self {
        Self::on(lab, Lab::targets(80), workers)
    }

    /// The same on other addresses.
    pub fn on(lab: &'a Lab, listeners: impl IntoIterator<Item = SocketAddr>, workers: u16) -> Self {
        Self::with_engine(lab, engine(), listeners, workers)
    }

    /// The same with this engine.
    pub fn with_engine(
        lab: &'a Lab,
        engine: Engine,
        listeners: impl IntoIterator<Item = SocketAddr>,
        workers: u16,
    ) -> Self {
        let mut cluster = Self {
            lab,
            name: "t".to_owned(),
            probation: Some("0".to_owned()),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            wrapper: Vec::new(),
            master: None,
        };
        for target in listeners {
            cluster = cluster.argument("--listen").argument(target.to_string());
        }
        if engine != Engine::default() {
            cluster = cluster.argument("--engine").argument(engine.to_string());
        }
        let passed = cluster.argument("--env").argument("GREETER_*");
        passed.argument("--workers").argument(workers.to_string())
    }

    /// A cluster whose settings are in this file: `run --name t -c FILE -- greeter`, with the [`engine`] of
    /// the case.
    pub fn from_file(lab: &'a Lab, file: &Path) -> Self {
        let mut cluster = Self {
            lab,
            name: "t".to_owned(),
            probation: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            wrapper: Vec::new(),
            master: None,
        };
        if engine() != Engine::default() {
            cluster = cluster.argument("--engine").argument(engine().to_string());
        }
        cluster.argument("-c").argument(file)
    }

    /// Adds an argument of `run`, before the command.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Puts the workers of a rollout on probation for so long; `None`: as long as by default. Without this
    /// there is no probation, so that a reload is answered when it is in force.
    pub fn on_probation(mut self, probation: impl Into<Option<&'static str>>) -> Self {
        self.probation = probation.into().map(str::to_owned);
        self
    }

    /// The arguments of `run` up to the command, without its name.
    pub fn flags(&self) -> Vec<OsString> {
        self.settings()
    }

    /// The arguments of `run` up to the command.
    fn settings(&self) -> Vec<OsString> {
        let probation = self.probation.iter();
        let probation = probation.flat_map(|it| ["--rollout-probation".into(), it.into()]);
        self.arguments.iter().cloned().chain(probation).collect()
    }

    /// Sets a variable in the environment of the master, which passes those that begin with
    /// `GREETER_` on to its workers.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has another program run the master: these words come before its command line.
    pub fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// Has the master start in this directory, which it is told by this name (`PWD`), as a shell does.
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Has the greeters speak first, as [`Lab::lean_load`] needs it.
    pub fn speaking_first(self) -> Self {
        self.environment("GREETER_SPEAK", "first")
    }

    /// Starts it with greeters, and waits until `workers` of them are live.
    pub fn start(self, workers: usize) -> Self {
        self.start_with(&[greeter().into()], workers)
    }

    /// Starts it with this worker command, and waits until `workers` of them are live.
    pub fn start_with(mut self, worker: &[OsString], workers: usize) -> Self {
        self.start_master(worker);
        self.wait_for_live(workers);
        self
    }

    /// Starts it with greeters whose environment can be changed later, by
    /// [`set_greeters`](Self::set_greeters), and waits until `workers` of them are live.
    pub fn start_adjustable(self, workers: usize) -> Self {
        self.set_greeters("");
        let command = self.adjustable_command();
        self.start_with(&command, workers)
    }

    /// The worker command of an [adjustable](Self::start_adjustable) cluster.
    pub fn adjustable_command(&self) -> [OsString; 5] {
        let script = "set -a; . \"$0\"; exec \"$1\"";
        let settings = self.greeter_settings();
        ["sh".into(), "-c".into(), script.into(), settings.into(), greeter().into()]
    }

    /// What greeters of an [adjustable](Self::start_adjustable) cluster that start from now on do
    /// first: shell commands, of which the variables are theirs.
    pub fn set_greeters(&self, script: &str) {
        // In one step: a worker that starts just now reads the old one or the new one.
        let file = self.greeter_settings();
        let new = file.with_extension("new");
        std::fs::write(&new, script).expect("the case's directory can be written to");
        std::fs::rename(new, file).expect("a file of ours can be renamed");
    }

    fn greeter_settings(&self) -> PathBuf {
        self.lab.directory().join("greeters.sh")
    }

    /// Starts a master with this worker command, and does not wait. Also after
    /// [`kill_master`](Self::kill_master): the next one.
    pub fn start_master(&mut self, worker: &[OsString]) {
        let mut command = match self.wrapper.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(ipcluster()).arg("run");
                command.env("XDG_RUNTIME_DIR", self.lab.directory());
                command
            }
            None => self.command("run"),
        };
        command.args(["--name", &self.name]).args(self.settings()).arg("--").args(worker);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory).env("PWD", directory);
        }
        self.master = Some(self.lab.start("master", command));
    }

    /// As [`start_master`](Self::start_master), with this as its standard output and error.
    pub fn start_master_printing_to(&mut self, worker: &[OsString], output: OwnedFd) {
        let mut command = self.command("run");
        command.args(["--name", &self.name]).args(self.settings()).arg("--").args(worker);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = self.lab.directory().join("nobody-writes-it");
        let server = self.lab.server();
        self.master = Some(Process::start_printing_to(server, command, &log, output));
    }

    /// Starts a master that takes over from the one that runs, and returns that one.
    ///
    /// # Panics
    /// While none was started.
    pub fn replace_master(&mut self, worker: &[OsString]) -> Process {
        let old = self.take_master();
        self.start_replacing(worker);
        old
    }

    /// As [`replace_master`](Self::replace_master), with a master of other settings; `next` has it from then on.
    ///
    /// # Panics
    /// While none was started.
    pub fn replace_master_by(&mut self, next: &mut Self, worker: &[OsString]) -> Process {
        let old = self.take_master();
        next.start_replacing(worker);
        old
    }

    /// Has this process as its master again, since the one that was to replace it has ended, and returns that.
    ///
    /// # Panics
    /// While none was started.
    pub fn keep_master(&mut self, old: Process) -> Process {
        let refused = self.take_master();
        self.master = Some(old);
        refused
    }

    fn start_replacing(&mut self, worker: &[OsString]) {
        let mut command = self.command("run");
        command.arg("--replace").args(["--name", &self.name]).args(self.settings());
        command.arg("--").args(worker);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.master = Some(self.lab.start("master", command));
    }

    /// The master's process, which is the caller's from then on.
    ///
    /// # Panics
    /// While none was started.
    pub fn take_master(&mut self) -> Process {
        self.master.take().expect("a master was started")
    }

    /// Waits until the status has `workers` live ones.
    ///
    /// # Panics
    /// After 30 s, or when the master ends, with what it printed.
    pub fn wait_for_live(&mut self, workers: usize) -> Status {
        self.wait_for(&format!("{workers} live workers"), |status| status.live().len() == workers)
    }

    /// Waits until `condition` holds for the status, and returns that.
    ///
    /// # Panics
    /// After 30 s, or when the master ends, with what it printed.
    pub fn wait_for(&mut self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        let began = Instant::now();
        let mut last = None;
        loop {
            if let Some(master) = &mut self.master {
                assert!(master.is_running(), "the master ended:\n{}", master.output());
            }
            last = self.try_status().or(last);
            match last.take_if(|status| condition(status)) {
                Some(status) => return status,
                None if began.elapsed() < PATIENCE => thread::sleep(BETWEEN_LOOKS),
                None => break,
            }
        }
        panic!(
            "waited {PATIENCE:?} for {what}\nlast status: {last:#?}\nthe master:\n{}",
            self.log()
        );
    }

    /// Waits until it has `workers` live workers and no others.
    pub fn wait_until_settled(&mut self, workers: usize) -> Status {
        self.wait_for(&format!("{workers} live workers and no others"), |status| {
            status.is_settled(workers)
        })
    }

    /// Its status over the control socket, or none while no master answers: for those who look again
    /// and again, since a program for each look would take the processors from those who are looked at.
    pub fn try_status(&self) -> Option<Status> {
        let socket = format!("ipcluster/{}.sock", self.name);
        // The second is that of a master that does not run as root.
        let directories = [Path::new("/run"), self.lab.directory()];
        let stream =
            directories.iter().find_map(|it| UnixStream::connect(it.join(&socket)).ok())?;
        // A process that has as many connections as one may have is refused. A program is another one.
        control::status(stream).or_else(|| self.printed_status())
    }

    /// Its status, as the program prints it.
    ///
    /// # Panics
    /// Where no master answers.
    pub fn status(&self) -> Status {
        self.printed_status().unwrap_or_else(|| panic!("no status; the master:\n{}", self.log()))
    }

    fn printed_status(&self) -> Option<Status> {
        let output = self.verb("status", &["--json"]);
        output.status.success().then(|| {
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
                panic!("status --json: {error}\n{}", String::from_utf8_lossy(&output.stdout))
            })
        })
    }

    /// Reloads, which must succeed.
    pub fn reload(&self) {
        self.succeed("reload", &[]);
    }

    /// Runs a verb that must succeed, and returns what it printed.
    pub fn succeed(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.verb(verb, arguments);
        assert!(
            output.status.success(),
            "{verb} {arguments:?}: {}\n{}\nthe master:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log(),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a verb that must fail with exit code 1, and returns what it printed on stderr.
    pub fn fail(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.verb(verb, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{verb} {arguments:?}: {stderr}");
        stderr
    }

    /// Starts `ipcluster VERB NAME ARGUMENTS...`, and does not wait for it.
    pub fn begin(&self, verb: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(verb);
        command.arg(&self.name).args(arguments);
        self.lab.start(verb, command)
    }

    /// As [`begin`](Self::begin), with this as its standard output and error.
    pub fn begin_printing_to(&self, verb: &str, arguments: &[&str], output: OwnedFd) -> Process {
        let mut command = self.command(verb);
        command.arg(&self.name).args(arguments);
        let log = self.lab.directory().join("nobody-writes-it");
        Process::start_printing_to(self.lab.server(), command, &log, output)
    }

    /// Runs `ipcluster VERB NAME ARGUMENTS...` in the server's namespace.
    pub fn verb(&self, verb: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(verb);
        command.arg(&self.name).args(arguments);
        let output = self.lab.server().run_in(|| command.output());
        output.expect("the namespace can be entered").expect("ipcluster can be run")
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(ipcluster());
        command.arg(verb).env("XDG_RUNTIME_DIR", self.lab.directory());
        command
    }

    /// The master's process.
    ///
    /// # Panics
    /// While none was started, or it was killed.
    pub fn master(&mut self) -> &mut Process {
        self.master.as_mut().expect("a master was started")
    }

    /// Ends the master by SIGKILL, and waits until it is gone.
    pub fn kill_master(&mut self) {
        if let Some(mut master) = self.master.take() {
            master.signal(Signal::SIGKILL);
            master.wait(Duration::from_secs(5));
        }
    }

    /// Ends the master by SIGTERM: workers and rules stay. Returns what it printed.
    ///
    /// # Panics
    /// Where it does not end within 5 s, with exit code 0.
    pub fn terminate_master(&mut self) -> String {
        let mut master = self.master.take().expect("a master was started");
        master.signal(Signal::SIGTERM);
        let status = master.wait(Duration::from_secs(5));
        assert!(status.success(), "{status}\n{}", master.output());
        master.output()
    }

    /// What the master has printed.
    pub fn log(&self) -> String {
        self.master.as_ref().map_or_else(String::new, Process::output)
    }
}
