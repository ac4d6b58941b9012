//! A process that is killed while it changes rules: what the kernel holds is the set before the
//! transaction or the one after it, never a mix.

use std::env;
use std::io::{Write, stdout};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::internals::ruleset::Transaction;
use ipcluster::lab::Namespace;
use ipcluster::nft::Firewall;
use ipcluster::plan::{Partition, Plan};
use ipcluster::ruleset::lower;
use netns_tests::plans::{firewall, full, occupy, shared};
use netns_tests::{Case, Lab};

const LISTENERS: &[&str] = &["10.9.0.1:80", "[fd09::1]:80", "10.9.0.1:443/udp"];

/// Set for the process that is killed: how it changes rules.
const VICTIM: &str = "KILLED_VICTIM";
/// The plan that it begins with: the one that is not there.
const FIRST: &str = "KILLED_FIRST";

/// A transaction for each change, sent as it is: nearly all of its time is the kernel's.
const WHOLE: &str = "whole";
/// What a master does.
const APPLIED: &str = "applied";
/// Two transactions for each change: what is not to be.
const HALVED: &str = "halved";

const KILLS: u32 = 200;

/// In a process that was started to be killed: does its part until then.
pub(crate) fn play_victim() {
    if let Ok(how) = env::var(VICTIM) {
        change_for_ever(&how);
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_batch_is_carried_out_whole_or_not_at_all", whole)
            .with_both_engines_on_request(),
        Case::new("a_killed_firewall_leaves_one_plan_and_the_next_goes_on", applied)
            .with_both_engines_on_request(),
        Case::new("control_two_batches_are_seen_half_done", halved),
    ]
}

/// Two plans of which nothing is the same but the listeners.
fn two_plans() -> [Plan; 2] {
    let first = full(LISTENERS, Partition::hash(2048).unwrap(), 32);
    let mut second = full(LISTENERS, Partition::hash(2048).unwrap(), 24);
    (0..24).for_each(|seat| occupy(&mut second, seat, 25_000, 1));
    [first, second]
}

/// Puts one plan after the other in force, and writes the number of each to standard output before
/// it begins, a full stop when it is done.
fn change_for_ever(how: &str) -> ! {
    let plans = two_plans();
    let mut firewall = Firewall::open(plans[0].name()).unwrap();
    let tell = |mark: u8| {
        stdout().write_all(&[mark]).unwrap();
        stdout().flush().unwrap();
    };
    let first = if env::var(FIRST).as_deref() == Ok("0") { 0 } else { 1 };
    for number in [first, 1 - first].into_iter().cycle() {
        let plan = &plans[usize::from(number)];
        let transaction = Transaction::replace(plan);
        tell(b'0' + number);
        match how {
            WHOLE => firewall.carry_out_as_it_is(&transaction).unwrap(),
            APPLIED => drop(firewall.apply(plan).unwrap()),
            _ => {
                let (delete, rest) = transaction.operations.split_at(1);
                for operations in [delete, rest] {
                    let table = transaction.table.clone();
                    let half = Transaction { table, operations: operations.to_vec() };
                    firewall.carry_out_as_it_is(&half).unwrap();
                }
            }
        }
        tell(b'.');
    }
    unreachable!("plans follow each other without end")
}

/// What became of what was begun when it was killed.
#[derive(Debug, Default)]
struct Ends {
    /// Nothing was begun.
    idle: u32,
    /// It was not carried out.
    before: u32,
    /// It was carried out, and nobody was told.
    after: u32,
    /// Neither.
    mixed: u32,
}

fn kill_again_and_again(lab: &Lab, how: &str) -> Ends {
    let plans = two_plans();
    let mut ends = Ends::default();
    let mut there = 0;
    let mut step = shared(lab.server(), &plans[0]);
    step.apply(&plans[0]).unwrap();
    drop(step);
    for kill in 0..KILLS {
        // From the first start of a process to some changes later, a little later each time.
        let after = Duration::from_micros(u64::from(kill) * 61 % 9000);
        let told = victim(lab.server(), how, 1 - there, after);
        let found = holds(lab.server(), &plans);
        let mut begun = told.iter().rev().filter(|mark| **mark != b'.').map(|mark| mark - b'0');
        let last = begun.next();
        match (told.last(), last, found) {
            (None | Some(b'.'), last, Some(found)) => {
                assert_eq!(found, last.unwrap_or(there), "kill {kill}: what was done stays done");
                ends.idle += 1;
            }
            (Some(_), Some(last), Some(found))
                if found == last && last != there_before(&told, there) =>
            {
                ends.after += 1;
            }
            (Some(_), Some(_), Some(found)) => {
                assert_eq!(found, there_before(&told, there), "kill {kill}");
                ends.before += 1;
            }
            _ => ends.mixed += 1,
        }
        match found {
            Some(found) => there = found,
            None => {
                let mut step = shared(lab.server(), &plans[0]);
                step.restore(&plans[0]).unwrap();
                there = 0;
            }
        }
    }
    println!("{how}: {ends:?}");
    ends
}

/// The plan in force before what was begun last.
fn there_before(told: &[u8], there: u8) -> u8 {
    let begun: Vec<u8> =
        told.iter().filter(|mark| **mark != b'.').map(|mark| mark - b'0').collect();
    match begun[..] {
        [.., before, _] => before,
        _ => there,
    }
}

/// Starts a process that changes rules, and kills it when it has begun and this time has passed.
/// Returns what it told.
fn victim(namespace: &Namespace, how: &str, first: u8, after: Duration) -> Vec<u8> {
    let spawn = || {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .env(VICTIM, how)
            .env(FIRST, first.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut child = namespace.run_in(spawn).unwrap().unwrap();
    let began = Instant::now();
    // It takes about 2 ms to begin. The time is the fault, and nothing waits for anything by it.
    thread::sleep((after + Duration::from_millis(2)).saturating_sub(began.elapsed()));
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), None, "it was killed, and did not fail");
    output.stdout
}

/// Which of the plans the kernel holds, and nothing but it.
fn holds(namespace: &Namespace, plans: &[Plan; 2]) -> Option<u8> {
    let mut reader = firewall(namespace, &plans[0]);
    let Ok(Some(found)) = reader.read_in_order_of(plans[0].listeners()) else { return None };
    // What earlier plans left beside it is known as such, or `read` had failed.
    let number = plans.iter().position(|plan| lower(plan) == lower(&found))?;
    u8::try_from(number).ok()
}

fn whole(lab: &Lab) {
    let ends = kill_again_and_again(lab, WHOLE);
    assert_eq!(ends.mixed, 0, "{ends:?}");
    assert!(ends.before > 20 && ends.after > 0, "killed in the middle of batches: {ends:?}");
}

fn applied(lab: &Lab) {
    let ends = kill_again_and_again(lab, APPLIED);
    assert_eq!(ends.mixed, 0, "{ends:?}");
    assert!(ends.before + ends.after > 20, "killed while it was applied: {ends:?}");
}

fn halved(lab: &Lab) {
    let ends = kill_again_and_again(lab, HALVED);
    assert!(ends.mixed > 0, "{ends:?}");
}
