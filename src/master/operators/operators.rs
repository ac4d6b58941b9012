use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::event_log::EventLog;
use super::handle::{Handle, Order};
use super::replies::Replies;
use super::report;
use super::service_manager::ServiceNotifier;
use super::statuses::{ConnectionCounts, StatusCounts, StatusRequests};
use crate::control::{self, ControlError, ControlServer, Responder};
use crate::master::adoption::PendingReconfigure;
use crate::master::error::MasterError;
use crate::master::rules::Rules;
use crate::master::waiting::{Periodic, receive_bounded};
use crate::plan::{ClusterName, Generation};
use crate::process::ServiceManager;
use crate::protocol::{
    Command, CommandRequest, Event, Orphan, Outcome, Progress, Refusal, Status, Timestamp, WorkerId,
};
use crate::supervisor::{RequestId, Sockets, Supervisor};

/// Requests that wait for the loop before further ones wait for their turn.
const REQUEST_QUEUE: usize = 64;

/// Everybody who asks something of the master, or is told how it gets on: peers of the control socket,
/// the program that runs it, visitors of its HTTP pages, subscribers, and the service manager.
pub(crate) struct Operators {
    /// `None` without a control directory, and while it [serves](Self::serve).
    server: Option<ControlServer>,
    serving: Option<ServerTask>,
    #[cfg(feature = "http")]
    http: Option<crate::http::HttpServer>,
    /// Ends with this, and with it every connection.
    #[cfg(feature = "http")]
    pages: tokio::task::JoinSet<std::convert::Infallible>,
    /// Held, so that an empty queue is none that is closed.
    request_sender: Option<mpsc::Sender<control::ReceivedRequest>>,
    requests: mpsc::Receiver<control::ReceivedRequest>,
    order_sender: mpsc::Sender<Order>,
    orders: mpsc::Receiver<Order>,
    statuses: StatusRequests,
    replies: Replies,
    events: EventLog,
    service: ServiceNotifier,
    service_tick: Periodic,
}

type ServerTask = JoinHandle<Result<(), ControlError>>;

/// What the loop hears from operators beside requests over the control socket.
pub(crate) enum Wanted {
    /// Connections were counted for those who want the status.
    Status(StatusCounts),
    /// The program that runs the master wants something.
    Order(Order),
}

impl Operators {
    /// `workers_wanted` is how many workers the cluster is to have, `workers_configured` how many are
    /// configured.
    pub(crate) fn new(
        workers_wanted: usize,
        workers_configured: usize,
    ) -> Result<Self, MasterError> {
        let (request_sender, requests) = mpsc::channel(REQUEST_QUEUE);
        let (order_sender, orders) = mpsc::channel(REQUEST_QUEUE);
        let service = ServiceNotifier::new(None);
        Ok(Self {
            server: None,
            serving: None,
            #[cfg(feature = "http")]
            http: None,
            #[cfg(feature = "http")]
            pages: tokio::task::JoinSet::new(),
            request_sender: Some(request_sender),
            requests,
            order_sender,
            orders,
            statuses: StatusRequests::new()?,
            replies: Replies::new(workers_wanted, workers_configured),
            events: EventLog::new(),
            service_tick: Periodic::every(service.interval()),
            service,
        })
    }

    /// Lets peers in by this server of the control socket.
    #[must_use]
    pub(crate) fn with_control(self, server: Option<ControlServer>) -> Self {
        Self { server, ..self }
    }

    /// Lets visitors in by this HTTP server.
    #[cfg(feature = "http")]
    #[must_use]
    pub(crate) fn with_http(self, http: Option<crate::http::HttpServer>) -> Self {
        Self { http, ..self }
    }

    /// Tells this service manager how the cluster gets on.
    #[must_use]
    pub(crate) fn with_service_manager(self, manager: Option<ServiceManager>) -> Self {
        let service = ServiceNotifier::new(manager);
        Self { service_tick: Periodic::every(service.interval()), service, ..self }
    }

