//! The connections that are open, and which of them loses its place when others wait.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::limits::HttpLimits;

/// How far a connection is.
#[derive(Debug, Clone, Default)]
pub(super) struct Stage(Arc<AtomicU8>);

impl Stage {
    const HEAD: u8 = 0;
    const ASKED: u8 = 1;
    const LIVE: u8 = 2;

    /// Its request has come.
    pub(super) fn has_asked(&self) {
        self.0.store(Self::ASKED, Ordering::Relaxed);
    }

    /// It is told of events from now on: such have places of their own, and lose them if they do not read.
    pub(super) fn is_live(&self) {
        self.0.store(Self::LIVE, Ordering::Relaxed);
    }
}

/// The connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct OpenConnections(VecDeque<OpenConnection>);

#[derive(Debug)]
struct OpenConnection {
    task: AbortHandle,
    address: IpAddr,
    stage: Stage,
    since: Instant,
}

impl OpenConnection {
    /// From when on it loses its place to others; `None`: never.
    fn yields_at(&self, limits: HttpLimits) -> Option<Instant> {
        match self.stage.0.load(Ordering::Relaxed) {
            Stage::HEAD => Some(self.since + limits.header_when_full),
            Stage::ASKED => Some(self.since + limits.connection_when_full),
            _ => None,
        }
    }
}

impl OpenConnections {
    pub(super) fn add(&mut self, task: AbortHandle, address: IpAddr, stage: Stage, since: Instant) {
        self.0.push_back(OpenConnection { task, address, stage, since });
    }

    /// Makes room for one more connection. If there are as many as may be, one of those that have taken too
    /// long is closed: of the address that has most of them, and there the oldest. So a request that is sent at
    /// once is answered however many slow clients there are.
    ///
    /// # Errors
    /// When one of them will have taken too long; `None`: none will.
    pub(super) fn make_room(
        &mut self,
        limits: HttpLimits,
        now: Instant,
    ) -> Result<(), Option<Instant>> {
        self.0.retain(|it| !it.task.is_finished());
        if self.0.len() < limits.connections {
            return Ok(());
        }
        let yields = |it: &OpenConnection| it.yields_at(limits).is_some_and(|at| at <= now);
        let mut of_address: HashMap<IpAddr, usize> = HashMap::new();
        for slow in self.0.iter().filter(|it| yields(it)) {
            *of_address.entry(slow.address).or_default() += 1;
        }
        let slow = self.0.iter().enumerate().filter(|(_, it)| yields(it));
        // The last of the greatest is taken: the oldest comes last.
        let chosen = slow.rev().max_by_key(|(_, it)| of_address.get(&it.address).copied());
        let Some((index, _)) = chosen else {
            return Err(self.0.iter().filter_map(|it| it.yields_at(limits)).min());
        };
        if let Some(OpenConnection { task, address, .. }) = self.0.remove(index) {
            tracing::debug!(%address, "an HTTP connection is closed: it takes too long, and others wait");
            task.abort();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: fn() -> HttpLimits = || HttpLimits { connections: 3, ..HttpLimits::default() };

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[tokio::test]
    async fn of_those_that_take_too_long_the_oldest_of_the_address_with_most_goes() {
        let begin = Instant::now();
        let mut open = OpenConnections::default();
        let mut tasks = Vec::new();
        let mut add = |open: &mut OpenConnections, last, millis| {
            let task = tokio::spawn(std::future::pending::<()>());
            let (stage, at) = (Stage::default(), begin + Duration::from_millis(millis));
            open.add(task.abort_handle(), address(last), stage.clone(), at);
            tasks.push(task);
            stage
        };
        let asked = add(&mut open, 1, 0);
        asked.has_asked();
        add(&mut open, 2, 10);
        add(&mut open, 2, 20);
        let at = |millis| begin + Duration::from_millis(millis);
        assert_eq!(open.make_room(LIMITS(), at(100)), Err(Some(at(210))), "nobody is slow yet");
        assert_eq!(open.make_room(LIMITS(), at(220)), Ok(()));
        let left: Vec<_> = open.0.iter().map(|it| (it.address, it.since)).collect();
        assert_eq!(left, [(address(1), at(0)), (address(2), at(20))]);
        // One whose answer takes long, and two that are told of events.
        open.0[1].stage.is_live();
        add(&mut open, 3, 30).is_live();
        assert_eq!(open.make_room(LIMITS(), at(1000)), Err(Some(at(2000))));
        assert_eq!(open.make_room(LIMITS(), at(2000)), Ok(()));
        add(&mut open, 3, 40).is_live();
        assert_eq!(open.make_room(LIMITS(), at(5000)), Err(None));
    }
}
