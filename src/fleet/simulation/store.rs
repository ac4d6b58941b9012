//! A store as etcd is one: revisions, leases, comparisons before a write, a log that is compacted.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Change, Instance, Lease, Published, Revision, Stored};
use crate::plan::fleet::{Fleet, Member, MemberName, MemberState};
use crate::protocol::Timestamp;

/// What the store holds.
#[derive(Debug)]
pub(super) struct Store {
    /// Another one after all data was lost.
    pub(super) id: u64,
    /// When it had no data.
    pub(super) began: Timestamp,
    pub(super) is_up: bool,
    pub(super) up_since: Timestamp,
    pub(super) revision: Revision,
    pub(super) members: BTreeMap<MemberName, (Published, Lease)>,
    /// Since when a member has had no key.
    pub(super) deleted: BTreeMap<MemberName, (Timestamp, bool)>,
    /// Who has said that it leaves, to this store or to one before it, and has not come again. Hosts that were told
    /// still know it when the data is lost.
    pub(super) left: BTreeSet<MemberName>,
    pub(super) fleet: Option<Stored>,
    /// When the fleet was deleted by hand last.
    pub(super) fleet_deleted: Revision,
    /// Where the fleet had been deleted by hand: the revision at which it was written anew, and that of the fleet which
    /// it was made from.
    pub(super) written_anew: Vec<(Revision, Revision)>,
    /// Each fleet that was written, and when.
    pub(super) written: Vec<(Timestamp, Stored)>,
    pub(super) leases: BTreeMap<Lease, Timestamp>,
    log: Vec<(Revision, Vec<Change>)>,
    compacted: Revision,
    next_lease: u64,
}

/// How a write ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    At(Revision),
    NotAsExpected,
    NoSuchLease,
}

impl Store {
    pub(super) fn new(id: u64, now: Timestamp) -> Self {
        Self {
            id,
            began: now,
            is_up: true,
            up_since: now,
            revision: Revision(1),
            members: BTreeMap::new(),
            deleted: BTreeMap::new(),
            left: BTreeSet::new(),
            fleet: None,
            fleet_deleted: Revision::NONE,
            written_anew: vec![],
            written: vec![],
            leases: BTreeMap::new(),
            log: vec![],
            compacted: Revision(0),
            next_lease: id * 1_000_000,
        }
    }

    /// The store after all its data was lost.
    pub(super) fn replaced(&mut self, now: Timestamp) {
        let left = std::mem::take(&mut self.left);
        *self = Self { left, ..Self::new(self.id + 1, now) };
    }

    pub(super) fn content(&self) -> Vec<Change> {
        let members = self.members.values().map(|(published, _)| Change::Member(published.clone()));
        members.chain(self.fleet.clone().map(Change::Fleet)).collect()
    }

    /// All changes from a revision on; `None` if they were compacted away.
    pub(super) fn changes_from(&self, first: Revision) -> Option<Vec<(Revision, Vec<Change>)>> {
        let changes = self.log.iter().filter(|(revision, _)| *revision >= first);
        (first > self.compacted).then(|| changes.cloned().collect())
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log.clear();
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: Timestamp) -> Lease {
        self.next_lease += 1;
        let lease = Lease(NonZeroU64::new(self.next_lease).unwrap());
        self.leases.insert(lease, now.after(ttl));
        lease
    }

    pub(super) fn keep_alive(&mut self, lease: Lease, ttl: Duration, now: Timestamp) -> bool {
        self.leases.get_mut(&lease).is_some_and(|end| {
            *end = now.after(ttl);
            true
        })
    }

    pub(super) fn publish(
        &mut self,
        member: Member,
        instance: Instance,
        lease: Lease,
        expected: Revision,
        (knows, leaves): (u64, bool),
    ) -> Written {
        let known = self.members.get(member.name());
        if known.map_or(Revision::NONE, |(published, _)| published.modified) != expected {
            return Written::NotAsExpected;
        }
        if !self.leases.contains_key(&lease) {
            return Written::NoSuchLease;
        }
        let modified = Revision(self.revision.0 + 1);
        let created = known.map_or(modified, |(published, _)| published.created);
        let (name, state) = (member.name().clone(), member.state());
        let published = Published { member, instance, created, modified, knows, leaves };
        self.deleted.remove(&name);
        if leaves {
            self.left.insert(name.clone());
        } else if state != MemberState::Draining {
            // Who says once more that it drains, to a store that has lost its data, has not come again.
            self.left.remove(&name);
        }
        self.members.insert(name, (published.clone(), lease));
        self.commit(vec![Change::Member(published)]);
        Written::At(modified)
    }

    pub(super) fn swap(
        &mut self,
        fleet: Arc<Fleet>,
        version: u64,
        expected: Revision,
        now: Timestamp,
    ) -> bool {
        let known = self.fleet.as_ref().map_or(Revision::NONE, |stored| stored.modified);
        if known != expected {
            return false;
        }
        let modified = Revision(self.revision.0 + 1);
        let stored = Stored { fleet, version, modified };
        self.fleet = Some(stored.clone());
        self.written.push((now, stored.clone()));
        self.commit(vec![Change::Fleet(stored)]);
        true
    }

    pub(super) fn delete_fleet(&mut self) {
        if self.fleet.take().is_some() {
            self.commit(vec![Change::FleetGone]);
            self.fleet_deleted = self.revision;
        }
    }

    /// Ends a lease, with all keys under it.
    pub(super) fn revoke(&mut self, lease: Lease, now: Timestamp) {
        self.leases.remove(&lease);
        let under = self.members.iter().filter(|(_, (_, its))| *its == lease);
        let names: Vec<MemberName> = under.map(|(name, _)| name.clone()).collect();
        for name in &names {
            let (published, _) = self.members.remove(name).unwrap();
            self.deleted.insert(name.clone(), (now, published.leaves));
        }
        if !names.is_empty() {
            self.commit(names.into_iter().map(Change::MemberGone).collect());
        }
    }

    fn commit(&mut self, changes: Vec<Change>) {
        self.revision = Revision(self.revision.0 + 1);
        self.log.push((self.revision, changes));
    }
}
