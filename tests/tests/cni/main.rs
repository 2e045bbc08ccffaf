//! The network plugins as runtimes call them, in network namespaces of the test's own, beside Debian's.
#![allow(missing_docs)]

mod bandwidth;
mod bed;
mod hostile;
mod killed;
mod load;
mod portmap;
mod reference;
mod runtimes;
mod spec;

/// Every system call, where the default run takes a sample.
#[test]
fn a_long_sample() {
    killed::at_every(1);
}
