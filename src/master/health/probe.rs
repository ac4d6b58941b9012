//! Asking a worker over HTTP whether it is well.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::supervisor::ProbeResult;

/// The most of an answer's head that is read, in bytes.
const HEAD: usize = 16 * 1024;

/// The most of its body, which is read only so that the worker can send it to its end.
const BODY: usize = 64 * 1024;

/// Asks once: a GET of `path` at `address`, on a connection of its own. It went well if an answer with
/// status 200 came within `patience`, whatever its body; redirects are not followed.
pub(crate) async fn probe(address: SocketAddr, path: &str, patience: Duration) -> ProbeResult {
    let asked = async {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) if is_ours(&error) => {
                tracing::warn!(%address, %error, "cannot probe a worker");
                return ProbeResult::NotMade;
            }
            Err(error) => {
                tracing::debug!(%address, %error, "a worker refused the connection of a probe");
                return ProbeResult::Failed;
            }
        };
        match ask(stream, address, path).await {
            Ok(StatusCode::OK) => ProbeResult::Passed,
            Ok(status) => {
                tracing::debug!(%address, %status, "the probe of a worker got a status other than 200");
                ProbeResult::Failed
            }
            Err(error) => {
                tracing::debug!(%address, %error, "the probe of a worker failed");
                ProbeResult::Failed
            }
        }
    };
    timeout(patience, asked).await.unwrap_or(ProbeResult::Failed)
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

async fn ask(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let mut http = http1::Builder::new();
    let (mut sender, connection) = http.max_buf_size(HEAD).handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, address.to_string())
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// How a probe goes of a server that reads a request and then sends this.
    async fn answer(bytes: Vec<u8>) -> (ProbeResult, String) {
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
        let probed = probe(address, "/healthz?x=1", PATIENCE).await;
        (probed, served.await.unwrap())
    }

    #[tokio::test]
    async fn status_200_is_fine_whatever_the_body() {
        let long = vec![b'x'; 10 * BODY];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len());
        for bytes in [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense".to_vec(),
            [head.as_bytes(), &long].concat(),
        ] {
            let (probed, request) = answer(bytes).await;
            assert_eq!(probed, ProbeResult::Passed);
            assert!(request.starts_with("GET /healthz?x=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.to_lowercase().contains("\r\nhost: 127.0.0.1:"), "{request}");
        }
    }

    #[tokio::test]
    async fn everything_else_has_failed() {
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 4 * HEAD]].concat();
        for bytes in [
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(),
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec(),
            b"SSH-2.0-x\r\n".to_vec(),
            b"".to_vec(),
            b"HTTP/1.1 200".to_vec(),
            endless,
        ] {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            assert_eq!(answer(bytes).await.0, ProbeResult::Failed, "{text:?}");
        }
    }

    #[tokio::test]
    async fn no_answer_in_time_has_failed_and_so_has_no_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let short = Duration::from_millis(50);
        assert_eq!(probe(address, "/", short).await, ProbeResult::Failed);
        drop(listener);
        assert_eq!(probe(address, "/", PATIENCE).await, ProbeResult::Failed);
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
