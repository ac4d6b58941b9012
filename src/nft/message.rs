//! Messages for tables, chains, sets and rules.

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage, SetAttribute,
    SetDescription, SetFlags, SetMessage, TableAttribute, TableFlags, TableMessage,
};

use super::attribute::{nest, put, put_display, put_string};
use super::rule;
use super::userdata::{self, ByteOrder};
use crate::ruleset::{ChainName, Elements, Rule, Set, SetName, TableName};

/// `NF_IP_PRI_NAT_DST`, which nft calls `dstnat`.
pub(super) const PRIORITY_DSTNAT: i32 = -100;

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

pub(super) fn table(name: &TableName) -> Vec<TableAttribute> {
    vec![TableAttribute::Name(name.as_str().to_owned())]
}

pub(super) fn add_table(name: &TableName) -> NfTablesMessage {
    let mut attributes = table(name);
    attributes.push(TableAttribute::Flags(TableFlags::empty()));
    attributes.push(TableAttribute::UserData(userdata::comment(TableName::COMMENT)));
    NfTablesMessage::NewTable(TableMessage { attributes })
}

pub(super) fn delete_table(name: &TableName) -> NfTablesMessage {
    NfTablesMessage::DeleteTable(TableMessage { attributes: table(name) })
}

fn chain(table: &TableName, name: ChainName) -> Vec<ChainAttribute> {
    vec![ChainAttribute::Table(table.as_str().to_owned()), ChainAttribute::Name(name.to_string())]
}

pub(super) fn add_chain(table: &TableName, name: ChainName) -> NfTablesMessage {
    let mut attributes = chain(table, name);
    if name == ChainName::Prerouting {
        attributes.push(ChainAttribute::Type("nat".to_owned()));
        attributes.push(ChainAttribute::Policy(POLICY_ACCEPT));
        attributes.push(ChainAttribute::Hook(vec![
            Hook::Number(HookNumber::Inet(InetHookNumber::PreRouting)),
            Hook::Priority(PRIORITY_DSTNAT.cast_unsigned()),
        ]));
    }
    NfTablesMessage::NewChain(ChainMessage { attributes })
}

pub(super) fn delete_chain(table: &TableName, name: ChainName) -> NfTablesMessage {
    NfTablesMessage::DeleteChain(ChainMessage { attributes: chain(table, name) })
}

/// `NFTA_RULE_*`.
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;

/// Writes the body of the message that removes all rules of a chain.
pub(super) fn put_flush_chain(buffer: &mut Vec<u8>, table: &TableName, name: ChainName) {
    put_chain(buffer, table, name);
}

fn put_chain(buffer: &mut Vec<u8>, table: &TableName, chain: ChainName) {
    put_string(buffer, NFTA_RULE_TABLE, table.as_str());
    put_display(buffer, NFTA_RULE_CHAIN, chain);
}

/// Writes the body of the message that adds a rule at the end of a chain.
pub(super) fn put_rule(
    buffer: &mut Vec<u8>,
    table: &TableName,
    chain: ChainName,
    rule: &Rule,
    map_id: u32,
) {
    put_chain(buffer, table, chain);
    nest(buffer, NFTA_RULE_EXPRESSIONS, |buffer| {
        for expression in rule::emit(rule, map_id) {
            expression.emit(buffer);
        }
    });
    if let Some(comment) = rule.comment() {
        put(buffer, NFTA_RULE_USERDATA, &userdata::comment(&comment));
    }
}

fn set(table: &TableName, name: &str) -> Vec<SetAttribute> {
    vec![SetAttribute::Table(table.as_str().to_owned()), SetAttribute::Name(name.to_owned())]
}

pub(super) fn add_set(table: &TableName, of: &Set, id: u32) -> NfTablesMessage {
    let is_map = SetFlags::Map;
    let (flags, key_type, key_len, user_data) = match &of.elements {
        Elements::Listeners4(_) => (
            SetFlags::empty(),
            (TYPE_IPV4_ADDRESS << (2 * TYPE_BITS)) | TYPE_PROTOCOL_SERVICE,
            12,
            userdata::set(ByteOrder::Invalid),
        ),
        Elements::Listeners6(_) => (
            SetFlags::empty(),
            (TYPE_IPV6_ADDRESS << (2 * TYPE_BITS)) | TYPE_PROTOCOL_SERVICE,
            24,
            userdata::set(ByteOrder::Invalid),
        ),
        Elements::Services(_) => {
            (SetFlags::empty(), TYPE_PROTOCOL_SERVICE, 8, userdata::set(ByteOrder::Invalid))
        }
        Elements::Seats(seats) => {
            let modulus = u32::try_from(seats.len()).expect("at most Partition::MAX_SLOTS");
            (is_map, TYPE_INTEGER, 4, userdata::numbered_map(modulus))
        }
        Elements::MaskedSeats4(_) => {
            (is_map, TYPE_IPV4_ADDRESS, 4, userdata::map(ByteOrder::Big, ByteOrder::Invalid))
        }
        Elements::MaskedSeats6(_) => {
            (is_map, TYPE_IPV6_ADDRESS, 16, userdata::map(ByteOrder::Big, ByteOrder::Invalid))
        }
    };
    let mut attributes = set(table, of.name.as_str());
    attributes.extend([
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(key_type),
        SetAttribute::KeyLen(key_len),
        SetAttribute::Id(id),
        size_of(of.elements.len()),
        SetAttribute::UserData(user_data),
    ]);
    if flags.contains(SetFlags::Map) {
        attributes.extend([SetAttribute::DataType(TYPE_VERDICT), SetAttribute::DataLen(0)]);
    }
    NfTablesMessage::NewSet(SetMessage { attributes })
}

/// The number of elements that a set will ever have. Knowing it, the kernel takes a hash table of
/// fixed size: lookups are faster than in a resizable one, and a dump cannot see an element twice
/// because the table is just then being resized.
fn size_of(elements: usize) -> SetAttribute {
    let size = u32::try_from(elements).expect("at most Partition::MAX_SLOTS");
    SetAttribute::Description(vec![SetDescription::Size(size)])
}

/// The anonymous map from public to worker ports of a redirect.
pub(super) fn add_port_map(table: &TableName, ports: usize, id: u32) -> NfTablesMessage {
    let mut attributes = set(table, rule::ANONYMOUS);
    attributes.extend([
        SetAttribute::Flags(SetFlags::Anonymous | SetFlags::Constant | SetFlags::Map),
        SetAttribute::KeyType(TYPE_SERVICE),
        SetAttribute::KeyLen(2),
        SetAttribute::DataType(TYPE_SERVICE),
        SetAttribute::DataLen(2),
        SetAttribute::Id(id),
        size_of(ports),
        SetAttribute::UserData(userdata::map(ByteOrder::Big, ByteOrder::Big)),
    ]);
    NfTablesMessage::NewSet(SetMessage { attributes })
}

pub(super) fn delete_set(table: &TableName, name: SetName) -> NfTablesMessage {
    NfTablesMessage::DeleteSet(SetMessage { attributes: set(table, name.as_str()) })
}
