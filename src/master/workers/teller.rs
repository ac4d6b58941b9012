//! Telling workers that they are retired, or serve again: first in their state files, in a thread, since a
//! file system may be slow; then by the retire signal.

use tokio::sync::mpsc;

use super::state_files::StateFiles;
use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::waiting::receive;
use crate::protocol::{EndSignals, GenerationCounts, WorkerId};

/// A worker that is to get its retire signal now.
pub(super) type Told = (WorkerId, EndSignals);

pub(super) struct Teller {
    files: Option<StateFiles>,
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<Told>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Teller {
    pub(super) fn new(files: Option<StateFiles>) -> Result<Self, MasterError> {
        let (sender, told) = mpsc::unbounded_channel();
        Ok(Self { files, thread: BackgroundThread::new("state-files")?, sender, told })
    }

    /// Writes that the worker with this number is retired; [`Self::next`] says when that is done. A master
    /// that is killed in between does not have the signal sent by the next one: once is better than twice.
    pub(super) fn tell_retired(&self, worker: WorkerId, signals: EndSignals, number: Option<u64>) {
        let sender = self.sender.clone();
        self.write(worker, number, true, move || {
            // The loop has ended.
            let _ = sender.send((worker, signals));
        });
    }

    /// Writes that the worker with this number serves again.
    pub(super) fn tell_serving(&self, worker: WorkerId, number: Option<u64>) {
        self.write(worker, number, false, || {});
    }

    /// Writes that these shares are configured, and in force.
    pub(super) fn note_configured(&self, shares: u64) {
        if let Some(files) = self.files.clone() {
            self.thread.run(move || files.note_configured(shares));
        }
    }

    /// Writes how many connections were counted for each generation.
    pub(super) fn note_connections(&self, counts: GenerationCounts) {
        if let Some(files) = self.files.clone() {
            self.thread.run(move || files.note_connections(&counts));
        }
    }

    /// Waits for a worker that is to get its retire signal.
    pub(super) async fn next(&mut self) -> Told {
        receive(&mut self.told).await
    }

    fn write(
        &self,
        worker: WorkerId,
        number: Option<u64>,
        is_retired: bool,
        then: impl FnOnce() + Send + 'static,
    ) {
        let file = self.files.clone().zip(number);
        self.thread.run(move || {
            if let Some((files, number)) = file
                && let Err(error) = files.add(number, is_retired)
            {
                tracing::error!(%worker, %error, "cannot write the state file of a worker");
            }
            then();
        });
    }
}
