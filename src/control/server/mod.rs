//! The master's end of the control socket.

mod limits;
mod worker_link;
mod workers_socket;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use limits::{Crowd, Place};
use workers_socket::SocketFile;

use super::directory::io_error;
use super::legacy::{self, Budget, is_worker_line};
use super::{
    Answer, Command, ControlError, EventLine, Failure, LineDecoder, Lock, MessageError, Peer,
    PeerLimits, Reply,
};

pub use worker_link::{Arrival, WorkerEvent, WorkerLink};
pub use workers_socket::WorkersSocket;

/// What a peer may take of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one user at a time, those of workers that have joined not counted; further
    /// ones are answered with an error at once.
    pub connections: usize,
    /// The same of one process.
    pub connections_of_process: usize,
    /// Time for each complete line from a peer, and for the peer to take each reply.
    pub patience: Duration,
    /// What workers may take beyond that.
    pub worker: PeerLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            connections_of_process: 16,
            patience: Duration::from_secs(5),
            worker: PeerLimits::default(),
        }
    }
}

/// A control socket that listens: peers can connect, and are served by [`Self::serve`].
#[derive(Debug)]
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    lock: Lock,
    limits: Limits,
    socket_file: SocketFile,
    workers: Option<WorkersSocket>,
    events: Option<mpsc::Sender<WorkerEvent>>,
    gate: Gate,
}

/// The descriptors of a [`Server`].
#[derive(Debug)]
pub struct ServerDescriptors {
    /// The lock file.
    pub lock: OwnedFd,
    /// The control socket.
    pub control: OwnedFd,
    /// The socket of workers, if they have one of their own.
    pub workers: Option<OwnedFd>,
}

/// Whether a server accepts peers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    sender: watch::Sender<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Closed,
    HandedOver,
}

impl Gate {
    /// Lets peers that come from now on wait in the kernel, or accepts them again.
    pub fn set_open(&self, open: bool) {
        self.sender.send_replace(if open { Mode::Open } else { Mode::Closed });
    }

    /// Ends the server. The socket and its path stay for whom they were handed over to.
    pub fn hand_over(&self) {
        self.sender.send_replace(Mode::HandedOver);
    }
}

impl Server {
    /// Goes on with a control socket that an earlier master listened on, and has handed over with the
    /// lock. Peers that have connected meanwhile wait in it.
    ///
    /// # Errors
    /// [`ControlError::NotOurs`] if it is no Unix socket with that path; [`ControlError::Io`].
    pub fn handed_over(
        lock: Lock,
        descriptor: OwnedFd,
        limits: Limits,
    ) -> Result<Self, ControlError> {
        let path = lock.socket();
        let listener = std::os::unix::net::UnixListener::from(descriptor);
        let address = listener.local_addr().map_err(io_error("examine", path))?;
        if address.as_pathname() != Some(path) {
            let reason = "is not the socket that was handed over";
            return Err(ControlError::NotOurs { path: path.to_owned(), reason });
        }
        listener.set_nonblocking(true).map_err(io_error("prepare", path))?;
        // Peers are told who has called listen(2) last: that is this process from now on.
        rustix::net::listen(&listener, BACKLOG)
            .map_err(|errno| io_error("listen on", path)(errno.into()))?;
        lock.sign()?;
        Self::on(listener, lock, limits)
    }

    fn on(
        listener: std::os::unix::net::UnixListener,
        lock: Lock,
        limits: Limits,
    ) -> Result<Self, ControlError> {
        let socket_file = SocketFile::of(lock.socket())?;
        let gate = Gate { sender: watch::channel(Mode::Open).0 };
        Ok(Self { listener, lock, limits, socket_file, gate, workers: None, events: None })
    }

    /// Whether it accepts peers.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Copies of its descriptors, to be handed over.
    ///
    /// # Errors
    /// [`ControlError::Io`]: no descriptor is left.
    pub fn descriptors(&self) -> Result<ServerDescriptors, ControlError> {
        let control = self.listener.as_fd().try_clone_to_owned();
        Ok(ServerDescriptors {
            lock: self.lock.descriptor()?,
            control: control.map_err(io_error("copy the descriptor of", self.lock.socket()))?,
            workers: self.workers.as_ref().map(WorkersSocket::descriptor).transpose()?,
        })
    }

    /// Listens on the socket of the cluster whose lock this is.
    ///
    /// # Errors
    /// [`ControlError::NotOurs`] if something else than a socket of ours is in its place, which
    /// then stays; [`ControlError::Io`].
    pub fn bind(lock: Lock, limits: Limits) -> Result<Self, ControlError> {
        let listener = lock.bind()?;
        Self::on(listener, lock, limits)
    }

    /// Lets workers join, here and on a socket of their own. Without this they are refused.
    #[must_use]
    pub fn with_workers(
        self,
        events: mpsc::Sender<WorkerEvent>,
        socket: Option<WorkersSocket>,
    ) -> Self {
        Self { events: Some(events), workers: socket, ..self }
    }

