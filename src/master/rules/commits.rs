//! Commits to nf_tables, of which the kernel tells everybody who listens.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::master::error::MasterError;
use crate::master::waiting::rest_until;
use crate::netlink::{Drained, drain};
use crate::nft::{Firewall, NftError, Watch, WatchEvent};
use crate::protocol::RuleWriter;
use crate::supervisor::Input;

/// Commits of others are read for one part in so many of the time, and not again before this rest: a
/// hundredth of the time in which our rules are to be repaired.
const READING_SHARE: u32 = 5;
const READING_REST: Duration = Duration::from_millis(2);

/// Errors are waited for as well: that notifications were lost is one.
const READY: Interest = Interest::READABLE.add(Interest::ERROR);

/// Hears of every commit to nf_tables in this network namespace.
pub(crate) struct CommitWatch {
    watch: Watch,
    /// `None` before the loop runs.
    readable: Option<AsyncFd<OwnedFd>>,
    /// Nothing is read earlier.
    rest_until: Option<Instant>,
}

/// Commits that the kernel has told of.
#[derive(Default)]
pub(super) struct Commits {
    /// What the supervisor is to know.
    pub(super) inputs: VecDeque<Input>,
    /// Somebody may have changed rules outside our table.
    pub(super) others_changed: bool,
    drained: Drained,
}

impl CommitWatch {
    /// Begins to listen: what others change from now on is heard of.
    pub(crate) fn open() -> Result<Self, NftError> {
        Ok(Self { watch: Watch::open()?, readable: None, rest_until: None })
    }

    /// Has the runtime tell when there is something to read.
    pub(super) fn register(&mut self) -> Result<(), MasterError> {
        let readable = self.watch.readable().map_err(|source| MasterError::Watch { source })?;
        self.readable = Some(readable);
        Ok(())
    }

    /// Waits until there is something to [read](Self::read_ready). A storm of other people's commits
    /// takes a part of a processor only.
    pub(super) async fn ready(&self) -> io::Result<()> {
        rest_until(self.rest_until).await;
        match &self.readable {
            Some(readable) => {
                readable.ready(READY).await?.retain_ready();
                Ok(())
            }
            None => std::future::pending().await,
        }
    }

    /// Reads what was told, or a part of it, after [`Self::ready`].
    pub(super) fn read_ready(&mut self, firewall: &Firewall) -> Result<Commits, NftError> {
        let Self { watch, readable, .. } = self;
        let Some(readable) = readable else { return read(watch, firewall) };
        let (mut all, mut failed) = (Commits::default(), None);
        drain(readable, || match read(watch, firewall) {
            Ok(Commits { inputs, others_changed, drained }) => {
                all.inputs.extend(inputs);
                all.others_changed |= others_changed;
                drained
            }
            Err(error) => {
                failed = Some(error);
                Drained::All
            }
        });
        failed.map_or(Ok(all), Err)
    }

    /// Reads what was told so far, without waiting.
    pub(super) fn read(&mut self, firewall: &Firewall) -> Result<Commits, NftError> {
        read(&mut self.watch, firewall)
    }

    /// Reading and what followed from it has taken from `began` until now: a rest is due.
    pub(super) fn rest(&mut self, began: Instant) {
        self.rest_until = began.checked_add(began.elapsed() * READING_SHARE + READING_REST);
    }
}

fn read(watch: &mut Watch, firewall: &Firewall) -> Result<Commits, NftError> {
    let own = firewall.port()?;
    let table = firewall.table();
    let reading = watch.read()?;
    let (mut inputs, mut others_changed) = (VecDeque::new(), false);
    for event in reading.events {
        match event {
            WatchEvent::Committed(commit) if commit.port == own => {}
            WatchEvent::Committed(commit) => {
                others_changed |= commit.touches_others(table);
                if commit.touches(table) {
                    let writer = commit.writer.map(|it| RuleWriter { pid: it.pid, name: it.name });
                    inputs.push_back(Input::TableChanged { writer });
                }
            }
            WatchEvent::Lost => {
                tracing::warn!(
                    "nftables notifications were lost (ENOBUFS): all rules are read again"
                );
                others_changed = true;
                inputs.push_back(Input::NotificationsLost);
            }
        }
    }
    let drained = if reading.is_drained { Drained::All } else { Drained::Part };
    Ok(Commits { inputs, others_changed, drained })
}
