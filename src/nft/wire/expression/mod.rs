//! The expressions of a rule, the instructions of the kernel's virtual machine, as far as our rules use
//! them: a file for each kind, which writes and reads it.
//!
//! Names of attributes are those of include/uapi/linux/netfilter/nf_tables.h.

mod bitwise;
mod cmp;
mod ct;
mod dup;
mod fib;
mod fwd;
mod hash;
mod immediate;
mod lookup;
mod meta;
mod nat;
mod numgen;
mod objref;
mod payload;
mod redir;
mod socket;
mod tproxy;

use super::data::{Data, Register};
use crate::netlink::Attributes;
use crate::netlink::attribute::{nest, put_text};
use crate::plan::Port;
use crate::ruleset::Name;

pub(in crate::nft) use bitwise::{
    NFTA_BITWISE_DREG, NFTA_BITWISE_LEN, NFTA_BITWISE_MASK, NFTA_BITWISE_OP, NFTA_BITWISE_SREG,
    NFTA_BITWISE_XOR,
};
pub(in crate::nft) use cmp::{NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG, Relation};
pub(in crate::nft) use fib::{
    ADDRESS_TYPE, DESTINATION, NFTA_FIB_DREG, NFTA_FIB_FLAGS, NFTA_FIB_RESULT,
};
pub(in crate::nft) use immediate::{NFTA_IMMEDIATE_DATA, NFTA_IMMEDIATE_DREG};
pub(in crate::nft) use lookup::{
    LookupResult, NFTA_LOOKUP_DREG, NFTA_LOOKUP_FLAGS, NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG,
};
pub(in crate::nft) use meta::{MetaKey, NFTA_META_DREG, NFTA_META_KEY, NFTA_META_SREG};
pub(in crate::nft) use payload::{
    Checksum, Header, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET,
};

/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
pub(in crate::nft) const NFTA_LIST_ELEM: u16 = 1;
pub(in crate::nft) const NFTA_EXPR_NAME: u16 = 1;
pub(in crate::nft) const NFTA_EXPR_DATA: u16 = 2;

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) enum Expression {
    /// Loads something that the kernel knows of the packet beside its bytes.
    LoadMeta { key: MetaKey, to: Register },
    /// Ends the rule unless the register compares so.
    Compare { register: Register, relation: Relation, value: Data },
    /// Loads bytes of a header.
    LoadPayload { header: Header, offset: u32, length: u32, to: Register },
    /// Clears the bits of the register that are not in the mask.
    And { register: Register, mask: Data },
    /// The same, and then flips these bits.
    AndThenFlip { register: Register, mask: Data, bits: Data },
    /// The Jenkins hash of a register, scaled to a modulus.
    Hash { from: Register, to: Register, length: u32, modulus: u32, seed: u32 },
    /// A number below a modulus that the kernel draws.
    Random { to: Register, modulus: u32 },
    /// Looks a key up in a set or map. Ends the rule where it is not there.
    Lookup { key: Register, set: Name, result: LookupResult },
    /// Loads the type that the routing table gives the destination address.
    LoadAddressType { to: Register },
    /// Counts in the rule itself.
    Counter,
    /// Counts in a counter that is an object of the table.
    CountIn { counter: Name },
    /// Loads a constant port.
    LoadPort { port: Port, to: Register },
    /// Loads a constant address, or the index of a device.
    LoadAddress { address: Data, to: Register },
    /// Writes a register into a header, and corrects the checksums.
    Store { from: Register, header: Header, offset: u32, length: u32, checksum: Checksum },
    /// Loads the direction of the packet in its connection: 0 is the original one, that of who connects.
    LoadDirection { to: Register },
    /// Loads whether the socket that the packet would reach has `IP_TRANSPARENT`. Ends the rule where
    /// there is no socket.
    LoadTransparent { to: Register },
    /// Gives the packet to the socket of its connection, else to the one that listens on this port.
    /// Ends the rule where there is none.
    Tproxy { port: Register },
    /// Translates the destination to this host and the port in a register.
    Redirect { port: Register },
    /// Translates the destination to the address and the port in two registers, in packets of this
    /// `NFPROTO`.
    TranslateDestination { family: u8, address: Register, port: Register },
    /// Loads the state of the packet's connection (`NF_CT_STATE_BIT`).
    LoadConnectionState { to: Register },
    /// Sends the packet out by the device whose index is in a register, to the neighbour whose address of this
    /// `NFPROTO` is in another one. Nothing else becomes of it.
    Forward { device: Register, address: Register, family: u8 },
    /// Sends a copy of the packet out by the device whose index is in a register, to the address in another one.
    Duplicate { address: Register, device: Register },
    /// Goes on in another chain, and does not come back.
    Goto { chain: String },
    /// Drops the packet.
    Drop,
    /// Accepts the packet: no later rule of the base chain sees it.
    Accept,
}

impl Expression {
    /// Writes it as an element of `NFTA_RULE_EXPRESSIONS`.
    pub(in crate::nft) fn emit(&self, buffer: &mut Vec<u8>) {
        put(buffer, self.name(), |buffer| self.emit_data(buffer));
    }

