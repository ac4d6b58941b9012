//! Probation of what a rollout has put in force, and the way back by itself.
//!
//! After the swap of a reload, a share, a promotion or a scale up the new workers are watched for
//! [`Settings::probation`](crate::supervisor::Settings::probation). Those before them that were retired by
//! the swap are on *standby* meanwhile: they get no new connections, and are neither told that they are
//! retired nor asked to end, so that they can serve again at any moment.
//!
//! | while on probation | what follows |
//! |---|---|
//! | more workers fail than [`MaxFailures`] allows, a seat is given up, or no worker in force is healthy | back to the target before, in one commit, unless that could serve clients less |
//! | a worker on standby dies | the others stay; with none of them left there is no way back |
//! | time is over, a worker serves, and each seat that has lost a worker has its next one | passed: those on standby retire as usual, and their time to drain begins now |
//! | time is over, and a lost worker is not replaced yet | it is waited for: its next one gets ready, or fails |
//! | another reload or promotion comes into force | that is on probation instead. The target to go back to stays: what has never passed a probation is nothing to go back to |
//! | the way back while another reload prepares its workers | that reload goes on, and replaces what serves then |
//! | `rollback` | as without probation |
//! | `scale`, a reload of a share | refused until the probation is over |
//! | memory above the low mark | workers on standby are not ended for it |
//! | memory above the high mark | they are killed after all other retired workers |
//! | `clear-retired` | waits with them until the probation is over |
//! | stop | ends the probation, and retires all |
//! | handover | the next master goes on with it |
//! | a crash of the master | the next one begins a probation anew, if the generation in force is so young that it may have been on one, and retired workers of the generation before still run |
//!
//! The workers on standby were retired by this master, were told nothing, and are watched like live ones:
//! they serve again without another look, so that the commit follows the last failure at once. Those
//! that were found retired may have closed their sockets, and are looked at first, as for a rollback.

use std::collections::BTreeMap;

use super::target::Target;
use crate::plan::{Assignment, Generation, Plan, Seat};
use crate::protocol::{
    Event, Exit, FailureCause, GenerationWeights, MaxFailures, Outcome, ProbationFailure,
    ProbationSnapshot, Progress, Refusal, Rollout, Timestamp, WorkerFailure, WorkerId,
};
use crate::supervisor::health::Availability;
use crate::supervisor::workers::Stage;
use crate::supervisor::{RequestId, Supervisor, Worker};

/// The probation of the target in force.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Probation {
    rollout: Rollout,
    /// Who is answered when it is over, and with what if it is passed; `None`: it began under an earlier
    /// master.
    request: Option<(RequestId, Outcome)>,
    /// What is on probation.
    to: Target,
    /// What serves again if it fails.
    before: Target,
    /// The seat of each slot under `before`.
    home: Assignment,
    since: Timestamp,
    /// Workers that were retired before this do not come back: they had been replaced already.
    kept_since: Timestamp,
    /// It is not over before this.
    until: Timestamp,
    /// How many workers each seat has lost.
    losses: BTreeMap<Seat, u32>,
    /// How many workers were lost or became unhealthy.
    count: u32,
    /// The first of them.
    failures: Vec<WorkerFailure>,
    /// `Some`: it has failed, and this is what the request will be answered.
    failed: Option<ProbationFailure>,
}

impl Probation {
    /// Whether a seat of this generation has a worker that the rollout has brought in.
    fn is_new(&self, seat: Seat, generation: Generation) -> bool {
        self.to.has(seat, generation) && !self.before.has(seat, generation)
    }

    fn new_places(&self) -> impl Iterator<Item = (Seat, Generation)> {
        self.to.places().filter(|(seat, generation)| self.is_new(*seat, *generation))
    }

    /// How many seats those have that are kept, for the simulation.
    #[cfg(test)]
    pub(in crate::supervisor) fn seats_before(&self) -> usize {
        self.before.seat_count()
    }

    fn exceeds(&self, limit: MaxFailures) -> bool {
        match limit {
            MaxFailures::Auto => self.losses.values().any(|losses| *losses > 1),
            MaxFailures::Total(most) => self.count > most,
        }
    }

    /// Whether a worker is one to go back to, as long as it can: it serves on, or was retired by the swap.
    fn may_return(&self, worker: &Worker) -> bool {
        let is_usable = !worker.is_excluded && !worker.is_drainer && !worker.is_finishing();
        let is_fit = is_usable && !worker.health.is_stopping();
        let has_place = match &worker.stage {
            Stage::Retired(retirement) => {
                !self.to.includes(worker) && retirement.since() >= self.kept_since
            }
            _ => true,
        };
        is_fit && has_place && self.before.includes(worker)
    }

