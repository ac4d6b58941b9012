//! The rules by which one host of a fleet passes packets of other hosts' clients on to them. Pure.
//!
//! Two kinds, each in tables of its own beside those of the host's cluster, which stay as they are:
//!
//! - The *director* (family `netdev`, hook ingress, so before connection tracking): packets of clients whose slot
//!   another member owns go to that member with `fwd`, which changes neither address. What a member has passed on
//!   is let pass, so nothing is passed on twice by directors; members are known by their MAC address.
//! - The *second chance* (families `ip` and `ip6`, hook prerouting, before packets are intercepted or translated):
//!   packets of tcp that begin no connection and belong to none of this host go to the slot's former owner with
//!   `dup`, or from one former owner to the one before. They are those of connections that are older than the
//!   last change of the members. For udp there is none: no datagram tells whether it is the first of its flow.
//!
//! ICMP errors about what the listeners have sent (packets that are too large) go the same ways, by the client's
//! address in the packet that they quote.
//!
//! Hosts do not all see a change at once, and what a host does not know another one may have. So a second chance
//! marks what it passes on, by the place of the next host in the line of the slot's owners: only who finds itself at
//! that place knows that all before it have looked, and, as the last one, answers with a reset. Who is a former owner
//! otherwise passes the packet to the owner, where the line begins. While hosts disagree, two of them may pass a
//! packet to each other; each time its TTL goes down by one, and when it is gone the client sends it again.
//!
//! [`lower_fleet`] gives them; they print as a script for `nft -f` that puts them into force in one transaction,
//! in place of those of before. Needs Linux 4.14 (`fwd` to an address: `nft_fwd_neigh`, net/netfilter/nft_fwd_netdev.c)
//! and nft 0.9.8.

mod line;
mod object;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use object::FleetTableName;
pub(crate) use object::{
    ClientAddress, FleetChain, FleetHook, FleetMap, FleetRule, FleetSet, FleetTable,
    FleetTableKind, LAST_CHAIN, MEMBERS, Mark, SECOND_CHANCE_PRIORITY, UNKNOWN_CHAIN,
    UNKNOWN_ERRORS_CHAIN, errors_chain, owners_chain,
};

pub use crate::plan::fleet::DeviceName;
use line::{Targets, next_in_line, next_owner, place_in_line};

use crate::plan::fleet::{Fleet, FleetError, MacAddress, Member, MemberName};
use crate::plan::{ClusterName, Engine, Listener, Listeners, Partition, Protocol, Slot};

use super::object::Family;

/// What the rules of one host of a fleet depend on beside the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetHost {
    /// The name of the fleet: that of its tables.
    pub name: ClusterName,
    /// Which member this host is.
    pub member: MemberName,
    /// The network device on which clients' packets come in and the other members are.
    pub device: DeviceName,
    /// The engine of the host's cluster: how it is known which connections are the host's.
    pub engine: Engine,
    /// What the fleet serves: all with a named address, which every member has.
    pub listeners: Listeners,
}

impl FleetHost {
    /// One member's host.
    pub fn new(
        name: ClusterName,
        member: MemberName,
        device: DeviceName,
        engine: Engine,
        listeners: Listeners,
    ) -> Self {
        Self { name, member, device, engine, listeners }
    }
}

/// The rules of one host of a fleet. Their text is a script for `nft -f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetRuleset {
    pub(crate) name: FleetTableName,
    pub(crate) device: DeviceName,
    /// In the order of their kinds. A kind for which there is nothing to do has none.
    pub(crate) tables: Vec<FleetTable>,
}

/// The rules of one host.
///
/// # Errors
/// [`FleetError::NotAMember`]; [`FleetError::WildcardListener`]: a fleet serves addresses that all members have,
/// not those of each; [`FleetError::NoMac`] of another member, [`FleetError::NoAddress`] of one that owns slots or
/// did.
pub fn lower_fleet(fleet: &Fleet, host: FleetHost) -> Result<FleetRuleset, FleetError> {
    let others = fleet.members().iter().filter(|member| *member.name() != host.member);
    if let Some(unknown) = others.into_iter().find(|member| member.mac().is_none()) {
        return Err(FleetError::NoMac { name: unknown.name().clone() });
    }
    if fleet.members().get(&host.member).is_none() {
        return Err(FleetError::NotAMember { name: host.member });
    }
    lower_known_fleet(fleet, host, |member| member.mac().into_iter().collect())
}

