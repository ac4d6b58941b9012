//! What the master says to a worker by its environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::notify::Notifier;
use crate::plan::{ClusterName, Generation, MAX_SEATS, Port, Protocol, Seat};
use crate::process::{HeldSocket, ProcessError, passed_sockets};

/// This process as a worker: what its master says of it in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    name: ClusterName,
    generation: Generation,
    seat: Seat,
    workers: u16,
    port: Port,
    ports: BTreeMap<Port, Port>,
    socket: PathBuf,
    pub(super) notify: Option<Notifier>,
}

impl Worker {
    /// Reads the variables that the master sets: `PORT`, `IPCLUSTER_PORT_<public>`,
    /// `IPCLUSTER_SEAT`, `IPCLUSTER_WORKERS`, `IPCLUSTER_GENERATION`, `IPCLUSTER_NAME`,
    /// `IPCLUSTER_SOCKET`; and `NOTIFY_SOCKET`, where it is set.
    ///
    /// # Errors
    /// A [`WorkerError`] that names the variable: this process was started by something else.
    pub fn from_env() -> Result<Self, WorkerError> {
        Self::from_variables(std::env::vars_os())
    }

    /// The same from variables that the caller has.
    ///
    /// # Errors
    /// Those of [`Self::from_env`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, WorkerError> {
        let variables = Variables::new(variables);
        let workers = variables.number("IPCLUSTER_WORKERS", "1 to 1024", |n| {
            u16::try_from(n).ok().filter(|workers| (1..=MAX_SEATS).contains(workers))
        })?;
        Ok(Self {
            name: variables.parse("IPCLUSTER_NAME", "the name of a cluster")?,
            generation: Generation(
                variables.number("IPCLUSTER_GENERATION", "1 or more", |n| (n > 0).then_some(n))?,
            ),
            seat: Seat(variables.number("IPCLUSTER_SEAT", "less than IPCLUSTER_WORKERS", |n| {
                u16::try_from(n).ok().filter(|seat| *seat < workers)
            })?),
            workers,
            port: variables.port("PORT")?,
            ports: variables.ports()?,
            socket: variables.get("IPCLUSTER_SOCKET")?.into(),
            notify: variables.0.get("NOTIFY_SOCKET").and_then(Notifier::new),
        })
    }

    /// The name of the cluster.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The generation that this worker was started for.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The seat that it holds, or is to hold.
    pub fn seat(&self) -> Seat {
        self.seat
    }

    /// How many workers the cluster had when this one was started, 1 to 1024.
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// The port to listen on for the first listener.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The port to listen on for each public port.
    pub fn ports(&self) -> &BTreeMap<Port, Port> {
        &self.ports
    }

    /// The listening sockets that the master has opened for this worker, blocking, and closed on
    /// exec; none if it is to open its own, on [`Self::ports`]. They are more than one for a public
    /// port if tcp and udp listeners share it. Each call gives copies. The master has each socket,
    /// too: closing all copies refuses nobody, but leaves who waits to the next worker.
    ///
    /// # Errors
    /// [`WorkerError::Sockets`], [`WorkerError::Invalid`].
    pub fn listeners(&self) -> Result<Vec<PassedListener>, WorkerError> {
        let sockets = passed_sockets().map_err(|source| WorkerError::Sockets { source })?;
        let listener = |(name, socket): (String, HeldSocket)| match named(&name) {
            Some((public, protocol)) => Ok(PassedListener { public, protocol, socket }),
            None => Err(invalid("LISTEN_FDNAMES", &name.into(), "names such as 80/tcp")),
        };
        sockets.into_iter().map(listener).collect()
    }

    /// The control socket of the master for workers: what [`Self::join`] connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A listening TCP socket, or a bound UDP socket, that the master has opened for this worker.
#[derive(Debug)]
pub struct PassedListener {
    /// The public port whose connections come here.
    pub public: Port,
    /// What it speaks.
    pub protocol: Protocol,
    socket: HeldSocket,
}

impl AsFd for PassedListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<PassedListener> for OwnedFd {
    fn from(listener: PassedListener) -> Self {
        listener.socket.into()
    }
}

/// The public port and protocol that a name such as `80/tcp` stands for.
fn named(name: &str) -> Option<(Port, Protocol)> {
    let (port, protocol) = name.split_once('/')?;
    let protocol = Protocol::ALL.into_iter().find(|it| it.to_string() == protocol)?;
    Some((number(&port.into()).and_then(as_port)?, protocol))
}

/// Why this process is no worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// A variable that is not set.
    #[error("{variable} is not set: this process was not started by ipcluster")]
    Missing {
        /// The variable.
        variable: &'static str,
    },
    /// A variable with a value that no master sets.
    #[error("{variable} is {value:?}: expected {expected}")]
    Invalid {
        /// The variable.
        variable: String,
        /// Its value, cut to 80 characters.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The sockets that the master has opened cannot be taken.
    #[error("cannot take the sockets of LISTEN_FDS: {source}")]
    Sockets {
        /// Why.
        source: ProcessError,
    },
}

/// The variables that matter here.
struct Variables(BTreeMap<String, OsString>);

impl Variables {
    fn new(all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named = |(name, value): (OsString, _)| Some((name.into_string().ok()?, value));
        let is_for_us = |name: &String| {
            name == "PORT" || name == "NOTIFY_SOCKET" || name.starts_with("IPCLUSTER_")
        };
        Self(all.into_iter().filter_map(named).filter(|(name, _)| is_for_us(name)).collect())
    }

    fn get(&self, variable: &'static str) -> Result<&OsString, WorkerError> {
        self.0.get(variable).ok_or(WorkerError::Missing { variable })
    }

