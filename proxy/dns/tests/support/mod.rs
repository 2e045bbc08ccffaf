//! A server on loopback, questions to it, and a name server for it to ask that behaves as a test wants.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use keelson_dns::{Bound, Config, Dns, Handle};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(15);

/// A running server.
pub(crate) struct Server {
    /// The one that is asked.
    pub(crate) address: SocketAddr,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) handle: Handle,
    pub(crate) registry: Registry,
    running: Option<tokio::task::JoinHandle<()>>,
    shutdown: DropGuard,
}

impl Server {
    /// On a free port of 127.0.0.1, its zone complete.
    pub(crate) async fn start(config: Config) -> Self {
        let server = Self::start_empty(config).await;
        server.handle.set_complete();
        server
    }

    /// The same without anything known.
    pub(crate) async fn start_empty(mut config: Config) -> Self {
        if config.listen.is_empty() {
            config.listen = vec![([127, 0, 0, 1], 0).into()];
        }
        let dns = Dns::new(config).expect("configuration");
        let (handle, mut registry) = (dns.handle(), Registry::default());
        dns.register(&mut registry);
        let bound: Bound = dns.bind().expect("sockets");
        let addresses = bound.addresses();
        let token = CancellationToken::new();
        let shutdown = token.clone().drop_guard();
        let running = Some(tokio::spawn(async move {
            bound.run(token).await.expect("server")
        }));
        Self {
            address: addresses[0],
            addresses,
            handle,
            registry,
            running,
            shutdown,
        }
    }

    /// Ends it and waits for that.
    pub(crate) async fn stop(mut self) {
        let running = self.running.take();
        drop(self.shutdown);
        if let Some(running) = running {
            tokio::time::timeout(PATIENCE, running)
                .await
                .expect("ends")
                .expect("without a panic");
        }
    }

    /// Adds a Service of namespace `ns`.
    pub(crate) fn service(&self, name: &str, spec: Value) {
        let value = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
        assert!(
            self.handle
                .set_service(&serde_json::from_value(value).expect("service"))
        );
    }

    /// Adds a slice with these addresses.
    pub(crate) fn slice(&self, of: &str, addresses: &[String]) {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|a| json!({"addresses": [a]}))
            .collect();
        let value = json!({"metadata": {"namespace": "ns", "name": format!("{of}-1"), "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": endpoints});
        assert!(
            self.handle
                .set_slice(&serde_json::from_value(value).expect("slice"))
        );
    }

    /// Asks over UDP.
    pub(crate) async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind)).await
    }

    /// Asks over UDP with any message.
    pub(crate) async fn send(&self, question: &Message) -> Message {
        let answer = self
            .raw(&question.to_vec().expect("question"))
            .await
            .expect("an answer");
        let answer = Message::from_vec(&answer).expect("a message");
        assert_eq!(answer.metadata.id, question.metadata.id);
        assert_eq!(answer.queries, question.queries, "with all capitals");
        answer
    }

    /// Sends any bytes and gives what comes back, if anything does.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let any = if self.address.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let socket = UdpSocket::bind(any).await.expect("socket");
        socket.connect(self.address).await.expect("connect");
        socket.send(bytes).await.expect("send");
        let mut buffer = vec![0; 65_535];
        let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer))
            .await
            .ok()?
            .ok()?;
        buffer.truncate(len);
        Some(buffer)
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Connection {
        Connection(TcpStream::connect(self.address).await.expect("connection"))
    }

    /// A connection to it from an address of this machine.
    pub(crate) async fn connect_from(&self, from: [u8; 4]) -> Connection {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.bind((from, 0).into()).expect("address");
        Connection(socket.connect(self.address).await.expect("connection"))
    }

    /// A figure as Prometheus reads it.
    pub(crate) fn figure(&self, line: &str) -> Option<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text.lines()
            .find_map(|l| l.strip_prefix(line))
            .map(|l| l.trim().to_owned())
    }
}

/// A connection on which questions are asked.
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    /// Sends bytes with their length in front.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).expect("length");
        self.0
            .write_all(&[&len.to_be_bytes(), bytes].concat())
            .await
            .expect("write");
    }

    /// A question gets no answer, and an end of the connection.
    pub(crate) async fn is_refused(&mut self, name: &str) -> bool {
        self.send(&question(name, RecordType::A).to_vec().expect("question"))
            .await;
        self.receive().await.is_none()
    }

    /// The next answer; `None` when the other side ends the connection.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        let read = async {
            let len = self.0.read_u16().await.ok()?;
            let mut buffer = vec![0; usize::from(len)];
            self.0.read_exact(&mut buffer).await.ok()?;
            Some(buffer)
        };
        let buffer = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("in time")?;
        Some(Message::from_vec(&buffer).expect("a message"))
    }
}

