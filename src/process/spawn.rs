use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::event::EventfdFlags;

use super::account::Account;
use super::child::{Child, StartedChildren};
use super::error::{ProcessError, ProcessOperation, errno_from, errno_of};
use super::limits::{ResourceLimit, own_nice};
use super::output::Output;
use super::pidfd::PidFd;
use super::socket_activation::{self, PassedSocket};
use crate::netlink::Errno;
use crate::sys::{self, Step};

/// A program to be started as a worker: all that it gets from us.
///
/// It runs in a session and process group of its own, so that it can be signalled together with
/// the processes that it starts, and no terminal signals reach it. Standard input is `/dev/null`,
/// standard output and error are the given [`Output`]; it gets no other descriptor but sockets that it is
/// [started with](Self::start_with). All signals
/// have their default dispositions and none is blocked.
///
/// It has no capability and gets none by whatever it runs (`no_new_privs`; where this process has
/// `CAP_SETPCAP`, also an empty bounding set and `SECBIT_NOROOT`), not even as root: such a worker
/// is stopped by file permissions as anybody is. What it inherits, as far as nothing else is said here, are
/// resource limits, the file mode mask, `oom_score_adj` and the nice value. It gets no
/// signal when this process ends (`PR_SET_PDEATHSIG`): workers outlive their master.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spawn {
    /// The program, as it is called in errors and finds itself called (`argv[0]`).
    pub program: OsString,
    /// The file that is run; `None`: [`Self::program`]. Without a `/` it is looked for in `PATH` of
    /// `env`, or in `/bin` and `/usr/bin` if that has none (`execvp(3)`).
    pub file: Option<PathBuf>,
    /// Its arguments, without the program's name.
    pub args: Vec<OsString>,
    /// All of its environment: nothing is inherited.
    pub env: BTreeMap<OsString, OsString>,
    /// Its working directory; `None` for that of this process.
    pub directory: Option<PathBuf>,
    /// Whether the directory is entered as this process may enter it, and not as the account may.
    pub enters_as_starter: bool,
    /// Whom it runs as; `None` for the user, group and supplementary groups of this process.
    pub account: Option<Account>,
    /// Its soft limit of open files (`RLIMIT_NOFILE`), at most the hard one; `None` for that of
    /// this process, which may have raised its own: programs that use `select(2)` fail above 1,024.
    pub descriptor_limit: Option<u64>,
    /// Limits that it gets, over those of this process.
    pub limits: Vec<ResourceLimit>,
    /// The mask of file modes (`umask(2)`); `None` for that of this process.
    pub umask: Option<u32>,
    /// What is added to the nice value of this process.
    pub nice: i32,
}

/// Where a new process tells its number, which is that of its session, before it becomes the program: so it is
/// known before the program can do anything.
#[derive(Debug)]
pub(crate) struct Announcement {
    event: Arc<OwnedFd>,
    number: OnceLock<u32>,
}

impl Announcement {
    /// The number; `None` until the process has told it. Does not wait.
    pub(crate) fn number(&self) -> Option<u32> {
        if let Some(number) = self.number.get() {
            return Some(*number);
        }
        let mut count = [0; 8];
        // Not readable: nothing was told.
        rustix::io::read(&self.event, &mut count).ok()?;
        let told = u32::try_from(u64::from_ne_bytes(count)).ok().filter(|number| *number > 0)?;
        Some(*self.number.get_or_init(|| told))
    }
}

impl Spawn {
    /// Starts the program. Returns when it has become the program, or could not.
    ///
    /// # Errors
    /// [`ProcessError::Fork`] if there is no process to be had, which may be different later;
    /// [`ProcessError::Exec`] and [`ProcessError::Directory`] name what cannot be run or entered;
    /// [`ProcessError::Prepare`]; [`ProcessError::ZeroByte`].
    #[cfg(test)]
    pub(super) fn start(&self, output: &Output) -> Result<Child, ProcessError> {
        self.start_with(&[], output)
    }

