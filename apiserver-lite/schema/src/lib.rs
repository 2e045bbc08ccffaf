//! What the API knows of an object's form: a compact schema for every kind (made at first use from
//! k8s-openapi's own JSON schemas, plus our table of merge keys and list types), and all that is
//! decided by it: strict decoding, JSON merge, strategic merge and server-side apply, OpenAPI.
//!
//! Pure: values in, values out; the time of a managed-fields entry is an argument.

pub mod apply;
mod decode;
mod duplicate;
mod facts;
mod kinds;
mod merge;
mod model;
pub mod openapi;
pub mod quantity;
mod scalar;
mod strategic;

pub use duplicate::duplicate_fields;
pub use merge::json_merge;

use model::Type;
use serde_json::Value;

/// Group, version and kind, as in an object's `apiVersion` and `kind`. The core group is `""`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group, `""` for core.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Kind, such as `Pod`.
    pub kind: String,
}

/// A kind's form. Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    root: Type,
}

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is wrong (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (422).
    #[error("{0}")]
    Unprocessable(String),
}

impl Schema {
    /// The schema of a built-in kind. `None`: no such kind.
    #[must_use]
    pub fn builtin(gvk: &Gvk) -> Option<Schema> {
        kinds::find(gvk).map(|kind| Schema {
            root: model::root(kind),
        })
    }

    /// Checks types, puts values into the form they are stored in (quantities and times in canonical form, no
    /// nulls) and removes what the kind does not know. `Ok` has the paths of unknown fields in upstream's words
    /// (`unknown field "spec.foo"`).
    ///
    /// # Errors
    /// A type that does not fit, in upstream's words
    /// (`json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`).
    pub fn decode(&self, value: &mut Value) -> Result<Vec<String>, String> {
        decode::decode(self.root, value)
    }

    /// Strategic merge patch (directives `$patch`, `$retainKeys`, `$setElementOrder`, `$deleteFromPrimitiveList`).
    ///
    /// # Errors
    /// A patch that cannot be understood, or that lacks a merge key.
    pub fn strategic_merge(&self, live: &Value, patch: &Value) -> Result<Value, PatchError> {
        strategic::merge(self.root, live, patch)
    }
}

#[cfg(test)]
mod tests;
