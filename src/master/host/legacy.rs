//! Tables of iptables-legacy, of which nf_tables says nothing.

use std::fs;

/// Where the kernel lists the tables that are in use in this network namespace, and the program that shows
/// what is in them.
const LISTS: [(&str, &str); 2] = [
    ("/proc/net/ip_tables_names", "iptables-legacy"),
    ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
];

/// The tables that connections to this host pass, each with the program that shows it.
pub(super) fn unread_tables() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (path, program) in LISTS {
        // Absent without that module: then there are none.
        let names = fs::read_to_string(path).unwrap_or_default();
        found.extend(names.lines().map(|name| (program, name.to_owned())));
    }
    found
}
