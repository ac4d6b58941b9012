//! A netlink socket that only the kernel can answer, and requests to it.

use std::io;
use std::num::Wrapping;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags};
use tokio::io::unix::AsyncFd;

use super::frame::{self, Acknowledgement, Message, Messages};
use super::{Errno, NetlinkError, SocketOperation};
use crate::sys;

/// How often a dump that the kernel calls interrupted (`NLM_F_DUMP_INTR`) is begun anew.
const DUMP_ATTEMPTS: u32 = 10;

/// The longest datagram read at once. The kernel sizes dumps by the reader's buffer, up to 32 KiB
/// (`netlink_dump`, net/netlink/af_netlink.c); acknowledgements are far smaller.
const RECEIVE_LEN: usize = 64 * 1024;

/// What `SO_SNDBUF` has to have in reserve for a datagram to be accepted (`netlink_sendmsg`).
const SEND_RESERVE: usize = 32;

/// A connected netlink socket, closed on exec, with extended and capped acknowledgements.
///
/// Requests are answered while they are sent: the kernel works on them within `sendmsg(2)`. So
/// nothing here waits, and an empty receive queue means that a reply was lost.
pub(crate) struct Socket {
    inner: NlSocket,
    sequence: Wrapping<u32>,
    send_buffer: usize,
    receive_buffer: usize,
    received: Vec<u8>,
}

impl Socket {
    /// Opens a socket of this family.
    pub(crate) fn open(family: NlFamily) -> Result<Self, NetlinkError> {
        Self::open_in(family, Groups::empty())
    }

    /// Opens a socket of this family that is also sent what the kernel tells a multicast group.
    /// Most families want `CAP_NET_ADMIN` in the network namespace for that (`EPERM`).
    pub(crate) fn subscribe(family: NlFamily, group: u32) -> Result<Self, NetlinkError> {
        Self::open_in(family, Groups::new_groups(&[group]))
    }

    /// The same for several groups.
    pub(crate) fn subscribe_to_all(family: NlFamily, groups: &[u32]) -> Result<Self, NetlinkError> {
        Self::open_in(family, Groups::new_groups(groups))
    }

    fn open_in(family: NlFamily, groups: Groups) -> Result<Self, NetlinkError> {
        let inner = NlSocket::connect(family, None, groups)
            .map_err(|source| NetlinkError::Socket { operation: SocketOperation::Open, source })?;
        Self::prepare(inner)
    }

    /// Takes over a socket of this family that another process has opened in this network
    /// namespace. Replies to the requests of that one are thrown away.
    ///
    /// # Errors
    /// [`NetlinkError::NotThatSocket`] if it is of another kind or of another network namespace;
    /// [`NetlinkError::Socket`].
    pub(crate) fn from_descriptor(
        family: NlFamily,
        descriptor: OwnedFd,
    ) -> Result<Self, NetlinkError> {
        let unlike = |what| NetlinkError::NotThatSocket { what };
        let inspected = |errno: rustix::io::Errno| NetlinkError::Socket {
            operation: SocketOperation::Inspect,
            source: errno.into(),
        };
        let domain = match rustix::net::sockopt::socket_domain(&descriptor) {
            Err(rustix::io::Errno::NOTSOCK) => return Err(unlike("no socket")),
            domain => domain.map_err(inspected)?,
        };
        if domain != AddressFamily::NETLINK {
            return Err(unlike("no netlink socket"));
        }
        let protocol = rustix::net::sockopt::socket_protocol(&descriptor).map_err(inspected)?;
        let protocol = protocol.map_or(0, |protocol| protocol.as_raw().get());
        if i64::from(protocol) != i64::from(libc::c_int::from(family)) {
            return Err(unlike("a netlink socket of another family"));
        }
        let own = Self::open(family)?;
        if namespace_id(&descriptor)? != namespace_id(own.as_fd())? {
            return Err(unlike("a socket of another network namespace"));
        }
        let mut socket = Self::prepare(sys::netlink_socket(descriptor))?;
        socket.discard_replies();
        Ok(socket)
    }

    fn prepare(inner: NlSocket) -> Result<Self, NetlinkError> {
        let failed =
            |operation| move |source: io::Error| NetlinkError::Socket { operation, source };
        inner.enable_ext_ack(true).map_err(failed(SocketOperation::SetOption))?;
        sys::set_capped_acknowledgements(&inner).map_err(failed(SocketOperation::SetOption))?;
        // Connected to the kernel (port 0), a socket refuses datagrams of other processes:
        // netlink_getsockbyportid() gives their sender ECONNREFUSED.
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::connect(sys::descriptor_of(&inner), &kernel).map_err(|errno| {
            NetlinkError::Socket { operation: SocketOperation::Open, source: errno.into() }
        })?;
        Ok(Self {
            inner,
            sequence: Wrapping(0),
            send_buffer: 0,
            receive_buffer: 0,
            received: vec![0; RECEIVE_LEN],
        })
    }

