//! What of the state of the host is worth saying, how bad it is, and what helps. Pure.

use super::facts::{Survey, TakenPort};
use super::interface_addresses;
use crate::nft::{
    Certainty, ConntrackUsage, FilterEffect, FilterHook, ForeignFilter, ForeignNat, TableFamily,
    TableOrigin, UnreadLegacy,
};
use crate::plan::{Engine, Listener, Listeners, Protocol};
use crate::protocol::FindingKind as Kind;
use crate::protocol::FindingSeverity::{Error, Notice, Warning};
use crate::protocol::{Finding, FoundRule};
use crate::ruleset::PRIORITY_DSTNAT;

/// How long TCP may keep a connection without a packet where the program asks for keepalives and changes
/// nothing about them: two hours, and nine probes of 75 s of which the first may be answered late. RFC 5382
/// asks for 2 hours and 4 minutes.
const IDLE: u32 = 7440;

/// The port of ssh.
const ADMIN_PORT: u16 = 22;

/// What settings say is intended, of what a cluster is otherwise not started beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Accepted {
    /// `accept_bypassed_filters`
    pub(crate) bypassed_filters: bool,
    /// `take_over_port`
    pub(crate) take_over_port: bool,
    /// `yes_really`
    pub(crate) admin_port: bool,
}

impl Accepted {
    /// As bad as it still is.
    fn apply(self, finding: Finding) -> Finding {
        let severity = match (finding.severity, finding.kind) {
            (Error, Kind::FilterBypassed) if self.bypassed_filters => Warning,
            (Error, Kind::PortTaken | Kind::AddressNotLocal) if self.take_over_port => Notice,
            (Error, Kind::AdminPort) if self.admin_port => Notice,
            (severity, _) => severity,
        };
        Finding { severity, ..finding }
    }
}

/// All that stands in the way of these listeners, the worst first.
pub(crate) fn findings(
    survey: &Survey,
    listeners: &Listeners,
    engine: Engine,
    accepted: Accepted,
) -> Vec<Finding> {
    let facts = &survey.facts;
    let mut found = Vec::new();
    found.extend(facts.taken.iter().map(port_taken));
    found.extend(facts.not_local.iter().map(|listener| address_not_local(*listener)));
    found.extend(
        listeners.iter().filter(|it| it.port().number() == ADMIN_PORT).map(|it| admin_port(*it)),
    );
    found.extend(interface_addresses::findings(facts, listeners, engine));
    found.extend(survey.rules.filters.iter().map(|rule| filter(rule, engine)));
    found.extend(survey.rules.before.iter().map(nat_before));
    found.extend(survey.rules.after.iter().map(nat_after));
    found.extend(survey.rules.unread.iter().map(unread));
    if engine == Engine::Redirect {
        let has_tcp = !listeners.services(Protocol::Tcp).is_empty();
        let timeout = facts.established_timeout.filter(|it| has_tcp && *it < IDLE);
        found.extend(timeout.map(established_timeout));
    }
    let usage = survey.conntrack.filter(|it| it.is_nearly_full());
    found.extend(usage.map(conntrack_full));
    if facts.strict_reverse_path.len() > 1 {
        found.push(reverse_path(&facts.strict_reverse_path));
    }
    let mut found: Vec<Finding> = found.into_iter().map(|one| accepted.apply(one)).collect();
    found.sort();
    found.dedup();
    found
}

fn port_taken(TakenPort { listener, owner, .. }: &TakenPort) -> Finding {
    let owner = owner.as_deref().unwrap_or("a process that cannot be seen");
    let what =
        format!("{owner} listens on {listener}: it gets no new connection while the cluster runs");
    let cure = "end it, or choose another port; `take_over_port` if the cluster is to have its clients, as when moving from it";
    Finding::new(Error, Kind::PortTaken, what, cure).of(*listener)
}

fn address_not_local(listener: Listener) -> Finding {
    let what =
        format!("{} is no address of this host: nobody reaches {listener}", listener.address());
    let cure = "give it to an interface, or name 0.0.0.0 or [::]; for an address that comes later net.ipv4.ip_nonlocal_bind (net.ipv6.ip_nonlocal_bind) = 1, or `take_over_port`";
    Finding::new(Error, Kind::AddressNotLocal, what, cure).of(listener)
}

fn admin_port(listener: Listener) -> Finding {
    let what = format!(
        "{listener} is the port of ssh: new logins to this host would be led to the workers"
    );
    let cure = "choose another port; `yes_really` if there is another way to log in";
    Finding::new(Error, Kind::AdminPort, what, cure).of(listener)
}

