//! Transactions: each changes what is in force in one step, or nothing.

use std::time::Instant;

use super::ownership::Protection;
use super::read::stale_beside;
use super::{Applied, Firewall, netlink_error};
use crate::netlink::{Errno, NetlinkError};
use crate::nft::error::{Fault, NftError, is_older_schema};
use crate::nft::wire::batch::Batch;
use crate::nft::wire::batch::OwnershipChange;
use crate::nft::wire::dump::TableState;
use crate::nft::wire::replies::Outcome;
use crate::nft::wire::table::TableOwner;
use crate::plan::Plan;
use crate::ruleset::{Stale, Transaction, Transition, raise};

/// How often something is tried that depends on what was read just before.
const ATTEMPTS: u32 = 5;

impl Firewall {
    /// Puts a plan in force, in one transaction that changes only what differs.
    ///
    /// If the kernel no longer holds what we put there, the table is made anew, whole, from the
    /// plan. If it is to be ours and is not yet, it is taken in the same transaction.
    ///
    /// # Errors
    /// [`NftError::Privilege`]; [`NftError::Refused`] with the objects at fault;
    /// [`NftError::ForeignTable`]; [`NftError::OwnedByOther`]; [`NftError::Schema`] of a newer one;
    /// [`NftError::NoOwnership`]; [`NftError::Netlink`]. In every case what was in force still is.
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, NftError> {
        match self.protection()? {
            Protection::Owned if !self.owns => return self.take(plan),
            Protection::Kept => self.keep_connections_of(plan)?,
            Protection::Owned | Protection::None => {}
        }
        let transition = match &self.in_force {
            Some(in_force) => {
                Transition::between(in_force, &self.stale, plan, self.begin.elapsed())?
            }
            None => Transaction::create(plan).into(),
        };
        match self.carry_out(transition, plan, None, OwnershipChange::OwnIfCreated) {
            Err(NftError::Refused { .. }) if !self.holds_what_we_think() => self.restore(plan),
            result => result,
        }
    }

    /// Removes what earlier plans have left in the table, as far as at `now` no packet can be on its
    /// way through the rules that led to it (`Stale::GRACE`). Without effect while nothing is in
    /// force that we know of, or the table is to be ours and is not yet. [`Self::apply`] does the
    /// same by the way.
    ///
    /// # Errors
    /// The errors of [`Self::apply`]. The plan in force is unchanged.
    pub fn tidy(&mut self, now: Instant) -> Result<Applied, NftError> {
        let nothing = Applied { operations: 0, bytes: 0 };
        let may = self.owns || self.protection()? != Protection::Owned;
        let Some(plan) = self.in_force.clone().filter(|_| may) else { return Ok(nothing) };
        let tidy = |firewall: &mut Self| {
            let table = firewall.table.clone();
            let transition =
                Transition::tidy(table, &firewall.stale, now.duration_since(firewall.begin));
            firewall.carry_out(transition, &plan, None, OwnershipChange::OwnIfCreated)
        };
        match tidy(self) {
            // Somebody has been here before us.
            Err(NftError::Refused { .. }) if self.holds_what_we_think() => tidy(self),
            result => result,
        }
    }

    /// When there is something for [`Self::tidy`] to do; `None` while nothing is left of earlier
    /// plans.
    pub fn tidy_at(&self) -> Option<Instant> {
        Some(self.begin + self.stale.due_at()?)
    }

    /// Removes the table, whatever is in it, if it carries our mark. Returns whether there was one.
    /// Established connections through it are reset with their next packet.
    ///
    /// # Errors
    /// The errors of [`Self::apply`].
    pub fn remove(&mut self) -> Result<bool, NftError> {
        let removed = self.remove_table()?;
        (self.in_force, self.stale, self.owns) = (None, Stale::default(), false);
        self.keep_no_longer()?;
        Ok(removed)
    }

    pub(super) fn remove_table(&mut self) -> Result<bool, NftError> {
        let transaction = Transaction::remove(self.table.clone());
        self.unless_overtaken(|firewall, generation_id| {
            match firewall.read_ruleset() {
                Ok(None) => return Ok(Some(false)),
                Ok(Some(_)) => {}
                Err(error) if error.can_be_replaced() => {}
                Err(error) => return Err(error),
            }
            let mut batch = Batch::encode(&transaction, Some(generation_id));
            match firewall.send(&mut batch, &transaction)? {
                Outcome::Committed => Ok(Some(true)),
                Outcome::Refused(faults) if is_overtaken(&faults) => Ok(None),
                Outcome::Refused(faults) => Err(firewall.refused(faults)),
                Outcome::Unknown if firewall.read_ruleset()?.is_none() => Ok(Some(true)),
                Outcome::Unknown => {
                    Err(netlink_error(&firewall.table, "remove it", NetlinkError::RepliesLost))
                }
            }
        })
    }

