//! Changes of the tables of a fleet as messages, and their tables as the kernel lists them.

use std::collections::BTreeMap;

use super::contents::{Chain, Change, Contents, Hook, Set, SetKind};
use crate::netlink::attribute::{nest, put, put_text, put_u32};
use crate::netlink::{Attributes, NetlinkError, Socket};
use crate::nft::wire::batch::Member;
use crate::nft::wire::chain::{
    NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE,
    NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY,
};
use crate::nft::wire::element::{self, Element, NFTA_SET_ELEM_LIST_SET, SetReference, Value};
use crate::nft::wire::expression::Expression;
use crate::nft::wire::message::{
    self, APPEND, CREATE, DELETE_CHAIN, DELETE_RULE, DELETE_SET, DELETE_SET_ELEMENT, DELETE_TABLE,
    EXCLUSIVE, GET_CHAIN, GET_RULE, GET_SET, GET_SET_ELEMENT, GET_TABLE, MALFORMED, NEW_CHAIN,
    NEW_RULE, NEW_SET, NEW_SET_ELEMENT, NEW_TABLE, TABLE, header, kind,
};
use crate::nft::wire::rule::{NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE};
use crate::nft::wire::set::{
    MAP, NFTA_SET_DATA_LEN, NFTA_SET_DATA_TYPE, NFTA_SET_FLAGS, NFTA_SET_ID, NFTA_SET_KEY_LEN,
    NFTA_SET_KEY_TYPE, NFTA_SET_NAME, NFTA_SET_TABLE, NFTA_SET_USERDATA, TYPE_INTEGER,
    TYPE_VERDICT,
};
use crate::nft::wire::table::{self, NFTA_TABLE_FLAGS, NFTA_TABLE_USERDATA, OWNED, TableOwner};
use crate::nft::wire::userdata::{self, ByteOrder};
use crate::ruleset::{Family, FleetTableKind, FleetTableName, Name, SECOND_CHANCE_PRIORITY};

/// `NFTA_HOOK_DEV` (include/uapi/linux/netfilter/nf_tables.h).
const NFTA_HOOK_DEV: u16 = 3;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// `NF_NETDEV_INGRESS`, `NF_INET_PRE_ROUTING`: one number.
const HOOK: u32 = 0;

/// The type that nft says a MAC address has (`TYPE_ETHERADDR`, nftables, include/datatype.h).
const TYPE_ETHER_ADDRESS: u32 = 9;

const MAC_LENGTH: u32 = 6;
const SLOT_LENGTH: u32 = 4;

/// `NFPROTO_IPV4`, `NFPROTO_NETDEV`, `NFPROTO_IPV6` (include/uapi/linux/netfilter.h).
pub(super) const fn family(kind: FleetTableKind) -> u8 {
    match kind {
        FleetTableKind::Director => 5,
        FleetTableKind::SecondChance(Family::V4) => 2,
        FleetTableKind::SecondChance(Family::V6) => 10,
    }
}

/// Takes a table that has no owner.
pub(super) fn adopt(table: &FleetTableName) -> Member {
    let mut body = vec![];
    table::put_flags(&mut body, table.as_str(), OWNED);
    Member { message: NEW_TABLE, flags: 0, body }
}

/// The messages of a change, of which each set that it makes has a number of its own.
pub(super) fn messages(
    table: &FleetTableName,
    change: &Change,
    number: u32,
    owned: bool,
) -> Vec<Member> {
    /// Fails where there is one of that name already.
    const MAKE: u16 = CREATE | EXCLUSIVE;
    let mut body = vec![];
    put_text(&mut body, TABLE, table.as_str());
    let (message, flags) = match change {
        Change::AddTable => {
            put_u32(&mut body, NFTA_TABLE_FLAGS, if owned { OWNED } else { 0 });
            put(&mut body, NFTA_TABLE_USERDATA, &userdata::comment(FleetTableName::COMMENT));
            (NEW_TABLE, MAKE)
        }
        Change::DeleteTable => (DELETE_TABLE, 0),
        Change::AddChain(name, hook) => {
            put_text(&mut body, NFTA_CHAIN_NAME, name);
            put_hook(&mut body, hook);
            (NEW_CHAIN, MAKE)
        }
        Change::DeleteChain(name) => {
            put_text(&mut body, NFTA_CHAIN_NAME, name);
            (DELETE_CHAIN, 0)
        }
        Change::FlushChain(name) => {
            put_text(&mut body, NFTA_RULE_CHAIN, name);
            (DELETE_RULE, 0)
        }
        Change::AddRule(chain, rule) => {
            put_text(&mut body, NFTA_RULE_CHAIN, chain);
            nest(&mut body, NFTA_RULE_EXPRESSIONS, |body| {
                rule.iter().for_each(|expression| expression.emit(body));
            });
            (NEW_RULE, CREATE | APPEND)
        }
        Change::AddSet(name, kind) => {
            put_text(&mut body, NFTA_SET_NAME, name);
            put_set(&mut body, *kind, number);
            (NEW_SET, MAKE)
        }
        Change::DeleteSet(name) => {
            put_text(&mut body, NFTA_SET_NAME, name);
            (DELETE_SET, 0)
        }
        Change::AddElements(set, elements) => {
            let elements = elements.iter().map(|(key, to)| (&**key, to.as_deref()));
            return element_messages(table, set, elements, (NEW_SET_ELEMENT, CREATE));
        }
        Change::DeleteElements(set, keys) => {
            let elements = keys.iter().map(|key| (&**key, None));
            return element_messages(table, set, elements, (DELETE_SET_ELEMENT, 0));
        }
    };
    vec![Member { message, flags, body }]
}

