//! The wall clock of the master jumps, and nothing is retired, ended or tried again (F32).

use std::fs;
use std::path::Path;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, libfaketime, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_wall_clock_that_jumps_ends_no_worker", jumps)
            .needs(Need::Faketime)
            .needs(Need::Pids),
    ]
}

/// Sets how far the master's wall clock is from the real one, in one step.
fn set(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    fs::write(&new, offset).unwrap();
    fs::rename(new, file).unwrap();
}

/// The year of the last line that the master has logged.
fn logged_year(log: &str) -> Option<u32> {
    let year = |line: &str| line.split_once('-')?.0.parse().ok();
    log.lines().rev().find_map(year)
}

fn jumps(lab: &Lab) {
    let file = lab.directory().join("clock");
    set(&file, "+0d");
    let library = libfaketime().expect("as needed");
    let cluster = Cluster::new(lab, 2)
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .environment("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
        .environment("FAKETIME_NO_CACHE", "1")
        // Time that only goes on stays as it is, as it does where somebody sets the clock.
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .argument("--drain-timeout")
        .argument("1h");
    let mut cluster = cluster.start(2);
    let client = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    cluster.reload();
    // Two live workers, and a retired one that drains with an hour to go.
    let before = cluster.wait_for("a worker that drains", |status| {
        status.workers.len() == 3 && status.live().len() == 2
    });
    let mut years = vec![logged_year(&cluster.log()).expect("a line with a time")];
    for offset in ["+4000d", "-4000d", "+20000d", "+0d"] {
        set(&file, offset);
        // Every timer of the loop goes off meanwhile, and it says something.
        let lines = cluster.log().lines().count();
        cluster.succeed("scale", &["3"]);
        wait_until("a new line", Duration::from_secs(5), || cluster.log().lines().count() > lines);
        years.extend(logged_year(&cluster.log()));
        cluster.wait_for("three live workers", |status| status.live().len() == 3);
        cluster.succeed("scale", &["2"]);
        let after = cluster.wait_for("two live workers", |status| {
            status.workers.len() == 3 && status.live().len() == 2
        });
        assert_eq!(
            after.workers.iter().map(|it| it.pid).collect::<Vec<_>>(),
            before.workers.iter().map(|it| it.pid).collect::<Vec<_>>()
        );
        assert_eq!(after.generation, before.generation);
        held.echo("still there").unwrap();
    }
    let (first, rest) = years.split_first().expect("one was added");
    let moved: Vec<i64> = rest.iter().map(|year| i64::from(*year) - i64::from(*first)).collect();
    assert!(moved[0] >= 10 && moved[1] <= -10 && moved[2] >= 50, "the clock did jump: {years:?}");
}
