//! What shows that a worker is ready: of passed sockets, that somebody accepts from them; of a probe, its
//! answer. And what is said of a worker that is not.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipcluster::lab::{Load, Network, Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Need, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Python);
    let passed = |name, body| case(name, body).with_both_engines();
    let alone = |name, body| case(name, body);
    vec![
        passed("a_server_in_epoll_is_ready", |lab| serves(lab, "epoll")),
        passed("a_server_in_poll_is_ready", |lab| serves(lab, "poll")),
        passed("a_server_in_select_is_ready", |lab| serves(lab, "select")),
        passed("a_server_in_accept_is_ready", |lab| serves(lab, "accept")),
        passed("a_server_whose_thread_accepts_is_ready", |lab| serves(lab, "thread")),
        passed("a_server_whose_children_accept_is_ready", |lab| serves(lab, "prefork")),
        passed("a_server_that_tries_accept_is_given_a_connection", |lab| tried(lab, "timer")),
        passed("a_server_with_io_uring_is_given_a_connection", |lab| tried(lab, "uring")),
        passed("a_server_that_cannot_be_looked_at_is_given_a_connection", |lab| {
            tried(lab, "hidden");
        }),
        alone("a_server_that_closes_the_connection_is_ready", |lab| tried(lab, "silent")),
        passed("a_reload_to_a_server_that_ignores_its_socket_fails", ignores),
        passed("a_reload_to_a_server_that_closes_its_socket_fails", closes),
        passed("a_reload_to_a_server_behind_a_shell_fails", behind_a_shell),
        passed("control_with_exec_the_same_server_is_ready", with_exec),
        passed("ready_of_a_server_behind_a_shell_does_not_count", notified_behind_a_shell),
        passed("a_server_that_accepts_from_one_of_two_sockets_is_not_ready", first_of_two),
        passed("a_hidden_server_that_ignores_its_socket_fails", hidden_ignores),
        passed("who_is_probed_is_no_client_that_waits", probes_are_nobody),
        alone("an_answer_of_2xx_is_ready_and_others_are_told", answers_are_told),
        alone("a_server_that_speaks_no_http_is_told", no_http),
        alone("where_a_server_listens_instead_is_told", elsewhere),
        alone("the_missing_port_of_two_is_named", one_of_two),
        alone("ipv6_only_is_named", ipv6_only),
        alone("one_address_of_the_host_is_not_all", one_address),
        Case::new("an_ipv6_listener_alone_is_said_to_take_no_ipv4", ipv6_listener),
    ]
}

/// How long a worker may take to be ready.
const LIMIT: &str = "5s";

fn script(name: &str) -> OsString {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("workers").join(name).into()
}

fn cluster(lab: &Lab, workers: u16) -> Cluster<'_> {
    let cluster = Cluster::new(lab, workers).argument("--socket-activation");
    let cluster = cluster.argument("--spawn-stagger").argument("0");
    cluster.argument("--ready-timeout").argument(LIMIT).argument("--die-timeout").argument("1s")
}

/// A cluster of servers whose style stands in a file.
struct Styled<'a> {
    lab: &'a Lab,
    cluster: Cluster<'a>,
}

impl<'a> Styled<'a> {
    /// Starts two of this style, behind `wrapper`, and waits until they are live.
    fn start(lab: &'a Lab, style: &str, cluster: Cluster<'a>) -> Self {
        set_style(lab, style);
        let command = ["python3".into(), script("accepting.py"), style_file(lab).into()];
        Self { lab, cluster: cluster.start_with(&command, 2) }
    }

    /// The error of a reload to another style, in which nobody is lost and which leaves all as it was.
    fn fail_reload(&mut self, style: &str) -> String {
        let before = self.cluster.status();
        let load = load(self.lab);
        set_style(self.lab, style);
        let began = Instant::now();
        let error = self.cluster.fail("reload", &[]);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        let after = self.cluster.wait_until_settled(2);
        assert_eq!((after.generation, after.pids()), (before.generation, before.pids()));
        let report = load.stop();
        assert_eq!(report.failed(), 0, "{report}\n{}", self.cluster.log());
        assert!(report.workers().keys().all(|by| by.generation == before.generation), "{report}");
        // Nobody waits in the sockets of those that have failed: they are closed, and no process is started
        // for them.
        let live: Vec<u16> =
            after.live().iter().flat_map(|it| it.ports.values().copied()).collect();
        wait_until("the sockets of failed workers to be closed", Duration::from_secs(30), || {
            let mut ports = (20_000..20_040).filter(|port| !live.contains(port));
            !ports.any(|port| self.lab.is_listened_to(port))
        });
        let log = self.cluster.log();
        assert!(!log.contains("a process is started to accept them"), "{log}");
        assert!(!log.contains("that waited"), "{log}");
        error
    }
}

