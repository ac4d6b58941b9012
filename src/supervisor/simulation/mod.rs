//! Random histories in a simulated world.
//!
//! A [`World`] holds a supervisor, a clock that jumps from one happening to the next, processes
//! and the table in the kernel. What goes wrong, and what must hold in spite of it, is a list of
//! [topics](topic::TOPICS):
//!
//! | file | what happens | what must hold |
//! |---|---|---|
//! | `checks` | | the safe order of a worker's end; nobody is named that is dead, not ready or retired; every client reaches somebody; one worker a place; when all is calm each seat has its worker, and nothing is left to do |
//! | `lives` | spawns that fail or take long, slow starts, deaths, deafness to SIGTERM; looks at sockets that fail, deaths that are seen late | |
//! | `kernel` | commits and repairs that fail, once or for long; damage by others; notifications that are lost | one thing at a time is done to the table; no try without a pause; no repair of what is whole, none left out |
//! | `operators` | reloads, scales, canaries, rollbacks and stops at any moment | each is answered once, and the answer is true |
//! | `policy` | workers that grow, lag, hang and want to go; too little memory; looks at it that fail or come late; operators who retire and clear | replacement comes first; the budget; no live worker ends for want of memory, and those that do go in order; no seat gets more workers than it may lose |
//! | `held` | listening sockets outlive their workers | they are handed on or closed, never on those who wait, and none is left over |
//! | `time` | the clock jumps, by up to ten hours | |
//! | `crash` | masters are killed at any moment, also in the middle of a commit; others adopt what they leave, some with other weights | if all workers in force are alive nothing changes; no worker in force is ended by it |
//! | `canary` | workers that close their sockets when they are retired; looks at those that a rollback recalls | a generation on trial has its share, no other client moves, and after it every slot is where it was; nobody serves again that does not listen |
//! | `probation` | what was put in force is on probation, and fails there by all of the above | those before it are told nothing and not ended until it is over; where it has failed beyond the limit, or nobody of it serves, they are in force again with the next commit |
//! | `health` | workers that fall silent, for a moment or long, again and again; that say that they stop, ask for time, or claim to be ready | nobody is named that is silent while another answers; whoever answers for long is named; a cluster is never vacant because of health (`checks`) |
//! | `configuration` | reloads with other workers, weights, listeners and times, some of which cannot be; they fail by all of the above | a generation has the listeners that it began with, also when it is rolled back to; what is configured is what is in force |
//! | `end_signals` | workers that get a retire signal, and end by themselves after it or pass over it | it is sent once, also by the next master, and when nobody waits; nobody serves again who got it; the time to drain counts from it (`checks`) |
//! | `links` | workers that pick their ports, that join and part, say things, and pass over what they are told | nobody is told to retire while clients may wait, or twice; who is told to end is out of force and drained |
//!
//! A history is at most [`EVENTS`] events of trouble, then calm, in which everything must come to
//! rest, then a stop. The same seed makes the same history:
//!
//! ```text
//! cargo test --lib supervisor::simulation                                         the fast set
//! IPCLUSTER_SIM_HISTORIES=100000 cargo test --release --lib supervisor::simulation  the long one
//! IPCLUSTER_SIM_FROM=50000 IPCLUSTER_SIM_HISTORIES=100 cargo test --lib supervisor::simulation   from a seed on
//! IPCLUSTER_SIM_ENGINE=tproxy cargo test --lib supervisor::simulation             with that engine alone
//! IPCLUSTER_SIM_SEED=4711 cargo test --lib supervisor::simulation -- --nocapture   one, told in full
//! ```
//!
//! `sabotage` has supervisors with one fault each, and a test that the histories find every one.
//!
//! # To add a topic
//!
//! A file of its own with `pub(super) const TOPIC: Topic = Topic { ..., ..Topic::NONE }`, and a line
//! in [`TOPICS`](topic::TOPICS). What it does is told by the fields of [`Topic`](topic::Topic):
//!
//! * `begin` puts on the agenda what will happen: `let at = world.some_time(); world.schedule(at,
//!   |world| ...)`; `born` does it for a process that was just started. Ask `world.goes_wrong(chance)`
//!   before anything bad: in calm it says no.
//! * What happens is told by `world.tell_of(pid, |worker| Input::...)`, or `world.deliver(input)`.
//!   What a master hears or answers goes through `schedule_for_master`: nothing comes of it when
//!   that master is dead by then.
//! * `act` carries out the actions that are this topic's own, `check_action` judges them before.
//! * `follow` puts on the agenda what the state of the supervisor calls for, such as looks.
//! * `check_state` holds after every event, `check_rest` after a long calm.
//!
//! What it remembers of a process is a field of [`Process`](process::Process), what it remembers of the
//! world a `State` of its own and a field of [`World`]. A new invariant gets a new fault in
//! `sabotage`.

mod canary;
mod checks;
mod configuration;
mod crash;
mod end_signals;
mod guard;
mod health;
mod held;
mod kernel;
mod links;
mod lives;
mod operators;
mod policy;
mod probation;
mod process;
mod random;
mod release;
mod sabotage;
mod time;
mod topic;
mod world;

use std::time::Duration;

use crate::protocol::Command;
use crate::simulation::{check_histories, panic_of, told_seed};
use sabotage::{FAULTS, Sabotage};
use world::World;

/// Histories of one run, unless the environment says otherwise.
const HISTORIES: u64 = 1_000;

/// So many events of trouble has a history at most.
const EVENTS: u64 = 1_000;

/// In so much time what goes wrong does, unless the clock jumps.
const TROUBLED: Duration = Duration::from_secs(60);

/// Within so many histories a fault of the supervisor is found.
const FOUND_WITHIN: u64 = 1_500;

#[test]
fn every_history_keeps_the_invariants() {
    if let Some(seed) = told_seed() {
        let mut world = World::new(seed);
        world.journal = Some(Vec::new());
        live_through(&mut world);
        println!("{}", world.journal.iter().flatten().cloned().collect::<Vec<_>>().join("\n"));
        return;
    }
    check_histories(HISTORIES, |seed| panic_of(|| live_through(&mut World::new(seed))));
}

#[test]
fn every_fault_of_a_supervisor_is_found() {
    for &(fault, invariant) in FAULTS {
        let found = (0..FOUND_WITHIN).find(|seed| {
            let mut world = World::new(*seed);
            world.sabotage = Some(Sabotage::new(fault));
            panic_of(|| live_through(&mut world)).is_some_and(|words| words.contains(invariant))
        });
        let seed = found.unwrap_or_else(|| panic!("{fault:?}: no history finds {invariant:?}"));
        println!("{fault:?}: history {seed} finds {invariant:?}");
    }
}

/// Trouble, then calm, then the end.
fn live_through(world: &mut World) {
    world.start();
    world.run(TROUBLED, EVENTS);
    world.calm_down();
    world.run(Duration::from_secs(400), 20_000);
    if world.operators.stop.is_none() {
        world.check_rest();
        let now = world.random.percent(30);
        world.ask(Command::Stop { now });
        world.run(Duration::from_secs(60), 20_000);
    }
    world.check_end_of_all();
    assert!(world.inputs < 20_000, "{} inputs: a busy loop", world.inputs);
}
