//! What filter rules of others do to connections to our listeners, before and after their translation. Pure.
//!
//! With the engine `redirect` an input chain sees a worker port where the rules of the host say a public one.
//! So each rule is carried out twice, on the first packet as the client has sent it and as the engine leaves
//! it, for a client on each side of each address that the rules name, by each interface if they name any.
//!
//! | as sent | as translated | what it is |
//! |---|---|---|
//! | let in | dropped | [`FilterEffect::Dropped`] |
//! | dropped, whoever sends it | dropped | the same: nobody has opened the port |
//! | dropped | let in | [`FilterEffect::Bypassed`], or [`FilterEffect::Opened`] if the rule that lets it in is for translated connections, and none was for the port |
//! | not known, by a rule for the port | let in | [`FilterEffect::Bypassed`] |
//! | not known | the same, by the same rule | nothing: the translation makes no difference |
//! | | not known | [`FilterEffect::Unknown`] |

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{Conntrack, End, EndKind, Interface, Packet, Progress};
use super::rule::{Loaded, Operator, Step};
use super::{Base, BaseKind, Certainty, FilterHook, ForeignFilter, Table, printable};
use crate::plan::{Engine, Listener, Port, Protocol};
use crate::ruleset::{PRIORITY_DSTNAT, PRIORITY_MANGLE, TableName};

/// `NF_IP_PRI_CONNTRACK`: chains up to there see packets before connection tracking does.
const PRIORITY_CONNTRACK: i32 = -200;

/// The most addresses of a set, clients and interfaces that are looked at.
const OF_A_SET: usize = 8;
const CLIENTS: usize = 64;
pub(super) const INTERFACES: usize = 16;

/// What filter rules do to connections to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FilterEffect {
    /// They are dropped.
    Dropped,
    /// They were dropped, and are let in once they are translated.
    Bypassed,
    /// The same, by a rule for translated connections, where no rule was for the port.
    Opened,
    /// They are exempted from connection tracking, so that they cannot be translated.
    Untracked,
    /// The kernel answers them (SYNPROXY), and the connection that it then makes itself is led to no worker.
    Proxied,
    /// They are handed to a socket of another program (tproxy), if one is there.
    Diverted,
    /// It cannot be told.
    Unknown,
}

/// What connections there may be.
#[derive(Debug, Clone)]
pub(crate) struct Traffic<'a> {
    /// The table of the cluster; `None` if it is not made yet.
    pub(crate) table: Option<&'a TableName>,
    pub(crate) listeners: &'a [Listener],
    /// Ports that they are translated to: one or more of the range.
    pub(crate) worker_ports: &'a [Port],
    pub(crate) engine: Engine,
    /// Connections of this host are led to workers.
    pub(crate) local_clients: bool,
    pub(crate) interfaces: &'a [Interface],
    /// Connection tracking takes up a connection in its midst (`nf_conntrack_tcp_loose`).
    pub(crate) is_picked_up: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    LetIn,
    Dropped(Place),
    Unknown(Place),
}

/// A rule, or the policy of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    table: usize,
    base: usize,
    end: End,
}

/// One client.
struct Row<'a> {
    client: IpAddr,
    interface: &'a Interface,
    before: Fate,
    after: Fate,
    /// Which rule has let it in after all, in the chain that dropped it before.
    let_in_by: Option<End>,
}

pub(super) fn judge(tables: &[Table], traffic: &Traffic<'_>) -> Vec<ForeignFilter> {
    let chains = chains(tables);
    if chains.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    // What comes for a loopback address is from this host, by the loopback interface.
    for listener in traffic.listeners.iter().filter(|it| !it.is_loopback()) {
        if let Some(place) = proxied(tables, &chains, listener, traffic) {
            if !traffic.local_clients {
                found.push(finding(tables, listener, FilterEffect::Proxied, &place, None));
            }
            continue;
        }
        if let Some(place) = diverted(tables, &chains, listener, traffic) {
            found.push(finding(tables, listener, FilterEffect::Diverted, &place, None));
        }
        if let Some(place) = untracked(tables, &chains, listener, traffic) {
            found.push(finding(tables, listener, FilterEffect::Untracked, &place, None));
            continue;
        }
        let all: Vec<Vec<Row<'_>>> = traffic
            .worker_ports
            .iter()
            .map(|port| rows(tables, &chains, listener, *port, traffic))
            .collect();
        let mut of_listener: Vec<ForeignFilter> = Vec::new();
        for rows in &all {
            for one in compare(tables, listener, rows) {
                let is_same = |it: &ForeignFilter| it.is_same_but_for_the_client(&one);
                if !of_listener.iter().any(is_same) {
                    of_listener.push(one);
                }
            }
        }
        found.extend(of_listener);
    }
    found
}

