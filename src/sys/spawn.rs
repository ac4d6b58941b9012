//! What runs between fork and exec.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities_secure_bits,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// The steps of a new process before it becomes the program. Each is reported to the parent when
/// it begins, so that the parent knows which one failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not begun: there is no new process, or it never came to our code.
    Fork,
    NewSession,
    ResetSignals,
    SetLimits,
    SetNice,
    /// Only as the starter may enter it.
    EnterAsStarter,
    SetGroups,
    SetUser,
    DropCapabilities,
    Directory,
    Exec,
}

impl Step {
    const ALL: [Self; 11] = [
        Self::Fork,
        Self::NewSession,
        Self::ResetSignals,
        Self::SetLimits,
        Self::SetNice,
        Self::EnterAsStarter,
        Self::SetGroups,
        Self::SetUser,
        Self::DropCapabilities,
        Self::Directory,
        Self::Exec,
    ];

    /// The step that the child has reached. `progress` is the eventfd given to [`prepare_child`].
    pub(crate) fn reached(progress: &OwnedFd) -> Self {
        let mut count = [0; 8];
        // A nonblocking eventfd that nothing was added to is not readable: count stays 0.
        let _ = rustix::io::read(progress, &mut count);
        let count = u64::from_ne_bytes(count);
        Self::ALL
            .iter()
            .copied()
            .take_while(|step| *step as u64 <= count)
            .last()
            .unwrap_or(Self::Fork)
    }
}

/// What a new process becomes before it is the program.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// Its working directory; that of this process without.
    pub(crate) directory: Option<CString>,
    /// Whether it is entered before the ids change.
    pub(crate) enters_as_starter: bool,
    /// Whom it runs as; as this process does without.
    pub(crate) ids: Option<Ids>,
    /// Limits that it gets, in their order.
    pub(crate) limits: Vec<LimitToSet>,
    /// Its mask of file modes; that of this process without.
    pub(crate) umask: Option<u32>,
    /// Its nice value; that of this process without.
    pub(crate) nice: Option<i32>,
    /// An eventfd to which its number is added, once it has a session.
    pub(crate) announces: Option<Arc<OwnedFd>>,
}

/// A limit of a new process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LimitToSet {
    pub(crate) resource: Resource,
    /// At most the hard one; `None` for no limit.
    pub(crate) soft: Option<u64>,
    /// `None` for that of this process, `Some(None)` for no limit.
    pub(crate) hard: Option<Option<u64>>,
}

/// The numbers of a user.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// The supplementary groups.
    pub(crate) groups: Vec<Gid>,
}

/// Has the child of `command` start in a session of its own, with default signal dispositions, an
/// empty signal mask, no descriptor but 0 to 2 kept over exec, without any capability or a way to
/// get one, and as `setup` says.
pub(crate) fn prepare_child(command: &mut Command, setup: Setup, progress: Arc<OwnedFd>) {
    let hook = move || {
        begin_step(progress.as_fd())?;
        nix::unistd::setsid()?;
        setup.announce()?;
        begin_step(progress.as_fd())?;
        reset_signals()?;
        keep_standard_descriptors_only();
        begin_step(progress.as_fd())?;
        setup.set_limits()?;
        begin_step(progress.as_fd())?;
        setup.set_nice()?;
        begin_step(progress.as_fd())?;
        setup.enter(true)?;
        close_ways_to_capabilities();
        setup.set_ids(progress.as_fd())?;
        begin_step(progress.as_fd())?;
        drop_capabilities()?;
        // As the user, whom the directory has to let in.
        begin_step(progress.as_fd())?;
        setup.enter(false)?;
        begin_step(progress.as_fd())
    };
    // SAFETY: between fork and exec of a process with threads, only async-signal-safe functions
    // may run, and no lock of another thread may be waited for. The hook makes bare system calls
    // (write, getpid, setsid, rt_sigaction, rt_sigprocmask, close_range, prlimit64, setpriority, umask, prctl,
    // setgroups, setresgid, setresuid, capset, chdir), through wrappers that neither allocate nor lock: those
    // that set ids are the kernel's own, for this thread, not the C library's, which would have all
    // threads of the process follow and takes a lock for that. The directory is a C string already,
    // the errors are made from an errno, which takes no memory. What the hook captures was
    // allocated before the fork, and is only read.
    unsafe { command.pre_exec(hook) };
}

impl Setup {
    fn announce(&self) -> io::Result<()> {
        if let Some(event) = &self.announces {
            rustix::io::write(event, &u64::from(std::process::id()).to_ne_bytes())?;
        }
        Ok(())
    }

    fn set_limits(&self) -> io::Result<()> {
        for LimitToSet { resource, soft, hard } in &self.limits {
            let maximum = hard.unwrap_or_else(|| getrlimit(*resource).maximum);
            let current = match (*soft, maximum) {
                (Some(soft), Some(maximum)) => Some(soft.min(maximum)),
                (soft, maximum) => soft.or(maximum),
            };
            setrlimit(*resource, Rlimit { current, maximum })?;
        }
        if let Some(mask) = self.umask {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        }
        Ok(())
    }

