//! Each failing line is said once to whoever reads it: in the log, or as the error of a verb.

use std::fs;
use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("what_a_failed_worker_printed_is_in_the_log_once", run),
        Case::new("where_the_output_goes_elsewhere_the_log_has_the_last_lines", run_elsewhere),
        Case::new("a_master_that_cannot_start_says_why_once", run_fails),
        Case::new("a_verb_that_fails_says_why_once", verbs),
        Case::new("a_check_says_each_fault_once", check),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);
const SCRIPT: &str = "echo out of cheese; exit 3";

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

fn run(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 1).argument("--spawn-backoff=1h..1h");
    cluster.start_master(&["sh".into(), "-c".into(), SCRIPT.into()]);
    wait_until("the failure", LIMIT, || {
        let log = cluster.log();
        log.contains("exited with status 3") && log.contains("out of cheese")
    });
    let log = cluster.terminate_master();
    assert_eq!(
        (count(&log, "seat 0 | out of cheese"), count(&log, "out of cheese")),
        (1, 1),
        "{log}"
    );
    assert_eq!(count(&log, "exited with status 3"), 1, "{log}");
    assert!(!log.contains("its last lines"), "{log}");
}

fn run_elsewhere(lab: &Lab) {
    let file = lab.directory().join("workers.log");
    let script = format!("exec \"$@\" > {}", file.display());
    let mut cluster = Cluster::new(lab, 1).argument("--spawn-backoff=1h..1h");
    cluster = cluster.wrapped(&["sh", "-c", &script, "sh"]);
    cluster.start_master(&["sh".into(), "-c".into(), SCRIPT.into()]);
    wait_until("the failure", LIMIT, || {
        cluster.log().contains("its last lines:\n    out of cheese\n")
    });
    wait_until("the output", LIMIT, || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("seat 0 | out of cheese"))
    });
    let log = cluster.terminate_master();
    assert_eq!(count(&log, "out of cheese"), 1, "{log}");
}

fn run_fails(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2);
    cluster.start_master(&["./nonesuch".into()]);
    let mut master = cluster.take_master();
    assert_eq!(master.wait(LIMIT).code(), Some(1));
    let output = master.output();
    assert_eq!((count(&output, "nonesuch"), count(&output, "error: ")), (1, 1), "{output}");
    // Beside a master that runs.
    let mut cluster = Cluster::new(lab, 2).start(2);
    let mut second = Cluster::new(lab, 2);
    second.start_master(&["true".into()]);
    let mut second = second.take_master();
    assert_eq!(second.wait(LIMIT).code(), Some(1));
    assert_eq!(count(&second.output(), "runs already"), 1, "{}", second.output());
    cluster.terminate_master();
}

fn verbs(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).argument("--spawn-backoff=1h..1h").start_adjustable(2);
    cluster.set_greeters(SCRIPT);
    for (verb, arguments, seat) in [("reload", &[][..], "seat "), ("scale", &["3"], "seat 2: ")] {
        let error = cluster.fail(verb, arguments);
        assert_eq!(count(&error, "exited with status 3"), 1, "{verb}: {error}");
        assert_eq!(count(&error, "out of cheese"), 1, "{verb}: {error}");
        assert_eq!(
            count(&error, "\nhint: the old workers keep serving; it printed: out of cheese\n"),
            1,
            "{error}"
        );
        assert!(error.contains(seat), "{error}");
        cluster.wait_until_settled(2);
    }
    // A worker that is to be replaced, whose successor fails: a step, and it is one line.
    let retire = cluster.begin("retire", &["0"]);
    wait_until("the step", LIMIT, || retire.output().contains("the successor failed"));
    wait_until("its end", LIMIT, || retire.output().ends_with('\n'));
    let said = retire.output();
    assert_eq!(
        (said.lines().count(), count(&said, "; it printed: out of cheese")),
        (1, 1),
        "{said}"
    );
    let log = cluster.log();
    // Of each generation of workers that failed there is one line for a worker, and what it printed once.
    let failed = count(&log, "exited with status 3 before it was in force");
    assert_eq!(count(&log, "its last lines"), 0, "{log}");
    assert!(count(&log, "| out of cheese") >= failed, "{log}");
    assert_eq!(count(&log, "| out of cheese"), count(&log, "out of cheese"), "{log}");
    cluster.succeed("stop", &["--now"]);
}

fn check(lab: &Lab) {
    let file = lab.directory().join("t.toml");
    fs::write(&file, "listen = [\"0.0.0.0:80\"]\nworkrs = 2\ncommand = [\"true\"]\n").unwrap();
    let run = |verb: &str| {
        let mut command = std::process::Command::new(netns_tests::ipcluster());
        command.arg(verb).arg("-c").arg(&file).env("XDG_RUNTIME_DIR", lab.directory());
        let output = lab.server().run_in(|| command.output()).unwrap().unwrap();
        let all = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(all).unwrap())
    };
    for verb in ["check", "run", "plan"] {
        let (code, said) = run(verb);
        assert_eq!(code, Some(1), "{verb}: {said}");
        assert_eq!(
            (count(&said, "workrs"), count(&said, "did you mean `workers`?")),
            (1, 1),
            "{verb}: {said}"
        );
    }
}
