//! What the supervisor wants done: its output.

use super::RequestId;
use crate::plan::{Generation, Plan, Seat};
use crate::protocol::{EndSignals, Event, Outcome, Progress, Refusal, WorkerFailure, WorkerId};

/// Something that the master is to do, in the order given. None waits for the one before.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a process. Answered by [`Input::Spawned`](super::Input::Spawned) or
    /// [`Input::SpawnFailed`](super::Input::SpawnFailed).
    Spawn {
        /// The worker that the process will be.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// Find what the workers of a new generation are started from (directory, program, variables), and run the
    /// hook that comes before them. Answered by
    /// [`Input::ReleasePrepared`](super::Input::ReleasePrepared); [`Self::Spawn`] of such workers
    /// follows.
    PrepareRelease {
        /// The generation.
        generation: Generation,
    },
    /// End the hook of [`Self::PrepareRelease`]: nothing will come of it.
    CancelPreparation,
    /// Run the hook that follows a reload. Not answered.
    RunAfterReload {
        /// The generation that is in force.
        generation: Generation,
    },
    /// Transfer the listening sockets of a worker that has ended to another worker, whose
    /// [`Self::Spawn`] follows: its process gets these sockets and no new ones.
    TransferListeners {
        /// The worker that has ended.
        from: WorkerId,
        /// The worker to be spawned.
        to: WorkerId,
    },
    /// Close the listening sockets of a worker that has ended; its worker ports are free then.
    CloseListeners {
        /// The worker, which has ended.
        worker: WorkerId,
    },
    /// Put a plan into force. At most one is outstanding; answered by
    /// [`Input::Committed`](super::Input::Committed) or
    /// [`Input::CommitFailed`](super::Input::CommitFailed).
    Commit(Plan),
    /// Verify that the kernel holds the plan in force, nothing less and nothing more. Answered by
    /// [`Input::Verified`](super::Input::Verified).
    Verify,
    /// Restore the whole table from the plan in force. Answered by
    /// [`Input::Restored`](super::Input::Restored) or
    /// [`Input::RestoreFailed`](super::Input::RestoreFailed). While a [`Self::Verify`] or this is
    /// outstanding there is no [`Self::Commit`], and the other way round.
    Restore(Plan),
    /// Order a worker whose [link is open](super::Input::LinkOpened) to retire: no new connections will
    /// come, and it is to finish those that it has.
    OrderRetire {
        /// The worker.
        worker: WorkerId,
    },
    /// Order a worker whose [link is open](super::Input::LinkOpened) to stop. Answered by
    /// [`Input::OrderUnanswered`](super::Input::OrderUnanswered) if it does not answer or refuses, else
    /// by its exit.
    OrderStop {
        /// The worker.
        worker: WorkerId,
    },
    /// Tell a worker that it is retired, once: no new connections will come, and it is to finish those
    /// that it has. By its retire signal, if it has one.
    TellRetired {
        /// The worker.
        worker: WorkerId,
        /// Its signals.
        signals: EndSignals,
    },
    /// Tell a worker that was [told that it is retired](Self::TellRetired) that it serves again.
    TellServing {
        /// The worker.
        worker: WorkerId,
    },
    /// Send a worker its stop signal.
    Terminate {
        /// The worker.
        worker: WorkerId,
        /// Its signals.
        signals: EndSignals,
    },
    /// Send a worker SIGKILL.
    Kill {
        /// The worker.
        worker: WorkerId,
        /// Its signals: they say to which processes.
        signals: EndSignals,
    },
    /// Give all processes of a retired worker's group this nice value, 1 to 19: workers that serve new
    /// clients come first. Not answered; if it fails, nothing is lost.
    Renice {
        /// The worker.
        worker: WorkerId,
        /// The nice value.
        nice: i32,
    },
    /// Give all processes of the worker's group the nice value back that workers are started with: the
    /// worker was retired, and serves again. Not answered; if it fails, the worker serves all the same.
    RestoreNice {
        /// The worker.
        worker: WorkerId,
    },
    /// Measure the proportional memory of the master and of these workers: a decision depends on it.
    /// At most one is outstanding; answered by
    /// [`Input::ProportionalMeasured`](super::Input::ProportionalMeasured).
    MeasureProportional {
        /// The workers: all that run.
        workers: Vec<WorkerId>,
    },
    /// Read the counters of the seats: a limit of connections is near, or may be. At most one is
    /// outstanding; answered by [`Input::ConnectionsCounted`](super::Input::ConnectionsCounted).
    CountConnections,
    /// Delete the rules: no worker is left. Deleting what was never there is no error.
    Remove,
    /// Answer a request: once for each.
    Reply {
        /// The request.
        request: RequestId,
        /// Its outcome.
        outcome: Result<Outcome, Refusal>,
    },
    /// Report a step on the way to the answer of a request.
    Progress {
        /// The request.
        request: RequestId,
        /// The step.
        step: Progress,
    },
    /// Report an event to the log, the metrics and subscribers.
    Emit(Event),
    /// The first worker of a new cluster cannot be run: the master ends with this failure, after
    /// [`Self::Finish`].
    FailStart(WorkerFailure),
    /// End the master: the last action of all.
    Finish,
}
