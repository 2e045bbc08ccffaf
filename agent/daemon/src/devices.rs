//! Device plugins of this node: they register on our socket, tell of their devices, and are asked when a container gets
//! some. Who has which is written down before the container is made, so that an agent that starts again knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceStatus};
use keelson_agent_plan::admit::Refusal;
use keelson_agent_plan::containers;
pub(crate) use keelson_agent_plan::devices::refusal;
use keelson_agent_plan::devices::{self as plan, Choice, Figures, Need, State};
use keelson_agent_plan::topology::Provider;
use keelson_devices::{Answer, Error, Lister, Listing, Offered, Plugin, Registrar, Request};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::outcome::Message;
use crate::shared::Shared;

/// Names that plugins and other programs have built in.
const SOCKET: &str = "kubelet.sock";
const CHECKPOINT: &str = "kubelet_internal_checkpoint";
/// The next one, while it is written.
const NEXT: &str = ".kubelet_internal_checkpoint.new";
/// When a folder that could not be used, or was another's, is looked at again.
const AGAIN: Duration = Duration::from_secs(10);

/// A plugin that has registered.
struct Joined {
    plugin: Plugin,
    /// Cancelled when another takes its place.
    ends: CancellationToken,
}

#[derive(Default)]
struct Inner {
    state: State,
    plugins: BTreeMap<String, Joined>,
}

/// The devices of this node.
pub(crate) struct Devices {
    file: PathBuf,
    inner: Mutex<Inner>,
    /// Devices are given to one pod after the other.
    turn: tokio::sync::Mutex<()>,
    /// Somebody has let go of some.
    released: Notify,
    /// What the node tells is not true any more.
    pub(crate) changed: Notify,
    /// There has been a plugin: somebody may ask who has what.
    used: CancellationToken,
}

impl Devices {
    /// What an earlier agent wrote down.
    pub(crate) fn open(dir: &Path) -> Self {
        let file = dir.join(CHECKPOINT);
        let state = match is_taken(dir) {
            true => State::default(),
            false => read(&file),
        };
        let used = CancellationToken::new();
        if state != State::default() {
            used.cancel();
        }
        Self {
            file,
            inner: Mutex::new(Inner {
                state,
                plugins: BTreeMap::new(),
            }),
            turn: tokio::sync::Mutex::default(),
            released: Notify::new(),
            changed: Notify::new(),
            used,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, state: &State) -> io::Result<()> {
        write(&self.file, &plan::encode(state))
    }

    fn try_save(&self, state: &State) {
        if let Err(error) = self.save(state) {
            tracing::warn!(file = %self.file.display(), %error, "devices not written down");
        }
    }

    /// What the node tells.
    pub(crate) fn figures(&self) -> Figures {
        let mut inner = self.lock();
        if inner.state.expire(Timestamp::now()) {
            self.try_save(&inner.state);
        }
        inner.state.figures()
    }

    /// Resources of plugins that a pod asks for.
    pub(crate) fn managed(&self, spec: &PodSpec) -> BTreeSet<String> {
        let names = containers::all(spec).flat_map(plan::asked);
        let names: BTreeSet<String> = names.map(|(name, _)| name.to_owned()).collect();
        match names.is_empty() {
            true => names,
            false => {
                let inner = self.lock();
                let those = names.into_iter().filter(|n| inner.state.is_managed(n));
                those.collect()
            }
        }
    }

    /// Has a pod admitted by somebody who asks on which of these NUMA nodes its devices could be.
    pub(crate) fn near(
        &self,
        pod: &Pod,
        numa: &[u32],
        admit: impl FnOnce(&mut dyn Provider) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let mut asking = plan::Asking::new(&inner.state, numa);
        admit(&mut asking)?;
        let near = asking.near;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        for (container, nodes) in near {
            inner.state.align(uid, &container, nodes);
        }
        Ok(())
    }

    /// How the devices are that a pod has.
    pub(crate) fn health(&self, uid: &str) -> BTreeMap<String, Vec<ResourceStatus>> {
        self.lock().state.health(uid)
    }

    /// A pod needs its devices no more.
    pub(crate) fn release(&self, uid: &str) {
        let mut inner = self.lock();
        if inner.state.release(uid) {
            self.try_save(&inner.state);
            self.released.notify_waiters();
        }
    }

    /// Whether a pod has such devices that the API has forgotten and that has not ended yet: the scheduler has given
    /// away already what it has.
    fn come_free(&self, shared: &Shared, needs: &[Need<'_>]) -> bool {
        let inner = self.lock();
        let entries = shared.entries();
        let users = needs.iter().flat_map(|n| inner.state.users(n.resource));
        let mut ends = users.filter_map(|uid| entries.get(&uid).map(|e| e.forgotten));
        ends.any(|forgotten| forgotten)
    }

    /// Lets go what pods had that are gone since.
    pub(crate) fn retain(&self, alive: impl Fn(&str) -> bool) {
        let mut inner = self.lock();
        if inner.state.retain(alive) {
            self.try_save(&inner.state);
        }
    }

    /// Whether a container has something of a resource.
    fn has(&self, need: &Need<'_>) -> bool {
        let inner = self.lock();
        let has = inner.state.of(need.uid, need.container);
        has.is_some_and(|r| r.contains_key(need.resource))
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        let inner = self.lock();
        let joined = inner.plugins.get(resource);
        let plugin = joined.map(|j| j.plugin.clone());
        plugin.ok_or_else(|| format!("endpoint {resource} has been stopped"))
    }
}

/// Whether somebody answers in this folder already: a kubelet, or another agent.
fn is_taken(dir: &Path) -> bool {
    UnixStream::connect(dir.join(SOCKET)).is_ok()
}

fn read(file: &Path) -> State {
    let text = match fs::read_to_string(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return State::default(),
        text => text.map_err(|e| e.to_string()),
    };
    let state = text.and_then(|t| plan::decode(&t, Timestamp::now()));
    state.unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), error, "who has which device is not known any more");
        State::default()
    })
}

