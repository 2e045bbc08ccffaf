//! Reading of a question, without copying anything but its name.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::name::Name;

/// Bytes of a message's header.
pub(crate) const HEADER: usize = 12;
/// Largest answer over UDP to those who name no size (RFC 1035 section 2.3.4).
const PLAIN_UDP: u16 = 512;
/// Largest answer over UDP to anyone: what passes every link in one piece (DNS flag day 2020).
pub(crate) const MAX_UDP: u16 = 1232;
/// Class `IN`.
const INTERNET: u16 = 1;

pub(crate) const RESPONSE: u16 = 0x8000;
pub(crate) const AUTHORITATIVE: u16 = 0x0400;
pub(crate) const TRUNCATED: u16 = 0x0200;
pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
pub(crate) const AUTHENTIC: u16 = 0x0020;
pub(crate) const CHECKING_DISABLED: u16 = 0x0010;
const RECURSION_DESIRED: u16 = 0x0100;
const OPCODE: u16 = 0x7800;

/// A question that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Query<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
}

/// What an answer repeats, whatever it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) id: u16,
    /// The question's flags, as they came.
    pub(crate) flags: u16,
    /// Name, type and class as they were asked, with the asker's capitals; empty where they were unreadable.
    pub(crate) question: &'a [u8],
    pub(crate) edns: Option<Edns>,
}

/// What the asker says of itself (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    size: u16,
    version: u8,
    pub(crate) dnssec_ok: bool,
}

/// Why a message gets no real answer.
#[derive(Debug)]
pub(crate) enum Reject<'a> {
    /// It gets none at all: too short to be one, or an answer itself (answering those would go on for ever).
    Silently,
    /// It gets this code.
    With(Head<'a>, ResponseCode),
}

impl Head<'_> {
    /// Flags of any answer to it.
    pub(crate) fn answer_flags(&self) -> u16 {
        RESPONSE
            | RECURSION_AVAILABLE
            | (self.flags & (OPCODE | RECURSION_DESIRED | CHECKING_DISABLED))
    }

    /// Bytes that fit into one datagram to this asker.
    pub(crate) fn udp_size(&self) -> usize {
        let asked = self.edns.map_or(PLAIN_UDP, |e| e.size);
        usize::from(asked.clamp(PLAIN_UDP, MAX_UDP))
    }

    /// Signatures are wanted.
    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|e| e.dnssec_ok)
    }
}

/// Reads a message.
pub(crate) fn read(wire: &[u8]) -> Result<Query<'_>, Reject<'_>> {
    let word = |at: usize| Some(u16::from_be_bytes(wire.get(at..at + 2)?.try_into().ok()?));
    let (Some(id), Some(flags), Some(_)) = (word(0), word(2), word(HEADER - 2)) else {
        return Err(Reject::Silently);
    };
    if flags & RESPONSE != 0 {
        return Err(Reject::Silently);
    }
    let mut head = Head {
        id,
        flags,
        question: &[],
        edns: None,
    };
    if flags & OPCODE != 0 {
        return Err(Reject::With(head, ResponseCode::NotImp));
    }
    let malformed = |head| Err(Reject::With(head, ResponseCode::FormErr));
    let body = wire.get(HEADER..).unwrap_or_default();
    let Some((name, taken)) = Name::read(body).filter(|_| word(4) == Some(1)) else {
        return malformed(head);
    };
    let after = HEADER + taken;
    let (Some(kind), Some(class)) = (word(after), word(after + 2)) else {
        return malformed(head);
    };
    head.question = body.get(..taken + 4).unwrap_or_default();
    let records = [6, 8, 10].map(|at| word(at).unwrap_or_default());
    match read_edns(wire, after + 4, records) {
        Ok(edns) => head.edns = edns,
        Err(()) => return malformed(head),
    }
    if head.edns.is_some_and(|e| e.version > 0) {
        return Err(Reject::With(head, ResponseCode::BADVERS));
    }
    let kind = RecordType::from(kind);
    let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
    if class != INTERNET || transfer {
        return Err(Reject::With(head, ResponseCode::Refused));
    }
    Ok(Query { head, name, kind })
}

/// Walks the records after the question for the one that EDNS puts there; two of it are an error.
fn read_edns(wire: &[u8], mut at: usize, records: [u16; 3]) -> Result<Option<Edns>, ()> {
    const FIXED: usize = 10;
    let before = usize::from(records[0]) + usize::from(records[1]);
    let all = before + usize::from(records[2]);
    let mut found = None;
    for record in 0..all {
        let owner = at;
        at = skip_name(wire, at).ok_or(())?;
        let fixed = wire.get(at..at + FIXED).ok_or(())?;
        let word = |i: usize| u16::from_be_bytes([fixed[i], fixed[i + 1]]);
        at += FIXED + usize::from(word(8));
        if at > wire.len() {
            return Err(());
        }
        if RecordType::from(word(0)) != RecordType::OPT {
            continue;
        }
        let misplaced = record < before || wire.get(owner) != Some(&0);
        let edns = Edns {
            size: word(2),
            version: fixed[5],
            dnssec_ok: fixed[6] & 0x80 != 0,
        };
        if misplaced || found.replace(edns).is_some() {
            return Err(());
        }
    }
    Ok(found)
}

