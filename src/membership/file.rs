//! A list of members that somebody else writes into a file, as `ipcluster fleet plan` prints it.
//!
//! The folder of the file is watched (inotify(7)), not the file: whoever changes it as a whole puts another file
//! in its place, or another target behind a symbolic link, as the volumes of Kubernetes do. Where there can be no
//! watch, or a change does not come by this kernel (NFS), it is looked at every [`LOOK`].

use std::fs::{self, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::read_text;
use crate::fleet::{Health, LocalState, OwnState, Revision, SourceState, Trouble};
use crate::plan::fleet::{Fleet, MemberName, MemberState};
use crate::sys::watch_readable;

use super::clock;
use super::thread::{State, tell};

/// The file is looked at so often, whatever is told of it.
const LOOK: Duration = Duration::from_secs(2);

/// The longest file, in MiB: the owners of 65,536 slots, each with others than the one before.
const MOST_MIB: u64 = 32;

/// Tells what the file holds, until nobody listens.
pub(super) async fn run(
    path: PathBuf,
    name: MemberName,
    state: watch::Sender<State>,
    mut local: watch::Receiver<LocalState>,
) {
    let mut file = MembersFile::new(path);
    let mut changes = FolderWatch::default();
    loop {
        // Watched before it is read: no change is between the two.
        changes.begin(&file.path);
        file.look();
        let health = file.health(&name, *local.borrow_and_update());
        tell(&state, State { fleet: file.fleet.clone(), health });
        tokio::select! {
            () = state.closed() => return,
            changed = local.changed() => if changed.is_err() { return },
            () = changes.wait() => {}
        }
    }
}

/// What is known of the file.
struct MembersFile {
    path: PathBuf,
    seen: Option<Seen>,
    /// The last fleet that it held.
    fleet: Option<(Arc<Fleet>, Revision)>,
    source: SourceState,
}

/// What tells that a file is not the one that was read.
#[derive(PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl From<&Metadata> for Seen {
    fn from(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), size: metadata.size(), changed }
    }
}

impl MembersFile {
    fn new(path: PathBuf) -> Self {
        Self { path, seen: None, fleet: None, source: SourceState::Starting { reason: None } }
    }

    /// Reads the file if it is another one than before. One that cannot be read leaves the fleet as it is.
    fn look(&mut self) {
        match self.read() {
            Ok(None) => {}
            Ok(Some(fleet)) => {
                let revision = Revision(digest(&fleet));
                let is_new = self.fleet.as_ref().is_none_or(|(_, known)| *known != revision);
                if is_new {
                    self.fleet = Some((Arc::new(fleet), revision));
                }
                self.source = SourceState::Current;
            }
            Err(reason) => self.failed(format!("{}: {reason}", self.path.display())),
        }
    }

    /// `None`: it was read already, well.
    fn read(&mut self) -> Result<Option<Fleet>, String> {
        let found = fs::metadata(&self.path).map_err(|error| error.to_string())?;
        let found = Seen::from(&found);
        if self.seen.as_ref() == Some(&found) {
            return Ok(None);
        }
        self.seen = None;
        let text = read_text(&self.path, MOST_MIB).map_err(|error| error.to_string())?;
        let fleet = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        // Written to since, it will differ from this, and is read again.
        self.seen = Some(found);
        Ok(Some(fleet))
    }

    fn failed(&mut self, reason: String) {
        match &mut self.source {
            SourceState::Starting { reason: known } if known.as_ref() == Some(&reason) => {}
            SourceState::Away { reason: known, .. } if *known == reason => {}
            SourceState::Away { reason: known, .. } => *known = reason,
            source => {
                *source = match self.fleet {
                    None => SourceState::Starting { reason: Some(reason) },
                    Some(_) => SourceState::Away { since: clock::now(), reason },
                };
            }
        }
    }

    fn health(&self, name: &MemberName, local: LocalState) -> Health {
        let (own, owned) = match &self.fleet {
            Some((fleet, _)) => (own_state(fleet, name), fleet.owners().owned_by(name)),
            None => (OwnState::Unlisted, 0),
        };
        let wants_to_leave = matches!(local, LocalState::Draining { .. });
        let has_left = match local {
            LocalState::Stopped => true,
            LocalState::Draining { connections } => connections == 0 && owned == 0,
            LocalState::Unknown | LocalState::NotReady | LocalState::Ready => false,
        };
        let file = self.path.display().to_string();
        let still_listed = Trouble::StillListed { name: name.clone(), file };
        Health {
            source: self.source.clone(),
            own: if has_left { OwnState::Gone } else { own },
            revision: self.fleet.as_ref().map_or(Revision::NONE, |(_, revision)| *revision),
            troubles: (wants_to_leave && owned > 0).then_some(still_listed).into_iter().collect(),
        }
    }
}

