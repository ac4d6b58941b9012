//! etcd servers, and what stands between them and a member.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ipcluster::lab::Namespace;
use netns_tests::{Lab, Process, Witness, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// How long a server may take to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One etcd server.
pub(crate) struct Server<'a> {
    lab: &'a Lab,
    namespace: &'a Namespace,
    name: String,
    host: Ipv4Addr,
    pub(crate) port: u16,
    data: PathBuf,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl<'a> Server<'a> {
    /// The only server of its cluster, on the loopback of the lab's server.
    pub(crate) fn alone(lab: &'a Lab) -> Self {
        Self::with(lab, &[])
    }

    /// The same with further arguments.
    pub(crate) fn with(lab: &'a Lab, arguments: &[&str]) -> Self {
        let mut server = Self::new(lab, lab.server(), Ipv4Addr::LOCALHOST, "s0", 2379);
        server.arguments.extend(arguments.iter().map(|it| (*it).to_owned()));
        server.start();
        server
    }

    /// The only one, in another namespace, at this address.
    pub(crate) fn at(lab: &'a Lab, namespace: &'a Namespace, host: Ipv4Addr) -> Self {
        Self::at_with(lab, namespace, host, &[])
    }

    /// The same with further arguments.
    pub(crate) fn at_with(
        lab: &'a Lab,
        namespace: &'a Namespace,
        host: Ipv4Addr,
        arguments: &[&str],
    ) -> Self {
        let mut server = Self::new(lab, namespace, host, "s0", 2379);
        server.arguments.extend(arguments.iter().map(|it| (*it).to_owned()));
        server.start();
        server
    }

    /// Three that are one cluster.
    pub(crate) fn three(lab: &'a Lab) -> Vec<Self> {
        Self::three_at(lab, lab.server(), Ipv4Addr::LOCALHOST)
    }

    /// The same in another namespace, at this address.
    pub(crate) fn three_at(lab: &'a Lab, namespace: &'a Namespace, host: Ipv4Addr) -> Vec<Self> {
        let port = |nth: u16| 2379 + 10 * nth;
        let peer = |nth: u16| format!("s{nth}=http://{host}:{}", port(nth) + 1);
        let cluster = (0..3).map(peer).collect::<Vec<_>>().join(",");
        let server = |nth: u16| {
            let name = format!("s{nth}");
            let mut server = Self::new(lab, namespace, host, &name, port(nth));
            server.arguments.extend(["--initial-cluster".to_owned(), cluster.clone()]);
            server.run();
            server
        };
        let servers: Vec<Self> = (0..3).map(server).collect();
        servers.iter().for_each(Self::wait_until_it_answers);
        servers
    }

    /// Starts again those of one cluster, none of which answers before another one is there.
    pub(crate) fn start_all(servers: &mut [Self]) {
        servers.iter_mut().for_each(Self::run);
        servers.iter().for_each(Self::wait_until_it_answers);
    }

    fn new(lab: &'a Lab, namespace: &'a Namespace, host: Ipv4Addr, name: &str, port: u16) -> Self {
        let data = lab.directory().join(name);
        let (name, arguments, process) = (name.to_owned(), vec![], None);
        Self { lab, namespace, name, host, port, data, arguments, process }
    }

    /// Starts it again, with the data that it had.
    pub(crate) fn start(&mut self) {
        self.run();
        self.wait_until_it_answers();
    }

    /// The same of one that asks for a user.
    pub(crate) fn start_with_users(&mut self) {
        self.run();
        wait_until("etcd listens", PATIENCE, || self.connect().is_some());
    }

    fn run(&mut self) {
        let is_tls = self.arguments.iter().any(|it| it == "--cert-file");
        let scheme = if is_tls { "https" } else { "http" };
        let client = format!("{scheme}://{}:{}", self.host, self.port);
        let peer = format!("http://{}:{}", self.host, self.port + 1);
        let mut command = Witness::command("etcd");
        command.args(["--name", &self.name, "--data-dir"]).arg(&self.data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        if !self.arguments.iter().any(|it| it == "--initial-cluster") {
            command.args(["--initial-cluster", &format!("{}={peer}", self.name)]);
        }
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        command.args(&self.arguments);
        let log = self.lab.directory().join(format!("etcd-{}.log", self.name));
        self.process = Some(Process::start(self.namespace, command, &log));
    }

    fn wait_until_it_answers(&self) {
        if self.arguments.iter().any(|it| it == "--cert-file") {
            return wait_until("etcd listens", PATIENCE, || self.connect().is_some());
        }
        wait_until("etcd answers", PATIENCE, || {
            self.ask("/v3/kv/range", &json!({"key": "eA=="})).is_ok()
        });
    }

    /// Ends it without a farewell.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGKILL);
            process.wait(PATIENCE);
        }
    }

    /// Ends it, and takes its data.
    pub(crate) fn lose_data(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.data).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    fn connect(&self) -> Option<TcpStream> {
        let address = SocketAddr::from((self.host, self.port));
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok();
        self.namespace.run_in(connect).expect("a namespace")
    }

    /// Asks the gateway of this server.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.ask_as(None, path, body)
    }

    /// The same with a token.
    pub(crate) fn ask_as(
        &self,
        token: Option<&str>,
        path: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let mut stream = self.connect().ok_or("no connection")?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.to_string();
        let token = token.map(|it| format!("Authorization: {it}\r\n")).unwrap_or_default();
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: etcd\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(|it| it.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|it| it.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        match head.contains(" 200 ") {
            true => serde_json::from_str(body).map_err(|it| it.to_string()),
            false => Err(body.to_owned()),
        }
    }

    /// Its revision now.
    pub(crate) fn revision(&self) -> u64 {
        let answer = self.ask("/v3/kv/range", &json!({"key": "eA=="})).unwrap();
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until one of these leads the others, and kills that one. Returns its place when another one leads.
    pub(crate) fn kill_leader(servers: &mut [Self]) -> usize {
        let mut leader = None;
        wait_until("a leader", PATIENCE, || {
            leader = servers.iter().position(Self::leads);
            leader.is_some()
        });
        let leader = leader.unwrap();
        servers[leader].kill();
        wait_until("another leader", PATIENCE, || {
            servers.iter().enumerate().any(|(nth, server)| nth != leader && server.leads())
        });
        leader
    }

    /// Whether it leads its cluster.
    pub(crate) fn leads(&self) -> bool {
        self.ask("/v3/maintenance/status", &json!({}))
            .is_ok_and(|status| status["leader"] == status["header"]["member_id"])
    }

    pub(crate) fn namespace(&self) -> &'a Namespace {
        self.namespace
    }
}

