//! Objects as nft prints them, and reads them again.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::object::{
    BaseChain, Chain, ChainName, Elements, Family, Hook, Rule, Ruleset, Scope, Set, SetName,
    TableName, TcpPorts, Translated,
};
use crate::plan::{HashInput, Protocol};

/// The ruleset in nft syntax: `nft -f` of it makes the same table, and `nft list` then prints the
/// same (counters and line breaks apart).
impl Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.table)?;
        writeln!(f, "\tcomment \"{}\"", TableName::COMMENT)?;
        for counter in &self.counters {
            write!(f, "\n\tcounter {counter} {{\n\t\tpackets 0 bytes 0\n\t}}\n")?;
        }
        for set in &self.sets {
            write!(f, "\n{set}")?;
        }
        for chain in &self.chains {
            write!(f, "\n{chain}")?;
        }
        f.write_str("}\n")
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keyword, kind) = match &self.elements {
            Elements::Listeners4(_) => ("set", "type ipv4_addr . inet_proto . inet_service".into()),
            Elements::Listeners6(_) => ("set", "type ipv6_addr . inet_proto . inet_service".into()),
            Elements::Services(_) => ("set", "type inet_proto . inet_service".into()),
            Elements::Seats(seats) => {
                ("map", format!("typeof numgen inc mod {} : verdict", seats.len()))
            }
            Elements::MaskedSeats4(_) => ("map", "type ipv4_addr : verdict".into()),
            Elements::MaskedSeats6(_) => ("map", "type ipv6_addr : verdict".into()),
            Elements::Ports(_) => ("map", "type inet_service : inet_service".into()),
            Elements::WorkerPorts(_) => ("set", "type inet_service".into()),
        };
        writeln!(f, "\t{keyword} {} {{", self.name)?;
        writeln!(f, "\t\t{kind}")?;
        if !matches!(self.elements, Elements::WorkerPorts(_)) {
            writeln!(f, "\t\tsize {}", self.elements.len())?;
        }
        // nft reads no empty list.
        if !self.elements.is_empty() {
            writeln!(f, "\t\telements = {{ {} }}", self.elements)?;
        }
        f.write_str("\t}\n")
    }
}

impl Display for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let go = |seat| format!("goto {}", ChainName::Seat(seat));
        match self {
            Self::Listeners4(all) => list(
                f,
                all.iter().map(|(address, proto, port)| format!("{address} . {proto} . {port}")),
            ),
            Self::Listeners6(all) => list(
                f,
                all.iter().map(|(address, proto, port)| format!("{address} . {proto} . {port}")),
            ),
            Self::Services(all) => {
                list(f, all.iter().map(|(proto, port)| format!("{proto} . {port}")))
            }
            Self::Seats(seats) => {
                list(f, (0u32..).zip(seats).map(|(key, seat)| format!("{key} : {}", go(*seat))))
            }
            Self::MaskedSeats4(seats) => list(
                f,
                (0u32..).zip(seats).map(|(key, seat)| format!("{} : {}", low_v4(key), go(*seat))),
            ),
            Self::MaskedSeats6(seats) => list(
                f,
                (0u32..).zip(seats).map(|(key, seat)| format!("{} : {}", low_v6(key), go(*seat))),
            ),
            Self::Ports(all) => list(f, all.iter().map(|(from, to)| format!("{from} : {to}"))),
            Self::WorkerPorts(all) => list(f, all.iter().map(|port| port.to_string())),
        }
    }
}

/// Items with commas between them, four in a line.
fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>) -> fmt::Result {
    for (index, item) in items.enumerate() {
        match index {
            0 => {}
            _ if index % 4 == 0 => f.write_str(",\n\t\t\t     ")?,
            _ => f.write_str(", ")?,
        }
        f.write_str(&item)?;
    }
    Ok(())
}

/// The IPv4 address of which only the low bits are set.
pub(crate) fn low_v4(bits: u32) -> Ipv4Addr {
    Ipv4Addr::from(bits)
}

/// The IPv6 address of which only the low bits of the /64 are set.
pub(crate) fn low_v6(bits: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(bits) << 64)
}

impl Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = self.name.base() {
            writeln!(f, "\t\t{base}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        f.write_str("\t}\n")
    }
}

impl Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, hook, priority } = self;
        write!(f, "type {kind} hook {hook} priority ")?;
        // nft has names for some, each at the hooks where it makes sense.
        match (hook, priority) {
            (Hook::Prerouting, -100) => f.write_str("dstnat")?,
            (_, -300) => f.write_str("raw")?,
            (_, -150) => f.write_str("mangle")?,
            _ => write!(f, "{priority}")?,
        }
        f.write_str("; policy accept;")
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prerouting => f.write_str("prerouting"),
            Self::Output => f.write_str("output"),
        }
    }
}

/// The word that nft has for a family.
const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Apart from the protocol, with a space behind it.
impl Display for Translated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.local {
            f.write_str("oif \"lo\" ")?;
        }
        match self.family {
            Family::V4 => f.write_str("meta nfproto ipv4 "),
            Family::V6 => f.write_str("meta nfproto ipv6 "),
        }
    }
}

