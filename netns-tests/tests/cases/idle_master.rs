//! What a master costs while nothing happens: how often it wakes up.
//!
//! Counted are voluntary context switches of all its threads, which a busy machine does not make more: who
//! waits has one for each time that it is woken, whatever that took.

use std::fs;
use std::time::{Duration, Instant};

use netns_tests::{Case, Cluster, Lab, Need};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("an_idle_master_sleeps", idle),
        Case::new("an_idle_master_sleeps_also_after_others_have_changed_rules", after_a_change)
            .needs(Need::Nft),
    ]
}

/// How often the master of 4 idle workers may wake up in [`WINDOW`]. It does some 12 times: the kernel does not
/// tell of what it looks at, every 600 ms.
const MOST: u64 = 30;
const WINDOW: Duration = Duration::from_secs(5);

fn idle(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    assert_sleeps(cluster.master().pid());
}

/// The kernel tells the master of each commit, and it waits for the next one then.
fn after_a_change(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    lab.witness().nft(&["-f", "-"], "add table inet of_others");
    assert_sleeps(cluster.master().pid());
}

/// Counts until there are few enough in one window: what was begun before, such as a look at the rules of
/// others, may take some of the first one.
fn assert_sleeps(master: u32) {
    let began = Instant::now();
    loop {
        let before = wake_ups(master);
        std::thread::sleep(WINDOW);
        let woken = wake_ups(master) - before;
        println!("{woken} wake-ups in {WINDOW:?}");
        if woken <= MOST {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{woken} wake-ups in {WINDOW:?}");
    }
}

/// The voluntary context switches of all threads of a process so far.
fn wake_ups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the master runs");
    let statuses =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let of = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    statuses.map(of).sum()
}
