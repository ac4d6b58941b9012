//! Which host of a fleet serves which client: several hosts, one service. Pure.
//!
//! The hosts of a *fleet* serve the same listeners. A client's address falls into a slot of the fleet's own
//! [`Partition`], and every slot has an *owner*: the [`Member`] whose workers serve it.
//!
//! ```text
//! 10.8.1.7 --partition--> slot 613 --owners--> member "b", before it "a"
//! ```
//!
//! [`Owners`] are a function of the list of members and of the owners before: the same bytes on every host that
//! has the same two, whatever the order in which the members are listed. Each serving member owns its share of
//! the slots to less than one slot; none owns a slot while it joins, drains, is lost, or has no weight. No slot moves that
//! need not.
//!
//! Connections outlive a change of the owners. So each slot remembers its *former owners*, the latest first: a
//! packet of a connection that the owner does not know is theirs. A member that is gone is no former owner.
//!
//! ```
//! use ipcluster::plan::fleet::{Fleet, Member, Members};
//!
//! let member = |name: &str, address: &str| -> Result<Member, Box<dyn std::error::Error>> {
//!     Ok(Member::new(name.parse()?, [address.parse()?])?)
//! };
//! let two = Members::new([member("a", "10.0.0.1")?, member("b", "10.0.0.2")?])?;
//! let three = Members::new(two.iter().cloned().chain([member("c", "10.0.0.3")?]))?;
//! let before = Fleet::new(1024, two)?;
//! let after = before.with_members(three)?;
//! assert_eq!(after.owners().moved_from(before.owners()), 341, "only what c is to have");
//! let client = "10.8.1.7".parse()?;
//! let (old, new) = (before.route(client), after.route(client));
//! assert!(old.owner == new.owner || new.former == [old.owner]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod device;
mod error;
#[cfg(feature = "serde")]
mod json;
mod member;
mod owners;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use device::DeviceName;
pub use error::FleetError;
pub use member::{MacAddress, Member, MemberName, MemberState, Members};
pub use owners::Owners;

use super::{Partition, Slot};

/// The members of a fleet and what each owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    partition: Partition,
    kept: usize,
    members: Members,
    owners: Owners,
}

/// The way of one client's packets through a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetRoute<'a> {
    /// The slot of the client's address, in the partition of the fleet.
    pub slot: Slot,
    /// Serves the client's new connections.
    pub owner: &'a MemberName,
    /// Where connections of the client may still live, the latest owner first.
    pub former: Vec<&'a MemberName>,
}

impl Fleet {
    /// The seed of the partition of a fleet that does not choose one. Not that of the partition of one host:
    /// with the same one the clients of a host would be alike, and most of its workers would have none.
    pub const DEFAULT_SEED: u32 = 0xf1ee_7b1c;

    /// The former owners that a slot remembers unless told otherwise.
    pub const DEFAULT_KEPT: usize = 2;

    /// The most former owners that a slot can remember.
    pub const MAX_KEPT: usize = 4;

    /// A fleet that begins: no slot has a former owner.
    ///
    /// # Errors
    /// [`FleetError::Slots`] unless `slots` is 1 to [`Partition::MAX_SLOTS`]; [`FleetError::NobodyServes`];
    /// [`FleetError::FewerSlotsThanMembers`] if there are more members that serve than slots.
    pub fn new(slots: u32, members: Members) -> Result<Self, FleetError> {
        Self::seeded(slots, Self::DEFAULT_SEED, Self::DEFAULT_KEPT, members)
    }

    /// The same with a seed of the caller's and `kept` former owners a slot.
    ///
    /// # Errors
    /// As [`Self::new`]; [`FleetError::Kept`] if `kept` is above [`Self::MAX_KEPT`]; [`FleetError::Seed`] if it is
    /// the seed that a partition of one host has unless told otherwise.
    pub fn seeded(
        slots: u32,
        seed: u32,
        kept: usize,
        members: Members,
    ) -> Result<Self, FleetError> {
        let partition = partition(slots, seed, kept)?;
        let owners = Owners::first(slots, &members)?;
        Ok(Self { partition, kept, members, owners })
    }

    /// The fleet after a change of its members.
    ///
    /// # Errors
    /// [`FleetError::NobodyServes`] and [`FleetError::FewerSlotsThanMembers`]: then the fleet stays as it was, as
    /// its hosts do.
    pub fn with_members(&self, members: Members) -> Result<Self, FleetError> {
        let owners = self.owners.after(&members, self.kept)?;
        Ok(Self { members, owners, ..self.clone() })
    }

    /// The members, by name.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Who owns what.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// How clients fall into slots.
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The most former owners that a slot remembers.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// The way of a client's packets.
    pub fn route(&self, client: IpAddr) -> FleetRoute<'_> {
        let slot = self.partition.slot_of(client);
        FleetRoute {
            slot,
            owner: self.owners.owner(slot),
            former: self.owners.former(slot).collect(),
        }
    }
}

fn partition(slots: u32, seed: u32, kept: usize) -> Result<Partition, FleetError> {
    if kept > Fleet::MAX_KEPT {
        return Err(FleetError::Kept { kept });
    }
    if seed == Partition::DEFAULT_SEED {
        return Err(FleetError::Seed { seed });
    }
    Partition::hash_seeded(slots, seed).map_err(|_| FleetError::Slots { slots })
}
