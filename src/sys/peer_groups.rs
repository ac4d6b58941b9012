//! The supplementary groups of the process at the other end of a Unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// As many as the kernel lets a process have (`NGROUPS_MAX`, limits.h).
const MOST_GROUPS: usize = 65_536;

/// The groups that a process had, beside its first one, when it connected (`SO_PEERGROUPS`, unix(7), since
/// Linux 4.13).
///
/// # Errors
/// It is no connected Unix socket, or the kernel does not know the option.
pub(crate) fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let bytes = size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel writes at most `length` bytes to the vector, which has that many and outlives
        // the call, and writes to `length` how many they are.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let written = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(written);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too few: it has written how many there are.
        match error.raw_os_error() {
            Some(libc::ERANGE) if written > groups.len() && written <= MOST_GROUPS => {
                groups.resize(written, 0);
            }
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_groups_of_this_process_are_those_that_the_kernel_lists() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(&one).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let listed = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut listed: Vec<u32> =
            listed.split_ascii_whitespace().map(|group| group.parse().unwrap()).collect();
        groups.sort_unstable();
        listed.sort_unstable();
        assert_eq!(groups, listed);
    }

    #[test]
    fn what_is_no_unix_socket_is_an_error() {
        assert!(peer_groups(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
