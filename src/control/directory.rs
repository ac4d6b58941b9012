//! Where sockets and locks are: the runtime directory, and what has to be true of it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt,
};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::ControlError;
use crate::plan::ClusterName;

/// The runtime directory: it holds `NAME.sock` and `NAME.lock` of each cluster of one user.
///
/// It has to belong to that user and be closed to others (0700), which is what a master makes it; or 0750
/// and of the group that may use a control socket in it (setting `control_group`).
/// Where systemd makes it (`RuntimeDirectory=ipcluster`), the unit needs `RuntimeDirectoryMode=0700`, or
/// with `control_group` `RuntimeDirectoryMode=0750`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlDir {
    path: PathBuf,
}

impl ControlDir {
    /// The directory with this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory of this process: `IPCLUSTER_RUNTIME_DIR` if that is set, else
    /// `/run/ipcluster` for root, else `ipcluster` in `XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    /// [`ControlError::NoRuntimeDir`].
    pub fn locate() -> Result<Self, ControlError> {
        choose(nix::unistd::geteuid().is_root(), |name| std::env::var_os(name))
    }

    /// The directory in which this process finds masters: [`Self::locate`], or that of the system if this
    /// user has no cluster of his own, and clusters run there that he may ask.
    ///
    /// # Errors
    /// [`ControlError::NoRuntimeDir`].
    pub fn locate_running() -> Result<Self, ControlError> {
        let system = Self::new(OF_THE_SYSTEM);
        let is_given = std::env::var_os("IPCLUSTER_RUNTIME_DIR").is_some_and(|it| !it.is_empty());
        let own = Self::locate();
        let has_own = || own.as_ref().is_ok_and(|own| own.running().is_ok_and(|it| !it.is_empty()));
        if nix::unistd::geteuid().is_root() || is_given || has_own() {
            return own;
        }
        match system.running() {
            Ok(names) if names.is_empty() => own,
            // Closed to this user, as is said then: a cluster may run there.
            Ok(_) | Err(ControlError::NotAllowed { .. }) => Ok(system),
            Err(_) => own,
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket of a cluster: what its workers get as `IPCLUSTER_SOCKET`.
    pub fn socket(&self, name: &ClusterName) -> PathBuf {
        self.path.join(format!("{name}.sock"))
    }

    fn lock_file(&self, name: &ClusterName) -> PathBuf {
        self.path.join(format!("{name}.lock"))
    }

    /// Makes this process the one master of a cluster, until the lock is dropped or the process
    /// ends in whatever way. Creates the directory if there is none.
    ///
    /// # Errors
    /// [`ControlError::AlreadyRuns`] at once if another process is; [`ControlError::NotOurs`] if
    /// the directory or the lock file is a symbolic link, of another kind, of another user, or open
    /// to others; [`ControlError::SocketPathTooLong`]; [`ControlError::Io`].
    pub fn lock(&self, name: &ClusterName) -> Result<Lock, ControlError> {
        let socket = self.socket(name);
        if socket.as_os_str().len() > ControlError::MAX_SOCKET_PATH {
            return Err(ControlError::SocketPathTooLong { path: socket });
        }
        self.create()?;
        let path = self.lock_file(name);
        let file = open_lock_file(&path)?;
        if !try_lock(&file).map_err(io_error("lock", &path))? {
            return Err(ControlError::AlreadyRuns { name: name.clone(), pid: read_pid(&file) });
        }
        let lock = Lock { name: name.clone(), socket, file };
        lock.write_pid()?;
        Ok(lock)
    }

    /// The clusters whose master runs, in the order of their names. None if there is no directory.
    ///
    /// # Errors
    /// [`ControlError::Io`] if the directory cannot be read.
    pub fn running(&self) -> Result<Vec<ClusterName>, ControlError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(ControlError::NotAllowed { path: self.path.clone() });
            }
            Err(error) => return Err(io_error("list", &self.path)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let file_name = entry.map_err(io_error("list", &self.path))?.file_name();
            let stem = file_name.to_str().and_then(|file_name| file_name.strip_suffix(".lock"));
            if let Some(Ok(name)) = stem.map(str::parse)
                && self.is_running(&name)?
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The clusters that have, or have had, a master in this directory: those with a lock file, in the order
    /// of their names.
    pub(crate) fn known(&self) -> Vec<ClusterName> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let name = |entry: fs::DirEntry| {
            entry.file_name().to_str()?.strip_suffix(".lock")?.parse::<ClusterName>().ok()
        };
        let mut names: Vec<ClusterName> = entries.filter_map(name).collect();
        names.sort();
        names
    }

    /// Whether a process holds the lock of a cluster. Takes no lock, not even for a moment: a
    /// master that starts meanwhile is not disturbed.
    ///
    /// # Errors
    /// [`ControlError::Io`] if the lock file is there and cannot be opened.
    pub fn is_running(&self, name: &ClusterName) -> Result<bool, ControlError> {
        let path = self.lock_file(name);
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => is_locked(&file).map_err(io_error("query the lock of", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // Somebody of the group, for whom the lock is closed. Whether anybody listens is seen when
            // the socket is used.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(fs::symlink_metadata(self.socket(name)).is_ok())
            }
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }

    /// The process id that the master of a cluster has left in its lock file, while it holds the lock. `None`
    /// if none runs, or the file is closed to this user. In a pid namespace of its own the master has
    /// another number there than here.
    pub(crate) fn lock_holder(&self, name: &ClusterName) -> Option<u32> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let path = self.lock_file(name);
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        is_locked(&file).ok()?.then(|| read_pid(&file)).flatten()
    }

    fn create(&self) -> Result<(), ControlError> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("create", &self.path)(error)),
        }
        let found = fs::symlink_metadata(&self.path).map_err(io_error("examine", &self.path))?;
        match directory_fault(&found) {
            Some(reason) => Err(not_ours(&self.path, reason)),
            None => Ok(()),
        }
    }
}

