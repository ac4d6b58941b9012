//! A release on probation: new workers that fail after they have come into force are replaced by those
//! before them, which were kept.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipcluster::lab::{Load, Network, Pace, Report, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Need, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_syntax_error_behind_gunicorn_is_a_reload_that_fails", syntax_error)
            .needs(Need::Gunicorn)
            .busy()
            .with_both_engines(),
        Case::new("control_without_probation_a_program_that_throws_refuses_its_clients", control)
            .needs(Need::Node)
            .busy()
            .with_both_engines(),
        Case::new("a_node_program_that_throws_a_second_after_it_listens_goes_back", throws)
            .needs(Need::Node)
            .busy()
            .with_both_engines(),
        Case::new("workers_that_end_at_their_first_request_go_back", first_request)
            .needs(Need::Python)
            .busy()
            .with_both_engines(),
        Case::new("a_reload_returns_when_its_probation_is_over", passed),
        Case::new("without_waiting_a_reload_returns_when_it_is_in_force", no_wait),
        Case::new("another_reload_replaces_what_is_on_probation", replaced),
        Case::new("a_scale_that_fails_on_probation_goes_back", scale),
        Case::new("the_next_master_goes_on_with_a_probation", handed_over),
        Case::new("a_probation_outlives_a_crash_of_the_master", crashed),
        Case::new("a_changed_configuration_that_fails_goes_back", reconfigured),
        Case::new("clients_of_earlier_releases_wait_too", earlier_client),
    ]
}

/// A server whose source is one file, under load.
struct Release<'a> {
    cluster: Cluster<'a>,
    source: PathBuf,
    load: RunningLoad,
}

impl<'a> Release<'a> {
    fn start(
        lab: &'a Lab,
        cluster: Cluster<'a>,
        file: &str,
        text: &str,
        command: &[OsString],
    ) -> Self {
        let source = lab.directory().join(file);
        std::fs::write(&source, text).unwrap();
        let mut cluster = cluster.argument("--server").argument("none");
        cluster.start_master(command);
        cluster.wait_for_live(2);
        let load = Load::to([Network::server_v4(80)])
            .from(Network::clients_v4(100))
            .pace(Pace::Rate(50.0))
            .time_out(Duration::from_secs(10))
            .start(lab.client())
            .unwrap();
        let release = Self { cluster, source, load };
        release.answers(100);
        release
    }

    fn answers(&self, more: u64) {
        let goal = self.load.counters().answered + more;
        wait_until("answers", Duration::from_secs(30), || self.load.counters().answered >= goal);
    }

    /// Reloads, which fails: the workers before serve, and no connection that begins from then on is lost.
    /// Returns what was printed, and how it went for clients.
    fn fails(mut self) -> (String, Report) {
        let before = self.cluster.status();
        let began = Instant::now();
        let error = self.cluster.fail("reload", &[]);
        let over = Instant::now();
        println!("{:?}: {error}", over - began);
        let after = self.cluster.status();
        assert_eq!((after.generation, after.pids()), (1, before.pids()), "{error}");
        self.answers(150);
        let report = self.load.stop();
        println!("{report}");
        let begun = report.failures().iter().map(|failure| failure.at - failure.after);
        let outside: Vec<_> = begun.filter(|at| *at < began || *at > over).collect();
        assert!(outside.is_empty(), "{} lost outside of the reload: {report}", outside.len());
        self.cluster.wait_until_settled(2);
        (error, report)
    }
}

/// Text of WSGI and plain servers that answer as the lab expects it.
const IDENTITY: &str = "
import os
def identity():
    return f\"{os.getpid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\\n\".encode()
";

fn gunicorn<'a>(lab: &'a Lab, probation: &'static str) -> Release<'a> {
    let text = format!(
        "{IDENTITY}
def app(environ, start_response):
    body = identity()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]
"
    );
    let command = ["gunicorn", "--worker-tmp-dir", "/dev/shm", "--chdir"].map(OsString::from);
    let rest = [lab.directory().as_os_str().to_owned(), "app:app".into()];
    let command: Vec<OsString> = command.into_iter().chain(rest).collect();
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 2).on_probation(probation);
    Release::start(lab, cluster, "app.py", &text, &command)
}

