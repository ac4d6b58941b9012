//! `ipcluster flush`: the rules of a cluster whose master is gone.

use crate::control::ControlDir;
use crate::nft::Firewall;
use crate::plan::ClusterName;

use super::args::ClusterArgs;
use super::{Failed, output};

/// Removes the rules of a cluster that no master owns.
pub(super) fn run(directory: &ControlDir, args: ClusterArgs) -> Result<(), Failed> {
    let name = match args.name {
        Some(name) => name,
        None => the_only_one()?,
    };
    // Held until the rules are gone, so that no master starts meanwhile.
    let _lock = directory.lock(&name).map_err(|error| {
        Failed::from(error).hint(format!("`ipcluster stop {name}` ends it and removes its rules"))
    })?;
    let mut firewall = Firewall::open(&name)?;
    if !firewall.remove()? {
        return Err(Failed::new(format!("there are no rules of a cluster {name}"))
            .hint("`nft list tables` shows what there is; ours are named ipcluster_NAME"));
    }
    output::answer(&format!("removed the rules of cluster {name}\n"))
}

fn the_only_one() -> Result<ClusterName, Failed> {
    let mut clusters = Firewall::clusters()?;
    match (clusters.pop(), clusters.is_empty()) {
        (None, _) => Err(Failed::new("there are no rules of any cluster")),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            clusters.push(last);
            let names: Vec<&str> = clusters.iter().map(ClusterName::as_str).collect();
            let message = format!("there are rules of several clusters: {}", names.join(", "));
            Err(Failed::new(message).hint("name one"))
        }
    }
}
