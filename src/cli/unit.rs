//! `ipcluster unit`: a systemd unit for the configuration at hand.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Config, OnExit, ResourceLimit};
use crate::master::needed_capabilities;
use crate::process::effective_uid;

use super::args::UnitArgs;
use super::{Failed, configure, output};

/// Prints the unit, for a cluster with its control socket in this directory if one is given. Touches nothing.
pub(super) fn run(args: &UnitArgs, runtime_dir: Option<&Path>) -> Result<(), Failed> {
    let config = configure::config(&args.run)?;
    let failed = |error| Failed::new(format!("cannot tell what this program is: {error}"));
    let directory = std::env::current_dir().map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| text_of(&word)).collect::<Result<_, _>>()?;
    let runtime_dir = runtime_dir.map(|path| text_of(path.as_os_str())).transpose()?;
    let user = match (&args.run_as, effective_uid()) {
        (Some(user), _) => Some(user.clone()),
        (None, 0) => None,
        (None, uid) => Some(uid.to_string()),
    };
    let unit = Unit {
        config: &config,
        program: text_of(program.as_os_str())?,
        arguments: run_arguments(&words, &directory, config.name().as_str(), args),
        runtime_dir: runtime_dir.map(|path| absolute(&directory, &path)),
        directory: text_of(directory.as_os_str())?,
        user: user.filter(|user| user != "root" && user != "0"),
        notify_reload: args.notify_reload.unwrap_or_else(has_notify_reload),
    };
    output::answer(&unit.to_string())
}

fn text_of(word: &OsStr) -> Result<String, Failed> {
    let text = word.to_str().filter(|text| !text.chars().any(char::is_control));
    text.map(str::to_owned).ok_or_else(|| {
        Failed::new(format!("{}: a unit cannot hold this", Path::new(word).display()))
            .hint("put it into a file, and give that with -c")
    })
}

/// The arguments with which `run` starts the same cluster: those that were given to `unit`, with the path of
/// the file made absolute, and the name; but for the directory of control sockets, which all commands of the unit
/// get from its environment. Pure.
fn run_arguments(words: &[String], directory: &Path, name: &str, args: &UnitArgs) -> Vec<String> {
    let mut arguments = vec!["run".to_owned()];
    let mut words = words.iter();
    while let Some(word) = words.next()
        && word != "unit"
    {
        if word == "--runtime-dir" {
            words.next();
        }
    }
    let mut has_name = false;
    while let Some(word) = words.next() {
        match word.as_str() {
            // From here on it is the command of workers.
            "--" => {
                add_name(&mut arguments, name, has_name);
                arguments.push(word.clone());
                arguments.extend(words.cloned());
                return arguments;
            }
            it if it.split('=').next() == Some("--notify-reload") => {}
            "--run-as" | "--runtime-dir" => drop(words.next()),
            it if it.starts_with("--run-as=") || it.starts_with("--runtime-dir=") => {}
            it => {
                has_name |= it == "--name" || it.starts_with("--name=");
                let is_file = |path: &Path| args.run.config.as_deref() == Some(path);
                let (flag, value) = it.split_once('=').unwrap_or(("", it));
                match is_file(Path::new(value)) {
                    true if flag.is_empty() => arguments.push(absolute(directory, value)),
                    true => arguments.push(format!("{flag}={}", absolute(directory, value))),
                    false => arguments.push(word.clone()),
                }
            }
        }
    }
    add_name(&mut arguments, name, has_name);
    arguments
}

/// Names the cluster, so that the unit is of this one whatever the file says later.
fn add_name(arguments: &mut Vec<String>, name: &str, has_name: bool) {
    if !has_name {
        arguments.extend(["--name".to_owned(), name.to_owned()]);
    }
}

fn absolute(directory: &Path, path: &str) -> String {
    let joined: PathBuf = directory.join(path).components().collect();
    joined.to_string_lossy().into_owned()
}

/// systemd sends a signal first, and then runs `ExecReload=`, whose exit status is that of `systemctl reload`; it
/// waits for both, and for the master to say that the reload has ended (`service_enter_reload`, src/core/service.c).
/// SIGHUP would begin a second reload.
const NOTIFY_RELOAD: &str = "Type=notify-reload
# The command begins the reload and tells what came of it; this signal changes nothing.
ReloadSignal=SIGCONT
";

/// The first version of systemd with `Type=notify-reload`.
const WITH_NOTIFY_RELOAD: u32 = 253;

