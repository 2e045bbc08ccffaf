//! Just enough HTTP/1.1: requests one after the other on a connection, a thread for each connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::drain::Drain;
use crate::identity;

/// A thread's stack: thousands of connections must fit.
const STACK: usize = 96 << 10;
/// How often waiting code looks whether the server ends.
const TICK: Duration = Duration::from_millis(100);
/// A connection that sends nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
const LONGEST_HEAD: u64 = 64 << 10;

/// A parsed request head.
struct Request {
    method: String,
    path: String,
    query: String,
    headers: String,
    length: u64,
    last: bool,
}

struct Answer {
    status: &'static str,
    body: String,
    exit: Option<i32>,
}

/// Accepts until the server closes, then takes what the kernel has queued already.
pub(crate) fn accept(listener: &TcpListener, drain: &Arc<Drain>) {
    if let Err(error) = listener.set_nonblocking(true) {
        eprintln!("keelson-echo: {error}");
        return;
    }
    loop {
        let closed = drain.closed();
        match listener.accept() {
            Ok((stream, client)) => start(stream, client, drain),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if closed {
                    return;
                }
                let tick = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
                let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, tick);
            }
            // Out of descriptors, or a client that gave up: a later one may do better.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn start(stream: TcpStream, client: SocketAddr, drain: &Arc<Drain>) {
    drain.enter();
    let shared = Arc::clone(drain);
    let thread = std::thread::Builder::new().stack_size(STACK);
    let started = thread.spawn(move || {
        // A client that hangs up is nothing to report.
        let _ = converse(stream, client, &shared);
        shared.leave();
    });
    if started.is_err() {
        drain.leave();
    }
}

fn converse(stream: TcpStream, client: SocketAddr, drain: &Drain) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let own = stream.local_addr()?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::with_capacity(4096, stream);
    while wait(&mut input, drain)? {
        input.get_ref().set_read_timeout(Some(IDLE))?;
        let Some(request) = read_head(&mut input)? else {
            break;
        };
        io::copy(&mut input.by_ref().take(request.length), &mut io::sink())?;
        let answer = answer(&request, own, client);
        let last = request.last || drain.begun() || answer.exit.is_some();
        write(&mut out, &request, &answer, last)?;
        if let Some(code) = answer.exit {
            std::process::exit(code);
        }
        if last {
            break;
        }
    }
    Ok(())
}

/// Waits for the next request's first byte; false when there is none to come.
fn wait(input: &mut BufReader<TcpStream>, drain: &Drain) -> io::Result<bool> {
    let end = Instant::now() + IDLE;
    input.get_ref().set_read_timeout(Some(TICK))?;
    loop {
        match input.fill_buf() {
            Ok(bytes) => return Ok(!bytes.is_empty()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if drain.closed() || Instant::now() > end {
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_head(input: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut limited = input.take(LONGEST_HEAD);
    let mut line = String::new();
    limited.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: String::new(),
        length: 0,
        last: version == "HTTP/1.0",
    };
    loop {
        let mut header = String::new();
        if limited.read_line(&mut header)? == 0 {
            return Ok(None);
        }
        if header.trim().is_empty() {
            return Ok(Some(request));
        }
        if let Some((name, value)) = header.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => request.length = value.trim().parse().unwrap_or_default(),
                "connection" => request.last |= value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        request.headers.push_str(&header);
    }
}

fn answer(request: &Request, own: SocketAddr, client: SocketAddr) -> Answer {
    let ok = |body: String| Answer {
        status: "200 OK",
        body,
        exit: None,
    };
    match request.path.as_str() {
        "/" => ok(format!("{}\n", identity(own, client))),
        "/healthz" => ok("ok\n".into()),
        "/headers" => ok(request.headers.clone()),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(
                parameter(&request.query, "ms").unwrap_or(0),
            ));
            ok(format!("{}\n", identity(own, client)))
        }
        "/exit" => Answer {
            exit: Some(parameter(&request.query, "code").unwrap_or(0)),
            ..ok("bye\n".into())
        },
        _ => Answer {
            status: "404 Not Found",
            body: "not found\n".into(),
            exit: None,
        },
    }
}

fn parameter<T: std::str::FromStr>(query: &str, name: &str) -> Option<T> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name)?.1.parse().ok()
}

fn write(out: &mut impl Write, request: &Request, answer: &Answer, last: bool) -> io::Result<()> {
    let connection = if last { "close" } else { "keep-alive" };
    let Answer { status, body, .. } = answer;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: {connection}\r\n\r\n"
    );
    let body = if request.method == "HEAD" { "" } else { body };
    out.write_all(format!("{head}{body}").as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed() {
        let head = b"GET /slow?ms=5&x=1 HTTP/1.1\r\nHost: a\r\nConnection: Close\r\nContent-Length: 3\r\n\r\nabc";
        let request = read_head(&mut &head[..])
            .expect("readable")
            .expect("a request");
        assert_eq!(
            (request.path.as_str(), request.length, request.last),
            ("/slow", 3, true)
        );
        assert_eq!(parameter::<u64>(&request.query, "ms"), Some(5));
        assert_eq!(request.headers.lines().count(), 3);
        for broken in [&b"GET /\r\n\r\n"[..], b"GET / HTTP/1.1\r\nHost: a\r\n", b""] {
            assert!(read_head(&mut &broken[..]).expect("readable").is_none());
        }
    }
}
