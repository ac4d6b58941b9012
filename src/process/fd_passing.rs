//! Descriptors from one process to another, over a Unix socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::error::{ProcessError, ProcessOperation, errno_from};
use crate::netlink::Errno;

/// The most descriptors that one message carries (`SCM_MAX_FD`, include/net/scm.h).
const MAX_DESCRIPTORS: usize = 253;

/// Sends `bytes`, at least one, and a copy of each descriptor, at most `MAX_DESCRIPTORS`
/// (`SCM_RIGHTS`, unix(7)). From here on each is open until both this process and the receiver have
/// closed it, even if that never takes it out of the queue, and so is what hangs on it: a lock, the
/// ownership of a table. Waits while the socket's buffer is full, unless it was made non-blocking.
///
/// # Errors
/// [`ProcessError::Host`] with `EINVAL` for no byte or too many descriptors, `EMSGSIZE` if not all
/// bytes went into one message, and those of sendmsg(2): `EPIPE` where the receiver is gone.
pub fn send_descriptors(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ProcessError> {
    if bytes.is_empty() || descriptors.len() > MAX_DESCRIPTORS {
        return Err(failed(ProcessOperation::SendDescriptors, Errno::EINVAL));
    }
    let mut space = vec![MaybeUninit::uninit(); room()];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = rights.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(fits, "there is room for as many as the kernel takes");
    }
    let message = [IoSlice::new(bytes)];
    loop {
        match sendmsg(&socket, &message, &mut rights, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(failed(ProcessOperation::SendDescriptors, Errno::EMSGSIZE)),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(ProcessOperation::SendDescriptors, errno_from(errno))),
        }
    }
}

/// Receives what [`send_descriptors`] has sent: the number of bytes, which are in `buffer`, and the
/// descriptors, which are closed on exec. Nobody has looked at what they are. Of a stream socket
/// these are the bytes up to the next descriptors, of others one message. Waits for it, unless the
/// socket was made non-blocking.
///
/// # Errors
/// [`ProcessError::Host`] with `EPIPE` at the end of the stream; `EMSGSIZE` if the buffer is too
/// small for the message, or this process may not open so many descriptors (`RLIMIT_NOFILE`): all
/// that came are closed then; and those of recvmsg(2).
pub fn receive_descriptors(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), ProcessError> {
    let mut space = vec![MaybeUninit::uninit(); room()];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut message = [IoSliceMut::new(buffer)];
    let received = loop {
        match recvmsg(&socket, &mut message, &mut rights, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received,
        }
    };
    let received = received
        .map_err(|errno| failed(ProcessOperation::ReceiveDescriptors, errno_from(errno)))?;
    // Taken first, so that they are closed whatever else is wrong.
    let descriptors: Vec<OwnedFd> = rights
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(failed(ProcessOperation::ReceiveDescriptors, Errno::EMSGSIZE));
    }
    if received.bytes == 0 {
        return Err(failed(ProcessOperation::ReceiveDescriptors, Errno::EPIPE));
    }
    Ok((received.bytes, descriptors))
}

/// What the control message of [`MAX_DESCRIPTORS`] takes, in bytes.
fn room() -> usize {
    rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))
}

fn failed(operation: ProcessOperation, errno: Errno) -> ProcessError {
    ProcessError::Host { operation, errno }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use rustix::io::FdFlags;

    use super::*;

    fn errno<T: std::fmt::Debug>(result: Result<T, ProcessError>) -> Option<Errno> {
        result.unwrap_err().errno()
    }

    #[test]
    fn descriptors_come_with_their_bytes_and_are_closed_on_exec() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut reader, writer) = rustix::pipe::pipe().map(|(r, w)| (File::from(r), w)).unwrap();
        send_descriptors(&left, b"a pipe", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = [0; 16];
        let (length, descriptors) = receive_descriptors(&right, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"a pipe");
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&descriptor).unwrap(), FdFlags::CLOEXEC);
        File::from(descriptor).write_all(b"through it").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through it");
    }

    #[test]
    fn as_many_as_the_kernel_takes_come_in_order() {
        let (left, right) = UnixDatagram::pair().unwrap();
        let files: Vec<_> =
            (0..MAX_DESCRIPTORS).map(|_| File::open("/dev/null").unwrap()).collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send_descriptors(&left, b"x", &borrowed).unwrap();
        let (_, descriptors) = receive_descriptors(&right, &mut [0; 8]).unwrap();
        assert_eq!(descriptors.len(), MAX_DESCRIPTORS);
        let too_many: Vec<_> = [&borrowed[..], &borrowed[..1]].concat();
        assert_eq!(errno(send_descriptors(&left, b"x", &too_many)), Some(Errno::EINVAL));
    }

    #[test]
    fn none_is_a_message_too_and_no_byte_is_none() {
        let (left, right) = UnixStream::pair().unwrap();
        send_descriptors(&left, b"words", &[]).unwrap();
        let (length, descriptors) = receive_descriptors(&right, &mut [0; 8]).unwrap();
        assert_eq!((length, descriptors.len()), (5, 0));
        assert_eq!(errno(send_descriptors(&left, b"", &[])), Some(Errno::EINVAL));
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error_and_leaks_nothing() {
        let (left, right) = UnixDatagram::pair().unwrap();
        let (mut reader, writer) = rustix::pipe::pipe().map(|(r, w)| (File::from(r), w)).unwrap();
        send_descriptors(&left, b"longer than that", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(errno(receive_descriptors(&right, &mut [0; 4])), Some(Errno::EMSGSIZE));
        // Ends only if nobody has the other end.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_on_both_sides() {
        let (left, right) = UnixStream::pair().unwrap();
        drop(left);
        assert_eq!(errno(receive_descriptors(&right, &mut [0; 8])), Some(Errno::EPIPE));
        assert_eq!(errno(send_descriptors(&right, b"x", &[])), Some(Errno::EPIPE));
    }
}
