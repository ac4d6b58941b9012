//! Long connections that carry as much as they can.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipcluster::internals::process::{Endpoint, HeldSocket, Transport};
use ipcluster::lab::{Namespace, Network};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

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
        let (received, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let carried = || {
            let by_workers = self.workers.iter().map(|it| it.received.load(Ordering::Relaxed));
            received.load(Ordering::Relaxed) + by_workers.sum::<u64>()
        };
        let before = carried();
        thread::scope(|scope| {
            for mut stream in streams {
                let goes_on = || !is_over.load(Ordering::Relaxed);
                let received = &received;
                scope.spawn(move || match direction {
                    Direction::Up => send(&mut stream, goes_on),
                    Direction::Down => receive(&mut stream, received, goes_on),
                });
            }
            let _end = OnDrop(&is_over);
            let begun = Instant::now();
            while carried() == before {
                assert!(begun.elapsed() < PATIENCE, "{:?}: nothing comes", self.stage.way);
                thread::yield_now();
            }
            // Windows and buffers grow.
            thread::sleep(time / 2);
            let (first, span) = (carried(), watch.begin());
            thread::sleep(time);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            ((carried() - first) as f64, span.end())
        })
    }

    /// Connects the first client of a seat, and looks that the worker of that seat answers.
    fn open(&self, direction: Direction, seat: usize) -> TcpStream {
        let targets = self.stage.targets();
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .expect("a socket");
        setsockopt(&socket, IpBindAddressNoPort, &true).expect("a port at connect");
        bind(&socket, &SocketAddr::new(self.clients[seat], 0)).expect("an address of the clients");
        let mut stream = TcpStream::from(socket);
        // SO_SNDTIMEO bounds connect(2) too (socket(7)).
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        // It ends by a reset. After a shutdown a worker that waits for a larger window would hear of
        // it by its own probes alone, seconds later.
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("no lingering");
        connect(&stream, &targets[seat % targets.len()]).expect("a connection");
        stream.write_all(&[direction as u8]).expect("a new socket has room");
        let mut answer = [0];
        let way = self.stage.way;
        stream
            .read_exact(&mut answer)
            .unwrap_or_else(|error| panic!("{way:?}, {direction:?}, seat {seat}: {error}"));
        assert_eq!(usize::from(answer[0]), seat, "{way:?}: the seat that answers");
        stream
    }
}

/// Sets a flag when it goes, even by a panic: the threads of a scope are waited for in any case.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
        true => receive(&mut stream, received, || true),
        false => send(&mut stream, || true),
    }
    Ok(())
}

/// Sends until the other side is gone.
fn send(stream: &mut TcpStream, goes_on: impl Fn() -> bool) {
    let chunk = vec![0; CHUNK];
    while goes_on() && stream.write_all(&chunk).is_ok() {}
}

/// Receives until the other side is gone.
fn receive(stream: &mut TcpStream, received: &AtomicU64, goes_on: impl Fn() -> bool) {
    let mut chunk = vec![0; CHUNK];
    while goes_on() {
        let Ok(length @ 1..) = stream.read(&mut chunk) else { break };
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}
