//! Other people's nat chains that decide before ours.
//!
//! All nat chains of a hook are one list, in the order of their priorities, and the first that makes a
//! mapping for a connection wins (`nf_nat_inet_fn`, net/netfilter/nf_nat_core.c). At the same
//! priority the one that was registered last comes first (`nf_hook_entries_grow`,
//! net/netfilter/core.c). The kernel tells the order in which tables were made, and not that of chains: one
//! of a newer table decides before ours, and one of an older table after, unless it was added to that later.
//! Of iptables-legacy it tells nothing of the kind.
//!
//! With [`Engine::Tproxy`] there is no nat chain of ours, and what others map to elsewhere is lost to us
//! whenever they do it: the socket of a mapped connection has another address than its packets have
//! where our rules see them.
//!
//! What a rule does to a connection to one of our listeners is found by carrying it out on what is
//! known of that connection's first packet (`packet.rs`). What is not known, or not understood, may
//! match or not: then the rule is reported as one that possibly decides.

mod filter;
mod legacy;
mod packet;
mod rule;
mod xt;

use std::cmp::Ordering;
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
use super::wire::message::{
    self, GET_CHAIN, GET_RULE, GET_SET, GET_SET_ELEMENT, GET_TABLE, NEW_TABLE, TABLE, UNSPECIFIED,
    kind,
};
use super::wire::table::Table as ListedTable;
use crate::netlink::attribute::put_text;
use crate::netlink::{Attributes, NetlinkError, NlFamily, Socket};
use crate::plan::{Engine, Listener, Listeners, Port, Protocol};
use crate::ruleset::{PRIORITY_DSTNAT, TableName};
pub(crate) use filter::{FilterEffect, Traffic};
pub(crate) use legacy::{LegacyDigests, UnreadLegacy};
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
    /// The handle of the rule, by which `nft -a list` shows it; of iptables-legacy its number in its chain.
    pub handle: u64,
    /// It is a rule of iptables-legacy, or of ip6tables-legacy.
    pub is_legacy: bool,
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
    /// The handle of the rule, by which `nft -a list` shows it; of iptables-legacy its number in its chain;
    /// `None`: the policy of the base chain.
    pub(crate) handle: Option<u64>,
    /// It is of iptables-legacy, or of ip6tables-legacy.
    pub(crate) is_legacy: bool,
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
    /// iptables, of nf_tables or legacy.
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
    /// Rules that drop what is in the midst of a TCP connection which connection tracking has no entry of.
    pub(crate) cuts: Vec<ForeignFilter>,
    /// What could not be read.
    pub(crate) unread: Vec<UnreadLegacy>,
}