    fn failure(&self, serving: Option<Generation>, now: Timestamp) -> ProbationFailure {
        ProbationFailure {
            rollout: self.rollout,
            generation: self.to.newest(),
            after: now.since(self.since),
            failures: self.failures.clone(),
            count: self.count,
            serving,
            workers: self.before.workers(),
        }
    }
}

/// What clients can expect of a target: the best of its workers, and how many of its seats have one of
/// those. The better one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Capacity {
    availability: Availability,
    /// The part of the seats, in thousandths.
    permille: usize,
}

impl Supervisor {
    /// The probation under way.
    pub fn probation(&self, now: Timestamp) -> Option<crate::protocol::Probation> {
        let probation = self.probation.as_ref()?;
        let standby = self.workers.values().filter(|worker| self.is_standby(worker)).count();
        Some(crate::protocol::Probation {
            generation: probation.to.newest(),
            before: probation.before.generation,
            seconds_left: probation.until.since(now).as_secs_f64(),
            failures: probation.count,
            standby: crate::supervisor::state::count(standby),
        })
    }

    /// Whether a worker is on standby: retired, and kept able to serve since what replaced it is on
    /// probation. Nobody tells such a worker that it is retired, or asks it to end.
    pub fn is_standby(&self, worker: &Worker) -> bool {
        let probation = self.probation.as_ref().filter(|_| !self.is_stopping());
        matches!(worker.stage, Stage::Retired(_))
            && probation.is_some_and(|probation| probation.may_return(worker))
    }

    /// Whether the way back from a failed probation is under way.
    pub(in crate::supervisor) fn is_returning(&self) -> bool {
        self.probation.as_ref().is_some_and(|probation| probation.failed.is_some())
    }

    /// Whether the way back needs this worker.
    pub(in crate::supervisor) fn is_returning_to(&self, worker: &Worker) -> bool {
        let returning = self.probation.as_ref().filter(|probation| probation.failed.is_some());
        returning.is_some_and(|probation| probation.may_return(worker))
    }

    /// Refuses what would change the target that the probation could go back to.
    pub(in crate::supervisor) fn check_no_probation(&self) -> Result<(), Refusal> {
        match &self.probation {
            Some(Probation { to, rollout, .. }) => {
                Err(Refusal::OnProbation { generation: to.newest(), rollout: *rollout })
            }
            None => Ok(()),
        }
    }

    /// A rollout has come into force, whose workers go on probation if it has brought in any. `earlier` and
    /// `home` are the target before it, if it was in force, and the seats of the slots then. Returns the target to go back to
    /// by hand.
    pub(super) fn begin_probation(
        &mut self,
        rollout: Rollout,
        request: (RequestId, Outcome),
        earlier: Option<Target>,
        home: Assignment,
        now: Timestamp,
    ) -> Option<Target> {
        let earlier = earlier.map(|earlier| (earlier.without_canary(), home, now));
        let Some((before, home, kept_since)) = self.supersede_probation(rollout, now).or(earlier)
        else {
            let (request, outcome) = request;
            self.rollout_done(request, outcome);
            return None;
        };
        let probation = Probation {
            rollout,
            request: Some(request),
            to: self.target.clone(),
            before: before.clone(),
            home,
            since: now,
            kept_since,
            until: now.after(self.settings.probation),
            losses: BTreeMap::new(),
            count: 0,
            failures: Vec::new(),
            failed: None,
        };
        let brings_workers =
            rollout != Rollout::Rollback && probation.new_places().next().is_some();
        if self.settings.probation.is_zero() || !brings_workers {
            if let Some((request, outcome)) = probation.request {
                self.rollout_done(request, outcome);
            }
            return Some(before);
        }
        self.announce_probation(&probation);
        self.probation = Some(probation);
        Some(before)
    }

    fn announce_probation(&mut self, probation: &Probation) {
        let (generation, before) = (probation.to.newest(), probation.before.generation);
        let length = self.settings.probation;
        self.emit(Event::ProbationBegan { generation, before, probation: length });
        if let Some((request, outcome)) = probation.request.clone() {
            let outcome = Box::new(outcome);
            let step = Progress::OnProbation { generation, before, probation: length, outcome };
            self.progress(request, step);
        }
    }

