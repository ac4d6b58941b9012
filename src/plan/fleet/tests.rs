//! Properties of owners, and bad input. What the helpers make is valid; `unwrap` is for that.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

/// The member `m<number>` with an address of its own.
fn member(number: u8) -> Member {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number + 1));
    Member::new(name(&format!("m{number}")), [address]).unwrap()
}

fn serving(numbers: impl IntoIterator<Item = u8>) -> Members {
    Members::new(numbers.into_iter().map(member)).unwrap()
}

fn any_state() -> impl Strategy<Value = MemberState> {
    prop_oneof![
        4 => Just(MemberState::Serving),
        1 => Just(MemberState::Joining),
        1 => Just(MemberState::Draining),
        1 => Just(MemberState::Lost),
    ]
}

/// A list of some of 12 members, in any order, of any weight and state.
fn any_list() -> impl Strategy<Value = Vec<Member>> {
    let weight = prop_oneof![4 => Just(1), 2 => 0..6u16, 1 => any::<u16>()];
    let attributes = prop::collection::vec((any::<bool>(), weight, any_state()), 12);
    let members = attributes.prop_map(|attributes| {
        let listed = (0u8..).zip(attributes).filter(|(_, (listed, ..))| *listed);
        let made = listed
            .map(|(nth, (_, weight, state))| member(nth).with_weight(weight).with_state(state));
        made.collect::<Vec<_>>()
    });
    members.prop_shuffle()
}

fn any_members() -> impl Strategy<Value = Members> {
    any_list().prop_map(|list| Members::new(list).unwrap())
}

/// The weight by which a member is to get slots.
fn share(member: &Member) -> u64 {
    match member.state() {
        MemberState::Serving => u64::from(member.weight()),
        _ => 0,
    }
}

/// Every slot has an owner that serves, and every member its share, give or take less than one slot.
fn check_even(fleet: &Fleet) -> Result<(), TestCaseError> {
    let slots = fleet.owners().slots() as u64;
    let total: u64 = fleet.members().iter().map(share).sum();
    let mut owned = 0;
    for member in fleet.members().iter() {
        let count = fleet.owners().owned_by(member.name()) as u64;
        let (least, most) =
            (slots * share(member) / total, (slots * share(member)).div_ceil(total));
        prop_assert!((least..=most).contains(&count), "{}: {count}", member.name());
        owned += count;
    }
    prop_assert_eq!(owned, slots, "a slot whose owner is no member");
    Ok(())
}

/// Former owners are members, each once, none the owner, at most so many.
fn check_former(fleet: &Fleet) -> Result<(), TestCaseError> {
    for (owner, former) in fleet.owners().iter() {
        prop_assert!(former.len() <= fleet.kept());
        for (nth, place) in former.iter().enumerate() {
            prop_assert!(fleet.members().get(place).is_some(), "{place} is gone");
            prop_assert!(*place != owner && !former[..nth].contains(place), "{place} twice");
        }
    }
    Ok(())
}

/// Only the slots moved that had to: what a member has above its share rounded up must go, what it lacks to its
/// share rounded down must come, and what belonged to those who serve no more must go anyway.
fn check_least_movement(before: &Fleet, after: &Fleet) -> Result<(), TestCaseError> {
    let slots = after.owners().slots() as u64;
    let total: u64 = after.members().iter().map(share).sum();
    let (mut must_go, mut must_come, mut stays) = (0, 0, 0);
    for member in after.members().iter() {
        let held = before.owners().owned_by(member.name()) as u64;
        stays += held;
        must_go += held.saturating_sub((slots * share(member)).div_ceil(total));
        must_come += (slots * share(member) / total).saturating_sub(held);
    }
    let least = (must_go + slots - stays).max(must_come);
    prop_assert_eq!(after.owners().moved_from(before.owners()) as u64, least);
    Ok(())
}

