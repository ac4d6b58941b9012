//! From what is in force to what should be, in one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use super::lower::{
    BESIDE_SEATS, guard_set, has_chain, has_guard_set, lower, port_maps, rules_beside_seats,
    seat_rules, slot_maps, survivors_map,
};
use super::object::{Chain, ChainName, CounterName, CounterValue, Rule, Set, SetName, TableName};
use super::stale::Stale;
use super::translation::translates_alike;
use crate::plan::{Engine, Partition, Plan, PlanChanges, PlanError, Port, Protocol, Seat};

/// One member of a transaction: a verb and an object of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Make the table.
    AddTable,
    /// Remove the table and everything in it.
    DeleteTable,
    /// Make a counter that begins with what it is given here.
    AddCounter(CounterName, CounterValue),
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
    /// Add worker ports to a set of them, which may be in use.
    AddPorts(SetName, Vec<Port>),
    /// Remove worker ports from a set of them, which may be in use.
    DeletePorts(SetName, Vec<Port>),
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
    /// New ones whose first packet is on its way through the old rules just then may be refused
    /// ([`Stale`]).
    pub fn replace(plan: &Plan) -> Self {
        let mut operations = vec![Operation::DeleteTable, Operation::AddTable];
        fill(&mut operations, plan);
        Self { table: TableName::of(plan.name()), operations }
    }

    /// Removes the table.
    pub fn remove(table: TableName) -> Self {
        Self { table, operations: vec![Operation::DeleteTable] }
    }

    /// Lets the counters that it makes go on from these values.
    pub fn seed(&mut self, counter_values: &BTreeMap<Seat, CounterValue>) {
        for operation in &mut self.operations {
            if let Operation::AddCounter(CounterName(seat), begin) = operation {
                *begin = counter_values.get(seat).copied().unwrap_or_default();
            }
        }
    }

    /// Whether it makes the table, and so all counters, anew.
    pub fn makes_table(&self) -> bool {
        // It comes first, or behind the removal of the one that was there.
        self.operations.iter().take(2).any(|operation| *operation == Operation::AddTable)
    }

    /// Whether packets enter at a chain that it adds.
    pub(crate) fn adds_base_chain(&self) -> bool {
        let mut operations = self.operations.iter();
        operations.any(|it| matches!(it, Operation::AddChain(chain) if chain.base().is_some()))
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// A transaction and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// What to do.
    pub transaction: Transaction,
    /// What is in the table then beside what the plan wants.
    pub stale: Stale,
}

impl Transition {
    /// The transition from what is in force to what should be, touching nothing else: a seat whose worker
    /// stays is not mentioned. No map is changed, and nothing that the rules in force lead to is
    /// removed: it becomes stale. What of `stale` the target wants again is used again, and the rest
    /// is removed when its [grace](Stale::GRACE) is over.
    ///
    /// # Errors
    /// [`PlanError::OtherCluster`] if the plans are of different clusters.
    pub fn between(
        in_force: &Plan,
        stale: &Stale,
        target: &Plan,
        now: Duration,
    ) -> Result<Self, PlanError> {
        let changes = in_force.changes(target)?;
        let is_another = changes.listeners || changes.engine;
        let change = match is_another || partition_is_another(in_force, target) {
            false => Change::new(in_force, stale, target, changes),
            true => None,
        };
        let Some(change) = change else {
            return Ok(Transaction::replace(target).into());
        };
        Ok(change.transition(stale.clone(), now))
    }

    /// Removes what has been stale for long enough, and changes nothing else.
    pub fn tidy(table: TableName, stale: &Stale, now: Duration) -> Self {
        let mut stale = stale.clone();
        let mut operations = vec![];
        let due = stale.take_due(now);
        flush_seats(&mut operations, due.seats());
        remove(&mut operations, &due);
        Self { transaction: Transaction { table, operations }, stale }
    }
}

/// A transaction that makes the table, and so leaves nothing of earlier plans.
impl From<Transaction> for Transition {
    fn from(transaction: Transaction) -> Self {
        Self { transaction, stale: Stale::default() }
    }
}

fn flush_seats(operations: &mut Vec<Operation>, seats: impl Iterator<Item = Seat>) {
    operations.extend(seats.map(|seat| Operation::FlushChain(ChainName::Seat(seat))));
}

