//! Waiting for clients: never long, and never for many at a time.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::{set_socket_send_buffer_size, set_tcp_user_timeout};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::HttpError;
use super::answer::{self, Page, unavailable};
use super::body::Content;
use super::cache::StatusCache;
use super::limits::HttpLimits;
use super::live::LiveStream;
use super::open::{OpenConnections, Stage};
use super::source::StatusSource;
use crate::protocol::Refusal;

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
        let streams = Arc::new(Semaphore::new(limits.streams));
        let pages = Arc::new(Pages { cache: Arc::new(StatusCache::new(source, limits)), streams });
        let mut connections = JoinSet::new();
        let mut open = OpenConnections::default();
        let mut waiting: Option<(TcpStream, SocketAddr)> = None;
        loop {
            // When there may be room for who waits, if no connection ends before.
            let mut room_at = Some(Instant::now());
            if let Some((stream, peer)) = waiting.take() {
                match open.make_room(limits, Instant::now()) {
                    Ok(()) => {
                        let stage = Stage::default();
                        let one = serve_one(stream, Arc::clone(&pages), stage.clone());
                        let task = connections.spawn(one);
                        open.add(task, peer.ip(), stage, Instant::now());
                    }
                    Err(at) => {
                        waiting = Some((stream, peer));
                        room_at = at;
                    }
                }
            }
            let room = async {
                match room_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(_) = connections.join_next() => {}
                () = room, if waiting.is_some() => {}
                accepted = listener.accept(), if waiting.is_none() => {
                    match accepted {
                        Ok(accepted) => waiting = Some(accepted),
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
async fn serve_one<S: StatusSource>(stream: TcpStream, pages: Arc<Pages<S>>, stage: Stage) {
    let limits = pages.cache.limits;
    limit_buffers(&stream, limits);
    let (begin, mut begun) = mpsc::channel(1);
    let answer = service_fn(|request: Request<Incoming>| {
        let (pages, begin) = (Arc::clone(&pages), begin.clone());
        stage.has_asked();
        async move { Ok::<_, Infallible>(pages.answer(&request, &begin).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).keep_alive(false);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = timeout(limits.connection, &mut connection) => ended.ok(),
        Some(stream) = begun.recv() => {
            let stream: LiveStream = stream;
            stage.is_live();
            tokio::select! {
                ended = &mut connection => Some(ended),
                () = stream.serve(&pages.cache) => None,
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

/// What all clients share.
struct Pages<S> {
    cache: Arc<StatusCache<S>>,
    /// Places of clients that are told of events.
    streams: Arc<Semaphore>,
}

impl<S: StatusSource> Pages<S> {
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
            Page::Status(page) => page.show(&self.cache.now().await?.status),
            Page::Explain(address) => answer::json(&self.cache.source.explain(address).await?),
            Page::Slots => answer::json(&self.cache.source.slot_table().await?),
            Page::Events if is_head => answer::events(Content::Whole(None)),
            Page::Events => self.stream(begin),
        })
    }

    fn stream(&self, begin: &mpsc::Sender<LiveStream>) -> Response<Content> {
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            return answer::too_many_streams(self.cache.limits.streams);
        };
        let (frames, content) = mpsc::channel(1);
        // There is room: a connection has one request. Without its stream the answer is empty.
        let _ = begin.try_send(LiveStream { frames, place });
        answer::events(Content::Live(content))
    }
}

#[cfg(test)]
mod tests;
