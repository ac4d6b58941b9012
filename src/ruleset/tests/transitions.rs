use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::super::fake_table::TableError;
use super::super::{
    Chain, ChainName, CounterName, Elements, Operation, Ruleset, Set, SetName, Stale, Transaction,
    Transition, lower, raise,
};
use super::kernel::Kernel;
use super::{any_history, any_pair, full, occupy};
use crate::plan::{
    Destination, Engine, Generation, Partition, Plan, Port, PortLookup, PortRange, Protocol, Seat,
    Weights,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn between_any_two_plans_the_kernel_ends_with_the_second((from, to) in any_pair()) {
        let now = Duration::ZERO;
        let Transition { transaction, stale } = between(&from, &to, now);
        let mut kernel = Kernel::holding(&lower(&from));
        kernel.carry_out(&transaction).map_err(|fault| TestCaseError::fail(format!("{fault:?}")))?;
        let held = kernel.ruleset(&transaction.table).unwrap();
        prop_assert_eq!(Stale::beside(&lower(&to), &held, now), Some(stale.clone()));

        let tidy = Transition::tidy(transaction.table.clone(), &stale, now + Stale::GRACE);
        prop_assert!(tidy.stale.is_empty());
        kernel.carry_out(&tidy.transaction).unwrap();
        prop_assert_eq!(kernel.ruleset(&transaction.table), Some(lower(&to)));
    }

    /// A packet may still be on its way through the rules that the transaction replaces.
    #[test]
    fn nothing_that_the_rules_before_lead_to_is_removed_or_changed((from, to) in any_pair()) {
        let transaction = between(&from, &to, Duration::ZERO).transaction;
        if transaction.makes_table() {
            return Ok(());
        }
        let before = lower(&from);
        let mut kernel = Kernel::holding(&before);
        kernel.carry_out(&transaction).unwrap();
        let after = kernel.ruleset(&transaction.table).unwrap();
        for set in before.sets.iter().filter(|set| !is_guarded(set.name)) {
            prop_assert!(after.sets.contains(set), "{}", set.name);
        }
        let is_seat = |chain: &&Chain| matches!(chain.name, ChainName::Seat(_));
        for chain in before.chains.iter().filter(is_seat) {
            let kept = after.chains.iter().find(|it| it.name == chain.name);
            prop_assert!(kept.is_some_and(|it| !it.rules.is_empty()), "{}", chain.name);
        }
        for counter in &before.counters {
            prop_assert!(after.counters.contains(counter), "{}", counter);
        }
    }

    /// Plan after plan, each some time after the one before: the kernel takes every transaction,
    /// nothing goes before its time, and in the end all has gone.
    #[test]
    fn what_is_stale_is_removed_in_time_and_not_before(
        plans in any_history(),
        pauses in prop::collection::vec(0..1500u64, 12),
    ) {
        let mut now = Duration::ZERO;
        let mut kernel = Kernel::holding(&lower(&plans[0]));
        let mut stale = Stale::default();
        // When the rules in force last led to it.
        let mut used: BTreeMap<SetName, Duration> = BTreeMap::new();
        for (step, pause) in plans.windows(2).zip(&pauses) {
            for set in &lower(&step[0]).sets {
                used.insert(set.name, now);
            }
            now += Duration::from_millis(*pause);
            let names = |kernel: &Kernel| kernel.ruleset(&lower(&step[0]).table).unwrap().sets;
            let before = names(&kernel);
            for set in &lower(&step[0]).sets {
                used.insert(set.name, now);
            }
            let next = Transition::between(&step[0], &stale, &step[1], now).unwrap();
            kernel
                .carry_out(&next.transaction)
                .map_err(|fault| TestCaseError::fail(format!("{fault:?}")))?;
            stale = next.stale;
            let held = kernel.ruleset(&next.transaction.table).unwrap();
            let found = Stale::beside(&lower(&step[1]), &held, now).map(|it| it.aged_as(&stale));
            prop_assert_eq!(found.as_ref(), Some(&stale));
            if next.transaction.makes_table() {
                used.clear();
                continue;
            }
            let kept = before.iter().filter(|set| !is_guarded(set.name));
            for gone in kept.filter(|set| !held.sets.contains(set)) {
                prop_assert!(now - used[&gone.name] >= Stale::GRACE, "{} is gone", gone.name);
            }
        }
        let last = plans.last().unwrap();
        let table = lower(last).table;
        let tidy = Transition::tidy(table.clone(), &stale, now + Stale::GRACE);
        kernel
            .carry_out(&tidy.transaction)
            .map_err(|fault| TestCaseError::fail(format!("{fault:?}")))?;
        prop_assert_eq!(kernel.ruleset(&table), Some(lower(last)));
    }

    #[test]
    fn nothing_that_stays_as_it_is_is_mentioned((from, to) in any_pair()) {
        let transaction = between(&from, &to, Duration::ZERO).transaction;
        if transaction.makes_table() {
            return Ok(());
        }
        let (before, after) = (lower(&from), lower(&to));
        let names = |sets: &[Set]| sets.iter().map(|set| set.name).collect::<BTreeSet<_>>();
        let made = &names(&after.sets) - &names(&before.sets);
        let mut mentioned = mentioned_sets(&transaction);
        // A set of guarded ports goes with its rule.
        mentioned.retain(|name| !is_guarded(*name) || made.contains(name));
        prop_assert_eq!(mentioned, made);
        prop_assert_eq!(mentioned_ports(&transaction), changed_ports(&before, &after));
        let counters = |ruleset: &Ruleset| ruleset.counters.iter().copied().collect::<BTreeSet<_>>();
        let made = &counters(&after) - &counters(&before);
        prop_assert_eq!(mentioned_counters(&transaction), made);
        prop_assert_eq!(mentioned_chains(&transaction), changed_chains(&before, &after));
    }

    /// Unless the whole table is made anew: then it is up to who carries it out to say what they
    /// go on from.
    #[test]
    fn counters_of_seats_that_stay_go_on((from, to) in any_pair()) {
        let mut transaction = between(&from, &to, Duration::ZERO).transaction;
        let mut kernel = Kernel::holding(&lower(&from));
        kernel.count();
        let before = kernel.counter_values();
        if transaction.makes_table() {
            transaction.seed(&before);
        }
        kernel.carry_out(&transaction).unwrap();
        for (seat, value) in kernel.counter_values() {
            prop_assert_eq!(value, before.get(&seat).copied().unwrap_or_default());
        }
    }

    #[test]
    fn from_a_plan_to_itself_there_is_nothing_to_do((plan, _) in any_pair()) {
        let now = Duration::ZERO;
        let Transition { transaction, stale } = between(&plan, &plan, now);
        prop_assert!(transaction.is_empty() && stale.is_empty());
    }

    #[test]
    fn creating_and_replacing_end_with_the_plan((from, to) in any_pair()) {
        let mut kernel = Kernel::default();
        kernel.carry_out(&Transaction::create(&from)).unwrap();
        prop_assert_eq!(&kernel, &Kernel::holding(&lower(&from)));
        let (_, refusal) = kernel.carry_out(&Transaction::create(&to)).unwrap_err();
        prop_assert_eq!(refusal, TableError::Exists);
        kernel.carry_out(&Transaction::replace(&to)).unwrap();
        prop_assert_eq!(&kernel, &Kernel::holding(&lower(&to)));
        kernel.carry_out(&Transaction::remove(lower(&to).table)).unwrap();
        prop_assert_eq!(&kernel, &Kernel::default());
    }
}

