//! The Kubernetes API as facts: the resource table, metadata, selectors, defaults, validation,
//! printing columns and `Status` errors. Pure: no I/O, no clock of its own.

mod builtin;
mod columns;
mod convert;
pub mod cron;
mod defaults;
pub mod json;
pub mod meta;
pub mod print;
pub mod quantity;
pub mod resource;
pub mod selector;
pub mod status;
mod strategy;
pub mod validate;
pub mod volume;

pub use builtin::builtin;
pub use resource::{Resource, Scope, Strategy, Table};
pub use status::{Cause, Status};
