//! What authorization knows of the cluster, kept by watches of the store: roles and bindings, and what
//! the pods on each node refer to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use keelson_api::{Resource, Status};
use keelson_store::{Event, Range, Revision, WatchMessage};
use serde_json::Value;

use crate::object;
use crate::state::{Server, store_error};

/// How long to wait before a watch that failed is started anew.
const PAUSE: Duration = Duration::from_millis(500);

/// Group, version, plural and which cache the objects go into.
const FOLLOWED: &[(&str, &str, &str, Cache)] = &[
    (
        "rbac.authorization.k8s.io",
        "v1",
        "clusterroles",
        Cache::Rbac,
    ),
    ("rbac.authorization.k8s.io", "v1", "roles", Cache::Rbac),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "clusterrolebindings",
        Cache::Rbac,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "rolebindings",
        Cache::Rbac,
    ),
    ("", "v1", "pods", Cache::Graph),
    ("", "v1", "persistentvolumes", Cache::Graph),
    ("storage.k8s.io", "v1", "volumeattachments", Cache::Graph),
];

#[derive(Clone, Copy)]
enum Cache {
    Rbac,
    Graph,
}

/// Fills the caches, then keeps them until the server stops.
pub(crate) async fn start(server: &Arc<Server>) -> Result<(), Status> {
    for (group, version, plural, cache) in FOLLOWED {
        let Ok(row) = server.row(group, version, plural) else {
            continue;
        };
        let mut follower = Follower {
            server: server.clone(),
            row,
            cache: *cache,
            known: BTreeSet::new(),
        };
        let revision = follower.relist().await?;
        server.tasks.spawn(async move {
            let stop = follower.server.stopping.clone();
            tokio::select! {
                () = follower.follow(revision) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    Ok(())
}

struct Follower {
    server: Arc<Server>,
    row: Arc<Resource>,
    cache: Cache,
    known: BTreeSet<(String, String)>,
}

impl Follower {
    fn prefix(&self) -> String {
        object::prefix(&self.row, "")
    }

    async fn relist(&mut self) -> Result<Revision, Status> {
        let range = Range {
            prefix: self.prefix(),
            ..Range::default()
        };
        let page = self.server.store.list(range).await.map_err(store_error)?;
        let mut gone = std::mem::take(&mut self.known);
        for kv in &page.items {
            let object = object::load(&self.row, kv)?;
            gone.remove(&identity(&object));
            self.apply(&object);
        }
        for (namespace, name) in gone {
            self.remove(&namespace, &name);
        }
        Ok(page.revision)
    }

    async fn follow(&mut self, mut from: Revision) {
        loop {
            if let Ok(mut watch) = self.server.store.watch(&self.prefix(), from).await {
                while let Some(Ok(message)) = watch.next().await {
                    match message {
                        WatchMessage::Events(events) => events.iter().for_each(|e| {
                            self.event(e);
                            from = e.revision;
                        }),
                        WatchMessage::Progress(revision) => from = revision,
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
            match self.relist().await {
                Ok(revision) => from = revision,
                Err(error) => {
                    tracing::warn!(%error, resource = %self.row.plural, "refill an authorization cache")
                }
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let state = event.current.as_ref().or(event.previous.as_ref());
        let Some(Ok(object)) = state.map(|kv| object::load(&self.row, kv)) else {
            return;
        };
        if event.current.is_some() {
            self.apply(&object);
        } else {
            self.remove(object::namespace(&object), object::name(&object));
        }
    }

    fn apply(&mut self, object: &Value) {
        self.known.insert(identity(object));
        match self.cache {
            Cache::Rbac => self.server.authority.with_rbac(|index| index.apply(object)),
            Cache::Graph => self
                .server
                .authority
                .with_graph(|graph| graph.apply(object)),
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        self.known.remove(&(namespace.to_owned(), name.to_owned()));
        let kind = &*self.row.kind;
        match self.cache {
            Cache::Rbac => self
                .server
                .authority
                .with_rbac(|index| index.remove(kind, namespace, name)),
            Cache::Graph => self
                .server
                .authority
                .with_graph(|graph| graph.remove(kind, namespace, name)),
        }
    }
}

fn identity(object: &Value) -> (String, String) {
    (
        object::namespace(object).to_owned(),
        object::name(object).to_owned(),
    )
}
