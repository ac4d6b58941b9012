//! The configuration read again by a reload: what changes is said and put in force, what cannot is refused,
//! and what is not in force can be seen.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipcluster::lab::Pace;
use netns_tests::{Case, Cluster, Lab, greeter, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_reload_reads_the_file_again", changed).with_both_engines(),
        Case::new("a_file_that_cannot_be_put_in_force_changes_nothing", refused),
        Case::new("a_listener_comes_and_goes_by_reload", listeners),
        Case::new("workers_that_do_not_open_a_new_port_fail_the_reload", unopened),
        Case::new("a_good_file_gets_in_while_the_cluster_starts", while_starting),
        Case::new("what_run_refuses_is_missing_to_check", missing_on_this_host),
    ]
}

/// Writes a configuration of two workers without probation, with further lines.
fn write(lab: &Lab, listen: &str, lines: &str) -> PathBuf {
    let file = lab.directory().join("t.toml");
    let text = format!("listen = [{listen}]\nrollout.probation = \"0\"\n{lines}\n");
    fs::write(&file, text).unwrap();
    file
}

const PORT_80: &str = "\"10.9.0.1:80\", \"[fd09::1]:80\"";

fn with_env(lab: &Lab, workers: u16, env: &str) -> PathBuf {
    write(lab, PORT_80, &format!("workers = {workers}\nenv = [{env}]"))
}

fn environment_of(pid: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned()
}

fn every_client_once(lab: &Lab, port: u16) {
    let load = Lab::load(port, 200).pace(Pace::Concurrency(8)).connections(200);
    let report = load.start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (200, 0), "{report}");
}

fn progress(cluster: &Cluster<'_>) -> String {
    let output = cluster.verb("reload", &[]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}\n{}", cluster.log());
    stderr
}

fn changed(lab: &Lab) {
    let file = with_env(lab, 2, "\"FOO=one\"");
    let mut cluster = Cluster::from_file(lab, &file).start(2);
    let load = Lab::load(80, 100).pace(Pace::Rate(300.0)).start(lab.client()).unwrap();
    assert!(cluster.succeed("reload", &["--dry-run"]).starts_with("no setting changes"));
    with_env(lab, 3, "\"FOO=two\", \"GREETER_*\"");
    let dry = cluster.succeed("reload", &["--dry-run"]);
    assert!(dry.contains("workers: 2 -> 3 (with the new generation)\n"), "{dry}");
    let pending = cluster.succeed("config", &[]);
    assert!(pending.contains("workers = 2  ") && pending.contains("workers: 2 -> 3"), "{pending}");
    let said = progress(&cluster);
    assert!(said.contains("workers: 2 -> 3; "), "{said}");
    assert!(said.contains("env.FOO: one -> two"), "{said}");
    let status = cluster.wait_until_settled(3);
    for pid in status.pids().values() {
        let environment = environment_of(*pid);
        assert!(environment.contains("FOO=two"), "{environment}");
        assert!(environment.contains("IPCLUSTER_WORKERS=3"), "{environment}");
    }
    assert!(cluster.succeed("config", &[]).contains("t.toml, line 3"));
    cluster.succeed("scale", &["4"]);
    let scaled = cluster.succeed("config", &[]);
    let line = scaled.lines().find(|line| line.starts_with("workers = 4 ")).unwrap_or(&scaled);
    assert!(
        line.contains("# `ipcluster scale`, in place of 3 (/") && line.ends_with("line 3)"),
        "{line}"
    );
    assert!(cluster.succeed("reload", &["--dry-run"]).starts_with("no setting changes"));
    // SIGHUP is a reload too.
    with_env(lab, 2, "\"FOO=three\"");
    let master = cluster.master().pid();
    signal(master, Signal::SIGHUP);
    let status = cluster.wait_for("the third generation", |status| status.is_settled(2));
    assert!(status.pids().values().all(|pid| environment_of(*pid).contains("FOO=three")));
    assert!(cluster.log().contains("env.FOO: two -> three"), "{}", cluster.log());
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    cluster.succeed("stop", &[]);
}

