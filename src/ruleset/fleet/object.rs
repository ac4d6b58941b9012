//! The tables of one host of a fleet as objects, which both the text and what is sent to the kernel are made of.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::fleet::MacAddress;
use crate::plan::{ClusterName, Listener};
use crate::ruleset::object::Family;

/// The name of the tables of a fleet, the same in all families: `ipcluster_fleet_<fleet>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FleetTableName(String);

impl FleetTableName {
    /// What every table name of ours for fleets begins with.
    pub(crate) const PREFIX: &str = "ipcluster_fleet_";

    /// The version of what these tables hold and how. 1: the slots in an anonymous map, a chain for each member
    /// and family. 2: in a named one, which changes while it is in use.
    pub(crate) const SCHEMA: u32 = 2;

    /// The comment of every such table, by which it is known as ours. Ends with [`Self::SCHEMA`].
    pub(crate) const COMMENT: &str = "ipcluster fleet schema 2";

    /// The schema of a table with this comment; `None` for the comment of no table of ours.
    pub(crate) fn schema(comment: &str) -> Option<u32> {
        let digits = comment.strip_prefix("ipcluster fleet schema ")?;
        let schema: u32 = digits.parse().ok()?;
        (schema.to_string() == digits).then_some(schema)
    }

    /// The tables of a fleet.
    pub(crate) fn of(fleet: &ClusterName) -> Self {
        Self([Self::PREFIX, fleet.as_str()].concat())
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FleetTableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a table is for, and so its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FleetTableKind {
    /// Family `netdev`.
    Director,
    /// Family `ip` or `ip6`.
    SecondChance(Family),
}

impl FleetTableKind {
    /// All that there can be.
    pub(crate) const ALL: [Self; 3] =
        [Self::Director, Self::SecondChance(Family::V4), Self::SecondChance(Family::V6)];

    /// nft's word for its family.
    pub(crate) const fn family(self) -> &'static str {
        match self {
            Self::Director => "netdev",
            Self::SecondChance(family) => keyword(family),
        }
    }
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FleetTable {
    pub(crate) kind: FleetTableKind,
    pub(crate) sets: Vec<FleetSet>,
    /// What others go to stands before them.
    pub(crate) chains: Vec<FleetChain>,
}

/// A set or a map. Each changes while it is in use: a packet looks up once, and finds what was there before a
/// transaction or what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FleetSet {
    /// The MAC addresses of the other members.
    Members(BTreeSet<MacAddress>),
    /// From a slot to the chain of the member that gets its packets. The others are not in it.
    Slots { name: FleetMap, slots: u32, chains: Vec<(u32, Arc<str>)> },
}

/// A map from slots to members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FleetMap {
    /// Of a director: who owns a slot.
    Owners,
    /// Of a second chance: where packets go that this host does not know.
    Former,
    /// The same of packets with this mark, if that says of this host what it knows of itself.
    FormerMarked(Mark),
}

impl FleetMap {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Owners => "owners",
            Self::Former => "former",
            Self::FormerMarked(Mark(1)) => "former_1",
            Self::FormerMarked(Mark(2)) => "former_2",
            Self::FormerMarked(Mark(3)) => "former_3",
            Self::FormerMarked(_) => "former_4",
        }
    }
}

impl FleetSet {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Members(_) => MEMBERS,
            Self::Slots { name, .. } => name.as_str(),
        }
    }
}

