//! The rules in the kernel, observed after they were put there: who else changes them, and how full the
//! connection tracking table is.

pub(crate) mod conntrack_usage;
pub(crate) mod watching;
