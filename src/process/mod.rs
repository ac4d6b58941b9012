//! Processes and what belongs to them: starting, watching and ending them, what they print, which
//! sockets they listen on.
//!
//! # How it works
//!
//! [`Spawn`] starts a program as the leader of a session and process group of its own. What comes
//! of it is a [`Child`], which holds a pidfd: [`Child::exited`] says that it has ended, and signals
//! go to it or to its group, never to a bare number. A worker may be a tree of processes, so the
//! zombie of its leader, and with it the group's number, is kept until [`Remnants`] finds no
//! more of them, in whatever group or session; [`Child::reap`] then ends the right to signal, which the types enforce.
//!
//! A worker has no capability, and gets none. It runs as an [`Account`], or as the user of this
//! process; what the kernel lets only that user see of it, this process looks at in its name.
//! [`keep_only_capabilities`] is for a program that is to have no more privilege than it needs.
//!
//! What a worker prints goes to an [`Output`], a file in memory rather than a pipe, so that it
//! keeps on serving when the master ends, and when nobody reads.
//!
//! A [`Leader`] is a process that was there before: what it says of itself may prove that it is a
//! worker of an earlier master, and then it is adopted as a [`Child`].
//!
//! [`Sockets`] asks the kernel which TCP sockets listen and how many connections ports have. A
//! [`ListenTable`] of one moment says on which of its ports a worker's own processes listen, and by
//! which sockets. An [`AcceptLooker`] says whether they accept from sockets that they were started with.
//!
//! [`MemoryWatch`] tells how much memory workers take, each with the processes that it has started.
//!
//! What workers say of themselves comes through a [`NotifySocket`].
//!
//! A [`HeldSocket`] is a listening socket that a master opens and keeps, and that workers are
//! [started with](Spawn::start_with): as long as the master has it, no connection that waits in its
//! queue is lost with the worker. [`passed_sockets`] is the worker's side.
//!
//! [`peer_process`] says who is at the other end of a Unix socket, and [`session_of`] to which worker
//! that process belongs.
//!
//! [`send_descriptors`] and [`receive_descriptors`] pass open files on to another process.
//!
//! This room stands on `netlink` alone: it knows no cluster, seat or generation.

mod accepting;
mod account;
mod capabilities;
mod child;
mod children;
mod credentials;
mod descriptors;
mod env_file;
mod error;
mod exits;
mod fd_passing;
#[cfg(feature = "internals")]
pub(crate) mod fuzzing;
mod identity;
mod impersonation;
mod leader;
mod limits;
mod lines;
mod listening;
mod log_file;
mod memory;
mod notify;
mod origin;
mod output;
mod own_connections;
mod peer_pidfd;
mod pidfd;
mod port_claim;
mod port_pool;
mod port_reservations;
mod processor;
mod program;
mod service_manager;
mod signal;
mod silence;
mod socket_activation;
mod socket_owner;
mod sockets;
mod spawn;
mod stat;
mod stock_tool;
mod stream;
mod terminal;
mod timer;
mod trace;

pub(crate) use accepting::{AcceptLooker, AcceptState};
pub(crate) use account::{Account, group_number};
pub use capabilities::{Capabilities, keep_only_capabilities};
pub(crate) use child::{Child, Unreaped};
pub(crate) use children::Children;
pub(crate) use credentials::{effective_uid, has_cap_net_admin};
pub(crate) use env_file::parse_env_file;
pub use error::{AccountFault, ProcessError, ProcessOperation};
pub(crate) use exits::Exits;
pub use fd_passing::{receive_descriptors, send_descriptors};
pub(crate) use identity::ProcessIdentity;
pub(crate) use impersonation::{with_group, with_ids};
pub(crate) use leader::{Leader, PortHolders};
pub(crate) use limits::{LimitedResource, ResourceLimit, allow_nice, own_nice};
pub use limits::{allow_nice_back, raise_descriptor_limit};
pub(crate) use lines::{coloured, plain};
pub(crate) use listening::somaxconn;
pub use listening::{Endpoint, HeldSocket, passed_sockets};
pub(crate) use log_file::{last_lines_of, open_log};
pub use memory::MemoryWatch;
pub(crate) use memory::{Bytes, Size};
pub(crate) use notify::{NotifyMessage, NotifySocket, Received};
pub(crate) use origin::{Below, ProcessOrigin, Restrictions};
pub(crate) use output::{Output, OutputItem, OutputReader};
pub(crate) use own_connections::{OwnConnection, OwnConnections};
pub(crate) use peer_pidfd::{peer_process, session_of};
pub(crate) use pidfd::{Delivery, Exit, PidFd};
pub(crate) use port_claim::{PortClaim, PortOwner, PortTaken};
pub(crate) use port_pool::PortPool;
pub(crate) use port_reservations::PortReservations;
pub(crate) use processor::ProcessorWatch;
pub(crate) use program::{FileId, Located, Program, ProgramFault};
pub use service_manager::ServiceManager;
pub(crate) use signal::SignalNumber;
pub(crate) use silence::Silence;
pub(crate) use socket_activation::PassedSocket;
pub use socket_owner::Transport;
pub(crate) use socket_owner::{ListenTable, SocketOwners};
pub(crate) use sockets::{AcceptQueue, ListenSocket, PeerConnection};
pub use sockets::{Connection, ConnectionState, Connections, Sockets};
pub(crate) use spawn::{Announcement, Spawn};
pub(crate) use stat::{is_shown, is_stopped};
pub(crate) use stock_tool::run_stock_tool;
pub(crate) use stream::{FIRST_PAUSE, LONGEST_PAUSE, is_journal, is_same_file, write_all};
pub(crate) use terminal::Terminal;
pub(crate) use timer::Timer;
pub use trace::adopt_orphans;
pub(crate) use trace::{
    Marked, Remaining, Remnants, Trace, adopts_orphans, own_ancestors, own_session, reap_orphans,
    users_of_processes,
};

#[cfg(test)]
mod tests;
