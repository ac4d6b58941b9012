//! From a configuration file and flags to a checked [`Config`]. Pure: who calls reads the file and
//! counts the CPUs.
//!
//! The file and the flags each make a [`Settings`], in which every value knows where it comes from
//! ([`Origin`]); [`Settings::over`] lays the flags over the file; [`Settings::check`] makes the
//! [`Config`] or names the value at fault, where it stands, and what is allowed. A list given by
//! flags replaces the list of the file.
//!
//! | key | flag | values | default |
//! |---|---|---|---|
//! | `name` | `--name` | 1 to 64 of `a-z A-Z 0-9 _ -` | `main` |
//! | `listen` | `--listen`, repeated | `ADDR:PORT[/tcp]`, `ADDR:PORT/udp` | none: required |
//! | `workers` | `--workers` | 1 to 1024 | CPUs |
//! | `command` | after `--` | program and arguments | none: required |
//! | `partition` | `--partition` | `hash`, `mask` | `hash` |
//! | `slots` | `--slots` | workers to 65536, `hash` only | 1024 |
//! | `weights` | `--weights 1,2,...` | one number, 0 or more, for each worker | all the same |
//! | `worker_ports` | `--worker-ports` | `FIRST-LAST`, closed to other hosts | `20000-29999` |
//! | `socket_activation` | `--socket-activation` | `true`: the master opens the workers' listening sockets and keeps them, workers take them by `LISTEN_FDS`; `false` | `true` with `engine` `tproxy`, else `false` |
//! | `backlog` | `--backlog` | 1 to 65535, with `socket_activation` only: how many connections wait in one of those sockets, at most `net.core.somaxconn` | 4096 |
//! | `engine` | `--engine` | `redirect`: any program; `tproxy`: nothing is translated or tracked, workers take their sockets by `LISTEN_FDS`: see [`Engine`](crate::plan::Engine) | `redirect` |
//! | `local_clients` | `--local-clients` | `true`, `false` | `false` |
//! | `ready` | `--ready` | `tcp`, `notify`, `http:/PATH`, `protocol`: see [`Readiness`] | `tcp` |
//! | `socket` | `--socket` | an absolute path for a socket of the workers' own; empty: none | none |
//! | `ownership` | `--ownership` | `auto`, `owned`, `shared`: see [`Ownership`] | `auto` |
//! | `user` | `--user` | a user's name or number: see below; empty: the master's | the master's |
//! | `group` | `--group` | a group's name or number; empty: that of `user` | that of `user` |
//! | `on_exit` | `--on-exit` | `leave`, `drain`: see [`OnExit`] | `leave` |
//! | `env` | `--env`, repeated | `KEY`, `PREFIX*`, `KEY=VALUE`: see [`Environment`] | none |
//! | `timeouts.ready` | `--ready-timeout` | a time above 0 | `30s` |
//! | `timeouts.drain` | `--drain-timeout` | a time, `0`: no limit | `0` |
//! | `timeouts.rollback` | `--rollback-timeout` | a time, at most `timeouts.drain` if that is a limit; `0`: not longer than they drain | `0` |
//! | `timeouts.die` | `--die-timeout` | a time, `0`: killed at once | `5s` |
//! | `timeouts.ping` | `--ping-timeout` | a time from `1s`, `0`: silent workers are not looked for | `10s` |
//! | `timeouts.watchdog` | `--watchdog-timeout` | a time from `100ms`, `0`: workers need not say `WATCHDOG=1` | `0` |
//! | `spawn.stagger` | `--spawn-stagger` | a time, `0`: no pause | `100ms` |
//! | `spawn.backoff` | `--spawn-backoff` | `FIRST..MOST`, times above 0 | `1s..30s` |
//! | `spawn.give_up` | `--spawn-give-up` | `NUMBER in TIME`, `0`: never | `5 in 60s` |
//! | `retire.rss` | `--retire-rss` | an amount of memory, `0`: off | `0` |
//! | `retire.rate` | `--retire-rate` | 1 to 1024 | 10 |
//! | `retire.window` | `--retire-window` | a time, `0`: any number | `2min` |
//! | `retire.renice` | `--retire-renice` | 0 to 19 | 1 |
//! | `retire.max_age` | `--retire-max-age` | a time, `0`: off | `0` |
//! | `retire.lag` | `--retire-lag` | a time, `0`: off | `150ms` |
//! | `memory.total` | `--memory-total` | an amount of memory, `0`: off | `0` |
//! | `memory.low` | `--memory-low` | a part of it, above 0, up to `memory.high` | 0.80 |
//! | `memory.high` | `--memory-high` | a part of it, up to 1 | 0.95 |
//! | `memory.order` | `--memory-order` | `connections`, `age`, `memory`: see [`KillOrder`] | `connections` |
//! | none | `--kill-old` | `true`, `false` | `false` |
//! | `output.to` | `--output` | `stdout`, `journal`, `file:/DIRECTORY`: see [`WorkerOutput`] | `stdout` |
//! | `http.listen` | `--http-listen` | `ADDR:PORT`, no port of the cluster; empty: off | off |
//!
//! An amount of memory is a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`; 0 needs no unit.
//! Workers have no capability, whoever they run as. With `user` they have that user's groups and its
//! `USER`, `LOGNAME`, `HOME` and `SHELL`, and cannot reach what is the master's. Without it a worker of
//! a root master is root without privilege: it may not look past file permissions nor signal others,
//! but it owns what root owns. `user` and `group` take a master with `CAP_SETUID`, `CAP_SETGID` and
//! `CAP_KILL`.
//!
//! A time is a whole number with `ms`, `s`, `min` or `h`, at most a year; 0 needs no unit.

mod check;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod config;
mod environment;
mod error;
#[cfg(feature = "cli")]
mod file;
mod origin;
mod policy;
mod readiness;
mod text;

pub use config::{Config, Http, OnExit, Ownership, Spawn, Timeouts, WorkerCommand, WorkerOutput};
pub use environment::Environment;
pub use error::ConfigError;
pub use origin::{Given, Origin, Settings};

pub use crate::protocol::{
    Backoff, GiveUp, KillOrder, Marks, Memory, ProbePath, ProbePathError, Readiness, Retire,
};
