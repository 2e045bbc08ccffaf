//! Answers of other servers, kept as bytes: each record as on the wire, with its names in full.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};

use crate::query::{AUTHENTIC, Head};
use crate::reply::{Reply, Section};

/// Longest time that an answer is remembered, as in CoreDNS's cache.
const MAX_TTL: u32 = 3600;
/// Longest time that it is remembered that there is nothing, as in CoreDNS's cache.
const MAX_NEGATIVE_TTL: u32 = 1800;
/// Seconds for which an alias of the cluster's zone holds.
const ALIAS_TTL: u32 = 5;
/// Type, class, time to live and length of a record.
const FIXED: usize = 10;
const INTERNET: u16 = 1;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) code: ResponseCode,
    /// The server vouches for the signatures.
    authentic: bool,
    /// Records in each section.
    counts: [u16; 3],
    data: Box<[u8]>,
}

/// One record of it.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    owner: &'a [u8],
    kind: RecordType,
    ttl: u32,
    data: &'a [u8],
}

impl Stored {
    /// An answer that is only a code.
    pub(crate) fn of_code(code: ResponseCode) -> Self {
        Self {
            code,
            authentic: false,
            counts: [0; 3],
            data: Box::default(),
        }
    }

    /// What a server's message says. `None`: it can't be written again.
    pub(crate) fn new(message: &Message) -> Option<Self> {
        let mut data = Vec::new();
        let mut counts = [0; 3];
        let mut encoder = BinEncoder::new(&mut data);
        encoder.set_name_encoding(NameEncoding::Uncompressed);
        let sections = [&message.answers, &message.authorities, &message.additionals];
        for (section, count) in sections.into_iter().zip(&mut counts) {
            for record in section.iter().filter(|r| is_kept(r)) {
                record.emit(&mut encoder).ok()?;
                *count += 1;
            }
        }
        Some(Self {
            code: message.metadata.response_code,
            authentic: message.metadata.authentic_data,
            counts,
            data: data.into(),
        })
    }

    /// The same with aliases in front: each is the next one's, the last one that for which this is the answer.
    pub(crate) fn behind(&self, question: &[u8], aliases: &[Box<[u8]>]) -> Self {
        let mut data = Vec::new();
        let mut owner = question;
        for target in aliases {
            data.extend(owner);
            data.extend(u16::from(RecordType::CNAME).to_be_bytes());
            data.extend(INTERNET.to_be_bytes());
            data.extend(ALIAS_TTL.to_be_bytes());
            data.extend(
                u16::try_from(target.len())
                    .unwrap_or_default()
                    .to_be_bytes(),
            );
            data.extend(&**target);
            owner = target;
        }
        data.extend(&*self.data);
        let mut counts = self.counts;
        counts[0] += u16::try_from(aliases.len()).unwrap_or_default();
        Self {
            code: self.code,
            authentic: false,
            counts,
            data: data.into(),
        }
    }

    /// Bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.data.len()
    }

    /// It says that there is no such name, or nothing of this type.
    pub(crate) fn is_denial(&self) -> bool {
        self.code == ResponseCode::NXDomain || self.counts[0] == 0
    }

    /// How long it may be remembered: by its shortest-lived record, or by the zone's start of authority where it says that there is
    /// nothing (RFC 2308 section 5). `None`: not at all.
    pub(crate) fn ttl(&self, kind: RecordType) -> Option<Duration> {
        if !matches!(self.code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return None;
        }
        let answers = usize::from(self.counts[0]);
        let is_whole = |p: &Piece<'_>| p.kind == kind || kind == RecordType::ANY;
        let whole =
            self.code == ResponseCode::NoError && self.pieces().take(answers).any(|p| is_whole(&p));
        let mut least = self.pieces().take(answers).map(|p| p.ttl).min();
        let mut most = MAX_TTL;
        if !whole {
            let denial = self
                .pieces()
                .skip(answers)
                .take(usize::from(self.counts[1]))
                .find_map(|p| p.negative_ttl())?;
            least = Some(least.map_or(denial, |l| l.min(denial)));
            most = MAX_NEGATIVE_TTL;
        }
        least
            .filter(|ttl| *ttl > 0)
            .map(|ttl| Duration::from_secs(ttl.min(most).into()))
    }

    /// Writes it as the answer to a question. `ttl` makes the times of what is in here those of now.
    pub(crate) fn write(
        &self,
        head: &Head<'_>,
        turn: usize,
        ttl: impl Fn(u32) -> u32,
        most: usize,
        out: &mut Vec<u8>,
    ) {
        let mut reply = Reply::new(head, most, out);
        // Only for those who know what it means (RFC 6840 section 5.8).
        if self.authentic && (head.dnssec_ok() || head.flags & AUTHENTIC != 0) {
            reply.flag(AUTHENTIC);
        }
        let mut pieces = self.pieces();
        let mut answers: Vec<_> = pieces.by_ref().take(usize::from(self.counts[0])).collect();
        rotate(&mut answers, turn);
        let mut write =
            |section, piece: Piece<'_>| piece.write(&mut reply, section, ttl(piece.ttl));
        if answers.into_iter().all(|p| write(Section::Answer, p)) {
            let authorities = usize::from(self.counts[1]);
            let whole = pieces
                .by_ref()
                .take(authorities)
                .all(|p| write(Section::Authority, p));
            let _ = whole && pieces.all(|p| write(Section::Additional, p));
        } else {
            reply.truncated();
        }
        reply.finish(head, self.code);
    }

    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut rest = &*self.data;
        std::iter::from_fn(move || {
            let (piece, after) = Piece::read(rest)?;
            rest = after;
            Some(piece)
        })
    }
}

