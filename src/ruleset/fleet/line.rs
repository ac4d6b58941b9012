//! Where packets of a slot go: the line of its owner and its former ones. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::object::Mark;
use crate::plan::Slot;
use crate::plan::fleet::{Fleet, MemberName, MemberState};

/// The owner of a slot, if that is another member.
pub(super) fn next_owner<'a>(
    fleet: &'a Fleet,
    host: &MemberName,
    slot: Slot,
) -> Option<&'a MemberName> {
    Some(fleet.owners().owner(slot)).filter(|owner| *owner != host)
}

/// At which place of a slot's line a host is.
pub(super) fn place_in_line(fleet: &Fleet, host: &MemberName, slot: Slot) -> Option<Mark> {
    let place = line(fleet, slot).position(|name| name == host)?;
    u8::try_from(place).ok().map(Mark)
}

/// Where a host passes a packet that begins no connection and belongs to none that it has, and with which mark;
/// `None` if it is to answer. The way along the line begins at the owner. A former owner goes on with what the one
/// before it has sent, which the mark tells. All else comes from a host that knows another line: it goes to the
/// owner, as what comes to a host that has never owned the slot.
pub(super) fn next_in_line<'a>(
    fleet: &'a Fleet,
    host: &MemberName,
    slot: Slot,
    mark: Option<Mark>,
) -> Option<(&'a MemberName, Mark)> {
    let to_owner = Some((fleet.owners().owner(slot), Mark::OWNER));
    let Some(place) = place_in_line(fleet, host, slot) else { return to_owner };
    if place != Mark::OWNER && mark != Some(place) {
        return to_owner;
    }
    let next = Mark(place.0 + 1);
    line(fleet, slot).nth(next.0.into()).map(|name| (name, next))
}

/// The owner, the former owners, and behind them those whose lease has ended. They may have died, and pass on
/// nothing; or they are cut off from etcd alone, and have connections.
fn line(fleet: &Fleet, slot: Slot) -> impl Iterator<Item = &MemberName> {
    let owners = fleet.owners();
    let is_lost = |name: &MemberName| {
        fleet.members().get(name).is_some_and(|it| it.state() == MemberState::Lost)
    };
    let of_state = move |lost| owners.former(slot).filter(move |name| is_lost(name) == lost);
    std::iter::once(owners.owner(slot)).chain(of_state(false)).chain(of_state(true))
}

/// The chain of each member that gets packets with a mark, and which slots go there.
pub(super) struct Targets<'a> {
    pub(super) chains: BTreeMap<(&'a MemberName, Mark), Arc<str>>,
    pub(super) slots: Vec<(u32, Arc<str>)>,
}

impl<'a> Targets<'a> {
    pub(super) fn of(
        fleet: &'a Fleet,
        target: impl Fn(Slot) -> Option<(&'a MemberName, Mark)>,
    ) -> Self {
        let mut chains = BTreeMap::new();
        let slots = (0..fleet.partition().slots()).map(Slot);
        let slots = slots.filter_map(|slot| {
            let (name, mark) = target(slot)?;
            let chain = chains.entry((name, mark)).or_insert_with(|| chain_of(name, mark));
            Some((slot.0, Arc::clone(chain)))
        });
        let slots = slots.collect();
        Self { chains, slots }
    }
}

fn chain_of(name: &MemberName, mark: Mark) -> Arc<str> {
    match mark {
        Mark::OWNER => format!("to_{name}"),
        Mark(place) => format!("to{place}_{name}"),
    }
    .into()
}
