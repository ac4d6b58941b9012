//! The balancers that are measured.

use std::process::Command;

use ipcluster::plan::Engine;
use netns_tests::ipcluster;

use super::nftlb::Nftlb;
use super::own::Own;
use super::proxies::{Haproxy, Nginx, Order};
use super::rules::{Rules, Writer};
use super::servers::{Server, home};
use super::sockets::{OnePort, Straight};
use super::stage::{Balancer, Fault, Stage};

/// A balancer, and how it is started.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name in commands and files.
    pub(crate) name: &'static str,
    /// Its name in the table.
    pub(crate) title: &'static str,
    /// The command that prints its version; none for the kernel's. `{home}` is where `run` installs.
    version: &'static [&'static str],
    /// Starts it.
    pub(crate) start: fn(Stage) -> Result<Box<dyn Balancer>, Fault>,
    /// Whether CI sees that it can be measured.
    pub(crate) in_ci: bool,
}

/// All of them, in the order of the table. The first is what the others are compared with.
pub(crate) const PEERS: &[Peer] = &[
    Peer { name: "none", title: "no balancer", version: &[], start: Straight::start, in_ci: true },
    Peer {
        name: "redirect",
        title: "ipcluster, redirect",
        version: OURS,
        start: |stage| Own::start(stage, Engine::Redirect),
        in_ci: true,
    },
    Peer {
        name: "tproxy",
        title: "ipcluster, tproxy",
        version: OURS,
        start: |stage| Own::start(stage, Engine::Tproxy),
        in_ci: false,
    },
    Peer {
        name: "haproxy",
        title: "haproxy, file",
        version: &["haproxy", "-v"],
        start: |stage| Haproxy::start(stage, Order::File),
        in_ci: true,
    },
    Peer {
        name: "haproxy-api",
        title: "haproxy, API",
        version: &["haproxy", "-v"],
        start: |stage| Haproxy::start(stage, Order::Api),
        in_ci: false,
    },
    Peer {
        name: "nginx",
        title: "nginx stream",
        version: &["nginx", "-v"],
        start: Nginx::start,
        in_ci: false,
    },
    Peer {
        name: "nft",
        title: "`nft -f`",
        version: &["nft", "--version"],
        start: |stage| Rules::start(stage, Writer::Nft),
        in_ci: true,
    },
    Peer {
        name: "iptables",
        title: "iptables, a call for each rule",
        version: &["iptables-nft", "--version"],
        start: |stage| Rules::start(stage, Writer::Iptables),
        in_ci: false,
    },
    Peer {
        name: "nftlb",
        title: "nftlb",
        version: &["nftlb", "--help"],
        start: Nftlb::start,
        in_ci: false,
    },
    Peer {
        name: "shared-socket",
        title: "one socket for all",
        version: &[],
        start: OnePort::shared,
        in_ci: false,
    },
    Peer {
        name: "reuse-port",
        title: "SO_REUSEPORT",
        version: &[],
        start: OnePort::reuse_port,
        in_ci: false,
    },
    Peer {
        name: "gunicorn",
        title: "gunicorn",
        version: &["{home}/python/bin/gunicorn", "--version"],
        start: Server::gunicorn,
        in_ci: false,
    },
    Peer {
        name: "puma",
        title: "puma",
        version: &["puma", "--version"],
        start: Server::puma,
        in_ci: false,
    },
    Peer {
        name: "pm2",
        title: "pm2",
        version: &["{home}/npm/node_modules/.bin/pm2", "--version"],
        start: Server::pm2,
        in_ci: false,
    },
    Peer {
        name: "node-sticky",
        title: "Node's cluster, @socket.io/sticky",
        version: &["node", "--version"],
        start: Server::node,
        in_ci: false,
    },
];

/// How the program under test says its version.
const OURS: &[&str] = &["", "--version"];

impl Peer {
    /// The first word with a digit of what it says.
    pub(crate) fn version(&self) -> String {
        let Some((program, arguments)) = self.version.split_first() else {
            return "kernel".to_owned();
        };
        let program = match program.strip_prefix("{home}/") {
            _ if program.is_empty() => ipcluster(),
            Some(path) => home().join(path),
            None => netns_tests::find(program).unwrap_or_else(|| program.into()),
        };
        let Ok(output) = Command::new(program).args(arguments).output() else {
            return "unknown".to_owned();
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let words = text.split([' ', '/', '\n', ',', ')', '(', '-', '+']);
        let mut words = words.map(|word| word.trim_start_matches('v'));
        let version =
            words.find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
        version.unwrap_or("unknown").to_owned()
    }
}
