//! `ipcluster fleet`: who serves whom among several hosts, from a file, with nothing running.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use crate::config::read_text;
use crate::plan::Listeners;
use crate::plan::fleet::{Fleet, FleetError, Member, MemberName, MemberState, Members};
use crate::ruleset::{FleetHost, lower_fleet};

use super::args::{FleetExplainArgs, FleetMembersArgs, FleetPlanArgs, FleetRulesArgs, FleetVerb};
use super::{Failed, output, plan};

pub(super) fn run(verb: FleetVerb) -> Result<(), Failed> {
    match verb {
        FleetVerb::Explain(args) => explain(args),
        FleetVerb::Plan(args) => next(&args),
        FleetVerb::Rules(args) => rules(args),
    }
}

/// Which member serves a client, and with the configuration of its cluster which worker.
fn explain(args: FleetExplainArgs) -> Result<(), Failed> {
    let FleetExplainArgs { address, members, config } = args;
    let fleet = changed(&members)?;
    let mut text = route(&fleet, address);
    if let Some(path) = config
        && let Some(seat) = plan::seat_of(&path, address)?
    {
        let _ = writeln!(text, "seat        {seat}");
    }
    output::answer(&text)
}

fn route(fleet: &Fleet, client: IpAddr) -> String {
    let route = fleet.route(client);
    let member = |name: &MemberName| {
        let addresses = fleet.members().get(name).into_iter().flat_map(|it| it.addresses());
        let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
        format!("{name} ({})", addresses.join(", "))
    };
    let mut text = format!(
        "client      {client}\nslot        {} of {}\nmember      {}\n",
        route.slot,
        fleet.owners().slots(),
        member(route.owner)
    );
    for name in route.former {
        let _ = writeln!(text, "before      {}: connections older than the change", member(name));
    }
    text
}

/// Prints the fleet with the owners after the change; says on standard error what each member has.
fn next(args: &FleetPlanArgs) -> Result<(), Failed> {
    let fleet = changed(&args.members)?;
    let json = serde_json::to_string(&fleet);
    let json = json.map_err(|error| Failed::new(format!("cannot write the fleet: {error}")))?;
    output::answer(&format!("{json}\n"))?;
    let mut summary = String::new();
    for name in fleet.members().iter().map(Member::name) {
        let (owned, former) =
            (fleet.owners().owned_by(name), fleet.owners().formerly_owned_by(name));
        let _ = writeln!(summary, "{name}: owner of {owned} slots, former owner of {former}");
    }
    output::remark(&summary);
    Ok(())
}

fn rules(args: FleetRulesArgs) -> Result<(), Failed> {
    let FleetRulesArgs { members, member, device, listen, engine, name } = args;
    let fleet = changed(&members)?;
    let host = FleetHost::new(name, member, device, engine, Listeners::new(listen)?);
    output::answer(&lower_fleet(&fleet, host)?.to_string())
}

/// The fleet of the file with the changes of the command line.
fn changed(args: &FleetMembersArgs) -> Result<Fleet, Failed> {
    let fleet = read(&args.members)?;
    let known = |name: &MemberName| match fleet.members().get(name) {
        Some(_) => Ok(()),
        None => Err(FleetError::NotAMember { name: name.clone() }),
    };
    args.without.iter().chain(&args.drain).try_for_each(known)?;
    let stay = fleet.members().iter().filter(|member| !args.without.contains(member.name()));
    let members = stay.cloned().map(|member| match args.drain.contains(member.name()) {
        true => member.with_state(MemberState::Draining),
        false => member,
    });
    Ok(fleet.with_members(Members::new(members)?)?)
}

/// The longest file of a fleet, in MiB: the owners of 65,536 slots, each with others than the one before.
const MOST_MIB: u64 = 32;

fn read(path: &Path) -> Result<Fleet, Failed> {
    let failed = |error: String| Failed::new(format!("{}: {error}", path.display()));
    let text = read_text(path, MOST_MIB).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

impl From<FleetError> for Failed {
    fn from(error: FleetError) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error, Failed::new("/dev/zero: longer than 32 MiB"));
    }
}
