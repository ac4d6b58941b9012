//! Completion knows what runs: the shells' part asks the program, as it is asked here.

use std::process::Command;

use netns_tests::{Case, Cluster, Lab, ipcluster};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("clusters_and_seats_that_are_there_are_offered", offered)]
}

/// What bash is answered when the last of these words is to be completed.
fn answers(lab: &Lab, words: &[&str]) -> Vec<String> {
    let mut command = Command::new(ipcluster());
    command.env("IPCLUSTER_COMPLETE", "bash").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    command.env("XDG_RUNTIME_DIR", lab.directory());
    let output = command.args(["--", "ipcluster"]).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.trim().to_owned()).filter(|word| !word.starts_with('-')).collect()
}

fn offered(lab: &Lab) {
    let nothing: [&str; 0] = [];
    assert_eq!(answers(lab, &["status", ""]), nothing);
    let mut cluster = Cluster::new(lab, 3).start(3);
    for verb in ["status", "reload", "stop", "top"] {
        assert_eq!(answers(lab, &[verb, ""]), ["t"], "{verb}");
    }
    assert_eq!(answers(lab, &["retire", "t", ""]), ["0", "1", "2"]);
    // The name may be left out where there is one cluster.
    assert_eq!(answers(lab, &["retire", ""]), ["t", "0", "1", "2"]);
    assert_eq!(answers(lab, &["wait", "r"]), ["ready"]);
    // Another directory is asked where the command line names one.
    assert_eq!(answers(lab, &["--runtime-dir", "/nowhere", "status", ""]), nothing);
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(std::time::Duration::from_secs(20)).success());
    assert_eq!(answers(lab, &["status", ""]), nothing);
}
