use std::io;
use std::net::SocketAddr;

/// Why the HTTP server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Its socket: most often another program listens there, or the address is none of this host's.
    #[error("http.listen: cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl HttpError {
    /// What to do about it, in one line; `None` where the message says it all.
    pub fn hint(&self) -> Option<String> {
        let Self::Listen { address, source } = self;
        Some(match source.kind() {
            io::ErrorKind::AddrInUse => format!(
                "choose another address (`http.listen`); `ss --tcp --listening --processes 'sport = :{}'` says \
                 who has it",
                address.port()
            ),
            _ => "choose another address (`http.listen`), such as 127.0.0.1:9180".to_owned(),
        })
    }
}
