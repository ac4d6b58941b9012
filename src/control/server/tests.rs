use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::acceptor::may_command;
use super::*;
use crate::control::{Client, ControlDir, PeerEvent, Reply, WorkerOrder};
use crate::line_protocol::MAX_LINE;
use crate::plan::{ClusterName, Generation, Seat};
use crate::protocol::Refusal;
use crate::protocol::{
    Command, EventRecord, Outcome, Reloaded, Request, Scaled, Status, WorkerState, WorkerStatus,
};

/// A server of cluster `web` in a directory of its own.
struct World {
    directory: ControlDir,
    requests: mpsc::Receiver<ReceivedRequest>,
    server: JoinHandle<Result<(), ControlError>>,
    _base: tempfile::TempDir,
}

impl World {
    fn new(limits: ControlLimits) -> Self {
        let base = tempfile::tempdir().unwrap();
        let directory = ControlDir::new(base.path().join("ipcluster"));
        let lock = directory.lock(&name("web")).unwrap();
        let (sender, requests) = mpsc::channel(16);
        let server = tokio::spawn(ControlServer::bind(lock, limits).unwrap().serve(sender));
        Self { directory, requests, server, _base: base }
    }

    fn socket(&self) -> PathBuf {
        self.directory.socket(&name("web"))
    }

    /// Answers every command at once: reload with a step of progress, scale with a failure.
    fn answer_all(&mut self) -> JoinHandle<()> {
        let mut requests = std::mem::replace(&mut self.requests, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(ReceivedRequest { request, responder, .. }) = requests.recv().await {
                match request {
                    Request::Command(request) => match request.command {
                        Command::Reload { share: None } => {
                            responder.progress("starting");
                            responder.finish(Ok(reloaded()));
                        }
                        Command::Scale { .. } => responder.finish(Err(Refusal::Starting)),
                        _ => drop(responder),
                    },
                    Request::Status => responder.finish(Ok(Outcome::Status(Box::new(status())))),
                    _ => drop(responder),
                }
            }
        })
    }

    /// The next request that is no look whether the master answers.
    async fn next_request(&mut self) -> ReceivedRequest {
        loop {
            let received = self.requests.recv().await.unwrap();
            match received.request {
                Request::Explain { address, .. } => {
                    received.responder.finish(Err(Refusal::Unserved { address }));
                }
                _ => return received,
            }
        }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.directory, None).await.unwrap()
    }
}

/// A peer that writes and reads by hand.
struct Raw {
    input: Lines<BufReader<OwnedReadHalf>>,
    output: OwnedWriteHalf,
}

impl Raw {
    async fn connect(path: &Path) -> Self {
        let (input, output) = UnixStream::connect(path).await.unwrap().into_split();
        Self { input: BufReader::new(input).lines(), output }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.output.write_all(bytes).await.unwrap();
    }

