//! exec and port forwarding for clients that speak SPDY.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt, TryStreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use keelson_agent_io::endpoint::TerminalSize;
use keelson_agent_io::endpoint::spdy::{Decoder, Encoder, Frame, INITIAL_WINDOW, Setting};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::server::{Server, network};

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A client's side of a connection.
struct Client {
    io: Box<dyn Io>,
    encoder: Encoder,
    decoder: Decoder,
    read: BytesMut,
    next: u32,
    /// What came, by stream.
    data: HashMap<u32, Vec<u8>>,
    ended: Vec<u32>,
    reset: Vec<u32>,
    /// What may be sent, by stream; 0 is the connection.
    windows: HashMap<u32, u32>,
}

impl Client {
    fn new(io: impl Io + 'static) -> Self {
        Self {
            io: Box::new(io),
            encoder: Encoder::new().unwrap(),
            decoder: Decoder::default(),
            read: BytesMut::new(),
            next: 1,
            data: HashMap::new(),
            ended: Vec::new(),
            reset: Vec::new(),
            windows: HashMap::from([(0, INITIAL_WINDOW)]),
        }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes).unwrap();
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    async fn data(&mut self, id: u32, data: &[u8], fin: bool) {
        let data = Bytes::copy_from_slice(data);
        self.send(Frame::Data { id, fin, data }).await;
    }

    /// Opens a stream; the answer is read later.
    async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        self.windows.insert(id, INITIAL_WINDOW);
        let headers = headers.iter().copied().collect();
        let (associated, priority) = (0, 0);
        self.send(Frame::SynStream {
            id,
            associated,
            priority,
            fin: false,
            unidirectional: false,
            headers,
        })
        .await;
        id
    }

    /// Reads a frame and keeps its data; `None` at the connection's end.
    async fn step(&mut self) -> Option<Frame> {
        let frame = loop {
            if let Some(frame) = self.decoder.decode(&mut self.read).unwrap() {
                break frame;
            }
            if self.io.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        };
        match &frame {
            Frame::Data { id, fin, data } => {
                self.data.entry(*id).or_default().extend_from_slice(data);
                self.ended.extend(fin.then_some(*id));
            }
            Frame::RstStream { id, .. } => self.reset.push(*id),
            Frame::WindowUpdate { id, delta } => *self.windows.get_mut(id).unwrap() += delta,
            _ => {}
        }
        Some(frame)
    }

    /// Reads until all these streams have ended.
    async fn until_ended(&mut self, streams: &[u32]) {
        while !streams.iter().all(|id| self.ended.contains(id)) {
            self.step().await.expect("the connection stays");
        }
    }

    fn text(&self, id: u32) -> String {
        let data = self.data.get(&id).cloned().unwrap_or_default();
        String::from_utf8(data).unwrap()
    }
}

async fn upgrade(
    server: &Server,
    method: &str,
    path: &str,
    protocols: &[&str],
) -> Response<hyper::body::Incoming> {
    let stream = TokioIo::new(server.connect(Some("admin")).await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    request = request
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1");
    for protocol in protocols {
        request = request.header("x-stream-protocol-version", *protocol);
    }
    sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap()
}

async fn spdy(
    server: &Server,
    method: &str,
    path: &str,
    protocols: &[&str],
    want: Option<&str>,
) -> Client {
    let response = upgrade(server, method, path, protocols).await;
    assert_eq!(response.status(), 101);
    let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap());
    assert_eq!(
        (header("connection"), header("upgrade")),
        (Some("Upgrade"), Some("SPDY/3.1"))
    );
    assert_eq!(header("x-stream-protocol-version"), want);
    Client::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap()))
}

const V4: [&str; 2] = ["v4.channel.k8s.io", "v3.channel.k8s.io"];

async fn exec(server: &Server, query: &str) -> Client {
    spdy(
        server,
        "POST",
        &format!("/exec/ns/p/c?{query}"),
        &V4,
        Some(V4[0]),
    )
    .await
}

