//! Waiting for clients: never long, and never for many at a time.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::HttpError;
use super::answer::{Page, unavailable};
use crate::protocol::Refusal;
use crate::protocol::Status;

/// Where a [`HttpServer`] learns the state of the cluster.
pub(crate) trait StatusSource: Send + Sync + 'static {
    /// The state of the cluster, or why it is not known. Asked for by one at a time.
    fn status(&self) -> impl Future<Output = Result<Status, Refusal>> + Send;
}

/// Limits on the clients of a [`HttpServer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HttpLimits {
    /// Connections at a time, above 0; further ones wait in the kernel until one of these has ended.
    pub connections: usize,
    /// Time for a client to send its request, its head at least.
    pub header: Duration,
    /// Time for a connection in all, with the time that the answer takes to be made and to be read.
    pub connection: Duration,
    /// How old an answer of the [`StatusSource`] may be, so that many requests cost it no more than few.
    pub age: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            header: Duration::from_secs(5),
            connection: Duration::from_secs(10),
            age: Duration::from_millis(100),
        }
    }
}

/// An HTTP server that listens: clients can connect, and are served by [`Self::serve`].
#[derive(Debug)]
pub(crate) struct HttpServer {
    listener: tokio::net::TcpListener,
    limits: HttpLimits,
}

/// The listening socket, to be handed over.
impl AsFd for HttpServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl HttpServer {
    /// Listens on an address.
    ///
    /// # Errors
    /// [`HttpError::Listen`].
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub(crate) fn bind(address: SocketAddr, limits: HttpLimits) -> Result<Self, HttpError> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        };
        let listener = listen().map_err(|source| HttpError::Listen { address, source })?;
        Ok(Self { listener, limits })
    }

    /// Goes on with a listening socket that was handed over; `None` if it listens on another address.
    ///
    /// # Errors
    /// [`HttpError::Listen`].
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub(crate) fn handed_over(
        descriptor: OwnedFd,
        address: SocketAddr,
        limits: HttpLimits,
    ) -> Result<Option<Self>, HttpError> {
        let listen = || {
            let listener = TcpListener::from(descriptor);
            if listener.local_addr()? != address {
                return Ok(None);
            }
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener).map(Some)
        };
        let listener = listen().map_err(|source| HttpError::Listen { address, source })?;
        Ok(listener.map(|listener| Self { listener, limits }))
    }

    /// Answers requests until it is dropped, which ends all connections.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub(crate) async fn serve(self, source: impl StatusSource) -> Infallible {
        let Self { listener, limits } = self;
        let cache = Arc::new(StatusCache { source, limits, last: Mutex::new(None) });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < limits.connections => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(serve_one(stream, Arc::clone(&cache)));
                        }
                        Err(error) => {
                            // Most likely out of descriptors, in which case the same error would
                            // come again at once.
                            tracing::warn!(%error, "cannot accept an HTTP client");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
    }
}

/// How long nobody is accepted after an error of accept(2).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves one request. One only, so that idle clients keep no place.
async fn serve_one<S: StatusSource>(stream: TcpStream, cache: Arc<StatusCache<S>>) {
    let limits = cache.limits;
    let answer = service_fn(move |request: Request<Incoming>| {
        let cache = Arc::clone(&cache);
        async move { Ok::<_, Infallible>(cache.answer(&request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), answer);
    match timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection failed"),
        Err(_) => tracing::debug!("an HTTP request timed out"),
    }
}

/// The last status that the source gave.
struct StatusCache<S> {
    source: S,
    limits: HttpLimits,
    /// The last one, and when it was asked for. Locked while the next one is asked for.
    last: Mutex<Option<(Instant, Arc<Status>)>>,
}

impl<S: StatusSource> StatusCache<S> {
    async fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        match Page::of(request.method(), request.uri().path()) {
            Ok(page) => match self.now().await {
                Ok(status) => page.show(&status),
                Err(failure) => unavailable(&failure),
            },
            Err(wrong) => wrong.show(),
        }
    }

    async fn now(&self) -> Result<Arc<Status>, Refusal> {
        let mut last = self.last.lock().await;
        if let Some((asked, status)) = &*last
            && asked.elapsed() < self.limits.age
        {
            return Ok(Arc::clone(status));
        }
        let asked = Instant::now();
        let status = Arc::new(self.source.status().await?);
        *last = Some((asked, Arc::clone(&status)));
        Ok(status)
    }
}

#[cfg(test)]
mod tests;
