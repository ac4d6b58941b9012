//! Cases, and how one gets into namespaces of its own.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use ipcluster::lab::enter_user_namespace;
use ipcluster::plan::Engine;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitStatus, waitpid};

use super::schedule::{Schedule, Share};
use super::{Lab, programs};

const STAGE: &str = "NETNS_TESTS_STAGE";
const CASE: &str = "NETNS_TESTS_CASE";
const PIDS: &str = "NETNS_TESTS_PIDS";
const STRICT: &str = "NETNS_TESTS_STRICT";
/// Set for a case that gives way to busy ones where processors are short.
const GIVES_WAY: &str = "NETNS_TESTS_GIVES_WAY";
/// For the processes that a case starts, too.
const ENGINE: &str = "NETNS_TESTS_ENGINE";
/// The only engine with which cases run that run with both.
const ONLY: &str = "NETNS_TESTS_ONLY_ENGINE";

/// A file to which a line is added for each case: how long it took and what processor time it used.
const TIMES: &str = "NETNS_TESTS_TIMES";

/// The case that only finds out whether the namespaces can be made.
const PROBE: &str = "";

/// Exit status of a stage where the system does not allow the namespaces.
const FORBIDDEN: u8 = 90;
/// Exit status of a stage that cannot mount /proc, as in most containers.
const NO_PROC: u8 = 91;

/// Something that a case cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The program `nft`.
    Nft,
    /// The program `conntrack`.
    Conntrack,
    /// The program `curl`.
    Curl,
    /// The program `python3`.
    Python,
    /// The program `node`.
    Node,
    /// The program `gunicorn`.
    Gunicorn,
    /// The program `nginx`.
    Nginx,
    /// A pid namespace, in which the numbers of processes begin at 1.
    Pids,
    /// Users besides root, whom processes can be started as: `nobody`, 65534, and others.
    OtherUsers,
    /// The library libfaketime.
    Faketime,
    /// A kernel with MPTCP, and the program `ip`.
    Multipath,
    /// The program `iptables-legacy`, and a kernel with its nat table.
    IptablesLegacy,
    /// The program `unbound`.
    Unbound,
    /// The program `chromium`.
    Chromium,
    /// The program `ufw`.
    Ufw,
    /// The programs `firewalld` and `dbus-daemon`.
    Firewalld,
    /// systemd, and the rights to start it as process 1 of namespaces of its own: root of the machine, and a
    /// hierarchy of control groups (version 2) to make one in.
    Systemd,
    /// The program `etcd`.
    Etcd,
    /// The program `ethtool`.
    Ethtool,
    /// The programs of BIRD 2 and FRR.
    Routing,
}

/// One test: a name, what it needs and what it does.
#[derive(Debug, Clone)]
pub struct Case {
    name: String,
    body: fn(&Lab),
    needs: Vec<Need>,
    limit: Duration,
    share: Share,
    on_request: bool,
    engine: Engine,
    has_both_engines: bool,
    is_second_on_request: bool,
}

impl Case {
    /// A test that fails by panicking. It may take two minutes.
    pub fn new(name: &'static str, body: fn(&Lab)) -> Self {
        Self {
            name: name.to_owned(),
            body,
            needs: Vec::new(),
            limit: Duration::from_secs(120),
            share: Share::Some,
            on_request: false,
            engine: Engine::Redirect,
            has_both_engines: false,
            is_second_on_request: false,
        }
    }

    /// The same case with its topic before its name.
    pub fn in_topic(self, topic: &str) -> Self {
        Self { name: format!("{topic}::{}", self.name), ..self }
    }

    /// Adds something that it cannot do without.
    pub fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// Has no other case run at the same time: it measures what the machine can do, or how soon
    /// something happens while the machine does all that it can.
    pub fn serial(mut self) -> Self {
        self.share = Share::All;
        self
    }

    /// Has no other case of this kind run at the same time, and the others give way to it: it keeps a
    /// processor busy, as a load of thousands of connections a second does, or looks at nice values.
    pub fn busy(mut self) -> Self {
        self.share = Share::Much;
        self
    }

    /// Has it run only with `--include-ignored` or `--ignored`: it takes long, or means something in
    /// a release build alone.
    pub fn on_request(mut self) -> Self {
        self.on_request = true;
        self
    }