    /// Ends the probation of what another rollout has just replaced. Returns what that one could go back
    /// to, and still can.
    fn supersede_probation(
        &mut self,
        by: Rollout,
        now: Timestamp,
    ) -> Option<(Target, Assignment, Timestamp)> {
        let mut probation = self.probation.take()?;
        let generation = probation.to.newest();
        if let Some((request, _)) = probation.request.take() {
            let refusal = match probation.failed.take() {
                Some(_) => Refusal::Probation(probation.failure(Some(self.target.generation), now)),
                None => Refusal::Replaced { generation, by },
            };
            self.give_up_request(request, refusal);
        }
        let Probation { before, home, mut kept_since, .. } = probation;
        if probation.to.generation == before.generation {
            // Those that are kept now were in force until now.
            kept_since = now;
        }
        (by != Rollout::Rollback).then_some((before, home, kept_since))
    }

    /// Refuses the request of a rollout that had come into force.
    fn give_up_request(&mut self, request: RequestId, refusal: Refusal) {
        self.restarting.remove(&request);
        self.configuring.take_if(|configuring| *configuring == request);
        self.reply(request, Err(refusal));
    }

    /// Counts what has happened to workers on probation: what is told of a worker is what counts. A worker that
    /// ends with status 0 after it has run for the shortest back-off, as one does that serves a limited
    /// number of requests, is no failure; but its seat is waited for.
    pub(in crate::supervisor) fn note_for_probation(&mut self, event: &Event) {
        let shortest = self.settings.backoff.min;
        let is_retired = |id: &WorkerId| {
            self.workers.get(id).is_some_and(|it| matches!(it.stage, Stage::Retired(_)))
        };
        if matches!(event, Event::Unhealthy { worker, .. } if is_retired(worker)) {
            return;
        }
        let Some(probation) = self.probation.as_mut().filter(|it| it.failed.is_none()) else {
            return;
        };
        let (failure, is_lost) = match event {
            Event::Died { seat, generation, exit: Exit::Code(0), lived, .. }
                if *lived >= shortest =>
            {
                if probation.is_new(*seat, *generation) {
                    probation.losses.entry(*seat).or_default();
                }
                return;
            }
            Event::Died { worker, seat, generation, exit, lived, last_lines } => {
                let cause = FailureCause::Died { exit: *exit, lived: *lived };
                (failure_of(*worker, *seat, *generation, cause, last_lines.clone()), true)
            }
            Event::Failed(failure) => (failure.clone(), true),
            Event::Stopping { worker, seat, generation } => {
                let cause = FailureCause::Stopping;
                (failure_of(*worker, *seat, *generation, cause, Vec::new()), true)
            }
            Event::Unhealthy { worker, seat, generation, cause } => {
                let cause = FailureCause::Unhealthy(*cause);
                (failure_of(*worker, *seat, *generation, cause, Vec::new()), false)
            }
            _ => return,
        };
        if !probation.is_new(failure.seat, failure.generation) {
            return;
        }
        probation.count = probation.count.saturating_add(1);
        if is_lost {
            *probation.losses.entry(failure.seat).or_default() += 1;
        }
        if probation.failures.len() < ProbationFailure::MOST {
            probation.failures.push(failure.clone());
        }
        let request = probation.request.as_ref().map(|(request, _)| *request);
        if let Some(request) = request {
            self.progress(request, Progress::FailedOnProbation { failure });
        }
    }

    /// Passes or fails the probation, or goes on with the way back. Returns whether that has changed
    /// anything.
    pub(in crate::supervisor) fn advance_probation(&mut self, now: Timestamp) -> bool {
        if self.is_returning() {
            return self.advance_return(now);
        }
        // The outcome of a swap that is on its way is waited for: it may take all of this out of force.
        let is_swapping = self.rollout.as_ref().is_some_and(|rollout| rollout.is_swapping());
        if self.probation.is_none() || is_swapping {
            return false;
        }
        if self.has_failed_probation(now) {
            self.fail_probation(now);
            return true;
        }
        let is_passed = self.passes_at().is_some_and(|at| at <= now);
        if is_passed {
            self.pass_probation(now);
        }
        is_passed
    }

    /// When [`Self::advance_probation`] has something to do by the passage of time alone.
    pub(in crate::supervisor) fn probation_deadline(&self) -> Option<Timestamp> {
        let is_swapping = self.rollout.as_ref().is_some_and(|rollout| rollout.is_swapping());
        self.passes_at().filter(|_| !is_swapping && !self.is_returning())
    }