    /// The name by which the kernel knows it.
    const fn name(&self) -> &'static str {
        match self {
            Self::LoadMeta { .. } => "meta",
            Self::Compare { .. } => "cmp",
            Self::LoadPayload { .. } | Self::Store { .. } => "payload",
            Self::And { .. } | Self::AndThenFlip { .. } => "bitwise",
            Self::Hash { .. } => "hash",
            Self::Random { .. } => "numgen",
            Self::Lookup { .. } => "lookup",
            Self::LoadAddressType { .. } => "fib",
            Self::Counter => "counter",
            Self::CountIn { .. } => "objref",
            Self::LoadPort { .. }
            | Self::LoadAddress { .. }
            | Self::Goto { .. }
            | Self::Drop
            | Self::Accept => "immediate",
            Self::LoadDirection { .. } | Self::LoadConnectionState { .. } => "ct",
            Self::Forward { .. } => "fwd",
            Self::Duplicate { .. } => "dup",
            Self::LoadTransparent { .. } => "socket",
            Self::Tproxy { .. } => "tproxy",
            Self::Redirect { .. } => "redir",
            Self::TranslateDestination { .. } => "nat",
        }
    }

    fn emit_data(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::LoadMeta { key, to } => meta::emit(buffer, *key, *to),
            Self::Compare { register, relation, value } => {
                cmp::emit(buffer, *register, *relation, value);
            }
            Self::LoadPayload { header, offset, length, to } => {
                payload::emit_load(buffer, *header, *offset, *length, *to);
            }
            Self::Store { from, header, offset, length, checksum } => {
                payload::emit_store(buffer, *from, *header, *offset, *length, *checksum);
            }
            Self::And { register, mask } => bitwise::emit(buffer, *register, mask, None),
            Self::AndThenFlip { register, mask, bits } => {
                bitwise::emit(buffer, *register, mask, Some(bits));
            }
            Self::Random { to, modulus } => numgen::emit(buffer, *to, *modulus),
            Self::Hash { from, to, length, modulus, seed } => {
                hash::emit(buffer, *from, *to, *length, *modulus, *seed);
            }
            Self::Lookup { key, set, result } => lookup::emit(buffer, *key, *set, *result),
            Self::LoadAddressType { to } => fib::emit(buffer, *to),
            Self::Counter => {}
            Self::CountIn { counter } => objref::emit(buffer, *counter),
            Self::LoadPort { port, to } => {
                immediate::emit(buffer, *to, &port.number().to_be_bytes());
            }
            Self::LoadAddress { address, to } => immediate::emit(buffer, *to, address.as_bytes()),
            Self::LoadDirection { to } => ct::emit(buffer, *to),
            Self::LoadTransparent { to } => socket::emit(buffer, *to),
            Self::Tproxy { port } => tproxy::emit(buffer, *port),
            Self::Redirect { port } => redir::emit(buffer, *port),
            Self::TranslateDestination { family, address, port } => {
                nat::emit(buffer, *family, *address, *port);
            }
            Self::LoadConnectionState { to } => ct::emit_state(buffer, *to),
            Self::Forward { device, address, family } => {
                fwd::emit(buffer, *device, *address, *family);
            }
            Self::Duplicate { address, device } => dup::emit(buffer, *address, *device),
            Self::Goto { chain } => immediate::emit_goto(buffer, chain),
            Self::Drop => immediate::emit_verdict(buffer, immediate::DROP),
            Self::Accept => immediate::emit_verdict(buffer, immediate::ACCEPT),
        }
    }

    /// Reads the list `NFTA_RULE_EXPRESSIONS`; `None` if there is one in it that no rule of ours has.
    pub(in crate::nft) fn parse_list(list: &[u8]) -> Option<Vec<Self>> {
        Attributes::whole(list)?.into_iter().map(|(_, element)| Self::parse(element)).collect()
    }

    /// Reads an element of `NFTA_RULE_EXPRESSIONS`; `None` for what no rule of ours has.
    fn parse(element: &[u8]) -> Option<Self> {
        let element = Attributes::whole(element)?;
        // The kernel gives none for an expression without attributes.
        let data = Attributes::whole(element.get(NFTA_EXPR_DATA)?)?;
        match element.text(NFTA_EXPR_NAME)? {
            "meta" => meta::parse(data),
            "cmp" => cmp::parse(data),
            "payload" => payload::parse(data),
            "bitwise" => bitwise::parse(data),
            "lookup" => lookup::parse(data),
            "immediate" => immediate::parse(data),
            "counter" => Some(Self::Counter),
            "objref" => objref::parse(data),
            "hash" => hash::parse(data),
            "numgen" => numgen::parse(data),
            "redir" => redir::parse(data),
            "nat" => nat::parse(data),
            "ct" => ct::parse(data),
            "fwd" => fwd::parse(data),
            "dup" => dup::parse(data),
            "socket" => socket::parse(data),
            "tproxy" => tproxy::parse(data),
            "fib" => fib::parse(data),
            _ => None,
        }
    }
}

/// Writes an expression of this name, with what `data` writes, as an element of
/// `NFTA_RULE_EXPRESSIONS`.
pub(in crate::nft) fn put(buffer: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nest(buffer, NFTA_LIST_ELEM, |buffer| {
        put_text(buffer, NFTA_EXPR_NAME, name);
        nest(buffer, NFTA_EXPR_DATA, data);
    });
}