#[tokio::test]
async fn exec_tells_output_and_exit_code() {
    let server = Server::start().await;
    let script = "cat;%20echo%20err%20%3E%262;%20exit%203";
    let query = format!("command=sh&command=-c&command={script}&input=1&output=1&error=1");
    let mut client = exec(&server, &query).await;
    let mut streams = Vec::new();
    for kind in ["error", "stdin", "stdout", "stderr"] {
        streams.push(client.open(&[("streamType", kind)]).await);
    }
    let [error, stdin, stdout, stderr] = streams[..] else {
        unreachable!()
    };
    client.data(stdin, b"hello", true).await;
    client.send(Frame::Ping { id: 9 }).await;
    while client.step().await != Some(Frame::Ping { id: 9 }) {}
    client.until_ended(&[error, stdin, stdout, stderr]).await;
    assert_eq!(
        (client.text(stdout), client.text(stderr)),
        ("hello".into(), "err\n".into())
    );
    let status: Value = serde_json::from_str(&client.text(error)).unwrap();
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "ExitCode", "message": "3"}])
    );
}

/// A client that keeps to windows is never sent more than it granted, and is granted what it needs.
#[tokio::test]
async fn windows_hold_output_back() {
    const WINDOW: u32 = 5000;
    const TOTAL: usize = 3 << 20;
    let server = Server::start().await;
    let mut client = exec(&server, "command=cat&input=1&output=1").await;
    let settings = vec![Setting {
        flags: 0,
        id: Setting::INITIAL_WINDOW,
        value: WINDOW,
    }];
    client
        .send(Frame::Settings {
            clear: false,
            settings,
        })
        .await;
    client
        .send(Frame::WindowUpdate {
            id: 0,
            delta: 1 << 30,
        })
        .await;
    let error = client.open(&[("streamType", "error")]).await;
    let stdin = client.open(&[("streamType", "stdin")]).await;
    let stdout = client.open(&[("streamType", "stdout")]).await;
    let input: Vec<u8> = (0..TOTAL).map(|n| (n / 7) as u8).collect();
    let (mut sent, mut granted) = (0, WINDOW as usize);
    while !client.ended.contains(&error) {
        let room = client.windows[&stdin].min(client.windows[&0]) as usize;
        let piece = &input[sent..TOTAL.min(sent + room)];
        if !piece.is_empty() {
            sent += piece.len();
            for id in [0, stdin] {
                *client.windows.get_mut(&id).unwrap() -= piece.len() as u32;
            }
            client.data(stdin, piece, sent == TOTAL).await;
        }
        client.step().await.expect("the connection stays");
        let got = client.data.get(&stdout).map_or(0, Vec::len);
        assert!(got <= granted, "{got} bytes where {granted} were granted");
        if got == granted {
            granted += WINDOW as usize;
            client
                .send(Frame::WindowUpdate {
                    id: stdout,
                    delta: WINDOW,
                })
                .await;
        }
    }
    assert!(client.data[&stdout] == input, "every byte");
}

/// Go's clients know no windows: they send what they have, and read what comes.
#[tokio::test]
async fn clients_without_windows_are_served() {
    const TOTAL: usize = 3 << 20;
    let server = Server::start().await;
    let mut client = exec(&server, "command=wc&command=-c&input=1&output=1").await;
    let error = client.open(&[("streamType", "error")]).await;
    let stdin = client.open(&[("streamType", "stdin")]).await;
    let stdout = client.open(&[("streamType", "stdout")]).await;
    client.data(stdin, &vec![0; TOTAL], true).await;
    client.until_ended(&[error, stdout]).await;
    assert_eq!(client.text(stdout).trim(), TOTAL.to_string());
    let mut client = exec(
        &server,
        "command=head&command=-c3145728&command=/dev/zero&output=1",
    )
    .await;
    let error = client.open(&[("streamType", "error")]).await;
    let stdout = client.open(&[("streamType", "stdout")]).await;
    client.until_ended(&[error, stdout]).await;
    assert_eq!(client.data[&stdout].len(), TOTAL);
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let server = Server::start().await;
    let mut client = exec(&server, "command=cat&input=1&output=1&error=1&tty=1").await;
    let mut streams = Vec::new();
    for kind in ["error", "stdin", "stdout", "resize", "stderr", "other"] {
        streams.push(client.open(&[("streamType", kind)]).await);
    }
    let [error, stdin, _, resize, stderr, other] = streams[..] else {
        unreachable!()
    };
    client
        .data(resize, b"{\"Width\":80,\"Height\":24}\n{\"Width\":1", false)
        .await;
    client.data(resize, b"32,\"Height\":50}\n", false).await;
    let size = |width, height| TerminalSize { width, height };
    while *server.machine.sizes.lock().unwrap() != [size(80, 24), size(132, 50)] {
        tokio::task::yield_now().await;
    }
    client.data(stdin, b"", true).await;
    client.until_ended(&[error]).await;
    assert_eq!(client.reset, [stderr, other], "a terminal has one output");
}

