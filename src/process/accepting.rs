//! Whether the processes of a worker accept connections from sockets that it was started with.
//!
//! Whoever opened a listening socket made it listen: that a process has it open says nothing. The kernel
//! shows who waits for connections on it, and nothing of this touches the process or the socket:
//!
//! | a process | shown in | who may read that |
//! |---|---|---|
//! | has told an epoll instance to report connections on it | `/proc/PID/fdinfo/FD` of the instance (`ep_show_fdinfo`, fs/eventpoll.c; with the inode since Linux 4.13) | `PTRACE_MODE_READ` |
//! | waits in accept(2) or accept4(2) | `/proc/PID/task/TID/syscall`, with the descriptor | `PTRACE_MODE_ATTACH` |
//! | waits in poll(2), ppoll(2), select(2) or pselect(2) for connections on it | the same, and the descriptors in `/proc/PID/mem` | `PTRACE_MODE_ATTACH` |
//! | has accepted a connection from it | `/proc/PID/fd`, and the connection in sock_diag(7) | `PTRACE_MODE_READ` |
//!
//! The parent of a process may attach to it where Yama's `kernel.yama.ptrace_scope` is 0 or 1. Of the
//! descriptors that a call was given, those in memory may be another thread's to change; they only lead to
//! a worker that counts as ready a moment early.
//!
//! What is not seen in any of these may still accept: io_uring does not say which socket a request is
//! for, and a server may try accept(2) on a timer. Whoever asks makes a connection then, and looks whether
//! it is taken ([`OwnConnections`](super::OwnConnections)).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use super::descriptors::{Target, each_descriptor};
use super::error::{ProcessError, ProcessOperation, errno_of};
use super::impersonation::with_ids_of;
use super::pidfd::failed;
use super::socket_owner::processes_by_session;
use super::stat::is_shown;
use crate::netlink::Errno;

/// `EPOLLIN` and `EPOLLRDNORM`, which a listening socket reports when a connection waits.
const READABLE: u32 = 0x0041;

/// The most descriptors of one poll(2) or select(2) that are read, which is more than a server waits for
/// by these calls.
const MOST_POLLED: u64 = 16 * 1024;

/// What the processes of a worker do with a listening socket; the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum AcceptState {
    /// None has it open.
    Closed,
    /// A process has it open, and none was seen to accept from it.
    Open,
    /// A process waits for connections on it, or has accepted one.
    Accepting,
}

/// What was seen of the processes of one worker.
#[derive(Debug)]
pub(crate) struct AcceptLook {
    /// Of each socket that was asked for, in that order.
    pub states: Vec<AcceptState>,
    /// The inodes of all sockets that were seen in these processes. Not complete where all sockets are
    /// [`AcceptState::Accepting`].
    pub sockets: HashSet<u32>,
    /// The first process is a program that starts others, such as a shell, and has started one: its
    /// name.
    pub wrapper: Option<String>,
    /// Something could not be looked at: what is not [`AcceptState::Accepting`] may be all the same.
    pub refused: Option<ProcessError>,
}

impl AcceptLook {
    /// Whether all of the sockets are accepted from.
    pub(crate) fn is_complete(&self) -> bool {
        self.states.iter().all(|state| *state == AcceptState::Accepting)
    }
}

/// Looks at the processes of workers. Made for being asked about many: the processes of the host are
/// listed once, and only if the first process of a worker is not the one that accepts.
#[derive(Debug, Default)]
pub(crate) struct AcceptLooker {
    sessions: Option<HashMap<u32, Vec<u32>>>,
}

