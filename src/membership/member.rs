//! A member of a fleet by etcd, without a master: what tests with a real etcd are made of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{EtcdSettings, MembershipThread, Source, TlsFiles, User};
use crate::fleet::{self, LocalState, Shape, Timing};
use crate::plan::fleet::{Fleet, Member};

/// A host that takes part in a fleet.
#[derive(Debug)]
pub struct EtcdMember {
    thread: MembershipThread,
}

/// How it reaches etcd.
#[derive(Debug, Clone, Default)]
pub struct EtcdAccess {
    /// The servers' addresses: `http://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// The name of the fleet.
    pub fleet: String,
    /// The time of its lease.
    pub lease: Duration,
    /// Name and password, if etcd asks for them.
    pub user: Option<(String, String)>,
    /// The certificate of whoever has signed the servers', for `https`.
    pub ca: Option<PathBuf>,
    /// Its own certificate and key, where the servers ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdMember {
    /// Begins.
    ///
    /// # Errors
    /// An address that is none; no thread.
    pub fn start(member: Member, access: &EtcdAccess) -> Result<Self, String> {
        let endpoints = access.endpoints.iter().map(|it| it.parse()).collect::<Result<_, _>>()?;
        let user = access.user.clone().map(|(name, password)| User { name, password });
        let membership = fleet::Settings {
            member,
            instance: MembershipThread::new_instance(),
            shape: Shape::default(),
            timing: Timing { lease: access.lease, ..Timing::default() },
        };
        let (certificate, key) = access.identity.clone().unzip();
        let tls = TlsFiles { ca: access.ca.clone(), certificate, key };
        let fleet_name = access.fleet.clone();
        let settings = EtcdSettings { endpoints, fleet_name, user, tls, membership };
        let thread = MembershipThread::start(Source::Etcd(Box::new(settings)));
        Ok(Self { thread: thread.map_err(|error| error.to_string())? })
    }

    /// Its workers serve.
    pub fn ready(&self) {
        self.thread.tell(LocalState::Ready);
    }

    /// It is to leave when so many connections have ended.
    pub fn drain(&self, connections: u64) {
        self.thread.tell(LocalState::Draining { connections });
    }

    /// It is to leave now.
    pub fn stop(&self) {
        self.thread.tell(LocalState::Stopped);
    }

    /// The fleet that it puts in force, and its revision; none before the first.
    pub fn fleet(&self) -> Option<(Arc<Fleet>, u64)> {
        self.thread.latest().0.map(|(fleet, revision)| (fleet, revision.0))
    }

    /// What it is in the fleet, in one word.
    pub fn state(&self) -> String {
        format!("{:?}", self.thread.latest().1.own)
    }

    /// Whether it sees changes as they happen; else why not.
    ///
    /// # Errors
    /// Why not.
    pub fn source(&self) -> Result<(), String> {
        match self.thread.latest().1.source {
            fleet::SourceState::Current => Ok(()),
            fleet::SourceState::Starting { reason } => Err(reason.unwrap_or_default()),
            fleet::SourceState::Away { reason, .. } => Err(reason),
        }
    }

    /// What keeps the fleet from being what its members say.
    pub fn troubles(&self) -> Vec<String> {
        self.thread.latest().1.troubles.iter().map(ToString::to_string).collect()
    }
}