/// Whether the systemd of this machine has `Type=notify-reload`, by the names of its libraries
/// (`libsystemd-shared-257.so`), which it keeps in a directory of its own.
fn has_notify_reload() -> bool {
    let base = [Path::new("/usr/lib"), Path::new("/usr/lib64"), Path::new("/lib")];
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    // Debian has them below the name of the architecture.
    let below = base.iter().flat_map(|path| entries(path).map(|entry| entry.path()));
    let directories = base.iter().map(|path| path.to_path_buf()).chain(below);
    directories
        .flat_map(|path| entries(&path.join("systemd")).map(|entry| entry.file_name()))
        .filter_map(|name| library_version(name.to_str()?))
        .any(|version| version >= WITH_NOTIFY_RELOAD)
}

/// The version of systemd that a library of this name is of. Pure.
fn library_version(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("libsystemd-shared-")?.strip_suffix(".so")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A unit, as text. Pure.
struct Unit<'a> {
    config: &'a Config,
    program: String,
    arguments: Vec<String>,
    directory: String,
    /// Where control sockets are, if that was told.
    runtime_dir: Option<String>,
    /// Whom the master runs as, if not root.
    user: Option<String>,
    /// Of a type that systemd has from 253 on.
    notify_reload: bool,
}

impl std::fmt::Display for Unit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.config.name();
        let program = word(&self.program);
        let arguments: Vec<String> = self.arguments.iter().map(|it| word(it)).collect();
        writeln!(f, "# Written by `ipcluster unit`: /etc/systemd/system/{name}.service.")?;
        writeln!(
            f,
            "#   systemctl stop     ends the master alone; workers and rules serve on, and the next start"
        )?;
        writeln!(f, "#                      takes them over (on_exit = \"drain\" ends them, too)")?;
        writeln!(f, "#   ipcluster stop {name}   ends all")?;
        writeln!(f, "\n[Unit]\nDescription=ipcluster {name}: sticky load balancing in the kernel")?;
        writeln!(
            f,
            "After=network.target nss-user-lookup.target nftables.service firewalld.service"
        )?;
        writeln!(f, "StartLimitIntervalSec=10\nStartLimitBurst=5\n\n[Service]")?;
        match self.notify_reload {
            true => f.write_str(NOTIFY_RELOAD)?,
            false => writeln!(f, "Type=notify")?,
        }
        writeln!(f, "ExecReload={program} reload {name}")?;
        writeln!(f, "NotifyAccess=main\nExecStart={program} {}", arguments.join(" "))?;
        writeln!(f, "WorkingDirectory={}", self.directory.replace('%', "%%"))?;
        f.write_str(&self.whom())?;
        f.write_str(&self.times())?;
        writeln!(f, "Restart=on-failure\nRestartSec=100ms\nWatchdogSec=30\nKillMode=process")?;
        writeln!(f, "OOMPolicy=continue")?;
        f.write_str(&self.limits())?;
        writeln!(f, "NoNewPrivileges=yes\n\n[Install]\nWantedBy=multi-user.target")
    }
}