impl<'a> Piece<'a> {
    fn read(wire: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut at = 0;
        while let len @ 1.. = usize::from(*wire.get(at)?) {
            at += 1 + len;
        }
        let (owner, rest) = wire.split_at_checked(at + 1)?;
        let (fixed, rest) = rest.split_first_chunk::<FIXED>()?;
        let [k0, k1, _, _, t0, t1, t2, t3, l0, l1] = *fixed;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        let kind = RecordType::from(u16::from_be_bytes([k0, k1]));
        let ttl = u32::from_be_bytes([t0, t1, t2, t3]);
        Some((
            Self {
                owner,
                kind,
                ttl,
                data,
            },
            rest,
        ))
    }

    /// The lesser of a start of authority's own time and the one that it gives for what does not exist.
    fn negative_ttl(&self) -> Option<u32> {
        let minimum = self
            .data
            .last_chunk::<4>()
            .filter(|_| self.kind == RecordType::SOA)?;
        Some(self.ttl.min(u32::from_be_bytes(*minimum)))
    }

    fn write(&self, reply: &mut Reply<'_>, section: Section, ttl: u32) -> bool {
        // The only ones whose data is one name, and may be a pointer (RFC 3597 section 4).
        let is_name = matches!(
            self.kind,
            RecordType::CNAME | RecordType::NS | RecordType::PTR
        );
        let data = |r: &mut Reply<'_>| {
            if is_name {
                r.name(self.data)
            } else {
                r.bytes(self.data)
            }
        };
        reply.record(section, self.kind, ttl, |r| r.name(self.owner), data)
    }
}

/// Records of the internet's class; empty ones are read as something else by hickory and are none.
fn is_kept(record: &Record) -> bool {
    let is_empty = matches!(record.data, RData::Update0(_));
    record.dns_class == DNSClass::IN && !is_empty
}

