//! The nftables objects that a plan lowers to.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::plan::{ClusterName, Generation, Port, PortRange, Protocol, Seat};

/// Everything in the table of one cluster, in one order: sets and chains by name, elements by key.
/// So two rulesets are equal exactly if the kernel does the same by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table, family `inet`.
    pub table: TableName,
    /// Its counters, one for each seat, in order. What they have counted is no part of the ruleset.
    pub counters: Vec<CounterName>,
    /// Its sets and maps, in the order of [`SetName`].
    pub sets: Vec<Set>,
    /// Its chains, in the order of [`ChainName`].
    pub chains: Vec<Chain>,
}

/// The name of a cluster's table, `ipcluster_<cluster>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName(String);

impl TableName {
    /// What every table name of ours begins with.
    pub const PREFIX: &str = "ipcluster_";

    /// The version of what a table of ours holds and how: a master reads and changes only tables of
    /// its own. It goes up with every change of the layout that an older version would misread.
    ///
    /// 1: tcp alone, a counter in each redirect. 2: tcp and udp, a guard, a named counter a seat.
    pub const SCHEMA: u32 = 2;

    /// The comment of every table of ours: by it, not by its name, a table is known as ours. Ends
    /// with [`Self::SCHEMA`].
    pub const COMMENT: &str = "ipcluster schema 2";

    /// The schema of a table with this comment; `None` for the comment of no table of ours.
    pub fn schema(comment: &str) -> Option<u32> {
        let digits = comment.strip_prefix("ipcluster schema ")?;
        let schema: u32 = digits.parse().ok()?;
        (schema.to_string() == digits).then_some(schema)
    }

    /// The table of a cluster.
    pub fn of(cluster: &ClusterName) -> Self {
        Self(format!("{}{cluster}", Self::PREFIX))
    }

    /// Stands for all tables of ours, where a message has to name some.
    pub(crate) fn any() -> Self {
        Self(format!("{}*", Self::PREFIX))
    }

    /// The cluster whose table this is; `None` for the name of no table of ours.
    pub fn cluster(table: &str) -> Option<ClusterName> {
        table.strip_prefix(Self::PREFIX)?.parse().ok()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of the counter of a seat, `seat_0`: as that of its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterName(pub Seat);

impl CounterName {
    /// Reads a name back; `None` for the name of no counter of ours.
    pub fn parse(name: &str) -> Option<Self> {
        match ChainName::parse(name)? {
            ChainName::Seat(seat) => Some(Self(seat)),
            _ => None,
        }
    }
}

impl fmt::Display for CounterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ChainName::Seat(self.0).fmt(f)
    }
}

/// What the counter of a seat has counted. A nat chain sees the first packet of a connection alone,
/// so its packets are connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections.
    pub connections: u64,
    /// The bytes of their first packets, from the IP header on.
    pub bytes: u64,
}

/// The address family that a rule or a set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// The name of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// Sends a connection to the worker in this seat.
    Seat(Seat),
    /// Sends a connection to the chain of its seat.
    Balance,
    /// The base chain for clients on other hosts: picks the connections to our listeners.
    Prerouting,
    /// The base chain for clients on this host, where they are balanced as well.
    Output,
    /// The base chain that keeps other hosts away from worker ports.
    Guard,
}

/// What makes a chain a base chain: where the kernel enters it. Its policy is to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The type, in nft's words.
    pub kind: &'static str,
    /// Where packets enter it.
    pub hook: Hook,
    /// Chains of lower priority come before it.
    pub priority: i32,
}

/// Where packets enter a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`: they have come in.
    Prerouting,
    /// `NF_INET_LOCAL_OUT`: a process of this host has sent them.
    Output,
}

/// `NF_IP_PRI_RAW`: before connection tracking. `NF_IP_PRI_NAT_DST`.
const PRIORITY_RAW: i32 = -300;
pub(crate) const PRIORITY_DSTNAT: i32 = -100;

impl ChainName {
    /// Reads a name back; `None` for the name of no chain of ours.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "prerouting" => Some(Self::Prerouting),
            "output" => Some(Self::Output),
            "guard" => Some(Self::Guard),
            "balance" => Some(Self::Balance),
            _ => {
                let digits = name.strip_prefix("seat_")?;
                let seat = Seat(digits.parse().ok()?);
                (seat.0.to_string() == digits).then_some(Self::Seat(seat))
            }
        }
    }

    /// Where the kernel enters it; `None` for one that is reached by `goto` alone.
    pub const fn base(self) -> Option<Base> {
        match self {
            Self::Seat(_) | Self::Balance => None,
            Self::Prerouting => {
                Some(Base { kind: "nat", hook: Hook::Prerouting, priority: PRIORITY_DSTNAT })
            }
            Self::Output => {
                Some(Base { kind: "nat", hook: Hook::Output, priority: PRIORITY_DSTNAT })
            }
            // Before its translation, so that a redirected packet still has its public port; and
            // before connection tracking, so that what is dropped leaves no entry.
            Self::Guard => {
                Some(Base { kind: "filter", hook: Hook::Prerouting, priority: PRIORITY_RAW })
            }
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prerouting => f.write_str("prerouting"),
            Self::Output => f.write_str("output"),
            Self::Guard => f.write_str("guard"),
            Self::Balance => f.write_str("balance"),
            Self::Seat(seat) => write!(f, "seat_{seat}"),
        }
    }
}

/// The name of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Addresses, protocols and ports of the listeners of this family.
    Listeners(Family),
    /// Protocols and ports of the wildcard listeners of this family.
    Wildcards(Family),
    /// The hash partition: slot -> seat.
    Slots,
    /// The mask partition: the low bits of the address -> seat.
    MaskedSlots(Family),
    /// The seats over which the clients of vacant seats spread.
    Survivors,
}

