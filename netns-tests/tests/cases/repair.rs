//! Others change our table while the master runs (F5, F24), in the mode without ownership.

use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::{Case, Cluster, Lab, Need, Witness, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        case("foreign_changes_are_repaired_in_250_ms", repaired),
        case("a_load_goes_on_after_each_repair", under_load),
        case("a_swap_amid_damage_is_in_force_whole", swaps),
        case("a_fighter_is_held_back_and_told_of", fighter).busy(),
        case("lost_notifications_are_made_up_for", lost),
        case("a_storm_of_foreign_commits_is_borne", storm).busy(),
    ]
}

const TABLE: &str = "ipcluster_t";

/// What others do, as nft's arguments.
const CHANGES: [&str; 7] = [
    "delete table inet ipcluster_t",
    "delete element inet ipcluster_t slots { first }",
    "insert rule inet ipcluster_t prerouting tcp dport 80 drop",
    "flush ruleset",
    "flush chain inet ipcluster_t prerouting",
    "add chain inet ipcluster_t mine",
    "add table inet ipcluster_t { flags dormant; }",
];

/// A cluster whose table everybody can change, and holds what is in force alone.
fn shared(lab: &Lab, workers: u16) -> Cluster<'_> {
    let cluster = Cluster::new(lab, workers).argument("--ownership").argument("shared");
    let cluster = cluster.start(workers.into());
    wait_until("what the start left to be gone", Duration::from_secs(5), || {
        !listing(lab).contains("survivors_")
    });
    cluster
}

/// What nft lists of our table, without counts; nothing if there is none.
fn listing(lab: &Lab) -> String {
    let output = lab.witness().run("nft", &["-s", "list", "table", "inet", TABLE], "");
    String::from_utf8(output.stdout).unwrap()
}

fn change(lab: &Lab, what: &str) {
    // An error only if there is nothing to change.
    lab.witness().run("nft", &["-f", "-"], &lab.witness().naming_slots(what));
}

fn repaired(lab: &Lab) {
    let mut cluster = shared(lab, 4);
    let before = listing(lab);
    for (number, what) in (1..).zip(CHANGES) {
        // Apart enough for none to count as a fight: five within ten seconds would.
        let next = Instant::now() + Duration::from_millis(2_600);
        change(lab, what);
        let ended = Instant::now();
        let mut took = Duration::ZERO;
        wait_until(&format!("the repair after {what}"), Duration::from_secs(5), || {
            // When the look began that shows it repaired.
            took = ended.elapsed();
            listing(lab) == before
        });
        assert!(took < Duration::from_millis(250), "{what}: repaired after {took:?}");
        let status = cluster.wait_for("the repair to be counted", |s| s.repairs >= number);
        assert_eq!(status.repairs, number, "{what}");
        let writer = status.last_writer.unwrap();
        assert_eq!(writer.name, "nft", "{what}");
        let said = format!("our rules were changed by nft (pid {}) and restored", writer.pid);
        assert!(cluster.log().contains(&said), "{what}: {}", cluster.log());
        wait_until("the next", Duration::from_secs(5), || Instant::now() >= next);
    }
    let text = cluster.succeed("status", &[]);
    assert!(text.contains("repairs    7, the last after changes by nft"), "{text}");
    assert!(!cluster.log().contains("changes are frequent"), "{}", cluster.log());
}

/// New connections fail while there are no rules; then they do no more.
fn under_load(lab: &Lab) {
    let cluster = shared(lab, 4);
    let before = listing(lab);
    for what in &CHANGES[..4] {
        change(lab, what);
        wait_until("the repair", Duration::from_secs(5), || listing(lab) == before);
        let report = Lab::load(80, 100).connections(500).start(lab.client()).unwrap().wait();
        assert_eq!(report.failed(), 0, "after {what}: {report}");
    }
    drop(cluster);
}

/// Reloads and scales while somebody damages the table: each comes into force whole.
fn swaps(lab: &Lab) {
    let mut cluster = shared(lab, 4);
    for (round, workers) in ["5", "3", "4"].into_iter().enumerate() {
        let mut reload = cluster.begin("reload", &[]);
        change(lab, CHANGES[round]);
        assert!(reload.wait(Duration::from_secs(30)).success(), "{}", reload.output());
        change(lab, CHANGES[round + 1]);
        cluster.succeed("scale", &[workers]);
    }
    let status = cluster.wait_until_settled(4);
    assert_eq!(status.generation, 4);
    wait_until("the whole table", Duration::from_secs(35), || {
        let report = Lab::load(80, 100).connections(100).time_out(Duration::from_millis(500));
        let report = report.start(lab.client()).unwrap().wait();
        report.failed() == 0 && report.workers().keys().all(|by| by.generation == 4)
    });
}

