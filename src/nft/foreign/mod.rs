//! Other people's nat chains that decide before ours.
//!
//! All nat chains of a hook are one list, in the order of their priorities, and the first that makes a
//! mapping for a connection wins (`nf_nat_inet_fn`, net/netfilter/nf_nat_core.c). At the same
//! priority the one that was registered last comes first (`nf_hook_entries_grow`,
//! net/netfilter/core.c), which cannot be told from outside.
//!
//! With [`Engine::Tproxy`] there is no nat chain of ours, and what others map to elsewhere is lost to us
//! whenever they do it: the socket of a mapped connection has another address than its packets have
//! where our rules see them.
//!
//! What a rule does to a connection to one of our listeners is found by carrying it out on what is
//! known of that connection's first packet (`packet.rs`). What is not known, or not understood, may
//! match or not: then the rule is reported as one that possibly decides.

mod packet;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::error::NftError;
use super::firewall::netlink_error;
use super::wire::chain::{
    NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM,
    NFTA_HOOK_PRIORITY,
};
use super::wire::dump;
use super::wire::element::NFTA_SET_ELEM_LIST_SET;
use super::wire::message::{self, GET_CHAIN, GET_RULE, GET_SET, GET_SET_ELEMENT, TABLE, kind};
use crate::netlink::attribute::put_text;
use crate::netlink::{Attributes, NetlinkError, NlFamily, Socket};
use crate::plan::{Engine, Listener, Listeners, Port, Protocol};
use crate::ruleset::{PRIORITY_DSTNAT, TableName};
use packet::Packet;
use rule::{Element, Rule, Set, text};

/// How often all is read again, if rules change meanwhile, before it counts as failed.
const ATTEMPTS: u32 = 5;

/// A rule of somebody else that maps connections to a listener of ours before our rules see them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignNat {
    /// The family of the table.
    pub family: TableFamily,
    /// The table. What is not printable is escaped, here and in the other names.
    pub table: String,
    /// The base chain that leads to the rule.
    pub chain: String,
    /// The hook of the base chain.
    pub hook: NatHook,
    /// The priority of the base chain: less than or equal to that of ours, -100; any with
    /// [`Engine::Tproxy`].
    pub priority: i32,
    /// The chain in which the rule stands, which may be another.
    pub rule_chain: String,
    /// The handle of the rule, by which `nft -a list` shows it.
    pub handle: u64,
    /// The first of our listeners whose connections it maps; `None` where no listeners were given.
    pub listener: Option<Listener>,
    /// How sure that is.
    pub certainty: Certainty,
}

/// The family of a table that can hold a nat chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet = 1,
    /// `NFPROTO_IPV4`.
    Ip = 2,
    /// `NFPROTO_IPV6`.
    Ip6 = 10,
}

/// A hook at which the destination of a connection can be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NatHook {
    /// `NF_INET_PRE_ROUTING`: connections from other hosts.
    Prerouting = 0,
    /// `NF_INET_LOCAL_OUT`: connections from this host.
    Output = 3,
}

/// How sure it is that a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Certainty {
    /// Every connection to the listener is mapped by the rule.
    Certain,
    /// Some may be: by what the rule also asks for, by what is not understood of it, or because its
    /// chain has the same priority as ours.
    Possible,
}

/// Reads other people's nat chains.
pub struct ForeignRules {
    socket: Socket,
}

impl ForeignRules {
    /// Opens a netlink socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NftError::Netlink`].
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::open(NlFamily::Netfilter).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Finds the rules that decide before ours on connections to `listeners`; with `None`, on any
    /// that somebody could listen for. With `local_clients` also on those that start on this host. `engine` is that of the cluster.
    ///
    /// # Errors
    /// [`NftError::Privilege`]; [`NftError::Netlink`], also if rules changed during each of 5
    /// attempts to read them.
    pub fn find(
        &mut self,
        listeners: Option<&Listeners>,
        local_clients: bool,
        engine: Engine,
    ) -> Result<Vec<ForeignNat>, NftError> {
        let ours = match engine {
            Engine::Redirect => PRIORITY_DSTNAT,
            Engine::Tproxy => i32::MAX,
        };
        let hooks: &[NatHook] = match local_clients {
            true => &[NatHook::Prerouting, NatHook::Output],
            false => &[NatHook::Prerouting],
        };
        let tables = self.read(hooks, ours).map_err(failed)?;
        let targets: Vec<(Option<Listener>, Packet)> = match listeners {
            Some(all) => all.iter().map(|one| (Some(*one), Packet::to(one))).collect(),
            None => Packet::any().into_iter().map(|packet| (None, packet)).collect(),
        };
        Ok(analyse(&tables, &targets, ours))
    }

