//! The resource table: one row a group, version and resource. A row is all that the generic handler
//! needs to serve it; a custom resource definition adds a row at run time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::status::{Cause, Status};

/// Text of a row: static for the built-in ones, owned for rows added at run time.
pub type Text = Cow<'static, str>;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Objects live in a namespace.
    Namespaced,
    /// One set for the whole cluster.
    Cluster,
}

/// A printing column of `kubectl get`.
#[derive(Clone, Debug)]
pub struct Column {
    /// Header, such as `Ready`.
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: Text,
    /// OpenAPI format; `name` for the column that holds the name.
    pub format: Text,
    /// Shown by `kubectl explain` of tables; may be empty.
    pub description: Text,
    /// 0 is always shown, above 0 only with `-o wide`.
    pub priority: i32,
    /// The cell.
    pub cell: Cell,
}

/// How a cell is computed from the object.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A function of the object; the time is for ages.
    Fn(fn(&Value, now: jiff::Timestamp) -> Value),
    /// A path, as custom resource definitions give (`.spec.replicas`).
    Path(String),
}

/// A field that selectors may name, and how it is read.
pub type Selectable = (&'static str, fn(&Value) -> String);

/// See [`Strategy::prepare_status`].
pub type PrepareStatus = fn(new: &mut Value, old: &Value, subresource: &str, now: jiff::Timestamp);

/// Says why a name does not fit.
pub type NameCheck = fn(&str) -> Result<(), String>;

/// What a kind does beyond the generic behaviour: plain functions over JSON values.
/// `None` means the generic behaviour. Generic metadata is handled by the caller.
///
/// All but `selectable` see the stored form of rows that convert. `prepare_create` may need `metadata.name` and
/// `metadata.uid` (Jobs), so these are set before; `validate` expects defaults to be filled.
#[derive(Clone, Copy, Default)]
pub struct Strategy {
    /// Fills defaults into a decoded object (every read of user input: create, update, patch).
    pub default: Option<fn(&mut Value)>,
    /// Before create: clears status and system-owned fields.
    pub prepare_create: Option<fn(&mut Value)>,
    /// Before update (not of a subresource): keeps what the user may not change, bumps generation where
    /// upstream does. `metadata.generation` when `spec` changes is generic unless `own_generation`.
    pub prepare_update: Option<fn(new: &mut Value, old: &Value)>,
    /// Checks a new object.
    pub validate: Option<fn(&Value) -> Vec<Cause>>,
    /// Checks a change of the main resource, after `validate`.
    pub validate_update: Option<fn(new: &Value, old: &Value) -> Vec<Cause>>,
    /// Before an update of the status or approval: keeps what that subresource (the third argument) may not change; the
    /// time is for what is dated.
    pub prepare_status: Option<PrepareStatus>,
    /// Metadata that a write of the status leaves as it is; most kinds take it all (agents write labels and
    /// annotations along with the status).
    pub status_keeps: &'static [&'static str],
    /// Checks a change of the status subresource.
    pub validate_status: Option<fn(new: &Value, old: &Value) -> Vec<Cause>>,
    /// Fields beyond `metadata.name` and `metadata.namespace` that field selectors may name.
    pub selectable: &'static [Selectable],
    /// Objects of this kind have no `metadata.generation` (ConfigMap, Secret, Event, Lease, ...).
    pub no_generation: bool,
    /// Deletion is graceful: gives the grace period in seconds to use (Pods on a node: their own or
    /// what was asked for), 0 deletes at once. `None`: never graceful.
    pub grace: Option<fn(obj: &Value, asked: Option<i64>) -> i64>,
    /// Name checks: `None` means a DNS-1123 subdomain.
    pub valid_name: Option<NameCheck>,
    /// What the object owns outlives it unless the deletion says otherwise, and the user is told so (of kinds that are
    /// older than garbage collection).
    pub orphans: bool,
    /// A create by PUT or apply on a name that does not exist is allowed for PUT (Lease, Event, Node...).
    pub create_on_update: bool,
}

