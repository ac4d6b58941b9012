//! Without `CAP_NET_ADMIN` nothing is begun, and the message says what is missing.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use netns_tests::{Case, Lab, Need, greeter, ipcluster};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("run_without_the_capability", run_without_it)
            .needs(Need::Ipcluster)
            .needs(Need::Nft)
            .needs(Need::Pids),
        Case::new("other_verbs_without_the_capability", other_verbs)
            .needs(Need::Ipcluster)
            .needs(Need::Nft),
    ]
}

/// `ipcluster` with these arguments, in the server's namespace and without the capability.
fn without_capability(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
    command.arg(ipcluster()).args(arguments);
    command.env("XDG_RUNTIME_DIR", lab.directory());
    lab.server().run_in(|| command.output()).unwrap().expect("setpriv (util-linux)")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run_without_it(lab: &Lab) {
    let marker = lab.directory().join("a-worker-was-started");
    let script = format!("touch {}; exec {}", marker.display(), greeter().display());
    let arguments =
        ["run", "--name", "t", "--listen", "10.9.0.1:80", "--workers", "2", "--", "sh", "-c"];
    let began = Instant::now();
    let output = without_capability(lab, &[&arguments[..], &[&script]].concat());
    let took = began.elapsed();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(took < Duration::from_secs(1), "{took:?}");
    let errors = text(&output.stderr);
    assert!(errors.contains("CAP_NET_ADMIN"), "{errors}");
    assert!(!marker.exists(), "no worker was started");
    assert_eq!(lab.witness().ruleset(), "", "there is no table");

    // With it, the same command line starts its workers: so that was what it lacked.
    let mut command = Command::new(ipcluster());
    command.args(arguments).arg(&script);
    let mut master = lab.start("master", command);
    netns_tests::wait_until("a table", Duration::from_secs(10), || {
        assert!(master.is_running(), "{}", master.output());
        marker.exists() && lab.witness().ruleset().contains("table inet ipcluster_t")
    });
}

fn other_verbs(lab: &Lab) {
    for arguments in [&["flush", "t"][..], &["explain", "t", "10.8.0.1"], &["check"]] {
        let began = Instant::now();
        let output = without_capability(lab, arguments);
        let said = text(&output.stderr) + &text(&output.stdout);
        assert!(!output.status.success(), "{arguments:?}: {said}");
        assert!(said.contains("CAP_NET_ADMIN"), "{arguments:?}: {said}");
        assert!(began.elapsed() < Duration::from_secs(1), "{arguments:?}");
    }
    assert_eq!(lab.witness().ruleset(), "");
}
