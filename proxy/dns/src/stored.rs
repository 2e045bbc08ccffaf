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
        if self.authentic {
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
