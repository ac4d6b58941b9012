//! Carrying out somebody's rules on what is known of a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::TableFamily;
use super::rule::{Element, Loaded, LookupResult, Operator, Rule, Set, Step, Verdict};
use super::xt::{XtConntrack, XtMatch};
use crate::plan::{Listener, Protocol};

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// `RTN_UNICAST`, `RTN_LOCAL`.
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;

/// `NF_CT_STATE_INVALID_BIT`, and the bits of `IP_CT_NEW` and `IP_CT_UNTRACKED`.
const STATE_NONE: u32 = 1;
const STATE_NEW: u32 = 1 << 3;
const STATE_UNTRACKED: u32 = 1 << 6;

/// `IPS_DST_NAT`, `IPS_DST_NAT_DONE`.
pub(super) const STATUS_TRANSLATED: u32 = 1 << 5 | 1 << 8;

/// `IP_CT_ESTABLISHED`: the answer to its first packet has been seen.
const STATE_ESTABLISHED: u32 = 1 << 1;

/// The flags of a TCP segment that begins a connection, and of any later one; and where they are.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FLAGS_OFFSET: usize = 13;

/// How deep chains may call each other: nf_tables lets them 16 deep (`NFT_JUMP_STACK_SIZE`), x_tables as deep as
/// there are chains.
const DEPTH: usize = 64;

/// A packet of a connection, as far as it is known: the first, unless [said otherwise](Self::of).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    family: u8,
    protocol: Option<u8>,
    source: Option<Vec<u8>>,
    destination: Option<Vec<u8>>,
    port: Option<[u8; 2]>,
    /// Its destination is an address of this host.
    is_local: bool,
    /// By which interface it came in: its number and its name.
    interface: Option<(u32, Vec<u8>)>,
    conntrack: Conntrack,
    progress: Progress,
}

/// How far the connection is that a packet is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It begins one.
    First,
    /// It is in the midst of one that connection tracking knows.
    Established,
    /// It is in the midst of one that connection tracking has no entry of.
    Forgotten {
        /// A new entry is made of it, as of a first packet (`nf_conntrack_tcp_loose`). Else it is invalid, and
        /// is not translated.
        is_picked_up: bool,
    },
}

/// What connection tracking knows of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conntrack {
    /// It was not asked yet.
    NotYet,
    /// It was told to leave it alone.
    Untracked,
    /// A new connection.
    New,
    /// A new connection, whose destination was translated; this is the port that it was for.
    Translated { port: u16 },
}

impl Conntrack {
    fn state(self) -> u32 {
        match self {
            Self::NotYet => STATE_NONE,
            Self::Untracked => STATE_UNTRACKED,
            Self::New | Self::Translated { .. } => STATE_NEW,
        }
    }

    /// `None` where there is no entry to ask: the rule does not match then.
    fn status(self) -> Option<u32> {
        match self {
            Self::NotYet | Self::Untracked => None,
            Self::New => Some(0),
            Self::Translated { .. } => Some(STATUS_TRANSLATED),
        }
    }
}

/// Where a packet comes to an end for a base chain, or something happens to it that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) kind: EndKind,
    pub(super) chain: Vec<u8>,
    /// 0: the policy of the chain.
    pub(super) handle: u64,
    pub(super) is_certain: bool,
    pub(super) tests: Tests,
}

/// What becomes of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndKind {
    /// Its destination is mapped.
    Map,
    /// It is exempted from connection tracking, and goes on.
    Untrack,
    /// A socket of some program gets it, if there is one.
    Divert,
    Accept,
    Drop,
    Elsewhere,
    /// The kernel answers the client (SYNPROXY).
    Proxied,
}

/// What the rules on the way have asked of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tests {
    /// The port that it has there.
    pub(super) port: bool,
    /// Whether it was translated.
    pub(super) translation: bool,
    /// The port that the client has connected to.
    pub(super) original_port: bool,
}

impl Tests {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Load { what, length, .. } => {
                self.port |= what.has_destination_port(*length);
                self.translation |= *what == Loaded::CtStatus;
                self.original_port |= *what == Loaded::CtOriginalPort;
            }
            Step::XtPorts { low, high, .. } => self.port |= (*low, *high) != (0, u16::MAX),
            Step::Xt(XtMatch::Ports { .. }) => self.port = true,
            Step::Xt(XtMatch::Conntrack(asked)) => {
                self.translation |= asked.asks_for_translation();
                self.original_port |= asked.original_port.is_some();
            }
            _ => {}
        }
    }
}

