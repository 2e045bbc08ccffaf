//! The controllers. Each gives the kinds it watches, how a change finds the objects it concerns, and a pure
//! `plan(object, children, now) -> actions`; one loop ([`runner`]) serves them all.
//!
//! ```text
//! informer (one a kind, shared) -> queue of keys -> plan (pure) -> actions -> API -> back into the informer
//! ```

// Rows of test tables are tuples.
#![cfg_attr(test, allow(clippy::type_complexity))]

pub mod action;
pub mod caches;
pub mod claim;
pub mod informer;
pub mod owner;
pub mod queue;
pub mod runner;

pub mod aggregation;
pub mod cronjob;
pub mod csr;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod gc;
pub mod job;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod podcidr;
pub mod podgc;
pub mod quota;
pub mod replicaset;
pub mod revision;
pub mod serviceaccount;
pub mod statefulset;
pub mod volume;

mod start;

pub use start::{Config, run};
