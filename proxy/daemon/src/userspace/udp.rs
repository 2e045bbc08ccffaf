//! UDP: each client has a session, which is a socket of its own to one endpoint, until nothing came by for a while.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::relay::with_buffer;
use super::{Port, sockets};

/// Datagrams that are passed on before others get their turn.
const BURST: usize = 32;

/// A client: its address, and the one of this node that it speaks to.
type Client = (SocketAddr, IpAddr);

/// Receives until it is dropped; sessions end with it, as nobody could answer their clients.
pub(super) struct Receiving {
    sessions: Arc<Sessions>,
    task: AbortOnDropHandle<()>,
}

struct Sessions {
    socket: UdpSocket,
    port: Arc<Port>,
    by_client: Mutex<HashMap<Client, Session>>,
}

struct Session {
    /// Tells it from one that the same client had before or gets after.
    socket: Arc<UdpSocket>,
    endpoint: SocketAddr,
    /// When something came by last, in either direction.
    last: Instant,
    task: AbortHandle,
}

impl Receiving {
    pub(super) fn start(socket: UdpSocket, port: Arc<Port>) -> Self {
        let sessions = Arc::new(Sessions {
            socket,
            port,
            by_client: Mutex::default(),
        });
        let task = tokio::spawn(receive(sessions.clone()));
        Self {
            sessions,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Stops receiving. The port is free when the sessions' tasks have noticed it.
    pub(super) async fn end(mut self) {
        self.sessions.end(|_| true);
        self.task.abort();
        // Only says that it was ended.
        _ = (&mut self.task).await;
    }

    /// Ends sessions whose endpoint is not there any more: their clients' next datagrams go to one that is.
    pub(super) fn end_sessions_elsewhere(&self) {
        let there = self.sessions.port.balancer().endpoints().to_vec();
        self.sessions
            .end(|session| there.binary_search(&session.endpoint).is_err());
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.sessions.end(|_| true);
    }
}

async fn receive(sessions: Arc<Sessions>) {
    loop {
        if sessions.socket.readable().await.is_err() {
            return;
        }
        for _ in 0..BURST {
            match with_buffer(|buffer| sessions.question(buffer)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(service = %sessions.port.name, %error, "datagram not received");
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Client, Session>> {
        self.by_client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, which: impl Fn(&Session) -> bool) {
        self.lock().retain(|_, session| {
            let over = which(session);
            if over {
                session.task.abort();
            }
            !over
        });
    }

    /// Takes one datagram of a client and passes it on.
    fn question(self: &Arc<Self>, buffer: &mut [u8]) -> io::Result<()> {
        let take = || sockets::receive(&self.socket, buffer);
        let (size, from, to) = self.socket.try_io(Interest::READABLE, take)?;
        let bytes = buffer.get(..size).unwrap_or_default();
        let client = (from, to);
        let mut by_client = self.lock();
        let session = match by_client.entry(client) {
            Entry::Occupied(session) => Some(session.into_mut()),
            Entry::Vacant(place) => self.begin(client)?.map(|session| place.insert(session)),
        };
        let Some(session) = session else {
            return Ok(());
        };
        session.last = Instant::now();
        // A datagram that can't be sent is lost, as any may be. But this tells of the one before that was refused.
        let passed = sockets::pass(&session.socket, bytes);
        if passed.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            session.task.abort();
            by_client.remove(&client);
            self.refused(client);
            if let Some(session) = self.begin(client)? {
                _ = sockets::pass(&session.socket, bytes);
                by_client.insert(client, session);
            }
        }
        Ok(())
    }

    /// A client that stays with its endpoint gets another for its next datagram.
    fn refused(&self, client: Client) {
        tracing::debug!(service = %self.port.name, "endpoint refuses datagrams");
        self.port.balancer().forget(client.0.ip());
    }

    /// A session for a new client; `None`: there is no endpoint, or there are too many clients.
    fn begin(self: &Arc<Self>, client: Client) -> io::Result<Option<Session>> {
        let Ok(permit) = self.port.shared.limit.clone().try_acquire_owned() else {
            tracing::debug!(service = %self.port.name, "too many clients, a datagram is lost");
            return Ok(None);
        };
        let Some(endpoint) = self.port.next(client.0.ip(), false) else {
            return Ok(None);
        };
        let any: IpAddr = if endpoint.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        // No packet is sent: from now on the kernel takes only this endpoint's answers.
        socket.connect(endpoint)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let task = tokio::spawn(answer(self.clone(), client, socket.clone(), permit));
        Ok(Some(Session {
            socket,
            endpoint,
            last: Instant::now(),
            task: task.abort_handle(),
        }))
    }

    /// Passes on an endpoint's answers.
    fn answers(&self, client: Client, socket: &Arc<UdpSocket>) -> io::Result<()> {
        for _ in 0..BURST {
            let passed = with_buffer(|buffer| {
                let size = socket.try_recv(buffer)?;
                let bytes = buffer.get(..size).unwrap_or_default();
                // Lost where the client's buffer is full, or the client is gone.
                _ = sockets::send_from(&self.socket, bytes, client.1, client.0);
                Ok(())
            });
            match passed {
                Ok(()) => self.touch(client, socket),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn touch(&self, client: Client, socket: &Arc<UdpSocket>) {
        if let Some(session) = self.lock().get_mut(&client)
            && Arc::ptr_eq(&session.socket, socket)
        {
            session.last = Instant::now();
        }
    }

    /// When a session is to be looked at again; `None`: it was idle for long enough, and is gone.
    fn due(&self, client: Client, socket: &Arc<UdpSocket>) -> Option<Instant> {
        let mut by_client = self.lock();
        let session = by_client.get(&client)?;
        if !Arc::ptr_eq(&session.socket, socket) {
            return None;
        }
        let due = session.last + self.port.shared.udp_idle;
        if due > Instant::now() {
            return Some(due);
        }
        by_client.remove(&client);
        None
    }

    fn remove(&self, client: Client, socket: &Arc<UdpSocket>) {
        let mut by_client = self.lock();
        let same = |s: &Session| Arc::ptr_eq(&s.socket, socket);
        if by_client.get(&client).is_some_and(same) {
            by_client.remove(&client);
        }
    }
}

/// A session's own task: answers until it is idle or its endpoint refuses.
async fn answer(
    sessions: Arc<Sessions>,
    client: Client,
    socket: Arc<UdpSocket>,
    _permit: OwnedSemaphorePermit,
) {
    let mut due = Instant::now() + sessions.port.shared.udp_idle;
    // A refusal makes a socket ready without anything to read.
    let interest = Interest::READABLE | Interest::ERROR;
    loop {
        tokio::select! {
            ready = socket.ready(interest) => {
                let passed = ready.and_then(|_| sessions.answers(client, &socket));
                match passed {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // Where a sender has taken the refusal: it is not ready any more.
                        _ = socket.try_io(Interest::ERROR, || Err::<(), _>(error));
                    }
                    Err(error) => {
                        sessions.remove(client, &socket);
                        if error.kind() == io::ErrorKind::ConnectionRefused {
                            sessions.refused(client);
                        }
                        return;
                    }
                }
            }
            () = tokio::time::sleep_until(due) => match sessions.due(client, &socket) {
                Some(later) => due = later,
                None => return,
            },
        }
    }
}