/// Rules that drop what is in the midst of a connection which connection tracking has no entry of, and let in what
/// begins it and what is in the midst of one that it knows: the first for each TCP listener.
pub(super) fn cuts(tables: &[Table], traffic: &Traffic<'_>) -> Vec<ForeignFilter> {
    let chains = chains(tables);
    if chains.is_empty() {
        return Vec::new();
    }
    let forgotten = Progress::Forgotten { is_picked_up: traffic.is_picked_up };
    let translated = traffic.worker_ports.first().copied();
    let translated = translated.filter(|_| traffic.engine == Engine::Redirect);
    let cut_of = |listener: &Listener| {
        let becomes = |packet: &Packet, progress| {
            fate(tables, &chains, &packet.of(progress), listener, translated)
        };
        clients(tables, listener.address().is_ipv4()).into_iter().find_map(|client| {
            let packet = Packet::to(listener).from(client, traffic.interfaces.first()?);
            match becomes(&packet, forgotten) {
                Fate::Dropped(place)
                    if [Progress::First, Progress::Established]
                        .into_iter()
                        .all(|progress| becomes(&packet, progress) == Fate::LetIn) =>
                {
                    Some(finding(tables, listener, FilterEffect::Dropped, &place, None))
                }
                _ => None,
            }
        })
    };
    let is_tcp = |it: &&Listener| it.protocol() == Protocol::Tcp && !it.is_loopback();
    traffic.listeners.iter().filter(is_tcp).filter_map(cut_of).collect()
}

/// What stands in the way of one client, who comes by the first of the interfaces, and whether that is certain.
pub(super) fn foresee(
    tables: &[Table],
    listener: &Listener,
    client: IpAddr,
    traffic: &Traffic<'_>,
) -> Option<(Certainty, ForeignFilter)> {
    let chains = chains(tables);
    let found = |effect, place: &Place| finding(tables, listener, effect, place, None);
    if let Some(place) = proxied(tables, &chains, listener, traffic) {
        let finding = found(FilterEffect::Proxied, &place);
        return (!traffic.local_clients).then_some((Certainty::Certain, finding));
    }
    if let Some(place) = untracked(tables, &chains, listener, traffic) {
        let certainty = match place.end.is_certain {
            true => Certainty::Certain,
            false => Certainty::Possible,
        };
        return Some((certainty, found(FilterEffect::Untracked, &place)));
    }
    let packet = Packet::to(listener).from(client, traffic.interfaces.first()?);
    let translated = traffic.worker_ports.first().copied();
    let translated = translated.filter(|_| traffic.engine == Engine::Redirect);
    match fate(tables, &chains, &packet, listener, translated) {
        Fate::LetIn => None,
        Fate::Dropped(place) => Some((Certainty::Certain, found(FilterEffect::Dropped, &place))),
        Fate::Unknown(place) => Some((Certainty::Possible, found(FilterEffect::Unknown, &place))),
    }
}

/// The filter chains, in the order in which packets pass them.
fn chains(tables: &[Table]) -> Vec<(usize, usize, FilterHook, i32)> {
    let mut all = Vec::new();
    for (table, of) in tables.iter().enumerate() {
        for (base, chain) in of.bases.iter().enumerate() {
            if let BaseKind::Filter(hook) = chain.kind {
                all.push((table, base, hook, chain.priority));
            }
        }
    }
    all.sort_by_key(|(_, _, hook, priority)| (*hook, *priority));
    all
}

fn rows<'a>(
    tables: &[Table],
    chains: &[(usize, usize, FilterHook, i32)],
    listener: &Listener,
    worker_port: Port,
    traffic: &Traffic<'a>,
) -> Vec<Row<'a>> {
    let interfaces = match tables.iter().any(names_interfaces) {
        true => traffic.interfaces.iter().take(INTERFACES),
        false => traffic.interfaces.iter().take(1),
    };
    let interfaces: Vec<&Interface> = interfaces.collect();
    let mut rows = Vec::new();
    for client in clients(tables, listener.address().is_ipv4()) {
        for interface in &interfaces {
            let packet = Packet::to(listener).from(client, interface);
            let translated = (traffic.engine == Engine::Redirect).then_some(worker_port);
            let before = fate(tables, chains, &packet, listener, None);
            let after = match translated {
                Some(_) => fate(tables, chains, &packet, listener, translated),
                None => before.clone(),
            };
            let let_in_by = match (&before, &after) {
                (Fate::Dropped(place), Fate::LetIn) => {
                    let base = tables.get(place.table).and_then(|it| it.bases.get(place.base));
                    base.and_then(|base| {
                        let seen = seen_at(&packet, base, listener, translated);
                        ends(tables, place.table, place.base, &seen)
                            .into_iter()
                            .rfind(|end| end.is_certain)
                    })
                }
                _ => None,
            };
            rows.push(Row { client, interface, before, after, let_in_by });
        }
    }
    rows
}