fn style_file(lab: &Lab) -> PathBuf {
    lab.directory().join("style")
}

fn set_style(lab: &Lab, style: &str) {
    let (file, new) = (style_file(lab), lab.directory().join("style.new"));
    fs::write(&new, style).unwrap();
    fs::rename(new, file).unwrap();
}

fn load(lab: &Lab) -> RunningLoad {
    let load = Lab::load(80, 100).pace(Pace::Rate(100.0)).start(lab.client()).unwrap();
    wait_until("answers", Duration::from_secs(10), || load.counters().answered >= 20);
    load
}

fn all_answer(lab: &Lab) {
    let report = Lab::load(80, 50).connections(50).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
}

/// Starts servers of this style, and reloads them; returns how long the start took.
fn run(lab: &Lab, style: &str) -> Duration {
    let began = Instant::now();
    let mut styled = Styled::start(lab, style, cluster(lab, 2));
    let took = began.elapsed();
    all_answer(lab);
    styled.cluster.reload();
    let status = styled.cluster.wait_until_settled(2);
    assert_eq!(status.generation, 2);
    all_answer(lab);
    took
}

fn serves(lab: &Lab, style: &str) {
    let mut styled = Styled::start(lab, style, cluster(lab, 2));
    all_answer(lab);
    // As it was seen at once, no connection was made to it: that would have been logged as a lack.
    let load = load(lab);
    styled.cluster.reload();
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    let log = styled.cluster.log();
    assert!(!log.contains("not ready: the worker"), "{log}");
    assert_eq!(styled.cluster.wait_until_settled(2).generation, 2);
}

