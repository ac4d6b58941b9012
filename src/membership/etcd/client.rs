//! Requests to one etcd server.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::connector::connect;
use super::lines::LineBuffer;
use super::wire::{AuthenticateRequest, Fault, TokenAnswer};
use super::{Endpoint, EtcdError, TlsFiles, User};

/// The longest answer, and the longest message of a watch, in bytes.
const MOST: usize = 64 * 1024 * 1024;

/// One server, with the connections to it that are free, and the token of the user.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) endpoint: Endpoint,
    tls: TlsFiles,
    user: Option<User>,
    /// What proves who asks: fetched when it is needed.
    token: tokio::sync::Mutex<Option<String>>,
    idle: Mutex<Vec<SendRequest<Whole>>>,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, tls: TlsFiles, user: Option<User>) -> Self {
        Self { endpoint, tls, user, token: Default::default(), idle: Mutex::default() }
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        path: &'static str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, EtcdError> {
        let answer = timeout(patience, async {
            let token = self.token().await?;
            match self.exchange(path, body, token.as_deref()).await {
                Err(error) if error.is_unauthenticated() && token.is_some() => {
                    let token = self.renewed_token(token).await?;
                    self.exchange(path, body, token.as_deref()).await
                }
                answer => answer,
            }
        });
        let endpoint = || self.endpoint.clone();
        let timed_out = |_| EtcdError::TimedOut { endpoint: endpoint(), path, patience };
        let answer = answer.await.map_err(timed_out)??;
        let failed = |error: serde_json::Error| self.no_answer_of_etcd(path, &error);
        serde_json::from_slice(&answer).map_err(failed)
    }

    /// Asks for an answer that does not end.
    pub(super) async fn stream(
        &self,
        path: &'static str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<Lines, EtcdError> {
        let answer = timeout(patience, async {
            let token = self.token().await?;
            let (_, answer) = self.send(path, body, token.as_deref()).await?;
            self.check(path, answer).await
        });
        let endpoint = || self.endpoint.clone();
        let timed_out = |_| EtcdError::TimedOut { endpoint: endpoint(), path, patience };
        let body = answer.await.map_err(timed_out)??;
        Ok(Lines { endpoint: endpoint(), path, body, read: LineBuffer::default() })
    }

    async fn token(&self) -> Result<Option<String>, EtcdError> {
        let Some(User { name, password }) = &self.user else { return Ok(None) };
        let mut token = self.token.lock().await;
        if token.is_none() {
            let path = "/v3/auth/authenticate";
            let answer = self.exchange(path, &AuthenticateRequest { name, password }, None).await?;
            let answer: Result<TokenAnswer, _> = serde_json::from_slice(&answer);
            *token = Some(answer.map_err(|error| self.no_answer_of_etcd(path, &error))?.token);
        }
        Ok(token.clone())
    }

    /// Another token than this one, which has ended: as it does with time, with a restart of the server, and where
    /// users and roles change.
    async fn renewed_token(&self, ended: Option<String>) -> Result<Option<String>, EtcdError> {
        self.token.lock().await.take_if(|token| Some(&*token) == ended.as_ref());
        self.token().await
    }

    /// A request and its answer. The connection is kept for the next one.
    async fn exchange(
        &self,
        path: &'static str,
        body: &impl Serialize,
        token: Option<&str>,
    ) -> Result<Vec<u8>, EtcdError> {
        let (sender, answer) = self.send(path, body, token).await?;
        let mut body = self.check(path, answer).await?;
        let mut read = vec![];
        while let Some(data) = next_data(&mut body).await.map_err(|it| self.broken(path, &it))? {
            read.extend_from_slice(&data);
            if read.len() > MOST {
                return Err(self.broken(path, &format!("more than {MOST} bytes")));
            }
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(read)
    }

    async fn send(
        &self,
        path: &'static str,
        body: &impl Serialize,
        token: Option<&str>,
    ) -> Result<(SendRequest<Whole>, Response<Incoming>), EtcdError> {
        let body = serde_json::to_vec(body).map_err(|it| self.broken(path, &it.to_string()))?;
        let request = || {
            let mut request = Request::post(path)
                .header(HOST, self.endpoint.authority())
                .header(USER_AGENT, concat!("ipcluster/", env!("CARGO_PKG_VERSION")))
                .header(CONTENT_TYPE, "application/json")
                // A server that has lost the others ends a watch with this, in place of telling nothing.
                .header("Grpc-Metadata-hasleader", "true");
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, token);
            }
            request
                .body(Whole(Some(Bytes::from(body.clone()))))
                .map_err(|error| self.broken(path, &error.to_string()))
        };
        while let Some(mut sender) = self.take_idle() {
            // One that the server has closed meanwhile takes nothing.
            if sender.ready().await.is_ok()
                && let Ok(answer) = sender.send_request(request()?).await
            {
                return Ok((sender, answer));
            }
        }
        let stream = connect(&self.endpoint, &self.tls).await?;
        let begun = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = begun.map_err(|it| self.broken(path, &it.to_string()))?;
        // It ends with the connection; what goes wrong there the sender and the body tell.
        tokio::spawn(connection);
        let answer = sender.send_request(request()?).await;
        Ok((sender, answer.map_err(|error| self.broken(path, &causes(&error)))?))
    }

    fn take_idle(&self) -> Option<SendRequest<Whole>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// The body of an answer that says yes.
    async fn check(
        &self,
        path: &'static str,
        answer: Response<Incoming>,
    ) -> Result<Incoming, EtcdError> {
        let (status, mut body) = (answer.status(), answer.into_body());
        if status == StatusCode::OK {
            return Ok(body);
        }
        /// Of a page that says no, in bytes.
        const SHOWN: usize = 300;
        let mut read = vec![];
        while read.len() < 64 * 1024
            && let Ok(Some(data)) = next_data(&mut body).await
        {
            read.extend_from_slice(&data);
        }
        let fault: Fault = serde_json::from_slice(&read).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&read[..read.len().min(SHOWN)]);
            let message = text.chars().filter(|it| !it.is_control()).collect();
            Fault { code: 0, message }
        });
        let (endpoint, status) = (self.endpoint.clone(), status.as_u16());
        let Fault { code, message } = fault;
        if code == 0 && status == StatusCode::NOT_FOUND.as_u16() {
            return Err(EtcdError::Answer { endpoint, path, reason: message });
        }
        Err(EtcdError::Refused { endpoint, path, status, code, message })
    }

    fn broken(&self, path: &'static str, reason: &str) -> EtcdError {
        EtcdError::Http { endpoint: self.endpoint.clone(), path, reason: reason.to_owned() }
    }

    fn no_answer_of_etcd(&self, path: &'static str, error: &serde_json::Error) -> EtcdError {
        EtcdError::Answer { endpoint: self.endpoint.clone(), path, reason: error.to_string() }
    }
}

