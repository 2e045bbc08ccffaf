//! The HTTPS endpoint over real TLS on loopback.
#![allow(clippy::unwrap_used)]

mod server;
mod spdy;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs;
use std::io::Write;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use keelson_agent_io::endpoint::TerminalSize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use server::{Server, network};

/// Everything that comes until the server closes: bytes by channel.
async fn drain(socket: &mut WebSocketStream<TlsStream<TcpStream>>) -> [Vec<u8>; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(frame) = message {
            channels[usize::from(frame[0])].extend_from_slice(&frame[1..]);
        }
    }
    channels
}

const LOGS: &str = "/containerLogs/ns/p/c";

#[tokio::test]
async fn nobody_gets_in_without_a_right() {
    let server = Server::start().await;
    let table = [
        ("", "/healthz", 401),
        ("stranger", "/healthz", 401),
        ("viewer", "/healthz", 200),
        ("viewer", "/healthz/ping", 200),
        ("viewer", "/healthz/nothing", 404),
        ("viewer", "/configz", 200),
        ("viewer", "/metrics/probes", 200),
        ("", "/metrics/cadvisor", 401),
        ("viewer", "/pods", 200),
        ("viewer", "/metrics", 200),
        ("viewer", "/stats/summary", 403),
        ("viewer", "/exec/ns/p/c?command=id&stdout=1", 403),
        ("viewer", "/nothing", 404),
        ("", "/nothing", 401),
        ("admin", "/stats/summary", 200),
        ("cert:admin", "/runningpods/", 200),
        ("cert:nobody", "/metrics", 403),
    ];
    for (who, path, want) in table {
        let (status, body) = server.get(who, path).await;
        assert_eq!(status, want, "{who} {path}: {body}");
    }
    let (_, body) = server.get("cert:nobody", "/healthz").await;
    let message =
        "Forbidden (user=nobody, verb=get, resource=nodes, subresource(s)=[healthz proxy])";
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["message"],
        message
    );
    let before = server.reviews.load(Ordering::SeqCst);
    server.get("admin", "/stats/summary").await;
    assert_eq!(
        server.reviews.load(Ordering::SeqCst),
        before,
        "answers are kept for a moment"
    );
}

