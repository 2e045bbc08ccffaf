//! Writing of answers: into one buffer, in one pass, with what does not fit left out and said to be.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::answer::{Answer, Data, Host, Owner, Record, Target, dashed};
use crate::name;
use crate::query::{self, AUTHORITATIVE, HEADER, Head, MAX_UDP, Query, TRUNCATED};
use crate::zone::Zone;

/// How long the cluster's records may be remembered, in seconds: CoreDNS's default.
const TTL: u32 = 5;
/// How long the schema's version may be, as in the specification's example.
const VERSION_TTL: u32 = 28_800;
/// Version of the Kubernetes DNS-Based Service Discovery specification.
const VERSION: &str = "1.1.0";
/// Refresh, retry and expiry of the zone, in seconds; CoreDNS's, and without meaning where nobody copies the zone.
const SOA_TIMES: [u32; 3] = [7200, 1800, 86400];
const INTERNET: u16 = 1;
/// Bytes of what EDNS adds.
const OPT: usize = 11;
/// A pointer to the question's name, which always stands behind the header.
const TO_QUESTION: u16 = 0xc000 | HEADER as u16;

/// Parts of a message after the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// A message in the making.
pub(crate) struct Reply<'b> {
    out: &'b mut Vec<u8>,
    most: usize,
    counts: [u16; 3],
    /// Places where names stand in full.
    full: Vec<u16>,
}

impl<'b> Reply<'b> {
    /// Begins an answer of `most` bytes at most.
    pub(crate) fn new(head: &Head<'_>, most: usize, out: &'b mut Vec<u8>) -> Self {
        out.clear();
        out.extend(head.id.to_be_bytes());
        out.extend(head.answer_flags().to_be_bytes());
        out.extend(u16::from(!head.question.is_empty()).to_be_bytes());
        out.extend([0; 6]);
        out.extend(head.question);
        let room = most.saturating_sub(if head.edns.is_some() { OPT } else { 0 });
        Self {
            out,
            most: room,
            counts: [0; 3],
            full: Vec::new(),
        }
    }

    /// Adds a record, or nothing when it does not fit. The writers write the owner and the data.
    pub(crate) fn record(
        &mut self,
        section: Section,
        kind: RecordType,
        ttl: u32,
        owner: impl FnOnce(&mut Self),
        data: impl FnOnce(&mut Self),
    ) -> bool {
        let (start, full) = (self.out.len(), self.full.len());
        owner(self);
        self.u16(kind.into());
        self.u16(INTERNET);
        self.u32(ttl);
        let length = self.out.len();
        self.u16(0);
        data(self);
        let len = self.out.len() - length - 2;
        if self.out.len() > self.most {
            self.out.truncate(start);
            self.full.truncate(full);
            return false;
        }
        self.patch(length, u16::try_from(len).unwrap_or_default());
        self.counts[section as usize] += 1;
        true
    }

    /// The answer section is not complete.
    pub(crate) fn truncated(&mut self) {
        self.flag(TRUNCATED);
    }

    /// Sets a flag.
    pub(crate) fn flag(&mut self, flag: u16) {
        let [high, low] = flag.to_be_bytes();
        self.out[2] |= high;
        self.out[3] |= low;
    }

    /// Ends the message: code, counts, and what EDNS adds for those who speak it.
    pub(crate) fn finish(self, head: &Head<'_>, code: ResponseCode) {
        let out = self.out;
        let code = u16::from(code);
        out[3] |= code as u8 & 0xf;
        let mut counts = self.counts;
        if let Some(edns) = head.edns {
            counts[Section::Additional as usize] += 1;
            out.extend([0]);
            out.extend(u16::from(RecordType::OPT).to_be_bytes());
            out.extend(MAX_UDP.to_be_bytes());
            out.extend([
                (code >> 4) as u8,
                0,
                if edns.dnssec_ok { 0x80 } else { 0 },
                0,
                0,
                0,
            ]);
        }
        for (count, place) in counts.iter().zip([6, 8, 10]) {
            out[place..place + 2].copy_from_slice(&count.to_be_bytes());
        }
    }

    /// Raw bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A name, as a pointer where the message has it already.
    pub(crate) fn name(&mut self, name: &[u8]) {
        if name.len() < 2 {
            return self.bytes(name);
        }
        if let Some(at) = self.question_ends_with(name) {
            return self.u16(TO_QUESTION + at as u16);
        }
        let is = |at: &&u16| {
            self.out
                .get(usize::from(**at)..)
                .is_some_and(|n| n.starts_with(name))
        };
        if let Some(at) = self.full.iter().find(is) {
            return self.u16(0xc000 | *at);
        }
        self.remember();
        self.bytes(name);
    }

    /// Names that begin here may be pointed at, if there are few of them, and near enough for a pointer.
    fn remember(&mut self) {
        let at = u16::try_from(self.out.len()).ok().filter(|at| *at < 0x4000);
        if let Some(at) = at.filter(|_| self.full.len() < 8) {
            self.full.push(at);
        }
    }

    /// Where in the question's name this name begins, whatever the capitals.
    fn question_ends_with(&self, name: &[u8]) -> Option<usize> {
        let mut at = 0;
        let question = self.out.get(HEADER..)?;
        loop {
            let rest = question.get(at..)?;
            if rest
                .get(..name.len())
                .is_some_and(|r| r.eq_ignore_ascii_case(name))
            {
                return Some(at);
            }
            let len = usize::from(*rest.first()?);
            if len == 0 || len > name::MAX_LABEL {
                return None;
            }
            at += 1 + len;
        }
    }