    fn set_nice(&self) -> io::Result<()> {
        if let Some(nice) = self.nice {
            setpriority_process(None, nice)?;
        }
        Ok(())
    }

    /// Enters the directory, if it is now that it is entered.
    fn enter(&self, as_starter: bool) -> io::Result<()> {
        match &self.directory {
            Some(directory) if self.enters_as_starter == as_starter => {
                Ok(nix::unistd::chdir(directory.as_c_str())?)
            }
            _ => Ok(()),
        }
    }

    /// Groups first: without the user's privilege they cannot be set any more.
    fn set_ids(&self, progress: BorrowedFd<'_>) -> io::Result<()> {
        begin_step(progress)?;
        if let Some(ids) = &self.ids {
            set_thread_groups(&ids.groups)?;
            set_thread_res_gid(ids.gid, ids.gid, ids.gid)?;
        }
        begin_step(progress)?;
        if let Some(ids) = &self.ids {
            set_thread_res_uid(ids.uid, ids.uid, ids.uid)?;
        }
        Ok(())
    }
}

/// Sees to it that no program which this thread becomes gets a capability, as far as the thread's
/// `CAP_SETPCAP` reaches: empties its bounding set, and has the kernel make nothing of user 0
/// (`SECBIT_NOROOT`) nor of ambient capabilities, for ever. Takes none away. Without `CAP_SETPCAP`
/// it does nothing, and `no_new_privs` has to be enough, as it is: see [`drop_capabilities`].
pub(crate) fn close_ways_to_capabilities() {
    for number in 0..u64::BITS {
        // EINVAL: this kernel has none of that number, nor a higher one. EPERM: see above.
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number))
            .is_err()
        {
            break;
        }
    }
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    if let Ok(before) = capabilities_secure_bits() {
        // EPERM: see above.
        let _ = set_capabilities_secure_bits(before | bits);
    }
}

/// Takes all capabilities from this thread, and sets `no_new_privs`: the program that it becomes,
/// and whatever that starts, get none either, not even as user 0. For user 0 the kernel adds the
/// bounding set at exec, and then takes away again what was not permitted before if
/// `no_new_privs` is set (`cap_bprm_creds_from_file`, security/commoncap.c, Linux 6.12).
fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    // The kernel takes from the ambient set what is not permitted and inheritable (capset(2)).
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    Ok(())
}

/// What a new process becomes, made before the fork: nothing can be allocated after it.
pub(crate) struct ExecImage {
    /// The files that may be the program, in the order in which they are tried: the first that is there is
    /// run.
    pub(crate) files: Vec<CString>,
    /// What the program is called, and its arguments.
    pub(crate) arguments: Vec<CString>,
    /// All variables (`NAME=value`) but `LISTEN_PID`.
    pub(crate) environment: Vec<CString>,
    /// Whether it gets its own pid in `LISTEN_PID`.
    pub(crate) is_told_pid: bool,
    /// What becomes its descriptors from 3 on. Their own numbers are above those.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// How many bytes a child reports an errno by.
pub(crate) const ERRNO_LEN: usize = size_of::<i32>();

/// Has the child of `command` become the program of `image` with its descriptors, and where it is told, with
/// its own pid in `LISTEN_PID`. Must be the last hook of the command: the child runs the program from it, or
/// writes the errno ([`ERRNO_LEN`] bytes) to `report`, whose number must be above those of the
/// descriptors, and ends. At success `report` is closed.
///
/// The standard library would run the program after this hook, with an environment that was made
/// before the fork, in which nobody can know the pid; and by execvp(3), which gives a file that the
/// kernel does not take for a program to a shell.
pub(crate) fn become_with_descriptors(command: &mut Command, image: ExecImage, report: OwnedFd) {
    let ExecImage { files, arguments, environment, is_told_pid, descriptors } = image;
    let arguments = CStrings::new(0, arguments);
    let mut environment = CStrings::new(usize::from(is_told_pid), environment);
    let mut pid_entry = PidEntry::new();
    let hook = move || -> io::Result<()> {
        let errno = match place(&descriptors) {
            Ok(()) => {
                if is_told_pid {
                    environment.pointers[0] = pid_entry.fill(std::process::id());
                }
                run(&files, &arguments, &environment)
            }
            Err(errno) => errno,
        };
        // The pipe of the standard library may be closed by now.
        let _ = rustix::io::write(&report, &(errno as i32).to_ne_bytes());
        // SAFETY: ends the process at once: no destructor and no exit handler of the parent runs.
        unsafe { libc::_exit(127) }
    };
    // SAFETY: as in `prepare_child`: the hook makes system calls (dup3, getpid, execve, write, exit)
    // and writes to memory that it owns, which is the child's own copy; nothing allocates or locks.
    unsafe { command.pre_exec(hook) };
}

/// Copies descriptors to the numbers from 3 on, open over exec.
fn place(descriptors: &[OwnedFd]) -> Result<(), Errno> {
    for (number, descriptor) in (3..).zip(descriptors) {
        // SAFETY: the call touches no memory. What was open under the number is closed: it is of a
        // child that is about to run another program, whose own descriptors these are; the sources
        // and the report have numbers above.
        let result = unsafe { libc::dup3(descriptor.as_raw_fd(), number, 0) };
        Errno::result(result)?;
    }
    Ok(())
}

/// Runs the first of these files that is there; returns why none can be. As execvp(3) does, but that what is no
/// program is an error.
fn run(files: &[CString], arguments: &CStrings, environment: &CStrings) -> Errno {
    let mut failure = Errno::ENOENT;
    for file in files {
        // SAFETY: the file and both arrays are borrowed and live on; the arrays end with a null pointer, and
        // point to strings that they own. Where the call returns nothing has changed.
        unsafe {
            libc::execve(file.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr());
        }
        match Errno::last() {
            // A later one may be it; if none is, this says more than that the last was not there.
            Errno::EACCES => failure = Errno::EACCES,
            errno @ (Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV) => {
                if files.len() == 1 {
                    failure = errno;
                }
            }
            errno => return errno,
        }
    }
    failure
}

/// Strings and what execve(2) takes of them: an array of pointers, the last one null.
struct CStrings {
    /// Keeps what the pointers point to.
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    /// With so many free places before the strings, each to be filled before the array is used: a
    /// null pointer would end it.
    fn new(free: usize, strings: Vec<CString>) -> Self {
        let mut pointers = vec![std::ptr::null(); free];
        pointers.extend(strings.iter().map(|string| string.as_ptr()));
        pointers.push(std::ptr::null());
        Self { _strings: strings, pointers }
    }
}

// SAFETY: the pointers are to the heap memory of strings that the value owns and never changes, or
// to that of a `PidEntry`, which is set after the fork alone; so they may go and be read anywhere.
unsafe impl Send for CStrings {}
// SAFETY: as above.
unsafe impl Sync for CStrings {}

/// `LISTEN_PID=` with room for any pid.
struct PidEntry(Box<[u8; 32]>);

impl PidEntry {
    const NAME: &'static [u8] = b"LISTEN_PID=";

