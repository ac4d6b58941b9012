//! What is answered to which request. Pure.

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::{exposition, metrics};
use crate::protocol::Refusal;
use crate::protocol::Status;

/// The pages that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Metrics,
    Health,
    Status,
}

impl Page {
    /// The page that a request is for.
    pub(super) fn of(method: &Method, path: &str) -> Result<Self, PageError> {
        let page = match path {
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Health,
            "/" => Self::Status,
            _ => return Err(PageError::Path),
        };
        match *method {
            Method::GET | Method::HEAD => Ok(page),
            _ => Err(PageError::Method),
        }
    }

    /// The page of a cluster in this state.
    pub(super) fn show(self, status: &Status) -> Response<String> {
        match self {
            Self::Metrics => {
                let mut answer = text(StatusCode::OK, metrics(status));
                let form = HeaderValue::from_static(exposition::CONTENT_TYPE);
                answer.headers_mut().insert(CONTENT_TYPE, form);
                answer
            }
            Self::Health if status.serving == 0 => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "no worker is in force: new connections are not served\n".to_owned(),
            ),
            Self::Health => text(StatusCode::OK, "ok\n".to_owned()),
            Self::Status => text(StatusCode::OK, status.table()),
        }
    }
}

/// Why a request is for no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageError {
    Path,
    Method,
}

impl PageError {
    /// The answer that says so.
    pub(super) fn show(self) -> Response<String> {
        match self {
            Self::Path => {
                let pages = "not found: there are /metrics, /healthz and /\n";
                text(StatusCode::NOT_FOUND, pages.to_owned())
            }
            Self::Method => {
                let methods = "method not allowed: only GET and HEAD are\n";
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, methods.to_owned());
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
        }
    }
}

/// That the master does not tell its state.
pub(super) fn unavailable(refusal: &Refusal) -> Response<String> {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n"))
}

fn text(status: StatusCode, body: String) -> Response<String> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
