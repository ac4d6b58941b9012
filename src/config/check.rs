//! From settings to a configuration: every value by itself, then together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::readiness::readiness;
use super::{
    Config, ConfigError, Environment, Given, Http, OnExit, Origin, Ownership, Settings, Spawn,
    Timeouts, WorkerCommand, policy, text,
};
use crate::plan::{
    Assignment, Engine, Listener, Listeners, MAX_SEATS, Partition, PlanError, Port, PortRange,
    Weights,
};
use crate::protocol::Readiness;

impl Settings {
    /// Makes the configuration of a machine with so many CPUs (the default for `workers`).
    ///
    /// # Errors
    /// A [`ConfigError`] for the first value at fault, in the order of the table in
    /// [`crate::config`].
    pub fn check(self, cpus: usize) -> Result<Config, ConfigError> {
        let name = or_default(self.name, Config::DEFAULT_NAME.to_owned());
        let name = name.value.parse().map_err(plan_error(&name.origin, "name"))?;
        let listeners = listeners(self.listen)?;
        let workers = workers(self.workers, cpus)?;
        let command = command(self.command)?;
        let partition_kind = or_default(self.partition, "hash".to_owned());
        let partition = partition(&partition_kind, self.slots.as_ref(), &workers)?;
        let shares = or_default(self.weights, Vec::new());
        let weights = weights(&shares, workers.value)?;
        Assignment::new(&partition, &weights, None).map_err(|source| {
            let key = partition_error_key(&source);
            let origin = match key {
                "weights" => shares.origin.clone(),
                "slots" => self.slots.map_or(Origin::Default, |slots| slots.origin),
                _ => workers.origin.clone(),
            };
            ConfigError::Plan { origin, key, source }
        })?;
        let range = or_default(self.worker_ports, PortRange::default().to_string());
        let worker_ports = range.value.parse().map_err(|reason: &str| {
            value_error(&range.origin, "worker_ports", format!("{}: {reason}", quote(&range.value)))
        })?;
        let engine = or_default(self.engine, Engine::default().to_string());
        let kind: Engine = engine.value.parse().map_err(|expected: &str| {
            value_error(&engine.origin, "engine", format!("{}: {expected}", quote(&engine.value)))
        })?;
        let stride = kind.port_stride(&listeners);
        check_worker_ports(worker_ports, &range.origin, workers.value, &listeners, stride)?;
        let activation = or_default(self.socket_activation, kind == Engine::Tproxy);
        let socket_activation = activation.value;
        if kind == Engine::Tproxy && !socket_activation {
            let reason = "false: with engine = \"tproxy\" only the master can open the sockets of \
                          workers: remove it, or use the engine \"redirect\"";
            return Err(value_error(&activation.origin, "socket_activation", reason.to_owned()));
        }
        let backlog = backlog(self.backlog, socket_activation)?;
        let http = http(self.http_listen, &listeners, worker_ports)?;
        let ready = readiness(or_default(self.ready, "tcp".to_owned()), &listeners)?;
        if socket_activation && ready == Readiness::Protocol {
            let (key, origin) = match kind {
                Engine::Redirect => ("socket_activation", &activation.origin),
                Engine::Tproxy => ("engine", &engine.origin),
            };
            let value = if kind == Engine::Tproxy { "\"tproxy\"" } else { "true" };
            let reason = format!(
                "{value}: workers with ready = \"protocol\" open their sockets themselves: choose \
                 one of both"
            );
            return Err(value_error(origin, key, reason));
        }
        let drain =
            Some(time(self.drain_timeout, "0", "timeouts.drain")?).filter(|limit| !limit.is_zero());
        let rollback = kept(self.rollback_timeout, drain)?;
        Ok(Config {
            name,
            listeners,
            workers: workers.value,
            command,
            partition,
            weights,
            worker_ports,
            socket_activation,
            backlog,
            engine: kind,
            local_clients: or_default(self.local_clients, false).value,
            ready,
            ownership: ownership(or_default(self.ownership, "auto".to_owned()))?,
            user: account(self.user, "user")?,
            group: account(self.group, "group")?,
            on_exit: on_exit(or_default(self.on_exit, "leave".to_owned()))?,
            env: environment(self.env.unwrap_or_default())?,
            timeouts: Timeouts {
                ready: nonzero(self.ready_timeout, "30s", "timeouts.ready")?,
                drain,
                rollback,
                die: time(self.die_timeout, "5s", "timeouts.die")?,
                ping: limit(self.ping_timeout, "10s", "timeouts.ping", LEAST_PING)?,
                watchdog: limit(self.watchdog_timeout, "0", "timeouts.watchdog", LEAST_WATCHDOG)?,
            },
            spawn: Spawn {
                stagger: time(self.spawn_stagger, "100ms", "spawn.stagger")?,
                backoff: text_value(self.spawn_backoff, "1s..30s", "spawn.backoff", text::backoff)?,
                give_up: policy::give_up(self.spawn_give_up)?,
            },
            socket: socket(self.socket)?,
            http,
            retire: policy::retire(policy::RetireGiven {
                rss: self.retire_rss,
                rate: self.retire_rate,
                window: self.retire_window,
                renice: self.retire_renice,
                max_age: self.retire_max_age,
                lag: self.retire_lag,
            })?,
            memory: policy::memory(policy::MemoryGiven {
                total: self.memory_total,
                low: self.memory_low,
                high: self.memory_high,
                order: self.memory_order,
            })?,
            kill_old: or_default(self.kill_old, false).value,
            output: text_value(self.output_to, "stdout", "output.to", text::output)?,
            shares: shares.value,
        })
    }
}

