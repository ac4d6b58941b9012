//! The actions of the supervisor, each performed by the subject that can.

use std::collections::VecDeque;

use super::configuration::Configuration;
use super::operators::Operators;
use super::rules::Rules;
use super::workers::Workers;
use crate::plan::Plan;
use crate::protocol::{Event, Refusal, ReplaceReason, WorkerFailure};
use crate::supervisor::{Action, Input};

/// The subjects that act.
pub(super) struct Actors<'a> {
    pub(super) workers: &'a mut Workers,
    pub(super) rules: &'a mut Rules,
    pub(super) operators: &'a mut Operators,
    pub(super) configuration: &'a mut Configuration,
}

impl Actors<'_> {
    /// Carries out an action. Returns the inputs that answer it at once, if any do.
    pub(super) fn perform(&mut self, action: Action) -> VecDeque<Input> {
        match action {
            Action::Spawn { worker, seat, generation } => {
                // A canary has seats beyond those: no worker is told a seat that there cannot be.
                let workers = self.operators.workers_wanted().max(seat.index() + 1);
                self.workers.spawn(worker, seat, generation, workers);
            }
            Action::PrepareRelease { generation } => {
                self.configuration.generation_begins(generation);
                self.workers.prepare(generation);
            }
            Action::RunAfterReload { generation } => self.workers.after_reload(generation),
            Action::CancelPreparation => self.workers.cancel_preparation(),
            Action::TransferListeners { from, to } => self.workers.transfer_listeners(from, to),
            Action::CloseListeners { worker } => self.workers.close_listeners(worker),
            Action::Commit(plan) => {
                let input = self.commit(&plan);
                if let Some(counts) = self.rules.take_news_of_counts() {
                    self.workers.note_connections(counts);
                }
                return [input].into();
            }
            Action::Verify => return self.rules.verify(),
            Action::Restore(plan) => return [self.rules.restore(&plan)].into(),
            Action::OrderRetire { worker } => self.workers.tell_retire(worker),
            Action::OrderStop { worker } => {
                if !self.workers.tell_die(worker) {
                    return [Input::OrderUnanswered { worker }].into();
                }
            }
            Action::TellServing { worker } => self.workers.tell_serving(worker),
            Action::TellRetired { worker, signals } => self.workers.tell_retired(worker, signals),
            Action::Terminate { worker, signals } => self.workers.terminate(worker, signals),
            Action::Kill { worker, signals } => self.workers.kill(worker, signals),
            Action::Renice { worker, nice } => self.workers.renice(worker, nice),
            Action::RestoreNice { worker } => self.workers.restore_nice(worker),
            Action::MeasureProportional { workers } => self.workers.measure_shared(workers),
            Action::CountConnections => {
                return [Input::ConnectionsCounted(self.rules.connections_by_seat())].into();
            }
            Action::Remove => self.rules.remove(),
            Action::Reply { request, mut outcome } => {
                if let Err(Refusal::Worker(failure)) = &mut outcome {
                    self.add_last_lines(failure);
                }
                if outcome.is_ok() {
                    self.workers.request_succeeded(request);
                }
                self.configuration.answered(request, &outcome);
                self.operators.reply(request, outcome);
            }
            Action::Progress { request, step } => {
                self.operators.progress(request, &step);
            }
            Action::Emit(mut event) => {
                match &mut event {
                    Event::Failed(failure) => self.add_last_lines(failure),
                    Event::Leaving {
                        worker,
                        cause: ReplaceReason::WorkerRequest,
                        reason,
                        details,
                        ..
                    } => (*reason, *details) = self.workers.take_retire_reason(*worker),
                    _ => {}
                }
                self.operators.announce(event);
            }
            // The loop ends by these.
            Action::FailStart(_) | Action::Finish => {}
        }
        VecDeque::new()
    }

    fn commit(&mut self, plan: &Plan) -> Input {
        match self.rules.commit(plan) {
            Ok(took) => Input::Committed { took },
            Err(error) => Input::CommitFailed { reason: error.to_string() },
        }
    }

    /// Says what a worker has printed that failed although it runs: the supervisor is told it of
    /// those alone that have exited.
    fn add_last_lines(&mut self, failure: &mut WorkerFailure) {
        if let Some(last_lines) = self.workers.last_lines(failure.worker) {
            failure.last_lines = last_lines;
        }
    }
}