    fn new() -> Self {
        let mut bytes = Box::new([0; 32]);
        bytes[..Self::NAME.len()].copy_from_slice(Self::NAME);
        Self(bytes)
    }

    /// Writes the number, without allocating, and returns where the entry is.
    fn fill(&mut self, pid: u32) -> *const libc::c_char {
        let digits = pid.checked_ilog10().map_or(1, |log| log as usize + 1);
        let mut rest = pid;
        for place in (0..digits).rev() {
            self.0[Self::NAME.len() + place] = b"0123456789"[(rest % 10) as usize];
            rest /= 10;
        }
        self.0.as_ptr().cast()
    }
}

fn begin_step(progress: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::write(progress, &1u64.to_ne_bytes())?;
    Ok(())
}

/// Sets every signal to its default and unblocks all. Ignored signals stay ignored over exec, and
/// so does the mask: a worker would inherit what the master's starter chose.
fn reset_signals() -> io::Result<()> {
    const SIGNALS: libc::c_int = 64;
    const SIGNAL_SET_LEN: usize = 8;
    // `struct sigaction` of the kernel, whose handler `SIG_DFL`, no flags and an empty mask are
    // all zero: 32 bytes where it is longest. The C library's own functions leave out the signals
    // that it keeps to itself (32 and 33), which a starter can have ignored all the same.
    let default = [0u64; 8];
    for signal in (1..=SIGNALS).filter(|s| !matches!(*s, libc::SIGKILL | libc::SIGSTOP)) {
        // SAFETY: the kernel reads a `struct sigaction` from `default`, which is at least as long
        // and outlives the call, and writes nothing, since the pointer to the old one is null. The
        // new disposition is the default, so no code of ours is called by it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGNAL_SET_LEN,
            )
        };
        Errno::result(result)?;
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Marks every descriptor from 3 on to be closed by exec (`close_range(2)`, the flag since Linux
/// 5.11). Ours are so from their creation; this is for those of an embedding program. Older
/// kernels lack it, which is no reason not to start.
fn keep_standard_descriptors_only() {
    // SAFETY: the call takes three numbers and touches no memory. It closes nothing now: it sets a
    // flag in the descriptor table, which after fork is this process's own.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Sets `SIGCHLD` to its default if it is ignored, which a program inherits from its starter: the
/// kernel would then throw away the exit status of children at once, and free their pids.
pub(crate) fn keep_exit_statuses() -> Result<(), Errno> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action given the call only writes the present one, to memory of its
    // size that is ours; it is read below only after success.
    let result = unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: sigaction succeeded, so it has written all of it.
    let action = unsafe { action.assume_init() };
    if action.sa_sigaction == libc::SIG_IGN {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the new disposition is the default, which calls no code of ours.
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    }
    Ok(())
}
