//! Who asks and what they may: certificates, tokens, RBAC and the Node authorizer. Decisions are pure
//! functions over values; the server feeds them with what it watches.

pub mod attributes;
pub mod bundle;
pub mod cert;
pub mod csr;
pub mod defaults;
pub mod kubeconfig;
pub mod node;
pub mod pki;
pub mod rbac;
pub mod token;

pub use attributes::{Attributes, Decision, User};
pub use cert::user_from_cert;