fn tried(lab: &Lab, style: &str) {
    let took = run(lab, style);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

fn ignores(lab: &Lab) {
    let mut styled = Styled::start(lab, "epoll", cluster(lab, 2));
    let error = styled.fail_reload("ignore");
    for expected in [
        "within 5s",
        "the worker does not accept from the passed socket (descriptor 3: 80/tcp)",
        "it listens on 127.0.0.1:8000 instead",
        "--fd 3",
    ] {
        assert!(error.contains(expected), "{expected:?} is missing: {error}");
    }
    assert!(styled.cluster.log().contains("not ready: the worker does not accept from the passed"));
    // Nothing is in the way of a better one.
    set_style(lab, "accept");
    styled.cluster.reload();
    assert_eq!(styled.cluster.wait_until_settled(2).live().len(), 2);
    all_answer(lab);
}

fn closes(lab: &Lab) {
    let mut styled = Styled::start(lab, "epoll", cluster(lab, 2));
    let error = styled.fail_reload("close");
    assert!(error.contains("it has closed it; it listens on 127.0.0.1:8000 instead"), "{error}");
}

/// Starts servers that look at `LISTEN_PID` behind a shell that runs what stands in a file.
fn behind<'a>(lab: &'a Lab, cluster: Cluster<'a>) -> Cluster<'a> {
    fs::write(lab.directory().join("start"), "exec \"$@\"").unwrap();
    let shell = ["sh", "-c", ". \"$0\""].map(OsString::from);
    let start = lab.directory().join("start").into();
    let server = ["python3".into(), script("accepting.py"), "pid".into()];
    let command = [&shell[..], &[start], &server].concat();
    cluster.start_with(&command, 2)
}

fn without_exec(lab: &Lab, before: &str) {
    fs::write(lab.directory().join("start"), format!("{before}\"$@\"; exit")).unwrap();
}

fn behind_a_shell(lab: &Lab) {
    let mut cluster = behind(lab, cluster(lab, 2));
    without_exec(lab, "");
    let before = cluster.status().pids();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("LISTEN_PID names `sh`"), "{error}");
    assert!(error.contains("put `exec` in front of the server"), "{error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), before);
    all_answer(lab);
}

fn with_exec(lab: &Lab) {
    let mut cluster = behind(lab, cluster(lab, 2));
    cluster.reload();
    assert_eq!(cluster.wait_until_settled(2).generation, 2);
    all_answer(lab);
}

/// What gunicorn does behind a shell: it says that it is ready, and listens somewhere else.
fn notified_behind_a_shell(lab: &Lab) {
    let cluster = cluster(lab, 2).argument("--ready").argument("notify");
    // As systemd-notify does, it ends when its message was read: then it is known who had sent it.
    let say = "python3 -c 'import os, socket; \
               s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
               s.connect(os.environ[\"NOTIFY_SOCKET\"]); s.send(b\"READY=1\"); \
               r, w = os.pipe(); socket.send_fds(s, [b\"BARRIER=1\"], [w]); \
               os.close(w); os.read(r, 1)'; ";
    fs::write(lab.directory().join("start"), format!("{say}exec \"$@\"")).unwrap();
    let shell = ["sh", "-c", ". \"$0\""].map(OsString::from);
    let start = lab.directory().join("start").into();
    let server = ["python3".into(), script("accepting.py"), "pid".into()];
    let command = [&shell[..], &[start], &server].concat();
    let mut cluster = cluster.start_with(&command, 2);
    without_exec(lab, say);
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("LISTEN_PID names `sh`"), "{error}");
    assert_eq!(cluster.wait_until_settled(2).generation, 1);
    all_answer(lab);
}

fn first_of_two(lab: &Lab) {
    let two = cluster(lab, 2).argument("--listen").argument("10.9.0.1:443");
    let mut styled = Styled::start(lab, "epoll", two);
    let error = styled.fail_reload("first");
    assert!(error.contains("from the passed socket (descriptor 4: 443/tcp)"), "{error}");
}

fn hidden_ignores(lab: &Lab) {
    let mut styled = Styled::start(lab, "epoll", cluster(lab, 2));
    let error = styled.fail_reload("hidden-ignore");
    assert!(error.contains("does not accept from the passed socket"), "{error}");
    assert!(error.contains("its processes cannot be looked at"), "{error}");
}

/// The probes of the master wait in the queue of a worker that does not accept.
fn probes_are_nobody(lab: &Lab) {
    let probed = cluster(lab, 2).argument("--ready").argument("http:/");
    let mut styled = Styled::start(lab, "epoll", probed);
    let error = styled.fail_reload("ignore");
    assert!(error.contains("does not answer the probe http:/"), "{error}");
    let log = styled.cluster.log();
    assert!(!log.contains("wait for a worker of generation 2"), "{log}");
}

/// A server that answers what its file says, or 200 if the Host is www.example.
const ANSWERING: &str = "
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        code = int(open(sys.argv[1]).read())
        code = 200 if self.headers['Host'] == 'www.example' else code
        self.send_response(code)
        self.send_header('Content-Length', '0')
        self.end_headers()
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = 10
Server(('::', int(os.environ['PORT'])), Handler).serve_forever()
";

fn answering(lab: &Lab, code: &str) -> Vec<OsString> {
    fs::write(lab.directory().join("code"), code).unwrap();
    let file = lab.directory().join("answering.py");
    fs::write(&file, ANSWERING).unwrap();
    vec!["python3".into(), file.into(), lab.directory().join("code").into()]
}

/// A cluster whose workers open their sockets themselves.
fn own_sockets<'a>(lab: &'a Lab, listeners: &[&str]) -> Cluster<'a> {
    let cluster = Cluster::on(lab, [] as [SocketAddr; 0], 1);
    let cluster = cluster.argument("--ready-timeout").argument(LIMIT);
    let with =
        |cluster: Cluster<'a>, listener: &&str| cluster.argument("--listen").argument(*listener);
    listeners.iter().fold(cluster, with)
}

fn said(cluster: &Cluster<'_>, text: &str) {
    wait_until(&format!("{text:?} in the log"), Duration::from_secs(10), || {
        cluster.log().contains(text)
    });
}

fn answers_are_told(lab: &Lab) {
    let command = answering(lab, "204");
    let mut cluster = Cluster::new(lab, 2).argument("--ready").argument("http:/healthz");
    cluster = cluster.argument("--ready-timeout").argument(LIMIT).start_with(&command, 2);
    fs::write(lab.directory().join("code"), "400").unwrap();
    let error = cluster.fail("reload", &[]);
    let expected = "answers the probe http:/healthz (at 127.0.0.1:2000";
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("Host 10.9.0.1) with 400 Bad Request, not with 2xx"), "{error}");
    cluster.succeed("stop", &["--now"]);
    cluster.master().wait(Duration::from_secs(10));
    // The same with the Host that it takes.
    let cluster = Cluster::new(lab, 2).argument("--ready").argument("http://www.example/healthz");
    cluster.argument("--ready-timeout").argument(LIMIT).start_with(&command, 2).reload();
}

