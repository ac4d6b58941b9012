//! Supervisors with one fault each, to see that the histories find it.
//!
//! A fault is made from outside, between what the supervisor wants and what the world checks and
//! does: an action is left out, added or altered, or the supervisor's memory is tampered with. So the
//! code that is released knows nothing of it.

use std::time::Duration;

use super::guard;
use super::world::World;
use crate::plan::{Assignment, Generation, Seat, Weights};
use crate::protocol::{
    Command, EndReason, EndSignals, Event, KillOrder, MaxFailures, Outcome, Reloaded, Unhealthy,
    WorkerId, WorkerState,
};
use crate::supervisor::health::Health;
use crate::supervisor::state::Phase;
use crate::supervisor::workers::RateLimiter;
use crate::supervisor::workers::Stage;
use crate::supervisor::{Action, Input, Start, Supervisor, Worker};

/// A supervisor's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A worker that is in force is asked to end as soon as its successor is committed.
    TerminatesInForce,
    /// Workers count as retired before the commit that takes them out is answered.
    RetiresBeforeTheCommit,
    /// A retired worker is asked to end before its connections have ended.
    EndsUndrained,
    /// No commit follows a death.
    KeepsNamingTheDead,
    /// A worker counts as ready as soon as it runs.
    NamesTheUnready,
    /// One seat of a new generation keeps its old worker.
    MixesGenerations,
    /// A takeover does not wait for all workers.
    TakesOverTooEarly,
    /// A worker that is missing is never started.
    ForgetsToSpawn,
    /// A process is started twice.
    SpawnsTwice,
    /// A worker of a new generation is started before its release is prepared.
    SpawnsUnprepared,
    /// A worker is started although all is to end.
    SpawnsWhileStopping,
    /// SIGKILL in place of SIGTERM.
    KillsWithoutWarning,
    /// No SIGKILL for those that pass over SIGTERM.
    NeverKills,
    /// A commit before the one before is answered.
    CommitsTwice,
    /// A commit that failed is tried again without a pause.
    RetriesAtOnce,
    /// Damage of the table is not looked for.
    NeverLooks,
    /// The table is made anew without a look.
    RestoresBlindly,
    /// Ports are not guarded when a worker starts, but when something else changes.
    GuardsTooLate,
    /// A request gets no answer.
    LosesAReply,
    /// A request gets two.
    RepliesTwice,
    /// A reload is said to be done when it is not.
    SaysDoneTooEarly,
    /// The rules go before the workers.
    RemovesTooEarly,
    /// A trial begins with slots moved that it does not get.
    MovesOthersForATrial,
    /// What slots were lent for a trial by whom is remembered wrongly.
    ForgetsWhoLent,
    /// Retired workers serve again without a look whether they listen.
    RecallsBlindly,
    /// A worker is told that it is retired while clients wait in its queue.
    TellsToRetireTooEarly,
    /// A worker gets its retire signal while clients wait in its queue.
    SignalsTooEarly,
    /// Who got a retire signal is forgotten.
    ForgetsWhoFinishes,
    /// A worker that got its retire signal is taken for one that can serve again.
    RecallsTheFinishing,
    /// A stop does not wait for what workers have left.
    StopsTooEarly,
    /// The number of a generation that was given up is used again.
    ReusesANumber,
    /// A worker that leaves is taken out of force before its successor is ready.
    RetiresFirst,
    /// Retirements are not counted.
    ForgetsTheBudget,
    /// Losses of a seat are not counted.
    NeverGivesUp,
    /// Live workers are killed for want of memory.
    KillsTheLiveForMemory,
    /// Retired workers are ended for want of memory in another order than the set one.
    EndsOutOfOrder,
    /// A retired worker is ended for want of memory although clients wait in its queue.
    EndsTheUnsettled,
    /// That a worker is silent is forgotten.
    ForgetsSilence,
    /// A worker that answers again does not come back.
    NeverTakesBack,
    /// The sockets that a worker has left are closed whoever waits there.
    ClosesTheQueue,
    /// They are never closed.
    KeepsSockets,
    /// A master that adopts passes over a retired worker.
    ForgetsTheRetired,
    /// It ends one that is in force.
    EndsTheAdopted,
    /// It commits a plan although nothing has changed.
    ChangesWhatItFinds,
    /// It does not go on with the back-offs that it was told.
    ForgetsBackoffs,
    /// Nor with what it was told of the generation before.
    ForgetsHistory,
    /// The probation of a rollout is forgotten, and with it who is to be kept.
    ForgetsTheStandby,
    /// The way back from a probation that has failed is not committed.
    NeverGoesBack,
    /// Workers that fail on probation are not counted.
    CountsNoFailures,
    /// A generation gets the listeners of the one that was adopted, and not those that were configured when it began.
    ForgetsListeners,
    /// What a reload configures does not apply.
    KeepsOldTimes,
}