    /// A name whose end may be the question's.
    fn below(&mut self, labels: &[u8], zone: &[u8]) {
        self.bytes(labels);
        self.name(zone);
    }

    fn host(&mut self, host: Host<'_>) {
        let dashes;
        let label = match host {
            Host::Service => return,
            Host::Named(name) => name,
            Host::Dashed(ip) => {
                dashes = dashed(ip);
                &dashes
            }
        };
        self.out.push(label.len() as u8);
        self.bytes(label.as_bytes());
    }

    fn u16(&mut self, value: u16) {
        self.out.extend(value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.out.extend(value.to_be_bytes());
    }

    fn patch(&mut self, at: usize, value: u16) {
        self.out[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// Writes what the zone says.
pub(crate) fn write(
    query: &Query<'_>,
    answer: &Answer<'_>,
    zone: &Zone,
    most: usize,
    out: &mut Vec<u8>,
) {
    let mut reply = Reply::new(&query.head, most, out);
    reply.flag(AUTHORITATIVE);
    let complete = answer
        .answers
        .iter()
        .all(|r| reply.zone_record(Section::Answer, r, zone));
    if !complete {
        reply.truncated();
    } else {
        // These are a kindness: what does not fit is not missed.
        let authority = Record {
            owner: Owner::Zone,
            data: Data::Authority,
        };
        if answer.authority {
            reply.zone_record(Section::Authority, &authority, zone);
        }
        let _ = answer
            .additionals
            .iter()
            .all(|r| reply.zone_record(Section::Additional, r, zone));
    }
    reply.finish(&query.head, answer.code);
}

/// Writes an answer that is only a code.
pub(crate) fn write_code(head: &Head<'_>, code: ResponseCode, out: &mut Vec<u8>) {
    Reply::new(head, usize::MAX, out).finish(head, code);
}

/// Writes that a question can't be answered now.
pub(crate) fn write_failure(wire: &[u8], out: &mut Vec<u8>) {
    if let Ok(query) = query::read(wire) {
        write_code(&query.head, ResponseCode::ServFail, out);
    }
}

impl Reply<'_> {
    fn zone_record(&mut self, section: Section, record: &Record<'_>, zone: &Zone) -> bool {
        let kind = match record.data {
            Data::Address(IpAddr::V4(_)) => RecordType::A,
            Data::Address(IpAddr::V6(_)) => RecordType::AAAA,
            Data::Alias(_) => RecordType::CNAME,
            Data::Pointer(_) => RecordType::PTR,
            Data::Service { .. } => RecordType::SRV,
            Data::Version => RecordType::TXT,
            Data::Server => RecordType::NS,
            Data::Authority => RecordType::SOA,
        };
        let ttl = if kind == RecordType::TXT {
            VERSION_TTL
        } else {
            TTL
        };
        self.record(
            section,
            kind,
            ttl,
            |r| r.owner(record.owner, zone),
            |r| r.zone_data(record.data, zone),
        )
    }

    fn owner(&mut self, owner: Owner<'_>, zone: &Zone) {
        match owner {
            Owner::Question => self.u16(TO_QUESTION),
            Owner::Zone => self.below(b"", zone.name()),
            Owner::Server => self.below(SERVER, zone.name()),
            Owner::Name(name) => self.name(name),
            Owner::Target(target) => self.target(target, zone),
        }
    }

    /// A target's name, which ends as the question's does when that is of the same service.
    fn target(&mut self, target: Target<'_>, zone: &Zone) {
        self.host(target.host);
        let mut service = [0; name::MAX_NAME];
        match below_service(&mut service, target.service, zone)
            .and_then(|n| self.question_ends_with(n))
        {
            Some(at) => self.u16(TO_QUESTION + at as u16),
            None => {
                self.bytes(target.service);
                self.below(SERVICES, zone.name());
            }
        }
    }

    fn zone_data(&mut self, data: Data<'_>, zone: &Zone) {
        match data {
            Data::Address(IpAddr::V4(ip)) => self.bytes(&ip.octets()),
            Data::Address(IpAddr::V6(ip)) => self.bytes(&ip.octets()),
            Data::Alias(name) => self.name(name),
            Data::Pointer(target) => self.target(target, zone),
            Data::Service {
                weight,
                port,
                target,
            } => {
                self.u16(0);
                self.u16(weight);
                self.u16(port);
                // Not to be compressed, says RFC 2782.
                self.host(target.host);
                self.bytes(target.service);
                self.bytes(SERVICES);
                self.bytes(zone.name());
            }
            Data::Version => {
                self.out.push(VERSION.len() as u8);
                self.bytes(VERSION.as_bytes());
            }
            Data::Server => self.below(SERVER, zone.name()),
            Data::Authority => {
                self.below(SERVER, zone.name());
                self.below(b"\x0ahostmaster", zone.name());
                self.u32(zone.serial());
                for time in SOA_TIMES {
                    self.u32(time);
                }
                self.u32(TTL);
            }
        }
    }
}

/// What stands between a service's namespace and the zone.
const SERVICES: &[u8] = b"\x03svc";
/// What stands before the zone in the name of its server.
const SERVER: &[u8] = b"\x02ns\x03dns";

/// A service's whole name.
fn below_service<'b>(
    buffer: &'b mut [u8; name::MAX_NAME],
    service: &[u8],
    zone: &Zone,
) -> Option<&'b [u8]> {
    let mut len = 0;
    for part in [service, SERVICES, zone.name()] {
        buffer.get_mut(len..len + part.len())?.copy_from_slice(part);
        len += part.len();
    }
    buffer.get(..len)
}
