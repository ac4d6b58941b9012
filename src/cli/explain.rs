//! `ipcluster explain`: which worker a client reaches, and why.

use std::fmt::Write as _;

use crate::control::{ControlDir, ControlError};
use crate::master::UnmanagedCluster;
use crate::plan::ClusterName;

use super::args::ExplainArgs;
use super::{Failed, ask, output, unmanaged};
use crate::protocol::{ClientAddress, Explanation, Outcome, Request};

/// Asks the master; where none runs, reads the rules.
pub(super) fn run(directory: &ControlDir, args: ExplainArgs) -> Result<(), Failed> {
    let ExplainArgs { name, address } = args;
    let ClientAddress { address: ip, port } = address;
    let name = match name {
        Some(name) => name,
        None => unmanaged::the_only_one(directory)?,
    };
    let request = Request::Explain { address: ip, port };
    let explanation = match ask::try_ask(directory, Some(&name), request)? {
        Ok(Outcome::Explained(explanation)) => explanation,
        Ok(_) => return Err(ask::mismatch("explain")),
        Err(ControlError::NoMaster { name, .. }) => {
            let text = text(&from_kernel(directory, &name, address)?);
            return output::answer(
                &(text + "note        no master runs: this is what the kernel holds\n"),
            );
        }
        Err(error) => return Err(error.into()),
    };
    output::answer(&text(&explanation))
}

fn from_kernel(
    directory: &ControlDir,
    name: &ClusterName,
    client: ClientAddress,
) -> Result<Explanation, Failed> {
    let Some(cluster) = unmanaged::find(directory, name)?.filter(UnmanagedCluster::has_rules)
    else {
        return Err(Failed::new(format!("cluster {name}: no master runs, and there are no rules"))
            .hint("`ipcluster status` tells which clusters run"));
    };
    cluster.explain(client).map_err(Failed::from)
}

fn text(explanation: &Explanation) -> String {
    let Explanation { address, port, slot, seat, pid, generation, why, .. } = explanation;
    let client = ClientAddress { address: *address, port: *port };
    let pid = pid.map_or("unknown (no master runs)".to_owned(), |pid| pid.to_string());
    let mut text = format!(
        "client      {client}\nslot        {slot}\nseat        {seat}\nworker      pid {pid}, generation {generation}\n"
    );
    for (public, worker) in &explanation.ports {
        let spoken = [("tcp", &explanation.tcp_ports), ("udp", &explanation.udp_ports)];
        let spoken = spoken.iter().filter(|(_, ports)| ports.contains(public));
        let spoken: Vec<&str> = spoken.map(|(protocol, _)| *protocol).collect();
        let spoken = spoken.join(",");
        let _ = writeln!(text, "{:<11} {public} -> {worker}", format!("port {spoken}").trim_end());
    }
    for reason in why {
        let _ = writeln!(text, "because     {reason}");
    }
    text
}
