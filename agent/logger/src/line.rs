//! From bytes to CRI log lines: time, stream, `P`artial or `F`ull, text.

use std::io::Write;

use jiff::Timestamp;

/// Longest line before it is cut into partial ones, as containerd and docker do.
pub(crate) const LONGEST: usize = 16 << 10;

/// One output stream and its unfinished line.
pub(crate) struct Stream {
    name: &'static str,
    pending: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(name: &'static str) -> Stream {
        Stream {
            name,
            pending: Vec::with_capacity(LONGEST),
        }
    }

    /// Appends to `out` the lines `bytes` complete, and partial ones when they get too long.
    pub(crate) fn feed(&mut self, bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let room = LONGEST - self.pending.len();
            let length = end.unwrap_or(rest.len()).min(room);
            let (text, after) = rest.split_at(length);
            self.pending.extend_from_slice(text);
            if end == Some(length) {
                self.write('F', now, out);
                rest = after.get(1..).unwrap_or_default();
                continue;
            }
            rest = after;
            // Only a further byte that is no newline makes a full buffer partial.
            if self.pending.len() == LONGEST && !rest.is_empty() {
                self.write('P', now, out);
            }
        }
    }

    /// Whether a line is unfinished.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Appends an unfinished line as a partial one, so that readers add no newline that never was.
    pub(crate) fn flush(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.write('P', now, out);
        }
    }

    fn write(&mut self, tag: char, now: Timestamp, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{now:.9} {} {tag} ", self.name);
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(char, usize)> {
        let mut stream = Stream::new("stdout");
        let mut out = Vec::new();
        for piece in pieces {
            stream.feed(piece, Timestamp::UNIX_EPOCH, &mut out);
        }
        stream.flush(Timestamp::UNIX_EPOCH, &mut out);
        let text = String::from_utf8(out).expect("text");
        let parse = |line: &str| {
            let rest = line
                .strip_prefix("1970-01-01T00:00:00.000000000Z stdout ")
                .expect("prefix");
            (rest.chars().next().expect("tag"), rest.len() - 2)
        };
        text.lines().map(parse).collect()
    }

    #[test]
    fn lines_are_cut_where_they_end_or_get_too_long() {
        let long = vec![b'x'; LONGEST];
        let longer = vec![b'x'; 2 * LONGEST + 5];
        type Row<'a> = (&'a [&'a [u8]], &'a [(char, usize)]);
        let table: [Row; 8] = [
            (&[b"one\ntwo\n"], &[('F', 3), ('F', 3)]),
            (&[b"on", b"e\n\n"], &[('F', 3), ('F', 0)]),
            (&[b"no newline"], &[('P', 10)]),
            (&[b""], &[]),
            (&[&long, b"\n"], &[('F', LONGEST)]),
            (&[&long, b"y\n"], &[('P', LONGEST), ('F', 1)]),
            (
                &[&longer, b"\nz\n"],
                &[('P', LONGEST), ('P', LONGEST), ('F', 5), ('F', 1)],
            ),
            (&[&long], &[('P', LONGEST)]),
        ];
        for (i, (pieces, expected)) in table.into_iter().enumerate() {
            assert_eq!(lines(pieces), expected, "case {i}");
        }
    }
}