/// All faults, each with words of the invariant that tells of it.
pub(super) const FAULTS: &[(Fault, &str)] = &[
    (Fault::SpawnsUnprepared, "a generation that is not prepared"),
    (Fault::TerminatesInForce, "terminated while in force"),
    (Fault::RetiresBeforeTheCommit, "gets connections"),
    (Fault::EndsUndrained, "not drained"),
    (Fault::KeepsNamingTheDead, "a worker in force that was seen to die"),
    (Fault::NamesTheUnready, "goes to"),
    (Fault::MixesGenerations, "a mixed plan"),
    (Fault::TakesOverTooEarly, "taken over too early"),
    (Fault::ForgetsToSpawn, "a worker that is not live is left"),
    (Fault::SpawnsTwice, "is used twice"),
    (Fault::SpawnsWhileStopping, "a spawn while stopping"),
    (Fault::KillsWithoutWarning, "killed without warning"),
    (Fault::NeverKills, "the stop has not ended"),
    (Fault::CommitsTwice, "a commit is outstanding"),
    (Fault::RetriesAtOnce, "tried again after"),
    (Fault::NeverLooks, "damage that was not repaired"),
    (Fault::RestoresBlindly, "a repair of what nobody has changed"),
    (Fault::GuardsTooLate, "is open to other hosts"),
    (Fault::LosesAReply, "requests without an answer"),
    (Fault::RepliesTwice, "answered twice"),
    (Fault::SaysDoneTooEarly, "another generation is in force"),
    (Fault::RemovesTooEarly, "the rules removed before the workers"),
    (Fault::MovesOthersForATrial, "a client moves that does not get the canary"),
    (Fault::ForgetsWhoLent, "a lent slot went back to another seat"),
    (Fault::RecallsBlindly, "a retired worker gets new connections again"),
    (Fault::TellsToRetireTooEarly, "told to retire"),
    (Fault::SignalsTooEarly, "a retire signal while clients wait"),
    (Fault::ForgetsWhoFinishes, "gets its retire signal twice"),
    (Fault::RecallsTheFinishing, "that got its retire signal gets clients"),
    (Fault::StopsTooEarly, "stopped while processes of workers are left"),
    (Fault::ReusesANumber, "an old number for a new generation"),
    (Fault::RetiresFirst, "vacated although its worker lives"),
    (Fault::ForgetsTheBudget, "beyond the rate limit"),
    (Fault::NeverGivesUp, "lost workers replaced, and one more"),
    (Fault::KillsTheLiveForMemory, "is live, and ended"),
    (Fault::EndsOutOfOrder, "out of order"),
    (Fault::EndsTheUnsettled, "ended while clients wait for it"),
    (Fault::ForgetsSilence, "a silent worker gets clients"),
    (Fault::NeverTakesBack, "is replaced for its silence"),
    (Fault::ClosesTheQueue, "closed on those who wait"),
    (Fault::KeepsSockets, "sockets without a worker are left"),
    (Fault::ForgetsTheRetired, "an adoption forgets"),
    (Fault::EndsTheAdopted, "gets connections"),
    (Fault::ChangesWhatItFinds, "an adoption changes the rules"),
    (Fault::ForgetsBackoffs, "a handover loses back-offs"),
    (Fault::ForgetsHistory, "a handover loses History"),
    (Fault::ForgetsTheStandby, "on standby"),
    (Fault::NeverGoesBack, "those who could serve again do not"),
    (Fault::CountsNoFailures, "failed beyond the limit"),
    (Fault::ForgetsListeners, "the listeners of another generation"),
    (Fault::KeepsOldTimes, "another configuration than is in force"),
];

/// A fault, and what it remembers.
#[derive(Debug)]
pub(super) struct Sabotage {
    fault: Fault,
    /// What was committed last.
    last_commit: Option<Action>,
    /// What was configured first.
    ready: Option<Duration>,
}

impl Sabotage {
    pub(super) fn new(fault: Fault) -> Self {
        Self { fault, last_commit: None, ready: None }
    }