/// How sure it is that a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Certainty {
    /// Every connection to the listener is mapped by the rule.
    Certain,
    /// Some may be: by what the rule also asks for, by what is not understood of it, or because its
    /// chain has the same priority as ours and it is not known which is older.
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
        let (tables, _) = self.read(Own::Unknown, wanted).map_err(failed)?;
        let targets: Vec<(Option<Listener>, Packet)> = match listeners {
            Some(all) => all.iter().map(|one| (Some(*one), Packet::to(one))).collect(),
            None => Packet::any().into_iter().map(|packet| (None, packet)).collect(),
        };
        Ok(analyse(&tables, &targets, |table, base| table.is_before(base, ours)))
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
        let (tables, unread) = self.read(Own::Known(traffic.table), wanted).map_err(failed)?;
        Ok(ForeignFound { unread, ..survey(&tables, traffic) })
    }

    /// What will become of a connection to this listener from this client, who comes by the first interface of
    /// the traffic, by all that is read and understood of the rules of others: the rule that stops it, and
    /// whether that is certain; `None`: none does.
    ///
    /// # Errors
    /// The errors of [`Self::find`].
    pub(crate) fn foresee(
        &mut self,
        listener: &Listener,
        client: IpAddr,
        traffic: &Traffic<'_>,
    ) -> Result<Option<(Certainty, String)>, NftError> {
        let ours = match traffic.engine {
            Engine::Redirect => PRIORITY_DSTNAT,
            Engine::Tproxy => i32::MAX,
        };
        let wanted = |base: &Base| {
            matches!(base.kind, BaseKind::Filter(_)) || base.is_nat_of(&[NatHook::Prerouting], ours)
        };
        let (tables, _) = self.read(Own::Known(traffic.table), wanted).map_err(failed)?;
        let Some(interface) = traffic.interfaces.first() else { return Ok(None) };
        let packet = Packet::to(listener).from(client, interface);
        let nat = analyse(&tables, &[(Some(*listener), packet)], |table, base| {
            table.is_before(base, ours)
        });
        let nat = nat.into_iter().min_by_key(|rule| rule.certainty);
        let nat = nat.map(|rule| (rule.certainty, rule.to_string()));
        let filter = filter::foresee(&tables, listener, client, traffic);
        let filter = filter.map(|(certainty, rule)| (certainty, rule.to_string()));
        Ok(nat.into_iter().chain(filter).min_by_key(|(certainty, _)| *certainty))
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
        let (tables, _) = self.read(Own::Unknown, wanted).map_err(failed)?;
        if tables.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (first, last) = range.into_inner();
        let general = &rules_for(&tables, first) & &rules_for(&tables, last);
        let is_mapped = |port: &u16| !rules_for(&tables, *port).is_subset(&general);
        Ok(ports.iter().copied().filter(is_mapped).collect())
    }

    /// Reads the tables of others that have base chains of which some are `wanted`, and says which cannot be
    /// read.
    fn read(
        &mut self,
        own: Own<'_>,
        wanted: impl Fn(&Base) -> bool,
    ) -> Result<(Vec<Table>, Vec<UnreadLegacy>), NetlinkError> {
        for _ in 0..ATTEMPTS {
            let before = dump::settled_generation_id(&mut self.socket)?;
            let tables = self.read_once(own, &wanted);
            if dump::generation_id(&mut self.socket)? == before {
                return tables;
            }
        }
        Err(NetlinkError::DumpInterrupted { attempts: ATTEMPTS })
    }

    fn read_once(
        &mut self,
        own: Own<'_>,
        wanted: &impl Fn(&Base) -> bool,
    ) -> Result<(Vec<Table>, Vec<UnreadLegacy>), NetlinkError> {
        let listed = self.list_tables()?;
        let own_age = own.age(&listed);
        let ours: BTreeSet<&TableId> =
            listed.iter().filter(|(_, table)| table.is_ours).map(|(id, _)| id).collect();
        let bases = self.socket.dump(kind(GET_CHAIN), 0, &request(0, &[]), |_, body| {
            Ok(parse_base(body).filter(|(of, base)| !ours.contains(of) && wanted(base)))
        })?;
        let mut tables: BTreeMap<TableId, Vec<Base>> = BTreeMap::new();
        for (of, base) in bases {
            tables.entry(of).or_default().push(base);
        }
        let mut read = Vec::new();
        for (id, bases) in tables {
            let handle = listed.get(&id).and_then(|table| table.handle);
            let table = self.read_table(id, bases)?;
            read.push(Table { is_newer: own_age.is_before(handle), ..table });
        }
        let (legacy, unread) = legacy::tables();
        for mut table in legacy {
            table.bases.retain(|base| wanted(base));
            table.is_newer = own_age.is_before(None);
            if !table.bases.is_empty() {
                read.push(table);
            }
        }
        Ok((read, unread))
    }

    /// The tables of all families that have base chains which are looked at.
    fn list_tables(&mut self) -> Result<BTreeMap<TableId, Listed>, NetlinkError> {
        let all =
            self.socket.dump(kind(GET_TABLE), 0, &request(UNSPECIFIED, &[]), |kind, body| {
                let family = body.first().and_then(|number| TableFamily::of(*number));
                let table = message::open(NEW_TABLE, kind, body).map(ListedTable::parse)?;
                Ok(family.zip(table).map(|(family, table)| {
                    // A table of a cluster is one of `inet`, those of a fleet are of others.
                    let is_of_cluster = table.schema.is_some() && family == TableFamily::Inet;
                    let is_ours = is_of_cluster || table.is_of_fleet;
                    let id = TableId { family, name: table.name.into_bytes() };
                    (id, Listed { handle: table.handle, is_ours })
                }))
            })?;
        Ok(all.into_iter().collect())
    }

    fn read_table(&mut self, id: TableId, bases: Vec<Base>) -> Result<Table, NetlinkError> {
        let family = id.family as u8;
        let in_table = request(family, &[(TABLE, &id.name)]);
        let (chains, sets) = (BTreeMap::new(), BTreeMap::new());
        let mut table = Table { id, is_legacy: false, is_newer: None, bases, chains, sets };
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
        write!(f, "table {family} {table}{}, ", of_legacy(self.is_legacy, *family))?;
        write!(f, "chain {chain} (nat {hook}, priority {priority}")?;
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
        write!(f, "table {family} {table}{}, ", of_legacy(self.is_legacy, *family))?;
        write!(f, "chain {chain} (filter {hook}, priority {priority}): ")?;
        match handle {
            None => f.write_str("policy drop"),
            Some(handle) if rule_chain == chain => write!(f, "rule {handle}"),
            Some(handle) => write!(f, "rule {handle} of chain {rule_chain}"),
        }
    }
}

