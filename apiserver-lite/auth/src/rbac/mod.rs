//! Role-based access control: an index of roles and bindings, and the questions put to it.

mod aggregate;
mod covers;
mod index;
mod rule;
#[cfg(test)]
mod tests;

pub use aggregate::aggregate;
pub use covers::{covers, missing};
pub use index::{Allowed, Index};
pub use rule::{Rule, rules_of};
