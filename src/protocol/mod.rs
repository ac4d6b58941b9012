//! The types that several rooms speak in, each of them once. Pure: values without behaviour of their
//! own, below every room that decides or does IO.

mod columns;
mod settings;

pub(crate) use columns::{Align, Columns};
pub use settings::{
    Backoff, GiveUp, KillOrder, Marks, Memory, ProbePath, ProbePathError, Readiness, Retire,
};