fn filter(rule: &ForeignFilter, engine: Engine) -> Finding {
    let ForeignFilter { listener, effect, .. } = rule;
    let who = match &rule.client {
        None => "every client".to_owned(),
        Some((client, interface)) => format!("clients such as {client} by {interface}"),
    };
    let is_translated = engine == Engine::Redirect && sees_translated(rule);
    let (severity, kind, what, cure) = match effect {
        FilterEffect::Dropped => {
            let what = match is_translated {
                true => format!(
                    "drops what comes for {listener} once it is translated to a worker port"
                ),
                false => format!("drops what comes for {listener}"),
            };
            let what = format!("{rule} {what}: {who} times out");
            (Warning, Kind::FilterDrops, what, let_in(rule, is_translated))
        }
        FilterEffect::Bypassed => {
            let what = format!(
                "{rule} kept {who} from {listener}, and no longer does: it sees the worker port"
            );
            let cure = format!(
                "have it look at the port that clients connect to ({}), or set engine = \"tproxy\"; `accept_bypassed_filters` if that is intended",
                original_port(rule)
            );
            (Error, Kind::FilterBypassed, what, cure)
        }
        FilterEffect::Opened => {
            let what = format!(
                "{rule} keeps {who} from port {}; a rule for translated connections lets them in to {listener}",
                listener.port()
            );
            let cure = match rule.origin {
                TableOrigin::Firewalld => format!(
                    "open the port, so that it is known to be open: `firewall-cmd --permanent --add-port={}/{}`",
                    listener.port(),
                    listener.protocol()
                ),
                _ => "open the port, so that it is known to be open".to_owned(),
            };
            (Warning, Kind::FilterOpened, what, cure)
        }
        FilterEffect::Untracked => {
            let what = format!(
                "{rule} exempts {listener} from connection tracking: its connections are not translated, and no worker gets them"
            );
            let cure =
                format!("except port {} from it, or set engine = \"tproxy\"", listener.port());
            (Warning, Kind::Untracked, what, cure)
        }
        FilterEffect::Proxied => {
            let what = format!(
                "{rule} answers clients of {listener} (SYNPROXY), and connects to it from this host, whose connections are led to no worker: every connection ends after its handshake"
            );
            (Warning, Kind::FilterDrops, what, "set local_clients = true".to_owned())
        }
        FilterEffect::Diverted => {
            let what = format!(
                "{rule} hands what comes for {listener} to a socket of another program (tproxy): while one listens there, no worker gets it"
            );
            let cure =
                format!("except port {} from that rule, or choose another port", listener.port());
            (Warning, Kind::Diverted, what, cure)
        }
        FilterEffect::Unknown => {
            let what = format!(
                "{rule} may drop what comes for {listener}: it has an expression that is not known here"
            );
            (
                Notice,
                Kind::FilterUnknown,
                what,
                format!(
                    "try a connection from another host; if it times out, {}",
                    let_in(rule, is_translated)
                ),
            )
        }
    };
    Finding::new(severity, kind, what, cure).of(*listener).about(place_of_filter(rule))
}

/// Whether its chain comes after our translation.
fn sees_translated(rule: &ForeignFilter) -> bool {
    rule.hook == FilterHook::Input || rule.priority > PRIORITY_DSTNAT
}

/// How to let translated connections in, or others.
pub(super) fn let_in(rule: &ForeignFilter, is_translated: bool) -> String {
    let (port, protocol) = (rule.listener.port(), rule.listener.protocol());
    let ForeignFilter { family, table, chain, .. } = rule;
    let program = iptables(rule);
    match (rule.origin, is_translated) {
        (TableOrigin::Ufw, false) => format!("`ufw allow {port}/{protocol}`"),
        (TableOrigin::Ufw, true) => format!(
            "add to /etc/ufw/before{}.rules, before COMMIT, `-A {}-before-input -p {protocol} -m conntrack --ctstate DNAT --ctorigdstport {port} -j ACCEPT`, then `ufw reload` (packaging/ufw); or set engine = \"tproxy\"",
            if rule.family == TableFamily::Ip6 { "6" } else { "" },
            if rule.family == TableFamily::Ip6 { "ufw6" } else { "ufw" },
        ),
        (TableOrigin::Firewalld, _) => {
            format!(
                "`firewall-cmd --permanent --add-port={port}/{protocol} && firewall-cmd --reload` (packaging/firewalld)"
            )
        }
        (TableOrigin::Iptables, false) => {
            format!("`{program} -I {chain} -p {protocol} --dport {port} -j ACCEPT`")
        }
        (TableOrigin::Iptables, true) => format!(
            "`{program} -I {chain} -p {protocol} -m conntrack --ctstate DNAT --ctorigdstport {port} -j ACCEPT`, or set engine = \"tproxy\""
        ),
        (TableOrigin::Nftables, false) => {
            format!("`nft insert rule {family} {table} {chain} {protocol} dport {port} accept`")
        }
        (TableOrigin::Nftables, true) => format!(
            "`nft insert rule {family} {table} {chain} ct status dnat meta l4proto {protocol} ct original proto-dst {port} accept`, or set engine = \"tproxy\""
        ),
    }
}

