//! The older system's protocol, which workers speak: its messages, and the master's side of a
//! connection. Pure.

mod connection;
mod message;

pub use connection::{CloseReason, Peer, PeerAction, PeerEvent, PeerLimits, UNREAD_LIMIT};
pub(super) use message::is_worker_line;
pub use message::{FromWorker, ToWorker, WorkerInfo, WorkerOrder, worker_ports};
