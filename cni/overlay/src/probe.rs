//! Whether packets arrive undamaged that the VXLAN link sends without having computed their checksums.
//!
//! A link that is said to compute checksums (`tx-checksum-ip-generic`) is given packets without one. Some kernels and
//! cards damage such packets when they are inside of others, e.g. when the outer ones are translated (Linux before 5.7;
//! flannel-io/flannel#1279, projectcalico/calico#3145): pings arrive, all else is dropped. Which ones do can't be told
//! from their versions, so it is tried: a datagram to a port that nobody listens on, at the other end of the tunnel, is
//! answered by that kernel as unreachable, but only if its checksum was right.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, Nla, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::Error;
use crate::plan::VXLAN;

/// The first of traceroute's ports, which nobody listens on for that reason.
const PORT: u16 = 33434;
/// How often an end is asked, and how long it may take. Kernels answer some six times a second.
const TRIES: usize = 4;
const ANSWER: Duration = Duration::from_millis(300);
/// So many ends are asked: one may be away, or not answer at all.
const ENDS: usize = 3;
/// Between two rounds while nobody has answered.
const AGAIN: Duration = Duration::from_secs(30);

/// The VXLAN link's number, and the other ends of the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) link: Option<u32>,
    pub(crate) ends: Vec<IpAddr>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody has answered yet.
    Unknown,
    /// Packets arrive.
    Fine,
    /// They do only with computed checksums.
    Damaged,
}

/// Until the sender of the ends is gone.
pub(crate) async fn run(mut told: watch::Receiver<Ends>) {
    let Ok((connection, mut handle, _)) = genetlink::new_connection() else {
        return tracing::warn!("no generic netlink: not known whether checksums are right");
    };
    let connection = tokio::spawn(connection);
    let (mut verdict, mut link) = (Verdict::Unknown, None);
    loop {
        let now = told.borrow_and_update().clone();
        if now.link.is_some() && now.link != link {
            link = now.link;
            // A new link computes none.
            if verdict == Verdict::Damaged {
                report(set_offload(&mut handle, VXLAN, false).await);
            }
        }
        if verdict == Verdict::Unknown && link.is_some() && !now.ends.is_empty() {
            verdict = match find_out(&mut handle, &now.ends).await {
                Ok(verdict) => verdict,
                Err(error) => {
                    report(Err(error));
                    Verdict::Unknown
                }
            };
        }
        let wait = async {
            match verdict {
                Verdict::Unknown => tokio::time::sleep(AGAIN).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { break },
            () = wait => {}
        }
    }
    connection.abort();
}

fn report(done: Result<(), Error>) {
    if let Err(error) = done {
        tracing::warn!(link = VXLAN, %error, "checksum offload is left as it is");
    }
}

async fn find_out(handle: &mut GenetlinkHandle, ends: &[IpAddr]) -> Result<Verdict, Error> {
    // Found by an earlier run, or set by somebody who knows.
    if !offload(handle, VXLAN).await? {
        return Ok(Verdict::Damaged);
    }
    if reach_any(ends).await {
        return Ok(Verdict::Fine);
    }
    set_offload(handle, VXLAN, false).await?;
    if reach_any(ends).await {
        tracing::warn!(
            link = VXLAN,
            "packets arrive damaged when the link leaves their checksums to be computed later: tx-checksum-ip-generic is off now"
        );
        return Ok(Verdict::Damaged);
    }
    // Neither way: it is something else.
    set_offload(handle, VXLAN, true).await?;
    Ok(Verdict::Unknown)
}

async fn reach_any(ends: &[IpAddr]) -> bool {
    let all = ends.iter().take(ENDS).map(|end| reach(*end));
    futures::future::join_all(all).await.contains(&true)
}

/// Whether the kernel at the other end says that nobody listens.
async fn reach(end: IpAddr) -> bool {
    let any: SocketAddr = match end {
        IpAddr::V4(_) => ([0; 4], 0).into(),
        IpAddr::V6(_) => ([0; 16], 0).into(),
    };
    let Ok(socket) = UdpSocket::bind(any).await else {
        return false;
    };
    if socket.connect((end, PORT)).await.is_err() {
        return false;
    }
    for _ in 0..TRIES {
        let sent = socket.send(b"keelson").await;
        let refused = |e: &std::io::Error| e.kind() == ErrorKind::ConnectionRefused;
        if sent.as_ref().is_err_and(refused) {
            return true;
        }
        let answer = tokio::time::timeout(ANSWER, socket.recv(&mut [0; 8])).await;
        if matches!(&answer, Ok(Err(e)) if refused(e)) {
            return true;
        }
    }
    false
}

/// `linux/ethtool_netlink.h`. In kernels since 5.6.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const BITSET_BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// The link computes checksums of packets itself.
const FEATURE: &[u8] = b"tx-checksum-ip-generic\0";

/// A message of the family `ethtool`.
#[derive(Debug)]
struct Ethtool {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Ethtool {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Ethtool {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Ethtool {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            attributes: inside(buffer).collect(),
        })
    }
}

/// Attributes one after the other.
fn inside(bytes: &[u8]) -> impl Iterator<Item = DefaultNla> {
    let all = NlasIterator::new(bytes).flatten();
    all.map(|nla| DefaultNla::new(nla.kind(), nla.value().to_vec()))
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    bytes
}

fn nest(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inside.buffer_len()];
    inside.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn header(link: &str) -> DefaultNla {
    let name = [link.as_bytes(), &[0]].concat();
    nest(HEADER, &[DefaultNla::new(HEADER_DEV_NAME, name)])
}

/// Whether a link leaves checksums to be computed later.
async fn offload(handle: &mut GenetlinkHandle, link: &str) -> Result<bool, Error> {
    let answers = ask(handle, FEATURES_GET, vec![header(link)]).await?;
    let find =
        |bytes: &[u8], kind: u16| inside(bytes).find(|n| n.kind() == kind).map(|n| value(&n));
    let is_it = |bit: DefaultNla| find(&value(&bit), BIT_NAME).is_some_and(|n| n == FEATURE);
    let active = answers.iter().find(|a| a.kind() == FEATURES_ACTIVE);
    let bits = active.and_then(|a| find(&value(a), BITSET_BITS));
    // Only those that are on are listed.
    Ok(bits.is_some_and(|bits| inside(&bits).any(is_it)))
}

/// Lets a link leave checksums to be computed later, or not.
async fn set_offload(handle: &mut GenetlinkHandle, link: &str, on: bool) -> Result<(), Error> {
    let mut bit = vec![DefaultNla::new(BIT_NAME, FEATURE.to_vec())];
    bit.extend(on.then(|| DefaultNla::new(BIT_VALUE, Vec::new())));
    let bits = nest(BITSET_BITS, &[nest(BIT, &bit)]);
    let attributes = vec![header(link), nest(FEATURES_WANTED, &[bits])];
    ask(handle, FEATURES_SET, attributes).await.map(|_| ())
}

async fn ask(
    handle: &mut GenetlinkHandle,
    command: u8,
    attributes: Vec<DefaultNla>,
) -> Result<Vec<DefaultNla>, Error> {
    let message = GenlMessage::from_payload(Ethtool {
        command,
        attributes,
    });
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.request(message).await?;
    let mut all = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.map_err(genetlink::GenetlinkError::from)?.payload {
            NetlinkPayload::InnerMessage(m) => all.extend(m.payload.attributes),
            NetlinkPayload::Error(e) if e.code.is_some() => return Err(Error::Kernel(e.to_io())),
            _ => {}
        }
    }
    Ok(all)
}
