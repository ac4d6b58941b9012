//! Talking to a master from the program that runs it.

use tokio::sync::broadcast::WeakSender;
use tokio::sync::mpsc;

use super::subscription::Subscription;
use crate::config::EndedBy;
use crate::control::ReceivedRequest;
use crate::plan::Share;
use crate::protocol::{
    Cleared, ClientAddress, Command, ConfigurationReport, Event, Explanation, OnTrial,
    OrphansEnded, Outcome, Refusal, Reloaded, Request, Restarted, RetireTarget, Retired,
    RolledBack, Scaled, Status, Stopped,
};

/// What the program that runs the master asks of its loop.
#[derive(Debug)]
pub(crate) enum Order {
    /// A request, which gets a reply.
    Request(ReceivedRequest),
    /// The assignment of the plan in force.
    #[cfg(feature = "http")]
    SlotTable(tokio::sync::oneshot::Sender<crate::protocol::SlotTable>),
    /// The end of the master alone.
    Leave,
    /// The end of the master, and what `on_exit` says of the workers.
    End(EndedBy),
}

/// A way to talk to a [`Master`](crate::master::Master) while it [runs](crate::master::Master::run). Cheap
/// to clone.
///
/// Each request is answered when it is carried out, or refused: see [`Refusal`]. A request goes on if the
/// future is dropped while it waits for the answer.
///
/// ```no_run
/// use ipcluster::master::{Handle, Refusal};
///
/// async fn deploy(handle: &Handle) -> Result<(), Refusal> {
///     match handle.reload().await {
///         Ok(reloaded) => println!("generation {} is in force", reloaded.generation),
///         // The old workers serve on.
///         Err(Refusal::Worker(failure)) => println!("not deployed: {failure}"),
///         Err(refusal) => return Err(refusal),
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    events: WeakSender<Event>,
}

impl Handle {
    pub(super) fn new(orders: mpsc::Sender<Order>, events: WeakSender<Event>) -> Self {
        Self { orders, events }
    }

    /// Starts a new generation of workers and, when all are ready, sends new connections to it.
    ///
    /// # Errors
    /// Why the old generation is still in force: most often [`Refusal::Worker`] or [`Refusal::Busy`].
    pub async fn reload(&self) -> Result<Reloaded, Refusal> {
        match self.ask(Command::Reload { share: None }).await? {
            Outcome::Reloaded(reloaded) => Ok(reloaded),
            other => Err(mismatch(other)),
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
            other => Err(mismatch(other)),
        }
    }

    /// Starts as many workers of the generation on trial as there are seats and, when all are ready,
    /// sends all new connections to them.
    ///
    /// # Errors
    /// Why it is on trial still, or [`Refusal::NoCanary`].
    pub async fn promote(&self) -> Result<Reloaded, Refusal> {
        match self.ask(Command::Promote).await? {
            Outcome::Reloaded(reloaded) => Ok(reloaded),
            other => Err(mismatch(other)),
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
            other => Err(mismatch(other)),
        }
    }

    /// Changes the number of workers, 1 to 1024, with the least movement of clients.
    ///
    /// # Errors
    /// Why the number is what it was.
    pub async fn scale(&self, workers: u16) -> Result<Scaled, Refusal> {
        match self.ask(Command::Scale { workers }).await? {
            Outcome::Scaled(scaled) => Ok(scaled),
            other => Err(mismatch(other)),
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
            other => Err(mismatch(other)),
        }
    }

    /// Replaces one live worker by another in its seat. When that is ready the old one retires.
    ///
    /// # Errors
    /// Why the old one still serves.
    pub async fn retire(&self, target: RetireTarget) -> Result<Retired, Refusal> {
        match self.ask(Command::Retire(target)).await? {
            Outcome::Retired(retired) => Ok(retired),
            other => Err(mismatch(other)),
        }
    }

    /// Ends all workers that are retired now, one after the other, without waiting for their
    /// connections.
    ///
    /// # Errors
    /// [`Refusal::Stopping`], or why the master has gone.
    pub async fn clear_retired(&self) -> Result<Cleared, Refusal> {
        match self.ask(Command::ClearRetired).await? {
            Outcome::Cleared(cleared) => Ok(cleared),
            other => Err(mismatch(other)),
        }
    }

