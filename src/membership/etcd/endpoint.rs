//! Where an etcd server listens for clients.

use std::fmt;
use std::str::FromStr;

/// The address of an etcd server: `http://HOST:PORT` or `https://HOST:PORT`; without a port it is 2379.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(super) is_tls: bool,
    /// A name or an address, an IPv6 one without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Endpoint {
    /// That of etcd for clients.
    const DEFAULT_PORT: u16 = 2379;

    /// Host and port, as they stand in a URL.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            let shown: String = text.chars().take(100).collect();
            format!(
                "{shown:?}: expected the address of an etcd server, such as https://etcd-1.example:2379"
            )
        };
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(error()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => {
                host.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
                (host, rest)
            }
            None => {
                let at = rest.find(':').unwrap_or(rest.len());
                (&rest[..at], &rest[at..])
            }
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?,
            None if port.is_empty() => Self::DEFAULT_PORT,
            None => return Err(error()),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(is_plain) {
            return Err(error());
        }
        Ok(Self { is_tls, host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read() {
        for (text, shown) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("https://etcd-1.example", "https://etcd-1.example:2379"),
            ("https://[fd00::1]:4001/", "https://[fd00::1]:4001"),
            ("http://[fd00::1]", "http://[fd00::1]:2379"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "etcd:2379",
            "ftp://a",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://a/b",
            "http://[fd00::1",
            "http://[x]:1",
            "http://u:p@a:1",
            "http://a b",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("expected the address of an etcd server"), "{error}");
        }
    }
}
