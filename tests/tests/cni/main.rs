//! The network plugins as runtimes call them, in network namespaces of the test's own, beside Debian's.
#![allow(missing_docs)]

mod attachment;
mod bandwidth;
mod bed;
mod hostile;
mod ipam;
mod killed;
mod load;
mod neighbours;
mod options;
mod others;
mod portmap;
mod reference;
mod rules;
mod runtimes;
mod spec;
mod traffic;
mod types;

/// Every system call, where the default run takes a sample.
#[test]
fn a_long_sample() {
    killed::at_every(1);
}