/// The right to be the master of one cluster, held by this process.
///
/// It is an open file description lock (`F_OFD_SETLK`, fcntl(2), Linux 3.15) on `NAME.lock`, whose
/// descriptor no worker inherits. The file itself stays for ever: removing a lock file while
/// another process opens it would let both hold "the" lock.
#[derive(Debug)]
pub struct Lock {
    name: ClusterName,
    socket: PathBuf,
    /// Closing it, and every copy, releases the lock.
    file: File,
}

impl Lock {
    /// The cluster.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The path of its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory that it is in.
    pub(super) fn directory(&self) -> ControlDir {
        ControlDir::new(self.socket.parent().unwrap_or(Path::new("/")))
    }

    /// Whether the file that is locked is the one that others find.
    pub(super) fn is_in_place(&self) -> bool {
        let path = self.directory().lock_file(&self.name);
        let there = fs::symlink_metadata(path);
        let ours = self.file.metadata();
        matches!((there, ours), (Ok(there), Ok(ours)) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    }

    /// The lock of a running master, which has handed it over: from here on it is held by both, until
    /// that one ends. The file names this process.
    ///
    /// # Errors
    /// [`ControlError::NotOurs`] if it is not the lock file of this cluster, or does not hold the lock;
    /// [`ControlError::Io`].
    pub fn handed_over(
        directory: &ControlDir,
        name: &ClusterName,
        descriptor: OwnedFd,
    ) -> Result<Self, ControlError> {
        let path = directory.lock_file(name);
        let file = File::from(descriptor);
        let found = file.metadata().map_err(io_error("examine", &path))?;
        let there = fs::symlink_metadata(&path).map_err(io_error("examine", &path))?;
        if (found.dev(), found.ino()) != (there.dev(), there.ino()) {
            return Err(not_ours(&path, "is not the lock that was handed over"));
        }
        // The lock belongs to the open file: to take it again is no change if this is that file, and
        // fails if it is not.
        if !try_lock(&file).map_err(io_error("lock", &path))? {
            return Err(not_ours(
                &path,
                "is locked by another process than the one that hands over",
            ));
        }
        Ok(Self { name: name.clone(), socket: directory.socket(name), file })
    }

    /// Writes into the lock file that this process is the master.
    pub(super) fn write_pid(&self) -> Result<(), ControlError> {
        let text = format!("{}\n", std::process::id());
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all_at(text.as_bytes(), 0))
            .map_err(io_error("write", &self.socket.with_extension("lock")))
    }

