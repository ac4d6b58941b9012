//! What was seen of a worker that is not ready, for whoever has to mend it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::NotReady;
use crate::plan::{Port, Protocol};

/// What was seen of a worker that is not ready. Its text goes on after "the worker": what is wrong, and what
/// to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadinessFault {
    /// It does not listen where clients would come.
    Port(PortFault),
    /// It does not accept from the sockets that it was started with.
    Accept(AcceptFault),
    /// It listens, and none of its processes accepts.
    NoAcceptor(NoAcceptor),
    /// It does not answer the probe as it should.
    Probe(ProbeFault),
    /// Its sockets may not be looked at.
    Unseen {
        /// Why, for display.
        error: String,
    },
}

impl ReadinessFault {
    /// Whether it can be why a worker lacks this.
    pub(crate) fn explains(&self, lack: NotReady) -> bool {
        match self {
            Self::Unseen { .. } => true,
            Self::Port(_) => {
                matches!(lack, NotReady::NotListening | NotReady::ReadyButNotListening)
            }
            Self::Accept(_) | Self::NoAcceptor(_) => lack == NotReady::NotAccepting,
            Self::Probe(_) => lack == NotReady::ProbeFailed,
        }
    }
}

impl fmt::Display for ReadinessFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(fault) => fault.fmt(f),
            Self::Accept(fault) => fault.fmt(f),
            Self::NoAcceptor(fault) => fault.fmt(f),
            Self::Probe(fault) => fault.fmt(f),
            Self::Unseen { error } => write!(
                f,
                "cannot be looked at ({error}): start the master with CAP_SYS_PTRACE, as the user of the \
                 workers, or with a /proc that shows their processes (hidepid=0)"
            ),
        }
    }
}

/// The first worker port on which a worker does not listen as its listeners need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFault {
    /// The public port.
    pub public: Port,
    /// Its protocol.
    pub protocol: Protocol,
    /// The worker port that is for it.
    pub port: Port,
    /// How many public ports the cluster has.
    pub public_ports: usize,
    /// What is wrong there.
    pub kind: PortFaultKind,
    /// Where else the worker listens: addresses that are on none of its worker ports for public ports.
    pub elsewhere: Vec<SocketAddr>,
}

/// What is wrong with a worker port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortFaultKind {
    /// No process of the worker listens there.
    Missing,
    /// Another process does.
    Taken {
        /// The user of its socket.
        uid: u32,
    },
    /// The worker listens there, and another process does too: both have set `SO_REUSEPORT`, and the kernel
    /// spreads the connections of the worker's clients over both.
    Shared {
        /// The user of the other socket.
        uid: u32,
    },
    /// The worker listens on a loopback address, to which clients of other hosts are never sent.
    LoopbackOnly {
        /// That address.
        address: IpAddr,
        /// It needs clients with IPv6 addresses too.
        needs_ipv6: bool,
    },
    /// It listens on one address of the host, and clients come by others as well.
    OneAddress {
        /// That address.
        address: IpAddr,
    },
    /// It takes clients with IPv4 addresses, and not those with IPv6 addresses.
    Ipv4Only,
    /// It takes clients with IPv6 addresses, and not those with IPv4 addresses.
    Ipv6Only {
        /// It listens on `[::]`, with `IPV6_V6ONLY`.
        v6only: bool,
    },
}

