//! The rules of a host of a fleet as a script for `nft -f`.

use std::fmt::{self, Display};

use super::object::{
    ClientAddress, FleetChain, FleetHook, FleetRule, FleetSet, FleetTable, FleetTableKind,
    FleetTableName, MEMBERS, SECOND_CHANCE_PRIORITY, UNKNOWN_CHAIN, UNKNOWN_ERRORS_CHAIN,
    errors_chain, keyword, owners_chain,
};
use super::{DeviceName, FleetRuleset};
use crate::plan::Listener;
use crate::ruleset::object::Family;

impl Display for FleetRuleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device, tables } = self;
        // One that is there is replaced, and nft removes none that is not: so it is made first.
        for family in FleetTableKind::ALL.map(FleetTableKind::family) {
            writeln!(f, "table {family} {name}")?;
            writeln!(f, "delete table {family} {name}")?;
        }
        for FleetTable { kind, sets, chains } in tables {
            writeln!(f, "table {} {name} {{", kind.family())?;
            writeln!(f, "\tcomment \"{}\"", FleetTableName::COMMENT)?;
            for set in sets {
                write!(f, "\n{}", SetText(set))?;
            }
            for chain in chains {
                write!(f, "\n{}", ChainText { chain, device })?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

struct SetText<'a>(&'a FleetSet);

impl Display for SetText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, elements): (_, Vec<String>) = match self.0 {
            FleetSet::Members(all) => {
                let head = format!("set {MEMBERS} {{\n\t\ttype ether_addr");
                (head, all.iter().map(ToString::to_string).collect())
            }
            FleetSet::Slots { name, slots, chains } => {
                let name = name.as_str();
                let head = format!("map {name} {{\n\t\ttypeof numgen inc mod {slots} : verdict");
                let element = |(slot, chain): &(u32, _)| format!("{slot} : goto {chain}");
                (head, chains.iter().map(element).collect())
            }
        };
        writeln!(f, "\t{head}")?;
        // nft reads no empty list.
        if !elements.is_empty() {
            let lines: Vec<String> = elements.chunks(4).map(|line| line.join(", ")).collect();
            writeln!(f, "\t\telements = {{ {} }}", lines.join(",\n\t\t\t     "))?;
        }
        writeln!(f, "\t}}")
    }
}

struct ChainText<'a> {
    chain: &'a FleetChain,
    device: &'a DeviceName,
}

impl Display for ChainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain: FleetChain { name, hook, rules }, device } = self;
        let device = device.as_str();
        writeln!(f, "\tchain {name} {{")?;
        match hook {
            None => {}
            Some(FleetHook::Ingress) => writeln!(
                f,
                "\t\ttype filter hook ingress device \"{device}\" priority 0; policy accept;"
            )?,
            Some(FleetHook::Prerouting) => writeln!(
                f,
                "\t\ttype filter hook prerouting priority {SECOND_CHANCE_PRIORITY}; policy accept;"
            )?,
        }
        for rule in rules {
            writeln!(f, "\t\t{}", RuleText { rule, device })?;
        }
        writeln!(f, "\t}}")
    }
}

struct RuleText<'a> {
    rule: &'a FleetRule,
    device: &'a str,
}

impl Display for RuleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device;
        match self.rule {
            FleetRule::PassMembers => write!(f, "ether saddr @{MEMBERS} accept"),
            FleetRule::Direct(listener) => {
                let chain = owners_chain(Family::of(listener));
                write!(f, "{} goto {chain}", matches(listener))
            }
            FleetRule::DirectError(listener) => {
                let chain = errors_chain(Family::of(listener));
                write!(f, "{} goto {chain}", error_matches(listener))
            }
            FleetRule::PassTagged(family) => write!(f, "ether type != {} accept", keyword(*family)),
            FleetRule::Dispatch { family, client, slots, seed, map } => {
                let (client, map) = (client_address(*family, *client), map.as_str());
                write!(f, "jhash {client} mod {slots} seed {seed:#x} vmap @{map}")
            }
            FleetRule::DispatchMarked { mark, family, client, slots, seed, map } => {
                let (client, map) = (client_address(*family, *client), map.as_str());
                let (version, mark) = (keyword(*family), mark.value());
                write!(
                    f,
                    "{version} dscp {mark:#x} jhash {client} mod {slots} seed {seed:#x} vmap @{map}"
                )
            }
            FleetRule::Mark(family, mark) => {
                write!(f, "{} dscp set {:#x}", keyword(*family), mark.value())
            }
            FleetRule::Forward(address) => {
                let version = if address.is_ipv4() { "ip" } else { "ip6" };
                write!(f, "fwd {version} to {address} device \"{device}\"")
            }
            FleetRule::Duplicate(address) => write!(f, "dup to {address} device \"{device}\""),
            FleetRule::Drop => f.write_str("drop"),
            FleetRule::Accept => f.write_str("accept"),
            FleetRule::PassTransparent => f.write_str("socket transparent 1 accept"),
            FleetRule::PassEstablished => f.write_str("ct state established,related accept"),
            FleetRule::PassInvalid => {
                f.write_str("ct state invalid tcp flags & (fin | rst) == 0x0 accept")
            }
            FleetRule::Unknown(listener) => {
                let begins = "tcp flags & (fin | syn | rst | ack) != syn";
                let to = matches(listener);
                write!(f, "iif \"{device}\" {to} {begins} goto {UNKNOWN_CHAIN}")
            }
            FleetRule::UnknownError(listener) => {
                let to = error_matches(listener);
                write!(f, "iif \"{device}\" {to} goto {UNKNOWN_ERRORS_CHAIN}")
            }
        }
    }
}

/// What is sent to a listener.
fn matches(listener: &Listener) -> String {
    let version = keyword(Family::of(listener));
    let (address, protocol, port) = (listener.address(), listener.protocol(), listener.port());
    format!("{version} daddr {address} {protocol} dport {port}")
}

/// ICMP errors about what a listener has sent.
fn error_matches(listener: &Listener) -> String {
    let family = Family::of(listener);
    let (version, address) = (keyword(family), listener.address());
    let (protocol, port) = (listener.protocol().number(), listener.port().number());
    let (kind, protocol_at, port_at) = match family {
        Family::V4 => ("icmp type destination-unreachable", 136, 224),
        Family::V6 => ("icmpv6 type packet-too-big", 112, 384),
    };
    format!(
        "{version} daddr {address} {kind} @th,{protocol_at},8 {protocol:#x} @th,{port_at},16 {port:#x}"
    )
}

fn client_address(family: Family, client: ClientAddress) -> &'static str {
    match (family, client) {
        (Family::V4, ClientAddress::Source) => "ip saddr",
        (Family::V6, ClientAddress::Source) => "@nh,64,64",
        (Family::V4, ClientAddress::InError) => "@th,192,32",
        (Family::V6, ClientAddress::InError) => "@th,256,64",
    }
}
