//! Descriptors that tokio waits for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the tokio runtime of the caller wait for a descriptor to become readable, or to have an error
/// (a netlink socket that lost something, `EPOLLERR`).
pub(crate) fn watch_readable<T: SteadyFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `OwnedFd` is open until it, or the last `Arc` of it, is dropped, and always has
    // the same number. What holds it is moved into the `AsyncFd`, which drops it last and gives no
    // mutable access to it. `SteadyFd` admits nothing else.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE | Interest::ERROR) }
        .map_err(Into::into)
}

/// What stays open and keeps its number for as long as it is held.
pub(crate) trait SteadyFd: AsRawFd {}

impl SteadyFd for OwnedFd {}
impl SteadyFd for Arc<OwnedFd> {}
