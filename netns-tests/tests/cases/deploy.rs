//! A new master, and code that has changed under the same command: whose workers serve then, and what is said
//! of it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, greeter, is_alive, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("run_replace_reload_starts_new_workers", renewed).with_both_engines(),
        Case::new("a_takeover_that_has_to_wait_says_what_for", waits),
        Case::new("run_reload_goes_on_with_the_workers_of_before_if_new_ones_fail", not_renewed),
        Case::new("run_reload_keeps_the_number_of_workers_that_was_asked_for", scaled),
        Case::new("a_new_master_says_whose_workers_go_on", told),
        Case::new("a_new_master_says_that_the_release_is_another", told_of_release),
        Case::new("with_kill_old_a_new_master_means_new_workers", killed_old),
    ]
}

fn wait_for_log(cluster: &Cluster<'_>, text: &str) {
    wait_until(text, Duration::from_secs(20), || cluster.log().contains(text));
}

fn renewed(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_adjustable(2);
    let before = cluster.status();
    let client = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    cluster.set_greeters("GREETER_NEW=1");
    let mut next = Cluster::new(lab, 2).argument("--reload");
    let command = next.adjustable_command();
    let mut old = cluster.replace_master_by(&mut next, &command);
    assert!(old.wait(Duration::from_secs(20)).success(), "{}", old.output());
    let after = next.wait_for("the new generation", |status| {
        status.generation == before.generation + 1 && status.live().len() == 2
    });
    let is_old = |pid: &u32| before.pids().values().any(|old| old == pid);
    assert!(!after.pids().values().any(is_old), "{:?}", after.pids());
    // It was told in so many words, and not that the earlier workers go on.
    wait_for_log(&next, "new workers serve in place of those of the earlier master");
    assert!(!next.log().contains("were taken over"), "{}", next.log());
    held.echo("who was there stays with the worker that he had").unwrap();
    next.terminate_master();
}

fn waits(lab: &Lab) {
    let go = lab.directory().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; exec \"$0\"", go.display());
    let command: [OsString; 4] = ["sh".into(), "-c".into(), script.into(), greeter().into()];
    let mut cluster = Cluster::new(lab, 2);
    cluster.start_master(&command);
    cluster.wait_for("two that start", |status| status.workers.len() == 2);
    // A part of the clients, of workers that are not there.
    let said = cluster.fail("reload", &["--share", "10%"]);
    assert!(said.contains("is still starting") && said.contains("`ipcluster reload`"), "{said}");
    let mut next = Cluster::new(lab, 2).argument("--replace");
    next.start_master(&command);
    wait_for_log(
        &next,
        "waiting until the master of cluster t can hand over, 10s at most: the cluster is still starting",
    );
    fs::write(&go, "").unwrap();
    let mut old = cluster.take_master();
    assert!(old.wait(Duration::from_secs(20)).success(), "{}", old.output());
    next.wait_until_settled(2);
    assert_eq!(next.log().matches("waiting until the master").count(), 1, "{}", next.log());
    next.terminate_master();
}

fn not_renewed(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_adjustable(2);
    let before = cluster.status();
    let command = cluster.adjustable_command();
    cluster.kill_master();
    cluster.set_greeters("echo the new release is broken; exit 3");
    let mut next = Cluster::new(lab, 2).argument("--reload");
    next.start_master(&command);
    wait_for_log(&next, "the reload failed, and the earlier workers keep serving");
    let log = next.log();
    assert!(log.contains("the new release is broken"), "{log}");
    let after = next.wait_until_settled(2);
    assert_eq!((after.generation, after.pids()), (before.generation, before.pids()));
    // Who looks is told that what the master was started for is not in force.
    let status = next.succeed("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let configuration = &status["configuration"];
    assert_eq!(configuration["in_force"], false, "{status}");
    let reason = configuration["reason"].as_str().unwrap();
    assert!(reason.starts_with("the workers of the earlier master serve: "), "{status}");
    // Whoever waits for it is told by its exit code.
    let mut master = next.take_master();
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait(Duration::from_secs(10)).code(), Some(1), "{}", master.output());
    assert!(
        master.output().contains("the reload that it was started with has failed"),
        "{}",
        master.output()
    );
    assert!(before.pids().values().all(|pid| is_alive(*pid)));

    // With a reload that succeeds later it has done what it was started for.
    next.start_master(&command);
    wait_for_log(&next, "the reload failed, and the earlier workers keep serving");
    next.set_greeters("");
    next.reload();
    next.wait_until_settled(2);
    let status: serde_json::Value =
        serde_json::from_str(&next.succeed("status", &["--json"])).unwrap();
    assert_eq!(status["configuration"]["in_force"], true, "{status}");
    next.terminate_master();
}