/// What stands between a member and a server: it hands on all that comes, later than it could, or not yet.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    /// In milliseconds, for each piece, in each direction.
    delay: AtomicU64,
    holds_watches: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn before(server: &Server<'_>) -> Self {
        let shared = Arc::new(Shared {
            delay: AtomicU64::new(0),
            holds_watches: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let to = SocketAddr::from((server.host, server.port));
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listener = server.namespace().run_in(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = shared.clone();
        server.namespace().spawn("proxy", move || accept(&listener, to, &accepting)).unwrap();
        Self { shared, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Hands on each piece so much later from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.delay.store(delay.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    /// Keeps back whatever begins a watch, or no longer.
    pub(crate) fn hold_watches(&self, holds: bool) {
        self.shared.holds_watches.store(holds, Ordering::SeqCst);
    }

    pub(crate) fn break_connections(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            // Some have ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let Ok(server) = TcpStream::connect(to) else { continue };
        let copies = [client.try_clone().unwrap(), server.try_clone().unwrap()];
        shared.open.lock().unwrap().extend(copies);
        for (from, to) in
            [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
        {
            let shared = shared.clone();
            thread::spawn(move || hand_on(from, to, &shared));
        }
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut piece = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        while shared.holds_watches.load(Ordering::SeqCst) && piece.starts_with(b"POST /v3/watch") {
            thread::sleep(Duration::from_millis(2));
        }
        thread::sleep(Duration::from_millis(shared.delay.load(Ordering::SeqCst)));
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A program that is started with another clock.
pub(crate) fn with_clock(mut command: Command, library: &Path, file: &Path) -> Command {
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}
