//! What a firewall makes of faults, of others and of what it finds: on the fake, without a kernel.

use super::{parsed, port};
use crate::netlink::{Errno, NetlinkError};
use crate::nft::wire::table::TableOwner;
use crate::nft::{Applied, Disturbance, Fake, Firewall, Injection, NftError, Protection};
use crate::plan::{Generation, Listeners, Occupant, Ownership, Partition, Plan, Seat, Weights};
use crate::ruleset::{
    ChainName, CounterValue, Elements, Operation, Set, SetName, TableName, Transaction, lower,
};

fn plan(seats: u16) -> Plan {
    let listeners = Listeners::new(vec![parsed("10.9.0.1:80"), parsed("[fd09::1]:80")]).unwrap();
    let partition = Partition::hash(64).unwrap();
    let weights = Weights::equal(seats.into()).unwrap();
    let mut plan = Plan::new(parsed("web"), listeners, partition, &weights, None).unwrap();
    (0..seats).for_each(|seat| occupy(&mut plan, seat, 20_000 + seat));
    plan
}

fn occupy(plan: &mut Plan, seat: u16, worker: u16) {
    let occupant = Occupant { generation: Generation(1), ports: [port(worker)].into() };
    plan.occupy(Seat(seat), occupant).unwrap();
}

/// A plan in force, and the next one.
fn in_force(fake: &Fake, ownership: Ownership) -> (Firewall, Plan, Plan) {
    let before = plan(4);
    let mut after = before.clone();
    occupy(&mut after, 1, 21_000);
    let mut firewall = fake.open(before.name()).unwrap().with_ownership(ownership);
    firewall.apply(&before).unwrap();
    (firewall, before, after)
}

fn holds(fake: &Fake, plan: &Plan) -> bool {
    fake.ruleset(plan.name()) == Some(lower(plan))
}

fn change(plan: &Plan, operations: Vec<Operation>) -> Disturbance {
    Disturbance::Change(Transaction { table: TableName::of(plan.name()), operations })
}

#[test]
fn an_outcome_that_nobody_told_is_read_back() {
    for ownership in [Ownership::Auto, Ownership::Shared] {
        let fake = Fake::new();
        let (mut firewall, _, after) = in_force(&fake, ownership);
        fake.inject(Injection::LoseReplies);
        assert_eq!(firewall.apply(&after).unwrap().operations, 3);
        assert_eq!(fake.injections_left(), 0);
        assert!(holds(&fake, &after));
        firewall.verify().unwrap();
    }
}

#[test]
fn a_refusal_that_nobody_told_is_no_success() {
    let fake = Fake::new();
    let (mut firewall, before, after) = in_force(&fake, Ownership::Shared);
    // What the change flushes is not there any more; the table that is, is not what it ends in.
    let seat = ChainName::Seat(Seat(1));
    let gone = change(
        &before,
        vec![Operation::FlushChain(ChainName::Prerouting), Operation::FlushChain(seat)],
    );
    fake.disturb(&gone).unwrap();
    fake.inject(Injection::LoseReplies);
    let error = firewall.apply(&after).unwrap_err();
    let lost = matches!(&error, NftError::Netlink { source: NetlinkError::RepliesLost, .. });
    assert!(lost, "{error}");
    assert!(!holds(&fake, &after));
    // It knows that it does not know: what is there is put right.
    firewall.read().unwrap_err();
    firewall.apply(&after).unwrap();
    assert!(holds(&fake, &after));
}

#[test]
fn a_storm_is_given_up_after_five_attempts() {
    for (storm, survives) in [(4, true), (5, false)] {
        let fake = Fake::new();
        let (mut firewall, before, after) = in_force(&fake, Ownership::Shared);
        (0..storm).for_each(|_| fake.inject(Injection::Disturb(Disturbance::Elsewhere)));
        let result = firewall.restore(&after);
        assert_eq!(fake.injections_left(), 0, "each attempt met with one");
        match survives {
            true => assert!(result.is_ok() && holds(&fake, &after)),
            false => {
                let error = result.unwrap_err();
                assert!(matches!(error, NftError::Overtaken { attempts: 5, .. }), "{error}");
                assert!(holds(&fake, &before), "what was in force still is");
                firewall.restore(&after).unwrap();
            }
        }
    }
}

#[test]
fn a_change_that_came_between_is_seen_and_undone() {
    for disturbance in [
        Disturbance::FlushRuleset,
        Disturbance::Spoil(parsed("web")),
        change(&plan(4), vec![Operation::FlushChain(ChainName::Prerouting)]),
    ] {
        let fake = Fake::new();
        let (mut firewall, _, after) = in_force(&fake, Ownership::Shared);
        for seat in (0..4).map(Seat) {
            (0..7).for_each(|_| fake.count(after.name(), seat, 60));
        }
        fake.inject(Injection::Disturb(disturbance));
        firewall.restore(&after).unwrap();
        assert!(holds(&fake, &after));
        firewall.verify().unwrap();
        // Also where the table was gone: they were read for the attempt that came too late.
        let counted = firewall.counter_values().unwrap();
        let expected = CounterValue { connections: 7, bytes: 7 * 60 };
        assert!(counted.values().all(|value| *value == expected), "{counted:?}");
    }
}