    /// Accepts peers and hands their commands to `requests`, until its receiver is closed or gone;
    /// then lets those peers that wait for an answer have it. Removes the socket and releases the
    /// lock when it returns or is dropped.
    ///
    /// # Errors
    /// [`ControlError::Io`] if the socket cannot be registered with the runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub async fn serve(self, requests: mpsc::Sender<Request>) -> Result<(), ControlError> {
        let Self { listener, lock, limits, socket_file, gate, workers, events } = self;
        let mut mode = gate.sender.subscribe();
        let listener = UnixListener::from_std(listener);
        let listener = listener.map_err(io_error("listen on", lock.socket()))?;
        let worker_user = workers.as_ref().and_then(|socket| socket.user);
        let (workers, workers_file) = match workers {
            Some(WorkersSocket { listener, file, .. }) => {
                let listener = UnixListener::from_std(listener);
                (Some(listener.map_err(io_error("listen on", &file.path))?), Some(file))
            }
            None => (None, None),
        };
        let removal = Removal { files: [Some(socket_file), workers_file], _lock: lock };
        let door = Door { limits, crowd: Crowd::default(), worker_user, requests, events };
        let mut peers = JoinSet::new();
        loop {
            let is_open = match *mode.borrow_and_update() {
                Mode::Open => true,
                Mode::Closed => false,
                Mode::HandedOver => break,
            };
            tokio::select! {
                () = door.requests.closed() => break,
                Ok(()) = mode.changed() => {}
                Some(_) = peers.join_next() => {}
                (accepted, is_control) = accept(&listener, workers.as_ref()), if is_open => match accepted {
                    Ok(stream) => {
                        if let Some(attendance) = door.let_in(stream, is_control) {
                            peers.spawn(attendance);
                        }
                        // However many wait to be let in: the others have their turn after each.
                        tokio::task::yield_now().await;
                    }
                    Err(error) => {
                        // Most likely out of descriptors, in which case the same error would come
                        // again at once.
                        tracing::warn!(%error, "cannot accept on the control socket");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        let is_handed_over = *mode.borrow() == Mode::HandedOver;
        let patience = if is_handed_over { HANDED_OVER_PATIENCE } else { limits.patience };
        // Before anything is waited for: the next master may have begun.
        let _removal = match is_handed_over {
            true => {
                removal.keep_files();
                None
            }
            false => Some(removal),
        };
        // Bounded: the master may keep a responder for ever.
        let last_answers = async { while peers.join_next().await.is_some() {} };
        if timeout(patience, last_answers).await.is_err() {
            tracing::debug!("control peers without an answer at the end");
        }
        Ok(())
    }
}

/// Peers that wait to be accepted, as the standard library has it; at most `net.core.somaxconn`.
const BACKLOG: i32 = 128;

/// How long a master that was replaced waits for its peers to take their last answers.
const HANDED_OVER_PATIENCE: Duration = Duration::from_millis(500);

/// How long nobody is accepted after an error of accept(2).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A command of an operator, and where its answer goes.
#[derive(Debug)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// Where the answer goes.
    pub responder: Responder,
    /// The connection itself, of a [`Command::Takeover`]: it is no longer read or written by the
    /// server. It is non-blocking.
    pub stream: Option<std::os::unix::net::UnixStream>,
}

impl Request {
    /// A request, and where its answer arrives.
    pub(crate) fn new(command: Command) -> (Self, Replies) {
        let (progress, steps) = mpsc::channel(PROGRESS_QUEUE);
        let (outcome, answer) = oneshot::channel();
        let request = Self { command, responder: Responder { progress, outcome }, stream: None };
        (request, Replies { progress: steps, answer })
    }
}

/// What arrives of a [`Responder`].
#[derive(Debug)]
pub(crate) struct Replies {
    /// Ends when the responder is finished or dropped: all progress comes before the answer.
    progress: mpsc::Receiver<Reply>,
    answer: oneshot::Receiver<Result<Answer, Failure>>,
}

impl Replies {
    /// Waits for what comes before the answer; `None` when the answer comes, or none will.
    pub(crate) async fn step(&mut self) -> Option<Reply> {
        self.progress.recv().await
    }

    /// Waits for the answer; `None` if there will be none.
    pub(crate) async fn outcome(self) -> Option<Result<Answer, Failure>> {
        self.answer.await.ok()
    }
}

/// Answers one [`Request`]. But for [`Self::event`] nothing in it waits or fails: a peer that is slow misses some of the
/// progress, and one that is gone misses all. Dropped without an answer, it tells the peer that
/// there will be none.
#[derive(Debug)]
pub struct Responder {
    progress: mpsc::Sender<Reply>,
    outcome: oneshot::Sender<Result<Answer, Failure>>,
}

impl Responder {
    /// Says in one line how far it is.
    pub fn progress(&self, text: impl Into<String>) {
        // Full: the peer is slow. Closed: it is gone.
        let _ = self.progress.try_send(Reply::Progress(text.into()));
    }

    /// Tells of an event. Waits while the peer is slow; `false` if it is gone, or too slow to be waited
    /// for any longer.
    pub async fn event(&self, event: EventLine) -> bool {
        self.progress.send(Reply::Event(event)).await.is_ok()
    }

    /// Gives the answer, or the reason why there is none.
    pub fn finish(self, outcome: Result<Answer, Failure>) {
        // The peer is gone.
        let _ = self.outcome.send(outcome);
    }
}

/// Progress that waits for a slow peer, in lines.
const PROGRESS_QUEUE: usize = 64;

/// Removes the sockets on drop, unless other files have taken their places or they were handed over,
/// and then lets the lock go.
struct Removal {
    files: [Option<SocketFile>; 2],
    _lock: Lock,
}

impl Removal {
    /// Leaves the files to whom the sockets were handed over to.
    fn keep_files(self) {
        self.files.into_iter().flatten().for_each(SocketFile::keep);
    }
}

/// The next connection, and whether it came by the control socket.
async fn accept(
    control: &UnixListener,
    workers: Option<&UnixListener>,
) -> (io::Result<UnixStream>, bool) {
    let by_workers = async {
        match workers {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        }
    };
    let (accepted, is_control) = tokio::select! {
        accepted = control.accept() => (accepted, true),
        accepted = by_workers => (accepted, false),
    };
    (accepted.map(|(stream, _)| stream), is_control)
}

/// Who is let in, and what for.
struct Door {
    limits: Limits,
    crowd: Crowd,
    worker_user: Option<u32>,
    requests: mpsc::Sender<Request>,
    events: Option<mpsc::Sender<WorkerEvent>>,
}

impl Door {
    /// What serves a connection until it ends or is dropped; `None` if it is turned away.
    fn let_in(
        &self,
        stream: UnixStream,
        is_control: bool,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let peer = match stream.peer_cred() {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "control peer of unknown user refused");
                return None;
            }
        };
        let is_ours = may_command(peer.uid(), nix::unistd::geteuid().as_raw());
        if !is_ours && self.worker_user != Some(peer.uid()) {
            tracing::warn!(uid = peer.uid(), "control peer of another user refused");
            return None;
        }
        let pid = peer.pid().unwrap_or(0);
        let Limits { connections, connections_of_process, .. } = self.limits;
        match self.crowd.enter(peer.uid(), pid, connections, connections_of_process) {
            Ok(place) => {
                let operator = Operator {
                    stream,
                    limits: self.limits,
                    decoder: LineDecoder::default(),
                    may_command: is_ours && is_control,
                    pid: u32::try_from(pid).unwrap_or(0),
                    begin: Instant::now(),
                    budget: Budget { lines: LINES_AT_ONCE, since: Duration::ZERO },
                };
                Some(operator.attend(self.requests.clone(), self.events.clone(), place))
            }
            Err(most) => {
                turn_away(&stream, most);
                None
            }
        }
    }
}

