//! Workers and clients that speak UDP.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::{Identity, LabError, Namespace};

/// The socket of a worker that answers every datagram with who it is.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: OwnedFd,
}

impl Receiver {
    /// Binds to `port` on every address of both families.
    pub(super) fn bind(port: u16, is_transparent: bool) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        setsockopt(&socket, sockopt::IpTransparent, &is_transparent)?;
        bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        Self::new(socket)
    }

    /// On a socket that is bound and does not block.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        match rustix::net::sockopt::socket_domain(&socket)? {
            AddressFamily::INET => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            _ => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self { socket })
    }

    /// Answers all that has come.
    ///
    /// An answer leaves from the address at which the question came in: from any other it would
    /// belong to no connection that conntrack knows, and reach the client from a stranger. A client
    /// of this host is redirected to a loopback address, from which the kernel would not answer by
    /// itself.
    pub(super) fn answer(&self, answer: &[u8]) -> io::Result<()> {
        let mut buffer = [0; 64];
        // Room for the larger of the two.
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let question = recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::empty(),
            );
            let question = match question {
                Ok(question) => question,
                Err(Errno::EAGAIN) => return Ok(()),
                // What came back of an answer (ICMP): the client is gone.
                Err(Errno::EINTR | Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let asked_at = question.cmsgs()?.next();
            let Some(client) = question.address else { continue };
            let parts = [IoSlice::new(answer)];
            let reply = |from| {
                let socket = self.socket.as_raw_fd();
                // It fails only where the client is gone, or has no room for more.
                let _ = sendmsg(socket, &parts, &[from], MsgFlags::empty(), Some(&client));
            };
            // The way back is up to the routes: by no interface of ours.
            match asked_at {
                Some(ControlMessageOwned::Ipv4PacketInfo(mut info)) => {
                    (info.ipi_ifindex, info.ipi_spec_dst) = (0, info.ipi_addr);
                    reply(ControlMessage::Ipv4PacketInfo(&info));
                }
                Some(ControlMessageOwned::Ipv6PacketInfo(mut info)) => {
                    info.ipi6_ifindex = 0;
                    reply(ControlMessage::Ipv6PacketInfo(&info));
                }
                _ => {}
            }
        }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A client's UDP socket, and the two addresses and ports that conntrack knows it by.
#[derive(Debug)]
pub struct Flow {
    socket: UdpSocket,
}

impl Flow {
    /// How long an answer may take.
    pub const TIME_OUT: Duration = Duration::from_secs(5);

    /// Binds to the address `from` in `namespace`, and to any port; all that is asked goes to `to`.
    ///
    /// # Errors
    /// [`LabError::Hold`] where there can be no such socket; [`LabError::Namespace`],
    /// [`LabError::Thread`].
    pub fn open(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> Result<Self, LabError> {
        let open = || {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Self::TIME_OUT))?;
            Ok(Self { socket })
        };
        namespace.run_in(open)?.map_err(|source| LabError::Hold { from, to, source })
    }

    /// Asks once which worker is there.
    ///
    /// # Errors
    /// `WouldBlock` where no answer came within [`Flow::TIME_OUT`], `ConnectionRefused` where
    /// nobody listens, `InvalidData` for an answer that names no worker.
    pub fn ask(&self) -> io::Result<Identity> {
        self.socket.send(b"?")?;
        let mut answer = [0; 128];
        let length = self.socket.recv(&mut answer)?;
        let text = String::from_utf8_lossy(&answer[..length]);
        text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The client's address and port.
    ///
    /// # Errors
    /// The errors of getsockname(2).
    pub fn source(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}
