//! What no single setting can tell: whether the values of several of them go together.

use std::net::SocketAddr;

use super::config::Config;
use super::keys::{SETTINGS, Values};
use super::origin::Origin;
use super::servers::ServerInForce;
use super::{ConfigError, PartitionKind, WorkerTexts, fleet};
use crate::plan::{
    Assignment, Engine, Listeners, Partition, PlanError, Port, PortRange, Protocol, Weights,
};
use crate::protocol::{HttpScheme, Readiness, counted};

impl Config {
    /// The configuration of these values, each of which is allowed by itself.
    pub(super) fn check(
        mut values: Values,
        server: Option<ServerInForce>,
    ) -> Result<Self, ConfigError> {
        let listen = &values.listen;
        let listeners =
            Listeners::new(listen.value.clone()).map_err(|error| listen.unplannable(error))?;
        let (partition, weights) = (partition(&values)?, weights(&values)?);
        check_assignment(&values, &partition, &weights)?;
        check_worker_ports(&values, &listeners)?;
        check_local_clients(&values, &listeners)?;
        values.socket_activation.value = socket_activation(&values)?;
        values.socket_activation.text = Some(values.socket_activation.value.to_string());
        check_backlog(&values)?;
        check_http(&values, &listeners)?;
        check_readiness(&values, &listeners)?;
        check_rollback(&values)?;
        check_memory(&values)?;
        fleet::check(&values, &listeners)?;
        let texts = WorkerTexts::of(&values, &listeners)?;
        Ok(Self { values, listeners, partition, weights, texts, server })
    }
}

fn partition(values: &Values) -> Result<Partition, ConfigError> {
    let Values { partition, slots, workers, engine, .. } = values;
    match partition.value {
        PartitionKind::Random if engine.value == Engine::Tproxy => Err(partition.refused(
            "random is for the engine redirect: with tproxy each datagram, and the end of a handshake that was \
             answered by SYN cookie, would be led to a worker of its own; connection spreads as well",
        )),
        PartitionKind::Random => {
            Partition::random(slots.value).map_err(|error| slots.unplannable(error))
        }
        PartitionKind::Connection => {
            Partition::connection(slots.value).map_err(|error| slots.unplannable(error))
        }
        PartitionKind::Hash => {
            Partition::hash(slots.value).map_err(|error| slots.unplannable(error))
        }
        PartitionKind::Mask if !slots.is_default() => Err(slots.refused(
            "the mask partition has one slot for each worker: remove it, or use the hash partition",
        )),
        PartitionKind::Mask => {
            Partition::mask(u32::from(workers.value)).map_err(|error| workers.unplannable(error))
        }
    }
}

fn weights(values: &Values) -> Result<Weights, ConfigError> {
    let Values { weights, workers, .. } = values;
    let planned = match weights.value.as_slice() {
        [] => Weights::equal(usize::from(workers.value)),
        shares if shares.len() == usize::from(workers.value) => Weights::new(shares),
        shares => {
            let (count, workers) = (shares.len(), workers.value);
            return Err(weights
                .refused(format!("{count} for {workers} workers: expected one for each worker")));
        }
    };
    planned.map_err(|error| match error {
        PlanError::WorkerCount { .. } => workers.unplannable(error),
        error => weights.unplannable(error),
    })
}

/// Whether the slots can be given to the workers.
fn check_assignment(
    values: &Values,
    partition: &Partition,
    weights: &Weights,
) -> Result<(), ConfigError> {
    let Err(error) = Assignment::new(partition, weights, None) else { return Ok(()) };
    Err(match &error {
        PlanError::MaskWeights | PlanError::Weight { .. } | PlanError::WeightsAllZero => {
            values.weights.unplannable(error)
        }
        PlanError::FewerSlotsThanWorkers { .. } | PlanError::SlotCount { .. } => {
            values.slots.unplannable(error)
        }
        _ => values.workers.unplannable(error),
    })
}

/// Whether a listener on a loopback address, which clients of this host alone can reach, has any.
fn check_local_clients(values: &Values, listeners: &Listeners) -> Result<(), ConfigError> {
    let local_clients = &values.local_clients;
    match listeners.iter().find(|listener| listener.is_loopback()) {
        Some(listener) if !local_clients.value => Err(local_clients.refused(format!(
            "false, and the listener {listener} has clients on this host alone: leave it out, or the \
             listener"
        ))),
        _ => Ok(()),
    }
}

