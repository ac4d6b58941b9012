//! Measures real servers as workers: three reloads of each under load, in each way that it can be given
//! a port or a socket. `run` beside this file installs them and runs this.
//!
//! ```text
//! servers [libtest arguments]     measures; cases are called SERVER::WAY
//! servers page RESULTS PAGE       writes the tables of a page from what was measured
//! ```

mod backend;
mod grpc;
mod load;
mod measurement;
mod page;
mod table;

use std::ffi::OsString;
use std::iter::repeat_n;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs};

use ipcluster::config::{ServerPreset, WorkerCommand};
use ipcluster::lab::Network;
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, Process, wait_until};

use grpc::Calls;
use load::{Clients, Count, Habit};
use measurement::{Measurement, Way};
use table::{SERVERS, Server, Speaks};

/// How many workers a cluster has.
const WORKERS: u16 = 2;
/// How often it is reloaded; without the preset once.
const RELOADS: usize = 3;
/// How long the end of an earlier generation is waited for.
const PATIENCE: Duration = Duration::from_secs(16);
/// How long it is after one that did not come.
const MORE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a new generation is on probation, during which the earlier one is kept able to serve.
const PROBATION: &str = "1s";

/// Where the programs of `run` and what was measured are; `target/servers` unless it is set.
const HOME: &str = "SERVERS_HOME";
/// Has workers run without the preset of their server.
const WITHOUT: &str = "SERVERS_WITHOUT_PRESETS";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [verb, results, page] if verb == "page" => {
            page::write(Path::new(results), Path::new(page)).expect("the page can be written");
            ExitCode::SUCCESS
        }
        _ => netns_tests::run(cases()),
    }
}

fn cases() -> impl Iterator<Item = Case> {
    // The control is there for one way: it takes long, since keep-alive clients stay.
    let ways = if has_preset() { &Way::ALL[..] } else { &[Way::Port] };
    SERVERS.iter().flat_map(move |server| {
        ways.iter().copied().filter(|way| way.arguments(server).is_some()).map(|way| {
            let case = Case::new(way.name(), measure).in_topic(server.name);
            let case = if server.other_user { case.needs(Need::OtherUsers) } else { case };
            let case = if way == Way::Tproxy { case.with(Engine::Tproxy) } else { case };
            if server.in_ci.contains(&way) { case } else { case.on_request() }
        })
    })
}

fn measure(lab: &Lab) {
    let (name, way) = lab.name().split_once("::").expect("a case is called SERVER::WAY");
    let server = SERVERS.iter().find(|server| server.name == name).expect("a server");
    let way = Way::ALL.into_iter().find(|it| it.name() == way).expect("a way");
    let directory = prepare(lab);
    backend::start(lab.server());
    let mut cluster = start(lab, server, way, &directory);
    let (clients, _proxy) = Load::start(lab, server, &directory);
    let more = |count: u64| {
        let goal = clients.requests() + count;
        wait_until("requests", Duration::from_secs(30), || clients.requests() >= goal);
    };
    more(100);
    let mut gone = Vec::new();
    for _ in 0..if has_preset() { RELOADS } else { 1 } {
        cluster.reload();
        // Where keep-alive clients had workers stay once, they will again.
        let patience = if gone.contains(&None) { MORE_PATIENCE } else { PATIENCE };
        let time = wait_for_the_end_of_others(&cluster, patience);
        gone.push(time.map(|time| time.as_secs_f64()));
        more(50);
    }
    let has_ended = gone.iter().all(Option::is_some);
    let count = clients.stop();
    let measurement = Measurement {
        server: name.to_owned(),
        way,
        has_preset: has_preset(),
        version: version(server),
        requests: count.requests,
        failed: count.failed.clone(),
        gone,
    };
    println!("{measurement:?}\n{}", count.log.join("\n"));
    println!("--- the master:\n{}", cluster.log());
    measurement.save(&results()).expect("a result can be written");
    cluster.succeed("stop", &[]);
    cluster.master().wait(Duration::from_secs(30));
    assert_eq!(count.lost(), 0, "{:?}", count.failed);
    assert!(has_ended || !ends_by_signal(server), "workers of an earlier generation are left");
}

/// Whether retired workers are told to end at once, so that no client can have them stay.
fn ends_by_signal(server: &Server) -> bool {
    let preset = ServerPreset::named(server.preset).expect("a preset");
    let settings = preset.settings();
    let is_told = settings.iter().any(|(key, _)| *key == "retire_signal");
    has_preset() && (is_told || server.settings.contains("--retire-signal"))
}

/// The clients of a server.
enum Load {
    Http(Clients),
    Grpc(Calls),
}

impl Load {
    /// Starts them, and what has to stand between them and the server.
    fn start(lab: &Lab, server: &Server, directory: &Path) -> (Self, Option<Process>) {
        let public = Network::server_v4(80);
        let (proxy, target) = match server.speaks {
            Speaks::Grpc => {
                let python = home().join("python/bin/python");
                let target = public.to_string();
                return (Self::Grpc(Calls::start(lab.client(), &python, directory, &target)), None);
            }
            Speaks::FastCgi => {
                let target = FASTCGI_PROXY.parse().expect("an address");
                (Some(fastcgi_proxy(lab, directory)), target)
            }
            Speaks::Http => (None, public),
        };
        let habits = [(Habit::KeepAlive, 30), (Habit::Short, 15), (Habit::Slow, 6)];
        let habits = habits.iter().flat_map(|(habit, count)| repeat_n(*habit, *count));
        let clients = Clients::start(lab.client(), target, Network::clients_v4(51).zip(habits));
        (Self::Http(clients), proxy)
    }

