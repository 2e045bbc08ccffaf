//! Making a container: everything it refers to is fetched and settled, then the runtime is asked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume, VolumeMount};
use keelson_agent_plan::security::{self, Seccomp};
use keelson_agent_plan::{
    Attempt, AttemptState, env, ephemeral, event, hugepages, memory, mount, names, resize,
    resources, static_pod,
};
use keelson_devices::Answer;
use keelson_runtime::{
    Container as Running, ContainerSpec, Created, Device, HugepageLimit, Image, Kind, Mount,
    Namespace, Namespaces, PodRef, Propagation, Resources, Security,
};

use crate::apply::qos;
use crate::observe::{IMAGE_LABEL, SPEC_IMAGE_LABEL};
use crate::outcome::StartError;
use crate::resize::{RESOURCES_LABEL, to_label as resize_label};
use crate::shared::{Shared, chain};
use crate::worker::Worker;
use crate::{devices, files, holder, sources, volumes};

/// What is needed to make one container, taken from its worker.
pub(crate) struct Job {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    uid: String,
    name: String,
    attempt: u32,
    ips: Vec<IpAddr>,
    /// The running container whose processes an ephemeral one joins.
    peer: Option<String>,
}

fn config(message: impl ToString) -> StartError {
    StartError::Create {
        reason: "CreateContainerConfigError",
        message: message.to_string(),
    }
}

fn create(message: impl ToString) -> StartError {
    StartError::Create {
        reason: "CreateContainerError",
        message: message.to_string(),
    }
}

impl Job {
    pub(crate) fn new(worker: &Worker, name: &str, attempt: u32) -> Self {
        let observed = &worker.observed;
        let running = |a: &&Attempt| matches!(a.state, AttemptState::Running { .. });
        let spec = worker.pod.spec.as_ref();
        let target = spec.and_then(|s| ephemeral::target(s, name));
        let wanted = |n: &str| target.is_some_and(|t| t == n);
        let peers = observed.containers.iter().filter(|(n, _)| wanted(n));
        let admitted = spec.map(|s| resize::allocated_spec(s, observed));
        Self {
            shared: worker.shared.clone(),
            pod: match admitted {
                Some(Cow::Owned(spec)) => Arc::new(Pod {
                    spec: Some(spec),
                    ..Pod::clone(&worker.pod)
                }),
                _ => worker.pod.clone(),
            },
            uid: worker.uid.clone(),
            name: name.to_owned(),
            attempt,
            ips: observed
                .sandbox
                .ready()
                .map(|s| s.ips.clone())
                .unwrap_or_default(),
            peer: peers
                .flat_map(|(_, runs)| runs)
                .find(running)
                .map(|a| a.id.clone()),
        }
    }

    fn container(&self) -> Result<(Cow<'_, Container>, Kind), StartError> {
        let spec = self
            .pod
            .spec
            .as_ref()
            .ok_or_else(|| create("pod has no spec"))?;
        let find = |list: &'_ [Container]| list.iter().position(|c| c.name == self.name);
        if let Some(i) = find(&spec.containers) {
            return Ok((Cow::Borrowed(&spec.containers[i]), Kind::App));
        }
        let init = spec.init_containers.as_deref().unwrap_or_default();
        if let Some(i) = find(init) {
            return Ok((Cow::Borrowed(&init[i]), Kind::Init));
        }
        ephemeral::find(spec, &self.name)
            .map(|c| (Cow::Owned(c), Kind::Ephemeral))
            .ok_or_else(|| create("container is not in the pod's spec"))
    }

    /// Makes the container.
    pub(crate) async fn create(&self) -> Result<Created, StartError> {
        let (c, kind) = self.container()?;
        let image = self.image(&c).await?;
        let spec = self.spec(&c, kind, &image).await?;
        let made = self.shared.runtime.container_create(&spec, &image).await;
        let created = made.map_err(|e| create(chain(&e)))?;
        self.shared
            .events
            .pod(&self.pod, event::created(&self.name));
        Ok(created)
    }