/// Removes what is stale, seats whose chains have been flushed.
fn remove(operations: &mut Vec<Operation>, due: &Stale) {
    operations.extend(due.maps().map(Operation::DeleteSet));
    operations.extend(due.seats().map(|seat| Operation::DeleteChain(ChainName::Seat(seat))));
    operations.extend(due.seats().map(|seat| Operation::DeleteCounter(CounterName(seat))));
}

fn fill(operations: &mut Vec<Operation>, plan: &Plan) {
    let ruleset = lower(plan);
    let counters = ruleset.counters.into_iter();
    operations.extend(counters.map(|name| Operation::AddCounter(name, CounterValue::default())));
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

/// How many of the seats have a worker.
#[derive(Clone, Copy)]
struct Survivors {
    count: usize,
    seats: usize,
}

impl Survivors {
    fn of(plan: &Plan) -> Self {
        Self { count: plan.survivors().count(), seats: plan.seats().len() }
    }

    /// Whether there are clients of vacant seats, and workers for them.
    fn take_over(self) -> bool {
        0 < self.count && self.count < self.seats
    }

    /// The map over which those spread: to look for none where there are none would be to gather
    /// all seats for each transaction.
    fn map(self, plan: &Plan) -> Option<Set> {
        if self.take_over() { survivors_map(plan) } else { None }
    }
}

/// The seats of the target whose chains get other rules, in order.
fn changed_seats(
    in_force: &Plan,
    target: &Plan,
    changes: PlanChanges,
    vacant_rules_change: bool,
) -> Vec<Seat> {
    let occupied_rules_change = target.engine() == Engine::Redirect
        && (changes.destination || changes.port_lookup || changes.local_clients)
        && !translates_alike(in_force, target);
    let mut others = in_force.changed_seats(target).peekable();
    let is_new = |seat: Seat| seat.index() >= in_force.seats().len();
    let changed = target.seats().filter(|(seat, held)| {
        let is_other = others.next_if_eq(seat).is_some();
        let rules_change = match held {
            Some(_) => occupied_rules_change,
            None => vacant_rules_change,
        };
        is_other || is_new(*seat) || rules_change
    });
    changed.map(|(seat, _)| seat).collect()
}

/// What of the table has to be made anew.
struct Change<'a> {
    in_force: &'a Plan,
    target: &'a Plan,
    /// The seats whose chains get other rules, in order.
    seats: Vec<Seat>,
    /// Whether the rules that send connections to the chains of seats are others.
    dispatch_changes: bool,
    /// The names of the maps from slots to seats, if rules that use them come.
    slots: Vec<SetName>,
    /// The map over which the clients of vacant seats spread.
    survivors: Option<SetName>,
    /// The maps of ports of `seats`, in that order.
    ports: Vec<SetName>,
    maps: Maps,
    guard: Vec<(Protocol, GuardSetChange)>,
    guard_changes: bool,
    local_clients_change: bool,
    destination_changes: bool,
}

/// What becomes of a chain that is none of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChainChange {
    Added,
    /// It gets other rules.
    Rewritten,
    Deleted,
}

/// What becomes of the set of guarded ports of a protocol. Such sets alone change while rules use them: a
/// packet whose lookup misses a port just then is one that comes around the balancer, and meets what it met
/// before.
enum GuardSetChange {
    Made(Set),
    Changed { removed: Vec<Port>, added: Vec<Port> },
    Deleted,
}

impl GuardSetChange {
    fn between(in_force: &Plan, target: &Plan, seats: &[Seat], protocol: Protocol) -> Option<Self> {
        match (has_guard_set(in_force, protocol), has_guard_set(target, protocol)) {
            (false, _) => guard_set(target, protocol).map(Self::Made),
            (true, false) => Some(Self::Deleted),
            (true, true) => {
                let (removed, added) = in_force.guard_difference(target, seats, protocol);
                Some(Self::Changed { removed, added })
            }
        }
    }

    /// Behind the removal of the rules that use a set which goes, before rules that use one which comes.
    fn put(self, protocol: Protocol, operations: &mut Vec<Operation>) {
        let name = SetName::Guarded(protocol);
        match self {
            Self::Made(set) => operations.push(Operation::AddSet(set)),
            Self::Changed { removed, added } => {
                if !removed.is_empty() {
                    operations.push(Operation::DeletePorts(name, removed));
                }
                if !added.is_empty() {
                    operations.push(Operation::AddPorts(name, added));
                }
            }
            Self::Deleted => operations.push(Operation::DeleteSet(name)),
        }
    }
}

