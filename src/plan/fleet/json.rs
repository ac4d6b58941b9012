//! The form in which a fleet stands in a file or in a store: the same bytes on every host.
//!
//! Slots that follow each other and have the same owners stand as one entry, in order:
//!
//! ```json
//! {"schema":1,"slots":1024,"seed":4058938140,"kept":2,
//!  "members":[{"name":"a","addresses":["10.0.0.1"],"weight":1,"state":"serving"},
//!             {"name":"b","addresses":["10.0.0.2"],"weight":1,"state":"serving"}],
//!  "owners":[{"slots":512,"owner":"a"},{"slots":512,"owner":"b","former":["a"]}]}
//! ```
//!
//! Only `members` is needed, and of a member only name and addresses: a fleet without owners is one that begins.
//! Owners that do not fit the members are those of before a change: whoever reads them makes the same of them, so
//! that a list of members can be changed by hand.

use std::net::IpAddr;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use super::{
    Fleet, FleetError, MacAddress, Member, MemberName, MemberState, Members, Owners, partition,
};
use crate::plan::Partition;

/// The version of this form. A reader refuses a higher one.
const SCHEMA: u32 = 1;

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct FleetForm {
    #[serde(default = "schema")]
    schema: u32,
    #[serde(default = "slots")]
    slots: u32,
    #[serde(default = "seed")]
    seed: u32,
    #[serde(default = "kept")]
    kept: usize,
    members: Vec<MemberForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owners: Vec<RunForm>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    name: MemberName,
    addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddress>,
    #[serde(default = "weight")]
    weight: u16,
    #[serde(default)]
    state: MemberState,
}

/// Slots that follow each other and have the same owner and former owners.
#[derive(PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RunForm {
    slots: u32,
    owner: MemberName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<MemberName>,
}

const fn schema() -> u32 {
    SCHEMA
}

const fn slots() -> u32 {
    Partition::DEFAULT_SLOTS
}

const fn seed() -> u32 {
    Fleet::DEFAULT_SEED
}

const fn kept() -> usize {
    Fleet::DEFAULT_KEPT
}

const fn weight() -> u16 {
    1
}

impl Serialize for Fleet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        FleetForm::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fleet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        FleetForm::deserialize(deserializer)?.read().map_err(D::Error::custom)
    }
}

impl From<&Fleet> for FleetForm {
    fn from(fleet: &Fleet) -> Self {
        let Partition::Hash { slots, seed, .. } = fleet.partition else {
            unreachable!("the partition of a fleet is by hash");
        };
        let members = fleet.members.iter().map(|member| MemberForm {
            name: member.name().clone(),
            addresses: member.addresses().collect(),
            mac: member.mac(),
            weight: member.weight(),
            state: member.state(),
        });
        let (members, owners) = (members.collect(), runs(&fleet.owners));
        Self { schema: SCHEMA, slots, seed, kept: fleet.kept, members, owners }
    }
}

fn runs(owners: &Owners) -> Vec<RunForm> {
    let mut runs: Vec<RunForm> = vec![];
    for (owner, former) in owners.iter() {
        match runs.last_mut() {
            Some(run) if run.owner == *owner && run.former.iter().eq(former.iter().copied()) => {
                run.slots += 1;
            }
            _ => runs.push(RunForm {
                slots: 1,
                owner: owner.clone(),
                former: former.into_iter().cloned().collect(),
            }),
        }
    }
    runs
}

impl FleetForm {
    fn read(self) -> Result<Fleet, FleetError> {
        if self.schema != SCHEMA {
            return Err(FleetError::Schema { schema: self.schema });
        }
        let members =
            self.members.into_iter().map(MemberForm::read).collect::<Result<Vec<_>, _>>()?;
        let members = Members::new(members)?;
        if self.owners.is_empty() {
            return Fleet::seeded(self.slots, self.seed, self.kept, members);
        }
        // Summed up before anything is made of them: a number in a file is no reason for a large table.
        let owned: u64 = self.owners.iter().map(|run| u64::from(run.slots)).sum();
        if owned != u64::from(self.slots) {
            let reason = format!("they own {owned} slots of {}", self.slots);
            return Err(FleetError::Owners { reason });
        }
        let runs = self.owners.iter();
        let slots = runs.flat_map(|run| (0..run.slots).map(|_| (&run.owner, &*run.former)));
        Fleet::with_owners(self.slots, self.seed, self.kept, members, slots)
    }
}

impl Fleet {
    /// A fleet with the owner and the former owners of each slot, in order, as they were written down. Where they
    /// do not fit the members they are those of before a change.
    ///
    /// # Errors
    /// As [`Self::seeded`]; [`FleetError::Owners`] unless there are as many as slots.
    pub(crate) fn with_owners<'a>(
        slots: u32,
        seed: u32,
        kept: usize,
        members: Members,
        owners: impl Iterator<Item = (&'a MemberName, &'a [MemberName])> + Clone,
    ) -> Result<Self, FleetError> {
        let partition = partition(slots, seed, kept)?;
        let owners = Owners::from_names(owners)?;
        if u32::try_from(owners.slots()).ok() != Some(slots) {
            let reason = format!("they own {} slots of {slots}", owners.slots());
            return Err(FleetError::Owners { reason });
        }
        let owners = owners.after(&members, kept)?;
        Ok(Self { partition, kept, members, owners })
    }
}

impl MemberForm {
    fn read(self) -> Result<Member, FleetError> {
        let member = Member::new(self.name, self.addresses)?;
        Ok(member.with_mac(self.mac).with_weight(self.weight).with_state(self.state))
    }
}