#[tokio::test]
async fn figures_are_this_machines() {
    let server = Server::start().await;
    let (_, body) = server.get("admin", "/stats/summary").await;
    let summary: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(summary["node"]["nodeName"], "node-a");
    assert!(
        summary["node"]["memory"]["workingSetBytes"]
            .as_u64()
            .unwrap()
            > 0
    );
    let (_, body) = server.get("admin", "/metrics/resource").await;
    assert!(body.contains("\nnode_cpu_usage_seconds_total "), "{body}");
    assert_eq!(server.get("admin", "/metrics").await.1, "up 1\n");
    let (_, body) = server.get("admin", "/metrics/cadvisor").await;
    assert!(body.contains("\nmachine_memory_bytes{"), "{body}");
    let (_, body) = server
        .get("admin", "/stats/summary?only_cpu_and_memory=true")
        .await;
    let little: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(little["node"].get("fs"), None);
    assert!(summary["node"]["fs"]["capacityBytes"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn logs_are_cut_to_what_was_asked() {
    let server = Server::start().await;
    let lines: String = (0..5000)
        .map(|n| format!("2026-11-21T10:00:00.5Z stdout F line {n}\n"))
        .collect();
    fs::write(&server.machine.log, lines).unwrap();
    let (_, all) = server.get("admin", LOGS).await;
    assert_eq!(
        (all.lines().count(), all.lines().last()),
        (5000, Some("line 4999"))
    );
    let table = [
        ("tailLines=2", "line 4998\nline 4999\n"),
        ("tailLines=0", ""),
        ("limitBytes=8", "line 0\nl"),
        (
            "tailLines=1&timestamps=true",
            "2026-11-21T10:00:00.5Z line 4999\n",
        ),
        ("sinceSeconds=1", ""),
    ];
    for (query, want) in table {
        assert_eq!(
            server.get("admin", &format!("{LOGS}?{query}")).await,
            (200, want.to_owned()),
            "{query}"
        );
    }
    assert_eq!(
        server
            .get("admin", &format!("{LOGS}?tailLines=4999"))
            .await
            .1
            .lines()
            .count(),
        4999
    );
    let (status, body) = server.get("admin", &format!("{LOGS}?previous=true")).await;
    assert!(
        status == 400 && body.contains("previous terminated container"),
        "{body}"
    );
    assert_eq!(
        server
            .get("admin", &format!("{LOGS}?sinceSeconds=0"))
            .await
            .0,
        422
    );
}

#[tokio::test]
async fn a_followed_log_crosses_rotations_and_ends_with_its_container() {
    const LINES: usize = 2000;
    let server = Server::start().await;
    let path = server.machine.log.clone();
    let open = move || {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap()
    };
    drop(open());
    let response = server
        .open("admin", "GET", &format!("{LOGS}?follow=true"))
        .await;
    let (log, dir, machine) = (
        server.machine.log.clone(),
        server.dir.path().to_owned(),
        server.machine.clone(),
    );
    let writer = std::thread::spawn(move || {
        let mut file = open();
        for n in 0..LINES {
            if n % 500 == 499 {
                let to = format!("0.log.20261121-{n:06}");
                fs::rename(&log, dir.join(to)).unwrap();
                // The writer still has the old file: this line must not be lost.
                writeln!(file, "2026-11-21T10:00:00Z stdout F {n}").unwrap();
                file = open();
            } else {
                // In two pieces, so that a reader sees halves of lines.
                write!(file, "2026-11-21T10:00:00Z stdout F").unwrap();
                writeln!(file, " {n}").unwrap();
            }
        }
        machine.running.store(false, Ordering::SeqCst);
    });
    let body = response.into_body().collect().await.unwrap().to_bytes();
    writer.join().unwrap();
    let got: Vec<usize> = std::str::from_utf8(&body)
        .unwrap()
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    assert_eq!(got, (0..LINES).collect::<Vec<_>>());
}

#[tokio::test]
async fn logs_come_over_websockets() {
    let server = Server::start().await;
    let path = "/containerLogs/ns/p/c?tailLines=3";
    let line = |n: u32| format!("2026-11-21T10:00:00Z stdout F line {n}\n");
    let lines: String = (0..5).map(line).collect();
    fs::write(&server.machine.log, lines).unwrap();
    let (_, plain) = server.get("admin", path).await;
    assert_eq!(plain, "line 2\nline 3\nline 4\n");
    for (protocol, encoded) in [("binary.k8s.io", false), ("base64.binary.k8s.io", true)] {
        let mut socket = server.websocket(path, protocol).await;
        let mut seen = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(data) if !encoded => seen.extend_from_slice(&data),
                Message::Text(text) if encoded => {
                    seen.extend(STANDARD.decode(&text).unwrap());
                }
                Message::Close(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(String::from_utf8(seen).unwrap(), plain, "{protocol}");
    }
}

#[tokio::test]
async fn exec_joins_a_process_and_tells_its_exit_code() {
    let server = Server::start().await;
    let script = "cat;%20echo%20err%20%3E%262;%20exit%203";
    let path =
        format!("/exec/ns/p/c?command=sh&command=-c&command={script}&stdin=1&stdout=1&stderr=1");
    let mut socket = server.websocket(&path, "v5.channel.k8s.io").await;
    // Far more than any buffer holds: input and output must flow side by side.
    let block: Vec<u8> = [0]
        .into_iter()
        .chain((0..32_000).map(|n| b'a' + (n % 26) as u8))
        .collect();
    let (mut send, receive) = futures::StreamExt::split(&mut socket);
    let feed = async {
        for _ in 0..200 {
            send.send(Message::binary(block.clone())).await.unwrap();
        }
        send.send(Message::binary(vec![4, b'{', b'}']))
            .await
            .unwrap();
        let size = [&[4][..], br#"{"Width":80,"Height":24}"#].concat();
        send.send(Message::binary(size)).await.unwrap();
        send.send(Message::binary(vec![255, 0])).await.unwrap();
    };
    let mut channels: [Vec<u8>; 4] = Default::default();
    let read = receive.for_each(|message| {
        if let Ok(Message::Binary(frame)) = message {
            channels[usize::from(frame[0])].extend_from_slice(&frame[1..]);
        }
        std::future::ready(())
    });
    tokio::join!(feed, read);
    let [_, out, err, status] = channels;
    assert_eq!((out.len(), err.as_slice()), (200 * 32_000, &b"err\n"[..]));
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(
        (&status["status"], &status["reason"]),
        (&json!("Failure"), &json!("NonZeroExitCode"))
    );
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "ExitCode", "message": "3"}])
    );
    assert_eq!(
        *server.machine.sizes.lock().unwrap(),
        [TerminalSize {
            width: 80,
            height: 24
        }]
    );
}

#[tokio::test]
async fn exec_speaks_v4_and_refuses_what_it_does_not_speak() {
    let server = Server::start().await;
    let mut socket = server
        .websocket("/exec/ns/p/c?command=true&stdout=true", "v4.channel.k8s.io")
        .await;
    let [_, _, _, status] = drain(&mut socket).await;
    assert_eq!(
        serde_json::from_slice::<Value>(&status).unwrap()["status"],
        "Success"
    );
    let mut socket = server
        .websocket(
            "/exec/ns/p/c?command=/no/such&stdout=true",
            "v4.channel.k8s.io",
        )
        .await;
    let [_, _, _, status] = drain(&mut socket).await;
    assert!(String::from_utf8(status).unwrap().contains("No such file"));
    let (status, body) = server
        .get("admin", "/exec/ns/p/c?command=id&stdout=1")
        .await;
    assert!(
        status == 400 && body.contains("missing upgrade headers"),
        "{body}"
    );
    assert_eq!(server.get("admin", "/exec/ns/p/c?stdout=1").await.0, 400);
    let run = server
        .open("admin", "POST", "/run/ns/p/c?cmd=echo%20hi")
        .await;
    assert_eq!(run.into_body().collect().await.unwrap().to_bytes(), "hi\n");
}

#[tokio::test]
async fn attach_follows_the_log_from_now_on() {
    let server = Server::start().await;
    fs::write(&server.machine.log, "2026-11-21T10:00:00Z stdout F old\n").unwrap();
    let (status, body) = server.get("admin", "/attach/ns/p/c?stdin=1&stdout=1").await;
    assert!(
        status == 400 && body.contains("no standard input"),
        "{body}"
    );
    let mut socket = server
        .websocket("/attach/ns/p/c?stdout=1&stderr=1", "v4.channel.k8s.io")
        .await;
    // The first (empty) frame says that the streams stand.
    socket.next().await.unwrap().unwrap();
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(&server.machine.log)
        .unwrap();
    file.write_all(b"2026-11-21T10:00:01Z stderr F oops\n2026-11-21T10:00:01Z stdout F new\n")
        .unwrap();
    server.machine.running.store(false, Ordering::SeqCst);
    let [_, out, err, status] = drain(&mut socket).await;
    assert_eq!(
        (out.as_slice(), err.as_slice()),
        (&b"new\n"[..], &b"oops\n"[..])
    );
    assert!(String::from_utf8(status).unwrap().contains("Success"));
}

#[tokio::test]
async fn ports_are_forwarded() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = tcp.split();
        tokio::io::copy(&mut read, &mut write).await
    });
    let mut socket = server
        .websocket(
            &format!("/portForward/ns/p?ports={port}"),
            "v4.channel.k8s.io",
        )
        .await;
    for channel in [0, 1] {
        let [low, high] = port.to_le_bytes();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::binary(vec![channel, low, high])
        );
    }
    socket
        .send(Message::Ping(Bytes::from_static(b"alive")))
        .await
        .unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::Pong(Bytes::from_static(b"alive"))
    );
    socket.send(Message::binary(&b"\0ping"[..])).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::binary(&b"\0ping"[..])
    );
}

#[tokio::test]
async fn ports_of_a_pod_are_reached_in_its_own_network() {
    let server = Server::start().await;
    let pod = network(&server, 8080, |listener| {
        listener.accept().unwrap().0.write_all(b"pod").unwrap();
    });
    let mut socket = server
        .websocket("/portForward/ns/p?ports=8080", "v4.channel.k8s.io")
        .await;
    let [data, errors, ..] = drain(&mut socket).await;
    let number = 8080u16.to_le_bytes();
    assert_eq!(
        (data, errors),
        ([&number[..], b"pod"].concat(), number.to_vec())
    );
    pod.join().unwrap();
}
