//! The gRPC sides of a node's devices: plugins that offer them, and those that ask who has which.
//!
//! ```text
//! kubelet.sock: Register --> <plugin>.sock: GetDevicePluginOptions, ListAndWatch ...
//!               GetPreferredAllocation -> Allocate -> PreStartContainer
//! pod-resources/kubelet.sock: List, Get, GetAllocatableResources
//! ```

mod answer;
mod listing;
mod plugin;
mod serve;

pub use answer::{Answer, Device, Mount};
pub use listing::{Lister, Listing};
pub use plugin::{List, Offered, Options, Plugin, connect};
pub use serve::{Registrar, Request, lists, registrations};

/// The interfaces as they go over the wire.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod proto {
    /// `v1beta1`: plugins.
    pub mod plugin {
        tonic::include_proto!("v1beta1");
    }
    /// `v1`: who has what.
    pub mod resources {
        tonic::include_proto!("v1");
    }
}

/// What went wrong with a plugin; the words are those of upstream's client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its socket does not answer.
    #[error("failed to dial device plugin: {0}")]
    Connect(String),
    /// It refused, or went away.
    #[error("rpc error: code = {code} desc = {why}")]
    Call {
        /// The code's name.
        code: String,
        /// What it said.
        why: String,
    },
    /// It answered with nothing.
    #[error("no containers return in allocation response")]
    Nothing,
    /// What it wants for the container can't be read back.
    #[error("the plugin's answer of earlier: {0}")]
    Answer(String),
}
