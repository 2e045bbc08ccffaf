//! logind: delaying a shutdown, and hearing of one (<https://systemd.io/INHIBITOR_LOCKS>).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::connection::Connection;
use crate::value::Value;
use crate::{Error, Systemd};

const MANAGER: [&str; 3] = [
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
];
const RULE: &str = "type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown',path='/org/freedesktop/login1'";
const UNIT: &str = "systemd-logind.service";
/// Has logind read its configuration again.
const SIGHUP: i32 = 1;

/// logind, over a connection of its own.
#[derive(Debug)]
pub struct Logind(Connection);

impl Logind {
    /// Connects, and hears of shutdowns from here on.
    ///
    /// # Errors
    /// When there is no bus, or no logind.
    pub fn connect() -> Result<Self, Error> {
        let mut connection = Connection::system()?;
        connection.listen(RULE)?;
        Ok(Self(connection))
    }

    /// The connection's socket: shut down, it ends a wait.
    ///
    /// # Errors
    /// When it cannot be duplicated.
    pub fn socket(&self) -> Result<UnixStream, Error> {
        self.0.socket()
    }

    /// How long a shutdown may be delayed at most.
    ///
    /// # Errors
    /// When logind does not say.
    pub fn longest_delay(&mut self) -> Result<Duration, Error> {
        let value = self.0.property(MANAGER, "InhibitDelayMaxUSec")?;
        let micros = value.as_u64();
        Ok(Duration::from_micros(
            micros.ok_or(Error::Malformed("InhibitDelayMaxUSec"))?,
        ))
    }

    /// Whether a shutdown is under way.
    ///
    /// # Errors
    /// When logind does not say.
    pub fn is_shutting_down(&mut self) -> Result<bool, Error> {
        let value = self.0.property(MANAGER, "PreparingForShutdown")?;
        value
            .as_bool()
            .ok_or(Error::Malformed("PreparingForShutdown"))
    }

    /// Delays shutdowns for as long as the descriptor is open, or logind is patient.
    ///
    /// # Errors
    /// When logind refuses.
    pub fn delay_shutdown(&mut self, who: &str, why: &str) -> Result<OwnedFd, Error> {
        let lock = ["shutdown", who, why, "delay"].map(Value::text);
        let reply = self.0.call(MANAGER, "Inhibit", &lock)?;
        let fd = reply.fds.into_iter().next();
        fd.ok_or(Error::Malformed("no descriptor of the lock"))
    }

    /// Has logind read its configuration again.
    ///
    /// # Errors
    /// When systemd refuses.
    pub fn reload(&mut self) -> Result<(), Error> {
        let whom = [Value::text(UNIT), Value::text("all"), Value::I32(SIGHUP)];
        self.0.call(Systemd::MANAGER, "KillUnit", &whom).map(drop)
    }

    /// Waits for the next word on a shutdown: it begins, or the one that had begun is called off.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn wait(&mut self) -> Result<bool, Error> {
        loop {
            let signal = self.0.signal(None)?;
            let begins = signal.body.first().and_then(Value::as_bool);
            if let (true, Some(begins)) = (signal.member == "PrepareForShutdown", begins) {
                return Ok(begins);
            }
        }
    }
}