/// The workers of gunicorn import the application after its master listens. Whether that is seen before they
/// come into force or on probation: the reload fails, and generation 1 serves.
fn syntax_error(lab: &Lab) {
    let release = gunicorn(lab, "10s");
    append(&release.source, "x = (\n");
    let (error, report) = release.fails();
    assert!(error.contains("SyntaxError"), "{error}");
    let serving = ["generation 1 serves again", "the old workers keep serving"];
    assert!(serving.iter().any(|it| error.contains(it)), "{error}");
    // No more than came while the new workers were in force: a second or so.
    assert!(report.failed() <= 80, "{report}");
}

/// A program that throws, without a probation: the reload is said to be done, and clients are refused again
/// and again.
fn control(lab: &Lab) {
    let mut release = node(lab, "0");
    append(&release.source, THROW);
    release.cluster.reload();
    let load = &release.load;
    wait_until("many failures", Duration::from_secs(60), || load.counters().failed > 100);
    release.cluster.wait_for("the end of generation 1", |status| {
        status.generation == 2 && !status.workers.iter().any(|it| it.generation == 1)
    });
    let refused = release.cluster.fail("rollback", &[]);
    assert!(refused.contains("error: generation 1 cannot serve again"), "{refused}");
    println!("{}", release.load.stop());
}

fn append(file: &PathBuf, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

const THROW: &str = "setTimeout(() => { throw new Error('no database') }, 1000);\n";

fn node<'a>(lab: &'a Lab, probation: &'static str) -> Release<'a> {
    let server = "
const { IPCLUSTER_SEAT: seat, IPCLUSTER_GENERATION: generation, PORT, LISTEN_FDS } = process.env;
require('http').createServer((request, response) => {
    const body = `${process.pid} ${seat} ${generation}\\n`;
    response.writeHead(200, { 'Content-Length': body.length, 'Connection': 'close' });
    response.end(body);
}).listen(LISTEN_FDS ? { fd: 3 } : { port: PORT, host: '0.0.0.0' });
";
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 2).on_probation(probation);
    let command = ["node".into(), lab.directory().join("server.js").into()];
    Release::start(lab, cluster, "server.js", server, &command)
}

fn throws(lab: &Lab) {
    let release = node(lab, "10s");
    append(&release.source, THROW);
    let (error, report) = release.fails();
    assert!(error.contains("error: generation 2 failed on probation"), "{error}");
    assert!(error.contains("Error: no database"), "{error}");
    assert!(error.contains("generation 1 serves again"), "{error}");
    // It has answered for a second: those are lost that were on their way to it when it ended.
    assert!(report.workers().keys().any(|by| by.generation == 2), "{report}");
    assert!(report.failed() <= 20, "{report}");
}

/// It passes its probe, and ends at its first other request.
fn first_request(lab: &Lab) {
    let server = format!(
        "{IDENTITY}
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != '/healthz':
            first_request()
        body = identity()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        if 'LISTEN_FDS' in os.environ:
            self.socket = socket.socket(fileno=3)
        else:
            super().server_bind()
    def server_activate(self):
        if 'LISTEN_FDS' not in os.environ:
            super().server_activate()
def first_request():
    pass
exec(open(sys.argv[1]).read())
Server(('0.0.0.0', int(os.environ['PORT'])), Handler).serve_forever()
"
    );
    let file = lab.directory().join("release.py");
    std::fs::write(&file, "").unwrap();
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 2).on_probation("10s");
    let cluster = cluster.argument("--ready").argument("http:/healthz");
    let source = lab.directory().join("server.py");
    let command = ["python3".into(), source.into_os_string(), file.clone().into_os_string()];
    let release = Release::start(lab, cluster, "server.py", &server, &command);
    let broken = "def first_request():\n    print('no such table', flush=True)\n    os._exit(3)\n";
    std::fs::write(&file, broken).unwrap();
    let (error, report) = release.fails();
    assert!(error.contains("error: generation 2 failed on probation"), "{error}");
    assert!(error.contains("exited with status 3"), "{error}");
    assert!(error.contains("no such table"), "{error}");
    assert!(report.failed() <= 20, "{report}");
}

