//! Reading a table back.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::ParseableParametrized;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, GenAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    TableAttribute, TableFlags,
};
use nix::errno::Errno;

use super::attribute::put_string;
use super::batch::{INET_HEADER, kind};
use super::counter::Object;
use super::element::{self, Element};
use super::expression::Expression;
use super::message::{OWNER, PERSIST};
use super::{message, rule, userdata, validate};
use crate::netlink::{Error, Socket};
use crate::nft::error::NotUnderstood;
use crate::plan::Seat;
use crate::ruleset::{
    Chain, ChainName, Comment, CounterName, CounterValue, Rule, Ruleset, Set, SetName, TableName,
};

/// `NFT_MSG_GET*`.
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_SET_ELEMENT: u16 = 13;
const GET_GENERATION: u16 = 16;
const GET_OBJECT: u16 = 19;

/// `NFTA_TABLE_NAME`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`, `NFTA_SET_ELEM_LIST_TABLE`,
/// `NFTA_OBJ_TABLE`: the table has the same number in all.
const TABLE: u16 = 1;
/// `NFTA_SET_ELEM_LIST_SET`.
const SET: u16 = 2;

/// How often a table that changes while it is read is read anew.
const READ_ATTEMPTS: u32 = 10;

/// What there is under the name of a table of ours.
#[derive(Debug)]
pub(in crate::nft) enum TableState {
    Absent,
    /// Somebody else's table.
    Foreign,
    /// A table of another version of ours.
    OtherSchema {
        found: u32,
        owner: TableOwner,
    },
    Ours {
        contents: Result<Ruleset, NotUnderstood>,
        owner: TableOwner,
    },
}

/// Whose a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableOwner {
    /// Nobody's: anybody may change it, and it cannot get an owner that it would outlive.
    None,
    /// Nobody's since its owner has ended: anybody may change it, or become its owner.
    Orphaned,
    /// That of the netlink socket with this port id.
    Socket(u32),
}

/// Reads a table whole. The kernel is asked several times; if anything in its rules has changed
/// between the first and the last answer, all is read anew.
pub(in crate::nft) fn read(socket: &mut Socket, table: &TableName) -> Result<TableState, Error> {
    for _ in 0..READ_ATTEMPTS {
        let before = generation_id(socket)?;
        let found = read_once(socket, table);
        // An object that vanished between two requests is a change too.
        let vanished = matches!(&found, Err(error) if error.errno() == Some(Errno::ENOENT));
        if generation_id(socket)? == before && !vanished {
            return found;
        }
    }
    Err(Error::DumpInterrupted { attempts: READ_ATTEMPTS })
}

/// The number of the last transaction in this network namespace.
pub(in crate::nft) fn generation_id(socket: &mut Socket) -> Result<u32, Error> {
    let body = body(&[]);
    socket.ask(kind(GET_GENERATION), &body, |kind, body| {
        let NfTablesMessage::NewGen(message) = parse(kind, body)? else {
            return Err(Error::Malformed { what: "generation" });
        };
        let id = message.attributes.iter().find_map(|attribute| match attribute {
            GenAttribute::Id(id) => Some(*id),
            _ => None,
        });
        id.ok_or(Error::Malformed { what: "generation" })
    })
}

/// Whose a table of this name is; `None` if there is none.
pub(in crate::nft) fn table_owner(
    socket: &mut Socket,
    table: &str,
) -> Result<Option<TableOwner>, Error> {
    Ok(header(socket, table)?.map(|attributes| owner_of(&attributes)))
}

/// The names of all `inet` tables that carry our mark, of whatever schema.
pub(in crate::nft) fn our_tables(socket: &mut Socket) -> Result<Vec<String>, Error> {
    socket.dump(kind(GET_TABLE), 0, &body(&[]), |kind, body| {
        let NfTablesMessage::NewTable(message) = parse(kind, body)? else { return Ok(None) };
        Ok(schema_of(&message.attributes).and_then(|_| name_of(&message.attributes)))
    })
}

fn name_of(attributes: &[TableAttribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match attribute {
        TableAttribute::Name(name) => Some(name.clone()),
        _ => None,
    })
}

/// The schema that the mark of a table of ours tells.
fn schema_of(attributes: &[TableAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        TableAttribute::UserData(data) => TableName::schema(userdata::parse_comment(data)?),
        _ => None,
    })
}

