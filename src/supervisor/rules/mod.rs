//! The plan that the kernel holds: which it should be, its commit, and its repair.

mod commit;
mod desired;
mod kernel;
mod repair;

pub use repair::{Repairs, Verification};

pub(super) use kernel::Kernel;
