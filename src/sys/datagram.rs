//! Datagrams with their senders.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Has the kernel tell who sent each datagram that a Unix socket receives: its credentials, and since
/// Linux 6.5 a pidfd of it.
pub(crate) fn ask_for_senders(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_socket_option(socket, libc::SO_PASSCRED)?;
    match set_socket_option(socket, libc::SO_PASSPIDFD) {
        Err(Errno::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

fn set_socket_option(socket: BorrowedFd<'_>, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only
    // reads it. The descriptor is open (it is borrowed).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).expect("4"),
        )
    };
    Errno::result(result).map(drop)
}

/// A datagram of a socket that [asks for senders](ask_for_senders).
pub(crate) struct Datagram {
    /// How many bytes of the buffer it takes.
    pub(crate) length: usize,
    /// It was longer than the buffer.
    pub(crate) is_cut: bool,
    /// Who sent it; 0 for a process that this pid namespace does not show.
    pub(crate) pid: u32,
    /// A pidfd of the sender, if the kernel gives one.
    pub(crate) pidfd: Option<OwnedFd>,
    /// What came along; closed on exec. Those beyond what there is room for, the kernel has closed.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// `SCM_PIDFD` (include/linux/socket.h, since Linux 6.5).
const SCM_PIDFD: libc::c_int = 4;

/// Receives a datagram from a non-blocking Unix socket, with its sender and the descriptors that came
/// along. It is for a socket whose senders are not trusted.
pub(crate) fn receive_datagram(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Datagram, Errno> {
    /// Room for the credentials, the pidfd and a few descriptors; aligned as `struct cmsghdr` is.
    #[repr(C, align(8))]
    struct Control([u8; 256]);
    let mut control = Control([0; 256]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `struct msghdr` is plain data, for which all zero is valid: no name, no flags.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let length = loop {
        // SAFETY: the header points at `vector`, which describes `buffer`, and at `control`, with
        // their true lengths; all outlive the call, and nothing else uses them meanwhile.
        let result =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            result => break usize::try_from(result?).unwrap_or(0),
        }
    };
    let mut datagram = Datagram {
        length,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        pid: 0,
        pidfd: None,
        descriptors: Vec::new(),
    };
    // SAFETY: the kernel has filled `control` with whole control messages and set `msg_controllen` to
    // what it used, which is what the CMSG macros go by; `header` and `control` are alive.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: `message` is one that the CMSG macros gave, so it points at a whole, aligned
        // `struct cmsghdr` in `control`.
        let (level, kind, total) =
            unsafe { ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len as usize) };
        // SAFETY: it only computes the length of a header.
        let length = total.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        // SAFETY: as above; the result points behind the header, at `length` bytes of data.
        let data = unsafe { libc::CMSG_DATA(message) };
        if level == libc::SOL_SOCKET {
            let count = length / size_of::<libc::c_int>();
            match kind {
                libc::SCM_CREDENTIALS if length >= size_of::<libc::ucred>() => {
                    // SAFETY: there are enough bytes, and any are a valid `struct ucred`.
                    let sender = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                    datagram.pid = u32::try_from(sender.pid).unwrap_or(0);
                }
                libc::SCM_RIGHTS | SCM_PIDFD => {
                    for index in 0..count {
                        // SAFETY: `index` is within the data, which is `count` descriptors.
                        let number =
                            unsafe { data.cast::<libc::c_int>().add(index).read_unaligned() };
                        // Of a sender that was reaped the kernel may tell an error in its place.
                        if number < 0 {
                            continue;
                        }
                        // SAFETY: the kernel has just made this descriptor for us, and nobody
                        // else in this process knows of it.
                        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                        match kind {
                            SCM_PIDFD => datagram.pidfd = Some(descriptor),
                            _ => datagram.descriptors.push(descriptor),
                        }
                    }
                }
                _ => {}
            }
        }
        // SAFETY: as for the first one.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    Ok(datagram)
}
