//! Somebody's rules, sets and elements, as far as they are understood. Names of attributes are those
//! of include/uapi/linux/netfilter/nf_tables.h.

use crate::netlink::Attributes;

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
/// `NFT_SET_INTERVAL`.
const INTERVAL: u32 = 0x4;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
/// `NFT_SET_ELEM_INTERVAL_END`, `NFT_SET_ELEM_CATCHALL`.
const INTERVAL_END: u32 = 0x1;
const CATCHALL: u32 = 0x2;

const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

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
    /// in the range, or is not.
    XtPorts {
        low: u16,
        high: u16,
        is_inverted: bool,
        asks_for_more: bool,
    },
    Verdict(Verdict),
    /// Maps the destination of the connection.
    Map,
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
    Other,
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
    /// Accepted, dropped, queued: no rule of this base chain sees the packet any more.
    Final,
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
    let (mut table, mut chain, mut handle, mut steps) = (None, None, 0, Vec::new());
    for (kind, value) in Attributes::new(attributes) {
        match kind {
            NFTA_RULE_TABLE => table = Some(text(value)),
            NFTA_RULE_CHAIN => chain = Some(text(value)),
            NFTA_RULE_HANDLE => handle = u64::from_be_bytes(value.try_into().ok()?),
            NFTA_RULE_EXPRESSIONS => {
                steps = Attributes::new(value).map(|(_, one)| Step::parse(one)).collect();
            }
            _ => {}
        }
    }
    // Older kernels give the rules of all tables.
    (table? == of_table).then_some(())?;
    Some((chain?.to_vec(), Rule { handle, steps }))
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
    fn parse(expression: &[u8]) -> Self {
        let name = find(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default();
        let data = Data(find(expression, NFTA_EXPR_DATA).unwrap_or_default());
        data.step(name).unwrap_or(Self::Unknown)
    }
}

/// The attributes of one expression.
struct Data<'a>(&'a [u8]);

impl Data<'_> {
    fn number(&self, kind: u16) -> Option<u32> {
        number(find(self.0, kind)?)
    }

    fn length(&self, kind: u16) -> Option<usize> {
        // Longer than all registers: not understood.
        usize::try_from(self.number(kind)?).ok().filter(|length| *length <= 64)
    }

    /// The first byte of a data register: `NFT_REG_1` to `4` are 16 bytes long, `NFT_REG32_00` to `15`
    /// 4 bytes, over the same memory.
    fn register(&self, kind: u16) -> Option<usize> {
        match self.number(kind)? {
            wide @ 1..=4 => usize::try_from((wide - 1) * 16).ok(),
            narrow @ 8..=23 => usize::try_from((narrow - 8) * 4).ok(),
            _ => None,
        }
    }

    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        find(find(self.0, kind)?, NFTA_DATA_VALUE).map(<[u8]>::to_vec)
    }

    fn step(&self, name: &[u8]) -> Option<Step> {
        Some(match name {
            b"meta" => self.meta()?,
            b"payload" => self.payload()?,
            b"fib" => {
                let is_destination_type = self.number(2)? == 3 && self.number(3)? == 2;
                let what =
                    if is_destination_type { Loaded::DestinationType } else { Loaded::Other };
                Step::Load { what, to: self.register(1)?, length: 4 }
            }
            b"cmp" => self.compare()?,
            b"range" => Step::Range {
                from: self.register(1)?,
                is_inside: self.number(2)? == 0,
                low: self.value(3)?,
                high: self.value(4)?,
            },
            b"bitwise" if self.number(6).unwrap_or(0) == 0 => Step::Bits {
                from: self.register(1)?,
                to: self.register(2)?,
                mask: self.value(4)?,
                xor: self.value(5)?,
            },
            b"lookup" => self.lookup()?,
            b"immediate" => self.immediate()?,
            // NFTA_NAT_TYPE: NFT_NAT_DNAT.
            b"nat" if self.number(1)? == 1 => Step::Map,
            b"redir" => Step::Map,
            b"match" => self.xt_match()?,
            b"target" => match text(find(self.0, 1)?) {
                b"DNAT" | b"REDIRECT" | b"NETMAP" => Step::Map,
                _ => Step::Nothing,
            },
            b"nat" | b"masq" | b"counter" | b"log" | b"last" | b"objref" | b"notrack" => {
                Step::Nothing
            }
            _ => return None,
        })
    }

    fn meta(&self) -> Option<Step> {
        // NFTA_META_SREG: sets something.
        if find(self.0, 3).is_some() {
            return Some(Step::Nothing);
        }
        let (what, length) = match self.number(2)? {
            1 => (Loaded::EthernetType, 2),
            15 => (Loaded::Family, 1),
            16 => (Loaded::Protocol, 1),
            // An interface name takes 16 bytes.
            _ => (Loaded::Other, 16),
        };
        Some(Step::Load { what, to: self.register(1)?, length })
    }

    fn payload(&self) -> Option<Step> {
        let offset = usize::try_from(self.number(3)?).ok()?;
        let what = match self.number(2)? {
            1 => Loaded::Network { offset },
            2 => Loaded::Transport { offset },
            _ => Loaded::Other,
        };
        Some(Step::Load { what, to: self.register(1)?, length: self.length(4)? })
    }

    fn compare(&self) -> Option<Step> {
        let operator = match self.number(2)? {
            0 => Operator::Equal,
            1 => Operator::NotEqual,
            2 => Operator::Less,
            3 => Operator::LessOrEqual,
            4 => Operator::Greater,
            5 => Operator::GreaterOrEqual,
            _ => return None,
        };
        Some(Step::Compare { from: self.register(1)?, operator, value: self.value(3)? })
    }

    fn lookup(&self) -> Option<Step> {
        let result = match find(self.0, 3).map(number) {
            None => LookupResult::None,
            Some(Some(0)) => LookupResult::Verdict,
            Some(_) => LookupResult::Register(self.register(3)?),
        };
        Some(Step::Lookup {
            key: self.register(2)?,
            set: text(find(self.0, 1)?).to_vec(),
            // NFT_LOOKUP_F_INV
            is_inverted: self.number(5).unwrap_or(0) & 1 != 0,
            result,
        })
    }

    fn immediate(&self) -> Option<Step> {
        let data = find(self.0, 2)?;
        match find(data, NFTA_DATA_VERDICT) {
            Some(verdict) => Verdict::parse(verdict).map(Step::Verdict),
            None => Some(Step::Constant { to: self.register(1)?, value: self.value(2)? }),
        }
    }

    fn xt_match(&self) -> Option<Step> {
        let info = find(self.0, 3).unwrap_or_default();
        let port = |at: usize| {
            Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().expect("two bytes")))
        };
        let (flags, inverted) = match text(find(self.0, 1)?) {
            // option, flg_mask, flg_cmp, invflags
            b"tcp" => (info.get(8..10)? != [0, 0], *info.get(11)?),
            b"udp" => (false, *info.get(8)?),
            b"comment" => return Some(Step::Nothing),
            _ => return None,
        };
        // XT_TCP_INV_DSTPT, XT_UDP_INV_DSTPT
        const INVERTED_DESTINATION: u8 = 0x2;
        let any_source = port(0)? == 0 && port(2)? == u16::MAX;
        Some(Step::XtPorts {
            low: port(4)?,
            high: port(6)?,
            is_inverted: inverted & INVERTED_DESTINATION != 0,
            asks_for_more: flags || !any_source || inverted & !INVERTED_DESTINATION != 0,
        })
    }
}

