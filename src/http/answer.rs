//! What is answered to which request. Pure.

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::{exposition, metrics};
use crate::control::{Failure, Status};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Metrics,
    Health,
    Status,
}

impl Page {
    /// The page, or the answer that says why there is none.
    pub(super) fn of(method: &Method, path: &str) -> Result<Self, Response<String>> {
        let page = match path {
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Health,
            "/" => Self::Status,
            _ => {
                let pages = "not found: there are /metrics, /healthz and /\n";
                return Err(text(StatusCode::NOT_FOUND, pages.to_owned()));
            }
        };
        if *method != Method::GET && *method != Method::HEAD {
            let refusal = "method not allowed: only GET and HEAD are\n".to_owned();
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, refusal);
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Err(refusal);
        }
        Ok(page)
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

/// That the master does not tell its state.
pub(super) fn unavailable(failure: &Failure) -> Response<String> {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", failure.message))
}

fn text(status: StatusCode, body: String) -> Response<String> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
