//! Those who ask: reloads, scales and stops at any moment, and the answers that they get.

use std::collections::BTreeMap;
use std::time::Duration;

use super::process::{Pid, Process};
use super::topic::Topic;
use super::world::World;
use crate::plan::Generation;
use crate::protocol::{
    Command, OnTrial, Outcome, Refusal, Reloaded, Restarted, Retired, RolledBack, Scaled, Timestamp,
};
use crate::supervisor::{Action, Input, RequestId, Supervisor};

pub(super) const TOPIC: Topic =
    Topic { begin, taken_over, check_action, act, check_rest, ..Topic::NONE };

/// What was asked.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) requests: BTreeMap<RequestId, Asked>,
    pub(super) stop: Option<StopSeen>,
    /// The highest number of a generation that a request was told of.
    highest: Option<Generation>,
    /// When somebody last asked for a reload, scale, retirement or restart.
    pub(super) last_change: Option<Timestamp>,
}

/// A request and its answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) command: Command,
    /// The generation in force when it was made.
    pub(super) generation: Generation,
    /// No plan of the master in office was in force when it was made.
    was_starting: bool,
    /// How many probations had failed by then.
    returns: u64,
    pub(super) answered: bool,
}

/// A stop that was asked for.
#[derive(Debug, Default)]
pub(super) struct StopSeen {
    pub(super) at_once: bool,
    /// Commits that failed since.
    pub(super) commit_failures: u32,
}

fn begin(world: &mut World) {
    for _ in 0..6 {
        let at = world.some_time();
        world.ask_something_in(at);
    }
}

/// Those who wait for an answer see that the master is gone. A stop is not gone on with.
fn taken_over(world: &mut World) {
    let last_change = world.operators.last_change.filter(|_| world.crash.was_told);
    world.operators = State { last_change, ..State::default() };
}

fn act(world: &mut World, action: &Action) {
    if let Action::Reply { request, outcome } = action {
        world.operators.requests.get_mut(request).expect("a known request").answered = true;
        if let Ok(
            Outcome::Reloaded(Reloaded { generation, .. })
            | Outcome::OnTrial(OnTrial { generation, .. }),
        ) = outcome
        {
            world.operators.highest = world.operators.highest.max(Some(*generation));
        }
    }
}

impl World {
    /// Has an operator ask for something, soon.
    pub(super) fn ask_something_in(&mut self, delay: Duration) {
        let command = match self.random.below(20) {
            0..5 => Command::Reload { share: None },
            5..8 => {
                let share = self.random.choose(&["10%", "25%", "50%", "90%", "0.01%"]);
                Command::Reload { share: Some(share.parse().expect("a share")) }
            }
            8..10 => Command::Promote,
            10..14 => Command::Rollback,
            14..19 => {
                Command::Scale { workers: u16::try_from(self.random.below(9)).expect("small") }
            }
            _ => Command::Stop { now: self.random.percent(50) },
        };
        self.schedule(delay, move |world| world.ask(command));
    }

    pub(super) fn ask(&mut self, command: Command) {
        if self.supervisor.is_none() {
            return;
        }
        let id = self.next_request();
        self.note_request(id, command);
        if !matches!(command, Command::Stop { .. } | Command::ClearRetired) {
            self.operators.last_change = Some(self.now);
        }
        if let Command::Stop { now } = command {
            self.operators.stop.get_or_insert_default().at_once |= now;
        }
        self.deliver(Input::Request(id, command));
    }

    /// A master begins whose configuration is another than that of the one before.
    pub(super) fn configure(&mut self, renew: bool, reshares: bool) {
        let id = self.next_request();
        let workers = u16::try_from(self.settings.weights.seats()).expect("few");
        let command = match renew {
            true => Command::Reload { share: None },
            false => Command::Scale { workers },
        };
        self.note_request(id, command);
        self.operators.last_change = Some(self.now);
        self.deliver(Input::Configure { request: id, renew, reshares });
    }

    /// Takes note of a request that somebody else tells the supervisor of.
    pub(super) fn begin_request(&mut self, command: Command) -> RequestId {
        let id = self.next_request();
        self.note_request(id, command);
        self.operators.last_change = Some(self.now);
        id
    }

    fn next_request(&self) -> RequestId {
        RequestId(self.operators.requests.len() as u64)
    }

    fn note_request(&mut self, id: RequestId, command: Command) {
        let (generation, returns) = (self.plan.generation(), self.probation.returns);
        let was_starting = self.supervisor.as_ref().is_some_and(Supervisor::is_starting);
        let asked = Asked { command, generation, was_starting, returns, answered: false };
        self.operators.requests.insert(id, asked);
    }
}

