//! One question to one server: over UDP, and over TCP when the answer does not fit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::query::{MAX_UDP, RESPONSE, TRUNCATED};

/// Largest datagram looked at: servers may send more than they were asked to.
const DATAGRAM: usize = 4096;

/// A question to a server.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    name: Name,
    kind: RecordType,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the question can't be written: {0}")]
    Question(#[from] hickory_proto::ProtoError),
    #[error("the answer is malformed or not to this question")]
    Malformed,
}

impl Ask {
    /// From a name as on the wire.
    pub(crate) fn new(
        name: &[u8],
        kind: RecordType,
        dnssec_ok: bool,
        checking_disabled: bool,
    ) -> Option<Self> {
        let name = Name::read(&mut BinDecoder::new(name)).ok()?;
        Some(Self {
            name,
            kind,
            dnssec_ok,
            checking_disabled,
        })
    }

    /// Type of record asked for.
    pub(crate) fn kind(&self) -> RecordType {
        self.kind
    }

    /// A message with an identifier that cannot be guessed.
    fn message(&self, edns: bool) -> Message {
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(Query::query(self.name.clone(), self.kind));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP).set_dnssec_ok(self.dnssec_ok);
            message.set_edns(edns);
        }
        message
    }

    /// The message is the answer to that question.
    fn is_answered(&self, question: &Message, answer: &Message) -> bool {
        let metadata = &answer.metadata;
        let same = |q: &Query| q.name == self.name && q.query_type == self.kind;
        // A server that understood nothing may leave the question out.
        let questioned = match answer.queries.as_slice() {
            [query] => same(query),
            [] => metadata.response_code != ResponseCode::NoError,
            _ => false,
        };
        metadata.id == question.metadata.id
            && metadata.message_type == MessageType::Response
            && questioned
    }
}

/// Asks a server, for this long at most.
pub(crate) async fn ask(server: SocketAddr, ask: &Ask, time: Duration) -> Result<Message, Error> {
    let asked = async {
        let answer = exchange(server, ask, true).await?;
        let code = answer.metadata.response_code;
        // Servers older than EDNS stumble over it.
        if matches!(code, ResponseCode::FormErr | ResponseCode::NotImp) && !ask.dnssec_ok {
            return exchange(server, ask, false).await;
        }
        Ok(answer)
    };
    tokio::time::timeout(time, asked)
        .await
        .unwrap_or(Err(Error::Timeout))
}

async fn exchange(server: SocketAddr, ask: &Ask, edns: bool) -> Result<Message, Error> {
    let question = ask.message(edns);
    let wire = question.to_vec()?;
    match udp(server, ask, &question, &wire).await? {
        Some(answer) => Ok(answer),
        None => tcp(server, ask, &question, &wire).await,
    }
}

/// `None`: the answer does not fit. A socket for each question: its port is chosen by the kernel and cannot be guessed, and being
/// connected it takes nothing from elsewhere, and hears that nobody listens there.
async fn udp(
    server: SocketAddr,
    ask: &Ask,
    question: &Message,
    wire: &[u8],
) -> Result<Option<Message>, Error> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(wire).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let datagram = buffer.get(..len).unwrap_or_default();
        // Servers cut records in the middle, so look for this before reading the rest.
        if is_cut(datagram, question.metadata.id) {
            return Ok(None);
        }
        // What is not the answer does not end the waiting for it: anyone can send that.
        match Message::from_vec(datagram) {
            Ok(answer) if ask.is_answered(question, &answer) => return Ok(Some(answer)),
            _ => tracing::debug!(%server, "datagram that is no answer to the question"),
        }
    }
}

fn is_cut(datagram: &[u8], id: u16) -> bool {
    let word = |at: usize| {
        Some(u16::from_be_bytes(
            datagram.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let cut = RESPONSE | TRUNCATED;
    word(0) == Some(id) && word(2).is_some_and(|flags| flags & cut == cut)
}

async fn tcp(
    server: SocketAddr,
    ask: &Ask,
    question: &Message,
    wire: &[u8],
) -> Result<Message, Error> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(wire.len()).map_err(|_| Error::Malformed)?;
    stream
        .write_all(&[&len.to_be_bytes(), wire].concat())
        .await?;
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer)
        .ok()
        .filter(|a| ask.is_answered(question, a));
    answer.ok_or(Error::Malformed)
}