/// The least `timeouts.ping`: workers are looked at a few times within it.
const LEAST_PING: (Duration, &str) = (Duration::from_secs(1), "1s");

/// The least `timeouts.watchdog`: it is looked at ten times a second.
const LEAST_WATCHDOG: (Duration, &str) = (Duration::from_millis(100), "100ms");

fn listeners(given: Option<Vec<Given<String>>>) -> Result<Listeners, ConfigError> {
    let given = given.filter(|given| !given.is_empty()).ok_or(ConfigError::Missing {
        key: "listen",
        how: "give at least one, such as --listen 0.0.0.0:80, or listen = [\"0.0.0.0:80\"] in the file",
    })?;
    let read = |text: &Given<String>| -> Result<Listener, ConfigError> {
        text.value.parse().map_err(plan_error(&text.origin, "listen"))
    };
    let all = given.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Listeners::new(all.clone()).map_err(|source| {
        // Of a listener that is given twice the second one is at fault.
        let culprit = match &source {
            PlanError::DuplicateListener { listener } => all.iter().rposition(|l| l == listener),
            _ => None,
        };
        plan_error(&given[culprit.unwrap_or(0)].origin, "listen")(source)
    })
}

fn workers(given: Option<Given<i64>>, cpus: usize) -> Result<Given<u16>, ConfigError> {
    let Some(Given { value, origin }) = given else {
        let cpus = u16::try_from(cpus).unwrap_or(MAX_SEATS).clamp(1, MAX_SEATS);
        return Ok(Given { value: cpus, origin: Origin::Default });
    };
    match u16::try_from(value).ok().filter(|workers| (1..=MAX_SEATS).contains(workers)) {
        Some(value) => Ok(Given { value, origin }),
        None => Err(value_error(&origin, "workers", format!("{value}: expected 1 to {MAX_SEATS}"))),
    }
}

/// The longest argument that execve(2) takes, its NUL included: `MAX_ARG_STRLEN`, 32 pages.
const MAX_ARGUMENT: usize = 32 * 4096;