impl AcceptLooker {
    /// Looks what the processes of the session that `leader` leads do with the sockets with these
    /// inodes. `accepted` are the inodes of connections, each with the index of the socket that it came by.
    /// `leader` must not have been waited for.
    ///
    /// # Errors
    /// The processes of the host cannot be listed. A process that may not be looked at is
    /// [`AcceptLook::refused`].
    pub(crate) fn look(
        &mut self,
        leader: u32,
        inodes: &[u32],
        accepted: &HashMap<u32, usize>,
    ) -> Result<AcceptLook, ProcessError> {
        let mut search = Search::new(inodes, accepted);
        if let Err(error) = is_shown(leader) {
            search.refuse(error);
        }
        search.look_at(leader);
        let mut others = 0;
        if !search.is_over() {
            for pid in self.session(leader)?.iter().filter(|pid| **pid != leader) {
                others += 1;
                search.look_at(*pid);
                if search.is_over() {
                    break;
                }
            }
        }
        let wrapper = (others > 0).then(|| wrapper(leader)).flatten();
        let Search { states, sockets, refused, .. } = search;
        Ok(AcceptLook { states, sockets, wrapper, refused })
    }

    fn session(&mut self, leader: u32) -> Result<&[u32], ProcessError> {
        let sessions = match self.sessions.take() {
            Some(sessions) => sessions,
            None => processes_by_session()?,
        };
        Ok(self.sessions.insert(sessions).get(&leader).map_or(&[], Vec::as_slice))
    }
}

struct Search<'a> {
    inodes: HashMap<u32, usize>,
    accepted: &'a HashMap<u32, usize>,
    states: Vec<AcceptState>,
    sockets: HashSet<u32>,
    refused: Option<ProcessError>,
}

impl<'a> Search<'a> {
    fn new(inodes: &[u32], accepted: &'a HashMap<u32, usize>) -> Self {
        Self {
            inodes: inodes.iter().enumerate().map(|(index, inode)| (*inode, index)).collect(),
            accepted,
            states: vec![AcceptState::Closed; inodes.len()],
            sockets: HashSet::new(),
            refused: None,
        }
    }

    /// Whether nothing more can be found. Without sockets to be looked for, all that there are is wanted.
    fn is_over(&self) -> bool {
        let mut states = self.states.iter();
        !self.states.is_empty() && states.all(|state| *state == AcceptState::Accepting)
    }

    fn refuse(&mut self, error: ProcessError) {
        self.refused.get_or_insert(error);
    }

    fn set(&mut self, index: usize, state: AcceptState) {
        if let Some(known) = self.states.get_mut(index) {
            *known = state.max(*known);
        }
    }

    fn look_at(&mut self, pid: u32) {
        with_ids_of(pid, || {
            let mut process = Process { pid, numbers: BTreeMap::new(), polled: BTreeSet::new() };
            if let Err(errno) = self.read_descriptors(&mut process)
                && !is_gone(errno)
            {
                self.refuse(failed(pid, ProcessOperation::ListDescriptors, errno));
            }
            if !self.is_over() && !process.numbers.is_empty() {
                self.read_threads(&process);
            }
        });
    }

    fn read_descriptors(&mut self, process: &mut Process) -> Result<(), Errno> {
        let mut failure = None;
        each_descriptor(process.pid, |number, target| {
            match target {
                Target::Socket(inode) => self.take_socket(process, number, inode),
                Target::Epoll => match process.read_epoll(number, &self.inodes) {
                    Ok(polled) => process.polled.extend(polled),
                    Err(errno) if is_gone(errno) => {}
                    Err(errno) => failure = Some(errno),
                },
                Target::Other => return ControlFlow::Continue(()),
            }
            // A server that has closed its descriptor is reported by epoll as long as another process has
            // the socket: both are needed.
            let held: BTreeSet<usize> = process.numbers.values().copied().collect();
            for index in held.intersection(&process.polled) {
                self.set(*index, AcceptState::Accepting);
            }
            if self.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failure.map_or(Ok(()), Err)
    }

    fn take_socket(&mut self, process: &mut Process, number: i32, inode: u32) {
        self.sockets.insert(inode);
        if let Some(index) = self.inodes.get(&inode) {
            process.numbers.insert(number, *index);
            self.set(*index, AcceptState::Open);
        }
        if let Some(index) = self.accepted.get(&inode) {
            self.set(*index, AcceptState::Accepting);
        }
    }

    fn read_threads(&mut self, process: &Process) {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.pid)) else { return };
        let mut memory = Memory { pid: process.pid, file: None };
        for thread in threads.flatten() {
            let waits = match fs::read_to_string(thread.path().join("syscall")) {
                Ok(text) => Call::parse(&text).map(|call| call.descriptors(&mut memory)),
                Err(error) => Some(Err(errno_of(&error))),
            };
            match waits {
                Some(Ok(numbers)) => {
                    let indices = numbers.iter().filter_map(|number| process.numbers.get(number));
                    indices.for_each(|index| self.set(*index, AcceptState::Accepting));
                }
                Some(Err(errno)) if !is_gone(errno) => {
                    self.refuse(failed(process.pid, ProcessOperation::Read("syscall"), errno));
                    return;
                }
                _ => {}
            }
            if self.is_over() {
                return;
            }
        }
    }
}