/// A cluster of greeters that can be told to end some time after they were started.
fn greeters<'a>(lab: &'a Lab, probation: &'static str) -> Cluster<'a> {
    Cluster::new(lab, 2).on_probation(probation).start_adjustable(2)
}

fn end_after(cluster: &Cluster<'_>, seconds: &str) {
    cluster.set_greeters(&format!("(sleep {seconds}; echo giving up; kill -KILL $$) &"));
}

fn passed(lab: &Lab) {
    // As long as by default.
    let cluster = Cluster::new(lab, 2).on_probation(None);
    let cluster = cluster.argument("--http-listen").argument("127.0.0.1:9180");
    let mut cluster = cluster.start_adjustable(2);
    let before = cluster.status().pids();
    let began = Instant::now();
    let mut reload = cluster.begin("reload", &[]);
    let status = cluster.wait_for("the new generation", |status| status.generation == 2);
    let standby: Vec<u32> =
        status.workers.iter().filter(|it| it.standby).filter_map(|it| it.pid).collect();
    assert_eq!(standby.len(), 2, "{status:?}");
    assert!(standby.iter().all(|pid| before.values().any(|it| it == pid)), "{status:?}");
    let table = cluster.succeed("status", &[]);
    assert!(table.contains("probation  generation 2, "), "{table}");
    assert!(table.contains("2 workers of generation 1 on standby"), "{table}");
    let refused = cluster.fail("scale", &["3"]);
    assert!(refused.contains("generation 2 is on probation after a reload"), "{refused}");
    let metrics = page(lab, "/metrics");
    assert!(metrics.contains("ipcluster_rollout_on_probation 1\n"), "{metrics}");
    assert!(reload.wait(Duration::from_secs(30)).success(), "{}", reload.output());
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(reload.output().contains("on probation for 10s"), "{}", reload.output());
    assert!(reload.output().contains("generation 2 is in force: 2 workers"), "{}", reload.output());
    cluster.wait_until_settled(2);
    assert!(page(lab, "/metrics").contains("ipcluster_rollout_on_probation 0\n"));
    assert!(cluster.log().contains("generation 2 has passed its probation"), "{}", cluster.log());
}

fn page(lab: &Lab, path: &str) -> String {
    use std::io::Read;
    let connect = || std::net::TcpStream::connect("127.0.0.1:9180");
    let mut stream = lab.server().run_in(connect).unwrap().unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn no_wait(lab: &Lab) {
    let mut cluster = greeters(lab, "2s");
    let before = cluster.status().pids();
    end_after(&cluster, "0.7");
    let told = cluster.succeed("reload", &["--no-wait"]);
    assert!(told.contains("generation 2 is in force: 2 workers"), "{told}");
    let status = cluster.wait_for("the way back", |status| status.generation == 1);
    assert_eq!(status.pids(), before);
    wait_until("the log", Duration::from_secs(5), || {
        cluster.log().contains("generation 1 serves again, in place of generation 2")
    });
    assert!(cluster.log().contains("generation 2 failed on probation"), "{}", cluster.log());
    cluster.wait_until_settled(2);
}

fn replaced(lab: &Lab) {
    let mut cluster = greeters(lab, "5s");
    let before = cluster.status().pids();
    let mut first = cluster.begin("reload", &[]);
    cluster.wait_for("the new generation", |status| status.generation == 2);
    end_after(&cluster, "1");
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("generation 3 failed on probation"), "{error}");
    assert!(error.contains("generation 1 serves again"), "{error}");
    assert!(error.contains("giving up"), "{error}");
    assert_eq!(first.wait(Duration::from_secs(5)).code(), Some(1), "{}", first.output());
    let expected = "generation 2 was replaced by a reload before its probation was over";
    assert!(first.output().contains(expected), "{}", first.output());
    let status = cluster.wait_until_settled(2);
    assert_eq!((status.generation, status.pids()), (1, before));
    // The cure.
    cluster.set_greeters("");
    cluster.reload();
    assert_eq!(cluster.wait_until_settled(2).generation, 4);
}

