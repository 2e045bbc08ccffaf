//! `metadata.managedFields`: reading, writing, and keeping it small.

use super::Manager;
use super::set::{Element, Set};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// More managers by update than this are merged into one (upstream: `DefaultMaxUpdateManagers`).
const MOST_UPDATE_MANAGERS: usize = 10;
/// The name they are merged into.
const ANCIENT: &str = "ancient-changes";

/// How an entry's manager wrote. The order is that of the entries in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// What tells entries apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) operation: Operation,
    pub(crate) name: String,
    /// Empty for appliers, who have one entry whatever version they applied last.
    pub(crate) api_version: String,
    pub(crate) subresource: String,
}

impl Identity {
    pub(crate) fn of(manager: &Manager, operation: Operation) -> Identity {
        Identity {
            operation,
            name: manager.name.clone(),
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => manager.api_version.clone(),
            },
            subresource: manager.subresource.clone(),
        }
    }

    /// As in conflict messages: `"kubectl-client-side-apply" using apps/v1`.
    pub(crate) fn words(&self) -> String {
        let mut words = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            words.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            words.push_str(&format!(" using {}", self.api_version));
        }
        words
    }
}

/// An entry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) fields: Set,
    pub(crate) api_version: String,
    pub(crate) time: String,
}

/// All entries of an object.
pub(crate) type Managed = BTreeMap<Identity, Entry>;

/// Takes the managed fields out of an object. `None`: they cannot be read.
pub(crate) fn take(object: &mut Value) -> Option<Managed> {
    match object.get_mut("metadata").and_then(Value::as_object_mut) {
        Some(metadata) => parse(&metadata.remove("managedFields").unwrap_or(Value::Null)),
        None => Some(Managed::new()),
    }
}

fn parse(entries: &Value) -> Option<Managed> {
    if entries.is_null() {
        return Some(Managed::new());
    }
    let mut managed = Managed::new();
    for entry in entries.as_array()? {
        let text = |key: &str| {
            entry
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let manager = Manager {
            name: text("manager"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
        };
        let fields = match entry.get("fieldsV1") {
            Some(fields) => Set::parse(fields)?,
            None => Set::default(),
        };
        let identity = Identity::of(&manager, operation);
        managed.insert(
            identity,
            Entry {
                fields,
                api_version: manager.api_version,
                time: manager.time,
            },
        );
    }
    Some(managed)
}

/// Whether the writer asks for all entries to be forgotten: `managedFields: [{}]`.
pub(crate) fn is_reset(object: &Value) -> bool {
    let entries = object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    entries.is_some_and(
        |entries| matches!(entries.as_slice(), [Value::Object(entry)] if entry.is_empty()),
    )
}

/// Writes entries into an object, oldest first, appliers before updaters. None: the field is left out.
pub(crate) fn put(object: &mut Value, mut managed: Managed) {
    cap(&mut managed);
    managed.retain(|_, entry| !entry.fields.is_empty());
    if managed.is_empty() {
        return;
    }
    let mut entries: Vec<_> = managed.into_iter().collect();
    entries.sort_by(|(a, x), (b, y)| (a.operation, &x.time, a).cmp(&(b.operation, &y.time, b)));
    let entries = entries.into_iter().map(|(identity, entry)| {
        let mut value = json!({
            "manager": identity.name,
            "operation": format!("{:?}", identity.operation),
            "apiVersion": entry.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.fields.to_value(),
        });
        for (key, text) in [("time", entry.time), ("subresource", identity.subresource)] {
            if let Value::Object(value) = &mut value
                && !text.is_empty()
            {
                value.insert(key.into(), text.into());
            }
        }
        value
    });
    let entries: Vec<Value> = entries.collect();
    if let Value::Object(object) = object {
        let metadata = object
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(metadata) = metadata {
            metadata.insert("managedFields".into(), entries.into());
        }
    }
}

/// Merges the oldest updaters of a version into one until few enough are left.
fn cap(managed: &mut Managed) {
    let mut updaters: Vec<(String, Identity)> = managed
        .iter()
        .filter(|(identity, _)| identity.operation == Operation::Update)
        .map(|(identity, entry)| (entry.time.clone(), identity.clone()))
        .collect();
    updaters.sort();
    let mut left = updaters.len();
    let mut first_of_version: BTreeMap<String, Identity> = BTreeMap::new();
    for (time, updater) in updaters {
        if left <= MOST_UPDATE_MANAGERS {
            return;
        }
        let version = updater.api_version.clone();
        let Some(first) = first_of_version.get(&version) else {
            first_of_version.insert(version, updater);
            continue;
        };
        let bucket = Identity {
            operation: Operation::Update,
            name: ANCIENT.into(),
            api_version: version,
            subresource: String::new(),
        };
        if !managed.contains_key(&bucket)
            && let Some(entry) = managed.remove(first)
        {
            managed.insert(bucket.clone(), entry);
        }
        if updater == bucket {
            continue;
        }
        let Some(merged) = managed.remove(&updater) else {
            continue;
        };
        if let Some(entry) = managed.get_mut(&bucket) {
            entry.fields = entry.fields.union(&merged.fields);
            entry.time = time;
        }
        left -= 1;
    }
}

/// Removes what nobody owns: identity, and what only the server writes.
pub(crate) fn strip(set: &mut Set) {
    const METADATA: [&str; 9] = [
        "clusterName",
        "creationTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    for field in ["apiVersion", "kind"] {
        set.remove(&Element::field(field));
    }
    let at = Element::field("metadata");
    if let Some(metadata) = set.get(&at) {
        let mut metadata = metadata.clone();
        metadata.member = false;
        for field in METADATA {
            metadata.children.remove(&Element::field(field));
        }
        set.remove(&at);
        set.add(at, metadata);
    }
}
