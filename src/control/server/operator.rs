//! A connection of an operator: requests in, replies out.

use std::io;
use std::pin::pin;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::limits::Permit;
use super::worker_link::{self, WorkerEvent};
use super::{ControlLimits, ReceivedRequest};
use crate::control::token_bucket::TokenBucket;
use crate::control::{LineDecoder, MessageError, Peer, PeerLimits, Reply};
use crate::line_protocol::is_worker_line;
use crate::process::peer_process;
use crate::protocol::ErrorReply;
use crate::protocol::Request;

/// A connection that was accepted. It is an operator's until its first line says that it is a worker's.
pub(super) struct OperatorConnection {
    stream: UnixStream,
    limits: ControlLimits,
    decoder: LineDecoder,
    /// Whether its user may send commands, and it came by the control socket.
    may_command: bool,
    /// The process that connected.
    pid: u32,
    accepted_at: Instant,
    bucket: TokenBucket,
}

impl OperatorConnection {
    pub(super) fn new(
        stream: UnixStream,
        limits: ControlLimits,
        may_command: bool,
        pid: u32,
    ) -> Self {
        Self {
            stream,
            limits,
            decoder: LineDecoder::default(),
            may_command,
            pid,
            accepted_at: Instant::now(),
            bucket: TokenBucket::full(Duration::ZERO),
        }
    }

    /// Serves the connection to its end.
    pub(super) async fn serve(
        mut self,
        requests: mpsc::Sender<ReceivedRequest>,
        events: Option<mpsc::Sender<WorkerEvent>>,
        permit: Permit,
    ) {
        match self.answer_requests(&requests, &permit).await {
            Ok(None) => tracing::debug!("control connection closed"),
            Ok(Some(Upgrade::Worker(line))) => match events {
                Some(events) => self.serve_worker(line, events, permit).await,
                None => tracing::debug!("worker refused: this server has none"),
            },
            Ok(Some(Upgrade::Handover(request))) => {
                pass_connection(self.stream, request, &requests).await;
            }
            Err(error) => tracing::debug!(%error, "control connection dropped"),
        }
    }

    async fn serve_worker(self, line: String, events: mpsc::Sender<WorkerEvent>, permit: Permit) {
        let limits = PeerLimits { line_timeout: self.limits.io_timeout, ..self.limits.worker };
        let now = self.accepted_at.elapsed();
        let peer = Peer::resume(self.pid, limits, self.decoder, now);
        worker_link::serve(self.stream, peer, &line, self.accepted_at, events, permit).await;
    }

    /// Answers requests to the end of the connection, or until it turns into one of another kind.
    async fn answer_requests(
        &mut self,
        requests: &mpsc::Sender<ReceivedRequest>,
        permit: &Permit,
    ) -> io::Result<Option<Upgrade>> {
        let mut is_first = true;
        loop {
            let incoming = tokio::select! {
                () = requests.closed() => return Ok(None),
                incoming = self.read_line(permit) => incoming?,
            };
            match incoming {
                Incoming::Line(line) if is_first && is_worker_line(&line) => {
                    return Ok(Some(Upgrade::Worker(line)));
                }
                Incoming::Line(_) if !self.may_command => {
                    let failure = ErrorReply::new("this socket is for workers")
                        .hint("operators use the one in the runtime directory");
                    return self.refuse(failure).await.map(|()| None);
                }
                Incoming::Line(line) => match Request::parse(&line) {
                    Ok(handover @ Request::Handover { .. }) => {
                        return Ok(Some(Upgrade::Handover(handover)));
                    }
                    Ok(request) => self.pass_on(request, requests).await?,
                    Err(error) => self.refuse(error.into()).await?,
                },
                Incoming::Garbled(error @ MessageError::TooLong) => {
                    return self.refuse(error.into()).await.map(|()| None);
                }
                Incoming::Garbled(error) => self.refuse(error.into()).await?,
                Incoming::TimedOut(limit) => {
                    let seconds = limit.as_secs_f64();
                    let failure = ErrorReply::new(format!("no complete line within {seconds} s"));
                    return self.refuse(failure).await.map(|()| None);
                }
                Incoming::End => return Ok(None),
            }
            is_first = false;
            self.pace().await;
        }
    }