impl Verdict {
    fn parse(attributes: &[u8]) -> Option<Self> {
        let chain = || find(attributes, NFTA_VERDICT_CHAIN).map(|name| text(name).to_vec());
        Some(match number(find(attributes, NFTA_VERDICT_CODE)?)?.cast_signed() {
            -1 => Self::Continue,
            -2 => Self::Break,
            -3 => Self::Jump(chain()?),
            -4 => Self::Goto(chain()?),
            -5 => Self::Return,
            _ => Self::Final,
        })
    }
}

impl Set {
    /// Reads a set without its elements, and its name.
    pub(super) fn parse(attributes: &[u8]) -> Option<(Vec<u8>, Self)> {
        let flags = find(attributes, NFTA_SET_FLAGS).and_then(number).unwrap_or(0);
        let name = text(find(attributes, NFTA_SET_NAME)?).to_vec();
        Some((name, Self { has_intervals: flags & INTERVAL != 0, elements: Vec::new() }))
    }
}

impl Element {
    /// Reads the elements of one message.
    pub(super) fn parse_list(attributes: &[u8]) -> Vec<Self> {
        let list = find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
        Attributes::new(list).map(|(_, element)| Self::parse(element)).collect()
    }

    fn parse(attributes: &[u8]) -> Self {
        let flags = find(attributes, NFTA_SET_ELEM_FLAGS).and_then(number).unwrap_or(0);
        let key = find(attributes, NFTA_SET_ELEM_KEY).and_then(|key| find(key, NFTA_DATA_VALUE));
        let data = find(attributes, NFTA_SET_ELEM_DATA);
        Self {
            key: key.unwrap_or_default().to_vec(),
            is_end: flags & INTERVAL_END != 0,
            is_catch_all: flags & CATCHALL != 0,
            has_key_end: find(attributes, NFTA_SET_ELEM_KEY_END).is_some(),
            verdict: data.and_then(|data| find(data, NFTA_DATA_VERDICT)).and_then(Verdict::parse),
        }
    }

    /// By key; where one interval ends and the next begins, the end comes first.
    pub(super) fn order(&self) -> (&[u8], bool) {
        (&self.key, !self.is_end)
    }
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::new(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A number in network order.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// Text without the zero byte at its end.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}
