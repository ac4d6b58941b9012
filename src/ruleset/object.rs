//! The nftables objects that a plan lowers to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::Name;
use crate::plan::{ClusterName, Generation, HashInput, Listener, Port, PortRange, Protocol, Seat};

/// Everything in the table of one cluster, in one order: sets and chains by name, elements by key.
/// So two rulesets are equal exactly if the kernel does the same by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table, family `inet`.
    pub(crate) table: TableName,
    /// Its counters, one for each seat, in order. What they have counted is no part of the ruleset.
    pub(crate) counters: Vec<CounterName>,
    /// Its sets and maps, in the order of `SetName`.
    pub(crate) sets: Vec<Set>,
    /// Its chains, in the order of `ChainName`.
    pub(crate) chains: Vec<Chain>,
}

#[cfg(any(test, feature = "internals"))]
impl Ruleset {
    /// The table.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// Its counters.
    pub fn counters(&self) -> &[CounterName] {
        &self.counters
    }

    /// Its sets and maps.
    pub fn sets(&self) -> &[Set] {
        &self.sets
    }

    /// Its chains.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }
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
    /// 3: no chain between the base chains and those of the seats, several slots by one key. Its guard
    /// was one of a range of ports ([`Rule::GuardRange`]) before it was one of the ports that workers hold
    /// ([`Rule::Guard`]), and all connections went to an address of the interface ([`Rule::Redirect`])
    /// before they went to the one that was dialled ([`Rule::Translate`]); and a seat had a map of ports for
    /// two of a protocol before it had a rule for each: this version reads all of these, an earlier one replaces a table that it does not understand.
    pub const SCHEMA: u32 = 3;

    /// The comment of every table of ours: by it, not by its name, a table is known as ours. Ends
    /// with [`Self::SCHEMA`].
    pub const COMMENT: &str = "ipcluster schema 3";

    /// The schema of a table with this comment; `None` for the comment of no table of ours.
    pub fn schema(comment: &str) -> Option<u32> {
        let digits = comment.strip_prefix("ipcluster schema ")?;
        let schema: u32 = digits.parse().ok()?;
        (schema.to_string() == digits).then_some(schema)
    }

    /// Whether a table with this comment is one of a fleet, of whatever schema: by it, not by its name
    /// (`ipcluster_fleet_NAME`), it is known as ours.
    pub(crate) fn is_of_fleet(comment: &str) -> bool {
        comment.starts_with("ipcluster fleet schema ")
    }

    /// The table of a cluster.
    pub fn of(cluster: &ClusterName) -> Self {
        Self([Self::PREFIX, cluster.as_str()].concat())
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
        Name::from(*self).fmt(f)
    }
}

/// What the counter of a seat has counted. A nat chain sees the first packet of a connection alone,
/// so its packets are connections; with [`Engine::Tproxy`](crate::plan::Engine::Tproxy) they are the
/// SYNs of tcp, also one that a client has sent again, and every datagram of udp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterValue {
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

    /// That of a listener's address.
    pub fn of(listener: &Listener) -> Self {
        match listener.address() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The name of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// Sends a connection to the worker in this seat.
    Seat(Seat),
    /// While the cluster takes no new connections: the rules that the base chains will have when it
    /// does again. Nothing leads to it.
    Closed,
    /// The base chain for clients on other hosts: picks the connections to our listeners, and sends
    /// each to the chain of its seat.
    Prerouting,
    /// The base chain for clients on this host, where they are balanced as well.
    Output,
    /// The base chain that keeps other hosts away from worker ports.
    Guard,
    /// The base chain of [`Engine::Tproxy`](crate::plan::Engine::Tproxy), for clients on this host as
    /// well: picks the connections to our listeners, and sends each to the chain of its seat.
    Intercept,
    /// The base chain that puts the public port back into the datagrams with which workers answer,
    /// where connection tracking does not ([`Engine::Tproxy`](crate::plan::Engine::Tproxy)).
    Replies,
}

/// What makes a chain a base chain: where the kernel enters it. Its policy is to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
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

