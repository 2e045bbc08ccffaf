//! Names that are not the cluster's: name servers that behave and such that do not, memory, and the time after its end.
#![allow(missing_docs)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use keelson_dns::Config;
use serde_json::json;
use support::{
    Reply, Server, Upstream, answer, asking, code, empty, nothing, question, question_of_size,
    records,
};

const IP: [u8; 4] = [198, 51, 100, 7];

fn good(question: &Message, _: bool) -> Reply {
    Reply::Say(answer(question, 60, &[IP]))
}

#[tokio::test]
async fn answers_are_passed_on_and_remembered() {
    let upstream = Upstream::on_loopback(good).await;
    let server = Server::start(asking(&[&upstream])).await;
    let first = server.ask("Www.Example.org.", RecordType::A).await;
    assert_eq!(records(&first), ["Www.Example.org. 60 IN A 198.51.100.7"]);
    assert!(!first.metadata.authoritative && first.metadata.recursion_available);
    let second = server.ask("www.example.ORG.", RecordType::A).await;
    assert_eq!(
        (second.answers.len(), second.answers[0].name.to_ascii()),
        (1, "www.example.ORG.".to_owned())
    );
    assert_eq!(
        upstream.asked(),
        ["www.example.org. A"],
        "once, and in lower case"
    );
    server.ask("www.example.org.", RecordType::AAAA).await;
    let mut signed = question_of_size("www.example.org.", RecordType::A, 1232);
    signed.edns.as_mut().expect("edns").set_dnssec_ok(true);
    server.send(&signed).await;
    assert_eq!(
        upstream.asked().len(),
        3,
        "another type and signatures are other questions"
    );
    assert_eq!(
        server
            .figure("coredns_cache_hits_total{type=\"success\"}")
            .as_deref(),
        Some("1")
    );
    assert_eq!(
        server.figure("coredns_cache_misses_total").as_deref(),
        Some("3")
    );
    let forwarded = format!(
        "coredns_forward_requests_total{{to=\"{}\"}}",
        upstream.address
    );
    assert_eq!(server.figure(&forwarded).as_deref(), Some("3"));
    server.stop().await;
}