fn command(given: Option<Given<Vec<String>>>) -> Result<WorkerCommand, ConfigError> {
    let missing = ConfigError::Missing {
        key: "command",
        how: "give what each worker runs, after --, or command = [\"program\", ...] in the file",
    };
    let Given { value, origin } = given.ok_or(missing.clone())?;
    let refused = |reason: &str| Err(value_error(&origin, "command", reason.to_owned()));
    if value.iter().any(|part| part.contains('\0')) {
        return refused("an argument contains a NUL, which no program can get");
    }
    if value.iter().any(|part| part.len() >= MAX_ARGUMENT) {
        return refused(
            "an argument is longer than 131071 bytes, the most that the kernel passes on",
        );
    }
    let mut parts = value.into_iter();
    match parts.next() {
        None => Err(missing),
        Some(program) if program.is_empty() => refused("the program is empty"),
        Some(program) => Ok(WorkerCommand { program, arguments: parts.collect() }),
    }
}

fn partition(
    kind: &Given<String>,
    slots: Option<&Given<i64>>,
    workers: &Given<u16>,
) -> Result<Partition, ConfigError> {
    match (kind.value.as_str(), slots) {
        ("hash", None) => {
            Partition::hash(Partition::DEFAULT_SLOTS).map_err(plan_error(&Origin::Default, "slots"))
        }
        ("hash", Some(Given { value, origin })) => match u32::try_from(*value) {
            Ok(slots) => Partition::hash(slots).map_err(plan_error(origin, "slots")),
            Err(_) => Err(value_error(
                origin,
                "slots",
                format!("{value}: expected 1 to {}", Partition::MAX_SLOTS),
            )),
        },
        ("mask", None) => Partition::mask(u32::from(workers.value))
            .map_err(plan_error(&workers.origin, "workers")),
        ("mask", Some(slots)) => Err(value_error(
            &slots.origin,
            "slots",
            "the mask partition has one slot for each worker: remove it, or use the hash partition"
                .to_owned(),
        )),
        (other, _) => Err(value_error(
            &kind.origin,
            "partition",
            format!("{}: expected hash or mask", quote(other)),
        )),
    }
}

fn weights(shares: &Given<Vec<f64>>, workers: u16) -> Result<Weights, ConfigError> {
    let workers = usize::from(workers);
    let weights = match shares.value.len() {
        0 => Weights::equal(workers),
        count if count == workers => Weights::new(&shares.value),
        count => {
            let reason = format!("{count} for {workers} workers: expected one for each worker");
            return Err(value_error(&shares.origin, "weights", reason));
        }
    };
    weights.map_err(plan_error(&shares.origin, "weights"))
}

/// The key whose value makes it impossible to assign the slots.
pub(super) fn partition_error_key(error: &PlanError) -> &'static str {
    match error {
        PlanError::MaskWeights | PlanError::Weight { .. } | PlanError::WeightsAllZero => "weights",
        PlanError::FewerSlotsThanWorkers { .. } | PlanError::SlotCount { .. } => "slots",
        _ => "workers",
    }
}

/// Checks that no worker port is public, and that there are enough of them.
pub(super) fn check_worker_ports(
    range: PortRange,
    origin: &Origin,
    workers: u16,
    listeners: &Listeners,
    stride: Option<u16>,
) -> Result<(), ConfigError> {
    let public = listeners.public_ports();
    if let Some(port) = public.iter().find(|port| range.contains(**port)) {
        let reason = format!(
            "{range} contains the public port {port}, which other hosts could not reach then: expected a range without it"
        );
        return Err(value_error(origin, "worker_ports", reason));
    }
    // Where worker ports tell their places, as many are left out as there are rests without a place.
    let places = stride.map_or(public.len(), usize::from);
    let needed = PortRange::needed(workers, places);
    if range.count() < needed {
        let reason = format!(
            "{range} has {} ports: expected at least {needed}, for {workers} workers with {} public ports each in {} generations",
            range.count(),
            public.len(),
            PortRange::GENERATIONS,
        );
        return Err(value_error(origin, "worker_ports", reason));
    }
    Ok(())
}

/// The longest queue that can be asked for: far more than a worker can have waiting for it.
const MOST_BACKLOG: u32 = 65_535;

