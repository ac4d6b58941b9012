//! This host as a member of a fleet: the list of members, the rules that pass packets on, and the neighbours that
//! they go to.
//!
//! All of it is done by a thread of its own (`thread.rs`), since rules of 65,536 slots take longer than the loop may
//! wait. The loop tells it what the cluster does, and hears how the fleet is.
//!
//! | waits for | what follows |
//! |---|---|
//! | the list of members (`membership`) | rules, neighbours |
//! | the device, neighbours on it (rtnetlink) | rules, where the MAC address of a member is another; what was removed is put back |
//! | a commit of somebody else | if it touched the tables of the fleet they are compared, and made right |
//! | what the cluster does | whether this host serves; rules, where listeners or engine are others |
//!
//! # Order
//!
//! The rules of the cluster and those of the fleet change in transactions of their own. Nothing is lost in either
//! order, since neither leads to the other: a packet for another member is passed on before it comes to the rules of
//! this host, and one that stays meets those as if there were no fleet. A listener that goes is left to the fleet
//! for as long as retired workers finish its connections here.

mod handle;
mod link;
mod report;
mod rules;
mod source;
mod thread;

pub(super) use handle::{FleetNews, FleetThread};
