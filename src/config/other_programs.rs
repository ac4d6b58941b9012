//! What other programs call a setting: pm2, systemd, supervisor, docker compose, Kubernetes, HAProxy, nginx and
//! gunicorn. Pure.

use super::keys::SETTINGS;
use super::table::{DefaultValue, Setting};

/// Keys, and what else they are called: in small letters, without `_`, `-` and the dot behind a table.
const CALLED: &[(&str, &[&str])] = &[
    ("name", &["containername", "syslogidentifier"]),
    (
        "listen",
        &[
            "port",
            "ports",
            "bind",
            "host",
            "address",
            "addr",
            "ip",
            "expose",
            "listener",
            "listeners",
            "listenaddress",
            "listenport",
            "publicport",
            "listenstream",
            "listendatagram",
        ],
    ),
    (
        "workers",
        &[
            "instances",
            "replicas",
            "processes",
            "procs",
            "numprocs",
            "numworkers",
            "workercount",
            "workerprocesses",
            "scale",
            "count",
            "nbproc",
            "nbthread",
            "concurrency",
        ],
    ),
    (
        "command",
        &[
            "cmd",
            "exec",
            "execstart",
            "entrypoint",
            "script",
            "program",
            "args",
            "arguments",
            "interpreter",
        ],
    ),
    ("directory", &["cwd", "dir", "chdir", "workdir", "workingdir", "workingdirectory"]),
    (
        "partition",
        &["balance", "algorithm", "lbpolicy", "iphash", "sticky", "affinity", "sessionaffinity"],
    ),
    ("weights", &["weight"]),
    ("worker_ports", &["workerport", "portrange"]),
    ("backlog", &["maxconn", "listenbacklog"]),
    (
        "ready",
        &[
            "healthcheck",
            "health",
            "check",
            "probe",
            "readiness",
            "readinessprobe",
            "waitready",
            "httpchk",
        ],
    ),
    ("user", &["uid", "runas"]),
    ("group", &["gid"]),
    ("stop_signal", &["killsignal", "stopsignal"]),
    ("retire_signal", &["retiresignal"]),
    ("kill_mode", &["killmode"]),
    ("env", &["environment", "environ", "envs", "variables", "passenvironment"]),
    ("env_file", &["environmentfile", "envfile", "envfiles", "dotenv"]),
    ("rollout.probation", &["minreadyseconds"]),
    (
        "timeouts.ready",
        &[
            "listentimeout",
            "timeoutstartsec",
            "timeoutsstart",
            "startsecs",
            "starttimeout",
            "startuptimeout",
            "readytimeout",
            "progressdeadlineseconds",
        ],
    ),
    (
        "timeouts.drain",
        &[
            "draintimeout",
            "hardstopafter",
            "workershutdowntimeout",
            "gracefultimeout",
            "shutdowntimeout",
            "stopgraceperiod",
            "terminationgraceperiodseconds",
        ],
    ),
    ("timeouts.die", &["killtimeout", "timeoutstopsec", "timeoutsstop", "stopwaitsecs"]),
    ("timeouts.watchdog", &["watchdogsec"]),
    ("spawn.backoff", &["restart", "restartsec", "restartdelay", "expbackoffrestartdelay"]),
    (
        "spawn.give_up",
        &[
            "maxrestarts",
            "startlimitburst",
            "startlimitinterval",
            "startlimitintervalsec",
            "startretries",
        ],
    ),
    ("retire.rss", &["maxmemoryrestart"]),
    ("retire.max_age", &["cronrestart", "runtimemaxsec"]),
    ("retire.connections", &["maxrequests"]),
    ("retire.jitter", &["maxrequestsjitter"]),
    ("memory.total", &["memorymax", "memorylimit", "memorymaximum", "memlimit"]),
    ("limits.nofile", &["limitnofile", "workerrlimitnofile", "maxopenfiles", "ulimit", "ulimits"]),
    ("limits.core", &["limitcore"]),
    ("limits.memlock", &["limitmemlock"]),
    (
        "output.to",
        &[
            "outputfile",
            "outputpath",
            "stdout",
            "stderr",
            "standardoutput",
            "standarderror",
            "outfile",
            "errorfile",
            "logfile",
            "logging",
            "stdoutlogfile",
            "stderrlogfile",
            "accesslog",
            "errorlog",
        ],
    ),
    ("log.level", &["loglevel", "verbosity", "verbose"]),
    ("log.format", &["logformat"]),
    (
        "http.listen",
        &["httpport", "httpaddress", "httpbind", "stats", "metrics", "metricsport", "prometheus"],
    ),
];