/// The set of MAC addresses.
pub(crate) const MEMBERS: &str = "members";

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FleetChain {
    pub(crate) name: Arc<str>,
    pub(crate) hook: Option<FleetHook>,
    pub(crate) rules: Vec<FleetRule>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FleetHook {
    /// `ingress` of the device, priority 0.
    Ingress,
    /// `prerouting`, priority [`SECOND_CHANCE_PRIORITY`].
    Prerouting,
}

/// `NF_IP_PRI_MANGLE` - 10: behind connection tracking (-200), before what intercepts (-150) or translates (-100).
pub(crate) const SECOND_CHANCE_PRIORITY: i32 = -160;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FleetRule {
    /// `ether saddr @members accept`
    PassMembers,
    /// `ip daddr 192.0.2.1 tcp dport 80 goto owners_ip`
    Direct(Listener),
    /// `ip daddr 192.0.2.1 icmp type destination-unreachable @th,136,8 0x6 @th,224,16 0x50 goto errors_ip`: that a
    /// packet from the listener to a client is too large, and the like. IPv6: `packet-too-big`.
    DirectError(Listener),
    /// `ether type != ip accept`: a frame of a VLAN, whose tag the kernel has taken off before this hook, and of
    /// which `meta protocol` tells what is in it.
    PassTagged(Family),
    /// `jhash ip saddr mod 1024 seed 0x1 vmap @owners`, and the same over the /64 for IPv6.
    Dispatch { family: Family, client: ClientAddress, slots: u32, seed: u32, map: FleetMap },
    /// `ip dscp 0x27 jhash ip saddr mod 1024 seed 0x1 vmap @former_1`: the same of packets with this [mark](Mark).
    DispatchMarked {
        mark: Mark,
        family: Family,
        client: ClientAddress,
        slots: u32,
        seed: u32,
        map: FleetMap,
    },
    /// `fwd ip to 10.0.0.1 device "eth0"`
    Forward(IpAddr),
    /// `ip dscp set 0x27`
    Mark(Family, Mark),
    /// `dup to 10.0.0.1 device "eth0"`
    Duplicate(IpAddr),
    /// `drop`
    Drop,
    /// `accept`
    Accept,
    /// `socket transparent 1 accept`
    PassTransparent,
    /// `ct state established,related accept`
    PassEstablished,
    /// `ct state invalid tcp flags & (fin | rst) == 0x0 accept`: of a connection of this host, but for what a
    /// connection of another one may end by. Without an entry the kernel calls both invalid (`tcp_conntracks`,
    /// net/netfilter/nf_conntrack_proto_tcp.c), and the host that has the connection is to know of its end.
    PassInvalid,
    /// `iif "eth0" ip daddr 192.0.2.1 tcp dport 80 tcp flags & (fin | syn | rst | ack) != syn goto unknown`
    Unknown(Listener),
    /// `iif "eth0" ip daddr 192.0.2.1 icmp type destination-unreachable ... goto unknown_errors`, as
    /// [`DirectError`](Self::DirectError).
    UnknownError(Listener),
}

/// Where in a packet the address of the client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientAddress {
    /// It is the source.
    Source,
    /// The packet is an ICMP error, and the client is the destination of the packet in it.
    InError,
}

/// What a second chance writes into a packet: which host of its slot's line is to look next, by the line that the
/// writer knows. 0 is the owner, 1 the latest former one. It stands in the field of differentiated services, in
/// values of the pool for local use (xxxx11, RFC 2474, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(pub(crate) u8);

impl Mark {
    pub(crate) const OWNER: Self = Self(0);

    /// The value of the field.
    pub(crate) const fn value(self) -> u8 {
        0x23 + 4 * self.0
    }
}

/// The chain that packets to a listener of a family go to in the director.
pub(crate) const fn owners_chain(family: Family) -> &'static str {
    match family {
        Family::V4 => "owners_ip",
        Family::V6 => "owners_ip6",
    }
}

/// The chain that ICMP errors of a family go to in the director.
pub(crate) const fn errors_chain(family: Family) -> &'static str {
    match family {
        Family::V4 => "errors_ip",
        Family::V6 => "errors_ip6",
    }
}

/// The chain of a second chance for packets of no known connection.
pub(crate) const UNKNOWN_CHAIN: &str = "unknown";

/// The chain for packets that no host of a slot's line knows: this one, the last of it, answers.
pub(crate) const LAST_CHAIN: &str = "last";

/// The same as [`UNKNOWN_CHAIN`] for ICMP errors.
pub(crate) const UNKNOWN_ERRORS_CHAIN: &str = "unknown_errors";

/// nft's word for a family.
pub(crate) const fn keyword(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_known_by_its_comment_and_by_nothing_like_it() {
        assert_eq!(FleetTableName::schema(FleetTableName::COMMENT), Some(FleetTableName::SCHEMA));
        assert_eq!(FleetTableName::schema("ipcluster fleet schema 17"), Some(17));
        for comment in [
            "",
            "ipcluster schema 2",
            "ipcluster fleet schema ",
            "ipcluster fleet schema 02",
            "ipcluster fleet schema +2",
            "ipcluster fleet schema 2 ",
            "ipcluster fleet schema 4294967296",
            " ipcluster fleet schema 2",
        ] {
            assert_eq!(FleetTableName::schema(comment), None, "{comment:?}");
        }
    }

    #[test]
    fn the_tables_of_a_fleet_have_one_name_in_their_families() {
        let name = FleetTableName::of(&"web".parse().unwrap());
        assert_eq!(
            (name.as_str(), name.to_string().as_str()),
            ("ipcluster_fleet_web", "ipcluster_fleet_web")
        );
        let families = FleetTableKind::ALL.map(FleetTableKind::family);
        assert_eq!(families, ["netdev", "ip", "ip6"]);
    }

    #[test]
    fn each_family_has_chains_of_its_own() {
        let names = [Family::V4, Family::V6].map(|it| (owners_chain(it), errors_chain(it)));
        assert_eq!(names, [("owners_ip", "errors_ip"), ("owners_ip6", "errors_ip6")]);
    }

    #[test]
    fn each_mark_has_a_map_of_its_own() {
        let maps = [1, 2, 3, 4].map(|mark| FleetMap::FormerMarked(Mark(mark)).as_str());
        assert_eq!(maps, ["former_1", "former_2", "former_3", "former_4"]);
        assert_eq!(
            [FleetMap::Owners, FleetMap::Former].map(FleetMap::as_str),
            ["owners", "former"]
        );
    }
}
