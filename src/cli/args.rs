//! Verbs, flags and their help.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::{Flags, keys_of_the_file};
use crate::plan::fleet::MemberName;
use crate::plan::{ClusterName, Engine, Listener, MAX_SEATS, Seat, Share};
use crate::protocol::{ClientAddress, RetireTarget};
use crate::ruleset::DeviceName;
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
    /// SIGTERM ends the master alone: the workers and the rules serve on, and the next
    /// `run` of the same name adopts them: the same processes, and no rule changes. Ctrl-C in a terminal, and
    /// the end of a container whose process 1 it is, end all: workers finish their connections, a second
    /// Ctrl-C does not wait for that (see --on-exit). If it is given
    /// another command, environment or number of workers, those come into force without a connection
    /// lost. SIGHUP reloads, SIGUSR1 is `ipcluster clear-retired`.
    /// `ipcluster stop` ends all.
    #[command(after_help = run_help())]
    Run(RunArgs),
    /// Start a new generation and move all new connections to it
    ///
    /// The file that `run -c` has named is read again: what has changed is said, and put in force with the new
    /// generation. An invalid file, or a change that a running master cannot make, is refused, and nothing has
    /// happened. Flags of `run` still win.
    ///
    /// Returns when the new workers have passed their probation (--rollout-probation of `run`), or says why
    /// not: then the old ones serve. New connections go to the new workers from the beginning of the
    /// probation on; if too many of them fail until its end, new connections go back to the old ones,
    /// which were kept. Established connections stay with the old workers, which end when those have
    /// ended.
    ///
    /// With --share the new generation is on trial: workers beside the old ones get a part of the
    /// clients, chosen by their address, and nobody else notices. `promote` or `rollback` ends that.
    #[command(after_help = RELOAD_HELP)]
    Reload(ReloadArgs),
    /// Put the generation on trial into force for all clients
    ///
    /// It gets a worker in every seat, and when all are ready all new connections go to those, or it
    /// says why not: then it stays on trial. As after a reload they are on probation, and if that fails
    /// the generation before the trial serves all clients again. Those of the old generation, and those that were on trial,
    /// finish their connections.
    Promote(PromoteArgs),
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
    ///
    /// Where no master runs, and workers or rules are there, it shows these, and how the next master is
    /// started; the exit code is 3.
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Show the cluster on the whole screen, live: seats, rates, what drains, events
    ///
    /// Keys retire a worker, reload, roll back and scale, each with a question. q ends it, and the cluster
    /// goes on.
    #[command(after_help = TOP_HELP)]
    Top(ClusterArgs),
    /// Print what happens, one JSON object a line, until the master ends
    #[command(after_help = EVENTS_HELP)]
    Events(ClusterArgs),
    /// Wait until the cluster is ready, or until no connection is left with workers of before
    ///
    /// ready: every seat has a worker that serves, of the generation in force, and no rollout or probation
    /// is under way; a master that does not listen yet is waited for until --timeout, without that 5 s. drained: no worker is left that only finishes its connections.
    #[command(after_help = WAIT_HELP)]
    Wait(WaitArgs),
    /// Show what workers have printed last
    #[command(after_help = LOGS_HELP)]
    Logs(LogsArgs),
    /// Change the number of workers, with the least movement of clients
    ///
    /// New workers are on probation, as after a reload: if too many of them fail, the cluster has as many
    /// workers as before again.
    Scale(ScaleArgs),
    /// Drain and end all workers, remove the rules, end the master
    ///
    /// Returns when nothing is left, and the name is free for the next `run`. Where no master runs it does
    /// all of that itself, with the limits (--drain-timeout, --die-timeout) of the command line or file
    /// that the last master was started with; Ctrl-C leaves what has not ended then as it is.
    Stop(StopArgs),
    /// Print the rules that `run` would install, in nft syntax; touches nothing, needs no privilege
    #[command(after_help = PLAN_HELP)]
    Plan(RunArgs),
    /// Write a systemd unit for a cluster, given as to `run`; touches nothing
    ///
    /// It has the user, directories, limits and capabilities that this configuration needs, and the command line
    /// of `run`. Save it as /etc/systemd/system/NAME.service, `systemctl daemon-reload`, `systemctl enable --now
    /// NAME`.
    #[command(after_help = UNIT_HELP)]
    Unit(UnitArgs),
    /// Say which slot, seat, worker and port a client address reaches, and why
    ///
    /// Where no master runs it reads the rules.
    Explain(ExplainArgs),
    /// Say who serves whom among several hosts, and print the rules that pass packets on
    ///
    /// Works from a file, with nothing running; needs no privilege, and changes nothing.
    #[command(subcommand)]
    Fleet(FleetVerb),
    /// Say what this machine supports and lacks, and what stands in the way; exit code 1 if `run` would fail
    ///
    /// What stands in the way of connections (rules, settings and servers of others) is looked for on behalf
    /// of the clusters that run, or of the listeners that are given.
    /// With -c the configuration of that file is checked first, as `run -c` and `reload` do.
    Check(CheckArgs),
    /// Show the settings in force, and where each value comes from
    ///
    /// Prints them as a file has them. What `reload` would change is said below, as comments.
    Config(ConfigArgs),
    /// List the servers that have a preset (--server of `run`); with a name, all that is known of one
    Servers(ServersArgs),
    /// Remove the rules of a cluster whose master is gone
    ///
    /// Refused while a master runs. Workers that still run are not ended: `ipcluster stop` does both, with
    /// a master and without. Connections that the rules carry are reset.
    Flush(ClusterArgs),
    /// Print the nftables rules of this host without those of ipcluster, to be loaded again by `nft -f`
    ///
    /// A file that holds a table of a master that runs is refused by nft as a whole, since nobody else can
    /// change that table: what `nft list ruleset` prints is no backup on a host with a cluster. Each table of
    /// the output replaces the one of its name and leaves the others alone. Needs the program nft.
    #[command(after_help = SAVE_OTHERS_HELP)]
    SaveOthers(SaveOthersArgs),
    /// Show the whole thing in a network namespace of its own, without root, in half a minute
    ///
    /// Puts workers behind rules in the real kernel, connects to them from thousands of client
    /// addresses, reloads, kills a worker, scales and stops, and prints what the clients saw. Touches
    /// nothing outside of its namespace, and leaves nothing behind.
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArgs),
    /// Print what has a shell complete verbs, flags, their values, clusters and seats
    ///
    /// The shell asks the program itself, which knows the clusters that run.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory, for packages
    #[command(hide = true)]
    Man(ManArgs),
    /// The small HTTP server that `demo` starts as its workers
    #[command(hide = true)]
    DemoWorker,
}

