use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{ChainName, CounterName, Operation, Rule, Ruleset, SetName, Transaction, lower};
use super::model::{Kernel, Refusal, sets_in};
use super::{any_pair, full, occupy};
use crate::plan::{Generation, Partition, Plan, Seat, Weights};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn between_any_two_plans_the_kernel_ends_with_the_second((from, to) in any_pair()) {
        let transaction = Transaction::between(&from, &to).unwrap();
        let mut kernel = Kernel::holding(&lower(&from));
        kernel.carry_out(&transaction).map_err(|fault| TestCaseError::fail(format!("{fault:?}")))?;
        prop_assert_eq!(kernel.ruleset(&transaction.table), Some(lower(&to)));
    }

    #[test]
    fn nothing_that_stays_as_it_is_is_mentioned((from, to) in any_pair()) {
        let transaction = Transaction::between(&from, &to).unwrap();
        if transaction.operations.contains(&Operation::DeleteTable) {
            return Ok(());
        }
        let (before, after) = (lower(&from), lower(&to));
        prop_assert_eq!(mentioned_sets(&transaction), changed_sets(&before, &after));
        let counters = |ruleset: &Ruleset| ruleset.counters.iter().copied().collect::<BTreeSet<_>>();
        let changed_counters = &counters(&before) ^ &counters(&after);
        prop_assert_eq!(mentioned_counters(&transaction), changed_counters);
        prop_assert_eq!(mentioned_chains(&transaction), changed_chains(&before, &after));
    }

    /// Unless the whole table is made anew: then it is up to who carries it out to say what they
    /// go on from.
    #[test]
    fn counters_of_seats_that_stay_go_on((from, to) in any_pair()) {
        let mut transaction = Transaction::between(&from, &to).unwrap();
        let mut kernel = Kernel::holding(&lower(&from));
        kernel.count();
        let before = kernel.tallies();
        if transaction.makes_table() {
            transaction.seed(&before);
        }
        kernel.carry_out(&transaction).unwrap();
        for (seat, tally) in kernel.tallies() {
            prop_assert_eq!(tally, before.get(&seat).copied().unwrap_or_default());
        }
    }

    #[test]
    fn from_a_plan_to_itself_there_is_nothing_to_do((plan, _) in any_pair()) {
        prop_assert!(Transaction::between(&plan, &plan).unwrap().is_empty());
    }

    #[test]
    fn creating_and_replacing_end_with_the_plan((from, to) in any_pair()) {
        let mut kernel = Kernel::default();
        kernel.carry_out(&Transaction::create(&from)).unwrap();
        prop_assert_eq!(&kernel, &Kernel::holding(&lower(&from)));
        let (_, refusal) = kernel.carry_out(&Transaction::create(&to)).unwrap_err();
        prop_assert_eq!(refusal, Refusal::Exists);
        kernel.carry_out(&Transaction::replace(&to)).unwrap();
        prop_assert_eq!(&kernel, &Kernel::holding(&lower(&to)));
        kernel.carry_out(&Transaction::remove(lower(&to).table)).unwrap();
        prop_assert_eq!(&kernel, &Kernel::default());
    }
}

fn mentioned_chains(transaction: &Transaction) -> BTreeSet<ChainName> {
    let chains = transaction.operations.iter().filter_map(|operation| match operation {
        Operation::AddChain(chain)
        | Operation::FlushChain(chain)
        | Operation::DeleteChain(chain)
        | Operation::AddRule(chain, _) => Some(*chain),
        _ => None,
    });
    chains.collect()
}

fn mentioned_counters(transaction: &Transaction) -> BTreeSet<CounterName> {
    let counters = transaction.operations.iter().filter_map(|operation| match operation {
        Operation::AddCounter(name, _) | Operation::DeleteCounter(name) => Some(*name),
        _ => None,
    });
    counters.collect()
}

fn mentioned_sets(transaction: &Transaction) -> BTreeSet<SetName> {
    let sets = transaction.operations.iter().filter_map(|operation| match operation {
        Operation::AddSet(set) => Some(set.name),
        Operation::DeleteSet(name) => Some(*name),
        _ => None,
    });
    sets.collect()
}

fn changed_sets(before: &Ruleset, after: &Ruleset) -> BTreeSet<SetName> {
    let only = |a: &Ruleset, b: &Ruleset| {
        let sets = a.sets.iter().filter(|set| !b.sets.contains(set));
        sets.map(|set| set.name).collect::<BTreeSet<_>>()
    };
    &only(before, after) | &only(after, before)
}

/// The chains that differ, and those that look up in a set that does: it is made anew, and cannot
/// be removed under a rule.
fn changed_chains(before: &Ruleset, after: &Ruleset) -> BTreeSet<ChainName> {
    let changed = changed_sets(before, after);
    let uses_changed =
        |rules: &[Rule]| rules.iter().filter_map(sets_in).any(|set| changed.contains(&set));
    let only = |a: &Ruleset, b: &Ruleset| {
        let chains = a.chains.iter();
        let chains = chains.filter(|chain| !b.chains.contains(chain) || uses_changed(&chain.rules));
        chains.map(|chain| chain.name).collect::<BTreeSet<_>>()
    };
    &only(before, after) | &only(after, before)
}

