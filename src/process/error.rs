use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::socket_owner::Transport;
use crate::netlink::{Errno, NetlinkError};

/// Why something about a process, its output or its sockets could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// No process could be made: no memory, too many processes, no descriptors left. Says nothing
    /// about the program; worth another try later.
    #[error("cannot make a process for {}: {errno}", program.display())]
    Fork {
        /// The program that was to run in it.
        program: PathBuf,
        /// `EAGAIN` (`RLIMIT_NPROC`, `pids.max`), `ENOMEM`, `EMFILE`, `ENFILE`.
        errno: Errno,
    },
    /// The new process could not be set up before it became the program.
    #[error("cannot prepare the process for {}: {operation}: {errno}", program.display())]
    Prepare {
        /// The program that was to run in it.
        program: PathBuf,
        /// What failed.
        operation: ProcessOperation,
        /// Why.
        errno: Errno,
    },
    /// The program's working directory cannot be entered.
    #[error("cannot run {} in directory {}: {errno}", program.display(), directory.display())]
    Directory {
        /// The program that was to run there.
        program: PathBuf,
        /// The directory.
        directory: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The program cannot be run: it does not exist, is not executable, or is not a program.
    #[error(
        "cannot run program {}: {errno}{}",
        program.display(),
        if errno.known() == nix::errno::Errno::ENOEXEC {
            " (it is no program: a script names its interpreter in its first line, such as #!/bin/sh)"
        } else {
            ""
        }
    )]
    Exec {
        /// The program.
        program: PathBuf,
        /// `ENOENT`, `EACCES`, `ENOEXEC`, `E2BIG` and the like. A script whose interpreter does
        /// not exist is `ENOENT` as well.
        errno: Errno,
    },
    /// The program's name, an argument, a variable or the directory holds a zero byte.
    #[error("cannot run program {program:?}: {what} holds a zero byte")]
    ZeroByte {
        /// The program.
        program: PathBuf,
        /// Which part.
        what: &'static str,
    },
    /// Something done to a process failed.
    #[error("process {pid}: {operation}: {errno}")]
    Process {
        /// The process.
        pid: u32,
        /// What was tried.
        operation: ProcessOperation,
        /// Why.
        errno: Errno,
    },
    /// A file of `/proc` about a process does not have the form that it must have.
    #[error("process {pid}: /proc/{pid}/{file} is malformed")]
    Malformed {
        /// The process.
        pid: u32,
        /// The file.
        file: &'static str,
    },
    /// Something done to this process itself, or for the host as a whole, failed.
    #[error("{operation}: {errno}")]
    Host {
        /// What was tried.
        operation: ProcessOperation,
        /// Why.
        errno: Errno,
    },
    /// Something done to the file that takes a worker's output failed.
    #[error("output of {label}: {operation}: {errno}")]
    Output {
        /// Whose output.
        label: String,
        /// What was tried.
        operation: ProcessOperation,
        /// Why.
        errno: Errno,
    },
    /// The socket that workers write to could not be made or read.
    #[error(
        "the socket of NOTIFY_SOCKET, {}: {errno}{}",
        path.display(),
        if *errno == Errno::EEXIST { ": something that is no socket of this user is in its place" } else { "" }
    )]
    NotifySocket {
        /// Where it is, or was to be.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A listening socket could not be opened.
    #[error("worker port {port}/{transport}: {operation}: {errno}")]
    Listen {
        /// The port.
        port: u16,
        /// What it was to speak.
        transport: Transport,
        /// What was tried.
        operation: ProcessOperation,
        /// Why.
        errno: Errno,
    },
    /// A variable that announces passed descriptors makes no sense.
    #[error("LISTEN_FDS is {value:?}: expected how many sockets were passed")]
    Passed {
        /// Its value.
        value: String,
    },
    /// The kernel did not say which sockets there are.
    #[error("cannot list the TCP sockets: {source}")]
    Sockets {
        /// Why.
        source: NetlinkError,
    },
    /// `user` or `group` names nobody that workers could run as.
    #[error("`{key}`: {value:?}: {fault}")]
    Account {
        /// Which of the two.
        key: &'static str,
        /// What it says, or the number that it stands for.
        value: String,
        /// What is wrong with it.
        fault: AccountFault,
    },
    /// A process with several threads was to give up capabilities, which each thread has of its own.
    #[error("cannot drop capabilities: {threads} threads run, expected one")]
    ManyThreads {
        /// How many there are.
        threads: usize,
    },
    /// The service manager that `NOTIFY_SOCKET` names cannot be told anything.
    #[error("NOTIFY_SOCKET={}: {errno}", address.display())]
    ServiceManager {
        /// What the variable says.
        address: OsString,
        /// `EAFNOSUPPORT`: neither an absolute path nor `@` and a name.
        errno: Errno,
    },
    /// A range of worker ports that is empty or holds port 0.
    #[error("worker ports {first}-{last}: expected two ports from 1 to 65535, the lower one first")]
    PortRange {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// Too few worker ports are free.
    #[error(
        "worker ports {first}-{last}: {wanted} needed, {free} free: widen the range, or wait for connections of earlier workers to end"
    )]
    PortsExhausted {
        /// The first port of the range.
        first: u16,
        /// The last port of the range.
        last: u16,
        /// How many were asked for.
        wanted: usize,
        /// How many are free.
        free: usize,
    },
}