impl Unit<'_> {
    /// The user, the capabilities and the runtime directory.
    fn whom(&self) -> String {
        let needed = needed_capabilities(self.config).to_string();
        let name = self.config.name();
        let mut text = String::new();
        if let Some(user) = &self.user {
            let _ =
                writeln!(text, "User={}\nAmbientCapabilities={needed}", user.replace('%', "%%"));
        }
        let _ = writeln!(text, "CapabilityBoundingSet={needed} CAP_SETPCAP");
        if let Some(path) = &self.runtime_dir {
            // It is its owner's to make and to keep.
            let variable = quoted(&format!("IPCLUSTER_RUNTIME_DIR={path}").replace('%', "%%"));
            return text + "Environment=" + &variable + "\n";
        }
        let mode = if self.config.control_group().is_some() { "0750" } else { "0700" };
        let directory = match &self.user {
            // systemd gives the directory to the unit's user: each has one of its own.
            Some(_) => format!("ipcluster-{name}"),
            None => "ipcluster".to_owned(),
        };
        if self.user.is_some() {
            let _ = writeln!(text, "Environment=IPCLUSTER_RUNTIME_DIR=/run/{directory}");
        }
        let _ = writeln!(text, "RuntimeDirectory={directory}\nRuntimeDirectoryMode={mode}");
        text + "RuntimeDirectoryPreserve=yes\n"
    }

    /// A start, and a reload, take as long as workers may need, with the probation and the hooks.
    fn times(&self) -> String {
        let config = self.config;
        let hook = match config.worker_texts().before_reload.is_empty() {
            true => Duration::ZERO,
            false => config.hook_timeout().unwrap_or(Duration::from_secs(3600)),
        };
        let reload = config.ready_timeout() + config.rollout_probation() + hook;
        let start = (reload + Duration::from_secs(30)).max(Duration::from_secs(120));
        let stop = match config.on_exit() {
            OnExit::Drain => "infinity",
            _ => "10",
        };
        format!("TimeoutStartSec={}\nTimeoutStopSec={stop}\n", start.as_secs())
    }

    /// Workers get what is configured, for which the master needs as much.
    fn limits(&self) -> String {
        let config = self.config;
        let hard = |limit: Option<ResourceLimit>| limit.map(|limit| limit.hard);
        // Two descriptors a worker, and its soft limit stays for the workers.
        let own = 4096 + 8 * u64::from(config.workers());
        let nofile =
            hard(config.limit_nofile()).map(|hard| hard.map_or(u64::MAX, |it| it.max(own)));
        let nofile = match nofile.unwrap_or(own.max(65_536)) {
            u64::MAX => "infinity".to_owned(),
            limit => limit.to_string(),
        };
        let mut text = format!("LimitNOFILE=1024:{nofile}\nLimitNICE=+0\n");
        for (key, limit) in
            [("LimitCORE", config.limit_core()), ("LimitMEMLOCK", config.limit_memlock())]
        {
            if let Some(hard) = hard(limit) {
                let limit = hard.map_or("infinity".to_owned(), |limit| limit.to_string());
                let _ = writeln!(text, "{key}={limit}");
            }
        }
        text
    }
}

/// A word of a command line as systemd reads it (systemd.service(5), "Command lines"): `%` and `$` stand for
/// themselves. Pure.
fn word(text: &str) -> String {
    quoted(&text.replace('%', "%%").replace('$', "$$"))
}