fn is_guarded(set: SetName) -> bool {
    matches!(set, SetName::Guarded(_))
}

/// The ports that a transaction takes from a set that stays, and that it adds to one.
type PortChanges = BTreeMap<SetName, (Vec<Port>, Vec<Port>)>;

fn mentioned_ports(transaction: &Transaction) -> PortChanges {
    let mut changes = PortChanges::new();
    for operation in &transaction.operations {
        match operation {
            Operation::DeletePorts(set, ports) => {
                changes.entry(*set).or_default().0.extend(ports);
            }
            Operation::AddPorts(set, ports) => changes.entry(*set).or_default().1.extend(ports),
            _ => {}
        }
    }
    changes
}

fn changed_ports(before: &Ruleset, after: &Ruleset) -> PortChanges {
    let ports = |ruleset: &Ruleset, name: SetName| {
        let set = ruleset.sets.iter().find(|set| set.name == name)?;
        match &set.elements {
            Elements::WorkerPorts(ports) => Some(ports.iter().copied().collect::<BTreeSet<_>>()),
            _ => None,
        }
    };
    let names = before.sets.iter().map(|set| set.name);
    let changes = names.filter_map(|name| {
        let (before, after) = (ports(before, name)?, ports(after, name)?);
        let only = |one: &BTreeSet<Port>, other| one.difference(other).copied().collect::<Vec<_>>();
        Some((name, (only(&before, &after), only(&after, &before))))
    });
    changes.filter(|(_, (removed, added))| !removed.is_empty() || !added.is_empty()).collect()
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

/// The chains that differ, apart from those of seats that are no more: these stay for a while.
fn changed_chains(before: &Ruleset, after: &Ruleset) -> BTreeSet<ChainName> {
    let only = |a: &Ruleset, b: &Ruleset| {
        let chains = a.chains.iter().filter(|chain| !b.chains.contains(chain));
        chains.map(|chain| chain.name).collect::<BTreeSet<_>>()
    };
    let seats: BTreeSet<ChainName> = after.chains.iter().map(|chain| chain.name).collect();
    let stays = |chain: &ChainName| !matches!(chain, ChainName::Seat(_)) || seats.contains(chain);
    let changed = &only(before, after) | &only(after, before);
    changed.into_iter().filter(stays).collect()
}

fn between(from: &Plan, to: &Plan, now: Duration) -> Transition {
    Transition::between(from, &Stale::default(), to, now).unwrap()
}

fn whole(seats: u16) -> Plan {
    full(&["10.9.0.1:80", "[fd09::1]:80"], Partition::hash(1024).unwrap(), seats)
}

#[test]
fn a_replaced_worker_costs_an_operation_a_family_and_one_however_many_there_are() {
    let from = full(&["10.9.0.1:80", "[fd09::1]:80"], Partition::hash(1024).unwrap(), 64);
    let mut to = from.clone();
    occupy(&mut to, Seat(7), 30000, Generation(1));
    let chain = ChainName::Seat(Seat(7));
    let [v4, v6] = &lower(&to).chains[7].rules[..] else { panic!("two rules") };
    assert_eq!(
        between(&from, &to, Duration::ZERO).transaction.operations,
        [
            Operation::FlushChain(chain),
            Operation::AddRule(chain, v4.clone()),
            Operation::AddRule(chain, v6.clone())
        ]
    );
}

#[test]
fn a_death_touches_the_chain_of_the_dead_and_the_survivors_alone() {
    let from = whole(64);
    let mut to = from.clone();
    to.vacate(Seat(7)).unwrap();
    let transaction = between(&from, &to, Duration::ZERO).transaction;
    assert_eq!(mentioned_chains(&transaction), [ChainName::Seat(Seat(7))].into());
    let made = mentioned_sets(&transaction);
    assert!(made.iter().all(|set| matches!(set, SetName::Survivors(_))), "{made:?}");
    assert_eq!(made.len(), 1);
}

/// A worker of a cluster with everything on: a flush and a rule for each protocol and family.
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
    let operations = between(&from, &to, Duration::ZERO).transaction.operations;
    // And the ports that come into the guard, and those that leave it, of each protocol.
    assert_eq!(operations.len(), 8 * 5 + 2 * 2, "{operations:?}");
}

