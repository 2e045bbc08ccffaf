//! Frames and their bytes (SPDY/3, section 2.2 and 2.6).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Error;
use super::headers::{Deflater, Headers, Inflater};

const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
/// The longest data frame: its length has 24 bits.
const MAX_DATA: usize = (1 << 24) - 1;
/// The longest control frame that we read; those of Kubernetes have some hundred bytes.
const MAX_CONTROL: usize = 64 * 1024;
const HEAD: usize = 8;
const ID: u32 = 0x7fff_ffff;

/// A frame. `id` is a stream's; `fin` ends the sender's side of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the specification's")]
pub enum Frame {
    SynStream {
        id: u32,
        associated: u32,
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
        status: u32,
    },
    Settings {
        clear: bool,
        settings: Vec<Setting>,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    /// A long data frame is read in pieces, of which the last has its `fin`.
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
}

/// An entry of SETTINGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whether to keep it.
    pub flags: u8,
    /// Which; 24 bits.
    pub id: u32,
    /// Its value.
    pub value: u32,
}

impl Setting {
    /// `SETTINGS_INITIAL_WINDOW_SIZE`.
    pub const INITIAL_WINDOW: u32 = 7;
}

/// Writes frames, with the sender's compression context.
pub struct Encoder(Deflater);

impl Encoder {
    /// For a new connection.
    ///
    /// # Errors
    /// When zlib refuses the dictionary.
    pub fn new() -> Result<Self, Error> {
        Deflater::new().map(Self)
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// When the headers are larger than a frame may be.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), Error> {
        let mut body = Vec::new();
        let fin_flag = |fin: &bool| if *fin { FIN } else { 0 };
        let (kind, flags) = match frame {
            Frame::Data { id, fin, data } => {
                encode_data(*id, *fin, data, out);
                return Ok(());
            }
            Frame::SynStream {
                id,
                associated,
                priority,
                fin,
                unidirectional,
                headers,
            } => {
                body.put_u32(id & ID);
                body.put_u32(associated & ID);
                body.put_slice(&[priority << 5, 0]);
                body.extend(self.0.deflate(headers)?);
                (
                    1,
                    fin_flag(fin) | if *unidirectional { UNIDIRECTIONAL } else { 0 },
                )
            }
            Frame::SynReply { id, fin, headers } | Frame::Headers { id, fin, headers } => {
                body.put_u32(id & ID);
                body.extend(self.0.deflate(headers)?);
                (
                    if matches!(frame, Frame::SynReply { .. }) {
                        2
                    } else {
                        8
                    },
                    fin_flag(fin),
                )
            }
            Frame::RstStream { id, status: word } => (put_two(&mut body, 3, *id, *word), 0),
            Frame::GoAway { last, status } => (put_two(&mut body, 7, *last, *status), 0),
            Frame::WindowUpdate { id, delta } => (put_two(&mut body, 9, *id, delta & ID), 0),
            Frame::Ping { id } => {
                body.put_u32(*id);
                (6, 0)
            }
            Frame::Settings { clear, settings } => {
                body.put_u32(u32::try_from(settings.len()).map_err(|_| Error::TooLarge)?);
                for s in settings {
                    body.put_u32(u32::from(s.flags) << 24 | s.id & 0x00ff_ffff);
                    body.put_u32(s.value);
                }
                (4, fin_flag(clear))
            }
        };
        if body.len() > MAX_CONTROL {
            return Err(Error::TooLarge);
        }
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        put_length(out, flags, body.len());
        out.put_slice(&body);
        Ok(())
    }
}

fn put_two(body: &mut Vec<u8>, kind: u16, id: u32, word: u32) -> u16 {
    body.put_u32(id & ID);
    body.put_u32(word);
    kind
}

fn put_length(out: &mut BytesMut, flags: u8, length: usize) {
    out.put_u8(flags);
    out.put_uint(u64::try_from(length).unwrap_or(u64::MAX), 3);
}

fn encode_data(id: u32, fin: bool, data: &[u8], out: &mut BytesMut) {
    let (last, full) = match data.len().checked_sub(1).map(|n| n / MAX_DATA * MAX_DATA) {
        Some(at) => (
            data.get(at..).unwrap_or_default(),
            data.get(..at).unwrap_or_default(),
        ),
        None => (data, data),
    };
    let pieces = full.chunks(MAX_DATA).map(|piece| (piece, 0));
    for (piece, flags) in pieces.chain([(last, if fin { FIN } else { 0 })]) {
        out.put_u32(id & ID);
        put_length(out, flags, piece.len());
        out.put_slice(piece);
    }
}

/// A data frame that is being read.
struct Rest {
    id: u32,
    fin: bool,
    length: usize,
}

