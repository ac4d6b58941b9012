//! A table as the kernel keeps it, and what it refuses: the whole of a transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    Chain, ChainName, CounterName, Elements, Operation, Rule, Ruleset, Set, SetName, TableName,
    Tally, Transaction,
};
use crate::plan::Seat;

/// Why the kernel refuses an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `EEXIST`
    Exists,
    /// `ENOENT`
    Missing,
    /// `EBUSY`
    Busy,
    /// `ELOOP`
    Loop,
}

/// The kernel's table of one name. Stricter than the kernel in one thing: a chain must be empty to
/// be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    table: Option<Table>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Table {
    counters: BTreeMap<CounterName, Tally>,
    sets: BTreeMap<SetName, Elements>,
    chains: BTreeMap<ChainName, Vec<Rule>>,
}

impl Kernel {
    /// A kernel that holds this ruleset, and has counted nothing yet.
    pub(super) fn holding(ruleset: &Ruleset) -> Self {
        let counters = ruleset.counters.iter().map(|name| (*name, Tally::default())).collect();
        let sets = ruleset.sets.iter().map(|set| (set.name, set.elements.clone())).collect();
        let chains = ruleset.chains.iter().map(|chain| (chain.name, chain.rules.clone())).collect();
        Self { table: Some(Table { counters, sets, chains }) }
    }

    pub(super) fn ruleset(&self, name: &TableName) -> Option<Ruleset> {
        let table = self.table.as_ref()?;
        let sets = table.sets.iter();
        let chains = table.chains.iter();
        Some(Ruleset {
            table: name.clone(),
            counters: table.counters.keys().copied().collect(),
            sets: sets.map(|(name, of)| Set { name: *name, elements: of.clone() }).collect(),
            chains: chains.map(|(name, of)| Chain { name: *name, rules: of.clone() }).collect(),
        })
    }

    /// A connection to the worker in each seat.
    pub(super) fn count(&mut self) {
        for tally in self.table.iter_mut().flat_map(|table| table.counters.values_mut()) {
            tally.connections += 1;
            tally.bytes += 60;
        }
    }

    pub(super) fn tallies(&self) -> BTreeMap<Seat, Tally> {
        let counters = self.table.iter().flat_map(|table| &table.counters);
        counters.map(|(name, tally)| (name.0, *tally)).collect()
    }

    /// All or nothing; else the operation at fault.
    pub(super) fn carry_out(
        &mut self,
        transaction: &Transaction,
    ) -> Result<(), (Operation, Refusal)> {
        let mut next = self.clone();
        for operation in &transaction.operations {
            next.step(operation).map_err(|refusal| (operation.clone(), refusal))?;
        }
        if let (Some(table), Some(last)) = (&next.table, transaction.operations.last()) {
            table.check_for_loops().map_err(|refusal| (last.clone(), refusal))?;
        }
        *self = next;
        Ok(())
    }

    fn step(&mut self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::AddTable if self.table.is_some() => return Err(Refusal::Exists),
            Operation::AddTable => self.table = Some(Table::default()),
            Operation::DeleteTable => drop(self.table.take().ok_or(Refusal::Missing)?),
            other => self.table.as_mut().ok_or(Refusal::Missing)?.step(other)?,
        }
        Ok(())
    }
}