fn no_http(lab: &Lab) {
    let server = "
import os, socket
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('::', int(os.environ['PORT'])))
s.listen()
while True:
    client, _ = s.accept()
    client.sendall(b'220 mail.example ESMTP\\r\\n')
    client.close()
";
    let mut cluster = own_sockets(lab, &["10.9.0.1:80"]).argument("--ready").argument("http:/");
    cluster.start_master(&["python3".into(), "-c".into(), server.into()]);
    said(&cluster, "answers no HTTP to the probe http:/");
    said(&cluster, "did not answer the probe with 2xx within 5s");
}

/// A server that listens on these addresses: pairs of an address and a port or a variable.
fn listening(addresses: &[(&str, &str)], v6only: bool) -> Vec<OsString> {
    let server = "
import os, select, socket, sys
all = []
v6only = int(sys.argv[1])
for address, port in zip(sys.argv[2::2], sys.argv[3::2]):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ':' in address:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    s.bind((address, int(os.environ.get(port, port))))
    s.listen()
    all.append(s)
while True:
    for s in select.select(all, [], [])[0]:
        s.accept()[0].close()
";
    let v6only = u8::from(v6only).to_string();
    let arguments = addresses.iter().flat_map(|(address, port)| [*address, *port]);
    let command = ["python3", "-c", server, &v6only].into_iter().chain(arguments);
    command.map(OsString::from).collect()
}

fn elsewhere(lab: &Lab) {
    let mut cluster = own_sockets(lab, &["0.0.0.0:80"]);
    cluster.start_master(&listening(&[("127.0.0.1", "5000")], false));
    said(&cluster, "listens on 127.0.0.1:5000, not on 20000: have it take its port from PORT");
    said(
        &cluster,
        "did not listen on all its ports within 5s: the worker listens on 127.0.0.1:5000",
    );
}

fn one_of_two(lab: &Lab) {
    let mut cluster = own_sockets(lab, &["0.0.0.0:80", "0.0.0.0:443"]);
    cluster.start_master(&listening(&[("0.0.0.0", "PORT")], false));
    said(&cluster, "does not listen for public port 443/tcp, which is one of 2");
    said(&cluster, "(IPCLUSTER_PORT_443)");
}

fn ipv6_only(lab: &Lab) {
    let mut cluster = own_sockets(lab, &["0.0.0.0:80", "[::]:80"]);
    cluster.start_master(&listening(&[("::", "PORT")], true));
    said(&cluster, "has IPV6_V6ONLY, as with `uvicorn --host ::`");
    cluster.succeed("stop", &["--now"]);
    cluster.master().wait(Duration::from_secs(10));
    // Control: the same without the option.
    let cluster = own_sockets(lab, &["0.0.0.0:80", "[::]:80"]);
    cluster.start_with(&listening(&[("::", "PORT")], false), 1);
}

fn one_address(lab: &Lab) {
    let mut cluster = own_sockets(lab, &["0.0.0.0:80"]);
    cluster.start_master(&listening(&[("10.9.0.1", "PORT")], false));
    said(
        &cluster,
        "listens on 10.9.0.1:20000 alone, and clients of 80/tcp come by other addresses too",
    );
    assert_eq!(cluster.status().live().len(), 0);
    cluster.succeed("stop", &["--now"]);
    cluster.master().wait(Duration::from_secs(10));
    // Control: where no other address is listened on, that is enough.
    let cluster = own_sockets(lab, &["10.9.0.1:80"]);
    cluster.start_with(&listening(&[("10.9.0.1", "PORT")], false), 1);
}

fn ipv6_listener(lab: &Lab) {
    let said = "takes clients with IPv6 addresses alone";
    let cluster = own_sockets(lab, &["[::]:80"]).start(1);
    assert!(cluster.log().contains(said), "{}", cluster.log());
    cluster.succeed("stop", &["--now"]);
    drop(cluster);
    // Both, or an address that is no wildcard: nothing is said.
    let cluster = own_sockets(lab, &["[::]:80", "0.0.0.0:80", "[fd09::1]:81"]).start(1);
    assert!(!cluster.log().contains(said), "{}", cluster.log());
    let load = Load::to([Network::server_v4(80)]).from(Network::clients_v4(10)).connections(10);
    assert_eq!(load.start(lab.client()).unwrap().wait().failed(), 0);
}
