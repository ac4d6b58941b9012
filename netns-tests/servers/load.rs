//! The clients of a measurement: they ask over HTTP, and count what was not answered whole with 200.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipcluster::lab::Namespace;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde::{Deserialize, Serialize};

/// How long a client waits for the next byte of an answer, or for a connection.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long a client that was refused waits at least.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What a client does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// A request every 200 ms on one connection, which is made anew when the server has closed it.
    KeepAlive,
    /// A connection for each request, with 100 ms between two.
    Short,
    /// A connection for each request, whose answer takes the server 2 s.
    Slow,
}

impl Habit {
    fn path(self) -> &'static str {
        match self {
            Self::KeepAlive | Self::Short => "/",
            Self::Slow => "/slow",
        }
    }

    fn pause(self) -> Duration {
        match self {
            Self::KeepAlive => Duration::from_millis(200),
            Self::Short => Duration::from_millis(100),
            Self::Slow => Duration::ZERO,
        }
    }
}

/// Requests that a server had, and what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Requests that were sent, or for which a connection was tried.
    pub(crate) requests: u64,
    /// Requests that were not answered whole with 200, by what happened.
    pub(crate) failed: BTreeMap<Failure, u64>,
    /// When they failed, for the log of a run.
    #[serde(skip)]
    pub(crate) log: Vec<String>,
}

impl Count {
    /// All that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Those that were lost otherwise than by [`Failure::ClosedBetween`].
    pub(crate) fn lost(&self) -> u64 {
        self.failed() - self.failed.get(&Failure::ClosedBetween).copied().unwrap_or_default()
    }
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// Nobody took the connection.
    #[serde(rename = "not connected")]
    NotConnected,
    /// The server closed an idle keep-alive connection just while the next request was on its way
    /// (RFC 9112, 9.3.1: a client may send such a request again by itself, if it is idempotent).
    #[serde(rename = "sent while the server closed an idle connection")]
    ClosedBetween,
    /// The connection ended before the answer began.
    #[serde(rename = "unanswered")]
    Unanswered,
    /// The connection ended within the answer.
    #[serde(rename = "cut")]
    Cut,
    /// Nothing came for 12 s.
    #[serde(rename = "silent for 12 s")]
    Silent,
    /// The answer had another status than 200.
    #[serde(rename = "not 200")]
    Status,
}

/// Clients that ask until they are stopped.
#[derive(Debug)]
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    count: Arc<Mutex<Count>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts a client for each address and habit.
    pub(crate) fn start(
        client: &Namespace,
        server: SocketAddr,
        clients: impl IntoIterator<Item = (IpAddr, Habit)>,
    ) -> Self {
        let (stop, count) = (Arc::default(), Arc::default());
        let clients: Vec<_> = clients.into_iter().collect();
        let began = Instant::now();
        let start = |(address, habit)| {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            let client = Client { address, server, habit, stop, count, began, stream: None };
            // A thread begins in the namespace of the one that starts it.
            thread::spawn(move || client.run())
        };
        let threads = client.run_in(|| clients.into_iter().map(start).collect());
        let threads = threads.expect("the client's namespace can be entered");
        Self { stop, count, threads }
    }

    /// How many requests were made so far.
    pub(crate) fn requests(&self) -> u64 {
        self.count.lock().unwrap_or_else(PoisonError::into_inner).requests
    }

    /// Has each client end after the request that it waits for.
    pub(crate) fn stop(self) -> Count {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        self.count.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Client {
    address: IpAddr,
    server: SocketAddr,
    habit: Habit,
    stop: Arc<AtomicBool>,
    count: Arc<Mutex<Count>>,
    began: Instant,
    /// The connection on which the next request goes.
    stream: Option<TcpStream>,
}

impl Client {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let next = Instant::now() + self.habit.pause();
            let result = self.ask();
            let next = if result.is_ok() { next } else { next.max(Instant::now() + AFTER_FAILURE) };
            self.note(result);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn ask(&mut self) -> Result<(), (Failure, String)> {
        let reused = self.stream.take().filter(is_open);
        let is_reused = reused.is_some();
        let mut stream = match reused {
            Some(stream) => stream,
            None => self.connect().map_err(|it| (Failure::NotConnected, it.to_string()))?,
        };
        let connection = if self.habit == Habit::KeepAlive { "keep-alive" } else { "close" };
        let path = self.habit.path();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: www.example\r\nConnection: {connection}\r\n\r\n");
        let mut answer = Answer::default();
        let result = stream.write_all(request.as_bytes()).and_then(|()| answer.read(&mut stream));
        let failure = match &result {
            Ok(()) if answer.status == Some(200) => {
                if self.habit == Habit::KeepAlive && answer.keeps_open {
                    self.stream = Some(stream);
                }
                return Ok(());
            }
            Ok(()) => Failure::Status,
            Err(error) if is_time_out(error) => Failure::Silent,
            Err(_) if !answer.bytes.is_empty() => Failure::Cut,
            Err(_) if is_reused => Failure::ClosedBetween,
            Err(_) => Failure::Unanswered,
        };
        let what = result.err().map_or_else(|| format!("{:?}", answer.status), |it| it.to_string());
        Err((failure, what))
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let family = if self.server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::STREAM, None)?;
        // connect(2) obeys it as well (socket(7)).
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        bind(&socket, &SocketAddr::new(self.address, 0))?;
        connect(&socket, &self.server)?;
        Ok(socket.into())
    }

    fn note(&self, result: Result<(), (Failure, String)>) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.requests += 1;
        if let Err((failure, what)) = result {
            *count.failed.entry(failure).or_default() += 1;
            let (at, habit) = (self.began.elapsed().as_secs_f64(), self.habit);
            count.log.push(format!("{at:.2} s: {habit:?}: {failure:?}: {what}"));
        }
    }
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Whether the server has neither closed the connection nor sent what nobody asked for.
fn is_open(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        seen
    };
    look().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// What has come of an answer.
#[derive(Debug, Default)]
struct Answer {
    bytes: Vec<u8>,
    status: Option<u16>,
    keeps_open: bool,
}

impl Answer {
    /// Reads until the answer is whole.
    fn read(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let head = loop {
            if let Some(end) = find(&self.bytes, b"\r\n\r\n") {
                break end + 4;
            }
            self.more(stream)?;
        };
        let text = String::from_utf8_lossy(&self.bytes[..head]).to_ascii_lowercase();
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        self.status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let fields: BTreeMap<&str, &str> =
            lines.filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim())).collect();
        let connection = fields.get("connection").copied().unwrap_or_default();
        let is_close = connection.contains("close")
            || (first.starts_with("http/1.0") && !connection.contains("keep-alive"));
        let length = fields.get("content-length").and_then(|length| length.parse::<usize>().ok());
        let is_chunked = fields.get("transfer-encoding").is_some_and(|it| it.contains("chunked"));
        self.keeps_open = !is_close && (length.is_some() || is_chunked);
        match length {
            Some(length) => {
                while self.bytes.len() < head + length {
                    self.more(stream)?;
                }
            }
            None if is_chunked => {
                while !self.bytes[head - 2..].ends_with(b"\r\n0\r\n\r\n") {
                    self.more(stream)?;
                }
            }
            None => while self.some(stream)? > 0 {},
        }
        Ok(())
    }

    fn more(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        match self.some(stream)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn some(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer)?;
        self.bytes.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
