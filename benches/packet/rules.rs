//! The rule sets that are compared. Each does what one plan says, in its own way.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipcluster::nft::Firewall;
use ipcluster::plan::{Partition, Plan, Slot};
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

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

    /// Whether they are written in nft's language.
    pub(crate) fn need_nft(self) -> bool {
        matches!(self, Self::Tracking | Self::ByHand)
    }

    /// Puts the rules in force in the network namespace of this thread.
    pub(crate) fn load(self, plan: &Plan) {
        match self {
            Self::None => {}
            Self::EmptyChain => add_base_chain("empty", "nat", PRIORITY_DSTNAT, ACCEPT),
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
    add_base_chain(SINK, "filter", PRIORITY_FILTER, DROP);
}

/// Removes it.
pub(crate) fn remove_sink() {
    let table = TableMessage { attributes: vec![TableAttribute::Name(SINK.to_owned())] };
    transact(vec![NfTablesMessage::DeleteTable(table)]);
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

fn load_text(text: &str) {
    assert!(nft(&["-f", "-"], text), "nft refused {text}");
}

const SINK: &str = "sink";

/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_FILTER`.
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;

/// `NF_DROP`, `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `NFNL_SUBSYS_NFTABLES`: what a batch is for.
const SUBSYSTEM: u16 = 10;

fn add_base_chain(table: &str, kind: &str, priority: i32, policy: u32) {
    let hook = vec![
        Hook::Number(HookNumber::Inet(InetHookNumber::PreRouting)),
        Hook::Priority(priority.cast_unsigned()),
    ];
    transact(vec![
        NfTablesMessage::NewTable(TableMessage {
            attributes: vec![TableAttribute::Name(table.to_owned())],
        }),
        NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(table.to_owned()),
                ChainAttribute::Name("prerouting".to_owned()),
                ChainAttribute::Type(kind.to_owned()),
                ChainAttribute::Policy(policy),
                ChainAttribute::Hook(hook),
            ],
        }),
    ]);
}

/// Sends one batch, and reads the acknowledgement of its last member.
fn transact(members: Vec<NfTablesMessage>) {
    let mut batch = vec![];
    put(&mut batch, NetfilterProtoFamily::Unspec, 0, ControlMessage::BatchBegin);
    for member in members {
        put(&mut batch, NetfilterProtoFamily::Inet, NLM_F_CREATE, member);
    }
    put(&mut batch, NetfilterProtoFamily::Unspec, NLM_F_ACK, ControlMessage::BatchEnd);
    let socket = NlSocket::connect(NlFamily::Netfilter, None, Groups::empty());
    let socket = socket.expect("a netlink socket");
    socket.send(&batch, Msg::empty()).expect("sent");
    let mut reply = [0; 4096];
    socket.recv(&mut reply, Msg::empty()).expect("a reply");
    let error = i32::from_ne_bytes([reply[16], reply[17], reply[18], reply[19]]);
    assert_eq!(error, 0, "{}", io::Error::from_raw_os_error(-error));
}

fn put(
    batch: &mut Vec<u8>,
    family: NetfilterProtoFamily,
    flags: u16,
    inner: impl Into<NetfilterMessageInner>,
) {
    let resource = if family == NetfilterProtoFamily::Unspec { SUBSYSTEM } else { 0 };
    let header = NetfilterHeader::new(family, 0, resource);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let start = batch.len();
    batch.resize(start + message.buffer_len(), 0);
    message.serialize(&mut batch[start..]);
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
