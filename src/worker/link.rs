//! The connection with the master.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::notify::Notifier;
use super::order::Orders;
use super::{Order, OrderSignal, Worker};
use crate::line_protocol::{FromWorker, LineDecoder, ToWorker, WorkerInfo, WorkerOrder};
use crate::plan::{Port, Seat};

/// From one sign of life to the next, as in the older system.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// From the end of a connection to the next try.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// How long a master may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How busy a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// How late it does what it is to do now; zero where that is not measured.
    pub lag: Duration,
    /// It finds itself too busy: the master may replace it.
    pub too_busy: bool,
}

/// The connection with the master, kept up by a task of its own until this is dropped: keep it for as
/// long as the worker runs. A worker that has joined, and says nothing any more, counts as hanging
/// after the time `timeouts.ping` of the cluster.
#[derive(Debug)]
pub struct Link {
    orders: watch::Receiver<Orders>,
    /// Those that [`Self::next_order`] has returned.
    taken: Orders,
    load: watch::Sender<Load>,
    requests: mpsc::Sender<String>,
    tasks: [JoinHandle<()>; 2],
}

impl Worker {
    /// Joins the cluster, and says that this process is ready: on the ports that it was given, so
    /// that it has to listen there already.
    ///
    /// From here on SIGTERM is [`Order::Die`], and does not end the process by itself. Under a master
    /// without a control directory this is the only order that comes.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub fn join(&self) -> Link {
        self.join_on(self.ports().clone())
    }

    /// As [`Self::join`], on other ports: public port -> the port that this process listens on. A
    /// master takes them where workers pick their ports themselves (`ready = "protocol"`).
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub fn join_on(&self, ports: BTreeMap<Port, Port>) -> Link {
        let (given, orders) = watch::channel(Orders::default());
        let (load, loads) = watch::channel(Load::default());
        let (requests, asked) = mpsc::channel(1);
        let orderly = Arc::new(Orderly { given, notify: self.notify.clone() });
        let session = Session {
            seat: self.seat(),
            ports,
            orderly: Arc::clone(&orderly),
            loads,
            asked,
            is_retired: false,
            last_id: 0,
        };
        let socket = self.socket().map(PathBuf::from);
        let tasks = [tokio::spawn(session.keep_up(socket)), tokio::spawn(obey_sigterm(orderly))];
        Link { orders, taken: Orders::default(), load, requests, tasks }
    }
}

impl Link {
    /// Completes when the master wants this worker to finish: no new connections are for it any
    /// more. Also when it is to end without having been retired before.
    pub fn retired(&self) -> OrderSignal {
        OrderSignal::new(Order::Retire, self.orders.clone())
    }

    /// Completes when this process is to end: at [`Order::Die`], or at SIGTERM.
    pub fn shutdown(&self) -> OrderSignal {
        OrderSignal::new(Order::Die, self.orders.clone())
    }

