//! The plan that the kernel holds: which it should be, its commit, and its repair.

mod commit;
mod desired;
mod guard;
mod kernel;
mod repair;

#[cfg(test)]
pub(crate) use repair::Repairs;
pub use repair::Verification;

pub(super) use kernel::Kernel;
