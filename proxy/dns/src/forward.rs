//! Questions that are not the cluster's: remembered answers, one exchange for all who ask the same, the servers in turn.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::{Semaphore, watch};

use crate::cache::{Cache, Found};
use crate::metrics::Metrics;
use crate::name::{Name, ZoneName};
use crate::query::{CHECKING_DISABLED, Query};
use crate::resolv::Servers;
use crate::stored::Stored;
use crate::upstream::{self, Ask};

/// Time after which a stale answer is better than none yet (RFC 8767 section 5).
const PATIENCE: Duration = Duration::from_millis(1800);
/// Times of a stale answer's records, in seconds (RFC 8767 section 4).
pub(crate) const STALE_TTL: u32 = 30;
/// A server that did not answer is asked last for this long.
const SHUNNED: Duration = Duration::from_secs(10);
/// Time for all servers together: nobody waits longer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Exchanges at once, kubeadm's `max_concurrent`.
const MAX_EXCHANGES: usize = 1000;

/// A question as it is remembered.
pub(crate) type Key = Arc<[u8]>;

/// An answer and how old it is.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// Seconds since it came.
    Fresh(Arc<Stored>, u32),
    /// Its time is over, and nobody gave a better one.
    Stale(Arc<Stored>),
    /// Nobody answered, or too many ask.
    Nothing,
}

/// Where questions go.
#[derive(Debug, Default)]
struct Routes {
    /// Servers of domains, the most special first.
    domains: Vec<(ZoneName, Group)>,
    others: Option<Group>,
}

/// Servers that know the same.
#[derive(Debug)]
struct Group {
    servers: Servers,
    /// Until when each is asked last.
    shunned: Mutex<HashMap<SocketAddr, Instant>>,
}

/// Asks other servers and remembers what they say.
#[derive(Debug)]
pub(crate) struct Forwarder {
    routes: RwLock<Arc<Routes>>,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Key, watch::Receiver<Option<Given>>>>,
    exchanges: Semaphore,
    turn: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// The bytes under which a question is remembered: name, type, and what changes the answer.
pub(crate) fn key(name: &[u8], query: &Query<'_>) -> Key {
    let mut key = Vec::with_capacity(name.len() + 3);
    key.extend(name);
    key.extend(u16::from(query.kind).to_be_bytes());
    key.push(
        u8::from(query.head.dnssec_ok()) << 1 | u8::from(query.head.flags & CHECKING_DISABLED != 0),
    );
    key.into()
}

/// The question of a key.
fn question(key: &[u8]) -> Option<(Name, Ask)> {
    let (name, taken) = Name::read(key)?;
    let [high, low, flags] = *key.get(taken..)?.first_chunk::<3>()?;
    let kind = RecordType::from(u16::from_be_bytes([high, low]));
    let ask = Ask::new(name.wire(), kind, flags & 2 != 0, flags & 1 != 0)?;
    Some((name, ask))
}

impl Group {
    fn new(servers: Servers) -> Self {
        Self {
            servers,
            shunned: Mutex::default(),
        }
    }

    /// Servers in the order in which to ask them.
    fn order(&self, turn: usize, now: Instant) -> Vec<SocketAddr> {
        let mut all = self.servers.addresses.clone();
        if self.servers.rotate && !all.is_empty() {
            let first = turn % all.len();
            all.rotate_left(first);
        }
        let shunned = lock(&self.shunned);
        all.sort_by_key(|a| shunned.get(a).is_some_and(|until| *until > now));
        all
    }
}

impl Forwarder {
    /// One that knows nobody to ask yet.
    pub(crate) fn new(cache: Cache, metrics: Arc<Metrics>) -> Self {
        Self {
            routes: RwLock::default(),
            cache: Mutex::new(cache),
            flights: Mutex::default(),
            exchanges: Semaphore::new(MAX_EXCHANGES),
            turn: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Sends questions elsewhere from now on.
    pub(crate) fn set_routes(&self, domains: &[(ZoneName, Vec<SocketAddr>)], others: Servers) {
        let group = |(zone, servers): &(ZoneName, Vec<_>)| {
            (zone.clone(), Group::new(Servers::new(servers.clone())))
        };
        let mut domains: Vec<_> = domains.iter().map(group).collect();
        domains.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.labels()));
        let routes = Routes {
            domains,
            others: Some(Group::new(others)),
        };
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// What is remembered and can be told at once.
    pub(crate) fn remembered(&self, key: &[u8], now: Instant) -> Option<Given> {
        self.metrics.cache_requests.inc();
        let given = match lock(&self.cache).get(key, now) {
            Found::Fresh(stored, age) => Given::Fresh(stored, age),
            Found::Stale(stored, false) => Given::Stale(stored),
            Found::Stale(_, true) | Found::Nothing => {
                self.metrics.cache_misses.inc();
                return None;
            }
        };
        match &given {
            Given::Fresh(stored, _) => self.metrics.hit(stored.is_denial()),
            _ => _ = self.metrics.served_stale.inc(),
        }
        Some(given)
    }

    /// Asks the servers, together with all who ask the same at this time.
    pub(crate) async fn ask(self: &Arc<Self>, key: &Key) -> Given {
        let stale = match lock(&self.cache).get(key, Instant::now()) {
            // Another's exchange ended meanwhile.
            Found::Fresh(stored, age) => return Given::Fresh(stored, age),
            Found::Stale(stored, _) => Some(stored),
            Found::Nothing => None,
        };
        let mut flight = self.flight(key);
        let given = async {
            flight
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|g| g.clone())
        };
        let Some(stale) = stale else {
            return given.await.unwrap_or(Given::Nothing);
        };
        match tokio::time::timeout(PATIENCE, given).await {
            Ok(Some(fresh @ Given::Fresh(..))) => fresh,
            _ => {
                self.metrics.served_stale.inc();
                Given::Stale(stale)
            }
        }
    }

