//! What the replies to a batch say of it.

use super::batch::Batch;
use crate::netlink::{Acknowledgement, ERROR, Messages, NetlinkError};
use crate::nft::error::Fault;
use crate::ruleset::Transaction;

/// What the kernel answered to a batch.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::nft) enum Outcome {
    Committed,
    Refused(Vec<Fault>),
    /// Replies were lost.
    Unknown,
}

/// The replies to a batch: an error of any member, even behind an acknowledgement, means that
/// nothing was applied; else the acknowledgement of the end means that all was.
#[derive(Debug)]
pub(in crate::nft) struct Replies<'a> {
    batch: &'a Batch,
    transaction: &'a Transaction,
    faults: Vec<Fault>,
    ended: bool,
}

impl<'a> Replies<'a> {
    pub(in crate::nft) fn to(batch: &'a Batch, transaction: &'a Transaction) -> Self {
        Self { batch, transaction, faults: vec![], ended: false }
    }

    pub(in crate::nft) fn read(&mut self, datagram: &[u8]) -> Result<(), NetlinkError> {
        for message in Messages::new(datagram) {
            let message = message?;
            let Some(place) = self.batch.message_at(message.sequence) else { continue };
            if message.kind != ERROR {
                continue;
            }
            let Acknowledgement { error, offset, text, .. } = Acknowledgement::parse(&message)?;
            match error {
                Some(errno) => {
                    let operation = self.batch.operation_of(place);
                    let operation = operation.and_then(|at| self.transaction.operations.get(at));
                    // Who shows the place must not look beyond the message.
                    let length = self.batch.message_length(place);
                    let offset = offset.filter(|offset| (*offset as usize) < length);
                    self.faults.push(Fault { operation: operation.cloned(), errno, offset, text });
                }
                None => self.ended |= place == self.batch.end(),
            }
        }
        Ok(())
    }

    /// Whether nothing follows. The end is acknowledged only when the batch is committed, behind all
    /// else that there is to say (`nfnetlink_rcv_batch`, net/netfilter/nfnetlink.c).
    pub(in crate::nft) fn is_complete(&self) -> bool {
        self.ended
    }

    pub(in crate::nft) fn outcome(self) -> Outcome {
        match (self.faults.is_empty(), self.ended) {
            (false, _) => Outcome::Refused(self.faults),
            (true, true) => Outcome::Committed,
            (true, false) => Outcome::Unknown,
        }
    }
}
