//! The greeter behaves as a good worker does.

use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Lab, Need, Witness, greeter, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("curl_gets_a_line", curl_gets_a_line).needs(Need::Curl),
        Case::new("it_listens_on_every_port_it_is_given", every_port),
        Case::new("it_boots_as_slowly_as_told", slow_boot),
        Case::new("it_exits_as_told", exits_as_told),
        Case::new("it_never_listens_if_told", never_listens),
        Case::new("it_needs_a_port", needs_a_port),
        Case::new("a_terminated_greeter_serves_what_it_has", terminated),
    ]
}

fn start(lab: &Lab, environment: &[(&str, &str)]) -> netns_tests::Process {
    let mut command = Command::new(greeter());
    command.env("PORT", "8080").envs(environment.iter().copied());
    lab.start("greeter", command)
}

fn curl_gets_a_line(lab: &Lab) {
    let greeter = lab.greeter(8080, 5);
    for url in ["http://10.9.0.1:8080/", "http://[fd09::1]:8080/any/path?x"] {
        let line = Witness::new(lab.client()).succeed("curl", &["-sSfg", "-m", "5", url], "");
        assert_eq!(line, format!("{} 5 0\n", greeter.pid()));
    }
}

fn every_port(lab: &Lab) {
    let _greeter = start(lab, &[("IPCLUSTER_PORT_80", "8080"), ("IPCLUSTER_PORT_443", "8443")]);
    wait_until("both ports", Duration::from_secs(5), || {
        lab.is_listened_to(8080) && lab.is_listened_to(8443)
    });
}

fn slow_boot(lab: &Lab) {
    let began = Instant::now();
    let _greeter = start(lab, &[("GREETER_DELAY_MS", "300")]);
    wait_until("the port", Duration::from_secs(5), || lab.is_listened_to(8080));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

fn exits_as_told(lab: &Lab) {
    let mut greeter = start(lab, &[("GREETER_EXIT", "3")]);
    assert_eq!(greeter.wait(Duration::from_secs(5)).code(), Some(3));
    assert!(greeter.output().contains("GREETER_EXIT"), "{}", greeter.output());
}

fn never_listens(lab: &Lab) {
    let mut greeter = start(lab, &[("GREETER_LISTEN", "never")]);
    // It has booted once it waits in poll(2) for SIGTERM.
    let waits = || {
        let file = format!("/proc/{}/stat", greeter.pid());
        std::fs::read_to_string(file).unwrap().split(' ').nth(2) == Some("S")
    };
    wait_until("it to sleep", Duration::from_secs(5), waits);
    assert!(greeter.is_running() && !lab.is_listened_to(8080));
    greeter.signal(Signal::SIGTERM);
    assert_eq!(greeter.wait(Duration::from_secs(5)).code(), Some(0));
}

fn needs_a_port(lab: &Lab) {
    for value in ["", "0x50", "65536", "-1"] {
        let mut command = Command::new(greeter());
        command.env("PORT", value);
        let mut process = lab.start("greeter", command);
        assert_eq!(process.wait(Duration::from_secs(5)).code(), Some(1), "{value:?}");
        assert!(process.output().contains("PORT="), "{}", process.output());
    }
}

fn terminated(lab: &Lab) {
    let mut greeter = lab.greeter(8080, 0);
    let from = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), from, Network::server_v4(8080)).unwrap();
    greeter.signal(Signal::SIGTERM);
    wait_until("it to stop listening", Duration::from_secs(5), || !lab.is_listened_to(8080));
    held.echo("still served").unwrap();
    assert!(greeter.is_running());
    drop(held);
    assert_eq!(greeter.wait(Duration::from_secs(5)).code(), Some(0));
}