    /// The message of the next line, which has to be an error.
    async fn error(&mut self) -> String {
        match Reply::parse(&self.input.next_line().await.unwrap().unwrap()).unwrap() {
            Reply::Failed(failure) => failure.message,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the server has closed the connection. One that it closes with data unread
    /// resets it.
    async fn is_closed(&mut self) -> bool {
        !matches!(self.input.next_line().await, Ok(Some(_)))
    }
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn reloaded() -> Outcome {
    Outcome::Reloaded(Reloaded { generation: Generation(2), workers: 4, swap_seconds: 0.0001 })
}

/// A status that does not fit into one line.
fn status() -> Status {
    let worker = |seat| WorkerStatus {
        restarts: 0,
        last_loss: None,
        retired: None,
        private_ports: Vec::new(),
        number: None,
        seat: Seat(seat),
        slots: 1,
        pid: None,
        adopted: false,
        state: WorkerState::Starting,
        leaving: None,
        standby: false,
        generation: Generation(1),
        health: crate::protocol::WorkerHealth::Ok,
        text: None,
        ports: std::collections::BTreeMap::new(),
        uptime: 0.0,
        connections: None,
        connections_total: None,
        memory: None,
        processor: None,
        queued: None,
        half_open: None,
    };
    Status {
        waiting: Vec::new(),
        fleet: None,
        configuration: crate::protocol::ConfigurationStatus::default(),
        schema: crate::protocol::SCHEMA,
        name: name("web"),
        pid: 1,
        generation: Generation(1),
        listeners: vec!["[::]:80".parse().unwrap()],
        engine: crate::plan::Engine::Redirect,
        partition: crate::protocol::PartitionKind::Mask,
        slots: 1024,
        repairs: 0,
        last_writer: None,
        foreign_chains: Vec::new(),
        findings: Vec::new(),
        orphans: Vec::new(),
        conntrack: None,
        trial: None,
        probation: None,
        returns: 0,
        serving: 0,
        swaps: crate::protocol::SwapTimes::default(),
        restarts: crate::protocol::Restarts::default(),
        retirements: crate::protocol::Retirements::default(),
        given_up: Vec::new(),
        unmanaged: None,
        connections: Vec::new(),
        workers: (0..1024).map(worker).collect(),
    }
}

#[tokio::test]
async fn commands_are_answered_one_after_the_other() {
    let mut world = World::new(ControlLimits::default());
    let _master = world.answer_all();
    let mut client = world.client().await;
    let mut steps = Vec::new();
    let answer =
        client.ask(Command::Reload { share: None }, |step| steps.push(step.to_owned())).await;
    assert_eq!(answer.unwrap(), reloaded());
    assert_eq!(steps, ["starting"]);
    let answer = client.ask(Request::Status, |_| {}).await.unwrap();
    assert!(answer == Outcome::Status(Box::new(status())));
    let refused = client.ask(Command::Scale { workers: 3 }, |_| {}).await.unwrap_err();
    assert_eq!(
        (refused.to_string(), refused.hint()),
        (Refusal::Starting.to_string(), Refusal::Starting.hint())
    );
    let dropped = client.ask(Command::Stop { now: false }, |_| {}).await.unwrap_err();
    assert_eq!(dropped.to_string(), "the master gave no answer");
}

#[tokio::test]
async fn a_peer_that_ends_its_half_gets_its_answer() {
    let mut world = World::new(ControlLimits::default());
    let _master = world.answer_all();
    let mut peer = Raw::connect(&world.socket()).await;
    peer.send(b"{\"v\":1,\"command\":\"reload\"}\n").await;
    peer.output.shutdown().await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = peer.input.next_line().await.unwrap() {
        lines.push(Reply::parse(&line).unwrap());
    }
    assert_eq!(lines, [Reply::Progress("starting".into()), Reply::Done(reloaded())]);
}

#[tokio::test]
async fn a_peer_that_is_gone_does_not_matter() {
    let mut world = World::new(ControlLimits::default());
    let mut peer = Raw::connect(&world.socket()).await;
    peer.send(b"{\"v\":1,\"command\":\"reload\"}\n").await;
    let request = world.requests.recv().await.unwrap();
    drop(peer);
    for _ in 0..1000 {
        request.responder.progress("still at it");
    }
    request.responder.finish(Ok(reloaded()));
    let _master = world.answer_all();
    world.client().await.ask(Command::Reload { share: None }, |_| {}).await.unwrap();
}

#[tokio::test]
async fn lines_that_are_no_request_are_answered_and_the_next_one_is_read() {
    let mut world = World::new(ControlLimits::default());
    let _master = world.answer_all();
    let mut peer = Raw::connect(&world.socket()).await;
    for line in ["null", "[]", "1", "\"x\"", "{", "{\"v\":9}", "{\"v\":1,\"command\":\"halt\"}"] {
        peer.send(format!("{line}\n").as_bytes()).await;
        assert_eq!(peer.error().await, Request::parse(line).unwrap_err().to_string());
    }
    peer.send(b"\xff\n").await;
    assert_eq!(peer.error().await, "line is not UTF-8 from byte 0 on");
    peer.send("{\"v\":1,\"command\":\"é".as_bytes().split_last().unwrap().1).await;
    tokio::task::yield_now().await;
    peer.send(b"\xa9\"}\n").await;
    assert!(peer.error().await.starts_with("unknown command \"é\""));
    peer.send(b"{\"v\":1,\"command\":\"scale\",\"workers\":5}\n").await;
    assert_eq!(peer.error().await, Refusal::Starting.to_string());
}

#[tokio::test]
async fn an_endless_line_is_cut_off() {
    let world = World::new(ControlLimits::default());
    let mut peer = Raw::connect(&world.socket()).await;
    peer.send(&vec![b'x'; MAX_LINE + 1]).await;
    assert_eq!(peer.error().await, "line of more than 65536 bytes");
    assert!(peer.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn slow_and_silent_peers_are_dropped_after_five_seconds_and_disturb_nobody() {
    let mut world = World::new(ControlLimits::default());
    let _master = world.answer_all();
    let mut silent = Raw::connect(&world.socket()).await;
    let mut slow = Raw::connect(&world.socket()).await;
    let begin = Instant::now();
    for _ in 0..4 {
        slow.send(b"{").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.client().await.ask(Command::Reload { share: None }, |_| {}).await.unwrap();
    }
    for mut peer in [silent.error().await, slow.error().await].into_iter().zip([silent, slow]) {
        assert_eq!(peer.0, "no complete line within 5 s");
        assert!(peer.1.is_closed().await);
    }
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_read_is_dropped_after_five_seconds_and_disturbs_nobody() {
    let mut world = World::new(ControlLimits::default());
    let mut silent = Raw::connect(&world.socket()).await;
    silent.send(b"{\"v\":1,\"command\":\"events\"}\n").await;
    let ReceivedRequest { request, responder, .. } = world.requests.recv().await.unwrap();
    assert_eq!(request, Request::Events);
    let _master = world.answer_all();
    let begin = Instant::now();
    let told = tokio::spawn(async move {
        let event = EventRecord::new("commit_failed").with("reason", "x".repeat(4000));
        while responder.event(event.clone()).await {}
    });
    while !told.is_finished() {
        world.client().await.ask(Command::Reload { share: None }, |_| {}).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(7), "a peer that reads nothing is kept");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begin.elapsed() >= Duration::from_secs(5));
    drop(silent);
}

#[tokio::test]
async fn events_reach_the_client_until_the_master_ends() {
    let mut world = World::new(ControlLimits::default());
    let mut client = world.client().await;
    let listening = tokio::spawn(async move {
        let mut seen = Vec::new();
        let over = client.events(|event| {
            seen.push(event.fields["seat"].as_u64().unwrap());
            true
        });
        over.await.map(|()| seen)
    });
    let request = world.requests.recv().await.unwrap();
    for seat in 0..100 {
        assert!(request.responder.event(EventRecord::new("respawn").with("seat", seat)).await);
    }
    request.responder.finish(Ok(Outcome::EventsOver));
    assert_eq!(listening.await.unwrap().unwrap(), (0..100).collect::<Vec<u64>>());
    // One that is killed says nothing more.
    let mut client = world.client().await;
    let listening = tokio::spawn(async move { client.events(|_| true).await });
    let _request = world.requests.recv().await.unwrap();
    world.server.abort();
    assert_eq!(listening.await.unwrap().map_err(|it| it.to_string()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_for_its_answer_is_not_dropped() {
    let mut world = World::new(ControlLimits::default());
    let mut client = world.client().await;
    let asked =
        tokio::spawn(async move { client.ask(Command::Reload { share: None }, |_| {}).await });
    let request = world.next_request().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    request.responder.finish(Ok(reloaded()));
    assert_eq!(asked.await.unwrap().unwrap(), reloaded());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_does_not_come_is_not_waited_for() {
    let mut world = World::new(ControlLimits::default());
    let mut client = world.client().await;
    let asked = tokio::spawn(async move { client.ask(Request::Status, |_| {}).await });
    let _unanswered = world.next_request().await;
    assert!(matches!(asked.await.unwrap(), Err(ControlError::NoAnswer { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_command_to_a_master_that_does_not_answer_is_not_waited_for() {
    let mut world = World::new(ControlLimits::default());
    let mut client = world.client().await;
    let asked =
        tokio::spawn(async move { client.ask(Command::Reload { share: None }, |_| {}).await });
    let unanswered = world.requests.recv().await.unwrap();
    assert!(matches!(asked.await.unwrap(), Err(ControlError::NoAnswer { .. })));
    drop(unanswered);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.requests.try_recv().is_err(), "the command is not begun later");
}

#[tokio::test]
async fn a_command_of_a_peer_that_has_gone_is_not_begun() {
    use std::io::Write;
    let mut world = World::new(ControlLimits::default());
    // Nothing of the server runs before the next await: it is as a master that was stopped meanwhile.
    let mut gone = std::os::unix::net::UnixStream::connect(world.socket()).unwrap();
    gone.write_all(b"{\"v\":1,\"command\":\"reload\"}\n").unwrap();
    drop(gone);
    let mut client = world.client().await;
    let asked = tokio::spawn(async move { client.ask(Command::Promote, |_| {}).await });
    let request = world.next_request().await;
    assert_eq!(request.request, Command::Promote.into());
    drop(request);
    assert!(asked.await.unwrap().is_err());
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn peers_beyond_the_limit_are_turned_away() {
    let limits = ControlLimits { connections: 1, waiting: 0, ..ControlLimits::default() };
    let mut world = World::new(limits);
    let mut client = world.client().await;
    let asked =
        tokio::spawn(async move { client.ask(Command::Reload { share: None }, |_| {}).await });
    let request = world.next_request().await;
    let refused = world.client().await.ask(Request::Status, |_| {}).await.unwrap_err();
    assert_eq!(refused.to_string(), "1 control connections already");
    request.responder.finish(Ok(reloaded()));
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_hundred_that_ask_at_once_wait_for_their_turn_and_are_all_answered() {
    let limits =
        ControlLimits { connections: 4, connections_of_process: 1000, ..ControlLimits::default() };
    let mut world = World::new(limits);
    let mut asked = JoinSet::new();
    for _ in 0..100 {
        let mut client = world.client().await;
        asked.spawn(async move { client.ask(Command::Promote, |_| {}).await });
    }
    for _ in 0..100 {
        let request = world.next_request().await;
        request.responder.finish(Ok(reloaded()));
    }
    while let Some(answer) = asked.join_next().await {
        answer.unwrap().unwrap();
    }
}

#[tokio::test]
async fn peers_that_say_nothing_give_up_their_place_to_those_that_wait() {
    let limits = ControlLimits {
        connections: 2,
        io_timeout: Duration::from_secs(3600),
        hurry: Duration::from_millis(50),
        ..ControlLimits::default()
    };
    let mut world = World::new(limits);
    let silent = [world.client().await, world.client().await];
    let mut client = world.client().await;
    let asked = tokio::spawn(async move { client.ask(Command::Promote, |_| {}).await });
    world.next_request().await.responder.finish(Ok(reloaded()));
    asked.await.unwrap().unwrap();
    drop(silent);
}

#[tokio::test]
async fn the_socket_goes_with_the_server() {
    let world = World::new(ControlLimits::default());
    let (directory, socket) = (world.directory.clone(), world.socket());
    assert!(socket.exists());
    drop(world.requests);
    world.server.await.unwrap().unwrap();
    assert!(!socket.exists());
    assert!(directory.running().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_gets_it_when_the_server_ends() {
    let mut world = World::new(ControlLimits::default());
    let mut client = world.client().await;
    let _idle = world.client().await;
    let asked =
        tokio::spawn(async move { client.ask(Command::Reload { share: None }, |_| {}).await });
    let request = world.next_request().await;
    let begin = Instant::now();
    drop(world.requests);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!world.server.is_finished());
    request.responder.finish(Ok(reloaded()));
    assert_eq!(asked.await.unwrap().unwrap(), reloaded());
    world.server.await.unwrap().unwrap();
    assert_eq!(begin.elapsed().as_secs(), 1, "an idle peer was waited for");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_does_not_keep_the_server() {
    let mut world = World::new(ControlLimits::default());
    let mut client = world.client().await;
    let asked =
        tokio::spawn(async move { client.ask(Command::Reload { share: None }, |_| {}).await });
    let _kept = world.next_request().await;
    drop(world.requests);
    world.server.await.unwrap().unwrap();
    assert!(matches!(asked.await.unwrap(), Err(ControlError::Disconnected { .. })));
}

#[tokio::test]
async fn a_file_that_took_the_place_of_the_socket_stays() {
    let world = World::new(ControlLimits::default());
    let socket = world.socket();
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "data").unwrap();
    drop(world.requests);
    world.server.await.unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "data");
}

#[tokio::test]
async fn who_names_no_cluster_reaches_the_only_one() {
    let world = World::new(ControlLimits::default());
    assert_eq!(world.client().await.name(), &name("web"));
    let other = world.directory.lock(&name("api")).unwrap();
    let several = Client::connect(&world.directory, None).await.unwrap_err();
    assert_eq!(several.to_string(), "several clusters run: api, web");
    drop(other);
    let missing = Client::connect(&world.directory, Some(&name("api"))).await.unwrap_err();
    assert!(matches!(missing, ControlError::NoMaster { .. }));
    assert!(missing.hint().unwrap().contains("ipcluster run --name api"));
    let nowhere = ControlDir::new("/nonexistent/ipcluster");
    let none = Client::connect(&nowhere, None).await.unwrap_err();
    assert!(matches!(none, ControlError::NoneRuns { .. }));
}

#[tokio::test]
async fn the_socket_of_a_killed_master_counts_as_none() {
    let base = tempfile::tempdir().unwrap();
    let directory = ControlDir::new(base.path().join("ipcluster"));
    let lock = directory.lock(&name("web")).unwrap();
    drop(lock.bind().unwrap());
    drop(lock);
    let refused = Client::connect(&directory, Some(&name("web"))).await.unwrap_err();
    assert!(matches!(refused, ControlError::NoMaster { .. }), "{refused}");
}

/// A world whose server lets workers join, what comes of them, and the socket of their own.
fn with_workers() -> (World, mpsc::Receiver<WorkerEvent>, PathBuf) {
    let base = tempfile::tempdir().unwrap();
    let directory = ControlDir::new(base.path().join("ipcluster"));
    let lock = directory.lock(&name("web")).unwrap();
    let (sender, requests) = mpsc::channel(16);
    let (events, happened) = mpsc::channel(16);
    let path = base.path().join("host.zsocket");
    let socket = WorkersSocket::bind(&path, None).unwrap();
    let server = ControlServer::bind(lock, ControlLimits::default()).unwrap();
    let server = tokio::spawn(server.with_workers(events, Some(socket)).serve(sender));
    (World { directory, requests, server, _base: base }, happened, path)
}

fn info() -> Vec<u8> {
    let pid = std::process::id();
    format!(
        "{{\"__type\":\"info\",\"__messageID\":1,\"pid\":{pid},\"mem\":{{\"rss\":1}},\"portmap\":{{\"80\":34305}},\"band\":0}}\n"
    )
    .into_bytes()
}

async fn join_request(events: &mut mpsc::Receiver<WorkerEvent>) -> JoinRequest {
    match events.recv().await {
        Some(WorkerEvent::JoinRequested(arrival)) => arrival,
        other => panic!("{other:?}"),
    }
}

async fn line(peer: &mut Raw) -> String {
    peer.input.next_line().await.unwrap().unwrap()
}

const OK: &str = r#"{"__messageID":1,"__status":"ok","__type":"response"}"#;

#[tokio::test]
async fn a_worker_joins_by_either_socket_gets_orders_and_is_missed_when_it_goes() {
    let (world, mut events, path) = with_workers();
    for (token, path) in [(7, &path), (8, &world.socket())] {
        let mut worker = Raw::connect(path).await;
        worker.send(&info()).await;
        let arrived = join_request(&mut events).await;
        assert_eq!((arrived.info.pid, arrived.info.seat), (std::process::id(), Seat(0)));
        let link = arrived.accept(token);
        assert_eq!(line(&mut worker).await, OK);
        link.order(WorkerOrder::Retire, "a reload");
        assert!(line(&mut worker).await.contains(r#""__cmd":"retire""#));
        worker.send(b"{\"__type\":\"response\",\"__messageID\":1,\"__status\":\"no\"}\n").await;
        let Some(WorkerEvent::Peer { token: of, event: news }) = events.recv().await else {
            panic!()
        };
        assert_eq!((of, news), (token, PeerEvent::Unanswered(WorkerOrder::Retire)));
        assert!(!link.is_gone());
        drop(worker);
        assert!(link.is_gone(), "known before the end is told");
        assert!(
            matches!(events.recv().await, Some(WorkerEvent::Disconnected { token: of }) if of == token)
        );
    }
}

#[tokio::test]
async fn a_worker_that_is_refused_is_told_why_and_so_is_one_that_nobody_waits_for() {
    let (_world, mut events, path) = with_workers();
    for drops in [false, true] {
        let mut worker = Raw::connect(&path).await;
        worker.send(&info()).await;
        let arrived = join_request(&mut events).await;
        match drops {
            false => arrived.refuse("no worker of mine"),
            true => drop(arrived),
        }
        let answer = line(&mut worker).await;
        let reason = if drops { "the master is ending" } else { "no worker of mine" };
        assert!(answer.contains("error") && answer.contains(reason), "{answer}");
        assert!(worker.is_closed().await);
    }
}

#[tokio::test]
async fn a_worker_that_goes_before_it_knows_that_it_has_joined_is_missed_too() {
    let (_world, mut events, path) = with_workers();
    let mut worker = Raw::connect(&path).await;
    worker.send(&info()).await;
    let arrived = join_request(&mut events).await;
    drop(worker);
    let link = arrived.accept(3);
    assert!(link.is_gone());
    assert!(matches!(events.recv().await, Some(WorkerEvent::Disconnected { token: 3 })));
}

#[tokio::test]
async fn a_worker_whose_link_is_let_go_is_closed() {
    let (_world, mut events, path) = with_workers();
    let mut worker = Raw::connect(&path).await;
    worker.send(&info()).await;
    drop(join_request(&mut events).await.accept(1));
    assert_eq!(line(&mut worker).await, OK);
    assert!(worker.is_closed().await);
}

#[tokio::test]
async fn no_operator_commands_by_the_socket_of_the_workers() {
    let (world, _events, path) = with_workers();
    let mut peer = Raw::connect(&path).await;
    peer.send(b"{\"v\":1,\"command\":\"stop\"}\n").await;
    assert_eq!(peer.error().await, "this socket is for workers");
    assert!(peer.is_closed().await);
    assert!(world.requests.is_empty());
}

#[tokio::test]
async fn an_operator_does_not_turn_into_a_worker_nor_the_other_way_round() {
    let (mut world, mut events, path) = with_workers();
    let _master = world.answer_all();
    let mut operator = Raw::connect(&world.socket()).await;
    operator.send(b"{\"v\":1,\"command\":\"scale\",\"workers\":5}\n").await;
    assert_eq!(operator.error().await, Refusal::Starting.to_string());
    operator.send(&info()).await;
    assert_eq!(operator.error().await, "protocol version none: this master speaks version 1");
    let mut worker = Raw::connect(&path).await;
    worker.send(&info()).await;
    let _link = join_request(&mut events).await.accept(1);
    assert_eq!(line(&mut worker).await, OK);
    worker.send(b"{\"v\":1,\"command\":\"stop\"}\n").await;
    assert!(line(&mut worker).await.contains("error"));
    assert!(worker.is_closed().await);
}

#[tokio::test]
async fn descriptors_that_are_sent_along_are_closed() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::{IoSlice, Read};
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    let (world, mut events, path) = with_workers();
    for (path, bytes) in [(&path, info()), (&world.socket(), b"{}\n".to_vec())] {
        let worker = std::os::unix::net::UnixStream::connect(path).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let descriptors = [writer.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        assert!(rights.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let sent = sendmsg(&worker, &[IoSlice::new(&bytes)], &mut rights, SendFlags::empty());
        assert_eq!(sent, Ok(bytes.len()));
        drop(writer);
        // Read by the server when it has made something of it.
        let _link = match path == &world.socket() {
            false => Some(join_request(&mut events).await.accept(1)),
            true => {
                let mut answer = [0; 1];
                worker.set_nonblocking(true).unwrap();
                let worker = UnixStream::from_std(worker.try_clone().unwrap()).unwrap();
                worker.readable().await.unwrap();
                worker.try_read(&mut answer).unwrap();
                None
            }
        };
        // Ends only if nobody has the other end: not this process either, in which the server is.
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let end = std::fs::File::from(reader).read(&mut [0]);
        assert_eq!(end.unwrap(), 0, "the descriptor is open still");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_worker_is_dropped_after_five_seconds_and_disturbs_nobody() {
    let (mut world, mut events, path) = with_workers();
    let _master = world.answer_all();
    let mut slow = Raw::connect(&path).await;
    let begin = Instant::now();
    for byte in info().iter().take(5) {
        slow.send(&[*byte]).await;
        world.client().await.ask(Command::Reload { share: None }, |_| {}).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(slow.error().await, "no complete line within 5 s");
    assert_eq!(begin.elapsed().as_secs(), 5);
    let mut worker = Raw::connect(&path).await;
    worker.send(&info()).await;
    let _link = join_request(&mut events).await.accept(1);
    assert_eq!(line(&mut worker).await, OK);
    worker.send(b"{").await;
    tokio::task::yield_now().await;
    let begin = Instant::now();
    let end = line(&mut worker).await;
    assert!(end.contains("no complete line within 5 s"), "{end}");
    assert!(begin.elapsed().as_secs() <= 5);
}

#[tokio::test]
async fn a_process_with_many_connections_takes_none_of_a_worker_that_has_joined() {
    let (_world, mut events, path) = with_workers();
    let mut worker = Raw::connect(&path).await;
    worker.send(&info()).await;
    let _link = join_request(&mut events).await.accept(1);
    assert_eq!(line(&mut worker).await, OK);
    let mut crowd = Vec::new();
    for _ in 0..ControlLimits::default().connections_of_process {
        crowd.push(Raw::connect(&path).await);
    }
    let mut more = Raw::connect(&path).await;
    assert_eq!(more.error().await, "16 control connections already");
    worker.send(b"{\"__type\":\"request\",\"__request\":\"retire\",\"__messageID\":2}\n").await;
    assert!(line(&mut worker).await.contains(r#""__messageID":2,"__status":"ok""#));
}

#[tokio::test(start_paused = true)]
async fn who_sends_lines_without_a_pause_is_read_with_pauses() {
    let (world, _events, _path) = with_workers();
    let mut flood = Raw::connect(&world.socket()).await;
    flood.send(&b"{}\n".repeat(264)).await;
    let begin = Instant::now();
    for _ in 0..264 {
        flood.error().await;
    }
    let least = crate::control::LINE_INTERVAL * 199;
    assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
}

#[test]
fn root_and_the_user_of_the_master_may_command() {
    assert!(may_command(0, 1000) && may_command(1000, 1000) && may_command(0, 0));
    assert!(!may_command(1001, 1000) && !may_command(1000, 0));
}

#[test]
fn scaled_is_part_of_the_protocol() {
    let answer = Outcome::Scaled(Scaled { workers: 5, moved_slots: 205, slots: 1024 });
    let line = &Reply::Done(answer).emit()[0];
    assert_eq!(line, r#"{"ok":{"scaled":{"workers":5,"moved_slots":205,"slots":1024}}}"#);
}
