//! What the pages show, and where it comes from.

use crate::protocol::{ClientAddress, EventRecord, Explanation, Refusal, SlotTable, Status};

/// Where a server of pages learns the state of the cluster.
pub(crate) trait StatusSource: Send + Sync + 'static {
    /// Where it learns what happens.
    type Events: EventSource;

    /// The state of the cluster, or why it is not known. Asked for by one at a time.
    fn status(&self) -> impl Future<Output = Result<Status, Refusal>> + Send;

    /// Where new connections of a client go.
    fn explain(
        &self,
        client: ClientAddress,
    ) -> impl Future<Output = Result<Explanation, Refusal>> + Send;

    /// Which seat each slot is assigned to.
    fn slot_table(&self) -> impl Future<Output = Result<SlotTable, Refusal>> + Send;

    /// Everything that happens from now on.
    fn events(&self) -> Self::Events;
}

/// What happens to the cluster.
pub(crate) trait EventSource: Send + 'static {
    /// Waits for the next event; `None` when the master has ended. Nothing is lost when it is dropped while
    /// it waits.
    fn next(&mut self) -> impl Future<Output = Option<Vec<EventRecord>>> + Send;
}