fn config_status(cluster: &Cluster<'_>) -> serde_json::Value {
    let status = cluster.succeed("status", &["--json"]);
    serde_json::from_str::<serde_json::Value>(&status).unwrap()["configuration"].clone()
}

fn refused(lab: &Lab) {
    let file = with_env(lab, 2, "\"FOO=one\"");
    let cluster = Cluster::from_file(lab, &file).argument("--http-listen");
    let mut cluster = cluster.argument(super::metrics::ADDRESS).start(2);
    let metric = |value: f64| {
        super::metrics::wait_for(lab, "ipcluster_config_last_reload_successful", value);
    };
    metric(1.0);
    let before = cluster.status().pids();
    for (lines, said) in [
        ("workers = 2\nenv = [", "t.toml, line"),
        ("wrokers = 2", "t.toml, line 3: unknown key `wrokers`"),
        ("workers = 0", "t.toml, line 3: `workers`: 0: expected 1 to 1024"),
        (
            "workers = 2\nslots = 64",
            "`slots` cannot change while the master runs: `ipcluster run --replace`",
        ),
    ] {
        write(lab, PORT_80, lines);
        let stderr = cluster.fail("reload", &[]);
        assert!(stderr.contains(said), "{stderr}");
        assert!(cluster.fail("reload", &["--dry-run"]).contains(said));
        assert_eq!(cluster.status().pids(), before);
        let status = config_status(&cluster);
        assert_eq!(status["in_force"], false, "{status}");
        assert!(cluster.succeed("status", &[]).contains("config     not in force: not reloaded: "));
        metric(0.0);
    }
    write(lab, PORT_80, "instances = 2");
    assert!(cluster.fail("reload", &[]).contains("; `instances` is called `workers` here\n"));
    // New workers that do not get ready: all that was is again, also what applied at once.
    write(lab, PORT_80, "workers = 3\nenv = [\"GREETER_EXIT=1\"]\ntimeouts.drain = \"7min\"");
    cluster.fail("reload", &[]);
    let status = config_status(&cluster);
    assert!(status["reason"].as_str().unwrap().starts_with("the reload failed: "), "{status}");
    let config = cluster.succeed("config", &[]);
    assert!(config.contains("workers = 2 ") && config.contains("#drain = \"0\""), "{config}");
    // A worker that is replaced now is one of the old configuration.
    let pid = cluster.status().pids()[&0];
    signal(pid, Signal::SIGKILL);
    let status = cluster
        .wait_for("a replacement", |status| status.is_settled(2) && status.pids()[&0] != pid);
    assert!(environment_of(status.pids()[&0]).contains("FOO=one"));
    // Mended, it gets in, and that is seen.
    write(lab, PORT_80, "workers = 3");
    cluster.reload();
    cluster.wait_until_settled(3);
    assert_eq!(config_status(&cluster)["in_force"], true);
    metric(1.0);
    cluster.succeed("stop", &[]);
}

fn listeners(lab: &Lab) {
    let both = format!("{PORT_80}, \"10.9.0.1:81\", \"[fd09::1]:81\"");
    let file = write(lab, PORT_80, "workers = 2");
    let mut cluster = Cluster::from_file(lab, &file).start(2);
    let load = Lab::load(80, 100).pace(Pace::Rate(300.0)).start(lab.client()).unwrap();
    write(lab, &both, "workers = 2");
    cluster.reload();
    let status = cluster.wait_until_settled(2);
    assert!(status.workers.iter().all(|worker| worker.ports.len() == 2), "{status:?}");
    every_client_once(lab, 81);
    // The next master finds it as it is.
    let pids = status.pids();
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    assert_eq!(cluster.wait_until_settled(2).pids(), pids);
    every_client_once(lab, 81);
    // What a rollback serves is what the generation before had.
    write(lab, PORT_80, "workers = 2");
    cluster.reload();
    cluster.wait_until_settled(2);
    every_client_once(lab, 80);
    assert!(!lab.witness().ruleset().contains(". 81"), "{}", lab.witness().ruleset());
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    cluster.succeed("stop", &[]);
}