impl fmt::Display for PortFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { public, protocol, port, .. } = self;
        match &self.kind {
            PortFaultKind::Missing => self.write_missing(f),
            PortFaultKind::Taken { uid } => write!(
                f,
                "does not listen on {port}, where a process of another session does (user {uid}): end \
                 that one, or choose other worker_ports"
            ),
            PortFaultKind::Shared { uid } => write!(
                f,
                "does not have {port} for itself: a process of another session listens there too (user \
                 {uid}, SO_REUSEPORT), and gets some of its clients: end that one, or have it listen on its \
                 own PORT"
            ),
            PortFaultKind::LoopbackOnly { address, needs_ipv6 } => {
                let any = if *needs_ipv6 { "[::]" } else { "0.0.0.0" };
                let address = SocketAddr::new(*address, port.number());
                write!(
                    f,
                    "listens on loopback only: it must listen on {any}, port {port}, not on {address}"
                )
            }
            PortFaultKind::OneAddress { address } => {
                let any = any_like(*address);
                let address = SocketAddr::new(*address, port.number());
                write!(
                    f,
                    "listens on {address} alone, and clients of {public}/{protocol} come by other \
                     addresses too: it must listen on {any}, port {port}"
                )
            }
            PortFaultKind::Ipv4Only => write!(
                f,
                "does not listen for all families: {public}/{protocol} has IPv6 clients, and it takes \
                 IPv4 alone on {port}: it must listen on [::]"
            ),
            PortFaultKind::Ipv6Only { v6only: true } => write!(
                f,
                "does not listen for all families: its socket on [::]:{port} has IPV6_V6ONLY, as with \
                 `uvicorn --host ::`, and {public}/{protocol} has IPv4 clients: it must listen on [::] \
                 without that option, or on 0.0.0.0 as well"
            ),
            PortFaultKind::Ipv6Only { v6only: false } => write!(
                f,
                "does not listen for all families: {public}/{protocol} has IPv4 clients, and it takes \
                 IPv6 alone on {port}: it must listen on 0.0.0.0, or on [::] without IPV6_V6ONLY"
            ),
        }
    }
}

impl PortFault {
    fn write_missing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { public, protocol, port, public_ports, elsewhere, .. } = self;
        if *public_ports > 1 {
            return write!(
                f,
                "does not listen for public port {public}/{protocol}, which is one of {public_ports}: it \
                 must listen on {port} (IPCLUSTER_PORT_{public}){}",
                Instead(elsewhere)
            );
        }
        match elsewhere.as_slice() {
            [] => write!(f, "listens nowhere: it must listen on {port} (PORT)"),
            _ => write!(
                f,
                "listens on {}, not on {port}: have it take its port from PORT",
                List(elsewhere)
            ),
        }
    }
}

/// The unspecified address of the same family.
fn any_like(address: IpAddr) -> SocketAddrLike {
    SocketAddrLike(match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    })
}

/// An address as it stands before a port.
struct SocketAddrLike(IpAddr);

impl fmt::Display for SocketAddrLike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// Some of the sockets that a worker was started with are not accepted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptFault {
    /// Those sockets; at least one.
    pub sockets: Vec<UnservedSocket>,
    /// Where the worker listens by itself.
    pub elsewhere: Vec<SocketAddr>,
    /// `LISTEN_PID` names a program that has started the server: its name.
    pub wrapper: Option<String>,
    /// A connection that the master has made waits, and is not accepted.
    pub is_tried: bool,
    /// The processes of the worker may not be looked at, so that nothing but such a connection tells: why,
    /// for display.
    pub unseen: Option<String>,
}

/// A socket that a worker was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnservedSocket {
    /// Its descriptor in the worker's first process, as it was started.
    pub descriptor: u16,
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
    /// No process of the worker has it open any more.
    pub is_closed: bool,
}

impl fmt::Display for AcceptFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.sockets.len() == 1;
        f.write_str("does not accept from the passed ")?;
        f.write_str(if one { "socket (" } else { "sockets (" })?;
        for (index, socket) in self.sockets.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let UnservedSocket { descriptor, name, .. } = socket;
            write!(f, "{comma}descriptor {descriptor}: {name}")?;
        }
        f.write_str("): ")?;
        let it = if one { "it" } else { "them" };
        match &self.unseen {
            Some(error) => write!(f, "its processes cannot be looked at ({error})")?,
            None if self.sockets.iter().all(|socket| socket.is_closed) => {
                write!(f, "it has closed {it}")?;
            }
            None => write!(f, "none of its processes waits for connections on {it}")?,
        }
        if self.is_tried {
            f.write_str(", and a connection of the master's own is not accepted")?;
        }
        write!(f, "{}: ", Instead(&self.elsewhere))?;
        if let Some(wrapper) = &self.wrapper {
            return write!(
                f,
                "LISTEN_PID names `{wrapper}`, which has started the server: put `exec` in front of the \
                 server"
            );
        }
        let first = self.sockets.first().map_or(3, |socket| socket.descriptor);
        write!(
            f,
            "have the server take descriptor {first} (such as `--fd {first}` or `fd://{first}`), or turn \
             socket_activation off and have it listen on PORT"
        )
    }
}

