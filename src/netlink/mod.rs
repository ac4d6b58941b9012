//! Netlink itself: sockets, message framing, acknowledgements, dumps. What every netlink family
//! shares; what the messages say belongs to the rooms that send them.

pub(crate) mod attribute;
mod errno;
mod frame;
mod socket;

use std::fmt;
use std::io;

pub(crate) use attribute::Attributes;
pub use errno::Errno;
#[cfg(any(test, feature = "internals"))]
pub(crate) use frame::Message;
pub(crate) use frame::{ACK, Acknowledgement, ERROR, Messages, REQUEST};
pub(crate) use neli::consts::socket::NlFamily;
pub(crate) use socket::{Socket, close_message, put_header};

pub(crate) use crate::sys::{Drained, drain};

/// Why a netlink request has failed, below the level of what it asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// A system call on the socket failed.
    #[error("netlink: {operation}: {source}")]
    Socket {
        /// What was tried.
        operation: SocketOperation,
        /// The errno.
        source: io::Error,
    },
    /// The datagram is longer than the send buffer can be made. Nothing was sent.
    #[error(
        "netlink: a transaction of {length} bytes, but the send buffer takes {limit}: raise net.core.wmem_max"
    )]
    TooLong {
        /// Bytes to send.
        length: usize,
        /// Bytes that fit.
        limit: usize,
    },
    /// The kernel refused the request.
    #[error("the kernel refused the request: {errno}")]
    Refused {
        /// Why.
        errno: Errno,
    },
    /// Replies were lost (`ENOBUFS`, or none came): says nothing of the outcome.
    #[error("netlink: replies of the kernel were lost")]
    RepliesLost,
    /// Something changed during each attempt at a dump.
    #[error("netlink: the objects changed during each of {attempts} attempts to list them")]
    DumpInterrupted {
        /// How often it was tried.
        attempts: u32,
    },
    /// A descriptor that was handed over is not that of a socket that could be used.
    #[error("netlink: the descriptor is that of {what}")]
    NotThatSocket {
        /// What it is instead.
        what: &'static str,
    },
    /// A reply that does not have the form that it must have.
    #[error("netlink: malformed {what}")]
    Malformed {
        /// The part at fault.
        what: &'static str,
    },
}

impl NetlinkError {
    /// The errno at the bottom, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Refused { errno } => Some(*errno),
            _ => None,
        }
    }
}

/// A system call on a netlink socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketOperation {
    /// `socket(2)`, `bind(2)` or `connect(2)`.
    Open,
    /// `setsockopt(2)` of extended or capped acknowledgements.
    SetOption,
    /// `getsockopt(2)`, `getsockname(2)` or `ioctl(2)` that ask what a socket is.
    Inspect,
    /// `setsockopt(2)` of a buffer size, with the option's name.
    SetBuffer(&'static str),
    /// `send(2)`.
    Send,
    /// `recvfrom(2)`.
    Receive,
}

impl fmt::Display for SocketOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("cannot open a socket"),
            Self::SetOption => f.write_str("cannot turn on extended acknowledgements"),
            Self::Inspect => f.write_str("cannot see what a socket is"),
            Self::SetBuffer(option) => write!(f, "cannot set {option}"),
            Self::Send => f.write_str("cannot send"),
            Self::Receive => f.write_str("cannot receive"),
        }
    }
}