    fn requests(&self) -> u64 {
        match self {
            Self::Http(clients) => clients.requests(),
            Self::Grpc(calls) => calls.requests(),
        }
    }

    fn stop(self) -> Count {
        match self {
            Self::Http(clients) => clients.stop(),
            Self::Grpc(calls) => calls.stop(),
        }
    }
}

/// Waits until no worker of an earlier generation is left, and says how long that took.
fn wait_for_the_end_of_others(cluster: &Cluster<'_>, patience: Duration) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < patience {
        let status = cluster.try_status().unwrap_or_default();
        if status.is_settled(WORKERS.into()) {
            return Some(began.elapsed());
        }
        // Looking is work that servers would have the processor for.
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

fn home() -> PathBuf {
    let ours = || {
        let program = env::current_exe().expect("/proc is mounted");
        let target = program.ancestors().nth(2).expect("target/debug/servers");
        target.join("servers")
    };
    env::var_os(HOME).map_or_else(ours, PathBuf::from)
}

fn results() -> PathBuf {
    home().join("results")
}

fn path() -> String {
    let home = home();
    let home = home.display();
    format!(
        "{home}/python/bin:{home}/npm/node_modules/.bin:{home}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    )
}

/// Copies the applications and configurations to a directory where every user may write.
fn prepare(lab: &Lab) -> PathBuf {
    let directory = lab.directory().join("server");
    fs::create_dir(&directory).expect("an empty file system");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777)).expect("it is ours");
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/apps");
    let files = fs::read_dir(apps).expect("the applications are part of the sources");
    for file in files.flatten().filter(|file| file.path().is_file()) {
        let text = fs::read_to_string(file.path()).expect("text");
        let text = text.replace("{dir}", &directory.display().to_string());
        fs::write(directory.join(file.file_name()), text).expect("the directory is ours");
    }
    directory
}

fn start<'a>(lab: &'a Lab, server: &Server, way: Way, directory: &Path) -> Cluster<'a> {
    let dir = directory.display().to_string();
    let mut arguments: Vec<String> = Vec::new();
    for variable in ["HOME={dir}", "PYTHONPATH={dir}", "PYTHONDONTWRITEBYTECODE=1", PHP] {
        arguments.extend(["--env".to_owned(), variable.replace("{dir}", &dir)]);
    }
    if way == Way::Sockets {
        arguments.push("--socket-activation".to_owned());
    }
    if server.other_user {
        arguments.extend(["--user", "nobody"].map(str::to_owned));
    }
    if server.command.contains("{config}") {
        arguments.extend(["--config-template".to_owned(), format!("{dir}/{}.conf", server.name)]);
    }
    let place = way.arguments(server).expect("a case has its way");
    let told = has_preset() && server.told_by_preset;
    let command = server.command.replace("{where}", if told { "" } else { place });
    let command = command.replace("{dir}", &dir);
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    let variable = server.environment[usize::from(way != Way::Port)];
    if !variable.is_empty() && !told {
        arguments.extend(["--env".to_owned(), variable.to_owned()]);
    }
    if has_preset() {
        let command = WorkerCommand::new(words[0]).args(words[1..].iter().copied());
        if ServerPreset::of(&command).is_none_or(|it| it.name() != server.preset) {
            arguments.extend(["--server", server.preset].map(str::to_owned));
        }
        arguments.extend(server.settings.split_ascii_whitespace().map(str::to_owned));
    } else {
        arguments.extend(["--server", "none"].map(str::to_owned));
    }
    let cluster = Cluster::on(lab, [Network::server_v4(80)], WORKERS).environment("PATH", &path());
    let cluster = cluster.on_probation(PROBATION);
    let cluster = arguments.into_iter().fold(cluster, Cluster::argument);
    let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    cluster.start_with(&words, WORKERS.into())
}

/// Has PHP's own server answer more than one client at a time.
const PHP: &str = "PHP_CLI_SERVER_WORKERS=8";

fn has_preset() -> bool {
    env::var_os(WITHOUT).is_none()
}

/// One of the client's addresses, and the port that `fastcgi.conf` names.
const FASTCGI_PROXY: &str = "10.8.255.1:80";

/// A proxy in the client's namespace that asks php-fpm from the address of its client.
fn fastcgi_proxy(lab: &Lab, directory: &Path) -> Process {
    let log = directory.join("fastcgi.log");
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("fastcgi.conf"));
    let proxy = Process::start(lab.client(), command, &log);
    let connects = || lab.client().run_in(|| TcpStream::connect(FASTCGI_PROXY).is_ok());
    wait_until("the proxy to listen", Duration::from_secs(10), || connects().is_ok_and(|is| is));
    proxy
}

/// The first line with a digit of what the server says.
fn version(server: &Server) -> String {
    let mut words = server.version.split(' ');
    let mut command = Command::new("env");
    command.arg(format!("PATH={}", path())).args(&mut words);
    let output = command.output().expect("env(1) can be run");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let is_version =
        |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let words = text.split([' ', '/', '\n', ',', ')', '-', '+']);
    let numbers = words.map(|word| word.trim_start_matches(['v', 'g', 'o'])).filter(is_version);
    let mut numbers = numbers.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    numbers.next().unwrap_or("unknown").to_owned()
}
