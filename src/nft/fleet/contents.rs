//! What a table of a fleet holds, as the kernel knows it, and how one becomes another.

use std::collections::BTreeMap;

use super::bytecode;
use crate::nft::wire::expression::Expression;
use crate::ruleset::{FleetHook, FleetMap, FleetRuleset, FleetSet, FleetTable, FleetTableKind};

/// What all tables hold.
pub(super) type Tables = BTreeMap<FleetTableKind, Contents>;

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Contents {
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) chains: BTreeMap<String, Chain>,
}

impl Contents {
    /// Of a table that is to be made anew, whatever it holds.
    pub(super) fn unknown() -> Self {
        let set = || Set { kind: SetKind::Other, elements: BTreeMap::new() };
        let maps = [FleetMap::Owners, FleetMap::Former].map(FleetMap::as_str);
        let sets = maps.into_iter().map(|name| (name.to_owned(), set())).collect();
        Self { sets, chains: BTreeMap::new() }
    }
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) kind: SetKind,
    /// From a key to the chain that it goes to.
    pub(super) elements: BTreeMap<Vec<u8>, Option<String>>,
}

/// What a set is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetKind {
    /// MAC addresses.
    Members,
    /// A map from so many slots; how many is not told by the kernel, but by the rules that look up in it.
    Slots(u32),
    /// None of ours.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Hook,
    /// `None` for one that no rule of ours is.
    pub(super) rules: Vec<Option<Vec<Expression>>>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hook {
    None,
    /// `ingress` of this device.
    Ingress(String),
    Prerouting,
    /// Elsewhere, or with a policy that is not ours.
    Other,
}

/// A change of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    AddTable,
    DeleteTable,
    AddChain(String, Hook),
    FlushChain(String),
    DeleteChain(String),
    AddSet(String, SetKind),
    DeleteSet(String),
    AddElements(String, Vec<(Vec<u8>, Option<String>)>),
    DeleteElements(String, Vec<Vec<u8>>),
    AddRule(String, Vec<Expression>),
}

impl Change {
    /// What it is about, for a message.
    pub(super) fn object(&self) -> String {
        match self {
            Self::AddTable | Self::DeleteTable => "the table".to_owned(),
            Self::AddChain(name, _)
            | Self::FlushChain(name)
            | Self::DeleteChain(name)
            | Self::AddRule(name, _) => format!("chain {name}"),
            Self::AddSet(name, _)
            | Self::DeleteSet(name)
            | Self::AddElements(name, _)
            | Self::DeleteElements(name, _) => format!("set {name}"),
        }
    }
}

/// What the tables of these rules hold on a host whose device has this index.
pub(super) fn wanted(rules: &FleetRuleset, device: u32) -> Tables {
    let contents = |table: &FleetTable| {
        let chains = table.chains.iter().map(|chain| {
            let hook = match chain.hook {
                None => Hook::None,
                Some(FleetHook::Ingress) => Hook::Ingress(rules.device.as_str().to_owned()),
                Some(FleetHook::Prerouting) => Hook::Prerouting,
            };
            let bytecode = |rule| Some(bytecode::emit(table.kind, rule, device));
            let of_chain = chain.rules.iter().map(bytecode).collect();
            (chain.name.to_string(), Chain { hook, rules: of_chain })
        });
        let sets = table.sets.iter().map(|set| (set.name().to_owned(), Set::of(set)));
        Contents { chains: chains.collect(), sets: sets.collect() }
    };
    rules.tables.iter().map(|table| (table.kind, contents(table))).collect()
}

impl Set {
    fn of(set: &FleetSet) -> Self {
        match set {
            FleetSet::Members(all) => {
                let elements = all.iter().map(|mac| (mac.octets().to_vec(), None)).collect();
                Self { kind: SetKind::Members, elements }
            }
            FleetSet::Slots { slots, chains, .. } => {
                let element = |(slot, chain): &(u32, std::sync::Arc<str>)| {
                    (slot.to_ne_bytes().to_vec(), Some(chain.to_string()))
                };
                let elements = chains.iter().map(element).collect();
                Self { kind: SetKind::Slots(*slots), elements }
            }
        }
    }
}

