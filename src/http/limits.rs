use std::time::Duration;

/// Limits on the clients of a server of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HttpLimits {
    /// Connections at a time, above 0; further ones wait in the kernel until one of these has ended, or takes
    /// longer than [`Self::header_when_full`] or [`Self::connection_when_full`].
    pub connections: usize,
    /// Time for a client to send its request, its head at least.
    pub header: Duration,
    /// Time for a connection in all, with the time that the answer takes to be made and to be read.
    pub connection: Duration,
    /// Time for a client to send its request when others wait: then it loses its place to them.
    pub header_when_full: Duration,
    /// The same for a connection whose request has come.
    pub connection_when_full: Duration,
    /// Clients at a time that are told of events, below [`Self::connections`].
    pub streams: usize,
    /// Time for such a client to take what it is told.
    pub stall: Duration,
    /// How old an answer of the source may be, so that many requests cost it no more than few.
    pub age: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            streams: 16,
            stall: Duration::from_secs(15),
            header: Duration::from_secs(5),
            connection: Duration::from_secs(10),
            header_when_full: Duration::from_millis(200),
            connection_when_full: Duration::from_secs(2),
            age: Duration::from_millis(100),
        }
    }
}
