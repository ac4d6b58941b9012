//! The keys of a fleet in etcd, and what stands under them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::wire::{KeyValue, RangeAnswer, Streamed, WatchAnswer};
use crate::fleet::{
    Change, Key, OwnWords, Published, Revision, Stored, fleet_from_value, member_from_value,
};
use crate::plan::fleet::MemberName;

/// What a watch has told.
#[derive(Debug)]
pub(super) enum Told {
    /// Changes, each revision apart.
    Changes(Vec<(Revision, Vec<Change>)>),
    /// It has ended, and says why.
    Ended(String),
}

/// The keys of one fleet.
#[derive(Debug)]
pub(super) struct FleetKeys {
    /// Begins with a slash, and ends with one.
    prefix: String,
}

impl FleetKeys {
    pub(super) fn new(fleet_name: &str) -> Self {
        Self { prefix: format!("/ipcluster/{fleet_name}/") }
    }

    /// With which all of them begin.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn of_member(&self, name: &MemberName) -> String {
        format!("{}members/{name}", self.prefix)
    }

    pub(super) fn of_fleet(&self) -> String {
        format!("{}fleet", self.prefix)
    }

    /// What all of them hold.
    pub(super) fn read(&self, answer: &RangeAnswer) -> Vec<Change> {
        answer.kvs.iter().map(|it| self.written(it)).collect()
    }

    /// What a message of a watch says.
    pub(super) fn told(&self, message: Streamed<WatchAnswer>) -> Told {
        let Streamed { result, error } = message;
        if let Some(fault) = error {
            return Told::Ended(fault.message);
        }
        let answer = result.unwrap_or_default();
        if answer.canceled || answer.compact_revision > 0 {
            return Told::Ended(match answer.compact_revision {
                0 => answer.cancel_reason,
                first => format!("etcd keeps no changes before revision {first}"),
            });
        }
        let mut changes: BTreeMap<Revision, Vec<Change>> = BTreeMap::new();
        for event in &answer.events {
            let change = match &*event.kind {
                "DELETE" => self.deleted(&event.kv),
                _ => self.written(&event.kv),
            };
            changes.entry(Revision(event.kv.mod_revision)).or_default().push(change);
        }
        Told::Changes(changes.into_iter().collect())
    }

    fn key_of(&self, written: &KeyValue) -> Key {
        let text = String::from_utf8_lossy(&written.key);
        let name = text.strip_prefix(&self.prefix).unwrap_or(&text);
        match name.strip_prefix("members/").map(str::parse) {
            Some(Ok(name)) => Key::Member(name),
            None if name == "fleet" => Key::Fleet,
            _ => Key::Other(name.to_owned()),
        }
    }

    fn deleted(&self, key: &KeyValue) -> Change {
        match self.key_of(key) {
            Key::Member(name) => Change::MemberGone(name),
            Key::Fleet => Change::FleetGone,
            key @ Key::Other(_) => Change::Unreadable { key, reason: "deleted".to_owned() },
        }
    }

    fn written(&self, written: &KeyValue) -> Change {
        let key = self.key_of(written);
        let modified = Revision(written.mod_revision);
        let read = match &key {
            Key::Member(name) => member_from_value(name.clone(), &written.value).map(|words| {
                let OwnWords { member, instance, knows, leaves } = words;
                let created = Revision(written.create_revision);
                Change::Member(Published { member, instance, created, modified, knows, leaves })
            }),
            Key::Fleet => fleet_from_value(&written.value)
                .map(|(fleet, version)| Stored { fleet: Arc::new(fleet), version, modified })
                .map(Change::Fleet),
            Key::Other(_) => Err("no key of a fleet".to_owned()),
        };
        read.unwrap_or_else(|reason| Change::Unreadable { key, reason })
    }
}
