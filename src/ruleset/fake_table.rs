//! A table as the kernel keeps it, and what it refuses: what transactions are tested against without
//! a kernel. `netns-tests/tests/cases/conformance.rs` compares it with the real one.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{
    Chain, ChainName, CounterName, CounterValue, Elements, Rule, Ruleset, Set, SetName, TableName,
    TcpPorts,
};
use super::transition::Operation;
use crate::plan::Seat;

/// Why the kernel refuses an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableError {
    /// `EEXIST`
    Exists,
    /// `ENOENT`
    Missing,
    /// `EBUSY`
    Busy,
    /// `EMLINK`
    Loop,
}

/// A table of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FakeTable {
    counters: BTreeMap<CounterName, CounterValue>,
    sets: BTreeMap<SetName, Elements>,
    chains: BTreeMap<ChainName, Vec<Rule>>,
}

impl FakeTable {
    /// A table that holds this ruleset, and has counted nothing yet.
    #[cfg(test)]
    pub(super) fn holding(ruleset: &Ruleset) -> Self {
        let counters =
            ruleset.counters.iter().map(|name| (*name, CounterValue::default())).collect();
        let sets = ruleset.sets.iter().map(|set| (set.name, set.elements.clone())).collect();
        let chains = ruleset.chains.iter().map(|chain| (chain.name, chain.rules.clone())).collect();
        Self { counters, sets, chains }
    }

    /// What is in it.
    pub(crate) fn ruleset(&self, name: &TableName) -> Ruleset {
        let sets = self.sets.iter();
        let chains = self.chains.iter();
        Ruleset {
            table: name.clone(),
            counters: self.counters.keys().copied().collect(),
            sets: sets.map(|(name, of)| Set { name: *name, elements: of.clone() }).collect(),
            chains: chains.map(|(name, of)| Chain { name: *name, rules: of.clone() }).collect(),
        }
    }

    /// What its counters have counted.
    pub(crate) fn counter_values(&self) -> BTreeMap<Seat, CounterValue> {
        self.counters.iter().map(|(name, value)| (name.0, *value)).collect()
    }

    /// A connection to the worker in this seat.
    pub(crate) fn count(&mut self, seat: Seat, bytes: u64) {
        if let Some(value) = self.counters.get_mut(&CounterName(seat)) {
            value.connections += 1;
            value.bytes += bytes;
        }
    }

    /// Whether there is such a chain, without rules.
    pub(crate) fn is_empty_chain(&self, chain: ChainName) -> bool {
        self.chains.get(&chain).is_some_and(Vec::is_empty)
    }

    /// Carries out an operation in it, any but those that make and delete the table. What a refused
    /// one has done up to then stays, as the kernel goes on with what follows, to report all faults,
    /// before it undoes everything.
    pub(crate) fn step(&mut self, operation: &Operation) -> Result<(), TableError> {
        match operation {
            Operation::AddTable | Operation::DeleteTable => {}
            Operation::AddCounter(name, value) => {
                if self.counters.contains_key(name) {
                    return Err(TableError::Exists);
                }
                self.counters.insert(*name, *value);
            }
            Operation::DeleteCounter(name) => {
                if self.rules().any(|rule| counter_in(rule) == Some(*name)) {
                    return Err(TableError::Busy);
                }
                self.counters.remove(name).ok_or(TableError::Missing)?;
            }
            Operation::AddChain(name) => {
                if self.chains.contains_key(name) {
                    return Err(TableError::Exists);
                }
                self.chains.insert(*name, vec![]);
            }
            Operation::FlushChain(name) => {
                self.chains.get_mut(name).ok_or(TableError::Missing)?.clear();
            }
            Operation::DeleteChain(name) => {
                // Its rules go with it (`nf_tables_delchain`).
                self.chains.get_mut(name).ok_or(TableError::Missing)?.clear();
                if self.goes_to(*name) {
                    return Err(TableError::Busy);
                }
                self.chains.remove(name);
            }
            Operation::AddSet(set) => {
                if self.sets.contains_key(&set.name) {
                    return Err(TableError::Exists);
                }
                self.sets.insert(set.name, set.elements.clone());
                let chains = chains_in(&set.elements);
                if !chains.iter().all(|chain| self.chains.contains_key(chain)) {
                    return Err(TableError::Missing);
                }
            }
            Operation::DeleteSet(name) => {
                if self.rules().any(|rule| sets_in(rule).any(|set| set == *name)) {
                    return Err(TableError::Busy);
                }
                self.sets.remove(name).ok_or(TableError::Missing)?;
            }
            Operation::AddPorts(name, ports) => {
                let Some(Elements::WorkerPorts(held)) = self.sets.get_mut(name) else {
                    return Err(TableError::Missing);
                };
                // Of one that is there already the kernel takes no notice.
                held.extend(ports);
                held.sort_unstable();
                held.dedup();
            }
            Operation::DeletePorts(name, ports) => {
                let Some(Elements::WorkerPorts(held)) = self.sets.get_mut(name) else {
                    return Err(TableError::Missing);
                };
                let is_there = ports.iter().all(|port| held.contains(port));
                held.retain(|port| !ports.contains(port));
                return if is_there { Ok(()) } else { Err(TableError::Missing) };
            }
            Operation::AddRule(chain, rule) => {
                let has_sets = sets_in(rule).all(|set| self.sets.contains_key(&set));
                let has_counter =
                    counter_in(rule).is_none_or(|counter| self.counters.contains_key(&counter));
                if !has_sets || !has_counter {
                    return Err(TableError::Missing);
                }
                self.chains.get_mut(chain).ok_or(TableError::Missing)?.push(rule.clone());
            }
        }
        Ok(())
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.values().flatten()
    }