const RELOAD_HELP: &str = "\
Examples:
  ipcluster reload                    all clients get the new generation
  ipcluster reload --share 10%        one of ten clients does: 102 of 1,024 slots
  ipcluster reload web --share 0.5%   of the cluster web
  ipcluster reload --no-wait          return when the new workers are in force, before their probation";

const DEMO_HELP: &str = "\
Columns: connections that ended in the phase; those that failed; clients that another worker than
before answered (in a reload: another seat); half and 99 % of the answers came within p50 and p99.

Exit codes: 0 all that it shows is as promised; 1 it is not, or the system forbids user namespaces
(stderr says what to change).";

fn run_help() -> String {
    let keys = keys_of_the_file();
    format!(
        "\
Workers get PORT (the port to listen on, on all addresses), IPCLUSTER_PORT_<public> for each public
port, IPCLUSTER_SEAT (from 0), IPCLUSTER_WORKERS (always above the seat: those of a reload --share
have seats beyond --workers), IPCLUSTER_GENERATION, IPCLUSTER_NAME, IPCLUSTER_SOCKET and NOTIFY_SOCKET.
Of the other variables they get PATH, HOME, USER, LOGNAME, SHELL, TERM, TZ, LANG, LANGUAGE, LC_*,
TMPDIR, and those of --env. A worker is ready when it listens on its ports, or is bound to those of
udp listeners; on SIGTERM, or what --stop-signal names, it should finish its connections and exit.
IPCLUSTER_STOP_SIGNAL, IPCLUSTER_RETIRE_SIGNAL and IPCLUSTER_KILL_MODE say which signals it gets;
IPCLUSTER_STATE_FILE names a file with the line RETIRING=1 once another worker has its place.

A worker that is stopped, does not listen any more, accepts nobody for the ping timeout while others
wait, or does not answer what --ready http:/PATH or --watchdog-timeout ask of it, gets no new clients
until it answers again, as long as others do. On NOTIFY_SOCKET (sd_notify) it can say READY=1,
STOPPING=1, STATUS=, WATCHDOG=1 and EXTEND_TIMEOUT_USEC=.

With --socket-activation they get their sockets as well: LISTEN_FDS of them, from descriptor 3 on,
LISTEN_FDNAMES (80/tcp:443/tcp:443/udp) and LISTEN_PID. A worker that takes them is ready as soon as its
program runs: connections wait until it accepts.

Servers that many people run (gunicorn, uvicorn, puma, nginx, ...) are recognised by COMMAND, told where to
listen, and told to end by the signal at which they finish what they have begun. `ipcluster servers` lists
them; --server names one that COMMAND does not, as where it is a script, and --server none turns it off.

With --ready protocol it is ready when it has said, over the control socket, on which ports it listens,
as workers of the older ipcluster do. It then gets __ZWORKER__, __ZWORKER__BAND__,
__ZWORKER__NUM_WORKERS__ and <seat>:<workers> as its last argument, too, and --socket names the path
where it looks for its master. See docs/moving.md.

TIME is a whole number with ms, s, min or h; MEMORY one with B, KiB, MiB, GiB or TiB.

Examples:
  ipcluster run --listen 0.0.0.0:80 --workers 4 -- node server.js
  ipcluster run --name api --listen 10.9.0.1:80 --listen [::]:80 --env 'NODE_*' -- node server.js
  ipcluster run -c web.toml --workers 8 --http-listen 127.0.0.1:9180

The file holds the same settings as the flags ({keys}).
Flags win.

Exit codes: 0 stopped, or left by a signal; 1 failed; 2 wrong usage."
    )
}

