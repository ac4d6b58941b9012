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
//! | `local_clients` | `--local-clients` | `true`, `false` | `false` |
//! | `ready` | `--ready` | `tcp` | `tcp` |
//! | `ownership` | `--ownership` | `auto`, `owned`, `shared`: see [`Ownership`] | `auto` |
//! | `on_exit` | `--on-exit` | `leave`, `drain`: see [`OnExit`] | `leave` |
//! | `env` | `--env`, repeated | `KEY`, `PREFIX*`, `KEY=VALUE`: see [`Environment`] | none |
//! | `timeouts.ready` | `--ready-timeout` | a time above 0 | `30s` |
//! | `timeouts.drain` | `--drain-timeout` | a time, `0`: no limit | `0` |
//! | `timeouts.rollback` | `--rollback-timeout` | a time, at most `timeouts.drain` if that is a limit; `0`: not longer than they drain | `0` |
//! | `timeouts.die` | `--die-timeout` | a time, `0`: killed at once | `5s` |
//! | `spawn.stagger` | `--spawn-stagger` | a time, `0`: no pause | `100ms` |
//! | `spawn.backoff` | `--spawn-backoff` | `FIRST..MOST`, times above 0 | `1s..30s` |
//! | `http.listen` | `--http-listen` | `ADDR:PORT`, no port of the cluster; empty: off | off |
//!
//! A time is a whole number with `ms`, `s`, `min` or `h`, at most a year; 0 needs no unit.

mod check;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod config;
mod environment;
mod error;
#[cfg(feature = "cli")]
mod file;
mod parse;
mod settings;

pub use config::{
    Backoff, Config, Http, OnExit, Ownership, Readiness, Spawn, Timeouts, WorkerCommand,
};
pub use environment::Environment;
pub use error::ConfigError;
pub use settings::{Given, Origin, Settings};