    /// Starts the process with sockets of this one, as its descriptors from 3 on, in this order, blocking. Only
    /// then `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` say so (sd_listen_fds(3)), in place of
    /// what `env` has under such names.
    ///
    /// # Errors
    /// The errors of [`Self::start`].
    pub(crate) fn start_with(
        &self,
        passed: &[PassedSocket<'_>],
        output: &Output,
    ) -> Result<Child, ProcessError> {
        self.start_announced(passed, output, None)
    }

    /// As [`Self::start_with`], of a process that tells its number here.
    pub(crate) fn start_announced(
        &self,
        passed: &[PassedSocket<'_>],
        output: &Output,
        announcement: Option<&Announcement>,
    ) -> Result<Child, ProcessError> {
        self.check()?;
        sys::keep_exit_statuses().map_err(|errno| {
            self.prepare_error(ProcessOperation::ResetSignals, Errno::of(errno))
        })?;
        let progress = self.counter()?;
        let mut command = Command::new(self.file());
        command
            .arg0(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(output.writer().map_err(|errno| self.fork_error(errno))?)
            .stderr(output.writer().map_err(|errno| self.fork_error(errno))?);
        let directory = self.directory.as_ref().map(|directory| {
            CString::new(directory.as_os_str().as_bytes()).expect("checked to hold no zero byte")
        });
        let ids = self.account.as_ref().and_then(Account::to_become);
        let descriptors = self.descriptor_limit.map(ResourceLimit::soft_descriptors);
        let limits: Vec<ResourceLimit> =
            descriptors.into_iter().chain(self.limits.iter().copied()).collect();
        let nice = match self.nice {
            0 => None,
            more => Some(own_nice()?.saturating_add(more).clamp(-20, 19)),
        };
        let setup = sys::Setup {
            directory,
            enters_as_starter: self.enters_as_starter,
            ids,
            limits: limits.into_iter().map(ResourceLimit::to_set).collect(),
            umask: self.umask,
            nice,
            announces: announcement.map(|it| Arc::clone(&it.event)),
        };
        sys::prepare_child(&mut command, setup, Arc::clone(&progress));
        // Keeps a number free for the pidfd: a child without one would have to be ended again.
        let reserved = progress.try_clone();
        let reserved = reserved.map_err(|error| self.fork_error(errno_of(&error)))?;
        let report = socket_activation::pass(&mut command, self, passed)
            .map_err(|errno| self.fork_error(errno))?;
        let mut started = StartedChildren::lock();
        // The standard library's own handle is not used: it knows the child by its number alone.
        let pid = command.spawn().map_err(|error| self.spawn_error(&error, &progress))?.id();
        drop(reserved);
        drop(command);
        report.wait().map_err(|errno| {
            kill_and_reap(pid);
            self.spawn_error(&io::Error::from(errno), &progress)
        })?;
        let pidfd = PidFd::open(pid).inspect_err(|_| kill_and_reap(pid))?;
        Ok(started.add(pidfd))
    }

    /// What is run, as it is looked for by [`Self::candidates`].
    pub(super) fn file(&self) -> &OsStr {
        self.file.as_deref().map_or(&self.program, Path::as_os_str)
    }

    /// The files that may be the program, as execvp(3) looks for them.
    pub(super) fn candidates(&self) -> Vec<PathBuf> {
        let file = Path::new(self.file());
        if file.as_os_str().as_bytes().contains(&b'/') || file.as_os_str().is_empty() {
            return vec![file.to_owned()];
        }
        let path = self.env.get(OsStr::new("PATH")).map_or(OsStr::new("/bin:/usr/bin"), |it| it);
        // An empty entry is the working directory.
        std::env::split_paths(path).map(|directory| directory.join(file)).collect()
    }

    fn check(&self) -> Result<(), ProcessError> {
        let holds_zero = |text: &OsStr| text.as_bytes().contains(&0);
        let directory = self.directory.as_ref().map(|directory| directory.as_os_str());
        let what = if holds_zero(&self.program) || holds_zero(self.file()) {
            "its name"
        } else if self.args.iter().any(|arg| holds_zero(arg)) {
            "an argument"
        } else if self.env.iter().any(|(name, value)| holds_zero(name) || holds_zero(value)) {
            "its environment"
        } else if directory.is_some_and(holds_zero) {
            "its directory"
        } else {
            return Ok(());
        };
        Err(ProcessError::ZeroByte { program: self.program(), what })
    }

    /// Where the process of [`Self::start_announced`] is to tell its number.
    ///
    /// # Errors
    /// [`ProcessError::Fork`]: no descriptor is to be had.
    pub(crate) fn announcement(&self) -> Result<Announcement, ProcessError> {
        Ok(Announcement { event: self.counter()?, number: OnceLock::new() })
    }

    /// A counter that the child adds to.
    fn counter(&self) -> Result<Arc<OwnedFd>, ProcessError> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Arc::new)
            .map_err(|errno| self.fork_error(errno_from(errno)))
    }

    /// The standard library gives the errno alone; where it came from is how far the child came.
    fn spawn_error(&self, error: &io::Error, progress: &OwnedFd) -> ProcessError {
        let errno = errno_of(error);
        match Step::reached(progress) {
            Step::Fork => self.fork_error(errno),
            Step::NewSession => self.prepare_error(ProcessOperation::NewSession, errno),
            Step::ResetSignals => self.prepare_error(ProcessOperation::ResetSignals, errno),
            Step::SetLimits => self.prepare_error(ProcessOperation::SetLimits, errno),
            Step::SetNice => self.prepare_error(ProcessOperation::SetNice, errno),
            Step::SetGroups => self.prepare_error(ProcessOperation::SetGroups, errno),
            Step::SetUser => self.prepare_error(ProcessOperation::SetUser, errno),
            Step::DropCapabilities => self.prepare_error(ProcessOperation::DropCapabilities, errno),
            Step::EnterAsStarter | Step::Directory => ProcessError::Directory {
                program: self.program(),
                directory: self.directory.clone().unwrap_or_default(),
                errno,
            },
            // The user has more processes than its RLIMIT_NPROC, which the kernel looks at now that
            // the ids have changed (`do_execveat_common`).
            Step::Exec if errno == Errno::EAGAIN => self.fork_error(errno),
            Step::Exec => ProcessError::Exec { program: self.program(), errno },
        }
    }

    fn fork_error(&self, errno: Errno) -> ProcessError {
        ProcessError::Fork { program: self.program(), errno }
    }

    fn prepare_error(&self, operation: ProcessOperation, errno: Errno) -> ProcessError {
        ProcessError::Prepare { program: self.program(), operation, errno }
    }

    fn program(&self) -> PathBuf {
        PathBuf::from(self.file())
    }
}

/// Ends a child that did not become the program, or for which no pidfd is to be had (no descriptors
/// left: another thread took the one
/// that was kept for it): without one it could not be watched. Its number, and that of the group
/// that it leads, are its own, since it was not waited for.
fn kill_and_reap(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    if nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL).is_ok() {
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}
