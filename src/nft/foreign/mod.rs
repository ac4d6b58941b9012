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

mod filter;
mod packet;
mod rule;
mod xt;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::error::NftError;
use super::firewall::netlink_error;
use super::wire::chain::{
    NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE,
    NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY,
};
use super::wire::dump;
use super::wire::element::NFTA_SET_ELEM_LIST_SET;
use super::wire::message::{self, GET_CHAIN, GET_RULE, GET_SET, GET_SET_ELEMENT, TABLE, kind};
use crate::netlink::attribute::put_text;
use crate::netlink::{Attributes, NetlinkError, NlFamily, Socket};
use crate::plan::{Engine, Listener, Listeners, Port, Protocol};
use crate::ruleset::{PRIORITY_DSTNAT, TableName};
pub(crate) use filter::{FilterEffect, Traffic};
pub(crate) use packet::Interface;
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

/// A filter rule of somebody else, or the policy of a chain, and what it does to connections to a listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ForeignFilter {
    /// The family of the table.
    pub(crate) family: TableFamily,
    /// The table. What is not printable is escaped, here and in the other names.
    pub(crate) table: String,
    /// The base chain.
    pub(crate) chain: String,
    /// Its hook.
    pub(crate) hook: FilterHook,
    /// Its priority.
    pub(crate) priority: i32,
    /// The chain in which the rule stands, which may be another.
    pub(crate) rule_chain: String,
    /// The handle of the rule, by which `nft -a list` shows it; `None`: the policy of the base chain.
    pub(crate) handle: Option<u64>,
    /// The listener.
    pub(crate) listener: Listener,
    /// What it does.
    pub(crate) effect: FilterEffect,
    /// A client to whom it does so, and the interface by which it comes; `None`: to everybody.
    pub(crate) client: Option<(IpAddr, String)>,
    /// What has made the table, as far as that is known.
    pub(crate) origin: TableOrigin,
}

impl ForeignFilter {
    fn is_same_but_for_the_client(&self, other: &Self) -> bool {
        Self { client: None, ..self.clone() } == Self { client: None, ..other.clone() }
    }
}

/// The hook of a filter chain that connections to this host pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FilterHook {
    /// `NF_INET_PRE_ROUTING`
    Prerouting = 0,
    /// `NF_INET_LOCAL_IN`
    Input = 1,
}

/// What has made a table: by its name, and the names of its chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TableOrigin {
    /// ufw, by iptables.
    Ufw,
    /// firewalld.
    Firewalld,
    /// iptables.
    Iptables,
    /// Anybody.
    Nftables,
}

/// What was found of the rules of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ForeignFound {
    /// Nat rules that decide before ours.
    pub(crate) before: Vec<ForeignNat>,
    /// Nat rules that certainly map connections to our listeners, and come after ours: they never do.
    pub(crate) after: Vec<ForeignNat>,
    /// Filter rules that stand in the way, or no longer do.
    pub(crate) filters: Vec<ForeignFilter>,
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
        let wanted = |base: &Base| base.is_nat_of(hooks, ours);
        let tables = self.read(wanted).map_err(failed)?;
        let targets: Vec<(Option<Listener>, Packet)> = match listeners {
            Some(all) => all.iter().map(|one| (Some(*one), Packet::to(one))).collect(),
            None => Packet::any().into_iter().map(|packet| (None, packet)).collect(),
        };
        Ok(analyse(&tables, &targets, ours))
    }

    /// Finds all that concerns connections to these listeners: nat rules as [`Self::find`] does, those
    /// that come too late, and filter rules.
    ///
    /// # Errors
    /// The errors of [`Self::find`].
    pub(crate) fn survey(
        &mut self,
        traffic: &Traffic<'_>,
        local_clients: bool,
    ) -> Result<ForeignFound, NftError> {
        let hooks: &[NatHook] = match local_clients {
            true => &[NatHook::Prerouting, NatHook::Output],
            false => &[NatHook::Prerouting],
        };
        let wanted = |base: &Base| {
            matches!(base.kind, BaseKind::Filter(_)) || base.is_nat_of(hooks, i32::MAX)
        };
        let tables = self.read(wanted).map_err(failed)?;
        Ok(survey(&tables, traffic))
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
        let wanted = |base: &Base| base.is_nat_of(&[NatHook::Prerouting], i32::MAX);
        let tables = self.read(wanted).map_err(failed)?;
        if tables.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (first, last) = range.into_inner();
        let general = &rules_for(&tables, first) & &rules_for(&tables, last);
        let is_mapped = |port: &u16| !rules_for(&tables, *port).is_subset(&general);
        Ok(ports.iter().copied().filter(is_mapped).collect())
    }

    /// Reads the tables of others that have base chains of which some are `wanted`.
    fn read(&mut self, wanted: impl Fn(&Base) -> bool) -> Result<Vec<Table>, NetlinkError> {
        for _ in 0..ATTEMPTS {
            let before = dump::generation_id(&mut self.socket)?;
            let tables = self.read_once(&wanted);
            if dump::generation_id(&mut self.socket)? == before {
                return tables;
            }
        }
        Err(NetlinkError::DumpInterrupted { attempts: ATTEMPTS })
    }

    fn read_once(&mut self, wanted: &impl Fn(&Base) -> bool) -> Result<Vec<Table>, NetlinkError> {
        let ours: BTreeSet<String> = dump::our_tables(&mut self.socket)?.into_iter().collect();
        let bases = self.socket.dump(kind(GET_CHAIN), 0, &request(0, &[]), |_, body| {
            Ok(parse_base(body).filter(|(of, base)| {
                let is_ours = of.family == TableFamily::Inet
                    && std::str::from_utf8(&of.name).is_ok_and(|name| ours.contains(name));
                !is_ours && wanted(base)
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

impl fmt::Display for ForeignFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, hook, priority, rule_chain, handle, .. } = self;
        write!(f, "table {family} {table}, chain {chain} (filter {hook}, priority {priority}): ")?;
        match handle {
            None => f.write_str("policy drop"),
            Some(handle) if rule_chain == chain => write!(f, "rule {handle}"),
            Some(handle) => write!(f, "rule {handle} of chain {rule_chain}"),
        }
    }
}

impl fmt::Display for FilterHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
        })
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

/// A base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    name: Vec<u8>,
    kind: BaseKind,
    priority: i32,
    /// Its policy.
    drops: bool,
}

