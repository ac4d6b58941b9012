//! The list of members that a fleet is to have, by what they have published.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::plan::fleet::{Fleet, FleetError, Member, MemberName, MemberState, Members};
use crate::protocol::Timestamp;

use super::{Published, Revision, Timing, Trouble};

/// The members' own keys, and for how long those of members were missed.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    published: BTreeMap<MemberName, Published>,
    /// Keys that hold what cannot be read: their members are there, as the fleet knows them.
    unreadable: BTreeMap<MemberName, String>,
    /// Their keys were deleted by themselves.
    left: BTreeMap<MemberName, Departure>,
    /// Their keys were deleted while the watch went on, by the end of their leases.
    ended: BTreeSet<MemberName>,
    /// Members that the fleet names and that have no key: since when that is known without an interruption.
    missing: BTreeMap<MemberName, Timestamp>,
}

/// A member that has left.
#[derive(Debug, Clone, Copy)]
struct Departure {
    at: Revision,
    /// The watch has gone on since: it has not come again.
    is_watched: bool,
}

impl Departure {
    /// Whether a member that this fleet names, and that has no key, is still gone. Where something was missed it may
    /// have come again and been cut off from the store: then it has connections. That cannot be of a fleet that was
    /// written before it left and in which it owns nothing.
    fn holds(self, name: &MemberName, fleet: &Fleet, written: Revision) -> bool {
        self.is_watched || (written < self.at && fleet.owners().owned_by(name) == 0)
    }
}

/// The list, and what is wrong with it.
pub(super) struct Listed {
    pub(super) members: Members,
    pub(super) troubles: Vec<Trouble>,
    /// When the list will be another one without an event.
    pub(super) changes_at: Option<Timestamp>,
}

impl Keys {
    pub(super) fn get(&self, name: &MemberName) -> Option<&Published> {
        self.published.get(name)
    }

    /// Whether the same keys hold the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.published == other.published && self.unreadable == other.unreadable
    }

    pub(super) fn put(&mut self, published: Published) {
        let name = published.member.name().clone();
        self.unreadable.remove(&name);
        self.left.remove(&name);
        self.ended.remove(&name);
        self.published.insert(name, published);
    }

    pub(super) fn put_unreadable(&mut self, name: MemberName, reason: String) {
        self.unreadable.insert(name, reason);
    }

    /// A key was deleted, and the watch has told of it.
    pub(super) fn delete(&mut self, name: MemberName, at: Revision) {
        self.unreadable.remove(&name);
        if self.published.remove(&name).is_some_and(|published| published.leaves) {
            self.left.insert(name, Departure { at, is_watched: true });
        } else {
            self.ended.insert(name);
        }
    }

    /// What follows are all keys that there are. Whose is not among them may have been deleted by whatever
    /// happened to the store; who was seen to leave may have come again.
    pub(super) fn begin_anew(&mut self) {
        for departure in self.left.values_mut() {
            departure.is_watched = false;
        }
        let leaving = std::mem::take(&mut self.published).into_values().filter(|it| it.leaves);
        self.left.extend(leaving.map(|published| {
            let departure = Departure { at: published.modified, is_watched: false };
            (published.member.name().clone(), departure)
        }));
        self.unreadable.clear();
        self.ended.clear();
    }

    /// Something was missed: how long keys are missing is not known.
    pub(super) fn forget_missing(&mut self) {
        self.missing.clear();
    }

    /// The store is away: how long keys are missing is not known any more.
    pub(super) fn forget_times(&mut self) {
        self.missing.clear();
        self.ended.clear();
    }

    /// The place of a member among those that have published themselves.
    pub(super) fn rank(&self, name: &MemberName) -> u32 {
        let before = self.published.range::<MemberName, _>(..name).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// The latest version of the fleet that another member says to know.
    pub(super) fn known_to_others(&self, name: &MemberName) -> u64 {
        let others = self.published.iter().filter(|(other, _)| *other != name);
        others.map(|(_, published)| published.knows).max().unwrap_or(0)
    }

    /// The list that the fleet is to have now, by the one before it and the revision at which that was written.
    pub(super) fn list(
        &mut self,
        before: Option<(&Fleet, Revision)>,
        timing: Timing,
        now: Timestamp,
    ) -> Listed {
        let mut listing = Listing::default();
        let mut published: Vec<&Published> = self.published.values().collect();
        published.sort_by_key(|published| published.created);
        for published in published {
            listing.publish(&published.member);
        }
        let known = before.map(|(fleet, _)| fleet.members().iter()).into_iter().flatten();
        let has_key = |name: &MemberName| self.published.contains_key(name);
        let without_key: Vec<&Member> = known.filter(|member| !has_key(member.name())).collect();
        self.missing.retain(|name, _| without_key.iter().any(|member| member.name() == name));
        self.left.retain(|name, _| without_key.iter().any(|member| member.name() == name));
        for member in without_key {
            let name = member.name();
            if self.unreadable.contains_key(name) {
                listing.keep(member.clone());
                continue;
            }
            let since = *self.missing.entry(name.clone()).or_insert(now);
            let departure = self.left.get(name).zip(before);
            if departure.is_some_and(|(it, (fleet, written))| it.holds(name, fleet, written)) {
                continue;
            }
            let is_lost = member.state() == MemberState::Lost;
            let stays_for = match (is_lost, self.ended.contains(name)) {
                (true, _) => timing.lost_for,
                (false, true) => Duration::ZERO,
                (false, false) => timing.lease,
            };
            match (since.after(stays_for) > now, is_lost, member.state()) {
                (true, ..) => {
                    listing.change_at(since.after(stays_for));
                    listing.keep(member.clone());
                }
                (false, true, _) | (false, false, MemberState::Joining) => {}
                (false, false, _) => {
                    listing.keep(member.clone().with_state(MemberState::Lost));
                }
            }
        }
        listing.finish(&self.unreadable)
    }
}

