//! The process side of a container: start, signal, remove.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use containerd_client::services::v1::{
    Container as Object, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest, KillRequest,
    StartRequest, UpdateContainerRequest, WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process as Task, Status};
use nix::sys::signal::Signal;

use super::{Container, Created, label};
use crate::client::{QUICK, ask, call, ended, or_absent};
use crate::error::{Error, Errors};
use crate::failpoint;
use crate::runtime::Runtime;

/// How long a killed process may take to be gone: uninterruptible I/O.
const DYING: Duration = Duration::from_secs(10);

impl Runtime {
    /// Starts the container's process and returns how it is then. A running container stays as it is.
    pub async fn container_start(&self, created: Created) -> Result<Container, Error> {
        let Created { id, fresh } = created;
        let id = id.as_str();
        let (object, task, rootfs) = match fresh {
            Some(fresh) => (fresh.object, None, Some(fresh.rootfs)),
            None => {
                let object = self.object(id).await?;
                let object = object.ok_or_else(|| Error::not_found("container", id))?;
                (object, self.task(id).await?, None)
            }
        };
        match task {
            Some(task) if task.status() == Status::Created => {}
            Some(task) => return Ok(self.read(&object, Some(&task))),
            None => {
                let rootfs = match (rootfs, object.snapshot_key.as_str()) {
                    (Some(rootfs), _) => rootfs,
                    // A holder has a directory as its root.
                    (None, "") => Vec::new(),
                    (None, key) => self.rootfs(key).await?,
                };
                self.create_task(&object, rootfs).await?;
            }
        }
        failpoint::pass("task created");
        let cgroup = object.labels.get(label::CGROUP);
        self.note_start(id, cgroup.map_or("", String::as_str))?;
        failpoint::pass("start noted");
        let pid = self.start_task(id).await?;
        failpoint::pass("task started");
        let mut task = Task {
            pid,
            ..Task::default()
        };
        task.set_status(Status::Running);
        Ok(self.read(&object, Some(&task)))
    }

