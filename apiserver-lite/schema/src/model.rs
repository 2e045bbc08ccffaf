//! The compact form of a schema: types and merge facts, nothing that is only for reading.
//!
//! Definitions are shared between kinds (every kind has an `ObjectMeta`) and refer to each other, also in
//! circles, so they live as long as the process and are built once, when a kind that needs them is first asked for.

use crate::facts::{self, Patch, Topology};
use crate::kinds::Kind;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What a value may be.
#[derive(Clone, Copy)]
pub(crate) enum Type {
    Bool,
    Int32,
    Int64,
    Double,
    Str,
    /// Base64 in a string.
    Bytes,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    Quantity,
    IntOrString,
    /// Free JSON: kept as it is, owned as a whole.
    Any,
    Named(&'static Named),
    Map(&'static MapType),
    List(&'static ListType),
}

/// A definition by name.
pub(crate) struct Named {
    /// Such as `io.k8s.api.core.v1.PodSpec`.
    pub(crate) name: Box<str>,
    body: OnceLock<Struct>,
}

/// An object with known fields.
#[derive(Default)]
pub(crate) struct Struct {
    /// Sorted by name.
    fields: Box<[Field]>,
    /// Owned and replaced as a whole by server-side apply.
    pub(crate) atomic: bool,
}

/// A field of an object.
pub(crate) struct Field {
    pub(crate) name: Box<str>,
    pub(crate) ty: Type,
    /// How a strategic merge patch treats it.
    pub(crate) patch: Patch,
}

/// An object with free keys.
pub(crate) struct MapType {
    pub(crate) value: Type,
    pub(crate) atomic: bool,
}

/// An array.
pub(crate) struct ListType {
    pub(crate) item: Type,
    pub(crate) topology: Topology,
}

impl Named {
    /// The definition's fields.
    pub(crate) fn body(&self) -> &Struct {
        self.body.get_or_init(Struct::default)
    }
}

impl Struct {
    /// The field of that name.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        let at = self
            .fields
            .binary_search_by(|field| (*field.name).cmp(name))
            .ok()?;
        self.fields.get(at)
    }

    /// All fields, by name.
    #[cfg(test)]
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter()
    }
}

/// Before the registry's key of a definition in its granular form.
const GRANULAR: &str = "granular:";

type Registry = HashMap<String, &'static Named>;

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// The root type of a kind, built at first use together with all definitions it needs.
pub(crate) fn root(kind: &Kind) -> Type {
    let mut guard = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    let registry = guard.get_or_insert_default();
    let name = (kind.definition)();
    if registry
        .get(&name)
        .is_none_or(|known| known.body.get().is_none())
    {
        let definitions = definitions(kind);
        for (name, schema) in &definitions {
            fill(
                registry,
                name,
                schema,
                facts::atomic_struct(facts::short(name)),
            );
        }
        // Only now is it known which granular forms are wanted.
        for (name, schema) in &definitions {
            fill(registry, &format!("{GRANULAR}{name}"), schema, false);
        }
    }
    Type::Named(intern(registry, &name))
}

/// The full JSON schemas of a kind and of all it refers to, by definition name.
pub(crate) fn definitions(kind: &Kind) -> serde_json::Map<String, Value> {
    let mut generator = schemars::SchemaGenerator::default();
    (kind.add)(&mut generator);
    generator.take_definitions(true)
}

fn intern(registry: &mut Registry, name: &str) -> &'static Named {
    registry.entry(name.to_owned()).or_insert_with(|| {
        Box::leak(Box::new(Named {
            name: name.trim_start_matches(GRANULAR).into(),
            body: OnceLock::new(),
        }))
    })
}

/// Gives a definition its fields, unless it has them. The lock is held, so nobody else can have done it since.
fn fill(registry: &mut Registry, name: &str, schema: &Value, atomic: bool) {
    let wanted = !name.starts_with(GRANULAR) || registry.contains_key(name);
    let named = wanted.then(|| intern(registry, name));
    if let Some(named) = named.filter(|named| named.body.get().is_none()) {
        let body = build(registry, &named.name, schema, atomic);
        let _ = named.body.set(body);
    }
}

fn build(registry: &mut Registry, definition: &str, schema: &Value, atomic: bool) -> Struct {
    let short = facts::short(definition);
    let mut fields: Vec<Field> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, schema)| {
            let fact = facts::field(short, name);
            Field {
                name: name.as_str().into(),
                ty: convert(registry, schema, fact.topology),
                patch: fact.patch,
            }
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Struct {
        fields: fields.into(),
        atomic,
    }
}

/// Definitions that are not objects with fields.
fn well_known(definition: &str) -> Option<Type> {
    Some(match facts::short(definition) {
        "api.resource.Quantity" => Type::Quantity,
        "util.intstr.IntOrString" => Type::IntOrString,
        "meta.v1.Time" => Type::Time,
        "meta.v1.MicroTime" => Type::MicroTime,
        "meta.v1.FieldsV1"
        | "pkg.runtime.RawExtension"
        | "apiextensions.v1.JSON"
        | "apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions.v1.JSONSchemaPropsOrBool"
        | "apiextensions.v1.JSONSchemaPropsOrStringArray"
        | "apiextensions.v1.CustomResourceSubresourceStatus" => Type::Any,
        _ => return None,
    })
}

fn convert(registry: &mut Registry, schema: &Value, topology: Topology) -> Type {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return well_known(name).unwrap_or_else(|| {
            let prefix = if topology == Topology::Granular {
                GRANULAR
            } else {
                ""
            };
            Type::Named(intern(registry, &format!("{prefix}{name}")))
        });
    }
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("format")) {
        ("boolean", _) => Type::Bool,
        ("integer", "int32") => Type::Int32,
        ("integer", _) => Type::Int64,
        ("number", _) => Type::Double,
        ("string", "byte") => Type::Bytes,
        ("string", "date-time") => Type::Time,
        ("string", _) => Type::Str,
        ("array", _) => {
            let item = schema.get("items").unwrap_or(&Value::Null);
            let item = convert(registry, item, Topology::Atomic);
            Type::List(Box::leak(Box::new(ListType { item, topology })))
        }
        ("object", _) => match schema.get("additionalProperties") {
            Some(value) => {
                let value = convert(registry, value, Topology::Atomic);
                let atomic = topology == Topology::AtomicMap;
                Type::Map(Box::leak(Box::new(MapType { value, atomic })))
            }
            None => Type::Any,
        },
        _ => Type::Any,
    }
}

impl Type {
    /// The fields, if this is an object with known fields.
    pub(crate) fn as_struct(self) -> Option<&'static Struct> {
        match self {
            Type::Named(named) => Some(named.body()),
            _ => None,
        }
    }

    /// The type of a field or of a map's value; free JSON when there is none.
    pub(crate) fn child(self, name: &str) -> Type {
        match self {
            Type::Named(named) => named.body().field(name).map_or(Type::Any, |field| field.ty),
            Type::Map(map) => map.value,
            _ => Type::Any,
        }
    }
}
