//! How much memory the workers take: looked at in a thread, every second while a limit is set or somebody is
//! subscribed, and otherwise when somebody asks.
//!
//! A look reads one small file for each process and takes far less than a millisecond, but every
//! few seconds it also goes through `/proc`, which on a host with many processes takes tens of
//! milliseconds; and proportional sizes take the kernel a walk over all pages. The loop has no time
//! for either.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::waiting::{Periodic, receive};
use crate::process::{Bytes, MemoryWatch, Size};
use crate::protocol::{Timestamp, WorkerId};
use crate::supervisor::MemoryUsage;

/// From one look to the next. Fixed, as the answer to a worker that grows fast must not depend on
/// the configuration: what a worker grows by in a second is what a mark is exceeded by.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches the memory of the workers, and of this process.
pub(super) struct MemoryMonitor {
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<MemorySample>,
    samples: mpsc::UnboundedReceiver<MemorySample>,
    due: Periodic,
    /// When the last look at the resident sizes began.
    looked_at: Timestamp,
    /// `None` while a look is under way.
    watch: Option<MemoryWatch<WorkerId>>,
    /// The workers whose proportional sizes are asked for, until that look begins.
    asked: Option<Vec<WorkerId>>,
    /// The last resident sizes of those workers that run and could be measured.
    sizes: BTreeMap<WorkerId, Bytes>,
    /// The last resident size of this process; `None` if it was never known.
    own: Option<Bytes>,
    /// The workers that cannot be measured, where that was logged.
    unknown: BTreeSet<WorkerId>,
}

/// The sizes that a look has found.
pub(crate) struct MemorySample {
    watch: MemoryWatch<WorkerId>,
    kind: Kind,
    own: Size,
    workers: Vec<(WorkerId, Size)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Resident,
    Proportional,
}

/// What the supervisor is to know of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Measured {
    /// The resident sizes, as every second.
    Resident(MemoryUsage),
    /// The proportional sizes that were asked for.
    Proportional(MemoryUsage),
}

impl MemoryMonitor {
    pub(super) fn new() -> Result<Self, MasterError> {
        let (sender, samples) = mpsc::unbounded_channel();
        Ok(Self {
            thread: BackgroundThread::new("memory")?,
            sender,
            samples,
            due: Periodic::every(INTERVAL),
            looked_at: Timestamp::ZERO,
            watch: Some(MemoryWatch::new()),
            asked: None,
            sizes: BTreeMap::new(),
            own: None,
            unknown: BTreeSet::new(),
        })
    }

    /// Two things to wait for: the time for the next look, and the end of one.
    pub(super) fn wait(
        &mut self,
    ) -> (impl Future<Output = ()>, impl Future<Output = MemorySample>) {
        (self.due.tick(), receive(&mut self.samples))
    }

    /// A look that has ended and was not taken in, if there is one.
    pub(super) fn ended(&mut self) -> Option<MemorySample> {
        self.samples.try_recv().ok()
    }

    /// Begins a look at the resident sizes of `workers`, all that run, each with the pid of its
    /// first process; unless one is under way.
    pub(super) fn look(&mut self, workers: Vec<(WorkerId, u32)>, now: Timestamp) {
        self.begin(Kind::Resident, move |watch| (watch.own(), watch.look(&workers)));
        self.looked_at = now;
    }

    /// As [`Self::look`], unless the last one began less than a second ago. What is returned is closed when
    /// the look has ended, so that somebody can wait for it.
    pub(super) fn refresh(
        &mut self,
        workers: impl FnOnce() -> Vec<(WorkerId, u32)>,
        now: Timestamp,
    ) -> Option<std_mpsc::Receiver<Infallible>> {
        if self.watch.is_none() || now.since(self.looked_at) < INTERVAL {
            return None;
        }
        let (sender, ended) = std_mpsc::channel();
        let workers = workers();
        self.begin(Kind::Resident, move |watch| (watch.own(), watch.look(&workers)));
        // One job follows upon the other.
        self.thread.run(move || drop(sender));
        self.looked_at = now;
        Some(ended)
    }