impl Packet {
    /// The first packet of a connection to a listener.
    pub(super) fn to(listener: &Listener) -> Self {
        let (family, octets) = octets(listener.address());
        Self {
            family,
            protocol: Some(listener.protocol().number()),
            source: None,
            destination: (!listener.is_wildcard()).then_some(octets),
            port: Some(listener.port().number().to_be_bytes()),
            is_local: listener.is_wildcard(),
            interface: None,
            conntrack: Conntrack::New,
            progress: Progress::First,
        }
    }

    /// A packet of each family of which nothing else is known.
    pub(super) fn any() -> [Self; 2] {
        [IPV4, IPV6].map(|family| Self {
            family,
            protocol: None,
            source: None,
            destination: None,
            port: None,
            is_local: false,
            interface: None,
            conntrack: Conntrack::New,
            progress: Progress::First,
        })
    }

    /// It comes from this client, by this interface, for an address of this host.
    pub(super) fn from(self, client: IpAddr, interface: &Interface) -> Self {
        let own = interface.addresses.iter().find(|it| it.is_ipv4() == client.is_ipv4());
        let packet = self.by(interface);
        Self {
            source: Some(octets(client).1),
            destination: packet.destination.clone().or_else(|| own.map(|it| octets(*it).1)),
            ..packet
        }
    }

    /// It comes by this interface, for an address of this host.
    pub(super) fn by(self, interface: &Interface) -> Self {
        let interface = Some((interface.index, interface.name.clone().into_bytes()));
        Self { interface, is_local: true, ..self }
    }

    /// The same packet of a connection that is so far.
    pub(super) fn of(&self, progress: Progress) -> Self {
        Self { progress, ..self.clone() }
    }

    /// What connection tracking knows of it, and the port that it has.
    pub(super) fn seen(&self, conntrack: Conntrack, port: u16) -> Self {
        match (self.progress, conntrack) {
            // No entry, and no translation.
            (
                Progress::Forgotten { is_picked_up: false },
                Conntrack::New | Conntrack::Translated { .. },
            ) => Self { conntrack: Conntrack::NotYet, ..self.clone() },
            _ => Self { conntrack, port: Some(port.to_be_bytes()), ..self.clone() },
        }
    }

    /// Whether chains of tables of this family see it.
    pub(super) fn is_seen_by(&self, family: TableFamily) -> bool {
        family == TableFamily::Inet || family as u8 == self.family
    }

    /// The rules that map it, beginning with a base chain, up to the first that certainly does.
    pub(super) fn walk(
        &self,
        chains: &BTreeMap<Vec<u8>, Vec<Rule>>,
        sets: &BTreeMap<Vec<u8>, Set>,
        base: &[u8],
    ) -> Vec<End> {
        let mut ends = self.ends(chains, sets, base).0;
        ends.retain(|end| end.kind == EndKind::Map);
        ends
    }

    /// What becomes of it or may, beginning with a base chain, up to the first that is certain; and whether
    /// it may come to the end of the base chain.
    pub(super) fn ends(
        &self,
        chains: &BTreeMap<Vec<u8>, Vec<Rule>>,
        sets: &BTreeMap<Vec<u8>, Set>,
        base: &[u8],
    ) -> (Vec<End>, bool) {
        let seen = BTreeMap::new();
        let tests = Tests::default();
        let mut walk = Walk { packet: self, chains, sets, ends: Vec::new(), seen, tests };
        let flow = walk.chain(base, true, 0);
        (walk.ends, flow != Flow::Stop)
    }

