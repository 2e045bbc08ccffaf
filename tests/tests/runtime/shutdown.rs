//! A machine that shuts down while pods run. logind is played by this test, on the wire; `tests/vm` has the real one.

use std::fs;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use keelson_dbus::{Kind, Message, Value};
use keelson_tests::bins::program;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Microseconds of patience that logind begins with, and that it has when it has read its configuration again.
const PATIENCE: (u64, u64) = (5_000_000, 8_000_000);

const CONFIG: &str = "
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
shutdownGracePeriod: 8s
shutdownGracePeriodCriticalPods: 3s
";

pub(crate) fn graceful() {
    let bed = Bed::bare();
    let node = bed.server();
    let socket = bed.folder().join("bus");
    let logind = Logind::listen(&socket);
    node.sh(&format!(
        "mkdir -p /run/dbus /etc/keelson/static-pods; ln -s {} /run/dbus/system_bus_socket",
        socket.display()
    ));
    node.sh(&format!(
        "cat >/etc/keelson/static-pods/fixed.yaml <<'YAML'\n{}YAML",
        yaml("fixed", SLEEP, "")
    ));
    // A bed has no systemd to keep cgroups: told before anything is begun.
    node.sh(&format!(
        "! {} server --node-ip 10.88.0.11 --cgroup-driver systemd 2>/run/refused; grep 'systemd does not run here' /run/refused; rm /run/refused; [ ! -e /var/lib/keelson/server ]",
        program("keelson").display()
    ));
    let config = bed.folder().join("config.yaml");
    fs::write(&config, CONFIG).unwrap();
    node.start_keelson(&["server", "--config", &config.display().to_string()]);
    node.wait_for(keelson_tests::bed::KUBECONFIG);
    bed.wait_ready();
    bed.wait_node_ready(node);
    logind.wait_held(true);
    let drop_in = node.sh("cat /run/systemd/logind.conf.d/99-keelson.conf");
    assert!(drop_in.contains("InhibitDelayMaxSec=8\n"), "{drop_in}");

    let critical = "  priorityClassName: system-node-critical\n";
    bed.apply(&yaml("quick", SLEEP, ""));
    bed.apply(&yaml("stubborn", STUBBORN, ""));
    bed.apply(&yaml("critical", SLEEP, critical));
    for name in ["quick", "stubborn", "critical", "fixed-n1"] {
        bed.kubectl(&format!(
            "wait pod {name} --for=condition=Ready --timeout=60s"
        ));
    }
    logind.tell(true);
    bed.wait_for(&ready("message"), "node is shutting down");
    assert_eq!(bed.kubectl(&ready("status")), "False");
    bed.apply(&yaml("late", SLEEP, "  nodeName: n1\n"));
    bed.wait_for("get pod late -o jsonpath={.status.reason}", "NodeShutdown");
    let message = bed.kubectl("get pod late -o jsonpath={.status.message}");
    assert_eq!(
        message,
        "Pod was rejected: Pod was rejected as the node is shutting down."
    );
    logind.wait_held(false);
    let mut ends = Vec::new();
    for name in ["quick", "stubborn", "critical"] {
        let status = bed.kubectl(&format!("get pod {name} -o jsonpath={{.status}}"));
        let status = keelson_tests::bed::json(&status);
        assert_eq!(status["phase"], "Failed", "{name}: {status}");
        assert_eq!(status["reason"], "Terminated");
        assert_eq!(
            status["message"],
            "Pod was terminated in response to imminent node shutdown."
        );
        let conditions = status["conditions"].as_array().unwrap();
        let target = conditions
            .iter()
            .find(|c| c["type"] == "DisruptionTarget")
            .unwrap();
        assert_eq!(target["reason"], "TerminationByKubelet");
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        ends.push((name, ended["finishedAt"].as_str().unwrap().to_owned()));
        let code = if name == "stubborn" { 137 } else { 0 };
        assert_eq!(ended["exitCode"], code, "{name}: {status}");
    }
    // RFC 3339 in UTC sorts as text.
    assert!(ends[0].1 < ends[1].1 && ends[1].1 <= ends[2].1, "{ends:?}");
    let running = node.sh("ctr -n k8s.io tasks ls | grep -c RUNNING || true");
    assert_eq!(running.trim(), "0", "nothing runs any more");

    // Called off: the node takes pods again, static ones come back by themselves.
    logind.tell(false);
    logind.wait_held(true);
    bed.wait_node_ready(node);
    bed.kubectl("delete pod late quick stubborn critical");
    bed.apply(&yaml("quick", SLEEP, ""));
    bed.kubectl("wait pod quick --for=condition=Ready --timeout=60s");
    bed.wait_for("get pod fixed-n1 -o jsonpath={.status.phase}", "Running");
    let told = bed.kubectl("get events -A -o jsonpath='{.items[*].message}'");
    for what in ["event", "cancellation"] {
        assert!(
            told.contains(&format!("Shutdown manager detected shutdown {what}")),
            "{told}"
        );
    }
    // A bus that starts again is found again.
    logind.hang_up();
    logind.wait_held(true);
    bed.kubectl("delete pod quick");
}

