//! Tests of ipcluster against the real kernel.