/// `NF_IP_PRI_RAW`: before connection tracking. `NF_IP_PRI_MANGLE`. `NF_IP_PRI_NAT_DST`.
const PRIORITY_RAW: i32 = -300;
pub(crate) const PRIORITY_MANGLE: i32 = -150;
pub(crate) const PRIORITY_DSTNAT: i32 = -100;

impl ChainName {
    /// Reads a name back; `None` for the name of no chain of ours.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "prerouting" => Some(Self::Prerouting),
            "output" => Some(Self::Output),
            "guard" => Some(Self::Guard),
            "closed" => Some(Self::Closed),
            "intercept" => Some(Self::Intercept),
            "replies" => Some(Self::Replies),
            _ => {
                let digits = name.strip_prefix("seat_")?;
                let seat = Seat(digits.parse().ok()?);
                (seat.0.to_string() == digits).then_some(Self::Seat(seat))
            }
        }
    }

    /// Where the kernel enters it; `None` for one that is reached by `goto`, or not at all.
    pub const fn base(self) -> Option<BaseChain> {
        match self {
            Self::Seat(_) | Self::Closed => None,
            Self::Prerouting => {
                Some(BaseChain { kind: "nat", hook: Hook::Prerouting, priority: PRIORITY_DSTNAT })
            }
            Self::Output => {
                Some(BaseChain { kind: "nat", hook: Hook::Output, priority: PRIORITY_DSTNAT })
            }
            // Before its translation, so that a redirected packet still has its public port; and
            // before connection tracking, so that what is dropped leaves no entry.
            Self::Guard => {
                Some(BaseChain { kind: "filter", hook: Hook::Prerouting, priority: PRIORITY_RAW })
            }
            // Before anything is translated: what comes here was sent to a listener.
            Self::Intercept => Some(BaseChain {
                kind: "filter",
                hook: Hook::Prerouting,
                priority: PRIORITY_MANGLE,
            }),
            Self::Replies => {
                Some(BaseChain { kind: "filter", hook: Hook::Output, priority: PRIORITY_MANGLE })
            }
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name::from(*self).fmt(f)
    }
}

/// The name of a set or map. That of a map ends with a digest of what it holds: another content has
/// another name, so that no map ever changes, and what is the same in two plans is one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Addresses, protocols and ports of the listeners of this family: `listeners4`.
    Listeners(Family),
    /// Protocols and ports of the wildcard listeners of this family: `wildcards4`.
    Wildcards(Family),
    /// The public ports of tcp, whose established connections no rule is for: `established`.
    Established,
    /// The worker ports that other hosts cannot reach by this protocol: `guarded`, of tcp, and
    /// `guarded_udp`. The sets that change while they are in use: a port comes or goes, and no lookup of
    /// another port notices. Earlier releases had the first alone, for both protocols, so that a table
    /// without udp is the same in all of them.
    Guarded(Protocol),
    /// The hash partition: slot -> seat: `slots_9c1e07aa`.
    Slots(Digest),
    /// The mask partition: the low bits of the address -> seat: `slots4_9c1e07aa`.
    MaskedSlots(Family, Digest),
    /// The seats over which the clients of vacant seats spread: `survivors_9c1e07aa`.
    Survivors(Digest),
    /// Public port -> worker port, of a seat and a protocol: `seat_0_tcp_9c1e07aa`.
    Ports(Seat, Protocol, Digest),
}