/// Gives the connection to the master, which talks to the next one over it.
async fn give_away(stream: UnixStream, command: Command, requests: &mpsc::Sender<Request>) {
    match stream.into_std() {
        Ok(stream) => {
            let (request, _) = Request::new(command);
            // The master is ending: the peer sees the end of the connection.
            let _ = requests.send(Request { stream: Some(stream), ..request }).await;
        }
        Err(error) => tracing::warn!(%error, "cannot give a connection to the master"),
    }
}

fn may_command(peer: u32, ours: u32) -> bool {
    peer == 0 || peer == ours
}

/// Answers a peer beyond the limit. An error reply fits into the empty send buffer of a new
/// connection, so that this does not wait.
fn turn_away(stream: &UnixStream, most: usize) {
    let failure = Failure::new(format!("{most} control connections already"))
        .hint("try again when one of them has its answer");
    for line in Reply::Failed(failure).emit() {
        if let Err(error) = stream.try_write(format!("{line}\n").as_bytes()) {
            tracing::debug!(%error, "control peer beyond the limit not told");
        }
    }
}

/// A connection, of an operator until its first line says otherwise.
struct Operator {
    stream: UnixStream,
    limits: Limits,
    decoder: LineDecoder,
    /// Its user may, and it came by the control socket.
    may_command: bool,
    /// The process that connected.
    pid: u32,
    begin: Instant,
    budget: Budget,
}

impl Operator {
    async fn attend(
        mut self,
        requests: mpsc::Sender<Request>,
        events: Option<mpsc::Sender<WorkerEvent>>,
        place: Place,
    ) {
        match self.converse(&requests).await {
            Ok(None) => tracing::debug!("control peer is done"),
            Ok(Some(Turn::Worker(line))) => match events {
                Some(events) => self.become_worker(line, events, place).await,
                None => tracing::debug!("worker refused: this server has none"),
            },
            Ok(Some(Turn::Takeover(command))) => {
                give_away(self.stream, command, &requests).await;
            }
            Err(error) => tracing::debug!(%error, "control peer dropped"),
        }
    }

    async fn become_worker(self, line: String, events: mpsc::Sender<WorkerEvent>, place: Place) {
        let limits = PeerLimits { patience: self.limits.patience, ..self.limits.worker };
        let peer = Peer::resume(self.pid, limits, self.decoder, self.begin.elapsed());
        worker_link::attend(self.stream, peer, &line, self.begin, events, place).await;
    }

    /// Answers requests to the end of the connection, or until it turns into something else.
    async fn converse(&mut self, requests: &mpsc::Sender<Request>) -> io::Result<Option<Turn>> {
        let mut is_first = true;
        loop {
            let incoming = tokio::select! {
                () = requests.closed() => return Ok(None),
                incoming = self.read_line() => incoming?,
            };
            match incoming {
                Incoming::Line(line) if is_first && is_worker_line(&line) => {
                    return Ok(Some(Turn::Worker(line)));
                }
                Incoming::Line(_) if !self.may_command => {
                    let failure = Failure::new("this socket is for workers")
                        .hint("operators use the one in the runtime directory");
                    return self.refuse(failure).await.map(|()| None);
                }
                Incoming::Line(line) => match Command::parse(&line) {
                    Ok(takeover @ Command::Takeover { .. }) => {
                        return Ok(Some(Turn::Takeover(takeover)));
                    }
                    Ok(command) => self.carry_out(command, requests).await?,
                    Err(error) => self.refuse(error.into()).await?,
                },
                Incoming::Garbled(error @ MessageError::TooLong) => {
                    return self.refuse(error.into()).await.map(|()| None);
                }
                Incoming::Garbled(error) => self.refuse(error.into()).await?,
                Incoming::Silence => {
                    let seconds = self.limits.patience.as_secs_f64();
                    let failure = Failure::new(format!("no complete line within {seconds} s"));
                    return self.refuse(failure).await.map(|()| None);
                }
                Incoming::End => return Ok(None),
            }
            is_first = false;
            self.pace().await;
        }
    }