/// A swap does not read before it writes: what others have done shows in the refusal.
#[test]
fn a_table_that_others_have_broken_is_made_anew_by_the_next_plan() {
    for disturbance in [
        Disturbance::FlushRuleset,
        change(&plan(4), vec![Operation::DeleteTable]),
        change(
            &plan(4),
            vec![
                Operation::FlushChain(ChainName::Prerouting),
                Operation::DeleteChain(ChainName::Prerouting),
            ],
        ),
    ] {
        let fake = Fake::new();
        let (mut firewall, before, _) = in_force(&fake, Ownership::Shared);
        let mut after = before;
        after.set_admitting(false);
        // Before it, and between the look and the commit.
        for between in [false, true] {
            match between {
                true => fake.inject(Injection::Disturb(disturbance.clone())),
                false => fake.disturb(&disturbance).unwrap(),
            }
            firewall.apply(&after).unwrap();
            assert!(holds(&fake, &after), "{disturbance:?}");
            firewall.verify().unwrap();
            after.set_admitting(true);
        }
    }
}

/// Somebody who knows how tables of ours look adds a map that an earlier plan could have left, but for what
/// it holds, or gives seats a set that none of ours has: neither is taken for ours.
#[test]
fn a_map_that_is_not_named_after_what_it_holds_is_seen() {
    let ours = Set::map(SetName::Slots, Elements::Seats(vec![Seat(3), Seat(1)]));
    let other = Set { elements: Elements::Seats(vec![Seat(1), Seat(3)]), ..ours.clone() };
    for (map, is_ours) in [(ours, true), (other, false)] {
        let fake = Fake::new();
        let (mut firewall, before, after) = in_force(&fake, Ownership::Shared);
        fake.disturb(&change(&before, vec![Operation::AddSet(map.clone())])).unwrap();
        assert_eq!(firewall.verify().is_ok(), is_ours, "{map:?}");
        let mut next = fake.open(before.name()).unwrap();
        assert_eq!(next.read().is_ok(), is_ours, "nor does the next master: {map:?}");
        firewall.restore(&after).unwrap();
        assert!(holds(&fake, &after));
        firewall.verify().unwrap();
    }
}

#[test]
fn nobody_changes_an_owned_table() {
    let fake = Fake::new();
    let (mut firewall, before, after) = in_force(&fake, Ownership::Auto);
    for disturbance in [
        change(&before, vec![Operation::DeleteTable]),
        Disturbance::Spoil(before.name().clone()),
        Disturbance::Usurp(before.name().clone()),
    ] {
        assert_eq!(fake.disturb(&disturbance), Err(Errno::EPERM));
    }
    fake.disturb(&Disturbance::FlushRuleset).unwrap();
    assert!(holds(&fake, &before));
    let mut second = fake.open(before.name()).unwrap();
    let port = firewall.port().unwrap();
    for result in [
        second.adopt().map(drop),
        second.apply(&after).map(drop),
        second.restore(&after).map(drop),
        second.remove().map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, NftError::OwnedByOther { owner, .. } if owner == port), "{error}");
    }
    firewall.apply(&after).unwrap();
    assert!(holds(&fake, &after));
}

#[test]
fn an_orphan_is_adopted_as_it_is_or_changed_at_once() {
    for by_applying in [false, true] {
        let fake = Fake::new();
        let (firewall, before, after) = in_force(&fake, Ownership::Auto);
        drop(firewall);
        let mut next = fake.open(before.name()).unwrap();
        assert_eq!(next.table_owner().unwrap(), Some(TableOwner::Orphaned));
        let generation_id = fake.generation_id();
        if by_applying {
            assert_eq!(next.apply(&after).unwrap().operations, 3);
        } else {
            assert!(next.adopt().unwrap());
            assert!(holds(&fake, &before));
        }
        assert_eq!(fake.generation_id(), generation_id + 1, "in one transaction");
        assert_eq!(next.table_owner().unwrap(), Some(TableOwner::Socket(next.port().unwrap())));
        next.apply(&after).unwrap();
        assert!(holds(&fake, &after));
        assert_eq!(next.apply(&after).unwrap(), Applied { operations: 0, bytes: 0 });
    }
}

/// `nf_tables_addchain` refuses a base chain in the transaction in which the owner changes.
#[test]
fn an_orphan_is_taken_before_it_gets_another_base_chain() {
    let fake = Fake::new();
    let (firewall, _, mut after) = in_force(&fake, Ownership::Auto);
    drop(firewall);
    after.set_guard(Some(parsed("20000-29999"))).unwrap();
    after.set_local_clients(true);
    let mut next = fake.open(after.name()).unwrap();
    next.apply(&after).unwrap();
    assert!(holds(&fake, &after));
    next.verify().unwrap();
}