/// How a rule asks for the port that clients connect to.
fn original_port(rule: &ForeignFilter) -> String {
    let (port, protocol) = (rule.listener.port(), rule.listener.protocol());
    match rule.origin {
        TableOrigin::Nftables | TableOrigin::Firewalld => {
            format!(
                "`meta l4proto {protocol} ct original proto-dst {port}` in place of `{protocol} dport {port}`"
            )
        }
        TableOrigin::Ufw | TableOrigin::Iptables => {
            format!("`-m conntrack --ctorigdstport {port}` in place of `--dport {port}`")
        }
    }
}

/// The program that changes the table, of those that are called iptables.
fn iptables(rule: &ForeignFilter) -> &'static str {
    match (rule.family, rule.is_legacy) {
        (TableFamily::Ip6, false) => "ip6tables",
        (TableFamily::Ip6, true) => "ip6tables-legacy",
        (_, false) => "iptables",
        (_, true) => "iptables-legacy",
    }
}

/// A nat rule of others that decides before ours.
pub(crate) fn nat_before(rule: &ForeignNat) -> Finding {
    let what = format!("decides before ours: {rule}, and no worker gets them");
    let severity = match rule.certainty {
        Certainty::Certain => Warning,
        Certainty::Possible => Notice,
    };
    nat(
        Finding::new(severity, Kind::NatBefore, what, "remove that rule, or choose another port"),
        rule,
    )
}

fn nat_after(rule: &ForeignNat) -> Finding {
    let what = match rule.priority == PRIORITY_DSTNAT {
        // The kernel tells which table is older, and not which chain.
        true => format!(
            "{rule}, and never does: its table is older than ours, and of chains of one priority the newest decides (so that one which is added to that table later would)"
        ),
        false => format!("{rule}, and never does: ours decide before"),
    };
    let cure = "choose another port for one of them, if it is to be reached";
    nat(Finding::new(Notice, Kind::NatAfter, what, cure), rule)
}

fn nat(finding: Finding, rule: &ForeignNat) -> Finding {
    let place = FoundRule::new(
        (&rule.family, &rule.table, &rule.chain),
        &rule.hook,
        rule.priority,
        (&rule.rule_chain, Some(rule.handle)),
    )
    .of_legacy(rule.is_legacy);
    let finding = finding.about(place);
    match rule.listener {
        Some(listener) => finding.of(listener),
        None => finding,
    }
}

pub(super) fn place_of_filter(rule: &ForeignFilter) -> FoundRule {
    FoundRule::new(
        (&rule.family, &rule.table, &rule.chain),
        &rule.hook,
        rule.priority,
        (&rule.rule_chain, rule.handle),
    )
    .of_legacy(rule.is_legacy)
}

fn unread(UnreadLegacy { program, table, reason }: &UnreadLegacy) -> Finding {
    let what = match table {
        Some(table) => format!("table {table} of {program} is in use and cannot be read"),
        None => format!("which tables of {program} are in use cannot be read"),
    };
    let what =
        format!("{what} ({reason}): its rules may decide before ours, or drop what was translated");
    let cure = match table {
        Some(table) => format!("`{program} -t {table} -S` shows them"),
        None => format!("`{program}-save` shows them"),
    };
    Finding::new(Notice, Kind::LegacyRules, what, cure)
}

fn established_timeout(seconds: u32) -> Finding {
    let what = format!(
        "net.netfilter.nf_conntrack_tcp_timeout_established is {seconds} s: a connection that is silent for longer is forgotten while no master runs, which keeps those of workers"
    );
    let cure = format!(
        "`sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established={IDLE}` or more, or set engine = \"tproxy\""
    );
    Finding::new(Notice, Kind::ConntrackTimeout, what, cure)
}

/// Connection tracking has little room left.
pub(crate) fn conntrack_full(ConntrackUsage { entries, limit }: ConntrackUsage) -> Finding {
    let what = format!(
        "connection tracking is nearly full, {entries} entries of at most {limit}: beyond the limit the kernel drops new connections"
    );
    let cure = "raise net.netfilter.nf_conntrack_max; lower net.netfilter.nf_conntrack_tcp_timeout_time_wait, if most are in TIME_WAIT";
    Finding::new(Warning, Kind::ConntrackFull, what, cure)
}

fn reverse_path(interfaces: &[String]) -> Finding {
    let what = format!(
        "rp_filter is strict on {}: a client whose answers go out by another of them than the one that it comes in by is dropped after it was counted for a seat",
        interfaces.join(", ")
    );
    let cure = "`sysctl -w net.ipv4.conf.all.rp_filter=2`, if routes are not the same both ways";
    Finding::new(Notice, Kind::ReversePath, what, cure)
}

/// So many connections were led to seats within this time, and no worker got any.
pub(crate) fn none_arrive(connections: u64, seconds: u64) -> Finding {
    let what = format!(
        "{connections} connections were led to seats in {seconds} s, and none arrived at a worker: something drops them on the way"
    );
    let cure = "look for it with `ipcluster check`; `nft monitor trace` shows where they end";
    Finding::new(Warning, Kind::NoneArrive, what, cure)
}
