//! Replies that are owed until the supervisor has decided.

use std::collections::BTreeMap;

use crate::control::Responder;
use crate::master::adoption::{PendingReconfigure, Renewal};
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
    /// Why the reload failed that the master was started with, while none has succeeded since.
    failed_reload: Option<Refusal>,
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
    /// This master, which changes something of what it has adopted.
    Master(PendingReconfigure),
}

impl Replies {
    pub(super) fn new(workers_wanted: usize, workers_configured: usize) -> Self {
        Self {
            pending: BTreeMap::new(),
            next_request: 0,
            workers_wanted,
            workers_configured,
            failed_reload: None,
        }
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

    /// Takes note that something of what was adopted is to be changed.
    pub(super) fn begin_reconfigure(&mut self, wanted: PendingReconfigure) -> RequestId {
        let id = self.add(Asker::Master(wanted));
        if wanted.reshares {
            self.workers_wanted = self.workers_configured;
        }
        id
    }

    pub(super) fn take_failed_reload(&mut self) -> Option<Refusal> {
        self.failed_reload.take()
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
        if let Ok(Outcome::Reloaded(_) | Outcome::Restarted(_)) = &outcome {
            self.failed_reload = None;
        }
        match (asker, outcome) {
            (Asker::Operator(responder) | Asker::Impatient(responder), outcome) => {
                responder.finish(outcome);
            }
            // The log has it.
            (Asker::Served, _) => {}
            (Asker::Master(wanted), Ok(_)) if wanted.is_by_configuration() => {
                tracing::info!("the configuration is in force");
            }
            (Asker::Master(_), Ok(_)) => {
                tracing::info!("new workers serve in place of those of the earlier master");
            }
            (Asker::Master(wanted), Err(refusal)) => {
                match wanted.is_by_configuration() {
                    true => tracing::error!(
                        "the configuration is not in force, and the earlier workers keep serving: \
                         {refusal}; restart the master once that is fixed"
                    ),
                    false => tracing::error!(
                        "the reload failed, and the earlier workers keep serving: {refusal}; `ipcluster \
                         reload` tries again"
                    ),
                }
                if wanted.renew == Some(Renewal::Requested) {
                    self.failed_reload = Some(refusal);
                }
            }
        }
    }

    /// Takes out the operators that wait for a reply: this master will give them none.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Responder> + use<> {
        let pending = std::mem::take(&mut self.pending).into_values();
        pending.filter_map(|pending| match pending.asker {
            Asker::Operator(responder) | Asker::Impatient(responder) => Some(responder),
            Asker::Served | Asker::Master(_) => None,
        })
    }
}
