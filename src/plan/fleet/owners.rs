//! The table slot -> owner, with the owners before.

use std::collections::BTreeSet;

use super::{Fleet, FleetError, MemberName, Members};
use crate::plan::{Assignment, Partition, PlanError, Seat, Slot, Weights};

/// Which member owns each slot, and which did before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// By name: the members of the list that these owners were made for.
    members: Vec<MemberName>,
    slots: Vec<Holders>,
}

/// The owner of a slot and its former ones, as places in `Owners::members`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holders {
    owner: u8,
    /// The latest first; behind the last one [`NOBODY`].
    former: [u8; Fleet::MAX_KEPT],
}

/// More than any place: there are at most [`Members::MAX`].
const NOBODY: u8 = u8::MAX;
const _: () = assert!(Members::MAX < NOBODY as usize);

impl Holders {
    fn new(owner: u8) -> Self {
        Self { owner, former: [NOBODY; Fleet::MAX_KEPT] }
    }

    fn former(&self) -> impl Iterator<Item = u8> {
        self.former.into_iter().take_while(|place| *place != NOBODY)
    }

    /// With the first of these, each once, at most so many.
    fn with_former(mut self, former: impl Iterator<Item = u8>, most: usize) -> Self {
        let mut count = 0;
        for place in former {
            if count < most && !self.former[..count].contains(&place) {
                self.former[count] = place;
                count += 1;
            }
        }
        self
    }
}

impl Owners {
    /// The owners of a fleet that begins.
    pub(super) fn first(slots: u32, members: &Members) -> Result<Self, FleetError> {
        let slots = owners(slots, members, None)?.into_iter().map(Holders::new).collect();
        Ok(Self { members: names(members), slots })
    }

    /// The owners after a change of the members. Every slot with another owner than before remembers who had it,
    /// at most `kept`; who is gone is remembered nowhere.
    pub(super) fn after(&self, members: &Members, kept: usize) -> Result<Self, FleetError> {
        let slots = u32::try_from(self.slots.len()).expect("at most MAX_SLOTS");
        let places: Vec<Option<u8>> =
            self.members.iter().map(|name| placed(members, name)).collect();
        let today = |place: u8| places[usize::from(place)];
        let previous: Vec<_> = self.slots.iter().map(|holders| today(holders.owner)).collect();
        let owners = owners(slots, members, Some(&previous))?;
        let slots = self.slots.iter().zip(owners).map(|(before, owner)| {
            // The owner before is the latest former one. Who owns the slot again is none.
            let former = std::iter::once(before.owner).chain(before.former()).filter_map(today);
            Holders::new(owner).with_former(former.filter(|place| *place != owner), kept)
        });
        Ok(Self { members: names(members), slots: slots.collect() })
    }

    /// The owner of a slot.
    ///
    /// # Panics
    /// If the slot is not below [`Self::slots`]: it came from another partition.
    pub fn owner(&self, slot: Slot) -> &MemberName {
        self.name(self.slots[slot.0 as usize].owner)
    }

    /// The former owners of a slot, the latest first. All are members, and none is the owner.
    ///
    /// # Panics
    /// As [`Self::owner`].
    pub fn former(&self, slot: Slot) -> impl Iterator<Item = &MemberName> {
        self.slots[slot.0 as usize].former().map(|place| self.name(place))
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many slots a member owns.
    pub fn owned_by(&self, name: &MemberName) -> usize {
        self.iter().filter(|(owner, _)| *owner == name).count()
    }

    /// For how many slots a member is a former owner: where it may have connections that others do not know.
    pub fn formerly_owned_by(&self, name: &MemberName) -> usize {
        let is_former = |former: &Vec<&MemberName>| former.contains(&name);
        self.iter().filter(|(_, former)| is_former(former)).count()
    }

    /// How many slots have another owner in `before`; slots that only one of them has count.
    pub fn moved_from(&self, before: &Self) -> usize {
        let pairs = self.iter().zip(before.iter());
        let same = pairs.filter(|((one, _), (other, _))| one == other).count();
        self.slots.len().max(before.slots.len()) - same
    }

    /// Owner and former owners of each slot, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&MemberName, Vec<&MemberName>)> {
        let names = |holders: &Holders| {
            let former = holders.former().map(|place| self.name(place)).collect();
            (self.name(holders.owner), former)
        };
        self.slots.iter().map(names)
    }

    /// Owners as another host has written them: for each slot the owner and the former ones, which need not be
    /// members any more.
    pub(super) fn from_names<'a>(
        slots: impl Iterator<Item = (&'a MemberName, &'a [MemberName])> + Clone,
    ) -> Result<Self, FleetError> {
        let fault = |reason: String| FleetError::Owners { reason };
        let mut names = BTreeSet::new();
        for (owner, former) in slots.clone() {
            names.extend(std::iter::once(owner).chain(former));
            if former.len() > Fleet::MAX_KEPT {
                let (count, most) = (former.len(), Fleet::MAX_KEPT);
                return Err(fault(format!("{count} former owners of a slot: at most {most}")));
            }
        }
        if names.len() >= usize::from(NOBODY) {
            let (count, most) = (names.len(), NOBODY - 1);
            return Err(fault(format!("{count} names: at most {most}")));
        }
        let members: Vec<MemberName> = names.into_iter().cloned().collect();
        let place = |name: &MemberName| {
            let place = members.binary_search(name).expect("every name of a slot is among them");
            u8::try_from(place).expect("fewer than NOBODY")
        };
        let holders = |(owner, former): (_, &[MemberName])| {
            Holders::new(place(owner)).with_former(former.iter().map(place), Fleet::MAX_KEPT)
        };
        Ok(Self { slots: slots.map(holders).collect(), members })
    }

    fn name(&self, place: u8) -> &MemberName {
        &self.members[usize::from(place)]
    }
}

fn names(members: &Members) -> Vec<MemberName> {
    members.iter().map(|member| member.name().clone()).collect()
}

fn placed(members: &Members, name: &MemberName) -> Option<u8> {
    members.place(name).map(|place| u8::try_from(place).expect("at most Members::MAX"))
}

/// The owner of each slot, as a place in the list of members. `previous` are the owners until now, where they
/// still are members.
fn owners(
    slots: u32,
    members: &Members,
    previous: Option<&[Option<u8>]>,
) -> Result<Vec<u8>, FleetError> {
    let partition = Partition::hash(slots).map_err(|_| FleetError::Slots { slots })?;
    let (mut serving, mut weights) = (vec![], vec![]);
    for (place, member) in (0..NOBODY).zip(members.iter()) {
        if member.effective_weight() > 0 {
            serving.push(place);
            weights.push(f64::from(member.effective_weight()));
        }
    }
    if serving.is_empty() {
        return Err(FleetError::NobodyServes);
    }
    // The members that serve are to the slots of a fleet what the seats are to those of a host.
    let seat =
        |place: u8| serving.binary_search(&place).ok().and_then(|nth| u16::try_from(nth).ok());
    let seat = |place: &Option<u8>| Seat(place.and_then(seat).unwrap_or(u16::MAX));
    let previous = previous.map(|table| Assignment::from_table(table.iter().map(seat).collect()));
    let refused =
        |_: PlanError| FleetError::FewerSlotsThanMembers { slots, members: serving.len() };
    let assignment = Weights::new(&weights)
        .and_then(|weights| Assignment::new(&partition, &weights, previous.as_ref()))
        .map_err(refused)?;
    Ok(assignment.table().iter().map(|seat| serving[seat.index()]).collect())
}
