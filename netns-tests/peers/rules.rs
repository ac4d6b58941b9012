//! Rules of the kernel that somebody else than ipcluster writes: a file for `nft -f`, and iptables called
//! once for each rule, as the older ipcluster did.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use netns_tests::find;

use super::backends::Backends;
use super::stage::{Balancer, Fault, PORT, Stage, installed};

/// Workers on ports of their own, and rules that lead to them.
pub(crate) struct Rules {
    stage: Stage,
    backends: Backends,
    writer: Writer,
    generation: u32,
}

/// Who writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// `nft -f` with a file of one transaction: a hash of the client's address, and a map.
    Nft,
    /// `iptables`, a process for each rule: a rule for each worker, by a mask of the client's address.
    Iptables,
}

impl Rules {
    pub(crate) fn start(stage: Stage, writer: Writer) -> Result<Box<dyn Balancer>, Fault> {
        match writer {
            Writer::Nft => installed("nft", "nftables")?,
            Writer::Iptables => installed("iptables-nft", "iptables")?,
        };
        let backends = Backends::start(&stage)?;
        let mut rules = Self { stage, backends, writer, generation: 0 };
        rules.write()?;
        Ok(Box::new(rules))
    }

    /// Has the rules lead to the last generation of workers.
    fn write(&mut self) -> Result<(), Fault> {
        self.generation += 1;
        match self.writer {
            Writer::Nft => self.load_file(),
            Writer::Iptables => self.call_for_each(),
        }
    }

    /// The table is made, so that it can be deleted, and made anew, in one transaction.
    fn load_file(&self) -> Result<(), Fault> {
        let mut map = String::new();
        for (seat, port) in self.backends.ports(&self.stage).enumerate() {
            let _ = write!(map, "{seat} : {port}, ");
        }
        let text = format!(
            "table ip web {{ }}\ndelete table ip web\ntable ip web {{\n chain prerouting {{\n  type nat hook \
             prerouting priority dstnat;\n  ip daddr 10.9.0.1 tcp dport {PORT} redirect to :jhash ip saddr mod \
             {} map {{ {map} }}\n }}\n}}\n",
            self.stage.workers
        );
        let file = self.stage.directory.join("web.nft");
        fs::write(&file, text)?;
        let mut command = Command::new(find("nft").expect("looked for before"));
        command.arg("-f").arg(file);
        self.stage.run("nft", command)
    }

    /// The rules of the last generation come first, those of the one before go.
    fn call_for_each(&self) -> Result<(), Fault> {
        let call = |words: &str| {
            let mut command = Command::new(find("iptables-nft").expect("looked for before"));
            command.args(words.split(' '));
            self.stage.run("iptables", command)
        };
        let mask = self.stage.workers - 1;
        let rule = |seat: u16, port: u16| {
            let address = |number: u16| {
                let [high, low] = number.to_be_bytes();
                format!("0.0.{high}.{low}")
            };
            format!(
                "PREROUTING -p tcp -s {}/{} -d 10.9.0.1 --dport {PORT} -j REDIRECT --to-ports {port}",
                address(seat),
                address(mask)
            )
        };
        for (seat, port) in (0..).zip(self.backends.ports(&self.stage)) {
            call(&format!("-t nat -I {}", rule(seat, port)))?;
        }
        if let Some(earlier) = self.backends.earlier_ports(&self.stage) {
            for (seat, port) in (0..).zip(earlier) {
                call(&format!("-t nat -D {}", rule(seat, port)))?;
            }
        }
        Ok(())
    }
}

impl Balancer for Rules {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn begin_reload(&mut self) -> Result<(), Fault> {
        self.backends.next(&self.stage)?;
        self.write()
    }

    fn end_reload(&mut self) -> Result<(), Fault> {
        self.backends.retire_earlier()
    }

    fn begin_replacement(&mut self, _: u32) -> Result<(), Fault> {
        Err(Fault::not_offered("it does not start workers"))
    }
}