/// Whether no worker port is public, and there are enough of them.
fn check_worker_ports(values: &Values, listeners: &Listeners) -> Result<(), ConfigError> {
    let Values { worker_ports, workers, engine, private_ports, .. } = values;
    let (range, workers) = (worker_ports.value, workers.value);
    let private = usize::from(private_ports.value);
    let public = listeners.public_ports();
    if let Some(port) = public.iter().find(|port| range.contains(**port)) {
        return Err(worker_ports.refused(format!(
            "{range} contains the public port {port}, which other hosts could not reach then: \
             expected a range without it"
        )));
    }
    // Where worker ports tell their places, as many are left out as there are rests without a place; and
    // private ports may all have the same rest.
    let places = match engine.value.port_stride(listeners) {
        Some(stride) => usize::from(stride) * (1 + private),
        None => public.len() + private,
    };
    let needed = PortRange::needed(workers, places);
    let and_private = match private {
        0 => String::new(),
        count => format!(" and {}", counted(count, "private port")),
    };
    if range.count() < needed {
        return Err(worker_ports.refused(format!(
            "{range} has {}: expected at least {needed}, for {} with {}{and_private} each in {} \
             generations",
            counted(range.count(), "port"),
            counted(workers, "worker"),
            counted(public.len(), "public port"),
            PortRange::GENERATIONS,
        )));
    }
    Ok(())
}

/// Whether the master opens the sockets of workers: as given, else as the engine needs it.
fn socket_activation(values: &Values) -> Result<bool, ConfigError> {
    let given = &values.socket_activation;
    match values.engine.value {
        Engine::Redirect if given.is_default() => Ok(false),
        Engine::Tproxy if given.is_default() => Ok(true),
        Engine::Tproxy if !given.value => Err(given.refused(
            "false: with engine = \"tproxy\" only the master can open the sockets of workers: \
             remove it, or use the engine \"redirect\"",
        )),
        Engine::Redirect | Engine::Tproxy => Ok(given.value),
    }
}

fn check_backlog(values: &Values) -> Result<(), ConfigError> {
    let Values { backlog, socket_activation, .. } = values;
    if backlog.is_default() || socket_activation.value {
        return Ok(());
    }
    Err(backlog.refused(format!(
        "it is for sockets that the master opens: set socket_activation = true{}, or remove it",
        flag_of(socket_activation.key, &backlog.origin)
    )))
}

/// The flag of another setting in parentheses, for an error about a value that came from a flag.
fn flag_of(key: &str, origin: &Origin) -> String {
    let setting = SETTINGS.iter().find(|setting| setting.key == key);
    match (origin, setting) {
        (Origin::Flag { .. }, Some(setting)) => format!(" ({})", setting.flag),
        _ => String::new(),
    }
}

/// Whether this build can serve and ask over HTTP.
const HAS_HTTP: bool = cfg!(feature = "http");

/// Whether this build can ask over TLS.
const HAS_TLS: bool = cfg!(feature = "tls");

fn check_http(values: &Values, listeners: &Listeners) -> Result<(), ConfigError> {
    let given = &values.http_listen;
    let Some(address) = given.value else { return Ok(()) };
    let is_public = |port: Port| listeners.public_ports().contains(&port);
    match Port::new(SocketAddr::port(&address)) {
        None => Err(given.refused(format!("{address}: expected a port from 1 to 65535"))),
        Some(port) if is_public(port) => {
            Err(given
                .refused(format!("port {port} is a public port of the cluster: expected another")))
        }
        Some(port) if values.worker_ports.value.contains(port) => Err(given.refused(format!(
            "port {port} is among the worker ports {}: expected another",
            values.worker_ports.value
        ))),
        Some(_) if !HAS_HTTP => {
            Err(given.refused("this build has no HTTP server: it needs the feature `http`"))
        }
        Some(_) => Ok(()),
    }
}

