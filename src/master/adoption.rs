//! What a new master changes of what it has adopted from an earlier one, and why.

/// What is to be changed of what was adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingReconfigure {
    /// Why new workers take the place of those that were adopted; `None`: these go on.
    pub(super) renew: Option<Renewal>,
    /// The number or the weights of workers are configured otherwise than the earlier master had them.
    pub(super) reshares: bool,
}

impl PendingReconfigure {
    /// Whether the configuration is another than that of the earlier master.
    pub(super) fn is_by_configuration(self) -> bool {
        self.reshares || self.renew == Some(Renewal::Configuration)
    }
}

/// Why new workers take the place of those that were adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Those run something else than they would if they were started now.
    Configuration,
    /// The master was started with `--reload`.
    Requested,
    /// The setting `kill_old`: a new master means new workers.
    KillOld,
}