fn element_messages<'a>(
    table: &FleetTableName,
    set: &str,
    elements: impl Iterator<Item = (&'a [u8], Option<&'a str>)>,
    (message, flags): (u8, u16),
) -> Vec<Member> {
    // The name of a set that is none of ours may be longer; it is deleted with all that it holds.
    let Some(set) = Name::new(set) else { return vec![] };
    let reference = SetReference { table: table.as_str(), set, id: None };
    let (mut bodies, mut starts) = (vec![], vec![]);
    element::emit_keys(&mut bodies, reference, elements, |bodies| starts.push(bodies.len()));
    starts.push(bodies.len());
    let body = |ends: &[usize]| bodies[ends[0]..ends[1]].to_vec();
    starts.windows(2).map(|ends| Member { message, flags, body: body(ends) }).collect()
}

fn put_hook(body: &mut Vec<u8>, hook: &Hook) {
    let (priority, device) = match hook {
        Hook::None | Hook::Other => return,
        Hook::Ingress(device) => (0, Some(device)),
        Hook::Prerouting => (SECOND_CHANCE_PRIORITY, None),
    };
    put_text(body, NFTA_CHAIN_TYPE, "filter");
    put_u32(body, NFTA_CHAIN_POLICY, ACCEPT);
    nest(body, NFTA_CHAIN_HOOK, |body| {
        put_u32(body, NFTA_HOOK_HOOKNUM, HOOK);
        put_u32(body, NFTA_HOOK_PRIORITY, priority.cast_unsigned());
        if let Some(device) = device {
            put_text(body, NFTA_HOOK_DEV, device);
        }
    });
}

fn put_set(body: &mut Vec<u8>, kind: SetKind, number: u32) {
    let (flags, key_type, key_length, user_data) = match kind {
        SetKind::Members | SetKind::Other => {
            (0, TYPE_ETHER_ADDRESS, MAC_LENGTH, userdata::set(ByteOrder::Big))
        }
        SetKind::Slots(slots) => (MAP, TYPE_INTEGER, SLOT_LENGTH, userdata::numbered_map(slots)),
    };
    put_u32(body, NFTA_SET_FLAGS, flags);
    put_u32(body, NFTA_SET_KEY_TYPE, key_type);
    put_u32(body, NFTA_SET_KEY_LEN, key_length);
    if flags & MAP != 0 {
        put_u32(body, NFTA_SET_DATA_TYPE, TYPE_VERDICT);
        put_u32(body, NFTA_SET_DATA_LEN, 0);
    }
    put_u32(body, NFTA_SET_ID, number);
    // Without a size: the kernel then takes a hash table that grows, and not one of fixed size.
    put(body, NFTA_SET_USERDATA, &user_data);
}

/// A table as the kernel lists it, without its contents.
pub(super) struct Table {
    pub(super) owner: TableOwner,
    /// The schema that its comment tells; `None` for a table that is not ours.
    pub(super) schema: Option<u32>,
    /// Whether it has flags that no table of ours has, such as `dormant`.
    pub(super) is_other: bool,
}

