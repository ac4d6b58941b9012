//! The table of settings: one declaration for each. Flags, keys of the file, checks of single values,
//! the methods of [`ConfigBuilder`] and [`Config`], `--help`, `docs/settings.md` and
//! `packaging/ipcluster.toml` are made from it.
//!
//! A new setting is a row here and the code that uses it; then
//! `UPDATE_PAGES=1 cargo test -p ipcluster --lib config::reference` writes both pages anew. What a row
//! says is described at [`Setting`], [`DefaultValue`] and [`Changes`]; what contradicts other
//! settings is refused in `check.rs`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fleet::FleetMembership;
use super::origin::{Given, Origin};
use super::range::{
    Any, DirectoryPath, FilePath, FinishingSignal, LeaseTime, MoreThanZero, NameOfA, PartOfTotal,
    PlannedAs, Range, SocketPath, StopSignal, ZeroOrAtLeast,
};
use super::table::{Changes, DefaultValue, Setting, ValueRow, settings};
use super::value::{Entry, Raw, Value, resolve};
use super::{
    Config, ConfigError, Environment, FileModeMask, LogFormat, LogLevel, MemorySize, OnExit,
    PartitionKind, ResourceLimit, Server, WorkerCommand, WorkerOutput,
};
use crate::plan::fleet::{DeviceName, MemberName};
use crate::plan::{ClusterName, Engine, Listener, Ownership, PortRange};
use crate::protocol::{Backoff, GiveUp, KillMode, KillOrder, MaxFailures, Readiness, Signal};

