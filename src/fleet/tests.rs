use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::plan::fleet::{Fleet, MacAddress, Member, MemberName, MemberState, Members};
use crate::protocol::Timestamp;

const LEASE: Lease = Lease(NonZeroU64::new(7).unwrap());

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn member(nth: u8) -> Member {
    let address = format!("10.0.0.{nth}").parse().unwrap();
    let mac: MacAddress = format!("02:00:00:00:00:{nth:02x}").parse().unwrap();
    Member::new(name(&format!("m{nth}")), [address]).unwrap().with_mac(mac)
}

fn published(nth: u8, state: MemberState, created: u64) -> Published {
    let (created, modified) = (Revision(created), Revision(created));
    let instance = Instance(u64::from(nth));
    let member = member(nth).with_state(state);
    Published { member, instance, created, modified, knows: 0, leaves: false }
}

/// The host m1, with a clock.
struct Host {
    membership: Membership,
    now: Timestamp,
}

impl Host {
    fn new() -> Self {
        let settings = Settings {
            member: member(1),
            instance: Instance(1),
            shape: Shape { slots: 12, ..Shape::default() },
            timing: Timing::default(),
        };
        Self { membership: Membership::new(settings), now: Timestamp(Duration::from_secs(50)) }
    }

    fn step(&mut self, input: Input) -> Vec<Action> {
        let actions = self.membership.step(input, self.now);
        actions.into_iter().filter(|action| !matches!(action, Action::Wake(_))).collect()
    }

    fn after(&mut self, span: Duration) -> Vec<Action> {
        self.now = self.now.after(span);
        self.step(Input::Tick)
    }

    fn read(&mut self, revision: u64, content: Vec<Change>) -> Vec<Action> {
        self.step(Input::Read { store: 1, revision: Revision(revision), content })
    }

    fn watched(&mut self, revision: u64, change: Change) -> Vec<Action> {
        self.step(Input::Watched { revision: Revision(revision), changes: vec![change] })
    }

    /// Has read the store, has a lease, and has published itself as one that serves.
    fn serving(content: Vec<Change>) -> (Self, Vec<Action>) {
        let mut host = Self::new();
        assert_eq!(host.step(Input::Local(LocalState::Ready)), [Action::ReadAll]);
        let actions = host.read(10, content);
        assert!(actions.contains(&Action::WatchFrom(Revision(11))), "{actions:?}");
        assert!(actions.contains(&Action::GrantLease), "{actions:?}");
        let actions = host.step(Input::LeaseGranted(LEASE));
        let [Action::Publish { state: MemberState::Serving, .. }] = actions[..] else {
            panic!("{actions:?}");
        };
        let actions = host.step(Input::Publication { written: Some(Revision(11)) });
        (host, actions)
    }
}

fn stored(fleet: Fleet, modified: u64) -> Change {
    let (fleet, modified) = (Arc::new(fleet), Revision(modified));
    Change::Fleet(Stored { fleet, version: modified.0, modified })
}

fn fleet_of(members: impl IntoIterator<Item = Member>) -> Fleet {
    Fleet::new(12, Members::new(members).unwrap()).unwrap()
}

fn swapped(actions: &[Action]) -> Option<(&Fleet, Revision)> {
    actions.iter().find_map(|action| match action {
        Action::SwapFleet { fleet, expected, .. } => Some((&**fleet, *expected)),
        _ => None,
    })
}

fn state_of(fleet: &Fleet, nth: u8) -> Option<MemberState> {
    fleet.members().get(&name(&format!("m{nth}"))).map(Member::state)
}

