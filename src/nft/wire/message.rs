//! Messages for tables, chains, sets and rules. Those that a transaction may have many of are written
//! by hand (see [`super::attribute`]).

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage,
    TableAttribute, TableFlags, TableMessage,
};

use super::attribute::{nest, put, put_name, put_string, put_u32};
use super::rule;
use super::userdata::{self, ByteOrder};
use crate::ruleset::{self, ChainName, Elements, Name, Rule, Set, SetName, TableName};

/// `NF_ACCEPT`.
const POLICY_ACCEPT: u32 = 1;

/// The type that nft says a verdict has.
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// Types of nft (nftables, include/datatype.h), each 6 bits wide where several make one key.
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4_ADDRESS: u32 = 7;
const TYPE_IPV6_ADDRESS: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_BITS: u32 = 6;
const TYPE_PROTOCOL_SERVICE: u32 = (TYPE_PROTOCOL << TYPE_BITS) | TYPE_SERVICE;

pub(in crate::nft) fn table(name: &TableName) -> Vec<TableAttribute> {
    vec![TableAttribute::Name(name.as_str().to_owned())]
}

pub(in crate::nft) fn add_table(name: &TableName, flags: TableFlags) -> NfTablesMessage {
    let mut attributes = table(name);
    attributes.push(TableAttribute::Flags(flags));
    attributes.push(TableAttribute::UserData(userdata::comment(TableName::COMMENT)));
    NfTablesMessage::NewTable(TableMessage { attributes })
}

/// Makes the sender the owner of a table that has none; without effect if it is already.
pub(in crate::nft) fn take_table(name: &TableName, flags: TableFlags) -> NfTablesMessage {
    let mut attributes = table(name);
    attributes.push(TableAttribute::Flags(flags));
    NfTablesMessage::NewTable(TableMessage { attributes })
}

pub(in crate::nft) fn delete_table(name: &TableName) -> NfTablesMessage {
    NfTablesMessage::DeleteTable(TableMessage { attributes: table(name) })
}

fn chain(table: &TableName, name: ChainName) -> Vec<ChainAttribute> {
    vec![ChainAttribute::Table(table.as_str().to_owned()), ChainAttribute::Name(name.to_string())]
}

pub(in crate::nft) fn add_chain(table: &TableName, name: ChainName) -> NfTablesMessage {
    let mut attributes = chain(table, name);
    attributes.extend(hook(name));
    NfTablesMessage::NewChain(ChainMessage { attributes })
}

/// What makes a chain a base chain; nothing for one that is none.
pub(in crate::nft) fn hook(name: ChainName) -> Vec<ChainAttribute> {
    let Some(base) = name.base() else { return vec![] };
    let hook = match base.hook {
        ruleset::Hook::Prerouting => InetHookNumber::PreRouting,
        ruleset::Hook::Output => InetHookNumber::LocalOut,
    };
    vec![
        ChainAttribute::Type(base.kind.to_owned()),
        ChainAttribute::Policy(POLICY_ACCEPT),
        ChainAttribute::Hook(vec![
            Hook::Number(HookNumber::Inet(hook)),
            Hook::Priority(base.priority.cast_unsigned()),
        ]),
    ]
}

pub(in crate::nft) fn delete_chain(table: &TableName, name: ChainName) -> NfTablesMessage {
    NfTablesMessage::DeleteChain(ChainMessage { attributes: chain(table, name) })
}

/// `NFT_MSG_NEWTABLE`, `NFT_MSG_DELTABLE`, `NFT_MSG_NEWCHAIN`.
pub(in crate::nft) const NEW_TABLE: u16 = 0;
pub(in crate::nft) const DELETE_TABLE: u16 = 2;
pub(in crate::nft) const NEW_CHAIN: u16 = 3;

/// `NFTA_TABLE_*`.
pub(in crate::nft) const NFTA_TABLE_NAME: u16 = 1;
pub(in crate::nft) const NFTA_TABLE_FLAGS: u16 = 2;