settings! {
    /// Name of the cluster, of its table in the kernel and of its control socket
    name: ClusterName {
        key: "name",
        flag: "--name", "NAME",
        range: Any,
        default: "main",
        changes: Never,
        get: reference -> &ClusterName,
    }

    /// Address and port that clients connect to; repeat for more [0.0.0.0 and `[::]`: all addresses]
    listen: Vec<Listener> {
        key: "listen",
        flag: "--listen", "ADDR:PORT[/tcp|/udp]",
        range: Any,
        default: required "give at least one",
        example: "0.0.0.0:80",
        changes: NewGeneration,
        get: none,
    }

    /// How many workers
    workers: u16 {
        key: "workers",
        flag: "--workers", "N",
        range: 1..=1024,
        default: "1" means "as many as CPUs",
        changes: Scale,
        get: copied -> u16,
    }

    /// What each worker runs; `{port}`, `{seat}` and other values of the worker stand in braces
    command: WorkerCommand {
        key: "command",
        flag: "--", "COMMAND",
        range: Any,
        default: required "give what each worker runs",
        example: "node server.js",
        changes: NewGeneration,
        get: reference -> &WorkerCommand,
    }

    /// What is known of the server that workers run, see `ipcluster servers`: its preset sets what no
    /// other setting gives, and tells it where it listens; auto (the one that `command` names), none
    server: Server {
        key: "server",
        flag: "--server", "NAME|auto|none",
        range: Any,
        default: "auto",
        changes: NewGeneration,
        get: none,
    }

    /// The directory that workers run in, an absolute path; it is resolved once for each generation, so that
    /// a link may be moved to another release before a reload
    directory: Option<PathBuf> {
        key: "directory",
        flag: "--directory", "DIR",
        range: DirectoryPath,
        default: "" means "the one that the master was started in",
        example: "/srv/web/current",
        changes: NewGeneration,
        get: dereferenced -> Option<&Path>,
    }

    /// How clients are spread: hash, mask (low bits of the address; `workers` a power of two), connection (a
    /// hash of address and port: no client keeps its worker; where a proxy makes all clients one), or random (a
    /// worker drawn for each connection; with the engine redirect alone)
    partition: PartitionKind {
        key: "partition",
        flag: "--partition", "hash|mask|connection|random",
        range: Any,
        default: "hash",
        changes: RestartRenews,
        get: none,
    }

    /// Into how many slots the hash spreads clients, at least one for each worker
    slots: u32 {
        key: "slots",
        flag: "--slots", "N",
        range: PlannedAs("1 to 65536"),
        default: "1024",
        changes: RestartRenews,
        get: none,
    }

    /// Share of each worker, relative to the others
    weights: Vec<f64> {
        key: "weights",
        flag: "--weights", "W,W,...",
        range: Any,
        default: "" means "all the same",
        example: "1 1 2",
        changes: Scale,
        get: none,
    }

    /// Ports that workers get, enough for three generations; other hosts cannot reach them but through
    /// a listener
    worker_ports: PortRange {
        key: "worker_ports",
        flag: "--worker-ports", "FIRST-LAST",
        range: Any,
        default: "20000-29999",
        changes: Restart,
        get: copied -> PortRange,
    }

    /// How many further ports each worker gets, for metrics or a debugger: `{private_port}`,
    /// `{private_port:2}` and so on. They are among `worker_ports`, and closed to other hosts
    private_ports: u16 {
        key: "private_ports",
        flag: "--private-ports", "N",
        range: 0..=16,
        default: "0",
        changes: NextGeneration,
        get: copied -> u16,
    }

    /// A file from which a configuration file is made for each worker, with its values in the place of
    /// `{port}` and others; `{config}` is the path of that file, which goes with the worker
    config_template: Option<PathBuf> {
        key: "config_template",
        flag: "--config-template", "FILE",
        range: FilePath,
        default: "" means "none",
        example: "/etc/web/nginx.conf.in",
        changes: NextGeneration,
        get: dereferenced -> Option<&Path>,
    }

    /// Open the listening sockets of workers and keep them, so that connections that wait outlive a
    /// worker; workers take them by LISTEN_FDS, as under systemd. Such a worker is ready when it is seen
    /// to accept from them
    socket_activation: bool {
        key: "socket_activation",
        flag: "--socket-activation", "true|false",
        range: Any,
        default: "false" means "true with the engine tproxy, else false",
        changes: Restart,
        get: copied -> bool,
    }

    /// With `socket_activation`: how many connections may wait in the queue of each listening socket, at
    /// most net.core.somaxconn
    backlog: u32 {
        key: "backlog",
        flag: "--backlog", "N",
        range: 1..=65535,
        default: "4096",
        changes: NextGeneration,
        get: copied -> u32,
    }

    /// How connections are handed to workers: redirect (the address is translated; any program), or
    /// tproxy (nothing is translated or tracked; workers take their sockets by LISTEN_FDS)
    engine: Engine {
        key: "engine",
        flag: "--engine", "redirect|tproxy",
        range: Any,
        default: "redirect",
        changes: RestartRenews,
        get: copied -> Engine,
    }

    /// Balance connections that start on this host as well, to loopback addresses too: false leaves those to
    /// what listens on the public port itself
    local_clients: bool {
        key: "local_clients",
        flag: "--local-clients", "true|false",
        range: Any,
        default: "true",
        changes: Restart,
        get: copied -> bool,
    }

    /// Start also where filter rules of others kept clients from a public port and no longer do, since they see
    /// the worker port: what they have shut is open then
    accept_bypassed_filters: bool {
        key: "accept_bypassed_filters",
        flag: "--accept-bypassed-filters", "true|false",
        range: Any,
        default: "false",
        changes: Restart,
        get: copied -> bool,
    }

    /// Start also where a server of somebody else listens on a public port, which gets no new connection from
    /// then on, or where the address of a listener is none of this host
    take_over_port: bool {
        key: "take_over_port",
        flag: "--take-over-port", "true|false",
        range: Any,
        default: "false",
        changes: Restart,
        get: copied -> bool,
    }

    /// Take a listener on port 22, by which administrators log in
    yes_really: bool {
        key: "yes_really",
        flag: "--yes-really", "true|false",
        range: Any,
        default: "false",
        changes: Restart,
        get: copied -> bool,
    }

    /// How a worker shows that it is ready: tcp (it listens; with `socket_activation` it accepts), notify
    /// (and sends READY=1, as sd_notify does), http:/PATH or http://HOST/PATH (and answers with a status
    /// of 2xx there), protocol (it listens where it says over the control socket, as workers of the older
    /// system do)
    ready: Readiness {
        key: "ready",
        flag: "--ready", "tcp|notify|http:/PATH|protocol",
        range: Any,
        default: "tcp",
        changes: Restart,
        get: reference -> &Readiness,
    }

    /// Whether other programs can change the rules: auto (not if the kernel can prevent it: Linux
    /// 6.9), owned (not), shared (they can)
    ownership: Ownership {
        key: "ownership",
        flag: "--ownership", "auto|owned|shared",
        range: Any,
        default: "auto",
        changes: Restart,
        get: copied -> Ownership,
    }

    /// User that workers run as
    user: Option<String> {
        key: "user",
        flag: "--user", "USER",
        range: NameOfA("user"),
        default: "" means "the master's, without its privilege",
        example: "www-data",
        changes: RestartRenews,
        get: dereferenced -> Option<&str>,
    }

    /// Group that workers run as
    group: Option<String> {
        key: "group",
        flag: "--group", "GROUP",
        range: NameOfA("group"),
        default: "" means "that of the user",
        example: "www-data",
        changes: RestartRenews,
        get: dereferenced -> Option<&str>,
    }

    /// Group whose members may use the control socket (`reload`, `status` and all other verbs), beside the
    /// user of the master and root
    control_group: Option<String> {
        key: "control_group",
        flag: "--control-group", "GROUP",
        range: NameOfA("group"),
        default: "" means "none",
        example: "deploy",
        changes: Restart,
        get: dereferenced -> Option<&str>,
    }

    /// Let processes of workers command the cluster (`reload`, `scale`, `stop`, `run --replace` and all other
    /// verbs that change it), where their user may: without it the master refuses them
    worker_commands: bool {
        key: "worker_commands",
        flag: "--worker-commands", "true|false",
        range: Any,
        default: "false",
        changes: AtOnce,
        get: copied -> bool,
    }

    /// Signal that tells a worker to end; after `timeouts.die` SIGKILL follows
    stop_signal: Signal {
        key: "stop_signal",
        flag: "--stop-signal", "SIGNAL",
        range: StopSignal,
        default: "TERM",
        changes: NextGeneration,
        get: none,
    }

    /// Signal that tells a worker once that it is retired: sent when the rules have moved and its queue
    /// is empty, long before its end. It is to finish the connections that it has, for which
    /// `timeouts.drain` counts from then on, and cannot serve again
    retire_signal: Option<Signal> {
        key: "retire_signal",
        flag: "--retire-signal", "SIGNAL",
        range: FinishingSignal,
        default: "" means "none",
        example: "QUIT",
        changes: NextGeneration,
        get: none,
    }

    /// Which processes of a worker signals go to: group (all of its process group), mixed (the main
    /// process alone; SIGKILL all of them, and what is left when the main process has ended), process
    /// (the main process alone; what it leaves is told to end when it has ended)
    kill_mode: KillMode {
        key: "kill_mode",
        flag: "--kill-mode", "group|mixed|process",
        range: Any,
        default: "group",
        changes: NextGeneration,
        get: none,
    }

    /// What becomes of the workers when SIGTERM or SIGINT ends the master: leave (they serve on, and
    /// the next master adopts them), drain (they finish their connections and end, and the rules go;
    /// at once with a second signal), auto (drain by Ctrl-C in a terminal and as process 1 of a container,
    /// else leave)
    on_exit: OnExit {
        key: "on_exit",
        flag: "--on-exit", "auto|leave|drain",
        range: Any,
        default: "auto",
        changes: AtOnce,
        get: copied -> OnExit,
    }

    /// Variable that workers get too: KEY or PREFIX* passes the master's on, KEY=VALUE sets it (`{port}`
    /// and others as in `command`); repeat for more
    env: Environment {
        key: "env",
        flag: "--env", "KEY[=VALUE]",
        range: Any,
        default: "" means "none",
        example: "NODE_* TZ=UTC",
        changes: NewGeneration,
        get: reference -> &Environment,
    }

    /// File with variables that workers get, as systemd's EnvironmentFile; read for each generation, over
    /// `env`; with - before it it may be missing; repeat for more
    env_file: Vec<PathBuf> {
        key: "env_file",
        flag: "--env-file", "FILE",
        range: Any,
        default: "" means "none",
        example: "/etc/default/web",
        changes: NextGeneration,
        get: none,
    }

    /// Mask of the modes of files that workers make, in octal
    umask: Option<FileModeMask> {
        key: "umask",
        flag: "--umask", "MASK",
        range: Any,
        default: "" means "the master's",
        example: "0027",
        changes: NextGeneration,
        get: copied -> Option<FileModeMask>,
    }

    /// What is added to the master's nice value for workers
    nice: i32 {
        key: "nice",
        flag: "--nice", "N",
        range: -20..=19,
        default: "0",
        changes: Restart,
        get: copied -> i32,
    }

    /// Control socket for workers alone
    socket: Option<PathBuf> {
        key: "socket",
        flag: "--socket", "PATH",
        range: SocketPath,
        default: "" means "the operators' one",
        example: "/run/web/workers.sock",
        changes: Restart,
        get: dereferenced -> Option<&Path>,
    }

    /// How long the workers that a reload, promote, scale or changed configuration has put in force are on
    /// probation: those before them are kept able to serve meanwhile, and serve again if too many new ones
    /// fail; 0: not at all
    rollout_probation: Duration {
        key: "rollout.probation",
        flag: "--rollout-probation", "TIME",
        range: Any,
        default: "10s",
        changes: AtOnce,
        get: copied -> Duration,
    }

    /// How many workers may be lost or become unhealthy on probation until those before them serve again:
    /// a number, or auto (each seat may lose one, if the next one gets ready). Whatever it is, they do
    /// when no worker is healthy
    rollout_max_failures: MaxFailures {
        key: "rollout.max_failures",
        flag: "--rollout-max-failures", "N|auto",
        range: Any,
        default: "auto",
        changes: AtOnce,
        get: copied -> MaxFailures,
    }

    /// How long a worker may take until it is ready
    ready_timeout: Duration {
        key: "timeouts.ready",
        flag: "--ready-timeout", "TIME",
        range: MoreThanZero,
        default: "30s",
        changes: AtOnce,
        get: copied -> Duration,
    }

    /// How long a retired worker may finish its connections; 0: as long as it takes
    drain_timeout: Option<Duration> {
        key: "timeouts.drain",
        flag: "--drain-timeout", "TIME",
        range: Any,
        default: "0",
        changes: AtOnce,
        get: copied -> Option<Duration>,
    }

    /// How long after a reload the workers of the generation before are kept although their
    /// connections have ended, so that `rollback` finds them; at most `timeouts.drain`
    rollback_timeout: Duration {
        key: "timeouts.rollback",
        flag: "--rollback-timeout", "TIME",
        range: Any,
        default: "0",
        changes: AtOnce,
        get: copied -> Duration,
    }

    /// How long a worker may take to end before it is killed
    die_timeout: Duration {
        key: "timeouts.die",
        flag: "--die-timeout", "TIME",
        range: Any,
        default: "5s",
        changes: AtOnce,
        get: copied -> Duration,
    }

    /// After how much silence a worker gets no clients until it answers again; 0: never
    // Workers are looked at a few times within it.
    ping_timeout: Option<Duration> {
        key: "timeouts.ping",
        flag: "--ping-timeout", "TIME",
        range: ZeroOrAtLeast(Duration::from_secs(1)),
        default: "10s",
        changes: Restart,
        get: copied -> Option<Duration>,
    }

    /// How often a worker has to send WATCHDOG=1; 0: never
    // It is looked at ten times a second.
    watchdog_timeout: Option<Duration> {
        key: "timeouts.watchdog",
        flag: "--watchdog-timeout", "TIME",
        range: ZeroOrAtLeast(Duration::from_millis(100)),
        default: "0",
        changes: Restart,
        get: copied -> Option<Duration>,
    }

    /// How long `hooks.before_reload` and `hooks.after_reload` may take before they are ended; 0: as long as
    /// it takes
    hook_timeout: Option<Duration> {
        key: "timeouts.hook",
        flag: "--hook-timeout", "TIME",
        range: Any,
        default: "5min",
        changes: NextGeneration,
        get: copied -> Option<Duration>,
    }

    /// How many workers start at a time: the next one when one of them is ready, or has been starting for 1 s;
    /// 0: as many as there are processors
    spawn_parallel: u16 {
        key: "spawn.parallel",
        flag: "--spawn-parallel", "N",
        range: 0..=1024,
        default: "0",
        changes: AtOnce,
        get: copied -> u16,
    }

    /// Pause between the starts of two workers, and between the ends of two that could have gone on, which
    /// lie 100 ms apart if this is 0. `spawn.parallel` is for most what is wanted
    spawn_stagger: Duration {
        key: "spawn.stagger",
        flag: "--spawn-stagger", "TIME",
        range: Any,
        default: "0",
        changes: AtOnce,
        get: copied -> Duration,
    }

    /// Wait before a worker that failed is replaced: the first time, and at most. None for one that
    /// was ready for 10 s, nor for a live one that ends with status 0
    spawn_backoff: Backoff {
        key: "spawn.backoff",
        flag: "--spawn-backoff", "FIRST..MOST",
        range: Any,
        default: "1s..30s",
        changes: AtOnce,
        get: copied -> Backoff,
    }

    /// Start no more workers for a seat that has lost so many in so short a time, for as long again or
    /// until a reload, scale or retire, and only while another worker serves; 0: never
    spawn_give_up: Option<GiveUp> {
        key: "spawn.give_up",
        flag: "--spawn-give-up", "NUMBER in TIME",
        range: Any,
        default: "5 in 60s",
        changes: AtOnce,
        get: copied -> Option<GiveUp>,
    }

    /// Replace a worker that has more resident memory; 0: none
    retire_rss: Option<MemorySize> {
        key: "retire.rss",
        flag: "--retire-rss", "MEMORY",
        range: Any,
        default: "0",
        changes: AtOnce,
        get: none,
    }

    /// Replace at most so many workers within `retire.window`, apart from those that `ipcluster retire`
    /// names
    retire_rate: u32 {
        key: "retire.rate",
        flag: "--retire-rate", "N",
        range: 1..=1024,
        default: "10",
        changes: AtOnce,
        get: none,
    }

    /// Within which time no more than `retire.rate` workers are replaced; 0: any number at any time
    retire_window: Duration {
        key: "retire.window",
        flag: "--retire-window", "TIME",
        range: Any,
        default: "2min",
        changes: AtOnce,
        get: none,
    }

    /// What is added to the nice value of a worker when it is retired; 0: nothing
    retire_renice: i32 {
        key: "retire.renice",
        flag: "--retire-renice", "N",
        range: 0..=19,
        default: "1",
        changes: AtOnce,
        get: none,
    }

    /// End a retired worker although it has connections when nothing has come or gone on any of them for
    /// so long, as on those that clients keep for later requests. While an answer is awaited it is not
    /// ended, for a minute at least; 0: only when its connections have ended
    // Off, because the kernel does not know whether a connection that is silent, such as that of a chat or
    // a shell, is of no use; for servers that speak HTTP it does no harm.
    retire_idle: Option<Duration> {
        key: "retire.idle",
        flag: "--retire-idle", "TIME",
        range: ZeroOrAtLeast(Duration::from_secs(1)),
        default: "0",
        example: "5s",
        changes: AtOnce,
        get: copied -> Option<Duration>,
    }

    /// Replace a worker that was started so long ago, one after the other; 0: none
    retire_max_age: Option<Duration> {
        key: "retire.max_age",
        flag: "--retire-max-age", "TIME",
        range: Any,
        default: "0",
        changes: AtOnce,
        get: none,
    }

    /// Replace a worker that about so many connections were led to, before it ends by a limit of its
    /// own; 0: none
    retire_connections: u32 {
        key: "retire.connections",
        flag: "--retire-connections", "N",
        range: Any,
        default: "0",
        changes: AtOnce,
        get: none,
    }

    /// By how many percent at most `drain`, `retire.max_age` and `retire.connections` are lower for each worker,
    /// at random, so that workers do not end, and are not replaced, all at once
    retire_jitter: u32 {
        key: "retire.jitter",
        flag: "--retire-jitter", "PERCENT",
        range: 0..=100,
        default: "10",
        changes: AtOnce,
        get: none,
    }

    /// Replace a worker that reports such a lag of its event loop; 0: none
    retire_lag: Option<Duration> {
        key: "retire.lag",
        flag: "--retire-lag", "TIME",
        range: Any,
        default: "150ms",
        changes: Restart,
        get: none,
    }

    /// How much memory the master and all workers may have together: above a part of it retired workers
    /// end; 0: any amount
    memory_total: Option<MemorySize> {
        key: "memory.total",
        flag: "--memory-total", "MEMORY",
        range: Any,
        default: "0",
        changes: AtOnce,
        get: none,
    }

    /// The part of `memory.total` above which retired workers are asked to end
    memory_low: f64 {
        key: "memory.low",
        flag: "--memory-low", "PART",
        range: PartOfTotal,
        default: "0.80",
        changes: AtOnce,
        get: none,
    }

    /// The part of `memory.total` above which retired workers are killed
    memory_high: f64 {
        key: "memory.high",
        flag: "--memory-high", "PART",
        range: PartOfTotal,
        default: "0.95",
        changes: AtOnce,
        get: none,
    }

    /// Which retired worker ends first: connections (the one with the fewest), age (the oldest),
    /// memory (the largest)
    memory_order: KillOrder {
        key: "memory.order",
        flag: "--memory-order", "connections|age|memory",
        range: Any,
        default: "connections",
        changes: AtOnce,
        get: none,
    }

    /// How many files a worker may have open: both limits, SOFT:HARD, or infinity
    limit_nofile: Option<ResourceLimit> {
        key: "limits.nofile",
        flag: "--limit-nofile", "LIMIT",
        range: Any,
        default: "" means "the master's",
        example: "65536",
        changes: NextGeneration,
        get: copied -> Option<ResourceLimit>,
    }

    /// How large a core file of a worker may be, in bytes: both limits, SOFT:HARD, or infinity; K, M, G and T
    /// are powers of 1024
    limit_core: Option<ResourceLimit> {
        key: "limits.core",
        flag: "--limit-core", "LIMIT",
        range: Any,
        default: "" means "the master's",
        example: "0:infinity",
        changes: NextGeneration,
        get: copied -> Option<ResourceLimit>,
    }

    /// How much memory a worker may lock, in bytes, as `limits.core`
    limit_memlock: Option<ResourceLimit> {
        key: "limits.memlock",
        flag: "--limit-memlock", "LIMIT",
        range: Any,
        default: "" means "the master's",
        example: "64M",
        changes: NextGeneration,
        get: copied -> Option<ResourceLimit>,
    }

    /// Command that runs before the workers of a reload are started, such as a migration; if it fails, so does
    /// the reload. As a flag one word, and repeated for the next
    before_reload: Option<WorkerCommand> {
        key: "hooks.before_reload",
        flag: "--before-reload", "COMMAND",
        range: Any,
        default: "" means "none",
        example: "./migrate up",
        changes: NextGeneration,
        get: reference -> &Option<WorkerCommand>,
    }

    /// Command that runs when a reload is in force; the log says what came of it. As a flag one word, and
    /// repeated for the next
    after_reload: Option<WorkerCommand> {
        key: "hooks.after_reload",
        flag: "--after-reload", "COMMAND",
        range: Any,
        default: "" means "none",
        example: "./purge-cache",
        changes: NextGeneration,
        get: reference -> &Option<WorkerCommand>,
    }

    /// Where what workers print goes: stdout (of this program), journal (of systemd), or
    /// file:/DIRECTORY (`NAME.seat-K.generation-G.log`, made anew when it is renamed or removed). It waits
    /// in memory while it cannot be written, at most 16 MiB of each worker
    output: WorkerOutput {
        key: "output.to",
        flag: "--output" or "output-to", "stdout|journal|file:/DIR",
        range: Any,
        default: "stdout",
        changes: Restart,
        get: reference -> &WorkerOutput,
    }

    /// Whether each line that goes to stdout begins with the seat of its worker; without it, lines that
    /// are JSON stay JSON
    output_prefix: bool {
        key: "output.prefix",
        flag: "--output-prefix", "true|false",
        range: Any,
        default: "true",
        changes: Restart,
        get: copied -> bool,
    }

    /// Whether each line that goes to stdout or a file begins with the time at which it was read, in UTC
    /// (`2026-11-29T16:31:05.042Z`)
    output_timestamps: bool {
        key: "output.timestamps",
        flag: "--output-timestamps", "true|false",
        range: Any,
        default: "false",
        changes: Restart,
        get: copied -> bool,
    }

    /// With file:/DIRECTORY: of how many generations the files are kept; those of older ones are removed
    /// when a new one prints, with what was rotated of them
    output_keep: u16 {
        key: "output.keep",
        flag: "--output-keep", "N",
        range: Any,
        default: "0" means "of all",
        example: "10",
        changes: Restart,
        get: copied -> u16,
    }

    /// Up to which level the master logs: error, warn, info, debug or trace
    log_level: Option<LogLevel> {
        key: "log.level",
        flag: "--log-level", "LEVEL",
        range: Any,
        default: "" means "what $IPCLUSTER_LOG says, else info",
        example: "debug",
        changes: Restart,
        get: copied -> Option<LogLevel>,
    }

    /// How the master logs, on stderr: text, json (an object a line), journal (with priorities as `<4>`
    /// and without times, for a journal that has its own)
    log_format: Option<LogFormat> {
        key: "log.format",
        flag: "--log-format", "text|json|journal",
        range: Any,
        default: "" means "journal where stderr leads to that of systemd, else text",
        example: "json",
        changes: Restart,
        get: copied -> Option<LogFormat>,
    }

    /// Address and port for / (a page to look at), /metrics (Prometheus) and /healthz, without a password
    http_listen: Option<SocketAddr> {
        key: "http.listen",
        flag: "--http-listen", "ADDR:PORT",
        range: Any,
        default: "" means "none",
        example: "127.0.0.1:9180",
        changes: Restart,
        get: copied -> Option<SocketAddr>,
    }

    /// Name of the fleet that this host is a member of: one for all its hosts, that of their rules in the kernel
    fleet_name: Option<ClusterName> {
        key: "fleet.name",
        flag: "--fleet-name", "NAME",
        range: Any,
        default: "" means "none: this host serves alone",
        example: "web",
        changes: Restart,
        get: none,
    }

    /// Which member this host is
    fleet_member: Option<MemberName> {
        key: "fleet.member",
        flag: "--fleet-member", "NAME",
        range: Any,
        default: "" means "the name of the host up to its first dot",
        example: "a",
        changes: Restart,
        get: none,
    }

    /// The addresses at which the other members reach this host on `fleet.device`: one, or one of each family; with
    /// a file as `fleet.membership` those that stand there count
    fleet_addresses: Vec<IpAddr> {
        key: "fleet.addresses",
        flag: "--fleet-address", "ADDR",
        range: Any,
        default: "" means "as `fleet.membership` says",
        example: "10.0.0.1",
        changes: Restart,
        get: none,
    }

    /// The network device on which packets of clients come in and the other members are
    fleet_device: Option<DeviceName> {
        key: "fleet.device",
        flag: "--fleet-device", "DEVICE",
        range: Any,
        default: "" means "none: a fleet needs one",
        example: "eth0",
        changes: Restart,
        get: none,
    }

    /// Share of this host, relative to those of the other members; 0: it owns nothing; with a file as
    /// `fleet.membership` the one that stands there counts
    fleet_weight: u16 {
        key: "fleet.weight",
        flag: "--fleet-weight", "N",
        range: 0..=65535,
        default: "1",
        changes: Restart,
        get: none,
    }

    /// Where the list of members comes from: file:PATH (somebody else writes it, as `ipcluster fleet plan` prints
    /// it), or etcd
    fleet_membership: Option<FleetMembership> {
        key: "fleet.membership",
        flag: "--fleet-membership", "file:PATH|etcd",
        range: Any,
        default: "" means "none: a fleet needs one",
        example: "file:/etc/ipcluster/fleet.json",
        changes: Restart,
        get: none,
    }

    /// Into how many slots a fleet that this host begins spreads clients, at least one for each member
    fleet_slots: u32 {
        key: "fleet.slots",
        flag: "--fleet-slots", "N",
        range: PlannedAs("1 to 65536"),
        default: "1024",
        changes: Restart,
        get: none,
    }

    /// The seed of the hash of a fleet that this host begins: not that of the hosts' own partitions
    fleet_seed: u32 {
        key: "fleet.seed",
        flag: "--fleet-seed", "N",
        range: Any,
        default: "4058938140",
        changes: Restart,
        get: none,
    }

    /// How many former owners a slot of a fleet that this host begins remembers: as many changes of the members
    /// are survived by connections that are older
    fleet_kept: u16 {
        key: "fleet.kept",
        flag: "--fleet-kept", "N",
        range: 0..=4,
        default: "2",
        changes: Restart,
        get: none,
    }

    /// How long the others wait for a member that says nothing before its slots go to them (etcd)
    fleet_lease: Duration {
        key: "fleet.lease",
        flag: "--fleet-lease", "TIME",
        range: LeaseTime,
        default: "5s",
        changes: Restart,
        get: none,
    }

    /// The servers of etcd, which are asked one after the other when one fails; repeat for more
    fleet_etcd: Vec<String> {
        key: "fleet.etcd",
        flag: "--fleet-etcd", "http[s]://HOST:PORT",
        range: Any,
        default: "" means "none",
        example: "http://127.0.0.1:2379",
        changes: Restart,
        get: none,
    }

    /// The certificates of whoever has signed those of the etcd servers, in PEM
    fleet_etcd_ca: Option<PathBuf> {
        key: "fleet.etcd_ca",
        flag: "--fleet-etcd-ca", "FILE",
        range: FilePath,
        default: "" means "none: needed with https",
        example: "/etc/ipcluster/etcd-ca.pem",
        changes: Restart,
        get: none,
    }

    /// The certificate that etcd knows this host by, in PEM
    fleet_etcd_cert: Option<PathBuf> {
        key: "fleet.etcd_cert",
        flag: "--fleet-etcd-cert", "FILE",
        range: FilePath,
        default: "" means "none",
        example: "/etc/ipcluster/etcd.pem",
        changes: Restart,
        get: none,
    }

    /// The private key of `fleet.etcd_cert`, in PEM
    fleet_etcd_key: Option<PathBuf> {
        key: "fleet.etcd_key",
        flag: "--fleet-etcd-key", "FILE",
        range: FilePath,
        default: "" means "none",
        example: "/etc/ipcluster/etcd.key",
        changes: Restart,
        get: none,
    }

    /// The user of etcd
    fleet_etcd_user: Option<String> {
        key: "fleet.etcd_user",
        flag: "--fleet-etcd-user", "NAME",
        range: Any,
        default: "" means "none",
        example: "ipcluster",
        changes: Restart,
        get: none,
    }

    /// The file with the password of `fleet.etcd_user`, on its first line
    fleet_etcd_password_file: Option<PathBuf> {
        key: "fleet.etcd_password_file",
        flag: "--fleet-etcd-password-file", "FILE",
        range: FilePath,
        default: "" means "none",
        example: "/etc/ipcluster/etcd.password",
        changes: Restart,
        get: none,
    }

    /// Start new workers in place of those of an earlier master, also where nothing has changed, and end
    /// these without waiting for their connections when the new ones are in force
    kill_old: bool {
        key: "kill_old" (flag_only),
        flag: "--kill-old", "true|false",
        range: Any,
        default: "false" means "$IPC_START_KILLOLD is TRUE",
        changes: Restart,
        get: copied -> bool,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_and_every_example_can_be_given() {
        for setting in SETTINGS {
            let default = match setting.default {
                DefaultValue::Is(text) | DefaultValue::Means(text, _) => Some(text),
                DefaultValue::Required(_) => None,
            };
            assert!(default.or(setting.example).is_some(), "{}", setting.key);
            for text in default.into_iter().chain(setting.example) {
                let least = ConfigBuilder::default()
                    .listen(vec!["0.0.0.0:80".parse().unwrap()])
                    .command(WorkerCommand::new("server"))
                    .workers(3);
                let mut given = ConfigBuilder::default();
                let raw = setting.form.raw(text).unwrap();
                given.read(setting.key, raw, Origin::Builder, Vec::new());
                assert!(given.over(least).resolve().is_ok(), "{}: {text}", setting.key);
            }
        }
    }

    #[test]
    fn no_key_and_no_flag_is_there_twice() {
        let all = |of: fn(&Setting) -> &str| SETTINGS.iter().map(of).collect::<BTreeSet<_>>();
        assert_eq!(all(|setting| setting.key).len(), SETTINGS.len());
        assert_eq!(all(|setting| setting.flag).len(), SETTINGS.len());
        for setting in SETTINGS {
            assert!(setting.key.matches('.').count() <= 1, "{}", setting.key);
            assert!(setting.flag.starts_with("--"), "{}", setting.flag);
        }
    }
}
