//! Decoding of a JSON object into a kind: types checked, unknown fields dropped and reported, values in the form
//! they are stored in. The words are those of Go's JSON decoder, which users of `kubectl` know.

use crate::model::{Named, Type};
use crate::scalar::{self, json_kind};
use serde_json::Value;

/// Checks `value` against `ty` and gives the unknown fields found, in upstream's words.
pub(crate) fn decode(ty: Type, value: &mut Value) -> Result<Vec<String>, String> {
    let mut walk = Walk::default();
    walk.value(ty, value)?;
    Ok(walk.unknown)
}

enum Step {
    Field(Box<str>),
    Key(String),
    Index(usize),
}

#[derive(Default)]
struct Walk {
    path: Vec<Step>,
    /// The innermost object type around the value.
    owner: Option<&'static Named>,
    unknown: Vec<String>,
}

impl Walk {
    fn value(&mut self, ty: Type, value: &mut Value) -> Result<(), String> {
        match (ty, &mut *value) {
            (Type::Any, _) => Ok(()),
            (Type::Named(named), Value::Object(map)) => self.object(named, map),
            (Type::Map(of), Value::Object(map)) => {
                for (key, item) in map.iter_mut() {
                    if item.is_null() {
                        *item = zero(of.value);
                    }
                    self.path.push(Step::Key(key.clone()));
                    self.value(of.value, item)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Type::List(of), Value::Array(items)) => {
                for (at, item) in items.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(of.item);
                    }
                    self.path.push(Step::Index(at));
                    self.value(of.item, item)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Type::Bool, Value::Bool(_)) | (Type::Str, Value::String(_)) => Ok(()),
            (Type::Double, Value::Number(_)) => Ok(()),
            (Type::Bytes, Value::String(text)) => scalar::base64(text),
            (Type::Int32 | Type::Int64, Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|number| {
                    matches!(ty, Type::Int64) || i32::try_from(number).is_ok()
                });
                if fits {
                    return Ok(());
                }
                Err(self.mismatch(&format!("number {number}"), ty))
            }
            (Type::Time, Value::String(text)) => {
                *text = scalar::time(text, 0)?;
                Ok(())
            }
            (Type::MicroTime, Value::String(text)) => {
                *text = scalar::time(text, 6)?;
                Ok(())
            }
            (Type::Time | Type::MicroTime, other) => Err(format!(
                "json: cannot unmarshal {} into Go value of type string",
                json_kind(other)
            )),
            (Type::Quantity, _) => scalar::quantity(value),
            (Type::IntOrString, _) => scalar::int_or_string(value),
            (_, other) => {
                let kind = json_kind(other);
                Err(self.mismatch(kind, ty))
            }
        }
    }

    fn object(
        &mut self,
        named: &'static Named,
        map: &mut serde_json::Map<String, Value>,
    ) -> Result<(), String> {
        let around = self.owner.replace(named);
        let mut unwanted = vec![];
        for (key, value) in map.iter_mut() {
            match named.body().field(key) {
                None => {
                    self.unknown
                        .push(format!("unknown field \"{}\"", self.path_to(key)));
                    unwanted.push(key.clone());
                }
                // A null is the same as nothing to every type of the API.
                Some(_) if value.is_null() => unwanted.push(key.clone()),
                Some(field) => {
                    self.path.push(Step::Field(field.name.clone()));
                    self.value(field.ty, value)?;
                    self.path.pop();
                }
            }
        }
        for key in unwanted {
            map.remove(&key);
        }
        self.owner = around;
        Ok(())
    }

    fn path_to(&self, field: &str) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(at) => path.push_str(&format!("[{at}]")),
                Step::Field(name) => append(&mut path, name),
                Step::Key(name) => append(&mut path, name),
            }
        }
        append(&mut path, field);
        path
    }

    fn mismatch(&self, found: &str, wanted: Type) -> String {
        let wanted = go_type(wanted);
        let fields: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                Step::Field(name) => Some(&**name),
                _ => None,
            })
            .collect();
        match self.owner {
            Some(owner) if !fields.is_empty() => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
                last(&owner.name),
                fields.join(".")
            ),
            _ => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        }
    }
}

fn append(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn last(definition: &str) -> &str {
    definition.rsplit('.').next().unwrap_or(definition)
}

/// What Go makes of a null in a list or a map.
fn zero(ty: Type) -> Value {
    match ty {
        Type::Any | Type::Time | Type::MicroTime => Value::Null,
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Str | Type::Bytes => "".into(),
        Type::Quantity => "0".into(),
        Type::Named(_) | Type::Map(_) => Value::Object(serde_json::Map::new()),
        Type::List(_) => Value::Array(vec![]),
    }
}

fn go_type(ty: Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Double => "float64".into(),
        Type::Str => "string".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Any => "runtime.RawExtension".into(),
        Type::Map(of) => format!("map[string]{}", go_type(of.value)),
        Type::List(of) => format!("[]{}", go_type(of.item)),
        Type::Named(named) => {
            let mut parts = named.name.rsplit('.');
            let (name, package) = (parts.next(), parts.next());
            format!(
                "{}.{}",
                package.unwrap_or_default(),
                name.unwrap_or_default()
            )
        }
    }
}
