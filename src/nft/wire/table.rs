//! Tables (`NFTA_TABLE_*`, include/uapi/linux/netfilter/nf_tables.h).

use super::userdata;
use crate::netlink::Attributes;
use crate::netlink::attribute::{put, put_text, put_u32};
use crate::ruleset::TableName;

pub(in crate::nft) const NFTA_TABLE_NAME: u16 = super::message::TABLE;
pub(in crate::nft) const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_HANDLE: u16 = 4;
pub(in crate::nft) const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_TABLE_OWNER: u16 = 7;

/// `NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`.
pub(in crate::nft) const OWNER: u32 = 0x2;
pub(in crate::nft) const PERSIST: u32 = 0x4;

/// The flags of a table that belongs to us.
pub(in crate::nft) const OWNED: u32 = OWNER | PERSIST;

/// Writes the body of the message that makes a table of ours.
pub(super) fn put_new(buffer: &mut Vec<u8>, name: &TableName, flags: u32) {
    put_flags(buffer, name.as_str(), flags);
    put(buffer, NFTA_TABLE_USERDATA, &userdata::comment(TableName::COMMENT));
}

/// Writes the body of the message that makes a table with these flags, or gives them to the one there
/// is: [`OWNED`] makes the sender the owner of an orphan, and has no effect if it is already.
pub(in crate::nft) fn put_flags(buffer: &mut Vec<u8>, name: &str, flags: u32) {
    put_text(buffer, NFTA_TABLE_NAME, name);
    put_u32(buffer, NFTA_TABLE_FLAGS, flags);
}

/// Writes the body of the message that removes a table with all that is in it.
pub(in crate::nft) fn put_delete(buffer: &mut Vec<u8>, name: &str) {
    put_text(buffer, NFTA_TABLE_NAME, name);
}

/// A table as the kernel lists it, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) struct Table {
    pub(in crate::nft) name: String,
    /// `NFT_TABLE_F_*`.
    pub(in crate::nft) flags: u32,
    pub(in crate::nft) owner: TableOwner,
    /// The schema that its comment tells; `None` for a table of no cluster.
    pub(in crate::nft) schema: Option<u32>,
    /// It is one of a fleet.
    pub(in crate::nft) is_of_fleet: bool,
    /// The tables of a network namespace are numbered in the order in which they are made.
    pub(in crate::nft) handle: Option<u64>,
}

/// Who owns a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableOwner {
    /// Nobody: anybody may change it, and it cannot get an owner that it would outlive.
    None,
    /// Nobody since its owner has ended: anybody may change it, or become its owner.
    Orphaned,
    /// The netlink socket with this port id.
    Socket(u32),
}

impl Table {
    /// Reads the attributes of a message; `None` if it lacks a part.
    pub(in crate::nft) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let flags = match attributes.get(NFTA_TABLE_FLAGS) {
            Some(_) => attributes.u32(NFTA_TABLE_FLAGS)?,
            None => 0,
        };
        let owner = match attributes.get(NFTA_TABLE_OWNER) {
            Some(_) => TableOwner::Socket(attributes.u32(NFTA_TABLE_OWNER)?),
            None if flags & PERSIST != 0 => TableOwner::Orphaned,
            None => TableOwner::None,
        };
        let comment = attributes.get(NFTA_TABLE_USERDATA).and_then(userdata::parse_comment);
        let schema = comment.and_then(TableName::schema);
        let is_of_fleet = comment.is_some_and(TableName::is_of_fleet);
        let handle = attributes.u64(NFTA_TABLE_HANDLE);
        let name = attributes.text(NFTA_TABLE_NAME)?.to_owned();
        Some(Self { name, flags, owner, schema, is_of_fleet, handle })
    }
}