/// A worker that starts child processes listens, and neither it nor they accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAcceptor {
    /// The worker ports on which nobody accepts; at least one.
    pub ports: Vec<u16>,
    /// Child processes have ended since the worker was first seen to listen.
    pub children_end: bool,
    /// The processes of the worker may not be looked at: why, for display.
    pub unseen: Option<String>,
}

impl fmt::Display for NoAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        write!(
            f,
            "listens on {}, but none of its processes accepts connections",
            ports.join(", ")
        )?;
        if let Some(error) = &self.unseen {
            write!(f, " (they cannot be looked at: {error})")?;
        }
        if self.children_end {
            f.write_str(
                ", and its child processes end again: they print why; a server that changes its user \
                 cannot, since workers have no privilege: have the master do it (`user`)",
            )?;
        }
        Ok(())
    }
}

/// An answer to a probe that does not show that the worker is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFault {
    /// What was asked, as `ready` says it.
    pub probe: String,
    /// Where.
    pub address: SocketAddr,
    /// The Host that was asked for.
    pub host: String,
    /// What came of it.
    pub outcome: ProbeOutcome,
}

/// What comes of a probe that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeOutcome {
    /// A status other than 2xx.
    Status {
        /// Its number.
        code: u16,
        /// Its standard name, or nothing.
        reason: &'static str,
    },
    /// Something that is no HTTP: why, for display.
    NotHttp {
        /// Why.
        error: String,
    },
    /// The connection was closed before an answer came.
    Closed,
    /// No connection came about: the error, for display.
    Refused {
        /// Why.
        error: String,
    },
    /// The TLS handshake failed: the error, for display.
    Tls {
        /// Why.
        error: String,
    },
    /// Nothing came in time.
    TimedOut {
        /// The time that it had.
        limit: Duration,
    },
}

impl fmt::Display for ProbeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, address, host, outcome } = self;
        let asked = format_args!("the probe {probe} (at {address}, Host {host})");
        match outcome {
            ProbeOutcome::Status { code, reason } => {
                write!(f, "answers {asked} with {code}")?;
                if !reason.is_empty() {
                    write!(f, " {reason}")?;
                }
                f.write_str(", not with 2xx")
            }
            ProbeOutcome::NotHttp { error } => write!(f, "answers no HTTP to {asked}: {error}"),
            ProbeOutcome::Closed => write!(f, "closes {asked} without an answer"),
            ProbeOutcome::Refused { error } => write!(f, "refuses {asked}: {error}"),
            ProbeOutcome::Tls { error } => write!(f, "fails the TLS handshake of {asked}: {error}"),
            ProbeOutcome::TimedOut { limit } => {
                write!(f, "does not answer {asked} within {limit:?}")
            }
        }
    }
}

/// `; it listens on ... instead`, if there is anything.
struct Instead<'a>(&'a [SocketAddr]);

impl fmt::Display for Instead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            elsewhere => write!(f, "; it listens on {} instead", List(elsewhere)),
        }
    }
}

/// The first few of some addresses.
struct List<'a>(&'a [SocketAddr]);

