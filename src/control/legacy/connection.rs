//! The master's side of a connection with a worker: what each message in each state does. Pure.
//!
//! ```text
//! AwaitInfo --info--> Deciding --accepted--> Joined
//!     |                  |                     |
//!     +-- any other -----+-- refused ----------+-- a fault, end of stream --> Ended
//! ```
//!
//! | state | `info` | `ping` | `request` | `response` | other |
//! |---|---|---|---|---|---|
//! | AwaitInfo | to be decided | end | end | end | end |
//! | Deciding | waits | waits | waits | waits | waits |
//! | Joined | refused | it lives | passed on, accepted | to an order; else passed over | end |
//!
//! "Waits" is in the socket, where it costs nothing. Whatever ends a connection is answered by a `response` with `__status` "error" first. So is a
//! message in the name of another process than the one that the kernel says is there.
//!
//! # Limits
//!
//! A line that has begun is complete within [`PeerLimits::line_timeout`], in every state, and so is the
//! first one; later on a worker may be silent for [`PeerLimits::ping`]. Then it is asked once more
//! (`info`), and counts as silent if it does not answer that. Lines are read at a limited rate
//! ([`LINES_AT_ONCE`](crate::control::LINES_AT_ONCE),
//! [`LINE_INTERVAL`](crate::control::LINE_INTERVAL)): what comes faster waits in the socket, where it holds up
//! the peer alone. What a worker does not read of us is kept up to [`UNREAD_LIMIT`].
//!
//! Times are counted from any moment of the caller's, on a clock that does not go back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::control::token_bucket::TokenBucket;
use crate::line_protocol::{
    FromWorker, LineDecoder, MessageError, ToWorker, WorkerData, WorkerInfo, WorkerOrder, id_of,
};

/// Bytes to a peer that wait for it to read them, beyond which its connection ends.
pub(crate) const UNREAD_LIMIT: usize = 64 * 1024;

/// Limits on a connection with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// For each complete line, from when its first byte comes; for the first one, from the beginning.
    pub line_timeout: Duration,
    /// Without a message, after which the worker is asked whether it is there; `None`: never.
    pub ping: Option<Duration>,
    /// For the answer to an order.
    pub answer: Duration,
    /// The least lag that is reported. A worker that finds itself too busy counts as lagging this much at
    /// least.
    pub lag: Duration,
}

impl Default for PeerLimits {
    /// 5 s; 10 s; 500 ms; 150 ms: the older system's where it has one.
    fn default() -> Self {
        Self {
            line_timeout: Duration::from_secs(5),
            ping: Some(Duration::from_secs(10)),
            answer: Duration::from_millis(500),
            lag: Duration::from_millis(150),
        }
    }
}

/// What the driver of a connection is to do, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerAction {
    /// Send this line; its end is not in it.
    Send(String),
    /// Find out whether this is a worker of ours: answered by [`Peer::decide`].
    Decide(WorkerInfo),
    /// Report this to the master.
    Report(PeerEvent),
    /// Close the connection when what was to be sent is sent. The last action of all.
    Close(CloseReason),
}

/// An event of a worker that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// It has said nothing for too long, and nothing when it was asked.
    Silent,
    /// It says something again.
    Answered,
    /// Its event loop is so far behind: told once a second at most while that is
    /// [`PeerLimits::lag`] or more, and once when it is not any more.
    Lagging(Duration),
    /// It asks for its own retirement, for this reason.
    RetireAsked {
        /// The reason; empty if it gives none.
        reason: String,
        /// What it tells about that.
        details: Option<WorkerData>,
    },
    /// It did not answer this order in time, or refused it.
    Unanswered(WorkerOrder),
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// A message that is none, or not now.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// No complete line in time.
    #[error("no complete line within {} s", .0.as_secs_f64())]
    Slow(Duration),
    /// It is no worker of ours, or not the one that it says it is.
    #[error("{0}")]
    Refused(String),
    /// It does not read what we send.
    #[error("{UNREAD_LIMIT} bytes that it does not read")]
    Unread,
}

/// The master's side of a connection whose peer is, or claims to be, a worker.
#[derive(Debug)]
pub struct Peer {
    /// The process id of the peer, as the kernel tells it.
    pid: u32,
    limits: PeerLimits,
    decoder: LineDecoder,
    state: State,
    bucket: TokenBucket,
    /// When the line that is not complete yet has begun.
    begun: Option<Duration>,
    actions: Vec<PeerAction>,
    /// What its last ping said, until that is taken.
    told: Option<Told>,
}

/// What a worker says of its load and its application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// How far its event loop is behind.
    pub(crate) lag: Duration,
    /// What its application says of itself.
    pub(crate) app: Option<WorkerData>,
}

#[derive(Debug)]
enum State {
    AwaitInfo,
    /// The id of its `info`.
    Deciding(u64),
    Joined(Joined),
    Ended,
}

#[derive(Debug)]
struct Joined {
    heard: Duration,
    is_silent: bool,
    /// When it was last told that it lags; `None` if it does not.
    lag_told: Option<Duration>,
    next_id: u64,
    /// Orders without an answer, and when it has to be there.
    orders: BTreeMap<u64, (WorkerOrder, Duration)>,
}

