//! Asking a worker over HTTP whether it is well.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::master::workers::probed_port;
use crate::plan::{Listener, Listeners, Port, Protocol};
use crate::process::OwnConnections;
use crate::protocol::{HttpProbe, HttpScheme, ProbeFault, ProbeOutcome};
use crate::supervisor::ProbeResult;

/// The most of an answer's head that is read, in bytes.
const HEAD: usize = 16 * 1024;

/// The most of its body, which is read only so that the worker can send it to its end.
const BODY: usize = 64 * 1024;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct ProbeRequest {
    /// As the configuration says it.
    pub(super) probe: HttpProbe,
    /// The Host to ask for.
    pub(super) host: String,
    /// How long it may take.
    pub(super) patience: Duration,
}

impl ProbeRequest {
    /// What the probe asks workers of these listeners, and the public port whose worker port is asked:
    /// that of the probe's Host, the usual one of its scheme, or the first.
    pub(super) fn new(probe: &HttpProbe, listeners: &Listeners, patience: Duration) -> Self {
        let host = match (probe.host(), probed_port(probe, listeners)) {
            (Some(host), _) => host.to_owned(),
            (None, Some(port)) => host_of(probe, port, listeners),
            (None, None) => String::from("localhost"),
        };
        Self { probe: probe.clone(), host, patience }
    }

    /// What is told of a worker that has not answered for so long.
    pub(super) fn unanswered(&self, address: SocketAddr, limit: Duration) -> ProbeFault {
        self.fault(address, ProbeOutcome::TimedOut { limit })
    }

    fn fault(&self, address: SocketAddr, outcome: ProbeOutcome) -> ProbeFault {
        let (probe, host) = (self.probe.to_string(), self.host.clone());
        ProbeFault { probe, address, host, outcome }
    }
}

/// The Host of a listener on this port: its address, or `localhost` for all addresses of the host.
fn host_of(probe: &HttpProbe, port: Port, listeners: &Listeners) -> String {
    let is_on = |it: &&Listener| it.port() == port && it.protocol() == Protocol::Tcp;
    let host = match listeners.iter().find(is_on).map(Listener::address) {
        Some(IpAddr::V4(address)) if !address.is_unspecified() => address.to_string(),
        Some(IpAddr::V6(address)) if !address.is_unspecified() => format!("[{address}]"),
        _ => String::from("localhost"),
    };
    match port.number() == probe.scheme().default_port() {
        true => host,
        false => format!("{host}:{port}"),
    }
}

/// Asks once, on a connection of its own. It went well if an answer with a status of 2xx came in time,
/// whatever its body; redirects are not followed. Otherwise tells what came of it.
pub(super) async fn probe(
    address: SocketAddr,
    request: &ProbeRequest,
    own: &OwnConnections,
) -> (ProbeResult, Option<ProbeFault>) {
    let fault = |outcome| {
        let fault = request.fault(address, outcome);
        tracing::debug!("the probe failed: the worker {fault}");
        (ProbeResult::Failed, Some(fault))
    };
    let limit = request.patience;
    let asked = timeout(limit, connect_and_ask(address, request, own)).await;
    match asked.unwrap_or(Err(NotPassed::Failed(ProbeOutcome::TimedOut { limit }))) {
        Ok(()) => (ProbeResult::Passed, None),
        Err(NotPassed::Failed(outcome)) => fault(outcome),
        Err(NotPassed::NotMade(error)) => {
            tracing::warn!(%address, %error, "cannot probe a worker");
            (ProbeResult::NotMade, None)
        }
    }
}

/// Why a probe did not go well.
enum NotPassed {
    /// For a reason that is not the worker's.
    NotMade(io::Error),
    Failed(ProbeOutcome),
}

async fn connect_and_ask(
    address: SocketAddr,
    request: &ProbeRequest,
    own: &OwnConnections,
) -> Result<(), NotPassed> {
    let refused = |error: io::Error| match is_ours(&error) {
        true => NotPassed::NotMade(error),
        false => NotPassed::Failed(ProbeOutcome::Refused { error: error.to_string() }),
    };
    let (socket, connection) = own.socket(address).map_err(NotPassed::NotMade)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let stream = socket.connect(address).await.map_err(|error| {
        own.forget(connection);
        refused(error)
    })?;
    let answered = match request.probe.scheme() {
        HttpScheme::Http => ask(stream, request).await,
        HttpScheme::Https => ask_over_tls(stream, request).await,
    };
    if !matches!(answered, Err(AskError::Hyper(ref error)) if error.is_timeout()) {
        // It was accepted, since it was answered or closed.
        own.forget(connection);
    }
    let outcome = match answered {
        Ok(status) if status.is_success() => return Ok(()),
        Ok(status) => ProbeOutcome::Status {
            code: status.as_u16(),
            reason: status.canonical_reason().unwrap_or_default(),
        },
        Err(AskError::Hyper(error)) if error.is_incomplete_message() => ProbeOutcome::Closed,
        Err(AskError::Tls(error)) => ProbeOutcome::Tls { error: error.to_string() },
        Err(error) => ProbeOutcome::NotHttp { error: error.to_string() },
    };
    Err(NotPassed::Failed(outcome))
}

