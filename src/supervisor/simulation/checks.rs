//! What must hold, whatever happens.

use std::net::IpAddr;
use std::time::Duration;

use super::process::Process;
use super::world::World;
use crate::plan::{Occupant, Plan};
use crate::supervisor::{Action, Done, Refusal, Request, RequestId, Worker, WorkerId, WorkerState};

/// After so many failed commits a stop ends workers that are still in force.
const CLOSE_TRIES: u32 = 3;

impl World {
    /// Holds at the moment an action is wanted.
    pub(super) fn check_action(&self, action: &Action) {
        assert!(!self.finished, "{action:?} after the end");
        match action {
            Action::Spawn { worker, .. } => {
                assert!(!self.processes.contains_key(worker), "{worker} is used twice");
                assert!(self.stop.is_none(), "a spawn while stopping");
            }
            Action::Commit(plan) => self.check_commit(plan),
            Action::Verify => self.check_alone(),
            Action::Restore(plan) => {
                self.check_alone();
                assert!(self.is_damaged, "a repair of what nobody has changed");
                assert_eq!(*plan, self.plan, "another plan than that in force restored");
            }
            Action::Terminate { worker } => self.check_end(*worker),
            Action::Kill { worker } => {
                let process = self.processes.get(worker);
                assert!(process.is_none_or(|p| p.signalled), "{worker} killed without warning");
            }
            Action::Reply { request, outcome } => self.check_reply(*request, outcome.as_ref()),
            Action::Progress { request, .. } => {
                assert!(!self.requests[request].answered, "progress after the answer");
            }
            Action::Remove => {
                assert!(self.processes.is_empty(), "the rules removed before the workers");
            }
            Action::Finish => {
                assert!(self.removed, "the end before the removal of the rules");
                let open = self.requests.values().filter(|asked| !asked.answered).count();
                assert_eq!(open, 0, "requests without an answer");
            }
            Action::Notice(_) => {}
        }
    }

    /// One thing at a time is done to the table.
    fn check_alone(&self) {
        assert!(self.outstanding.is_none(), "a commit is outstanding");
        assert!(!self.is_looking, "a look or a repair is outstanding");
    }

    fn check_commit(&self, plan: &Plan) {
        self.check_alone();
        assert_ne!(*plan, self.plan, "a commit that changes nothing");
        if self.commit_failures > 0 {
            let pause = self.now.since(self.commit_failed_at);
            assert!(pause >= Duration::from_millis(100), "tried again after {pause:?}");
        }
        if !plan.is_admitting() {
            assert!(self.stop.is_some(), "closed without a stop");
            return;
        }
        for (seat, occupant) in plan.seats() {
            let Some(occupant) = occupant else { continue };
            assert_eq!(occupant.generation, plan.generation(), "seat {seat}: a mixed plan");
            let id = self.worker_with(occupant).expect("a worker that has not been seen to die");
            let process = &self.processes[&id];
            assert!(process.ready && !process.signalled, "seat {seat} goes to {process:?}");
            assert_eq!(process.left_at, None, "a retired worker gets new connections again");
        }
        self.check_silent_left_out(plan);
        if plan.survivors().count() == 0 {
            let serves = self.occupants().any(|occupant| self.worker_with(occupant).is_some());
            assert!(!serves, "the last workers that serve taken out of force");
        }
        if self.occupants().any(|occupant| self.is_foreign(occupant)) {
            assert_eq!(plan.survivors().count(), plan.seats().len(), "taken over too early");
        }
    }

    /// A worker that does not answer gets no clients where another does.
    fn check_silent_left_out(&self, plan: &Plan) {
        let occupants = plan.seats().filter_map(|(_, occupant)| occupant);
        let named: Vec<WorkerId> = occupants.filter_map(|it| self.worker_with(it)).collect();
        let is_unwell = |id: &&WorkerId| self.processes[id].silent || self.processes[id].stops;
        if let Some(unwell) = named.iter().find(is_unwell) {
            let well = self.well_in(plan).next();
            assert_eq!(well, None, "{unwell} gets clients, although it is silent");
        }
    }

    /// The workers that are sure to answer, of those that have a place in the plan.
    fn well_in(&self, plan: &Plan) -> impl Iterator<Item = WorkerId> {
        let (generation, seats) = (plan.generation(), plan.seats().len());
        let has_place = move |worker: &&Worker| {
            let is_its_state = matches!(worker.state(), WorkerState::Starting | WorkerState::Live);
            is_its_state && worker.generation == generation && worker.seat.index() < seats
        };
        let is_well = |id: &WorkerId| self.processes.get(id).is_some_and(|p| p.is_well(self.now));
        self.supervisor.workers().filter(has_place).map(|worker| worker.id).filter(is_well)
    }

    /// The safe order: only after no new connections come, all were accepted, and have ended.
    fn check_end(&self, worker: WorkerId) {
        let Some(process) = self.processes.get(&worker) else { return };
        assert!(!process.signalled, "{worker} terminated twice");
        if self.gave_up_closing() {
            return;
        }
        assert!(!self.names(&self.plan, process), "{worker} terminated while in force");
        if let Some(next) = &self.outstanding {
            assert!(!self.names(next, process), "{worker} terminated while coming into force");
        }
        let at_once = self.stop.as_ref().is_some_and(|stop| stop.at_once);
        if let Some(left_at) = process.left_at.filter(|_| process.was_named && !at_once) {
            let over = |drain| self.now >= left_at.after(drain);
            let is_limit = self.settings.drain.is_some_and(over);
            assert!(process.is_drained() || is_limit, "{worker} not drained: {process:?}");
        }
    }

