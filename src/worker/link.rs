//! The connection with the master.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::Worker;
use super::notify::Notifier;
use crate::control::{FromWorker, LineDecoder, ToWorker, WorkerInfo, WorkerOrder};
use crate::plan::{Port, Seat};

/// From one sign of life to the next, as in the older system.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// From the end of a connection to the next try.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// How long a master may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Orders that nobody has taken yet. There are two kinds of them, each given a few times at most.
const ORDER_QUEUE: usize = 8;

/// What a master tells its worker to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Finish the connections that you have: all that were sent here have been accepted, and no new
    /// ones come. May be said again after a master has started anew.
    Retire,
    /// End now. A signal follows if it takes longer than `timeouts.die`.
    Die,
}

/// How busy a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// How late it does what it is to do now; zero where that is not measured.
    pub lag: Duration,
    /// It finds itself too busy: the master may replace it.
    pub too_busy: bool,
}

/// The connection with the master, kept up by a task of its own until this is dropped: keep it for as
/// long as the worker runs. One that has joined, and says nothing any more, counts as hanging after
/// the time `timeouts.ping` of the cluster.
#[derive(Debug)]
pub struct Link {
    orders: mpsc::Receiver<Order>,
    load: watch::Sender<Load>,
    requests: mpsc::Sender<String>,
    task: JoinHandle<()>,
}

impl Worker {
    /// Joins the cluster, and says that this process is ready: on the ports that it was given, so
    /// that it has to listen there already.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub fn join(&self) -> Link {
        self.join_on(self.ports().clone())
    }

    /// The same on other ports: public port -> the port that this process listens on. A master takes
    /// them where workers pick their ports themselves (`ready = "protocol"`).
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub fn join_on(&self, ports: BTreeMap<Port, Port>) -> Link {
        let (order, orders) = mpsc::channel(ORDER_QUEUE);
        let (load, loads) = watch::channel(Load::default());
        let (requests, asked) = mpsc::channel(1);
        let session = Session {
            socket: self.socket().to_owned(),
            seat: self.seat(),
            ports,
            notify: self.notify.clone(),
            orders: order,
            loads,
            asked,
            is_retired: false,
            last_id: 0,
        };
        Link { orders, load, requests, task: tokio::spawn(session.keep_up()) }
    }
}

impl Link {
    /// Waits for what the master wants next. Can be given up and called again at any time.
    pub async fn next_order(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            // The task ends with this value only, or with the runtime.
            None => std::future::pending().await,
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
        self.task.abort();
    }
}

/// What the task has.
struct Session {
    socket: PathBuf,
    seat: Seat,
    ports: BTreeMap<Port, Port>,
    notify: Option<Notifier>,
    orders: mpsc::Sender<Order>,
    loads: watch::Receiver<Load>,
    asked: mpsc::Receiver<String>,
    is_retired: bool,
    last_id: u64,
}

impl Session {
    /// Connects again and again.
    async fn keep_up(mut self) {
        self.notify("READY=1");
        loop {
            if let Err(error) = self.connect().await {
                tracing::debug!(%error, socket = %self.socket.display(), "not joined");
            }
            sleep(RECONNECT_INTERVAL).await;
        }
    }

    async fn connect(&mut self) -> io::Result<()> {
        let mut line = Line::new(UnixStream::connect(&self.socket).await?);
        let id = self.next_id();
        let mut answer_by = Some(Instant::now() + ANSWER);
        line.send(&FromWorker::Info { id, info: self.info() }).await?;
        let mut ping = every(PING_INTERVAL);
        loop {
            tokio::select! {
                message = line.receive() => match message? {
                    ToWorker::Response { id: of, refusal } => {
                        if let Some(reason) = refusal {
                            tracing::warn!(reason, "the master has refused a message");
                        }
                        if of == id {
                            answer_by = None;
                        }
                    }
                    ToWorker::Command { id, order, .. } => {
                        line.send(&FromWorker::Response { id, ok: true }).await?;
                        self.obey(order).await;
                    }
                },
                _ = ping.tick() => {
                    self.notify("WATCHDOG=1");
                    match answer_by {
                        None => line.send(&FromWorker::Ping(self.info())).await?,
                        Some(at) if Instant::now() < at => {}
                        Some(_) => return Err(io::ErrorKind::TimedOut.into()),
                    }
                }
                Some(reason) = self.asked.recv(), if answer_by.is_none() => {
                    let id = self.next_id();
                    line.send(&FromWorker::AskRetire { id, reason }).await?;
                }
            }
        }
    }

    async fn obey(&mut self, order: WorkerOrder) {
        let order = match order {
            WorkerOrder::Info => return,
            WorkerOrder::Retire => {
                self.is_retired = true;
                Order::Retire
            }
            WorkerOrder::Die => {
                self.notify("STOPPING=1");
                Order::Die
            }
        };
        // Nobody takes orders: then a signal comes.
        if self.orders.try_send(order).is_err() {
            tracing::warn!(?order, "an order of the master is passed over: nobody takes them");
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
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn notify(&self, text: &str) {
        if let Some(notify) = &self.notify {
            notify.say(text);
        }
    }
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
        let sent = tokio::time::timeout(ANSWER, self.stream.write_all(line.as_bytes())).await;
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

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
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