    /// The number by which the kernel knows this socket among those of its family in the network
    /// namespace (`nl_pid`). Not a process id, and the same in every copy of the descriptor.
    pub(crate) fn port(&self) -> Result<u32, NetlinkError> {
        let address = rustix::net::getsockname(sys::descriptor_of(&self.inner))
            .and_then(SocketAddrNetlink::try_from)
            .map_err(|errno| NetlinkError::Socket {
                operation: SocketOperation::Open,
                source: errno.into(),
            })?;
        Ok(address.pid())
    }

    /// Has the tokio runtime of the caller tell, through a copy of the descriptor, when there is
    /// something to receive.
    pub(crate) fn readable(&self) -> io::Result<AsyncFd<OwnedFd>> {
        sys::watch_readable(sys::descriptor_of(&self.inner).try_clone_to_owned()?)
    }

    /// Its descriptor.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        sys::descriptor_of(&self.inner)
    }

    /// A sequence number that no request of this socket had before (in 2^32).
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.take_sequences(1)
    }

    /// The first of `count` sequence numbers in a row.
    pub(crate) fn take_sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence + Wrapping(1);
        self.sequence += Wrapping(count);
        first.0
    }

    /// Makes the send buffer hold a datagram of `length` bytes: beyond `net.core.wmem_max` where
    /// the capability allows it (`SO_SNDBUFFORCE`; refused in a user namespace), else up to that.
    pub(crate) fn reserve_send(&mut self, length: usize) -> Result<(), NetlinkError> {
        let needed = length + SEND_RESERVE;
        if needed <= self.send_buffer {
            return Ok(());
        }
        let descriptor = sys::descriptor_of(&self.inner);
        // The kernel doubles the value for its own bookkeeping and counts the datagram against
        // all of it; asking for the datagram's length leaves the reserve.
        let wanted = needed.max(256 * 1024);
        if setsockopt(&descriptor, sockopt::SndBufForce, &wanted).is_err() {
            setsockopt(&descriptor, sockopt::SndBuf, &wanted)
                .map_err(|errno| option_error("SO_SNDBUF", errno))?;
        }
        self.send_buffer = nix::sys::socket::getsockopt(&descriptor, sockopt::SndBuf)
            .map_err(|errno| option_error("SO_SNDBUF", errno))?;
        if needed > self.send_buffer {
            return Err(NetlinkError::TooLong { length, limit: self.send_buffer - SEND_RESERVE });
        }
        Ok(())
    }

    /// Makes the receive buffer hold an error reply to each of `messages` messages (1 KiB each).
    pub(crate) fn reserve_receive(&mut self, messages: usize) -> Result<(), NetlinkError> {
        let wanted = (messages * 1024).max(256 * 1024);
        if wanted <= self.receive_buffer {
            return Ok(());
        }
        let descriptor = sys::descriptor_of(&self.inner);
        if setsockopt(&descriptor, sockopt::RcvBufForce, &wanted).is_err() {
            setsockopt(&descriptor, sockopt::RcvBuf, &wanted)
                .map_err(|errno| option_error("SO_RCVBUF", errno))?;
        }
        self.receive_buffer = wanted;
        Ok(())
    }

    /// Sends one datagram. The kernel has worked on all of it when this returns.
    pub(crate) fn send(&self, datagram: &[u8]) -> Result<(), NetlinkError> {
        match self.inner.send(datagram, Msg::empty()) {
            Ok(sent) if sent == datagram.len() => Ok(()),
            Ok(_) => Err(NetlinkError::Malformed { what: "send: the datagram was cut" }),
            Err(source) => Err(NetlinkError::Socket { operation: SocketOperation::Send, source }),
        }
    }

    /// The next datagram that the kernel has sent; `None` if there is none.
    pub(crate) fn receive(&mut self) -> Result<Option<&[u8]>, NetlinkError> {
        loop {
            let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
            let descriptor = sys::descriptor_of(&self.inner);
            let result = rustix::net::recvfrom(descriptor, &mut self.received[..], flags);
            let (length, sender) = match result {
                Ok((_, length, sender)) => (length, sender),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::NOBUFS) => return Err(NetlinkError::RepliesLost),
                Err(errno) => {
                    let source = errno.into();
                    return Err(NetlinkError::Socket {
                        operation: SocketOperation::Receive,
                        source,
                    });
                }
            };
            let from_kernel = sender
                .and_then(|address| SocketAddrNetlink::try_from(address).ok())
                .is_some_and(|address| address.pid() == 0);
            if !from_kernel {
                continue;
            }
            if length > self.received.len() {
                return Err(NetlinkError::Malformed { what: "reply: longer than the buffer" });
            }
            return Ok(Some(&self.received[..length]));
        }
    }

    /// Asks for all objects of one kind: `parse` gets each as its message kind and body, and gives
    /// what is to be kept of it. A dump that changed while it was read is read anew.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with the kernel's errno; [`NetlinkError::DumpInterrupted`] if there was a change
    /// during each of 10 attempts; whatever `parse` returns.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut parse: impl FnMut(u16, &[u8]) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.reserve_receive(0)?;
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.next_sequence();
            let request = request(kind, flags | frame::DUMP, sequence, body);
            self.send(&request)?;
            if let Some(objects) = self.collect_dump(sequence, &mut parse)? {
                return Ok(objects);
            }
        }
        Err(NetlinkError::DumpInterrupted { attempts: DUMP_ATTEMPTS })
    }

    /// One attempt at a dump; `None` if it was interrupted.
    fn collect_dump<T>(
        &mut self,
        sequence: u32,
        parse: &mut impl FnMut(u16, &[u8]) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        let mut objects = Vec::new();
        let mut interrupted = false;
        let mut failure = None;
        loop {
            let datagram = self.receive()?.ok_or(NetlinkError::RepliesLost)?;
            for message in Messages::new(datagram) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & frame::DUMP_INTERRUPTED != 0;
                match message.kind {
                    frame::DONE => {
                        return match failure.or(dump_error(&message)) {
                            Some(error) => Err(error),
                            None => Ok((!interrupted).then_some(objects)),
                        };
                    }
                    frame::ERROR => return Err(refusal(&message)),
                    frame::NOOP => {}
                    // After a failure the rest of the dump is read all the same: it is in the
                    // queue of this socket, before the replies to later requests.
                    kind => match parse(kind, message.body) {
                        Ok(object) => objects.extend(object),
                        Err(error) => failure = failure.or(Some(error)),
                    },
                }
            }
        }
    }

    /// Sends one request that is answered by one message, and gives what `parse` makes of it.
    pub(crate) fn ask<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        parse: impl FnOnce(u16, &[u8]) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        let sequence = self.next_sequence();
        self.send(&request(kind, 0, sequence, body))?;
        loop {
            let datagram = self.receive()?.ok_or(NetlinkError::RepliesLost)?;
            for message in Messages::new(datagram) {
                let message = message?;
                if message.sequence == sequence {
                    return match message.kind {
                        frame::ERROR => Err(refusal(&message)),
                        kind => parse(kind, message.body),
                    };
                }
            }
        }
    }

    /// Sends one request that is answered by an acknowledgement alone.
    pub(crate) fn command(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<(), NetlinkError> {
        let sequence = self.next_sequence();
        self.send(&request(kind, flags | frame::ACK, sequence, body))?;
        loop {
            let datagram = self.receive()?.ok_or(NetlinkError::RepliesLost)?;
            for message in Messages::new(datagram) {
                let message = message?;
                if message.sequence == sequence && message.kind == frame::ERROR {
                    return match Acknowledgement::parse(&message)?.error {
                        None => Ok(()),
                        Some(errno) => Err(NetlinkError::Refused { errno }),
                    };
                }
            }
        }
    }

    /// Throws away what is left of earlier replies.
    pub(crate) fn discard_replies(&mut self) {
        while matches!(self.receive(), Ok(Some(_)) | Err(NetlinkError::RepliesLost)) {}
    }
}