    fn byte(&self, what: Loaded, place: usize) -> Option<u8> {
        match what {
            Loaded::Family => Some(self.family),
            Loaded::EthernetType if self.family == IPV4 => [0x08, 0x00].get(place).copied(),
            Loaded::EthernetType => [0x86, 0xdd].get(place).copied(),
            Loaded::Protocol => self.protocol,
            Loaded::Network { offset } => self.network_byte(offset + place),
            Loaded::Transport { offset } if offset + place == FLAGS_OFFSET => {
                (self.protocol == Some(Protocol::Tcp.number())).then_some(self.flags())
            }
            Loaded::Transport { offset } => {
                self.port?.get((offset + place).checked_sub(2)?).copied()
            }
            Loaded::DestinationType if self.is_local => LOCAL.to_ne_bytes().get(place).copied(),
            // A client of another host, whose answers go out by where it came in.
            Loaded::SourceType => {
                self.source.as_ref().and_then(|_| UNICAST.to_ne_bytes().get(place).copied())
            }
            Loaded::ReturnRoute => {
                self.source.as_ref().and_then(|_| 1_u32.to_ne_bytes().get(place).copied())
            }
            Loaded::InterfaceIndex => self.interface.as_ref()?.0.to_ne_bytes().get(place).copied(),
            Loaded::InterfaceName => {
                Some(self.interface.as_ref()?.1.get(place).copied().unwrap_or(0))
            }
            // `PACKET_HOST`
            Loaded::PacketType => self.interface.as_ref().map(|_| 0),
            Loaded::CtState => self.state().to_ne_bytes().get(place).copied(),
            Loaded::CtStatus => self.conntrack.status()?.to_ne_bytes().get(place).copied(),
            Loaded::CtOriginalPort => match self.conntrack {
                Conntrack::Translated { port } => port.to_be_bytes().get(place).copied(),
                Conntrack::New => self.port?.get(place).copied(),
                Conntrack::NotYet | Conntrack::Untracked => None,
            },
            Loaded::DestinationType | Loaded::Other => None,
        }
    }

    /// Those of a segment of TCP.
    fn flags(&self) -> u8 {
        if self.progress == Progress::First { SYN } else { ACK }
    }

    /// Its state by connection tracking.
    fn state(&self) -> u32 {
        match (self.progress, self.conntrack) {
            (Progress::Established, Conntrack::New | Conntrack::Translated { .. }) => {
                STATE_ESTABLISHED
            }
            (_, conntrack) => conntrack.state(),
        }
    }

    fn network_byte(&self, place: usize) -> Option<u8> {
        let (protocol, source, destination) =
            if self.family == IPV4 { (9, 12, 16) } else { (6, 8, 24) };
        match place {
            _ if place == protocol => self.protocol,
            _ if place >= destination => {
                self.destination.as_ref()?.get(place - destination).copied()
            }
            _ if place >= source => self.source.as_ref()?.get(place - source).copied(),
            _ => None,
        }
    }

    /// Whether a rule that asks for this goes no further, since there is nothing to ask.
    fn has_no(&self, what: Loaded) -> bool {
        let is_of_entry = matches!(what, Loaded::CtStatus | Loaded::CtOriginalPort);
        is_of_entry && self.conntrack.status().is_none()
    }

    /// Whether it is what a match of iptables asks for.
    fn is_matched(&self, asked: &XtMatch) -> Truth {
        match asked {
            XtMatch::Ports { ranges, is_inverted } => {
                let port = self.port.map(u16::from_be_bytes);
                let is_in = |port| ranges.iter().any(|(low, high)| (*low..=*high).contains(&port));
                Truth::of(port.map(is_in)).inverted_if(*is_inverted)
            }
            XtMatch::AddressTypes { source, destination } => {
                let of = |asked: &Option<(u16, bool)>, known: Option<u32>| match asked {
                    None => Truth::Yes,
                    Some((mask, is_inverted)) => {
                        let is_in = known.map(|kind| mask & (1 << kind) != 0);
                        Truth::of(is_in).inverted_if(*is_inverted)
                    }
                };
                let source = of(source, self.source.as_ref().map(|_| UNICAST));
                source.and(of(destination, self.is_local.then_some(LOCAL)))
            }
            XtMatch::Conntrack(asked) => self.is_tracked_as(asked),
        }
    }

