//! Work that takes too long for the loop.

use std::sync::mpsc;
use std::thread;

use super::error::MasterError;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one kind of work, one job after the other. It is there from the start, so that no
/// work depends on whether a thread can be made at that moment, as it cannot when the user has too many
/// processes: `tokio::task::spawn_blocking` would panic then, and with it the loop. So nothing in the
/// master uses that.
#[derive(Debug)]
pub(super) struct BackgroundThread {
    jobs: mpsc::Sender<Job>,
    name: &'static str,
}

impl BackgroundThread {
    /// Makes the thread, which ends when this is dropped. `name` has at most 15 bytes: see
    /// prctl(2), `PR_SET_NAME`.
    pub(super) fn new(name: &'static str) -> Result<Self, MasterError> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in inbox {
                job();
            }
        });
        thread.map_err(|source| MasterError::Thread { source })?;
        Ok(Self { jobs, name })
    }

    /// Has the thread do this when it is done with what came before.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.jobs.send(Box::new(job)).is_err() {
            // The thread ends only by a panic, which it has reported.
            tracing::error!(thread = self.name, "a background thread panicked");
        }
    }
}
