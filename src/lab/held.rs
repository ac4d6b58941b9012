//! A connection that stays open.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::answer::{self, Answer};
use super::{Identity, LabError, Namespace};

/// An established connection to a [`greeter`](super::greeter), which echoes every line sent on it:
/// what must live through a swap.
#[derive(Debug)]
pub struct Held {
    stream: BufReader<TcpStream>,
    by: Identity,
}

impl Held {
    /// How long connecting, and each exchange, may take.
    pub const TIME_OUT: Duration = Duration::from_secs(5);

    /// Connects from the address `from` in `namespace` to `to`, and asks to be held (`GET /hold`).
    ///
    /// # Errors
    /// [`LabError::Hold`] where the connection fails or is not answered by a worker;
    /// [`LabError::Namespace`], [`LabError::Thread`].
    pub fn open(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> Result<Self, LabError> {
        namespace.run_in(|| Self::establish(from, to))?.map_err(|source| LabError::Hold {
            from,
            to,
            source,
        })
    }

    fn establish(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        bind(&socket, &SocketAddr::new(from, 0))?;
        let mut stream = TcpStream::from(socket);
        // SO_SNDTIMEO bounds connect(2) too (socket(7)).
        stream.set_write_timeout(Some(Self::TIME_OUT))?;
        stream.set_read_timeout(Some(Self::TIME_OUT))?;
        connect(&stream, &to)?;
        stream.write_all(b"GET /hold HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        let by = read_identity(&mut stream)?;
        Ok(Self { stream: BufReader::new(stream), by })
    }

    /// The worker that holds the other end.
    pub fn by(&self) -> Identity {
        self.by
    }

    /// The client's address and port.
    ///
    /// # Errors
    /// The errors of getsockname(2).
    pub fn source(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Sends `line`, without its end, and waits until it has come back. Returns the round trip.
    ///
    /// # Errors
    /// `ConnectionReset` and the like where the connection is dead, `UnexpectedEof` where the
    /// worker closed it, `WouldBlock` after [`Held::TIME_OUT`], `InvalidData` where something else
    /// came back.
    pub fn echo(&mut self, line: &str) -> io::Result<Duration> {
        let began = Instant::now();
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut back = String::new();
        if self.stream.read_line(&mut back)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match back.strip_suffix('\n') == Some(line) {
            true => Ok(began.elapsed()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, format!("echo {back:?}"))),
        }
    }
}

fn read_identity(stream: &mut TcpStream) -> io::Result<Identity> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..length]);
        match answer::read(&bytes, length == 0) {
            Answer::Incomplete => {}
            Answer::By(identity) => return Ok(identity),
            Answer::Truncated => return Err(io::ErrorKind::UnexpectedEof.into()),
            Answer::Garbled => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no worker's answer"));
            }
        }
    }
}
