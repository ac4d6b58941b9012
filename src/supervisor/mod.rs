//! Every decision of the process manager: which workers to start, which plan to put into force,
//! whom to retire and when to end them. Pure.
//!
//! # How it works
//!
//! A [`Supervisor`] is told what happens ([`Input`]) and at what time ([`Timestamp`]), and answers
//! what is to be done ([`Action`]). It does nothing itself and reads no clock; the master does.
//!
//! ```text
//!            Input, now                      Action
//!   master ------------> Supervisor::step ------------> master --> processes, kernel, clients
//!      ^                                                  |
//!      +--------------------------------------------------+   Spawned, Committed, Exited ...
//! ```
//!
//! It is *level-triggered*. An input changes what is known of one worker, of the kernel or of a
//! request, and nothing else. Then the same rules always run, in the same order, and each compares
//! what is with what should be:
//!
//! 1. a worker whose time is over is timed out, ended or killed;
//! 2. a reload or scale whose workers are ready begins its swap;
//! 3. if the plan in force is not the plan of those workers that can serve now, and no commit is
//!    outstanding, that plan is committed;
//! 4. a worker that was in force and is not named any more is retired; one that will never be
//!    named is ended; one that the plan in force names is left alone;
//! 5. the replacement of a live worker that there is a reason to replace begins, if the rate limit
//!    allows it (`workers/replacement.rs`, `workers/rate_limit.rs`);
//! 6. retired workers that somebody wants gone (`workers/clearing.rs`), or that memory is too short for
//!    (`workers/memory_pressure.rs`), are ended, one after the other;
//! 7. if the table in the kernel may have been changed, by whomever, it is verified, and restored where
//!    it differs from the plan in force (`rules/repair.rs` tells how often);
//! 8. a seat that has no worker, or whose worker is being replaced, gets a new one, when its back-off and
//!    the stagger allow it and it was not given up (`workers/spawning.rs`, `workers/backoff.rs`);
//! 9. listening sockets that the master holds and whose worker has ended are transferred to another
//!    worker, or closed when nobody waits in their queue (`workers/orphaned_listeners.rs`).
//!
//! So no order of inputs is special. The death of a worker while a commit that names it is on its
//! way is the same as any: after the answer the plan in force names a dead worker, the plan of
//! those that can serve does not, and the difference is committed. Inputs that come while a commit
//! is outstanding are gathered into the next one.
//!
//! # What should be
//!
//! A *target* is a generation and the weights of the seats: one worker of that generation in each
//! seat; and perhaps a *canary*: another generation in more seats, on trial (`rollout/canary.rs`). The
//! *roster* of a target lists its workers that can serve now; it makes the plan. A cluster has one
//! target, and while it is reloaded or scaled a second one: the workers that only the second target
//! includes are started beside the others, and when all are ready the plan follows the second target, in
//! one commit. Only when that is in force is the first target dropped. Up to then, giving up means to
//! drop the second target; its workers are ended.
//!
//! | | goes into force |
//! |---|---|
//! | [`Start::Fresh`] | with the first worker that is ready; the other seats are vacant until theirs are |
//! | [`Start::FromKernel`] | when all workers are ready; until then the plan of the earlier master is not touched. A worker that fails is tried again, with back-off |
//! | adoption ([`Supervisor::adopt`]) | nothing: the plan of the earlier master is in force, with its workers. Seats that are vacant are filled |
//! | reload, scale up | when all new workers are ready. If one fails first, or the commit fails three times in a row, all are ended, and what is in force stays |
//! | scale down | at once |
//! | reload of a share | when the workers of the canary are ready; those in force stay as they are |
//! | promotion | as a reload, whose workers take the place of the canary's too |
//! | rollback | of a canary: at once. Of a reload: when all retired workers of the generation before were seen to listen still (`rollout/rollback.rs`) |
//! | a death | at once: the seat is vacant until its next worker is ready |
//!
//! What a rollout has put in force is on probation for a while, in which those before it are kept able to
//! serve, and serve again if it fails (`rollout/probation.rs`).
//!
//! If during a reload the last of the old workers dies, the plan goes over to those of the new
//! ones that are ready, without waiting for the others: some worker is better than none. From then
//! on it does not go back as long as one of them serves. While all seats are vacant the kernel
//! drops connection attempts, and clients try again; unless the master holds the listening sockets:
//! then the last plan stays in force, and clients wait in the queues.
//!
//! # Health
//!
//! Whether a worker is healthy is known beside its stage. The detector (`health/detector`) tells it from
//! what the master observes. An unhealthy worker is left out of the roster as long as another one is
//! healthy, keeps its seat, and is in the roster again when it answers (`health/consequences.rs`).
//!
//! # The end of a worker
//!
//! `Starting`, `Live`, `Retired`, `Dying`, gone: see [`WorkerState`](crate::protocol::WorkerState). A
//! worker is retired only when a plan that does not name it is in force, and asked to end only when all
//! connections that were sent to it have been accepted and have ended, or its drain limit is over. A
//! worker that is linked to the control socket gets both orders there: to retire, when nobody waits in
//! its accept queue any more, and to stop, before it gets a signal. The stop of a cluster first closes the
//! plan to new connections and then retires all workers in the same way.
//!
//! What ends a retired worker before its connections have ended, and what of it clients see:
//!
//! | | |
//! |---|---|
//! | its drain limit; a request of an operator; the low memory mark | it is asked to end, which is to finish what it has; not before its accept queue is empty, or [`Settings::settle`] is over |
//! | it has been unhealthy for too long | it is asked to end, whatever is in its queue: it would serve none of that |
//! | the high memory mark | it is killed: its connections are reset |
//!
//! Nothing of this ever ends a live worker. A live worker that is too large, too old, too slow or
//! unhealthy, or that asks for it, is replaced first
//! ([`ReplaceReason`](crate::protocol::ReplaceReason)).

mod action;
mod health;
mod input;
mod rollout;
mod rules;
mod settings;
#[cfg(test)]
mod simulation;
mod state;
mod stop;
mod takeover;
#[cfg(test)]
mod tests;
mod workers;

pub use action::Action;
#[cfg(feature = "internals")]
pub use health::read_notify_message;
pub(crate) use health::{
    HealthDetector, NotifyEffect, NotifyField, Observation, PortConnections, ProbeResult,
    WatchLimits,
};
pub use input::{Input, Start};
pub(crate) use input::{MemoryUsage, RequestId, Sockets};
pub(crate) use rollout::Configured;
#[cfg(test)]
pub(crate) use rules::Repairs;
pub use rules::Verification;
pub use settings::Settings;
pub use state::Supervisor;
pub(crate) use takeover::{
    Evidence, InitialPlan, ServingWorker, Verdict, is_same_cluster, judge, planned_ports,
    stage_of_handed_over,
};
pub(crate) use workers::Worker;
