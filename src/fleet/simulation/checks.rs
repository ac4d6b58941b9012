//! What must hold.

use std::sync::Arc;
use std::time::Duration;

use super::super::{LocalState, OwnState, Revision, Stored};
use super::world::{Host, LEASE, LOST_FOR, World};
use crate::plan::fleet::{Fleet, Member, MemberState};

/// A host that reaches the store again has read it after so long: the longest pause, and the times of a few
/// messages.
pub(super) const BACK_AFTER: Duration = Duration::from_secs(8);

/// A watch that tells nothing any more is found out after so long.
const AUDITED_AFTER: Duration = Duration::from_secs(36);

impl World {
    /// A host puts a fleet in force.
    pub(super) fn check_application(
        &mut self,
        host: usize,
        store: u64,
        fleet: &Arc<Fleet>,
        revision: Revision,
    ) {
        let known = self.fleets.entry((store, revision)).or_insert_with(|| fleet.clone());
        assert!(*known == *fleet, "two fleets of revision {revision} differ");
        let host = &self.hosts[host];
        let before = host.run.as_ref().and_then(|run| run.applied.as_ref());
        if let Some((of, earlier, _)) = before.filter(|(of, ..)| *of == store) {
            assert!(
                *earlier < revision,
                "{} goes back from {of}/{earlier} to {revision}",
                host.name
            );
        }
    }

    /// A host has written a fleet, over one that it has seen.
    pub(super) fn check_fleet(&mut self, writer: usize, before: Option<Stored>, seen: Revision) {
        let Some(after) = self.store.fleet.clone() else { return };
        let last = self.last_fleet.replace(after.clone());
        let fleet = &after.fleet;
        let known = self.hosts[writer].run.as_ref().and_then(|run| run.applied.clone());
        let writer = &self.hosts[writer].name;
        if let Some(before) = &before {
            assert!(before.modified <= seen, "{writer} writes an older list over a later one");
        }
        for (owner, _) in fleet.owners().iter() {
            let state = fleet.members().get(owner).map(Member::state);
            assert_eq!(state, Some(MemberState::Serving), "{owner} owns a slot");
        }
        // A store that has lost it, or from which it was deleted, gets the fleet that was there; unless who knew it
        // has not come back in time.
        let is_known = |last: &Stored| known.is_some_and(|(.., fleet)| fleet == last.fleet);
        let Some(before) = before.or(last.filter(is_known)) else { return };
        for member in before.fleet.members().iter() {
            let name = member.name();
            match fleet.members().get(name) {
                None => self.check_removal(member),
                Some(now) if now.state() == MemberState::Lost => self.check_lost(member),
                Some(now) => assert!(
                    !self.only_store || now.state() >= member.state(),
                    "{name} has lost its slots"
                ),
            }
        }
    }

    /// Whoever drains leaves with no slot, and no host that reaches the store still sends it new connections; if
    /// there is a host that could take them. Where all drain when the store loses its data, nobody writes a fleet, and
    /// each keeps the one of before.
    pub(super) fn check_withdrawal(&self, host: usize) {
        let host = &self.hosts[host];
        let drains = |run: &super::world::Run| matches!(run.local, LocalState::Draining { .. });
        if !host.run.as_ref().is_some_and(drains) {
            return;
        }
        if let Some(stored) = &self.store.fleet {
            let owned = stored.fleet.owners().owned_by(&host.name);
            assert_eq!(owned, 0, "{} leaves with {owned} slots", host.name);
        }
        let late = self.delay * 2 + Duration::from_secs(1);
        if !self.hosts.iter().any(|host| self.has_served(host, BACK_AFTER + late)) {
            return;
        }
        let reaches = |it: &&Host| self.is_undisturbed(it, BACK_AFTER + late);
        for other in self.hosts.iter().filter(reaches).filter(|_| !self.has_stuck_watches) {
            let applied = other.run.as_ref().and_then(|run| run.applied.as_ref());
            let owned = applied.map_or(0, |(.., fleet)| fleet.owners().owned_by(&host.name));
            assert_eq!(owned, 0, "{} leaves, and {} still sends it clients", host.name, other.name);
        }
    }

    /// Whoever has not left is in the fleet for as long as its connections are to be passed to it.
    fn check_removal(&self, member: &Member) {
        let name = member.name();
        let Some((deleted, leaves)) = self.store.deleted.get(name) else {
            // Not since the store lost its data. Who was told before that it leaves need not wait.
            let since = self.now.since(self.store.began);
            assert!(
                since >= LEASE || self.store.left.contains(name),
                "{name} was taken out {since:?} after the store had lost its data"
            );
            return;
        };
        let since = self.now.since(*deleted);
        let may = *leaves || member.state() == MemberState::Joining || since >= LOST_FOR;
        assert!(may, "{name} was taken out {since:?} after its lease ended");
    }

    /// Whoever is marked as lost has no key; or has got one again while that was being written.
    fn check_lost(&self, before: &Member) {
        if before.state() == MemberState::Lost {
            return;
        }
        let name = before.name();
        assert!(!self.only_store, "{name} was lost although only the store had trouble");
        if !self.store.deleted.contains_key(name) && !self.store.members.contains_key(name) {
            let since = self.now.since(self.store.began);
            assert!(since >= LEASE, "{name} was lost {since:?} after the store had lost its data");
        }
        if let Some((published, _)) = self.store.members.get(name) {
            let newest = published.modified.0;
            let behind = self.store.revision.0.saturating_sub(newest);
            assert!(behind < 12, "{name} was lost with a key");
        }
    }