    fn has_failed_probation(&self, now: Timestamp) -> bool {
        let Some(probation) = &self.probation else { return false };
        let is_given_up =
            || self.given_up(now).any(|seat| probation.new_places().any(|(new, _)| new == seat));
        if probation.exceeds(self.settings.max_failures) || is_given_up() {
            return true;
        }
        let serves = self.capacity(&probation.to, |_| None).availability;
        serves < Availability::Serving && self.capacity_before(probation).availability > serves
    }

    /// When the probation is passed, as things are: `None` while it cannot be.
    fn passes_at(&self) -> Option<Timestamp> {
        let probation = self.probation.as_ref()?;
        let serves = self.availability(&probation.to) == Availability::Serving;
        let is_filled = |seat: &Seat| {
            let in_seat = |worker: &&Worker| worker.seat == *seat && probation.to.includes(worker);
            self.workers
                .values()
                .filter(in_seat)
                .any(|worker| worker.is_live() && worker.can_serve())
        };
        (serves && probation.losses.keys().all(is_filled)).then_some(probation.until)
    }

    fn pass_probation(&mut self, now: Timestamp) {
        let Some(probation) = self.take_probation(now) else { return };
        self.emit(Event::ProbationPassed { generation: probation.to.newest() });
        if let Some((request, outcome)) = probation.request {
            self.rollout_done(request, outcome);
        }
    }

    /// Ends the probation while what is on it stays in force. Those on standby are to finish what they have:
    /// their time for that begins now. Whatever tells them that they are retired follows in this step or
    /// a later one, and never before.
    fn take_probation(&mut self, now: Timestamp) -> Option<Probation> {
        let probation = self.probation.take()?;
        for worker in self.workers.values_mut().filter(|worker| probation.may_return(worker)) {
            if let Stage::Retired(retirement) = &mut worker.stage {
                retirement.begin_again(now);
            }
        }
        Some(probation)
    }

    /// What clients could expect of the target before. Workers on standby count as if they served.
    fn capacity_before(&self, probation: &Probation) -> Capacity {
        self.capacity(&probation.before, |worker| match &worker.stage {
            Stage::Retired(_) if !probation.may_return(worker) => Some(Availability::None),
            Stage::Retired(_) | Stage::Reactivating(_) if worker.health.is_good() => {
                Some(Availability::Serving)
            }
            Stage::Retired(_) | Stage::Reactivating(_) => Some(Availability::Unhealthy),
            _ => None,
        })
    }

    /// What clients can expect of the workers of a target; `special` says it of a worker that counts
    /// otherwise than by its stage and health.
    fn capacity(
        &self,
        target: &Target,
        special: impl Fn(&Worker) -> Option<Availability>,
    ) -> Capacity {
        let mut seats = vec![Availability::None; target.seat_count()];
        for worker in self.workers.values().filter(|worker| target.includes(worker)) {
            let of_worker = special(worker).unwrap_or(match worker.can_serve() {
                true => Availability::Serving,
                false if worker.is_eligible() => Availability::Unhealthy,
                false => Availability::None,
            });
            let seat = &mut seats[worker.seat.index()];
            *seat = of_worker.max(*seat);
        }
        let availability = seats.iter().copied().max().unwrap_or(Availability::None);
        let best = seats.iter().filter(|seat| **seat == availability).count();
        Capacity { availability, permille: best * 1000 / seats.len().max(1) }
    }

    /// Begins the way back; or, where clients would be worse off, ends the probation and leaves all as it
    /// is.
    fn fail_probation(&mut self, now: Timestamp) {
        let Some(probation) = &self.probation else { return };
        let before = self.capacity_before(probation);
        let can_return = before.availability > Availability::None
            && before >= self.capacity(&probation.to, |_| None);
        let back_to = can_return.then_some(probation.before.generation);
        let failure = probation.failure(back_to, now);
        let request = probation.request.as_ref().map(|(request, _)| *request);
        if !can_return {
            return self.give_up_return(failure, now);
        }
        self.announce_failure(&failure);
        if let (Some(request), Some(generation)) = (request, back_to) {
            self.progress(request, Progress::GoingBack { generation });
        }
        self.reactivate_standby(now);
        if let Some(probation) = &mut self.probation {
            probation.failed = Some(failure);
        }
        self.advance_return(now);
    }

