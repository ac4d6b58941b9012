//! A socket for workers alone: where the control socket's directory is closed to them, or where their
//! program looks for it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::cleanup::SocketFile;
use crate::control::ControlError;
use crate::control::directory::{io_error, not_ours};

/// A socket on which workers join, and operators' commands are refused.
///
/// Its file is ours and 0600. For workers who run as another user it is 0660 and of the group that
/// the thread has which makes it; who of that group is another user's is refused when it connects.
/// What is at its path already is replaced only if it is a socket of ours on which nobody listens:
/// anything else stays as it is, and is an error.
#[derive(Debug)]
pub(crate) struct WorkersSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
    /// The user whose processes are workers, beside our own.
    pub(super) user: Option<u32>,
}

impl WorkersSocket {
    /// Listens at `path`, which is absolute, for processes of `user` (and of ours), which is one of the
    /// thread's group. All directories on
    /// the way have to be such that nobody else can put another file into its place: ours or root's,
    /// and not writable for others unless they are sticky, as `/tmp` is.
    ///
    /// # Errors
    /// [`ControlError::SocketPathTooLong`]; [`ControlError::NotOurs`] if a directory is another, or
    /// something else than a dead socket of ours is in its place; [`ControlError::Io`].
    pub(crate) fn bind(path: &Path, user: Option<u32>) -> Result<Self, ControlError> {
        Self::check(path)?;
        remove_dead(path)?;
        // Nobody can connect until it listens; the mode is set before.
        let failed = |action| move |errno| io_error(action, path)(io::Error::from(errno));
        let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, kind, None);
        let socket = socket.map_err(failed("make a socket for"))?;
        let address = SocketAddrUnix::new(path).map_err(failed("bind"))?;
        rustix::net::bind(&socket, &address).map_err(failed("bind"))?;
        let file = SocketFile::of(path)?;
        let mode = if user.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(io_error("restrict", path))?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listen on"))?;
        Ok(Self { listener: UnixListener::from(socket), file, user })
    }

    /// Whether there is a place for a socket at `path`. Makes none, and removes nothing. Whether another process
    /// listens there is not looked at, since that may be the master that the next one takes over from.
    ///
    /// # Errors
    /// Those of [`Self::bind`].
    pub(crate) fn check(path: &Path) -> Result<(), ControlError> {
        if path.as_os_str().len() > ControlError::MAX_SOCKET_PATH {
            return Err(ControlError::SocketPathTooLong { path: path.to_owned() });
        }
        check_directories(path)?;
        is_there(path)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let is_open = access(directory, AccessFlags::W_OK | AccessFlags::X_OK);
        is_open.map_err(|errno| io_error("bind", path)(errno.into()))
    }

    /// Goes on with a socket that an earlier master listened on and has handed over. Workers that have
    /// connected meanwhile wait in it.
    ///
    /// # Errors
    /// [`ControlError::Io`]: it is no listening Unix socket, or its file is gone.
    pub(crate) fn handed_over(
        path: &Path,
        descriptor: OwnedFd,
        user: Option<u32>,
    ) -> Result<Self, ControlError> {
        let listener = UnixListener::from(descriptor);
        listener.set_nonblocking(true).map_err(io_error("prepare", path))?;
        // Workers are told who has called listen(2) last: that is this process from now on.
        rustix::net::listen(&listener, BACKLOG)
            .map_err(|errno| io_error("listen on", path)(errno.into()))?;
        Ok(Self { listener, file: SocketFile::of(path)?, user })
    }

    /// The directory for sockets of workers who may not enter the control directory, made beside it:
    /// `/run/ipcluster-workers` beside `/run/ipcluster`. Others may enter it, and not list it.
    ///
    /// # Errors
    /// [`ControlError::Io`].
    pub(crate) fn directory_beside(control: &Path) -> Result<PathBuf, ControlError> {
        let path = Self::path_beside(control);
        match DirBuilder::new().mode(0o711).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("create", &path)(error)),
        }
        Ok(path)
    }

    /// The path of [`Self::directory_beside`], which is not made.
    pub(crate) fn path_beside(control: &Path) -> PathBuf {
        let mut name = control.file_name().unwrap_or("ipcluster".as_ref()).to_owned();
        name.push("-workers");
        control.with_file_name(name)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }
}

/// Workers of a large cluster reconnect all at once when a master starts; the kernel takes
/// `net.core.somaxconn` at most.
const BACKLOG: i32 = 4096;

/// Checks the directories on the way, and where they are links also those that the links lead to.
fn check_directories(path: &Path) -> Result<(), ControlError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let real = fs::canonicalize(parent).map_err(io_error("examine", parent))?;
    parent.ancestors().chain(real.ancestors()).try_for_each(check_directory)
}

fn check_directory(directory: &Path) -> Result<(), ControlError> {
    let found = fs::symlink_metadata(directory).map_err(io_error("examine", directory))?;
    let ours = nix::unistd::geteuid().as_raw();
    if found.uid() != ours && found.uid() != 0 && !is_outside(found.uid())? {
        return Err(not_ours(directory, "belongs to another user, who could replace the socket"));
    }
    let (is_open, is_sticky) = (found.mode() & 0o022 != 0, found.mode() & 0o1000 != 0);
    if found.is_dir() && is_open && !is_sticky {
        let reason = "is writable for others, who could replace the socket, and not sticky";
        return Err(not_ours(directory, reason));
    }
    Ok(())
}

