//! The rule sets that are compared. Each does what one plan says, in its own way.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipcluster::nft::Firewall;
use ipcluster::plan::{Partition, Plan, Slot};
/// A way to carry out a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// No rules, no nat, no connection tracking: what the packet costs by itself.
    None,
    /// A nat chain without a rule.
    EmptyChain,
    /// The same, and connection tracking on for another rule: what it costs that nat needs it.
    Tracking,
    /// The layout of this crate.
    Ours,
    /// What somebody who knows nft would write for these listeners and workers and nothing else: as
    /// few lookups as possible, no reload, no count, in a table of one family.
    ByHand,
}

impl Rules {
    /// Whether packets go where the plan says; else they stay as they are.
    pub(crate) fn redirect(self) -> bool {
        matches!(self, Self::Ours | Self::ByHand)
    }

    /// Puts the rules in force in the network namespace of this thread.
    pub(crate) fn load(self, plan: &Plan) {
        match self {
            Self::None => {}
            Self::EmptyChain => load_text(EMPTY_CHAIN),
            Self::Ours => {
                let mut firewall = Firewall::open(plan.name()).expect("a netlink socket");
                firewall.apply(plan).expect("the plan in force");
            }
            Self::Tracking => load_text(TRACKING),
            Self::ByHand => load_text(&by_hand(plan)),
        }
    }
}

/// Drops every packet behind nat. So none reaches a socket, and the entry that conntrack made for it
/// goes with it: the table stays empty. A policy needs no rule, so it costs next to nothing.
pub(crate) fn add_sink() {
    load_text(SINK);
}

/// Removes it.
pub(crate) fn remove_sink() {
    load_text("delete table inet sink\n");
}

/// Whether the program nft is there.
pub(crate) fn is_nft_installed() -> bool {
    nft(&["--version"], "")
}

/// The kernel tracks connections from the first rule on that asks for them, reached or not; an empty
/// nat chain asks for none.
const TRACKING: &str = "table ip tracking {
    chain unused { ct state new accept; }
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; }
}
";

const EMPTY_CHAIN: &str = "table inet empty {
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; }
}
";

const SINK: &str = "table inet sink {
    chain prerouting { type filter hook prerouting priority filter; policy drop; }
}
";

fn load_text(text: &str) {
    assert!(nft(&["-f", "-"], text), "nft refused {text}");
}

/// The rules for a plan in nft's own syntax: its maps lead from the hash to the port at once.
fn by_hand(plan: &Plan) -> String {
    let listeners: Vec<_> = plan.listeners().iter().collect();
    let is_v6 = listeners[0].address().is_ipv6();
    let family = if is_v6 { "ip6" } else { "ip" };
    let public = plan.listeners().public_ports();
    let mut chains = String::new();
    let rule = match *listeners.as_slice() {
        [one] if one.is_wildcard() => {
            format!("tcp dport {} fib daddr type local {}", one.port(), redirect(plan, 0, is_v6))
        }
        [one] => {
            let (address, port) = (one.address(), one.port());
            format!("{family} daddr {address} tcp dport {port} {}", redirect(plan, 0, is_v6))
        }
        [one, other] if one.protocol() != other.protocol() => {
            let (address, port) = (one.address(), one.port());
            let to = redirect(plan, 0, is_v6);
            format!("{family} daddr {address} meta l4proto {{ tcp, udp }} th dport {port} {to}")
        }
        _ if public.len() == 1 => {
            let addresses = comma_separated(listeners.iter().map(|l| l.address().to_string()));
            let to = redirect(plan, 0, is_v6);
            format!("{family} daddr {{ {addresses} }} tcp dport {} {to}", public[0])
        }
        _ => {
            for (index, port) in public.iter().enumerate() {
                let to = redirect(plan, index, is_v6);
                writeln!(chains, "chain port_{port} {{ meta l4proto tcp {to}; }}")
                    .expect("writing to a string");
            }
            let service = |address: IpAddr, port| format!("{address} . {port} : goto port_{port}");
            let services = listeners.iter().map(|l| service(l.address(), l.port()));
            format!("{family} daddr . tcp dport vmap {{ {} }}", comma_separated(services))
        }
    };
    if let Some(ports) = plan.guard() {
        writeln!(
            chains,
            "chain guard {{ type filter hook prerouting priority raw; policy accept; th dport {ports} \
             meta l4proto {{ tcp, udp }} iif != \"lo\" fib daddr type != unicast drop; }}"
        )
        .expect("writing to a string");
    }
    format!(
        "table {family} by_hand {{\n{chains}\nchain prerouting {{\n\
         type nat hook prerouting priority dstnat; policy accept;\n{rule}\n}}\n}}\n"
    )
}

/// `redirect to :jhash ip saddr mod 2 seed 0x1 map { 0 : 20000, 1 : 20001 }`, with the shortest map that
/// does the same: one key for several slots, or ranges of them.
fn redirect(plan: &Plan, public_port: usize, is_v6: bool) -> String {
    let Partition::Hash { slots, seed, .. } = *plan.partition() else {
        unreachable!("all plans here are by hash");
    };
    let port_of = |slot| {
        let seat = plan.assignment().seat_of(Slot(slot));
        plan.occupant(seat).expect("every seat is held").ports[public_port].number()
    };
    let source = if is_v6 { "@nh,64,64" } else { "ip saddr" };
    let all: Vec<u16> = (0..slots).map(port_of).collect();
    let is_uniform = |in_key: &usize| {
        all.len().is_multiple_of(*in_key)
            && all.chunks(*in_key).all(|key| key.iter().all(|it| *it == key[0]))
    };
    let in_key = (1..=all.len()).rev().find(is_uniform).expect("1 divides every number");
    let keys: Vec<(usize, u16)> = all.into_iter().step_by(in_key).enumerate().collect();
    let runs: Vec<_> = keys.chunk_by(|(_, one), (_, other)| one == other).collect();
    let map = match runs.len() <= 64 && runs.len() * 16 <= keys.len() {
        true => comma_separated(runs.iter().map(|run| {
            let ((first, port), (last, _)) = (run[0], run[run.len() - 1]);
            format!("{first}-{last} : {port}")
        })),
        false => comma_separated(keys.iter().map(|(key, port)| format!("{key} : {port}"))),
    };
    match keys.as_slice() {
        [(_, port)] => format!("redirect to :{port}"),
        keys => {
            format!("redirect to :jhash {source} mod {} seed {seed:#x} map {{ {map} }}", keys.len())
        }
    }
}

fn comma_separated(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn nft(arguments: &[&str], input: &str) -> bool {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let fed = child.stdin.take().is_none_or(|mut stdin| stdin.write_all(input.as_bytes()).is_ok());
    child.wait().is_ok_and(|status| status.success() && fed)
}
