//! Messages: a header with the fields that are used, and values.

use crate::Error;
use crate::value::Value;
use crate::wire::{Decoder, Encoder};

/// The longest message the specification allows, bytes.
const LONGEST: usize = 128 << 20;
/// What comes before the header's fields.
const FIXED: usize = 16;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call,
    /// Its answer.
    Return,
    /// Its refusal.
    Error,
    /// News for whoever listens.
    Signal,
}

const KINDS: [(Kind, u8); 4] = [
    (Kind::Call, 1),
    (Kind::Return, 2),
    (Kind::Error, 3),
    (Kind::Signal, 4),
];

/// A message. Fields that it does not have are empty or 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its number, its sender's own count.
    pub serial: u32,
    /// The object called, or that the news is of.
    pub path: String,
    /// The interface.
    pub interface: String,
    /// The method or the signal.
    pub member: String,
    /// The error's name.
    pub error: String,
    /// The call that this answers.
    pub reply_to: u32,
    /// For whom it is.
    pub destination: String,
    /// How many descriptors come with it.
    pub fds: u32,
    /// Its arguments.
    pub body: Vec<Value>,
}

impl Message {
    /// One without fields.
    pub fn new(kind: Kind, serial: u32) -> Self {
        Self {
            kind,
            serial,
            path: String::new(),
            interface: String::new(),
            member: String::new(),
            error: String::new(),
            reply_to: 0,
            destination: String::new(),
            fds: 0,
            body: Vec::new(),
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::default();
        self.body.iter().for_each(|v| body.value(v));
        let kind = KINDS.iter().find(|(k, _)| *k == self.kind);
        let mut out = Encoder::default();
        out.bytes
            .extend([b'l', kind.map_or(0, |(_, code)| *code), 0, 1]);
        out.u32(u32::try_from(body.bytes.len()).unwrap_or(u32::MAX));
        out.u32(self.serial);
        out.value(&Value::Array("(yv)".into(), self.fields()));
        out.pad(8);
        out.bytes.extend(body.bytes);
        out.bytes
    }

    fn fields(&self) -> Vec<Value> {
        let text = |text: &String| (!text.is_empty()).then(|| Value::Str(text.clone()));
        let number = |n: u32| (n > 0).then_some(Value::U32(n));
        let signature: String = self.body.iter().map(Value::signature).collect();
        let fields = [
            (1, text(&self.path).map(|_| Value::Path(self.path.clone()))),
            (2, text(&self.interface)),
            (3, text(&self.member)),
            (4, text(&self.error)),
            (5, number(self.reply_to)),
            (6, text(&self.destination)),
            (
                8,
                (!signature.is_empty()).then_some(Value::Signature(signature)),
            ),
            (9, number(self.fds)),
        ];
        let field = |(code, value): (u8, Option<Value>)| {
            Some(Value::Struct(vec![Value::Byte(code), value?.variant()]))
        };
        fields.into_iter().filter_map(field).collect()
    }

    /// How long the message is that these bytes begin with; `None` when too few are there to tell.
    pub fn length(bytes: &[u8]) -> Result<Option<usize>, Error> {
        let Some(head) = bytes.get(..FIXED) else {
            return Ok(None);
        };
        if head.first() != Some(&b'l') {
            return Err(Error::Malformed("its bytes are in another order"));
        }
        let number = |at: usize| {
            let four = head.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(four)).ok()
        };
        let (body, fields) = number(4)
            .zip(number(12))
            .ok_or(Error::Malformed("no lengths"))?;
        let length = FIXED
            .checked_add(fields)
            .map(|l| l.next_multiple_of(8))
            .and_then(|l| l.checked_add(body))
            .filter(|l| *l <= LONGEST);
        length.map(Some).ok_or(Error::Malformed("it is too long"))
    }

    /// From the bytes of one whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |what| Error::Malformed(what);
        let mut head = Decoder::new(bytes);
        let fixed = head.values("yyyyuu").ok_or(wrong("no header"))?;
        let [
            _,
            Value::Byte(code),
            _,
            _,
            Value::U32(body),
            Value::U32(serial),
        ] = fixed[..]
        else {
            return Err(wrong("no header"));
        };
        let kind = KINDS.iter().find(|(_, c)| *c == code);
        let (kind, _) = *kind.ok_or(wrong("it is of an unknown kind"))?;
        let mut message = Self::new(kind, serial);
        let fields = head.values("a(yv)").ok_or(wrong("no header fields"))?;
        let mut signature = String::new();
        let Some(Value::Array(_, fields)) = fields.into_iter().next() else {
            return Err(wrong("no header fields"));
        };
        for field in fields {
            message.take(field, &mut signature);
        }
        let begin = bytes
            .len()
            .checked_sub(usize::try_from(body).unwrap_or(usize::MAX));
        let body = begin.and_then(|at| bytes.get(at..));
        let body = Decoder::new(body.ok_or(wrong("no body"))?).values(&signature);
        message.body = body.ok_or(wrong("no body"))?;
        Ok(message)
    }

    /// Fields that are not known are passed over, as the specification says.
    fn take(&mut self, field: Value, signature: &mut String) {
        let Value::Struct(pair) = field else { return };
        let [Value::Byte(code), Value::Variant(value)] = &pair[..] else {
            return;
        };
        let text = value.as_text().unwrap_or_default().to_owned();
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        match code {
            1 => self.path = text,
            2 => self.interface = text,
            3 => self.member = text,
            4 => self.error = text,
            5 => self.reply_to = number.unwrap_or(0),
            6 => self.destination = text,
            8 => {
                if let Value::Signature(of) = &**value {
                    signature.clone_from(of);
                }
            }
            9 => self.fds = number.unwrap_or(0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let call = Message {
            path: "/org/freedesktop/login1".into(),
            interface: "org.freedesktop.login1.Manager".into(),
            member: "Inhibit".into(),
            destination: "org.freedesktop.login1".into(),
            body: ["shutdown", "keelson", "because", "delay"]
                .map(Value::text)
                .to_vec(),
            ..Message::new(Kind::Call, 3)
        };
        let answer = Message {
            reply_to: 3,
            fds: 1,
            destination: ":1.7".into(),
            body: vec![Value::Fd(0)],
            ..Message::new(Kind::Return, 9)
        };
        let refusal = Message {
            error: "org.freedesktop.DBus.Error.AccessDenied".into(),
            reply_to: 3,
            ..Message::new(Kind::Error, 10)
        };
        for message in [call, answer, refusal] {
            let bytes = message.encode();
            assert_eq!(Message::length(&bytes).expect("length"), Some(bytes.len()));
            assert_eq!(Message::length(&bytes[..15]).expect("short"), None);
            assert_eq!(Message::decode(&bytes).expect("message"), message);
            assert!(Message::decode(&bytes[..bytes.len() / 2]).is_err());
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let mut head = [0; 16];
        head[0] = b'l';
        head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Message::length(&head).is_err(), "too long");
        head[0] = b'B';
        assert!(Message::length(&head).is_err(), "the other order");
    }
}