fn whole(seats: u16) -> Plan {
    full(&["10.9.0.1:80", "[fd09::1]:80"], Partition::hash(1024).unwrap(), seats)
}

#[test]
fn a_replaced_worker_costs_two_operations_however_many_there_are() {
    let from = full(&["10.9.0.1:80", "[fd09::1]:80"], Partition::hash(1024).unwrap(), 64);
    let mut to = from.clone();
    occupy(&mut to, Seat(7), 30000, Generation(1));
    let chain = ChainName::Seat(Seat(7));
    let [rule] = &lower(&to).chains[7].rules[..] else { panic!("one rule") };
    assert_eq!(
        Transaction::between(&from, &to).unwrap().operations,
        [Operation::FlushChain(chain), Operation::AddRule(chain, rule.clone())]
    );
}

#[test]
fn a_death_touches_the_chain_of_the_dead_and_the_survivors_alone() {
    let from = whole(64);
    let mut to = from.clone();
    to.vacate(Seat(7)).unwrap();
    let transaction = Transaction::between(&from, &to).unwrap();
    assert_eq!(mentioned_chains(&transaction), [ChainName::Seat(Seat(7))].into());
    assert_eq!(mentioned_sets(&transaction), [SetName::Survivors].into());
}

/// A worker of a cluster with everything on: a flush and a rule for each protocol.
#[test]
fn a_reload_with_everything_on_touches_the_chains_of_the_seats_alone() {
    let listeners = ["10.9.0.1:80", "[fd09::1]:80", "10.9.0.1:443/udp", "[fd09::1]:443/udp"];
    let mut from = full(&listeners, Partition::hash(1024).unwrap(), 8);
    from.set_guard(Some("20000-29999".parse().unwrap())).unwrap();
    from.set_local_clients(true);
    let mut to = from.clone();
    for seat in (0..8).map(Seat) {
        occupy(&mut to, seat, 21000 + 10 * seat.0, Generation(2));
    }
    let operations = Transaction::between(&from, &to).unwrap().operations;
    assert_eq!(operations.len(), 8 * 3, "{operations:?}");
}

#[test]
fn turning_on_the_guard_or_local_clients_touches_their_chains_alone() {
    let from = whole(8);
    let mut to = from.clone();
    to.set_guard(Some("20000-29999".parse().unwrap())).unwrap();
    to.set_local_clients(true);
    let there = Transaction::between(&from, &to).unwrap();
    assert_eq!(mentioned_chains(&there), [ChainName::Guard, ChainName::Output].into());
    let back = Transaction::between(&to, &from).unwrap();
    assert_eq!(mentioned_chains(&back), [ChainName::Guard, ChainName::Output].into());
    to.set_guard(Some("20000-20999".parse().unwrap())).unwrap();
    let other = Transaction::between(&from, &to).unwrap();
    assert_ne!(other, there);
}

#[test]
fn other_listeners_make_the_table_anew() {
    let from = whole(4);
    let to = full(&["10.9.0.1:81"], Partition::hash(1024).unwrap(), 4);
    let operations = Transaction::between(&from, &to).unwrap().operations;
    assert_eq!(operations[..2], [Operation::DeleteTable, Operation::AddTable]);
}

/// The model refuses what the kernel does: in another order these transactions fail.
#[test]
fn the_order_of_operations_matters_to_the_model() {
    let from = whole(8);
    let to = from.rescaled(&Weights::equal(5).unwrap()).unwrap();
    let transaction = Transaction::between(&from, &to).unwrap();
    let kernel = Kernel::holding(&lower(&from));

    let (chains_first, refusal) =
        refused(&kernel, &transaction, |operation| !matches!(operation, Operation::DeleteChain(_)));
    assert!(matches!(chains_first, Operation::DeleteChain(_)), "{chains_first:?}");
    assert_eq!(refusal, Refusal::Busy);

    let (counters_first, refusal) = refused(&kernel, &transaction, |operation| {
        !matches!(operation, Operation::DeleteCounter(_))
    });
    assert!(matches!(counters_first, Operation::DeleteCounter(_)), "{counters_first:?}");
    assert_eq!(refusal, Refusal::Busy);

    let (sets_first, refusal) =
        refused(&kernel, &transaction, |operation| !matches!(operation, Operation::DeleteSet(_)));
    assert_eq!((sets_first, refusal), (Operation::DeleteSet(SetName::Slots), Refusal::Busy));

    let (rules_first, refusal) = refused(&kernel, &Transaction::create(&to), |operation| {
        !matches!(operation, Operation::AddTable | Operation::AddRule(..))
    });
    assert!(matches!(rules_first, Operation::AddRule(..)), "{rules_first:?}");
    assert_eq!(refusal, Refusal::Missing);
}

/// What the model says to a transaction in which those that are not `late` come first.
fn refused(
    kernel: &Kernel,
    transaction: &Transaction,
    late: impl Fn(&Operation) -> bool,
) -> (Operation, Refusal) {
    let mut reordered = transaction.clone();
    reordered.operations.sort_by_key(|operation| late(operation));
    let mut kernel = match reordered.operations.first() {
        Some(Operation::AddTable) => Kernel::default(),
        _ => kernel.clone(),
    };
    let before = kernel.clone();
    let fault = kernel.carry_out(&reordered).unwrap_err();
    assert_eq!(kernel, before, "all or nothing");
    fault
}
