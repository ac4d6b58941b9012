//! Carrying out somebody's rules on what is known of a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::TableFamily;
use super::rule::{Element, Loaded, LookupResult, Operator, Rule, Set, Step, Verdict};
use crate::plan::Listener;

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

/// How deep chains may call each other (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// The first packet of a connection, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    family: u8,
    protocol: Option<u8>,
    destination: Option<Vec<u8>>,
    port: Option<[u8; 2]>,
    /// Its destination is an address of this host.
    is_local: bool,
}

/// A rule that maps a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) chain: Vec<u8>,
    pub(super) handle: u64,
    pub(super) is_certain: bool,
}

impl Packet {
    /// The first packet of a connection to a listener.
    pub(super) fn to(listener: &Listener) -> Self {
        let (family, octets) = match listener.address() {
            IpAddr::V4(v4) => (IPV4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (IPV6, v6.octets().to_vec()),
        };
        Self {
            family,
            protocol: Some(listener.protocol().number()),
            destination: (!listener.is_wildcard()).then_some(octets),
            port: Some(listener.port().number().to_be_bytes()),
            is_local: listener.is_wildcard(),
        }
    }

    /// A packet of each family of which nothing else is known.
    pub(super) fn any() -> [Self; 2] {
        [IPV4, IPV6].map(|family| Self {
            family,
            protocol: None,
            destination: None,
            port: None,
            is_local: false,
        })
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
    ) -> Vec<Mapping> {
        let seen = BTreeMap::new();
        let mut walk = Walk { packet: self, chains, sets, mappings: Vec::new(), seen };
        walk.chain(base, true, 0);
        walk.mappings
    }

    fn byte(&self, what: Loaded, place: usize) -> Option<u8> {
        match what {
            Loaded::Family => Some(self.family),
            Loaded::EthernetType if self.family == IPV4 => [0x08, 0x00].get(place).copied(),
            Loaded::EthernetType => [0x86, 0xdd].get(place).copied(),
            Loaded::Protocol => self.protocol,
            Loaded::Network { offset } => {
                let begin = if self.family == IPV4 { 16 } else { 24 };
                let destination = self.destination.as_ref()?;
                destination.get((offset + place).checked_sub(begin)?).copied()
            }
            Loaded::Transport { offset } => {
                self.port?.get((offset + place).checked_sub(2)?).copied()
            }
            Loaded::DestinationType if self.is_local => LOCAL.to_ne_bytes().get(place).copied(),
            Loaded::DestinationType | Loaded::Other => None,
        }
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
    mappings: Vec<Mapping>,
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

    fn rule(&mut self, chain: &[u8], rule: &Rule, mut is_certain: bool, depth: usize) -> Flow {
        let mut registers = Registers::default();
        for step in &rule.steps {
            let truth = match step {
                Step::Map => {
                    self.found(chain, rule.handle, is_certain);
                    return if is_certain { Flow::Stop } else { Flow::Next };
                }
                Step::Verdict(Verdict::Continue) => Truth::Yes,
                Step::Verdict(Verdict::Break) => return Flow::Next,
                Step::Verdict(verdict) => return self.verdict(verdict, is_certain, depth),
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
                            return self.verdicts(verdicts, is_certain, depth);
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

    fn verdicts(&mut self, verdicts: Vec<&Verdict>, is_certain: bool, depth: usize) -> Flow {
        if let [verdict] = verdicts[..] {
            return self.verdict(verdict, is_certain, depth);
        }
        for verdict in verdicts {
            self.verdict(verdict, false, depth);
        }
        Flow::Next
    }

    fn verdict(&mut self, verdict: &Verdict, is_certain: bool, depth: usize) -> Flow {
        let flow = match verdict {
            Verdict::Continue | Verdict::Break => Flow::Next,
            Verdict::Final => Flow::Stop,
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

    fn found(&mut self, chain: &[u8], handle: u64, is_certain: bool) {
        let known = self.mappings.iter_mut().find(|one| one.handle == handle && one.chain == chain);
        match known {
            Some(known) => known.is_certain |= is_certain,
            None => self.mappings.push(Mapping { chain: chain.to_vec(), handle, is_certain }),
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
            Step::XtPorts { low, high, is_inverted, asks_for_more } => {
                let port = packet.port.map(u16::from_be_bytes);
                let is_in = Truth::of(port.map(|port| (*low..=*high).contains(&port)));
                match is_in.inverted_if(*is_inverted) {
                    Truth::Yes if *asks_for_more => Truth::Maybe,
                    truth => truth,
                }
            }
            Step::Unknown => {
                *self = Self::default();
                Truth::Maybe
            }
            Step::Nothing | Step::Map | Step::Verdict(_) | Step::Lookup { .. } => Truth::Yes,
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