fn backlog(given: Option<Given<i64>>, socket_activation: bool) -> Result<u32, ConfigError> {
    let Some(Given { value, origin }) = given else { return Ok(Config::DEFAULT_BACKLOG) };
    let refused = |reason| Err(value_error(&origin, "backlog", reason));
    match u32::try_from(value).ok().filter(|value| (1..=MOST_BACKLOG).contains(value)) {
        None => refused(format!("{value}: expected 1 to {MOST_BACKLOG}")),
        Some(_) if !socket_activation => refused(
            "it is for sockets that the master opens: set socket_activation = true \
             (--socket-activation), or remove it"
                .to_owned(),
        ),
        Some(value) => Ok(value),
    }
}

/// Whether this build has the server.
const HAS_HTTP: bool = cfg!(feature = "http");

fn http(
    given: Option<Given<String>>,
    listeners: &Listeners,
    worker_ports: PortRange,
) -> Result<Http, ConfigError> {
    let Some(given) = given.filter(|given| !given.value.is_empty()) else {
        return Ok(Http::default());
    };
    let refused = |reason: &str| Err(value_error(&given.origin, "http.listen", reason.to_owned()));
    let Ok(address) = given.value.parse::<SocketAddr>() else {
        let text = quote(&given.value);
        return refused(&format!("{text}: expected ADDR:PORT, such as 127.0.0.1:9180"));
    };
    let port = address.port();
    let is_port = |other: &Port| other.number() == port;
    match Port::new(port) {
        None => refused(&format!("{address}: expected a port from 1 to 65535")),
        Some(_) if listeners.public_ports().iter().any(is_port) => {
            refused(&format!("port {port} is a public port of the cluster: expected another"))
        }
        Some(port) if worker_ports.contains(port) => refused(&format!(
            "port {port} is among the worker ports {worker_ports}: expected another"
        )),
        Some(_) if !HAS_HTTP => {
            refused("this build has no HTTP server: it needs the feature `http`")
        }
        Some(_) => Ok(Http { listen: Some(address) }),
    }
}

/// A time that is 0, for never, or at least so long.
fn limit(
    given: Option<Given<String>>,
    default: &str,
    key: &'static str,
    (least, shown): (Duration, &str),
) -> Result<Option<Duration>, ConfigError> {
    text_value(given, default, key, |text| match text::duration(text)? {
        Duration::ZERO => Ok(None),
        time if time < least => Err(format!("{text}: expected 0 or at least {shown}")),
        time => Ok(Some(time)),
    })
}

/// The longest path of a Unix socket, in bytes: `sun_path` has 108 (unix(7)), one of them for the NUL.
const MAX_SOCKET_PATH: usize = 107;

fn socket(given: Option<Given<String>>) -> Result<Option<PathBuf>, ConfigError> {
    let Some(given) = given.filter(|given| !given.value.is_empty()) else { return Ok(None) };
    let refused = |reason: &str| {
        Err(value_error(&given.origin, "socket", format!("{}: {reason}", quote(&given.value))))
    };
    let path = PathBuf::from(&given.value);
    match &given.value {
        value if value.contains('\0') => refused("no path contains a NUL"),
        value if value.len() > MAX_SOCKET_PATH => {
            refused("expected at most 107 bytes, which fit into the address of a Unix socket")
        }
        _ if !path.is_absolute() => refused("expected an absolute path"),
        _ if path.file_name().is_none() => refused("expected the path of a file"),
        _ => Ok(Some(path)),
    }
}

fn ownership(given: Given<String>) -> Result<Ownership, ConfigError> {
    match given.value.as_str() {
        "auto" => Ok(Ownership::Auto),
        "owned" => Ok(Ownership::Owned),
        "shared" => Ok(Ownership::Shared),
        other => Err(value_error(
            &given.origin,
            "ownership",
            format!("{}: expected auto, owned or shared", quote(other)),
        )),
    }
}