    /// Rests after many lines, so that whoever sends them without a pause takes little of our time.
    async fn pace(&mut self) {
        self.budget.lines = self.budget.lines.saturating_sub(1);
        self.budget.refill(self.begin.elapsed());
        if self.budget.lines == 0 {
            tokio::time::sleep_until(self.begin + self.budget.next()).await;
            self.budget.refill(self.begin.elapsed());
        }
    }

    async fn read_line(&mut self) -> io::Result<Incoming> {
        let deadline = Instant::now() + self.limits.patience;
        let mut bytes = [0; 4096];
        loop {
            match self.decoder.line() {
                Ok(Some(line)) => return Ok(Incoming::Line(line)),
                Ok(None) => {}
                Err(error) => return Ok(Incoming::Garbled(error)),
            }
            match timeout_at(deadline, self.stream.read(&mut bytes)).await {
                Ok(Ok(0)) => return Ok(Incoming::End),
                Ok(Ok(count)) => self.decoder.feed(&bytes[..count]),
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => return Ok(Incoming::Silence),
            }
        }
    }

    /// Hands a command to the master and passes on what it says. A peer that ends its half of the
    /// connection still gets its answer.
    async fn carry_out(
        &mut self,
        command: Command,
        requests: &mpsc::Sender<Request>,
    ) -> io::Result<()> {
        let (request, mut replies) = Request::new(command);
        if requests.send(request).await.is_err() {
            return self.refuse(Failure::new("the master is ending")).await;
        }
        while let Some(step) = replies.step().await {
            self.write(step).await?;
        }
        match replies.outcome().await {
            Some(Ok(answer)) => self.write(Reply::Done(answer)).await,
            Some(Err(failure)) => self.refuse(failure).await,
            None => self.refuse(Failure::new("the master gave no answer")).await,
        }
    }

    async fn refuse(&mut self, failure: Failure) -> io::Result<()> {
        self.write(Reply::Failed(failure)).await
    }

    async fn write(&mut self, reply: Reply) -> io::Result<()> {
        for mut line in reply.emit() {
            line.push('\n');
            timeout(self.limits.patience, self.stream.write_all(line.as_bytes())).await??;
        }
        Ok(())
    }
}

/// What a connection turns into that is no longer an operator's.
enum Turn {
    /// A worker's, whose first line this is.
    Worker(String),
    /// The next master's: the command with which it wants the connection for that.
    Takeover(Command),
}

/// Lines that an operator may send at once, and more beyond that at the pace of
/// [`LINE_INTERVAL`](super::LINE_INTERVAL).
const LINES_AT_ONCE: u32 = legacy::LINES_AT_ONCE;

/// What a peer did next.
enum Incoming {
    Line(String),
    Garbled(MessageError),
    Silence,
    End,
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use tokio::io::{AsyncBufReadExt, BufReader, Lines};
    use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
    use tokio::task::JoinHandle;

    use super::super::{
        Arrival, Client, ControlDir, MAX_LINE, PeerNews, Reloaded, Scaled, Status, WorkerOrder,
        WorkerState, WorkerStatus,
    };
    use super::*;
    use crate::plan::{ClusterName, Generation, Seat};

    /// A server of cluster `web` in a directory of its own.
    struct World {
        directory: ControlDir,
        requests: mpsc::Receiver<Request>,
        server: JoinHandle<Result<(), ControlError>>,
        _base: tempfile::TempDir,
    }

    impl World {
        fn new(limits: Limits) -> Self {
            let base = tempfile::tempdir().unwrap();
            let directory = ControlDir::new(base.path().join("ipcluster"));
            let lock = directory.lock(&name("web")).unwrap();
            let (sender, requests) = mpsc::channel(16);
            let server = tokio::spawn(Server::bind(lock, limits).unwrap().serve(sender));
            Self { directory, requests, server, _base: base }
        }

        fn socket(&self) -> PathBuf {
            self.directory.socket(&name("web"))
        }

        /// Answers every command at once: reload with a step of progress, scale with a failure.
        fn answer_all(&mut self) -> JoinHandle<()> {
            let mut requests = std::mem::replace(&mut self.requests, mpsc::channel(1).1);
            tokio::spawn(async move {
                while let Some(Request { command, responder, .. }) = requests.recv().await {
                    match command {
                        Command::Reload => {
                            responder.progress("starting");
                            responder.finish(Ok(reloaded()));
                        }
                        Command::Status => responder.finish(Ok(Answer::Status(Box::new(status())))),
                        Command::Scale { .. } => {
                            responder.finish(Err(Failure::new("no").hint("later")));
                        }
                        _ => drop(responder),
                    }
                }
            })
        }

        async fn client(&self) -> Client {
            Client::connect(&self.directory, None).await.unwrap()
        }
    }

    /// A peer that writes and reads by hand.
    struct Raw {
        input: Lines<BufReader<OwnedReadHalf>>,
        output: OwnedWriteHalf,
    }

    impl Raw {
        async fn connect(path: &Path) -> Self {
            let (input, output) = UnixStream::connect(path).await.unwrap().into_split();
            Self { input: BufReader::new(input).lines(), output }
        }

        async fn send(&mut self, bytes: &[u8]) {
            self.output.write_all(bytes).await.unwrap();
        }

        /// The message of the next line, which has to be an error.
        async fn error(&mut self) -> String {
            match Reply::parse(&self.input.next_line().await.unwrap().unwrap()).unwrap() {
                Reply::Failed(failure) => failure.message,
                other => panic!("{other:?}"),
            }
        }

