//! Values of D-Bus' types, and their signatures.

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    F64(f64),
    /// `h`: the place among the message's descriptors.
    Fd(u32),
    /// `s`
    Str(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `a`: the elements' signature, which an empty array needs as well, and they.
    Array(String, Vec<Value>),
    /// `(...)`
    Struct(Vec<Value>),
    /// `{..}`: an array's entry.
    Entry(Box<(Value, Value)>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// An array of strings.
    pub fn texts(texts: &[&str]) -> Self {
        Self::Array("s".into(), texts.iter().map(|t| Self::text(*t)).collect())
    }

    /// A value of any type.
    pub fn variant(self) -> Self {
        Self::Variant(Box::new(self))
    }

    /// Its type.
    pub fn signature(&self) -> String {
        let simple = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::F64(_) => "d",
            Self::Fd(_) => "h",
            Self::Str(_) => "s",
            Self::Path(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(of, _) => return format!("a{of}"),
            Self::Struct(all) => {
                let inner: String = all.iter().map(Self::signature).collect();
                return format!("({inner})");
            }
            Self::Entry(pair) => {
                return format!("{{{}{}}}", pair.0.signature(), pair.1.signature());
            }
        };
        simple.to_owned()
    }

    /// What a variant holds; itself otherwise.
    pub fn inner(&self) -> &Self {
        match self {
            Self::Variant(inner) => inner.inner(),
            other => other,
        }
    }

    /// Its text, if it is a string or a path.
    pub fn as_text(&self) -> Option<&str> {
        match self.inner() {
            Self::Str(text) | Self::Path(text) => Some(text),
            _ => None,
        }
    }

    /// Its number, if it is one without a sign.
    pub fn as_u64(&self) -> Option<u64> {
        match self.inner() {
            Self::Byte(n) => Some(u64::from(*n)),
            Self::U16(n) => Some(u64::from(*n)),
            Self::U32(n) | Self::Fd(n) => Some(u64::from(*n)),
            Self::U64(n) => Some(*n),
            _ => None,
        }
    }

    /// Whether, if it is a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self.inner() {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }
}

/// The deepest that types are nested in each other (the specification's own limit is 64).
pub(crate) const DEPTH: usize = 32;

/// Splits the first whole type off a signature.
pub(crate) fn split(signature: &str) -> Option<(&str, &str)> {
    signature.split_at_checked(length(signature.as_bytes(), 0)?)
}

fn length(signature: &[u8], depth: usize) -> Option<usize> {
    if depth > DEPTH {
        return None;
    }
    let close = match signature.first()? {
        b'a' => return Some(1 + length(signature.get(1..)?, depth + 1)?),
        b'(' => b')',
        b'{' => b'}',
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b'h' | b's' | b'o'
        | b'g' | b'v' => return Some(1),
        _ => return None,
    };
    let mut at = 1;
    while *signature.get(at)? != close {
        at += length(signature.get(at..)?, depth + 1)?;
    }
    (at > 1).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_split() {
        let rows = [
            ("su", Some(("s", "u"))),
            ("a(sv)b", Some(("a(sv)", "b"))),
            ("a{sa(iu)}", Some(("a{sa(iu)}", ""))),
            ("(s(tt))(s)", Some(("(s(tt))", "(s)"))),
            ("", None),
            ("a", None),
            ("()", None),
            ("(s", None),
            ("z", None),
            (")", None),
        ];
        for (signature, want) in rows {
            assert_eq!(split(signature), want, "{signature}");
        }
        assert_eq!(split(&"a".repeat(1000)), None);
    }

    #[test]
    fn values_have_their_signatures() {
        let property = Value::Struct(vec![Value::text("a"), Value::U64(1).variant()]);
        let rows = [
            (property.clone(), "(sv)"),
            (Value::Array("(sv)".into(), vec![property]), "a(sv)"),
            (Value::Array("(sa(sv))".into(), Vec::new()), "a(sa(sv))"),
            (Value::texts(&["x"]), "as"),
            (
                Value::Entry(Box::new((Value::text("k"), Value::Fd(0)))),
                "{sh}",
            ),
        ];
        for (value, want) in rows {
            assert_eq!(value.signature(), want);
        }
    }
}