impl List<'_> {
    const MOST: usize = 4;
}

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().take(Self::MOST).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{address}")?;
        }
        match self.0.len().saturating_sub(Self::MOST) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn fault(kind: PortFaultKind, public_ports: usize, elsewhere: &[&str]) -> String {
        let (public, protocol) = (port(443), Protocol::Tcp);
        let elsewhere = addresses(elsewhere);
        let port = port(20_000);
        let fault = PortFault { public, protocol, port, public_ports, kind, elsewhere };
        ReadinessFault::Port(fault).to_string()
    }

    #[test]
    fn a_port_without_the_worker_is_named_with_where_it_listens() {
        let missing = |public_ports, elsewhere: &[&str]| {
            fault(PortFaultKind::Missing, public_ports, elsewhere)
        };
        assert_eq!(missing(1, &[]), "listens nowhere: it must listen on 20000 (PORT)");
        assert_eq!(
            missing(1, &["127.0.0.1:5000"]),
            "listens on 127.0.0.1:5000, not on 20000: have it take its port from PORT"
        );
        assert_eq!(
            missing(2, &["[::]:5000"]),
            "does not listen for public port 443/tcp, which is one of 2: it must listen on 20000 \
             (IPCLUSTER_PORT_443); it listens on [::]:5000 instead"
        );
        let many = ["1.1.1.1:1", "1.1.1.1:2", "1.1.1.1:3", "1.1.1.1:4", "1.1.1.1:5", "1.1.1.1:6"];
        assert!(missing(1, &many).contains("1.1.1.1:4 and 2 more, not on 20000"));
    }

    #[test]
    fn what_is_wrong_with_a_port_is_said() {
        let v4 = IpAddr::from([127, 0, 0, 1]);
        for (kind, expected) in [
            (
                PortFaultKind::LoopbackOnly { address: v4, needs_ipv6: false },
                "listens on loopback only: it must listen on 0.0.0.0, port 20000, not on 127.0.0.1:20000",
            ),
            (
                PortFaultKind::OneAddress { address: [10, 9, 0, 1].into() },
                "must listen on 0.0.0.0, port",
            ),
            (
                PortFaultKind::OneAddress { address: Ipv6Addr::LOCALHOST.into() },
                "must listen on [::], port",
            ),
            (PortFaultKind::Ipv6Only { v6only: true }, "IPV6_V6ONLY, as with `uvicorn --host ::`"),
            (PortFaultKind::Ipv4Only, "takes IPv4 alone on 20000: it must listen on [::]"),
            (PortFaultKind::Taken { uid: 33 }, "a process of another session does (user 33)"),
            (
                PortFaultKind::Shared { uid: 33 },
                "does not have 20000 for itself: a process of another session listens there too (user 33, \
                 SO_REUSEPORT)",
            ),
        ] {
            let text = fault(kind, 1, &[]);
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn sockets_that_nobody_accepts_from_are_named_with_the_cure() {
        let socket = |descriptor, name: &str, is_closed| UnservedSocket {
            descriptor,
            name: name.to_owned(),
            is_closed,
        };
        let mut fault = AcceptFault {
            sockets: vec![socket(3, "80/tcp", false)],
            elsewhere: addresses(&["127.0.0.1:8000"]),
            wrapper: None,
            is_tried: true,
            unseen: None,
        };
        assert_eq!(
            fault.to_string(),
            "does not accept from the passed socket (descriptor 3: 80/tcp): none of its processes waits \
             for connections on it, and a connection of the master's own is not accepted; it listens on \
             127.0.0.1:8000 instead: have the server take descriptor 3 (such as `--fd 3` or `fd://3`), or \
             turn socket_activation off and have it listen on PORT"
        );
        fault.wrapper = Some("sh".to_owned());
        assert!(fault.to_string().ends_with(
            "LISTEN_PID names `sh`, which has started the server: put `exec` in front of the server"
        ));
        fault.sockets = vec![socket(4, "443/tcp", true), socket(5, "80/tcp", true)];
        fault.is_tried = false;
        assert!(fault.to_string().contains(
            "from the passed sockets (descriptor 4: 443/tcp, descriptor 5: 80/tcp): it has closed them;"
        ));
        fault.unseen = Some("process 7: denied".to_owned());
        assert!(fault.to_string().contains("cannot be looked at (process 7: denied)"));
    }

    #[test]
    fn an_answer_to_a_probe_is_told_with_its_status_and_host() {
        let text = |outcome| {
            let fault = ProbeFault {
                probe: "http:/healthz".to_owned(),
                address: "127.0.0.1:20000".parse().unwrap(),
                host: "localhost".to_owned(),
                outcome,
            };
            ReadinessFault::Probe(fault).to_string()
        };
        assert_eq!(
            text(ProbeOutcome::Status { code: 400, reason: "Bad Request" }),
            "answers the probe http:/healthz (at 127.0.0.1:20000, Host localhost) with 400 Bad Request, \
             not with 2xx"
        );
        let error = "invalid HTTP version parsed".to_owned();
        assert!(text(ProbeOutcome::NotHttp { error }).starts_with("answers no HTTP to the probe"));
        let limit = Duration::from_millis(7_500);
        assert!(text(ProbeOutcome::TimedOut { limit }).ends_with("within 7.5s"));
    }

    fn probed(outcome: ProbeOutcome) -> ReadinessFault {
        ReadinessFault::Probe(ProbeFault {
            probe: "http:/healthz".to_owned(),
            address: "127.0.0.1:20000".parse().unwrap(),
            host: "localhost".to_owned(),
            outcome,
        })
    }

    #[test]
    fn a_probe_without_an_answer_is_told_with_what_came() {
        let asked = "the probe http:/healthz (at 127.0.0.1:20000, Host localhost)";
        let error = || "an error".to_owned();
        for (outcome, text) in [
            (
                ProbeOutcome::Status { code: 599, reason: "" },
                format!("answers {asked} with 599, not with 2xx"),
            ),
            (ProbeOutcome::Closed, format!("closes {asked} without an answer")),
            (ProbeOutcome::Refused { error: error() }, format!("refuses {asked}: an error")),
            (
                ProbeOutcome::Tls { error: error() },
                format!("fails the TLS handshake of {asked}: an error"),
            ),
        ] {
            assert_eq!(probed(outcome).to_string(), text);
        }
    }

    #[test]
    fn a_worker_for_one_family_is_told_what_the_other_needs() {
        assert_eq!(
            fault(PortFaultKind::Ipv6Only { v6only: false }, 1, &[]),
            "does not listen for all families: 443/tcp has IPv4 clients, and it takes IPv6 alone on 20000: \
             it must listen on 0.0.0.0, or on [::] without IPV6_V6ONLY"
        );
        let loopback =
            PortFaultKind::LoopbackOnly { address: Ipv6Addr::LOCALHOST.into(), needs_ipv6: true };
        assert_eq!(
            fault(loopback, 1, &[]),
            "listens on loopback only: it must listen on [::], port 20000, not on [::1]:20000"
        );
    }

    fn no_acceptor(children_end: bool, unseen: Option<&str>) -> ReadinessFault {
        ReadinessFault::NoAcceptor(NoAcceptor {
            ports: vec![20_000, 20_001],
            children_end,
            unseen: unseen.map(str::to_owned),
        })
    }

    #[test]
    fn a_worker_whose_children_end_is_told_where_they_say_why() {
        let begin = "listens on 20000, 20001, but none of its processes accepts connections";
        assert_eq!(no_acceptor(false, None).to_string(), begin);
        let text = no_acceptor(true, Some("process 7: denied")).to_string();
        let begin = format!(
            "{begin} (they cannot be looked at: process 7: denied), and its child processes end"
        );
        assert!(text.starts_with(&begin), "{text}");
        assert!(text.ends_with("have the master do it (`user`)"), "{text}");
    }

    #[test]
    fn a_fault_explains_what_it_can_be_the_reason_of() {
        let ported = ReadinessFault::Port(PortFault {
            public: port(443),
            protocol: Protocol::Tcp,
            port: port(20_000),
            public_ports: 1,
            kind: PortFaultKind::Missing,
            elsewhere: Vec::new(),
        });
        let accept = ReadinessFault::Accept(AcceptFault {
            sockets: Vec::new(),
            elsewhere: Vec::new(),
            wrapper: None,
            is_tried: false,
            unseen: None,
        });
        let unseen = ReadinessFault::Unseen { error: "denied".to_owned() };
        assert!(
            unseen.to_string().starts_with("cannot be looked at (denied): start the master with")
        );
        let lacks = [
            NotReady::NotListening,
            NotReady::ReadyButNotListening,
            NotReady::NotNotified,
            NotReady::ProbeFailed,
            NotReady::NotAccepting,
        ];
        for (fault, explained) in [
            (ported, [true, true, false, false, false]),
            (accept, [false, false, false, false, true]),
            (no_acceptor(true, None), [false, false, false, false, true]),
            (probed(ProbeOutcome::Closed), [false, false, false, true, false]),
            (unseen, [true; 5]),
        ] {
            assert_eq!(lacks.map(|lack| fault.explains(lack)), explained, "{fault:?}");
        }
    }
}
