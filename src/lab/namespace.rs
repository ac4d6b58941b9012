//! Namespaces: a process of its own, and network namespaces within it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::LabError;
use super::link::RouteSocket;

/// How [`enter_user_namespace`] got the process its privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entered {
    /// It was root already, and stayed in its user namespace.
    AsRoot,
    /// It is root of a new user namespace, in which its user is the only one.
    UserNamespace,
}

/// Moves this process into a network and a mount namespace of its own, in which it is root.
///
/// A process that is root already only leaves its network and mounts; any other enters a new user
/// namespace as well, in which its user and group are mapped to root. Works in a container and
/// inside another user namespace, as far as these allow it. Mounts made afterwards are not seen
/// outside, and `lo` is up.
///
/// # Errors
/// [`LabError::ManyThreads`] unless the process has a single thread: call this first in `main`.
/// [`LabError::UserNamespaceForbidden`] where the system does not allow it, with advice.
pub fn enter_user_namespace() -> Result<Entered, LabError> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(LabError::ManyThreads { threads });
    }
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let entered = if nix::unistd::geteuid().is_root() && unshare(own).is_ok() {
        Entered::AsRoot
    } else {
        unshare_as_user(own)?;
        Entered::UserNamespace
    };
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| forbidden("make the mounts private", errno.into()))?;
    RouteSocket::open()?.bring_up("lo").map_err(|error| match error {
        LabError::Link { source, .. } => forbidden("bring lo up", source),
        other => other,
    })?;
    Ok(entered)
}

/// Mounts an empty, private file system on `target`, which must be a directory. It is seen by this
/// process and its children only, and goes away with the last of them.
///
/// # Errors
/// [`LabError::Mount`]. Fails with `EPERM` before [`enter_user_namespace`].
pub fn mount_tmpfs(target: &Path) -> Result<(), LabError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some("mode=0755"))
        .map_err(|errno| LabError::Mount { target: target.to_owned(), source: errno.into() })
}

fn thread_count() -> Result<usize, LabError> {
    let threads = fs::read_dir("/proc/self/task")
        .map_err(|source| LabError::Namespace { operation: "read /proc/self/task", source })?;
    Ok(threads.count())
}

fn unshare_as_user(own: CloneFlags) -> Result<(), LabError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | own).map_err(|errno| forbidden("unshare", errno.into()))?;
    // user_namespaces(7): without privilege outside, gid_map opens only once setgroups is denied,
    // and one's own id is all that may be mapped.
    for (file, content) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
    ] {
        fs::write(file, content).map_err(|source| forbidden("map the user to root", source))?;
    }
    Ok(())
}

/// A refusal, with the setting that most likely caused it. Ubuntu's AppArmor rule lets `unshare`
/// itself pass and refuses what comes after, so every step ends here.
fn forbidden(step: &'static str, source: io::Error) -> LabError {
    let is = |file: &str, value: &str| {
        fs::read_to_string(file).is_ok_and(|content| content.trim() == value)
    };
    let advice = if source.raw_os_error() == Some(libc::ENOSPC)
        || is("/proc/sys/user/max_user_namespaces", "0")
    {
        "as root: sysctl -w user.max_user_namespaces=15000, or run this as root"
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run this as root"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "as root: sysctl -w kernel.unprivileged_userns_clone=1, or run this as root"
    } else {
        "a container's seccomp profile or a security module may forbid it \
         (docker: --security-opt seccomp=unconfined, or --cap-add SYS_ADMIN,NET_ADMIN)"
    };
    LabError::UserNamespaceForbidden { step, advice, source }
}

/// A network namespace, held open by a descriptor: it lives at least as long as this value, and
/// goes, with all that is in it, when the last process and descriptor in it is gone.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
}

impl Namespace {
    /// Makes an empty network namespace, in which only `lo` exists, and is up. The caller stays
    /// where it is.
    ///
    /// # Errors
    /// [`LabError::Namespace`], with `EPERM` before [`enter_user_namespace`].
    pub fn new() -> Result<Self, LabError> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| LabError::Namespace {
                operation: "unshare a network namespace",
                source: errno.into(),
            })?;
            RouteSocket::open()?.bring_up("lo")?;
            Self::current()
        };
        on_scoped_thread(make)?
    }

    /// The network namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`LabError::Namespace`].
    pub fn current() -> Result<Self, LabError> {
        let file = fs::File::open("/proc/thread-self/ns/net")
            .map_err(|source| LabError::Namespace { operation: "open ns/net", source })?;
        Ok(Self { descriptor: file.into() })
    }

    /// Runs `work` in this namespace, on a thread of its own, and waits for it. Sockets made in
    /// it, and processes started in it, stay in this namespace afterwards. Panics go through.
    ///
    /// A child that asked for `PR_SET_PDEATHSIG` gets that signal when `work` returns: the kernel
    /// takes the thread for the parent. Start such children from a thread that stays:
    /// [`Namespace::spawn`].
    ///
    /// # Errors
    /// [`LabError::Namespace`], [`LabError::Thread`].
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        on_scoped_thread(|| self.enter().map(|()| work()))?
    }

    /// Starts a thread named `name` in this namespace.
    ///
    /// # Errors
    /// [`LabError::Namespace`], [`LabError::Thread`].
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>, LabError> {
        // A new thread begins in the namespace of the thread that starts it.
        self.run_in(|| thread::Builder::new().name(name.to_owned()).spawn(work))?
            .map_err(|source| LabError::Thread { source })
    }

    /// Sets a kernel setting of this namespace, such as `net.ipv4.ip_local_port_range`.
    ///
    /// # Errors
    /// [`LabError::Sysctl`]: `ENOENT` where this kernel does not have it, or not yet (those of
    /// conntrack come with its first user).
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.run_in(|| fs::write(&path, value))?.map_err(|source| LabError::Sysctl {
            key: key.to_owned(),
            value: value.to_owned(),
            source,
        })
    }

    fn enter(&self) -> Result<(), LabError> {
        setns(&self.descriptor, CloneFlags::CLONE_NEWNET).map_err(|errno| LabError::Namespace {
            operation: "enter a network namespace",
            source: errno.into(),
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn on_scoped_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .spawn_scoped(scope, work)
            .map_err(|source| LabError::Thread { source })?;
        thread.join().map_err(|panicked| panic::resume_unwind(panicked))
    })
}