/// `NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`.
pub(in crate::nft) const OWNER: u32 = 0x2;
pub(in crate::nft) const PERSIST: u32 = 0x4;

/// The flags of a table that belongs to us.
pub(in crate::nft) const OWNED: TableFlags = TableFlags::from_bits_retain(OWNER | PERSIST);

/// `NFTA_RULE_*`.
pub(in crate::nft) const NFTA_RULE_TABLE: u16 = 1;
pub(in crate::nft) const NFTA_RULE_CHAIN: u16 = 2;
pub(in crate::nft) const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;

/// Writes the body of the message that removes all rules of a chain.
pub(in crate::nft) fn put_flush_chain(buffer: &mut Vec<u8>, table: &TableName, name: ChainName) {
    put_chain(buffer, table, name);
}

fn put_chain(buffer: &mut Vec<u8>, table: &TableName, chain: ChainName) {
    put_string(buffer, NFTA_RULE_TABLE, table.as_str());
    put_name(buffer, NFTA_RULE_CHAIN, chain);
}

/// Writes the body of the message that adds a rule at the end of a chain.
pub(in crate::nft) fn put_rule(
    buffer: &mut Vec<u8>,
    table: &TableName,
    chain: ChainName,
    rule: &Rule,
) {
    put_chain(buffer, table, chain);
    nest(buffer, NFTA_RULE_EXPRESSIONS, |buffer| {
        for expression in rule::emit(rule) {
            expression.emit(buffer);
        }
    });
    if let Some(comment) = rule.comment() {
        put(buffer, NFTA_RULE_USERDATA, &userdata::comment(Name::from(comment).as_str()));
    }
}

/// `NFTA_SET_*`.
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_DESC_SIZE: u16 = 1;

/// `NFT_SET_MAP`.
const MAP: u32 = 0x8;

/// What a set or map is made of.
struct Definition {
    name: SetName,
    flags: u32,
    /// Type and length in bytes.
    key: (u32, u32),
    /// Type and length in bytes, of a map.
    data: Option<(u32, u32)>,
    size: usize,
    user_data: Vec<u8>,
}

/// Writes the body of the message that makes a set or map. `id` names it in this transaction.
pub(in crate::nft) fn put_set(buffer: &mut Vec<u8>, table: &TableName, of: &Set, id: u32) {
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
        Elements::Ports(_) => ((TYPE_SERVICE, 2), userdata::map(ByteOrder::Big, ByteOrder::Big)),
    };
    let data = match &of.elements {
        Elements::Listeners4(_) | Elements::Listeners6(_) | Elements::Services(_) => None,
        Elements::Seats(_) | Elements::MaskedSeats4(_) | Elements::MaskedSeats6(_) => {
            Some((TYPE_VERDICT, 0))
        }
        Elements::Ports(_) => Some((TYPE_SERVICE, 2)),
    };
    let definition = Definition {
        name: of.name,
        flags: if data.is_some() { MAP } else { 0 },
        key,
        data,
        size: of.elements.len(),
        user_data,
    };
    definition.put(buffer, table, id);
}

/// Writes the body of the message that removes a set.
pub(in crate::nft) fn put_delete_set(buffer: &mut Vec<u8>, table: &TableName, name: SetName) {
    put_string(buffer, NFTA_SET_TABLE, table.as_str());
    put_name(buffer, NFTA_SET_NAME, name);
}

impl Definition {
    fn put(&self, buffer: &mut Vec<u8>, table: &TableName, id: u32) {
        put_string(buffer, NFTA_SET_TABLE, table.as_str());
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
        // because the table is just then being resized.
        let size = u32::try_from(self.size).expect("at most Partition::MAX_SLOTS");
        nest(buffer, NFTA_SET_DESC, |buffer| put_u32(buffer, NFTA_SET_DESC_SIZE, size));
        put(buffer, NFTA_SET_USERDATA, &self.user_data);
    }
}