/// With a space behind it, unless it is nothing.
impl Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = ip(self.family());
        let digit = match self.family() {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        match self {
            Self::All(_) => {}
            Self::Listeners(_) => {
                write!(f, "{ip} daddr . meta l4proto . th dport @listeners{digit} ")?;
            }
            Self::Wildcards(_) => write!(f, "meta l4proto . th dport @wildcards{digit} ")?,
            Self::Listener(listener) => {
                if !listener.is_wildcard() {
                    write!(f, "{ip} daddr {} ", listener.address())?;
                }
                write!(f, "{} dport {} ", listener.protocol(), listener.port())?;
            }
        }
        match self.is_wildcard() {
            true => f.write_str("fib daddr type local "),
            false => Ok(()),
        }
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash { scope, modulus, seed, input, map, .. } => {
                let source = match (scope.family(), input) {
                    (Family::V4, HashInput::Address) => "ip saddr",
                    (Family::V6, HashInput::Address) => "@nh,64,64",
                    (Family::V4, HashInput::Connection) => "ip saddr . th sport",
                    (Family::V6, HashInput::Connection) => "ip6 saddr . th sport",
                };
                // `ip saddr` tells the family, `@nh,64,64` does not.
                let is_of_bytes = (scope.family(), *input) == (Family::V6, HashInput::Address);
                if is_of_bytes && !scope.tells_family() {
                    f.write_str("meta nfproto ipv6 ")?;
                }
                write!(f, "{scope}jhash {source} mod {modulus} seed {seed:#x} vmap @{map}")?;
            }
            Self::Random { scope, modulus, map, .. } => {
                // Nothing of it tells the family.
                if !scope.tells_family() {
                    let family = match scope.family() {
                        Family::V4 => "ipv4",
                        Family::V6 => "ipv6",
                    };
                    write!(f, "meta nfproto {family} ")?;
                }
                write!(f, "{scope}numgen random mod {modulus} vmap @{map}")?;
            }
            Self::Mask { scope, slots, map } => match scope.family() {
                Family::V4 => write!(f, "{scope}ip saddr & {} vmap @{map}", low_v4(slots - 1))?,
                Family::V6 => write!(f, "{scope}ip6 saddr & {} vmap @{map}", low_v6(slots - 1))?,
            },
            Self::Translate { connections, counter, public, worker, .. } => {
                let ip = ip(connections.family);
                let Translated { protocol, .. } = connections;
                write!(f, "{connections}{protocol} dport {public} counter name \"{counter}\" ")?;
                write!(f, "dnat {ip} to {ip} daddr:{worker}")?;
            }
            Self::TranslateByMap { connections, counter, map, .. } => {
                let ip = ip(connections.family);
                let Translated { protocol, .. } = connections;
                write!(f, "{connections}meta l4proto {protocol} counter name \"{counter}\" ")?;
                write!(f, "dnat {ip} to {ip} daddr:th dport map @{map}")?;
            }
            Self::Redirect { protocol, counter, public, worker, .. } => {
                write!(f, "{protocol} dport {public} counter name \"{counter}\" ")?;
                write!(f, "redirect to :{worker}")?;
            }
            Self::RedirectByMap { protocol, counter, map, .. } => {
                write!(f, "meta l4proto {protocol} counter name \"{counter}\" ")?;
                write!(f, "redirect to :th dport map @{map}")?;
            }
            Self::Count { protocol, counter } => {
                match protocol {
                    Protocol::Tcp => f.write_str("tcp flags syn / fin,syn,rst,ack ")?,
                    Protocol::Udp => f.write_str("meta l4proto udp ")?,
                }
                write!(f, "counter name \"{counter}\"")?;
            }
            Self::Tproxy { protocol, public, worker, .. } => {
                write!(f, "{protocol} dport {public} tproxy to :{worker} accept")?;
            }
            Self::PassLocal => f.write_str("iif \"lo\" accept")?,
            Self::PassRemote => f.write_str("oif != \"lo\" accept")?,
            Self::Established { ports } => {
                match ports {
                    TcpPorts::One(port) => write!(f, "tcp dport {port} ")?,
                    TcpPorts::Set => {
                        write!(f, "meta l4proto . th dport @{} ", SetName::Established)?;
                    }
                }
                f.write_str("tcp flags != syn / fin,syn,rst,ack socket transparent 1 accept")?;
            }
            Self::Reply { ports, stride, place, public, address } => {
                write!(f, "udp sport {ports} ")?;
                if *stride > 1 {
                    write!(f, "udp sport & {} == {place} ", stride - 1)?;
                }
                f.write_str("socket transparent 1 ")?;
                match address {
                    Some(IpAddr::V4(address)) => write!(f, "ip saddr set {address} ")?,
                    Some(IpAddr::V6(address)) => write!(f, "ip6 saddr set {address} ")?,
                    None => {}
                }
                write!(f, "udp sport set {public}")?;
            }
            Self::Drop { .. } => f.write_str("counter drop")?,
            Self::DropTracked { .. } => f.write_str("ct direction original counter drop")?,
            Self::Guard { protocol, set, .. } => {
                if *protocol == Protocol::Tcp {
                    f.write_str("tcp flags syn / syn,ack ")?;
                }
                write!(f, "{protocol} dport @{set} ")?;
                f.write_str("iif != \"lo\" fib daddr type != unicast drop")?;
            }
            Self::GuardRange { protocol, ports } => {
                write!(f, "th dport {ports} meta l4proto {protocol} ")?;
                f.write_str("iif != \"lo\" fib daddr type != unicast drop")?;
            }
        }
        match self.comment() {
            Some(comment) => write!(f, " comment \"{comment}\""),
            None => Ok(()),
        }
    }
}
