//! The one file in which `unsafe` stands: what runs between fork and exec, system calls and socket
//! options that neither nix, rustix nor neli has, and promises to their types.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use neli::socket::NlSocket;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities_secure_bits,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The steps of a new process before it becomes the program. Each is reported to the parent when
/// it begins, so that the parent knows which one failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not begun: there is no new process, or it never came to our code.
    Fork,
    NewSession,
    ResetSignals,
    SetLimits,
    SetGroups,
    SetUser,
    DropCapabilities,
    Directory,
    Exec,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Fork,
        Self::NewSession,
        Self::ResetSignals,
        Self::SetLimits,
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
    /// Whom it runs as; as this process does without.
    pub(crate) ids: Option<Ids>,
    /// Its soft limit of open files, at most the hard one; that of this process without.
    pub(crate) descriptor_limit: Option<u64>,
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
        begin_step(progress.as_fd())?;
        reset_signals()?;
        keep_standard_descriptors_only();
        begin_step(progress.as_fd())?;
        setup.set_limits()?;
        close_ways_to_capabilities();
        setup.set_ids(progress.as_fd())?;
        begin_step(progress.as_fd())?;
        drop_capabilities()?;
        // As the user, whom the directory has to let in.
        begin_step(progress.as_fd())?;
        if let Some(directory) = &setup.directory {
            nix::unistd::chdir(directory.as_c_str())?;
        }
        begin_step(progress.as_fd())
    };
    // SAFETY: between fork and exec of a process with threads, only async-signal-safe functions
    // may run, and no lock of another thread may be waited for. The hook makes bare system calls
    // (write, setsid, rt_sigaction, rt_sigprocmask, close_range, prlimit64, prctl, setgroups,
    // setresgid, setresuid, capset, chdir), through wrappers that neither allocate nor lock: those
    // that set ids are the kernel's own, for this thread, not the C library's, which would have all
    // threads of the process follow and takes a lock for that. The directory is a C string already,
    // the errors are made from an errno, which takes no memory. What the hook captures was
    // allocated before the fork, and is only read.
    unsafe { command.pre_exec(hook) };
}