fn check_readiness(values: &Values, listeners: &Listeners) -> Result<(), ConfigError> {
    let Values { ready, engine, socket_activation, .. } = values;
    match &ready.value {
        Readiness::Http(probe) if !HAS_HTTP => Err(ready.refused(format!(
            "\"{probe}\": this build cannot ask over HTTP: it needs the feature `http`"
        ))),
        Readiness::Http(probe) if probe.scheme() == HttpScheme::Https && !HAS_TLS => Err(ready
            .refused(format!(
                "\"{probe}\": this build cannot ask over TLS: it needs the feature `tls`"
            ))),
        Readiness::Http(probe) if listeners.services(Protocol::Tcp).is_empty() => Err(ready
            .refused(format!(
                "\"{probe}\": HTTP needs a tcp listener: expected tcp, notify or protocol"
            ))),
        Readiness::Protocol if socket_activation.value => {
            let reason = "workers with ready = \"protocol\" open their sockets themselves: choose \
                          one of both";
            Err(match engine.value {
                Engine::Redirect => socket_activation.refused(format!("true: {reason}")),
                Engine::Tproxy => engine.refused(format!("\"tproxy\": {reason}")),
            })
        }
        _ => Ok(()),
    }
}

/// Workers are not kept for a rollback longer than they may drain.
fn check_rollback(values: &Values) -> Result<(), ConfigError> {
    let Values { rollback_timeout, drain_timeout, .. } = values;
    match drain_timeout.value {
        Some(limit) if rollback_timeout.value > limit => Err(rollback_timeout.refused(format!(
            "{}: expected at most timeouts.drain, at which retired workers end whatever they do",
            super::text::of_duration(rollback_timeout.value)
        ))),
        _ => Ok(()),
    }
}