/// What becomes of maps.
#[derive(Default)]
struct Maps {
    /// Maps that the target has and the table lacks.
    made: Vec<Set>,
    /// Maps that were stale and are wanted again.
    revived: Vec<SetName>,
    /// Maps that the target no longer has.
    left: Vec<Set>,
}

impl Maps {
    /// `None` if two that differ have one name.
    fn new(before: Vec<Set>, after: Vec<Set>, stale: &Stale) -> Option<Self> {
        let mut maps = Self { left: before, ..Self::default() };
        maps.left.sort_unstable_by_key(|map| map.name);
        let mut stays = vec![false; maps.left.len()];
        for map in after {
            let before = maps.left.binary_search_by_key(&map.name, |map| map.name).ok();
            match (before, stale.maps.get(&map.name)) {
                (Some(place), _) if maps.left[place].elements == map.elements => {
                    stays[place] = true;
                }
                (None, Some((elements, _))) if *elements == map.elements => {
                    maps.revived.push(map.name);
                }
                (None, None) => maps.made.push(map),
                _ => return None,
            }
        }
        let mut stays = stays.into_iter();
        maps.left.retain(|_| stays.next() == Some(false));
        // A map that has the name of a stale map is not the same.
        let is_known = |map: &Set| stale.maps.contains_key(&map.name);
        (!maps.left.iter().any(is_known)).then_some(maps)
    }
}

impl<'a> Change<'a> {
    /// `None` if the table has to be made anew.
    fn new(
        in_force: &'a Plan,
        stale: &Stale,
        target: &'a Plan,
        changes: PlanChanges,
    ) -> Option<Self> {
        let (old_survivors, new_survivors) = (Survivors::of(in_force), Survivors::of(target));
        let survivors_change = match (old_survivors.take_over(), new_survivors.take_over()) {
            (false, false) => false,
            (true, true) => !in_force.survivors().eq(target.survivors()),
            _ => true,
        };
        let vacant_rules_change =
            survivors_change || changes.generation || old_survivors.count != new_survivors.count;
        let seats = changed_seats(in_force, target, changes, vacant_rules_change);
        let slots_change = changes.assignment || changes.seat_count;
        let name = |map: &Set| map.name;
        let (mut before, mut after) =
            (Vec::with_capacity(seats.len() + 2), Vec::with_capacity(seats.len() + 2));
        let mut slots = vec![];
        if slots_change || changes.admitting || changes.local_clients || changes.destination {
            let of_target = slot_maps(target);
            slots.extend(of_target.iter().map(name));
            if slots_change {
                before.extend(slot_maps(in_force));
                after.extend(of_target);
            }
        }
        let survivors_map_of_target = new_survivors.map(target);
        let survivors = survivors_map_of_target.as_ref().map(name);
        if survivors_change {
            before.extend(old_survivors.map(in_force));
            after.extend(survivors_map_of_target);
        }
        let gone = in_force.seats().skip(target.seats().len()).map(|(seat, _)| seat);
        let old = seats.iter().copied().filter(|seat| seat.index() < in_force.seats().len());
        before.extend(old.chain(gone).flat_map(|seat| port_maps(in_force, seat)));
        let others = after.len();
        after.extend(seats.iter().flat_map(|seat| port_maps(target, *seat)));
        let ports = after[others..].iter().map(name).collect();
        let maps = Maps::new(before, after, stale)?;
        let guard_set = |protocol| {
            let change = GuardSetChange::between(in_force, target, &seats, protocol)?;
            Some((protocol, change))
        };
        let guard = Protocol::ALL.into_iter().filter_map(guard_set).collect();
        Some(Self {
            in_force,
            target,
            seats,
            dispatch_changes: slots_change,
            slots,
            survivors,
            ports,
            maps,
            guard,
            guard_changes: changes.guard,
            local_clients_change: changes.local_clients,
            destination_changes: changes.destination,
        })
    }