    /// Begins a look at the proportional sizes of these workers, at once or after the one that is
    /// under way. There is exactly one [`Measured::Proportional`] for each.
    pub(super) fn ask(&mut self, workers: Vec<WorkerId>) {
        if self.watch.is_none() {
            self.asked = Some(workers);
            return;
        }
        self.begin(Kind::Proportional, move |watch| {
            (watch.own_proportional(), watch.proportional(&workers))
        });
    }

    fn begin(
        &mut self,
        kind: Kind,
        work: impl FnOnce(&mut MemoryWatch<WorkerId>) -> (Size, Vec<(WorkerId, Size)>) + Send + 'static,
    ) {
        let Some(mut watch) = self.watch.take() else { return };
        let sender = self.sender.clone();
        self.thread.run(move || {
            let (own, workers) = work(&mut watch);
            // The loop has ended.
            let _ = sender.send(MemorySample { watch, kind, own, workers });
        });
    }

    /// Takes in what a look has shown of those workers that run still: of others it may have been
    /// somebody else who had their pid. `None` if nothing is to be made of it.
    pub(super) fn take_in(
        &mut self,
        look: MemorySample,
        runs: impl Fn(WorkerId) -> bool,
    ) -> Option<Measured> {
        let MemorySample { watch, kind, own, workers } = look;
        self.watch = Some(watch);
        let own = self.known_or_said(None, own);
        let mut sizes = BTreeMap::new();
        for (worker, size) in workers.into_iter().filter(|(worker, _)| runs(*worker)) {
            if let Some(bytes) = self.known_or_said(Some(worker), size) {
                sizes.insert(worker, bytes);
            } else if let (Kind::Proportional, Some(bytes)) = (kind, self.sizes.get(&worker)) {
                // The proportional size is at most the resident one.
                sizes.insert(worker, *bytes);
            }
        }
        let measured = match kind {
            Kind::Resident => {
                self.own = own.or(self.own);
                self.unknown.retain(|worker| runs(*worker));
                self.sizes = sizes;
                Measured::Resident(footprint(self.own?, &self.sizes))
            }
            // Proportional sizes are asked for after a look that knew the resident size of the master.
            Kind::Proportional => {
                Measured::Proportional(footprint(own.or(self.own).unwrap_or_default(), &sizes))
            }
        };
        if let Some(workers) = self.asked.take() {
            self.ask(workers);
        }
        Some(measured)
    }

    /// A size, if it is known. Says once of a worker that it is not; `worker` is none for this
    /// process.
    fn known_or_said(&mut self, worker: Option<WorkerId>, size: Size) -> Option<Bytes> {
        match (size, worker) {
            (Ok(size), _) => size,
            (Err(error), Some(worker)) => {
                if self.unknown.insert(worker) {
                    tracing::warn!(%worker, %error, "cannot read the memory usage of a worker");
                }
                None
            }
            (Err(error), None) => {
                tracing::debug!(%error, "cannot read the memory usage of the master");
                None
            }
        }
    }
}

fn footprint(own: Bytes, workers: &BTreeMap<WorkerId, Bytes>) -> MemoryUsage {
    let workers = workers.iter().map(|(worker, size)| (*worker, size.0)).collect();
    MemoryUsage { master: own.0, workers }
}

#[cfg(test)]
mod tests {
    use crate::netlink::Errno;

    use super::*;
    use crate::process::{ProcessError, ProcessOperation};

    const ONE: WorkerId = WorkerId(1);
    const TWO: WorkerId = WorkerId(2);

    fn denied() -> Size {
        let operation = ProcessOperation::Read("smaps_rollup");
        Err(ProcessError::Process { pid: 7, operation, errno: Errno::EACCES })
    }

    fn look(kind: Kind, own: Size, workers: Vec<(WorkerId, Size)>) -> MemorySample {
        MemorySample { watch: MemoryWatch::new(), kind, own, workers }
    }

    fn footprint(master: u64, workers: &[(WorkerId, u64)]) -> MemoryUsage {
        MemoryUsage { master, workers: workers.iter().copied().collect() }
    }

