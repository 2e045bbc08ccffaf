//! The OCI runtime spec of a container: a pure function of what is wanted, the image and a few facts.

mod caps;
mod mounts;
mod seccomp;
pub mod user;

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCpuBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimitBuilder, LinuxMemoryBuilder,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, LinuxSeccomp, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use crate::cgroup::{cgroups_path, container_cgroup};
use crate::error::Error;
use crate::image::ImageConfig;
use crate::model::{ContainerSpec, Namespace, Seccomp};

/// What [`build`] needs to know besides its plain inputs; found out by whoever applies it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Who the process runs as.
    pub user: user::User,
    /// Capabilities this machine has to give, as a mask.
    pub capabilities: u64,
    /// Lowest OOM score adjustment this machine lets us set.
    pub oom_floor: i32,
    /// Device nodes to make: those asked for, or all of the host's for a privileged container.
    pub devices: Vec<DeviceNode>,
    /// Content of the profile for [`Seccomp::Localhost`].
    pub seccomp_profile: Option<String>,
    /// Whether the cgroup hierarchy is the unified one (v2).
    pub unified: bool,
    /// Whether the kernel counts huge pages by cgroup.
    pub counts_hugepages: bool,
}

/// A device node of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: PathBuf,
    /// Block device, else a character device.
    pub block: bool,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// cgroup access, letters of `rwm`.
    pub access: String,
}

const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Containers with the same value share one shim (containerd's runc v2 runtime).
const SHIM_GROUP: &str = "io.containerd.runc.v2.group";

/// Builds the OCI spec. `id` names the container's own cgroup below the pod's.
pub fn build(
    id: &str,
    spec: &ContainerSpec,
    image: &ImageConfig,
    facts: &Facts,
) -> Result<Spec, Error> {
    let mut annotations = spec.annotations.clone();
    if let Some(group) = &spec.shim_group {
        annotations.insert(SHIM_GROUP.into(), group.clone());
    }
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(spec.security.read_only_rootfs)
        .build()
        .map_err(unbuilt)?;
    let mut built = SpecBuilder::default()
        .version("1.0.2")
        .root(root)
        .process(process(spec, image, facts)?)
        .mounts(mounts::all(spec)?)
        .linux(linux(id, spec, facts)?)
        .annotations(
            annotations
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        )
        .build()
        .map_err(unbuilt)?;
    // The builder's default would overwrite the host name of a joined UTS namespace.
    let own_name = spec.namespaces.uts == Namespace::Private && !spec.hostname.is_empty();
    built.set_hostname(own_name.then(|| spec.hostname.clone()));
    Ok(built)
}

/// cgroup of a container below its pod's.
pub(crate) fn cgroup_path(id: &str, spec: &ContainerSpec) -> String {
    container_cgroup(&spec.cgroup_parent, id)
}

pub(crate) fn unbuilt(error: OciSpecError) -> Error {
    Error::invalid("oci spec", "container", error.to_string())
}

fn process(spec: &ContainerSpec, image: &ImageConfig, facts: &Facts) -> Result<Process, Error> {
    let user = UserBuilder::default()
        .uid(facts.user.uid)
        .gid(facts.user.gid)
        .additional_gids(facts.user.groups.clone())
        .build()
        .map_err(unbuilt)?;
    let capabilities = caps::granted(&spec.security, facts.capabilities)?;
    let mut process = ProcessBuilder::default()
        .terminal(spec.tty)
        .user(user)
        .args(args(spec, image)?)
        .env(env(spec, image))
        .cwd(working_dir(spec, image))
        .capabilities(caps::linux(&capabilities)?)
        .no_new_privileges(spec.security.no_new_privileges && !spec.security.privileged)
        .oom_score_adj(spec.oom_score_adj.max(facts.oom_floor).min(1000))
        .build()
        .map_err(unbuilt)?;
    // The builder's default is 1024 open files; containers inherit containerd's limit.
    process.set_rlimits(None);
    Ok(process)
}

/// ENTRYPOINT and CMD as the Kubernetes documentation's table combines them.
fn args(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let (entrypoint, cmd) = match (spec.command.is_empty(), spec.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &spec.args),
        (false, _) => (&spec.command, &spec.args),
    };
    let args: Vec<String> = entrypoint.iter().chain(cmd).cloned().collect();
    if args.is_empty() {
        return Err(Error::invalid(
            "container",
            &spec.name,
            "no command specified",
        ));
    }
    Ok(args)
}

/// The image's environment, overridden in place by the container's.
fn env(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = key(&entry);
        match env.iter_mut().find(|old| key(old) == name) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
    };
    set(PATH.to_owned());
    image.env.iter().cloned().for_each(&mut set);
    if !spec.hostname.is_empty() {
        set(format!("HOSTNAME={}", spec.hostname));
    }
    if spec.tty {
        set("TERM=xterm".to_owned());
    }
    for (name, value) in &spec.env {
        set(format!("{name}={value}"));
    }
    env
}

fn working_dir(spec: &ContainerSpec, image: &ImageConfig) -> PathBuf {
    let own = spec.working_dir.as_deref().filter(|dir| !dir.is_empty());
    // A relative one counts from the root.
    PathBuf::from("/").join(own.unwrap_or(&image.working_dir))
}