fn own_state(fleet: &Fleet, name: &MemberName) -> OwnState {
    match fleet.members().get(name).map(|member| member.state()) {
        None => OwnState::Unlisted,
        Some(MemberState::Joining) => OwnState::Joining,
        Some(MemberState::Serving) => OwnState::Serving,
        Some(MemberState::Draining) => OwnState::Draining,
        Some(MemberState::Lost) => OwnState::Lost,
    }
}

/// A number that hosts with the same fleet have in common: FNV-1a, of its form in JSON.
fn digest(fleet: &Fleet) -> u64 {
    let bytes = serde_json::to_vec(fleet).unwrap_or_default();
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// A watch of the folder that a file is in.
#[derive(Default)]
struct FolderWatch {
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl FolderWatch {
    /// Begins to watch, unless it does.
    fn begin(&mut self, file: &Path) {
        if self.inotify.is_none() {
            self.inotify = watched(file).ok();
        }
    }

    /// Waits until something may have changed.
    async fn wait(&mut self) {
        let Some(inotify) = &self.inotify else { return tokio::time::sleep(LOOK).await };
        let Ok(ready) = timeout(LOOK, inotify.readable()).await else { return };
        let goes_on = ready.and_then(|mut ready| {
            // Before all is read: what comes after that makes it ready again.
            ready.clear_ready();
            still_watched(inotify.get_ref())
        });
        if !goes_on.unwrap_or(false) {
            self.inotify = None;
        }
    }
}

/// Reads all that is told of a folder. A folder that was replaced, deleted or unmounted is watched no more: the
/// one that has its name then is another.
fn still_watched(inotify: &OwnedFd) -> io::Result<bool> {
    let ends =
        ReadFlags::IGNORED | ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT;
    // One event is at most its header and NAME_MAX + 1 bytes: see inotify(7).
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut goes_on = true;
    loop {
        match reader.next() {
            Ok(event) => goes_on &= !event.events().intersects(ends),
            Err(Errno::AGAIN) => return Ok(goes_on),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn watched(file: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let changes = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::MOVE_SELF
        | WatchFlags::DELETE_SELF;
    inotify::add_watch(&inotify, folder, changes)?;
    watch_readable(inotify)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::super::{MembershipThread, Source, Update};
    use super::*;

    const ALONE: &str = r#"{"members":[{"name":"a","addresses":["10.0.0.1"]}]}"#;
    const TWO: &str = r#"{"members":[{"name":"a","addresses":["10.0.0.1"]},{"name":"b","addresses":["10.0.0.2"]}]}"#;
    const WITHOUT_B: &str = r#"{"members":[{"name":"a","addresses":["10.0.0.1"]},{"name":"b","addresses":["10.0.0.2"],"state":"draining"}]}"#;

    struct Setup {
        folder: TempDir,
        thread: MembershipThread,
    }

    impl Setup {
        fn new(content: Option<&str>, name: &str) -> Self {
            let folder = TempDir::new().unwrap();
            if let Some(content) = content {
                fs::write(folder.path().join("fleet.json"), content).unwrap();
            }
            let path = folder.path().join("fleet.json");
            let source = Source::File { path, name: name.parse().unwrap() };
            Self { thread: MembershipThread::start(source).unwrap(), folder }
        }

        fn replace(&self, content: &str) {
            let next = self.folder.path().join("next.json");
            fs::write(&next, content).unwrap();
            fs::rename(next, self.folder.path().join("fleet.json")).unwrap();
        }

        async fn wait_for<T>(&mut self, wanted: impl Fn(Update) -> Option<T>) -> T {
            let found = async {
                loop {
                    let update = self.thread.changed().await.expect("the thread runs");
                    if let Some(found) = wanted(update) {
                        return found;
                    }
                }
            };
            timeout(Duration::from_secs(20), found).await.expect("what was waited for")
        }

        async fn fleet(&mut self) -> (Arc<Fleet>, Revision) {
            self.wait_for(|update| match update {
                Update::Fleet { fleet, revision } => Some((fleet, revision)),
                Update::Health(_) => None,
            })
            .await
        }

        async fn health(&mut self, wanted: impl Fn(&Health) -> bool) -> Health {
            self.wait_for(|update| match update {
                Update::Health(health) if wanted(&health) => Some(health),
                _ => None,
            })
            .await
        }
    }

    #[tokio::test]
    async fn a_change_of_the_file_is_the_next_fleet() {
        let mut setup = Setup::new(Some(ALONE), "b");
        let (first, of_first) = setup.fleet().await;
        assert_eq!(first.members().len(), 1);
        setup.health(|health| health.own == OwnState::Unlisted).await;
        setup.replace(TWO);
        let (second, of_second) = setup.fleet().await;
        assert_eq!(second.members().len(), 2);
        assert_ne!(of_first, of_second);
        let health = setup.health(|health| health.own == OwnState::Serving).await;
        assert_eq!((health.source, health.revision), (SourceState::Current, of_second));
        let folder = setup.folder.path();
        fs::write(folder.join("fleet.json"), ALONE).unwrap();
        assert_eq!(setup.fleet().await, (first, of_first), "written in place, and the same again");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_changes_nothing() {
        let mut setup = Setup::new(Some(TWO), "a");
        let (fleet, _) = setup.fleet().await;
        for content in [Some("{"), Some(r#"{"members":[]}"#), None] {
            match content {
                Some(content) => setup.replace(content),
                None => fs::remove_file(setup.folder.path().join("fleet.json")).unwrap(),
            }
            let said = match content {
                Some("{") => "EOF while parsing",
                Some(_) => "no member serves",
                None => "No such file",
            };
            let away = |health: &Health| matches!(&health.source, SourceState::Away { reason, .. } if reason.contains(said));
            let health = setup.health(away).await;
            assert_eq!(health.own, OwnState::Serving, "{content:?}");
        }
        setup.replace(ALONE);
        let (next, _) = setup.fleet().await;
        assert_eq!((fleet.members().len(), next.members().len()), (2, 1));
        setup.health(|health| health.source == SourceState::Current).await;
    }

    #[tokio::test]
    async fn a_file_that_comes_later_is_waited_for() {
        let mut setup = Setup::new(None, "a");
        let said = |health: &Health| matches!(&health.source, SourceState::Starting { reason: Some(reason) } if reason.contains("fleet.json: No such file"));
        setup.health(said).await;
        setup.replace(TWO);
        assert_eq!(setup.fleet().await.0.members().len(), 2);
    }

    #[tokio::test]
    async fn another_target_behind_a_link_is_the_next_fleet() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, content) in [("1", ALONE), ("2", TWO)] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("fleet.json"), content).unwrap();
        }
        std::os::unix::fs::symlink("1", at("data")).unwrap();
        std::os::unix::fs::symlink("data/fleet.json", at("fleet.json")).unwrap();
        let source = Source::File { path: at("fleet.json"), name: "a".parse().unwrap() };
        let mut setup = Setup { thread: MembershipThread::start(source).unwrap(), folder };
        assert_eq!(setup.fleet().await.0.members().len(), 1);
        let at = |name: &str| setup.folder.path().join(name);
        std::os::unix::fs::symlink("2", at("next")).unwrap();
        fs::rename(at("next"), at("data")).unwrap();
        assert_eq!(setup.fleet().await.0.members().len(), 2);
    }

    #[tokio::test]
    async fn who_drains_has_left_when_it_owns_nothing_and_has_no_connection() {
        let mut setup = Setup::new(Some(TWO), "b");
        setup.health(|health| health.own == OwnState::Serving).await;
        setup.thread.tell(LocalState::Draining { connections: 0 });
        let health = setup.health(|health| !health.troubles.is_empty()).await;
        assert_eq!(health.own, OwnState::Serving);
        assert!(health.troubles[0].to_string().contains("--drain b"), "{:?}", health.troubles);
        setup.thread.tell(LocalState::Draining { connections: 1 });
        setup.replace(WITHOUT_B);
        setup.health(|health| health.own == OwnState::Draining).await;
        setup.thread.tell(LocalState::Draining { connections: 0 });
        setup.health(|health| health.own == OwnState::Gone && health.troubles.is_empty()).await;
    }

    #[tokio::test]
    async fn who_stops_has_left() {
        let mut setup = Setup::new(Some(TWO), "b");
        setup.health(|health| health.own == OwnState::Serving).await;
        setup.thread.tell(LocalState::Stopped);
        setup.health(|health| health.own == OwnState::Gone).await;
    }
}