impl SetName {
    /// Reads a name back; `None` for the name of no set of ours.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "listeners4" => return Some(Self::Listeners(Family::V4)),
            "listeners6" => return Some(Self::Listeners(Family::V6)),
            "wildcards4" => return Some(Self::Wildcards(Family::V4)),
            "wildcards6" => return Some(Self::Wildcards(Family::V6)),
            "established" => return Some(Self::Established),
            "guarded" => return Some(Self::Guarded(Protocol::Tcp)),
            "guarded_udp" => return Some(Self::Guarded(Protocol::Udp)),
            _ => {}
        }
        let (what, digest) = name.rsplit_once('_')?;
        let digest = Digest::parse(digest)?;
        match what {
            "slots" => Some(Self::Slots(digest)),
            "slots4" => Some(Self::MaskedSlots(Family::V4, digest)),
            "slots6" => Some(Self::MaskedSlots(Family::V6, digest)),
            "survivors" => Some(Self::Survivors(digest)),
            _ => {
                let (chain, protocol) = what.rsplit_once('_')?;
                let ChainName::Seat(seat) = ChainName::parse(chain)? else { return None };
                let protocol = Protocol::ALL.into_iter().find(|it| it.to_string() == protocol)?;
                Some(Self::Ports(seat, protocol, digest))
            }
        }
    }

    /// The digest of what a map of this name holds; `None` for the sets of listeners and of guarded ports.
    pub const fn digest(self) -> Option<Digest> {
        match self {
            Self::Listeners(_) | Self::Wildcards(_) | Self::Established | Self::Guarded(_) => None,
            Self::Slots(digest)
            | Self::MaskedSlots(_, digest)
            | Self::Survivors(digest)
            | Self::Ports(_, _, digest) => Some(digest),
        }
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name::from(*self).fmt(f)
    }
}

/// A digest of what a map holds: its kind, how much, and every element. The same in all versions,
/// on all machines. In text 8 hexadecimal digits.
///
/// It tells contents apart and protects from nothing. Two in 2^32 have the same: where both would
/// have to be in one table, the table is made anew ([`Transition::between`](super::Transition)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u32);

impl Digest {
    /// The digest of these elements.
    pub fn of(elements: &Elements) -> Self {
        let pair = |one: u16, other: u16| u64::from(one) << 16 | u64::from(other);
        let service =
            |protocol: Protocol, port: Port| pair(protocol.number().into(), port.number());
        let mut mix = Mix::new(elements.len() as u64);
        match elements {
            Elements::Listeners4(all) => {
                for (address, protocol, port) in all {
                    mix.add(address.to_bits().into());
                    mix.add(service(*protocol, *port));
                }
            }
            Elements::Listeners6(all) => {
                for (address, protocol, port) in all {
                    for half in address.octets().as_chunks::<8>().0 {
                        mix.add(u64::from_be_bytes(*half));
                    }
                    mix.add(service(*protocol, *port));
                }
            }
            Elements::Services(all) => {
                all.iter().for_each(|(protocol, port)| mix.add(service(*protocol, *port)));
            }
            Elements::Seats(seats)
            | Elements::MaskedSeats4(seats)
            | Elements::MaskedSeats6(seats) => {
                seats.iter().for_each(|seat| mix.add(seat.0.into()));
            }
            Elements::Ports(all) => {
                all.iter().for_each(|(from, to)| mix.add(pair(from.number(), to.number())));
            }
            Elements::WorkerPorts(all) => {
                all.iter().for_each(|port| mix.add(port.number().into()));
            }
        }
        mix.finish()
    }

    fn parse(text: &str) -> Option<Self> {
        let digest = Self(u32::from_str_radix(text, 16).ok()?);
        (digest.to_string() == text).then_some(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name::from(*self).fmt(f)
    }
}

/// FNV-1a over words in place of bytes, and the last step of MurmurHash3, which spreads the upper
/// bits over all.
struct Mix(u64);

impl Mix {
    fn new(first: u64) -> Self {
        let mut mix = Self(0xcbf2_9ce4_8422_2325);
        mix.add(first);
        mix
    }

    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn finish(self) -> Digest {
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^= mixed >> 33;
        let [.., a, b, c, d] = mixed.to_be_bytes();
        Digest(u32::from_be_bytes([a, b, c, d]))
    }
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: SetName,
    /// What it holds.
    pub elements: Elements,
}

impl Set {
    /// A map with these elements, whose name ends with the digest of them.
    pub fn map(name: impl FnOnce(Digest) -> SetName, elements: Elements) -> Self {
        Self { name: name(Digest::of(&elements)), elements }
    }