/// Whole or not at all.
fn write(file: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let new = file.with_file_name(NEXT);
    let mut options = fs::OpenOptions::new();
    let mut to = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    to.write_all(text.as_bytes())?;
    fs::rename(&new, file)
}

/// Listens for plugins until shutdown.
pub(crate) async fn plugins(shared: Arc<Shared>) {
    let door = Door(shared.clone());
    let serve = |listener| keelson_devices::registrations(listener, door);
    // Plugins see by the end of their own sockets, or by our new one, that they are to register again. That a new agent
    // ends them is part of the API.
    let ours = |_: &Path| true;
    answer(&shared, &shared.config.device_plugins_dir, ours, serve).await;
}

/// Answers who has what until shutdown, from when there is a plugin.
pub(crate) async fn lists(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.shutdown.cancelled() => return,
        () = shared.devices.used.cancelled() => {}
    }
    let list = List(shared.clone());
    let serve = |listener| keelson_devices::lists(listener, list);
    let ours = |path: &Path| path.ends_with(SOCKET);
    answer(&shared, &shared.config.pod_resources_dir, ours, serve).await;
}

/// Serves on our socket in a folder, as soon as it can be ours. Old sockets go of which `ours` says so.
async fn answer<F: Future<Output = ()>>(
    shared: &Shared,
    dir: &Path,
    ours: fn(&Path) -> bool,
    serve: impl FnOnce(UnixListener) -> F,
) {
    let mut told = String::new();
    let listener = loop {
        let why = match listen(dir, ours) {
            Ok(Some(listener)) => break listener,
            Ok(None) => "somebody else answers there".to_owned(),
            Err(error) => error.to_string(),
        };
        if why != told {
            tracing::warn!(dir = %dir.display(), error = why, "no socket for device plugins");
            told = why;
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    };
    let served = std::pin::pin!(serve(listener));
    tokio::select! {
        () = shared.shutdown.cancelled() => {}
        () = served => {}
    }
    // Who comes now finds nobody, rather than a socket without an answer.
    let _ = fs::remove_file(dir.join(SOCKET));
}

/// `None`: somebody else listens.
fn listen(dir: &Path, ours: fn(&Path) -> bool) -> io::Result<Option<UnixListener>> {
    let mut make = fs::DirBuilder::new();
    make.recursive(true).mode(0o700).create(dir)?;
    if is_taken(dir) {
        return Ok(None);
    }
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_socket()) && ours(&entry.path()) {
            fs::remove_file(entry.path())?;
        }
    }
    let socket = dir.join(SOCKET);
    let listener = UnixListener::bind(&socket)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    Ok(Some(listener))
}

/// Takes away what we put into these folders, unless somebody uses them; then the folders, if nothing else is there.
pub(crate) fn cleanup(dirs: [&Path; 2]) -> Vec<io::Error> {
    let mut errors = Vec::new();
    for dir in dirs.into_iter().filter(|d| d.is_dir() && !is_taken(d)) {
        let file = dir.join(CHECKPOINT);
        let text = fs::read_to_string(&file).unwrap_or_default();
        // A kubelet's has another sum.
        let ours = plan::decode(&text, Timestamp::now()).is_ok();
        let own = [(SOCKET, true), (NEXT, true), (CHECKPOINT, ours)];
        for (name, _) in own.into_iter().filter(|(_, ours)| *ours) {
            match fs::remove_file(dir.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => errors.push(e),
                _ => {}
            }
        }
        // Not those in which others have something.
        let kubelet = dir.parent().filter(|p| p.ends_with("kubelet"));
        if fs::remove_dir(dir).is_ok()
            && let Some(kubelet) = kubelet
        {
            let _ = fs::remove_dir(kubelet);
        }
    }
    errors
}

