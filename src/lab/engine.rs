//! The thread of a load: one epoll instance, thousands of sockets.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno as Error;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, getpeername,
    getsockname, recv, send, socket_with, sockopt as option,
};

use super::answer::{self, Answer};
use super::load::{Ask, Close, Counters, Load, Pace};
use super::report::Answer as Entry;
use super::{Failure, FailureKind, Identity, LabError, Report};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";

/// The longest wait for events: how late a stop is noticed.
const TICK: Duration = Duration::from_millis(10);

/// The most connections begun between two looks at the sockets.
const BURST: u64 = 64;

/// What the thread and its handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) began: Instant,
    pub(super) report: Mutex<Report>,
    started: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    changed_worker: AtomicU64,
}

impl Shared {
    pub(super) fn new(load: &Load) -> Self {
        let began = Instant::now();
        Self {
            stop: AtomicBool::new(false),
            began,
            report: Mutex::new(Report {
                clients: load.clients.clone().into(),
                targets: load.targets.clone().into(),
                workers: Vec::new(),
                answers: Vec::new(),
                failures: Vec::new(),
                failed: 0,
                began,
                elapsed: Duration::ZERO,
                max_open: 0,
            }),
            started: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            changed_worker: AtomicU64::new(0),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            started: self.started.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            changed_worker: self.changed_worker.load(Ordering::Relaxed),
        }
    }
}

/// One connection.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    serial: u32,
    client: u32,
    target: u16,
    began: Instant,
    /// What is still to be sent.
    request: &'static [u8],
    answer: Vec<u8>,
}

/// Where a connection stands after its socket was served.
enum Progress {
    Open,
    Answered(Identity),
    Failed(FailureKind),
}

pub(super) struct Engine {
    load: Load,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    open: usize,
    max_open: usize,
    started: u64,
    serial: u32,
    /// Place and serial of each connection in the order in which they began, thus time out.
    oldest: VecDeque<(u32, u32)>,
    next_client: usize,
    next_target: usize,
    /// The index in `workers` of the last answer to each client.
    last_worker: Vec<Option<u32>>,
    workers: Vec<Identity>,
    answers: Vec<Entry>,
    failures: Vec<Failure>,
}