    /// Joins the exchange for a question, or begins it. It goes on when those who wait leave.
    fn flight(self: &Arc<Self>, key: &Key) -> watch::Receiver<Option<Given>> {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(key) {
            return flight.clone();
        }
        let (end, flight) = watch::channel(None);
        flights.insert(key.clone(), flight.clone());
        let landing = Landing {
            forwarder: self.clone(),
            key: key.clone(),
        };
        tokio::spawn(async move {
            let given = landing.forwarder.exchange(&landing.key).await;
            drop(landing);
            end.send_replace(Some(given));
        });
        flight
    }

    /// Asks one server after the other and remembers what came of it.
    async fn exchange(&self, key: &Key) -> Given {
        let Ok(_room) = self.exchanges.try_acquire() else {
            self.metrics.rejected.inc();
            return Given::Nothing;
        };
        let Some((name, ask)) = question(key) else {
            return Given::Nothing;
        };
        let asked = tokio::time::timeout(DEADLINE, self.ask_all(&name, &ask)).await;
        let answer = asked.ok().flatten().map(Arc::new);
        let now = Instant::now();
        let Some(stored) = answer.filter(|s| is_answer(s.code)) else {
            lock(&self.cache).failed(key, now);
            return Given::Nothing;
        };
        if let Some(ttl) = stored.ttl(ask.kind()) {
            let evicted = lock(&self.cache).put(key, stored.clone(), ttl, now);
            self.metrics.evictions.inc_by(evicted);
        }
        Given::Fresh(stored, 0)
    }

    /// The first server's answer that is one; else the last one's code.
    async fn ask_all(&self, name: &Name, ask: &Ask) -> Option<Stored> {
        let routes = self
            .routes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let special = routes
            .domains
            .iter()
            .find(|(zone, _)| name.above(zone).is_some())
            .map(|(_, group)| group);
        let group = special.or(routes.others.as_ref())?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for _ in 0..group.servers.attempts {
            for server in group.order(turn, Instant::now()) {
                let start = Instant::now();
                let asked = upstream::ask(server, ask, group.servers.timeout).await;
                let code = asked.as_ref().ok().map(|a| a.metadata.response_code);
                self.metrics.exchanged(server, code, start.elapsed());
                match asked {
                    Ok(answer) => {
                        lock(&group.shunned).remove(&server);
                        let stored = Stored::new(&answer)?;
                        if matches!(stored.code, ResponseCode::NoError | ResponseCode::NXDomain) {
                            return Some(stored);
                        }
                        last = Some(stored);
                    }
                    Err(error) => {
                        tracing::debug!(%server, ?name, %error, "name server did not answer");
                        lock(&group.shunned).insert(server, Instant::now() + SHUNNED);
                    }
                }
            }
            // They answered, and will say the same again.
            if last.is_some() {
                break;
            }
        }
        last
    }

    /// Forgets what is of no use any more; counts what is left.
    pub(crate) fn tidy(&self, now: Instant) {
        let mut cache = lock(&self.cache);
        cache.purge(now);
        self.metrics.remembered(cache.len());
    }
}

/// The code says something of the name, and not of a server that can't or won't.
fn is_answer(code: ResponseCode) -> bool {
    let refusal = matches!(code, ResponseCode::ServFail | ResponseCode::Refused);
    // Larger ones are of EDNS, which is between the two who speak it.
    !refusal && u16::from(code) < 16
}

/// Takes an exchange off the list, however it ends.
struct Landing {
    forwarder: Arc<Forwarder>,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.forwarder.flights).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing here is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the names of servers are read from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// `resolv.conf`.
    pub(crate) file: PathBuf,
    /// systemd's, with the servers behind its stub.
    pub(crate) systemd: PathBuf,
    /// Instead of both, when there are any.
    pub(crate) fixed: Vec<SocketAddr>,
    /// Addresses on which we answer.
    pub(crate) own: Vec<SocketAddr>,
}

impl Source {
    /// Reads the files anew.
    pub(crate) fn read(&self) -> Servers {
        if !self.fixed.is_empty() {
            return Servers::new(self.fixed.clone()).choose(None, &self.own);
        }
        let read = |path: &PathBuf| {
            let text = std::fs::read(path).inspect_err(|error| {
                tracing::debug!(path = %path.display(), %error, "no name servers from this file");
            });
            let scope = |name: &str| interface(name);
            text.ok()
                .map(|text| Servers::parse(&String::from_utf8_lossy(&text), scope))
        };
        let servers = read(&self.file).unwrap_or_else(|| Servers::new(Vec::new()));
        servers.choose(read(&self.systemd), &self.own)
    }
}

/// The number of a network interface.
fn interface(name: &str) -> Option<u32> {
    let path = PathBuf::from("/sys/class/net").join(name).join("ifindex");
    std::fs::read_to_string(path)
        .ok()
        .filter(|_| !name.contains('/'))?
        .trim()
        .parse()
        .ok()
}
