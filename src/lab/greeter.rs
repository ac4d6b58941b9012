//! A small worker that says who it is: what the demo and the tests put behind the balancer.
//!
//! It answers every request with HTTP status 200 and the line `<pid> <seat> <generation>` (an
//! [`Identity`]). After the answer to `GET /hold` the connection stays open, and every line that
//! comes on it goes back.
//!
//! Like any worker it takes all it needs to know from its environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `PORT`, `IPCLUSTER_PORT_<public>` | the ports to listen on, on every address of both families |
//! | `LISTEN_FDS`, `LISTEN_PID` | it was given its sockets, and opens none (sd_listen_fds(3)) |
//! | `IPCLUSTER_SEAT`, `IPCLUSTER_GENERATION` | who it says it is; 0 where missing |
//! | `GREETER_DELAY_MS` | how long it takes to boot, before it listens |
//! | `GREETER_EXIT` | the status with which it exits when it has booted, in place of listening |
//! | `GREETER_LISTEN=never` | it boots, lives on, and never listens |
//! | `GREETER_SPEAK=first` | it says its line to everyone at once, without HTTP, and closes: for a [`Load`](super::Load) that asks for [`Nothing`](super::Ask::Nothing) |
//! | `GREETER_HOLD_MIB` | so much memory is used from the start |
//! | `GREETER_LEAK_MIB` | so much more memory is used each second, without end |
//! | `GREETER_TRANSPARENT=yes` | the sockets that it opens take what rules with `tproxy` give them (`IP_TRANSPARENT`) |
//! | `GREETER_UDP=yes` | it answers datagrams to its ports as well, each with the line alone |
//!
//! On SIGTERM it accepts what has been queued, stops listening, serves the connections it has to
//! their end, and exits.

use std::collections::{BTreeMap, BTreeSet};
use std::env::{self, VarError};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::sockopt::IpTransparent;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv,
    send, socket_with, sockopt,
};

use super::Identity;
use super::datagram::Receiver;
use crate::process::{Transport, passed_sockets};

/// Runs the worker of this module until SIGTERM. It is the whole of a program: call it in `main`,
/// while the process has one thread.
pub fn main() -> ExitCode {
    let outcome = Settings::from_env().and_then(|settings| {
        let terminated = block_sigterm()?;
        hold_memory(variable("GREETER_HOLD_MIB")?, variable("GREETER_LEAK_MIB")?);
        match settings.boot(&terminated)? {
            Some(status) => Ok(status),
            None => Greeter::new(&settings, terminated)?.run().map(|()| ExitCode::SUCCESS),
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("greeter: {error}");
        ExitCode::FAILURE
    })
}

#[derive(Debug)]
struct Settings {
    ports: BTreeSet<u16>,
    identity: Identity,
    delay: Duration,
    exit: Option<u8>,
    listens: bool,
    speaks_first: bool,
    answers_datagrams: bool,
    is_transparent: bool,
}

impl Settings {
    fn from_env() -> io::Result<Self> {
        let mut ports = BTreeSet::new();
        for (name, value) in env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            if name == "PORT" || name.starts_with("IPCLUSTER_PORT_") {
                ports.insert(parse(name, &value.to_string_lossy())?);
            }
        }
        if ports.is_empty() {
            return Err(invalid("PORT is not set".to_owned()));
        }
        Ok(Self {
            ports,
            identity: Identity {
                pid: std::process::id(),
                seat: variable("IPCLUSTER_SEAT")?.unwrap_or(0),
                generation: variable("IPCLUSTER_GENERATION")?.unwrap_or(0),
            },
            delay: Duration::from_millis(variable("GREETER_DELAY_MS")?.unwrap_or(0)),
            exit: variable("GREETER_EXIT")?,
            listens: env::var_os("GREETER_LISTEN").is_none_or(|value| value != "never"),
            speaks_first: env::var_os("GREETER_SPEAK").is_some_and(|value| value == "first"),
            answers_datagrams: env::var_os("GREETER_UDP").is_some_and(|value| value == "yes"),
            is_transparent: env::var_os("GREETER_TRANSPARENT").is_some_and(|value| value == "yes"),
        })
    }

    /// The sockets that it was given, or else those that it opens.
    fn sockets(&self) -> io::Result<(Vec<OwnedFd>, Vec<Receiver>)> {
        let (mut listeners, mut receivers) = (Vec::new(), Vec::new());
        for (_, socket) in passed_sockets().map_err(io::Error::other)? {
            let transport = socket.transport();
            let socket = OwnedFd::from(socket);
            rustix::io::ioctl_fionbio(&socket, true)?;
            match transport {
                Transport::Tcp => listeners.push(socket),
                Transport::Udp => receivers.push(Receiver::new(socket)?),
            }
        }
        if listeners.is_empty() && receivers.is_empty() {
            for &port in &self.ports {
                listeners.push(listen_on(port, self.is_transparent).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot listen on port {port}: {error}"))
                })?);
            }
            for &port in self.ports.iter().filter(|_| self.answers_datagrams) {
                receivers.push(Receiver::bind(port, self.is_transparent)?);
            }
        }
        Ok((listeners, receivers))
    }

    /// Takes the time to boot, and says with what status to exit where it should not go on.
    fn boot(&self, terminated: &SignalFd) -> io::Result<Option<ExitCode>> {
        if wait_for(terminated, Some(self.delay))? {
            return Ok(Some(ExitCode::SUCCESS));
        }
        if let Some(status) = self.exit {
            eprintln!("greeter: GREETER_EXIT is {status}");
            return Ok(Some(ExitCode::from(status)));
        }
        if !self.listens {
            wait_for(terminated, None)?;
            return Ok(Some(ExitCode::SUCCESS));
        }
        Ok(None)
    }
}