#[test]
fn turning_on_the_guard_or_local_clients_touches_their_chains_alone() {
    let from = whole(8);
    let mut to = from.clone();
    to.set_guard(Some("20000-29999".parse().unwrap())).unwrap();
    to.set_local_clients(true);
    let there = between(&from, &to, Duration::ZERO).transaction;
    assert_eq!(mentioned_chains(&there), [ChainName::Guard, ChainName::Output].into());
    let back = between(&to, &from, Duration::ZERO).transaction;
    assert_eq!(mentioned_chains(&back), [ChainName::Guard, ChainName::Output].into());
    to.set_guard(Some("20000-20999".parse().unwrap())).unwrap();
    let other = between(&from, &to, Duration::ZERO).transaction;
    assert_ne!(other, there);
}

/// What the release before has put in force becomes what this one would have, and nothing else of the
/// table is touched: the chains of seats with a worker are rewritten in one transaction.
#[test]
fn the_translation_of_the_release_before_is_replaced_where_it_stands() {
    let listeners = ["10.9.0.1:80", "[::]:80", "10.9.0.1:443", "10.9.0.1:53/udp"];
    let to = full(&listeners, Partition::hash(1024).unwrap(), 4);
    let mut from = to.clone();
    from.set_destination(Destination::OfInterface);
    from.set_port_lookup(PortLookup::ByMap);
    from.vacate(Seat(3)).unwrap();
    let mut to = to;
    to.vacate(Seat(3)).unwrap();
    let before = lower(&from);
    assert_eq!(raise(&before, None).unwrap().destination(), Destination::OfInterface);
    let Transition { transaction, stale } = between(&from, &to, Duration::ZERO);
    assert!(!transaction.makes_table());
    let seats = [0, 1, 2].map(|seat| ChainName::Seat(Seat(seat)));
    assert_eq!(mentioned_chains(&transaction), seats.into());
    let mut kernel = Kernel::holding(&before);
    kernel.carry_out(&transaction).unwrap();
    let tidy = Transition::tidy(transaction.table.clone(), &stale, Stale::GRACE);
    kernel.carry_out(&tidy.transaction).unwrap();
    assert_eq!(kernel, Kernel::holding(&lower(&to)));
}