/// Whether an error of connect(2) says something of this process or host, not of the worker.
fn is_ours(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOMEM
                | Errno::ENOBUFS
                | Errno::EADDRNOTAVAIL
                | Errno::EACCES
                | Errno::EPERM
        )
    )
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("cannot be asked: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("{0}")]
    Tls(io::Error),
}

#[cfg(feature = "tls")]
async fn ask_over_tls(stream: TcpStream, request: &ProbeRequest) -> Result<StatusCode, AskError> {
    let stream = super::tls::connect(stream, &request.host).await.map_err(AskError::Tls)?;
    ask(stream, request).await
}

/// The configuration asks for it with the feature alone.
#[cfg(not(feature = "tls"))]
async fn ask_over_tls(_: TcpStream, _: &ProbeRequest) -> Result<StatusCode, AskError> {
    Err(AskError::Tls(io::ErrorKind::Unsupported.into()))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &ProbeRequest,
) -> Result<StatusCode, AskError> {
    let mut http = http1::Builder::new();
    let (mut sender, connection) = http.max_buf_size(HEAD).handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(request.probe.path().as_str())
        .header(HOST, &request.host)
        .header(USER_AGENT, concat!("ipcluster/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(String::new())?;
    let exchange = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        read_body(answer).await;
        Ok::<_, hyper::Error>(status)
    };
    // The connection does the work of the exchange, and ends after it.
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        status = &mut exchange => Ok(status?),
        ended = &mut connection => {
            ended?;
            // All that came has been passed on.
            Ok(exchange.await?)
        }
    }
}