    fn transition(mut self, mut stale: Stale, now: Duration) -> Transition {
        for name in &self.maps.revived {
            stale.maps.remove(name);
        }
        let revived: Vec<Seat> =
            self.made().filter(|seat| stale.seats.remove(seat).is_some()).collect();
        let due = stale.take_due(now);

        let mut operations = Vec::with_capacity(5 * self.seats.len() + 16);
        // Their rules may use maps that are due.
        flush_seats(&mut operations, revived.iter().copied().chain(due.seats()));
        remove(&mut operations, &due);
        self.add_chains(&mut operations, &revived);
        self.flush_chains(&mut operations);
        operations.extend(std::mem::take(&mut self.maps.made).into_iter().map(Operation::AddSet));
        for (protocol, change) in std::mem::take(&mut self.guard) {
            change.put(protocol, &mut operations);
        }
        self.add_rules(&mut operations);
        self.delete_chains(&mut operations);

        stale.seats.extend(self.gone().map(|seat| (seat, now)));
        let left = self.maps.left.into_iter().map(|map| (map.name, (map.elements, now)));
        stale.maps.extend(left);
        let table = TableName::of(self.target.name());
        Transition { transaction: Transaction { table, operations }, stale }
    }

    fn is_new(&self, seat: Seat) -> bool {
        seat.index() >= self.in_force.seats().len()
    }

    /// The seats that come with the target.
    fn made(&self) -> impl Iterator<Item = Seat> {
        self.seats.iter().copied().filter(|seat| self.is_new(*seat))
    }

    /// The seats that the target has no more.
    fn gone(&self) -> impl Iterator<Item = Seat> + use<'a> {
        let kept = self.target.seats().len();
        self.in_force.seats().skip(kept).map(|(seat, _)| seat)
    }

    /// What becomes of the chains that are none of a seat, apart from those of which nothing changes.
    fn other_chains(&self) -> impl Iterator<Item = (ChainName, ChainChange)> {
        BESIDE_SEATS.into_iter().filter_map(|chain| {
            let change = match (has_chain(self.in_force, chain), has_chain(self.target, chain)) {
                (false, false) => None,
                (false, true) => Some(ChainChange::Added),
                (true, false) => Some(ChainChange::Deleted),
                (true, true) => self.gets_other_rules(chain).then_some(ChainChange::Rewritten),
            };
            Some((chain, change?))
        })
    }

    /// Whether a chain that stays, and is none of a seat, has other rules in the target.
    fn gets_other_rules(&self, chain: ChainName) -> bool {
        let (was_open, is_open) = (self.in_force.is_admitting(), self.target.is_admitting());
        let entry_changes = match self.target.engine() {
            Engine::Redirect => self.dispatch_changes,
            Engine::Tproxy => self.dispatch_changes || self.local_clients_change,
        };
        match chain {
            ChainName::Seat(_) => false,
            ChainName::Closed => entry_changes,
            ChainName::Prerouting | ChainName::Intercept => {
                was_open != is_open || (entry_changes && is_open)
            }
            ChainName::Output => {
                was_open != is_open || ((entry_changes || self.destination_changes) && is_open)
            }
            ChainName::Guard => self.guard_changes,
            // Where worker ports lie is all that it takes from the guard.
            ChainName::Replies => self.in_force.guard() != self.target.guard(),
        }
    }

    fn add_chains(&self, operations: &mut Vec<Operation>, revived: &[Seat]) {
        for seat in self.made().filter(|seat| !revived.contains(seat)) {
            operations.push(Operation::AddCounter(CounterName(seat), CounterValue::default()));
            operations.push(Operation::AddChain(ChainName::Seat(seat)));
        }
        for (chain, change) in self.other_chains() {
            if change == ChainChange::Added {
                operations.push(Operation::AddChain(chain));
            }
        }
    }

    fn flush_chains(&self, operations: &mut Vec<Operation>) {
        for (chain, change) in self.other_chains() {
            if change != ChainChange::Added {
                operations.push(Operation::FlushChain(chain));
            }
        }
        flush_seats(operations, self.seats.iter().copied().filter(|seat| !self.is_new(*seat)));
    }

    fn add_rules(&self, operations: &mut Vec<Operation>) {
        let add = |chain| move |rule| Operation::AddRule(chain, rule);
        let mut ports = self.ports.iter().copied();
        for &seat in &self.seats {
            let rules = seat_rules(self.target, seat, self.survivors, &mut ports);
            operations.extend(rules.into_iter().map(add(ChainName::Seat(seat))));
        }
        for (chain, change) in self.other_chains() {
            if change != ChainChange::Deleted {
                let rules = rules_beside_seats(self.target, chain, &self.slots);
                operations.extend(rules.into_iter().map(add(chain)));
            }
        }
    }

    fn delete_chains(&self, operations: &mut Vec<Operation>) {
        for (chain, change) in self.other_chains() {
            if change == ChainChange::Deleted {
                operations.push(Operation::DeleteChain(chain));
            }
        }
    }
}
