//! The thread of a membership, and what the master has of it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tokio::runtime;
use tokio::sync::watch;

use crate::fleet::{Health, Instance, LocalState, OwnState, Revision, SourceState};
use crate::plan::fleet::{Fleet, Member, MemberName};

#[cfg(feature = "etcd")]
use super::etcd::{self, EtcdSettings};
use super::{MembershipError, file};

/// Where the list of members comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file that somebody else writes.
    File {
        path: PathBuf,
        /// This host's name in it.
        name: MemberName,
    },
    /// etcd.
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdSettings>),
}

/// What has changed since the last one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Update {
    /// Another fleet is in force from now on. Several changes at once give the last one alone.
    Fleet {
        fleet: Arc<Fleet>,
        /// Equal on hosts that have the same fleet. In etcd it grows with every change; of a file it is made from
        /// the content, and says nothing about before and after.
        revision: Revision,
    },
    /// How the membership is.
    Health(Health),
}

/// All that the thread has told: only the latest of each counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub(super) fleet: Option<(Arc<Fleet>, Revision)>,
    pub(super) health: Health,
}

/// A membership that runs. Dropped, it ends without leaving the fleet: what it has published stays until its
/// lease ends, so that the next master of this host can go on with it. To leave, tell it
/// [`LocalState::Stopped`] and wait until the health says [`OwnState::Gone`].
#[derive(Debug)]
pub(crate) struct MembershipThread {
    state: watch::Receiver<State>,
    local: watch::Sender<LocalState>,
    /// What [`Self::changed`] has given last.
    told: State,
}

impl MembershipThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`MembershipError`]. A source that cannot be reached or read is none: the health says so, and it is tried
    /// again.
    pub(crate) fn start(source: Source) -> Result<Self, MembershipError> {
        let failed = |source: io::Error| MembershipError::Thread { source };
        let told = State { fleet: None, health: nothing_known() };
        let (state_sender, state) = watch::channel(told.clone());
        let (local, local_receiver) = watch::channel(LocalState::default());
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let run = move || match source {
            Source::File { path, name } => {
                runtime.block_on(file::run(path, name, state_sender, local_receiver));
            }
            #[cfg(feature = "etcd")]
            Source::Etcd(settings) => {
                runtime.block_on(etcd::run(*settings, state_sender, local_receiver));
            }
        };
        thread::Builder::new().name("fleet".to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { state, local, told })
    }

    /// Waits for the next change. `None`: the thread has ended, which it does only by a panic that it has
    /// reported; no more will come. It may be dropped at any time, as a branch of `select!` is, without a loss.
    pub(crate) async fn changed(&mut self) -> Option<Update> {
        loop {
            if let Some(update) = self.next_difference() {
                return Some(update);
            }
            self.state.changed().await.ok()?;
        }
    }

    /// What is known now, without waiting. What [`Self::changed`] gives is not touched.
    pub(crate) fn latest(&self) -> (Option<(Arc<Fleet>, Revision)>, Health) {
        let State { fleet, health } = self.state.borrow().clone();
        (fleet, health)
    }

    /// An instance for [`fleet::Settings`](crate::fleet::Settings): another one with each call.
    pub(crate) fn new_instance() -> Instance {
        // The keys of a hasher of the standard library are the system's random numbers.
        Instance(RandomState::new().build_hasher().finish())
    }

    /// Says what this host's own cluster does. The last one counts.
    pub(crate) fn tell(&self, local: LocalState) {
        self.local.send_if_modified(|known| {
            let differs = *known != local;
            *known = local;
            differs
        });
    }

    /// The fleet before its health: whoever waits until a member serves then has the fleet that says so.
    fn next_difference(&mut self) -> Option<Update> {
        let now = self.state.borrow_and_update();
        if now.fleet != self.told.fleet
            && let Some((fleet, revision)) = now.fleet.clone()
        {
            self.told.fleet = Some((fleet.clone(), revision));
            return Some(Update::Fleet { fleet, revision });
        }
        if now.health != self.told.health {
            self.told.health = now.health.clone();
            return Some(Update::Health(self.told.health.clone()));
        }
        None
    }
}

/// Tells the master, if it differs from what was told, and the log what an operator would look for.
pub(super) fn tell(state: &watch::Sender<State>, now: State) {
    state.send_if_modified(|told| {
        if *told == now {
            return false;
        }
        log(told, &now);
        *told = now;
        true
    });
}

fn log(before: &State, now: &State) {
    if before.fleet != now.fleet
        && let Some((fleet, revision)) = &now.fleet
    {
        let state = |member: &Member| format!("{} {:?}", member.name(), member.state());
        let members: Vec<String> = fleet.members().iter().map(state).collect();
        let members = members.join(", ").to_lowercase();
        tracing::info!(%revision, members, "the fleet has changed");
    }
    if before.health.source != now.health.source {
        match (&before.health.source, &now.health.source) {
            // Why it is away may change with every try.
            (SourceState::Away { .. }, SourceState::Away { .. }) => {}
            (_, SourceState::Away { reason, .. }) => {
                tracing::warn!(
                    "the members of the fleet are not known any more, and it stays as it was: {reason}"
                );
            }
            (_, SourceState::Starting { reason: Some(reason) }) => {
                tracing::warn!("the members of the fleet are not known yet: {reason}");
            }
            (_, SourceState::Starting { reason: None }) => {}
            (_, SourceState::Current) => tracing::info!("the members of the fleet are known"),
        }
    }
    if before.health.own != now.health.own {
        tracing::info!(state = ?now.health.own, "this host in the fleet");
    }
    for trouble in &now.health.troubles {
        if !before.health.troubles.contains(trouble) {
            tracing::warn!("fleet: {trouble}");
        }
    }
}

/// The health of a membership that has read nothing yet.
pub(super) fn nothing_known() -> Health {
    Health {
        source: SourceState::Starting { reason: None },
        own: OwnState::Unlisted,
        revision: Revision::NONE,
        troubles: vec![],
    }
}
