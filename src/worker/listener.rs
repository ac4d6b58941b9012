//! The sockets that a worker serves: its own, or those that the master has opened for it.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, SockRef, Socket, Type};

use super::environment::{as_port, invalid, number};
use super::{Worker, WorkerError};
use crate::listen_fds::{meant_for_another, passed_descriptors};
use crate::plan::{Port, Protocol};

/// How many connections may wait to be accepted: as many as the kernel lets
/// (`net.core.somaxconn`).
const BACKLOG: i32 = i32::MAX;

impl Worker {
    /// The listening socket for the first listener, ready to accept: the one that the master has
    /// opened (`socket_activation`, or the engine `tproxy`), or else a new one on [`Self::port`].
    ///
    /// Everything else is as for [`Self::tcp_listener`].
    ///
    /// # Errors
    /// As for [`Self::tcp_listener`].
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub fn listener(&self) -> Result<tokio::net::TcpListener, WorkerError> {
        self.tcp_listener(self.first_public().number())
    }

    /// The listening socket for the listeners of a public port, ready to accept: the one that the
    /// master has opened, or else a new one on the worker port that belongs to it, on all addresses.
    /// The kernel redirects to the address that the client came in by, so that a worker which listens
    /// on loopback alone serves nobody.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// let worker = ipcluster::worker::Worker::from_env()?;
    /// let (plain, tls) = (worker.tcp_listener(80)?, worker.tcp_listener(443)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WorkerError::NotPublic`]; [`WorkerError::Listen`] for a socket of its own;
    /// [`WorkerError::Sockets`], [`WorkerError::Invalid`], [`WorkerError::NotPassed`],
    /// [`WorkerError::PassedToAnother`] for one of the master.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub fn tcp_listener(&self, public: u16) -> Result<tokio::net::TcpListener, WorkerError> {
        let listener = self.std_tcp_listener(public)?;
        let ready = listener.set_nonblocking(true);
        let listener = ready.and_then(|()| tokio::net::TcpListener::from_std(listener));
        listener.map_err(|source| WorkerError::Sockets { source })
    }

    /// As [`Self::tcp_listener`], for use without tokio: blocking.
    ///
    /// # Errors
    /// As [`Self::tcp_listener`].
    pub fn std_tcp_listener(&self, public: u16) -> Result<std::net::TcpListener, WorkerError> {
        self.socket_for(public, Protocol::Tcp).map(Into::into)
    }

    /// The socket for the udp listeners of a public port, bound: the one that the master has opened,
    /// or else a new one on the worker port that belongs to it, on all addresses. On a host with
    /// several addresses answer from the one that was asked (`IP_PKTINFO`, ip(7)).
    ///
    /// # Errors
    /// As [`Self::tcp_listener`].
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub fn udp_socket(&self, public: u16) -> Result<tokio::net::UdpSocket, WorkerError> {
        let socket = self.std_udp_socket(public)?;
        let ready = socket.set_nonblocking(true);
        let socket = ready.and_then(|()| tokio::net::UdpSocket::from_std(socket));
        socket.map_err(|source| WorkerError::Sockets { source })
    }

    /// As [`Self::udp_socket`], for use without tokio: blocking.
    ///
    /// # Errors
    /// As [`Self::tcp_listener`].
    pub fn std_udp_socket(&self, public: u16) -> Result<std::net::UdpSocket, WorkerError> {
        self.socket_for(public, Protocol::Udp).map(Into::into)
    }

    /// The sockets that the master has opened for this worker, blocking, and closed on exec; none if
    /// the worker is to open its own. They are more than one for a public port that tcp and udp
    /// listeners share. Each call gives copies. The master has each socket, too: closing all copies
    /// refuses nobody, but leaves those who wait to the next worker.
    ///
    /// # Errors
    /// [`WorkerError::Sockets`], [`WorkerError::Invalid`].
    pub fn passed_listeners(&self) -> Result<Vec<PassedListener>, WorkerError> {
        let failed = |error| WorkerError::Sockets { source: io::Error::other(error) };
        let passed = passed_descriptors().map_err(failed)?;
        passed.into_iter().map(|(name, socket)| PassedListener::new(&name, socket)).collect()
    }

    fn socket_for(&self, public: u16, protocol: Protocol) -> Result<OwnedFd, WorkerError> {
        let known = Port::new(public).and_then(|port| self.ports().get_key_value(&port));
        let (&public, &port) = known.ok_or(WorkerError::NotPublic { public })?;
        let passed = self.passed_listeners()?;
        if !passed.is_empty() {
            let is_it = |it: &PassedListener| (it.public, it.protocol) == (public, protocol);
            let found = passed.into_iter().find(is_it).map(OwnedFd::from);
            return found.ok_or(WorkerError::NotPassed { public, protocol });
        }
        if let Some(pid) = meant_for_another() {
            return Err(WorkerError::PassedToAnother { pid });
        }
        let opened = open(port, protocol);
        opened.map_err(|source| WorkerError::Listen { port, protocol, source })
    }

    /// The public port of the first listener: the one whose worker port `PORT` is.
    fn first_public(&self) -> Port {
        let mut ports = self.ports().iter();
        ports.find(|(_, port)| **port == self.port()).map_or(self.port(), |(public, _)| *public)
    }
}

