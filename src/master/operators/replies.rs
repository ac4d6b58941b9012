//! Replies that are owed until the supervisor has decided.

use std::collections::BTreeMap;

use crate::control::Responder;
use crate::protocol::{Command, CommandRequest, Outcome, Progress, Refusal};
use crate::supervisor::RequestId;

/// The requests that wait for their reply, and the number of workers that they are to lead to.
pub(super) struct Replies {
    pending: BTreeMap<RequestId, Pending>,
    next_request: u64,
    /// How many workers the cluster is to have.
    workers_wanted: usize,
    /// How many are configured.
    workers_configured: usize,
}

/// A reply that is owed.
struct Pending {
    asker: Asker,
    /// How many workers the cluster was to have before.
    wanted_before: usize,
}

/// The asker that gets the reply.
enum Asker {
    Operator(Responder),
    /// An operator who does not wait for the end of a probation.
    Impatient(Responder),
    /// Such an operator, who has the reply.
    Served,
    /// This master, whose configuration is another than that of the earlier one.
    Configuration,
}

impl Replies {
    pub(super) fn new(workers_wanted: usize, workers_configured: usize) -> Self {
        Self { pending: BTreeMap::new(), next_request: 0, workers_wanted, workers_configured }
    }

    /// How many workers the cluster is to have.
    pub(super) fn workers_wanted(&self) -> usize {
        self.workers_wanted
    }

    /// Takes note of a command.
    pub(super) fn begin(&mut self, request: CommandRequest, responder: Responder) -> RequestId {
        let id = self.add(match request.no_wait {
            true => Asker::Impatient(responder),
            false => Asker::Operator(responder),
        });
        if let Command::Scale { workers } = request.command {
            self.workers_wanted = usize::from(workers);
        }
        id
    }

    /// The cluster is to have so many workers, if this request is carried out.
    pub(super) fn want_workers(&mut self, request: RequestId, workers: usize) {
        if self.pending.contains_key(&request) {
            self.workers_wanted = workers;
        }
    }

    /// Takes note that the configuration is to be put in force.
    pub(super) fn begin_reconfigure(&mut self) -> RequestId {
        let id = self.add(Asker::Configuration);
        self.workers_wanted = self.workers_configured;
        id
    }

    fn add(&mut self, asker: Asker) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.pending.insert(id, Pending { asker, wanted_before: self.workers_wanted });
        id
    }

    /// Tells how a request gets on.
    pub(super) fn progress(&mut self, request: RequestId, step: &Progress) {
        let Some(Pending { asker, .. }) = self.pending.get_mut(&request) else { return };
        if let Asker::Operator(responder) | Asker::Impatient(responder) = asker {
            responder.progress(step.to_string());
        }
        if let Progress::OnProbation { outcome, .. } = step
            && let Asker::Impatient(_) = asker
            && let Asker::Impatient(responder) = std::mem::replace(asker, Asker::Served)
        {
            responder.finish(Ok(outcome.as_ref().clone()));
        }
    }

    /// Replies to a request.
    pub(super) fn finish(&mut self, request: RequestId, outcome: Result<Outcome, Refusal>) {
        let Some(Pending { asker, wanted_before }) = self.pending.remove(&request) else {
            tracing::error!(?request, "the supervisor answered an unknown request");
            return;
        };
        if outcome.is_err() {
            self.workers_wanted = wanted_before;
        }
        match (asker, outcome) {
            (Asker::Operator(responder) | Asker::Impatient(responder), outcome) => {
                responder.finish(outcome);
            }
            // The log has it.
            (Asker::Served, _) => {}
            (Asker::Configuration, Ok(_)) => tracing::info!("the configuration is in force"),
            (Asker::Configuration, Err(refusal)) => tracing::error!(
                "the configuration is not in force, and the earlier workers keep serving: {refusal}; \
                 restart the master once that is fixed"
            ),
        }
    }

    /// Takes out the operators that wait for a reply: this master will give them none.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Responder> + use<> {
        let pending = std::mem::take(&mut self.pending).into_values();
        pending.filter_map(|pending| match pending.asker {
            Asker::Operator(responder) | Asker::Impatient(responder) => Some(responder),
            Asker::Served | Asker::Configuration => None,
        })
    }
}