    #[test]
    fn who_is_gone_or_unknown_has_no_size() {
        let mut monitor = MemoryMonitor::new().unwrap();
        let sizes = vec![
            (ONE, Ok(Some(Bytes(100)))),
            (TWO, Ok(None)),
            (WorkerId(3), denied()),
            (WorkerId(4), Ok(Some(Bytes(9)))),
        ];
        let found = look(Kind::Resident, Ok(Some(Bytes(10))), sizes);
        let measured = monitor.take_in(found, |worker| worker != WorkerId(4));
        assert_eq!(measured, Some(Measured::Resident(footprint(10, &[(ONE, 100)]))));
        assert_eq!(monitor.sizes.keys().copied().collect::<Vec<_>>(), [ONE]);
    }

    #[test]
    fn a_look_without_the_master_itself_counts_with_what_it_had() {
        let mut monitor = MemoryMonitor::new().unwrap();
        let unknown = |workers| look(Kind::Resident, denied(), workers);
        assert_eq!(monitor.take_in(unknown(vec![]), |_| true), None, "it is not 0");
        monitor.take_in(look(Kind::Resident, Ok(Some(Bytes(10))), vec![]), |_| true);
        let measured = monitor.take_in(unknown(vec![]), |_| true);
        assert_eq!(measured, Some(Measured::Resident(footprint(10, &[]))));
    }

    #[test]
    fn where_the_proportional_size_may_not_be_read_the_resident_one_stands_for_it() {
        let mut monitor = MemoryMonitor::new().unwrap();
        let sizes = vec![(ONE, Ok(Some(Bytes(100)))), (TWO, Ok(Some(Bytes(200))))];
        monitor.take_in(look(Kind::Resident, Ok(Some(Bytes(10))), sizes), |_| true);
        let sizes = vec![(ONE, Ok(Some(Bytes(60)))), (TWO, denied())];
        let measured = monitor.take_in(look(Kind::Proportional, denied(), sizes), |_| true);
        let expected = footprint(10, &[(ONE, 60), (TWO, 200)]);
        assert_eq!(measured, Some(Measured::Proportional(expected)));
        assert_eq!(monitor.sizes[&ONE], Bytes(100), "it shows the resident one all the same");
    }

    #[tokio::test]
    async fn every_question_has_its_answer_also_during_a_look() {
        let mut monitor = MemoryMonitor::new().unwrap();
        let pid = std::process::id();
        monitor.look(vec![(ONE, pid)], Timestamp::ZERO);
        monitor.ask(vec![ONE]);
        monitor.look(vec![(ONE, pid)], Timestamp::ZERO);
        for is_expected in [
            |measured: &Measured| matches!(measured, Measured::Resident(it) if it.workers[&ONE] > 0),
            |measured: &Measured| matches!(measured, Measured::Proportional(it) if it.workers[&ONE] > 0),
        ] {
            let look = monitor.samples.recv().await.unwrap();
            let measured = monitor.take_in(look, |_| true).unwrap();
            assert!(is_expected(&measured), "{measured:?}");
        }
        assert!(
            monitor.samples.try_recv().is_err(),
            "a look that is due during another one is left out"
        );
    }

    #[test]
    fn who_asks_gets_a_look_that_is_a_second_old_at_most_and_can_wait_for_it() {
        let mut monitor = MemoryMonitor::new().unwrap();
        let workers = || vec![(ONE, std::process::id())];
        let at = |milliseconds| Timestamp(Duration::from_millis(milliseconds));
        let ended = monitor.refresh(workers, at(5000)).expect("nothing is known yet");
        assert_eq!(
            ended.recv_timeout(Duration::from_secs(20)),
            Err(std_mpsc::RecvTimeoutError::Disconnected)
        );
        let look = monitor.ended().expect("it has ended");
        assert!(monitor.refresh(workers, at(7000)).is_none(), "it was not taken in");
        assert!(monitor.take_in(look, |_| true).is_some());
        assert!(monitor.refresh(workers, at(5999)).is_none());
        assert!(monitor.refresh(workers, at(6000)).is_some());
    }
}
