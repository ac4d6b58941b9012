//! `ready`: how it is known that a worker is ready.

use super::check::{quote, value_error};
use super::{ConfigError, Given};
use crate::plan::{Listeners, Protocol};
use crate::protocol::{ProbePath, Readiness};

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
    match path.parse::<ProbePath>() {
        Err(_) => refused(
            "expected http: and a path that begins with / and has no spaces, such as http:/healthz",
        ),
        Ok(_) if !HAS_HTTP => {
            refused("this build cannot ask over HTTP: it needs the feature `http`")
        }
        Ok(_) if listeners.services(Protocol::Tcp).is_empty() => {
            refused("HTTP needs a tcp listener: expected tcp, notify or protocol")
        }
        Ok(path) => Ok(Readiness::Http(path)),
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
