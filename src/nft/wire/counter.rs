//! Counters, which are objects of a table beside its chains: rules refer to them by name, so what
//! they have counted outlives the rules.

use super::put_name;
use crate::netlink::Attributes;
use crate::netlink::attribute::{nest, put, put_text, put_u32};
use crate::ruleset::{CounterName, CounterValue, TableName};

/// `NFTA_OBJ_*` (include/uapi/linux/netfilter/nf_tables.h).
const NFTA_OBJ_TABLE: u16 = super::message::TABLE;
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
    put_text(buffer, NFTA_OBJ_TABLE, table.as_str());
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
    /// Reads the attributes of a message; `None` if it lacks a part.
    pub(in crate::nft) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let value = match attributes.u32(NFTA_OBJ_TYPE)? {
            OBJECT_COUNTER => Some(parse_value(attributes.nested(NFTA_OBJ_DATA)?)?),
            _ => None,
        };
        let table = attributes.text(NFTA_OBJ_TABLE)?.to_owned();
        Some(Self { table, name: attributes.text(NFTA_OBJ_NAME)?.to_owned(), value })
    }

    /// The counter of ours that it is; `None` for any other object.
    pub(in crate::nft) fn counter(&self) -> Option<(CounterName, CounterValue)> {
        Some((CounterName::parse(&self.name)?, self.value?))
    }
}

fn parse_value(data: Attributes<'_>) -> Option<CounterValue> {
    let connections = data.u64(NFTA_COUNTER_PACKETS)?;
    Some(CounterValue { connections, bytes: data.u64(NFTA_COUNTER_BYTES)? })
}
