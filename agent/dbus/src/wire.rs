//! Values as bytes: the specification's "Marshaling", little-endian, which is what this writes and what others on the
//! same machine of that order write.

use crate::value::{DEPTH, Value, split};

/// The longest array the specification allows, bytes.
const ARRAY: usize = 64 << 20;

/// To how many bytes a type is aligned.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// Writes values one behind the other.
#[derive(Default)]
pub(crate) struct Encoder {
    pub(crate) bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn fixed(&mut self, bytes: &[u8]) {
        self.pad(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn u32(&mut self, n: u32) {
        self.fixed(&n.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.bytes
            .push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(signature.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.bytes.push(*n),
            Value::Bool(b) => self.u32(u32::from(*b)),
            Value::I16(n) => self.fixed(&n.to_le_bytes()),
            Value::U16(n) => self.fixed(&n.to_le_bytes()),
            Value::I32(n) => self.fixed(&n.to_le_bytes()),
            Value::U32(n) | Value::Fd(n) => self.u32(*n),
            Value::I64(n) => self.fixed(&n.to_le_bytes()),
            Value::U64(n) => self.fixed(&n.to_le_bytes()),
            Value::F64(n) => self.fixed(&n.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => self.text(text),
            Value::Signature(text) => self.signature(text),
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
            Value::Struct(all) => {
                self.pad(8);
                all.iter().for_each(|v| self.value(v));
            }
            Value::Entry(pair) => {
                self.pad(8);
                self.value(&pair.0);
                self.value(&pair.1);
            }
            Value::Array(of, all) => self.array(of, all),
        }
    }

    /// The length counts neither itself nor the padding behind it.
    fn array(&mut self, of: &str, all: &[Value]) {
        self.length(0);
        let place = self.bytes.len() - 4;
        self.pad(alignment(of));
        let begin = self.bytes.len();
        all.iter().for_each(|v| self.value(v));
        let length = u32::try_from(self.bytes.len() - begin).unwrap_or(u32::MAX);
        if let Some(slot) = self.bytes.get_mut(place..place + 4) {
            slot.copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// Reads values one behind the other; `None` when the bytes are none.
pub(crate) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// All values of a signature.
    pub(crate) fn values(&mut self, signature: &str) -> Option<Vec<Value>> {
        self.many(signature, 0)
    }

    fn many(&mut self, mut signature: &str, depth: usize) -> Option<Vec<Value>> {
        let mut all = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = split(signature)?;
            all.push(self.value(first, depth)?);
            signature = rest;
        }
        Some(all)
    }

    fn pad(&mut self, to: usize) -> Option<()> {
        let next = self.at.next_multiple_of(to);
        let padding = self.bytes.get(self.at..next)?;
        self.at = next;
        padding.iter().all(|b| *b == 0).then_some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.pad(N)?;
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.fixed()?))
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        (self.take(1)? == [0]).then_some(text)
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(u8::from_le_bytes(self.fixed()?));
        self.text(length)
    }

    fn value(&mut self, signature: &str, depth: usize) -> Option<Value> {
        if depth > DEPTH {
            return None;
        }
        let value = match signature.as_bytes().first()? {
            b'y' => Value::Byte(u8::from_le_bytes(self.fixed()?)),
            b'b' => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return None,
            },
            b'n' => Value::I16(i16::from_le_bytes(self.fixed()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.fixed()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.fixed()?)),
            b'u' => Value::U32(self.u32()?),
            b'h' => Value::Fd(self.u32()?),
            b'x' => Value::I64(i64::from_le_bytes(self.fixed()?)),
            b't' => Value::U64(u64::from_le_bytes(self.fixed()?)),
            b'd' => Value::F64(f64::from_le_bytes(self.fixed()?)),
            b's' => Value::Str(self.string()?),
            b'o' => Value::Path(self.string()?),
            b'g' => Value::Signature(self.signature()?),
            b'v' => {
                let inner = self.signature()?;
                let (first, "") = split(&inner)? else {
                    return None;
                };
                self.value(first, depth + 1)?.variant()
            }
            b'(' => {
                self.pad(8)?;
                let inner = signature.strip_prefix('(')?.strip_suffix(')')?;
                Value::Struct(self.many(inner, depth + 1)?)
            }
            b'{' => {
                self.pad(8)?;
                let inner = signature.strip_prefix('{')?.strip_suffix('}')?;
                let pair: [Value; 2] = self.many(inner, depth + 1)?.try_into().ok()?;
                Value::Entry(Box::new(pair.into()))
            }
            b'a' => self.array(signature.get(1..)?, depth)?,
            _ => return None,
        };
        Some(value)
    }

    fn array(&mut self, of: &str, depth: usize) -> Option<Value> {
        let length = usize::try_from(self.u32()?).ok().filter(|l| *l <= ARRAY)?;
        self.pad(alignment(of))?;
        let end = self.at.checked_add(length)?;
        let mut all = Vec::new();
        while self.at < end {
            all.push(self.value(of, depth + 1)?);
        }
        (self.at == end).then(|| Value::Array(of.to_owned(), all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes as the specification's rules give them, worked out by hand.
    #[test]
    fn bytes_are_the_specifications() {
        let rows: Vec<(Value, &[u8])> = vec![
            (Value::text("foo"), &[3, 0, 0, 0, b'f', b'o', b'o', 0]),
            (Value::Bool(true), &[1, 0, 0, 0]),
            (Value::Signature("ai".into()), &[2, b'a', b'i', 0]),
            // An array's length counts no padding: 4 bytes of it stand before the first u64.
            (
                Value::Array("t".into(), vec![Value::U64(5)]),
                &[8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            ),
            // They stand there too when there is no first.
            (
                Value::Array("t".into(), Vec::new()),
                &[0, 0, 0, 0, 0, 0, 0, 0],
            ),
            (Value::U32(7).variant(), &[1, b'u', 0, 0, 7, 0, 0, 0]),
            (
                Value::Struct(vec![Value::Byte(1), Value::U16(2)]),
                &[1, 0, 2, 0],
            ),
        ];
        for (value, want) in rows {
            let mut encoder = Encoder::default();
            encoder.value(&value);
            assert_eq!(encoder.bytes, want, "{value:?}");
            let read = Decoder::new(want).values(&value.signature());
            assert_eq!(read, Some(vec![value]));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let rows: [(&str, &[u8]); 9] = [
            ("u", &[1, 2, 3]),
            ("b", &[2, 0, 0, 0]),
            ("s", &[9, 0, 0, 0, b'x', 0]),
            ("s", &[1, 0, 0, 0, b'x', 1]),
            ("s", &[1, 0, 0, 0, 0xff, 0]),
            ("yu", &[1, 9, 0, 0, 1, 0, 0, 0]),
            ("v", &[2, b'u', b'u', 0, 1, 0, 0, 0]),
            ("au", &[3, 0, 0, 0, 1, 0, 0, 0]),
            ("ay", &[0xff, 0xff, 0xff, 0xff]),
        ];
        for (signature, bytes) in rows {
            let read = Decoder::new(bytes).values(signature);
            assert_eq!(read, None, "{signature} {bytes:?}");
        }
        let mut nested = [1u8, b'v', 0].repeat(200);
        nested.extend([1, b'y', 0, 7]);
        assert_eq!(Decoder::new(&nested).values("v"), None, "too deep");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::Byte),
            any::<bool>().prop_map(Value::Bool),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            any::<u64>().prop_map(Value::U64),
            "[a-z/]{0,9}".prop_map(Value::Str),
            "[a-z/]{0,9}".prop_map(Value::Path),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(Value::variant),
                prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
                (inner.clone(), 0..4usize)
                    .prop_map(|(v, n)| { Value::Array(v.signature(), vec![v; n]) }),
                ("[a-z]{1,3}".prop_map(Value::Str), inner).prop_map(|(k, v)| {
                    let entry = Value::Entry(Box::new((k, v)));
                    Value::Array(entry.signature(), vec![entry])
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec(any_value(), 0..5)) {
            let mut encoder = Encoder::default();
            values.iter().for_each(|v| encoder.value(v));
            let signature: String = values.iter().map(Value::signature).collect();
            prop_assert_eq!(Decoder::new(&encoder.bytes).values(&signature), Some(values));
        }

        #[test]
        fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), signature in "[ybnqiuxtdsogvha(){}]{0,8}") {
            let _ = Decoder::new(&bytes).values(&signature);
        }
    }
}
