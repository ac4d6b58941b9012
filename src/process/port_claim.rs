//! A worker port from the moment that it is chosen until somebody listens on it.
//!
//! A worker that opens its own socket does so some time after it got its port. Until then another cluster
//! would find the port free, and so would a program that looks for one. A socket that the master bound
//! meanwhile would keep the worker out as well. So clusters tell each other by a name that only one socket of
//! a network namespace can have, as unix(7) has it for abstract addresses; it goes with the last process
//! that has it open.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, sockopt};

use super::socket_owner::{Transport, socket_inodes};
use super::sockets::Sockets;
use super::stat;

/// A worker port that no other cluster in this network namespace gives to a worker.
#[derive(Debug)]
pub(crate) struct PortClaim {
    _name: OwnedFd,
}

/// Why a port cannot be given to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortTaken {
    /// Another cluster has claimed it for a worker of its own.
    Claimed,
    /// Some socket is bound to it, whether it listens or not.
    Bound(Transport),
}

impl PortClaim {
    /// Claims a port on which nothing of these transports is bound at any address.
    ///
    /// # Errors
    /// [`PortTaken`]. What else the kernel says to an attempt is no reason to pass a port over: a worker
    /// that cannot have it says so itself.
    pub(crate) fn take(port: u16, transports: &[Transport]) -> Result<Self, PortTaken> {
        let name = claim(port).map_err(|_| PortTaken::Claimed)?;
        for transport in transports {
            if is_bound(port, *transport) {
                return Err(PortTaken::Bound(*transport));
            }
        }
        Ok(Self { _name: name })
    }
}

fn claim(port: u16) -> rustix::io::Result<OwnedFd> {
    let address = SocketAddrUnix::new_abstract_name(format!("ipcluster/port/{port}").as_bytes())?;
    let kind = SocketType::DGRAM;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// Whether a socket as servers open it cannot be bound to the port, of either family. Connections of an earlier
/// worker in TIME_WAIT keep nobody from it.
fn is_bound(port: u16, transport: Transport) -> bool {
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let addresses = [
        (AddressFamily::INET, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
    ];
    addresses.into_iter().any(|(family, address)| {
        let try_it = || -> rustix::io::Result<()> {
            let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            if family == AddressFamily::INET6 {
                sockopt::set_ipv6_v6only(&socket, true)?;
            }
            if transport == Transport::Tcp {
                sockopt::set_socket_reuseaddr(&socket, true)?;
            }
            bind(&socket, &address)
        };
        try_it() == Err(rustix::io::Errno::ADDRINUSE)
    })
}

/// A process that has a socket on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortOwner {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

impl PortOwner {
    /// The first process found that has a socket on this port, listening or not; `None` if none can be
    /// seen: it may belong to somebody whose processes this one may not inspect. Reads the descriptors of
    /// all processes, some milliseconds.
    pub(crate) fn of(port: u16) -> Option<Self> {
        let sockets = Sockets::open().and_then(|mut sockets| sockets.local(port..=port)).ok()?;
        let inodes: Vec<u32> = sockets.iter().map(|socket| socket.inode).collect();
        let processes = stat::processes().ok()?;
        let has_it = |pid: u32| {
            let of_process = socket_inodes(pid);
            of_process.is_ok_and(|(_, all)| all.iter().any(|inode| inodes.contains(inode)))
        };
        let owner = processes.iter().find(|process| !process.ended && has_it(process.pid))?;
        let name = fs::read_to_string(format!("/proc/{}/comm", owner.pid)).unwrap_or_default();
        Some(Self { pid: owner.pid, name: name.trim_end().escape_debug().to_string() })
    }
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn free_port() -> u16 {
        TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port()
    }

    /// Another test can take the port meanwhile.
    fn claimed() -> (u16, PortClaim) {
        let claim = |port| Some((port, PortClaim::take(port, &[Transport::Tcp]).ok()?));
        (0..100).find_map(|_| claim(free_port())).unwrap()
    }

    #[test]
    fn a_port_is_claimed_once_and_open_to_its_worker() {
        let (port, claim) = claimed();
        let again = PortClaim::take(port, &[Transport::Tcp]).unwrap_err();
        assert_eq!(again, PortTaken::Claimed);
        drop(TcpListener::bind(("0.0.0.0", port)).unwrap());
        drop(claim);
        assert!(PortClaim::take(port, &[Transport::Tcp]).is_ok());
    }

    #[test]
    fn what_somebody_has_bound_is_not_given_away_and_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = PortClaim::take(port, &[Transport::Tcp]).unwrap_err();
        assert_eq!(taken, PortTaken::Bound(Transport::Tcp));
        assert_eq!(PortOwner::of(port).unwrap().pid, std::process::id());
        let socket = UdpSocket::bind(("::1", 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let taken = PortClaim::take(port, &[Transport::Udp]).unwrap_err();
        assert_eq!(taken, PortTaken::Bound(Transport::Udp));
    }

    /// An outgoing connection keeps a worker from its port, too.
    #[test]
    fn the_port_of_an_outgoing_connection_is_taken() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = stream.local_addr().unwrap().port();
        let taken = PortClaim::take(port, &[Transport::Tcp]).unwrap_err();
        assert_eq!(taken, PortTaken::Bound(Transport::Tcp));
    }
}
