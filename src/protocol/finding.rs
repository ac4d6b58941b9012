use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::Listener;

/// Something on the host that keeps connections from the workers, or that a cluster makes useless: a rule of
/// somebody else, a setting of the kernel, a server on a public port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: FindingSeverity,
    /// What it is.
    pub kind: FindingKind,
    /// The listener that it concerns; none: all of them.
    pub listener: Option<Listener>,
    /// The rule that it is about, if it is one.
    pub rule: Option<FoundRule>,
    /// What was found and what follows from it, for display.
    pub what: String,
    /// What to do about it, for display.
    pub cure: String,
}

/// Where a rule of somebody else stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FoundRule {
    /// The family of its table: `ip`, `ip6` or `inet`.
    pub family: String,
    /// It is a rule of iptables-legacy, or with `ip6` of ip6tables-legacy, which nft does not show.
    #[serde(default)]
    pub legacy: bool,
    /// Its table. Names are printable, and cut after [`Finding::NAME_LEN`] characters.
    pub table: String,
    /// The base chain that leads to it.
    pub chain: String,
    /// The hook of the base chain.
    pub hook: String,
    /// The priority of the base chain.
    pub priority: i32,
    /// The chain that it stands in.
    pub rule_chain: String,
    /// Its handle, as `nft -a list` shows it; of iptables-legacy its number in its chain, as
    /// `-L --line-numbers` shows it; none: it is the policy of the base chain.
    pub handle: Option<u64>,
}

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FindingSeverity {
    /// A cluster is not started beside it unless a setting says so.
    Error,
    /// Clients are lost to it, or may be.
    Warning,
    /// Worth knowing.
    Notice,
}

/// What a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// A filter rule drops connections to a listener.
    FilterDrops,
    /// A filter rule kept clients from a public port, and does so no more, since it sees the worker port.
    FilterBypassed,
    /// A filter rule lets translated connections in to a port that nobody has opened.
    FilterOpened,
    /// A filter rule may drop connections to a listener: it is not understood.
    FilterUnknown,
    /// A rule exempts connections to a listener from connection tracking, so that they are not translated.
    Untracked,
    /// A nat rule maps connections to a listener before ours do.
    NatBefore,
    /// A nat rule would map connections to a listener, and comes too late.
    NatAfter,
    /// Rules of iptables-legacy, or of ip6tables-legacy, that cannot be read.
    LegacyRules,
    /// Connection tracking forgets established connections before TCP does.
    ConntrackTimeout,
    /// Connection tracking is nearly full.
    ConntrackFull,
    /// Packets are dropped whose answer would go out by another interface (`rp_filter`).
    ReversePath,
    /// A server of somebody else has a public port.
    PortTaken,
    /// The address of a listener is none of this host.
    AddressNotLocal,
    /// The port is the one by which administrators log in.
    AdminPort,
    /// The rules have led connections to seats, and no worker got any.
    NoneArrive,
    /// One address has most of the connections of a seat.
    OneAddress,
    /// An interface has addresses that do not fit a udp listener on all of them.
    InterfaceAddresses,
    /// A rule hands connections to a listener to a socket of another program (tproxy).
    Diverted,
    /// Connections of workers have no entry in connection tracking, and cannot go on without.
    LostEntries,
}

impl Finding {
    /// The most of them in a status, which is to fit into a line.
    pub const MOST: usize = 32;

    /// The most characters of a name.
    pub const NAME_LEN: usize = 64;

    /// A finding about all listeners.
    pub(crate) fn new(
        severity: FindingSeverity,
        kind: FindingKind,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let (what, cure) = (what.into(), cure.into());
        Self { severity, kind, listener: None, rule: None, what, cure }
    }

    /// The same, about one of them.
    #[must_use]
    pub(crate) fn of(self, listener: Listener) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// The same, about this rule.
    #[must_use]
    pub(crate) fn about(self, rule: FoundRule) -> Self {
        Self { rule: Some(rule), ..self }
    }
}

impl FoundRule {
    /// A rule of this table and base chain, which have this hook and priority; where it stands, and its handle.
    pub(crate) fn new(
        (family, table, chain): (&dyn fmt::Display, &str, &str),
        hook: &dyn fmt::Display,
        priority: i32,
        (rule_chain, handle): (&str, Option<u64>),
    ) -> Self {
        let cut = |name: &str| name.chars().take(Finding::NAME_LEN).collect();
        Self {
            family: family.to_string(),
            legacy: false,
            table: cut(table),
            chain: cut(chain),
            hook: hook.to_string(),
            priority,
            rule_chain: cut(rule_chain),
            handle,
        }
    }

