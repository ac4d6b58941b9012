//! The rules in the kernel, over netlink.
//!
//! # How it works
//!
//! A `Transaction` is encoded as one datagram (`Batch`), which the
//! kernel carries out whole or not at all. The end of it asks for an acknowledgement; its members do
//! not, so that 8,000 of them give one reply; errors come without asking, each with the sequence
//! number of the message at fault, which leads back to the operation, the chain, the map.
//!
//! The kernel works on a batch within `sendmsg(2)`: when it returns, all replies that there will be
//! are in the receive queue. If the acknowledgement is not among them (the queue was full, `ENOBUFS`),
//! nothing is known of the outcome, and the table is read back to see which it was.
//!
//! Since Linux 6.9 the table belongs to the socket of its [`Firewall`] ([`Ownership`](crate::plan::Ownership)): nobody else
//! can change it. It outlives the socket, and the next master takes it in the same batch as its first
//! change. Where the kernel cannot do that, or is not to, the table is everybody's, and a small second
//! one keeps established connections alive while somebody has flushed it.
//!
//! Reading back gives the same objects that lowering gives, in the same order: one comparison tells
//! whether the kernel holds the plan, and `raise` makes the plan from them
//! when a new master starts. Rules are recognized by every one of their expressions; a table is known
//! as ours by its comment, never by its name alone.

pub(crate) mod conntrack;
mod error;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fake;
mod firewall;
pub(crate) mod fleet;
pub(crate) mod foreign;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzzing;
mod other_tables;
#[cfg(test)]
mod tests;
mod watch;
pub(crate) mod wire;

pub use crate::netlink::{Errno, NetlinkError, SocketOperation};
pub(crate) use conntrack::{Conntrack, ConntrackError, ConntrackUsage, TcpEnds};
pub use error::{Fault, NftError, NotUnderstood};
#[cfg(test)]
pub(crate) use fake::{Disturbance, Fake, Injection};
pub use firewall::{Applied, Firewall, Protection};
pub(crate) use fleet::{FleetFirewall, FleetRulesError};
pub(crate) use foreign::{
    Certainty, FilterEffect, FilterHook, ForeignFilter, ForeignFound, ForeignNat, ForeignRules,
    Interface, LegacyDigests, TableFamily, TableOrigin, Traffic, UnreadLegacy,
};
pub(crate) use other_tables::{OtherTable, OtherTables};
pub use watch::{Commit, Watch, WatchEvent, WatchEvents, Writer};
