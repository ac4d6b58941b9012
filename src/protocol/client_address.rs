use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A client, or a connection of it: what `explain` is asked about.
///
/// As text `10.8.1.7`, `fd09::7`, or with the port that the connection comes from `10.8.1.7:40000`,
/// `[fd09::7]:40000`. `::ffff:10.8.1.7`, as a server that listens on `[::]` shows a client of IPv4, is that client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress {
    /// The client's address.
    pub address: IpAddr,
    /// The port that the connection comes from; none: any.
    pub port: Option<u16>,
}

impl ClientAddress {
    /// As the source of a connection, of which the port is known.
    pub(crate) fn connection(self) -> Option<SocketAddr> {
        self.port.map(|port| SocketAddr::new(self.address, port))
    }
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        Self { address, port: None }
    }
}

impl From<SocketAddr> for ClientAddress {
    fn from(from: SocketAddr) -> Self {
        Self { address: from.ip(), port: Some(from.port()) }
    }
}

impl FromStr for ClientAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.to_canonical().into());
        }
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(Ok(address)) = inner.map(str::parse::<std::net::Ipv6Addr>) {
            return Ok(address.to_canonical().into());
        }
        match text.parse::<SocketAddr>() {
            Ok(from) if from.port() != 0 => {
                Ok(SocketAddr::new(from.ip().to_canonical(), from.port()).into())
            }
            _ => Err("expected an address, as 10.8.1.7 or fd09::7, or that of a connection, as \
                      10.8.1.7:40000 or [fd09::7]:40000"),
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connection() {
            Some(from) => from.fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_a_port_are_read() {
        for (text, shown) in [
            ("10.8.1.7", "10.8.1.7"),
            ("10.8.1.7:40000", "10.8.1.7:40000"),
            ("fd09::7", "fd09::7"),
            ("[fd09::7]", "fd09::7"),
            ("[fd09::7]:40000", "[fd09::7]:40000"),
            // What a server on [::] has in its log for a client of IPv4.
            ("::ffff:10.8.1.7", "10.8.1.7"),
            ("[::ffff:10.8.1.7]", "10.8.1.7"),
            ("[::ffff:10.8.1.7]:40000", "10.8.1.7:40000"),
        ] {
            assert_eq!(text.parse::<ClientAddress>().unwrap().to_string(), shown);
        }
        for text in ["", "host", "10.8.1.7:", "10.8.1.7:0", "10.8.1.7:65536", "[10.8.1.7]", ":80"] {
            assert!(text.parse::<ClientAddress>().is_err(), "{text}");
        }
    }
}
