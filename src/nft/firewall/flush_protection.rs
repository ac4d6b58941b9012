//! The table beside ours that keeps translated connections alive while ours is gone: see
//! [`flush_table`](super::flush_table).

use super::flush_table;
use super::{Firewall, netlink_error};
use crate::netlink::NetlinkError;
use crate::nft::error::NftError;
use crate::nft::wire::batch::Batch;
use crate::nft::wire::replies::Outcome;
use crate::nft::wire::table::TableOwner;
use crate::plan::{Engine, Plan};
use crate::ruleset::TableName;

impl Firewall {
    /// Keeps connections alive that would not outlive our table: where nothing is translated they
    /// belong to their sockets, and nothing is to be tracked.
    pub(super) fn keep_connections_of(&mut self, plan: &Plan) -> Result<(), NftError> {
        match plan.engine() {
            Engine::Redirect => self.keep_connections(),
            Engine::Tproxy => Ok(()),
        }
    }

    /// Makes the table that keeps established connections alive while ours is gone, unless it is
    /// there.
    pub(super) fn keep_connections(&mut self) -> Result<(), NftError> {
        if self.keeps {
            return Ok(());
        }
        let failed =
            |table: &TableName, source| netlink_error(table, "keep its connections", source);
        let keeper = flush_table::name(&self.table);
        let owner = self.nf_tables.table_owner(&keeper);
        let owner = owner.map_err(|source| failed(&self.table, source))?;
        let port_id = self.nf_tables.port().map_err(|source| failed(&self.table, source))?;
        match owner {
            Some(TableOwner::Socket(owner)) if owner == port_id => {}
            Some(TableOwner::Socket(owner)) => return Err(self.owned_by_other(owner)),
            other => {
                let mut batch = Batch::of(&flush_table::make(&self.table, other.is_some()));
                match self.send(&mut batch, &self.nothing())? {
                    Outcome::Committed => {}
                    Outcome::Refused(faults) => return Err(self.refused(faults)),
                    Outcome::Unknown => return Err(failed(&self.table, NetlinkError::RepliesLost)),
                }
            }
        }
        self.keeps = true;
        Ok(())
    }

    /// Removes the table that keeps established connections alive, if it is ours.
    pub(super) fn keep_no_longer(&mut self) -> Result<(), NftError> {
        if !std::mem::take(&mut self.keeps) {
            return Ok(());
        }
        match self.send(&mut Batch::of(&flush_table::remove(&self.table)), &self.nothing())? {
            Outcome::Committed => Ok(()),
            Outcome::Refused(faults) => Err(self.refused(faults)),
            Outcome::Unknown => Err(netlink_error(
                &self.table,
                "let go of its connections",
                NetlinkError::RepliesLost,
            )),
        }
    }
}
