//! Reading a table back.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::Batch;
use super::chain::Chain;
use super::counter::Object;
use super::element::NFTA_SET_ELEM_LIST_SET;
use super::element::{self, Element};
use super::generation::Generation;
use super::message::{
    self, GET_CHAIN, GET_GENERATION, GET_OBJECT, GET_RULE, GET_SET, GET_SET_ELEMENT, GET_TABLE,
    INET_HEADER, MALFORMED, NEW_CHAIN, NEW_GENERATION, NEW_OBJECT, NEW_RULE, NEW_SET,
    NEW_SET_ELEMENT, NEW_TABLE, TABLE, kind,
};
use super::rule::Rule;
use super::set;
use super::table::{OWNED, Table, TableOwner};
use crate::netlink::attribute::put_text;
use crate::netlink::{Acknowledgement, ERROR, Errno, Messages, NetlinkError, Socket};
use crate::nft::error::NotUnderstood;
use crate::plan::Seat;
use crate::ruleset::{self, ChainName, CounterName, CounterValue, Ruleset, SetName, TableName};

/// How often a table that changes while it is read is read anew.
const READ_ATTEMPTS: u32 = 10;

/// How often the number of the last transaction is asked for anew when another one has come.
const SETTLE_ATTEMPTS: u32 = 100;

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