/// Which program shows the table, where it is not nft.
fn of_legacy(is_legacy: bool, family: TableFamily) -> &'static str {
    match (is_legacy, family) {
        (false, _) => "",
        (true, TableFamily::Ip6) => " of ip6tables-legacy",
        (true, _) => " of iptables-legacy",
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

impl TableFamily {
    fn of(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|family| *family as u8 == number)
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

/// The table of the cluster that the rules of others are compared with.
#[derive(Debug, Clone, Copy)]
enum Own<'a> {
    Unknown,
    /// `None`: it is not made yet.
    Known(Option<&'a TableName>),
}

/// When that was made.
#[derive(Debug, Clone, Copy)]
enum OwnAge {
    Unknown,
    /// It will be the newest.
    NotYet,
    Made(u64),
}

/// A table in a listing.
#[derive(Debug, Clone, Copy)]
struct Listed {
    handle: Option<u64>,
    is_ours: bool,
}

impl Own<'_> {
    fn age(self, listed: &BTreeMap<TableId, Listed>) -> OwnAge {
        let Self::Known(name) = self else { return OwnAge::Unknown };
        let id = name.map(|name| TableId {
            family: TableFamily::Inet,
            name: name.as_str().as_bytes().to_vec(),
        });
        match id.and_then(|id| listed.get(&id)) {
            None => OwnAge::NotYet,
            Some(own) => own.handle.map_or(OwnAge::Unknown, OwnAge::Made),
        }
    }
}

impl OwnAge {
    /// Whether ours was made before the one with this handle; `None` if that is not known.
    fn is_before(self, handle: Option<u64>) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::NotYet => Some(false),
            Self::Made(own) => handle.map(|handle| own < handle),
        }
    }
}

/// What is needed of somebody's table.
#[derive(Debug)]
struct Table {
    id: TableId,
    /// It is one of iptables-legacy.
    is_legacy: bool,
    /// It was made after ours; `None` if that is not known.
    is_newer: Option<bool>,
    bases: Vec<Base>,
    chains: BTreeMap<Vec<u8>, Vec<Rule>>,
    sets: BTreeMap<Vec<u8>, Set>,
}

impl Table {
    /// Whether a nat chain of it decides before ours, which has this priority; `None`: it certainly does not.
    fn is_before(&self, base: &Base, ours: i32) -> Option<Certainty> {
        match (base.priority.cmp(&ours), self.is_newer) {
            (Ordering::Less, _) | (Ordering::Equal, Some(true)) => Some(Certainty::Certain),
            (Ordering::Equal, None) => Some(Certainty::Possible),
            (Ordering::Equal, Some(false)) | (Ordering::Greater, _) => None,
        }
    }

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
    let packets = |listener: &Listener| -> Vec<(Option<Listener>, Packet)> {
        let interfaces = traffic.interfaces.iter().take(filter::INTERFACES);
        let packets = interfaces.map(|it| (Some(*listener), Packet::to(listener).by(it)));
        let packets: Vec<_> = packets.collect();
        match packets.is_empty() {
            true => vec![(Some(*listener), Packet::to(listener))],
            false => packets,
        }
    };
    let targets: Vec<(Option<Listener>, Packet)> =
        traffic.listeners.iter().flat_map(packets).collect();
    let ours = match traffic.engine {
        Engine::Redirect => PRIORITY_DSTNAT,
        Engine::Tproxy => i32::MAX,
    };
    let before = analyse(tables, &targets, |table, base| table.is_before(base, ours));
    let is_after = |table: &Table, base: &Base| match table.is_before(base, ours) {
        Some(_) => None,
        None => Some(Certainty::Certain),
    };
    let mut after = analyse(tables, &targets, is_after);
    after.retain(|one| one.certainty == Certainty::Certain);
    let (filters, cuts) = (filter::judge(tables, traffic), filter::cuts(tables, traffic));
    ForeignFound { before, after, filters, cuts, unread: Vec::new() }
}

/// What nat chains map of these, of those that `is_wanted` with that certainty at most.
fn analyse(
    tables: &[Table],
    targets: &[(Option<Listener>, Packet)],
    is_wanted: impl Fn(&Table, &Base) -> Option<Certainty>,
) -> Vec<ForeignNat> {
    let mut found: BTreeMap<(usize, usize, Vec<u8>, u64), ForeignNat> = BTreeMap::new();
    for (number, table) in tables.iter().enumerate() {
        let seen = targets.iter().filter(|(_, packet)| packet.is_seen_by(table.id.family));
        for (listener, packet) in seen {
            for (place, base) in table.bases.iter().enumerate() {
                let BaseKind::Nat(hook) = base.kind else { continue };
                let Some(of_chain) = is_wanted(table, base) else { continue };
                for mapping in packet.walk(&table.chains, &table.sets, &base.name) {
                    let certainty = match mapping.is_certain {
                        true => of_chain,
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
                            is_legacy: table.is_legacy,
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
    let family = TableFamily::of(*body.first()?)?;
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
    netlink_error(&TableName::any(), "read the rules of others", source)
}

#[cfg(test)]
mod tests;
