//! A slot that two hosts own, or nobody: for how long, and what becomes of its connections.

use std::time::Duration;

use super::super::LocalState;
use super::super::Revision;
use super::checks::BACK_AFTER;
use super::world::{Host, LEASE, Run, World};
use crate::plan::fleet::Fleet;

impl World {
    /// Two hosts that reach the store both own a slot for no longer than the watch of one is late.
    pub(super) fn check_doubt(&mut self, late: Duration) {
        let mut doubts = vec![];
        for (nth, one) in self.hosts.iter().enumerate() {
            for (other_nth, other) in self.hosts.iter().enumerate().skip(nth + 1) {
                let reach = |host: &Host| self.is_undisturbed(host, BACK_AFTER + late);
                if reach(one) && reach(other) {
                    let slots = owned_by_both(one, other);
                    doubts.extend(slots.into_iter().map(|slot| (nth, other_nth, slot)));
                }
            }
        }
        self.doubted.retain(|doubt, _| doubts.contains(doubt));
        for doubt in doubts {
            let since = *self.doubted.entry(doubt).or_insert(self.now);
            let (one, other) = (&self.hosts[doubt.0].name, &self.hosts[doubt.1].name);
            let span = self.now.since(since);
            assert!(span <= late, "{one} and {other} both own a slot, for {span:?}");
        }
    }

    /// A host has put a fleet in force. Of a slot that another one still believes to own it passes the packets of
    /// connections that it does not know on to that one.
    pub(super) fn check_second_chance(&self, host: usize) {
        let newer = &self.hosts[host];
        let Some((store, revision, fleet)) = applied(newer) else { return };
        for older in &self.hosts {
            let Some((of, seen, _)) = applied(older) else { continue };
            let written = |(_, stored): &&(_, super::super::Stored)| {
                stored.modified > seen && stored.modified <= revision
            };
            // Of more changes than that no host keeps the owners.
            let is_kept = self.store.written.iter().filter(written).count() <= fleet.kept();
            // One that was deleted by hand, and that nobody knows who reaches the store, is written anew from an
            // older one: see `check_written_anew`.
            let is_older = |(written, from): &(Revision, Revision)| {
                *written > seen && *written <= revision && *from < seen
            };
            let is_written_anew = self.store.written_anew.iter().any(is_older);
            if of != store || seen >= revision || !is_kept || is_written_anew {
                continue;
            }
            if fleet.members().get(&older.name).is_none() {
                // Whoever is no member any more has left, or was lost for long.
                continue;
            }
            let former: Vec<_> = fleet.owners().iter().map(|(_, former)| former).collect();
            for slot in owned_by_both(newer, older) {
                assert!(
                    former[slot].contains(&&older.name),
                    "{} has slot {slot} and cuts the connections of {}",
                    newer.name,
                    older.name
                );
            }
        }
    }
}

impl World {
    /// A host has written a fleet where there was none: nobody who reaches the store, and is a member, knows a later
    /// one than that which it was made from.
    pub(super) fn check_written_anew(&mut self, writer: usize) {
        let of = |host: &Host| applied(host).map(|(store, revision, _)| (store, revision));
        let version = |host: &Host| of(host).and_then(|it| self.versions.get(&it)).copied();
        let writer = &self.hosts[writer];
        let late = self.delay * 2 + Duration::from_secs(1);
        let may_know = |host: &&Host| {
            self.is_undisturbed(host, BACK_AFTER + late)
                && self.store.members.contains_key(&host.name)
        };
        for other in self.hosts.iter().filter(may_know).filter(|_| !self.has_stuck_watches) {
            let (name, other_name) = (&writer.name, &other.name);
            assert!(
                version(other) <= version(writer),
                "{name} writes an older fleet than {other_name} knows: {:?}, {:?}",
                version(writer),
                version(other)
            );
        }
        let from = of(writer).filter(|(store, _)| *store == self.store.id);
        let from = from.map_or(Revision::NONE, |(_, revision)| revision);
        self.store.written_anew.push((self.store.revision, from));
    }

    /// While a host serves, every slot has an owner: one that is ready, and owns it by the fleet that it has in force
    /// itself.
    pub(super) fn check_owned(&mut self, late: Duration) {
        let span = BACK_AFTER + LEASE * 3 + late * 2;
        let is_ready = |host: &Host, span: Duration| {
            let serves = |run: &Run| {
                run.local == LocalState::Ready && self.now.since(run.local_since) >= span
            };
            host.run.as_ref().is_some_and(serves)
        };
        let serves = |host: &Host| is_ready(host, span) && self.is_undisturbed(host, span);
        if !self.hosts.iter().any(serves) {
            return self.unowned.clear();
        }
        let mut unowned = vec![true; super::world::SLOTS as usize];
        for host in self.hosts.iter().filter(|host| is_ready(host, Duration::ZERO)) {
            let Some((.., fleet)) = applied(host) else { continue };
            for ((owner, _), unowned) in fleet.owners().iter().zip(&mut unowned) {
                *unowned &= *owner != host.name;
            }
        }
        self.unowned.retain(|slot, _| unowned[*slot]);
        for slot in (0..unowned.len()).filter(|slot| unowned[*slot]) {
            let since = self.now.since(*self.unowned.entry(slot).or_insert(self.now));
            assert!(since <= span, "slot {slot} has had no owner for {since:?}");
        }
    }
}

fn applied(host: &Host) -> Option<(u64, Revision, &Fleet)> {
    let (store, revision, fleet) = host.run.as_ref()?.applied.as_ref()?;
    Some((*store, *revision, fleet))
}

/// The slots that each of the two owns by the fleet that it has in force.
fn owned_by_both(one: &Host, other: &Host) -> Vec<usize> {
    let (Some((.., its)), Some((.., others))) = (applied(one), applied(other)) else {
        return vec![];
    };
    if std::ptr::eq(its, others) {
        return vec![];
    }
    let pairs = its.owners().iter().zip(others.owners().iter()).enumerate();
    let both = pairs.filter(|(_, (its, others))| *its.0 == one.name && *others.0 == other.name);
    both.map(|(slot, _)| slot).collect()
}