fn check_action(world: &World, action: &Action) {
    let requests = &world.operators.requests;
    match action {
        Action::Reply { request, outcome } => check_reply(world, *request, outcome.as_ref()),
        Action::Progress { request, .. } => {
            assert!(!requests[request].answered, "progress after the answer");
        }
        Action::Finish => {
            let open = requests.values().filter(|asked| !asked.answered).count();
            assert_eq!(open, 0, "requests without an answer");
        }
        _ => {}
    }
}

fn check_reply(world: &World, request: RequestId, outcome: Result<&Outcome, &Refusal>) {
    let asked = world.operators.requests.get(&request).expect("a request that was made");
    assert!(!asked.answered, "{request:?} answered twice");
    let generation = world.plan.generation();
    let is_new = world.operators.highest.is_none_or(|highest| generation > highest);
    match (asked.command, outcome) {
        (_, Err(Refusal::Stopping)) => assert!(world.operators.stop.is_some()),
        (_, Err(Refusal::Probation(failure))) => {
            let serving = failure.serving.unwrap_or(failure.generation);
            assert_eq!(generation, serving, "another generation serves");
        }
        (_, Err(Refusal::Replaced { .. })) => {}
        (
            Command::Reload { share: None },
            Ok(Outcome::Reloaded(Reloaded { generation: done, .. })),
        ) => {
            assert_eq!(*done, generation, "another generation is in force");
            assert!(generation > asked.generation && is_new, "an old number for a new generation");
        }
        (
            Command::Reload { share: Some(share) },
            Ok(Outcome::OnTrial(OnTrial { generation: done, trial_slots, slots, .. })),
        ) => {
            assert_eq!(*done, generation, "another generation is on trial");
            assert!(generation > asked.generation && is_new, "an old number for a new generation");
            assert_eq!(*trial_slots, share.of(*slots), "another share than was asked for");
        }
        (Command::Promote, Ok(Outcome::Reloaded(Reloaded { generation: done, .. }))) => {
            assert_eq!((*done, asked.generation), (generation, generation));
        }
        (Command::Rollback, Ok(Outcome::RolledBack(RolledBack { generation: done, .. }))) => {
            assert_eq!(*done, generation, "another generation is in force");
            assert!(generation < asked.generation, "not back");
        }
        (Command::Scale { workers }, Ok(Outcome::Scaled(Scaled { workers: done, .. }))) => {
            assert_eq!(workers, *done);
            if asked.was_starting {
                return;
            }
            assert_eq!(world.plan.seats().len(), usize::from(workers));
            assert_eq!(generation, asked.generation);
        }
        // Until the old workers are gone there may be another reload, or the way back.
        (Command::Restart, Ok(Outcome::Restarted(Restarted { generation: done, .. }))) => {
            assert!(*done > asked.generation, "no new generation");
        }
        (
            Command::Restart,
            Err(
                Refusal::Busy(_)
                | Refusal::Starting
                | Refusal::Superseded
                | Refusal::Worker(_)
                | Refusal::Release { .. }
                | Refusal::Commit { .. },
            ),
        ) => {}
        (Command::ClearRetired, Ok(Outcome::Cleared(_))) => {}
        (Command::Retire(_), Ok(Outcome::Retired(Retired { pid, .. }))) => {
            let pid = Pid(pid.expect("it has run"));
            let has_left =
                |process: &Process| process.left_at.is_some() || process.may_be_aside(world.now);
            assert!(world.processes.get(&pid).is_none_or(has_left), "{pid:?} is not retired");
        }
        (Command::Retire(_), Err(refusal)) => {
            let is_change =
                matches!(refusal, Refusal::NobodyLeft | Refusal::Plan(_) | Refusal::Commit { .. });
            assert!(!is_change, "{refusal}");
        }
        (Command::Stop { .. }, Ok(Outcome::Stopped(_))) => assert_eq!(world.managed().count(), 0),
        (Command::Stop { .. }, Err(_)) => panic!("a stop refused: {outcome:?}"),
        (_, Err(Refusal::Busy(_) | Refusal::Starting)) => {}
        // The generation that the start began with may be in force by now.
        (_, Err(_)) if asked.was_starting => {}
        (_, Err(_)) => {
            let has_returned = asked.returns != world.probation.returns;
            let is_same = generation == asked.generation;
            assert!(is_same || has_returned, "failed, and yet in force");
        }
        (command, outcome) => panic!("{command:?} answered with {outcome:?}"),
    }
}

fn check_rest(world: &World) {
    let open = world.operators.requests.values().filter(|asked| !asked.answered);
    assert_eq!(open.count(), 0, "requests without an answer");
}
