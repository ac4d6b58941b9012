//! Netlink sockets as neli has them, which gives their descriptors as bare numbers alone.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use neli::socket::NlSocket;
use nix::errno::Errno;

/// The descriptor of a netlink socket of neli, which gives it as a bare number alone.
pub(crate) fn descriptor_of(socket: &NlSocket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the `NlSocket` that owns it, and the lifetime
    // of the result is that of the borrow of the socket.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// The netlink socket behind a descriptor, of which the caller has made sure that it is one.
pub(crate) fn netlink_socket(descriptor: OwnedFd) -> NlSocket {
    // SAFETY: the descriptor is open and belongs to the caller, who gives it away: the `NlSocket`
    // becomes its only owner, and closes it.
    unsafe { NlSocket::from_raw_fd(descriptor.into_raw_fd()) }
}

/// The network namespace of a socket (`SIOCGSKNS`, since Linux 4.10): needs `CAP_NET_ADMIN` there.
pub(crate) fn network_namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// include/uapi/linux/sockios.h
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    // SAFETY: the request takes no argument and touches no memory of ours; the descriptor is open
    // for the length of the call (it is borrowed).
    let namespace = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS as _) };
    let namespace = Errno::result(namespace)?;
    // SAFETY: the call succeeded, so this is a new descriptor (made O_CLOEXEC), which nothing else
    // knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
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
