//! What the zone says, as a value that borrows from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

/// What is known of a question's name.
#[derive(Debug)]
pub(crate) enum Outcome<'z> {
    /// The name is not the cluster's: others know.
    Elsewhere,
    /// A complete answer.
    Answer(Answer<'z>),
    /// The name is another name for one that is not the cluster's: the last of these, each the next one's alias.
    Alias(Vec<&'z [u8]>),
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer<'z> {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record<'z>>,
    pub(crate) additionals: Vec<Record<'z>>,
    /// The zone's start of authority is told, from which the asker learns how long to remember that there is nothing.
    pub(crate) authority: bool,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'z> {
    pub(crate) owner: Owner<'z>,
    pub(crate) data: Data<'z>,
}

/// Whose record it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'z> {
    /// The name that was asked for, with the asker's capitals.
    Question,
    /// The zone itself.
    Zone,
    /// The name of a server of the zone.
    Server,
    /// Any name.
    Name(&'z [u8]),
    /// A name below a service.
    Target(Target<'z>),
}

/// What a record says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'z> {
    /// An address.
    Address(IpAddr),
    /// Another name.
    Alias(&'z [u8]),
    /// An address's name.
    Pointer(Target<'z>),
    /// Where a service's port is.
    Service {
        /// Share of this target, at least 1.
        weight: u16,
        port: u16,
        target: Target<'z>,
    },
    /// The schema's version.
    Version,
    /// The name of a server of the zone.
    Server,
    /// The zone's start of authority.
    Authority,
}

/// The name of a service, or of an endpoint of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'z> {
    pub(crate) host: Host<'z>,
    /// Name and namespace, as on the wire.
    pub(crate) service: &'z [u8],
}

/// The first label of an endpoint's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host<'z> {
    /// None: the service itself.
    Service,
    /// The endpoint's own.
    Named(&'z str),
    /// Its address with dashes.
    Dashed(IpAddr),
}

impl<'z> Answer<'z> {
    /// An answer with records.
    pub(crate) fn found(answers: Vec<Record<'z>>) -> Self {
        Self {
            code: ResponseCode::NoError,
            answers,
            additionals: Vec::new(),
            authority: false,
        }
    }

    /// The name exists, and has nothing of the type asked for.
    pub(crate) fn empty() -> Self {
        Self {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            additionals: Vec::new(),
            authority: true,
        }
    }

    /// There is no such name.
    pub(crate) fn missing() -> Self {
        Self {
            code: ResponseCode::NXDomain,
            ..Self::empty()
        }
    }

    /// Only a code.
    pub(crate) fn failed(code: ResponseCode) -> Self {
        Self {
            code,
            authority: false,
            ..Self::empty()
        }
    }

    /// Records for the question's name, or that there are none.
    pub(crate) fn of(data: impl Iterator<Item = Data<'z>>) -> Self {
        let records: Vec<_> = data
            .map(|data| Record {
                owner: Owner::Question,
                data,
            })
            .collect();
        if records.is_empty() {
            Self::empty()
        } else {
            Self::found(records)
        }
    }
}

/// An address of the type asked for.
pub(crate) fn is_asked(ip: IpAddr, kind: RecordType) -> bool {
    kind == if ip.is_ipv4() {
        RecordType::A
    } else {
        RecordType::AAAA
    }
}

/// An address as one label: `10-42-0-7`, `fd00--7`.
pub(crate) fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The address that a label stands for: three single dashes part the bytes of a v4 one, as CoreDNS reads them.
pub(crate) fn undash(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let v4 = text.bytes().filter(|b| *b == b'-').count() == 3 && !text.contains("--");
    if v4 {
        text.replace('-', ".")
            .parse::<Ipv4Addr>()
            .ok()
            .map(IpAddr::V4)
    } else {
        text.replace('-', ":")
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6)
    }
}