/// The messages of an answer that does not end, one a line.
#[derive(Debug)]
pub(super) struct Lines {
    endpoint: Endpoint,
    path: &'static str,
    body: Incoming,
    read: LineBuffer,
}

impl Lines {
    /// The next message. An answer that ends is an error.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, EtcdError> {
        loop {
            if let Some(line) = self.read.next_line() {
                let (endpoint, path) = (self.endpoint.clone(), self.path);
                return serde_json::from_slice(&line).map_err(|error| {
                    let reason = error.to_string();
                    EtcdError::Answer { endpoint, path, reason }
                });
            }
            match next_data(&mut self.body).await {
                Ok(Some(data)) => {
                    let added = self.read.add(&data, MOST);
                    added.map_err(|error| self.broken(error.to_string()))?;
                }
                Ok(None) => return Err(self.broken("the server has ended it".to_owned())),
                Err(reason) => return Err(self.broken(reason)),
            }
        }
    }

    fn broken(&self, reason: String) -> EtcdError {
        EtcdError::Http { endpoint: self.endpoint.clone(), path: self.path, reason }
    }
}

/// The next bytes of a body; `None` at its end.
async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, String> {
    loop {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(causes(&error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// An error of hyper with what is behind it, which it does not say itself.
fn causes(error: &hyper::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A body that is there as a whole.
#[derive(Debug)]
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
