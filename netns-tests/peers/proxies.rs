//! haproxy and nginx, each as a proxy of TCP connections.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::backends::Backends;
use super::kernel;
use super::stage::{Balancer, Fault, PATIENCE, PORT, Program, Stage, installed, wait_for};

/// How haproxy is told of new workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// By a new file, and a new process (SIGUSR2 to the master).
    File,
    /// By its runtime API, without a new process.
    Api,
}

/// haproxy with `balance source`, as a master and a worker.
pub(crate) struct Haproxy {
    stage: Stage,
    order: Order,
    backends: Backends,
    master: Program,
}

impl Haproxy {
    pub(crate) fn start(stage: Stage, order: Order) -> Result<Box<dyn Balancer>, Fault> {
        let program = installed("haproxy", "haproxy")?;
        let backends = Backends::start(&stage)?;
        let file = stage.directory.join("haproxy.cfg");
        write_haproxy(&stage, &backends)?;
        let mut command = Command::new(program);
        command.args(["-W", "-db", "-f"]).arg(file);
        let mut master = stage.start("haproxy", command)?;
        wait_for_listener(&stage, &mut master)?;
        Ok(Box::new(Self { stage, order, backends, master }))
    }

    /// Tells it by its socket where the workers are.
    fn tell(&self) -> Result<(), Fault> {
        let mut socket = UnixStream::connect(api(&self.stage.directory))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut words = String::new();
        for (seat, port) in self.backends.ports(&self.stage).enumerate() {
            let _ = write!(words, "set server web/w{seat} addr 127.0.0.1 port {port};");
        }
        socket.write_all(format!("{words}\n").as_bytes())?;
        // It answers when all is done, and closes. Whether it has done so is seen by who serves clients.
        socket.read_to_string(&mut String::new())?;
        Ok(())
    }
}

fn api(directory: &Path) -> PathBuf {
    directory.join("haproxy.sock")
}

fn write_haproxy(stage: &Stage, backends: &Backends) -> Result<(), Fault> {
    let mut text = format!(
        "global\n maxconn 9000\n stats socket {} mode 600 level admin expose-fd listeners\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n \
         option redispatch\nlisten web\n bind 10.9.0.1:{PORT}\n balance source\n hash-type consistent\n",
        api(&stage.directory).display()
    );
    for (seat, port) in backends.ports(stage).enumerate() {
        let _ = writeln!(text, " server w{seat} 127.0.0.1:{port} check");
    }
    Ok(fs::write(stage.directory.join("haproxy.cfg"), text)?)
}

fn wait_for_listener(stage: &Stage, program: &mut Program) -> Result<(), Fault> {
    wait_for("the public port", PATIENCE, || {
        program.check()?;
        Ok(kernel::listening(stage.network.server(), PORT..=PORT)? > 0)
    })
}

impl Balancer for Haproxy {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> BTreeSet<u32> {
        with_children(&self.master)
    }

    fn begin_reload(&mut self) -> Result<(), Fault> {
        self.backends.next(&self.stage)?;
        match self.order {
            Order::File => {
                write_haproxy(&self.stage, &self.backends)?;
                self.master.signal(Signal::SIGUSR2)
            }
            Order::Api => self.tell(),
        }
    }

    fn end_reload(&mut self) -> Result<(), Fault> {
        // The process before is gone when it has served whom it had: until then it may connect to workers.
        wait_for("the end of haproxy's earlier process", PATIENCE, || {
            Ok(kernel::descendants(self.master.pid()).len() <= 1)
        })?;
        self.backends.retire_earlier()
    }

    fn begin_replacement(&mut self, _: u32) -> Result<(), Fault> {
        Err(Fault::not_offered("it does not start workers"))
    }
}

fn with_children(program: &Program) -> BTreeSet<u32> {
    let mut processes = kernel::descendants(program.pid());
    processes.insert(program.pid());
    processes
}

/// nginx with its module `stream` and a consistent hash of the client's address.
pub(crate) struct Nginx {
    stage: Stage,
    backends: Backends,
    master: Program,
}

impl Nginx {
    pub(crate) fn start(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        let program = installed("nginx", "nginx-core")?;
        let backends = Backends::start(&stage)?;
        write_nginx(&stage, &backends)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(stage.directory.join("nginx.conf"));
        command.arg("-e").arg(stage.directory.join("error.log"));
        let mut master = stage.start("nginx", command)?;
        wait_for_listener(&stage, &mut master)?;
        Ok(Box::new(Self { stage, backends, master }))
    }
}

/// Where Debian's package libnginx-mod-stream has it.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn write_nginx(stage: &Stage, backends: &Backends) -> Result<(), Fault> {
    if !Path::new(STREAM).exists() {
        let reason =
            "nginx has no module `stream`: install the Debian package `libnginx-mod-stream`";
        return Err(Fault::Failed(reason.to_owned()));
    }
    let root = stage.directory.display();
    let mut text = format!(
        "load_module {STREAM};\ndaemon off; worker_processes auto; user root; pid {root}/nginx.pid;\n\
         error_log {root}/error.log;\nevents {{ worker_connections 9000; }}\n\
         stream {{\n upstream web {{ hash $remote_addr consistent;\n"
    );
    for port in backends.ports(stage) {
        let _ = writeln!(text, "  server 127.0.0.1:{port};");
    }
    let _ = writeln!(text, " }}\n server {{ listen 10.9.0.1:{PORT}; proxy_pass web; }}\n}}");
    Ok(fs::write(stage.directory.join("nginx.conf"), text)?)
}

impl Balancer for Nginx {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> BTreeSet<u32> {
        with_children(&self.master)
    }

    fn begin_reload(&mut self) -> Result<(), Fault> {
        self.backends.next(&self.stage)?;
        write_nginx(&self.stage, &self.backends)?;
        self.master.signal(Signal::SIGHUP)
    }

    fn end_reload(&mut self) -> Result<(), Fault> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        wait_for("the end of nginx's earlier processes", Duration::from_secs(60), || {
            Ok(kernel::descendants(self.master.pid()).len() <= cores)
        })?;
        self.backends.retire_earlier()
    }

    fn begin_replacement(&mut self, _: u32) -> Result<(), Fault> {
        Err(Fault::not_offered("it does not start workers"))
    }
}
