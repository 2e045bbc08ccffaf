//! Domain names as the wire has them: a length and a label, a length and a label, a zero. All names kept here are in lower
//! case, so that equal names are equal bytes (RFC 4343).

use std::fmt;

/// Bytes of the longest name (RFC 1035 section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// Bytes of the longest label.
pub(crate) const MAX_LABEL: usize = 63;
/// Labels of the longest name, without the root: each takes two bytes at least.
const MAX_LABELS: usize = 127;

/// A question's name in lower case, with the places where its labels begin. Lives on the stack.
#[derive(Clone)]
pub(crate) struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
    starts: [u8; MAX_LABELS],
    labels: u8,
}

impl Name {
    /// Reads a name that uses no compression, which a question's never does. Gives it and the bytes that it took.
    pub(crate) fn read(wire: &[u8]) -> Option<(Self, usize)> {
        let mut name = Self {
            bytes: [0; MAX_NAME],
            len: 0,
            starts: [0; MAX_LABELS],
            labels: 0,
        };
        let mut at = 0;
        loop {
            let len = usize::from(*wire.get(at)?);
            if len == 0 {
                let taken = at + 1;
                let target = name.bytes.get_mut(..taken)?;
                target.copy_from_slice(wire.get(..taken)?);
                target.make_ascii_lowercase();
                name.len = u8::try_from(taken).ok()?;
                return Some((name, taken));
            }
            if len > MAX_LABEL {
                return None;
            }
            *name.starts.get_mut(usize::from(name.labels))? = u8::try_from(at).ok()?;
            name.labels += 1;
            at += 1 + len;
        }
    }

    /// The whole name.
    pub(crate) fn wire(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// How many labels, without the root.
    pub(crate) fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Where a label begins; the end for the one after the last.
    fn start(&self, label: usize) -> usize {
        let end = usize::from(self.len).saturating_sub(1);
        match self.starts.get(label) {
            Some(at) if label < self.labels() => usize::from(*at),
            _ => end,
        }
    }

    /// A label's text, empty where there is none.
    pub(crate) fn label(&self, label: usize) -> &[u8] {
        let whole = self.between(label, label + 1);
        whole.get(1..).unwrap_or_default()
    }

    /// Labels from one to before another, with their lengths.
    pub(crate) fn between(&self, from: usize, to: usize) -> &[u8] {
        self.bytes
            .get(self.start(from)..self.start(to))
            .unwrap_or_default()
    }

    /// The name from a label on.
    pub(crate) fn ending(&self, label: usize) -> &[u8] {
        self.bytes
            .get(self.start(label)..usize::from(self.len))
            .unwrap_or_default()
    }

    /// Labels in front of a zone; `None` for a name that is not in it.
    pub(crate) fn above(&self, zone: &ZoneName) -> Option<usize> {
        let above = self.labels().checked_sub(zone.labels)?;
        (self.ending(above) == &*zone.wire).then_some(above)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self.wire()))
    }
}

/// A name that others end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZoneName {
    pub(crate) wire: Box<[u8]>,
    labels: usize,
}

impl ZoneName {
    /// From text such as `cluster.local`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let wire = parse(text)?;
        let labels = Name::read(&wire)?.0.labels();
        Some(Self { wire, labels })
    }

    /// How many labels: the more, the more special.
    pub(crate) fn labels(&self) -> usize {
        self.labels
    }
}

/// The wire form of dotted text, in lower case; the last dot may be left out.
pub(crate) fn parse(text: &str) -> Option<Box<[u8]>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut wire = Vec::with_capacity(text.len() + 2);
    for part in text.split('.').filter(|_| !text.is_empty()) {
        push_label(&mut wire, part)?;
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then(|| wire.into())
}

/// Appends one label in lower case.
pub(crate) fn push_label(wire: &mut Vec<u8>, label: &str) -> Option<()> {
    let len = u8::try_from(label.len()).ok()?;
    if len == 0 || label.len() > MAX_LABEL || label.contains('.') {
        return None;
    }
    wire.push(len);
    wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    Some(())
}

/// A name for people, as dotted text.
pub(crate) fn text(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    while let Some((len, after)) = rest.split_first().filter(|(len, _)| **len > 0) {
        let label = after.get(..usize::from(*len)).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(label));
        text.push('.');
        rest = after.get(usize::from(*len)..).unwrap_or_default();
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_split() {
        let wire = b"\x04_Tcp\x03WEB\x02ns\x03svc\x07cluster\x05local\0rest";
        let (name, taken) = Name::read(wire).expect("name");
        assert_eq!(taken, wire.len() - 4);
        assert_eq!(text(name.wire()), "_tcp.web.ns.svc.cluster.local.");
        assert_eq!(
            (name.labels(), name.label(1), name.label(6)),
            (6, &b"web"[..], &b""[..])
        );
        assert_eq!(name.between(1, 3), b"\x03web\x02ns");
        let zone = ZoneName::parse("Cluster.Local.").expect("zone");
        assert_eq!(name.above(&zone), Some(4));
        let other = ZoneName::parse("ter.local").expect("zone");
        assert_eq!(name.above(&other), None, "a part of a label is no zone");
        assert_eq!(name.above(&ZoneName::parse(".").expect("root")), Some(6));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = [&[63u8][..], &[b'a'; 63]].concat().repeat(4);
        let cases: &[(&str, &[u8])] = &[
            ("nothing", b""),
            ("no end", b"\x03web"),
            ("a label beyond the end", b"\x09web\0"),
            ("a pointer", b"\xc0\x0c"),
            ("a reserved length", b"\x40a\0"),
            ("too long", &[&long[..], &[0]].concat()),
        ];
        for (case, wire) in cases {
            assert!(Name::read(wire).is_none(), "{case}");
        }
        for text in ["a..b", &"a".repeat(64), ".a", &"abc.".repeat(64)] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert_eq!(&*parse(".").expect("root"), b"\0");
    }
}
