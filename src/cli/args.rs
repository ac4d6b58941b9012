//! Verbs, flags and their help.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::{Given, Settings};
use crate::plan::{ClusterName, Engine, Share};
use crate::protocol::RetireTarget;
use clap::{Args, Parser, Subcommand};

/// Sticky load balancing in the kernel for the worker processes of one host.
///
/// Clients of a public port are spread over worker processes by nftables rules, by their address
/// alone. A reload starts new workers beside the old ones and moves all new connections over at
/// once; established ones stay where they are.
#[derive(Debug, Parser)]
#[command(name = "ipcluster", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Where control sockets and locks are [default: $IPCLUSTER_RUNTIME_DIR, else /run/ipcluster
    /// for root, else $XDG_RUNTIME_DIR/ipcluster]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  ipcluster demo                                        see it work, without root
  ipcluster check                                       see whether it can work here
  ipcluster run --listen 0.0.0.0:80 -- node server.js   one worker a CPU, each gets its PORT
  ipcluster reload                                      new workers, no connection lost
  ipcluster stop                                        drain, end the workers, remove the rules

Where NAME may be left out, the only cluster that runs is meant.
Exit codes: 0 done; 1 failed (stderr says why, and what to do next); 2 wrong usage.";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a cluster, or take over one whose master is gone; stays in the foreground
    ///
    /// SIGTERM and SIGINT end the master alone: the workers and the rules serve on, and the next
    /// `run` of the same name adopts them: the same processes, and no rule changes. If it is given
    /// another command, environment or number of workers, those come into force without a connection
    /// lost. SIGHUP reloads, SIGUSR1 is `ipcluster clear-retired`.
    /// `ipcluster stop` ends all.
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Start a new generation and move all new connections to it
    ///
    /// Returns when new connections go to the new workers, or says why not: then the old ones serve
    /// on. Established connections stay with the old workers, which end when those have ended.
    ///
    /// With --share the new generation is on trial: workers beside the old ones get a part of the
    /// clients, chosen by their address, and nobody else notices. `promote` or `rollback` ends that.
    #[command(after_help = RELOAD_HELP)]
    Reload(ReloadArgs),
    /// Put the generation on trial into force for all clients
    ///
    /// It gets a worker in every seat, and when all are ready all new connections go to those, or it
    /// says why not: then it stays on trial. Those of the old generation, and those that were on trial,
    /// finish their connections.
    Promote(ClusterArgs),
    /// End the trial of a generation, or go back to the one before the last reload
    ///
    /// On trial: its clients go back to the workers that they had. After a reload or promote: new
    /// connections go back to the workers of the generation before, without a start, as long as all of
    /// them still run and listen. They end with their last connection, so give --rollback-timeout to
    /// `run` to keep them for some time.
    Rollback(ClusterArgs),
    /// Replace one live worker: start another in its seat, and when that is ready let the old one
    /// finish its connections
    ///
    /// Returns when new connections go to the successor, or says why not: then the old one serves on.
    /// A successor that fails is tried again, until its seat is given up (--spawn-give-up of `run`).
    Retire(RetireArgs),
    /// End all workers that are retired now, one after the other, without waiting for their
    /// connections
    ///
    /// Returns when they are gone. SIGUSR1 to the master does the same.
    ClearRetired(ClearRetiredArgs),
    /// Show the workers by seat
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Print what happens, one JSON object a line, until the master ends
    #[command(after_help = EVENTS_HELP)]
    Events(ClusterArgs),
    /// Change the number of workers, with the least movement of clients
    Scale(ScaleArgs),
    /// Drain and end all workers, remove the rules, end the master
    Stop(StopArgs),
    /// Print the rules that `run` would install, in nft syntax; touches nothing, needs no privilege
    #[command(after_help = PLAN_HELP)]
    Plan(RunArgs),
    /// Say which slot, seat, worker and port a client address reaches, and why
    Explain(ExplainArgs),
    /// Say what this machine supports and lacks; exit code 1 if `run` would fail
    Check,
    /// Remove the rules of a cluster whose master is gone
    ///
    /// Refused while a master runs: `ipcluster stop` is for that. Workers that still run are not
    /// ended. Connections that the rules carry are reset.
    Flush(ClusterArgs),
    /// Show the whole thing in a network namespace of its own, without root, in half a minute
    ///
    /// Puts workers behind rules in the real kernel, connects to them from thousands of client
    /// addresses, reloads, kills a worker, scales and stops, and prints what the clients saw. Touches
    /// nothing outside of its namespace, and leaves nothing behind.
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArgs),
    /// Print the completion script of a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// The small HTTP server that `demo` starts as its workers
    #[command(hide = true)]
    DemoWorker,
}

