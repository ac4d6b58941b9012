//! `ipcluster check`: what this machine supports and lacks.

mod trial;

use std::fmt;
use std::fs;

use crate::control::ControlDir;
use crate::lab;
use crate::master::host::{
    Accepted, HostFacts, Survey, Surveyed, conntrack_full, findings, nat_before, owners_of_ports,
    survey,
};
use crate::master::{missing_on_this_host, unprivileged_port_start};
use crate::nft::{Conntrack, ConntrackUsage, Firewall, ForeignRules, NftError, Protection};
use crate::plan::{
    ClusterName, Engine, Generation, Listener, Listeners, Occupant, Partition, Plan, Port,
    PortRange, Seat, Weights,
};
use crate::process::{Endpoint, HeldSocket, PidFd, Transport, has_cap_net_admin};
use crate::protocol::{Finding, FindingSeverity, Outcome, Request};
use crate::ruleset::TableName;
use nix::sys::utsname::uname;

use super::args::CheckArgs;
use super::ask::try_ask;
use super::{Failed, causes, output};
use crate::config::{Config, ConfigBuilder};

/// The first kernel with nat chains in `inet` tables (5.2), `pidfd_open` (5.3) and `waitid` of a pidfd.
const OLDEST_KERNEL: (u32, u32) = (5, 4);

/// What one look has found.
enum Look {
    Good(String),
    /// `run` works, but something about it deserves attention.
    Warning(String),
    /// Worth knowing.
    Notice(String),
    /// `run` would fail.
    Bad(String),
    /// It was tried, and failed.
    Failed(String),
}

use Look::{Bad, Good, Notice, Warning};

/// Listeners whose way is looked at.
struct Subject {
    of: Surveyed,
    accepted: Accepted,
    /// The plan in force that serves them, or some of them.
    plan: Option<Plan>,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Good(text) => write!(f, "ok       {text}"),
            Warning(text) => write!(f, "warning  {text}"),
            Notice(text) => write!(f, "notice   {text}"),
            Bad(text) => write!(f, "missing  {text}"),
            Self::Failed(text) => write!(f, "failed   {text}"),
        }
    }
}

/// Looks at everything that `run` needs, and prints a line for each.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failed> {
    let mut config = None;
    if let Some(path) = &args.config {
        let config = config.insert(ConfigBuilder::from_file(path)?.build()?);
        let hints = config.hints();
        let hints = hints.iter().map(|hint| format!("{}\n", Warning(hint.clone())));
        let valid = Good(format!("configuration {}: valid", path.display()));
        output::answer(&format!("{valid}\n{}", hints.collect::<String>()))?;
    }
    let mut findings = vec![kernel(), capability(), pidfd(), runtime_directory()];
    findings.extend(config.iter().flat_map(named_by));
    let ports = config.as_ref().map_or_else(PortRange::default, Config::worker_ports);
    findings.push(worker_ports(ports));
    let engine = config.as_ref().map_or_else(Engine::default, Config::engine);
    findings.push(takers_of_ports(engine, ports, unprivileged_port_start()));
    findings.push(connection_tracking());
    match subjects(args, config.as_ref()) {
        Ok(subjects) => {
            findings.extend(in_the_way(&subjects));
            findings.extend(seen_by_masters(&subjects));
            if args.try_connections {
                findings.extend(trial::try_listeners(&subjects));
            }
        }
        Err(_) if matches!(has_cap_net_admin(), Ok(false)) => findings.push(not_privileged()),
        Err(error) => findings.push(Warning(format!("rules and servers of others: {error}"))),
    }
    // Last: it moves this process into a network namespace of its own.
    findings.extend(rules());
    let lines: Vec<String> = findings.iter().map(|finding| format!("{finding}\n")).collect();
    output::answer(&lines.concat())?;
    let lacks = findings.iter().filter(|finding| matches!(finding, Bad(_))).count();
    let failed = findings.iter().filter(|finding| matches!(finding, Look::Failed(_))).count();
    match lacks {
        0 if failed > 0 => {
            Err(Failed::new(format!("{failed} of the connections that were tried did not arrive")))
        }
        0 => Ok(()),
        lacks => Err(Failed::new(format!("`ipcluster run` would fail here: {lacks} missing"))),
    }
}