/// The release before had a map of each seat for two public ports. In its place comes a rule for each, and the
/// maps stay until no packet can be in the rules that looked into them.
#[test]
fn the_maps_of_few_ports_of_the_release_before_become_rules() {
    let listeners = ["10.9.0.1:80", "[::]:443", "10.9.0.1:53/udp"];
    let to = full(&listeners, Partition::hash(1024).unwrap(), 2);
    let mut from = to.clone();
    from.set_port_lookup(PortLookup::ByMap);
    let before = lower(&from);
    let maps = |ruleset: &Ruleset| {
        let sets = ruleset.sets.iter().map(|set| set.name);
        sets.filter(|name| matches!(name, SetName::Ports(..))).collect::<Vec<_>>()
    };
    assert_eq!((maps(&before).len(), maps(&lower(&to)).len()), (2, 0));
    assert_eq!(raise(&before, None).unwrap().port_lookup(), PortLookup::ByMap);
    let Transition { transaction, stale } = between(&from, &to, Duration::ZERO);
    assert!(!transaction.makes_table());
    let seats = [0, 1].map(|seat| ChainName::Seat(Seat(seat)));
    assert_eq!(mentioned_chains(&transaction), seats.into());
    let mut kernel = Kernel::holding(&before);
    kernel.carry_out(&transaction).unwrap();
    assert!(stale.maps().eq(maps(&before)), "{stale:?}");
    let tidy = Transition::tidy(transaction.table.clone(), &stale, Stale::GRACE);
    kernel.carry_out(&tidy.transaction).unwrap();
    assert_eq!(kernel, Kernel::holding(&lower(&to)));
}

/// The release before had one set for both protocols: a port that a worker holds for tcp was closed to what
/// another program expects there by udp. It becomes one for each in a single transaction, in which the
/// rules of the guard are never gone, and nothing else is touched.
#[test]
fn the_guard_of_the_release_before_gets_a_set_for_each_protocol() {
    for engine in Engine::ALL {
        let listeners = ["10.9.0.1:80", "[fd09::1]:80", "10.9.0.1:53/udp"];
        let mut to = full(&listeners, Partition::hash(1024).unwrap(), 2);
        to.set_engine(engine).unwrap();
        let range: PortRange = "20000-29999".parse().unwrap();
        let mut from = to.clone();
        from.set_guard_for_all(range).unwrap();
        to.set_guard(Some(range)).unwrap();
        let before = lower(&from);
        let rules = |plan: &Plan| {
            let text = lower(plan).to_string();
            let rules = text.lines().filter(|line| line.contains("@guarded"));
            let words =
                rules.map(|line| line.split('@').nth(1).unwrap().split(' ').next().unwrap());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            (rules(&from), rules(&to)),
            (
                vec!["guarded".to_owned(), "guarded".to_owned()],
                vec!["guarded".to_owned(), "guarded_udp".to_owned()]
            )
        );
        assert_eq!(raise(&before, None).as_ref(), Ok(&from));
        let transaction = between(&from, &to, Duration::ZERO).transaction;
        assert!(!transaction.makes_table());
        assert_eq!(mentioned_chains(&transaction), [ChainName::Guard].into());
        let (tcp, udp) = (SetName::Guarded(Protocol::Tcp), SetName::Guarded(Protocol::Udp));
        assert_eq!(mentioned_sets(&transaction), [udp].into());
        let of_udp = [20001, 20017].map(|it| Port::new(it).unwrap());
        assert_eq!(mentioned_ports(&transaction), [(tcp, (of_udp.to_vec(), vec![]))].into());
        let mut kernel = Kernel::holding(&before);
        kernel.carry_out(&transaction).unwrap();
        assert_eq!(kernel, Kernel::holding(&lower(&to)));
    }
}

/// Where clients of this host are balanced, a datagram of theirs to a listener without an address keeps
/// the address that it goes to.
#[test]
fn turning_on_local_clients_rewrites_seats_with_datagrams_for_every_address() {
    for (listener, rewritten) in
        [("0.0.0.0:53/udp", 4), ("10.9.0.1:53/udp", 0), ("0.0.0.0:53", 0), ("[::]:53/udp", 4)]
    {
        let from = full(&[listener], Partition::hash(1024).unwrap(), 4);
        let mut to = from.clone();
        to.set_local_clients(true);
        let there = between(&from, &to, Duration::ZERO).transaction;
        let seats = mentioned_chains(&there);
        let seats = seats.into_iter().filter(|chain| matches!(chain, ChainName::Seat(_))).count();
        assert_eq!(seats, rewritten, "{listener}");
    }
}

