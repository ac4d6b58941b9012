//! Processes and what belongs to them: starting, watching and ending them, what they print, which
//! sockets they listen on.
//!
//! # How it works
//!
//! [`Spawn`] starts a program as the leader of a session and process group of its own. What comes
//! of it is a [`Child`], which holds a pidfd: [`Child::exited`] says that it has ended, and signals
//! go to it or to its group, never to a bare number. A worker may be a tree of processes, so the
//! zombie of its leader, and with it the group's number, is kept until [`Child::others`] finds no
//! more of them; [`Child::reap`] then ends the right to signal, which the types enforce.
//!
//! What a worker prints goes to an [`Output`], a file in memory rather than a pipe, so that it
//! keeps on serving when the master ends.
//!
//! A [`Leader`] is a process that was there before: what it says of itself may prove that it is a
//! worker of an earlier master, and then it is adopted as a [`Child`].
//!
//! [`Sockets`] asks the kernel which TCP sockets listen and how many connections ports have. A
//! [`ListenTable`] of one moment says on which of its ports a worker's own processes listen, and
//! who reaches them there.
//!
//! [`send_descriptors`] and [`receive_descriptors`] pass open files on to another process.
//!
//! This room stands on `netlink` alone: it knows no cluster, seat or generation.

mod child;
mod credentials;
mod error;
mod handover;
mod identity;
mod leader;
mod lines;
mod output;
mod owner;
mod pidfd;
mod ports;
mod sockets;
mod spawn;
mod stat;

pub use child::{Child, Unreaped};
pub use credentials::{effective_uid, has_cap_net_admin};
pub use error::{Operation, ProcessError};
pub use handover::{MAX_DESCRIPTORS, receive_descriptors, send_descriptors};
pub use identity::{BootId, InvalidBootId, ProcessId};
pub use leader::{Leader, PortHolders};
pub use output::{Output, OutputReader, Printed};
pub use owner::{ListenTable, Reach, Transport};
pub use pidfd::{Delivery, Exit, PidFd};
pub use ports::PortPool;
pub use sockets::{Connections, ListenSocket, Sockets};
pub use spawn::Spawn;

#[cfg(test)]
mod tests;