    /// Carries out a transaction as it is, for tests of what the kernel says to it. What is in force
    /// counts as unknown then.
    ///
    /// # Errors
    /// The errors of [`Self::apply`].
    #[cfg(any(test, feature = "internals"))]
    pub fn carry_out_as_it_is(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        (self.in_force, self.stale) = (None, Stale::default());
        match self.send(&mut Batch::encode(transaction, None), transaction)? {
            Outcome::Committed => Ok(()),
            Outcome::Refused(faults) => Err(self.refused(faults)),
            Outcome::Unknown => {
                Err(netlink_error(&self.table, "change it", NetlinkError::RepliesLost))
            }
        }
    }

    /// Puts a plan in force whatever the table holds, if it is ours: all of it in one transaction, in
    /// which what was there goes. Established connections live on. So do the counters of seats, which
    /// begin with the values last read: what they count between that and the commit, some hundred
    /// microseconds, is lost, and if the table is gone all since they were read before.
    ///
    /// # Errors
    /// The errors of [`Self::apply`], and [`NftError::Overtaken`].
    pub fn restore(&mut self, plan: &Plan) -> Result<Applied, NftError> {
        if self.protection()? == Protection::Kept {
            self.keep_connections_of(plan)?;
        }
        self.unless_overtaken(|firewall, generation_id| {
            let transaction = match firewall.read_ruleset() {
                Ok(None) => Transaction::create(plan),
                Ok(Some(_)) => Transaction::replace(plan),
                Err(error) if error.can_be_replaced() => Transaction::replace(plan),
                Err(error) => return Err(error),
            };
            firewall.carry_out_at(
                generation_id,
                transaction.into(),
                plan,
                OwnershipChange::OwnIfCreated,
            )
        })
    }

    /// Puts a plan in force in a table that is not ours yet, and makes it ours: an orphan is taken
    /// and changed in one transaction. One that was made without an owner cannot get one later that
    /// it would outlive, so that it is replaced; established connections live on, since a nat base
    /// chain stands throughout.
    pub(super) fn take(&mut self, plan: &Plan) -> Result<Applied, NftError> {
        self.unless_overtaken(|firewall, generation_id| {
            let (transition, ownership) = match firewall.look()? {
                TableState::Absent => {
                    (Transaction::create(plan).into(), OwnershipChange::OwnIfCreated)
                }
                TableState::Foreign => return Err(firewall.foreign()),
                TableState::OtherSchema { found, .. } if !is_older_schema(found) => {
                    return Err(firewall.other_schema(found));
                }
                TableState::Ours { owner: TableOwner::Socket(owner), .. }
                | TableState::OtherSchema { owner: TableOwner::Socket(owner), .. }
                    if !firewall.owns =>
                {
                    return Err(firewall.owned_by_other(owner));
                }
                TableState::Ours { owner, contents: Ok(ruleset) } if owner != TableOwner::None => {
                    // What a plan is made of in the order of its own listeners can be compared.
                    match raise(&ruleset, Some(plan.listeners())) {
                        Ok(there) => {
                            let now = firewall.begin.elapsed();
                            let stale = stale_beside(&there, &ruleset, now);
                            let stale = stale.aged_as(&firewall.stale);
                            let transition = Transition::between(&there, &stale, plan, now)?;
                            let adds_base = transition.transaction.adds_base_chain();
                            if owner == TableOwner::Orphaned && adds_base {
                                // The kernel adds none to a table that changes its owner in the
                                // same transaction (`nf_tables_addchain`: EINVAL).
                                firewall.adopt()?;
                                return Ok(None);
                            }
                            (transition, OwnershipChange::Adopt)
                        }
                        Err(_) => {
                            (Transaction::replace(plan).into(), OwnershipChange::OwnIfCreated)
                        }
                    }
                }
                TableState::Ours { .. } | TableState::OtherSchema { .. } => {
                    (Transaction::replace(plan).into(), OwnershipChange::OwnIfCreated)
                }
            };
            firewall.carry_out_at(generation_id, transition, plan, ownership)
        })
    }

    /// A transaction on our table that does nothing.
    pub(super) fn nothing(&self) -> Transaction {
        Transaction { table: self.table.clone(), operations: vec![] }
    }

