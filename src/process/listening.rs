//! Listening sockets that one process opens and another accepts from.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpTransparent;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen};

use super::descriptors::each_socket;
use super::error::{ProcessError, ProcessOperation, errno_from, errno_of};
use super::pidfd::PidFd;
use super::socket_owner::Transport;
use crate::listen_fds::{ListenFdsError, passed_descriptors};
use crate::netlink::Errno;

/// Whom a listening socket is for, and what it speaks. At least one family is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// What it speaks.
    pub transport: Transport,
    /// Clients with IPv4 addresses reach it.
    pub ipv4: bool,
    /// Clients with IPv6 addresses do.
    pub ipv6: bool,
    /// It takes what a rule with `tproxy` gives it, and speaks for the address that this was sent to
    /// (`IP_TRANSPARENT`, ip(7)). Needs `CAP_NET_ADMIN` or `CAP_NET_RAW`.
    pub transparent: bool,
}

/// A listening TCP socket, or a bound UDP socket, in the hands of this process: as long as it has
/// it, the port belongs to nobody else, and the connections in its queue wait for whoever accepts
/// next. It is closed on exec, so that none but those whom it is passed (`PassedSocket`) to get it.
#[derive(Debug)]
pub struct HeldSocket {
    descriptor: OwnedFd,
    transport: Transport,
    port: u16,
}

