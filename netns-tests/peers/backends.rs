//! Workers to which somebody else sends the clients.

use std::ops::Range;

use super::launcher::{Place, RESTART_OF_SYSTEMD, Workers};
use super::sockets::FIRST_WORKER_PORT;
use super::stage::{Fault, Stage};

/// Workers on ports of their own, which somebody else connects to: a generation at a time, on one of two
/// ranges of ports.
pub(crate) struct Backends {
    current: Option<(u16, Workers)>,
    earlier: Vec<(u16, Workers)>,
}

impl Backends {
    pub(crate) fn start(stage: &Stage) -> Result<Self, Fault> {
        let mut backends = Self { current: None, earlier: Vec::new() };
        backends.next(stage)?;
        Ok(backends)
    }

    /// Starts the next generation, beside the one before.
    pub(crate) fn next(&mut self, stage: &Stage) -> Result<(), Fault> {
        if !self.earlier.is_empty() {
            return Err(Fault::Failed("the reload before has failed".to_owned()));
        }
        let first = match &self.current {
            Some((FIRST_WORKER_PORT, _)) => FIRST_WORKER_PORT + 1024,
            _ => FIRST_WORKER_PORT,
        };
        let place = Place::Ports(first);
        let server = stage.network.server();
        let workers = Workers::start(server, &place, stage.workers, RESTART_OF_SYSTEMD)?;
        self.earlier.extend(self.current.replace((first, workers)));
        Ok(())
    }

    /// Ends those before the last.
    pub(crate) fn retire_earlier(&mut self) -> Result<(), Fault> {
        self.earlier.drain(..).try_for_each(|(_, workers)| workers.retire())
    }

    /// The ports of the last ones.
    pub(crate) fn ports(&self, stage: &Stage) -> Range<u16> {
        let first = self.current.as_ref().map_or(FIRST_WORKER_PORT, |(first, _)| *first);
        first..first + stage.workers
    }

    /// The ports of those just before the last, until they are retired.
    pub(crate) fn earlier_ports(&self, stage: &Stage) -> Option<Range<u16>> {
        let (first, _) = self.earlier.last()?;
        Some(*first..first + stage.workers)
    }
}
