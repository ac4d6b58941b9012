//! What the kernel holds, and whether that is what it should hold.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Firewall, netlink_error};
use crate::nft::error::{NftError, NotUnderstood};
use crate::nft::wire::dump::TableState;
use crate::nft::wire::table::TableOwner;
use crate::plan::{Listeners, Plan, Seat};
use crate::ruleset::{CounterValue, Ruleset, Stale, TableName, lower, raise};

impl Firewall {
    /// Reads the plan that is in force: what an earlier master left, or nothing. Who owns the table makes
    /// no difference.
    ///
    /// The kernel does not keep the order of the listeners: see [`Self::read_in_order_of`].
    ///
    /// # Errors
    /// [`NftError::Privilege`]; [`NftError::ForeignTable`]; [`NftError::Schema`];
    /// [`NftError::NotUnderstood`]; [`NftError::Netlink`].
    pub fn read(&mut self) -> Result<Option<Plan>, NftError> {
        self.read_plan(None)
    }

    /// Reads the plan that is in force, as [`Self::read`] does. If its listeners are the `expected` ones,
    /// they come in that order, so that the plan can be compared with another of these listeners.
    ///
    /// # Errors
    /// The errors of [`Self::read`].
    pub fn read_in_order_of(&mut self, expected: &Listeners) -> Result<Option<Plan>, NftError> {
        self.read_plan(Some(expected))
    }

    fn read_plan(&mut self, expected: Option<&Listeners>) -> Result<Option<Plan>, NftError> {
        // If it cannot be read or understood, nothing is known of it: the next plan is then put in
        // force whole.
        (self.in_force, self.stale) = (None, Stale::default());
        let Some(ruleset) = self.read_ruleset()? else { return Ok(None) };
        let plan =
            raise(&ruleset, expected).map_err(|reason| self.not_understood(reason.into()))?;
        self.stale = stale_beside(&plan, &ruleset, self.begin.elapsed());
        self.in_force = Some(plan.clone());
        Ok(Some(plan))
    }

    /// Reads the objects that are in force, and what earlier plans have left of theirs.
    ///
    /// # Errors
    /// The errors of [`Self::read`].
    pub fn read_ruleset(&mut self) -> Result<Option<Ruleset>, NftError> {
        match self.look()? {
            TableState::Absent => Ok(None),
            TableState::Ours { contents: Ok(ruleset), .. } => Ok(Some(ruleset)),
            TableState::Ours { contents: Err(reason), .. } => Err(self.not_understood(reason)),
            TableState::OtherSchema { found, .. } => Err(self.other_schema(found)),
            TableState::Foreign => Err(self.foreign()),
        }
    }

    /// What the counter of each seat has counted since the cluster was first put in force: across
    /// generations, masters and repairs, as long as the seat was not scaled away. Empty where there
    /// is no table. A few tens of microseconds, which nothing else waits for.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub fn counter_values(&mut self) -> Result<BTreeMap<Seat, CounterValue>, NftError> {
        let mut counter_values = self
            .nf_tables
            .counter_values(&self.table)
            .map_err(|source| netlink_error(&self.table, "read its counters", source))?;
        counter_values.retain(|seat, _| self.stale.seats().all(|stale| stale != *seat));
        self.counter_values.extend(&counter_values);
        Ok(counter_values)
    }

    /// Reads the table, and learns whether it is ours.
    pub(super) fn look(&mut self) -> Result<TableState, NftError> {
        let failed = |source| netlink_error(&self.table, "read it", source);
        let found = self.nf_tables.read(&self.table).map_err(failed)?;
        let port_id = self.nf_tables.port().map_err(failed)?;
        self.owns = match &found {
            TableState::Ours { owner, .. } | TableState::OtherSchema { owner, .. } => {
                *owner == TableOwner::Socket(port_id)
            }
            TableState::Absent | TableState::Foreign => false,
        };
        Ok(found)
    }

    /// Compares what the kernel holds, and whose it is, with what [`Self::apply`] put there last. What
    /// earlier plans have left there makes no difference.
    ///
    /// # Errors
    /// [`NftError::Differs`] with the first object that does, and those of [`Self::read`].
    pub fn verify(&mut self) -> Result<(), NftError> {
        let owned = self.owns;
        let found = self.read_ruleset()?;
        let object = match self.find_stale(found.as_ref()) {
            false => first_difference(self.in_force.as_ref().map(lower).as_ref(), found.as_ref()),
            true if owned && !self.owns => "its owner".to_owned(),
            true => return Ok(()),
        };
        Err(NftError::Differs { table: self.table.clone(), object })
    }

    /// Whether what was read is what is in force, and what earlier plans have left: which is known
    /// from then on.
    pub(super) fn find_stale(&mut self, found: Option<&Ruleset>) -> bool {
        let stale = match (&self.in_force, found) {
            (None, None) => Stale::default(),
            (Some(plan), Some(found)) => {
                match Stale::beside(&lower(plan), found, self.begin.elapsed()) {
                    Some(stale) => stale.aged_as(&self.stale),
                    None => return false,
                }
            }
            _ => return false,
        };
        self.stale = stale;
        true
    }

    pub(super) fn holds_what_we_think(&mut self) -> bool {
        self.read_ruleset().is_ok_and(|found| self.find_stale(found.as_ref()))
    }

    /// Whether the table holds a plan, beside it what is stale, and nothing else.
    pub(super) fn holds(&mut self, plan: &Plan, stale: &Stale) -> Result<bool, NftError> {
        let Some(found) = self.read_ruleset()? else { return Ok(false) };
        let beside = Stale::beside(&lower(plan), &found, self.begin.elapsed());
        Ok(beside.is_some_and(|found| found.aged_as(stale) == *stale))
    }

    pub(super) fn not_understood(&self, reason: NotUnderstood) -> NftError {
        NftError::NotUnderstood { table: self.table.clone(), reason }
    }

    pub(super) fn foreign(&self) -> NftError {
        NftError::ForeignTable { table: self.table.clone() }
    }

    pub(super) fn other_schema(&self, found: u32) -> NftError {
        NftError::Schema { table: self.table.clone(), found, ours: TableName::SCHEMA }
    }
}

/// Names the first object that only one of two rulesets has, or that differs.
fn first_difference(expected: Option<&Ruleset>, found: Option<&Ruleset>) -> String {
    let (Some(expected), Some(found)) = (expected, found) else { return "the table".to_owned() };
    let chains = expected.chains.iter().chain(&found.chains);
    let chain = chains
        .into_iter()
        .find(|chain| !(expected.chains.contains(chain) && found.chains.contains(chain)));
    let counters = expected.counters.iter().chain(&found.counters);
    let counter = counters
        .into_iter()
        .find(|it| !(expected.counters.contains(it) && found.counters.contains(it)));
    let sets = expected.sets.iter().chain(&found.sets);
    let set =
        sets.into_iter().find(|set| !(expected.sets.contains(set) && found.sets.contains(set)));
    match (chain, set, counter) {
        (Some(chain), ..) => format!("chain {}", chain.name),
        (None, Some(set), _) => format!("set {}", set.name),
        (None, None, Some(counter)) => format!("counter {counter}"),
        (None, None, None) => "the order of its objects".to_owned(),
    }
}

/// What a ruleset holds beside the plan that it was raised to.
pub(super) fn stale_beside(plan: &Plan, ruleset: &Ruleset, now: Duration) -> Stale {
    Stale::beside(&lower(plan), ruleset, now).unwrap_or_default()
}
