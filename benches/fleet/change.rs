//! A change of the list of members, from the moment in which the file has it until the master says that its rules are
//! in force.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipcluster::lab::Network;

use super::{SERVICE, ip, mac, quartile};

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

/// Measures lists of two sizes, and prints the table.
pub(super) fn measure(has_large: bool) {
    println!("\n| a member drains, or is back | slots | moved | ms | quartiles |");
    println!("|---|---|---|---|---|");
    let mut sizes = vec![(1024, 3)];
    if has_large {
        sizes.push((65_536, 64));
    }
    for (slots, members) in sizes {
        let network = Network::new().expect("a network");
        let times = network.server().run_in(|| changes(slots, members)).expect("the namespace");
        let [low, median, high] = [1, 2, 3].map(|it| quartile(times.clone(), it));
        let moved = slots / u32::from(members);
        println!("| {members} members | {slots} | {moved} | {median:.1} | {low:.1} - {high:.1} |");
    }
}

/// Milliseconds of each change.
fn changes(slots: u32, members: u8) -> Vec<f64> {
    ip(&format!("address add {SERVICE}/32 dev lo"));
    let directory = PathBuf::from(format!("/tmp/ipcluster-bench-fleet-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    // A master takes no directory for its sockets that is open to others.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("our own directory");
    let file = directory.join("fleet.json");
    let lists = lists(&directory, slots, members);
    fs::copy(&lists[0], &file).expect("the first list");
    let program = env!("CARGO_BIN_EXE_ipcluster");
    let mut master = Command::new(program);
    master.env("XDG_RUNTIME_DIR", &directory).env("IPCLUSTER_RUNTIME_DIR", &directory);
    master.args(["run", "--name", "bench", "--workers", "1", "--listen", &format!("{SERVICE}:80")]);
    master.args(["--fleet-name", "bench", "--fleet-member", "m1", "--fleet-device", "server"]);
    master.args(["--fleet-membership", &format!("file:{}", file.display()), "--", "sleep", "600"]);
    master.stdout(Stdio::null()).stderr(Stdio::null());
    let _master = Process(master.spawn().expect("the program"));
    let begun = Instant::now();
    let listening = loop {
        assert!(begun.elapsed() < PATIENCE, "the master does not answer");
        let mut events = Command::new(program);
        events.env("IPCLUSTER_RUNTIME_DIR", &directory).args(["events", "bench"]);
        events.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut events = events.spawn().expect("the program");
        let output = events.stdout.take().expect("its output");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let events = Process(events);
        if lines.next().is_some() {
            break (events, lines);
        }
    };
    let (_events, mut lines) = listening;
    let mut in_force = || lines.find(|line| line.contains("\"fleet_in_force\"")).is_some();
    let mut times = vec![];
    // The first one or two bring it to where it is measured.
    for round in 0..ROUNDS + 2 {
        let next = directory.join("next.json");
        fs::copy(&lists[1 + round % 2], &next).expect("the next list");
        let began = Instant::now();
        fs::rename(&next, &file).expect("the file");
        assert!(in_force(), "the master has ended");
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    // Whoever measures next needs nothing of it.
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
