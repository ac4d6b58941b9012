//! Descriptors that this process was started with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A copy of a descriptor that this process was started with, closed on exec, as the original is from
/// now on.
pub(crate) fn inherited_descriptor(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call touches no memory; a number that is not open is an error (EBADF).
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new descriptor, which nothing else knows of. The
    // original stays whose it is.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
