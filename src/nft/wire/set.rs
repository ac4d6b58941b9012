//! Sets and maps without their elements (`NFTA_SET_*`,
//! include/uapi/linux/netfilter/nf_tables.h).

use super::put_name;
use super::userdata::{self, ByteOrder};
use crate::netlink::Attributes;
use crate::netlink::attribute::{nest, put, put_text, put_u32};
use crate::ruleset::{Elements, Set, SetName, TableName};

pub(in crate::nft) const NFTA_SET_TABLE: u16 = super::message::TABLE;
pub(in crate::nft) const NFTA_SET_NAME: u16 = 2;
pub(in crate::nft) const NFTA_SET_FLAGS: u16 = 3;
pub(in crate::nft) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(in crate::nft) const NFTA_SET_KEY_LEN: u16 = 5;
pub(in crate::nft) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(in crate::nft) const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
pub(in crate::nft) const NFTA_SET_ID: u16 = 10;
pub(in crate::nft) const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_DESC_SIZE: u16 = 1;

/// `NFT_SET_MAP`.
pub(in crate::nft) const MAP: u32 = 0x8;

/// The type that nft says a verdict has.
pub(in crate::nft) const TYPE_VERDICT: u32 = 0xffff_ff00;

/// Types of nft (nftables, include/datatype.h), each 6 bits wide where several make one key.
pub(in crate::nft) const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4_ADDRESS: u32 = 7;
const TYPE_IPV6_ADDRESS: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_BITS: u32 = 6;
const TYPE_PROTOCOL_SERVICE: u32 = (TYPE_PROTOCOL << TYPE_BITS) | TYPE_SERVICE;

/// What a set or map is made of.
struct Definition {
    name: SetName,
    flags: u32,
    /// Type and length in bytes.
    key: (u32, u32),
    /// Type and length in bytes, of a map.
    data: Option<(u32, u32)>,
    /// How many elements there will ever be; `None` if that is not known.
    size: Option<usize>,
    user_data: Vec<u8>,
}

/// Writes the body of the message that makes a set or map. `id` names it in this transaction.
pub(super) fn put_new(buffer: &mut Vec<u8>, table: &TableName, of: &Set, id: u32) {
    let address = |kind| (kind << (2 * TYPE_BITS)) | TYPE_PROTOCOL_SERVICE;
    let (key, user_data) = match &of.elements {
        Elements::Listeners4(_) => {
            ((address(TYPE_IPV4_ADDRESS), 12), userdata::set(ByteOrder::Invalid))
        }
        Elements::Listeners6(_) => {
            ((address(TYPE_IPV6_ADDRESS), 24), userdata::set(ByteOrder::Invalid))
        }
        Elements::Services(_) => ((TYPE_PROTOCOL_SERVICE, 8), userdata::set(ByteOrder::Invalid)),
        Elements::Seats(seats) => {
            let modulus = u32::try_from(seats.len()).expect("at most Partition::MAX_SLOTS");
            ((TYPE_INTEGER, 4), userdata::numbered_map(modulus))
        }
        Elements::MaskedSeats4(_) => {
            ((TYPE_IPV4_ADDRESS, 4), userdata::map(ByteOrder::Big, ByteOrder::Invalid))
        }
        Elements::MaskedSeats6(_) => {
            ((TYPE_IPV6_ADDRESS, 16), userdata::map(ByteOrder::Big, ByteOrder::Invalid))
        }
        Elements::WorkerPorts(_) => ((TYPE_SERVICE, 2), userdata::set(ByteOrder::Big)),
        Elements::Ports(_) => ((TYPE_SERVICE, 2), userdata::map(ByteOrder::Big, ByteOrder::Big)),
    };
    let data = match &of.elements {
        Elements::Listeners4(_)
        | Elements::Listeners6(_)
        | Elements::Services(_)
        | Elements::WorkerPorts(_) => None,
        Elements::Seats(_) | Elements::MaskedSeats4(_) | Elements::MaskedSeats6(_) => {
            Some((TYPE_VERDICT, 0))
        }
        Elements::Ports(_) => Some((TYPE_SERVICE, 2)),
    };
    let is_fixed = !matches!(of.elements, Elements::WorkerPorts(_));
    let definition = Definition {
        name: of.name,
        flags: if data.is_some() { MAP } else { 0 },
        key,
        data,
        size: is_fixed.then_some(of.elements.len()),
        user_data,
    };
    definition.put(buffer, table, id);
}

/// Writes the body of the message that removes a set.
pub(super) fn put_delete(buffer: &mut Vec<u8>, table: &TableName, name: SetName) {
    put_text(buffer, NFTA_SET_TABLE, table.as_str());
    put_name(buffer, NFTA_SET_NAME, name);
}

impl Definition {
    fn put(&self, buffer: &mut Vec<u8>, table: &TableName, id: u32) {
        put_text(buffer, NFTA_SET_TABLE, table.as_str());
        put_name(buffer, NFTA_SET_NAME, self.name);
        put_u32(buffer, NFTA_SET_FLAGS, self.flags);
        let (key_type, key_len) = self.key;
        put_u32(buffer, NFTA_SET_KEY_TYPE, key_type);
        put_u32(buffer, NFTA_SET_KEY_LEN, key_len);
        if let Some((data_type, data_len)) = self.data {
            put_u32(buffer, NFTA_SET_DATA_TYPE, data_type);
            put_u32(buffer, NFTA_SET_DATA_LEN, data_len);
        }
        put_u32(buffer, NFTA_SET_ID, id);
        // Knowing how many elements there will ever be, the kernel takes a hash table of fixed
        // size: lookups are faster than in a resizable one, and a dump cannot see an element twice
        // because the table is just then being resized. Without it a set of ports is a bitmap, in which
        // a port comes and goes without a move of others (net/netfilter/nft_set_bitmap.c).
        if let Some(size) = self.size {
            let size = u32::try_from(size).expect("at most Partition::MAX_SLOTS");
            nest(buffer, NFTA_SET_DESC, |buffer| put_u32(buffer, NFTA_SET_DESC_SIZE, size));
        }
        put(buffer, NFTA_SET_USERDATA, &self.user_data);
    }
}

/// The name of a set or map as the kernel lists it; `None` for a message that has none.
pub(in crate::nft) fn parse_name(attributes: Attributes<'_>) -> Option<&str> {
    attributes.text(NFTA_SET_NAME)
}