#[test]
fn other_listeners_make_the_table_anew() {
    let from = whole(4);
    let to = full(&["10.9.0.1:81"], Partition::hash(1024).unwrap(), 4);
    let operations = between(&from, &to, Duration::ZERO).transaction.operations;
    assert_eq!(operations[..2], [Operation::DeleteTable, Operation::AddTable]);
}

/// The model refuses what the kernel does: in another order these transactions fail.
#[test]
fn the_order_of_operations_matters_to_the_model() {
    let from = whole(8);
    let to = from.rescaled(&Weights::equal(5).unwrap()).unwrap();
    let now = Duration::ZERO;
    let transition = between(&from, &to, now);
    let kernel = Kernel::holding(&lower(&from));

    let removed = Transition::tidy(lower(&to).table, &transition.stale, now + Stale::GRACE);
    let mut with_stale = kernel.clone();
    with_stale.carry_out(&transition.transaction).unwrap();

    let (chains_first, refusal) = refused(&with_stale, &removed.transaction, |operation| {
        !matches!(operation, Operation::DeleteChain(_))
    });
    assert!(matches!(chains_first, Operation::DeleteChain(_)), "{chains_first:?}");
    assert_eq!(refusal, TableError::Busy);

    let (counters_first, refusal) = refused(&with_stale, &removed.transaction, |operation| {
        !matches!(operation, Operation::DeleteCounter(_))
    });
    assert!(matches!(counters_first, Operation::DeleteCounter(_)), "{counters_first:?}");
    assert_eq!(refusal, TableError::Busy);

    // What is in use cannot be removed.
    let slots = lower(&from).sets.into_iter().find(|set| matches!(set.name, SetName::Slots(_)));
    let slots = Operation::DeleteSet(slots.unwrap().name);
    let in_use = Transaction { table: lower(&from).table, operations: vec![slots.clone()] };
    assert_eq!(kernel.clone().carry_out(&in_use), Err((slots, TableError::Busy)));

    let (rules_first, refusal) = refused(&kernel, &Transaction::create(&to), |operation| {
        !matches!(operation, Operation::AddTable | Operation::AddRule(..))
    });
    assert!(matches!(rules_first, Operation::AddRule(..)), "{rules_first:?}");
    assert_eq!(refusal, TableError::Missing);
}

/// What the model says to a transaction in which those that are not `late` come first.
fn refused(
    kernel: &Kernel,
    transaction: &Transaction,
    late: impl Fn(&Operation) -> bool,
) -> (Operation, TableError) {
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

fn stale_maps(stale: &Stale) -> Vec<String> {
    stale.maps().map(|name| name.to_string()).collect()
}

/// There and back at once: each time what the other left is used again.
#[test]
fn what_is_stale_is_used_again() {
    let now = Duration::ZERO;
    let five = whole(5);
    let four = five.rescaled(&Weights::equal(4).unwrap()).unwrap();
    let there = between(&five, &four, now);
    assert_eq!(there.stale.seats().collect::<Vec<_>>(), [Seat(4)]);
    let later = now + Duration::from_millis(1);
    let back = Transition::between(&four, &there.stale, &five, later).unwrap();
    let made = |operation: &Operation| {
        matches!(operation, Operation::AddSet(_) | Operation::AddChain(_) | Operation::DeleteSet(_))
    };
    assert!(!back.transaction.operations.iter().any(made), "{:?}", back.transaction.operations);
    assert_eq!(back.stale.seats().count(), 0);
    assert_eq!(back.stale.maps().count(), 1, "that of four: {:?}", stale_maps(&back.stale));
    assert_eq!(back.stale.due_at(), Some(later + Stale::GRACE));
}

/// Two maps with one name: no other way is safe.
#[test]
fn a_map_that_has_the_name_of_another_makes_the_table_anew() {
    let now = Duration::ZERO;
    let five = whole(5);
    let four = five.rescaled(&Weights::equal(4).unwrap()).unwrap();
    let mut stale = between(&five, &four, now).stale;
    for (elements, _) in stale.maps.values_mut() {
        *elements = Elements::Seats(vec![Seat(0)]);
    }
    let back = Transition::between(&four, &stale, &five, now).unwrap();
    assert!(back.transaction.makes_table());
    assert!(back.stale.is_empty());
}