fn variable<T: FromStr>(name: &str) -> io::Result<Option<T>> {
    match env::var(name) {
        Ok(value) => parse(name, &value).map(Some),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(invalid(format!("{name} is not text"))),
    }
}

fn parse<T: FromStr>(name: &str, value: &str) -> io::Result<T> {
    value.parse().map_err(|_| invalid(format!("{name}={value:?} is no number in range")))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Uses memory that is never given back: some MiB at once, some each second.
fn hold_memory(hold: Option<usize>, leak: Option<u32>) {
    const MIB: usize = 1 << 20;
    // Other bytes than zero: those would be one page of the kernel's until they are written.
    let take = |mebibytes: usize| vec![1u8; mebibytes * MIB].leak();
    take(hold.unwrap_or(0));
    if let Some(rate) = leak.filter(|rate| *rate > 0) {
        std::thread::spawn(move || {
            loop {
                take(1);
                std::thread::sleep(Duration::from_secs(1) / rate);
            }
        });
    }
}

/// From now on SIGTERM makes the returned descriptor readable, and does nothing else.
fn block_sigterm() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Whether SIGTERM came within `time`; `None` waits for it.
fn wait_for(terminated: &SignalFd, time: Option<Duration>) -> io::Result<bool> {
    let deadline = time.map(|time| Instant::now() + time);
    loop {
        let left = match deadline {
            Some(deadline) => deadline
                .saturating_duration_since(Instant::now())
                .as_millis()
                .try_into()
                .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut [PollFd::new(terminated.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() < deadline) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// How many connections may wait to be accepted; the kernel takes no more than
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The most connections accepted before those that are open get their turn.
const ACCEPTED_AT_ONCE: usize = 64;

/// The longest request, and the longest line to echo.
const MAX_LENGTH: usize = 8192;

const SIGNAL: u64 = u64::MAX;
const FIRST_LISTENER: u64 = u64::MAX - 65_536;
const FIRST_RECEIVER: u64 = FIRST_LISTENER - 65_536;

struct Greeter {
    epoll: OwnedFd,
    terminated: SignalFd,
    listeners: Vec<OwnedFd>,
    receivers: Vec<Receiver>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    response: Vec<u8>,
    speaks_first: bool,
    line: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    received: Vec<u8>,
    is_held: bool,
}

impl Greeter {
    fn new(settings: &Settings, terminated: SignalFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &terminated, EventData::new_u64(SIGNAL), EventFlags::IN)?;
        let (listeners, receivers) = settings.sockets()?;
        for (number, listener) in (FIRST_LISTENER..).zip(&listeners) {
            epoll::add(&epoll, listener, EventData::new_u64(number), EventFlags::IN)?;
        }
        for (number, receiver) in (FIRST_RECEIVER..).zip(&receivers) {
            epoll::add(&epoll, receiver, EventData::new_u64(number), EventFlags::IN)?;
        }
        let body = format!("{}\n", settings.identity);
        let response = match settings.speaks_first {
            true => body.clone(),
            false => format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            ),
        };
        Ok(Self {
            epoll,
            terminated,
            listeners,
            receivers,
            connections: BTreeMap::new(),
            next: 0,
            response: response.into_bytes(),
            speaks_first: settings.speaks_first,
            line: body.into_bytes(),
        })
    }

    /// Serves until SIGTERM has come and the last connection has ended.
    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        while !(self.listeners.is_empty()
            && self.receivers.is_empty()
            && self.connections.is_empty())
        {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                match event.data.u64() {
                    SIGNAL => self.stop_listening()?,
                    number @ FIRST_LISTENER.. => {
                        let index = usize::try_from(number - FIRST_LISTENER).unwrap_or(usize::MAX);
                        self.accept(index, ACCEPTED_AT_ONCE)?;
                    }
                    number @ FIRST_RECEIVER.. => {
                        let index = usize::try_from(number - FIRST_RECEIVER).unwrap_or(usize::MAX);
                        if let Some(receiver) = self.receivers.get(index) {
                            receiver.answer(&self.line)?;
                        }
                    }
                    number => self.serve(number),
                }
            }
        }
        Ok(())
    }

    /// Takes every connection that the kernel has completed and answers every datagram, then closes
    /// the sockets for further ones: closing one with a queue resets what is in it.
    fn stop_listening(&mut self) -> io::Result<()> {
        while self.terminated.read_signal()?.is_some() {}
        for index in 0..self.listeners.len() {
            self.accept(index, usize::MAX)?;
        }
        self.listeners.clear();
        for receiver in self.receivers.drain(..) {
            receiver.answer(&self.line)?;
        }
        Ok(())
    }

    fn accept(&mut self, index: usize, most: usize) -> io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        for _ in 0..most {
            let Some(listener) = self.listeners.get(index) else { break };
            match accept_with(listener, flags) {
                Ok(socket) => self.admit(socket)?,
                Err(Errno::AGAIN) => break,
                // The client was gone before we came to it (accept(2)).
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn admit(&mut self, socket: OwnedFd) -> io::Result<()> {
        if self.speaks_first {
            // With MORE the line waits for the close, so that one segment carries it and the FIN.
            // It fails only where the client is gone.
            let _ = send(&socket, &self.response, SendFlags::NOSIGNAL | SendFlags::MORE);
            return Ok(());
        }
        let mut connection = Connection { socket, received: Vec::new(), is_held: false };
        // The request has often come by the time of the accept.
        if connection.advance(&self.response) {
            let number = self.next;
            self.next += 1;
            let data = EventData::new_u64(number);
            epoll::add(&self.epoll, &connection.socket, data, EventFlags::IN)?;
            self.connections.insert(number, connection);
        }
        Ok(())
    }

    fn serve(&mut self, number: u64) {
        let connection = self.connections.get_mut(&number);
        if connection.is_some_and(|connection| !connection.advance(&self.response)) {
            self.connections.remove(&number);
        }
    }
}

impl Connection {
    /// Reads and answers what has come; false once the connection should be closed.
    fn advance(&mut self, response: &[u8]) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) => return false,
                Ok((length, _)) => {
                    self.received.extend_from_slice(&buffer[..length]);
                    if !self.answer(response) || self.received.len() > MAX_LENGTH {
                        return false;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Answers the request once it is whole, then each whole line of a held connection; false once
    /// the connection should be closed.
    fn answer(&mut self, response: &[u8]) -> bool {
        if !self.is_held {
            let end = self.received.windows(4).position(|window| window == b"\r\n\r\n");
            let Some(end) = end else { return true };
            self.is_held = self.received.starts_with(b"GET /hold ");
            self.received.drain(..end + 4);
            if !self.send(response) || !self.is_held {
                return false;
            }
        }
        match self.received.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => {
                let lines: Vec<u8> = self.received.drain(..=end).collect();
                self.send(&lines)
            }
            None => true,
        }
    }

    /// Sends all of `bytes`; a client that does not read, so that they find no room, is dropped.
    fn send(&self, bytes: &[u8]) -> bool {
        send(&self.socket, bytes, SendFlags::NOSIGNAL).is_ok_and(|sent| sent == bytes.len())
    }
}

/// A listener on every address of both families, or of IPv4 alone where the kernel has no IPv6.
fn listen_on(port: u16, is_transparent: bool) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = match socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)
    {
        Ok(socket) => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        Err(Errno::AFNOSUPPORT) => (
            socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?,
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        ),
        Err(errno) => return Err(errno.into()),
    };
    nix::sys::socket::setsockopt(&socket, IpTransparent, &is_transparent)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}