    /// Starts a container that was made.
    pub(crate) async fn start(&self, created: Created) -> Result<Running, StartError> {
        let started = self.shared.runtime.container_start(created).await;
        started.map_err(|e| StartError::Start(chain(&e)))
    }

    async fn image(&self, c: &Container) -> Result<Image, StartError> {
        let name = c.image.as_deref().unwrap_or_default();
        let image = self
            .shared
            .runtime
            .image(name)
            .await
            .map_err(|e| create(chain(&e)))?;
        image.ok_or(StartError::ImageGone)
    }

    async fn spec(
        &self,
        c: &Container,
        kind: Kind,
        image: &Image,
    ) -> Result<ContainerSpec, StartError> {
        let m = &self.pod.metadata;
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let (namespace, name) = (text(&m.namespace), text(&m.name));
        let spec = self
            .pod
            .spec
            .as_ref()
            .ok_or_else(|| create("pod has no spec"))?;
        let wanted = security::effective(&self.pod, c);
        let user = image.config.user.split(':').next().unwrap_or_default();
        security::check_non_root(&wanted, user, &names::pod_ref(&self.pod), &c.name)
            .map_err(config)?;
        let env = self.env(c).await?;
        let made = self
            .shared
            .runtime
            .sandbox_create(&self.uid, &files::sandbox_options(&self.shared, &self.pod))
            .await;
        let made = made.map_err(|e| create(chain(&e)))?;
        let devices = devices::given(&self.shared, &self.pod, c).await;
        let devices = devices.map_err(config)?;
        let (nodes, seen) = (given_devices(&devices), given_mounts(&devices));
        let memory = self.shared.memory().capacity;
        let handler = sources::handler(&self.shared, &self.pod).await;
        let handler = handler.map_err(create)?;
        Ok(ContainerSpec {
            pod: PodRef {
                uid: self.uid.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
            },
            name: c.name.clone(),
            attempt: self.attempt,
            kind,
            image: c.image.clone().unwrap_or_default(),
            command: env::command(c.command.as_deref(), &env),
            args: env::command(c.args.as_deref(), &env),
            working_dir: c.working_dir.clone().filter(|d| !d.is_empty()),
            mounts: [seen, self.mounts(c, &env).await?].concat(),
            // What the pod says itself wins.
            env: devices.envs.into_iter().chain(env).collect(),
            annotations: devices.annotations,
            resources: self.shared.pinning.resources(
                &self.uid,
                c,
                resources_of(&self.shared, spec, c),
            ),
            security: Security {
                devices: [self.devices(c)?, nodes].concat(),
                ..security_of(&wanted, &self.shared)?
            },
            tty: c.tty == Some(true),
            stdin: c.stdin == Some(true),
            stdin_once: c.stdin_once == Some(true),
            hostname: names::sandbox_hostname(&self.pod, &self.shared.config.cluster_domain),
            namespaces: self.namespaces(made.namespaces).await?,
            cgroup_parent: self
                .shared
                .runtime
                .pod_cgroup(&self.uid, qos(resources::qos(spec))),
            oom_score_adj: resources::oom_score_adj(spec, c, memory),
            labels: BTreeMap::from([
                (IMAGE_LABEL.to_owned(), image.reference().to_owned()),
                (
                    SPEC_IMAGE_LABEL.to_owned(),
                    c.image.clone().unwrap_or_default(),
                ),
                (RESOURCES_LABEL.to_owned(), resize_label(c)),
            ]),
            handler,
            shim_group: Some(self.shared.runtime.shim_group(&self.uid)),
            log_path: names::log_path(
                &self.shared.config.log_dir,
                &self.pod,
                &c.name,
                self.attempt,
            ),
            ..ContainerSpec::default()
        })
    }

    async fn env(&self, c: &Container) -> Result<Vec<(String, String)>, StartError> {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let mut known = self.shared.services_known.subscribe();
        // A static pod does not wait for the API. Fails only when the agent shuts down.
        let waits = !static_pod::is_static(&self.pod);
        known
            .wait_for(|known| *known || !waits)
            .await
            .map_err(create)?;
        let links = self.pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
        let services: Vec<_> = self.shared.services().values().cloned().collect();
        let services =
            env::services::service_env(services.iter().map(AsRef::as_ref), &namespace, links);
        let mut found = sources::references(&self.shared, &namespace, &env::references(c))
            .await
            .map_err(config)?;
        found.services = services;
        env::environment(&self.pod, c, &found, &self.facts()).map_err(config)
    }