fn scaled(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    cluster.succeed("scale", &["3"]);
    cluster.kill_master();
    let mut next = Cluster::new(lab, 2).argument("--reload");
    next.start_master(&[greeter().into()]);
    next.wait_for("three new ones", |status| status.generation == 2 && status.is_settled(3));
}

fn told(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_adjustable(2);
    let command = cluster.adjustable_command();
    cluster.kill_master();
    cluster.start_master(&command);
    wait_for_log(
        &cluster,
        "2 workers of the earlier master were taken over and go on; `ipcluster reload t` starts new ones",
    );
    // The script that the workers' interpreter was given is another one; so is one that is written in place.
    for in_place in [false, true] {
        cluster.kill_master();
        match in_place {
            false => cluster.set_greeters("GREETER_NEW=1"),
            true => fs::write(lab.directory().join("greeters.sh"), "GREETER_NEW=2").unwrap(),
        }
        cluster.start_master(&command);
        wait_for_log(
            &cluster,
            "2 workers of the earlier master were taken over and go on with their code: ",
        );
        assert!(
            cluster.log().contains("greeters.sh has changed since; `ipcluster reload t`"),
            "{}",
            cluster.log()
        );
        // With new workers there is no more to say.
        cluster.wait_until_settled(2);
        cluster.reload();
        let mut old = cluster.replace_master(&command);
        assert!(old.wait(Duration::from_secs(20)).success(), "{}", old.output());
        wait_for_log(&cluster, "were taken over and go on; `ipcluster reload t` starts new ones");
    }
}

/// Two releases, and `current`, which leads to the first.
fn deploy(lab: &Lab) -> PathBuf {
    let base = lab.directory().join("app");
    for release in ["1", "2"] {
        let directory = base.join(release);
        fs::create_dir_all(&directory).unwrap();
        let program = directory.join("server");
        fs::write(&program, format!("#!/bin/sh\nexec {}\n", greeter().display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink("1", base.join("current")).unwrap();
    base
}

fn move_to(base: &Path, release: &str) {
    let new = base.join("new");
    symlink(release, &new).unwrap();
    fs::rename(new, base.join("current")).unwrap();
}

fn told_of_release(lab: &Lab) {
    let base = deploy(lab);
    let current = base.join("current");
    let command: [OsString; 1] = ["./server".into()];
    let mut cluster = Cluster::new(lab, 2).argument("--directory").argument(&current);
    cluster = cluster.start_with(&command, 2);
    move_to(&base, "2");
    let mut old = cluster.replace_master(&command);
    assert!(old.wait(Duration::from_secs(20)).success(), "{}", old.output());
    let (first, second) = (base.join("1"), base.join("2"));
    wait_for_log(
        &cluster,
        &format!(
            "the directory is {} now, and was {}; `ipcluster reload t`",
            second.display(),
            first.display()
        ),
    );
    // Back to the release that serves: its file was not touched.
    move_to(&base, "1");
    let mut old = cluster.replace_master(&command);
    assert!(old.wait(Duration::from_secs(20)).success(), "{}", old.output());
    wait_for_log(&cluster, "were taken over and go on; `ipcluster reload t` starts new ones");
}

fn killed_old(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let before = cluster.status().pids();
    cluster.kill_master();
    let mut next = Cluster::new(lab, 2).environment("IPC_START_KILLOLD", "TRUE");
    // The same command, and the same configuration.
    next.start_master(&[greeter().into()]);
    next.wait_for("the new ones alone", |status| {
        status.generation == 2
            && status.is_settled(2)
            && status.pids().values().all(|pid| !before.values().any(|old| old == pid))
    });
    wait_until("the end of the old ones", Duration::from_secs(20), || {
        !before.values().any(|pid| is_alive(*pid))
    });
    // Control: without it the same workers go on.
    let now = next.status().pids();
    next.kill_master();
    next = Cluster::new(lab, 2);
    next.start_master(&[greeter().into()]);
    wait_for_log(&next, "were taken over and go on");
    assert_eq!(next.wait_until_settled(2).pids(), now);
}