    /// Those of these ports of this host for which some nat rule of others is, whatever it maps to and
    /// whenever it does. A rule that is for the first and the last port of `range` as well is for all of it,
    /// and does not count.
    ///
    /// # Errors
    /// The errors of [`Self::find`].
    pub(crate) fn mapped_ports(
        &mut self,
        ports: &[u16],
        range: RangeInclusive<u16>,
    ) -> Result<BTreeSet<u16>, NftError> {
        let tables = self.read(&[NatHook::Prerouting], i32::MAX).map_err(failed)?;
        if tables.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (first, last) = range.into_inner();
        let general = &rules_for(&tables, first) & &rules_for(&tables, last);
        let is_mapped = |port: &u16| !rules_for(&tables, *port).is_subset(&general);
        Ok(ports.iter().copied().filter(is_mapped).collect())
    }

    fn read(&mut self, hooks: &[NatHook], ours: i32) -> Result<Vec<Table>, NetlinkError> {
        for _ in 0..ATTEMPTS {
            let before = dump::generation_id(&mut self.socket)?;
            let tables = self.read_once(hooks, ours);
            if dump::generation_id(&mut self.socket)? == before {
                return tables;
            }
        }
        Err(NetlinkError::DumpInterrupted { attempts: ATTEMPTS })
    }

    fn read_once(&mut self, hooks: &[NatHook], priority: i32) -> Result<Vec<Table>, NetlinkError> {
        let ours: BTreeSet<String> = dump::our_tables(&mut self.socket)?.into_iter().collect();
        let bases = self.socket.dump(kind(GET_CHAIN), 0, &request(0, &[]), |_, body| {
            Ok(parse_base(body).filter(|(of, base)| {
                let is_ours = of.family == TableFamily::Inet
                    && std::str::from_utf8(&of.name).is_ok_and(|name| ours.contains(name));
                !is_ours && base.priority <= priority && hooks.contains(&base.hook)
            }))
        })?;
        let mut tables: BTreeMap<TableId, Vec<Base>> = BTreeMap::new();
        for (of, base) in bases {
            tables.entry(of).or_default().push(base);
        }
        tables.into_iter().map(|(id, bases)| self.read_table(id, bases)).collect()
    }

    fn read_table(&mut self, id: TableId, bases: Vec<Base>) -> Result<Table, NetlinkError> {
        let family = id.family as u8;
        let in_table = request(family, &[(TABLE, &id.name)]);
        let mut table = Table { id, bases, chains: BTreeMap::new(), sets: BTreeMap::new() };
        let rules = self.socket.dump(kind(GET_RULE), 0, &in_table, |_, body| {
            Ok(after_header(body).and_then(|attributes| rule::parse(attributes, &table.id.name)))
        })?;
        let mut wanted = BTreeSet::new();
        for (chain, rule) in rules {
            wanted.extend(rule.sets().map(<[u8]>::to_vec));
            table.chains.entry(chain).or_default().push(rule);
        }
        let sets = self.socket.dump(kind(GET_SET), 0, &in_table, |_, body| {
            Ok(after_header(body).and_then(Set::parse))
        })?;
        for (name, mut set) in sets.into_iter().filter(|(name, _)| wanted.contains(name)) {
            let of_set =
                request(family, &[(TABLE, &table.id.name), (NFTA_SET_ELEM_LIST_SET, &name)]);
            let lists = self.socket.dump(kind(GET_SET_ELEMENT), 0, &of_set, |_, body| {
                Ok(after_header(body).map(Element::parse_list))
            })?;
            set.elements = lists.into_iter().flatten().collect();
            set.elements.sort_by(|a, b| a.order().cmp(&b.order()));
            table.sets.insert(name, set);
        }
        Ok(table)
    }
}

impl fmt::Debug for ForeignRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignRules").finish_non_exhaustive()
    }
}

impl fmt::Display for ForeignNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, hook, priority, rule_chain, handle, .. } = self;
        write!(f, "table {family} {table}, chain {chain} (nat {hook}, priority {priority}")?;
        if *priority == PRIORITY_DSTNAT && self.certainty == Certainty::Possible {
            f.write_str(", the same as ours")?;
        }
        write!(f, "): rule {handle}")?;
        if rule_chain != chain {
            write!(f, " of chain {rule_chain}")?;
        }
        let verb = match self.certainty {
            Certainty::Certain => "maps",
            Certainty::Possible => "may map",
        };
        match &self.listener {
            Some(listener) => write!(f, " {verb} connections to {listener}"),
            None => write!(f, " {verb} connections"),
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for NatHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct TableId {
    family: TableFamily,
    name: Vec<u8>,
}

/// A nat base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    name: Vec<u8>,
    hook: NatHook,
    priority: i32,
}

