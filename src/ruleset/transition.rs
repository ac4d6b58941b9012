//! From what is in force to what should be, in one transaction.

use std::collections::BTreeMap;

use super::lower::{
    balance_rules, dispatch_rules, families, guard_rules, lower, seat_rules, slot_maps, survivors,
    survivors_map, vacant_rules,
};
use super::object::{Chain, ChainName, CounterName, Rule, Set, SetName, TableName, Tally};
use crate::plan::{Difference, Partition, Plan, PlanError, Seat};

/// One member of a transaction: a verb and an object of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Make the table.
    AddTable,
    /// Remove the table and everything in it.
    DeleteTable,
    /// Make a counter that begins with what it is given here.
    AddCounter(CounterName, Tally),
    /// Remove a counter, which no rule may use.
    DeleteCounter(CounterName),
    /// Make a chain, without rules.
    AddChain(ChainName),
    /// Remove all rules of a chain.
    FlushChain(ChainName),
    /// Remove a chain, which must have no rules and to which nothing may go.
    DeleteChain(ChainName),
    /// Make a set or map, with its elements.
    AddSet(Set),
    /// Remove a set or map, which no rule may use.
    DeleteSet(SetName),
    /// Add a rule at the end of a chain.
    AddRule(ChainName, Rule),
}

/// Operations that the kernel carries out all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The table that all operations are in.
    pub table: TableName,
    /// What to do, in this order: what refers goes before what is referred to, else the kernel
    /// refuses the removal with `EBUSY`.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// Makes the table and everything that `plan` puts into it.
    pub fn create(plan: &Plan) -> Self {
        let mut operations = vec![Operation::AddTable];
        fill(&mut operations, plan);
        Self { table: TableName::of(plan.name()), operations }
    }

    /// Makes the table anew: whatever was in it goes in the same transaction in which the new
    /// contents come, so that a nat base chain stands throughout and established connections live.
    pub fn replace(plan: &Plan) -> Self {
        let mut operations = vec![Operation::DeleteTable, Operation::AddTable];
        fill(&mut operations, plan);
        Self { table: TableName::of(plan.name()), operations }
    }

    /// Removes the table.
    pub fn remove(table: TableName) -> Self {
        Self { table, operations: vec![Operation::DeleteTable] }
    }

    /// Changes what is in force into what should be, touching nothing else: a seat whose worker
    /// stays is not mentioned. No map or set is changed in place, since before Linux 6.17 a lookup
    /// could miss during such a commit; it is removed and made again under its name.
    ///
    /// # Errors
    /// [`PlanError::OtherCluster`] if the plans are of different clusters.
    pub fn between(in_force: &Plan, target: &Plan) -> Result<Self, PlanError> {
        let difference = in_force.difference(target)?;
        if difference.listeners.is_some() || partition_is_another(in_force, target) {
            return Ok(Self::replace(target));
        }
        let change = Change::new(in_force, target, &difference);
        Ok(Self { table: TableName::of(target.name()), operations: change.operations() })
    }

    /// Lets the counters that it makes go on from these values.
    pub fn seed(&mut self, tallies: &BTreeMap<Seat, Tally>) {
        for operation in &mut self.operations {
            if let Operation::AddCounter(CounterName(seat), begin) = operation {
                *begin = tallies.get(seat).copied().unwrap_or_default();
            }
        }
    }

    /// Whether it makes the table, and so all counters, anew.
    pub fn makes_table(&self) -> bool {
        // It comes first, or behind the removal of the one that was there.
        self.operations.iter().take(2).any(|operation| *operation == Operation::AddTable)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

fn fill(operations: &mut Vec<Operation>, plan: &Plan) {
    let ruleset = lower(plan);
    let counters = ruleset.counters.into_iter();
    operations.extend(counters.map(|name| Operation::AddCounter(name, Tally::default())));
    operations.extend(ruleset.chains.iter().map(|chain| Operation::AddChain(chain.name)));
    operations.extend(ruleset.sets.into_iter().map(Operation::AddSet));
    for Chain { name, rules } in ruleset.chains {
        operations.extend(rules.into_iter().map(|rule| Operation::AddRule(name, rule)));
    }
}

/// Whether the clients fall into slots by another rule: more or fewer slots of a mask do not
/// count, they come with scaling.
fn partition_is_another(in_force: &Plan, target: &Plan) -> bool {
    match (in_force.partition(), target.partition()) {
        (Partition::Mask { .. }, Partition::Mask { .. }) => false,
        (before, after) => before != after,
    }
}

/// What of the table has to be made anew.
struct Change<'a> {
    in_force: &'a Plan,
    target: &'a Plan,
    /// The seats whose chains get other rules, in order.
    seats: Vec<Seat>,
    slots_change: bool,
    survivors_before: Option<Vec<Seat>>,
    survivors_change: bool,
    dispatch_changes: bool,
    guard_changes: bool,
    local_clients_change: bool,
}

/// What becomes of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Made,
    /// It gets other rules.
    Remade,
    Removed,
}