/// A worker that listens on its first port alone.
fn one_port(path: &Path) -> PathBuf {
    let script = path.join("one-port");
    let text = format!("#!/bin/sh\nunset IPCLUSTER_PORT_81\nexec {}\n", greeter().display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    script
}

fn unopened(lab: &Lab) {
    let file = write(lab, PORT_80, "workers = 2");
    let command = one_port(lab.directory());
    let mut cluster = Cluster::from_file(lab, &file).start_with(&[command.into()], 2);
    let before = cluster.status().pids();
    let both = format!("{PORT_80}, \"10.9.0.1:81\"");
    write(lab, &both, "workers = 2\ntimeouts.ready = \"1s\"");
    let stderr = cluster.fail("reload", &[]);
    assert!(stderr.contains("seat ") && stderr.contains("81"), "{stderr}");
    let status = cluster.wait_until_settled(2);
    assert_eq!(status.pids(), before);
    every_client_once(lab, 80);
    cluster.succeed("stop", &[]);
}

fn while_starting(lab: &Lab) {
    let file = write(lab, PORT_80, "workers = 2\nenv = [\"GREETER_EXIT=1\"]");
    let mut cluster = Cluster::from_file(lab, &file);
    cluster.start_master(&[greeter().into()]);
    wait_until("a first worker to fail", Duration::from_secs(20), || {
        cluster.log().contains("seat=0") || cluster.log().contains("seat 0")
    });
    write(lab, PORT_80, "workers = 3");
    cluster.reload();
    cluster.wait_until_settled(3);
    every_client_once(lab, 80);
    cluster.succeed("stop", &[]);
}

/// A line of the file, and a part of what both say.
const MISSING: &[(&str, &str)] = &[
    ("user = \"nosuch\"", "`user`"),
    ("group = \"nosuch\"", "`group`"),
    ("control_group = \"nosuch\"", "`control_group`"),
    ("output.to = \"file:/nosuch\"", "`output.to`: output of /nosuch: "),
    ("output.to = \"file:/etc/hostname\"", "`output.to`: output of /etc/hostname: "),
    ("socket = \"/nosuch/web.sock\"", "`socket`: cannot examine /nosuch: "),
    ("socket = \"/etc/hostname\"", "`socket`: /etc/hostname: expected a socket or nothing"),
    ("directory = \"/nosuch\"", "directory /nosuch"),
    ("env_file = [\"/nosuch\"]", "`env_file`: /nosuch"),
    ("config_template = \"/nosuch\"", "cannot read /nosuch"),
    ("command = [\"/nosuch\"]", "/nosuch"),
    ("command = [\"nosuch\"]", "nosuch"),
    ("command = [\"/etc/hostname\"]", "/etc/hostname"),
];

/// What a configuration names and this host does not have. `run` ends with the same words that `check` says.
fn missing_on_this_host(lab: &Lab) {
    let greeter = greeter();
    let command = format!("command = [{:?}]", greeter.to_str().unwrap());
    let check = |lines: &str| {
        let file = write(lab, "\"10.9.0.1:80\"", lines);
        let file = file.to_str().unwrap().to_owned();
        (super::in_the_way::run(lab, &["check", "-c", &file]), file)
    };
    let (output, _) = check(&command);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("ok       users, directories, program and files of the configuration"));
    for (line, part) in MISSING {
        let lines = match line.starts_with("command") {
            true => (*line).to_owned(),
            false => format!("{line}\n{command}"),
        };
        let (output, file) = check(&lines);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        let missing = said.lines().find_map(|line| line.strip_prefix("missing  ")).unwrap();
        assert!(missing.contains(part), "{line}: {missing}");
        let output = super::in_the_way::run(lab, &["run", "-c", &file]);
        let refused = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {refused}");
        assert!(refused.contains(missing), "{line}: {missing}: {refused}");
    }
    // It is found with the first reload.
    let hook = "hooks.before_reload = [\"/nosuch\"]";
    let (output, _) = check(&format!("{hook}\n{command}"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("missing  `hooks.before_reload`: ") && !output.status.success(),
        "{said}"
    );
}
