use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, broadcast};
use tokio::time::Instant;

use super::*;
use crate::http::source::EventSource;
use crate::plan::{ClusterName, Generation, Seat, Slot};
use crate::protocol::{ClientAddress, EventRecord, Explanation, SlotTable, Status};

/// A master that counts how often it is asked, and answers while nobody holds it up.
#[derive(Clone)]
struct Master {
    asked: Arc<AtomicUsize>,
    held_up: Arc<Mutex<()>>,
    serving: u32,
    events: broadcast::Sender<String>,
}

impl Master {
    fn new(serving: u32) -> Self {
        let events = broadcast::channel(4).0;
        Self { asked: Arc::default(), held_up: Arc::default(), serving, events }
    }
}

impl EventSource for broadcast::Receiver<String> {
    async fn next(&mut self) -> Option<Vec<EventRecord>> {
        Some(vec![EventRecord::new(&self.recv().await.ok()?)])
    }
}

impl StatusSource for Master {
    type Events = broadcast::Receiver<String>;

    async fn explain(&self, client: ClientAddress) -> Result<Explanation, Refusal> {
        let ClientAddress { address, port } = client;
        if address.is_unspecified() {
            return Err(Refusal::Unserved { address });
        }
        Ok(Explanation {
            schema: 1,
            address,
            port,
            slot: Slot(5),
            home: Seat(1),
            seat: Seat(1),
            pid: Some(4242),
            generation: Generation(7),
            ports: std::collections::BTreeMap::new(),
            tcp_ports: std::collections::BTreeSet::new(),
            udp_ports: std::collections::BTreeSet::new(),
            why: vec!["because".to_owned()],
        })
    }

    async fn slot_table(&self) -> Result<SlotTable, Refusal> {
        let runs = vec![(Seat(0), 4), (Seat(1), 4)];
        Ok(SlotTable { schema: 1, generation: Generation(7), slots: 8, runs })
    }

    fn events(&self) -> Self::Events {
        self.events.subscribe()
    }

    async fn status(&self) -> Result<Status, Refusal> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.held_up.lock().await);
        if self.serving == u32::MAX {
            return Err(Refusal::Ended);
        }
        let text = r#"{"schema": 1, "name": "web", "pid": 1, "generation": 7, "listeners": [],
            "partition": "hash", "slots": 8, "workers": []}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(
            (&status.name, status.generation),
            (&"web".parse::<ClusterName>().unwrap(), Generation(7))
        );
        Ok(Status { serving: self.serving, ..status })
    }
}

/// A server of this master; it ends with the set.
fn serve(master: &Master, limits: HttpLimits) -> (SocketAddr, JoinSet<Infallible>) {
    let server = HttpServer::bind("127.0.0.1:0".parse().unwrap(), limits).unwrap();
    let address = server.listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.serve(master.clone()));
    (address, tasks)
}

/// What comes back on these bytes, until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await
}