    /// A copy of its descriptor, to be handed over.
    ///
    /// # Errors
    /// [`ControlError::Io`]: no descriptor is left.
    pub fn descriptor(&self) -> Result<OwnedFd, ControlError> {
        let copy = self.file.as_fd().try_clone_to_owned();
        copy.map_err(io_error("copy the descriptor of", &self.socket.with_extension("lock")))
    }

    /// Opens the control socket, and the directory that it is in, to a group; or closes the socket to all
    /// but its owner. The group has to be one of this process, or of this thread as its effective one.
    ///
    /// # Errors
    /// [`ControlError::Io`].
    pub(super) fn share(&self, group: Option<u32>) -> Result<(), ControlError> {
        let path = &self.socket;
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(io_error("set the permissions of", path))
        };
        let Some(group) = group else { return mode(path, 0o600) };
        let directory = path.parent().unwrap_or(Path::new("/"));
        for (path, bits) in [(directory, 0o750), (path, 0o660)] {
            std::os::unix::fs::chown(path, None, Some(group))
                .map_err(io_error("change the group of", path))?;
            mode(path, bits)?;
        }
        Ok(())
    }

    /// Listens on the control socket, in place of one that an earlier master left.
    pub(super) fn bind(&self) -> Result<UnixListener, ControlError> {
        let path = &self.socket;
        self.remove_stale()?;
        let listener = UnixListener::bind(path).map_err(io_error("bind", path))?;
        // Until here only the directory, which nobody else may write to or, unless a group may, enter, kept
        // others away; and who is let in is asked of the kernel anyway.
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(io_error("restrict", path))?;
        listener.set_nonblocking(true).map_err(io_error("prepare", path))?;
        Ok(listener)
    }

    fn remove_stale(&self) -> Result<(), ControlError> {
        let path = &self.socket;
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("examine", path)(error)),
        };
        let is_socket = found.file_type().is_socket();
        match owner_fault(&found, is_socket, "expected a socket or nothing") {
            Some(reason) => Err(not_ours(path, reason)),
            None => fs::remove_file(path).map_err(io_error("remove", path)),
        }
    }
}

/// The directory of root's masters.
const OF_THE_SYSTEM: &str = "/run/ipcluster";

fn choose(
    is_root: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<ControlDir, ControlError> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(given) = path("IPCLUSTER_RUNTIME_DIR") {
        return Ok(ControlDir::new(given));
    }
    if is_root {
        return Ok(ControlDir::new(OF_THE_SYSTEM));
    }
    // The XDG base directory specification: a relative path is invalid and to be ignored.
    match path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()) {
        Some(base) => Ok(ControlDir::new(base.join("ipcluster"))),
        None => Err(ControlError::NoRuntimeDir),
    }
}

fn open_lock_file(path: &Path) -> Result<File, ControlError> {
    // NONBLOCK, so that a FIFO does not make us wait.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(flags);
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => not_ours(path, "is a symbolic link; expected a regular file"),
        _ => io_error("open", path)(error),
    })?;
    let found = file.metadata().map_err(io_error("examine", path))?;
    match fault_of(&found, found.is_file(), "expected a regular file") {
        Some(reason) => Err(not_ours(path, reason)),
        None => Ok(file),
    }
}

/// What is wrong with a file that has to be of one kind, ours, and closed to others.
fn fault_of(
    found: &fs::Metadata,
    is_kind: bool,
    expected_kind: &'static str,
) -> Option<&'static str> {
    owner_fault(found, is_kind, expected_kind).or_else(|| {
        (found.mode() & 0o077 != 0)
            .then_some("is open to group or others; expected mode 0700 (a directory) or 0600")
    })
}

