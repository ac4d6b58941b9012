//! What the workers of a generation are started from: a directory behind a link that is moved with each
//! release, a program, variables from a file; and the hooks around a reload.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, Need, Status, greeter, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_link_is_followed_once_for_each_generation", link).with_both_engines(),
        Case::new("the_next_master_knows_the_release_of_a_generation", link_and_masters)
            .with_both_engines(),
        Case::new("without_a_directory_it_is_that_of_the_masters_pwd", logical_directory),
        Case::new("a_directory_can_be_each_workers_own", own_directories),
        Case::new("a_program_that_cannot_be_run_is_named_before_anything_starts", programs),
        Case::new("a_release_that_is_gone_is_named", gone),
        Case::new("variables_come_from_a_file_with_each_generation", env_file).with_both_engines(),
        Case::new("variables_that_are_not_passed_on_are_named_once", not_passed),
        Case::new("limits_umask_and_nice_are_set", limits).with_both_engines(),
        Case::new("a_hook_that_fails_fails_the_reload", before_reload),
        Case::new("a_hook_runs_as_the_workers_user", hook_user)
            .needs(Need::OtherUsers)
            .needs(Need::Pids),
        Case::new("a_hook_that_takes_too_long_is_ended_with_its_group", hook_timeout),
        Case::new("a_stop_ends_a_hook_with_its_group", hook_stop),
    ]
}

/// Two releases below this directory, each with a program `server` that says its number and where it runs, and
/// `current`, which leads to the first.
fn deploy(lab: &Lab) -> PathBuf {
    let base = lab.directory().join("app");
    for release in ["1", "2"] {
        let directory = base.join("releases").join(release);
        fs::create_dir_all(&directory).unwrap();
        let text = format!(
            "#!/bin/sh\necho \"release {release} at $(pwd -P) as $0 for $PWD with $1\"\nexec {}\n",
            greeter().display()
        );
        write_program(&directory.join("server"), &text);
    }
    symlink("releases/1", base.join("current")).unwrap();
    base
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Moves `current`, in one step.
fn move_to(base: &Path, release: &str) {
    let new = base.join("new");
    symlink(format!("releases/{release}"), &new).unwrap();
    fs::rename(new, base.join("current")).unwrap();
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn in_current<'a>(lab: &'a Lab, base: &Path) -> Cluster<'a> {
    Cluster::new(lab, 2).argument("--directory").argument(base.join("current"))
}

/// Kills the worker in seat 0, and waits for another one.
fn kill_and_wait(cluster: &mut Cluster<'_>) -> Status {
    let killed = cluster.status().pids()[&0];
    signal(killed, Signal::SIGKILL);
    cluster.wait_for("a replacement", |status| status.is_settled(2) && status.pids()[&0] != killed)
}

/// How many workers have said that they are of a release.
fn said(cluster: &Cluster<'_>, release: &str) -> usize {
    cluster.log().matches(&format!("| release {release} at ")).count()
}

fn wait_for_said(cluster: &Cluster<'_>, release: &str, count: usize) {
    wait_until(&format!("{count} of release {release}"), Duration::from_secs(5), || {
        said(cluster, release) == count
    });
}

fn link(lab: &Lab) {
    let base = deploy(lab);
    let command = words(&["./server", "{directory}/x"]);
    let mut cluster = in_current(lab, &base).start_with(&command, 2);
    wait_for_said(&cluster, "1", 2);
    let first = base.join("releases/1");
    let first = first.display();
    let line = format!("release 1 at {first} as {first}/server for {first} with {first}/x");
    assert!(cluster.log().contains(&line), "{}", cluster.log());

    // The link is moved, and nobody has reloaded: a worker that dies gets the release of the others.
    move_to(&base, "2");
    kill_and_wait(&mut cluster);
    wait_for_said(&cluster, "1", 3);
    assert_eq!(said(&cluster, "2"), 0);

    cluster.reload();
    cluster.wait_until_settled(2);
    wait_for_said(&cluster, "2", 2);
    kill_and_wait(&mut cluster);
    wait_for_said(&cluster, "2", 3);
    // And back: a deployment is undone in the same way.
    move_to(&base, "1");
    kill_and_wait(&mut cluster);
    wait_for_said(&cluster, "2", 4);
    cluster.reload();
    cluster.wait_until_settled(2);
    wait_for_said(&cluster, "1", 5);
    cluster.succeed("stop", &[]);
}

