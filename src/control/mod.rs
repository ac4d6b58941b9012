//! The control socket: what operators and workers say to a running master, and what it answers.
//!
//! # How it works
//!
//! A master of cluster `web` listens on `web.sock` in its runtime directory ([`ControlDir`]), and
//! holds a lock on `web.lock` beside it for as long as it lives: the lock, not the socket, says
//! whether a master runs. Both ways go lines of JSON, each at most [`MAX_LINE`] bytes:
//!
//! ```text
//! > {"v":1,"command":"reload"}
//! < {"progress":"generation 2: 3 of 4 workers are ready"}
//! < {"ok":{"reloaded":{"generation":2,"workers":4,"swap_seconds":0.000121}}}
//! > {"v":1,"command":"scale","workers":0}
//! < {"error":{"message":"scale: workers: expected a number from 1 to 1024","hint":null}}
//! ```
//!
//! | command | fields | answer under `ok` |
//! |---|---|---|
//! | `reload` | | `reloaded`: [`Reloaded`] |
//! | `reload` | `share`: percent as text, `"10%"` | `on_trial`: [`OnTrial`] |
//! | `promote` | | `reloaded`: [`Reloaded`] |
//! | `rollback` | | `rolled_back`: [`RolledBack`] |
//! | `restart` | | `restarted`: [`Restarted`] |
//! | `retire` | `seat`: 0 to 1023, or `pid` | `retired`: [`Retired`] |
//! | `clear-retired` | | `cleared`: [`Cleared`] |
//! | `status` | | `status`: [`Status`] |
//! | `scale` | `workers`: 1 to 1024 | `scaled`: [`Scaled`] |
//! | `reload`, `promote`, `scale` | also `no_wait`: true or false (the default) | the same, when it is in force and not when its probation is over |
//! | `stop` | `now`: true or false (the default) | `stopped`: [`Stopped`] |
//! | `configuration` | | `configuration`: settings (key, value, origin), changes (key, before, after, applies) and refused |
//! | `end_orphans` | | `orphans_ended`: [`OrphansEnded`] |
//! | `fleet_explain` | `address`: an IP address as text | `fleet_explained`: [`FleetExplanation`](crate::protocol::FleetExplanation) |
//! | `fleet_drain` | | `fleet_draining`: [`FleetStatus`](crate::protocol::FleetStatus), when it has begun |
//! | `fleet_join` | | `fleet_joining`: the same, when it has begun |
//! | `takeover` | `format`: 1 | none: the connection becomes that of a handover from one master to the next |
//! | `explain` | `address`: an IP address as text | `explained`: [`Explanation`] |
//! | `logs` | `lines`: how many of each seat; `seat`: 0 to 2047; `follow`: true or false (the default) | lines `{"lines":[...]}` ([`LogLine`]), then `logs`: [`LogsShown`] |
//! | `events` | | lines `{"event":{...}}` ([`EventRecord`]) until the master ends, then `events_over` |
//!
//! Each request is answered by any number of `progress` lines and then exactly one line `ok` or
//! `error`. A cluster can have more workers than a line can hold: lines `{"workers":[...]}` come
//! before the `ok` of a `status`, whose own list is then empty ([`Client`] puts them together).
//! A line that is no request is answered with an `error` that says why, and the next one is read; a
//! line that is too long ends the connection, as do five seconds without a complete line.
//!
//! A connection whose first line has a `__type` is a worker's: those speak the older system's protocol
//! (`legacy`), also over a socket of their own
//! ([`WorkersSocket`]).
//!
//! Who may command is what the kernel says of the peer (`SO_PEERCRED`, unix(7)): the user of the
//! master, and root. The directory is 0700 and the socket 0600, so that nobody else gets that far. With a
//! control group also its members, by their first or a further group (`SO_PEERGROUPS`): the directory is
//! 0750 and the socket 0660 then, both of that group.
//!
//! A worker is a process that the kernel says is one, whatever its messages say.
//!
//! # Nobody is held up by a peer
//!
//! The connections of each user and of each process are limited ([`ControlLimits`]); further ones are
//! answered with an error and closed. Lines that come faster than an operator or a worker would send them
//! wait in the peer's own socket. Descriptors that are sent along are closed by the kernel, since nothing
//! here asks for them.
//!
//! [`Request`], [`Reply`], [`LineDecoder`], [`FromWorker`], [`ToWorker`] and [`Peer`] are pure;
//! [`ControlServer`] and [`Client`] wait with tokio.

mod client;
mod directory;
mod error;
#[cfg(feature = "internals")]
pub(crate) mod fuzzing;
mod leftovers;
mod legacy;
mod message;
mod server;
mod start_note;
mod token_bucket;

pub(crate) use client::{Client, connect_to_master, the_only};
pub use directory::ControlDir;
pub(crate) use directory::Lock;
pub use error::ControlError;
pub use legacy::{Peer, PeerAction, PeerLimits};
pub(crate) use legacy::{PeerEvent, Told, UNREAD_LIMIT};
pub(crate) use message::Reply;
#[cfg(test)]
pub(crate) use server::ReplyReceiver;
pub(crate) use server::{
    AcceptGate, ControlLimits, ControlServer, JoinRequest, ReceivedRequest, Responder,
    SharedDescriptors, WorkerEvent, WorkerLink, WorkersSocket,
};
pub(crate) use start_note::{StartNote, StartNoteFile};
pub use token_bucket::{LINE_INTERVAL, LINES_AT_ONCE};

// Part of what is said over the socket.
pub use crate::line_protocol::{FromWorker, ToWorker, WorkerOrder};
pub(crate) use crate::line_protocol::{LineDecoder, MessageError, WorkerInfo, worker_ports};