/// Reads frames, with the other side's compression context. After an error the connection is of no use.
pub struct Decoder {
    inflater: Inflater,
    rest: Option<Rest>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            inflater: Inflater::new(),
            rest: None,
        }
    }
}

impl Decoder {
    /// Takes a frame from the front of what was read; `None`: more is needed.
    ///
    /// # Errors
    /// When the bytes are no SPDY/3, or larger than we accept.
    pub fn decode(&mut self, read: &mut BytesMut) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(rest) = self.rest.take() {
                return Ok(self.data(rest, read));
            }
            let Some((mut head, body)) = read.split_at_checked(HEAD) else {
                return Ok(None);
            };
            let (first, second) = (head.get_u32(), head.get_u32());
            let [flags, ..] = second.to_be_bytes();
            let length = usize::try_from(second & 0x00ff_ffff).map_err(|_| Error::TooLarge)?;
            if first & !ID == 0 {
                read.advance(HEAD);
                if first == 0 {
                    return Err(Error::Frame);
                }
                let fin = flags & FIN != 0;
                if length == 0 {
                    return Ok(Some(Frame::Data {
                        id: first,
                        fin,
                        data: Bytes::new(),
                    }));
                }
                self.rest = Some(Rest {
                    id: first,
                    fin,
                    length,
                });
                continue;
            }
            if first >> 16 != u32::from(0x8000 | VERSION) {
                return Err(Error::Version);
            }
            if length > MAX_CONTROL {
                return Err(Error::TooLarge);
            }
            if body.len() < length {
                return Ok(None);
            }
            read.advance(HEAD);
            let body = read.split_to(length);
            if let Some(frame) = self.control(first & 0xffff, flags, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn data(&mut self, mut rest: Rest, read: &mut BytesMut) -> Option<Frame> {
        let data = read.split_to(read.len().min(rest.length)).freeze();
        rest.length -= data.len();
        let (id, fin) = (rest.id, rest.fin && rest.length == 0);
        if rest.length > 0 {
            self.rest = Some(rest);
        }
        (!data.is_empty()).then_some(Frame::Data { id, fin, data })
    }

    /// A control frame; `None` for kinds we don't know, which are to be ignored.
    fn control(&mut self, kind: u32, flags: u8, mut body: &[u8]) -> Result<Option<Frame>, Error> {
        let fin = flags & FIN != 0;
        let body = &mut body;
        let frame = match kind {
            1 => {
                let (id, associated) = (stream(body)?, word(body)? & ID);
                let [priority, _slot] = word_16(body)?.to_be_bytes();
                let headers = self.inflater.inflate(std::mem::take(body))?;
                let (priority, unidirectional) = (priority >> 5, flags & UNIDIRECTIONAL != 0);
                Frame::SynStream {
                    id,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers,
                }
            }
            2 => Frame::SynReply {
                id: stream(body)?,
                fin,
                headers: self.inflater.inflate(std::mem::take(body))?,
            },
            3 => Frame::RstStream {
                id: stream(body)?,
                status: word(body)?,
            },
            4 => {
                let count = word(body)?;
                // An entry that is missing ends the loop with an error.
                let settings = (0..count)
                    .map(|_| setting(body))
                    .collect::<Result<_, _>>()?;
                Frame::Settings {
                    clear: fin,
                    settings,
                }
            }
            6 => Frame::Ping { id: word(body)? },
            7 => Frame::GoAway {
                last: word(body)? & ID,
                status: word(body)?,
            },
            8 => Frame::Headers {
                id: stream(body)?,
                fin,
                headers: self.inflater.inflate(std::mem::take(body))?,
            },
            9 => Frame::WindowUpdate {
                id: word(body)? & ID,
                delta: word(body)? & ID,
            },
            _ => return Ok(None),
        };
        if body.is_empty() {
            Ok(Some(frame))
        } else {
            Err(Error::Frame)
        }
    }
}

fn word(body: &mut &[u8]) -> Result<u32, Error> {
    body.try_get_u32().map_err(|_| Error::Frame)
}

fn word_16(body: &mut &[u8]) -> Result<u16, Error> {
    body.try_get_u16().map_err(|_| Error::Frame)
}

/// A stream's id, which is never 0.
fn stream(body: &mut &[u8]) -> Result<u32, Error> {
    Some(word(body)? & ID)
        .filter(|id| *id != 0)
        .ok_or(Error::Frame)
}

fn setting(body: &mut &[u8]) -> Result<Setting, Error> {
    let (first, value) = (word(body)?, word(body)?);
    let [flags, ..] = first.to_be_bytes();
    Ok(Setting {
        flags,
        id: first & 0x00ff_ffff,
        value,
    })
}