/// Reads a body to its end, or up to [`BODY`] bytes. What is wrong with it does not matter: the status
/// has come.
async fn read_body(answer: Response<Incoming>) {
    let mut body = pin!(answer.into_body());
    let mut read = 0;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        read += frame.data_ref().map_or(0, |data| data.len());
        if read > BODY {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::process::Sockets;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn request(patience: Duration) -> ProbeRequest {
        let listeners = Listeners::new(vec!["0.0.0.0:80".parse().unwrap()]).unwrap();
        ProbeRequest::new(&"/healthz?x=1".parse().unwrap(), &listeners, patience)
    }

    /// How a probe goes of a server that reads a request and then sends this, and what it has read.
    async fn answer(bytes: Vec<u8>) -> (Option<ProbeOutcome>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            // The other side may close before all is sent.
            let _ = stream.write_all(&bytes).await;
            String::from_utf8(request).unwrap()
        });
        let probed = probe(address, &request(PATIENCE), &OwnConnections::default()).await;
        (outcome(probed), served.await.unwrap())
    }

    /// Why a probe has failed; `None`: it passed.
    fn outcome((result, fault): (ProbeResult, Option<ProbeFault>)) -> Option<ProbeOutcome> {
        assert_eq!(result == ProbeResult::Passed, fault.is_none());
        assert_ne!(result, ProbeResult::NotMade);
        fault.map(|fault| fault.outcome)
    }

    #[tokio::test]
    async fn a_status_of_2xx_is_fine_whatever_the_body() {
        let long = vec![b'x'; 10 * BODY];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len());
        for bytes in [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense".to_vec(),
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            b"HTTP/1.1 299 Fine\r\nContent-Length: 0\r\n\r\n".to_vec(),
            [head.as_bytes(), &long].concat(),
        ] {
            let (failed, request) = answer(bytes).await;
            assert_eq!(failed, None);
            assert!(request.starts_with("GET /healthz?x=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.to_lowercase().contains("\r\nhost: localhost\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn everything_else_has_failed_and_is_told() {
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 4 * HEAD]].concat();
        let status = |code, reason| Some(ProbeOutcome::Status { code, reason });
        for (bytes, expected) in [
            (
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(),
                status(503, "Service Unavailable"),
            ),
            (
                b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec(),
                status(302, "Found"),
            ),
            (b"HTTP/1.1 499 X\r\nContent-Length: 0\r\n\r\n".to_vec(), status(499, "")),
            (b"".to_vec(), Some(ProbeOutcome::Closed)),
            (b"HTTP/1.1 200".to_vec(), Some(ProbeOutcome::Closed)),
        ] {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            assert_eq!(answer(bytes).await.0, expected, "{text:?}");
        }
        for bytes in [b"SSH-2.0-x\r\n".to_vec(), endless] {
            let (outcome, _) = answer(bytes).await;
            assert!(matches!(outcome, Some(ProbeOutcome::NotHttp { .. })), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn no_answer_in_time_has_failed_and_so_has_no_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (own, limit) = (OwnConnections::default(), Duration::from_millis(50));
        let slow = probe(address, &request(limit), &own).await;
        assert_eq!(outcome(slow), Some(ProbeOutcome::TimedOut { limit }));
        let mut sockets = Sockets::open().unwrap();
        let ports = BTreeSet::from([address.port()]);
        let waiting = own.queued(&mut sockets, &ports).unwrap();
        assert_eq!(waiting.into_values().collect::<Vec<_>>(), [1], "known for our own");
        drop(listener);
        let refused = outcome(probe(address, &request(PATIENCE), &own).await);
        assert!(matches!(refused, Some(ProbeOutcome::Refused { .. })), "{refused:?}");
    }

    /// Servers of one connection that speak TLS, and then this; and one that does not.
    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn https_is_asked_over_tls_whatever_the_certificate() {
        let status = |code, reason| Some(ProbeOutcome::Status { code, reason });
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
            (
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
                status(503, "Service Unavailable"),
            ),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let served = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream =
                    super::super::tls::testing::acceptor().accept(stream).await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                String::from_utf8(request).unwrap()
            });
            let listeners = Listeners::new(vec!["0.0.0.0:443".parse().unwrap()]).unwrap();
            let probed = "https:/healthz".parse().unwrap();
            let request = ProbeRequest::new(&probed, &listeners, PATIENCE);
            let probed = probe(address, &request, &OwnConnections::default()).await;
            assert_eq!(outcome(probed), expected);
            let asked = served.await.unwrap();
            assert!(asked.starts_with("GET /healthz HTTP/1.1\r\n"), "{asked}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        });
        let listeners = Listeners::new(vec!["0.0.0.0:443".parse().unwrap()]).unwrap();
        let request = ProbeRequest::new(&"https:/".parse().unwrap(), &listeners, PATIENCE);
        let plain = outcome(probe(address, &request, &OwnConnections::default()).await);
        assert!(matches!(plain, Some(ProbeOutcome::Tls { .. })), "{plain:?}");
    }

    #[test]
    fn the_host_is_that_of_the_probe_or_the_listener() {
        for (probe, listeners, port, host) in [
            ("http:/", vec!["0.0.0.0:80"], 80, "localhost"),
            ("http:/", vec!["10.9.0.1:80", "[fd09::1]:443"], 80, "10.9.0.1"),
            ("https:/", vec!["10.9.0.1:80", "[fd09::1]:443"], 443, "[fd09::1]"),
            ("http:/", vec!["[::]:8080", "0.0.0.0:9000"], 8080, "localhost:8080"),
            ("http:/", vec!["10.9.0.1:443"], 443, "10.9.0.1:443"),
            ("http://www.example/", vec!["0.0.0.0:8080"], 8080, "www.example"),
            ("http://www.example:81/", vec!["0.0.0.0:80", "0.0.0.0:81"], 81, "www.example:81"),
            ("http://www.example:82/", vec!["0.0.0.0:80", "0.0.0.0:81"], 80, "www.example:82"),
        ] {
            let listeners = listeners.iter().map(|text| text.parse().unwrap()).collect();
            let listeners = Listeners::new(listeners).unwrap();
            let probe: HttpProbe = probe.parse().unwrap();
            assert_eq!(probed_port(&probe, &listeners), Port::new(port), "{probe}");
            assert_eq!(ProbeRequest::new(&probe, &listeners, PATIENCE).host, host, "{probe}");
        }
    }

    #[test]
    fn what_this_process_lacks_is_not_the_workers_fault() {
        for (errno, expected) in
            [(Errno::EMFILE, true), (Errno::ECONNREFUSED, false), (Errno::ETIMEDOUT, false)]
        {
            assert_eq!(is_ours(&io::Error::from_raw_os_error(errno as i32)), expected, "{errno}");
        }
    }
}