impl HeldSocket {
    /// Opens a socket on all addresses of the families that are wanted, by one descriptor. Of TCP
    /// at most `backlog` connections wait in its queue, or `net.core.somaxconn` of them if that is
    /// less.
    ///
    /// # Errors
    /// [`ProcessError::Listen`]: `EADDRINUSE` if the port is somebody else's, `EAFNOSUPPORT` for
    /// IPv6 clients without IPv6 in the kernel; `EPERM` for a transparent one without privilege.
    pub fn open(port: u16, endpoint: Endpoint, backlog: u32) -> Result<Self, ProcessError> {
        let Endpoint { transport, ipv4, ipv6, transparent } = endpoint;
        let failed = |operation| {
            move |errno| ProcessError::Listen {
                port,
                transport,
                operation,
                errno: errno_from(errno),
            }
        };
        let (family, address) = match ipv6 {
            true => (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
            false => (AddressFamily::INET, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        };
        let kind = match transport {
            Transport::Tcp => SocketType::STREAM,
            Transport::Udp => SocketType::DGRAM,
        };
        let descriptor = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
            .map_err(failed(ProcessOperation::OpenSocket))?;
        let set =
            |result: rustix::io::Result<()>| result.map_err(failed(ProcessOperation::OpenSocket));
        if ipv6 {
            // Whatever net.ipv6.bindv6only says.
            set(sockopt::set_ipv6_v6only(&descriptor, !ipv4))?;
        }
        if transparent {
            // The option serves both families: an IPv6 socket hands this level on, and has one flag for both
            // (`ipv6_setsockopt`, net/ipv6/ipv6_sockglue.c).
            setsockopt(&descriptor, IpTransparent, &true).map_err(|errno| {
                ProcessError::Listen {
                    port,
                    transport,
                    operation: ProcessOperation::OpenSocket,
                    errno: Errno::of(errno),
                }
            })?;
        }
        if transparent && transport == Transport::Udp && ipv4 {
            fragment_on_the_way(&descriptor).map_err(failed(ProcessOperation::OpenSocket))?;
        }
        // For TCP: connections of an earlier worker that are in TIME_WAIT do not keep the port; a
        // socket that listens does, whoever sets this (inet_csk_bind_conflict,
        // net/ipv4/inet_connection_sock.c). For UDP the option would let others take the port from us.
        if transport == Transport::Tcp {
            set(sockopt::set_socket_reuseaddr(&descriptor, true))?;
        }
        bind(&descriptor, &address).map_err(failed(ProcessOperation::Bind))?;
        if transport == Transport::Tcp {
            let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
            listen(&descriptor, backlog).map_err(failed(ProcessOperation::Listen))?;
        }
        Ok(Self { descriptor, transport, port })
    }

    /// Takes in a socket that another process has opened.
    ///
    /// # Errors
    /// [`ProcessError::Host`] with `ENOTSOCK`, or `EINVAL` for a socket that neither listens nor is
    /// a bound UDP socket of the Internet.
    pub fn adopt(descriptor: OwnedFd) -> Result<Self, ProcessError> {
        let failed =
            |errno| ProcessError::Host { operation: ProcessOperation::InspectSocket, errno };
        let inspected = inspect(&descriptor).map_err(|errno| failed(errno_from(errno)))?;
        let (transport, port) = inspected.ok_or_else(|| failed(Errno::EINVAL))?;
        Ok(Self { descriptor, transport, port })
    }

    /// Copies of those sockets, named by their inodes, that another process has open and that clients
    /// reach by some port: for whoever holds them from now on (`pidfd_getfd(2)`, since Linux 5.6).
    /// They may be in other processes as well.
    ///
    /// # Errors
    /// [`ProcessError::Process`] with `EPERM` or `EACCES` where this process may not trace the
    /// other (another user's, without `CAP_SYS_PTRACE`), `ESRCH` or `ENOENT` if it has ended.
    pub fn of_process(
        process: &PidFd,
        mut inodes: HashSet<u32>,
    ) -> Result<Vec<Self>, ProcessError> {
        let failed =
            |operation, errno| ProcessError::Process { pid: process.pid(), operation, errno };
        let mut numbers = vec![];
        each_socket(process.pid(), |number, inode| {
            if inodes.remove(&inode) {
                numbers.push(number);
            }
            if inodes.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .map_err(|errno| failed(ProcessOperation::ListDescriptors, errno))?;
        let mut found: Vec<Self> = vec![];
        for number in numbers {
            // The pidfd stands for the one process, whose pid this was if it lives yet.
            let descriptor = match process.duplicate(number) {
                Ok(descriptor) => descriptor,
                Err(Errno::EBADF) => continue,
                Err(errno) => return Err(failed(ProcessOperation::CopyDescriptor, errno)),
            };
            // Another one may have its number by now, which whoever asked sees by its port.
            found.extend(Self::adopt(descriptor));
        }
        Ok(found)
    }

    /// What it speaks.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The inode of its file, as in the `socket:[inode]` of `/proc/PID/fd`.
    pub(crate) fn inode(&self) -> Option<u32> {
        u32::try_from(rustix::fs::fstat(&self.descriptor).ok()?.st_ino).ok()
    }

    /// Where this host itself reaches it, by a loopback address where it has all addresses.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        let address = SocketAddr::try_from(getsockname(&self.descriptor).ok()?).ok()?;
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => {
                match sockopt::ipv6_v6only(&self.descriptor).ok()? {
                    true => Ipv6Addr::LOCALHOST.into(),
                    false => Ipv4Addr::LOCALHOST.into(),
                }
            }
            ip => ip,
        };
        Some(SocketAddr::new(ip, self.port))
    }
}

impl AsFd for HeldSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<HeldSocket> for OwnedFd {
    fn from(socket: HeldSocket) -> Self {
        socket.descriptor
    }
}

/// Has the datagrams that a socket sends by IPv4 go out without DF (`IP_PMTUDISC_DONT`, ip(7)), so that
/// routers on the way cut those in pieces that are too long for their next link.
///
/// With it a router would answer one by an ICMP error about a datagram from the public port, which a rule
/// has written into it. The kernel looks for the socket by that port (`__udp4_lib_err`, net/ipv4/udp.c), finds
/// none, learns no path MTU, and answers of that length never arrive. IPv6 has no such option: there no
/// router cuts anything in pieces.
fn fragment_on_the_way(descriptor: &OwnedFd) -> rustix::io::Result<()> {
    sockopt::set_ip_mtu_discover(descriptor, Ipv4PathMtuDiscovery::DONT)
}

/// What a socket of the Internet that clients reach speaks, and its port; `None` for others.
fn inspect(descriptor: &OwnedFd) -> rustix::io::Result<Option<(Transport, u16)>> {
    let transport = match sockopt::socket_type(descriptor)? {
        SocketType::STREAM if sockopt::socket_acceptconn(descriptor)? => Transport::Tcp,
        SocketType::DGRAM => Transport::Udp,
        _ => return Ok(None),
    };
    let address = SocketAddr::try_from(getsockname(descriptor)?);
    Ok(address.ok().filter(|it| it.port() != 0).map(|it| (transport, it.port())))
}

/// How many connections the kernel lets wait in the queue of one listening socket at most, in the
/// network namespace of this thread (`net.core.somaxconn`).
///
/// # Errors
/// [`ProcessError::Host`].
pub(crate) fn somaxconn() -> Result<u32, ProcessError> {
    const FILE: &str = "net.core.somaxconn";
    let failed = |errno| ProcessError::Host { operation: ProcessOperation::Read(FILE), errno };
    // Not /proc/sys/net: /proc/self/net is that of the process, and of /proc/sys the same holds.
    let text = fs::read_to_string("/proc/sys/net/core/somaxconn")
        .map_err(|error| failed(errno_of(&error)))?;
    text.trim().parse().map_err(|_| failed(Errno::EINVAL))
}

/// The sockets that this process was started with, each with its name, in the order of their
/// numbers (`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, as sd_listen_fds_with_names(3) has them).
/// None if they were meant for another process, or there are none. Each call gives copies, which
/// are closed on exec, and so are the originals from now on.
///
/// # Errors
/// [`ProcessError::Passed`] for a number of descriptors that is none; those of
/// [`HeldSocket::adopt`] for descriptors that are not listening sockets.
pub fn passed_sockets() -> Result<Vec<(String, HeldSocket)>, ProcessError> {
    let descriptors = passed_descriptors().map_err(|error| match error {
        ListenFdsError::Count { value } => ProcessError::Passed { value },
        ListenFdsError::Descriptor { source, .. } => ProcessError::Host {
            operation: ProcessOperation::InspectSocket,
            errno: errno_of(&source),
        },
    })?;
    let socket = |(name, descriptor)| Ok((name, HeldSocket::adopt(descriptor)?));
    descriptors.into_iter().map(socket).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    /// A port that nobody has, most likely.
    fn free_port() -> u16 {
        TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port()
    }

    const TCP: Endpoint =
        Endpoint { transport: Transport::Tcp, ipv4: true, ipv6: false, transparent: false };
    const UDP: Endpoint = Endpoint { transport: Transport::Udp, ..TCP };

    fn open(endpoint: Endpoint) -> HeldSocket {
        // Another test can take the port meanwhile.
        (0..100).find_map(|_| HeldSocket::open(free_port(), endpoint, 16).ok()).unwrap()
    }

    fn errno<T: std::fmt::Debug>(result: Result<T, ProcessError>) -> Option<Errno> {
        result.unwrap_err().errno()
    }

    #[test]
    fn nobody_takes_a_port_that_is_held() {
        for endpoint in [TCP, UDP] {
            let held = open(endpoint);
            let error = HeldSocket::open(held.port(), endpoint, 16).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EADDRINUSE), "{error}");
            let expected = format!("worker port {}/{}: ", held.port(), held.transport());
            assert!(error.to_string().starts_with(&expected), "{error}");
            let stolen = match endpoint.transport {
                Transport::Tcp => TcpListener::bind(("127.0.0.1", held.port())).map(drop),
                Transport::Udp => UdpSocket::bind(("127.0.0.1", held.port())).map(drop),
            };
            assert_eq!(errno_of(&stolen.unwrap_err()), Errno::EADDRINUSE);
        }
    }