/// The table of this kind; `None` if there is none.
pub(super) fn find(
    socket: &mut Socket,
    kind_of: FleetTableKind,
    name: &FleetTableName,
) -> Result<Option<Table>, NetlinkError> {
    let request = request(kind_of, &[(TABLE, name.as_str())]);
    let table = socket.ask(kind(GET_TABLE), &request, |kind, body| {
        let attributes = message::open(NEW_TABLE, kind, body)?;
        let table::Table { flags, owner, .. } = table::Table::parse(attributes).ok_or(MALFORMED)?;
        let comment = attributes.get(NFTA_TABLE_USERDATA).and_then(userdata::parse_comment);
        let schema = comment.and_then(FleetTableName::schema);
        Ok(Table { owner, schema, is_other: flags & !OWNED != 0 })
    });
    match table {
        Ok(table) => Ok(Some(table)),
        Err(error) if error.errno() == Some(crate::netlink::Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the table of this kind holds.
pub(super) fn read(
    socket: &mut Socket,
    kind_of: FleetTableKind,
    name: &FleetTableName,
) -> Result<Contents, NetlinkError> {
    let of_table = [(TABLE, name.as_str())];
    let mut contents = Contents::default();
    let chains = list(socket, kind_of, GET_CHAIN, &of_table, |kind, body| {
        let attributes = message::open(NEW_CHAIN, kind, body)?;
        let (table, chain) = names(attributes, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME)?;
        Ok((table, chain, parse_hook(attributes)))
    })?;
    for (table, chain, hook) in chains {
        // Kernels before 6.3 give the chains of all tables.
        if table == name.as_str() {
            contents.chains.insert(chain, Chain { hook, rules: vec![] });
        }
    }
    let rules = list(socket, kind_of, GET_RULE, &of_table, |kind, body| {
        let attributes = message::open(NEW_RULE, kind, body)?;
        let (table, chain) = names(attributes, NFTA_RULE_TABLE, NFTA_RULE_CHAIN)?;
        let rule = attributes.get(NFTA_RULE_EXPRESSIONS).and_then(Expression::parse_list);
        Ok((table, chain, rule))
    })?;
    for (table, chain, rule) in rules {
        if let Some(chain) = contents.chains.get_mut(&chain).filter(|_| table == name.as_str()) {
            chain.rules.push(rule);
        }
    }
    let sets = list(socket, kind_of, GET_SET, &of_table, |kind, body| {
        let attributes = message::open(NEW_SET, kind, body)?;
        let (_, set) = names(attributes, NFTA_SET_TABLE, NFTA_SET_NAME)?;
        Ok((set, parse_set_kind(attributes)))
    })?;
    for (set, set_kind) in sets {
        let of_set = [(TABLE, name.as_str()), (NFTA_SET_ELEM_LIST_SET, set.as_str())];
        let parts = list(socket, kind_of, GET_SET_ELEMENT, &of_set, |kind, body| {
            Ok(element::parse(message::open(NEW_SET_ELEMENT, kind, body)?))
        })?;
        contents.sets.insert(set, collect(set_kind, parts));
    }
    Ok(contents)
}

/// A set with an element that none of ours has is none of ours.
fn collect(kind: SetKind, parts: Vec<Option<Vec<Element>>>) -> Set {
    let mut elements = BTreeMap::new();
    let mut is_ours = true;
    for part in parts {
        let Some(part) = part else {
            is_ours = false;
            continue;
        };
        for Element { key, value } in part {
            let chain = match value {
                None => None,
                Some(Value::Goto(chain)) => Some(chain),
                Some(Value::Bytes(_)) => {
                    is_ours = false;
                    None
                }
            };
            elements.insert(key, chain);
        }
    }
    Set { kind: if is_ours { kind } else { SetKind::Other }, elements }
}

fn parse_hook(attributes: Attributes<'_>) -> Hook {
    let Some(hook) = attributes.nested(NFTA_CHAIN_HOOK) else { return Hook::None };
    let is_ours = attributes.text(NFTA_CHAIN_TYPE) == Some("filter")
        && attributes.u32(NFTA_CHAIN_POLICY) == Some(ACCEPT)
        && hook.u32(NFTA_HOOK_HOOKNUM) == Some(HOOK);
    let priority = hook.u32(NFTA_HOOK_PRIORITY).map(u32::cast_signed);
    match (hook.text(NFTA_HOOK_DEV), priority) {
        (Some(device), Some(0)) if is_ours => Hook::Ingress(device.to_owned()),
        (None, Some(SECOND_CHANCE_PRIORITY)) if is_ours => Hook::Prerouting,
        _ => Hook::Other,
    }
}

fn parse_set_kind(attributes: Attributes<'_>) -> SetKind {
    let flags = match attributes.get(NFTA_SET_FLAGS) {
        Some(_) => attributes.u32(NFTA_SET_FLAGS),
        None => Some(0),
    };
    let data = attributes.get(NFTA_SET_USERDATA);
    let slots = data.and_then(userdata::numbered_map_modulus);
    match (flags, attributes.u32(NFTA_SET_KEY_LEN), slots) {
        (Some(0), Some(MAC_LENGTH), _) => SetKind::Members,
        (Some(MAP), Some(SLOT_LENGTH), Some(slots)) => SetKind::Slots(slots),
        _ => SetKind::Other,
    }
}

fn names(
    attributes: Attributes<'_>,
    table: u16,
    object: u16,
) -> Result<(String, String), NetlinkError> {
    let text = |kind| attributes.text(kind).map(str::to_owned).ok_or(MALFORMED);
    Ok((text(table)?, text(object)?))
}

fn list<T>(
    socket: &mut Socket,
    kind_of: FleetTableKind,
    message: u8,
    names: &[(u16, &str)],
    mut parse: impl FnMut(u16, &[u8]) -> Result<T, NetlinkError>,
) -> Result<Vec<T>, NetlinkError> {
    let request = request(kind_of, names);
    socket.dump(kind(message), 0, &request, |kind, body| parse(kind, body).map(Some))
}

fn request(kind_of: FleetTableKind, names: &[(u16, &str)]) -> Vec<u8> {
    let mut body = header(family(kind_of), 0).to_vec();
    for (kind, name) in names {
        put_text(&mut body, *kind, name);
    }
    body
}