    /// Makes the fault in what `supervisor` has just wanted.
    pub(super) fn spoil(
        &mut self,
        world: &World,
        supervisor: &mut Supervisor,
        actions: &mut Vec<Action>,
    ) {
        let commits = actions.iter().any(|action| matches!(action, Action::Commit(_)));
        let of_state = |state| supervisor.workers().find(|w| w.state() == state).map(|w| w.id);
        let wants = |actions: &[Action], is_it: fn(&Action) -> bool| actions.iter().any(is_it);
        match self.fault {
            Fault::TerminatesInForce => {
                if let Some(worker) = of_state(WorkerState::Live).filter(|_| commits) {
                    actions.push(Action::Terminate { worker, signals: EndSignals::default() });
                }
            }
            Fault::RetiresBeforeTheCommit => {
                if let Some(worker) = of_state(WorkerState::Live).filter(|_| commits) {
                    supervisor.retire(worker, world.now);
                    supervisor.actions.clear();
                }
            }
            Fault::EndsUndrained => {
                if let Some(worker) = of_state(WorkerState::Retired) {
                    supervisor.end(worker, EndReason::Drained, world.now);
                    actions.append(&mut supervisor.actions);
                }
            }
            Fault::KeepsNamingTheDead => {
                if wants(actions, |action| matches!(action, Action::Emit(Event::Died { .. }))) {
                    actions.retain(|action| !matches!(action, Action::Commit(_)));
                }
            }
            Fault::NamesTheUnready => {
                let runs = |it: &&Worker| it.ports.is_some() && matches!(it.stage, Stage::Starting);
                let starting: Vec<_> = supervisor.workers().filter(runs).map(|it| it.id).collect();
                for worker in starting {
                    actions.extend(supervisor.step(Input::Ready { worker }, world.now));
                }
            }
            Fault::MixesGenerations => mix_generations(world, actions),
            Fault::TakesOverTooEarly => {
                let is_waiting = matches!(supervisor.phase, Phase::Starting(Start::FromKernel));
                if is_waiting && supervisor.workers().any(Worker::can_serve) {
                    supervisor.phase = Phase::Serving;
                    actions.extend(supervisor.step(Input::Tick, world.now));
                }
            }
            Fault::ForgetsToSpawn => {
                let is_respawn = |id: WorkerId| id.0 > 6;
                actions.retain(
                    |action| !matches!(action, Action::Spawn { worker, .. } if is_respawn(*worker)),
                );
            }
            Fault::SpawnsTwice => {
                let spawn = actions.iter().find(|action| matches!(action, Action::Spawn { .. }));
                actions.extend(spawn.cloned());
            }
            Fault::SpawnsUnprepared => {
                let prepares = |action: &Action| match *action {
                    Action::PrepareRelease { generation } => Some(generation),
                    _ => None,
                };
                let spawn = |generation| Action::Spawn {
                    worker: WorkerId(1_000_000),
                    seat: Seat(0),
                    generation,
                };
                let begun = actions.iter().find_map(prepares);
                actions.extend(begun.map(spawn));
            }
            Fault::SpawnsWhileStopping => {
                if wants(actions, |action| matches!(action, Action::Terminate { .. })) {
                    let (worker, generation) = (WorkerId(1_000_000), supervisor.generation());
                    actions.push(Action::Spawn { worker, seat: Seat(0), generation });
                }
            }
            Fault::KillsWithoutWarning => {
                for action in actions {
                    if let Action::Terminate { worker, signals } = *action {
                        *action = Action::Kill { worker, signals };
                    }
                }
            }
            Fault::NeverKills => actions.retain(|action| !matches!(action, Action::Kill { .. })),
            Fault::CommitsTwice => {
                let commit = actions.iter().find(|action| matches!(action, Action::Commit(_)));
                actions.extend(commit.cloned());
            }
            Fault::RetriesAtOnce => {
                let commit = actions.iter().find(|action| matches!(action, Action::Commit(_)));
                self.last_commit = commit.cloned().or(self.last_commit.take());
                let failed =
                    |action: &Action| matches!(action, Action::Emit(Event::CommitFailed { .. }));
                if wants(actions, failed) {
                    actions.extend(self.last_commit.clone());
                }
            }
            Fault::NeverLooks => actions.retain(|action| *action != Action::Verify),
            Fault::RestoresBlindly => {
                for action in actions {
                    if *action == Action::Verify {
                        *action = Action::Restore(world.plan.clone());
                    }
                }
            }
            Fault::GuardsTooLate => {
                actions.retain(|action| !guard::is_of_guard_alone(world, action));
            }
            Fault::LosesAReply => {
                actions.retain(|action| !matches!(action, Action::Reply { outcome: Ok(_), .. }));
            }
            Fault::RepliesTwice => {
                let reply = actions.iter().find(|action| matches!(action, Action::Reply { .. }));
                actions.extend(reply.cloned());
            }
            Fault::ClosesTheQueue => {
                let left: Vec<WorkerId> =
                    supervisor.orphaned_listeners().map(|(id, _)| id).collect();
                actions.extend(left.into_iter().map(|worker| Action::CloseListeners { worker }));
            }
            Fault::KeepsSockets => {
                actions.retain(|action| !matches!(action, Action::CloseListeners { .. }));
            }
            Fault::ForgetsTheRetired if world.crash.is_adopting => {
                supervisor.workers.retain(|_, it| !matches!(it.stage, Stage::Retired(_)));
            }
            Fault::EndsTheAdopted if world.crash.is_adopting => {
                if let Some(worker) = of_state(WorkerState::Live) {
                    supervisor.end(worker, EndReason::Unwanted, world.now);
                    supervisor.actions.clear();
                }
            }
            Fault::ChangesWhatItFinds if world.crash.is_adopting => {
                let mut weights = vec![1.0; world.plan.seats().len()];
                weights[0] = 3.0;
                let weights = Weights::new(&weights).expect("as many as there are");
                let other = world.plan.rescaled(&weights).ok().filter(|it| *it != world.plan);
                actions.retain(|action| *action != Action::Verify);
                actions.extend(other.map(Action::Commit));
            }
            Fault::ForgetsBackoffs if world.crash.is_adopting => supervisor.backoffs.clear(),
            Fault::ForgetsHistory if world.crash.is_adopting => supervisor.before = None,
            Fault::ForgetsTheRetired
            | Fault::EndsTheAdopted
            | Fault::ChangesWhatItFinds
            | Fault::ForgetsBackoffs
            | Fault::ForgetsHistory => {}
            Fault::ForgetsTheStandby => supervisor.probation = None,
            Fault::NeverGoesBack => {
                let fails = |action: &Action| {
                    matches!(action, Action::Emit(Event::ProbationFailed { back_to: Some(_), .. }))
                };
                if wants(actions, fails) {
                    actions.retain(|action| !matches!(action, Action::Commit(_)));
                }
            }
            Fault::CountsNoFailures => {
                supervisor.settings.max_failures = MaxFailures::Total(1000);
            }
            Fault::ForgetsListeners => supervisor.configurations.forget_begun(),
            Fault::KeepsOldTimes => {
                let ready = *self.ready.get_or_insert(supervisor.settings.ready);
                supervisor.settings.ready = ready;
            }
            Fault::SaysDoneTooEarly => say_done(world, supervisor, actions),
            Fault::MovesOthersForATrial => {
                for action in actions {
                    let Action::Commit(plan) = action else { continue };
                    let even = Weights::equal(plan.seats().len()).expect("as many as there are");
                    if plan.seats().len() > world.plan.seats().len()
                        && let Ok(moved) = plan.rescaled(&even)
                    {
                        *plan = moved;
                    }
                }
            }
            Fault::ForgetsWhoLent => {
                if let Some(home) = &mut supervisor.home {
                    let seats = home.table().iter().map(|seat| seat.index() + 1).max();
                    let mut weights = vec![1.0; seats.unwrap_or(1)];
                    weights[0] = 2.0;
                    let weights = Weights::new(&weights).expect("as many as there are");
                    let partition = world.plan.partition();
                    *home =
                        Assignment::new(partition, &weights, Some(home)).expect("as many slots");
                }
            }
            Fault::RecallsBlindly => {
                let is_reactivating = |it: &&Worker| matches!(it.stage, Stage::Reactivating(_));
                let reactivated = supervisor.workers().filter(is_reactivating).map(|it| it.id);
                for worker in reactivated.collect::<Vec<_>>() {
                    actions.extend(supervisor.step(Input::Ready { worker }, world.now));
                }
            }
            Fault::ForgetsSilence => {
                for worker in supervisor.workers.values_mut() {
                    worker.health = Health::default();
                }
            }
            Fault::NeverTakesBack => {
                let back = actions.iter().find_map(|action| match action {
                    Action::Emit(Event::Healthy { worker, .. }) => Some(*worker),
                    _ => None,
                });
                if let Some(worker) = back {
                    supervisor.became_unhealthy(worker, Unhealthy::Stopped, world.now);
                    supervisor.actions.clear();
                }
            }
            Fault::TellsToRetireTooEarly => {
                let is_it =
                    |it: &&Worker| it.link.is_open() && matches!(it.stage, Stage::Retired(_));
                let worker = supervisor.workers().find(is_it).map(|it| it.id);
                actions.extend(worker.map(|worker| Action::OrderRetire { worker }));
            }
            Fault::SignalsTooEarly => {
                let is_it = |it: &&Worker| {
                    let is_unsettled = matches!(&it.stage, Stage::Retired(it) if !it.is_settled());
                    is_unsettled && it.signals.retire.is_some()
                };
                let found = supervisor.workers().find(is_it);
                let tell = |it: &Worker| Action::TellRetired { worker: it.id, signals: it.signals };
                actions.extend(found.map(tell));
            }
            Fault::ForgetsWhoFinishes => {
                for worker in supervisor.workers.values_mut() {
                    if let Stage::Retired(retirement) = &mut worker.stage {
                        retirement.forget_told();
                    }
                }
            }
            Fault::RecallsTheFinishing => {
                let finishing = supervisor.workers().find(|it| it.is_finishing());
                let found = finishing.and_then(|it| Some((it.seat, it.occupant()?)));
                for action in actions {
                    if let (Action::Commit(plan), Some((seat, occupant))) = (action, &found)
                        && plan.vacate(*seat).is_ok()
                        && plan.occupy(*seat, occupant.clone()).is_ok()
                    {
                        break;
                    }
                }
            }
            Fault::StopsTooEarly => {
                if !std::mem::take(&mut supervisor.unreaped).is_empty() {
                    actions.extend(supervisor.step(Input::Tick, world.now));
                }
            }
            Fault::ReusesANumber => supervisor.last_generation = Generation::FIRST,
            Fault::RetiresFirst => {
                let leaves = |it: &&mut Worker| it.leaving.is_some() && it.is_live();
                supervisor.workers.values_mut().filter(leaves).for_each(|it| it.is_excluded = true);
            }
            Fault::ForgetsTheBudget => supervisor.rate_limiter = RateLimiter::default(),
            Fault::NeverGivesUp => supervisor.settings.give_up = None,
            Fault::KillsTheLiveForMemory => {
                let is_want = |it: &Action| matches!(it, Action::Emit(Event::MemoryShort { .. }));
                if let Some(worker) =
                    of_state(WorkerState::Live).filter(|_| wants(actions, is_want))
                {
                    let (seat, generation) = (Seat(0), supervisor.generation());
                    let why = EndReason::HighMemory;
                    actions.push(Action::Emit(Event::Ending { worker, seat, generation, why }));
                }
            }
            Fault::EndsOutOfOrder => {
                supervisor.settings.memory.order = match world.settings.memory.order {
                    KillOrder::Connections => KillOrder::Age,
                    KillOrder::Age | KillOrder::Memory => KillOrder::Connections,
                };
            }
            Fault::EndsTheUnsettled => supervisor.settings.settle = Duration::ZERO,
            Fault::RemovesTooEarly => {
                let is_stopping = supervisor.is_stopping();
                if is_stopping && wants(actions, |it| matches!(it, Action::Terminate { .. })) {
                    actions.push(Action::Remove);
                }
            }
        }
    }
}

fn mix_generations(world: &World, actions: &mut [Action]) {
    for action in actions {
        let Action::Commit(plan) = action else { continue };
        for (seat, occupant) in world.plan.seats() {
            if let Some(occupant) = occupant
                && occupant.generation != plan.generation()
                && plan.vacate(seat).is_ok()
                && plan.occupy(seat, occupant.clone()).is_ok()
            {
                break;
            }
        }
    }
}

fn say_done(world: &World, supervisor: &Supervisor, actions: &mut Vec<Action>) {
    let is_swap = |action: &Action| matches!(action, Action::Commit(plan) if plan.generation() != world.plan.generation());
    let requests = &world.operators.requests;
    let is_reload = |command| command == Command::Reload { share: None };
    let open = requests.iter().find(|(_, asked)| !asked.answered && is_reload(asked.command));
    if let (Some((&request, _)), true) = (open, actions.iter().any(is_swap)) {
        let generation = supervisor.generation().next();
        let reloaded = Reloaded { generation, workers: 1, swap_seconds: 0.0 };
        actions.push(Action::Reply { request, outcome: Ok(Outcome::Reloaded(reloaded)) });
    }
}