impl ProcessError {
    /// The errno at the bottom, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Fork { errno, .. }
            | Self::Prepare { errno, .. }
            | Self::Directory { errno, .. }
            | Self::Exec { errno, .. }
            | Self::Process { errno, .. }
            | Self::Host { errno, .. }
            | Self::Listen { errno, .. }
            | Self::Output { errno, .. }
            | Self::NotifySocket { errno, .. }
            | Self::ServiceManager { errno, .. }
            | Self::Account { fault: AccountFault::Lookup(errno), .. } => Some(*errno),
            Self::Sockets { source } => source.errno(),
            _ => None,
        }
    }
}

impl ProcessError {
    /// Whether a program that could not be started cannot be until somebody has mended something: it
    /// does not exist, may not be run, or is no program. `false` where another try may succeed by itself.
    pub(crate) fn is_permanent(&self) -> bool {
        use nix::errno::Errno as Known;
        match self {
            Self::Exec { errno, .. } | Self::Directory { errno, .. } => matches!(
                errno.known(),
                Known::ENOENT
                    | Known::EACCES
                    | Known::EPERM
                    | Known::ENOEXEC
                    | Known::ENOTDIR
                    | Known::EISDIR
                    | Known::ELOOP
                    | Known::ENAMETOOLONG
                    | Known::E2BIG
                    | Known::ELIBBAD
            ),
            Self::ZeroByte { .. } => true,
            _ => false,
        }
    }
}

/// Why workers cannot run as a user or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountFault {
    /// A name that the system does not know.
    #[error("no such name: expected a name that `getent` finds, or a number")]
    Unknown,
    /// A number that no user or group can have.
    #[error("expected a number from 0 to 4294967294")]
    Reserved,
    /// A user by a number that has no name, and so no group.
    #[error("this user has no entry in the user database, so no group: give `group` as well")]
    NoGroup,
    /// The system's user database could not be asked.
    #[error("cannot look it up: {0}")]
    Lookup(Errno),
    /// The user namespace of this process does not have it.
    #[error(
        "the user namespace that this runs in does not have it: expected one that /proc/self/uid_map and gid_map list (a container has to map it)"
    )]
    NotMapped,
    /// `/proc/self/setgroups` says `deny`.
    #[error("this user namespace does not let groups be set (/proc/self/setgroups: deny)")]
    GroupsDenied,
    /// A capability is missing.
    #[error("needs {0}: run it as root, or remove the key to run workers as the same user")]
    NeedsCapability(&'static str),
}

