//! The recipes for routers in `packaging/router`, run as they stand there by the real programs: BIRD on host a, FRR on
//! host b, and each of them on the router.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::Namespace;
use netns_tests::{Case, Lab, Need, Process, Witness, wait_until};
use nix::sys::signal::Signal;

use super::{PUBLIC, joined, run};

pub(super) fn cases() -> Vec<Case> {
    let case = |name, body| {
        // FRR gives up the rights of root, for a user of its own.
        Case::new(name, body).needs(Need::Routing).needs(Need::OtherUsers).on_request()
    };
    vec![
        case("router_recipe_of_bird_follows_what_becomes_of_hosts", bird),
        case("router_recipe_of_frr_follows_what_becomes_of_hosts", frr),
        case("router_control_without_bfd_a_dead_host_stays", without_bfd),
    ]
}

const PATIENCE: Duration = Duration::from_secs(30);

/// The router, host a and host b.
struct Net<'a> {
    lab: &'a Lab,
    hosts: [(Namespace, Process); 2],
}

/// Where a recipe stands.
fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/router").join(name)
}

impl<'a> Net<'a> {
    /// As the recipes have it: 10.0.0.254 on the router's device `fleet`, 10.0.0.1 and 10.0.0.2 on those of the hosts.
    fn new(lab: &'a Lab) -> Self {
        let router = lab.server();
        for arguments in [
            "link add fleet type bridge",
            "address add 10.0.0.254/24 dev fleet",
            "link set fleet up",
        ] {
            run(&Witness::new(router), arguments);
        }
        let host = |nth: u8, name: &str| {
            let (address, mac) = (format!("10.0.0.{nth}"), format!("02:00:00:00:00:{nth:02x}"));
            joined(lab, router, name, &address, &mac)
        };
        let hosts = [host(1, "a"), host(2, "b")];
        Self { lab, hosts }
    }

    /// A directory for the sockets and logs of one place, which FRR's user may write to.
    fn directory(&self, place: &str) -> PathBuf {
        let directory = self.lab.directory().join(place);
        std::fs::create_dir_all(&directory).unwrap();
        let witness = Witness::new(self.lab.server());
        for (program, argument) in [("chmod", "755"), ("chown", "frr:frr")] {
            witness.succeed(program, &[argument, directory.to_str().unwrap()], "");
        }
        directory
    }

    fn bird(&self, namespace: &Namespace, place: &str, configuration: &Path) -> Process {
        let directory = self.directory(place);
        let mut command = Witness::command("bird");
        command.arg("-f").arg("-c").arg(configuration);
        command.arg("-s").arg(directory.join("bird.ctl")).arg("-P").arg(directory.join("pid"));
        Process::start(namespace, command, &directory.join("bird.log"))
    }

    /// The three programs of FRR that the recipes are for, in their order.
    fn frr(&self, namespace: &Namespace, place: &str, recipe_of_bgp: &str) -> Vec<Process> {
        let directory = self.directory(place);
        let empty = directory.join("zebra.conf");
        std::fs::write(&empty, "").unwrap();
        let programs =
            [("zebra", empty), ("bfdd", recipe("bfdd.frr.conf")), ("bgpd", recipe(recipe_of_bgp))];
        let start = |(program, configuration): (&str, PathBuf)| {
            let mut command = Command::new(Path::new("/usr/lib/frr").join(program));
            command.args(["-u", "frr", "-g", "frr", "-P", "0", "-f"]).arg(configuration);
            command.arg("-i").arg(directory.join(format!("{program}.pid")));
            command.arg("-z").arg(directory.join("zserv.api"));
            command.arg("--vty_socket").arg(&directory);
            if program == "bfdd" {
                command.arg("--bfdctl").arg(directory.join("bfdd.sock"));
            }
            let process =
                Process::start(namespace, command, &directory.join(format!("{program}.log")));
            let socket = directory.join(format!("{program}.vty"));
            wait_until(program, PATIENCE, || socket.exists());
            process
        };
        programs.into_iter().map(start).collect()
    }

    /// The addresses of the hosts by which the router reaches the service.
    fn paths(&self) -> Vec<String> {
        let routes = Witness::new(self.lab.server()).succeed("ip", &["route", "show", PUBLIC], "");
        let mut words = routes.split_whitespace();
        let mut paths = vec![];
        while words.any(|word| word == "via") {
            paths.extend(words.next().map(str::to_owned));
        }
        paths.sort();
        paths
    }

