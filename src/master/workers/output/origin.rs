use crate::plan::{Generation, Seat};

/// The worker that has printed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) seat: Seat,
    pub(crate) generation: Generation,
    pub(crate) pid: u32,
}
