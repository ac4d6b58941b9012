//! Runs workers for those balancers that do not run any: a process that starts some, starts one again that
//! has ended, and has all end at SIGTERM. It is a process of its own, so that a balancer can have several
//! generations of workers, and so that it can be told what it costs.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use ipcluster::lab::Namespace;
use netns_tests::greeter;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::kernel;
use super::stage::{Fault, PATIENCE, wait_for};

/// The arguments with which this program is a launcher, and a worker that takes a socket.
const LAUNCHER: &str = "launcher";
const WORKER: &str = "worker-with-socket";

/// What a passed socket has as its number (sd_listen_fds(3)).
const PASSED: i32 = 3;

/// As that of the greeter.
const BACKLOG: i32 = 4096;

/// How long a supervisor that is not part of a balancer waits until it starts a worker again: as systemd
/// does by default (`RestartSec`, systemd.service(5)).
pub(crate) const RESTART_OF_SYSTEMD: Duration = Duration::from_millis(100);

/// Where workers listen.
#[derive(Debug)]
pub(crate) enum Place {
    /// Each on a port of its own, from this one on.
    Ports(u16),
    /// All on this listening socket.
    Shared(OwnedFd),
    /// Each on a socket of its own on this port, with `SO_REUSEPORT`.
    ReusePort(u16),
}

/// Some workers and their launcher. They end with this value.
#[derive(Debug)]
pub(crate) struct Workers {
    launcher: Child,
}

impl Workers {
    /// Starts so many in `namespace`, and waits until each can take connections.
    pub(crate) fn start(
        namespace: &Namespace,
        place: &Place,
        count: u16,
        restart: Duration,
    ) -> Result<Self, Fault> {
        let mut command = Command::new(env::current_exe()?);
        let (kind, port) = match place {
            Place::Ports(first) => ("ports", *first),
            Place::Shared(_) => ("shared", 1),
            Place::ReusePort(port) => ("reuse-port", *port),
        };
        command.args([LAUNCHER, kind, &port.to_string(), &count.to_string()]);
        command.arg(restart.as_millis().to_string());
        command.stdin(match place {
            Place::Shared(socket) => Stdio::from(socket.try_clone()?),
            _ => Stdio::null(),
        });
        let before = match place {
            Place::ReusePort(port) => kernel::listening(namespace, *port..=*port)?,
            _ => 0,
        };
        let launcher = namespace.run_in(|| command.spawn())??;
        let workers = Self { launcher };
        wait_for("workers that listen", PATIENCE, || {
            Ok(match place {
                Place::Ports(first) => {
                    kernel::listening(namespace, *first..=first + (count - 1))? >= count.into()
                }
                Place::ReusePort(port) => {
                    kernel::listening(namespace, *port..=*port)? >= before + usize::from(count)
                }
                Place::Shared(_) => {
                    let started = kernel::descendants(workers.launcher.id());
                    let ready = started.into_iter().filter(|pid| kernel::waits_for_clients(*pid));
                    ready.count() >= count.into()
                }
            })
        })?;
        Ok(workers)
    }

    /// The process that starts them.
    pub(crate) fn launcher(&self) -> u32 {
        self.launcher.id()
    }

    /// Has them end as soon as they have served whom they have.
    pub(crate) fn retire(mut self) -> Result<(), Fault> {
        self.tell(Signal::SIGTERM)?;
        wait_for("the end of retired workers", PATIENCE, || Ok(self.launcher.try_wait()?.is_some()))
    }

    fn tell(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(pid_of(&self.launcher), signal)?)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // An error says that it was waited for, and is no more.
        if matches!(self.launcher.try_wait(), Ok(None)) && self.tell(Signal::SIGTERM).is_ok() {
            let ended = || Ok(self.launcher.try_wait()?.is_some());
            if let Err(fault) = wait_for("the end of workers", PATIENCE, ended) {
                eprintln!("{fault}");
            }
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process number"))
}

/// Runs the program of a launcher or a worker, if that is what this process was started as.
pub(crate) fn run_as_program() -> Option<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [LAUNCHER, kind, port, count, restart] => launch(kind, port, count, restart),
        [WORKER, port] => take_socket(port),
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    })
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number in range")))
}

fn launch(kind: &str, port: &str, count: &str, restart: &str) -> io::Result<()> {
    let (port, count): (u16, u16) = (number(port)?, number(count)?);
    let restart = Duration::from_millis(number(restart)?);
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGCHLD);
    awaited.add(Signal::SIGTERM);
    awaited.thread_block()?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC)?;
    let start = |seat: u16| -> io::Result<Child> {
        let mut command = match kind {
            "ports" => Command::new(greeter()),
            _ => Command::new(env::current_exe()?),
        };
        match kind {
            "ports" => command.env("PORT", (port + seat).to_string()).stdin(Stdio::null()),
            "shared" => command.args([WORKER, "0"]).env("PORT", port.to_string()),
            _ => {
                command.args([WORKER, &port.to_string()]).env("PORT", port.to_string());
                command.stdin(Stdio::null())
            }
        };
        command.env("IPCLUSTER_SEAT", seat.to_string()).spawn()
    };
    let mut children = BTreeMap::new();
    for seat in 0..count {
        children.insert(pid_of(&start(seat)?), seat);
    }
    let mut is_ending = false;
    while !(is_ending && children.is_empty()) {
        let came = signals.read_signal()?.expect("a descriptor that blocks");
        if came.ssi_signo == Signal::SIGTERM as u32 {
            is_ending = true;
            for pid in children.keys() {
                kill(*pid, Signal::SIGTERM)?;
            }
        }
        // One signal may stand for several ends.
        while !children.is_empty() {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => pid,
                _ => break,
            };
            let seat = children.remove(&ended).expect("a worker of ours");
            if !is_ending {
                // The pause that a supervisor makes: what is measured, and nothing that is waited for.
                thread::sleep(restart);
                children.insert(pid_of(&start(seat)?), seat);
            }
        }
    }
    Ok(())
}

/// Becomes a greeter with a socket: standard input for port 0, else a new one on that port.
fn take_socket(port: &str) -> io::Result<()> {
    let socket = match number(port)? {
        0 => fcntl_dupfd_cloexec(rustix::stdio::stdin(), PASSED)?,
        port => reuse_port(port)?,
    };
    let socket = match socket.as_raw_fd() {
        PASSED => socket,
        _ => fcntl_dupfd_cloexec(&socket, PASSED)?,
    };
    if socket.as_raw_fd() != PASSED {
        return Err(io::Error::other("descriptor 3 is in use"));
    }
    fcntl_setfd(&socket, FdFlags::empty())?;
    let mut greeter = Command::new(greeter());
    greeter.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
    Err(greeter.exec())
}

fn reuse_port(port: u16) -> io::Result<OwnedFd> {
    let socket = tcp_socket()?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind_and_listen(&socket, port)?;
    Ok(socket)
}

/// A listening socket in `namespace`, for workers that share it.
pub(crate) fn listen_in(namespace: &Namespace, port: u16) -> Result<OwnedFd, Fault> {
    let open = || -> io::Result<OwnedFd> {
        let socket = tcp_socket()?;
        bind_and_listen(&socket, port)?;
        Ok(socket)
    };
    Ok(namespace.run_in(open)??)
}

fn tcp_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn bind_and_listen(socket: &OwnedFd, port: u16) -> io::Result<()> {
    sockopt::set_socket_reuseaddr(socket, true)?;
    bind(socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    Ok(listen(socket, BACKLOG)?)
}