/// What is known of the process that is looked at.
struct Process {
    pid: u32,
    /// Its descriptors of the sockets, each with the index of the socket.
    numbers: BTreeMap<i32, usize>,
    /// The sockets that its epoll instances wait for.
    polled: BTreeSet<usize>,
}

impl Process {
    fn read_epoll(
        &self,
        number: i32,
        inodes: &HashMap<u32, usize>,
    ) -> Result<BTreeSet<usize>, Errno> {
        let failed = |error| errno_of(&error);
        let file = File::open(format!("/proc/{}/fdinfo/{number}", self.pid)).map_err(failed)?;
        let mut polled = BTreeSet::new();
        for line in BufReader::new(file).lines() {
            let Some(inode) = polled_inode(&line.map_err(failed)?) else { continue };
            polled.extend(inodes.get(&inode));
            if polled.len() == inodes.len() {
                break;
            }
        }
        Ok(polled)
    }
}

/// The inode in a line `tfd:        3 events:       19 data:                3  pos:0 ino:16c8aa5 sdev:9` of
/// an epoll instance, if it reports what can be read.
fn polled_inode(line: &str) -> Option<u32> {
    let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    let events = words.find(|word| *word == "events:").and_then(|_| words.next())?;
    let events = u32::from_str_radix(events, 16).ok()?;
    let inode = words.find_map(|word| word.strip_prefix("ino:"))?;
    let inode = u32::from_str_radix(inode, 16).ok()?;
    (events & READABLE != 0).then_some(inode)
}

/// A system call in which a thread waits for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Accept { number: i32 },
    Poll { at: u64, count: u64 },
    Select { at: u64, count: u64 },
}

impl Call {
    /// Reads `/proc/PID/task/TID/syscall`: the number of the call and its arguments, or `running`
    /// (`proc_pid_syscall`, fs/proc/base.c).
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let call: libc::c_long = words.next()?.parse().ok()?;
        let argument = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        let (first, second) = (argument(words.next()?)?, argument(words.next()?)?);
        #[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "arm"))]
        match call {
            libc::SYS_poll => return Some(Self::Poll { at: first, count: second }),
            #[cfg(not(target_arch = "arm"))]
            libc::SYS_select => return Some(Self::Select { at: second, count: first }),
            _ => {}
        }
        match call {
            libc::SYS_accept4 | libc::SYS_accept => {
                Some(Self::Accept { number: i32::try_from(first).ok()? })
            }
            libc::SYS_ppoll => Some(Self::Poll { at: first, count: second }),
            libc::SYS_pselect6 => Some(Self::Select { at: second, count: first }),
            _ => None,
        }
    }

    /// The descriptors that the call waits for.
    fn descriptors(self, memory: &mut Memory) -> Result<Vec<i32>, Errno> {
        match self {
            Self::Accept { number } => Ok(vec![number]),
            Self::Poll { at, count } => Ok(polled(&memory.read(at, count.min(MOST_POLLED) * 8)?)),
            Self::Select { at: 0, .. } => Ok(vec![]),
            Self::Select { at, count } => {
                Ok(selected(&memory.read(at, count.min(MOST_POLLED).div_ceil(64) * 8)?))
            }
        }
    }
}

