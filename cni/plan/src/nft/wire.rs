//! Netlink attributes and messages, written and read (linux/netlink.h, linux/netfilter/nfnetlink.h). The plugin is linked
//! statically and starts for every pod: Debian has no static libmnl, and of libnftnl these few pages are all it needs.

/// Attributes, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 0x8000;
/// What of a kind is no flag (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;
/// Length of an attribute's header.
const HEADER: usize = 4;

impl Attributes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one of bytes. What is longer than an attribute can be is a mistake of the caller's and is cut.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let value = value.get(..usize::from(u16::MAX) - HEADER).unwrap_or(value);
        let length = (HEADER + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number in network byte order, as nf_tables has them.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text with its zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds one of attributes.
    #[must_use]
    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// Their bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Attributes {
    /// Those that somebody else wrote.
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// Reads attributes: kind and value of each. Ends where the form does.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & KIND, value))
    })
}

/// The value of the first attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A number in network byte order.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// A text that ends in a zero.
pub fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(bytes.get(..end)?).ok()
}

/// Appends a message of nfnetlink: header, family, attributes.
pub fn message(out: &mut Vec<u8>, head: Head, body: &[u8]) {
    let length = (20 + body.len()) as u32;
    out.extend(length.to_ne_bytes());
    out.extend(head.kind.to_ne_bytes());
    out.extend(head.flags.to_ne_bytes());
    out.extend(head.sequence.to_ne_bytes());
    // Port: the kernel's own.
    out.extend(0u32.to_ne_bytes());
    // `nfgenmsg`: family, version 0, resource.
    out.extend([head.family, 0]);
    out.extend(head.resource.to_be_bytes());
    out.extend(body);
}

/// A message of its own that asks for something; of a kind (subsystem in the upper byte) and a family (`NFPROTO_*`).
pub fn request(kind: u16, flags: u16, family: u8, body: &Attributes) -> Vec<u8> {
    /// `NLM_F_REQUEST`.
    const REQUEST: u16 = 1;
    let mut out = Vec::new();
    let head = Head {
        kind,
        flags: REQUEST | flags,
        sequence: 1,
        family,
        resource: 0,
    };
    message(&mut out, head, body.as_slice());
    out
}

/// What stands before a message's attributes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Subsystem in the upper byte, what it is about in the lower.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Comes back with the answer.
    pub sequence: u32,
    /// `NFPROTO_*`.
    pub family: u8,
    /// The subsystem, in the messages around a batch.
    pub resource: u16,
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its kind.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// That of the message it answers.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Reads the messages of a buffer. Ends where the form does.
pub fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let word = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let (kind, flags) = (word(4)?, word(6)?);
        // A refusal brings back what was refused, and of that as much as the buffer takes.
        let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
        let body = bytes.get(16..length.min(bytes.len()))?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer {
            kind,
            flags,
            sequence,
            body,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::new().number(1, 7).text(2, "abc");
        let all = Attributes::new().nest(3, &inner).bytes(4, &[1, 2, 3, 4, 5]);
        let read: Vec<_> = attributes(all.as_slice()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(number(find(read[0].1, 1).expect("1")), Some(7));
        assert_eq!(text(find(read[0].1, 2).expect("2")), Some("abc"));
        assert_eq!(read[1], (4, &[1, 2, 3, 4, 5][..]));
        assert_eq!(all.as_slice().len() % 4, 0);
    }

    #[test]
    fn nonsense_ends_and_never_panics() {
        for bytes in [
            &[][..],
            &[1],
            &[0, 0, 0, 0],
            &[3, 0, 1, 0],
            &[255, 255, 1, 0, 5],
            &[4, 0, 1, 0, 2, 0, 9],
        ] {
            assert!(attributes(bytes).count() <= 1, "{bytes:?}");
            assert_eq!(answers(bytes).count(), 0, "{bytes:?}");
        }
        let mut out = Vec::new();
        let head = Head {
            kind: 5,
            flags: 1,
            sequence: 2,
            family: 2,
            resource: 0,
        };
        message(&mut out, head, &[1, 2, 3, 4]);
        let answer = answers(&out).next().expect("one");
        assert_eq!((answer.kind, answer.flags, answer.sequence), (5, 1, 2));
        assert_eq!(answer.body, [2, 0, 0, 0, 1, 2, 3, 4]);
    }
}