/// A slot that moved remembers its owner before, if that is a member still; the others forget nobody who stays.
fn check_memory(before: &Fleet, after: &Fleet) -> Result<(), TestCaseError> {
    let is_member = |name: &&MemberName| after.members().get(name).is_some();
    for ((old, old_former), (new, new_former)) in before.owners().iter().zip(after.owners().iter())
    {
        let expected = std::iter::once(old).chain(old_former).filter(is_member);
        let expected: Vec<_> = expected.filter(|name| *name != new).take(after.kept()).collect();
        prop_assert_eq!(new_former, expected);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_history_of_members_is_even_moves_the_least_and_remembers(
        slots in 12..400u32,
        kept in 0..=Fleet::MAX_KEPT,
        lists in prop::collection::vec(any_members(), 1..8),
    ) {
        let mut fleet: Option<Fleet> = None;
        for members in lists {
            let serves = members.iter().any(|member| share(member) > 0);
            let next = match &fleet {
                None => Fleet::seeded(slots, Fleet::DEFAULT_SEED, kept, members.clone()),
                Some(fleet) => fleet.with_members(members.clone()),
            };
            if !serves {
                prop_assert_eq!(next, Err(FleetError::NobodyServes));
                continue;
            }
            let next = next.unwrap();
            prop_assert_eq!(next.members(), &members);
            check_even(&next)?;
            check_former(&next)?;
            if let Some(before) = &fleet {
                check_least_movement(before, &next)?;
                check_memory(before, &next)?;
            }
            fleet = Some(next);
        }
    }

    #[test]
    fn the_order_of_the_list_makes_no_difference(
        (one, other) in any_list().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle()))
    ) {
        let (one, other) = (Members::new(one).unwrap(), Members::new(other).unwrap());
        prop_assert_eq!(Fleet::new(64, one), Fleet::new(64, other));
    }

    #[test]
    fn the_same_list_again_changes_nothing(before in any_members(), members in any_members()) {
        let fleet = Fleet::new(64, before).and_then(|fleet| fleet.with_members(members.clone()));
        prop_assume!(fleet.is_ok());
        let fleet = fleet.unwrap();
        prop_assert_eq!(fleet.with_members(members).unwrap(), fleet);
    }

    #[test]
    fn a_client_reaches_the_owner_of_its_slot(members in any_members(), client: u32) {
        let client = IpAddr::V4(Ipv4Addr::from_bits(client));
        let Ok(fleet) = Fleet::new(64, members) else { return Ok(()) };
        let route = fleet.route(client);
        prop_assert_eq!(route.slot, fleet.partition().slot_of(client));
        prop_assert_eq!(route.owner, fleet.owners().owner(route.slot));
    }
}

#[test]
fn who_leaves_and_comes_back_has_its_slots_again_with_the_others_as_former_owners() {
    let all = Fleet::new(90, serving(0..3)).unwrap();
    let without = all.with_members(all.members().without(&name("m1"))).unwrap();
    assert_eq!(without.owners().moved_from(all.owners()), 30);
    assert_eq!(without.owners().formerly_owned_by(&name("m1")), 0, "it is gone");
    let again = without.with_members(serving(0..3)).unwrap();
    assert_eq!(again.owners().moved_from(without.owners()), 30);
    assert_eq!(again.owners().formerly_owned_by(&name("m1")), 0);
    let former = |name| again.owners().formerly_owned_by(name);
    assert_eq!(former(&name("m0")) + former(&name("m2")), 30);
}

#[test]
fn who_drains_owns_nothing_and_is_remembered() {
    let all = Fleet::new(90, serving(0..3)).unwrap();
    let list = all.members().iter().cloned();
    let drains = |member: Member| match member.name() == &name("m1") {
        true => member.with_state(MemberState::Draining),
        false => member,
    };
    let draining = all.with_members(Members::new(list.map(drains)).unwrap()).unwrap();
    assert_eq!(draining.owners().owned_by(&name("m1")), 0);
    assert_eq!(draining.owners().formerly_owned_by(&name("m1")), 30);
}

