//! What on the host stands in the way of the cluster: found, and named with what to do about it. One way for
//! `run`, for the master while it runs, and for `check`:
//!
//! | step | does |
//! |---|---|
//! | [`HostFacts`] | reads interfaces, settings of the kernel, sockets: some hundred microseconds |
//! | [`ForeignRules::survey`](crate::nft::ForeignRules::survey) | reads the rules of others, and carries them out on the first packets of clients |
//! | [`findings`] | decides what of both is worth saying, how bad it is and what helps. Pure |
//!
//! A new kind of finding is a variant of [`FindingKind`](crate::protocol::FindingKind), a fact where it
//! needs one, and a function in `judge.rs`; a row in `docs/neighbours.md`.

mod facts;
mod interface_addresses;
mod judge;
mod lost_entries;

pub(crate) use facts::{HostFacts, Survey, Surveyed, TakenPort, owners_of_ports, survey};
pub(crate) use judge::{Accepted, conntrack_full, findings, nat_before, none_arrive};
pub(crate) use lost_entries::{LostEntries, lost_entries};