    fn is_tracked_as(&self, asked: &XtConntrack) -> Truth {
        let mut truth = Truth::Yes;
        if let Some((mask, is_inverted)) = asked.states {
            let translated = match self.conntrack {
                Conntrack::Translated { .. } => XtConntrack::TRANSLATED,
                _ => 0,
            };
            let state = match self.conntrack {
                // iptables has another bit for it.
                Conntrack::Untracked => XtConntrack::UNTRACKED,
                _ => self.state(),
            };
            let is_in = u32::from(mask) & (state | translated) != 0;
            truth = truth.and(Truth::of(Some(is_in)).inverted_if(is_inverted));
        }
        if let Some((low, high, is_inverted)) = asked.original_port {
            let port = match self.conntrack {
                Conntrack::Translated { port } => Some(port),
                Conntrack::New => self.port.map(u16::from_be_bytes),
                Conntrack::NotYet | Conntrack::Untracked => None,
            };
            let is_in = port.is_some_and(|port| (low..=high).contains(&port));
            truth = truth.and(Truth::of(Some(is_in)).inverted_if(is_inverted));
        }
        if asked.asks_for_more { truth.and(Truth::Maybe) } else { truth }
    }
}

/// An interface by which clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its number.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (IPV4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (IPV6, v6.octets().to_vec()),
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

impl Truth {
    fn of(known: Option<bool>) -> Self {
        known.map_or(Self::Maybe, |is| if is { Self::Yes } else { Self::No })
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }

    fn inverted_if(self, is_inverted: bool) -> Self {
        match self {
            Self::Yes if is_inverted => Self::No,
            Self::No if is_inverted => Self::Yes,
            same => same,
        }
    }
}

/// What becomes of a packet behind a rule or a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// The next rule sees it, or may see it.
    Next,
    /// It certainly leaves this chain.
    Return,
    /// It certainly leaves the base chain.
    Stop,
}

struct Walk<'a> {
    packet: &'a Packet,
    chains: &'a BTreeMap<Vec<u8>, Vec<Rule>>,
    sets: &'a BTreeMap<Vec<u8>, Set>,
    ends: Vec<End>,
    /// What the rules that led to where it is have asked.
    tests: Tests,
    /// Chains that were walked through, certainly or possibly, and what came of it: again, the same
    /// would.
    seen: BTreeMap<(Vec<u8>, bool), Flow>,
}