    #[track_caller]
    fn wait_for(&self, what: &str, paths: &[&str]) {
        let began = Instant::now();
        wait_until(&format!("{what}: {paths:?}"), PATIENCE, || self.paths() == paths);
        println!("{what}: {paths:?} after {:?}", began.elapsed());
    }

    fn birdc(&self, place: &str, words: &[&str]) -> String {
        let socket = self.lab.directory().join(place).join("bird.ctl");
        let arguments: Vec<&str> =
            ["-s", socket.to_str().unwrap()].iter().chain(words).copied().collect();
        Witness::new(self.lab.server()).succeed("birdc", &arguments, "")
    }

    /// FRR's command of host b in the family that the service is announced in.
    fn announce(&self, command: &str) {
        let directory = self.lab.directory().join("b");
        let in_order =
            ["configure terminal", "router bgp 64512", "address-family ipv4 unicast", command];
        let mut arguments = vec!["--vty_socket", directory.to_str().unwrap()];
        arguments.extend(in_order.iter().flat_map(|it| ["-c", it]));
        Witness::new(self.lab.server()).succeed("vtysh", &arguments, "");
    }
}

const BOTH: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

fn bird(lab: &Lab) {
    let net = Net::new(lab);
    let router = net.bird(lab.server(), "router", &recipe("router.bird.conf"));
    follow(&net, vec![router]);
}

fn frr(lab: &Lab) {
    let net = Net::new(lab);
    let router = net.frr(lab.server(), "router", "router.frr.conf");
    follow(&net, router);
}

fn follow(net: &Net<'_>, _router: Vec<Process>) {
    let [(a, _), (b, _)] = &net.hosts;
    let mut of_a = net.bird(a, "a", &recipe("host.bird.conf"));
    let of_b = net.frr(b, "b", "host.frr.conf");
    net.wait_for("both have announced it", &BOTH);
    // It is BFD that tells of a dead host: when it is up at both ends.
    let sessions = || net.birdc("a", &["show", "bfd", "sessions"]);
    wait_until("BFD", PATIENCE, || sessions().contains(" Up "));
    for (host, name, other) in [(a, "a", BOTH[1]), (b, "b", BOTH[0])] {
        run(&Witness::new(host), "link set eth0 down");
        net.wait_for(&format!("{name} is reached by nobody"), &[other]);
        run(&Witness::new(host), "link set eth0 up");
        net.wait_for(&format!("{name} is back"), &BOTH);
    }
    // As the documentation says, before a host is stopped.
    net.birdc("a", &["disable", "to_router"]);
    net.wait_for("a takes it back", &[BOTH[1]]);
    net.birdc("a", &["enable", "to_router"]);
    net.wait_for("a announces it", &BOTH);
    net.announce("no network 192.0.2.1/32");
    net.wait_for("b takes it back", &[BOTH[0]]);
    net.announce("network 192.0.2.1/32");
    net.wait_for("b announces it", &BOTH);
    // The programs themselves die.
    of_a.signal(Signal::SIGKILL);
    of_a.wait(PATIENCE);
    net.wait_for("BIRD of a is killed", &[BOTH[1]]);
    of_b.iter().for_each(|process| process.signal(Signal::SIGKILL));
    net.wait_for("FRR of b is killed", &[]);
}

/// What BFD is for.
fn without_bfd(lab: &Lab) {
    let net = Net::new(lab);
    let without = |name: &str| {
        let text = std::fs::read_to_string(recipe(name)).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| line.trim() != "bfd on;").collect();
        let file = net.directory("without").join(name);
        std::fs::write(&file, kept.join("\n")).unwrap();
        file
    };
    let _router = net.bird(lab.server(), "router", &without("router.bird.conf"));
    let _a = net.bird(&net.hosts[0].0, "a", &without("host.bird.conf"));
    net.wait_for("a has announced it", &[BOTH[0]]);
    run(&Witness::new(&net.hosts[0].0), "link set eth0 down");
    // Ten times as long as it takes with BFD.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(net.paths(), [BOTH[0]]);
    }
}