    fn goes_to(&self, chain: ChainName) -> bool {
        self.sets.values().any(|elements| chains_in(elements).contains(&chain))
    }

    /// `nft_table_validate`: whether a packet could go round in circles. Chains that no base chain
    /// leads to are not looked at.
    pub(crate) fn has_loop(&self) -> bool {
        let bases = self.chains.keys().copied().filter(|chain| chain.base().is_some());
        let mut done = BTreeSet::new();
        bases.into_iter().any(|base| self.comes_back(base, &mut vec![], &mut done))
    }

    fn comes_back(
        &self,
        chain: ChainName,
        path: &mut Vec<ChainName>,
        done: &mut BTreeSet<ChainName>,
    ) -> bool {
        if path.contains(&chain) {
            return true;
        }
        if done.contains(&chain) {
            return false;
        }
        path.push(chain);
        let targets = self.targets_of(chain);
        let comes_back = targets.into_iter().any(|target| self.comes_back(target, path, done));
        path.pop();
        done.insert(chain);
        comes_back
    }

    fn targets_of(&self, chain: ChainName) -> BTreeSet<ChainName> {
        let rules = self.chains.get(&chain).into_iter().flatten();
        rules.flat_map(sets_in).filter_map(|set| self.sets.get(&set)).flat_map(chains_in).collect()
    }
}

/// The sets and maps that a rule looks something up in.
fn sets_in(rule: &Rule) -> impl Iterator<Item = SetName> + use<> {
    let names = match rule {
        Rule::Hash { scope, map, .. }
        | Rule::Random { scope, map, .. }
        | Rule::Mask { scope, map, .. } => [scope.set(), Some(*map)],
        Rule::RedirectByMap { map, .. } | Rule::TranslateByMap { map, .. } => [None, Some(*map)],
        Rule::Guard { set, .. } => [Some(*set), None],
        Rule::Established { ports: TcpPorts::Set } => [Some(SetName::Established), None],
        Rule::Redirect { .. }
        | Rule::Translate { .. }
        | Rule::Drop { .. }
        | Rule::DropTracked { .. }
        | Rule::GuardRange { .. }
        | Rule::Count { .. }
        | Rule::Tproxy { .. }
        | Rule::PassLocal
        | Rule::PassRemote
        | Rule::Established { ports: TcpPorts::One(_) }
        | Rule::Reply { .. } => [None, None],
    };
    names.into_iter().flatten()
}

/// The counter that a rule counts in.
fn counter_in(rule: &Rule) -> Option<CounterName> {
    match rule {
        Rule::Translate { counter, .. }
        | Rule::TranslateByMap { counter, .. }
        | Rule::Redirect { counter, .. }
        | Rule::RedirectByMap { counter, .. }
        | Rule::Count { counter, .. } => Some(*counter),
        _ => None,
    }
}

fn chains_in(elements: &Elements) -> BTreeSet<ChainName> {
    match elements {
        Elements::Seats(seats) | Elements::MaskedSeats4(seats) | Elements::MaskedSeats6(seats) => {
            seats.iter().copied().map(ChainName::Seat).collect()
        }
        Elements::Listeners4(_)
        | Elements::Listeners6(_)
        | Elements::Services(_)
        | Elements::Ports(_)
        | Elements::WorkerPorts(_) => [].into(),
    }
}