/// A question with a random identifier.
pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
    message
}

/// A question whose asker takes answers of this size.
pub(crate) fn question_of_size(name: &str, kind: RecordType, size: u16) -> Message {
    let mut message = question(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

/// An answer's records as text.
pub(crate) fn records(message: &Message) -> Vec<String> {
    message.answers.iter().map(Record::to_string).collect()
}

/// Code of an answer.
pub(crate) fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// How a name server behaves.
pub(crate) enum Reply {
    Say(Message),
    /// Any number of datagrams, whatever they are. Over TCP only the first.
    Raw(Vec<Vec<u8>>),
    Nothing,
}

type Behaviour = dyn Fn(&Message, bool) -> Reply + Send + Sync;

/// A name server. What it was asked is remembered: name and type, and `tcp` where it was.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    behaviour: Arc<Mutex<Arc<Behaviour>>>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Upstream {
    /// On a free port, or on one that is given. `true` for questions over TCP.
    pub(crate) async fn start(
        address: SocketAddr,
        behaviour: impl Fn(&Message, bool) -> Reply + Send + Sync + 'static,
    ) -> Self {
        // A port that is free for one may not be for the other.
        let (listener, socket) = loop {
            let listener = TcpListener::bind(address).await.expect("listener");
            match UdpSocket::bind(listener.local_addr().expect("address")).await {
                Ok(socket) => break (listener, socket),
                Err(error) => assert_eq!(address.port(), 0, "{error}"),
            }
        };
        let address = listener.local_addr().expect("address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let behaviour: Arc<Mutex<Arc<Behaviour>>> = Arc::new(Mutex::new(Arc::new(behaviour)));
        let (a, b) = (asked.clone(), behaviour.clone());
        let reply = move |bytes: &[u8], tcp: bool| {
            let question = Message::from_vec(bytes).expect("a question");
            let query = &question.queries[0];
            let suffix = if tcp { " tcp" } else { "" };
            a.lock()
                .expect("lock")
                .push(format!("{} {}{suffix}", query.name, query.query_type));
            let behaviour = b.lock().expect("lock").clone();
            match behaviour(&question, tcp) {
                Reply::Say(message) => vec![message.to_vec().expect("answer")],
                Reply::Raw(all) => all,
                Reply::Nothing => Vec::new(),
            }
        };
        let over_tcp = reply.clone();
        let tcp = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut connection = Connection(stream);
                let len = connection.0.read_u16().await.expect("length");
                let mut buffer = vec![0; usize::from(len)];
                connection
                    .0
                    .read_exact(&mut buffer)
                    .await
                    .expect("question");
                for answer in over_tcp(&buffer, true).iter().take(1) {
                    connection.send(answer).await;
                }
            }
        });
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                for answer in reply(&buffer[..len], false) {
                    socket.send_to(&answer, from).await.expect("send");
                }
            }
        });
        Self {
            address,
            asked,
            behaviour,
            tasks: [tcp, udp],
        }
    }

    /// On a free port.
    pub(crate) async fn on_loopback(
        behaviour: impl Fn(&Message, bool) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(([127, 0, 0, 1], 0).into(), behaviour).await
    }

    /// Behaves otherwise from now on.
    pub(crate) fn set(&self, behaviour: impl Fn(&Message, bool) -> Reply + Send + Sync + 'static) {
        *self.behaviour.lock().expect("lock") = Arc::new(behaviour);
    }

    /// What it was asked until now.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("lock").clone()
    }
}

/// An answer with addresses.
pub(crate) fn answer(question: &Message, ttl: u32, addresses: &[[u8; 4]]) -> Message {
    let mut message = empty(question, ResponseCode::NoError);
    let name = &question.queries[0].name;
    message.add_answers(
        addresses
            .iter()
            .map(|a| Record::from_rdata(name.clone(), ttl, RData::A(A((*a).into())))),
    );
    message
}

/// An answer without records.
pub(crate) fn empty(question: &Message, code: ResponseCode) -> Message {
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_queries(question.queries.clone());
    message
}

/// An answer that says for how long there is nothing.
pub(crate) fn nothing(question: &Message, code: ResponseCode) -> Message {
    let mut message = empty(question, code);
    let name = |text: &str| Name::from_ascii(text).expect("name");
    let soa = SOA::new(name("ns.test."), name("admin.test."), 1, 2, 3, 4, 60);
    message.add_authority(Record::from_rdata(name("test."), 300, RData::SOA(soa)));
    message
}

/// A configuration that asks these servers.
pub(crate) fn asking(upstreams: &[&Upstream]) -> Config {
    Config {
        upstreams: upstreams.iter().map(|u| u.address).collect(),
        ..Config::default()
    }
}
