//! The expressions of a rule, the virtual machine's instructions, as far as our rules use them.
//!
//! They are read by netlink-packet-netfilter, which keeps `hash`, `redir`, `fib` and `counter` as
//! `Expressions::Other`, and written by hand (see [`super::attribute`]). Names of attributes are
//! those of include/uapi/linux/netfilter/nf_tables.h.

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register as WireRegister, Verdict as WireVerdict,
    VerdictAttribute,
};

use super::attribute::{nest, put_data, put_name, put_string, put_u32};
use super::counter::OBJECT_COUNTER;
use crate::plan::Port;
use crate::ruleset::Name;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;

const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;

const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;

const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_BITWISE_OP: u16 = 6;
/// `NFT_BITWISE_BOOL`: the operation that kernels before 5.6 knew, and did not name.
const BITWISE_BOOL: u32 = 0;

const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;

const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;

const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
/// `NF_DROP`, `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

const NFTA_HASH_SREG: u16 = 1;
const NFTA_HASH_DREG: u16 = 2;
const NFTA_HASH_LEN: u16 = 3;
const NFTA_HASH_MODULUS: u16 = 4;
const NFTA_HASH_SEED: u16 = 5;
const NFTA_HASH_OFFSET: u16 = 6;
const NFTA_HASH_TYPE: u16 = 7;
const NFT_HASH_JENKINS: u32 = 0;

const NFTA_OBJREF_IMM_TYPE: u16 = 1;
const NFTA_OBJREF_IMM_NAME: u16 = 2;

const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_REG_PROTO_MAX: u16 = 2;
const NFTA_REDIR_FLAGS: u16 = 3;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the register holds a port.
const PORT_SPECIFIED: u32 = 1 << 1;

const NFTA_PAYLOAD_SREG: u16 = 5;
const NFTA_PAYLOAD_CSUM_TYPE: u16 = 6;
const NFTA_PAYLOAD_CSUM_OFFSET: u16 = 7;
const NFTA_PAYLOAD_CSUM_FLAGS: u16 = 8;
/// `NFT_PAYLOAD_CSUM_NONE`, `NFT_PAYLOAD_CSUM_INET`.
const NO_CHECKSUM: u32 = 0;
const INTERNET_CHECKSUM: u32 = 1;
/// `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`.
const PSEUDO_HEADER: u32 = 1;

const NFTA_SOCKET_KEY: u16 = 1;
const NFTA_SOCKET_DREG: u16 = 2;
/// `NFT_SOCKET_TRANSPARENT`.
const TRANSPARENT: u32 = 0;

const NFTA_TPROXY_FAMILY: u16 = 1;
const NFTA_TPROXY_REG_PORT: u16 = 3;
/// `NFPROTO_UNSPEC`: of both families.
const BOTH_FAMILIES: u32 = 0;

const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
/// `NFT_FIB_RESULT_ADDRTYPE`.
const ADDRESS_TYPE: u32 = 3;
/// `NFTA_FIB_F_DADDR`.
const DESTINATION: u32 = 1 << 1;

/// A data register, as the number (0 to 15) of its first 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct Register(pub(in crate::nft) u32);

impl Register {
    /// The name that the kernel gives it: one of the four of 128 bits where it begins there
    /// (`NFT_REG_1` is 1), else one of the sixteen of 32 bits (`NFT_REG32_00` is 8).
    const fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + self.0 / 4 } else { 8 + self.0 }
    }

    fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number - 1) * 4)),
            8..=23 => Some(Self(number - 8)),
            _ => None,
        }
    }

    fn from_wire(register: WireRegister) -> Option<Self> {
        Self::from_number(register.into())
    }
}

