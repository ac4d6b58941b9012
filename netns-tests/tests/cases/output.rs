//! Where what workers print goes, and that one that prints without pause holds up nobody.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, greeter, signal, wait_until};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("workers_print_to_a_file_for_each_seat_and_generation", files),
        Case::new("workers_print_to_the_journal_which_may_come_and_go", journal),
        Case::new("a_worker_that_floods_its_output_holds_up_nobody", flood),
        Case::new("a_reader_that_stalls_holds_up_nobody", stalled_reader),
        Case::new("a_terminal_that_hangs_up_and_a_pipe_without_a_reader_end_nothing", no_reader),
        Case::new("log_files_are_made_anew_when_renamed_and_old_ones_removed", rotated_files),
        Case::new("a_full_disk_is_tried_again_and_loses_nothing", full_disk),
        Case::new("the_log_has_the_format_and_level_that_it_is_told", log_format),
        Case::new("logs_shows_and_follows_what_workers_print", logs),
    ]
}

/// A worker that does this first.
fn worker(script: &str) -> [OsString; 4] {
    ["sh".into(), "-c".into(), format!("{script}\nexec \"$0\"").into(), greeter().into()]
}

fn files(lab: &Lab) {
    let directory = lab.directory().join("logs");
    let to = format!("file:{}", directory.display());
    let cluster = || Cluster::new(lab, 2).argument("--output").argument(&to);
    let mut refused = cluster();
    refused.start_master(&worker("true"));
    assert_eq!(refused.master().wait(Duration::from_secs(5)).code(), Some(1));
    assert!(refused.log().contains("logs: cannot open the log: ENOENT"), "{}", refused.log());

    fs::create_dir(&directory).unwrap();
    let mut cluster = cluster().start_with(&worker("echo I am in $IPCLUSTER_SEAT"), 2);
    cluster.reload();
    for (seat, generation) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        let file = directory.join(format!("t.seat-{seat}.generation-{generation}.log"));
        wait_for_text(&file, &format!("I am in {seat}\n"));
    }
    assert!(!cluster.log().contains("I am in"), "nothing goes to standard output");
    // What is printed while no master runs is there as well, and nothing is overwritten.
    cluster.kill_master();
    cluster.start_master(&worker("echo and the next; sleep 1000"));
    wait_for_text(&directory.join("t.seat-0.generation-3.log"), "and the next\n");
}

/// Waits until a file has this text and no more.
fn wait_for_text(file: &Path, text: &str) {
    let read = || fs::read_to_string(file).unwrap_or_default();
    let what = format!("{text:?} in {}", file.display());
    wait_until(&what, Duration::from_secs(20), || read() == text);
}

/// A pipe that is full: whoever writes to it waits until somebody reads.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let flags = |flags| nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    flags(OFlag::O_NONBLOCK);
    let filled = std::iter::from_fn(|| nix::unistd::write(&writer, &[b'x'; 4096]).ok()).count();
    assert!(filled > 0);
    flags(OFlag::empty());
    (reader, writer)
}

/// That a cluster does all that it has to, whatever becomes of what it prints: replaces a worker that is
/// killed, answers, reloads.
fn goes_on(cluster: &mut Cluster<'_>, lab: &Lab) {
    let before = cluster.wait_for_live(2);
    signal(before.pids()[&0], Signal::SIGKILL);
    cluster.wait_for("a worker in the place of the one that was killed", |status| {
        status.live().len() == 2 && status.pids()[&0] != before.pids()[&0]
    });
    cluster.reload();
    let report = Lab::load(80, 40).connections(40).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
}

/// A worker that prints all the time.
fn talkative() -> [OsString; 4] {
    worker("while sleep 0.01; do echo a line of a worker; done &")
}

fn stalled_reader(lab: &Lab) {
    let (reader, writer) = full_pipe();
    let mut cluster = Cluster::new(lab, 2).environment("IPCLUSTER_LOG", "debug");
    cluster.start_master_printing_to(&talkative(), writer);
    goes_on(&mut cluster, lab);
    // When somebody reads again, all is there, up to what waits in memory.
    let (go, text) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(String::new())));
    let (reads, read) = (Arc::clone(&go), Arc::clone(&text));
    let mut reader = fs::File::from(reader);
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            read.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            if !reads.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    for line in ["was ended by SIGKILL", "generation 2", "seat 0 | a line of a worker"] {
        wait_until(line, Duration::from_secs(20), || text.lock().unwrap().contains(line));
    }
    go.store(false, Ordering::Relaxed);
    thread.join().unwrap();
}

fn no_reader(lab: &Lab) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut cluster = Cluster::new(lab, 2).environment("IPCLUSTER_LOG", "debug");
    cluster.start_master_printing_to(&talkative(), pty.slave);
    cluster.wait_for_live(2);
    drop(pty.master);
    goes_on(&mut cluster, lab);
    cluster.terminate_master();

    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    drop(reader);
    cluster.start_master_printing_to(&talkative(), writer);
    goes_on(&mut cluster, lab);
    cluster.terminate_master();
}

