//! The server as a process: answers, keeps connections, loses nothing when it is told to end.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keelson-echo"))
            .args(["-listen", "127.0.0.1:0", "-linger", "0.3"])
            .env("POD_NAME", "web-1")
            .env("NODE_NAME", "n1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        Server { child, port }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(mut stream: &TcpStream, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut input = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        assert!(
            input.read_line(&mut line).unwrap() > 0,
            "connection ended after {head:?}"
        );
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn it_says_who_it_is() {
    let server = Server::start();
    let stream = server.connect();
    let line = "pod=web-1 node=n1 ip=127.0.0.1 client=127.0.0.1\n";
    for (path, status, body) in [
        ("/", "200", line),
        ("/healthz", "200", "ok\n"),
        ("/slow?ms=1", "200", line),
        ("/headers", "200", "Host: test\r\n"),
        ("/nothing", "404", "not found\n"),
    ] {
        let (head, found) = get(&stream, path);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {head}"
        );
        assert_eq!(found, body, "{path}");
    }
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"ping", ("127.0.0.1", server.port)).unwrap();
    let mut answer = [0; 200];
    let length = udp.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], format!("{line}ping").as_bytes());
}

#[test]
fn exit_ends_with_the_code_after_the_answer() {
    let mut server = Server::start();
    assert_eq!(get(&server.connect(), "/exit?code=3").1, "bye\n");
    assert_eq!(server.child.wait().unwrap().code(), Some(3));
}

#[test]
fn many_connections_stay_open() {
    let server = Server::start();
    let streams: Vec<TcpStream> = (0..400).map(|_| server.connect()).collect();
    for _ in 0..2 {
        for stream in &streams {
            assert_eq!(get(stream, "/healthz").1, "ok\n");
        }
    }
}

#[test]
fn termination_loses_no_request() {
    let mut server = Server::start();
    let slow = server.connect();
    let idle = server.connect();
    assert_eq!(get(&idle, "/healthz").1, "ok\n");
    let waiting = thread::spawn(move || get(&slow, "/slow?ms=1000"));
    // The request is on its way before the signal is.
    thread::sleep(Duration::from_millis(200));
    server.terminate();
    thread::sleep(Duration::from_millis(50));
    let (head, body) = get(&server.connect(), "/");
    assert!(
        head.contains("Connection: close"),
        "still accepts, but for one answer: {head}"
    );
    assert!(body.starts_with("pod=web-1"));
    assert!(waiting.join().unwrap().1.starts_with("pod=web-1"));
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!(
        (&idle).read(&mut [0; 1]).unwrap(),
        0,
        "an idle connection is closed"
    );
}