/// A name or number of a user or group. Only the master can look it up; this is what none can be.
fn account(given: Option<Given<String>>, key: &'static str) -> Result<Option<String>, ConfigError> {
    let Some(given) = given.filter(|given| !given.value.is_empty()) else { return Ok(None) };
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/' | ',');
    // As long as the longest that the kernel and the C library take (LOGIN_NAME_MAX).
    if given.value.contains(is_odd) || given.value.len() > 255 {
        let text = quote(&given.value);
        let reason = format!("{text}: expected the name or number of a {key}");
        return Err(value_error(&given.origin, key, reason));
    }
    Ok(Some(given.value))
}

fn on_exit(given: Given<String>) -> Result<OnExit, ConfigError> {
    match given.value.as_str() {
        "leave" => Ok(OnExit::Leave),
        "drain" => Ok(OnExit::Drain),
        other => Err(value_error(
            &given.origin,
            "on_exit",
            format!("{}: expected leave or drain", quote(other)),
        )),
    }
}

fn environment(entries: Vec<Given<String>>) -> Result<Environment, ConfigError> {
    let mut environment = Environment::default();
    for Given { value, origin } in entries {
        environment.add(&value).map_err(|reason| {
            // Not the value: it may be a secret.
            let key = value.split('=').next().unwrap_or_default();
            value_error(&origin, "env", format!("{} {reason}", quote(key)))
        })?;
    }
    Ok(environment)
}

pub(super) fn time(
    given: Option<Given<String>>,
    default: &str,
    key: &'static str,
) -> Result<Duration, ConfigError> {
    text_value(given, default, key, text::duration)
}

/// For how long workers are kept for a rollback: not for longer than they may drain.
fn kept(given: Option<Given<String>>, drain: Option<Duration>) -> Result<Duration, ConfigError> {
    text_value(given, "0", "timeouts.rollback", |text| match text::duration(text)? {
        time if drain.is_some_and(|limit| time > limit) => Err(format!(
            "{text}: expected at most timeouts.drain, at which retired workers end whatever they do"
        )),
        time => Ok(time),
    })
}

fn nonzero(
    given: Option<Given<String>>,
    default: &str,
    key: &'static str,
) -> Result<Duration, ConfigError> {
    text_value(given, default, key, |text| match text::duration(text)? {
        Duration::ZERO => Err("0: expected more than 0".to_owned()),
        time => Ok(time),
    })
}

pub(super) fn text_value<T>(
    given: Option<Given<String>>,
    default: &str,
    key: &'static str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    let given = or_default(given, default.to_owned());
    read(&given.value).map_err(|reason| value_error(&given.origin, key, reason))
}

pub(super) fn or_default<T>(given: Option<Given<T>>, default: T) -> Given<T> {
    given.unwrap_or(Given { value: default, origin: Origin::Default })
}

fn plan_error(origin: &Origin, key: &'static str) -> impl FnOnce(PlanError) -> ConfigError {
    let origin = origin.clone();
    move |source| ConfigError::Plan { origin, key, source }
}

pub(super) fn value_error(origin: &Origin, key: &'static str, reason: String) -> ConfigError {
    ConfigError::Value { origin: origin.clone(), key, reason }
}

