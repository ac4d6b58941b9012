//! The log of the master, on stderr.

mod format;
mod queue;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{Config, LogFormat, LogLevel};
use crate::process::is_journal;

use format::{Journal, Json};
use queue::LogQueue;

/// Logs to stderr from here on: what concerns an operator, or what the configuration or `IPCLUSTER_LOG`
/// says, such as `debug`. What is logged is written by a thread of its own, which alone waits for whoever
/// reads it: from [`LogQueue::begin`] on. Lasts until the queue is dropped, which waits a little for what has
/// not been written.
pub(super) fn to_stderr(config: &Config) -> LogQueue {
    let by_default = match is_journal(std::io::stderr()) {
        true => LogFormat::Journal,
        false => LogFormat::Text,
    };
    let format = config.log_format().unwrap_or(by_default);
    let queue = LogQueue::new(move |count| format::dropped(format, count));
    let filter = match config.log_level() {
        Some(level) => EnvFilter::new(name(level)),
        None => EnvFilter::builder()
            .with_default_directive(LevelFilter::INFO.into())
            .with_env_var("IPCLUSTER_LOG")
            .from_env_lossy(),
    };
    let is_colourless = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
    let colours = std::io::stderr().is_terminal() && !is_colourless;
    // What it says of errors of its own it would write to stderr itself, and end if it cannot.
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let log = log.with_writer(queue.writer()).with_target(false);
    // A second call would be no harm.
    let _ = match format {
        LogFormat::Text => log.with_ansi(colours).try_init(),
        LogFormat::Json => log.with_ansi(false).event_format(Json).try_init(),
        LogFormat::Journal => log.with_ansi(false).event_format(Journal).try_init(),
    };
    queue
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}
