//! The older system's protocol, which workers speak: its messages, and the master's side of a
//! connection. Pure.

mod connection;
mod message;

pub(super) use connection::Budget;
pub use connection::{
    LINE_INTERVAL, LINES_AT_ONCE, Peer, PeerEffect, PeerEnd, PeerLimits, PeerNews, UNREAD_LIMIT,
};
pub(super) use message::is_worker_line;
pub use message::{FromWorker, ToWorker, WorkerFacts, WorkerOrder, worker_ports};