    /// Says whether what workers print comes to the same place as the log.
    #[must_use]
    pub(crate) fn beside_output(self, is_beside_output: bool) -> Self {
        Self { events: self.events.beside_output(is_beside_output), ..self }
    }

    /// Begins to serve peers and visitors, in the runtime of the caller.
    pub(crate) fn serve(&mut self) {
        if let (Some(server), Some(requests)) = (self.server.take(), &self.request_sender) {
            self.serving = Some(tokio::spawn(server.serve(requests.clone())));
        }
        #[cfg(feature = "http")]
        if let Some(server) = self.http.take() {
            self.pages.spawn(server.serve(self.handle()));
        }
    }

    /// A way to talk to the master.
    pub(crate) fn handle(&self) -> Handle {
        Handle::new(self.order_sender.clone(), self.events.sender())
    }

    /// Three things to wait for: requests over the control socket, what else operators want, and the
    /// time for [`Self::notify_service`].
    pub(crate) fn wait(
        &mut self,
    ) -> (
        impl Future<Output = control::ReceivedRequest>,
        impl Future<Output = Wanted>,
        impl Future<Output = ()>,
    ) {
        let Self { requests, orders, statuses, service, service_tick, .. } = self;
        let wanted = async move {
            tokio::select! {
                biased;
                counts = statuses.counted() => Wanted::Status(counts),
                order = receive_bounded(orders) => Wanted::Order(order),
            }
        };
        let needs_tick = service.needs_tick();
        let tick = async move {
            match needs_tick {
                true => service_tick.tick().await,
                false => std::future::pending().await,
            }
        };
        (receive_bounded(requests), wanted, tick)
    }

    // Requests that the supervisor decides.

    /// Takes note of a request. Returns what the supervisor is to call it.
    pub(crate) fn begin_request(
        &mut self,
        request: CommandRequest,
        responder: Responder,
    ) -> RequestId {
        let CommandRequest { command, .. } = request;
        let id = self.replies.begin(request, responder);
        if command == (Command::Reload { share: None }) {
            self.service.reload_began(id);
        }
        id
    }

    /// Takes note that the configuration is to be put in force, since it is another than that of the
    /// earlier master. What comes of it is logged.
    pub(in crate::master) fn begin_reconfigure(&mut self, wanted: PendingReconfigure) -> RequestId {
        let id = self.replies.begin_reconfigure(wanted);
        if wanted.renew.is_some() {
            self.service.reload_began(id);
        }
        id
    }

    /// Why the reload failed that the master was started with, if none has succeeded since.
    pub(crate) fn take_failed_reload(&mut self) -> Option<Refusal> {
        self.replies.take_failed_reload()
    }

    /// The cluster is to have so many workers, if this request is carried out.
    pub(crate) fn want_workers(&mut self, request: RequestId, workers: usize) {
        self.replies.want_workers(request, workers);
    }

    /// Tells how far a request has come.
    pub(crate) fn progress(&mut self, request: RequestId, step: &Progress) {
        self.replies.progress(request, step);
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, request: RequestId, outcome: Result<Outcome, Refusal>) {
        let failure = outcome.as_ref().err().map(ToString::to_string);
        self.service.answered(request, failure.as_deref());
        self.replies.finish(request, outcome);
    }

    /// How many workers the cluster is to have.
    pub(crate) fn workers_wanted(&self) -> usize {
        self.replies.workers_wanted()
    }

    // The status.

    /// Somebody asks for the status.
    pub(crate) fn ask_status(&mut self, responder: Responder) {
        self.statuses.add(responder);
    }

    /// The master itself wants connections to be counted.
    pub(crate) fn want_count(&mut self) {
        self.statuses.want();
    }

    /// Whether it is time to [count](Self::count) connections for those who have asked.
    pub(crate) fn is_count_due(&self) -> bool {
        self.statuses.is_due()
    }

    /// Has connections counted for those who have asked, and the processor time of the workers with these
    /// first processes looked up.
    pub(crate) fn count(
        &mut self,
        leaders: Vec<u32>,
        job: impl FnOnce() -> ConnectionCounts + Send + 'static,
    ) {
        self.statuses.count(leaders, job);
    }

