//! From settings to a [`Config`]. What the methods for the single settings are is said in `keys.rs`.

use super::{Config, ConfigBuilder, ConfigError};
use crate::plan::MAX_SEATS;

impl ConfigBuilder {
    /// Checks every value, in the order of `docs/settings.md`, and then all of them together. Where
    /// `workers` was not given, there are as many as CPUs that this process may use.
    ///
    /// # Errors
    /// A [`ConfigError`] for the first value at fault, or for the first one that is missing.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ipcluster::config::{Config, WorkerCommand};
    ///
    /// let builder = Config::builder()
    ///     .listen(vec!["0.0.0.0:80".parse()?])
    ///     .command(WorkerCommand::new("server"));
    /// let error = builder.ping_timeout(Some(Duration::from_millis(20))).build().unwrap_err();
    /// assert_eq!(error.to_string(), "`timeouts.ping`: 20ms: expected 0 or at least 1s");
    /// # Ok::<_, ipcluster::plan::PlanError>(())
    /// ```
    pub fn build(self) -> Result<Config, ConfigError> {
        self.build_for(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// [`Self::build`] for a machine with so many CPUs.
    pub(crate) fn build_for(self, cpus: usize) -> Result<Config, ConfigError> {
        let (builder, server) = self.with_preset();
        let mut values = builder.resolve()?;
        if values.workers.is_default() {
            values.workers.value = u16::try_from(cpus).unwrap_or(u16::MAX).clamp(1, MAX_SEATS);
            values.workers.text = Some(values.workers.value.to_string());
        }
        let server = server.map(|server| server.applied_to(&mut values));
        Config::check(values, server)
    }
}