/// A cluster whose workers print the lines that are written to a pipe, one worker each line.
fn dictated<'a>(lab: &'a Lab, cluster: Cluster<'a>) -> (Cluster<'a>, PathBuf) {
    let lines = lab.directory().join("lines");
    nix::unistd::mkfifo(&lines, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let cluster = cluster.environment("GREETER_LINES", lines.to_str().unwrap());
    (cluster, lines)
}

/// Has the pipe open for both ways, so that it never comes to an end.
const REPEATS: &str = "while read line; do echo \"$line\"; done <>\"$GREETER_LINES\" &";

fn rotated_files(lab: &Lab) {
    let directory = lab.directory().join("logs");
    fs::create_dir(&directory).unwrap();
    let to = format!("file:{}", directory.display());
    let cluster = Cluster::new(lab, 1).argument("--output").argument(to);
    let (cluster, lines) = dictated(lab, cluster.argument("--output-keep").argument("2"));
    let cluster = cluster.start_with(&worker(REPEATS), 1);
    let file = |generation| directory.join(format!("t.seat-0.generation-{generation}.log"));
    fs::write(&lines, "one\n").unwrap();
    wait_for_text(&file(1), "one\n");
    let rotated = file(1).with_extension("log.1");
    fs::rename(file(1), &rotated).unwrap();
    fs::write(&lines, "two\n").unwrap();
    wait_for_text(&file(1), "two\n");
    assert_eq!(fs::read_to_string(&rotated).unwrap(), "one\n");
    // The worker before reads the pipe as well, and may get the line.
    let mut cluster = cluster;
    for generation in 2..=3 {
        cluster.reload();
        cluster.wait_until_settled(1);
        fs::write(&lines, "next\n").unwrap();
        wait_for_text(&file(generation), "next\n");
    }
    assert!(!file(1).exists() && !rotated.exists(), "--output-keep 2");
    assert!(file(2).exists());
}

fn full_disk(lab: &Lab) {
    let directory = lab.directory().join("small");
    fs::create_dir(&directory).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("none"), &directory, Some("tmpfs"), flags, Some("size=256k")).unwrap();
    let to = format!("file:{}", directory.display());
    let mut cluster = Cluster::new(lab, 2).argument("--output").argument(to);
    let full = "cannot write the log file of a worker";
    // More than there is space for.
    let count = "seq 100000";
    cluster = cluster.start_with(&worker(&format!("[ $IPCLUSTER_SEAT = 1 ] && {count}")), 2);
    wait_until("the disk to be full", Duration::from_secs(20), || cluster.log().contains(full));
    goes_on(&mut cluster, lab);
    assert_eq!(cluster.log().matches(full).count(), 1, "it is said once");
    nix::mount::mount(
        None::<&str>,
        &directory,
        None::<&str>,
        nix::mount::MsFlags::MS_REMOUNT,
        Some("size=16m"),
    )
    .unwrap();
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    wait_for_text(&directory.join("t.seat-1.generation-1.log"), &expected);
    wait_until("that it can be written", Duration::from_secs(20), || {
        cluster.log().contains("log files of workers can be written again")
    });
}

fn log_format(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 1).argument("--log-format").argument("json");
    cluster = cluster.argument("--log-level").argument("warn").argument("--output-prefix=false");
    cluster = cluster.argument("--output-timestamps=true");
    let cluster = cluster.start_with(&worker("echo hello"), 1);
    signal(cluster.status().pids()[&0], Signal::SIGKILL);
    let died = || {
        cluster.log().lines().find(|line| line.contains("was ended by SIGKILL")).map(str::to_owned)
    };
    wait_until("the line about the worker", Duration::from_secs(20), || died().is_some());
    let line: Value = serde_json::from_str(&died().unwrap()).unwrap();
    assert_eq!(line["level"], "warn", "{line}");
    assert!(line["message"].as_str().unwrap().starts_with("seat 0: "), "{line}");
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    let log = cluster.log();
    assert!(!log.contains("\"info\""), "{log}");
    // What a worker prints comes by a pipe, and may stand behind the line about its end.
    let hello = || cluster.log().lines().find(|line| line.ends_with(" hello")).map(str::to_owned);
    wait_until("what the worker printed", Duration::from_secs(20), || hello().is_some());
    let hello = hello().unwrap();
    assert!(hello.starts_with("20") && hello.ends_with("Z hello"), "{hello}");
}