fn linux(id: &str, spec: &ContainerSpec, facts: &Facts) -> Result<Linux, Error> {
    let security = &spec.security;
    let open = security.privileged || security.unmasked;
    let list = |paths: &[&str]| match open {
        true => Vec::new(),
        false => paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    let devices: Result<Vec<_>, _> = facts.devices.iter().map(device).collect();
    let mut linux = LinuxBuilder::default()
        .cgroups_path(cgroups_path(&spec.cgroup_parent, id))
        .namespaces(namespaces(spec, facts)?)
        .resources(resources(spec, facts)?)
        .devices(devices?)
        .masked_paths(list(&MASKED))
        .readonly_paths(list(&READ_ONLY))
        .sysctl(
            spec.sysctls
                .clone()
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        )
        .build()
        .map_err(unbuilt)?;
    linux.set_seccomp(seccomp(spec, facts)?);
    linux.set_rootfs_propagation(mounts::root_propagation(spec).map(str::to_owned));
    Ok(linux)
}

fn seccomp(spec: &ContainerSpec, facts: &Facts) -> Result<Option<LinuxSeccomp>, Error> {
    match (&spec.security.seccomp, spec.security.privileged) {
        (_, true) | (Seccomp::Unconfined, _) => Ok(None),
        (Seccomp::RuntimeDefault, false) => {
            let capabilities = caps::granted(&spec.security, facts.capabilities)?;
            seccomp::default_profile(&capabilities).map(Some)
        }
        (Seccomp::Localhost(path), false) => {
            let path = path.display().to_string();
            let text = facts.seccomp_profile.as_deref();
            let text = text.ok_or_else(|| Error::not_found("seccomp profile", &path))?;
            serde_json::from_str(text)
                .map(Some)
                .map_err(|error| Error::invalid("seccomp profile", path, error.to_string()))
        }
    }
}

fn namespaces(spec: &ContainerSpec, facts: &Facts) -> Result<Vec<LinuxNamespace>, Error> {
    let wanted = &spec.namespaces;
    let cgroup = match facts.unified && !spec.security.privileged {
        true => Namespace::Private,
        false => Namespace::Host,
    };
    let table = [
        (LinuxNamespaceType::Mount, &Namespace::Private),
        (LinuxNamespaceType::Network, &wanted.net),
        (LinuxNamespaceType::Ipc, &wanted.ipc),
        (LinuxNamespaceType::Uts, &wanted.uts),
        (LinuxNamespaceType::Pid, &wanted.pid),
        (LinuxNamespaceType::Cgroup, &cgroup),
    ];
    let mut namespaces = Vec::new();
    for (kind, namespace) in table {
        let namespace_of = LinuxNamespaceBuilder::default().typ(kind);
        match namespace {
            Namespace::Host => {}
            Namespace::Private => namespaces.push(namespace_of.build().map_err(unbuilt)?),
            Namespace::Path(path) => {
                namespaces.push(namespace_of.path(path).build().map_err(unbuilt)?);
            }
        }
    }
    Ok(namespaces)
}

fn resources(spec: &ContainerSpec, facts: &Facts) -> Result<LinuxResources, Error> {
    let wanted = &spec.resources;
    let mut resources = LinuxResourcesBuilder::default().devices(device_rules(spec, facts)?);
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(shares) = wanted.cpu_shares {
        cpu = cpu.shares(shares);
    }
    if let Some(quota) = wanted.cpu_quota {
        cpu = cpu.quota(quota);
    }
    if let Some(period) = wanted.cpu_period {
        cpu = cpu.period(period);
    }
    if let Some(cpus) = &wanted.cpuset_cpus {
        cpu = cpu.cpus(cpus.clone());
    }
    if let Some(mems) = &wanted.cpuset_mems {
        cpu = cpu.mems(mems.clone());
    }
    resources = resources.cpu(cpu.build().map_err(unbuilt)?);
    if let Some(limit) = wanted.memory_limit {
        let memory = LinuxMemoryBuilder::default().limit(limit);
        resources = resources.memory(memory.build().map_err(unbuilt)?);
    }
    if let Some(limit) = wanted.pids_limit {
        let pids = LinuxPidsBuilder::default().limit(limit);
        resources = resources.pids(pids.build().map_err(unbuilt)?);
    }
    if facts.unified && !wanted.unified.is_empty() {
        let files = wanted.unified.clone().into_iter();
        resources = resources.unified(files.collect::<HashMap<_, _>>());
    }
    if !wanted.hugepages.is_empty() && facts.counts_hugepages {
        let limits: Result<Vec<_>, _> = wanted
            .hugepages
            .iter()
            .map(|huge| {
                LinuxHugepageLimitBuilder::default()
                    .page_size(huge.page_size.clone())
                    .limit(huge.limit)
                    .build()
                    .map_err(unbuilt)
            })
            .collect();
        resources = resources.hugepage_limits(limits?);
    }
    resources.build().map_err(unbuilt)
}

/// Everything is denied, then allowed one by one; runc itself adds `/dev/null` and its kind.
fn device_rules(spec: &ContainerSpec, facts: &Facts) -> Result<Vec<LinuxDeviceCgroup>, Error> {
    let all = LinuxDeviceCgroupBuilder::default()
        .allow(spec.security.privileged)
        .access("rwm");
    let mut rules = vec![all.build().map_err(unbuilt)?];
    if !spec.security.privileged {
        for node in &facts.devices {
            let rule = LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(device_type(node))
                .major(node.major)
                .minor(node.minor)
                .access(node.access.clone());
            rules.push(rule.build().map_err(unbuilt)?);
        }
    }
    Ok(rules)
}

fn device(node: &DeviceNode) -> Result<LinuxDevice, Error> {
    LinuxDeviceBuilder::default()
        .path(&node.path)
        .typ(device_type(node))
        .major(node.major)
        .minor(node.minor)
        .file_mode(node.mode)
        .uid(node.uid)
        .gid(node.gid)
        .build()
        .map_err(unbuilt)
}

fn device_type(node: &DeviceNode) -> LinuxDeviceType {
    match node.block {
        true => LinuxDeviceType::B,
        false => LinuxDeviceType::C,
    }
}

#[cfg(test)]
mod tests;