    /// The state of the cluster, with these connections of its workers.
    pub(crate) fn status(
        &self,
        counts: &BTreeMap<WorkerId, Sockets>,
        supervisor: &Supervisor,
        rules: &mut Rules,
        orphans: Vec<Orphan>,
        now: Timestamp,
    ) -> Status {
        let counters = rules.counters();
        let (usage, foreign) = (rules.conntrack_usage(), rules.foreign_chains());
        let metrics = self.events.metrics();
        let mut status =
            report::status(supervisor, counts, &counters, usage, metrics, foreign, now);
        status.orphans = orphans;
        status.serving = rules.serving();
        status.connections = rules.counts().counts();
        status.findings = rules.findings(usage);
        status
    }

    /// Answers those for whom connections were counted.
    pub(crate) fn answer_status(&mut self, status: &Status) {
        for responder in self.statuses.take_served() {
            responder.finish(Ok(Outcome::Status(Box::new(status.clone()))));
        }
    }

    // What happens.

    /// Tells a peer of the control socket what happens from now on.
    pub(crate) fn add_subscriber(
        &self,
        name: &ClusterName,
        generation: Generation,
        responder: Responder,
    ) {
        self.events.add(name, generation, responder);
    }

    /// Whether anybody is subscribed.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.events.has_subscribers()
    }

    /// Tells of something that happened, in the log and to all who are subscribed.
    pub(crate) fn announce(&mut self, event: Event) {
        self.events.announce(event);
    }

    // The service manager.

    /// Tells the service manager that the loop runs.
    pub(crate) fn notify_service(&mut self) {
        self.service.tick();
    }

    /// Tells the service manager how the cluster is, as far as that is news.
    pub(crate) fn observe(&mut self, supervisor: &Supervisor) {
        self.service.observe(supervisor);
    }

    /// The service, to be handed over.
    pub(crate) fn service(&self) -> &ServiceNotifier {
        &self.service
    }

    // The end.

    /// The master leaves, and the workers stay.
    pub(crate) fn announce_leaving(&mut self) {
        self.service.leaving();
    }

    /// Ends the server of the control socket at once. Peers that wait for an answer see the connection
    /// end.
    pub(crate) async fn abort(&mut self) {
        if let Some(server) = self.serving.take() {
            server.abort();
            let _ = server.await;
        }
    }

    /// The process with this pid is the master from now on: who waits for an answer is told. Returns
    /// the server of the control socket, which ends when this is dropped.
    pub(crate) fn hand_over(&mut self, pid: u32) -> Option<ServerTask> {
        self.service.hand_over(pid);
        let unheard = std::iter::from_fn(|| self.requests.try_recv().ok());
        let unheard: Vec<Responder> = unheard.map(|request| request.responder).collect();
        for responder in self.take_responders().chain(unheard) {
            responder.finish(Err(Refusal::HandedOver));
        }
        self.serving.take()
    }

    /// The cluster is stopped: who waits for an answer is told.
    pub(crate) fn refuse_all(&mut self) {
        for responder in self.take_responders() {
            responder.finish(Err(Refusal::Stopped));
        }
    }

    /// Tells subscribers that nothing follows.
    pub(crate) fn end_events(&mut self) {
        self.events.end();
    }

    /// Lets the server of the control socket pass on the last answers, and ends it.
    pub(crate) async fn close(&mut self) {
        // Requests that are queued are dropped, and so refused.
        drop(std::mem::replace(&mut self.requests, mpsc::channel(1).1));
        self.request_sender = None;
        let Some(server) = self.serving.take() else { return };
        match server.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the control socket failed"),
            Err(error) => tracing::error!(%error, "the control socket's task failed"),
        }
    }

    /// Takes out the responders that still wait: this master will not answer them.
    fn take_responders(&mut self) -> impl Iterator<Item = Responder> + use<> {
        self.replies.take_all().chain(self.statuses.take_all())
    }
}
