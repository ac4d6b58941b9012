//! Somebody's rules, sets and elements, as far as they are understood. Names of attributes are those
//! of include/uapi/linux/netfilter/nf_tables.h.

use super::xt::{self, XtFlags, XtMatch};
use crate::netlink::Attributes;
use crate::nft::wire::data::{
    NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
};
use crate::nft::wire::element::{
    NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS,
};
use crate::nft::wire::expression::{
    ADDRESS_TYPE, DESTINATION, NFTA_BITWISE_DREG, NFTA_BITWISE_MASK, NFTA_BITWISE_OP,
    NFTA_BITWISE_SREG, NFTA_BITWISE_XOR, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG, NFTA_EXPR_DATA,
    NFTA_EXPR_NAME, NFTA_FIB_DREG, NFTA_FIB_FLAGS, NFTA_FIB_RESULT, NFTA_IMMEDIATE_DATA,
    NFTA_IMMEDIATE_DREG, NFTA_LOOKUP_DREG, NFTA_LOOKUP_FLAGS, NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG,
    NFTA_META_DREG, NFTA_META_KEY, NFTA_META_SREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG,
    NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET,
};
use crate::nft::wire::rule::{
    NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE, NFTA_RULE_TABLE,
};
use crate::nft::wire::set::{NFTA_SET_FLAGS, NFTA_SET_NAME};

/// `NFT_SET_INTERVAL`.
const INTERVAL: u32 = 0x4;

const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
/// `NFT_SET_ELEM_INTERVAL_END`, `NFT_SET_ELEM_CATCHALL`.
const INTERVAL_END: u32 = 0x1;
const CATCHALL: u32 = 0x2;

const NFTA_RANGE_SREG: u16 = 1;
const NFTA_RANGE_OP: u16 = 2;
const NFTA_RANGE_FROM_DATA: u16 = 3;
const NFTA_RANGE_TO_DATA: u16 = 4;
/// `NFT_RANGE_EQ`.
const IS_INSIDE: u32 = 0;

const NFTA_NAT_TYPE: u16 = 1;
/// `NFT_NAT_DNAT`.
const DNAT: u32 = 1;

const NFTA_MATCH_NAME: u16 = 1;
const NFTA_MATCH_REVISION: u16 = 2;
const NFTA_MATCH_INFO: u16 = 3;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_TARGET_INFO: u16 = 3;

/// `NFT_LOOKUP_F_INV`.
const INVERTED: u32 = 1;

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// A rule: what it does, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) steps: Vec<Step>,
}

/// One expression. Registers are given as their first byte, 0 to 63.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Loads something that is known of a packet, or not.
    Load {
        what: Loaded,
        to: usize,
        length: usize,
    },
    /// Goes on if the register compares so.
    Compare {
        from: usize,
        operator: Operator,
        value: Vec<u8>,
    },
    /// Goes on if the register lies between the two, or does not.
    Range {
        from: usize,
        is_inside: bool,
        low: Vec<u8>,
        high: Vec<u8>,
    },
    /// `(register & mask) ^ xor`
    Bits {
        from: usize,
        to: usize,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Goes on if the key is in the set, or is not.
    Lookup {
        key: usize,
        set: Vec<u8>,
        is_inverted: bool,
        result: LookupResult,
    },
    /// Loads a constant.
    Constant {
        to: usize,
        value: Vec<u8>,
    },
    /// xt_tcp, xt_udp (include/uapi/linux/netfilter/xt_tcpudp.h): goes on if the destination port is
    /// in the range, or is not, and the flags are those.
    XtPorts {
        low: u16,
        high: u16,
        is_inverted: bool,
        flags: XtFlags,
        asks_for_more: bool,
    },
    /// Another match of iptables.
    Xt(XtMatch),
    Verdict(Verdict),
    /// Maps the destination of the connection.
    Map,
    /// Exempts the packet from connection tracking.
    Untrack,
    /// Hands the packet to a socket of some program, if there is one (tproxy).
    Divert,
    /// Goes on, and does nothing that matters here.
    Nothing,
    /// Not understood: may go on or not, and may have changed any register.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    /// `NFT_META_NFPROTO`
    Family,
    /// `NFT_META_PROTOCOL`, the Ethernet type.
    EthernetType,
    /// `NFT_META_L4PROTO`
    Protocol,
    Network {
        offset: usize,
    },
    Transport {
        offset: usize,
    },
    /// `fib daddr type`
    DestinationType,
    /// `fib saddr type`
    SourceType,
    /// `fib saddr . iif oif` with `exists` or `missing`: the answer goes out by where the packet came in.
    ReturnRoute,
    /// `NFT_META_IIF`
    InterfaceIndex,
    /// `NFT_META_IIFNAME`
    InterfaceName,
    /// `NFT_META_PKTTYPE`
    PacketType,
    /// `NFT_CT_STATE`
    CtState,
    /// `NFT_CT_STATUS`
    CtStatus,
    /// `NFT_CT_PROTO_DST` of the original direction: the port that the client has connected to.
    CtOriginalPort,
    Other,
}

