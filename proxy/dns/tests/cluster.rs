//! The cluster's names over real sockets, and what nobody should send.
#![allow(missing_docs)]

mod support;

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use keelson_dns::Config;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};
use serde_json::json;
use support::{Server, code, question, question_of_size, records};
use tokio::io::AsyncWriteExt;

async fn server() -> Server {
    let server = Server::start(Config::default()).await;
    server.service(
        "web",
        json!({"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}]}),
    );
    server
}

const WEB: &str = "web.ns.svc.cluster.local.";

#[tokio::test]
async fn nothing_is_said_of_the_zone_before_it_is_complete() {
    let server = Server::start_empty(Config::default()).await;
    server.service("web", json!({"clusterIP": "10.43.0.9"}));
    for name in [WEB, "none.ns.svc.cluster.local."] {
        assert_eq!(
            code(&server.ask(name, RecordType::A).await),
            ResponseCode::ServFail,
            "{name}"
        );
    }
    server.handle.set_complete();
    assert_eq!(
        records(&server.ask(WEB, RecordType::A).await),
        [format!("{WEB} 5 IN A 10.43.0.9")]
    );
    assert_eq!(
        code(
            &server
                .ask("none.ns.svc.cluster.local.", RecordType::A)
                .await
        ),
        ResponseCode::NXDomain
    );
    assert!(server.handle.remove_service("ns", "web"));
    assert_eq!(
        code(&server.ask(WEB, RecordType::A).await),
        ResponseCode::NXDomain
    );
    server.stop().await;
}

#[tokio::test]
async fn several_questions_on_one_connection() {
    let server = server().await;
    let mut connection = server.connect().await;
    let questions = [
        question(WEB, RecordType::A),
        question("wEb.ns.svc.cluster.local.", RecordType::AAAA),
    ];
    for question in &questions {
        connection.send(&question.to_vec().expect("question")).await;
    }
    for question in &questions {
        let answer = connection.receive().await.expect("answer");
        assert_eq!(
            (answer.metadata.id, &answer.queries),
            (question.metadata.id, &question.queries)
        );
    }
    drop(connection);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_comes_over_a_connection() {
    let server = server().await;
    server.service("many", json!({"clusterIP": "None"}));
    let addresses: Vec<_> = (0..200).map(|i| format!("10.42.0.{i}")).collect();
    server.slice("many", &addresses);
    let many = "many.ns.svc.cluster.local.";
    for (size, fit) in [
        (None, 29),
        (Some(400), 28),
        (Some(1232), 73),
        (Some(65_000), 73),
    ] {
        let question = size.map_or_else(
            || question(many, RecordType::A),
            |s| question_of_size(many, RecordType::A, s),
        );
        let answer = server.send(&question).await;
        assert!(answer.metadata.truncation, "{size:?}");
        assert_eq!(
            (answer.answers.len(), answer.edns.is_some()),
            (fit, size.is_some()),
            "{size:?}"
        );
    }
    let mut connection = server.connect().await;
    connection
        .send(&question(many, RecordType::A).to_vec().expect("question"))
        .await;
    let answer = connection.receive().await.expect("answer");
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 200);
    let mut firsts = Vec::new();
    for _ in 0..3 {
        firsts.push(server.ask(many, RecordType::A).await.answers[0].to_string());
    }
    firsts.sort();
    firsts.dedup();
    assert_eq!(firsts.len(), 3, "another one first each time");
    server.stop().await;
}

#[tokio::test]
async fn a_later_edns_is_refused_as_such() {
    let server = server().await;
    let mut question = question_of_size(WEB, RecordType::A, 1232);
    question.edns.as_mut().expect("edns").set_version(1);
    let answer = server.send(&question).await;
    // Code 16, which hickory calls by its other name.
    assert_eq!((u16::from(code(&answer)), answer.answers.len()), (16, 0));
    assert_eq!(answer.edns.expect("edns").version(), 0);
    server.stop().await;
}

#[tokio::test]
async fn hostile_datagrams_change_nothing() {
    let server = server().await;
    let good = question(WEB, RecordType::A).to_vec().expect("question");
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("socket");
    socket.connect(server.address).await.expect("connect");
    let mut hostile = vec![
        Vec::new(),
        vec![0xff; 3],
        vec![0; 12],
        vec![0xff; 4096],
        vec![0xc0; 600],
    ];
    for cut in 0..good.len() {
        hostile.push(good[..cut].to_vec());
        let mut looped = good.clone();
        // A pointer to itself, where the name begins or in the middle of it.
        looped[cut.max(12)] = 0xc0;
        hostile.push(looped);
    }
    let mut answer = good.clone();
    answer[2] |= 0x80;
    hostile.push(answer);
    for bytes in &hostile {
        socket.send(bytes).await.expect("send");
    }
    for _ in 0..3 {
        assert_eq!(server.ask(WEB, RecordType::A).await.answers.len(), 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_forged_sender_takes_no_answer_from_others() {
    let server = server().await;
    let wire = question(WEB, RecordType::A).to_vec().expect("question");
    // From port 0, to which nothing can be sent. The kernel adds the IP header and this test the UDP one.
    let raw = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::UDP))
        .expect("raw socket");
    let header = [
        0,
        server.address.port(),
        u16::try_from(8 + wire.len()).expect("length"),
        0,
    ];
    let header: Vec<u8> = header.iter().flat_map(|w| w.to_be_bytes()).collect();
    let others: Vec<_> = (0..10)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("socket"))
        .collect();
    // Without a pause in which the server, which is on this thread, could read them one by one.
    for other in &others {
        rustix::net::sendto(
            &raw,
            &[&header[..], &wire].concat(),
            SendFlags::empty(),
            &server.address,
        )
        .expect("send");
        other.send_to(&wire, server.address).expect("send");
    }
    for other in others {
        other.set_nonblocking(true).expect("socket");
        let other = tokio::net::UdpSocket::from_std(other).expect("socket");
        let answered =
            tokio::time::timeout(Duration::from_secs(10), other.recv(&mut [0; 512])).await;
        assert!(answered.expect("an answer").expect("received") > wire.len());
    }
    server.stop().await;
}

#[tokio::test]
async fn hostile_connections_are_ended_and_bounded() {
    let server = Server::start(Config {
        connections: 8,
        ..Config::default()
    })
    .await;
    server.service("web", json!({"clusterIP": "10.43.0.9"}));
    let endings: [&[u8]; 4] = [
        &[0, 0],
        &[0xff, 0xff, 1],
        &[0, 3, 1, 2, 3],
        &[0x10, 0x01, 0],
    ];
    for bytes in endings {
        let mut connection = server.connect().await;
        connection.0.write_all(bytes).await.expect("write");
        assert!(connection.receive().await.is_none(), "{bytes:?}");
    }
    let mut long = server.connect().await;
    let wire = question(WEB, RecordType::A).to_vec().expect("question");
    long.send(&[wire, vec![0; 5000]].concat()).await;
    assert!(long.receive().await.is_none(), "longer than any question");
    let mut garbage = server.connect().await;
    garbage.send(&[0x12; 40]).await;
    let answer = garbage
        .receive()
        .await
        .expect("a message of nonsense gets an answer");
    assert_eq!(code(&answer), ResponseCode::NotImp);
    let mut second = server.connect().await;
    second
        .send(&question(WEB, RecordType::A).to_vec().expect("question"))
        .await;
    assert!(second.receive().await.is_some());
    let mut third = server.connect().await;
    assert!(third.is_refused(WEB).await, "one asker's share is two");
    let mut others = Vec::new();
    for last in 2..=4 {
        for _ in 0..2 {
            others.push(server.connect_from([127, 0, 0, last]).await);
        }
    }
    for other in &mut others {
        other
            .send(&question(WEB, RecordType::A).to_vec().expect("question"))
            .await;
        assert!(other.receive().await.is_some(), "others have theirs");
    }
    let mut ninth = server.connect_from([127, 0, 0, 5]).await;
    assert!(ninth.is_refused(WEB).await, "there are eight in all");
    drop(others);
    drop(garbage);
    // The room that it leaves is there as soon as its end is seen.
    let mut fourth;
    loop {
        fourth = server.connect().await;
        let _ = fourth.0.write_all(&[0]).await;
        let question = question(WEB, RecordType::A).to_vec().expect("question");
        let rest = [
            &[u8::try_from(question.len()).expect("short")],
            &question[..],
        ]
        .concat();
        if fourth.0.write_all(&rest).await.is_ok() && fourth.receive().await.is_some() {
            break;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn an_address_may_come_later_and_sockets_may_be_several() {
    // 192.0.2.0/24 is for documentation: no machine has it.
    let later = Server::start(Config {
        listen: vec!["192.0.2.77:0".parse().expect("address")],
        ..Config::default()
    })
    .await;
    assert_eq!(later.address.ip().to_string(), "192.0.2.77");
    later.stop().await;
    let server = Server::start(Config {
        sockets: 3,
        ..Config::default()
    })
    .await;
    server.service("web", json!({"clusterIP": "10.43.0.9"}));
    for _ in 0..20 {
        assert_eq!(server.ask(WEB, RecordType::A).await.answers.len(), 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn both_families_are_served() {
    let listen = vec![
        ([127, 0, 0, 1], 0).into(),
        "[::1]:0".parse().expect("address"),
    ];
    let mut server = Server::start(Config {
        listen,
        ..Config::default()
    })
    .await;
    server.service("web", json!({"clusterIPs": ["10.43.0.9", "fd43::9"]}));
    for _ in 0..2 {
        let answer = server.ask(WEB, RecordType::AAAA).await;
        assert_eq!(records(&answer), [format!("{WEB} 5 IN AAAA fd43::9")]);
        let mut connection = server.connect().await;
        connection
            .send(&question(WEB, RecordType::A).to_vec().expect("question"))
            .await;
        assert_eq!(connection.receive().await.expect("answer").answers.len(), 1);
        let own = server.ask("ns.dns.cluster.local.", RecordType::AAAA).await;
        assert_eq!(records(&own), ["ns.dns.cluster.local. 5 IN AAAA ::1"]);
        server.address = server.addresses[1];
    }
    server.stop().await;
}

#[tokio::test]
async fn figures_are_counted() {
    let server = server().await;
    for _ in 0..3 {
        server.ask(WEB, RecordType::A).await;
    }
    server
        .ask("none.ns.svc.cluster.local.", RecordType::AAAA)
        .await;
    let mut connection = server.connect().await;
    connection
        .send(&question(WEB, RecordType::SRV).to_vec().expect("question"))
        .await;
    connection.receive().await.expect("answer");
    // The last of them is counted when its answer is on the way.
    connection
        .send(&question(WEB, RecordType::MX).to_vec().expect("question"))
        .await;
    connection.receive().await.expect("answer");
    let address = server.address;
    let request = |proto: &str, kind: &str| {
        format!(
            "coredns_dns_requests_total{{server=\"dns://{address}\",zone=\".\",proto=\"{proto}\",family=\"1\",type=\"{kind}\"}}"
        )
    };
    assert_eq!(server.figure(&request("udp", "A")).as_deref(), Some("3"));
    assert_eq!(server.figure(&request("udp", "AAAA")).as_deref(), Some("1"));
    assert_eq!(server.figure(&request("tcp", "SRV")).as_deref(), Some("1"));
    let response = |code: &str| {
        format!(
            "coredns_dns_responses_total{{server=\"dns://{address}\",zone=\".\",rcode=\"{code}\",plugin=\"kubernetes\"}}"
        )
    };
    assert_eq!(server.figure(&response("NXDOMAIN")).as_deref(), Some("1"));
    let count = format!(
        "coredns_dns_request_duration_seconds_count{{server=\"dns://{address}\",zone=\".\"}}"
    );
    assert!(server.figure(&count).is_some());
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_somebody_else_has_is_taken_when_it_is_free() {
    let other = tokio::net::UdpSocket::bind("127.0.0.1:0").await;
    let other = other.expect("a socket");
    let address = other.local_addr().expect("an address");
    let dns = || {
        keelson_dns::Dns::new(keelson_dns::Config {
            listen: vec![address],
            ..keelson_dns::Config::default()
        })
    };
    let refused = dns().expect("a configuration").bind();
    assert!(refused.is_err(), "it has an owner");
    let waiting = tokio::spawn(dns().expect("a configuration").bind_when_free());
    tokio::task::yield_now().await;
    drop(other);
    let bound = waiting.await.expect("bound");
    assert_eq!(bound.addresses(), [address]);
}