/// Puts another address first each time; aliases stay in front of what they stand for.
fn rotate(answers: &mut [Piece<'_>], turn: usize) {
    let is_address = |p: &Piece<'_>| matches!(p.kind, RecordType::A | RecordType::AAAA);
    let Some(first) = answers.iter().position(is_address) else {
        return;
    };
    let addresses = answers.get_mut(first..).unwrap_or_default();
    let many = addresses.iter().take_while(|p| is_address(p)).count();
    if let Some(addresses) = addresses.get_mut(..many) {
        addresses.rotate_left(turn % many);
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, CNAME, HTTPS, MX, SOA, SRV, SVCB, TXT};
    use hickory_proto::rr::{Name, RData};
    use proptest::prelude::*;

    use super::*;
    use crate::query;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("name")
    }

    fn message(
        code: ResponseCode,
        answers: &[(&str, u32, RData)],
        minimum: Option<u32>,
    ) -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(Query::query(name("a.test."), RecordType::A));
        let record = |(owner, ttl, data): &(&str, u32, RData)| {
            Record::from_rdata(name(owner), *ttl, data.clone())
        };
        message.add_answers(answers.iter().map(record));
        if let Some(minimum) = minimum {
            let soa = SOA::new(name("ns.test."), name("admin.test."), 1, 2, 3, 4, minimum);
            message.add_authority(Record::from_rdata(name("test."), 300, RData::SOA(soa)));
        }
        message
    }

    fn address(last: u8) -> RData {
        RData::A(A([198, 51, 100, last].into()))
    }

    fn alias(target: &str) -> RData {
        RData::CNAME(CNAME(name(target)))
    }

    /// Records of all the forms that names in data have.
    fn all_kinds() -> Message {
        let https = SVCB::new(1, name("h.a.test."), Vec::new());
        let records = [
            ("a.test.", 60, alias("b.test.")),
            ("b.test.", 60, address(1)),
            ("b.test.", 60, address(2)),
            ("b.test.", 60, RData::MX(MX::new(10, name("mail.test.")))),
            (
                "b.test.",
                60,
                RData::SRV(SRV::new(1, 2, 3, name("a.test."))),
            ),
            (
                "b.test.",
                60,
                RData::TXT(TXT::new(vec!["some text".into()])),
            ),
            ("b.test.", 60, RData::HTTPS(HTTPS(https))),
        ];
        message(ResponseCode::NoError, &records, Some(60))
    }

    fn written(stored: &Stored, most: usize) -> Message {
        let question = Message::new(9, MessageType::Query, OpCode::Query);
        let wire = {
            let mut question = question;
            question.add_query(Query::query(name("A.test."), RecordType::A));
            question.to_vec().expect("question")
        };
        let query = query::read(&wire).expect("query");
        let mut out = Vec::new();
        stored.write(&query.head, 0, |ttl| ttl, most, &mut out);
        assert!(out.len() <= most);
        Message::from_vec(&out).expect("an answer that hickory can read")
    }

    #[test]
    fn what_goes_in_comes_out() {
        let message = all_kinds();
        let stored = Stored::new(&message).expect("stored");
        let out = written(&stored, 65_535);
        assert_eq!(
            (&out.answers, &out.authorities),
            (&message.answers, &message.authorities)
        );
        let cut = written(&stored, 80);
        assert!(
            cut.metadata.truncation
                && cut.answers.len() < out.answers.len()
                && cut.authorities.is_empty()
        );
    }

    #[test]
    fn answers_are_remembered_as_long_as_they_say() {
        use ResponseCode::{NXDomain, NoError, Refused};
        type Records<'a> = &'a [(&'a str, u32, RData)];
        type Case<'a> = (&'a str, ResponseCode, Records<'a>, Option<u32>, Option<u64>);
        let two = [("a.test.", 60, address(1)), ("a.test.", 40, address(2))];
        let aliased = [
            ("a.test.", 20, alias("b.test.")),
            ("b.test.", 60, address(1)),
        ];
        let dangling = [("a.test.", 20, alias("b.test."))];
        let cases: &[Case<'_>] = &[
            ("the shortest-lived", NoError, &two, None, Some(40)),
            ("an alias too", NoError, &aliased, Some(5), Some(20)),
            (
                "an hour at most",
                NoError,
                &[("a.test.", 90_000, address(1))],
                None,
                Some(3600),
            ),
            (
                "not at all",
                NoError,
                &[("a.test.", 0, address(1))],
                None,
                None,
            ),
            (
                "nothing, as the zone says",
                NoError,
                &[],
                Some(60),
                Some(60),
            ),
            (
                "nothing, by the authority's own time",
                NXDomain,
                &[],
                Some(9000),
                Some(300),
            ),
            (
                "nothing behind an alias",
                NXDomain,
                &dangling,
                Some(60),
                Some(20),
            ),
            ("nothing, unsaid", NXDomain, &[], None, None),
            (
                "nothing behind an alias, unsaid",
                NoError,
                &dangling,
                None,
                None,
            ),
            ("a refusal", Refused, &[], Some(60), None),
        ];
        for (case, code, records, minimum, expected) in cases {
            let stored = Stored::new(&message(*code, records, *minimum)).expect("stored");
            assert_eq!(
                stored.ttl(RecordType::A),
                expected.map(Duration::from_secs),
                "{case}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_can_be_told(changes in prop::collection::vec((0..400_usize, any::<u8>()), 0..6)) {
            let mut wire = all_kinds().to_vec().expect("wire");
            for (at, to) in changes {
                if let Some(byte) = wire.get_mut(at) {
                    *byte = to;
                }
            }
            if let Some(stored) = Message::from_vec(&wire).ok().and_then(|m| Stored::new(&m)) {
                let _ = stored.ttl(RecordType::A);
                prop_assert_eq!(stored.pieces().count(), stored.counts.iter().map(|c| usize::from(*c)).sum::<usize>());
                let mut out = Vec::new();
                let question = all_kinds().to_vec().expect("wire");
                let head = query::Head { id: 1, flags: 0, question: question.get(12..24).unwrap_or_default(), edns: None };
                stored.write(&head, 1, |ttl| ttl, 65_535, &mut out);
            }
        }
    }
}
