//! Two connections joined: what comes on one goes out on the other, its end too.

use std::cell::RefCell;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::sockets::tune;

/// What is read at a time, and so the most that a connection can hold in each direction, in bytes.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// One for all connections of a thread: one that waits holds nothing.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// Runs `f` with the thread's buffer.
pub(super) fn with_buffer<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| f(buffer))
}

/// Joins two connections until both directions have ended. The end of one direction is passed on and the other goes
/// on; a reset is passed on as a reset, or half an answer would look like a whole one.
pub(super) async fn relay(mut client: TcpStream, mut endpoint: TcpStream) {
    tune(&client);
    tune(&endpoint);
    let mut answered = false;
    let broken = {
        let (from_client, mut to_client) = client.split();
        let (from_endpoint, mut to_endpoint) = endpoint.split();
        let asking = pump(from_client, &mut to_endpoint);
        let answering = async {
            pump(from_endpoint, &mut to_client).await?;
            answered = true;
            Ok(())
        };
        tokio::try_join!(asking, answering).is_err()
    };
    // What fails after the whole answer is only that the endpoint reads no more: the client may have the answer.
    if broken && !answered {
        abort(&client);
    }
    if broken {
        abort(&endpoint);
    }
}

/// Lets a connection end with a reset when it is dropped.
pub(super) fn abort(stream: &TcpStream) {
    // Where this fails it ends in the normal way.
    _ = stream.set_zero_linger();
}

/// What became of what there was to read.
enum Passed {
    All,
    /// This much the other side can't take yet.
    Rest(Vec<u8>),
    End,
}

async fn pump(from: ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
    loop {
        from.readable().await?;
        match pass(&from, to)? {
            Passed::All => {}
            Passed::Rest(rest) => to.write_all(&rest).await?,
            Passed::End => return to.shutdown().await,
        }
        // Two fast sides would keep the thread for themselves.
        tokio::task::coop::consume_budget().await;
    }
}

/// Passes on what is there, without waiting.
fn pass(from: &ReadHalf<'_>, to: &WriteHalf<'_>) -> io::Result<Passed> {
    with_buffer(|buffer| {
        let size = match from.try_read(buffer) {
            Ok(0) => return Ok(Passed::End),
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Passed::All),
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..size).unwrap_or_default();
        let written = match to.try_write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let rest = bytes.get(written..).unwrap_or_default();
        Ok(if rest.is_empty() {
            Passed::All
        } else {
            Passed::Rest(rest.to_vec())
        })
    })
}