impl Loaded {
    /// Whether the port that the packet has where the rule sees it is in what is loaded.
    pub(super) fn has_destination_port(self, length: usize) -> bool {
        matches!(self, Self::Transport { offset } if offset < 4 && offset + length > 2)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupResult {
    None,
    Verdict,
    Register(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No rule of this base chain sees the packet any more; those of later ones do.
    Accept,
    /// The packet is gone: dropped, or refused.
    Drop,
    /// A program decides (`queue`), or somebody else has the packet.
    Elsewhere,
    /// The kernel answers the client, and connects to this host in its place (SYNPROXY).
    Proxied,
    /// Not understood: the packet may go on.
    Unknown,
    /// `NFT_CONTINUE`
    Continue,
    /// `NFT_BREAK`
    Break,
    Return,
    Jump(Vec<u8>),
    Goto(Vec<u8>),
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Set {
    pub(super) has_intervals: bool,
    /// In the order of [`Element::order`].
    pub(super) elements: Vec<Element>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Element {
    /// Empty for the one that catches all other keys.
    pub(super) key: Vec<u8>,
    pub(super) is_end: bool,
    pub(super) is_catch_all: bool,
    /// It stands for a range of concatenated keys, which is not looked into.
    pub(super) has_key_end: bool,
    pub(super) verdict: Option<Verdict>,
}

/// Reads a rule of this table, and the name of its chain.
pub(super) fn parse(attributes: &[u8], of_table: &[u8]) -> Option<(Vec<u8>, Rule)> {
    let attributes = Attributes::new(attributes);
    // Older kernels give the rules of all tables.
    (text(attributes.get(NFTA_RULE_TABLE)?) == of_table).then_some(())?;
    let chain = text(attributes.get(NFTA_RULE_CHAIN)?).to_vec();
    let handle = match attributes.get(NFTA_RULE_HANDLE) {
        Some(_) => attributes.u64(NFTA_RULE_HANDLE)?,
        None => 0,
    };
    let expressions = attributes.nested(NFTA_RULE_EXPRESSIONS).into_iter().flatten();
    let steps = expressions.map(|(_, one)| Step::parse(Attributes::new(one))).collect();
    Some((chain, Rule { handle, steps }))
}

impl Rule {
    /// The sets that it looks into.
    pub(super) fn sets(&self) -> impl Iterator<Item = &[u8]> {
        self.steps.iter().filter_map(|step| match step {
            Step::Lookup { set, .. } => Some(set.as_slice()),
            _ => None,
        })
    }
}

impl Step {
    fn parse(expression: Attributes<'_>) -> Self {
        let name = expression.get(NFTA_EXPR_NAME).map(text).unwrap_or_default();
        let data = expression.nested(NFTA_EXPR_DATA).unwrap_or(Attributes::new(&[]));
        Data(data).step(name).unwrap_or(Self::Unknown)
    }
}

/// The attributes of one expression.
struct Data<'a>(Attributes<'a>);

impl Data<'_> {
    fn length(&self, kind: u16) -> Option<usize> {
        // Longer than all registers: not understood.
        usize::try_from(self.0.u32(kind)?).ok().filter(|length| *length <= 64)
    }

    /// The first byte of a data register: `NFT_REG_1` to `4` are 16 bytes long, `NFT_REG32_00` to `15`
    /// 4 bytes, over the same memory.
    fn register(&self, kind: u16) -> Option<usize> {
        match self.0.u32(kind)? {
            wide @ 1..=4 => usize::try_from((wide - 1) * 16).ok(),
            narrow @ 8..=23 => usize::try_from((narrow - 8) * 4).ok(),
            _ => None,
        }
    }

    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        self.0.nested(kind)?.get(NFTA_DATA_VALUE).map(<[u8]>::to_vec)
    }

    fn step(&self, name: &[u8]) -> Option<Step> {
        Some(match name {
            b"meta" => self.meta()?,
            b"payload" => self.payload()?,
            b"fib" => self.fib()?,
            b"cmp" => self.compare()?,
            b"range" => Step::Range {
                from: self.register(NFTA_RANGE_SREG)?,
                is_inside: self.0.u32(NFTA_RANGE_OP)? == IS_INSIDE,
                low: self.value(NFTA_RANGE_FROM_DATA)?,
                high: self.value(NFTA_RANGE_TO_DATA)?,
            },
            b"bitwise" if self.0.u32(NFTA_BITWISE_OP).unwrap_or(0) == 0 => Step::Bits {
                from: self.register(NFTA_BITWISE_SREG)?,
                to: self.register(NFTA_BITWISE_DREG)?,
                mask: self.value(NFTA_BITWISE_MASK)?,
                xor: self.value(NFTA_BITWISE_XOR)?,
            },
            b"lookup" => self.lookup()?,
            b"immediate" => self.immediate()?,
            b"nat" if self.0.u32(NFTA_NAT_TYPE)? == DNAT => Step::Map,
            b"redir" => Step::Map,
            b"match" => self.xt_match()?,
            b"target" => {
                let info = self.0.get(NFTA_TARGET_INFO).unwrap_or_default();
                xt::target(text(self.0.get(NFTA_TARGET_NAME)?), info)
            }
            b"tproxy" => Step::Divert,
            b"reject" => Step::Verdict(Verdict::Drop),
            b"queue" => Step::Verdict(Verdict::Elsewhere),
            b"synproxy" => Step::Verdict(Verdict::Proxied),
            b"notrack" => Step::Untrack,
            b"ct" => self.conntrack()?,
            b"nat" | b"masq" | b"counter" | b"log" | b"last" | b"objref" => Step::Nothing,
            _ => return None,
        })
    }

    fn meta(&self) -> Option<Step> {
        // It sets something.
        if self.0.get(NFTA_META_SREG).is_some() {
            return Some(Step::Nothing);
        }
        let (what, length) = match self.0.u32(NFTA_META_KEY)? {
            1 => (Loaded::EthernetType, 2),
            4 => (Loaded::InterfaceIndex, 4),
            6 => (Loaded::InterfaceName, 16),
            19 => (Loaded::PacketType, 1),
            15 => (Loaded::Family, 1),
            16 => (Loaded::Protocol, 1),
            // An interface name takes 16 bytes.
            _ => (Loaded::Other, 16),
        };
        Some(Step::Load { what, to: self.register(NFTA_META_DREG)?, length })
    }

    fn payload(&self) -> Option<Step> {
        let offset = usize::try_from(self.0.u32(NFTA_PAYLOAD_OFFSET)?).ok()?;
        let what = match self.0.u32(NFTA_PAYLOAD_BASE)? {
            1 => Loaded::Network { offset },
            2 => Loaded::Transport { offset },
            _ => Loaded::Other,
        };
        let (to, length) = (self.register(NFTA_PAYLOAD_DREG)?, self.length(NFTA_PAYLOAD_LEN)?);
        Some(Step::Load { what, to, length })
    }

    fn fib(&self) -> Option<Step> {
        /// `NFT_FIB_RESULT_OIF`; `NFTA_FIB_F_SADDR`, `MARK`, `IIF`, `PRESENT`.
        const OIF: u32 = 1;
        const SOURCE: u32 = 1;
        const MARK: u32 = 1 << 2;
        const IIF: u32 = 1 << 3;
        const PRESENT: u32 = 1 << 5;
        let what = match (self.0.u32(NFTA_FIB_RESULT)?, self.0.u32(NFTA_FIB_FLAGS)?) {
            (ADDRESS_TYPE, DESTINATION) => Loaded::DestinationType,
            (ADDRESS_TYPE, SOURCE) => Loaded::SourceType,
            // By its mark, too, as firewalld asks: that of a packet which begins a connection is none of theirs.
            (OIF, flags) if flags & !MARK == SOURCE | IIF | PRESENT => Loaded::ReturnRoute,
            _ => Loaded::Other,
        };
        Some(Step::Load { what, to: self.register(NFTA_FIB_DREG)?, length: 4 })
    }

    fn conntrack(&self) -> Option<Step> {
        /// `NFTA_CT_DREG`, `KEY`, `DIRECTION`, `SREG`.
        const DREG: u16 = 1;
        const KEY: u16 = 2;
        const DIRECTION: u16 = 3;
        const SREG: u16 = 4;
        // It sets something.
        if self.0.get(SREG).is_some() {
            return Some(Step::Nothing);
        }
        let direction = self.0.get(DIRECTION).and_then(<[u8]>::first).copied();
        let (what, length) = match (self.0.u32(KEY)?, direction) {
            (0, _) => (Loaded::CtState, 4),
            (2, _) => (Loaded::CtStatus, 4),
            (12, Some(0)) => (Loaded::CtOriginalPort, 2),
            _ => (Loaded::Other, 16),
        };
        Some(Step::Load { what, to: self.register(DREG)?, length })
    }

    fn compare(&self) -> Option<Step> {
        let operator = match self.0.u32(NFTA_CMP_OP)? {
            0 => Operator::Equal,
            1 => Operator::NotEqual,
            2 => Operator::Less,
            3 => Operator::LessOrEqual,
            4 => Operator::Greater,
            5 => Operator::GreaterOrEqual,
            _ => return None,
        };
        let (from, value) = (self.register(NFTA_CMP_SREG)?, self.value(NFTA_CMP_DATA)?);
        Some(Step::Compare { from, operator, value })
    }

    fn lookup(&self) -> Option<Step> {
        let result = match self.0.get(NFTA_LOOKUP_DREG) {
            None => LookupResult::None,
            Some(_) if self.0.u32(NFTA_LOOKUP_DREG) == Some(VERDICT_REGISTER) => {
                LookupResult::Verdict
            }
            Some(_) => LookupResult::Register(self.register(NFTA_LOOKUP_DREG)?),
        };
        Some(Step::Lookup {
            key: self.register(NFTA_LOOKUP_SREG)?,
            set: text(self.0.get(NFTA_LOOKUP_SET)?).to_vec(),
            is_inverted: self.0.u32(NFTA_LOOKUP_FLAGS).unwrap_or(0) & INVERTED != 0,
            result,
        })
    }

    fn immediate(&self) -> Option<Step> {
        match self.0.nested(NFTA_IMMEDIATE_DATA)?.nested(NFTA_DATA_VERDICT) {
            Some(verdict) => Verdict::parse(verdict).map(Step::Verdict),
            None => {
                let to = self.register(NFTA_IMMEDIATE_DREG)?;
                Some(Step::Constant { to, value: self.value(NFTA_IMMEDIATE_DATA)? })
            }
        }
    }

    fn xt_match(&self) -> Option<Step> {
        let info = self.0.get(NFTA_MATCH_INFO).unwrap_or_default();
        let revision = self.0.u32(NFTA_MATCH_REVISION).unwrap_or(0);
        xt::condition(text(self.0.get(NFTA_MATCH_NAME)?), revision, info)
    }
}

impl Verdict {
    fn parse(verdict: Attributes<'_>) -> Option<Self> {
        let chain = || verdict.get(NFTA_VERDICT_CHAIN).map(|name| text(name).to_vec());
        Some(match verdict.u32(NFTA_VERDICT_CODE)?.cast_signed() {
            -1 => Self::Continue,
            -2 => Self::Break,
            -3 => Self::Jump(chain()?),
            -4 => Self::Goto(chain()?),
            -5 => Self::Return,
            0 => Self::Drop,
            1 => Self::Accept,
            _ => Self::Elsewhere,
        })
    }
}

impl Set {
    /// Reads a set without its elements, and its name.
    pub(super) fn parse(attributes: &[u8]) -> Option<(Vec<u8>, Self)> {
        let attributes = Attributes::new(attributes);
        let flags = attributes.u32(NFTA_SET_FLAGS).unwrap_or(0);
        let name = text(attributes.get(NFTA_SET_NAME)?).to_vec();
        Some((name, Self { has_intervals: flags & INTERVAL != 0, elements: Vec::new() }))
    }
}

impl Element {
    /// Reads the elements of one message.
    pub(super) fn parse_list(attributes: &[u8]) -> Vec<Self> {
        let list = Attributes::new(attributes).nested(NFTA_SET_ELEM_LIST_ELEMENTS);
        let elements = list.into_iter().flatten();
        elements.map(|(_, element)| Self::parse(Attributes::new(element))).collect()
    }

    fn parse(element: Attributes<'_>) -> Self {
        let flags = element.u32(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        let key = element.nested(NFTA_SET_ELEM_KEY).and_then(|key| key.get(NFTA_DATA_VALUE));
        let verdict = element
            .nested(NFTA_SET_ELEM_DATA)
            .and_then(|data| data.nested(NFTA_DATA_VERDICT))
            .and_then(Verdict::parse);
        Self {
            key: key.unwrap_or_default().to_vec(),
            is_end: flags & INTERVAL_END != 0,
            is_catch_all: flags & CATCHALL != 0,
            has_key_end: element.get(NFTA_SET_ELEM_KEY_END).is_some(),
            verdict,
        }
    }

    /// By key; where one interval ends and the next begins, the end comes first.
    pub(super) fn order(&self) -> (&[u8], bool) {
        (&self.key, !self.is_end)
    }
}

/// Text without the zero byte at its end.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}