/// The descriptors of an array of `struct pollfd` that are polled for what can be read.
fn polled(bytes: &[u8]) -> Vec<i32> {
    let (entries, _) = bytes.as_chunks::<8>();
    let is_readable = |[.., a, b, _, _]: &[u8; 8]| {
        let events = u16::from_ne_bytes([*a, *b]);
        u32::from(events) & READABLE != 0
    };
    let number = |[a, b, c, d, ..]: &[u8; 8]| i32::from_ne_bytes([*a, *b, *c, *d]);
    entries.iter().filter(|entry| is_readable(entry)).map(number).collect()
}

/// The descriptors of an `fd_set`: bits of words of the kernel's `long`.
fn selected(bytes: &[u8]) -> Vec<i32> {
    const WORD: usize = size_of::<libc::c_ulong>();
    let mut numbers = Vec::new();
    for (index, bits) in bytes.as_chunks::<WORD>().0.iter().enumerate() {
        let bits = libc::c_ulong::from_ne_bytes(*bits);
        let set = (0..WORD * 8).filter(|bit| bits & (1 << bit) != 0);
        numbers.extend(set.filter_map(|bit| i32::try_from(index * WORD * 8 + bit).ok()));
    }
    numbers
}

/// The memory of a process.
struct Memory {
    pid: u32,
    file: Option<File>,
}

impl Memory {
    fn read(&mut self, at: u64, length: u64) -> Result<Vec<u8>, Errno> {
        let failed = |error| errno_of(&error);
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(format!("/proc/{}/mem", self.pid)).map_err(failed)?,
        };
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EINVAL)?];
        let file = self.file.insert(file);
        let read = match file.read_at(&mut bytes, at) {
            Ok(read) => read,
            // The call has returned, and what it was given is not there any more.
            Err(error) if matches!(errno_of(&error), Errno::EIO | Errno::EFAULT) => 0,
            Err(error) => return Err(failed(error)),
        };
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// The name of a process, if it is that of a program which starts others.
fn wrapper(pid: u32) -> Option<String> {
    const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "busybox", "ksh", "zsh", "fish"];
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let name = name.trim_end();
    // npm shows its arguments there.
    let first = name.split(' ').next().unwrap_or(name);
    let is_wrapper = SHELLS.contains(&first) || matches!(first, "npm" | "yarn" | "pnpm");
    is_wrapper.then(|| first.to_owned())
}

fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn inode(file: impl AsFd) -> u32 {
        u32::try_from(rustix::fs::fstat(file).unwrap().st_ino).unwrap()
    }

    fn state(listener: &TcpListener, accepted: &HashMap<u32, usize>) -> AcceptState {
        let leader = std::process::id();
        let look = AcceptLooker::default().look(leader, &[inode(listener)], accepted).unwrap();
        assert!(look.refused.is_none(), "{:?}", look.refused);
        look.states[0]
    }

    fn waits(listener: &TcpListener) {
        let began = Instant::now();
        while state(listener, &HashMap::new()) != AcceptState::Accepting {
            assert!(began.elapsed() < Duration::from_secs(10), "not seen to wait");
            std::thread::yield_now();
        }
    }

    fn listener() -> Arc<TcpListener> {
        Arc::new(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    #[test]
    fn a_socket_that_is_only_open_is_not_accepted_from() {
        let listener = listener();
        assert_eq!(state(&listener, &HashMap::new()), AcceptState::Open);
        let child = std::process::Command::new("sleep").arg("1000").spawn();
        let mut child = child.unwrap();
        let looked =
            AcceptLooker::default().look(child.id(), &[inode(&*listener)], &HashMap::new());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(looked.unwrap().states, [AcceptState::Closed]);
    }

    #[test]
    fn whoever_waits_in_accept_or_poll_is_seen() {
        let listener = listener();
        let served = Arc::clone(&listener);
        let thread = std::thread::spawn(move || {
            served.accept().unwrap();
            poll(&mut [PollFd::new(&served, PollFlags::IN)], None).unwrap();
        });
        waits(&listener);
        let address = listener.local_addr().unwrap();
        let first = TcpStream::connect(address).unwrap();
        waits(&listener);
        let second = TcpStream::connect(address).unwrap();
        thread.join().unwrap();
        assert_eq!(state(&listener, &HashMap::new()), AcceptState::Open, "nobody waits any more");
        drop((first, second));
    }

    #[test]
    fn whoever_has_accepted_is_seen() {
        let listener = listener();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        let known = HashMap::from([(inode(&accepted), 0)]);
        assert_eq!(state(&listener, &known), AcceptState::Accepting);
        drop((client, accepted));
        assert_eq!(state(&listener, &known), AcceptState::Open);
    }

    #[test]
    fn an_epoll_instance_that_reports_connections_is_seen() {
        use rustix::event::epoll;
        let listener = listener();
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(1);
        epoll::add(&instance, &*listener, data, epoll::EventFlags::OUT).unwrap();
        assert_eq!(state(&listener, &HashMap::new()), AcceptState::Open, "not what is reported");
        epoll::modify(&instance, &*listener, data, epoll::EventFlags::IN).unwrap();
        assert_eq!(state(&listener, &HashMap::new()), AcceptState::Accepting);
    }

    #[test]
    fn lines_of_an_epoll_instance() {
        let line =
            "tfd:        3 events:       19 data:                3  pos:0 ino:16c8aa5 sdev:9";
        assert_eq!(polled_inode(line), Some(0x16c_8aa5));
        let exclusive =
            "tfd:        6 events: 90000001 data: ffffffffffffffff  pos:0 ino:10 sdev:9";
        assert_eq!(polled_inode(exclusive), Some(16));
        for line in [
            "",
            "pos:\t0",
            "tfd:",
            "tfd:        3 events: 40000000 data:                3  pos:0 ino:16c8aa5 sdev:9",
            "tfd:        3 events:       19 data:                3",
            "tfd:        3 events:       xx data:                3  pos:0 ino:16c8aa5 sdev:9",
            "tfd:        3 events:       19 data:                3  pos:0 ino:fffffffff sdev:9",
        ] {
            assert_eq!(polled_inode(line), None, "{line:?}");
        }
    }

    #[test]
    fn calls_that_wait_for_connections() {
        let call =
            |number: libc::c_long| Call::parse(&format!("{number} 0x3 0x7ffe 0x2 0x0 0x0 0x0"));
        assert_eq!(call(libc::SYS_accept4), Some(Call::Accept { number: 3 }));
        assert_eq!(call(libc::SYS_accept), Some(Call::Accept { number: 3 }));
        assert_eq!(call(libc::SYS_ppoll), Some(Call::Poll { at: 3, count: 0x7ffe }));
        assert_eq!(call(libc::SYS_pselect6), Some(Call::Select { at: 0x7ffe, count: 3 }));
        assert_eq!(call(libc::SYS_read), None);
        for text in
            ["", "running", "-1 0x7ffd 0x7f", "288", "288 3 4", "288 0xffffffffffffffff 0x0"]
        {
            assert_eq!(Call::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn descriptors_of_poll_and_select() {
        let entry = |number: i32, events: u16| {
            [&number.to_ne_bytes()[..], &events.to_ne_bytes(), &[0, 0]].concat()
        };
        let array = [entry(7, 1), entry(8, 4), entry(-1, 1), entry(9, 0x41), vec![1, 2]].concat();
        assert_eq!(polled(&array), [7, -1, 9]);
        let set = [(1u64 << 3 | 1 << 63).to_ne_bytes(), 2u64.to_ne_bytes()].concat();
        assert_eq!(selected(&set), [3, 63, 65]);
    }
}
