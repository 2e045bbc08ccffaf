//! Processes in running containers.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use keelson_runtime::{Error, ExecOptions};
use support::{Node, uid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LONG: Duration = Duration::from_secs(30);

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_get_code_and_output_or_a_time_out() {
    let node = Node::with_image().await;
    let spec = node.spec(&uid(), "app", "sleep 1000").await;
    let id = node.run(&spec).await;
    let ran = node
        .runtime
        .exec_sync(&id, &shell("echo out; echo err >&2; exit 4"), LONG)
        .await
        .unwrap();
    let output = String::from_utf8(ran.output).unwrap();
    assert_eq!(ran.code, 4);
    assert!(
        output.contains("out\n") && output.contains("err\n"),
        "{output}"
    );

    eprintln!("A");
    let large = node
        .runtime
        .exec_sync(&id, &shell("yes | head -c 1000000"), LONG)
        .await
        .unwrap();
    assert_eq!((large.code, large.output.len()), (0, 64 << 10));

    eprintln!("B");
    // A child that keeps the stream open does not keep the probe.
    let ran = node
        .runtime
        .exec_sync(&id, &shell("sleep 1000 & echo started"), LONG)
        .await
        .unwrap();
    assert_eq!(ran.output, b"started\n");

    eprintln!("C");
    let short = Duration::from_millis(300);
    let error = node
        .runtime
        .exec_sync(&id, &shell("exec sleep 777"), short)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    // The pattern does not match the search's own command line.
    let gone = shell("while grep -q 'sleep.7[7]7' /proc/[0-9]*/cmdline; do sleep 0.05; done");
    node.runtime.exec_sync(&id, &gone, LONG).await.unwrap();

    eprintln!("D");
    let absent = node
        .runtime
        .exec_sync(&id, &["/no/such".to_owned()], LONG)
        .await
        .unwrap_err();
    assert!(absent.to_string().contains("no such file"), "{absent}");

    let nowhere = node
        .runtime
        .exec_sync("nowhere", &shell("true"), LONG)
        .await
        .unwrap_err();
    assert!(nowhere.is_not_found(), "{nowhere}");
    wait_until_empty(&node).await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_input_and_both_outputs() {
    let node = Node::with_image().await;
    let spec = node.spec(&uid(), "app", "sleep 1000").await;
    let id = node.run(&spec).await;
    let options = ExecOptions {
        cmd: shell("cat; echo end >&2; exit 9"),
        stdin: true,
        ..ExecOptions::default()
    };
    let mut session = node.runtime.exec(&id, &options).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let sent: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        stdin.write_all(&copy).await.unwrap();
        stdin.close().await.unwrap();
    });
    let mut out = Vec::new();
    session.stdout.read_to_end(&mut out).await.unwrap();
    let mut err = String::new();
    session
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .await
        .unwrap();
    writing.await.unwrap();
    assert!(out == sent, "{} of {} bytes", out.len(), sent.len());
    assert_eq!(err, "end\n");
    assert_eq!(session.wait().await.unwrap(), 9);
    assert_eq!(session.wait().await.unwrap(), 9);
    wait_until_empty(&node).await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_a_dropped_session_ends() {
    let node = Node::with_image().await;
    let spec = node.spec(&uid(), "app", "sleep 1000").await;
    let id = node.run(&spec).await;
    let options = ExecOptions {
        cmd: shell("read line; stty size; echo got $line $TERM; read more"),
        tty: true,
        stdin: true,
    };
    let mut session = node.runtime.exec(&id, &options).await.unwrap();
    session.resize(123, 45).await.unwrap();
    session
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hello\n")
        .await
        .unwrap();
    let mut seen = String::new();
    while !seen.contains("got hello xterm") {
        let mut buffer = [0; 256];
        let length = session.stdout.read(&mut buffer).await.unwrap();
        assert!(length > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(seen.contains("45 123"), "{seen}");
    assert!(session.stderr.is_none());
    drop(session);
    wait_until_empty(&node).await;
    node.finish().await;
}

/// Every exec's directory goes with its process.
async fn wait_until_empty(node: &Node) {
    let dir = node.dir.join("run/exec");
    while std::fs::read_dir(&dir).unwrap().next().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
