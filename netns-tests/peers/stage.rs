//! What a balancer is to a measurement.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, LabError, Network};
use netns_tests::find;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

/// How long anything is waited for that a balancer does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The public port.
pub(crate) const PORT: u16 = 80;

/// Why something is not measured.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The peer does not do such a thing.
    NotOffered(String),
    /// It did not do what it should.
    Failed(String),
}

impl Fault {
    /// That the peer does not do such a thing.
    pub(crate) fn not_offered(reason: &str) -> Self {
        Self::NotOffered(reason.to_owned())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered(reason) | Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<LabError> for Fault {
    fn from(error: LabError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<nix::errno::Errno> for Fault {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Failed(errno.to_string())
    }
}

/// The path of a program of a Debian package.
pub(crate) fn installed(program: &str, package: &str) -> Result<PathBuf, Fault> {
    find(program).ok_or_else(|| {
        Fault::Failed(format!("no program `{program}`: install the Debian package `{package}`"))
    })
}

/// Connects from one of the client's addresses, in the namespace of the calling thread.
pub(crate) fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The port is chosen when the other side is known, so that there are as many for each of those.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Held::TIME_OUT))?;
    stream.set_read_timeout(Some(Held::TIME_OUT))?;
    rustix::net::connect(&stream, &to)?;
    Ok(stream)
}

/// Looks every millisecond whether `condition` holds.
///
/// # Errors
/// After `limit`, with `what` was waited for; and those of `condition`.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let began = Instant::now();
    while !condition()? {
        if began.elapsed() > limit {
            return Err(Fault::Failed(format!("waited {} s for {what}", limit.as_secs())));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Where a balancer is started.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The server's and the client's namespaces: no other balancer is there.
    pub(crate) network: Network,
    /// A directory of its own.
    pub(crate) directory: PathBuf,
    /// How many workers there are.
    pub(crate) workers: u16,
}

impl Stage {
    /// Makes the network. Whoever connects to workers from the server's own addresses, as a proxy does, has
    /// more ports for that than by default, and not those of workers.
    pub(crate) fn new(directory: PathBuf, workers: u16) -> Result<Self, Fault> {
        fs::create_dir_all(&directory)?;
        let network = Network::new()?;
        network.server().set_sysctl("net.ipv4.ip_local_port_range", "30000 65535")?;
        Ok(Self { network, directory, workers })
    }

    /// Starts a program in the server's namespace. What it prints goes to a file that [`Program::log`] reads.
    pub(crate) fn start(&self, name: &str, mut command: Command) -> Result<Program, Fault> {
        let log = self.directory.join(format!("{name}.log"));
        let file = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = self.network.server().run_in(|| command.spawn())?;
        let child = child.map_err(|error| {
            Fault::Failed(format!("{}: {error}", command.get_program().display()))
        })?;
        Ok(Program { child, log })
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, name: &str, command: Command) -> Result<(), Fault> {
        let mut program = self.start(name, command)?;
        program.wait(PATIENCE)
    }
}

/// A program that was started. It is killed when this value goes.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Fault> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid()).expect("a process number")), signal)?)
    }

    /// Waits for its end, which has to be a good one.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<(), Fault> {
        let mut status = None;
        wait_for("the end of a program", limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Fault::Failed(format!("{status}: {}", self.log()))),
            None => Ok(()),
        }
    }

    /// The last lines of what it has printed.
    pub(crate) fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }

    /// Fails where it has ended.
    pub(crate) fn check(&mut self) -> Result<(), Fault> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(Fault::Failed(format!("ended by itself, {status}: {}", self.log())))
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A balancer that runs, with its workers.
pub(crate) trait Balancer {
    /// Where it is.
    fn stage(&self) -> &Stage;

    /// Where clients connect to.
    fn targets(&self) -> Vec<SocketAddr> {
        vec![Network::server_v4(PORT)]
    }

    /// What a later request of a connection is like.
    fn later(&self) -> Later {
        Later::Echo
    }

    /// Its own processes, without those of workers. None where only the kernel is left.
    fn processes(&self) -> BTreeSet<u32>;

    /// Begins to have all workers replaced by new ones, and returns when that is under way.
    fn begin_reload(&mut self) -> Result<(), Fault>;

    /// The new ones serve all clients: ends what was replaced, where nobody else does.
    fn end_reload(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Begins to have the worker with this process replaced by a new one.
    fn begin_replacement(&mut self, worker: u32) -> Result<(), Fault>;
}

/// How a client asks a second time on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Later {
    /// A line, that comes back.
    Echo,
    /// Another HTTP request.
    Http,
    /// Not at all: each answer ends its connection.
    Never(&'static str),
}