    fn facts(&self) -> env::Facts {
        env::Facts {
            host_ips: self.shared.config.ips(),
            pod_ips: self.ips.clone(),
            allocatable: self.shared.allocatable(),
        }
    }

    async fn mounts(
        &self,
        c: &Container,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, StartError> {
        let mut mounts = Vec::new();
        for (i, m) in c.volume_mounts.iter().flatten().enumerate() {
            mounts.push(self.volume_mount(c, i, m, env).await?);
        }
        let own = files::write(&self.shared, &self.pod, &self.uid, &self.ips).map_err(create)?;
        // A volume that the pod mounts at one of these places wins.
        let free = own
            .into_iter()
            .filter(|o| !mounts.iter().any(|m| m.container_path == o.container_path));
        let own: Vec<Mount> = free.collect();
        mounts.extend(own);
        let path = c
            .termination_message_path
            .as_deref()
            .filter(|p| !p.is_empty())
            .unwrap_or("/dev/termination-log");
        let host_path = files::termination_log(&self.shared, &self.uid, &c.name, self.attempt);
        make_empty(&host_path).map_err(create)?;
        mounts.push(Mount {
            host_path,
            container_path: PathBuf::from(path),
            ..Mount::default()
        });
        Ok(mounts)
    }

    async fn volume_mount(
        &self,
        c: &Container,
        index: usize,
        m: &VolumeMount,
        env: &[(String, String)],
    ) -> Result<Mount, StartError> {
        let all = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.volumes.as_deref())
            .unwrap_or_default();
        let volume = all.iter().find(|v| v.name == m.name);
        let volume = volume
            .ok_or_else(|| config(format!("volume {:?} is not in the pod's spec", m.name)))?;
        let place =
            volumes::place(&self.shared, &self.uid, volume).map_err(|e| config(chain(&e)))?;
        let mut host_path = place.path;
        if let Some(sub) = env::sub_path(m, env).map_err(config)? {
            let (shared, uid, name, volume) = (
                self.shared.clone(),
                self.uid.clone(),
                c.name.clone(),
                m.name.clone(),
            );
            let bind = move || {
                shared
                    .volumes
                    .sub_path(&uid, &volume, &name, index, &host_path, &sub)
            };
            let bound = tokio::task::spawn_blocking(bind).await.map_err(create)?;
            host_path = bound.map_err(|e| config(chain(&e)))?;
        }
        Ok(Mount {
            host_path,
            container_path: PathBuf::from(&m.mount_path),
            read_only: m.read_only == Some(true) || is_copy(volume) || place.read_only,
            recursive_read_only: mount::recursive(m, self.shared.recursive_read_only)
                .map_err(config)?,
            propagation: match m.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        })
    }

    /// Volumes that are given as devices.
    fn devices(&self, c: &Container) -> Result<Vec<Device>, StartError> {
        let spec = self.pod.spec.as_ref();
        let all = spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let mut devices = Vec::new();
        for d in c.volume_devices.iter().flatten() {
            let volume = all.iter().find(|v| v.name == d.name);
            let volume = volume
                .ok_or_else(|| config(format!("volume {:?} is not in the pod's spec", d.name)))?;
            let place =
                volumes::place(&self.shared, &self.uid, volume).map_err(|e| config(chain(&e)))?;
            devices.push(Device {
                host_path: place.path,
                container_path: PathBuf::from(&d.device_path),
                access: if place.read_only { "r" } else { "rwm" }.into(),
            });
        }
        Ok(devices)
    }