fn flags_of(attributes: &[TableAttribute]) -> TableFlags {
    let flags = attributes.iter().find_map(|attribute| match attribute {
        TableAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    flags.unwrap_or_default()
}

fn owner_of(attributes: &[TableAttribute]) -> TableOwner {
    let owner = attributes.iter().find_map(|attribute| match attribute {
        TableAttribute::Owner(port_id) => Some(*port_id),
        _ => None,
    });
    match owner {
        Some(port_id) => TableOwner::Socket(port_id),
        None if flags_of(attributes).bits() & PERSIST != 0 => TableOwner::Orphaned,
        None => TableOwner::None,
    }
}

/// The attributes of a table; `None` if there is none of this name.
fn header(socket: &mut Socket, table: &str) -> Result<Option<Vec<TableAttribute>>, Error> {
    let in_table = body(&[(TABLE, table)]);
    let header = socket.ask(kind(GET_TABLE), &in_table, |kind, body| match parse(kind, body)? {
        NfTablesMessage::NewTable(message) => Ok(message.attributes),
        _ => Err(Error::Malformed { what: "table" }),
    });
    match header {
        Ok(attributes) => Ok(Some(attributes)),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_once(socket: &mut Socket, table: &TableName) -> Result<TableState, Error> {
    let Some(attributes) = header(socket, table.as_str())? else { return Ok(TableState::Absent) };
    let owner = owner_of(&attributes);
    match schema_of(&attributes) {
        None => return Ok(TableState::Foreign),
        Some(TableName::SCHEMA) => {}
        Some(found) => return Ok(TableState::OtherSchema { found, owner }),
    }
    // Such as `dormant`: then the kernel keeps the table and does nothing by it.
    if flags_of(&attributes).bits() & !(OWNER | PERSIST) != 0 {
        let object = "a flag of the table".to_owned();
        return Ok(TableState::Ours { contents: Err(NotUnderstood::Object { object }), owner });
    }
    let raw = Raw {
        chains: read_chains(socket, table)?,
        objects: read_objects(socket, table)?,
        sets: read_sets(socket, table)?,
        rules: read_rules(socket, table)?,
    };
    let contents = raw.understand(table).map_err(|object| NotUnderstood::Object { object });
    Ok(TableState::Ours { contents, owner })
}

/// What the kernel lists, before it is known to be ours.
struct Raw {
    chains: Vec<RawChain>,
    objects: Vec<Option<Object>>,
    sets: BTreeMap<String, Option<Vec<Element>>>,
    rules: Vec<RuleMessage>,
}

struct RawChain {
    name: String,
    /// What makes it a base chain, in an order of the kernel's own.
    hook: Vec<ChainAttribute>,
}

fn read_chains(socket: &mut Socket, table: &TableName) -> Result<Vec<RawChain>, Error> {
    socket.dump(kind(GET_CHAIN), 0, &body(&[(TABLE, table.as_str())]), |kind, body| {
        let NfTablesMessage::NewChain(message) = parse(kind, body)? else { return Ok(None) };
        let (mut name, mut hook, mut is_here) = (None, vec![], false);
        for attribute in message.attributes {
            match attribute {
                ChainAttribute::Name(value) => name = Some(value),
                // Kernels before 6.3 give the chains of all tables.
                ChainAttribute::Table(value) => is_here = value == table.as_str(),
                ChainAttribute::Type(_) | ChainAttribute::Policy(_) | ChainAttribute::Hook(_) => {
                    hook.push(attribute);
                }
                _ => {}
            }
        }
        Ok(name.filter(|_| is_here).map(|name| RawChain { name, hook }))
    })
}

/// What the counters of a table have counted. Reading changes nothing (`NFT_MSG_GETOBJ_RESET` would
/// set them to 0), and takes no look at anything else in the table.
pub(in crate::nft) fn counter_values(
    socket: &mut Socket,
    table: &TableName,
) -> Result<BTreeMap<Seat, CounterValue>, Error> {
    let objects = read_objects(socket, table)?;
    let counters = objects.iter().flatten().filter_map(Object::counter);
    Ok(counters.map(|(CounterName(seat), value)| (seat, value)).collect())
}

/// The objects of a table; `None` for one that cannot be read.
fn read_objects(socket: &mut Socket, table: &TableName) -> Result<Vec<Option<Object>>, Error> {
    socket.dump(kind(GET_OBJECT), 0, &body(&[(TABLE, table.as_str())]), |_, body| {
        let object = body.get(INET_HEADER.len()..).and_then(Object::parse);
        let is_elsewhere = object.as_ref().is_some_and(|it| it.table != table.as_str());
        Ok((!is_elsewhere).then_some(object))
    })
}

fn read_sets(
    socket: &mut Socket,
    table: &TableName,
) -> Result<BTreeMap<String, Option<Vec<Element>>>, Error> {
    let names =
        socket.dump(kind(GET_SET), 0, &body(&[(TABLE, table.as_str())]), |kind, body| {
            let NfTablesMessage::NewSet(message) = parse(kind, body)? else { return Ok(None) };
            Ok(message.attributes.into_iter().find_map(|attribute| match attribute {
                SetAttribute::Name(name) => Some(name),
                _ => None,
            }))
        })?;
    let mut sets = BTreeMap::new();
    for name in names {
        let of_set = body(&[(TABLE, table.as_str()), (SET, &name)]);
        let parts = socket.dump(kind(GET_SET_ELEMENT), 0, &of_set, |_, body| {
            Ok(Some(body.get(INET_HEADER.len()..).and_then(element::parse)))
        })?;
        let elements: Option<Vec<Vec<Element>>> = parts.into_iter().collect();
        sets.insert(name, elements.map(|parts| parts.concat()));
    }
    Ok(sets)
}

fn read_rules(socket: &mut Socket, table: &TableName) -> Result<Vec<RuleMessage>, Error> {
    socket.dump(kind(GET_RULE), 0, &body(&[(TABLE, table.as_str())]), |kind, body| {
        Ok(match parse(kind, body)? {
            NfTablesMessage::NewRule(message) => Some(message),
            _ => None,
        })
    })
}

impl Raw {
    /// The ruleset; else the name of the first object that is not as we write it.
    fn understand(&self, table: &TableName) -> Result<Ruleset, String> {
        let mut chains = BTreeMap::new();
        for chain in &self.chains {
            let name = chain.understand().ok_or_else(|| format!("chain {}", chain.name))?;
            chains.insert(name, vec![]);
        }
        for message in &self.rules {
            let chain = chain_of(message).unwrap_or_default();
            let rule = understand_rule(message);
            let rules = ChainName::parse(chain).and_then(|name| chains.get_mut(&name));
            match (rules, rule) {
                (Some(rules), Some(rule)) => rules.push(rule),
                _ => return Err(format!("a rule of chain {chain}")),
            }
        }
        let mut counters = BTreeSet::new();
        for object in &self.objects {
            let counter = object.as_ref().and_then(Object::counter);
            let name = || object.as_ref().map_or("without a name", |it| it.name.as_str());
            let (counter, _) = counter.ok_or_else(|| format!("object {}", name()))?;
            counters.insert(counter);
        }
        let mut sets = BTreeMap::new();
        for (name, elements) in &self.sets {
            let set = SetName::parse(name)
                .and_then(|set| Some((set, element::collect(set, elements.as_deref()?)?)));
            let (set, elements) = set.ok_or_else(|| format!("set {name}"))?;
            sets.insert(set, elements);
        }
        Ok(Ruleset {
            table: table.clone(),
            counters: counters.into_iter().collect(),
            sets: sets.into_iter().map(|(name, elements)| Set { name, elements }).collect(),
            chains: chains.into_iter().map(|(name, rules)| Chain { name, rules }).collect(),
        })
    }
}

impl RawChain {
    fn understand(&self) -> Option<ChainName> {
        let name = ChainName::parse(&self.name)?;
        let expected = message::hook(name);
        let is_same = self.hook.len() == expected.len()
            && expected.iter().all(|attribute| self.hook.contains(attribute));
        is_same.then_some(name)
    }
}

fn understand_rule(message: &RuleMessage) -> Option<Rule> {
    let mut expressions = vec![];
    let mut comment = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Expressions(list) => {
                expressions = list.iter().map(Expression::parse).collect::<Option<_>>()?;
            }
            RuleAttribute::UserData(data) => {
                comment = Some(Comment::parse(userdata::parse_comment(data)?)?);
            }
            _ => {}
        }
    }
    rule::parse(&expressions, comment)
}

fn chain_of(message: &RuleMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Chain(name) => Some(name.as_str()),
        _ => None,
    })
}

/// A request about objects of `inet` tables, with names as attributes.
fn body(names: &[(u16, &str)]) -> Vec<u8> {
    let mut body = INET_HEADER.to_vec();
    for (kind, name) in names {
        put_string(&mut body, *kind, name);
    }
    body
}

pub(in crate::nft) fn parse(kind: u16, body: &[u8]) -> Result<NfTablesMessage, Error> {
    let malformed = Error::Malformed { what: "nf_tables message" };
    let [_, message] = kind.to_be_bytes();
    match body.get(INET_HEADER.len()..) {
        Some(attributes) if validate::is_sound(message, attributes) => {
            NfTablesMessage::parse_with_param(attributes, message).map_err(|_| malformed)
        }
        _ => Err(malformed),
    }
}
