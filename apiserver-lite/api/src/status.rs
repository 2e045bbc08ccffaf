//! `meta/v1 Status`: what the API answers when it refuses.

use serde_json::{Value, json};

/// One cause of an `Invalid` status: the field, the reason and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, ...
    pub reason: &'static str,
    /// The field's path, such as `spec.containers[0].name`.
    pub field: String,
    /// Such as `Required value: a name is needed`.
    pub message: String,
}

/// An error as the API answers it (`kind: Status`, `status: Failure`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// API group of the object the error is about.
    pub group: String,
    /// Resource (plural) or kind the error is about, as upstream fills `details.kind`.
    pub kind: String,
    /// Name of the object the error is about.
    pub name: String,
    /// Causes, one a field.
    pub causes: Vec<Cause>,
    /// When a client should try again, in seconds.
    pub retry_after: Option<u32>,
}

impl Status {
    /// A status with no object.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            group: String::new(),
            kind: String::new(),
            name: String::new(),
            causes: Vec::new(),
            retry_after: None,
        }
    }

    /// Names the object the error is about.
    #[must_use]
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        (self.group, self.kind, self.name) = (group.into(), kind.into(), name.into());
        self
    }

    /// 404 for an object: `pods "x" not found`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let q = qualified(group, resource);
        Self::new(404, "NotFound", format!("{q} \"{name}\" not found")).about(group, resource, name)
    }

    /// 409 for a name that is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let q = qualified(group, resource);
        Self::new(
            409,
            "AlreadyExists",
            format!("{q} \"{name}\" already exists"),
        )
        .about(group, resource, name)
    }

    /// 409 for a lost race, or a precondition that does not hold.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let q = qualified(group, resource);
        let message = format!("Operation cannot be fulfilled on {q} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 422 with a cause a field: `Pod "x" is invalid: spec.containers: Required value`.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let list: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let list = match list.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", qualified(group, kind));
        let mut s = Self::new(422, "Invalid", message).about(group, kind, name);
        s.causes = causes;
        s
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403 for an object: `pods "x" is forbidden: why`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let q = qualified(group, resource);
        let what = if name.is_empty() {
            q
        } else {
            format!("{q} \"{name}\"")
        };
        Self::new(403, "Forbidden", format!("{what} is forbidden: {why}"))
            .about(group, resource, name)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// 410 for a revision that is gone: clients list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        let mut d = serde_json::Map::new();
        for (k, s) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
        ] {
            if !s.is_empty() {
                d.insert(k.into(), json!(s));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter();
            let causes: Vec<Value> = causes
                .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                .collect();
            d.insert("causes".into(), json!(causes));
        }
        if let Some(s) = self.retry_after {
            d.insert("retryAfterSeconds".into(), json!(s));
        }
        if !d.is_empty() {
            v["details"] = Value::Object(d);
        }
        v
    }
}

/// `deployments.apps`, or `pods` for the core group.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}
