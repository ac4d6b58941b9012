//! A request that was received, and the way back for its answer.

use tokio::sync::{mpsc, oneshot};

use crate::control::Reply;
use crate::process::{PidFd, ProcessError};
use crate::protocol::Refusal;
use crate::protocol::{EventRecord, LogLine, Outcome, Request};

/// A request of an operator, and where its answer goes.
#[derive(Debug)]
pub(crate) struct ReceivedRequest {
    /// The request.
    pub request: Request,
    /// Where the answer goes.
    pub responder: Responder,
    /// The connection itself, of a [`Request::Handover`]: it is no longer read or written by the
    /// server. It is non-blocking.
    pub stream: Option<std::os::unix::net::UnixStream>,
    /// The process that asks, of a request that changes the cluster; `None` for one that does not, or that
    /// came over no connection.
    pub asker: Option<Result<PidFd, ProcessError>>,
}

impl ReceivedRequest {
    /// A request, and the end at which its answer arrives.
    pub(crate) fn new(request: impl Into<Request>) -> (Self, ReplyReceiver) {
        let (progress, steps) = mpsc::channel(PROGRESS_QUEUE);
        let (outcome, answer) = oneshot::channel();
        let responder = Responder { progress, outcome };
        (
            Self { request: request.into(), responder, stream: None, asker: None },
            ReplyReceiver { progress: steps, answer },
        )
    }
}

/// The end at which arrives what a [`Responder`] sends.
#[derive(Debug)]
pub(crate) struct ReplyReceiver {
    /// Ends when the responder is finished or dropped: all progress comes before the answer.
    progress: mpsc::Receiver<Reply>,
    answer: oneshot::Receiver<Result<Outcome, Refusal>>,
}

impl ReplyReceiver {
    /// Waits for what comes before the answer; `None` when the answer comes, or none will.
    pub(crate) async fn step(&mut self) -> Option<Reply> {
        self.progress.recv().await
    }

    /// Waits for the answer; `None` if there will be none.
    pub(crate) async fn outcome(self) -> Option<Result<Outcome, Refusal>> {
        self.answer.await.ok()
    }
}

/// Answers one [`ReceivedRequest`]. Nothing in it but [`Self::event`] and
/// [`Self::lines`] waits, and nothing fails: a peer
/// that is slow misses some of the progress, and one that is gone misses all. Dropped without an
/// answer, it tells the peer that there will be none.
#[derive(Debug)]
pub(crate) struct Responder {
    progress: mpsc::Sender<Reply>,
    outcome: oneshot::Sender<Result<Outcome, Refusal>>,
}

impl Responder {
    /// Sends one line of progress.
    pub(crate) fn progress(&self, text: impl Into<String>) {
        // Full: the peer is slow. Closed: it is gone.
        let _ = self.progress.try_send(Reply::Progress(text.into()));
    }

    /// Sends an event. Waits while the peer is slow; `false` if it is gone, or so slow that the server
    /// has dropped it.
    pub(crate) async fn event(&self, event: EventRecord) -> bool {
        self.progress.send(Reply::Event(event)).await.is_ok()
    }

    /// Sends lines of workers. Waits while the peer is slow; `false` if it is gone, or so slow that the
    /// server has dropped it.
    pub(crate) async fn lines(&self, lines: Vec<LogLine>) -> bool {
        lines.is_empty() || self.progress.send(Reply::Lines(lines)).await.is_ok()
    }

    /// Sends the answer, or the reason why there is none.
    pub(crate) fn finish(self, outcome: Result<Outcome, Refusal>) {
        // The peer is gone.
        let _ = self.outcome.send(outcome);
    }
}

/// Lines of progress that wait for a slow peer.
const PROGRESS_QUEUE: usize = 64;