fn check_memory(values: &Values) -> Result<(), ConfigError> {
    let Values { memory_low: low, memory_high: high, .. } = values;
    if low.value <= high.value {
        return Ok(());
    }
    // What somebody gave is at fault, not a default.
    let at_fault = if low.is_default() { high } else { low };
    Err(at_fault.refused(format!(
        "memory.low is {} and memory.high is {}: expected memory.low up to memory.high",
        low.value, high.value
    )))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::least;
    use super::super::value::Raw;
    use super::super::{ConfigBuilder, WorkerCommand};
    use super::*;
    use crate::protocol::{GiveUp, KillOrder, Marks, Memory, Retire, SignalError};

    fn fault(builder: ConfigBuilder) -> String {
        builder.build_for(4).unwrap_err().to_string()
    }

    #[test]
    fn workers_are_not_kept_for_a_rollback_longer_than_they_may_drain() {
        let check = |drain: &str, rollback: &str| {
            let flags = [("timeouts.drain", drain), ("timeouts.rollback", rollback)];
            let config = least().flags(&flags).build_for(4);
            config.map(|config| config.rollback_timeout()).map_err(|error| error.to_string())
        };
        assert_eq!(check("0", "1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(check("10s", "10s"), Ok(Duration::from_secs(10)));
        let expected = "--flag: 11s: expected at most timeouts.drain, at which retired workers end \
            whatever they do";
        assert_eq!(check("10s", "11s").unwrap_err(), expected);
    }

    #[test]
    fn the_engine_that_translates_nothing_comes_with_the_sockets_of_the_master() {
        let of =
            |engine: &str, flags: &[_]| least().flag("engine", engine).flags(flags).build_for(1);
        let config = of("tproxy", &[]).unwrap();
        assert_eq!((config.engine(), config.socket_activation()), (Engine::Tproxy, true));
        let config = of("redirect", &[]).unwrap();
        assert_eq!((config.engine(), config.socket_activation()), (Engine::Redirect, false));
        let error = of("tproxy", &[("socket_activation", "false")]).unwrap_err().to_string();
        assert!(error.contains("false: with engine = \"tproxy\" only the master"), "{error}");
        let error = of("tproxy", &[("ready", "protocol")]).unwrap_err().to_string();
        assert!(error.contains("\"tproxy\": workers with ready = \"protocol\""), "{error}");
        let error = of("iptables", &[]).unwrap_err().to_string();
        assert!(error.contains("\"iptables\": expected \"redirect\" or \"tproxy\""), "{error}");
    }

    /// Of three places one in four ports is for none.
    #[test]
    fn ports_that_tell_their_places_are_more() {
        let settings = |engine| {
            least().flags(&[
                ("listen", "0.0.0.0:53/udp 0.0.0.0:80 0.0.0.0:443"),
                ("worker_ports", "20000-20009"),
                ("workers", "1"),
                ("engine", engine),
            ])
        };
        settings("redirect").build_for(1).unwrap();
        let error = settings("tproxy").build_for(1).unwrap_err().to_string();
        assert!(error.contains("20000-20009 has 10 ports: expected at least 12"), "{error}");
    }

    #[test]
    fn what_is_not_given_has_its_documented_default() {
        let config = least().build_for(6).unwrap();
        assert_eq!((config.name().as_str(), config.workers()), ("main", 6));
        assert_eq!(config.partition(), Partition::hash(1024).unwrap());
        assert_eq!(*config.weights(), Weights::equal(6).unwrap());
        assert_eq!(config.worker_ports().to_string(), "20000-29999");
        assert_eq!(*config.ready(), Readiness::Tcp);
        assert_eq!(config.ready_timeout(), Duration::from_secs(30));
        assert_eq!(config.drain_timeout(), None);
        assert_eq!(config.rollback_timeout(), Duration::ZERO);
        assert_eq!(config.die_timeout(), Duration::from_secs(5));
        assert_eq!(config.ping_timeout(), Some(Duration::from_secs(10)));
        assert_eq!(config.watchdog_timeout(), None);
        assert_eq!((config.spawn_parallel(), config.spawn_stagger()), (0, Duration::ZERO));
        assert_eq!(config.spawn_backoff().max, Duration::from_secs(30));
        assert_eq!(config.command().program(), "server");
        assert_eq!(config.http_listen(), None);
        assert_eq!(config.socket(), None);
    }

    #[test]
    fn policies_that_are_not_given_have_their_documented_defaults() {
        let config = least().build_for(4).unwrap();
        let seconds = Duration::from_secs;
        let expected = Retire {
            rss: None,
            rate: 10,
            window: seconds(120),
            renice: 1,
            max_age: None,
            connections: None,
            jitter: 10,
            lag: Some(Duration::from_millis(150)),
        };
        assert_eq!(config.retire(), expected);
        assert_eq!(config.memory(), Memory { marks: None, order: KillOrder::Connections });
        assert_eq!(config.spawn_give_up(), Some(GiveUp { failures: 5, window: seconds(60) }));
        assert!(!config.kill_old());
    }

    #[test]
    fn the_marks_are_parts_of_the_total() {
        const MEBIBYTE: u64 = 1 << 20;
        let memory = |flags: &[_]| least().flags(flags).build_for(4).unwrap().memory();
        let marks = Marks { low: 256 * MEBIBYTE, high: 512 * MEBIBYTE };
        let expected = Memory { marks: Some(marks), order: KillOrder::Age };
        let total = ("memory.total", "512MiB");
        let flags = [total, ("memory.low", "0.5"), ("memory.high", "1.0"), ("memory.order", "age")];
        assert_eq!(memory(&flags), expected);
        let marks = memory(&[("memory.total", "100MiB")]).marks.unwrap();
        assert_eq!((marks.low, marks.high), (80 * MEBIBYTE, 95 * MEBIBYTE));
    }

    #[test]
    fn zero_turns_off_what_it_can() {
        let flags = [
            ("retire.rss", "0"),
            ("retire.lag", "0"),
            ("retire.window", "0"),
            ("retire.renice", "0"),
            ("spawn.give_up", "0"),
        ];
        let config = least().flags(&flags).build_for(4).unwrap();
        let retire = config.retire();
        assert_eq!((retire.rss, retire.lag), (None, None));
        assert_eq!((retire.window, retire.renice), (Duration::ZERO, 0));
        assert_eq!(config.spawn_give_up(), None);
        let typed = least().retire_lag(Some(Duration::ZERO)).ping_timeout(Some(Duration::ZERO));
        let config = typed.build_for(4).unwrap();
        assert_eq!((config.retire().lag, config.ping_timeout()), (None, None));
    }

    #[test]
    fn a_socket_of_the_workers_fits_into_an_address() {
        let socket = |length: usize| {
            let path = format!("/tmp/{}", "s".repeat(length - 5));
            least().flag("socket", &path).build_for(4)
        };
        assert_eq!(socket(107).unwrap().socket().unwrap().as_os_str().len(), 107);
        assert!(socket(108).unwrap_err().to_string().contains("expected at most 107 bytes"));
        let off = least().flag("socket", "").build_for(4).unwrap();
        assert_eq!(off.socket(), None);
    }

    #[test]
    #[cfg(feature = "http")]
    fn http_listens_where_it_is_told_to_and_an_empty_text_turns_it_off() {
        for (text, expected) in [("127.0.0.1:9180", true), ("[::]:1", true), ("", false)] {
            let config = least().flag("http.listen", text).build_for(4);
            let address = config.unwrap().http_listen().map(|address| address.to_string());
            assert_eq!(address, expected.then(|| text.to_owned()));
        }
    }

    #[test]
    fn asking_over_http_needs_the_feature_and_a_tcp_listener() {
        let of = |listener: &str| fault(least().flag("listen", listener).flag("ready", "http:/x"));
        #[cfg(feature = "http")]
        assert!(of("0.0.0.0:53/udp").contains("needs a tcp listener"));
        #[cfg(not(feature = "http"))]
        assert!(of("0.0.0.0:80").contains("it needs the feature `http`"));
    }

    #[test]
    fn the_number_of_cpus_is_a_number_of_workers() {
        for (cpus, workers) in [(0, 1), (1, 1), (5000, 1024), (1_000_000, 1024)] {
            assert_eq!(least().build_for(cpus).unwrap().workers(), workers);
        }
    }

    #[test]
    fn what_has_to_be_given_is_asked_for() {
        let nothing = Config::builder().command(WorkerCommand::new("server"));
        assert!(fault(nothing).starts_with("`listen` is missing: give at least one"));
        assert!(fault(least().flag("listen", "")).starts_with("`listen` is missing"));
        assert!(fault(least().listen(Vec::new())).starts_with("`listen` is missing"));
        assert!(fault(least().flag("command", "")).starts_with("`command` is missing"));
    }

    #[test]
    fn values_out_of_range_are_refused_with_what_is_allowed() {
        let size = "expected a whole number with B, KiB, MiB, GiB or TiB, such as 448MiB, or 0";
        let long_name = "x".repeat(65);
        let (size_without, size_negative, size_float) =
            (format!("\"448\": {size}"), format!("\"-1MiB\": {size}"), format!("\"1e9\": {size}"));
        let name = format!(
            "cluster name {:?}: expected 1 to 64 of a-z A-Z 0-9 _ -, beginning with a letter or digit",
            "x".repeat(64)
        );
        let no_signal = |text: &str| format!("{text:?}: {SignalError}");
        let [misspelt, empty, beyond] = ["QIUT", "", "RTMIN+64"].map(no_signal);
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("workers", "0")], "0: expected 1 to 1024"),
            (&[("workers", "-1")], "-1: expected 1 to 1024"),
            (&[("workers", "1025")], "1025: expected 1 to 1024"),
            (&[("slots", "-1")], "-1: expected 1 to 65536"),
            (&[("slots", "0")], "0 slots: expected 1 to 65536"),
            (
                &[("slots", "3")],
                "3 slots for 4 workers: expected at least one slot for each worker",
            ),
            (&[("partition", "range")], "\"range\": expected hash, mask, connection or random"),
            (
                &[("partition", "mask"), ("workers", "3")],
                "3 workers with the mask partition: expected a power of two, 1 to 1024, or the hash partition",
            ),
            (
                &[("partition", "mask"), ("slots", "4")],
                "the mask partition has one slot for each worker: remove it, or use the hash partition",
            ),
            (
                &[("partition", "mask"), ("weights", "1 1 2 1")],
                "weights with the mask partition: each worker has exactly one slot; use the hash partition",
            ),
            (&[("weights", "1")], "1 for 4 workers: expected one for each worker"),
            (
                &[("weights", "1 NaN 1 1")],
                "weight NaN of seat 1: expected a finite number, 0 or more",
            ),
            (&[("weights", "0 0 0 0")], "all weights are 0: expected at least one above it"),
            (
                &[("worker_ports", "50-100")],
                "50-100 contains the public port 80, which other hosts could not reach then: expected a range without it",
            ),
            (
                &[("worker_ports", "20000-20010")],
                "20000-20010 has 11 ports: expected at least 12, for 4 workers with 1 public port each in 3 generations",
            ),
            (&[("socket", "host.zsocket")], "\"host.zsocket\": expected an absolute path"),
            (&[("socket", "/a\0b")], "\"/a\\0b\": no path contains a NUL"),
            (&[("socket", "/tmp/..")], "\"/tmp/..\": expected the path of a file"),
            (
                &[("http.listen", "localhost:9180")],
                "\"localhost:9180\": expected ADDR:PORT, such as 127.0.0.1:9180",
            ),
            (&[("http.listen", "127.0.0.1:0")], "127.0.0.1:0: expected a port from 1 to 65535"),
            (
                &[("http.listen", "127.0.0.1:80")],
                "port 80 is a public port of the cluster: expected another",
            ),
            (
                &[("http.listen", "[::1]:29999")],
                "port 29999 is among the worker ports 20000-29999: expected another",
            ),
            (&[("timeouts.ready", "0")], "0: expected more than 0"),
            (&[("timeouts.ping", "999ms")], "999ms: expected 0 or at least 1s"),
            (&[("timeouts.watchdog", "10ms")], "10ms: expected 0 or at least 100ms"),
            (
                &[("timeouts.drain", "1e999")],
                "\"1e999\": expected a whole number with ms, s, min or h, such as 30s, or 0",
            ),
            (&[("name", &long_name)], &name),
            (&[("retire.rss", "448")], &size_without),
            (&[("retire.rss", "-1MiB")], &size_negative),
            (&[("memory.total", "1e9")], &size_float),
            (&[("memory.total", "9999TiB")], "expected at most 1024TiB"),
            (&[("retire.rate", "0")], "0: expected 1 to 1024"),
            (&[("retire.rate", "9223372036854775807")], "9223372036854775807: expected 1 to 1024"),
            (&[("stop_signal", "STOP")], "SIGSTOP: expected the name of a signal but STOP"),
            (&[("stop_signal", "QIUT")], &misspelt),
            (&[("stop_signal", "")], &empty),
            (
                &[("retire_signal", "KILL")],
                "SIGKILL: expected the name of a signal that programs can handle: not KILL or STOP",
            ),
            (&[("retire_signal", "RTMIN+64")], &beyond),
            (&[("kill_mode", "cgroup")], "\"cgroup\": expected group, mixed or process"),
            (&[("retire.renice", "20")], "20: expected 0 to 19"),
            (&[("retire.renice", "-1")], "-1: expected 0 to 19"),
            (&[("memory.low", "0.0")], "0: expected a part of memory.total, above 0 and at most 1"),
            (
                &[("memory.high", "NaN")],
                "NaN: expected a part of memory.total, above 0 and at most 1",
            ),
            (
                &[("memory.high", "95.0")],
                "95: expected a part of memory.total, above 0 and at most 1",
            ),
            (&[("memory.order", "pid")], "\"pid\": expected connections, age or memory"),
            (&[("spawn.give_up", "5")], "expected NUMBER in TIME, such as 5 in 60s, or 0"),
        ];
        for (flags, expected) in cases {
            let error = least().flags(flags).build_for(4).unwrap_err();
            assert_eq!(error.to_string(), format!("--flag: {expected}"));
            #[cfg(feature = "cli")]
            assert!(error.is_usage());
        }
    }

    #[test]
    fn a_command_that_no_program_can_get_is_refused() {
        let fault = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            fault(least().flag_raw("command", Raw::Texts(words)))
        };
        assert_eq!(fault(&[""]), "--flag: the program is empty");
        let expected = "--flag: an argument contains a NUL, which no program can get";
        assert_eq!(fault(&["a\0b"]), expected);
        let expected = "--flag: an argument is longer than 131071 bytes, the most that the kernel \
                        passes on";
        assert_eq!(fault(&[&"x".repeat(32 * 4096)]), expected);
    }

    #[test]
    fn typed_values_are_checked_as_texts_are_and_no_flag_is_named() {
        let (second, year) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600));
        let backoff = |min, max| crate::protocol::Backoff { min, max };
        let give_up = |failures, window| Some(GiveUp { failures, window });
        for (builder, expected) in [
            (least().workers(0), "`workers`: 0: expected 1 to 1024"),
            (least().retire_renice(-1), "`retire.renice`: -1: expected 0 to 19"),
            (least().slots(0), "`slots`: 0 slots: expected 1 to 65536"),
            (least().backlog(0), "`backlog`: 0: expected 1 to 65535"),
            (
                least().backlog(5),
                "`backlog`: it is for sockets that the master opens: set socket_activation = true, or remove it",
            ),
            (least().ready_timeout(Duration::ZERO), "`timeouts.ready`: 0: expected more than 0"),
            (
                least().drain_timeout(Some(year + second)),
                "`timeouts.drain`: expected at most a year, 8760h",
            ),
            (
                least().ping_timeout(Some(second / 2)),
                "`timeouts.ping`: 500ms: expected 0 or at least 1s",
            ),
            (
                least().spawn_backoff(backoff(second, second / 2)),
                "`spawn.backoff`: expected FIRST..MOST with FIRST above 0 and up to MOST",
            ),
            (
                least().spawn_backoff(backoff(second, 2 * year)),
                "`spawn.backoff`: expected at most a year, 8760h",
            ),
            (
                least().spawn_give_up(give_up(0, second)),
                "`spawn.give_up`: expected 1 to 1000 failures, or 0",
            ),
            (
                least().spawn_give_up(give_up(1, Duration::ZERO)),
                "`spawn.give_up`: expected NUMBER in TIME with TIME above 0",
            ),
            (
                least().user(Some("a b".to_owned())),
                "`user`: \"a b\": expected the name or number of a user",
            ),
            (
                least().output(super::super::WorkerOutput::Directory("log".into())),
                "`output.to`: \"file:log\": expected a directory that begins with /, such as file:/var/log/web",
            ),
            (least().command(WorkerCommand::new("")), "`command`: the program is empty"),
            (
                least().memory_low(f64::NAN),
                "`memory.low`: NaN: expected a part of memory.total, above 0 and at most 1",
            ),
            (
                least().weights(vec![-1.0, 0.0, 0.0, 1.0]),
                "`weights`: weight -1 of seat 0: expected a finite number, 0 or more",
            ),
            (
                least().http_listen(Some(([127, 0, 0, 1], 80).into())),
                "`http.listen`: port 80 is a public port of the cluster: expected another",
            ),
        ] {
            assert_eq!(fault(builder), expected);
        }
    }

    #[test]
    fn a_low_mark_above_the_high_one_is_refused_by_the_names_of_both() {
        let both = least().flags(&[("memory.low", "0.9"), ("memory.high", "0.8")]);
        let expected =
            "memory.low is 0.9 and memory.high is 0.8: expected memory.low up to memory.high";
        assert_eq!(fault(both), format!("--flag: {expected}"));
        let low = least().flag("memory.low", "0.99");
        assert!(fault(low).contains("memory.low is 0.99 and memory.high is 0.95"));
        let error = fault(least().flag("memory.high", "0.5"));
        assert!(error.starts_with("--flag: memory.low is 0.8 and memory.high is 0.5"), "{error}");
    }

    #[test]
    fn a_secret_is_not_repeated_in_the_error() {
        let message = fault(least().flag("env", "PORT=hunter2"));
        assert!(message.contains("\"PORT\" is set by ipcluster"), "{message}");
        assert!(!message.contains("hunter2"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = least().flags(&[("workers", "7"), ("slots", "2048")]);
        let config = Config::builder().flag("workers", "2").over(file).build_for(4).unwrap();
        assert_eq!((config.workers(), config.partition().slots()), (2, 2048));
        let refused = least().flag("workers", "0");
        Config::builder().flag("workers", "2").over(refused).build_for(4).unwrap();
    }

    #[test]
    fn scaling_keeps_the_configuration_free_of_contradictions() {
        let config = least().flags(&[("workers", "2"), ("weights", "1 2")]).build_for(4).unwrap();
        let three = config.scaled(3).unwrap();
        let weights = Weights::new(&[1.0, 2.0, 1.0]).unwrap();
        assert_eq!((three.workers(), three.weights()), (3, &weights));
        assert_eq!(three.scaled(2).unwrap(), config);

        let mask = least().flag("partition", "mask").build_for(4).unwrap();
        assert_eq!(mask.scaled(8).unwrap().partition(), Partition::mask(8).unwrap());
        assert!(mask.scaled(5).unwrap_err().to_string().starts_with("scale: `workers`: 5 workers"));
        assert!(mask.scaled(0).is_err() && config.scaled(0).is_err());

        let tight = least().flag("worker_ports", "20000-20011").build_for(4).unwrap();
        let refused = tight.scaled(5).unwrap_err().to_string();
        assert!(refused.contains("expected at least 15, for 5 workers"), "{refused}");
    }
}