/// Pods that have devices, as it is written down.
pub(crate) fn noted(dir: &Path) -> Vec<String> {
    read(&dir.join(CHECKPOINT)).assigned.into_keys().collect()
}

/// Strikes a pod from what is written down.
pub(crate) fn forget(dir: &Path, uid: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        !is_taken(dir),
        "the agent runs, and lets go of devices itself"
    );
    let file = dir.join(CHECKPOINT);
    let mut state = read(&file);
    if state.release(uid) {
        write(&file, &plan::encode(&state))?;
    }
    Ok(())
}

/// Where plugins come in.
struct Door(Arc<Shared>);

#[async_trait::async_trait]
impl Registrar for Door {
    async fn register(&self, request: Request) -> Result<(), String> {
        let resource = request.resource_name.clone();
        let joined = self.take(request).await;
        match &joined {
            Ok(()) => tracing::info!(resource, "device plugin registered"),
            Err(error) => tracing::warn!(resource, error, "device plugin not registered"),
        }
        joined
    }
}

impl Door {
    async fn take(&self, request: Request) -> Result<(), String> {
        let Request {
            version,
            endpoint,
            resource_name: name,
            ..
        } = request;
        plan::check(&version, &endpoint, &name)?;
        let socket = self.0.config.device_plugins_dir.join(endpoint);
        let plugin = Plugin::connect(&socket).await.map_err(|e| e.to_string())?;
        let options = plugin.options().await.map_err(|e| e.to_string())?;
        let options = plan::Options {
            pre_start: options.pre_start,
            preferences: options.preferences,
        };
        let ends = self.0.shutdown.child_token();
        let joined = Joined {
            plugin: plugin.clone(),
            ends: ends.clone(),
        };
        {
            let mut inner = self.0.devices.lock();
            inner.state.registered(&name, options);
            // The newest is taken: the old one may not have seen its end yet.
            if let Some(old) = inner.plugins.insert(name.clone(), joined) {
                old.ends.cancel();
            }
        }
        self.0.devices.used.cancel();
        tokio::spawn(follow(self.0.clone(), name, plugin, ends));
        Ok(())
    }
}

/// Takes what a plugin tells of its devices until it ends, or another has its place.
async fn follow(shared: Arc<Shared>, name: String, plugin: Plugin, ends: CancellationToken) {
    let told = async {
        let mut list = plugin.list().await?;
        while let Some(all) = list.next().await? {
            let device = |d: Offered| {
                let nodes = d.nodes.into_iter().collect();
                let healthy = d.healthy;
                (d.id, plan::Device { healthy, nodes })
            };
            let all: BTreeMap<_, _> = all.into_iter().map(device).collect();
            change(&shared, &name, &ends, |inner| {
                inner.state.listed(&name, all)
            });
        }
        Ok::<(), Error>(())
    };
    let ended = tokio::select! {
        () = ends.cancelled() => return,
        ended = told => ended,
    };
    let why = ended.err().map(|e| e.to_string()).unwrap_or_default();
    tracing::info!(resource = name, error = why, "device plugin gone");
    change(&shared, &name, &ends, |inner| {
        inner.plugins.remove(&name);
        inner.state.left(&name, Timestamp::now());
    });
}

/// Changes what is known of a resource, unless another plugin has taken it over, and tells those that it concerns.
fn change(shared: &Shared, name: &str, ends: &CancellationToken, with: impl FnOnce(&mut Inner)) {
    let devices = &shared.devices;
    let users = {
        let mut inner = devices.lock();
        if ends.is_cancelled() {
            return;
        }
        let before = inner.state.resources.get(name).cloned();
        with(&mut inner);
        if inner.state.resources.get(name) == before.as_ref() {
            return;
        }
        devices.try_save(&inner.state);
        inner.state.users(name)
    };
    devices.changed.notify_one();
    for uid in users {
        shared.tell(&uid, Message::Devices);
    }
}

/// Gives a pod's containers what they ask for and do not have yet. Can be repeated.
///
/// # Errors
/// They do not get it; upstream's words.
pub(crate) async fn assign(shared: &Shared, pod: &Pod) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let managed = shared.devices.managed(spec);
    if managed.is_empty() {
        return Ok(());
    }
    let needs = containers::all(spec).flat_map(|c| {
        plan::asked(c).map(move |(resource, count)| Need {
            uid,
            container: &c.name,
            resource,
            count,
        })
    });
    let needs: Vec<Need<'_>> = needs.filter(|n| managed.contains(n.resource)).collect();
    if needs.iter().all(|n| shared.devices.has(n)) {
        return Ok(());
    }
    loop {
        let mut released = std::pin::pin!(shared.devices.released.notified());
        released.as_mut().enable();
        let assigned = assign_all(shared, spec, &needs).await;
        match assigned {
            Err(_) if shared.devices.come_free(shared, &needs) => released.await,
            assigned => return assigned,
        }
    }
}

