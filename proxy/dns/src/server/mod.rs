//! From a message to its answer, whatever it came over.

mod socket;
mod tcp;
mod udp;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use crate::answer::Outcome;
use crate::forward::{self, Forwarder, Given, Key, STALE_TTL};
use crate::metrics::{By, Metrics};
use crate::query::{self, Query, Reject};
use crate::reply;
use crate::zone::{Asked, Zone};

pub(crate) use socket::{Pair, bind};
pub(crate) use tcp::{Listener, Room};
pub(crate) use udp::serve as serve_udp;

/// Datagrams that wait for other servers' answers at once; each takes a task and its own copy of the question.
const MAX_WAITING: usize = 4096;
/// Bytes of the smallest record of an address.
const ADDRESS_RECORD: usize = 16;

/// What all sockets share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) zone: RwLock<Zone>,
    /// The zone is complete.
    pub(crate) synced: AtomicBool,
    /// It has become so.
    pub(crate) complete: Notify,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) metrics: Arc<Metrics>,
    waiting: Arc<Semaphore>,
    /// Answers under way.
    tasks: TaskTracker,
}

/// What a message came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Silence,
    /// The answer is written.
    Done(ResponseCode, By),
    /// Others have to be asked.
    Ask(Asking),
}

/// A question to others.
#[derive(Debug)]
pub(crate) struct Asking {
    key: Key,
    /// Names of the cluster that lead there.
    aliases: Vec<Box<[u8]>>,
}

impl Transport {
    fn most(self, query: &Query<'_>) -> usize {
        match self {
            Self::Udp => query.head.udp_size(),
            Self::Tcp => usize::from(u16::MAX),
        }
    }
}

impl Core {
    /// With an empty zone.
    pub(crate) fn new(
        zone: Zone,
        forwarder: Arc<Forwarder>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            zone: RwLock::new(zone),
            synced: AtomicBool::new(false),
            complete: Notify::new(),
            forwarder,
            metrics,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            tasks,
        }
    }

    /// Ends when the zone is complete.
    pub(crate) async fn completed(&self) {
        let complete = self.complete.notified();
        if !self.synced.load(Ordering::Acquire) {
            complete.await;
        }
    }

    /// Answers from what is known here, without waiting. Gives the type asked for, where that was readable.
    pub(crate) fn step(
        &self,
        wire: &[u8],
        transport: Transport,
        turn: usize,
        out: &mut Vec<u8>,
    ) -> (Option<RecordType>, Step) {
        let query = match query::read(wire) {
            Ok(query) => query,
            Err(Reject::Silently) => return (None, Step::Silence),
            Err(Reject::With(head, code)) => {
                reply::write_code(&head, code, out);
                return (None, Step::Done(code, By::Server));
            }
        };
        (
            Some(query.kind),
            self.answer(&query, transport.most(&query), turn, out),
        )
    }

    fn answer(&self, query: &Query<'_>, most: usize, turn: usize, out: &mut Vec<u8>) -> Step {
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        if !self.synced.load(Ordering::Acquire) && zone.contains(&query.name) {
            // Askers try again after this; that there is no such name they would believe.
            reply::write_code(&query.head, ResponseCode::ServFail, out);
            return Step::Done(ResponseCode::ServFail, By::Zone);
        }
        let asked = Asked {
            kind: query.kind,
            turn,
            most: most / ADDRESS_RECORD + 1,
        };
        let aliases: Vec<Box<[u8]>> = match zone.ask(&query.name, asked) {
            Outcome::Answer(answer) => {
                reply::write(query, &answer, &zone, most, out);
                return Step::Done(answer.code, By::Zone);
            }
            Outcome::Alias(aliases) => aliases.into_iter().map(Box::from).collect(),
            Outcome::Elsewhere => Vec::new(),
        };
        drop(zone);
        let asking = Asking {
            key: forward::key(aliases.last().map_or(query.name.wire(), |n| n), query),
            aliases,
        };
        match self.forwarder.remembered(&asking.key, Instant::now()) {
            Some(given) => Step::Done(asking.write(query, &given, most, turn, out), By::Cache),
            None => Step::Ask(asking),
        }
    }

    /// Asks others. The message is the one that led to this.
    pub(crate) async fn ask(
        &self,
        wire: &[u8],
        asking: &Asking,
        transport: Transport,
        turn: usize,
        out: &mut Vec<u8>,
    ) -> Option<ResponseCode> {
        let given = self.forwarder.ask(&asking.key).await;
        let query = query::read(wire).ok()?;
        Some(asking.write(&query, &given, transport.most(&query), turn, out))
    }
}

