//! systemd: transient slices, whose cgroups it makes and keeps.

use std::path::Path;
use std::time::Instant;

use crate::Error;
use crate::connection::{Connection, PATIENCE};
use crate::value::Value;

const JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const MISSING: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Properties of a unit, by name.
pub type Properties = Vec<(&'static str, Value)>;

/// Whether systemd is the machine's first process.
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// systemd, over a connection of its own. Made for a step or two: nobody reads its signals in between.
#[derive(Debug)]
pub struct Systemd(Connection);

impl Systemd {
    /// Whom to call.
    pub(crate) const MANAGER: [&str; 3] = [
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    ];

    /// Connects.
    ///
    /// # Errors
    /// When there is no bus.
    pub fn connect() -> Result<Self, Error> {
        let mut connection = Connection::system()?;
        connection.listen(JOBS)?;
        connection.call(Self::MANAGER, "Subscribe", &[])?;
        Ok(Self(connection))
    }

    /// Makes a slice with these properties, and its cgroup; one that is there gets the properties.
    ///
    /// # Errors
    /// When systemd refuses, or its job fails.
    pub fn slice(&mut self, unit: &str, description: &str, set: Properties) -> Result<(), Error> {
        let mut all: Properties = vec![
            ("Description", Value::text(description)),
            // Nothing orders it before the machine's shutdown: what is in it is ended by its own rules.
            ("DefaultDependencies", Value::Bool(false)),
        ];
        for accounting in [
            "MemoryAccounting",
            "CPUAccounting",
            "TasksAccounting",
            "IOAccounting",
        ] {
            all.push((accounting, Value::Bool(true)));
        }
        all.extend(set.iter().cloned());
        let arguments = [
            Value::text(unit),
            Value::text("replace"),
            properties(all),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        match self.job("StartTransientUnit", unit, &arguments) {
            Err(error) if error.is(EXISTS) => self.set(unit, set),
            done => done,
        }
    }

    /// Changes properties until the unit ends.
    ///
    /// # Errors
    /// When systemd refuses.
    pub fn set(&mut self, unit: &str, set: Properties) -> Result<(), Error> {
        if set.is_empty() {
            return Ok(());
        }
        let arguments = [Value::text(unit), Value::Bool(true), properties(set)];
        let set = self.0.call(Self::MANAGER, "SetUnitProperties", &arguments);
        set.map(drop)
    }

    /// Ends a unit and all below it; one that is not there has ended.
    ///
    /// # Errors
    /// When systemd refuses, or its job fails.
    pub fn stop(&mut self, unit: &str) -> Result<(), Error> {
        let arguments = [Value::text(unit), Value::text("replace")];
        match self.job("StopUnit", unit, &arguments) {
            Err(error) if error.is(MISSING) => Ok(()),
            done => done,
        }
    }

    /// Calls what makes a job, and waits for its end.
    fn job(&mut self, member: &str, unit: &str, arguments: &[Value]) -> Result<(), Error> {
        let reply = self.0.call(Self::MANAGER, member, arguments)?;
        let job = reply.body.first().and_then(Value::as_text);
        let job = job.ok_or(Error::Malformed("no job"))?.to_owned();
        let call = || format!("{member} {unit}");
        let until = Instant::now() + PATIENCE;
        loop {
            let signal = self.0.signal(Some(until)).map_err(|error| match error {
                Error::Late(_) => Error::Late(call()),
                other => other,
            })?;
            // u id, o job, s unit, s result
            let text = |at: usize| signal.body.get(at).and_then(Value::as_text);
            if signal.member != "JobRemoved" || text(1) != Some(&job) {
                continue;
            }
            return match text(3) {
                Some("done" | "skipped") => Ok(()),
                result => Err(Error::Job {
                    call: call(),
                    result: result.unwrap_or_default().to_owned(),
                }),
            };
        }
    }
}

fn properties(set: Properties) -> Value {
    let pair =
        |(name, value): (&str, Value)| Value::Struct(vec![Value::text(name), value.variant()]);
    Value::Array("(sv)".into(), set.into_iter().map(pair).collect())
}
