//! The signals that a worker was started with, as it carries them in its environment: a master that adopts
//! it after a crash sends it no signal that is meant for another program. Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::process::Leader;
use crate::protocol::{EndSignals, KillMode};

/// The name of the stop signal.
const STOP: &str = "IPCLUSTER_STOP_SIGNAL";

/// The name of the retire signal; there is none without it.
const RETIRE: &str = "IPCLUSTER_RETIRE_SIGNAL";

/// `group`, `mixed` or `process`.
const KILL_MODE: &str = "IPCLUSTER_KILL_MODE";

/// Adds the variables that tell a worker which signals it will get.
pub(crate) fn set_variables(signals: EndSignals, environment: &mut BTreeMap<OsString, OsString>) {
    let EndSignals { stop, retire, kill_mode } = signals;
    let mut set = |name: &str, value: String| {
        environment.insert(name.into(), value.into());
    };
    set(STOP, stop.to_string());
    if let Some(retire) = retire {
        set(RETIRE, retire.to_string());
    }
    set(KILL_MODE, name_of(kill_mode).to_owned());
}

/// What the environment of a process says of its signals; `None` if nothing that is understood.
pub(crate) fn read_variables(process: &Leader) -> Option<EndSignals> {
    parse(|name| process.variable(name))
}

fn parse<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Option<EndSignals> {
    let mode = variable(KILL_MODE)?;
    let modes = [KillMode::Group, KillMode::Mixed, KillMode::Process];
    Some(EndSignals {
        stop: variable(STOP)?.parse().ok()?,
        retire: variable(RETIRE).map(str::parse).transpose().ok()?,
        kill_mode: modes.into_iter().find(|known| name_of(*known) == mode)?,
    })
}

fn name_of(mode: KillMode) -> &'static str {
    match mode {
        KillMode::Group => "group",
        KillMode::Mixed => "mixed",
        KillMode::Process => "process",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_is_started_with_is_read_again() {
        for (stop, retire, kill_mode) in [
            ("TERM", None, KillMode::Group),
            ("QUIT", Some("WINCH"), KillMode::Mixed),
            ("RTMIN+3", Some("RTMAX-1"), KillMode::Process),
        ] {
            let retire = retire.map(|name| name.parse().unwrap());
            let signals = EndSignals { stop: stop.parse().unwrap(), retire, kill_mode };
            let mut environment = BTreeMap::new();
            set_variables(signals, &mut environment);
            let variable = |name: &str| environment.get(&OsString::from(name))?.to_str();
            assert_eq!(parse(variable), Some(signals));
        }
    }

    #[test]
    fn what_is_missing_or_not_understood_says_nothing() {
        let of = |stop: Option<&'static str>, retire, mode| {
            parse(move |name| match name {
                STOP => stop,
                RETIRE => retire,
                _ => mode,
            })
        };
        assert!(of(Some("SIGTERM"), None, Some("group")).is_some());
        assert_eq!(of(None, None, Some("group")), None);
        assert_eq!(of(Some("SIGTERM"), Some("SIGODD"), Some("group")), None);
        assert_eq!(of(Some("SIGTERM"), None, Some("cgroup")), None);
        assert_eq!(of(Some("SIGTERM"), None, None), None);
    }
}
