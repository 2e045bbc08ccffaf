//! Containers as they are: labels and tasks read back from containerd.

use std::collections::{BTreeMap, HashMap};

use containerd_client::services::v1::{
    Container as Object, GetRequest, ListContainersRequest, ListTasksRequest,
};
use containerd_client::types::v1::{Process as Task, Status};
use jiff::Timestamp;

use super::{Container, State, label};
use crate::client::{QUICK, ask, or_absent};
use crate::error::Error;
use crate::events::timestamp;
use crate::model::{Kind, PodRef};
use crate::runtime::Runtime;

impl Runtime {
    /// All of our containers with their states.
    pub async fn containers(&self) -> Result<Vec<Container>, Error> {
        let message = ListContainersRequest {
            filters: vec![format!("labels.{:?}", label::KIND)],
        };
        let objects = ask!(
            self.client(),
            containers.list(message),
            QUICK,
            "list",
            "containers"
        )?;
        let tasks = self.tasks().await?;
        let objects = objects.containers.into_iter();
        Ok(objects
            .map(|object| self.read(&object, tasks.get(&object.id)))
            .collect())
    }

    /// All tasks, by container id.
    pub(crate) async fn tasks(&self) -> Result<HashMap<String, Task>, Error> {
        let message = ListTasksRequest::default();
        let tasks = ask!(self.client(), tasks.list(message), QUICK, "list", "tasks")?;
        let named = |task: Task| (task.id.clone(), task);
        Ok(tasks.tasks.into_iter().map(named).collect())
    }

    /// One of our containers.
    pub async fn container(&self, id: &str) -> Result<Option<Container>, Error> {
        // Both at once: an exit is to be seen without delay.
        let (object, task) = tokio::try_join!(self.object(id), self.task(id))?;
        let object = object.filter(|o| o.labels.contains_key(label::KIND));
        Ok(object.map(|object| self.read(&object, task.as_ref())))
    }

    /// A container's task, if it has one.
    pub(crate) async fn task(&self, id: &str) -> Result<Option<Task>, Error> {
        let message = GetRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        };
        let answer = ask!(
            self.client(),
            tasks.get(message),
            QUICK,
            "get task of container",
            id
        );
        Ok(or_absent(answer)?.and_then(|answer| answer.process))
    }

    pub(crate) async fn container_labels(
        &self,
        id: &str,
    ) -> Result<HashMap<String, String>, Error> {
        let object = self.object(id).await?;
        let object = object.ok_or_else(|| Error::not_found("container", id))?;
        Ok(object.labels)
    }

    /// A container as its object and its task say.
    pub(super) fn read(&self, object: &Object, task: Option<&Task>) -> Container {
        let text = |key: &str| object.labels.get(key).cloned().unwrap_or_default();
        let created = timestamp(object.created_at.as_ref()).unwrap_or(Timestamp::UNIX_EPOCH);
        let started = self.noted_start(&object.id);
        let state = match task {
            Some(task) => {
                let cgroup = text(label::CGROUP);
                let oom = |code| self.was_killed_for_memory(&object.id, &cgroup, code);
                state(task, created, started, oom)
            }
            // Tasks are forgotten when the machine goes down, and when a shim is lost. What was started, or made in
            // another life, has ended then, nobody saw how.
            None if started.is_none() && text(label::LIFE) == self.inner.life => State::Created,
            None => State::Exited {
                code: LOST,
                started,
                at: started.unwrap_or(created),
                oom: false,
            },
        };
        Container {
            id: object.id.clone(),
            pod: PodRef {
                uid: text(label::POD_UID),
                namespace: text(label::POD_NAMESPACE),
                name: text(label::POD_NAME),
            },
            name: text(label::NAME),
            attempt: text(label::ATTEMPT).parse().unwrap_or_default(),
            kind: Kind::parse(&text(label::KIND)),
            image: object.image.clone(),
            image_id: text(label::IMAGE_ID),
            created,
            log_path: text(label::LOG).into(),
            tty: text(label::TTY) == "true",
            state,
            labels: object
                .labels
                .clone()
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        }
    }
}

/// Exit code of a container that ended unseen, as runtimes with CRI give it.
const LOST: i32 = 255;

fn state(
    task: &Task,
    created: Timestamp,
    started: Option<Timestamp>,
    oom: impl FnOnce(i32) -> bool,
) -> State {
    match task.status() {
        Status::Running | Status::Paused | Status::Pausing => State::Running {
            pid: task.pid,
            started: started.unwrap_or(created),
        },
        Status::Stopped => State::Exited {
            code: task.exit_status.cast_signed(),
            started,
            at: timestamp(task.exited_at.as_ref()).unwrap_or(created),
            oom: oom(task.exit_status.cast_signed()),
        },
        Status::Created | Status::Unknown => State::Created,
    }
}
