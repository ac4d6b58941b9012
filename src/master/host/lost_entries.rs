//! Connections of workers that have no entry in connection tracking: what follows from it. Pure.

use super::judge::{let_in, place_of_filter};
use crate::nft::ForeignFilter;
use crate::plan::Engine;
use crate::protocol::{Finding, FindingKind, FindingSeverity};

/// What a connection without an entry meets.
#[derive(Debug, Clone, Default)]
pub(crate) struct LostEntries {
    pub(crate) engine: Engine,
    /// A rule that drops what comes in its midst.
    pub(crate) cut: Option<ForeignFilter>,
    /// Connection tracking takes up a connection in its midst (`net.netfilter.nf_conntrack_tcp_loose`).
    pub(crate) is_picked_up: bool,
}

/// So many connections have no entry, of those that were looked up.
pub(crate) fn lost_entries((missing, looked): (u32, u32), of: &LostEntries) -> Finding {
    let LostEntries { engine, cut, is_picked_up } = of;
    let many = format!(
        "{missing} of {looked} established connections that were looked up have no entry in connection tracking"
    );
    let (why, cure) = match engine {
        Engine::Redirect => (
            "as after `conntrack -F`",
            "delete single entries (`conntrack -D`), or set engine = \"tproxy\", which needs none",
        ),
        Engine::Tproxy => (
            "as those that began before a stateful firewall was loaded, or after `conntrack -F`",
            "load the firewall before the cluster is started",
        ),
    };
    let (what, cure) = match cut {
        Some(rule) => (
            format!("{many} ({why}): {rule} drops what comes in them"),
            format!("{}; {cure}", let_in(rule, *engine == Engine::Redirect && *is_picked_up)),
        ),
        None if *is_picked_up => (
            format!(
                "{many} ({why}): each ends with what its server sends next, after a reload also with what its client sends"
            ),
            cure.to_owned(),
        ),
        None => {
            (format!("{many} ({why}): each ends with what either side sends next"), cure.to_owned())
        }
    };
    let finding = Finding::new(FindingSeverity::Warning, FindingKind::LostEntries, what, cure);
    match cut {
        Some(rule) => finding.of(rule.listener).about(place_of_filter(rule)),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_depends_on_whether_they_are_taken_up_in_their_midst() {
        let said = |is_picked_up| {
            lost_entries((3, 4), &LostEntries { is_picked_up, ..LostEntries::default() })
                .to_string()
        };
        assert_eq!(
            said(true),
            "3 of 4 established connections that were looked up have no entry in connection tracking (as after \
             `conntrack -F`): each ends with what its server sends next, after a reload also with what its client \
             sends; delete single entries (`conntrack -D`), or set engine = \"tproxy\", which needs none"
        );
        assert!(said(false).contains("with what either side sends next"));
    }
}