impl Walk<'_> {
    fn chain(&mut self, name: &[u8], is_certain: bool, depth: usize) -> Flow {
        let key = (name.to_vec(), is_certain);
        if let Some(flow) = self.seen.get(&key) {
            return *flow;
        }
        let rules = self.chains.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut flow = Flow::Next;
        if depth < DEPTH {
            for rule in rules {
                flow = self.rule(name, rule, is_certain, depth);
                if flow != Flow::Next {
                    break;
                }
            }
        }
        self.seen.insert(key, flow);
        flow
    }

    fn rule(&mut self, chain: &[u8], rule: &Rule, is_certain: bool, depth: usize) -> Flow {
        let before = self.tests;
        let flow = self.steps(chain, rule, is_certain, depth);
        self.tests = before;
        flow
    }

    fn steps(&mut self, chain: &[u8], rule: &Rule, mut is_certain: bool, depth: usize) -> Flow {
        let mut registers = Registers::default();
        for step in &rule.steps {
            self.tests.take(step);
            let place = (chain, rule.handle);
            let truth = match step {
                Step::Map => {
                    self.found(EndKind::Map, place, is_certain);
                    return if is_certain { Flow::Stop } else { Flow::Next };
                }
                Step::Untrack => {
                    self.found(EndKind::Untrack, place, is_certain);
                    Truth::Yes
                }
                // Without such a socket the packet goes on, to the next rule or the next chain.
                Step::Divert => {
                    self.found(EndKind::Divert, place, is_certain);
                    return Flow::Next;
                }
                Step::Verdict(Verdict::Continue) => Truth::Yes,
                Step::Verdict(Verdict::Break) => return Flow::Next,
                Step::Verdict(verdict) => return self.verdict(verdict, place, is_certain, depth),
                Step::Load { what, .. } if self.packet.has_no(*what) => return Flow::Next,
                Step::Lookup { key, set, is_inverted, result } => {
                    let (truth, verdicts) = registers.look_up(*key, self.sets.get(set));
                    match result {
                        LookupResult::None => truth.inverted_if(*is_inverted),
                        LookupResult::Register(to) => {
                            registers.forget(*to, 64);
                            truth
                        }
                        LookupResult::Verdict => {
                            let is_certain = is_certain && truth == Truth::Yes;
                            return self.verdicts(verdicts, place, is_certain, depth);
                        }
                    }
                }
                step => registers.step(self.packet, step),
            };
            match truth {
                Truth::Yes => {}
                Truth::No => return Flow::Next,
                Truth::Maybe => is_certain = false,
            }
        }
        Flow::Next
    }

    fn verdicts(
        &mut self,
        verdicts: Vec<&Verdict>,
        place: (&[u8], u64),
        is_certain: bool,
        depth: usize,
    ) -> Flow {
        if let [verdict] = verdicts[..] {
            return self.verdict(verdict, place, is_certain, depth);
        }
        for verdict in verdicts {
            self.verdict(verdict, place, false, depth);
        }
        Flow::Next
    }

    fn verdict(
        &mut self,
        verdict: &Verdict,
        place: (&[u8], u64),
        is_certain: bool,
        depth: usize,
    ) -> Flow {
        let mut end = |kind| {
            self.found(kind, place, is_certain);
            Flow::Stop
        };
        let flow = match verdict {
            Verdict::Continue | Verdict::Break => Flow::Next,
            Verdict::Accept => end(EndKind::Accept),
            Verdict::Drop => end(EndKind::Drop),
            Verdict::Elsewhere => end(EndKind::Elsewhere),
            Verdict::Proxied => end(EndKind::Proxied),
            Verdict::Unknown => {
                self.found(EndKind::Elsewhere, place, false);
                Flow::Next
            }
            Verdict::Return => Flow::Return,
            Verdict::Jump(chain) => match self.chain(chain, is_certain, depth + 1) {
                Flow::Stop => Flow::Stop,
                Flow::Return | Flow::Next => Flow::Next,
            },
            Verdict::Goto(chain) => match self.chain(chain, is_certain, depth + 1) {
                Flow::Stop => Flow::Stop,
                Flow::Return | Flow::Next => Flow::Return,
            },
        };
        if is_certain { flow } else { Flow::Next }
    }

    fn found(&mut self, kind: EndKind, (chain, handle): (&[u8], u64), is_certain: bool) {
        let is_same = |it: &&mut End| it.kind == kind && it.handle == handle && it.chain == chain;
        match self.ends.iter_mut().find(is_same) {
            Some(known) => known.is_certain |= is_certain,
            None => {
                let (chain, tests) = (chain.to_vec(), self.tests);
                self.ends.push(End { kind, chain, handle, is_certain, tests });
            }
        }
    }
}

/// The data registers: `None` for a byte that is not known.
struct Registers([Option<u8>; 64]);

impl Default for Registers {
    fn default() -> Self {
        Self([None; 64])
    }
}

impl Registers {
    /// Carries out a step that has no effect outside.
    fn step(&mut self, packet: &Packet, step: &Step) -> Truth {
        match step {
            Step::Load { what, to, length } => {
                self.store(*to, *length, |place| packet.byte(*what, place));
                Truth::Yes
            }
            Step::Constant { to, value } => {
                self.store(*to, value.len(), |place| value.get(place).copied());
                Truth::Yes
            }
            Step::Bits { from, to, mask, xor } => {
                let source: Vec<Option<u8>> = self.read(*from, mask.len()).to_vec();
                self.store(*to, mask.len(), |place| {
                    let (mask, xor) = (*mask.get(place)?, *xor.get(place)?);
                    match source.get(place)? {
                        Some(byte) => Some((byte & mask) ^ xor),
                        None => (mask == 0).then_some(xor),
                    }
                });
                Truth::Yes
            }
            Step::Compare { from, operator, value } => self.compare(*from, *operator, value),
            Step::Range { from, is_inside, low, high } => {
                let above = self.compare(*from, Operator::GreaterOrEqual, low);
                let below = self.compare(*from, Operator::LessOrEqual, high);
                match (above, below) {
                    (Truth::Yes, Truth::Yes) => Truth::Yes,
                    (Truth::No, _) | (_, Truth::No) => Truth::No,
                    _ => Truth::Maybe,
                }
                .inverted_if(!is_inside)
            }
            Step::XtPorts { low, high, is_inverted, flags, asks_for_more } => {
                let port = packet.port.map(u16::from_be_bytes);
                let is_in = Truth::of(port.map(|port| (*low..=*high).contains(&port)));
                let are_flags = Truth::of(Some(flags.are(packet.flags())));
                match is_in.inverted_if(*is_inverted).and(are_flags) {
                    Truth::Yes if *asks_for_more => Truth::Maybe,
                    truth => truth,
                }
            }
            Step::Xt(asked) => packet.is_matched(asked),
            Step::Unknown => {
                *self = Self::default();
                Truth::Maybe
            }
            Step::Nothing
            | Step::Map
            | Step::Untrack
            | Step::Divert
            | Step::Verdict(_)
            | Step::Lookup { .. } => Truth::Yes,
        }
    }

