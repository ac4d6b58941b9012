//! What the rules of a cluster need of the kernel: the seam between the logic of
//! [`Firewall`](super::Firewall) and netlink, at which the [`Fake`](super::Fake) takes its place.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use crate::netlink::{NetlinkError, Socket};
use crate::nft::wire::batch::Batch;
use crate::nft::wire::dump::{self, TableState};
use crate::nft::wire::replies::{Outcome, Replies};
use crate::nft::wire::table::TableOwner;
use crate::plan::Seat;
use crate::ruleset::{CounterValue, TableName, Transaction};

/// The nf_tables of a network namespace, through one socket of its own.
pub(in crate::nft) trait NfTables: Send + Sync {
    /// Has a batch carried out, all of it or nothing. The transaction is what it was encoded from.
    fn transact(
        &mut self,
        batch: &mut Batch,
        transaction: &Transaction,
    ) -> Result<Outcome, NetlinkError>;

    /// What there is under the name of a table of ours.
    fn read(&mut self, table: &TableName) -> Result<TableState, NetlinkError>;

    /// Whose a table of this name is; `None` if there is none.
    fn table_owner(&mut self, table: &str) -> Result<Option<TableOwner>, NetlinkError>;

    /// The number of the last transaction in the network namespace.
    fn generation_id(&mut self) -> Result<u32, NetlinkError>;

    /// What the counters of a table have counted.
    fn counter_values(
        &mut self,
        table: &TableName,
    ) -> Result<BTreeMap<Seat, CounterValue>, NetlinkError>;

    /// The netlink port of the socket, by which it owns tables.
    fn port(&self) -> Result<u32, NetlinkError>;

    /// The descriptor of the socket: who has a copy of it can go on as it.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// Over netlink, a batch has been worked on when it is sent: all replies that there will be are
/// there.
impl NfTables for Socket {
    fn transact(
        &mut self,
        batch: &mut Batch,
        transaction: &Transaction,
    ) -> Result<Outcome, NetlinkError> {
        let count = u32::try_from(batch.messages()).unwrap_or(u32::MAX);
        batch.number_from(self.take_sequences(count));
        self.reserve_send(batch.datagram().len())?;
        self.reserve_receive(batch.messages())?;
        self.send(batch.datagram())?;
        match collect(self, batch, transaction) {
            Err(NetlinkError::RepliesLost) => {
                self.discard_replies();
                Ok(Outcome::Unknown)
            }
            result => result,
        }
    }

    fn read(&mut self, table: &TableName) -> Result<TableState, NetlinkError> {
        dump::read(self, table)
    }

    fn table_owner(&mut self, table: &str) -> Result<Option<TableOwner>, NetlinkError> {
        dump::table_owner(self, table)
    }

    fn generation_id(&mut self) -> Result<u32, NetlinkError> {
        dump::generation_id(self)
    }

    fn counter_values(
        &mut self,
        table: &TableName,
    ) -> Result<BTreeMap<Seat, CounterValue>, NetlinkError> {
        dump::counter_values(self, table)
    }

    fn port(&self) -> Result<u32, NetlinkError> {
        Self::port(self)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        Self::as_fd(self)
    }
}

/// Reads the replies to a batch, up to the one that nothing follows.
fn collect(
    socket: &mut Socket,
    batch: &Batch,
    transaction: &Transaction,
) -> Result<Outcome, NetlinkError> {
    let mut replies = Replies::to(batch, transaction);
    while !replies.is_complete() {
        let Some(datagram) = socket.receive()? else { break };
        replies.read(datagram)?;
    }
    Ok(replies.outcome())
}