    #[test]
    fn a_port_whose_connections_linger_is_opened_again() {
        let held = open(TCP);
        let port = held.port();
        let listener = TcpListener::from(OwnedFd::from(held));
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // The side that closes first is the one in TIME_WAIT.
        drop(listener.accept().unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop((client, listener));
        HeldSocket::open(port, TCP, 16).unwrap();
    }

    #[test]
    fn the_families_that_are_wanted_are_reached_and_no_other() {
        for (ipv4, ipv6) in [(true, false), (true, true), (false, true)] {
            let held = open(Endpoint { ipv4, ipv6, ..TCP });
            assert_eq!(TcpStream::connect(("127.0.0.1", held.port())).is_ok(), ipv4);
            assert_eq!(TcpStream::connect(("::1", held.port())).is_ok(), ipv6);
        }
    }

    #[test]
    fn only_sockets_that_clients_reach_are_taken_in() {
        for endpoint in [TCP, UDP] {
            let held = open(endpoint);
            let (port, transport) = (held.port(), held.transport());
            let adopted = HeldSocket::adopt(held.into()).unwrap();
            assert_eq!((adopted.port(), adopted.transport()), (port, transport));
        }
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(errno(HeldSocket::adopt(file.into())), Some(Errno::ENOTSOCK));
        let held = open(TCP);
        let connected = TcpStream::connect(("127.0.0.1", held.port())).unwrap();
        let (pair, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        for other in [OwnedFd::from(connected), OwnedFd::from(pair)] {
            assert_eq!(errno(HeldSocket::adopt(other)), Some(Errno::EINVAL));
        }
    }
}
