//! What takes too long for the loop, one thing after the other.

use std::sync::mpsc;
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// A thread for one kind of work. It is there from the start, so that no work depends on whether a
/// thread can be made at that moment, as it cannot when the user has too many processes: the
/// runtime's own threads for blocking work would panic then, and with them the loop.
pub(super) struct BackgroundThread {
    jobs: mpsc::Sender<Job>,
    name: &'static str,
}

impl BackgroundThread {
    /// Makes the thread, which ends when this is dropped.
    pub(super) fn new(name: &'static str) -> Result<Self, std::io::Error> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in inbox {
                job();
            }
        })?;
        Ok(Self { jobs, name })
    }

    /// Has the thread do this when it is done with what came before.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.jobs.send(Box::new(job)).is_err() {
            // The thread ends only by a panic, which it has reported.
            tracing::error!("the thread {} is gone", self.name);
        }
    }
}