/// The packet as this chain sees it.
fn seen_at(packet: &Packet, base: &Base, listener: &Listener, translated: Option<Port>) -> Packet {
    let public = listener.port().number();
    let is_late =
        base.kind == BaseKind::Filter(FilterHook::Input) || base.priority > PRIORITY_DSTNAT;
    match translated {
        Some(port) if is_late => packet.seen(Conntrack::Translated { port: public }, port.number()),
        _ if base.kind == BaseKind::Filter(FilterHook::Prerouting)
            && base.priority <= PRIORITY_CONNTRACK =>
        {
            packet.seen(Conntrack::NotYet, public)
        }
        _ => packet.seen(Conntrack::New, public),
    }
}

/// What becomes of it in one base chain, up to what is certain; the policy is the last.
fn ends(tables: &[Table], table: usize, base: usize, packet: &Packet) -> Vec<End> {
    let Some(of) = tables.get(table) else { return Vec::new() };
    let Some(chain) = of.bases.get(base) else { return Vec::new() };
    if !packet.is_seen_by(of.id.family) {
        return Vec::new();
    }
    let (mut ends, goes_through) = packet.ends(&of.chains, &of.sets, &chain.name);
    ends.retain(|end| !matches!(end.kind, EndKind::Map | EndKind::Untrack | EndKind::Divert));
    if goes_through {
        let kind = if chain.drops { EndKind::Drop } else { EndKind::Accept };
        let (chain, tests) = (chain.name.clone(), Default::default());
        ends.push(End { kind, chain, handle: 0, is_certain: true, tests });
    }
    ends
}

fn fate(
    tables: &[Table],
    chains: &[(usize, usize, FilterHook, i32)],
    packet: &Packet,
    listener: &Listener,
    translated: Option<Port>,
) -> Fate {
    let mut unknown = None;
    let mut is_exempt = false;
    for (table, base, hook, priority) in chains {
        let Some(of) = tables.get(*table) else { continue };
        let Some(chain) = of.bases.get(*base) else { continue };
        let is_early = *hook == FilterHook::Prerouting && *priority <= PRIORITY_CONNTRACK;
        let seen = match is_exempt && !is_early {
            true => packet.seen(Conntrack::Untracked, listener.port().number()),
            false => seen_at(packet, chain, listener, translated),
        };
        if is_early && packet.is_seen_by(of.id.family) {
            let all = seen.ends(&of.chains, &of.sets, &chain.name).0;
            is_exempt |= all.iter().any(|end| end.kind == EndKind::Untrack && end.is_certain);
        }
        let ends = ends(tables, *table, *base, &seen);
        let place = |end: &End| Place { table: *table, base: *base, end: end.clone() };
        let Some(last) = ends.last() else { continue };
        if ends.iter().all(|end| end.kind == EndKind::Drop) {
            return Fate::Dropped(place(last));
        }
        // What may decide otherwise than the one that decides at last.
        if let Some(other) = ends.iter().find(|end| end.kind != EndKind::Accept) {
            let doubt = ends.iter().find(|end| !end.is_certain).unwrap_or(other);
            unknown.get_or_insert_with(|| place(doubt));
        }
    }
    unknown.map_or(Fate::LetIn, Fate::Unknown)
}

fn untracked(
    tables: &[Table],
    chains: &[(usize, usize, FilterHook, i32)],
    listener: &Listener,
    traffic: &Traffic<'_>,
) -> Option<Place> {
    match traffic.engine {
        Engine::Redirect => exemption(tables, chains, listener, traffic),
        Engine::Tproxy => None,
    }
}

