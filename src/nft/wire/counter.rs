//! Counters, which are objects of a table beside its chains: rules refer to them by name, so what
//! they have counted outlives the rules.

use super::attribute::{nest, put, put_name, put_string, put_u32};
use crate::netlink::Attributes;
use crate::ruleset::{CounterName, CounterValue, TableName};

/// `NFTA_OBJ_*` (include/uapi/linux/netfilter/nf_tables.h).
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;

/// `NFTA_COUNTER_*`.
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// `NFT_OBJECT_COUNTER`.
pub(in crate::nft) const OBJECT_COUNTER: u32 = 1;

/// Writes the body of the message that makes a counter, which begins with `value`.
pub(in crate::nft) fn put_new(
    buffer: &mut Vec<u8>,
    table: &TableName,
    name: CounterName,
    value: CounterValue,
) {
    put_reference(buffer, table, name);
    nest(buffer, NFTA_OBJ_DATA, |buffer| {
        put(buffer, NFTA_COUNTER_BYTES, &value.bytes.to_be_bytes());
        put(buffer, NFTA_COUNTER_PACKETS, &value.connections.to_be_bytes());
    });
}

/// Writes the body of the message that removes a counter.
pub(in crate::nft) fn put_delete(buffer: &mut Vec<u8>, table: &TableName, name: CounterName) {
    put_reference(buffer, table, name);
}

fn put_reference(buffer: &mut Vec<u8>, table: &TableName, name: CounterName) {
    put_string(buffer, NFTA_OBJ_TABLE, table.as_str());
    put_name(buffer, NFTA_OBJ_NAME, name);
    put_u32(buffer, NFTA_OBJ_TYPE, OBJECT_COUNTER);
}

/// An object of a table as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) struct Object {
    pub(in crate::nft) table: String,
    pub(in crate::nft) name: String,
    /// What it has counted; `None` for an object that is no counter.
    pub(in crate::nft) value: Option<CounterValue>,
}

impl Object {
    /// Reads one message of a dump (behind the netfilter header); `None` if it lacks a part.
    pub(in crate::nft) fn parse(attributes: &[u8]) -> Option<Self> {
        let text = |kind| {
            let bytes = find(attributes, kind)?.strip_suffix(&[0])?;
            String::from_utf8(bytes.to_vec()).ok()
        };
        let kind = u32::from_be_bytes(find(attributes, NFTA_OBJ_TYPE)?.try_into().ok()?);
        let value = match kind {
            OBJECT_COUNTER => Some(parse_tally(find(attributes, NFTA_OBJ_DATA)?)?),
            _ => None,
        };
        Some(Self { table: text(NFTA_OBJ_TABLE)?, name: text(NFTA_OBJ_NAME)?, value })
    }

    /// The counter of ours that it is; `None` for any other object.
    pub(in crate::nft) fn counter(&self) -> Option<(CounterName, CounterValue)> {
        Some((CounterName::parse(&self.name)?, self.value?))
    }
}

fn parse_tally(data: &[u8]) -> Option<CounterValue> {
    let number = |kind| Some(u64::from_be_bytes(find(data, kind)?.try_into().ok()?));
    Some(CounterValue {
        connections: number(NFTA_COUNTER_PACKETS)?,
        bytes: number(NFTA_COUNTER_BYTES)?,
    })
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::new(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
