//! The end of a cluster: close it, drain the workers, remove the rules.

use super::state::{Phase, count};
use super::workers::Stage;
use super::{Action, RequestId, Supervisor};
use crate::protocol::{
    EndReason, Outcome, Progress, Refusal, Stopped, Timestamp, WorkerFailure, WorkerId,
};

/// How many failed commits it takes until the workers are ended although clients still reach them.
const CLOSE_TRIES: u32 = 3;

/// A stop under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// The requests for it, each with how many workers there were.
    requests: Vec<(RequestId, u32)>,
    /// Established connections are not waited for.
    at_once: bool,
    /// How many commits have failed since the stop was requested.
    commit_failures: u32,
}

impl Stop {
    /// Whether the workers are to end although the plan could not be closed.
    pub(super) fn gave_up_closing(&self) -> bool {
        self.commit_failures >= CLOSE_TRIES
    }
}

impl Supervisor {
    pub(super) fn stop(&mut self, request: RequestId, at_once: bool) {
        let workers = count(self.workers.len());
        match &mut self.phase {
            Phase::Finished => self.reply(request, Ok(stopped(0))),
            Phase::Stopping(stop) => {
                stop.requests.push((request, workers));
                stop.at_once |= at_once;
            }
            Phase::Starting(_) | Phase::Serving => {
                let stop = Stop { requests: vec![(request, workers)], at_once, commit_failures: 0 };
                self.phase = Phase::Stopping(stop);
                self.give_up_rollout(Refusal::Stopping);
                self.stop_probation();
            }
        }
    }

    /// Retires the live workers, or ends them, once no new connection can reach them.
    pub(super) fn advance_stop(&mut self, now: Timestamp) {
        let Phase::Stopping(stop) = &self.phase else { return };
        if !self.is_closed() {
            return;
        }
        let at_once = stop.at_once;
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        let mut drains = false;
        for id in ids {
            match self.workers[&id].stage {
                Stage::Live { .. } | Stage::Retired(_) | Stage::Reactivating(_) if at_once => {
                    self.end(id, EndReason::StopNow, now);
                }
                Stage::Live { .. } => {
                    self.retire(id, now);
                    drains = true;
                }
                _ => {}
            }
        }
        if drains {
            // Who waits for the stop to begin alone waits for this: no worker may end for long.
            self.report_stop_drains();
        }
    }

    pub(super) fn stop_commit_failed(&mut self, reason: String) {
        let Phase::Stopping(stop) = &mut self.phase else { return };
        stop.commit_failures += 1;
        let failures = stop.commit_failures;
        self.report_stop_progress(&Progress::CommitFailed { reason, failures });
    }

    pub(super) fn report_stop_drains(&mut self) {
        let workers = self.workers.len();
        if workers > 0 {
            self.report_stop_progress(&Progress::Draining { workers });
        }
    }

    fn report_stop_progress(&mut self, step: &Progress) {
        let Phase::Stopping(stop) = &self.phase else { return };
        for &(request, _) in &stop.requests {
            self.actions.push(Action::Progress { request, step: step.clone() });
        }
    }

    /// When no worker is left, nor any process that one has left: removes the rules and ends.
    pub(super) fn finish_stop(&mut self) {
        let is_left = !self.workers.is_empty() || !self.unreaped.is_empty();
        if is_left || !self.orphaned_listeners.is_empty() || !self.is_closed() {
            return;
        }
        let Phase::Stopping(stop) = &mut self.phase else { return };
        let requests = std::mem::take(&mut stop.requests);
        self.phase = Phase::Finished;
        self.actions.push(Action::Remove);
        let left = self.left_behind;
        for (request, workers) in requests {
            self.reply(request, Ok(Outcome::Stopped(Stopped { workers, left })));
        }
        self.actions.push(Action::Finish);
    }

    /// Ends a master whose first worker cannot be run: nothing is lost by it, and whoever started it sees why.
    pub(super) fn abandon_start(&mut self, failure: WorkerFailure) {
        self.give_up_rollout(Refusal::Worker(failure.clone()));
        self.workers.clear();
        self.phase = Phase::Finished;
        self.actions.push(Action::Remove);
        self.actions.push(Action::FailStart(failure));
        self.actions.push(Action::Finish);
    }

    /// Whether everything is to end without waiting for connections.
    pub(super) fn stops_at_once(&self) -> bool {
        matches!(&self.phase, Phase::Stopping(stop) if stop.at_once)
    }

    /// Whether no plan in force, nor one on its way there, lets clients in.
    pub(super) fn is_closed(&self) -> bool {
        !self.kernel.is_busy() && !self.is_outdated()
    }
}

fn stopped(workers: u32) -> Outcome {
    Outcome::Stopped(Stopped { workers, left: 0 })
}