/// The header that a payload expression counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum Header {
    /// `NFT_PAYLOAD_NETWORK_HEADER`.
    Network = 1,
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`.
    Transport = 2,
}

/// How a register has to stand to a value for the rule to go on, compared as `memcmp` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum Relation {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
}

impl Relation {
    const ALL: [Self; 4] = [Self::Equal, Self::NotEqual, Self::AtLeast, Self::AtMost];

    const fn operator(self) -> Operator {
        match self {
            Self::Equal => Operator::Equal,
            Self::NotEqual => Operator::NotEqual,
            Self::AtLeast => Operator::GreatherThanEqual,
            Self::AtMost => Operator::LessThanEqual,
        }
    }
}

/// What becomes of the result of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum LookupResult {
    /// Nothing: a set. The rule goes on if the key is in it.
    Continue,
    /// It is a verdict, which is carried out.
    Verdict,
    /// It goes into a register.
    Load(Register),
}

/// Up to 16 bytes, as many as an address has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct Data {
    bytes: [u8; Self::MAX_LEN],
    length: usize,
}

impl Data {
    const MAX_LEN: usize = 16;

    /// These bytes; `None` for more than 16.
    pub(in crate::nft) fn new(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MAX_LEN];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self { bytes, length: from.len() })
    }

    pub(in crate::nft) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const LEN: usize> From<[u8; LEN]> for Data {
    fn from(bytes: [u8; LEN]) -> Self {
        const { assert!(LEN <= Self::MAX_LEN, "longer than an address") };
        Self::new(&bytes).expect("checked at compile time")
    }
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) enum Expression {
    LoadMeta {
        key: MetaKey,
        to: Register,
    },
    Compare {
        register: Register,
        relation: Relation,
        value: Data,
    },
    LoadPayload {
        header: Header,
        offset: u32,
        length: u32,
        to: Register,
    },
    And {
        register: Register,
        mask: Data,
    },
    Hash {
        from: Register,
        to: Register,
        length: u32,
        modulus: u32,
        seed: u32,
    },
    Lookup {
        key: Register,
        set: Name,
        result: LookupResult,
    },
    /// The type of the destination address in the routing table.
    LoadAddressType {
        to: Register,
    },
    Counter,
    /// Counts in a counter that is an object of the table.
    CountIn {
        counter: Name,
    },
    LoadPort {
        port: Port,
        to: Register,
    },
    /// An address.
    LoadAddress {
        address: Data,
        to: Register,
    },
    /// Writes into a header, and corrects the checksums.
    Store {
        from: Register,
        header: Header,
        offset: u32,
        length: u32,
        checksum: Checksum,
    },
    /// Whether the socket that the packet would reach has `IP_TRANSPARENT`. The rule ends where there
    /// is no socket.
    LoadTransparent {
        to: Register,
    },
    /// Gives the packet to the socket that its connection has, else to the one that listens on this
    /// port. The rule ends where there is none.
    Tproxy {
        port: Register,
    },
    Redirect {
        port: Register,
    },
    Drop,
    Accept,
}

/// The checksums over what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct Checksum {
    /// Where the header has its own; `None` for one that has none.
    pub(in crate::nft) offset: Option<u32>,
    /// Whether that of the transport header counts it in.
    pub(in crate::nft) in_pseudo_header: bool,
}

impl Expression {
    /// Writes it as an element of `NFTA_RULE_EXPRESSIONS`.
    pub(in crate::nft) fn emit(&self, buffer: &mut Vec<u8>) {
        nest(buffer, NFTA_LIST_ELEM, |buffer| {
            put_string(buffer, NFTA_EXPR_NAME, self.name());
            nest(buffer, NFTA_EXPR_DATA, |buffer| self.emit_data(buffer));
        });
    }

    /// The name by which the kernel knows it.
    const fn name(&self) -> &'static str {
        match self {
            Self::LoadMeta { .. } => "meta",
            Self::Compare { .. } => "cmp",
            Self::LoadPayload { .. } | Self::Store { .. } => "payload",
            Self::And { .. } => "bitwise",
            Self::Hash { .. } => "hash",
            Self::Lookup { .. } => "lookup",
            Self::LoadAddressType { .. } => "fib",
            Self::Counter => "counter",
            Self::CountIn { .. } => "objref",
            Self::LoadPort { .. } | Self::LoadAddress { .. } | Self::Drop | Self::Accept => {
                "immediate"
            }
            Self::LoadTransparent { .. } => "socket",
            Self::Tproxy { .. } => "tproxy",
            Self::Redirect { .. } => "redir",
        }
    }

    fn emit_data(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::LoadMeta { key, to } => {
                put_u32(buffer, NFTA_META_KEY, (*key).into());
                put_u32(buffer, NFTA_META_DREG, to.number());
            }
            Self::Compare { register, relation, value } => {
                put_u32(buffer, NFTA_CMP_SREG, register.number());
                put_u32(buffer, NFTA_CMP_OP, relation.operator().into());
                put_data(buffer, NFTA_CMP_DATA, value.as_bytes());
            }
            Self::LoadPayload { header, offset, length, to } => {
                put_u32(buffer, NFTA_PAYLOAD_DREG, to.number());
                put_u32(buffer, NFTA_PAYLOAD_BASE, *header as u32);
                put_u32(buffer, NFTA_PAYLOAD_OFFSET, *offset);
                put_u32(buffer, NFTA_PAYLOAD_LEN, *length);
            }
            Self::And { register, mask } => {
                let mask = mask.as_bytes();
                let length = u32::try_from(mask.len()).expect("an address is 16 bytes at most");
                put_u32(buffer, NFTA_BITWISE_SREG, register.number());
                put_u32(buffer, NFTA_BITWISE_DREG, register.number());
                put_u32(buffer, NFTA_BITWISE_LEN, length);
                put_u32(buffer, NFTA_BITWISE_OP, BITWISE_BOOL);
                put_data(buffer, NFTA_BITWISE_MASK, mask);
                put_data(buffer, NFTA_BITWISE_XOR, &[0; Data::MAX_LEN][..mask.len()]);
            }
            Self::Hash { from, to, length, modulus, seed } => {
                put_u32(buffer, NFTA_HASH_SREG, from.number());
                put_u32(buffer, NFTA_HASH_DREG, to.number());
                put_u32(buffer, NFTA_HASH_LEN, *length);
                put_u32(buffer, NFTA_HASH_MODULUS, *modulus);
                put_u32(buffer, NFTA_HASH_SEED, *seed);
                put_u32(buffer, NFTA_HASH_OFFSET, 0);
                put_u32(buffer, NFTA_HASH_TYPE, NFT_HASH_JENKINS);
            }
            Self::Lookup { key, set, result } => {
                put_name(buffer, NFTA_LOOKUP_SET, *set);
                put_u32(buffer, NFTA_LOOKUP_SREG, key.number());
                match result {
                    LookupResult::Continue => {}
                    LookupResult::Verdict => put_u32(buffer, NFTA_LOOKUP_DREG, VERDICT_REGISTER),
                    LookupResult::Load(to) => put_u32(buffer, NFTA_LOOKUP_DREG, to.number()),
                }
            }
            Self::LoadAddressType { to } => {
                put_u32(buffer, NFTA_FIB_DREG, to.number());
                put_u32(buffer, NFTA_FIB_RESULT, ADDRESS_TYPE);
                put_u32(buffer, NFTA_FIB_FLAGS, DESTINATION);
            }
            Self::Counter => {}
            Self::CountIn { counter } => {
                put_u32(buffer, NFTA_OBJREF_IMM_TYPE, OBJECT_COUNTER);
                put_name(buffer, NFTA_OBJREF_IMM_NAME, *counter);
            }
            Self::LoadPort { port, to } => {
                put_u32(buffer, NFTA_IMMEDIATE_DREG, to.number());
                put_data(buffer, NFTA_IMMEDIATE_DATA, &port.number().to_be_bytes());
            }
            Self::Redirect { port } => {
                put_u32(buffer, NFTA_REDIR_REG_PROTO_MIN, port.number());
                put_u32(buffer, NFTA_REDIR_FLAGS, PORT_SPECIFIED);
            }
            Self::LoadAddress { address, to } => {
                put_u32(buffer, NFTA_IMMEDIATE_DREG, to.number());
                put_data(buffer, NFTA_IMMEDIATE_DATA, address.as_bytes());
            }
            Self::Store { from, header, offset, length, checksum } => {
                put_u32(buffer, NFTA_PAYLOAD_SREG, from.number());
                put_u32(buffer, NFTA_PAYLOAD_BASE, *header as u32);
                put_u32(buffer, NFTA_PAYLOAD_OFFSET, *offset);
                put_u32(buffer, NFTA_PAYLOAD_LEN, *length);
                let (kind, offset) =
                    checksum.offset.map_or((NO_CHECKSUM, 0), |at| (INTERNET_CHECKSUM, at));
                put_u32(buffer, NFTA_PAYLOAD_CSUM_TYPE, kind);
                put_u32(buffer, NFTA_PAYLOAD_CSUM_OFFSET, offset);
                let flags = if checksum.in_pseudo_header { PSEUDO_HEADER } else { 0 };
                put_u32(buffer, NFTA_PAYLOAD_CSUM_FLAGS, flags);
            }
            Self::LoadTransparent { to } => {
                put_u32(buffer, NFTA_SOCKET_KEY, TRANSPARENT);
                put_u32(buffer, NFTA_SOCKET_DREG, to.number());
            }
            Self::Tproxy { port } => {
                put_u32(buffer, NFTA_TPROXY_FAMILY, BOTH_FAMILIES);
                put_u32(buffer, NFTA_TPROXY_REG_PORT, port.number());
            }
            Self::Drop => emit_verdict(buffer, DROP),
            Self::Accept => emit_verdict(buffer, ACCEPT),
        }
    }

    /// Reads an element of `NFTA_RULE_EXPRESSIONS`; `None` for what no rule of ours has.
    pub(in crate::nft) fn parse(element: &ListAttribute<ExpressionAttribute>) -> Option<Self> {
        let ListAttribute::Element(attributes) = element else { return None };
        let data = attributes.iter().find_map(|attribute| match attribute {
            ExpressionAttribute::Data(data) => Some(data),
            _ => None,
        });
        match data {
            // The kernel leaves out the data of an expression that has none.
            None => None,
            Some(Expressions::Meta(meta)) => parse_meta(meta),
            Some(Expressions::Cmp(cmp)) => parse_compare(cmp),
            Some(Expressions::Payload(payload)) => parse_payload(payload),
            Some(Expressions::Bitwise(bitwise)) => parse_and(bitwise),
            Some(Expressions::Lookup(lookup)) => parse_lookup(lookup),
            Some(Expressions::Immediate(immediate)) => parse_immediate(immediate),
            Some(Expressions::Other { expression_type, attributes }) => {
                parse_other(expression_type, attributes)
            }
            Some(_) => None,
        }
    }
}

fn emit_verdict(buffer: &mut Vec<u8>, code: u32) {
    put_u32(buffer, NFTA_IMMEDIATE_DREG, VERDICT_REGISTER);
    nest(buffer, NFTA_IMMEDIATE_DATA, |buffer| {
        nest(buffer, NFTA_DATA_VERDICT, |buffer| {
            put_u32(buffer, NFTA_VERDICT_CODE, code);
        });
    });
}

fn parse_meta(attributes: &[Meta]) -> Option<Expression> {
    let (mut key, mut to) = (None, None);
    for attribute in attributes {
        match attribute {
            Meta::Key(value) => key = Some(*value),
            Meta::DestinationRegister(register) => to = Register::from_wire(*register),
            _ => return None,
        }
    }
    Some(Expression::LoadMeta { key: key?, to: to? })
}

fn parse_compare(attributes: &[Cmp]) -> Option<Expression> {
    let (mut register, mut relation, mut value) = (None, None, None);
    for attribute in attributes {
        match attribute {
            Cmp::SourceRegister(source) => register = Register::from_wire(*source),
            Cmp::Op(operator) => {
                relation = Relation::ALL.into_iter().find(|it| it.operator() == *operator);
            }
            Cmp::Data(DataAttribute::Value(bytes)) => value = Data::new(bytes),
            _ => return None,
        }
    }
    Some(Expression::Compare { register: register?, relation: relation?, value: value? })
}

fn parse_payload(attributes: &[Payload]) -> Option<Expression> {
    let (mut header, mut offset, mut length) = (None, None, None);
    let (mut to, mut from) = (None, None);
    let (mut kind, mut at, mut flags) = (NO_CHECKSUM, 0, 0);
    for attribute in attributes {
        match attribute {
            Payload::DestinationRegister(register) => to = Register::from_wire(*register),
            Payload::SourceRegister(register) => from = Register::from_wire(*register),
            Payload::CsumType(value) => kind = (*value).into(),
            Payload::CsumOffset(value) => at = *value,
            Payload::CsumFlags(value) => flags = value.bits(),
            Payload::Base(1) => header = Some(Header::Network),
            Payload::Base(2) => header = Some(Header::Transport),
            Payload::Offset(value) => offset = Some(*value),
            Payload::Len(value) => length = Some(*value),
            _ => return None,
        }
    }
    let (header, offset, length) = (header?, offset?, length?);
    match (to, from) {
        (Some(to), None) => Some(Expression::LoadPayload { header, offset, length, to }),
        (None, Some(from)) => {
            let checksum = Checksum {
                offset: (kind == INTERNET_CHECKSUM).then_some(at),
                in_pseudo_header: flags == PSEUDO_HEADER,
            };
            Some(Expression::Store { from, header, offset, length, checksum })
        }
        _ => None,
    }
}

fn parse_and(attributes: &[Bitwise]) -> Option<Expression> {
    let (mut from, mut to, mut and, mut xor) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            Bitwise::SourceRegister(register) => from = Register::from_wire(*register),
            Bitwise::DestinationRegister(register) => to = Register::from_wire(*register),
            Bitwise::Mask(DataAttribute::Value(bytes)) => and = Data::new(bytes),
            Bitwise::Xor(DataAttribute::Value(bytes)) => xor = Some(bytes),
            Bitwise::Length(_) | Bitwise::Op(BITWISE_BOOL) => {}
            _ => return None,
        }
    }
    let in_place = from? == to?;
    let no_xor = xor?.iter().all(|byte| *byte == 0);
    (in_place && no_xor).then_some(Expression::And { register: to?, mask: and? })
}

fn parse_lookup(attributes: &[Lookup]) -> Option<Expression> {
    let (mut key, mut set, mut result) = (None, None, LookupResult::Continue);
    for attribute in attributes {
        match attribute {
            Lookup::Set(name) => set = Some(Name::new(name)?),
            Lookup::SourceRegister(register) => key = Register::from_wire(*register),
            Lookup::DestinationRegister(WireRegister::Verdict) => result = LookupResult::Verdict,
            Lookup::DestinationRegister(to) => {
                result = LookupResult::Load(Register::from_wire(*to)?)
            }
            // NFT_LOOKUP_F_INV would turn the lookup round.
            Lookup::Flags(0) => {}
            _ => return None,
        }
    }
    Some(Expression::Lookup { key: key?, set: set?, result })
}

fn parse_immediate(attributes: &[Immediate]) -> Option<Expression> {
    let (mut register, mut data) = (None, None);
    for attribute in attributes {
        match attribute {
            Immediate::DestinationRegister(to) => register = Some(*to),
            Immediate::Data(value) => data = Some(value),
            _ => return None,
        }
    }
    match data? {
        DataAttribute::Verdict(verdict) => parse_verdict(verdict),
        DataAttribute::Value(value) => {
            let to = Register::from_wire(register?)?;
            match value.as_slice().try_into() {
                Ok(port) => {
                    let port = Port::new(u16::from_be_bytes(port))?;
                    Some(Expression::LoadPort { port, to })
                }
                Err(_) => Some(Expression::LoadAddress { address: Data::new(value)?, to }),
            }
        }
        _ => None,
    }
}

fn parse_verdict(verdict: &[VerdictAttribute]) -> Option<Expression> {
    match verdict {
        [VerdictAttribute::Code(WireVerdict::Other(DROP))] => Some(Expression::Drop),
        [VerdictAttribute::Code(WireVerdict::Other(ACCEPT))] => Some(Expression::Accept),
        _ => None,
    }
}

fn parse_other(name: &str, attributes: &[DefaultNla]) -> Option<Expression> {
    let number = |kind| number_of(attributes, kind);
    let register = |kind| Register::from_number(number(kind)?);
    match name {
        "counter" => Some(Expression::Counter),
        "objref" if number(NFTA_OBJREF_IMM_TYPE)? == OBJECT_COUNTER => {
            let counter = name_of(attributes, NFTA_OBJREF_IMM_NAME)?;
            Some(Expression::CountIn { counter })
        }
        "hash"
            if number(NFTA_HASH_OFFSET).unwrap_or(0) == 0
                && number(NFTA_HASH_TYPE)? == NFT_HASH_JENKINS =>
        {
            Some(Expression::Hash {
                from: register(NFTA_HASH_SREG)?,
                to: register(NFTA_HASH_DREG)?,
                length: number(NFTA_HASH_LEN)?,
                modulus: number(NFTA_HASH_MODULUS)?,
                // The kernel tells the seed only if it was given, and ours always are.
                seed: number(NFTA_HASH_SEED)?,
            })
        }
        "redir" if number(NFTA_REDIR_FLAGS)? == PORT_SPECIFIED => {
            let port = register(NFTA_REDIR_REG_PROTO_MIN)?;
            // The kernel tells the upper end of the range too, the same register here.
            let last = register(NFTA_REDIR_REG_PROTO_MAX).unwrap_or(port);
            (last == port).then_some(Expression::Redirect { port })
        }
        "socket" if number(NFTA_SOCKET_KEY)? == TRANSPARENT => {
            Some(Expression::LoadTransparent { to: register(NFTA_SOCKET_DREG)? })
        }
        // An address to look for would be one more attribute.
        "tproxy" if number(NFTA_TPROXY_FAMILY)? == BOTH_FAMILIES && attributes.len() == 2 => {
            Some(Expression::Tproxy { port: register(NFTA_TPROXY_REG_PORT)? })
        }
        "fib"
            if number(NFTA_FIB_RESULT)? == ADDRESS_TYPE
                && number(NFTA_FIB_FLAGS)? == DESTINATION =>
        {
            Some(Expression::LoadAddressType { to: register(NFTA_FIB_DREG)? })
        }
        _ => None,
    }
}

fn name_of(attributes: &[DefaultNla], kind: u16) -> Option<Name> {
    let attribute = attributes.iter().find(|attribute| attribute.kind() == kind)?;
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    Name::new(str::from_utf8(bytes.strip_suffix(&[0])?).ok()?)
}

fn number_of(attributes: &[DefaultNla], kind: u16) -> Option<u32> {
    let attribute = attributes.iter().find(|attribute| attribute.kind() == kind)?;
    let mut bytes = [0; 4];
    if attribute.value_len() != bytes.len() {
        return None;
    }
    attribute.emit_value(&mut bytes);
    Some(u32::from_be_bytes(bytes))
}