fn link_and_masters(lab: &Lab) {
    let base = deploy(lab);
    // By an absolute path through the link, which says which release it is as well.
    let server = base.join("current/server");
    let command = words(&[server.to_str().unwrap()]);
    let mut cluster = in_current(lab, &base).start_with(&command, 2);
    wait_for_said(&cluster, "1", 2);
    move_to(&base, "2");

    cluster.kill_master();
    cluster.start_master(&command);
    let status = cluster.wait_until_settled(2);
    assert_eq!(status.generation, 1, "another release alone makes no new generation");
    kill_and_wait(&mut cluster);
    wait_for_said(&cluster, "1", 1);
    wait_until("a word about it", Duration::from_secs(5), || {
        cluster.log().contains("`ipcluster reload` starts that")
    });

    let mut old = cluster.replace_master(&command);
    assert!(old.wait(Duration::from_secs(10)).success(), "{}", old.output());
    cluster.wait_until_settled(2);
    kill_and_wait(&mut cluster);
    wait_for_said(&cluster, "1", 1);
    cluster.reload();
    cluster.wait_until_settled(2);
    wait_for_said(&cluster, "2", 2);
    assert_eq!(said(&cluster, "1"), 1);
}

fn logical_directory(lab: &Lab) {
    let base = deploy(lab);
    let current = base.join("current");
    let started = Cluster::new(lab, 2).in_directory(&current);
    let mut cluster = started.start_with(&words(&["./server"]), 2);
    wait_for_said(&cluster, "1", 2);
    move_to(&base, "2");
    kill_and_wait(&mut cluster);
    wait_for_said(&cluster, "1", 3);
    cluster.reload();
    cluster.wait_until_settled(2);
    wait_for_said(&cluster, "2", 2);
}

fn own_directories(lab: &Lab) {
    let base = deploy(lab);
    for release in ["1", "2"] {
        for seat in ["0", "1"] {
            let directory = base.join("releases").join(release).join(seat);
            fs::create_dir(&directory).unwrap();
            fs::copy(base.join("releases").join(release).join("server"), directory.join("server"))
                .unwrap();
        }
    }
    let cluster = Cluster::new(lab, 2).argument("--directory");
    let cluster = cluster.argument(base.join("current/{seat}"));
    let mut cluster = cluster.start_with(&words(&["./server", "{directory}"]), 2);
    wait_for_said(&cluster, "1", 2);
    let first = base.join("releases/1");
    let first = first.display();
    for seat in [0, 1] {
        let line = format!(
            "seat {seat} | release 1 at {first}/{seat} as ./server for {first}/{seat} with {first}"
        );
        assert!(cluster.log().contains(&line), "{line}\n{}", cluster.log());
    }
    move_to(&base, "2");
    kill_and_wait(&mut cluster);
    wait_for_said(&cluster, "1", 3);
}

fn programs(lab: &Lab) {
    let base = deploy(lab);
    let first = base.join("releases/1/server");
    let start = |change: &dyn Fn()| {
        change();
        let mut cluster = in_current(lab, &base);
        cluster.start_master(&words(&["./server"]));
        let status = cluster.master().wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(1), "{}", cluster.log());
        assert_eq!(lab.witness().ruleset(), "", "nothing was begun");
        cluster.log()
    };
    let text = fs::read_to_string(&first).unwrap();
    let log = start(&|| fs::set_permissions(&first, fs::Permissions::from_mode(0o644)).unwrap());
    assert!(log.contains("releases/1/server: EACCES: it may not be executed by the user"), "{log}");
    let log = start(&|| write_program(&first, "echo no line\n"));
    assert!(log.contains("ENOEXEC: it begins with no `#!` line"), "{log}");
    let log = start(&|| write_program(&first, "#!/usr/bin/no-such -x\n"));
    assert!(
        log.contains("interpreter of its `#!` line, /usr/bin/no-such, does not exist"),
        "{log}"
    );
    let log = start(&|| fs::remove_file(&first).unwrap());
    assert!(log.contains("releases/1/server: ENOENT: no such file"), "{log}");

    // The same at each reload: what serves stays, and what is mended is found.
    write_program(&first, &text);
    let mut cluster = in_current(lab, &base).start_with(&words(&["./server"]), 2);
    let pids = cluster.status().pids();
    let second = base.join("releases/2/server");
    fs::set_permissions(&second, fs::Permissions::from_mode(0o644)).unwrap();
    move_to(&base, "2");
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("releases/2/server: EACCES: it may not be executed"), "{error}");
    assert!(error.contains("generation 2 could not be started"), "{error}");
    fs::remove_file(&second).unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("releases/2/server: ENOENT: no such file"), "{error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), pids);
    // A seat that falls vacant meanwhile is filled from the release that serves.
    kill_and_wait(&mut cluster);
    fs::copy(&first, &second).unwrap();
    cluster.reload();
}

fn gone(lab: &Lab) {
    let base = deploy(lab);
    let cluster = in_current(lab, &base).argument("--spawn-backoff").argument("10ms..10ms");
    let mut cluster = cluster.start_with(&words(&["./server"]), 2);
    move_to(&base, "2");
    fs::remove_dir_all(base.join("releases/1")).unwrap();
    signal(cluster.status().pids()[&0], Signal::SIGKILL);
    wait_until("a word about it", Duration::from_secs(5), || {
        cluster.log().contains("in which generation 1 was started, is gone: `ipcluster reload`")
    });
    cluster.reload();
    cluster.wait_until_settled(2);
    wait_for_said(&cluster, "2", 2);
}

