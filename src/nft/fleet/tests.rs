//! What is changed, and what not.

use std::collections::BTreeSet;

use super::contents::{Change, Tables, changes, wanted};
use crate::plan::Engine;
use crate::plan::fleet::{Fleet, Member, MemberState, Members};
use crate::ruleset::{FleetHost, FleetRuleset, FleetTableKind, lower_fleet};

fn member(nth: u8, state: MemberState) -> Member {
    let address = format!("10.0.0.{nth}").parse().unwrap();
    let mac =
        format!("02:00:00:00:00:{nth:02x}").parse::<crate::plan::fleet::MacAddress>().unwrap();
    let member = Member::new(format!("m{nth}").parse().unwrap(), [address]).unwrap();
    member.with_mac(mac).with_state(state)
}

fn members(states: &[MemberState]) -> Members {
    Members::new((1..).zip(states).map(|(nth, state)| member(nth, *state))).unwrap()
}

fn rules(fleet: &Fleet) -> FleetRuleset {
    let listeners = vec!["192.0.2.1:80".parse().unwrap()];
    let listeners = crate::plan::Listeners::new(listeners).unwrap();
    let (name, device) = ("web".parse().unwrap(), "eth0".parse().unwrap());
    let host = FleetHost::new(name, "m1".parse().unwrap(), device, Engine::Redirect, listeners);
    lower_fleet(fleet, host).unwrap()
}

/// The tables after these changes, as the kernel carries them out: it refuses to remove what something uses.
fn carried_out(mut tables: Tables, all: &[(FleetTableKind, Change)]) -> Tables {
    use super::contents::{Chain, Contents, Set};
    for (kind, change) in all {
        let change = change.clone();
        match change {
            Change::AddTable => {
                assert!(tables.insert(*kind, Contents::default()).is_none());
                continue;
            }
            Change::DeleteTable => {
                tables.remove(kind).unwrap();
                continue;
            }
            _ => {}
        }
        let table = tables.get_mut(kind).unwrap();
        let has_chain = |table: &Contents, name: &str| table.chains.contains_key(name);
        match change {
            Change::AddChain(name, hook) => {
                assert!(table.chains.insert(name, Chain { hook, rules: vec![] }).is_none());
            }
            Change::FlushChain(name) => table.chains.get_mut(&name).unwrap().rules.clear(),
            Change::DeleteChain(name) => {
                let goes = |set: &Set| set.elements.values().any(|to| to.as_ref() == Some(&name));
                assert!(!table.sets.values().any(goes), "{name} is in use");
                assert!(table.chains.remove(&name).unwrap().rules.is_empty());
            }
            Change::AddSet(name, kind) => {
                let set = Set { kind, elements: Default::default() };
                assert!(table.sets.insert(name, set).is_none());
            }
            Change::DeleteSet(name) => drop(table.sets.remove(&name).unwrap()),
            Change::AddElements(name, elements) => {
                for (key, to) in elements {
                    assert!(to.as_ref().is_none_or(|to| has_chain(table, to)));
                    let set = table.sets.get_mut(&name).unwrap();
                    assert!(set.elements.insert(key, to).is_none());
                }
            }
            Change::DeleteElements(name, keys) => {
                for key in keys {
                    table.sets.get_mut(&name).unwrap().elements.remove(&key).unwrap();
                }
            }
            Change::AddRule(chain, rule) => {
                table.chains.get_mut(&chain).unwrap().rules.push(Some(rule));
            }
            Change::AddTable | Change::DeleteTable => unreachable!(),
        }
    }
    tables
}

#[test]
fn only_what_differs_changes_and_every_change_ends_in_what_is_wanted() {
    use MemberState::{Draining, Joining, Serving};
    let lists = [
        members(&[Serving, Serving]),
        members(&[Serving, Serving, Joining]),
        members(&[Serving, Serving, Serving]),
        members(&[Serving, Draining, Serving]),
        members(&[Draining, Serving, Serving]),
        members(&[Serving]),
        members(&[Serving, Serving, Serving, Serving]),
    ];
    let mut fleet = Fleet::new(64, lists[0].clone()).unwrap();
    let mut tables = Tables::new();
    for list in lists.iter().cycle().take(20) {
        fleet = fleet.with_members(list.clone()).unwrap();
        let wanted = wanted(&rules(&fleet), 2);
        let all = changes(&tables, &wanted);
        tables = carried_out(tables, &all);
        assert_eq!(tables, wanted);
        assert_eq!(changes(&tables, &wanted), []);
    }
}

#[test]
fn owners_that_move_are_elements_and_nothing_else() {
    use MemberState::{Draining, Serving};
    let all = Fleet::new(60, members(&[Serving, Serving, Serving])).unwrap();
    let drained = all.with_members(members(&[Serving, Draining, Serving])).unwrap();
    let again = drained.with_members(members(&[Serving, Serving, Serving])).unwrap();
    let (before, after) = (wanted(&rules(&again), 2), wanted(&rules(&again), 2));
    assert_eq!(changes(&before, &after), []);
    let drained_again = again.with_members(members(&[Serving, Serving, Draining])).unwrap();
    let (before, after) = (wanted(&rules(&again), 2), wanted(&rules(&drained_again), 2));
    let kinds: BTreeSet<&str> = changes(&before, &after)
        .iter()
        .filter(|(kind, _)| *kind == FleetTableKind::Director)
        .map(|(_, change)| match change {
            Change::AddElements(..) | Change::DeleteElements(..) => "elements",
            // Nobody is in need of this chain any more.
            Change::FlushChain(chain) | Change::DeleteChain(chain) if chain == "to_m3" => "chain",
            _ => "other",
        })
        .collect();
    assert!(!kinds.contains("other"), "{kinds:?}");
}

#[test]
fn a_table_of_another_kind_is_made_anew() {
    let fleet = Fleet::new(8, members(&[MemberState::Serving, MemberState::Serving])).unwrap();
    let more = Fleet::new(16, members(&[MemberState::Serving, MemberState::Serving])).unwrap();
    let (before, after) = (wanted(&rules(&fleet), 2), wanted(&rules(&more), 2));
    let all = changes(&before, &after);
    assert_eq!(all.first(), Some(&(FleetTableKind::Director, Change::DeleteTable)));
    assert_eq!(carried_out(before, &all), after);
    let unknown = Tables::from([(FleetTableKind::Director, super::contents::Contents::unknown())]);
    let all = changes(&unknown, &after);
    assert_eq!(all.first(), Some(&(FleetTableKind::Director, Change::DeleteTable)));
}
