//! What a master may do, and why.

use crate::config::Config;
use crate::process::Capabilities;

/// Ports below this are for those with `CAP_NET_BIND_SERVICE`, unless
/// `net.ipv4.ip_unprivileged_port_start` says less.
const UNPRIVILEGED_PORT: u16 = 1024;

/// The capabilities that a master with this configuration needs, from its start to its end:
///
/// | capability | for |
/// |---|---|
/// | `CAP_NET_ADMIN` | rules and connection tracking: always |
/// | `CAP_SETUID`, `CAP_SETGID`, `CAP_KILL` | with `user` or `group`: to start workers as somebody else, to look at their sockets in that user's name, and to signal them |
/// | `CAP_SETGID` | with `control_group`: to make the control socket one of that group |
/// | `CAP_NET_BIND_SERVICE` | with `http.listen` on a port below 1,024 |
///
/// None to look into processes of others (`CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`), which are all but
/// root: a worker has no capability, so its own user may look at it, and that the master can be
/// for a moment. None to pass over file permissions either: a master that runs as root reads and runs
/// what root owns, or what anybody may.
pub fn needed_capabilities(config: &Config) -> Capabilities {
    let mut needed = Capabilities::NET_ADMIN;
    if config.user().is_some() || config.group().is_some() {
        needed = needed.with(Capabilities::OTHER_USERS);
    }
    if config.control_group().is_some() {
        needed = needed.with(Capabilities::OTHER_GROUPS);
    }
    if config.http_listen().is_some_and(|address| address.port() < UNPRIVILEGED_PORT) {
        needed = needed.with(Capabilities::NET_BIND_SERVICE);
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WorkerCommand;

    fn needed_for_control_group(control_group: &str) -> String {
        let builder = Config::builder()
            .listen(vec!["0.0.0.0:80".parse().unwrap()])
            .command(WorkerCommand::new("server"))
            .control_group(Some(control_group.to_owned()));
        needed_capabilities(&builder.build().unwrap()).to_string()
    }

    fn needed(user: &str, group: &str, http: &str) -> String {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let builder = Config::builder()
            .listen(vec!["0.0.0.0:80".parse().unwrap()])
            .command(WorkerCommand::new("server"))
            .user(given(user))
            .group(given(group))
            .http_listen(given(http).map(|address| address.parse().unwrap()));
        needed_capabilities(&builder.build().unwrap()).to_string()
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
