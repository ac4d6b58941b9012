use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::plan::{ClusterName, Generation};

/// A master that counts how often it is asked, and answers while nobody holds it up.
#[derive(Clone)]
struct Master {
    asked: Arc<AtomicUsize>,
    held_up: Arc<Mutex<()>>,
    serving: u32,
}

impl Master {
    fn new(serving: u32) -> Self {
        Self { asked: Arc::default(), held_up: Arc::default(), serving }
    }
}

impl StatusSource for Master {
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