    fn announce_failure(&mut self, failure: &ProbationFailure) {
        let mut lines = failure.failures.iter().map(|failure| &failure.last_lines);
        self.emit(Event::ProbationFailed {
            generation: failure.generation,
            back_to: failure.serving,
            reason: failure.to_string(),
            last_lines: lines.find(|lines| !lines.is_empty()).cloned().unwrap_or_default(),
        });
    }

    /// What is in force stays there, and is on probation no more.
    fn give_up_return(&mut self, failure: ProbationFailure, now: Timestamp) {
        let Some(probation) = self.take_probation(now) else { return };
        let failure = ProbationFailure { serving: None, ..failure };
        self.announce_failure(&failure);
        if let Some((request, _)) = probation.request {
            self.give_up_request(request, Refusal::Probation(failure));
        }
    }

    /// Has the workers on standby serve again: of several in a seat the one that served last.
    fn reactivate_standby(&mut self, now: Timestamp) {
        let Some(probation) = &self.probation else { return };
        let mut by_seat: BTreeMap<Seat, WorkerId> = BTreeMap::new();
        let retired =
            |worker: &&Worker| matches!(worker.stage, Stage::Retired(_) | Stage::Reactivating(_));
        for worker in self.workers.values().filter(retired) {
            if probation.may_return(worker) {
                by_seat.insert(worker.seat, worker.id);
            }
        }
        for id in by_seat.into_values() {
            self.reactivate(id, now);
            if let Some(worker) = self.workers.get_mut(&id)
                && let Stage::Reactivating(reactivation) = &mut worker.stage
            {
                reactivation.ready_if_known(now);
            }
        }
    }

    /// Makes the target before the target again, as soon as its workers were seen to listen; or as soon as
    /// one was, if clients are better off with that one alone.
    fn advance_return(&mut self, now: Timestamp) -> bool {
        let Some(probation) = &self.probation else { return false };
        if self.target != probation.to {
            return self.keep_what_serves(now);
        }
        let is_awaited = |worker: &Worker| worker.awaits_ready() && probation.may_return(worker);
        let awaits = self
            .workers
            .values()
            .any(|worker| matches!(worker.stage, Stage::Reactivating(_)) && is_awaited(worker));
        let before = self.capacity(&probation.before, |_| None);
        let serving = self.capacity(&probation.to, |_| None);
        let is_time = match awaits {
            true => before.availability > serving.availability,
            false => before.availability > Availability::None && before >= serving,
        };
        if is_time {
            let before = probation.before.clone();
            self.backoffs.retain(|(seat, generation), _| before.has(*seat, *generation));
            self.target = before;
            self.before = None;
            return true;
        }
        if !awaits && let Some(failure) = probation.failed.clone() {
            self.give_up_return(failure, now);
            return true;
        }
        false
    }

    /// While the target before is not on its way into force, and has lost all its workers again, what
    /// serves stays in force.
    fn keep_what_serves(&mut self, now: Timestamp) -> bool {
        let Some(probation) = &self.probation else { return false };
        let is_worse = self.availability(&probation.before) < self.availability(&probation.to);
        let is_submitted = self.kernel.outstanding_target() == Some(&probation.before);
        if is_worse
            && !is_submitted
            && let Some(failure) = probation.failed.clone()
        {
            self.target = probation.to.clone();
            self.give_up_return(failure, now);
            return true;
        }
        false
    }

    /// Ends the way back, if the target before is in force.
    pub(in crate::supervisor) fn end_return_in_force(&mut self) {
        let in_force = self.kernel.in_force.target();
        let is_back = |it: &mut Probation| it.failed.is_some() && in_force == Some(&it.before);
        let Some(probation) = self.probation.take_if(is_back) else { return };
        self.home = None;
        let (generation, from) = (probation.before.generation, probation.to.newest());
        self.emit(Event::Returned { generation, from });
        if let (Some((request, _)), Some(failure)) = (probation.request, probation.failed) {
            self.give_up_request(request, Refusal::Probation(failure));
        }
    }

    /// The cluster is to stop: nothing is on probation any more.
    pub(in crate::supervisor) fn stop_probation(&mut self) {
        if let Some((request, _)) = self.probation.take().and_then(|it| it.request) {
            self.give_up_request(request, Refusal::Stopping);
        }
    }

