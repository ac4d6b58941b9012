//! Generations on trial, and ways back: what becomes of clients, and of retired workers.

use super::process::Pid;
use super::topic::Topic;
use super::world::World;
use crate::plan::{Assignment, Plan};
use crate::protocol::{Command, Event, Outcome};
use crate::supervisor::rollout::Target;
use crate::supervisor::workers::Stage;
use crate::supervisor::{Action, Input, Supervisor, Worker};

pub(super) const TOPIC: Topic =
    Topic { born, taken_over, check_action, act, follow, ..Topic::NONE };

/// What the world remembers of a trial.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What there was before the one in force.
    home: Option<Home>,
    /// What there was before the commit that is outstanding.
    before: Option<Home>,
}

impl State {
    /// Whether a generation is on trial.
    pub(super) fn is_trial(&self) -> bool {
        self.home.is_some()
    }
}

/// How the slots are shared out without a trial.
#[derive(Debug, Clone)]
struct Home {
    seats: usize,
    assignment: Assignment,
    /// The master in office has begun since, and knows only what the plan in force shows.
    is_forgotten: bool,
}

fn born(world: &mut World, pid: Pid) {
    let closes = world.goes_wrong(20);
    world.processes.get_mut(&pid).expect("it was just started").closes = closes;
}

/// The next master sees by the plan whether there is a trial. Of seats that are vacant where it begins it
/// may not know which generation they are of.
fn taken_over(world: &mut World) {
    let State { home, before } = std::mem::take(&mut world.canary);
    let trial = world.supervisor.as_ref().and_then(Supervisor::canary);
    world.canary.home = home.or(before).zip(trial).map(|(home, trial)| {
        let seats = trial.first_seat.index();
        let (first, last) = (seats.min(home.seats), seats.max(home.seats));
        let between = world.plan.seats().take(last).skip(first);
        assert!(
            between.into_iter().all(|(_, it)| it.is_none()),
            "a seat is taken for one on trial"
        );
        Home { seats, is_forgotten: home.is_forgotten || !world.crash.was_told, ..home }
    });
}

fn act(world: &mut World, action: &Action) {
    match action {
        Action::Commit(_) => {
            let (seats, assignment) = (world.plan.seats().len(), world.plan.assignment().clone());
            world.canary.before = Some(Home { seats, assignment, is_forgotten: false });
        }
        Action::Emit(Event::InForce { .. }) => {
            let trial = world.supervisor.as_ref().and_then(Supervisor::canary);
            if trial.is_none() {
                world.canary.home = None;
            }
        }
        Action::Emit(Event::CanaryInForce { .. }) => {
            world.canary.home = world.canary.before.clone();
        }
        Action::Reply { outcome: Ok(Outcome::OnTrial(_)), .. } => {
            let request = world.random.choose(&[Command::Promote, Command::Rollback]);
            ask_perhaps(world, request);
        }
        Action::Reply { outcome: Ok(Outcome::Reloaded(_)), .. } => {
            ask_perhaps(world, Command::Rollback);
        }
        // It is looked at anew before it serves again.
        Action::Emit(Event::Retired { worker, .. }) => {
            if let Some(pid) = world.pid_of(*worker)
                && let Some(process) = world.processes.get_mut(&pid)
            {
                process.ready_again = false;
            }
        }
        _ => {}
    }
}

/// Operators do so within seconds, or never.
fn ask_perhaps(world: &mut World, command: Command) {
    if world.trouble > 0 && world.random.percent(40) {
        let delay = world.random.millis(0..3_000);
        world.schedule(delay, move |world| world.ask(command));
    }
}

/// The master looks again and again whether the retired workers that a rollback wants still listen.
fn follow(world: &mut World) {
    let is_reactivating =
        |it: &&Worker| matches!(it.stage, Stage::Reactivating(_)) && it.awaits_ready();
    let reactivated = world.workers().filter(is_reactivating);
    let pids: Vec<Pid> = reactivated.filter_map(|worker| world.pid_of(worker.id)).collect();
    for pid in pids {
        let process = world.processes.get_mut(&pid).expect("it is there");
        if std::mem::replace(&mut process.looked_at, true) {
            continue;
        }
        let delay = world.random.millis(0..30);
        world.schedule_for_master(delay, move |world| look(world, pid));
    }
}

fn look(world: &mut World, pid: Pid) {
    let Some(process) = world.processes.get_mut(&pid) else { return };
    process.looked_at = false;
    if process.is_alive() && process.listens && !process.closes {
        (process.ready, process.ready_again) = (true, true);
        world.tell_of(pid, |worker| Input::Ready { worker });
    }
}

fn check_action(world: &World, action: &Action) {
    let Action::Commit(plan) = action else { return };
    if !plan.is_admitting() {
        return;
    }
    let (now, next) = (world.plan.assignment(), plan.assignment());
    let (seats, next_seats) = (world.plan.seats().len(), plan.seats().len());
    let is_takeover = world.occupants().any(|occupant| world.is_foreign(occupant));
    // A next master that is configured with more workers and another command begins them as a reload.
    let brings_trial = next_target(world).is_none_or(|target| target.canary.is_some());
    let begins = next_seats > seats && plan.generation() > world.plan.generation() && brings_trial;
    match &world.canary.home {
        None if begins && !is_takeover => {
            let mut both = now.table().iter().zip(next.table());
            let stays = both.all(|(now, next)| now == next || next.index() >= seats);
            assert!(stays, "a client moves that does not get the canary");
            check_generations(plan, seats);
        }
        Some(home) if next_seats < seats => {
            let mut both = now.table().iter().zip(next.table());
            let stays = both.all(|(now, next)| now == next || now.index() >= home.seats);
            assert!(stays, "a client moves that did not have the canary");
            let is_back = home.is_forgotten || *next == home.assignment;
            assert!(is_back, "a lent slot went back to another seat");
            check_generations(plan, next_seats);
        }
        Some(home) => {
            assert_eq!(next, now, "clients move during a trial");
            check_generations(plan, home.seats);
        }
        None => check_generations(plan, next_seats),
    }
}

/// The target of the rollout under way.
fn next_target(world: &World) -> Option<&Target> {
    Some(&world.supervisor.as_ref()?.rollout.as_ref()?.to)
}

/// All of one generation in the first `seats` seats, and of the plan's in those after them.
fn check_generations(plan: &Plan, seats: usize) {
    let (first, last): (Vec<_>, Vec<_>) = plan
        .seats()
        .filter_map(|(seat, occupant)| Some((seat, occupant?.generation)))
        .partition(|(seat, _)| seat.index() < seats);
    let has_trial = plan.seats().len() > seats;
    let of_first = match has_trial {
        true => first.first().map_or(plan.generation(), |(_, generation)| *generation),
        false => plan.generation(),
    };
    let is_right = first.iter().all(|(_, generation)| *generation == of_first)
        && last.iter().all(|(_, generation)| *generation == plan.generation());
    assert!(is_right, "a mixed plan: {first:?} {last:?}");
}
