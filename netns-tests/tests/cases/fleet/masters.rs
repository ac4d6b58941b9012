//! Hosts whose masters are the members: `ipcluster run` with a table `fleet` and a list of members in a file, which
//! the case writes as an orchestrator would. No nft program loads anything, and the list names no MAC address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use ipcluster::lab::{Held, Load, Namespace, Network, Pace, RunningLoad};
use netns_tests::{Case, Lab, Process, Witness, engine, greeter, ipcluster, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::etcd::Etcd;
use super::{PUBLIC, joined, public, run};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("masters_join_drain_and_die_and_nothing_else_is_lost", members)
            .busy()
            .with_both_engines(),
        Case::new("masters_neighbours_that_are_flushed_or_change_cost_nothing", neighbours).busy(),
        Case::new("masters_next_master_adopts_the_rules", next_master),
        Case::new("masters_control_without_former_owners_some_are_lost", control)
            .with_both_engines_on_request(),
    ]
}

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
const CLIENTS: u16 = 200;

pub(super) struct Host {
    pub(super) name: &'static str,
    number: u8,
    pub(super) namespace: Namespace,
    /// Ended with the value.
    pub(super) holder: Process,
    pub(super) master: Option<Process>,
}

/// Where the masters have the list of members from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    File,
    Etcd,
}

/// Hosts on one link with the router, which is where the lab's clients are.
pub(super) struct Hosts<'a> {
    pub(super) lab: &'a Lab,
    /// Where the router is.
    router: &'a Namespace,
    pub(super) hosts: Vec<Host>,
    pub(super) kept: usize,
    membership: Membership,
    /// The servers of etcd.
    pub(super) endpoints: Vec<String>,
    /// Of the members, where they have one.
    pub(super) lease: &'static str,
    /// Further options of the masters.
    pub(super) options: &'static [&'static str],
}

fn address(number: u8) -> String {
    format!("10.7.0.{number}")
}