    fn check_reply(&self, request: RequestId, outcome: Result<&Done, &Refusal>) {
        let asked = self.requests.get(&request).expect("an answer to a request that was made");
        assert!(!asked.answered, "{request:?} answered twice");
        let generation = self.plan.generation();
        match (asked.request, outcome) {
            (_, Err(Refusal::Stopping)) => assert!(self.stop.is_some()),
            (Request::Reload, Ok(Done::Reloaded { generation: done })) => {
                assert_eq!(*done, generation, "another generation is in force");
                assert_eq!(generation, asked.generation.next());
            }
            (Request::Scale { workers }, Ok(Done::Scaled { workers: done, .. })) => {
                assert_eq!(workers, *done);
                assert_eq!(self.plan.seats().len(), usize::from(workers));
                assert_eq!(generation, asked.generation);
            }
            (Request::Stop { .. }, Ok(Done::Stopped)) => assert!(self.processes.is_empty()),
            (
                Request::Reload | Request::Scale { .. },
                Err(Refusal::Busy(_) | Refusal::Starting),
            ) => {}
            (Request::Reload | Request::Scale { .. }, Err(_)) => {
                assert_eq!(generation, asked.generation, "failed, and yet in force");
            }
            (request, outcome) => panic!("{request:?} answered with {outcome:?}"),
        }
    }

    /// Holds after every step.
    pub(super) fn check_state(&self) {
        if let Some(deadline) = self.supervisor.deadline() {
            assert!(deadline > self.now, "the deadline {deadline:?} is over already");
        }
        if self.finished {
            return;
        }
        self.check_no_new_connections_to_retired();
        self.check_one_worker_a_place();
        if self.outstanding.is_none() && !self.is_looking {
            assert_eq!(*self.supervisor.plan(), self.plan, "a wrong idea of the plan in force");
            if self.commit_failures == 0 && self.stop.is_none() {
                self.check_targets();
            }
        }
    }

    /// Whenever no commit is on its way, and none has failed: every worker in force runs, as far
    /// as can be known, and if any worker can serve then every client reaches one.
    fn check_targets(&self) {
        for occupant in self.occupants() {
            if self.is_foreign(occupant) {
                continue;
            }
            let id = self.worker_with(occupant).expect("a worker in force that was seen to die");
            assert_eq!(self.state_of(id), Some(WorkerState::Live), "in force, but not live");
            assert!(self.processes[&id].ready, "in force, but not ready");
        }
        let named: Vec<WorkerId> = self.occupants().filter_map(|o| self.worker_with(o)).collect();
        if let Some(id) = self.well_in(&self.plan).find(|id| !named.contains(id)) {
            panic!("{id} answers, and has not come back");
        }
        let can_serve = |p: &Process| p.ready && !p.signalled && !p.unfit && p.left_at.is_none();
        if self.processes.values().any(can_serve) {
            for last in 0..16 {
                let client = IpAddr::from([10, 8, 1, last]);
                let route = self.plan.worker_for(client);
                assert!(route.is_some(), "{client} reaches nobody, but there are workers");
            }
        }
    }

    fn check_no_new_connections_to_retired(&self) {
        if self.gave_up_closing() {
            return;
        }
        for worker in self.supervisor.workers() {
            if let WorkerState::Retired | WorkerState::Dying = worker.state()
                && let Some(process) = self.processes.get(&worker.id)
            {
                assert!(!self.names(&self.plan, process), "{} gets connections", worker.id);
            }
        }
    }

    fn check_one_worker_a_place(&self) {
        let has_place = |worker: &&Worker| {
            matches!(worker.state(), WorkerState::Starting | WorkerState::Live)
                && self.processes.get(&worker.id).is_some_and(|p| !p.unfit && !p.stops)
        };
        let mut places: Vec<_> = Vec::new();
        for worker in self.supervisor.workers().filter(has_place) {
            let place = (worker.seat, worker.generation);
            assert!(!places.contains(&place), "two workers for {place:?}");
            places.push(place);
        }
    }

    /// Holds when nothing has gone wrong for long.
    pub(super) fn check_rest(&self) {
        assert!(self.requests.values().all(|asked| asked.answered), "requests without an answer");
        assert_eq!(self.supervisor.deadline(), None, "still something to do");
        assert!(!self.is_damaged, "damage that was not repaired");
        assert_eq!(self.processes.len(), self.plan.seats().len(), "processes and seats differ");
        for (seat, occupant) in self.plan.seats() {
            let worker = occupant.and_then(|occupant| self.worker_with(occupant));
            let worker = worker.unwrap_or_else(|| panic!("seat {seat} has no worker of ours"));
            assert_eq!(self.processes[&worker].seat, seat);
        }
        assert!(self.supervisor.workers().all(|worker| worker.state() == WorkerState::Live));
    }

    /// Holds some time after a stop.
    pub(super) fn check_end_of_all(&self) {
        assert!(self.finished, "the stop has not ended");
        assert!(self.removed && self.processes.is_empty());
        assert_eq!(self.supervisor.workers().count(), 0);
        assert_eq!(self.supervisor.deadline(), None);
    }

    fn gave_up_closing(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.commit_failures >= CLOSE_TRIES)
    }

    /// Whether the plan sends new connections to the process.
    fn names(&self, plan: &Plan, process: &Process) -> bool {
        let mut occupants = plan.seats().filter_map(|(_, occupant)| occupant);
        plan.is_admitting() && occupants.any(|occupant| occupant.ports == process.ports)
    }

    fn is_foreign(&self, occupant: &Occupant) -> bool {
        occupant.ports.iter().all(|port| port.number() < 20_000)
    }
}
