//! The master's side of a connection in the older system's protocol, which workers speak. Pure. Its
//! messages are in [`crate::line_protocol`].

mod connection;

pub use connection::{Peer, PeerAction, PeerLimits};
pub(crate) use connection::{PeerEvent, Told, UNREAD_LIMIT};
