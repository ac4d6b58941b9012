//! The file that is read again: reloads with other workers, weights, listeners and times, among everything else
//! that happens, and the way back to what was configured before where they fail.
//!
//! The world does here what `master/configuration.rs` does: what a reload changes holds from its beginning on, and
//! what held before holds again if it fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::random::Random;
use super::topic::Topic;
use super::world::World;
use crate::plan::{Engine, Generation, Listeners, Plan, Weights};
use crate::protocol::{Command, Outcome, Refusal};
use crate::supervisor::{Action, Configured, Input, RequestId, Settings};

pub(super) const TOPIC: Topic =
    Topic { begin, taken_over, check_action, act, follow, check_state, check_rest, ..Topic::NONE };

/// What is configured, as far as it can change.
#[derive(Debug, Clone)]
struct Configuration {
    weights: Weights,
    ready: Duration,
    listeners: Arc<Listeners>,
}

/// A reload with another configuration that is not answered yet.
#[derive(Debug)]
struct Pending {
    request: RequestId,
    before: Configuration,
    /// What it brings.
    after: Configuration,
    reshares: bool,
}

/// What the world remembers of configurations.
pub(super) struct State {
    /// Of this topic alone, so that the histories without such reloads stay what they were.
    random: Random,
    /// The listeners of a generation that begins now.
    listeners: Arc<Listeners>,
    /// What generations of the master in office began with; an absent one began with `initial`.
    begun: BTreeMap<Generation, Configuration>,
    initial: Option<Configuration>,
    pending: Vec<Pending>,
    reverts: Vec<Configuration>,
}

impl State {
    pub(super) fn new(seed: u64, plan: &Plan) -> Self {
        Self {
            random: Random::new(seed ^ 0xc0f1),
            listeners: Arc::new(plan.listeners().clone()),
            begun: BTreeMap::new(),
            initial: None,
            pending: Vec::new(),
            reverts: Vec::new(),
        }
    }
}

fn listeners(all: &[&str]) -> Arc<Listeners> {
    let all = all.iter().map(|it| it.parse().expect("a listener")).collect();
    Arc::new(Listeners::new(all).expect("listeners"))
}

fn begin(world: &mut World) {
    world.configuration.initial = Some(world.configured());
    // A generation begins where its release is prepared: else the world would not see it.
    if !world.settings.prepares_releases {
        return;
    }
    let limit = u64::try_from(super::TROUBLED.as_millis()).expect("short");
    for _ in 0..world.configuration.random.below(5) {
        let at = world.configuration.random.millis(0..limit);
        world.schedule(at, reload_with_another);
    }
}

/// The next master is started with the file that there is now, of which the listeners are those in force.
fn taken_over(world: &mut World) {
    world.configuration.listeners = Arc::new(world.plan.listeners().clone());
    world.configuration.begun.clear();
    world.configuration.pending.clear();
    world.configuration.reverts.clear();
    world.configuration.initial = Some(world.configured());
}

fn reload_with_another(world: &mut World) {
    if world.supervisor.is_none() || world.finished {
        return;
    }
    let before = world.configured();
    let mut after = before.clone();
    let engine = world.plan.engine();
    let random = &mut world.configuration.random;
    if random.percent(50) {
        // With the partition "mask" some of these cannot be.
        after.weights = match random.below(4) {
            0 => Weights::new(&[2.0, 1.0, 1.0]),
            1 => Weights::equal(100),
            _ => Weights::equal(1 + usize::try_from(random.below(6)).expect("small")),
        }
        .expect("in range");
    }
    if random.percent(50) {
        after.listeners = match (random.below(3), engine) {
            (0, _) => listeners(&["0.0.0.0:80"]),
            // The number of ports cannot change there, as the master says without a word to the supervisor.
            (_, Engine::Tproxy) | (1, _) => listeners(&["10.0.0.1:80"]),
            _ => listeners(&["0.0.0.0:80", "0.0.0.0:81"]),
        };
    }
    if random.percent(30) {
        after.ready = Duration::from_secs(4 + random.below(4));
    }
    let command = match random.below(10) {
        0 => Command::Reload { share: Some("25%".parse().expect("a share")) },
        1 => Command::Restart,
        _ => Command::Reload { share: None },
    };
    let reshares = after.weights != before.weights;
    let request = world.begin_request(command);
    world.configuration.pending.push(Pending { request, before, after: after.clone(), reshares });
    world.configure_as(&after);
    let configured = Box::new(world.as_configured());
    world.deliver(Input::Reconfigure { request, command, configured, reshares });
}