const SLEEP: &str = "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.2; done";
const STUBBORN: &str = "trap '' TERM; while :; do /bin/busybox sleep 0.2; done";

fn yaml(name: &str, command: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sh, -c, \"{command}\"]}}]\n{spec}"
    )
}

fn ready(field: &str) -> String {
    format!("get node n1 -o \"jsonpath={{.status.conditions[?(@.type=='Ready')].{field}}}\"")
}

/// Who plays bus, systemd and logind.
struct Logind(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    clients: Vec<UnixStream>,
    /// Our ends of the locks that were given out: they hang up when a lock goes.
    locks: Vec<UnixStream>,
    reloaded: bool,
}

impl Logind {
    fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let own = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = own.clone();
                // Ends with the client.
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self(state)
    }

    /// Tells all that a shutdown begins, or is called off.
    fn tell(&self, begins: bool) {
        let signal = Message {
            path: "/org/freedesktop/login1".into(),
            interface: "org.freedesktop.login1.Manager".into(),
            member: "PrepareForShutdown".into(),
            body: vec![Value::Bool(begins)],
            ..Message::new(Kind::Signal, 1)
        };
        for client in &mut self.0.lock().unwrap().clients {
            // One that has gone needs no signal.
            let _ = client.write_all(&signal.encode());
        }
    }

    fn hang_up(&self) {
        let mut state = self.0.lock().unwrap();
        for client in state.clients.drain(..) {
            client.shutdown(std::net::Shutdown::Both).unwrap();
        }
        state.locks.clear();
    }

    fn wait_held(&self, held: bool) {
        eventually(&format!("held: {held}"), secs(30), || {
            let mut state = self.0.lock().unwrap();
            state.locks.retain_mut(|lock| {
                let read = lock.read(&mut [0]);
                read.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
            });
            anyhow::ensure!(
                state.locks.is_empty() != held,
                "{} locks",
                state.locks.len()
            );
            Ok(())
        });
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>) {
    let mut line = Vec::new();
    for answer in [
        "OK 0123456789abcdef0123456789abcdef\r\n",
        "AGREE_UNIX_FD\r\n",
        "",
    ] {
        line.clear();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            line.extend(byte);
        }
        stream.write_all(answer.as_bytes()).unwrap();
    }
    assert_eq!(line, b"BEGIN\r\n");
    state
        .lock()
        .unwrap()
        .clients
        .push(stream.try_clone().unwrap());
    let mut bytes = Vec::new();
    loop {
        while let Some(length) = Message::length(&bytes)
            .unwrap()
            .filter(|l| *l <= bytes.len())
        {
            let rest = bytes.split_off(length);
            let call = Message::decode(&std::mem::replace(&mut bytes, rest)).unwrap();
            answer(&stream, &call, state);
        }
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend(&more[..count]),
        }
    }
}

fn answer(stream: &UnixStream, call: &Message, state: &Mutex<State>) {
    let mut reply = Message {
        reply_to: call.serial,
        ..Message::new(Kind::Return, call.serial)
    };
    let mut state = state.lock().unwrap();
    let property = call.body.get(1).and_then(Value::as_text);
    let mut theirs = None;
    match (call.member.as_str(), property) {
        ("Get", Some("InhibitDelayMaxUSec")) => {
            let patience = if state.reloaded {
                PATIENCE.1
            } else {
                PATIENCE.0
            };
            reply.body = vec![Value::U64(patience).variant()];
        }
        ("Get", Some("PreparingForShutdown")) => reply.body = vec![Value::Bool(false).variant()],
        ("KillUnit", _) => {
            let whom: Vec<_> = call.body.iter().filter_map(Value::as_text).collect();
            assert_eq!(whom, ["systemd-logind.service", "all"]);
            state.reloaded = true;
        }
        ("Inhibit", _) => {
            let asked: Vec<_> = call.body.iter().filter_map(Value::as_text).collect();
            assert_eq!((asked[0], asked[3]), ("shutdown", "delay"));
            let (ours, lock) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            state.locks.push(ours);
            theirs = Some(lock);
            reply.fds = 1;
            reply.body = vec![Value::Fd(0)];
        }
        ("Hello", _) => reply.body = vec![Value::text(":1.1")],
        ("AddMatch", _) => {}
        other => panic!("{other:?}"),
    }
    let fds: Vec<_> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let with = if fds.is_empty() { &[][..] } else { &rights[..] };
    let bytes = reply.encode();
    let slices = [IoSlice::new(&bytes)];
    sendmsg::<()>(stream.as_raw_fd(), &slices, with, MsgFlags::empty(), None).unwrap();
}