        /// Whether the server has closed the connection. One that it closes with data unread
        /// resets it.
        async fn is_closed(&mut self) -> bool {
            !matches!(self.input.next_line().await, Ok(Some(_)))
        }
    }

    fn name(text: &str) -> ClusterName {
        text.parse().unwrap()
    }

    fn reloaded() -> Answer {
        Answer::Reloaded(Reloaded { generation: Generation(2), workers: 4, swap_seconds: 0.0001 })
    }

    /// A status that does not fit into one line.
    fn status() -> Status {
        let worker = |seat| WorkerStatus {
            seat: Seat(seat),
            slots: 1,
            pid: None,
            adopted: false,
            state: WorkerState::Starting,
            leaving: None,
            generation: Generation(1),
            health: super::super::WorkerHealth::Ok,
            text: None,
            ports: std::collections::BTreeMap::new(),
            uptime: 0.0,
            connections: None,
            connections_total: None,
            memory: None,
            queued: None,
            half_open: None,
        };
        Status {
            schema: super::super::SCHEMA,
            name: name("web"),
            pid: 1,
            generation: Generation(1),
            listeners: vec!["[::]:80".parse().unwrap()],
            engine: crate::plan::Engine::Redirect,
            partition: super::super::PartitionKind::Mask,
            slots: 1024,
            repairs: 0,
            last_writer: None,
            foreign_chains: Vec::new(),
            orphans: Vec::new(),
            conntrack: None,
            trial: None,
            serving: 0,
            swaps: crate::control::SwapTimes::default(),
            restarts: crate::control::Restarts::default(),
            retirements: crate::control::Retirements::default(),
            given_up: Vec::new(),
            workers: (0..1024).map(worker).collect(),
        }
    }

    #[tokio::test]
    async fn commands_are_answered_one_after_the_other() {
        let mut world = World::new(Limits::default());
        let _master = world.answer_all();
        let mut client = world.client().await;
        let mut steps = Vec::new();
        let answer = client.ask(Command::Reload, |step| steps.push(step.to_owned())).await;
        assert_eq!(answer.unwrap(), reloaded());
        assert_eq!(steps, ["starting"]);
        let answer = client.ask(Command::Status, |_| {}).await.unwrap();
        assert!(answer == Answer::Status(Box::new(status())));
        let refused = client.ask(Command::Scale { workers: 3 }, |_| {}).await.unwrap_err();
        assert_eq!((refused.to_string(), refused.hint()), ("no".into(), Some("later".into())));
        let dropped = client.ask(Command::Stop { now: false }, |_| {}).await.unwrap_err();
        assert_eq!(dropped.to_string(), "the master gave no answer");
    }

