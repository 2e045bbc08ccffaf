//! A watch as single changes: a new list ends with the names of all it brought, so that what it did not
//! bring can be forgotten.

use std::collections::BTreeSet;
use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

/// Names of what a list brought.
type Names = BTreeSet<(String, String)>;

/// What a watch gives.
pub(crate) type Watched<K> = Result<watcher::Event<K>, watcher::Error>;

/// A change to what is known.
pub(crate) enum Change<K> {
    /// There is this object, new or changed.
    Set(K),
    /// It is gone: namespace and name.
    Removed(String, String),
    /// A list is complete: these are all.
    Listed(Names),
}

/// Where a watch is.
#[derive(Default)]
pub(crate) struct Feed {
    /// A first list was complete.
    pub(crate) complete: bool,
    /// Why the watch does not go on, while it doesn't.
    pub(crate) error: Option<String>,
    listing: Names,
}

impl Feed {
    /// Turns an event into changes; tells whether any changed something.
    pub(crate) fn take<K: ResourceExt>(
        &mut self,
        event: Watched<K>,
        mut apply: impl FnMut(Change<K>) -> bool,
    ) -> bool {
        let name = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        self.error = event.as_ref().err().map(ToString::to_string);
        match event {
            Ok(watcher::Event::Apply(object)) => apply(Change::Set(object)),
            Ok(watcher::Event::Delete(object)) => {
                let (namespace, name) = name(&object);
                apply(Change::Removed(namespace, name))
            }
            Ok(watcher::Event::Init) => {
                self.listing.clear();
                false
            }
            Ok(watcher::Event::InitApply(object)) => {
                self.listing.insert(name(&object));
                apply(Change::Set(object))
            }
            Ok(watcher::Event::InitDone) => {
                self.complete = true;
                apply(Change::Listed(std::mem::take(&mut self.listing)))
            }
            Err(error) => {
                tracing::debug!(%error, "watch interrupted");
                false
            }
        }
    }
}

/// What can be watched.
pub(crate) trait Kind:
    kube::Resource<DynamicType = ()> + Clone + Debug + Send + DeserializeOwned + 'static
{
}

impl<K> Kind for K where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + Send + DeserializeOwned + 'static
{
}

/// Watches all objects of a kind, for ever, with back-off.
pub(crate) fn watch<K: Kind>(client: &kube::Client) -> BoxStream<'static, Watched<K>> {
    watch_some(client, watcher::Config::default())
}

/// Watches the object of a name.
pub(crate) fn watch_one<K: Kind>(
    client: &kube::Client,
    name: &str,
) -> BoxStream<'static, Watched<K>> {
    let one = format!("metadata.name={name}");
    watch_some(client, watcher::Config::default().fields(&one))
}

fn watch_some<K: Kind>(
    client: &kube::Client,
    which: watcher::Config,
) -> BoxStream<'static, Watched<K>> {
    watcher(Api::<K>::all(client.clone()), which)
        .default_backoff()
        .boxed()
}