/// What a base chain is for, and where packets meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BaseKind {
    Nat(NatHook),
    Filter(FilterHook),
}

impl Base {
    fn is_nat_of(&self, hooks: &[NatHook], up_to: i32) -> bool {
        let is_wanted = matches!(self.kind, BaseKind::Nat(hook) if hooks.contains(&hook));
        is_wanted && self.priority <= up_to
    }
}

/// What is needed of somebody's table.
#[derive(Debug)]
struct Table {
    id: TableId,
    bases: Vec<Base>,
    chains: BTreeMap<Vec<u8>, Vec<Rule>>,
    sets: BTreeMap<Vec<u8>, Set>,
}

impl Table {
    fn origin(&self) -> TableOrigin {
        let has_chain = |begin: &[u8]| self.chains.keys().any(|name| name.starts_with(begin));
        let is_of_iptables = self.id.family != TableFamily::Inet
            && [&b"filter"[..], b"mangle", b"raw", b"nat"].contains(&self.id.name.as_slice())
            && self
                .bases
                .iter()
                .all(|base| base.name.is_ascii() && !base.name.iter().any(u8::is_ascii_lowercase));
        match () {
            () if self.id.name == b"firewalld" => TableOrigin::Firewalld,
            () if is_of_iptables && (has_chain(b"ufw-") || has_chain(b"ufw6-")) => TableOrigin::Ufw,
            () if is_of_iptables => TableOrigin::Iptables,
            () => TableOrigin::Nftables,
        }
    }
}

/// All that concerns this traffic.
fn survey(tables: &[Table], traffic: &Traffic<'_>) -> ForeignFound {
    let targets: Vec<(Option<Listener>, Packet)> =
        traffic.listeners.iter().map(|one| (Some(*one), Packet::to(one))).collect();
    let ours = match traffic.engine {
        Engine::Redirect => PRIORITY_DSTNAT,
        Engine::Tproxy => i32::MAX,
    };
    let (before, mut after): (Vec<ForeignNat>, Vec<ForeignNat>) =
        analyse(tables, &targets, i32::MAX).into_iter().partition(|one| one.priority <= ours);
    after.retain(|one| one.certainty == Certainty::Certain);
    let before = match before.is_empty() {
        true => before,
        // Those at our priority are not certain.
        false => analyse(tables, &targets, ours),
    };
    ForeignFound { before, after, filters: filter::judge(tables, traffic) }
}

/// `ours` is the priority of our chain among theirs.
fn analyse(tables: &[Table], targets: &[(Option<Listener>, Packet)], ours: i32) -> Vec<ForeignNat> {
    let mut found: BTreeMap<(usize, usize, Vec<u8>, u64), ForeignNat> = BTreeMap::new();
    for (number, table) in tables.iter().enumerate() {
        let seen = targets.iter().filter(|(_, packet)| packet.is_seen_by(table.id.family));
        for (listener, packet) in seen {
            for (place, base) in table.bases.iter().enumerate() {
                let BaseKind::Nat(hook) = base.kind else { continue };
                if base.priority > ours {
                    continue;
                }
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
                            hook,
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
            let is_nat = |base: &&Base| matches!(base.kind, BaseKind::Nat(_));
            let seen = table.bases.iter().filter(|_| packet.is_seen_by(table.id.family));
            for base in seen.filter(is_nat) {
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
    let entry = attributes.nested(NFTA_CHAIN_HOOK)?;
    let number = entry.u32(NFTA_HOOK_HOOKNUM)?;
    let kind = match attributes.get(NFTA_CHAIN_TYPE).map(text)? {
        b"nat" => [NatHook::Prerouting, NatHook::Output]
            .into_iter()
            .find(|known| *known as u32 == number)
            .map(BaseKind::Nat)?,
        b"filter" => [FilterHook::Prerouting, FilterHook::Input]
            .into_iter()
            .find(|known| *known as u32 == number)
            .map(BaseKind::Filter)?,
        _ => return None,
    };
    let priority = entry.u32(NFTA_HOOK_PRIORITY)?.cast_signed();
    /// `NF_DROP`.
    const DROP: u32 = 0;
    let drops = attributes.u32(NFTA_CHAIN_POLICY) == Some(DROP);
    let name = |kind| attributes.get(kind).map(|name| text(name).to_vec());
    let base = Base { name: name(NFTA_CHAIN_NAME)?, kind, priority, drops };
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
