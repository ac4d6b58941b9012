//! A change of the list of members, until the master says that its rules are in force: from the moment in which a file
//! has it, and from the moment in which etcd is asked to write what another member says of itself. In the second the
//! master plans the next list, writes it, and reads it again.

use std::fs;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ipcluster::internals::membership::encode_base64;
use ipcluster::lab::Network;
use serde_json::Value;

use super::connection::WORKER;
use super::{SERVICE, ip, mac, quartile, run};

const ROUNDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Ended with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both can fail only for a process that somebody else has waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures lists of two sizes, from both sources, and prints the table.
pub(super) fn measure(has_large: bool) {
    println!("\n| a member drains, or is back | slots | moved | from | ms | quartiles |");
    println!("|---|---|---|---|---|---|");
    let mut sizes = vec![(1024, 3)];
    if has_large {
        sizes.push((65_536, 64));
    }
    let has_etcd = run("etcd", &["--version"]);
    for (slots, members) in sizes {
        let row = |from: &str, changes: fn(u32, u8) -> Vec<f64>| {
            let network = Network::new().expect("a network");
            let times = network.server().run_in(|| changes(slots, members)).expect("the namespace");
            let [low, median, high] = [1, 2, 3].map(|it| quartile(times.clone(), it));
            let moved = slots / u32::from(members);
            println!(
                "| {members} members | {slots} | {moved} | {from} | {median:.1} | {low:.1} - {high:.1} |"
            );
        };
        row("a file", by_file);
        if has_etcd {
            row("etcd", by_etcd);
            row("etcd, its write alone", writes_of_etcd);
        }
    }
    if !has_etcd {
        println!("left out: changes from etcd, since the program etcd is not installed");
    }
}

/// A directory for the files of one run, which a master takes.
fn directory() -> PathBuf {
    let directory = PathBuf::from(format!("/tmp/ipcluster-bench-fleet-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    // A master takes no directory for its sockets that is open to others.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("our own directory");
    directory
}

/// The member m1, and what happens to it.
struct Master {
    lines: io::Lines<BufReader<ChildStdout>>,
    _events: Process,
    _master: Process,
}

impl Master {
    fn start(directory: &Path, membership: &[&str]) -> Self {
        ip(&format!("address add {SERVICE}/32 dev lo"));
        let program = env!("CARGO_BIN_EXE_ipcluster");
        let mut master = Command::new(program);
        master.env("XDG_RUNTIME_DIR", directory).env("IPCLUSTER_RUNTIME_DIR", directory);
        master.args(["run", "--name", "bench", "--workers", "1"]);
        master.args(["--listen", &format!("{SERVICE}:80"), "--fleet-name", "bench"]);
        master.args(["--fleet-member", "m1", "--fleet-device", "server"]);
        master.args(membership).arg("--").arg(std::env::current_exe().expect("this program"));
        let log = directory.join("master.log");
        let said = fs::File::create(&log).expect("a file");
        master.arg(WORKER).stdout(Stdio::null()).stderr(said);
        let master = Process(master.spawn().expect("the program"));
        // What is put in force before is not among the events that are read.
        let begun = Instant::now();
        while !Self::is_settled(directory) {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "the master is no member: {}", said());
        }
        let mut events = Command::new(program);
        events.env("IPCLUSTER_RUNTIME_DIR", directory).args(["events", "bench"]);
        events.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut events = Process(events.spawn().expect("the program"));
        let output = events.0.stdout.take().expect("its output");
        let mut lines = BufReader::new(output).lines();
        assert!(lines.next().is_some(), "the master tells no events");
        Self { lines, _events: events, _master: master }
    }

    /// Whether it owns slots, and the rules of the list are in force.
    fn is_settled(directory: &Path) -> bool {
        let mut status = Command::new(env!("CARGO_BIN_EXE_ipcluster"));
        status.env("IPCLUSTER_RUNTIME_DIR", directory).args(["fleet", "status", "bench", "--json"]);
        let output = status.stderr(Stdio::null()).output().expect("the program");
        let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
        let members = status["members"].as_array().map_or(&[][..], Vec::as_slice);
        let own = members.iter().find(|member| member["name"] == "m1");
        let owns = own.and_then(|own| own["slots"].as_u64()).is_some_and(|slots| slots > 0);
        owns && status["in_force"] == true
    }

    /// Waits until the rules of a list are in force.
    fn wait_until_in_force(&mut self) {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("\"fleet_in_force\"")), "the master has ended");
    }
}