#[test]
fn who_was_told_nothing_publishes_nothing() {
    let mut host = Host::new();
    assert_eq!(host.step(Input::Tick), [Action::ReadAll]);
    let earlier_run = Published { instance: Instance(9), ..published(1, MemberState::Serving, 5) };
    let fleet = fleet_of([member(1)]);
    let content = vec![Change::Member(earlier_run), stored(fleet, 6)];
    let actions = host.read(8, content);
    let [Action::WatchFrom(Revision(9)), ref rest @ ..] = actions[..] else {
        panic!("{actions:?}")
    };
    assert!(matches!(rest, [Action::Apply { .. }]), "{rest:?}");
    // It has adopted its workers: the key is its own from now on, and nothing has changed.
    assert_eq!(host.step(Input::Local(LocalState::Ready)), [Action::GrantLease]);
    let (lease, state, expected) = (LEASE, MemberState::Serving, Revision(5));
    let taken_over = Action::Publish { lease, state, knows: 6, expected };
    assert_eq!(host.step(Input::LeaseGranted(LEASE)), [taken_over]);
    assert_eq!(host.step(Input::Publication { written: Some(Revision(9)) }), []);
}

#[test]
fn the_first_of_a_fleet_waits_for_those_who_may_know_one() {
    let (mut host, actions) = Host::serving(vec![]);
    assert_eq!(swapped(&actions), None);
    let actions = host.after(Duration::from_millis(2500));
    let (fleet, expected) = swapped(&actions).unwrap();
    assert_eq!((fleet.members().len(), expected), (1, Revision::NONE));
}

#[test]
fn the_fleet_is_written_over_what_was_seen_and_no_more_often_than_needed() {
    let (mut host, actions) = Host::serving(vec![stored(fleet_of([member(1)]), 9)]);
    assert_eq!(swapped(&actions), None, "it is what the members say");
    let joins = Change::Member(published(2, MemberState::Serving, 12));
    let actions = host.watched(12, joins);
    let (fleet, expected) = swapped(&actions).unwrap();
    assert_eq!((fleet.owners().owned_by(&name("m2")), expected), (6, Revision(9)));
    assert_eq!(host.after(Duration::from_millis(10)), [], "it was asked");
    let actions = host.step(Input::Swapped(false));
    assert_eq!(swapped(&actions), None, "another one was first: the watch tells what it wrote");
    let actions = host.watched(13, stored(fleet_of([member(1), member(2)]), 13));
    assert!(matches!(actions[..], [Action::Apply { revision: Revision(13), .. }]), "{actions:?}");
    let joins = Change::Member(published(3, MemberState::Serving, 14));
    let actions = host.watched(14, joins);
    assert_eq!(swapped(&actions).unwrap().1, Revision(13));
}