#[tokio::test]
async fn each_page_has_its_form() {
    let (address, _server) = serve(&Master::new(2), HttpLimits::default());
    let metrics = get(address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(metrics.contains("connection: close\r\n"));
    assert!(metrics.contains("\nipcluster_generation 7\n"));
    assert!(get(address, "/healthz?x=1").await.ends_with("\r\n\r\nok\n"));
    let page = get(address, "/").await;
    assert!(page.contains("content-type: text/plain; charset=utf-8\r\n"));
    assert!(page.contains("cluster    web\ngeneration 7\n"), "{page}");
    assert!(get(address, "/metrics/").await.starts_with("HTTP/1.1 404 "));
    let post = "POST /metrics HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\nx";
    let refusal = exchange(address, post).await;
    assert!(refusal.starts_with("HTTP/1.1 405 "), "{refusal}");
    assert!(refusal.contains("allow: GET, HEAD\r\n"));
    let head = exchange(address, "HEAD /healthz HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(exchange(address, "\x16\x03\x01\x02\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_browser_gets_the_page_and_nothing_of_others() {
    let (address, _server) = serve(&Master::new(2), HttpLimits::default());
    let browser = "GET / HTTP/1.1\r\nHost: web\r\n\
        Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n\r\n";
    let page = exchange(address, browser).await;
    assert!(page.contains("content-type: text/html; charset=utf-8\r\n"), "{page}");
    assert!(page.contains("vary: accept\r\n"), "{page}");
    let policy = page.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
    for part in
        ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    for file in ["/page.css", "/page.js"] {
        let name = &file[1..];
        assert!(page.contains(&format!("\"{name}\"")), "the page names {name}");
        assert!(get(address, file).await.starts_with("HTTP/1.1 200 OK\r\n"), "{file}");
    }
    let all = [&page, &get(address, "/page.css").await, &get(address, "/page.js").await]
        .map(|file| file.replace("http://www.w3.org/2000/svg", ""));
    assert!(!all.iter().any(|file| file.contains("http://") || file.contains("https://")));
    assert!(!page.contains("style=") && !page.contains("onclick"), "the policy forbids them");
}

#[tokio::test]
async fn every_answer_forbids_frames_and_guesses() {
    let (address, _server) = serve(&Master::new(2), HttpLimits::default());
    let pages =
        ["/", "/page.js", "/metrics", "/healthz", "/status.json", "/slots.json", "/explain", "/x"];
    for path in pages {
        let answer = get(address, path).await;
        for header in [
            "x-frame-options: DENY\r\n",
            "x-content-type-options: nosniff\r\n",
            "frame-ancestors 'none'\r\n",
            "cache-control: no-store\r\n",
            "cross-origin-resource-policy: same-origin\r\n",
        ] {
            assert!(answer.contains(header), "{path}: {header} in {answer}");
        }
    }
}

#[tokio::test]
async fn where_a_client_goes_is_explained() {
    let (address, _server) = serve(&Master::new(2), HttpLimits::default());
    let explained = get(address, "/explain?address=2001%3Adb8%3A%3A7").await;
    assert!(explained.contains("content-type: application/json\r\n"), "{explained}");
    assert!(explained.contains(r#""address":"2001:db8::7","slot":5"#), "{explained}");
    let slots = get(address, "/slots.json").await;
    assert!(slots.contains(r#""slots":8,"runs":[[0,4],[1,4]]"#), "{slots}");
    assert!(get(address, "/explain?address=0.0.0.0").await.starts_with("HTTP/1.1 503 "));
    for query in ["", "?address=", "?address=web.example", "?address=1.2.3"] {
        let answer = get(address, &format!("/explain{query}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("is no IP address: expected one such as 192.0.2.7"), "{answer}");
    }
    let json = get(address, "/status.json").await;
    let (_, body) = json.split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Status>(body).unwrap().generation, Generation(7));
}

/// A client of `/events`, and what it has read.
struct Viewer {
    stream: TcpStream,
    text: String,
}

impl Viewer {
    async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
        Self { stream, text: String::new() }
    }

    /// Reads until this was told so often.
    async fn until(&mut self, wanted: &str, times: usize) {
        while self.text.matches(wanted).count() < times {
            let mut bytes = [0; 4096];
            let read = timeout(Duration::from_secs(20), self.stream.read(&mut bytes));
            let count = read.await.unwrap_or_else(|_| panic!("{wanted}: {}", self.text)).unwrap();
            assert!(count > 0, "the end: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

#[tokio::test]
async fn what_happens_is_told_at_once_and_the_status_after_it() {
    let master = Master::new(2);
    let (address, _server) = serve(&master, HttpLimits::default());
    let mut viewer = Viewer::open(address).await;
    viewer.until("event: status\ndata: {\"schema\":1,", 1).await;
    assert!(viewer.text.contains("content-type: text/event-stream\r\n"), "{}", viewer.text);
    assert!(viewer.text.contains("retry: 1000\n\n"), "{}", viewer.text);
    master.events.send("died".to_owned()).unwrap();
    viewer.until("event: happened\ndata: {\"event\":\"died\",\"time\":0.0}\n\n", 1).await;
    let before = viewer.text.matches("event: status").count();
    viewer.until("event: status", before + 1).await;
}

#[tokio::test]
async fn while_nobody_looks_nothing_is_asked_for() {
    let master = Master::new(2);
    let (address, _server) =
        serve(&master, HttpLimits { age: Duration::ZERO, ..HttpLimits::default() });
    let mut viewer = Viewer::open(address).await;
    viewer.until("event: status", 2).await;
    drop(viewer);
    while master.events.receiver_count() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let asked = master.asked.load(Ordering::Relaxed);
    sleep(crate::http::live::INTERVAL * 2).await;
    assert_eq!(master.asked.load(Ordering::Relaxed), asked);
}

#[tokio::test]
async fn places_for_viewers_are_few_and_leave_room_for_others() {
    let master = Master::new(2);
    let limits = HttpLimits { connections: 3, streams: 2, ..HttpLimits::default() };
    let (address, _server) = serve(&master, limits);
    let mut viewers = Vec::new();
    for _ in 0..2 {
        let mut viewer = Viewer::open(address).await;
        viewer.until("event: status", 1).await;
        viewers.push(viewer);
    }
    let turned_away = get(address, "/events").await;
    assert!(turned_away.starts_with("HTTP/1.1 503 "), "{turned_away}");
    assert!(get(address, "/healthz").await.ends_with("ok\n"));
    let head = exchange(address, "HEAD /events HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    drop(viewers);
    while master.events.receiver_count() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    Viewer::open(address).await.until("event: status", 1).await;
}

#[tokio::test]
async fn a_viewer_that_reads_nothing_loses_its_place() {
    let master = Master::new(2);
    let limits = HttpLimits { stall: Duration::from_millis(300), ..HttpLimits::default() };
    let (address, _server) = serve(&master, limits);
    let _viewer = Viewer::open(address).await;
    while master.events.receiver_count() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    // Much more than the buffers of both ends hold.
    let large = "x".repeat(256 * 1024);
    let deadline = Instant::now() + Duration::from_secs(20);
    while master.events.receiver_count() > 0 {
        assert!(Instant::now() < deadline, "it has its place still");
        let _ = master.events.send(large.clone());
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn health_is_that_new_connections_are_served() {
    for (serving, expected) in [(0, "503"), (1, "200"), (u32::MAX, "503")] {
        let (address, _server) = serve(&Master::new(serving), HttpLimits::default());
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{answer}");
    }
}

#[tokio::test]
async fn many_requests_are_one_for_the_master() {
    let master = Master::new(1);
    let limits = HttpLimits { age: Duration::from_secs(3600), ..HttpLimits::default() };
    let (address, _server) = serve(&master, limits);
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        requests.spawn(async move { get(address, "/metrics").await });
    }
    while let Some(answer) = requests.join_next().await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(master.asked.load(Ordering::Relaxed), 1);

    let (address, _server) = serve(&master, HttpLimits { age: Duration::ZERO, ..limits });
    get(address, "/").await;
    get(address, "/").await;
    assert_eq!(master.asked.load(Ordering::Relaxed), 3, "an answer that is too old is none");
}

#[tokio::test]
async fn slow_clients_lose_their_place() {
    let limits = HttpLimits {
        connections: 2,
        header: Duration::from_millis(200),
        connection: Duration::from_secs(3600),
        ..HttpLimits::default()
    };
    let (address, _server) = serve(&Master::new(1), limits);
    let mut slow = Vec::new();
    for sent in ["", "GET /metrics HTTP/1.1\r\nHo"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // Waits for one of the two places, and gets it.
    assert!(get(address, "/healthz").await.ends_with("ok\n"));
    for mut stream in slow {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn health_is_told_beside_two_hundred_clients_that_send_nothing() {
    let limits = HttpLimits {
        header: Duration::from_secs(3600),
        connection: Duration::from_secs(3600),
        ..HttpLimits::default()
    };
    let (address, _server) = serve(&Master::new(1), limits);
    let mut slow = Vec::new();
    for _ in 0..200 {
        slow.push(TcpStream::connect(address).await.unwrap());
        if slow.len() % 50 == 0 {
            assert!(get(address, "/healthz").await.ends_with("ok\n"), "beside {}", slow.len());
        }
    }
    // The oldest were closed, the youngest are there.
    assert_eq!(slow[0].read(&mut [0]).await.unwrap_or(0), 0);
    let youngest = slow.last_mut().unwrap();
    let mut byte = [0];
    let waited = timeout(Duration::from_millis(50), youngest.read(&mut byte)).await;
    assert!(waited.is_err(), "{waited:?}");
}

#[tokio::test]
async fn a_viewer_keeps_its_place_however_many_come_after_it() {
    let (address, _server) = serve(&Master::new(1), HttpLimits::default());
    let mut viewer = Viewer::open(address).await;
    viewer.until("event: status", 1).await;
    let slow: Vec<TcpStream> = futures_of((0..100).map(|_| TcpStream::connect(address))).await;
    assert!(get(address, "/healthz").await.ends_with("ok\n"));
    viewer.until("event: status", 2).await;
    drop(slow);
}

/// All of these, one after the other.
async fn futures_of<T>(
    all: impl Iterator<Item = impl Future<Output = std::io::Result<T>>>,
) -> Vec<T> {
    let mut done = Vec::new();
    for one in all {
        done.push(one.await.unwrap());
    }
    done
}

#[tokio::test]
async fn a_master_that_does_not_answer_holds_its_clients_for_no_longer_than_the_limit() {
    let master = Master::new(1);
    let limits = HttpLimits { connection: Duration::from_millis(300), ..HttpLimits::default() };
    let (address, _server) = serve(&master, limits);
    let held = master.held_up.lock().await;
    assert_eq!(get(address, "/healthz").await, "");
    drop(held);
    assert!(get(address, "/healthz").await.ends_with("ok\n"), "the next one is served");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = HttpServer::bind(address, HttpLimits::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("http.listen: cannot listen on {address}: ")), "{text}");
    assert!(error.hint().unwrap().contains("choose another address (`http.listen`)"));
    let foreign = HttpServer::bind("192.0.2.1:9180".parse().unwrap(), HttpLimits::default());
    assert!(foreign.unwrap_err().to_string().contains("192.0.2.1:9180"));
}
