//! The small files of a pod (hosts, resolv.conf, host name, termination messages) and its sandbox's options.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_agent_plan::{dns, hosts, names};
use keelson_runtime::{Mount, SandboxOptions};

use crate::shared::Shared;

/// The most of a termination message that is shown, bytes.
const MESSAGE_MAX: u64 = 4096;
/// The most of a log that stands in for it: bytes and lines.
const TAIL_MAX: (u64, usize) = (2048, 80);

/// A pod's sandbox as its spec asks for it.
pub(crate) fn sandbox_options(shared: &Shared, pod: &Pod) -> SandboxOptions {
    let spec = pod.spec.as_ref();
    let sysctls = spec
        .and_then(|s| s.security_context.as_ref())
        .and_then(|s| s.sysctls.as_ref());
    SandboxOptions {
        hostname: names::sandbox_hostname(pod, &shared.config.cluster_domain),
        host_network: spec.and_then(|s| s.host_network) == Some(true),
        host_ipc: spec.and_then(|s| s.host_ipc) == Some(true),
        host_pid: spec.and_then(|s| s.host_pid) == Some(true),
        sysctls: sysctls
            .into_iter()
            .flatten()
            .map(|s| (s.name.clone(), s.value.clone()))
            .collect(),
    }
}

/// When a pod's namespaces were pinned: their directory is made then and not changed after.
pub(crate) fn sandbox_created(shared: &Shared, uid: &str) -> Timestamp {
    let dir = shared.config.run_dir.join("ns").join(uid);
    let time = fs::metadata(dir).and_then(|m| m.modified()).ok();
    time.and_then(|t| Timestamp::try_from(t).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The log directories there are, by the UID of their pods. More than one is of one pod only by somebody's hand.
pub(crate) fn logged(log_dir: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(log_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(uid) = name.to_str().and_then(names::log_dir_uid) {
            found.entry(uid.to_owned()).or_default().push(entry.path());
        }
    }
    found
}

/// A pod's directory of ours: `<root>/pods/<uid>`, which the teardown of its volumes removes.
pub(crate) fn pod_dir(shared: &Shared, uid: &str) -> PathBuf {
    shared.config.root_dir.join("pods").join(uid)
}

/// Where a run's termination message is written.
pub(crate) fn termination_log(
    shared: &Shared,
    uid: &str,
    container: &str,
    attempt: u32,
) -> PathBuf {
    pod_dir(shared, uid)
        .join("containers")
        .join(container)
        .join(format!("{attempt}.message"))
}

/// Writes the files every container of the pod sees and returns their mounts.
pub(crate) fn write(
    shared: &Shared,
    pod: &Pod,
    uid: &str,
    ips: &[IpAddr],
) -> io::Result<Vec<Mount>> {
    let dir = pod_dir(shared, uid);
    fs::create_dir_all(&dir)?;
    let host =
        |name: &str| fs::read_to_string(shared.config.etc_dir.join(name)).unwrap_or_default();
    let cluster = dns::Cluster {
        servers: shared.config.cluster_dns.clone(),
        domain: shared.config.cluster_domain.clone(),
    };
    let texts = [
        (
            "hosts",
            hosts::hosts(pod, ips, &shared.config.cluster_domain, &host("hosts")),
        ),
        (
            "resolv.conf",
            dns::resolv_conf(pod, &cluster, &host("resolv.conf")),
        ),
        ("hostname", host_name(shared, pod, &host("hostname"))),
    ];
    let mut mounts = Vec::new();
    for (name, text) in texts {
        let path = dir.join(format!("etc-{name}"));
        // In place, as running containers have it mounted; but never when nothing changed.
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            fs::write(&path, text)?;
        }
        mounts.push(Mount {
            host_path: path,
            container_path: Path::new("/etc").join(name),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

fn host_name(shared: &Shared, pod: &Pod, host: &str) -> String {
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    if host_network && !host.is_empty() {
        return host.to_owned();
    }
    format!(
        "{}\n",
        names::sandbox_hostname(pod, &shared.config.cluster_domain)
    )
}

/// A termination message; `None` when there is none or it is empty.
pub(crate) fn message(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(MESSAGE_MAX)
        .read_to_end(&mut text)
        .ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// The last lines of a CRI log, without their time and stream.
pub(crate) fn log_tail(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    // Every line carries a prefix of about 40 bytes: read more than is shown.
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_MAX.0 * 4)))
        .ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // A partial line is one that goes on, or the last one of an output that ended without a newline.
    let line = |l: &str| {
        let mut parts = l.splitn(4, ' ').skip(2);
        let (tag, text) = (parts.next()?, parts.next()?);
        let end = if tag.starts_with('P') { "" } else { "\n" };
        Some(format!("{text}{end}"))
    };
    let lines: Vec<String> = text.lines().filter_map(line).collect();
    let mut tail = lines[lines.len().saturating_sub(TAIL_MAX.1)..].concat();
    if tail.is_empty() {
        return None;
    }
    let max = usize::try_from(TAIL_MAX.0).unwrap_or(usize::MAX);
    let cut = (tail.len().saturating_sub(max)..tail.len()).find(|i| tail.is_char_boundary(*i));
    Some(tail.split_off(cut.unwrap_or(0)))
}