impl Asking {
    fn write(
        &self,
        query: &Query<'_>,
        given: &Given,
        most: usize,
        turn: usize,
        out: &mut Vec<u8>,
    ) -> ResponseCode {
        let (stored, age) = match given {
            Given::Fresh(stored, age) => (stored, Some(*age)),
            Given::Stale(stored) => (stored, None),
            Given::Nothing => {
                reply::write_code(&query.head, ResponseCode::ServFail, out);
                return ResponseCode::ServFail;
            }
        };
        let ttl = |ttl: u32| age.map_or(STALE_TTL, |age| ttl.saturating_sub(age));
        if self.aliases.is_empty() {
            stored.write(&query.head, turn, ttl, most, out);
        } else {
            stored.behind(query.name.wire(), &self.aliases).write(
                &query.head,
                turn,
                ttl,
                most,
                out,
            );
        }
        stored.code
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cache::Cache;

    fn core() -> Core {
        let mut zone = Zone::new("cluster.local", Vec::new()).expect("zone");
        for (name, ip) in [("web", "10.0.0.1"), ("many", "None")] {
            let service = json!({"metadata": {"namespace": "ns", "name": name},
                "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]}});
            zone.set_service(&serde_json::from_value(service).expect("service"));
        }
        let endpoints: Vec<_> = (0..90)
            .map(|i| json!({"addresses": [format!("10.1.0.{i}")]}))
            .collect();
        let slice = json!({"metadata": {"namespace": "ns", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": endpoints});
        zone.set_slice(&serde_json::from_value(slice).expect("slice"));
        let metrics = Arc::new(Metrics::default());
        let forwarder = Arc::new(Forwarder::new(Cache::new(10, 10_000), metrics.clone()));
        let core = Core::new(zone, forwarder, metrics, TaskTracker::new());
        core.synced.store(true, Ordering::Release);
        core
    }

    const QUESTIONS: [&[u8]; 3] = [
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03web\x02ns\x03svc\x07cluster\x05local\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0",
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05_http\x04_tcp\x04many\x02ns\x03svc\x07cluster\x05local\0\0\x21\0\x01",
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x011\x010\x010\x0210\x07in-addr\x04arpa\0\0\x0c\0\x01",
    ];

    proptest! {
        #[test]
        fn any_message_gets_a_well_formed_answer_or_none(
            which in 0..QUESTIONS.len(),
            changes in prop::collection::vec((2..60_usize, any::<u8>()), 0..4),
            cut in 0..80_usize,
            tcp in any::<bool>(),
        ) {
            let mut wire = QUESTIONS[which].to_vec();
            for (at, to) in changes {
                if let Some(byte) = wire.get_mut(at) {
                    *byte = to;
                }
            }
            wire.truncate(cut.max(10));
            let transport = if tcp { Transport::Tcp } else { Transport::Udp };
            let mut out = Vec::new();
            if let (_, Step::Done(code, _)) = core().step(&wire, transport, 3, &mut out) {
                prop_assert!(tcp || out.len() <= usize::from(query::MAX_UDP));
                prop_assert_eq!(&out[..2], &wire[..2]);
                prop_assert!(out[2] & 0x80 != 0);
                prop_assert_eq!(u16::from(out[3] & 0xf), u16::from(code) & 0xf);
                prop_assert!(Message::from_vec(&out).is_ok());
            }
        }
    }
}
