//! What a case works with.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Ask, Close, Load, Namespace, Network, mount_tmpfs};
use ipcluster::plan::Engine;

use super::{Process, Witness, engine, greeter, wait_until};

/// A case's own network, runtime directory and witnesses.
#[derive(Debug)]
pub struct Lab {
    name: String,
    network: Network,
    directory: PathBuf,
    logs: Cell<u32>,
}

impl Lab {
    /// Made for a case, in its namespaces.
    pub(crate) fn new(name: &str) -> Self {
        // Hides the host's /run, for control sockets in /run/ipcluster and in XDG_RUNTIME_DIR.
        mount_tmpfs(Path::new("/run")).expect("a mount namespace of our own");
        let directory = PathBuf::from("/run/lab");
        std::fs::create_dir(&directory).expect("an empty file system");
        let network = Network::new().expect("a network of our own");
        Self { name: name.to_owned(), network, directory, logs: Cell::new(0) }
    }

    /// The name of the case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's and the client's namespaces.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where the balancer and its workers belong.
    pub fn server(&self) -> &Namespace {
        self.network.server()
    }

    /// Where clients connect from.
    pub fn client(&self) -> &Namespace {
        self.network.client()
    }

    /// A directory that only this case sees: its `XDG_RUNTIME_DIR`, and the place for its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A copy of a program where every user may run it: a build directory may be closed to others.
    pub fn for_everyone(&self, program: &Path) -> PathBuf {
        let name = program.file_name().expect("a program has a name");
        let copy = self.directory.join(name);
        std::fs::copy(program, &copy).expect("a program can be read, and the directory written to");
        copy
    }

    /// What stock tools say about the server's namespace.
    pub fn witness(&self) -> Witness<'_> {
        Witness::new(self.server())
    }

    /// The server's address of each family, with `port`.
    pub fn targets(port: u16) -> [SocketAddr; 2] {
        [Network::server_v4(port), Network::server_v6(port)]
    }

    /// `count` client addresses, half of them of each family.
    pub fn clients(count: u16) -> Vec<IpAddr> {
        let v6 = count / 2;
        Network::clients_v4(count - v6).chain(Network::clients_v6(v6)).collect()
    }

    /// A load on both addresses of the server from `clients` addresses, to be refined.
    pub fn load(port: u16, clients: u16) -> Load {
        Load::to(Self::targets(port)).from(Self::clients(clients))
    }

    /// The same with as little work as one connection can be, so that a small machine makes many of
    /// them: clients ask for nothing and close by reset. Needs workers that
    /// [speak first](crate::Cluster::speaking_first).
    pub fn lean_load(port: u16, clients: u16) -> Load {
        Self::load(port, clients).ask(Ask::Nothing).close(Close::Reset)
    }

    /// Starts `command` in the server's namespace. What it prints goes to a file named after
    /// `name`, in [`Lab::directory`].
    pub fn start(&self, name: &str, mut command: Command) -> Process {
        self.logs.set(self.logs.get() + 1);
        let log = self.directory.join(format!("{name}-{}.log", self.logs.get()));
        command.env("XDG_RUNTIME_DIR", &self.directory);
        const TRANSPARENT: &str = "GREETER_TRANSPARENT";
        if engine() == Engine::Tproxy && !command.get_envs().any(|(name, _)| name == TRANSPARENT) {
            // Of greeters that no master gives their sockets.
            command.env(TRANSPARENT, "yes");
        }
        Process::start(self.server(), command, &log)
    }

    /// Starts a greeter on `port` that says it sits in `seat`, and waits until it listens.
    ///
    /// # Panics
    /// Where it does not listen within 5 s.
    pub fn greeter(&self, port: u16, seat: u16) -> Process {
        self.greeter_for(Ask::Http, port, seat)
    }

    /// The same for clients that ask in this way.
    ///
    /// # Panics
    /// Where it does not listen within 5 s.
    pub fn greeter_for(&self, ask: Ask, port: u16, seat: u16) -> Process {
        let mut command = Command::new(greeter());
        if ask == Ask::Nothing {
            command.env("GREETER_SPEAK", "first");
        }
        self.start_worker(command, port, seat)
    }

    /// The same with another program that listens on `PORT`.
    ///
    /// # Panics
    /// Where it does not listen within 5 s.
    pub fn worker(&self, program: &Path, port: u16, seat: u16) -> Process {
        self.start_worker(Command::new(program), port, seat)
    }

    fn start_worker(&self, mut command: Command, port: u16, seat: u16) -> Process {
        command.env("PORT", port.to_string()).env("IPCLUSTER_SEAT", seat.to_string());
        let mut process = self.start("worker", command);
        wait_until("the worker to listen", Duration::from_secs(5), || {
            assert!(
                process.is_running(),
                "the worker ended:
{}",
                process.output()
            );
            self.is_listened_to(port)
        });
        process
    }

    /// Whether a socket of the server's namespace listens on `port`. Connects nowhere.
    pub fn is_listened_to(&self, port: u16) -> bool {
        // Columns: number, local address:port, remote address:port, state (0A: TCP_LISTEN).
        let listens = |table: &str| {
            table.lines().skip(1).any(|line| {
                let mut columns = line.split_ascii_whitespace().skip(1);
                let is_port =
                    columns.next().is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
                is_port && columns.nth(1) == Some("0A")
            })
        };
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        self.server()
            .run_in(|| ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].map(read))
            .expect("the server's namespace can be entered")
            .iter()
            .any(|table| listens(table))
    }
}
