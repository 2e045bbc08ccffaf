//! A deadline for a connection's first bytes. hyper's own header timeout starts once the HTTP version is known, and
//! a client that sends nothing after the handshake never lets it be known.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose reads fail with `TimedOut` when its first bytes don't tell the HTTP version in time.
pub(crate) struct Patience<I> {
    io: I,
    /// `None`: the version is known.
    deadline: Option<Pin<Box<Sleep>>>,
    /// How much of the preface came.
    matched: usize,
}

impl<I> Patience<I> {
    pub(crate) fn new(io: I, limit: Duration) -> Self {
        Self {
            io,
            deadline: Some(Box::pin(sleep(limit))),
            matched: 0,
        }
    }

    fn saw(&mut self, bytes: &[u8]) {
        let rest = PREFACE.get(self.matched..).unwrap_or_default();
        let same = rest.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        self.matched += same;
        if self.matched == PREFACE.len() || same < bytes.len() {
            self.deadline = None;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patience<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(done) => {
                done?;
                if self.deadline.is_some() {
                    self.saw(buf.filled().get(before..).unwrap_or_default());
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => match &mut self.deadline {
                None => Poll::Pending,
                Some(deadline) => {
                    ready!(deadline.as_mut().poll(cx));
                    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
                }
            },
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patience<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_ends_when_the_version_is_known() {
        let cases: [(&[&[u8]], bool); 5] = [
            (&[b"GET"], false),
            (&[b"PRI * HTTP"], true),
            (&[b"P", b"OST / HTTP/1.1\r\n"], false),
            (&[b"PRI * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n"], false),
            (&[b"PRI * HTTP/2.0\r\n\r\n", b"S"], true),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = runtime.expect("a runtime");
        for (reads, waiting) in cases {
            let _guard = runtime.enter();
            let mut patience = Patience::new((), Duration::from_secs(1));
            reads.iter().for_each(|r| patience.saw(r));
            assert_eq!(patience.deadline.is_some(), waiting, "{reads:?}");
        }
    }
}
