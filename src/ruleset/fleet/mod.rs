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
//! While hosts have not all seen a change, two of them may pass such a packet to each other. Each time its TTL
//! goes down by one.
//!
//! [`lower_fleet`] gives them; they print as a script for `nft -f` that puts them into force in one transaction,
//! in place of those of before. Needs Linux 4.14 (`fwd` to an address: `nft_fwd_neigh`, net/netfilter/nft_fwd_netdev.c)
//! and nft 0.9.8.

#[cfg(test)]
mod tests;
mod text;

use std::net::IpAddr;

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

/// The name of a network device: 1 to 15 bytes, no `/`, `"`, control character or space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName(String);

impl DeviceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for DeviceName {
    type Err = FleetError;

    /// # Errors
    /// [`FleetError::Device`].
    fn from_str(text: &str) -> Result<Self, FleetError> {
        // `dev_valid_name` (net/core/dev.c), and what nft cannot quote.
        let is_refused = |c: char| {
            matches!(c, '/' | ':' | '"' | '*' | '\\') || c.is_whitespace() || c.is_control()
        };
        let is_valid =
            !matches!(text, "" | "." | "..") && text.len() <= 15 && !text.contains(is_refused);
        match is_valid {
            true => Ok(Self(text.to_owned())),
            false => Err(FleetError::Device { text: text.chars().take(32).collect() }),
        }
    }
}

/// The rules of one host of a fleet. Their text is a script for `nft -f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetRuleset {
    pub(super) host: FleetHost,
    pub(super) seed: u32,
    /// The other members, by name.
    pub(super) others: Vec<Other>,
    pub(super) families: Vec<FamilyRules>,
}

/// Another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) name: MemberName,
    pub(super) mac: MacAddress,
    pub(super) addresses: Vec<IpAddr>,
}

/// What is passed on of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FamilyRules {
    pub(super) family: Family,
    pub(super) listeners: Vec<Listener>,
    pub(super) owners: Targets,
    /// None without a listener of tcp.
    pub(super) former: Option<Targets>,
}

/// Where the packets of each slot go: to a place in `FleetRuleset::others`, or nowhere else.
///
/// Slots that follow each other and have one target may be one key, see `slots_in_key` of the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Targets(pub(super) Vec<Option<usize>>);

/// The rules of one host.
///
/// # Errors
/// [`FleetError::NotAMember`]; [`FleetError::WildcardListener`]: a fleet serves addresses that all members have,
/// not those of each; [`FleetError::NoMac`], [`FleetError::NoAddress`] of another member that owns slots or did.
pub fn lower_fleet(fleet: &Fleet, host: FleetHost) -> Result<FleetRuleset, FleetError> {
    let members = fleet.members();
    if members.get(&host.member).is_none() {
        return Err(FleetError::NotAMember { name: host.member });
    }
    if let Some(listener) = host.listeners.iter().find(|listener| listener.is_wildcard()) {
        return Err(FleetError::WildcardListener { listener: *listener });
    }
    let others = members.iter().filter(|member| *member.name() != host.member);
    let others = others.map(other).collect::<Result<Vec<_>, _>>()?;
    let families = Family::ALL.into_iter().filter_map(|family| {
        let mut listeners: Vec<Listener> = host
            .listeners
            .iter()
            .filter(|listener| Family::of(listener) == family)
            .copied()
            .collect();
        listeners.sort();
        (!listeners.is_empty()).then_some((family, listeners))
    });
    let rules = |(family, listeners): (Family, Vec<Listener>)| {
        let owners = Targets::of(fleet, &others, |slot| next_owner(fleet, &host.member, slot))?;
        let former = Targets::of(fleet, &others, |slot| next_former(fleet, &host.member, slot))?;
        owners.check(&others, family)?;
        former.check(&others, family)?;
        let has_tcp = listeners.iter().any(|listener| listener.protocol() == Protocol::Tcp);
        Ok(FamilyRules { family, listeners, owners, former: has_tcp.then_some(former) })
    };
    let families = families.map(rules).collect::<Result<_, FleetError>>()?;
    let Partition::Hash { seed, .. } = fleet.partition() else {
        unreachable!("the partition of a fleet is by hash");
    };
    Ok(FleetRuleset { host, seed, others, families })
}

fn other(member: &Member) -> Result<Other, FleetError> {
    let name = member.name().clone();
    let mac = member.mac().ok_or_else(|| FleetError::NoMac { name: name.clone() })?;
    Ok(Other { name, mac, addresses: member.addresses().collect() })
}

/// The owner of a slot, if that is another member.
fn next_owner<'a>(fleet: &'a Fleet, host: &MemberName, slot: Slot) -> Option<&'a MemberName> {
    Some(fleet.owners().owner(slot)).filter(|owner| *owner != host)
}

/// Where a host passes a packet of a connection that it does not know: the owner to the latest former owner, each
/// former owner to the one before. To the others a slot's packets come only from a member that has seen a change of
/// the owners before them, and takes them for the new one: they pass it to the owner that they know, who has it.
fn next_former<'a>(fleet: &'a Fleet, host: &MemberName, slot: Slot) -> Option<&'a MemberName> {
    let holders = fleet.owners();
    let mut line = std::iter::once(holders.owner(slot)).chain(holders.former(slot));
    match line.find(|name| *name == host) {
        Some(_) => line.next(),
        None => Some(holders.owner(slot)),
    }
}

impl Targets {
    fn of<'a>(
        fleet: &Fleet,
        others: &[Other],
        target: impl Fn(Slot) -> Option<&'a MemberName>,
    ) -> Result<Self, FleetError> {
        let place = |name: &MemberName| {
            let place = others.binary_search_by(|other| other.name.cmp(name));
            place.map_err(|_| FleetError::NotAMember { name: name.clone() })
        };
        let slots = (0..fleet.partition().slots()).map(Slot);
        slots.map(|slot| target(slot).map(place).transpose()).collect::<Result<_, _>>().map(Self)
    }

    /// Whether all that get packets of this family have an address of it.
    fn check(&self, others: &[Other], family: Family) -> Result<(), FleetError> {
        for place in self.used() {
            let other = &others[place];
            if other.address(family).is_none() {
                let (name, family) = (other.name.clone(), family_name(family));
                return Err(FleetError::NoAddress { name, family });
            }
        }
        Ok(())
    }

    /// The places that get packets, in order.
    pub(super) fn used(&self) -> std::collections::BTreeSet<usize> {
        self.0.iter().copied().flatten().collect()
    }
}

impl Other {
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        let is_of = |address: &IpAddr| address.is_ipv4() == (family == Family::V4);
        self.addresses.iter().copied().find(is_of)
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