/// A value of the user's, escaped and cut to what a message can show.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of `--listen 0.0.0.0:80 -- server`.
    fn least() -> Settings {
        Settings {
            listen: Some(vec![Given::by_flag("--listen", "0.0.0.0:80".to_owned())]),
            command: Some(Given::by_flag("--", vec!["server".to_owned()])),
            ..Settings::default()
        }
    }

    fn flag<T>(value: T) -> Option<Given<T>> {
        Some(Given::by_flag("--flag", value))
    }

    fn fault(settings: Settings) -> String {
        settings.check(4).unwrap_err().to_string()
    }

    #[test]
    fn workers_are_not_kept_for_a_rollback_longer_than_they_may_drain() {
        let check = |drain: &str, rollback: &str| {
            let settings = Settings {
                drain_timeout: Some(Given::by_flag("--drain-timeout", drain.to_owned())),
                rollback_timeout: Some(Given::by_flag("--rollback-timeout", rollback.to_owned())),
                ..least()
            };
            settings.check(4).map(|config| config.timeouts.rollback)
        };
        assert_eq!(check("0", "1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(check("10s", "10s"), Ok(Duration::from_secs(10)));
        let expected = "--rollback-timeout: 11s: expected at most timeouts.drain, at which retired \
            workers end whatever they do";
        assert_eq!(check("10s", "11s").unwrap_err().to_string(), expected);
    }

    fn text(text: &str) -> Option<Given<String>> {
        flag(text.to_owned())
    }

    #[test]
    fn the_engine_that_translates_nothing_comes_with_the_sockets_of_the_master() {
        let of = |engine, settings| Settings { engine: text(engine), ..settings }.check(1);
        let config = of("tproxy", least()).unwrap();
        assert_eq!((config.engine, config.socket_activation), (Engine::Tproxy, true));
        let config = of("redirect", least()).unwrap();
        assert_eq!((config.engine, config.socket_activation), (Engine::Redirect, false));
        let opposed = Settings { socket_activation: flag(false), ..least() };
        let error = of("tproxy", opposed).unwrap_err().to_string();
        assert!(error.contains("false: with engine = \"tproxy\" only the master"), "{error}");
        let alone = Settings { ready: text("protocol"), ..least() };
        let error = of("tproxy", alone).unwrap_err().to_string();
        assert!(error.contains("\"tproxy\": workers with ready = \"protocol\""), "{error}");
        let error = of("iptables", least()).unwrap_err().to_string();
        assert!(error.contains("\"iptables\": expected \"redirect\" or \"tproxy\""), "{error}");
    }

    /// Of three places one in four ports is for none.
    #[test]
    fn ports_that_tell_their_places_are_more() {
        let listen = ["0.0.0.0:53/udp", "0.0.0.0:80", "0.0.0.0:443"];
        let settings = |engine| Settings {
            listen: Some(listen.map(|it| Given::by_flag("--listen", it.to_owned())).into()),
            worker_ports: text("20000-20009"),
            workers: flag(1),
            engine: text(engine),
            ..least()
        };
        settings("redirect").check(1).unwrap();
        let error = settings("tproxy").check(1).unwrap_err().to_string();
        assert!(error.contains("20000-20009 has 10 ports: expected at least 12"), "{error}");
    }

    #[test]
    fn what_is_not_given_has_its_documented_default() {
        let config = least().check(6).unwrap();
        assert_eq!((config.name.as_str(), config.workers), ("main", 6));
        assert_eq!(config.partition, Partition::hash(1024).unwrap());
        assert_eq!(config.weights, Weights::equal(6).unwrap());
        assert_eq!(config.worker_ports.to_string(), "20000-29999");
        assert_eq!(config.ready, Readiness::Tcp);
        assert_eq!(config.timeouts.ready, Duration::from_secs(30));
        assert_eq!(config.timeouts.drain, None);
        assert_eq!(config.timeouts.rollback, Duration::ZERO);
        assert_eq!(config.timeouts.die, Duration::from_secs(5));
        assert_eq!(config.timeouts.ping, Some(Duration::from_secs(10)));
        assert_eq!(config.timeouts.watchdog, None);
        assert_eq!(config.spawn.stagger, Duration::from_millis(100));
        assert_eq!(config.spawn.backoff.max, Duration::from_secs(30));
        assert_eq!(config.command.program, "server");
        assert_eq!(config.http.listen, None);
    }

    #[test]
    fn a_socket_of_the_workers_fits_into_an_address() {
        let socket = |length: usize| {
            let path = format!("/tmp/{}", "s".repeat(length - 5));
            Settings { socket: flag(path), ..least() }.check(4)
        };
        assert_eq!(socket(107).unwrap().socket.unwrap().as_os_str().len(), 107);
        assert!(socket(108).unwrap_err().to_string().contains("expected at most 107 bytes"));
        let off = Settings { socket: flag(String::new()), ..least() }.check(4).unwrap();
        assert_eq!((off.socket, least().check(4).unwrap().socket), (None, None));
    }

    #[test]
    #[cfg(feature = "http")]
    fn http_listens_where_it_is_told_to_and_an_empty_text_turns_it_off() {
        for (text, expected) in [("127.0.0.1:9180", true), ("[::]:1", true), ("", false)] {
            let config = Settings { http_listen: flag(text.to_owned()), ..least() }.check(4);
            let address = config.unwrap().http.listen.map(|address| address.to_string());
            assert_eq!(address, expected.then(|| text.to_owned()));
        }
    }

    #[test]
    fn the_number_of_cpus_is_a_number_of_workers() {
        for (cpus, workers) in [(0, 1), (1, 1), (5000, 1024), (1_000_000, 1024)] {
            assert_eq!(least().check(cpus).unwrap().workers, workers);
        }
    }

    #[test]
    fn what_has_to_be_given_is_asked_for() {
        let nothing = Settings { listen: None, ..least() };
        assert!(fault(nothing).starts_with("`listen` is missing: give at least one"));
        let empty = Settings { listen: Some(Vec::new()), ..least() };
        assert!(fault(empty).starts_with("`listen` is missing"));
        let idle = Settings { command: flag(Vec::new()), ..least() };
        assert!(fault(idle).starts_with("`command` is missing"));
    }

    #[test]
    fn values_out_of_range_are_refused_with_what_is_allowed() {
        let cases = [
            (Settings { workers: flag(0), ..least() }, "0: expected 1 to 1024"),
            (Settings { workers: flag(-1), ..least() }, "-1: expected 1 to 1024"),
            (Settings { workers: flag(1025), ..least() }, "1025: expected 1 to 1024"),
            (Settings { slots: flag(-1), ..least() }, "-1: expected 1 to 65536"),
            (Settings { slots: flag(0), ..least() }, "0 slots: expected 1 to 65536"),
            (
                Settings { slots: flag(3), ..least() },
                "3 slots for 4 workers: expected at least one slot for each worker",
            ),
            (Settings { partition: text("range"), ..least() }, "\"range\": expected hash or mask"),
            (
                Settings { partition: text("mask"), workers: flag(3), ..least() },
                "3 workers with the mask partition: expected a power of two, 1 to 1024, or the hash partition",
            ),
            (
                Settings { partition: text("mask"), slots: flag(4), ..least() },
                "the mask partition has one slot for each worker: remove it, or use the hash partition",
            ),
            (
                Settings {
                    partition: text("mask"),
                    weights: flag(vec![1.0, 1.0, 2.0, 1.0]),
                    ..least()
                },
                "weights with the mask partition: each worker has exactly one slot; use the hash partition",
            ),
            (
                Settings { weights: flag(vec![1.0]), ..least() },
                "1 for 4 workers: expected one for each worker",
            ),
            (
                Settings { weights: flag(vec![1.0, f64::NAN, 1.0, 1.0]), ..least() },
                "weight NaN of seat 1: expected a finite number, 0 or more",
            ),
            (
                Settings { weights: flag(vec![0.0; 4]), ..least() },
                "all weights are 0: expected at least one above it",
            ),
            (
                Settings { worker_ports: text("50-100"), ..least() },
                "50-100 contains the public port 80, which other hosts could not reach then: expected a range without it",
            ),
            (
                Settings { worker_ports: text("20000-20010"), ..least() },
                "20000-20010 has 11 ports: expected at least 12, for 4 workers with 1 public ports each in 3 generations",
            ),
            (
                Settings { socket: text("host.zsocket"), ..least() },
                "\"host.zsocket\": expected an absolute path",
            ),
            (Settings { socket: text("/a\0b"), ..least() }, "\"/a\\0b\": no path contains a NUL"),
            (
                Settings { socket: text("/tmp/.."), ..least() },
                "\"/tmp/..\": expected the path of a file",
            ),
            (
                Settings { http_listen: text("localhost:9180"), ..least() },
                "\"localhost:9180\": expected ADDR:PORT, such as 127.0.0.1:9180",
            ),
            (
                Settings { http_listen: text("127.0.0.1:0"), ..least() },
                "127.0.0.1:0: expected a port from 1 to 65535",
            ),
            (
                Settings { http_listen: text("127.0.0.1:80"), ..least() },
                "port 80 is a public port of the cluster: expected another",
            ),
            (
                Settings { http_listen: text("[::1]:29999"), ..least() },
                "port 29999 is among the worker ports 20000-29999: expected another",
            ),
            (Settings { ready_timeout: text("0"), ..least() }, "0: expected more than 0"),
            (
                Settings { ping_timeout: text("999ms"), ..least() },
                "999ms: expected 0 or at least 1s",
            ),
            (
                Settings { watchdog_timeout: text("10ms"), ..least() },
                "10ms: expected 0 or at least 100ms",
            ),
            (
                Settings { drain_timeout: text("1e999"), ..least() },
                "\"1e999\": expected a whole number with ms, s, min or h, such as 30s, or 0",
            ),
            (Settings { command: flag(vec![String::new()]), ..least() }, "the program is empty"),
            (
                Settings { command: flag(vec!["a\0b".to_owned()]), ..least() },
                "an argument contains a NUL, which no program can get",
            ),
            (
                Settings { command: flag(vec!["x".repeat(MAX_ARGUMENT)]), ..least() },
                "an argument is longer than 131071 bytes, the most that the kernel passes on",
            ),
            (
                Settings { name: text(&"x".repeat(65)), ..least() },
                &format!(
                    "cluster name {:?}: expected 1 to 64 of a-z A-Z 0-9 _ -, beginning with a letter or digit",
                    "x".repeat(64)
                ),
            ),
        ];
        for (settings, expected) in cases {
            let error = settings.check(4).unwrap_err();
            let (origin, reason) = error.to_string().split_once(": ").map(own).unwrap();
            assert_eq!(reason, expected);
            assert_eq!(error.is_usage(), origin == "--flag", "{origin}");
        }
    }

    fn own((a, b): (&str, &str)) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[test]
    fn a_secret_is_not_repeated_in_the_error() {
        let env = vec![Given::by_flag("--env", "PORT=hunter2".to_owned())];
        let message = fault(Settings { env: Some(env), ..least() });
        assert!(message.contains("\"PORT\" is set by ipcluster"), "{message}");
        assert!(!message.contains("hunter2"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = Settings { workers: flag(7), slots: flag(2048), ..least() };
        let merged = Settings { workers: flag(2), ..Settings::default() }.over(file);
        let config = merged.check(4).unwrap();
        assert_eq!((config.workers, config.partition.slots()), (2, 2048));
    }

    #[test]
    fn scaling_keeps_the_configuration_free_of_contradictions() {
        let weights = flag(vec![1.0, 2.0]);
        let config = Settings { workers: flag(2), weights, ..least() }.check(4).unwrap();
        let three = config.scaled(3).unwrap();
        assert_eq!((three.workers, &three.weights), (3, &Weights::new(&[1.0, 2.0, 1.0]).unwrap()));
        assert_eq!(three.scaled(2).unwrap(), config);

        let mask = flag("mask".to_owned());
        let mask = Settings { partition: mask, ..least() }.check(4).unwrap();
        assert_eq!(mask.scaled(8).unwrap().partition, Partition::mask(8).unwrap());
        assert!(mask.scaled(5).unwrap_err().to_string().starts_with("scale: `workers`: 5 workers"));
        assert!(mask.scaled(0).is_err() && config.scaled(0).is_err());

        let ports = flag("20000-20011".to_owned());
        let tight = Settings { worker_ports: ports, ..least() }.check(4).unwrap();
        let refused = tight.scaled(5).unwrap_err().to_string();
        assert!(refused.contains("expected at least 15, for 5 workers"), "{refused}");
    }
}