/// A list that is being made.
#[derive(Default)]
struct Listing {
    members: Vec<Member>,
    holders: BTreeMap<IpAddr, MemberName>,
    troubles: Vec<Trouble>,
    changes_at: Option<Timestamp>,
}

impl Listing {
    /// Adds a member that has published itself. The oldest keys come first, on every host: so all leave out the
    /// same ones.
    fn publish(&mut self, member: &Member) {
        let name = member.name().clone();
        let taken = member.addresses().find_map(|it| Some((it, self.holders.get(&it)?.clone())));
        let fault = match taken {
            _ if member.mac().is_none() => Some(FleetError::NoMac { name }),
            Some((address, other)) => Some(FleetError::DuplicateAddress { name, other, address }),
            None if self.members.len() == Members::MAX => {
                Some(FleetError::TooManyMembers { count: Members::MAX + 1 })
            }
            None => None,
        };
        match fault {
            Some(fault) => self.troubles.push(Trouble::LeftOut(fault)),
            None => self.push(member.clone()),
        }
    }

    /// Keeps a member without a key, unless another one has its place or an address of its own by now.
    fn keep(&mut self, member: Member) {
        let is_replaced = member.addresses().any(|it| self.holders.contains_key(&it));
        if !is_replaced && self.members.len() < Members::MAX {
            self.push(member);
        }
    }

    fn push(&mut self, member: Member) {
        let name = member.name();
        self.holders.extend(member.addresses().map(|address| (address, name.clone())));
        self.members.push(member);
    }

    fn change_at(&mut self, at: Timestamp) {
        self.changes_at = Some(self.changes_at.map_or(at, |known| known.min(at)));
    }

    fn finish(mut self, unreadable: &BTreeMap<MemberName, String>) -> Listed {
        for (name, reason) in unreadable {
            let (key, reason) = (super::Key::Member(name.clone()), reason.clone());
            self.troubles.push(Trouble::Unreadable { key, reason });
        }
        let members =
            Members::new(self.members).expect("`push` was given each name and address once");
        Listed { members, troubles: self.troubles, changes_at: self.changes_at }
    }
}
