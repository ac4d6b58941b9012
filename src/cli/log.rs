//! The log of the master, on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Logs to stderr from here on: what concerns an operator, or what `IPCLUSTER_LOG` says, such as
/// `debug`.
pub(super) fn to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("IPCLUSTER_LOG")
        .from_env_lossy();
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call would be no harm.
    let _ = log.with_ansi(colours).with_target(false).try_init();
}
