//! The expressions of a rule, the virtual machine's instructions, as far as our rules use them.
//!
//! netlink-packet-netfilter has types for some; `hash`, `redir`, `fib` and `counter` go through its
//! `Expressions::Other`. Names of attributes are those of include/uapi/linux/netfilter/nf_tables.h.

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register as WireRegister, Verdict as WireVerdict,
    VerdictAttribute,
};

const NFTA_HASH_SREG: u16 = 1;
const NFTA_HASH_DREG: u16 = 2;
const NFTA_HASH_LEN: u16 = 3;
const NFTA_HASH_MODULUS: u16 = 4;
const NFTA_HASH_SEED: u16 = 5;
const NFTA_HASH_OFFSET: u16 = 6;
const NFTA_HASH_TYPE: u16 = 7;
const NFT_HASH_JENKINS: u32 = 0;

const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_REG_PROTO_MAX: u16 = 2;
const NFTA_REDIR_FLAGS: u16 = 3;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the register holds a port.
const PORT_SPECIFIED: u32 = 1 << 1;

const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
/// `NFT_FIB_RESULT_ADDRTYPE`.
const ADDRESS_TYPE: u32 = 3;
/// `NFTA_FIB_F_DADDR`.
const DESTINATION: u32 = 1 << 1;

/// `NFT_BITWISE_BOOL`: the operation that kernels before 5.6 knew, and did not name.
const BITWISE_BOOL: u32 = 0;

/// `NF_DROP`.
const DROP: u32 = 0;

/// A data register, as the number (0 to 15) of its first 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Register(pub(super) u32);

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

    fn wire(self) -> WireRegister {
        WireRegister::from(self.number())
    }

    fn from_wire(register: WireRegister) -> Option<Self> {
        Self::from_number(register.into())
    }
}

/// The header that a payload expression counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Network,
    Transport,
}

/// What becomes of the result of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: a set. The rule goes on if the key is in it.
    Continue,
    /// It is a verdict, which is carried out.
    Verdict,
    /// It goes into a register.
    Load(Register),
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    LoadMeta {
        key: MetaKey,
        to: Register,
    },
    Equal {
        register: Register,
        value: Vec<u8>,
    },
    LoadPayload {
        header: Header,
        offset: u32,
        length: u32,
        to: Register,
    },
    And {
        register: Register,
        mask: Vec<u8>,
    },
    Hash {
        from: Register,
        to: Register,
        length: u32,
        modulus: u32,
        seed: u32,
    },
    /// `id` names a set that the same transaction makes.
    Lookup {
        key: Register,
        set: String,
        id: Option<u32>,
        found: Found,
    },
    /// The type of the destination address in the routing table.
    LoadAddressType {
        to: Register,
    },
    Counter,
    Redirect {
        port: Register,
    },
    Goto {
        chain: String,
    },
    Drop,
}

impl Expression {
    /// As an element of `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn emit(self) -> ListAttribute<ExpressionAttribute> {
        let expressions = match self {
            Self::LoadMeta { key, to } => {
                Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to.wire())])
            }
            Self::Equal { register, value } => Expressions::Cmp(vec![
                Cmp::SourceRegister(register.wire()),
                Cmp::Op(Operator::Equal),
                Cmp::Data(DataAttribute::Value(value)),
            ]),
            Self::LoadPayload { header, offset, length, to } => Expressions::Payload(vec![
                Payload::DestinationRegister(to.wire()),
                Payload::Base(match header {
                    Header::Network => 1,
                    Header::Transport => 2,
                }),
                Payload::Offset(offset),
                Payload::Len(length),
            ]),
            Self::And { register, mask } => Expressions::Bitwise(vec![
                Bitwise::SourceRegister(register.wire()),
                Bitwise::DestinationRegister(register.wire()),
                Bitwise::Length(u32::try_from(mask.len()).expect("an address is 16 bytes at most")),
                Bitwise::Op(BITWISE_BOOL),
                Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
                Bitwise::Mask(DataAttribute::Value(mask)),
            ]),
            Self::Lookup { key, set, id, found } => {
                let mut lookup = vec![Lookup::Set(set), Lookup::SourceRegister(key.wire())];
                match found {
                    Found::Continue => {}
                    Found::Verdict => {
                        lookup.push(Lookup::DestinationRegister(WireRegister::Verdict));
                    }
                    Found::Load(to) => lookup.push(Lookup::DestinationRegister(to.wire())),
                }
                lookup.extend(id.map(Lookup::SetId));
                Expressions::Lookup(lookup)
            }
            Self::Hash { from, to, length, modulus, seed } => other(
                "hash",
                &[
                    (NFTA_HASH_SREG, from.number()),
                    (NFTA_HASH_DREG, to.number()),
                    (NFTA_HASH_LEN, length),
                    (NFTA_HASH_MODULUS, modulus),
                    (NFTA_HASH_SEED, seed),
                    (NFTA_HASH_OFFSET, 0),
                    (NFTA_HASH_TYPE, NFT_HASH_JENKINS),
                ],
            ),
            Self::LoadAddressType { to } => other(
                "fib",
                &[
                    (NFTA_FIB_DREG, to.number()),
                    (NFTA_FIB_RESULT, ADDRESS_TYPE),
                    (NFTA_FIB_FLAGS, DESTINATION),
                ],
            ),
            Self::Counter => other("counter", &[]),
            Self::Redirect { port } => other(
                "redir",
                &[(NFTA_REDIR_REG_PROTO_MIN, port.number()), (NFTA_REDIR_FLAGS, PORT_SPECIFIED)],
            ),
            Self::Goto { chain } => verdict(vec![
                VerdictAttribute::Code(WireVerdict::Goto),
                VerdictAttribute::Chain(chain),
            ]),
            Self::Drop => verdict(vec![VerdictAttribute::Code(WireVerdict::Other(DROP))]),
        };
        expressions.into()
    }

    /// Reads an element of `NFTA_RULE_EXPRESSIONS`; `None` for what no rule of ours has.
    pub(super) fn parse(element: &ListAttribute<ExpressionAttribute>) -> Option<Self> {
        let ListAttribute::Element(attributes) = element else { return None };
        let data = attributes.iter().find_map(|attribute| match attribute {
            ExpressionAttribute::Data(data) => Some(data),
            _ => None,
        });
        match data {
            // The kernel leaves out the data of an expression that has none.
            None => None,
            Some(Expressions::Meta(meta)) => parse_meta(meta),
            Some(Expressions::Cmp(cmp)) => parse_equal(cmp),
            Some(Expressions::Payload(payload)) => parse_payload(payload),
            Some(Expressions::Bitwise(bitwise)) => parse_and(bitwise),
            Some(Expressions::Lookup(lookup)) => parse_lookup(lookup),
            Some(Expressions::Immediate(immediate)) => parse_verdict(immediate),
            Some(Expressions::Other { expression_type, attributes }) => {
                parse_other(expression_type, attributes)
            }
            Some(_) => None,
        }
    }
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(WireRegister::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
}

