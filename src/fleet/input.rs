//! What a membership is told.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::plan::fleet::{Fleet, Member, MemberName};

/// A revision of the store: it grows with every change there. 0 stands for "before the first", and as that of a
/// key for "there is none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Revision(pub(crate) u64);

impl Revision {
    /// Of a key: it is not there.
    pub(crate) const NONE: Self = Self(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of a program as a member, drawn at random when it begins: what tells a host that was started again
/// from itself before, and from another host of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Instance(pub(crate) u64);

/// A lease of the store, by its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lease(pub(crate) NonZeroU64);

/// What a member has written under its own key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    /// Name, addresses, MAC address, weight and state.
    pub(crate) member: Member,
    /// Which run of a program has written it.
    pub(crate) instance: Instance,
    /// When the key was made: of two members with one address, the older key counts.
    pub(crate) created: Revision,
    /// When it was written last.
    pub(crate) modified: Revision,
    /// The version of the fleet that it had in force then; 0: none.
    pub(crate) knows: u64,
    /// It is about to delete the key and has no connections: that is not to be taken for the end of a lease.
    pub(crate) leaves: bool,
}

/// A key of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// That of a member.
    Member(MemberName),
    /// That of the fleet.
    Fleet,
    /// Another one among them, by its name there.
    Other(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(name) => write!(f, "members/{name}"),
            Self::Fleet => f.write_str("fleet"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// The fleet as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) fleet: Arc<Fleet>,
    /// One more than that of the fleet that it was made from, whatever has become of the store meanwhile. 0: written
    /// by a release that did not count.
    pub(crate) version: u64,
    /// When it was written.
    pub(crate) modified: Revision,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A member has written its key.
    Member(Published),
    /// The key of a member is gone: its lease has ended, or it has left.
    MemberGone(MemberName),
    /// A fleet was written.
    Fleet(Stored),
    /// The fleet was deleted, which no member does.
    FleetGone,
    /// A key holds what cannot be read: written by a later version, or by hand. What was known of it stays.
    Unreadable {
        /// The key.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
}

/// What this host's own cluster does. The master says so whenever it changes; of several at once the last counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LocalState {
    /// The master has not said yet: nothing is published, and what an earlier run has published is left alone. So
    /// a master that is started again and adopts its workers loses no slot.
    #[default]
    Unknown,
    /// No worker is ready: the member joins, or gives its slots away if it had some.
    NotReady,
    /// Workers serve, and the rules of the host are in force.
    Ready,
    /// It is to leave when its connections have ended.
    Draining {
        /// How many it still has, of all listeners of the fleet.
        connections: u64,
    },
    /// It leaves now, whatever it has.
    Stopped,
}

/// Something that has happened. Answers to what was asked before the store was lost are to be dropped by whoever
/// asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// The store was read: the answer to [`Action::ReadAll`](super::Action::ReadAll).
    Read {
        /// Which store: that of another one means that the one known until now was replaced, and lost its data.
        store: u64,
        /// Of the whole store, at the moment of the reading.
        revision: Revision,
        /// What of members and fleet could be read there. A key that is not named is not there.
        content: Vec<Change>,
    },
    /// The store has changed: one input for all that has the same revision.
    Watched {
        /// Greater than any before.
        revision: Revision,
        /// In no order.
        changes: Vec<Change>,
    },
    /// The watch has ended, and all else goes on: the revisions that it was to begin with are no longer kept
    /// there, or the server has no leader.
    WatchEnded {
        /// Why, for people.
        reason: String,
    },
    /// Something that was asked failed, or the connection did. All that was asked is off, and so is the watch.
    SourceLost {
        /// Why, for people.
        reason: String,
    },
    /// The answer to [`Action::GrantLease`](super::Action::GrantLease).
    LeaseGranted(Lease),
    /// The answer to [`Action::KeepAlive`](super::Action::KeepAlive).
    LeaseKept(Lease),
    /// There is no such lease any more: the answer to whatever was asked with it.
    LeaseLost(Lease),
    /// The answer to [`Action::Publish`](super::Action::Publish): it is written. The watch will tell of it too.
    Publication {
        /// When it was written; `None`: the key was not as expected, and what it holds the watch tells.
        written: Option<Revision>,
    },
    /// The answer to [`Action::SwapFleet`](super::Action::SwapFleet): whether it is written. The watch tells what
    /// stands there now.
    Swapped(bool),
    /// The answer to [`Action::Withdraw`](super::Action::Withdraw).
    Withdrawn,
    /// What this host's own cluster does.
    Local(LocalState),
    /// The time of [`Action::Wake`](super::Action::Wake) has come.
    Tick,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_as_it_stands_in_the_store() {
        assert_eq!(Key::Member("a".parse().unwrap()).to_string(), "members/a");
        assert_eq!(Key::Fleet.to_string(), "fleet");
        assert_eq!(Key::Other("leases/a".to_owned()).to_string(), "leases/a");
    }
}