impl<'a> Hosts<'a> {
    /// With a master on each of them, and the list in a file.
    fn new(lab: &'a Lab, names: &[&'static str], kept: usize) -> Self {
        let mut hosts = Self::build(lab, names, kept, Membership::File);
        let serving: Vec<(&str, &str)> = names.iter().map(|name| (*name, "serving")).collect();
        hosts.change(&serving);
        for nth in 0..hosts.hosts.len() {
            hosts.start(nth);
        }
        hosts.route_over(names);
        hosts.wait_for_revision(names);
        hosts
    }

    /// Without a master and without a way there.
    pub(super) fn build(
        lab: &'a Lab,
        names: &[&'static str],
        kept: usize,
        membership: Membership,
    ) -> Self {
        Self::build_at(lab, lab.client(), names, kept, membership)
    }

    /// The same behind a router of its own, which forwards what the lab's clients send.
    pub(super) fn behind_router(
        lab: &'a Lab,
        names: &[&'static str],
        kept: usize,
        membership: Membership,
    ) -> Self {
        let hosts = Self::build_at(lab, lab.server(), names, kept, membership);
        lab.server().set_sysctl("net.ipv4.ip_forward", "1").unwrap();
        run(&Witness::new(lab.client()), &format!("route add {PUBLIC}/32 via 10.9.0.1"));
        hosts
    }

    fn build_at(
        lab: &'a Lab,
        router: &'a Namespace,
        names: &[&'static str],
        kept: usize,
        membership: Membership,
    ) -> Self {
        for arguments in [
            "link add fleet type bridge",
            "address add 10.7.0.254/24 dev fleet",
            "link set fleet up",
        ] {
            run(&Witness::new(router), arguments);
        }
        // New connections of one client take different paths: the hash is over ports as well.
        router.set_sysctl("net.ipv4.fib_multipath_hash_policy", "1").unwrap();
        let host = |(number, name): (u8, &&'static str)| host(lab, router, name, number);
        let hosts = (1..).zip(names).map(host).collect();
        let endpoints = vec![Etcd::ENDPOINT.to_owned()];
        let (lease, options): (_, &[_]) = ("2s", &[]);
        Self { lab, router, hosts, kept, membership, endpoints, lease, options }
    }

    pub(super) fn start(&mut self, nth: usize) {
        self.start_by(nth, &[]);
    }

    /// With workers that are ready after a second.
    pub(super) fn start_slowly(&mut self, nth: usize) {
        self.start_by(nth, &["sh", "-c", "sleep 1; exec \"$0\""]);
    }

    fn start_by(&mut self, nth: usize, before: &[&str]) {
        let (file, lab, kept) = (self.file(), self.lab, self.kept.to_string());
        let (lease, options) = (self.lease, self.options);
        let Host { name, number, namespace, master, .. } = &mut self.hosts[nth];
        let log = lab.directory().join(format!("{name}-master.log"));
        let mut command = Command::new(ipcluster());
        command.env("XDG_RUNTIME_DIR", lab.directory());
        command.args(["run", "--name", name, "--workers", "2", "--rollout-probation", "0"]);
        command.args(options);
        command.args(["--listen", &public().to_string(), "--engine", &engine().to_string()]);
        command.args(["--fleet-name", "web", "--fleet-member", name, "--fleet-device", "eth0"]);
        match self.membership {
            Membership::File => {
                command.args(["--fleet-membership", &format!("file:{}", file.display())]);
            }
            Membership::Etcd => {
                command.args(["--fleet-membership", "etcd", "--fleet-kept", &kept]);
                command.args(["--fleet-address", &address(*number), "--fleet-lease", lease]);
                for endpoint in &self.endpoints {
                    command.args(["--fleet-etcd", endpoint]);
                }
            }
        }
        command.arg("--").args(before).arg(greeter());
        *master = Some(Process::start(namespace, command, &log));
    }

    /// Tells the master of a host to stop, and does not wait for the end of its connections.
    pub(super) fn stop(&self, name: &str) {
        let stop = self.verb(&["stop", name, "--no-wait"]);
        assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
    }

    /// What the masters of a host have logged.
    pub(super) fn log(&self, name: &str) -> String {
        let path = self.lab.directory().join(format!("{name}-master.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub(super) fn nth(&self, name: &str) -> usize {
        self.hosts.iter().position(|host| host.name == name).unwrap()
    }

    fn host(&self, name: &str) -> &Host {
        &self.hosts[self.nth(name)]
    }

    fn file(&self) -> PathBuf {
        self.lab.directory().join("fleet.json")
    }

    /// The router has a path over each of these hosts.
    pub(super) fn route_over(&self, names: &[&str]) {
        let path = |name: &&str| format!("nexthop via {}", address(self.host(name).number));
        let paths: Vec<String> = names.iter().map(path).collect();
        let router = Witness::new(self.router);
        run(&router, &format!("route replace {PUBLIC}/32 {}", paths.join(" ")));
    }

    /// Writes the list with this state of each member, as an orchestrator does: planned, and put in its place whole.
    fn change(&self, states: &[(&str, &str)]) {
        let member = |(name, state): &(&str, &str)| {
            let address = address(self.host(name).number);
            format!(r#"{{"name":"{name}","addresses":["{address}"],"state":"{state}"}}"#)
        };
        let members: Vec<String> = states.iter().map(member).collect();
        let before = std::fs::read_to_string(self.file()).unwrap_or_default();
        let owners = before.find(r#","owners":"#).map_or("}", |at| before[at..].trim_end());
        let list = format!(r#"{{"kept":{},"members":[{}]{owners}"#, self.kept, members.join(","));
        let next = self.lab.directory().join("next.json");
        std::fs::write(&next, list).unwrap();
        let planned = self.verb(&["fleet", "plan", "--members", next.to_str().unwrap()]);
        assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));
        std::fs::write(&next, planned.stdout).unwrap();
        std::fs::rename(&next, self.file()).unwrap();
    }

    /// Changes the list, and waits until all of these hosts have the rules of it.
    fn change_and_wait(&self, states: &[(&str, &str)]) {
        self.change(states);
        let names: Vec<&str> = states.iter().map(|(name, _)| *name).collect();
        self.wait_for_revision(&names);
    }

    pub(super) fn verb(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ipcluster());
        command.env("XDG_RUNTIME_DIR", self.lab.directory()).args(arguments);
        command.output().unwrap()
    }

    /// The status of the fleet, as a host knows it; none while its master does not answer.
    pub(super) fn status(&self, name: &str) -> Option<Value> {
        let output = self.verb(&["fleet", "status", name, "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// All of these hosts have the list that is in the file, and its rules in force.
    fn wait_for_revision(&self, names: &[&str]) {
        // Who is listed as serving owns slots, whether its workers are ready or not.
        for name in names {
            wait_until("workers that serve", PATIENCE, || {
                let output = self.verb(&["status", name, "--json"]);
                let status = serde_json::from_slice::<Value>(&output.stdout);
                status.is_ok_and(|status| status["serving"] == 2)
            });
        }
        let text = std::fs::read_to_string(self.file()).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        let states = |list: &Value| -> Vec<(String, String)> {
            let text = |it: &Value| it.as_str().unwrap().to_owned();
            let members = list["members"].as_array().unwrap();
            members.iter().map(|it| (text(&it["name"]), text(&it["state"]))).collect()
        };
        wait_until("one list on all hosts", PATIENCE, || {
            let known: Vec<Option<Value>> = names.iter().map(|name| self.status(name)).collect();
            let is_there =
                |status: &Value| status["in_force"] == true && states(status) == states(&written);
            let Some(known) = known.into_iter().collect::<Option<Vec<Value>>>() else {
                return false;
            };
            known.iter().all(is_there)
                && known.iter().all(|it| it["revision"] == known[0]["revision"])
        });
    }

    /// The host of a worker.
    pub(super) fn host_of(&self, held: &Held) -> &'static str {
        let inode = |path: String| std::fs::read_link(path).ok();
        let of_worker = inode(format!("/proc/{}/ns/net", held.by().pid));
        let is_its =
            |host: &&Host| inode(format!("/proc/{}/ns/net", host.holder.pid())) == of_worker;
        self.hosts.iter().find(is_its).unwrap().name
    }

    pub(super) fn hold(&self) -> Vec<Held> {
        let open = |from| Held::open(self.lab.client(), from, public()).unwrap();
        Network::clients_v4(CLIENTS).map(open).collect()
    }

    pub(super) fn load(&self) -> RunningLoad {
        let load = Load::to([public()]).from(Network::clients_v4(CLIENTS)).pace(Pace::Rate(300.0));
        load.start(self.lab.client()).unwrap()
    }
}

/// A host without a master yet.
fn host(lab: &Lab, router: &Namespace, name: &'static str, number: u8) -> Host {
    let mac = format!("02:00:00:00:00:{number:02x}");
    let (namespace, holder) = joined(lab, router, name, &address(number), &mac);
    Host { name, number, namespace, holder, master: None }
}

/// Every connection still has its worker.
#[track_caller]
pub(super) fn echo(held: &mut [Held]) {
    for connection in held {
        if let Err(error) = connection.echo("still there") {
            panic!("{:?} by {:?}: {error}", connection.source(), connection.by());
        }
    }
}

pub(super) fn answers(load: &RunningLoad, more: u64) {
    let goal = load.counters().answered + more;
    wait_until("answers", PATIENCE, || load.counters().answered >= goal);
}

fn members(lab: &Lab) {
    let mut fleet = Hosts::new(lab, &["a", "b", "c", "d"], 2);
    fleet.change_and_wait(&[
        ("a", "serving"),
        ("b", "serving"),
        ("c", "joining"),
        ("d", "serving"),
    ]);
    let mut held = fleet.hold();
    let before: BTreeMap<IpAddr, &str> =
        held.iter().map(|it| (it.source().unwrap().ip(), fleet.host_of(it))).collect();
    assert!(before.values().all(|host| *host != "c"), "it owns nothing yet");
    for (client, host) in before.iter().take(5) {
        let explained = fleet.verb(&["fleet", "explain", &client.to_string(), "--name", "a"]);
        let text = String::from_utf8(explained.stdout).unwrap()
            + &String::from_utf8_lossy(&explained.stderr);
        assert!(text.contains(&format!("member      {host} (")), "{client} is {host}'s: {text}");
    }
    let load = fleet.load();
    answers(&load, 200);
    // One joins: its slots move, and their connections stay where they were.
    fleet.change_and_wait(&[
        ("a", "serving"),
        ("b", "serving"),
        ("c", "serving"),
        ("d", "serving"),
    ]);
    echo(&mut held);
    let mut later = fleet.hold();
    let moved = later.iter().filter(|it| fleet.host_of(it) == "c").count();
    assert!((25..80).contains(&moved), "c serves {moved} of {CLIENTS}");
    // All reload at once.
    let reloads: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| {
            let mut command = Command::new(ipcluster());
            command.env("XDG_RUNTIME_DIR", lab.directory()).args(["reload", name]);
            command.spawn().unwrap()
        })
        .into();
    for mut reload in reloads {
        assert!(reload.wait().unwrap().success());
    }
    echo(&mut held);
    echo(&mut later);
    answers(&load, 200);
    // The router loses a path and gets it back: packets arrive at other hosts than before.
    fleet.route_over(&["a", "c", "d"]);
    echo(&mut held);
    echo(&mut later);
    fleet.route_over(&["a", "b", "c", "d"]);
    // One drains: it owns nothing, and keeps what it has.
    fleet.change_and_wait(&[
        ("a", "serving"),
        ("b", "draining"),
        ("c", "serving"),
        ("d", "serving"),
    ]);
    echo(&mut held);
    echo(&mut later);
    answers(&load, 200);
    let begun = fleet.verb(&["fleet", "drain", "b", "--no-wait"]);
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    held.retain(|it| fleet.host_of(it) != "b");
    later.retain(|it| fleet.host_of(it) != "b");
    // Its clients have closed: the host hears of that too, whichever host the router told.
    wait_until("b without connections", PATIENCE, || {
        let output = fleet.verb(&["status", "b", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let workers = status["workers"].as_array().unwrap();
        workers.iter().all(|worker| worker["connections"] == 0)
    });
    let drained = fleet.verb(&["fleet", "drain", "b"]);
    let text = String::from_utf8_lossy(&drained.stdout).into_owned();
    assert!(text.contains("member b owns no slot and has no connection"), "{text}");
    fleet.route_over(&["a", "c", "d"]);
    fleet.change_and_wait(&[("a", "serving"), ("c", "serving"), ("d", "serving")]);
    echo(&mut held);
    echo(&mut later);
    answers(&load, 200);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    // One dies: what it had is lost, and nothing else.
    let dead = fleet.nth("d");
    let on_dead = |fleet: &Hosts<'_>, held: &mut Vec<Held>| {
        let (lost, kept): (Vec<Held>, Vec<Held>) =
            std::mem::take(held).into_iter().partition(|it| fleet.host_of(it) == "d");
        *held = kept;
        lost.len()
    };
    let lost = on_dead(&fleet, &mut held) + on_dead(&fleet, &mut later);
    assert!(lost > 0, "it has had some");
    run(&Witness::new(&fleet.hosts[dead].namespace), "link set eth0 down");
    fleet.route_over(&["a", "c"]);
    fleet.change_and_wait(&[("a", "serving"), ("c", "serving")]);
    echo(&mut held);
    echo(&mut later);
    let load = fleet.load();
    answers(&load, 200);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    fleet.hosts[dead].master.take();
}

fn neighbours(lab: &Lab) {
    let fleet = Hosts::new(lab, &["a", "b", "c"], 2);
    let mut held = fleet.hold();
    let macs = |of: &str| -> Vec<String> {
        let status = fleet.status("a").unwrap();
        let members = status["members"].as_array().unwrap().iter();
        let of_it = members.filter(|member| member["name"] == of);
        of_it.map(|member| member["mac"].as_str().unwrap_or("-").to_owned()).collect()
    };
    wait_until("the address of c", PATIENCE, || macs("c") == ["02:00:00:00:00:03"]);
    for host in &fleet.hosts {
        let inside = Witness::new(&host.namespace);
        let entries = inside.succeed("ip", &["neigh", "show", "dev", "eth0"], "");
        for other in fleet.hosts.iter().filter(|it| it.name != host.name) {
            let address = format!("{} ", address(other.number));
            let entry = entries.lines().find(|line| line.starts_with(&address));
            assert!(entry.is_some_and(|it| it.contains("managed")), "{}: {entries}", host.name);
        }
    }
    // Somebody flushes all entries: they are back before the next packet needs them.
    for host in &fleet.hosts {
        run(&Witness::new(&host.namespace), "neigh flush dev eth0");
    }
    echo(&mut held);
    for host in &fleet.hosts {
        let inside = Witness::new(&host.namespace);
        let reachable = || {
            let entries = inside.succeed("ip", &["neigh", "show", "dev", "eth0"], "");
            let is_kept = |it: &&str| it.contains("managed") && it.contains("lladdr");
            entries.lines().filter(is_kept).count() == 2
        };
        wait_until("neighbours", PATIENCE, reachable);
    }
    let load = fleet.load();
    answers(&load, 100);
    // The address of a member changes, as with another network card, when the others have just learned the one
    // before and take no other for a second.
    for name in ["a", "b"] {
        let inside = Witness::new(&fleet.host(name).namespace);
        let of_c = [address(3), "dev".to_owned(), "eth0".to_owned()];
        let entry = |verb: &str| {
            let arguments: Vec<&str> =
                ["neigh", verb].into_iter().chain(of_c.iter().map(String::as_str)).collect();
            inside.run("ip", &arguments, "")
        };
        assert!(entry("del").status.success());
        wait_until("the address of c", PATIENCE, || {
            let output = entry("get").stdout;
            String::from_utf8_lossy(&output).contains("REACHABLE")
        });
    }
    let inside = Witness::new(&fleet.host("c").namespace);
    run(&inside, "link set eth0 address 02:00:00:00:00:33");
    // How the router comes to know it is the router's business.
    run(&Witness::new(lab.client()), "neigh flush dev fleet");
    echo(&mut held);
    wait_until("the new address", PATIENCE, || macs("c") == ["02:00:00:00:00:33"]);
    let set = || {
        let inside = Witness::new(&fleet.host("a").namespace);
        inside.succeed("nft", &["list", "set", "netdev", "ipcluster_fleet_web", "members"], "")
    };
    wait_until("the new address in the rules", PATIENCE, || set().contains("02:00:00:00:00:33"));
    answers(&load, 100);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

fn next_master(lab: &Lab) {
    let mut fleet = Hosts::new(lab, &["a", "b"], 2);
    let mut held = fleet.hold();
    let rules = |fleet: &Hosts<'_>| {
        let inside = Witness::new(&fleet.hosts[0].namespace);
        inside.succeed("nft", &["list", "table", "netdev", "ipcluster_fleet_web"], "")
    };
    let before = rules(&fleet);
    // nft knows every rule for what it is meant to be: a list that only looks alike would be read back as equal.
    for rule in ["ether saddr @members accept", "jhash ip saddr mod 1024", "fwd ip to 10.7.0.2"] {
        assert!(before.contains(rule), "{rule}: {before}");
    }
    // Nobody else can change them.
    let inside = Witness::new(&fleet.hosts[0].namespace);
    let refused = inside.run("nft", &["delete", "table", "netdev", "ipcluster_fleet_web"], "");
    assert!(!refused.status.success());
    // The master dies: the rules stay in force.
    let mut master = fleet.hosts[0].master.take().unwrap();
    master.signal(Signal::SIGKILL);
    master.wait(PATIENCE);
    echo(&mut held);
    // Somebody changes what is nobody's now; the next master takes it, and puts it right.
    let inside = Witness::new(&fleet.hosts[0].namespace);
    inside.nft(
        &["delete", "element", "netdev", "ipcluster_fleet_web", "owners", &one_slot(&before)],
        "",
    );
    fleet.start(0);
    fleet.wait_for_revision(&["a", "b"]);
    echo(&mut held);
    let strip =
        |text: &str| text.replace("flags owner,persist", "").replace(char::is_whitespace, "");
    assert_eq!(strip(&rules(&fleet)).len(), strip(&before).len());
}

/// An element of the map of owners, as nft takes it.
fn one_slot(listed: &str) -> String {
    let elements = listed.split("map owners").nth(1).unwrap().split("elements = {").nth(1).unwrap();
    let slot = elements.trim_start().split(' ').next().unwrap();
    format!("{{ {slot} }}")
}

/// What former owners are for.
fn control(lab: &Lab) {
    let fleet = Hosts::new(lab, &["a", "b"], 0);
    fleet.change_and_wait(&[("a", "serving"), ("b", "draining")]);
    let mut held = fleet.hold();
    echo(&mut held);
    fleet.change_and_wait(&[("a", "serving"), ("b", "serving")]);
    let lost = held.iter_mut().filter_map(|it| it.echo("still there").err()).count();
    assert!((60..140).contains(&lost), "{lost} of {CLIENTS} are lost");
}
