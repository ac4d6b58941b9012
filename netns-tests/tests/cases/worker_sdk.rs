//! Workers in Rust, as the examples have them, behind a real master: they lose nothing in a reload, and
//! end without a word in its log.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Load, Network};
use netns_tests::{Case, Cluster, Lab, example, member, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("axum_finishes_requests_and_web_sockets", axum).with_both_engines(),
        Case::new("hyper_finishes_requests_and_goes_on_accepting", hyper).with_both_engines(),
        Case::new("workers_that_end_cause_no_warning", silent_ends).with_both_engines_on_request(),
        Case::new("a_worker_needs_no_control_directory", alone),
        Case::new("one_program_is_master_and_worker", both),
        Case::new("a_firewall_needs_no_master", firewall),
    ]
}

const PATIENCE: Duration = Duration::from_secs(30);

fn axum(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 1).start_with(&[example("axum").into()], 1);
    let old = cluster.status().pids()[&0];
    let mut idle = Client::connect(lab);
    assert_eq!(idle.ask("/").body, "seat 0\n");
    let mut socket = WebSocket::open(lab);
    assert_eq!(socket.echo("before"), "before");
    let mut upload = Client::connect(lab);
    upload.begin_upload();
    cluster.reload();
    // The server says so first: "service restart", in the registry of RFC 6455, 11.7.
    let (kind, payload) = socket.read();
    assert_eq!((kind, &payload[2..]), (CLOSE, &b"service restart"[..]));
    assert_eq!(payload[..2], 1012u16.to_be_bytes());
    let answer = upload.end_upload();
    assert_eq!(answer.body, "seat 0: 10 bytes\n");
    assert_eq!(answer.header("connection"), Some("close"));
    upload.is_closed();
    idle.is_closed();
    cluster.wait_for("the WebSocket alone", |status| {
        let retired = status.workers.iter().find(|worker| worker.pid == Some(old));
        retired.is_some_and(|it| (it.state.as_str(), it.connections) == ("retired", Some(1)))
    });
    socket.write(CLOSE, &1012u16.to_be_bytes());
    cluster.wait_until_settled(1);
    ended_well(&cluster);
}

fn hyper(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 1).start_with(&[example("hyper").into()], 1);
    let mut idle = Client::connect(lab);
    assert_eq!(idle.ask("/").body, "seat 0: 0 bytes\n");
    let mut upload = Client::connect(lab);
    upload.begin_upload();
    cluster.reload();
    idle.is_closed();
    let answer = upload.end_upload();
    assert_eq!(answer.body, "seat 0: 10 bytes\n");
    assert_eq!(answer.header("connection"), Some("close"));
    cluster.wait_until_settled(1);
    ended_well(&cluster);
    // It goes on listening, so that a rollback needs no new process.
    let mut upload = Client::connect(lab);
    upload.begin_upload();
    let pids = cluster.status().pids();
    cluster.reload();
    cluster.succeed("rollback", &[]);
    assert_eq!(cluster.status().pids(), pids);
    assert_eq!(Client::connect(lab).ask("/").body, "seat 0: 0 bytes\n");
}

fn ended_well(cluster: &Cluster<'_>) {
    let log = cluster.log();
    assert!(
        log.contains("seat 0: worker of generation 1 ended as asked (exited with status 0)"),
        "{log}"
    );
    assert!(!log.contains("ended with connections open"), "{log}");
    assert!(!log.contains("NOTIFY_SOCKET"), "{log}");
}

fn silent_ends(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).argument("--ready=notify");
    cluster = cluster.start_with(&[member().into()], 4);
    let refused = "a worker's connection was refused";
    assert!(!cluster.log().contains(refused), "{}", cluster.log());
    for _ in 0..5 {
        cluster.reload();
        cluster.wait_until_settled(4);
    }
    // The next master is no parent of theirs: nobody keeps what is left of them.
    let before = cluster.terminate_master();
    cluster.start_master(&[member().into()]);
    cluster.wait_for_live(4);
    cluster.reload();
    cluster.wait_until_settled(4);
    cluster.succeed("stop", &[]);
    let status = cluster.master().wait(PATIENCE);
    let log = before + &cluster.log();
    assert!(!log.contains(refused), "{log}");
    assert!(status.success(), "{status}\n{log}");
    assert!(!log.contains("NOTIFY_SOCKET"), "{log}");
}