/// A group may enter the directory and list it: its sockets are closed to all that they are not made for.
fn directory_fault(found: &fs::Metadata) -> Option<&'static str> {
    let is_kind = found.is_dir();
    owner_fault(found, is_kind, "expected a directory, not a link to one").or_else(|| {
        (found.mode() & 0o027 != 0)
            .then_some("is open to others, or writable for the group; expected mode 0700 or 0750")
    })
}

fn owner_fault(
    found: &fs::Metadata,
    is_kind: bool,
    expected_kind: &'static str,
) -> Option<&'static str> {
    if !is_kind {
        return Some(expected_kind);
    }
    (found.uid() != nix::unistd::geteuid().as_raw()).then_some("belongs to another user")
}

/// Takes the lock; false if another open file has it.
fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether another open file has the lock.
fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file(libc::F_RDLCK);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).expect("F_RDLCK, F_WRLCK and F_UNLCK are below 3"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("SEEK_SET is 0"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

pub(super) fn not_ours(path: &Path, reason: &'static str) -> ControlError {
    ControlError::NotOurs { path: path.to_owned(), reason }
}

pub(super) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ControlError {
    move |source| ControlError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn name(text: &str) -> ClusterName {
        text.parse().unwrap()
    }

    fn directory() -> (tempfile::TempDir, ControlDir) {
        let base = tempfile::tempdir().unwrap();
        let dir = ControlDir::new(base.path().join("ipcluster"));
        (base, dir)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_directory_depends_on_the_user_and_the_environment() {
        let set = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            }
        };
        let path = |chosen: Result<ControlDir, ControlError>| chosen.unwrap().path;
        assert_eq!(path(choose(true, set(&[]))), Path::new("/run/ipcluster"));
        let xdg = set(&[("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(path(choose(false, xdg)), Path::new("/run/user/7/ipcluster"));
        assert_eq!(path(choose(true, xdg)), Path::new("/run/ipcluster"));
        let both = set(&[("XDG_RUNTIME_DIR", "/a"), ("IPCLUSTER_RUNTIME_DIR", "/b")]);
        assert_eq!(path(choose(true, both)), Path::new("/b"));
        assert_eq!(path(choose(false, both)), Path::new("/b"));
        for unusable in
            [set(&[]), set(&[("XDG_RUNTIME_DIR", "")]), set(&[("XDG_RUNTIME_DIR", "x")])]
        {
            assert!(matches!(choose(false, unusable), Err(ControlError::NoRuntimeDir)));
        }
    }

    #[test]
    fn directory_lock_and_socket_are_closed_to_others() {
        let (_base, dir) = directory();
        let lock = dir.lock(&name("web")).unwrap();
        let _listener = lock.bind().unwrap();
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(&dir.path().join("web.lock")), 0o600);
        assert_eq!(mode(&dir.path().join("web.sock")), 0o600);
    }

    #[test]
    fn no_worker_inherits_lock_or_socket() {
        let (_base, dir) = directory();
        let lock = dir.lock(&name("web")).unwrap();
        let listener = lock.bind().unwrap();
        for descriptor in [lock.file.as_fd(), listener.as_fd()] {
            let flags = fcntl(descriptor, FcntlArg::F_GETFD).unwrap();
            assert_ne!(flags & libc::FD_CLOEXEC, 0);
        }
    }

    #[test]
    fn a_second_master_is_refused_until_the_first_is_gone() {
        let (_base, dir) = directory();
        let first = dir.lock(&name("web")).unwrap();
        let refused = dir.lock(&name("web")).unwrap_err();
        let expected = format!("a master of cluster web runs already (pid {})", std::process::id());
        assert_eq!(refused.to_string(), expected);
        assert_eq!(dir.running().unwrap(), [name("web")]);
        let _other = dir.lock(&name("api")).unwrap();
        assert_eq!(dir.running().unwrap(), [name("api"), name("web")]);
        drop(first);
        assert_eq!(dir.running().unwrap(), [name("api")]);
        assert!(!dir.is_running(&name("web")).unwrap());
        dir.lock(&name("web")).unwrap();
    }

    #[test]
    fn a_group_may_use_the_socket_and_nothing_else() {
        let (_base, dir) = directory();
        let lock = dir.lock(&name("web")).unwrap();
        let _listener = lock.bind().unwrap();
        let group = nix::unistd::getegid().as_raw();
        lock.share(Some(group)).unwrap();
        assert_eq!(mode(dir.path()), 0o750);
        assert_eq!(mode(&dir.path().join("web.lock")), 0o600);
        assert_eq!(mode(&dir.path().join("web.sock")), 0o660);
        // Another cluster in the same directory, whose socket is for its owner.
        let other = dir.lock(&name("api")).unwrap();
        let _listener = other.bind().unwrap();
        assert_eq!(mode(&dir.path().join("api.sock")), 0o600);
        lock.share(None).unwrap();
        assert_eq!(mode(&dir.path().join("web.sock")), 0o600);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let (_base, dir) = directory();
        let lock = dir.lock(&name("web")).unwrap();
        drop(lock.bind().unwrap());
        assert!(lock.socket().exists());
        lock.bind().unwrap();
    }

    #[test]
    fn what_is_no_socket_is_refused_and_stays() {
        let (base, dir) = directory();
        let lock = dir.lock(&name("web")).unwrap();
        let precious = base.path().join("precious");
        fs::write(&precious, "data").unwrap();

        fs::write(lock.socket(), "data").unwrap();
        assert!(matches!(lock.bind(), Err(ControlError::NotOurs { .. })));
        assert_eq!(fs::read_to_string(lock.socket()).unwrap(), "data");

        fs::remove_file(lock.socket()).unwrap();
        symlink(&precious, lock.socket()).unwrap();
        assert!(matches!(lock.bind(), Err(ControlError::NotOurs { .. })));
        assert_eq!(fs::read_link(lock.socket()).unwrap(), precious);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "data");
    }

    #[test]
    fn a_lock_that_is_a_link_or_open_to_others_is_refused_and_stays() {
        let (base, dir) = directory();
        drop(dir.lock(&name("other")).unwrap());
        let (precious, lock) = (base.path().join("precious"), dir.path().join("web.lock"));
        fs::write(&precious, "data").unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o600)).unwrap();
        symlink(&precious, &lock).unwrap();
        assert!(matches!(dir.lock(&name("web")), Err(ControlError::NotOurs { .. })));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "data");

        fs::remove_file(&lock).unwrap();
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(dir.lock(&name("web")), Err(ControlError::NotOurs { .. })));
    }

    #[test]
    fn a_directory_that_others_can_enter_or_that_is_a_link_is_refused() {
        let (base, dir) = directory();
        DirBuilder::new().mode(0o700).create(dir.path()).unwrap();
        for mode in [0o701, 0o755, 0o770, 0o704] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let refused = dir.lock(&name("web")).unwrap_err();
            assert!(refused.to_string().contains("is open to others"), "{mode:o}: {refused}");
        }

        let link = ControlDir::new(base.path().join("link"));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        symlink(dir.path(), link.path()).unwrap();
        assert!(matches!(link.lock(&name("web")), Err(ControlError::NotOurs { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_directory_of_another_user_is_refused() {
        let (base, dir) = directory();
        DirBuilder::new().mode(0o700).create(dir.path()).unwrap();
        if std::os::unix::fs::chown(dir.path(), Some(12345), None).is_err() {
            eprintln!("skipped: needs root");
            return;
        }
        let refused = dir.lock(&name("web")).unwrap_err();
        assert!(refused.to_string().contains("belongs to another user"), "{refused}");
        drop(base);
    }

    #[test]
    fn a_path_of_more_than_107_bytes_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let room = ControlError::MAX_SOCKET_PATH - base.path().as_os_str().len() - "//w.sock".len();
        let fits = ControlDir::new(base.path().join("d".repeat(room)));
        fits.lock(&name("w")).unwrap().bind().unwrap();
        let long = ControlDir::new(base.path().join("d".repeat(room + 1)));
        assert!(matches!(long.lock(&name("w")), Err(ControlError::SocketPathTooLong { .. })));
        assert!(!long.path().exists());
    }
}