/// What was tried, as part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessOperation {
    /// `pidfd_open(2)`.
    OpenPidfd,
    /// `pidfd_send_signal(2)`.
    Signal,
    /// `pidfd_send_signal(2)` with `PIDFD_SIGNAL_PROCESS_GROUP`, or `killpg(3)`.
    SignalGroup,
    /// `setpriority(2)` with `PRIO_PGRP`.
    Renice,
    /// Waiting for the pidfd to become readable.
    AwaitExit,
    /// `waitid(2)`.
    Wait,
    /// `setsid(2)`.
    NewSession,
    /// Setting signals back to their defaults.
    ResetSignals,
    /// `setrlimit(2)`.
    SetLimits,
    /// `setpriority(2)`, of a new process.
    SetNice,
    /// `prctl(2)` with `PR_SET_CHILD_SUBREAPER`.
    AdoptOrphans,
    /// `setgroups(2)` or `setresgid(2)`.
    SetGroups,
    /// `setresuid(2)`.
    SetUser,
    /// `capset(2)`, or `PR_SET_NO_NEW_PRIVS`.
    DropCapabilities,
    /// `capget(2)`.
    ReadCapabilities,
    /// Reading a file below `/proc`, with its name.
    Read(&'static str),
    /// Reading the descriptors in `/proc/PID/fd`.
    ListDescriptors,
    /// Listing the processes in `/proc`.
    ListProcesses,
    /// Making a descriptor for a child's use.
    Descriptor,
    /// `memfd_create(2)`.
    CreateMemfd,
    /// Opening a file on disk for a worker's output.
    OpenLog,
    /// Reading a log file.
    ReadLog,
    /// Opening a memfd of another process through `/proc`.
    ReopenMemfd,
    /// `fstat(2)`, `lseek(2)` or `pread(2)` of a memfd.
    ReadMemfd,
    /// `fallocate(2)` with `FALLOC_FL_PUNCH_HOLE`.
    ReleaseMemfd,
    /// `sendmsg(2)` with `SCM_RIGHTS`.
    SendDescriptors,
    /// `recvmsg(2)` with `SCM_RIGHTS`.
    ReceiveDescriptors,
    /// `socket(2)` and the options that belong before `bind(2)`.
    OpenSocket,
    /// `bind(2)`.
    Bind,
    /// `listen(2)`.
    Listen,
    /// Finding out what a passed descriptor is.
    InspectSocket,
    /// `pidfd_getfd(2)`.
    CopyDescriptor,
    /// `getsockopt(2)` with `SO_PEERPIDFD` or `SO_PEERCRED`.
    AskPeer,
}

impl fmt::Display for ProcessOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenPidfd => "cannot open a pidfd",
            Self::Signal => "cannot signal it",
            Self::SignalGroup => "cannot signal its group",
            Self::Renice => "cannot change the nice value of its group",
            Self::AwaitExit => "cannot wait for its pidfd",
            Self::Wait => "cannot wait for its end",
            Self::NewSession => "cannot make a session",
            Self::ResetSignals => "cannot reset the signals",
            Self::SetLimits => "cannot set its resource limits",
            Self::SetNice => "cannot set its nice value",
            Self::AdoptOrphans => "cannot become the parent of orphaned processes",
            Self::SetGroups => "cannot change to the groups of `user` and `group`",
            Self::SetUser => "cannot change to `user`",
            Self::DropCapabilities => "cannot drop the capabilities",
            Self::ReadCapabilities => "cannot read the capabilities",
            Self::Read(file) => return write!(f, "cannot read {file}"),
            Self::ListDescriptors => "cannot list its descriptors",
            Self::ListProcesses => "cannot list the processes in /proc",
            Self::Descriptor => "cannot make a descriptor",
            Self::CreateMemfd => "cannot create a memfd",
            Self::OpenLog => "cannot open the log",
            Self::ReadLog => "cannot read the log",
            Self::ReopenMemfd => "cannot open the memfd",
            Self::ReadMemfd => "cannot read the memfd",
            Self::ReleaseMemfd => "cannot release read pages",
            Self::SendDescriptors => "cannot send descriptors",
            Self::ReceiveDescriptors => "cannot receive descriptors",
            Self::OpenSocket => "cannot open a socket",
            Self::Bind => "cannot bind to it",
            Self::Listen => "cannot listen",
            Self::InspectSocket => "this is no listening socket",
            Self::CopyDescriptor => "cannot copy a descriptor",
            Self::AskPeer => "cannot read the credentials of the peer",
        })
    }
}

/// The errno of an error of the standard library; `EIO` for one that it made up itself.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The errno of an error of rustix.
pub(super) fn errno_from(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
