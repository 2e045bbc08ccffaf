//! A place in an object with its path, and the list of what is wrong: upstream's `field.Path` and `field.ErrorList`.

use serde_json::Value;

use crate::json;
use crate::status::Cause;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<'a> {
    /// The value, `null` where nothing is.
    pub value: &'a Value,
    /// Such as `spec.containers[0].name`.
    pub path: String,
}

impl<'a> At<'a> {
    /// The object itself; its path is empty.
    pub fn root(value: &'a Value) -> At<'a> {
        At {
            value,
            path: String::new(),
        }
    }

    /// A value below a path that is given.
    pub fn new(value: &'a Value, path: impl Into<String>) -> At<'a> {
        At {
            value,
            path: path.into(),
        }
    }

    /// A field. Dots lead to fields of fields.
    pub fn child(&self, field: &str) -> At<'a> {
        let path = if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        };
        let value = field
            .split('.')
            .fold(self.value, |v, key| v.get(key).unwrap_or(&Value::Null));
        At { value, path }
    }

    /// The items of a field that is a list.
    pub fn items(&self, field: &str) -> impl Iterator<Item = At<'a>> + use<'a> {
        let list = self.child(field);
        let items = list.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(move |(i, value)| At {
            value,
            path: format!("{}[{i}]", list.path),
        })
    }

    /// The entries of a field that is a map.
    pub fn entries(&self, field: &str) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a> {
        let map = self.child(field);
        let entries = map.value.as_object().into_iter().flatten();
        entries.map(move |(k, value)| {
            (
                k.as_str(),
                At {
                    value,
                    path: format!("{}[{k}]", map.path),
                },
            )
        })
    }

    /// The text, `""` if it is none.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The integer.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// Whether it is `true`.
    pub fn flag(&self) -> bool {
        self.value.as_bool().unwrap_or_default()
    }

    /// Whether something other than `null` is there.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether it is absent or Go's zero value.
    pub fn is_zero(&self) -> bool {
        json::is_zero(self.value)
    }
}

/// What is wrong, in the order it was found.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<Cause>);

impl Errors {
    fn push(&mut self, reason: &'static str, path: &str, mut message: String, detail: &str) {
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        self.0.push(Cause {
            reason,
            field: path.to_owned(),
            message,
        });
    }

    /// A value is needed.
    pub fn required(&mut self, at: &At<'_>, detail: &str) {
        self.push(
            "FieldValueRequired",
            &at.path,
            "Required value".into(),
            detail,
        );
    }

    /// The value does not fit.
    pub fn invalid(&mut self, at: &At<'_>, detail: &str) {
        self.push(
            "FieldValueInvalid",
            &at.path,
            format!("Invalid value: {}", at.value),
            detail,
        );
    }

    /// A value that is not the field's own (a key of a map, a sum) does not fit.
    pub fn invalid_value(&mut self, path: &str, value: impl Into<Value>, detail: &str) {
        self.push(
            "FieldValueInvalid",
            path,
            format!("Invalid value: {}", value.into()),
            detail,
        );
    }

    /// Each reason of a check is an error of the value.
    pub fn check(&mut self, at: &At<'_>, reasons: Vec<String>) {
        for r in reasons {
            self.invalid(at, &r);
        }
    }

    /// The value is none of those supported.
    pub fn unsupported(&mut self, at: &At<'_>, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let detail = if list.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", list.join(", "))
        };
        self.push(
            "FieldValueNotSupported",
            &at.path,
            format!("Unsupported value: {}", at.value),
            &detail,
        );
    }

    /// The value must be one of a list; absent and `""` are left to others.
    pub fn one_of(&mut self, at: &At<'_>, supported: &[&str]) {
        if !at.is_zero() && !supported.contains(&at.text()) {
            self.unsupported(at, supported);
        }
    }

    /// The value must be there and one of a list.
    pub fn required_one_of(&mut self, at: &At<'_>, supported: &[&str], detail: &str) {
        if at.is_zero() {
            self.required(at, detail);
        } else {
            self.one_of(at, supported);
        }
    }

    /// The value stands twice.
    pub fn duplicate(&mut self, at: &At<'_>) {
        self.push(
            "FieldValueDuplicate",
            &at.path,
            format!("Duplicate value: {}", at.value),
            "",
        );
    }

    /// The value may not be set.
    pub fn forbidden(&mut self, path: &str, detail: &str) {
        self.push("FieldValueForbidden", path, "Forbidden".into(), detail);
    }

    /// What the value names is not there.
    pub fn not_found(&mut self, at: &At<'_>) {
        self.push(
            "FieldValueNotFound",
            &at.path,
            format!("Not found: {}", at.value),
            "",
        );
    }

    /// The value has too many bytes.
    pub fn too_long(&mut self, path: &str, max: usize) {
        self.push(
            "FieldValueTooLong",
            path,
            "Too long".into(),
            &format!("may not be more than {max} bytes"),
        );
    }

    /// The list has too many items.
    pub fn too_many(&mut self, path: &str, actual: usize, max: usize) {
        self.push(
            "FieldValueTooMany",
            path,
            format!("Too many: {actual}"),
            &format!("must have at most {max} items"),
        );
    }

    /// The integer, if set, must not be negative.
    pub fn non_negative(&mut self, at: &At<'_>) {
        if at.int().is_some_and(|n| n < 0) {
            self.invalid(at, "must be greater than or equal to 0");
        }
    }

    /// A field may not change.
    pub fn immutable(&mut self, new: &At<'_>, old: &Value) {
        if new.value != old {
            self.invalid(new, "field is immutable");
        }
    }
}
