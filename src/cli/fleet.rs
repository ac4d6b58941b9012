//! `ipcluster fleet`: who serves whom among several hosts, from a file, with nothing running.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::config::read_text;
use crate::control::{ControlDir, ControlError};
use crate::plan::fleet::{Fleet, FleetError, Member, MemberName, MemberState, Members};
use crate::plan::{ClusterName, Listeners};
use crate::protocol::{FleetExplanation, FleetStatus, MemberAtAddresses, Outcome, Request};
use crate::ruleset::{FleetHost, lower_fleet};

use super::args::{
    FleetDrainArgs, FleetExplainArgs, FleetJoinArgs, FleetMembersArgs, FleetPlanArgs,
    FleetRulesArgs, FleetStatusArgs, FleetVerb,
};
use super::{Failed, ask, output, plan};

pub(super) fn run(
    verb: FleetVerb,
    directory: impl FnOnce() -> Result<ControlDir, ControlError>,
) -> Result<(), Failed> {
    match verb {
        FleetVerb::Status(args) => status(&directory()?, &args),
        FleetVerb::Drain(args) => drain(&directory()?, &args),
        FleetVerb::Join(args) => join(&directory()?, &args),
        FleetVerb::Explain(args) => explain(args, directory),
        FleetVerb::Plan(args) => next(&args),
        FleetVerb::Rules(args) => rules(args),
    }
}

/// Which member serves a client, and with the configuration of its cluster which worker.
fn explain(
    args: FleetExplainArgs,
    directory: impl FnOnce() -> Result<ControlDir, ControlError>,
) -> Result<(), Failed> {
    let FleetExplainArgs { address, members, name, without, drain, config } = args;
    // As a server on [::] shows a client of IPv4.
    let address = address.to_canonical();
    let explanation = match members {
        Some(members) => {
            let fleet = changed(&FleetMembersArgs { members, without, drain })?;
            FleetExplanation::of(&fleet, address)
        }
        None => match ask::ask(&directory()?, name.as_ref(), Request::FleetExplain { address })? {
            Outcome::FleetExplained(explanation) => explanation,
            _ => return Err(ask::mismatch("fleet explain")),
        },
    };
    let mut text = route(&explanation);
    if let Some(path) = config
        && let Some(seat) = plan::seat_of(&path, address)?
    {
        let _ = writeln!(text, "seat        {seat}");
    }
    output::answer(&text)
}

fn route(explanation: &FleetExplanation) -> String {
    let FleetExplanation { client, slot, slots, owner, former, .. } = explanation;
    let member = |MemberAtAddresses { name, addresses, .. }: &MemberAtAddresses| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{name} ({})", addresses.join(", "))
    };
    let owner = member(owner);
    let mut text =
        format!("client      {client}\nslot        {slot} of {slots}\nmember      {owner}\n");
    for before in former {
        let _ = writeln!(text, "before      {}: connections older than the change", member(before));
    }
    text
}

fn status(directory: &ControlDir, args: &FleetStatusArgs) -> Result<(), Failed> {
    let (fleet, _) = ask_status(directory, args.cluster.name.as_ref())?;
    if !args.json {
        return output::answer(&fleet.table());
    }
    let text = serde_json::to_string_pretty(&fleet);
    let text = text.map_err(|error| Failed::new(format!("status as JSON: {error}")))?;
    output::answer(&format!("{text}\n"))
}

/// The fleet as the master knows it, and how many connections the host has.
fn ask_status(
    directory: &ControlDir,
    name: Option<&ClusterName>,
) -> Result<(FleetStatus, u64), Failed> {
    let Outcome::Status(status) = ask::ask(directory, name, Request::Status)? else {
        return Err(ask::mismatch("status"));
    };
    let connections = status.workers.iter().filter_map(|worker| worker.connections);
    let connections = connections.map(u64::from).sum();
    let fleet = status.fleet.ok_or_else(|| {
        Failed::new(format!("cluster {} is in no fleet", status.name))
            .hint("`fleet.name` in its configuration makes its host a member")
    })?;
    Ok((fleet, connections))
}

/// From one look at a host that drains to the next.
const LOOK: Duration = Duration::from_millis(500);

fn drain(directory: &ControlDir, args: &FleetDrainArgs) -> Result<(), Failed> {
    let name = args.cluster.name.as_ref();
    let Outcome::FleetDraining(fleet) = ask::ask(directory, name, Request::FleetDrain)? else {
        return Err(ask::mismatch("fleet drain"));
    };
    if args.no_wait {
        return output::answer(&format!("member {} drains\n", fleet.member));
    }
    let mut said = vec![];
    loop {
        let (fleet, connections) = ask_status(directory, name)?;
        let owned = fleet.own().map_or(0, |own| own.slots);
        if owned == 0 && connections == 0 && fleet.state == "gone" {
            let text = format!("member {} owns no slot and has no connection\n", fleet.member);
            return output::answer(&text);
        }
        for trouble in fleet.troubles {
            if !said.contains(&trouble) {
                output::remark(&format!("{trouble}\n"));
                said.push(trouble);
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn join(directory: &ControlDir, args: &FleetJoinArgs) -> Result<(), Failed> {
    match ask::ask(directory, args.cluster.name.as_ref(), Request::FleetJoin)? {
        Outcome::FleetJoining(fleet) => {
            output::answer(&format!("member {} is to serve again\n", fleet.member))
        }
        _ => Err(ask::mismatch("fleet join")),
    }
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