/// A socket on all addresses, for both families where the kernel has IPv6.
fn open(port: Port, protocol: Protocol) -> io::Result<OwnedFd> {
    let any = |address: std::net::IpAddr| SocketAddr::from((address, port.number()));
    match open_on(any(Ipv6Addr::UNSPECIFIED.into()), protocol) {
        // `ipv6.disable=1`, or no IPv6 in the kernel.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            open_on(any(Ipv4Addr::UNSPECIFIED.into()), protocol)
        }
        opened => opened,
    }
}

fn open_on(address: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier worker that are in TIME_WAIT do not keep the port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// A listening TCP socket, or a bound UDP socket, that the master has opened for this worker.
#[derive(Debug)]
pub struct PassedListener {
    /// The public port whose connections come here.
    pub public: Port,
    /// What it speaks.
    pub protocol: Protocol,
    socket: OwnedFd,
}

impl PassedListener {
    fn new(name: &str, socket: OwnedFd) -> Result<Self, WorkerError> {
        let expected = "names such as 80/tcp";
        let (public, protocol) = named(name)
            .ok_or_else(|| invalid("LISTEN_FDNAMES", &OsString::from(name), expected))?;
        match is_socket_for(&socket, protocol) {
            Ok(true) => Ok(Self { public, protocol, socket }),
            Ok(false) => {
                let why = format!("{name} is another kind of socket");
                let source = io::Error::new(io::ErrorKind::InvalidData, why);
                Err(WorkerError::Sockets { source })
            }
            Err(source) => Err(WorkerError::Sockets { source }),
        }
    }
}

impl AsFd for PassedListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<PassedListener> for OwnedFd {
    fn from(listener: PassedListener) -> Self {
        listener.socket
    }
}

/// Whether clients of this protocol reach the socket.
fn is_socket_for(socket: &OwnedFd, protocol: Protocol) -> io::Result<bool> {
    let socket = SockRef::from(socket);
    let kind = socket.r#type()?;
    Ok(match protocol {
        Protocol::Tcp => kind == Type::STREAM && is_listening(&socket)?,
        Protocol::Udp => kind == Type::DGRAM,
    } && socket.local_addr()?.as_socket().is_some_and(|address| address.port() != 0))
}

#[cfg(target_os = "linux")]
fn is_listening(socket: &SockRef<'_>) -> io::Result<bool> {
    socket.is_listener()
}

/// No master passes sockets there.
#[cfg(not(target_os = "linux"))]
fn is_listening(_socket: &SockRef<'_>) -> io::Result<bool> {
    Ok(false)
}

/// The public port and protocol that a name such as `80/tcp` stands for.
fn named(name: &str) -> Option<(Port, Protocol)> {
    let (port, protocol) = name.split_once('/')?;
    let protocol = Protocol::ALL.into_iter().find(|it| it.to_string() == protocol)?;
    Some((number(&port.into()).and_then(as_port)?, protocol))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const GOOD: [(&str, &str); 7] = [
        ("PORT", "20004"),
        ("IPCLUSTER_PORT_80", "20004"),
        ("IPCLUSTER_PORT_443", "20005"),
        ("IPCLUSTER_SEAT", "2"),
        ("IPCLUSTER_WORKERS", "4"),
        ("IPCLUSTER_GENERATION", "7"),
        ("IPCLUSTER_NAME", "web"),
    ];

    /// A worker whose ports for 80 and 53 nobody has, most likely.
    fn worker() -> Worker {
        let free = || TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
        let (one, other) = (free().to_string(), free().to_string());
        let variables = GOOD.into_iter().filter(|(name, _)| !name.contains("PORT"));
        let ports = [("PORT", &one), ("IPCLUSTER_PORT_80", &one), ("IPCLUSTER_PORT_53", &other)];
        let ports = ports.map(|(name, value)| (name, value.as_str()));
        let variables = variables.chain(ports).map(|(name, value)| (name.into(), value.into()));
        Worker::from_variables(variables).unwrap()
    }

    #[tokio::test]
    async fn a_worker_opens_what_it_is_not_given_for_both_families() {
        let worker = worker();
        let listener = worker.listener().unwrap();
        let port = worker.port().number();
        for address in ["127.0.0.1", "::1"] {
            let mut client = TcpStream::connect((address, port)).unwrap();
            client.write_all(b"x").unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            accepted.readable().await.unwrap();
            assert_eq!(accepted.try_read(&mut [0]).unwrap(), 1, "{address}");
        }
        let error = worker.tcp_listener(80).unwrap_err();
        let WorkerError::Listen { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
        let socket = worker.udp_socket(53).unwrap();
        let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = worker.ports()[&Port::new(53).unwrap()].number();
        client.send_to(b"x", ("127.0.0.1", port)).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).await.unwrap(), 1);
        let error = worker.tcp_listener(81).unwrap_err();
        assert_eq!(error.to_string(), "81 is no public port of this cluster");
    }

    #[test]
    fn sockets_are_named_by_public_port_and_protocol() {
        let of = |name| named(name).map(|(port, protocol)| (port.number(), protocol));
        assert_eq!(of("80/tcp"), Some((80, Protocol::Tcp)));
        assert_eq!(of("443/udp"), Some((443, Protocol::Udp)));
        for name in ["", "80", "tcp", "80/", "/tcp", "0/tcp", "80/sctp", "80/tcp/", "unknown"] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[cfg(feature = "master")]
    #[test]
    fn a_worker_takes_the_sockets_that_it_was_started_with() {
        use std::time::Duration;

        use nix::sys::signal::Signal;

        use crate::process::{Endpoint, HeldSocket, Output, PassedSocket, Spawn, Transport};

        const TEST: &str =
            "worker::listener::tests::a_worker_takes_the_sockets_that_it_was_started_with";
        if std::env::var_os("IPCLUSTER_TEST_ROLE").is_some() {
            let worker = Worker::from_env().unwrap();
            let listeners = worker.passed_listeners().unwrap();
            let [listener] = <[PassedListener; 1]>::try_from(listeners).unwrap();
            assert_eq!((listener.public.number(), listener.protocol), (80, Protocol::Tcp));
            let error = worker.std_tcp_listener(443).unwrap_err();
            assert!(matches!(error, WorkerError::NotPassed { .. }), "{error}");
            let listener = worker.std_tcp_listener(80).unwrap();
            listener.accept().unwrap().0.write_all(b"accepted").unwrap();
            return;
        }
        let endpoint =
            Endpoint { transport: Transport::Tcp, ipv4: true, ipv6: false, transparent: false };
        // Another test can take the port meanwhile.
        let free = || TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
        let open = |_| HeldSocket::open(free(), endpoint, 16).ok();
        let socket = (0..100).find_map(open).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", socket.port())).unwrap();
        let role = ("IPCLUSTER_TEST_ROLE", "worker");
        let spawn = Spawn {
            program: std::env::current_exe().unwrap().into(),
            args: ["--exact", TEST].map(OsString::from).into(),
            env: GOOD.into_iter().chain([role]).map(|(k, v)| (k.into(), v.into())).collect(),
            ..Spawn::default()
        };
        let passed = [PassedSocket { name: "80/tcp", socket: socket.as_fd() }];
        let output = Output::create("test worker").unwrap();
        let child = spawn.start_with(&passed, &output).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = String::new();
        let result = client.read_to_string(&mut answer);
        child.signal_group(Signal::SIGKILL).unwrap();
        result.unwrap();
        assert_eq!(answer, "accepted");
    }

    #[test]
    fn a_process_without_passed_sockets_has_none() {
        let worker = Worker::from_variables(GOOD.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(worker.unwrap().passed_listeners().unwrap().len(), 0);
    }
}
