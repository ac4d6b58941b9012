//! Two hosts set up by `docs/fleet.md` alone: its configuration and its commands, as they stand there.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::{Namespace, Network};
use netns_tests::{Case, Lab, Need, Process, Witness, ipcluster};
use nix::mount::{MsFlags, mount};

use super::run;
use crate::documentation::{blocks, fenced, read, repository};
use crate::etcd::Certificates;
use crate::etcd::servers::Server;

pub(super) fn cases() -> Vec<Case> {
    let needs = [Need::Node, Need::Nft, Need::Curl, Need::Conntrack];
    let case = |name, body| needs.into_iter().fold(Case::new(name, body), Case::needs).busy();
    vec![
        case("two_hosts_by_the_page_with_etcd", with_etcd).needs(Need::Etcd),
        case("two_hosts_by_the_page_with_a_file", with_file),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// What the page calls `/etc/ipcluster`.
const SETTINGS: &str = "/etc/ipcluster";

struct Host<'a> {
    lab: &'a Lab,
    name: &'static str,
    address: String,
    namespace: Namespace,
    _holder: Process,
    /// Its `/etc/ipcluster`, its sockets and `server.js`.
    home: PathBuf,
    master: Option<Process>,
}

/// The two hosts of the page, and the router between them and the clients.
fn hosts(lab: &Lab) -> [Host<'_>; 2] {
    let router = lab.server();
    for arguments in
        ["link add fleet type bridge", "address add 10.0.0.254/24 dev fleet", "link set fleet up"]
    {
        run(&Witness::new(router), arguments);
    }
    router.set_sysctl("net.ipv4.ip_forward", "1").unwrap();
    run(&Witness::new(lab.client()), "route add 192.0.2.1/32 via 10.9.0.1");
    ["a", "b"].map(|name| {
        let number = if name == "a" { 1 } else { 2 };
        let (address, mac) = (format!("10.0.0.{number}"), format!("02:00:00:00:00:{number:02x}"));
        let (namespace, holder) = super::joined(lab, router, name, &address, &mac);
        // The page says who gives it the public address.
        run(&Witness::new(&namespace), "address del 192.0.2.1/32 dev lo");
        let home = lab.directory().join(format!("host-{name}"));
        fs::create_dir_all(home.join("ipcluster")).unwrap();
        let server = repository().join("netns-tests/tests/documentation/server.js");
        fs::copy(server, home.join("server.js")).unwrap();
        Host { lab, name, address, namespace, _holder: holder, home, master: None }
    })
}

impl Host<'_> {
    fn settings(&self) -> PathBuf {
        self.home.join("ipcluster")
    }

    /// Writes what the page has as `web.toml`, with what it says of b.
    fn configure(&self, change: impl Fn(&str) -> String) {
        let page = read("docs/fleet.md");
        let mut all = fenced(&page).into_iter().filter(|(_, info, _)| info == "toml");
        let (_, _, text) = all.next().expect("a configuration on the page");
        let mut text = change(&text);
        if self.name == "b" {
            for (of_a, of_b) in
                [("member = \"a\"", "member = \"b\""), ("[\"10.0.0.1\"]", "[\"10.0.0.2\"]")]
            {
                assert!(text.contains(of_a), "{text}");
                text = text.replacen(of_a, of_b, 1);
            }
        }
        fs::write(self.settings().join("web.toml"), self.ours(&text)).unwrap();
    }

    fn ours(&self, text: &str) -> String {
        text.replace(SETTINGS, self.settings().to_str().unwrap())
    }

    /// A line of the page, in a shell on this host.
    fn command(&self, line: &str) -> Command {
        let programs = self.home.join("bin");
        if !programs.exists() {
            fs::create_dir_all(&programs).unwrap();
            std::os::unix::fs::symlink(ipcluster(), programs.join("ipcluster")).unwrap();
        }
        let mut command = Command::new("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()));
        // Two hosts have no common /run.
        command.env("IPCLUSTER_RUNTIME_DIR", self.home.join("run"));
        command.current_dir(&self.home).args(["-c", &self.ours(line)]);
        command
    }

    fn succeed(&self, line: &str) -> String {
        let mut command = self.command(line);
        let output = self.namespace.run_in(|| command.output()).unwrap().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "on {}: {line}: {printed}{said}", self.name);
        printed
    }

    /// What goes on until it is told to end.
    fn start(&mut self, line: &str) {
        let log = self.lab.directory().join(format!("{}-master.log", self.name));
        let command = self.command(&format!("exec {line}"));
        self.master = Some(Process::start(&self.namespace, command, &log));
    }

    /// Whether the status of the fleet says that both serve.
    fn sees_both(&self) -> bool {
        let mut command = self.command("ipcluster fleet status --json");
        let output = self.namespace.run_in(|| command.output()).unwrap().unwrap();
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            return false;
        };
        let members = status["members"].as_array().map_or(&[][..], Vec::as_slice);
        status["in_force"] == true
            && members.len() == 2
            && members.iter().all(|it| it["state"] == "serving" && it["slots"] == 512)
    }

    /// Whether a connection of this client has come here to stay.
    fn has_served(&self, client: IpAddr) -> bool {
        let inside = Witness::new(&self.namespace);
        !inside.conntrack(&["-s", &client.to_string()]).trim().is_empty()
    }
}