/// The rule that hands it to a socket of another program. Of several such rules the last decides.
fn diverted(
    tables: &[Table],
    chains: &[(usize, usize, FilterHook, i32)],
    listener: &Listener,
    traffic: &Traffic<'_>,
) -> Option<Place> {
    let client = anybody(listener.address().is_ipv4());
    let decides = |of: &Table, priority: i32| match traffic.engine {
        Engine::Redirect => true,
        Engine::Tproxy => {
            priority > PRIORITY_MANGLE || priority == PRIORITY_MANGLE && of.is_newer == Some(false)
        }
    };
    chains.iter().rev().find_map(|(table, base, hook, priority)| {
        let of = tables.get(*table).filter(|of| decides(of, *priority))?;
        let chain = of.bases.get(*base).filter(|_| *hook == FilterHook::Prerouting)?;
        traffic.interfaces.iter().take(INTERFACES).find_map(|interface| {
            let packet = Packet::to(listener).from(client, interface);
            if !packet.is_seen_by(of.id.family) {
                return None;
            }
            // Chains that come after a translation of ours see the worker port.
            let translated = traffic.worker_ports.first().copied();
            let translated = translated.filter(|_| traffic.engine == Engine::Redirect);
            let seen = seen_at(&packet, chain, listener, translated);
            let ends = seen.ends(&of.chains, &of.sets, &chain.name).0;
            let end = ends.into_iter().find(|it| it.kind == EndKind::Divert && it.is_certain)?;
            Some(Place { table: *table, base: *base, end })
        })
    })
}

/// The rule of SYNPROXY that has what is exempted from connection tracking.
fn proxied(
    tables: &[Table],
    chains: &[(usize, usize, FilterHook, i32)],
    listener: &Listener,
    traffic: &Traffic<'_>,
) -> Option<Place> {
    exemption(tables, chains, listener, traffic)?;
    let packet = packet_of_anybody(listener, traffic)?;
    let seen = packet.seen(Conntrack::Untracked, listener.port().number());
    let inputs = chains.iter().filter(|(_, _, hook, _)| *hook == FilterHook::Input);
    let mut ends = inputs.flat_map(|(table, base, ..)| {
        let ends = ends(tables, *table, *base, &seen);
        ends.into_iter().map(|end| Place { table: *table, base: *base, end })
    });
    ends.find(|place| place.end.kind == EndKind::Proxied)
}

/// The rule that exempts it from connection tracking.
fn exemption(
    tables: &[Table],
    chains: &[(usize, usize, FilterHook, i32)],
    listener: &Listener,
    traffic: &Traffic<'_>,
) -> Option<Place> {
    let packet = packet_of_anybody(listener, traffic)?;
    for (table, base, hook, priority) in chains {
        if *hook != FilterHook::Prerouting || *priority >= PRIORITY_CONNTRACK {
            continue;
        }
        let seen_by = tables.get(*table).filter(|of| packet.is_seen_by(of.id.family));
        let Some(of) = seen_by else { continue };
        let Some(chain) = of.bases.get(*base) else { continue };
        let seen = packet.seen(Conntrack::NotYet, listener.port().number());
        let ends = seen.ends(&of.chains, &of.sets, &chain.name).0;
        if let Some(end) = ends.into_iter().find(|it| it.kind == EndKind::Untrack) {
            return Some(Place { table: *table, base: *base, end });
        }
    }
    None
}

fn packet_of_anybody(listener: &Listener, traffic: &Traffic<'_>) -> Option<Packet> {
    let client = anybody(listener.address().is_ipv4());
    Some(Packet::to(listener).from(client, traffic.interfaces.first()?))
}

/// What the translation changes for these clients, or keeps as bad as it was.
fn compare(tables: &[Table], listener: &Listener, rows: &[Row<'_>]) -> Vec<ForeignFilter> {
    let was_shut = rows.iter().all(|row| matches!(row.before, Fate::Dropped(_)));
    let is_for_port = |row: &Row<'_>| match &row.before {
        Fate::Dropped(place) => place.end.tests.port,
        _ => false,
    };
    let is_generally_shut = was_shut && !rows.iter().any(is_for_port);
    let mut found: Vec<(ForeignFilter, usize)> = Vec::new();
    for row in rows {
        let (effect, place) = match (&row.before, &row.after) {
            (Fate::Dropped(_), Fate::Dropped(_)) if !was_shut => continue,
            (_, Fate::Dropped(place)) => (FilterEffect::Dropped, place),
            (Fate::Dropped(place), Fate::LetIn) => {
                let tests = row.let_in_by.as_ref().map(|end| end.tests).unwrap_or_default();
                match tests {
                    // It names the public port: somebody has thought of it.
                    tests if tests.original_port => continue,
                    tests if tests.translation && is_generally_shut => {
                        (FilterEffect::Opened, place)
                    }
                    _ => (FilterEffect::Bypassed, place),
                }
            }
            (Fate::Unknown(before), Fate::Unknown(after)) if before.end == after.end => continue,
            (_, Fate::Unknown(place)) => (FilterEffect::Unknown, place),
            // A limit of rates, a list of addresses that is not known here: whatever it did, it is over.
            (Fate::Unknown(place), Fate::LetIn)
                if place.end.kind == EndKind::Drop && place.end.tests.port =>
            {
                (FilterEffect::Bypassed, place)
            }
            (_, Fate::LetIn) => continue,
        };
        let client = Some((row.client, row.interface.name.clone()));
        let one = finding(tables, listener, effect, place, client);
        match found.iter_mut().find(|(known, _)| known.is_same_but_for_the_client(&one)) {
            Some((_, count)) => *count += 1,
            None => found.push((one, 1)),
        }
    }
    let of_everybody = |(one, count): (ForeignFilter, usize)| match count == rows.len() {
        true => ForeignFilter { client: None, ..one },
        false => one,
    };
    found.into_iter().map(of_everybody).collect()
}