const PLAN_HELP: &str = "\
Example:
  ipcluster plan --listen 0.0.0.0:80 --workers 4 -- node server.js | nft --check -f -";

const UNIT_HELP: &str = "\
Examples:
  ipcluster unit -c /etc/ipcluster/web.toml > /etc/systemd/system/web.service
  ipcluster unit --name web --listen 0.0.0.0:80 -- node server.js
  ipcluster unit -c web.toml --run-as deploy
  systemd-analyze verify ./web.service                          see whether systemd takes it";

const STATUS_HELP: &str = "\
States: starting (gets no connections yet), live (gets those of its seat), leaving (live, until its
successor is ready), retired (finishes those
that it has), standby (retired, but kept able to serve until the workers after it have passed their
probation), dying (was asked to end), waiting (the seat has no worker; below it stands when the next one is
started and why), given up (it has lost too many). CONNS are established connections, QUEUED those of them
that wait to be accepted; RESTARTS counts the workers of the seat that were lost while this master runs.

--json prints one object: schema (1), name, pid (of the master), generation, listeners, partition,
slots, repairs (of rules that others had changed) and last_writer (who made the last one necessary),
foreign_chains (rules of others that decide before ours), orphans (pid, seat, generation, reason: of
processes that seem to be workers of an earlier master, but cannot be proven to be), conntrack (entries, limit; 0: none), serving
(seats that get connections), trial (of a generation: generation, first_seat, seats, slots; or null), probation (of what was put in force last: generation, before, seconds_left, failures,
standby; or null), returns (after failed probations), swaps (a histogram), restarts (by reason), retirements (of live workers, by cause), given_up (seats that get no worker for
now), waiting (seats without a worker, at most 64: seat, next_try in seconds, reason, restarts), configuration (in_force, and reason: what is configured and not in force), and workers: a list of seat, slots, pid (null before it is spawned), adopted (an earlier
master has started it), state, leaving (why it is
replaced, or null), standby (retired, and kept until a probation is over), generation,
health (ok, silent), text (what it says of itself: STATUS= of sd_notify; else null), ports
(public port: worker port), uptime (seconds), connections (established ones; null if not counted),
queued (not accepted yet), half_open (handshakes under way), connections_total (of a live worker: all
that its seat was ever given, whoever held it; else null), memory (resident bytes, with the
processes that it has started; null if not known), processor (seconds of processor time of all of
them; null if not known), restarts (of its seat) and last_loss (what became of the worker before it, or null).
Fields may be added within a schema.

