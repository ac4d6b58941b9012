//! Talking to a master from the program that runs it.

use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::control::ReceivedRequest;
use crate::plan::Share;
use crate::protocol::{
    Cleared, Command, Explanation, Failure, OnTrial, Outcome, Reloaded, Request, Restarted,
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
    pub async fn reload(&self) -> Result<Reloaded, Failure> {
        match self.ask(Command::Reload { share: None }).await? {
            Outcome::Reloaded(reloaded) => Ok(reloaded),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a new generation of workers for a part of the clients, and when they are ready sends the
    /// new connections of those to it. [`Self::promote`] or [`Self::roll_back`] ends that.
    ///
    /// # Errors
    /// Why all clients get what they got before.
    pub async fn reload_share(&self, share: Share) -> Result<OnTrial, Failure> {
        match self.ask(Command::Reload { share: Some(share) }).await? {
            Outcome::OnTrial(trial) => Ok(trial),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts as many workers of the generation on trial as there are seats and, when all are ready,
    /// sends all new connections to them.
    ///
    /// # Errors
    /// Why it is on trial still, or that there is none.
    pub async fn promote(&self) -> Result<Reloaded, Failure> {
        match self.ask(Command::Promote).await? {
            Outcome::Reloaded(reloaded) => Ok(reloaded),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the trial of a generation; or, where there is none, sends new connections back to the
    /// workers that served before the last reload, if all of them still run and listen.
    ///
    /// # Errors
    /// Why everything stays as it is.
    pub async fn roll_back(&self) -> Result<RolledBack, Failure> {
        match self.ask(Command::Rollback).await? {
            Outcome::RolledBack(rolled_back) => Ok(rolled_back),
            other => Err(unexpected(&other)),
        }
    }

    /// Changes the number of workers, 1 to 1024, with the least movement of clients.
    ///
    /// # Errors
    /// Why the number is what it was.
    pub async fn scale(&self, workers: u16) -> Result<Scaled, Failure> {
        match self.ask(Command::Scale { workers }).await? {
            Outcome::Scaled(scaled) => Ok(scaled),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a new generation of workers, sends new connections to it when all are ready, and then
    /// ends all retired workers, one after the other, without waiting for their connections.
    ///
    /// # Errors
    /// Why the old generation is still in force, or why not all retired workers were ended.
    pub async fn restart(&self) -> Result<Restarted, Failure> {
        match self.ask(Command::Restart).await? {
            Outcome::Restarted(restarted) => Ok(restarted),
            other => Err(unexpected(&other)),
        }
    }

    /// Replaces one live worker by another in its seat. When that is ready the old one retires.
    ///
    /// # Errors
    /// Why the old one still serves.
    pub async fn retire(&self, target: RetireTarget) -> Result<Retired, Failure> {
        match self.ask(Command::Retire(target)).await? {
            Outcome::Retired(retired) => Ok(retired),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends all workers that are retired now, one after the other, without waiting for their
    /// connections.
    ///
    /// # Errors
    /// The cluster is being stopped.
    pub async fn clear_retired(&self) -> Result<Cleared, Failure> {
        match self.ask(Command::ClearRetired).await? {
            Outcome::Cleared(cleared) => Ok(cleared),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends everything: refuses new connections, lets the workers finish those that they have
    /// (unless `now`), ends them, removes the rules, and ends the master.
    ///
    /// # Errors
    /// Why not everything could be ended.
    pub async fn stop(&self, now: bool) -> Result<(), Failure> {
        self.ask(Command::Stop { now }).await.map(|_| ())
    }

    /// Ends the orphans of the status. Returns how many there were.
    ///
    /// # Errors
    /// The master is ending.
    pub async fn end_orphans(&self) -> Result<u32, Failure> {
        match self.ask(Request::EndOrphans).await? {
            Outcome::OrphansEnded(ended) => Ok(ended.processes),
            other => Err(unexpected(&other)),
        }
    }

    /// The state of the cluster.
    ///
    /// # Errors
    /// The master is ending.
    pub async fn status(&self) -> Result<Status, Failure> {
        match self.ask(Request::Status).await? {
            Outcome::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Which worker gets the new connections of a client, and why.
    ///
    /// # Errors
    /// No worker is live, or the master is ending.
    pub async fn explain(&self, address: IpAddr) -> Result<Explanation, Failure> {
        match self.ask(Request::Explain { address }).await? {
            Outcome::Explained(explanation) => Ok(explanation),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the master alone: workers and rules stay and serve on.
    pub async fn leave(&self) {
        // A master that is gone has left.
        let _ = self.orders.send(Order::Leave).await;
    }

    async fn ask(&self, request: impl Into<Request>) -> Result<Outcome, Failure> {
        let (request, replies) = ReceivedRequest::new(request);
        let ended = || Failure::new("the master has ended");
        self.orders.send(Order::Request(request)).await.map_err(|_| ended())?;
        replies.outcome().await.unwrap_or_else(|| Err(ended()))
    }
}

#[cfg(feature = "http")]
impl crate::http::StatusSource for Handle {
    async fn status(&self) -> Result<Status, Failure> {
        Self::status(self).await
    }
}

fn unexpected(answer: &Outcome) -> Failure {
    Failure::new(format!("the master answered something else: {answer:?}"))
}
