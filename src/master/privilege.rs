//! What a master may do, and why.

use std::fs;

use crate::config::Config;
use crate::process::Capabilities;

/// The default of `net.ipv4.ip_unprivileged_port_start`.
const UNPRIVILEGED_PORT: u32 = 1024;

/// Ports below this are for those with `CAP_NET_BIND_SERVICE` alone, in the network namespace of this process:
/// `net.ipv4.ip_unprivileged_port_start`, which may be as much as 65,536 (`ip_privileged_port_max`,
/// net/ipv4/sysctl_net_ipv4.c).
pub(crate) fn unprivileged_port_start() -> u32 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(UNPRIVILEGED_PORT)
}

/// The capabilities that a master with this configuration needs, from its start to its end:
///
/// | capability | for |
/// |---|---|
/// | `CAP_NET_ADMIN` | rules and connection tracking: always |
/// | `CAP_SETUID`, `CAP_SETGID`, `CAP_KILL` | with `user` or `group`: to start workers as somebody else, to look at their sockets in that user's name, and to signal them |
/// | `CAP_SETGID` | with `control_group`: to make the control socket one of that group |
/// | `CAP_NET_BIND_SERVICE` | with `http.listen`, or sockets that workers get from the master, on a port below `net.ipv4.ip_unprivileged_port_start` |
///
/// None to look into processes of others (`CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`), which are all but
/// root: a worker has no capability, so its own user may look at it, and that the master can be
/// for a moment. None to pass over file permissions either: a master that runs as root reads and runs
/// what root owns, or what anybody may.
pub fn needed_capabilities(config: &Config) -> Capabilities {
    needed_above(config, unprivileged_port_start())
}

fn needed_above(config: &Config, unprivileged_port: u32) -> Capabilities {
    let mut needed = Capabilities::NET_ADMIN;
    if config.user().is_some() || config.group().is_some() {
        needed = needed.with(Capabilities::OTHER_USERS);
    }
    if config.control_group().is_some() {
        needed = needed.with(Capabilities::OTHER_GROUPS);
    }
    let http = config.http_listen().map(|address| address.port());
    let of_workers = config.worker_ports().first().number();
    let of_workers = config.socket_activation().then_some(of_workers);
    if http.into_iter().chain(of_workers).any(|port| u32::from(port) < unprivileged_port) {
        needed = needed.with(Capabilities::NET_BIND_SERVICE);
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WorkerCommand;

    #[test]
    fn ports_for_the_privileged_alone_cost_a_capability_where_the_master_opens_them() {
        let needed = |socket_activation, start| {
            let builder = Config::builder()
                .listen(vec!["0.0.0.0:80".parse().unwrap()])
                .command(WorkerCommand::new("server"))
                .socket_activation(socket_activation);
            needed_above(&builder.build().unwrap(), start).to_string()
        };
        assert_eq!(needed(true, 20_000), "CAP_NET_ADMIN");
        assert_eq!(needed(true, 20_001), "CAP_NET_BIND_SERVICE CAP_NET_ADMIN");
        assert_eq!(needed(true, 65_536), "CAP_NET_BIND_SERVICE CAP_NET_ADMIN");
        assert_eq!(needed(false, 30_000), "CAP_NET_ADMIN", "workers have no capability");
    }

    fn needed_for_control_group(control_group: &str) -> String {
        let builder = Config::builder()
            .listen(vec!["0.0.0.0:80".parse().unwrap()])
            .command(WorkerCommand::new("server"))
            .control_group(Some(control_group.to_owned()));
        needed_above(&builder.build().unwrap(), UNPRIVILEGED_PORT).to_string()
    }

    fn needed(user: &str, group: &str, http: &str) -> String {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let builder = Config::builder()
            .listen(vec!["0.0.0.0:80".parse().unwrap()])
            .command(WorkerCommand::new("server"))
            .user(given(user))
            .group(given(group))
            .http_listen(given(http).map(|address| address.parse().unwrap()));
        needed_above(&builder.build().unwrap(), UNPRIVILEGED_PORT).to_string()
    }

    #[test]
    fn each_setting_costs_what_it_needs_and_no_more() {
        const USERS: &str = "CAP_KILL CAP_SETGID CAP_SETUID CAP_NET_ADMIN";
        assert_eq!(needed("", "", ""), "CAP_NET_ADMIN");
        assert_eq!(needed("www-data", "", ""), USERS);
        assert_eq!(needed("", "www-data", ""), USERS);
        assert_eq!(needed_for_control_group("deploy"), "CAP_SETGID CAP_NET_ADMIN");
        #[cfg(feature = "http")]
        {
            assert_eq!(needed("", "", "127.0.0.1:9180"), "CAP_NET_ADMIN");
            assert_eq!(needed("", "", "127.0.0.1:81"), "CAP_NET_BIND_SERVICE CAP_NET_ADMIN");
        }
    }
}