    /// Does what follows from reading the table, at the generation of the kernel's rules at which it
    /// was read; again, if somebody else's transaction came between (`None`).
    pub(super) fn unless_overtaken<T>(
        &mut self,
        mut work: impl FnMut(&mut Self, u32) -> Result<Option<T>, NftError>,
    ) -> Result<T, NftError> {
        for _ in 0..ATTEMPTS {
            let generation_id = self.generation_id()?;
            if let Some(result) = work(self, generation_id)? {
                return Ok(result);
            }
        }
        Err(NftError::Overtaken { table: self.table.clone(), attempts: ATTEMPTS })
    }

    /// Lets the counters of a transaction that makes the table anew go on from what they are.
    pub(super) fn seed(&mut self, transaction: &mut Transaction) {
        if !transaction.makes_table() {
            return;
        }
        // Without them the rules are worth no less.
        if let Err(error) = self.counter_values() {
            tracing::warn!(%error, "the counters in force cannot be read: connection counters may fall back to earlier values");
        }
        transaction.seed(&self.counter_values);
    }

    /// Carries out a transaction that ends in `plan` if nothing in the network namespace has changed
    /// since this generation id; else does nothing (`None`).
    pub(super) fn carry_out_at(
        &mut self,
        generation_id: u32,
        transition: Transition,
        plan: &Plan,
        ownership: OwnershipChange,
    ) -> Result<Option<Applied>, NftError> {
        match self.carry_out(transition, plan, Some(generation_id), ownership) {
            Err(NftError::Refused { faults, .. }) if is_overtaken(&faults) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Carries out a transaction that ends in `plan`; with a generation id only if nothing in the
    /// network namespace has changed since. A table that it makes is ours if it is to be.
    pub(super) fn carry_out(
        &mut self,
        transition: Transition,
        plan: &Plan,
        generation_id: Option<u32>,
        ownership: OwnershipChange,
    ) -> Result<Applied, NftError> {
        let Transition { mut transaction, stale } = transition;
        if transaction.is_empty() && ownership != OwnershipChange::Adopt {
            (self.in_force, self.stale) = (Some(plan.clone()), stale);
            return Ok(Applied { operations: 0, bytes: 0 });
        }
        self.seed(&mut transaction);
        let owned = self.protection == Some(Protection::Owned);
        let ownership = if owned { ownership } else { OwnershipChange::None };
        let mut batch = Batch::encode_as(&transaction, generation_id, ownership);
        let applied =
            Applied { operations: transaction.operations.len(), bytes: batch.datagram().len() };
        match self.send(&mut batch, &transaction)? {
            Outcome::Committed => self.owns = owned,
            Outcome::Refused(faults) => return Err(self.refused(faults)),
            Outcome::Unknown if self.holds(plan, &stale)? && self.owns == owned => {}
            Outcome::Unknown => {
                return Err(netlink_error(&self.table, "change it", NetlinkError::RepliesLost));
            }
        }
        while let Some(last) = self.counter_values.last_entry()
            && last.key().index() >= plan.seats().len()
        {
            last.remove();
        }
        (self.in_force, self.stale) = (Some(plan.clone()), stale);
        Ok(applied)
    }

    /// Has a batch carried out.
    pub(super) fn send(
        &mut self,
        batch: &mut Batch,
        transaction: &Transaction,
    ) -> Result<Outcome, NftError> {
        let outcome = self.nf_tables.transact(batch, transaction);
        outcome.map_err(|source| netlink_error(&self.table, "change it", source))
    }

    /// What it means that the kernel has refused something. `EPERM` is said both to those without
    /// the capability and to those who are not the owner: whose the table is tells which.
    pub(super) fn refused(&mut self, faults: Vec<Fault>) -> NftError {
        if !faults.iter().any(|fault| fault.errno == Errno::EPERM) {
            return NftError::Refused { table: self.table.clone(), faults };
        }
        match self.nf_tables.table_owner(self.table.as_str()) {
            Ok(Some(TableOwner::Socket(owner))) if self.nf_tables.port().ok() != Some(owner) => {
                self.owned_by_other(owner)
            }
            // Without the capability the kernel answers no question about tables either.
            Err(error) if error.errno() == Some(Errno::EPERM) => NftError::Privilege,
            // The owner has gone meanwhile, or a batch as a whole was refused.
            _ if faults.iter().any(|fault| fault.operation.is_none()) => NftError::Privilege,
            _ => NftError::Refused { table: self.table.clone(), faults },
        }
    }

    pub(super) fn owned_by_other(&self, owner: u32) -> NftError {
        NftError::OwnedByOther { table: self.table.clone(), owner }
    }
}

/// Whether a transaction was refused because another one came before it.
fn is_overtaken(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| fault.errno == Errno::ERESTART)
}