    /// Whether its name tells what it holds.
    pub fn is_named_after_contents(&self) -> bool {
        self.name.digest() == Some(Digest::of(&self.elements))
    }
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
    /// `typeof numgen inc mod N : verdict`: the place in the list is the key, of one slot or of several
    /// that follow each other; the value a `goto` the seat's chain.
    Seats(Vec<Seat>),
    /// `ipv4_addr : verdict`: the place in the list, as the low bits of an address, is the key.
    MaskedSeats4(Vec<Seat>),
    /// `ipv6_addr : verdict`: the place in the list, as the low bits of a /64, is the key.
    MaskedSeats6(Vec<Seat>),
    /// `inet_service : inet_service`: public port -> worker port, in the order of the public ports.
    Ports(Vec<(Port, Port)>),
    /// `inet_service`: worker ports. Of no fixed number.
    WorkerPorts(Vec<Port>),
}

impl Elements {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Listeners4(all) => all.len(),
            Self::Listeners6(all) => all.len(),
            Self::Services(all) => all.len(),
            Self::Seats(all) | Self::MaskedSeats4(all) | Self::MaskedSeats6(all) => all.len(),
            Self::Ports(all) => all.len(),
            Self::WorkerPorts(all) => all.len(),
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

/// Which connections a rule takes, of those that come to its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All packets of this family.
    All(Family),
    /// Packets to listeners with addresses: `ip daddr . meta l4proto . th dport @listeners4`.
    Listeners(Family),
    /// Packets to wildcard listeners: `meta l4proto . th dport @wildcards4 fib daddr type local`.
    Wildcards(Family),
    /// Packets to this listener, where its family has few listeners with an address, or few without
    /// one: matched without a set, `ip daddr 10.9.0.1 tcp dport 80` or `tcp dport 80 fib daddr type local`.
    Listener(Listener),
}

impl Scope {
    /// The family of the connections.
    pub fn family(self) -> Family {
        match self {
            Self::All(family) | Self::Listeners(family) | Self::Wildcards(family) => family,
            Self::Listener(listener) => Family::of(&listener),
        }
    }

    /// The set that tells them.
    pub const fn set(self) -> Option<SetName> {
        match self {
            Self::All(_) | Self::Listener(_) => None,
            Self::Listeners(family) => Some(SetName::Listeners(family)),
            Self::Wildcards(family) => Some(SetName::Wildcards(family)),
        }
    }

    /// Whether it looks at addresses of its family, so that it takes connections of no other one.
    pub fn tells_family(self) -> bool {
        match self {
            Self::All(_) | Self::Wildcards(_) => false,
            Self::Listeners(_) => true,
            Self::Listener(listener) => !listener.is_wildcard(),
        }
    }

    /// Whether they are those to any address of this host.
    pub fn is_wildcard(self) -> bool {
        match self {
            Self::All(_) | Self::Listeners(_) => false,
            Self::Wildcards(_) => true,
            Self::Listener(listener) => listener.is_wildcard(),
        }
    }
}

/// Which connections a rule of a seat translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    /// Of this family.
    pub family: Family,
    /// Of this protocol.
    pub protocol: Protocol,
    /// Whether only those that begin on this host and stay on it, `oif "lo"`: before a packet has come in
    /// or is sent, the kernel knows the interface for that of the second kind alone.
    pub local: bool,
}