fn env_file(lab: &Lab) {
    let file = lab.directory().join("web.env");
    fs::write(&file, "# comment\nDATABASE_URL=\"one two\"\nSET=file\n").unwrap();
    let script = "echo \"url $DATABASE_URL set $SET\"; exec \"$0\"";
    let command = words(&["sh", "-c", script, greeter().to_str().unwrap()]);
    let cluster = Cluster::new(lab, 2).argument("--env-file").argument(file.clone());
    let cluster = cluster.argument("--env").argument("SET=flag");
    let cluster = cluster.argument("--env-file=-/no/such/file");
    let mut cluster = cluster.start_with(&command, 2);
    let count = |cluster: &Cluster<'_>, line: &str| cluster.log().matches(line).count();
    wait_until("it", Duration::from_secs(5), || count(&cluster, "| url one two set file\n") == 2);
    // What is changed comes with the next generation, also for a worker that is replaced.
    fs::write(&file, "DATABASE_URL=three\n").unwrap();
    kill_and_wait(&mut cluster);
    wait_until("it", Duration::from_secs(5), || count(&cluster, "| url one two set file\n") == 3);
    cluster.reload();
    wait_until("it", Duration::from_secs(5), || count(&cluster, "| url three set flag\n") == 2);
    let before = cluster.wait_until_settled(2).pids();
    for (text, expected) in [
        ("A=1\nexport B=2\n", "web.env, line 2: \"export B\" is no name of a variable"),
        ("PORT=80\n", "web.env sets PORT, which is set by ipcluster"),
    ] {
        fs::write(&file, text).unwrap();
        let error = cluster.fail("reload", &[]);
        assert!(error.contains(expected), "{error}");
    }
    fs::remove_file(&file).unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("web.env: No such file"), "{error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), before);
}

fn not_passed(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 1)
        .environment("DATABASE_URL", "secret")
        .environment("NODE_ENV", "production")
        .environment("SSH_TTY", "/dev/pts/1")
        .start(1);
    let log = cluster.log();
    let line = log.lines().find(|line| line.contains("not passed on to workers")).unwrap();
    assert!(line.contains("DATABASE_URL") && line.contains("NODE_ENV"), "{line}");
    assert!(!log.contains("secret") && !line.contains("SSH_TTY"), "{log}");
    assert_eq!(log.matches("not passed on to workers").count(), 1);
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(Duration::from_secs(10)).success());

    let script = "echo \"env $NODE_ENV\"; exec \"$0\"";
    let command = words(&["sh", "-c", script, greeter().to_str().unwrap()]);
    let cluster = Cluster::new(lab, 1).environment("NODE_ENV", "production");
    let cluster = cluster.argument("--env").argument("*").start_with(&command, 1);
    wait_until("it", Duration::from_secs(5), || cluster.log().contains("| env production\n"));
    assert!(!cluster.log().contains("not passed on"), "{}", cluster.log());
}

fn limits(lab: &Lab) {
    let file = lab.directory().join("made");
    let script = format!(
        "echo \"limits $(ulimit -Sn):$(ulimit -Hn) $(ulimit -Sc):$(ulimit -Hc) $(ulimit -l)\";
         echo \"nice $(nice) umask $(umask)\"; : > {}; exec \"$0\"",
        file.display()
    );
    let command = words(&["sh", "-c", &script, greeter().to_str().unwrap()]);
    let arguments = [
        "--limit-nofile",
        "333:444",
        "--limit-core",
        "0",
        "--limit-memlock",
        "8K",
        "--umask",
        "0027",
        "--nice",
        "3",
    ];
    let cluster =
        arguments.iter().fold(Cluster::new(lab, 1), |it, argument| it.argument(*argument));
    let cluster = cluster.start_with(&command, 1);
    let own = nice_of(cluster.status().pid);
    wait_until("what it says", Duration::from_secs(5), || {
        let log = cluster.log();
        log.contains("| limits 333:444 0:0 8\n")
            && log.contains(&format!("| nice {} umask 0027\n", own + 3))
    });
    assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o640);
    let error = {
        let mut cluster = Cluster::new(lab, 1).argument("--limit-nofile").argument("2000000000");
        cluster.start_master(&command);
        assert_eq!(cluster.master().wait(Duration::from_secs(10)).code(), Some(1));
        cluster.log()
    };
    assert!(error.contains("limits.nofile"), "{error}");
}

/// The nice value of a process.
fn nice_of(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(16).unwrap().parse().unwrap()
}

