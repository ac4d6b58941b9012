//! The kernel's table of one name, and the whole of a transaction.

use std::collections::BTreeMap;

use super::super::fake_table::{Refusal, Table};
use super::super::{Operation, Ruleset, TableName, Tally, Transaction};
use crate::plan::Seat;

/// The kernel's table of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    table: Option<Table>,
}

impl Kernel {
    /// A kernel that holds this ruleset, and has counted nothing yet.
    pub(super) fn holding(ruleset: &Ruleset) -> Self {
        Self { table: Some(Table::holding(ruleset)) }
    }

    pub(super) fn ruleset(&self, name: &TableName) -> Option<Ruleset> {
        Some(self.table.as_ref()?.ruleset(name))
    }

    /// A connection to the worker in each seat.
    pub(super) fn count(&mut self) {
        if let Some(table) = &mut self.table {
            for seat in table.tallies().into_keys() {
                table.count(seat, 60);
            }
        }
    }

    pub(super) fn tallies(&self) -> BTreeMap<Seat, Tally> {
        self.table.as_ref().map(Table::tallies).unwrap_or_default()
    }

    /// All or nothing; else the first operation at fault.
    pub(super) fn carry_out(
        &mut self,
        transaction: &Transaction,
    ) -> Result<(), (Operation, Refusal)> {
        let mut next = self.clone();
        for operation in &transaction.operations {
            next.step(operation).map_err(|refusal| (operation.clone(), refusal))?;
        }
        if let (Some(table), Some(last)) = (&next.table, transaction.operations.last())
            && table.has_loop()
        {
            return Err((last.clone(), Refusal::Loop));
        }
        *self = next;
        Ok(())
    }

    fn step(&mut self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::AddTable if self.table.is_some() => return Err(Refusal::Exists),
            Operation::AddTable => self.table = Some(Table::default()),
            Operation::DeleteTable => drop(self.table.take().ok_or(Refusal::Missing)?),
            other => self.table.as_mut().ok_or(Refusal::Missing)?.step(other)?,
        }
        Ok(())
    }
}