#[test]
fn the_owner_is_who_holds_a_copy_of_the_descriptor() {
    use std::os::fd::AsFd;
    let fake = Fake::new();
    let (firewall, before, after) = in_force(&fake, Ownership::Auto);
    let copy = firewall.as_fd().try_clone_to_owned().unwrap();
    let port = firewall.port().unwrap();
    drop(firewall);
    let mut next = fake.from_descriptor(before.name(), copy, port).unwrap();
    assert_eq!(next.table_owner().unwrap(), Some(TableOwner::Socket(port)));
    next.read_in_order_of(before.listeners()).unwrap();
    next.apply(&after).unwrap();
    drop(next);
    let mut last = fake.open(before.name()).unwrap();
    assert_eq!(last.table_owner().unwrap(), Some(TableOwner::Orphaned));
}

#[test]
fn an_older_schema_is_replaced_and_a_newer_one_refused() {
    for ownership in [Ownership::Auto, Ownership::Shared] {
        let fake = Fake::new();
        let plan = plan(4);
        let newer = TableName::SCHEMA + 1;
        fake.disturb(&Disturbance::Schema(plan.name().clone(), newer)).unwrap();
        let mut firewall = fake.open(plan.name()).unwrap().with_ownership(ownership);
        for result in [
            firewall.read().map(drop),
            firewall.adopt().map(drop),
            firewall.apply(&plan).map(drop),
            firewall.restore(&plan).map(drop),
            firewall.remove().map(drop),
        ] {
            let error = result.unwrap_err();
            let is_newer = matches!(error, NftError::Schema { found, .. } if found == newer);
            assert!(is_newer && !error.can_be_replaced(), "{error}");
        }
        fake.disturb(&Disturbance::Schema(plan.name().clone(), 1)).unwrap();
        assert!(firewall.read().unwrap_err().can_be_replaced());
        firewall.apply(&plan).unwrap();
        assert!(holds(&fake, &plan));
        firewall.verify().unwrap();
    }
}

#[test]
fn a_foreign_table_is_left_alone() {
    for ownership in [Ownership::Auto, Ownership::Shared] {
        let fake = Fake::new();
        let plan = plan(4);
        fake.disturb(&Disturbance::Usurp(plan.name().clone())).unwrap();
        let mut firewall = fake.open(plan.name()).unwrap().with_ownership(ownership);
        firewall.protection().unwrap();
        for result in [
            firewall.read().map(drop),
            firewall.adopt().map(drop),
            firewall.apply(&plan).map(drop),
            firewall.restore(&plan).map(drop),
            firewall.remove().map(drop),
        ] {
            let error = result.unwrap_err();
            assert!(matches!(error, NftError::ForeignTable { .. }), "{error}");
        }
        assert_eq!(fake.clusters(), []);
        assert!(fake.tables().contains(&"ipcluster_web".to_owned()));
    }
}

#[test]
fn what_cannot_be_sent_or_is_refused_changes_nothing() {
    let fake = Fake::new();
    let (mut firewall, before, after) = in_force(&fake, Ownership::Auto);
    fake.inject(Injection::FailToSend(Errno::EMSGSIZE));
    match firewall.apply(&after).unwrap_err() {
        NftError::Netlink { source, .. } => assert_eq!(source.errno(), Some(Errno::EMSGSIZE)),
        error => panic!("{error}"),
    }
    fake.inject(Injection::Refuse(Errno::ENOMEM));
    match firewall.apply(&after).unwrap_err() {
        NftError::Refused { faults, .. } => {
            assert_eq!((faults.len(), faults[0].errno), (1, Errno::ENOMEM));
            assert_eq!(faults[0].operation, None);
        }
        error => panic!("{error}"),
    }
    assert!(holds(&fake, &before));
    firewall.verify().unwrap();
    firewall.apply(&after).unwrap();
    assert!(holds(&fake, &after));
}

#[test]
fn older_kernels_protect_as_well_as_they_can() {
    let keeper = "ipcluster.keep_web".to_owned();
    for (kernel, tables) in [
        (Protection::Owned, vec!["ipcluster_web".to_owned()]),
        (Protection::Kept, vec![keeper.clone(), "ipcluster_web".to_owned()]),
        (Protection::None, vec!["ipcluster_web".to_owned()]),
    ] {
        let fake = Fake::protecting(kernel);
        let (mut firewall, before, _) = in_force(&fake, Ownership::Auto);
        assert_eq!(firewall.protection().unwrap(), kernel);
        assert_eq!(fake.tables(), tables);
        fake.disturb(&Disturbance::FlushRuleset).unwrap();
        let left = match kernel {
            Protection::Owned => tables.clone(),
            Protection::Kept => vec![keeper.clone()],
            Protection::None => vec![],
        };
        assert_eq!(fake.tables(), left);
        firewall.restore(&before).unwrap();
        assert!(holds(&fake, &before));
        firewall.remove().unwrap();
        assert_eq!(fake.tables(), Vec::<String>::new());
        if kernel != Protection::Owned {
            let mut strict = fake.open(before.name()).unwrap().with_ownership(Ownership::Owned);
            let error = strict.apply(&before).unwrap_err();
            assert!(matches!(error, NftError::NoOwnership { .. }), "{error}");
        }
    }
}