const RELOAD_HELP: &str = "\
Examples:
  ipcluster reload                    all clients get the new generation
  ipcluster reload --share 10%        one of ten clients does: 102 of 1,024 slots
  ipcluster reload web --share 0.5%   of the cluster web";

const DEMO_HELP: &str = "\
Columns: connections that ended in the phase; those that failed; clients that another worker than
before answered (in a reload: another seat); half and 99 % of the answers came within p50 and p99.

Exit codes: 0 all that it shows is as promised; 1 it is not, or the system forbids user namespaces
(stderr says what to change).";

const RUN_HELP: &str = "\
Workers get PORT (the port to listen on, on all addresses), IPCLUSTER_PORT_<public> for each public
port, IPCLUSTER_SEAT (from 0), IPCLUSTER_WORKERS (always above the seat: those of a reload --share
have seats beyond --workers), IPCLUSTER_GENERATION, IPCLUSTER_NAME, IPCLUSTER_SOCKET and NOTIFY_SOCKET.
Of the other variables they get PATH, HOME, USER, LOGNAME, SHELL, TERM, TZ, LANG, LANGUAGE, LC_*,
TMPDIR, and those of --env. A worker is ready when it listens on its ports, or is bound to those of
udp listeners; on SIGTERM it should
finish its connections and exit.

A worker that is stopped, does not listen any more, accepts nobody for the ping timeout while others
wait, or does not answer what --ready http:/PATH or --watchdog-timeout ask of it, gets no new clients
until it answers again, as long as others do. On NOTIFY_SOCKET (sd_notify) it can say READY=1,
STOPPING=1, STATUS=, WATCHDOG=1 and EXTEND_TIMEOUT_USEC=.

With --socket-activation they get their sockets as well: LISTEN_FDS of them, from descriptor 3 on,
LISTEN_FDNAMES (80/tcp:443/tcp:443/udp) and LISTEN_PID. A worker that takes them is ready as soon as its
program runs: connections wait until it accepts.

With --ready protocol it is ready when it has said, over the control socket, on which ports it listens,
as workers of the older ipcluster do. It then gets __ZWORKER__, __ZWORKER__BAND__,
__ZWORKER__NUM_WORKERS__ and <seat>:<workers> as its last argument, too, and --socket names the path
where it looks for its master. See docs/moving.md.

TIME is a whole number with ms, s, min or h; MEMORY one with B, KiB, MiB, GiB or TiB.

Examples:
  ipcluster run --listen 0.0.0.0:80 --workers 4 -- node server.js
  ipcluster run --name api --listen 10.9.0.1:80 --listen [::]:80 --env 'NODE_*' -- node server.js
  ipcluster run -c web.toml --workers 8 --http-listen 127.0.0.1:9180

The file holds the same settings as the flags (name, listen, workers, command, partition, slots,
weights, worker_ports, socket_activation, backlog, engine, local_clients, ready, ownership, user, group, on_exit, env, socket, [timeouts] ready, drain, rollback, die,
ping, watchdog, [spawn] stagger, backoff, give_up, [retire] rss, rate, window, renice, max_age, lag, [memory] total, low, high,
order, [output] to, [http] listen). Flags win.

Exit codes: 0 stopped, or left by a signal; 1 failed; 2 wrong usage.";

const PLAN_HELP: &str = "\
Example:
  ipcluster plan --listen 0.0.0.0:80 --workers 4 -- node server.js | nft --check -f -";

const STATUS_HELP: &str = "\
States: starting (gets no connections yet), live (gets those of its seat), leaving (live, until its
successor is ready), retired (finishes those
that it has), dying (was asked to end).