impl Engine {
    pub(super) fn new(load: Load, shared: Arc<Shared>) -> Result<Self, LabError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| {
            LabError::Engine { operation: "make an epoll instance", source: errno.into() }
        })?;
        Ok(Self {
            last_worker: vec![None; load.clients.len()],
            load,
            shared,
            epoll,
            connections: Vec::new(),
            free: Vec::new(),
            open: 0,
            max_open: 0,
            started: 0,
            serial: 0,
            oldest: VecDeque::new(),
            next_client: 0,
            next_target: 0,
            workers: Vec::new(),
            answers: Vec::new(),
            failures: Vec::new(),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(1024);
        while !self.is_over() || self.open > 0 {
            let due = self.due();
            for _ in 0..due.min(BURST) {
                self.begin();
            }
            self.serve(&mut events, if due > BURST { Duration::ZERO } else { self.idle_time() });
            self.expire();
            self.publish();
        }
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.elapsed = self.shared.began.elapsed();
    }

    /// Whether no connection should begin any more.
    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
            || self.load.connections.is_some_and(|most| self.started >= most)
            || self.load.duration.is_some_and(|most| self.shared.began.elapsed() >= most)
    }

    /// How many connections should begin now.
    fn due(&self) -> u64 {
        if self.is_over() {
            return 0;
        }
        let by_pace = match self.load.pace {
            Pace::Rate(rate) => self.scheduled(rate).saturating_sub(self.started),
            Pace::Concurrency(most) => most.saturating_sub(self.open) as u64,
        };
        let most = self.load.connections.map_or(u64::MAX, |most| most - self.started);
        by_pace.min(most).min(self.load.max_open.saturating_sub(self.open) as u64)
    }

    /// How many connections should have begun by now at this rate.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count: seconds times connections a second, both above 0"
    )]
    fn scheduled(&self, rate: f64) -> u64 {
        (self.shared.began.elapsed().as_secs_f64() * rate) as u64 + 1
    }

    /// How long nothing needs to begin.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn idle_time(&self) -> Duration {
        match self.load.pace {
            Pace::Rate(rate) if !self.is_over() && self.open < self.load.max_open => {
                let next = self.started as f64 / rate;
                let wait = next - self.shared.began.elapsed().as_secs_f64();
                Duration::from_secs_f64(wait.clamp(0.0, TICK.as_secs_f64()))
            }
            _ => TICK,
        }
    }

    /// Begins the connection of the next client.
    fn begin(&mut self) {
        let client = self.next_client;
        self.next_client = (client + 1) % self.load.clients.len();
        let from = self.load.clients[client];
        let target = self.target_for(from);
        let began = Instant::now();
        self.started += 1;
        self.shared.started.fetch_add(1, Ordering::Relaxed);
        let to = self.load.targets[target];
        match open_socket(from, to) {
            Ok(socket) => self.admit(socket, client, target, began),
            Err(errno) => self.record_failure(Failure {
                source: SocketAddr::new(from, 0),
                target: to,
                kind: kind_of(errno),
                after: began.elapsed(),
                at: Instant::now(),
            }),
        }
    }

    /// The next target of the family of `client`; `Load::check` saw that there is one.
    fn target_for(&mut self, client: IpAddr) -> usize {
        loop {
            let target = self.next_target;
            self.next_target = (target + 1) % self.load.targets.len();
            if self.load.targets[target].is_ipv4() == client.is_ipv4() {
                return target;
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "clients and targets are fewer than 2^16")]
    fn admit(&mut self, socket: OwnedFd, client: usize, target: usize, began: Instant) {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        // What is not waited for wakes nobody.
        let (request, flags) = match self.load.ask {
            Ask::Http => (REQUEST, EventFlags::IN | EventFlags::OUT | EventFlags::ET),
            Ask::Nothing => (&[][..], EventFlags::IN | EventFlags::ET),
        };
        let connection = Connection {
            socket,
            serial,
            client: client as u32,
            target: target as u16,
            began,
            request,
            answer: Vec::new(),
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            (self.connections.len() - 1) as u32
        });
        let data = EventData::new_u64(u64::from(serial) << 32 | u64::from(place));
        let added = epoll::add(&self.epoll, &connection.socket, data, flags);
        self.connections[place as usize] = Some(connection);
        self.open += 1;
        self.max_open = self.max_open.max(self.open);
        self.oldest.push_back((place, serial));
        match added {
            // Over a veth pair the handshake is often over already, the answer hardly ever.
            Ok(()) if self.load.ask == Ask::Http => self.advance(place, serial),
            Ok(()) => {}
            Err(errno) => self.finish(place, Progress::Failed(kind_of(errno))),
        }
    }

    fn serve(&mut self, events: &mut Vec<epoll::Event>, wait: Duration) {
        events.clear();
        let wait = Timespec {
            tv_sec: 0,
            // At most TICK.
            tv_nsec: wait.subsec_nanos().into(),
        };
        // Only EINTR can happen to a good descriptor and buffer; the next round asks again.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&wait));
        for event in events.iter() {
            let (serial, place) = connection_of(event.data.u64());
            self.advance(place, serial);
        }
    }

    /// Moves a connection on as far as it goes without waiting, unless it is gone: one wait may
    /// bring an event of a connection that an earlier event of the same wait ended.
    fn advance(&mut self, place: u32, serial: u32) {
        let connection = self.connections[place as usize].as_mut();
        if let Some(connection) = connection.filter(|connection| connection.serial == serial) {
            match connection.advance() {
                Progress::Open => {}
                ended => self.finish(place, ended),
            }
        }
    }

    /// Ends the connections that took too long.
    fn expire(&mut self) {
        while let Some(&(place, serial)) = self.oldest.front() {
            let connection = self.connections[place as usize].as_ref();
            if let Some(connection) = connection.filter(|connection| connection.serial == serial) {
                if connection.began.elapsed() < self.load.time_out {
                    return;
                }
                let kind = match getpeername(&connection.socket) {
                    Ok(_) => FailureKind::AnswerTimedOut,
                    // ENOTCONN: the handshake goes on.
                    Err(_) => FailureKind::ConnectTimedOut,
                };
                self.finish(place, Progress::Failed(kind));
            }
            self.oldest.pop_front();
        }
    }

    fn finish(&mut self, place: u32, progress: Progress) {
        let Some(connection) = self.connections[place as usize].take() else { return };
        self.free.push(place);
        self.open -= 1;
        match progress {
            Progress::Open => {}
            Progress::Answered(by) => {
                self.record_answer(&connection, by);
                if self.load.close == Close::Reset {
                    // It can fail only for a socket that is gone, which needs no reset.
                    let _ = option::set_socket_linger(&connection.socket, Some(Duration::ZERO));
                }
            }
            Progress::Failed(kind) => {
                let from = self.load.clients[connection.client as usize];
                let source = getsockname(&connection.socket)
                    .ok()
                    .and_then(|address| SocketAddr::try_from(address).ok())
                    .unwrap_or(SocketAddr::new(from, 0));
                self.record_failure(Failure {
                    source,
                    target: self.load.targets[usize::from(connection.target)],
                    kind,
                    after: connection.began.elapsed(),
                    at: Instant::now(),
                });
            }
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the time-out, the number of workers and the age of the load are far smaller"
    )]
    fn record_answer(&mut self, connection: &Connection, by: Identity) {
        // Only the few last workers answer, so they are found at once from the end.
        let by = match self.workers.iter().rposition(|worker| *worker == by) {
            Some(index) => index as u32,
            None => {
                self.workers.push(by);
                (self.workers.len() - 1) as u32
            }
        };
        let last = self.last_worker[connection.client as usize].replace(by);
        if last.is_some_and(|last| self.workers[last as usize].pid != self.workers[by as usize].pid)
        {
            self.shared.changed_worker.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
        self.answers.push(Entry {
            client: connection.client,
            target: connection.target,
            latency_us: connection.began.elapsed().as_micros() as u32,
            at_us: self.shared.began.elapsed().as_micros() as u64,
            by,
        });
    }

    fn record_failure(&mut self, failure: Failure) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        self.failures.push(failure);
    }

    /// Hands what was recorded since the last time to the report.
    fn publish(&mut self) {
        if self.answers.is_empty() && self.failures.is_empty() {
            return;
        }
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        let known = report.workers.len();
        report.workers.extend_from_slice(&self.workers[known..]);
        report.answers.append(&mut self.answers);
        report.failed += self.failures.len() as u64;
        let room = Report::MAX_FAILURES.saturating_sub(report.failures.len());
        report.failures.extend(self.failures.drain(..).take(room));
        report.max_open = self.max_open;
    }
}

