//! The hosts of a fleet.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::FleetError;
use crate::plan::id::is_plain_name;

/// The name of a member: 1 to 64 of `a-z A-Z 0-9 _ -`, beginning with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(Arc<str>);

impl MemberName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MemberName {
    type Err = FleetError;

    fn from_str(text: &str) -> Result<Self, FleetError> {
        match is_plain_name(text, Self::MAX_LEN) {
            true => Ok(Self(text.into())),
            false => Err(FleetError::Name { name: text.chars().take(Self::MAX_LEN).collect() }),
        }
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The MAC address of a host on the link of a fleet: neither a group's nor all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address as bytes, in the order of the text.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// That of these bytes; `None` for a group's, and for all zeros.
    pub fn from_octets(octets: [u8; 6]) -> Option<Self> {
        (octets != [0; 6] && octets[0] & 1 == 0).then_some(Self(octets))
    }
}

impl FromStr for MacAddress {
    type Err = FleetError;

    /// Reads six bytes in hexadecimal, with colons between them.
    fn from_str(text: &str) -> Result<Self, FleetError> {
        let error = || FleetError::Mac { text: text.chars().take(32).collect() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(error)?;
            let is_plain = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let value = is_plain.then(|| u8::from_str_radix(part, 16).ok()).flatten();
            *byte = value.ok_or_else(error)?;
        }
        let is_whole = parts.next().is_none();
        is_whole.then(|| Self::from_octets(bytes)).flatten().ok_or_else(error)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a member does at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum MemberState {
    /// Its workers are not ready: it owns nothing yet.
    Joining,
    /// It owns its share.
    #[default]
    Serving,
    /// It owns nothing any more, and keeps the connections that it has.
    Draining,
    /// It has not said for too long that it lives: it owns nothing. Where it is only cut off from those who keep
    /// the list, it has its connections still, which are passed to it as to one that drains.
    Lost,
}

/// One host of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    name: MemberName,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    mac: Option<MacAddress>,
    weight: u16,
    state: MemberState,
}

impl Member {
    /// A member that serves, with weight 1, and the addresses at which the others reach it on their common
    /// link: one, or one of each family.
    ///
    /// # Errors
    /// [`FleetError::Addresses`] for none or two of a family; [`FleetError::Address`] for one that is no host's.
    pub fn new(
        name: MemberName,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, FleetError> {
        let (mut v4, mut v6) = (None, None);
        for address in addresses {
            if let Some(reason) = fault(address) {
                return Err(FleetError::Address { name, address, reason });
            }
            let earlier = match address {
                IpAddr::V4(address) => v4.replace(address).is_some(),
                IpAddr::V6(address) => v6.replace(address).is_some(),
            };
            if earlier {
                return Err(FleetError::Addresses { name });
            }
        }
        match (v4, v6) {
            (None, None) => Err(FleetError::Addresses { name }),
            _ => Ok(Self { name, v4, v6, mac: None, weight: 1, state: MemberState::Serving }),
        }
    }

    /// The MAC address from which its packets come on the common link.
    #[must_use]
    pub fn with_mac(self, mac: impl Into<Option<MacAddress>>) -> Self {
        Self { mac: mac.into(), ..self }
    }

    /// Its share relative to the others', 0 to 65535. With 0 it owns nothing.
    #[must_use]
    pub fn with_weight(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// What it does.
    #[must_use]
    pub fn with_state(self, state: MemberState) -> Self {
        Self { state, ..self }
    }

    /// Its name.
    pub fn name(&self) -> &MemberName {
        &self.name
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Its MAC address, if it is known.
    pub fn mac(&self) -> Option<MacAddress> {
        self.mac
    }

    /// Its weight as it was given.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// What it does at present.
    pub fn state(&self) -> MemberState {
        self.state
    }

    /// The weight by which it gets slots: 0 unless it serves.
    pub(super) fn effective_weight(&self) -> u16 {
        match self.state {
            MemberState::Serving => self.weight,
            MemberState::Joining | MemberState::Draining | MemberState::Lost => 0,
        }
    }
}

/// Why no host of a link has this address.
fn fault(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified one");
    }
    if address.is_loopback() {
        return Some("a loopback address, which no other host reaches");
    }
    match address {
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address written as IPv6: write it as IPv4")
        }
        _ => None,
    }
}

/// The members of a fleet, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members(Vec<Member>);

impl Members {
    /// The most members of one fleet.
    pub const MAX: usize = 64;

    /// The list of these members, in whatever order they come.
    ///
    /// # Errors
    /// [`FleetError::TooManyMembers`], [`FleetError::DuplicateName`], [`FleetError::DuplicateAddress`].
    pub fn new(members: impl IntoIterator<Item = Member>) -> Result<Self, FleetError> {
        let mut members: Vec<Member> = members.into_iter().collect();
        if members.len() > Self::MAX {
            return Err(FleetError::TooManyMembers { count: members.len() });
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        if let Some(pair) = members.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(FleetError::DuplicateName { name: pair[0].name.clone() });
        }
        let mut holders: BTreeMap<IpAddr, &MemberName> = BTreeMap::new();
        for member in &members {
            for address in member.addresses() {
                if let Some(other) = holders.insert(address, &member.name) {
                    let (name, other) = (member.name.clone(), other.clone());
                    return Err(FleetError::DuplicateAddress { name, other, address });
                }
            }
        }
        Ok(Self(members))
    }

    /// The members, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The member of this name.
    pub fn get(&self, name: &MemberName) -> Option<&Member> {
        Some(&self.0[self.place(name)?])
    }

    /// The others, without this one.
    #[must_use]
    pub fn without(&self, name: &MemberName) -> Self {
        Self(self.0.iter().filter(|member| member.name != *name).cloned().collect())
    }

    /// The place of a member in the list.
    pub(super) fn place(&self, name: &MemberName) -> Option<usize> {
        self.0.binary_search_by(|member| member.name.cmp(name)).ok()
    }
}