/// The end of a name, compressed or not. Pointers are not followed, so there is nothing to loop in.
fn skip_name(wire: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = *wire.get(at)?;
        match len {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            0x40.. => return None,
            _ => at += 1 + usize::from(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(counts: [u16; 4], flags: u16, rest: &[u8]) -> Vec<u8> {
        let words = [[0x1234, flags].as_slice(), &counts].concat();
        let mut wire: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        wire.extend_from_slice(rest);
        wire
    }

    const QUESTION: &[u8] = b"\x03WwW\x01b\0\0\x01\0\x01";
    const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\x80\0\0\0";

    fn code(wire: &[u8]) -> Option<ResponseCode> {
        match read(wire) {
            Ok(_) => Some(ResponseCode::NoError),
            Err(Reject::With(_, code)) => Some(code),
            Err(Reject::Silently) => None,
        }
    }

    #[test]
    fn a_question_is_read() {
        let wire = message([1, 0, 0, 1], 0x0100, &[QUESTION, OPT].concat());
        let query = read(&wire).expect("query");
        assert_eq!((query.kind, query.head.id), (RecordType::A, 0x1234));
        assert_eq!(
            (format!("{:?}", query.name), query.head.question),
            ("www.b.".to_owned(), QUESTION)
        );
        assert_eq!(
            (query.head.udp_size(), query.head.dnssec_ok()),
            (usize::from(MAX_UDP), true)
        );
        assert_eq!(query.head.answer_flags(), 0x8180);
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let with = |parts: &[&[u8]]| parts.concat();
        let version = with(&[QUESTION, b"\0\0\x29\x10\0\0\x01\0\0\0\0"]);
        let chaos = b"\x03wwW\x01b\0\0\x01\0\x03";
        let transfer = b"\x03wwW\x01b\0\0\xfc\0\x01";
        let cases: Vec<(&str, Vec<u8>, Option<ResponseCode>)> = vec![
            ("nothing", vec![], None),
            ("a short header", vec![0; 11], None),
            ("an answer", message([1, 0, 0, 0], 0x8000, QUESTION), None),
            (
                "an update",
                message([1, 0, 0, 0], 0x2800, QUESTION),
                Some(ResponseCode::NotImp),
            ),
            (
                "no question",
                message([0, 0, 0, 0], 0, &[]),
                Some(ResponseCode::FormErr),
            ),
            (
                "two questions",
                message([2, 0, 0, 0], 0, &with(&[QUESTION, QUESTION])),
                Some(ResponseCode::FormErr),
            ),
            (
                "a cut question",
                message([1, 0, 0, 0], 0, &QUESTION[..8]),
                Some(ResponseCode::FormErr),
            ),
            (
                "a name that points at itself",
                message([1, 0, 0, 0], 0, b"\xc0\x0c\0\x01\0\x01"),
                Some(ResponseCode::FormErr),
            ),
            (
                "a missing record",
                message([1, 0, 0, 1], 0, QUESTION),
                Some(ResponseCode::FormErr),
            ),
            (
                "two sizes",
                message([1, 0, 0, 2], 0, &with(&[QUESTION, OPT, OPT])),
                Some(ResponseCode::FormErr),
            ),
            (
                "a size among the answers",
                message([1, 1, 0, 0], 0, &with(&[QUESTION, OPT])),
                Some(ResponseCode::FormErr),
            ),
            (
                "a later version",
                message([1, 0, 0, 1], 0, &version),
                Some(ResponseCode::BADVERS),
            ),
            (
                "another class",
                message([1, 0, 0, 0], 0, chaos),
                Some(ResponseCode::Refused),
            ),
            (
                "a transfer",
                message([1, 0, 0, 0], 0, transfer),
                Some(ResponseCode::Refused),
            ),
            (
                "a question",
                message([1, 0, 0, 0], 0, QUESTION),
                Some(ResponseCode::NoError),
            ),
        ];
        for (case, wire, expected) in cases {
            assert_eq!(code(&wire), expected, "{case}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_fall_over(wire in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = code(&wire);
        }

        #[test]
        fn no_change_to_a_question_makes_it_fall_over(at in 0..40usize, to in proptest::num::u8::ANY, cut in 0..40usize) {
            let mut wire = message([1, 0, 0, 1], 0x0100, &[QUESTION, OPT].concat());
            if let Some(byte) = wire.get_mut(at) {
                *byte = to;
            }
            wire.truncate(cut.max(12));
            let _ = code(&wire);
        }
    }
}
