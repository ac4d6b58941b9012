//! What the supervisor wants done, and what it answers to requests.

use super::RequestId;
use crate::plan::{Generation, Plan, Seat};
use crate::protocol::{Event, Outcome, Progress, Refusal, WorkerId};

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
    /// Give the listening sockets that one worker has left to another, whose [`Self::Spawn`] follows:
    /// its process gets these and no new ones.
    TransferListeners {
        /// The worker that has ended.
        from: WorkerId,
        /// The worker to be spawned.
        to: WorkerId,
    },
    /// Close the listening sockets that a worker has left; its worker ports are free then.
    CloseListeners {
        /// The worker, which has ended.
        worker: WorkerId,
    },
    /// Put a plan into force. At most one is outstanding; answered by
    /// [`Input::Committed`](super::Input::Committed) or
    /// [`Input::CommitFailed`](super::Input::CommitFailed).
    Commit(Plan),
    /// Look whether the kernel holds the plan in force, nothing less and nothing more. Answered by
    /// [`Input::Verified`](super::Input::Verified).
    Verify,
    /// Make the table anew, whole, from the plan in force. Answered by
    /// [`Input::Restored`](super::Input::Restored) or
    /// [`Input::RestoreFailed`](super::Input::RestoreFailed). While a [`Self::Verify`] or this is
    /// outstanding there is no [`Self::Commit`], and the other way round.
    Restore(Plan),
    /// Tell a worker that has [joined](super::Input::LinkOpened) that no new connections will come, and
    /// that it is to finish those that it has.
    OrderRetire {
        /// The worker.
        worker: WorkerId,
    },
    /// Tell a worker that has [joined](super::Input::LinkOpened) to end. Answered by
    /// [`Input::OrderUnanswered`](super::Input::OrderUnanswered) if it does not answer or will not; else by its exit.
    OrderStop {
        /// The worker.
        worker: WorkerId,
    },
    /// Send SIGTERM to the worker's process group.
    Terminate {
        /// The worker.
        worker: WorkerId,
    },
    /// Send SIGKILL to the worker's process group.
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// Give all processes of the worker's group this nice value, 1 to 19, since it has retired: those
    /// that serve new clients come first. Not answered; if it fails, nothing is lost.
    Renice {
        /// The worker.
        worker: WorkerId,
        /// The nice value.
        nice: i32,
    },
    /// Give all processes of the worker's group the nice value back that workers are started with: it
    /// had retired, and serves again. Not answered; if it fails, the worker serves all the same.
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
    /// Delete the rules: no worker is left. Deleting what was never there is no error.
    Remove,
    /// The one answer to a request.
    Reply {
        /// The request.
        request: RequestId,
        /// What came of it.
        outcome: Result<Outcome, Refusal>,
    },
    /// How a request that is under way gets on.
    Progress {
        /// The request.
        request: RequestId,
        /// The step that was made.
        step: Progress,
    },
    /// Something for the log and the metrics.
    Emit(Event),
    /// The end of the master; the last action of all.
    Finish,
}