/// What makes the tables hold what is wanted. Nothing that a packet on its way could still come to goes before the
/// rules that lead there, and no map is made anew: a packet that looks up finds an owner, the old or the new one.
/// Only a table that is another as a whole is replaced.
pub(super) fn changes(found: &Tables, wanted: &Tables) -> Vec<(FleetTableKind, Change)> {
    let mut all = vec![];
    for kind in FleetTableKind::ALL {
        let of_table: Vec<Change> = match (found.get(&kind), wanted.get(&kind)) {
            (None, None) => vec![],
            (Some(_), None) => vec![Change::DeleteTable],
            (None, Some(wanted)) => make(wanted),
            (Some(found), Some(wanted)) => match between(found, wanted) {
                Some(changes) => changes,
                None => std::iter::once(Change::DeleteTable).chain(make(wanted)).collect(),
            },
        };
        all.extend(of_table.into_iter().map(|change| (kind, change)));
    }
    all
}

fn make(wanted: &Contents) -> Vec<Change> {
    let changes = between(&Contents::default(), wanted);
    let changes = changes.expect("what is empty can become anything");
    std::iter::once(Change::AddTable).chain(changes).collect()
}

/// `None` if a table has to be made anew: where a chain hangs elsewhere, a set is of another kind.
fn between(found: &Contents, wanted: &Contents) -> Option<Vec<Change>> {
    let is_alike = |name: &String, chain: &Chain| {
        found.chains.get(name).is_none_or(|there| there.hook == chain.hook)
    };
    let is_same_kind =
        |name: &String, set: &Set| found.sets.get(name).is_none_or(|there| there.kind == set.kind);
    let fits = wanted.chains.iter().all(|(name, chain)| is_alike(name, chain))
        && wanted.sets.iter().all(|(name, set)| is_same_kind(name, set));
    fits.then_some(())?;
    let mut changes = vec![];
    let is_new = |name: &String| !found.chains.contains_key(name);
    for (name, chain) in wanted.chains.iter().filter(|(name, _)| is_new(name)) {
        changes.push(Change::AddChain(name.clone(), chain.hook.clone()));
    }
    for (name, set) in wanted.sets.iter().filter(|(name, _)| !found.sets.contains_key(*name)) {
        changes.push(Change::AddSet(name.clone(), set.kind));
    }
    let chains = found.chains.iter();
    let flushed = chains.filter(|(name, chain)| {
        wanted.chains.get(*name).is_none_or(|wanted| wanted.rules != chain.rules)
    });
    changes.extend(flushed.map(|(name, _)| Change::FlushChain(name.clone())));
    let nothing = BTreeMap::new();
    let (mut gone, mut come) = (vec![], vec![]);
    for (name, set) in &found.sets {
        let wanted = wanted.sets.get(name).map_or(&nothing, |set| &set.elements);
        let differs = |(key, to): &(&Vec<u8>, &Option<String>)| wanted.get(*key) != Some(*to);
        let keys: Vec<_> =
            set.elements.iter().filter(differs).map(|(key, _)| key.clone()).collect();
        if !keys.is_empty() {
            gone.push(Change::DeleteElements(name.clone(), keys));
        }
    }
    for (name, set) in &wanted.sets {
        let there = found.sets.get(name).map_or(&nothing, |set| &set.elements);
        let differs = |(key, to): &(&Vec<u8>, &Option<String>)| there.get(*key) != Some(*to);
        let elements = set.elements.iter().filter(differs);
        let elements: Vec<_> = elements.map(|(key, to)| (key.clone(), to.clone())).collect();
        if !elements.is_empty() {
            come.push(Change::AddElements(name.clone(), elements));
        }
    }
    changes.extend(gone);
    for (name, chain) in &wanted.chains {
        if found.chains.get(name).is_none_or(|there| there.rules != chain.rules) {
            let rules = chain.rules.iter().flatten().cloned();
            changes.extend(rules.map(|rule| Change::AddRule(name.clone(), rule)));
        }
    }
    changes.extend(come);
    let chains = found.chains.keys().filter(|name| !wanted.chains.contains_key(*name));
    changes.extend(chains.map(|name| Change::DeleteChain(name.clone())));
    let sets = found.sets.keys().filter(|name| !wanted.sets.contains_key(*name));
    changes.extend(sets.map(|name| Change::DeleteSet(name.clone())));
    Some(changes)
}
