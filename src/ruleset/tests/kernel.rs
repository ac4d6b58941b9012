//! The kernel's table of one name, and the whole of a transaction.

use std::collections::BTreeMap;

use super::super::fake_table::{FakeTable, TableError};
use super::super::{CounterValue, Operation, Ruleset, TableName, Transaction};
use crate::plan::Seat;

/// The kernel's table of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    table: Option<FakeTable>,
}

impl Kernel {
    /// A kernel that holds this ruleset, and has counted nothing yet.
    pub(super) fn holding(ruleset: &Ruleset) -> Self {
        Self { table: Some(FakeTable::holding(ruleset)) }
    }

    pub(super) fn ruleset(&self, name: &TableName) -> Option<Ruleset> {
        Some(self.table.as_ref()?.ruleset(name))
    }

    /// A connection to the worker in each seat.
    pub(super) fn count(&mut self) {
        if let Some(table) = &mut self.table {
            for seat in table.counter_values().into_keys() {
                table.count(seat, 60);
            }
        }
    }

    pub(super) fn counter_values(&self) -> BTreeMap<Seat, CounterValue> {
        self.table.as_ref().map(FakeTable::counter_values).unwrap_or_default()
    }

    /// All or nothing; else the first operation at fault.
    pub(super) fn carry_out(
        &mut self,
        transaction: &Transaction,
    ) -> Result<(), (Operation, TableError)> {
        let mut next = self.clone();
        for operation in &transaction.operations {
            next.step(operation).map_err(|refusal| (operation.clone(), refusal))?;
        }
        if let (Some(table), Some(last)) = (&next.table, transaction.operations.last())
            && table.has_loop()
        {
            return Err((last.clone(), TableError::Loop));
        }
        *self = next;
        Ok(())
    }

    fn step(&mut self, operation: &Operation) -> Result<(), TableError> {
        match operation {
            Operation::AddTable if self.table.is_some() => return Err(TableError::Exists),
            Operation::AddTable => self.table = Some(FakeTable::default()),
            Operation::DeleteTable => drop(self.table.take().ok_or(TableError::Missing)?),
            other => self.table.as_mut().ok_or(TableError::Missing)?.step(other)?,
        }
        Ok(())
    }
}
