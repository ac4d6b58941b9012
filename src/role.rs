use crate::worker::{Worker, WorkerError};

/// What a process is in a cluster whose master and workers are one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// No master has started this process: it may become one.
    Master,
    /// A master has started this process.
    Worker(Worker),
}

/// Tells the master from its workers, in a program that is both.
///
/// A process that a worker starts inherits its variables, and counts as a worker too.
///
/// ```no_run
/// use ipcluster::Role;
///
/// # async fn serve(_: ipcluster::worker::Worker) {}
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// match ipcluster::role()? {
///     Role::Worker(worker) => serve(worker).await,
///     Role::Master => { /* build and run a `master::Master` whose command is this program */ }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`WorkerError::Missing`] and [`WorkerError::Invalid`]: some variables of a master are set, and
/// others are not, or make no sense.
pub fn role() -> Result<Role, WorkerError> {
    match Worker::from_env() {
        Ok(worker) => Ok(Role::Worker(worker)),
        Err(WorkerError::NotUnderIpcluster) => Ok(Role::Master),
        Err(error) => Err(error),
    }
}