    /// Whether a host has had nothing in its way to the store for so long.
    pub(super) fn is_undisturbed(&self, host: &Host, span: Duration) -> bool {
        let Some(run) = &host.run else { return false };
        let since = run.since.max(run.lost_at).max(host.linked_since).max(self.store.up_since);
        host.linked && self.store.is_up && self.now.since(since) >= span
    }

    /// Whether a host has been ready for so long, with nothing in its way to the store.
    fn has_served(&self, host: &Host, span: Duration) -> bool {
        let Some(run) = &host.run else { return false };
        let is_ready = run.local == LocalState::Ready && self.now.since(run.local_since) >= span;
        is_ready && self.is_undisturbed(host, span)
    }

    /// Looked at every second.
    pub(super) fn probe(&mut self) {
        let late = match self.has_stuck_watches {
            true => AUDITED_AFTER,
            false => self.delay * 2 + Duration::from_secs(1),
        };
        for host in &self.hosts {
            self.check_behind(host, late);
            self.check_share(host, late);
        }
        self.check_the_dead(late);
        self.check_doubt(late);
        self.check_owned(late);
    }

    /// A host that reaches the store is behind it for no longer than its watch is late. So two hosts that have
    /// different owners for a slot have them for no longer, since those of one revision are the same.
    fn check_behind(&self, host: &Host, late: Duration) {
        if !self.is_undisturbed(host, BACK_AFTER + late) {
            return;
        }
        let known = |(at, _): &&(_, Stored)| self.now.since(*at) >= late;
        let Some((at, newest)) = self.store.written.iter().rfind(known) else { return };
        if newest.modified < self.store.fleet_deleted {
            // Who has read all after that cannot know it.
            return;
        }
        let applied = host.run.as_ref().and_then(|run| run.applied.as_ref());
        let Some(stored) = &self.store.fleet else { return };
        if applied.is_some_and(|(.., known)| [&stored.fleet, &newest.fleet].contains(&known)) {
            // Of the same number too, by chance, in a store before this one.
            return;
        }
        let of_this_store = applied.filter(|(store, ..)| *store == self.store.id);
        let revision = of_this_store.map_or(Revision::NONE, |(_, revision, _)| *revision);
        let since = self.now.since(*at);
        assert!(revision >= newest.modified, "{} is behind the store, by {since:?}", host.name);
    }

    /// A host that is ready and reaches the store has its share, once all have had the time to hear of it.
    fn check_share(&self, host: &Host, late: Duration) {
        let Some(run) = &host.run else { return };
        let ready_for = self.now.since(run.local_since);
        let span = BACK_AFTER + LEASE * 2 + late * 2;
        let is_ready = run.local == LocalState::Ready && ready_for >= span;
        if !is_ready || !self.is_undisturbed(host, span) || self.has_hand_at_work(late) {
            return;
        }
        let name = &host.name;
        let Some(stored) = &self.store.fleet else {
            panic!("{name} is ready, and there is no fleet")
        };
        let state = stored.fleet.members().get(name).map(Member::state);
        assert_eq!(state, Some(MemberState::Serving), "{name} is not in the fleet as it is");
        assert!(stored.fleet.owners().owned_by(name) > 0, "{name} owns nothing");
    }

    /// Somebody has just ended a lease or deleted the fleet by hand, which is mended in a moment; or when it is found
    /// out, where a watch tells nothing any more.
    fn has_hand_at_work(&self, late: Duration) -> bool {
        let span = LEASE + Duration::from_secs(2) + self.delay * 8 + late;
        self.touched_at.is_some_and(|at| self.now.since(at) < span)
    }

    /// Who is dead owns nothing once its lease has ended, if somebody else serves and reaches the store.
    fn check_the_dead(&self, late: Duration) {
        let span = BACK_AFTER + LEASE * 3 + late * 2;
        if !self.hosts.iter().any(|host| self.has_served(host, span)) {
            return;
        }
        let Some(stored) = &self.store.fleet else { return };
        for host in &self.hosts {
            let deleted = self.store.deleted.get(&host.name);
            let is_dead = deleted.is_some_and(|(at, _)| self.now.since(*at) >= span);
            let owned = stored.fleet.owners().owned_by(&host.name);
            assert!(!is_dead || owned == 0, "{} is dead and owns {owned} slots", host.name);
        }
    }

    /// After a long calm.
    pub(super) fn check_rest(&self) {
        let Some(stored) = &self.store.fleet else {
            let is_ready =
                |host: &Host| host.run.as_ref().is_some_and(|run| run.local == LocalState::Ready);
            assert!(!self.hosts.iter().any(is_ready), "somebody is ready and there is no fleet");
            return;
        };
        let serves = |host: &Host| {
            let local = host.run.as_ref().map(|run| (run.local, self.now.since(run.local_since)));
            local.is_some_and(|(local, since)| local == LocalState::Ready && since > BACK_AFTER * 2)
        };
        let somebody_serves = self.hosts.iter().any(serves);
        for host in &self.hosts {
            let name = &host.name;
            let member = stored.fleet.members().get(name).map(Member::state);
            match &host.run {
                Some(run) => {
                    let applied = run.applied.as_ref().map(|(_, revision, _)| *revision);
                    assert_eq!(
                        applied,
                        Some(stored.modified),
                        "{name} is behind the store at rest"
                    );
                    let leaves = matches!(run.local, LocalState::Draining { connections: 0 });
                    assert!(!(leaves && somebody_serves), "{name} has not left");
                    let own = run.membership.health().own;
                    if serves(host) {
                        assert_eq!((member, own), (Some(MemberState::Serving), OwnState::Serving));
                    }
                }
                None if somebody_serves => {
                    assert_ne!(member, Some(MemberState::Serving), "{name} is gone and serves");
                }
                None => {}
            }
        }
    }
}