fn scale(lab: &Lab) {
    let mut cluster = greeters(lab, "3s");
    let before = cluster.status().pids();
    end_after(&cluster, "0.3");
    let error = cluster.fail("scale", &["4"]);
    assert!(error.contains("the scale of generation 1 failed on probation"), "{error}");
    assert!(error.contains("the cluster has 2 workers again"), "{error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), before);
    cluster.set_greeters("");
    cluster.succeed("scale", &["3"]);
    assert_eq!(cluster.wait_until_settled(3).generation, 1);
}

/// A cluster whose reload has come into force, and whose new workers end `after` their start.
fn on_probation<'a>(
    lab: &'a Lab,
    after: &str,
) -> (Cluster<'a>, std::collections::BTreeMap<u16, u32>) {
    let mut cluster = greeters(lab, "10s");
    let before = cluster.status().pids();
    end_after(&cluster, after);
    cluster.succeed("reload", &["--no-wait"]);
    cluster.wait_for("the new generation", |status| status.generation == 2);
    (cluster, before)
}

fn handed_over(lab: &Lab) {
    let (mut cluster, before) = on_probation(lab, "3");
    let command = cluster.adjustable_command();
    let mut old = cluster.replace_master(&command);
    assert!(old.wait(Duration::from_secs(10)).success(), "{}", old.output());
    let status = cluster.status();
    assert_eq!((status.generation, status.workers.iter().filter(|it| it.standby).count()), (2, 2));
    let status = cluster.wait_for("the way back", |status| status.generation == 1);
    assert_eq!(status.pids(), before);
    cluster.wait_until_settled(2);
}

fn crashed(lab: &Lab) {
    let (mut cluster, before) = on_probation(lab, "3");
    cluster.kill_master();
    let command = cluster.adjustable_command();
    cluster.start_master(&command);
    cluster.wait_for("the next master", |status| status.generation == 2);
    let status = cluster.wait_for("the way back", |status| status.generation == 1);
    assert_eq!(status.pids(), before);
    cluster.wait_until_settled(2);
}

/// Another command for the workers that are adopted.
fn reconfigured(lab: &Lab) {
    let mut cluster = greeters(lab, "5s");
    let before = cluster.status().pids();
    let script = "(sleep 1; echo giving up; kill -KILL $$) & exec \"$0\"";
    let command: [OsString; 4] =
        ["sh".into(), "-c".into(), script.into(), netns_tests::greeter().into()];
    cluster.terminate_master();
    cluster.start_master(&command);
    cluster.wait_for("the new generation", |status| status.generation == 2);
    let status = cluster.wait_for("the way back", |status| status.generation == 1);
    assert_eq!(status.pids(), before);
    wait_until("the log", Duration::from_secs(5), || {
        cluster.log().contains("the configuration is not in force")
    });
}

/// The line that a client sends which knows of no probation.
fn earlier_client(lab: &Lab) {
    let mut cluster = greeters(lab, "2s");
    let directories = [PathBuf::from("/run"), lab.directory().to_owned()];
    let mut sockets = directories.iter().map(|it| it.join("ipcluster/t.sock"));
    let stream = sockets.find_map(|it| UnixStream::connect(it).ok()).expect("a control socket");
    let began = Instant::now();
    (&stream).write_all(b"{\"v\":1,\"command\":\"reload\"}\n").unwrap();
    let mut lines = BufReader::new(&stream).lines().map(Result::unwrap);
    let answer = lines.find(|line| !line.starts_with("{\"progress\"")).expect("an answer");
    assert!(answer.starts_with(r#"{"ok":{"reloaded":{"generation":2,"workers":2,"#), "{answer}");
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(cluster.wait_until_settled(2).generation, 2);
}