/// What is needed of somebody's table.
#[derive(Debug)]
struct Table {
    id: TableId,
    bases: Vec<Base>,
    chains: BTreeMap<Vec<u8>, Vec<Rule>>,
    sets: BTreeMap<Vec<u8>, Set>,
}

/// `ours` is the priority of our chain among theirs.
fn analyse(tables: &[Table], targets: &[(Option<Listener>, Packet)], ours: i32) -> Vec<ForeignNat> {
    let mut found: BTreeMap<(usize, usize, Vec<u8>, u64), ForeignNat> = BTreeMap::new();
    for (number, table) in tables.iter().enumerate() {
        let seen = targets.iter().filter(|(_, packet)| packet.is_seen_by(table.id.family));
        for (listener, packet) in seen {
            for (place, base) in table.bases.iter().enumerate() {
                for mapping in packet.walk(&table.chains, &table.sets, &base.name) {
                    let is_first = base.priority < ours;
                    let certainty = match mapping.is_certain && is_first {
                        true => Certainty::Certain,
                        false => Certainty::Possible,
                    };
                    let entry = found
                        .entry((number, place, mapping.chain.clone(), mapping.handle))
                        .or_insert_with(|| ForeignNat {
                            family: table.id.family,
                            table: printable(&table.id.name),
                            chain: printable(&base.name),
                            hook: base.hook,
                            priority: base.priority,
                            rule_chain: printable(&mapping.chain),
                            handle: mapping.handle,
                            listener: *listener,
                            certainty,
                        });
                    if certainty < entry.certainty {
                        (entry.certainty, entry.listener) = (certainty, *listener);
                    }
                }
            }
        }
    }
    let mut all: Vec<ForeignNat> = found.into_values().collect();
    all.sort_by(|a, b| (a.priority, a).cmp(&(b.priority, b)));
    all
}

/// The rules that map, or may map, what comes for this port of this host: the table, the chain, the handle.
fn rules_for(tables: &[Table], port: u16) -> BTreeSet<(usize, Vec<u8>, u64)> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let Some(port) = Port::new(port) else { return BTreeSet::new() };
    let listeners = Protocol::ALL.into_iter().flat_map(|protocol| {
        any.into_iter().filter_map(move |address| Listener::new(protocol, address, port).ok())
    });
    let mut found = BTreeSet::new();
    for packet in listeners.map(|listener| Packet::to(&listener)) {
        for (number, table) in tables.iter().enumerate() {
            for base in table.bases.iter().filter(|_| packet.is_seen_by(table.id.family)) {
                let mappings = packet.walk(&table.chains, &table.sets, &base.name);
                found.extend(mappings.into_iter().map(|it| (number, it.chain, it.handle)));
            }
        }
    }
    found
}

fn parse_base(body: &[u8]) -> Option<(TableId, Base)> {
    let family = [TableFamily::Inet, TableFamily::Ip, TableFamily::Ip6]
        .into_iter()
        .find(|family| body.first() == Some(&(*family as u8)))?;
    let attributes = Attributes::new(after_header(body)?);
    let is_nat = attributes.get(NFTA_CHAIN_TYPE).map(text) == Some(b"nat");
    let entry = attributes.nested(NFTA_CHAIN_HOOK)?;
    let number = entry.u32(NFTA_HOOK_HOOKNUM)?;
    let hook = [NatHook::Prerouting, NatHook::Output]
        .into_iter()
        .find(|known| *known as u32 == number)
        .filter(|_| is_nat)?;
    let priority = entry.u32(NFTA_HOOK_PRIORITY)?.cast_signed();
    let name = |kind| attributes.get(kind).map(|name| text(name).to_vec());
    let base = Base { name: name(NFTA_CHAIN_NAME)?, hook, priority };
    Some((TableId { family, name: name(NFTA_CHAIN_TABLE)? }, base))
}

/// The attributes behind `struct nfgenmsg`.
fn after_header(body: &[u8]) -> Option<&[u8]> {
    message::split(body).map(|(_, attributes)| attributes)
}

fn request(family: u8, names: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = message::header(family, 0).to_vec();
    for (kind, name) in names {
        put_text(&mut body, *kind, name);
    }
    body
}

fn printable(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

fn failed(source: NetlinkError) -> NftError {
    netlink_error(&TableName::any(), "look for nat chains that decide before it", source)
}

#[cfg(test)]
mod tests;