#[tokio::test]
async fn older_protocols_tell_texts_and_unknown_ones_are_refused() {
    let server = Server::start().await;
    let path = "/exec/ns/p/c?command=false&output=1";
    let names: [(&[&str], Option<&str>); 3] = [
        (&["v9", "v2.channel.k8s.io"], Some("v2.channel.k8s.io")),
        (&["channel.k8s.io"], Some("channel.k8s.io")),
        (&[], None),
    ];
    for (protocols, want) in names {
        let mut client = spdy(&server, "GET", path, protocols, want).await;
        let error = client.open(&[("streamtype", "error")]).await;
        client.open(&[("streamtype", "stdout")]).await;
        client.until_ended(&[error]).await;
        assert_eq!(
            client.text(error),
            "command terminated with non-zero exit code: exit code 1"
        );
    }
    let response = upgrade(&server, "POST", path, &["v8", "v9"]).await;
    assert_eq!(response.status(), 403);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&body).unwrap();
    let message = "unable to upgrade: unable to negotiate protocol: client supports [v8 v9], server accepts \
                   [v4.channel.k8s.io v3.channel.k8s.io v2.channel.k8s.io channel.k8s.io]";
    assert_eq!(status["message"], message);
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    let server = Server::start().await;
    let nonsense: [&[u8]; 3] = [
        &[0x80, 2, 0, 1, 0, 0, 0, 0],
        &[0x80, 3, 0, 1, 0, 255, 255, 255],
        &[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0],
    ];
    for bytes in nonsense {
        let mut client = exec(&server, "command=cat&input=1&output=1").await;
        client.io.write_all(bytes).await.unwrap();
        client.io.flush().await.unwrap();
        while client.step().await.is_some() {}
        assert!(client.data.is_empty());
    }
    assert!(server.machine.running.load(Ordering::SeqCst));
}

const FORWARD: &str = "portforward.k8s.io";

/// Answers each connection with what it sent, once it has sent all; returns what it got.
fn answer(listener: std::net::TcpListener, connections: usize) -> Vec<Vec<u8>> {
    let all = listener.incoming().take(connections).map(|connection| {
        let (mut connection, mut got) = (connection.unwrap(), Vec::new());
        connection.read_to_end(&mut got).unwrap();
        connection.write_all(&got).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        got
    });
    all.collect()
}

async fn pair(client: &mut Client, port: &str, request: &str) -> (u32, u32) {
    let headers = |kind| [("streamType", kind), ("port", port), ("requestID", request)];
    let error = client.open(&headers("error")).await;
    client.data(error, b"", true).await;
    (client.open(&headers("data")).await, error)
}

/// What kubectl does: a pair of streams for each connection, one after the other and side by side.
async fn forwards(mut client: Client, pod: std::thread::JoinHandle<Vec<Vec<u8>>>) {
    const TOTAL: usize = 1 << 20;
    let (first, first_error) = pair(&mut client, "8080", "0").await;
    let (second, second_error) = pair(&mut client, "8080", "1").await;
    // The pod reads the second only after the first: neither may hold up the other's frames.
    client.data(second, b"second", true).await;
    let large: Vec<u8> = (0..TOTAL).map(|n| (n / 3) as u8).collect();
    client.data(first, &large, true).await;
    client
        .until_ended(&[first, first_error, second, second_error])
        .await;
    assert_eq!(
        (client.text(first_error), client.text(second_error)),
        (String::new(), String::new())
    );
    assert_eq!(pod.join().unwrap().concat().len(), TOTAL + "second".len());
    assert!(
        client.data[&first] == large && client.data[&second] == b"second",
        "half closed, and answered"
    );
    let wrong = client.open(&[("streamType", "data"), ("port", "0")]).await;
    while !client.reset.contains(&wrong) {
        client.step().await.unwrap();
    }
}