/// The public ports of tcp that a rule takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpPorts {
    /// A single port, where there are few.
    One(Port),
    /// The ports in the set [`SetName::Established`].
    Set,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// `jhash ip saddr mod 1024 seed 0x1 vmap @slots_9c1e07aa`, and the same over the /64 for IPv6.
    Hash {
        /// Whose clients.
        scope: Scope,
        /// The number of keys of the map: that of the slots, or one for several slots.
        modulus: u32,
        /// The seed.
        seed: u32,
        /// What is hashed: `ip saddr`, or `ip saddr . th sport`.
        input: HashInput,
        /// The map.
        map: SetName,
        /// Kept as a comment.
        comment: Comment,
    },
    /// `meta nfproto ipv4 numgen random mod 1024 vmap @slots_9c1e07aa`, and the same for IPv6.
    Random {
        /// Whose clients.
        scope: Scope,
        /// The number of keys of the map: that of the slots, or one for several slots.
        modulus: u32,
        /// The map.
        map: SetName,
        /// Kept as a comment.
        comment: Comment,
    },
    /// `ip saddr & 0.0.0.7 vmap @slots4_9c1e07aa`, and the same over the /64 for IPv6.
    Mask {
        /// Whose clients.
        scope: Scope,
        /// The number of slots, a power of two.
        slots: u32,
        /// The map.
        map: SetName,
    },
    /// `meta nfproto ipv4 tcp dport 80 counter name "seat_0" dnat ip to ip daddr:20000`: for a protocol
    /// with few public ports, one for each. The address stays as the client has dialled it.
    ///
    /// `dnat to :20000`, without an address, would do the same for both families. But from Linux 5.14 to
    /// 5.18 the kernel takes such a rule and translates nothing by it (`nft_nat_inet_eval`, mended by
    /// "netfilter: nat: really support inet nat without l3 address").
    Translate {
        /// Which connections.
        connections: Translated,
        /// The counter.
        counter: CounterName,
        /// The public port.
        public: Port,
        /// The worker port.
        worker: Port,
        /// The worker's generation, kept as a comment.
        generation: Generation,
    },
    /// `meta nfproto ipv4 meta l4proto tcp counter name "seat_0" dnat ip to ip daddr:th dport map
    /// @seat_0_tcp_9c1e07aa`: for one with many.
    TranslateByMap {
        /// Which connections.
        connections: Translated,
        /// The counter.
        counter: CounterName,
        /// The map from public to worker ports.
        map: SetName,
        /// The worker's generation, kept as a comment.
        generation: Generation,
    },
    /// `tcp dport 80 counter name "seat_0" redirect to :20000`: to an address of the interface, for a
    /// protocol with few public ports.
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
    /// `meta l4proto tcp counter name "seat_0" redirect to :th dport map @seat_0_tcp_9c1e07aa`: for
    /// one with many.
    RedirectByMap {
        /// The protocol.
        protocol: Protocol,
        /// The counter.
        counter: CounterName,
        /// The map from public to worker ports.
        map: SetName,
        /// The worker's generation, kept as a comment.
        generation: Generation,
    },
    /// `tcp flags syn / fin,syn,rst,ack counter name "seat_0"`, or `meta l4proto udp counter name
    /// "seat_0"`: where every packet may come by and not only the first of a connection, what is
    /// counted as a connection.
    Count {
        /// The protocol.
        protocol: Protocol,
        /// The counter.
        counter: CounterName,
    },
    /// `tcp dport 80 tproxy to :20000 accept`: to the worker's own socket, with nothing translated.
    ///
    /// There is one such rule for each public port: nft 1.0.6 lists a `tproxy to` with a map as something that it does
    /// not read again.
    Tproxy {
        /// The protocol.
        protocol: Protocol,
        /// The public port.
        public: Port,
        /// The worker port.
        worker: Port,
        /// The worker's generation, kept as a comment.
        generation: Generation,
    },
    /// `iif "lo" accept`: what this host sends to itself is none of ours.
    PassLocal,
    /// `oif != "lo" accept`: what this host sends to others is none of ours, to the address of a listener
    /// too, which may be another host's just now (one that moves between hosts).
    PassRemote,
    /// `tcp dport 80 tcp flags != syn / fin,syn,rst,ack socket transparent 1 accept`: a packet of a
    /// connection that has its socket goes there by itself, whatever the rules say by now. That of one
    /// that has none goes on: behind a SYN cookie the listening socket of its worker knows it.
    Established {
        /// The public ports that it is for.
        ports: TcpPorts,
    },
    /// `udp sport 20000-29999 udp sport & 1 == 1 socket transparent 1 ip saddr set 10.9.0.1 udp sport
    /// set 53`: a worker answers from its own port, and where several addresses are this host's, from
    /// one that the routes choose. Its client expects both as it wrote to them.
    Reply {
        /// Where worker ports lie.
        ports: PortRange,
        /// A power of two.
        stride: u16,
        /// What a worker port leaves when divided by it.
        place: u16,
        /// The public port.
        public: Port,
        /// The address, of which family alone the rule is then, where the port has a single one.
        address: Option<IpAddr>,
    },
    /// `counter drop`: no worker is left, so that clients try again in place of being refused.
    Drop {
        /// The generation, kept as a comment.
        generation: Generation,
    },
    /// `ct direction original counter drop`: the same where connections are translated. Every connection
    /// comes by a chain of translation in its original direction, so the condition always holds; but with
    /// it the rule uses connection tracking. While no worker is left nothing else in the table does, and
    /// the kernel would end the tracking of the network namespace (`nf_ct_netns_put`), and with it the
    /// connections that retired workers still serve.
    DropTracked {
        /// The generation, kept as a comment.
        generation: Generation,
    },
    /// `tcp flags syn / syn,ack tcp dport @guarded iif != "lo" fib daddr type != unicast drop`, or
    /// `udp dport @guarded_udp ...`. What most packets are not comes first: every one that comes to this
    /// host passes here. Of tcp only what begins a connection is dropped: an answer to a connection that
    /// this host began from such a port passes. An address of type unicast is another host's: what this
    /// host forwards is none of our business. Broadcast and multicast would reach a worker's udp socket,
    /// as what is sent to a local address does.
    Guard {
        /// The protocol.
        protocol: Protocol,
        /// The set of the ports: in an earlier release, that of tcp for udp, too.
        set: SetName,
        /// Where worker ports lie, kept as a comment.
        range: PortRange,
    },
    /// `th dport 20000-29999 meta l4proto tcp iif != "lo" fib daddr type != unicast drop`: the guard of
    /// earlier versions, which takes all packets to all ports of the range. It is read, to be replaced in
    /// the first transaction.
    GuardRange {
        /// The protocol.
        protocol: Protocol,
        /// The ports.
        ports: PortRange,
    },
}

