//! A connection to a bus: logging in, calls, signals. Blocking, one user at a time.

use std::collections::VecDeque;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::Error;
use crate::message::{Kind, Message};
use crate::value::Value;

/// Where the system's bus is, if nothing else is said.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// The bus itself.
const DBUS: [&str; 3] = [
    "org.freedesktop.DBus",
    "/org/freedesktop/DBus",
    "org.freedesktop.DBus",
];
/// For an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);
/// Descriptors that may come at once.
const FDS: usize = 16;
/// The longest line of the other side's while logging in.
const LINE: usize = 4096;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its values.
    pub body: Vec<Value>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    /// What was read and is not a whole message yet.
    bytes: Vec<u8>,
    /// Descriptors of messages that were not taken yet.
    fds: VecDeque<OwnedFd>,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

impl Connection {
    /// To the system's bus (`DBUS_SYSTEM_BUS_ADDRESS`, or its usual place).
    ///
    /// # Errors
    /// When there is none, or it does not let us in.
    pub fn system() -> Result<Self, Error> {
        let told = std::env::var("DBUS_SYSTEM_BUS_ADDRESS");
        let address = told.unwrap_or_else(|_| BUS.to_owned());
        let mut places = address.split(';');
        let path = places.find_map(|a| {
            let options = a.strip_prefix("unix:")?.split(',');
            options.into_iter().find_map(|o| o.strip_prefix("path="))
        });
        Self::open(path.ok_or_else(|| Error::Address(address.clone()))?)
    }

    /// To the bus at a socket.
    ///
    /// # Errors
    /// As [`Connection::system`].
    pub fn open(path: &str) -> Result<Self, Error> {
        let failed = |source| Error::Connect {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut connection = Self {
            stream,
            serial: 0,
            bytes: Vec::new(),
            fds: VecDeque::new(),
            signals: VecDeque::new(),
        };
        connection.log_in()?;
        connection.bus("Hello", &[])?;
        Ok(connection)
    }

    /// The same socket, to close it from elsewhere.
    ///
    /// # Errors
    /// When it cannot be duplicated.
    pub fn socket(&self) -> Result<UnixStream, Error> {
        Ok(self.stream.try_clone()?)
    }

    /// By the user's id, which the socket tells.
    fn log_in(&mut self) -> Result<(), Error> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        self.stream
            .write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        self.expect("OK")?;
        self.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        self.expect("AGREE_UNIX_FD")?;
        self.stream.write_all(b"BEGIN\r\n")?;
        Ok(())
    }

    fn expect(&mut self, word: &str) -> Result<(), Error> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            if line.len() >= LINE || self.stream.read(&mut byte)? == 0 {
                return Err(Error::Refused("it hangs up".into()));
            }
            line.extend(byte);
        }
        let line = String::from_utf8_lossy(&line);
        match line.split_whitespace().next() == Some(word) {
            true => Ok(()),
            false => Err(Error::Refused(line.trim().to_owned())),
        }
    }

    /// Calls a method of `[destination, path, interface]` and waits for the answer.
    ///
    /// # Errors
    /// What went wrong on the way, or [`Error::Remote`].
    pub fn call(
        &mut self,
        [destination, path, interface]: [&str; 3],
        member: &str,
        body: &[Value],
    ) -> Result<Reply, Error> {
        self.serial += 1;
        let call = Message {
            destination: destination.to_owned(),
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            body: body.to_vec(),
            ..Message::new(Kind::Call, self.serial)
        };
        self.stream.write_all(&call.encode())?;
        let name = || format!("{interface}.{member}");
        let until = Instant::now() + PATIENCE;
        loop {
            let Some((message, fds)) = self.read(Some(until))? else {
                return Err(Error::Late(name()));
            };
            match message.kind {
                Kind::Signal => self.signals.push_back(message),
                Kind::Return if message.reply_to == call.serial => {
                    let body = message.body;
                    return Ok(Reply { body, fds });
                }
                Kind::Error if message.reply_to == call.serial => {
                    let said = message.body.first().and_then(Value::as_text);
                    return Err(Error::Remote {
                        call: name(),
                        message: said.unwrap_or_default().to_owned(),
                        name: message.error,
                    });
                }
                // Nothing here can be called.
                Kind::Call | Kind::Return | Kind::Error => {}
            }
        }
    }

    /// Calls the bus itself.
    fn bus(&mut self, member: &str, body: &[Value]) -> Result<Reply, Error> {
        self.call(DBUS, member, body)
    }

    /// Lets signals come that a rule describes.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn listen(&mut self, rule: &str) -> Result<(), Error> {
        self.bus("AddMatch", &[Value::text(rule)]).map(drop)
    }

    /// A property of `[destination, path, interface]`.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn property(
        &mut self,
        [destination, path, interface]: [&str; 3],
        name: &str,
    ) -> Result<Value, Error> {
        let of = [Value::text(interface), Value::text(name)];
        let properties = [destination, path, "org.freedesktop.DBus.Properties"];
        let reply = self.call(properties, "Get", &of)?;
        let value = reply.body.into_iter().next();
        value.ok_or(Error::Malformed("a property without a value"))
    }

    /// The next signal; waits for ever without a time.
    ///
    /// # Errors
    /// When the connection ends, or the time is over.
    pub fn signal(&mut self, until: Option<Instant>) -> Result<Message, Error> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(signal);
        }
        loop {
            match self.read(until)? {
                Some((message, _)) if message.kind == Kind::Signal => return Ok(message),
                Some(_) => {}
                None => return Err(Error::Late("a signal".into())),
            }
        }
    }

    /// The next message with its descriptors; `None` when the time is over.
    fn read(&mut self, until: Option<Instant>) -> Result<Option<(Message, Vec<OwnedFd>)>, Error> {
        loop {
            let length = Message::length(&self.bytes)?;
            if let Some(length) = length.filter(|l| *l <= self.bytes.len()) {
                let rest = self.bytes.split_off(length);
                let message = Message::decode(&std::mem::replace(&mut self.bytes, rest))?;
                let count = usize::try_from(message.fds).unwrap_or(usize::MAX);
                let fds = self.fds.drain(..count.min(self.fds.len())).collect();
                return Ok(Some((message, fds)));
            }
            let left = until.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|l| l.is_zero()) {
                return Ok(None);
            }
            self.stream.set_read_timeout(left)?;
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there; false when nothing came in time.
    fn receive(&mut self) -> Result<bool, Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let count = match recvmsg(&self.stream, &mut slices, &mut ancillary, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(Error::Io(error.into())),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if count == 0 {
            return Err(Error::Closed);
        }
        self.bytes.extend(bytes.iter().take(count));
        Ok(true)
    }
}
