//! Talking to a master from the program that runs it.

use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::control::ReceivedRequest;
use crate::plan::Share;
use crate::protocol::{
    Cleared, Command, Explanation, OnTrial, Outcome, Refusal, Reloaded, Request, Restarted,
    RetireTarget, Retired, RolledBack, Scaled, Status,
};

/// What somebody wants of the loop.
pub(crate) enum Order {
    /// Something that gets an answer.
    Request(ReceivedRequest),
    /// The end of the master, and of nothing else.
    Leave,
}

/// A way to talk to a running [`Master`](crate::master::Master). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) orders: mpsc::Sender<Order>,
}

impl Handle {
    /// Starts a new generation of workers and, when all are ready, sends new connections to it.
    ///
    /// # Errors
    /// Why the old generation is still in force.
    pub async fn reload(&self) -> Result<Reloaded, Refusal> {
        match self.ask(Command::Reload { share: None }).await? {
            Outcome::Reloaded(reloaded) => Ok(reloaded),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Starts a new generation of workers for a part of the clients, and when they are ready sends the
    /// new connections of those to it. [`Self::promote`] or [`Self::roll_back`] ends that.
    ///
    /// # Errors
    /// Why all clients get what they got before.
    pub async fn reload_share(&self, share: Share) -> Result<OnTrial, Refusal> {
        match self.ask(Command::Reload { share: Some(share) }).await? {
            Outcome::OnTrial(trial) => Ok(trial),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Starts as many workers of the generation on trial as there are seats and, when all are ready,
    /// sends all new connections to them.
    ///
    /// # Errors
    /// Why it is on trial still, or that there is none.
    pub async fn promote(&self) -> Result<Reloaded, Refusal> {
        match self.ask(Command::Promote).await? {
            Outcome::Reloaded(reloaded) => Ok(reloaded),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Ends the trial of a generation; or, where there is none, sends new connections back to the
    /// workers that served before the last reload, if all of them still run and listen.
    ///
    /// # Errors
    /// Why everything stays as it is.
    pub async fn roll_back(&self) -> Result<RolledBack, Refusal> {
        match self.ask(Command::Rollback).await? {
            Outcome::RolledBack(rolled_back) => Ok(rolled_back),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Changes the number of workers, 1 to 1024, with the least movement of clients.
    ///
    /// # Errors
    /// Why the number is what it was.
    pub async fn scale(&self, workers: u16) -> Result<Scaled, Refusal> {
        match self.ask(Command::Scale { workers }).await? {
            Outcome::Scaled(scaled) => Ok(scaled),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Starts a new generation of workers, sends new connections to it when all are ready, and then
    /// ends all retired workers, one after the other, without waiting for their connections.
    ///
    /// # Errors
    /// Why the old generation is still in force, or why not all retired workers were ended.
    pub async fn restart(&self) -> Result<Restarted, Refusal> {
        match self.ask(Command::Restart).await? {
            Outcome::Restarted(restarted) => Ok(restarted),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Replaces one live worker by another in its seat. When that is ready the old one retires.
    ///
    /// # Errors
    /// Why the old one still serves.
    pub async fn retire(&self, target: RetireTarget) -> Result<Retired, Refusal> {
        match self.ask(Command::Retire(target)).await? {
            Outcome::Retired(retired) => Ok(retired),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Ends all workers that are retired now, one after the other, without waiting for their
    /// connections.
    ///
    /// # Errors
    /// The cluster is being stopped.
    pub async fn clear_retired(&self) -> Result<Cleared, Refusal> {
        match self.ask(Command::ClearRetired).await? {
            Outcome::Cleared(cleared) => Ok(cleared),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Ends everything: refuses new connections, lets the workers finish those that they have
    /// (unless `now`), ends them, removes the rules, and ends the master.
    ///
    /// # Errors
    /// Why not everything could be ended.
    pub async fn stop(&self, now: bool) -> Result<(), Refusal> {
        self.ask(Command::Stop { now }).await.map(|_| ())
    }

    /// Ends the orphans of the status. Returns how many there were.
    ///
    /// # Errors
    /// The master is ending.
    pub async fn end_orphans(&self) -> Result<u32, Refusal> {
        match self.ask(Request::EndOrphans).await? {
            Outcome::OrphansEnded(ended) => Ok(ended.processes),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// The state of the cluster.
    ///
    /// # Errors
    /// The master is ending.
    pub async fn status(&self) -> Result<Status, Refusal> {
        match self.ask(Request::Status).await? {
            Outcome::Status(status) => Ok(*status),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Which worker gets the new connections of a client, and why.
    ///
    /// # Errors
    /// No worker is live, or the master is ending.
    pub async fn explain(&self, address: IpAddr) -> Result<Explanation, Refusal> {
        match self.ask(Request::Explain { address }).await? {
            Outcome::Explained(explanation) => Ok(explanation),
            other => Err(Refusal::Mismatch(Box::new(other))),
        }
    }

    /// Ends the master alone: workers and rules stay and serve on.
    pub async fn leave(&self) {
        // A master that is gone has left.
        let _ = self.orders.send(Order::Leave).await;
    }

    async fn ask(&self, request: impl Into<Request>) -> Result<Outcome, Refusal> {
        let (request, replies) = ReceivedRequest::new(request);
        self.orders.send(Order::Request(request)).await.map_err(|_| Refusal::Ended)?;
        replies.outcome().await.unwrap_or(Err(Refusal::Ended))
    }
}

#[cfg(feature = "http")]
impl crate::http::StatusSource for Handle {
    async fn status(&self) -> Result<Status, Refusal> {
        Self::status(self).await
    }
}