    /// Pauses after many lines, so that a peer that sends them without a pause takes little of the
    /// master's time.
    async fn pace(&mut self) {
        self.bucket.take();
        self.bucket.refill(self.accepted_at.elapsed());
        if self.bucket.is_empty() {
            tokio::time::sleep_until(self.accepted_at + self.bucket.next_at()).await;
            self.bucket.refill(self.accepted_at.elapsed());
        }
    }

    /// Reads a line. Who says nothing is dropped after a time, and much sooner if others wait for its place.
    async fn read_line(&mut self, permit: &Permit) -> io::Result<Incoming> {
        let began = Instant::now();
        let mut limit = self.limits.io_timeout;
        let mut bytes = [0; 4096];
        loop {
            match self.decoder.line() {
                Ok(Some(line)) => return Ok(Incoming::Line(line)),
                Ok(None) => {}
                Err(error) => return Ok(Incoming::Garbled(error)),
            }
            let mut begun_to_wait = pin!(permit.begun_to_wait());
            // Who begins to wait from here on is not missed.
            begun_to_wait.as_mut().enable();
            if permit.is_wanted() {
                limit = limit.min(self.limits.hurry);
            }
            let read = tokio::select! {
                read = timeout_at(began + limit, self.stream.read(&mut bytes)) => read,
                () = begun_to_wait => continue,
            };
            match read {
                Ok(Ok(0)) => return Ok(Incoming::End),
                Ok(Ok(count)) => self.decoder.feed(&bytes[..count]),
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => return Ok(Incoming::TimedOut(limit)),
            }
        }
    }

    /// Passes a request to the master, and its replies to the peer. A peer that ends its half of the
    /// connection still gets its answer. What changes the cluster is not begun for one that has gone: it
    /// gave up waiting, while this process was stopped perhaps, and may have told the operator so.
    async fn pass_on(
        &mut self,
        request: Request,
        requests: &mpsc::Sender<ReceivedRequest>,
    ) -> io::Result<()> {
        let changes = matches!(
            request,
            Request::Command(_) | Request::FleetDrain | Request::FleetJoin | Request::EndOrphans
        );
        if changes && has_gone(&self.stream) {
            let error = "the peer has gone before its request was begun";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, error));
        }
        let (request, mut replies) = ReceivedRequest::new(request);
        let request =
            ReceivedRequest { asker: changes.then(|| peer_process(&self.stream)), ..request };
        if requests.send(request).await.is_err() {
            return self.refuse(ErrorReply::new("the master is ending")).await;
        }
        while let Some(step) = replies.step().await {
            self.write(step).await?;
        }
        match replies.outcome().await {
            Some(Ok(answer)) => self.write(Reply::Done(answer)).await,
            Some(Err(refusal)) => self.refuse((&refusal).into()).await,
            None => self.refuse(ErrorReply::new("the master gave no answer")).await,
        }
    }

    async fn refuse(&mut self, failure: ErrorReply) -> io::Result<()> {
        self.write(Reply::Failed(failure)).await
    }

    async fn write(&mut self, reply: Reply) -> io::Result<()> {
        for mut line in reply.emit() {
            line.push('\n');
            timeout(self.limits.io_timeout, self.stream.write_all(line.as_bytes())).await??;
        }
        Ok(())
    }
}

/// Whether both halves of a connection are closed at the other end.
fn has_gone(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Not known: it counts as there.
    rustix::event::poll(&mut polled, Some(&now)).is_ok()
        && polled[0].revents().contains(PollFlags::HUP)
}

/// The other kinds of connection that an operator's connection can turn into.
enum Upgrade {
    /// A worker's, with its first line.
    Worker(String),
    /// The next master's, with the request for the handover.
    Handover(Request),
}

/// The next thing that comes from a peer.
enum Incoming {
    Line(String),
    Garbled(MessageError),
    /// Nothing complete within this time.
    TimedOut(Duration),
    End,
}

/// Gives the connection to the master, which talks to the next one over it.
async fn pass_connection(
    stream: UnixStream,
    request: Request,
    requests: &mpsc::Sender<ReceivedRequest>,
) {
    match stream.into_std() {
        Ok(stream) => {
            let (request, _) = ReceivedRequest::new(request);
            let asker = Some(peer_process(&stream));
            let stream = Some(stream);
            // The master is ending: the peer sees the end of the connection.
            let _ = requests.send(ReceivedRequest { stream, asker, ..request }).await;
        }
        Err(error) => tracing::warn!(%error, "cannot pass a connection to the master"),
    }
}
