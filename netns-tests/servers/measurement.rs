//! What was measured, and its file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::load::Failure;
use super::table::Server;

/// How a worker gets what it listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// A port, on which it opens a socket; engine redirect.
    Port,
    /// The socket that the master has opened; engine redirect.
    Sockets,
    /// The same with the engine tproxy.
    Tproxy,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Port, Self::Sockets, Self::Tproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Sockets => "sockets",
            Self::Tproxy => "tproxy",
        }
    }

    /// The arguments that tell this server; `None` where it cannot be told.
    pub(crate) fn arguments(self, server: &Server) -> Option<&'static str> {
        match self {
            Self::Port => Some(server.port),
            Self::Sockets | Self::Tproxy => server.socket,
        }
    }
}

/// What became of the requests to one server in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// The name of a [`Server`].
    pub(crate) server: String,
    /// How it got what it listens on.
    pub(crate) way: Way,
    /// Whether its preset was in force.
    pub(crate) has_preset: bool,
    /// Its version, as it says.
    pub(crate) version: String,
    /// How many requests there were.
    pub(crate) requests: u64,
    /// Those that were not answered whole with 200.
    pub(crate) failed: BTreeMap<Failure, u64>,
    /// For each reload, how many seconds after it the last worker of an earlier generation was gone;
    /// `None` where one was left after 16 s.
    pub(crate) gone: Vec<Option<f64>>,
}

impl Measurement {
    /// Writes it to a file of its own.
    pub(crate) fn save(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let preset = if self.has_preset { "" } else { "-without" };
        let name = format!("{}-{}{preset}.json", self.server, self.way.name());
        fs::write(directory.join(name), serde_json::to_vec_pretty(self)?)
    }

    /// All that were written, in no order.
    pub(crate) fn read(directory: &Path) -> io::Result<Vec<Self>> {
        let files = fs::read_dir(directory)?;
        files.map(|file| Ok(serde_json::from_slice(&fs::read(file?.path())?)?)).collect()
    }
}