--json prints one object: schema (1), name, pid (of the master), generation, listeners, partition,
slots, repairs (of rules that others had changed) and last_writer (who made the last one necessary),
foreign_chains (rules of others that decide before ours), orphans (pid, seat, generation, reason: of
processes that seem to be workers of an earlier master, but cannot be proven to be), conntrack (entries, limit; 0: none), serving
(seats that get connections), trial (of a generation: generation, first_seat, seats, slots; or null),
swaps (a histogram), restarts (by reason), retirements (of live workers, by cause), given_up (seats that get no worker for
now), and workers: a list of seat, slots, pid (null before it is spawned), adopted (an earlier
master has started it), state, leaving (why it is
replaced, or null), generation,
health (ok, silent), text (what it says of itself: STATUS= of sd_notify; else null), ports
(public port: worker port), uptime (seconds), connections (established ones; null if not counted),
queued (not accepted yet), half_open (handshakes under way), connections_total (of a live worker: all
that its seat was ever given, whoever held it; else null), and memory (resident bytes, with the
processes that it has started; null if not known).
Fields may be added within a schema.";

const EVENTS_HELP: &str = "\
Each line has event (its name), time (seconds since 1970), and what is known: mostly worker (a number),
seat and generation. The first one is `subscribed`; every second there is `stats`, with the memory of
all workers. Who reads too slowly gets `missed` with a count, and after five seconds the end.

Example:
  ipcluster events web | jq --unbuffered 'select(.event != \"stats\")'";

const COMPLETIONS_HELP: &str = "\
Example:
  ipcluster completions bash > /usr/share/bash-completion/completions/ipcluster";

/// A cluster by its name, or the only one.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// The cluster [default: the only one that there is]
    pub(crate) name: Option<ClusterName>,
}

