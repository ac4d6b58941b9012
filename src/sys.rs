//! The one file in which `unsafe` stands: what runs between fork and exec, system calls and socket
//! options that neither nix, rustix nor neli has, and promises to their types.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use neli::socket::NlSocket;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The steps of a new process before it becomes the program. Each is reported to the parent when
/// it begins, so that the parent knows which one failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not begun: there is no new process, or it never came to our code.
    Fork,
    NewSession,
    ResetSignals,
    Directory,
    Exec,
}

impl Step {
    const ALL: [Self; 5] =
        [Self::Fork, Self::NewSession, Self::ResetSignals, Self::Directory, Self::Exec];

    /// The step that the child has reached. `progress` is the eventfd given to [`prepare_child`].
    pub(crate) fn reached(progress: &OwnedFd) -> Self {
        let mut count = [0; 8];
        // A nonblocking eventfd that nothing was added to is not readable: count stays 0.
        let _ = rustix::io::read(progress, &mut count);
        let count = u64::from_ne_bytes(count);
        Self::ALL
            .iter()
            .copied()
            .take_while(|step| *step as u64 <= count)
            .last()
            .unwrap_or(Self::Fork)
    }
}

/// Has the child of `command` start in a session of its own, with default signal dispositions, an
/// empty signal mask, no descriptor but 0 to 2 kept over exec, and in `directory` if given.
pub(crate) fn prepare_child(
    command: &mut Command,
    directory: Option<CString>,
    progress: Arc<OwnedFd>,
) {
    let hook = move || {
        begin_step(progress.as_fd())?;
        nix::unistd::setsid()?;
        begin_step(progress.as_fd())?;
        reset_signals()?;
        keep_standard_descriptors_only();
        begin_step(progress.as_fd())?;
        if let Some(directory) = &directory {
            nix::unistd::chdir(directory.as_c_str())?;
        }
        begin_step(progress.as_fd())
    };
    // SAFETY: between fork and exec of a process with threads, only async-signal-safe functions
    // may run, and no lock of another thread may be waited for. The hook makes bare system calls
    // (write, setsid, rt_sigaction, rt_sigprocmask, close_range, chdir), through wrappers that
    // neither allocate nor lock: the directory is a C string already, the errors are made from
    // an errno, which takes no memory. What it captures was allocated before the fork, and is
    // only read.
    unsafe { command.pre_exec(hook) };
}

fn begin_step(progress: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::write(progress, &1u64.to_ne_bytes())?;
    Ok(())
}

/// Sets every signal to its default and unblocks all. Ignored signals stay ignored over exec, and
/// so does the mask: a worker would inherit what the master's starter chose.
fn reset_signals() -> io::Result<()> {
    const SIGNALS: libc::c_int = 64;
    const SIGNAL_SET_LEN: usize = 8;
    // `struct sigaction` of the kernel, whose handler `SIG_DFL`, no flags and an empty mask are
    // all zero: 32 bytes where it is longest. The C library's own functions leave out the signals
    // that it keeps to itself (32 and 33), which a starter can have ignored all the same.
    let default = [0u64; 8];
    for signal in (1..=SIGNALS).filter(|s| !matches!(*s, libc::SIGKILL | libc::SIGSTOP)) {
        // SAFETY: the kernel reads a `struct sigaction` from `default`, which is at least as long
        // and outlives the call, and writes nothing, since the pointer to the old one is null. The
        // new disposition is the default, so no code of ours is called by it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGNAL_SET_LEN,
            )
        };
        Errno::result(result)?;
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Marks every descriptor from 3 on to be closed by exec (`close_range(2)`, the flag since Linux
/// 5.11). Ours are so from their creation; this is for those of an embedding program. Older
/// kernels lack it, which is no reason not to start.
fn keep_standard_descriptors_only() {
    // SAFETY: the call takes three numbers and touches no memory. It closes nothing now: it sets a
    // flag in the descriptor table, which after fork is this process's own.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Signals the process group that this process leads, by `pidfd_send_signal(2)` with
/// `PIDFD_SIGNAL_PROCESS_GROUP` (since Linux 6.9; `EINVAL` before). Without a signal it only says
/// whether anyone is in it (`ESRCH`: nobody).
pub(crate) fn signal_group(leader: BorrowedFd<'_>, signal: Option<Signal>) -> Result<(), Errno> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    // SAFETY: the descriptor is open for the length of the call (it is borrowed); the siginfo
    // pointer may be null, which has the kernel fill one in.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            leader.as_raw_fd(),
            signal.map_or(0, |signal| signal as libc::c_int),
            std::ptr::null::<libc::siginfo_t>(),
            PIDFD_SIGNAL_PROCESS_GROUP,
        )
    };
    Errno::result(result).map(drop)
}

/// The wait status of a process that has ended and was waited for, whosever child it was
/// (`PIDFD_GET_INFO`, since Linux 6.13, with `PIDFD_INFO_EXIT`, since 6.15); `None` if the kernel
/// does not tell.
pub(crate) fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    /// `struct pidfd_info` of include/uapi/linux/pidfd.h, in its first published size of 64 bytes:
    /// a mask, then eight bytes of control group, then twelve numbers of which the last is the
    /// status.
    const WORDS: usize = 16;
    const EXIT_STATUS: usize = 15;
    const PIDFD_INFO_EXIT: u32 = 1 << 3;
    /// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
    const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
    #[repr(align(8))]
    struct Info([u32; WORDS]);
    let mut info = Info([0; WORDS]);
    // The mask is 64 bits wide; its low half is where the byte order has it.
    let low = usize::from(cfg!(target_endian = "big"));
    info.0[low] = PIDFD_INFO_EXIT;
    // SAFETY: the kernel reads and writes a structure of the size that the request's number states,
    // 64 bytes, which `info` is, aligned to 8, and which outlives the call. The descriptor is open for
    // the length of the call (it is borrowed).
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    Errno::result(result).ok()?;
    (info.0[low] & PIDFD_INFO_EXIT != 0).then(|| info.0[EXIT_STATUS].cast_signed())
}

/// Has the tokio runtime of the caller wait for a descriptor to become readable, or to have an error
/// (a netlink socket that lost something, `EPOLLERR`).
pub(crate) fn watch_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, always has the same number, and is moved
    // into the `AsyncFd`, which drops it last. It gives no mutable access to it.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE | Interest::ERROR) }
        .map_err(Into::into)
}

/// Sets `SIGCHLD` to its default if it is ignored, which a program inherits from its starter: the
/// kernel would then throw away the exit status of children at once, and free their pids.
pub(crate) fn keep_exit_statuses() -> Result<(), Errno> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action given the call only writes the present one, to memory of its
    // size that is ours; it is read below only after success.
    let result = unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: sigaction succeeded, so it has written all of it.
    let action = unsafe { action.assume_init() };
    if action.sa_sigaction == libc::SIG_IGN {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the new disposition is the default, which calls no code of ours.
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    }
    Ok(())
}

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
