//! The rules of a host of a fleet as a script for `nft -f`.

use std::collections::BTreeSet;
use std::fmt;

use crate::plan::{Engine, Listener, Protocol};

use super::super::lower::slots_in_key;
use super::super::object::Family;
use super::{FamilyRules, FleetRuleset, Other, Targets};

/// `NF_IP_PRI_MANGLE` - 10: behind connection tracking (-200), before what intercepts (-150) or translates (-100).
const SECOND_CHANCE_PRIORITY: i32 = -160;

/// What every table of ours for fleets begins with, and its comment.
const TABLE_PREFIX: &str = "ipcluster_fleet_";
const COMMENT: &str = "ipcluster fleet schema 1";

impl fmt::Display for FleetRuleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = format!("{TABLE_PREFIX}{}", self.host.name);
        // One that is there is replaced, and nft removes none that is not: so it is made first.
        for family in ["netdev", "ip", "ip6"] {
            writeln!(f, "table {family} {table}")?;
            writeln!(f, "delete table {family} {table}")?;
        }
        writeln!(f, "table netdev {table} {{")?;
        writeln!(f, "\tcomment \"{COMMENT}\"")?;
        self.director(f)?;
        writeln!(f, "}}")?;
        for rules in &self.families {
            if let Some(former) = &rules.former {
                writeln!(f, "table {} {table} {{", keyword(rules.family))?;
                writeln!(f, "\tcomment \"{COMMENT}\"")?;
                self.second_chance(f, rules, former)?;
                writeln!(f, "}}")?;
            }
        }
        Ok(())
    }
}

impl FleetRuleset {
    fn director(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.host.device.as_str();
        for rules in &self.families {
            let (family, version) = (rules.family, keyword(rules.family));
            for other in rules.owners.used().into_iter().map(|place| &self.others[place]) {
                writeln!(f, "\tchain {} {{", chain_to(other, family))?;
                let address = other.address(family).expect("checked when it was lowered");
                writeln!(f, "\t\tfwd {version} to {address} device \"{device}\"")?;
                writeln!(f, "\t}}")?;
            }
            if let Some(dispatch) = self.dispatch(family, &rules.owners) {
                writeln!(f, "\tchain owners_{version} {{\n\t\t{dispatch}\n\t}}")?;
            }
        }
        writeln!(f, "\tchain director {{")?;
        writeln!(f, "\t\ttype filter hook ingress device \"{device}\" priority 0; policy accept;")?;
        if !self.others.is_empty() {
            let macs: BTreeSet<_> = self.others.iter().map(|other| other.mac).collect();
            writeln!(f, "\t\tether saddr {} accept", set(macs))?;
        }
        for rules in self.families.iter().filter(|rules| !rules.owners.used().is_empty()) {
            for listener in &rules.listeners {
                let chain = format!("owners_{}", keyword(rules.family));
                writeln!(f, "\t\t{} goto {chain}", matches(listener))?;
            }
        }
        writeln!(f, "\t}}")
    }

    fn second_chance(
        &self,
        f: &mut fmt::Formatter<'_>,
        rules: &FamilyRules,
        former: &Targets,
    ) -> fmt::Result {
        let (family, device) = (rules.family, self.host.device.as_str());
        for other in former.used().into_iter().map(|place| &self.others[place]) {
            writeln!(f, "\tchain {} {{", chain_to(other, family))?;
            let address = other.address(family).expect("checked when it was lowered");
            writeln!(f, "\t\tdup to {address} device \"{device}\"")?;
            writeln!(f, "\t\tdrop")?;
            writeln!(f, "\t}}")?;
        }
        let Some(dispatch) = self.dispatch(family, former) else { return Ok(()) };
        writeln!(f, "\tchain unknown {{")?;
        match self.host.engine {
            Engine::Tproxy => writeln!(f, "\t\tsocket transparent 1 accept")?,
            Engine::Redirect => {
                writeln!(f, "\t\tct state established,related accept")?;
                // Of a connection of this host, but for what a connection of another one may end by: connection
                // tracking calls a reset and a FIN without an entry invalid, too.
                writeln!(f, "\t\tct state invalid tcp flags & (fin | rst) == 0x0 accept")?;
            }
        }
        writeln!(f, "\t\t{dispatch}\n\t}}")?;
        writeln!(f, "\tchain second_chance {{")?;
        writeln!(
            f,
            "\t\ttype filter hook prerouting priority {SECOND_CHANCE_PRIORITY}; policy accept;"
        )?;
        let tcp = rules.listeners.iter().filter(|listener| listener.protocol() == Protocol::Tcp);
        for listener in tcp {
            let begins = "tcp flags & (fin | syn | rst | ack) != syn";
            writeln!(f, "\t\tiif \"{device}\" {} {begins} goto unknown", matches(listener))?;
        }
        writeln!(f, "\t}}")
    }

    /// The rule that sends each slot to its target; `None` if no slot has one.
    fn dispatch(&self, family: Family, Targets(targets): &Targets) -> Option<String> {
        let slots_in_key = slots_in_key(targets);
        let modulus = targets.len() / slots_in_key;
        let keys = targets.iter().step_by(slots_in_key).enumerate();
        let element = |(key, target): (usize, &Option<usize>)| {
            let other = &self.others[(*target)?];
            Some(format!("{key} : goto {}", chain_to(other, family)))
        };
        let elements: Vec<String> = keys.filter_map(element).collect();
        let source = match family {
            Family::V4 => "ip saddr",
            Family::V6 => "@nh,64,64",
        };
        let map = set(&elements);
        let rule = format!("jhash {source} mod {modulus} seed {:#x} vmap {map}", self.seed);
        (!elements.is_empty()).then_some(rule)
    }
}

/// What is sent to a listener.
fn matches(listener: &Listener) -> String {
    let version = keyword(Family::of(listener));
    let (address, protocol, port) = (listener.address(), listener.protocol(), listener.port());
    format!("{version} daddr {address} {protocol} dport {port}")
}

fn set<T: fmt::Display>(elements: impl IntoIterator<Item = T>) -> String {
    let elements: Vec<String> = elements.into_iter().map(|element| element.to_string()).collect();
    format!("{{ {} }}", elements.join(", "))
}

fn chain_to(other: &Other, family: Family) -> String {
    format!("to_{}_{}", other.name, keyword(family))
}

/// nft's word for a family.
const fn keyword(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