    fn parse<T: FromStr>(
        &self,
        variable: &'static str,
        expected: &'static str,
    ) -> Result<T, WorkerError> {
        let value = self.get(variable)?;
        let parsed = value.to_str().and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| invalid(variable, value, expected))
    }

    fn number<T>(
        &self,
        variable: &'static str,
        expected: &'static str,
        accept: impl FnOnce(u64) -> Option<T>,
    ) -> Result<T, WorkerError> {
        let value = self.get(variable)?;
        number(value).and_then(accept).ok_or_else(|| invalid(variable, value, expected))
    }

    fn port(&self, variable: &'static str) -> Result<Port, WorkerError> {
        self.number(variable, PORTS, as_port)
    }

    /// `IPCLUSTER_PORT_<public>` of all public ports.
    fn ports(&self) -> Result<BTreeMap<Port, Port>, WorkerError> {
        let all = self
            .0
            .iter()
            .filter_map(|(name, value)| Some((name, name.strip_prefix("IPCLUSTER_PORT_")?, value)));
        let ports = all.map(|(name, public, value)| {
            let pair =
                number(&public.into()).and_then(as_port).zip(number(value).and_then(as_port));
            pair.ok_or_else(|| invalid(name, value, PORTS))
        });
        let ports: BTreeMap<Port, Port> = ports.collect::<Result<_, _>>()?;
        match ports.len() {
            0 => Err(WorkerError::Missing { variable: "IPCLUSTER_PORT_<public port>" }),
            _ => Ok(ports),
        }
    }
}

const PORTS: &str = "ports, 1 to 65535";

/// A number of digits alone, as the master writes it.
fn number(value: &OsString) -> Option<u64> {
    let text = value.to_str()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn as_port(number: u64) -> Option<Port> {
    u16::try_from(number).ok().and_then(Port::new)
}

fn invalid(variable: &str, value: &OsString, expected: &'static str) -> WorkerError {
    let value = value.to_string_lossy().chars().take(80).collect();
    WorkerError::Invalid { variable: variable.to_owned(), value, expected }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::process::{Endpoint, Output, Passed, Spawn, Transport};

    const GOOD: [(&str, &str); 8] = [
        ("PORT", "20004"),
        ("IPCLUSTER_PORT_80", "20004"),
        ("IPCLUSTER_PORT_443", "20005"),
        ("IPCLUSTER_SEAT", "2"),
        ("IPCLUSTER_WORKERS", "4"),
        ("IPCLUSTER_GENERATION", "7"),
        ("IPCLUSTER_NAME", "web"),
        ("IPCLUSTER_SOCKET", "/run/ipcluster/web.sock"),
    ];

    /// The worker of the good variables, with one of them replaced or left out.
    fn worker(changed: &str, value: Option<&str>) -> Result<Worker, WorkerError> {
        let others = GOOD.iter().filter(|(name, _)| *name != changed).copied();
        let changed = value.map(|value| (changed, value));
        Worker::from_variables(
            others.chain(changed).map(|(name, value)| (name.into(), value.into())),
        )
    }

    #[test]
    fn the_variables_of_the_master_make_a_worker() {
        let worker = worker("HOME", Some("/root")).unwrap();
        assert_eq!(worker.name().as_str(), "web");
        assert_eq!((worker.seat(), worker.workers()), (Seat(2), 4));
        assert_eq!(worker.generation(), Generation(7));
        assert_eq!(worker.port().number(), 20004);
        let ports = worker.ports().iter().map(|(public, port)| (public.number(), port.number()));
        assert_eq!(ports.collect::<Vec<_>>(), [(80, 20004), (443, 20005)]);
        assert_eq!(worker.socket(), Path::new("/run/ipcluster/web.sock"));
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

    #[test]
    fn a_worker_takes_the_sockets_that_it_was_started_with() {
        const TEST: &str =
            "worker::environment::tests::a_worker_takes_the_sockets_that_it_was_started_with";
        if std::env::var_os("IPCLUSTER_TEST_ROLE").is_some() {
            let listeners = Worker::from_env().unwrap().listeners().unwrap();
            let [listener] = <[PassedListener; 1]>::try_from(listeners).unwrap();
            assert_eq!((listener.public.number(), listener.protocol), (80, Protocol::Tcp));
            let listener = TcpListener::from(OwnedFd::from(listener));
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
        let passed = [Passed { name: "80/tcp", socket: socket.as_fd() }];
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
        assert_eq!(worker.unwrap().listeners().unwrap().len(), 0);
    }

    #[test]
    fn a_variable_that_is_missing_is_named() {
        for (name, _) in GOOD.iter().filter(|(name, _)| !name.starts_with("IPCLUSTER_PORT_")) {
            let error = worker(name, None).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} is not set")), "{error}");
        }
        let none = GOOD.iter().filter(|(name, _)| !name.starts_with("IPCLUSTER_PORT_"));
        let none = none.map(|(name, value)| (name.into(), value.into()));
        assert!(matches!(Worker::from_variables(none), Err(WorkerError::Missing { .. })));
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        for (name, value) in [
            ("PORT", "0"),
            ("PORT", "+80"),
            ("PORT", ""),
            ("PORT", "65536"),
            ("IPCLUSTER_PORT_80", "80abc"),
            ("IPCLUSTER_PORT_x", "20006"),
            ("IPCLUSTER_PORT_0", "20006"),
            ("IPCLUSTER_SEAT", "4"),
            ("IPCLUSTER_SEAT", "-1"),
            ("IPCLUSTER_WORKERS", "1025"),
            ("IPCLUSTER_GENERATION", "0"),
            ("IPCLUSTER_NAME", "a/b"),
        ] {
            let error = worker(name, Some(value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} is {value:?}: expected ")), "{error}");
        }
    }
}
