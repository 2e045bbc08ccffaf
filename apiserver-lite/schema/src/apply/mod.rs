//! Server-side apply and managed fields.
//!
//! Rules: KEP-555, and `managedfields` of `k8s.io/apimachinery`. An object's managers are a map from identity to
//! the set of fields each owns. An apply merges the configuration into the live object, takes out what its manager
//! owned before and neither applies now nor anyone else owns, and refuses to change what others own.

mod legacy;
mod managed;
mod set;
mod walk;

#[cfg(test)]
mod tests;

use crate::Schema;
use crate::model::Type;
use managed::{Entry, Identity, Managed, Operation};
use serde_json::{Map, Value};
use set::Set;
use std::collections::BTreeMap;
use walk::{compare, fields, merge, remove, with_parents};

/// Owner of what an object had before its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and how: one entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// `fieldManager`, or what precedes the first `/` in the user agent.
    pub name: String,
    /// The version the fields are in, such as `apps/v1`.
    pub api_version: String,
    /// `status`, `scale` or `""`.
    pub subresource: String,
    /// RFC 3339 time of the entry.
    pub time: String,
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager, in upstream's words: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// The field, such as `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields with other values (409), and `force` was not set. The text is upstream's message; the
    /// causes of the answer are of type `FieldManagerConflict`, with the message `conflict with <manager>`.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied configuration is wrong (400).
    #[error("{0}")]
    Malformed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.field
        );
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        let fields = by_manager.entry(&conflict.manager).or_default();
        fields.push(&conflict.field);
    }
    let lines: Vec<String> = by_manager
        .into_iter()
        .flat_map(|(manager, fields)| {
            let fields = fields.into_iter().map(|field| format!("- {field}"));
            std::iter::once(format!("conflicts with {manager}:")).chain(fields)
        })
        .collect();
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

/// Applies a configuration onto the live object (or onto nothing) and gives the new object with its managed fields.
/// An apply that changes nothing gives the live object, managed fields and times included.
///
/// The configuration is the user's, before defaults; the live object is as stored.
///
/// # Errors
/// Conflicts with other managers without `force`, or a configuration that does not fit the kind.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, ApplyError> {
    let root = schema.root;
    let config = configuration(schema, applied, manager)?;
    let mut base = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let mut before = managed::take(&mut base).unwrap_or_default();
    if live.is_some() && before.is_empty() {
        before = owned_before_first_apply(root, &base, manager);
    }
    let me = Identity::of(manager, Operation::Apply);
    let (mut object, mut after) = match attempt(root, &base, &config, &before, &me, force) {
        Err(conflicts) if legacy::allows(root, &base, &conflicts, manager) => {
            attempt(root, &base, &config, &before, &me, true)
        }
        result => result,
    }
    .map_err(|conflicts| ApplyError::Conflicts(named(&conflicts)))?;

    legacy::refresh(&mut object, applied, manager);
    let former = before.get(&me).map(|entry| &entry.fields);
    if let Some(entry) = after.get_mut(&me) {
        entry.api_version.clone_from(&manager.api_version);
        entry.time = match before.get(&me) {
            Some(old) if former == Some(&entry.fields) && object == base => old.time.clone(),
            _ => manager.time.clone(),
        };
    }
    managed::put(&mut object, after);
    Ok(object)
}