/// The same where the MAC addresses of other members are those that `macs` knows, perhaps none. Until one is known,
/// what that member has passed on is not known as such: where hosts do not agree about a slot it may be passed on
/// again. A host that is no member owns nothing: it passes on all that the router gives it.
///
/// # Errors
/// As [`lower_fleet`], but for [`FleetError::NoMac`] and [`FleetError::NotAMember`].
pub(crate) fn lower_known_fleet(
    fleet: &Fleet,
    host: FleetHost,
    macs: impl Fn(&Member) -> Vec<MacAddress>,
) -> Result<FleetRuleset, FleetError> {
    if let Some(listener) = host.listeners.iter().find(|listener| listener.is_wildcard()) {
        return Err(FleetError::WildcardListener { listener: *listener });
    }
    let Partition::Hash { seed, .. } = fleet.partition() else {
        unreachable!("the partition of a fleet is by hash");
    };
    let mut listeners: Vec<Listener> = host.listeners.iter().copied().collect();
    listeners.sort();
    let others = fleet.members().iter().filter(|it| *it.name() != host.member);
    let macs = others.flat_map(macs).collect();
    let lowering = Lowering { fleet, host: &host, seed, listeners, macs };
    let mut tables = vec![lowering.director()?];
    for family in Family::ALL {
        tables.extend(lowering.second_chance(family)?);
    }
    Ok(FleetRuleset { name: FleetTableName::of(&host.name), device: host.device, tables })
}

struct Lowering<'a> {
    fleet: &'a Fleet,
    host: &'a FleetHost,
    seed: u32,
    /// In order.
    listeners: Vec<Listener>,
    /// Those of the other members.
    macs: BTreeSet<MacAddress>,
}

