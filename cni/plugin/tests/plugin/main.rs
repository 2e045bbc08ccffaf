//! The plugins as a runtime calls them, in network namespaces of the test's own: one plays the node.
#![allow(missing_docs)]

mod basic;
mod bed;
mod ipam;
mod neighbours;
mod options;
mod rules;
mod types;
