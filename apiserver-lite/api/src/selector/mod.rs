//! Label and field selectors: parsing, matching and printing, with upstream's words for what is wrong
//! (`k8s.io/apimachinery/pkg/labels`, `pkg/fields`).

mod fields;
mod labels;

pub use fields::{Fields, Term};
pub use labels::{Labels, Op, Requirement};
