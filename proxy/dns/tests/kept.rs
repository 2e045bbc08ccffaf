//! Sockets that somebody holds while the server restarts.

mod support;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use keelson_dns::{Config, Keeper, Sockets};
use rustix::net::{SocketType, sockopt::socket_type};
use serde_json::json;
use support::{Server, question, records};

/// As a service manager does it: with descriptors of its own.
#[derive(Debug, Default)]
struct Manager {
    held: Mutex<Vec<OwnedFd>>,
    told: Mutex<usize>,
}

impl Keeper for Manager {
    fn take(&self) -> Sockets {
        let mut sockets = Sockets::default();
        for held in self.held.lock().expect("held").iter() {
            let socket = held.try_clone().expect("descriptor");
            match socket_type(&socket).expect("socket") {
                SocketType::DGRAM => sockets.udp.push(UdpSocket::from(socket)),
                _ => sockets.tcp.push(TcpListener::from(socket)),
            }
        }
        sockets
    }

    fn keep(&self, sockets: &[BorrowedFd<'_>]) {
        let owned = sockets
            .iter()
            .map(|s| s.try_clone_to_owned().expect("descriptor"));
        *self.held.lock().expect("held") = owned.collect();
        *self.told.lock().expect("told") += 1;
    }
}

fn config(manager: &Arc<Manager>, listen: Vec<SocketAddr>) -> Config {
    Config {
        listen,
        keeper: Some(manager.clone()),
        ..Config::default()
    }
}

#[tokio::test]
async fn what_is_asked_during_a_restart_is_answered_after_it() {
    let manager = Arc::new(Manager::default());
    let first = Server::start(config(&manager, vec![])).await;
    let at = first.addresses.clone();
    first.stop().await;

    let asker = UdpSocket::bind("127.0.0.1:0").expect("socket");
    asker
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("timeout");
    let ask = question("web.ns.svc.cluster.local.", RecordType::A);
    asker.connect(at[0]).expect("connect");
    asker
        .send(&ask.to_vec().expect("question"))
        .expect("nobody refuses it");

    let second = Server::start_empty(config(&manager, at.clone())).await;
    // It is not answered from half a picture.
    second.service("web", json!({"clusterIP": "10.43.0.9"}));
    second.handle.set_complete();
    let answer = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; 4096];
        let length = asker.recv(&mut buffer).expect("an answer");
        Message::from_vec(&buffer[..length]).expect("a message")
    });
    let answer = answer.await.expect("asker");
    assert_eq!(
        records(&answer),
        ["web.ns.svc.cluster.local. 5 IN A 10.43.0.9"]
    );
    let over_tcp = second.connect().await;
    drop(over_tcp);
    assert_eq!(*manager.told.lock().expect("told"), 1, "they are the same");
    second.stop().await;
}

#[tokio::test]
async fn sockets_of_other_addresses_are_let_go() {
    let manager = Arc::new(Manager::default());
    let first = Server::start(config(&manager, vec![])).await;
    let before = first.addresses.clone();
    first.stop().await;
    let second = Server::start(config(&manager, vec![([127, 0, 0, 2], 0).into()])).await;
    assert_eq!(*manager.told.lock().expect("told"), 2);
    assert_eq!(
        manager.held.lock().expect("held").len(),
        2,
        "only the new ones"
    );
    TcpListener::bind(before[0]).expect("free again");
    second.stop().await;
}