impl Setup {
    fn set_limits(&self) -> io::Result<()> {
        let Some(wanted) = self.descriptor_limit else { return Ok(()) };
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let current = Some(maximum.map_or(wanted, |maximum| wanted.min(maximum)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
        Ok(())
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
pub(crate) struct Image {
    /// The program, looked for in the `PATH` of `environment` if it has no `/`, and its arguments.
    pub(crate) arguments: Vec<CString>,
    /// All variables (`NAME=value`) but `LISTEN_PID`.
    pub(crate) environment: Vec<CString>,
    /// What becomes its descriptors from 3 on. Their own numbers are above those.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// How many bytes a child reports an errno by.
pub(crate) const ERRNO_LEN: usize = size_of::<i32>();

/// Has the child of `command` become the program of `image` with its descriptors, and with its own
/// pid in `LISTEN_PID`. Must be the last hook of the command: the child runs the program from it, or
/// writes the errno ([`ERRNO_LEN`] bytes) to `report`, whose number must be above those of the
/// descriptors, and ends. At success `report` is closed.
///
/// The standard library would run the program after this hook, with an environment that was made
/// before the fork, in which nobody can know the pid.
pub(crate) fn become_with_descriptors(command: &mut Command, image: Image, report: OwnedFd) {
    let Image { arguments, environment, descriptors } = image;
    let arguments = CStrings::new(0, arguments);
    let mut environment = CStrings::new(1, environment);
    let mut pid_entry = PidEntry::new();
    let hook = move || -> io::Result<()> {
        let errno = match place(&descriptors) {
            Ok(()) => {
                environment.pointers[0] = pid_entry.fill(std::process::id());
                run(&arguments, &environment)
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
    // execvp is what the standard library itself calls here.
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

/// Runs the program; returns why it cannot be.
fn run(arguments: &CStrings, environment: &CStrings) -> Errno {
    unsafe extern "C" {
        /// environ(7). execvp(3) takes from it both the variables and the `PATH` to look in.
        static mut environ: *const *const libc::c_char;
    }
    // SAFETY: this is the child of a fork, with one thread, so nobody else reads or writes `environ`
    // at this time. Both arrays end with a null pointer, and point to strings that live on: they are
    // borrowed.
    unsafe {
        (&raw mut environ).write(environment.pointers.as_ptr());
        libc::execvp(arguments.pointers[0], arguments.pointers.as_ptr());
    }
    Errno::last()
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

/// A copy of a descriptor that this process was started with, closed on exec, as the original is from
/// now on.
pub(crate) fn inherited_descriptor(number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call touches no memory; a number that is not open is an error (EBADF).
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(result)?;
    // SAFETY: as above.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    let copy = Errno::result(copy)?;
    // SAFETY: the call succeeded, so this is a new descriptor, which nothing else knows of. The
    // original stays whose it is.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
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

/// Signals the process group that this process leads, by `pidfd_send_signal(2)` with
/// `PIDFD_SIGNAL_PROCESS_GROUP` (since Linux 6.9; `EINVAL` before). Without a signal it only says
/// whether anyone is in it (`ESRCH`: nobody).
pub(crate) fn signal_group(leader: BorrowedFd<'_>, signal: Option<Signal>) -> Result<(), Errno> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    // SAFETY: the descriptor is open for the length of the call (it is borrowed); the siginfo
    // pointer may be null, which has the kernel fill one in.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            leader.as_raw_fd(),
            signal.map_or(0, |signal| signal as libc::c_int),
            std::ptr::null::<libc::siginfo_t>(),
            PIDFD_SIGNAL_PROCESS_GROUP,
        )
    };
    Errno::result(result).map(drop)
}

/// The wait status of a process that has ended and was waited for, whosever child it was
/// (`PIDFD_GET_INFO`, since Linux 6.13, with `PIDFD_INFO_EXIT`, since 6.15); `None` if the kernel
/// does not tell.
pub(crate) fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    /// `struct pidfd_info` of include/uapi/linux/pidfd.h, in its first published size of 64 bytes:
    /// a mask, then eight bytes of control group, then twelve numbers of which the last is the
    /// status.
    const WORDS: usize = 16;
    const EXIT_STATUS: usize = 15;
    const PIDFD_INFO_EXIT: u32 = 1 << 3;
    /// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
    const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
    #[repr(align(8))]
    struct Info([u32; WORDS]);
    let mut info = Info([0; WORDS]);
    // The mask is 64 bits wide; its low half is where the byte order has it.
    let low = usize::from(cfg!(target_endian = "big"));
    info.0[low] = PIDFD_INFO_EXIT;
    // SAFETY: the kernel reads and writes a structure of the size that the request's number states,
    // 64 bytes, which `info` is, aligned to 8, and which outlives the call. The descriptor is open for
    // the length of the call (it is borrowed).
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    Errno::result(result).ok()?;
    (info.0[low] & PIDFD_INFO_EXIT != 0).then(|| info.0[EXIT_STATUS].cast_signed())
}

/// Has the tokio runtime of the caller wait for a descriptor to become readable, or to have an error
/// (a netlink socket that lost something, `EPOLLERR`).
pub(crate) fn watch_readable<T: SteadyFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `OwnedFd` is open until it, or the last `Arc` of it, is dropped, and always has
    // the same number. What holds it is moved into the `AsyncFd`, which drops it last and gives no
    // mutable access to it. `SteadyFd` admits nothing else.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE | Interest::ERROR) }
        .map_err(Into::into)
}

/// Has the kernel tell who sent each datagram that a Unix socket receives: its credentials, and since
/// Linux 6.5 a pidfd of it.
pub(crate) fn ask_for_senders(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_socket_option(socket, libc::SO_PASSCRED)?;
    match set_socket_option(socket, libc::SO_PASSPIDFD) {
        Err(Errno::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

fn set_socket_option(socket: BorrowedFd<'_>, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only
    // reads it. The descriptor is open (it is borrowed).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).expect("4"),
        )
    };
    Errno::result(result).map(drop)
}

/// A datagram of a socket that [asks for senders](ask_for_senders).
pub(crate) struct Datagram {
    /// How many bytes of the buffer it takes.
    pub(crate) length: usize,
    /// It was longer than the buffer.
    pub(crate) is_cut: bool,
    /// Who sent it; 0 for a process that this pid namespace does not show.
    pub(crate) pid: u32,
    /// A pidfd of the sender, if the kernel gives one.
    pub(crate) pidfd: Option<OwnedFd>,
    /// What came along; closed on exec. Those beyond what there is room for, the kernel has closed.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// `SCM_PIDFD` (include/linux/socket.h, since Linux 6.5).
const SCM_PIDFD: libc::c_int = 4;

/// Receives a datagram from a non-blocking Unix socket, with its sender and the descriptors that came
/// along. It is for a socket whose senders are not trusted.
pub(crate) fn receive_datagram(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Datagram, Errno> {
    /// Room for the credentials, the pidfd and a few descriptors; aligned as `struct cmsghdr` is.
    #[repr(C, align(8))]
    struct Control([u8; 256]);
    let mut control = Control([0; 256]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `struct msghdr` is plain data, for which all zero is valid: no name, no flags.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let length = loop {
        // SAFETY: the header points at `vector`, which describes `buffer`, and at `control`, with
        // their true lengths; all outlive the call, and nothing else uses them meanwhile.
        let result =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            result => break usize::try_from(result?).unwrap_or(0),
        }
    };
    let mut datagram = Datagram {
        length,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        pid: 0,
        pidfd: None,
        descriptors: Vec::new(),
    };
    // SAFETY: the kernel has filled `control` with whole control messages and set `msg_controllen` to
    // what it used, which is what the CMSG macros go by; `header` and `control` are alive.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: `message` is one that the CMSG macros gave, so it points at a whole, aligned
        // `struct cmsghdr` in `control`.
        let (level, kind, total) =
            unsafe { ((*message).cmsg_level, (*message).cmsg_type, (*message).cmsg_len as usize) };
        // SAFETY: it only computes the length of a header.
        let length = total.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        // SAFETY: as above; the result points behind the header, at `length` bytes of data.
        let data = unsafe { libc::CMSG_DATA(message) };
        if level == libc::SOL_SOCKET {
            let count = length / size_of::<libc::c_int>();
            match kind {
                libc::SCM_CREDENTIALS if length >= size_of::<libc::ucred>() => {
                    // SAFETY: there are enough bytes, and any are a valid `struct ucred`.
                    let sender = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                    datagram.pid = u32::try_from(sender.pid).unwrap_or(0);
                }
                libc::SCM_RIGHTS | SCM_PIDFD => {
                    for index in 0..count {
                        // SAFETY: `index` is within the data, which is `count` descriptors.
                        let number =
                            unsafe { data.cast::<libc::c_int>().add(index).read_unaligned() };
                        // Of a sender that was reaped the kernel may tell an error in its place.
                        if number < 0 {
                            continue;
                        }
                        // SAFETY: the kernel has just made this descriptor for us, and nobody
                        // else in this process knows of it.
                        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                        match kind {
                            SCM_PIDFD => datagram.pidfd = Some(descriptor),
                            _ => datagram.descriptors.push(descriptor),
                        }
                    }
                }
                _ => {}
            }
        }
        // SAFETY: as for the first one.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    Ok(datagram)
}

/// What stays open and keeps its number for as long as it is held.
pub(crate) trait SteadyFd: AsRawFd {}

impl SteadyFd for OwnedFd {}
impl SteadyFd for Arc<OwnedFd> {}

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

/// The descriptor of a netlink socket of neli, which gives it as a bare number alone.
pub(crate) fn descriptor_of(socket: &NlSocket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the `NlSocket` that owns it, and the lifetime
    // of the result is that of the borrow of the socket.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// The netlink socket behind a descriptor, of which the caller has made sure that it is one.
pub(crate) fn netlink_socket(descriptor: OwnedFd) -> NlSocket {
    // SAFETY: the descriptor is open and belongs to the caller, who gives it away: the `NlSocket`
    // becomes its only owner, and closes it.
    unsafe { NlSocket::from_raw_fd(descriptor.into_raw_fd()) }
}

/// The network namespace of a socket (`SIOCGSKNS`, since Linux 4.10): needs `CAP_NET_ADMIN` there.
pub(crate) fn network_namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// include/uapi/linux/sockios.h
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    // SAFETY: the request takes no argument and touches no memory of ours; the descriptor is open
    // for the length of the call (it is borrowed).
    let namespace = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS as _) };
    let namespace = Errno::result(namespace)?;
    // SAFETY: the call succeeded, so this is a new descriptor (made O_CLOEXEC), which nothing else
    // knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// Sets `NETLINK_CAP_ACK` (since Linux 4.3): error replies carry the header of the message at
/// fault, not all of it.
pub(crate) fn set_capped_acknowledgements(socket: &NlSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only
    // reads it. The descriptor is open (it is borrowed from its owner).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_CAP_ACK,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).expect("4"),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