/// An expression whose attributes are all 32-bit numbers in network order.
fn other(name: &str, attributes: &[(u16, u32)]) -> Expressions {
    let attribute = |(kind, value): &(u16, u32)| DefaultNla::new(*kind, value.to_be_bytes().into());
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes: attributes.iter().map(attribute).collect(),
    }
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

fn parse_equal(attributes: &[Cmp]) -> Option<Expression> {
    let (mut register, mut value) = (None, None);
    for attribute in attributes {
        match attribute {
            Cmp::SourceRegister(source) => register = Register::from_wire(*source),
            Cmp::Op(Operator::Equal) => {}
            Cmp::Data(DataAttribute::Value(bytes)) => value = Some(bytes.clone()),
            _ => return None,
        }
    }
    Some(Expression::Equal { register: register?, value: value? })
}

fn parse_payload(attributes: &[Payload]) -> Option<Expression> {
    let (mut header, mut offset, mut length, mut to) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            Payload::DestinationRegister(register) => to = Register::from_wire(*register),
            Payload::Base(1) => header = Some(Header::Network),
            Payload::Base(2) => header = Some(Header::Transport),
            Payload::Offset(value) => offset = Some(*value),
            Payload::Len(value) => length = Some(*value),
            _ => return None,
        }
    }
    Some(Expression::LoadPayload { header: header?, offset: offset?, length: length?, to: to? })
}

fn parse_and(attributes: &[Bitwise]) -> Option<Expression> {
    let (mut from, mut to, mut and, mut xor) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            Bitwise::SourceRegister(register) => from = Register::from_wire(*register),
            Bitwise::DestinationRegister(register) => to = Register::from_wire(*register),
            Bitwise::Mask(DataAttribute::Value(bytes)) => and = Some(bytes.clone()),
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
    let (mut key, mut set, mut found) = (None, None, Found::Continue);
    for attribute in attributes {
        match attribute {
            Lookup::Set(name) => set = Some(name.clone()),
            Lookup::SourceRegister(register) => key = Register::from_wire(*register),
            Lookup::DestinationRegister(WireRegister::Verdict) => found = Found::Verdict,
            Lookup::DestinationRegister(to) => found = Found::Load(Register::from_wire(*to)?),
            // NFT_LOOKUP_F_INV would turn the lookup round.
            Lookup::Flags(0) => {}
            _ => return None,
        }
    }
    Some(Expression::Lookup { key: key?, set: set?, id: None, found })
}

fn parse_verdict(attributes: &[Immediate]) -> Option<Expression> {
    let verdict = attributes.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    })?;
    match verdict.as_slice() {
        [VerdictAttribute::Code(WireVerdict::Goto), VerdictAttribute::Chain(chain)] => {
            Some(Expression::Goto { chain: chain.clone() })
        }
        [VerdictAttribute::Code(WireVerdict::Other(DROP))] => Some(Expression::Drop),
        _ => None,
    }
}

fn parse_other(name: &str, attributes: &[DefaultNla]) -> Option<Expression> {
    let number = |kind| number_of(attributes, kind);
    let register = |kind| Register::from_number(number(kind)?);
    match name {
        "counter" => Some(Expression::Counter),
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
        "fib"
            if number(NFTA_FIB_RESULT)? == ADDRESS_TYPE
                && number(NFTA_FIB_FLAGS)? == DESTINATION =>
        {
            Some(Expression::LoadAddressType { to: register(NFTA_FIB_DREG)? })
        }
        _ => None,
    }
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