/// The setting that other programs call by the name of this key, which is none here: `workers` by `instances`, and
/// `http.listen` by `http.port`.
pub(crate) fn setting_called(key: &str) -> Option<&'static Setting> {
    let called = reduced(key);
    let (known, _) = CALLED.iter().find(|(_, names)| names.contains(&&*called))?;
    SETTINGS.iter().find(|setting| setting.key == *known)
}

fn reduced(key: &str) -> String {
    key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// A line of the file that gives the setting, where there is a value that says how it is written.
pub(super) fn example(setting: &Setting) -> Option<String> {
    let value = setting.example.or(match setting.default {
        DefaultValue::Is(value) => Some(value).filter(|it| !it.is_empty()),
        DefaultValue::Means(..) | DefaultValue::Required(_) => None,
    })?;
    Some(format!("{} = {}", setting.key, setting.form.toml(value)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    fn hint(line: &str) -> String {
        Config::from_toml(line).unwrap_err().hint().unwrap()
    }

    #[test]
    fn what_other_programs_call_a_setting_is_answered_with_its_key() {
        for (line, meant) in [
            ("instances = 4", "`instances` is called `workers` here"),
            ("replicas = 4", "`replicas` is called `workers` here"),
            (
                "cwd = '/srv'",
                "`cwd` is called `directory` here, such as directory = \"/srv/web/current\"",
            ),
            (
                "cmd = 'server'",
                "`cmd` is called `command` here, such as command = [\"node\", \"server.js\"]",
            ),
            ("port = 80", "`port` is called `listen` here, such as listen = [\"0.0.0.0:80\"]"),
            (
                "http.port = 9180",
                "`http.port` is called `http.listen` here, such as http.listen = \"127.0.0.1:9180\"",
            ),
            (
                "TimeoutStartSec = 9",
                "`TimeoutStartSec` is called `timeouts.ready` here, such as timeouts.ready = \"30s\"",
            ),
        ] {
            assert_eq!(hint(line), meant, "{line}");
        }
        for (line, key) in [
            ("[service]\nEnvironment = 'A=b'", None),
            ("environment = ['A=b']", Some("`env`")),
            ("working_directory = '/srv'", Some("`directory`")),
            ("working-dir = '/srv'", Some("`directory`")),
            ("bind = ':80'", Some("`listen`")),
            ("[timeouts]\nstop = '9s'", Some("`timeouts.die`")),
            ("[fleet]\naddress = ['10.9.0.1']", Some("`fleet.addresses`")),
            ("max_memory_restart = '1G'", Some("`retire.rss`")),
        ] {
            let hint = Config::from_toml(line).unwrap_err().hint();
            assert_eq!(hint.is_some(), key.is_some(), "{line}: {hint:?}");
            assert!(key.is_none_or(|key| hint.unwrap().contains(key)), "{line}");
        }
        assert_eq!(
            hint("[timeouts]\nready = '9s'\ninstances = 4"),
            "`instances` is called `workers` here; it belongs to no table: put it above the first table, since all \
             keys below [timeouts] are of that one"
        );
    }

    #[test]
    fn each_name_is_there_once_and_is_no_key() {
        let mut seen = BTreeSet::new();
        for (key, names) in CALLED {
            assert!(SETTINGS.iter().any(|it| it.key == *key), "{key}");
            for name in *names {
                assert_eq!(reduced(name), *name);
                assert!(seen.insert(name), "{name}");
                let own = SETTINGS.iter().find(|it| it.key == *name);
                assert_eq!(own.map(|it| it.key), None, "{name}");
            }
        }
    }
}