    /// With `shareProcessNamespace` all join the holder's processes; an ephemeral container those of its target.
    async fn namespaces(&self, mut namespaces: Namespaces) -> Result<Namespaces, StartError> {
        let runtime = &self.shared.runtime;
        let share = holder::is_wanted(&self.pod);
        let first = match &self.peer {
            _ if share => runtime.holder(&self.uid).await,
            Some(peer) if namespaces.pid == Namespace::Private => runtime.container(peer).await,
            _ => return Ok(namespaces),
        };
        match first.map_err(|e| create(chain(&e)))?.map(|c| c.state) {
            Some(keelson_runtime::State::Running { pid, .. }) => {
                namespaces.pid = Namespace::Path(format!("/proc/{pid}/ns/pid").into());
            }
            _ if share => return Err(create("the holder of the pod's processes has ended")),
            _ => {}
        }
        Ok(namespaces)
    }
}

/// What plugins want to be seen in the container.
fn given_mounts(answer: &Answer) -> Vec<Mount> {
    let mount = |m: &keelson_devices::Mount| Mount {
        host_path: PathBuf::from(&m.host_path),
        container_path: PathBuf::from(&m.container_path),
        read_only: m.read_only,
        ..Mount::default()
    };
    answer.mounts.iter().map(mount).collect()
}

/// Devices that plugins give it.
fn given_devices(answer: &Answer) -> Vec<Device> {
    let device = |d: &keelson_devices::Device| Device {
        host_path: PathBuf::from(&d.host_path),
        container_path: PathBuf::from(&d.container_path),
        access: d.permissions.clone(),
    };
    answer.devices.iter().map(device).collect()
}

fn make_empty(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::File::create(path)?;
    // Containers may run as any user.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// Limits by page size as the runtime takes them.
pub(crate) fn pages(limits: BTreeMap<u64, i64>) -> Vec<HugepageLimit> {
    let limit = |(size, limit)| HugepageLimit {
        page_size: hugepages::unit(size),
        limit,
    };
    limits.into_iter().map(limit).collect()
}

/// What a container of a pod may have.
pub(crate) fn resources_of(shared: &Shared, spec: &PodSpec, c: &Container) -> Resources {
    let figures = resources::container(c);
    Resources {
        cpu_shares: figures.cpu_shares,
        cpu_quota: figures.cpu_quota,
        cpu_period: figures.cpu_period,
        memory_limit: figures.memory_limit,
        pids_limit: figures.pids_limit,
        hugepages: pages(hugepages::of_container(c, &shared.page_sizes)),
        unified: memory::container(&shared.config.memory, &shared.memory(), spec, c),
        ..Resources::default()
    }
}

fn security_of(wanted: &security::Security, shared: &Shared) -> Result<Security, StartError> {
    let id = |what: &str, n: i64| {
        u32::try_from(n).map_err(|_| config(format!("{what} {n} is out of range")))
    };
    Ok(Security {
        run_as_user: wanted.run_as_user.map(|n| id("runAsUser", n)).transpose()?,
        run_as_group: wanted
            .run_as_group
            .map(|n| id("runAsGroup", n))
            .transpose()?,
        supplemental_groups: wanted
            .groups
            .iter()
            .map(|n| id("group", *n))
            .collect::<Result<_, _>>()?,
        strict_groups: wanted.strict_groups,
        privileged: wanted.privileged,
        cap_add: wanted.add.clone(),
        cap_drop: wanted.drop.clone(),
        read_only_rootfs: wanted.read_only_rootfs,
        no_new_privileges: wanted.no_new_privileges,
        unmasked: wanted.unmasked,
        seccomp: match &wanted.seccomp {
            Seccomp::RuntimeDefault => keelson_runtime::Seccomp::RuntimeDefault,
            Seccomp::Unset | Seccomp::Unconfined => keelson_runtime::Seccomp::Unconfined,
            Seccomp::Localhost(name) => {
                if name.split('/').any(|e| !names::is_path_element(e)) {
                    return Err(config(format!(
                        "seccomp profile {name:?} leaves its directory"
                    )));
                }
                keelson_runtime::Seccomp::Localhost(
                    shared.config.root_dir.join("seccomp").join(name),
                )
            }
        },
        ..Security::default()
    })
}

/// Volumes that hold a copy of what the API says: a write would be lost at the next refresh, so there are none
/// (kubernetes/kubernetes#58720).
fn is_copy(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}