#[tokio::test]
async fn that_there_is_nothing_is_remembered_where_it_says_for_how_long() {
    let upstream =
        Upstream::on_loopback(
            |question, _| match question.queries[0].name.to_ascii().as_str() {
                "gone.test." => Reply::Say(nothing(question, ResponseCode::NXDomain)),
                "none.test." => Reply::Say(nothing(question, ResponseCode::NoError)),
                _ => Reply::Say(empty(question, ResponseCode::NXDomain)),
            },
        )
        .await;
    let server = Server::start(asking(&[&upstream])).await;
    for (name, expected, times) in [
        ("gone.test.", ResponseCode::NXDomain, 1),
        ("none.test.", ResponseCode::NoError, 1),
        ("unsaid.test.", ResponseCode::NXDomain, 2),
    ] {
        let before = upstream.asked().len();
        for _ in 0..2 {
            let answer = server.ask(name, RecordType::A).await;
            assert_eq!(
                (code(&answer), answer.answers.len()),
                (expected, 0),
                "{name}"
            );
            assert!(
                answer
                    .authorities
                    .iter()
                    .all(|r| r.ttl <= 300 && r.record_type() == RecordType::SOA)
            );
        }
        assert_eq!(upstream.asked().len() - before, times, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_cut_is_asked_for_over_a_connection() {
    let many: Vec<_> = (0..100).map(|i| [198, 51, 100, i]).collect();
    let upstream = Upstream::on_loopback(move |question, tcp| {
        let mut message = answer(question, 60, &many);
        if tcp {
            return Reply::Say(message);
        }
        message.metadata.truncation = true;
        let mut wire = message.to_vec().expect("answer");
        // In the middle of a record, as some do.
        wire.truncate(100);
        Reply::Raw(vec![wire])
    })
    .await;
    let server = Server::start(asking(&[&upstream])).await;
    let cut = server.ask("many.example.", RecordType::A).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 100);
    let mut connection = server.connect().await;
    connection
        .send(
            &question("many.example.", RecordType::A)
                .to_vec()
                .expect("question"),
        )
        .await;
    assert_eq!(
        connection.receive().await.expect("answer").answers.len(),
        100
    );
    assert_eq!(upstream.asked(), ["many.example. A", "many.example. A tcp"]);
    let mut firsts = Vec::new();
    for _ in 0..3 {
        firsts.push(server.ask("many.example.", RecordType::A).await.answers[0].to_string());
    }
    firsts.dedup();
    assert_eq!(firsts.len(), 3, "another one first each time");
    server.stop().await;
}

#[tokio::test]
async fn only_the_answer_to_the_question_is_taken() {
    let upstream = Upstream::on_loopback(|question, _| {
        let forged = |change: fn(&mut Message)| {
            let mut message = answer(question, 60, &[[192, 0, 2, 66]]);
            change(&mut message);
            message.to_vec().expect("answer")
        };
        Reply::Raw(vec![
            forged(|m| m.metadata.id = m.metadata.id.wrapping_add(1)),
            forged(|m| m.queries[0].name = Name::from_ascii("other.example.").expect("name")),
            forged(|m| m.queries[0].query_type = RecordType::AAAA),
            forged(|m| m.metadata.message_type = hickory_proto::op::MessageType::Query),
            vec![0xc0; 40],
            Vec::new(),
            answer(question, 60, &[IP]).to_vec().expect("answer"),
        ])
    })
    .await;
    let server = Server::start(asking(&[&upstream])).await;
    assert_eq!(
        records(&server.ask("a.example.", RecordType::A).await),
        ["a.example. 60 IN A 198.51.100.7"]
    );
    server.stop().await;
}

#[tokio::test]
async fn the_next_server_is_asked() {
    let closed: SocketAddr = {
        // Nobody listens where somebody did.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        socket.local_addr().expect("address")
    };
    let silent = Upstream::on_loopback(|_, _| Reply::Nothing).await;
    let broken =
        Upstream::on_loopback(|question, _| Reply::Say(empty(question, ResponseCode::ServFail)))
            .await;
    let upstream = Upstream::on_loopback(good).await;
    for first in [closed, silent.address, broken.address] {
        let config = Config {
            upstreams: vec![first, upstream.address],
            ..Config::default()
        };
        let server = Server::start(config).await;
        assert_eq!(
            server.ask("a.example.", RecordType::A).await.answers.len(),
            1,
            "{first}"
        );
        server.ask("b.example.", RecordType::A).await;
        server.stop().await;
    }
    assert_eq!(
        silent.asked(),
        ["a.example. A"],
        "who did not answer is asked last"
    );
    assert_eq!(broken.asked().len(), 2);
}

#[tokio::test]
async fn when_nobody_answers_that_is_said_and_remembered() {
    let upstream =
        Upstream::on_loopback(|question, _| Reply::Say(empty(question, ResponseCode::Refused)))
            .await;
    let server = Server::start(asking(&[&upstream])).await;
    for _ in 0..3 {
        assert_eq!(
            code(&server.ask("a.example.", RecordType::A).await),
            ResponseCode::ServFail
        );
    }
    assert_eq!(upstream.asked().len(), 1);
    server.stop().await;
    let alone = Server::start(Config {
        resolv_conf: "/nonexistent".into(),
        systemd_resolv_conf: "/nonexistent".into(),
        ..Config::default()
    })
    .await;
    assert_eq!(
        code(&alone.ask("a.example.", RecordType::A).await),
        ResponseCode::ServFail,
        "nobody to ask"
    );
    alone.stop().await;
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let upstream = Upstream::on_loopback(|question, _| match question.edns {
        Some(_) => Reply::Say(empty(question, ResponseCode::FormErr)),
        None => good(question, false),
    })
    .await;
    let server = Server::start(asking(&[&upstream])).await;
    assert_eq!(
        server.ask("a.example.", RecordType::A).await.answers.len(),
        1
    );
    server.stop().await;
}

#[tokio::test]
async fn equal_questions_are_asked_once() {
    let upstream = Upstream::on_loopback(|_, _| Reply::Nothing).await;
    let server = Server::start(asking(&[&upstream])).await;
    let ask = || server.ask("a.example.", RecordType::A);
    // All of them wait when the first datagram goes unanswered; the second try gets its answer.
    let waiting = futures_join(ask(), ask(), ask(), async {
        while upstream.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        upstream.set(good);
    });
    for answer in waiting.await {
        assert_eq!(answer.answers.len(), 1);
    }
    assert_eq!(
        upstream.asked().len(),
        2,
        "one exchange: the try that went unanswered and the next"
    );
    server.stop().await;
}

async fn futures_join<F: Future<Output = Message>>(
    a: F,
    b: F,
    c: F,
    other: impl Future<Output = ()>,
) -> [Message; 3] {
    let (a, b, c, ()) = tokio::join!(a, b, c, other);
    [a, b, c]
}

#[tokio::test]
async fn a_stale_answer_is_better_than_none() {
    let upstream =
        Upstream::on_loopback(|question, _| Reply::Say(answer(question, 1, &[IP]))).await;
    let server = Server::start(asking(&[&upstream])).await;
    let name = "a.example.";
    assert_eq!(server.ask(name, RecordType::A).await.answers[0].ttl, 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    upstream.set(|_, _| Reply::Nothing);
    assert_eq!(
        records(&server.ask(name, RecordType::A).await),
        ["a.example. 30 IN A 198.51.100.7"],
        "stale"
    );
    upstream.set(|question, _| Reply::Say(answer(question, 60, &[[192, 0, 2, 1]])));
    // The exchange that nobody waits for any more goes on, and brings the new one.
    loop {
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!(
            (code(&answer), answer.answers.len()),
            (ResponseCode::NoError, 1)
        );
        if answer.answers[0].data.to_string() == "192.0.2.1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        server
            .figure("coredns_cache_served_stale_total")
            .is_some_and(|n| n != "0")
    );
    server.stop().await;
}

#[tokio::test]
async fn domains_have_their_own_servers() {
    let others = Upstream::on_loopback(good).await;
    let corp = Upstream::on_loopback(good).await;
    let lab = Upstream::on_loopback(good).await;
    let mut config = asking(&[&others]);
    config.stub_domains = [
        ("corp.example".to_owned(), vec![corp.address]),
        ("Lab.corp.example.".to_owned(), vec![lab.address]),
    ]
    .into();
    let server = Server::start(config).await;
    for name in [
        "corp.example.",
        "a.Corp.example.",
        "a.lab.corp.example.",
        "notcorp.example.",
        "example.",
    ] {
        assert_eq!(
            server.ask(name, RecordType::A).await.answers.len(),
            1,
            "{name}"
        );
    }
    assert_eq!(corp.asked(), ["corp.example. A", "a.corp.example. A"]);
    assert_eq!(lab.asked(), ["a.lab.corp.example. A"]);
    assert_eq!(others.asked(), ["notcorp.example. A", "example. A"]);
    server.stop().await;
}

#[tokio::test]
async fn external_names_are_followed_to_other_servers() {
    let upstream = Upstream::on_loopback(|question, _| {
        let name = question.queries[0].name.clone();
        if name.to_ascii() != "ext.interwebs.test." {
            return Reply::Say(nothing(question, ResponseCode::NXDomain));
        }
        let mut message = empty(question, ResponseCode::NoError);
        let target = Name::from_ascii("real.interwebs.test.").expect("name");
        message.add_answer(Record::from_rdata(
            name,
            60,
            RData::CNAME(CNAME(target.clone())),
        ));
        message.add_answer(Record::from_rdata(target, 30, RData::A(A(IP.into()))));
        Reply::Say(message)
    })
    .await;
    let server = Server::start(asking(&[&upstream])).await;
    server.service(
        "out",
        json!({"type": "ExternalName", "externalName": "ext.interwebs.test"}),
    );
    server.service(
        "chain",
        json!({"type": "ExternalName", "externalName": "out.ns.svc.cluster.local"}),
    );
    server.service(
        "gone",
        json!({"type": "ExternalName", "externalName": "gone.interwebs.test"}),
    );
    let rest = [
        "out.ns.svc.cluster.local. 5 IN CNAME ext.interwebs.test.",
        "ext.interwebs.test. 60 IN CNAME real.interwebs.test.",
        "real.interwebs.test. 30 IN A 198.51.100.7",
    ];
    for _ in 0..2 {
        assert_eq!(
            records(&server.ask("out.ns.svc.cluster.local.", RecordType::A).await),
            rest
        );
    }
    let chain = records(
        &server
            .ask("chain.ns.svc.cluster.local.", RecordType::A)
            .await,
    );
    assert_eq!(
        chain[0],
        "chain.ns.svc.cluster.local. 5 IN CNAME out.ns.svc.cluster.local."
    );
    assert_eq!(chain[1..], rest);
    let gone = server
        .ask("gone.ns.svc.cluster.local.", RecordType::A)
        .await;
    assert_eq!(code(&gone), ResponseCode::NXDomain);
    assert_eq!(
        records(&gone),
        ["gone.ns.svc.cluster.local. 5 IN CNAME gone.interwebs.test."]
    );
    assert_eq!(gone.authorities.len(), 1);
    assert_eq!(
        upstream.asked(),
        ["ext.interwebs.test. A", "gone.interwebs.test. A"]
    );
    server.stop().await;
}

#[tokio::test]
async fn misses_of_search_paths_end_here() {
    let upstream = Upstream::on_loopback(good).await;
    let server = Server::start(asking(&[&upstream])).await;
    server.service("web", json!({"clusterIP": "10.43.0.9"}));
    for name in [
        "www.example.org.ns.svc.cluster.local.",
        "www.example.org.svc.cluster.local.",
        "www.example.org.cluster.local.",
    ] {
        assert_eq!(
            code(&server.ask(name, RecordType::A).await),
            ResponseCode::NXDomain,
            "{name}"
        );
    }
    assert!(upstream.asked().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_server_of_ours_can_be_asked_by_another() {
    let inner = Server::start(Config {
        zone: "inner.test".into(),
        ..Config::default()
    })
    .await;
    inner.service("web", json!({"clusterIP": "10.44.0.9"}));
    let outer = Server::start(Config {
        upstreams: vec![inner.address],
        ..Config::default()
    })
    .await;
    let answer = outer.ask("web.ns.svc.inner.test.", RecordType::A).await;
    assert_eq!(
        records(&answer),
        ["web.ns.svc.inner.test. 5 IN A 10.44.0.9"]
    );
    let gone = outer.ask("gone.ns.svc.inner.test.", RecordType::A).await;
    assert_eq!(
        (code(&gone), gone.authorities.len()),
        (ResponseCode::NXDomain, 1)
    );
    outer.stop().await;
    inner.stop().await;
}

#[tokio::test]
async fn files_name_the_servers_and_never_ourselves() {
    // Port 53 of an address of this test alone.
    let pid = std::process::id();
    let address = |last: u8| SocketAddr::from(([127, 53, (pid % 251) as u8, last], 53));
    let upstream = Upstream::start(address(1), good).await;
    let folder = tempfile::tempdir().expect("folder");
    let (file, systemd) = (
        folder.path().join("resolv.conf"),
        folder.path().join("systemd.conf"),
    );
    let text = format!(
        "search a b\nnameserver {}\nnameserver {}\noptions ndots:5 timeout:1\n",
        address(2).ip(),
        address(1).ip()
    );
    std::fs::write(&file, text).expect("file");
    let config = Config {
        listen: vec![address(2)],
        resolv_conf: file,
        systemd_resolv_conf: systemd,
        ..Config::default()
    };
    let server = Server::start(config).await;
    assert_eq!(
        server.ask("a.example.", RecordType::A).await.answers.len(),
        1
    );
    assert_eq!(upstream.asked(), ["a.example. A"]);
    server.stop().await;
}