#[test]
fn where_nobody_serves_the_fleet_stays_as_it_was() {
    let fleet = Fleet::new(8, serving([0])).unwrap();
    let nobody =
        Members::new([member(0).with_weight(0), member(1).with_state(MemberState::Joining)])
            .unwrap();
    assert_eq!(fleet.with_members(nobody), Err(FleetError::NobodyServes));
    let none = Members::new([]).unwrap();
    assert!(none.is_empty());
    assert_eq!(Fleet::new(8, none), Err(FleetError::NobodyServes));
}

/// The clients of one host's share are spread over all its seats.
#[test]
fn the_seed_of_a_fleet_is_not_that_of_a_host() {
    let fleet = Fleet::new(1024, serving(0..4)).unwrap();
    let host = Partition::hash(8).unwrap();
    let mut clients: BTreeMap<&MemberName, [u32; 8]> = BTreeMap::new();
    for bits in 0..8192 {
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a08_0000 + bits));
        let seats = clients.entry(fleet.route(client).owner).or_default();
        seats[host.slot_of(client).0 as usize] += 1;
    }
    for seats in clients.values() {
        assert!(seats.iter().all(|count| (180..340).contains(count)), "{seats:?}");
    }
    let refused = Fleet::seeded(8, Partition::DEFAULT_SEED, 1, serving([0]));
    assert!(refused.unwrap_err().to_string().contains("workers of a host"));
}

#[test]
fn bad_members_are_named() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let new = |addresses: &[&str]| Member::new(name("a"), addresses.iter().map(|it| address(it)));
    for (addresses, said) in [
        (&[][..], "member a: expected one IPv4 address"),
        (&["10.0.0.1", "10.0.0.2"], "member a: expected one IPv4 address"),
        (&["0.0.0.0"], "0.0.0.0 is the unspecified one"),
        (&["::1"], "::1 is a loopback address"),
        (&["127.0.0.1"], "127.0.0.1 is a loopback address"),
        (&["224.0.0.1"], "224.0.0.1 is a multicast address"),
        (&["ff02::1"], "ff02::1 is a multicast address"),
        (&["255.255.255.255"], "255.255.255.255 is the broadcast address"),
        (&["::ffff:10.0.0.1"], "write it as IPv4"),
    ] {
        let error = new(addresses).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(new(&["fd00::1", "10.0.0.1"]).unwrap().addresses().count(), 2);
    let twice = Members::new([member(0), member(0)]).unwrap_err();
    assert_eq!(twice.to_string(), "member m0 is listed twice");
    let other = Member::new(name("z"), [address("10.0.0.1")]).unwrap();
    let shared = Members::new([other, member(0)]).unwrap_err().to_string();
    assert_eq!(shared, "member z has the address 10.0.0.1, and so has member m0");
    let many = Members::new((0..65).map(member)).unwrap_err();
    assert_eq!(many, FleetError::TooManyMembers { count: 65 });
    assert!("".parse::<MemberName>().is_err() && "-a".parse::<MemberName>().is_err());
}

#[test]
fn bad_sizes_are_named() {
    let new = |slots, kept| Fleet::seeded(slots, 1, kept, serving(0..4)).map(drop);
    assert_eq!(new(0, 1), Err(FleetError::Slots { slots: 0 }));
    assert_eq!(new(65_537, 1), Err(FleetError::Slots { slots: 65_537 }));
    assert_eq!(new(8, 5), Err(FleetError::Kept { kept: 5 }));
    assert_eq!(new(3, 1), Err(FleetError::FewerSlotsThanMembers { slots: 3, members: 4 }));
    assert_eq!(new(4, 0), Ok(()));
}