/// What a master without a control directory says to its workers is their environment, and SIGTERM.
fn alone(lab: &Lab) {
    let path = lab.directory().join("notify");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut worker = Command::new(member());
    worker.envs([
        ("PORT", "20004"),
        ("IPCLUSTER_PORT_80", "20004"),
        ("IPCLUSTER_SEAT", "2"),
        ("IPCLUSTER_WORKERS", "4"),
        ("IPCLUSTER_GENERATION", "7"),
        ("IPCLUSTER_NAME", "web"),
    ]);
    worker.env("NOTIFY_SOCKET", &path);
    let mut worker = lab.start("worker", worker);
    let next = || {
        let mut text = [0; 64];
        let length = notified.recv(&mut text).expect("the worker notifies");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    assert_eq!(next(), "WATCHDOG=1");
    assert_eq!(next(), "WATCHDOG=1");
    let stream = lab.server().run_in(|| TcpStream::connect("127.0.0.1:20004"));
    assert_eq!(Client::of(stream.unwrap().unwrap()).ask("/").body, "seat 2\n");
    worker.signal(Signal::SIGTERM);
    wait_until("STOPPING=1", PATIENCE, || next() == "STOPPING=1");
    assert!(worker.wait(PATIENCE).success(), "{}", worker.output());
}

fn both(lab: &Lab) {
    let mut program = Command::new(example("master_and_worker"));
    program.arg("10.9.0.1:80").env("XDG_RUNTIME_DIR", lab.directory());
    let mut master = lab.start("master", program);
    let served_by = |generation: u64| {
        let answer = Client::try_connect(lab).map(|mut client| client.ask("/").body);
        answer.is_ok_and(|body| body.ends_with(&format!(" of generation {generation}\n")))
    };
    wait_until("a worker", PATIENCE, || served_by(1));
    master.signal(Signal::SIGHUP);
    wait_until("the next generation", PATIENCE, || served_by(2));
    master.signal(Signal::SIGTERM);
    let status = master.wait(PATIENCE);
    assert!(status.success(), "{status}\n{}", master.output());
    assert!(Client::try_connect(lab).is_err(), "all of it has ended");
}

fn firewall(lab: &Lab) {
    let _workers = [lab.greeter(20_000, 0), lab.greeter(20_001, 1)];
    wait_until("the workers", PATIENCE, || {
        [20_000, 20_001].iter().all(|port| lab.is_listened_to(*port))
    });
    let mut program = Command::new(example("firewall"));
    program.args(["10.9.0.1:80", "20000", "20001"]);
    program.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut program = lab.server().run_in(|| program.spawn()).unwrap().unwrap();
    let mut said = [0; 128];
    let length = program.stdout.take().unwrap().read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..length]).into_owned();
    assert!(said.starts_with("192.0.2.7 is sent to seat "), "{said}");
    let load = Load::to([Network::server_v4(80)]).from(Network::clients_v4(50)).connections(200);
    let report = load.start(lab.client()).unwrap().wait();
    assert_eq!((report.failed(), report.changed_worker().len()), (0, 0), "{report}");
    drop(program.stdin.take());
    assert!(program.wait().unwrap().success());
    assert!(Client::try_connect(lab).is_err(), "the rules are gone");
}

/// A client of HTTP/1.1 on one connection.
struct Client(TcpStream);

struct Answer {
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl Client {
    fn connect(lab: &Lab) -> Self {
        Self::try_connect(lab).unwrap()
    }

    fn try_connect(lab: &Lab) -> std::io::Result<Self> {
        let to = Network::server_v4(80);
        lab.client().run_in(|| TcpStream::connect(to)).unwrap().map(Self::of)
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn ask(&mut self, path: &str) -> Answer {
        self.request(path);
        self.answer()
    }

    fn request(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: example\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
    }

    /// Sends the first half of what the server is to count, once it counts.
    fn begin_upload(&mut self) {
        let head = "POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
        self.0.write_all(head.as_bytes()).unwrap();
        self.head("HTTP/1.1 100 ");
        self.0.write_all(b"01234").unwrap();
    }

    fn end_upload(&mut self) -> Answer {
        self.0.write_all(b"56789").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let head = self.head("HTTP/1.1 200 ");
        let length = head["content-length"].parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Answer { headers: head, body: String::from_utf8(body).unwrap() }
    }

    /// The headers of an answer with this status.
    fn head(&mut self, status: &str) -> BTreeMap<String, String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with(status), "{head}");
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect()
    }

    /// Waits until the server has closed the connection, without having said anything more.
    fn is_closed(&mut self) {
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }
}

/// A client of WebSockets (RFC 6455), with frames of less than 126 bytes.
struct WebSocket(Client);

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

impl WebSocket {
    fn open(lab: &Lab) -> Self {
        let mut client = Client::connect(lab);
        let upgrade = "GET /echo HTTP/1.1\r\nHost: example\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.0.write_all(upgrade.as_bytes()).unwrap();
        let head = client.head("HTTP/1.1 101 ");
        assert_eq!(head["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        Self(client)
    }

    fn echo(&mut self, text: &str) -> String {
        self.write(TEXT, text.as_bytes());
        let (kind, payload) = self.read();
        assert_eq!(kind, TEXT);
        String::from_utf8(payload).unwrap()
    }

    /// Writes a frame, with a mask of zeros.
    fn write(&mut self, kind: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0x80 | kind, 0x80 | length, 0, 0, 0, 0];
        self.0.0.write_all(&[&head, payload].concat()).unwrap();
    }

    fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.0.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1])];
        self.0.0.read_exact(&mut payload).unwrap();
        (head[0] & 0x0f, payload)
    }
}
