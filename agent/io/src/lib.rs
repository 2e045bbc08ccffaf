//! What the node agent does to the machine around its containers: volumes, probes, CNI plugins, the
//! node's own figures, and the HTTPS endpoint that the API server (and people) talk to.
//!
//! Nothing here decides about a pod's life. Every function takes plain values that the caller has
//! already fetched, and every root of the file system is passed in.

pub mod cni;
pub mod endpoint;
pub mod logs;
mod netns;
pub mod node;
pub mod probes;
pub mod usage;
pub mod volumes;

pub use netns::interfaces;