/// What the configuration names beside listeners.
fn named_by(config: &Config) -> Vec<Look> {
    let missing = missing_on_this_host(config, std::env::vars_os().collect());
    if missing.is_empty() {
        return vec![Good("users, directories, program and files of the configuration".to_owned())];
    }
    missing.into_iter().map(Bad).collect()
}

fn kernel() -> Look {
    let release = match uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(errno) => return Warning(format!("kernel: unknown ({errno})")),
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < OLDEST_KERNEL => {
            let (major, minor) = OLDEST_KERNEL;
            Bad(format!(
                "kernel {release}: needs {major}.{minor} or newer (nat in inet tables, pidfds)"
            ))
        }
        _ => Good(format!("kernel {release}")),
    }
}

fn capability() -> Look {
    match has_cap_net_admin() {
        Ok(true) => Good("CAP_NET_ADMIN: rules can be changed".to_owned()),
        Ok(false) => Bad(
            "CAP_NET_ADMIN: run it as root, or `setcap cap_net_admin+ep` the program; `ipcluster demo` needs neither"
                .to_owned(),
        ),
        Err(error) => Warning(format!("CAP_NET_ADMIN: {}", causes(&error))),
    }
}

fn pidfd() -> Look {
    match PidFd::open(std::process::id()) {
        Ok(_) => Good("pidfds: workers can be watched".to_owned()),
        Err(error) => Bad(format!("pidfds: {}", causes(&error))),
    }
}

fn runtime_directory() -> Look {
    match ControlDir::locate() {
        Ok(directory) => Good(format!("control sockets in {}", directory.path().display())),
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            Bad(format!("control sockets: {error}; {hint}"))
        }
    }
}

/// Ports that the kernel may give to outgoing connections are not free when a worker needs them.
fn worker_ports(range: PortRange) -> Look {
    let Ok(ephemeral) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else {
        return Warning("worker ports: ip_local_port_range cannot be read".to_owned());
    };
    let mut numbers = ephemeral.split_whitespace().filter_map(|text| text.parse::<u16>().ok());
    let (Some(low), Some(high)) = (numbers.next(), numbers.next()) else {
        return Warning("worker ports: ip_local_port_range is not understood".to_owned());
    };
    let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
    let reserved = reserved.unwrap_or_default();
    let (first, last) = (range.first().number(), range.last().number());
    if last < low || high < first || covers(reserved.trim(), first, last) {
        return Good(format!("worker ports {range}: apart from those of outgoing connections"));
    }
    Warning(format!(
        "worker ports {range}: outgoing connections use {low}-{high} as well; \
         `sysctl -w net.ipv4.ip_local_reserved_ports={range}` keeps them apart"
    ))
}

/// While no master runs nobody takes the clients of a worker that has ended to another one: whoever binds its
/// port gets them, apart from [`Engine::Tproxy`], which gives them to sockets that take `CAP_NET_ADMIN` alone.
/// Ports below `start` take a capability to bind.
fn takers_of_ports(engine: Engine, range: PortRange, start: u32) -> Look {
    if engine == Engine::Tproxy {
        return Good(format!(
            "worker ports {range}: with the engine tproxy no other user can take the clients of a worker that has \
             ended"
        ));
    }
    if u32::from(range.last().number()) < start {
        return Good(format!(
            "worker ports {range}: below net.ipv4.ip_unprivileged_port_start ({start}), so that no other user can \
             take the port of a worker that has ended; workers get theirs as sockets (`socket_activation`)"
        ));
    }
    let closed = u32::from(range.last().number()) + 1;
    Notice(format!(
        "worker ports {range}: while no master runs any user of this host may take the port of a worker that \
         has ended, and get its clients; the engine `tproxy` keeps users out, or `socket_activation` with `sysctl \
         -w net.ipv4.ip_unprivileged_port_start={closed}`"
    ))
}