fn logs(lab: &Lab) {
    let directory = lab.directory().join("logs");
    fs::create_dir(&directory).unwrap();
    let to = format!("file:{}", directory.display());
    let (cluster, lines) = dictated(lab, Cluster::new(lab, 2).argument("--output").argument(to));
    let script = format!("echo I am in $IPCLUSTER_SEAT; [ $IPCLUSTER_SEAT = 1 ] && {REPEATS}");
    let mut cluster = cluster.start_with(&worker(&script), 2);
    let shown = |cluster: &Cluster<'_>, arguments: &[&str]| cluster.succeed("logs", arguments);
    wait_until("what both have printed", Duration::from_secs(20), || {
        let all = shown(&cluster, &[]);
        all.contains("seat 0 | I am in 0\n") && all.contains("seat 1 | I am in 1\n")
    });
    assert_eq!(shown(&cluster, &["1", "--no-prefix"]), "I am in 1\n");
    let mut follows = cluster.begin("logs", &["1", "-f", "-n", "0"]);
    // It follows from some time on: what is printed before that it does not see.
    wait_until("it to follow", Duration::from_secs(20), || {
        fs::write(&lines, "more\n").unwrap();
        follows.output().contains("seat 1 | more\n")
    });
    assert!(!follows.output().contains("I am in"), "{}", follows.output());
    // Also of workers that have ended.
    signal(cluster.status().pids()[&0], Signal::SIGKILL);
    wait_until("its successor's line after its own", Duration::from_secs(20), || {
        shown(&cluster, &["0"]) == "seat 0 | I am in 0\nseat 0 | I am in 0\n"
    });
    assert_eq!(shown(&cluster, &["0", "-n1"]), "seat 0 | I am in 0\n");
    let said = cluster.fail("logs", &["7"]);
    assert!(
        said.starts_with("error: there is no seat 7: the cluster has seats 0 to 1\n"),
        "{said}"
    );
    // And of a master before this one, from the files.
    cluster.kill_master();
    let status = follows.wait(Duration::from_secs(20));
    assert!(status.success(), "{status}: {}", follows.output());
    assert!(follows.output().contains("the master has ended"), "{}", follows.output());
    cluster.start_master(&worker(&script));
    cluster.wait_for_live(2);
    assert_eq!(shown(&cluster, &["0"]), "seat 0 | I am in 0\nseat 0 | I am in 0\n");
}

fn journal(lab: &Lab) {
    let script = "echo '<3>first'; while read line <\"$GREETER_LINES\"; do echo $line; done &";
    let lines = lab.directory().join("lines");
    nix::unistd::mkfifo(&lines, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let cluster = Cluster::new(lab, 1).argument("--output").argument("journal");
    let cluster = cluster.environment("GREETER_LINES", lines.to_str().unwrap());
    let cluster = cluster.start_with(&worker(script), 1);
    wait_until("the journal to be missed", Duration::from_secs(10), || {
        cluster.log().contains("cannot reach the journal")
    });
    // As if it was started after us. /run is this case's own.
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let path = Path::new("/run/systemd/journal/socket");
    let journal = UnixDatagram::bind(path).unwrap();
    let first = receive(&journal);
    let pid = cluster.status().pids()[&0].to_string();
    for (name, value) in [
        ("MESSAGE", "first"),
        ("PRIORITY", "3"),
        ("SYSLOG_IDENTIFIER", "sh"),
        ("SYSLOG_PID", &pid),
        ("IPCLUSTER_NAME", "t"),
        ("IPCLUSTER_SEAT", "0"),
        ("IPCLUSTER_GENERATION", "1"),
    ] {
        assert_eq!(first.get(name).map(String::as_str), Some(value), "{name} of {first:?}");
    }
    // And is started anew. What it had not read is gone with it.
    drop(journal);
    fs::remove_file(path).unwrap();
    fs::write(&lines, "while it was away\n").unwrap();
    let journal = UnixDatagram::bind(path).unwrap();
    let next = receive(&journal);
    assert_eq!((&*next["MESSAGE"], &*next["PRIORITY"]), ("while it was away", "6"));
    assert!(!cluster.log().contains("first"), "nothing goes to standard output");
}

/// The fields of the next entry, none of which has an end of line in it.
fn receive(journal: &UnixDatagram) -> BTreeMap<String, String> {
    journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 4096];
    let length = journal.recv(&mut buffer).expect("an entry");
    let entry = String::from_utf8_lossy(&buffer[..length]);
    let fields = entry.lines().map(|line| line.split_once('=').expect("a field"));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn flood(lab: &Lab) {
    // Enough to be printed for longer than the round takes, and no more than a file holds that is
    // read again and again.
    let script = "if [ $IPCLUSTER_SEAT = 0 ]; then yes 'no pause' | head -c 4000000 & fi; \
                  while sleep 0.1; do echo quiet $((count += 1)); done &";
    let mut cluster = Cluster::new(lab, 2).start_with(&worker(script), 2);
    let quiet = |cluster: &Cluster<'_>| {
        cluster.log().lines().filter(|line| line.starts_with("seat 1 | quiet")).count()
    };
    for round in 1..=2 {
        // The lines of the quiet one come while the other floods, and so do answers.
        wait_until("lines of the quiet one", Duration::from_secs(10), || {
            quiet(&cluster) >= 5 * round
        });
        cluster.reload();
        cluster.wait_until_settled(2);
    }
    let log = cluster.log();
    assert!(log.lines().filter(|line| *line == "seat 0 | no pause").count() > 1000, "it floods");
}