/// A word in quotes where it needs them. Pure.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,$[]{}*!#?&|<>()~^".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Verb};

    fn unit(words: &[&str], user: Option<&str>) -> String {
        let all = ["ipcluster", "unit"].iter().chain(words);
        let Arguments { verb: Verb::Unit(args), runtime_dir } =
            Arguments::try_parse_from(all).unwrap()
        else {
            panic!()
        };
        let config = configure::config(&args.run).unwrap();
        let words: Vec<String> = ["unit"].iter().chain(words).map(ToString::to_string).collect();
        let directory = Path::new("/srv/web");
        Unit {
            config: &config,
            program: "/usr/bin/ipcluster".to_owned(),
            arguments: run_arguments(&words, directory, config.name().as_str(), &args),
            directory: "/srv/web".to_owned(),
            runtime_dir: runtime_dir.map(|path| absolute(directory, path.to_str().unwrap())),
            user: user.map(str::to_owned),
            notify_reload: args.notify_reload.unwrap_or(false),
        }
        .to_string()
    }

    #[test]
    fn a_unit_of_root() {
        let words =
            ["--name", "web", "--listen", "0.0.0.0:80", "--user", "www-data", "--", "sh", "-c"];
        let text = unit(&[&words[..], &["exec node \"a b\" $PORT 5%"]].concat(), None);
        let expected = r#"
[Unit]
Description=ipcluster web: sticky load balancing in the kernel
After=network.target nss-user-lookup.target nftables.service firewalld.service
StartLimitIntervalSec=10
StartLimitBurst=5

[Service]
Type=notify
ExecReload=/usr/bin/ipcluster reload web
NotifyAccess=main
ExecStart=/usr/bin/ipcluster run --name web --listen 0.0.0.0:80 --user www-data -- sh -c "exec node \"a b\" $$PORT 5%%"
WorkingDirectory=/srv/web
CapabilityBoundingSet=CAP_KILL CAP_SETGID CAP_SETUID CAP_NET_ADMIN CAP_SETPCAP
RuntimeDirectory=ipcluster
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
TimeoutStartSec=120
TimeoutStopSec=10
Restart=on-failure
RestartSec=100ms
WatchdogSec=30
KillMode=process
OOMPolicy=continue
LimitNOFILE=1024:65536
LimitNICE=+0
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
"#;
        let (_, body) = text.split_once("ends all\n").unwrap();
        assert_eq!(body, expected);
    }

    #[test]
    fn a_unit_of_another_user_has_its_own_directory_and_what_it_needs() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("app.toml");
        let config = "listen = [\"0.0.0.0:80\"]\ncommand = [\"server\"]\nname = \"app\"\n\
                      on_exit = \"drain\"\ncontrol_group = \"deploy\"\n[limits]\nnofile = \"100000\"\n\
                      [http]\nlisten = \"127.0.0.1:99\"\n";
        std::fs::write(&file, config).unwrap();
        let file = file.to_str().unwrap();
        let text = unit(&["-c", file, "--notify-reload", "--run-as", "app"], Some("app"));
        for line in [
            "Type=notify-reload".to_owned(),
            format!("ExecStart=/usr/bin/ipcluster run -c {file} --name app"),
            "User=app".to_owned(),
            "RuntimeDirectory=ipcluster-app".to_owned(),
            "RuntimeDirectoryMode=0750".to_owned(),
            "Environment=IPCLUSTER_RUNTIME_DIR=/run/ipcluster-app".to_owned(),
            "TimeoutStopSec=infinity".to_owned(),
            "LimitNOFILE=1024:100000".to_owned(),
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(
            text.contains("\nReloadSignal=SIGCONT\nExecReload=/usr/bin/ipcluster reload app\n"),
            "{text}"
        );
        let without = unit(&["-c", file, "--notify-reload=no"], None);
        assert!(without.contains("\nType=notify\nExecReload="), "{without}");
        assert!(!without.contains("notify-reload"), "{without}");
        let ambient = text.lines().find(|it| it.starts_with("AmbientCapabilities=")).unwrap();
        assert!(ambient.contains("CAP_NET_BIND_SERVICE"), "{ambient}");
    }

    #[test]
    fn all_commands_of_a_unit_have_the_directory_that_was_told() {
        let text = unit(
            &["--runtime-dir", "a 5%", "--name", "web", "--listen", "0.0.0.0:80", "--", "server"],
            Some("app"),
        );
        let has = |line: &str| text.lines().any(|it| it == line);
        assert!(has("Environment=\"IPCLUSTER_RUNTIME_DIR=/srv/web/a 5%%\""), "{text}");
        let start = "ExecStart=/usr/bin/ipcluster run --name web --listen 0.0.0.0:80 -- server";
        assert!(has(start) && !text.contains("RuntimeDirectory="), "{text}");
    }

    #[test]
    fn the_version_of_systemd_is_in_the_name_of_its_library() {
        for (name, version) in [
            ("libsystemd-shared-252.so", Some(252)),
            ("libsystemd-shared-257.so", Some(257)),
            ("libsystemd-shared-254.5-2.fc39.so", Some(254)),
            ("libsystemd-shared-256~rc1.so", Some(256)),
            ("libsystemd-core-254.so", None),
            ("libsystemd-shared-.so", None),
            ("libsystemd-shared-254", None),
        ] {
            assert_eq!(library_version(name), version, "{name}");
        }
    }

    #[test]
    fn words_are_read_by_systemd_as_they_are() {
        for (text, expected) in [
            ("a", "a"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%", "100%%"),
            ("${PORT}", "$${PORT}"),
            (r#"a "b" \c"#, r#""a \"b\" \\c""#),
            ("it's", "\"it's\""),
            (";", "\";\""),
        ] {
            assert_eq!(word(text), expected);
        }
    }

    #[test]
    fn a_relative_file_becomes_absolute_and_the_name_is_given() {
        let words = ["unit", "--config=web.toml", "--run-as=www", "--workers", "2"];
        let words = words.map(str::to_owned);
        let all = std::iter::once("ipcluster".to_owned()).chain(words.clone());
        let Verb::Unit(args) = Arguments::try_parse_from(all).unwrap().verb else { panic!() };
        let arguments = run_arguments(&words, Path::new("/etc/ipcluster"), "web", &args);
        let expected =
            ["run", "--config=/etc/ipcluster/web.toml", "--workers", "2", "--name", "web"];
        assert_eq!(arguments, expected);
        // The flag of all verbs may stand before the verb, and its value be like one.
        let words = [&["--runtime-dir".to_owned(), "unit".to_owned()], &words[..]].concat();
        assert_eq!(run_arguments(&words, Path::new("/etc/ipcluster"), "web", &args), expected);
    }
}
