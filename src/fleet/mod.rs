//! Who is in a fleet, as one of its hosts comes to know it from a store that all share. Pure.
//!
//! # How it works
//!
//! A [`Membership`] is told what happens ([`Input`]) and at what time, and answers what is to be done
//! ([`Action`]). It knows no etcd and reads no clock; the room `membership` does both.
//!
//! ```text
//!   /ipcluster/FLEET/members/a   {"addresses": ["10.0.0.1"], "state": "serving", ...}   under a lease of a's
//!   /ipcluster/FLEET/members/b   {"addresses": ["10.0.0.2"], "state": "joining", ...}   under a lease of b's
//!   /ipcluster/FLEET/fleet       the whole fleet: members, slots, owners, former owners
//! ```
//!
//! What a host puts in force is what stands under `fleet`, and nothing else: hosts that have seen the same
//! revision of it have the same fleet, byte for byte. Whoever sees that the members' own keys say something else
//! makes the next fleet from the one that stands there (`plan::fleet`), and writes it if nobody else has written
//! meanwhile (compare and swap). Nobody is chosen to do that: the first in the list begins at once, the next ones
//! a little later, so that usually one does it and no host that fails is missed. Events come in the order of
//! their revisions, and a host writes over a fleet only that it has seen; so the list in a later fleet is never
//! older than in an earlier one.
//!
//! # States
//!
//! | state | |
//! |---|---|
//! | joining | The others let its packets pass. It owns nothing until its workers are ready |
//! | serving | It owns its share |
//! | draining | It owns nothing. Connections that it has are passed to it by the new owners. It leaves when they have ended |
//! | lost | Its lease has ended: it owns nothing. It may be cut off from the store alone, so connections are passed to it still, for [`Timing::lost_for`] |
//! | gone | Its key is gone and the fleet does not name it |
//!
//! # When the store is away
//!
//! Every host goes on with the fleet that it has, says so ([`Health`]), and changes nothing. When the store is
//! back, whoever's key is missing there has the time of a lease to put it back before it counts as lost; so no
//! fleet gets smaller because the store was away, or lost its data. A host whose lease has ended meanwhile takes
//! a new one and publishes itself again.
//!
//! # When the store has lost the fleet
//!
//! Somebody has deleted its key, or the store its data: what is in force stays so, and is written again. Hosts may
//! know different fleets then, since one that was cut off has missed the last. Each fleet has a version, one more
//! than that of the fleet which it was made from. Who has seen the deletion by a watch knows the last one and writes
//! at once. Who has not says under its own key which version it knows, waits for half the time of a lease so that
//! others can say it too, and leaves it to them for as long as one has a key that knows a later version. So an older
//! fleet is written only where nobody who knows a later one reaches the store: nobody else can know of it then.
//!
//! Time is that of the monotonic clock of one host, and only for how long to wait: no two hosts' clocks are
//! compared, and the wall clock is read nowhere.

mod action;
mod connection;
mod health;
mod input;
mod list;
mod membership;
mod settings;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use action::Action;
pub(crate) use health::{Health, OwnState, SourceState, Trouble};
pub(crate) use input::{
    Change, Input, Instance, Key, Lease, LocalState, Published, Revision, Stored,
};
pub(crate) use membership::Membership;
pub(crate) use settings::{Settings, Shape, Timing};
pub(crate) use value::{
    OwnWords, fleet_from_value, fleet_to_value, member_from_value, member_to_value,
};
