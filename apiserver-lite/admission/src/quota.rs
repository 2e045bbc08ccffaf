//! What objects use of ResourceQuotas, for admission and for the quotas' status alike.

pub use crate::plugins::resource_quota::{Usage, add, in_scope, usage};
pub use crate::quantity::{nanos, show};
