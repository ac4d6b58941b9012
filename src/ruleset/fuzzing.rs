//! Tables that nobody has lowered a plan to, for the fuzzer: parts of two plans, in any order.

use std::time::Duration;

use super::{Ruleset, Stale, lower, raise};
use crate::plan::Plan;

/// One change of a ruleset: what kind it is of, and where. Places beyond the end count from the beginning.
pub type Edit = (u8, u16, u16);

/// Writes the ruleset of `plan` in nft syntax, and reads it as a table: first as it is, then with `edits`,
/// which also put in parts of the ruleset of `other`.
///
/// # Panics
/// If the plan is not found again, or a table is taken for that of a plan that it is not of.
pub fn read_edited(plan: &Plan, other: &Plan, edits: &[Edit]) {
    let whole = lower(plan);
    assert!(whole.to_string().starts_with("table inet "));
    let raised = raise(&whole, None)
        .unwrap_or_else(|error| panic!("a plan is not raised again ({error}): {whole}"));
    assert_eq!(lower(&raised), whole, "raised to another plan");
    let (mut edited, other) = (whole, lower(other));
    for (kind, place, further) in edits {
        edit(&mut edited, &other, *kind, usize::from(*place), usize::from(*further));
    }
    let Ok(raised) = raise(&edited, Some(plan.listeners())) else { return };
    let stale = Stale::beside(&lower(&raised), &edited, Duration::ZERO);
    assert!(stale.is_some(), "a table with more in it than its plan and what others have left");
}

fn edit(ruleset: &mut Ruleset, other: &Ruleset, kind: u8, place: usize, further: usize) {
    let Ruleset { counters, sets, chains, .. } = ruleset;
    match kind % 12 {
        0 => remove(chains, place),
        1 => remove(sets, place),
        2 => remove(counters, place),
        3 => swap(chains, place, further),
        4 => swap(sets, place, further),
        5 => copy(chains, &other.chains, place, further),
        6 => copy(sets, &other.sets, place, further),
        7 => copy(counters, &other.counters, place, further),
        kind => {
            let count = chains.len().max(1);
            let from = other.chains.get(further % other.chains.len().max(1));
            let Some(chain) = chains.get_mut(place % count) else { return };
            match kind {
                8 => remove(&mut chain.rules, further),
                9 => swap(&mut chain.rules, further, further / 2),
                10 => {
                    copy(&mut chain.rules, from.map_or(&[][..], |from| &from.rules), place, further)
                }
                _ => chain.rules = from.map(|from| from.rules.clone()).unwrap_or_default(),
            }
        }
    }
}

fn remove<T>(all: &mut Vec<T>, place: usize) {
    if !all.is_empty() {
        all.remove(place % all.len());
    }
}

fn swap<T>(all: &mut [T], place: usize, further: usize) {
    if !all.is_empty() {
        all.swap(place % all.len(), further % all.len());
    }
}

/// Puts one of `others` in at `place`.
fn copy<T: Clone>(all: &mut Vec<T>, others: &[T], place: usize, further: usize) {
    if let Some(one) = others.get(further % others.len().max(1)) {
        all.insert(place % (all.len() + 1), one.clone());
    }
}