    /// Waits for what the master wants next. Can be given up and called again at any time.
    pub async fn next_order(&mut self) -> Order {
        loop {
            let given = *self.orders.borrow_and_update();
            if let Some(order) = self.taken.take(given) {
                return order;
            }
            if self.orders.changed().await.is_err() {
                // The tasks have ended, with the runtime.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Says how busy this worker is; the next ping tells. It holds until it is said again.
    pub fn report(&self, load: Load) {
        // The task has ended, with the runtime.
        let _ = self.load.send(load);
    }

    /// Asks for another worker in this one's place, for a reason that the master logs. When that is
    /// there, [`Order::Retire`] comes.
    pub fn ask_to_retire(&self, reason: &str) {
        // One such request is under way already, or the runtime has ended.
        let _ = self.requests.try_send(reason.to_owned());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Passes on orders, whichever way they come.
struct Orderly {
    given: watch::Sender<Orders>,
    notify: Option<Notifier>,
}

impl Orderly {
    fn give(&self, order: Order) {
        if order == Order::Die {
            self.say("STOPPING=1");
        }
        self.given.send_modify(|given| given.add(order));
    }

    fn say(&self, text: &str) {
        if let Some(notify) = &self.notify {
            notify.say(text);
        }
    }
}

/// A master that does not reach the worker otherwise signals it, as does a person.
async fn obey_sigterm(orderly: Arc<Orderly>) {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "cannot handle SIGTERM: it ends this worker at once");
            return;
        }
    };
    while terminate.recv().await.is_some() {
        orderly.give(Order::Die);
    }
}

/// What the connection's task has.
struct Session {
    seat: Seat,
    ports: BTreeMap<Port, Port>,
    orderly: Arc<Orderly>,
    loads: watch::Receiver<Load>,
    asked: mpsc::Receiver<String>,
    is_retired: bool,
    last_id: u64,
}

/// What comes next on a connection.
enum Next {
    Message(ToWorker),
    /// The worker asks for its retirement.
    Request(String),
    PingIsDue,
}

impl Session {
    /// Connects again and again.
    async fn keep_up(mut self, socket: Option<PathBuf>) {
        self.orderly.say("READY=1");
        let Some(socket) = socket else { return self.say_alive().await };
        loop {
            if let Err(error) = self.connect(&socket).await {
                tracing::debug!(%error, socket = %socket.display(), "cannot join the master");
            }
            sleep(RECONNECT_INTERVAL).await;
        }
    }

    /// Without a connection there is a watchdog at most.
    async fn say_alive(self) {
        loop {
            self.orderly.say("WATCHDOG=1");
            sleep(PING_INTERVAL).await;
        }
    }

    /// Joins, and does what the master says until the connection ends.
    async fn connect(&mut self, socket: &Path) -> io::Result<()> {
        let mut line = Line::new(UnixStream::connect(socket).await?);
        let join = self.next_id();
        let answer_by = Instant::now() + ANSWER;
        let mut has_joined = false;
        line.send(&FromWorker::Info { id: join, info: self.info() }).await?;
        let mut ping_at = Instant::now();
        loop {
            match self.next(&mut line, has_joined, ping_at).await? {
                Next::Message(ToWorker::Response { id, refusal }) => {
                    if let Some(reason) = refusal {
                        tracing::warn!(reason, "the master has refused a message");
                    }
                    has_joined |= id == join;
                }
                Next::Message(ToWorker::Command { id, order, .. }) => {
                    line.send(&FromWorker::Response { id, ok: true }).await?;
                    self.obey(order);
                }
                Next::Request(reason) => {
                    let id = self.next_id();
                    line.send(&FromWorker::AskRetire { id, reason, details: None }).await?;
                }
                Next::PingIsDue => {
                    ping_at = Instant::now() + PING_INTERVAL;
                    self.orderly.say("WATCHDOG=1");
                    match has_joined {
                        true => line.send(&FromWorker::Ping(self.info())).await?,
                        false if Instant::now() < answer_by => {}
                        false => return Err(io::ErrorKind::TimedOut.into()),
                    }
                }
            }
        }
    }

    async fn next(
        &mut self,
        line: &mut Line,
        has_joined: bool,
        ping_at: Instant,
    ) -> io::Result<Next> {
        if ping_at <= Instant::now() {
            return Ok(Next::PingIsDue);
        }
        let own = async {
            if has_joined && let Ok(Some(reason)) = timeout_at(ping_at, self.asked.recv()).await {
                return Next::Request(reason);
            }
            sleep_until(ping_at).await;
            Next::PingIsDue
        };
        let heard = async { Ok(Next::Message(line.receive().await?)) };
        first_of(heard, async { Ok(own.await) }).await
    }

    fn obey(&mut self, order: WorkerOrder) {
        match order {
            WorkerOrder::Info => {}
            WorkerOrder::Retire => {
                self.is_retired = true;
                self.orderly.give(Order::Retire);
            }
            WorkerOrder::Die => self.orderly.give(Order::Die),
        }
    }

    fn info(&self) -> WorkerInfo {
        let load = *self.loads.borrow();
        WorkerInfo {
            pid: std::process::id(),
            ports: self.ports.clone(),
            seat: self.seat,
            too_busy: load.too_busy,
            lag: load.lag,
            is_retired: self.is_retired,
            app: None,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

/// What the first of two futures gives that is ready; the other one is given up. `tokio::select!` would
/// cost every worker a crate of procedural macros.
async fn first_of<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    std::future::poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(value),
        Poll::Pending => other.as_mut().poll(context),
    })
    .await
}

/// Messages over a socket.
struct Line {
    stream: UnixStream,
    decoder: LineDecoder,
}

impl Line {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: LineDecoder::default() }
    }

