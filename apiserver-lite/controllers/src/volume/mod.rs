//! Volumes and claims: who is bound to whom ([`Binder`]), what is kept while it is in use ([`Protection`]), claims of
//! generic ephemeral volumes ([`Ephemeral`]), directories of nodes as volumes ([`LocalPath`]), and attaching ([`Attaching`]).

mod attach;
mod binder;
mod claim;
mod ephemeral;
mod local;
mod protect;
mod release;
#[cfg(test)]
mod tests;

pub use attach::Attaching;
pub use binder::Binder;
pub use claim::{Around, plan as claim};
pub use ephemeral::{Ephemeral, plan as ephemeral};
pub use local::{LocalPath, NODE as LOCAL_NODE, PROVISIONER as LOCAL_PATH};
pub use protect::Protection;
pub use release::{Holder, plan as volume};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_api::volume::{Claim, Volume};
use serde::Serialize;
use serde_json::{Value, json};

use crate::action::Target;

/// An API object as JSON: what `keelson_api::volume` reads.
fn value(object: &impl Serialize) -> Value {
    json!(object)
}

fn parsed_claim(claim: &PersistentVolumeClaim) -> Claim {
    Claim::parse(&value(claim))
}

fn parsed_volume(volume: &PersistentVolume) -> Volume {
    Volume::parse(&value(volume))
}

fn phase(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Only if nobody changed the object since it was read.
fn unchanged<K: kube::Resource<DynamicType = ()>>(object: &K) -> Target {
    Target::of(object).unchanged(object)
}