    /// The same, of iptables-legacy or not.
    #[must_use]
    pub(crate) fn of_legacy(self, legacy: bool) -> Self {
        Self { legacy, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, cure, .. } = self;
        match cure.is_empty() {
            true => f.write_str(what),
            false => write!(f, "{what}; {cure}"),
        }
    }
}

impl fmt::Display for FindingSeverity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        })
    }
}

impl FindingKind {
    /// All kinds, in the order of the metric.
    pub const ALL: [Self; 19] = [
        Self::FilterDrops,
        Self::FilterBypassed,
        Self::FilterOpened,
        Self::FilterUnknown,
        Self::Untracked,
        Self::NatBefore,
        Self::NatAfter,
        Self::LegacyRules,
        Self::ConntrackTimeout,
        Self::ConntrackFull,
        Self::ReversePath,
        Self::PortTaken,
        Self::AddressNotLocal,
        Self::AdminPort,
        Self::NoneArrive,
        Self::OneAddress,
        Self::InterfaceAddresses,
        Self::Diverted,
        Self::LostEntries,
    ];

    /// Its name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FilterDrops => "filter_drops",
            Self::FilterBypassed => "filter_bypassed",
            Self::FilterOpened => "filter_opened",
            Self::FilterUnknown => "filter_unknown",
            Self::Untracked => "untracked",
            Self::NatBefore => "nat_before",
            Self::NatAfter => "nat_after",
            Self::LegacyRules => "legacy_rules",
            Self::ConntrackTimeout => "conntrack_timeout",
            Self::ConntrackFull => "conntrack_full",
            Self::ReversePath => "reverse_path",
            Self::PortTaken => "port_taken",
            Self::AddressNotLocal => "address_not_local",
            Self::AdminPort => "admin_port",
            Self::NoneArrive => "none_arrive",
            Self::OneAddress => "one_address",
            Self::InterfaceAddresses => "interface_addresses",
            Self::Diverted => "diverted",
            Self::LostEntries => "lost_entries",
        }
    }

    /// Whether it shows while connections come, and not by what there is on the host.
    pub(crate) const fn is_seen_by_masters_alone(self) -> bool {
        matches!(self, Self::NoneArrive | Self::OneAddress | Self::LostEntries)
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        for kind in FindingKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    fn rule() -> FoundRule {
        let long = "c".repeat(Finding::NAME_LEN + 1);
        FoundRule::new((&"inet", "filter", &long), &"input", -10, ("\u{e9}", Some(9)))
    }

    #[test]
    fn names_of_a_rule_are_cut() {
        let expected = FoundRule {
            family: "inet".to_owned(),
            legacy: false,
            table: "filter".to_owned(),
            chain: "c".repeat(64),
            hook: "input".to_owned(),
            priority: -10,
            rule_chain: "\u{e9}".to_owned(),
            handle: Some(9),
        };
        assert_eq!(rule(), expected);
        assert_eq!(rule().of_legacy(true), FoundRule { legacy: true, ..expected });
    }

    #[test]
    fn a_finding_is_about_all_listeners_and_no_rule_until_it_is_told() {
        let (severity, kind) = (FindingSeverity::Error, FindingKind::NatBefore);
        let finding = Finding::new(severity, kind, "a rule", "delete it");
        assert_eq!((&finding.listener, &finding.rule), (&None, &None));
        let listener: Listener = "0.0.0.0:80".parse().unwrap();
        let narrowed = finding.clone().of(listener).about(rule());
        assert_eq!((narrowed.listener, narrowed.rule), (Some(listener), Some(rule())));
        assert_eq!((narrowed.severity, narrowed.kind), (severity, kind));
        assert_eq!(finding.to_string(), "a rule; delete it");
        assert_eq!(Finding { cure: String::new(), ..finding }.to_string(), "a rule");
    }

    #[test]
    fn severities_and_kinds_can_stand_in_columns() {
        let severities = [
            (FindingSeverity::Error, "error"),
            (FindingSeverity::Warning, "warning"),
            (FindingSeverity::Notice, "notice"),
        ];
        for (severity, text) in severities {
            assert_eq!(format!("{severity:<8}|"), format!("{text:<8}|"));
            assert_eq!(serde_json::to_value(severity).unwrap(), text);
        }
        assert_eq!(format!("{:<12}|", FindingKind::Untracked), "untracked   |");
    }

    #[test]
    fn three_kinds_show_while_connections_come() {
        let seen: Vec<&str> = FindingKind::ALL
            .iter()
            .filter(|kind| kind.is_seen_by_masters_alone())
            .map(|kind| kind.as_str())
            .collect();
        assert_eq!(seen, ["none_arrive", "one_address", "lost_entries"]);
    }
}