/// A cluster with a hook before each reload that is this script.
fn with_hook<'a>(lab: &'a Lab, script: &str) -> Cluster<'a> {
    let hook = lab.directory().join("hook");
    write_program(&hook, &format!("#!/bin/sh\n{script}\n"));
    Cluster::new(lab, 2).argument("--before-reload").argument(hook)
}

fn before_reload(lab: &Lab) {
    let script =
        "echo \"migrate to $IPCLUSTER_GENERATION of $IPCLUSTER_NAME as $IPCLUSTER_HOOK $1 $PORT\"
        [ -e \"$0.fail\" ] || exit 0; echo 'no such table'; exit 3";
    let after = lab.directory().join("after");
    write_program(&after, "#!/bin/sh\necho \"after $IPCLUSTER_GENERATION\"; exit 4\n");
    let cluster = with_hook(lab, script).argument("--before-reload").argument("{generation}");
    let mut cluster = cluster.argument("--after-reload").argument(after).start(2);
    assert!(!cluster.log().contains("before_reload"), "not at the first start");
    let pids = cluster.status().pids();
    let marker = lab.directory().join("hook.fail");
    fs::write(&marker, "").unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("before_reload failed: it exited with status 3"), "{error}");
    assert!(error.contains("no such table"), "{error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), pids);
    assert!(cluster.log().contains("before_reload | migrate to 2 of t as before_reload 2 \n"));
    assert!(!cluster.log().contains("after_reload"), "{}", cluster.log());
    fs::remove_file(&marker).unwrap();
    cluster.reload();
    let status = cluster.wait_until_settled(2);
    assert_eq!(status.generation, 2);
    wait_until("the hook after it", Duration::from_secs(5), || {
        let log = cluster.log();
        log.contains("after_reload | after 2\n")
            && log.contains("after_reload failed: it exited with status 4")
    });
    // A hook that cannot be run fails the reload in the same way.
    fs::set_permissions(lab.directory().join("hook"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("hook: EACCES: it may not be executed"), "{error}");
}

fn hook_user(lab: &Lab) {
    // In a directory that is closed to the master, which passes over no permissions.
    let home = lab.directory().join("home");
    fs::create_dir(&home).unwrap();
    fs::copy(greeter(), home.join("server")).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    // And with a file that is closed to the workers.
    let secrets = lab.directory().join("secrets");
    fs::write(&secrets, "GREETER_X=1\n").unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let cluster = with_hook(lab, "echo \"I am $(id -u), $(grep CapEff /proc/self/status)\"");
    let cluster = cluster.argument("--user").argument("nobody");
    let cluster = cluster.argument("--directory").argument(home);
    let cluster = cluster.argument("--env-file").argument(secrets);
    let cluster = cluster.start_with(&words(&["./server"]), 2);
    cluster.reload();
    let log = cluster.log();
    let line =
        log.lines().find(|line| line.contains("| I am 65534")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.ends_with("0000000000000000"), "it has no capability: {line}");
}

/// The pid that a hook has written.
fn hooked(lab: &Lab) -> u32 {
    let file = lab.directory().join("pid");
    let read = || fs::read_to_string(&file).ok()?.trim().parse().ok();
    wait_until("the hook to run", Duration::from_secs(10), || read().is_some());
    read().unwrap()
}

const STUBBORN: &str =
    "trap '' TERM; sleep 1000 & echo $! > \"$0.new\"; mv \"$0.new\" \"${0%/*}/pid\"; wait; wait";

fn hook_timeout(lab: &Lab) {
    let cluster = with_hook(lab, STUBBORN);
    let cluster = cluster.argument("--hook-timeout").argument("500ms");
    let mut cluster = cluster.argument("--die-timeout").argument("300ms").start(2);
    let pids = cluster.status().pids();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("before_reload took longer than 500ms (timeouts.hook)"), "{error}");
    assert!(!is_alive(hooked(lab)), "its group is gone");
    assert_eq!(cluster.wait_until_settled(2).pids(), pids);
}

fn hook_stop(lab: &Lab) {
    let cluster = with_hook(lab, STUBBORN).argument("--die-timeout").argument("300ms");
    let mut cluster = cluster.start(2);
    let mut reload = cluster.begin("reload", &[]);
    let child = hooked(lab);
    wait_until("the reload to say so", Duration::from_secs(10), || {
        reload.output().contains("before_reload of generation 2 runs")
    });
    // Meanwhile everything else goes on.
    kill_and_wait(&mut cluster);
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("a reload is under way"), "{error}");
    cluster.succeed("stop", &[]);
    assert!(cluster.master().wait(Duration::from_secs(10)).success(), "{}", cluster.log());
    assert!(!is_alive(child), "its group is gone");
    assert_eq!(reload.wait(Duration::from_secs(10)).code(), Some(1), "{}", reload.output());
}
