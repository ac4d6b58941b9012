//! Long connections that carry as much as they can.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipcluster::lab::{Namespace, Network};
use ipcluster::process::{Endpoint, HeldSocket, Transport};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::busy::{Use, Watch};
use super::stage::{self, Stage, WORKERS, Way};

/// How many connections there are: to as many workers.
const CONNECTIONS: usize = 4;

/// What one call sends or receives at most.
const CHUNK: usize = 256 * 1024;

/// How long a client waits for its worker.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Direction {
    /// From the clients.
    Up = b'u',
    /// To the clients.
    Down = b'd',
}

/// A stage with a thread for each of eight listening sockets.
pub(crate) struct Bulk {
    stage: Stage,
    clients: Vec<IpAddr>,
    workers: Vec<Worker>,
}

impl Bulk {
    pub(crate) fn build(way: Way) -> Self {
        let start = |network: &Network| {
            let work = || (0..WORKERS).map(|seat| Worker::start(way, seat)).collect();
            network.server().run_in(work).expect("the server's namespace")
        };
        let (stage, workers) = Stage::build(way, start);
        Self { stage, clients: stage::clients(1), workers }
    }

    /// Where the workers are.
    pub(crate) fn server(&self) -> &Namespace {
        self.stage.network.server()
    }

    /// The bytes that came to the other side while it was measured.
    pub(crate) fn carry(&self, direction: Direction, watch: &Watch, time: Duration) -> (f64, Use) {
        let seats = 0..CONNECTIONS;
        let open = || seats.map(|seat| self.open(direction, seat)).collect::<Vec<_>>();
        let streams = self.stage.network.client().run_in(open).expect("the client's namespace");
        let received = Arc::new(AtomicU64::new(0));
        let clients: Vec<JoinHandle<()>> = streams
            .iter()
            .map(|stream| {
                let stream = stream.try_clone().expect("another descriptor");
                let received = Arc::clone(&received);
                thread::spawn(move || serve_client(stream, direction, &received))
            })
            .collect();
        let carried = || {
            let by_workers = self.workers.iter().map(|it| it.received.load(Ordering::Relaxed));
            received.load(Ordering::Relaxed) + by_workers.sum::<u64>()
        };
        // Windows and buffers grow.
        thread::sleep(time / 4);
        let (first, span) = (carried(), watch.begin());
        thread::sleep(time);
        let (bytes, cores) = (carried() - first, span.end());
        for stream in &streams {
            stream.shutdown(Shutdown::Both).expect("a connection that is still there");
        }
        for client in clients {
            client.join().expect("a client that does not panic");
        }
        assert!(bytes > 0, "{:?}: nothing came", self.stage.way);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        (bytes as f64, cores)
    }

    /// Connects the first client of a seat, and looks that the worker of that seat answers.
    fn open(&self, direction: Direction, seat: usize) -> TcpStream {
        let targets = self.stage.targets();
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .expect("a socket");
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).expect("a port at connect");
        bind(&socket, &SocketAddr::new(self.clients[seat], 0)).expect("an address of the clients");
        let mut stream = TcpStream::from(socket);
        // SO_SNDTIMEO bounds connect(2) too (socket(7)).
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        connect(&stream, &targets[seat % targets.len()]).expect("a connection");
        stream.write_all(&[direction as u8]).expect("a new socket has room");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(usize::from(answer[0]), seat, "{:?}: the seat that answers", self.stage.way);
        stream
    }
}

/// Until its connection is shut down.
fn serve_client(mut stream: TcpStream, direction: Direction, received: &AtomicU64) {
    match direction {
        Direction::Up => send(&mut stream),
        Direction::Down => receive(&mut stream, received),
    }
}

/// A thread with a listening socket, that serves one connection after the other. It ends with this
/// value.
struct Worker {
    listener: TcpListener,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(way: Way, seat: u16) -> Self {
        let transparent = way.is_transparent();
        let endpoint = Endpoint { transport: Transport::Tcp, ipv4: true, ipv6: true, transparent };
        let socket = HeldSocket::open(stage::port_of(seat), endpoint, 16);
        let listener = TcpListener::from(OwnedFd::from(socket.expect("a listening socket")));
        let accepting = listener.try_clone().expect("another descriptor");
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let thread = thread::spawn(move || {
            // It fails once it was shut down.
            while let Ok((stream, _)) = accepting.accept() {
                // A client that is gone is no matter of the worker's.
                let _ = serve(stream, seat, &counter);
            }
        });
        Self { listener, received, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only for a worker that has panicked, which has said why.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(mut stream: TcpStream, seat: u16, received: &AtomicU64) -> io::Result<()> {
    let mut wish = [0];
    stream.read_exact(&mut wish)?;
    let seat = u8::try_from(seat).expect("8 seats");
    stream.write_all(&[seat])?;
    match wish[0] == Direction::Up as u8 {
        true => receive(&mut stream, received),
        false => send(&mut stream),
    }
    Ok(())
}

/// Sends until the other side is gone.
fn send(stream: &mut TcpStream) {
    let chunk = vec![0; CHUNK];
    while stream.write_all(&chunk).is_ok() {}
}

/// Receives until the other side is gone.
fn receive(stream: &mut TcpStream, received: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}
