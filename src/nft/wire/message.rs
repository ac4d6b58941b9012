//! The numbers of nf_tables messages, their flags, and the header that each begins with.

use crate::netlink::{Attributes, NetlinkError};

/// `NFNL_SUBSYS_NFTABLES`: the upper byte of a message's kind, and what `BATCH_BEGIN` names.
pub(in crate::nft) const SUBSYSTEM: u8 = 10;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
pub(in crate::nft) const BATCH_BEGIN: u16 = 16;
pub(in crate::nft) const BATCH_END: u16 = 17;

/// `NFNL_BATCH_GENID` (include/uapi/linux/netfilter/nfnetlink.h).
pub(in crate::nft) const NFNL_BATCH_GENID: u16 = 1;

// enum nf_tables_msg_types (include/uapi/linux/netfilter/nf_tables.h).
pub(in crate::nft) const NEW_TABLE: u8 = 0;
pub(in crate::nft) const GET_TABLE: u8 = 1;
pub(in crate::nft) const DELETE_TABLE: u8 = 2;
pub(in crate::nft) const NEW_CHAIN: u8 = 3;
pub(in crate::nft) const GET_CHAIN: u8 = 4;
pub(in crate::nft) const DELETE_CHAIN: u8 = 5;
pub(in crate::nft) const NEW_RULE: u8 = 6;
pub(in crate::nft) const GET_RULE: u8 = 7;
pub(in crate::nft) const DELETE_RULE: u8 = 8;
pub(in crate::nft) const NEW_SET: u8 = 9;
pub(in crate::nft) const GET_SET: u8 = 10;
pub(in crate::nft) const DELETE_SET: u8 = 11;
pub(in crate::nft) const DELETE_SET_ELEMENT: u8 = 14;
pub(in crate::nft) const NEW_SET_ELEMENT: u8 = 12;
pub(in crate::nft) const GET_SET_ELEMENT: u8 = 13;
pub(in crate::nft) const NEW_GENERATION: u8 = 15;
pub(in crate::nft) const GET_GENERATION: u8 = 16;
pub(in crate::nft) const NEW_OBJECT: u8 = 18;
pub(in crate::nft) const GET_OBJECT: u8 = 19;
pub(in crate::nft) const DELETE_OBJECT: u8 = 20;

/// `NLM_F_EXCL`, `NLM_F_CREATE`, `NLM_F_APPEND`.
pub(in crate::nft) const EXCLUSIVE: u16 = 0x200;
pub(in crate::nft) const CREATE: u16 = 0x400;
pub(in crate::nft) const APPEND: u16 = 0x800;

/// `AF_UNSPEC`, `NFPROTO_INET`.
pub(in crate::nft) const UNSPECIFIED: u8 = 0;
pub(in crate::nft) const INET: u8 = 1;

/// The table of an object has the same number in all messages: `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`,
/// `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`, `NFTA_OBJ_TABLE`,
/// `NFTA_FLOWTABLE_TABLE`.
pub(in crate::nft) const TABLE: u16 = 1;

/// The kind of a message: `NFNL_SUBSYS_NFTABLES << 8 | message`.
pub(in crate::nft) const fn kind(message: u8) -> u16 {
    u16::from_be_bytes([SUBSYSTEM, message])
}

/// `struct nfgenmsg`, with which every message begins.
pub(in crate::nft) const fn header(family: u8, resource: u8) -> [u8; HEADER_LEN] {
    // `res_id` is in network order.
    [family, 0, 0, resource]
}

/// The length of `struct nfgenmsg`.
pub(in crate::nft) const HEADER_LEN: usize = 4;

/// The header of messages about objects of an `inet` table.
pub(in crate::nft) const INET_HEADER: [u8; HEADER_LEN] = header(INET, 0);

/// The family and the attributes of a message.
pub(in crate::nft) fn split(body: &[u8]) -> Option<(u8, &[u8])> {
    let ([family, ..], attributes) = body.split_first_chunk::<HEADER_LEN>()?;
    Some((*family, attributes))
}

/// The attributes of a message that must be of this kind.
///
/// # Errors
/// [`NetlinkError::Malformed`] if it is of another kind, or cut.
pub(in crate::nft) fn open(
    expected: u8,
    kind: u16,
    body: &[u8],
) -> Result<Attributes<'_>, NetlinkError> {
    let is_expected = kind == self::kind(expected);
    let attributes = split(body).filter(|_| is_expected).and_then(|(_, it)| Attributes::whole(it));
    attributes.ok_or(MALFORMED)
}

/// What is said of a message that is cut or lacks a part.
pub(in crate::nft) const MALFORMED: NetlinkError =
    NetlinkError::Malformed { what: "nf_tables message" };
