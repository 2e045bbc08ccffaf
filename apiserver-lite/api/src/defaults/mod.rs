//! Defaults, as upstream's `SetDefaults_*` functions and conversions fill them. Every function takes any
//! JSON value and leaves alone what has another form than its kind.

use serde_json::{Value, json};

use crate::json::each;
use crate::quantity::Quantity;

mod cluster;
mod network;
mod pod;
mod policy;
mod storage;
mod volume;
mod workloads;

pub(crate) use cluster::*;
pub(crate) use network::*;
pub(crate) use pod::{mirror_service_account, pod, pod_template};
pub(crate) use policy::*;
pub(crate) use storage::*;
pub(crate) use workloads::*;

/// Writes the quantities of a map at a pointer in canonical text, as reading and writing them does upstream.
fn quantities(v: &mut Value, pointer: &str) {
    if let Some(map) = v.pointer_mut(pointer).and_then(Value::as_object_mut) {
        map.values_mut().for_each(quantity);
    }
}

/// Writes a quantity in canonical text; what is none is left for validation to refuse.
fn quantity(v: &mut Value) {
    if let Ok(q) = Quantity::from_value(v) {
        *v = json!(q.to_string());
    }
}

/// Sets `protocol: TCP` in each item of a list of ports.
fn tcp(v: &mut Value, pointer: &str) {
    each(v, pointer, |p| crate::json::fill_text(p, "protocol", "TCP"));
}