    /// Ends everything: refuses new connections, lets the workers finish those that they have
    /// (unless `now`), ends them, removes the rules, and ends the master.
    ///
    /// # Errors
    /// Why the master has gone before that: [`Refusal::HandedOver`], [`Refusal::Ended`].
    pub async fn stop(&self, now: bool) -> Result<Stopped, Refusal> {
        match self.ask(Command::Stop { now }).await? {
            Outcome::Stopped(stopped) => Ok(stopped),
            other => Err(mismatch(other)),
        }
    }

    /// Asks the [orphans](Status::orphans) of the status to end, and kills those that do not.
    ///
    /// # Errors
    /// Why the master has gone.
    pub async fn end_orphans(&self) -> Result<OrphansEnded, Refusal> {
        match self.ask(Request::EndOrphans).await? {
            Outcome::OrphansEnded(ended) => Ok(ended),
            other => Err(mismatch(other)),
        }
    }

    /// The state of the cluster.
    ///
    /// # Errors
    /// Why the master has gone.
    pub async fn status(&self) -> Result<Status, Refusal> {
        match self.ask(Request::Status).await? {
            Outcome::Status(status) => Ok(*status),
            other => Err(mismatch(other)),
        }
    }

    /// The settings in force, and what a reload would change of them.
    ///
    /// # Errors
    /// Why the master has gone.
    pub async fn configuration(&self) -> Result<ConfigurationReport, Refusal> {
        match self.ask(Request::Configuration).await? {
            Outcome::Configuration(report) => Ok(*report),
            other => Err(mismatch(other)),
        }
    }

    /// Which worker gets the new connections of a client, or the one from this address and port, and why.
    ///
    /// # Errors
    /// [`Refusal::Unserved`], [`Refusal::ByConnection`], [`Refusal::AtRandom`], or why the master has gone.
    pub async fn explain(&self, client: impl Into<ClientAddress>) -> Result<Explanation, Refusal> {
        let ClientAddress { address, port } = client.into();
        match self.ask(Request::Explain { address, port }).await? {
            Outcome::Explained(explanation) => Ok(explanation),
            other => Err(mismatch(other)),
        }
    }

    /// Everything that happens from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription::to(&self.events)
    }

    /// Ends the master alone: workers and rules stay and serve on.
    pub async fn leave(&self) {
        // A master that is gone has left.
        let _ = self.orders.send(Order::Leave).await;
    }

    /// Ends the master, and the workers too if `on_exit` says so.
    pub(crate) async fn end(&self, by: EndedBy) {
        // A master that is gone has ended.
        let _ = self.orders.send(Order::End(by)).await;
    }

    async fn ask(&self, request: impl Into<Request>) -> Result<Outcome, Refusal> {
        let (request, replies) = ReceivedRequest::new(request);
        self.orders.send(Order::Request(request)).await.map_err(|_| Refusal::Ended)?;
        replies.outcome().await.unwrap_or(Err(Refusal::Ended))
    }
}

#[cfg(feature = "http")]
impl crate::http::StatusSource for Handle {
    type Events = Subscription;

    async fn status(&self) -> Result<Status, Refusal> {
        Self::status(self).await
    }

    async fn explain(&self, client: ClientAddress) -> Result<Explanation, Refusal> {
        Self::explain(self, client).await
    }

    async fn slot_table(&self) -> Result<crate::protocol::SlotTable, Refusal> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        self.orders.send(Order::SlotTable(sender)).await.map_err(|_| Refusal::Ended)?;
        answer.await.map_err(|_| Refusal::Ended)
    }

    fn events(&self) -> Subscription {
        self.subscribe()
    }
}

/// Without [`Event::Stats`]: who looks at the pages gets the status as often.
#[cfg(feature = "http")]
impl crate::http::EventSource for Subscription {
    async fn next(&mut self) -> Option<Vec<crate::protocol::EventRecord>> {
        loop {
            match Self::next(self).await? {
                Event::Stats(_) => {}
                event => return Some(super::events::records(&event)),
            }
        }
    }
}

fn mismatch(outcome: Outcome) -> Refusal {
    Refusal::Mismatch(Box::new(outcome))
}