#[tokio::test]
async fn ports_are_forwarded_in_the_pods_network() {
    let server = Server::start().await;
    let pod = network(&server, 8080, |listener| answer(listener, 2));
    let client = spdy(
        &server,
        "POST",
        "/portForward/ns/p",
        &[FORWARD],
        Some(FORWARD),
    )
    .await;
    forwards(client, pod).await;
}

#[tokio::test]
async fn ports_are_forwarded_through_a_websocket() {
    let server = Server::start().await;
    let pod = network(&server, 8080, |listener| answer(listener, 2));
    let socket = server
        .websocket("/portForward/ns/p", "SPDY/3.1+portforward.k8s.io")
        .await;
    let (sink, stream) = socket.split();
    let bytes = stream.try_filter_map(|message| async {
        Ok(match message {
            Message::Binary(bytes) => Some(bytes),
            _ => None,
        })
    });
    let sink = sink.sink_map_err(std::io::Error::other);
    let sink = sink
        .with(|bytes: Bytes| std::future::ready(Ok::<_, std::io::Error>(Message::binary(bytes))));
    let read = StreamReader::new(Box::pin(bytes.map_err(std::io::Error::other)));
    let io = tokio::io::join(read, SinkWriter::new(CopyToBytes::new(sink)));
    forwards(Client::new(io), pod).await;
}

#[tokio::test]
async fn a_port_that_refuses_is_told_on_the_error_stream() {
    let server = Server::start().await;
    let pod = network(&server, 8080, |listener| answer(listener, 1));
    let mut client = spdy(
        &server,
        "POST",
        "/portForward/ns/p/uid",
        &[FORWARD],
        Some(FORWARD),
    )
    .await;
    let (data, error) = pair(&mut client, "81", "0").await;
    client.until_ended(&[data, error]).await;
    let message = client.text(error);
    let start = "error forwarding port 81 to pod p, uid uid: failed to connect to localhost:81 inside namespace ";
    assert!(
        message.starts_with(start) && message.contains("refused"),
        "{message}"
    );
    // The connection goes on.
    let (data, error) = pair(&mut client, "8080", "1").await;
    client.data(data, b"on", true).await;
    client.until_ended(&[data, error]).await;
    assert_eq!(
        (client.text(data), client.text(error)),
        ("on".into(), String::new())
    );
    pod.join().unwrap();
}

/// A client that takes a connection back by resetting its stream must not leave the pod with it.
#[tokio::test]
async fn a_reset_closes_the_pods_connection() {
    let server = Server::start().await;
    let pod = network(&server, 8080, |listener| {
        let (mut connection, mut got) = (listener.accept().unwrap().0, Vec::new());
        connection.write_all(b"hello").unwrap();
        _ = connection.read_to_end(&mut got);
        // Until the other side is gone for good.
        while connection.write_all(&[0; 4096]).is_ok() {}
        got
    });
    let mut client = spdy(
        &server,
        "POST",
        "/portForward/ns/p",
        &[FORWARD],
        Some(FORWARD),
    )
    .await;
    let (data, error) = pair(&mut client, "8080", "0").await;
    client.data(data, b"x", false).await;
    while client.data.get(&data).is_none_or(|d| d.len() < 5) {
        client.step().await.unwrap();
    }
    client
        .send(Frame::RstStream {
            id: data,
            status: 5,
        })
        .await;
    client.until_ended(&[error]).await;
    assert_eq!(
        (pod.join().unwrap(), client.text(error)),
        (b"x".to_vec(), String::new())
    );
}