Without a master: pid is 0, and unmanaged (null with one) has rules (true: they are in force) and start
(what starts the next master; null if not known).

Exit codes: 0 a master runs; 3 none does, and workers or rules are there; 1 nothing is there, or it
cannot be told; 2 wrong usage.";

const TOP_HELP: &str = "\
Keys: up, down (j, k) choose a worker; t retires it, once another has its place; r reloads; b rolls back; + and -
scale by one, s to a number; ? is help; q quits.

States: as `ipcluster status`, and drains (retired: finishes the connections that it has), with the time since.
NEW/S are connections that the rules led to the seat, CPU is 100% for one processor, with all processes of the
worker. NO_COLOR turns colours off. It takes one of the places for subscribers to events.";

const EVENTS_HELP: &str = "\
Each line has event (its name), time (seconds since 1970), and what is known: mostly worker (a number),
seat and generation. The first one is `subscribed`; every second there is `stats`, with the memory of
all workers. Who reads too slowly gets `missed` with a count, and after five seconds the end.

Example:
  ipcluster events web | jq --unbuffered 'select(.event != \"stats\")'";

const SAVE_OTHERS_HELP: &str = "\
Examples:
  ipcluster save-others > /etc/nftables.conf             loaded by `nft -f`, as nftables.service does
  ipcluster save-others --json > rules.json              loaded by `nft -j -f rules.json`
  sed -i '/^table inet ipcluster[_.]/,/^}/d' OLD         takes our tables out of what `nft list ruleset` printed";

const WAIT_HELP: &str = "\
Examples:
  ipcluster wait ready --timeout 30s            exit code 1 if it is not by then
  ipcluster reload && ipcluster wait drained    until the last connection of the old workers has ended

Exit codes: 0 it is so; 1 it was not in time, or no master runs; 2 wrong usage; 130 Ctrl-C.";

const LOGS_HELP: &str = "\
Of each seat the last 64 KiB are kept in memory (of more than 64 seats 4 MiB in all; a line counts for 64
bytes more than it has), also of workers that have ended. A master that is started anew has what it finds in
the files of --output file:/DIRECTORY; with --output journal, `journalctl IPCLUSTER_NAME=NAME` has the rest.

Examples:
  ipcluster logs              the last lines of each seat, in the order in which they were printed
  ipcluster logs 3 -n 100     100 lines of the workers in seat 3
  ipcluster logs web 3 -f     and those that follow, until Ctrl-C";

