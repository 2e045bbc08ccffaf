//! Header blocks: names and values, compressed over the whole connection with one context a direction.

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Error;
use super::dictionary::DICTIONARY;

/// A block may grow to this many bytes when it is inflated: a few bytes can stand for gigabytes.
const MAX_BLOCK: usize = 64 * 1024;

/// Names and values of a stream. Several values of a name are one value with NUL between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(pairs: T) -> Self {
        let owned = |(n, v): (&str, &str)| (n.to_ascii_lowercase(), v.to_owned());
        Self(pairs.into_iter().map(owned).collect())
    }
}

impl Headers {
    /// The first value of a name, in any case; `None` also when it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let (_, values) = named.next()?;
        values.split('\0').next().filter(|v| !v.is_empty())
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        block.put_u32(length(self.0.len()));
        for (name, value) in &self.0 {
            put_text(&mut block, name);
            put_text(&mut block, value);
        }
        block
    }

    fn from_block(mut block: &[u8]) -> Result<Self, Error> {
        let count = block.try_get_u32().map_err(|_| Error::Headers)?;
        let mut pairs = Vec::new();
        // Each turn consumes of the block, so a count that lies ends in an error soon.
        for _ in 0..count {
            pairs.push((take_text(&mut block)?, take_text(&mut block)?));
        }
        if block.is_empty() {
            Ok(Self(pairs))
        } else {
            Err(Error::Headers)
        }
    }
}

/// Lengths here are of what we made ourselves; the frame's own limit is far below.
fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u32(length(text.len()));
    out.extend_from_slice(text.as_bytes());
}

fn take_text(block: &mut &[u8]) -> Result<String, Error> {
    let length = block.try_get_u32().map_err(|_| Error::Headers)?;
    let length = usize::try_from(length).map_err(|_| Error::Headers)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Error::Headers)?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| Error::Headers)
}

/// Compresses what one side sends.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, Error> {
        let mut stream = Compress::new(Compression::fast(), true);
        stream
            .set_dictionary(&DICTIONARY)
            .map_err(|_| Error::Headers)?;
        Ok(Self(stream))
    }

    pub(super) fn deflate(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let block = headers.to_block();
        let (mut rest, mut out) = (block.as_slice(), Vec::with_capacity(256));
        loop {
            let before = self.0.total_in();
            let done = self.0.compress_vec(rest, &mut out, FlushCompress::Sync);
            done.map_err(|_| Error::Headers)?;
            rest = skip(rest, self.0.total_in() - before);
            // Room that is left over is how zlib says that the flush is complete.
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(out.len().max(256));
        }
    }
}

/// Decompresses what the other side sends.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn inflate(&mut self, mut rest: &[u8]) -> Result<Headers, Error> {
        let mut out = Vec::with_capacity(1024);
        loop {
            let before = self.0.total_in();
            let done = self.0.decompress_vec(rest, &mut out, FlushDecompress::Sync);
            rest = skip(rest, self.0.total_in() - before);
            match done {
                Err(e) if e.needs_dictionary().is_some() => {
                    let known = self.0.set_dictionary(&DICTIONARY);
                    known.map_err(|_| Error::Headers)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(Error::Headers),
                Ok(_) if out.len() > MAX_BLOCK => return Err(Error::TooLarge),
                Ok(_) if out.len() < out.capacity() => break,
                Ok(_) => out.reserve(out.len()),
            }
        }
        if rest.is_empty() {
            Headers::from_block(&out)
        } else {
            Err(Error::Headers)
        }
    }
}

fn skip(data: &[u8], consumed: u64) -> &[u8] {
    let consumed = usize::try_from(consumed).unwrap_or(usize::MAX);
    data.get(consumed..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum is the specification's own: zlib puts it behind its two bytes.
    #[test]
    fn dictionary_is_the_specified_one() {
        assert_eq!(DICTIONARY.len(), 1423);
        let first = Deflater::new()
            .expect("a context")
            .deflate(&Headers::default());
        assert_eq!(first.expect("a block")[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn one_context_serves_many_blocks() {
        let (mut deflater, mut inflater) = (Deflater::new().expect("a context"), Inflater::new());
        let large = "x".repeat(40_000);
        let blocks: [&[(&str, &str)]; 4] = [
            &[("streamType", "error"), ("port", "80")],
            &[],
            &[("large", &large)],
            &[("a", "1\x002")],
        ];
        for pairs in blocks {
            let headers: Headers = pairs.iter().copied().collect();
            let block = deflater.deflate(&headers).expect("a block");
            assert_eq!(inflater.inflate(&block), Ok(headers));
        }
    }

    #[test]
    fn values() {
        let headers: Headers = [("streamType", "data"), ("many", "1\x002"), ("none", "")]
            .into_iter()
            .collect();
        let table = [
            ("StreamType", Some("data")),
            ("many", Some("1")),
            ("none", None),
            ("other", None),
        ];
        for (name, want) in table {
            assert_eq!(headers.get(name), want, "{name}");
        }
    }

    #[test]
    fn hostile_blocks_are_refused() {
        let bomb: String = "y".repeat(MAX_BLOCK * 16);
        let bomb: Headers = [("bomb", bomb.as_str())].into_iter().collect();
        let bomb = Deflater::new()
            .expect("a context")
            .deflate(&bomb)
            .expect("a block");
        assert!(bomb.len() < MAX_BLOCK / 4, "{}", bomb.len());
        let mut other = Compress::new(Compression::fast(), true);
        let mut foreign = Vec::with_capacity(256);
        other.set_dictionary(b"another").expect("a fresh stream");
        other
            .compress_vec(b"abc", &mut foreign, FlushCompress::Sync)
            .expect("room");
        let table = [
            (bomb, Error::TooLarge),
            (foreign, Error::Headers),
            (vec![1, 2, 3], Error::Headers),
        ];
        for (block, want) in table {
            assert_eq!(Inflater::new().inflate(&block), Err(want));
        }
        let lies: [&[u8]; 4] = [
            &[],
            &[255; 4],
            &[0, 0, 0, 1, 255, 255, 255, 255, 1],
            &[0, 0, 0, 0, 1],
        ];
        for block in lies {
            assert_eq!(Headers::from_block(block), Err(Error::Headers), "{block:?}");
        }
    }
}
