//! `ipcluster demo --fleet`: what it prints is what its clients saw.

use std::path::Path;
use std::process::Command;

use netns_tests::{Case, Lab, Process, engine, ipcluster, wait_until};
use nix::sys::signal::Signal;

use super::masters::PATIENCE;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("demo_loses_nothing_but_on_the_host_that_dies", shows)
            .busy()
            .with_both_engines_on_request(),
        Case::new("demo_that_is_interrupted_leaves_nothing", interrupted).busy(),
    ]
}

const EVENTS: [&str; 7] =
    ["a and b serve", "c joins", "all reload", "no path over b", "b drains", "b is back", "c dies"];

fn command() -> Command {
    let mut command = Command::new(ipcluster());
    command.args(["demo", "--fleet", "--engine", &engine().to_string()]);
    command
}

fn shows(_: &Lab) {
    let output = command().output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{error}");
    let row = |event: &str| -> Vec<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(event));
        let cells = rest.unwrap_or_else(|| panic!("no row {event:?}: {text}")).split_whitespace();
        // Nobody is dead: no connection can be lost on it.
        cells.take(5).map(|cell| if cell == "-" { 0 } else { cell.parse().unwrap() }).collect()
    };
    for event in EVENTS {
        let [connections, lost, on_dead, open, moved] = row(event)[..] else { panic!("{text}") };
        assert!(connections >= 1000, "{text}");
        assert_eq!(lost, 0, "{text}");
        assert_eq!(on_dead > 0, event == "c dies", "{text}");
        let before_c = ["a and b serve", "c joins"].contains(&event);
        match event {
            // Those that were open on c, and perhaps one that was just begun.
            "c dies" => assert!(open < 240 && open + on_dead >= 240, "{text}"),
            _ => assert_eq!(open, if before_c { 120 } else { 240 }, "{text}"),
        }
        let moves = ["c joins", "b drains", "b is back", "c dies"].contains(&event);
        assert_eq!(moved > 200, moves, "{text}");
        assert!(moved < 700, "{text}");
    }
    assert!(text.contains("all as promised"), "{text}");
    assert!(text.contains(" 0 of "), "{text}");
}

fn interrupted(lab: &Lab) {
    let log = lab.directory().join("demo.log");
    let mut demo = Process::start(lab.server(), command(), &log);
    wait_until("the first row", PATIENCE, || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("a and b serve"))
    });
    let workers = workers();
    assert!(workers.len() >= 4, "{workers:?}");
    demo.signal(Signal::SIGINT);
    demo.wait(PATIENCE);
    wait_until("the workers to end", PATIENCE, || self::workers().is_empty());
    assert!(!Path::new("/tmp/fleet.json").exists());
}

/// The processes of the demo's workers.
fn workers() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_worker = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"demo-worker")
    };
    pids.filter(is_worker).collect()
}
