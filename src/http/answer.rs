//! What is answered to which request. Pure.

use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use super::body::Content;
use super::query::value_of;
use super::{exposition, metrics};
use crate::protocol::{ClientAddress, Refusal, Status};

/// The pages that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// One that is the same always.
    Fixed(Fixed),
    /// One that is made of the status.
    Status(StatusPage),
    /// Where a client address leads.
    Explain(ClientAddress),
    /// Which seat each slot is assigned to.
    Slots,
    /// The status and what happens, for as long as the client wants.
    Events,
}

/// The files of the page for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fixed {
    Html,
    Style,
    Script,
}

/// The forms of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusPage {
    Metrics,
    Health,
    Table,
    Json,
}

impl Page {
    /// The page that a request is for.
    pub(super) fn of<T>(request: &hyper::Request<T>) -> Result<Self, PageError> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let page = match path {
            "/" if wants_html(request.headers()) => Self::Fixed(Fixed::Html),
            "/" => Self::Status(StatusPage::Table),
            "/page.css" => Self::Fixed(Fixed::Style),
            "/page.js" => Self::Fixed(Fixed::Script),
            "/metrics" => Self::Status(StatusPage::Metrics),
            "/healthz" => Self::Status(StatusPage::Health),
            "/status.json" => Self::Status(StatusPage::Json),
            "/slots.json" => Self::Slots,
            "/events" => Self::Events,
            "/explain" => {
                let text = value_of(query, "address").unwrap_or_default();
                let address = text.trim().parse();
                Self::Explain(address.map_err(|_| PageError::Address(text))?)
            }
            _ => return Err(PageError::Path),
        };
        match *request.method() {
            Method::GET | Method::HEAD => Ok(page),
            _ => Err(PageError::Method),
        }
    }
}

impl Fixed {
    /// The file.
    pub(super) fn show(self) -> Response<Content> {
        let (form, text) = match self {
            Self::Html => ("text/html; charset=utf-8", include_str!("page/page.html")),
            Self::Style => ("text/css; charset=utf-8", include_str!("page/page.css")),
            Self::Script => ("text/javascript; charset=utf-8", include_str!("page/page.js")),
        };
        let mut answer = answer(StatusCode::OK, form, text);
        if self == Self::Html {
            let headers = answer.headers_mut();
            headers.insert(VARY, HeaderValue::from_static("accept"));
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        }
        answer
    }
}

/// The page loads and asks nothing but this server, sends no form, and stands in no frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl StatusPage {
    /// The page of a cluster in this state.
    pub(super) fn show(self, status: &Status) -> Response<Content> {
        match self {
            Self::Metrics => answer(StatusCode::OK, exposition::CONTENT_TYPE, metrics(status)),
            Self::Health if status.serving == 0 => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "no worker is in force: new connections are not served\n".to_owned(),
            ),
            Self::Health => text(StatusCode::OK, "ok\n".to_owned()),
            Self::Table => {
                let mut answer = text(StatusCode::OK, status.table());
                answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
                answer
            }
            Self::Json => json(status),
        }
    }
}

/// A value as JSON.
pub(super) fn json(value: &impl Serialize) -> Response<Content> {
    match serde_json::to_string(value) {
        Ok(text) => answer(StatusCode::OK, "application/json", text + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("as JSON: {error}\n")),
    }
}

/// Events as they come.
pub(super) fn events(content: Content) -> Response<Content> {
    answer(StatusCode::OK, "text/event-stream", content)
}

/// That as many as may be are told of events already.
pub(super) fn too_many_streams(limit: usize) -> Response<Content> {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{limit} clients read /events already\n"))
}

/// Why a request is for no page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PageError {
    Path,
    Method,
    Address(String),
}

impl PageError {
    /// The answer that says so.
    pub(super) fn show(self) -> Response<Content> {
        match self {
            Self::Path => {
                let pages = "not found: there are /, /metrics, /healthz, /status.json, /slots.json, \
                             /events and /explain?address=ADDRESS\n";
                text(StatusCode::NOT_FOUND, pages.to_owned())
            }
            Self::Method => {
                let methods = "method not allowed: only GET and HEAD are\n";
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, methods.to_owned());
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            Self::Address(wrong) => {
                let wrong: String = wrong.chars().take(80).collect();
                let reason = format!(
                    "address: {wrong:?} is no IP address: expected one such as 192.0.2.7 or 2001:db8::7\n"
                );
                text(StatusCode::BAD_REQUEST, reason)
            }
        }
    }
}

/// That the master does not tell what it was asked.
pub(super) fn unavailable(refusal: &Refusal) -> Response<Content> {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n"))
}

fn text(status: StatusCode, body: String) -> Response<Content> {
    answer(status, "text/plain; charset=utf-8", body)
}

fn answer(
    status: StatusCode,
    form: &'static str,
    content: impl Into<Content>,
) -> Response<Content> {
    let mut answer = Response::new(content.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, form),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Whether a browser asks for a page: curl and scripts take anything, and get text.
fn wants_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|form| {
        form.split(';').next().is_some_and(|form| form.trim().eq_ignore_ascii_case("text/html"))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_has_a_sentence_for_every_documented_event() {
        let rows = include_str!("../protocol/event_record.rs").lines();
        let page = include_str!("page/page.js");
        let names = rows.filter_map(|row| row.strip_prefix("/// | `")?.split('`').next());
        let unknown: Vec<&str> = names
            .filter(|name| !page.contains(&format!("\n  {name}: (e) =>")))
            .filter(|name| !["all_bands_ready", "stats", "subscribed"].contains(name))
            .collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
