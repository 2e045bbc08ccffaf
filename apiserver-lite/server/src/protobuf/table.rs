//! The messages of the API, read once from `messages.txt`, which describes its own form.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What one value of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// UTF-8; the flag says that empty text is kept.
    Text {
        empty: bool,
    },
    Bytes,
    /// The flag says that 0 is kept.
    Int {
        zero: bool,
    },
    /// The flag says that false is kept.
    Flag {
        zero: bool,
    },
    /// `meta/v1 Time`.
    Time,
    /// `meta/v1 MicroTime`.
    MicroTime,
    Quantity,
    /// `intstr.IntOrString`.
    Either,
    /// JSON in the first field of a message (`RawExtension`, `FieldsV1`).
    Json,
    /// A message that holds a list of texts (`ExtraValue`).
    Texts,
    /// The message at this index of the table.
    Message(usize),
}

/// How many values a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Many {
    One,
    List,
    /// By text.
    Map,
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// In JSON; `+`: the message's fields stand in the place of this one.
    pub(super) name: &'static str,
    pub(super) many: Many,
    pub(super) form: Form,
}

/// All messages.
pub(super) struct Messages {
    by_name: HashMap<&'static str, usize>,
    fields: Vec<Vec<Field>>,
}

/// The messages of `messages.txt`.
pub(super) static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
    // A line that cannot be read leaves its message without fields, so that it is refused; the tests read all.
    let lines = entries(include_str!("messages.txt"));
    let by_name: HashMap<_, _> = lines
        .iter()
        .enumerate()
        .map(|(at, (name, _))| (*name, at))
        .collect();
    let fields = lines
        .iter()
        .map(|(_, lines)| read(lines, &by_name).unwrap_or_default())
        .collect();
    Messages { by_name, fields }
});

/// API versions, and what the names of their messages begin with.
const VERSIONS: &[(&str, &str)] = &[
    ("v1", "core"),
    ("admissionregistration.k8s.io/v1", "admissionregistration"),
    ("apps/v1", "apps"),
    ("authentication.k8s.io/v1", "authentication"),
    ("authorization.k8s.io/v1", "authorization"),
    ("autoscaling/v1", "autoscaling"),
    ("autoscaling/v2", "autoscaling.v2"),
    ("batch/v1", "batch"),
    ("certificates.k8s.io/v1", "certificates"),
    ("coordination.k8s.io/v1", "coordination"),
    ("discovery.k8s.io/v1", "discovery"),
    ("events.k8s.io/v1", "events"),
    ("networking.k8s.io/v1", "networking"),
    ("node.k8s.io/v1", "node"),
    ("policy/v1", "policy"),
    ("rbac.authorization.k8s.io/v1", "rbac"),
    ("scheduling.k8s.io/v1", "scheduling"),
    ("storage.k8s.io/v1", "storage"),
];

impl Messages {
    /// The message of a kind: one with metadata, or the options of a deletion, which go by any version.
    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Option<usize> {
        if kind == "DeleteOptions" {
            return self.by_name.get("meta.DeleteOptions").copied();
        }
        let (_, group) = VERSIONS.iter().find(|(v, _)| *v == api_version)?;
        let at = *self.by_name.get(format!("{group}.{kind}").as_str())?;
        let meta = Form::Message(*self.by_name.get("meta.ObjectMeta")?);
        let first = self.field(at, 1)?;
        (first.name == "metadata" && first.form == meta).then_some(at)
    }

    /// A field of the message at an index.
    pub(super) fn field(&self, message: usize, number: u32) -> Option<&Field> {
        self.fields
            .get(message)?
            .iter()
            .find(|f| f.number == number)
    }
}

/// Names and lines of all messages: what stands after the name, and the indented lines that follow.
fn entries(text: &'static str) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut out: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match (line.starts_with(' '), line.split_once(':')) {
            (true, _) => out.last_mut().into_iter().for_each(|e| e.1.push(line)),
            (false, Some((name, fields))) => out.push((name, vec![fields])),
            (false, None) => {}
        }
    }
    out
}

/// The texts of a message's fields.
fn texts<'a>(lines: &'a [&'static str]) -> impl Iterator<Item = &'static str> + 'a {
    lines
        .iter()
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|f| !f.is_empty())
}

fn read(lines: &[&'static str], by_name: &HashMap<&str, usize>) -> Option<Vec<Field>> {
    texts(lines)
        .map(|field| {
            let mut words = field.split(' ');
            let (number, name, form) = (words.next()?, words.next()?, words.next()?);
            let (many, form) = match form.split_at_checked(1)? {
                ("*", form) => (Many::List, form),
                ("%", form) => (Many::Map, form),
                _ => (Many::One, form),
            };
            Some(Field {
                number: number.parse().ok()?,
                name,
                many,
                form: form_of(form, by_name)?,
            })
        })
        .collect()
}

fn form_of(text: &str, by_name: &HashMap<&str, usize>) -> Option<Form> {
    Some(match text {
        "text" => Form::Text { empty: false },
        "text!" => Form::Text { empty: true },
        "bytes" => Form::Bytes,
        "int" => Form::Int { zero: true },
        "int?" => Form::Int { zero: false },
        "flag" => Form::Flag { zero: true },
        "flag?" => Form::Flag { zero: false },
        "time" => Form::Time,
        "micro" => Form::MicroTime,
        "quantity" => Form::Quantity,
        "either" => Form::Either,
        "raw" | "fields" => Form::Json,
        "texts" => Form::Texts,
        message => Form::Message(*by_name.get(message)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        let lines = entries(include_str!("messages.txt"));
        for ((name, lines), fields) in lines.iter().zip(&MESSAGES.fields) {
            let count = texts(lines).count();
            assert_eq!(fields.len(), count, "{name}: {lines:?}");
            let mut numbers: Vec<u32> = fields.iter().map(|f| f.number).collect();
            numbers.dedup();
            assert!(numbers.is_sorted() && numbers.len() == count, "{name}");
        }
        assert_eq!(lines.len(), MESSAGES.by_name.len());
    }

    #[test]
    fn kinds_by_version() {
        for (version, kind, known) in [
            ("v1", "Pod", true),
            ("v1", "PodSpec", false),
            ("v1", "PodTemplateSpec", true),
            ("apps/v1", "Deployment", true),
            ("apps/v1beta1", "Deployment", false),
            ("v1", "Deployment", false),
            ("policy/v1", "DeleteOptions", true),
            ("autoscaling/v2", "HorizontalPodAutoscaler", true),
            ("", "", false),
        ] {
            assert_eq!(
                MESSAGES.kind(version, kind).is_some(),
                known,
                "{version} {kind}"
            );
        }
    }
}
