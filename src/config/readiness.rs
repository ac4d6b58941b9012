//! `ready`: how it is known that a worker is ready.

use std::fmt;

use super::check::{quote, value_error};
use super::{ConfigError, Given};
use crate::plan::{Listeners, Protocol};

/// How it is known that a worker is ready. Whatever it is, sockets of the worker's own listen on the
/// worker ports of tcp listeners, and are bound to those of udp listeners: no word of a worker stands
/// for that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// Nothing else is needed.
    Tcp,
    /// The worker has said `READY=1`, as sd_notify(3) does.
    Notify,
    /// A GET of this path, on the worker port of the first tcp listener, was answered with status 200
    /// in time. While the worker is live it is asked again and again.
    Http(ProbePath),
    /// The worker has told over the control socket on which ports it listens, as workers of the older
    /// system do: it may pick them itself. It gets what such workers expect in their environment and
    /// arguments.
    Protocol,
}

/// The path, and query, of a request: `/`, and then up to 1,023 printable characters of ASCII but for
/// space and `#`, which begins what is never sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePath(String);

impl ProbePath {
    const LONGEST: usize = 1024;

    fn new(text: &str) -> Option<Self> {
        let is_fit = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
        let is_path = text.starts_with('/') && text.len() <= Self::LONGEST;
        (is_path && text.bytes().all(is_fit)).then(|| Self(text.to_owned()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProbePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether this build can ask workers over HTTP.
const HAS_HTTP: bool = cfg!(feature = "http");

pub(super) fn readiness(
    given: Given<String>,
    listeners: &Listeners,
) -> Result<Readiness, ConfigError> {
    const EXPECTED: &str = "expected tcp, notify, http:/PATH or protocol";
    let refused = |reason: &str| {
        Err(value_error(&given.origin, "ready", format!("{}: {reason}", quote(&given.value))))
    };
    let path = match (given.value.as_str(), given.value.strip_prefix("http:")) {
        ("tcp", _) => return Ok(Readiness::Tcp),
        ("notify", _) => return Ok(Readiness::Notify),
        ("protocol", _) => return Ok(Readiness::Protocol),
        (_, Some(path)) => path,
        (_, None) => return refused(EXPECTED),
    };
    match ProbePath::new(path) {
        None => refused(
            "expected http: and a path that begins with / and has no spaces, such as http:/healthz",
        ),
        Some(_) if !HAS_HTTP => {
            refused("this build cannot ask over HTTP: it needs the feature `http`")
        }
        Some(_) if listeners.services(Protocol::Tcp).is_empty() => {
            refused("HTTP needs a tcp listener: expected tcp, notify or protocol")
        }
        Some(path) => Ok(Readiness::Http(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    fn read(text: &str, listener: &str) -> Result<Readiness, String> {
        let given = Given { value: text.to_owned(), origin: Origin::Default };
        let listeners = Listeners::new(vec![listener.parse().unwrap()]).unwrap();
        readiness(given, &listeners).map_err(|error| error.to_string())
    }

    #[test]
    fn each_way_has_its_text() {
        let tcp = "0.0.0.0:80";
        assert_eq!(read("tcp", tcp), Ok(Readiness::Tcp));
        assert_eq!(read("notify", tcp), Ok(Readiness::Notify));
        assert_eq!(read("protocol", tcp), Ok(Readiness::Protocol));
        for text in ["", "TCP", "udp", "http", "notify ", "https:/x"] {
            let error = read(text, tcp).unwrap_err();
            assert!(error.contains("expected tcp, notify, http:/PATH or protocol"), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "http")]
    fn a_path_is_one_that_can_be_asked_for() {
        for path in ["/", "/healthz", "/a/b?c=d&e=%20"] {
            let Ok(Readiness::Http(read)) = read(&format!("http:{path}"), "0.0.0.0:80") else {
                panic!("{path} is a path");
            };
            assert_eq!(read.as_str(), path);
        }
        let long = format!("/{}", "x".repeat(1024));
        for path in ["", "x", "//a b", "/\r\nHost:x", "/ü", "/#", "/\u{7f}", &long] {
            let error = read(&format!("http:{path}"), "0.0.0.0:80").unwrap_err();
            assert!(error.contains("expected http: and a path"), "{error}");
        }
        assert!(read("http:/x", "0.0.0.0:53/udp").unwrap_err().contains("needs a tcp listener"));
    }

    #[test]
    #[cfg(not(feature = "http"))]
    fn without_the_feature_there_is_no_asking_over_http() {
        let error = read("http:/x", "0.0.0.0:80").unwrap_err();
        assert!(error.contains("it needs the feature `http`"), "{error}");
    }
}
