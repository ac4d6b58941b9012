//! The sockets among the descriptors of a process.

use std::fs;
use std::ops::ControlFlow;

use super::error::errno_of;
use crate::netlink::Errno;

/// What a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A socket with this inode.
    Socket(u32),
    /// An epoll instance.
    Epoll,
    /// Anything else.
    Other,
}

/// Calls `visit` with the number and the inode of each socket that a process has open, until that breaks
/// off; in the order of the numbers, in which the kernel lists them (`proc_readfd_common`,
/// fs/proc/fd.c). A server opens the sockets on which it listens before it has connections: who looks for
/// them reads the first descriptors of what may be a hundred thousand.
///
/// # Errors
/// Reading `/proc/PID/fd` fails with `ENOENT` or `ESRCH` if the process is gone, `EACCES` if it may not be inspected.
pub(super) fn each_socket(
    pid: u32,
    mut visit: impl FnMut(i32, u32) -> ControlFlow<()>,
) -> Result<(), Errno> {
    each_descriptor(pid, |number, target| match target {
        Target::Socket(inode) => visit(number, inode),
        Target::Epoll | Target::Other => ControlFlow::Continue(()),
    })
}

/// Calls `visit` with the number and the target of each descriptor of a process, as [`each_socket`] does.
///
/// # Errors
/// Those of [`each_socket`].
pub(super) fn each_descriptor(
    pid: u32,
    mut visit: impl FnMut(i32, Target) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let directory = format!("/proc/{pid}/fd");
    for entry in fs::read_dir(directory).map_err(|error| errno_of(&error))? {
        let entry = entry.map_err(|error| errno_of(&error))?;
        let target = match fs::read_link(entry.path()) {
            Ok(target) => target,
            // It was closed meanwhile.
            Err(error) if matches!(errno_of(&error), Errno::ENOENT | Errno::ESRCH) => continue,
            Err(error) => return Err(errno_of(&error)),
        };
        let number = entry.file_name().to_str().and_then(|number| number.parse().ok());
        if let Some(number) = number
            && visit(number, target.to_str().map_or(Target::Other, Target::of)).is_break()
        {
            break;
        }
    }
    Ok(())
}

impl Target {
    /// The target of a link in `/proc/PID/fd`.
    fn of(link: &str) -> Self {
        match socket_inode(link) {
            Some(inode) => Self::Socket(inode),
            None if link == "anon_inode:[eventpoll]" => Self::Epoll,
            None => Self::Other,
        }
    }
}

/// The inode of `socket:[inode]`.
fn socket_inode(target: &str) -> Option<u32> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn sockets_come_in_the_order_of_their_numbers_until_enough_were_seen() {
        let ours: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind("[::1]:0").unwrap()).collect();
        let mut numbers = Vec::new();
        each_socket(std::process::id(), |number, _| {
            numbers.push(number);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert!(ours.iter().all(|socket| numbers.contains(&socket.as_raw_fd())), "{numbers:?}");
        let mut seen = 0;
        each_socket(std::process::id(), |_, _| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(seen, 3);
        assert_eq!(each_socket(u32::MAX, |_, _| unreachable!()), Err(Errno::ENOENT));
    }

    #[test]
    fn only_sockets_have_an_inode_of_one() {
        assert_eq!(socket_inode("socket:[4711]"), Some(4711));
        for target in ["socket:[", "socket:[]", "socket:[-1]", "pipe:[4711]", "/socket:[4711]"] {
            assert_eq!(socket_inode(target), None, "{target}");
            assert_eq!(Target::of(target), Target::Other, "{target}");
        }
        assert_eq!(Target::of("socket:[4711]"), Target::Socket(4711));
        assert_eq!(Target::of("anon_inode:[eventpoll]"), Target::Epoll);
    }
}