#[track_caller]
fn wait_until_both_serve(hosts: &[Host<'_>; 2]) {
    let began = Instant::now();
    while !hosts.iter().all(Host::sees_both) {
        let said = || hosts.each_ref().map(|host| host.master.as_ref().map(Process::output));
        assert!(began.elapsed() < PATIENCE, "both do not serve: {:#?}", said());
    }
}

/// The commands of the page, in their order: on each host, or on the router.
fn follow(lab: &Lab, hosts: &mut [Host<'_>; 2]) {
    let page = read("docs/fleet.md");
    let mut count = 0;
    for block in blocks(&page) {
        let Some(place) = block.words.strip_prefix("not-run: on ") else { continue };
        for line in block.commands.lines() {
            count += 1;
            if place.starts_with("the router of two hosts") {
                Witness::new(lab.server()).succeed("sh", &["-c", line], "");
            } else if line.starts_with("ipcluster run ") {
                hosts.iter_mut().for_each(|host| host.start(line));
                wait_until_both_serve(hosts);
            } else {
                for host in &*hosts {
                    let printed = host.succeed(line);
                    println!("{}: {line}\n{printed}", host.name);
                }
            }
        }
    }
    assert_eq!(count, 4, "commands for two hosts on the page");
}

/// Each client is served by the host that both name, and by no other.
fn serve(lab: &Lab, hosts: &[Host<'_>; 2], clients: impl Iterator<Item = IpAddr>) -> [usize; 2] {
    let mut shares = [0, 0];
    for client in clients {
        let answer = Witness::new(lab.client()).succeed(
            "curl",
            &["-s", "-S", "-m", "10", "--interface", &client.to_string(), "http://192.0.2.1/"],
            "",
        );
        assert!(answer.starts_with("seat "), "{answer}");
        for (host, share) in hosts.iter().zip(&mut shares) {
            let explained = host.succeed(&format!("ipcluster fleet explain {client}"));
            let is_owner = host.has_served(client);
            let line = format!("member      {} ({})", host.name, host.address);
            assert_eq!(
                explained.contains(&line),
                is_owner,
                "{client} at {}: {explained}",
                host.name
            );
            *share += usize::from(is_owner);
        }
    }
    shares
}

/// The next ten clients that have not been there.
fn clients(nth: usize) -> impl Iterator<Item = IpAddr> {
    Network::clients_v4(1000).skip(10 * nth).take(10)
}

fn with_etcd(lab: &Lab) {
    let mut hosts = hosts(lab);
    let made = Certificates::make(lab);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (certificate, key) = (text(&made.server.0), text(&made.server.1));
    let arguments = ["--cert-file", &certificate, "--key-file", &key];
    let _server = Server::at_with(lab, lab.server(), Ipv4Addr::new(10, 0, 0, 254), &arguments);
    // One server has the names of all three; the case has a file of names of its own.
    let names = lab.directory().join("names");
    fs::write(&names, "127.0.0.1 localhost\n10.0.0.254 etcd-1 etcd-2 etcd-3\n").unwrap();
    mount(Some(&names), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    for host in &hosts {
        fs::copy(&made.ca, host.settings().join("etcd-ca.pem")).unwrap();
        host.configure(str::to_owned);
    }
    follow(lab, &mut hosts);
    let shares = serve(lab, &hosts, clients(0));
    assert_eq!(shares.iter().sum::<usize>(), 10, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    // What the page says of one that is taken out for a while, and of one that ends.
    hosts[1].succeed("ipcluster fleet drain");
    assert_eq!(serve(lab, &hosts, clients(1)), [10, 0]);
    hosts[1].succeed("ipcluster fleet join");
    wait_until_both_serve(&hosts);
    assert!(serve(lab, &hosts, clients(2))[1] > 0);
    run(&Witness::new(lab.server()), "route replace 192.0.2.1/32 nexthop via 10.0.0.1");
    hosts[1].succeed("ipcluster stop");
    hosts[1].master.as_mut().unwrap().wait(PATIENCE);
    let all_by_a = |client: IpAddr| {
        let interface = client.to_string();
        let arguments = ["-s", "-S", "-m", "10", "--interface", &interface, "http://192.0.2.1/"];
        Witness::new(lab.client()).succeed("curl", &arguments, "");
        hosts[0].has_served(client)
    };
    assert!(clients(3).all(all_by_a));
}

fn with_file(lab: &Lab) {
    let mut hosts = hosts(lab);
    let page = read("docs/fleet.md");
    // The page says so in its text.
    let membership = "membership = \"file:/etc/ipcluster/fleet.json\"";
    assert!(page.contains(&format!("`{membership}`")));
    let of_file = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("etcd"));
        let line = |line: &str| match line.starts_with("membership") {
            true => format!("{membership}\n"),
            false => format!("{line}\n"),
        };
        lines.map(line).collect::<String>()
    };
    hosts.iter().for_each(|host| host.configure(of_file));
    // Planned on one host, and copied to the other.
    let mut planned = blocks(&page).into_iter().filter(|it| it.commands.contains("fleet plan"));
    hosts[0].succeed(&planned.next().expect("a list on the page").commands);
    let list = hosts[0].settings().join("fleet.json");
    fs::copy(list, hosts[1].settings().join("fleet.json")).unwrap();
    follow(lab, &mut hosts);
    let shares = serve(lab, &hosts, clients(0));
    assert_eq!(shares.iter().sum::<usize>(), 10, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}