    #[tokio::test]
    async fn a_peer_that_ends_its_half_gets_its_answer() {
        let mut world = World::new(Limits::default());
        let _master = world.answer_all();
        let mut peer = Raw::connect(&world.socket()).await;
        peer.send(b"{\"v\":1,\"command\":\"reload\"}\n").await;
        peer.output.shutdown().await.unwrap();
        let mut lines = Vec::new();
        while let Some(line) = peer.input.next_line().await.unwrap() {
            lines.push(Reply::parse(&line).unwrap());
        }
        assert_eq!(lines, [Reply::Progress("starting".into()), Reply::Done(reloaded())]);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_does_not_matter() {
        let mut world = World::new(Limits::default());
        let mut peer = Raw::connect(&world.socket()).await;
        peer.send(b"{\"v\":1,\"command\":\"reload\"}\n").await;
        let request = world.requests.recv().await.unwrap();
        drop(peer);
        for _ in 0..1000 {
            request.responder.progress("still at it");
        }
        request.responder.finish(Ok(reloaded()));
        let _master = world.answer_all();
        world.client().await.ask(Command::Reload, |_| {}).await.unwrap();
    }

    #[tokio::test]
    async fn lines_that_are_no_request_are_answered_and_the_next_one_is_read() {
        let mut world = World::new(Limits::default());
        let _master = world.answer_all();
        let mut peer = Raw::connect(&world.socket()).await;
        for line in ["null", "[]", "1", "\"x\"", "{", "{\"v\":9}", "{\"v\":1,\"command\":\"halt\"}"]
        {
            peer.send(format!("{line}\n").as_bytes()).await;
            assert_eq!(peer.error().await, Command::parse(line).unwrap_err().to_string());
        }
        peer.send(b"\xff\n").await;
        assert_eq!(peer.error().await, "line is not UTF-8 from byte 0 on");
        peer.send("{\"v\":1,\"command\":\"é".as_bytes().split_last().unwrap().1).await;
        tokio::task::yield_now().await;
        peer.send(b"\xa9\"}\n").await;
        assert!(peer.error().await.starts_with("unknown command \"é\""));
        peer.send(b"{\"v\":1,\"command\":\"scale\",\"workers\":5}\n").await;
        assert_eq!(peer.error().await, "no");
    }

    #[tokio::test]
    async fn an_endless_line_is_cut_off() {
        let world = World::new(Limits::default());
        let mut peer = Raw::connect(&world.socket()).await;
        peer.send(&vec![b'x'; MAX_LINE + 1]).await;
        assert_eq!(peer.error().await, "line of more than 65536 bytes");
        assert!(peer.is_closed().await);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_and_silent_peers_are_dropped_after_five_seconds_and_disturb_nobody() {
        let mut world = World::new(Limits::default());
        let _master = world.answer_all();
        let mut silent = Raw::connect(&world.socket()).await;
        let mut slow = Raw::connect(&world.socket()).await;
        let begin = Instant::now();
        for _ in 0..4 {
            slow.send(b"{").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.client().await.ask(Command::Reload, |_| {}).await.unwrap();
        }
        for mut peer in [silent.error().await, slow.error().await].into_iter().zip([silent, slow]) {
            assert_eq!(peer.0, "no complete line within 5 s");
            assert!(peer.1.is_closed().await);
        }
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_does_not_read_is_dropped_after_five_seconds_and_disturbs_nobody() {
        let mut world = World::new(Limits::default());
        let mut silent = Raw::connect(&world.socket()).await;
        silent.send(b"{\"v\":1,\"command\":\"events\"}\n").await;
        let Request { command, responder, .. } = world.requests.recv().await.unwrap();
        assert_eq!(command, Command::Events);
        let _master = world.answer_all();
        let begin = Instant::now();
        let told = tokio::spawn(async move {
            let event = EventLine::new("commit_failed").with("reason", "x".repeat(4000));
            while responder.event(event.clone()).await {}
        });
        while !told.is_finished() {
            world.client().await.ask(Command::Reload, |_| {}).await.unwrap();
            assert!(begin.elapsed() < Duration::from_secs(7), "a peer that reads nothing is kept");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(begin.elapsed() >= Duration::from_secs(5));
        drop(silent);
    }

    #[tokio::test]
    async fn events_reach_the_client_until_the_master_ends() {
        let mut world = World::new(Limits::default());
        let mut client = world.client().await;
        let listening = tokio::spawn(async move {
            let mut seen = Vec::new();
            let over = client.events(|event| {
                seen.push(event.fields["seat"].as_u64().unwrap());
                true
            });
            over.await.map(|()| seen)
        });
        let request = world.requests.recv().await.unwrap();
        for seat in 0..100 {
            assert!(request.responder.event(EventLine::new("respawn").with("seat", seat)).await);
        }
        request.responder.finish(Ok(Answer::EventsOver));
        assert_eq!(listening.await.unwrap().unwrap(), (0..100).collect::<Vec<u64>>());
        // One that is killed says nothing more.
        let mut client = world.client().await;
        let listening = tokio::spawn(async move { client.events(|_| true).await });
        let _request = world.requests.recv().await.unwrap();
        world.server.abort();
        assert_eq!(listening.await.unwrap().map_err(|it| it.to_string()), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_waits_for_its_answer_is_not_dropped() {
        let mut world = World::new(Limits::default());
        let mut client = world.client().await;
        let asked = tokio::spawn(async move { client.ask(Command::Reload, |_| {}).await });
        let request = world.requests.recv().await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        request.responder.finish(Ok(reloaded()));
        assert_eq!(asked.await.unwrap().unwrap(), reloaded());
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_does_not_come_is_not_waited_for() {
        let mut world = World::new(Limits::default());
        let mut client = world.client().await;
        let asked = tokio::spawn(async move { client.ask(Command::Status, |_| {}).await });
        let _unanswered = world.requests.recv().await.unwrap();
        assert!(matches!(asked.await.unwrap(), Err(ControlError::NoAnswer { .. })));
    }

    #[tokio::test]
    async fn peers_beyond_the_limit_are_turned_away() {
        let mut world = World::new(Limits { connections: 1, ..Limits::default() });
        let mut client = world.client().await;
        let asked = tokio::spawn(async move { client.ask(Command::Reload, |_| {}).await });
        let request = world.requests.recv().await.unwrap();
        let refused = world.client().await.ask(Command::Status, |_| {}).await.unwrap_err();
        assert_eq!(refused.to_string(), "1 control connections already");
        request.responder.finish(Ok(reloaded()));
        asked.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_socket_goes_with_the_server() {
        let world = World::new(Limits::default());
        let (directory, socket) = (world.directory.clone(), world.socket());
        assert!(socket.exists());
        drop(world.requests);
        world.server.await.unwrap().unwrap();
        assert!(!socket.exists());
        assert!(directory.running().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_gets_it_when_the_server_ends() {
        let mut world = World::new(Limits::default());
        let mut client = world.client().await;
        let _idle = world.client().await;
        let asked = tokio::spawn(async move { client.ask(Command::Reload, |_| {}).await });
        let request = world.requests.recv().await.unwrap();
        let begin = Instant::now();
        drop(world.requests);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!world.server.is_finished());
        request.responder.finish(Ok(reloaded()));
        assert_eq!(asked.await.unwrap().unwrap(), reloaded());
        world.server.await.unwrap().unwrap();
        assert_eq!(begin.elapsed().as_secs(), 1, "an idle peer was waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_does_not_keep_the_server() {
        let mut world = World::new(Limits::default());
        let mut client = world.client().await;
        let asked = tokio::spawn(async move { client.ask(Command::Reload, |_| {}).await });
        let _kept = world.requests.recv().await.unwrap();
        drop(world.requests);
        world.server.await.unwrap().unwrap();
        assert!(matches!(asked.await.unwrap(), Err(ControlError::Disconnected { .. })));
    }

    #[tokio::test]
    async fn a_file_that_took_the_place_of_the_socket_stays() {
        let world = World::new(Limits::default());
        let socket = world.socket();
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "data").unwrap();
        drop(world.requests);
        world.server.await.unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&socket).unwrap(), "data");
    }

    #[tokio::test]
    async fn who_names_no_cluster_reaches_the_only_one() {
        let world = World::new(Limits::default());
        assert_eq!(world.client().await.name(), &name("web"));
        let other = world.directory.lock(&name("api")).unwrap();
        let several = Client::connect(&world.directory, None).await.unwrap_err();
        assert_eq!(several.to_string(), "several clusters run: api, web");
        drop(other);
        let missing = Client::connect(&world.directory, Some(&name("api"))).await.unwrap_err();
        assert!(matches!(missing, ControlError::NoMaster { .. }));
        assert!(missing.hint().unwrap().contains("ipcluster flush api"));
        let nowhere = ControlDir::new("/nonexistent/ipcluster");
        let none = Client::connect(&nowhere, None).await.unwrap_err();
        assert!(matches!(none, ControlError::NoneRuns { .. }));
    }

    #[tokio::test]
    async fn the_socket_of_a_killed_master_counts_as_none() {
        let base = tempfile::tempdir().unwrap();
        let directory = ControlDir::new(base.path().join("ipcluster"));
        let lock = directory.lock(&name("web")).unwrap();
        drop(lock.bind().unwrap());
        drop(lock);
        let refused = Client::connect(&directory, Some(&name("web"))).await.unwrap_err();
        assert!(matches!(refused, ControlError::NoMaster { .. }), "{refused}");
    }

    /// A world whose server lets workers join, what comes of them, and the socket of their own.
    fn with_workers() -> (World, mpsc::Receiver<WorkerEvent>, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        let directory = ControlDir::new(base.path().join("ipcluster"));
        let lock = directory.lock(&name("web")).unwrap();
        let (sender, requests) = mpsc::channel(16);
        let (events, happened) = mpsc::channel(16);
        let path = base.path().join("host.zsocket");
        let socket = WorkersSocket::bind(&path, None).unwrap();
        let server = Server::bind(lock, Limits::default()).unwrap();
        let server = tokio::spawn(server.with_workers(events, Some(socket)).serve(sender));
        (World { directory, requests, server, _base: base }, happened, path)
    }

    fn info() -> Vec<u8> {
        let pid = std::process::id();
        format!(
            "{{\"__type\":\"info\",\"__messageID\":1,\"pid\":{pid},\"mem\":{{\"rss\":1}},\"portmap\":{{\"80\":34305}},\"band\":0}}\n"
        )
        .into_bytes()
    }

    async fn arrival(events: &mut mpsc::Receiver<WorkerEvent>) -> Arrival {
        match events.recv().await {
            Some(WorkerEvent::Arrived(arrival)) => arrival,
            other => panic!("{other:?}"),
        }
    }

    async fn line(peer: &mut Raw) -> String {
        peer.input.next_line().await.unwrap().unwrap()
    }

    const OK: &str = r#"{"__messageID":1,"__status":"ok","__type":"response"}"#;

    #[tokio::test]
    async fn a_worker_joins_by_either_socket_gets_orders_and_is_missed_when_it_goes() {
        let (world, mut events, path) = with_workers();
        for (token, path) in [(7, &path), (8, &world.socket())] {
            let mut worker = Raw::connect(path).await;
            worker.send(&info()).await;
            let arrived = arrival(&mut events).await;
            assert_eq!((arrived.facts.pid, arrived.facts.seat), (std::process::id(), Seat(0)));
            let link = arrived.accept(token);
            assert_eq!(line(&mut worker).await, OK);
            link.order(WorkerOrder::Retire, "a reload");
            assert!(line(&mut worker).await.contains(r#""__cmd":"retire""#));
            worker.send(b"{\"__type\":\"response\",\"__messageID\":1,\"__status\":\"no\"}\n").await;
            let Some(WorkerEvent::News { token: of, news }) = events.recv().await else { panic!() };
            assert_eq!((of, news), (token, PeerNews::Unanswered(WorkerOrder::Retire)));
            assert!(!link.is_gone());
            drop(worker);
            assert!(link.is_gone(), "known before the end is told");
            assert!(
                matches!(events.recv().await, Some(WorkerEvent::Left { token: of }) if of == token)
            );
        }
    }

    #[tokio::test]
    async fn a_worker_that_is_refused_is_told_why_and_so_is_one_that_nobody_waits_for() {
        let (_world, mut events, path) = with_workers();
        for drops in [false, true] {
            let mut worker = Raw::connect(&path).await;
            worker.send(&info()).await;
            let arrived = arrival(&mut events).await;
            match drops {
                false => arrived.refuse("no worker of mine"),
                true => drop(arrived),
            }
            let answer = line(&mut worker).await;
            let reason = if drops { "the master is ending" } else { "no worker of mine" };
            assert!(answer.contains("error") && answer.contains(reason), "{answer}");
            assert!(worker.is_closed().await);
        }
    }

    #[tokio::test]
    async fn a_worker_that_goes_before_it_knows_that_it_has_joined_is_missed_too() {
        let (_world, mut events, path) = with_workers();
        let mut worker = Raw::connect(&path).await;
        worker.send(&info()).await;
        let arrived = arrival(&mut events).await;
        drop(worker);
        let link = arrived.accept(3);
        assert!(link.is_gone());
        assert!(matches!(events.recv().await, Some(WorkerEvent::Left { token: 3 })));
    }

    #[tokio::test]
    async fn a_worker_whose_link_is_let_go_is_closed() {
        let (_world, mut events, path) = with_workers();
        let mut worker = Raw::connect(&path).await;
        worker.send(&info()).await;
        drop(arrival(&mut events).await.accept(1));
        assert_eq!(line(&mut worker).await, OK);
        assert!(worker.is_closed().await);
    }

    #[tokio::test]
    async fn no_operator_commands_by_the_socket_of_the_workers() {
        let (world, _events, path) = with_workers();
        let mut peer = Raw::connect(&path).await;
        peer.send(b"{\"v\":1,\"command\":\"stop\"}\n").await;
        assert_eq!(peer.error().await, "this socket is for workers");
        assert!(peer.is_closed().await);
        assert!(world.requests.is_empty());
    }

    #[tokio::test]
    async fn an_operator_does_not_turn_into_a_worker_nor_the_other_way_round() {
        let (mut world, mut events, path) = with_workers();
        let _master = world.answer_all();
        let mut operator = Raw::connect(&world.socket()).await;
        operator.send(b"{\"v\":1,\"command\":\"scale\",\"workers\":5}\n").await;
        assert_eq!(operator.error().await, "no");
        operator.send(&info()).await;
        assert_eq!(operator.error().await, "protocol version none: this master speaks version 1");
        let mut worker = Raw::connect(&path).await;
        worker.send(&info()).await;
        let _link = arrival(&mut events).await.accept(1);
        assert_eq!(line(&mut worker).await, OK);
        worker.send(b"{\"v\":1,\"command\":\"stop\"}\n").await;
        assert!(line(&mut worker).await.contains("error"));
        assert!(worker.is_closed().await);
    }

    #[tokio::test]
    async fn descriptors_that_are_sent_along_are_closed() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::io::{IoSlice, Read};
        use std::mem::MaybeUninit;
        use std::os::fd::AsFd;

        let (world, mut events, path) = with_workers();
        for (path, bytes) in [(&path, info()), (&world.socket(), b"{}\n".to_vec())] {
            let worker = std::os::unix::net::UnixStream::connect(path).unwrap();
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let descriptors = [writer.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            assert!(rights.push(SendAncillaryMessage::ScmRights(&descriptors)));
            let sent = sendmsg(&worker, &[IoSlice::new(&bytes)], &mut rights, SendFlags::empty());
            assert_eq!(sent, Ok(bytes.len()));
            drop(writer);
            // Read by the server when it has made something of it.
            let _link = match path == &world.socket() {
                false => Some(arrival(&mut events).await.accept(1)),
                true => {
                    let mut answer = [0; 1];
                    worker.set_nonblocking(true).unwrap();
                    let worker = UnixStream::from_std(worker.try_clone().unwrap()).unwrap();
                    worker.readable().await.unwrap();
                    worker.try_read(&mut answer).unwrap();
                    None
                }
            };
            // Ends only if nobody has the other end: not this process either, in which the server is.
            rustix::io::ioctl_fionbio(&reader, true).unwrap();
            let end = std::fs::File::from(reader).read(&mut [0]);
            assert_eq!(end.unwrap(), 0, "the descriptor is open still");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_worker_is_dropped_after_five_seconds_and_disturbs_nobody() {
        let (mut world, mut events, path) = with_workers();
        let _master = world.answer_all();
        let mut slow = Raw::connect(&path).await;
        let begin = Instant::now();
        for byte in info().iter().take(5) {
            slow.send(&[*byte]).await;
            world.client().await.ask(Command::Reload, |_| {}).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(slow.error().await, "no complete line within 5 s");
        assert_eq!(begin.elapsed().as_secs(), 5);
        let mut worker = Raw::connect(&path).await;
        worker.send(&info()).await;
        let _link = arrival(&mut events).await.accept(1);
        assert_eq!(line(&mut worker).await, OK);
        worker.send(b"{").await;
        tokio::task::yield_now().await;
        let begin = Instant::now();
        let end = line(&mut worker).await;
        assert!(end.contains("no complete line within 5 s"), "{end}");
        assert!(begin.elapsed().as_secs() <= 5);
    }

    #[tokio::test]
    async fn a_process_with_many_connections_takes_none_of_a_worker_that_has_joined() {
        let (_world, mut events, path) = with_workers();
        let mut worker = Raw::connect(&path).await;
        worker.send(&info()).await;
        let _link = arrival(&mut events).await.accept(1);
        assert_eq!(line(&mut worker).await, OK);
        let mut crowd = Vec::new();
        for _ in 0..Limits::default().connections_of_process {
            crowd.push(Raw::connect(&path).await);
        }
        let mut more = Raw::connect(&path).await;
        assert_eq!(more.error().await, "16 control connections already");
        worker.send(b"{\"__type\":\"request\",\"__request\":\"retire\",\"__messageID\":2}\n").await;
        assert!(line(&mut worker).await.contains(r#""__messageID":2,"__status":"ok""#));
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_lines_without_a_pause_is_read_with_pauses() {
        let (world, _events, _path) = with_workers();
        let mut flood = Raw::connect(&world.socket()).await;
        flood.send(&b"{}\n".repeat(264)).await;
        let begin = Instant::now();
        for _ in 0..264 {
            flood.error().await;
        }
        let least = crate::control::LINE_INTERVAL * 199;
        assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
    }

    #[test]
    fn root_and_the_user_of_the_master_may_command() {
        assert!(may_command(0, 1000) && may_command(1000, 1000) && may_command(0, 0));
        assert!(!may_command(1001, 1000) && !may_command(1000, 0));
    }

    #[test]
    fn scaled_is_part_of_the_protocol() {
        let answer = Answer::Scaled(Scaled { workers: 5, moved_slots: 205, slots: 1024 });
        let line = &Reply::Done(answer).emit()[0];
        assert_eq!(line, r#"{"ok":{"scaled":{"workers":5,"moved_slots":205,"slots":1024}}}"#);
    }
}