fn finding(
    tables: &[Table],
    listener: &Listener,
    effect: FilterEffect,
    place: &Place,
    client: Option<(IpAddr, String)>,
) -> ForeignFilter {
    let table = tables.get(place.table).expect("a place in one of these tables");
    let base = table.bases.get(place.base).expect("a base chain of this table");
    let BaseKind::Filter(hook) = base.kind else { unreachable!("filter chains alone are judged") };
    ForeignFilter {
        family: table.id.family,
        table: printable(&table.id.name),
        chain: printable(&base.name),
        hook,
        priority: base.priority,
        rule_chain: printable(&place.end.chain),
        handle: (place.end.handle != 0).then_some(place.end.handle),
        listener: *listener,
        effect,
        client,
        is_legacy: table.is_legacy,
        origin: table.origin(),
    }
}

/// An address of documentation, for a client that no rule names.
fn anybody(is_ipv4: bool) -> IpAddr {
    match is_ipv4 {
        true => Ipv4Addr::new(203, 0, 113, 77).into(),
        false => Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x77).into(),
    }
}

/// Clients between whom the rules may make a difference: on each side of every address that they name.
fn clients(tables: &[Table], is_ipv4: bool) -> BTreeSet<IpAddr> {
    let mut named = BTreeSet::new();
    for table in tables {
        for rule in table.chains.values().flatten() {
            sources_of(table, &rule.steps, is_ipv4, &mut named);
        }
    }
    let first = std::iter::once(anybody(is_ipv4));
    first.chain(named).take(CLIENTS).collect()
}

/// The addresses that a rule compares the source with.
fn sources_of(table: &Table, steps: &[Step], is_ipv4: bool, named: &mut BTreeSet<IpAddr>) {
    let source = if is_ipv4 { 12 } else { 8 };
    let mut add = |octets: &[u8], is_excluded: bool| {
        let Some(address) = address(octets, is_ipv4) else { return };
        named.insert(address);
        if !is_excluded {
            named.insert(next(address));
        }
    };
    // The first byte of the register that holds the source.
    let mut held: Option<usize> = None;
    for step in steps {
        match step {
            Step::Load { what: Loaded::Network { offset }, to, .. } if *offset == source => {
                held = Some(*to);
            }
            Step::Compare { from, operator, value } if Some(*from) == held => {
                let is_one = matches!(operator, Operator::Equal | Operator::NotEqual);
                add(value, !is_one);
            }
            Step::Range { from, low, high, .. } if Some(*from) == held => {
                add(low, true);
                add(high, false);
            }
            Step::Lookup { key, set, .. } => {
                let Some(at) = held.and_then(|held| held.checked_sub(*key)) else { continue };
                let Some(set) = table.sets.get(set) else { continue };
                let every = set.elements.len().div_ceil(OF_A_SET).max(1);
                // The start of an interval, and its end, which is outside.
                for element in set.elements.iter().step_by(every).chain(set.elements.last()) {
                    if let Some(octets) = element.key.get(at..) {
                        add(octets, set.has_intervals);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The address that begins with these bytes; what is missing of it is zero.
fn address(octets: &[u8], is_ipv4: bool) -> Option<IpAddr> {
    let mut whole = [0; 16];
    for (to, from) in whole.iter_mut().zip(octets) {
        *to = *from;
    }
    let address: IpAddr = match is_ipv4 {
        true => Ipv4Addr::from(<[u8; 4]>::try_from(whole.get(..4)?).ok()?).into(),
        false => Ipv6Addr::from(whole).into(),
    };
    (!address.is_unspecified() && !address.is_multicast() && !address.is_loopback())
        .then_some(address)
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(1)).into(),
    }
}

fn names_interfaces(table: &Table) -> bool {
    let names = |step: &Step| {
        matches!(step, Step::Load { what: Loaded::InterfaceName | Loaded::InterfaceIndex, .. })
    };
    table.chains.values().flatten().any(|rule| rule.steps.iter().any(names))
}