impl Lowering<'_> {
    fn director(&self) -> Result<FleetTable, FleetError> {
        let owner = |slot| next_owner(self.fleet, &self.host.member, slot);
        let targets = Targets::of(self.fleet, |slot| owner(slot).map(|it| (it, Mark::OWNER)));
        let is_served = |family: &Family| self.of_family(*family).next().is_some();
        let families: Vec<Family> = Family::ALL.into_iter().filter(is_served).collect();
        let mut chains = vec![];
        for ((name, _), chain) in &targets.chains {
            let addresses = families.iter().map(|family| self.address(name, *family));
            let rules = addresses.map(|address| address.map(FleetRule::Forward));
            let rules = rules.collect::<Result<_, _>>()?;
            chains.push(FleetChain { name: Arc::clone(chain), hook: None, rules });
        }
        for family in &families {
            let chain = |name: &str, client| {
                let dispatch = self.dispatch(*family, client, FleetMap::Owners);
                let rules = vec![FleetRule::PassTagged(*family), dispatch];
                FleetChain { name: name.into(), hook: None, rules }
            };
            chains.push(chain(owners_chain(*family), ClientAddress::Source));
            chains.push(chain(errors_chain(*family), ClientAddress::InError));
        }
        let mut rules = vec![FleetRule::PassMembers];
        rules.extend(self.listeners.iter().map(|listener| FleetRule::Direct(*listener)));
        rules.extend(self.listeners.iter().map(|listener| FleetRule::DirectError(*listener)));
        chains.push(FleetChain { name: "director".into(), hook: Some(FleetHook::Ingress), rules });
        let sets =
            vec![FleetSet::Members(self.macs.clone()), self.slots(FleetMap::Owners, targets)];
        Ok(FleetTable { kind: FleetTableKind::Director, sets, chains })
    }

    /// `None` without a listener of tcp, or where this host has nobody to pass anything to.
    fn second_chance(&self, family: Family) -> Result<Option<FleetTable>, FleetError> {
        let is_tcp = |listener: &&Listener| listener.protocol() == Protocol::Tcp;
        let listeners: Vec<&Listener> = self.of_family(family).filter(is_tcp).collect();
        let host = &self.host.member;
        let unmarked = Targets::of(self.fleet, |slot| next_in_line(self.fleet, host, slot, None));
        if listeners.is_empty() || unmarked.chains.is_empty() {
            return Ok(None);
        }
        let mut maps = vec![(FleetMap::Former, unmarked)];
        let mut is_last_of_any = false;
        for mark in (1..=Fleet::MAX_KEPT).filter_map(|place| u8::try_from(place).ok()).map(Mark) {
            let is_here = |slot| place_in_line(self.fleet, host, slot) == Some(mark);
            let next = |slot| next_in_line(self.fleet, host, slot, Some(mark));
            let mut targets = Targets::of(self.fleet, |slot| next(slot).filter(|_| is_here(slot)));
            let slots = (0..self.fleet.partition().slots()).map(Slot);
            let last = slots.filter(|slot| is_here(*slot) && next(*slot).is_none());
            let before = targets.slots.len();
            targets.slots.extend(last.map(|slot| (slot.0, Arc::from(LAST_CHAIN))));
            is_last_of_any |= targets.slots.len() > before;
            if !targets.slots.is_empty() {
                targets.slots.sort();
                maps.push((FleetMap::FormerMarked(mark), targets));
            }
        }
        let mut chains = vec![];
        let targets: BTreeMap<_, _> = maps.iter().flat_map(|(_, it)| &it.chains).collect();
        for ((name, mark), chain) in targets {
            let duplicate = FleetRule::Duplicate(self.address(name, family)?);
            let rules = vec![FleetRule::Mark(family, *mark), duplicate, FleetRule::Drop];
            chains.push(FleetChain { name: Arc::clone(chain), hook: None, rules });
        }
        if is_last_of_any {
            let rules = vec![FleetRule::Accept];
            chains.push(FleetChain { name: LAST_CHAIN.into(), hook: None, rules });
        }
        for (name, client) in
            [(UNKNOWN_CHAIN, ClientAddress::Source), (UNKNOWN_ERRORS_CHAIN, ClientAddress::InError)]
        {
            let mut rules = self.pass_known(client);
            // Those of marked packets before the one of all.
            for (map, _) in maps.iter().rev() {
                rules.push(self.dispatch(family, client, *map));
            }
            chains.push(FleetChain { name: name.into(), hook: None, rules });
        }
        let unknown = listeners.iter().map(|listener| FleetRule::Unknown(**listener));
        let errors = listeners.iter().map(|listener| FleetRule::UnknownError(**listener));
        let rules = unknown.chain(errors).collect();
        let hook = Some(FleetHook::Prerouting);
        chains.push(FleetChain { name: "second_chance".into(), hook, rules });
        let sets = maps.into_iter().map(|(map, targets)| self.slots(map, targets)).collect();
        Ok(Some(FleetTable { kind: FleetTableKind::SecondChance(family), sets, chains }))
    }

    /// What belongs to connections of this host.
    fn pass_known(&self, client: ClientAddress) -> Vec<FleetRule> {
        match (self.host.engine, client) {
            (Engine::Tproxy, _) => vec![FleetRule::PassTransparent],
            (Engine::Redirect, ClientAddress::Source) => {
                vec![FleetRule::PassEstablished, FleetRule::PassInvalid]
            }
            (Engine::Redirect, ClientAddress::InError) => vec![FleetRule::PassEstablished],
        }
    }

    fn of_family(&self, family: Family) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(move |listener| Family::of(listener) == family)
    }

    /// The rule that sends each slot to the chain of its member.
    fn dispatch(&self, family: Family, client: ClientAddress, map: FleetMap) -> FleetRule {
        let (slots, seed) = (self.fleet.partition().slots(), self.seed);
        match map {
            FleetMap::FormerMarked(mark) => {
                FleetRule::DispatchMarked { mark, family, client, slots, seed, map }
            }
            _ => FleetRule::Dispatch { family, client, slots, seed, map },
        }
    }

    fn slots(&self, name: FleetMap, targets: Targets<'_>) -> FleetSet {
        let slots = self.fleet.partition().slots();
        FleetSet::Slots { name, slots, chains: targets.slots }
    }

    fn address(&self, name: &MemberName, family: Family) -> Result<IpAddr, FleetError> {
        let member = self.fleet.members().get(name);
        let member = member.ok_or_else(|| FleetError::NotAMember { name: name.clone() })?;
        let address = member.addresses().find(|it| it.is_ipv4() == (family == Family::V4));
        let error = || FleetError::NoAddress { name: name.clone(), family: family_name(family) };
        address.ok_or_else(error)
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