/// What tells one network namespace from another: device and inode of its file.
fn namespace_id(socket: impl AsFd) -> Result<(u64, u64), NetlinkError> {
    let failed = |source| NetlinkError::Socket { operation: SocketOperation::Inspect, source };
    let namespace = sys::network_namespace_of(socket.as_fd()).map_err(failed)?;
    let stat = rustix::fs::fstat(&namespace).map_err(|errno| failed(errno.into()))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A datagram of one request.
fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(frame::HEADER_LEN + body.len());
    put_header(&mut datagram, kind, flags | frame::REQUEST, sequence);
    datagram.extend_from_slice(body);
    close_message(&mut datagram, 0);
    datagram
}

/// Begins a message at the end of `datagram`; its length is not known yet.
pub(crate) fn put_header(datagram: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) {
    let mut header = [0; frame::HEADER_LEN];
    header[4..6].copy_from_slice(&kind.to_ne_bytes());
    header[6..8].copy_from_slice(&flags.to_ne_bytes());
    header[8..12].copy_from_slice(&sequence.to_ne_bytes());
    datagram.extend_from_slice(&header);
}

/// Ends the message that began at `start`: pads it and writes its length.
pub(crate) fn close_message(datagram: &mut Vec<u8>, start: usize) {
    datagram.resize(start + super::attribute::align(datagram.len() - start), 0);
    let length = u32::try_from(datagram.len() - start).expect("messages are far below 4 GiB");
    datagram[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// What `NLMSG_DONE` carries: a dump can fail at its end.
fn dump_error(message: &Message<'_>) -> Option<NetlinkError> {
    let code = i32::from_ne_bytes(message.body.get(..4)?.try_into().ok()?);
    (code < 0).then(|| NetlinkError::Refused { errno: Errno::from_raw(code.saturating_neg()) })
}

fn refusal(message: &Message<'_>) -> NetlinkError {
    match Acknowledgement::parse(message) {
        Ok(Acknowledgement { error: Some(errno), .. }) => NetlinkError::Refused { errno },
        Ok(_) => {
            NetlinkError::Malformed { what: "reply: an acknowledgement in place of an object" }
        }
        Err(error) => error,
    }
}

fn option_error(option: &'static str, errno: nix::errno::Errno) -> NetlinkError {
    NetlinkError::Socket { operation: SocketOperation::SetBuffer(option), source: errno.into() }
}