impl Connection {
    fn advance(&mut self) -> Progress {
        if !self.request.is_empty() {
            match send(&self.socket, self.request, SendFlags::NOSIGNAL) {
                // A new socket has room for all of it.
                Ok(_) => self.request = &[],
                Err(Error::AGAIN | Error::INPROGRESS | Error::NOTCONN) => return Progress::Open,
                Err(errno) => return Progress::Failed(kind_of(errno)),
            }
        }
        let mut buffer = [0; 2048];
        loop {
            let ended = match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) => true,
                Ok((length, _)) => {
                    self.answer.extend_from_slice(&buffer[..length]);
                    false
                }
                Err(Error::AGAIN) => return Progress::Open,
                Err(Error::INTR) => continue,
                Err(errno) => return Progress::Failed(kind_of(errno)),
            };
            match answer::read(&self.answer, ended) {
                Answer::Incomplete => {}
                Answer::By(identity) => return Progress::Answered(identity),
                Answer::Truncated => return Progress::Failed(FailureKind::Truncated),
                Answer::Garbled => return Progress::Failed(FailureKind::Garbled),
            }
        }
    }
}

/// Serial and place of a connection, as epoll keeps them.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
fn connection_of(data: u64) -> (u32, u32) {
    ((data >> 32) as u32, data as u32)
}

/// A socket of `from` that has begun to connect to `to`.
fn open_socket(from: IpAddr, to: SocketAddr) -> Result<OwnedFd, Error> {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // The port is chosen by `connect`, so that one port serves for several targets and a client
    // does not run out of them.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)
        .map_err(|errno| Error::from_raw_os_error(errno as i32))?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    match connect(&socket, &to) {
        Ok(()) | Err(Error::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn kind_of(errno: Error) -> FailureKind {
    FailureKind::from_errno(errno)
}