/// The fleet is deleted by hand. Who has seen all until then knows the last one, and writes it again at once.
#[test]
fn a_fleet_that_is_deleted_under_a_watch_is_written_again_at_once() {
    let (mut host, _) = Host::serving(vec![stored(fleet_of([member(1)]), 9)]);
    let actions = host.watched(12, Change::FleetGone);
    let [Action::SwapFleet { version: 10, expected: Revision::NONE, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
}

/// It is deleted while this host is away. Another one may know a later fleet, and says so under its key: that one
/// writes it, unless its lease ends before.
#[test]
fn a_fleet_that_was_deleted_unseen_is_written_by_whoever_knows_the_latest() {
    let away = |host: &mut Host| {
        host.step(Input::SourceLost { reason: "timed out".to_owned() });
        while !host.after(Duration::from_millis(100)).contains(&Action::ReadAll) {}
    };
    let mine =
        |knows| Change::Member(Published { knows, ..published(1, MemberState::Serving, 11) });
    let other =
        |knows| Change::Member(Published { knows, ..published(2, MemberState::Serving, 5) });
    let says = |actions: &[Action]| {
        let said = |action: &Action| match action {
            Action::Publish { knows, .. } => Some(*knows),
            _ => None,
        };
        actions.iter().find_map(said)
    };
    let both = || stored(fleet_of([member(1), member(2)]), 9);
    for later in [true, false] {
        let (mut host, _) = Host::serving(vec![other(0), both()]);
        away(&mut host);
        let actions = host.read(30, vec![mine(0), other(0)]);
        assert_eq!((says(&actions), swapped(&actions)), (Some(9), None), "{actions:?}");
        host.step(Input::Publication { written: Some(Revision(31)) });
        let knows = if later { 12 } else { 8 };
        let actions = host.watched(32, other(knows));
        assert_eq!(swapped(&actions), None, "others may not have said it yet");
        let actions = host.after(Duration::from_millis(2500));
        if later {
            assert_eq!(swapped(&actions), None);
            assert_eq!(swapped(&host.after(Duration::from_secs(60))), None);
            let actions = host.watched(33, Change::MemberGone(name("m2")));
            assert_eq!(state_of(swapped(&actions).unwrap().0, 2), Some(MemberState::Lost));
        } else {
            assert_eq!(swapped(&actions).unwrap().0.members().len(), 2);
        }
    }
}

#[test]
fn while_the_store_is_away_nothing_changes_and_it_is_said() {
    let content = vec![
        Change::Member(published(2, MemberState::Serving, 5)),
        stored(fleet_of([member(1), member(2)]), 9),
    ];
    let (mut host, _) = Host::serving(content);
    let lost_at = host.now;
    let actions = host.step(Input::SourceLost { reason: "connection refused".to_owned() });
    assert_eq!(actions, [Action::KeepAlive(LEASE)]);
    for _ in 0..200 {
        let actions = host.after(Duration::from_millis(200));
        let may = |action: &Action| matches!(action, Action::ReadAll | Action::KeepAlive(_));
        assert!(actions.iter().all(may), "{actions:?}");
        if actions.contains(&Action::ReadAll) {
            host.step(Input::SourceLost { reason: "timed out".to_owned() });
        }
    }
    let health = host.membership.health();
    assert_eq!(health.source, SourceState::Away { since: lost_at, reason: "timed out".to_owned() });
    assert_eq!(health.own, OwnState::Serving);
    // It is back, and has no key of m2, which gets the time of a lease to put it back.
    while !host.after(Duration::from_millis(100)).contains(&Action::ReadAll) {}
    let mine = Change::Member(published(1, MemberState::Serving, 11));
    let fleet = stored(fleet_of([member(1), member(2)]), 9);
    let actions = host.read(20, vec![mine, fleet]);
    assert_eq!(swapped(&actions), None);
    assert_eq!(swapped(&host.after(Duration::from_millis(4900))), None);
    let actions = host.after(Duration::from_millis(200));
    assert_eq!(state_of(swapped(&actions).unwrap().0, 2), Some(MemberState::Lost));
}

#[test]
fn who_loses_its_lease_is_passed_its_connections_and_who_leaves_is_not() {
    for leaves in [false, true] {
        let two = vec![
            Change::Member(Published { leaves, ..published(2, MemberState::Serving, 5) }),
            stored(fleet_of([member(1), member(2)]), 9),
        ];
        let (mut host, _) = Host::serving(two);
        let actions = host.watched(12, Change::MemberGone(name("m2")));
        let (fleet, _) = swapped(&actions).unwrap();
        assert_eq!(fleet.owners().owned_by(&name("m1")), 12);
        let lost = state_of(fleet, 2);
        assert_eq!(lost, (!leaves).then_some(MemberState::Lost));
        assert_eq!(fleet.owners().formerly_owned_by(&name("m2")), if leaves { 0 } else { 6 });
    }
}

/// m2 leaves; this host is cut off, and meanwhile m2 comes again, gets slots, and is cut off in its turn: the
/// connections that it has are passed to it.
#[test]
fn who_has_left_and_come_again_unseen_is_not_taken_for_one_that_has_left() {
    let leaving = Published { leaves: true, ..published(2, MemberState::Draining, 5) };
    let before = || fleet_of([member(1), member(2).with_state(MemberState::Draining)]);
    for comes_again in [false, true] {
        let content = vec![Change::Member(leaving.clone()), stored(before(), 9)];
        let (mut host, _) = Host::serving(content);
        // Its own key is behind the watch, so that it writes no fleet before it is cut off.
        host.watched(12, Change::MemberGone(name("m2")));
        host.step(Input::SourceLost { reason: "timed out".to_owned() });
        while !host.after(Duration::from_millis(100)).contains(&Action::ReadAll) {}
        let fleet = match comes_again {
            true => stored(fleet_of([member(1), member(2)]), 20),
            false => stored(before(), 9),
        };
        let mine = Change::Member(published(1, MemberState::Serving, 11));
        let actions = host.read(30, vec![mine, fleet]);
        if comes_again {
            assert_eq!(swapped(&actions), None);
            let actions = host.after(Timing::DEFAULT_LEASE);
            assert_eq!(state_of(swapped(&actions).unwrap().0, 2), Some(MemberState::Lost));
        } else {
            assert_eq!(state_of(swapped(&actions).unwrap().0, 2), None);
        }
    }
}

#[test]
fn who_is_lost_is_taken_out_after_a_while() {
    let two = fleet_of([member(1), member(2).with_state(MemberState::Lost)]);
    let (mut host, actions) = Host::serving(vec![stored(two, 9)]);
    assert_eq!(swapped(&actions), None);
    assert_eq!(swapped(&host.after(Timing::DEFAULT_LOST_FOR / 2)), None);
    let actions = host.after(Timing::DEFAULT_LOST_FOR / 2);
    assert_eq!(state_of(swapped(&actions).unwrap().0, 2), None);
}

#[test]
fn a_lease_that_ended_elsewhere_is_replaced() {
    let (mut host, _) = Host::serving(vec![stored(fleet_of([member(1)]), 9)]);
    host.watched(12, Change::MemberGone(name("m1")));
    let lost = fleet_of([member(1), member(2)]);
    let members = lost.members().iter().cloned().map(|it| match it.name().as_str() {
        "m1" => it.with_state(MemberState::Lost),
        _ => it,
    });
    let lost = lost.with_members(Members::new(members).unwrap()).unwrap();
    host.watched(13, stored(lost, 13));
    assert_eq!(host.membership.health().own, OwnState::Lost);
    assert_eq!(host.step(Input::LeaseLost(LEASE)), [Action::GrantLease]);
    let next = Lease(NonZeroU64::new(8).unwrap());
    let (state, expected) = (MemberState::Serving, Revision::NONE);
    let again = Action::Publish { lease: next, state, knows: 13, expected };
    assert_eq!(host.step(Input::LeaseGranted(next)), [again]);
}

#[test]
fn who_drains_leaves_when_it_owns_nothing_and_its_connections_have_ended() {
    let two = vec![
        Change::Member(published(2, MemberState::Serving, 5)),
        stored(fleet_of([member(1), member(2)]), 9),
    ];
    let (mut host, _) = Host::serving(two);
    let actions = host.step(Input::Local(LocalState::Draining { connections: 2 }));
    let state = MemberState::Draining;
    let drains = Action::Publish { lease: LEASE, state, knows: 9, expected: Revision(11) };
    assert_eq!(actions, [drains]);
    let actions = host.step(Input::Publication { written: Some(Revision(12)) });
    let (fleet, _) = swapped(&actions).unwrap();
    assert_eq!(fleet.owners().owned_by(&name("m1")), 0);
    let fleet = fleet.clone();
    host.watched(13, stored(fleet, 13));
    assert_eq!(host.membership.health().own, OwnState::Draining);
    let is_withdrawal = |action: &Action| matches!(action, Action::Withdraw { .. });
    assert!(!host.after(Duration::from_secs(60)).iter().any(is_withdrawal));
    let actions = host.step(Input::Local(LocalState::Draining { connections: 0 }));
    let withdrawal = Action::Withdraw { lease: LEASE, expected: Revision(12) };
    assert!(actions.contains(&withdrawal), "{actions:?}");
    host.step(Input::Withdrawn);
    assert_eq!(host.membership.health().own, OwnState::Gone);
    assert_eq!(host.after(Duration::from_secs(60)), []);
    assert_eq!(host.step(Input::Local(LocalState::Ready)), [Action::ReadAll], "it comes again");
}

#[test]
fn the_last_one_that_serves_says_why_it_stays() {
    let (mut host, _) = Host::serving(vec![stored(fleet_of([member(1)]), 9)]);
    host.step(Input::Local(LocalState::Draining { connections: 0 }));
    host.step(Input::Publication { written: Some(Revision(12)) });
    let troubles = host.membership.health().troubles;
    assert!(troubles.contains(&Trouble::LastOne { name: name("m1") }), "{troubles:?}");
    let actions = host.step(Input::Local(LocalState::Stopped));
    let withdrawal = Action::Withdraw { lease: LEASE, expected: Revision(12) };
    assert!(actions.contains(&withdrawal), "{actions:?}");
}

#[test]
fn a_name_that_another_host_has_is_left_to_it() {
    let mut other = published(2, MemberState::Serving, 5);
    let address = "10.0.0.99".parse().unwrap();
    other.member = Member::new(name("m1"), [address]).unwrap();
    let mut host = Host::new();
    host.step(Input::Local(LocalState::Ready));
    let actions = host.read(9, vec![Change::Member(other)]);
    assert_eq!(actions, [Action::WatchFrom(Revision(10))]);
    let troubles = host.membership.health().troubles;
    let taken = Trouble::NameTaken { name: name("m1"), address };
    assert!(troubles.contains(&taken), "{troubles:?}");
    assert_eq!(host.watched(10, Change::MemberGone(name("m1"))), [Action::GrantLease]);
}

#[test]
fn what_a_later_run_has_taken_over_is_left_to_it() {
    let (mut host, _) = Host::serving(vec![stored(fleet_of([member(1)]), 9)]);
    let next = Published { instance: Instance(77), ..published(1, MemberState::Serving, 11) };
    let next = Published { modified: Revision(12), ..next };
    assert_eq!(host.watched(12, Change::Member(next)), []);
    let troubles = host.membership.health().troubles;
    assert!(troubles.contains(&Trouble::Superseded { name: name("m1") }), "{troubles:?}");
    let actions = host.watched(13, Change::MemberGone(name("m1")));
    assert!(actions.iter().any(|it| matches!(it, Action::Publish { .. })), "{actions:?}");
}

#[test]
fn members_that_cannot_be_are_left_out_by_the_age_of_their_keys() {
    let mut same_address = published(3, MemberState::Serving, 7);
    let address = "10.0.0.2".parse().unwrap();
    same_address.member = Member::new(name("a"), [address]).unwrap().with_mac(member(3).mac());
    let mut without_mac = published(4, MemberState::Serving, 8);
    without_mac.member = without_mac.member.with_mac(None);
    let content = vec![
        Change::Member(published(2, MemberState::Serving, 5)),
        Change::Member(same_address),
        Change::Member(without_mac),
        stored(fleet_of([member(1)]), 9),
    ];
    let (mut host, _) = Host::serving(content);
    // "a" is before it in the list, and would write first.
    let actions = host.after(Duration::from_millis(50));
    let (fleet, _) = swapped(&actions).unwrap();
    let names: Vec<&str> = fleet.members().iter().map(|it| it.name().as_str()).collect();
    assert_eq!(names, ["m1", "m2"]);
    let said: Vec<String> =
        host.membership.health().troubles.iter().map(Trouble::to_string).collect();
    assert!(said.iter().any(|it| it.contains("a has the address 10.0.0.2")), "{said:?}");
    assert!(said.iter().any(|it| it.contains("member m4: its MAC address")), "{said:?}");
}

#[test]
fn what_cannot_be_read_is_neither_missing_nor_written_over() {
    let reason = "schema 2 of a member: this version reads 1".to_owned();
    let content = vec![
        Change::Unreadable { key: Key::Member(name("m2")), reason: reason.clone() },
        stored(fleet_of([member(1), member(2)]), 9),
    ];
    let (mut host, actions) = Host::serving(content);
    assert_eq!(swapped(&actions), None);
    assert_eq!(swapped(&host.after(Duration::from_secs(60))), None);
    let said = host.membership.health().troubles[0].to_string();
    assert_eq!(said, format!("key members/m2: {reason}"));
    host.watched(12, Change::Unreadable { key: Key::Fleet, reason });
    let actions = host.watched(13, Change::Member(published(3, MemberState::Serving, 13)));
    assert_eq!(swapped(&actions), None);
}
