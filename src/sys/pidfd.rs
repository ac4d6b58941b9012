//! System calls on pidfds that neither nix nor rustix has.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
/// Signals one process, by `pidfd_send_signal(2)`: a real-time signal too.
pub(crate) fn signal_process(process: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    send_signal(process, signal, 0)
}

/// Signals the process group that this process leads, by `pidfd_send_signal(2)` with
/// `PIDFD_SIGNAL_PROCESS_GROUP` (since Linux 6.9; `EINVAL` before). Signal 0 only says whether anyone
/// is in it (`ESRCH`: nobody).
pub(crate) fn signal_group(leader: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    send_signal(leader, signal, PIDFD_SIGNAL_PROCESS_GROUP)
}

fn send_signal(process: BorrowedFd<'_>, signal: i32, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for the length of the call (it is borrowed); the siginfo
    // pointer may be null, which has the kernel fill one in.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Signals the process group with this number, by kill(2): for kernels before Linux 6.9, where the number
/// is known to be right. `group` is above 1: the others have other meanings.
pub(crate) fn signal_group_number(group: i32, signal: i32) -> Result<(), Errno> {
    if group <= 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the call takes two numbers and touches no memory.
    let result = unsafe { libc::kill(-group, signal) };
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