#[derive(Debug, Args)]
pub(crate) struct ClearRetiredArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// End the orphans instead, as `status` lists them: processes that say that they are workers of
    /// this cluster, from before this master, and do not serve. They are asked to, and killed after
    /// --die-timeout of `run`; this does not wait for that
    #[arg(long)]
    pub(crate) orphans: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Try the new generation on this part of the clients, above 0% and below 100%
    #[arg(long, value_name = "PERCENT%")]
    pub(crate) share: Option<Share>,
    /// Then end all retired workers, one after the other, without waiting for their connections, and
    /// return when they are gone
    #[arg(long, conflicts_with = "share")]
    pub(crate) clear_retired: bool,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct RetireArgs {
    /// The cluster [default: the only one that runs]
    pub(crate) name: Option<ClusterName>,
    /// The worker: a number up to 1023 is its seat, a larger one its pid; pid:N is a pid however small
    #[arg(value_name = "SEAT|PID", value_parser = super::retire::target)]
    pub(crate) target: RetireTarget,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct ScaleArgs {
    /// The cluster [default: the only one that runs]
    pub(crate) name: Option<ClusterName>,
    /// How many workers there shall be, 1 to 1024
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: u16,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Do not wait for connections to end
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct ExplainArgs {
    /// The cluster [default: the only one that runs]
    pub(crate) name: Option<ClusterName>,
    /// The client's IPv4 or IPv6 address
    pub(crate) address: IpAddr,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How connections are handed to workers: redirect or tproxy
    #[arg(long, value_name = "redirect|tproxy", default_value_t, value_parser = parse_engine)]
    pub(crate) engine: Engine,
}

fn parse_engine(text: &str) -> Result<Engine, &'static str> {
    text.parse()
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Read settings from a TOML file; flags win
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Take over from the master of this name if one runs, such as one of another version: it hands
    /// over its rules, workers and sockets, and ends
    #[arg(long)]
    pub(crate) replace: bool,
    /// Name of the cluster, of its table in the kernel and of its control socket [default: main]
    #[arg(long)]
    name: Option<String>,
    /// Address and port that clients connect to; repeat for more [0.0.0.0 and [::]: all addresses]
    #[arg(long, value_name = "ADDR:PORT[/tcp|/udp]")]
    listen: Option<Vec<String>>,
    /// How many workers, 1 to 1024 [default: as many as CPUs]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    workers: Option<i64>,
    /// How clients are spread: hash, or mask (low bits of the address; N a power of two) [default:
    /// hash]
    #[arg(long, value_name = "hash|mask")]
    partition: Option<String>,
    /// Into how many slots the hash spreads clients; fixed for the life of the cluster [default:
    /// 1024]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    slots: Option<i64>,
    /// Share of each worker, relative to the others [default: all the same]
    #[arg(long, value_name = "W,W,...", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Option<Vec<f64>>,
    /// Ports that workers get, enough for three generations; other hosts cannot reach them but
    /// through a listener [default: 20000-29999]
    #[arg(long, value_name = "FIRST-LAST")]
    worker_ports: Option<String>,
    /// Open the listening sockets of workers and keep them, so that connections that wait outlive a
    /// worker; workers take them by LISTEN_FDS, as under systemd
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    socket_activation: Option<bool>,
    /// How many connections wait in each of these sockets, at most net.core.somaxconn [default:
    /// 4096]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    backlog: Option<i64>,
    /// How connections are handed to workers: redirect (the address is translated; any program), or
    /// tproxy (nothing is translated or tracked; workers take their sockets by LISTEN_FDS) [default:
    /// redirect]
    #[arg(long, value_name = "redirect|tproxy")]
    engine: Option<String>,
    /// Balance connections that start on this host as well
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    local_clients: Option<bool>,
    /// How a worker shows that it is ready: tcp (it listens), notify (and says READY=1, as
    /// sd_notify does), http:/PATH (and answers with status 200 there), protocol (it listens where
    /// it says over the control socket, as workers of the older system do) [default: tcp]
    #[arg(long, value_name = "tcp|notify|http:/PATH|protocol")]
    ready: Option<String>,
    /// Control socket for workers alone, at this absolute path [default: the operators' one]
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// Whether other programs can change the rules: auto (not if the kernel can prevent it: Linux
    /// 6.9), owned (not), shared (they can) [default: auto]
    #[arg(long, value_name = "auto|owned|shared")]
    ownership: Option<String>,
    /// User that workers run as, by name or number [default: the master's, without its privilege]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Group that workers run as, by name or number [default: that of the user]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// What becomes of the workers when SIGTERM or SIGINT ends the master: leave (they serve on, and
    /// the next master adopts them), drain (they finish their connections and end, and the rules go;
    /// at once with a second signal) [default: leave]
    #[arg(long, value_name = "leave|drain")]
    on_exit: Option<String>,
    /// Variable that workers get too: KEY or PREFIX* passes yours on, KEY=VALUE sets it; repeat for
    /// more
    #[arg(long, value_name = "KEY[=VALUE]")]
    env: Option<Vec<String>>,
    /// How long a worker may take until it is ready [default: 30s]
    #[arg(long, value_name = "TIME")]
    ready_timeout: Option<String>,
    /// How long a retired worker may finish its connections; 0: as long as it takes [default: 0]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<String>,
    /// How long after a reload the workers of the generation before are kept although their
    /// connections have ended, so that `rollback` finds them; at most --drain-timeout [default: 0]
    #[arg(long, value_name = "TIME")]
    rollback_timeout: Option<String>,
    /// How long a worker may take to end before it is killed [default: 5s]
    #[arg(long, value_name = "TIME")]
    die_timeout: Option<String>,
    /// After how much silence a worker gets no clients until it answers again; from 1s, 0: never
    /// [default: 10s]
    #[arg(long, value_name = "TIME")]
    ping_timeout: Option<String>,
    /// How often a worker has to say WATCHDOG=1; from 100ms, 0: never [default: 0]
    #[arg(long, value_name = "TIME")]
    watchdog_timeout: Option<String>,
    /// Pause between the starts of two workers [default: 100ms]
    #[arg(long, value_name = "TIME")]
    spawn_stagger: Option<String>,
    /// Wait before a worker that died is replaced: the first time, and at most [default: 1s..30s]
    #[arg(long, value_name = "FIRST..MOST")]
    spawn_backoff: Option<String>,
    /// Start no more workers for a seat that has lost so many in so short a time, for as long again or
    /// until a reload, scale or retire; 0: never [default: 5 in 60s]
    #[arg(long, value_name = "NUMBER in TIME")]
    spawn_give_up: Option<String>,
    /// Replace a worker that has more resident memory; 0: none [default: 0]
    #[arg(long, value_name = "MEMORY")]
    retire_rss: Option<String>,
    /// Replace at most so many workers within --retire-window, but for those that `ipcluster retire`
    /// names [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    retire_rate: Option<i64>,
    /// See --retire-rate; 0: any number [default: 2min]
    #[arg(long, value_name = "TIME")]
    retire_window: Option<String>,
    /// Nice value of retired workers, 0 to 19; 0: as it was [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    retire_renice: Option<i64>,
    /// Replace a worker that was started so long ago, one after the other; 0: none [default: 0]
    #[arg(long, value_name = "TIME")]
    retire_max_age: Option<String>,
    /// Replace a worker that reports its event loop so late; 0: none [default: 150ms]
    #[arg(long, value_name = "TIME")]
    retire_lag: Option<String>,
    /// Memory of the master and all workers above a part of which retired workers end; 0: any
    /// [default: 0]
    #[arg(long, value_name = "MEMORY")]
    memory_total: Option<String>,
    /// The part of --memory-total above which retired workers are asked to end [default: 0.80]
    #[arg(long, value_name = "PART", allow_negative_numbers = true)]
    memory_low: Option<f64>,
    /// The part of --memory-total above which retired workers are killed [default: 0.95]
    #[arg(long, value_name = "PART", allow_negative_numbers = true)]
    memory_high: Option<f64>,
    /// Which retired worker ends first: connections (the one with the fewest), age (the oldest),
    /// memory (the largest) [default: connections]
    #[arg(long, value_name = "connections|age|memory")]
    memory_order: Option<String>,
    /// End the workers of an earlier master, without waiting for their connections, when the new ones
    /// are in force [default: $IPC_START_KILLOLD is TRUE]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    kill_old: Option<bool>,
    /// Where what workers print goes: stdout (of this program, with the seat before each line),
    /// journal (of systemd), or file:/DIRECTORY (a file for each seat and generation) [default:
    /// stdout]
    #[arg(long, alias = "output-to", value_name = "stdout|journal|file:/DIR")]
    output: Option<String>,
    /// Address and port for /metrics (Prometheus), /healthz and / (status), without a password
    /// [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    http_listen: Option<String>,
    /// What each worker runs
    #[arg(last = true, value_name = "COMMAND")]
    command: Option<Vec<String>>,
}

impl RunArgs {
    /// What the flags say.
    pub(crate) fn into_settings(self) -> Settings {
        let one = |flag, value: Option<String>| value.map(|value| Given::by_flag(flag, value));
        let number = |flag, value: Option<i64>| value.map(|value| Given::by_flag(flag, value));
        let each = |flag, values: Option<Vec<String>>| {
            let given = |value| Given::by_flag(flag, value);
            values.map(|values| values.into_iter().map(given).collect())
        };
        Settings {
            name: one("--name", self.name),
            listen: each("--listen", self.listen),
            workers: number("--workers", self.workers),
            command: self.command.map(|command| Given::by_flag("command line", command)),
            partition: one("--partition", self.partition),
            slots: number("--slots", self.slots),
            weights: self.weights.map(|weights| Given::by_flag("--weights", weights)),
            worker_ports: one("--worker-ports", self.worker_ports),
            socket_activation: self
                .socket_activation
                .map(|on| Given::by_flag("--socket-activation", on)),
            backlog: number("--backlog", self.backlog),
            engine: one("--engine", self.engine),
            local_clients: self.local_clients.map(|on| Given::by_flag("--local-clients", on)),
            ready: one("--ready", self.ready),
            ownership: one("--ownership", self.ownership),
            user: one("--user", self.user),
            group: one("--group", self.group),
            on_exit: one("--on-exit", self.on_exit),
            env: each("--env", self.env),
            socket: one("--socket", self.socket),
            ready_timeout: one("--ready-timeout", self.ready_timeout),
            drain_timeout: one("--drain-timeout", self.drain_timeout),
            rollback_timeout: one("--rollback-timeout", self.rollback_timeout),
            die_timeout: one("--die-timeout", self.die_timeout),
            ping_timeout: one("--ping-timeout", self.ping_timeout),
            watchdog_timeout: one("--watchdog-timeout", self.watchdog_timeout),
            spawn_stagger: one("--spawn-stagger", self.spawn_stagger),
            spawn_backoff: one("--spawn-backoff", self.spawn_backoff),
            spawn_give_up: one("--spawn-give-up", self.spawn_give_up),
            output_to: one("--output", self.output),
            http_listen: one("--http-listen", self.http_listen),
            retire_rss: one("--retire-rss", self.retire_rss),
            retire_rate: number("--retire-rate", self.retire_rate),
            retire_window: one("--retire-window", self.retire_window),
            retire_renice: number("--retire-renice", self.retire_renice),
            retire_max_age: one("--retire-max-age", self.retire_max_age),
            retire_lag: one("--retire-lag", self.retire_lag),
            memory_total: one("--memory-total", self.memory_total),
            memory_low: self.memory_low.map(|part| Given::by_flag("--memory-low", part)),
            memory_high: self.memory_high.map(|part| Given::by_flag("--memory-high", part)),
            memory_order: one("--memory-order", self.memory_order),
            kill_old: self.kill_old.map(|on| Given::by_flag("--kill-old", on)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::Seat;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        // A no-break space is one within a word.
        let words = std::iter::once("ipcluster").chain(line.split_ascii_whitespace());
        let words = words.map(|word| word.replace('\u{a0}', " "));
        Arguments::try_parse_from(words).map(|arguments| arguments.verb)
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_name_may_stand_before_the_last_argument() {
        for (line, expected_name, expected_workers) in [
            ("scale 5", None, 5),
            ("scale web 1024", Some("web"), 1024),
            ("scale 7 8", Some("7"), 8),
        ] {
            let Ok(Verb::Scale(ScaleArgs { name, workers })) = parse(line) else {
                panic!("{line}")
            };
            assert_eq!(name.as_ref().map(ClusterName::as_str), expected_name, "{line}");
            assert_eq!(workers, expected_workers);
        }
        for (line, expected_name, expected) in [
            ("retire 5", None, RetireTarget::Seat(Seat(5))),
            ("retire web 70000", Some("web"), RetireTarget::Pid(70_000)),
            ("retire 7 pid:8", Some("7"), RetireTarget::Pid(8)),
        ] {
            let Ok(Verb::Retire(RetireArgs { name, target })) = parse(line) else {
                panic!("{line}")
            };
            assert_eq!(name.as_ref().map(ClusterName::as_str), expected_name, "{line}");
            assert_eq!(target, expected);
        }
        let Ok(Verb::Explain(explain)) = parse("explain web 2001:db8::1") else { panic!() };
        assert_eq!(explain.name.unwrap().as_str(), "web");
        let Ok(Verb::Explain(explain)) = parse("explain 10.0.0.1") else { panic!() };
        assert!(explain.name.is_none() && explain.address.is_ipv4());
    }

    #[test]
    fn every_verb_is_known() {
        for line in [
            "reload",
            "reload web",
            "reload --share 10%",
            "reload web --share 0.5%",
            "promote",
            "promote web",
            "rollback",
            "rollback web",
            "reload web --clear-retired",
            "clear-retired",
            "clear-retired web",
            "clear-retired web --orphans",
            "status",
            "status web --json",
            "events",
            "events web",
            "stop",
            "stop --now web",
            "check",
            "flush",
            "flush web",
            "demo",
            "demo-worker",
            "completions bash",
            "run --listen 0.0.0.0:80 -- x",
            "plan -c web.toml",
            "status --runtime-dir /tmp/x",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_usage_is_exit_code_2() {
        for line in [
            "",
            "start",
            "scale",
            "scale 0",
            "scale 1025",
            "scale -1",
            "scale web x",
            "explain",
            "explain 10.0.0",
            "reload a/b",
            "reload a b",
            "reload --share",
            "reload --share 10",
            "reload --share 0%",
            "reload --share 100%",
            "promote a b",
            "rollback --share 10%",
            "retire",
            "retire x",
            "retire -1",
            "retire web 4294967296",
            "retire pid:0",
            "retire pid:x",
            "clear-retired a b",
            "run --memory-low x",
            "run --workers many",
            "run --weights 1,x",
            "run --color",
            "status --jsno",
            "completions tcl",
            "run server.js",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
        assert_eq!(parse("--help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    }

    #[test]
    fn every_setting_has_a_flag() {
        let line = "run --name web --listen 0.0.0.0:80 --listen [::]:443 --workers 2 \
            --partition hash --slots 2048 --weights 1,2.5 --worker-ports 30000-30999 \
            --socket-activation --backlog 1024 --engine tproxy --local-clients --ready tcp --user www-data --group 33 --on-exit drain \
            --env NODE_* --env A=b --ready-timeout 10s --drain-timeout 1h --rollback-timeout 10min --die-timeout 0 \
            --retire-rss 448MiB --retire-rate 5 --retire-window 1min --retire-renice 19 \
            --retire-max-age 24h --retire-lag 0 --memory-total 512MiB --memory-low 0.5 \
            --memory-high 1 --memory-order memory --spawn-give-up 3\u{a0}in\u{a0}1min \
            --ping-timeout 3s --socket /tmp/s \
            --spawn-stagger 0 --spawn-backoff 10ms..2min --http-listen 127.0.0.1:9180 -- node server.js --workers 9";
        let Ok(Verb::Run(run)) = parse(line) else { panic!() };
        let file = r#"
            name = "web"
            listen = ["0.0.0.0:80", "[::]:443"]
            workers = 2
            command = ["node", "server.js", "--workers", "9"]
            partition = "hash"
            slots = 2048
            weights = [1, 2.5]
            worker_ports = "30000-30999"
            socket_activation = true
            backlog = 1024
            engine = "tproxy"
            local_clients = true
            ready = "tcp"
            user = "www-data"
            group = "33"
            on_exit = "drain"
            env = ["NODE_*", "A=b"]
            socket = "/tmp/s"
            timeouts = { ready = "10s", drain = "1h", rollback = "10min", die = "0", ping = "3s" }
            spawn = { stagger = "0", backoff = "10ms..2min", give_up = "3 in 1min" }
            retire = { rss = "448MiB", rate = 5, window = "1min", renice = 19, max_age = "24h", lag = "0" }
            memory = { total = "512MiB", low = 0.5, high = 1, order = "memory" }
            http = { listen = "127.0.0.1:9180" }
        "#;
        let file = Settings::from_toml(file, "web.toml").unwrap().check(9);
        assert_eq!(run.into_settings().check(9), file);
    }

    #[test]
    fn numbers_out_of_range_reach_the_check_which_names_the_flag() {
        for (line, expected) in [
            ("--workers -1", "--workers: -1: expected 1 to 1024"),
            ("--workers 0", "--workers: 0: expected 1 to 1024"),
            ("--slots -5", "--slots: -5: expected 1 to 65536"),
            ("--socket-activation --backlog -1", "--backlog: -1: expected 1 to 65535"),
            (
                "--backlog 5",
                "--backlog: it is for sockets that the master opens: set socket_activation = true (--socket-activation), or remove it",
            ),
            (
                "--workers 1 --weights -1",
                "--weights: weight -1 of seat 0: expected a finite number, 0 or more",
            ),
            (
                "--workers 1 --weights NaN",
                "--weights: weight NaN of seat 0: expected a finite number, 0 or more",
            ),
            (
                "--workers 1 --weights 1e999",
                "--weights: weight inf of seat 0: expected a finite number, 0 or more",
            ),
        ] {
            let line = format!("run --listen 0.0.0.0:80 {line} -- x");
            let Ok(Verb::Run(run)) = parse(&line) else { panic!("{line}") };
            let error = run.into_settings().check(4).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert!(error.is_usage());
        }
    }
}
