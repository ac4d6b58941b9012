//! Socket options of which the value is bytes that the kernel fills in.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Reads a socket option into this buffer, of which the first bytes may say what is asked for, and returns how
/// many bytes the kernel says that it has.
pub(crate) fn read_socket_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    buffer: &mut [u8],
) -> Result<usize, Errno> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel reads and writes at most `length` bytes of the buffer, which has that many and outlives
    // the call, and writes to `length`. Any bytes are a valid buffer. The descriptor is open (it is borrowed).
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    usize::try_from(length).map_err(|_| Errno::EOVERFLOW)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_the_kernel_has_is_read() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut value = [0; 4];
        let read = |option, value: &mut [u8]| {
            read_socket_option(socket.as_fd(), libc::SOL_SOCKET, option, value)
        };
        assert_eq!(read(libc::SO_TYPE, &mut value), Ok(4));
        assert_eq!(i32::from_ne_bytes(value), libc::SOCK_DGRAM);
        assert_eq!(read(-1, &mut value), Err(Errno::ENOPROTOOPT));
    }
}
