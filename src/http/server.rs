//! Waiting for clients: never long, and never for many at a time.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::{set_socket_send_buffer_size, set_tcp_user_timeout};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::HttpError;
use super::answer::{self, Page, unavailable};
use super::body::Content;
use super::live::{self, LiveStream};
use crate::protocol::{EventRecord, Explanation, Refusal, SlotTable, Status};

/// Where a [`HttpServer`] learns the state of the cluster.
pub(crate) trait StatusSource: Send + Sync + 'static {
    /// Where it learns what happens.
    type Events: EventSource;

    /// The state of the cluster, or why it is not known. Asked for by one at a time.
    fn status(&self) -> impl Future<Output = Result<Status, Refusal>> + Send;

    /// Where new connections of a client go.
    fn explain(&self, address: IpAddr)
    -> impl Future<Output = Result<Explanation, Refusal>> + Send;

    /// Which seat each slot is assigned to.
    fn slot_table(&self) -> impl Future<Output = Result<SlotTable, Refusal>> + Send;

    /// Everything that happens from now on.
    fn events(&self) -> Self::Events;
}

/// What happens to the cluster.
pub(crate) trait EventSource: Send + 'static {
    /// Waits for the next event; `None` when the master has ended. Nothing is lost when it is dropped while
    /// it waits.
    fn next(&mut self) -> impl Future<Output = Option<Vec<EventRecord>>> + Send;
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
    /// Clients at a time that are told of events, below [`Self::connections`].
    pub streams: usize,
    /// Time for such a client to take what it is told.
    pub stall: Duration,
    /// How old an answer of the [`StatusSource`] may be, so that many requests cost it no more than few.
    pub age: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            streams: 16,
            stall: Duration::from_secs(15),
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
        let cache = Arc::new(StatusCache::new(source, limits));
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
    limit_buffers(&stream, limits);
    let (begin, mut begun) = mpsc::channel(1);
    let answer = service_fn(|request: Request<Incoming>| {
        let (cache, begin) = (Arc::clone(&cache), begin.clone());
        async move { Ok::<_, Infallible>(cache.answer(&request, &begin).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).keep_alive(false);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = timeout(limits.connection, &mut connection) => ended.ok(),
        Some(stream) = begun.recv() => {
            let stream: LiveStream = stream;
            tokio::select! {
                ended = &mut connection => Some(ended),
                () = stream.serve(Arc::clone(&cache)) => None,
            }
        }
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "an HTTP connection failed"),
        None => {
            tracing::debug!("an HTTP connection is closed: it took too long, or the master ends")
        }
    }
}

/// Has the kernel keep little for a client that does not read, and close the connection of one that is not
/// there any more (tcp(7), `TCP_USER_TIMEOUT`).
fn limit_buffers(stream: &TcpStream, limits: HttpLimits) {
    let timeout = u32::try_from(limits.stall.as_millis()).unwrap_or(u32::MAX);
    let limited = set_socket_send_buffer_size(stream, SEND_BUFFER)
        .and_then(|()| set_tcp_user_timeout(stream, timeout));
    if let Err(error) = limited {
        tracing::debug!(%error, "cannot limit the buffers of an HTTP client");
    }
}

/// What the kernel keeps for a client that does not read, in bytes; it takes twice as much memory.
const SEND_BUFFER: usize = 128 * 1024;

/// The last status that the source gave.
pub(super) struct StatusCache<S> {
    source: S,
    limits: HttpLimits,
    /// When the server began: ticks of all clients are counted from then, so that one status is enough for
    /// all.
    began: Instant,
    /// Places of clients that are told of events.
    streams: Arc<Semaphore>,
    /// The last one, and when it was asked for. Locked while the next one is asked for.
    last: Mutex<Option<(Instant, Arc<Cached>)>>,
}

/// A status, and its form for those who are told of it as it changes.
struct Cached {
    status: Status,
    frame: OnceLock<Bytes>,
}

impl<S: StatusSource> StatusCache<S> {
    fn new(source: S, limits: HttpLimits) -> Self {
        let streams = Arc::new(Semaphore::new(limits.streams));
        Self { source, limits, began: Instant::now(), streams, last: Mutex::new(None) }
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    pub(super) fn limits(&self) -> HttpLimits {
        self.limits
    }

    /// The answer to a request. For one that is to be told of events, `begin` gets where they go.
    async fn answer(
        &self,
        request: &Request<Incoming>,
        begin: &mpsc::Sender<LiveStream>,
    ) -> Response<Content> {
        let page = match Page::of(request) {
            Ok(page) => page,
            Err(wrong) => return wrong.show(),
        };
        match self.page(page, request.method() == Method::HEAD, begin).await {
            Ok(answer) => answer,
            Err(refusal) => unavailable(&refusal),
        }
    }

    async fn page(
        &self,
        page: Page,
        is_head: bool,
        begin: &mpsc::Sender<LiveStream>,
    ) -> Result<Response<Content>, Refusal> {
        Ok(match page {
            Page::Fixed(file) => file.show(),
            Page::Status(page) => page.show(&self.now().await?.status),
            Page::Explain(address) => answer::json(&self.source.explain(address).await?),
            Page::Slots => answer::json(&self.source.slot_table().await?),
            Page::Events if is_head => answer::events(Content::Whole(None)),
            Page::Events => self.stream(begin),
        })
    }

    fn stream(&self, begin: &mpsc::Sender<LiveStream>) -> Response<Content> {
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            return answer::too_many_streams(self.limits.streams);
        };
        let (frames, content) = mpsc::channel(1);
        // There is room: a connection has one request. Without its stream the answer is empty.
        let _ = begin.try_send(LiveStream { frames, place });
        answer::events(Content::Live(content))
    }

    /// The status as it is told to those who see it change.
    pub(super) async fn frame(&self) -> Result<Bytes, Refusal> {
        let cached = self.now().await?;
        Ok(cached.frame.get_or_init(|| live::status_frame(&cached.status)).clone())
    }

    /// The next of the moments that are so far apart, the same for all clients.
    pub(super) fn next_tick(&self, interval: Duration) -> Instant {
        let nanos = interval.as_nanos().max(1);
        let left = nanos - self.began.elapsed().as_nanos() % nanos;
        Instant::now() + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
    }

    async fn now(&self) -> Result<Arc<Cached>, Refusal> {
        let mut last = self.last.lock().await;
        if let Some((asked, cached)) = &*last
            && asked.elapsed() < self.limits.age
        {
            return Ok(Arc::clone(cached));
        }
        let asked = Instant::now();
        let status = self.source.status().await?;
        let cached = Arc::new(Cached { status, frame: OnceLock::new() });
        *last = Some((asked, Arc::clone(&cached)));
        Ok(cached)
    }
}

#[cfg(test)]
mod tests;