impl SetName {
    const ALL: [Self; 8] = [
        Self::Listeners(Family::V4),
        Self::Listeners(Family::V6),
        Self::Wildcards(Family::V4),
        Self::Wildcards(Family::V6),
        Self::Slots,
        Self::MaskedSlots(Family::V4),
        Self::MaskedSlots(Family::V6),
        Self::Survivors,
    ];

    /// The name as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Listeners(Family::V4) => "listeners4",
            Self::Listeners(Family::V6) => "listeners6",
            Self::Wildcards(Family::V4) => "wildcards4",
            Self::Wildcards(Family::V6) => "wildcards6",
            Self::Slots => "slots",
            Self::MaskedSlots(Family::V4) => "slots4",
            Self::MaskedSlots(Family::V6) => "slots6",
            Self::Survivors => "survivors",
        }
    }

    /// Reads a name back; `None` for the name of no set of ours.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.as_str() == name)
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set, or a map to verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: SetName,
    /// What it holds.
    pub elements: Elements,
}

/// What a set or map holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elements {
    /// `ipv4_addr . inet_proto . inet_service`
    Listeners4(Vec<(Ipv4Addr, Protocol, Port)>),
    /// `ipv6_addr . inet_proto . inet_service`
    Listeners6(Vec<(Ipv6Addr, Protocol, Port)>),
    /// `inet_proto . inet_service`
    Services(Vec<(Protocol, Port)>),
    /// `typeof numgen inc mod N : verdict`: the place in the list is the key, the value a `goto`
    /// the seat's chain.
    Seats(Vec<Seat>),
    /// `ipv4_addr : verdict`: the place in the list, as the low bits of an address, is the key.
    MaskedSeats4(Vec<Seat>),
    /// `ipv6_addr : verdict`: the place in the list, as the low bits of a /64, is the key.
    MaskedSeats6(Vec<Seat>),
}

impl Elements {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Listeners4(all) => all.len(),
            Self::Listeners6(all) => all.len(),
            Self::Services(all) => all.len(),
            Self::Seats(all) | Self::MaskedSeats4(all) | Self::MaskedSeats6(all) => all.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, which says whether it is a base chain ([`ChainName::base`]).
    pub name: ChainName,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// `ip daddr . meta l4proto . th dport @listeners4 goto balance`
    Dispatch {
        /// The family of the listeners.
        family: Family,
    },
    /// `meta nfproto ipv4 meta l4proto . th dport @wildcards4 fib daddr type local goto balance`
    DispatchWildcard {
        /// The family of the listeners.
        family: Family,
    },
    /// `jhash ip saddr mod 1024 seed 0x1 vmap @slots`, and the same over the /64 for IPv6.
    Hash {
        /// The family of the clients.
        family: Family,
        /// The number of entries of the map.
        modulus: u32,
        /// The seed.
        seed: u32,
        /// The map.
        map: SetName,
        /// The generation, kept as a comment: on the rules of vacant seats alone.
        generation: Option<Generation>,
    },
    /// `ip saddr & 0.0.0.7 vmap @slots4`, and the same over the /64 for IPv6.
    Mask {
        /// The family of the clients.
        family: Family,
        /// The number of slots, a power of two.
        slots: u32,
    },
    /// `tcp dport 80 counter name "seat_0" redirect to :20000`: for a protocol with a single public
    /// port.
    Redirect {
        /// The protocol.
        protocol: Protocol,
        /// The counter.
        counter: CounterName,
        /// The public port.
        public: Port,
        /// The worker port.
        worker: Port,
        /// The worker's generation, kept as a comment.
        generation: Generation,
    },
    /// `meta l4proto tcp counter name "seat_0" redirect to :th dport map { 80 : 20000, ... }`: for
    /// one with several.
    RedirectByMap {
        /// The protocol.
        protocol: Protocol,
        /// The counter.
        counter: CounterName,
        /// Public port -> worker port, in the order of the public ports.
        ports: Vec<(Port, Port)>,
        /// The worker's generation, kept as a comment.
        generation: Generation,
    },
    /// `counter drop`: no worker is left, so that clients try again in place of being refused.
    Drop {
        /// The generation, kept as a comment.
        generation: Generation,
    },
    /// `iif != "lo" tcp dport 20000-29999 fib daddr type != unicast drop`. An address of type
    /// unicast is another host's: what this host forwards is none of our business. Broadcast and
    /// multicast would reach a worker's udp socket, as what is sent to a local address does.
    Guard {
        /// The protocol.
        protocol: Protocol,
        /// The ports.
        ports: PortRange,
    },
}

impl Rule {
    /// The comment that the rule carries.
    pub fn comment(&self) -> Option<String> {
        self.generation().map(|generation| format!("{}{generation}", Self::GENERATION))
    }

    /// The generation that the rule carries as a comment.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::Dispatch { .. }
            | Self::DispatchWildcard { .. }
            | Self::Mask { .. }
            | Self::Guard { .. } => None,
            Self::Hash { generation, .. } => *generation,
            Self::Redirect { generation, .. }
            | Self::RedirectByMap { generation, .. }
            | Self::Drop { generation } => Some(*generation),
        }
    }

    /// Reads the generation back from a comment.
    pub fn parse_comment(comment: &str) -> Option<Generation> {
        comment.strip_prefix(Self::GENERATION)?.parse().ok().map(Generation)
    }

    const GENERATION: &str = "generation ";
}