    /// Has it run once with each engine: the second time `::tproxy` follows its name, and [`engine`]
    /// says so.
    pub fn with_both_engines(mut self) -> Self {
        self.has_both_engines = true;
        self
    }

    /// The same, of which the one with `::tproxy` runs [on request](Self::on_request) alone.
    pub fn with_both_engines_on_request(mut self) -> Self {
        self.is_second_on_request = true;
        self.with_both_engines()
    }

    /// Has it run with this engine.
    pub fn with(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    fn for_each_engine(self) -> Vec<Self> {
        if !self.has_both_engines {
            return vec![self];
        }
        let name = format!("{}::{}", self.name, Engine::Tproxy);
        let on_request = self.on_request || self.is_second_on_request;
        let other = Self { name, engine: Engine::Tproxy, on_request, ..self.clone() };
        vec![self, other]
    }

    /// Sets how long it may take, in whole seconds, before it is ended and counts as failed.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// The engine of the case that runs: what [`Cluster`](crate::Cluster) and [`plans`](crate::plans) make
/// is for that one.
pub fn engine() -> Engine {
    static OF_THE_CASE: OnceLock<Engine> = OnceLock::new();
    let of_the_case = || env::var(ENGINE).ok().and_then(|text| text.parse().ok());
    *OF_THE_CASE.get_or_init(|| of_the_case().unwrap_or_default())
}

/// The cases of these topics, each a module with a function `cases`.
#[macro_export]
macro_rules! topics {
    ($($topic:ident),* $(,)?) => {
        [$(($topic::cases(), stringify!($topic))),*]
            .into_iter()
            .flat_map(|(cases, topic)| cases.into_iter().map(move |case| case.in_topic(topic)))
    };
}

/// Runs the cases as `cargo test` expects of a test program: the whole of its `main`.
///
/// They begin in this order, as many at once as `--test-threads` says, or three for each processor: each
/// has its own namespaces, and much of what they do is to wait. At the end those that are
/// [serial](Case::serial), one after the other.
pub fn run(cases: impl IntoIterator<Item = Case>) -> ExitCode {
    let cases: Vec<Case> = cases.into_iter().flat_map(Case::for_each_engine).collect();
    match env::var(STAGE).as_deref() {
        Err(_) => run_trials(chosen(cases)),
        Ok("enter") => enter(),
        Ok("init") => init(),
        Ok("inside") => inside(&cases),
        Ok(other) => panic!("{STAGE}={other}: set by this program only"),
    }
}

/// How many cases run at once for each processor.
const AT_ONCE: usize = 2;

/// How nice cases are to [busy](Case::busy) ones, whose loads would else not keep their rates.
const NICE: i32 = 5;

/// Those of the engine that is asked for, of cases that run with both.
fn chosen(mut cases: Vec<Case>) -> Vec<Case> {
    if let Ok(only) = env::var(ONLY) {
        let only: Engine = only.parse().unwrap_or_else(|error| panic!("{ONLY}={only}: {error}"));
        cases.retain(|case| !case.has_both_engines || case.engine == only);
    }
    cases
}

fn run_trials(mut cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let processors = available_parallelism().map_or(1, Into::into);
    let at_once = arguments.test_threads.unwrap_or(AT_ONCE * processors);
    let schedule = Arc::new(Schedule::new(at_once));
    // A thread for each, in which it waits for its turn.
    arguments.test_threads = Some(cases.len().max(2));
    cases.sort_by_key(|case| case.share == Share::All);
    let shows = arguments.nocapture;
    let trials = cases
        .into_iter()
        .enumerate()
        .map(|(place, case)| {
            let (name, on_request) = (case.name.clone(), case.on_request);
            let schedule = Arc::clone(&schedule);
            let runner = move || {
                let _turn = schedule.wait(place, case.share);
                try_case(&case, shows)
            };
            Trial::ignorable_test(name, runner).with_ignored_flag(on_request)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn try_case(case: &Case, shows: bool) -> Result<Completion, Failed> {
    let missing = match isolation() {
        Isolation::Forbidden(reason) => Some((reason.clone(), true)),
        isolation => case
            .needs
            .iter()
            .find_map(|need| need.missing(isolation).map(|reason| (reason, need.can_be_had()))),
    };
    match missing {
        Some((reason, true)) if env::var_os(STRICT).is_some() => {
            Err(format!("{STRICT} is set, and {reason}").into())
        }
        Some((reason, _)) => Ok(Completion::ignored_with(reason)),
        None => run_isolated(&case.name, case.engine, case.share, isolation(), shows)
            .map_err(Failed::from)
            .and_then(|(status, output)| verdict(case, status, &output))
            .map(|()| Completion::Completed),
    }
}

impl Need {
    /// Whether it is there when all is installed: a user without root has no other users, and a browser is
    /// large, so that `netns-tests/run` goes on without it.
    fn can_be_had(self) -> bool {
        match self {
            Self::OtherUsers => nix::unistd::geteuid().is_root(),
            // The first is a kernel's.
            Self::Multipath | Self::Chromium | Self::Systemd => false,
            _ => true,
        }
    }

    /// Why it is not there.
    fn missing(self, isolation: &Isolation) -> Option<String> {
        let program = |name| programs::find(name).is_none().then(|| format!("no program {name}"));
        match self {
            Self::Nft => program("nft"),
            Self::Conntrack => program("conntrack"),
            Self::Curl => program("curl"),
            Self::Python => program("python3"),
            Self::Node => program("node"),
            Self::Gunicorn => program("gunicorn"),
            Self::Nginx => program("nginx"),
            Self::Unbound => program("unbound"),
            Self::OtherUsers => {
                // As root the case stays in the user namespace that this runs in; any other user is
                // the only one of a new one.
                let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
                let all = |line: &str| {
                    let mut fields = line.split_ascii_whitespace();
                    let count = fields.nth(2).and_then(|count| count.parse::<u32>().ok());
                    line.trim_start().starts_with("0 ") && count.is_some_and(|it| it > 65_534)
                };
                (!nix::unistd::geteuid().is_root() || !map.lines().any(all))
                    .then(|| "no users but one".to_owned())
            }
            Self::Chromium => program("chromium"),
            Self::Etcd => program("etcd"),
            Self::Ethtool => program("ethtool"),
            Self::Routing => program("bird").or_else(|| {
                let is_there = Path::new("/usr/lib/frr/bgpd").exists();
                (!is_there).then(|| "no program bgpd".to_owned())
            }),
            Self::Ufw => program("ufw"),
            Self::Firewalld => program("firewalld").or_else(|| program("dbus-daemon")),
            Self::Systemd => super::systemd::missing(),
            Self::Faketime => {
                programs::libfaketime().is_none().then(|| "no libfaketime".to_owned())
            }
            Self::Multipath => {
                let is_there = Path::new("/proc/sys/net/mptcp/enabled").exists();
                (!is_there).then(|| "no MPTCP in this kernel".to_owned()).or_else(|| program("ip"))
            }
            Self::IptablesLegacy => program("iptables-legacy"),
            Self::Pids => (!matches!(isolation, Isolation::Whole))
                .then(|| "no pid namespace: /proc cannot be mounted here".to_owned()),
        }
    }
}

fn verdict(case: &Case, status: ExitStatus, output: &str) -> Result<(), Failed> {
    if status.success() {
        return Ok(());
    }
    let alarm = 128 + Signal::SIGALRM as i32;
    let how = match status.code() {
        Some(code) if code == alarm => format!("took longer than {:?}", case.limit),
        _ => status.to_string(),
    };
    Err(format!("{how}\n{output}").into())
}

/// How far cases can be kept apart on this system.
#[derive(Debug)]
enum Isolation {
    /// User, network, mount and pid namespaces.
    Whole,
    /// No pid namespace.
    WithoutPids,
    /// None, and why.
    Forbidden(String),
}

fn isolation() -> &'static Isolation {
    static ISOLATION: OnceLock<Isolation> = OnceLock::new();
    ISOLATION.get_or_init(|| {
        match run_isolated(PROBE, Engine::default(), Share::All, &Isolation::Whole, false) {
            Ok((status, _)) if status.success() => Isolation::Whole,
            Ok((status, _)) if status.code() == Some(NO_PROC.into()) => Isolation::WithoutPids,
            Ok((_, output)) => Isolation::Forbidden(output.trim().to_owned()),
            Err(error) => Isolation::Forbidden(error.to_string()),
        }
    })
}

/// Runs this program again as the first stage, and returns how it ended and what it printed.
fn run_isolated(
    case: &str,
    engine: Engine,
    share: Share,
    isolation: &Isolation,
    shows: bool,
) -> io::Result<(ExitStatus, String)> {
    let mut command = stage("enter")?;
    command.env(CASE, case).env(ENGINE, engine.to_string()).stdin(Stdio::null());
    if let Isolation::Whole = isolation {
        command.env(PIDS, "1");
    }
    if share == Share::Some {
        command.env(GIVES_WAY, "1");
    }
    if shows {
        return command.status().map(|status| (status, String::new()));
    }
    // A file and not a pipe: whoever inherits it cannot keep us waiting for its end.
    let output = Scratch::new(case)?;
    let file = File::create(&output.0)?;
    let status = command.stdout(file.try_clone()?).stderr(file).status()?;
    Ok((status, String::from_utf8_lossy(&fs::read(&output.0)?).into_owned()))
}

/// A file name that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(case: &str) -> io::Result<Self> {
        let name = format!("netns-tests-{}-{}.log", std::process::id(), case.replace("::", "-"));
        Ok(Self(env::temp_dir().join(name)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing else depends on it.
        let _ = fs::remove_file(&self.0);
    }
}

fn stage(name: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.env(STAGE, name);
    Ok(command)
}

/// Makes the namespaces and waits for what runs in them. Has one thread, as that needs.
fn enter() -> ExitCode {
    if env::var_os(GIVES_WAY).is_some() {
        rustix::process::nice(NICE).expect("whoever may run may run behind others");
    }
    if let Err(error) = enter_user_namespace() {
        eprintln!("{error}");
        return ExitCode::from(FORBIDDEN);
    }
    let next = match env::var_os(PIDS) {
        Some(_) => match unshare(CloneFlags::CLONE_NEWPID) {
            Ok(()) => "init",
            Err(_) => return ExitCode::from(NO_PROC),
        },
        None => "inside",
    };
    let began = Instant::now();
    let status = stage(next).and_then(|mut command| command.status());
    if let Some(file) = env::var_os(TIMES) {
        note_times(Path::new(&file), began.elapsed()).expect("the file of times can be written to");
    }
    exit_like(&status.expect("this program runs again"))
}

/// Adds what the case used: all processes of it were waited for by their parents, or by process 1.
fn note_times(file: &Path, elapsed: Duration) -> io::Result<()> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let (user, system) = (seconds(used.user_time()), seconds(used.system_time()));
    let (name, elapsed) = (env::var(CASE).unwrap_or_default(), elapsed.as_secs_f64());
    let line = format!("{elapsed:7.2} s, {user:7.2} s user, {system:7.2} s system  {name}\n");
    // One write, so that lines of cases that end at once stay whole.
    File::options().create(true).append(true).open(file)?.write_all(line.as_bytes())
}

/// Process 1 of the pid namespace: reaps every orphan, and ends, and so ends all others, when the
/// case does.
fn init() -> ExitCode {
    die_with_parent();
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV;
    if nix::mount::mount(Some("proc"), Path::new("/proc"), Some("proc"), flags, none).is_err() {
        return ExitCode::from(NO_PROC);
    }
    let inside = stage("inside").and_then(|mut command| command.spawn());
    let inside = inside.expect("this program runs again").id();
    loop {
        // Every child is ours to reap here: that is what process 1 is for.
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if is(pid, inside) => {
                return ExitCode::from(u8::try_from(code).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if is(pid, inside) => {
                return ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(0));
            }
            _ => {}
        }
    }
}

fn is(pid: nix::unistd::Pid, id: u32) -> bool {
    u32::try_from(pid.as_raw()) == Ok(id)
}

fn inside(cases: &[Case]) -> ExitCode {
    die_with_parent();
    let name = env::var(CASE).unwrap_or_default();
    if name == PROBE {
        return ExitCode::SUCCESS;
    }
    let case = cases.iter().find(|case| case.name == name).expect("a case of this program");
    // Whatever hangs, SIGALRM ends this process; pid 1 then ends, and all else with it.
    nix::unistd::alarm::set(u32::try_from(case.limit.as_secs()).unwrap_or(u32::MAX));
    let lab = Lab::new(&case.name);
    (case.body)(&lab);
    ExitCode::SUCCESS
}

fn die_with_parent() {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("SIGKILL is a signal");
}

fn exit_like(status: &ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