/// Milliseconds of each change from a file.
fn by_file(slots: u32, members: u8) -> Vec<f64> {
    let directory = directory();
    let file = directory.join("fleet.json");
    let lists = lists(&directory, slots, members);
    fs::copy(&lists[0], &file).expect("the first list");
    let membership = format!("file:{}", file.display());
    let mut master = Master::start(&directory, &["--fleet-membership", &membership]);
    let mut times = vec![];
    // The first one or two bring it to where it is measured.
    for round in 0..ROUNDS + 2 {
        let next = directory.join("next.json");
        fs::copy(&lists[1 + round % 2], &next).expect("the next list");
        let began = Instant::now();
        fs::rename(&next, &file).expect("the file");
        master.wait_until_in_force();
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    // Whoever measures next needs nothing of it.
    let _ = fs::remove_dir_all(&directory);
    times.split_off(2)
}

const ETCD: &str = "127.0.0.1:2379";

/// An etcd of its own, which writes to the disk as any does.
fn start_etcd(directory: &Path) -> Process {
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir").arg(directory.join("etcd")).args(["--log-level", "error"]);
    etcd.stdout(Stdio::null()).stderr(Stdio::null());
    let etcd = Process(etcd.spawn().expect("the program etcd"));
    let begun = Instant::now();
    while let Err(error) = put("/bench", "") {
        assert!(begun.elapsed() < PATIENCE, "etcd does not answer: {error}");
        std::thread::yield_now();
    }
    etcd
}

/// Has etcd write a key, by its gateway.
fn put(key: &str, value: &str) -> io::Result<()> {
    let [key, value] = [key, value].map(|text| encode_base64(text.as_bytes()));
    let body = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
    let address: SocketAddr = ETCD.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST /v3/kv/put HTTP/1.1\r\nHost: {ETCD}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(()),
        false => Err(io::Error::other(answer)),
    }
}

/// What a member says of itself, as docs/fleet-membership.md has it. Without a lease, so that it stays.
fn put_member(nth: u8, state: &str) {
    let value = format!(
        r#"{{"schema":1,"instance":"{nth:x}","addresses":["10.7.0.{nth}"],"mac":"{}","weight":1,"state":"{state}"}}"#,
        mac(nth)
    );
    put(&format!("/ipcluster/bench/members/m{nth}"), &value).expect("etcd");
}

/// Milliseconds of each change from etcd: from the request that writes what one member says, so that etcd's two writes
/// are in it, that one and the master's, and the two ways to it.
fn by_etcd(slots: u32, members: u8) -> Vec<f64> {
    let directory = directory();
    let etcd = start_etcd(&directory);
    for nth in 2..=members {
        put_member(nth, "serving");
    }
    let (endpoint, slots) = (format!("http://{ETCD}"), slots.to_string());
    let membership = ["--fleet-membership", "etcd", "--fleet-etcd", &endpoint];
    let own = ["--fleet-address", "10.7.0.1", "--fleet-slots", &slots];
    let mut master = Master::start(&directory, &[membership, own].concat());
    let mut times = vec![];
    for round in 0..ROUNDS + 2 {
        let began = Instant::now();
        put_member(members, ["draining", "serving"][round % 2]);
        master.wait_until_in_force();
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    drop((master, etcd));
    let _ = fs::remove_dir_all(&directory);
    times.split_off(2)
}

/// Milliseconds of one such write, until etcd has answered.
fn writes_of_etcd(_slots: u32, members: u8) -> Vec<f64> {
    let directory = directory();
    let etcd = start_etcd(&directory);
    let write = |round: usize| {
        let began = Instant::now();
        put_member(members, ["draining", "serving"][round % 2]);
        began.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<f64> = (0..ROUNDS + 2).map(write).collect();
    drop(etcd);
    let _ = fs::remove_dir_all(&directory);
    times.split_off(2)
}

/// A list, the same when the last member drains, and when it is back: planned as an operator does.
fn lists(directory: &Path, slots: u32, members: u8) -> [PathBuf; 3] {
    let member = |nth: u8| {
        let mac = mac(nth);
        format!(r#"{{"name":"m{nth}","addresses":["10.7.0.{nth}"],"mac":"{mac}"}}"#)
    };
    let all: Vec<String> = (1..=members).map(member).collect();
    let plan = |from: &Path, name: &str, extra: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ipcluster"))
            .args(["fleet", "plan", "--members"])
            .arg(from)
            .args(extra)
            .output()
            .expect("the program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = directory.join(name);
        fs::write(&path, output.stdout).expect("a list");
        path
    };
    let begun = directory.join("members.json");
    let text = format!(r#"{{"slots":{slots},"members":[{}]}}"#, all.join(","));
    fs::write(&begun, text).expect("a list");
    let first = plan(&begun, "first.json", &[]);
    let drained = plan(&first, "drained.json", &["--drain", &format!("m{members}")]);
    let text = fs::read_to_string(&drained).expect("a list").replace("\"draining\"", "\"serving\"");
    let back = directory.join("back.json");
    fs::write(&back, text).expect("a list");
    let back = plan(&back, "again.json", &[]);
    [first, drained, back]
}
