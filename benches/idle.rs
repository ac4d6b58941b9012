//! What a balancer costs while nothing happens: wake-ups (voluntary context switches of all its threads),
//! processor time, and memory (proportional set size), each beside haproxy and nginx where those are installed.
//! All run at the same time and are measured in the same seconds, so that other work on the machine is the same
//! for each.
//!
//! Of ipcluster the master is meant: its workers are servers as those behind the others, which are listening
//! sockets of this process here, that nobody connects to. haproxy is measured as it comes, and with the health
//! checks (`check`, every 2 s) that the master always makes in its way; nginx has none.
//!
//! `cargo bench --bench idle`. Runs in a network namespace of its own, without root.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use ipcluster::lab::{self, Namespace};

/// How long each is left alone before it is measured, and how long it is measured.
const SETTLE: Duration = Duration::from_secs(6);
const WINDOW: Duration = Duration::from_secs(20);

/// How many workers there are.
const WORKERS: [u16; 2] = [4, 256];

/// The argument with which this program is a worker.
const WORKER: &str = "idle-worker";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(WORKER) {
        return lab::greeter::main();
    }
    // `cargo test --benches` and `cargo bench --no-run` come here without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = lab::enter_user_namespace() {
        println!("skipped: {error}");
        return ExitCode::SUCCESS;
    }
    println!(
        "| balancer | workers | wake-ups/s | processor time, ms/s | memory (PSS), MiB |\n|---|---|---|---|---|"
    );
    for workers in WORKERS {
        let namespace = Namespace::new().expect("a network namespace");
        let rows = namespace.run_in(|| measure(workers)).expect("the namespace");
        match rows {
            Ok(rows) => print!("{rows}"),
            Err(error) => {
                println!("{workers} workers: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// A balancer that runs.
struct Balancer {
    name: &'static str,
    process: Child,
    /// Its child processes are part of it.
    has_children: bool,
}

/// What its processes have used so far.
#[derive(Clone, Copy, Default)]
struct Used {
    wake_ups: u64,
    nanoseconds: u64,
}

fn measure(workers: u16) -> io::Result<String> {
    let directory = Directory::new()?;
    let backends: Vec<TcpListener> =
        (0..workers).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    let mut ports = Vec::new();
    for backend in &backends {
        ports.push(backend.local_addr()?.port());
    }
    let mut balancers = vec![ipcluster(&directory.0, workers)?];
    for (name, check) in [("haproxy", ""), ("haproxy, health checks", " check")] {
        balancers.extend(haproxy(&directory.0, name, check, &ports)?);
    }
    balancers.extend(nginx(&directory.0, &ports)?);
    wait_for_workers(balancers[0].process.id(), workers)?;
    thread::sleep(SETTLE);
    let before: Vec<Used> = balancers.iter().map(Balancer::used).collect();
    let begin = Instant::now();
    thread::sleep(WINDOW);
    let seconds = begin.elapsed().as_secs_f64();
    let mut rows = String::new();
    for (balancer, before) in balancers.iter().zip(before) {
        let after = balancer.used();
        let wake_ups = (after.wake_ups - before.wake_ups) as f64 / seconds;
        let milliseconds = (after.nanoseconds - before.nanoseconds) as f64 / 1e6 / seconds;
        let (name, memory) = (balancer.name, balancer.memory() as f64 / 1024.0);
        let _ = writeln!(
            rows,
            "| {name} | {workers} | {wake_ups:.1} | {milliseconds:.3} | {memory:.1} |"
        );
    }
    Ok(rows)
}

fn ipcluster(directory: &Path, workers: u16) -> io::Result<Balancer> {
    let worker = std::env::current_exe()?;
    let process = Command::new(env!("CARGO_BIN_EXE_ipcluster"))
        .args(["run", "--name", "idle", "--listen", "0.0.0.0:80", "--on-exit", "drain"])
        .args(["--workers", &workers.to_string()])
        .arg("--")
        .arg(worker)
        .arg(WORKER)
        .env("XDG_RUNTIME_DIR", directory)
        .stdout(Stdio::null())
        .stderr(fs::File::create(directory.join("ipcluster.log"))?)
        .spawn()?;
    Ok(Balancer { name: "ipcluster", process, has_children: false })
}

/// Waits until all workers of the master listen.
fn wait_for_workers(master: u32, workers: u16) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        // All sockets of this namespace that listen; those of the backends are on one address of loopback.
        let table = fs::read_to_string("/proc/thread-self/net/tcp6")?;
        let listening = table.lines().filter(|line| line.contains(" 0A ")).count();
        if listening >= usize::from(workers) {
            return Ok(());
        }
        if Instant::now() > deadline || !Path::new(&format!("/proc/{master}/exe")).exists() {
            return Err(io::Error::other(format!("{listening} of {workers} workers listen")));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// None where haproxy is not installed.
fn haproxy(
    directory: &Path,
    name: &'static str,
    check: &str,
    ports: &[u16],
) -> io::Result<Option<Balancer>> {
    let Some(program) = find("haproxy") else { return Ok(None) };
    let port = if check.is_empty() { 81 } else { 82 };
    let mut text = format!(
        "global\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
         timeout server 60s\nlisten web\n bind 0.0.0.0:{port}\n balance source\n"
    );
    for (index, backend) in ports.iter().enumerate() {
        let _ = writeln!(text, " server w{index} 127.0.0.1:{backend}{check}");
    }
    let path = directory.join(format!("haproxy-{port}.cfg"));
    fs::write(&path, text)?;
    let process = Command::new(program)
        .args(["-W", "-db", "-f"])
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Some(Balancer { name, process, has_children: true }))
}

/// None where nginx is not installed.
fn nginx(directory: &Path, ports: &[u16]) -> io::Result<Option<Balancer>> {
    let Some(program) = find("nginx") else { return Ok(None) };
    let root = directory.display();
    let servers: String = ports.iter().map(|port| format!("server 127.0.0.1:{port};")).collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {root}/{kind};"))
        .concat();
    let text = format!(
        "daemon off; worker_processes auto; user root; error_log {root}/nginx.log; pid {root}/nginx.pid;\n\
         events {{}}\nhttp {{ access_log off; {temporary}\n upstream web {{ ip_hash; {servers} }}\n \
         server {{ listen 83; location / {{ proxy_pass http://web; }} }} }}\n"
    );
    let path = directory.join("nginx.conf");
    fs::write(&path, text)?;
    let process = Command::new(program)
        .arg("-c")
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Some(Balancer { name: "nginx", process, has_children: true }))
}

fn find(program: &str) -> Option<PathBuf> {
    let paths = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    paths.into_iter().map(|path| Path::new(path).join(program)).find(|path| path.exists())
}

impl Balancer {
    fn processes(&self) -> BTreeSet<u32> {
        match self.has_children {
            true => descendants(self.process.id()),
            false => [self.process.id()].into(),
        }
    }

    fn used(&self) -> Used {
        self.processes().into_iter().fold(Used::default(), |mut used, pid| {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for thread in threads {
                let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
                used.nanoseconds += number(read("schedstat").split_whitespace().next());
                let status = read("status");
                let mut lines = status.lines();
                used.wake_ups +=
                    number(lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")));
            }
            used
        })
    }

    /// In KiB.
    fn memory(&self) -> u64 {
        let of = |pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:").map(str::to_owned));
            number(line.as_deref().and_then(|line| line.split_whitespace().next()))
        };
        self.processes().into_iter().map(of).sum()
    }
}

/// The master ends its workers too (`--on-exit drain`); the others end their children by themselves.
impl Drop for Balancer {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// A process and all that descend from it.
fn descendants(root: u32) -> BTreeSet<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        parents.push((pid, u32::try_from(number(parent)).unwrap_or(0)));
    }
    let mut found = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A directory that goes with this.
struct Directory(PathBuf);

impl Directory {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ipcluster-idle-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