/// Reads a table whole. The kernel is asked several times; if anything in its rules has changed
/// between the first and the last answer, all is read anew. So it is when a reply is lost: until a takeover that
/// hangs is given up, two masters have the same socket, and each may take what the other has asked for.
pub(in crate::nft) fn read(
    socket: &mut Socket,
    table: &TableName,
) -> Result<TableState, NetlinkError> {
    let mut last = NetlinkError::DumpInterrupted { attempts: READ_ATTEMPTS };
    for _ in 0..READ_ATTEMPTS {
        match read_unchanged(socket, table) {
            Ok(Some(state)) => return Ok(state),
            Ok(None) => {}
            Err(NetlinkError::RepliesLost) => {
                socket.discard_replies();
                last = NetlinkError::RepliesLost;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Reads a table once; `None` if the rules have changed meanwhile.
fn read_unchanged(
    socket: &mut Socket,
    table: &TableName,
) -> Result<Option<TableState>, NetlinkError> {
    let before = settled_generation_id(socket)?;
    let state = read_once(socket, table);
    // An object that vanished between two requests is a change too.
    let vanished = matches!(&state, Err(error) if error.errno() == Some(Errno::ENOENT));
    match generation_id(socket)? == before && !vanished {
        true => state.map(Some),
        false => Ok(None),
    }
}

/// The number of the last transaction in this network namespace, when all of that one is to be seen. Waits for a
/// transaction that is under way.
///
/// The kernel counts a transaction first, and shows what it has changed a moment later (`nf_tables_commit`, net/netfilter/
/// nf_tables_api.c: `base_seq`, then `gencursor`). Where its processor is taken away in between, objects that are listed
/// before and after that moment are of two generations, although the number is the same all the time. A batch that
/// depends on the number passes the lock that each transaction holds until it is over. It is empty: it changes nothing,
/// counts as nothing, and nobody is told.
pub(in crate::nft) fn settled_generation_id(socket: &mut Socket) -> Result<u32, NetlinkError> {
    for _ in 0..SETTLE_ATTEMPTS {
        let id = generation_id(socket)?;
        if is_settled(socket, id)? {
            return Ok(id);
        }
    }
    Err(NetlinkError::DumpInterrupted { attempts: SETTLE_ATTEMPTS })
}

/// Whether this is the number of the last transaction, and none is under way.
fn is_settled(socket: &mut Socket, id: u32) -> Result<bool, NetlinkError> {
    let mut batch = Batch::of_families(&[], Some(id));
    let count = u32::try_from(batch.messages()).unwrap_or(u32::MAX);
    batch.number_from(socket.take_sequences(count));
    socket.send(batch.datagram())?;
    loop {
        let datagram = socket.receive()?.ok_or(NetlinkError::RepliesLost)?;
        for message in Messages::new(datagram) {
            let message = message?;
            let Some(place) = batch.message_at(message.sequence) else { continue };
            if message.kind != ERROR {
                continue;
            }
            match Acknowledgement::parse(&message)?.error {
                None if place == batch.end() => return Ok(true),
                None => {}
                Some(Errno::ERESTART) => return Ok(false),
                Some(errno) => return Err(NetlinkError::Refused { errno }),
            }
        }
    }
}

/// The number of the last transaction in this network namespace, which may not be over.
pub(in crate::nft) fn generation_id(socket: &mut Socket) -> Result<u32, NetlinkError> {
    socket.ask(kind(GET_GENERATION), &INET_HEADER, |kind, body| {
        let generation = Generation::parse(message::open(NEW_GENERATION, kind, body)?);
        generation.map(|generation| generation.id).ok_or(MALFORMED)
    })
}

/// Who owns the table of this name; `None` if there is none.
pub(in crate::nft) fn table_owner(
    socket: &mut Socket,
    table: &str,
) -> Result<Option<TableOwner>, NetlinkError> {
    Ok(find_table(socket, table)?.map(|table| table.owner))
}

/// The names of all `inet` tables that carry our mark, of whatever schema.
pub(in crate::nft) fn our_tables(socket: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    let tables = list(socket, GET_TABLE, &[], |kind, body| {
        Table::parse(message::open(NEW_TABLE, kind, body)?).ok_or(MALFORMED)
    })?;
    let ours = tables.into_iter().filter(|table| table.schema.is_some());
    Ok(ours.map(|table| table.name).collect())
}

/// What the counters of a table have counted. Reading changes nothing (`NFT_MSG_GETOBJ_RESET` would
/// set them to 0), and takes no look at anything else in the table.
pub(in crate::nft) fn counter_values(
    socket: &mut Socket,
    table: &TableName,
) -> Result<BTreeMap<Seat, CounterValue>, NetlinkError> {
    let objects = read_objects(socket, table)?;
    let counters = objects.iter().flatten().filter_map(Object::counter);
    Ok(counters.map(|(CounterName(seat), value)| (seat, value)).collect())
}

fn read_once(socket: &mut Socket, name: &TableName) -> Result<TableState, NetlinkError> {
    let Some(table) = find_table(socket, name.as_str())? else { return Ok(TableState::Absent) };
    let owner = table.owner;
    match table.schema {
        None => return Ok(TableState::Foreign),
        Some(TableName::SCHEMA) => {}
        Some(found) => return Ok(TableState::OtherSchema { found, owner }),
    }
    // Such as `dormant`: then the kernel keeps the table and does nothing by it.
    if table.flags & !OWNED != 0 {
        let object = "a flag of the table".to_owned();
        return Ok(TableState::Ours { contents: Err(NotUnderstood::Object { object }), owner });
    }
    let contents = Contents {
        chains: read_chains(socket, name)?,
        objects: read_objects(socket, name)?,
        sets: read_sets(socket, name)?,
        rules: read_rules(socket, name)?,
    };
    let contents = contents.understand(name).map_err(|object| NotUnderstood::Object { object });
    Ok(TableState::Ours { contents, owner })
}

fn find_table(socket: &mut Socket, name: &str) -> Result<Option<Table>, NetlinkError> {
    let table = socket.ask(kind(GET_TABLE), &request(&[(TABLE, name)]), |kind, body| {
        Table::parse(message::open(NEW_TABLE, kind, body)?).ok_or(MALFORMED)
    });
    match table {
        Ok(table) => Ok(Some(table)),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The contents of a table as the kernel lists them. What is not of a form that ours has is `None`.
struct Contents {
    chains: Vec<Chain>,
    objects: Vec<Option<Object>>,
    sets: BTreeMap<String, Option<Vec<Element>>>,
    rules: Vec<Rule>,
}

fn read_chains(socket: &mut Socket, table: &TableName) -> Result<Vec<Chain>, NetlinkError> {
    let mut chains = list(socket, GET_CHAIN, &[(TABLE, table.as_str())], |kind, body| {
        Chain::parse(message::open(NEW_CHAIN, kind, body)?).ok_or(MALFORMED)
    })?;
    // Kernels before 6.3 give the chains of all tables.
    chains.retain(|chain| chain.table == table.as_str());
    Ok(chains)
}

fn read_rules(socket: &mut Socket, table: &TableName) -> Result<Vec<Rule>, NetlinkError> {
    let mut rules = list(socket, GET_RULE, &[(TABLE, table.as_str())], |kind, body| {
        Rule::parse(message::open(NEW_RULE, kind, body)?).ok_or(MALFORMED)
    })?;
    rules.retain(|rule| rule.table == table.as_str());
    Ok(rules)
}

fn read_objects(
    socket: &mut Socket,
    table: &TableName,
) -> Result<Vec<Option<Object>>, NetlinkError> {
    let mut objects = list(socket, GET_OBJECT, &[(TABLE, table.as_str())], |kind, body| {
        Ok(Object::parse(message::open(NEW_OBJECT, kind, body)?))
    })?;
    objects.retain(|object| object.as_ref().is_none_or(|it| it.table == table.as_str()));
    Ok(objects)
}

fn read_sets(
    socket: &mut Socket,
    table: &TableName,
) -> Result<BTreeMap<String, Option<Vec<Element>>>, NetlinkError> {
    let names = list(socket, GET_SET, &[(TABLE, table.as_str())], |kind, body| {
        let name = set::parse_name(message::open(NEW_SET, kind, body)?);
        name.map(str::to_owned).ok_or(MALFORMED)
    })?;
    let mut sets = BTreeMap::new();
    for name in names {
        let of_set = [(TABLE, table.as_str()), (NFTA_SET_ELEM_LIST_SET, name.as_str())];
        let parts = list(socket, GET_SET_ELEMENT, &of_set, |kind, body| {
            Ok(element::parse(message::open(NEW_SET_ELEMENT, kind, body)?))
        })?;
        let elements: Option<Vec<Vec<Element>>> = parts.into_iter().collect();
        sets.insert(name, elements.map(|parts| parts.concat()));
    }
    Ok(sets)
}

/// Lists objects of `inet` tables: those that have these names as attributes.
fn list<T>(
    socket: &mut Socket,
    message: u8,
    names: &[(u16, &str)],
    mut parse: impl FnMut(u16, &[u8]) -> Result<T, NetlinkError>,
) -> Result<Vec<T>, NetlinkError> {
    socket.dump(kind(message), 0, &request(names), |kind, body| parse(kind, body).map(Some))
}

/// The body of a request about objects of `inet` tables, with names as attributes.
fn request(names: &[(u16, &str)]) -> Vec<u8> {
    let mut body = INET_HEADER.to_vec();
    for (kind, name) in names {
        put_text(&mut body, *kind, name);
    }
    body
}

impl Contents {
    /// The ruleset; else the name of the first object that is not as we write it.
    fn understand(self, table: &TableName) -> Result<Ruleset, String> {
        let mut chains = BTreeMap::new();
        for chain in self.chains {
            let known = chain.known.ok_or_else(|| format!("chain {}", chain.name))?;
            chains.insert(known, vec![]);
        }
        for rule in self.rules {
            let rules = ChainName::parse(&rule.chain).and_then(|name| chains.get_mut(&name));
            match (rules, rule.known) {
                (Some(rules), Some(rule)) => rules.push(rule),
                _ => return Err(format!("a rule of chain {}", rule.chain)),
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
        let sets = sets.into_iter().map(|(name, elements)| ruleset::Set { name, elements });
        let chains = chains.into_iter().map(|(name, rules)| ruleset::Chain { name, rules });
        Ok(Ruleset {
            table: table.clone(),
            counters: counters.into_iter().collect(),
            sets: sets.collect(),
            chains: chains.collect(),
        })
    }
}
