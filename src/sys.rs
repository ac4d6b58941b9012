//! The one file in which `unsafe` stands: what the safe wrappers of the system lack.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use neli::socket::NlSocket;

/// The descriptor of a netlink socket of neli, which gives it as a bare number alone.
pub(crate) fn descriptor_of(socket: &NlSocket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the `NlSocket` that owns it, and the lifetime
    // of the result is that of the borrow of the socket.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// Sets `NETLINK_CAP_ACK` (since Linux 4.3): error replies carry the header of the message at
/// fault, not all of it.
pub(crate) fn set_capped_acknowledgements(socket: &NlSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only
    // reads it. The descriptor is open (it is borrowed from its owner).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_CAP_ACK,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).expect("4"),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