async fn assign_all(shared: &Shared, spec: &PodSpec, needs: &[Need<'_>]) -> Result<(), String> {
    let _one = shared.devices.turn.lock().await;
    for need in needs {
        assign_one(shared, spec, need).await?;
    }
    Ok(())
}

async fn assign_one(shared: &Shared, spec: &PodSpec, need: &Need<'_>) -> Result<(), String> {
    let devices = &shared.devices;
    let mut preferred: Option<Vec<String>> = None;
    let ids = loop {
        let choice = devices
            .lock()
            .state
            .choose(spec, need, preferred.as_deref())?;
        match choice {
            Choice::Held => return Ok(()),
            Choice::Take(ids) => break ids,
            Choice::Ask(q) => {
                let plugin = devices.plugin(need.resource)?;
                let said = plugin.preferred(q.available, q.must, q.size).await;
                preferred = Some(said.map_err(|e| {
                    format!("device plugin GetPreferredAllocation rpc failed with err: {e}")
                })?);
            }
        }
    };
    let plugin = devices.plugin(need.resource)?;
    let answer = plugin.allocate(ids.iter().cloned().collect()).await;
    let answer = answer.map_err(|e| e.to_string())?;
    let wants = Answer::read(&answer).map_err(|e| e.to_string())?;
    if !wants.cdi.is_empty() {
        return Err(format!(
            "the device plugin of {} naming CDI devices {:?}, which this node can't inject: have it give device nodes, mounts and environment instead",
            need.resource, wants.cdi
        ));
    }
    let mut inner = devices.lock();
    // It may have ended meanwhile, and have let go of what it had.
    let active = shared
        .entries()
        .get(need.uid)
        .is_some_and(|e| e.is_active());
    if !active {
        return Err("the pod's end".into());
    }
    inner.state.assign(need, &ids, answer);
    devices
        .save(&inner.state)
        .map_err(|e| format!("failed to write checkpoint file {CHECKPOINT:?}: {e}"))
}

/// What plugins want done for a container that is to be made; they have made its devices ready.
pub(crate) async fn given(shared: &Shared, pod: &Pod, c: &Container) -> Result<Answer, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let devices = &shared.devices;
    let mut all = Answer::default();
    if plan::asked(c).next().is_none() {
        return Ok(all);
    }
    // What was written down may have been lost.
    assign(shared, pod).await?;
    let has = devices.lock().state.of(uid, &c.name).cloned();
    for (resource, has) in has.unwrap_or_default() {
        let is_told = match devices.lock().state.resources.get(&resource) {
            Some(known) => known.options.pre_start,
            None => false,
        };
        if is_told {
            let plugin = devices.plugin(&resource)?;
            let ready = plugin.pre_start(has.devices.into_keys().collect()).await;
            ready
                .map_err(|e| format!("device plugin PreStartContainer rpc failed with err: {e}"))?;
        }
        all.add(Answer::read(&has.answer).map_err(|e| e.to_string())?);
    }
    Ok(all)
}

/// Who has what, for those that ask.
struct List(Arc<Shared>);

impl Lister for List {
    fn pods(&self) -> Vec<keelson_devices::proto::resources::PodResources> {
        let inner = self.0.devices.lock();
        let entries = self.0.entries();
        let active = entries.values().filter(|e| e.is_active());
        let pod = |pod: &Pod| {
            let m = &pod.metadata;
            let text = |o: &Option<String>| o.clone().unwrap_or_default();
            let uid = text(&m.uid);
            let mut listing = Listing::default();
            let spec = pod.spec.iter();
            for c in spec.flat_map(containers::all) {
                let has = inner.state.of(&uid, &c.name).into_iter().flatten();
                listing.container(
                    &c.name,
                    has.map(|(resource, has)| {
                        let ids = has.devices.iter();
                        let ids = ids.map(|(id, n)| (id.as_str(), n.iter().copied().collect()));
                        (resource.as_str(), ids.collect())
                    }),
                );
            }
            listing.pod(&text(&m.namespace), &text(&m.name))
        };
        active.map(|e| pod(&e.pod)).collect()
    }

    fn allocatable(&self) -> Vec<keelson_devices::proto::resources::ContainerDevices> {
        let inner = self.0.devices.lock();
        let all = inner.state.resources.iter();
        all.flat_map(|(name, r)| {
            let works = r.devices.iter().filter(|(_, d)| d.healthy);
            let works = works.map(|(id, d)| (id.as_str(), d.nodes.iter().copied().collect()));
            Listing::devices(name, works)
        })
        .collect()
    }
}