/// What a rule carries as a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comment {
    /// `generation 1`
    Generation(Generation),
    /// `4 seats, 1024 slots`: how many the cluster has. The map of slots does not tell: a seat of
    /// weight 0 has none, seats that are just scaled away are still in the table; and a key of it can
    /// stand for several slots.
    Seats {
        /// Seats, those without a worker too.
        seats: u16,
        /// Slots, a multiple of the number of keys.
        slots: u32,
    },
    /// `worker ports 20000-29999`: where they lie. The set tells those that workers hold now.
    WorkerPorts(PortRange),
}

impl Comment {
    /// Reads it back; `None` for a comment that is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let comment = if let Some(number) = text.strip_prefix("generation ") {
            Self::Generation(Generation(number.parse().ok()?))
        } else if let Some(range) = text.strip_prefix("worker ports ") {
            Self::WorkerPorts(range.parse().ok()?)
        } else {
            let (seats, slots) = text.strip_suffix(" slots")?.split_once(" seats, ")?;
            Self::Seats { seats: seats.parse().ok()?, slots: slots.parse().ok()? }
        };
        (comment.to_string() == text).then_some(comment)
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name::from(*self).fmt(f)
    }
}

impl Rule {
    /// The comment that the rule carries.
    pub fn comment(&self) -> Option<Comment> {
        match self {
            Self::Mask { .. }
            | Self::GuardRange { .. }
            | Self::Count { .. }
            | Self::PassLocal
            | Self::PassRemote
            | Self::Established { .. }
            | Self::Reply { .. } => None,
            Self::Hash { comment, .. } | Self::Random { comment, .. } => Some(*comment),
            Self::Guard { range, .. } => Some(Comment::WorkerPorts(*range)),
            Self::Translate { generation, .. }
            | Self::TranslateByMap { generation, .. }
            | Self::Redirect { generation, .. }
            | Self::RedirectByMap { generation, .. }
            | Self::Tproxy { generation, .. }
            | Self::Drop { generation }
            | Self::DropTracked { generation } => Some(Comment::Generation(*generation)),
        }
    }

    /// The generation that the rule carries as a comment.
    pub fn generation(&self) -> Option<Generation> {
        match self.comment()? {
            Comment::Generation(generation) => Some(generation),
            Comment::Seats { .. } | Comment::WorkerPorts(_) => None,
        }
    }
}