/// A subresource of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sub {
    /// `status`: only `.status` changes.
    Status,
    /// `scale`: as `autoscaling/v1 Scale`.
    Scale,
    /// `pods/binding`.
    Binding,
    /// `pods/eviction`.
    Eviction,
    /// `pods/ephemeralcontainers`.
    EphemeralContainers,
    /// `pods/resize`.
    Resize,
    /// `pods/log`.
    Log,
    /// `pods/exec`.
    Exec,
    /// `pods/attach`.
    Attach,
    /// `pods/portforward`.
    PortForward,
    /// `pods/proxy`, `services/proxy`, `nodes/proxy`.
    Proxy,
    /// `serviceaccounts/token`.
    Token,
    /// `namespaces/finalize`.
    Finalize,
    /// `certificatesigningrequests/approval`.
    Approval,
}

impl Sub {
    /// The last part of the URL.
    pub fn name(self) -> &'static str {
        match self {
            Sub::Status => "status",
            Sub::Scale => "scale",
            Sub::Binding => "binding",
            Sub::Eviction => "eviction",
            Sub::EphemeralContainers => "ephemeralcontainers",
            Sub::Resize => "resize",
            Sub::Log => "log",
            Sub::Exec => "exec",
            Sub::Attach => "attach",
            Sub::PortForward => "portforward",
            Sub::Proxy => "proxy",
            Sub::Token => "token",
            Sub::Finalize => "finalize",
            Sub::Approval => "approval",
        }
    }
}

/// A row.
#[derive(Clone)]
pub struct Resource {
    /// API group, `""` for core.
    pub group: Text,
    /// Version, such as `v1`.
    pub version: Text,
    /// Kind, such as `Pod`.
    pub kind: Text,
    /// Kind of the list, such as `PodList`.
    pub list_kind: Text,
    /// Plural, as in URLs.
    pub plural: Text,
    /// Singular.
    pub singular: Text,
    /// Short names, such as `po`.
    pub short_names: Vec<Text>,
    /// Categories, such as `all`.
    pub categories: Vec<Text>,
    /// Namespaced or not.
    pub scope: Scope,
    /// `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`; reviews have only `create`.
    pub verbs: &'static [&'static str],
    /// Subresources.
    pub subresources: Vec<Sub>,
    /// Printing columns.
    pub columns: Arc<[Column]>,
    /// What this kind does beyond the generic.
    pub strategy: Strategy,
    /// Two rows with the same `storage` share objects (`events` in core and events.k8s.io): the part of
    /// the key after `/registry/`, such as `pods`, `deployments`, `events`.
    pub storage: Text,
    /// Turns the stored form into this row's version and back, where rows share `storage` in different forms.
    /// `None`: only `apiVersion` differs.
    pub convert: Option<Convert>,
}

/// Conversion between the stored form and a row's version.
#[derive(Clone, Copy)]
pub struct Convert {
    /// Stored form to this version.
    pub from_stored: fn(&mut Value),
    /// This version to the stored form.
    pub to_stored: fn(&mut Value),
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// A 404 for an object of this row.
    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.group, &self.plural, name)
    }

    /// Whether the row serves a verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

/// All rows that are served, by group, version and plural.
#[derive(Clone, Default)]
pub struct Table {
    rows: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Table {
    /// The row for a URL.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.rows
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Adds or replaces a row.
    pub fn insert(&mut self, row: Resource) {
        let key = (
            row.group.to_string(),
            row.version.to_string(),
            row.plural.to_string(),
        );
        self.rows.insert(key, Arc::new(row));
    }

    /// Removes a row.
    pub fn remove(&mut self, group: &str, version: &str, plural: &str) {
        self.rows
            .remove(&(group.to_owned(), version.to_owned(), plural.to_owned()));
    }

    /// All rows, ordered by group, version and plural.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.rows.values()
    }
}