/// The configuration as it takes part: checked, and without what its subresource does not write.
fn configuration(schema: &Schema, applied: &Value, manager: &Manager) -> Result<Value, ApplyError> {
    let given = applied.pointer("/metadata/managedFields");
    if given.is_some_and(|fields| !fields.is_null()) {
        return Err(ApplyError::Malformed(
            "metadata.managedFields must be nil".into(),
        ));
    }
    let text = |at: &str| {
        applied
            .pointer(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let refuse = |reason: String| {
        ApplyError::Malformed(format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {reason}",
            text("/metadata/namespace"),
            text("/metadata/name"),
            text("/apiVersion"),
            text("/kind"),
        ))
    };
    let mut config = applied.clone();
    let unknown = schema.decode(&mut config).map_err(ApplyError::Malformed)?;
    if let Some(field) = unknown.first() {
        let field = field.split('"').nth(1).unwrap_or_default();
        return Err(refuse(format!(".{field}: field not declared in schema")));
    }
    if let Some(complaint) = walk::duplicate_item(schema.root, &config, "") {
        return Err(refuse(complaint));
    }
    if let Value::Object(config) = &mut config {
        match manager.subresource.as_str() {
            "" => drop(config.remove("status")),
            "status" => drop(config.remove("spec")),
            _ => {}
        }
    }
    Ok(config)
}

fn owned_before_first_apply(root: Type, live: &Value, manager: &Manager) -> Managed {
    let mut owned = compare(root, &empty(root), live).changed();
    managed::strip(&mut owned);
    let owner = Manager {
        name: BEFORE_FIRST_APPLY.into(),
        subresource: String::new(),
        ..manager.clone()
    };
    let entry = Entry {
        fields: owned,
        api_version: owner.api_version.clone(),
        time: owner.time.clone(),
    };
    Managed::from([(Identity::of(&owner, Operation::Update), entry)])
}

type Conflicts = BTreeMap<Identity, Set>;

/// One apply, with all its consequences for the object and its managers.
fn attempt(
    root: Type,
    live: &Value,
    config: &Value,
    before: &Managed,
    me: &Identity,
    force: bool,
) -> Result<(Value, Managed), Conflicts> {
    let merged = merge(root, live, config);
    let mine = fields(root, config);
    let former = before.get(me).map(|entry| entry.fields.clone());
    let mut managed = before.clone();
    managed.insert(
        me.clone(),
        Entry {
            fields: mine,
            api_version: String::new(),
            time: String::new(),
        },
    );
    let object = match former {
        // An object that was applied empty, and now is, comes back.
        Some(former) if !former.is_empty() => {
            merge(root, &prune(root, &merged, &managed, &former), config)
        }
        _ => merged,
    };
    let conflicts = disown(root, live, &object, &mut managed, Some(me));
    // Not before: pruning must see that the name, which nobody owns, was applied.
    if let Some(entry) = managed.get_mut(me) {
        managed::strip(&mut entry.fields);
    }
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    Ok((object, managed))
}

/// Takes out what the manager owned before and nobody owns now.
fn prune(root: Type, merged: &Value, managed: &Managed, former: &Set) -> Value {
    let former = with_parents(root, former);
    let nothing = || Value::Object(Map::new());
    let pruned = remove(root, merged, &former).unwrap_or_else(nothing);
    let had = with_parents(root, &fields(root, merged));
    let kept = with_parents(root, &fields(root, &pruned));
    let owned = managed.values().fold(kept, |kept, entry| {
        kept.union(&with_parents(root, &entry.fields))
    });
    let pruned = remove(root, merged, &had.difference(&owned)).unwrap_or_else(nothing);
    // Items that hung on a removed parent and were never this manager's come back.
    let kept = with_parents(root, &fields(root, &pruned));
    let gone = had.difference(&kept).intersection(&former);
    remove(root, merged, &gone).unwrap_or_else(nothing)
}

/// Takes changed and removed fields from everyone but `me`, and gives what was taken by change.
fn disown(
    root: Type,
    old: &Value,
    new: &Value,
    managed: &mut Managed,
    me: Option<&Identity>,
) -> Conflicts {
    let diff = compare(root, old, new);
    let changed = diff.changed();
    let mut conflicts = Conflicts::new();
    for (identity, entry) in managed.iter_mut() {
        if Some(identity) == me {
            continue;
        }
        let taken = entry.fields.intersection(&changed);
        entry.fields = entry.fields.difference(&taken).difference(&diff.removed);
        if !taken.is_empty() {
            conflicts.insert(identity.clone(), taken);
        }
    }
    managed.retain(|_, entry| !entry.fields.is_empty());
    conflicts
}

fn named(conflicts: &Conflicts) -> Vec<Conflict> {
    let mut all: Vec<Conflict> = conflicts
        .iter()
        .flat_map(|(identity, set)| {
            set.paths().into_iter().map(|field| Conflict {
                manager: identity.words(),
                field,
            })
        })
        .collect();
    all.sort_by(|a, b| (&a.manager, &a.field).cmp(&(&b.manager, &b.field)));
    all
}

/// Records in `new.metadata.managedFields` that `manager` changed `old` into `new` by create, update or patch.
///
/// Entries the writer itself sent are taken as they are (`[{}]` forgets all). An object that nobody tracks stays so
/// until its first apply.
pub fn record_update(schema: &Schema, old: Option<&Value>, new: &mut Value, manager: &Manager) {
    let root = schema.root;
    let mut base = old.cloned().unwrap_or_else(|| empty(root));
    let live = managed::take(&mut base).unwrap_or_default();
    let reset = managed::is_reset(new);
    let sent = managed::take(new).unwrap_or_default();
    let mut managed = match (reset, manager.subresource.is_empty()) {
        (true, true) => Managed::new(),
        // A subresource cannot edit the entries.
        (_, true) if !sent.is_empty() => sent,
        _ => live,
    };
    if old.is_some() && managed.is_empty() {
        return;
    }
    disown(root, &base, new, &mut managed, None);
    let diff = compare(root, &base, new);
    let mut taken = diff.changed().difference(&diff.removed);
    managed::strip(&mut taken);
    if !taken.is_empty() {
        let me = Identity::of(manager, Operation::Update);
        let entry = managed.entry(me).or_insert_with(|| Entry {
            fields: Set::default(),
            api_version: manager.api_version.clone(),
            time: String::new(),
        });
        entry.fields = entry.fields.union(&taken);
        entry.time.clone_from(&manager.time);
    }
    managed::put(new, managed);
}

/// What an object is before it has anything: its top-level objects are there, with nothing in them.
fn empty(root: Type) -> Value {
    let top = ["metadata", "spec", "status"];
    let known = |name: &&str| {
        root.as_struct()
            .is_some_and(|known| known.field(name).is_some())
    };
    let fields = top.iter().filter(|name| known(name));
    Value::Object(
        fields
            .map(|name| ((*name).to_owned(), Value::Object(Map::new())))
            .collect(),
    )
}