    /// The seats that the slots go back to with the target before the probation.
    pub(in crate::supervisor) fn home_of(
        &self,
        target: &Target,
        plan: &Plan,
    ) -> Option<&Assignment> {
        let probation = self.probation.as_ref().filter(|it| it.failed.is_some())?;
        let home = &probation.home;
        // That of a share whose lenders an earlier master has not told names seats that are gone.
        let fits = home.slots() == plan.assignment().slots() && is_home(home, target);
        (fits && probation.before == *target).then_some(home)
    }

    // Between masters.

    pub(in crate::supervisor) fn probation_snapshot(&self) -> Option<ProbationSnapshot> {
        let leads_back = |it: &&Probation| self.has_listeners_in_force(it.before.generation);
        let probation = self.probation.as_ref().filter(leads_back)?;
        Some(ProbationSnapshot {
            before: GenerationWeights {
                generation: probation.before.generation,
                weights: probation.before.weights.clone(),
            },
            home: Some(probation.home.clone()),
            since: probation.since,
            kept_since: probation.kept_since,
            until: probation.until,
            losses: probation.losses.iter().map(|(seat, losses)| (*seat, *losses)).collect(),
            failures: probation.count,
        })
    }

    /// Goes on with the probation of an earlier master.
    pub(in crate::supervisor) fn restore_probation(&mut self, told: ProbationSnapshot) {
        let ProbationSnapshot { before, home, since, kept_since, until, losses, failures } = told;
        let before = Target::all(before.generation, before.weights);
        let home = home.unwrap_or_else(|| self.plan().assignment().clone());
        if before == self.target {
            return;
        }
        self.probation = Some(Probation {
            rollout: self.rollout_from(&before),
            request: None,
            to: self.target.clone(),
            before,
            home,
            since,
            kept_since,
            until,
            losses: losses.into_iter().collect(),
            count: failures,
            failures: Vec::new(),
            failed: None,
        });
    }

    /// The rollout that leads from a target to the present one.
    fn rollout_from(&self, before: &Target) -> Rollout {
        match self.target.canary {
            Some(_) => Rollout::Canary,
            None if before.generation == self.target.generation => Rollout::Scale,
            None => Rollout::Reload,
        }
    }

    /// Begins a probation anew after a crash of the master: nobody knows whether that of the generation in
    /// force was over. It cannot have been, if the oldest of its workers is younger than getting ready and
    /// a probation take together.
    pub(in crate::supervisor) fn resume_probation(&mut self, now: Timestamp) {
        if self.probation.is_some()
            || self.target.canary.is_some()
            || self.settings.probation.is_zero()
        {
            return;
        }
        let generation = self.target.generation;
        let of_target = self.workers.values().filter(|it| it.is_live() && self.target.includes(it));
        let Some(oldest) = of_target.map(|worker| worker.started).min() else { return };
        let is_young =
            now.since(oldest) < self.settings.ready.saturating_add(self.settings.probation);
        // Those of another number of listeners cannot serve again.
        let public_ports = self.plan().listeners().public_ports().len();
        let is_earlier = |worker: &&Worker| {
            let has_seat = worker.seat.index() < self.target.weights.seats();
            matches!(worker.stage, Stage::Retired(_))
                && worker.generation < generation
                && has_seat
                && !worker.is_excluded
                && worker.ports.as_ref().is_none_or(|ports| ports.len() == public_ports)
        };
        let earlier = self.workers.values().filter(is_earlier).map(|worker| worker.generation);
        let Some(earlier) = earlier.max().filter(|_| is_young) else { return };
        let probation = Probation {
            rollout: Rollout::Reload,
            request: None,
            to: self.target.clone(),
            before: Target::all(earlier, self.target.weights.clone()),
            home: self.plan().assignment().clone(),
            since: now,
            kept_since: Timestamp::ZERO,
            until: now.after(self.settings.probation),
            losses: BTreeMap::new(),
            count: 0,
            failures: Vec::new(),
            failed: None,
        };
        self.announce_probation(&probation);
        self.probation = Some(probation);
    }
}

/// Whether all slots have seats of the target.
fn is_home(home: &Assignment, target: &Target) -> bool {
    home.table().iter().all(|seat| seat.index() < target.seat_count())
}

fn failure_of(
    worker: WorkerId,
    seat: Seat,
    generation: Generation,
    cause: FailureCause,
    last_lines: Vec<String>,
) -> WorkerFailure {
    WorkerFailure { worker, seat, generation, cause, last_lines }
}