fn act(world: &mut World, action: &Action) {
    match action {
        Action::PrepareRelease { generation } => {
            let configured = world.configured();
            world.configuration.begun.insert(*generation, configured);
        }
        Action::Reply { request, outcome } => answered(world, *request, outcome.as_ref()),
        _ => {}
    }
}

/// What a reload has brought stays, or goes.
fn answered(world: &mut World, request: RequestId, outcome: Result<&Outcome, &Refusal>) {
    let state = &mut world.configuration;
    let place = state.pending.iter().position(|pending| pending.request == request);
    let pending = place.map(|place| (place, state.pending.remove(place)));
    match (outcome, pending) {
        (Ok(Outcome::RolledBack(done)), _) => {
            let before = state.begun.get(&done.generation).or(state.initial.as_ref()).cloned();
            state.reverts.extend(before);
        }
        (Err(Refusal::Replaced { .. }) | Ok(_), _) | (Err(_), None) => {}
        (Err(_), Some((place, pending))) => match state.pending.get_mut(place) {
            Some(later) => later.before = pending.before,
            None => state.reverts.push(pending.before),
        },
    }
}

fn follow(world: &mut World) {
    while !world.configuration.reverts.is_empty() && world.supervisor.is_some() {
        let before = world.configuration.reverts.remove(0);
        world.configure_as(&before);
        let configured = Box::new(world.as_configured());
        world.deliver(Input::Configured(configured));
    }
}

fn check_action(world: &World, action: &Action) {
    match action {
        Action::Commit(plan) => check_listeners(world, plan),
        Action::Reply { request, outcome: Ok(Outcome::Reloaded(_)) } => {
            let mut pending = world.configuration.pending.iter();
            let Some(pending) = pending.find(|pending| pending.request == *request) else { return };
            let Pending { after, reshares, .. } = pending;
            assert_eq!(world.plan.listeners(), &*after.listeners, "reloaded without its listeners");
            let seats = world.plan.seats().len();
            assert!(!reshares || seats == after.weights.seats(), "reloaded with {seats} seats");
        }
        _ => {}
    }
}

fn check_state(world: &World) {
    let is_busy = world.kernel.outstanding.is_some() || world.kernel.is_looking;
    if world.supervisor.is_some() && !is_busy && !world.finished {
        check_listeners(world, &world.plan);
    }
}

/// A generation has the listeners that it began with, whatever is configured later.
fn check_listeners(world: &World, plan: &Plan) {
    let state = &world.configuration;
    let began = state.begun.get(&plan.generation()).or(state.initial.as_ref());
    let of_generation = began.map(|began| &*began.listeners);
    assert_eq!(of_generation, Some(plan.listeners()), "the listeners of another generation");
}

fn check_rest(world: &World) {
    let state = &world.configuration;
    assert!(state.pending.is_empty() && state.reverts.is_empty());
    assert_eq!(world.plan.listeners(), &*state.listeners, "not in force is what is configured");
    let Some(supervisor) = &world.supervisor else { return };
    let Settings { weights, ready, .. } = &supervisor.settings;
    let expected = (&world.settings.weights, &world.settings.ready);
    assert_eq!((weights, ready), expected, "another configuration than is in force");
}

impl World {
    /// How many ports a worker of this generation has.
    pub(super) fn ports_of(&self, generation: Generation) -> u16 {
        let state = &self.configuration;
        let began = state.begun.get(&generation).or(state.initial.as_ref());
        let count = began.map_or(1, |began| began.listeners.public_ports().len());
        u16::try_from(count).expect("few")
    }

    fn configured(&self) -> Configuration {
        Configuration {
            weights: self.settings.weights.clone(),
            ready: self.settings.ready,
            listeners: Arc::clone(&self.configuration.listeners),
        }
    }

    fn configure_as(&mut self, wanted: &Configuration) {
        let Configuration { weights, ready, listeners } = wanted;
        (self.settings.weights, self.settings.ready) = (weights.clone(), *ready);
        self.configuration.listeners = Arc::clone(listeners);
    }

    fn as_configured(&self) -> Configured {
        let listeners = Arc::clone(&self.configuration.listeners);
        Configured { settings: self.settings.clone(), listeners }
    }
}
