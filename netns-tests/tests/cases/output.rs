//! Where what workers print goes, and that one that prints without pause holds up nobody.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, greeter, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("workers_print_to_a_file_for_each_seat_and_generation", files),
        Case::new("workers_print_to_the_journal_which_may_come_and_go", journal),
        Case::new("a_worker_that_floods_its_output_holds_up_nobody", flood),
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
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("I am in {seat}\n"));
    }
    assert!(!cluster.log().contains("I am in"), "the master stands aside");
    // What is printed while no master runs is there as well, and nothing is overwritten.
    cluster.kill_master();
    cluster.start_master(&worker("echo and the next; sleep 1000"));
    wait_until("the output of the next generation", Duration::from_secs(10), || {
        let file = directory.join("t.seat-0.generation-3.log");
        fs::read_to_string(file).is_ok_and(|text| text == "and the next\n")
    });
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