    async fn send(&mut self, message: &FromWorker) -> io::Result<()> {
        let line = message.emit() + "\n";
        let sent = timeout(ANSWER, self.stream.write_all(line.as_bytes())).await;
        sent.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next message. Can be given up and called again at any time.
    async fn receive(&mut self) -> io::Result<ToWorker> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut bytes = [0; 1024];
        loop {
            if let Some(line) = self.decoder.line().map_err(invalid)? {
                return ToWorker::parse(&line).map_err(invalid);
            }
            match self.stream.read(&mut bytes).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.decoder.feed(&bytes[..count]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader, Lines};
    use tokio::net::UnixListener;
    use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

    use super::*;

    /// A master's end, and a worker that has connected to it.
    struct World {
        listener: UnixListener,
        link: Link,
        _base: tempfile::TempDir,
    }

    struct Seen {
        input: Lines<BufReader<OwnedReadHalf>>,
        output: OwnedWriteHalf,
    }

    impl World {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            let socket = base.path().join("s");
            let listener = UnixListener::bind(&socket).unwrap();
            let variables = [
                ("PORT", "20004"),
                ("IPCLUSTER_PORT_80", "20004"),
                ("IPCLUSTER_SEAT", "2"),
                ("IPCLUSTER_WORKERS", "4"),
                ("IPCLUSTER_GENERATION", "7"),
                ("IPCLUSTER_NAME", "web"),
                ("IPCLUSTER_SOCKET", socket.to_str().unwrap()),
            ];
            let variables = variables.map(|(name, value)| (name.into(), value.into()));
            let link = Worker::from_variables(variables).unwrap().join();
            Self { listener, link, _base: base }
        }

        async fn accept(&self) -> Seen {
            let (input, output) = self.listener.accept().await.unwrap().0.into_split();
            Seen { input: BufReader::new(input).lines(), output }
        }

        /// A connection that has joined.
        async fn joined(&self) -> (Seen, WorkerInfo) {
            let mut seen = self.accept().await;
            let FromWorker::Info { id, info } = seen.next().await else { panic!() };
            seen.say(&ToWorker::Response { id, refusal: None }).await;
            (seen, info)
        }
    }

    impl Seen {
        async fn next(&mut self) -> FromWorker {
            FromWorker::parse(&self.input.next_line().await.unwrap().unwrap()).unwrap()
        }

        async fn say(&mut self, message: &ToWorker) {
            self.output.write_all((message.emit() + "\n").as_bytes()).await.unwrap();
        }

        /// The next message that is no ping.
        async fn next_but_pings(&mut self) -> FromWorker {
            loop {
                match self.next().await {
                    FromWorker::Ping(_) => {}
                    other => return other,
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_who_it_is_and_pings_with_its_load() {
        let world = World::new();
        let (mut seen, info) = world.joined().await;
        assert_eq!((info.pid, info.seat), (std::process::id(), Seat(2)));
        let ports = info.ports.iter().map(|(public, port)| (public.number(), port.number()));
        assert_eq!(ports.collect::<Vec<_>>(), [(80, 20_004)]);
        let load = Load { lag: Duration::from_millis(180), too_busy: true };
        world.link.report(load);
        let ping = loop {
            match seen.next().await {
                FromWorker::Ping(info) if info.too_busy => break info,
                FromWorker::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((ping.lag, ping.is_retired), (load.lag, false));
        let begin = Instant::now();
        seen.next().await;
        assert!(begin.elapsed() <= PING_INTERVAL, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn orders_are_answered_and_passed_on() {
        let mut world = World::new();
        let (mut seen, _) = world.joined().await;
        for (id, order, expected) in
            [(7, WorkerOrder::Retire, Order::Retire), (8, WorkerOrder::Die, Order::Die)]
        {
            seen.say(&ToWorker::Command { id, order, reason: String::new() }).await;
            assert_eq!(seen.next_but_pings().await, FromWorker::Response { id, ok: true });
            assert_eq!(world.link.next_order().await, expected);
        }
        seen.say(&ToWorker::Command { id: 9, order: WorkerOrder::Info, reason: String::new() })
            .await;
        assert_eq!(seen.next_but_pings().await, FromWorker::Response { id: 9, ok: true });
    }

    #[tokio::test(start_paused = true)]
    async fn it_connects_again_and_says_that_it_is_retired() {
        let world = World::new();
        let (mut seen, _) = world.joined().await;
        let retire = ToWorker::Command { id: 1, order: WorkerOrder::Retire, reason: String::new() };
        seen.say(&retire).await;
        seen.next_but_pings().await;
        drop(seen);
        let begin = Instant::now();
        let (_seen, info) = world.joined().await;
        assert!(info.is_retired);
        assert!(begin.elapsed() <= 2 * RECONNECT_INTERVAL, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn it_may_ask_for_its_retirement() {
        let world = World::new();
        let (mut seen, _) = world.joined().await;
        world.link.ask_to_retire("leaks");
        let FromWorker::AskRetire { reason, .. } = seen.next_but_pings().await else { panic!() };
        assert_eq!(reason, "leaks");
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_that_does_not_answer_is_left_and_one_that_is_dropped_ends_the_connection() {
        let world = World::new();
        let mut seen = world.accept().await;
        seen.next().await;
        let begin = Instant::now();
        assert!(seen.input.next_line().await.unwrap().is_none());
        assert!(begin.elapsed() <= ANSWER + PING_INTERVAL);
        let World { link, listener, _base } = world;
        let (stream, _) = listener.accept().await.unwrap();
        drop(link);
        let mut rest = Vec::new();
        { stream }.read_to_end(&mut rest).await.unwrap();
    }
}
