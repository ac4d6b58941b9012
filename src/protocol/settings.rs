//! Policies that the configuration gives and the supervisor follows.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How it is known that a worker is ready. Whatever it is, sockets of the worker's own listen on the
/// worker ports of tcp listeners, and are bound to those of udp listeners: no message of a worker stands
/// for that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// Nothing else is needed.
    Tcp,
    /// The worker has sent `READY=1`, as sd_notify(3) does.
    Notify,
    /// A GET, on the worker port that this names, was answered with a status of 2xx in time. While the
    /// worker is live it is asked again and again.
    Http(HttpProbe),
    /// The worker has told over the control socket on which ports it listens, as workers of the older
    /// system do: it may pick them itself. It gets what such workers expect in their environment and
    /// arguments.
    Protocol,
}

/// What is asked of a worker over HTTP: `http:/PATH`, or `http://HOST/PATH` with the Host to ask for;
/// with `https:` over TLS, whatever the certificate of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    scheme: HttpScheme,
    host: Option<String>,
    path: ProbePath,
}

/// Whether a probe is asked over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpScheme {
    /// No.
    Http,
    /// Yes.
    Https,
}

impl HttpScheme {
    /// The port that is not written in a URL.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl HttpProbe {
    const LONGEST_HOST: usize = 255;

    /// How it is asked.
    pub fn scheme(&self) -> HttpScheme {
        self.scheme
    }

    /// The Host that is asked for, perhaps with a port; `None`: that of the listener.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The public port of the Host, if it has one: the worker port that is for it is asked.
    pub fn port(&self) -> Option<u16> {
        let (host, port) = self.host()?.rsplit_once(':')?;
        let is_port = !host.starts_with('[') || host.ends_with(']');
        is_port.then(|| port.parse().ok()).flatten()
    }

    /// The path, and query.
    pub fn path(&self) -> &ProbePath {
        &self.path
    }
}

impl From<ProbePath> for HttpProbe {
    /// A GET of this path over HTTP.
    fn from(path: ProbePath) -> Self {
        Self { scheme: HttpScheme::Http, host: None, path }
    }
}

/// A text that is no [`HttpProbe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected http:/PATH, http://HOST/PATH, https:/PATH or https://HOST/PATH")]
pub struct HttpProbeError;

impl FromStr for HttpProbe {
    type Err = HttpProbeError;

    /// Reads `http:/PATH`, `http://HOST/PATH`, the same with `https:`, or a path alone.
    fn from_str(text: &str) -> Result<Self, HttpProbeError> {
        let (scheme, rest) = match (text.strip_prefix("http:"), text.strip_prefix("https:")) {
            (Some(rest), _) => (HttpScheme::Http, rest),
            (_, Some(rest)) => (HttpScheme::Https, rest),
            (None, None) => (HttpScheme::Http, text),
        };
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) if rest.len() < text.len() - 2 => {
                let (host, path) = rest.split_at(rest.find('/').ok_or(HttpProbeError)?);
                (Some(host), path)
            }
            _ => (None, rest),
        };
        if !host.is_none_or(is_host) {
            return Err(HttpProbeError);
        }
        let path = path.parse().map_err(|_| HttpProbeError)?;
        Ok(Self { scheme, host: host.map(str::to_owned), path })
    }
}

/// Whether this can stand in `Host`: a name or an address, and perhaps a port.
fn is_host(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(&byte);
    !text.is_empty() && text.len() <= HttpProbe::LONGEST_HOST && text.bytes().all(is_fit)
}

impl fmt::Display for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            HttpScheme::Http => "http:",
            HttpScheme::Https => "https:",
        })?;
        if let Some(host) = &self.host {
            write!(f, "//{host}")?;
        }
        self.path.fmt(f)
    }
}

/// The path, and query, of an HTTP request: `/`, and then up to 1,023 printable characters of ASCII
/// but for space, `"<>\^{|}`, the backquote, and `#`, which begins what is never sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePath(String);