impl<'a> Change<'a> {
    fn new(in_force: &'a Plan, target: &'a Plan, difference: &Difference) -> Self {
        let survivors_before = survivors(in_force);
        let survivors_change = survivors_before != survivors(target);
        let vacant_rules_change = survivors_change
            || difference.generation.is_some()
            || in_force.survivors().count() != target.survivors().count();
        let seats = target
            .seats()
            .filter(|(seat, occupant)| {
                let is_new = seat.index() >= in_force.seats().len();
                is_new
                    || difference.seats.contains_key(seat)
                    || (occupant.is_none() && vacant_rules_change)
            })
            .map(|(seat, _)| seat)
            .collect();
        Self {
            in_force,
            target,
            seats,
            slots_change: difference.assignment.is_some() || difference.seat_count.is_some(),
            survivors_before,
            survivors_change,
            dispatch_changes: difference.admitting.is_some(),
            guard_changes: difference.guard.is_some(),
            local_clients_change: difference.local_clients.is_some(),
        }
    }

    fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::with_capacity(4 * self.seats.len() + 16);
        self.add_chains(&mut operations);
        self.flush_chains(&mut operations);
        self.remake_maps(&mut operations);
        self.add_rules(&mut operations);
        self.delete_chains(&mut operations);
        operations
    }

    fn is_new(&self, seat: Seat) -> bool {
        seat.index() >= self.in_force.seats().len()
    }

    fn gone(&self) -> impl Iterator<Item = Seat> {
        let kept = self.target.seats().len();
        self.in_force.seats().skip(kept).map(|(seat, _)| seat)
    }

    /// What becomes of the base chains, apart from those of which nothing changes.
    fn base_chains(&self) -> impl Iterator<Item = (ChainName, Fate)> {
        let output_stays = self.in_force.has_local_clients() && self.target.has_local_clients();
        [
            (ChainName::Prerouting, self.dispatch_changes.then_some(Fate::Remade)),
            (
                ChainName::Output,
                match self.local_clients_change {
                    true if self.target.has_local_clients() => Some(Fate::Made),
                    true => Some(Fate::Removed),
                    false => (self.dispatch_changes && output_stays).then_some(Fate::Remade),
                },
            ),
            (
                ChainName::Guard,
                match (self.in_force.guard(), self.target.guard()) {
                    _ if !self.guard_changes => None,
                    (None, _) => Some(Fate::Made),
                    (Some(_), None) => Some(Fate::Removed),
                    (Some(_), Some(_)) => Some(Fate::Remade),
                },
            ),
        ]
        .into_iter()
        .filter_map(|(chain, fate)| Some((chain, fate?)))
    }

    fn add_chains(&self, operations: &mut Vec<Operation>) {
        for &seat in self.seats.iter().filter(|seat| self.is_new(**seat)) {
            operations.push(Operation::AddCounter(CounterName(seat), Tally::default()));
            operations.push(Operation::AddChain(ChainName::Seat(seat)));
        }
        for (chain, fate) in self.base_chains() {
            if fate == Fate::Made {
                operations.push(Operation::AddChain(chain));
            }
        }
    }

    fn flush_chains(&self, operations: &mut Vec<Operation>) {
        for (chain, fate) in self.base_chains() {
            if fate != Fate::Made {
                operations.push(Operation::FlushChain(chain));
            }
        }
        if self.slots_change {
            operations.push(Operation::FlushChain(ChainName::Balance));
        }
        let old = self.seats.iter().filter(|seat| !self.is_new(**seat));
        operations.extend(old.map(|seat| Operation::FlushChain(ChainName::Seat(*seat))));
        operations.extend(self.gone().map(|seat| Operation::FlushChain(ChainName::Seat(seat))));
    }

    fn remake_maps(&self, operations: &mut Vec<Operation>) {
        if self.slots_change {
            let old: Vec<SetName> = match self.in_force.partition() {
                Partition::Hash { .. } => vec![SetName::Slots],
                Partition::Mask { .. } => {
                    families(self.in_force).map(SetName::MaskedSlots).collect()
                }
            };
            operations.extend(old.into_iter().map(Operation::DeleteSet));
        }
        if self.survivors_change && self.survivors_before.is_some() {
            operations.push(Operation::DeleteSet(SetName::Survivors));
        }
        if self.slots_change {
            operations.extend(slot_maps(self.target).into_iter().map(Operation::AddSet));
        }
        if self.survivors_change {
            operations.extend(survivors_map(self.target).map(Operation::AddSet));
        }
    }

    fn add_rules(&self, operations: &mut Vec<Operation>) {
        let survivors = self.target.survivors().count();
        for &seat in &self.seats {
            let rules = match self.target.occupant(seat) {
                Some(_) => seat_rules(self.target, seat),
                None => vacant_rules(self.target, survivors),
            };
            let chain = ChainName::Seat(seat);
            operations.extend(rules.into_iter().map(|rule| Operation::AddRule(chain, rule)));
        }
        let add = |chain| move |rule| Operation::AddRule(chain, rule);
        if self.slots_change {
            operations.extend(balance_rules(self.target).into_iter().map(add(ChainName::Balance)));
        }
        for (chain, fate) in self.base_chains() {
            if fate != Fate::Removed {
                let rules = match chain {
                    ChainName::Guard => guard_rules(self.target),
                    _ => dispatch_rules(self.target),
                };
                operations.extend(rules.into_iter().map(add(chain)));
            }
        }
    }

    fn delete_chains(&self, operations: &mut Vec<Operation>) {
        for (chain, fate) in self.base_chains() {
            if fate == Fate::Removed {
                operations.push(Operation::DeleteChain(chain));
            }
        }
        for seat in self.gone() {
            operations.push(Operation::DeleteChain(ChainName::Seat(seat)));
            operations.push(Operation::DeleteCounter(CounterName(seat)));
        }
    }
}