/// Whether a file's owner is one whom this user namespace does not know, and who shows as "nobody":
/// the owner of `/`, for a master in a namespace of its own. Who made the namespace trusts him.
fn is_outside(owner: u32) -> Result<bool, ControlError> {
    let read = |path: &str| fs::read_to_string(path).map_err(io_error("read", Path::new(path)));
    if read("/proc/sys/kernel/overflowuid")?.trim().parse() != Ok(owner) {
        return Ok(false);
    }
    // First id inside, first outside, how many (user_namespaces(7)).
    let is_in = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => (first..first + count).contains(&owner.into()),
            _ => true,
        }
    };
    Ok(!read("/proc/self/uid_map")?.lines().any(is_in))
}

/// Removes what a master that is gone has left.
fn remove_dead(path: &Path) -> Result<(), ControlError> {
    if !is_there(path)? {
        return Ok(());
    }
    if is_listened_on(path)? {
        return Err(not_ours(path, "another process listens on it"));
    }
    fs::remove_file(path).map_err(io_error("remove", path))
}

/// Whether a socket of ours is there already; anything else is an error.
fn is_there(path: &Path) -> Result<bool, ControlError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("examine", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(not_ours(path, "expected a socket or nothing"));
    }
    let ours = nix::unistd::geteuid().as_raw();
    if found.uid() != ours {
        return Err(not_ours(path, "belongs to another user"));
    }
    Ok(true)
}

/// Whether a process listens on a socket. Does not wait.
fn is_listened_on(path: &Path) -> Result<bool, ControlError> {
    use rustix::io::Errno;
    let failed = |errno| io_error("try", path)(io::Error::from(errno));
    let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, kind, None);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    match rustix::net::connect(&socket.map_err(failed)?, &address) {
        // AGAIN: its backlog is full. PROTOTYPE: it is no stream socket, but one in use.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn reason(result: Result<WorkersSocket, ControlError>) -> &'static str {
        match result {
            Err(ControlError::NotOurs { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_closed_to_others_and_goes_with_its_master() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("host.zsocket");
        let socket = WorkersSocket::bind(&path, None).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_is_served_is_refused_and_a_dead_one_replaced() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("host.zsocket");
        let first = UnixListener::bind(&path).unwrap();
        assert_eq!(reason(WorkersSocket::bind(&path, None)), "another process listens on it");
        UnixStream::connect(&path).unwrap();
        drop(first);
        let second = WorkersSocket::bind(&path, None).unwrap();
        UnixStream::connect(second.path()).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_refused_and_stays() {
        let base = tempfile::tempdir().unwrap();
        let (path, precious) = (base.path().join("host.zsocket"), base.path().join("precious"));
        fs::write(&path, "data").unwrap();
        assert_eq!(reason(WorkersSocket::bind(&path, None)), "expected a socket or nothing");
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
        fs::rename(&path, &precious).unwrap();
        symlink(&precious, &path).unwrap();
        assert_eq!(reason(WorkersSocket::bind(&path, None)), "expected a socket or nothing");
        assert_eq!(fs::read_link(&path).unwrap(), precious);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "data");
    }

    #[test]
    fn a_directory_in_which_others_could_replace_it_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("open");
        DirBuilder::new().create(&directory).unwrap();
        let bind = |mode| {
            fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            WorkersSocket::bind(&directory.join("s"), None)
        };
        assert!(reason(bind(0o777)).contains("not sticky"));
        assert!(reason(bind(0o770)).contains("not sticky"));
        bind(0o1777).unwrap();
        bind(0o755).unwrap();
        let (link, inner) = (base.path().join("link"), directory.join("inner"));
        DirBuilder::new().create(&inner).unwrap();
        symlink(&inner, &link).unwrap();
        WorkersSocket::bind(&link.join("s"), None).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        assert!(reason(WorkersSocket::bind(&link.join("s"), None)).contains("not sticky"));
    }

    #[test]
    fn another_owner_is_refused_and_the_workers_group_may_connect() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("s");
        if chown(base.path(), Some(12_345), None).is_err() {
            eprintln!("skipped: needs root");
            return;
        }
        assert!(reason(WorkersSocket::bind(&path, None)).contains("belongs to another user"));
        chown(base.path(), Some(0), None).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        chown(&path, Some(12_345), None).unwrap();
        assert_eq!(reason(WorkersSocket::bind(&path, None)), "belongs to another user");
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        let socket = WorkersSocket::bind(&path, Some(12_345)).unwrap();
        let found = fs::symlink_metadata(socket.path()).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o660));
    }

    #[test]
    fn a_path_of_more_than_107_bytes_is_refused() {
        let long = Path::new("/").join("d".repeat(107));
        let error = WorkersSocket::bind(&long, None).unwrap_err();
        assert!(matches!(error, ControlError::SocketPathTooLong { .. }), "{error}");
    }

    #[test]
    fn the_directory_beside_may_be_entered_and_not_listed() {
        let base = tempfile::tempdir().unwrap();
        let made = WorkersSocket::directory_beside(&base.path().join("ipcluster")).unwrap();
        assert_eq!(made, base.path().join("ipcluster-workers"));
        assert_eq!(fs::symlink_metadata(&made).unwrap().mode() & 0o777, 0o711);
        WorkersSocket::bind(&made.join("web.sock"), None).unwrap();
    }
}