impl ProbePath {
    const LONGEST: usize = 1024;

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no [`ProbePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a path that begins with / and has no spaces, such as /healthz")]
pub struct ProbePathError;

impl FromStr for ProbePath {
    type Err = ProbePathError;

    fn from_str(text: &str) -> Result<Self, ProbePathError> {
        let is_fit = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
        let is_path = text.starts_with('/') && text.len() <= Self::LONGEST;
        let is_path = is_path && text.bytes().all(is_fit);
        is_path.then(|| Self(text.to_owned())).ok_or(ProbePathError)
    }
}

impl fmt::Display for ProbePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Delays that double with each failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub min: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Backoff {
    /// The delay after so many failures in a row; zero after none.
    pub fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 2_u32.saturating_pow(doublings);
                self.min.saturating_mul(factor).min(self.max)
            }
        }
    }
}

/// How many lost workers of one seat are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GiveUp {
    /// The number of lost workers that is too many, 1 to 1000.
    pub failures: u32,
    /// Within this time, above 0. The seat also rests for so long, counted from the last failure.
    pub window: Duration,
}

/// How many workers a rollout may lose on probation until the workers before it are put in force again.
/// Whatever it is, they are when no worker in force is healthy, or a seat is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MaxFailures {
    /// Each seat may lose one worker, if the next one gets ready.
    #[default]
    Auto,
    /// So many workers of all seats together, those that become unhealthy among them; 0 to 1000.
    Total(u32),
}

/// When live workers are replaced by others, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retire {
    /// A worker whose resident memory is above so many bytes is replaced; `None`, the default: none
    /// is.
    pub rss: Option<u64>,
    /// A worker that reports at least this lag of its event loop is replaced; `None`: none is.
    /// Default 150 ms.
    pub lag: Option<Duration>,
    /// A worker that was started so long ago is replaced, one after the other; `None`, the default:
    /// none is.
    pub max_age: Option<Duration>,
    /// A worker that the rules have led about so many connections to is replaced; `None`, the default:
    /// none is.
    pub connections: Option<u64>,
    /// By how much of [`Self::max_age`] and [`Self::connections`] the limits of each worker are lower, at
    /// random, in percent, at most 100: so that workers that were started together are not replaced
    /// together. Default 0.
    pub jitter: u32,
    /// At most so many are replaced in [`Self::window`], 1 to 1024. Those that operators ask for are
    /// counted, but not held back. Default 10.
    pub rate: u32,
    /// See [`Self::rate`]. Zero: any number. Default 2 min.
    pub window: Duration,
    /// What is added to the nice value of a worker when it is retired, 0 to 19. Default 1.
    pub renice: i32,
}

impl Default for Retire {
    fn default() -> Self {
        Self {
            rss: None,
            lag: Some(Duration::from_millis(150)),
            max_age: None,
            connections: None,
            jitter: 0,
            rate: 10,
            window: Duration::from_secs(120),
            renice: 1,
        }
    }
}

/// How much memory the master and all workers may have together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The marks; `None`, the default: any amount.
    pub marks: Option<Marks>,
    /// Which retired workers are ended first.
    pub order: KillOrder,
}

/// Amounts of memory in bytes, [`Self::low`] not above [`Self::high`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Above it retired workers are asked to end.
    pub low: u64,
    /// Above it they are killed.
    pub high: u64,
}

/// Which of the retired workers is ended first when memory is short. Before all others come those
/// that do not answer, then those that were asked to end already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KillOrder {
    /// The one with the fewest connections; of those with as many the one with the most memory, then
    /// the one that has run longest. (`conn_rss_time` of the older system.)
    #[default]
    Connections,
    /// The one that has run longest. (`time`.)
    Age,
    /// The one with the most memory, then that with the fewest connections, then the one that has
    /// run longest. (`rss_conn_time`.)
    Memory,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_longest() {
        let backoff = Backoff { min: SECOND, max: 30 * SECOND };
        let delays: Vec<u64> = (0..8).map(|n| backoff.delay(n).as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.delay(u32::MAX), 30 * SECOND);
    }

    #[test]
    fn a_longest_delay_below_the_first_one_wins() {
        let backoff = Backoff { min: 2 * SECOND, max: SECOND };
        assert_eq!(backoff.delay(1), SECOND);
    }

    fn probe(text: &str) -> HttpProbe {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_probe_is_read_in_its_parts_and_written_as_it_was_read() {
        use HttpScheme::{Http, Https};

        for (text, scheme, host, port, path) in [
            ("http:/healthz", Http, None, None, "/healthz"),
            ("https:/", Https, None, None, "/"),
            ("http://example.org/a?b=c", Http, Some("example.org"), None, "/a?b=c"),
            ("https://example.org:8443/", Https, Some("example.org:8443"), Some(8443), "/"),
            ("http://[2001:db8::1]/", Http, Some("[2001:db8::1]"), None, "/"),
            ("http://[::1]:81/", Http, Some("[::1]:81"), Some(81), "/"),
            ("http://[2001:db8::1/", Http, Some("[2001:db8::1"), None, "/"),
            ("http://example.org:99999/", Http, Some("example.org:99999"), None, "/"),
            ("http://example.org:/", Http, Some("example.org:"), None, "/"),
        ] {
            let probe = probe(text);
            assert_eq!(
                (probe.scheme(), probe.host(), probe.port()),
                (scheme, host, port),
                "{text}"
            );
            assert_eq!(probe.path().as_str(), path);
            assert_eq!(probe.to_string(), text);
        }
        assert_eq!((Http.default_port(), Https.default_port()), (80, 443));
    }

    #[test]
    fn a_path_alone_is_asked_over_http() {
        let path: ProbePath = "/healthz".parse().unwrap();
        assert_eq!(probe("/healthz"), HttpProbe::from(path));
        assert_eq!(probe("/healthz").to_string(), "http:/healthz");
        assert_eq!(probe("//a/b").host(), None, "without a scheme it is a path");
    }

    #[test]
    fn what_is_no_probe_is_refused() {
        let long_host = format!("http://{}/", "a".repeat(256));
        for text in [
            "",
            "healthz",
            "http:",
            "http:healthz",
            "http://",
            "http:///healthz",
            "http://example.org",
            "http://user@example.org/",
            "http://exa mple.org/",
            "ftp://example.org/",
            long_host.as_str(),
        ] {
            assert_eq!(text.parse::<HttpProbe>(), Err(HttpProbeError), "{text}");
        }
        assert!(format!("http://{}/", "a".repeat(255)).parse::<HttpProbe>().is_ok());
    }

    #[test]
    fn a_path_has_no_byte_that_a_request_line_could_not_hold() {
        let unfit = "\0\t\n\r #\"<>\\^`{|}\u{7f}\u{e9}";
        for byte in unfit.chars() {
            assert_eq!(format!("/a{byte}b").parse::<ProbePath>(), Err(ProbePathError), "{byte:?}");
        }
        let longest = format!("/{}", "a".repeat(1023));
        assert_eq!(longest.parse::<ProbePath>().unwrap().as_str(), longest);
        assert_eq!(format!("{longest}a").parse::<ProbePath>(), Err(ProbePathError));
        assert_eq!("".parse::<ProbePath>(), Err(ProbePathError));
    }
}
