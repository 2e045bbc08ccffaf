//! A machine for the agent: a containerd of the test's own, an API in memory, a network namespace.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod api;
pub(crate) mod machine;