fn fighter(lab: &Lab) {
    let mut cluster = shared(lab, 2);
    let before = listing(lab);
    let fights = AtomicBool::new(true);
    thread::scope(|scope| {
        let witness = lab.witness();
        let fights = &fights;
        scope.spawn(move || {
            while fights.load(Ordering::Relaxed) {
                // An error if it is gone already.
                witness.run("nft", &["-f", "-"], "delete table inet ipcluster_t");
            }
        });
        let began = Instant::now();
        wait_until("ten seconds", Duration::from_secs(20), || began.elapsed().as_secs() >= 10);
        fights.store(false, Ordering::Relaxed);
    });
    let log = cluster.log();
    let repairs = cluster.status().repairs;
    // Five at once, then one a second: nobody is served until then.
    assert!((9..=16).contains(&repairs), "{repairs} repairs:\n{log}");
    let loud =
        log.lines().filter(|line| line.contains("ERROR") && line.contains("changes are frequent"));
    assert!(loud.clone().count() >= 2, "{log}");
    assert!(loud.clone().all(|line| line.contains("changed by nft (pid ")), "{log}");
    let last = cluster.wait_for("the last repair", |_| listing(lab) == before);
    assert!(last.repairs > repairs || listing(lab) == before);
}

/// While the master sleeps, more is told than fits its buffer; the damage comes last, and is lost.
fn lost(lab: &Lab) {
    let mut cluster = shared(lab, 4);
    let before = listing(lab);
    cluster.master().signal(Signal::SIGSTOP);
    lab.witness().load("table ip filler { set s { type mark; }; }");
    // So many in one transaction as nft can send without root (net.core.wmem_max).
    for round in 0..40_u32 {
        let numbers = round * 4_000..(round + 1) * 4_000;
        let all: Vec<String> = numbers.map(|number| number.to_string()).collect();
        lab.witness().load(&format!("add element ip filler s {{ {} }}", all.join(", ")));
    }
    change(lab, CHANGES[1]);
    assert_ne!(listing(lab), before);
    cluster.master().signal(Signal::SIGCONT);
    let status = cluster.wait_for("the repair", |status| status.repairs == 1);
    assert_eq!(status.last_writer, None, "nobody knows");
    assert_eq!(listing(lab), before);
    let log = cluster.log();
    assert!(log.contains("nftables notifications were lost (ENOBUFS)"), "{log}");
    assert!(log.contains("our rules were changed by an unknown process"), "{log}");
}

/// Somebody who commits to a table of his own as fast as he can.
struct Storm {
    nft: Child,
}

impl Storm {
    fn begin(lab: &Lab) -> Self {
        let mut command = Witness::command("nft");
        command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let nft = lab.server().run_in(|| command.spawn()).unwrap();
        let mut nft = nft.expect("nft can be run");
        let mut input = nft.stdin.take().expect("a pipe");
        // Ends when nft does.
        thread::spawn(move || {
            while input.write_all(b"add table ip storm; delete table ip storm\n").is_ok() {}
        });
        Self { nft }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // It may be gone.
        let _ = self.nft.kill();
        let _ = self.nft.wait();
    }
}

/// The processor time that a process has used.
fn processor_time(pid: u32) -> Duration {
    // Nanoseconds (Documentation/scheduler/sched-stats.rst); the master has one busy thread.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split_ascii_whitespace().next().unwrap().parse().unwrap())
}

fn storm(lab: &Lab) {
    let mut cluster = shared(lab, 4);
    let before = listing(lab);
    let pid = cluster.master().pid();
    let storm = Storm::begin(lab);
    let (began, used) = (Instant::now(), processor_time(pid));
    wait_until("three seconds", Duration::from_secs(10), || began.elapsed().as_secs() >= 3);
    let share = (processor_time(pid) - used).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("the master used {:.0} % of a processor", share * 100.0);
    assert!(share < 0.5, "the master used {:.0} % of a processor", share * 100.0);

    // A plan comes into force nevertheless, and clients are served.
    cluster.reload();
    let report = Lab::load(80, 100).connections(500).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    // Damage is repaired, or it is said why not; in a lull at the latest.
    change(lab, CHANGES[2]);
    wait_until("a repair or an error", Duration::from_secs(10), || {
        let log = cluster.log();
        log.contains("our rules were changed by")
            || log.contains("cannot verify or restore our rules")
    });
    drop(storm);
    cluster.wait_for("the repair", |status| status.repairs == 1);
    let now = listing(lab);
    assert!(!now.contains("tcp dport 80 drop"), "{now}");
    // The ports of the workers before are guarded until these have ended.
    wait_until("as many lines as before", Duration::from_secs(10), || {
        listing(lab).lines().count() == before.lines().count()
    });
}