impl Table {
    fn step(&mut self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::AddTable | Operation::DeleteTable => unreachable!("done by the caller"),
            Operation::AddCounter(name, tally) => {
                if self.counters.insert(*name, *tally).is_some() {
                    return Err(Refusal::Exists);
                }
            }
            Operation::DeleteCounter(name) => {
                if self.rules().any(|rule| counter_in(rule) == Some(*name)) {
                    return Err(Refusal::Busy);
                }
                self.counters.remove(name).ok_or(Refusal::Missing)?;
            }
            Operation::AddChain(name) => {
                if self.chains.insert(*name, vec![]).is_some() {
                    return Err(Refusal::Exists);
                }
            }
            Operation::FlushChain(name) => {
                self.chains.get_mut(name).ok_or(Refusal::Missing)?.clear();
            }
            Operation::DeleteChain(name) => {
                let rules = self.chains.get(name).ok_or(Refusal::Missing)?;
                if !rules.is_empty() || self.goes_to(*name) {
                    return Err(Refusal::Busy);
                }
                self.chains.remove(name);
            }
            Operation::AddSet(set) => {
                let chains = chains_in(&set.elements);
                if !chains.iter().all(|chain| self.chains.contains_key(chain)) {
                    return Err(Refusal::Missing);
                }
                if self.sets.insert(set.name, set.elements.clone()).is_some() {
                    return Err(Refusal::Exists);
                }
            }
            Operation::DeleteSet(name) => {
                if self.rules().any(|rule| sets_in(rule) == Some(*name)) {
                    return Err(Refusal::Busy);
                }
                self.sets.remove(name).ok_or(Refusal::Missing)?;
            }
            Operation::AddRule(chain, rule) => {
                let has_set = sets_in(rule).is_none_or(|set| self.sets.contains_key(&set));
                let has_chain = goto_in(rule).is_none_or(|chain| self.chains.contains_key(&chain));
                let has_counter =
                    counter_in(rule).is_none_or(|counter| self.counters.contains_key(&counter));
                if !has_set || !has_chain || !has_counter {
                    return Err(Refusal::Missing);
                }
                self.chains.get_mut(chain).ok_or(Refusal::Missing)?.push(rule.clone());
            }
        }
        Ok(())
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.values().flatten()
    }

    fn goes_to(&self, chain: ChainName) -> bool {
        self.rules().any(|rule| goto_in(rule) == Some(chain))
            || self.sets.values().any(|elements| chains_in(elements).contains(&chain))
    }

    /// `nft_chain_validate`: `ELOOP` for chains that can come back to themselves.
    fn check_for_loops(&self) -> Result<(), Refusal> {
        // Chains form no cycle exactly if they can be taken away one by one, each when no other
        // that is left goes to it.
        let mut left: BTreeSet<ChainName> = self.chains.keys().copied().collect();
        while !left.is_empty() {
            let targets: BTreeSet<_> =
                left.iter().flat_map(|chain| self.targets_of(*chain)).collect();
            let free: Vec<_> = left.difference(&targets).copied().collect();
            if free.is_empty() {
                return Err(Refusal::Loop);
            }
            for chain in free {
                left.remove(&chain);
            }
        }
        Ok(())
    }

    fn targets_of(&self, chain: ChainName) -> BTreeSet<ChainName> {
        let rules = self.chains.get(&chain).into_iter().flatten();
        rules
            .flat_map(|rule| {
                let of_set = sets_in(rule).and_then(|set| self.sets.get(&set)).map(chains_in);
                of_set.unwrap_or_default().into_iter().chain(goto_in(rule))
            })
            .collect()
    }
}

/// The set or map that a rule looks something up in.
fn sets_in(rule: &Rule) -> Option<SetName> {
    match rule {
        Rule::Dispatch { family } => Some(SetName::Listeners(*family)),
        Rule::DispatchWildcard { family } => Some(SetName::Wildcards(*family)),
        Rule::Hash { map, .. } => Some(*map),
        Rule::Mask { map, .. } | Rule::RedirectByMap { map, .. } => Some(*map),
        Rule::Redirect { .. } | Rule::Drop { .. } | Rule::Guard { .. } => None,
    }
}

/// The counter that a rule counts in.
fn counter_in(rule: &Rule) -> Option<CounterName> {
    match rule {
        Rule::Redirect { counter, .. } | Rule::RedirectByMap { counter, .. } => Some(*counter),
        _ => None,
    }
}

fn goto_in(rule: &Rule) -> Option<ChainName> {
    match rule {
        Rule::Dispatch { .. } | Rule::DispatchWildcard { .. } => Some(ChainName::Balance),
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
        | Elements::Ports(_) => [].into(),
    }
}