#[cfg(feature = "serde")]
mod json {
    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(lists in prop::collection::vec(any_members(), 1..4)) {
            let mut fleet: Option<Fleet> = None;
            for members in lists {
                let next = match &fleet {
                    None => Fleet::new(60, members),
                    Some(fleet) => fleet.with_members(members),
                };
                fleet = next.ok().or(fleet);
            }
            let Some(fleet) = fleet else { return Ok(()) };
            let text = serde_json::to_string(&fleet).unwrap();
            prop_assert_eq!(serde_json::from_str::<Fleet>(&text).unwrap(), fleet);
        }
    }

    #[test]
    fn the_form_is_short_and_says_what_is_not_as_usual() {
        let list = r#"{"members":[{"name":"b","addresses":["10.0.0.2","fd00::2"]},{"name":"a","addresses":["10.0.0.1"],"weight":3}]}"#;
        let fleet: Fleet = serde_json::from_str(list).unwrap();
        let written = serde_json::to_string(&fleet).unwrap();
        assert_eq!(
            written,
            concat!(
                r#"{"schema":1,"slots":1024,"seed":4058938140,"kept":2,"members":["#,
                r#"{"name":"a","addresses":["10.0.0.1"],"weight":3,"state":"serving"},"#,
                r#"{"name":"b","addresses":["10.0.0.2","fd00::2"],"weight":1,"state":"serving"}],"#,
                r#""owners":[{"slots":768,"owner":"a"},{"slots":256,"owner":"b"}]}"#
            )
        );
    }

    /// Somebody has taken a member out of the list, or marked it, and left the owners as they were.
    #[test]
    fn owners_of_before_a_change_are_planned_anew() {
        let before = Fleet::new(9, serving(0..3)).unwrap();
        let text = serde_json::to_string(&before).unwrap();
        let changed = text.replace(
            r#"{"name":"m2","addresses":["10.0.0.3"],"weight":1,"state":"serving"}"#,
            r#"{"name":"m2","addresses":["10.0.0.3"],"weight":1,"state":"draining"}"#,
        );
        assert_ne!(changed, text);
        let fleet: Fleet = serde_json::from_str(&changed).unwrap();
        assert_eq!(fleet, before.with_members(fleet.members().clone()).unwrap());
        assert_eq!(fleet.owners().formerly_owned_by(&name("m2")), 3);
        let removed = text
            .replace(r#",{"name":"m2","addresses":["10.0.0.3"],"weight":1,"state":"serving"}"#, "");
        assert_ne!(removed, text);
        let fleet: Fleet = serde_json::from_str(&removed).unwrap();
        assert_eq!(fleet, before.with_members(serving(0..2)).unwrap());
    }

    #[test]
    fn what_is_no_fleet_is_refused() {
        let members = r#""members":[{"name":"a","addresses":["10.0.0.1"]}]"#;
        for (text, said) in [
            (format!("{{{members},\"schema\":2}}"), "schema 2 of a fleet: this version reads 1"),
            (format!("{{{members},\"slots\":4294967295}}"), "4294967295 slots"),
            (format!("{{{members},\"seats\":1}}"), "unknown field `seats`"),
            (
                format!("{{{members},\"slots\":4,\"owners\":[{{\"slots\":3,\"owner\":\"a\"}}]}}"),
                "they own 3 slots of 4",
            ),
            (
                format!(
                    "{{{members},\"slots\":4,\"owners\":[{{\"slots\":4294967295,\"owner\":\"a\"}},{{\"slots\":5,\"owner\":\"a\"}}]}}"
                ),
                "they own 4294967300 slots of 4",
            ),
            (
                format!(
                    "{{{members},\"slots\":4,\"owners\":[{{\"slots\":4,\"owner\":\"a\",\"former\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}}]}}"
                ),
                "5 former owners of a slot",
            ),
            (r#"{"members":[]}"#.to_owned(), "no member serves"),
            (
                r#"{"members":[{"name":"a","addresses":["10.0.0.1"],"state":"gone"}]}"#.to_owned(),
                "gone",
            ),
        ] {
            let error = serde_json::from_str::<Fleet>(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
