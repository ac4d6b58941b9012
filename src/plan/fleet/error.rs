use std::net::IpAddr;

use crate::plan::{Listener, Partition};

use super::{Fleet, MemberName, Members};

/// Why there can be no such fleet. Each names the value at fault and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// A member's name with other characters, of another length, or none.
    #[error(
        "member name {name:?}: expected 1 to 64 of a-z A-Z 0-9 _ -, beginning with a letter or digit"
    )]
    Name {
        /// The name as given, cut to 64 characters.
        name: String,
    },
    /// Two members of one name.
    #[error("member {name} is listed twice")]
    DuplicateName {
        /// The name.
        name: MemberName,
    },
    /// Two members with one address.
    #[error("member {name} has the address {address}, and so has member {other}")]
    DuplicateAddress {
        /// The later one, by name.
        name: MemberName,
        /// The earlier one.
        other: MemberName,
        /// Their address.
        address: IpAddr,
    },
    /// A member without an address, or with several of one family.
    #[error("member {name}: expected one IPv4 address, one IPv6 address, or one of each")]
    Addresses {
        /// The member.
        name: MemberName,
    },
    /// An address to which no packet can be passed.
    #[error("member {name}: the address {address} is {reason}")]
    Address {
        /// The member.
        name: MemberName,
        /// Its address.
        address: IpAddr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More members than a fleet may have.
    #[error("{count} members: at most {}", Members::MAX)]
    TooManyMembers {
        /// How many were given.
        count: usize,
    },
    /// No member serves and has a weight.
    #[error("no member serves: at least one needs the state \"serving\" and a weight above 0")]
    NobodyServes,
    /// More members that serve than slots.
    #[error(
        "{members} members serve, and there are {slots} slots: expected one slot each at least"
    )]
    FewerSlotsThanMembers {
        /// Slots.
        slots: u32,
        /// Members that serve.
        members: usize,
    },
    /// A number of slots out of range.
    #[error("{slots} slots: expected 1 to {}", Partition::MAX_SLOTS)]
    Slots {
        /// The number given.
        slots: u32,
    },
    /// The seed of the partition of one host.
    #[error(
        "seed {seed:#x} is that of each host's own workers: with the same one most workers of a host \
         would have no clients"
    )]
    Seed {
        /// The seed.
        seed: u32,
    },
    /// More former owners than a slot can remember.
    #[error("{kept} former owners a slot: at most {}", Fleet::MAX_KEPT)]
    Kept {
        /// The number given.
        kept: usize,
    },
    /// Written by a later version.
    #[error("schema {schema} of a fleet: this version reads 1")]
    Schema {
        /// The number given.
        schema: u32,
    },
    /// No member has this name.
    #[error("{name} is no member of the fleet")]
    NotAMember {
        /// The name.
        name: MemberName,
    },
    /// A text that is no MAC address of a host.
    #[error("{text:?}: expected the MAC address of a host, such as 02:00:00:00:00:01")]
    Mac {
        /// The text as given, cut to 32 characters.
        text: String,
    },
    /// A member whose MAC address is not known.
    #[error(
        "member {name}: its MAC address is not known, by which its packets are let pass: give it as \"mac\""
    )]
    NoMac {
        /// The member.
        name: MemberName,
    },
    /// A member that is to get packets of a family of which it has no address.
    #[error("member {name} has no {family} address, and a listener is of that family")]
    NoAddress {
        /// The member.
        name: MemberName,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// A listener on all addresses of a host.
    #[error(
        "listener {listener}: expected an address that every member has, not all addresses of each"
    )]
    WildcardListener {
        /// The listener.
        listener: Listener,
    },
    /// A text that is no name of a network device.
    #[error(
        "network device {text:?}: expected 1 to 15 characters, no space, `/`, `:`, quote, `*` or backslash"
    )]
    Device {
        /// The text as given, cut to 32 characters.
        text: String,
    },
    /// Owners that are none of these members, or not of each slot once.
    #[error("owners: {reason}")]
    Owners {
        /// What is wrong with them, and where.
        reason: String,
    },
}