impl Peer {
    /// What the last ping said that came since this was asked.
    pub(crate) fn take_told(&mut self) -> Option<Told> {
        self.told.take()
    }

    /// A connection of the process `pid` that was accepted at `now`.
    pub fn new(pid: u32, limits: PeerLimits, now: Duration) -> Self {
        Self::resume(pid, limits, LineDecoder::default(), now)
    }

    /// A connection whose first line was read by `decoder` already, to see that it is a worker's and not
    /// an operator's.
    pub(in crate::control) fn resume(
        pid: u32,
        limits: PeerLimits,
        decoder: LineDecoder,
        now: Duration,
    ) -> Self {
        Self {
            pid,
            limits,
            decoder,
            state: State::AwaitInfo,
            bucket: TokenBucket::full(now),
            begun: Some(now),
            actions: Vec::new(),
            told: None,
        }
    }

    /// Takes in what the peer has sent.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) -> Vec<PeerAction> {
        self.decoder.feed(bytes);
        self.advance(now)
    }

    /// Takes in one line.
    pub(in crate::control) fn receive_line(
        &mut self,
        line: &str,
        now: Duration,
    ) -> Vec<PeerAction> {
        self.line(line, now);
        self.advance(now)
    }

    /// Whether more is to be read of the peer now. If not, then after [`Self::deadline`] or
    /// [`Self::decide`].
    pub fn wants_more(&self) -> bool {
        !self.bucket.is_empty() && matches!(self.state, State::AwaitInfo | State::Joined(_))
    }

    /// Takes in what was found out about the worker: why it is refused, if it is.
    pub fn decide(&mut self, refusal: Option<String>, now: Duration) -> Vec<PeerAction> {
        if let State::Deciding(id) = self.state {
            match refusal {
                None => {
                    self.send(&ToWorker::Response { id, refusal: None });
                    self.state = State::Joined(Joined {
                        heard: now,
                        is_silent: false,
                        lag_told: None,
                        next_id: 1,
                        orders: BTreeMap::new(),
                    });
                }
                Some(reason) => self.end(id, CloseReason::Refused(reason)),
            }
        }
        self.advance(now)
    }

    /// Has the worker do something, if it has joined.
    pub fn order(&mut self, order: WorkerOrder, reason: &str, now: Duration) -> Vec<PeerAction> {
        self.give_order(order, reason, now);
        std::mem::take(&mut self.actions)
    }

    /// Ends the connection, whose peer does not read.
    pub fn give_up(&mut self) -> Vec<PeerAction> {
        self.state = State::Ended;
        vec![PeerAction::Close(CloseReason::Unread)]
    }

    /// When [`Self::tick`] is wanted, if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        if let State::Ended = self.state {
            return None;
        }
        let paused = self.bucket.is_empty().then(|| self.bucket.next_at());
        let line = self.begun.map(|begun| begun.saturating_add(self.limits.line_timeout));
        let joined = match &self.state {
            State::Joined(joined) => joined.deadline(&self.limits),
            _ => None,
        };
        [paused, line, joined].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) -> Vec<PeerAction> {
        if let Some(begun) = self.begun
            && now >= begun.saturating_add(self.limits.line_timeout)
        {
            self.end(0, CloseReason::Slow(self.limits.line_timeout));
        }
        self.miss_answers(now);
        self.advance(now)
    }

    /// Takes in as many lines as there are and may be.
    fn advance(&mut self, now: Duration) -> Vec<PeerAction> {
        self.bucket.refill(now);
        while !matches!(self.state, State::Ended | State::Deciding(_)) && !self.bucket.is_empty() {
            match self.decoder.line() {
                Ok(None) => break,
                Ok(Some(line)) => self.line(&line, now),
                Err(error) => self.end(0, error.into()),
            }
        }
        self.begun = match self.state {
            // The first line is due from the beginning on.
            State::AwaitInfo => self.begun,
            // While nothing is read the peer cannot go on with its line.
            _ if self.wants_more() && self.decoder.is_amid_line() => self.begun.or(Some(now)),
            _ => None,
        };
        std::mem::take(&mut self.actions)
    }

    fn line(&mut self, line: &str, now: Duration) {
        self.bucket.take();
        self.begun = None;
        match FromWorker::parse(line) {
            Ok(message) => self.message(message, now),
            Err(error) => self.end(id_of(line), error.into()),
        }
    }

    fn message(&mut self, message: FromWorker, now: Duration) {
        if let FromWorker::Info { id, info } = &message
            && info.pid != self.pid
        {
            return self.end(*id, self.other_process(info));
        }
        if let FromWorker::Ping(info) = &message
            && info.pid != self.pid
        {
            return self.end(0, self.other_process(info));
        }
        let id = match &message {
            FromWorker::Info { id, .. }
            | FromWorker::Response { id, .. }
            | FromWorker::AskRetire { id, .. } => *id,
            FromWorker::Ping(_) => 0,
        };
        match (&mut self.state, message) {
            (State::AwaitInfo, FromWorker::Info { id, info }) => {
                self.state = State::Deciding(id);
                self.actions.push(PeerAction::Decide(info));
            }
            (State::Joined(joined), message) => {
                joined.heard = now;
                if std::mem::take(&mut joined.is_silent) {
                    self.actions.push(PeerAction::Report(PeerEvent::Answered));
                }
                self.joined_message(message, now);
            }
            (_, message) => {
                let fault = MessageError::State { message: name(&message), when: "before info" };
                self.end(id, fault.into());
            }
        }
    }

    fn joined_message(&mut self, message: FromWorker, now: Duration) {
        let State::Joined(joined) = &mut self.state else { return };
        match message {
            FromWorker::Ping(info) => {
                self.told = Some(Told { lag: info.lag, app: info.app });
                // One that finds itself too busy has measured it in its own way.
                let least = if info.too_busy { self.limits.lag } else { Duration::ZERO };
                let lag = info.lag.max(least);
                let is_late = lag >= self.limits.lag;
                let is_news = match joined.lag_told {
                    Some(told) => !is_late || now >= told + LAG_INTERVAL,
                    None => is_late,
                };
                if is_news {
                    joined.lag_told = is_late.then_some(now);
                    self.actions.push(PeerAction::Report(PeerEvent::Lagging(lag)));
                }
            }
            FromWorker::Response { id, ok } => {
                // One that comes too late was given up already.
                let order = joined.orders.remove(&id).map(|(order, _)| order);
                if let Some(order) = order.filter(|_| !ok) {
                    self.actions.push(PeerAction::Report(PeerEvent::Unanswered(order)));
                }
            }
            FromWorker::AskRetire { id, reason, details } => {
                self.send(&ToWorker::Response { id, refusal: None });
                self.actions.push(PeerAction::Report(PeerEvent::RetireAsked { reason, details }));
            }
            FromWorker::Info { id, .. } => {
                let fault = MessageError::State { message: "info", when: "again after it joined" };
                self.send(&ToWorker::Response { id, refusal: Some(fault.to_string()) });
            }
        }
    }

    fn give_order(&mut self, order: WorkerOrder, reason: &str, now: Duration) {
        let State::Joined(joined) = &mut self.state else { return };
        let id = joined.next_id;
        joined.next_id += 1;
        joined.orders.insert(id, (order, now.saturating_add(self.limits.answer)));
        self.send(&ToWorker::Command { id, order, reason: reason.to_owned() });
    }

    /// Asks a worker that is silent, and gives up what it does not answer.
    fn miss_answers(&mut self, now: Duration) {
        let State::Joined(joined) = &mut self.state else { return };
        let due: Vec<u64> =
            joined.orders.iter().filter(|(_, (_, at))| *at <= now).map(|(id, _)| *id).collect();
        for id in due {
            match joined.orders.remove(&id) {
                // It may have said something else meanwhile.
                Some((WorkerOrder::Info, _)) if joined.is_over(&self.limits, now) => {
                    joined.is_silent = true;
                    self.actions.push(PeerAction::Report(PeerEvent::Silent));
                }
                Some((WorkerOrder::Info, _)) | None => {}
                Some((order, _)) => {
                    self.actions.push(PeerAction::Report(PeerEvent::Unanswered(order)));
                }
            }
        }
        if joined.is_over(&self.limits, now) && !joined.is_silent && !joined.is_asked() {
            self.give_order(WorkerOrder::Info, "no ping", now);
        }
    }

    fn other_process(&self, info: &WorkerInfo) -> CloseReason {
        MessageError::OtherProcess { claimed: info.pid, actual: self.pid }.into()
    }

    fn end(&mut self, id: u64, why: CloseReason) {
        if let State::Ended = self.state {
            return;
        }
        self.state = State::Ended;
        self.send(&ToWorker::Response { id, refusal: Some(why.to_string()) });
        self.actions.push(PeerAction::Close(why));
    }

    fn send(&mut self, message: &ToWorker) {
        self.actions.push(PeerAction::Send(message.emit()));
    }
}

impl Joined {
    fn is_over(&self, limits: &PeerLimits, now: Duration) -> bool {
        limits.ping.is_some_and(|ping| now >= self.heard.saturating_add(ping))
    }

    /// Whether it was asked how it is, and has not answered.
    fn is_asked(&self) -> bool {
        self.orders.values().any(|(order, _)| *order == WorkerOrder::Info)
    }

    fn deadline(&self, limits: &PeerLimits) -> Option<Duration> {
        let answer = self.orders.values().map(|(_, at)| *at).min();
        let asks = !self.is_silent && !self.is_asked();
        let ping = limits.ping.filter(|_| asks).map(|ping| self.heard.saturating_add(ping));
        answer.into_iter().chain(ping).min()
    }
}

const LAG_INTERVAL: Duration = Duration::from_secs(1);

fn name(message: &FromWorker) -> &'static str {
    match message {
        FromWorker::Info { .. } => "info",
        FromWorker::Ping(_) => "ping",
        FromWorker::Response { .. } => "response",
        FromWorker::AskRetire { .. } => "request",
    }
}

#[cfg(test)]
mod tests;