const COMPLETIONS_HELP: &str = "\
The Debian package has them where bash, zsh and fish look. Elsewhere:
  source <(ipcluster completions bash)                                        in ~/.bashrc
  source <(ipcluster completions zsh)                                         in ~/.zshrc
  ipcluster completions fish > ~/.config/fish/completions/ipcluster.fish      once for each release";

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
    /// Return when the new workers are in force, and not when their probation is over
    #[arg(long, conflicts_with = "clear_retired")]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) patience: TimeoutArgs,
    /// Say what the file changes and when that would come into force, and do nothing; exit code 1 if the
    /// reload would be refused
    #[arg(long, conflicts_with_all = ["share", "clear_retired", "no_wait"])]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration file to check
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A listener that `run` is to have; repeat for more
    #[arg(long, value_name = "ADDR:PORT[/tcp|/udp]")]
    pub(crate) listen: Vec<Listener>,
    /// The engine that `run` is to have
    #[arg(long, value_name = "redirect|tproxy", default_value = "redirect")]
    pub(crate) engine: Engine,
    /// Also connect to each TCP listener, as a client on another host does
    ///
    /// For some seconds this host has an interface `ipcluster-try*` more, with an address of 198.18.0.0/15 and
    /// of 2001:2::/48, whose other end is in a network namespace of its own: a connection from there passes all
    /// rules for what comes in. Needs root.
    #[arg(long = "try")]
    pub(crate) try_connections: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Print JSON: settings (key, value, origin), changes (key, before, after, applies: what `reload`
    /// would change) and refused (why it would be refused, or null)
    #[arg(long)]
    pub(crate) json: bool,
    /// Print an example of a file instead, with every setting and its default
    #[arg(long, conflicts_with_all = ["name", "json"])]
    pub(crate) example: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Return when the new workers are in force, and not when their probation is over
    #[arg(long)]
    pub(crate) no_wait: bool,
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
    /// Show it anew every second, until Ctrl-C; with --json an object a line
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Show all columns: also slots, half-open connections, all connections so far, and ports
    #[arg(long, conflicts_with = "json")]
    pub(crate) wide: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WaitFor {
    /// Every seat is served, and nothing is under way
    Ready,
    /// No worker of before is left
    Drained,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct WaitArgs {
    /// The cluster [default: the only one that runs]
    pub(crate) name: Option<ClusterName>,
    /// What is waited for
    pub(crate) state: WaitFor,
    /// The longest time [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = crate::config::duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct TimeoutArgs {
    /// Wait no longer than this: exit code 1, and what was asked for goes on
    #[arg(long, value_name = "TIME", value_parser = crate::config::duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The cluster [default: the only one that runs]; a number that stands alone is a seat
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<ClusterName>,
    /// The seat whose workers are meant [default: all]
    #[arg(value_name = "SEAT", value_parser = super::logs::seat)]
    pub(crate) seat: Option<Seat>,
    /// How many lines of each seat
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(crate) lines: u32,
    /// Go on with what is printed from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Show when each line was read, in UTC
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Do not show the seat before each line
    #[arg(long)]
    pub(crate) no_prefix: bool,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct ScaleArgs {
    /// The cluster [default: the only one that runs]
    #[arg(allow_negative_numbers = true)]
    pub(crate) name: Option<ClusterName>,
    /// How many workers there shall be, 1 to 1024; or so many more or fewer than now: +1, -2
    #[arg(value_name = "N", allow_negative_numbers = true, value_parser = ScaleNumber::from_str)]
    pub(crate) workers: ScaleNumber,
    /// Return when the new workers are in force, and not when their probation is over
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) patience: TimeoutArgs,
}

/// The number of workers that `scale` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleNumber {
    To(u16),
    /// So many more; fewer, if it is negative.
    By(i32),
}

impl FromStr for ScaleNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let most = i32::from(MAX_SEATS);
        let expected = || format!("expected 1 to {most}, or +N or -N for so many more or fewer");
        let number: i32 = text.parse().map_err(|_| expected())?;
        let is_relative = text.starts_with(['+', '-']);
        match (is_relative, u16::try_from(number)) {
            (true, _) if number != 0 && (-most..=most).contains(&number) => Ok(Self::By(number)),
            (false, Ok(workers @ 1..=MAX_SEATS)) => Ok(Self::To(workers)),
            _ => Err(expected()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SaveOthersArgs {
    /// Print JSON, for `nft -j -f`
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServersArgs {
    /// A name of the list
    #[arg(value_name = "SERVER")]
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Do not wait for connections to end
    #[arg(long)]
    pub(crate) now: bool,
    /// Return when it has begun, and not when all have ended
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) patience: TimeoutArgs,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct ExplainArgs {
    /// The cluster [default: the only one that runs]
    pub(crate) name: Option<ClusterName>,
    /// The client's IPv4 or IPv6 address, or that of a connection: 10.8.1.7:40000, [fd09::7]:40000
    pub(crate) address: ClientAddress,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FleetVerb {
    /// Show the members, what each owns, and what is wrong, as the master of this host knows it
    Status(FleetStatusArgs),
    /// Give the slots of this host to the other members; returns when its connections have ended
    #[command(after_help = FLEET_DRAIN_HELP)]
    Drain(FleetDrainArgs),
    /// Take a drain back: this host is to be a member as before
    Join(FleetJoinArgs),
    /// Say which member serves a client, which did before, and with --config in which seat
    Explain(FleetExplainArgs),
    /// Print the file with the owners after a change; say on standard error what moves
    #[command(after_help = FLEET_PLAN_HELP)]
    Plan(FleetPlanArgs),
    /// Print the rules of one member as a script for `nft -f`, which puts them in the place of those of before
    #[command(after_help = FLEET_RULES_HELP)]
    Rules(FleetRulesArgs),
}

const FLEET_DRAIN_HELP: &str = "\
Where the list of members is a file, whoever writes that has to mark the member as draining as well:
  ipcluster fleet plan --members fleet.json --drain b > next.json && mv next.json fleet.json";

#[derive(Debug, Args)]
pub(crate) struct FleetStatusArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FleetJoinArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FleetDrainArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Return when it has begun, and not when the connections have ended
    #[arg(long)]
    pub(crate) no_wait: bool,
}

const FLEET_PLAN_HELP: &str = "\
Examples:
  ipcluster fleet plan --members fleet.json > next.json            after the list was changed by hand
  ipcluster fleet plan --members fleet.json --drain b > next.json  b owns nothing, and keeps its connections
  ipcluster fleet plan --members fleet.json --without b            what becomes of the slots if b dies

The least that a file needs:
  {\"members\": [{\"name\": \"a\", \"addresses\": [\"10.0.0.1\"], \"mac\": \"02:00:00:00:00:01\"},
               {\"name\": \"b\", \"addresses\": [\"10.0.0.2\"], \"mac\": \"02:00:00:00:00:02\"}]}
Also: slots (1024), seed, kept (former owners a slot, 2); of a member weight (1) and state (serving,
joining or draining); owners, as this verb prints them.";

const FLEET_RULES_HELP: &str = "\
Example, on member a:
  ipcluster fleet rules --members fleet.json --member a --device eth0 --listen 192.0.2.1:80 | nft -f -

The rules of the host's own cluster stay as they are. `nft list ruleset` shows the tables
ipcluster_fleet_NAME; deleting them ends the passing on.";

#[derive(Debug, Args)]
pub(crate) struct FleetMembersArgs {
    /// The file with the members, and with the owners as they were
    #[arg(long, value_name = "FILE")]
    pub(crate) members: PathBuf,
    /// As if this member were gone; may be repeated
    #[arg(long, value_name = "MEMBER")]
    pub(crate) without: Vec<MemberName>,
    /// As if this member were draining; may be repeated
    #[arg(long, value_name = "MEMBER")]
    pub(crate) drain: Vec<MemberName>,
}

#[derive(Debug, Args)]
pub(crate) struct FleetExplainArgs {
    /// The client's IPv4 or IPv6 address
    pub(crate) address: IpAddr,
    /// The file with the members, and with the owners as they were [default: the master of this host is asked]
    #[arg(long, value_name = "FILE")]
    pub(crate) members: Option<PathBuf>,
    /// The cluster whose master is asked [default: the only one that runs]
    #[arg(long, value_name = "NAME", conflicts_with = "members")]
    pub(crate) name: Option<ClusterName>,
    /// As if this member were gone; may be repeated
    #[arg(long, value_name = "MEMBER", requires = "members")]
    pub(crate) without: Vec<MemberName>,
    /// As if this member were draining; may be repeated
    #[arg(long, value_name = "MEMBER", requires = "members")]
    pub(crate) drain: Vec<MemberName>,
    /// The configuration of the members' clusters: says the seat as well
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FleetPlanArgs {
    #[command(flatten)]
    pub(crate) members: FleetMembersArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FleetRulesArgs {
    #[command(flatten)]
    pub(crate) members: FleetMembersArgs,
    /// The member whose rules to print
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: MemberName,
    /// The network device on which clients' packets come in and the other members are
    #[arg(long)]
    pub(crate) device: DeviceName,
    /// A public address that all members have, such as 192.0.2.1:80 or 192.0.2.1:53/udp; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", required = true)]
    pub(crate) listen: Vec<Listener>,
    /// The engine of the member's cluster: redirect or tproxy
    #[arg(long, value_name = "redirect|tproxy", default_value_t, value_parser = parse_engine)]
    pub(crate) engine: Engine,
    /// The name of the fleet
    #[arg(long, default_value = "fleet")]
    pub(crate) name: ClusterName,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How connections are handed to workers: redirect or tproxy
    #[arg(long, value_name = "redirect|tproxy", default_value_t, value_parser = parse_engine)]
    pub(crate) engine: Engine,
    /// Show several hosts behind one address, of which one joins, one drains and one dies
    #[arg(long)]
    pub(crate) fleet: bool,
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
pub(crate) struct ManArgs {
    /// The directory, which has to be there
    pub(crate) directory: PathBuf,
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("expected yes or no"),
    }
}

#[derive(Debug, Args)]
pub(crate) struct UnitArgs {
    /// Whom the master runs as, with workers as the same user [default: who calls this]
    #[arg(long, value_name = "USER")]
    pub(crate) run_as: Option<String>,
    /// Whether the unit is of `Type=notify-reload`, with which systemd knows when a reload begins and ends,
    /// whoever asks for it; systemd has it from 253 on [default: yes, if the systemd of this machine has it]
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "yes", value_parser = yes_or_no)]
    pub(crate) notify_reload: Option<bool>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
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
    /// Start new workers in place of those of the master before, as `ipcluster reload` does: to deploy other
    /// code under the same command. If they fail, the earlier workers serve on under this master
    #[arg(long)]
    pub(crate) reload: bool,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

#[cfg(test)]
mod tests {
    use crate::config::ConfigBuilder;
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
            let Ok(Verb::Scale(ScaleArgs { name, workers, .. })) = parse(line) else {
                panic!("{line}")
            };
            assert_eq!(name.as_ref().map(ClusterName::as_str), expected_name, "{line}");
            assert_eq!(workers, ScaleNumber::To(expected_workers));
        }
        for (line, expected_name, expected) in
            [("scale +1", None, 1), ("scale -1", None, -1), ("scale web -12", Some("web"), -12)]
        {
            let Ok(Verb::Scale(ScaleArgs { name, workers, .. })) = parse(line) else {
                panic!("{line}")
            };
            assert_eq!(name.as_ref().map(ClusterName::as_str), expected_name, "{line}");
            assert_eq!(workers, ScaleNumber::By(expected), "{line}");
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
        assert!(explain.name.is_none() && explain.address.address.is_ipv4());
    }

    #[test]
    fn every_verb_is_known() {
        for line in [
            "save-others",
            "save-others --json",
            "reload",
            "reload web",
            "reload web --dry-run",
            "config",
            "config web --json",
            "config --example",
            "check -c web.toml",
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
            "status --watch --wide",
            "events",
            "events web",
            "wait ready",
            "wait web drained --timeout 30s",
            "reload --timeout 1min",
            "scale 3 --timeout 1min",
            "stop --no-wait",
            "stop web --timeout 1min",
            "logs",
            "logs 3",
            "logs web 3 -n 100 -f -t --no-prefix",
            "top",
            "top web",
            "stop",
            "stop --now web",
            "check",
            "check --listen 0.0.0.0:80 --listen [::]:53/udp --engine tproxy",
            "servers",
            "servers nginx",
            "flush",
            "flush web",
            "demo",
            "demo-worker",
            "completions bash",
            "man /tmp",
            "run --listen 0.0.0.0:80 -- x",
            "plan -c web.toml",
            "unit -c web.toml --run-as deploy --notify-reload",
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
            "scale -0",
            "scale +1025",
            "scale web x",
            "explain",
            "explain 10.0.0",
            "wait",
            "wait web",
            "wait ready web",
            "wait ready --timeout x",
            "logs web x",
            "logs web 2048",
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
        let file = ConfigBuilder::from_toml(file).unwrap().build_for(9).unwrap();
        assert_eq!(run.flags.settings.build_for(9).unwrap(), file);
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
            let error = run.flags.settings.build_for(4).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert!(error.is_usage());
        }
    }
}
