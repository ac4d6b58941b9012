//! nftlb, which writes rules of nftables for backends that it is told of by HTTP.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use super::backends::Backends;
use super::stage::{Balancer, Fault, PATIENCE, PORT, Program, Stage, installed, wait_for};

/// Whoever knows it may give orders.
const KEY: &str = "peers";
/// Where it takes orders.
const API: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 5555);

/// nftlb with a hash of the client's address, and workers on ports of the server's own address.
pub(crate) struct Nftlb {
    stage: Stage,
    backends: Backends,
    daemon: Program,
}

impl Nftlb {
    pub(crate) fn start(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        let program = installed("nftlb", "nftlb")?;
        let backends = Backends::start(&stage)?;
        let file = stage.directory.join("nftlb.json");
        fs::write(&file, farm(&stage, &backends))?;
        let mut command = Command::new(program);
        command.args(["-l", "4", "-L", "1", "-k", KEY, "-H", "127.0.0.1", "-c"]).arg(file);
        let mut daemon = stage.start("nftlb", command)?;
        wait_for("the API of nftlb", PATIENCE, || {
            daemon.check()?;
            Ok(stage.network.server().run_in(|| TcpStream::connect(API).is_ok())?)
        })?;
        Ok(Box::new(Self { stage, backends, daemon }))
    }

    /// Tells it where the workers are.
    fn tell(&self) -> Result<(), Fault> {
        let body = farm(&self.stage, &self.backends);
        // In one piece: it reads once.
        let request = format!(
            "POST /farms HTTP/1.1\r\nHost: nftlb\r\nKey: {KEY}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(API)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = vec![0; 65536];
            let length = stream.read(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        };
        let answer = self.stage.network.server().run_in(ask)??;
        match answer.lines().next().is_some_and(|status| status.contains(" 200 ")) {
            true => Ok(()),
            false => Err(Fault::Failed(format!("nftlb: {answer}"))),
        }
    }
}

/// It reads an object only if its name comes first (findings/nftlb-reads-members-in-order.sh), so this is no
/// work for a library that sorts.
fn farm(stage: &Stage, backends: &Backends) -> String {
    let backend = |(seat, port): (usize, u16)| {
        format!(
            r#"{{ "name": "w{seat}", "ip-addr": "10.9.0.1", "port": "{port}", "state": "up" }}"#
        )
    };
    let backends: Vec<String> = backends.ports(stage).enumerate().map(backend).collect();
    format!(
        r#"{{ "farms": [{{ "name": "web", "family": "ipv4", "virtual-addr": "10.9.0.1",
           "virtual-ports": "{PORT}", "mode": "dnat", "protocol": "tcp", "scheduler": "hash",
           "sched-param": "srcip", "state": "up", "backends": [{}] }}] }}"#,
        backends.join(", ")
    )
}

impl Balancer for Nftlb {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> BTreeSet<u32> {
        [self.daemon.pid()].into()
    }

    fn begin_reload(&mut self) -> Result<(), Fault> {
        self.backends.next(&self.stage)?;
        self.tell()
    }

    fn end_reload(&mut self) -> Result<(), Fault> {
        self.backends.retire_earlier()
    }

    fn begin_replacement(&mut self, _: u32) -> Result<(), Fault> {
        Err(Fault::not_offered("it does not start workers"))
    }
}
