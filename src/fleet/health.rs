//! What a membership says of itself.

use std::net::IpAddr;

use crate::plan::fleet::{FleetError, MemberName};
use crate::protocol::Timestamp;

use super::{Key, Revision, Shape};

/// How the membership of this host is, for the status, metrics and log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Health {
    /// Whether what the store or the file says is known.
    pub(crate) source: SourceState,
    /// What this host is in the fleet.
    pub(crate) own: OwnState,
    /// The newest revision of the store that was seen. Of a file: a number that its content makes.
    pub(crate) revision: Revision,
    /// What keeps the fleet from being what its members say. Empty if all is well.
    pub(crate) troubles: Vec<Trouble>,
}

/// Whether the list of members is known as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceState {
    /// Not read since the start. If that takes long, `reason` says why.
    Starting { reason: Option<String> },
    /// Changes are seen as they happen.
    Current,
    /// The store or file cannot be reached or read. The last fleet that was read stays in force.
    Away { since: Timestamp, reason: String },
}

/// What this host is in the fleet, as far as it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnState {
    /// Not in the list, or not yet.
    Unlisted,
    /// It owns nothing until its workers are ready.
    Joining,
    /// It owns its share.
    Serving,
    /// It keeps its connections, and leaves when they have ended.
    Draining,
    /// The others have found its lease ended, and have its slots. It publishes itself again.
    Lost,
    /// It has left: nothing of it is in the store any more, and the process may end.
    Gone,
}

/// What keeps the fleet from being what its members say.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Trouble {
    /// The name of this host is that of another one.
    #[error(
        "the name {name} is taken by another host, with the address {address}: give one of the two another name"
    )]
    NameTaken {
        name: MemberName,
        /// The other one's.
        address: IpAddr,
    },
    /// Another process of this host has published itself under its name since: the next master, or a second one.
    #[error(
        "another process of this host publishes itself as {name}: this one waits until that has left"
    )]
    Superseded { name: MemberName },
    /// A member that is left out of the fleet.
    #[error("{0}: it is left out until that is changed")]
    LeftOut(FleetError),
    /// The members are such that no fleet can be made of them, so that the one before stays.
    #[error("the fleet stays as it was: {0}")]
    NoFleet(FleetError),
    /// The fleet has other numbers of slots, seed or former owners than this host is configured with. Those of
    /// the fleet count.
    #[error(
        "the fleet has {in_force}, this host is configured with {configured}: what the fleet has counts"
    )]
    OtherShape { in_force: Shape, configured: Shape },
    /// A key holds what cannot be read.
    #[error("key {key}: {reason}")]
    Unreadable { key: Key, reason: String },
    /// It drains, and there is nobody to whom its slots could go.
    #[error(
        "{name} is to leave, and no other member serves: it keeps its slots until one does, or it is stopped"
    )]
    LastOne { name: MemberName },
    /// It drains, and the file by which it is a member gives it slots.
    #[error(
        "{name} is to leave, and owns slots in {file}: mark it as draining there, or take it out (`ipcluster fleet plan --drain {name}`)"
    )]
    StillListed { name: MemberName, file: String },
}

impl Trouble {
    /// Whether this host is not to write its key.
    pub(super) fn bars(&self) -> bool {
        matches!(self, Self::NameTaken { .. } | Self::Superseded { .. })
    }
}