    fn read(&self, from: usize, length: usize) -> &[Option<u8>] {
        self.0.get(from..from.saturating_add(length)).unwrap_or_default()
    }

    /// Stores bytes. The kernel fills up the last 4 bytes with zeros.
    fn store(&mut self, to: usize, length: usize, byte: impl Fn(usize) -> Option<u8>) {
        let end = length.next_multiple_of(4);
        for (place, register) in self.0.iter_mut().skip(to).take(end).enumerate() {
            *register = if place < length { byte(place) } else { Some(0) };
        }
    }

    fn forget(&mut self, from: usize, length: usize) {
        self.0.iter_mut().skip(from).take(length).for_each(|byte| *byte = None);
    }

    fn compare(&self, from: usize, operator: Operator, value: &[u8]) -> Truth {
        let bytes = self.read(from, value.len());
        let known: Option<Vec<u8>> = bytes.iter().copied().collect();
        match known.filter(|known| known.len() == value.len()) {
            Some(known) => {
                let order = known.as_slice().cmp(value);
                Truth::of(Some(match operator {
                    Operator::Equal => order.is_eq(),
                    Operator::NotEqual => order.is_ne(),
                    Operator::Less => order.is_lt(),
                    Operator::LessOrEqual => order.is_le(),
                    Operator::Greater => order.is_gt(),
                    Operator::GreaterOrEqual => order.is_ge(),
                }))
            }
            None => {
                let differs =
                    bytes.iter().zip(value).any(|(byte, value)| byte.is_some_and(|b| b != *value));
                match operator {
                    Operator::Equal if differs => Truth::No,
                    Operator::NotEqual if differs => Truth::Yes,
                    _ => Truth::Maybe,
                }
            }
        }
    }

    /// Whether a key is in a set, and the verdicts that it may lead to.
    fn look_up<'s>(&self, key: usize, set: Option<&'s Set>) -> (Truth, Vec<&'s Verdict>) {
        let Some(set) = set else { return (Truth::Maybe, Vec::new()) };
        let verdicts = |elements: &[&'s Element]| -> Vec<&'s Verdict> {
            let all = elements.iter().filter_map(|element| element.verdict.as_ref());
            let mut seen = BTreeSet::new();
            all.filter(|verdict| seen.insert(format!("{verdict:?}"))).collect()
        };
        let is_range = |element: &Element| element.has_key_end;
        let possible = || -> Vec<&Element> {
            let may_be = |element: &&Element| {
                set.has_intervals
                    || element.is_catch_all
                    || self.compare(key, Operator::Equal, &element.key) != Truth::No
            };
            set.elements.iter().filter(|element| !element.is_end).filter(may_be).collect()
        };
        let length = set.elements.iter().map(|element| element.key.len()).max().unwrap_or(0);
        let known: Option<Vec<u8>> = self.read(key, length).iter().copied().collect();
        let known = known.filter(|known| known.len() == length);
        let Some(known) = known.filter(|_| !set.elements.iter().any(is_range)) else {
            let possible = possible();
            let truth = if possible.is_empty() { Truth::No } else { Truth::Maybe };
            return (truth, verdicts(&possible));
        };
        let named = match set.has_intervals {
            // The last mark at or below the key says whether an interval is open there.
            true => set
                .elements
                .iter()
                .rfind(|element| !element.is_catch_all && element.key <= known)
                .filter(|element| !element.is_end),
            false => set.elements.iter().find(|element| element.key == known),
        };
        match named.or_else(|| set.elements.iter().find(|element| element.is_catch_all)) {
            Some(element) => (Truth::Yes, verdicts(&[element])),
            None => (Truth::No, Vec::new()),
        }
    }
}