    async fn start_task(&self, id: &str) -> Result<u32, Error> {
        let message = StartRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        };
        let started = ask!(
            self.client(),
            tasks.start(message),
            self.patience(),
            "start container",
            id
        );
        match started {
            Ok(answer) => Ok(answer.pid),
            Err(error) => {
                // Without this the shim would stay.
                self.delete_task(id).await?;
                self.forget_start(id)?;
                Err(error)
            }
        }
    }

    async fn create_task(&self, object: &Object, rootfs: Vec<Mount>) -> Result<(), Error> {
        let mut message = CreateTaskRequest {
            container_id: object.id.clone(),
            rootfs,
            ..CreateTaskRequest::default()
        };
        let reader = self.streams(object, &mut message)?;
        let uid = object.labels.get(label::POD_UID);
        let _held = self.inner.shims.hold(uid.map_or("", String::as_str)).await;
        let made = ask!(
            self.client(),
            tasks.create(message),
            self.patience(),
            "create task of container",
            &object.id
        );
        if let (Err(_), Some(mut reader)) = (&made, reader) {
            // It would wait for a writer for ever.
            let _ = reader.start_kill();
        }
        made.map(drop)
    }

    /// Sets one label of a container.
    pub async fn container_label(&self, id: &str, key: &str, value: String) -> Result<(), Error> {
        let message = UpdateContainerRequest {
            container: Some(Object {
                id: id.to_owned(),
                labels: HashMap::from([(key.to_owned(), value)]),
                ..Object::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![format!("labels.{key}")],
            }),
        };
        ask!(
            self.client(),
            containers.update(message),
            QUICK,
            "label container",
            id
        )?;
        Ok(())
    }

    /// Sends a signal (`SIGTERM`, `TERM` or a number) to the first process, or to all. Success
    /// when there is no process any more.
    pub async fn container_kill(&self, id: &str, signal: &str, all: bool) -> Result<(), Error> {
        self.signal(id, "", parse_signal(signal)?, all).await
    }

    pub(crate) async fn signal(
        &self,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), Error> {
        let message = KillRequest {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
        };
        match ask!(
            self.client(),
            tasks.kill(message),
            QUICK,
            "signal container",
            id
        ) {
            Err(Error::Call { status, .. }) if ended(&status) => Ok(()),
            settled => settled,
        }
    }

    /// Kills what runs, deletes task, container and snapshot. Goes on after errors and returns all.
    /// Success when there is nothing.
    pub async fn container_remove(&self, id: &str) -> Result<(), Error> {
        let mut errors = Errors::default();
        errors.note(self.delete_task(id).await);
        failpoint::pass("task deleted");
        let message = DeleteContainerRequest { id: id.to_owned() };
        let deleted = ask!(
            self.client(),
            containers.delete(message),
            QUICK,
            "delete container",
            id
        );
        errors.note(or_absent(deleted));
        failpoint::pass("container deleted");
        errors.note(self.remove_snapshot(id).await);
        failpoint::pass("snapshot removed");
        errors.note(self.container_forget(id));
        errors.finish()
    }

    /// Removes the files that stand for a container that is gone.
    pub fn container_forget(&self, id: &str) -> Result<(), Error> {
        let mut errors = Errors::default();
        errors.note(self.forget_streams(id));
        errors.note(self.forget_start(id));
        self.inner.kills.forget(id);
        errors.finish()
    }

    /// Removes the files of containers that are not among these, which are all there are: an agent that was killed
    /// while it removed a container has left them. Only while no container is being made.
    pub fn containers_sweep(&self, all: &[Container]) -> Result<(), Error> {
        let mut errors = Errors::default();
        for dir in ["io", "started"] {
            let entries = fs::read_dir(self.config().run_dir.join(dir));
            let names = entries.into_iter().flatten().flatten();
            for id in names.filter_map(|e| e.file_name().into_string().ok()) {
                if !all.iter().any(|c| c.id == id) {
                    errors.note(self.container_forget(&id));
                }
            }
        }
        errors.finish()
    }

    /// Kills a task if it lives and deletes it, and its shim with it.
    async fn delete_task(&self, id: &str) -> Result<(), Error> {
        let Some(task) = self.task(id).await? else {
            return self.end_lost_shim(id).await;
        };
        if task.status() != Status::Stopped {
            self.signal(id, "", Signal::SIGKILL as u32, true).await?;
            if task.status() != Status::Created {
                self.wait_for_end(id).await?;
            }
        }
        let uid = match self.inner.shims.are_shared() {
            true => self.container_labels(id).await?.remove(label::POD_UID),
            false => None,
        };
        let _held = self
            .inner
            .shims
            .hold(uid.as_deref().unwrap_or_default())
            .await;
        let message = DeleteTaskRequest {
            container_id: id.to_owned(),
        };
        let deleted = ask!(
            self.client(),
            tasks.delete(message),
            self.patience(),
            "delete task of container",
            id
        );
        match or_absent(deleted) {
            // With its last task a shim ends, which can be before it has answered for the last but one.
            Err(_) if self.task(id).await?.is_none() => Ok(()),
            settled => settled.map(drop),
        }
    }

    async fn wait_for_end(&self, id: &str) -> Result<(), Error> {
        let message = WaitRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        };
        let mut service = self.client().tasks();
        let end = service.wait(self.client().request(message));
        or_absent(call("wait for container", id, DYING, end).await).map(|_| ())
    }
}

/// `SIGTERM`, `TERM`, `15`, `RTMIN+3`.
pub(crate) fn parse_signal(text: &str) -> Result<u32, Error> {
    let invalid = || Error::invalid("signal", text, "unknown");
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(invalid);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = bare
        .strip_prefix("RTMIN")
        .map(|rest| (34, rest))
        .or_else(|| bare.strip_prefix("RTMAX").map(|rest| (64, rest)));
    if let Some((base, rest)) = realtime {
        let offset: i32 = if rest.is_empty() {
            0
        } else {
            rest.parse().map_err(|_| invalid())?
        };
        let number = base + offset;
        let valid = (34..=64).contains(&number);
        return valid.then_some(number.unsigned_abs()).ok_or_else(invalid);
    }
    let signal: Signal = format!("SIG{bare}").parse().map_err(|_| invalid())?;
    Ok(signal as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_in_several_ways() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX+1", None),
            ("0", None),
            ("65", None),
            ("SIGNONE", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text).ok(), expected, "{text}");
        }
    }
}