/// Whether one range of a list such as `8080,20000-29999` holds all ports from `first` to `last`.
fn covers(list: &str, first: u16, last: u16) -> bool {
    list.split(',').any(|item| {
        let (from, to) = item.split_once('-').unwrap_or((item, item));
        let number = |text: &str| text.trim().parse::<u16>().ok();
        matches!((number(from), number(to)), (Some(from), Some(to)) if from <= first && last <= to)
    })
}

fn connection_tracking() -> Look {
    // Over netlink, as `status` does, which takes the capability; else from the files.
    let filled = Conntrack::open().and_then(|mut conntrack| conntrack.usage());
    let filled = filled.ok().flatten().or_else(usage_of_files);
    let Some(usage) = filled else {
        // The module is loaded with the first rule that needs it.
        return Good("connection tracking: not in use yet".to_owned());
    };
    let ConntrackUsage { entries, limit } = usage;
    match usage.is_nearly_full() {
        true => look_of(conntrack_full(usage)),
        false => Good(format!("connection tracking: entries {entries}, at most {limit}")),
    }
}

fn usage_of_files() -> Option<ConntrackUsage> {
    let number = |name: &str| -> Option<u32> {
        let path = format!("/proc/sys/net/netfilter/{name}");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let (entries, limit) = (number("nf_conntrack_count")?, number("nf_conntrack_max")?);
    Some(ConntrackUsage { entries, limit })
}

/// The listeners that are given, by a file or by themselves; else those of the clusters that there are.
fn subjects(args: &CheckArgs, config: Option<&Config>) -> Result<Vec<Subject>, String> {
    let plans = match plans() {
        Ok(plans) => plans,
        // Listeners that are given are looked at all the same, as far as that is possible.
        Err(_) if config.is_some() || !args.listen.is_empty() => Vec::new(),
        Err(error) => return Err(causes(&error)),
    };
    let mut subjects = Vec::new();
    if let Some(config) = config {
        let of = Surveyed {
            listeners: config.listeners().clone(),
            worker_ports: config.worker_ports(),
            engine: config.engine(),
            local_clients: config.local_clients(),
            table: Some(TableName::of(config.name())),
        };
        let accepted = Accepted {
            bypassed_filters: config.accept_bypassed_filters(),
            take_over_port: config.take_over_port(),
            admin_port: config.yes_really(),
        };
        let plan = plans.iter().find(|plan| plan.name() == config.name()).cloned();
        subjects.push(Subject { of, accepted, plan });
    }
    if !args.listen.is_empty() {
        let listeners = Listeners::new(args.listen.clone()).map_err(|error| causes(&error))?;
        let has_one = |plan: &&Plan| {
            let mut served = plan.listeners().iter();
            served.any(|served| listeners.iter().any(|it| it == served))
        };
        let plan = plans.iter().find(has_one).cloned();
        let of = Surveyed {
            listeners,
            worker_ports: PortRange::default(),
            engine: args.engine,
            // As `run` has it where nobody says otherwise.
            local_clients: true,
            table: plan.as_ref().map(|plan| TableName::of(plan.name())),
        };
        subjects.push(Subject { of, accepted: Accepted::default(), plan });
    }
    if subjects.is_empty() {
        // They run: whatever it is has been accepted, or came later.
        let accepted = Accepted { bypassed_filters: true, take_over_port: true, admin_port: true };
        subjects.extend(plans.into_iter().map(|plan| {
            let of = Surveyed::by(&plan, plan.guard().unwrap_or_default());
            Subject { of, accepted, plan: Some(plan) }
        }));
    }
    Ok(subjects)
}

/// What stands in the way of these; without any, nat rules that decide before ours on any listener.
fn in_the_way(subjects: &[Subject]) -> Vec<Look> {
    match all_findings(subjects) {
        Ok(found) if found.is_empty() => {
            vec![Good("rules and servers of others: none in the way".to_owned())]
        }
        Ok(found) => found.into_iter().map(look_of).collect(),
        Err(_) if matches!(has_cap_net_admin(), Ok(false)) => vec![not_privileged()],
        Err(error) => vec![Warning(format!("rules and servers of others: {}", causes(&error)))],
    }
}

/// What the masters of these clusters alone see, since it shows while connections come. One that does not answer is
/// passed over: that is not what was asked.
fn seen_by_masters(subjects: &[Subject]) -> Vec<Look> {
    let Ok(directory) = ControlDir::locate() else { return Vec::new() };
    let plans = subjects.iter().filter_map(|subject| subject.plan.as_ref());
    let found = plans.flat_map(|plan| findings_of_master(&directory, plan.name()));
    found.map(look_of).collect()
}

fn findings_of_master(directory: &ControlDir, name: &ClusterName) -> Vec<Finding> {
    match try_ask(directory, Some(name), Request::Status) {
        Ok(Ok(Outcome::Status(status))) => {
            let all = status.findings.into_iter();
            let its_own = all.filter(|it| it.kind.is_seen_by_masters_alone());
            its_own
                .map(|it| Finding { what: format!("cluster {name}: {it}", it = it.what), ..it })
                .collect()
        }
        _ => Vec::new(),
    }
}

fn not_privileged() -> Look {
    Warning("rules and servers of others: not looked at without CAP_NET_ADMIN".to_owned())
}

fn all_findings(subjects: &[Subject]) -> Result<Vec<Finding>, NftError> {
    let mut all = Vec::new();
    for subject in subjects {
        all.extend(findings_of(subject)?);
    }
    if subjects.is_empty() {
        let found = ForeignRules::open()?.find(None, false, Engine::default())?;
        all.extend(found.iter().map(nat_before));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn look_of(finding: Finding) -> Look {
    let text = format!("{finding} [{}]", finding.kind);
    match finding.severity {
        FindingSeverity::Error => Bad(text),
        FindingSeverity::Notice => Notice(text),
        _ => Warning(text),
    }
}

fn findings_of(Subject { of, accepted, plan }: &Subject) -> Result<Vec<Finding>, NftError> {
    let facts = HostFacts::read(&of.listeners).with_owners_of(&owners_of_ports(&of.listeners));
    let mut rules = ForeignRules::open()?;
    let survey = survey(&mut rules, facts, of)?;
    // How full connection tracking is has a line of its own.
    let survey = Survey { conntrack: None, ..survey };
    // `run` refuses none of those that are served already.
    let is_served = |listener: &Listener| {
        plan.as_ref().is_some_and(|plan| plan.listeners().iter().any(|it| it == listener))
    };
    let mut all = findings(&survey, &of.listeners, of.engine, *accepted);
    for finding in &mut all {
        let is_served = finding.listener.as_ref().is_some_and(is_served);
        if finding.severity == FindingSeverity::Error && is_served {
            finding.severity = FindingSeverity::Warning;
        }
    }
    Ok(all)
}

fn plans() -> Result<Vec<Plan>, NftError> {
    let mut plans = Vec::new();
    for cluster in Firewall::clusters()? {
        match Firewall::open(&cluster)?.read() {
            Ok(plan) => plans.extend(plan),
            // Its own verbs say what is wrong with it.
            Err(
                NftError::NotUnderstood { .. }
                | NftError::ForeignTable { .. }
                | NftError::Schema { .. },
            ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(plans)
}

/// Puts rules of every kind of each engine into a namespace made for it, and reads them back.
fn rules() -> Vec<Look> {
    match lab::enter_user_namespace() {
        Ok(_) => {}
        Err(error) => {
            return vec![Warning(format!(
                "rules: not tried, since there is no namespace to try them in: {error}"
            ))];
        }
    }
    vec![redirect(), tproxy()]
}

fn redirect() -> Look {
    match try_rules(Engine::Redirect) {
        Ok(Protection::Owned) => Good(
            "engine redirect, for any program: nat, jhash, fib, counters and redirect work, and nobody else can change them (tried in a namespace)"
                .to_owned(),
        ),
        Ok(protection) => {
            let connections = match protection {
                Protection::Kept => "established connections live on",
                _ => "established connections are reset",
            };
            Warning(format!(
                "engine redirect, for any program: its rules work, but this kernel cannot keep others from changing them (Linux 6.9 can): \
                 after `nft flush ruleset` {connections}"
            ))
        }
        Err(reason) => Bad(format!(
            "engine redirect: {reason} (needs the kernel's nf_tables, nft_nat, nft_redir, nft_hash, nft_fib_inet, nft_objref)"
        )),
    }
}

/// Nobody has to use it: what it lacks is no reason for `run` to fail.
fn tproxy() -> Look {
    let tried = try_rules(Engine::Tproxy).and_then(|protection| {
        let endpoint =
            Endpoint { transport: Transport::Tcp, ipv4: true, ipv6: true, transparent: true };
        let port = PortRange::default().first().number();
        HeldSocket::open(port, endpoint, 1).map_err(|error| causes(&error))?;
        Ok(protection)
    });
    match tried {
        Ok(_) => Good(
            "engine tproxy, for programs that take their sockets by LISTEN_FDS: its rules and sockets work, without connection tracking (tried in a namespace)"
                .to_owned(),
        ),
        Err(reason) => Warning(format!(
            "engine tproxy: cannot be used: {reason} (needs the kernel's nft_tproxy and nft_socket)"
        )),
    }
}

fn try_rules(engine: Engine) -> Result<Protection, String> {
    let text = |error: &dyn std::error::Error| causes(error);
    let listeners = ["10.9.0.1:80", "0.0.0.0:81/udp", "[fd09::1]:80/udp", "[::]:81"];
    let listeners = listeners.iter().map(|listener| listener.parse()).collect::<Result<_, _>>();
    let plan = || {
        let partition = Partition::hash(8)?;
        let name = "check".parse()?;
        let weights = Weights::equal(2)?;
        let mut plan = Plan::new(name, Listeners::new(listeners?)?, partition, &weights, None)?;
        let ports = [20_000, 20_001].into_iter().filter_map(Port::new).collect();
        plan.set_engine(engine)?;
        plan.occupy(Seat(0), Occupant { generation: Generation::FIRST, ports })?;
        plan.set_guard(Some(PortRange::default()))?;
        plan.set_local_clients(true);
        Ok(plan)
    };
    let plan: Plan = plan().map_err(|error: crate::plan::PlanError| text(&error))?;
    let mut firewall = Firewall::open(plan.name()).map_err(|error| text(&error))?;
    // What the engine before has left.
    firewall.remove().map_err(|error| text(&error))?;
    firewall.apply(&plan).map_err(|error| text(&error))?;
    firewall.verify().map_err(|error| text(&error))?;
    firewall.protection().map_err(|error| text(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_take_the_port_of_a_worker_that_has_ended_is_said() {
        let range: PortRange = "20000-29999".parse().unwrap();
        let look = |engine, start| takers_of_ports(engine, range, start).to_string();
        let open = look(Engine::Redirect, 29_999);
        assert!(open.starts_with("notice ") && open.contains("port_start=30000`"), "{open}");
        assert!(look(Engine::Redirect, 30_000).starts_with("ok "));
        assert!(look(Engine::Tproxy, 1024).starts_with("ok "));
    }

    #[test]
    fn reserved_ports_count_only_if_one_range_holds_all() {
        assert!(covers("20000-29999", 20_000, 29_999));
        assert!(covers("80,19999-30000,31000", 20_000, 29_999));
        assert!(!covers("20001-29999", 20_000, 29_999));
        assert!(!covers("", 20_000, 29_999));
        assert!(!covers("x-y", 20_000, 29_999));
    }
}
