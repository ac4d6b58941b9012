//! Chains (`NFTA_CHAIN_*`, `NFTA_HOOK_*`, include/uapi/linux/netfilter/nf_tables.h).

use super::put_name;
use crate::netlink::Attributes;
use crate::netlink::attribute::{nest, put_text, put_u32};
use crate::ruleset::{BaseChain, ChainName, Hook, TableName};

pub(in crate::nft) const NFTA_CHAIN_TABLE: u16 = super::message::TABLE;
pub(in crate::nft) const NFTA_CHAIN_NAME: u16 = 3;
pub(in crate::nft) const NFTA_CHAIN_HOOK: u16 = 4;
pub(in crate::nft) const NFTA_CHAIN_POLICY: u16 = 5;
pub(in crate::nft) const NFTA_CHAIN_TYPE: u16 = 7;
pub(in crate::nft) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(in crate::nft) const NFTA_HOOK_PRIORITY: u16 = 2;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// Writes the body of the message that makes a chain.
pub(super) fn put_new(buffer: &mut Vec<u8>, table: &TableName, name: ChainName) {
    put_reference(buffer, table, name);
    if let Some(base) = name.base() {
        put_base(buffer, base);
    }
}

/// Writes what makes a chain a base chain.
pub(in crate::nft) fn put_base(
    buffer: &mut Vec<u8>,
    BaseChain { kind, hook, priority }: BaseChain,
) {
    put_text(buffer, NFTA_CHAIN_TYPE, kind);
    put_u32(buffer, NFTA_CHAIN_POLICY, ACCEPT);
    nest(buffer, NFTA_CHAIN_HOOK, |buffer| {
        put_u32(buffer, NFTA_HOOK_HOOKNUM, hook_number(hook));
        put_u32(buffer, NFTA_HOOK_PRIORITY, priority.cast_unsigned());
    });
}

/// Writes the body of the message that removes a chain.
pub(super) fn put_delete(buffer: &mut Vec<u8>, table: &TableName, name: ChainName) {
    put_reference(buffer, table, name);
}

fn put_reference(buffer: &mut Vec<u8>, table: &TableName, name: ChainName) {
    put_text(buffer, NFTA_CHAIN_TABLE, table.as_str());
    put_name(buffer, NFTA_CHAIN_NAME, name);
}

/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`.
const fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    }
}

/// A chain as the kernel lists it, without its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) struct Chain {
    pub(in crate::nft) table: String,
    pub(in crate::nft) name: String,
    /// The chain of ours that it is; `None` if its name, hook, type or policy is not ours.
    pub(in crate::nft) known: Option<ChainName>,
}

impl Chain {
    /// Reads the attributes of a message; `None` if it lacks a part.
    pub(in crate::nft) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let name = attributes.text(NFTA_CHAIN_NAME)?;
        let known = ChainName::parse(name).filter(|known| match known.base() {
            Some(base) => is_base(attributes, base),
            None => is_regular(attributes),
        });
        let table = attributes.text(NFTA_CHAIN_TABLE)?.to_owned();
        Some(Self { table, name: name.to_owned(), known })
    }
}

fn is_regular(attributes: Attributes<'_>) -> bool {
    let of_base = [NFTA_CHAIN_TYPE, NFTA_CHAIN_POLICY, NFTA_CHAIN_HOOK];
    attributes.into_iter().all(|(kind, _)| !of_base.contains(&kind))
}

fn is_base(attributes: Attributes<'_>, BaseChain { kind, hook, priority }: BaseChain) -> bool {
    let Some(entry) = attributes.nested(NFTA_CHAIN_HOOK) else { return false };
    attributes.text(NFTA_CHAIN_TYPE) == Some(kind)
        && attributes.u32(NFTA_CHAIN_POLICY) == Some(ACCEPT)
        && entry.has_only(&[NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY])
        && entry.u32(NFTA_HOOK_HOOKNUM) == Some(hook_number(hook))
        && entry.u32(NFTA_HOOK_PRIORITY) == Some(priority.cast_unsigned())
}
