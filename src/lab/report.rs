//! What became of the connections of a load.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Identity;

/// A connection that a worker answered completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered {
    /// The client's address.
    pub client: IpAddr,
    /// The public address that it connected to.
    pub target: SocketAddr,
    /// The worker that answered.
    pub by: Identity,
    /// From `connect` to the last byte of the answer.
    pub latency: Duration,
    /// When the answer was complete.
    pub at: Instant,
}

/// A connection that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The client's address and port; port 0 where the kernel had not chosen one.
    pub source: SocketAddr,
    /// The public address that it connected to.
    pub target: SocketAddr,
    /// What went wrong.
    pub kind: FailureKind,
    /// How long the connection had been tried or open.
    pub after: Duration,
    /// When it went wrong.
    pub at: Instant,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, target, kind, after, .. } = self;
        write!(f, "{source} -> {target}: {kind} after {:.1} ms", after.as_secs_f64() * 1e3)
    }
}

/// What went wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// `ECONNREFUSED`: a reset answered the first packet. Nothing listened there.
    Refused,
    /// `ECONNRESET` or `EPIPE`: a reset came after the connection had been made.
    Reset,
    /// The handshake was not complete in time.
    ConnectTimedOut,
    /// Connected, but the answer was not complete in time.
    AnswerTimedOut,
    /// The server closed before its answer was complete.
    Truncated,
    /// A complete answer that does not say which worker gave it.
    Garbled,
    /// No route, or a firewall's rejection: `EHOSTUNREACH`, `ENETUNREACH`, `EACCES`, `EPERM`.
    Unreachable,
    /// The client's own side failed, such as `EADDRNOTAVAIL` (no free source port) or `EMFILE`:
    /// says nothing about the server. The errno.
    Local(i32),
}

impl FailureKind {
    /// Reads the error of a connection.
    pub(super) fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::CONNREFUSED => Self::Refused,
            Errno::CONNRESET | Errno::PIPE => Self::Reset,
            Errno::TIMEDOUT => Self::ConnectTimedOut,
            Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ACCESS | Errno::PERM => {
                Self::Unreachable
            }
            other => Self::Local(other.raw_os_error()),
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::ConnectTimedOut => f.write_str("connect timed out"),
            Self::AnswerTimedOut => f.write_str("answer timed out"),
            Self::Truncated => f.write_str("truncated"),
            Self::Garbled => f.write_str("garbled"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Local(errno) => {
                write!(f, "client side: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// An answer as the log keeps it: 24 bytes, for millions of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) client: u32,
    pub(super) target: u16,
    pub(super) latency_us: u32,
    pub(super) at_us: u64,
    pub(super) by: u32,
}

/// What became of the connections of a load, or of those in a part of its time.
#[derive(Debug, Clone)]
pub struct Report {
    pub(super) clients: Arc<[IpAddr]>,
    pub(super) targets: Arc<[SocketAddr]>,
    pub(super) workers: Vec<Identity>,
    pub(super) answers: Vec<Answer>,
    pub(super) failures: Vec<Failure>,
    pub(super) failed: u64,
    pub(super) began: Instant,
    pub(super) elapsed: Duration,
    pub(super) max_open: usize,
}

impl Report {
    /// The most failures that a report keeps one by one; beyond it they are only counted.
    pub const MAX_FAILURES: usize = 100_000;

    /// How many connections were answered.
    pub fn answered(&self) -> u64 {
        self.answers.len() as u64
    }

    /// How many were not. Connections under way when a load is stopped count as neither.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The failures in the order of their time, at most [`Report::MAX_FAILURES`].
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The failures by kind, as far as they were kept.
    pub fn failures_by_kind(&self) -> BTreeMap<FailureKind, u64> {
        let mut counts = BTreeMap::new();
        for failure in &self.failures {
            *counts.entry(failure.kind).or_default() += 1;
        }
        counts
    }

    /// All answers, in the order of their time.
    pub fn answers(&self) -> impl Iterator<Item = Answered> {
        self.answers.iter().map(|answer| Answered {
            client: self.clients[answer.client as usize],
            target: self.targets[usize::from(answer.target)],
            by: self.workers[answer.by as usize],
            latency: Duration::from_micros(answer.latency_us.into()),
            at: self.began + Duration::from_micros(answer.at_us),
        })
    }

    /// How many connections each worker answered.
    pub fn workers(&self) -> BTreeMap<Identity, u64> {
        let mut counts = vec![0; self.workers.len()];
        for answer in &self.answers {
            counts[answer.by as usize] += 1;
        }
        self.workers.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// The worker that answered each client last.
    pub fn last_by_client(&self) -> BTreeMap<IpAddr, Identity> {
        self.answers().map(|answered| (answered.client, answered.by)).collect()
    }

    /// The clients that more than one process answered.
    pub fn changed_worker(&self) -> BTreeSet<IpAddr> {
        self.changed(|by| by.pid)
    }

    /// The clients that workers of more than one seat answered: never more than a scaling, or the
    /// death of a worker, moves.
    pub fn changed_seat(&self) -> BTreeSet<IpAddr> {
        self.changed(|by| by.seat)
    }

    fn changed<K: PartialEq>(&self, key: impl Fn(Identity) -> K) -> BTreeSet<IpAddr> {
        let mut first: BTreeMap<IpAddr, K> = BTreeMap::new();
        let mut changed = BTreeSet::new();
        for Answered { client, by, .. } in self.answers() {
            if *first.entry(client).or_insert_with(|| key(by)) != key(by) {
                changed.insert(client);
            }
        }
        changed
    }

    /// The latency that `share` of the answered connections (0 to 1) did not exceed, by the nearest
    /// rank; zero where none was answered.
    pub fn latency(&self, share: f64) -> Duration {
        let mut sorted: Vec<u32> = self.answers.iter().map(|answer| answer.latency_us).collect();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank: between 0 and the number of answers"
        )]
        let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
        let micros = sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0);
        Duration::from_micros(micros.into())
    }

    /// When the load began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// How long the load, or this part of it, took.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The most connections that were open at one time, in the whole load.
    pub fn max_open(&self) -> usize {
        self.max_open
    }

    /// Answered and failed connections per second.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn rate(&self) -> f64 {
        (self.answered() + self.failed()) as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }

    /// The part of this report whose connections ended from `from` on and before `to`.
    pub fn between(&self, from: Instant, to: Instant) -> Self {
        let start = from.max(self.began);
        let end = to.min(self.began + self.elapsed).max(start);
        let began = self.began;
        let within = |at: Instant| (from..to).contains(&at);
        let failures: Vec<_> =
            self.failures.iter().filter(|failure| within(failure.at)).copied().collect();
        Self {
            answers: self
                .answers
                .iter()
                .filter(|answer| within(began + Duration::from_micros(answer.at_us)))
                .copied()
                .collect(),
            failed: failures.len() as u64,
            failures,
            elapsed: end - start,
            clients: Arc::clone(&self.clients),
            targets: Arc::clone(&self.targets),
            workers: self.workers.clone(),
            began,
            max_open: self.max_open,
        }
    }
}

impl fmt::Display for Report {
    /// Some lines for people: numbers, latencies, the first failures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |share| self.latency(share).as_secs_f64() * 1e3;
        writeln!(
            f,
            "{} answered, {} failed in {:.1} s ({:.0}/s); latency p50 {:.2} p99 {:.2} max {:.2} ms",
            self.answered(),
            self.failed(),
            self.elapsed.as_secs_f64(),
            self.rate(),
            millis(0.5),
            millis(0.99),
            millis(1.0),
        )?;
        for (kind, count) in self.failures_by_kind() {
            writeln!(f, "  {count} {kind}")?;
        }
        for failure in self.failures.iter().take(5) {
            writeln!(f, "  at {:.3} s {failure}", (failure.at - self.began).as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(answers: &[(u32, u32, u32)]) -> Report {
        let identity = |pid, seat| Identity { pid, seat, generation: 1 };
        Report {
            clients: ["10.8.0.1", "10.8.0.2"].map(|text| text.parse().unwrap()).into(),
            targets: ["10.9.0.1:80".parse().unwrap()].into(),
            workers: vec![identity(100, 0), identity(101, 1), identity(102, 0)],
            answers: answers
                .iter()
                .map(|&(client, by, latency_us)| Answer {
                    client,
                    target: 0,
                    latency_us,
                    at_us: u64::from(latency_us),
                    by,
                })
                .collect(),
            failures: Vec::new(),
            failed: 0,
            began: Instant::now(),
            elapsed: Duration::from_secs(1),
            max_open: 1,
        }
    }

    #[test]
    fn a_successor_in_the_same_seat_changes_the_worker_but_not_the_seat() {
        let report = report(&[(0, 0, 1), (1, 1, 2), (0, 2, 3), (1, 1, 4)]);
        let client: IpAddr = "10.8.0.1".parse().unwrap();
        assert_eq!(report.changed_worker(), BTreeSet::from([client]));
        assert_eq!(report.changed_seat(), BTreeSet::new());
        assert_eq!(report.last_by_client()[&client].pid, 102);
    }

    #[test]
    fn a_client_of_two_seats_is_found() {
        let report = report(&[(0, 0, 1), (0, 1, 2), (0, 0, 3)]);
        assert_eq!(report.changed_seat().len(), 1);
        assert_eq!(report.workers().values().copied().collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let answers: Vec<_> = (1..=100).map(|latency| (0, 0, latency)).collect();
        let hundred = report(&answers);
        for (share, micros) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100), (7.0, 100)] {
            assert_eq!(hundred.latency(share), Duration::from_micros(micros), "{share}");
        }
        assert_eq!(report(&[]).latency(0.5), Duration::ZERO);
    }

    #[test]
    fn a_part_of_the_time_has_the_connections_that_ended_in_it() {
        let report = report(&[(0, 0, 10), (0, 0, 20), (0, 0, 30)]);
        let at = |micros| report.began() + Duration::from_micros(micros);
        let part = report.between(at(10), at(30));
        assert_eq!(part.answered(), 2);
        assert_eq!(part.elapsed(), Duration::from_micros(20));
    }
}
