//! The types that several rooms speak in, each of them once. Pure: values without behaviour of their
//! own, below every room that decides or does IO.

mod settings;

pub use settings::{
    Backoff, GiveUp, KillOrder, Marks, Memory, ProbePath, ProbePathError, Readiness, Retire,
};
