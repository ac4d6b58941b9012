use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{ChainName, Operation, Rule, Ruleset, SetName, Transaction, lower};
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
        prop_assert_eq!(mentioned_chains(&transaction), changed_chains(&before, &after));
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
